"""Options and answer of every command that changes something through the log."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import live
from schemas.records import Command

ByOption = Annotated[str, typer.Option("--by", help="Who is behind it, for the audit trail; you unless given.")]
NoteOption = Annotated[str, typer.Option("--note", help="Why, for the audit trail.")]
WhyOption = Annotated[str, typer.Option("--note", help="Why; it is kept in the journal and must be given.")]
KeyOption = Annotated[
    str, typer.Option("--key", help="Idempotency key; the same key again is answered with the first outcome.")
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


def give_command(command: Command, as_json: bool, done: str) -> None:
    """Gives the command, waits, and shows its outcome. Raises RejectedError and PartUnavailableError."""
    from clearline.control import give

    first, *others = give(live(), command)
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


def give_document(document: Mapping[str, Any], by: str, note: str, key: str, as_json: bool, done: str) -> None:
    """Gives the command that a document describes (docs: `publish`). Raises ContractError too."""
    from clearline.contract import read_command

    values = {**document, "idempotency_key": key_of(key), "requested_by": asked_by(by), "note": note}
    give_command(read_command(values, date.min), as_json, done)
