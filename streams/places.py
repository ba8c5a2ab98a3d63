"""Single records out of a log: a reader that jumps, and the search for the outcome of one command in the journal.

The journal of a partition is in the order of the commands, one record for each that did not die, with gaps where end
markers of Kafka transactions stand. So the record of a command is found by halving, and its time, which is that of the
command, says where to begin.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from processors.finality import decides
from schemas.codec import HEADER_BYTES
from schemas.errors import PartUnavailableError
from schemas.records import JournalRecord
from streams.calls import Later
from streams.clients import KafkaConfig
from streams.reader import LogRecord, record_of

CHUNK = 256
_FORWARD = 4  # chunks that are read on before the rest is halved
_ANSWER_S = 10.0
_ID_END = HEADER_BYTES + 16

Decode = Callable[[bytes | None], Any]


class Log(Protocol):
    """A log that can be looked into anywhere. Every call raises PartUnavailableError."""

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset that is kept, and the one after the last committed record."""
        ...

    def chunks(self, topic: str, starts: Mapping[int, int]) -> Iterator[list[LogRecord]]:
        """Committed records of these partitions from these offsets to their ends now, in parts as they come; each
        partition's in order."""
        ...

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        """The first offset whose record is at or after a time, ms UTC; the end where there is none."""
        ...


class Placed(NamedTuple):
    """A journal record and its offset there."""

    offset: int
    record: JournalRecord


def find_outcome(
    log: Log, decode: Decode, journal: str, partition: int, source_offset: int, time_ms: int = -1
) -> Placed | None:
    """The journal record of the command at this offset. None when it is not settled yet, or died, or is none.

    `time_ms`: its append time, where it is known.
    """
    low, high = log.span(journal, partition)
    at = log.offset_at(journal, partition, time_ms) if time_ms >= 0 else (low + high) // 2
    forward = _FORWARD
    while low < high:
        at = min(max(low, at), high - 1)
        found = [r for r in _first_chunk(log, journal, partition, at) if r.offset < high]
        if not found or source_offset < _source(decode, found[0]):
            high = at
        elif source_offset > _source(decode, found[-1]):
            low = found[-1].offset + 1
            if forward > 0 and time_ms >= 0:
                forward, at = forward - 1, low
                continue
        else:
            i = bisect_left(found, source_offset, key=lambda r: _source(decode, r))
            record: JournalRecord = decode(found[i].value)
            return Placed(found[i].offset, record) if record.source_offset == source_offset else None
        at = (low + high) // 2
    return None


def last_word(log: Log, decode: Decode, journal: str, partition: int, first: Placed) -> Placed:
    """Of a transaction that went to other partitions the record that decides it, once it is there; else the first."""
    r = first.record
    if r.command != "Transaction" or r.outcome != "applied":
        return first
    for found in of_command(log, decode, journal, {partition: first.offset + 1}, r.command_id):
        if decides(found.record) and found.record.first_offset == r.source_offset:
            return found
    return first


def of_command(
    log: Log, decode: Decode, journal: str, starts: Mapping[int, int], command_id: bytes
) -> Iterator[Placed]:
    """The records of a command from these offsets on, told by the id with which each record begins."""
    for records in log.chunks(journal, starts):
        for r in records:
            if r.value is not None and r.value[HEADER_BYTES:_ID_END] == command_id:
                yield Placed(r.offset, decode(r.value))


def holding(log: Log, decode: Decode, journal: str, partition: int, start: int, name: bytes, most: int) -> Later:
    """Of the `most` journal records from an offset on those that hold these bytes."""
    found: list[JournalRecord] = []
    seen = 0
    chunks = log.chunks(journal, {partition: start})
    try:
        for records in chunks:
            for r in records:
                if seen >= most:
                    return Later(found, False)
                seen += 1
                if r.value is not None and name in r.value:
                    found.append(decode(r.value))
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
    return Later(found, True)


def record_at(log: Log, topic: str, partition: int, offset: int) -> LogRecord | None:
    """The record at exactly this offset; None when it is not kept any more, or none is there."""
    low, high = log.span(topic, partition)
    if not low <= offset < high:
        return None
    return next((r for r in _first_chunk(log, topic, partition, offset) if r.offset == offset), None)


def records_at(log: Log, topic: str, wanted: Mapping[int, Iterable[int]]) -> dict[tuple[int, int], LogRecord]:
    """The records at these offsets of each partition, those that are kept. What is close together is read at once."""
    found: dict[tuple[int, int], LogRecord] = {}
    runs = {p: _runs(sorted(set(offsets))) for p, offsets in wanted.items() if offsets}
    while runs:
        now = {p: mine.pop() for p, mine in runs.items()}
        left = {p: set(run) for p, run in now.items()}
        chunks = log.chunks(topic, {p: max(run[0], log.span(topic, p)[0]) for p, run in now.items()})
        try:
            for records in chunks:
                for r in records:
                    mine = left.get(r.partition, set())
                    if r.offset in mine:
                        found[r.partition, r.offset] = r
                    if mine and r.offset >= now[r.partition][-1]:
                        mine.clear()
                if not any(left.values()):
                    break
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        runs = {p: mine for p, mine in runs.items() if mine}
    return found


def _runs(offsets: list[int]) -> list[list[int]]:
    """Offsets in groups between which it is better to jump than to read on."""
    runs: list[list[int]] = []
    for o in offsets:
        if not runs or o - runs[-1][-1] > 4 * CHUNK:
            runs.append([])
        runs[-1].append(o)
    return runs


def _first_chunk(log: Log, topic: str, partition: int, start: int) -> list[LogRecord]:
    chunks = log.chunks(topic, {partition: start})
    try:
        return next(iter(chunks), [])
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def _source(decode: Decode, r: LogRecord) -> int:
    record: JournalRecord = decode(r.value)
    return record.source_offset


class KafkaLog:
    """A `Log` on the broker. Not thread-safe. It asks for nothing while nobody looks."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self._kafka = kafka
        self._consumer = Consumer(
            kafka.consumer(
                "clearline-finder", enable_partition_eof=True, fetch_wait_max_ms=1, queued_min_messages=CHUNK,
                fetch_message_max_bytes=131_072,
            )
        )  # fmt: skip

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        try:
            found = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_ANSWER_S)
        except KafkaException as e:
            raise self._unavailable(e.args[0].str()) from None
        if found is None:
            raise self._unavailable(f"{topic}[{partition}]: no answer")
        return int(found[0]), int(found[1])

    def chunks(self, topic: str, starts: Mapping[int, int]) -> Iterator[list[LogRecord]]:
        ends = {p: self.span(topic, p)[1] for p in starts}
        left = {p for p, start in starts.items() if start < ends[p]}
        if not left:
            return
        self._consumer.assign([TopicPartition(topic, p, starts[p]) for p in sorted(left)])
        try:
            deadline = time.monotonic() + _ANSWER_S
            while left:
                records, ended = self._some()
                if records or ended:
                    deadline = time.monotonic() + _ANSWER_S
                elif time.monotonic() > deadline:
                    raise self._unavailable(f"{topic}: no records within {_ANSWER_S:.0f} s")
                left -= ended
                left -= {r.partition for r in records if r.offset >= ends[r.partition] - 1}
                records = [r for r in records if r.offset < ends[r.partition]]
                if records:
                    yield records
        finally:
            self._consumer.unassign()

    def _some(self) -> tuple[list[LogRecord], set[int]]:
        """Records that came, and partitions that were read to their ends."""
        first = self._consumer.poll(0.1)
        if first is None:
            return [], set()
        records, ended = [], set()
        messages: list[Any] = [first, *self._consumer.consume(CHUNK - 1, 0)]
        for m in messages:
            error = m.error()
            if error is None:
                records.append(record_of(m))
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(m.partition())
            elif error.fatal():
                raise self._unavailable(error.str())
        return records, ended

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        try:
            (found,) = self._consumer.offsets_for_times([TopicPartition(topic, partition, time_ms)], timeout=_ANSWER_S)
        except KafkaException as e:
            raise self._unavailable(e.args[0].str()) from None
        return found.offset if found.offset >= 0 else self.span(topic, partition)[1]

    def close(self) -> None:
        self._consumer.close()

    def _unavailable(self, why: str) -> PartUnavailableError:
        return PartUnavailableError("Kafka", self._kafka.bootstrap, why)
