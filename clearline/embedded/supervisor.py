"""Keeps a group of child processes running and says what they do: the machine behind `Stack`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from clearline.embedded.folder import DataFolder
from clearline.embedded.process import Child, ProcessSpec, State
from schemas.errors import ClearlineError

_LOG_CHECK_S = 5.0


class Supervisor:
    """Children by name. `on_change` is called after every change of a state, from any thread."""

    def __init__(self, folder: DataFolder, on_change: Callable[[], None]) -> None:
        self._folder = folder
        self._on_change = on_change
        self._children: dict[str, Child] = {}
        self._ended = threading.Event()
        self._janitor = threading.Thread(target=self._bound_logs, name="bound-logs", daemon=True)

    def add(self, specs: Iterable[ProcessSpec]) -> list[Child]:
        """Starts children, all at once."""
        if not self._janitor.is_alive():
            self._janitor.start()
        fresh = [Child(spec, self._folder.logs / f"{spec.name}.log", self._on_change, []) for spec in specs]
        for child in fresh:
            self._children[child.spec.name] = child
        for child in fresh:
            child.start()
        return fresh

    def wait_ready(self, children: list[Child]) -> None:
        """Waits until each has come up once. Raises ClearlineError as soon as one has failed."""
        while True:
            waiting = [c for c in children if not c.wait_settled(0)]
            for child in children:
                if child.state in (State.FAILED, State.STOPPED):
                    raise ClearlineError(child.error or f"{child.spec.name} was stopped while it started")
            if not waiting:
                return
            waiting[0].wait_settled(0.05)

    def child(self, name: str) -> Child:
        """One child. Raises ClearlineError for an unknown name."""
        try:
            return self._children[name]
        except KeyError:
            known = ", ".join(self._children) or "nothing"
            raise ClearlineError(f"{name} is not part of this stack; it runs {known}") from None

    def describe(self) -> dict[str, dict[str, Any]]:
        """All children, as run.json has them."""
        return {name: child.describe() for name, child in list(self._children.items())}

    def stop(self, names: Iterable[str]) -> None:
        """Stops some children together and waits until they are gone."""
        stopping = [self._children[n] for n in names if n in self._children]
        for child in stopping:
            child.stop()
        for child in stopping:
            child.join()

    def forget(self, name: str) -> None:
        """Drops a stopped child, so that a spec of the same name can be added."""
        self._children.pop(name, None)

    def kill(self, name: str, sig: int = signal.SIGKILL) -> None:
        """Sends a signal to a child; supervision goes on and starts it again when it ends."""
        self.child(name).signal(sig)

    def wait_restarted(self, name: str, restarts: int, timeout_s: float) -> None:
        """Waits until the child serves after more than `restarts` restarts. Raises ClearlineError at the deadline."""
        child, deadline = self.child(name), time.monotonic() + timeout_s
        while child.restarts <= restarts or child.state is not State.READY:
            if time.monotonic() > deadline:
                raise ClearlineError(f"{name} is {child.state} after {timeout_s:.0f} s: {child.error or 'no error'}")
            time.sleep(0.02)

    def close(self) -> None:
        """Ends the thread that bounds the logs."""
        self._ended.set()

    def _bound_logs(self) -> None:
        while not self._ended.wait(_LOG_CHECK_S):
            with suppress(OSError):  # on a full disk, until there is room again
                self._folder.bound_logs()
