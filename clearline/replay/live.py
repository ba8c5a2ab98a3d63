"""The live system as a replay meets it: where each partition stands, and whether it is the same afterwards.

The mark of a partition is its chain head and a digest of all its rows of `ledger.state`, both at the offset that the
state itself names. Afterwards the same places are read again. Where traffic has moved on, the topic is compacted: a row
that a newer one has replaced may be gone, and then the newer one must be of a later command; every row that is still
there must be what it was, and so must the journal's record at that place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from clearline.audit.journal import Decode
from clearline.audit.views import JOURNAL, STATE, Log
from clearline.replay import snapshot
from schemas.codec import CHAIN_BYTES, Codec
from schemas.errors import InvariantError
from schemas.records import PartitionState, ProductState, Record
from streams.reader import LogRecord


@dataclass(slots=True)
class Mark:
    """Where one partition stood. `state_end`: of ledger.state; `rows`: the digest of each row; `places`: the source
    offset of the command that wrote it; `versions`: of each product on its shelf."""

    partition: int
    head: PartitionState
    state_end: int
    rows: dict[str, bytes] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    versions: dict[str, list[int]] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """The digest of all rows, in hex."""
        return snapshot.state_digest(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        h = self.head
        return {"offset": h.next_offset, "sequence": h.sequence, "chain": h.chain.hex(), "state": self.state}


def marks(log: Log, codec: Codec, decode: Decode, partitions: Iterable[int]) -> dict[int, Mark]:
    """Where these partitions stand now, each at the offset that its own state names."""
    out = {}
    for p in partitions:
        start, end = log.span(STATE, p)
        out[p] = _read(log, codec, decode, p, start, end)
    return out


def _read(log: Log, codec: Codec, decode: Decode, partition: int, start: int, end: int) -> Mark:
    empty = PartitionState(0, 0, bytes(CHAIN_BYTES), 0, 0, 0, 0, 0, 0, 0)
    mark = Mark(partition, empty, end)
    versions: dict[str, set[int]] = {}
    for raw in log.read(STATE, partition, start, end):
        key = (raw.key or b"").decode()
        if raw.value is None:
            mark.rows.pop(key, None)
            mark.places.pop(key, None)
            continue
        row, place = _row(decode, raw)
        if place < mark.places.get(key, -1):
            continue  # of several records of one key the highest offset counts
        if isinstance(row, PartitionState):
            mark.head = row
        elif isinstance(row, ProductState):
            versions.setdefault(row.product, set()).add(row.version)
        mark.rows[key] = sha256(codec.encode(row)).digest()  # as the schema of today writes it
        mark.places[key] = place
    mark.versions = {product: sorted(found) for product, found in versions.items()}
    return mark


def _row(decode: Decode, raw: LogRecord) -> tuple[Record, int]:
    row = decode(raw.value)
    if isinstance(row, PartitionState):
        return row, row.next_offset
    place: int = row.source_offset
    return row, place


def hash_of(found: Iterable[Mark]) -> str:
    """One number for the state of these partitions, in hex."""
    whole = sha256()
    for m in sorted(found, key=lambda m: m.partition):
        h = m.head
        whole.update(f"{m.partition} {h.next_offset} {h.sequence} {h.chain.hex()} {m.state}\n".encode())
    return whole.hexdigest()


def again(log: Log, codec: Codec, decode: Decode, before: Mark, journal_offset: int, chain: bytes) -> Mark:
    """The same partition at the same place, read once more. `journal_offset`: where the journal has the last record of
    that place (negative: none was looked at), with this chain.

    What compaction has taken away since counts as it was, if what took its place is of a later command. Raises
    InvariantError when the journal has something else there.
    """
    p = before.partition
    start, end = log.span(STATE, p)
    there = _read(log, codec, decode, p, start, min(end, before.state_end))
    later = _later(log, decode, p, before.state_end, end)
    for key, place in before.places.items():
        if key not in there.rows and later.get(key, -1) > place:
            there.rows[key], there.places[key] = before.rows[key], place
            if key == snapshot.META:
                there.head = before.head
    if journal_offset >= 0:
        found = next(log.read(JOURNAL, p, journal_offset, journal_offset + 1), None)
        if found is None or (found.value or b"")[-CHAIN_BYTES:] != chain:
            raise InvariantError(f"partition {p}: the journal has another record at offset {journal_offset} now", p)
    return there


def _later(log: Log, decode: Decode, partition: int, start: int, end: int) -> dict[str, int]:
    """Keys that were written since, with the place of what was written; for a row that is gone the place is the end."""
    out: dict[str, int] = {}
    for raw in log.read(STATE, partition, start, end):
        key = (raw.key or b"").decode()
        out[key] = 1 << 62 if raw.value is None else _row(decode, raw)[1]
    return out
