"""Exactly once, on the real stack, while its parts are killed: the auditor's verdict must be 0 lost, 0 doubled, 0 wrong.

The seed is printed; CLEARLINE_FAULT_SEED repeats a run. The same plan can be run by hand: `python -m tests.faults.run`.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.faults.plan import Plan, ci_plan, long_plan
from tests.faults.run import FaultRun


def _seed() -> int:
    return int(os.environ.get("CLEARLINE_FAULT_SEED") or random.SystemRandom().randrange(1_000_000))


def _say(text: str) -> None:
    print(text, flush=True)


def _run(plan: Plan, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        _say("")
        report = FaultRun(plan, folder / "data", say=_say).run()
        for line in report.lines():
            _say(line)
    assert report.ok, "\n".join(report.lines())


@pytest.mark.stack
@pytest.mark.timeout(1800)
def test_nothing_lost_doubled_or_wrong_while_being_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(ci_plan(_seed()), tmp_path, capsys)


@pytest.mark.stack
@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_a_million_transactions_and_three_hundred_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(long_plan(_seed()), tmp_path, capsys)
