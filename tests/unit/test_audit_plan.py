"""Fault plans: the seed decides, every fail point comes, and the numbers are those that are promised."""

from __future__ import annotations

from collections import Counter

from schemas.failpoints import NAMES, SINK_CLICKHOUSE, SINK_LOGS, SINK_REDIS
from tests.faults.plan import ci_plan, long_plan
from tests.faults.watch import percentile


def test_the_seed_gives_the_plan_again() -> None:
    assert ci_plan(7) == ci_plan(7)
    assert ci_plan(7) != ci_plan(8)


def test_ci_does_what_is_promised() -> None:
    plan = ci_plan(1)
    faults = [*plan.settlement, *plan.projections]
    kinds = Counter(f.kind for f in faults)
    assert (plan.rate, plan.transactions) == (400, 20_000)
    assert kinds["worker"] >= 6
    assert kinds["broker"] >= 4
    assert kinds["pause"] >= 3
    assert kinds["clickhouse"] >= 3
    assert kinds["flushall"] >= 1
    assert plan.kills >= 25
    walked = {point for f in faults for point in f.points}
    assert walked >= {*SINK_REDIS}
    assert len(walked & set(SINK_CLICKHOUSE)) == 4


def test_seeds_come_by_every_point_of_the_sinks() -> None:
    assert {p for seed in range(40) for f in ci_plan(seed).projections for p in f.points} >= set(SINK_CLICKHOUSE)


def test_the_long_run_kills_three_hundred_times_and_walks_every_fail_point() -> None:
    plan = long_plan(1)
    # These are walked elsewhere: test_tieout_repair.py of tests/contract, test_sealer_kafka.py, test_webhooks_kafka.py and test_gateway.py of tests/integration.
    # SINK_LOGS in tests/contract/test_sinks_logs.py, closing a day, repairs, replays and redrives in tests of their own.
    others = (*SINK_LOGS, "sealer.", "webhooks.", "gateway.", "close.", "repair.", "replay.", "triage.")
    faults = (*plan.settlement, *plan.projections)
    assert {point for f in faults for point in f.points} == {n for n in NAMES if not n.startswith(others)}
    assert plan.transactions == 1_000_000
    assert plan.kills >= 300
    assert "seed 1" in plan.lines()[0]


def test_percentiles() -> None:
    assert percentile([], 50) == 0.0
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([3.0, 1.0, 2.0], 95) == 3.0
