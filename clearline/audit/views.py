"""What the auditor looks at: the log, and the two stores that project it. Protocols, so that the checks themselves are
tested in milliseconds on logs in memory, with the same code that reads a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from schemas.records import JournalRecord
from streams.reader import LogRecord

_DATE32_LAST_DAY = 120_529  # 2299-12-31, the last day of a Date32 column, days since 1970-01-01
SUBMITTED, JOURNAL, STATE, DEAD, SEALS = "submitted", "journal", "state", "dead", "seals"


class Log(Protocol):
    """The topics of one world under read_committed, by their short names."""

    partitions: int

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset that is still kept, and the offset after the last one, now."""
        ...

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[LogRecord]:
        """Committed records from `start` up to, not including, `end`, in order."""
        ...

    def group_offset(self, partition: int) -> int:
        """Where the settlement group stands in the submitted topic; negative when it never committed."""
        ...


class StoredPosting(NamedTuple):
    """One leg as ClickHouse has it. `line` counts from 0 inside the entry; amount in minor units, > 0.

    `value_date` is in days like `value_day`, kept inside what the column can hold; `booked_at` in ms UTC.
    """

    source_offset: int
    line: int
    account_id: str
    side: str
    amount: int
    currency: str
    debits_posted: int
    credits_posted: int
    debits_pending: int
    credits_pending: int
    partner_id: str
    product: str
    operation: str
    reference: str
    command_id: str
    value_day: int
    value_date: int
    booked_at: int
    sequence: int
    journal_offset: int

    @classmethod
    def all_of(cls, journal_offset: int, r: JournalRecord) -> list[StoredPosting]:
        """The rows that this journal record must have."""
        return [
            cls(
                r.source_offset, i, p.account_id, p.side, p.amount, p.currency, p.debits_posted, p.credits_posted,
                p.debits_pending, p.credits_pending, r.partner_id, r.product, r.operation, r.reference,
                r.command_id.hex(), r.value_date, _date32(r.value_date), r.booked_at, r.sequence, journal_offset,
            )
            for i, p in enumerate(r.postings)
        ]  # fmt: skip


class StoredOutcome(NamedTuple):
    """One journal record as ClickHouse has it. `metadata`, `detail` and `changes` are maps of text; the rest as in a
    posting."""

    source_offset: int
    sequence: int
    outcome: str
    reason: str
    command: str
    partner_id: str
    idempotency_key: str
    command_id: str
    product: str
    product_version: int
    operation: str
    reference: str
    metadata: dict[str, str]
    detail: dict[str, str]
    changes: dict[str, str]
    first_offset: int
    subject_id: str
    legs: int
    chain: str
    value_day: int
    value_date: int
    booked_at: int
    journal_offset: int

    @classmethod
    def of(cls, journal_offset: int, r: JournalRecord) -> StoredOutcome:
        """The row that this journal record must have."""
        return cls(
            r.source_offset, r.sequence, r.outcome, r.reason, r.command, r.partner_id, r.idempotency_key,
            r.command_id.hex(), r.product, r.product_version, r.operation, r.reference, r.metadata, r.detail,
            r.changes, r.first_offset, r.subject_id, len(r.postings), r.chain.hex(), r.value_date,
            _date32(r.value_date), r.booked_at, journal_offset,
        )  # fmt: skip


class StoredChange(NamedTuple):
    """What a control command set, as ClickHouse has it."""

    source_offset: int
    sequence: int
    command: str
    partner_id: str
    subject_id: str
    changes: dict[str, str]
    booked_at: int
    journal_offset: int

    @classmethod
    def all_of(cls, journal_offset: int, r: JournalRecord) -> list[StoredChange]:
        """The rows that this journal record must have: one when it applied a control command that sets something, and
        one for each account that it opened on first use, by name."""
        rows = []
        if r.outcome == "applied" and r.command not in ("Transaction", "Crossing", "Tick"):
            rows.append((r.command, r.subject_id, r.changes))
        for o in sorted(r.opened, key=lambda o: o.account_id):
            terms = {"type": o.type, "currency": o.currency, "credit_limit": str(o.credit_limit)}
            limit = "" if o.min_available is None else str(o.min_available)
            rows.append(("OpenAccount", o.account_id, {**terms, "min_available": limit}))
        return [
            cls(r.source_offset, r.sequence, command, r.partner_id, subject, changes, r.booked_at, journal_offset)
            for command, subject, changes in rows
        ]


def _date32(day: int) -> int:
    return min(max(day, 0), _DATE32_LAST_DAY)


class StoredBalance(NamedTuple):
    """One account as Redis has it, as of `source_offset`: counters and limit in minor units."""

    source_offset: int
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int
    currency: str
    type: str
    min_available: int | None
    debits_blocked: bool
    credits_blocked: bool
    closed: bool
    frozen: bool
    credit_limit: int


class EntryStore(Protocol):
    """ClickHouse, as far as the auditor looks."""

    def position(self, partition: int) -> int:
        """First journal offset that is not stored yet, as the store itself shows it."""
        ...

    def outcomes(self, partition: int, start: int, end: int) -> Iterator[StoredOutcome]:
        """Journal records stored for source offsets from `start` to before `end`, every copy, in order."""
        ...

    def postings(self, partition: int, start: int, end: int) -> Iterator[StoredPosting]:
        """Postings stored for source offsets from `start` to before `end`, every copy, in order of offset and line."""
        ...

    def changes(self, partition: int, start: int, end: int) -> Iterator[StoredChange]:
        """Changes by control commands stored for source offsets from `start` to before `end`, every copy, in order."""
        ...

    def dead_letters(self, partition: int) -> int:
        """How many dead letters of commands of this partition are stored, each place counted once."""
        ...


class TotalStore(Protocol):
    """ClickHouse, as far as the tie-out looks: everything below a source offset of one partition, minor units."""

    def records_below(self, partition: int, offset: int) -> int:
        """How many outcomes."""
        ...

    def totals_below(self, partition: int, offset: int) -> dict[str, tuple[int, int]]:
        """Debits and credits by currency."""
        ...

    def accounts_below(self, partition: int, offset: int) -> dict[str, tuple[int, int]]:
        """Debits and credits by account."""
        ...

    def postings_of(self, partition: int, account: str, offset: int) -> list[StoredPosting]:
        """One account's postings, in order of offset and line."""
        ...


class BalanceStore(Protocol):
    """Redis, as far as the auditor looks."""

    def position(self, partition: int) -> int:
        """First offset of the submitted topic that is not projected yet."""
        ...

    def balances(self, partition: int) -> dict[str, StoredBalance]:
        """Every account of the partition."""
        ...
