"""The twelve incidents of docs/OPERATING.md, each made for real on a running embedded stack, and taken back.

Said once, for the tests of status (tests/integration/test_incidents.py) and for trials with people who have only the
runbook (tests/faults/incidents.py). An injection is injected once, kept up while it lasts where the cause goes on (a
flood, a full disk), and cured: as often as wanted, also after half an injection, and also when somebody was faster.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import httpx
import psutil
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from clearline.bootstrap import prepare_world
from clearline.config import Settings, settings_env
from clearline.connection import connect
from clearline.embedded.process import ProcessSpec, State, create_time, same_process
from clearline.lag import measure
from clearline.stack import Stack, python_path
from schemas.errors import ClearlineError
from schemas.records import OpenAccount, Subjects
from streams.topics import Topics
from tests.faults.full_disk import fill
from tests.faults.stack import wait_for

PARTNER = "acme"
PATIENCE_S = 300.0  # guards against a hang and judges nothing
_WAITS = Path(__file__).parents[1] / "integration" / "clock_waits.c"


class IncidentStack(Stack):
    """A stack whose roles can be given further environment, and whose processes can be held down."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.further: dict[str, dict[str, str]] = {}

    def _role_spec(self, name: str) -> ProcessSpec:
        spec = super()._role_spec(name)
        return replace(spec, env={**spec.env, **self.further.get(name, {})})

    def hold_down(self, name: str) -> None:
        """kill -9, and it is not started again before `let_go`."""
        child = self._supervisor.child(name)
        child._stop.set()
        with suppress(ClearlineError):  # it has ended by itself
            child.signal(signal.SIGKILL)
        child.join()

    def let_go(self, name: str) -> None:
        """Starts it when it is held down or was stopped, and waits until it serves."""
        if self._supervisor.child(name).state in (State.STOPPED, State.FAILED):
            self.start_one(name)


@dataclass
class Ground:
    """What is broken: a stack in this process. `disk`: the small file system under its broker, None: it has none."""

    stack: IncidentStack
    disk: Path | None = None

    @property
    def settings(self) -> Settings:
        return self.stack.resolved()

    @property
    def topics(self) -> Topics:
        return Topics(self.settings.world)

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": str(self.settings.kafka.bootstrap)})

    def publish(self, count: int = 1, raw: bytes | None = None, patience_s: float = 30.0) -> None:
        """Commands of one partner, or bytes that are none. Raises ClearlineError when the broker does not take them."""
        publisher = connect(self.settings).publisher(delivery_timeout_s=patience_s)
        for _ in range(count):
            if raw is None:
                publisher.publish(
                    OpenAccount(PARTNER, f"o-{time.monotonic_ns()}", f"{PARTNER}:wallet:a", "liability", "CNY", 0)
                )
            else:
                publisher.send(raw, PARTNER.encode(), publisher.partition(PARTNER))
        publisher.flush(patience_s)

    def settled(self) -> bool:
        """Whether nothing waits to be settled."""
        waiting = measure(self.settings, self.stack.folder)["roles"].get("settlement")
        return waiting is not None and not any(waiting.values())


class Injection:
    """One way to bring one incident about. `code`: what status must name it."""

    code: ClassVar[str] = ""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    @property
    def named(self) -> str:
        """The code that status must name; `code`, unless it depends on how it is made."""
        return self.code

    def impossible(self) -> str:
        """Why it cannot be made here, or empty."""
        return ""

    def inject(self) -> None:
        """Raises ClearlineError or TimeoutError when it cannot."""
        raise NotImplementedError

    def keep_up(self) -> None:
        """Called again and again while it lasts."""

    def cure(self) -> None:
        """Everything is as before, as far as it was changed here."""
        raise NotImplementedError


class PartDown(Injection):
    """A part is killed and stays down."""

    def __init__(self, ground: Ground, part: str) -> None:
        super().__init__(ground)
        self.part = part

    @property
    def named(self) -> str:
        return {"kafka": "broker_down"}.get(self.part, f"{self.part}_down")

    def inject(self) -> None:
        self.ground.stack.hold_down(self.part)

    def cure(self) -> None:
        self.ground.stack.let_go(self.part)


class ReadOnly(Injection):
    """Nobody may write into ClickHouse."""

    code = "clickhouse_read_only"

    @property
    def lock(self) -> Path:
        return self.ground.stack.folder.part("clickhouse") / "read-only"

    def inject(self) -> None:
        self.lock.touch()
        self.keep_up()

    def keep_up(self) -> None:
        self.ground.publish()  # a sink that has nothing to write does not miss its store

    def cure(self) -> None:
        self.lock.unlink(missing_ok=True)


class DiskFull(Injection):
    """The disk under the broker has no room left."""

    code = "disk_full"

    def impossible(self) -> str:
        return "" if self.ground.disk else "a small file system cannot be mounted here: that takes root"

    @property
    def filler(self) -> Path:
        assert self.ground.disk is not None, "asked before whether it is possible"
        return self.ground.disk / "filler"

    def inject(self) -> None:
        fill(self.filler)

    def keep_up(self) -> None:
        """A full disk stays full, and the broker is given something to write."""
        if not self.filler.exists():
            return  # somebody made room
        fill(self.filler)
        with suppress(ClearlineError):
            self.ground.publish(1, b"x" * 100_000, patience_s=1.0)

    def cure(self) -> None:
        if self.ground.disk:
            self.filler.unlink(missing_ok=True)


class Hangs(Injection):
    """Roles live and do nothing."""

    code = "stuck_consumer"

    def __init__(self, ground: Ground, *names: str) -> None:
        super().__init__(ground)
        self.names = names
        self.pids: dict[str, int] = {}
        self._stopped: list[tuple[int, float | None]] = []

    def inject(self) -> None:
        for name in self.names:
            pid = self.pids[name] = self.ground.stack.pid(name)
            self._stopped.append((pid, create_time(pid)))
            self.ground.stack.kill(name, signal.SIGSTOP)

    def cure(self) -> None:
        for pid, created in self._stopped:
            if process := same_process(pid, created):
                with suppress(psutil.Error):
                    process.resume()


class Flood(Injection):
    """A partner sends bytes that are no command."""

    code = "poison_flood"

    def inject(self) -> None:
        self.ground.publish(60, b"no command at all")

    def keep_up(self) -> None:
        with suppress(ClearlineError):
            self.ground.publish(3, b"no command at all")

    def cure(self) -> None:
        """It is over by itself, half a minute after the last."""


class Zombie(Injection):
    """A second process runs as the same worker."""

    code = "zombie_worker"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self.stranger: subprocess.Popen[bytes] | None = None

    def inject(self) -> None:
        self.stranger = subprocess.Popen(
            [sys.executable, "-m", "clearline", "up", "--role", "worker", "--slot", "0"],
            env={**os.environ, **settings_env(self.ground.settings), **python_path()},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def cure(self) -> None:
        if self.stranger is not None:
            self.stranger.kill()
            self.stranger.wait()


class Breach(Injection):
    """A worker finds its state ahead of the log: somebody has moved the group's offsets behind its back."""

    code = "invariant_breach"
    to = 1_000

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self._before: int | None = None

    def inject(self) -> None:
        self.ground.publish()
        wait_for("everything to be settled", self.ground.settled, PATIENCE_S)
        self.ground.stack.hold_down("worker-0")
        self._before = self._move(self.to)
        self.ground.stack.let_go("worker-0")

    def cure(self) -> None:
        if self._before is not None:
            self.ground.stack.hold_down("worker-0")
            self._move(self._before)
            self._before = None
        self.ground.stack.let_go("worker-0")

    def forget(self) -> None:
        """Somebody else has cured it."""
        self._before = None

    def _move(self, offset: int) -> int:
        """Moves the group's offset in the partner's partition; returns where it was."""
        topics, admin = self.ground.topics, self.ground.admin()
        place = connect(self.ground.settings).publisher().partition(PARTNER)
        asked = [ConsumerGroupTopicPartitions(topics.group)]
        known = admin.list_consumer_group_offsets(asked)[topics.group].result(30).topic_partitions
        before: int = next(tp.offset for tp in known if tp.partition == place)
        moved = ConsumerGroupTopicPartitions(topics.group, [TopicPartition(topics.submitted, place, offset)])

        def reset() -> bool:
            """Possible once the killed member's session is over."""
            done = admin.alter_consumer_group_offsets([moved])[topics.group]
            try:
                return all(tp.error is None for tp in done.result(10).topic_partitions)
            except (KafkaException, TimeoutError):
                return False

        wait_for("the group to be empty", reset, PATIENCE_S)
        return before


class ClockSkew(Injection):
    """A worker's clock is an hour fast."""

    code = "clock_skew"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self._folder: Path | None = None

    def impossible(self) -> str:
        if shutil.which("faketime") and shutil.which("cc"):
            return ""
        return "faketime or a C compiler is missing: on Debian and Ubuntu, apt-get install faketime gcc libc6-dev"

    def inject(self) -> None:
        self._folder = folder = Path(tempfile.mkdtemp(prefix="clock-"))
        waits, dial = folder / "clock_waits.so", folder / "clock"
        subprocess.run(["cc", "-std=c11", "-O2", "-shared", "-fPIC", "-o", str(waits), str(_WAITS), "-ldl"], check=True)
        library = subprocess.run(
            ["faketime", "-m", "-f", "+0", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dial.write_text("+3600.0\n")
        self.ground.stack.further["worker-0"] = {
            "LD_PRELOAD": f"{waits}:{library}", "FAKETIME_TIMESTAMP_FILE": str(dial), "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        self.ground.stack.stop_one("worker-0")
        self.ground.stack.let_go("worker-0")

    def keep_up(self) -> None:
        self.ground.publish()  # a clock shows in what is taken in

    def cure(self) -> None:
        if self.ground.stack.further.pop("worker-0", None):
            self.ground.stack.stop_one("worker-0")
        self.ground.stack.let_go("worker-0")
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class TopicWrong(Injection):
    """A topic was deleted, or made anew with too few partitions."""

    def __init__(self, ground: Ground, partitions: int = 0) -> None:
        super().__init__(ground)
        self.partitions = partitions

    @property
    def named(self) -> str:
        return "topic_partitions" if self.partitions else "topic_missing"

    @property
    def topic(self) -> str:
        return self.ground.topics.triage

    def _there(self) -> int:
        found = self.ground.admin().list_topics(timeout=30).topics.get(self.topic)
        return len(found.partitions) if found is not None else 0

    def _delete(self) -> None:
        admin = self.ground.admin()  # it must live until it has answered
        if self._there():
            admin.delete_topics([self.topic])[self.topic].result(60)
        wait_for(f"{self.topic} to be gone", lambda: not self._there(), PATIENCE_S)

    def inject(self) -> None:
        self._delete()
        if self.partitions:
            admin = self.ground.admin()
            admin.create_topics([NewTopic(self.topic, self.partitions, 1)])[self.topic].result(60)

    def cure(self) -> None:
        if self._there() not in (0, self.ground.settings.partitions):
            self._delete()
        prepare_world(self.ground.settings)


class SchemaRefused(Injection):
    """The registry has something else under a subject of ours."""

    code = "schema_refused"
    subject = Subjects.of("OperatorAct")

    def _registry(self) -> httpx.Client:
        return httpx.Client(base_url=str(self.ground.settings.registry.url), timeout=60, trust_env=False)

    def inject(self) -> None:
        other = {
            "type": "record", "name": "OperatorAct", "namespace": "elsewhere",
            "fields": [{"name": "n", "type": "long"}],
        }  # fmt: skip
        document = {"schema": json.dumps(other), "schemaType": "AVRO"}
        with self._registry() as client:
            client.delete(f"/subjects/{self.subject}").raise_for_status()
            client.put(f"/config/{self.subject}", json={"compatibility": "NONE"})
            client.post(f"/subjects/{self.subject}/versions", json=document).raise_for_status()
            client.put(f"/config/{self.subject}", json={"compatibility": "FULL_TRANSITIVE"}).raise_for_status()

    def cure(self) -> None:
        with self._registry() as client:
            latest = client.get(f"/subjects/{self.subject}/versions/latest")
            if latest.is_success and json.loads(latest.json()["schema"]).get("namespace") == "elsewhere":
                client.delete(f"/subjects/{self.subject}").raise_for_status()
        prepare_world(self.ground.settings)


# By their numbers in the issue; some can be made in more than one way.
INCIDENTS: dict[int, tuple[Callable[[Ground], Injection], ...]] = {
    1: (lambda g: PartDown(g, "kafka"),),
    2: (lambda g: PartDown(g, "registry"),),
    3: (lambda g: PartDown(g, "clickhouse"), ReadOnly),
    4: (lambda g: PartDown(g, "redis"),),
    5: (DiskFull,),
    6: (lambda g: Hangs(g, "worker-0"), lambda g: Hangs(g, "gateway-0"), lambda g: Hangs(g, "webhooks-0")),
    7: (Flood,),
    8: (Zombie,),
    9: (Breach,),
    10: (ClockSkew,),
    11: (TopicWrong, lambda g: TopicWrong(g, 1)),
    12: (SchemaRefused,),
}
