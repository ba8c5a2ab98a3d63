"""Keys of the tree: listed, made, replaced with an overlap, revoked. The secret is in one answer and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec
import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field, StringConstraints

from clearline import keys
from clearline.contract import ContractError, FieldError, read_input
from clearline.fields import Input, Text, Time
from clearline.gateway.asking import HIDDEN, idempotency_key, json_body, refuse
from clearline.gateway.documents import iso_time
from clearline.gateway.paging import decode, encode, only_query
from clearline.gateway.parts import Parts
from clearline.gateway.principal import Principal
from clearline.gateway.problems import Problem
from clearline.gateway.security import Asker, key_row, parts_of
from schemas.records import AccessKey

router = APIRouter(prefix="/v1", tags=["keys"])

KEYS_MAX = 1_000  # keys of one partner that are taken: every gateway has all of them in memory
OVERLAP_S_MAX = 90 * 86_400


class KeyInput(Input):
    """A key to be made. `public_key`: Ed25519, PEM or 32 bytes in base64 or hexadecimal; `thumbprint`: SHA-256 of the
    client certificate in hexadecimal. `replaces`: a key that this one takes the place of, with its scopes, public key,
    signature and thumbprint unless others are given; that one ends `overlap_s` seconds later."""

    scopes: Annotated[
        list[Annotated[str, StringConstraints(max_length=128)]], Field(min_length=1, max_length=keys.SCOPES_MAX)
    ] | None = None  # fmt: skip
    public_key: Annotated[str, StringConstraints(max_length=1_000)] | None = None
    signature: Literal["optional", "required"] | None = None
    thumbprint: Annotated[str, StringConstraints(max_length=64)] | None = None
    expires_at: Time | None = None
    note: Text = ""
    replaces: Annotated[str, StringConstraints(max_length=16)] | None = None
    overlap_s: Annotated[int, Field(ge=0, le=OVERLAP_S_MAX)] = 86_400


@router.get("/keys", response_class=Response)
async def list_keys(
    request: Request,
    who: Asker,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    cursor: str | None = None,
) -> Response:
    """Keys of the tree by their ids, those that are over among them."""
    who.need("keys")
    only_query(request, ("limit", "cursor"))
    parts = parts_of(request)
    after = decode(cursor, "keys", who.acting, {}, str)[1] if cursor is not None else ""
    seen = [row for row in _rows(parts) if row.key_id > after and who.sees(row.partner_id)]
    page, more = seen[:limit], len(seen) > limit
    items = [_document(row, parts.now_ms()) for row in page]
    return _json({"items": items, "next_cursor": encode("keys", who.acting, {}, page[-1].key_id) if more else None})


@router.post("/keys", response_class=Response, status_code=201)
async def make_key(request: Request, who: Asker) -> Response:
    """A key of the partner that the caller acts for; it can do nothing that the caller's own cannot."""
    who.need("keys")
    only_query(request, ())
    parts = parts_of(request)
    name = idempotency_key(request)
    body = await json_body(request)
    refuse(body, HIDDEN)
    wanted = read_input(KeyInput, body, HIDDEN)
    asked = _Asked(parts, who, wanted, blake2b(msgspec.msgpack.encode(body, order="sorted"), digest_size=8).digest())
    key_id = _key_id(who.acting, name)
    async with _lock(request):  # two tries at once at this gateway: the second one finds what the first one made
        there = key_row(parts, key_id)
        if there is not None and there.payload_digest != asked.digest:
            raise Problem("idempotency_conflict", "Idempotency-Key: names a key that was asked for in other words")
        made = asked.make(key_id) if there is None else None
        if made is not None:
            await _put(parts, made.key)
        key = made.key if made is not None else there
        assert key is not None
        await asked.end_replaced(key.created_at)
    document = {**_document(key, parts.now_ms()), "token": made.token if made is not None else None}
    headers = {"Location": f"/v1/keys/{key_id}", "Cache-Control": "no-store"}
    if made is None:
        headers["Idempotent-Replayed"] = "true"
    return _json(document, 201, headers)


@router.delete("/keys/{key_id}", response_class=Response, status_code=204)
async def revoke_key(request: Request, key_id: str, who: Asker) -> Response:
    """Ends a key at once, also the one that asks. A key that was revoked before stays so."""
    who.need("keys")
    only_query(request, ())
    parts = parts_of(request)
    idempotency_key(request)
    key = _seen(parts, who, key_id)
    if key is None:
        raise Problem("not_found")
    if not key.revoked_at:
        await _put(parts, keys.revoke(key, parts.now_ms()))
    return Response(status_code=204)


class _Asked:
    """A key that is asked for: what it takes from the one that it replaces, and what its maker may give."""

    def __init__(self, parts: Parts, who: Principal, wanted: KeyInput, digest: bytes) -> None:
        self._parts, self._who, self._wanted = parts, who, wanted
        self.digest = digest

    def make(self, key_id: str) -> keys.Made:
        """The key, made for the first time. Raises ContractError and Problem("scope_missing")."""
        wanted, old, now = self._wanted, self._replaced(), self._parts.now_ms()
        if old is not None and not keys.taken(old, now):
            raise _wrong("replaces", "is not taken any more; make a key with scopes of its own")
        scopes = wanted.scopes if wanted.scopes is not None else old.scopes.split() if old is not None else None
        if scopes is None:
            raise _wrong("scopes", "is missing")
        if sum(1 for k in _rows(self._parts) if k.partner_id == self._who.acting and keys.taken(k, now)) >= KEYS_MAX:
            raise _wrong("", f"{self._who.acting} has {KEYS_MAX} keys; revoke those that nobody uses")
        try:
            made = keys.make(
                self._who.acting, scopes, sandbox=self._parts.settings.sandbox, now_ms=now, key_id=key_id,
                requested_by=self._who.key_id, public_key=self._public_key(old),
                signature=wanted.signature or (old.signature if old is not None else "optional"),
                thumbprint=_first(wanted.thumbprint, old.thumbprint if old is not None else "").lower(),
                expires_at=_milliseconds(wanted.expires_at), note=wanted.note, replaces=wanted.replaces or "",
                payload_digest=self.digest,
            )  # fmt: skip
        except keys.KeyFieldError as e:
            raise _wrong(e.field, e.rule) from None
        for scope in made.key.scopes.split():
            self._who.need(scope)
        return made

    async def end_replaced(self, since_ms: int) -> None:
        """The key that was replaced ends when the overlap is over; also by a try after one that did not come so far."""
        old = self._replaced()
        if old is not None and (ending := keys.ending(old, since_ms, self._wanted.overlap_s * 1000)) != old:
            await _put(self._parts, ending)

    def _replaced(self) -> AccessKey | None:
        if self._wanted.replaces is None:
            return None
        old = _seen(self._parts, self._who, self._wanted.replaces)
        if old is None or old.partner_id != self._who.acting:
            raise _wrong("replaces", f"is no key of {self._who.acting}")
        return old

    def _public_key(self, old: AccessKey | None) -> bytes:
        if self._wanted.public_key:
            return keys.read_public_key(self._wanted.public_key)
        return old.public_key if old is not None and self._wanted.public_key is None else b""


def _first(given: str | None, otherwise: str) -> str:
    return given if given is not None else otherwise


def _wrong(field: str, rule: str) -> ContractError:
    return ContractError([FieldError(field, rule)])


def _rows(parts: Parts) -> Iterator[AccessKey]:
    return (row for _, row in parts.access.items(keys.ROW_PREFIX) if isinstance(row, AccessKey))


def _seen(parts: Parts, who: Principal, key_id: str) -> AccessKey | None:
    """A key of the tree that the caller sees; None for any other, and for none."""
    key = key_row(parts, key_id)
    return key if key is not None and who.sees(key.partner_id) else None


async def _put(parts: Parts, key: AccessKey) -> None:
    await asyncio.to_thread(parts.access.put, keys.row_key(key.key_id), key)


def _key_id(partner_id: str, name: str) -> str:
    """The id of the key that a partner asks for under an idempotency key: the same for every try."""
    number = int.from_bytes(blake2b(f"key\0{partner_id}\0{name}".encode(), digest_size=16).digest(), "big")
    out = ""
    for _ in range(16):
        number, at = divmod(number, len(keys.LETTERS))
        out += keys.LETTERS[at]
    return out


def _lock(request: Request) -> asyncio.Lock:
    state = request.app.state
    if not hasattr(state, "making_keys"):
        state.making_keys = asyncio.Lock()
    lock: asyncio.Lock = state.making_keys
    return lock


def _milliseconds(time: datetime | None) -> int:
    return round(time.timestamp() * 1000) if time is not None else 0


def _document(key: AccessKey, now_ms: int) -> dict[str, Any]:
    found = keys.document(key, now_ms)
    for name in ("created_at", "expires_at", "revoked_at"):
        at = found[name]
        found[name] = iso_time(at) if isinstance(at, int) else None
    return found


def _json(document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, headers, "application/json")
