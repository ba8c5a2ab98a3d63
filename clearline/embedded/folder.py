"""The data folder: its version, its owner, its remembered ports, and run.json, which says what is running.

Every file is replaced atomically, so a reader never sees half of one.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import shutil
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import psutil

from clearline.embedded.process import same_process
from schemas.errors import ClearlineError

FORMAT = 1
FREE_BYTES_MIN = 1_000_000_000
LOG_BYTES_MAX = 10_000_000
_OF_ANY_START = ("owner.lock", "logs", "ready")
# Below the range that systems take outgoing ports from: a restarted part must not find its port used by a client.
PORT_RANGE = range(20_000, 32_000)


class AlreadyRunningError(ClearlineError):
    """Another supervisor owns the data folder."""


class DataFolder:
    """One world's data on this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.logs = root / "logs"
        self.ready = root / "ready"
        self._version = root / "clearline.json"
        self._ports = root / "ports.json"
        self._run = root / "run.json"
        self._owner: IO[str] | None = None

    def part(self, name: str) -> Path:
        """The folder that a part keeps its data in."""
        return self.root / name

    def check(self, components: dict[str, str]) -> None:
        """Whether `open` could take the folder, without making or changing anything. Raises ClearlineError."""
        try:
            self._check_space()
            if self.root.exists():
                self._check_version(components)
        except OSError as e:
            raise self._unusable(e) from None

    def open(self, components: dict[str, str]) -> None:
        """Becomes the owner; makes the folder when there is none. `components`: versions of what writes its data.

        Raises AlreadyRunningError, or ClearlineError when the folder is of another version, not writable or full.
        """
        self.check(components)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock()
        except OSError as e:
            raise self._unusable(e) from None
        try:
            self._check_version(components)  # again: somebody may have written it meanwhile
            _write(self._version, {"format": FORMAT, "components": components})
            for folder in (self.logs, self.ready):
                folder.mkdir(exist_ok=True)
        except BaseException:
            self.close()
            raise

    def _unusable(self, e: OSError) -> ClearlineError:
        return ClearlineError(f"the data folder {self.root} cannot be used: {e.strerror}; set CLEARLINE_DATA_DIR")

    def close(self) -> None:
        """Gives the folder up."""
        if self._owner is not None:
            self._owner.close()
            self._owner = None

    def _check_space(self) -> None:
        there = next(p for p in (self.root, *self.root.parents) if p.exists())
        free = shutil.disk_usage(there).free
        if free < FREE_BYTES_MIN:
            raise ClearlineError(
                f"the data folder {self.root} has {free // 1_000_000} MB free, at least "
                f"{FREE_BYTES_MIN // 1_000_000} MB are needed: free some, or set CLEARLINE_DATA_DIR"
            )

    def _lock(self) -> None:
        handle = (self.root / "owner.lock").open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            pid = self._owner_pid()
            raise AlreadyRunningError(
                f"a stack is already running on {self.root}{f' (supervisor pid {pid})' if pid else ''}: "
                "see `./run status`, or stop it with `./run down`"
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))  # for whoever finds run.json damaged
        handle.flush()
        self._owner = handle

    def _owner_pid(self) -> int | None:
        """The supervisor that has the folder, if any, as owner.lock says: without run.json."""
        try:
            with (self.root / "owner.lock").open("r") as handle:
                text = handle.read().strip()
                try:
                    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    return int(text) if text.isdecimal() else None
        except OSError:
            pass
        return None

    def _check_version(self, components: dict[str, str]) -> None:
        found = self._read(
            self._version,
            f'if this version of Clearline wrote the folder, replace its contents with {{"format": {FORMAT}}} and '
            "nothing is lost; if not, set CLEARLINE_DATA_DIR to a new folder",
        )
        if found is None:
            strangers = sorted(p.name for p in self.root.iterdir() if p.name not in _OF_ANY_START and not _is_ours(p))
            if strangers:
                raise ClearlineError(
                    f"{self.root} is not a Clearline data folder (it holds {strangers[0]}): set CLEARLINE_DATA_DIR "
                    "to an empty or new folder"
                )
            return
        if found.get("format") != FORMAT:
            raise ClearlineError(
                f"the data folder {self.root} has format {found.get('format')}, this version reads {FORMAT}: use "
                "the version of Clearline that wrote it, or set CLEARLINE_DATA_DIR to a new folder"
            )
        wrote = found.get("components")
        for name in ("kafka", "clickhouse"):  # the others' files are read by any version
            theirs, ours = (str(c.get(name, "")) if isinstance(c, dict) else "" for c in (wrote, components))
            if ours and _version(theirs) > _version(ours):
                raise ClearlineError(
                    f"the data folder {self.root} was written by {name} {theirs}, and this version of Clearline brings "
                    f"{ours}, which cannot read it: use the version of Clearline that wrote it, or set "
                    "CLEARLINE_DATA_DIR to a new folder"
                )

    def choose_ports(self, wanted: dict[str, int]) -> dict[str, int]:
        """A port for each name: the one asked for, else the remembered one, else a free one; remembers them.

        Raises ClearlineError when a port that was asked for is in use.
        """
        remembered = self._read(self._ports, "remove it, and the ports are chosen anew") or {}
        chosen: dict[str, int] = {}
        for name, port in wanted.items():
            if port:
                if not _is_free(port):
                    raise ClearlineError(
                        f"port {port} for {name} is in use{_user_of(port)}: stop that, or set "
                        f"CLEARLINE_PORTS__{name.upper()} to another port or to 0"
                    )
                chosen[name] = port
        for name in wanted:
            if name not in chosen:
                chosen[name] = _free_port([remembered.get(name, 0)], set(chosen.values()))
        _write(self._ports, {**remembered, **chosen})
        return chosen

    def write_run(self, run: dict[str, Any]) -> None:
        """Says what is running."""
        _write(self._run, run)

    def read_run(self) -> dict[str, Any] | None:
        """What is or was running; None when nothing ever was."""
        return self._read(self._run, self._without_run)

    def _without_run(self) -> str:
        pid = self._owner_pid()
        if pid is None:
            return "no stack runs on this folder, so remove it: the data stays as it is"
        return f"a stack runs on this folder: end it with `kill {pid}`, wait until it is gone, then remove the file"

    def _read(self, path: Path, advice: str | Callable[[], str]) -> dict[str, Any] | None:
        """A file of ours; None when there is none. Raises ClearlineError with the advice when it is damaged."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it is not a JSON object")
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            sentence = f"the data folder {self.root} is a file: set CLEARLINE_DATA_DIR to a folder"
            raise ClearlineError(sentence) from None
        except OSError as e:
            raise ClearlineError(
                f"{path} cannot be read ({e.strerror}): let this user read it, or set "
                "CLEARLINE_DATA_DIR to another folder"
            ) from None
        except ValueError as e:
            told = advice if isinstance(advice, str) else advice()
            raise ClearlineError(f"{path} is damaged ({e}): {told}") from None
        return found

    def leftovers(self) -> list[psutil.Process]:
        """Processes of run.json that still run, children first."""
        run = self.read_run() or {}
        records = [*run.get("roles", {}).values(), *run.get("parts", {}).values(), run.get("supervisor", {})]
        found = (same_process(r.get("pid"), r.get("create_time")) for r in records)
        return [p for p in found if p is not None and p.pid != os.getpid()]

    def bound_logs(self) -> None:
        """Keeps each log below about twice LOG_BYTES_MAX: the older half moves to NAME.1."""
        for log in self.logs.glob("*.log"):
            if log.stat().st_size > LOG_BYTES_MAX:
                shutil.copyfile(log, log.with_name(log.name + ".1"))
                os.truncate(log, 0)  # writers append, so they go on at the new end


def end_all(processes: Iterable[psutil.Process], timeout_s: float = 10.0) -> list[psutil.Process]:
    """Kills processes at once and waits; returns those that are still there."""
    waiting = list(processes)
    for process in waiting:
        try:
            process.kill()
        except psutil.Error:
            pass
    _, alive = psutil.wait_procs(waiting, timeout=timeout_s)
    return list(alive)


def _free_port(preferred: list[int], taken: set[int]) -> int:
    for port in (*preferred, *random.SystemRandom().sample(PORT_RANGE, 200)):
        if port and port not in taken and _is_free(port):
            return port
    raise ClearlineError(f"no free port found between {PORT_RANGE[0]} and {PORT_RANGE[-1]}")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _user_of(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        pass
    return ""


def _is_ours(path: Path) -> bool:
    """A data folder of its own inside a data folder: `clearline demo` takes one below the folder that is named."""
    return path.is_dir() and ((path / "clearline.json").exists() or (path / "owner.lock").exists())


def _version(text: str) -> tuple[int, ...]:
    """4.2.10 is after 4.2.9. What is no number counts as nothing."""
    return tuple(int(n) for n in re.findall(r"\d+", text))


def _write(path: Path, value: dict[str, Any]) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fresh.write_text(json.dumps(value, indent=1), encoding="utf-8")
    fresh.replace(path)
