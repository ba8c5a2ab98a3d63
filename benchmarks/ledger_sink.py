"""The ClickHouse sink beside the settlement whose journal it takes, and beside the server inserting the same rows.

One worker settles a backlog on a real broker; its journal is read once. Then, in turns, each time into a new database:
the sink writes these records (decode, fence, inserts through clickhouse-driver, reading back), and the server inserts
the very same rows from files of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil

from benchmarks.harness import BenchError, World, prepare_registry
from benchmarks.ledger_rows import sizes
from benchmarks.load import Plan
from benchmarks.report import Report
from benchmarks.throughput import drain
from clearline.config import Settings
from clearline.connection import clickhouse_config
from clearline.stack import Stack
from schemas.codec import Codec
from sinks import migrate
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.ledger_sink import Arrival, LedgerSink
from streams.reader import read_to_end
from streams.registry import Registry
from streams.sink_host import SinkOptions

OF_SETTLEMENT_MIN = 3.0
OF_ENGINE_MIN = 0.5
BATCH = SinkOptions().batch_records_max
TABLES = ("control_changes", "postings", "pending", "outcomes")


@dataclass
class Journal:
    """What one worker settled, and how fast. `rate`: commands per second."""

    arrivals: list[Arrival]
    codec: Codec
    rate: float
    topic: str
    cpu_us: float  # of worker and broker, per command


class Took(NamedTuple):
    """One round: seconds, and processor seconds of this process and of the server."""

    seconds: float
    cpu: tuple[float, ...]


def settled(stack: Stack, settings: Settings, number: int, seed: int, report: Report) -> Journal:
    """A backlog settled by one worker of the real role, and its whole journal."""
    addresses = stack.addresses()
    prepare_registry(addresses)
    plan = Plan(seed, partitions=settings.partitions)
    with World("ledger", settings, addresses, plan, stack.pid("kafka")) as world:
        report.say(f"settling {number:,} transactions")
        world.setup()
        world.fill(number)
        drained = drain(world, 1)
        arrivals = [Arrival(r.partition, r.offset, r.value) for r in read_to_end(world.kafka, world.topics.journal)]
    rate = drained["settled_per_second"]
    cpu_us = drained["worker_cpu_us_each"] + drained["cpu_of_a_core"]["kafka"] / rate * 1e6
    return Journal(arrivals, Registry(addresses.registry_url or "").codec(), rate, "bench.journal@one", cpu_us)


def run_sink(stack: Stack, settings: Settings, report: Report, number: int, rounds: int, seed: int) -> list[str]:
    """The whole part. Returns what did not keep its limit."""
    journal = settled(stack, settings, number, seed, report)
    base = clickhouse_config(stack.resolved())
    folder = settings.data_dir / "rows"
    folder.mkdir(parents=True)
    sink: list[Took] = []
    engine: list[Took] = []
    pids = (os.getpid(), stack.pid("clickhouse"))
    figures: dict[str, Any] = {}
    rows = 0
    for i in range(rounds):
        report.say(f"round {i + 1} of {rounds}: the sink, then the server alone")
        own, beside = _fresh(base, f"bench_sink_{i}"), _fresh(base, f"bench_engine_{i}")
        with measured(sink, pids):
            _by_sink(own, journal)
        db = Database(own)
        if not i:
            rows = _to_files(db, folder)
            figures["bytes_per_posting"] = sizes(db, "postings")["all"]
            figures["bytes_per_record"] = sizes(db, "outcomes")["all"]
        with measured(engine, pids):
            _by_engine(beside, folder)
        _same_rows(db, own, beside)
        for c in (own, beside):
            db.run(f"DROP DATABASE {c.database} SYNC")
        db.close()
    records = len(journal.arrivals)
    of_settlement = [records / s.seconds / journal.rate for s in sink]
    of_engine = [e.seconds / s.seconds for e, s in zip(engine, sink, strict=True)]
    sink_s, engine_s = median(s.seconds for s in sink), median(e.seconds for e in engine)
    per_record = {"sink": _cpu(sink, 0, records), "its server": _cpu(sink, 1, records),
                  "server alone": _cpu(engine, 1, records), "settlement": round(journal.cpu_us, 1)}  # fmt: skip
    figures = {
        "records": records, "rows": rows, "rounds": rounds,
        "settled_per_second": round(journal.rate), "sink_records_per_second": round(records / sink_s),
        "sink_rows_per_second": round(rows / sink_s), "engine_rows_per_second": round(rows / engine_s),
        "processor_us_per_record": per_record,
        "of_settlement": round(median(of_settlement), 2), "of_settlement_min": OF_SETTLEMENT_MIN,
        "of_settlement_each": [round(r, 2) for r in of_settlement],
        "of_engine": round(median(of_engine), 2), "of_engine_min": OF_ENGINE_MIN,
        "of_engine_each": [round(r, 2) for r in of_engine], **figures,
    }  # fmt: skip
    report.add("sink", figures)
    missed = []
    if figures["of_settlement"] < OF_SETTLEMENT_MIN:
        missed.append(f"the sink takes {figures['of_settlement']} times what one worker settles")
    if figures["of_engine"] < OF_ENGINE_MIN:
        missed.append(f"the sink inserts {figures['of_engine']} of what the server does alone")
    return missed


def _fresh(base: ClickHouseConfig, database: str) -> ClickHouseConfig:
    own = ClickHouseConfig(base.host, base.port, database, base.user, base.password, timeout_s=300)
    migrate.apply(own)
    return own


@contextmanager
def measured(to: list[Took], pids: tuple[int, ...]) -> Iterator[None]:
    """Adds what the block took."""

    def cpu() -> list[float]:
        times = [psutil.Process(pid).cpu_times() for pid in pids]
        return [t.user + t.system for t in times]

    before, started = cpu(), time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    to.append(Took(seconds, tuple(b - a for a, b in zip(before, cpu(), strict=True))))


def _cpu(took: list[Took], process: int, records: int) -> float:
    """Processor time of a process per record, microseconds, of the median round."""
    return round(median(t.cpu[process] for t in took) / records * 1e6, 1)


def _by_sink(config: ClickHouseConfig, journal: Journal) -> None:
    """The sink takes over, stores and proves all of it."""
    sink = LedgerSink(config, journal.topic, journal.codec)
    sink.take_over()
    starts = range(0, len(journal.arrivals), BATCH)
    stored = sum(sink.write(journal.arrivals[i : i + BATCH], more=True) for i in starts) + sink.flush()
    sink.close()
    if stored != len(journal.arrivals):
        raise BenchError(f"{len(journal.arrivals)} records, {stored} stored")


def _columns(db: Database, table: str) -> str:
    """The columns that hold something: what is computed is left to the insert."""
    rows = db.rows(
        "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = %(t)s "
        "AND default_kind NOT IN ('EPHEMERAL', 'MATERIALIZED', 'ALIAS') ORDER BY position",
        {"t": table},
    )
    return ", ".join(name for (name,) in rows)


def _to_files(db: Database, folder: Path) -> int:
    """The rows of each table as a file in ClickHouse's own format, in the journal's order. How many rows."""
    count = 0
    for table in TABLES:
        rows = f"SELECT {_columns(db, table)} FROM {table} ORDER BY booked_at, partition, offset"
        db.run(f"INSERT INTO FUNCTION file('{folder / table}.native', Native) {rows}")
        count += int(db.rows(f"SELECT count() FROM {table}")[0][0])
    return count


def _by_engine(config: ClickHouseConfig, folder: Path) -> None:
    """The server inserts the same rows by itself."""
    db = Database(config)
    for table in TABLES:
        columns = _columns(db, table)
        db.run(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM file('{folder / table}.native', Native)")
    db.close()


def _same_rows(db: Database, one: ClickHouseConfig, other: ClickHouseConfig) -> None:
    """Raises BenchError unless both databases have the same rows, by count and by a hash over what was inserted."""
    for table in TABLES:
        columns = _columns(db, table).removesuffix(", run")  # each sink has a number of its own
        what = f"count(), sum(cityHash64({columns}))"
        a, b = (db.rows(f"SELECT {what} FROM {c.database}.{table}")[0] for c in (one, other))
        if a != b:
            raise BenchError(f"{table}: the sink has {a[0]} rows, the server alone {b[0]}, or others")
