"""A sandbox's own calls: a partner lets itself in, and begins anew. In other worlds these paths do not exist."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import StringConstraints

from clearline.contract import ContractError, FieldError, read_input
from clearline.fields import Input
from clearline.gateway import sandbox
from clearline.gateway.asking import HIDDEN, idempotency_key, json_body, refuse
from clearline.gateway.documents import Document
from clearline.gateway.forced import AMOUNT
from clearline.gateway.parts import Parts
from clearline.gateway.problems import Problem
from clearline.gateway.security import Asker, parts_of
from clearline.keys import ALL_SCOPES, KeyFieldError

router = APIRouter(prefix="/v1", tags=["onboarding"])

JOINS_AT_ONCE = 20  # of one address: each costs a twentieth of the burst that a partner has


class JoinInput(Input):
    """Who joins. `public_key`: Ed25519, PEM or 32 bytes in base64 or hexadecimal; without one a pair is made."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
    public_key: Annotated[str, StringConstraints(max_length=1_000)] | None = None


@router.post("/sandbox/partners", response_class=Response, status_code=201)
async def join_sandbox(request: Request) -> Response:
    """A new partner with accounts, money and a key, in one call and without a credential."""
    parts = _sandbox(request)
    body = await json_body(request)
    refuse(body, HIDDEN)
    wanted = read_input(JoinInput, body, HIDDEN)
    await _charge(request, parts)
    try:
        joined = await sandbox.join(parts, wanted.name, wanted.public_key or "")
    except KeyFieldError as e:
        raise ContractError([FieldError(e.field, e.rule)]) from None
    headers = {"Location": "/v1/partner", "Cache-Control": "no-store"}
    return _json(joined_document(parts.base_url, wanted.name, joined), 201, headers)


@router.post("/sandbox/reset", response_class=Response)
async def reset_sandbox(request: Request, who: Asker) -> Response:
    """Voids the partner's open holds, lifts its limits, and brings the balances back to what they were at first."""
    parts = _sandbox(request)
    who.need("keys")
    idempotency_key(request)
    done = await sandbox.reset(parts, who.acting)
    accounts = [{"account_id": a, "currency": c, "balance": n} for a, c, n in done.accounts]
    return _json(
        {
            "partner_id": who.acting, "holds_voided": done.voided, "limits_lifted": done.limits, "accounts": accounts,
            "skipped": list(done.skipped),
        }
    )  # fmt: skip


def joined_document(base_url: str, name: str, joined: sandbox.Joined) -> Document:
    """What a new partner is told, with three lines that it can run."""
    accounts = [
        {"account_id": f"{joined.partner_id}:{w.name}", "currency": w.currency, "balance": w.funds}
        for w in sandbox.WALLETS
    ]
    return {
        "partner_id": joined.partner_id,
        "name": name,
        "token": joined.token,
        "key_id": joined.key_id,
        "scopes": list(ALL_SCOPES),
        "public_key": joined.public_key,
        "private_key": joined.private_key or None,
        "accounts": accounts,
        "curl": curl_lines(base_url, joined.partner_id, joined.token),
    }


def curl_lines(base_url: str, partner_id: str, token: str) -> list[str]:
    """A payment that settles, the balance after it, and one that is rejected for want of money."""
    head = f"curl -sS {base_url}/v1"
    key = f"-H 'Authorization: Bearer {token}'"
    pay = (
        f"{head}/transactions {key} -H 'Content-Type: application/json' -H 'Prefer: wait=10' "
        "-H 'Idempotency-Key: {}' -d '{}'"
    )

    def body(amount: int) -> str:
        accounts = {"payer": f"{partner_id}:wallet:main", "payee": f"{partner_id}:wallet:shop"}
        wanted = {"product": "wallet", "operation": "transfer", "amount": amount, "currency": "CNY"}
        return orjson.dumps({**wanted, "accounts": accounts}).decode()

    return [
        pay.format("first", body(12_550)),
        f"{head}/accounts/{partner_id}:wallet:main/balance {key}",
        pay.format("refused", body(AMOUNT + 36)),
    ]


def _sandbox(request: Request) -> Parts:
    parts = parts_of(request)
    if not parts.settings.sandbox:
        raise Problem("not_found")
    return parts


async def _charge(request: Request, parts: Parts) -> None:
    """Nobody fills a sandbox with partners: an address may let in a few at once. Raises Problem("rate_limited")."""
    address = _network(request.client.host) if request.client is not None else "unknown"
    cost = max(1, parts.settings.gateway.burst // JOINS_AT_ONCE)
    found = await parts.gate.take(f"joins of {address}", cost)
    if found.refused:
        seconds = max(1, round(cost / parts.settings.gateway.rate_per_s))
        raise Problem("rate_limited", "partners from one address", headers={"Retry-After": str(seconds)})


def _network(address: str) -> str:
    """Whose an address is: of IPv6 everybody has 2^64 and more, so the first 64 bits."""
    with suppress(ValueError):
        if (ip := ip_address(address)).version == 6:
            return str(ip_network((ip, 64), strict=False))
    return address


def _json(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, headers, "application/json")
