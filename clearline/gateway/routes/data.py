"""Data services: aggregates, time series, the first of something, an account's cash flow (docs/data-services.md)."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from clearline.contract import ContractError, FieldError
from clearline.gateway.figures_answer import answer, asked_of, field_error
from clearline.gateway.principal import Principal
from clearline.gateway.problems import Problem
from clearline.gateway.scoping import SCOPE, whose
from clearline.gateway.security import Asker, charge_report, parts_of
from schemas.errors import BadInputError
from sinks.finance import data
from sinks.finance.catalogue import Report

router = APIRouter(prefix="/v1/data", tags=["data"])


@router.get("/aggregates", response_class=Response)
async def get_aggregates(request: Request, who: Asker) -> Response:
    """Sums and counts of postings by what `by` names; `join` joins a table of the partner's own."""
    who.need(SCOPE)
    await charge_report(request, who)
    asked = asked_of(request, data.AGGREGATES)
    name = asked.given.get("join")
    if name:
        found = await parts_of(request).tables.ask(lambda tables: tables.current(whose(who), name))
        if found is None or found.deleted:
            raise ContractError([FieldError("join", "is no table of this partner's: see GET /v1/data/tables")])
        assert isinstance(asked.report, data.Aggregates)
        try:
            report = data.joined(asked.report, found, asked.given)
        except BadInputError as e:
            raise field_error(e) from None
        given = {**asked.given, "join": f"{name}@{found.version}", "match": report.match}
        asked = asked._replace(report=report, given=given)
    return await answer(request, who, asked)


@router.get("/series", response_class=Response)
async def get_series(request: Request, who: Asker) -> Response:
    """One measure over time, without gaps."""
    return await _answer(request, who, data.SERIES)


@router.get("/top", response_class=Response)
async def get_top(request: Request, who: Asker) -> Response:
    """The first partners, accounts, products or operations by a measure."""
    return await _answer(request, who, data.TOP_N)


@router.get("/cash-flow/{account_id:path}", response_class=Response)
async def get_cash_flow(request: Request, account_id: str, who: Asker) -> Response:
    """What comes in and goes out of an account over time, with whom, or what comes in regularly: `part` says."""
    who.need(SCOPE)
    if not account_id:
        raise Problem("not_found")
    part = request.query_params.get("part", "flow")
    if part not in data.PARTS:
        raise ContractError([FieldError("part", f"must be one of {', '.join(data.PARTS)}")])
    return await _answer(request, who, data.PARTS[part], {"account": account_id}, ("part",))


async def _answer(
    request: Request, who: Principal, report: Report, path: dict[str, str] | None = None, own: tuple[str, ...] = ()
) -> Response:
    who.need(SCOPE)
    await charge_report(request, who)
    return await answer(request, who, asked_of(request, report, path or {}, own))
