"""What status asks of the brokers: one look within a time that is fixed beforehand, over connections that stay open.

Everything here is read, nothing is waited for twice, and nobody's group is joined: a look must be over within a second
or two also when the broker hangs, and must not disturb it when it does not.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from schemas.errors import PartUnavailableError
from streams.clients import KafkaConfig
from streams.topics import Topics

CHAIN_BYTES = 32  # the last field of a journal record
_TAIL = 64  # offsets from a partition's end in which its last record is looked for; markers take some
_LETTERS_KEPT = 5_000
_FEW = 1_000  # offsets: so few are read and counted, because end markers of Kafka transactions take offsets, too
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class TopicLook:
    """One topic as the brokers have it. `leaderless`: partitions that nobody leads; `short`: those with fewer replicas
    in sync than they have."""

    partitions: int
    leaderless: tuple[int, ...] = ()
    short: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the settlement's group: `slot` as its instance id says, and the partitions it has."""

    instance: str
    host: str
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BrokerLook:
    """What one look found. `ends`: the last stable offset by topic and partition; `committed`: the settlement's."""

    brokers: int
    topics: dict[str, TopicLook]
    ends: dict[str, dict[int, int]]
    lows: dict[str, dict[int, int]]
    committed: dict[int, int]
    members: tuple[Member, ...]
    took_ms: int = 0


class Waiting(NamedTuple):
    """What waits in one partition. `first_ms`: the broker's append time of the first record, None when there is none;
    `records`: how many there are, None when they are too many to count."""

    first_ms: int | None
    records: int | None


class Brokers:
    """Asks one cluster about one world, again and again. Not thread-safe. `timeout_s`: for each question."""

    def __init__(self, kafka: KafkaConfig, topics: Topics, timeout_s: float = 1.0) -> None:
        self._kafka = kafka
        self._topics = topics
        self._timeout_s = timeout_s
        self._admin: AdminClient | None = None
        self.answered = False  # whether a broker said at this look what there is, whatever else it did not say in time

    def look(self) -> BrokerLook:
        """Raises PartUnavailableError when no broker answers in time."""
        began = time.monotonic()
        self.answered = False
        try:
            return self._look(began)
        except (KafkaException, LateError) as e:
            self._admin = None  # the next look begins with a fresh client: this one may wait before it connects again
            said = e.args[0].str() if isinstance(e, KafkaException) else "no answer in time"
            raise PartUnavailableError("Kafka", self._kafka.bootstrap, said) from None

    def _look(self, began: float) -> BrokerLook:
        if self._admin is None:
            self._admin = AdminClient(self._kafka.base())
        found = self._admin.list_topics(timeout=self._timeout_s)
        self.answered = True
        topics = {
            name: TopicLook(
                len(t.partitions),
                tuple(sorted(p for p, x in t.partitions.items() if x.leader < 0)),
                tuple(sorted(p for p, x in t.partitions.items() if len(x.isrs) < len(x.replicas))),
            )
            for name, t in found.topics.items()
            if name.startswith(f"{self._topics.world}.")
        }
        places = [
            TopicPartition(name, p)
            for name, t in topics.items()
            if name in self._topics.settings()
            for p in range(t.partitions)
            if p not in t.leaderless
        ]
        group = self._topics.group
        latest = self._offsets(places, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        earliest = self._offsets(places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        of_group = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group)], request_timeout=self._timeout_s
        )
        described = self._admin.describe_consumer_groups([group], request_timeout=self._timeout_s)
        deadline = time.monotonic() + self._timeout_s + 0.2
        ends, lows = _by_topic(latest, deadline), _by_topic(earliest, deadline)
        committed = {
            tp.partition: tp.offset
            for tp in _result(of_group[group], deadline).topic_partitions
            if tp.topic == self._topics.submitted and tp.offset >= 0
        }
        members = tuple(
            Member(
                m.group_instance_id or m.client_id or m.member_id,
                m.host.lstrip("/"),
                tuple(sorted(tp.partition for tp in m.assignment.topic_partitions)),
            )
            for m in _result(described[group], deadline).members
        )
        took_ms = int((time.monotonic() - began) * 1000)
        return BrokerLook(len(found.brokers), topics, ends, lows, committed, members, took_ms)

    def _offsets(self, places: list[TopicPartition], spec: OffsetSpec) -> dict[TopicPartition, Future[Any]]:
        assert self._admin is not None, "the look has made it"
        if not places:
            return {}
        return self._admin.list_offsets(
            dict.fromkeys(places, spec), isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=self._timeout_s
        )


def _result(future: Future[Any], deadline: float) -> Any:
    return future.result(max(0.05, deadline - time.monotonic()))


def _by_topic(asked: Mapping[TopicPartition, Future[Any]], deadline: float) -> dict[str, dict[int, int]]:
    out: dict[str, dict[int, int]] = {}
    for tp, future in asked.items():
        out.setdefault(tp.topic, {})[tp.partition] = _result(future, deadline).offset
    return out


class Peek:
    """Reads the first record from given places of one topic, to say since when they wait. Not thread-safe."""

    def __init__(self, kafka: KafkaConfig, topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer(
            kafka.consumer(
                "clearline-reader", enable_partition_eof=True, max_partition_fetch_bytes=262_144,
                queued_max_messages_kbytes=8_192, fetch_wait_max_ms=50,
            )
        )  # fmt: skip

    def waiting(
        self, at: Mapping[int, int], ends: Mapping[int, int], timeout_s: float = 0.5, *, count: bool = False
    ) -> dict[int, Waiting]:
        """For each partition of `at` (offset by partition) that has not come to its end. With `count`, where few
        offsets are left, the records are counted. A partition that did not answer in time is left out."""
        left = {p: o for p, o in at.items() if o < ends.get(p, 0)}
        if not left:
            return {}
        counted = {p for p, o in left.items() if count and ends[p] - o <= _FEW}
        first: dict[int, int] = {}
        records = dict.fromkeys(left, 0)
        done: set[int] = set()
        self._consumer.assign([TopicPartition(self._topic, p, o) for p, o in left.items()])
        deadline = time.monotonic() + timeout_s
        while done != set(left) and time.monotonic() < deadline:
            got: list[Any] = self._consumer.consume(500, 0.05)
            for m in got:
                p, offset = m.partition(), m.offset()
                if p not in left or p in done:
                    continue
                if m.error() is None and offset < ends[p]:
                    first.setdefault(p, m.timestamp()[1])
                    records[p] += 1
                    if p in counted and offset + 1 < ends[p]:
                        continue
                done.add(p)  # its first record is known, or it is read to its end, or it cannot be read
        self._consumer.unassign()
        return {p: Waiting(first.get(p), records[p] if p in counted else None) for p in done}

    def tails(self, ends: Mapping[int, int], timeout_s: float = 0.5) -> dict[int, bytes]:
        """The last record of each partition; those that have none, or did not answer in time, are left out."""
        places = {p: max(0, end - _TAIL) for p, end in ends.items() if end > 0}
        if not places:
            return {}
        last: dict[int, bytes] = {}
        open_parts = set(places)
        self._consumer.assign([TopicPartition(self._topic, p, o) for p, o in places.items()])
        deadline = time.monotonic() + timeout_s
        while open_parts and time.monotonic() < deadline:
            got: list[Any] = self._consumer.consume(500, 0.05)
            for m in got:
                if m.error() is not None:
                    open_parts.discard(m.partition())
                elif m.value() is not None and m.partition() in open_parts:
                    last[m.partition()] = m.value()
                    if m.offset() + 1 >= ends[m.partition()]:
                        open_parts.discard(m.partition())
        self._consumer.unassign()
        return {p: value for p, value in last.items() if p not in open_parts}

    def close(self) -> None:
        self._consumer.close()


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter, as far as a flood is judged by it. `at_ms`: when it was put there, by the broker's clock."""

    partition: int
    offset: int
    at_ms: int
    key: str
    reason: str


@dataclass(slots=True)
class LettersLook:
    """The dead letters of the last hour, newest last. `complete` is false while older ones of that hour are unread."""

    hour: list[Letter] = field(default_factory=list)
    complete: bool = True


class Letters:
    """Follows `transactions.dead` from an hour ago on, at most 5,000 letters of it. Not thread-safe."""

    def __init__(self, kafka: KafkaConfig, topics: Topics) -> None:
        self._topic = topics.dead
        self._consumer = Consumer(
            kafka.consumer("clearline-reader", enable_partition_eof=True, queued_max_messages_kbytes=16_384)
        )
        self._next: dict[int, int] = {}
        self._kept: deque[Letter] = deque()
        self._cut = False

    def look(self, lows: Mapping[int, int], ends: Mapping[int, int], timeout_s: float = 0.7) -> LettersLook:
        """Reads what came since the last look, for at most `timeout_s`."""
        if not self._next or any(self._next.get(p, 0) > end for p, end in ends.items()):  # the topic is a new one
            self._begin(lows, ends, timeout_s)
        places = {p: o for p, o in self._next.items() if o < ends.get(p, 0)}
        open_parts = set(places)
        if places:
            self._consumer.assign([TopicPartition(self._topic, p, o) for p, o in places.items()])
        deadline = time.monotonic() + timeout_s
        while open_parts and time.monotonic() < deadline:
            got: list[Any] = self._consumer.consume(1_000, 0.05)
            for m in got:
                p = m.partition()
                self._next[p] = max(self._next.get(p, 0), m.offset() + (m.error() is None))
                if m.error() is None:
                    self._kept.append(_letter(m))
                if m.error() is not None or self._next[p] >= ends.get(p, 0):
                    open_parts.discard(p)
        if places:
            self._consumer.unassign()
        return self._hour(not open_parts)

    def _begin(self, lows: Mapping[int, int], ends: Mapping[int, int], timeout_s: float) -> None:
        """From an hour ago on, or from nearer to the end where there is more than is kept."""
        self._kept.clear()
        since = int(time.time() * 1000) - _HOUR_MS
        try:
            found = self._consumer.offsets_for_times(
                [TopicPartition(self._topic, p, since) for p in ends], timeout=timeout_s
            )
        except KafkaException:
            found = []
        at = {tp.partition: tp.offset if tp.offset >= 0 else ends[tp.partition] for tp in found}
        each = _LETTERS_KEPT // max(1, len(ends))
        self._next = {p: max(lows.get(p, 0), at.get(p, 0), end - each) for p, end in ends.items()}
        self._cut = any(self._next[p] > max(lows.get(p, 0), at.get(p, 0)) for p in ends)

    def _hour(self, read_all: bool) -> LettersLook:
        since = int(time.time() * 1000) - _HOUR_MS
        kept = sorted((x for x in self._kept if x.at_ms >= since), key=lambda x: (x.at_ms, x.partition, x.offset))
        self._cut = self._cut or len(kept) > _LETTERS_KEPT
        self._kept = deque(kept[-_LETTERS_KEPT:])
        return LettersLook(list(self._kept), read_all and not self._cut)

    def close(self) -> None:
        self._consumer.close()


def _letter(m: Any) -> Letter:
    headers = dict(m.headers() or [])
    reason = (headers.get("reason") or b"").decode("utf-8", "replace")
    key = (m.key() or b"").decode("utf-8", "backslashreplace")[:80]
    return Letter(m.partition(), m.offset(), m.timestamp()[1], key, reason)
