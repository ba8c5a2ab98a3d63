"""Three brokers from docker-compose.yml's settings (three copies, two before it is acknowledged), killed one at a time
under load: nothing lost, nothing doubled, nothing missing that was acknowledged.

    python -m tests.faults.brokers [--seed N] [--kills N] [--transactions N] [--rate N]

A broker is killed with kill -9, the other two take over, and it is started again; the next one dies when all copies are
in sync. Every role logs in as itself. Exit codes are those of `tests.faults.run`.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from clearline.connection import connect, registry_of
from schemas.errors import ClearlineError
from streams.topics import Topics
from tests.faults.plan import Plan, seed_or_drawn
from tests.faults.run import BACK_S, NOWHERE, WORKERS, FaultRun
from tests.faults.stack import fault_settings, wait_for
from tests.faults.watch import JournalWatch
from tests.kafka_cluster import Cluster, OwnNames, compose_environment


class BrokersRun(FaultRun):
    """One run. `kills`: how many brokers die, one after another."""

    def __init__(self, plan: Plan, data_dir: Path, kills: int, say: Callable[[str], None] = print) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        super().__init__(plan, data_dir / "unused", "settlement", say)
        self.data_dir = data_dir
        self.acks = data_dir / "acknowledged.txt"
        self.cluster = Cluster(data_dir / "brokers")
        self._deaths = kills
        self._rnd = random.Random(f"brokers {plan.seed}")

    def _start(self) -> None:
        self.cluster.start()
        self._note("three brokers serve")
        # As in docker-compose.yml: a call that waits for the next leader is slow, and does not hang.
        watchdog_s = float(compose_environment("worker-0", {})["CLEARLINE_SETTLEMENT__WATCHDOG_S"])
        plain = fault_settings(self.data_dir / "stack", settlement={"watchdog_s": watchdog_s}, **NOWHERE)
        self.cluster.prepare(Topics(plain.world), plain.partitions)
        operator = self.cluster.settings(f"{plain.world}.operator")
        stack = OwnNames(self.cluster, plain.model_copy(update={"kafka": operator}), ("registry",))
        self.stack = stack
        stack.start()
        registry_of(stack.resolved()).register_all()
        stack.start_roles(list(WORKERS))
        self.settings = stack.as_role("operator")
        self.link = connect(self.settings)
        self._watch = JournalWatch(self.link.kafka, self.link.topics.journal)
        self.watch.start()
        self._note("the stack serves")

    def _both_tracks(self, publisher: subprocess.Popen[bytes]) -> None:
        last = 0
        for n in range(self._deaths):
            time.sleep(self._rnd.uniform(0.2, 2.0))
            node = self._rnd.choice([x for x in self.cluster.nodes if x != last])
            try:
                self._one_dies(node)
            except (ClearlineError, TimeoutError) as e:
                self.report.late.append(f"death {n + 1}, of broker {node}: {e}")
                self._given_up.set()
                return
            if publisher.poll() is not None:
                self.report.problems.append(f"the publisher ended early, with exit code {publisher.returncode}")
                return
            last = node

    def _one_dies(self, node: int) -> None:
        self.stack.killed[f"broker {node}"] += 1
        began, moment = time.monotonic(), time.time_ns() // 1_000_000
        self.cluster.kill(node)
        self._settles_everywhere(moment)
        self._sample("one of three brokers killed", time.monotonic() - began)
        self.cluster.start_node(node)
        took = self.cluster.wait_ready([node], BACK_S)
        took += wait_for("all copies to be in sync", self.cluster.in_sync, BACK_S, 0.2)
        self._sample("broker back in sync", took)
        self._note(f"broker {node} was killed and is back")

    def _stop(self) -> None:
        try:
            super()._stop()
        finally:
            self.cluster.stop()


def ci_plan(seed: int) -> Plan:
    """What every run of the tests does."""
    return Plan(seed, 250, 3_000, (), ())


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.brokers", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="repeats a run; random and printed when not given")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--transactions", type=int, default=3_000, help="at least so many")
    parser.add_argument("--rate", type=int, default=250, help="transactions a second")
    parser.add_argument("--data-dir", type=Path, help="kept afterwards; a folder of its own, removed, when not given")
    options = parser.parse_args(arguments)
    seed = seed_or_drawn(options.seed)
    plan = Plan(seed, options.rate, options.transactions, (), ())
    with tempfile.TemporaryDirectory(prefix="clearline-brokers-") as scratch:
        report = BrokersRun(plan, options.data_dir or Path(scratch), options.kills).run()
    for line in report.lines():
        print(line, flush=True)
    return 0 if report.ok else 1 if not report.exact else 3


if __name__ == "__main__":
    sys.exit(main())
