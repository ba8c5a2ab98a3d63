"""Compares the projections (ClickHouse, Redis) with the recomputation, each at the offset that it has reached itself.

So a live system can be checked: what a projection has not seen yet is reported as lag, never as a difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from clearline.audit.recompute import Recomputation
from clearline.audit.verdict import Finding
from clearline.audit.views import BalanceStore, EntryStore, StoredOutcome, StoredPosting
from schemas.records import JournalRecord

Row = TypeVar("Row", StoredOutcome, StoredPosting)


class _Rows(Generic[Row]):
    """Rows in order of source offset, taken offset by offset."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows: Iterator[Row] = rows
        self._next: Row | None = next(rows, None)

    def up_to(self, end: int) -> list[Row]:
        """Takes the rows of offsets before `end`."""
        out: list[Row] = []
        while self._next is not None and self._next.source_offset < end:
            out.append(self._next)
            self._next = next(self._rows, None)
        return out


class EntriesCheck:
    """ClickHouse against the journal: every record below its position is stored once, with its postings."""

    def __init__(self, partition: int, store: EntryStore, finding: Finding) -> None:
        self.partition = partition
        self._store = store
        self._f = finding
        self.position = store.position(partition)
        self.lag = 0
        self._outcomes: _Rows[StoredOutcome] | None = None
        self._postings: _Rows[StoredPosting] | None = None

    def open(self, start: int, end: int) -> None:
        """Starts reading the rows of source offsets from `start` to before `end`."""
        self._outcomes = _Rows(iter(self._store.outcomes(self.partition, start, end)))
        self._postings = _Rows(iter(self._store.postings(self.partition, start, end)))

    def see(self, journal_offset: int, record: JournalRecord) -> None:
        """Compares the rows of one journal record."""
        assert self._outcomes is not None
        assert self._postings is not None
        if journal_offset >= self.position:
            self.lag += 1
            return
        offset = record.source_offset
        at = f"partition {self.partition} source offset {offset}"
        outcomes, postings = self._outcomes.up_to(offset + 1), self._postings.up_to(offset + 1)
        for stray in ({r.source_offset for r in outcomes} | {r.source_offset for r in postings}) - {offset}:
            self._f.differ(f"partition {self.partition} source offset {stray}: stored, but not in the journal")
        found = [r[1:] for r in outcomes if r.source_offset == offset]
        wanted_once = [(record.sequence, record.outcome, record.reason)]
        if found != wanted_once:
            self._f.differ(f"{at}: the outcome is stored as {found or 'nothing'}, journaled as {wanted_once}")
        wanted: list[tuple[object, ...]] = [
            (i, p.account_id, p.side, p.amount, p.currency, p.debits_posted, p.credits_posted)
            for i, p in enumerate(record.postings)
        ]
        legs = [tuple(r[1:]) for r in postings if r.source_offset == offset]
        if legs != wanted:
            self._f.differ(f"{at}: {_first_difference(wanted, legs)}")
        self._f.count("postings", len(legs))
        self._f.count("records")

    def close(self) -> None:
        """Nothing more is to come: what is left over was never journaled."""
        assert self._outcomes is not None
        assert self._postings is not None
        left = {r.source_offset for r in self._outcomes.up_to(2**63)}
        for stray in left | {r.source_offset for r in self._postings.up_to(2**63)}:
            self._f.differ(f"partition {self.partition} source offset {stray}: stored, but not in the journal")


def _first_difference(wanted: list[tuple[object, ...]], found: list[tuple[object, ...]]) -> str:
    """The first posting that differs, in words."""
    if len(found) != len(wanted):
        return f"{len(found)} postings are stored, {len(wanted)} were journaled (line, account, ...): {found[:4]}"
    pairs = [(w, f) for w, f in zip(wanted, found, strict=True) if w != f]
    return f"stored {pairs[0][1]}, journaled {pairs[0][0]}"


class BalancesCheck:
    """Redis against the recomputation: every balance is right at its own offset, and none is older than it may be."""

    def __init__(self, partition: int, store: BalanceStore, finding: Finding) -> None:
        self.partition = partition
        self._f = finding
        self.position = store.position(partition)
        self.lag = 0
        self._stored = store.balances(partition)
        self._judged: set[str] = set()
        self._passed = False
        finding.count("accounts", len(self._stored))

    def before(self, offset: int, model: Recomputation) -> None:
        """Tells how far the walk is: at the projection's own position every account must stand at its last change."""
        if self._passed or offset < self.position:
            return
        self._passed = True
        for a, last in model.touched.items():
            found = self._stored.get(a)
            if found is None:
                self._f.differ(f"partition {self.partition} account {a}: not stored, its last change is at {last}")
            elif found.source_offset < last:
                self._judged.add(a)
                self._f.differ(
                    f"partition {self.partition} account {a}: stands at offset {found.source_offset}, "
                    f"its last change is at {last}"
                )

    def see(self, record: JournalRecord, model: Recomputation) -> None:
        """Compares the balances that stand at this record's offset. Call it after the model took the command."""
        offset = record.source_offset
        if offset >= self.position:
            self.lag += 1
        for a in {p.account_id for p in record.postings} | {p.account_id for p in record.pending} | {record.subject_id}:
            stored = self._stored.get(a)
            if stored is not None and stored.source_offset == offset:
                self._judged.add(a)
                wanted = _as_stored(model, a)
                if stored[1:] != wanted:
                    self._f.differ(
                        f"partition {self.partition} account {a} at offset {offset}: {tuple(stored[1:])} is stored, "
                        f"the recomputation says {wanted}"
                    )

    def close(self, model: Recomputation) -> None:
        """Notes balances at an offset where nothing changed the account, or of accounts that do not exist."""
        self.before(self.position, model)
        for a in self._stored.keys() - self._judged:
            offset = self._stored[a].source_offset
            self._f.differ(
                f"partition {self.partition} account {a}: stands at offset {offset}, where nothing changed it"
            )


def _as_stored(m: Recomputation, a: str) -> tuple[object, ...]:
    """The account as it must be stored; empty when it was never opened."""
    if a not in m.type:
        return ()
    return (
        m.debits_pending[a], m.debits[a], m.credits_pending[a], m.credits[a], m.currency[a], m.type[a], m.limit[a],
        m.debits_blocked[a], m.credits_blocked[a], m.closed[a],
    )  # fmt: skip
