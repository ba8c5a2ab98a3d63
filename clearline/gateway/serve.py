"""The role `gateway`: the real parts, one event loop, uvicorn around the application.

What is started here is stopped here, in the opposite order: first nothing new is taken and what is under way is
answered, then acknowledgements and what is on its way to Redis are waited for.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import structlog
import uvicorn
import uvloop

from clearline.config import Settings
from clearline.connection import Connection, clickhouse_config, connect, redis_config, registry_of
from clearline.gateway.app import create_app
from clearline.gateway.call_meter import CallMeter
from clearline.gateway.console.live import LiveSource
from clearline.gateway.console.live_works import LiveWorks
from clearline.gateway.console.parts import ConsoleParts
from clearline.gateway.metrics import Metrics, Skew
from clearline.gateway.outcomes import Outcomes, keep_ms
from clearline.gateway.partner_tables import tables_pool
from clearline.gateway.parts import Parts, Tree, limits_tree, wall_clock_ms
from clearline.gateway.projections import PagePool, Projections
from clearline.gateway.reporting import Reports
from clearline.gateway.tls import tls_options
from clearline.metrics import metrics_address
from clearline.webhooks.ports import QueuedInKafka, WebhookParts
from schemas.codec import Codec, UndecodableError, UnknownSchemaError
from schemas.errors import BadInputError, PartUnavailableError
from schemas.identity import partition_of, root_of
from schemas.records import AccountState, HoldState, LimitState, PartitionState
from sinks.balance_reader import BalanceReader
from sinks.gate import CallLimits, RedisGate
from streams.caller import Caller
from streams.finder import Finder
from streams.measured import MeasuredLog
from streams.metrics import Check, MetricsServer, RoleFacts
from streams.reader import end_offsets, read_to_end
from streams.registry import Registry, learn_schemas
from streams.state_rows import StateRows
from streams.table import Table
from streams.times import Behind
from streams.topics import topic_ids

log = structlog.get_logger()

HEARTBEAT_S = 1.0
BROKER_S = 5.0  # how often the broker is asked whether it is there
COUNTS_S = 10.0  # how often the counts of calls are handed on: what a killed gateway loses at most
STOP_S = 10  # for so long calls under way are answered after SIGTERM


def run(settings: Settings, slot: int, ready_file: Path | None) -> None:
    """Serves until SIGTERM or SIGINT. `settings` must hold addresses.

    Raises PartUnavailableError when Kafka or the registry does not answer at the start, BadInputError when it cannot
    listen, or its TLS settings are wrong.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, slot, ready_file))


async def _serve(settings: Settings, slot: int, ready_file: Path | None) -> None:
    async with AsyncExitStack() as stack:
        host, port = settings.gateway.host, settings.ports.gateway and settings.ports.gateway + slot
        options = tls_options(settings.gateway)
        listener = _Listener(host, port, options)
        parts, health, counted = await _parts(settings, slot, stack, listener.url)
        parts.meter = meter = CallMeter(f"{slot}-{os.urandom(4).hex()}", parts.now_ms)
        app = create_app(parts)
        figures: Metrics = app.state.metrics
        facts = RoleFacts(f"gateway-{slot}", health.checks, health.waits_for)
        skew = Skew(facts.name, lambda: health.clock_skew_ms)
        inside = MetricsServer(metrics_address(settings, "gateway", slot), facts, [skew], registry=figures.registry)
        stack.callback(inside.close)
        server = uvicorn.Server(
            uvicorn.Config(
                app, loop="none", lifespan="off", log_config=None, access_log=False,
                server_header=False, timeout_graceful_shutdown=STOP_S, timeout_keep_alive=75, backlog=2048, **options,
            )
        )  # fmt: skip
        parts.stopping = lambda: server.should_exit
        for number in (signal.SIGTERM, signal.SIGINT):
            # uvicorn takes both while it serves, and hands them on at its end: then there is nothing left to do.
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        beats = [
            asyncio.create_task(health.watch()),
            asyncio.create_task(_heartbeat(parts, health, ready_file, slot, (listener.url, inside.url), figures)),
            asyncio.create_task(_hand_on(meter, counted)),
        ]
        # What was made until now lives as long as the process: the collector need not look at it during calls.
        gc.collect()
        gc.freeze()
        gc.set_threshold(200_000, 20, 100)  # outcomes that are kept are no garbage: looked through once in minutes
        log.info("gateway", url=listener.url, slot=slot, world=settings.world)
        try:
            await server.serve([listener.socket])
        finally:
            for task in beats:
                task.cancel()
            await asyncio.gather(*beats, return_exceptions=True)
            counted.send(meter.take())


class _Listener:
    """The socket that the gateway listens on, open before anything is said of its address."""

    def __init__(self, host: str, port: int, options: dict[str, Any]) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.socket.bind((host, port))
        except OSError as e:
            self.socket.close()
            raise BadInputError(
                f"the gateway cannot listen on {host}:{port} (CLEARLINE_GATEWAY__HOST, CLEARLINE_PORTS__GATEWAY; "
                f"instance N takes port + N): {e.strerror or e}"
            ) from e
        self.socket.set_inheritable(True)
        name = "127.0.0.1" if host in ("0.0.0.0", "") else f"[{host}]" if ":" in host else host
        scheme = "https" if "ssl_certfile" in options else "http"
        self.url = f"{scheme}://{name}:{self.socket.getsockname()[1]}"


async def _parts(settings: Settings, slot: int, stack: AsyncExitStack, url: str) -> tuple[Parts, Health, MeasuredLog]:
    """The real parts, started, and where counts of calls go; the stack ends them, the last one first."""
    system = await asyncio.to_thread(connect, settings)
    registry = registry_of(settings)
    decode = Learning(system.codec, registry)
    g = settings.gateway
    limits = CallLimits(g.rate_per_s, g.burst, g.calls_per_day)
    redis = redis_config(settings)
    ids = await asyncio.to_thread(topic_ids, system.kafka, [system.topics.submitted, system.topics.journal])
    few = CallLimits(g.reports_per_minute / 60, g.reports_per_minute, 10**12)
    gate = RedisGate(redis, limits, g.outcome_hours * 3600, log="+".join(ids.values()), reports=few)
    stack.push_async_callback(gate.close)
    outcomes = Outcomes(gate, wall_clock_ms, keep_ms(settings))
    stack.push_async_callback(outcomes.flush)
    access = await asyncio.to_thread(
        partial(Table, system.kafka, system.topics.access, system.codec, learn=decode.learn)
    )
    stack.callback(access.close)
    house = clickhouse_config(settings)
    finder = Finder(system.kafka, house, system.topics, decode, settings.partitions)
    stack.push_async_callback(finder.close)
    rows = StateRows(system.kafka, system.topics.state, system.codec, decode.learn)
    reads = Projections(
        rows, BalanceReader(redis), PagePool(house), settings.partitions, wall_clock_ms, outcomes.newest
    )  # fmt: skip
    stack.push_async_callback(reads.close)
    reporting = Reports(
        house, seconds_max=g.report_s_max, rows_max=g.report_rows_max, bytes_max=g.report_cache_mb << 20
    )
    stack.push_async_callback(reporting.close)
    writer = house
    if settings.clickhouse.data_user:
        own = settings.clickhouse
        writer = replace(house, user=own.data_user, password=own.data_password)
    tables = tables_pool(writer)
    stack.push_async_callback(partial(asyncio.to_thread, tables.close))
    caller = Caller(
        system.kafka, system.topics, system.codec, settings.partitions, slot, kept=outcomes.kept
    )  # fmt: skip
    await caller.start()
    stack.push_async_callback(caller.close)
    counted = MeasuredLog(system.kafka, system.topics.calls, slot % settings.partitions, system.codec)
    stack.push_async_callback(asyncio.to_thread, counted.close)
    health = Health(system, caller, access, rows)
    parts = Parts(
        settings, (g.public_url or url).rstrip("/"), settings.partitions, system.message_bytes_max, caller, finder,
        access, gate, reads, outcomes, ready=health.troubles, figures=health.figures,
        tree=partial(_tree, system, decode),
        webhooks=WebhookParts(QueuedInKafka(system.kafka, system.topics, system.codec)), reporting=reporting,
        tables=tables,
    )  # fmt: skip
    if g.console:
        source = LiveSource(settings, system, registry, rows, house)
        parts.console = ConsoleParts(source, LiveWorks(settings, system, registry, house, parts.now_ms, rows))
        stack.push_async_callback(parts.console.close)
    return parts, health, counted


async def _tree(system: Connection, decode: Learning, root: str) -> Tree:
    """A tree as a worker that takes over its partition would read it. Raises PartUnavailableError."""
    partition = partition_of(root, system.partitions)
    own = tuple(f"a:{root}{mark}".encode() for mark in (":", "/"))

    def read() -> Tree:
        last: dict[bytes, bytes] = {}
        for r in read_to_end(system.kafka, system.topics.state, {partition: 0}):
            if r.key is not None and (r.key == b"meta" or r.key.startswith((b"h:", b"l:", *own))):
                last[r.key] = r.value or b""
        rows = [decode(value) for _, value in sorted(last.items()) if value]
        holds = [r for r in rows if isinstance(r, HoldState) and root_of(r.partner_id) == root]
        accounts = {r.account_id: r for r in rows if isinstance(r, AccountState)}
        limits = [r for r in rows if isinstance(r, LimitState) and limits_tree(r, root)]
        ends = (r.next_offset for r in rows if isinstance(r, PartitionState))
        return Tree(holds, accounts, limits, max(ends, default=0))

    return await asyncio.to_thread(read)


async def _hand_on(meter: CallMeter, counted: MeasuredLog) -> None:
    """Hands on what was counted, again and again."""
    while True:
        await asyncio.sleep(COUNTS_S)
        counted.send(meter.take())


class Learning:
    """Decodes, and asks the registry for schema versions that were written by others."""

    def __init__(self, codec: Codec, registry: Registry) -> None:
        self._codec = codec
        self._registry = registry
        self._refused: set[int] = set()

    def learn(self, schema_ids: set[int]) -> None:
        """Teaches the codec these ids. Raises PartUnavailableError."""
        learn_schemas(self._codec, self._registry, schema_ids, self._refused)

    def __call__(self, value: bytes | None) -> Any:
        """What stands in framed bytes. Raises UndecodableError."""
        try:
            return self._codec.decode(value)
        except UnknownSchemaError as e:
            try:
                self.learn({e.schema_id})
            except PartUnavailableError as away:
                raise UndecodableError("unknown_schema", str(away)) from None
            return self._codec.decode(value)


class Health:
    """Whether this gateway can serve, and how far what it knows is behind."""

    def __init__(self, system: Connection, caller: Caller, access: Table, rows: StateRows) -> None:
        self._system, self._caller, self._access, self._rows = system, caller, access, rows
        self._broker = ""
        self._behind: dict[str, int] = {}
        self._since = Behind()
        self.lag_s = 0.0

    def troubles(self) -> list[str]:
        """Why it cannot serve, one sentence each."""
        found = [
            self._broker,
            "" if self._caller.following else "replies are not followed",
            "" if self._access.following else "the table of keys is not followed",
            "" if self._rows.ready else "the state of the ledger is still being read",
        ]
        return [f for f in found if f]

    def checks(self) -> list[Check]:
        """What must hold for it to take commands. How far the state is behind is told, and makes nobody unready:
        commands are taken and kept while no worker settles."""
        following, read = self._caller.following, self._access.following and self._rows.ready
        return [
            Check("assigned", following, "replies are followed" if following else "replies are not followed"),
            Check("recovered", read, "keys and state are read" if read else "keys or state are still being read"),
            Check("lag", True, f"what it shows of the state is {self.lag_s:.1f} s behind"),
            Check("store", not self._broker, self._broker or "Kafka answers"),
        ]

    def waits_for(self) -> str:
        """The part that does not answer, or empty."""
        return "kafka" if self._broker else ""

    @property
    def clock_skew_ms(self) -> float | None:
        """This machine's clock less the broker's, at most; None when nothing came lately."""
        found = self._caller.skew_ms.value
        return None if found is None else round(found, 1)

    def figures(self) -> dict[str, Any]:
        """What `/v1/status` says beside what every gateway says."""
        return {"commands_under_way": self._caller.under_way, "state_behind_offsets": self._behind}

    async def watch(self) -> None:
        """Asks the broker again and again whether it is there."""
        while True:
            try:
                self._behind = await asyncio.to_thread(self._measure)
                self._broker = ""
            except Exception as e:  # whatever it is: it is told, and asked again
                if not self._broker:
                    log.warning("broker_away", error=str(e))
                self._broker = "Kafka does not answer"  # where it is, is not for everybody: /v1/status needs no key
            await asyncio.sleep(BROKER_S)

    def _measure(self) -> dict[str, int]:
        """Offsets of `transactions.submitted` that the state which this gateway knows has not come to, by partition."""
        ends = end_offsets(self._system.kafka, self._system.topics.submitted)
        heads = {p: self._rows.head(p) if self._rows.ready else None for p in ends}
        done = {p: head.next_offset if head is not None else 0 for p, head in heads.items()}
        self.lag_s = self._since.seconds(ends, done)
        return {str(p): max(0, end - done[p]) for p, end in sorted(ends.items())}


async def _heartbeat(
    parts: Parts, health: Health, ready_file: Path | None, slot: int, urls: tuple[str, str], figures: Metrics
) -> None:
    """Writes the ready file, again and again: one that is not written is of a gateway that hangs."""
    while ready_file is not None:
        facts = {
            "pid": os.getpid(), "role": "gateway", "slot": slot, "url": urls[0], "metrics": urls[1],
            "limiter": "local" if parts.gate.local else "redis", "waiting_for": "; ".join(health.troubles()),
            "at": int(time.time() * 1000), **figures.lately(), **health.figures(),
            "clock_skew_ms": health.clock_skew_ms, "lag_seconds": health.lag_s,
        }  # fmt: skip
        draft = ready_file.with_name(ready_file.name + ".tmp")
        with suppress(OSError):  # a full disk must not end a gateway
            draft.write_bytes(orjson.dumps(facts))
            draft.replace(ready_file)
        await asyncio.sleep(HEARTBEAT_S)
