"""The sealer as a process from a fork server, so that tests can kill it quickly."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from schemas import failpoints
from streams.clients import KafkaConfig
from streams.registry import Registry
from streams.sealer import SealerOptions, run_sealer
from streams.topics import Topics


@dataclass(frozen=True)
class SealerRole:
    """What the role needs to know."""

    bootstrap: str
    registry_url: str
    world: str
    ready_file: Path

    def start(self, fail: str = "", options: SealerOptions | None = None) -> ForkServerProcess:
        """Starts it with fail points armed; small polls, so that there is much to interrupt."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        options = options or SealerOptions(poll_records_max=40, poll_timeout_s=0.02, report_interval_s=0.05)
        process = context.Process(target=_main, args=(self, fail, options), daemon=True)
        process.start()
        return process


def _main(role: SealerRole, fail: str, options: SealerOptions) -> None:
    failpoints.arm(fail)
    run_sealer(KafkaConfig(role.bootstrap), Topics(role.world), Registry(role.registry_url), role.ready_file, options)
