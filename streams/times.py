"""How long things take, and how many come in a second: kept so that what is measured does not become slower by it.

Times go into buckets, a whole batch at once: the broker's times of a partition's messages only rise, so a few halvings
find how many of them fall into each bucket, and a command costs nothing of its own.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

# Upper bounds in milliseconds, each at most a third above the one before: that is how exact a percentile is.
BOUNDS_MS = (
    1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 500, 600, 800,
    1_000, 1_200, 1_500, 2_000, 2_500, 3_000, 4_000, 5_000, 6_000, 8_000, 10_000, 12_000, 15_000, 20_000, 25_000,
    30_000, 40_000, 50_000, 60_000, 120_000, 300_000, 600_000, 3_600_000,
)  # fmt: skip
# What Prometheus is shown.
SHOWN_MS = (
    2, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 3_600_000,
)  # fmt: skip
WINDOW_S = 60.0
_SLOTS = 12


class Stamped(Protocol):
    """What is read of a Kafka client's message: its type of time, and the time in milliseconds UTC."""

    def timestamp(self) -> tuple[int, int]: ...


def _stamp(m: Stamped) -> int:
    return m.timestamp()[1]


class Times:
    """Times in buckets, in all and over the last minute. One thread adds; others may read meanwhile.

    `clock`: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total = [0] * (len(BOUNDS_MS) + 1)
        self._slots: deque[tuple[int, list[int]]] = deque(maxlen=_SLOTS + 1)

    def add(self, ms: float) -> None:
        """One time."""
        self._put([(bisect_left(BOUNDS_MS, ms), 1)])

    def add_since(self, messages: Sequence[Stamped], now_ms: int) -> None:
        """The time from each message's stamp to now. Their stamps must not fall."""
        found: list[tuple[int, int]] = []
        first, count = 0, len(messages)
        while first < count:
            bucket = bisect_left(BOUNDS_MS, now_ms - _stamp(messages[first]))
            after = count
            if bucket:
                after = bisect_left(messages, now_ms - BOUNDS_MS[bucket - 1], first + 1, count, key=_stamp)
            found.append((bucket, after - first))
            first = after
        self._put(found)

    def _put(self, found: list[tuple[int, int]]) -> None:
        number = int(self._clock() * _SLOTS / WINDOW_S)
        if not self._slots or self._slots[-1][0] != number:
            self._slots.append((number, [0] * len(self._total)))
        slot = self._slots[-1][1]
        for bucket, n in found:
            slot[bucket] += n
            self._total[bucket] += n

    def last_minute(self) -> dict[str, Any]:
        """`p50` and `p99` in milliseconds over about the last minute (None when nothing came), and `count`."""
        oldest = int(self._clock() * _SLOTS / WINDOW_S) - _SLOTS
        counts = [0] * len(self._total)
        for number, slot in list(self._slots):
            if number > oldest:
                counts = [a + b for a, b in zip(counts, slot, strict=True)]
        return {"p50": percentile(counts, 0.5), "p99": percentile(counts, 0.99), "count": sum(counts)}

    def shown(self) -> tuple[list[tuple[str, float]], float]:
        """Buckets as Prometheus has them (upper bound in seconds, how many up to it), and the sum in seconds, taken
        from the middles of the buckets."""
        counts = list(self._total)
        out: list[tuple[str, float]] = []
        so_far, at = 0, 0
        for bound in SHOWN_MS:
            end = bisect_left(BOUNDS_MS, bound) + 1
            so_far += sum(counts[at:end])
            at = end
            out.append((str(bound / 1000), float(so_far)))
        out.append(("+Inf", float(sum(counts))))
        lows = (0, *BOUNDS_MS)
        highs = (*BOUNDS_MS, BOUNDS_MS[-1])
        total_ms = sum(n * (low + high) / 2 for n, low, high in zip(counts, lows, highs, strict=True) if n)
        return out, total_ms / 1000


def percentile(counts: Sequence[int], share: float) -> float | None:
    """The time, in ms, that this share of all is not above; inside its bucket as if they lay evenly. None of none."""
    wanted = share * sum(counts)
    if not wanted:
        return None
    so_far = 0
    for i, n in enumerate(counts):
        if n and so_far + n >= wanted:
            low = BOUNDS_MS[i - 1] if i else 0
            high = BOUNDS_MS[i] if i < len(BOUNDS_MS) else low
            return round(low + (high - low) * (wanted - so_far) / n, 1)
        so_far += n
    return float(BOUNDS_MS[-1])


class Least:
    """The smallest of what was seen over about the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slots: deque[tuple[int, float]] = deque(maxlen=_SLOTS + 1)

    def see(self, value: float) -> None:
        """One value."""
        number = int(self._clock() * _SLOTS / WINDOW_S)
        if self._slots and self._slots[-1][0] == number:
            if value < self._slots[-1][1]:
                self._slots[-1] = (number, value)
        else:
            self._slots.append((number, value))

    @property
    def value(self) -> float | None:
        """None when nothing was seen."""
        oldest = int(self._clock() * _SLOTS / WINDOW_S) - _SLOTS
        return min((value for number, value in list(self._slots) if number > oldest), default=None)


class Rate:
    """How much a count that only rises gains in a second, over the last `over_s` seconds."""

    def __init__(self, over_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._over_s, self._clock = over_s, clock
        self._samples: deque[tuple[float, int]] = deque()

    def per_second(self, count: int) -> float:
        """The rate, now that the count is this; 0 the first time. Whoever asks gives it its samples."""
        now = self._clock()
        self._samples.append((now, count))
        while len(self._samples) > 2 and now - self._samples[1][0] >= self._over_s:
            self._samples.popleft()
        since, before = self._samples[0]
        return round(max(0, count - before) / (now - since), 1) if now > since else 0.0


class Behind:
    """For how long a topic has had something that a reader has not come to."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, samples_max: int = 600) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, dict[int, int]]] = deque(maxlen=samples_max)

    def seconds(self, ends: dict[int, int], done: dict[int, int]) -> float:
        """`ends`: of the topic now; `done`: up to where the reader is. Seconds."""
        now = self._clock()
        self._samples.append((now, ends))
        while self._samples and all(done.get(p, 0) >= end for p, end in self._samples[0][1].items()):
            self._samples.popleft()
        return round(now - self._samples[0][0], 2) if self._samples else 0.0
