"""The tie-out's last word for Prometheus. A scrape reads it; nothing is counted twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from clearline.audit.continuous.difference import Verdict
from streams.metrics import MetricsAddress, MetricsServer


class Name(StrEnum):
    """Every metric of the tie-out."""

    DIFFERENCES = "clearline_tieout_differences"
    LAG = "clearline_tieout_lag_seconds"
    VERDICT = "clearline_tieout_verdict"
    ROUND_AT = "clearline_tieout_last_round_timestamp_seconds"


HELP: dict[Name, str] = {
    Name.DIFFERENCES: "How many places of a part (kafka, clickhouse, redis) are not what the journal says.",
    Name.LAG: "For how long something is in the log that was not compared with a part yet.",
    Name.VERDICT: f"{', '.join(f'{v.value} {v.word}' for v in Verdict)}.",
    Name.ROUND_AT: "When the last comparison ended, by this machine's clock; 0 before the first.",
}


class _Collector(Collector):
    def __init__(self, last: Callable[[], dict[str, Any]]) -> None:
        self._last = last

    def describe(self) -> Iterator[Metric]:
        """Nothing: else registering would ask for figures before there are any."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        last = self._last()
        families = {
            n: GaugeMetricFamily(n, HELP[n], labels=["part"]) for n in (Name.DIFFERENCES, Name.LAG, Name.VERDICT)
        }
        for part, said in last.get("parts", {}).items():
            families[Name.DIFFERENCES].add_metric([part], said["differences"])
            families[Name.LAG].add_metric([part], said["lag_seconds"])
            families[Name.VERDICT].add_metric([part], Verdict[said["verdict"].upper()].value)
        yield from families.values()
        yield GaugeMetricFamily(Name.ROUND_AT, HELP[Name.ROUND_AT], value=last.get("round_at", 0) / 1000)


def serve(at: MetricsAddress, last: Callable[[], dict[str, Any]]) -> MetricsServer:
    """Serves /metrics until it is closed. Raises BadInputError when it cannot listen there."""
    return MetricsServer(
        at, _Collector(last), whose="metrics of the tie-out", port_is="CLEARLINE_METRICS__PORT plus CLEARLINE_WORKERS"
    )
