"""An account: what it is, its four counters, and the one rule that limits it."""

from __future__ import annotations

import msgspec

from schemas.identity import owner_of, root_of
from schemas.records import AccountState

DEBIT_NORMAL = frozenset({"asset", "expense"})
ACCOUNT_TYPES = frozenset({"asset", "liability", "equity", "income", "expense"})


class Account(msgspec.Struct, gc=False, eq=False):
    """One account of one partition. Counters are minor units of `currency`, never negative, and only grow when posted.

    `offset` is the source offset of the last command that changed it. `owner`, `root` and `debit_normal` follow from
    the rest. `credit_limit`: minor units by which it may go below `min_available`. A msgspec struct, because every
    batch copies what it touches, and that is three times quicker in C.
    """

    account_id: str
    type: str
    currency: str
    min_available: int | None
    offset: int
    owner: str
    root: str
    debit_normal: bool
    debits_blocked: bool = False
    credits_blocked: bool = False
    closed: bool = False
    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0
    frozen: bool = False
    credit_limit: int = 0

    @classmethod
    def new(
        cls, account_id: str, type: str, currency: str, min_available: int | None, offset: int, credit_limit: int = 0
    ) -> Account:
        """An account with nothing on it."""
        owner = owner_of(account_id)
        a = cls(account_id, type, currency, min_available, offset, owner, root_of(owner), type in DEBIT_NORMAL)
        a.credit_limit = credit_limit
        return a

    def copy(self) -> Account:
        """A copy that can be changed without changing this one."""
        return self.__copy__()  # type: ignore[attr-defined, no-any-return]  # msgspec gives it, without saying so

    def available(self) -> int:
        """What may still be taken out: posted on the normal side, less posted and held on the other."""
        if self.debit_normal:
            return self.debits_posted - self.credits_posted - self.credits_pending
        return self.credits_posted - self.debits_posted - self.debits_pending

    @property
    def floor(self) -> int | None:
        """What must stay available, minor units (below zero where it may borrow); None for no limit."""
        return None if self.min_available is None else self.min_available - self.credit_limit

    def is_empty(self) -> bool:
        """Zero balance and nothing held."""
        return self.debits_posted == self.credits_posted and self.debits_pending == 0 and self.credits_pending == 0

    def state(self) -> AccountState:
        """The record of this account for `ledger.state`."""
        return AccountState(
            self.account_id, self.type, self.currency, self.min_available,
            self.debits_blocked, self.credits_blocked, self.closed,
            self.debits_pending, self.debits_posted, self.credits_pending, self.credits_posted, self.offset,
            self.frozen, self.credit_limit,
        )  # fmt: skip

    @classmethod
    def from_state(cls, s: AccountState) -> Account:
        """The account that `state()` described."""
        a = cls.new(s.account_id, s.type, s.currency, s.min_available, s.source_offset, s.credit_limit)
        a.frozen = s.frozen
        a.debits_blocked, a.credits_blocked, a.closed = s.debits_blocked, s.credits_blocked, s.closed
        a.debits_pending, a.debits_posted = s.debits_pending, s.debits_posted
        a.credits_pending, a.credits_posted = s.credits_pending, s.credits_posted
        return a
