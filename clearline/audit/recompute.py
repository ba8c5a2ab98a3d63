"""The ledger recomputed by someone else: dicts of ints, one rule after the other, from the text of the semantics.

It shares no code with `ledger/` on purpose, and is written in another style: where the Book checks and then applies to
account objects, this keeps one plain dict per figure and asks each rule of all legs before it asks the next. Two
programs that agree on every outcome of a random stream are unlikely to be wrong in the same way.

It costs about 160 bytes per remembered idempotency key and 450 bytes per account, for one partition at a time.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from clearline.audit.contract import Terms
from clearline.audit.currencies import CURRENCIES
from schemas.identity import BANK, command_id, owner_of, payload_digest, root_of
from schemas.records import (
    AdmitPartner,
    BlockAccount,
    CloseAccount,
    JournalRecord,
    OpenAccount,
    SetAccountLimit,
    SetPartnerState,
    Transaction,
)

LONG_MAX = 2**63 - 1
COUNTER_MAX = 10**38 - 1
LAST_DAY = 2_932_896  # 9999-12-31, days since 1970-01-01
REFERENCE_CHARS_MAX, METADATA_FIELDS_MAX = 1024, 64
POSTINGS_MIN, POSTINGS_MAX = 2, 1000
DEBIT_NORMAL = {"asset", "expense"}
ACCOUNT_TYPES = {"asset", "liability", "equity", "income", "expense"}
PARTNER_PATH = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}(/[a-z0-9][a-z0-9._-]{0,63}){0,7}")
ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

Leg = tuple[str, str, int, str]  # account, side, amount in minor units, currency
PostedLeg = tuple[str, str, int, str, int, int, int, int]  # and its counters after: dp, dp posted, cp, cp posted


class Expected(NamedTuple):
    """What must stand in the journal for one command. `first_offset`: -1 when the key was new."""

    outcome: str
    reason: str
    first_offset: int
    binds_key: bool
    command_id: bytes
    digest: bytes
    legs: tuple[PostedLeg, ...]
    subject: str


class Recomputation:
    """One partition's ledger from its commands. Feed `expect` every command in the order of its offsets."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.event_time = 0
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
        self.keys: dict[bytes, bytes] = {}  # command id -> digest, offset and time of the first outcome

    # ---- one command -------------------------------------------------------------------------------------------------

    def expect(self, offset: int, command: Any, booked_at: int = 0) -> Expected:
        """The outcome that the command at this offset must have, and its effect applied. `booked_at`: ms UTC."""
        self.event_time = max(self.event_time, booked_at)
        cid = command_id(command.partner_id, command.idempotency_key)
        digest = payload_digest(command)
        bound = self.keys.get(cid)
        if bound is not None and not self.terms.forgotten(int.from_bytes(bound[16:], "big"), self.event_time):
            first = int.from_bytes(bound[8:16], "big")
            if bound[:8] == digest:
                return Expected("repeated", "", first, False, cid, digest, (), "")
            return Expected("rejected", "idempotency_conflict", first, False, cid, digest, (), "")
        self.keys[cid] = digest + offset.to_bytes(8, "big") + booked_at.to_bytes(8, "big")
        if isinstance(command, Transaction):
            legs = self.legs_of(command)
            reason = self.refusal(command, legs)
            if reason:
                return Expected("rejected", reason, -1, True, cid, digest, (), "")
            return Expected("settled", "", -1, True, cid, digest, self.post(offset, legs), "")
        reason, subject = self.control(offset, command)
        outcome = "rejected" if reason else "applied"
        return Expected(outcome, reason, -1, True, cid, digest, (), "" if reason else subject)

    @staticmethod
    def legs_of(t: Transaction) -> list[Leg]:
        """The legs that a transaction asks for, as far as it names them."""
        if t.postings:
            return [(p.account_id, p.side, p.amount, p.currency or t.currency) for p in t.postings]
        return [
            (t.accounts.get("payer", ""), "debit", t.amount, t.currency),
            (t.accounts.get("payee", ""), "credit", t.amount, t.currency),
        ]

    def available(self, account: str) -> int:
        """What the account can still give, minor units; negative when it is overdrawn."""
        if self.type[account] in DEBIT_NORMAL:
            return self.debits[account] - self.credits[account] - self.credits_pending[account]
        return self.credits[account] - self.debits[account] - self.debits_pending[account]

    def live(self, partner: str) -> str:
        """Why the partner may not act: a reason, or empty."""
        known = self.standing.get(partner)
        if known is None:
            path = partner.split("/")
            states = [self.partner_state.get("/".join(path[: i + 1])) for i in range(len(path))]
            known = "partner_unknown" if None in states else "" if set(states) == {"live"} else "partner_suspended"
            self.standing[partner] = known
        return known

    def follow(self, record: JournalRecord) -> None:
        """Takes a journal record's word for a command that is no longer kept in the submitted topic."""
        offset, subject, changes = record.source_offset, record.subject_id, record.changes
        self.event_time = max(self.event_time, record.booked_at)
        if record.binds_key:
            at = offset.to_bytes(8, "big") + record.booked_at.to_bytes(8, "big")
            self.keys[record.command_id] = record.payload_digest + at
        for leg in record.postings:
            a = leg.account_id
            self.debits[a], self.credits[a] = leg.debits_posted, leg.credits_posted
            self.debits_pending[a], self.credits_pending[a] = leg.debits_pending, leg.credits_pending
            self.touched[a] = offset
        if record.outcome != "applied":
            return
        if record.command in ("AdmitPartner", "SetPartnerState"):
            name = changes.get("name", self.partner_name.get(subject, ""))
            self.set_standing(offset, subject, changes["state"], name)
            return
        limit = int(changes["min_available"]) if changes.get("min_available") else None
        if record.command == "OpenAccount":
            self.new_account(offset, subject, changes["type"], changes["currency"], limit)
        elif record.command == "SetAccountLimit":
            self.limit[subject] = limit
        elif record.command == "BlockAccount":
            self.debits_blocked[subject] = changes["block_debits"] == "true"
            self.credits_blocked[subject] = changes["block_credits"] == "true"
        elif record.command == "CloseAccount":
            self.closed[subject] = True
        self.touched[subject] = offset

    # ---- transactions ------------------------------------------------------------------------------------------------

    def refusal(self, t: Transaction, legs: list[Leg]) -> str:
        """The first rule that the transaction breaks, in the order of the reasons; empty when it breaks none."""
        why = self.live(t.partner_id)
        if why:
            return why
        if t.operation != "transfer":
            return "operation_unknown"
        return self.malformed(t, legs) or self.forbidden(t, legs) or self.unaffordable(legs)

    @staticmethod
    def malformed(t: Transaction, legs: list[Leg]) -> str:
        """Rules that need no account."""
        if not 0 <= t.value_date <= LAST_DAY:
            return "field_invalid"
        if len(t.reference) > REFERENCE_CHARS_MAX or len(t.metadata) > METADATA_FIELDS_MAX:
            return "field_invalid"
        if t.postings and (t.amount or t.accounts):
            return "field_invalid"
        if not t.postings and set(t.accounts) != {"payer", "payee"}:
            return "field_invalid"
        if any(side not in ("debit", "credit") for _, side, _, _ in legs):
            return "field_invalid"
        if any(currency not in CURRENCIES for _, _, _, currency in legs):
            return "currency_unknown"
        if any(amount <= 0 for _, _, amount, _ in legs):
            return "amount_not_positive"
        if any(amount > LONG_MAX for _, _, amount, _ in legs):
            return "amount_too_large"
        if not POSTINGS_MIN <= len(legs) <= POSTINGS_MAX:
            return "postings_count"
        net: dict[str, int] = {}
        for _, side, amount, currency in legs:
            net[currency] = net.get(currency, 0) + (amount if side == "debit" else -amount)
        return "postings_unbalanced" if any(net.values()) else ""

    def forbidden(self, t: Transaction, legs: list[Leg]) -> str:
        """Rules about who may post to which account."""
        if any(a not in self.type for a, _, _, _ in legs):
            return "account_unknown"
        for account, side, _, _ in legs:
            owner = owner_of(account)
            if owner == BANK:
                continue
            mine = owner == t.partner_id or owner.startswith(t.partner_id + "/")
            family = root_of(owner) == root_of(t.partner_id)
            if not (mine if side == "debit" else family):
                return "account_not_owned"
        if any(self.closed[a] for a, _, _, _ in legs):
            return "account_closed"
        if any(self.currency[a] != c for a, _, _, c in legs):
            return "account_currency"
        if any(side == "debit" and self.debits_blocked[a] for a, side, _, _ in legs):
            return "debits_blocked"
        if any(side == "credit" and self.credits_blocked[a] for a, side, _, _ in legs):
            return "credits_blocked"
        return "same_account" if not t.postings and legs[0][0] == legs[1][0] else ""

    def unaffordable(self, legs: list[Leg]) -> str:
        """Rules about the counters, counted after all legs."""
        more_debits: dict[str, int] = {}
        more_credits: dict[str, int] = {}
        for account, side, amount, _ in legs:
            more = more_debits if side == "debit" else more_credits
            more[account] = more.get(account, 0) + amount
        for account in {**more_debits, **more_credits}:
            debit_normal = self.type[account] in DEBIT_NORMAL
            limit = self.limit[account]
            if limit is None or account not in (more_credits if debit_normal else more_debits):
                continue
            change = more_credits.get(account, 0) - more_debits.get(account, 0)
            if self.available(account) + (-change if debit_normal else change) < limit:
                return "insufficient_funds"
        if any(self.debits[a] + n > COUNTER_MAX for a, n in more_debits.items()):
            return "counter_overflow"
        if any(self.credits[a] + n > COUNTER_MAX for a, n in more_credits.items()):
            return "counter_overflow"
        return ""

    def post(self, offset: int, legs: list[Leg]) -> tuple[PostedLeg, ...]:
        """Adds the legs to the counters; each leg with its account's counters after it."""
        out = []
        for account, side, amount, currency in legs:
            figures = self.debits if side == "debit" else self.credits
            figures[account] += amount
            self.touched[account] = offset
            out.append((account, side, amount, currency, self.debits_pending[account], self.debits[account],
                        self.credits_pending[account], self.credits[account]))  # fmt: skip
        return tuple(out)

    # ---- control commands --------------------------------------------------------------------------------------------

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
