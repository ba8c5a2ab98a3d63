"""Closes of days: what each was sealed with, whether the rows still say so, and what came late for it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from starlette.responses import Response

from clearline.gateway.finance import session as sessions
from clearline.gateway.finance.asked import as_of, link, when_of
from clearline.gateway.finance.cells import Cell, Table, cell, named_heads
from clearline.gateway.finance.pages import Page
from clearline.gateway.finance.tables import Verdict
from schemas.errors import BadInputError
from sinks.clickhouse import Database
from sinks.finance import closes as sealed_days
from sinks.finance.closes import Listed, Seal
from sinks.finance.cut import Cut

CLOSES_MAX = 400  # of the list: a year and a bit
LATE_MAX = 200


async def closes(page: Page) -> Response:
    """The days that are sealed, the last first; one of them when the query names it."""
    day = page.query.get("day", "").strip()
    if day:
        return await _one(page, day)
    say = page.say
    found, unsealed = await page.parts.reporting.look(lambda db: (sealed_days.listed(db), sealed_days.open_closes(db)))
    names = ("closed_day", "currency", "debits", "credits", "postings", "closed_at", "by", "hash")
    rows = [row for x in found[:CLOSES_MAX] for row in _rows(x)]
    tables = [Table(say("closes.title"), named_heads(page.name, *names), rows)] if rows else []
    told = say("closes.cut", count=CLOSES_MAX) if len(found) > CLOSES_MAX else ""
    verdict = None
    if unsealed:
        verdict = Verdict("bad", say("closes.unsealed", days=", ".join(d.isoformat() for d in unsealed[:31])))
    return page.html(
        "tables.html", say("closes.title"), about=say("closes.about"), tables=tables, verdict=verdict,
        none="" if rows else say("closes.none"), rows_said=told,
    )  # fmt: skip


def _rows(x: Listed) -> list[list[Cell]]:
    """A sealed day's rows, one for each currency; postings are of all. Debits are credits: a day that differs cannot be
    sealed."""
    more = link(f"{sessions.PATH}/closes", {}, day=x.day.isoformat())
    return [
        [
            Cell(x.day.isoformat(), href=more), Cell(currency), cell("money", amount, currency),
            cell("money", amount, currency), cell("count", None if i else x.postings), cell("moment", x.closed_at),
            Cell(x.by), Cell(x.hash[:16]),
        ]
        for i, (currency, amount) in enumerate((x.totals or {"": 0}).items())
    ]  # fmt: skip


async def _one(page: Page, text: str) -> Response:
    """One sealed day. `verify=yes` in the query has the seal worked out again from the postings."""
    say = page.say
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise BadInputError(f"day: must be a day as YYYY-MM-DD, not {text[:40]}") from None
    cut = (await page.parts.reporting.place(when_of(page.query))).cut
    seals, late = await page.parts.reporting.look(lambda db: (sealed_days.seals(db, day), _late_for(db, day, cut)))
    if not seals:
        raise BadInputError(f"day: {day} is not closed")
    here = {"day": day.isoformat(), **({"verify": "yes"} if page.query.get("verify") else {})}
    verdict = None
    if page.query.get("verify"):
        apart = await page.parts.reporting.look(lambda db: list(sealed_days.differences(db, day, seals)))
        verdict = _verdict(page, apart)
    count = f"{len(late):,}" if len(late) <= LATE_MAX else say("closes.late.many", count=LATE_MAX)
    links = [
        (say("closes.verify"), link(f"{sessions.PATH}/closes", {}, day=day.isoformat(), verify="yes")),
        (say("closes.balance"), link(f"{sessions.PATH}/trial-balance", {}, closed=day.isoformat())),
        (say("closes.all"), f"{sessions.PATH}/closes"),
    ]
    return page.html(
        "tables.html", say("closes.one", day=day), verdict=verdict, links=links,
        tables=[*(t for s in seals for t in _sealed(page, s)), *_late(page, day, late)],
        facts=[*((say("closes.hash"), s.hash) for s in seals), (say("closes.late.count"), count)],
        none="" if late else say("closes.late.none"), as_of=as_of(cut, page.path, {**page.query, **here},
        page.parts.now_ms(), say),
    )  # fmt: skip


def _verdict(page: Page, apart: list[str]) -> Verdict:
    if not apart:
        return Verdict("good", page.say("closes.verified"))
    return Verdict("bad", page.say("closes.differ", count=len(apart), first="; ".join(apart[:10])))


def _sealed(page: Page, seal: Seal) -> list[Table]:
    """What a day was sealed with, as the journal has it."""
    try:
        places, totals = sealed_days.read(seal)
    except ValueError as e:
        raise BadInputError(f"day: the figures of {seal.day} are not in their form: {e}") from None
    say = page.say
    rows = [
        [cell("count", t.partition), cell("count", places.get(t.partition, (0, ""))[0]), Cell(t.currency),
         cell("money", t.debits, t.currency), cell("money", t.credits, t.currency), cell("count", t.postings)]
        for t in totals
    ]  # fmt: skip
    heads = named_heads(page.name, "partition", "sequence", "currency", "debits", "credits", "postings")
    return [Table(say("closes.sealed"), heads, rows)]


def _late(page: Page, day: date, late: list[tuple[Any, ...]]) -> list[Table]:
    """What was settled for a day after it was closed."""
    rows = [
        [cell("moment", at), Cell(partner), Cell(product), Cell(operation), Cell(reference), cell("date", valued),
         cell("count", p), cell("count", s)]
        for at, partner, product, operation, reference, valued, p, s in late[:LATE_MAX]
    ]  # fmt: skip
    names = ("booked_at", "partner", "product", "operation", "reference", "value_date", "partition", "sequence")
    return [Table(page.say("closes.late", day=day), named_heads(page.name, *names), rows)] if rows else []


def _late_for(db: Database, day: date, cut: Cut) -> list[tuple[Any, ...]]:
    """What was settled for a day after it was closed, up to a cut, in the order of booking."""
    known_at = (cut.known_at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return db.rows(
        "SELECT booked_at, partner_id, product, operation, reference, value_date, partition, sequence "
        f"FROM {db.name}.outcomes WHERE booked_date >= %(day)s AND outcome = 'settled' AND changes != '' "
        "AND JSONExtractString(changes, 'late_for') = %(text)s "
        "AND booked_at <= fromUnixTimestamp64Milli(%(known_at)s, 'UTC') "
        f"AND offset < {cut.ends()}[partition + 1] ORDER BY booked_at, partition, sequence LIMIT {LATE_MAX + 1}",
        {"day": day, "text": day.isoformat(), "known_at": known_at},
    )


PAGES = (("/closes", "closes", closes),)
