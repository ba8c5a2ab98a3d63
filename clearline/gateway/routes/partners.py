"""Partners: the one that asks, those below it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from clearline.gateway import views
from clearline.gateway.paging import decode, encode, only_query
from clearline.gateway.problems import Problem
from clearline.gateway.routes.accounts import Limit
from clearline.gateway.security import Asker, parts_of

router = APIRouter(prefix="/v1", tags=["partners"])


@router.get("/partner", response_class=Response)
async def get_own_partner(request: Request, who: Asker) -> Response:
    """The partner in whose name is asked."""
    who.need("read")
    only_query(request, ())
    return await _one(request, who.acting)


@router.get("/partners", response_class=Response)
async def list_partners(request: Request, who: Asker, limit: Limit = 100, cursor: str | None = None) -> Response:
    """Partners below, by id."""
    who.need("read")
    only_query(request, ("limit", "cursor"))
    after = decode(cursor, "partners", who.acting, {}, str)[1] if cursor is not None else ""
    rows = await parts_of(request).reads.partners(who.acting, after, limit + 1)
    following = encode("partners", who.acting, {}, rows[limit - 1].partner_id) if len(rows) > limit else None
    return views.Partners(items=[views.partner(r) for r in rows[:limit]], next_cursor=following).response()


@router.get("/partners/{partner_id:path}", response_class=Response)
async def get_partner(request: Request, partner_id: str, who: Asker) -> Response:
    """One partner: itself, or one below."""
    who.need("read")
    if not who.sees(partner_id):
        raise Problem("not_found")
    only_query(request, ())
    return await _one(request, partner_id)


async def _one(request: Request, partner_id: str) -> Response:
    found = await parts_of(request).reads.partner(partner_id)
    if found is None:
        raise Problem("not_found")
    return views.partner(found).response()
