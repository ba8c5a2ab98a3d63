"""Options and answer of every command that changes something through the log."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import live, live_settings
from schemas.records import Command

ByOption = Annotated[str, typer.Option("--by", help="Who is behind it, for the audit trail; you unless given.")]
NoteOption = Annotated[str, typer.Option("--note", help="Why, for the audit trail.")]
WhyOption = Annotated[str, typer.Option("--note", help="Why; it is kept in the journal and must be given.")]
KeyOption = Annotated[
    str, typer.Option("--key", help="Idempotency key; the same key again is answered with the first outcome.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would become of it now, by the ledger's own rules; change nothing.")
]


def key_of(key: str) -> str:
    """The key that was given, or a new one."""
    from clearline.control import new_key

    return key or new_key()


def asked_by(by: str) -> str:
    """Who is behind a command: as given, or the user of this machine."""
    if by:
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return ""


def give_command(command: Command, as_json: bool, done: str, *, dry_run: bool = False) -> None:
    """Gives the command, waits, and shows its outcome; `dry_run`: foresees it. Raises RejectedError and
    PartUnavailableError."""
    from clearline.control import give

    if dry_run:
        _foresee(command, as_json)
        return
    first, *others = give(live(type(command).__name__, "JournalRecord"), command)
    repeated = first.outcome == "repeated"
    document = {
        "command": type(command).__name__,
        "idempotency_key": command.idempotency_key,
        "outcome": first.outcome,
        "places": [{"partition": o.partition, "offset": o.offset, "sequence": o.sequence} for o in (first, *others)],
        "first_offset": first.first_offset if repeated else None,
    }
    where = f"partition {first.partition}, offset {first.offset}" if not others else f"{1 + len(others)} partitions"
    text = f"repeated: this key was used for it before, at offset {first.first_offset}" if repeated else done
    screen.answer(document, as_json, [f"{text} ({where})"])


def _foresee(command: Command, as_json: bool) -> None:
    """What would become of it if it came next, and of what it would be rejected for. Raises RejectedError as `give`."""
    from clearline.connection import connect
    from clearline.control import RejectedError
    from clearline.foresight import Foresight

    settings = live_settings()
    foresight = Foresight(connect(settings), settings.settlement.keys_window_ms)
    outcome = foresight.outcome(command)
    if outcome.outcome == "rejected":
        raise RejectedError(f"{type(command).__name__} {command.idempotency_key}, which was not given,", outcome)
    document = {
        "dry_run": True,
        "command": type(command).__name__,
        "idempotency_key": command.idempotency_key,
        "outcome": outcome.outcome,
    }
    screen.answer(document, as_json, [f"{type(command).__name__} would be {outcome.outcome}; nothing was changed"])


def give_document(
    document: Mapping[str, Any], by: str, note: str, key: str, as_json: bool, done: str, *, dry_run: bool = False
) -> None:
    """Gives the command that a document describes (docs: `publish`). Raises ContractError too."""
    from clearline.contract import read_command

    values = {**document, "idempotency_key": key_of(key), "requested_by": asked_by(by), "note": note}
    give_command(read_command(values, date.min), as_json, done, dry_run=dry_run)
