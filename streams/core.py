"""The transactional core: it moves bytes and Kafka transactions, and holds no business rule.

One librdkafka consumer, three transactional producers in turn, the state of the assigned partitions. Each batch that it
gathers goes to the settlement agent; when the agent is done, the core commits the outputs, the state and the input
offsets in one Kafka transaction, and only then merges the batch's drafts into the state. While one batch commits, the
agent may already settle the next on top of it; commits happen strictly in order.

A core is never repaired in place. After a fatal error, a fencing, an unknown outcome or a lost assignment the whole
object is dropped, and a new one is built from the last committed point.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from ledger.posting import LAPSED_MAX
from ledger.state import Draft
from processors.settlement import Batch, Inbound, Part, merge
from schemas.codec import Codec
from schemas.errors import InvariantError
from schemas.failpoints import failpoint
from streams import traces
from streams.clients import KafkaConfig, refused
from streams.recovery import PartitionLedger, recover
from streams.ticks import Ticker, due_holds
from streams.times import Least, Times
from streams.topics import DEAD_BYTES_MAX, Topics

T = TypeVar("T")

_LAPSES_MAX = 20_000  # holds that lapse in one batch: well under a second
# From this size on, the next batch is settled while this one commits. Settling fewer takes a fraction of a commit, and
# what came after them would wait for two commits instead of one.
_OVERLAP_RECORDS_MIN = 400


class CoreDroppedError(Exception):
    """This core must not go on; a new one takes over from the last committed point."""


@dataclass(frozen=True, slots=True)
class HostOptions:
    """How a settlement worker runs. Names end in their unit.

    `slot` is fixed per process: the same slot after a kill -9 gets the same partitions back without a rebalance.
    """

    slot: int
    partitions: int
    gather_ms: float = 4.0
    batch_records_max: int = 4_000
    producers: int = 3
    session_timeout_ms: int = 6_000
    transaction_timeout_ms: int = 10_000
    call_timeout_s: float = 20.0
    watchdog_s: float = 6.0
    keys_window_ms: int = 30 * 86_400_000
    message_bytes_max: int = 1_000_000
    tick_ms: int = 1_000


@dataclass(slots=True)
class Flow:
    """What the cores of a worker did so far, for status and benchmarks. Seconds and counts.

    `latency`: from the broker's time of a command to its commit; `skew_ms`: when a message was taken by this machine's
    clock less when it was appended by the broker's, of messages that were not there yet when the ends of the partitions
    were last asked for (`ends`), so a little more than the clocks differ; `taken_ms`: the broker's time of the oldest
    message of each Kafka transaction under way.
    """

    cores: int = 0
    commands: int = 0
    commits: int = 0
    aborts: int = 0
    gather_s: float = 0.0
    wait_s: float = 0.0
    commit_s: float = 0.0
    last_commit_at: float = 0.0
    latency: Times = field(default_factory=Times)
    skew_ms: Least = field(default_factory=Least)
    ends: Callable[[], Mapping[int, int]] = dict
    taken_ms: deque[int] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Transaction:
    """One Kafka transaction under way: its producer, its messages, its batch."""

    producer: Producer
    messages: list[Inbound]
    batch: Batch
    offsets: list[TopicPartition] = field(default_factory=list)
    began_ns: int = 0  # for traces, while they are on
    settled_ns: int = 0


class TransactionalCore:
    """See the module. `hand_over` gives a batch to the agent; it is called again while the batch is unclaimed.

    `stopped`: partitions that broke an invariant; they stay assigned here, and nothing of them is read. `run` works
    until `stop` is set, and raises CoreDroppedError, InvariantError or KafkaException when it cannot go on.
    """

    def __init__(
        self, kafka: KafkaConfig, topics: Topics, options: HostOptions, codec: Codec,
        hand_over: Callable[[Batch], None], stop: threading.Event, flow: Flow, stopped: Collection[int] = (),
    ) -> None:  # fmt: skip
        self.kafka = kafka
        self.topics = topics
        self.options = options
        self.codec = codec
        self.hand_over = hand_over
        self.stop = stop
        self.flow = flow
        self.stopped = stopped
        self.ledgers: dict[int, PartitionLedger] = {}
        self.in_call: tuple[str, float] | None = None
        self.joined = False
        self.recovering = False
        self._dropped = False
        self._pending: list[Inbound] = []
        self._open: Transaction | None = None
        self._turn = 0
        self._commit_s = 0.004
        self._gathered = 0
        self._ticker = Ticker(kafka, topics, codec, options.tick_ms)
        self._producers: list[Producer] = []
        self._consumer: Consumer | None = None

    def connect(self) -> None:
        """Takes over the slot: fences and aborts its predecessor, then joins the group."""
        self.flow.cores += 1
        self.flow.taken_ms.clear()  # what a core before left is read again
        for i in range(self.options.producers):
            self._producers.append(self._new_producer(i))
        self._consumer = self._new_consumer()

    # ---- construction ------------------------------------------------------------------------------------------

    def _new_producer(self, i: int) -> Producer:
        settings = self.kafka.producer(
            transactional_id=f"{self.topics.group}-{self.options.slot}-{i}",
            transaction_timeout_ms=self.options.transaction_timeout_ms,
            message_max_bytes=DEAD_BYTES_MAX,
            batch_num_messages=10_000,
        )
        producer = Producer(settings)
        # Aborts what a killed predecessor of this slot left open, and fences it should it be alive.
        self._call("init_transactions", lambda: producer.init_transactions(self.options.call_timeout_s))
        return producer

    def _new_consumer(self) -> Consumer:
        consumer = Consumer(
            self.kafka.consumer(
                self.topics.group,
                group_instance_id=f"{self.topics.group}-{self.options.slot}",
                partition_assignment_strategy="cooperative-sticky",
                session_timeout_ms=self.options.session_timeout_ms,
                heartbeat_interval_ms=max(300, self.options.session_timeout_ms // 6),
                max_poll_interval_ms=300_000,
                queued_max_messages_kbytes=65_536,
            )
        )
        consumer.subscribe(
            [self.topics.submitted], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        return consumer

    @property
    def consumer(self) -> Consumer:
        assert self._consumer is not None, "connect() comes first"
        return self._consumer

    def _call(self, name: str, ask: Callable[[], T], *, patience_s: float | None = None) -> T:
        """One blocking client call, watched; the same call again while the client says that this is safe."""
        end = time.monotonic() + (patience_s or self.options.call_timeout_s)
        self.in_call = (name, time.monotonic())
        try:
            while True:
                try:
                    return ask()
                except KafkaException as e:
                    if e.args[0].retriable() and time.monotonic() < end and not self.stop.is_set():
                        continue
                    raise
        finally:
            self.in_call = None

    # ---- assignment: runs inside consume(), so in this thread --------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.joined = True
        if not partitions or self._dropped:
            return
        wanted = [tp.partition for tp in partitions if tp.partition not in self.stopped]
        idle = [
            TopicPartition(self.topics.submitted, tp.partition, 0) for tp in partitions if tp.partition in self.stopped
        ]
        self._finish_open()
        if idle:
            consumer.incremental_assign(idle)
            consumer.pause(idle)
        if not wanted:
            return
        self.recovering = True
        committed = self._committed(consumer, wanted)
        try:
            found = recover(self.kafka, self.topics, self.codec, committed, self.options.keys_window_ms)
        except InvariantError as e:
            # One that is paused in here, for longer than its session, reads what its successor has settled meanwhile.
            if self._committed(consumer, wanted) != committed:
                raise CoreDroppedError(f"somebody else settles partitions {wanted}") from e
            raise
        for ledger in found:
            self.ledgers[ledger.partition] = ledger
        consumer.incremental_assign(
            [TopicPartition(self.topics.submitted, p, self.ledgers[p].base.head.next_offset) for p in wanted]
        )
        self.recovering = False

    def _committed(self, consumer: Consumer, partitions: list[int]) -> dict[int, int]:
        """The group's offsets. Under read_committed this waits until they are stable, so for the open transaction of
        whoever had the partitions."""
        asked = [TopicPartition(self.topics.submitted, p) for p in partitions]
        try:
            known = self._call("committed", lambda: consumer.committed(asked, timeout=30), patience_s=60)
        except KafkaException as e:
            raise CoreDroppedError(
                f"partitions {partitions}: no broker answers, or a Kafka transaction never got its end marker "
                f"(docs/exactly-once.md, broker versions): {e.args[0].str()}"
            ) from e
        return {tp.partition: tp.offset for tp in known}

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if not self._dropped:
            self._finish_open()
        self._drop({tp.partition for tp in partitions})
        consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._dropped:
            return
        raise CoreDroppedError(f"lost partitions {sorted(tp.partition for tp in partitions)}")

    def _drop(self, gone: set[int]) -> None:
        self._pending = [m for m in self._pending if m.partition() not in gone]
        for p in gone:
            self.ledgers.pop(p, None)

    def _finish_open(self) -> None:
        """A rebalance met an uncommitted batch: finish it before the partitions change hands."""
        if self._open is not None:
            waiting, self._open = self._open, None
            self._finish(waiting)

    # ---- the loop ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Works until `stop` is set. One Kafka transaction at a time commits; the agent may work on the next."""
        while not self.stop.is_set():
            messages = self._gather(wait=True)
            if not messages:
                continue
            failpoint("settlement.after_consume")
            current = self._begin(messages, None)
            self._await_settled(current)
            following: Transaction | None = current
            while following is not None:
                following = self._commit_and_follow(following)

    def _commit_and_follow(self, current: Transaction) -> Transaction | None:
        """Commits a settled batch. When more has come already, the agent works on it meanwhile; it is returned."""
        self._open = current
        more = self._gather(wait=False) if len(current.messages) >= _OVERLAP_RECORDS_MIN else []
        finished_by_rebalance, self._open = self._open is None, None
        if finished_by_rebalance:
            self._pending = more + self._pending
            return None
        if not more:
            self._finish(current)
            return None
        self._flush(current)
        following = self._begin(more, current)
        committed = self._commit(current)
        self._await_settled(following)
        if committed:
            # The agent is idle now, so nobody reads the state while it changes.
            merge(current.batch)
            return following
        self._abandon(following)
        self._pending = current.messages + following.messages + self._pending
        return None

    def _flush(self, t: Transaction) -> None:
        """Puts a batch's records into the log before another producer sends the next: between two producers there is
        no order, and a journal out of sequence is a broken chain."""
        left = self._call("flush", lambda: t.producer.flush(self.options.call_timeout_s))
        if left:
            raise CoreDroppedError(f"{left} records of a batch could not be sent")

    def _finish(self, t: Transaction) -> None:
        """Commits and merges a settled batch that nothing stands on, or keeps its messages for another try."""
        if self._commit(t):
            merge(t.batch)
        else:
            self._pending = t.messages + self._pending

    def _gather(self, *, wait: bool) -> list[Inbound]:
        """A batch: at most `batch_records_max` messages of assigned partitions, in the order of each partition.

        With `wait`, up to a second or a tick for the first one and then a few milliseconds for company; else what is
        there.
        """
        started = time.perf_counter()
        limit = self._records_max()
        if self._pending:  # again after an abort
            self._hold(1, 0.001)
        elif wait:
            self._hold(1, min(1.0, self.options.tick_ms / 1000))
            started = time.perf_counter()
            if self._pending:
                self._hold(limit - 1, self._company_s())
        else:
            self._hold(limit, 0)
        messages, self._pending = self._pending[:limit], self._pending[limit:]
        self._ticker.look(self.ledgers, {m.partition() for m in messages}, int(time.time() * 1000))
        self._gathered = len(messages) or self._gathered
        self.flow.gather_s += time.perf_counter() - started
        return messages

    def _records_max(self) -> int:
        """How many commands a batch may have: few where so many holds are due that their lapsing would fill it, because
        a Kafka transaction that takes too long is aborted, and so would be the next try."""
        now_ms = int(time.time() * 1000)
        due = sum(due_holds(ledger, now_ms) for ledger in self.ledgers.values())
        most = self.options.batch_records_max
        return min(most, _LAPSES_MAX // LAPSED_MAX) if due > _LAPSES_MAX else most

    def _hold(self, records_max: int, timeout_s: float) -> None:
        """Adds what comes to `_pending`, from which a rebalance inside consume() takes what is not ours any more: so
        nothing that was gathered may wait anywhere else meanwhile, not even in a half-evaluated `+=`."""
        came = self._take(self.consumer.consume(records_max, timeout_s))
        self._pending = self._pending + came

    def _company_s(self) -> float:
        """For how long to wait for more: the busier it is, the longer, so that a commit is shared by many; never longer
        than a commit takes. When it is quiet nothing waits, because what comes during a commit is company enough."""
        return min(self.options.gather_ms / 1000, self._commit_s) * min(1.0, self._gathered / _OVERLAP_RECORDS_MIN)

    def _take(self, got: list[Any]) -> list[Inbound]:
        out = []
        for m in got:
            error = m.error()
            if error is not None:
                # A consumer that another one of its instance id has fenced says _FATAL, and not that it is fatal.
                if error.fatal() or error.code() == KafkaError._FATAL or refused(error):
                    raise KafkaException(error)
            elif m.partition() in self.ledgers:
                out.append(m)
        return out

    def _begin(self, messages: list[Inbound], under: Transaction | None) -> Transaction:
        """Opens a Kafka transaction for these messages and gives them to the agent."""
        producer = self._producers[self._turn % len(self._producers)]
        self._turn += 1
        producer.begin_transaction()
        failpoint("settlement.after_begin")
        by_partition: dict[int, list[Inbound]] = {}
        for m in messages:
            by_partition.setdefault(m.partition(), []).append(m)
        parts = {}
        self.flow.taken_ms.append(min(ms[0].timestamp()[1] for ms in by_partition.values()))
        ends = self.flow.ends()
        if new := [ms[-1].timestamp()[1] for p, ms in by_partition.items() if p in ends and ms[-1].offset() >= ends[p]]:
            self.flow.skew_ms.see(time.time() * 1000 - max(new))
        for p, ms in by_partition.items():
            ledger = self.ledgers[p]
            below = under.batch.parts.get(p) if under is not None else None
            drafts = (below.draft,) if below is not None else ()
            parts[p] = Part(ms, Draft(ledger.base, drafts), ledger.keys)
        batch = Batch(parts, producer.produce)
        offsets = [TopicPartition(self.topics.submitted, p, ms[-1].offset() + 1) for p, ms in by_partition.items()]
        began_ns = time.time_ns() if traces.active is not None else 0
        self.hand_over(batch)
        return Transaction(producer, messages, batch, offsets, began_ns)

    def _await_settled(self, t: Transaction) -> None:
        """Waits for the agent. Raises what the agent raised."""
        started = time.perf_counter()
        while not t.batch.done.wait(1.0):
            if self.stop.is_set():
                raise CoreDroppedError("stopping")
            if not t.batch.claimed:
                self.hand_over(t.batch)  # Faust drops channel events while its flow control is suspended
        self.flow.wait_s += time.perf_counter() - started
        if traces.active is not None:
            t.settled_ns = time.time_ns()
        if t.batch.error is not None:
            raise t.batch.error

    def _commit(self, t: Transaction) -> bool:
        """Commits a settled batch. False: the client wanted it aborted, and nothing of it happened."""
        started = time.perf_counter()
        try:
            failpoint("settlement.before_send_offsets")
            group = self.consumer.consumer_group_metadata()
            timeout = self.options.call_timeout_s
            self._call("send_offsets", lambda: t.producer.send_offsets_to_transaction(t.offsets, group, timeout))
            failpoint("settlement.after_send_offsets")
            failpoint("settlement.before_commit")
            self._call("commit", lambda: t.producer.commit_transaction(timeout))
        except KafkaException as e:
            if not e.args[0].txn_requires_abort():
                raise CoreDroppedError(f"outcome unknown or fenced: {e.args[0].name()}") from e
            self._abandon(t)
            return False
        failpoint("settlement.after_commit")
        took = time.perf_counter() - started
        self._commit_s = self._commit_s * 0.9 + took * 0.1
        self.flow.commit_s += took
        self.flow.commits += 1
        self.flow.commands += len(t.messages)
        self.flow.last_commit_at = now = time.time()
        self.flow.taken_ms.popleft()
        for part in t.batch.parts.values():
            self.flow.latency.add_since(part.messages, int(now * 1000))
        if traces.active is not None:
            with suppress(Exception):  # whatever it is, money goes on
                if followed := traces.followed(t.messages):
                    traces.active.settled(t.began_ns, t.settled_ns, time.time_ns(), len(t.messages), followed)
        return True

    def _abandon(self, t: Transaction) -> None:
        """Aborts a Kafka transaction; its drafts are simply forgotten."""
        self.flow.aborts += 1
        self.flow.taken_ms.popleft()
        self._call("abort", lambda: t.producer.abort_transaction(self.options.call_timeout_s))

    def close(self) -> None:
        """Leaves everything behind. Safe in any state; open transactions are aborted by the next in this slot."""
        self._dropped = True  # closing the consumer revokes: nothing may be committed on that occasion
        for p in self._producers:
            with suppress(KafkaException):
                p.purge()
        self._producers.clear()
        self._ticker.close()
        if self._consumer is not None:
            with suppress(KafkaException, RuntimeError):
                self._call("close", self._consumer.close)
