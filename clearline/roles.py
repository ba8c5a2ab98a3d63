"""The roles: long-running processes of one system, each started as `clearline up --role NAME`.

A role writes its figures to the file named by CLEARLINE_READY_FILE when it serves, and ends on SIGTERM.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO, cast

import structlog

from clearline import __version__, redaction
from clearline.config import Settings
from clearline.connection import clickhouse_config, kafka_config, redis_config, registry_of
from clearline.metrics import metrics_address
from schemas.errors import BadInputError
from streams.topics import Topics

_MANY = ("worker", "gateway", "webhooks")  # roles of which there are several


def run_role(name: str, settings: Settings, slot: int) -> None:
    """Runs a role until it is told to stop. `slot`: which worker, gateway or webhook worker this is, from 0.

    Raises BadInputError for an unknown role or slot, PartUnavailableError when it cannot start.
    """
    if name not in ROLES:
        raise BadInputError(f"{name} is not a role; roles are {', '.join(ROLES)}")
    variable, count = _slots(name, settings)
    if not 0 <= slot < count:
        raise BadInputError(f"slot {slot} does not exist: {variable}={count} makes 0 to {count - 1}")
    redaction.know(settings)
    log_to_stderr()
    ready = os.environ.get("CLEARLINE_READY_FILE")
    with traced(settings, f"{name}-{slot}" if name in _MANY else name):
        _RUN[name](settings, slot, Path(ready) if ready else None)


@contextmanager
def traced(settings: Settings, role: str) -> Iterator[None]:
    """Traces while the block runs, if the settings say so. Raises BadInputError when OpenTelemetry is not installed."""
    if not settings.traces.endpoint:
        yield
        return
    from streams import traces

    t = settings.traces
    traces.switch_on(
        traces.TraceOptions(t.endpoint or "", t.ratio, t.believe_callers, settings.world, role, __version__)
    )
    try:
        yield
    finally:
        traces.switch_off()


def _slots(name: str, settings: Settings) -> tuple[str, int]:
    """How many processes of a role there are, and which setting says so."""
    if name == "gateway":
        return "CLEARLINE_GATEWAY__INSTANCES", settings.gateway.instances
    if name == "webhooks":
        return "CLEARLINE_WEBHOOKS__INSTANCES", settings.webhooks.instances
    return "CLEARLINE_WORKERS", settings.workers


def _worker(settings: Settings, slot: int, ready_file: Path | None) -> None:
    from clearline import worker

    worker.run(settings, slot, ready_file)


def _sink_clickhouse(settings: Settings, _slot: int, ready_file: Path | None) -> None:
    from streams.sink_host import run_clickhouse_sink

    run_clickhouse_sink(
        kafka_config(settings), Topics(settings.world), registry_of(settings), clickhouse_config(settings), ready_file,
        metrics=metrics_address(settings, "sink-clickhouse"),
    )  # fmt: skip


def _sink_redis(settings: Settings, _slot: int, ready_file: Path | None) -> None:
    from streams.sink_host import run_redis_sink

    run_redis_sink(
        kafka_config(settings), Topics(settings.world), registry_of(settings), redis_config(settings), ready_file,
        metrics=metrics_address(settings, "sink-redis"),
    )  # fmt: skip


def _sealer(settings: Settings, _slot: int, ready_file: Path | None) -> None:
    from streams.sealer import run_sealer

    run_sealer(
        kafka_config(settings), Topics(settings.world), registry_of(settings), ready_file,
        metrics=metrics_address(settings, "sealer"),
    )  # fmt: skip


def _tieout(settings: Settings, _slot: int, ready_file: Path | None) -> None:
    from clearline.audit.continuous import role
    from clearline.incident_metrics import IncidentWatch

    with IncidentWatch(settings) as watch:
        role.run(settings, ready_file, beside=[watch])


def _gateway(settings: Settings, slot: int, ready_file: Path | None) -> None:
    from clearline.gateway import serve

    serve.run(settings, slot, ready_file)


def _webhooks(settings: Settings, slot: int, ready_file: Path | None) -> None:
    from clearline.webhooks import worker

    worker.run(settings, slot, ready_file)


_RUN: dict[str, Callable[[Settings, int, Path | None], None]] = {
    "worker": _worker,
    "sink-clickhouse": _sink_clickhouse,
    "sink-redis": _sink_redis,
    "sealer": _sealer,
    "tieout": _tieout,
    "gateway": _gateway,
    "webhooks": _webhooks,
}
ROLES = tuple(_RUN)


class _Unfailing:
    """A stream whose lines are lost when they cannot be written: a full disk must not end whoever wants to say so."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def log_to_stderr() -> None:
    """Logs as one line of key=value each, on stderr, which the supervisor keeps in a file. Secrets are hidden."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    redaction.redact_logging(logging.getLogger().handlers)
    redaction.redact_tracebacks()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redaction.redact,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(file=cast(TextIO, _Unfailing(sys.stderr))),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
