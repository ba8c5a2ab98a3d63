"""The partners and accounts of a recomputed ledger: who there is, what it may do, and the commands that change that.

Like the rest of the recomputation it is written from docs/operations.md and docs/REASONS.md, not from `ledger/`.
"""

from __future__ import annotations

import re
from typing import Any

from clearline.audit.currencies import CURRENCIES
from schemas.identity import BANK, owner_of, root_of
from schemas.records import AdmitPartner, BlockAccount, CloseAccount, OpenAccount, SetAccountLimit, SetPartnerState

LONG_MAX = 2**63 - 1
ACCOUNT_TYPES = {"asset", "liability", "equity", "income", "expense"}
PARTNER_PATH = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}(/[a-z0-9][a-z0-9._-]{0,63}){0,7}")
ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class Registrations:
    """Partners and accounts of one partition, one plain dict per figure."""

    def __init__(self) -> None:
        self.partner_state: dict[str, str] = {}
        self.partner_name: dict[str, str] = {}
        self.partner_offset: dict[str, int] = {}
        self.standing: dict[str, str] = {BANK: ""}  # what `live` said, until a partner changes
        self.type: dict[str, str] = {}
        self.currency: dict[str, str] = {}
        self.limit: dict[str, int | None] = {}
        self.debits_blocked: dict[str, bool] = {}
        self.credits_blocked: dict[str, bool] = {}
        self.closed: dict[str, bool] = {}
        self.debits: dict[str, int] = {}
        self.credits: dict[str, int] = {}
        self.debits_pending: dict[str, int] = {}
        self.credits_pending: dict[str, int] = {}
        self.touched: dict[str, int] = {}  # account -> offset of the last command that changed it

    def live(self, partner: str) -> str:
        """Why the partner may not act: a reason, or empty."""
        known = self.standing.get(partner)
        if known is None:
            path = partner.split("/")
            states = [self.partner_state.get("/".join(path[: i + 1])) for i in range(len(path))]
            known = "partner_unknown" if None in states else "" if set(states) == {"live"} else "partner_suspended"
            self.standing[partner] = known
        return known

    def control(self, offset: int, command: Any) -> tuple[str, str]:
        """The reason why a control command is refused, or empty; and what it concerns."""
        if isinstance(command, AdmitPartner):
            return self.admit(offset, command), command.subject_id
        if isinstance(command, SetPartnerState):
            return self.set_partner(offset, command), command.subject_id
        account = command.account_id
        owner = owner_of(account)
        why = self.live(command.partner_id)
        if why:
            return why, account
        own = owner == command.partner_id or owner.startswith(command.partner_id + "/")
        may = not isinstance(command, SetAccountLimit) and own
        if command.partner_id != BANK and not may:
            return "not_permitted", account
        if isinstance(command, OpenAccount):
            return self.open(offset, command), account
        return self.change(offset, command), account

    def admit(self, offset: int, c: AdmitPartner) -> str:
        parent = c.subject_id.rpartition("/")[0]
        if c.partner_id != BANK:
            return "not_permitted"
        if not PARTNER_PATH.fullmatch(c.subject_id) or root_of(c.subject_id) == BANK:
            return "field_invalid"
        if c.subject_id in self.partner_state:
            return "partner_exists"
        if parent and parent not in self.partner_state:
            return "parent_unknown"
        self.set_standing(offset, c.subject_id, "live", c.name)
        return ""

    def set_partner(self, offset: int, c: SetPartnerState) -> str:
        if c.partner_id != BANK:
            return "not_permitted"
        if c.state not in ("live", "suspended"):
            return "state_unknown"
        if c.subject_id not in self.partner_state:
            return "partner_unknown"
        self.set_standing(offset, c.subject_id, c.state, self.partner_name[c.subject_id])
        return ""

    def set_standing(self, offset: int, partner: str, state: str, name: str) -> None:
        """Remembers a partner as of this offset."""
        self.standing = {BANK: ""}
        self.partner_state[partner], self.partner_name[partner], self.partner_offset[partner] = state, name, offset

    def open(self, offset: int, c: OpenAccount) -> str:
        a = c.account_id
        if c.partner_id != BANK and (c.min_available is None or c.min_available < 0):
            return "not_permitted"
        owner, _, name = a.partition(":")
        if not PARTNER_PATH.fullmatch(owner) or not ACCOUNT_NAME.fullmatch(name) or c.type not in ACCOUNT_TYPES:
            return "field_invalid"
        if c.currency not in CURRENCIES:
            return "currency_unknown"
        if abs(c.min_available or 0) > LONG_MAX:
            return "amount_too_large"
        why = self.live(owner)
        if why:
            return why
        if a in self.type:
            return "account_exists"
        self.new_account(offset, a, c.type, c.currency, c.min_available)
        return ""

    def new_account(self, offset: int, a: str, kind: str, currency: str, limit: int | None) -> None:
        """An account with all counters at zero."""
        self.type[a], self.currency[a], self.limit[a] = kind, currency, limit
        self.debits_blocked[a] = self.credits_blocked[a] = self.closed[a] = False
        self.debits[a] = self.credits[a] = self.debits_pending[a] = self.credits_pending[a] = 0
        self.touched[a] = offset

    def change(self, offset: int, c: BlockAccount | SetAccountLimit | CloseAccount) -> str:
        a = c.account_id
        if isinstance(c, SetAccountLimit) and abs(c.min_available or 0) > LONG_MAX:
            return "amount_too_large"
        if a not in self.type:
            return "account_unknown"
        if self.closed[a]:
            return "account_closed"
        if isinstance(c, BlockAccount):
            lifted = self.debits_blocked[a] > c.block_debits or self.credits_blocked[a] > c.block_credits
            if lifted and c.partner_id != BANK:
                return "not_permitted"
            self.debits_blocked[a], self.credits_blocked[a] = c.block_debits, c.block_credits
        elif isinstance(c, SetAccountLimit):
            self.limit[a] = c.min_available
        else:
            if self.debits[a] != self.credits[a] or self.debits_pending[a] or self.credits_pending[a]:
                return "account_not_empty"
            self.closed[a] = True
        self.touched[a] = offset
        return ""
