"""confluent_kafka's Consumer and Producer on the broker in memory: the calls that streams/ makes, and no other.

A producer's records leave it in order, in requests of their own, after `produce` has returned; what is on its way when
the process is killed still arrives. Errors carry what librdkafka says of them: retriable, fatal, to be aborted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from tests.simulation.world.broker import Broker, Entry, Log, Member
from tests.simulation.world.scheduler import Process, Scheduler, Task

_KE: Any = KafkaError  # its codes with an underscore are not in the types


def kafka_error(code: int, text: str, **how: bool) -> KafkaException:
    """An error as the client raises it. `how`: fatal, retriable, txn_requires_abort."""
    return KafkaException(_KE(code, text, **how))


@dataclass(slots=True)
class Faults:
    """What goes wrong at the clients of one world, as chances of 0 to 1; all nought once the faults have stopped."""

    random: Random
    seen: Callable[[str], None]
    answer_lost: float = 0.0  # of a commit that was done
    request_lost: float = 0.0  # of a commit that was not
    answer_late: float = 0.0  # the client says: ask again
    refused: float = 0.0  # the client wants the transaction aborted

    def happens(self, name: str) -> bool:
        chance = getattr(self, name)
        if chance and self.random.random() < chance:
            self.seen(name)
            return True
        return False

    def stop(self) -> None:
        self.answer_lost = self.request_lost = self.answer_late = self.refused = 0.0


@dataclass(slots=True)
class Message:
    """A record, or an error, as the client hands it over."""

    _topic: str
    _partition: int
    _offset: int
    _entry: Entry | None
    _error: Any = None

    def error(self) -> Any:
        return self._error

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._entry.key if self._entry else None

    def value(self) -> bytes | None:
        return self._entry.value if self._entry else None

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self._entry.headers if self._entry else None

    def timestamp(self) -> tuple[int, int]:
        return 1, self._entry.timestamp if self._entry else 0


class GroupMetadata(NamedTuple):
    """Who a consumer is in its group, as far as it knows."""

    member: Member | None
    generation: int


class Consumer:
    """Reads under read_committed, as a member of the group (`subscribe`) or by assignment."""

    def __init__(self, cluster: Cluster, settings: Mapping[str, Any]) -> None:
        self._committed_only = settings["isolation.level"] == "read_committed"
        assert settings["enable.auto.commit"] is False
        self._cluster, self._broker, self._sim = cluster, cluster.broker, cluster.sim
        self._name: str = settings.get("group.instance.id", "")
        self._tells_end: bool = settings.get("enable.partition.eof", False)
        self._topic = ""
        self._callbacks: dict[str, Any] = {}
        self._member: Member | None = None
        self._generation = -1
        self._position: dict[tuple[str, int], int] = {}
        self._paused: set[int] = set()
        self._told: dict[tuple[str, int], int] = {}  # the ends that it was told of
        self._sim.step("consumer")

    # ---- the group ---------------------------------------------------------------------------------------------------

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        self._sim.step("subscribe")
        (self._topic,) = topics
        self._callbacks = callbacks

    def consumer_group_metadata(self) -> GroupMetadata:
        self._sim.step("group_metadata")
        return GroupMetadata(self._member, self._generation)

    def committed(self, asked: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        """Waits while a transaction holds offsets of these partitions."""
        self._sim.call("committed")
        partitions = [tp.partition for tp in asked]
        end = self._sim.now + timeout
        while self._broker.unstable(partitions):
            if self._sim.now > end:
                raise kafka_error(_KE._TIMED_OUT, "unstable offsets", retriable=True)
            self._sim.sleep(0.05)
        known = self._broker.group_offsets
        return [TopicPartition(self._topic, p, known.get(p, -1001)) for p in partitions]

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self._sim.step("assign")
        self.assign(partitions)

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        self._sim.step("unassign")
        for tp in partitions:
            self._position.pop((self._topic, tp.partition), None)
        if self._member is not None:
            self._broker.released(self._member, {tp.partition for tp in partitions})

    def pause(self, partitions: list[TopicPartition]) -> None:
        self._paused |= {tp.partition for tp in partitions}

    def assign(self, partitions: list[TopicPartition]) -> None:
        self._position |= {(tp.topic, tp.partition): tp.offset for tp in partitions}

    def _serve_group(self) -> list[Message]:
        """What a consumer learns of its group when it polls; callbacks run here. An error that ends it, if any."""
        member = self._member
        if member is None:
            self._sim.call("join")
            member = self._member = self._broker.join(self._name, self._sim.process)
        elif member.gone:
            if self._broker.members.get(self._name) not in (member, None):
                fenced = _KE(_KE.FENCED_INSTANCE_ID, "another has this name", fatal=True)
                return [Message(self._topic, 0, -1, None, fenced)]
            lost = [TopicPartition(t, p) for t, p in self._position]
            self._position.clear()
            self._callbacks["on_lost"](self, lost)
            self._member = None
            return []
        if self._generation != self._broker.generation:
            self._sim.call("sync")
            self._generation = self._broker.generation
            gone = self._broker.to_revoke(member)
            if gone:
                self._sim.note(f"{self._name} gives up {sorted(gone)}")
                self._callbacks["on_revoke"](self, self._as_asked(gone))
            new = self._broker.to_assign(member)
            member.owned |= new
            if new or not member.owned:
                self._sim.note(f"{self._name} gets {sorted(new)}")
                self._callbacks["on_assign"](self, self._as_asked(new))
        return []

    def _as_asked(self, partitions: set[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, p) for p in sorted(partitions)]

    # ---- reading -----------------------------------------------------------------------------------------------------

    def consume(self, records_max: int, timeout_s: float) -> list[Message]:
        sim = self._sim
        sim.call("consume", 0.002)
        end = sim.now + timeout_s
        while True:
            error = self._serve_group() if self._callbacks else []
            out = error or self._fetch(records_max)
            if out or sim.now >= end:
                return out
            self._wait(min(end - sim.now, 0.2) if self._callbacks else end - sim.now)

    def _wait(self, timeout_s: float) -> None:
        assert self._sim.task is not None
        task: Task = self._sim.task
        logs = [self._broker.log(*place) for place in self._position]
        for log in logs:
            log.waiting.append(task)
        self._sim.block(timeout_s)
        for log in logs:
            if task in log.waiting:
                log.waiting.remove(task)

    def _fetch(self, records_max: int) -> list[Message]:
        assert self._committed_only
        ready: list[tuple[str, int]] = []
        ended: list[tuple[str, int]] = []
        for place, at in self._position.items():
            if place[1] not in self._paused:
                if at < self._broker.log(*place).stable():
                    ready.append(place)
                elif self._tells_end and self._told.get(place) != at:
                    ended.append(place)
        if len(ready) > 1:
            self._sim.random.shuffle(ready)
        out: list[Message] = []
        for place in ready:
            log, at = self._broker.log(*place), self._position[place]
            stable = log.stable()
            while at < stable and len(out) < records_max:
                if log.shown(at):
                    out.append(Message(*place, at, log.entries[at]))
                at += 1
            self._position[place] = at
            if self._tells_end and at >= stable:
                ended.append(place)
        for place in ended:
            self._told[place] = at = self._position[place]
            out.append(Message(*place, at, None, _KE(_KE._PARTITION_EOF, "end")))
        return out

    # ---- questions ---------------------------------------------------------------------------------------------------

    def list_topics(self, topic: str, timeout: float) -> Any:
        self._sim.call("list_topics", 0.001)
        found = SimpleNamespace(error=None, partitions=dict.fromkeys(range(self._broker.partitions)))
        return SimpleNamespace(topics={topic: found})

    def get_watermark_offsets(self, tp: TopicPartition, timeout: float = 0, cached: bool = False) -> tuple[int, int]:
        """The client asks with its isolation level: under read_committed the high one is the last stable offset."""
        self._sim.call("watermarks", 0.001)
        log = self._broker.log(tp.topic, tp.partition)
        return 0, log.stable() if self._committed_only else len(log.entries)

    def offsets_for_times(self, asked: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self._sim.call("offsets_for_times", 0.001)
        return [TopicPartition(tp.topic, tp.partition, self._first_since(tp)) for tp in asked]

    def _first_since(self, tp: TopicPartition) -> int:
        log: Log = self._broker.log(tp.topic, tp.partition)
        found = (o for o in range(log.stable()) if log.entries[o].timestamp >= tp.offset)
        return next(found, -1)

    def close(self) -> None:
        self._sim.step("close")
        if self._member is not None:
            owned = [TopicPartition(t, p) for t, p in self._position]
            self._callbacks["on_revoke"](self, owned)
            self._member.closed = True
            self._broker.watch(self._member)


@dataclass(slots=True)
class _Record:
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None
    timestamp: int


class Producer:
    """A transactional producer."""

    def __init__(self, cluster: Cluster, settings: Mapping[str, Any]) -> None:
        assert settings["enable.idempotence"]
        assert settings["acks"] == "all"
        self._cluster, self._broker, self._sim = cluster, cluster.broker, cluster.sim
        self._id: str = settings["transactional.id"]
        self._timeout_s: float = settings["transaction.timeout.ms"] / 1000
        self._process: Process = self._sim.process
        self._epoch = 0
        self._buffer: list[_Record] = []
        self._on_the_way = False
        self._fenced = False
        self._begun = False
        self._decided = 0  # the next epoch, when the end of a transaction was decided and its answer came too late
        self._flushing: Task | None = None
        self._sim.step("producer")

    def init_transactions(self, timeout_s: float) -> None:
        self._sim.call("init_transactions")
        while (epoch := self._broker.new_epoch(self._id)) is None:
            self._sim.sleep(0.005)
        self._epoch = epoch
        self._sim.call("init_transactions answers")

    def begin_transaction(self) -> None:
        self._sim.step("begin_transaction")
        assert not self._begun, "two transactions of one producer"
        self._begun = True

    def produce(
        self, topic: str, value: bytes | None, key: bytes | None = None, partition: int = -1, *,
        headers: list[tuple[str, bytes]] | None = None, timestamp: int = 0,
    ) -> None:  # fmt: skip
        if self._process.dead:
            return
        assert self._begun, "a record outside of a transaction"
        self._buffer.append(_Record(topic, partition, key, value, headers, timestamp))
        if not self._on_the_way:
            self._send_later()

    # ---- sending -----------------------------------------------------------------------------------------------------

    def _send_later(self) -> None:
        self._on_the_way = True
        self._sim.later(0.001 * self._sim.random.random(), self._send)

    def _send(self) -> None:
        if self._process.dead:
            return
        if self._process.paused:
            self._sim.later(0.05, self._send)
            return
        r = self._sim.random.random()
        n = len(self._buffer) if r < 0.6 else int(len(self._buffer) * r)
        sent, self._buffer, epoch = self._buffer[:n], self._buffer[n:], self._epoch
        self._sim.later(0.002 * r * (1 if r < 0.97 else 100), lambda: self._arrive(sent, epoch))

    def _arrive(self, sent: list[_Record], epoch: int) -> None:
        if self._broker.busy(self._id):  # the client asks again until the markers of the last one are written
            self._sim.later(0.003, lambda: self._arrive(sent, epoch))
            return
        t = self._broker.in_transaction(self._id, epoch, self._timeout_s) if sent else None
        if sent and t is None:
            self._fenced = self._fenced or epoch == self._epoch
            self._buffer.clear()
        for x in sent if t is not None else ():
            self._broker.append(x.topic, x.partition, x.key, x.value, x.headers, x.timestamp, t)
        if self._buffer:
            self._send_later()
            return
        self._on_the_way = False
        if self._flushing is not None:
            self._sim.wake(self._flushing)
            self._flushing = None

    def flush(self, timeout_s: float) -> int:
        self._sim.step("flush")
        end = self._sim.now + timeout_s
        while self._on_the_way and self._sim.now < end:
            self._flushing = self._sim.task
            self._sim.block(end - self._sim.now)
        self._flushing = None
        return len(self._buffer) + self._on_the_way

    def purge(self) -> None:
        self._sim.step("purge")
        self._buffer.clear()

    # ---- the end of a transaction ------------------------------------------------------------------------------------

    def send_offsets_to_transaction(self, offsets: list[TopicPartition], group: GroupMetadata, timeout: float) -> None:
        self._sim.call("send_offsets")
        if self._cluster.faults.happens("refused"):
            raise kafka_error(_KE._FAIL, "a message could not be delivered", txn_requires_abort=True)
        while self._broker.busy(self._id):
            self._sim.sleep(0.003)
        t = self._broker.in_transaction(self._id, self._epoch, self._timeout_s)
        if t is None or self._fenced:
            raise kafka_error(_KE._FENCED, "fenced", fatal=True)
        if group.member is None or group.member.gone or group.generation != self._broker.generation:
            self._cluster.faults.seen("offsets_of_an_old_generation")
            raise kafka_error(_KE.ILLEGAL_GENERATION, "another generation", txn_requires_abort=True)
        self._broker.keep_offsets(t, {tp.partition: tp.offset for tp in offsets})
        self._sim.call("send_offsets answers")

    def commit_transaction(self, timeout_s: float) -> None:
        if self.flush(timeout_s):
            raise kafka_error(_KE._TIMED_OUT, "records are still on their way", retriable=True)
        self._end("committed")

    def abort_transaction(self, timeout_s: float) -> None:
        self._buffer.clear()
        if self.flush(timeout_s):
            raise kafka_error(_KE._TIMED_OUT, "a request is still on its way", retriable=True)
        self._end("aborted")

    def _end(self, state: str) -> None:
        faults, commits = self._cluster.faults, state == "committed"
        self._sim.call(state)
        if self._decided:
            self._epoch, self._begun, self._decided = self._decided, False, 0
            return
        if self._fenced:
            raise kafka_error(_KE._FENCED, "fenced", fatal=True)
        if commits and faults.happens("refused"):
            raise kafka_error(_KE._FAIL, "a message could not be delivered", txn_requires_abort=True)
        if commits and faults.happens("request_lost"):
            raise kafka_error(_KE._TIMED_OUT, "no answer to the commit")
        epoch = self._broker.end(self._id, self._epoch, state)
        if epoch is None:
            self._fenced = True
            raise kafka_error(_KE._FENCED, "fenced", fatal=True)
        self._sim.call(f"{state}, it answers")
        if commits and faults.happens("answer_lost"):
            raise kafka_error(_KE._TIMED_OUT, "no answer to the commit")
        if commits and faults.happens("answer_late"):
            self._decided = epoch
            raise kafka_error(_KE._TIMED_OUT, "no answer to the commit yet", retriable=True)
        self._epoch, self._begun = epoch, False


class PlainProducer:
    """One without transactions: what it was given arrives a little later, or never when the process dies first."""

    def __init__(self, cluster: Cluster) -> None:
        self._broker, self._sim, self._process = cluster.broker, cluster.sim, cluster.sim.process
        self._sim.step("producer")

    def produce(self, topic: str, value: bytes, key: bytes, partition: int) -> None:
        def arrive() -> None:
            if self._process.alive():
                self._broker.append(topic, partition, key, value)

        self._sim.later(0.005 * self._sim.random.random(), arrive)

    def poll(self, timeout_s: float) -> None:
        self._sim.step("poll")

    def purge(self) -> None:
        self._sim.step("purge")


@dataclass(slots=True)
class Cluster:
    """The broker and what goes wrong on the way to it."""

    sim: Scheduler
    broker: Broker
    faults: Faults
    topic_ids: dict[str, str] = field(default_factory=dict)

    def consumer(self, settings: Mapping[str, Any]) -> Consumer:
        return Consumer(self, settings)

    def producer(self, settings: Mapping[str, Any]) -> Producer | PlainProducer:
        return Producer(self, settings) if "transactional.id" in settings else PlainProducer(self)
