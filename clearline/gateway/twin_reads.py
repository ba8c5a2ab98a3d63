"""`Reads` over the ledger in memory: the same answers as the projections give, from the Books and their journals.

Statements are worked out from every journal record of a partition, so nothing of ClickHouse's way of counting is in
them: the contract tests hold the two equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Protocol

from clearline.fields import EPOCH
from clearline.gateway.parts import Place
from clearline.gateway.reads import BalanceRow, Level, LimitRow, On, StatementPage
from clearline.gateway.terms import Terms
from ledger.accounts import DEBIT_NORMAL, Account
from ledger.calendars import DAY_MS
from ledger.names import within
from ledger.state import PartitionBase
from schemas.identity import owner_of, partition_of
from schemas.records import JournalRecord, PartnerState, ProductState, Record
from sinks.pages import AccountRow, LineKey, StatementLine


class Ledger(Protocol):
    """What is asked of the twin: `clearline.gateway.twin.LedgerTwin`."""

    partitions: int
    now_ms: int

    def base(self, partition: int) -> PartitionBase: ...
    def journal_of(self, partition: int) -> list[JournalRecord]: ...


class _Rows:
    """The Books' state by the keys of `ledger.state`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def row(self, partition: int, key: str) -> Record | None:
        base = self._ledger.base(partition)
        if key.startswith("p:"):
            partner = base.partners.get(key[2:])
            return partner.record() if partner is not None else None
        return base.rows.get(key)

    def keys(self, partition: int, prefix: str, after: str = "") -> Iterator[str]:
        base = self._ledger.base(partition)
        every = (*base.rows, *(f"p:{partner_id}" for partner_id in base.partners))
        return iter(sorted(k for k in every if k.startswith(prefix) and k > after))


class TwinReads:
    """As `Reads`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._terms = Terms(_Rows(ledger), ledger.partitions, lambda: ledger.now_ms)

    async def accounts(self, partner_id: str, after: str, limit: int) -> list[AccountRow]:
        """As `Reads.accounts`."""
        accounts = self._ledger.base(self._place(partner_id)).accounts
        ids = sorted(a for a in accounts if a > after and within(owner_of(a), partner_id))
        return [self._row(accounts[a]) for a in ids[:limit]]

    async def account(self, account_id: str) -> AccountRow | None:
        """As `Reads.account`."""
        a = self._find(account_id)
        return self._row(a) if a is not None else None

    async def balance(self, account_id: str) -> BalanceRow | None:
        """As `Reads.balance`."""
        a = self._find(account_id)
        if a is None:
            return None
        counters = a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted
        return BalanceRow(self._row(a), *counters, a.available(), self._as_of(account_id), "redis")

    async def statement(
        self, account_id: str, since: date, until: date, on: On, limit: int, after: LineKey | None, through: int
    ) -> StatementPage | None:
        """As `Reads.statement`."""
        a = self._find(account_id)
        if a is None:
            return None
        last = len(self._ledger.journal_of(self._place(account_id))) - 1
        through = last if through < 0 else min(through, last)
        sign = 1 if a.type in DEBIT_NORMAL else -1
        opening = balance = debits = credits = 0
        lines: list[StatementLine] = []
        for x in sorted(self._lines(account_id, on, through), key=lambda x: x.key):
            if x.key.day > until:
                break
            balance += sign * x.amount * (1 if x.side == "debit" else -1)
            if x.key.day < since:
                opening = balance
                continue
            debits, credits = (debits + x.amount, credits) if x.side == "debit" else (debits, credits + x.amount)
            if after is None or x.key > after:
                lines.append(x._replace(balance=balance))
        following = lines[limit - 1].key if len(lines) > limit else None
        closing = opening + sign * (debits - credits)
        return StatementPage(
            account_id, a.type, a.currency, opening, debits, credits, closing, tuple(lines[:limit]), following, through,
            self._as_of(account_id),
        )  # fmt: skip

    async def partner(self, partner_id: str) -> PartnerState | None:
        """As `Reads.partner`."""
        return self._terms.partner(partner_id)

    async def partners(self, above: str, after: str, limit: int) -> list[PartnerState]:
        """As `Reads.partners`."""
        return self._terms.partners(above, after, limit)

    async def products(self) -> list[ProductState]:
        """As `Reads.products`."""
        return self._terms.products()

    async def limits(self, partner_id: str, after: tuple[str, str], limit: int) -> list[LimitRow]:
        """As `Reads.limits`."""
        return self._terms.limits(partner_id, after, limit)

    async def limit(self, level: Level, subject_id: str, root: str) -> LimitRow | None:
        """As `Reads.limit`."""
        return self._terms.limit(level, subject_id, root)

    def _place(self, subject: str) -> int:
        return partition_of(owner_of(subject), self._ledger.partitions)

    def _as_of(self, subject: str) -> tuple[Place, ...]:
        place = self._place(subject)
        return (Place(place, self._ledger.base(place).head.next_offset - 1),)

    def _find(self, account_id: str) -> Account | None:
        return self._ledger.base(self._place(account_id)).accounts.get(account_id)

    def _row(self, a: Account) -> AccountRow:
        return AccountRow(
            a.account_id, a.type, a.currency, a.min_available, a.credit_limit, a.debits_blocked, a.credits_blocked,
            a.frozen, a.closed, self._opened_at(a.account_id),
        )  # fmt: skip

    def _opened_at(self, account_id: str) -> int:
        for r in self._ledger.journal_of(self._place(account_id)):
            opens = r.command == "OpenAccount" and r.outcome == "applied" and r.subject_id == account_id
            if opens or any(o.account_id == account_id for o in r.opened):
                return r.booked_at
        return 0

    def _lines(self, account_id: str, on: On, through: int) -> Iterator[StatementLine]:
        """Every posting of an account up to a journal offset, without its balance."""
        for r in self._ledger.journal_of(self._place(account_id))[: through + 1]:
            for n, p in enumerate(r.postings):
                if p.account_id != account_id:
                    continue
                value_date = EPOCH + timedelta(days=r.value_date)
                day = value_date if on == "value" else EPOCH + timedelta(days=r.booked_at // DAY_MS)
                key = LineKey(day, r.booked_at, r.source_partition, r.sequence, n)
                yield StatementLine(
                    key, value_date, r.command_id, r.source_offset, r.partner_id, r.product, r.operation, r.reference,
                    "debit" if p.side == "debit" else "credit", p.amount, 0,
                )  # fmt: skip
