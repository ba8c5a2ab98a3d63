"""Onboarding: what of the inspection is passed, what is missing, and asking to go live."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from clearline.contract import read_input
from clearline.fields import Input, Text
from clearline.gateway import onboarding
from clearline.gateway.asking import HIDDEN, idempotency_key, json_body, refuse
from clearline.gateway.documents import Document
from clearline.gateway.paging import only_query
from clearline.gateway.parts import Parts
from clearline.gateway.problems import Problem
from clearline.gateway.security import Asker, parts_of
from schemas.records import Onboarding

router = APIRouter(prefix="/v1", tags=["onboarding"])


class GoLiveInput(Input):
    """Why the partner wants to go live, for those who decide it."""

    note: Text = ""


@router.get("/onboarding", response_class=Response)
async def get_onboarding(request: Request, who: Asker) -> Response:
    """Which checks are passed, what to do for those that are missing, and where go-live stands."""
    who.need("read")
    only_query(request, ())
    parts = parts_of(request)
    return await _answer(parts, await onboarding.current(parts, who.partner_id))


@router.post("/onboarding/go-live", response_class=Response)
async def ask_to_go_live(request: Request, who: Asker) -> Response:
    """Asks for go-live, once every check is passed. A person of the bank approves it, or does not."""
    who.need("keys")
    parts = parts_of(request)
    idempotency_key(request)
    body = await json_body(request) if await request.body() else {}
    refuse(body, HIDDEN)
    wanted = read_input(GoLiveInput, body, HIDDEN)
    row = await onboarding.current(parts, who.partner_id)
    left = onboarding.missing(row)
    if left:
        raise Problem("checks_missing", f"not seen yet: {', '.join(left)}", more={"missing": left})
    if not row.requested_at:
        by = f"{who.partner_id} key {who.key_id}"
        row = await onboarding.change(
            parts, who.partner_id, requested_by=by, requested_at=parts.now_ms(), note=wanted.note
        )
    return await _answer(parts, row)


async def _answer(parts: Parts, row: Onboarding) -> Response:
    partner = await parts.reads.partner(row.partner_id)
    document: Document = onboarding.document(row, partner.state if partner is not None else None)
    return Response(orjson.dumps(document), 200, media_type="application/json")
