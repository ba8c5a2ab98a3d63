"""`clearline limit`: how much a partner, an account or a product may move in a window, and how much of it is used."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
import typer

from clearline import screen
from clearline.commands.common import example, live
from clearline.commands.give import ByOption, DryRunOption, KeyOption, NoteOption, give_document
from schemas.errors import BadInputError

Level = Annotated[str, typer.Argument(help="partner, account or product.")]
Subject = Annotated[str, typer.Argument(help="The partner's path, the account's id or the product's name.")]
_SPEC = re.compile(r"(?P<window>[a-z]+)(:(?P<currency>[A-Za-z]{3}))?:(?P<what>count|amount)=(?P<most>\d{1,19})")


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="limit", help="Show and set limits by transaction, minute, hour, day and month.",
        epilog="Example: clearline limit show partner acme",
    )  # fmt: skip
    group.command("show", **example("clearline limit show partner acme"))(show)
    group.command(
        "set", **example("clearline limit set partner acme day:CNY:amount=20000000 minute:count=600")
    )(set_)  # fmt: skip


def read_spec(text: str) -> dict[str, Any]:
    """A limit as it is typed, WINDOW[:CURRENCY]:count=N or WINDOW:CURRENCY:amount=N. Raises BadInputError."""
    found = _SPEC.fullmatch(text)
    if found is None:
        raise BadInputError(
            f"{text!r} is not a limit; write WINDOW[:CURRENCY]:count=N or WINDOW:CURRENCY:amount=N in minor units, "
            "such as day:CNY:amount=20000000 or minute:count=600"
        )
    out: dict[str, Any] = {"window": found["window"], f"{found['what']}_max": int(found["most"])}
    return out | ({"currency": found["currency"]} if found["currency"] else {})


def merged(specs: list[str]) -> list[dict[str, Any]]:
    """The limits of all that was typed: count and amount of one window and currency are one limit."""
    out: dict[tuple[str, str], dict[str, Any]] = {}
    for spec in map(read_spec, specs):
        place = out.setdefault((spec["window"], spec.get("currency", "")), {})
        twice = [name for name in ("count_max", "amount_max") if name in place and name in spec]
        if twice:
            raise BadInputError(f"{spec['window']} {spec.get('currency', '')} has two limits of its {twice[0][:-4]}")
        place.update(spec)
    return list(out.values())


def set_(
    level: Level,
    subject: Subject,
    limits: Annotated[
        list[str] | None, typer.Argument(help="WINDOW[:CURRENCY]:count=N or ...:amount=N; none lifts all.")
    ] = None,
    by: ByOption = "",
    note: NoteOption = "",
    key: KeyOption = "",
    dry_run: DryRunOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Put limits in place of all that the subject had; without any, its limits are lifted."""
    document = {"command": "SetLimit", "level": level, "subject_id": subject, "limits": merged(limits or [])}
    done = f"{level} {subject} has {len(document['limits'])} limits" if limits else f"{level} {subject} has no limits"
    give_document(document, by, note, key, as_json, done, dry_run=dry_run)


def show(level: Level, subject: Subject, as_json: screen.JsonFlag = False) -> None:
    """The limits of one subject, and what its windows have taken; one that is over shows until the next is counted."""
    from clearline import directory
    from schemas.records import LimitState, UsageState

    if level not in ("partner", "account", "product"):
        raise BadInputError(f"the level is partner, account or product, not {level!r}")
    found = directory.read_directory(live(), "" if level == "product" else subject)
    limits: list[dict[str, Any]] = []
    usage: list[dict[str, Any]] = []
    for partition, rows in sorted(found.rows.items()):
        for row in rows.values():
            if isinstance(row, LimitState) and (row.level, row.subject_id) == (level, subject) and not limits:
                limits = [msgspec.structs.asdict(x) for x in row.limits]
            elif isinstance(row, UsageState) and _is_of(row.level, row.subject_id, level, subject):
                usage += [
                    {
                        "partition": partition,
                        "subject": row.subject_id,
                        **{n: getattr(u, n) for n in u.__struct_fields__},
                    }
                    for u in row.used
                ]
    table = [(x["window"], x["currency"], x["count_max"], x["amount_max"]) for x in limits]
    used = [(u["subject"], u["window"], u["currency"], u["count"], u["amount"]) for u in usage]
    parts: list[Any] = [
        screen.table(
            "", ("window", "currency", "most transactions", "most minor units"), table, right=["most minor units"]
        )
        if table
        else f"{level} {subject} has no limits of its own"
    ]
    if used:
        parts.append(
            screen.table(
                "used", ("subject", "window", "currency", "transactions", "minor units"), used, right=["minor units"]
            )
        )
    screen.answer({"level": level, "subject_id": subject, "limits": limits, "used": usage}, as_json, parts)


def _is_of(level: str, key: str, wanted: str, subject: str) -> bool:
    """Whether a usage row belongs to the subject; a product's are kept by `root product`."""
    return level == wanted and (key == subject or (level == "product" and key.partition(" ")[2] == subject))
