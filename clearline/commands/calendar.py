"""`clearline calendar`: business days. Their end is `clearline close`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import example, live
from clearline.commands.give import ByOption, DryRunOption, KeyOption, NoteOption, give_document

Subject = Annotated[str, typer.Argument(help="A partner's path, or bank for everybody without a calendar.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="calendar", help="Show and set business-day calendars.",
        epilog="Example: clearline calendar show bank",
    )  # fmt: skip
    group.command("show", **example("clearline calendar show bank"))(show)
    group.command(
        "set", **example("clearline calendar set bank --zone Asia/Shanghai --closed saturday --closed sunday")
    )(set_)  # fmt: skip


def set_(
    subject: Subject,
    zone: Annotated[str, typer.Option(help="IANA time zone, such as Asia/Shanghai.")],
    closed: Annotated[
        list[str] | None, typer.Option("--closed", help="A weekday without business; may be repeated.")
    ] = None,
    day: Annotated[
        list[str] | None, typer.Option("--day", help="A further closed day, YYYY-MM-DD; may be repeated.")
    ] = None,
    by: ByOption = "",
    note: NoteOption = "",
    key: KeyOption = "",
    dry_run: DryRunOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Set a calendar in place of the one the subject had. That of the bank goes to every partition."""
    document = {
        "command": "SetCalendar", "subject_id": subject, "zone": zone, "closed_weekdays": closed or [],
        "closed_days": day or [],
    }  # fmt: skip
    give_document(document, by, note, key, as_json, f"the calendar of {subject} is {zone}", dry_run=dry_run)


def show(subject: Subject, as_json: screen.JsonFlag = False) -> None:
    """The calendar of one subject, as the ledger has it."""
    from clearline import directory
    from clearline.contract_control import WEEKDAYS
    from ledger.days import iso_date
    from schemas.records import CalendarState

    found = directory.read_directory(live(), subject)
    row = next((r for rows in found.rows.values() if isinstance(r := rows.get(f"c:{subject}"), CalendarState)), None)
    document: dict[str, Any] = {"subject_id": subject, "zone": None, "closed_weekdays": [], "closed_days": []}
    if row is not None:
        document["zone"] = row.zone
        document["closed_weekdays"] = [n for i, n in enumerate(WEEKDAYS) if row.closed_weekdays >> i & 1]
        document["closed_days"] = [iso_date(d.day) for d in row.closed_days]
    lines = [f"{k.replace('_', ' ')}: {', '.join(v) if isinstance(v, list) else v}" for k, v in document.items()]
    screen.answer(document, as_json, lines if row is not None else [f"{subject} has no calendar of its own"])
