"""The data folder and the engine that owns it.

chDB allows one process per folder and must not be forked after it opened it. This module opens it once, refuses folders
it should not touch, and stops running queries; sessions.py talks to it.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from clearline.embedded.clickhouse import access
from clearline.embedded.clickhouse.readers import READERS_FILE

MARKER: Final = "clearline-clickhouse.json"
LOCK: Final = "clearline-clickhouse.lock"

# A two-core machine that also runs a broker and workers: small pools, one merge at a time, caches of a size for
# a process among others. Given once, when the folder is opened.
_SERVER: Final[dict[str, int]] = {
    "background_pool_size": 1,
    "background_schedule_pool_size": 1,
    "background_schedule_pool_initial_size": 1,
    "max_thread_pool_size": 200,
    "max_io_thread_pool_size": 8,
    "mark_cache_size": 128 << 20,
    "primary_index_cache_size": 128 << 20,
    "index_mark_cache_size": 64 << 20,
}
# What every session starts with. An INSERT is acknowledged when it is stored, and a word is not a query.
_SETTINGS: Final[dict[str, int]] = {
    "max_threads": 2,
    "max_insert_threads": 1,
    "async_insert": 0,
    "implicit_select": 0,
    "output_format_native_write_json_as_string": 1,
}


class CannotStartError(Exception):
    """The server must not serve this folder; the message names it and says what to do."""


class Engine:
    """The opened data folder."""

    def __init__(self, folder: Path, memory_bytes_max: int) -> None:
        """Open `folder`, creating it if need be. Raises CannotStartError."""
        self.folder = folder.absolute()
        self._lock_file = _lock(self.folder)
        # Importing chDB already starts its engine, so it happens here and not at import time.
        import chdb

        self._chdb: Any = chdb
        self.version = str(chdb.engine_version)
        _check_version(self.folder, self.version)
        self._address = _address(self.folder, _SETTINGS)
        server: dict[str, int | str] = {**_SERVER, **_SETTINGS, "max_server_memory_usage": memory_bytes_max}
        try:
            with access.configuration(self.folder) as config:
                self._control: Any = self._chdb.connect(_address(self.folder, {**server, "config-file": config}))
                self._control.query("SELECT 1", "Null")
        except Exception as error:
            raise CannotStartError(
                f"the data folder {self.folder} does not open (is another process using it?): {error}"
            ) from error
        (self.folder / MARKER).write_text(json.dumps({"clickhouse": self.version}) + "\n")
        self._control_lock = threading.Lock()

    @property
    def version_tuple(self) -> tuple[int, int, int]:
        """Major, minor and patch of the engine."""
        major, minor, patch = (int(part) for part in self.version.split(".")[:3])
        return major, minor, patch

    def timezone(self) -> str:
        """The server's time zone."""
        with self._control_lock:
            return str(self._control.query("SELECT timezone()", "TSVRaw")).strip()

    def connect(self) -> Any:
        """A session of the engine: its own settings, database and temporary tables."""
        return self._chdb.connect(self._address)

    def kill(self, mark: str) -> None:
        """Ask the running query whose text holds `mark` to stop. Returns at once; no error if it is gone."""
        with self._control_lock:
            pattern = f"%{mark}%"
            # This statement holds the mark too, but ends long before anything could be killed by it.
            self._control.query(
                f"KILL QUERY WHERE query LIKE '{pattern}' AND query NOT LIKE 'KILL%' "
                "AND query NOT LIKE '%system.processes%' ASYNC",
                "Null",
            )

    def kill_all(self) -> None:
        """Ask every running query to stop."""
        with self._control_lock:
            self._control.query("KILL QUERY WHERE query NOT LIKE '%system.processes%' ASYNC", "Null")

    def close(self) -> None:
        """Flush and close the folder."""
        self._control.close()
        os.close(self._lock_file)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _address(folder: Path, options: Mapping[str, int | str]) -> str:
    return f"{folder}?" + "&".join(f"{name}={value}" for name, value in options.items())


def _lock(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in folder.iterdir()}
        if names - {LOCK, MARKER, "tmp", access.FOLDER, READERS_FILE} and MARKER not in names and "store" not in names:
            raise CannotStartError(f"{folder} is not empty and is not a ClickHouse data folder: choose another one")
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CannotStartError(f"the data folder {folder} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(handle, 32, 0).decode(errors="replace").strip()
        os.close(handle)
        raise CannotStartError(
            f"the data folder {folder} is in use by process {owner or 'unknown'}: stop it, or choose another folder"
        ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _check_version(folder: Path, version: str) -> None:
    marker = folder / MARKER
    if not marker.exists():
        return
    try:
        written = str(json.loads(marker.read_text())["clickhouse"])
        newer = _major_minor(written) > _major_minor(version)
    except (ValueError, KeyError, TypeError) as error:
        raise CannotStartError(f"{marker} is damaged: restore it, or choose another data folder") from error
    if newer:
        raise CannotStartError(
            f"the data folder {folder} was written by ClickHouse {written} and this is {version}: "
            f"install the newer chdb, or choose another data folder"
        )


def _major_minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
