"""What a partner may look at: accounts, balances, statements, partners, products, limits.

The real one is `projections.py`: Redis, ClickHouse and the end of `ledger.state`. The twin reads the Books in memory.
Neither decides who may see what: that is `Principal`. Amounts are integers in minor units, times milliseconds UTC.
"""

from __future__ import annotations

from datetime import date
from typing import Literal, NamedTuple, Protocol

from clearline.gateway.parts import Place
from schemas.records import Limit, PartnerState, ProductState
from sinks.pages import AccountRow, LineKey, StatementLine

On = Literal["value", "booking"]
Level = Literal["partner", "account", "product"]


class BalanceRow(NamedTuple):
    """The four counters of an account. Every command up to the places in `as_of` is in them, others may be.

    `source`: `redis`, or `state` (the end of the ledger's state topic, when it was newer), or `clickhouse`, which
    knows what was posted and not what is pending: then the pending counters and `available` are None.
    """

    account: AccountRow
    debits_pending: int | None
    debits_posted: int
    credits_pending: int | None
    credits_posted: int
    available: int | None
    as_of: tuple[Place, ...]
    source: Literal["redis", "state", "clickhouse"]


class StatementPage(NamedTuple):
    """Some lines of an account's period. `opening`, `debits`, `credits` and `closing` are of the whole period.

    `next`: after which line the next page begins, None at the end. `through`: the journal offset up to which all pages
    of one statement go, so that what is booked meanwhile moves no line: hand it back with `next`.
    """

    account_id: str
    type: str
    currency: str
    opening: int
    debits: int
    credits: int
    closing: int
    lines: tuple[StatementLine, ...]
    next: LineKey | None
    through: int
    as_of: tuple[Place, ...]


class UsedRow(NamedTuple):
    """What an open window has taken. `ends_at`: when the next one begins, milliseconds UTC."""

    window: str
    currency: str
    transactions: int
    amount: int
    ends_at: int


class LimitRow(NamedTuple):
    """The limits of one subject, and what its open windows have taken. `used` of a product is that of one root."""

    level: Level
    subject_id: str
    limits: tuple[Limit, ...]
    used: tuple[UsedRow, ...]


class Reads(Protocol):
    """Answers from the projections; figures say as of which offsets. Lists are sorted by id and begin after `after`.

    Every call raises PartUnavailableError when no store that could answer does.
    """

    async def accounts(self, partner_id: str, after: str, limit: int) -> list[AccountRow]:
        """Accounts of a partner and of all below it, by id."""
        ...

    async def account(self, account_id: str) -> AccountRow | None:
        """One account."""
        ...

    async def balance(self, account_id: str) -> BalanceRow | None:
        """One account's counters."""
        ...

    async def statement(
        self, account_id: str, since: date, until: date, on: On, limit: int, after: LineKey | None, through: int
    ) -> StatementPage | None:
        """Lines of a period, both days included, after `after`. `through`: of the page before, -1 for the first."""
        ...

    async def partner(self, partner_id: str) -> PartnerState | None:
        """One partner, whatever its state."""
        ...

    async def partners(self, above: str, after: str, limit: int) -> list[PartnerState]:
        """Partners strictly below one, by id."""
        ...

    async def products(self) -> list[ProductState]:
        """Every version of every product on the shelf, by product and rising version."""
        ...

    async def limits(self, partner_id: str, after: tuple[str, str], limit: int) -> list[LimitRow]:
        """What limits a partner's tree: its own partners and accounts that have limits, and products (with what the
        root has used), by level and subject."""
        ...

    async def limit(self, level: Level, subject_id: str, root: str) -> LimitRow | None:
        """One subject's limits; of a product, with what this root has used. None when it has none."""
        ...
