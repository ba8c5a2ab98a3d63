"""What a role that follows the log says of itself: in its ready file, and to Prometheus, from the same figures."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.errors import PartUnavailableError
from streams.clients import KafkaConfig
from streams.times import Behind, Rate, Times


@dataclass(slots=True)
class Report:
    """What a follower says of itself, worked out and written at most once per `interval_s`.

    `ends`: asks where its topic ends; `verified`: up to where it has come; `records`: how many it has brought there.
    `wrote`: how long batches took into the store, `rows` how much went there, `proven_at` when that was last proven,
    seconds since 1970 by this machine's clock. `metrics`: where it is served; `more`: what else stands in the file;
    `counts`: what else was counted since the process began.
    """

    role: str
    path: Path | None
    interval_s: float
    ends: Callable[[], dict[int, int]] | None = None
    ready: bool = False
    waiting_for: str = ""
    waiting_part: str = ""
    waiting_code: str = ""
    verified: dict[int, int] = field(default_factory=dict)
    records: int = 0
    wrote: Times | None = None
    rows: int = 0
    proven_at: float = 0.0
    metrics: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    lag: dict[int, int] = field(default_factory=dict)
    lag_seconds: float = 0.0
    broker_away: str = ""
    told_at: float = 0.0
    _written: float = 0.0
    _known: dict[int, int] = field(default_factory=dict)
    _rate: Rate = field(default_factory=Rate)
    _behind: Behind = field(default_factory=Behind)

    def wait(self, error: BaseException, said: str = "") -> None:
        """Tells, at once, what is waited for: which part, and what is wrong with it where that is known."""
        self.ready, self.waiting_for = False, said or str(error)
        unknown = "Kafka" if isinstance(error, KafkaException) else ""
        self.waiting_part = error.part if isinstance(error, PartUnavailableError) else unknown
        self.waiting_code = error.code if isinstance(error, PartUnavailableError) else ""
        self.tell(now=True)

    def serves(self) -> None:
        """Nothing is waited for."""
        self.ready, self.waiting_for, self.waiting_part, self.waiting_code = True, "", "", ""

    def stored(self, rows: int, began: float) -> None:
        """A batch is in the store and proven. `began`: by `time.perf_counter`."""
        if self.wrote is None:
            self.wrote = Times()
        self.wrote.add((time.perf_counter() - began) * 1000)
        self.rows += rows
        self.proven_at = time.time()

    def tell(self, *, now: bool = False) -> None:
        """Writes the file if it is time. The end offsets are asked for at the same rate."""
        at = time.monotonic()
        if (self.path is None and not self.metrics) or (at - self._written < self.interval_s and not now):
            return
        self._written, self.told_at = at, time.time()
        self._measure()
        if self.path is not None:
            draft = self.path.with_name(self.path.name + ".tmp")
            with suppress(OSError):  # a full disk must not end a role
                draft.write_bytes(orjson.dumps(self._facts()))
                draft.replace(self.path)

    def _measure(self) -> None:
        """How far behind it is. While nobody says where the topic ends, it is where it was last: so what waits for a
        store grows old meanwhile."""
        try:
            if self.ends:
                self._known = self.ends()
            self.broker_away = ""
        except KafkaException as e:
            self.broker_away = f"Kafka does not answer: {e.args[0].str()}"
        if self._known:
            self.lag = {p: max(0, end - self.verified.get(p, 0)) for p, end in self._known.items()}
            self.lag_seconds = self._behind.seconds(self._known, self.verified)

    def _facts(self) -> dict[str, Any]:
        rate = self._rate.per_second(self.records)
        away = "" if self.waiting_for else self.broker_away  # who reads on and gets nothing waits, too
        facts: dict[str, Any] = {
            "pid": os.getpid(),
            "role": self.role,
            "ready": self.ready,
            "waiting_for": self.waiting_for or away,
            "waiting_part": "Kafka" if away else self.waiting_part,
            "waiting_code": self.waiting_code,
            "verified": {str(p): o for p, o in sorted(self.verified.items())},
            "lag": sum(self.lag.values()) if self.ends and not self.broker_away else None,
            "lag_seconds": self.lag_seconds,
            "records": self.records,
            "records_per_second": rate,
            "rate_per_second": rate,
            "metrics": self.metrics,
            "at": int(self.told_at * 1000),
        }
        if self.wrote is not None:
            facts |= {"rows": self.rows, "last_proof_at": self.proven_at, "write_ms": self.wrote.last_minute()}
        return facts | ({"counts": dict(self.counts)} if self.counts else {}) | self.more


class Ends:
    """Asks one topic's end offsets again and again over one connection."""

    def __init__(self, kafka: KafkaConfig, topic: str, partitions: Iterable[int]) -> None:
        self._consumer = Consumer(kafka.consumer("clearline-reader"))
        self._parts = [TopicPartition(topic, p) for p in partitions]

    def __call__(self) -> dict[int, int]:
        return {tp.partition: self._consumer.get_watermark_offsets(tp, timeout=2)[1] for tp in self._parts}

    def close(self) -> None:
        self._consumer.close()


@contextmanager
def served(report: Report, at: Any, name: str = "") -> Iterator[None]:
    """Serves the figures of this report while the block runs. `at`: a MetricsAddress, or None: they are not served.

    `name`: the role's with its slot. Raises BadInputError when it cannot listen there.
    """
    if at is None:
        yield
        return
    from streams.metrics_follower import serve_follower

    server = serve_follower(report, at, name or report.role)
    report.metrics = server.url
    try:
        yield
    finally:
        server.close()
