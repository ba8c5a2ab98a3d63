"""Counts of calls by minute, partner, route and status, for the report of the platform's day.

Counting is one look into a dictionary and one search among 60 numbers, in the event loop and without a lock. What was
counted is handed on as records about each ten seconds: a process that is killed loses what it had not handed on yet. So
it is a measurement beside the journal, never money.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

from schemas.records import CallCount, CallCounts

# Upper bounds in microseconds, ten for each power of ten; what is above the last has a bucket of its own.
BOUNDS: tuple[int, ...] = tuple(round(100 * 10 ** (i / 10)) for i in range(60))
COUNTS_MAX = 500  # in one record
_MINUTE_MS = 60_000

Key = tuple[int, str, str, str, int]


class _Count:
    __slots__ = ("calls", "micros_sum", "micros_max", "buckets")

    def __init__(self) -> None:
        self.calls = self.micros_sum = self.micros_max = 0
        self.buckets: dict[int, int] = {}


class CallMeter:
    """`instance`: names this process; `now_ms`: the wall clock. Not thread-safe: for the event loop."""

    def __init__(self, instance: str, now_ms: Callable[[], int]) -> None:
        self.instance = instance
        self._now_ms = now_ms
        self._counts: dict[Key, _Count] = {}

    def answered(self, partner_id: str, method: str, route: str, status: int, seconds: float) -> None:
        """One call was answered. `route`: its pattern; `partner_id`: whose key it was, empty for none."""
        key = (self._now_ms() // _MINUTE_MS, partner_id, method, route, status)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = _Count()
        micros = int(seconds * 1_000_000)
        count.calls += 1
        count.micros_sum += micros
        if micros > count.micros_max:
            count.micros_max = micros
        bucket = bisect_left(BOUNDS, micros)
        count.buckets[bucket] = count.buckets.get(bucket, 0) + 1

    def take(self) -> Iterator[CallCounts]:
        """What was counted since the last time, as records of a bounded size; nothing when nothing was."""
        counts, self._counts = self._counts, {}
        rows = [_row(key, count) for key, count in sorted(counts.items())]
        for i in range(0, len(rows), COUNTS_MAX):
            yield CallCounts(self.instance, tuple(rows[i : i + COUNTS_MAX]))


def _row(key: Key, count: _Count) -> CallCount:
    minute, partner_id, method, route, status = key
    buckets = {str(bucket): str(calls) for bucket, calls in sorted(count.buckets.items())}
    return CallCount(
        minute * _MINUTE_MS, partner_id, method, route, status, count.calls, count.micros_sum, count.micros_max, buckets
    )
