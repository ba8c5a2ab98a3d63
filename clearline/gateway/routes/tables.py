"""A partner's own tables of reference data: put, looked at, deleted (docs/data-services.md)."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from clearline.contract import ContractError, FieldError
from clearline.fields import shown
from clearline.finance import uploads
from clearline.gateway.asking import idempotency_key
from clearline.gateway.figures_answer import field_error
from clearline.gateway.paging import decode, encode, only_query
from clearline.gateway.parts import Parts
from clearline.gateway.problems import Problem
from clearline.gateway.security import Asker, charge_report, parts_of
from clearline.gateway.turns import Turns
from clearline.gateway.views import path_of
from schemas.errors import BadInputError
from sinks.finance.tables import Version, digest_of

router = APIRouter(prefix="/v1/data/tables", tags=["data"])

SCOPE = "data"
READING_MAX = 5  # tables of one root partner that wait to be read
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("", response_class=Response)
async def list_tables(request: Request, who: Asker) -> Response:
    """The tables of the partner, by name."""
    who.need(SCOPE)
    only_query(request, ())
    found = await parts_of(request).tables.ask(lambda tables: tables.of(who.acting))
    return _json({"items": [described(v) for v in found], "next_cursor": None})


@router.put("/{table}", response_class=Response, status_code=201)
async def put_table(request: Request, table: str, who: Asker) -> Response:
    """Puts a table in place of the one there was, whole or not at all. The same content again changes nothing."""
    who.need(SCOPE)
    only_query(request, ("key",))
    parts, asked_as, media = parts_of(request), idempotency_key(request), _media(request)
    if not uploads.NAME.fullmatch(table):
        raise ContractError([FieldError("table", "must be a small letter, then up to 31 small letters, digits and _")])
    key = request.query_params.get("key")
    if key is not None and not uploads.NAME.fullmatch(key):
        raise ContractError([FieldError("key", "must be the name of a column")])
    await charge_report(request, who)
    try:
        async with _reading(parts).of(who.acting):
            content = await uploads.read_apart(
                await request.body(), media, key or "", parts.settings.gateway.table_rows_max
            )
    except BadInputError as e:
        raise field_error(e) from None
    async with _lock(parts):
        return await _put(parts, who.acting, table, content, who.key_id, asked_as)


@router.get("/{table}", response_class=Response)
async def get_table(
    request: Request, table: str, who: Asker, limit: Limit = 100, cursor: str | None = None
) -> Response:
    """A table with its rows, by key."""
    who.need(SCOPE)
    only_query(request, ("limit", "cursor"))
    tables = parts_of(request).tables
    after = ""
    version = await tables.ask(lambda t: t.current(who.acting, table))
    if version is None or version.deleted:
        raise Problem("not_found")
    if cursor is not None:
        query, after = decode(cursor, "table", who.acting, {"table": table, "version": None}, str)
        if query["version"] != str(version.version):
            raise Problem("cursor_invalid", "cursor: the table was replaced since")
    rows = await tables.ask(lambda t: t.page(version, after, limit + 1))
    following = None
    if len(rows) > limit:
        last = rows[limit - 1][version.columns.index(version.key)]
        following = encode("table", who.acting, {"table": table, "version": str(version.version)}, last)
    items = [dict(zip(version.columns, row, strict=True)) for row in rows[:limit]]
    return _json({**described(version), "items": items, "next_cursor": following})


@router.delete("/{table}", response_class=Response, status_code=204)
async def delete_table(request: Request, table: str, who: Asker) -> Response:
    """Ends a table and drops its rows."""
    who.need(SCOPE)
    only_query(request, ())
    parts, asked_as = parts_of(request), idempotency_key(request)
    async with _lock(parts):
        before = await parts.tables.ask(lambda t: t.asked(who.acting, asked_as))
        if before is not None:
            if before.name != table or not before.deleted:
                raise Problem("idempotency_conflict")
            return Response(status_code=204, headers={"Idempotent-Replayed": "true"})
        if await parts.tables.ask(lambda t: t.delete(who.acting, table, who.key_id, asked_as)) is None:
            raise Problem("not_found")
    return Response(status_code=204)


async def _put(parts: Parts, owner: str, name: str, content: uploads.Content, by: str, asked_as: str) -> Response:
    tables = parts.tables
    # A second and more for millions of values, in which nobody else would be answered.
    digest = await asyncio.to_thread(digest_of, content.key, content.columns, content.values)
    before = await tables.ask(lambda t: t.asked(owner, asked_as))
    if before is not None:
        if before.name != name or before.digest != digest:
            raise Problem("idempotency_conflict")
        return _written(before, 201, replayed=True)
    last = await tables.ask(lambda t: t.current(owner, name))
    if last is not None and not last.deleted and last.digest == digest:
        return _written(last, 200)
    most = parts.settings.gateway.tables_max
    if (last is None or last.deleted) and await tables.ask(lambda t: t.count(owner)) >= most:
        raise Problem("tables_full", f"{owner} and the partners of its tree have {most} tables")
    made = await tables.ask(lambda t: t.put(owner, name, content.key, content.columns, content.values, by, asked_as))
    return _written(made, 201)


def _written(v: Version, status: int, *, replayed: bool = False) -> Response:
    headers = {"Location": path_of("data", "tables", v.name), **({"Idempotent-Replayed": "true"} if replayed else {})}
    return _json(described(v), status, headers)


def described(v: Version) -> dict[str, Any]:
    """A table without its rows. `digest`: SHA-256 over key, names and values."""
    return {
        "table": v.name, "partner_id": v.owner, "version": v.version, "key": v.key, "columns": list(v.columns),
        "rows": v.rows, "bytes": v.bytes, "digest": v.digest,
        "created_at": v.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "requested_by": v.by,
        "links": {"self": path_of("data", "tables", v.name)},
    }  # fmt: skip


def _media(request: Request) -> str:
    given = request.headers.get("content-type", "")
    media, _, charset = (part.strip().lower() for part in given.partition(";"))
    if media not in uploads.MEDIA or (charset and charset.replace(" ", "").replace('"', "") != "charset=utf-8"):
        detail = f"Content-Type: must be {' or '.join(uploads.MEDIA)}, not {shown(given)}"
        raise Problem("unsupported_media_type", detail)
    return media


def _lock(parts: Parts) -> asyncio.Lock:
    """One write of a table at a time, so that keys and quota are looked at and written together in this gateway."""
    found = parts.memory.get("tables")
    if not isinstance(found, asyncio.Lock):
        found = parts.memory["tables"] = asyncio.Lock()
    return found


def _reading(parts: Parts) -> Turns:
    """Of one root partner one table is read at once, so that others' come in between."""
    found = parts.memory.get("tables read")
    if not isinstance(found, Turns):
        found = parts.memory["tables read"] = Turns(1, READING_MAX, uploads.AT_ONCE, "tables")
    return found


def _json(document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, headers, "application/json")
