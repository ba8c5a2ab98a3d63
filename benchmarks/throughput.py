"""Throughput: a backlog drained by the copy loop and by the settlement, by one worker and two, even and skewed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.harness import BenchError, Helper, Sample, World, cpu_shares, rate, window
from benchmarks.load import Plan
from benchmarks.report import Report

NewWorld = Callable[[str, Plan], World]
STAGES = ("decode", "identify", "look_up", "settle", "encode", "produce", "state")


def copy_rate(world: World, name: str, ends: dict[int, int]) -> dict[str, Any]:
    """The copy loop over the world's whole backlog."""
    job = {
        "bootstrap": world.addresses.kafka_bootstrap,
        "source": world.topics.submitted,
        "target": world.topic(name),
        "start": dict.fromkeys(ends, 0),
        "end": ends,
    }
    with Helper("copy", job) as helper:
        helper.hear()
        helper.tell({})
        return helper.hear(180 + sum(ends.values()) / 1_000)


def drain(world: World, workers: int) -> dict[str, Any]:
    """Workers settle the world's backlog; counted over committed offsets while all of them worked.

    Raises BenchError when the journal does not hold exactly one outcome per command.
    """
    ends = world.ends()
    number = sum(ends.values())
    world.start_workers(workers, wait=False)
    samples = world.watch(ends, 180 + number / 1_000)
    first, last = window(samples, workers, ends)
    figures = _final_figures(world, number)
    world.stop_workers()
    outcomes = world.outcomes()
    if sum(outcomes.values()) != number:
        raise BenchError(f"{number} commands, but {sum(outcomes.values())} outcomes in the journal: {outcomes}")
    return {
        "settled_per_second": rate(first, last),
        "seconds": round(last.at - first.at, 2),
        "commands": number,
        "outcomes": outcomes,
        "cpu_of_a_core": cpu_shares(first, last),
        "worker_cpu_us_each": _worker_cpu_us(first, last),
        **_stages(figures),
    }


def _final_figures(world: World, number: int) -> list[dict[str, Any]]:
    """The workers' own figures once they tell of all commands; they are written twice a second."""
    deadline = time.monotonic() + 10
    while True:
        figures = [f for f in world.all_figures() if f]
        if sum(f["commands"] for f in figures) >= number or time.monotonic() > deadline:
            return figures
        time.sleep(0.05)


def _worker_cpu_us(first: Sample, last: Sample) -> float:
    """Processor time of the workers for each command: the figure that noise on the machine changes least."""
    used = sum(s - first.cpu[n] for n, s in last.cpu.items() if n in first.cpu and n != "kafka")
    return round(used / max(1, last.total - first.total) * 1e6, 2)


def _stages(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Microseconds per command in each stage of the agent, and in the core around it."""
    commands = max(1, sum(f["stages"]["commands"] for f in figures))
    commits = max(1, sum(f["commits"] for f in figures))
    return {
        "stage_us": {s: round(sum(f["stages"][s] for f in figures) / commands * 1e6, 2) for s in STAGES},
        "core_us": {
            s: round(sum(f[f"{s}_s"] for f in figures) / commands * 1e6, 2) for s in ("gather", "wait", "commit")
        },
        "commits": commits,
        "commit_ms": round(sum(f["commit_s"] for f in figures) / commits * 1e3, 2),
        "commands_per_commit": round(sum(f["commands"] for f in figures) / commits, 1),
        "aborts": sum(f["aborts"] for f in figures),
        "accounts": sum(f["accounts"] for f in figures),
        "bytes_per_key": round(sum(f["keys_bytes"] for f in figures) / max(1, sum(f["keys"] for f in figures)), 1),
    }


def run_backlog(new_world: NewWorld, report: Report, number: int, plan: Plan, *, with_settlement: bool) -> None:
    """The copy loop before and after, and between them one worker on the very same topic; then the rebuild of it."""
    with new_world("backlog", plan) as world:
        report.say(f"publishing {number:,} transactions over {plan.accounts:,} accounts of {plan.partners} partners")
        world.setup()
        filled = world.fill(number)
        ends = world.ends()
        copies = [copy_rate(world, "copy-1", ends)]
        one = drain(world, 1) if with_settlement else None
        copies.append(copy_rate(world, "copy-2", ends))
        mean = sum(c["per_second"] for c in copies) / 2
        _report_copy(report, copies, mean, filled)
        if one is None:
            return
        one["copy_per_second"] = mean
        one["of_copy"] = one["settled_per_second"] / mean
        _report_drain(report, "backlog: one worker", one)
        report_rebuild(report, "rebuild: remembered keys", world)


def _report_copy(report: Report, copies: list[dict[str, Any]], mean: float, filled: dict[str, Any]) -> None:
    noise = abs(copies[0]["per_second"] - copies[1]["per_second"]) / mean
    figures = {"copies": copies, "per_second": mean, "noise": round(noise, 2), "bytes_each": filled["bytes_each"]}
    rows = [
        ("copy loop before, records/s", copies[0]["per_second"]),
        ("copy loop after, records/s", copies[1]["per_second"]),
        ("difference of the two", f"{noise:.0%}"),
        ("its commit, ms", {"before": copies[0]["commit_ms"], "after": copies[1]["commit_ms"]}),
        ("its processor time, us per record", {"before": copies[0]["cpu_us_each"], "after": copies[1]["cpu_us_each"]}),
        ("bytes of a command", round(filled["bytes_each"])),
    ]
    report.add("copy", figures, rows)


def _report_drain(report: Report, part: str, d: dict[str, Any]) -> None:
    rows = [
        ("settled/s", d["settled_per_second"]),
        *([("part of the copy loop's rate", f"{d['of_copy']:.1%}")] if "of_copy" in d else []),
        ("seconds measured", d["seconds"]),
        ("outcomes in the journal", d["outcomes"]),
        ("worker's processor time, us each", d["worker_cpu_us_each"]),
        ("cores used", d["cpu_of_a_core"]),
        *((f"  {name}, us each", us) for name, us in d["stage_us"].items()),
        *((f"  core: {name}, us each", us) for name, us in d["core_us"].items()),
        ("commit, ms", d["commit_ms"]),
        ("commands per Kafka transaction", d["commands_per_commit"]),
        ("bytes per remembered key", d["bytes_per_key"]),
    ]
    report.add(part, d, rows)


def report_rebuild(report: Report, part: str, world: World) -> None:
    """What taking the world's partitions over costs a new worker."""
    at = world.addresses
    job = {
        "bootstrap": at.kafka_bootstrap,
        "registry_url": at.registry_url,
        "world": world.name,
        "window_ms": world.settings.settlement.keys_window_ms,
    }
    with Helper("rebuild", job) as helper:
        f = helper.hear(300)
    f["state_s_per_100k_accounts"] = round(f["state_s"] / max(1, f["accounts"]) * 100_000, 2)
    f["keys_s_per_1m"] = round(f["keys_s"] / max(1, f["keys"]) * 1_000_000, 2)
    report.add(part, f, list(f.items()))


def run_rebuild(new_world: NewWorld, report: Report, accounts: int) -> None:
    """The rebuild of many accounts, each with one booking."""
    with new_world("rebuild", Plan(accounts=accounts)) as world:
        report.say(f"opening {accounts:,} accounts")
        world.setup()
        drain(world, 1)
        report_rebuild(report, "rebuild: accounts", world)


def run_shapes(new_world: NewWorld, report: Report, number: int, shapes: dict[str, Plan], workers: int = 1) -> None:
    """The same number of transactions in several shapes of load, each beside the first."""
    rates: dict[str, dict[str, Any]] = {}
    for name, plan in shapes.items():
        with new_world("shape", plan) as world:
            world.setup()
            world.fill(number)
            rates[name] = drain(world, workers)
    even = next(iter(rates.values()))["settled_per_second"]
    for d in rates.values():
        d["of_even"] = d["settled_per_second"] / even
    rows = [
        [name, d["settled_per_second"], f"{d['of_even']:.0%}", d["worker_cpu_us_each"], d["commit_ms"]]
        for name, d in rates.items()
    ]
    report.grid("skew", {"shapes": rates}, ["load", "settled/s", "of even", "cpu us each", "commit ms"], rows)


def run_workers(new_world: NewWorld, report: Report, number: int) -> None:
    """One worker, then two, on backlogs of the same size."""
    found: dict[int, dict[str, Any]] = {}
    for workers in (1, 2):
        with new_world("workers", Plan()) as world:
            world.setup()
            world.fill(number)
            found[workers] = drain(world, workers)
    ratio = found[2]["settled_per_second"] / found[1]["settled_per_second"]
    rows = [
        ("one worker, settled/s", found[1]["settled_per_second"]),
        ("two workers, settled/s", found[2]["settled_per_second"]),
        ("two of one", ratio),
        ("cores used with one", found[1]["cpu_of_a_core"]),
        ("cores used with two", found[2]["cpu_of_a_core"]),
    ]
    report.add("workers", {"one": found[1], "two": found[2], "ratio": ratio}, rows)
