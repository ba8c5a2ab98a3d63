"""Runs one settlement worker in this process, until it is told to stop."""

from __future__ import annotations

import gc
import logging
import sys
from pathlib import Path

from streams.clients import KafkaConfig
from streams.core import HostOptions
from streams.host import build_app
from streams.metrics import MetricsAddress


def run_worker(
    kafka: KafkaConfig, registry_url: str, world: str, options: HostOptions, ready_file: Path | None, data_dir: Path,
    metrics: MetricsAddress,
) -> None:  # fmt: skip
    """Blocks until SIGTERM or SIGINT. Ends the process with 70 when a client call hangs, 78 on an invariant
    that is broken in no partition in particular, 2 when it cannot serve its metrics where the settings say.

    Raises PartUnavailableError and BadInputError when it cannot start.
    """
    import mode.loop

    mode.loop.use("uvloop")
    sys.setswitchinterval(0.001)  # the core's thread waits for the broker, the agent's thread computes
    gc.set_threshold(200_000, 20, 100)
    app = build_app(kafka, registry_url, world, options, ready_file, data_dir, metrics)
    logging.getLogger().setLevel(logging.WARNING)
    app.Worker(loglevel="WARN", quiet=True, redirect_stdouts=False).execute_from_commandline()
