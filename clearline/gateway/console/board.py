"""The sections of the live page, drawn from facts: each is HTML of its own, so that only what changed is sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from jinja2 import Environment

from clearline.gateway.console.facts import BOUNDS_MS, Facts, Role
from clearline.gateway.console.flow import drawings, nodes_and_edges, number, rates
from clearline.gateway.staff_pages import templates

SECTIONS = (
    "now", "incidents", "flow", "latency", "partitions", "dead", "tasks", "replays", "tieout", "frozen", "roles",
    "acts",
)  # fmt: skip
OLD_S = 30  # a tie-out that has said nothing for so long may have stopped


@dataclass(frozen=True, slots=True)
class Word:
    """A sentence that is `good`, `bad` or `none` of both."""

    mood: str
    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of the histogram: outcomes up to so many milliseconds; `width`: of 100."""

    label: str
    count: int
    width: int


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition's row."""

    number: int
    worker: str
    well: bool
    end: int | None
    next_offset: int | None
    behind: int | None
    sequence: int | None
    chain: str


def draw(history: deque[Facts]) -> dict[str, str]:
    """The sections of the newest facts, by the id of their element."""
    first, last = history[0], history[-1]
    rate = rates(first, last)
    nodes, edges = nodes_and_edges(last, rate)
    titles = {n.name: n.title for n in nodes}
    shown: dict[str, Any] = {
        "f": last, "rate": rate, "edges": edges, "titles": titles, "drawings": drawings(nodes, edges),
        "word": overall(last), "tie": tie_out(last), "partitions": partitions(last), "bars": bars(first, last),
        "spread": spread(first, last), "window_s": round((last.at_ms - first.at_ms) / 1000),
    }  # fmt: skip
    module = environment().get_template("board.html").module
    return {name: str(getattr(module, f"section_{name}")(shown)) for name in SECTIONS}


def overall(f: Facts) -> Word:
    """Whether all is well, in a sentence."""
    wrong = [t for t in f.troubles or () if t.severity != "notice"]
    if wrong:
        worst = [t for t in wrong if t.severity == "critical"] or wrong
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return Word("bad", f"{worst[0].cause}{more}")
    ill = [r for r in f.roles if not r.well]
    if ill:
        return Word("bad", f"{ill[0].name}: {ill[0].why or ill[0].state}")
    if f.unknown.get("lag"):
        return Word("bad", f.unknown["lag"])
    if not f.roles:
        return Word("none", "No role is known here")
    return Word("good", f"All {len(f.roles)} roles work")


def tie_out(f: Facts) -> Word:
    """What the role `tieout` said last."""
    told = f.tie_out
    if told is None:
        return Word("none", "No tie-out runs here, or it has said nothing yet.")
    age = max(0, f.at_ms - int(told.get("round_at", 0))) // 1000
    if age > OLD_S:
        return Word("bad", f"The tie-out has said nothing for {age:,} s.")
    count = sum(int(p.get("differences", 0)) for p in told.get("parts", {}).values())
    behind = f"{float(told.get('lag_seconds') or 0):,.1f} s behind"
    match told.get("verdict"):
        case "equal":
            return Word("good", f"Kafka, ClickHouse and Redis agree, {behind}.")
        case "differs":
            return Word("bad", f"{count:,} differences, {behind}.")
    return Word("none", f"Verdict: {told.get('verdict')}, {behind}.")


def partitions(f: Facts) -> list[Partition]:
    """Each partition with its worker and the head of its chain."""
    whose: dict[int, Role] = {p: r for r in f.roles if r.kind == "worker" for p in r.partitions}
    behind = f.behind.get("settlement", {})
    found = sorted({*f.ends, *f.heads, *whose})
    out = []
    for p in found:
        head, worker = f.heads.get(p), whose.get(p)
        out.append(
            Partition(
                p,
                worker.name if worker is not None else "",
                worker is not None and worker.well,
                f.ends.get(p),
                head.next_offset if head is not None else None,
                behind.get(p),
                head.sequence if head is not None else None,
                head.chain if head is not None else "",
            )
        )
    return out


def recent(first: Facts, last: Facts) -> list[int]:
    """Counts by BOUNDS_MS between two looks; since the processes began where that is all there is."""
    if last.latency is None or not last.latency.counts:
        return []
    before: Sequence[int] = ()
    if first is not last and first.latency is not None:
        before = first.latency.counts
    counts = [n - (before[i] if i < len(before) else 0) for i, n in enumerate(last.latency.counts)]
    return counts if min(counts) >= 0 else list(last.latency.counts)  # a process began anew


def bars(first: Facts, last: Facts) -> list[Bar]:
    """The histogram of what was settled between two looks."""
    counts = recent(first, last)
    most = max([1, *counts])
    labels = [*(f"up to {ms:,} ms" for ms in BOUNDS_MS), f"over {BOUNDS_MS[-1]:,} ms"]
    return [Bar(labels[i], n, max(1, n * 100 // most) if n > 0 else 0) for i, n in enumerate(counts)]


def spread(first: Facts, last: Facts) -> str:
    """Half and 99% took at most so long, in words; by the histogram where workers do not say it themselves."""
    said = last.latency
    if said is None or said.p50_ms is None or said.p99_ms is None:
        counts = recent(first, last) if first is not last else []
        if not sum(counts):
            return "Nothing was settled lately."
        return f"Half took {_within(counts, 0.5)}, 99% {_within(counts, 0.99)} between the first and the last look."
    return f"Half took at most {said.p50_ms:,.0f} ms, 99% at most {said.p99_ms:,.0f} ms in the last minute."


def _within(counts: Sequence[int], share: float) -> str:
    """In which bucket so large a share of the outcomes is."""
    left = share * sum(counts)
    for bound, n in zip(BOUNDS_MS, counts, strict=False):
        left -= n
        if left <= 0:
            return f"at most {bound:,} ms"
    return f"more than {BOUNDS_MS[-1]:,} ms"


def moment(milliseconds: int) -> str:
    """A time for people, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def iso(milliseconds: int) -> str:
    """A time for programs."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(1)
def environment() -> Environment:
    """The console's templates, with its filters."""
    made = templates("clearline.gateway.console")
    made.filters.update(moment=moment, iso=iso, number=number)
    return made
