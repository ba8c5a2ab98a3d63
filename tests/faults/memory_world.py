"""A whole world in memory: commands settled by the real Book, laid out as the topics, ClickHouse and Redis have them.

The auditor reads it through the same interface as a cluster, so each of its checks is tested in milliseconds. A test
changes one thing in it and looks which check notices.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from clearline.audit.contract import Terms
from clearline.audit.verdict import Verdict
from clearline.audit.verify import verify_world
from clearline.audit.views import (
    DEAD,
    JOURNAL,
    SEALS,
    STATE,
    SUBMITTED,
    StoredBalance,
    StoredChange,
    StoredOutcome,
    StoredPosting,
)
from ledger.book import Book
from ledger.entries import WINDOW_MS
from ledger.keys import KeyIndex
from ledger.seals import MINUTE_MS, Sealing
from ledger.state import Draft, PartitionBase
from schemas.codec import Codec, UndecodableError
from schemas.identity import command_id, partition_of, payload_digest, tree_of
from schemas.records import RECORDS, AccountState, Command, Crossing, JournalRecord, PartitionState, Seal, Transaction
from streams.reader import LogRecord
from tests.faults.hostile import START_MS, STEP_MS, hostile_stream, setting_up
from tests.faults.hostile_whole import PLAIN, SHOP, publishing

__all__ = [
    "MemoryBalances", "MemoryEntries", "MemoryLog", "MemoryWorld", "build_world", "hostile_stream", "setting_up", "stored"
]  # fmt: skip

TOPICS = (SUBMITTED, JOURNAL, STATE, DEAD, SEALS)


@dataclass
class MemoryLog:
    """Topics as lists of records by partition. `starts`: first kept offset, where it is not 0."""

    partitions: int
    records: dict[tuple[str, int], list[LogRecord]] = field(default_factory=dict)
    groups: dict[int, int] = field(default_factory=dict)
    starts: dict[tuple[str, int], int] = field(default_factory=dict)

    def topic(self, topic: str, partition: int) -> list[LogRecord]:
        return self.records.setdefault((topic, partition), [])

    def append(
        self, topic: str, partition: int, record: tuple[int, bytes | None, bytes | None], **headers: str
    ) -> None:
        """Adds (timestamp, key, value) at the next offset, leaving a gap now and then as transaction markers do."""
        have = self.topic(topic, partition)
        offset = have[-1].offset + 1 if have else 0
        if topic != SUBMITTED and len(have) % 7 == 6:
            offset += 1
        at, key, value = record
        have.append(LogRecord(partition, offset, at, key, value, [(k, v.encode()) for k, v in headers.items()]))

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        have = self.topic(topic, partition)
        return self.starts.get((topic, partition), 0), have[-1].offset + 1 if have else 0

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[LogRecord]:
        return iter([r for r in self.topic(topic, partition) if start <= r.offset < end])

    def group_offset(self, partition: int) -> int:
        return self.groups.get(partition, -1001)


@dataclass
class MemoryEntries:
    """ClickHouse's rows by partition."""

    outcome_rows: dict[int, list[StoredOutcome]] = field(default_factory=dict)
    posting_rows: dict[int, list[StoredPosting]] = field(default_factory=dict)
    change_rows: dict[int, list[StoredChange]] = field(default_factory=dict)
    letters: dict[int, int] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=dict)

    def position(self, partition: int) -> int:
        return self.positions.get(partition, 0)

    def changes(self, partition: int, start: int, end: int) -> Iterator[StoredChange]:
        rows = sorted(self.change_rows.get(partition, []), key=lambda r: r.source_offset)
        return iter([r for r in rows if start <= r.source_offset])

    def dead_letters(self, partition: int) -> int:
        return self.letters.get(partition, 0)

    def outcomes(self, partition: int, start: int, end: int) -> Iterator[StoredOutcome]:
        rows = sorted(self.outcome_rows.get(partition, []), key=lambda r: r.source_offset)
        return iter([r for r in rows if start <= r.source_offset])

    def postings(self, partition: int, start: int, end: int) -> Iterator[StoredPosting]:
        rows = sorted(self.posting_rows.get(partition, []), key=lambda r: r[:2])
        return iter([r for r in rows if start <= r.source_offset])

    def records_below(self, partition: int, offset: int) -> int:
        return sum(r.source_offset < offset for r in self.outcome_rows.get(partition, []))

    def totals_below(self, partition: int, offset: int) -> dict[str, tuple[int, int]]:
        return self._sums("currency", partition, offset)

    def accounts_below(self, partition: int, offset: int) -> dict[str, tuple[int, int]]:
        return self._sums("account_id", partition, offset)

    def _sums(self, by: str, partition: int, offset: int) -> dict[str, tuple[int, int]]:
        out: dict[str, tuple[int, int]] = {}
        for r in self.posting_rows.get(partition, []):
            if r.source_offset < offset:
                debits, credits = out.get(getattr(r, by), (0, 0))
                more = (r.amount, 0) if r.side == "debit" else (0, r.amount)
                out[getattr(r, by)] = (debits + more[0], credits + more[1])
        return out

    def postings_of(self, partition: int, account: str, offset: int) -> list[StoredPosting]:
        rows = sorted(self.posting_rows.get(partition, []), key=lambda r: r[:2])
        return [r for r in rows if r.account_id == account and r.source_offset < offset]


@dataclass
class MemoryBalances:
    """Redis' balances by partition."""

    rows: dict[int, dict[str, StoredBalance]] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=dict)

    def position(self, partition: int) -> int:
        return self.positions.get(partition, 0)

    def balances(self, partition: int) -> dict[str, StoredBalance]:
        return dict(self.rows.get(partition, {}))


class MemoryWorld:
    """Publishes, settles in batches like a worker, and projects. `verify` is the auditor's verdict on all of it.

    `step_ms`: event time between two commands.
    """

    def __init__(self, partitions: int = 2, step_ms: int = STEP_MS) -> None:
        self.step_ms = step_ms
        self.codec = Codec({name: i + 1 for i, name in enumerate(RECORDS)})
        self.log = MemoryLog(partitions)
        self.entries = MemoryEntries()
        self.balances = MemoryBalances()
        self._bases = [PartitionBase() for _ in range(partitions)]
        self._keys = [KeyIndex(WINDOW_MS) for _ in range(partitions)]
        self._now = START_MS

    # ---- publishing --------------------------------------------------------------------------------------------------

    def publish(self, command: Command) -> None:
        root = tree_of(command)
        value = self.codec.encode(command)
        if isinstance(command, Crossing):
            self.publish_bytes(command.to_partition % self.log.partitions, b"bank", value)
        elif root == "bank" and not isinstance(command, Transaction):
            for p in range(self.log.partitions):
                self.publish_bytes(p, b"bank", value)
        else:
            self.publish_bytes(partition_of(root, self.log.partitions), root.encode(), value)

    @property
    def now_ms(self) -> int:
        """Append time of the last command, ms UTC."""
        return self._now

    def pass_time(self, ms: int) -> None:
        """Lets event time go by without a command."""
        self._now += ms

    def publish_bytes(self, partition: int, key: bytes | None, value: bytes | None) -> None:
        self._now += self.step_ms
        self.log.append(SUBMITTED, partition, (self._now, key, value))

    # ---- settling ----------------------------------------------------------------------------------------------------

    def settle(self, batch: int = 50) -> None:
        """Settles and projects all that is new, until no partition has anything left for another."""
        while any(self._settle(p, batch) for p in range(self.log.partitions)):
            pass
        for p in range(self.log.partitions):
            self.project(p)

    def settle_once(self) -> None:
        """Each partition takes what is there, once; what it writes to others stays on its way."""
        for p in range(self.log.partitions):
            self._settle(p, 50)

    def _settle(self, p: int, batch: int) -> int:
        """Settles what is new in one partition; how many commands that were."""
        base = self._bases[p]
        new = [r for r in self.log.topic(SUBMITTED, p) if r.offset >= base.head.next_offset]
        for i in range(0, len(new), batch):
            self._batch(p, base, new[i : i + batch])
        return len(new)

    def _batch(self, p: int, base: PartitionBase, records: list[LogRecord]) -> None:
        draft = Draft(base)
        index, book = self._keys[p], Book(p, draft, self.log.partitions)
        for raw in records:
            try:
                command = self.codec.decode(raw.value)
                Terms(self.log.partitions).refuse(command, p)
            except UndecodableError as e:
                book.dead(raw.offset, raw.timestamp_ms)
                headers = {"reason": e.reason, "detail": e.detail, "source_topic": "live.transactions.submitted",
                           "source_partition": str(p), "source_offset": str(raw.offset),
                           "received_at": str(raw.timestamp_ms), "attempts": "1"}  # fmt: skip
                self.log.append(DEAD, p, (self._now, raw.key, raw.value), **headers)
                continue
            cid = command_id(command.partner_id, command.idempotency_key)
            asked = [cid, command_id(command.partner_id, getattr(command, "original", ""))]
            draft.keys = index.find(asked, max(book.head.event_time, raw.timestamp_ms))
            record = book.settle(command, cid, payload_digest(command), raw.offset, raw.timestamp_ms)
            if record.binds_key:
                index.add([cid], [record.payload_digest], [raw.offset], [raw.timestamp_ms])
            self.journal(p, book, record)
            for step in book.outbox:
                self.publish_bytes(step.to_partition, b"step", self.codec.encode(step))
            book.outbox.clear()
        for a in draft.changed_accounts():
            self.log.append(STATE, p, (self._now, f"a:{a.account_id}".encode(), self.codec.encode(a.state())))
        for hold in draft.changed_holds():
            row = self.codec.encode(hold.state()) if hold.remaining else None
            self.log.append(STATE, p, (self._now, b"h:" + hold.hold_id.hex().encode(), row))
        for partner in draft.changed_partners():
            self.log.append(
                STATE, p, (self._now, f"p:{partner.partner_id}".encode(), self.codec.encode(partner.record()))
            )
        for key, other in draft.rows.items():
            value = self.codec.encode(other) if other is not None else None
            self.log.append(STATE, p, (self._now, key.encode(), value))
        self.log.append(STATE, p, (self._now, b"meta", self.codec.encode(draft.head.record())))
        draft.merge()
        self.log.groups[p] = draft.head.next_offset

    def journal(self, p: int, book: Book, record: JournalRecord) -> None:
        body = self.codec.journal_body(record)
        self.log.append(JOURNAL, p, (self._now, b"k", self.codec.journal_header + body + book.seal(body)))

    def seal(self) -> None:
        """Seals every journal to its end, as a sealer does that looks once, a minute after the last command."""
        for p in range(self.log.partitions):
            sealing = Sealing(p, None, lambda s: self.codec.encode(s)[5:])
            due: list[Seal] = []
            for raw in self.log.topic(JOURNAL, p):
                assert raw.value is not None
                due += sealing.take(self.codec.decode(raw.value), raw.value[5:], self._now)
            for seal in due + sealing.at_end(self._now + MINUTE_MS):
                self.log.append(SEALS, p, (seal.last_booked_at, b"k", self.codec.encode(seal)))

    # ---- projecting --------------------------------------------------------------------------------------------------

    def project(self, p: int, up_to: int | None = None) -> None:
        """Rebuilds both projections of a partition from its journal, up to a journal offset."""
        outcomes: list[StoredOutcome] = []
        postings: list[StoredPosting] = []
        changes: list[StoredChange] = []
        balances: dict[str, StoredBalance] = {}
        _, end = self.log.span(JOURNAL, p)
        up_to = end if up_to is None else up_to
        for raw in self.log.read(JOURNAL, p, 0, up_to):
            r = self.codec.decode(raw.value)
            outcomes.append(StoredOutcome.of(raw.offset, r))
            postings += StoredPosting.all_of(raw.offset, r)
            changes += StoredChange.all_of(raw.offset, r)
        self.entries.outcome_rows[p], self.entries.posting_rows[p] = outcomes, postings
        self.entries.change_rows[p] = changes
        dead_start, dead_end = self.log.span(DEAD, p)
        self.entries.letters[p] = len(list(self.log.read(DEAD, p, dead_start, dead_end)))
        self.balances.rows[p], self.balances.positions[p] = balances, 0
        self.entries.positions[p] = up_to
        _, state_end = self.log.span(STATE, p)
        for raw in self.log.read(STATE, p, 0, state_end if up_to == end else state_end * up_to // end):
            if raw.value is None:
                continue
            row = self.codec.decode(raw.value)
            if isinstance(row, AccountState):
                balances[row.account_id] = stored(row)
            elif isinstance(row, PartitionState):
                self.balances.positions[p] = row.next_offset

    def clone(self) -> MemoryWorld:
        """A copy to change; it shares the records, which nobody changes in place, and cannot settle any further."""
        other = copy.copy(self)
        other.log = MemoryLog(
            self.log.partitions, {k: list(v) for k, v in self.log.records.items()}, dict(self.log.groups)
        )
        other.entries = MemoryEntries(
            {p: list(v) for p, v in self.entries.outcome_rows.items()},
            {p: list(v) for p, v in self.entries.posting_rows.items()},
            {p: list(v) for p, v in self.entries.change_rows.items()},
            dict(self.entries.letters),
            dict(self.entries.positions),
        )
        rows = {p: dict(v) for p, v in self.balances.rows.items()}
        other.balances = MemoryBalances(rows, dict(self.balances.positions))
        return other

    def records(self, p: int) -> list[JournalRecord]:
        """The decoded journal of a partition."""
        return [self.codec.decode(r.value) for r in self.log.topic(JOURNAL, p)]

    def verify(self, *, drained: bool = True) -> Verdict:
        terms = Terms(self.log.partitions, schema_ids=frozenset(range(1, len(RECORDS) + 1)))
        return verify_world(
            "live", self.log, self.codec.decode, terms, entries=self.entries, balances=self.balances, drained=drained
        )


def stored(a: AccountState) -> StoredBalance:
    """A row of the state as Redis keeps it."""
    return StoredBalance(
        a.source_offset, a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted, a.currency, a.type,
        a.min_available, a.debits_blocked, a.credits_blocked, a.closed, a.frozen, a.credit_limit,
    )  # fmt: skip


def build_world(
    seed: int = 1, n: int = 600, partitions: int = 2, step_ms: int = STEP_MS, *, whole: bool = False,
    shelf: bool = False,
) -> MemoryWorld:  # fmt: skip
    """A settled and projected world of `n` hostile commands after the setting up, `step_ms` of event time apart.

    `whole`: of the whole ledger, settled every 40 commands, so that steps between partitions come in between; `shelf`:
    with products published.
    """
    world = MemoryWorld(partitions, step_ms)
    for command in setting_up():
        world.publish(command)
    for document in (SHOP, PLAIN) if shelf else ():
        world.publish(publishing(document, f"publish-{document['product']}"))
    rnd = random.Random(seed)
    for i, item in enumerate(hostile_stream(seed, n, START_MS, step_ms, whole=whole, shelf=shelf)):
        if isinstance(item, bytes) or item is None:
            world.publish_bytes(rnd.randrange(partitions), b"x", item)
        else:
            world.publish(item)
        if whole and i % 40 == 39:
            world.settle_once()
    world.settle()
    return world
