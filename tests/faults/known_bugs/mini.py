"""A settlement worker in a hundred lines, right as it stands: the ground on which the known bugs are seeded.

It uses the ledger's real Book and the host's real recovery, and Kafka's transactions as the host does; only the
pipelining, the group membership and the watchdog are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

from confluent_kafka import Consumer, Producer, TopicPartition

from ledger.book import Book
from ledger.state import Draft
from schemas.codec import Codec, UndecodableError
from schemas.identity import command_id, payload_digest
from schemas.records import COMMANDS, JournalRecord, Transaction
from streams.clients import KafkaConfig
from streams.reader import LogRecord, committed_offsets, read_to_end
from streams.recovery import PartitionLedger, recover
from streams.topics import Topics

WINDOW_MS = 30 * 86_400_000
PARTITION = 0


class Killed(Exception):  # noqa: N818 - an end, not an error
    """The worker is dead from here on: nothing of what it had in memory goes on."""


@dataclass
class Output:
    """What one batch gives: (topic, key, value, headers) in the order of production, and the draft behind it."""

    records: list[tuple[str, bytes | None, bytes | None, list[tuple[str, str | bytes | None]]]] = field(
        default_factory=list
    )
    draft: Draft | None = None
    bound: tuple[list[bytes], list[bytes], list[int], list[int]] = field(default_factory=lambda: ([], [], [], []))
    next_offset: int = 0


class MiniWorker:
    """Settles partition 0 of a world. `name`: its transactional id; two workers of one name fence each other."""

    def __init__(self, kafka: KafkaConfig, topics: Topics, codec: Codec, name: str = "mini") -> None:
        self.kafka, self.topics, self.codec = kafka, topics, codec
        self.producer = self.new_producer(name)
        self.ledger = self.recover()

    def new_producer(self, name: str) -> Producer:
        """A producer that fences its namesakes."""
        producer = Producer(self.kafka.producer(transactional_id=f"{self.topics.group}-{name}"))
        producer.init_transactions(30)
        return producer

    def recover(self) -> PartitionLedger:
        """State, keys and place as the host takes them over."""
        committed = committed_offsets(self.kafka, self.topics.group, self.topics.submitted)
        return recover(self.kafka, self.topics, self.codec, {PARTITION: committed[PARTITION]}, WINDOW_MS)[0]

    def batch(self, records_max: int) -> list[LogRecord]:
        """The next commands."""
        start = {PARTITION: self.ledger.base.head.next_offset}
        return list(islice(read_to_end(self.kafka, self.topics.submitted, start), records_max))

    def run(self, batches: int, records_max: int = 40) -> None:
        """Settles so many batches, or fewer when there are no more commands."""
        for _ in range(batches):
            records = self.batch(records_max)
            if not records:
                return
            self.commit(self.settle(records))

    def settle(self, records: list[LogRecord]) -> Output:
        """The outputs of a batch; nothing is sent yet."""
        draft = Draft(self.ledger.base)
        book, out = Book(PARTITION, draft), Output(draft=draft, next_offset=records[-1].offset + 1)
        for raw in records:
            command, why = self.decode(raw)
            if command is None:
                book.dead(raw.offset, raw.timestamp_ms)
                out.records.append((self.topics.dead, raw.key, raw.value, _origin(self.topics, raw, why)))
                continue
            cid, digest = command_id(command.partner_id, command.idempotency_key), payload_digest(command)
            named = [cid]
            if isinstance(command, Transaction) and command.original:
                named.append(command_id(command.partner_id, command.original))
            for key, first in self.ledger.keys.find(named, raw.timestamp_ms).items():
                draft.keys.setdefault(key, first)
            record = self.judge(book.settle(command, cid, digest, raw.offset, raw.timestamp_ms))
            if record is None:
                continue
            body = self.codec.journal_body(record)
            out.records.append((self.topics.journal, raw.key, self.codec.journal_header + body + book.seal(body), []))
            if record.binds_key:
                ids, digests, offsets, times = out.bound
                ids.append(cid)
                digests.append(digest)
                offsets.append(raw.offset)
                times.append(raw.timestamp_ms)
        self.add_state(draft, out)
        return out

    def judge(self, record: JournalRecord) -> JournalRecord | None:
        """Hook: what becomes of an outcome before it is written."""
        return record

    def decode(self, raw: LogRecord):
        """The command, or None and the reason why it is none."""
        try:
            command = self.codec.decode(raw.value)
        except UndecodableError as e:
            return None, e
        if not isinstance(command, COMMANDS):
            return None, UndecodableError("contract", "not a command")
        return command, None

    def add_state(self, draft: Draft, out: Output) -> None:
        state, encode = self.topics.state, self.codec.encode
        for a in draft.changed_accounts():
            out.records.append((state, f"a:{a.account_id}".encode(), encode(a.state()), []))
        for h in draft.changed_holds():
            out.records.append((state, f"h:{h.name}".encode(), encode(h.state()) if h.remaining else None, []))
        for p in draft.changed_partners():
            out.records.append((state, f"p:{p.partner_id}".encode(), encode(p.record()), []))
        out.records.append((state, b"meta", encode(draft.head.record()), []))

    # ---- sending: what most of the known bugs are about ----------------------------------------------------------

    def commit(self, out: Output) -> None:
        """Outputs and offset in one Kafka transaction, then the draft."""
        self.producer.begin_transaction()
        self.produce(out)
        self.send_offset(out)
        self.producer.commit_transaction(30)
        self.merge(out)

    def produce(self, out: Output) -> None:
        for topic, key, value, headers in out.records:
            self.producer.produce(topic, value, key, PARTITION, headers=headers)

    def send_offset(self, out: Output) -> None:
        """The offset goes with the transaction, in the name of the group."""
        consumer = Consumer(self.kafka.consumer(self.topics.group))
        try:
            offsets = [TopicPartition(self.topics.submitted, PARTITION, out.next_offset)]
            self.producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 30)
        finally:
            consumer.close()

    def commit_offset(self, out: Output) -> None:
        """The offset by itself, outside any transaction."""
        consumer = Consumer(self.kafka.consumer(self.topics.group))
        try:
            offsets = [TopicPartition(self.topics.submitted, PARTITION, out.next_offset)]
            consumer.commit(offsets=offsets, asynchronous=False)
        finally:
            consumer.close()

    def merge(self, out: Output) -> None:
        assert out.draft is not None
        out.draft.merge()
        self.ledger.keys.add(*out.bound)


def _origin(topics: Topics, raw: LogRecord, why: UndecodableError | None) -> list[tuple[str, str | bytes | None]]:
    assert why is not None
    told = {
        "reason": why.reason, "detail": why.detail, "source_topic": topics.submitted,
        "source_partition": str(raw.partition), "source_offset": str(raw.offset),
        "received_at": str(raw.timestamp_ms), "attempts": "1",
    }  # fmt: skip
    return [(k, v.encode()) for k, v in told.items()]
