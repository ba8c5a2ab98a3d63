"""A gateway over the ledger in memory whose clock is the test's, and requests whose every byte can be changed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from fastapi import FastAPI, Request

from clearline import keys
from clearline.config import GatewaySettings, Settings
from clearline.gateway.app import create_app
from clearline.gateway.parts import Parts, wall_clock_ms
from clearline.gateway.problems import Problem
from clearline.gateway.security import principal
from clearline.gateway.twin import make_twin
from clearline.signing import Signer, new_key_pair
from schemas.records import AccessKey
from sinks.gate import CallLimits, LocalGate

AUTHORITY = "api.bank.example"
PRIVATE, PUBLIC = new_key_pair()


class Door:
    """What stands before the routes. Its clock begins at the real time, as signers use it, and stands still unless a
    test moves `now_ms`; `live`: it goes on by itself."""

    def __init__(self, world: str = "sandbox", *, live: bool = False, **gateway: Any) -> None:
        settings = Settings(world=world, gateway=GatewaySettings(**gateway))
        self.now_ms = wall_clock_ms()
        g = settings.gateway
        limits = CallLimits(g.rate_per_s, g.burst, g.calls_per_day)
        self.parts: Parts = make_twin(settings, gate=LocalGate(limits, now_ms=lambda: self.now_ms))
        self.parts.now_ms = wall_clock_ms if live else lambda: self.now_ms
        self.app: FastAPI = create_app(self.parts)

    def key(self, partner_id: str = "acme", scopes: Sequence[str] = keys.ALL_SCOPES, **more: Any) -> keys.Made:
        """A new key of a partner."""
        made = keys.make(
            partner_id,
            scopes,
            sandbox=self.parts.settings.sandbox,
            now_ms=self.now_ms,
            requested_by="bank:test",
            **more,
        )
        self.put(made.key)
        return made

    def put(self, key: AccessKey) -> None:
        """Writes a key's row."""
        self.parts.access.put(keys.row_key(key.key_id), key)

    def signer(self, partner_id: str = "acme", **more: Any) -> Signer:
        """A signer with a new key of a partner."""
        made = self.key(partner_id, public_key=keys.read_public_key(PUBLIC), **more)
        return Signer(made.key.key_id, PRIVATE)

    def ask(self, raw: Raw) -> str:
        """Lets a request in: for whom it acts, or the code of what it is refused with."""
        try:
            return asyncio.run(principal(Request(raw.scope(self.app), raw.receive()))).acting
        except Problem as e:
            return e.code

    def client(self, **headers: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url=f"https://{AUTHORITY}", headers=headers)


@dataclass(frozen=True)
class Raw:
    """A request as the server has it before anybody looked at it."""

    method: bytes
    path: bytes
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    client: tuple[str, int] = ("10.1.2.3", 40_000)
    state: dict[str, Any] = field(default_factory=dict)

    def scope(self, app: FastAPI) -> dict[str, Any]:
        return {
            "type": "http", "method": self.method.decode("latin-1"), "path": self.path.decode("latin-1"),
            "raw_path": self.path, "query_string": self.query, "headers": list(self.headers), "scheme": "https",
            "app": app, "client": self.client, "state": dict(self.state), "http_version": "1.1",
        }  # fmt: skip

    def receive(self) -> Any:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": self.body, "more_body": False}

        return receive

    def value(self, name: bytes) -> bytes:
        return dict(self.headers)[name]

    def with_header(self, name: bytes, value: bytes | None) -> Raw:
        """With another value of a header, or without it."""
        kept = tuple((n, v) for n, v in self.headers if n != name)
        return replace(self, headers=kept if value is None else (*kept, (name, value)))

    def with_line(self, name: bytes, value: bytes) -> Raw:
        """With one more line."""
        return replace(self, headers=(*self.headers, (name, value)))


def raw(request: httpx.Request) -> Raw:
    """What httpx would send."""
    path, _, query = request.url.raw_path.partition(b"?")
    headers = tuple((name.lower(), value) for name, value in request.headers.raw)
    return Raw(request.method.encode(), path, query, headers, request.content)


def a_request(signer: Signer | None = None, token: str = "", **headers: str) -> Raw:
    """A transaction's request with all that can be signed, signed when there is a signer."""
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = httpx.Request(
        "POST", f"https://{AUTHORITY}/v1/accounts/acme%2Fshop-17:till?dry=1&a=%20b",
        json={"amount": 12_550, "currency": "CNY"},
        headers={"Idempotency-Key": "o-1001", "Clearline-Partner": "acme/shop-17", "Prefer": "wait=5", **headers},
    )  # fmt: skip
    if signer is not None:
        signer.sign(request)
    return raw(request)
