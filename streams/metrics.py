"""What a role serves of itself: /metrics for Prometheus, /healthz and /readyz for whoever keeps it running.

Nothing is counted twice: a scrape reads what the role knows of itself anyway, in the thread of the HTTP server. So a
command costs nothing more with metrics than without.
"""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import psutil
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from schemas.errors import NO_SPACE, READ_ONLY, BadInputError
from streams.metric_names import PARTS, Name
from streams.times import Times

LAG_S_MAX = 30.0
IDLE_S = 10.0  # a connection that says nothing for so long is closed
THREADS_MAX = 16


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """Where a role serves, and what it says of itself there. `port` 0: a free one, which the ready file names.

    `lag_s_max`: seconds behind from which on /readyz says 503; `disk`: a folder on the disk that the role writes to.
    """

    host: str = "127.0.0.1"
    port: int = 0
    lag_s_max: float = LAG_S_MAX
    world: str = ""
    version: str = ""
    disk: Path | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of /readyz: its name, whether it holds, and in words what is so."""

    name: str
    ok: bool
    said: str


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """A role as its server needs it. `name`: with the slot, as in worker-0; `checks`: of readiness, cheap, from any
    thread; `waiting_for`: the part that does not answer, by its name in PARTS, or empty; `waiting_code`: what is wrong
    with it, where that is known (schemas.errors)."""

    name: str
    checks: Callable[[], Sequence[Check]]
    waiting_for: Callable[[], str] = field(default=lambda: "")
    waiting_code: Callable[[], str] = field(default=lambda: "")

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether every check holds, and all of them as a document."""
        checks = self.checks()
        ready = all(c.ok for c in checks)
        return ready, {
            "ready": ready,
            "role": self.name,
            "why": [c.said for c in checks if not c.ok],
            "checks": {c.name: {"ok": c.ok, "said": c.said} for c in checks},
        }


def family(name: Name, value: float | None = None) -> Any:
    """An empty family of this metric, or with its one value if it has no labels."""
    kind = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}[name.kind]
    if value is None:
        return kind(name, name.help, labels=list(name.labels))
    return kind(name, name.help, value=float(value))


def by_label(name: Name, values: Mapping[Any, float], *before: str) -> Metric:
    """A family with one sample for each value of its last label; `before`: the values of the labels before it."""
    found: Metric = family(name)
    for label, value in values.items():
        found.add_metric([*before, str(label)], float(value))  # type: ignore[attr-defined]
    return found


def one(name: Name, value: float, *labels: str) -> Metric:
    """A family with one sample."""
    found = family(name)
    found.add_metric(list(labels), float(value))
    made: Metric = found
    return made


def histogram(name: Name, times: Times, *labels: str) -> Metric:
    """A family with one histogram."""
    found = family(name)
    buckets, total_s = times.shown()
    found.add_metric(list(labels), buckets, total_s)
    made: Metric = found
    return made


class RoleCollector(Collector):
    """What every role says: whether it is ready, what it waits for, its process and its disk."""

    def __init__(self, role: RoleFacts, at: MetricsAddress) -> None:
        self._role, self._at = role, at

    def describe(self) -> Iterator[Metric]:
        """Nothing: else registering would ask for figures before there are any."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        name, at = self._role.name, self._at
        ready, document = self._role.readiness()
        yield one(Name.ROLE_READY, ready, name)
        yield by_label(Name.ROLE_CHECK, {c: said["ok"] for c, said in document["checks"].items()}, name)
        waits = self._role.waiting_for()
        yield by_label(Name.ROLE_WAITING, {part: part == waits for part in PARTS}, name)
        code = self._role.waiting_code()
        yield by_label(Name.ROLE_WAITING_CODE, {c: c == code for c in (READ_ONLY, NO_SPACE)}, name)
        yield one(Name.ROLE_INFO, 1, name, at.world, at.version)
        if at.disk is not None:
            disk = shutil.disk_usage(_existing(at.disk))
            yield one(Name.DISK_FREE, disk.free, name)
            yield one(Name.DISK_SIZE, disk.total, name)
        own = psutil.Process()
        with own.oneshot():
            times = own.cpu_times()
            yield family(Name.CPU_SECONDS, times.user + times.system)
            yield family(Name.MEMORY, own.memory_info().rss)
            yield family(Name.STARTED, own.create_time())


def _existing(folder: Path) -> Path:
    """The folder, or the one above it that exists."""
    return next(p for p in (folder, *folder.parents) if p.exists())


class _Quiet(WSGIRequestHandler):
    timeout = IDLE_S

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is no event."""

    def handle(self) -> None:
        """One request; who sends none in time is let go."""
        with suppress(TimeoutError, ConnectionError):
            super().handle()


class _Bounded(ThreadingWSGIServer):
    """A thread for each connection, and no more than THREADS_MAX: who opens many must not take the threads that the
    role itself needs."""

    def __init__(self, *args: Any) -> None:
        self._free = threading.BoundedSemaphore(THREADS_MAX)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread, or the end of the connection."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class MetricsServer:
    """Serves /metrics, /healthz and /readyz in a thread of its own until it is closed.

    /healthz: 200 while the process answers. /readyz: 200, or 503 with what does not hold. Raises BadInputError when it
    cannot listen.
    """

    def __init__(
        self, at: MetricsAddress, role: RoleFacts, collectors: Iterable[Collector] = (), *,
        registry: CollectorRegistry | None = None,
    ) -> None:  # fmt: skip
        self.registry = registry or CollectorRegistry()
        for collector in (RoleCollector(role, at), *collectors):
            self.registry.register(collector)
        self._role = role
        self._metrics = make_wsgi_app(self.registry)

        class Server(_Bounded):
            address_family = _family_of(at.host)

        try:
            self._server = make_server(at.host, at.port, self._app, Server, handler_class=_Quiet)
        except OSError as e:
            raise BadInputError(
                f"metrics of {role.name} cannot be served on {at.host}:{at.port} (CLEARLINE_METRICS__HOST, "
                f"CLEARLINE_METRICS__PORT plus the role's own number, docs/metrics.md): {e.strerror or e}"
            ) from e
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="metrics", daemon=True)
        self._thread.start()
        host = "127.0.0.1" if at.host in ("", "0.0.0.0") else f"[{at.host}]" if ":" in at.host else at.host
        self.url = f"http://{host}:{self._server.server_port}/metrics"

    def _app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        document: dict[str, Any]
        if path == "/metrics":
            return self._metrics(environ, start_response)  # type: ignore[no-any-return]
        if path == "/healthz":
            status, document = "200 OK", {"status": "ok", "role": self._role.name}
        elif path == "/readyz":
            ready, document = self._role.readiness()
            status = "200 OK" if ready else "503 Service Unavailable"
        else:
            status, document = "404 Not Found", {"paths": ["/metrics", "/healthz", "/readyz"]}
        start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
        return [json.dumps(document).encode()]

    def close(self) -> None:
        """Gives the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _family_of(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def lag_check(lag_s: float, lag_s_max: float) -> Check:
    """Whether a role is not too far behind."""
    return Check("lag", lag_s <= lag_s_max, f"{lag_s:.1f} s behind, at most {lag_s_max:g} s are allowed")


def part_of(error: BaseException) -> str:
    """Which part an error is of, by its name in PARTS; empty for one that is of none."""
    if type(error).__name__ == "KafkaException":
        return "kafka"
    told = getattr(error, "part", "")
    return next((name for name, start in PARTS.items() if isinstance(told, str) and told.startswith(start)), "")
