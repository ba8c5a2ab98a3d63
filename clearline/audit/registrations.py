"""The accounts of a recomputed ledger: the commands that open, block, limit and close them.

Like the rest of the recomputation it is written from docs/operations.md and docs/REASONS.md, not from `ledger/`.
"""

from __future__ import annotations

import re

from clearline.audit.currencies import CURRENCIES
from clearline.audit.figures import LONG_MAX, TRANSIT
from clearline.audit.freezes import Freezes
from clearline.audit.partners import PARTNER_PATH, is_below
from schemas.identity import BANK, owner_of
from schemas.records import BlockAccount, CloseAccount, OpenAccount, SetAccountLimit

ACCOUNT_TYPES = {"asset", "liability", "equity", "income", "expense"}
ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def is_account_name(account: str) -> bool:
    """Whether an account could be called this."""
    owner, _, name = account.partition(":")
    return bool(PARTNER_PATH.fullmatch(owner) and ACCOUNT_NAME.fullmatch(name))


class Registrations(Freezes):
    """What is asked of accounts by commands of their own."""

    def of_account(self, offset: int, c: OpenAccount | BlockAccount | SetAccountLimit | CloseAccount) -> str:
        """The reason why the command is refused, or empty."""
        why = self.denied(c.partner_id, "opens" if isinstance(c, OpenAccount) else "sets")
        why = why or self.barred(c.partner_id)
        if why:
            return why
        own = is_below(owner_of(c.account_id), c.partner_id)
        if c.partner_id != BANK and (isinstance(c, SetAccountLimit) or not own):
            return "not_permitted"
        return self.open(offset, c) if isinstance(c, OpenAccount) else self.change(offset, c)

    def open(self, offset: int, c: OpenAccount) -> str:
        """The reason why an account is not opened, or empty."""
        a = c.account_id
        lends = c.min_available is None or c.min_available < 0 or c.credit_limit or c.type in ("asset", "expense")
        if c.partner_id != BANK and lends:
            return "not_permitted"
        if not is_account_name(a) or c.type not in ACCOUNT_TYPES:
            return "field_invalid"
        if c.currency not in CURRENCIES:
            return "currency_unknown"
        why = self.unlimitable(c) or self.denied(owner_of(a), "opens")
        if not why and self.frozen_above(owner_of(a)):
            why = "partner_frozen"
        if why:
            return why
        if a.startswith(TRANSIT):
            return "account_not_owned"
        if a in self.type:
            return "account_exists"
        self.new_account(offset, a, c.type, c.currency, c.min_available, c.credit_limit)
        return ""

    @staticmethod
    def unlimitable(c: OpenAccount | SetAccountLimit) -> str:
        """Rules about the two limits of an account."""
        if abs(c.min_available or 0) > LONG_MAX:
            return "amount_too_large"
        if c.credit_limit < 0:
            return "field_invalid"
        if c.credit_limit > LONG_MAX:
            return "amount_too_large"
        return "field_invalid" if c.credit_limit and c.min_available is None else ""

    def change(self, offset: int, c: BlockAccount | SetAccountLimit | CloseAccount) -> str:
        """The reason why an account is not changed, or empty."""
        a = c.account_id
        why = self.unlimitable(c) if isinstance(c, SetAccountLimit) else ""
        if why:
            return why
        if a.startswith(TRANSIT):
            return "account_not_owned"
        if a not in self.type:
            return "account_unknown"
        if self.closed[a]:
            return "account_closed"
        if isinstance(c, BlockAccount):
            before = (self.debits_blocked[a], self.credits_blocked[a], self.frozen[a])
            after = (c.block_debits, c.block_credits, c.freeze)
            if c.partner_id != BANK and any(x > y for x, y in zip(before, after, strict=True)):
                return "not_permitted"
            self.debits_blocked[a], self.credits_blocked[a], self.frozen[a] = after
            if not c.freeze:
                self.freezes.pop(("account", a), None)
        elif isinstance(c, SetAccountLimit):
            self.limit[a], self.credit_limit[a] = c.min_available, c.credit_limit
        else:
            if self.debits[a] != self.credits[a] or self.debits_pending[a] or self.credits_pending[a]:
                return "account_not_empty"
            self.closed[a] = True
        self.touched[a] = offset
        return ""
