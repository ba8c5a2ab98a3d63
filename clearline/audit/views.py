"""What the auditor looks at: the log, and the two stores that project it. Protocols, so that the checks themselves are
tested in milliseconds on logs in memory, with the same code that reads a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from streams.reader import LogRecord

SUBMITTED, JOURNAL, STATE, DEAD = "submitted", "journal", "state", "dead"


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
    """One leg as ClickHouse has it. `line` counts from 0 inside the entry; amount in minor units, > 0."""

    source_offset: int
    line: int
    account_id: str
    side: str
    amount: int
    currency: str
    debits_posted: int
    credits_posted: int


class StoredOutcome(NamedTuple):
    """One journal record as ClickHouse has it."""

    source_offset: int
    sequence: int
    outcome: str
    reason: str


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
