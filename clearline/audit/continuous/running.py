"""Running control sums of the journal, as far as it was read and exactly up to a cut.

Records wait until the cut reaches them: the cut is where ClickHouse stands, so both sides are summed over the same
records, whatever batch either of them has in hand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sinks.checksums import TABLES, Rows, rows_of
from sinks.columnar import Ints
from sinks.rows import JournalRows, exact_sum
from sinks.stored_sums import NONE, STRETCH, Key, Sums


class Head(NamedTuple):
    """The last journal record before a place: `chain` proves everything before it."""

    offset: int = -1
    sequence: int = 0
    booked_at: int = 0
    chain: bytes = b""


START = Head()


@dataclass(slots=True)
class _Batch:
    """One partition's records of one poll, in order, and their rows by table."""

    offset: Ints
    sequence: Ints
    booked_at: Ints
    chains: list[bytes]
    rows: dict[str, Rows]


@dataclass(slots=True)
class Partition:
    """One partition: `read` is the last record that was read, `cut` the last one in the sums, `position` the
    offset to read next: markers of Kafka transactions take offsets, too."""

    read: Head = START
    cut: Head = START
    position: int = 0
    waiting: deque[_Batch] = field(default_factory=deque)
    totals: dict[str, Sums] = field(default_factory=dict)  # postings up to the cut, by currency


class RunningSums:
    """The journal's side. `sums`: by key, up to the cut."""

    def __init__(self) -> None:
        self.sums: dict[Key, Sums] = {}
        self.partitions: dict[int, Partition] = {}

    @property
    def waiting(self) -> int:
        """Records that were read and are not in the sums yet."""
        return sum(len(b.offset) for p in self.partitions.values() for b in p.waiting)

    def of(self, partition: int) -> Partition:
        """A partition; one that had nothing yet starts with nothing."""
        return self.partitions.setdefault(partition, Partition())

    def take(self, j: JournalRows) -> None:
        """Takes records, each partition's in order of offset."""
        numbers, every = j.columns.numbers, np.arange(len(j), dtype=np.int64)
        chains = j.columns.fixed_bytes("chain", 32, every)
        tables = {t.name: rows_of(t, j) for t in TABLES}
        for p in np.unique(j.partition).tolist():
            own = np.flatnonzero(j.partition == p)
            batch = _Batch(
                j.offset[own], numbers["sequence"][own], numbers["booked_at"][own], chains[own].tolist(),
                {name: rows.take(rows.partition == p) for name, rows in tables.items()},
            )  # fmt: skip
            at = self.of(p)
            at.waiting.append(batch)
            at.read = _head(batch, len(own) - 1)

    def advance(self, ends: Mapping[int, int]) -> set[Key]:
        """Moves the cut of each partition up to its end (offset after the last); returns the keys that changed."""
        changed: set[Key] = set()
        for p, end in ends.items():
            at = self.of(p)
            while at.waiting and int(at.waiting[0].offset[0]) < end:
                batch = at.waiting.popleft()
                count = int(np.searchsorted(batch.offset, end))
                at.cut = _head(batch, count - 1)
                for name, rows in batch.rows.items():
                    place = int(np.searchsorted(rows.offset, end))
                    for key, sums in summed(name, rows.take(slice(0, place))):
                        self.sums[key] = self.sums.get(key, NONE).plus(sums)
                        changed.add(key)
                        if name == "postings":
                            at.totals[key.currency] = at.totals.get(key.currency, NONE).plus(sums)
                    batch.rows[name] = rows.take(slice(place, None))
                if count < len(batch.offset):
                    at.waiting.appendleft(
                        _Batch(batch.offset[count:], batch.sequence[count:], batch.booked_at[count:],
                               batch.chains[count:], batch.rows)
                    )  # fmt: skip
        return changed

    def totals_at(self, partition: int, sequence: int) -> dict[str, tuple[int, int]] | None:
        """Debits and credits by currency of all records up to a sequence; None when it is not between cut and what
        was read."""
        at = self.of(partition)
        if not at.cut.sequence <= sequence <= at.read.sequence:
            return None
        totals = dict(at.totals)
        for batch in at.waiting:
            rows = batch.rows["postings"]
            for key, sums in summed("postings", rows.take(rows.sequence <= sequence)):
                totals[key.currency] = totals.get(key.currency, NONE).plus(sums)
        return {c: (s.debits, s.credits) for c, s in totals.items() if s.debits or s.credits}

    def replace(self, key: Key, sums: Sums) -> None:
        """Sums of a key that were read again and are others."""
        if key.table == "postings":
            totals = self.of(key.partition).totals
            before = self.sums.get(key, NONE)
            totals[key.currency] = totals.get(key.currency, NONE).plus(before, -1).plus(sums)
        if sums == NONE:
            self.sums.pop(key, None)
        else:
            self.sums[key] = sums


def _head(batch: _Batch, i: int) -> Head:
    return Head(int(batch.offset[i]), int(batch.sequence[i]), int(batch.booked_at[i]), batch.chains[i])


def summed(table: str, rows: Rows) -> Iterator[tuple[Key, Sums]]:
    """Sums of rows of one table by key."""
    if not len(rows):
        return
    stretch = rows.offset // STRETCH
    currencies, by_currency = np.unique(rows.currency.astype("S"), return_inverse=True)
    places = np.stack([rows.partition, rows.month, stretch, by_currency.reshape(-1)])
    kinds, group = np.unique(places, axis=1, return_inverse=True)
    group = group.reshape(-1)
    for i in range(kinds.shape[1]):
        own = group == i
        p, month, number, currency = (int(x) for x in kinds[:, i])
        amount, debit = rows.amount[own], rows.debit[own]
        yield (
            Key(table, p, month, number, currencies[currency].decode()),
            Sums(
                int(own.sum()),
                exact_sum(amount[debit]),
                exact_sum(amount[~debit]),
                int(rows.checksum[own].sum()),
            ),
        )


def sums_of(table: str, rows: Iterable[Rows]) -> dict[Key, Sums]:
    """Sums of several pieces of one table."""
    out: dict[Key, Sums] = {}
    for piece in rows:
        for key, sums in summed(table, piece):
            out[key] = out.get(key, NONE).plus(sums)
    return out
