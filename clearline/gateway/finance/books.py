"""Closes of days with what came late for them, and breaks of reconciliations."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from starlette.responses import Response

from clearline.gateway.finance import session as sessions
from clearline.gateway.finance.asked import as_of, link, pinned, when_of
from clearline.gateway.finance.cells import Cell, Head, Table, cell
from clearline.gateway.finance.pages import Page
from schemas.errors import BadInputError
from sinks.clickhouse import Database
from sinks.finance.cut import Cut

CLOSES_MAX = 400  # rows of the list: a year and a bit of one currency
LATE_MAX = 200


async def closes(page: Page) -> Response:
    """The days that were closed, the last first; one of them with its cut and what came late for it."""
    day = page.query.get("day", "").strip()
    if day:
        return await _close(page, day)
    rows = await page.parts.reporting.look(_all_closes)
    say, shown = page.say, rows[:CLOSES_MAX]
    tables = [Table(say("closes.title"), _heads(page, "closed_day", "currency", "debits", "credits", "difference",
                    "postings", "closed_at", "by", "hash"), [_close_row(*row) for row in shown])]  # fmt: skip
    return page.html(
        "tables.html", say("closes.title"), about=say("closes.about"), tables=tables if rows else [],
        none="" if rows else say("closes.none"),
        rows_said=say("closes.cut", count=CLOSES_MAX) if len(rows) > CLOSES_MAX else "",
    )  # fmt: skip


async def _close(page: Page, text: str) -> Response:
    """One closed day."""
    say = page.say
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise BadInputError(f"day: must be a day as YYYY-MM-DD, not {text[:40]}") from None
    place = await page.parts.reporting.place(when_of(page.query))
    cut = place.cut
    parts = await page.parts.reporting.look(lambda db: _one_close(db, day))
    if not parts:
        raise BadInputError(f"day: {day} is not closed")
    late = await page.parts.reporting.look(lambda db: _late_for(db, day, cut))
    sealed = ",".join(f"{p}:{s}" for p, s in sorted({int(r[0]): int(r[5]) for r in parts}.items()))
    partitions = [
        [cell("count", p), Cell(c), cell("money", d, c), cell("money", k, c), cell("count", n), cell("count", s),
         cell("moment", at), Cell(by)]
        for p, c, d, k, n, s, _, at, by in parts
    ]  # fmt: skip
    came = [
        [cell("moment", at), Cell(partner), Cell(product), Cell(operation), Cell(reference), cell("date", valued),
         cell("count", p), cell("count", s)]
        for at, partner, product, operation, reference, valued, p, s in late[:LATE_MAX]
    ]  # fmt: skip
    tables = [
        Table(say("closes.sealed"), _heads(page, "partition", "currency", "debits", "credits", "postings", "sequence",
              "closed_at", "by"), partitions),
        Table(say("closes.late", day=day), _heads(page, "booked_at", "partner", "product", "operation", "reference",
              "value_date", "partition", "sequence"), came),
    ]  # fmt: skip
    count = f"{len(late):,}" if len(late) <= LATE_MAX else say("closes.late.many", count=LATE_MAX)
    facts = [(say("as_of.cut"), sealed), (say("closes.hash"), parts[0][6]), (say("closes.late.count"), count)]
    links = [
        (say("closes.balance"), link(f"{sessions.PATH}/trial-balance", {}, closed=day.isoformat())),
        (say("closes.all"), link(f"{sessions.PATH}/closes", {}, **pinned(cut) if place.fixed else {})),
    ]
    return page.html(
        "tables.html", say("closes.one", day=day), tables=tables if came else tables[:1], facts=facts, links=links,
        as_of=as_of(cut, page.path, {**page.query, "day": day.isoformat()}, page.parts.now_ms(), say),
        none="" if came else say("closes.late.none"),
    )  # fmt: skip


def _close_row(
    day: date, currency: str, debits: int, credits_: int, postings: int, closed_at: Any, by: str, digest: str
) -> list[Cell]:
    more = link(f"{sessions.PATH}/closes", {}, day=day.isoformat())
    return [
        Cell(day.isoformat(), href=more), Cell(currency), cell("money", debits, currency),
        cell("money", credits_, currency), cell("money", debits - credits_, currency), cell("count", postings),
        cell("moment", closed_at), Cell(by), Cell(digest[:16]),
    ]  # fmt: skip


def _all_closes(db: Database) -> list[tuple[Any, ...]]:
    """Days and currencies, sums over all partitions."""
    return db.rows(
        "SELECT closed_day, currency, sum(debits), sum(credits), sum(postings), max(closed_at), any(by), "
        f"lower(hex(any(hash))) FROM {db.name}.closes GROUP BY closed_day, currency "
        f"ORDER BY closed_day DESC, currency LIMIT {CLOSES_MAX + 1}"
    )


def _one_close(db: Database, day: date) -> list[tuple[Any, ...]]:
    """What each partition was sealed with."""
    return db.rows(
        "SELECT partition, currency, debits, credits, postings, sequence, lower(hex(hash)), closed_at, by "
        f"FROM {db.name}.closes WHERE closed_day = %(day)s ORDER BY partition, currency",
        {"day": day},
    )


def _late_for(db: Database, day: date, cut: Cut) -> list[tuple[Any, ...]]:
    """What was settled for a day after it was closed, up to a cut, in the order of booking."""
    return db.rows(
        "SELECT booked_at, partner_id, product, operation, reference, value_date, partition, sequence "
        f"FROM {db.name}.outcomes WHERE booked_date >= %(day)s AND outcome = 'settled' AND changes != '' "
        "AND JSONExtractString(changes, 'late_for') = %(text)s "
        "AND booked_at <= fromUnixTimestamp64Milli(%(known)s, 'UTC') "
        f"AND offset < {cut.ends()}[partition + 1] ORDER BY booked_at, partition, sequence LIMIT {LATE_MAX + 1}",
        {"day": day, "text": day.isoformat(), "known": _milliseconds(cut)},
    )


def _milliseconds(cut: Cut) -> int:
    return (cut.known_at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _heads(page: Page, *names: str) -> list[Head]:
    numbers = {"debits", "credits", "difference", "postings", "partition", "sequence", "amount", "age_days"}
    return [Head(page.name("column", n), n in numbers) for n in names]


async def breaks(page: Page) -> Response:
    """What reconciliations could not match."""
    return page.html("tables.html", page.say("breaks.title"), none=page.say("breaks.none"), tables=[])


PAGES = (("/closes", "closes", closes), ("/breaks", "breaks", breaks))
