"""From a request to a Principal: signature or key, certificate, whom it acts for; then the limits of calls.

The order is such that nobody learns anything about a key that is not his: what is said before secret or signature have
been checked is the same for every key, and for none, and takes the same time. What a key demands (signature,
certificate) and that it is over is told only to whoever holds it.
"""

from __future__ import annotations

import math
from typing import Annotated

from fastapi import Depends, Request

from clearline import keys
from clearline.gateway import onboarding, signatures, tls
from clearline.gateway.guard import add_headers, headers_of
from clearline.gateway.metrics import PARTNER
from clearline.gateway.parts import Parts
from clearline.gateway.principal import Principal
from clearline.gateway.problems import Problem
from ledger.names import PARTNER_ID, within
from schemas.identity import BANK, root_of
from schemas.records import AccessKey
from sinks.gate import Taken

_RATE_HEADERS = (b"ratelimit-policy", b"ratelimit")


def parts_of(request: Request) -> Parts:
    """The gateway's parts."""
    parts: Parts = request.app.state.parts
    return parts


async def principal(request: Request) -> Principal:
    """Who asks, one call taken from the limits. Raises Problem."""
    parts = parts_of(request)
    key = await credential(request, parts)
    request.scope[PARTNER] = key.partner_id
    if signatures.is_signed(request.headers):
        onboarding.saw(parts, key.partner_id, onboarding.SIGNED)
    await _charge(request, parts, root_of(key.partner_id), 1)
    return Principal(key.key_id, key.partner_id, _acting(request, key), keys.scopes_of(key.scopes))


Asker = Annotated[Principal, Depends(principal)]


async def credential(request: Request, parts: Parts) -> AccessKey:
    """The key that the request has proven to hold. Raises Problem."""
    signed = signatures.is_signed(request.headers)
    given = request.headers.getlist("authorization")
    bearer = ", ".join(given) if given else None  # two are none: who knows which was meant
    key: AccessKey | None = None
    if signed:
        key = await signatures.check(request, parts)
    if bearer is not None or not signed:
        by_secret = _by_secret(parts, bearer or "")
        if key is not None and key.key_id != by_secret.key_id:
            raise Problem("unauthenticated", "the signature is of another key than Authorization")
        key = by_secret
    assert key is not None
    if not keys.taken(key, parts.now_ms()):
        raise Problem("unauthenticated")
    if key.signature == "required" and not signed:
        raise Problem("signature_required")
    if key.thumbprint and tls.thumbprint(request, parts.settings.gateway.trusted_proxies) != key.thumbprint:
        raise Problem("certificate_required")
    return key


async def charge(request: Request, who: Principal, calls: int) -> None:
    """Takes more calls of the limits: a batch of n is n calls, the first of which is taken when it came. Raises
    Problem when there are not so many left; then none is taken."""
    if calls > 0:
        await _charge(request, parts_of(request), who.root, calls)


async def charge_report(request: Request, who: Principal) -> None:
    """Takes one report of the limit that reports and data have beside that of calls. Raises Problem."""
    parts = parts_of(request)
    found = await parts.gate.take(who.root, 1, "reports")
    most = parts.settings.gateway.reports_per_minute
    added = (f'"reports";q={most};w=60', f'"reports";r={found.burst_left};t={math.ceil(found.burst_reset_s)}')
    told = headers_of(request.scope)
    add_headers(
        request.scope,
        [(name, told[name] + f", {text}".encode()) for name, text in zip(_RATE_HEADERS, added, strict=True)],
    )
    if found.refused:
        raise Problem("rate_limited", "reports of this partner", headers={"Retry-After": str(math.ceil(60 / most))})


async def _charge(request: Request, parts: Parts, root: str, calls: int) -> None:
    found = await parts.gate.take(root, calls)
    add_headers(request.scope, _limit_headers(parts, found))
    if not found.refused:
        return
    settings = parts.settings.gateway
    if found.refused == "day":
        wait = found.day_reset_s
        raise Problem("quota_exceeded", headers={"Retry-After": str(max(1, math.ceil(wait)))})
    wait = (min(calls, settings.burst) - found.burst_left) / settings.rate_per_s
    raise Problem("rate_limited", headers={"Retry-After": str(max(1, math.ceil(wait)))})


def key_row(parts: Parts, key_id: str) -> AccessKey | None:
    """The key of an id, taken or not."""
    row = parts.access.get(keys.row_key(key_id))
    return row if isinstance(row, AccessKey) else None


def _by_secret(parts: Parts, authorization: str) -> AccessKey:
    scheme, _, text = authorization.partition(" ")
    token = keys.read_token(text.strip()) if scheme.lower() == "bearer" else None
    if token is None:
        raise Problem("unauthenticated")
    key = key_row(parts, token.key_id)
    right = keys.matches(key, token.secret)
    if key is None or not right or token.world != keys.world_prefix(parts.settings.sandbox):
        raise Problem("unauthenticated")
    return key


def _acting(request: Request, key: AccessKey) -> str:
    """For whom the request is: the key's partner, or one below it that the header names."""
    given = request.headers.getlist("clearline-partner")
    if given in ([], [key.partner_id]):
        return key.partner_id
    named = given[0]
    strange = len(given) > 1 or not PARTNER_ID.fullmatch(named) or not within(named, key.partner_id)
    if strange or root_of(named) == BANK:
        raise Problem("forbidden", "Clearline-Partner names neither the credential's partner nor one below it")
    return named


def _limit_headers(parts: Parts, found: Taken) -> list[tuple[bytes, bytes]]:
    s = parts.settings.gateway
    window = max(1, math.ceil(s.burst / s.rate_per_s))
    policy = f'"burst";q={s.burst};w={window}, "day";q={s.calls_per_day};w=86400'
    left = (
        f'"burst";r={found.burst_left};t={math.ceil(found.burst_reset_s)}, '
        f'"day";r={found.day_left};t={math.ceil(found.day_reset_s)}'
    )
    return list(zip(_RATE_HEADERS, (policy.encode(), left.encode()), strict=True))
