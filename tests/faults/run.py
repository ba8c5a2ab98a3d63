"""The fault test: a real stack under load while its parts are killed, then the auditor's verdict on all of it.

    python -m tests.faults.run [--seed N] [--long] [--transactions N] [--kills N] [--only settlement|projections]

Prints the plan with its seed, every fault, the recovery times, and the verdict; exit code 1 when anything was lost,
doubled or wrong, 3 when the stack did not come back.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from redis import Redis

from clearline.audit.live import LiveLog
from clearline.audit.state import StateCheck
from clearline.audit.verdict import Findings, Verdict
from clearline.audit.verify import verify
from clearline.config import Settings, settings_env
from clearline.connection import connect
from clearline.embedded import leash
from clearline.lag import unsettled
from clearline.stack import python_path
from schemas.errors import ClearlineError, PartUnavailableError
from streams.reader import committed_offsets, end_offsets
from tests.faults.acks import check_acknowledged
from tests.faults.plan import Fault, Plan, ci_plan, long_plan, seed_or_drawn
from tests.faults.stack import FaultStack, fault_settings, wait_for
from tests.faults.watch import JournalWatch, percentile

BACK_S = 240.0  # a recovery takes seconds; a machine that does five other things at once takes minutes
DRAIN_S = 180.0
SETTLEMENT_PARTS = ("kafka", "registry")
WORKERS = ("worker-0", "worker-1")
LEASH = Path(leash.__file__)
NOWHERE = {"clickhouse": {"host": "127.0.0.1", "port": 1, "http_port": 1}, "redis": {"url": "redis://127.0.0.1:1/0"}}


@dataclass(slots=True)
class Report:
    """What a run found. `problems`: something acknowledged is missing or turned out otherwise; `late`: faults after which
    the stack did not come back in time; `recovery_s`: seconds from a fault to the next settlement, by kind; `logs`: how the
    log of each part and role ends, when it did not come back."""

    plan: Plan
    verdict: Verdict | None = None
    acknowledged: int = 0
    problems: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    recovery_s: dict[str, list[float]] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)
    logs: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.exact and not self.late

    @property
    def exact(self) -> bool:
        """Whether nothing was lost, doubled or wrong."""
        return not self.problems and self.verdict is not None and self.verdict.ok

    def lines(self) -> list[str]:
        out = list(self.verdict.lines()) if self.verdict else []
        out += [f"PROBLEM {p}" for p in self.problems[:20]] + [f"LATE {p}" for p in self.late[:20]]
        out += [f"{name}.log: {line}" for name, tail in self.logs.items() for line in tail]
        for kind, took in sorted(self.recovery_s.items()):
            p50, p95 = percentile(took, 50), percentile(took, 95)
            out.append(f"recovery after {kind}: p50 {p50:.1f} s, p95 {p95:.1f} s, {len(took)} times")
        kills = ", ".join(f"{name} {n}" for name, n in sorted(self.killed.items()))
        out.append(f"killed: {kills}")
        verdict = "0 lost, 0 doubled, 0 wrong" if self.exact else "NOT exactly once"
        verdict += f" (but {len(self.late)} times not back in time)" if self.late else ""
        out.append(
            f"{verdict}: seed {self.plan.seed}, {self.acknowledged} acknowledged, {sum(self.killed.values())} kills, "
            f"{self.seconds:.0f} s"
        )
        return out


class FaultRun:
    """One run of a plan. `only`: settlement leaves out ClickHouse, Redis and the sinks."""

    def __init__(self, plan: Plan, data_dir: Path, only: str = "", say: Callable[[str], None] = print) -> None:
        self.plan = plan
        self.only = only
        self.report = Report(plan)
        self.say = say
        self.full = only != "settlement"
        overrides = {} if self.full else NOWHERE
        self.stack = FaultStack(fault_settings(data_dir, **overrides), None if self.full else SETTLEMENT_PARTS)
        self._watch: JournalWatch | None = None
        self.acks = data_dir / "acknowledged.txt"
        self._given_up = threading.Event()  # what did not come back once would keep every later fault waiting as well
        self._began = time.monotonic()

    # ---- the whole run -----------------------------------------------------------------------------------------------

    def run(self) -> Report:
        """Does everything, and stops the stack whatever happens."""
        for line in self.plan.lines():
            self.say(line)
        try:
            self._start()
            publisher = self._publisher()
            try:
                self._both_tracks(publisher)
                if self._given_up.is_set():
                    return self.report
                self._end_publishing(publisher)
            finally:
                publisher.kill()
                publisher.wait()
            self._drain()
            self._judge()
        except (ClearlineError, TimeoutError) as e:
            self.report.late.append(f"{type(e).__name__}: {e}")
        finally:
            self.report.killed = self.stack.killed
            if self.report.late:
                self.report.logs = self._tails()
            self._stop()
            self.report.seconds = time.monotonic() - self._began
        return self.report

    @property
    def watch(self) -> JournalWatch:
        assert self._watch is not None
        return self._watch

    def _stop(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        self.stack.stop()

    def _start(self) -> None:
        self.stack.start(roles=True) if self.full else self._start_settlement()
        self.settings: Settings = self.stack.resolved()
        self.link = connect(self.settings)
        self._watch = JournalWatch(self.link.kafka, self.link.topics.journal)
        self.watch.start()
        self._note("the stack serves")

    def _start_settlement(self) -> None:
        from clearline.connection import kafka_config, registry_of
        from streams.topics import Topics, create_topics

        self.stack.start()
        settings = self.stack.resolved()
        create_topics(kafka_config(settings), Topics(settings.world), settings.partitions)
        registry_of(settings).register_all()
        self.stack.start_roles(list(WORKERS))

    def _publisher(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.faults.publisher", "--seed", str(self.plan.seed), "--rate",
                   str(self.plan.rate), "--least", str(self.plan.transactions), "--acks", str(self.acks)]  # fmt: skip
        env = {**os.environ, **settings_env(self.settings), **python_path()}
        leashed = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *command]  # it must not outlive this run
        publisher = subprocess.Popen(leashed, env=env)
        everywhere = list(range(self.settings.partitions))
        wait_for("the first settlements", lambda: self.watch.settled_since(0, everywhere), BACK_S)
        self._note("the load runs")
        return publisher

    def _both_tracks(self, publisher: subprocess.Popen[bytes]) -> None:
        tracks = [self.plan.settlement, self.plan.projections if self.full else ()]
        if self.only == "projections":
            tracks[0] = ()
        threads = [threading.Thread(target=self._track, args=(faults, publisher)) for faults in tracks]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    def _track(self, faults: tuple[Fault, ...], publisher: subprocess.Popen[bytes]) -> None:
        for fault in faults:
            if self._given_up.wait(fault.after_s):
                return
            if publisher.poll() is not None:
                self.report.problems.append(f"the publisher ended early, with exit code {publisher.returncode}")
                return
            began = time.monotonic()
            try:
                getattr(self, "_do_" + fault.kind.replace("-", "_"))(fault)
            except (ClearlineError, TimeoutError) as e:
                self.report.late.append(f"{fault}: {e}")
                self._given_up.set()
            self._note(f"{fault}: {time.monotonic() - began:.1f} s")

    def _end_publishing(self, publisher: subprocess.Popen[bytes]) -> None:
        publisher.send_signal(signal.SIGTERM)
        wait_for(
            "the publisher to end", lambda: publisher.poll() is not None, self.plan.transactions / 50 + BACK_S, 0.2
        )
        self._note("the load has ended")

    # ---- faults ------------------------------------------------------------------------------------------------------

    def _do_worker(self, fault: Fault) -> None:
        target = self._busy(fault.target)
        self._recover("worker kill -9", target, lambda: self.stack.shoot(target))

    def _do_worker_points(self, fault: Fault) -> None:
        self.stack.kill_at(self._busy(fault.target), *fault.points, hit=fault.hit, timeout_s=BACK_S)
        self._settles_everywhere()

    def _do_broker(self, _: Fault) -> None:
        began, moment = time.monotonic(), _now_ms()
        before = self.stack.shoot("kafka")
        self.stack.wait_restarted("kafka", before, BACK_S)
        self._settles_everywhere(moment)
        self._sample("broker kill -9", time.monotonic() - began)

    def _do_pause(self, fault: Fault) -> None:
        """A pause longer than the session: the other takes over, the zombie wakes up, then state is recovered."""
        zombie, other = fault.target, WORKERS[1 - WORKERS.index(fault.target)]
        held = self._held(zombie)
        moment = _now_ms()
        pid = self.stack.pause(zombie)
        try:
            deadline = time.monotonic() + fault.seconds
            if held:
                took = wait_for(f"{other} to take over {held}", lambda: self.watch.settled_since(moment, held), BACK_S)
                self._sample("a pause, by the other worker", took)
            wait_for("the end of the pause", lambda: time.monotonic() >= deadline, fault.seconds + 5)
        finally:
            os.kill(pid, signal.SIGCONT)
        self._settles_everywhere()
        self._recover("forced recovery", other, lambda: self.stack.shoot(other))
        self._no_stale_rows(fault)

    def _do_sink_points(self, fault: Fault) -> None:
        self.stack.kill_at(fault.target, *fault.points, timeout_s=BACK_S)

    def _do_rebuild(self, fault: Fault) -> None:
        self.stack.arm(fault.target, fault.points[0])
        before = self.stack.shoot(fault.target)
        self._flush_redis()
        wait_for(f"{fault}", lambda: self.stack.restarts(fault.target) >= before + 2, BACK_S)
        self.stack.killed[f"{fault.target} in a rebuild"] += 1
        wait_for(f"{fault.target} to serve", lambda: self.stack.serves(fault.target), BACK_S)

    def _do_clickhouse(self, fault: Fault) -> None:
        before = self.stack.shoot("clickhouse")
        self.stack.wait_restarted("clickhouse", before, BACK_S)

    def _do_flushall(self, _: Fault) -> None:
        self._flush_redis()

    def _flush_redis(self) -> None:
        with Redis.from_url(self.stack.addresses().redis_url) as redis:
            redis.flushall()

    # ---- what must hold after each -----------------------------------------------------------------------------------

    def _held(self, worker: str) -> list[int]:
        return [int(p) for p in self.stack.figures(worker).get("partitions", [])]

    def _busy(self, worker: str) -> str:
        """This worker, or the other one when this one holds no partition at the moment: nothing would be harmed."""
        return worker if self._held(worker) else WORKERS[1 - WORKERS.index(worker)]

    def _recover(self, kind: str, worker: str, harm: Callable[[], object]) -> None:
        """Harms a worker and takes the time until all partitions that it held settle again."""
        held = self._held(worker)
        began, moment = time.monotonic(), _now_ms()
        harm()
        wait_for(f"partitions {held} to settle again", lambda: self.watch.settled_since(moment, held), BACK_S)
        if held:
            self._sample(kind, time.monotonic() - began)
        wait_for(f"{worker} to serve again", lambda: self.stack.serves(worker), BACK_S)

    def _settles_everywhere(self, moment: int | None = None) -> None:
        since, everywhere = moment or _now_ms(), list(range(self.settings.partitions))
        wait_for("every partition to settle again", lambda: self.watch.settled_since(since, everywhere), BACK_S)

    def _no_stale_rows(self, fault: Fault) -> None:
        """The state topic must not hold an older row behind a newer one: nothing stale can win a recovery."""
        log, findings = LiveLog(self.link.kafka, self.link.topics, self.settings.partitions), Findings("state")
        for p in range(self.settings.partitions):
            StateCheck(p, findings).read(log, self.link.codec.decode)
        for difference in findings["state"].differences:
            self.report.problems.append(f"after {fault}: {difference}")

    def _sample(self, kind: str, seconds: float) -> None:
        self.report.recovery_s.setdefault(kind, []).append(seconds)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        kafka, topics = self.link.kafka, self.link.topics

        before: list[dict[int, int]] = [{}]

        def settled() -> bool:
            """Nothing waits, and nothing came since the last look: a command may have sent steps to other partitions."""
            ends = end_offsets(kafka, topics.submitted)
            steady, before[0] = ends == before[0], ends
            done = committed_offsets(kafka, topics.group, topics.submitted)
            return steady and not any(unsettled(kafka, topics.submitted, ends, done).values())

        wait_for("all commands to be settled", settled, DRAIN_S, 0.5)
        self.watch.stop()
        self._note("all commands are settled")
        if self.full:  # the auditor, told that all is drained, judges what a sink has only half written as well
            for sink in ("sink-clickhouse", "sink-redis"):
                wait_for(f"{sink} to have caught up", partial(self._caught_up, sink), DRAIN_S, 0.5)
            self._note("the sinks have caught up")

    def _caught_up(self, sink: str) -> bool:
        return self.stack.figures(sink).get("lag") == 0

    def _judge(self) -> None:
        """The auditor's verdict; while only a projection still lags, it is asked again."""
        deadline = time.monotonic() + DRAIN_S
        while True:
            self.report.verdict = verdict = verify(self.settings, drained=True, stores=self.full)
            lagging = {c.name for c in verdict.checks if not c.ok} <= {"clickhouse", "redis"}
            lag = sum(int(c.figures.get("lag", 0)) for c in verdict.checks if c.name in ("clickhouse", "redis"))
            if verdict.ok or not lagging or not lag or time.monotonic() > deadline:
                break
            time.sleep(1.0)
        acknowledged, problems = check_acknowledged(self.acks, self.link)
        self.report.acknowledged = acknowledged
        self.report.problems += problems

    def _tails(self) -> dict[str, list[str]]:
        """The end of each log, without the broker's daily chatter."""
        out = {}
        for path in sorted(self.stack.folder.logs.glob("*.log")):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            told = [x for x in lines if path.stem != "kafka" or " INFO " not in x or "arker" in x]
            out[path.stem] = [x[:300] for x in told[-15:]]
        return out

    def _note(self, text: str) -> None:
        self.say(f"{time.monotonic() - self._began:7.1f} s  {text}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="repeats a run; random and printed when not given")
    parser.add_argument("--long", action="store_true", help="1,000,000 transactions at 500/s and 300 kills")
    parser.add_argument("--transactions", type=int, help="another number of transactions")
    parser.add_argument("--kills", type=int, default=300, help="with --long")
    parser.add_argument("--only", choices=("settlement", "projections"), default="")
    parser.add_argument("--data-dir", type=Path, help="kept afterwards; a folder of its own, removed, when not given")
    options = parser.parse_args(arguments)
    seed = seed_or_drawn(options.seed)
    plan = long_plan(seed, options.transactions or 1_000_000, options.kills) if options.long else ci_plan(seed)
    if options.transactions and not options.long:
        plan = replace(plan, transactions=options.transactions)
    with tempfile.TemporaryDirectory(prefix="clearline-faults-") as scratch:
        report = FaultRun(plan, options.data_dir or Path(scratch) / "data", options.only).run()
    for line in report.lines():
        print(line, flush=True)
    if report.ok:
        return 0
    return 1 if report.verdict is not None and not report.verdict.ok else PartUnavailableError.exit_code


if __name__ == "__main__":
    sys.exit(main())
