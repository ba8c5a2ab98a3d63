"""`clearline freeze` and `clearline unfreeze`: money stays where it is until the bank says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import example, live
from clearline.commands.give import ByOption, KeyOption, WhyOption, asked_by

if TYPE_CHECKING:
    from clearline.freezing import Frozen

ApprovedOption = Annotated[
    str, typer.Option("--approved-by", help="The second person; must be given to lift a partner's or the world's.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the command and what is frozen now; change nothing.")]

_SUBJECTS = {
    "account": ("ACCOUNT", "The account's id, such as acme:wallet:alice.", "acme:wallet:alice"),
    "partner": ("PARTNER", "The partner's path; all below it are frozen with it.", "acme/shop-17"),
    "product": ("PRODUCT", "The product's name, such as wallet.", "wallet"),
    "world": ("WORLD", "The name of this world, so that no other is meant.", "live"),
}
_STOPS = {
    "account": "nothing is posted to it but the bank's adjustments, and its holds can be voided",
    "partner": "it and all below it, as who asks and as whose accounts are debited or credited",
    "product": "every transaction of it but voids",
    "world": "every transaction of everybody but voids and the bank's adjustments",
}


def register(app: typer.Typer) -> None:
    for name, frozen, help_ in (
        ("freeze", True, "Freeze an account, a partner with all below it, a product or the world; or list what is."),
        ("unfreeze", False, "Lift the freeze of an account, a partner, a product or the world."),
    ):
        group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
        app.add_typer(group, name=name, help=help_, epilog=f"Example: {_line(name, 'partner', frozen)}")
        for level in _SUBJECTS:
            group.command(level, help=_help(level, frozen), **example(_line(name, level, frozen)))(_of(level, frozen))
        if frozen:
            group.command("ls", **example("clearline freeze ls --json"))(ls)


def _line(name: str, level: str, frozen: bool) -> str:
    second = ' --approved-by "li wei"' if not frozen and level in ("partner", "world") else ""
    why = "court order 12" if frozen else "order lifted"
    return f'clearline {name} {level} {_SUBJECTS[level][2]} --note "{why}"{second}'


def _help(level: str, frozen: bool) -> str:
    named = "the world" if level == "world" else f"{'an' if level == 'account' else 'a'} {level}"
    if frozen:
        return (
            f"Freeze {named}: refused is {_STOPS[level]}."
            if level != "account"
            else f"Freeze {named}: {_STOPS[level]}."
        )
    return f"Lift the freeze of {named}." + (" It takes a second person." if level in ("partner", "world") else "")


def _of(level: str, frozen: bool) -> Callable[..., None]:
    """The command of one level."""
    metavar, help_, _ = _SUBJECTS[level]

    def command(
        subject: str,
        note: WhyOption,
        by: ByOption = "",
        approved_by: ApprovedOption = "",
        key: KeyOption = "",
        dry_run: DryRun = False,
        as_json: screen.JsonFlag = False,
    ) -> None:
        if dry_run:
            _show(level, subject, frozen, asked_by(by), note, approved_by, key, as_json)
        else:
            _give(level, subject, frozen, asked_by(by), note, approved_by, key, as_json)

    # What the argument is called is known only here, and annotations are read in the module.
    command.__annotations__["subject"] = Annotated[str, typer.Argument(metavar=metavar, help=help_)]
    return command


def _give(
    level: str, subject: str, frozen: bool, by: str, note: str, approved_by: str, key: str, as_json: bool
) -> None:
    from clearline.freezing import set_freeze

    system = live("SetFreeze", "JournalRecord")
    outcomes = set_freeze(system, level, subject, frozen, by=by, note=note, approved_by=approved_by, key=key)
    document = {
        "level": level,
        "subject_id": subject,
        "frozen": frozen,
        "requested_by": by,
        "note": note,
        "approved_by": approved_by,
        "outcomes": [o.to_dict() for o in outcomes],
    }
    where = f"partition {outcomes[0].partition}, offset {outcomes[0].offset}"
    where = where if len(outcomes) == 1 else f"{len(outcomes)} partitions"
    screen.answer(document, as_json, [f"{level} {subject} is {'frozen' if frozen else 'not frozen'} ({where})"])


def _show(
    level: str, subject: str, frozen: bool, by: str, note: str, approved_by: str, key: str, as_json: bool
) -> None:
    from clearline.freezing import command_of, frozen_now

    system = live()
    c = command_of(system.topics.world, level, subject, frozen, by=by, note=note, approved_by=approved_by, key=key)
    now = next((f for f in frozen_now(system) if (f.level, f.subject_id) == (c.level, c.subject_id)), None)
    fields = ("level", "subject_id", "frozen", "requested_by", "note", "approved_by")
    command = {"command": "SetFreeze", **{name: getattr(c, name) for name in fields}}
    document = {"dry_run": True, "command": command, "frozen_now": now.to_dict() if now else None}
    state = f"frozen {_told(now)}" if now else "not frozen"
    wanted = "frozen" if frozen else "not frozen"
    screen.answer(
        document, as_json, [f"{level} {c.subject_id} is {state}; it would be {wanted}. Nothing was changed."]
    )  # fmt: skip


def _told(f: Frozen) -> str:
    """Since when, by whom and why."""
    if not f.since:
        return "by BlockAccount"
    return f"since {_when(f.since)} by {f.requested_by}: {f.note}"


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ls(as_json: screen.JsonFlag = False) -> None:
    """What is frozen now, since when, by whom and why, as the ledger's own state has it."""
    from clearline.freezing import frozen_now

    found = frozen_now(live())
    rows = [
        (f.level, f.subject_id, _when(f.since) if f.since else "", f.requested_by, f.approved_by, _why(f))
        for f in found
    ]  # fmt: skip
    parts: list[Any] = [
        screen.table("", ("level", "subject", "since", "by", "approved by", "why"), rows)
        if rows
        else "nothing is frozen"
    ]
    screen.answer({"frozen": [f.to_dict() for f in found]}, as_json, parts)


def _why(f: Frozen) -> str:
    if f.missing:
        return f"{f.note} (not yet in partitions {', '.join(map(str, f.missing))}: give it again)"
    return f.note if f.since else "by BlockAccount; the journal has who and why"
