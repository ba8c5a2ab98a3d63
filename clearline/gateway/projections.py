"""`Reads` over the projections: balances from Redis, statements and accounts from ClickHouse, and the end of
`ledger.state` for what must be known at once.

No store is asked in the event loop: Redis over asyncio, ClickHouse in a few threads that each have one connection,
`ledger.state` in memory. Each answer is of one account or one tree, and those lie in one partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import date
from typing import Any, Protocol

from clearline.gateway.parts import Place
from clearline.gateway.reads import BalanceRow, Level, LimitRow, On, StatementPage
from clearline.gateway.terms import StateRows as Rows
from clearline.gateway.terms import Terms
from clearline.gateway.threads import ClientPool
from schemas.errors import PartUnavailableError
from schemas.identity import owner_of, partition_of
from schemas.records import AccountState, PartitionState, PartnerState, ProductState
from sinks.balance_reader import BalanceReader, Shards
from sinks.balances import Shard
from sinks.clickhouse import ClickHouseConfig
from sinks.pages import AccountRow, LineKey, Pages


class LiveRows(Rows, Protocol):
    """The end of `ledger.state`: `streams.state_rows.StateRows`."""

    def account(self, account_id: str) -> AccountState | None: ...
    def head(self, partition: int) -> PartitionState | None: ...
    def close(self) -> None: ...


THREADS = 4
WAITING_MAX = 64
ANSWER_S, SOON_S = 10.0, 3.0
CATCH_UP_S = 0.5
_DEBIT_NORMAL = ("asset", "expense")


class PagePool(ClientPool[Pages]):
    """ClickHouse for pages, in a few threads."""

    def __init__(self, config: ClickHouseConfig, threads: int = THREADS, waiting_max: int = WAITING_MAX) -> None:
        config = replace(config, timeout_s=ANSWER_S)
        super().__init__("ClickHouse", config.address, lambda: Pages(config), threads, waiting_max)


class Projections:
    """The real `Reads`. `now_ms`: the time, milliseconds UTC; `answered`: the last offset of a partition whose outcome
    this gateway has given away, so that somebody may expect to read it. `close` closes what it was given, too."""

    def __init__(
        self, rows: LiveRows, balances: BalanceReader, pages: PagePool, partitions: int, now_ms: Callable[[], int],
        answered: Callable[[int], int] = lambda _partition: -1,
    ) -> None:  # fmt: skip
        self._answered = answered
        self._rows = rows
        self._balances = balances
        self._pages = pages
        self._partitions = partitions
        self._terms = Terms(rows, partitions, now_ms)

    async def close(self) -> None:
        """Ends the thread and the connections."""
        await self._balances.close()
        await asyncio.to_thread(self._pages.close)
        await asyncio.to_thread(self._rows.close)

    # ---- accounts ----------------------------------------------------------------------------------------------------

    async def accounts(self, partner_id: str, after: str, limit: int) -> list[AccountRow]:
        """As `Reads.accounts`: from ClickHouse, each as Redis has it now when it is there."""
        found = await self._pages.ask(lambda pages: pages.accounts(partner_id, after, limit))
        if not found:
            return []
        shards = await self._shards(partner_id, [t.account_id for t in found])
        return [_live(t, shards.shards.get(t.account_id) if shards is not None else None) for t in found]

    async def account(self, account_id: str) -> AccountRow | None:
        """As `Reads.account`."""
        (shard, _, source), terms = await asyncio.gather(self._now(account_id), self._opened(account_id))
        if shard is not None:
            return _row(account_id, shard, terms.opened_at if isinstance(terms, AccountRow) else 0)
        return _known(terms, source)

    async def balance(self, account_id: str) -> BalanceRow | None:
        """As `Reads.balance`."""
        shard, through, source = await self._now(account_id)
        place = self._place(account_id)
        if shard is not None:
            return BalanceRow(
                _row(account_id, shard, 0), shard.debits_pending, shard.debits_posted, shard.credits_pending,
                shard.credits_posted, _available(shard), (Place(place, through),), source,
            )  # fmt: skip
        account = _known(await self._opened(account_id), source)
        posted = await self._pages.ask(lambda pages: pages.posted(account_id, place)) if account is not None else None
        if account is None or posted is None:
            return None
        debits, credits, point = posted
        return BalanceRow(
            account, None, debits, None, credits, None, (Place(place, point.source_offset),), "clickhouse"
        )  # fmt: skip

    async def statement(
        self, account_id: str, since: date, until: date, on: On, limit: int, after: LineKey | None, through: int
    ) -> StatementPage | None:
        """As `Reads.statement`: from ClickHouse. An account that it does not have yet has nothing booked."""
        place = self._place(account_id)
        page = await self._pages.ask(
            lambda pages: pages.statement(account_id, place, since, until, on, limit, after, through)
        )
        if page is None:
            shard, _, _ = await self._now(account_id)
            if shard is None:
                return None
            point = await self._pages.ask(lambda pages: pages.point(place))
            as_of = (Place(place, point.source_offset),)
            return StatementPage(
                account_id, shard.type, shard.currency, 0, 0, 0, 0, (), None, max(0, point.journal_offset), as_of
            )  # fmt: skip
        lines = tuple(page.lines)
        return StatementPage(
            account_id, page.type, page.currency, page.opening, page.debits, page.credits, page.closing, lines,
            lines[-1].key if page.more else None, page.through, (Place(place, page.point.source_offset),),
        )  # fmt: skip

    # ---- partners, products, limits ----------------------------------------------------------------------------------

    async def partner(self, partner_id: str) -> PartnerState | None:
        """As `Reads.partner`."""
        await self._caught_up(self._place(partner_id))
        return self._terms.partner(partner_id)

    async def partners(self, above: str, after: str, limit: int) -> list[PartnerState]:
        """As `Reads.partners`."""
        await self._caught_up(self._place(above))
        return self._terms.partners(above, after, limit)

    async def products(self) -> list[ProductState]:
        """As `Reads.products`."""
        return self._terms.products()

    async def limits(self, partner_id: str, after: tuple[str, str], limit: int) -> list[LimitRow]:
        """As `Reads.limits`."""
        await self._caught_up(self._place(partner_id))
        return self._terms.limits(partner_id, after, limit)

    async def limit(self, level: Level, subject_id: str, root: str) -> LimitRow | None:
        """As `Reads.limit`."""
        return self._terms.limit(level, subject_id, root)

    # ---- where an account stands -------------------------------------------------------------------------------------

    def _place(self, account_id: str) -> int:
        return partition_of(owner_of(account_id), self._partitions)

    async def _now(self, account_id: str) -> tuple[Shard | None, int, Any]:
        """The account as it is now, the last offset that is surely in it, and where that is from.

        Of Redis and of what `ledger.state` has told this process, the newer counts: whoever was answered 201 a moment
        ago finds it here. None when neither has it: with `redis` there is none, with `clickhouse` that one must say.
        """
        place = self._place(account_id)
        await self._caught_up(place)
        recent, through = self._recent(place, account_id)
        shards = await self._shards(account_id, [account_id])
        shard = shards.shards.get(account_id) if shards is not None else None
        if shards is not None and shard is not None and (recent is None or shard.source_offset >= recent.source_offset):
            return shard, max(shards.source_next - 1, shard.source_offset), "redis"
        if recent is not None:
            return _shard(recent), max(through, recent.source_offset), "state"
        return None, -1, "redis" if shards is not None else "clickhouse"

    async def _caught_up(self, place: int) -> None:
        """Waits for a moment until `ledger.state` has told this process of what it has answered itself."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CATCH_UP_S
        with suppress(PartUnavailableError):
            while loop.time() < deadline:
                head = self._rows.head(place)
                if (head.next_offset if head is not None else 0) > self._answered(place):
                    return
                await asyncio.sleep(0.002)

    def _recent(self, place: int, account_id: str) -> tuple[AccountState | None, int]:
        """The account as `ledger.state` told it last, and up to which offset nothing newer came."""
        try:
            head = self._rows.head(place)  # before the row: it promises no more than what is there already
            return self._rows.account(account_id), (head.next_offset if head is not None else 0) - 1
        except PartUnavailableError:
            return None, -1

    async def _shards(self, subject: str, account_ids: list[str]) -> Shards | None:
        """The accounts as Redis has them; None when it is away, or is being built up and so proves nothing."""
        try:
            found = await self._balances.shards(self._place(subject), account_ids)
        except PartUnavailableError:
            return None
        return found if found.complete else None

    async def _opened(self, account_id: str) -> AccountRow | PartUnavailableError | None:
        """What ClickHouse says of the account, or that it does not answer soon."""
        try:
            found = await asyncio.wait_for(self._pages.ask(lambda pages: pages.terms([account_id])), SOON_S)
        except PartUnavailableError as e:
            return e
        except TimeoutError:
            return PartUnavailableError("ClickHouse", self._pages.address, f"nothing within {SOON_S:.0f} s")
        return found[0] if found else None


def _known(answer: AccountRow | PartUnavailableError | None, source: str) -> AccountRow | None:
    """The account by what ClickHouse says. It is unknown only when a store that could know it says so."""
    if isinstance(answer, AccountRow):
        return answer
    if answer is not None and source == "clickhouse":
        raise answer
    return None


def _row(account_id: str, s: Shard, opened_at: int) -> AccountRow:
    return AccountRow(
        account_id, s.type, s.currency, s.min_available, s.credit_limit, s.debits_blocked, s.credits_blocked, s.frozen,
        s.closed, opened_at,
    )  # fmt: skip


def _live(t: AccountRow, s: Shard | None) -> AccountRow:
    return t if s is None else _row(t.account_id, s, t.opened_at)


def _shard(a: AccountState) -> Shard:
    return Shard(
        a.source_offset, a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted, a.currency, a.type,
        a.min_available, a.debits_blocked, a.credits_blocked, a.closed, a.frozen, a.credit_limit,
    )  # fmt: skip


def _available(s: Shard) -> int:
    if s.type in _DEBIT_NORMAL:
        return s.debits_posted - s.credits_posted - s.credits_pending
    return s.credits_posted - s.debits_posted - s.debits_pending
