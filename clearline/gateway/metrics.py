"""The figures of a gateway for Prometheus.

Calls are counted as they are answered; everything else is read from what the parts know of themselves when it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from clearline.gateway.parts import Parts
from streams.metric_names import Name
from streams.metrics import by_label, family, one
from streams.times import Rate, Times

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0)
_OTHER = "other"
PARTNER = "clearline.partner"  # in the scope of a call: whose key it was, once that is known


class Metrics:
    """Counts answers, and shows all figures."""

    def __init__(self, parts: Parts) -> None:
        self.registry = CollectorRegistry()
        self._parts = parts
        self._answered = 0
        self._times, self._rate = Times(), Rate()
        calls, seconds = Name.GATEWAY_CALLS, Name.GATEWAY_CALL_SECONDS
        self._calls = Counter(calls, calls.help, calls.labels, registry=self.registry)
        self._seconds = Histogram(seconds, seconds.help, seconds.labels, buckets=_BUCKETS, registry=self.registry)
        self.registry.register(_Gauges(parts))

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """One call was answered. The route is its pattern, so ids never become names of metrics."""
        route = getattr(scope.get("route"), "path", _OTHER)
        method = scope["method"] if scope["method"] in _METHODS else _OTHER
        self._calls.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        self._times.add(seconds * 1000)
        self._answered += 1
        if self._parts.meter is not None:
            self._parts.meter.answered(scope.get(PARTNER, ""), method, route, status, seconds)

    def text(self) -> bytes:
        """All of them as Prometheus reads them."""
        return generate_latest(self.registry)

    def lately(self) -> dict[str, Any]:
        """Calls, their rate, and how long they took over about the last minute: for the ready file."""
        return {
            "calls": self._answered, "rate_per_second": self._rate.per_second(self._answered),
            "latency_ms": self._times.last_minute(),
        }  # fmt: skip


_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class _Gauges(Collector):
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        parts = self._parts
        values = {
            Name.GATEWAY_READY: not parts.ready(),
            Name.GATEWAY_UNDER_WAY: parts.outcomes.under_way,
            Name.GATEWAY_OUTCOMES: len(parts.outcomes),
            Name.GATEWAY_LIMITER_LOCAL: parts.gate.local,
        }
        for name, value in values.items():
            yield family(name, value)
        yield by_label(Name.GATEWAY_STATE_LAG, parts.figures().get("state_behind_offsets", {}))


class Skew(Collector):
    """How far this machine's clock is from the broker's. `name`: the role's with its slot."""

    def __init__(self, name: str, skew_ms: Callable[[], float | None]) -> None:
        self._name, self._skew_ms = name, skew_ms

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        skew_ms = self._skew_ms()
        if skew_ms is not None:
            yield one(Name.CLOCK_SKEW, skew_ms / 1000, self._name)
