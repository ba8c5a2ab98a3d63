"""Fail points: nothing unless armed, exactly the k-th hit when armed, and a clear refusal of what cannot be read."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from schemas import failpoints
from schemas.errors import BadInputError
from schemas.failpoints import NAMES, FailPointError, arm, failpoint


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    arm("")
    yield
    arm("")


def test_unarmed_does_nothing() -> None:
    for name in NAMES:
        failpoint(name)


def test_raises_at_the_kth_hit_only() -> None:
    name = NAMES[0]
    arm(f"{name}=raise@3")
    failpoint(name)
    failpoint(NAMES[1])
    failpoint(name)
    with pytest.raises(FailPointError, match=name):
        failpoint(name)
    failpoint(name)


def test_several_points_are_armed_at_once() -> None:
    arm(f"{NAMES[0]}=raise, {NAMES[1]}=raise@2")
    with pytest.raises(FailPointError):
        failpoint(NAMES[0])
    failpoint(NAMES[1])
    with pytest.raises(FailPointError):
        failpoint(NAMES[1])


@pytest.mark.parametrize(
    "text", ["no.such=kill", f"{NAMES[0]}=explode", f"{NAMES[0]}=kill@0", f"{NAMES[0]}=kill@x", NAMES[0]]
)
def test_refuses_what_it_cannot_read(text: str) -> None:
    with pytest.raises(BadInputError, match=failpoints.VARIABLE):
        arm(text)


def test_kills_its_own_process_from_the_environment() -> None:
    name = "sink_redis.mid_batch"
    program = f"from schemas.failpoints import failpoint as f\nfor i in range(9): f({name!r}); print(i, flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={failpoints.VARIABLE: f"{name}=kill@4"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1", "2"]


def test_names_are_unique_and_grouped() -> None:
    assert len(set(NAMES)) == len(NAMES)
    groups = {
        "settlement",
        "sink_clickhouse",
        "sink_redis",
        "sealer",
        "webhooks",
        "gateway",
        "repair",
        "close",
        "replay",
        "triage",
    }
    assert {n.partition(".")[0] for n in NAMES} == groups
