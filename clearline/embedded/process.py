"""One supervised child process: what it is, and a thread that keeps it running.

One thread per child makes its life a straight line: wait for what it needs, start, wait until it serves, wait until it
ends, start again. The thread also has to be alive as long as the child: the kernel's promise to kill a child with its
parent (see leash.py) counts the starting thread, not the process.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from schemas.errors import ClearlineError

_LEASH = Path(__file__).with_name("leash.py")
_PROBE_INTERVAL_S = 0.05
_BACKOFF_FIRST_S = 0.2
_STEADY_S = 10.0
_BAD_NEWS = re.compile(
    r"error|exception|fatal|critical|caused by|cannot|can't|could not|failed|failure|denied|refused|no space", re.I
)
_NO_NEWS = re.compile(r"\b(INFO|DEBUG|TRACE|NOTICE)\b|level='(info|debug)'")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class State(StrEnum):
    """Where a child is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class ProcessSpec:
    """How to run a part or a role.

    `probe` returns a description once the process serves, None before; it gets the pid and must answer within a second
    or two. `before` runs before every start, `after` after every end. `starts_max`: how often the first start is tried
    before the whole start fails. `backoff_max_s`: how long one that ends again and again is left alone before the next
    try. `niceness`: 0 to 19, how much it yields the processor to the others.
    """

    name: str
    command: tuple[str, ...]
    probe: Callable[[int], dict[str, Any] | None]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: Path | None = None
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None
    ready_timeout_s: float = 180.0  # far more than any start takes; on a crowded machine it may take minutes
    stop_timeout_s: float = 15.0
    starts_max: int = 1
    backoff_max_s: float = 5.0
    niceness: int = 0


class Child:
    """A process that is started, watched, restarted and stopped by its own thread."""

    def __init__(self, spec: ProcessSpec, log: Path, on_change: Callable[[], None], needs: list[Child]) -> None:
        self.spec = spec
        self.log = log
        self.state = State.WAITING
        self.restarts = 0
        self.ready_info: dict[str, Any] = {}
        self.error: str | None = None
        self.pid: int | None = None
        self.create_time: float | None = None
        self._log_begin = 0
        self._needs = needs
        self._on_change = on_change
        self._stop = threading.Event()
        self._settled = threading.Event()  # ready for the first time, or given up
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._live, name=f"supervise-{spec.name}", daemon=True)

    def start(self) -> None:
        """Begins; returns at once."""
        self._thread.start()

    def wait_settled(self, timeout_s: float) -> bool:
        """True once the first start has succeeded or failed."""
        return self._settled.wait(timeout_s)

    def stop(self) -> None:
        """Asks the process to end and the thread not to start it again; returns at once."""
        self._stop.set()
        process = self._process
        if process is not None and process.poll() is None:
            self._set(State.STOPPING)
            process.terminate()

    def join(self) -> None:
        """Waits until the process is gone, and kills it when it does not go. Raises ClearlineError if it stays."""
        if not self._thread.is_alive():
            return
        self._thread.join(self.spec.stop_timeout_s)
        if self._thread.is_alive():
            process = self._process
            if process is not None and process.poll() is None:
                process.kill()
            self._thread.join(10.0)
        if self._thread.is_alive():
            raise ClearlineError(f"{self.spec.name} (pid {self.pid}) does not end, not even after kill -9")

    def signal(self, sig: int) -> None:
        """Sends a signal to the running process. Raises ClearlineError when none runs."""
        process = self._process
        if process is None or process.poll() is not None:
            raise ClearlineError(f"{self.spec.name} is not running ({self.state})")
        process.send_signal(sig)

    def describe(self) -> dict[str, Any]:
        """For run.json and `status`."""
        return {
            "pid": self.pid,
            "create_time": self.create_time,
            "state": self.state.value,
            "restarts": self.restarts,
            "ready": self.ready_info,
            "error": self.error,
            "log": str(self.log),
        }

    def _set(self, state: State) -> None:
        self.state = state
        self._on_change()

    def _live(self) -> None:
        try:
            self._run()
        except Exception as e:  # the one place: an unforeseen error must show as a failed start, not as a silent end
            self._fail(f"{self.spec.name} cannot be supervised: {e}")
        finally:
            self._settled.set()

    def _run(self) -> None:
        for other in self._needs:
            other._settled.wait()
            if other.state is not State.READY and not other.restarts:
                self._set(State.STOPPED)
                return
        starts, backoff_s = 0, 0.0
        while not self._stop.is_set():
            starts += 1
            started = time.monotonic()
            problem = self._once()
            if self._stop.is_set():
                break
            if not self._settled.is_set() and starts >= self.spec.starts_max:
                self._fail(problem)
                return
            self.error = problem
            self.restarts += 1
            self._set(State.RESTARTING)
            if time.monotonic() - started > _STEADY_S:
                backoff_s = 0.0  # whatever ended a steady process, the next one is not made to wait for it
            self._stop.wait(backoff_s)
            backoff_s = min(max(backoff_s * 2, _BACKOFF_FIRST_S), self.spec.backoff_max_s)
        self._set(State.STOPPED)

    def _fail(self, problem: str) -> None:
        self.error = problem
        self._set(State.FAILED)

    def _once(self) -> str:
        """From start to end of one process; returns why it ended."""
        try:
            self.spec.before()
            process = self._spawn()
        except (ClearlineError, OSError, subprocess.SubprocessError) as e:
            return f"{self.spec.name} cannot be started: {e}"
        try:
            if self._stop.is_set():  # stop() came before there was a process to end
                process.terminate()
            deadline = time.monotonic() + self.spec.ready_timeout_s
            while process.poll() is None:
                info = self.spec.probe(process.pid)
                if info is not None:
                    self.ready_info = info
                    if not self._stop.is_set():
                        self._set(State.READY)
                    self._settled.set()
                    break
                if time.monotonic() > deadline:
                    process.kill()
                    process.wait()
                    return f"{self.spec.name} was not ready after {self.spec.ready_timeout_s:.0f} s{self._tail()}"
                if self._stop.wait(_PROBE_INTERVAL_S):
                    break
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            self.spec.after()
        # Whoever is killed says nothing of it: the last error in its log is of something that it had lived through.
        said = f" (log: {self.log})" if code == -signal.SIGKILL else self._tail()
        return f"{self.spec.name} ended {_how(code)}{said}"

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        nice = ("--nice", str(self.spec.niceness)) if self.spec.niceness else ()
        with self.log.open("ab") as log:
            self._log_begin = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LEASH), *nice, str(os.getpid()), *self.spec.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.spec.cwd,
                env={**os.environ, **self.spec.env},
                start_new_session=True,  # Ctrl-C in a terminal is for the supervisor, which stops parts in order
            )
        self._process = process
        self.pid = process.pid
        self.create_time = create_time(process.pid)
        self.ready_info = {}
        self._set(State.STARTING)
        return process

    def _tail(self) -> str:
        """What the process itself said last about its end, and where the rest is: its last line that looks like an
        error, else its last line that says something."""
        try:
            size = self.log.stat().st_size
            begin = self._log_begin if self._log_begin <= size else 0  # the log was bounded meanwhile
            with self.log.open("rb") as file:
                file.seek(max(begin, size - 20_000))
                lines = _CONTROL.sub("", file.read().decode("utf-8", "replace")).splitlines()
        except OSError:
            lines = []
        telling = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("at ")]
        bad = [line for line in telling if _BAD_NEWS.search(line) and not _NO_NEWS.search(line)]
        last = f": {(bad or telling)[-1][:300]}" if telling else ""
        return f"{last} (log: {self.log})"


def _how(code: int) -> str:
    if code < 0:
        try:
            return f"by {signal.Signals(-code).name}"
        except ValueError:
            return f"by signal {-code}"
    return f"with exit code {code}"


def create_time(pid: int) -> float | None:
    """When the process was started, which together with its pid names it; None when it is gone."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def same_process(pid: int | None, created: float | None) -> psutil.Process | None:
    """The process that a record means, if it still runs; never another one that got its pid."""
    if not pid or created is None:
        return None
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) < 0.05 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except psutil.Error:
        pass
    return None
