"""The real stack with a hand on it: roles can be started with a fail point armed, and every kill is counted."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from clearline.config import Settings, load_settings
from clearline.embedded.process import ProcessSpec, State
from clearline.stack import Stack
from schemas.errors import ClearlineError
from schemas.failpoints import VARIABLE

READY_S = 90.0


def wait_for(what: str, met: Callable[[], bool], timeout_s: float, every_s: float = 0.05) -> float:
    """Waits for a condition; returns how many seconds it took. Raises TimeoutError with `what` at the deadline."""
    began = time.monotonic()
    while not met():
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(every_s)
    return time.monotonic() - began


class FaultStack(Stack):
    """A stack whose roles can be killed at named points. `killed` counts kills by name of the part or role."""

    def __init__(self, settings: Settings, parts: Iterable[str] | None = None) -> None:
        super().__init__(settings, parts)
        self.killed: Counter[str] = Counter()
        self._armed: dict[str, list[str]] = {}
        self._environments: dict[str, dict[str, str]] = {}

    def _role_spec(self, name: str) -> ProcessSpec:
        spec = super()._role_spec(name)
        env = self._environments[name] = dict(spec.env)
        orders = self._armed.setdefault(name, [])
        before = spec.before

        def prepare() -> None:
            before()
            env[VARIABLE] = orders.pop(0) if orders else ""

        # Killed again and again on purpose, a role must not be taken for one that cannot start, nor be made to wait.
        return replace(spec, env=env, before=prepare, starts_max=20, backoff_max_s=0.2)

    def arm(self, name: str, point: str, hit: int = 1) -> None:
        """The next start of this role has a fail point armed: it kills itself at the `hit`-th time it comes by."""
        self._armed.setdefault(name, []).append(f"{point}=kill@{hit}")

    def shoot(self, name: str) -> int:
        """kill -9, now. Returns how often it had been restarted before."""
        before = self.restarts(name)
        self.kill(name, signal.SIGKILL)
        self.killed[name] += 1
        return before

    def _restarted(self, name: str, times: int) -> bool:
        return self.restarts(name) >= times

    def end(self, name: str, sig: int) -> None:
        """Sends a signal to a role that is about to be stopped, whatever it does at the moment. It counts as killed."""
        child = self._supervisor.child(name)
        if child.pid is not None and child.state in (State.STARTING, State.READY):
            self.killed[name] += 1
            with suppress(ClearlineError):  # it ended in this moment
                child.signal(sig)

    def forget(self, name: str) -> None:
        """Forgets a role that was stopped, so that it can begin again."""
        self._supervisor.forget(name)

    def pause(self, name: str) -> int:
        """SIGSTOP. Returns the pid to continue with `signal.SIGCONT`."""
        pid = self.pid(name)
        self.kill(name, signal.SIGSTOP)
        return pid

    def serves(self, name: str) -> bool:
        """Whether it runs and said that it is ready."""
        return self._supervisor.child(name).state is State.READY

    def figures(self, name: str) -> dict[str, Any]:
        """What a role last wrote into its ready file; empty while there is none."""
        try:
            found = json.loads((self.folder.ready / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def kill_at(self, name: str, *points: str, hit: int = 1, timeout_s: float = 60.0) -> None:
        """Kills the role, starts it armed, and waits until it has died at the point and serves again; of several points,
        each start after a death has the next one armed.

        A kill at any moment, then one exactly at each point. Raises TimeoutError when it does not come by one in time.
        """
        for point in points:
            self.arm(name, point, hit)
        before = self.shoot(name)
        for deaths, point in enumerate(points, before + 2):
            wait_for(f"{name} to die at {point}", partial(self._restarted, name, deaths), timeout_s)
            self.killed[f"{name} at {point}"] += 1
        wait_for(f"{name} to serve after {', '.join(points)}", lambda: self.serves(name), READY_S)


def fault_settings(data_dir: Path, **overrides: Any) -> Settings:
    """Settings of a world of its own on free ports: four partitions, two workers."""
    return load_settings(data_dir=data_dir, world="faults", partitions=4, workers=2, **overrides)
