"""Reports: which there are, and each as JSON or as a file (docs/finance.md)."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from clearline.gateway.figures_answer import answer, asked_of
from clearline.gateway.paging import only_query
from clearline.gateway.problems import Problem
from clearline.gateway.scoping import SCOPE, may_ask
from clearline.gateway.security import Asker, charge_report
from sinks.finance.catalogue import CATALOGUE, REPORTS, Report

router = APIRouter(prefix="/v1", tags=["reports"])


@router.get("/reports", response_class=Response)
async def list_reports(request: Request, who: Asker) -> Response:
    """The reports that the asker may ask, with their parameters and columns."""
    who.need(SCOPE)
    only_query(request, ())
    items = [described(r, f"/v1/reports/{r.name}") for r in REPORTS if may_ask(who, r)]
    return Response(orjson.dumps({"items": items, "next_cursor": None}), media_type="application/json")


@router.get("/reports/{name}", response_class=Response)
async def get_report(request: Request, name: str, who: Asker) -> Response:
    """One report, of the asker's subtree; of everything for a key of the bank."""
    who.need(SCOPE)
    report = CATALOGUE.get(name)
    if report is None or not may_ask(who, report):
        raise Problem("not_found")
    await charge_report(request, who)
    return await answer(request, who, asked_of(request, report))


def described(report: Report, path: str) -> dict[str, Any]:
    """What may be asked of a report, and what its columns are."""
    return {
        "name": report.name,
        "title": report.title,
        "about": report.about,
        "parameters": [
            {"name": p.name, "kind": p.asked, "about": p.about, "default": p.default, "choices": list(p.choices)}
            for p in report.parameters
        ],
        "columns": [{"name": c.name, "kind": c.kind, "about": c.about} for c in report.columns],
        "links": {"self": path},
    }
