"""Putting dead letters back: the command and the record of who put it back stand in the log together, or neither does.

One transactional id per world: whoever makes a `TriageWriter` fences the one before, waits until that one's Kafka
transaction is decided, and then reads what was done. So a redrive may be killed anywhere and begun again, and two at
once cannot put the same letter back twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer

from processors.settlement import ATTEMPTS_HEADER, REDRIVE_HEADER
from schemas.codec import Codec
from schemas.errors import ClearlineError, PartUnavailableError
from schemas.failpoints import failpoint
from schemas.records import Triage
from streams.clients import KafkaConfig, noted
from streams.reader import LogReader, LogRecord, end_offsets, read_decided
from streams.topics import DEAD_BYTES_MAX, Topics

__all__ = ["PutBack", "Row", "TakenOverError", "TriageFollower", "TriageWriter", "read_triage", "say"]

T = TypeVar("T")
TASKS_PARTITION = 0  # of the tasks' own rows; a letter's rows stand in the letter's partition
_FENCED = (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)
# While a Kafka transaction is open the workers see nothing behind it: one of a killed redrive must not stay for long.
_TRANSACTION_MS = 10_000


class TakenOverError(ClearlineError):
    """Another redrive or discard has begun in this world: this one may not write any more."""


class PutBack(NamedTuple):
    """A command to put back. `first`: id of the letter that came first; `attempts`: how often it was tried."""

    partition: int
    key: bytes
    value: bytes
    first: str
    attempts: int


class Row(NamedTuple):
    """A row of the topic as it is read; `at`: the broker's time, milliseconds UTC."""

    triage: Triage
    at: int


class TriageWriter:
    """Writes moves. Made, it has fenced the writer before it. Blocking; one thread.

    Every call raises TakenOverError when another one was made since, and PartUnavailableError when it does not know
    what became of something: then a new one must be made, which finds out.
    """

    def __init__(self, kafka: KafkaConfig, topics: Topics, codec: Codec, *, call_timeout_s: float = 30.0) -> None:
        self._kafka, self._topics, self._codec = kafka, topics, codec
        self._timeout_s = call_timeout_s
        self._producer = Producer(
            kafka.producer(
                transactional_id=f"{topics.world}.triage", transaction_timeout_ms=_TRANSACTION_MS,
                message_max_bytes=DEAD_BYTES_MAX, linger_ms=0,
            )
        )  # fmt: skip
        self._patiently(lambda: self._producer.init_transactions(call_timeout_s))
        failpoint("triage.after_fence")

    def write(
        self, commands: Sequence[PutBack], rows: Callable[[list[int]], Sequence[tuple[int, Triage]]]
    ) -> list[int]:
        """Puts commands back and writes what `rows` says of their offsets, each with its partition, in one Kafka
        transaction. Returns the commands' offsets."""
        offsets = [-1] * len(commands)
        failed: list[KafkaError] = []
        try:
            self._producer.begin_transaction()
            for i, c in enumerate(commands):
                headers = [(REDRIVE_HEADER, c.first.encode()), (ATTEMPTS_HEADER, str(c.attempts).encode())]
                self._produce(self._topics.submitted, c.value, c.key, c.partition, noted(offsets, i, failed), headers)
            self._flush(failed)
            failpoint("triage.after_commands")
            for partition, t in rows(offsets):
                key = (t.letter or t.task).encode()
                self._produce(self._topics.triage, self._codec.encode(t), key, partition, noted([0], 0, failed))
            self._flush(failed)
            failpoint("triage.before_commit")
            self._patiently(lambda: self._producer.commit_transaction(self._timeout_s))
        except KafkaException as e:
            raise self._told(self._aborted(e)) from e
        failpoint("triage.after_commit")
        return offsets

    def _produce(
        self, topic: str, value: bytes, key: bytes, partition: int, done: Callable[..., None], headers: Any = ()
    ) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, partition, on_delivery=done, headers=list(headers))
                return
            except BufferError:
                self._producer.poll(0.05)

    def _flush(self, failed: list[KafkaError]) -> None:
        left = self._producer.flush(self._timeout_s)
        if failed:
            raise KafkaException(failed[0])
        if left:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"not acknowledged within {self._timeout_s:.0f} s"))

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Asks again while the client says that this is safe."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return ask()
            except KafkaException as e:
                if not e.args[0].retriable() or time.monotonic() > deadline:
                    raise self._told(e) from e

    def _aborted(self, e: KafkaException) -> KafkaException:
        """Aborts what failed, else it stays open until the broker gives it up. Why it failed, as is known then: who was
        paused for long learns only now that another one has fenced it."""
        if e.args[0].code() not in _FENCED:
            try:
                self._producer.abort_transaction(5.0)
            except KafkaException as why:
                if why.args[0].code() in _FENCED:
                    return why
        return e

    def _told(self, e: KafkaException) -> ClearlineError:
        if e.args[0].code() in _FENCED:
            return TakenOverError(
                "another redrive or discard has begun in this world, and this one ends: what it has moved stands, and "
                "the other one knows of it"
            )
        why = f"{e.args[0].str()}; what was moved is in the log: give the same command again for the rest"
        return PartUnavailableError("Kafka", self._kafka.bootstrap, why)

    def close(self) -> None:
        """Drops what was not committed."""
        with suppress(KafkaException):
            self._producer.purge()


def say(kafka: KafkaConfig, topics: Topics, codec: Codec, row: Triage, timeout_s: float = 15.0) -> None:
    """Writes one row of a task outside of any Kafka transaction: a request to stop. Raises PartUnavailableError."""
    producer = Producer(kafka.producer(message_timeout_ms=int(timeout_s * 1000)))
    failed: list[KafkaError] = []
    producer.produce(
        topics.triage, codec.encode(row), row.task.encode(), TASKS_PARTITION, on_delivery=noted([0], 0, failed)
    )
    if producer.flush(timeout_s) or failed:
        why = failed[0].str() if failed else f"not acknowledged within {timeout_s:.0f} s"
        raise PartUnavailableError("Kafka", kafka.bootstrap, why)


def row_of(r: LogRecord, codec: Codec) -> Row:
    """A record of the topic."""
    triage: Triage = codec.decode(r.value)
    return Row(triage, r.timestamp_ms)


def read_triage(
    kafka: KafkaConfig, topics: Topics, codec: Codec, start: Mapping[int, int] | None = None
) -> tuple[list[Row], dict[int, int]]:
    """What was done, from `start` on (None: ever), and from where on to read the next time. What is not decided yet is
    not done; whoever must know has fenced its writer before."""
    ends = end_offsets(kafka, topics.triage)
    return [row_of(r, codec) for r in read_decided(kafka, topics.triage, ends, start)], ends


class TriageFollower:
    """Follows the tasks' own rows from now on: somebody may ask a task to stop. Not thread-safe."""

    def __init__(self, kafka: KafkaConfig, topics: Topics, codec: Codec) -> None:
        end = end_offsets(kafka, topics.triage)[TASKS_PARTITION]
        self._reader = LogReader(kafka, topics.triage, {TASKS_PARTITION: end})
        self._codec = codec

    def poll(self, timeout_s: float) -> list[Triage]:
        """What came within this time; it returns at once when something did. Letters' rows stand there, too, and keep
        no request to stop waiting."""
        records = self._reader.poll(1, timeout_s)
        records += self._reader.poll(10_000, 0.0) if records else []
        found = [row_of(r, self._codec).triage for r in records]
        return [t for t in found if not t.letter]

    def close(self) -> None:
        """Stops following."""
        self._reader.close()
