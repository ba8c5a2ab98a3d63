"""A network that is not well, between the roles and Kafka, ClickHouse and Redis, under load: nothing lost, nothing doubled,
and everybody has caught up soon after.

    python -m tests.faults.network [--seed N] [--scenarios N] [--minutes N] [--rate N] [--target kafka|clickhouse|redis]

Latency of 50 to 2,000 ms, connections that are reset, that swallow everything, that are slow or torn to small pieces, and
that are gone (tests/faults/toxiproxy.py); packets lost, and partitions one way or both (tests/faults/lossy.py, where nftables
obey). Partitions last 1 to 60 s. A scenario passes when settlement and sinks have what came before its end within twice
its length and 30 s. Exit codes are those of `tests.faults.run`; 3 also when there is no Toxiproxy.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clearline.bootstrap import prepare_world
from clearline.config import Settings
from clearline.connection import connect
from clearline.embedded.probes import HOST
from schemas.errors import ClearlineError
from streams.reader import end_offsets
from streams.topics import Topics
from tests.faults.lossy import Lossy, can_drop
from tests.faults.plan import Plan, seed_or_drawn
from tests.faults.run import BACK_S, WORKERS, FaultRun
from tests.faults.stack import fault_settings, wait_for
from tests.faults.toxiproxy import Toxiproxy, find_server_or_tell
from tests.faults.watch import JournalWatch
from tests.kafka_cluster import Cluster, OwnNames, free_ports

TARGETS = ("kafka", "clickhouse", "redis")
ROLES = (*WORKERS, "sink-clickhouse", "sink-redis")
GRACE_S = 30.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One misfortune of the network. `toxic`: "cut" for no connection at all, "loss" of so many `percent` of the packets
    (100: a partition), or one of Toxiproxy with its `attributes`."""

    target: str
    toxic: str
    stream: str
    seconds: float
    attributes: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        told = "".join(f"{k}={v} " for k, v in self.attributes)
        return f"{self.target}: {self.toxic} {told}{self.stream} for {self.seconds:.0f} s"


def scenarios(seed: int, count: int, target: str = "", lossy: bool = True) -> list[Scenario]:
    """The first `count`, drawn from the seed: every kind on every part comes before any comes again. `lossy`: with those
    that need a packet filter."""
    rnd = random.Random(f"network {seed}")
    found: list[Scenario] = []
    kinds = (*_KINDS, *_LOSSY) if lossy else _KINDS
    while len(found) < count:
        once = [_drawn(rnd, t, kind) for t in ((target,) if target else TARGETS) for kind in kinds]
        rnd.shuffle(once)
        found += once
    return found[:count]


_KINDS = ("slow", "very slow", "reset_peer", "timeout", "slicer", "bandwidth", "cut")
_LOSSY = ("loss", "partition")
_PARTITIONS = ("timeout", "cut", "partition")


def _drawn(rnd: random.Random, target: str, kind: str) -> Scenario:
    seconds = rnd.uniform(1, 60) if kind in _PARTITIONS else rnd.uniform(3, 12)
    stream = rnd.choice(("upstream", "downstream", "both"))
    if kind in _LOSSY:
        percent = 100 if kind == "partition" else rnd.randint(1, 30)
        return Scenario(target, "loss", stream, seconds, (("percent", percent),))
    if kind == "slow":
        latency = rnd.randrange(50, 500)
        return Scenario(target, "latency", stream, seconds, (("latency", latency), ("jitter", latency // 2)))
    if kind == "very slow":
        return Scenario(target, "latency", stream, seconds, (("latency", rnd.randrange(500, 2_000)), ("jitter", 100)))
    attributes = {
        "reset_peer": (("timeout", rnd.randrange(0, 1_000)),),
        "timeout": (("timeout", 0),),  # swallows everything, and the connection stays
        "slicer": (("average_size", 1_000), ("size_variation", 500), ("delay", 2_000)),  # bytes, microseconds
        "bandwidth": (("rate", rnd.choice((20, 100))),),  # kB a second
        "cut": (),
    }[kind]
    return Scenario(target, kind, stream, seconds, attributes)


class ProxiedRun(FaultRun):
    """One run of scenarios."""

    def __init__(
        self, plan: Plan, data_dir: Path, todo: list[Scenario], server: Path, say: Callable[[str], None] = print
    ) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        super().__init__(plan, data_dir / "unused", "", say)
        self.data_dir = data_dir
        self.acks = data_dir / "acknowledged.txt"
        self.done = self.tried = 0
        self.minutes = 60.0  # after so many, no scenario begins
        self._todo = todo
        self._lossy = Lossy() if any(s.toxic == "loss" for s in todo) else None
        self._ports = dict(zip(("server", *TARGETS), free_ports(4), strict=True))
        self._proxies = Toxiproxy(server, self._ports["server"])
        self.cluster = Cluster(data_dir / "brokers", 1, front=self._ports["kafka"])

    def _start(self) -> None:
        self._proxies.proxy("kafka", self._ports["kafka"], self.cluster.port_behind)
        self.cluster.start()
        plain = fault_settings(self.data_dir / "stack")
        self.cluster.prepare(Topics(plain.world), plain.partitions)
        operator = self.cluster.settings(f"{plain.world}.operator")
        parts = ("registry", "clickhouse", "redis")
        stack = _Proxied(self.cluster, plain.model_copy(update={"kafka": operator}), parts)
        self.stack = stack
        at = stack.start()
        self._proxies.proxy("clickhouse", self._ports["clickhouse"], at.clickhouse_port)
        self._proxies.proxy("redis", self._ports["redis"], int(at.redis_url.rpartition(":")[2].partition("/")[0]))
        admin = self.cluster.settings("prepare", "PLAIN")
        prepare_world(stack.resolved().model_copy(update={"kafka": admin}))
        stack.proxies = self._ports
        stack.start_roles(list(ROLES))
        self.settings = stack.resolved().model_copy(update={"kafka": operator})
        self.link = connect(self.settings)
        self._watch = JournalWatch(self.link.kafka, self.link.topics.journal)
        self.watch.start()
        self._note("the stack serves, with a network between")

    def _both_tracks(self, publisher: subprocess.Popen[bytes]) -> None:
        ends = time.monotonic() + 60 * self.minutes
        for s in self._todo:
            if time.monotonic() > ends:
                self._note(
                    f"{len(self._todo) - self.tried} scenarios are left out: {self.minutes:.0f} minutes are over"
                )
                return
            self.tried += 1
            try:
                steps = self._one(s)
            except (ClearlineError, TimeoutError) as e:
                self._heal()
                self.report.late.append(f"{s}: {e}")
                self._note(f"NOT BACK {s}: {e}")
                self._given_up.set()
                return
            bound = 2 * s.seconds + GRACE_S
            took = max(steps.values())
            told = ", ".join(f"{who} {seconds:.1f}" for who, seconds in steps.items())
            self._sample(f"{s.target} {s.toxic}", took)
            self._note(
                f"{s}: caught up after {took:.1f} s ({told}; passes at {bound:.0f} s; load {os.getloadavg()[0]:.0f})"
            )
            if took > bound:
                self.report.late.append(f"{s}: {took:.1f} s, passes at {bound:.0f} s")
            else:
                self.done += 1
            if publisher.poll() is not None:
                self.report.problems.append(f"the publisher ended early, with exit code {publisher.returncode}")
                return

    def _one(self, s: Scenario) -> dict[str, float]:
        """Poisons, waits, heals; after how many seconds each had what came before the end. Late is told, and waited for:
        the next scenario must not begin in what is left of this one."""
        if s.toxic == "cut":
            self._proxies.cut(s.target)
        elif s.toxic == "loss":
            assert self._lossy is not None
            self._lossy.drop(self._ports[s.target], dict(s.attributes)["percent"], s.stream)
        else:
            self._proxies.poison(s.target, s.toxic, s.stream, **dict(s.attributes))
        time.sleep(s.seconds)
        self._heal()
        began = time.monotonic()
        moment, everywhere = time.time_ns() // 1_000_000, list(range(self.settings.partitions))
        wait_for("every partition to settle", lambda: self.watch.settled_since(moment, everywhere), BACK_S)
        steps = {"settled": time.monotonic() - began}
        kafka, topics = self.link.kafka, self.link.topics
        for role, topic in (("sink-clickhouse", topics.journal), ("sink-redis", topics.state)):
            ends = end_offsets(kafka, topic)
            wait_for(f"{role} to have it", lambda: self._verified(role, ends), BACK_S)  # noqa: B023 - at once
            steps[role] = time.monotonic() - began
        return steps

    def _heal(self) -> None:
        self._proxies.heal()
        if self._lossy is not None:
            self._lossy.heal()

    def _verified(self, role: str, ends: dict[int, int]) -> bool:
        told = self.stack.figures(role).get("verified", {})
        return all(int(told.get(str(p), 0)) >= end for p, end in ends.items())

    def _stop(self) -> None:
        try:
            self._heal()
            super()._stop()
        finally:
            self.cluster.stop()
            self._proxies.__exit__(None, None, None)
            if self._lossy is not None:
                self._lossy.__exit__(None, None, None)


class _Proxied(OwnNames):
    """A stack whose roles reach the stores through proxies. `proxies`: ports by part."""

    proxies: dict[str, int]

    def as_role(self, role: str) -> Settings:
        found = super().as_role(role)
        house = found.clickhouse.model_copy(update={"port": self.proxies["clickhouse"]})
        redis = found.redis.model_copy(update={"url": f"redis://{HOST}:{self.proxies['redis']}/0"})
        return found.model_copy(update={"clickhouse": house, "redis": redis})


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.network", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="repeats a run; random and printed when not given")
    parser.add_argument("--scenarios", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=60.0, help="no scenario begins after so many")
    parser.add_argument("--rate", type=int, default=100, help="transactions a second")
    parser.add_argument("--target", choices=TARGETS, default="")
    options = parser.parse_args(arguments)
    if (server := find_server_or_tell()) is None:
        return 3
    seed = seed_or_drawn(options.seed)
    plan = Plan(seed, options.rate, 1_000, (), ())
    lossy = can_drop()
    if not lossy:
        print("packets are not dropped: that takes Linux, root and nft", flush=True)
    todo = scenarios(seed, options.scenarios, options.target, lossy)
    with tempfile.TemporaryDirectory(prefix="clearline-network-") as scratch:
        run = ProxiedRun(plan, Path(scratch), todo, server)
        run.minutes = options.minutes
        report = run.run()
    for line in report.lines():
        print(line, flush=True)
    print(f"{run.done} of {run.tried} scenarios passed, {len(todo) - run.tried} left out", flush=True)
    return 0 if report.ok else 1 if not report.exact else 3


if __name__ == "__main__":
    sys.exit(main())
