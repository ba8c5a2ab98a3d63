"""Real Kafka brokers on this machine, started from the settings of docker-compose.yml: what production runs is what is
tested. One JVM each, small; hosts and ports of the compose network become loopback and free ports, nothing else changes.

    with Cluster(folder) as cluster:                     three brokers
        cluster.start()
        cluster.settings("live.worker")                  KafkaSettings with which this principal logs in
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from clearline.config import KafkaSettings, Settings, load_settings, settings_env
from clearline.embedded import leash
from clearline.embedded.downloads import Downloads, Silent, locked_artifacts, repositories
from clearline.embedded.java import find_java
from clearline.embedded.kafka import _LOGGING
from clearline.embedded.probes import HOST
from clearline.embedded.process import ProcessSpec
from clearline.stack import CHECKOUT
from schemas.errors import PartUnavailableError
from streams.access import ROLES, SUPER_USER, apply, set_users, user_of
from streams.clients import KafkaConfig, Security, admin_client, every_partition_is_led
from streams.topics import Topics, create_topics
from tests.faults.stack import FaultStack, wait_for
from tests.pki import Authority

COMPOSE = CHECKOUT / "docker-compose.yml"
TLS = CHECKOUT / "deploy" / "kafka" / "tls.env"
LEASH = Path(leash.__file__)
READY_S = 300.0  # seconds; it takes ten, and minutes where ten others start theirs
# What the image's start script reads itself, and no setting of a broker.
_NOT_SETTINGS = ("KAFKA_HEAP_OPTS", "KAFKA_OPTS", "KAFKA_JVM_PERFORMANCE_OPTS", "KAFKA_LOG4J_OPTS", "KAFKA_JMX_OPTS")
_ALONE = {  # a lone broker has nobody to keep copies
    "default.replication.factor": "1", "min.insync.replicas": "1", "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1", "share.coordinator.state.topic.min.isr": "1",
}  # fmt: skip


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment, all different."""
    held = [socket.socket() for _ in range(count)]
    for s in held:
        s.bind((HOST, 0))
    found = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return found


def property_of(name: str) -> str:
    """The broker's name of a variable, as the image's start script makes it: `_` a dot, `__` one `_`, `___` a dash."""
    text = name.removeprefix("KAFKA_").lower()
    return re.sub("_{1,3}", lambda m: {1: ".", 2: "_", 3: "-"}[len(m[0])], text)


def compose_environment(service: str, values: Mapping[str, str]) -> dict[str, str]:
    """The environment that docker-compose.yml gives a service, with `values` for its ${VARIABLES}."""
    found = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"][service]["environment"]
    asked = re.compile(r"\$\{(\w+)(?::?[-?]([^}]*))?\}")
    return {
        k: asked.sub(lambda m: values.get(m[1], m[2] or ""), str(v)).replace("$$", "$") for k, v in found.items()
    }  # fmt: skip


def properties_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The broker's settings that an environment makes."""
    return {
        property_of(k): v for k, v in environment.items() if k.startswith("KAFKA_") and k not in _NOT_SETTINGS
    }  # fmt: skip


def env_file(path: Path) -> dict[str, str]:
    """A file of KEY=VALUE lines, as docker-compose reads it."""
    lines = (x for x in path.read_text(encoding="utf-8").splitlines() if x and not x.startswith("#"))
    return dict(x.split("=", 1) for x in lines)


class Cluster:
    """One or three brokers. `tls`: with deploy/kafka/tls.env on top; `front`: the port of a proxy that clients of a lone
    broker are sent to, whose upstream is `port_behind`. Use it with `with`: it stops them.

    Clients that log in as others than the super user need ACLs and passwords: `streams.access`.
    """

    def __init__(self, folder: Path, nodes: int = 3, *, tls: bool = False, heap_mb: int = 256, front: int = 0) -> None:
        assert nodes in (1, 3), "as many as docker-compose.yml has, or one"
        self.folder = folder
        self.nodes = list(range(1, nodes + 1))
        self.authority = Authority(folder / "pki") if tls else None
        self.passwords = {SUPER_USER: secrets.token_urlsafe(18)}
        self._broker_password = secrets.token_urlsafe(18)
        self._heap_mb = heap_mb
        self._front = front
        self._choose_ports()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ---- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Formats the folders, starts all brokers and waits until they lead what there is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = load_settings()
        jars = Downloads(settings.cache_dir, lambda: repositories(settings.maven_repository), Silent()).fetch(
            locked_artifacts("kafka")
        )
        log4j = self.folder / "log4j2.properties"
        log4j.write_text(_LOGGING, encoding="utf-8")
        java = find_java()
        self._java = (java, f"-Dlog4j2.configurationFile={log4j}", "-XX:-UsePerfData", "-XX:+UseSerialGC")
        self._classpath = ("-cp", ":".join(str(j) for j in jars))
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(self._format, self.nodes))
        for node in self.nodes:
            self.start_node(node)
        self.wait_ready()

    def start_node(self, node: int) -> None:
        """Starts a broker that does not run; returns at once."""
        jvm = (*self._java, "-XX:TieredStopAtLevel=1" if len(self.nodes) == 1 else "-XX:+TieredCompilation",
               f"-Xms{self._heap_mb // 2}m", f"-Xmx{self._heap_mb}m", *self._classpath)  # fmt: skip
        command = [*jvm, "kafka.Kafka", str(self._home(node) / "server.properties")]
        leashed = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *command]
        with (self._home(node) / "broker.log").open("ab") as log:
            self._processes[node] = subprocess.Popen(leashed, stdout=log, stderr=log)

    def kill(self, node: int) -> None:
        """kill -9."""
        self._processes[node].kill()
        self._processes[node].wait()

    def alive(self, node: int) -> bool:
        """Whether its process lives."""
        return self._processes[node].poll() is None

    def wait_ready(self, nodes: list[int] | None = None, timeout_s: float = READY_S) -> float:
        """Waits until these brokers (default: all) answer and every partition is led; how many seconds it took."""
        asked = nodes or self.nodes

        def led() -> bool:
            for node in asked:
                if not self.alive(node):
                    raise PartUnavailableError("Kafka", f"broker {node}", self.tail(node))
                try:
                    if not every_partition_is_led(self._admin(node), timeout_s=3.0):
                        return False
                except PartUnavailableError:
                    return False
            return True

        return wait_for(f"brokers {asked} to serve", led, timeout_s, 0.1)

    def prepare(self, topics: Topics, partitions: int) -> None:
        """What `clearline prepare` does on brokers: topics, users with passwords of their own, and ACLs."""
        create_topics(self.admin(), topics, partitions, replication=len(self.nodes))
        users = {user_of(topics.world, role): secrets.token_urlsafe(18) for role in ROLES}
        set_users(self.admin(), users)
        self.passwords |= users
        apply(self.admin(), topics)

    def in_sync(self) -> bool:
        """Whether every partition has all of its replicas in sync."""
        topics = admin_client(self.admin()).list_topics(timeout=5).topics
        return all(len(p.isrs) == len(p.replicas) for t in topics.values() for p in t.partitions.values())

    def stop(self) -> None:
        """Ends all brokers."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def tail(self, node: int) -> str:
        """The last line of its log that is an error."""
        lines = (self._home(node) / "broker.log").read_text(encoding="utf-8", errors="replace").splitlines()
        bad = [x for x in lines if re.search("ERROR|FATAL|Exception", x)]
        return (bad or lines or [""])[-1]

    def refusals(self) -> list[str]:
        """Who was refused what, as the brokers have logged it: `User:x write topic live.journal`."""
        form = re.compile(
            r"Principal = (\S+) is Denied operation = (\w+) from \S+ \S+ = \S+ on resource = (\w+):\w+:(\S+)"
        )
        logs = (self._home(n) / "broker.log" for n in self.nodes)
        found = (form.search(x) for log in logs for x in log.read_text(encoding="utf-8", errors="replace").splitlines())
        return [f"{m[1]} {m[2].lower()} {m[3].lower()} {m[4]}" for m in found if m]

    # ---- clients -----------------------------------------------------------------------------------------------------

    @property
    def bootstrap(self) -> str:
        """Addresses of the listener for clients."""
        if self._front:
            return f"{HOST}:{self._front}"
        return ",".join(f"{HOST}:{self._ports[n, 9092]}" for n in self.nodes)

    @property
    def port_behind(self) -> int:
        """Where the first broker listens for clients itself."""
        return self._ports[1, 9092]

    @property
    def bootstrap_mtls(self) -> str:
        """Addresses of the listener for certificates."""
        return ",".join(f"{HOST}:{self._ports[n, 9095]}" for n in self.nodes)

    def admin(self) -> KafkaConfig:
        """As the super user."""
        return self.config(SUPER_USER, "PLAIN")

    def config(self, user: str, mechanism: str = "SCRAM-SHA-512") -> KafkaConfig:
        """As a user whose password is known here."""
        password = self.passwords.get(user, "")
        ca = self.authority.certificate if self.authority else None
        protocol = "SASL_SSL" if self.authority else "SASL_PLAINTEXT"
        return KafkaConfig(self.bootstrap, {}, Security(protocol, mechanism, user, password, ca))

    def by_certificate(self, name: str) -> KafkaConfig:
        """As the holder of a certificate with this common name."""
        assert self.authority is not None, "tls=True"
        certificate, key = self.authority.issue(name)
        return KafkaConfig(
            self.bootstrap_mtls, {}, Security("SSL", ca=self.authority.certificate, certificate=certificate, key=key)
        )

    def settings(self, user: str, mechanism: str = "SCRAM-SHA-512") -> KafkaSettings:
        """The same as settings of ours, with the password in a file."""
        path = self.folder / f"kafka-{user}"
        path.write_text(self.passwords.get(user, "") + "\n", encoding="utf-8")
        return KafkaSettings.model_validate(
            {
                "bootstrap": self.bootstrap,
                "security_protocol": "SASL_SSL" if self.authority else "SASL_PLAINTEXT",
                "sasl_mechanism": mechanism,
                "username": user,
                "password_file": path,
                "ca_file": self.authority.certificate if self.authority else None,
                "replication": len(self.nodes),
            }
        )

    # ---- files -------------------------------------------------------------------------------------------------------

    def _admin(self, node: int) -> KafkaConfig:
        return replace(self.admin(), bootstrap=f"{HOST}:{self._ports[node, 9092]}")

    def _home(self, node: int) -> Path:
        return self.folder / f"kafka-{node}"

    def _choose_ports(self) -> None:
        keys = [(n, p) for n in self.nodes for p in (9092, 9093, 9094, 9095)]
        self._ports = dict(zip(keys, free_ports(len(keys)), strict=True))

    def properties(self, node: int) -> dict[str, str]:
        """What the broker is started with: docker-compose.yml's, and what a single machine needs otherwise."""
        values = {"KAFKA_BROKER_PASSWORD": self._broker_password, "KAFKA_PREPARE_PASSWORD": self.passwords[SUPER_USER]}
        given = compose_environment(f"kafka-{node}", values)
        if self.authority:
            given |= env_file(TLS)
            given["KAFKA_ADVERTISED_LISTENERS"] += f",MTLS://kafka-{node}:9095"
        found = {k: self._here(node, v) for k, v in properties_of(given).items()}
        if len(self.nodes) == 1:
            found |= _ALONE
            found["controller.quorum.voters"] = f"1@{HOST}:{self._ports[1, 9093]}"
        if self._front:
            behind = f"CLIENTS://{HOST}:{self.port_behind}"
            found["advertised.listeners"] = found["advertised.listeners"].replace(
                behind, f"CLIENTS://{HOST}:{self._front}"
            )
        found["log.dirs"] = str(self._home(node) / "data")
        return found

    def _here(self, node: int, value: str) -> str:
        """A value of the compose network, on this machine."""
        value = re.sub(
            r"kafka-(\d):(\d+)", lambda m: f"{HOST}:{self._ports.get((int(m[1]), int(m[2])), 1)}", value
        )  # fmt: skip
        value = re.sub(r"://:(\d+)", lambda m: f"://{HOST}:{self._ports[node, int(m[1])]}", value)
        return value.replace("/etc/kafka/secrets", str(self._home(node)))

    def _format(self, node: int) -> None:
        home = self._home(node)
        home.mkdir(parents=True, exist_ok=True)
        if self.authority:
            self.authority.bundle("localhost", home / "broker.pem")
            (home / "ca.pem").write_bytes(self.authority.certificate.read_bytes())
        properties: dict[str, Any] = self.properties(node)
        path = home / "server.properties"
        path.write_text("".join(f"{k}={v}\n" for k, v in properties.items()), encoding="utf-8")
        tool = ("kafka.tools.StorageTool", "format", "--ignore-formatted", f"--cluster-id={self._cluster_id}", "-c")
        jvm = (*self._java, "-XX:TieredStopAtLevel=1", *self._classpath)
        done = subprocess.run([*jvm, *tool, str(path)], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr or done.stdout


class OwnNames(FaultStack):
    """A stack whose roles log in as themselves at the brokers of a cluster."""

    def __init__(self, cluster: Cluster, settings: Settings, parts: Iterable[str]) -> None:
        super().__init__(settings, parts)
        self._cluster = cluster

    def as_role(self, role: str) -> Settings:
        """Settings with which a role, or a person, logs in."""
        kafka = self._cluster.settings(user_of(self.settings.world, role))
        return self.resolved().model_copy(update={"kafka": kafka})

    def _role_spec(self, name: str) -> ProcessSpec:
        spec = super()._role_spec(name)
        role = name.rstrip("-0123456789")
        own = settings_env(self.as_role("console" if role == "gateway" else role))
        self._environments[name].update({k: v for k, v in own.items() if k.startswith("CLEARLINE_KAFKA__")})
        return spec
