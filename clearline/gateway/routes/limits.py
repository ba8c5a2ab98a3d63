"""Limits: those of the tree with what the open windows have taken, and setting those of what is below."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response

from clearline.gateway import views
from clearline.gateway.asking import HIDDEN, command_of, idempotency_key, json_body, refuse, today_of, wait_of
from clearline.gateway.paging import decode, encode, only_query
from clearline.gateway.principal import Principal
from clearline.gateway.problems import Problem
from clearline.gateway.routes.accounts import NOT_TAKEN, Limit
from clearline.gateway.security import Asker, parts_of
from clearline.gateway.writes import answer, write

router = APIRouter(prefix="/v1", tags=["limits"])

Level = Literal["partner", "account", "product"]
_OF_PATH = dict.fromkeys(("level", "subject_id"), "is not taken from the body: the path says whose limits")


@router.get("/limits", response_class=Response)
async def list_limits(request: Request, who: Asker, limit: Limit = 100, cursor: str | None = None) -> Response:
    """What limits the tree, by level and subject."""
    who.need("read")
    only_query(request, ("limit", "cursor"))
    after = decode(cursor, "limits", who.acting, {}, tuple[str, str])[1] if cursor is not None else ("", "")
    rows = await parts_of(request).reads.limits(who.acting, after, limit + 1)
    following = None
    if len(rows) > limit:
        following = encode("limits", who.acting, {}, (rows[limit - 1].level, rows[limit - 1].subject_id))
    return views.Limits(items=[views.limits(r) for r in rows[:limit]], next_cursor=following).response()


@router.put("/limits/{level}/{subject:path}", response_class=Response, status_code=201)
async def set_limits(request: Request, level: Level, subject: str, who: Asker) -> Response:
    """Puts limits in place of all that the subject had. The ledger says whose a partner may set, and that it only
    tightens them."""
    who.need("limits")
    only_query(request, ())
    parts = parts_of(request)
    key, wait = idempotency_key(request), wait_of(request, parts)
    fields = await json_body(request)
    refuse(fields, HIDDEN | NOT_TAKEN | _OF_PATH)
    _may_ask(who, level, subject)
    command = command_of(
        {**fields, "level": level, "subject_id": subject}, who.acting, key, today_of(parts), "SetLimit"
    )
    return answer(parts, await write(parts, command, wait), wait, "/v1/limits")


def _may_ask(who: Principal, level: Level, subject: str) -> None:
    """Raises Problem for what the ledger is not asked: another tree's, and products, which every partition would have
    to refuse."""
    if level == "product":
        raise Problem("not_permitted", "level: limits of products are the bank's")
    if not (who.sees(subject) if level == "partner" else who.sees_account(subject)):
        raise Problem("not_found")
