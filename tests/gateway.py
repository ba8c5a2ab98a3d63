"""A gateway over the ledger in memory, and a client of it, for tests of its routes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import httpx

from clearline.config import GatewaySettings, Settings
from clearline.gateway.app import create_app
from clearline.gateway.outcomes import Outcomes, keep_ms
from clearline.gateway.parts import Parts
from clearline.gateway.twin import LedgerTwin, give_key, ledger_of, make_twin
from streams.calls import Calls

PARTNERS = ("acme", "acme/shop", "zeta")
ACCOUNTS = ("acme:w:a", "acme:w:b", "acme/shop:w:till", "zeta:w:a")
FUNDS = 1_000_000
URL = "http://gateway.test"


class Gate:
    """A twin with three partners and wallets, and clients of it. Partitions of acme and zeta differ."""

    def __init__(self, **gateway: Any) -> None:
        settings = Settings(world="sandbox", partitions=4, gateway=GatewaySettings(**gateway))
        self.parts: Parts = make_twin(settings, 4)
        self.ledger: LedgerTwin = ledger_of(self.parts)
        self.ledger.publish_shelf("wallet")
        self.ledger.admit(*PARTNERS)
        self.ledger.open(*ACCOUNTS, funds=FUNDS)
        self.app = create_app(self.parts)
        self.settled = len(self.ledger.journal)

    def client(self, partner_id: str = "acme", *scopes: str, **headers: str) -> httpx.AsyncClient:
        """A client with a key of a partner."""
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(
            transport=transport, base_url=URL, headers={**give_key(self.parts, partner_id, *scopes), **headers}
        )

    def other_gateway(self) -> None:
        """From here on a gateway answers that has seen nothing: another one, or the same after a kill. Redis stays."""
        self.parts.outcomes = Outcomes(self.parts.gate, self.parts.now_ms, keep_ms(self.parts.settings))
        self.ledger.calls = Calls(self.parts.outcomes.kept)

    def records(self, key: str, partner_id: str = "acme") -> list[str]:
        """The outcomes that the journal has under a key, in their order."""
        return [r.outcome for r in self.ledger.outcomes_of(partner_id, key)]

    def available(self, account_id: str) -> int:
        """What is available on an account."""
        found = self.ledger.account(account_id)
        assert found is not None
        return found.available()


def pay(amount: Any = 100, **more: Any) -> dict[str, Any]:
    """A body: from acme's first wallet to its second."""
    accounts = {"payer": "acme:w:a", "payee": "acme:w:b"}
    return {
        "product": "wallet", "operation": "transfer", "amount": amount, "currency": "CNY", "accounts": accounts, **more,
    }  # fmt: skip


def send(amount: int = 100, **more: Any) -> dict[str, Any]:
    """A body: from acme to zeta, whose ledger is in another partition."""
    accounts = {"payer": "acme:w:a", "recipient": "zeta:w:a"}
    return pay(amount, **{"operation": "send", "accounts": accounts, **more})


def keyed(key: str, wait: int | None = 5, **more: Any) -> dict[str, str]:
    """Headers of a write. `wait` None: no preference."""
    return {"Idempotency-Key": key, **({"Prefer": f"wait={wait}"} if wait is not None else {}), **more}


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that awaits, as one that pytest calls, with the same arguments."""

    @wraps(test)
    def run(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return run
