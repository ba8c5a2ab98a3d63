"""Seals and counts of calls into ClickHouse: what stands beside the journal, for people who ask in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sinks.log_sink import Logged, LogSink, objects

BUCKETS = 61  # as in the schema of CallCounts, the last for what takes longer than 79 seconds
_LONGEST = 2**63 - 1


class SealSink(LogSink):
    """Writes seals. `topic`: name and id of seals; records are Seal."""

    table = "seals"
    what = "seals"

    def columns(self, records: Sequence[Logged]) -> dict[str, Any]:
        """A seal as it is."""
        seals = [x.record for x in records]
        times = ("first_booked_at", "last_booked_at", "sealed_at")
        return {
            **{n: np.array([getattr(s, n) for s in seals], np.uint64) for n in ("first_sequence", "last_sequence")},
            **{n: np.array([getattr(s, n) for s in seals], np.int64) for n in times},
            **{n: objects([getattr(s, n) for s in seals]) for n in ("root", "chain", "previous")},
            "why": objects([s.why.encode() for s in seals]),
        }


class CallSink(LogSink):
    """Writes counts of calls, one row for each minute, partner, method, route and status. Records are CallCounts."""

    table = "calls"
    what = "counts of calls"
    once = "offset, line"
    by_month = True

    def rows_of(self, x: Logged) -> int:
        """One for each of its counts."""
        return len(x.record.counts)

    def columns(self, records: Sequence[Logged]) -> dict[str, Any]:
        """The counts, each with its place in its record."""
        counts = [(i, x, c) for x in records for i, c in enumerate(x.record.counts)]
        texts = ("partner_id", "method", "route")
        numbers = ("calls", "micros_sum", "micros_max")
        return {
            "line": np.array([i for i, _, _ in counts], np.uint16),
            "instance": objects([x.record.instance.encode() for _, x, _ in counts]),
            "counted_at": np.array([x.at_ms for _, x, _ in counts], np.int64),
            "minute": np.clip([c.minute // 1000 for _, _, c in counts], 0, 2**32 - 1),
            "status": np.clip([c.status for _, _, c in counts], 0, 2**16 - 1),
            **{n: objects([getattr(c, n).encode() for _, _, c in counts]) for n in texts},
            **{n: np.clip([getattr(c, n) for _, _, c in counts], 0, _LONGEST) for n in numbers},
            "buckets": objects([heights(c.buckets) for _, _, c in counts]),
        }


def heights(buckets: dict[str, str]) -> list[int]:
    """The counts of all buckets, from the few that are not 0."""
    out = [0] * BUCKETS
    for bucket, calls in buckets.items():
        out[min(int(bucket), BUCKETS - 1)] += int(calls)
    return out
