"""A settlement worker's figures as metrics. `SettlementService.figures` fills the ready file from the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from streams.metric_names import Name
from streams.metrics import by_label, family, histogram, one
from streams.times import Times

Figures = Callable[[], Mapping[str, Any]]

# What figures() calls them.
_PLAIN = {
    Name.READY: "ready", Name.COMMANDS: "commands", Name.COMMITS: "commits", Name.ABORTS: "aborts",
    Name.CORES: "cores", Name.LAST_COMMIT: "last_commit_at", Name.ACCOUNTS: "accounts", Name.REMEMBERED_KEYS: "keys",
    Name.REMEMBERED_KEYS_BYTES: "keys_bytes", Name.WORKER_LAG: "lag_seconds",
}  # fmt: skip
_BY_PARTITION = {
    Name.PARTITION_NEXT_OFFSET: "next_offset", Name.PARTITION_END_OFFSET: "end_offset", Name.PARTITION_LAG: "lag",
    Name.PARTITION_SEQUENCE: "sequence",
}  # fmt: skip
OUTCOMES = ("settled", "rejected", "repeated", "applied", "dead")


class WorkerCollector(Collector):
    """Turns figures into metrics, at each scrape. `latency`: from the broker's time to the commit."""

    def __init__(self, figures: Figures, latency: Times, name: str = "worker-0") -> None:
        self._figures, self._latency, self._name = figures, latency, name

    def describe(self) -> Iterator[Metric]:
        """Nothing: else registering would ask for figures before there are any."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        f = self._figures()
        for name, key in _PLAIN.items():
            yield family(name, f[key])
        assigned, stopped = [str(p) for p in f["partitions"]], f["stopped"]
        yield by_label(Name.PARTITION_ASSIGNED, _in_order(dict.fromkeys(assigned, 1)))
        yield by_label(
            Name.PARTITION_STOPPED, _in_order({**dict.fromkeys(assigned, 0), **dict.fromkeys(stopped, 1)})
        )  # fmt: skip
        yield family(Name.FENCED, f["dropped"]["fenced"])
        yield family(Name.LAST_FENCED, f["dropped"]["last_fenced_at_ms"] / 1000)
        for name, key in _BY_PARTITION.items():
            yield by_label(name, _in_order(f[key]))
        outcomes = family(Name.PARTITION_OUTCOMES)
        for partition, counts in _in_order(f["outcomes"]).items():
            for outcome in OUTCOMES:
                outcomes.add_metric([partition, outcome], counts[outcome])
        yield outcomes
        yield histogram(Name.LATENCY, self._latency)
        if f["clock_skew_ms"] is not None:
            yield one(Name.CLOCK_SKEW, f["clock_skew_ms"] / 1000, self._name)
        in_flight = f["in_flight"]
        yield family(Name.IN_FLIGHT, in_flight["transactions"])
        amounts = family(Name.IN_FLIGHT_AMOUNT)
        for currency, (set_aside, gone) in sorted(in_flight["amounts"].items()):
            amounts.add_metric([currency, "set_aside"], set_aside)
            amounts.add_metric([currency, "gone"], gone)
        yield amounts
        core = {stage: f[f"{stage}_s"] for stage in ("gather", "wait", "commit")}
        agent = {stage: seconds for stage, seconds in f["stages"].items() if stage != "commands"}  # a count among them
        yield by_label(Name.STAGE_SECONDS, {**core, **agent})


def _in_order(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(sorted(values.items(), key=lambda x: int(x[0])))
