"""The figures of a gateway for Prometheus: every name stands here, and nowhere else.

Calls are counted as they are answered; everything else is read from what the parts know of themselves when it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from clearline.gateway.parts import Parts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0)
_OTHER = "other"
PARTNER = "clearline.partner"  # in the scope of a call: whose key it was, once that is known


class Name(StrEnum):
    """Every metric. Names end in their unit; those of counters end in `_total`."""

    READY = "clearline_gateway_ready"
    CALLS = "clearline_gateway_calls_total"
    CALL_SECONDS = "clearline_gateway_call_seconds"
    UNDER_WAY = "clearline_gateway_commands_under_way"
    OUTCOMES = "clearline_gateway_outcomes_in_memory"
    LIMITER_LOCAL = "clearline_gateway_limiter_local"


HELP: dict[Name, str] = {
    Name.READY: "1 when this gateway can take commands, else 0.",
    Name.CALLS: "Calls by method, route and status.",
    Name.CALL_SECONDS: "Seconds from a call's arrival to the end of its answer, waiting for outcomes included.",
    Name.UNDER_WAY: "Commands of this gateway that have no outcome yet.",
    Name.OUTCOMES: "Final outcomes in this gateway's memory.",
    Name.LIMITER_LOCAL: "1 while Redis is away and limits of calls are this gateway's own, else 0.",
}


class Metrics:
    """Counts answers, and shows all figures."""

    def __init__(self, parts: Parts) -> None:
        self._registry = CollectorRegistry()
        self._parts = parts
        labels = ("method", "route")
        self._calls = Counter(Name.CALLS, HELP[Name.CALLS], (*labels, "status"), registry=self._registry)
        self._seconds = Histogram(
            Name.CALL_SECONDS, HELP[Name.CALL_SECONDS], labels, buckets=_BUCKETS, registry=self._registry
        )
        self._registry.register(_Gauges(parts))

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """One call was answered. The route is its pattern, so ids never become names of metrics."""
        route = getattr(scope.get("route"), "path", _OTHER)
        method = scope["method"] if scope["method"] in _METHODS else _OTHER
        self._calls.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        if self._parts.meter is not None:
            self._parts.meter.answered(scope.get(PARTNER, ""), method, route, status, seconds)

    def text(self) -> bytes:
        """All of them as Prometheus reads them."""
        return generate_latest(self._registry)


_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class _Gauges(Collector):
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        parts = self._parts
        values = {
            Name.READY: not parts.ready(),
            Name.UNDER_WAY: parts.outcomes.under_way,
            Name.OUTCOMES: len(parts.outcomes),
            Name.LIMITER_LOCAL: parts.gate.local,
        }
        for name, value in values.items():
            yield GaugeMetricFamily(name, HELP[name], value=float(value))
