"""`clearline close`: the end of a business day, sealed; which days were, and whether the rows still say the same."""

from __future__ import annotations

from datetime import date
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import example, live, live_settings, turnover
from clearline.commands.give import ByOption, DryRunOption, KeyOption, NoteOption, asked_by, give_command
from schemas.errors import BadInputError

if TYPE_CHECKING:
    from clearline.finance.close import Closed
    from sinks.clickhouse import Database


def register(app: typer.Typer) -> None:
    app.command(
        "close",
        **example('clearline close 2026-11-22 --note "end of day"', "clearline close --verify 2026-11-22"),
    )(close)


def close(
    day: Annotated[
        str, typer.Argument(metavar="DATE", help="The business day, YYYY-MM-DD; all before it are closed with it.")
    ] = "",
    by: ByOption = "",
    note: NoteOption = "",
    key: KeyOption = "",
    show: Annotated[bool, typer.Option("--list", help="Show the days that are closed.")] = False,
    verify: Annotated[
        str, typer.Option(metavar="DATE", help="Recompute the seal of this day from the postings; exit code 1 if not.")
    ] = "",
    dry_run: DryRunOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Close a business day in every partition, and seal what the whole ledger has up to it.

    What comes later for a closed day is booked on the open day, and says so. Closing again changes nothing and prints
    the same; a close that was cut short is finished. There is no reopen: what is wrong is corrected by an adjustment,
    which is booked on the open day with its note (`clearline publish`, operation adjustment).
    """
    if bool(day) + show + bool(verify) != 1:
        raise BadInputError("give a day to close, --list, or --verify DATE")
    if show:
        _list(as_json)
    elif verify:
        _verify(_day(verify, "--verify"), as_json)
    else:
        _close(day, by, note, key, as_json, dry_run=dry_run)


def _close(day: str, by: str, note: str, key: str, as_json: bool, *, dry_run: bool) -> None:
    from clearline import control
    from clearline.contract import read_command
    from clearline.finance.close import Close

    # The same command again goes on where it was broken off: partitions that have it answer with their first outcome.
    who = blake2b(f"{asked_by(by)}\0{note}".encode(), digest_size=6).hexdigest()
    document = {
        "command": "CloseDay", "day": day, "idempotency_key": key or f"close-{day}-{who}",
        "requested_by": asked_by(by), "note": note,
    }  # fmt: skip
    command: Any = read_command(document, date.min)
    if dry_run:
        give_command(command, as_json, "", dry_run=True)
        return
    system, db = live(), _database()
    with screen.bar(f"closing {day}", None, quiet=as_json) as bar:
        done = Close(db, lambda c: control.ask(system, c), system.partitions, progress=bar.phase).run(command)
    screen.answer(done.to_dict(), as_json, _readable(done))


def _readable(done: Closed) -> list[Any]:
    f = done.figures
    sums: dict[str, list[int]] = {}
    for t in f.totals:
        mine = sums.setdefault(t.currency, [0, 0])
        mine[0] += t.debits
        mine[1] += t.postings
    rows = [(c, turnover({c: total}).rpartition(" ")[0], n) for c, (total, n) in sorted(sums.items())]
    first, figures = done.first, ("debits and credits", "postings")
    who = f" by {first.by}" if first.by else ""
    at = min(c.booked_at for c in done.closings.values()).strftime("%Y-%m-%d %H:%M:%S")
    return [
        f"{f.day} is closed and sealed: {f.hash}",
        f"closed at {at} UTC{who}{f': {first.note}' if first.note else ''}; cut {f.cut.text}",
        screen.table("", ("currency", *figures), rows, right=figures),
    ]


def _list(as_json: bool) -> None:
    from sinks.finance import closes

    db = _database()
    sealed, rest = closes.listed(db), closes.open_closes(db)
    document = {
        "sealed": [{**x._asdict(), "closed_at": x.closed_at.isoformat(timespec="milliseconds")} for x in sealed],
        "closed_not_sealed": [str(d) for d in rest],
    }
    rows = [(x.day, x.closed_at.strftime("%Y-%m-%d %H:%M:%S"), x.by, x.postings, turnover(x.totals), x.hash)
            for x in sealed]  # fmt: skip
    columns = ("day", "closed at (UTC)", "by", "postings", "debits and credits", "seal")
    table = screen.table("Closed days", columns, rows, right=("postings",))
    unfinished = [f"{d} is closed and not sealed: `clearline close {d}` finishes it" for d in rest]
    screen.answer(document, as_json, [table if rows else "no day is sealed yet", *unfinished])


def _verify(day: date, as_json: bool) -> None:
    from clearline.finance.close import verify
    from sinks.finance import closes

    db = _database()
    found = verify(db, day)
    seal = closes.seals(db, day)[0]
    document = {"day": str(day), "hash": seal.hash, "equal": not found, "differences": found}
    verdict = f"{day}: the postings give what was sealed, {seal.hash}"
    screen.answer(document, as_json, [f"{day} DIFFERS from its seal {seal.hash}:", *found] if found else [verdict])
    if found:
        raise typer.Exit(1)


def _day(text: str, option: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadInputError(f"{option} must be a day as YYYY-MM-DD, not {text}") from None


def _database() -> Database:
    from clearline.connection import clickhouse_config
    from sinks.clickhouse import Database

    return Database(clickhouse_config(live_settings()), reader=True)
