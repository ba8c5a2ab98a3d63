"""The ledger in ClickHouse: how fast the sink fills it, what reports cost on millions of postings, bytes per posting.

    ./run bench ledger [--only sink,reports] [--rows 1000000,10000000] [--transactions N] [--rounds N] [--quick]
    ./run bench ledger --only reports --rows 1000000,10000000,100000000        the whole: 10 minutes and 6 GB of disk

Floors: the sink takes at least 3 times what one worker settles, and at least half of what the server inserts of the
same rows by itself, in rounds in turn; on the largest ledger a balance as of any day takes at most 100 ms, a month's
statement, the trial balance of a closed day and a partner tree's totals by day at most 1 s each, and a posting at most
40 bytes on disk. Exit code 1 when one is missed (not with --quick). docs/benchmarks.md says how to read it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import chosen_parts, common_arguments, run_benchmark
from benchmarks.ledger_reports import run_reports
from benchmarks.ledger_sink import run_sink
from benchmarks.report import Report
from clearline.config import load_settings
from clearline.connection import clickhouse_config
from clearline.stack import Stack
from schemas.errors import BadInputError

PARTS = ("sink", "reports")
ROWS_MIN = 20_000


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="clearline bench ledger", description="Measures the ledger in ClickHouse.")
    common_arguments(parser, PARTS)
    parser.add_argument("--rows", default="1000000,10000000", help="sizes of the ledger in postings, with commas")
    parser.add_argument("--transactions", type=int, default=600_000, help="what the sink takes (default 600000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the sink and of the server in turn")
    parser.add_argument("--draws", type=int, default=20, help="how often each report is asked")
    options = parser.parse_args(arguments)
    options.only = chosen_parts(options.only, PARTS)
    if options.quick:
        options.rows, options.transactions, options.rounds, options.draws = "40000,80000", 5_000, 1, 3
    try:
        options.sizes = sorted({int(n) for n in options.rows.split(",")})
    except ValueError:
        raise BadInputError(f"--rows: whole numbers with commas, not {options.rows}") from None
    if not options.sizes or options.sizes[0] < ROWS_MIN:
        raise BadInputError(f"--rows: at least {ROWS_MIN:,} postings")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts that are asked for; returns the exit code."""
    return run_benchmark("ledger", arguments, _arguments, _run)


def _run(options: argparse.Namespace, report: Report) -> int:
    missed = _missed(options, report)
    for text in missed:
        report.say(f"MISSED: {text}")
    return int(bool(missed) and not options.quick)


def _missed(options: argparse.Namespace, report: Report) -> list[str]:
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="clearline-bench-"))
    # Nothing else is to run beside it, so the server yields to nobody.
    settings = load_settings(data_dir=folder / "parts", world="bench", projections_nice=0)
    missed: list[str] = []
    try:
        if "sink" in options.only:
            with Stack(settings, ("kafka", "registry", "clickhouse")) as stack:
                report.say("starting Kafka, the registry and ClickHouse")
                stack.start()
                missed += run_sink(stack, settings, report, options.transactions, options.rounds, options.seed)
        if "reports" in options.only:
            own = settings.model_copy(update={"data_dir": folder / "reports"})
            with Stack(own, ("clickhouse",)) as stack:
                stack.start()
                config = clickhouse_config(stack.resolved())
                pids = (os.getpid(), stack.pid("clickhouse"))
                missed += run_reports(config, report, options.sizes, options.draws, options.seed, pids)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.say(f"done in {time.monotonic() - started:.0f} s; results are in {options.results / 'ledger.jsonl'}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
