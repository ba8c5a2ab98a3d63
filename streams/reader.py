"""Reading a topic as an auditor does: read_committed, by partition and offset, without a consumer group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.errors import PartUnavailableError
from streams.clients import KafkaConfig, refused, told

_STALL_S = 60.0
_ASK_S = 30.0
_WORTH_A_FETCH = 100_000  # bytes
T = TypeVar("T")


class LogRecord(NamedTuple):
    """One committed record. `timestamp_ms`: the broker's, milliseconds since 1970 UTC."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None


def record_of(message: Any) -> LogRecord:
    """A LogRecord from the client's message."""
    return LogRecord(
        message.partition(), message.offset(), message.timestamp()[1], message.key(), message.value(), message.headers()
    )


class LogReader:
    """Follows a topic from `start` (partition -> offset; None: every partition from its first record).

    Not thread-safe. `position` holds the next offset of each partition, past transaction markers as well.
    `patience_ms`: for how long the broker may let less than 100 kB lie. Whoever is in no hurry gives it, because each
    commit of the settlement otherwise wakes every reader, and the broker for each of them.
    """

    def __init__(
        self, kafka: KafkaConfig, topic: str, start: Mapping[int, int] | None = None, *, patience_ms: int = 0
    ) -> None:
        self.kafka = kafka
        self.topic = topic
        patient = {"fetch_min_bytes": _WORTH_A_FETCH, "fetch_wait_max_ms": patience_ms} if patience_ms else {}
        self._consumer = Consumer(
            kafka.consumer("clearline-reader", enable_partition_eof=True, queued_max_messages_kbytes=65536, **patient)
        )
        parts = partitions_of(self._consumer, kafka, topic)
        self.position: dict[int, int] = {}
        for p in parts:
            low, _ = _span(self._consumer, kafka, topic, p)
            self.position[p] = max(low, start.get(p, low)) if start else low
        if start is not None:
            self.position = {p: o for p, o in self.position.items() if p in start}
        self.at_end: set[int] = set()
        self._consumer.assign([TopicPartition(topic, p, o) for p, o in self.position.items()])

    def poll(self, records_max: int = 10_000, timeout_s: float = 0.1) -> list[LogRecord]:
        """What came, at most `records_max` after at most `timeout_s`. Raises KafkaException on a fatal error, and
        when the broker does not let us read."""
        out: list[LogRecord] = []
        got: list[Any] = self._consumer.consume(records_max, timeout_s)
        for m in got:
            error = m.error()
            if error is None:
                p = m.partition()
                self.position[p] = m.offset() + 1
                self.at_end.discard(p)
                out.append(record_of(m))
            elif error.code() == KafkaError._PARTITION_EOF:
                self.position[m.partition()] = max(self.position[m.partition()], m.offset())
                self.at_end.add(m.partition())
            elif error.fatal() or refused(error):  # who may not read waits for nothing
                raise KafkaException(error)
        return out

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def patiently(kafka: KafkaConfig, ask: Callable[[], T]) -> T:
    """Asks again for up to 30 s: the first question may meet a connection that the client is just replacing.

    Raises PartUnavailableError with the client's last word.
    """
    deadline = time.monotonic() + _ASK_S
    while True:
        try:
            return ask()
        except KafkaException as e:
            if time.monotonic() > deadline or refused(e.args[0]):
                raise PartUnavailableError("Kafka", kafka.bootstrap, told(kafka, e)) from None
        time.sleep(0.1)


def _span(consumer: Consumer, kafka: KafkaConfig, topic: str, partition: int) -> tuple[int, int]:
    place = TopicPartition(topic, partition)
    found: tuple[int, int] = patiently(kafka, lambda: consumer.get_watermark_offsets(place, timeout=10))
    return found


def partitions_of(consumer: Consumer, kafka: KafkaConfig, topic: str) -> list[int]:
    try:
        described = consumer.list_topics(topic, timeout=10).topics[topic]
    except KafkaException as e:
        raise PartUnavailableError("Kafka", kafka.bootstrap, told(kafka, e)) from None
    if described.error is not None:
        raise PartUnavailableError("Kafka", kafka.bootstrap, f"topic {topic}: {described.error.str()}")
    return sorted(described.partitions)


def spans(kafka: KafkaConfig, topic: str) -> dict[int, tuple[int, int]]:
    """First offset that is kept, and last stable offset, of each partition now: a client that reads only what is
    committed is told that one as the high watermark."""
    return _spans(kafka, topic, kafka.consumer("clearline-reader"))


def spans_uncommitted(kafka: KafkaConfig, topic: str) -> dict[int, tuple[int, int]]:
    """First offset that is kept and the next offset to be written, of each partition now: also of what is not committed
    or was aborted."""
    return _spans(kafka, topic, kafka.consumer("clearline-reader", isolation_level="read_uncommitted"))


def _spans(kafka: KafkaConfig, topic: str, settings: dict[str, Any]) -> dict[int, tuple[int, int]]:
    consumer = Consumer(settings)
    try:
        return {p: _span(consumer, kafka, topic, p) for p in partitions_of(consumer, kafka, topic)}
    finally:
        consumer.close()


def end_offsets(kafka: KafkaConfig, topic: str) -> dict[int, int]:
    """The last stable offset of each partition now: nothing at or after it is shown yet."""
    return {p: high for p, (_, high) in spans(kafka, topic).items()}


def committed_offsets(kafka: KafkaConfig, group: str, topic: str) -> dict[int, int]:
    """Where a group stands in each partition of a topic; -1001 where it has committed nothing."""
    consumer = Consumer(kafka.consumer(group))
    try:
        wanted = [TopicPartition(topic, p) for p in partitions_of(consumer, kafka, topic)]
        found = patiently(kafka, lambda: consumer.committed(wanted, timeout=30))
        return {tp.partition: tp.offset for tp in found}
    finally:
        consumer.close()


def offsets_at(kafka: KafkaConfig, topic: str, since: Mapping[int, int]) -> dict[int, int]:
    """The first offset of each partition whose record is at or after a time, ms UTC; the end where there is none."""
    consumer = Consumer(kafka.consumer("clearline-reader"))
    try:
        wanted = [TopicPartition(topic, p, ms) for p, ms in since.items()]
        found = consumer.offsets_for_times(wanted, timeout=30) if wanted else []
        ends = {
            tp.partition: consumer.get_watermark_offsets(TopicPartition(topic, tp.partition), timeout=30)[1]
            for tp in found
            if tp.offset < 0
        }
        return {tp.partition: tp.offset if tp.offset >= 0 else ends[tp.partition] for tp in found}
    finally:
        consumer.close()


def read_to_end(kafka: KafkaConfig, topic: str, start: Mapping[int, int] | None = None) -> Iterator[LogRecord]:
    """Every committed record from `start` up to the ends of the partitions at the time of the call. What a Kafka
    transaction has written there and not shown yet is waited for: it may be committed already, in one topic seen
    and in another not, because its markers are not written all at once.

    Raises PartUnavailableError when nothing moves for 60 s before the end (a Kafka transaction that stays open).
    """
    ends = {p: high for p, (_, high) in spans_uncommitted(kafka, topic).items()}
    with LogReader(kafka, topic, start) as reader:
        open_parts = {p for p in reader.position if reader.position[p] < ends[p]}
        deadline = time.monotonic() + _STALL_S
        while open_parts:
            before = dict(reader.position)
            for r in reader.poll(10_000, 0.2):
                if r.offset < ends[r.partition]:
                    yield r
            open_parts = {p for p in open_parts if reader.position[p] < ends[p]}
            if reader.position != before:
                deadline = time.monotonic() + _STALL_S
            elif time.monotonic() > deadline:
                where = ", ".join(f"{topic}[{p}] at {reader.position[p]} of {ends[p]}" for p in sorted(open_parts))
                raise PartUnavailableError("Kafka", kafka.bootstrap, f"a Kafka transaction stays open: {where}")


def read_decided(
    kafka: KafkaConfig, topic: str, ends: Mapping[int, int], start: Mapping[int, int] | None = None
) -> Iterator[LogRecord]:
    """Every committed record from `start` up to these ends, which are last stable offsets (`end_offsets`): nothing that
    is undecided is waited for. Raises PartUnavailableError when nothing moves for 60 s."""
    with LogReader(kafka, topic, start) as reader:
        deadline = time.monotonic() + _STALL_S
        while any(reader.position[p] < ends[p] for p in reader.position):
            before = dict(reader.position)
            yield from (r for r in reader.poll(10_000, 0.2) if r.offset < ends[r.partition])
            if reader.position != before:
                deadline = time.monotonic() + _STALL_S
            elif time.monotonic() > deadline:
                raise PartUnavailableError("Kafka", kafka.bootstrap, f"{topic}: no records within {_STALL_S:.0f} s")
