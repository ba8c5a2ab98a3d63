"""Restores topics from a backup on a cluster where they are empty: each record at the offset that it had.

Offsets have gaps, because end markers of Kafka transactions take offsets that no reader sees. They are made again with
what makes them. A run of records before a gap of one is written in a Kafka transaction that commits, so its marker is
the gap; a longer gap is a Kafka transaction of fillers that is aborted, which no reader of committed records ever sees.
Topics that are compacted are not read by offset, so their rows are written one after the other.

Records bear their old times, because the time of a command is part of what it does. So the topics take the writer's
time during the restore, and the broker's again after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, but not said so
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from schemas.errors import BadInputError, PartUnavailableError
from streams.archive.files import FileFacts, Kept, read_file
from streams.clients import KafkaConfig, admin_client
from streams.group_offsets import members, set_group
from streams.reader import spans_uncommitted
from streams.topics import DEAD_BYTES_MAX, Topics, create_topics

TIME = "message.timestamp.type"
_COMMITTED_MAX = 5_000  # records of a Kafka transaction that is only there for its marker
_FLUSH_S = 120.0
_FILLERS_MAX = 200_000
Progress = Callable[[int], None]


class NotEmptyError(BadInputError):
    """There is something where a backup is to be restored."""


@dataclass(frozen=True, slots=True)
class Run:
    """Records of consecutive offsets, and how many offsets without one follow before the next. `marked`: the first of
    these is the marker of the Kafka transaction that the run is written in."""

    records: Sequence[Kept]
    gap: int
    marked: bool


def runs(records: Iterable[Kept], end: int) -> Iterator[Run]:
    """A partition's records as runs, up to offset `end`. One that is long is several; the last has the marker."""
    held: list[Kept] = []
    for r in records:
        if held and r.offset != held[-1].offset + 1:
            gap = r.offset - held[-1].offset - 1
            yield Run(held, gap, gap == 1)
            held = []
        held.append(r)
        if len(held) > 2 * _COMMITTED_MAX:
            yield Run(held[:_COMMITTED_MAX], 0, False)
            held = held[_COMMITTED_MAX:]
    if held:
        gap = max(0, end - held[-1].offset - 1)
        yield Run(held, gap, gap == 1)


def put_topics(
    kafka: KafkaConfig, topics: Topics, folder: Path, files: Sequence[FileFacts], cuts: Mapping[int, int],
    partitions: int, *, replication: int = 1, progress: Progress | None = None,
) -> int:  # fmt: skip
    """Restores the files; returns how many records. Verified: each record is acknowledged at its own offset.

    `cuts`: the next offset to settle of each partition, which becomes the one of the settlement's group.

    Raises NotEmptyError when a topic holds records, BadInputError for a file that was changed, PartUnavailableError.
    """
    create_topics(kafka, topics, partitions, replication=replication)
    _refuse_what_is_there(kafka, topics)
    _refuse_who_runs(kafka, topics)
    settings = topics.settings()
    by_broker = [n for n, s in settings.items() if s.get(TIME) == "LogAppendTime"]
    _set_time(kafka, by_broker, "CreateTime")
    done: list[int] = []

    def one(facts: FileFacts) -> int:
        name = f"{topics.world}.{facts.topic}"
        exact = settings[name].get("cleanup.policy") != "compact"
        count = _Writer(kafka, topics.world, name, facts.partition, exact).write(folder, facts)
        done.append(count)
        if progress is not None:
            progress(sum(done))
        return count

    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="restore") as pool:
        total = sum(pool.map(one, files))
    _set_time(kafka, by_broker, "LogAppendTime")
    set_group(kafka, topics, cuts)  # where the state stands, as if it had committed both together
    return total


@dataclass(slots=True)
class _Writer:
    """Writes one partition. `exact`: at the offsets of the records."""

    kafka: KafkaConfig
    world: str
    topic: str
    partition: int
    exact: bool
    _wrong: list[str] = field(default_factory=list)
    _plain: Any = None
    _transactional: Any = None
    _looker: Any = None
    _marker: int = -1  # where a marker is to be that may not be written yet

    def write(self, folder: Path, facts: FileFacts) -> int:
        self._plain = Producer(self._settings())
        count = 0
        records = read_file(folder, facts)
        first = next(records, None)
        begin = facts.end if first is None else first.offset
        if self.exact and begin:
            self._fill(begin, 0 if first is None else first.timestamp_ms)
        for run in runs(chain([first] if first else [], records), facts.end):
            self._put(run)
            count += len(run.records)
        self._await_marker()
        if self._looker is not None:
            self._looker.close()
        return count

    def _put(self, run: Run) -> None:
        if self.exact and run.marked:
            self._committed(run.records)
            return
        self._written(run.records)
        if self.exact and run.gap:
            self._aborted(run.records[-1].offset, run.gap, run.records[-1].timestamp_ms)

    def _settings(self, **more: Any) -> dict[str, Any]:
        return self.kafka.producer(message_max_bytes=DEAD_BYTES_MAX, message_timeout_ms=100_000, **more)

    def _written(self, records: Sequence[Kept]) -> None:
        self._await_marker()
        for r in records:
            self._send(self._plain, r)
        self._flush(self._plain)

    def _committed(self, records: Sequence[Kept]) -> None:
        """The run, its last records in a Kafka transaction whose marker takes the next offset."""
        if len(records) > _COMMITTED_MAX:
            self._written(records[:-_COMMITTED_MAX])
            records = records[-_COMMITTED_MAX:]
        producer = self._of_transactions()
        producer.begin_transaction()
        for r in records:
            self._send(producer, r)
        producer.commit_transaction(_FLUSH_S)
        self._check()
        self._marker = records[-1].offset + 1

    def _aborted(self, before: int, gap: int, at_ms: int) -> None:
        """At least two offsets that no reader of committed records sees: fillers, and the marker that takes them back.
        They bear the time of the record before, so that the log can be searched by time as before."""
        while gap:
            now = gap if gap <= _FILLERS_MAX else min(_FILLERS_MAX, gap - 2)
            producer = self._of_transactions()
            producer.begin_transaction()
            for _ in range(now - 1):
                self._produce(producer, b"", None, at_ms, [], None)
            self._flush(producer)
            producer.abort_transaction(_FLUSH_S)
            gap -= now
            before += now
            self._marker = before

    def _await_marker(self) -> None:
        """Waits until the last marker is in the log. A commit is answered before that, and another producer's records
        could come before it; those of the same producer cannot."""
        if self._marker < 0:
            return
        if self._looker is None:
            settings = self.kafka.consumer("clearline-reader", isolation_level="read_uncommitted")
            self._looker = Consumer(settings)
        place, deadline = TopicPartition(self.topic, self.partition), time.monotonic() + _FLUSH_S
        while self._looker.get_watermark_offsets(place, timeout=10)[1] <= self._marker:
            if time.monotonic() > deadline:
                hint = f"{self.topic}[{self.partition}]: no end marker at {self._marker} within {_FLUSH_S:.0f} s"
                raise PartUnavailableError("Kafka", self.kafka.bootstrap, hint)
            time.sleep(0.002)
        self._marker = -1

    def _fill(self, count: int, at_ms: int) -> None:
        """Offsets of what retention had dropped, as fillers that are dropped at once. `at_ms` 0: now."""
        for _ in range(count):
            self._produce(self._plain, b"", None, at_ms, [], None)
        self._flush(self._plain)
        admin = admin_client(self.kafka)
        for done in admin.delete_records([TopicPartition(self.topic, self.partition, count)]).values():
            done.result(_FLUSH_S)

    def _of_transactions(self) -> Any:
        if self._transactional is None:
            name = f"{self.world}.restore-{self.topic}-{self.partition}"
            self._transactional = Producer(self._settings(transactional_id=name, transaction_timeout_ms=120_000))
            self._transactional.init_transactions(_FLUSH_S)
        return self._transactional

    def _send(self, producer: Any, r: Kept) -> None:
        wanted = r.offset if self.exact else None
        self._produce(producer, r.value, r.key, r.timestamp_ms, list(r.headers), wanted)

    def _produce(
        self, producer: Any, value: bytes | None, key: bytes | None, at_ms: int, headers: list[Any], wanted: int | None
    ) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                if error.code() not in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
                    self._wrong.append(error.str())
            elif wanted is not None and message.offset() != wanted:
                self._wrong.append(f"the record of offset {wanted} was written at {message.offset()}")

        while True:
            try:
                producer.produce(
                    self.topic, value, key, self.partition, on_delivery=delivered, timestamp=at_ms, headers=headers
                )
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)

    def _flush(self, producer: Any) -> None:
        if producer.flush(_FLUSH_S):
            raise PartUnavailableError("Kafka", self.kafka.bootstrap, f"{self.topic}: not written within {_FLUSH_S} s")
        self._check()

    def _check(self) -> None:
        if self._wrong:
            hint = f"{self.topic}[{self.partition}]: {self._wrong[0]}; delete the topics of the world and start again"
            raise PartUnavailableError("Kafka", self.kafka.bootstrap, hint)


def _refuse_who_runs(kafka: KafkaConfig, topics: Topics) -> None:
    """A worker would settle a log of which only a part is there."""
    if found := members(kafka, topics):
        raise NotEmptyError(
            f"{len(found)} workers are in the group {topics.group}: stop all roles before a restore (one that "
            "was killed stays a member for some seconds)"
        )


def _refuse_what_is_there(kafka: KafkaConfig, topics: Topics) -> None:
    for name in topics.settings():
        if name == topics.replies:
            continue
        for p, (_, high) in spans_uncommitted(kafka, name).items():
            if high:
                raise NotEmptyError(
                    f"{name}[{p}] holds records up to offset {high}: a backup is restored on a cluster where the world "
                    "is empty; delete its topics there if they are what an earlier restore left"
                )


def _set_time(kafka: KafkaConfig, names: Sequence[str], value: str) -> None:
    """Whose time the records of topics bear from now on."""
    entries = [
        ConfigResource(
            ResourceType.TOPIC, name,
            incremental_configs=[ConfigEntry(TIME, value, incremental_operation=AlterConfigOpType.SET)],
        )
        for name in names
    ]  # fmt: skip
    admin = admin_client(kafka)  # kept until the answers are there
    try:
        for done in admin.incremental_alter_configs(entries).values():
            done.result(30)
    except KafkaException as e:
        raise PartUnavailableError("Kafka", kafka.bootstrap, e.args[0].str()) from None
