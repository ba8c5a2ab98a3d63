"""Each incident is made for real on one running stack: `clearline status` names its cause and the next command, and after
the cure it says nothing of it any more.

One stack for the whole module, with a small disk under its broker where that can be had. Every test begins with a system
that is well, and cures what it broke also when it fails, so that one failure stays one; with a failure stands what status
said last. How long each took to be named is printed, and judged only in the long tier: half a minute is promised, and a
machine that is busy with other tests proves nothing about it. How they are made is said in tests/faults/injections.py.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from clearline import cli
from clearline.bootstrap import prepare_world
from clearline.config import Settings, load_settings
from clearline.status.incidents import CODES
from schemas.errors import BadInputError
from tests.faults.injections import (
    INCIDENTS,
    PARTNER,
    PATIENCE_S,
    Breach,
    ClockSkew,
    DiskFull,
    Flood,
    Ground,
    Hangs,
    IncidentStack,
    Injection,
    PartDown,
    ReadOnly,
    SchemaRefused,
    TopicWrong,
    Zombie,
)
from tests.faults.small_disk import data_folder
from tests.runbook import blocks
from tests.sink_servers import wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1_800)]

NAMED_S = 30.0  # what is promised
BROKER_DISK_MB = 320
SESSION_MS = 2_000
UNJUDGED = {"role_down", "lag_growing", "tie_out_differs"}  # by their rules in tests/unit, and in test_demo


@dataclass
class Bench:
    """The running stack, what status says of it, and how long it took to say it."""

    ground: Ground
    took_s: dict[str, float] = field(default_factory=dict)
    code: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    well: bool = False  # so it was seen, and nothing was broken since

    @property
    def settings(self) -> Settings:
        return self.ground.settings

    def status(self) -> dict[str, Any]:
        """What `clearline status --json` prints."""
        lines: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", _Lines(lines))
            self.code = cli.main(["status", "--json"])
        self.last = json.loads("".join(lines))
        return self.last

    def told(self) -> str:
        """What status said last, as far as it explains a failure."""
        if not self.last:
            return "status has said nothing"
        parts, roles = self.last["parts"], self.last["roles"]
        return json.dumps(
            {
                "incidents": self.last["incidents"],
                "parts": {n: (p["serves"], p["state"], p["error"]) for n, p in parts.items()},
                "roles": {n: (r["state"], r["waiting_for"], r["error"]) for n, r in roles.items()},
                "lag": self.last["lag"], "topics": self.last["topics"]["unknown"], "took_ms": self.last["took_ms"],
            },
            indent=1, ensure_ascii=False,
        )  # fmt: skip

    def wait(self, what: str, ask: Callable[[], Any]) -> Any:
        """The first true answer. Fails with what status said last."""
        try:
            return wait_for(what, ask, PATIENCE_S)
        except pytest.fail.Exception as e:
            pytest.fail(f"{e}\nstatus said last: {self.told()}")

    def named(self, code: str, subject: str = "") -> dict[str, Any]:
        """The incident, if status names it now; else empty."""
        for i in self.status()["incidents"]:
            if i["code"] == code and subject in i["subject"]:
                return dict(i)
        return {}

    def follows(self, code: str, *followers: str) -> bool:
        """Whether the incident is named now, with all of these below it."""
        return all(f in str(self.named(code).get("follows")) for f in followers)

    def await_named(self, injection: Injection, subject: str = "", code: str = "") -> dict[str, Any]:
        """Waits until it is named, and notes how long that took."""
        code = code or injection.named
        began = time.monotonic()

        def look() -> dict[str, Any]:
            injection.keep_up()
            return self.named(code, subject)

        found: dict[str, Any] = self.wait(f"status to name {code} {subject}", look)
        self.took_s[f"{code} {subject}".strip()] = time.monotonic() - began
        assert found["cause"] and found["next_command"] and found["runbook"].startswith("docs/OPERATING.md#")
        assert self.code in (1, 3) or found["severity"] == "warning"
        return found

    def is_well(self) -> bool:
        """Whether all runs and nothing is wrong. The flood of the first test is over half a minute after it, and in
        nobody's way."""
        found = self.status()
        wrong = [i for i in found["incidents"] if i["code"] != "poison_flood"]
        troubled = [n for n, r in found["roles"].items() if r["state"] != "ready" or r["waiting_for"]]
        return found["state"] == "running" and not wrong and not troubled

    def await_well(self) -> None:
        if not self.well:
            self.wait("a system that is well", self.is_well)
        self.well = True

    def type(self, line: str) -> None:
        """Types a command line as an operator would; it must end with 0. On a busy machine a part may miss the second
        that status gives it, so on a system that is well it is looked at again."""
        words = shlex.split(line)
        if words[0] == "clearline":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("sys.stdout", _Lines([]))
                code = cli.main(words[1:])
                if words[1] == "status" and code == 3:
                    code = self.wait(f"{line} to end with 0", lambda: cli.main(words[1:]) == 0) is not True
            assert code == 0, line
        else:
            done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, (line, done.stderr)


class _Lines:
    """What is written to it, as a list."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def write(self, text: str) -> int:
        self._lines.append(text)
        return len(text)

    def flush(self) -> None:
        return None

    def isatty(self) -> bool:
        return False


@pytest.fixture(scope="module")
def whole_bench() -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch, data_folder("kafka", BROKER_DISK_MB) as (folder, disk):
        (folder / "clearline.json").write_text('{"format": 1, "components": {}}')
        for name, value in {
            "DATA_DIR": str(folder), "WORLD": "live", "PARTITIONS": "2", "WORKERS": "1",
            "SETTLEMENT__SESSION_TIMEOUT_MS": str(SESSION_MS),
        }.items():  # fmt: skip
            patch.setenv(f"CLEARLINE_{name}", value)
        with IncidentStack(load_settings()) as stack:
            stack.start(roles=True)
            bench = Bench(Ground(stack, disk))
            bench.ground.publish()
            yield bench


@pytest.fixture
def bench(whole_bench: Bench) -> Iterator[Bench]:
    """A system that is well before the test. When the test fails, what status said last is printed with it."""
    whole_bench.await_well()
    yield whole_bench
    print(f"status said last: {whole_bench.told()}")


@contextmanager
def injected(bench: Bench, injection: Injection) -> Iterator[None]:
    """The incident is there in the block, and cured after it, however it ends; then all must be well again."""
    if why := injection.impossible():
        pytest.skip(why)
    bench.well = False
    try:
        injection.inject()
        yield
    finally:
        injection.cure()
    bench.await_well()


def test_a_flood_of_poison_names_its_source(bench: Bench) -> None:
    flood = Flood(bench.ground)
    with injected(bench, flood):
        found = bench.await_named(flood)
    assert PARTNER in found["cause"]
    assert found["next_command"].startswith("clearline dlq")


@pytest.mark.parametrize("part", ["registry", "redis"])
def test_a_part_that_was_killed_is_named(bench: Bench, part: str) -> None:
    down = PartDown(bench.ground, part)
    with injected(bench, down):
        bench.type(bench.await_named(down, part)["next_command"])


def test_clickhouse_down_and_clickhouse_read_only_are_two_things(bench: Bench) -> None:
    down = PartDown(bench.ground, "clickhouse")
    with injected(bench, down):
        bench.await_named(down)
        assert not bench.named("clickhouse_read_only")
        bench.ground.publish()  # a sink that has nothing to write does not miss its store
        bench.wait("the sink to say that it waits", lambda: bench.follows("clickhouse_down", "sink-clickhouse"))
        assert not bench.named("clickhouse_read_only")

    locked = ReadOnly(bench.ground)
    with injected(bench, locked):
        found = bench.await_named(locked)
        assert found["next_command"] == f"rm {locked.lock}"

        def sink_waits() -> bool:
            role = bench.status()["roles"]["sink-clickhouse"]
            return (role["waiting_code"], role["state"]) == ("read_only", "ready")

        bench.wait("the sink to wait instead of ending", sink_waits)
        bench.type(found["next_command"])
        assert not locked.lock.exists()


def test_a_missing_topic_and_one_with_too_few_partitions_are_named(bench: Bench) -> None:
    missing = TopicWrong(bench.ground)
    with injected(bench, missing):
        found = bench.await_named(missing, missing.topic)
        assert found["next_command"] == "clearline prepare --dry-run"
        for line in found["next_commands"]:
            bench.type(line)
        bench.wait("the topic to be there again", lambda: not bench.named("topic_missing"))

    few = TopicWrong(bench.ground, 1)
    with injected(bench, few):
        assert "1 partitions, the settings say 2" in bench.await_named(few, few.topic)["cause"]


def test_a_schema_that_the_registry_refuses_is_named(bench: Bench) -> None:
    refused = SchemaRefused(bench.ground)
    with injected(bench, refused):
        found = bench.await_named(refused, refused.subject)
        assert "incompatible" in found["cause"]
        assert found["next_command"] == "clearline prepare --dry-run"
        with pytest.raises(BadInputError, match="refuses"):
            prepare_world(bench.settings)


def test_roles_that_hang_are_named(bench: Bench) -> None:
    """Nobody starts a role again that lives and does nothing: status must say it."""
    names = ("worker-0", "gateway-0", "webhooks-0")
    hang = Hangs(bench.ground, *names)
    with injected(bench, hang):
        for name in names:
            found = bench.await_named(hang, name)
            assert found["next_command"] == f"kill -CONT {hang.pids[name]}"
            bench.type(found["next_command"])


def test_a_second_process_in_the_slot_of_a_worker_is_named(bench: Bench) -> None:
    zombie = Zombie(bench.ground)
    with injected(bench, zombie):
        found = bench.await_named(zombie, "worker-0")
        assert zombie.stranger is not None and found["next_command"] == f"kill -9 {zombie.stranger.pid}"
        bench.type(found["next_command"])


def test_a_broken_invariant_is_named_and_only_its_partition_stops(bench: Bench) -> None:
    breach = Breach(bench.ground)
    with injected(bench, breach):
        found = bench.await_named(breach, "worker-0")
        assert "written together" in found["cause"]
        assert found["next_command"] == "clearline verify --json"
        bench.wait(
            "the other partition to be settled", lambda: len(bench.status()["roles"]["worker-0"]["partitions"]) == 1
        )
        bench.ground.publish()  # it waits, and is settled by whoever takes over behind the repair
        bench.type("clearline offsets repair")
        bench.wait("nothing to be said of it", lambda: not bench.named(breach.code))
        bench.wait("what waited to be settled", bench.ground.settled)
        breach.forget()


def test_a_worker_with_a_wrong_clock_is_named(bench: Bench) -> None:
    wrong = ClockSkew(bench.ground)
    with injected(bench, wrong):
        assert "3600 s fast" in bench.await_named(wrong, "worker-0")["cause"]


def test_a_dead_broker_is_one_incident_and_not_ten(bench: Bench) -> None:
    """Everybody who misses it says so, also who has nothing to write at the moment, and stands below the one cause."""
    dead = PartDown(bench.ground, "kafka")
    waiting = [f"{name} waits for it" for name in ("worker-0", "sink-clickhouse", "sink-redis", "sealer", "webhooks-0")]
    with injected(bench, dead):
        bench.type(bench.await_named(dead)["next_command"])

        def one_cause() -> bool:
            found = [i for i in bench.status()["incidents"] if i["code"] != "poison_flood"]
            return [i["code"] for i in found] == ["broker_down"] and set(waiting) <= set(found[0]["follows"])

        bench.wait("others to be its followers", one_cause)


def test_a_full_disk_is_named_before_what_it_brings_down(bench: Bench) -> None:
    full = DiskFull(bench.ground)
    with injected(bench, full):
        found = bench.await_named(full, str(bench.ground.disk))
        assert found["next_command"] == f"df -h {bench.ground.disk}"
        bench.type(found["next_command"])

        def broker_ended() -> bool:
            full.keep_up()
            return bench.follows("disk_full", "broker_down")

        bench.wait("the broker to end, as a consequence", broker_ended)
    bench.ground.publish()
    bench.wait("everything to be settled", bench.ground.settled)


@pytest.mark.parametrize("line", dict.fromkeys(line for executed, line in blocks() if executed))
def test_what_the_runbook_says_can_be_typed(bench: Bench, line: str) -> None:
    """Every line that it marks as executed, once, in its order, on a system that is well."""
    bench.type(line)


def test_every_incident_is_made_here(whole_bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """No code of status goes untried, and how long each took to be named is shown, whoever reads it."""
    made = {make(whole_bench.ground).named for ways in INCIDENTS.values() for make in ways}
    assert made == set(CODES) - UNJUDGED
    with capsys.disabled():
        print()
        for what, seconds in whole_bench.took_s.items():
            print(f"{what}: named after {seconds:.1f} s")


@pytest.mark.long
def test_every_incident_was_named_in_time(whole_bench: Bench) -> None:
    """The promise: within half a minute of the injection, each that was made in this run."""
    late = {what: round(s, 1) for what, s in whole_bench.took_s.items() if s > NAMED_S}
    assert not late, late
