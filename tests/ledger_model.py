"""The ledger's rules said a second time, as plainly as they can be said: dicts, copies, and one question after another.

Written from docs/operations.md; it shares no code with the ledger. Where the Book is quick, this is slow; where both
agree on every outcome, reason, posting, release and balance over many thousands of commands, either both are right or
both are wrong in the same way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
LAPSE_MAX = 500
WITH_ORIGINAL = ("capture", "void", "refund", "reversal")
OPERATIONS = ("transfer", "hold", *WITH_ORIGINAL, "adjustment")


class Known(NamedTuple):
    """One account of the model. `d`, `c`: debits and credits posted; `dp`, `cp`: pending."""

    owner: str
    type: str
    currency: str
    limit: int | None
    d: int = 0
    c: int = 0
    dp: int = 0
    cp: int = 0
    no_debits: bool = False
    no_credits: bool = False
    closed: bool = False

    def debit_normal(self) -> bool:
        return self.type in ("asset", "expense")

    def available(self) -> int:
        return self.d - self.c - self.cp if self.debit_normal() else self.c - self.d - self.dp

    def counters(self) -> tuple[int, int, int, int]:
        """In the order of the records: debits pending, posted, credits pending, posted."""
        return self.dp, self.d, self.cp, self.c

    def post(self, side: str, amount: int) -> Known:
        return self._replace(d=self.d + amount) if side == "debit" else self._replace(c=self.c + amount)

    def set_aside(self, side: str, change: int) -> Known:
        return self._replace(dp=self.dp + change) if side == "debit" else self._replace(cp=self.cp + change)


class Hold(NamedTuple):
    """Money set aside. `state`: open, closed or expired; `changed`: offset of the last command that changed it."""

    offset: int
    payer: str
    payee: str
    currency: str
    amount: int
    left: int
    expires_at: int
    changed: int
    state: str = "open"


class Entry(NamedTuple):
    """A settled transfer or capture, and how much of it was given back. Each leg says its currency."""

    offset: int
    legs: tuple[Posting, ...]
    given_back: int = 0


class Other(NamedTuple):
    """A settled transaction that can be nobody's original."""

    offset: int


class Answer(NamedTuple):
    """What a command comes to. `postings`: account, side, amount, currency and the four counters after it; `pending`:
    key of the hold (partner, key), account, side, change, currency, expired and the four counters after it."""

    outcome: str
    reason: str = ""
    first_offset: int = -1
    postings: tuple[tuple[Any, ...], ...] = ()
    pending: tuple[tuple[Any, ...], ...] = ()
    original_offset: int = -1


Key = tuple[str, str]


@dataclass
class Model:
    """What there is, what was answered under each key, and what is remembered of what settled."""

    partners: dict[str, str] = field(default_factory=dict)
    accounts: dict[str, Known] = field(default_factory=dict)
    answered: dict[Key, tuple[Any, int]] = field(default_factory=dict)
    holds: dict[Key, Hold] = field(default_factory=dict)
    others: dict[Key, Entry | Other] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    now: int = 0

    def copy(self) -> Model:
        """A model that goes its own way from here."""
        return Model(
            dict(self.partners), dict(self.accounts), dict(self.answered), dict(self.holds), dict(self.others),
            Counter(self.counts), self.now,
        )  # fmt: skip

    def open_holds(self) -> dict[Key, Hold]:
        return {k: h for k, h in self.holds.items() if h.state == "open"}

    def find(self, key: Key) -> Hold | Entry | Other | None:
        """What is remembered of the transaction that settled under this key."""
        return self.holds.get(key) or self.others.get(key)

    def settle(self, command: Any, offset: int, booked_at: int) -> Answer:
        """What becomes of a command that was appended at `offset` and `booked_at`."""
        self.now = max(self.now, booked_at)
        lapsed = self._lapse(offset)
        key = (command.partner_id, command.idempotency_key)
        if key in self.answered:
            before, first = self.answered[key]
            if before == command:
                answer = Answer("repeated", "", first)
            else:
                answer = Answer("rejected", "idempotency_conflict", first)
        else:
            self.answered[key] = (command, offset)
            reason = next(self._refusals(command), "")
            if reason:
                answer = Answer("rejected", reason)
            elif isinstance(command, Transaction):
                answer = self._settle(command, offset)
            else:
                self._apply(command)
                answer = Answer("applied")
        self.counts[answer.outcome] += 1
        return answer._replace(pending=(*lapsed, *answer.pending))

    # Lapsing.

    def _lapse(self, offset: int) -> list[tuple[Any, ...]]:
        """Releases the holds whose time is over, the earliest first."""
        due = [(h.expires_at, h.offset, k, h) for k, h in self.open_holds().items() if 0 < h.expires_at <= self.now]
        out = []
        for _, _, key, hold in sorted(due)[:LAPSE_MAX]:
            out += self._change_pending(key, hold, -hold.left, expired=True)
            self.holds[key] = hold._replace(left=0, state="expired", changed=offset)
        return out

    def _change_pending(self, key: Key, hold: Hold, change: int, *, expired: bool = False) -> list[tuple[Any, ...]]:
        """Adds to what is pending, debit side first."""
        out = []
        for name, side in ((hold.payer, "debit"), (hold.payee, "credit")):
            a = self.accounts[name] = self.accounts[name].set_aside(side, change)
            out.append((key, name, side, change, hold.currency, expired, *a.counters()))
        return out

    # Refusals.

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

    def _against_transaction(self, t: Transaction) -> Iterator[str]:
        yield from self._not_live(t.partner_id)
        if t.operation not in OPERATIONS:
            yield "operation_unknown"
        if self._wrong_fields(t):
            yield "field_invalid"
        if t.operation in WITH_ORIGINAL:
            if t.currency not in CURRENCIES:
                yield "currency_unknown"
            if t.operation in ("capture", "refund") and t.amount < 1:
                yield "amount_not_positive"
            if t.operation in ("capture", "refund") and t.amount > LONG_MAX:
                yield "amount_too_large"
            yield from self._against_original(t)
        else:
            yield from self._against_legs(self._legs(t))
            if t.operation == "adjustment" and t.partner_id != "bank":
                yield "not_permitted"
        yield from self._against_accounts(t, self._legs(t))

    def _wrong_fields(self, t: Transaction) -> list[str]:
        """The names of fields that are not as the page says."""
        op = t.operation
        wrong = []
        if t.value_date < 0 or t.value_date > 120_529:
            wrong.append("value_date")
        if len(t.reference) > 1024:
            wrong.append("reference")
        if len(t.metadata) > 64:
            wrong.append("metadata")
        if (t.original != "") != (op in WITH_ORIGINAL):
            wrong.append("original")
        if t.final and op != "capture":
            wrong.append("final")
        if t.expires_at != 0 and (op != "hold" or t.expires_at <= self.now):
            wrong.append("expires_at")
        if op == "adjustment":
            if not 1 <= len(t.note) <= 1024:
                wrong.append("note")
        elif t.note != "":
            wrong.append("note")
        if op in WITH_ORIGINAL:
            if t.accounts:
                wrong.append("accounts")
            if t.postings:
                wrong.append("postings")
            if op in ("void", "reversal") and t.amount != 0:
                wrong.append("amount")
        elif op == "hold":
            if t.postings:
                wrong.append("postings")
            if sorted(t.accounts) != ["payee", "payer"]:
                wrong.append("accounts")
        elif op == "adjustment" or t.postings:
            if t.amount != 0:
                wrong.append("amount")
            if t.accounts:
                wrong.append("accounts")
            if any(p.side not in ("debit", "credit") for p in t.postings):
                wrong.append("side")
        elif sorted(t.accounts) != ["payee", "payer"]:
            wrong.append("accounts")
        return wrong

    def _against_original(self, t: Transaction) -> Iterator[str]:
        found = self.find((t.partner_id, t.original))
        if found is None:
            yield "original_unknown"
            return
        if t.operation in ("capture", "void"):
            if not isinstance(found, Hold) or found.currency != t.currency:
                yield "original_mismatch"
                return
            if found.state == "expired":
                yield "hold_expired"
            if found.state == "closed":
                yield "hold_closed"
            if t.operation == "capture" and t.amount > found.left:
                yield "capture_exceeds_hold"
            return
        if not isinstance(found, Entry) or found.legs[0].currency != t.currency:
            yield "original_mismatch"
            return
        if t.operation == "refund":
            if len(found.legs) != 2:
                yield "original_mismatch"
            if t.amount > found.legs[0].amount - found.given_back:
                yield "refund_exceeds_payment"
        elif found.given_back > 0:
            yield "refund_exceeds_payment"

    def _legs(self, t: Transaction) -> list[Posting]:
        """What will be posted; for a hold, what would be if it were a transfer."""
        if t.operation in ("transfer", "hold", "adjustment"):
            if not t.accounts:
                return [Posting(p.account_id, p.side, p.amount, p.currency or t.currency) for p in t.postings]
            return [
                Posting(t.accounts["payer"], "debit", t.amount, t.currency),
                Posting(t.accounts["payee"], "credit", t.amount, t.currency),
            ]
        found = self.find((t.partner_id, t.original))
        if isinstance(found, Hold):
            if t.operation == "void":
                return []
            return [
                Posting(found.payer, "debit", t.amount, found.currency),
                Posting(found.payee, "credit", t.amount, found.currency),
            ]
        assert isinstance(found, Entry)
        if t.operation == "refund":
            paid = {leg.side: leg for leg in found.legs}
            return [
                Posting(paid["credit"].account_id, "debit", t.amount, t.currency),
                Posting(paid["debit"].account_id, "credit", t.amount, t.currency),
            ]
        swapped = {"debit": "credit", "credit": "debit"}
        return [Posting(leg.account_id, swapped[leg.side], leg.amount, leg.currency) for leg in found.legs]

    def _against_legs(self, legs: list[Posting]) -> Iterator[str]:
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

    def _sum(self, legs: list[Posting], side: str, currency: str) -> int:
        return sum(leg.amount for leg in legs if leg.side == side and leg.currency == currency)

    def _released(self, t: Transaction) -> int:
        """How much of a hold a capture or a void gives up, captured or not."""
        found = self.holds[t.partner_id, t.original]
        return found.left if t.operation == "void" or t.final else t.amount

    def _against_accounts(self, t: Transaction, legs: list[Posting]) -> Iterator[str]:
        if any(leg.account_id not in self.accounts for leg in legs):
            yield "account_unknown"
            return
        pairs = [(leg, self.accounts[leg.account_id]) for leg in legs]
        free = t.operation == "adjustment"  # any account, blocked or not
        if not free and any(not self._may_post(t.partner_id, a.owner, leg.side) for leg, a in pairs):
            yield "account_not_owned"
        if any(a.closed for _, a in pairs):
            yield "account_closed"
        if any(a.currency != leg.currency for leg, a in pairs):
            yield "account_currency"
        if not free and any(a.no_debits and leg.side == "debit" for leg, a in pairs):
            yield "debits_blocked"
        if not free and any(a.no_credits and leg.side == "credit" for leg, a in pairs):
            yield "credits_blocked"
        if t.accounts and t.accounts["payer"] == t.accounts["payee"]:
            yield "same_account"
        after = {leg.account_id: a for leg, a in pairs}
        for leg, _ in pairs:
            a = after[leg.account_id]
            if t.operation == "hold":
                a = a.set_aside(leg.side, leg.amount)
            elif t.operation == "capture":
                a = a.set_aside(leg.side, -self._released(t)).post(leg.side, leg.amount)
            else:
                a = a.post(leg.side, leg.amount)
            after[leg.account_id] = a
        against = {leg.account_id for leg, a in pairs if (leg.side == "credit") == a.debit_normal()}
        for name in against:
            limit = after[name].limit
            if limit is not None and after[name].available() < limit:
                yield "insufficient_funds"
        if t.operation == "hold":  # and once captured it must fit as well
            after |= {f"captured {leg.account_id}": a.post(leg.side, leg.amount) for leg, a in pairs}
        if any(counter > COUNTER_MAX for a in after.values() for counter in a.counters()):
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
        if isinstance(c, CloseAccount) and (a.d != a.c or a.dp != 0 or a.cp != 0):
            yield "account_not_empty"

    # What settles.

    def _settle(self, t: Transaction, offset: int) -> Answer:
        """Changes the balances and remembers what was settled. Nothing stands against it any more."""
        key, legs = (t.partner_id, t.idempotency_key), self._legs(t)
        original_key = (t.partner_id, t.original)
        original = self.find(original_key) if t.original else None
        pending: list[tuple[Any, ...]] = []
        if t.operation == "hold":
            hold = Hold(
                offset, t.accounts["payer"], t.accounts["payee"], t.currency, t.amount, t.amount, t.expires_at, offset
            )
            self.holds[key] = hold
            return Answer("settled", pending=tuple(self._change_pending(key, hold, t.amount)))
        if isinstance(original, Hold):
            released = self._released(t)
            pending = self._change_pending(original_key, original, -released)
            left = original.left - released
            self.holds[original_key] = original._replace(left=left, changed=offset, state="open" if left else "closed")
        elif isinstance(original, Entry):
            given = t.amount if t.operation == "refund" else original.legs[0].amount
            self.others[original_key] = original._replace(given_back=original.given_back + given)
        postings = []
        for leg in legs:
            a = self.accounts[leg.account_id] = self.accounts[leg.account_id].post(leg.side, leg.amount)
            postings.append((leg.account_id, leg.side, leg.amount, leg.currency, *a.counters()))
        if t.operation in ("transfer", "capture"):
            self.others[key] = Entry(offset, tuple(legs))
        else:
            self.others[key] = Other(offset)
        return Answer("settled", "", -1, tuple(postings), tuple(pending), original.offset if original else -1)

    def _apply(self, c: Any) -> None:
        match c:
            case OpenAccount():
                owner = c.account_id.partition(":")[0]
                self.accounts[c.account_id] = Known(owner, c.type, c.currency, c.min_available)
            case BlockAccount():
                self.accounts[c.account_id] = self.accounts[c.account_id]._replace(
                    no_debits=c.block_debits, no_credits=c.block_credits
                )
            case SetAccountLimit():
                self.accounts[c.account_id] = self.accounts[c.account_id]._replace(limit=c.min_available)
            case CloseAccount():
                self.accounts[c.account_id] = self.accounts[c.account_id]._replace(closed=True)
            case AdmitPartner():
                self.partners[c.subject_id] = "live"
            case SetPartnerState():
                self.partners[c.subject_id] = c.state
