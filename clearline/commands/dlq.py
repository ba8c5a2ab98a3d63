"""`clearline dlq`: what could not be taken, and why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import RenderableType

from clearline import screen
from clearline.commands.common import example, live
from schemas.errors import BadInputError


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="dlq", help="Dead letters: records that could not be taken.", epilog="Example: clearline dlq ls"
    )
    group.command("ls", **example("clearline dlq ls --reason unknown_schema"))(ls)
    group.command("show", **example("clearline dlq show 2:17"))(show)


def ls(
    reason: Annotated[str, typer.Option(help="Only this reason, such as undecodable or too_large.")] = "",
    newest: Annotated[int, typer.Option(min=1, max=100_000, help="Only so many, newest first.")] = 50,
    as_json: screen.JsonFlag = False,
) -> None:
    """How many dead letters there are of each reason, and the newest."""
    from clearline import deadletters

    if reason and reason not in deadletters.REASONS:
        raise BadInputError(f"{reason} is not a reason of dead letters; reasons are {', '.join(deadletters.REASONS)}")
    counts, found = deadletters.list_letters(live(), reason, newest)
    document = {
        "total": counts.total(),
        "reasons": dict(sorted(counts.items())),
        "letters": [f.to_dict() for f in found],
    }
    rows = [
        (f.id, moment(f.letter.received_at), f.letter.reason, f"{f.letter.source_partition}:{f.letter.source_offset}",
         len(f.letter.value or b""), f.letter.detail[:80])
        for f in found
    ]  # fmt: skip
    columns = ("id", "received", "reason", "submitted at", "bytes", "detail")
    summary = ", ".join(f"{k} {v:,}" for k, v in sorted(counts.items()))
    readable: list[RenderableType] = [
        f"{counts.total():,} dead letters: {summary}",
        screen.table("", columns, rows, right=["bytes"]),
    ]
    screen.answer(document, as_json, readable if counts else ["no dead letters"])


def show(
    letter: Annotated[str, typer.Argument(metavar="ID", help="PARTITION:OFFSET, as `dlq ls` shows it.")],
    as_json: screen.JsonFlag = False,
) -> None:
    """One dead letter: where it came from, why it is here, and its bytes."""
    from clearline import deadletters

    system = live()
    found = deadletters.find_letter(system, letter)
    document = deadletters.explain(system, found)
    x = found.letter
    lines = [
        f"id:        {found.id}",
        f"reason:    {x.reason}",
        f"detail:    {x.detail}",
        f"from:      {x.source_topic} partition {x.source_partition} offset {x.source_offset}",
        f"received:  {moment(x.received_at)}",
        f"attempts:  {x.attempts}",
        f"key:       {document['key']}",
        f"bytes:     {document['bytes']:,}",
        *([f"schema id: {document['schema_id']}"] if "schema_id" in document else []),
        *deadletters.hex_lines(x.value or b""),
    ]
    if document["record"]:
        lines.append(f"decodes as {document['record_type']}: {document['record']}")
    screen.answer(document, as_json, lines)


def moment(milliseconds: int) -> str:
    """A time of the log for people, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
