"""The embedded stack: every part that has no address in the settings, then the roles, run and watched on this machine.

`Stack` works inside the calling process (tests, demo) and inside the detached supervisor behind `clearline up`; both
write run.json in the data folder, from which `status` and `down` know everything.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from clearline import redaction
from clearline.config import Settings, settings_env
from clearline.embedded.clickhouse_part import clickhouse_spec
from clearline.embedded.downloads import Artifact, Downloads, Progress, Silent, locked_artifacts, repositories
from clearline.embedded.folder import DataFolder, end_all
from clearline.embedded.java import class_archive, find_java
from clearline.embedded.kafka import kafka_spec
from clearline.embedded.probes import HOST, ready_file
from clearline.embedded.process import Child, ProcessSpec, create_time, same_process
from clearline.embedded.registry import registry_spec, registry_url
from clearline.embedded.supervisor import Supervisor
from clearline.embedded.valkey import find_server, valkey_spec
from schemas.errors import BadInputError, ClearlineError

PARTS = ("kafka", "registry", "clickhouse", "redis")
ROLE_READY_S = 180.0
ROLE_STARTS_MAX = 3
_MANY = ("worker-", "gateway-", "webhooks-")  # roles of which there are several
# Nobody waits for these, and what they do in bursts would make those late for whom somebody waits.
_PROJECTIONS = ("sink-clickhouse", "sink-redis", "sealer", "tieout", "webhooks")
CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything is, embedded or not."""

    kafka_bootstrap: str
    registry_url: str
    clickhouse_host: str
    clickhouse_port: int
    clickhouse_http_port: int
    redis_url: str
    gateway_url: str


class Stack:
    """Runs parts and roles. All methods raise ClearlineError (exit code 3) or BadInputError (2) with one sentence.

    `parts` limits the embedded parts (names of PARTS); by default all that have no address in the settings.
    """

    def __init__(self, settings: Settings, parts: Iterable[str] | None = None) -> None:
        external = _external(settings)
        wanted = tuple(parts) if parts is not None else PARTS
        unknown = [p for p in wanted if p not in PARTS]
        if unknown:
            raise BadInputError(f"{unknown[0]} is not a part; parts are {', '.join(PARTS)}")
        self.settings = settings
        self.parts = tuple(p for p in wanted if p not in external)
        self._check_ports()
        self.folder = DataFolder(settings.data_dir)
        self._supervisor = Supervisor(self.folder, self._publish)
        self._ports: dict[str, int] = {}
        self._state = "stopped"
        self._error: str | None = None
        self._publishing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def prepare(self, progress: Progress | None = None) -> None:
        """Downloads what is missing, so that a start needs no network."""
        downloads = self._downloads(progress or Silent())
        if "kafka" in self.parts:
            downloads.fetch(locked_artifacts("kafka"))
        if "registry" in self.parts:
            downloads.unpacked(locked_artifacts("registry")[0])
        if "redis" in self.parts:
            find_server()
        if {"kafka", "registry"} & set(self.parts):
            find_java()

    def start(self, roles: bool | list[str] = False) -> Addresses:
        """Starts the parts, waits until they serve, prepares the world and starts roles (True: all).

        On any error, and when a signal interrupts it, everything is stopped again.
        """
        self.prepare()
        self.folder.open(components())
        self._supervisor = Supervisor(self.folder, self._publish)
        self._error = None
        try:
            self.settings = _with_master_key(self.settings)
            end_all(self.folder.leftovers())
            self._state = "starting"
            self._ports = self.folder.choose_ports(self._wanted_ports())
            self._supervisor.wait_ready(self._supervisor.add(self._part_specs()))
            if roles:
                # Here, because bare stacks have no use for it and it brings every client with it.
                from clearline.bootstrap import prepare_world

                prepare_world(self.resolved())
                self.start_roles(None if roles is True else roles)
        except BaseException as e:
            self._error = str(e) or type(e).__name__
            self.stop()
            raise
        self._state = "running"
        self._publish()
        return self.addresses()

    def start_roles(self, names: list[str] | None = None) -> None:
        """Starts roles (default: all) and waits until each serves."""
        self._supervisor.wait_ready(self.begin_roles(names))

    def begin_roles(self, names: list[str] | None = None) -> list[Child]:
        """Starts roles without waiting; for tests that interfere with a start."""
        known = role_names(self.settings)
        for name in names or []:
            if name not in known:
                raise BadInputError(f"{name} is not a role; roles are {', '.join(known)}")
        return self._supervisor.add([self._role_spec(n) for n in (known if names is None else names)])

    def stop(self) -> None:
        """Stops roles, then parts, and waits until every process is gone. Does nothing when nothing runs."""
        if self._state == "stopped":
            self.folder.close()
            return
        self._state = "stopping"
        self._publish()
        running = list(self._supervisor.describe())
        try:
            self._supervisor.stop([n for n in running if n not in PARTS])
            self._supervisor.stop([n for n in running if n in PARTS])
        finally:
            self._supervisor.close()
            left = end_all(self.folder.leftovers())
            self._state = "stopped"
            self._publish()
            self.folder.close()
        if left:
            raise ClearlineError(f"processes that do not end: {', '.join(str(p.pid) for p in left)}")

    def stop_one(self, name: str) -> None:
        """Stops one part or role and keeps it stopped."""
        self._supervisor.child(name)
        self._supervisor.stop([name])

    def start_one(self, name: str) -> None:
        """Starts one that was stopped, with the same port and data, and waits until it serves."""
        self._supervisor.forget(name)
        specs = [s for s in self._part_specs() if s.name == name] or [self._role_spec(name)]
        self._supervisor.wait_ready(self._supervisor.add(specs))

    def kill(self, name: str, sig: int = 9) -> None:
        """Sends a signal to a part or role; when it ends, it is started again."""
        self._supervisor.kill(name, sig)

    def pid(self, name: str) -> int:
        """The process id of a part or role that runs."""
        pid = self._supervisor.child(name).pid
        if pid is None:
            raise ClearlineError(f"{name} is not running")
        return pid

    def restarts(self, name: str) -> int:
        """How often a part or role was started again."""
        return self._supervisor.child(name).restarts

    def wait_restarted(self, name: str, restarts: int, timeout_s: float = 60.0) -> None:
        """Waits until it serves after more than `restarts` restarts."""
        self._supervisor.wait_restarted(name, restarts, timeout_s)

    def addresses(self) -> Addresses:
        """Addresses of all parts; those in the settings stay as they are."""
        return _addresses(self.settings, self._ports)

    def resolved(self) -> Settings:
        """The settings with the addresses filled in, as roles get them."""
        return _fill_in(self.settings, self.addresses())

    def status(self) -> dict[str, Any]:
        """What run.json says: state, supervisor, addresses, parts and roles."""
        described = self._supervisor.describe()
        own = os.getpid()
        return {
            "state": self._state,
            "error": self._error,
            "world": self.settings.world,
            "data_dir": str(self.folder.root),
            "supervisor": {"pid": own, "create_time": create_time(own)},
            "ports": self._ports,
            "addresses": redaction.hide_all(asdict(self.addresses())) if self._ports else {},
            "parts": {n: d for n, d in described.items() if n in PARTS},
            "roles": {n: d for n, d in described.items() if n not in PARTS},
        }

    def _publish(self) -> None:
        # On a full disk nobody learns of it, and the processes are watched and started again all the same.
        with self._publishing, suppress(OSError):
            self.folder.write_run(self.status())

    def _downloads(self, progress: Progress) -> Downloads:
        return Downloads(self.settings.cache_dir, lambda: repositories(self.settings.maven_repository), progress)

    def _wanted_ports(self) -> dict[str, int]:
        by_part = {
            "kafka": ("kafka", "kafka_controller"),
            "registry": ("registry",),
            "clickhouse": ("clickhouse", "clickhouse_http"),
            "redis": ("redis",),
        }
        asked = self.settings.ports.model_dump()
        wanted = {port: asked[port] for part in self.parts for port in by_part[part]}
        for i in range(self.settings.gateway.instances):
            wanted[gateway_port(i)] = asked["gateway"] and asked["gateway"] + i
        return wanted

    def _check_ports(self) -> None:
        """Raises BadInputError when two parts are to use one port."""
        users: dict[int, str] = {}
        for name, port in self._wanted_ports().items():
            if port and users.setdefault(port, name) != name:
                both = f"CLEARLINE_PORTS__{users[port].upper()} and CLEARLINE_PORTS__{name.upper()}"
                raise BadInputError(f"{both} are both {port}: give each part a port of its own, or 0 for a free one")

    def _part_specs(self) -> list[ProcessSpec]:
        makers: dict[str, Callable[[], ProcessSpec]] = {
            "kafka": self._kafka_spec,
            "registry": self._registry_spec,
            "clickhouse": self._clickhouse_spec,
            "redis": lambda: valkey_spec(find_server(), self.folder.part("redis"), self._ports["redis"]),
        }
        return [makers[p]() for p in self.parts]

    def _kafka_spec(self) -> ProcessSpec:
        java, artifacts = find_java(), locked_artifacts("kafka")
        return kafka_spec(
            java,
            class_archive(java, self.settings.cache_dir, "kafka", _version_of(artifacts)),
            self._downloads(Silent()).fetch(artifacts),
            self.folder.part("kafka"),
            (self._ports["kafka"], self._ports["kafka_controller"]),
            self.settings.kafka.heap_mb,
            self.settings.settlement.message_bytes_max,
        )

    def _registry_spec(self) -> ProcessSpec:
        java, artifacts = find_java(), locked_artifacts("registry")
        return registry_spec(
            java,
            class_archive(java, self.settings.cache_dir, "registry", _version_of(artifacts)),
            self._downloads(Silent()).unpacked(artifacts[0]),
            self.folder.part("registry"),
            self._ports["registry"],
        )

    def _clickhouse_spec(self) -> ProcessSpec:
        return clickhouse_spec(
            self.folder.part("clickhouse"),
            self._ports["clickhouse"],
            self._ports["clickhouse_http"],
            self.folder.ready / "clickhouse.json",
            self.settings.projections_nice,
        )

    def _role_spec(self, name: str) -> ProcessSpec:
        ready = self.folder.ready / f"{name}.json"
        role, _, slot = name.rpartition("-") if name.startswith(_MANY) else (name, "", "")
        settings = self.resolved()
        if role == "gateway":  # it listens on the port of the settings plus its number; here each has one of its own
            port = self._ports[gateway_port(int(slot))] - int(slot)
            settings = settings.model_copy(update={"ports": settings.ports.model_copy(update={"gateway": port})})
        return ProcessSpec(
            name=name,
            command=(
                *(sys.executable, "-m", "clearline", "up", "--role", role),
                *(("--slot", slot) if slot else ()),
            ),
            env={**settings_env(settings), "CLEARLINE_READY_FILE": str(ready), **python_path()},
            before=lambda: ready.unlink(missing_ok=True),
            probe=lambda pid: ready_file(ready, pid),
            ready_timeout_s=ROLE_READY_S,
            starts_max=ROLE_STARTS_MAX,
            niceness=settings.projections_nice if role in _PROJECTIONS else 0,
        )


def role_names(settings: Settings) -> list[str]:
    """All roles of a stack: worker-0 ..., the sinks, the sealer, the tie-out, gateway-0 ..., webhooks-0 ..."""
    workers = (f"worker-{i}" for i in range(settings.workers))
    gateways = (f"gateway-{i}" for i in range(settings.gateway.instances))
    webhooks = (f"webhooks-{i}" for i in range(settings.webhooks.instances))
    return [*workers, "sink-clickhouse", "sink-redis", "sealer", "tieout", *gateways, *webhooks]


def gateway_port(instance: int) -> str:
    """The name under which the data folder keeps a gateway's port."""
    return f"gateway_{instance}" if instance else "gateway"


def python_path() -> dict[str, str]:
    """Environment with which a child finds these packages, whatever folder it was started in."""
    inherited = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{CHECKOUT}:{inherited}" if inherited else str(CHECKOUT)}


def resolved_settings(settings: Settings) -> Settings:
    """The settings with the addresses of the running stack filled in.

    Raises ClearlineError when a part has no address and no stack is running on the data folder.
    """
    if len(_external(settings)) == len(PARTS):
        return settings
    run = DataFolder(settings.data_dir).read_run()
    if run is None or not run.get("addresses") or run.get("state") not in ("running", "starting"):
        raise ClearlineError(f"no stack is running on {settings.data_dir}: start it with `./run up`")
    if supervisor_of(run) is None:
        pid = run.get("supervisor", {}).get("pid")
        raise ClearlineError(
            f"no stack is running on {settings.data_dir} (its supervisor, pid {pid}, was killed): "
            "start it with `./run up`"
        )
    check_world(settings, run)
    return _fill_in(_with_master_key(settings), _addresses(settings, run["ports"]))


def _with_master_key(settings: Settings) -> Settings:
    from clearline.vault import with_master_key  # it brings cryptography with it

    return with_master_key(settings)


def supervisor_of(run: dict[str, Any]) -> psutil.Process | None:
    """The living supervisor of a run."""
    record = run.get("supervisor", {})
    return same_process(record.get("pid"), record.get("create_time"))


def check_world(settings: Settings, run: dict[str, Any]) -> None:
    """Raises ClearlineError when the stack that runs on the data folder serves another world than the settings'."""
    world = run.get("world", settings.world)
    if world != settings.world:
        raise ClearlineError(
            f"the stack on {settings.data_dir} serves world {world}, not {settings.world}: start another one with "
            f"`CLEARLINE_DATA_DIR=ANOTHER_FOLDER ./run --world {settings.world} up`, or leave --world and "
            f"CLEARLINE_WORLD at {world}"
        )


def _external(settings: Settings) -> set[str]:
    addresses = {
        "kafka": settings.kafka.bootstrap,
        "registry": settings.registry.url,
        "clickhouse": settings.clickhouse.host,
        "redis": settings.redis.url,
    }
    return {part for part, address in addresses.items() if address}


def _addresses(settings: Settings, ports: dict[str, int]) -> Addresses:
    """A part that is neither in the settings nor running gets port 0, which nothing answers."""
    house = settings.clickhouse
    return Addresses(
        kafka_bootstrap=settings.kafka.bootstrap or f"{HOST}:{ports.get('kafka', 0)}",
        registry_url=settings.registry.url or registry_url(ports.get("registry", 0)),
        clickhouse_host=house.host or HOST,
        clickhouse_port=house.port if house.host else ports.get("clickhouse", 0),
        clickhouse_http_port=house.http_port if house.host else ports.get("clickhouse_http", 0),
        redis_url=settings.redis.url or f"redis://{HOST}:{ports.get('redis', 0)}/0",
        gateway_url=settings.gateway.public_url or _gateway_url(settings, ports.get("gateway", 0)),
    )


def _gateway_url(settings: Settings, port: int) -> str:
    """The first gateway's address: links of every gateway begin with it, so that all give equal answers."""
    g = settings.gateway
    host = HOST if g.host in ("", "0.0.0.0", "::") else f"[{g.host}]" if ":" in g.host else g.host
    return f"{'https' if g.certificate else 'http'}://{host}:{port}"


def _fill_in(settings: Settings, at: Addresses) -> Settings:
    house = {"host": at.clickhouse_host, "port": at.clickhouse_port, "http_port": at.clickhouse_http_port}
    return settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(update={"bootstrap": at.kafka_bootstrap}),
            "registry": settings.registry.model_copy(update={"url": at.registry_url}),
            "clickhouse": settings.clickhouse.model_copy(update=house),
            "redis": settings.redis.model_copy(update={"url": at.redis_url}),
            "gateway": settings.gateway.model_copy(update={"public_url": at.gateway_url}),
        }
    )


def _version_of(artifacts: list[Artifact]) -> str:
    """Changes when any file of a part does."""
    return hashlib.sha256("".join(a.sha256 for a in artifacts).encode()).hexdigest()


def components() -> dict[str, str]:
    """Versions of what writes into a data folder."""
    kafka = next(a for a in locked_artifacts("kafka") if a.name.startswith("kafka_"))
    return {
        "kafka": kafka.path.split("/")[-2],
        "registry": locked_artifacts("registry")[0].path.split("/")[-2],
        "clickhouse": metadata.version("chdb-core"),
    }
