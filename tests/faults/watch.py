"""Watches the journal from outside while things die: how long each partition goes without a settlement."""

from __future__ import annotations

import threading
import time

from confluent_kafka import KafkaException

from schemas.codec import CHAIN_BYTES
from streams.clients import KafkaConfig
from streams.reader import LogReader, end_offsets


class JournalWatch:
    """Follows the journal under read_committed in a thread. A command's `booked_at` is the record's own timestamp.

    `latest` holds, per partition, the append time (ms) of the newest command with a visible outcome.
    """

    def __init__(self, kafka: KafkaConfig, journal: str) -> None:
        self._kafka, self._journal = kafka, journal
        self.latest: dict[int, int] = {}
        self.records = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="journal-watch", daemon=True)

    def start(self) -> None:
        self._start = end_offsets(self._kafka, self._journal)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(30)

    def _follow(self) -> None:
        with LogReader(self._kafka, self._journal, self._start) as reader:
            while not self._ended.is_set():
                try:
                    found = reader.poll(5_000, 0.05)
                except KafkaException:  # the broker is away: that is what is being measured
                    time.sleep(0.05)
                    continue
                for r in found:
                    assert r.value is not None
                    assert len(r.value) > CHAIN_BYTES
                    self.latest[r.partition] = max(self.latest.get(r.partition, 0), r.timestamp_ms)
                self.records += len(found)

    def settled_since(self, moment_ms: int, partitions: list[int]) -> bool:
        """Whether each partition shows an outcome of a command that came after this moment."""
        return all(self.latest.get(p, 0) > moment_ms for p in partitions)


def percentile(values: list[float], percent: int) -> float:
    """The value that `percent` of the sorted values do not exceed; 0 when there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0
