"""The pipeline benchmark: throughput, latency, skew, recovery and endurance of the settlement, beside a copy loop.

    ./run bench pipeline [--only copy,backlog,...] [--transactions N] [--seconds S] [--quick]

All load comes from separate processes. Every figure is kept as a JSON line in benchmarks/results/pipeline.jsonl with
the machine it was measured on. docs/benchmarks.md says how each figure is measured and how to read it.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.everything import run_everything
from benchmarks.harness import World, chosen_parts, common_arguments, prepare_registry, run_benchmark
from benchmarks.latency import run_latency, run_recovery
from benchmarks.load import Plan
from benchmarks.report import Report
from benchmarks.throughput import run_backlog, run_rebuild, run_shapes, run_workers
from clearline.config import Settings, load_settings
from clearline.stack import Addresses, Stack

PARTS = ("copy", "backlog", "workers", "skew", "latency", "recovery", "everything")
_ON_THE_BROKER = set(PARTS) - {"everything"}


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="clearline bench pipeline", description="Measures the settlement end to end.")
    common_arguments(parser, PARTS)
    parser.add_argument("--transactions", type=int, default=1_000_000, help="size of the backlog (default 1000000)")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long everything runs (default 300)")
    parser.add_argument("--rate-seconds", type=float, default=10.0, help="how long each rate of latency is held")
    parser.add_argument("--rates", default="500,1000,2000,5000,10000", help="rates of latency, per second")
    parser.add_argument("--offered", type=int, default=11_000, help="transactions per second offered to everything")
    parser.add_argument("--accounts", type=int, default=100_000, help="accounts of the rebuild")
    parser.add_argument("--kills", type=int, default=5, help="kills of a worker; the broker is killed twice at most")
    options = parser.parse_args(arguments)
    options.only = chosen_parts(options.only, PARTS)
    options.broker_kills = min(2, options.kills)
    options.shape_transactions = max(1, options.transactions // 4)
    if options.quick:
        options.transactions, options.shape_transactions, options.accounts = 20_000, 5_000, 1_500
        options.seconds, options.rate_seconds, options.rates, options.offered = 8.0, 2.0, "1000", 2_000
        options.kills, options.broker_kills = 1, 0
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts that are asked for; returns the exit code."""
    return run_benchmark("pipeline", arguments, _arguments, _run)


def _run(options: argparse.Namespace, report: Report) -> int:
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="clearline-bench-"))
    settings = load_settings(data_dir=folder / "parts", world="bench")
    try:
        if _ON_THE_BROKER & set(options.only):
            with Stack(settings, ("kafka", "registry")) as stack:
                report.say("starting Kafka and the registry")
                addresses = stack.start()
                prepare_registry(addresses)
                _run_on_broker(options, report, settings, stack, addresses)
        if "everything" in options.only:
            run_everything(settings, report, folder / "everything", options.offered, options.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.say(f"done in {time.monotonic() - started:.0f} s; results are in {options.results / 'pipeline.jsonl'}")
    return 0


def _run_on_broker(
    options: argparse.Namespace, report: Report, settings: Settings, stack: Stack, addresses: Addresses
) -> None:
    numbers = itertools.count(1)

    def new_world(name: str, plan: Plan) -> World:
        return World(f"{name}-{next(numbers)}", settings, addresses, plan, stack.pid("kafka"))

    def plan(shape: str = "even", hot_share: float = 0.0) -> Plan:
        return Plan(options.seed, partitions=settings.partitions, shape=shape, hot_share=hot_share)

    only = options.only
    if "copy" in only or "backlog" in only:
        run_backlog(new_world, report, options.transactions, plan(), with_settlement="backlog" in only)
    if "backlog" in only:
        run_rebuild(new_world, report, options.accounts)
    if "workers" in only:
        run_workers(new_world, report, max(1, options.transactions // 2))
    if "skew" in only:
        shapes = {"even": plan(), "zipf": plan("zipf"), "20% in one": plan("hot", 0.2), "100% in one": plan("hot", 1.0)}
        if options.quick:
            shapes = {n: shapes[n] for n in ("even", "100% in one")}
        run_shapes(new_world, report, options.shape_transactions, shapes)
    if "latency" in only:
        run_latency(new_world, report, [int(r) for r in options.rates.split(",")], options.rate_seconds)
    if "recovery" in only:
        run_recovery(new_world, report, stack, options.kills, options.broker_kills, 1_000)


if __name__ == "__main__":
    sys.exit(main())
