"""A rolling change of versions under load: every role from an earlier revision to this one, and back.

    python -m tests.faults.upgrade --from REV [--transactions N] [--rate R] [--seed N]

REV is any revision of this repository; its roles run from a worktree of it, with their own environment variables and
the schemas that they know. The order is that of docs/production.md: `clearline prepare` of the new version first, then
the workers one after the other, then the rest; on the way back the same without `prepare`, because nothing that was
made is taken away. The load is transactions that both versions know. At the end the auditor of this version recomputes
all of it. Prints each step with how long a command waited at most; exit code 1 when anything was lost, doubled,
wrong, or when a role of either version died.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clearline.audit.tieout import tieout
from clearline.audit.verify import verify
from clearline.config import load_settings, settings_env
from clearline.connection import Connection, connect
from clearline.drive import Drive
from clearline.embedded.process import ProcessSpec
from clearline.generator import generate
from clearline.generator_shelf import shelf_of
from clearline.outcomes import OutcomeTail
from clearline.preparing import plan, prepare
from clearline.stack import CHECKOUT, Stack
from streams.reader import LogReader, end_offsets
from tests.faults.stack import wait_for

ROLES = ("worker-0", "worker-1", "sink-clickhouse", "sink-redis", "sealer")
CAUGHT_UP_S = 180.0
ASK = "import json; from clearline.config import variables; print(json.dumps(sorted(variables())))"
PREPARE = "from clearline import bootstrap, config; bootstrap.prepare_world(config.load_settings()); print('prepared')"


@contextmanager
def worktree(revision: str, folder: Path) -> Iterator[Path]:
    """A checkout of a revision, gone at the end."""
    tree = folder / "earlier"
    subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(tree), revision], cwd=CHECKOUT, check=True)
    try:
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=CHECKOUT, check=False)


class TwoVersions(Stack):
    """A stack whose roles run from the tree that is `at` for them; the parts are this version's."""

    def __init__(self, settings: Any, earlier: Path) -> None:
        super().__init__(settings)
        self.earlier = earlier
        self.of_earlier: set[str] = set()
        known = subprocess.run(
            [sys.executable, "-c", ASK],
            cwd=earlier,
            env=self._env_of(earlier),
            capture_output=True,
            text=True,
            check=True,
        )
        self._known = set(json.loads(known.stdout))

    @staticmethod
    def _env_of(tree: Path) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}

    def _role_spec(self, name: str) -> ProcessSpec:
        spec = super()._role_spec(name)
        if name not in self.of_earlier:
            return spec
        env = {k: v for k, v in spec.env.items() if not k.startswith("CLEARLINE_") or k in self._kept}
        return replace(spec, cwd=self.earlier, env={**env, "PYTHONPATH": str(self.earlier)})

    @property
    def _kept(self) -> set[str]:
        return self._known | {"CLEARLINE_READY_FILE", "CLEARLINE_CONFIG"}

    def prepare_earlier(self) -> None:
        """The earlier version prepares the world, as it did when it was the only one."""
        env = {k: v for k, v in settings_env(self.resolved()).items() if k in self._kept}
        done = subprocess.run(
            [sys.executable, "-c", PREPARE], cwd=self.earlier, env={**self._env_of(self.earlier), **env},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"the earlier version cannot prepare the world: {done.stderr[-2000:]}")

    def change(self, role: str, *, earlier: bool) -> None:
        """Stops a role and starts it from the other tree."""
        self.stop_one(role)
        (self.of_earlier.add if earlier else self.of_earlier.discard)(role)
        self.start_one(role)


class Lateness:
    """How late outcomes are: from the broker's time of a command to the moment at which its outcome can be read."""

    def __init__(self, system: Connection) -> None:
        self.seen = 0
        self.worst_ms = 0
        self._system = system
        self._start = end_offsets(system.kafka, system.topics.journal)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="lateness", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        with LogReader(self._system.kafka, self._system.topics.journal, self._start) as reader:
            while not self._ended.is_set():
                found = reader.poll(1_000, 0.05)
                now_ms = int(time.time() * 1000)
                for r in found:
                    self.worst_ms = max(self.worst_ms, now_ms - r.timestamp_ms)
                self.seen += len(found)

    def take(self) -> tuple[int, float]:
        """Outcomes since the last time, and the seconds of the one that was waited for longest."""
        found = self.seen, self.worst_ms / 1000
        self.seen, self.worst_ms = 0, 0
        return found

    def close(self) -> None:
        self._ended.set()
        self._thread.join(30)


@dataclass(slots=True)
class Outcome:
    """What a run found."""

    revision: str
    steps: list[tuple[str, int, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    commands: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems

    def lines(self) -> list[str]:
        steps = [said(*step) for step in self.steps]
        end = "nothing lost, doubled or wrong" if self.ok else "; ".join(self.problems)
        return [f"from {self.revision} and back, {self.commands} commands:", *steps, end]


def said(what: str, outcomes: int, worst_s: float) -> str:
    return f"  {what}: {outcomes} outcomes, the slowest after {worst_s:.1f} s"


def run(revision: str, transactions: int, rate: float, seed: int, folder: Path, say: Callable[[str], None]) -> Outcome:
    """Goes up and back under load. Raises ClearlineError when a stack cannot be started at all."""
    with worktree(revision, folder) as tree:
        settings = load_settings(world="upgrade", data_dir=folder / "data", partitions=4, workers=2)
        with TwoVersions(settings, tree) as stack:
            return _Run(stack, Outcome(revision), transactions, rate, seed, say).run()


class _Run:
    def __init__(
        self,
        stack: TwoVersions,
        outcome: Outcome,
        transactions: int,
        rate: float,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self.stack, self.outcome, self.say = stack, outcome, say
        self._transactions, self._rate, self._seed = transactions, rate, seed
        self._failed: list[BaseException] = []
        self._setup = 200  # outcomes of the setup, at least: the day begins after them

    def run(self) -> Outcome:
        stack = self.stack
        stack.start()
        stack.prepare_earlier()
        stack.of_earlier = set(ROLES)
        stack.start_roles(list(ROLES))
        self.say("the earlier version serves; this version prepares the world beside it")
        settings = stack.resolved()
        missing = plan(settings, {})
        self.say("\n".join(f"  {s.part}: {s.what}" for s in missing) or "  nothing is new")
        prepare(settings, {})
        self._late = Lateness(connect(settings))
        load = threading.Thread(target=self._load, name="load")
        load.start()
        wait_for("the load runs", lambda: self._late.seen > self._setup or bool(self._failed), 240)
        self._late.take()
        for earlier, way in ((False, "up"), (True, "back"), (False, "up again")):
            for role in ROLES:
                if not self._failed:
                    stack.change(role, earlier=earlier)
                    self._note(f"{role} {way}")
        load.join(self._transactions / self._rate + CAUGHT_UP_S)
        self._late.close()
        self.outcome.problems += [f"the load ended: {e}" for e in self._failed]
        self._judge()
        return self.outcome

    def _note(self, what: str) -> None:
        outcomes, worst_s = self._late.take()
        self.outcome.steps.append((what, outcomes, worst_s))
        self.say(said(what, outcomes, worst_s))

    def _load(self) -> None:
        try:
            system = connect(self.stack.resolved())
            items = generate(
                self._seed, self._transactions, partners_max=20, accounts_max=300, products=shelf_of(self._seed)
            )
            with OutcomeTail(system.kafka, system.topics, system.codec) as tail:
                day_s = self._transactions / self._rate
                figures = Drive(system, tail, stall_s=90).run(items, day_s=day_s)
            self.outcome.commands = figures.submitted
            self.outcome.problems += [f"unexpected: {s}" for s in figures.surprises]
        except BaseException as e:
            self._failed.append(e)

    def _judge(self) -> None:
        settings = self.stack.resolved()
        for role in ROLES:
            if self.stack.restarts(role):
                self.outcome.problems.append(f"{role} died and was started again")
        verdict = verify(settings, drained=False)
        if not verdict.ok:
            self.outcome.problems += verdict.lines()
        deadline = time.monotonic() + CAUGHT_UP_S
        while not (tie := tieout(settings)).ok:
            if time.monotonic() > deadline:
                self.outcome.problems += tie.lines()
                break
            time.sleep(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="revision", required=True)
    parser.add_argument("--transactions", type=int, default=12_000)
    parser.add_argument("--rate", type=float, default=200.0, help="commands a second, on average")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    given = parser.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)

    say(f"seed {given.seed}")
    with tempfile.TemporaryDirectory(prefix="clearline-upgrade-") as folder:
        done = run(given.revision, given.transactions, given.rate, given.seed, Path(folder), say)
    for line in done.lines():
        say(line)
    return 0 if done.ok else 1


if __name__ == "__main__":
    sys.exit(main())
