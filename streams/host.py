"""The settlement host: a Faust app whose service drives a transactional core and whose agent settles its batches.

Faust brings the worker, its event loop, its services and its agents; its own consumer, tables and transactions stay
off. The core runs in a thread of its own; a watchdog ends the process when a client call hangs, because after a
broker's restart such a call can hang for minutes and a restart of the slot takes two seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faust
import mode
import structlog
from confluent_kafka import KafkaError, KafkaException
from faust.app.base import BootStrategy

from ledger.flights import under_way
from ledger.state import Head
from processors.agents import add_settlement_agent
from processors.settlement import Batch, Outlets, Settlement
from schemas.codec import Codec
from schemas.errors import BadInputError, InvariantError, PartUnavailableError
from schemas.states import FreezeState
from streams import traces
from streams.clients import KafkaConfig
from streams.core import CoreDroppedError, Flow, HostOptions, TransactionalCore
from streams.ends import EndsWatch
from streams.metrics import Check, MetricsAddress, MetricsServer, RoleFacts, lag_check
from streams.metrics_worker import OUTCOMES, WorkerCollector
from streams.recovery import PartitionLedger
from streams.registry import Registry, learn_schemas
from streams.times import Rate
from streams.topics import Topics, partition_counts

FROZEN_SHOWN = 50
_FROZEN_S = 2.0
EXIT_SETTINGS = 2
EXIT_HUNG = 70
EXIT_INVARIANT = 78
_FENCED = (
    KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED, KafkaError.FENCED_INSTANCE_ID,
)  # fmt: skip
log = structlog.get_logger("settlement")


class _NoKafka(BootStrategy):
    enable_kafka = False
    enable_web = False


class _App(faust.App):
    BootStrategy = _NoKafka


@dataclass(slots=True)
class Dropped:
    """The cores that this worker had to drop: how many, how many of them because somebody else runs the same slot, and
    the last one. Times in ms UTC, 0: never."""

    count: int = 0
    fenced: int = 0
    last_why: str = ""
    last_at_ms: int = 0
    last_fenced_at_ms: int = 0

    def by(self, error: BaseException) -> None:
        """One more."""
        now_ms = int(time.time() * 1000)
        self.count, self.last_why, self.last_at_ms = self.count + 1, str(error), now_ms
        if is_fenced(error):
            self.fenced, self.last_fenced_at_ms = self.fenced + 1, now_ms


def is_fenced(error: BaseException) -> bool:
    """Whether the broker refuses this worker because another one has taken its transactional id or its place in the
    group. A fatal error of the consumer tells its reason only in words."""
    cause = error if isinstance(error, KafkaException) else error.__cause__
    if not isinstance(cause, KafkaException):
        return False
    found = cause.args[0]
    return found.code() in _FENCED or "fenced" in found.str().lower()


class SettlementService(mode.Service):
    """Builds cores, one after another, until it is stopped."""

    def __init__(
        self, app: Any, channel: Any, settlement: Settlement, kafka: KafkaConfig, topics: Topics,
        options: HostOptions, codec: Codec, ready_file: Path | None, metrics: MetricsAddress,
    ) -> None:  # fmt: skip
        self.app, self.channel, self.settlement = app, channel, settlement
        self.kafka, self.topics, self.options, self.codec = kafka, topics, options, codec
        self.ready_file = ready_file
        self.metrics = metrics
        self.flow = Flow()
        self.core: TransactionalCore | None = None
        self.stopped: dict[int, str] = {}  # partitions that broke an invariant, and how
        self.dropped = Dropped()
        self._frozen_now: tuple[float, list[dict[str, Any]]] = (float("-inf"), [])
        self._metrics_server: MetricsServer | None = None
        self._watch: EndsWatch | None = None
        self._rate = Rate()
        self._rate_now = 0.0
        self._ending = threading.Event()
        super().__init__(loop=app.loop, beacon=app.beacon)

    async def on_start(self) -> None:
        self.app.flow_control.resume()  # nothing else does it without Faust's consumer, and it would drop our events
        try:
            name = f"worker-{self.options.slot}"
            facts = RoleFacts(name, self.checks, lambda: "kafka" if self._broker_away() else "")
            collector = WorkerCollector(self.figures, self.flow.latency, name)
            self._metrics_server = MetricsServer(self.metrics, facts, [collector])
        except BadInputError as e:
            log.critical("wrong settings, this worker ends", error=str(e))
            _exit(EXIT_SETTINGS)
        watch = self._watch = EndsWatch(self.kafka, self.topics.submitted, self._partitions)
        self.flow.ends = lambda: {} if watch.why else watch.ends
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._main, args=(loop,), name="core", daemon=True)
        self._thread.start()

    def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        def hand_over(batch: Batch) -> None:
            asyncio.run_coroutine_threadsafe(self.channel.send(value=batch), loop)

        pause_s = 0.1
        while not self._ending.is_set():
            before = self.flow.commits
            try:
                self._run_core(hand_over)
                continue
            except InvariantError as e:
                if e.partition is None:
                    log.critical("invariant broken, this worker stops", error=str(e))
                    _exit(EXIT_INVARIANT)
                else:
                    log.critical("invariant broken, this partition stops", error=str(e), partition=e.partition)
                    self.stopped[e.partition] = str(e)
                    continue
            except (CoreDroppedError, KafkaException, PartUnavailableError) as e:
                log.warning("core dropped, a new one takes over", error=str(e), kind=type(e).__name__)
                self.dropped.by(e)
            except Exception as e:
                log.exception("core dropped after an unexpected error")
                self.dropped.by(e)
            pause_s = 0.1 if self.flow.commits > before else min(pause_s * 2, 5.0)
            self._ending.wait(pause_s)

    def _run_core(self, hand_over: Callable[[Batch], None]) -> None:
        core = self.core = TransactionalCore(
            self.kafka, self.topics, self.options, self.codec, hand_over, self._ending, self.flow, self.stopped
        )
        try:
            core.connect()
            core.run()
        finally:
            core.close()
            self.core = None

    @mode.Service.task
    async def _watchdog(self) -> None:
        """Ends the process when one client call blocks for longer than `watchdog_s`."""
        while not self.should_stop:
            await self.sleep(0.5)
            call = self.core.in_call if self.core is not None else None
            allowed = self.options.watchdog_s
            if call is not None and call[0] in ("committed", "init_transactions"):
                allowed = max(30.0, allowed)  # they wait for a predecessor's transaction to end
            if call is not None and time.monotonic() - call[1] > allowed:
                log.critical("client call hangs, the process ends to be restarted", call=call[0], seconds=allowed)
                _exit(EXIT_HUNG)

    @mode.Service.task
    async def _report(self) -> None:
        """Tells the supervisor twice a second what this worker has and does."""
        while not self.should_stop:
            await self.sleep(0.5)
            self._rate_now = self._rate.per_second(self.flow.commands)
            if self.ready_file is not None:
                with suppress(OSError):  # a full disk must not end a worker
                    _write(self.ready_file, self.figures())

    def _partitions(self) -> list[int]:
        core = self.core
        return sorted(dict(core.ledgers)) if core is not None else []

    def _broker_away(self) -> str:
        """Why the broker does not answer, or empty."""
        return self._watch.why if self._watch is not None else ""

    def _lag_s(self) -> float:
        """Age of the oldest command that is taken and not committed."""
        taken = min(self.flow.taken_ms.copy(), default=0)
        return max(0.0, round(time.time() - taken / 1000, 3)) if taken else 0.0

    def checks(self) -> list[Check]:
        """What must hold for this worker to do all of its work."""
        core = self.core
        joined = core is not None and core.joined
        recovered = core is not None and joined and not core.recovering
        own = ", ".join(str(p) for p in self._partitions()) or "none"
        away, stopped = self._broker_away(), dict(self.stopped)
        halted = "; ".join(f"partition {p} stopped: {why}" for p, why in stopped.items())
        return [
            Check("assigned", joined, f"in its group, partitions {own}" if joined else "it has not joined its group"),
            Check("recovered", recovered, "its state is read" if recovered else "it still reads its state"),
            Check("partitions", not stopped, halted or "no partition stopped"),
            lag_check(self._lag_s(), self.metrics.lag_s_max),
            Check("store", not away, away or "Kafka answers"),
        ]  # fmt: skip

    def figures(self) -> dict[str, Any]:
        """Assignment, progress and memory of this worker, as JSON values."""
        core = self.core
        ledgers = dict(core.ledgers) if core is not None else {}
        ends = self._watch.ends if self._watch is not None else {}
        f = self.flow
        skew_ms, away = f.skew_ms.value, self._broker_away()
        return {
            "pid": os.getpid(), "ready": core is not None and core.joined, "slot": self.options.slot,
            "metrics": self._metrics_server.url if self._metrics_server is not None else "",
            "partitions": sorted(ledgers), "stopped": {str(p): why for p, why in self.stopped.items()},
            "next_offset": {str(p): x.base.head.next_offset for p, x in ledgers.items()},
            "end_offset": {str(p): end for p, end in ends.items() if p in ledgers},
            "lag": {
                str(p): max(0, end - ledgers[p].base.head.next_offset) for p, end in ends.items() if p in ledgers
            },
            "sequence": {str(p): x.base.head.sequence for p, x in ledgers.items()},
            "outcomes": {str(p): {n: getattr(x.base.head, n) for n in OUTCOMES} for p, x in ledgers.items()},
            "waiting_for": away, "waiting_part": "Kafka" if away else "",
            "latency_ms": f.latency.last_minute(), "rate_per_second": self._rate_now, "lag_seconds": self._lag_s(),
            "clock_skew_ms": round(skew_ms, 1) if skew_ms is not None else None, "cores": f.cores,
            "heads": {str(p): _head(x.base.head) for p, x in ledgers.items()},
            "dropped": asdict(self.dropped), "frozen": self._frozen(list(ledgers.values())),
            "accounts": sum(len(x.base.accounts) for x in ledgers.values()),
            "keys": sum(len(x.keys) for x in ledgers.values()),
            "keys_bytes": sum(x.keys.memory_bytes for x in ledgers.values()),
            "in_flight": {
                "transactions": sum(x.base.in_flight for x in ledgers.values()),
                "amounts": _sums([under_way(x.base.accounts) for x in ledgers.values()]),
            },
            "commands": f.commands, "commits": f.commits, "aborts": f.aborts, "last_commit_at": f.last_commit_at,
            "gather_s": f.gather_s, "wait_s": f.wait_s, "commit_s": f.commit_s,
            "stages": {n: getattr(self.settlement.stages, n) for n in self.settlement.stages.__slots__},
        }  # fmt: skip

    def _frozen(self, ledgers: list[PartitionLedger]) -> list[dict[str, Any]]:
        """The first of what is frozen by a freeze of its own, looked for at most every two seconds: rows are many."""
        at, found = self._frozen_now
        if time.monotonic() - at > _FROZEN_S:
            having = [x.base for x in ledgers if x.base.freezes]
            rows = [b.rows.get(key) for b in having for key in list(b.rows) if key.startswith("f:")]
            found = [
                {"level": r.level, "subject_id": r.subject_id, "requested_by": r.requested_by, "note": r.note,
                 "approved_by": r.approved_by, "since": r.since}
                for r in rows if isinstance(r, FreezeState)
            ][:FROZEN_SHOWN]  # fmt: skip
            self._frozen_now = (time.monotonic(), found)
        return found

    async def on_stop(self) -> None:
        self._ending.set()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join, 10)
        if self._watch is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._watch.close)
        if self._metrics_server is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._metrics_server.close)


def _head(head: Head) -> dict[str, Any]:
    """Where a partition stands: the last sequence, the chain's head, and how many commands became dead letters."""
    return {"sequence": head.sequence, "chain": head.chain.hex(), "dead": head.dead}


def _sums(parts: list[dict[str, tuple[int, int]]]) -> dict[str, list[int]]:
    """Sums of pairs by name."""
    out: dict[str, list[int]] = {}
    for name, (a, b) in (item for part in parts for item in part.items()):
        sums = out.setdefault(name, [0, 0])
        sums[0] += a
        sums[1] += b
    return out


def _exit(code: int) -> None:
    sys.stderr.flush()
    os._exit(code)


def _write(path: Path, document: dict[str, Any]) -> None:
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(document))
    scratch.replace(path)


class SchemaLearner:
    """Asks the registry for schema ids; those that are not ours come back. It asks for one of these again after
    `ask_again_s`: somebody may have registered it since, and redrives what has died of it."""

    def __init__(self, codec: Codec, registry: Registry, ask_again_s: float = 2.0) -> None:
        self._codec, self._registry, self._ask_again_s = codec, registry, ask_again_s
        self._refused: dict[int, float] = {}

    def __call__(self, schema_ids: set[int]) -> set[int]:
        now = time.monotonic()
        still = {i for i in schema_ids if i in self._refused and now - self._refused[i] < self._ask_again_s}
        refused = set(still)
        learn_schemas(self._codec, self._registry, schema_ids, refused)
        if len(self._refused) > 10_000:
            self._refused.clear()
        self._refused.update(dict.fromkeys(refused - still, now))
        return refused


def build_app(
    kafka: KafkaConfig, registry_url: str, world: str, options: HostOptions, ready_file: Path | None, data_dir: Path,
    metrics: MetricsAddress,
) -> Any:  # fmt: skip
    """The Faust app of one settlement worker. It connects to nothing before it is started by a Faust worker."""
    topics = Topics(world)
    registry = Registry(registry_url)
    codec = registry.codec()
    reply_partitions = partition_counts(kafka).get(topics.replies, 0)
    outlets = Outlets(
        topics.submitted, topics.journal, topics.state, topics.dead, topics.replies, options.partitions,
        reply_partitions, options.message_bytes_max,
    )  # fmt: skip
    settlement = Settlement(codec, outlets, SchemaLearner(codec, registry))
    settlement.carries = traces.HEADER if traces.active is not None else ""
    data_dir.mkdir(parents=True, exist_ok=True)
    app = _App(
        f"{topics.group}-{options.slot}", broker=f"kafka://{kafka.bootstrap}", datadir=str(data_dir),
        store="memory://", web_enabled=False,
    )  # fmt: skip
    channel = app.channel()
    add_settlement_agent(app, channel, settlement)

    @app.service
    class Settle(SettlementService):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(app, channel, settlement, kafka, topics, options, codec, ready_file, metrics)

    return app
