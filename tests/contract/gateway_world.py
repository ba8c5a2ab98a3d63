"""One small world behind a gateway in this process: for the examples, Schemathesis and the authorization matrix.

acme ── acme/shop-17 ── acme/shop-17/desk        zeta (another root)        bank
     └─ acme/shop-18
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import httpx
from fastapi import FastAPI

from clearline import keys
from clearline.config import Settings
from clearline.gateway.app import create_app
from clearline.gateway.parts import Parts
from clearline.gateway.twin import LedgerTwin, ledger_of, make_twin
from schemas.records import Limit, OpenAccount, SetLimit
from tests.finance_ground import GroundReports, GroundTables

PARTNERS = ("acme", "acme/shop-1", "acme/shop-17", "acme/shop-18", "acme/shop-17/desk", "zeta")
ACCOUNTS = (
    "acme:wallet:alice", "acme:wallet:bob", "acme/shop-17:wallet:till", "acme/shop-18:wallet:till",
    "acme/shop-17/desk:wallet:till", "zeta:wallet:main",
)  # fmt: skip
FUNDS = 100_000_000
MASTER_KEY = base64.urlsafe_b64encode(bytes(32)).decode()


class GatewayWorld:
    """A gateway over the twin, with partners, accounts, funds, the shelf and keys. `base_url`: of links."""

    def __init__(self, base_url: str = "https://api.example", **changes: Any) -> None:
        gateway = {"master_key": MASTER_KEY, **changes.pop("gateway", {})}
        settings = Settings(world="sandbox", partitions=4, gateway=gateway, **changes)  # type: ignore[arg-type]
        self.parts: Parts = make_twin(settings, 4, base_url=base_url)
        self.ledger: LedgerTwin = ledger_of(self.parts)
        self.ledger.publish_shelf()
        self.ledger.admit(*PARTNERS)
        self.ledger.open(*ACCOUNTS, funds=FUNDS)
        for name in ("clearing", "income"):
            self.ledger.must(OpenAccount("bank", f"open-{name}", f"bank:{name}:CNY", "liability", "CNY", None))
        limit = (Limit("day", "CNY", None, 50_000_000),)
        self.ledger.must(SetLimit("bank", "limit-acme", "partner", "acme", limit))
        self.parts.reporting = GroundReports(self.ledger)
        self.parts.tables = GroundTables(self.ledger)
        self.app: FastAPI = create_app(self.parts)

    def key(self, partner_id: str, scopes: Iterable[str] = keys.ALL_SCOPES, **more: Any) -> str:
        """A token of a new key of a partner."""
        made = keys.make(
            partner_id, scopes, sandbox=self.parts.settings.sandbox, now_ms=self.parts.now_ms(), requested_by="bank:test",
            **more,
        )  # fmt: skip
        self.parts.access.put(keys.row_key(made.key.key_id), made.key)
        return made.token

    def client(self, token: str = "", **headers: str) -> httpx.AsyncClient:
        """A client of this gateway with a credential; what the application raises becomes a 500."""
        if token:
            headers["Authorization"] = f"Bearer {token}"
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="https://api.example", headers=headers)


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    """Method and path of every route of an application. HEAD is GET's own."""
    return set(_routes(app.router.routes))


def _routes(routes: Iterable[Any]) -> Iterable[tuple[str, str]]:
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from _routes(inner.routes)
        else:
            for method in (route.methods or set()) - {"HEAD"}:
                yield method, route.path_format
