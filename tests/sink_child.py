"""A sink without Kafka in a process of its own, so that it can be killed.

The processes come from a fork server that has everything imported, so that a kill costs milliseconds and not seconds.
"""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from schemas import failpoints
from schemas.errors import PartUnavailableError
from sinks import ledger_sink
from sinks.clickhouse import ClickHouseConfig, FencedError
from sinks.ledger_sink import Arrival, LedgerSink
from tests.journals import local_codec

TOPIC = "test.journal@one"
PIECE_RECORDS = 12  # so that an insert has several blocks, between which the process can be killed


def feed(sink: LedgerSink, arrivals: list[Arrival], batch: int, pause_s: float = 0.0) -> None:
    """Writes everything that is not stored yet, batch by batch."""
    start = sink.take_over()
    todo = [a for a in arrivals if a.offset >= start.get(a.partition, 0)]
    for i in range(0, len(todo), batch):
        sink.write(todo[i : i + batch])
        time.sleep(pause_s)


def start(config: ClickHouseConfig, file: Path, fail: str, batch: int, pause_s: float) -> ForkServerProcess:
    """Starts a process that feeds the journal kept in `file`, from where the store says to go on.

    It ends with 0 when all is stored, 3 when another sink has taken over.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_main, args=(config, file, fail, batch, pause_s), daemon=True)
    process.start()
    return process


def _main(config: ClickHouseConfig, file: Path, fail: str, batch: int, pause_s: float) -> None:
    failpoints.arm(fail)
    ledger_sink.PIECE_RECORDS = PIECE_RECORDS
    arrivals = [Arrival(*a) for a in pickle.loads(file.read_bytes())]
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        sink = LedgerSink(config, TOPIC, local_codec())
        try:
            feed(sink, arrivals, batch, pause_s)
            sys.exit(0)
        except FencedError:
            sys.exit(3)
        except PartUnavailableError:
            time.sleep(0.1)
        finally:
            sink.close()
    sys.exit(4)
