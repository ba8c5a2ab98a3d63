"""What is done to the stack, and in which order: two tracks, drawn from one seed, so that a run can be repeated.

The settlement track kills and pauses workers and kills the broker; the projection track kills the sinks between their
steps, ClickHouse, and empties Redis. Both run at the same time, as misfortunes do.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from schemas.failpoints import SETTLEMENT, SINK_CLICKHOUSE, SINK_REDIS

WORKERS = 2
# Of a sink's, another choice with each seed. Every one is walked by tests/contract/test_sinks_clickhouse.py and
# tests/integration/test_sinks_kafka.py, those of settlement by tests/integration/test_crossing.py, and all by a long run.
CI_POINTS = 4
POINTS_AT_ONCE = 4  # a sink that died at one point is started for the next: else half of the time goes into starts


def seed_or_drawn(seed: int | None) -> int:
    """The seed that was given, else one of a million."""
    return seed if seed is not None else random.SystemRandom().randrange(1_000_000)


@dataclass(frozen=True, slots=True)
class Fault:
    """One misfortune. `kind`: worker, worker-points, broker, pause, sink-points, clickhouse, flushall, and rebuild, which
    empties Redis and kills its sink while it builds the balances up again.

    `after_s`: how long the stack is left alone before it; `points`: fail points at which it dies one after the other;
    `hit`: at the how manieth time it comes by; `seconds`: length of a pause.
    """

    kind: str
    target: str
    after_s: float
    points: tuple[str, ...] = ()
    hit: int = 1
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        """How many kill -9 it brings: those at points need another one first, to start the role armed."""
        return 0 if self.kind == "flushall" else 1 + len(self.points)

    def __str__(self) -> str:
        what = f" at {', '.join(self.points)}" if self.points else f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind} {self.target}{what}"


def settlement_track(rnd: random.Random, workers: int, brokers: int, pauses: int, rounds_of_points: int) -> list[Fault]:
    """Faults of the settlement in a random order."""
    faults = [Fault("worker", _worker(rnd), _rest(rnd)) for _ in range(workers)]
    faults += [Fault("broker", "kafka", _rest(rnd)) for _ in range(brokers)]
    faults += [Fault("pause", _worker(rnd), _rest(rnd), seconds=rnd.uniform(9, 14)) for _ in range(pauses)]
    for _ in range(rounds_of_points):
        points = rnd.sample(SETTLEMENT, len(SETTLEMENT))
        for i in range(0, len(points), 2):
            chosen = tuple(points[i : i + 2])
            faults.append(Fault("worker-points", _worker(rnd), _rest(rnd), chosen, rnd.choice((1, 2, 5, 9))))
    rnd.shuffle(faults)
    return faults


def projection_track(
    rnd: random.Random, servers: int, flushes: int, rounds_of_points: int, points_max: int = 100
) -> list[Fault]:
    """Faults of the sinks and stores in a random order, at no more than `points_max` of each sink's fail points."""
    faults = [Fault("clickhouse", "clickhouse", _rest(rnd)) for _ in range(servers)]
    faults += [Fault("flushall", "redis", _rest(rnd)) for _ in range(flushes)]
    faults.append(Fault("rebuild", "sink-redis", _rest(rnd), ("sink_redis.after_batch",)))
    for _ in range(rounds_of_points):
        for role, all_points in (("sink-clickhouse", SINK_CLICKHOUSE), ("sink-redis", SINK_REDIS)):
            points = rnd.sample(all_points, min(points_max, len(all_points)))
            for first in range(0, len(points), POINTS_AT_ONCE):
                chosen = tuple(points[first : first + POINTS_AT_ONCE])
                faults.append(Fault("sink-points", role, _rest(rnd), chosen))
    rnd.shuffle(faults)
    return faults


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: the load, and both tracks. Printed at its start; the seed gives the same plan again."""

    seed: int
    rate: int
    transactions: int
    settlement: tuple[Fault, ...]
    projections: tuple[Fault, ...]

    @property
    def kills(self) -> int:
        return sum(f.kills for f in (*self.settlement, *self.projections))

    def lines(self) -> list[str]:
        counts = Counter(f.kind for f in (*self.settlement, *self.projections))
        told = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
        return [
            f"seed {self.seed}: at least {self.transactions} transactions at {self.rate}/s; {told}; {self.kills} kills"
        ]


def ci_plan(seed: int) -> Plan:
    """What every run of the tests does: six kills of workers, four of the broker, three pauses; the sinks beside it."""
    rnd = random.Random(f"faults {seed}")
    projections = projection_track(rnd, 3, 1, 1, CI_POINTS)
    return Plan(seed, 400, 20_000, tuple(settlement_track(rnd, 6, 4, 3, 0)), tuple(projections))


def long_plan(seed: int, transactions: int = 1_000_000, kills: int = 300) -> Plan:
    """The same misfortunes until there were `kills` of them, spread over the time that the load takes at 500/s."""
    rnd = random.Random(f"faults {seed}")
    settlement: list[Fault] = []
    projections: list[Fault] = []
    while sum(f.kills for f in (*settlement, *projections)) < kills:
        settlement += settlement_track(rnd, 6, 2, 3, 1)
        projections += projection_track(rnd, 3, 1, 1)
    return Plan(seed, 500, transactions, tuple(settlement), tuple(projections))


def _worker(rnd: random.Random) -> str:
    return f"worker-{rnd.randrange(WORKERS)}"


def _rest(rnd: random.Random) -> float:
    return rnd.uniform(0.2, 2.0)
