"""Today: how the day goes, whether the books balance, whether the stores agree, and up to where all that goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

from starlette.responses import Response

from clearline.embedded.folder import DataFolder
from clearline.gateway.finance.asked import Field, as_of, moment_fields, pinned, when_of
from clearline.gateway.finance.cells import Cell, Head, Table, cell
from clearline.gateway.finance.pages import Page
from clearline.gateway.finance.tables import (
    Verdict,
    answered,
    asked_report,
    balance_of,
    download_links,
    error_of,
    status_of,
)
from clearline.gateway.finance.words import EN
from clearline.gateway.problems import Problem
from clearline.gateway.reporting import When
from schemas.errors import BadInputError
from sinks.finance.ask import Result

COUNTS = ("calls", "settled", "rejected", "repeated", "control")
LATENCIES = ("p50_us", "p99_us", "max_us")
OLD_S = 30  # a tie-out that has said nothing for so long may have stopped


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page under a heading of its own."""

    title: str
    numbers: list[tuple[str, Cell]] = field(default_factory=list)
    table: Table | None = None
    note: str = ""


async def today(page: Page) -> Response:
    """How the day goes."""
    say, title = page.say, page.say("today.title")
    report = asked_report("day")
    when = when_of(page.query)
    day = when.closed or page.query.get("day", "").strip() or today_of(page.parts.now_ms()).isoformat()
    shown: dict[str, Any] = {
        "action": page.path, "fields": [Field("day", say("today.day"), "date", day)],
        "moments": moment_fields(page.query, say), "moments_open": any(when),
    }  # fmt: skip
    days = {"since": day, **({} if when.closed else {"until": day})}
    try:
        question, found = await answered(page, report, days)
        cut = question.place.cut
        _, balance = await answered(page, asked_report("trial-balance"), {}, When(**pinned(cut)))
    except (BadInputError, Problem) as e:
        error = error_of(e)
        name = "day" if error["error_field"] in days else error["error_field"]
        return page.html("today.html", title, status_of(e), **shown, **{**error, "error_field": name})
    verdict = replace(balance_of(balance, say), title=say("today.books"))
    shown |= {
        "as_of": as_of(cut, page.path, {**page.query, "day": day}, page.parts.now_ms(), say),
        "verdicts": [verdict, await _tie_out(page)], "sections": _sections(page, found),
        "downloads": download_links("day", {"since": day, "until": day, **pinned(cut)}),
    }  # fmt: skip
    return page.html("today.html", title, **shown)


def _sections(page: Page, found: Result) -> list[Section]:
    """Counts, amounts and times of one day."""
    say = page.say
    rows = list(found.dicts())
    if not rows:
        return [Section(say("today.outcomes"), note=say("today.quiet"))]
    whole = next((r for r in rows if not r["currency"]), None)
    counts = [(page.name("column", n), cell("count", whole[n])) for n in COUNTS] if whole is not None else []
    times = [
        (say(f"today.{n}"), Cell(f"{whole[n] // 1000:,}.{whole[n] % 1000 // 100} ms")) for n in LATENCIES
    ] if whole is not None and whole["calls"] else []  # fmt: skip
    amounts = [
        [Cell(r["currency"]), cell("money", r["amount"], r["currency"]), cell("count", r["postings"])]
        for r in rows if r["currency"]
    ]  # fmt: skip
    heads = [Head(say("today.currency"), False), Head(say("today.amount"), True), Head(say("today.postings"), True)]
    table = Table(say("today.amounts"), heads, amounts) if amounts else None
    return [
        Section(say("today.outcomes"), counts),
        Section(say("today.amounts"), table=table, note="" if amounts else say("today.quiet")),
        Section(say("today.platform"), times, note=say("today.latency.note" if times else "today.latency.none")),
    ]


async def _tie_out(page: Page) -> Verdict:
    """The last word of the role `tieout` of this machine, from its ready file."""
    told = await asyncio.to_thread(_told, DataFolder(page.parts.settings.data_dir))
    return tie_out_of(told, page.parts.now_ms(), page.say, page.say("today.tieout"))


def _told(folder: DataFolder) -> Mapping[str, Any] | None:
    try:
        told = json.loads((folder.ready / "tieout.json").read_bytes())
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def tie_out_of(told: Mapping[str, Any] | None, now_ms: int, say: Callable[..., str], title: str) -> Verdict:
    """What the role `tieout` said, in a sentence. `told`: its ready file, None when there is none."""
    if told is None or f"tieout.{told.get('verdict')}" not in EN or "round_at" not in told:
        return Verdict("none", say("tieout.unknown"), title)
    word, age = str(told["verdict"]), max(0, now_ms - int(told["round_at"])) // 1000
    if age > OLD_S:
        return Verdict("bad", say("tieout.old", seconds=f"{age:,}"), title)
    count = sum(int(p.get("differences", 0)) for p in told.get("parts", {}).values())
    first = "; ".join(f"Partition {d['partition']}: {d['text']}" for d in told.get("differences", [])[:3])
    said = say(f"tieout.{word}", count=f"{count:,}", first=first)
    when = say("tieout.at", seconds=age, cut=told.get("cut", ""), behind=told.get("lag_seconds", 0))
    mood = {"equal": "good", "differs": "bad"}.get(word, "none")
    return Verdict(mood, f"{said} {when}", title)


def today_of(now_ms: int) -> date:
    """The day of a moment, UTC."""
    return date(1970, 1, 1) + timedelta(milliseconds=now_ms)


PAGES = (("", "today", today),)
