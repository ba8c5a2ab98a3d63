"""Partners' own tables for the gateway: `sinks.finance.tables` in a few threads of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

from clearline.gateway.threads import ClientPool
from schemas.errors import PartUnavailableError
from sinks.clickhouse import ClickHouseConfig
from sinks.finance.tables import Tables

T = TypeVar("T")

THREADS, WAITING_MAX = 2, 50
ANSWER_S = 30.0  # a large table is written in a second or two


class PartnerTables(Protocol):
    """Partners' tables. Every call raises PartUnavailableError."""

    async def ask(self, question: Callable[[Tables], T]) -> T: ...


class NoTables:
    """`PartnerTables` where there is no ClickHouse."""

    async def ask(self, question: Callable[[Tables], T]) -> T:
        """As `PartnerTables.ask`."""
        raise PartUnavailableError("ClickHouse", "none", "this gateway has no tables of partners")


def tables_pool(config: ClickHouseConfig) -> ClientPool[Tables]:
    """`PartnerTables` over ClickHouse. `config`: of the ledger's database, with a user that may write such tables."""
    config = replace(config, timeout_s=ANSWER_S)
    return ClientPool("ClickHouse", config.address, lambda: Tables(config), THREADS, WAITING_MAX)
