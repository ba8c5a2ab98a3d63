"""Drives generated load into a running system and measures it from outside: when each command was due, and when its
committed outcome could be read.

Open loop: what is due is sent when it is due, however slow the answers are, and latency counts from the time it was
due. So a system that stalls cannot make its own figures better by slowing its load down.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from clearline.connection import Connection
from clearline.generator import DAY_SECONDS, Item, encode
from clearline.outcomes import Matcher, Outcome, OutcomeTail, wait_for_all
from schemas.errors import PartUnavailableError
from schemas.identity import BANK

_TICK_S = 0.002  # how long the tail is followed between two looks at what is due
_LOOK_EVERY = 200
_SURPRISES_MAX = 20


@dataclass(slots=True)
class Figures:
    """What a drive measured. `seconds`: from the first command to the last outcome; latencies in milliseconds."""

    submitted: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    surprised: int = 0
    seconds: float = 0.0
    latencies_ms: array[float] = field(default_factory=lambda: array("d"))

    def latency_ms(self) -> dict[str, float]:
        """p50, p99 and max, rounded to a tenth."""
        if not self.latencies_ms:
            return {"p50": 0.0, "p99": 0.0, "max": 0.0}
        p50, p99, most = np.percentile(np.frombuffer(self.latencies_ms), [50, 99, 100])
        return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "max": round(float(most), 1)}


class Drive:
    """Sends items and follows their outcomes. One drive after another may use the same tail."""

    def __init__(self, system: Connection, tail: OutcomeTail, stall_s: float = 60.0) -> None:
        self._system = system
        self._tail = tail
        self._stall_s = stall_s
        self.figures = Figures()
        self._matcher: Matcher[tuple[Item, float]] = Matcher(self._became)
        self._lost: list[str] = []

    def run(self, items: Iterable[Item], day_s: float = 0.0, progress: Callable[[int], None] | None = None) -> Figures:
        """Sends all items and waits for every outcome. `day_s`: seconds into which the items' day is pressed, 0 for as
        fast as it goes; `progress` gets the number of outcomes.

        Raises PartUnavailableError when commands are not acknowledged, or no outcome comes for `stall_s` seconds.
        """
        told = progress or (lambda _done: None)
        places: dict[str, tuple[bytes, list[int]]] = {}
        with self._system.publisher() as publisher:
            start = time.monotonic()
            for item in items:
                due = start + item.second / DAY_SECONDS * day_s if day_s else 0.0
                while due > time.monotonic():
                    publisher.poll(0)
                    self._look(_TICK_S)
                value = encode(item, self._system.codec, self._system.message_bytes_max)
                partner = item.command.partner_id
                place = places.get(partner) if item.kind != "setup" and partner != BANK else None
                if place is None:
                    place = places[partner] = item.places(self._system.partitions)
                token = (item, due or time.monotonic())
                for p in place[1]:
                    publisher.send(value, place[0], p, on_delivery=partial(self._delivered, token))
                    self.figures.submitted += 1
                if self.figures.submitted % _LOOK_EVERY == 0:
                    self._look(0)
                    told(self.figures.outcomes.total())
            publisher.flush(60.0)
            if self._lost:
                hint = f"{len(self._lost)} commands were not acknowledged: {self._lost[0]}"
                raise PartUnavailableError("Kafka", self._system.kafka.bootstrap, hint)
            done = wait_for_all(self._matcher, self._tail, self._stall_s, lambda: told(self.figures.outcomes.total()))
        if not done:
            hint = f"{self._matcher.waiting} commands have no outcome after {self._stall_s:.0f} s without any"
            raise PartUnavailableError("Settlement", self._system.topics.submitted, hint)
        self.figures.seconds = time.monotonic() - start
        told(self.figures.outcomes.total())
        return self.figures

    def _look(self, timeout_s: float) -> None:
        for outcome in self._tail.poll(timeout_s):
            self._matcher.came(outcome)

    def _delivered(self, token: tuple[Item, float], error: Any, message: Any) -> None:
        if error is not None:
            self._lost.append(error.str())
        else:
            self._matcher.sent(token, message.partition(), message.offset())

    def _became(self, token: tuple[Item, float], outcome: Outcome) -> None:
        item, due = token
        figures = self.figures
        figures.latencies_ms.append((time.monotonic() - due) * 1_000)
        figures.outcomes[outcome.outcome] += 1
        if outcome.reason:
            figures.reasons[outcome.reason] += 1
        got = f"{outcome.outcome}:{outcome.reason}" if outcome.reason else outcome.outcome
        if got != item.expected:
            figures.surprised += 1
            if len(figures.surprises) < _SURPRISES_MAX:
                key = f"{item.command.partner_id} {item.command.idempotency_key}"
                figures.surprises.append(f"{key}: expected {item.expected}, got {outcome.outcome} {outcome.why()}")
