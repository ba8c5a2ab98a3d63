"""Everything at once on one machine: two workers, both sinks, the tie-out, and all the parts, under a steady load.

What is asked is not how fast, but whether it lasts: the sinks' lag must stay bounded and every process's memory flat.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, World, rate, rss_mb, settled_stack
from benchmarks.load import Plan
from benchmarks.report import Report
from clearline.config import Settings, settings_env
from clearline.lag import measure
from clearline.stack import Stack

_INTERVAL_S = 2.0
_TIEOUT_EVERY_S = 60.0
_CATCH_UP_S = 120.0
_MARKERS = 2  # the end of a partition may be transaction markers, which no reader sees


class TieOut:
    """Runs `clearline tieout` again and again beside the load, as an operator's schedule would."""

    def __init__(self, settings: Settings) -> None:
        self._env = {**settings_env(settings), "PYTHONWARNINGS": "ignore"}
        self._next = time.monotonic() + _TIEOUT_EVERY_S / 4
        self._running: tuple[subprocess.Popen[str], float] | None = None
        self.runs: list[dict[str, Any]] = []

    def turn(self) -> None:
        """Starts it when it is time, takes its verdict when it is done."""
        now = time.monotonic()
        if self._running is not None:
            process, started = self._running
            if process.poll() is None:
                return
            output = process.communicate()[0]
            self.runs.append({
                "seconds": round(now - started, 1),
                "exit_code": process.returncode,
                "says": _differences(output) if process.returncode else [],
            })  # fmt: skip
            self._running = None
        if now >= self._next:
            self._next = now + _TIEOUT_EVERY_S
            self._start()

    def finish(self) -> None:
        """One last tie-out after the load, waited for."""
        if self._running is None:
            self._start()
        assert self._running is not None
        self._running[0].wait(300)
        self._next = time.monotonic() + 1e9
        self.turn()

    def close(self) -> None:
        if self._running is not None and self._running[0].poll() is None:
            self._running[0].kill()
            self._running[0].wait()

    def _start(self) -> None:
        command = [sys.executable, "-m", "clearline", "tieout", "--json"]
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **self._env}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._running = (process, time.monotonic())


def _differences(output: str) -> list[str]:
    """The first differences of each part that a tie-out found, or its last line when it found no verdict."""
    try:
        verdict = json.loads(output[output.index("{") :])
        return [f"{part}: {d}" for part in ("kafka", "clickhouse", "redis") if verdict[part] != "equal"
                for d in verdict[part][:3]]  # fmt: skip
    except (ValueError, KeyError):
        return output.strip().splitlines()[-1:]


def run_everything(settings: Settings, report: Report, data_dir: Path, offered: int, seconds: float) -> None:
    """Starts a whole stack in `data_dir`, offers `offered` transactions per second for `seconds`, and watches."""
    settings = settings.model_copy(update={"world": "everything", "data_dir": data_dir, "workers": 2})
    plan = Plan(partitions=settings.partitions)
    with settled_stack(settings, plan, report) as (stack, world):
        report.say(f"{offered:,} transactions per second for {seconds:.0f} s")
        tie_out = TieOut(stack.resolved())
        try:
            found = _under_load(world, stack, tie_out, offered, seconds)
            found["caught_up_s"] = _until_caught_up(stack)
            tie_out.finish()
        finally:
            tie_out.close()
        found["tie_outs"] = tie_out.runs
        found["outcomes"] = world.outcomes()
    _report(report, found, offered)


def _under_load(world: World, stack: Stack, tie_out: TieOut, offered: int, seconds: float) -> dict[str, Any]:
    """Samples progress, lag and memory every two seconds while the sender runs."""
    points: list[dict[str, Any]] = []
    samples = [world.sample()]
    with world.job("send", tag="every", number=int(offered * seconds), rate=offered) as sender:
        sender.hear()
        started = time.monotonic()
        sender.tell({"start_at": started})
        while time.monotonic() < started + seconds:
            time.sleep(_INTERVAL_S)
            samples.append(world.sample())
            lag = measure(stack.resolved(), stack.folder)
            points.append({
                "at_s": round(time.monotonic() - started, 1),
                "settled_per_second": round(rate(samples[-2], samples[-1])),
                "lag": {role: sum(by.values()) for role, by in lag["roles"].items()},
                "rss_mb": rss_mb(_pids(stack)),
                "ready": samples[-1].ready,
            })  # fmt: skip
            tie_out.turn()
        sent = sender.hear(120)
    steady = [s for s in samples if s.at > started + min(10.0, seconds / 4)]
    return {
        "offered_per_second": offered,
        "settled_per_second": rate(steady[0], steady[-1]),
        "slowest_per_second": min(p["settled_per_second"] for p in points[1:] or points),
        "sender": sent,
        "cpu_of_a_core": {n: round((s - steady[0].cpu[n]) / (steady[-1].at - steady[0].at), 2)
                          for n, s in steady[-1].cpu.items() if n in steady[0].cpu},
        "points": points,
    }  # fmt: skip


def _pids(stack: Stack) -> list[tuple[str, int | None]]:
    status = stack.status()
    return [(n, d["pid"]) for n, d in {**status["parts"], **status["roles"]}.items()]


def _until_caught_up(stack: Stack) -> float | None:
    """Seconds after the load until no role is behind; None when that takes too long."""
    started = time.monotonic()
    while time.monotonic() < started + _CATCH_UP_S:
        lag = measure(stack.resolved(), stack.folder)
        if "error" not in lag and all(n <= _MARKERS for by in lag["roles"].values() for n in by.values()):
            return round(time.monotonic() - started, 1)
        time.sleep(0.2)
    return None


def _halves(points: list[dict[str, Any]], key: str) -> dict[str, dict[str, float]]:
    """The mean of a figure in the second and in the last quarter: equal means that it does not grow."""
    quarter = max(1, len(points) // 4)
    early, late = points[quarter : 2 * quarter] or points, points[-quarter:]
    names = sorted({n for p in points for n in p[key]})
    return {
        n: {
            "second_quarter": round(statistics.fmean([p[key].get(n, 0) for p in early]), 1),
            "last_quarter": round(statistics.fmean([p[key].get(n, 0) for p in late]), 1),
            "max": max(p[key].get(n, 0) for p in points),
        }
        for n in names
    }


def _report(report: Report, found: dict[str, Any], offered: int) -> None:
    found["lag"] = _halves(found["points"], "lag")
    found["rss_mb"] = _halves(found["points"], "rss_mb")
    found["tied_out"] = bool(found["tie_outs"]) and all(r["exit_code"] == 0 for r in found["tie_outs"])
    rows: list[list[Any]] = [
        ["offered/s", offered, "", ""],
        ["settled/s, mean", found["settled_per_second"], "", ""],
        ["settled/s, slowest 2 s", found["slowest_per_second"], "", ""],
        ["caught up after, s", found["caught_up_s"], "", ""],
        ["tie-outs, all equal", f"{len(found['tie_outs'])}, {'yes' if found['tied_out'] else 'NO'}", "", ""],
    ]
    rows += [[f"lag of {n}, records", *f.values()] for n, f in found["lag"].items()]
    rows += [[f"memory of {n}, MB", *f.values()] for n, f in found["rss_mb"].items()]
    rows.append(["cores used", json.dumps(found["cpu_of_a_core"]), "", ""])
    report.grid("everything", found, ["", "2nd quarter", "last quarter", "max"], rows)
