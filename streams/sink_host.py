"""The loops that read committed records from Kafka and hand them to the sinks.

A sink reads by assignment, not in a consumer group: where to go on from is what its own store says, so there is no
offset anywhere that could disagree with the rows. Whatever fails, the session ends, and the next one asks the store
again; a broken invariant or another sink's fence ends the process.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from confluent_kafka import KafkaException

from schemas.codec import Codec, UndecodableError, UnknownSchemaError
from schemas.errors import InvariantError, PartUnavailableError
from schemas.failpoints import failpoint
from schemas.records import CallCounts
from sinks.balances import Balances, Coalescer, RedisConfig, StateArrival
from sinks.clickhouse import ClickHouseConfig
from sinks.dead_letters import DeadLetterSink
from sinks.ledger_sink import Arrival, LedgerSink
from sinks.limit_sink import Gathering, LimitSink
from sinks.log_sink import Logged, LogSink
from sinks.measures import CallSink, SealSink
from streams import traces
from streams.clients import KafkaConfig
from streams.letters import letter_of
from streams.metrics import MetricsAddress
from streams.reader import LogReader, LogRecord, end_offsets
from streams.registry import Registry, learn_schemas
from streams.report import Ends, Report, served
from streams.topics import Topics, topic_ids

log = structlog.get_logger()

Progress = Callable[[int, int], None]
_STATE_POLLS_MAX = 10  # at once: a command changes several rows of the state, so more of them come than of commands


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """When a batch is full: `batch_records_max` records, or `flush_interval_ms` after its first one came.

    `balances_late_ms`: how late Redis may learn of a balance; for ClickHouse a batch is waited for anyway.
    `places_interval_s`: how often it is noted up to where limits are in, while none change.
    """

    batch_records_max: int = 150_000
    flush_interval_ms: int = 1000
    balances_late_ms: int = 50
    places_interval_s: float = 5.0
    poll_records_max: int = 10_000
    retry_s_max: float = 5.0
    report_interval_s: float = 1.0


class _Learner:
    """Calls something that decodes, and teaches the codec the schema versions it meets."""

    def __init__(self, codec: Codec, registry: Registry) -> None:
        self.codec = codec
        self._registry = registry

    def __call__(self, decode: Callable[[], Any]) -> Any:
        asked: set[int] = set()
        while True:
            try:
                return decode()
            except UnknownSchemaError as e:
                if e.schema_id in asked:
                    raise InvariantError(
                        f"a topic of the ledger's own holds schema id {e.schema_id}, not ours"
                    ) from None
                asked.add(e.schema_id)
                learn_schemas(self.codec, self._registry, {e.schema_id}, set())


def run_clickhouse_sink(
    kafka: KafkaConfig,
    topics: Topics,
    registry: Registry,
    clickhouse: ClickHouseConfig,
    ready_file: Path | None,
    options: SinkOptions = SinkOptions(),
    stop: threading.Event | None = None,
    metrics: MetricsAddress | None = None,
) -> None:
    """Blocks until SIGTERM, SIGINT or `stop`. Waits out what does not answer; raises FencedError when another sink took
    over, InvariantError, and BadInputError when the database is not migrated or belongs to another journal.
    `metrics`: where its figures are served; None: nowhere."""
    stop = stop or _stop_on_signals()
    report = Report("sink-clickhouse", ready_file, options.report_interval_s)
    learner = _Learner(registry.codec(), registry)

    def session() -> None:
        ids = topic_ids(kafka, [topics.journal, topics.dead, topics.seals, topics.calls, topics.state])
        named = {topic: f"{topic}@{topic_id}" for topic, topic_id in ids.items()}
        ledger = LedgerSink(clickhouse, named[topics.journal], learner.codec)
        limits = LimitSink(clickhouse, named[topics.state])
        beside: list[_Beside | _Limits] = [
            _Limits(topics.state, limits, learner, options),
            _Beside(topics.dead, DeadLetterSink(clickhouse, named[topics.dead]), letter_of),
            _Beside(topics.seals, SealSink(clickhouse, named[topics.seals]), partial(_of_ours, learner)),
            _Beside(topics.calls, CallSink(clickhouse, named[topics.calls]), partial(_measured, learner)),
        ]
        with ExitStack() as stack:
            stack.callback(ledger.close)
            for b in beside:
                stack.callback(b.sink.close)
            ends = end_offsets(kafka, topics.journal)
            at = ledger.take_over()
            start = {p: at.get(p, 0) for p in ends}
            late_ms = min(250, options.flush_interval_ms)
            for b in beside:
                known = b.sink.take_over()
                first = {p: known.get(p, 0) for p in ends}
                b.reader = stack.enter_context(LogReader(kafka, b.topic, first, patience_ms=late_ms))
            journal = stack.enter_context(LogReader(kafka, topics.journal, start, patience_ms=late_ms))
            report.verified = dict(start)
            watch = Ends(kafka, topics.journal, ends)
            stack.callback(watch.close)
            report.ends = watch
            try:
                _clickhouse_loop(journal, ledger, beside, learner, options, report, stop)
            finally:
                report.ends = None

    with served(report, metrics):
        _keep_running(session, report, options, stop)


@dataclass(slots=True)
class _Beside:
    """A topic beside the journal, its table, and what makes a record of it (None: it is left out)."""

    topic: str
    sink: LogSink
    record_of: Callable[[LogRecord], Any]
    reader: LogReader | None = None

    def step(self, records_max: int) -> None:
        """Stores what came."""
        assert self.reader is not None, "the session has opened it"
        records = [(r, self.record_of(r)) for r in self.reader.poll(records_max, 0.0)]
        found = [Logged(r.partition, r.offset, x, r.timestamp_ms) for r, x in records if x is not None]
        if found:
            self.sink.write(found)


@dataclass(slots=True)
class _Limits:
    """`ledger.state`, of which limits and what was used of them are kept: little of a busy topic, told by the key."""

    topic: str
    sink: LimitSink
    learner: _Learner
    options: SinkOptions
    reader: LogReader | None = None
    _gathering: Gathering | None = None

    def step(self, records_max: int) -> None:
        """Takes what came, and stores what is due."""
        assert self.reader is not None, "the session has opened it"
        if self._gathering is None:
            self._gathering = Gathering(
                list(self.sink.positions), lambda value: self.learner(lambda: self.learner.codec.decode(value)),
                self.options.flush_interval_ms / 1000, self.options.places_interval_s,
            )  # fmt: skip
        for _ in range(_STATE_POLLS_MAX):
            records = self.reader.poll(records_max, 0.0)
            for r in records:
                self._gathering.take(r.partition, r.offset, r.timestamp_ms, r.key or b"", r.value)
            if len(records) < records_max:
                break
        found = self._gathering.due(time.monotonic())
        if found:
            self.sink.write(found)


def _of_ours(learner: _Learner, r: LogRecord) -> Any:
    """A record that only roles of ours write. Raises InvariantError when it does not decode."""
    try:
        return learner(lambda: learner.codec.decode(r.value))
    except UndecodableError as e:
        raise InvariantError(f"a topic of the ledger's own holds a record that does not decode: {e}") from None


def _measured(learner: _Learner, r: LogRecord) -> CallCounts | None:
    """A count of calls; None for anything else: a measurement stops nothing."""
    try:
        found = learner(lambda: learner.codec.decode(r.value))
    except (UndecodableError, InvariantError) as e:
        log.warning("a count of calls is left out", partition=r.partition, offset=r.offset, why=str(e))
        return None
    return found if isinstance(found, CallCounts) and found.counts else None


def _clickhouse_loop(
    journal: LogReader,
    ledger: LedgerSink,
    beside: Sequence[_Beside | _Limits],
    learner: _Learner,
    options: SinkOptions,
    report: Report,
    stop: threading.Event,
) -> None:
    batch: list[Arrival] = []
    followed: list[traces.Traced] = []
    full_at = 0.0
    while not stop.is_set():
        wait = 0.1 if not batch else max(0.0, min(0.1, full_at - time.monotonic()))
        records = journal.poll(
            min(options.poll_records_max, options.batch_records_max - len(batch)),
            min(wait, 0.02) if ledger.under_way else wait,
        )
        if records:
            failpoint("sink_clickhouse.after_read")
            if not batch:
                full_at = time.monotonic() + options.flush_interval_ms / 1000
            batch += [Arrival(r.partition, r.offset, r.value) for r in records]
            if traces.active is not None:
                followed += [
                    traces.Traced(r.partition, r.offset, p) for r in records if (p := traces.parent_of(r.headers))
                ]
        full = len(batch) >= options.batch_records_max
        if batch and (full or time.monotonic() >= full_at):
            followed = _stored(lambda: learner(lambda: ledger.write(batch, more=full)), ledger, report, followed)  # noqa: B023 - called at once
            batch = []
        elif ledger.under_way and not records:  # nothing more is waiting
            followed = _stored(ledger.flush, ledger, report, followed)
        if not batch and not ledger.under_way:
            report.verified = dict(journal.position)
        else:  # in a backlog there is no moment at which all that was read is proven
            proven = {p: max(at.next_offset, report.verified.get(p, 0)) for p, at in ledger.positions.items()}
            report.verified = {**report.verified, **proven}
        for b in beside:
            b.step(options.poll_records_max)
        report.serves()
        report.tell()


def _stored(
    write: Callable[[], int], ledger: LedgerSink, report: Report, followed: list[traces.Traced]
) -> list[traces.Traced]:
    """Writes, and tells what is proven by now. Returns those that are followed and are not."""
    began = time.perf_counter()
    new = write()
    report.records += new
    if new:
        report.stored(new, began)
    done = [t for t in followed if t.offset < ledger.next_offset(t.partition)]
    if traces.active is not None and done:
        now = time.time_ns()
        took = int((time.perf_counter() - began) * 1e9)
        traces.active.inserted(now - took, now, new, done)
    return [t for t in followed if t.offset >= ledger.next_offset(t.partition)]


def run_redis_sink(
    kafka: KafkaConfig,
    topics: Topics,
    registry: Registry,
    config: RedisConfig,
    ready_file: Path | None,
    options: SinkOptions = SinkOptions(),
    stop: threading.Event | None = None,
    metrics: MetricsAddress | None = None,
) -> None:
    """Blocks until SIGTERM, SIGINT or `stop`. Waits out what does not answer; builds up again what Redis has lost.
    `metrics`: where its figures are served; None: nowhere."""
    stop = stop or _stop_on_signals()
    report = Report("sink-redis", ready_file, options.report_interval_s)
    learner = _Learner(registry.codec(), registry)

    def session() -> None:
        _redis_session(kafka, topics, config, learner, options, report, stop, None)

    with served(report, metrics):
        _keep_running(session, report, options, stop)


def rebuild_redis(
    kafka: KafkaConfig, topics: Topics, registry: Registry, config: RedisConfig, progress: Progress | None = None
) -> int:
    """Deletes the world's balances and builds them up from ledger.state; returns the number of shards written.

    `progress` is called with the records done and the records to do. A running sink may go on beside it: an older
    offset never overwrites a newer one. Raises PartUnavailableError.
    """
    balances = Balances(config)
    try:
        balances.clear()
    finally:
        balances.close()
    report = Report("redis-rebuild", None, 1.0)
    learner = _Learner(registry.codec(), registry)
    while not _redis_session(
        kafka, topics, config, learner, SinkOptions(), report, threading.Event(), progress or (lambda *_: None)
    ):
        pass
    return report.records


def _redis_session(
    kafka: KafkaConfig,
    topics: Topics,
    config: RedisConfig,
    learner: _Learner,
    options: SinkOptions,
    report: Report,
    stop: threading.Event,
    until_end: Progress | None,
) -> bool:
    """One stretch of following ledger.state from Redis's own markers. Ends when Redis turns out to have lost something
    (False), and, with `until_end`, when everything that was there at the start is in (True)."""
    balances = Balances(config)
    watch: Ends | None = None
    try:
        topic = f"{topics.state}@{topic_ids(kafka, [topics.state])[topics.state]}"
        ends = end_offsets(kafka, topics.state)
        applied = _begin(balances, topic, ends)
        watch = report.ends = Ends(kafka, topics.state, ends)
        report.verified = dict(applied)
        with LogReader(kafka, topics.state, applied, patience_ms=options.balances_late_ms) as reader:
            follower = _Follower(reader, balances, topic, applied, learner)
            while not stop.is_set():
                began = time.perf_counter()
                if not follower.step(options.poll_records_max):
                    log.warning("redis lost data; reading again from its markers", redis=config.address)
                    return False
                if follower.written:
                    report.records += follower.written
                    report.stored(follower.written, began + follower.waited_s)
                report.verified = dict(applied)
                report.serves()
                report.tell()
                if until_end is not None:
                    until_end(sum(min(applied[p], ends[p]) for p in ends), sum(ends.values()))
                    if all(applied[p] >= ends[p] for p in ends):
                        return True
        return True
    finally:
        report.ends = None
        if watch is not None:
            watch.close()
        balances.close()


def _begin(balances: Balances, topic: str, ends: dict[int, int]) -> dict[int, int]:
    """Where to go on in each partition; starts those of which Redis knows nothing."""
    markers = balances.marker(list(ends))
    if any(m.topic != topic for m in markers.values()):
        log.warning("ledger.state was re-created; balances are built up anew", topic=topic)
        balances.clear()
        markers = {}
    for p, end in ends.items():
        if p not in markers:
            balances.begin(p, topic, end)
    return {p: markers[p].next_offset if p in markers else 0 for p in ends}


class _Follower:
    """Moves Redis forward by what one poll brought; looks at the markers every second even if nothing came."""

    def __init__(
        self, reader: LogReader, balances: Balances, topic: str, applied: dict[int, int], learner: _Learner
    ) -> None:
        self._reader = reader
        self._balances = balances
        self._topic = topic
        self._applied = applied
        self._learner = learner
        self._coalescer = Coalescer(learner.codec)
        self._looked = time.monotonic()
        self.written = 0
        self.waited_s = 0.0  # for records, of the last step

    def step(self, records_max: int) -> bool:
        """False when Redis has lost something."""
        self.written = 0
        parts: dict[int, list[StateArrival]] = defaultdict(list)
        began = time.perf_counter()
        records = self._reader.poll(records_max, 0.05)
        self.waited_s = time.perf_counter() - began
        for r in records:
            parts[r.partition].append(StateArrival(r.offset, r.key or b"", r.value))
        if parts:
            failpoint("sink_redis.after_read")
        for p, end in self._reader.position.items():
            if end > self._applied[p]:
                values, source_next = self._learner(lambda: self._coalescer.values(parts[p]))  # noqa: B023
                count = self._balances.apply(p, self._topic, self._applied[p], end, source_next, values)
                if count < 0:
                    return False
                failpoint("sink_redis.mid_batch")
                self.written += count
                self._applied[p] = end
        if parts:
            failpoint("sink_redis.after_batch")
        return self._markers_stand()

    def _markers_stand(self) -> bool:
        if time.monotonic() - self._looked < 1.0:
            return True
        self._looked = time.monotonic()
        markers = self._balances.marker(list(self._applied))
        return all(p in markers and markers[p].next_offset >= at for p, at in self._applied.items())


def _keep_running(session: Callable[[], Any], report: Report, options: SinkOptions, stop: threading.Event) -> None:
    """Runs sessions until `stop`; waits longer and longer while a part does not answer."""
    pause = 0.1
    while not stop.is_set():
        began = time.monotonic()
        try:
            session()
            pause = 0.1
        except (PartUnavailableError, KafkaException) as e:
            pause = 0.1 if time.monotonic() - began > 10 else min(options.retry_s_max, pause * 2)
            report.wait(e)
            log.warning("sink waits", role=report.role, why=str(e), retry_s=round(pause, 2))
            stop.wait(pause * random.uniform(0.7, 1.3))


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set; only the main thread can listen to them."""
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    return stop
