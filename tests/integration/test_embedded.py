"""The embedded stack with the real parts: they serve, keep their data over kills and restarts, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from clearline.config import Settings, load_settings
from clearline.embedded.folder import AlreadyRunningError, DataFolder
from clearline.embedded.process import same_process
from clearline.stack import CHECKOUT, PARTS, Stack, resolved_settings
from schemas.errors import ClearlineError
from streams.clients import KafkaConfig
from streams.reader import end_offsets
from streams.registry import Registry
from streams.topics import Topics, create_topics

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
T = TypeVar("T")
WAIT_S = 240.0


def wait_for(what: str, ask: Callable[[], T], seconds: float = WAIT_S) -> T:
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s for: {what}")
        time.sleep(0.1)
    return answer


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(data_dir=tmp_path_factory.mktemp("embedded") / "data")


@pytest.fixture(scope="module")
def stack(settings: Settings) -> Iterator[Stack]:
    with Stack(settings) as stack:
        stack.start()
        yield stack


class Contents:
    """Something known in every part, and the proof that it is still there."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.kafka = KafkaConfig(stack.addresses().kafka_bootstrap)
        self.topic = Topics("t").journal
        self.value = uuid.uuid4().hex
        self.ids: dict[str, int] = {}

    def write(self) -> None:
        create_topics(self.kafka, Topics("t"), 2)
        producer = Producer(self.kafka.producer())
        producer.produce(self.topic, self.value.encode(), partition=1)
        assert producer.flush(30) == 0
        self.ids = Registry(self.stack.addresses().registry_url).register_all()
        self._sql("CREATE TABLE IF NOT EXISTS kept (value String) ENGINE = MergeTree ORDER BY value")
        self._sql(f"INSERT INTO kept VALUES ('{self.value}')")
        self._redis().set("kept", self.value)

    def check(self) -> None:
        assert self._last_record() == self.value
        assert Registry(self.stack.addresses().registry_url).ids() == self.ids
        assert self.value in self._sql("SELECT value FROM kept")
        assert self._redis().get("kept") == self.value

    def _last_record(self) -> str:
        consumer = Consumer(self.kafka.consumer("test"))
        end = wait_for("the end of the log", lambda: end_offsets(self.kafka, self.topic).get(1))
        assert end is not None
        consumer.assign([TopicPartition(self.topic, 1, end - 1)])
        message = wait_for("the record", lambda: consumer.poll(1.0))
        assert message is not None
        assert message.error() is None
        consumer.close()
        return bytes(message.value() or b"").decode()

    def _sql(self, query: str) -> str:
        at = self.stack.addresses()
        url = f"http://{at.clickhouse_host}:{at.clickhouse_http_port}/"
        return httpx.post(url, content=query, timeout=30, trust_env=False).raise_for_status().text

    def _redis(self) -> Any:
        return redis.Redis.from_url(self.stack.addresses().redis_url, decode_responses=True)


@pytest.fixture(scope="module")
def contents(stack: Stack) -> Contents:
    found = Contents(stack)
    found.write()
    return found


def test_every_part_takes_and_gives(contents):
    contents.check()


def test_run_json_says_what_is_running(stack, settings):
    run = DataFolder(settings.data_dir).read_run()
    assert run is not None
    assert run["state"] == "running"
    assert set(run["parts"]) == set(PARTS)
    for part in run["parts"].values():
        assert part["state"] == "ready"
        assert same_process(part["pid"], part["create_time"]) is not None
    assert resolved_settings(settings) == stack.resolved()


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_comes_back_on_its_port_with_its_data(stack, contents, part):
    before = stack.addresses(), stack.pid(part), stack.restarts(part)
    stack.kill(part)
    stack.wait_restarted(part, before[2], WAIT_S)
    assert stack.addresses() == before[0]
    assert stack.pid(part) != before[1]
    contents.check()


def test_a_second_stack_on_the_same_folder_is_refused(stack, settings):
    with pytest.raises(AlreadyRunningError, match="is already running"):
        Stack(settings).start()
    assert stack.status()["state"] == "running"


def test_one_part_can_be_stopped_and_started(stack, contents):
    stack.stop_one("redis")
    with pytest.raises(redis.ConnectionError):
        contents._redis().ping()
    stack.start_one("redis")
    contents.check()


def test_after_a_stop_nothing_runs_and_a_new_start_has_the_same_ports_and_data(stack, settings, contents):
    pids = [stack.pid(p) for p in PARTS]
    addresses = stack.addresses()
    stack.stop()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert (DataFolder(settings.data_dir).read_run() or {})["state"] == "stopped"
    with pytest.raises(ClearlineError, match="no stack is running"):
        resolved_settings(settings)
    with Stack(settings) as again:
        assert again.start() == addresses
        contents.stack = again
        contents.check()


def up(data_dir: Path, *arguments: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "clearline.embedded", "up", "--data-dir", str(data_dir), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **env}, cwd=CHECKOUT,
    )  # fmt: skip


def processes(data_dir: Path) -> list[psutil.Process]:
    run = DataFolder(data_dir).read_run() or {}
    records = [*run.get("parts", {}).values(), *run.get("roles", {}).values()]
    return [p for r in records if (p := same_process(r["pid"], r["create_time"])) is not None]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
def test_kill_9_of_the_supervisor_leaves_nothing_and_the_next_start_works(tmp_path):
    with up(tmp_path / "d") as process:
        assert process.stdout is not None
        assert "kafka_bootstrap" in json.loads(process.stdout.readline())
        running = processes(tmp_path / "d")
        assert len(running) == len(PARTS)
        process.kill()
    _, alive = psutil.wait_procs(running, timeout=WAIT_S)
    assert not alive
    with Stack(load_settings(data_dir=tmp_path / "d"), parts=("redis", "clickhouse")) as stack:
        stack.start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything(tmp_path, number):
    with up(tmp_path / "d", "--parts", "redis,clickhouse") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        running = processes(tmp_path / "d")
        process.send_signal(number)
        assert process.wait(WAIT_S) == 0
    assert not [p for p in running if p.is_running()]


def test_a_signal_during_the_start_stops_what_had_come_up(tmp_path):
    with up(tmp_path / "d") as process:
        running = wait_for("the first processes", lambda: processes(tmp_path / "d"))
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
        later = processes(tmp_path / "d")
    assert not [p for p in running + later if p.is_running()]


def test_a_dead_java_is_one_sentence_and_nothing_is_left(tmp_path):
    home = tmp_path / "jdk"
    (home / "bin").mkdir(parents=True)
    java = home / "bin" / "java"
    java.write_text("#!/bin/sh\necho 'no more heap in the world' >&2\nexit 9\n")
    java.chmod(0o755)
    (home / "release").write_text('JAVA_VERSION="17.0.1"\n')
    with up(tmp_path / "d", JAVA_HOME=str(home)) as process:
        _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 3
    assert said.count("\n") == 1
    assert "no more heap in the world" in said
    assert not processes(tmp_path / "d")


def test_a_port_in_use_is_one_sentence_with_exit_code_3(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with up(tmp_path / "d", "--parts", "redis", CLEARLINE_PORTS__REDIS=str(port)) as process:
            _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 3
    assert f"port {port} for redis is in use" in said
    assert not processes(tmp_path / "d")


def clearline(data_dir: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    env = {**os.environ, "CLEARLINE_DATA_DIR": str(data_dir), "CLEARLINE_PARTITIONS": "2", "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "clearline", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=WAIT_S)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_up_runs_all_roles_a_killed_one_is_restarted_and_down_leaves_nothing(tmp_path):
    data = tmp_path / "d"
    try:
        code, first = clearline(data, "up")
        assert code == 0, first
        assert set(first["roles"]) == {
            "worker-0", "worker-1", "sink-clickhouse", "sink-redis", "sealer", "tieout", "gateway-0", "webhooks-0",
        }  # fmt: skip
        code, second = clearline(data, "up")
        assert (code, second["supervisor"]) == (0, first["supervisor"])
        killed = first["roles"]["worker-1"]["pid"]
        os.kill(killed, signal.SIGKILL)

        def worker() -> dict[str, Any]:
            found: dict[str, Any] = (DataFolder(data).read_run() or {})["roles"]["worker-1"]
            return found

        wait_for("the worker", lambda: worker()["restarts"] == 1 and worker()["state"] == "ready")
        assert worker()["pid"] != killed
        code, restarted = clearline(data, "restart", "worker-1", "redis")
        assert (code, list(restarted["restarted"])) == (0, ["worker-1", "redis"])
        assert worker()["pid"] == restarted["restarted"]["worker-1"]["pid"] and worker()["restarts"] == 2
        running = [*processes(data), psutil.Process(first["supervisor"])]
        assert len(running) == len(PARTS) + len(first["roles"]) + 1
    finally:
        code, _ = clearline(data, "down")
    assert code == 0
    assert not [p for p in running if p.is_running()]
    assert clearline(data, "down")[1]["stopped"] is False
