"""The yardstick: the least that a program can do between consuming and a committed output.

One process takes the same bytes from the same partitions as the settlement, produces them unchanged to the same
partitions of another topic, and commits one Kafka transaction per 20 ms with two alternating transactional producers.
No decoding, no state, no keys. Every figure of the settlement is printed beside this loop's figure of the same run,
because the machine is noisy.

It runs as `python -m benchmarks copy JSON`, see `Job`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from streams.clients import KafkaConfig

INTERVAL_S = 0.020
_SLICE_S = 0.002
_RECORDS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Job:
    """`start`, `end`: offsets by partition; with `end` the loop ends when all is copied, otherwise on SIGTERM."""

    bootstrap: str
    source: str
    target: str
    start: dict[str, int]
    end: dict[str, int] | None = None


class CopyLoop:
    """See the module. `transactional_id` must be this process's own."""

    def __init__(self, job: Job, name: str) -> None:
        kafka = KafkaConfig(job.bootstrap)
        self.job = job
        self._producers = [
            Producer(kafka.producer(transactional_id=f"{name}-{i}", batch_num_messages=10_000)) for i in range(2)
        ]
        for p in self._producers:
            p.init_transactions(30)
        self._consumer = Consumer(kafka.consumer(name, queued_max_messages_kbytes=65_536))
        self._consumer.assign([TopicPartition(job.source, int(p), o) for p, o in job.start.items()])
        self._next = {int(p): o for p, o in job.start.items()}

    def run(self, stop: threading.Event) -> dict[str, Any]:
        """Copies until all is done or `stop` is set. Counted from the first record's arrival to the last commit."""
        copied = commits = 0
        first = last = commit_s = cpu_s = 0.0
        while not stop.is_set() and not self._done():
            messages = self._take(1, 0.2)
            if not messages:
                continue
            if not first:
                first, cpu_s = time.monotonic(), time.process_time()
            deadline = time.monotonic() + INTERVAL_S
            producer = self._producers[commits % 2]
            producer.begin_transaction()
            while True:
                self._emit(producer, messages)
                copied += len(messages)
                left = deadline - time.monotonic()
                if left <= 0 or self._done():
                    break
                messages = self._take(_RECORDS_MAX, min(left, _SLICE_S))
            started = time.monotonic()
            self._commit(producer)
            last = time.monotonic()
            commit_s += last - started
            commits += 1
        self._consumer.close()
        seconds = last - first
        return {
            "copied": copied,
            "seconds": round(seconds, 3),
            "per_second": copied / seconds if seconds > 0 else 0.0,
            "commits": commits,
            "cpu_us_each": round((time.process_time() - cpu_s) / max(1, copied) * 1e6, 2),
            "commit_ms": round(commit_s / max(1, commits) * 1e3, 2),
        }

    def _take(self, records_max: int, timeout_s: float) -> list[Any]:
        return [m for m in self._consumer.consume(records_max, timeout_s) if m.error() is None]

    def _emit(self, producer: Producer, messages: list[Any]) -> None:
        produce, target, following = producer.produce, self.job.target, self._next
        for m in messages:
            p = m.partition()
            while True:
                try:
                    produce(target, m.value(), m.key(), p)
                    break
                except BufferError:
                    producer.poll(0.001)
            following[p] = m.offset() + 1

    def _commit(self, producer: Producer) -> None:
        offsets = [TopicPartition(self.job.source, p, o) for p, o in self._next.items()]
        producer.send_offsets_to_transaction(offsets, self._consumer.consumer_group_metadata(), 30)
        producer.commit_transaction(30)

    def _done(self) -> bool:
        end = self.job.end
        return end is not None and all(self._next[int(p)] >= o for p, o in end.items())


def serve(job: dict[str, Any], hear: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Copies; ends at the job's end offsets, or on SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    asked = Job(**job)
    loop = CopyLoop(asked, f"{asked.target}-loop")
    hear()
    return loop.run(stop)
