"""The figures of a role that follows the log as metrics: sinks, sealer, tie-out and webhooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from streams.metric_names import PARTS, SINKS, Name
from streams.metrics import Check, MetricsAddress, MetricsServer, RoleFacts, by_label, family, histogram, lag_check, one
from streams.report import Report
from streams.times import Times

_WEBHOOKS = {
    Name.WEBHOOKS_PENDING: "pending", Name.WEBHOOKS_DEAD: "dead", Name.WEBHOOKS_UNDER_WAY: "under_way",
    Name.WEBHOOKS_SUBSCRIPTIONS: "subscriptions",
}  # fmt: skip
RESULTS = ("delivered", "failed", "dead")


class FollowerCollector(Collector):
    """Turns a report into metrics, at each scrape. `name`: the role's with its slot."""

    def __init__(self, report: Report, name: str) -> None:
        self._report, self._name = report, name

    def describe(self) -> Iterator[Metric]:
        """Nothing: else registering would ask for figures before there are any."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        r, name = self._report, self._name
        yield one(Name.FOLLOWER_RECORDS, r.records, name)
        yield by_label(Name.FOLLOWER_POSITION, dict(sorted(r.verified.items())), name)
        yield by_label(Name.FOLLOWER_LAG, dict(sorted(r.lag.items())), name)
        yield one(Name.FOLLOWER_LAG_SECONDS, r.lag_seconds, name)
        yield one(Name.FOLLOWER_TOLD_AT, r.told_at, name)
        if r.role in SINKS:
            yield histogram(Name.WRITE_SECONDS, r.wrote or Times(), name)
            yield one(Name.WRITTEN_ROWS, r.rows, name)
            yield one(Name.PROVEN_AT, r.proven_at, name)
        more = r.more
        if r.role == "sealer":
            yield family(Name.UNSEALED, more.get("unsealed", 0))
            stopped = more.get("stopped", {})
            yield by_label(Name.UNSEALABLE, {p: str(p) in stopped for p in sorted(r.verified)})
        if r.role == "webhooks":
            for metric, key in _WEBHOOKS.items():
                yield one(metric, more.get(key, 0), name)
            yield one(Name.WEBHOOKS_QUEUED, r.counts["queued"], name)
            yield by_label(Name.WEBHOOKS_ATTEMPTS, {x: r.counts[x] for x in RESULTS}, name)


def checks_of(report: Report, lag_s_max: float) -> list[Check]:
    """What must hold for a follower to do all of its work."""
    own, away = ", ".join(str(p) for p in sorted(report.verified)), report.waiting_for or report.broker_away
    stopped = report.more.get("stopped", {})
    halted = "; ".join(f"partition {p} stopped: {why}" for p, why in stopped.items())
    return [
        Check("assigned", report.ready or bool(own), f"partitions {own or 'none'}"),
        Check("recovered", report.ready, "it goes on" if report.ready else "it has not found where to go on from"),
        Check("partitions", not stopped, halted or "no partition stopped"),
        lag_check(report.lag_seconds, lag_s_max),
        Check("store", not away, away or "what it reads and writes answers"),
    ]


def part_waited_for(report: Report) -> str:
    """The part that a follower waits for, by its name in PARTS, or empty."""
    if report.broker_away:
        return "kafka"
    waits = report.waiting_part if report.waiting_for else ""
    return next((part for part, start in PARTS.items() if waits.startswith(start)), "")


def serve_follower(
    report: Report, at: MetricsAddress, name: str, collectors: Iterable[Collector] = ()
) -> MetricsServer:
    """Serves a follower's figures until it is closed. Raises BadInputError when it cannot listen there."""
    facts = RoleFacts(
        name, lambda: checks_of(report, at.lag_s_max), lambda: part_waited_for(report), lambda: report.waiting_code
    )  # fmt: skip
    return MetricsServer(at, facts, [FollowerCollector(report, name), *collectors])
