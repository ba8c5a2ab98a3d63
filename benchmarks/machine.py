"""What machine a figure was measured on, and the file that keeps it: a figure without its machine says nothing.

Each result is one JSON line in `benchmarks/results/NAME.jsonl`, so that later runs can be laid beside earlier ones.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
_LIBRARIES = (
    "confluent-kafka", "faust-streaming", "fastavro", "msgspec", "numpy", "uvloop", "clickhouse-driver", "chdb",
)  # fmt: skip


def describe(seed: int) -> dict[str, Any]:
    """The machine as it is now: processor, memory (GB), versions, load average before the run, commit and seed."""
    one, five, fifteen = os.getloadavg()
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "loop_ns": loop_ns(),
        "load_average_before": [round(one, 2), round(five, 2), round(fifteen, 2)],
        "commit": _commit(),
        "seed": seed,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def loop_ns() -> float:
    """Processor time of one turn of an empty loop, the best of three; on one machine it grows with busy neighbours."""

    def once() -> float:
        started = time.process_time()
        for _ in range(500_000):
            pass
        return (time.process_time() - started) / 500_000 * 1e9

    return round(min(once() for _ in range(3)), 1)


class Results:
    """Appends the results of one run to `NAME.jsonl`; each line carries the machine and the run's id."""

    def __init__(self, name: str, seed: int, folder: Path = RESULTS) -> None:
        self.name = name
        self.path = folder / f"{name}.jsonl"
        self.machine = describe(seed)
        self.run = f"{self.machine['at']}-{os.getpid()}"

    def add(self, part: str, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps the figures of one part; returns the line as it was written."""
        line = {"bench": self.name, "part": part, "run": self.run, "machine": self.machine, **figures}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return line


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    """The commit of the checkout, with a `+` when files differ from it; empty outside of a checkout."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
