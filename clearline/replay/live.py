"""The live system as a replay meets it: where each partition stands, and whether it is the same afterwards.

The mark of a partition is its chain head and a digest of all its rows of `ledger.state`, both at the offset that the
state itself names. Afterwards the same places are read again. Where traffic has moved on, the topic is compacted: a row
that a newer one has replaced may be gone, and then the newer one must be of a later command; every row that is still
there must be what it was, and so must the journal's record at that place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

from clearline.audit.journal import Decode
from clearline.audit.views import JOURNAL, STATE, Log
from clearline.replay import snapshot
from schemas.codec import CHAIN_BYTES, Codec
from schemas.errors import InvariantError
from schemas.records import PartitionState, ProductState, Record
from streams.reader import LogRecord

_GONE = 1 << 62  # the place of a row that was deleted: later than every command


@dataclass(slots=True)
class Mark:
    """Where one partition stood. `state_end`: of ledger.state; `rows`: the digest of each row; `places`: the source
    offset of the command that wrote it; `versions`: of each product on its shelf."""

    partition: int
    head: PartitionState
    state_end: int
    rows: dict[str, bytes] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    versions: dict[str, set[int]] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """The digest of all rows, in hex."""
        return snapshot.state_digest(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        h = self.head
        return {"offset": h.next_offset, "sequence": h.sequence, "chain": h.chain.hex(), "state": self.state}


class Topics(Log, Protocol):
    """The topics, of which several partitions can be asked and read at once."""

    def spans(self, topic: str) -> dict[int, tuple[int, int]]:
        """First offset that is kept and the offset after the last one, of each partition, now."""
        ...

    def read_many(self, topic: str, ranges: Mapping[int, tuple[int, int]]) -> Iterator[LogRecord]:
        """Committed records from each partition's start to before its end, in order within a partition."""
        ...


def marks(log: Topics, codec: Codec, decode: Decode, partitions: Iterable[int]) -> dict[int, Mark]:
    """Where these partitions stand now, each at the offset that its own state names."""
    spans = log.spans(STATE)
    return _read(log, codec, decode, {p: spans[p] for p in partitions})


def _read(log: Topics, codec: Codec, decode: Decode, ranges: Mapping[int, tuple[int, int]]) -> dict[int, Mark]:
    empty = PartitionState(0, 0, bytes(CHAIN_BYTES), 0, 0, 0, 0, 0, 0, 0)
    found = {p: Mark(p, empty, end) for p, (_, end) in ranges.items()}
    for raw in log.read_many(STATE, ranges):
        mark = found[raw.partition]
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
            mark.versions.setdefault(row.product, set()).add(row.version)
        mark.rows[key] = sha256(codec.encode(row)).digest()  # as the schema of today writes it
        mark.places[key] = place
    return found


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


def again(
    log: Topics, codec: Codec, decode: Decode, before: Mapping[int, Mark], ends: Mapping[int, tuple[int, bytes]]
) -> dict[int, Mark]:
    """The same partitions at the same places, read once more. `ends`: where the journal has the last record of a place,
    and its chain; left out for what was not looked at.

    What compaction has taken away since counts as it was, if what took its place is of a later command. Raises
    InvariantError when the journal has something else there.
    """
    firsts = log.spans(STATE)
    there = _read(log, codec, decode, {p: (firsts[p][0], m.state_end) for p, m in before.items()})
    now = log.spans(STATE)  # asked afterwards: what took the place of a row that is gone by then is before this end
    later: dict[int, dict[str, int]] = {p: {} for p in before}
    for raw in log.read_many(STATE, {p: (m.state_end, now[p][1]) for p, m in before.items()}):
        later[raw.partition][(raw.key or b"").decode()] = _GONE if raw.value is None else _row(decode, raw)[1]
    for p, mark in before.items():
        for key, place in mark.places.items():
            if key not in there[p].rows and later[p].get(key, -1) > place:
                there[p].rows[key], there[p].places[key] = mark.rows[key], place
                if key == snapshot.META:
                    there[p].head = mark.head
    records = log.read_many(JOURNAL, {p: (offset, offset + 1) for p, (offset, _) in ends.items()})
    chains = {raw.partition: (raw.value or b"")[-CHAIN_BYTES:] for raw in records}
    for p, (offset, chain) in ends.items():
        if chains.get(p) != chain:
            raise InvariantError(f"partition {p}: the journal has another record at offset {offset} now", p)
    return there
