"""Pages of reports: every report of the catalogue has one; trial balance and statement say more than their rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

from starlette.responses import Response

from clearline.gateway.figures_answer import forms
from clearline.gateway.finance import session as sessions
from clearline.gateway.finance.asked import MOMENTS, as_of, fields_of, given_of, link, moment_fields, pinned, when_of
from clearline.gateway.finance.cells import Table, cell, heads, money, row_cells, total_rows
from clearline.gateway.finance.pages import Page
from clearline.gateway.problems import Problem
from clearline.gateway.reporting import Question, When, question_of
from schemas.errors import BadInputError
from schemas.identity import BANK
from sinks.finance.ask import Result
from sinks.finance.catalogue import CATALOGUE, FIRST_DAY, LAST_DAY, REPORTS, Report

ROWS_ON_PAGE = 200  # as many as scroll well on a telephone
OWN_PAGES = ("trial-balance", "statement", "flows")
_NAMED = re.compile(r"([a-z_]{1,64}): .*", re.S)
_OPEN_DAYS = (FIRST_DAY, LAST_DAY)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence that is `good`, `bad`, or `none` of both."""

    mood: str
    text: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Pages:
    """Links to other rows of a table, empty where there are none."""

    first: str = ""
    previous: str = ""
    next: str = ""


def asked_report(name: str) -> Report:
    """A report by its name. Raises Problem("not_found")."""
    if name not in CATALOGUE:
        raise Problem("not_found", "there is no such report")
    return CATALOGUE[name]


async def answered(
    page: Page, report: Report, given: Mapping[str, str], when: When | None = None
) -> tuple[Question, Result]:
    """The report as a page asks it, one report taken of the bank's limits. Raises Problem, BadInputError,
    PartUnavailableError."""
    if (await page.parts.gate.take(BANK, 1, "reports")).refused:
        raise Problem("rate_limited")
    question = await question_of(page.parts.reporting, report, given, when or when_of(page.query), BANK)
    return question, await page.parts.reporting.result(question)


async def list_reports(page: Page) -> Response:
    """All reports with what they say."""
    carried = {n: page.query[n] for n in MOMENTS if page.query.get(n)}
    items = [
        {"title": page.name("report", r.name, r.title), "about": page.name("about", r.name, r.about),
         "href": link(f"{sessions.PATH}/{r.name if r.name in OWN_PAGES else f'reports/{r.name}'}", carried)}
        for r in REPORTS
    ]  # fmt: skip
    return page.html("reports.html", page.say("reports.title"), reports=items)


async def any_report(page: Page) -> Response:
    """One report."""
    return await show_report(page, asked_report(page.request.path_params["name"]))


async def trial_balance(page: Page) -> Response:
    """The trial balance, and whether the books balance."""
    return await show_report(page, asked_report("trial-balance"))


async def statement(page: Page) -> Response:
    """The statement of an account; the form alone until one is named."""
    return await show_report(page, asked_report("statement"))


async def show_report(page: Page, report: Report) -> Response:
    """The page of a report: its form, up to where it goes, a page of its rows, its totals, its files."""
    given = given_of(report, page.query)
    title = page.name("report", report.name, report.title)
    shown = form_of(page, report, given) | {"about": page.name("about", report.name, report.about)}
    if any(p.default is None and p.name not in given for p in report.parameters):
        if report.name == "statement":
            shown["about"] = page.say("statement.example")
        return page.html("report.html", title, **shown)
    try:
        question, result = await answered(page, report, given)
        known = effective(result, given)
        shown |= form_of(page, report, known) | figures_of(page, question, result, known)
    except (BadInputError, Problem) as e:
        return page.html("report.html", title, status_of(e), **shown, **error_of(e))
    if report.name == "trial-balance":
        shown["verdict"] = balance_of(result, page.say)
    if report.name == "statement":
        shown |= _statement_of(page, result)
    return page.html("report.html", title, **shown)


def form_of(page: Page, report: Report, given: Mapping[str, str]) -> dict[str, Any]:
    """What a template shows of a report's form. A closed day names the last day itself, so that has no value then."""
    if when_of(page.query).closed:
        given = {n: v for n, v in given.items() if n != "until"}
    return {
        "action": page.path, "fields": fields_of(report, given, partial(page.name, "parameter")),
        "moments": moment_fields(page.query, page.say), "moments_open": any(when_of(page.query)),
    }  # fmt: skip


def effective(result: Result, given: Mapping[str, str]) -> dict[str, str]:
    """The parameters as they were given, and the days that the report chose itself."""
    days = {n: result.asked[n] for n in ("since", "until") if result.asked.get(n, FIRST_DAY) not in _OPEN_DAYS}
    return {**given, **days}


def figures_of(page: Page, question: Question, result: Result, given: Mapping[str, str]) -> dict[str, Any]:
    """What a template shows of a report's figures. `given`: its parameters. Raises BadInputError."""
    report, cut = result.report, question.place.cut
    exact = pinned(cut)
    own = {**given, **exact}
    rows, said, pages = page_of(page, result, own)
    totals = result.totals()
    table = Table(
        page.name("report", report.name, report.title),
        heads(report.columns, lambda c: page.name("column", c.name)),
        [row_cells(report.columns, row, partial(to_statement, exact, given)) for row in rows],
        total_rows(report.columns, totals, page.say("total")) if len(result.rows) > len(totals) else (),
    )
    return {
        "as_of": as_of(cut, page.path, {**page.query, **given}, page.parts.now_ms(), page.say),
        "table": table, "rows_said": said, "pages": pages, "downloads": download_links(report.name, own),
    }  # fmt: skip


def download_links(name: str, own: Mapping[str, str]) -> list[tuple[str, str]]:
    """Formats, and where a report is had in them. `own`: its parameters and its cut."""
    return [(form, link(f"{sessions.PATH}/download/{name}", own, format=form)) for form in forms()]


def page_of(page: Page, result: Result, own: Mapping[str, str]) -> tuple[list[Any], str, Pages]:
    """The rows of the asked page, which they are in words, and links to the others, at the same cut. Raises
    BadInputError."""
    count = len(result.rows)
    text = page.query.get("page", "1") or "1"
    if not (text.isascii() and text.isdecimal() and len(text) <= 7 and int(text) >= 1):
        raise BadInputError("page: must be a whole number from 1 on")
    number = min(int(text), max(1, -(-count // ROWS_ON_PAGE)))
    first = (number - 1) * ROWS_ON_PAGE
    rows = result.rows[first : first + ROWS_ON_PAGE]
    if not count:
        return [], page.say("rows.none"), Pages()
    if count <= ROWS_ON_PAGE:
        return rows, page.say("rows.all" if count > 1 else "rows.one", count=f"{count:,}"), Pages()
    said = page.say("rows", first=f"{first + 1:,}", last=f"{first + len(rows):,}", count=f"{count:,}")
    at: Callable[..., str] = partial(link, page.path, own)
    before = at(page=str(number - 1)) if number > 1 else ""
    after = at(page=str(number + 1)) if first + len(rows) < count else ""
    return rows, said, Pages(at(page="1") if number > 1 else "", before, after)


def status_of(e: Exception) -> int:
    """The HTTP status of a page that says what is wrong with its form. Raises what is not said there."""
    if isinstance(e, Problem):
        if e.code != "report_too_large":
            raise e
        return e.status
    return 400


def error_of(e: Exception) -> dict[str, str]:
    """An error beside the field that it names."""
    text = e.detail if isinstance(e, Problem) else str(e)
    named = _NAMED.fullmatch(text)
    return {"error": text, "error_field": named[1] if named else ""}


def balance_of(result: Result, say: Callable[..., str]) -> Verdict:
    """Whether debits equal credits in every currency, to the cent."""
    apart = result.differences()
    if apart:
        told = ", ".join(f"{money(n, c)} {c}" for c, n in sorted(apart.items()))
        return Verdict("bad", say("unbalanced", differences=told))
    if not result.rows:
        return Verdict("none", say("balanced.none"))
    return Verdict("good", say("balanced", currencies=", ".join(sorted(result.totals()))))


def to_statement(exact: Mapping[str, str], given: Mapping[str, str], account: str) -> str:
    """The statement of an account, over the same days, at the same cut."""
    days = {n: given[n] for n in ("since", "until", "on") if n in given}
    return link(f"{sessions.PATH}/statement", {**days, **exact}, account=account)


def _statement_of(page: Page, result: Result) -> dict[str, Any]:
    """What a statement says over its lines: its balances and sums, and whether all lines are there."""
    first, *lines, last = result.dicts()
    currency = str(last["currency"])
    sums = (("opening", first["balance"]), ("debits", last["debits"]), ("credits", last["credits"]),
            ("closing", last["balance"]))  # fmt: skip
    since, until = (date.fromisoformat(result.asked[n]) for n in ("since", "until"))
    said = page.say("statement.period", account=result.asked["account"], since=since, until=until, currency=currency)
    missing = int(last["postings"]) - len(lines)
    short = page.say("statement.short", shown=f"{len(lines):,}", count=f"{int(last['postings']):,}") if missing else ""
    summary = [(page.name("column", n), cell("money", amount, currency)) for n, amount in sums]
    return {"summary": summary, "summary_title": said, "short": short}


async def download(page: Page) -> Response:
    """A report as a file, all of its rows: the same bytes as the API gives."""
    report = asked_report(page.request.path_params["name"])
    known = forms()
    form = known.get(page.query.get("format", ""))
    if form is None:
        raise BadInputError(f"format: must be one of {', '.join(known)}")
    question, _ = await answered(page, report, given_of(report, page.query))
    body = await page.parts.reporting.file(question, form.name, form.render)
    headers = {
        "Content-Disposition": f'attachment; filename="{report.name}.{form.name}"',
        "Clearline-As-Of": question.place.cut.text or "0:0",
    }
    return Response(body, headers=headers, media_type=form.media)


PAGES = (
    ("/trial-balance", "trial-balance", trial_balance),
    ("/statement", "statement", statement),
    ("/reports", "reports", list_reports),
    ("/reports/{name}", "reports", any_report),
    ("/download/{name}", "reports", download),
)
