"""Replay at length, on a real broker under traffic: the same hash twice, K known transactions, kill -9, cancel, resume.

    python -m tests.faults.replay [--events N] [--kills N] [--every N] [--seed N]

Prints the plan, what each part took, and the verdict; exit code 1 when anything was not as it must be.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clearline.config import Settings, settings_env
from clearline.connection import Connection, connect, kafka_config, registry_of
from clearline.product_file import read_product
from clearline.replay import diff, live, run
from clearline.replay.plan import Plan, write_plan
from clearline.replay.run import CancelledError, Run
from clearline.replay.selection import Selection
from clearline.replay.session import Session, open_session
from clearline.stack import python_path
from streams.reader import committed_offsets, end_offsets
from streams.topics import Topics, create_topics
from tests.faults.run import NOWHERE, SETTLEMENT_PARTS, WORKERS
from tests.faults.stack import FaultStack, fault_settings, wait_for
from tests.replay_world import commands, pay, wallet_document

PARTNERS = tuple(f"partner{i}" for i in range(24))
FREE, FEE = 1_000, 7


class ReplayRun:
    """One whole run. `problems`: what was not as it must be."""

    def __init__(self, folder: Path, events: int, kills: int, every: int, seed: int) -> None:
        self.folder, self.events, self.kills, self.every = folder, events, kills, every
        self.random = random.Random(seed)
        self.problems: list[str] = []
        self.stop = threading.Event()
        self.sent = 0

    def run(self) -> list[str]:
        """Does everything and stops the stack whatever happens; the problems."""
        stack = FaultStack(fault_settings(self.folder / "data", **NOWHERE), SETTLEMENT_PARTS)
        try:
            stack.start()
            settings = stack.resolved()
            create_topics(kafka_config(settings), Topics(settings.world), settings.partitions)
            registry_of(settings).register_all()
            stack.start_roles(list(WORKERS))
            self._all(settings, connect(settings))
        finally:
            self.stop.set()
            stack.stop()
        return self.problems

    def _all(self, settings: Settings, link: Connection) -> None:
        files = {name: self.folder / f"{name}.yaml" for name in ("now", "new")}
        files["now"].write_text(wallet_document(10**15, 0))
        files["new"].write_text(wallet_document(FREE, FEE))
        with self._timed(f"{self.events:,} transfers given and settled"):
            self._fill(link, read_product(files["now"]).text)
        traffic = threading.Thread(target=self._traffic, args=(link,))
        traffic.start()
        try:
            session = open_session(settings)
            plan, marks = session.plan(Selection())
            print("\n".join(plan.lines()), flush=True)
            self._twice(session, plan, marks)
            ruled, _ = session.plan(Selection(), [files["new"]])
            print("\n".join(ruled.lines()), flush=True)
            self._killed(session, settings, ruled)
            self._cancelled(session, plan)
        finally:
            self.stop.set()
            traffic.join()

    def _fill(self, link: Connection, document: str) -> None:
        with link.publisher(600.0) as publisher:
            for command in commands(document, PARTNERS, self.events, every=self.every, free=FREE):
                publisher.publish(command)
        topics = link.topics

        def settled() -> bool:
            ends = end_offsets(link.kafka, topics.submitted)
            done = committed_offsets(link.kafka, topics.group, topics.submitted)
            return all(done.get(p, 0) >= end - 100 for p, end in ends.items())  # the last offsets may be markers

        wait_for("the log to be settled", settled, 60 + self.events / 50, 1.0)

    def _traffic(self, link: Connection) -> None:
        with link.publisher() as publisher:
            while not self.stop.wait(0.01):
                payer, payee = PARTNERS[self.sent % 24], PARTNERS[(self.sent * 7 + 1) % 24]
                publisher.publish(pay(f"{payer}:purse", f"{payee}:box", 1 + self.sent % 50))
                self.sent += 1

    def _twice(self, session: Session, plan: Plan, marks: dict[int, live.Mark]) -> None:
        runs = []
        for n in (1, 2):
            before = self.sent
            one = run.begin(session.root, plan)
            with self._timed(f"replay {n} of {plan.commands:,} commands", plan.commands):
                summary = session.execute(one, lambda _: False, marks if n == 1 else None)
            runs.append(one)
            self._must(not diff.differs(summary), f"replay {n} differs from history")
            self._must(bool(one.found["live_untouched"]), f"replay {n}: the live hash changed")
            self._must(self.sent > before, f"no traffic during replay {n}")
            print(f"hash {summary['hash']}, live {one.found['live_before']} = {one.found['live_after']}", flush=True)
        self._must(runs[0].diff_path.read_bytes() == runs[1].diff_path.read_bytes(), "two replays, two results")

    def _killed(self, session: Session, settings: Settings, plan: Plan) -> None:
        """The what-if: once in one go, once killed again and again by signals at any moment."""
        whole = run.begin(session.root, plan)
        with self._timed(f"what-if of {plan.commands:,} commands", plan.commands):
            began = time.monotonic()
            summary = session.execute(whole, lambda _: False)
            took = time.monotonic() - began
        wanted = (self.events + self.every - 1) // self.every
        found = [summary[n] for n in ("transactions_changed", "direct", "consequent", "drift")]
        self._must(found == [wanted, wanted, 0, 0], f"the diff has {found}, must be {wanted} direct ones")
        print(f"the rule changes {found[0]:,} transactions, {wanted:,} are known", flush=True)
        write_plan(plan, self.folder / "plan.json")
        one = run.begin(session.root, plan)
        env = {**os.environ, **settings_env(settings), **python_path()}
        command = [sys.executable, "-m", "clearline", "replay", "resume", one.id, "--json"]
        for n in range(self.kills):
            process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(3 + self.random.uniform(0.1, 0.6) * took)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            known = run.find(session.root, one.id)
            print(f"kill -9 {n + 1}: {known.state} at {known.done:,} of {known.total:,}", flush=True)
            if known.state == run.DONE:
                break
        self._go_on(session, one)
        self._must(one.diff_path.read_bytes() == whole.diff_path.read_bytes(), "killed and resumed, another diff")

    def _go_on(self, session: Session, one: Run) -> None:
        known = run.find(session.root, one.id)
        if known.state != run.DONE:
            with self._timed(f"the rest after {known.done:,} commands"):
                session.execute(known, lambda _: False)

    def _cancelled(self, session: Session, plan: Plan) -> None:
        one, at = run.begin(session.root, plan), [0.0]

        def watch(r: Run) -> bool:
            if r.done > plan.commands // 3 and not at[0]:
                at[0] = time.monotonic()
                run.ask_to_cancel(session.root, r.id)
            return False

        marks = session.marks([t.partition for t in plan.tasks])
        try:
            session.execute(one, watch, marks)
            self._must(plan.commands < 20_000, "it was not cancelled")
        except CancelledError:
            print(f"cancelled at {one.done:,} after {time.monotonic() - at[0]:.1f} s", flush=True)
        eyes = session.eyes
        after = live.again(eyes.log, eyes.ground.codec, eyes.decode, marks, {})
        self._must(
            live.hash_of(after.values()) == live.hash_of(marks.values()), "a cancelled replay changed the ledger"
        )
        self._go_on(session, one)

    @contextmanager
    def _timed(self, what: str, count: int = 0) -> Iterator[None]:
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        rate = f", {count / took:,.0f}/s" if count else ""
        print(f"{what}: {took:.1f} s{rate}", flush=True)

    def _must(self, holds: Any, otherwise: str) -> None:
        if not holds:
            print(f"PROBLEM {otherwise}", flush=True)
            self.problems.append(otherwise)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--every", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clearline-replay-") as folder:
        logging.getLogger("clickhouse_driver").setLevel(
            logging.CRITICAL
        )  # there is no server here, and it tells at length
        problems = ReplayRun(Path(folder), given.events, given.kills, given.every, given.seed).run()
    print("replay: " + ("; ".join(problems) or "the same twice, exactly the K, killed and cancelled without a trace"))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
