"""The outbox of notifications in Kafka: the topic `webhooks`, written by one worker per partition and by nobody else.

What is queued, how far the journal was read, and what became of an attempt are rows of one compacted topic. They are
written in Kafka transactions under one transactional id per slot: whoever starts fences the worker before it, waits
until that one's Kafka transaction is decided, and only then reads the rows. A worker that was fenced ends; one that
does not know what became of its Kafka transaction forgets everything and reads again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.codec import Codec
from schemas.errors import ClearlineError, InvariantError
from schemas.failpoints import failpoint
from schemas.records import Delivery, Record, WebhookProgress
from streams.clients import KafkaConfig, noted
from streams.places import KafkaLog, records_at
from streams.reader import LogReader, LogRecord, end_offsets, offsets_at, read_to_end
from streams.registry import Registry
from streams.report import Ends, Report
from streams.sink_host import _Learner, _stop_on_signals
from streams.topics import Topics

__all__ = [
    "Ends", "FencedOutError", "Outbox", "Report", "Row", "Sources", "Write",
    "deliveries", "delivery_key", "last_rows", "notice_key", "partitions_of_slot", "stop_on_signals",
]  # fmt: skip

PROGRESS = "m"
JOURNAL_MS, STATE_MS = 100, 250  # how late a notification may learn of something
T = TypeVar("T")
_FENCED = (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)
stop_on_signals = _stop_on_signals


class FencedOutError(ClearlineError):
    """Another worker has taken over this slot: this one may not write any more and must end."""


class Write(NamedTuple):
    """A row to write; `row` None deletes it."""

    partition: int
    key: str
    row: Record | None


class Row(NamedTuple):
    """A row as the topic has it."""

    partition: int
    offset: int
    key: str
    row: Record


def partitions_of_slot(partitions: int, slot: int, slots: int) -> list[int]:
    """The partitions that one of several workers has."""
    return [p for p in range(partitions) if p % slots == slot]


class Outbox:
    """One slot's writer and reader. Made, it has fenced the one before. Blocking; one thread at a time.

    Raises FencedOutError when another one took over, KafkaException when it does not know what became of something:
    then it must be made anew.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        topics: Topics,
        registry: Registry,
        slot: int,
        partitions: Iterable[int],
        *,
        call_timeout_s: float = 30.0,
        transaction_timeout_ms: int = 30_000,
    ) -> None:
        self.kafka, self.topics = kafka, topics
        self.partitions = tuple(partitions)
        self._learner = _Learner(registry.codec(), registry)
        self._timeout_s = call_timeout_s
        self._producer = Producer(
            kafka.producer(
                transactional_id=f"{topics.world}.webhooks-{slot}", transaction_timeout_ms=transaction_timeout_ms
            )
        )
        self._producer.init_transactions(call_timeout_s)
        failpoint("webhooks.after_fence")

    @property
    def codec(self) -> Codec:
        """The codec, which learns schemas that it meets."""
        return self._learner.codec

    def decode(self, value: bytes) -> Any:
        """A record of the ledger's own topics. Raises InvariantError when it is none of ours."""
        return self._learner(lambda: self._learner.codec.decode(value))

    def rows(self, start: Mapping[int, int] | None = None) -> Iterator[Row | tuple[int, str]]:
        """What the topic holds, from `start` on: rows, and (partition, key) of each that was deleted."""
        for r in read_to_end(self.kafka, self.topics.webhooks, start or dict.fromkeys(self.partitions, 0)):
            key = (r.key or b"").decode("utf-8", "replace")
            if r.value is None:
                yield r.partition, key
            else:
                yield Row(r.partition, r.offset, key, self.decode(r.value))

    def write(self, writes: list[Write]) -> list[int]:
        """Writes rows in one Kafka transaction; returns their offsets."""
        offsets = [-1] * len(writes)
        failed: list[KafkaError] = []

        producer, topic, encode = self._producer, self.topics.webhooks, self._learner.codec.encode
        try:
            producer.begin_transaction()
            for i, (partition, key, row) in enumerate(writes):
                value = encode(row) if row is not None else None
                producer.produce(topic, value, key.encode(), partition, on_delivery=noted(offsets, i, failed))
                producer.poll(0)
            producer.flush(self._timeout_s)
            failpoint("webhooks.after_produce")
            if failed:
                raise KafkaException(failed[0])
            producer.commit_transaction(self._timeout_s)
        except KafkaException as e:
            if e.args[0].code() in _FENCED:
                raise FencedOutError("another webhook worker has taken over this slot: this one ends") from e
            raise
        failpoint("webhooks.after_commit")
        return offsets

    def sources(self, progress: Mapping[int, WebhookProgress], since_ms: int | None) -> Sources:
        """Readers of journal and ledger.state that go on from `progress`. Where there is none, the journal is read from
        the first record booked at or after `since_ms` (None: from its end)."""
        journal, state = self.topics.journal, self.topics.state
        new = [p for p in self.partitions if p not in progress]
        since = dict.fromkeys(new, max(0, since_ms)) if since_ms is not None else {}
        found = offsets_at(self.kafka, journal, since) if since else {}
        ends, state_ends = end_offsets(self.kafka, journal), end_offsets(self.kafka, state)
        start = {p: progress[p].journal_next if p in progress else found.get(p, ends[p]) for p in self.partitions}
        # A state that was restored from a backup ends before where it ended: what comes from now on is news there.
        live = {
            p: min(progress[p].state_next, state_ends[p]) if p in progress else state_ends[p] for p in self.partitions
        }
        return Sources(self.kafka, self.topics, start, live)

    def close(self) -> None:
        """Drops what was not written."""
        with suppress(KafkaException):
            self._producer.purge()


class Sources:
    """Journal and ledger.state, followed together. Blocking; one thread at a time. `live`: from which offset of
    ledger.state on rows are news."""

    def __init__(self, kafka: KafkaConfig, topics: Topics, start: dict[int, int], live: dict[int, int]) -> None:
        self.live = live
        self.journal = LogReader(kafka, topics.journal, start, patience_ms=JOURNAL_MS)
        self.state = LogReader(kafka, topics.state, dict.fromkeys(live, 0), patience_ms=STATE_MS)
        self._submitted = topics.submitted
        self._commands = KafkaLog(kafka)
        self._busy = threading.Lock()  # a session that ends leaves its threads behind: `close` waits for them

    def poll(self, records_max: int, timeout_s: float) -> tuple[list[LogRecord], list[LogRecord]]:
        """What came: of the journal, and of ledger.state the holds, limits and usage."""
        with self._busy:
            records = self.journal.poll(records_max, timeout_s)
            state = self.state.poll(4 * records_max, 0.0)
        rows = [r for r in state if (r.key or b"")[:2] in (b"h:", b"l:", b"u:")]
        return records, rows

    def commands(self, wanted: Mapping[int, Iterable[int]]) -> dict[tuple[int, int], LogRecord]:
        """Records of transactions.submitted at these offsets, as far as they are kept. Raises PartUnavailableError."""
        with self._busy:
            return records_at(self._commands, self._submitted, wanted)

    def close(self) -> None:
        """Stops following."""
        with self._busy:
            self.journal.close()
            self.state.close()
            self._commands.close()


def last_rows(rows: Iterable[Row | tuple[int, str]], keep: Callable[[Row], T]) -> dict[tuple[int, str], T]:
    """What is kept of the rows that stand, by partition and key."""
    out: dict[tuple[int, str], T] = {}
    for r in rows:
        if isinstance(r, Row):
            out[r.partition, r.key] = keep(r)
        else:
            out.pop(r, None)
    return out


def deliveries(
    kafka: KafkaConfig, topics: Topics, codec: Codec, partition: int | None = None, subscription_id: str = ""
) -> list[Delivery]:
    """What is not delivered, of one partition or of all, of one subscription or of all, by partition and number: for
    whoever only looks. Raises PartUnavailableError, and InvariantError when something else stands in the topic."""
    found: dict[tuple[int, bytes], Delivery] = {}
    for r in read_to_end(kafka, topics.webhooks, {partition: 0} if partition is not None else None):
        key = r.partition, r.key or b""
        if r.value is None:
            found.pop(key, None)
        elif key[1].startswith(b"d:"):
            row = codec.decode(r.value)
            if not isinstance(row, Delivery):
                raise InvariantError(f"webhooks[{r.partition}] offset {r.offset} is no delivery", r.partition)
            if subscription_id in ("", row.subscription_id):
                found[key] = row
    return [d for _, d in sorted(found.items(), key=lambda item: (item[0][0], item[1].number))]


def notice_key(key: str) -> str:
    """The key of a notice's row."""
    return f"n:{key}"


def delivery_key(delivery_id: str) -> str:
    """The key of a delivery's row."""
    return f"d:{delivery_id}"
