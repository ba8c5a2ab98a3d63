"""The figures of a settlement worker for Prometheus: every name stands here, and nowhere else.

Nothing is counted twice: a scrape reads what the service knows about itself anyway (`SettlementService.figures`, which
also fill the ready file), in the thread of the HTTP server. So a command costs nothing more with metrics than without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from schemas.errors import BadInputError

Figures = Callable[[], Mapping[str, Any]]


class Name(StrEnum):
    """Every metric. Names end in their unit; those of counters end in `_total`."""

    READY = "clearline_worker_ready"
    PARTITION_ASSIGNED = "clearline_partition_assigned"
    PARTITION_STOPPED = "clearline_partition_stopped"
    PARTITION_NEXT_OFFSET = "clearline_partition_next_offset"
    COMMANDS = "clearline_commands_total"
    COMMITS = "clearline_commits_total"
    ABORTS = "clearline_aborts_total"
    LAST_COMMIT = "clearline_last_commit_timestamp_seconds"
    ACCOUNTS = "clearline_accounts"
    REMEMBERED_KEYS = "clearline_remembered_keys"
    REMEMBERED_KEYS_BYTES = "clearline_remembered_keys_bytes"
    IN_FLIGHT = "clearline_in_flight_transactions"
    IN_FLIGHT_AMOUNT = "clearline_in_flight_minor_units"
    STAGE_SECONDS = "clearline_stage_seconds_total"


HELP: dict[Name, str] = {
    Name.READY: "1 when this worker has joined its group and settles, else 0.",
    Name.PARTITION_ASSIGNED: "1 for each partition that this worker settles.",
    Name.PARTITION_STOPPED: "1 for a partition that broke an invariant: nothing of it is settled any more. Else 0.",
    Name.PARTITION_NEXT_OFFSET: "Offset of the next command that this partition will settle.",
    Name.COMMANDS: "Commands whose outcome this process has committed.",
    Name.COMMITS: "Kafka transactions that this process has committed.",
    Name.ABORTS: "Kafka transactions that this process has aborted; their commands were settled again.",
    Name.LAST_COMMIT: "When the last Kafka transaction was committed, by this machine's clock; 0 before the first.",
    Name.ACCOUNTS: "Accounts in the partitions of this worker.",
    Name.REMEMBERED_KEYS: "Idempotency keys that this worker remembers.",
    Name.REMEMBERED_KEYS_BYTES: "Memory of the remembered keys.",
    Name.IN_FLIGHT: "Transactions between partitions that are under way in those of this worker.",
    Name.IN_FLIGHT_AMOUNT: "Money set aside for other partitions, and gone there less what came, in minor units.",
    Name.STAGE_SECONDS: "Seconds in each stage: gather, wait and commit are the core's, the others the agent's.",
}

# What figures() calls them.
_COUNTERS = {Name.COMMANDS: "commands", Name.COMMITS: "commits", Name.ABORTS: "aborts"}
_GAUGES = {
    Name.READY: "ready", Name.LAST_COMMIT: "last_commit_at", Name.ACCOUNTS: "accounts", Name.REMEMBERED_KEYS: "keys",
    Name.REMEMBERED_KEYS_BYTES: "keys_bytes",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """Where metrics are served. `port` 0: a free one, which figures() name."""

    host: str = "127.0.0.1"
    port: int = 0


class WorkerCollector(Collector):
    """Turns figures into metrics, at each scrape."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def describe(self) -> Iterator[Metric]:
        """Nothing: else registering would ask for figures before there are any."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        f = self._figures()
        for name, key in _GAUGES.items():
            yield GaugeMetricFamily(name, HELP[name], value=float(f[key]))
        for name, key in _COUNTERS.items():
            yield CounterMetricFamily(name, HELP[name], value=float(f[key]))
        assigned, stopped = [str(p) for p in f["partitions"]], f["stopped"]
        yield _by("partition", Name.PARTITION_ASSIGNED, dict.fromkeys(assigned, 1))
        yield _by("partition", Name.PARTITION_STOPPED, {**dict.fromkeys(assigned, 0), **dict.fromkeys(stopped, 1)})
        yield _by("partition", Name.PARTITION_NEXT_OFFSET, f["next_offset"])
        in_flight = f["in_flight"]
        yield GaugeMetricFamily(Name.IN_FLIGHT, HELP[Name.IN_FLIGHT], value=float(in_flight["transactions"]))
        amounts = GaugeMetricFamily(Name.IN_FLIGHT_AMOUNT, HELP[Name.IN_FLIGHT_AMOUNT], labels=["currency", "step"])
        for currency, (set_aside, gone) in sorted(in_flight["amounts"].items()):
            amounts.add_metric([currency, "set_aside"], set_aside)
            amounts.add_metric([currency, "gone"], gone)
        yield amounts
        stages = CounterMetricFamily(Name.STAGE_SECONDS, HELP[Name.STAGE_SECONDS], labels=["stage"])
        core = {stage: f[f"{stage}_s"] for stage in ("gather", "wait", "commit")}
        for stage, seconds in {**core, **f["stages"]}.items():
            if stage != "commands":  # a count among the seconds
                stages.add_metric([stage], seconds)
        yield stages


class MetricsServer:
    """Serves /metrics until it is closed. `whose`, `port_is`: what the error says of a port where it cannot listen.

    Raises BadInputError when it cannot.
    """

    def __init__(
        self, at: MetricsAddress, collector: Collector, *, whose: str = "metrics",
        port_is: str = "CLEARLINE_METRICS__PORT; worker N takes port + N",
    ) -> None:  # fmt: skip
        registry = CollectorRegistry()
        registry.register(collector)
        try:
            self._server, self._thread = start_http_server(at.port, at.host, registry)
        except OSError as e:
            raise BadInputError(
                f"{whose} cannot be served on {at.host}:{at.port} (CLEARLINE_METRICS__HOST, {port_is}): "
                f"{e.strerror or e}"
            ) from e
        self.url = f"http://{at.host}:{self._server.server_port}/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _by(label: str, name: Name, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, HELP[name], labels=[label])
    for value, n in sorted(values.items(), key=lambda x: int(x[0])):
        family.add_metric([value], n)
    return family
