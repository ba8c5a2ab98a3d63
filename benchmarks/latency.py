"""Latency and recovery: what a publisher waits for at a given rate, and after something was killed.

Open loop: records are due by a schedule that does not wait for anybody, and latency counts from when a record was due,
so that a stall counts for everyone whom it met (coordinated omission). The copy loop is measured at the same rate right
after the settlement.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.harness import BenchError, Helper, World
from benchmarks.load import Plan
from benchmarks.report import Report
from benchmarks.throughput import NewWorld
from clearline.stack import Stack
from streams.reader import end_offsets

P99_GOAL_MS = 50.0
_LEAD_S = 0.3
_WARM_UP_S = 1.0
_WARM_UP_RATE = 2_000
_WARM_BROKER_FROM_S = 5.0  # shorter measurements only show that everything works


def measure(
    world: World, rate: float, seconds: float, source: str, outcome: str, reader_settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Sends `rate` records per second into `source` and reads `outcome` until all are there.

    `reader_settings`: librdkafka settings of the reading consumer, with underscores for dots.
    """
    number, warm_up = int(rate * (seconds + _WARM_UP_S)), int(rate * _WARM_UP_S)
    tag = f"{int(time.monotonic() * 1000) % 1_000_000:06d}"
    at = world.addresses
    job = {
        "bootstrap": at.kafka_bootstrap, "registry_url": at.registry_url, "topic": outcome,
        "start": end_offsets(world.kafka, outcome), "tag": tag, "number": number, "rate": rate, "warm_up": warm_up,
        "settings": reader_settings or {},
    }  # fmt: skip
    with Helper("read", job) as reader, world.job("send", topic=source, tag=tag, number=number, rate=rate) as sender:
        reader.hear()
        sender.hear()
        go = {"start_at": time.monotonic() + _LEAD_S}
        reader.tell(go)
        sender.tell(go)
        sent = sender.hear(seconds + 120)
        found = reader.hear(seconds + 120)
    return {"rate": rate, **found, "sender": sent}


def run_latency(new_world: NewWorld, report: Report, rates: list[int], seconds: float) -> None:
    """Settlement and copy loop in turn at each rate; then the highest rate that holds the goal is narrowed down."""
    with new_world("latency", Plan()) as world:
        world.setup()
        world.start_workers(1)
        world.settle_all()
        source, target = world.topic("copy-source"), world.topic("copy-target")
        start = end_offsets(world.kafka, source)
        copy_job = {"bootstrap": world.addresses.kafka_bootstrap, "source": source, "target": target, "start": start}
        found: list[dict[str, Any]] = []
        with Helper("copy", copy_job) as copy:
            copy.hear()
            copy.tell({})
            # A broker that has just been started compiles itself while it is measured.
            if seconds >= _WARM_BROKER_FROM_S:
                measure(world, _WARM_UP_RATE, seconds / 2, world.topics.submitted, world.topics.journal)
                measure(world, _WARM_UP_RATE, seconds / 2, source, target)
            for rate in rates:
                report.say(f"open loop at {rate:,}/s for {seconds:.0f} s, settlement and copy loop")
                settled = measure(world, rate, seconds, world.topics.submitted, world.topics.journal)
                copied = measure(world, rate, seconds, source, target)
                found.append({"rate": rate, "settlement": settled, "copy": copied})
            copy.end()
            copy.hear()
        best = _narrow(world, report, {f["rate"]: f["settlement"] for f in found}, seconds) if len(rates) > 1 else None
        figures = world.figures()
    _report(report, found, best, figures)


def _holds(f: dict[str, Any]) -> bool:
    p99 = f["p99_ms"]
    return p99 is not None and p99 < P99_GOAL_MS and not f["missing"]


def _narrow(world: World, report: Report, known: dict[int, dict[str, Any]], seconds: float) -> int:
    """The highest rate whose p99 stays below the goal, to within a fifth; at most four more measurements."""
    low = max((r for r, f in known.items() if _holds(f)), default=0)
    for _ in range(4):
        high = min((r for r, f in known.items() if r > low and not _holds(f)), default=0)
        if not low or (high and high < low * 1.2):
            break
        rate = round((low * high) ** 0.5, -2) if high else low * 1.5
        report.say(f"looking for the highest rate that holds p99 < {P99_GOAL_MS:.0f} ms: {rate:,.0f}/s")
        known[int(rate)] = f = measure(world, rate, seconds, world.topics.submitted, world.topics.journal)
        low = int(rate) if _holds(f) else low
    return low


def _report(report: Report, found: list[dict[str, Any]], best: int | None, worker: dict[str, Any]) -> None:
    rows = []
    for f in found:
        s, c = f["settlement"], f["copy"]
        rows.append([
            f["rate"], s["p50_ms"], s["p90_ms"], s["p99_ms"], s["max_ms"], s["missing"],
            c["p50_ms"], c["p99_ms"], c["max_ms"], max(s["sender"]["late_ms_p99"], c["sender"]["late_ms_p99"]),
        ])  # fmt: skip
    rows.append(["best", f"p99 < {P99_GOAL_MS:.0f} ms held at {best:,}/s" if best is not None else "-"] + [""] * 8)
    columns = [
        "per second",
        "p50 ms",
        "p90",
        "p99",
        "max",
        "missing",
        "copy p50",
        "copy p99",
        "copy max",
        "sent late p99",
    ]
    report.grid("latency", {"rates": found, "highest_rate": best, "worker": worker}, columns, rows)


# ---- recovery --------------------------------------------------------------------------------------------------------

_IN_FLIGHT_S = 0.15  # what was committed before the kill is read within this; nothing restarts as fast
_STEADY_S = 2.0


def run_recovery(new_world: NewWorld, report: Report, parts: Stack, workers_n: int, broker_n: int, rate: int) -> None:
    """Two workers under load; kill -9 of one, and of the broker, and how long its partitions stood still."""
    with new_world("recovery", Plan()) as world:
        world.setup()
        stack = world.start_workers(2)
        world.settle_all()
        at = world.addresses
        job = {
            "bootstrap": at.kafka_bootstrap, "registry_url": at.registry_url, "topic": world.topics.journal,
            "start": end_offsets(world.kafka, world.topics.journal),
        }  # fmt: skip
        kills: list[dict[str, Any]] = []
        number = rate * (workers_n * 30 + broker_n * 120 + 60)
        with Helper("arrivals", job) as reader, world.job("send", tag="recov", number=number, rate=rate) as sender:
            reader.hear()
            sender.hear()
            reader.tell({})
            sender.tell({"start_at": time.monotonic()})
            for i in range(workers_n + broker_n):
                what = f"worker-{i % 2}" if i < workers_n else "kafka"
                _until_settling(world, time.monotonic(), list(range(4)))
                partitions = _held(world, i % 2) if what != "kafka" else list(range(4))
                time.sleep(_STEADY_S)
                report.say(f"kill -9 of {what}, which has partitions {partitions}")
                (parts if what == "kafka" else stack).kill(what)
                killed = time.monotonic()
                kills.append({"what": what, "at": killed, "partitions": partitions})
                time.sleep(_IN_FLIGHT_S)
                _until_settling(world, killed + _IN_FLIGHT_S, partitions)
            sender.kill()
            world.settle_all()
            reader.end()
            arrivals = {int(p): times for p, times in reader.hear()["arrivals"].items()}
        for kill in kills:
            kill["seconds"] = [_gap(arrivals[p], kill["at"]) for p in kill["partitions"]]
    _report_recovery(report, kills)


def _held(world: World, worker: int) -> list[int]:
    """The partitions of a worker, once it has some: a killed one may come back to an assignment without any."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := world.figures(worker).get("partitions", []):
            return [int(p) for p in found]
        time.sleep(0.1)
    raise BenchError(f"worker-{worker} gets no partition within a minute")


def _until_settling(world: World, since: float, partitions: list[int]) -> None:
    """Waits until each of these partitions has moved on after `since`. Raises BenchError after two minutes."""
    deadline = time.monotonic() + 120
    before: dict[int, int] | None = None
    while time.monotonic() < deadline:
        try:
            sample = world.sample()
        except Exception:  # the broker is away
            time.sleep(0.1)
            continue
        if before is None and sample.at >= since:
            before = sample.offsets
        elif before is not None and all(sample.offsets[p] > before[p] for p in partitions):
            return
        time.sleep(0.05)
    raise BenchError(f"partitions {partitions} do not settle again within two minutes")


def _gap(arrivals: list[float], killed: float) -> float | None:
    following = next((t for t in arrivals if t > killed + _IN_FLIGHT_S), None)
    return round(following - killed, 2) if following is not None else None


def _report_recovery(report: Report, kills: list[dict[str, Any]]) -> None:
    def worst(what: str) -> list[float]:
        chosen = [k for k in kills if k["what"].startswith(what)]
        return sorted(max(s if s is not None else float("inf") for s in k["seconds"]) for k in chosen)

    workers, broker = worst("worker"), worst("kafka")
    rows = [
        ("kill -9 of a worker to the next settlement of all its partitions, s", workers),
        ("kill -9 of the broker to the next settlement of all partitions, s", broker),
    ]
    report.add("recovery", {"kills": kills, "worker_s": workers, "broker_s": broker}, rows)
