"""The tie-out's last word for Prometheus. A scrape reads it; nothing is counted twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from clearline.audit.continuous.difference import Verdict
from streams.metric_names import Name
from streams.metrics import MetricsAddress, MetricsServer, by_label, family
from streams.metrics_follower import serve_follower
from streams.report import Report


class _Collector(Collector):
    def __init__(self, report: Report) -> None:
        self._report = report

    def describe(self) -> Iterator[Metric]:
        """Nothing: else registering would ask for figures before there are any."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        last = self._report.more
        parts = last.get("parts", {})
        yield by_label(Name.TIEOUT_DIFFERENCES, {part: said["differences"] for part, said in parts.items()})
        yield by_label(Name.TIEOUT_LAG, {part: said["lag_seconds"] for part, said in parts.items()})
        verdicts = {part: Verdict[said["verdict"].upper()].value for part, said in parts.items()}
        yield by_label(Name.TIEOUT_VERDICT, verdicts)
        yield family(Name.TIEOUT_ROUND_AT, last.get("round_at", 0) / 1000)


def serve(at: MetricsAddress, report: Report, beside: Iterable[Collector] = ()) -> MetricsServer:
    """Serves the tie-out's figures, and those of `beside`, until it is closed. Raises BadInputError when it cannot
    listen there."""
    return serve_follower(report, at, "tieout", [_Collector(report), *beside])
