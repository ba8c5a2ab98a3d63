"""A seeded world clock: tasks are greenlets, time is virtual, and whatever waits is woken in the order of that time.

The code under test is ordinary blocking code. Where it calls a client, the client's stand-in lets some virtual time
pass, and meanwhile others run; so which step meets which is decided by the latencies that the seed draws.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

from greenlet import getcurrent, greenlet

FOREVER = 1e12


class Killed(BaseException):
    """The process of this task was killed: nothing that it still does has any effect."""


class Process:
    """Something that is killed and paused as a whole. `steps` counts its calls; at `kill_at` and `pause_at` it meets
    its fate, in the middle of whatever it is doing."""

    def __init__(self, sim: Scheduler, name: str) -> None:
        self.sim = sim
        self.name = name
        self.dead = False
        self.paused = False
        self.tasks: list[Task] = []
        self.held: list[tuple[Task, int]] = []
        self.steps = 0
        self.kill_at = self.pause_at = 0
        self.pause_s = 0.0
        self.pause_on = ""  # a step by its name, instead of its number
        self.on_down: list[Callable[[], None]] = []  # told when it is killed or paused

    def alive(self) -> bool:
        return not self.dead and not self.paused

    def kill(self) -> None:
        """SIGKILL: memory is gone at once, what is on the network already goes on."""
        if self.dead:
            return
        self.dead = True
        self.sim.note(f"{self.name} is killed")
        self._down()
        self.sim.later(0, self.unwind)

    def unwind(self) -> None:
        """Ends its tasks; they were told that it is dead."""
        for task in self.tasks:
            if task.run:  # it has begun and not ended
                self.sim.task = task
                task.run.throw(Killed)
        self.sim.task = None

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so many seconds."""
        if not self.alive():
            return
        self.paused = True
        self.sim.note(f"{self.name} is paused for {seconds:.2f} s")
        self._down()
        self.sim.later(seconds, self.resume)

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.sim.note(f"{self.name} goes on")
            for task, token in self.held:
                self.sim.push(0, task, token)
            self.held.clear()

    def _down(self) -> None:
        for tell in self.on_down:
            tell()

    def spawn(self, name: str, body: Callable[[], Any], delay_s: float = 0) -> Task:
        task = Task(self, f"{self.name}/{name}", body)
        self.tasks.append(task)
        self.sim.push(delay_s, task, task.token)
        return task


class Task:
    """One thread of a process."""

    __slots__ = ("name", "process", "run", "token")

    def __init__(self, process: Process, name: str, body: Callable[[], Any]) -> None:
        self.process = process
        self.name = name
        self.token = 0

        def guarded() -> None:
            try:
                body()
            except Killed:
                return

        self.run: Any = greenlet(guarded)


class Scheduler:
    """The clock. `now`: virtual seconds since the start; `random`: the seed's own choices of time."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.random = Random(f"time {seed}")
        self.now = 0.0
        self.events = 0
        self.trace: list[str] | None = [] if trace else None
        self._heap: list[tuple[float, int, Any, int]] = []
        self._order = 0
        self._main = getcurrent()
        self.task: Task | None = None

    def note(self, text: str) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.now:9.4f} {text}")

    # ---- what tasks call ---------------------------------------------------------------------------------------------

    @property
    def process(self) -> Process:
        assert self.task is not None, "only a task can call this"
        return self.task.process

    def step(self, what: str) -> None:
        """A place where the process may be killed or paused; costs no time."""
        process = self.process
        if process.dead:
            raise Killed
        process.steps += 1
        if process.steps == process.kill_at:
            self.note(f"{process.name} at {what}")
            process.kill()
            raise Killed
        if process.steps == process.pause_at or what == process.pause_on:
            process.pause_on = ""
            self.note(f"{process.name} at {what}")
            process.pause(process.pause_s)
            self.sleep(0)

    def call(self, what: str, slowest_s: float = 0.004) -> None:
        """A call to a server: a step, and a little time, now and then much more."""
        self.step(what)
        r = self.random.random()
        self.sleep(slowest_s * r * r if r < 0.97 else slowest_s * 20 * self.random.random())

    def sleep(self, seconds: float) -> None:
        """Lets virtual time pass."""
        self.block(seconds)

    def block(self, timeout_s: float) -> bool:
        """Waits to be woken; False when the time ran out first."""
        task = self.task
        assert task is not None
        if task.process.dead:
            raise Killed
        token = task.token
        self.push(timeout_s, task, token)
        self._main.switch()
        woken = task.token != token
        if task.process.dead:
            raise Killed
        return woken

    # ---- what everybody calls ----------------------------------------------------------------------------------------

    def push(self, delay_s: float, what: Any, token: int = 0) -> None:
        self._order += 1
        heappush(self._heap, (self.now + delay_s, self._order, what, token))

    def later(self, delay_s: float, what: Callable[[], None]) -> None:
        """Calls `what` after so many virtual seconds, outside of any process."""
        self.push(delay_s, what)

    def wake(self, task: Task, delay_s: float = 0.0) -> None:
        """Wakes a blocked task."""
        task.token += 1
        self.push(delay_s, task, task.token)

    def run(self, done: Callable[[], bool], until_s: float) -> bool:
        """Runs until `done` (asked after every event) or a virtual time; False when the time came first."""
        while self._heap and not done():
            at, _, what, token = self._heap[0]
            if at > until_s:
                self.now = until_s
                return False
            heappop(self._heap)
            self.now = at
            if not isinstance(what, Task):
                self.events += 1
                what()
                continue
            if token != what.token or what.process.dead or what.run.dead:
                continue
            if what.process.paused:
                what.process.held.append((what, token))
                continue
            self.events += 1
            self.task = what
            what.run.switch()
            self.task = None
        return done()


class Event:
    """threading.Event on this clock."""

    def __init__(self, sim: Scheduler) -> None:
        self._sim = sim
        self._set = False
        self._waiting: list[Task] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for task in self._waiting:
            self._sim.wake(task)
        self._waiting.clear()

    def wait(self, timeout_s: float = FOREVER) -> bool:
        if not self._set:
            task = self._sim.task
            assert task is not None
            self._waiting.append(task)
            self._sim.block(timeout_s)
            if task in self._waiting:
                self._waiting.remove(task)
        return self._set


class Time:
    """The module `time` on this clock."""

    def __init__(self, sim: Scheduler, epoch_s: float) -> None:
        self._sim = sim
        self._epoch_s = epoch_s

    def monotonic(self) -> float:
        return self._sim.now

    perf_counter = monotonic

    def time(self) -> float:
        return self._epoch_s + self._sim.now

    def sleep(self, seconds: float) -> None:
        self._sim.step("sleep")
        self._sim.sleep(seconds)
