"""The roles of the system as processes of the world: their real code, on clients of the world.

Real: the settlement host's loop (`SettlementService._main`), `TransactionalCore`, recovery, the log reader, the agent's
body, the Book, both sinks with their loops, the fence. Put in their place: the client libraries, `time`, the threads
(tasks of the scheduler), Faust's channel (a list), the supervisor (`World`). Every fail point is a place to be killed.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import redis
from confluent_kafka import Consumer, Producer

import schemas.failpoints
import sinks.balances
import sinks.fence
import sinks.ledger_sink
import sinks.log_sink
import streams.core
import streams.host
import streams.reader
import streams.sink_host
from processors import agents
from processors.settlement import Batch, Outlets, Settlement
from sinks.balances import RedisConfig
from sinks.clickhouse import ClickHouseConfig
from streams.clients import KafkaConfig
from streams.core import Flow, HostOptions
from streams.host import Dropped, SettlementService
from streams.sink_host import SinkOptions
from streams.topics import Topics
from tests.simulation.world.clients import Cluster
from tests.simulation.world.scheduler import Event, Killed, Task, Time
from tests.simulation.world.stores import Database, RedisClient

TOPICS = Topics("live")
KAFKA = KafkaConfig("broker:0")
CLICKHOUSE = ClickHouseConfig("clickhouse", 0, "clearline")
REDIS = RedisConfig("redis://redis", "live")
OPTIONS = HostOptions(
    slot=0, partitions=0, session_timeout_ms=1_500, transaction_timeout_ms=2_500, call_timeout_s=3.0,
)  # fmt: skip


@contextmanager
def in_place(world: Any) -> Iterator[None]:
    """The clients of this world in the place of the libraries', until the end of the block."""
    sim, cluster = world.sim, world.cluster
    time = Time(sim, world.epoch_ms / 1000)

    def batch(parts: Any, produce: Any) -> Batch:
        return Batch(parts, produce, done=Event(sim))  # type: ignore[arg-type]

    def database(config: ClickHouseConfig) -> Database:
        return Database(world.tables, config)

    def no_coroutine(_sent: Any, _loop: Any) -> None:
        """The channel of this world has taken the batch already."""

    def ended(code: int) -> None:
        world.violate(f"{sim.process.name} ends with code {code}")
        sim.process.kill()
        raise Killed

    log = _Log(world)
    places: list[tuple[Any, str, Any]] = [
        *_clients(cluster),
        (streams.core, "Batch", batch), (streams.core, "time", time),
        (streams.core, "_OVERLAP_RECORDS_MIN", world.overlap_records_min),
        (streams.reader, "time", time), (streams.sink_host, "time", time), (streams.sink_host, "random", sim.random), (streams.sink_host, "log", log),
        (streams.sink_host, "topic_ids", lambda _, names: dict.fromkeys(names, "id")),
        (streams.host, "log", log), (streams.host, "_exit", ended), (streams.host, "time", time),
        (streams.host, "asyncio", SimpleNamespace(run_coroutine_threadsafe=no_coroutine)),
        (sinks.fence, "time", time), (sinks.fence, "random", sim.random),
        (sinks.fence, "os", SimpleNamespace(urandom=sim.random.randbytes)),
        (sinks.ledger_sink, "PIECE_RECORDS", 7), (sinks.ledger_sink, "Database", database), (sinks.log_sink, "Database", database),
        (sinks.balances, "redis", SimpleNamespace(
            RedisError=redis.RedisError,
            Redis=SimpleNamespace(from_url=lambda *_, **__: RedisClient(world.redis, sim if sim.task else None)))),
        (schemas.failpoints, "_armed", None), (schemas.failpoints, "_pass_by", sim.step),
    ]  # fmt: skip
    before = [(module, name, getattr(module, name)) for module, name, _ in places]
    try:
        for module, name, value in places:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _clients(cluster: Cluster) -> Iterator[tuple[Any, str, Any]]:
    """The client's classes, wherever streams/ has them."""
    makers = {Consumer: cluster.consumer, Producer: cluster.producer}
    for module in [m for n, m in sys.modules.items() if n.startswith("streams.")]:
        for name in ("Consumer", "Producer"):
            if getattr(module, name, None) in makers:
                yield module, name, makers[getattr(module, name)]


class _Log:
    """What the system logs: a line of the trace, and a violation where it says that something cannot be."""

    def __init__(self, world: Any) -> None:
        self._world = world

    def warning(self, text: str, **fields: Any) -> None:
        self._world.sim.note(f"{self._world.sim.process.name}: {text} {fields}")

    def critical(self, text: str, **fields: Any) -> None:
        self._world.violate(f"{self._world.sim.process.name}: {text} {fields}")

    def exception(self, text: str) -> None:
        self._world.violate(f"{self._world.sim.process.name}: {text}\n{traceback.format_exc()}")


class _Channel:
    """Faust's in-memory channel with the settlement agent behind it."""

    def __init__(self, world: Any, settlement: Settlement) -> None:
        self._sim = world.sim
        self._settlement = settlement
        self._waiting: list[Batch] = []
        self._agent: Task = self._sim.process.spawn("agent", self._work)

    def send(self, *, value: Batch) -> None:
        self._waiting.append(value)
        self._sim.wake(self._agent, 0.0005 * self._sim.random.random())

    def _work(self) -> None:
        while True:
            while self._waiting:
                self._sim.step("agent")
                agents.take(self._waiting.pop(0), self._settlement)
            self._sim.block(1e9)


def worker(world: Any, slot: int) -> Callable[[], None]:
    """The body of a settlement worker."""

    def run() -> None:
        t, n = TOPICS, world.broker.partitions
        outlets = Outlets(t.submitted, t.journal, t.state, t.dead, t.replies, n, n, OPTIONS.message_bytes_max)
        settlement = Settlement(world.codec, outlets, lambda ids: ids)
        host: Any = SimpleNamespace(
            channel=_Channel(world, settlement), kafka=KAFKA, topics=TOPICS, codec=world.codec, flow=Flow(), core=None,
            options=_of_slot(slot, n, world.batch_records_max), stopped={}, dropped=Dropped(), _ending=Event(world.sim),
        )  # fmt: skip
        world.hosts[slot] = host
        host._run_core = partial(SettlementService._run_core, host)
        SettlementService._main(host, None)  # type: ignore[arg-type]

    return run


def _of_slot(slot: int, partitions: int, batch_records_max: int) -> HostOptions:
    fields = {n: getattr(OPTIONS, n) for n in HostOptions.__slots__}
    return HostOptions(**fields | {"slot": slot, "partitions": partitions, "batch_records_max": batch_records_max})


def sink_clickhouse(world: Any) -> Callable[[], None]:
    registry: Any = SimpleNamespace(codec=lambda: world.codec)
    options = SinkOptions(batch_records_max=world.sink_records_max, flush_interval_ms=world.flush_ms, retry_s_max=1.0)
    return lambda: streams.sink_host.run_clickhouse_sink(
        KAFKA,
        TOPICS,
        registry,
        CLICKHOUSE,
        None,
        options,
        Event(world.sim),  # type: ignore[arg-type]
    )


def sink_redis(world: Any) -> Callable[[], None]:
    registry: Any = SimpleNamespace(codec=lambda: world.codec)
    options = SinkOptions(poll_records_max=world.sink_records_max, retry_s_max=1.0)
    return lambda: streams.sink_host.run_redis_sink(
        KAFKA,
        TOPICS,
        registry,
        REDIS,
        None,
        options,
        Event(world.sim),  # type: ignore[arg-type]
    )
