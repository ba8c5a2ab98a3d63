"""The ledger's rules said a second time, as plainly as they can be said: dicts, copies, and one question after another.

It shares no code with the ledger. Where the Book is quick, this is slow; where both agree on every outcome, reason and
balance over many thousands of commands, either both are right or both are wrong in the same way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from schemas.records import (
    AdmitPartner,
    BlockAccount,
    CloseAccount,
    OpenAccount,
    Posting,
    SetAccountLimit,
    SetPartnerState,
    Transaction,
)

CURRENCIES = {"CNY", "JPY", "KWD", "EUR", "USD"}  # those that the tests use; every other is unknown to the model
LONG_MAX = 9_223_372_036_854_775_807
COUNTER_MAX = int("9" * 38)
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"


@dataclass
class Known:
    """One account of the model."""

    owner: str
    type: str
    currency: str
    limit: int | None
    debits: int = 0
    credits: int = 0
    no_debits: bool = False
    no_credits: bool = False
    closed: bool = False

    def available(self) -> int:
        net = self.debits - self.credits
        return net if self.type in ("asset", "expense") else -net


@dataclass
class Model:
    """What there is, and what was answered under each key."""

    partners: dict[str, str] = field(default_factory=dict)
    accounts: dict[str, Known] = field(default_factory=dict)
    answered: dict[tuple[str, str], tuple[Any, int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def copy(self) -> Model:
        """A model that goes its own way from here."""
        accounts = {name: replace(a) for name, a in self.accounts.items()}
        return Model(dict(self.partners), accounts, dict(self.answered), Counter(self.counts))

    def settle(self, command: Any, offset: int) -> tuple[str, str, int]:
        """Outcome, reason and first offset of a command."""
        key = (command.partner_id, command.idempotency_key)
        if key in self.answered:
            before, first = self.answered[key]
            outcome = ("repeated", "", first) if before == command else ("rejected", "idempotency_conflict", first)
        else:
            self.answered[key] = (command, offset)
            reason = next(self._refusals(command), "")
            if not reason:
                self._apply(command)
            done = "settled" if isinstance(command, Transaction) else "applied"
            outcome = ("rejected", reason, -1) if reason else (done, "", -1)
        self.counts[outcome[0]] += 1
        return outcome

    def _refusals(self, command: Any) -> Iterator[str]:
        """Every reason that stands against a command, first the one that is given. Later ones may be nonsense."""
        if isinstance(command, Transaction):
            yield from self._against_transaction(command)
        elif isinstance(command, AdmitPartner | SetPartnerState):
            yield from self._against_partner_command(command)
        else:
            yield from self._against_account_command(command)

    def _not_live(self, partner: str) -> Iterator[str]:
        if partner == "bank":
            return
        if partner not in self.partners:
            yield "partner_unknown"
        parts = partner.split("/")
        line = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        if any(self.partners.get(p) != "live" for p in line):
            yield "partner_suspended"

    def _legs(self, t: Transaction) -> list[Posting]:
        if t.postings:
            return [Posting(p.account_id, p.side, p.amount, p.currency or t.currency) for p in t.postings]
        return [
            Posting(t.accounts["payer"], "debit", t.amount, t.currency),
            Posting(t.accounts["payee"], "credit", t.amount, t.currency),
        ]

    def _against_transaction(self, t: Transaction) -> Iterator[str]:
        yield from self._not_live(t.partner_id)
        if t.operation != "transfer":
            yield "operation_unknown"
        if t.value_date < 0 or t.value_date > 2_932_896 or len(t.reference) > 1024 or len(t.metadata) > 64:
            yield "field_invalid"
        if t.postings:
            if t.amount != 0 or t.accounts or any(p.side not in ("debit", "credit") for p in t.postings):
                yield "field_invalid"
        elif sorted(t.accounts) != ["payee", "payer"]:
            yield "field_invalid"
        legs = self._legs(t)
        if any(leg.currency not in CURRENCIES for leg in legs):
            yield "currency_unknown"
        if any(leg.amount < 1 for leg in legs):
            yield "amount_not_positive"
        if any(leg.amount > LONG_MAX for leg in legs):
            yield "amount_too_large"
        if not 2 <= len(legs) <= 1000:
            yield "postings_count"
        if any(self._sum(legs, "debit", c) != self._sum(legs, "credit", c) for c in CURRENCIES):
            yield "postings_unbalanced"
        yield from self._against_accounts(t, legs)

    def _sum(self, legs: list[Posting], side: str, currency: str) -> int:
        return sum(leg.amount for leg in legs if leg.side == side and leg.currency == currency)

    def _against_accounts(self, t: Transaction, legs: list[Posting]) -> Iterator[str]:
        if any(leg.account_id not in self.accounts for leg in legs):
            yield "account_unknown"
            return
        pairs = [(leg, self.accounts[leg.account_id]) for leg in legs]
        if any(not self._may_post(t.partner_id, a.owner, leg.side) for leg, a in pairs):
            yield "account_not_owned"
        if any(a.closed for _, a in pairs):
            yield "account_closed"
        if any(a.currency != leg.currency for leg, a in pairs):
            yield "account_currency"
        if any(a.no_debits and leg.side == "debit" for leg, a in pairs):
            yield "debits_blocked"
        if any(a.no_credits and leg.side == "credit" for leg, a in pairs):
            yield "credits_blocked"
        if not t.postings and t.accounts["payer"] == t.accounts["payee"]:
            yield "same_account"
        after = {leg.account_id: replace(a) for leg, a in pairs}
        for leg, _ in pairs:
            if leg.side == "debit":
                after[leg.account_id].debits += leg.amount
            else:
                after[leg.account_id].credits += leg.amount
        against = {leg.account_id for leg, a in pairs if (leg.side == "credit") == (a.type in ("asset", "expense"))}
        for name in against:
            limit = after[name].limit
            if limit is not None and after[name].available() < limit:
                yield "insufficient_funds"
        if any(a.debits > COUNTER_MAX or a.credits > COUNTER_MAX for a in after.values()):
            yield "counter_overflow"

    def _may_post(self, partner: str, owner: str, side: str) -> bool:
        if owner == "bank" or owner == partner:
            return True
        if side == "debit":
            return owner.split("/")[: len(partner.split("/"))] == partner.split("/")
        return owner.split("/")[0] == partner.split("/")[0]

    def _against_partner_command(self, c: Any) -> Iterator[str]:
        if c.partner_id != "bank":
            yield "not_permitted"
        subject = c.subject_id
        if isinstance(c, SetPartnerState):
            if c.state not in ("live", "suspended"):
                yield "state_unknown"
            if subject not in self.partners:
                yield "partner_unknown"
            return
        if not re.fullmatch(rf"{NAME}(/{NAME}){{0,7}}", subject) or subject.split("/")[0] == "bank":
            yield "field_invalid"
        if subject in self.partners:
            yield "partner_exists"
        if "/" in subject and subject[: subject.rindex("/")] not in self.partners:
            yield "parent_unknown"

    def _against_account_command(self, c: Any) -> Iterator[str]:
        yield from self._not_live(c.partner_id)
        owner, colon, local = c.account_id.partition(":")
        mine = c.partner_id == "bank" or owner == c.partner_id or owner.startswith(c.partner_id + "/")
        if not mine or (isinstance(c, SetAccountLimit) and c.partner_id != "bank"):
            yield "not_permitted"
        if isinstance(c, OpenAccount):
            if c.partner_id != "bank" and not (c.min_available is not None and c.min_available >= 0):
                yield "not_permitted"
            if not re.fullmatch(rf"{NAME}(/{NAME}){{0,7}}:[A-Za-z0-9][A-Za-z0-9._:-]{{0,127}}", owner + colon + local):
                yield "field_invalid"
            if c.type not in ("asset", "liability", "equity", "income", "expense"):
                yield "field_invalid"
            if c.currency not in CURRENCIES:
                yield "currency_unknown"
            if c.min_available is not None and abs(c.min_available) > LONG_MAX:
                yield "amount_too_large"
            yield from self._not_live(owner)
            if c.account_id in self.accounts:
                yield "account_exists"
            return
        if isinstance(c, SetAccountLimit) and c.min_available is not None and abs(c.min_available) > LONG_MAX:
            yield "amount_too_large"
        a = self.accounts.get(c.account_id)
        if a is None:
            yield "account_unknown"
            return
        if a.closed:
            yield "account_closed"
        if isinstance(c, BlockAccount):
            lifts = (a.no_debits and not c.block_debits) or (a.no_credits and not c.block_credits)
            if lifts and c.partner_id != "bank":
                yield "not_permitted"
        if isinstance(c, CloseAccount) and a.debits != a.credits:
            yield "account_not_empty"

    def _apply(self, c: Any) -> None:
        match c:
            case Transaction():
                for leg in self._legs(c):
                    a = self.accounts[leg.account_id]
                    if leg.side == "debit":
                        a.debits += leg.amount
                    else:
                        a.credits += leg.amount
            case OpenAccount():
                owner = c.account_id.partition(":")[0]
                self.accounts[c.account_id] = Known(owner, c.type, c.currency, c.min_available)
            case BlockAccount():
                self.accounts[c.account_id].no_debits = c.block_debits
                self.accounts[c.account_id].no_credits = c.block_credits
            case SetAccountLimit():
                self.accounts[c.account_id].limit = c.min_available
            case CloseAccount():
                self.accounts[c.account_id].closed = True
            case AdmitPartner():
                self.partners[c.subject_id] = "live"
            case SetPartnerState():
                self.partners[c.subject_id] = c.state
