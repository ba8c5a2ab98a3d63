"""Breaks of reconciliations: what an account's run could not match, with its age and what people said of it.

A run has a cut of its own, and a link that names the run shows the same breaks for ever. What people say of them comes
later, and is shown as it is now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.responses import Response

from clearline.gateway.figures_answer import forms
from clearline.gateway.finance import session as sessions
from clearline.gateway.finance.asked import AsOf, Field, as_of, link
from clearline.gateway.finance.cells import Cell, Table, cell, heads, named_heads, row_cells
from clearline.gateway.finance.pages import Page
from clearline.gateway.finance.tables import page_of
from schemas.errors import BadInputError
from sinks.clickhouse import Database
from sinks.finance.ask import Result
from sinks.finance.catalogue import Column
from sinks.recon import Recon, RunRow

TYPES = ("missing_in_ledger", "missing_in_statement", "amount_differs", "date_differs", "duplicate", "ambiguous")
SHOWN = (
    "break", "type", "state", "value_date", "age_days", "reference", "statement_amount", "ledger_amount", "difference",
    "currency", "text", "note", "by", "partition", "sequence",
)  # fmt: skip
ASKED = ("account", "run", "type", "state")


async def breaks(page: Page) -> Response:
    """All accounts' last runs; one account's breaks when the query names it, or there is only one."""
    say, query = page.say, {n: page.query.get(n, "").strip() for n in ASKED}
    latest = await page.parts.reporting.look(_latest)
    if not latest:
        return page.html("tables.html", say("breaks.title"), none=say("breaks.none"))
    if not query["account"] and len(latest) == 1:
        query["account"] = latest[0][0].account_id
    names = ("account", "day", "run", "breaks", "open", "difference", "currency")
    listed = Table(say("breaks.accounts"), named_heads(page.name, *names), [_account_row(*x) for x in latest])
    if not query["account"]:
        return page.html("tables.html", say("breaks.title"), about=say("breaks.about"), tables=[listed])
    run, result = await page.parts.reporting.look(partial(_found, query=query))
    own = {**query, "run": run.run}
    columns, shown = _columns(result)
    rows, said, pages = page_of(page, shown, own)
    title = say("breaks.of", account=run.account_id, day=run.day)
    table = Table(title, heads(columns, partial(_name, page)), [row_cells(columns, row) for row in rows])
    return page.html(
        "tables.html", say("breaks.title"), about=say("breaks.about"), rows_said=said, pages=pages, action=page.path,
        fields=_fields(page, [x[0].account_id for x in latest], query), as_of=_as_of(page, result, query, run),
        tables=[*([table] if rows else []), *([listed] if len(latest) > 1 else [])],
        downloads=[(f, link(f"{sessions.PATH}/download-breaks", own, format=f)) for f in forms()],
    )  # fmt: skip


async def download(page: Page) -> Response:
    """A run's breaks as a file: the same bytes as `clearline recon breaks` makes."""
    form = forms().get(page.query.get("format", ""))
    if form is None:
        raise BadInputError(f"format: must be one of {', '.join(forms())}")
    query = {n: page.query.get(n, "").strip() for n in ASKED}
    body, cut = await page.parts.reporting.look(partial(_file, query=query, render=form.render))
    headers = {
        "Content-Disposition": f'attachment; filename="recon-breaks.{form.name}"', "Clearline-As-Of": cut or "0:0"
    }  # fmt: skip
    return Response(body, headers=headers, media_type=form.media)


def _file(db: Database, query: dict[str, str], render: Callable[[Result], bytes]) -> tuple[bytes, str]:
    _, result = _found(db, query)
    return render(result), result.cut.text


def _fields(page: Page, accounts: list[str], query: dict[str, str]) -> list[Field]:
    name = partial(page.name, "column")
    whole = ("", page.say("all"))
    known = [(a, a) for a in dict.fromkeys([*accounts, query["account"]])]
    types = [whole, *((t, name(t)) for t in TYPES)]
    states = [whole, *((s, name(s)) for s in ("open", "settled"))]
    return [
        Field("account", name("account"), "", query["account"], choices=known, wide=True),
        Field("type", name("type"), "", query["type"], choices=types),
        Field("state", name("state"), "", query["state"], choices=states),
    ]


def _name(page: Page, column: Column) -> str:
    return page.name("column", column.name)


def _columns(result: Result) -> tuple[list[Column], Result]:
    """What is shown of all columns."""
    places = [result.names.index(n) for n in SHOWN]
    rows = [tuple(row[i] for i in places) for row in result.rows]
    return [result.report.columns[i] for i in places], Result(result.report, result.asked, result.cut, rows)


def _as_of(page: Page, result: Result, query: dict[str, str], run: RunRow) -> AsOf:
    """The run's own cut. A page that names its run is fixed; one that does not shows the last."""
    made = as_of(result.cut, page.path, {}, page.parts.now_ms(), page.say)
    fixed = bool(query["run"])
    return replace(
        made, pinned=fixed, link=link(page.path, query, run=run.run), newest=link(page.path, query, run=""),
        said=page.say("breaks.run" if fixed else "breaks.last", number=run.number),
    )  # fmt: skip


def _latest(db: Database) -> list[tuple[RunRow, int, int, int]]:
    """The last run of each account: how many breaks it has, how many are open, and what the open ones sum up to."""
    recon = Recon(db)
    last = {run.account_id: run for run in recon.runs()}
    out = []
    for account, run in sorted(last.items()):
        rows, words = recon.breaks(run), recon.words(account)
        still = [b for b in rows if b.id not in words]
        out.append((run, len(rows), len(still), sum(b.difference for b in still)))
    return out


def _account_row(run: RunRow, count: int, still: int, difference: int) -> list[Cell]:
    return [
        Cell(run.account_id, href=link(f"{sessions.PATH}/breaks", {}, account=run.account_id)), cell("date", run.day),
        cell("count", run.number), cell("count", count), cell("count", still),
        cell("money", difference, run.currency), Cell(run.currency),
    ]  # fmt: skip


def _found(db: Database, query: dict[str, str]) -> tuple[RunRow, Result]:
    """An account's run by its name, or the last one, and its breaks. Raises BadInputError when there is none."""
    from clearline.recon.lookup import breaks_result  # brings polars

    if query["type"] not in ("", *TYPES):
        raise BadInputError(f"type: must be one of {', '.join(TYPES)}")
    recon = Recon(db)
    runs = [r for r in recon.runs(query["account"]) if query["run"] in ("", r.run)] if query["account"] else []
    if not runs:
        raise BadInputError("account: it has no such run of a reconciliation")
    result = breaks_result(recon, runs[-1], query["type"])
    if query["state"]:
        place = result.names.index("state")
        result = replace(result, rows=[row for row in result.rows if row[place] == query["state"]])
    return runs[-1], result


PAGES: tuple[tuple[str, str, Any], ...] = (("/breaks", "breaks", breaks), ("/download-breaks", "breaks", download))
