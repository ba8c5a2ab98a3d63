"""The sealer: follows the journal and writes the seals, one Kafka transaction for all that are due together.

Where to go on from is the last seal in the topic itself, so there is no offset that could disagree with it. A producer
with one fixed transactional id makes forks impossible: whoever starts fences the one before, waits until its Kafka
transaction is decided, and only then reads the last seals. A sealer that was fenced, or does not know what became of
its transaction, forgets everything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from ledger.seals import Sealing
from schemas.codec import HEADER_BYTES, UndecodableError, schema_of
from schemas.errors import ClearlineError, InvariantError
from schemas.failpoints import failpoint
from schemas.reader import NotThisWayError, compile_reader
from schemas.records import JournalRecord, Seal
from streams.clients import KafkaConfig
from streams.metrics import MetricsAddress
from streams.reader import LogReader, LogRecord, end_offsets, offsets_at, read_to_end, spans
from streams.registry import Registry
from streams.report import Ends, Report, served
from streams.sink_host import SinkOptions, _keep_running, _Learner, _stop_on_signals
from streams.topics import Topics

log = structlog.get_logger()

_FENCED = (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)
_TAIL = 16  # offsets from the end in which the last seal is looked for first; a seal and its marker take two
_PATIENCE_MS = 250  # a seal is of a minute


@dataclass(frozen=True, slots=True)
class SealerOptions:
    """How much is read at once, and how long a Kafka transaction of a sealer that vanished stays open."""

    poll_records_max: int = 5_000
    poll_timeout_s: float = 0.1
    call_timeout_s: float = 30.0
    transaction_timeout_ms: int = 30_000
    report_interval_s: float = 1.0


class SealerFencedError(ClearlineError):
    """Another sealer has taken over: this one may not write any more and must end."""


class _Part(msgspec.Struct, gc=False):
    """What sealing looks at in a journal record; the fields are the record's."""

    outcome: str
    sequence: int
    booked_at: int
    command: str


class _Passed(msgspec.Struct, gc=False):
    """A leg that is read past."""

    first: Any


def _part_reader() -> Callable[[bytes, int], _Part]:
    """A function that reads just these fields, and of the records inside only the first field."""
    schema = schema_of("JournalRecord")
    kinds = [f["type"] for f in schema["fields"] if isinstance(f["type"], dict)]
    legs = [k["items"] for k in kinds if k["type"] == "array" and isinstance(k["items"], dict)]
    return compile_reader(
        schema,
        {"JournalRecord": _Part, **{leg["name"]: _Passed for leg in legs}},
        only={"JournalRecord": _Part.__struct_fields__, **{leg["name"]: (leg["fields"][0]["name"],) for leg in legs}},
    )


_read_part = _part_reader()


def run_sealer(
    kafka: KafkaConfig,
    topics: Topics,
    registry: Registry,
    ready_file: Path | None,
    options: SealerOptions = SealerOptions(),
    stop: threading.Event | None = None,
    metrics: MetricsAddress | None = None,
) -> None:
    """Blocks until SIGTERM, SIGINT or `stop`. Waits out what does not answer. `metrics`: where its figures are served;
    None: nowhere.

    Raises SealerFencedError when another sealer took over, InvariantError when the last seal does not decode. A
    partition whose journal is not what was sealed is left out, and said to be `stopped` in the ready file.
    """
    stop = stop or _stop_on_signals()
    report = Report("sealer", ready_file, options.report_interval_s)
    learner = _Learner(registry.codec(), registry)

    def session() -> None:
        producer = Producer(
            kafka.producer(
                transactional_id=f"{topics.world}.sealer", transaction_timeout_ms=options.transaction_timeout_ms
            )
        )
        try:
            producer.init_transactions(options.call_timeout_s)
            failpoint("sealer.after_fence")
            sealer = Sealer(kafka, topics, learner, producer, options)
            with LogReader(kafka, topics.journal, sealer.start(), patience_ms=_PATIENCE_MS) as journal:
                report.ends = watch = Ends(kafka, topics.journal, journal.position)
                try:
                    _follow(journal, sealer, options, report, stop)
                finally:
                    report.ends = None
                    watch.close()
        except KafkaException as e:
            if e.args[0].code() in _FENCED:
                raise SealerFencedError("another sealer has taken over this world: this one ends") from e
            raise
        finally:
            with suppress(KafkaException):
                producer.purge()

    with served(report, metrics):
        _keep_running(session, report, SinkOptions(), stop)


def _follow(journal: LogReader, sealer: Sealer, options: SealerOptions, report: Report, stop: threading.Event) -> None:
    while not stop.is_set():
        records = journal.poll(options.poll_records_max, options.poll_timeout_s)
        if records:
            failpoint("sealer.after_read")
        sealer.step(records, journal.at_end, int(time.time() * 1000))
        report.records += len(records)
        report.verified = dict(journal.position)
        report.more = {"unsealed": sealer.unsealed(), "stopped": {str(p): why for p, why in sealer.stopped.items()}}
        report.serves()
        report.tell()


class Sealer:
    """Seals what it is given. Make it after the producer's `init_transactions`, which decides what was left open."""

    def __init__(
        self, kafka: KafkaConfig, topics: Topics, learner: _Learner, producer: Producer, options: SealerOptions
    ) -> None:
        self._kafka, self._topics, self._learner = kafka, topics, learner
        self._producer, self._options = producer, options
        self._last = last_seals(kafka, topics, learner)

        def body_of(seal: Seal) -> bytes:
            return learner.codec.encode(seal)[HEADER_BYTES:]

        self._sealing = {p: Sealing(p, self._last.get(p), body_of) for p in end_offsets(kafka, topics.journal)}
        self.stopped: dict[int, str] = {}

    def start(self) -> dict[int, int]:
        """Where to read the journal from: not after the last record under each partition's last seal."""
        since = {p: seal.last_booked_at for p, (seal, _) in self._last.items()}
        found = offsets_at(self._kafka, self._topics.journal, since)
        return {p: found.get(p, 0) for p in self._sealing}

    def unsealed(self) -> int:
        """Records that were read and are under no seal yet."""
        return sum(s.unsealed for s in self._sealing.values())

    def step(self, records: Iterable[LogRecord], at_end: Iterable[int], now_ms: int) -> None:
        """Takes what one poll brought, and commits the seals that are due. Raises KafkaException when it cannot."""
        due: list[Seal] = []
        for r in records:
            if r.partition not in self.stopped:
                due += self._take(r, now_ms)
        for p in at_end:
            if p not in self.stopped:
                due += self._sealing[p].at_end(now_ms)
        if due:
            self._write(due)

    def _take(self, r: LogRecord, now_ms: int) -> list[Seal]:
        value = r.value or b""
        try:
            return self._sealing[r.partition].take(self._part_of(value), value[HEADER_BYTES:], now_ms)
        except (InvariantError, UndecodableError) as e:
            self.stopped[r.partition] = f"journal offset {r.offset}: {e}"
            log.error("partition is not sealed any further", partition=r.partition, offset=r.offset, why=str(e))
            return []

    def _part_of(self, value: bytes) -> _Part | JournalRecord:
        if value[:HEADER_BYTES] == self._learner.codec.journal_header:
            with suppress(NotThisWayError, IndexError, KeyError, UnicodeDecodeError):
                return _read_part(value, HEADER_BYTES)
        record: Any = self._learner(lambda: self._learner.codec.decode(value))
        if not isinstance(record, JournalRecord):
            raise InvariantError(f"a {type(record).__name__} stands in the journal")
        return record

    def _write(self, seals: list[Seal]) -> None:
        failed: list[KafkaError] = []
        producer = self._producer
        producer.begin_transaction()
        for s in seals:
            producer.produce(
                self._topics.seals, self._learner.codec.encode(s), str(s.last_sequence).encode(), s.partition,
                timestamp=s.last_booked_at, on_delivery=lambda e, _: failed.append(e) if e else None,
            )  # fmt: skip
        producer.flush(self._options.call_timeout_s)
        failpoint("sealer.after_produce")
        if failed:
            raise KafkaException(failed[0])
        producer.commit_transaction(self._options.call_timeout_s)
        failpoint("sealer.after_commit")


def last_seals(kafka: KafkaConfig, topics: Topics, learner: _Learner) -> dict[int, tuple[Seal, bytes]]:
    """The last committed seal of each partition with its Avro body; partitions without any are left out.

    Raises InvariantError when it is no seal of that partition.
    """
    kept = spans(kafka, topics.seals)
    found: dict[int, tuple[Seal, bytes]] = {}
    tail = _TAIL
    while missing := {p: span for p, span in kept.items() if p not in found and span[0] < span[1]}:
        for r in read_to_end(kafka, topics.seals, {p: max(low, high - tail) for p, (low, high) in missing.items()}):
            found[r.partition] = seal_of(r, learner)
        kept = {p: span for p, span in missing.items() if span[1] - tail > span[0]}
        tail *= 8
    return found


def seal_of(r: LogRecord, learner: _Learner) -> tuple[Seal, bytes]:
    """The seal in a record of the topic, and its Avro body. Raises InvariantError when it is none."""
    value = r.value or b""
    try:
        seal = learner(lambda: learner.codec.decode(value))
    except UndecodableError as e:
        raise InvariantError(f"seals[{r.partition}] offset {r.offset} does not decode: {e}", r.partition) from None
    if not isinstance(seal, Seal) or seal.partition != r.partition:
        raise InvariantError(f"seals[{r.partition}] offset {r.offset} is no seal of this partition", r.partition)
    return seal, value[HEADER_BYTES:]
