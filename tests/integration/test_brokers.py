"""Three brokers from docker-compose.yml's settings, killed under load, and networks and rebalances: all with `--long` only.

Every run of the tests kills the one broker of a whole system four times: test_exactly_once.py.

The same by hand: `python -m tests.faults.brokers`, `python -m tests.faults.storm`, `python -m tests.faults.network`.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.faults import brokers, network, storm
from tests.faults.lossy import can_drop
from tests.faults.plan import Plan
from tests.faults.run import FaultRun
from tests.faults.toxiproxy import find_server

pytestmark = pytest.mark.stack


def _seed() -> int:
    return int(os.environ.get("CLEARLINE_FAULT_SEED") or random.SystemRandom().randrange(1_000_000))


def _say(text: str) -> None:
    print(text, flush=True)


def _judge(run: FaultRun, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        _say("")
        report = run.run()
        for line in report.lines():
            _say(line)
    assert report.ok, "\n".join(report.lines())
    assert report.acknowledged > 0, "a run in which nothing was acknowledged says nothing"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nothing_is_lost_when_one_of_three_brokers_dies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two kills; 161 s of processor. `python -m tests.faults.brokers` does the same."""
    run = brokers.BrokersRun(brokers.ci_plan(_seed()), tmp_path / "data", 2, say=_say)
    _judge(run, capsys)
    assert sum(n for name, n in run.report.killed.items() if name.startswith("broker")) == 2


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_sixty_brokers_die(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _judge(brokers.BrokersRun(Plan(_seed(), 250, 100_000, (), ()), tmp_path / "data", 60, say=_say), capsys)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_workers_come_and_go_for_two_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = storm.StormRun(Plan(_seed(), 400, 48_000, (), ()), tmp_path / "data", 120.0, say=_say)
    _judge(run, capsys)
    assert run.shared >= run.changes // 2 >= 5, "each time before they went, workers that came had partitions"
    assert 0 < run.longest_s <= run.session_s + storm.GRACE_S


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_network_that_is_not_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = find_server()
    if server is None:
        pytest.skip("there is no toxiproxy-server on the path and no Go to make it")
    seed = _seed()
    todo = network.scenarios(seed, 40, lossy=can_drop())
    run = network.ProxiedRun(Plan(seed, 100, 1_000, (), ()), tmp_path / "data", todo, server, say=_say)
    _judge(run, capsys)
    assert run.done == len(todo)
