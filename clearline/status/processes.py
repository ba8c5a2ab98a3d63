"""What the supervisor, the ready files and the operating system say of our own processes; nobody else is asked."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from clearline.config import Settings
from clearline.embedded.folder import DataFolder
from clearline.status.incidents import EXIT_INVARIANT
from clearline.status.model import Role

_SILENT_S = 10.0  # a role writes its ready file once or twice a second
_FOLLOWER_SILENT_S = 20.0  # who writes a batch into a store says nothing while a busy machine does it
_WAITING_S = 60.0  # one that waits for a part writes it after every try
_FENCED_S = 60.0  # for so long after a fencing the stranger is looked for


def told(folder: DataFolder, name: str) -> dict[str, Any]:
    """What a role says of itself in its ready file; empty when it runs elsewhere, or is being started."""
    try:
        found = json.loads((folder.ready / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_paused(pid: int | None) -> bool:
    """Whether the process is stopped by a signal, or in a debugger."""
    if not pid:
        return False
    with suppress(psutil.Error):
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    return False


def _patience_s(name: str, waiting: bool) -> float:
    """Seconds without a word after which a role counts as silent."""
    if waiting:
        return _WAITING_S
    return _SILENT_S if name.startswith(("worker-", "gateway-")) else _FOLLOWER_SILENT_S


def role_here(name: str, child: Mapping[str, Any], folder: DataFolder, figures: dict[str, Any], world: str) -> Role:
    """A role that the supervisor of this machine runs. `child`: as in run.json; `figures`: of its ready file."""
    pid, state, error = child.get("pid"), str(child.get("state")), str(child.get("error") or "")
    paused = is_paused(pid)
    silent_s = 0.0
    if state == "ready":
        silent_s = _silent_s(folder.ready / f"{name}.json")
        if silent_s > _patience_s(name, bool(figures.get("waiting_for")) and not paused):
            state = "silent"
            error = f"silent for {silent_s:.0f} s: `clearline restart {name}`"
        elif figures.get("stopped"):
            state = "halted"
            error = "; ".join(_of_partition(p, str(why)) for p, why in figures["stopped"].items())
        elif f"exit code {EXIT_INVARIANT}" not in error:
            error = ""  # how the process before it ended: `restarts` counts that, and nothing is wrong with this one
    elif state in ("restarting", "starting", "failed"):
        figures = {}  # of the process before
    return role_of(
        name, state, figures, error=error, pid=pid, restarts=int(child.get("restarts") or 0), paused=paused,
        silent_s=silent_s, log=str(child.get("log") or ""), strangers=_strangers(name, pid, figures, world, folder),
    )  # fmt: skip


def _of_partition(partition: str, why: str) -> str:
    """What stopped a partition; some reasons name it themselves."""
    return why if why.startswith(f"partition {partition}:") else f"partition {partition}: {why}"


def role_of(name: str, state: str, figures: Mapping[str, Any], **more: Any) -> Role:
    """A role from its figures, wherever they came from."""
    at_s = figures.get("last_commit_at")
    rate = figures.get("rate_per_second", figures.get("records_per_second"))
    skew = figures.get("skew_ms", figures.get("clock_skew_ms"))
    return Role(
        name, state,
        waiting_for=str(figures.get("waiting_for") or ""), waiting_part=str(figures.get("waiting_part") or ""),
        waiting_code=str(figures.get("waiting_code") or ""),
        halted={str(p): str(why) for p, why in (figures.get("stopped") or {}).items()},
        partitions=tuple(sorted(int(p) for p in figures.get("partitions", figures.get("verified", ())))),
        latency_ms=figures.get("latency_ms"), rate_per_second=None if rate is None else float(rate),
        last_commit_ms=int(at_s * 1000) if at_s else None, skew_ms=None if skew is None else float(skew),
        dropped=dict(figures.get("dropped") or {}), done=figures.get("done"),
        metrics=str(figures.get("metrics") or ""), **more,
    )  # fmt: skip


def _silent_s(path: Path) -> float:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0  # it is being started again


def _strangers(
    name: str, pid: int | None, figures: Mapping[str, Any], world: str, folder: DataFolder
) -> tuple[int, ...]:
    """Processes of this machine that run as the same worker of the same world on the same broker. Looked for only after
    a fencing: a look at every process takes a moment."""
    kind, _, slot = name.rpartition("-")
    last_ms = int((figures.get("dropped") or {}).get("last_fenced_at_ms") or 0)
    if kind != "worker" or time.time() * 1000 - last_ms > _FENCED_S * 1000:
        return ()
    broker = str(((folder.read_run() or {}).get("addresses") or {}).get("kafka_bootstrap") or "")

    def ours(environment: Mapping[str, str]) -> bool:
        """Not of another stack, whose world may have the same name: somebody will be told to end it."""
        if environment.get("CLEARLINE_WORLD", world) != world:
            return False
        if at := environment.get("CLEARLINE_KAFKA__BOOTSTRAP"):
            return at == broker
        return Path(environment.get("CLEARLINE_DATA_DIR", "")).resolve() == folder.root.resolve()

    return tuple(p for p in _pids_as(kind, slot, ours) if p != pid)


def _pids_as(kind: str, slot: str, ours: Callable[[Mapping[str, str]], bool]) -> Iterable[int]:
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        words = process.info["cmdline"] or []
        if "--role" not in words or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        options = dict(itertools.pairwise(words))
        if options.get("--role") != kind or options.get("--slot", "0") != slot:
            continue
        with suppress(psutil.Error):
            if ours(process.environ()):
                yield int(process.info["pid"])


def expected_roles(settings: Settings) -> list[str]:
    """The names of all roles that these settings make."""
    from clearline.stack import role_names

    return role_names(settings)
