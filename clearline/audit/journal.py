"""What the journal must satisfy by itself, before it is compared with anything: order, sequence, chain, balance.

The chain is recomputed over the raw bytes as they came from the broker, never over re-encoded records. For each hold
that is open two figures are kept (about 300 bytes), so that nothing is released that was not set aside before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, NamedTuple

from clearline.audit.closes import PartitionCloses
from clearline.audit.seals import SealsCheck
from clearline.audit.verdict import Findings
from schemas.codec import CHAIN_BYTES, HEADER_BYTES, UndecodableError
from schemas.records import JournalRecord, PendingLeg, PostedLeg
from streams.reader import LogRecord

FIRST_CHAIN = bytes(CHAIN_BYTES)

Decode = Callable[[bytes | None], Any]


class Outcome(NamedTuple):
    """One journal record with its place in the journal."""

    journal_offset: int
    record: JournalRecord
    chain: bytes


class JournalWalk:
    """Walks one partition's journal in order and notes whatever is wrong with it by itself."""

    def __init__(
        self,
        partition: int,
        records: Iterator[LogRecord],
        decode: Decode,
        findings: Findings,
        seals: SealsCheck | None = None,
        closes: PartitionCloses | None = None,
    ) -> None:
        self.partition = partition
        self._seals = seals
        self._closes = closes
        self._records = records
        self._decode = decode
        self._f = findings
        self.sequence = 0
        self.chain = FIRST_CHAIN
        self.last_offset = -1
        self.debits: dict[str, int] = {}
        self.credits: dict[str, int] = {}
        self.set_aside: dict[bytes, list[int]] = {}  # hold id -> what is left on its debit and on its credit side

    def __iter__(self) -> Iterator[Outcome]:
        for raw in self._records:
            at = f"journal[{self.partition}] offset {raw.offset}"
            value = raw.value or b""
            self._link(at, value)
            try:
                record = self._decode(value)
            except UndecodableError as e:
                self._f["one_outcome"].differ(f"{at} does not decode: {e}")
                self._under_seal(self.sequence + 1, 0, value)
                continue
            if not isinstance(record, JournalRecord):
                self._f["one_outcome"].differ(f"{at} is a {type(record).__name__}, not a journal record")
                self._under_seal(self.sequence + 1, 0, value)
                continue
            self._place(at, record)
            closes = record.command == "CloseDay" and record.outcome == "applied"
            self._under_seal(record.sequence, record.booked_at, value, closes)
            if self._closes:
                self._closes.take(at, record, value[-CHAIN_BYTES:])
            if record.postings:
                self._balance(at, record)
            if record.pending:
                self._pending(at, record)
            yield Outcome(raw.offset, record, value[-CHAIN_BYTES:])

    def _link(self, at: str, value: bytes) -> None:
        """The chain: SHA-256 of the previous value and this body. A break is noted once, at its place."""
        found = value[-CHAIN_BYTES:]
        if sha256(self.chain + value[HEADER_BYTES:-CHAIN_BYTES]).digest() != found:
            self._f["chain"].differ(f"{at}: the chain does not continue from the record before it")
        self._f["chain"].count("records")
        self.chain = found

    def _under_seal(self, sequence: int, booked_at: int, value: bytes, closes: bool = False) -> None:
        if self._seals:
            self._seals.record(sequence, booked_at, value, closes)

    def _place(self, at: str, record: JournalRecord) -> None:
        if record.sequence != self.sequence + 1:
            self._f["sequence"].differ(f"{at}: sequence {record.sequence} follows {self.sequence}")
        self._f["sequence"].count("records")
        self.sequence = record.sequence
        if record.source_partition != self.partition:
            self._f["one_outcome"].differ(f"{at}: names source partition {record.source_partition}")
        if record.source_offset <= self.last_offset:
            self._f["one_outcome"].differ(
                f"{at}: source offset {record.source_offset} comes after {self.last_offset}: a second outcome"
            )
        self.last_offset = max(self.last_offset, record.source_offset)

    def _balance(self, at: str, record: JournalRecord) -> None:
        """Debits = credits per currency in every entry; totals are kept for the whole partition."""
        net: dict[str, int] = {}
        for leg in record.postings:
            if leg.side == "debit":
                net[leg.currency] = net.get(leg.currency, 0) + leg.amount
                self.debits[leg.currency] = self.debits.get(leg.currency, 0) + leg.amount
            else:
                net[leg.currency] = net.get(leg.currency, 0) - leg.amount
                self.credits[leg.currency] = self.credits.get(leg.currency, 0) + leg.amount
            if leg.amount <= 0:
                self._f["conservation"].differ(f"{at}: a posting of {leg.amount} on {leg.account_id}")
        for currency, left in net.items():
            if left:
                self._f["conservation"].differ(f"{at}: debits exceed credits by {left} {currency}")
        self._f["conservation"].count("entries")

    def _pending(self, at: str, record: JournalRecord) -> None:
        """Both sides of a hold change alike, nothing is released that was not set aside, no counter is negative."""
        f = self._f["pending"]
        f.count("changes", len(record.pending))
        for leg in record.pending:
            left = self.set_aside.setdefault(leg.hold_id, [0, 0])
            left[leg.side == "credit"] += leg.change
            if left[leg.side == "credit"] < 0:
                f.differ(f"{at}: {-leg.change} released on {leg.account_id}, which is more than was set aside")
            if leg.change == 0:
                f.differ(f"{at}: a pending change of nothing on {leg.account_id}")
        for hold_id in {leg.hold_id for leg in record.pending}:
            left = self.set_aside[hold_id]
            if left[0] != left[1]:
                f.differ(f"{at}: hold {hold_id.hex()} has {left[0]} pending on its debit side, {left[1]} on the other")
            if left == [0, 0]:
                del self.set_aside[hold_id]
        legs: list[PendingLeg | PostedLeg] = [*record.pending, *record.postings]
        for p in legs:
            if p.debits_pending < 0 or p.credits_pending < 0:
                f.differ(f"{at}: {p.account_id} has pending counters {p.debits_pending} and {p.credits_pending}")

    def close(self) -> None:
        """Notes the totals of the partition."""
        totals = self._f["conservation"]
        for currency in sorted({*self.debits, *self.credits}):
            debits, credits = self.debits.get(currency, 0), self.credits.get(currency, 0)
            totals.count(currency, debits)
            if debits != credits:
                totals.differ(f"partition {self.partition}: {currency} debits {debits}, credits {credits}")
