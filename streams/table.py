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

from confluent_kafka import Producer

from schemas.codec import Codec
from schemas.errors import PartUnavailableError
from schemas.identity import murmur2
from schemas.records import Record
from streams.clients import KafkaConfig
from streams.reader import LogReader, LogRecord, end_offsets

_START_S = 60.0
Changed = Callable[[str, Record | None], None]


class Table:
    """Rows by key. Reading is thread-safe, and so is `put`; `changed` is called in the table's own thread.

    The constructor returns when all rows that were there are in. Raises PartUnavailableError.
    """

    def __init__(
        self, kafka: KafkaConfig, topic: str, codec: Codec, changed: Changed = lambda _key, _row: None
    ) -> None:
        self._kafka = kafka
        self._topic = topic
        self._codec = codec
        self._changed = changed
        self._rows: dict[str, Record] = {}
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
        while not self._ended.is_set():
            # The client waits for as many as it is asked for: one at first, so that a change is seen when it comes.
            records = self._reader.poll(1, 0.1)
            records += self._reader.poll(10_000, 0) if records else []
            for r in records:
                self._take(r)
            with self._read:
                self._position = dict(self._reader.position)
                self._read.notify_all()

    def _take(self, r: LogRecord) -> None:
        key = (r.key or b"").decode("utf-8", "replace")
        row = self._codec.decode(r.value) if r.value is not None else None
        with self._read:
            if row is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = row
        self._changed(key, row)
