"""A settlement worker from the settings; also what `faust -A clearline.worker worker` finds.

The slot comes from CLEARLINE_SLOT (0 unless set). Nothing is built when this module is imported: the app is made when
it is first asked for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clearline.config import Settings, load_settings
from clearline.connection import kafka_config
from clearline.metrics import metrics_address
from schemas.errors import BadInputError, PartUnavailableError
from streams.core import HostOptions
from streams.host import build_app
from streams.worker import run_worker

SLOT_VARIABLE = "CLEARLINE_SLOT"
READY_VARIABLE = "CLEARLINE_READY_FILE"


def host_options(settings: Settings, slot: int) -> HostOptions:
    """The settlement host's options. Raises BadInputError for a slot that the settings do not have."""
    if not 0 <= slot < settings.workers:
        raise BadInputError(f"slot {slot} does not exist: the settings have {settings.workers} workers, from 0")
    s = settings.settlement
    return HostOptions(
        slot=slot, partitions=settings.partitions, gather_ms=s.gather_ms, batch_records_max=s.batch_records_max,
        producers=s.producers, session_timeout_ms=s.session_timeout_ms,
        transaction_timeout_ms=s.transaction_timeout_ms, watchdog_s=s.watchdog_s,
        keys_window_ms=s.keys_window_ms, message_bytes_max=s.message_bytes_max,
        tick_ms=s.tick_ms,
    )  # fmt: skip


def run(settings: Settings, slot: int, ready_file: Path | None) -> None:
    """Runs one worker in this process until it is told to stop. `settings` must hold addresses."""
    run_worker(
        kafka_config(settings), _registry_url(settings), settings.world, host_options(settings, slot), ready_file,
        settings.data_dir / "faust", metrics_address(settings, "worker", slot),
    )  # fmt: skip


def _registry_url(settings: Settings) -> str:
    if settings.registry.url is None:
        raise PartUnavailableError("Schema registry", "no address", "start everything with `./run up`")
    return settings.registry.url


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    from clearline.stack import resolved_settings

    settings = load_settings()
    if settings.kafka.bootstrap is None or settings.registry.url is None:
        settings = resolved_settings(settings)
    slot = os.environ.get(SLOT_VARIABLE, "0")
    options = host_options(settings, int(slot) if slot.isdigit() else -1)
    ready = os.environ.get(READY_VARIABLE)
    app = build_app(
        kafka_config(settings), _registry_url(settings), settings.world, options, Path(ready) if ready else None,
        settings.data_dir / "faust", metrics_address(settings, "worker", options.slot),
    )  # fmt: skip
    globals()["app"] = app
    return app
