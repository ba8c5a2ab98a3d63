"""The development ClickHouse server (see clickhouse_server.py) as a child process."""

from __future__ import annotations

import sys
from pathlib import Path

from clearline.embedded.probes import ready_file
from clearline.embedded.process import ProcessSpec


def clickhouse_spec(folder: Path, port: int, http_port: int, ready: Path, niceness: int = 0) -> ProcessSpec:
    """The server; `ready` is where it says that it serves; `niceness`: 0 to 19, how much it yields to the others."""
    return ProcessSpec(
        name="clickhouse",
        command=(
            *(sys.executable, "-m", "clearline.embedded.clickhouse_server", str(folder)),
            *("--port", str(port), "--http-port", str(http_port), "--ready-file", str(ready)),
        ),
        before=lambda: ready.unlink(missing_ok=True),
        probe=lambda pid: ready_file(ready, pid),
        stop_timeout_s=30.0,
        niceness=niceness,
    )
