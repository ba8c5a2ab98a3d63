"""Every rule of status on typed looks: what fires it, what does not, and what it puts below a cause."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from rich.console import Console, Group
from typer.main import get_command

from clearline import cli
from clearline.commands.status import exit_code
from clearline.config import load_settings
from clearline.embedded.folder import DataFolder
from clearline.status.collect import _tie_out as collected_tie_out
from clearline.status.collect import collect
from clearline.status.elsewhere import figures_at, figures_of
from clearline.status.incidents import CODES, FLOOD_LETTERS, Incident, incidents
from clearline.status.model import DeadLetters, Disk, Lag, Part, Partition, Role, Section, Status, Topic, Topics
from clearline.status.processes import role_here, role_of
from clearline.status.shown import readable
from schemas.errors import ClearlineError
from streams.metric_names import Name
from streams.metrics import Check, MetricsAddress, MetricsServer, RoleFacts

NOW = 1_790_000_000_000
PARTS = ("kafka", "registry", "clickhouse", "redis")
ROLES = ("worker-0", "worker-1", "sink-clickhouse", "sink-redis", "sealer", "tieout", "gateway-0", "webhooks-0")
GOOD = Status(
    "live", "running", "/data", NOW,
    parts=tuple(Part(n, f"127.0.0.1:{i}", "up", process="ready", pid=i, log=f"/data/logs/{n}.log") for i, n in enumerate(PARTS, 1)),
    roles=tuple(Role(n, "ready", pid=100 + i, log=f"/data/logs/{n}.log", last_commit_ms=NOW) for i, n in enumerate(ROLES)),
    topics=Topics((Topic("live.journal", 4, 4), Topic("live.replies", 1, 0)), 1),
    schemas=Section({}),
    partitions=tuple(Partition(p, f"worker-{p % 2}", 10, 10, 9, "ab" * 32) for p in range(4)),
    lags=(Lag("settlement", dict.fromkeys(range(4), 0), 0.0, 5.0, 5.0, 0.0),),
    tieout={"verdict": "equal", "lag_seconds": 0.1, "parts": {}, "differences": []},
    disks=(Disk("/data", 50_000_000_000, 100_000_000_000, 1_000_000_000),),
    frozen=Section([]),
)  # fmt: skip


def part(name: str, **more: Any) -> Status:
    """Everything good but one part."""
    return replace(GOOD, parts=tuple(replace(p, **more) if p.name == name else p for p in GOOD.parts))


def role(name: str, status: Status = GOOD, **more: Any) -> Status:
    """Everything good but one role."""
    return replace(status, roles=tuple(replace(r, **more) if r.name == name else r for r in status.roles))


def settlement(seconds: float, waiting: int, **more: Any) -> tuple[Lag, ...]:
    return (Lag("settlement", {0: waiting, 1: 0, 2: 0, 3: 0}, seconds, **more),)


DEAD = DeadLetters(
    60, FLOOD_LETTERS, FLOOD_LETTERS, True, "1:42", NOW, "undecodable", {"acme": 18, "globex": 2}, {"undecodable": FLOOD_LETTERS}
)  # fmt: skip
DIFFERS = {
    "verdict": "differs", "lag_seconds": 0.5,
    "parts": {"kafka": {"verdict": "equal", "said": ""}, "redis": {"verdict": "differs", "said": ""}},
    "differences": [{"text": "acme:wallet:a has 5, the journal 6"}],
}  # fmt: skip

# A look, the incident that must be named first, its severity, a part of the cause, and the first command.
CASES = {
    "killed broker": (
        part("kafka", state="down", why="no answer", process="restarting", restarts=3, ended="by SIGKILL"),
        "broker_down", "critical", "does not answer, its process is restarting (by SIGKILL)", "tail -n 40 /data/logs/kafka.log",
    ),
    "paused broker": (
        part("kafka", state="down", paused=True), "broker_down", "critical", "its process 1 is paused by a signal", "kill -CONT 1",
    ),
    "hanging broker": (part("kafka", state="down"), "broker_down", "critical", "does not answer: nothing is taken", "clearline restart kafka"),
    "a broker of three": (
        replace(GOOD, topics=Topics((Topic("live.journal", 4, 4, short=(1, 2)),), 2)),
        "broker_down", "warning", "2 partitions have fewer replicas", "docker-compose ps kafka-1 kafka-2 kafka-3",
    ),
    "nobody leads": (
        replace(GOOD, topics=Topics((Topic("live.journal", 4, 4, leaderless=(3,)),), 1)),
        "broker_down", "critical", "Nobody leads 1 partitions, such as live.journal 3", "docker-compose ps kafka-1 kafka-2 kafka-3",
    ),
    "external broker": (
        replace(part("kafka", state="down", process="", pid=None), embedded=False, state="external"),
        "broker_down", "critical", "does not answer", "docker-compose ps kafka-1 kafka-2 kafka-3",
    ),
    "registry": (part("registry", state="down"), "registry_down", "warning", "no role can start", "clearline restart registry"),
    "clickhouse": (part("clickhouse", state="down"), "clickhouse_down", "critical", "settlement goes on", "clearline restart clickhouse"),
    "clickhouse read-only": (
        part("clickhouse", state="read_only", why="readonly = 2"),
        "clickhouse_read_only", "critical", "refuses to write (readonly = 2)", "rm /data/clickhouse/read-only",
    ),
    "clickhouse read-only, told by its sink": (
        role("sink-clickhouse", waiting_for="ClickHouse is read-only", waiting_part="ClickHouse", waiting_code="read_only"),
        "clickhouse_read_only", "critical", "ClickHouse is read-only", "rm /data/clickhouse/read-only",
    ),
    "redis": (part("redis", state="down"), "redis_down", "warning", "settlement goes on", "clearline restart redis"),
    "redis refuses": (
        part("redis", state="read_only", why="its memory is full"),
        "redis_down", "warning", "answers and must not be written (its memory is full): settlement goes on",
        "tail -n 40 /data/logs/redis.log",
    ),
    "full disk": (
        replace(GOOD, disks=(Disk("/data", 3_000_000, 100_000_000_000, 1_000_000_000, {"kafka": 90_000_000_000}),)),
        "disk_full", "critical", "has 3 MB free of 100,000 MB", "df -h /data",
    ),
    "full disk of a store, told by its sink": (
        role("sink-clickhouse", waiting_for="no space", waiting_part="ClickHouse", waiting_code="no_space"),
        "disk_full", "critical", "ClickHouse has no space left", "docker-compose exec clickhouse df -h /var/lib/clickhouse",
    ),
    "silent role": (
        role("webhooks-0", state="silent", silent_s=12.0), "stuck_consumer", "warning", "lives and does nothing", "clearline restart webhooks-0",
    ),
    "paused worker": (
        role("worker-0", paused=True), "stuck_consumer", "critical", "is paused by a signal (SIGSTOP)", "kill -CONT 100",
    ),
    "worker that settles nothing": (
        role("worker-0", replace(GOOD, lags=settlement(25, 7)), last_commit_ms=NOW - 60_000),
        "stuck_consumer", "critical", "settles nothing of partition 0, where 7 commands wait", "clearline restart worker-0",
    ),
    "nobody's partition": (
        replace(GOOD, lags=settlement(25, 7), partitions=(Partition(0),)),
        "stuck_consumer", "critical", "Nobody settles partition 0", "clearline status --json",
    ),
    "flood": (replace(GOOD, dead=DEAD), "poison_flood", "warning", "18 of them carry the key acme", "clearline dlq ls --reason undecodable"),
    "second process in a slot": (
        role("worker-0", strangers=(777,), dropped={"fenced": 3, "last_fenced_at_ms": NOW, "last_why": "fenced"}),
        "zombie_worker", "critical", "pid 100 is the stack's, pid 777 is a stranger", "kill -9 777",
    ),
    "second process elsewhere": (
        role("worker-0", dropped={"fenced": 3, "last_fenced_at_ms": NOW - 5_000, "last_why": "fenced"}),
        "zombie_worker", "critical", "the other is not on this machine", "ps -ef | grep 'role worker --slot 0'",
    ),
    "halted partition": (
        role("worker-1", state="halted", halted={"3": "does not balance"}),
        "invariant_breach", "critical", "worker-1 stopped partition 3", "clearline verify --json",
    ),
    "worker that ended itself": (
        role("worker-1", state="restarting", error="worker-1 ended with exit code 78: invariant broken"),
        "invariant_breach", "critical", "worker-1 ended itself", "clearline verify --json",
    ),
    "fast clock": (role("worker-1", skew_ms=3_600_000.0), "clock_skew", "critical", "about 3600 s fast", "timedatectl status"),
    "slow clock": (role("gateway-0", skew_ms=-9_000.0), "clock_skew", "warning", "about 9 s slow", "timedatectl status"),
    "missing topic": (
        replace(GOOD, topics=Topics((Topic("live.calls", 0, 4),), 1)),
        "topic_missing", "critical", "Topic live.calls does not exist", "clearline prepare --dry-run",
    ),
    "missing truth": (
        replace(GOOD, topics=Topics((Topic("live.journal", 0, 4),), 1)),
        "topic_missing", "critical", "Topic live.journal does not exist", "clearline down",
    ),
    "too few partitions": (
        replace(GOOD, topics=Topics((Topic("live.calls", 1, 4),), 1)),
        "topic_partitions", "critical", "has 1 partitions, the settings say 4: it was created anew", "clearline prepare --dry-run",
    ),
    "too many partitions": (
        replace(GOOD, topics=Topics((Topic("live.seals", 8, 4),), 1)),
        "topic_partitions", "critical", "somebody added some", "clearline down",
    ),
    "refused schema": (
        replace(GOOD, schemas=Section({"clearline.Tick": "the registry refuses it as incompatible"})),
        "schema_refused", "critical", "such as clearline.Tick: the registry refuses it", "clearline prepare --dry-run",
    ),
    "dead gateway": (
        role("gateway-0", state="failed", error="ended with exit code 3"),
        "role_down", "critical", "gateway-0 does not run: it is failed", "tail -n 40 /data/logs/gateway-0.log",
    ),
    "full disk elsewhere that ClickHouse told of": (
        replace(GOOD, disks=(Disk("clickhouse:/var/lib/clickhouse/", 3_000_000, 100_000_000_000),)),
        "disk_full", "critical", "has 3 MB free", "docker-compose exec clickhouse df -h /var/lib/clickhouse/",
    ),
    "role elsewhere that does not answer": (
        role("worker-1", state="down", error="http://worker-1:9101 does not answer", log="", pid=None),
        "role_down", "critical", "worker-1 does not run: it does not answer.", "docker-compose logs --tail 40 worker-1",
    ),
    "worker elsewhere that settles nothing": (
        role("worker-0", replace(GOOD, lags=settlement(25, 7)), last_commit_ms=NOW - 60_000, log="", pid=None),
        "stuck_consumer", "critical", "worker-0 settles nothing of partition 0", "docker-compose restart worker-0",
    ),
    "growing lag": (
        replace(GOOD, lags=settlement(45, 9_000, rate=10.0, inflow=90.0)),
        "lag_growing", "warning", "is 45 s behind (9,000 records) and falls further behind", "clearline status --watch",
    ),
    "slow lag": (
        replace(GOOD, lags=settlement(45, 9_000, rate=190.0, inflow=100.0, to_zero_s=100.0)),
        "lag_growing", "warning", "and needs 100 s more", "clearline status --watch",
    ),
    "tie-out": (replace(GOOD, tieout=DIFFERS), "tie_out_differs", "critical", "stands in redis is not what", "clearline tieout --json"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_named_with_the_next_command(case: str) -> None:
    status, code, severity, cause, command = CASES[case]
    (found,) = incidents(status)
    assert (found.code, found.severity, found.next_command) == (code, severity, command)
    assert cause in found.cause
    assert found.runbook == f"docs/OPERATING.md#{code.replace('_', '-')}"
    assert found.to_dict()["next_command"] == command


@pytest.mark.parametrize("case", [name for name in CASES if "elsewhere that" in name])
def test_what_runs_elsewhere_is_not_started_or_killed_as_if_it_ran_here(case: str) -> None:
    (found,) = incidents(CASES[case][0])
    assert all(line.startswith("docker-compose ") for line in found.next_commands), found.next_commands


def test_every_code_has_a_case() -> None:
    assert {code for _, code, *_ in CASES.values()} == set(CODES)


def test_nothing_is_wrong_with_a_good_look() -> None:
    assert incidents(GOOD) == ()
    assert exit_code(GOOD) == 0


def test_what_is_near_a_limit_is_no_incident() -> None:
    near = replace(
        GOOD,
        dead=replace(DEAD, half_minute=FLOOD_LETTERS - 1),
        lags=settlement(19, 7, rate=1.0, inflow=2.0),
        disks=(Disk("/data", 1_000_000_000, 100_000_000_000, 1_000_000_000),),
    )
    near = role("worker-0", near, last_commit_ms=NOW - 60_000, skew_ms=4_999.0)
    near = role("worker-1", near, dropped={"fenced": 1, "last_fenced_at_ms": NOW - 15_000}, state="starting")
    assert incidents(near) == ()


def test_old_commands_do_not_make_a_clock_wrong() -> None:
    """What a worker takes from a backlog is old: that says nothing of its clock, unless it lies in the future."""
    late = replace(GOOD, lags=settlement(3_000, 7, rate=9.0, inflow=1.0, to_zero_s=1.0))
    assert incidents(role("worker-0", late, skew_ms=3_600_000.0)) == ()
    assert [i.code for i in incidents(role("worker-0", late, skew_ms=-6_000.0))] == ["clock_skew"]


def everything_waits_for(name: str, status: Status) -> Status:
    for r in status.roles:
        status = role(r.name, status, waiting_for=f"{name} does not answer", waiting_part=name)
    return status


def test_a_dead_broker_is_one_incident_with_its_followers() -> None:
    ten = everything_waits_for("Kafka", part("kafka", state="down", process="restarting"))
    ten = role("worker-0", ten, state="restarting", error="Kafka does not answer")
    ten = replace(ten, lags_unknown="Kafka does not answer", topics=Topics(unknown="Kafka does not answer"))
    (found,) = incidents(ten)
    assert found.code == "broker_down"
    assert {"sealer waits for it", "sink-redis waits for it"} < set(found.follows)
    assert any(f.startswith("role_down: worker-0 does not run") for f in found.follows)
    assert exit_code(replace(ten, incidents=(found,))) == 3


def test_a_slow_part_is_down_only_when_somebody_misses_it() -> None:
    """On a busy machine a look is over before all is told: nobody is to kill a broker because of that."""
    slow = part("kafka", state="slow", why="no answer within 3 s")
    assert incidents(slow) == ()
    assert exit_code(slow) == 3
    (found,) = incidents(role("worker-0", slow, waiting_for="Kafka does not answer", waiting_part="Kafka"))
    assert (found.code, found.follows) == ("broker_down", ("worker-0 waits for it",))


def test_what_reads_a_store_is_behind_with_it() -> None:
    late = (Lag("tieout", {0: 9}, 40.0, 0.0, 1.0, None), Lag("sink-clickhouse", {0: 9}, 40.0, 0.0, 1.0, None))
    for state in ("down", "read_only"):
        (found,) = incidents(replace(part("clickhouse", state=state), lags=late))
        assert found.code.startswith("clickhouse") and [f.split(":")[0] for f in found.follows] == ["lag_growing"] * 2


def test_a_clock_is_not_judged_while_nobody_knows_what_waits() -> None:
    fast = role("worker-0", part("kafka", state="down"), skew_ms=60_000.0)
    assert [i.code for i in incidents(replace(fast, lags=(), lags_unknown="no answer"))] == ["broker_down"]


@pytest.mark.parametrize("wrong", [{"paused": True, "state": "silent"}, {"state": "failed", "restarts": 3}])
def test_a_partition_whose_worker_hangs_or_is_gone_is_no_second_incident(wrong: dict[str, Any]) -> None:
    orphan = Partition(0, "", 10, 17, 9, "ab" * 32)
    stuck = replace(GOOD, lags=settlement(22, 7, rate=0.0, inflow=1.0), partitions=(orphan, *GOOD.partitions[1:]))
    (alone,) = incidents(stuck)
    assert (alone.code, alone.subject) == ("stuck_consumer", "partition 0")
    (found,) = incidents(role("worker-0", stuck, **wrong))
    assert (found.subject, len(found.follows)) == ("worker-0", 1)


def test_a_full_disk_comes_before_the_broker_that_it_ended() -> None:
    full = replace(
        part("kafka", state="down", process="restarting"), disks=(Disk("/data", 0, 9_000_000_000, 900_000_000),)
    )
    (found,) = incidents(full)
    assert found.code == "disk_full"
    assert found.follows[0].startswith("broker_down: Kafka at")


def test_what_has_two_causes_is_shown_as_two() -> None:
    both = replace(part("redis", state="down"), dead=DEAD)
    assert [i.code for i in incidents(both)] == ["redis_down", "poison_flood"]


def test_a_worker_that_hangs_explains_the_lag_but_not_a_sink() -> None:
    stuck = role("worker-0", replace(GOOD, lags=settlement(45, 9_000, rate=0.0, inflow=90.0)), paused=True)
    stuck = replace(stuck, lags=(*stuck.lags, Lag("sealer", {0: 50_000}, 60.0, 1.0, 5.0)))
    found = incidents(stuck)
    assert [(i.code, i.subject) for i in found] == [("stuck_consumer", "worker-0"), ("lag_growing", "sealer")]
    assert found[0].follows[0].startswith("lag_growing: settlement is 45 s behind")


def test_a_warning_alone_does_not_fail_a_script_and_a_critical_one_does() -> None:
    def code(status: Status) -> int:
        return exit_code(replace(status, incidents=incidents(status)))

    assert code(replace(GOOD, dead=DEAD)) == 0
    assert code(replace(GOOD, tieout=DIFFERS)) == 1
    assert code(part("redis", state="down")) == 3
    assert code(role("webhooks-0", paused=True)) == 3


def test_figures_of_a_process_before_are_not_those_of_the_one_that_starts(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    figures = {"pid": 1, "partitions": [0], "stopped": {"0": "broken"}}
    child = {"pid": 2, "state": "starting", "restarts": 1, "error": None, "log": "x.log"}
    found = role_here("worker-0", child, folder, figures, "live")
    assert (found.state, found.halted, found.partitions) == ("starting", {}, ())


def test_why_the_process_before_ended_is_no_trouble_of_one_that_is_ready(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.ready.mkdir()
    (folder.ready / "worker-0.json").write_text("{}")
    child = {"pid": os.getpid(), "state": "ready", "restarts": 1, "error": "worker-0 ended with exit code 1: no space"}
    assert role_here("worker-0", child, folder, {}, "live").error == ""
    broken = child | {"error": "worker-0 ended with exit code 78: a leg is missing"}
    assert "exit code 78" in role_here("worker-0", broken, folder, {}, "live").error
    halted = role_here("worker-0", child, folder, {"stopped": {"0": "partition 0: moved", "1": "lost"}}, "live")
    assert halted.error == "partition 0: moved; partition 1: lost"


def test_a_part_that_was_killed_is_not_said_to_have_ended_by_an_older_error() -> None:
    ended = "kafka ended by SIGKILL (log: /data/logs/kafka.log)"
    (found,) = incidents(part("kafka", state="down", process="restarting", ended=ended))
    assert "its process is restarting (kafka ended by SIGKILL)" in found.cause


def test_a_role_that_waits_may_be_quiet_for_longer(tmp_path: Path) -> None:
    import os

    folder = DataFolder(tmp_path)
    folder.ready.mkdir()
    (folder.ready / "sealer.json").write_text("{}")
    os.utime(folder.ready / "sealer.json", (time.time() - 30,) * 2)
    child = {"pid": None, "state": "ready", "restarts": 0}
    assert role_here("sealer", child, folder, {}, "live").state == "silent"
    waits = {"waiting_for": "Kafka does not answer"}
    assert role_here("sealer", child, folder, waits, "live").state == "ready"


@pytest.mark.parametrize(("name", "seconds", "state"), [
    ("worker-0", 9, "ready"), ("worker-0", 15, "silent"), ("gateway-0", 15, "silent"),
    ("sink-clickhouse", 15, "ready"), ("sink-clickhouse", 25, "silent"), ("sealer", 25, "silent"),
])  # fmt: skip
def test_a_follower_may_be_quiet_while_it_writes(tmp_path: Path, name: str, seconds: int, state: str) -> None:
    folder = DataFolder(tmp_path)
    folder.ready.mkdir()
    told = folder.ready / f"{name}.json"
    told.write_text("{}")
    os.utime(told, (time.time() - seconds,) * 2)
    assert role_here(name, {"pid": os.getpid(), "state": "ready"}, folder, {}, "live").state == state


def test_a_worker_of_another_stack_is_no_stranger(tmp_path: Path) -> None:
    """Somebody will be told to end a stranger: it must not be a worker that does its own work elsewhere."""
    here = DataFolder(tmp_path)
    here.write_run({"addresses": {"kafka_bootstrap": "127.0.0.1:9"}})
    fenced = {"dropped": {"fenced": 3, "last_fenced_at_ms": int(time.time() * 1000)}}
    worker = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", "--role", "worker", "--slot", "7"]
    environments = [
        {"CLEARLINE_KAFKA__BOOTSTRAP": "127.0.0.1:9"},
        {"CLEARLINE_DATA_DIR": str(tmp_path)},
        {"CLEARLINE_KAFKA__BOOTSTRAP": "127.0.0.1:10", "CLEARLINE_DATA_DIR": str(tmp_path)},
        {"CLEARLINE_DATA_DIR": str(tmp_path / "other")},
        {"CLEARLINE_KAFKA__BOOTSTRAP": "127.0.0.1:9", "CLEARLINE_WORLD": "other"},
    ]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CLEARLINE_")}
    started = [subprocess.Popen(worker, env={**clean, **e}, stdout=subprocess.PIPE) for e in environments]
    try:
        for process in started:
            assert process.stdout is not None and process.stdout.readline()
        found = role_here("worker-7", {"state": "ready", "pid": os.getpid()}, here, fenced, "live")
        assert set(found.strangers) == {process.pid for process in started[:2]}
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_figures_are_taken_by_the_names_that_roles_use() -> None:
    found = role_of(
        "worker-0", "ready",
        {"partitions": [1, 0], "clock_skew_ms": 12.5, "rate_per_second": 3, "latency_ms": {"p50": 1, "p99": 2, "count": 9},
         "last_commit_at": 5.5, "waiting_part": "Kafka", "stopped": {"1": "why"}},
    )  # fmt: skip
    assert (found.partitions, found.skew_ms, found.rate_per_second, found.last_commit_ms) == ((0, 1), 12.5, 3.0, 5500)
    assert (found.kind, found.waiting_part, found.halted) == ("worker", "Kafka", {"1": "why"})


def test_nothing_runs_and_nothing_fails(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "data")
    found = collect(settings, DataFolder(settings.data_dir))
    assert (found.state, found.incidents, exit_code(found)) == ("stopped", (), 3)
    assert found.to_dict()["state"] == "stopped"
    assert found.disks[0].total > 0


def test_parts_that_are_nowhere_are_told_within_seconds(tmp_path: Path) -> None:
    """An external system of which nothing answers: each section says so, and none raises."""
    settings = load_settings(
        data_dir=tmp_path / "data", kafka={"bootstrap": "127.0.0.1:1"}, registry={"url": "http://127.0.0.1:1"},
        clickhouse={"host": "127.0.0.1", "port": 1}, redis={"url": "redis://127.0.0.1:1/0"},
        status={"roles": {"worker-0": "http://127.0.0.1:1"}},
    )  # fmt: skip
    found = collect(settings, DataFolder(settings.data_dir))
    assert found.state == "external"
    assert {p.name: p.state for p in found.parts} == dict.fromkeys(PARTS, "down")
    assert [i.code for i in found.incidents] == ["broker_down", "registry_down", "clickhouse_down", "redis_down"]
    assert any(f.startswith("role_down: worker-0") for f in found.incidents[0].follows)
    assert found.roles[0].state == "down"
    assert found.disks and {d.needed for d in found.disks} == {0}, "no broker's or store's data is here"
    assert "Kafka at 127.0.0.1:1 does not answer" in found.lags_unknown
    assert found.topics.unknown
    assert found.dead.unknown
    assert found.schemas.unknown
    assert found.to_dict()["lag"]["error"]
    assert "docker-compose ps kafka-1 kafka-2 kafka-3" in text_of(found)


def test_a_role_elsewhere_tells_over_http_what_its_ready_file_would() -> None:
    checks = [Check("assigned", True, "has partitions 0 and 1"), Check("store", False, "Kafka does not answer")]
    facts = RoleFacts("worker-0", lambda: checks, lambda: "kafka", lambda: "no_space")
    skew = GaugeMetricFamily(Name.CLOCK_SKEW, "skew", labels=["role"])
    skew.add_metric(["worker-0"], 7.5)
    assigned = GaugeMetricFamily(Name.PARTITION_ASSIGNED, "assigned", labels=["partition"])
    stopped = GaugeMetricFamily(Name.PARTITION_STOPPED, "stopped", labels=["partition"])
    for family, values in ((assigned, (1, 1, 0)), (stopped, (0, 1, 0))):
        for p, value in enumerate(values):
            family.add_metric([str(p)], value)

    sequence = GaugeMetricFamily(Name.PARTITION_SEQUENCE, "sequence", labels=["partition"])
    sequence.add_metric(["0"], 41)
    fenced = CounterMetricFamily(str(Name.FENCED), "fenced", 3)
    done = CounterMetricFamily(str(Name.COMMANDS), "commands", 700)
    last = GaugeMetricFamily(Name.LAST_FENCED, "last fenced", NOW / 1000)

    class Some(Collector):
        def collect(self) -> Any:
            return [skew, assigned, stopped, sequence, fenced, done, last]

    server = MetricsServer(MetricsAddress(), facts, [Some()])
    try:
        figures = figures_at(server.url.removesuffix("/metrics"), 5.0)
    finally:
        server.close()
    found = role_of("worker-0", "halted", figures)
    assert (found.partitions, list(found.halted), found.skew_ms) == ((0, 1), ["1"], 7_500.0)
    assert (found.waiting_part, found.waiting_for, found.waiting_code) == ("Kafka", "Kafka does not answer", "no_space")
    assert found.done == 700, "from which whoever looks twice knows the rate"
    assert figures["heads"] == {"0": {"sequence": 41, "chain": ""}}
    assert found.dropped == {"fenced": 3, "last_fenced_at_ms": NOW}, "so that a second process in a slot is named"
    with pytest.raises(ClearlineError, match="does not answer"):
        figures_at("http://127.0.0.1:1", 0.5)


def test_the_repair_of_one_server_is_not_recommended_to_a_cluster() -> None:
    word = {
        "verdict": "differs",
        "lag_seconds": 0.5,
        "parts": {"clickhouse": {"verdict": "differs"}},
        "differences": [],
    }
    repair = "clearline tieout --repair clickhouse"
    assert repair in incidents(replace(GOOD, tieout=word))[0].next_commands
    assert repair not in incidents(replace(GOOD, tieout=word, embedded=False, state="external"))[0].next_commands


def test_what_others_wrote_steers_no_terminal_and_is_no_markup() -> None:
    """A Kafka key or an error may hold anything; `--watch` prints all as one group."""
    evil = "\x1b]0;title\x07\x1b[2J\u202e[/red]"
    status = role("worker-0", replace(GOOD, dead=replace(DEAD, keys={evil: 20})), state="restarting", error=evil)
    out = StringIO()
    Console(file=out, width=300, force_terminal=True, color_system=None).print(
        Group(*readable(replace(status, incidents=incidents(status))))
    )
    shown = r"\x1b]0;title\x07\x1b[2J\u202e[/red]"
    assert f"seen: {shown}" in out.getvalue() and f"carry the key {shown}, mostly" in out.getvalue()
    assert not {"\x1b", "\x07", "\u202e"} & set(out.getvalue())


def test_roles_that_nobody_asked_are_not_passed_over() -> None:
    said = "CLEARLINE_STATUS__ROLES says where they serve"
    assert said in text_of(replace(GOOD, roles=(), embedded=False, state="external"))
    assert said not in text_of(replace(GOOD, embedded=False, state="external"))


def test_a_tie_out_elsewhere_is_told_from_its_metrics() -> None:
    def sample(name: Name, value: float, **labels: str) -> Sample:
        return Sample(str(name), labels, value)

    samples = [
        sample(Name.TIEOUT_VERDICT, 5, part="redis"), sample(Name.TIEOUT_VERDICT, 0, part="clickhouse"),
        sample(Name.TIEOUT_DIFFERENCES, 2, part="redis"), sample(Name.TIEOUT_LAG, 1.5, part="redis"),
        sample(Name.TIEOUT_ROUND_AT, NOW / 1000),
    ]  # fmt: skip
    word = collected_tie_out(figures_of(samples, []))
    assert word is not None
    (found,) = incidents(replace(GOOD, tieout=word))
    assert (found.code, found.next_commands[-1]) == ("tie_out_differs", "clearline tieout --repair redis")
    assert "What stands in redis is not what the journal says (the command below says where)" in found.cause
    assert "tie-out: differs, 1.5 s behind (redis differs, clickhouse equal)" in text_of(replace(GOOD, tieout=word))
    assert collected_tie_out(figures_of(samples[:-1], [])) is None, "no round has ended yet"


def text_of(status: Status) -> str:
    out = StringIO()
    console = Console(file=out, width=200)
    for line in readable(status):
        console.print(line, markup=False) if isinstance(line, str) else console.print(line)
    return out.getvalue()


@pytest.mark.parametrize("case", CASES)
def test_people_are_told_the_incident_first(case: str) -> None:
    status = replace(CASES[case][0], incidents=incidents(CASES[case][0]))
    first, *rest = text_of(status).splitlines()
    assert CASES[case][1] in first
    assert any(f"next: {CASES[case][4]}" in line for line in rest)


@pytest.mark.parametrize("case", CASES)
def test_every_command_of_ours_that_is_recommended_exists(case: str) -> None:
    for i in incidents(CASES[case][0]):
        for line in i.next_commands:
            assert_is_a_command(line, i)


@cache
def tree() -> Any:
    """The commands; made once, because it takes a moment."""
    return get_command(cli.build())


def assert_is_a_command(line: str, incident: Incident) -> None:
    """The words of a `clearline` line name a command and options that it has."""
    if not line.startswith("clearline "):
        return
    command: Any = tree()
    words = re.findall(r'"[^"]*"|\S+', line)[1:]
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, (line, incident.code)
        command = command.commands[words.pop(0)]
    known = {o for p in command.params for o in p.opts}
    assert {w for w in words if w.startswith("--")} <= known, (line, incident.code)
