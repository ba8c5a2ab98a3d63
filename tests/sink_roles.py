"""The sinks' roles as processes from a fork server, so that tests can kill them quickly."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from schemas import failpoints
from sinks.balances import RedisConfig
from sinks.clickhouse import ClickHouseConfig
from streams.clients import KafkaConfig
from streams.registry import Registry
from streams.sink_host import SinkOptions, run_clickhouse_sink, run_redis_sink
from streams.topics import Topics


@dataclass(frozen=True)
class Role:
    """What a role needs to know. `store` says which role it is."""

    bootstrap: str
    registry_url: str
    world: str
    store: ClickHouseConfig | RedisConfig
    ready_file: Path

    def start(self, fail: str = "", options: SinkOptions | None = None) -> ForkServerProcess:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        process = context.Process(
            target=_main, args=(self, fail, options or SinkOptions(flush_interval_ms=100)), daemon=True
        )
        process.start()
        return process


def _main(role: Role, fail: str, options: SinkOptions) -> None:
    failpoints.arm(fail)
    kafka, topics, registry = KafkaConfig(role.bootstrap), Topics(role.world), Registry(role.registry_url)
    if isinstance(role.store, ClickHouseConfig):
        run_clickhouse_sink(kafka, topics, registry, role.store, role.ready_file, options)
    else:
        run_redis_sink(kafka, topics, registry, role.store, role.ready_file, options)
