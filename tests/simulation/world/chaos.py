"""The faults of one world, drawn from its seed: what is killed, paused, moved, lost or late, and when."""

from __future__ import annotations

from random import Random
from typing import Any

WORKERS = (0, 1)


class Chaos:
    """Plans faults over `safety_s` virtual seconds; `stop` ends them all and puts everything back to work."""

    def __init__(self, world: Any, seed: int, safety_s: float) -> None:
        self.world = world
        self.random = Random(f"chaos {seed}")
        self.safety_s = safety_s
        self.over = False
        kinds, weights = zip(*_KINDS.items(), strict=True)
        for _ in range(self.random.randint(3, 9)):
            kind = self.random.choices(kinds, weights)[0]
            world.sim.later(self.random.uniform(0.02, safety_s), lambda kind=kind: self._strike(kind))
        world.sim.later(safety_s + 0.1, self.stop)

    def _strike(self, kind: str) -> None:
        self.world.seen(kind)
        getattr(self, f"_{kind}")()

    def down_s(self) -> float:
        """For how long something that was killed stays down: mostly less than a session, sometimes more."""
        if self.over:
            return 0.2 * self.random.random()
        return self.random.uniform(0.02, 0.5) if self.random.random() < 0.75 else self.random.uniform(1.6, 3.0)

    def _steps(self) -> int:
        return 1 + int(self.random.expovariate(1 / 40))

    def _a_worker(self) -> str:
        return f"worker {self.random.choice(WORKERS)}"

    # ---- workers -----------------------------------------------------------------------------------------------------

    def _kill(self, role: str) -> None:
        self.world.process(role).kill()

    def _kill_in(self, role: str) -> None:
        p = self.world.process(role)
        p.kill_at = p.steps + self._steps()

    def _pause_in(self, role: str, seconds: float) -> None:
        p = self.world.process(role)
        p.pause_at, p.pause_s = p.steps + self._steps(), seconds

    def _zombie(self, role: str) -> None:
        """Pauses a process in the middle of something, starts its successor, and lets it wake up beside it."""
        world, old = self.world, self.world.process(role)

        seconds = self.random.choice((0.3, 2.0, 3.0)) * (0.5 + self.random.random())
        awake_s = self.random.choice((0.01, 0.1, 2.0)) * self.random.random()

        def paused() -> None:
            if old.paused:
                world.sim.later(self.random.random() * 0.3, replace)
                world.sim.later(seconds + awake_s, end)

        def replace() -> None:
            if not self.over and not old.dead and world.roles.get(role) is old:
                world.seen("replaced_while_paused")
                world.forget(role)
                world.start(role)

        def end() -> None:
            if world.roles.get(role) is not old:
                old.kill()

        old.on_down.append(paused)
        if self.random.random() < 0.5:
            old.pause_on, old.pause_s = self.random.choice(_HARD_PLACES[role.rstrip("012 ")]), seconds
        else:
            self._pause_in(role, seconds)

    def _kill_worker(self) -> None:
        self._kill(self._a_worker())

    def _kill_worker_in_a_step(self) -> None:
        self._kill_in(self._a_worker())

    def _pause_worker(self) -> None:
        self._pause_in(self._a_worker(), self.random.choice((0.1, 1.0, 3.0)) * (0.5 + self.random.random()))

    def _zombie_worker(self) -> None:
        self._zombie(self._a_worker())

    def _third_worker(self) -> None:
        """Slots move to another worker, and back when it is gone."""
        if not self.world.runs("worker 2"):
            self.world.start("worker 2")
            self.world.sim.later(self.random.uniform(0.3, 2.0), lambda: self.world.end("worker 2"))

    # ---- sinks -------------------------------------------------------------------------------------------------------

    def _kill_sink(self) -> None:
        self._kill("sink clickhouse")

    def _kill_sink_in_a_step(self) -> None:
        self._kill_in("sink clickhouse")

    def _pause_sink(self) -> None:
        self._pause_in("sink clickhouse", 2.0 * self.random.random())

    def _zombie_sink(self) -> None:
        self._zombie("sink clickhouse")

    def _kill_redis_sink_in_a_step(self) -> None:
        self._kill_in("sink redis")

    def _zombie_redis_sink(self) -> None:
        self._zombie("sink redis")

    def _flushall(self) -> None:
        self.world.redis.flush()

    def _redis_goes_back(self) -> None:
        self.world.redis.keep()
        self.world.sim.later(self.random.uniform(0.1, 2.0), self.world.redis.restore)

    def _redis_down(self) -> None:
        self.world.redis.down = True
        self.world.sim.later(self.random.uniform(0.1, 1.0), self._redis_up)

    def _redis_up(self) -> None:
        self.world.redis.down = False

    def _clickhouse_trouble(self) -> None:
        name, chances = self.random.choice(list(self.world.tables.chances)), self.world.tables.chances
        chances[name] = 0.5
        self.world.sim.later(self.random.uniform(0.2, 1.5), lambda: chances.__setitem__(name, 0.0))

    # ---- the broker --------------------------------------------------------------------------------------------------

    def _commit_trouble(self) -> None:
        faults = self.world.cluster.faults
        name = self.random.choice(("answer_lost", "request_lost", "answer_late", "refused"))
        setattr(faults, name, 0.4)
        self.world.sim.later(self.random.uniform(0.1, 1.0), lambda: setattr(faults, name, 0.0))

    def _slow_markers(self) -> None:
        broker = self.world.broker
        broker.slow_markers_s = 0.6
        self.world.sim.later(self.random.uniform(0.2, 2.0), lambda: setattr(broker, "slow_markers_s", 0.01))

    def _clock_steps(self) -> None:
        self.world.clock_off_ms += self.random.choice((-300, -20, 20, 2_000))

    # ---- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """No more faults; whatever is down comes up, whatever sleeps wakes, whoever was replaced ends."""
        world = self.world
        world.sim.note("the faults stop")
        self.over = True
        world.cluster.faults.stop()
        world.tables.chances = dict.fromkeys(world.tables.chances, 0.0)
        world.redis.down = False
        world.broker.slow_markers_s = 0.01
        world.end("worker 2")
        for p in world.processes:
            p.kill_at, p.pause_at, p.pause_on = 0, 0, ""
            if world.roles.get(p.name) is not p and p is not world.gateway_process:
                p.kill()
            p.resume()


_HARD_PLACES = {  # where it hurts to be replaced
    "worker": ("committed", "send_offsets", "settlement.mid_emit", "send_offsets answers", "init_transactions answers"),
    "sink clickhouse": ("insert begins", "sink_clickhouse.after_read", "sink_clickhouse.after_insert_postings"),
    "sink redis": ("sink_redis.after_read",),
}

_KINDS = {
    "kill_worker": 8, "kill_worker_in_a_step": 22, "pause_worker": 8, "zombie_worker": 12, "third_worker": 7,
    "kill_sink": 2, "kill_sink_in_a_step": 10, "pause_sink": 2, "zombie_sink": 5, "kill_redis_sink_in_a_step": 4,
    "zombie_redis_sink": 6, "flushall": 4, "redis_goes_back": 4, "redis_down": 2, "clickhouse_trouble": 6,
    "commit_trouble": 14, "slow_markers": 6, "clock_steps": 3,
}  # fmt: skip
