"""Accounts: those of the tree, one, its balance, its statement, and opening one."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from msgspec import Meta, Struct

from clearline.contract import ContractError, FieldError
from clearline.fields import Day
from clearline.gateway import views
from clearline.gateway.asking import HIDDEN, command_of, idempotency_key, json_body, refuse, today_of, wait_of
from clearline.gateway.paging import decode, encode, only_query
from clearline.gateway.principal import Principal
from clearline.gateway.problems import Problem
from clearline.gateway.security import Asker, parts_of
from clearline.gateway.writes import answer, write
from schemas.records import OpenAccount
from sinks.pages import LineKey

router = APIRouter(prefix="/v1", tags=["accounts"])

Limit = Annotated[int, Query(ge=1, le=1000)]
On = Literal["value", "booking"]
_Number = Annotated[int, Meta(ge=0, le=1 << 53)]


class _Mark(Struct, array_like=True, frozen=True):
    """After which line a page begins, and up to which journal record all pages of the statement go."""

    day: date
    booked_at: _Number
    partition: _Number
    sequence: _Number
    line: _Number
    through: _Number


NOT_TAKEN = HIDDEN | {"requested_by": "is not taken from the body: the credential says who asks"}


@router.get("/accounts", response_class=Response)
async def list_accounts(
    request: Request, who: Asker, partner: str | None = None, limit: Limit = 100, cursor: str | None = None
) -> Response:
    """Accounts of the partner and of all below it, by id."""
    who.need("read")
    only_query(request, ("partner", "limit", "cursor"))
    of, after = partner if partner is not None else who.acting, ""
    if cursor is not None:
        query, after = decode(cursor, "accounts", who.acting, {"partner": partner}, str)
        of = query["partner"]
    reads = parts_of(request).reads
    if not who.sees(of) or (of != who.acting and await reads.partner(of) is None):
        raise Problem("not_found")
    rows = await reads.accounts(of, after, limit + 1)
    following = (
        encode("accounts", who.acting, {"partner": of}, rows[limit - 1].account_id) if len(rows) > limit else None
    )
    return views.Accounts(items=[views.account(r) for r in rows[:limit]], next_cursor=following).response()


@router.post("/accounts", response_class=Response, status_code=201)
async def open_account(request: Request, who: Asker) -> Response:
    """Opens an account of the partner or of one below it."""
    who.need("accounts")
    parts = parts_of(request)
    key, wait = idempotency_key(request), wait_of(request, parts)
    fields = await json_body(request)
    refuse(fields, NOT_TAKEN)
    command = command_of(fields, who.acting, key, today_of(parts), "OpenAccount")
    assert isinstance(command, OpenAccount)
    if not who.sees_account(command.account_id):
        raise Problem("not_found", "account_id: not an account of this partner, or of one below it")
    written = await write(parts, command, wait)
    return answer(parts, written, wait, views.path_of("accounts", command.account_id))


@router.get("/accounts/{account_id:path}/balance", response_class=Response)
async def get_balance(request: Request, account_id: str, who: Asker) -> Response:
    """An account's four counters, what is available, and as of which offset."""
    _may_see(request, who, account_id)
    found = await parts_of(request).reads.balance(account_id)
    if found is None:
        raise Problem("not_found")
    return views.balance(found).response()


@router.get("/accounts/{account_id:path}/statement", response_class=Response)
async def get_statement(
    request: Request, account_id: str, who: Asker, since: Day | None = None, until: Day | None = None,
    on: On | None = None, limit: Limit = 100, cursor: str | None = None,
) -> Response:  # fmt: skip
    """An account over a period: opening, lines with the balance after each, closing. Without `until` to today (UTC),
    without `since` from the first day of that month."""
    _may_see(request, who, account_id, ("since", "until", "on", "limit", "cursor"))
    parts = parts_of(request)
    last = until or today_of(parts)
    first, by, after, through = since or last.replace(day=1), on or "value", None, -1
    if cursor is not None:
        given = {"account": account_id, "since": _text(since), "until": _text(until), "on": on}
        query, mark = decode(cursor, "statement", who.acting, given, _Mark)
        after = LineKey(mark.day, mark.booked_at, mark.partition, mark.sequence, mark.line)
        through = mark.through
        first, last, by = _asked_for(query)
    if first > last:
        raise ContractError([FieldError("since", f"must not be after until: {first} is after {last}")])
    page = await parts.reads.statement(account_id, first, last, by, limit, after, through)
    if page is None:
        raise Problem("not_found")
    following = None
    if page.next is not None:
        query = {"account": account_id, "since": str(first), "until": str(last), "on": by}
        following = encode("statement", who.acting, query, _Mark(*page.next, page.through))
    return views.statement(page, first, last, by, following, who).response()


@router.get("/accounts/{account_id:path}", response_class=Response)
async def get_account(request: Request, account_id: str, who: Asker) -> Response:
    """One account."""
    _may_see(request, who, account_id)
    found = await parts_of(request).reads.account(account_id)
    if found is None:
        raise Problem("not_found")
    return views.account(found).response()


def _may_see(request: Request, who: Principal, account_id: str, query: tuple[str, ...] = ()) -> None:
    """Raises Problem unless the asker may read this account, ContractError for a parameter that is not taken."""
    who.need("read")
    if not who.sees_account(account_id):
        raise Problem("not_found")
    only_query(request, query)


def _asked_for(query: dict[str, str]) -> tuple[date, date, On]:
    """The period of a cursor, checked again: whoever makes one up may write anything. Raises Problem."""
    try:
        return msgspec.convert((query["since"], query["until"], query["on"]), tuple[date, date, On], strict=True)
    except msgspec.ValidationError:
        raise Problem("cursor_invalid", "cursor: must be `next_cursor` of the page before, unchanged") from None


def _text(day: date | None) -> str | None:
    return str(day) if day is not None else None
