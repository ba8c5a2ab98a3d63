"""The capacity sheet: what 4 billion transactions a year need, and ten times that, from figures that were measured.

    python -m benchmarks.capacity            prints docs/capacity.md (a test compares it with the file)
    python -m benchmarks.capacity --measure  measures the bytes per transaction again, on a stack of its own

Each figure says where it was measured; each line of the sheet says by which formula it follows. What is an assumption
is in ASSUMED, and is the reader's to change.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS_A_YEAR = 365 * 86_400
GB = 1e9


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, its unit, and where it is from: for a measured one the words in which the source has it."""

    name: str
    value: float
    unit: str
    source: str


# Measured. `source`: README: the row of "Measured" that has the number in these words; measure: this module.
MEASURED = (
    Figure("worker_rate", 51_493, "commands settled a second by one worker on one core", "README: 51,493 settled/s"),
    Figure("command_us", 19.1, "µs of processor time for a command", "README: 19.1 us of processor time each"),
    Figure("plain_us", 3.1, "µs of these in the core for a product's plain transfer", "README: plain transfer 3.1"),
    Figure(
        "limits_us", 26, "µs in the core with nine limits on three levels", "README: nine limits at three levels 26"
    ),
    Figure("sink_rate", 174_203, "journal records a second into ClickHouse by the sink", "README: 174,203 records/s"),
    Figure("posting_bytes", 32.9, "bytes on disk of a posting, with all projections", "README: 32.9 bytes a posting"),
    Figure("account_bytes", 468, "bytes of memory of an account", "README: 468 bytes an account"),
    Figure("key_bytes", 52, "bytes of memory of a remembered key, at most", "README: 41 to 52 bytes a remembered key"),
    Figure("entry_bytes", 45, "bytes of memory of what its transaction did", "README: 45 more for what a transfer did"),
    Figure("keys_s", 8.3, "seconds of a take-over for 1,000,000 keys", "README: 8.3 s per 1,000,000 remembered keys"),
    Figure("accounts_s", 1.5, "seconds of a take-over for 100,000 accounts", "README: 1.5 s per 100,000 accounts"),
    Figure("submitted_bytes", 206, "bytes on a broker's disk of a command", "measure"),
    Figure("journal_bytes", 310, "bytes on a broker's disk of a journal record", "measure"),
    Figure("journal_records", 1.13, "commands in the log for a transaction, with steps between partitions", "measure"),
    Figure("state_bytes", 87, "bytes written to ledger.state for a transaction, before compaction", "measure"),
    Figure("postings", 2.68, "postings of a transaction", "measure"),
    Figure("other_bytes", 140, "bytes on ClickHouse's disk for a transaction beside its postings", "measure"),
)
ASSUMED = (
    Figure("peak", 50, "busiest second over the year's mean: a day of 5 times the mean, its second of 10 times", ""),
    Figure("load", 0.5, "of what was measured is planned with, so that a role that was away catches up", ""),
    Figure("accounts", 50_000_000, "accounts (10 times as many for 10 times the transactions)", ""),
    Figure("window_days", 30, "days for which keys are remembered (CLEARLINE_SETTLEMENT__IDEMPOTENCY_DAYS)", ""),
    Figure("input_days", 30, "days for which submitted commands are kept", ""),
    Figure("copies", 3, "copies of each record in Kafka", ""),
    Figure("replicas", 2, "replicas of each row in ClickHouse", ""),
    Figure("years", 10, "years for which the journal and ClickHouse keep everything", ""),
    Figure("worker_gb", 16, "GB of memory that a worker may take for keys and accounts", ""),
    Figure("takeover_s", 120, "seconds that a take-over of a worker's partitions may last", ""),
    Figure("workers_max", 64, "workers at most (the bound of CLEARLINE_WORKERS)", ""),
    Figure("broker_mb_s", 60, "MB/s that a broker is given to write", ""),
    Figure("server_tb", 20, "TB of disk of a broker or a ClickHouse server", ""),
)


def figures() -> dict[str, float]:
    """Every figure by its name."""
    return {f.name: f.value for f in (*MEASURED, *ASSUMED)}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the sheet: what it is, the formula, and the value for a number of transactions a year."""

    what: str
    formula: str
    value: float
    shown: str


class Sheet:
    """The lines in their order."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def add(self, what: str, formula: str, value: float, shown: str) -> float:
        """Adds a line, gives its value back."""
        self.lines.append(Line(what, formula, value, shown))
        return value


def sheet(transactions: float, f: Mapping[str, float], scale: float = 1.0) -> list[Line]:
    """The lines for so many transactions a year. `scale`: times the assumed accounts."""
    whole = Sheet()
    mean, peak, commands = _settlement(whole, transactions, f, scale)
    _kafka(whole, transactions, f, mean, peak)
    _clickhouse(whole, transactions, f, commands)
    return whole.lines


def _settlement(whole: Sheet, transactions: float, f: Mapping[str, float], scale: float) -> tuple[float, float, float]:
    """Workers and partitions. Returns transactions a second (mean, peak) and commands a second (peak)."""
    line = whole.add
    mean = line("transactions a second, mean", "year / 31,536,000 s", v := transactions / SECONDS_A_YEAR, f"{v:,.0f}")
    peak = line("transactions a second, peak", "mean × peak", v := mean * f["peak"], f"{v:,.0f}")
    commands = line(
        "commands a second, peak", "peak × commands a transaction", v := peak * f["journal_records"], f"{v:,.0f}"
    )
    us = f["command_us"] - f["plain_us"] + f["limits_us"]
    rate = line(
        "commands a second of one worker", "1 / (19.1 - 3.1 + 26 µs) × load: with nine limits each",
        v := 1e6 / us * f["load"], f"{v:,.0f}",
    )  # fmt: skip
    keys = line(
        "keys remembered", "mean × commands × window", v := mean * f["journal_records"] * f["window_days"] * 86_400,
        f"{v / 1e6:,.0f} million",
    )  # fmt: skip
    accounts = f["accounts"] * scale
    memory = line(
        "memory for keys and accounts", "keys × (52 + 45 B) + accounts × 468 B",
        v := keys * (f["key_bytes"] + f["entry_bytes"]) + accounts * f["account_bytes"], f"{v / GB:,.0f} GB",
    )  # fmt: skip
    recovery = keys / 1e6 * f["keys_s"] + accounts / 1e5 * f["accounts_s"]
    by_rate, by_memory, by_time = (
        math.ceil(commands / rate), math.ceil(memory / (f["worker_gb"] * GB)), math.ceil(recovery / f["takeover_s"]),
    )  # fmt: skip
    line("workers, for the rate", "peak commands / one worker", by_rate, f"{by_rate:,}")
    line("workers, for the memory", "memory / 16 GB", by_memory, f"{by_memory:,}")
    line("workers, for a take-over within 120 s", "(keys × 8.3 µs + accounts × 15 µs) / 120 s", by_time, f"{by_time:,}")
    workers = line("**workers**", "the largest of the three", v := max(2, by_rate, by_memory, by_time), f"**{v:,}**")
    line("**partitions**", "2 a worker, so that one worker's are shared by others", v := workers * 2, f"**{v:,.0f}**")
    short = recovery_of(3, mean, accounts, f) / workers
    line("a worker's take-over", "as above, / workers", v := recovery / workers, f"{v:,.0f} s")
    line("the same with keys for 3 days", "window 3 days", short, f"{short:,.0f} s")
    at_most, soonest = recovery / f["workers_max"], short * workers / f["workers_max"]
    line("a worker's take-over with 64 workers, the most that can be set", "/ 64", at_most, f"{at_most:,.0f} s")
    line("the same with keys for 3 days", "window 3 days, / 64", soonest, f"{soonest:,.0f} s")
    return mean, peak, commands


def _kafka(whole: Sheet, transactions: float, f: Mapping[str, float], mean: float, peak: float) -> None:
    """Brokers and their disks."""
    line = whole.add
    written = f["submitted_bytes"] * f["journal_records"] + f["journal_bytes"] * f["journal_records"] + f["state_bytes"]
    kafka_rate = line(
        "Kafka, MB/s written at the peak, all copies", "peak × (submitted + journal + state) × 3",
        v := peak * written * f["copies"] / 1e6, f"{v:,.0f}",
    )  # fmt: skip
    journal = line(
        "Kafka, TB a year of journal, all copies", "year × commands × journal bytes × 3",
        v := transactions * f["journal_records"] * f["journal_bytes"] * f["copies"] / 1e12, f"{v:,.1f} TB",
    )  # fmt: skip
    kept = line(
        "Kafka, TB of submitted commands, all copies", "mean × commands × 30 days × bytes × 3",
        v := mean * f["input_days"] * 86_400 * f["journal_records"] * f["submitted_bytes"] * f["copies"] / 1e12,
        f"{v:,.1f} TB",
    )  # fmt: skip
    brokers = max(
        3, math.ceil(kafka_rate / f["broker_mb_s"]), math.ceil((journal * f["years"] + kept) / f["server_tb"])
    )
    line("**brokers**", "by MB/s, or by 10 years of journal on 20 TB each; at least 3", brokers, f"**{brokers:,}**")


def _clickhouse(whole: Sheet, transactions: float, f: Mapping[str, float], commands: float) -> None:
    """Shards and their disks. `commands`: a second, at the peak."""
    line, sink = whole.add, f"{f['sink_rate']:,.0f} records/s"
    records = line("ClickHouse, journal records a second, peak", "as the workers", commands, f"{commands:,.0f}")
    line(
        "the sink at the peak", f"peak / ({sink})", v := records / f["sink_rate"],
        f"{v:.0%} of one" if v < 1 else f"behind at the peak by {v:.1f} times, catches up after it",
    )  # fmt: skip
    row = f["postings"] * f["posting_bytes"] + f["other_bytes"]
    disk = line(
        "ClickHouse, TB a year, one replica", "year × (postings × 32.9 B + others)", v := transactions * row / 1e12,
        f"{v:,.2f} TB",
    )  # fmt: skip
    line(
        "ClickHouse, TB after 10 years, all replicas",
        "× 10 × 2",
        v := disk * f["years"] * f["replicas"],
        f"{v:,.1f} TB",
    )
    shards = math.ceil(disk * f["years"] / (f["server_tb"] * f["load"]))
    line("**ClickHouse shards**", "10 years of one replica / (20 TB × load)", shards, f"**{shards:,}**")
    hours = transactions * f["journal_records"] / f["sink_rate"] / 3600
    line("hours to project a year again", f"year × commands / {sink}", hours, f"{hours:,.0f} h")


def recovery_of(days: float, mean: float, accounts: float, f: Mapping[str, float]) -> float:
    """Seconds that one worker would take for all partitions, with keys of so many days."""
    return mean * f["journal_records"] * days * 86_400 / 1e6 * f["keys_s"] + accounts / 1e5 * f["accounts_s"]


HEAD = """# Capacity

What a year of 4 billion transactions needs, and ten times that. Written by `python -m benchmarks.capacity`; a test
computes it again and compares. The figures were measured on the machine of the README (two shared cores, AMD EPYC,
everything on it), so a core here is such a core. The workers' times for many keys and accounts are linear in what
was measured at 1,000,000 keys and 100,000 accounts; nobody has run 300 million. What was not measured at all is
named as assumed. Take it for the size of an order, then measure on the machines that you get.
"""


def document() -> str:
    """docs/capacity.md."""
    f = figures()
    small, large = sheet(4e9, f), sheet(4e10, f, 10)
    out = [HEAD, "| | formula | 4 billion a year | 40 billion a year |", "|---|---|---|---|"]
    out += [f"| {a.what} | {a.formula} | {a.shown} | {b.shown} |" for a, b in zip(small, large, strict=True)]
    out += ["", "## Measured", "", "| figure | | from |", "|---|---|---|"]
    where = {"measure": "`python -m benchmarks.capacity --measure`"}
    out += [f"| {x.unit} | {x.value:,.12g} | {where.get(x.source, x.source)} |" for x in MEASURED]
    out += [
        "",
        "## Assumed",
        "",
        "| | |",
        "|---|---|",
        *(f"| {x.unit} | {x.value:,.12g} |" for x in ASSUMED),
        "",
        NOTES,
    ]
    return "\n".join(out)


NOTES = """## What follows from it

- **The number of workers is decided by how long a take-over may last, not by the rate.** A worker reads the keys of
  its partitions again when it starts. If a minute more without settlement on one worker's partitions after a crash
  is worth more than 30 days of remembered keys, shorten the window (`CLEARLINE_SETTLEMENT__IDEMPOTENCY_DAYS`): what
  it costs stands in the line above.
- **Ten times is more workers than can be set today** (64): there a take-over lasts as long as the line with 64 workers
  says, or the accounts and keys are spread over several worlds.
- **Partitions are fixed when the topics are made.** Take those of the size that is hoped for; a partition more
  costs little.
- **The journal is kept for ever**: tiered storage moves old segments to object storage, and the brokers' disks then
  hold months, not years.
- **Skew**: a root partner's whole tree is in one partition, so one partner can never be faster than one worker: see
  "commands a second of one worker".
- **More than one ClickHouse shard** is planned by bytes only: the tie-out refuses a cluster of several shards as it is
  now. Until it is made for one, give the one shard larger disks or a cold volume.
- One sink projects a world. Where the peak is above its rate it lags and catches up in the hours after; reports say
  up to where they go.
"""


def measure(transactions: int, seed: int) -> dict[str, float]:
    """Bytes per transaction of the shelf's day, from the files of a stack that ran it; no time is measured."""
    from clearline.audit.tieout import tieout
    from clearline.config import load_settings
    from clearline.connection import clickhouse_config, connect
    from clearline.drive import Drive
    from clearline.generator import generate
    from clearline.generator_shelf import shelf_of
    from clearline.outcomes import OutcomeTail
    from clearline.stack import Stack
    from sinks.clickhouse import Database

    with tempfile.TemporaryDirectory(prefix="clearline-capacity-") as folder:
        settings = load_settings(world="capacity", data_dir=Path(folder) / "data", partitions=4, workers=2)
        with Stack(settings) as stack:
            stack.start(roles=["worker-0", "worker-1", "sink-clickhouse", "sink-redis"])
            live = stack.resolved()
            system = connect(live)
            items = generate(seed, transactions, partners_max=60, accounts_max=3_000, products=shelf_of(seed))
            first: list[Any] = []
            for item in items:
                if item.kind != "setup":
                    break
                first.append(item)
            with OutcomeTail(system.kafka, system.topics, system.codec) as tail:
                Drive(system, tail).run(first)
                before = _bytes(Path(folder) / "data" / "kafka" / "data", live.world)
                Drive(system, tail).run(_chain(item, items))
            after = _bytes(Path(folder) / "data" / "kafka" / "data", live.world)
            deadline = time.monotonic() + 300
            while not tieout(live).ok and time.monotonic() < deadline:
                time.sleep(1)
            db = Database(clickhouse_config(live), reader=True)
            rows = dict(
                db.rows("SELECT outcome, count() FROM outcomes WHERE command != 'OpenAccount' GROUP BY outcome")
            )
            records = sum(rows.values())
            legs = db.rows("SELECT count() FROM postings")[0][0]
            sizes = dict(
                db.rows(
                    "SELECT table, sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase() "
                    "GROUP BY table"
                )
            )
            db.close()
    grown = {topic: after[topic] - before.get(topic, 0) for topic in after}
    others = sum(size for table, size in sizes.items() if table != "postings")
    return {
        "submitted_bytes": grown["transactions.submitted"] / records, "journal_bytes": grown["journal"] / records,
        "journal_records": records / transactions, "state_bytes": grown["ledger.state"] / transactions,
        "postings": legs / transactions, "other_bytes": others / transactions,
    }  # fmt: skip


def _chain(first: Any, rest: Any) -> Any:
    yield first
    yield from rest


def _bytes(folder: Path, world: str) -> dict[str, int]:
    """Bytes of the log segments of each topic of a world."""
    out: dict[str, int] = {}
    for part in folder.glob(f"{world}.*"):
        topic = part.name.removeprefix(f"{world}.").rpartition("-")[0]
        out[topic] = out.get(topic, 0) + sum(x.stat().st_size for x in part.glob("*.log"))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--transactions", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=20261126)
    given = parser.parse_args()
    if given.measure:
        found = measure(given.transactions, given.seed)
        print(json.dumps({name: round(value, 2) for name, value in found.items()}, indent=1))
    else:
        print(document(), end="")


if __name__ == "__main__":
    main()
