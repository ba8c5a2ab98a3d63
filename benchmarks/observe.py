"""What watches the settlement from outside, each in a process of its own: latencies, arrivals, and a rebuild of state.

Times are CLOCK_MONOTONIC, which all processes of a machine share. A reader notes arrivals while it runs and decodes
afterwards, so that it never is what is measured.
"""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil
from confluent_kafka import Consumer, Message, TopicPartition

from benchmarks.load import NUMBER_DIGITS, key_of
from schemas.codec import Codec
from schemas.records import JournalRecord, Transaction
from streams.clients import KafkaConfig
from streams.reader import committed_offsets
from streams.recovery import recover
from streams.registry import Registry
from streams.topics import Topics

_DRAIN_S = 30.0
Hear = Callable[[], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ReadJob:
    """`topic`: what carries the outcomes, from the offsets `start` on. `tag`, `number`, `rate`: of the sender.

    The first `warm_up` records are not counted.
    """

    bootstrap: str
    registry_url: str
    topic: str
    start: dict[str, int]
    tag: str = ""
    number: int = 0
    rate: float = 1.0
    warm_up: int = 0
    settings: dict[str, Any] = field(default_factory=dict)


def _consumer(job: ReadJob) -> Consumer:
    consumer = Consumer(KafkaConfig(job.bootstrap).consumer("clearline-reader", **job.settings))
    consumer.assign([TopicPartition(job.topic, int(p), o) for p, o in job.start.items()])
    consumer.poll(0.2)  # the first fetches are on their way
    return consumer


def _take(consumer: Consumer, timeout_s: float) -> list[Message]:
    """What has come: returns as soon as there is something, with all that is there."""
    first = consumer.poll(timeout_s)
    if first is None:
        return []
    return [m for m in (first, *consumer.consume(20_000, 0)) if m.error() is None]


def serve_reader(job: dict[str, Any], hear: Hear) -> dict[str, Any]:
    """Milliseconds from when each record was due to when its outcome was readable, and to its append."""
    asked = ReadJob(**job)
    codec = Registry(asked.registry_url).codec()
    consumer = _consumer(asked)
    start_at = float(hear()["start_at"])
    gc.disable()
    arrivals: list[tuple[float, list[Message]]] = []
    seen = 0
    deadline = start_at + asked.number / asked.rate + _DRAIN_S
    while seen < asked.number and time.monotonic() < deadline:
        messages = _take(consumer, 0.2)
        if messages:
            arrivals.append((time.monotonic(), messages))
            seen += len(messages)
    consumer.close()
    return _latencies(codec, arrivals, asked, start_at)


def _latencies(
    codec: Codec, arrivals: list[tuple[float, list[Message]]], job: ReadJob, start_at: float
) -> dict[str, Any]:
    tag = key_of(job.tag, 0)[:-NUMBER_DIGITS]
    latencies: list[float] = []
    appended: list[float] = []
    wall = time.time() - time.monotonic()
    outcomes: dict[str, int] = {}
    numbers: set[int] = set()
    for at, messages in arrivals:
        for m in messages:
            record = codec.decode(m.value())
            if not isinstance(record, JournalRecord | Transaction) or not record.idempotency_key.startswith(tag):
                continue
            number = int(record.idempotency_key[-NUMBER_DIGITS:])
            outcome = record.outcome if isinstance(record, JournalRecord) else "copied"
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            numbers.add(number)
            if number >= job.warm_up:
                due = start_at + number / job.rate
                latencies.append((at - due) * 1e3)
                if isinstance(record, JournalRecord):
                    appended.append(record.booked_at - (due + wall) * 1e3)
    latencies.sort()
    appended.sort()

    def quantile(q: float, of: list[float] = latencies) -> float | None:
        return round(of[min(len(of) - 1, int(len(of) * q))], 1) if of else None

    return {
        "p50_ms": quantile(0.5),
        "p90_ms": quantile(0.9),
        "p99_ms": quantile(0.99),
        "p999_ms": quantile(0.999),
        "max_ms": quantile(1.0),
        "appended_p50_ms": quantile(0.5, appended),
        "appended_p99_ms": quantile(0.99, appended),
        "counted": len(latencies),
        "missing": job.number - len(numbers),
        "outcomes": outcomes,
    }


def serve_arrivals(job: dict[str, Any], hear: Hear) -> dict[str, Any]:
    """When something new was readable in each partition, until the end after SIGTERM: seconds, CLOCK_MONOTONIC."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    asked = ReadJob(**job)
    consumer = _consumer(asked)
    hear()
    arrivals: dict[str, list[float]] = {p: [] for p in asked.start}
    more = True
    while more or not stop.is_set():
        messages = _take(consumer, 0.5)
        more = bool(messages)
        now = time.monotonic()
        for p in {m.partition() for m in messages}:
            arrivals[str(p)].append(now)
    consumer.close()
    return {"arrivals": arrivals}


def serve_rebuild(job: dict[str, Any], _hear: Hear) -> dict[str, Any]:
    """Takes the partitions of a world over as a worker does, and says what it cost in seconds and bytes.

    Once to warm up, once without remembered keys, once with them: the difference of the last two is what the keys cost.
    """
    kafka, topics = KafkaConfig(job["bootstrap"]), Topics(job["world"])
    codec = Registry(job["registry_url"]).codec()
    committed = committed_offsets(kafka, topics.group, topics.submitted)
    warm = recover(kafka, topics, codec, committed, 0)
    before = _rss()
    started = time.monotonic()
    ledgers = recover(kafka, topics, codec, committed, 0)
    state_s = time.monotonic() - started
    state_bytes = _rss() - before
    accounts = sum(len(ledger.base.accounts) for ledger in ledgers)
    del ledgers, warm
    started = time.monotonic()
    ledgers = recover(kafka, topics, codec, committed, job["window_ms"])
    both_s = time.monotonic() - started
    keys = sum(len(ledger.keys) for ledger in ledgers)
    return {
        "accounts": accounts,
        "state_s": round(state_s, 3),
        "bytes_per_account": round(state_bytes / max(1, accounts)),
        "keys": keys,
        "keys_s": round(max(0.0, both_s - state_s), 3),
        "bytes_per_key": round(sum(ledger.keys.memory_bytes for ledger in ledgers) / max(1, keys), 1),
    }


def _rss() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)
