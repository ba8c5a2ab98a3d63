"""The dead letters: what could not be taken, why, and the original bytes, for `clearline dlq`."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from clearline.connection import Connection
from clearline.deadletters.judge import Judge, schema_id_of
from processors.settlement import REDRIVE_HEADER
from schemas.codec import UndecodableError
from schemas.errors import BadInputError
from schemas.records import DeadLetter
from streams.letters import letter_of
from streams.places import KafkaLog, records_at
from streams.reader import LogRecord, end_offsets, read_decided, read_to_end

REASONS = ("contract", "empty", "not_framed", "too_large", "undecodable", "unknown_schema")
_PREVIEW_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter and where it stands in `transactions.dead`: its id is `partition:offset`. `first`: what its headers
    say of the letter that came first, when it is one that died again."""

    partition: int
    offset: int
    letter: DeadLetter
    first: str = ""

    @property
    def id(self) -> str:
        return f"{self.partition}:{self.offset}"

    @property
    def digest(self) -> bytes:
        """SHA-256 of its bytes: what tells it from a letter of the same id in a topic that was made anew."""
        return sha256(self.letter.value or b"").digest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values without the bytes."""
        x = self.letter
        return {
            "id": self.id,
            "reason": x.reason,
            "detail": x.detail,
            "source_topic": x.source_topic,
            "source_partition": x.source_partition,
            "source_offset": x.source_offset,
            "received_at": x.received_at,
            "attempts": x.attempts,
            "key": (x.key or b"").decode("utf-8", "backslashreplace"),
            "bytes": len(x.value or b""),
        }


def found_of(r: LogRecord) -> Found:
    """The dead letter in a record of transactions.dead."""
    first = dict(r.headers or []).get(REDRIVE_HEADER) or b""
    return Found(r.partition, r.offset, letter_of(r), first.decode("utf-8", "replace"))


def all_letters(system: Connection, start: Mapping[int, int] | None = None) -> Iterator[Found]:
    """Every letter that is kept, each partition's in order, from `start` on. Raises PartUnavailableError."""
    dead = system.topics.dead
    return map(found_of, read_decided(system.kafka, dead, end_offsets(system.kafka, dead), start))


def letters_at(log: KafkaLog, dead_topic: str, ids: list[tuple[int, int]]) -> dict[tuple[int, int], Found]:
    """The letters at these places, those that are kept. Raises PartUnavailableError."""
    wanted: dict[int, list[int]] = {}
    for partition, offset in ids:
        wanted.setdefault(partition, []).append(offset)
    return {place: found_of(r) for place, r in records_at(log, dead_topic, wanted).items()}


def list_letters(system: Connection, reason: str = "", newest_max: int = 50) -> tuple[Counter[str], list[Found]]:
    """How many letters there are of each reason, and the newest `newest_max` of them (of `reason`, if one is given)."""
    counts: Counter[str] = Counter()
    newest: deque[Found] = deque(maxlen=newest_max)
    for found in all_letters(system):
        counts[found.letter.reason] += 1
        if reason in ("", found.letter.reason):
            newest.append(found)
    return counts, sorted(newest, key=lambda f: (f.letter.received_at, f.partition, f.offset), reverse=True)


def place_of(letter_id: str) -> tuple[int, int]:
    """Partition and offset of a letter. Raises BadInputError when this is no id."""
    partition, _, offset = letter_id.partition(":")
    if not (partition.isdecimal() and offset.isdecimal() and len(partition) <= 6 and len(offset) <= 18):
        raise BadInputError(f"{letter_id} is no dead letter's id, which is PARTITION:OFFSET as in `clearline dlq ls`")
    return int(partition), int(offset)


def find_letter(system: Connection, letter_id: str) -> Found:
    """The letter with this id. Raises BadInputError when it is no id, or no letter has it."""
    p, o = place_of(letter_id)
    if o < end_offsets(system.kafka, system.topics.dead).get(p, 0):
        for r in read_to_end(system.kafka, system.topics.dead, {p: o}):
            if r.offset == o:
                return found_of(r)
            break
    raise BadInputError(f"there is no dead letter {letter_id} in {system.topics.dead}: see `clearline dlq ls`")


def explain(judge: Judge, found: Found) -> dict[str, Any]:
    """The letter with what can be said of its bytes: a preview, and the record when it decodes now."""
    value = found.letter.value or b""
    out = {**found.to_dict(), "hex": value[:_PREVIEW_BYTES].hex(), "hex_complete": len(value) <= _PREVIEW_BYTES}
    if schema_id_of(value) >= 0:
        out["schema_id"] = schema_id_of(value)
    try:
        out["text"] = value[:_PREVIEW_BYTES].decode() if value else ""
    except UnicodeDecodeError:
        out["text"] = None
    try:
        record = judge.read(value)
        out["record_type"] = type(record).__name__
        out["record"] = {f: _plain(getattr(record, f)) for f in record.__struct_fields__}
    except UndecodableError as e:
        out["record"] = None
        out["decode_error"] = str(e)
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [{f: _plain(getattr(v, f)) for f in v.__struct_fields__} for v in value]
    return value


def hex_lines(raw: bytes, lines_max: int = 16) -> list[str]:
    """A hex dump for people: offset, 16 bytes, their printable characters."""
    out = []
    for i in range(0, min(len(raw), 16 * lines_max), 16):
        part = raw[i : i + 16]
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in part)
        out.append(f"{i:06x}  {part.hex(' '):<47}  {shown}")
    if len(raw) > 16 * lines_max:
        out.append(f"...     {len(raw) - 16 * lines_max} more bytes")
    return out
