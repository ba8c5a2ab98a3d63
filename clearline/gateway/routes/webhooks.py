"""Webhooks: subscriptions of the tree, their verification and secrets, and what was not delivered.

Rows of `access` hold the subscriptions; the webhook worker follows them. It is also the only one that writes the queue,
so asking for a delivery again is a row of `access`, too, which it takes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from clearline.contract import ContractError, FieldError, read_input
from clearline.gateway.asking import HIDDEN, idempotency_key, json_body, refuse
from clearline.gateway.documents import iso_time
from clearline.gateway.paging import decode, encode, only_query
from clearline.gateway.parts import Parts, wall_clock_ms
from clearline.gateway.principal import Principal
from clearline.gateway.problems import Problem
from clearline.gateway.security import Asker, parts_of
from clearline.vault import Vault, vault_of
from clearline.webhooks import subscriptions as subs
from clearline.webhooks.interest import VERIFICATION
from clearline.webhooks.sender import Sender
from clearline.webhooks.subscriptions import DELETED, DISABLED, VERIFIED, EventInput, WebhookChange, WebhookInput
from clearline.webhooks.targets import TargetRefusedError, check_url
from ledger.accounts import DEBIT_NORMAL
from schemas.errors import BadInputError
from schemas.identity import partition_of, root_of
from schemas.records import Redelivery, Subscription, Want

router = APIRouter(prefix="/v1", tags=["webhooks"])

SUBSCRIPTIONS_MAX = 50  # of one root partner
CHALLENGES_MAX = 4  # of one root partner at once, by each gateway

Limit = Annotated[int, Query(ge=1, le=1_000)]


@router.get("/webhooks", response_class=Response)
async def list_webhooks(request: Request, who: Asker, limit: Limit = 100, cursor: str | None = None) -> Response:
    """Subscriptions of the tree, by id."""
    who.need("webhooks")
    only_query(request, ("limit", "cursor"))
    parts = parts_of(request)
    after = decode(cursor, "webhooks", who.acting, {}, str)[1] if cursor is not None else ""
    seen = [s for s in _all(parts) if s.subscription_id > after and who.sees(s.partner_id)]
    following = encode("webhooks", who.acting, {}, seen[limit - 1].subscription_id) if len(seen) > limit else None
    now = parts.now_ms()
    return _json({"items": [subs.document(s, now) for s in seen[:limit]], "next_cursor": following})


@router.post("/webhooks", response_class=Response, status_code=201)
async def make_webhook(request: Request, who: Asker) -> Response:
    """A subscription of the partner that the caller acts for; its secret is in this answer and in no other."""
    who.need("webhooks")
    parts, key = parts_of(request), idempotency_key(request)
    body = await json_body(request)
    refuse(body, HIDDEN)
    wanted = read_input(WebhookInput, body, HIDDEN)
    name, asked, vault = subs.subscription_id(who.acting, key), subs.digest(body), _vault(parts)
    _check_url(parts, wanted.url)
    async with _lock(request):  # two tries at once at this gateway: the second one finds what the first one made
        there = parts.access.get(subs.row_key(name))
        now = parts.now_ms()
        if isinstance(there, Subscription):
            if there.asked != asked or there.state == DELETED:
                raise Problem("idempotency_conflict", "Idempotency-Key: names a subscription that is another, or gone")
            headers = {"Location": f"/v1/webhooks/{name}", "Idempotent-Replayed": "true"}
            return _with_secret(there, vault, now, 201, headers, by_key=subs.digest(key))
        if sum(root_of(s.partner_id) == who.root for s in _all(parts)) >= SUBSCRIPTIONS_MAX:
            raise _wrong("", f"{who.root} has {SUBSCRIPTIONS_MAX} subscriptions; delete those that nobody uses")
        made = Subscription(
            name, who.acting, wanted.url, wanted.note, subs.NEW, await _wants(parts, who, wanted.events),
            (subs.new_secret(name, vault, subs.digest(key), now),), now, 0, now, asked, who.key_id,
        )  # fmt: skip
        await _put(parts, made)
    return _with_secret(made, vault, now, 201, {"Location": f"/v1/webhooks/{name}"}, by_key=subs.digest(key))


@router.get("/webhooks/{webhook_id}", response_class=Response)
async def get_webhook(request: Request, webhook_id: str, who: Asker) -> Response:
    """One subscription."""
    who.need("webhooks")
    only_query(request, ())
    parts = parts_of(request)
    return _json(subs.document(_seen(parts, who, webhook_id), parts.now_ms()))


@router.patch("/webhooks/{webhook_id}", response_class=Response)
async def change_webhook(request: Request, webhook_id: str, who: Asker) -> Response:
    """Another address, which must be verified anew, other events, another note; disabled, or enabled again."""
    who.need("webhooks")
    parts = parts_of(request)
    idempotency_key(request)
    body = await json_body(request)
    refuse(body, HIDDEN)
    asked = read_input(WebhookChange, body, HIDDEN)
    if asked.url is not None:
        _check_url(parts, asked.url)
    async with _lock(request):
        s = _seen(parts, who, webhook_id)
        if asked.state == VERIFIED and (s.state not in (VERIFIED, DISABLED) or not s.verified_at):
            raise _wrong("state", "is not verified: have it verified first")
        if asked.state is not None and asked.url is not None and asked.url != s.url:
            raise _wrong("state", "cannot be set with another url: that one has to be verified")
        wants = await _wants(parts, who, asked.events) if asked.events is not None else None
        after = subs.changed(s, asked, wants, parts.now_ms())
        if after != s:
            await _put(parts, after)
    return _json(subs.document(after, parts.now_ms()))


@router.delete("/webhooks/{webhook_id}", response_class=Response, status_code=204)
async def delete_webhook(request: Request, webhook_id: str, who: Asker) -> Response:
    """Ends a subscription; what is queued for it is dropped."""
    who.need("webhooks")
    parts = parts_of(request)
    idempotency_key(request)
    async with _lock(request):
        await _put(parts, subs.deleted(_seen(parts, who, webhook_id), parts.now_ms()))
    return Response(status_code=204)


@router.post("/webhooks/{webhook_id}/verify", response_class=Response)
async def verify_webhook(request: Request, webhook_id: str, who: Asker) -> Response:
    """Sends a challenge to the address; whoever sends it back in a 2xx answer is verified."""
    who.need("webhooks")
    parts = parts_of(request)
    idempotency_key(request)
    s = _seen(parts, who, webhook_id)
    if s.state == VERIFIED:
        return _json(subs.document(s, parts.now_ms()))
    with _turn(parts, who.root):
        await _challenge(parts, s)
    async with _lock(request):
        now = _seen(parts, who, webhook_id)
        if now.url != s.url:
            raise Problem("verification_failed", "the url was changed meanwhile")
        if now.state != VERIFIED:
            now = subs.verified(now, parts.now_ms())
            await _put(parts, now)
    return _json(subs.document(now, parts.now_ms()))


@router.post("/webhooks/{webhook_id}/rotate", response_class=Response)
async def rotate_webhook(request: Request, webhook_id: str, who: Asker) -> Response:
    """A new secret; the one before it signs beside it for a day."""
    who.need("webhooks")
    parts, key = parts_of(request), subs.digest("rotate", idempotency_key(request))
    vault = _vault(parts)
    async with _lock(request):
        s = _seen(parts, who, webhook_id)
        now = parts.now_ms()
        if s.secrets[0].asked == key:
            return _with_secret(s, vault, now, 200, {"Idempotent-Replayed": "true"}, by_key=key)
        if any(k.asked == key for k in s.secrets[1:]):
            raise Problem("idempotency_conflict", "Idempotency-Key: made a secret that was replaced since")
        s = subs.rotated(s, vault, key, now)
        await _put(parts, s)
    return _with_secret(s, vault, now, 200, {}, by_key=key)


@router.get("/webhooks/{webhook_id}/deliveries", response_class=Response)
async def list_deliveries(
    request: Request,
    webhook_id: str,
    who: Asker,
    status: Literal["pending", "dead"] | None = None,
    limit: Limit = 100,
    cursor: str | None = None,
) -> Response:
    """What is not delivered, oldest first."""
    who.need("webhooks")
    only_query(request, ("status", "limit", "cursor"))
    parts = parts_of(request)
    s = _seen(parts, who, webhook_id)
    after, wanted = 0, str(status or "")
    if cursor is not None:
        query, after = decode(cursor, f"deliveries {webhook_id}", who.acting, {"status": status}, int)
        wanted = query["status"]
    rows = await parts.webhooks.queued.of(partition_of(s.partner_id, parts.partitions), webhook_id)
    found = [d for d in rows if d.number > after and wanted in ("", d.state)]
    following = None
    if len(found) > limit:
        following = encode(f"deliveries {webhook_id}", who.acting, {"status": wanted}, found[limit - 1].number)
    return _json({"items": [subs.delivery_document(d) for d in found[:limit]], "next_cursor": following})


@router.post("/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver", response_class=Response, status_code=202)
async def redeliver(request: Request, webhook_id: str, delivery_id: str, who: Asker) -> Response:
    """Has the worker send one again, under the same id."""
    who.need("webhooks")
    parts = parts_of(request)
    idempotency_key(request)
    s = _seen(parts, who, webhook_id)
    partition = partition_of(s.partner_id, parts.partitions)
    if all(d.delivery_id != delivery_id for d in await parts.webhooks.queued.of(partition, webhook_id)):
        raise Problem("not_found")
    row = Redelivery(delivery_id, webhook_id, partition, parts.now_ms(), who.key_id)
    await asyncio.to_thread(parts.access.put, f"r:{delivery_id}", row)
    return Response(status_code=202)


# ---- what they share -------------------------------------------------------------------------------------------------


@contextmanager
def _turn(parts: Parts, root: str) -> Iterator[None]:
    """A place among the challenges of a tree that are under way: each is a request to wherever the partner says, and
    lasts as long as that pleases. Raises Problem("rate_limited")."""
    under_way: Counter[str] = parts.memory.setdefault("webhooks.challenges", Counter())
    if under_way[root] >= CHALLENGES_MAX:
        detail = f"{CHALLENGES_MAX} verifications are under way: wait for their answers"
        raise Problem("rate_limited", detail, headers={"Retry-After": "1"})
    under_way[root] += 1
    try:
        yield
    finally:
        under_way[root] -= 1
        if not under_way[root]:
            del under_way[root]


async def _challenge(parts: Parts, s: Subscription) -> None:
    """Raises Problem("verification_failed") that says what was seen."""
    challenge, now = secrets.token_urlsafe(24), wall_clock_ms()  # receivers compare it with a real clock
    body = orjson.dumps({"type": VERIFICATION, "timestamp": iso_time(now), "data": {"challenge": challenge}})
    async with Sender(parts.settings.webhooks, _vault(parts), parts.webhooks.resolve, parts.webhooks.tls) as sender:
        sent = await sender.send(s, secrets.token_hex(16), body, 1, now)
    if not sent.ok:
        raise Problem("verification_failed", f"url: {sent.error}")
    if challenge.encode() not in sent.answer:
        raise Problem("verification_failed", f"url: answered {sent.status}, without the challenge in the body")


async def _wants(parts: Parts, who: Principal, events: list[EventInput]) -> tuple[Want, ...]:
    """What is kept of the events. Raises ContractError for an account that the caller does not see, and for twins."""
    out: list[Want] = []
    for i, e in enumerate(events):
        normal = ""
        if e.account_id is not None:
            account = await parts.reads.account(e.account_id) if who.sees_account(e.account_id) else None
            if account is None:
                raise _wrong(f"events[{i}].account_id", "is no account of yours")
            normal = "debit" if account.type in DEBIT_NORMAL else "credit"
        want = subs.want_of(e, normal)
        if want in out:
            raise _wrong(f"events[{i}]", "is asked for twice")
        out.append(want)
    return tuple(out)


def _check_url(parts: Parts, url: str) -> None:
    try:
        check_url(url, parts.settings.webhooks.private_targets)
    except TargetRefusedError as e:
        raise _wrong("url", f"may not be a target: {e}") from None


def _vault(parts: Parts) -> Vault:
    try:
        return vault_of(parts.settings)
    except BadInputError as e:
        raise Problem("unavailable", f"this gateway keeps no secrets: {e}") from None


def _all(parts: Parts) -> list[Subscription]:
    rows = (row for _, row in parts.access.items("s:") if isinstance(row, Subscription))
    return [s for s in rows if s.state != DELETED]


def _seen(parts: Parts, who: Principal, webhook_id: str) -> Subscription:
    """A subscription of the tree that the caller sees. Raises Problem("not_found")."""
    s = parts.access.get(subs.row_key(webhook_id))
    if not isinstance(s, Subscription) or s.state == DELETED or not who.sees(s.partner_id):
        raise Problem("not_found")
    return s


async def _put(parts: Parts, s: Subscription) -> None:
    await asyncio.to_thread(parts.access.put, subs.row_key(s.subscription_id), s)


def _with_secret(
    s: Subscription, vault: Vault, now_ms: int, status: int, headers: dict[str, str], by_key: str
) -> Response:
    """A subscription with its secret, null once that was shown a day ago, or another took its place."""
    shown = s.secrets[0].asked == by_key and now_ms - s.secrets[0].made_at < subs.SHOWN_MS
    document = subs.document(s, now_ms)
    document["secret"] = subs.secret_text(s, vault) if shown else None
    return _json(document, status, {**headers, "Cache-Control": "no-store"})


def _wrong(field: str, rule: str) -> ContractError:
    return ContractError([FieldError(field, rule)])


def _lock(request: Request) -> asyncio.Lock:
    state = request.app.state
    if not hasattr(state, "making_webhooks"):
        state.making_webhooks = asyncio.Lock()
    lock: asyncio.Lock = state.making_webhooks
    return lock


def _json(document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, headers, "application/json")
