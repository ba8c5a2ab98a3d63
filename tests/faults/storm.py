"""A rebalance storm: workers 1-4-1 every few seconds under load; nothing lost, and how long settlement stood still.

    python -m tests.faults.storm [--seed N] [--seconds N] [--every S] [--rate N]

Worker 0 stays. Every `--every` seconds three more come, or go: by SIGTERM one time, by kill -9 the next; they do not go
before one of them has a partition, which takes longer where many others want the processor. The longest gap of a
partition is the longest time in which no outcome of it appeared although commands did; it passes at the session timeout
plus ten seconds. Exit codes are those of `tests.faults.run`.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from clearline.connection import connect, kafka_config, registry_of
from streams.topics import Topics, create_topics
from tests.faults.plan import Plan, seed_or_drawn
from tests.faults.run import BACK_S, NOWHERE, SETTLEMENT_PARTS, FaultRun
from tests.faults.stack import FaultStack, fault_settings, wait_for
from tests.faults.watch import JournalWatch

GUESTS = ("worker-1", "worker-2", "worker-3")
GRACE_S = 10.0
_LOOK_S = 0.02


class Gaps:
    """How long each partition goes without a new outcome, while it is measured. Seconds."""

    def __init__(self, watch: JournalWatch, partitions: int) -> None:
        self._watch = watch
        self._ended = threading.Event()
        self.longest = dict.fromkeys(range(partitions), 0.0)
        self._thread = threading.Thread(target=self._look, name="gaps", daemon=True)

    def start(self) -> None:
        """From now on."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, and counts what goes on as a gap that ends now."""
        self._ended.set()
        self._thread.join(10)

    def _look(self) -> None:
        seen = dict(self._watch.latest)
        at = dict.fromkeys(self.longest, time.monotonic())
        while True:
            ended, now = self._ended.wait(_LOOK_S), time.monotonic()
            for p in self.longest:
                self.longest[p] = max(self.longest[p], now - at[p])
                if self._watch.latest.get(p) != seen.get(p):
                    seen[p], at[p] = self._watch.latest[p], now
            if ended:
                return


class StormRun(FaultRun):
    """One run. `seconds`: how long the storm lasts; `every_s`: from one change to the next."""

    def __init__(
        self, plan: Plan, data_dir: Path, seconds: float, every_s: float = 5.0, say: Callable[[str], None] = print
    ) -> None:
        super().__init__(plan, data_dir, "settlement", say)
        settings = fault_settings(data_dir, **NOWHERE).model_copy(update={"workers": 1 + len(GUESTS)})
        self.stack = FaultStack(settings, SETTLEMENT_PARTS)
        self.session_s = settings.settlement.session_timeout_ms / 1000
        self.changes = 0
        self.shared = 0  # times that guests had got partitions before they went: else there was no storm
        self.longest_s = 0.0
        self._lasts_s, self._every_s = seconds, every_s

    def _start(self) -> None:
        self.stack.start()
        settings = self.settings = self.stack.resolved()
        create_topics(kafka_config(settings), Topics(settings.world), settings.partitions)
        registry_of(settings).register_all()
        self.stack.start_roles(["worker-0"])
        self.link = connect(settings)
        self._watch = JournalWatch(self.link.kafka, self.link.topics.journal)
        self.watch.start()
        self._note("one worker serves")

    def _both_tracks(self, publisher: subprocess.Popen[bytes]) -> None:
        self._settles_everywhere()
        gaps = Gaps(self.watch, self.settings.partitions)
        gaps.start()
        ends = time.monotonic() + self._lasts_s
        many = False
        while time.monotonic() < ends:
            changed = time.monotonic()
            if many:
                self._they_go(self.changes % 4 == 3)
            else:
                self._they_come()
                wait_for("one that came to get a partition", lambda: self._guests_hold() > 0, BACK_S)
            many, self.changes = not many, self.changes + 1
            self._given_up.wait(max(0.0, changed + self._every_s - time.monotonic()))
            if publisher.poll() is not None:
                self.report.problems.append(f"the publisher ended early, with exit code {publisher.returncode}")
                break
        self._settles_everywhere()
        gaps.stop()
        if many:
            self._they_go(False)
        self.longest_s = max(gaps.longest.values())
        told = ", ".join(f"{p}: {s:.1f} s" for p, s in gaps.longest.items())
        self._note(f"{self.changes} changes of 1 and 4 workers; longest gap {self.longest_s:.1f} s ({told})")
        if not self.shared:
            self.report.problems.append("no worker that came ever got a partition before it went: a longer --every")
        if self.longest_s > self.session_s + GRACE_S:
            self.report.late.append(f"settlement stood still for {self.longest_s:.1f} s")

    def _guests_hold(self) -> int:
        """How many partitions those that serve say that they have; what a process before said is not asked."""
        return sum(len(self._held(name)) for name in GUESTS if self.stack.serves(name))

    def _they_come(self) -> None:
        for name in GUESTS:
            self.stack.forget(name)
        self.stack.begin_roles(list(GUESTS))
        self._note("four workers")

    def _they_go(self, killed: bool) -> None:
        held = self._guests_hold()
        self.shared += held > 0
        if killed:
            for name in GUESTS:
                self.stack.end(name, signal.SIGKILL)
        for name in GUESTS:
            self.stack.stop_one(name)
        self._note(f"one worker, three {'killed' if killed else 'stopped'} that had {held} partitions")


def ci_plan(seed: int) -> Plan:
    """The load of the short run."""
    return Plan(seed, 300, 3_000, (), ())


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.storm", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="repeats a run; random and printed when not given")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds from a change to the next")
    parser.add_argument("--rate", type=int, default=400, help="transactions a second")
    options = parser.parse_args(arguments)
    seed = seed_or_drawn(options.seed)
    plan = Plan(seed, options.rate, int(options.rate * options.seconds), (), ())
    with tempfile.TemporaryDirectory(prefix="clearline-storm-") as scratch:
        run = StormRun(plan, Path(scratch) / "data", options.seconds, options.every)
        report = run.run()
    for line in report.lines():
        print(line, flush=True)
    bound = run.session_s + GRACE_S
    gap = f"longest gap in settlement {run.longest_s:.1f} s (passes at {bound:.0f} s)"
    print(f"{run.changes} changes, {run.shared} times partitions came back from workers that went; {gap}", flush=True)
    return 0 if report.ok else 1 if not report.exact else 3


if __name__ == "__main__":
    sys.exit(main())
