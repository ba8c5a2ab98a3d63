"""One world from one seed: it is put together, run until it is done, and judged."""

from __future__ import annotations

import gc
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from hashlib import sha256
from random import Random
from typing import Any

import streams.core
from schemas.codec import Codec
from schemas.errors import ClearlineError, InvariantError
from schemas.records import RECORDS
from sinks.clickhouse import FencedError
from tests.simulation.world import checker, roles
from tests.simulation.world.broker import Broker
from tests.simulation.world.chaos import Chaos
from tests.simulation.world.clients import Cluster, Faults
from tests.simulation.world.load import PARTITIONS, Gateways
from tests.simulation.world.roles import KAFKA, OPTIONS, TOPICS
from tests.simulation.world.scheduler import Process, Scheduler
from tests.simulation.world.stores import RedisServer, Tables

EPOCH_MS = 1_795_338_000_000  # 2026-11-22 09:00 UTC
DONE_WITHIN_S = 60.0
VIOLATIONS_MAX = 20
LOOK_EVERY_S = 0.25


@cache
def codec() -> Codec:
    return Codec({name: i for i, name in enumerate(RECORDS, 1)})


@dataclass(slots=True)
class Result:
    """What one seed came to. `violations`: empty when all is well. `done_s`: virtual seconds from the last fault."""

    seed: int
    violations: list[str]
    digest: Callable[[], str]
    done_s: float
    commands: int
    events: int
    faults: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)


class World:
    """The parts of one simulated system, and its supervisor."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        draw = Random(f"world {seed}")
        self.seed = seed
        self.sim = Scheduler(seed, trace=trace)
        self.codec = codec()
        self._decoded: dict[bytes | None, Any] = {}
        self.epoch_ms = EPOCH_MS
        self.clock_off_ms = 0
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.overlap_records_min = draw.choice((1, 3, 8, 400))
        self.batch_records_max = draw.choice((3, 10, 40, 4_000))
        self.sink_records_max = draw.choice((30, 60, 5_000))
        self.flush_ms = draw.choice((200, 400, 800))
        self.broker = Broker(self.sim, PARTITIONS, self.clock_ms, [TOPICS.submitted])
        self.broker.session_s = OPTIONS.session_timeout_ms / 1000
        faults = Faults(self.sim.random, self.seen)
        self.cluster = Cluster(self.sim, self.broker, faults)
        self.tables = Tables(self.sim, faults)
        self.redis = RedisServer(self.sim, self.violate)
        self.hosts: dict[int, Any] = {}
        self.processes: list[Process] = []
        self.roles: dict[str, Process] = {}
        self.gateways = Gateways(
            self.sim, self.broker, TOPICS.submitted, self.codec, seed, draw.randint(25, 60), self.clock_ms,
            shelf=draw.random() < 0.12,
        )  # fmt: skip
        self.gateway_process = Process(self.sim, "gateways")
        self.gateways.start(self.gateway_process, draw.randint(1, 3))
        self.chaos = Chaos(self, seed, draw.uniform(2.0, 5.0))
        for role in ("worker 0", "worker 1", "sink clickhouse", "sink redis"):
            self.start(role)

    def clock_ms(self) -> int:
        """The broker's clock, milliseconds UTC."""
        return self.epoch_ms + self.clock_off_ms + int(self.sim.now * 1000)

    def decode(self, value: bytes | None) -> Any:
        """The record in these bytes, for those who look from outside: each is decoded once."""
        found = self._decoded.get(value)
        if found is None:
            found = self._decoded[value] = self.codec.decode(value)
        return found

    def seen(self, fault: str) -> None:
        self.counts[fault] += 1
        self.sim.note(f"fault: {fault}")

    def violate(self, text: str) -> None:
        self.sim.note(f"VIOLATION {text}")
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(text)

    # ---- the supervisor ----------------------------------------------------------------------------------------------

    def process(self, role: str) -> Process:
        return self.roles[role]

    def runs(self, role: str) -> bool:
        return role in self.roles and not self.roles[role].dead

    def start(self, role: str) -> None:
        """Starts a role; what ends is started again."""
        p = self.roles[role] = Process(self.sim, role)
        self.processes.append(p)
        body = _BODIES[role](self)
        p.on_down.append(lambda: self._again(p) if p.dead else None)
        p.spawn("main", partial(self._guarded, p, body))

    def forget(self, role: str) -> None:
        """What runs under this role is not looked after any more."""
        del self.roles[role]

    def end(self, role: str) -> None:
        """Kills a role for good."""
        if role in self.roles:
            self.roles.pop(role).kill()

    def _again(self, p: Process) -> None:
        def start() -> None:
            if self.roles.get(p.name) is p:
                self.start(p.name)

        self.sim.later(self.chaos.down_s(), start)

    def _guarded(self, p: Process, body: Callable[[], None]) -> None:
        try:
            body()
        except FencedError as e:
            self.sim.note(f"{p.name} ends: {e}")
        except ClearlineError as e:
            self.violate(f"{p.name} ends: {type(e).__name__}: {e}")
        except Exception:
            self.violate(f"{p.name} ends:\n{traceback.format_exc()}")
        p.kill()

    # ---- running -----------------------------------------------------------------------------------------------------

    def settled(self) -> bool:
        """Whether everything that was published is settled and projected. Looks at the stores, not at the roles."""
        if not (self.chaos.over and self.gateways.idle()):
            return False
        broker, markers, offsets = self.broker, self.redis.hashes, self.broker.group_offsets
        at_work = [p for h in self._at_work() for p in h.core.ledgers]
        if sorted(at_work) != list(range(broker.partitions)) or not broker.at_rest():
            return False
        for p in range(broker.partitions):
            log = broker.log(TOPICS.submitted, p)
            last = next((o for o in reversed(range(log.stable())) if log.shown(o)), -1)
            if offsets.get(p, 0) <= last or any(broker.log(t, p).open for t in checker.NAMES.values()):
                return False
            marker = markers.get(f"live:sink:{p}")
            state_end = len(broker.log(TOPICS.state, p).entries)
            if marker is None or "target" not in marker or int(marker["next"]) < max(state_end, int(marker["target"])):
                return False
        journaled = sum(len(broker.committed(TOPICS.journal, p)) for p in range(broker.partitions))
        buried = sum(len(broker.committed(TOPICS.dead, p)) for p in range(broker.partitions))
        rows = self.tables.rows
        return len(rows["outcomes"]) >= journaled and len(rows["dead_letters"]) >= buried

    def _at_work(self) -> list[Any]:
        return [h for s, h in self.hosts.items() if self.runs(f"worker {s}") and h.core is not None]

    def run(self) -> Result:
        """Runs it to its end and judges it."""
        sim = self.sim
        limit = self.chaos.safety_s + 0.1 + DONE_WITHIN_S
        with roles.in_place(self):
            done = False
            while not done and sim.now < limit and not self.violations:
                sim.run(lambda: False, sim.now + LOOK_EVERY_S)
                done = self.settled()
            done_s = sim.now - self.chaos.safety_s
            if not done and not self.violations:
                self.violate(f"not done {DONE_WITHIN_S:.0f} virtual seconds after the last fault: {self._where()}")
            if not self.violations:
                self._judge()
            self._close()
        return Result(
            self.seed, self.violations, self.digest, done_s, self.gateways.published, sim.events, self.counts,
            sim.trace or [],
        )  # fmt: skip

    def _where(self) -> str:
        b = self.broker
        ends = [len(b.log(TOPICS.submitted, p).entries) for p in range(b.partitions)]
        return (
            f"submitted ends {ends}, the group stands at {b.group_offsets}, markers of Redis "
            f"{ {k: h for k, h in self.redis.hashes.items() if ':sink:' in k} }, rows "
            f"{ {t: len(r) for t, r in self.tables.rows.items()} }, workers {self._workers()}"
        )

    def _workers(self) -> dict[int, Any]:
        return {s: (sorted(h.core.ledgers) if h.core else None, h.stopped) for s, h in self.hosts.items()}

    def _judge(self) -> None:
        recovered: list[Any] = []
        core: Any = streams.core

        def take_over() -> None:
            committed = dict.fromkeys(range(self.broker.partitions), -1001) | self.broker.group_offsets
            try:
                recovered[:] = core.recover(KAFKA, TOPICS, self.codec, committed, OPTIONS.keys_window_ms)
            except InvariantError:  # as a worker does: has somebody settled meanwhile?
                while self.broker.unstable(range(self.broker.partitions)):
                    self.sim.sleep(0.01)
                if committed.items() >= self.broker.group_offsets.items():
                    raise

        for _ in range(20):  # a worker may write a tick meanwhile, and settle it: then once more
            before = self.broker.group_offsets
            auditor = Process(self.sim, "auditor")
            self.processes.append(auditor)
            auditor.spawn("main", partial(self._guarded, auditor, take_over))
            while not auditor.dead:
                self.sim.run(lambda: False, self.sim.now + 0.05)
            if self.violations or (self.settled() and self.broker.group_offsets == before):
                break
            self.sim.run(self.settled, self.sim.now + 5)
        checks: tuple[Callable[[], Any], ...] = (
            partial(checker.audit, self), partial(checker.pending, self), partial(checker.acknowledged, self),
            partial(checker.outcomes, self),
            partial(checker.taken_over, self, recovered, self._at_work()),
        )  # fmt: skip
        for check in checks:
            for wrong in check():
                self.violate(wrong)

    def _close(self) -> None:
        """Ends every task, so that nothing of this world is left."""
        self.roles.clear()
        for p in (*self.processes, self.gateway_process):
            p.kill()
        for p in (*self.processes, self.gateway_process):
            p.unwind()

    def digest(self) -> str:
        """SHA-256 of everything that was written, and of how it came about."""
        rows = {t: [{k: v for k, v in r.items() if k != "run"} for r in rs] for t, rs in self.tables.rows.items()}
        what = (
            self.broker.kept(),
            rows,
            sorted(self.redis.hashes.items()),
            self.sim.events,
            self.sim.now,
            self.violations,
        )
        return sha256(repr(what).encode()).hexdigest()


def simulate(seed: int, *, trace: bool = False) -> Result:
    """Runs the world of this seed."""
    gc.disable()  # what a world leaves is collected after it, once, instead of thirty times while it runs
    try:
        return World(seed, trace=trace).run()
    finally:
        gc.enable()


_BODIES: dict[str, Callable[[World], Callable[[], None]]] = {
    **{f"worker {slot}": partial(roles.worker, slot=slot) for slot in range(3)},
    "sink clickhouse": roles.sink_clickhouse,
    "sink redis": roles.sink_redis,
}
