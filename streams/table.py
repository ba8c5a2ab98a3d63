"""A small compacted topic held in memory, as a table: what every gateway must know at once, and no store may lose.

Rows are read from the first record at the start and followed from then on, so a change is seen by every process within
a fetch. One row is one record under one key; the last one written counts. `put` returns when the broker has the row and
this process has read it back, so whoever writes sees what he wrote.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import structlog
from confluent_kafka import KafkaException, Producer

from schemas.codec import Codec, UndecodableError
from schemas.errors import ClearlineError, PartUnavailableError
from schemas.identity import murmur2
from schemas.records import Record
from streams.clients import KafkaConfig
from streams.reader import LogReader, LogRecord, end_offsets

log = structlog.get_logger()

_START_S = 60.0
_PAUSE_S = 1.0
Changed = Callable[[str, Record | None], None]


class Table:
    """Rows by key. Reading is thread-safe, and so is `put`; `changed` is called in the table's own thread.

    The constructor returns when all rows that were there are in. Raises PartUnavailableError. `learn` teaches the codec
    schema ids that it does not know. A row that does not decode counts as none, because nobody may be let in by what it
    said before; `unreadable` names it.
    """

    def __init__(
        self, kafka: KafkaConfig, topic: str, codec: Codec, changed: Changed = lambda _key, _row: None,
        learn: Callable[[set[int]], None] = lambda _ids: None,
    ) -> None:  # fmt: skip
        self._kafka = kafka
        self._topic = topic
        self._codec = codec
        self._changed = changed
        self._learn = learn
        self._rows: dict[str, Record] = {}
        self._unreadable: dict[str, str] = {}
        self._read = threading.Condition()
        self._position: dict[int, int] = {}
        ends = end_offsets(kafka, topic)
        self._partitions = len(ends)
        self._producer = Producer(kafka.producer(message_timeout_ms=15_000, linger_ms=0))
        self._reader = LogReader(kafka, topic)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"table {topic}", daemon=True)
        self._thread.start()
        self._wait(ends, _START_S)

    def get(self, key: str) -> Record | None:
        """The row under a key."""
        return self._rows.get(key)

    def items(self, prefix: str = "") -> Iterator[tuple[str, Record]]:
        """Rows whose key starts with `prefix`, sorted by key."""
        with self._read:
            found = [(k, r) for k, r in self._rows.items() if k.startswith(prefix)]
        return iter(sorted(found, key=lambda x: x[0]))

    def put(self, key: str, row: Record | None, timeout_s: float = 15.0) -> None:
        """Writes a row (None: deletes it) and waits until it is read back. Raises PartUnavailableError: then it is not
        known whether it was written."""
        partition = (murmur2(key.encode()) & 0x7FFFFFFF) % self._partitions
        done: list[tuple[Any, Any]] = []
        value = self._codec.encode(row) if row is not None else None
        self._producer.produce(
            self._topic, value, key.encode(), partition, on_delivery=lambda e, m: done.append((e, m))
        )
        deadline = time.monotonic() + timeout_s
        while not done and time.monotonic() < deadline:
            self._producer.poll(0.05)
        if not done or done[0][0] is not None:
            why = done[0][0].str() if done else f"not acknowledged within {timeout_s:.0f} s"
            raise PartUnavailableError("Kafka", self._kafka.bootstrap, f"{self._topic}: {why}")
        self._wait({partition: done[0][1].offset() + 1}, timeout_s)

    @property
    def unreadable(self) -> dict[str, str]:
        """Keys whose last row does not decode, and why."""
        return self._unreadable

    @property
    def following(self) -> bool:
        """Whether changes are still read."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stops following."""
        self._ended.set()
        self._thread.join(10)
        self._reader.close()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _wait(self, until: dict[int, int], timeout_s: float) -> None:
        with self._read:
            if self._read.wait_for(lambda: all(self._position.get(p, 0) >= o for p, o in until.items()), timeout_s):
                return
        raise PartUnavailableError(
            "Kafka", self._kafka.bootstrap, f"{self._topic} was not read within {timeout_s:.0f} s"
        )

    def _follow(self) -> None:
        """Follows over whatever happens to broker and registry: a table that stands still lets ended keys in."""
        while not self._ended.is_set():
            try:
                self._read_on()
            except (KafkaException, ClearlineError) as e:
                log.warning("table_paused", topic=self._topic, error=str(e))
                self._ended.wait(_PAUSE_S)
                self._reopen()

    def _reopen(self) -> None:
        """A reader that goes on behind the last rows that were taken."""
        self._reader.close()
        while not self._ended.is_set():
            try:
                self._reader = LogReader(self._kafka, self._topic, self._position or None)
                return
            except (KafkaException, ClearlineError) as e:
                log.warning("table_paused", topic=self._topic, error=str(e))
                self._ended.wait(_PAUSE_S)

    def _read_on(self) -> None:
        while not self._ended.is_set():
            # The client waits for as many as it is asked for: one at first, so that a change is seen when it comes.
            records = self._reader.poll(1, 0.1)
            records += self._reader.poll(10_000, 0) if records else []
            unknown = self._codec.unknown_ids(r.value for r in records)
            if unknown:
                self._learn(unknown)
            for r in records:
                self._take(r)
            with self._read:
                self._position = dict(self._reader.position)
                self._read.notify_all()

    def _take(self, r: LogRecord) -> None:
        key = (r.key or b"").decode("utf-8", "replace")
        row, unreadable = None, ""
        try:
            row = self._codec.decode(r.value) if r.value is not None else None
        except UndecodableError as e:
            unreadable = f"{self._topic}[{r.partition}] offset {r.offset}: {e}"
            log.error("row_unreadable", key=key, error=unreadable)
        with self._read:
            if unreadable:
                self._unreadable = {**self._unreadable, key: unreadable}
            elif key in self._unreadable:
                self._unreadable = {k: why for k, why in self._unreadable.items() if k != key}
            if row is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = row
        self._changed(key, row)
