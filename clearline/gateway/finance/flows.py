"""Flows by product and day: charts, and the same figures in a table beneath."""

from __future__ import annotations

from datetime import date
from typing import Any

from starlette.responses import Response

from clearline.gateway.finance.asked import Field, given_of
from clearline.gateway.finance.cells import money
from clearline.gateway.finance.charts import BASE, DAYS_MAX, HEIGHT, TOP, WIDTH, Chart, charts
from clearline.gateway.finance.pages import Page
from clearline.gateway.finance.tables import answered, asked_report, effective, error_of, figures_of, form_of, status_of
from clearline.gateway.problems import Problem
from schemas.errors import BadInputError
from sinks.finance.ask import Result


async def flows(page: Page) -> Response:
    """Amounts by product and day in one currency: amounts of several cannot be compared."""
    report, title = asked_report("flows"), page.say("flows.title")
    given = given_of(report, page.query)
    wanted = given.pop("currency", "")
    shown = _form(page, given, wanted, [])
    try:
        question, found = await answered(page, report, given)
        given = effective(found, given)
        counts: dict[str, int] = {}
        for row in found.dicts():
            counts[row["currency"]] = counts.get(row["currency"], 0) + 1
        currency = wanted or max(sorted(counts), key=lambda c: counts[c], default="")
        place = found.names.index("currency")
        one = Result(report, found.asked, found.cut, [row for row in found.rows if row[place] == currency])
        shown |= _form(page, given, currency, sorted({*counts, currency} - {""}))
        shown |= figures_of(page, question, one, {**given, **({"currency": currency} if currency else {})})
    except (BadInputError, Problem) as e:
        return page.html("flows.html", title, status_of(e), **shown, **error_of(e))
    return page.html("flows.html", title, **shown, **_drawn(page, one, currency))


def _form(page: Page, given: dict[str, str], currency: str, currencies: list[str]) -> dict[str, Any]:
    shown = form_of(page, asked_report("flows"), given)
    others = [f for f in shown["fields"] if f.name != "currency"]
    choices = [(c, c) for c in currencies or [currency]]
    return {**shown, "fields": [Field("currency", page.say("flows.currency"), "", currency, choices=choices), *others]}


def _drawn(page: Page, result: Result, currency: str) -> dict[str, Any]:
    """The charts of a currency's flows, with their words."""
    since, until = (date.fromisoformat(result.asked[n]) for n in ("since", "until"))
    found = charts([(r["day"], r["product"], r["debits"]) for r in result.dicts()], since, until)
    if found is None:
        return {}
    drawn = []
    for i, c in enumerate(found.charts):
        last = found.others and i == len(found.charts) - 1
        name = page.say("flows.others", count=found.others) if last else c.product or page.say("flows.no_product")
        drawn.append(_chart(page, c, name, currency, f"chart-{i}"))
    cut = page.say("flows.cut", days=DAYS_MAX) if found.cut else ""
    return {"charts": drawn, "charts_cut": cut}


def _chart(page: Page, c: Chart, product: str, currency: str, number: str) -> dict[str, Any]:
    def amount(n: int) -> str:
        return money(n, currency)

    first, last = c.bars[0].day.isoformat(), c.bars[-1].day.isoformat()
    said = page.say(
        "flows.said", total=amount(c.total), currency=currency, day=c.highest.day, most=amount(c.highest.amount),
        low_day=c.lowest.day, least=amount(c.lowest.amount),
    )  # fmt: skip
    bars = [
        {"x": b.x, "y": b.y, "width": b.width, "height": b.height, "said": f"{b.day}: {amount(b.amount)} {currency}"}
        for b in c.bars
    ]
    return {
        "id": number, "product": product, "currency": currency, "total": amount(c.total), "said": said, "bars": bars,
        "title": page.say("flows.chart", product=product, currency=currency, since=first, until=last),
        "scale": f"{amount(c.scale)} {currency}", "since": first, "until": last, "width": WIDTH, "height": HEIGHT,
        "top": TOP, "base": BASE, "middle": (TOP + BASE) // 2,
    }  # fmt: skip


PAGES = (("/flows", "flows", flows),)
