"""`clearline receipt`: what a partner can check without us: that his record stands in the journal under a seal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import example, live_settings
from schemas.errors import BadInputError, ClearlineError, PartUnavailableError

if TYPE_CHECKING:
    from clearline.config import Settings
    from clearline.receipts import Place, Wanted
    from schemas.codec import Codec


def register(app: typer.Typer) -> None:
    app.command("receipt", **example("clearline receipt acme o-1001 --out receipt.json"))(receipt)


def receipt(
    partner: Annotated[str, typer.Argument(help="Who asked for the transaction, such as acme/shop-17.")] = "",
    key: Annotated[str, typer.Argument(help="Its idempotency key.")] = "",
    command: Annotated[
        str, typer.Option("--id", metavar="HEX", help="Command id instead of PARTNER and KEY; looked for everywhere.")
    ] = "",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the receipt there, not to stdout.")] = None,
    as_json: screen.JsonFlag = False,
) -> None:
    """Print the proof that a transaction stands in the journal, as JSON. Check it with docs/check_receipt.py.

    Exit code 1 when its record is not sealed yet (seals are made each minute), or when seal and journal differ.
    """
    from clearline.receipts import Wanted, to_text

    wanted = Wanted.of(partner, key, command)
    document = make(live_settings(), wanted)
    text = to_text(document)
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as e:
        raise BadInputError(f"{out} cannot be written: {e.strerror}") from None
    seal, p = document["seal"], document["partition"]
    summary = {"file": str(out), "partition": p, "sequence": document["sequence"], "root": seal["root"]}
    place = f"partition {p}, sequence {document['sequence']}, root {seal['root']}"
    screen.answer(summary, as_json, [f"{out}: {place}", f"check it with `python docs/check_receipt.py {out}`"])


def make(settings: Settings, wanted: Wanted) -> dict[str, Any]:
    """The receipt of a command's final record, from a system that runs.

    Raises BadInputError when there is no such record, DifferenceFoundError when it is not sealed yet or its seal does
    not fit, PartUnavailableError when Kafka or the registry does not answer. ClickHouse is not needed.
    """
    from clearline.audit.live import LearningCodec, LiveLog
    from clearline.connection import connect, registry_of
    from clearline.receipts import Receipts, final, find
    from streams.reader import offsets_at

    system = connect(settings)
    log = LiveLog(system.kafka, system.topics, system.partitions)
    decode = LearningCodec(system.codec, registry_of(settings)).decode
    names = {"journal": system.topics.journal, "seals": system.topics.seals}
    places = find(log, decode, wanted, *_stored(settings, wanted))
    place = final(places)
    if place is None:
        raise BadInputError(_not_found(wanted, places))
    receipts = Receipts(
        settings.world, log, decode,
        lambda topic, p, ms: offsets_at(system.kafka, names[topic], {p: ms})[p],
        lambda value: _schema_of(settings, system.codec, value),
    )  # fmt: skip
    return receipts.receipt(place)


def _stored(settings: Settings, wanted: Wanted) -> tuple[list[Place], dict[int, int]]:
    """What ClickHouse has of the command, and from which offset of each partition it has nothing."""
    from clearline.connection import clickhouse_config, kafka_config
    from clearline.receipts import Place
    from sinks.clickhouse import Database
    from streams.topics import Topics, topic_ids

    journal = Topics(settings.world).journal
    topic = f"{journal}@{topic_ids(kafka_config(settings), [journal])[journal]}"
    by = "partner_id = %(partner)s AND idempotency_key = %(key)s AND " if wanted.partner_id else ""
    asked = {"topic": topic, "partner": wanted.partner_id, "key": wanted.idempotency_key, "id": wanted.command_id.hex()}
    database: Database | None = None
    try:
        database = Database(clickhouse_config(settings))
        # The ends first: what is stored after that is read once more from the journal, which does no harm.
        ends = database.rows(
            f"SELECT partition, max(offset) + 1 FROM {database.name}.outcomes WHERE topic = %(topic)s GROUP BY 1",
            asked,
        )
        rows = database.rows(
            "SELECT partition, offset, sequence, outcome, reason, command "
            f"FROM {database.name}.outcomes WHERE topic = %(topic)s AND {by}command_id = unhex(%(id)s)",
            asked,
        )
    except (PartUnavailableError, BadInputError) as e:
        screen.say(f"ClickHouse cannot be asked ({e}): reading the journal")
        return [], {}
    finally:
        if database is not None:
            database.close()
    return [Place(*row) for row in rows], dict(ends)


def _not_found(wanted: Wanted, places: list[Place]) -> str:
    if places:
        return f"{wanted} is not decided yet: it is in flight between partitions"
    return f"the journal has no outcome of {wanted}: was it published, and are partner and key spelled so?"


def _schema_of(settings: Settings, codec: Codec, value: bytes) -> Any:
    """The schema with which a journal value was written: ours, or what the registry has under its id."""
    import json

    from clearline.connection import registry_of
    from schemas.codec import HEADER_BYTES, schema_of

    if value[:HEADER_BYTES] == codec.journal_header:
        return schema_of("JournalRecord")
    text = registry_of(settings).schema_text(int.from_bytes(value[1:HEADER_BYTES], "big"))
    if text is None:
        raise ClearlineError("the registry does not know the schema of the record any more")
    return json.loads(text)
