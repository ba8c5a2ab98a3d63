"""Compares the projections (ClickHouse, Redis) with the recomputation, each at the offset that it has reached itself.

So a live system can be checked: what a projection has not seen yet is reported as lag, never as a difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from clearline.audit.recompute import Recomputation
from clearline.audit.verdict import Finding
from clearline.audit.views import BalanceStore, EntryStore, StoredChange, StoredOutcome, StoredPosting
from schemas.records import JournalRecord

Row = TypeVar("Row", StoredOutcome, StoredPosting, StoredChange)


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
    """ClickHouse against the journal: every record below its position is stored once, column by column, with its
    postings and with what it changed; and every dead letter is there."""

    def __init__(self, partition: int, store: EntryStore, finding: Finding) -> None:
        self.partition = partition
        self._store = store
        self._f = finding
        self.position = store.position(partition)
        self.lag = 0
        self._outcomes: _Rows[StoredOutcome] | None = None
        self._postings: _Rows[StoredPosting] | None = None
        self._changes: _Rows[StoredChange] | None = None

    def open(self, start: int, end: int) -> None:
        """Starts reading the rows of source offsets from `start` to before `end`."""
        self._outcomes = _Rows(iter(self._store.outcomes(self.partition, start, end)))
        self._postings = _Rows(iter(self._store.postings(self.partition, start, end)))
        self._changes = _Rows(iter(self._store.changes(self.partition, start, end)))

    def see(self, journal_offset: int, record: JournalRecord) -> None:
        """Compares the rows of one journal record."""
        assert self._outcomes is not None
        assert self._postings is not None
        assert self._changes is not None
        if journal_offset >= self.position:
            self.lag += 1
            return
        offset = record.source_offset
        outcomes, postings = self._outcomes.up_to(offset + 1), self._postings.up_to(offset + 1)
        changes = self._changes.up_to(offset + 1)
        strays = {r.source_offset for rows in (outcomes, postings, changes) for r in rows} - {offset}
        for stray in strays:
            self._f.differ(f"partition {self.partition} source offset {stray}: stored, but not in the journal")
        self._compare(offset, "outcome", outcomes, [StoredOutcome.of(journal_offset, record)])
        self._compare(offset, "posting", postings, StoredPosting.all_of(journal_offset, record))
        self._compare(offset, "change", changes, StoredChange.all_of(journal_offset, record))
        self._f.count("postings", len(postings))
        self._f.count("records")

    def _compare(self, offset: int, what: str, rows: Sequence[Row], wanted: Sequence[Row]) -> None:
        found = [r for r in rows if r.source_offset == offset]
        if found == wanted:
            return
        at = f"partition {self.partition} source offset {offset}"
        if len(found) != len(wanted):
            shown = [tuple(r[1:4]) for r in found[:4]]
            self._f.differ(f"{at}: {len(found)} rows of {what} are stored, {len(wanted)} were journaled: {shown}")
            return
        for f, w in zip(found, wanted, strict=True):
            pairs = [f"{name} is {a!r}, journaled {b!r}" for name, a, b in zip(w._fields, f, w, strict=True) if a != b]
            if pairs:
                self._f.differ(f"{at}: of its {what}, {'; '.join(pairs)[:500]}")

    def close(self) -> None:
        """Nothing more is to come: what is left over was never journaled."""
        left: set[int] = set()
        for rows in (self._outcomes, self._postings, self._changes):
            assert rows is not None
            left |= {r.source_offset for r in rows.up_to(2**63)}
        for stray in left:
            self._f.differ(f"partition {self.partition} source offset {stray}: stored, but not in the journal")

    def dead_letters(self, kept: int, *, all_kept: bool) -> None:
        """`kept`: how many dead letters the log holds; `all_kept`: it never lost one to its retention."""
        stored = self._store.dead_letters(self.partition)
        if stored < kept:
            self.lag += kept - stored
        elif stored > kept and all_kept:
            self._f.differ(f"partition {self.partition}: {stored} dead letters are stored, the log has {kept}")


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
        m.debits_blocked[a], m.credits_blocked[a], m.closed[a], m.frozen[a], m.credit_limit[a],
    )  # fmt: skip
