"""The gateway benchmark: from an HTTP request to its settled answer, with the whole stack on one machine.

    ./run bench gateway [--only single,batch] [--rates 50,100,200,...] [--rate-seconds S] [--quick]

All load comes from a separate process, in an open loop: a request's latency counts from when it was due. Every figure
is kept as a JSON line in benchmarks/results/gateway.jsonl with the machine it was measured on. docs/benchmarks.md says
how each figure is measured and how to read it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from benchmarks.everything import TieOut
from benchmarks.harness import (
    BenchError,
    Helper,
    World,
    chosen_parts,
    common_arguments,
    run_benchmark,
    settled_stack,
    unlimited_settings,
)
from benchmarks.http_load import HttpJob
from benchmarks.load import Plan
from benchmarks.report import Report
from clearline import keys
from clearline.config import Settings
from clearline.connection import connect
from clearline.stack import Stack
from streams.table import Table

PARTS = ("single", "batch")
P99_GOAL_MS = 50.0
_LEAD_S = 0.5
_WARM_UP_S = 1.0
_WARM_RATE = 200  # before anything is counted: a broker that was just started compiles itself, on the same cores
_WARM_S = 90.0
_NARROWINGS = 4


@dataclass(slots=True)
class Bench:
    """A stack that runs, its partners' credentials, and what was answered so far."""

    stack: Stack
    world: World
    report: Report
    tokens: dict[str, str]
    seconds: float
    batch: int
    answered: Counter[str]
    missing: int = 0
    runs: int = 0

    def measure(self, kind: str, rate: float) -> dict[str, Any]:
        """One rate of requests a second, held for `seconds` after a second that does not count."""
        self.runs += 1
        job = HttpJob(
            kind, [self.stack.addresses().gateway_url], self.tokens, asdict(self.world.plan), f"g{self.runs:05d}",
            rate, max(10, int(rate * (self.seconds + _WARM_UP_S))), int(rate * _WARM_UP_S), self.batch,
        )  # fmt: skip
        with Helper("http", asdict(job)) as helper:
            helper.hear()
            before = _cpu_s(self.stack)
            helper.tell({"start_at": time.monotonic() + _LEAD_S})
            found = helper.hear(self.seconds + 180)
            after = _cpu_s(self.stack)
        passed = max(1e-9, after.pop("at") - before.pop("at"))
        found["cpu_of_a_core"] = {n: round((after[n] - s) / passed, 2) for n, s in before.items() if n in after}
        found["load_average"] = round(os.getloadavg()[0], 2)
        if kind != "noop":
            self.answered.update(found["outcomes"])
            self.answered["distinct"] += found["distinct"]
            self.missing += found["missing"]
        return {"rate": rate, **found}


def run_kind(bench: Bench, kind: str, rates: list[float]) -> None:
    """One kind of request at each rate, the endpoint that does nothing beside it; then the highest rate that holds."""
    known: dict[float, dict[str, Any]] = {}
    beside: dict[float, dict[str, Any]] = {}
    for rate in rates:
        bench.report.say(f"open loop at {rate:g} requests/s of kind {kind} for {bench.seconds:.0f} s")
        known[rate] = bench.measure(kind, rate)
        beside[rate] = bench.measure("noop", rate)
    best = highest(known, lambda rate: bench.measure(kind, rate), bench.report) if len(rates) > 1 else None
    _report(bench, kind, known, beside, best)


def holds(found: dict[str, Any]) -> bool:
    """Whether a measurement kept the goal, and every request was answered with an outcome."""
    p99 = found["p99_ms"]
    whole = not found["missing"] and set(found["outcomes"]) <= {"settled"}
    return p99 is not None and p99 < P99_GOAL_MS and whole


def highest(known: dict[float, dict[str, Any]], measure: Callable[[float], dict[str, Any]], report: Report) -> float:
    """The highest rate that holds the goal, to within a tenth; at most four more measurements."""
    low = max((r for r, f in known.items() if holds(f)), default=0.0)
    for _ in range(_NARROWINGS):
        high = min((r for r, f in known.items() if r > low and not holds(f)), default=0.0)
        if not low or (high and high < low * 1.1):
            break
        rate = float(round((low * high) ** 0.5 if high else low * 1.5))
        if rate in known:
            break
        report.say(f"looking for the highest rate that holds p99 < {P99_GOAL_MS:.0f} ms: {rate:g}/s")
        known[rate] = measure(rate)
        low = rate if holds(known[rate]) else low
    return low


def _cpu_s(stack: Stack) -> dict[str, float]:
    """Processor seconds of everything that runs, and when."""
    status = stack.status()
    out = {"at": time.monotonic()}
    for name, d in {**status["parts"], **status["roles"]}.items():
        try:
            t = psutil.Process(d["pid"]).cpu_times()
        except psutil.Error:
            continue
        out[name] = t.user + t.system
    return out


def _report(
    bench: Bench, kind: str, known: dict[float, dict[str, Any]], beside: dict[float, dict[str, Any]], best: float | None
) -> None:
    each = bench.batch if kind == "batch" else 1
    rows: list[list[Any]] = []
    for rate, f in sorted(known.items()):
        noop = beside.get(rate, {})
        rows.append([
            f"{rate:g}", rate * each, f["p50_ms"], f["p90_ms"], f["p99_ms"], f["max_ms"], f["missing"],
            noop.get("p50_ms"), noop.get("p99_ms"), f["late_ms_p99"], f["client_us_per_request"], f["load_average"],
        ])  # fmt: skip
    if best is not None:
        said = f"p99 < {P99_GOAL_MS:.0f} ms held at {best:g} requests/s" if best else "no rate held the goal"
        rows.append(["best", said, *[""] * 10])
    columns = [
        "requests/s", "transactions/s", "p50 ms", "p90", "p99", "max", "missing", "no-op p50", "no-op p99",
        "sent late p99", "client us", "load",
    ]  # fmt: skip
    figures = {
        "batch": each, "seconds": bench.seconds, "rates": [known[r] for r in sorted(known)],
        "noop": [beside[r] for r in sorted(beside)], "highest_rate": best,
    }  # fmt: skip
    bench.report.grid(kind, figures, columns, rows)


def check(bench: Bench, funded: int) -> bool:
    """Whether the ledger has what was answered: each answer one transaction of its own in the journal, the three
    stores equal to the cent."""
    bench.world.settle_all()
    journal = bench.world.outcomes()
    journal["settled"] = journal.get("settled", 0) - funded
    had = {s: journal.get(s, 0) for s in ("settled", "rejected")}
    told = bench.answered["distinct"]
    tie_out = TieOut(bench.stack.resolved())
    try:
        tie_out.finish()
    finally:
        tie_out.close()
    tied = tie_out.runs[-1]["exit_code"] == 0
    # What was not acknowledged, or not answered at all, may be in the log or not.
    unknown = bench.missing or set(bench.answered) - {"settled", "rejected", "pending", "distinct"}
    equal = told <= sum(had.values()) if unknown else told == sum(had.values())
    equal = equal and bench.answered["settled"] <= had["settled"]
    bench.report.add(
        "check",
        {
            "answered": dict(bench.answered), "unanswered": bench.missing, "journal": journal,
            "one_outcome_each": equal, "tied_out": tied, "tie_out": tie_out.runs[-1],
        },
        [
            ("transactions answered with an outcome, ids all different", told),
            ("settled and rejected in the journal", sum(had.values())),
            ("records that came into the log twice, settled once", journal.get("repeated", 0)),
            ("requests without an answer", bench.missing),
            ("each answer is one outcome of its own", equal),
            ("journal, ClickHouse and Redis equal", tied),
        ],
    )  # fmt: skip
    return equal and tied


def make_keys(settings: Settings, partner_ids: Sequence[str]) -> dict[str, str]:
    """A key for each partner, as `clearline key` makes them; their tokens."""
    system = connect(settings)
    tokens = {}
    with Table(system.kafka, system.topics.access, system.codec) as access:
        for partner_id in partner_ids:
            made = keys.make(
                partner_id, ["read", "transact:*:*"], sandbox=settings.sandbox, now_ms=int(time.time() * 1000),
                requested_by="benchmark",
            )  # fmt: skip
            access.put(keys.row_key(made.key.key_id), made.key)
            tokens[partner_id] = made.token
    return tokens


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="clearline bench gateway", description="HTTP request to settled answer.")
    common_arguments(parser, PARTS)
    parser.add_argument("--rates", default="50,100,200,300,400", help="single requests per second")
    parser.add_argument("--batch-rates", default="2,5,10,20,40", help="batches per second")
    parser.add_argument("--batch", type=int, default=100, help="transactions in a batch, at most 1000")
    parser.add_argument("--rate-seconds", type=float, default=20.0, help="how long each rate is held")
    parser.add_argument("--partners", type=int, default=16, help="root partners, each with a key of its own")
    options = parser.parse_args(arguments)
    options.only = chosen_parts(options.only, PARTS)
    if options.quick:
        options.rates, options.batch_rates, options.rate_seconds, options.batch = "30", "2", 2.0, 10
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts that are asked for; returns the exit code: 1 when the ledger is not what was answered."""
    return run_benchmark("gateway", arguments, _arguments, _run)


def _run(options: argparse.Namespace, report: Report) -> int:
    with unlimited_settings("gateway") as settings:
        plan = Plan(options.seed, partners=options.partners, partitions=settings.partitions)
        with settled_stack(settings, plan, report) as (stack, world):
            funded = world.outcomes().get("settled", 0)
            if not funded:
                raise BenchError("the partners' opening balances did not settle")
            tokens = make_keys(stack.resolved(), plan.partner_ids())
            bench = Bench(stack, world, report, tokens, options.rate_seconds, options.batch, Counter())
            _warm_up(bench)
            if "single" in options.only:
                run_kind(bench, "single", [float(r) for r in options.rates.split(",")])
            if "batch" in options.only:
                run_kind(bench, "batch", [float(r) for r in options.batch_rates.split(",")])
            return 0 if check(bench, funded) else 1


def _warm_up(bench: Bench) -> None:
    """A minute and a half that is not measured; short runs only show that everything works."""
    if bench.seconds < 5:
        return
    bench.report.say("warming up: the broker compiles itself in its first minute")
    asked, bench.seconds = bench.seconds, _WARM_S
    bench.measure("single", _WARM_RATE)
    bench.seconds = asked
    bench.measure("batch", 5)


if __name__ == "__main__":
    sys.exit(main())
