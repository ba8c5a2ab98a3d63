"""What reports cost on a ledger of 1, 10 or 100 million postings, asked as command line and HTTP ask them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from random import Random
from statistics import median
from typing import Any, NamedTuple

import psutil

from benchmarks.harness import BenchError
from benchmarks.ledger_rows import DAYS, fill, first_day, settle_down, sizes
from benchmarks.report import Report
from sinks import migrate
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance.ask import Result, ask_for
from sinks.finance.catalogue import CATALOGUE

BYTES_MAX = 40.0
LIMITS_MS = {
    "balance as of a day": 100.0,
    "statement of a month": 1_000.0,
    "trial balance of a closed day": 1_000.0,
    "totals of a partner's tree by day": 1_000.0,
}
MERGE_S = 90.0


@dataclass
class Draws:
    """What is asked for, drawn from a seed: accounts (half of them among the 100 busiest), days, trees of partners."""

    db: Database
    random: Random
    first: date

    def __post_init__(self) -> None:
        found = self.db.rows(
            "SELECT account_id, sum(n) AS n FROM (SELECT account_id, count() AS n FROM postings GROUP BY account_id, "
            "value_date, booked_date, currency, side) GROUP BY account_id ORDER BY n DESC, account_id"
        )
        self.accounts = [str(a) for a, _ in found if not a.startswith("bank:")]
        self.roots = [f"p{i}" for i in range(60)]

    def account(self) -> str:
        busy = self.random.random() < 0.5
        return self.random.choice(self.accounts[:100] if busy else self.accounts)

    def day(self) -> date:
        return self.first + timedelta(days=self.random.randrange(30, DAYS - 1))

    def month(self) -> tuple[str, str]:
        """Since and until of a whole month."""
        until = self.day().replace(day=1) - timedelta(days=1)
        return until.replace(day=1).isoformat(), until.isoformat()

    def closed(self) -> tuple[date, str]:
        """A day, and the cut ten minutes after it was over, as a close makes one."""
        day = self.day()
        until = datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC) + timedelta(minutes=10)
        rows = self.db.rows(
            "SELECT partition, max(sequence) FROM outcomes WHERE booked_at < %(until)s GROUP BY partition "
            "ORDER BY partition",
            {"until": until.strftime("%Y-%m-%d %H:%M:%S")},
        )
        return day, ",".join(f"{p}:{s}" for p, s in rows)


class How(NamedTuple):
    """How often each question is asked, drawn from which seed; whose processor time counts; the last day is before."""

    rounds: int
    seed: int
    pids: tuple[int, ...]
    today: date


def run_reports(
    config: ClickHouseConfig, report: Report, wanted: list[int], rounds: int, seed: int, pids: tuple[int, ...]
) -> list[str]:
    """One database for each number of postings, made, asked and dropped. Returns what did not keep its limit.

    `pids`: whose processor time a question takes, this process and the server.
    """
    how = How(rounds, seed, pids, datetime.now(UTC).date())
    found: dict[int, dict[str, Any]] = {}
    for postings in wanted:
        own = ClickHouseConfig(config.host, config.port, f"bench_{postings}", timeout_s=600)
        migrate.apply(own)
        db = Database(own)
        try:
            report.say(f"making {postings:,} postings")
            found[postings] = _one_size(db, report, postings, how)
        finally:
            db.run(f"DROP DATABASE IF EXISTS {own.database} SYNC")
            db.close()
    _growth(report, found)
    largest = found[max(found)]
    missed = [
        f"{name}: {largest[name]['max_ms']} ms" for name, most in LIMITS_MS.items() if largest[name]["max_ms"] > most
    ]
    if largest["bytes_per_posting"] > BYTES_MAX:
        missed.append(f"{largest['bytes_per_posting']} bytes per posting")
    return missed


def _one_size(db: Database, report: Report, postings: int, how: How) -> dict[str, Any]:
    took = fill(db, postings, how.today, report.say)
    parts = settle_down(db, MERGE_S)
    stored = db.rows("SELECT sum(n), sum(if(side = 'debit', total, -total)) FROM (SELECT side, sum(amount) AS total, "
                     "count() AS n FROM postings GROUP BY value_date, booked_date, currency, side)")[0]  # fmt: skip
    if stored != (postings // 2 * 2, 0):
        raise BenchError(f"{postings} postings were to be made, {stored} are there, or they do not balance")
    size = sizes(db, "postings")
    figures: dict[str, Any] = {
        "postings": postings, "made_in_s": round(took, 1), "parts": parts, "rounds": how.rounds,
        "bytes_per_posting": size["all"], "bytes_of_projections": {k: v for k, v in size.items() if k != "all"},
    }  # fmt: skip
    figures |= _times(db, Draws(db, Random(how.seed), first_day(how.today)), how)
    report.add(f"reports: {postings:,} postings", figures, _shown(figures))
    return figures


def _times(db: Database, draws: Draws, how: How) -> dict[str, Any]:
    """Milliseconds of each question, in turns, each time about something else, the first time included; and the mean
    of the processor time that it took of both processes, which other work on the machine changes least."""

    def balance() -> Result:
        asked = {"account": draws.account(), "until": draws.day().isoformat()}
        return ask_for(db, CATALOGUE["balances"], asked)

    def statement() -> Result:
        since, until = draws.month()
        return ask_for(db, CATALOGUE["statement"], {"account": draws.account(), "since": since, "until": until})

    def trial_balance() -> Callable[[], Result]:
        day, cut = draws.closed()  # a person knows the day; the seal knows the cut
        return lambda: ask_for(db, CATALOGUE["trial-balance"], {"until": day.isoformat()}, cut=cut)

    def totals() -> Result:
        since, until = draws.month()
        asked = {"partner": draws.random.choice(draws.roots), "since": since, "until": until}
        return ask_for(db, CATALOGUE["totals"], asked)

    ms: dict[str, list[float]] = {name: [] for name in LIMITS_MS}
    rows: dict[str, int] = dict.fromkeys(LIMITS_MS, 0)
    cpu: dict[str, float] = dict.fromkeys(LIMITS_MS, 0.0)
    for _ in range(how.rounds):
        for name, question in zip(LIMITS_MS, (balance, statement, trial_balance(), totals), strict=True):
            before, started = _cpu_s(how.pids), time.perf_counter()
            answer = question()
            ms[name].append((time.perf_counter() - started) * 1e3)
            cpu[name] += _cpu_s(how.pids) - before
            rows[name] = max(rows[name], len(answer.rows))
            if not answer.rows:
                raise BenchError(f"{name}: no row for {answer.asked}")
    return {
        name: {
            "p50_ms": round(median(t), 1),
            "max_ms": round(max(t), 1),
            "processor_ms": round(cpu[name] / how.rounds * 1e3, 1),
            "rows_max": rows[name],
        }
        for name, t in ms.items()
    }


def _cpu_s(pids: tuple[int, ...]) -> float:
    return float(sum(t.user + t.system for t in (psutil.Process(pid).cpu_times() for pid in pids)))


def _shown(f: dict[str, Any]) -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = [
        ("made in, seconds", f["made_in_s"]), ("parts", f["parts"]), ("bytes per posting", f["bytes_per_posting"]),
        ("of them projections", f["bytes_of_projections"]),
    ]  # fmt: skip
    return out + [
        (
            f"{name}: p50, max of {f['rounds']}, processor, ms",
            f"{f[name]['p50_ms']}, {f[name]['max_ms']}, {f[name]['processor_ms']}",
        )
        for name in LIMITS_MS
    ]


def _growth(report: Report, found: dict[int, dict[str, Any]]) -> None:
    """How each figure grows with the ledger."""
    columns = ["", *(f"{n:,}" for n in found), "limit"]
    rows: list[list[Any]] = [["bytes per posting", *(f["bytes_per_posting"] for f in found.values()), BYTES_MAX]]
    figures: dict[str, Any] = {"bytes_per_posting": {str(n): f["bytes_per_posting"] for n, f in found.items()}}
    for name, most in LIMITS_MS.items():
        rows += [
            [f"{name}, {what.removesuffix('_ms')} ms", *(f[name][what] for f in found.values()), limit]
            for what, limit in (("p50_ms", most), ("max_ms", most), ("processor_ms", None))
        ]
        figures[name] = {str(n): f[name] for n, f in found.items()}
    report.grid("reports: growth", figures, columns, rows)
