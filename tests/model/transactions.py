"""What stands against a transaction, in the order of docs/REASONS.md, and the legs that it would post."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from schemas.identity import partition_of
from schemas.records import Transaction
from tests.model import calendars, freezes, limits, originals, partners, templates
from tests.model.values import (
    COUNTER_MAX,
    DAY_MAX,
    EXPONENTS,
    LOCAL,
    LONG_MAX,
    NEW_BUSINESS,
    OPERATIONS,
    PARTNER,
    TRANSIT,
    WITH_ORIGINAL,
    Against,
    Hold,
    Known,
    Leg,
    Product,
    against,
    is_below,
    owner,
    root,
)

if TYPE_CHECKING:
    from tests.model.state import State

ROLES = {"transfer": ["payer", "payee"], "hold": ["payer", "payee"], "exchange": ["payer", "payee", "sold", "bought"]}


class Case(NamedTuple):
    """A transaction with what it asks for. `product`, `operation`: None for the built-in operations."""

    t: Transaction
    kind: str
    product: Product | None = None
    operation: dict[str, Any] | None = None

    def free_postings(self) -> bool:
        """Whether it moves money by postings of its own, without roles."""
        if self.kind == "transfer":
            return self.operation is None and bool(self.t.postings)
        return self.kind in ("entry", "adjustment")

    def document(self) -> dict[str, Any]:
        assert self.product is not None
        return self.product.document

    def by_steps(self) -> bool:
        return self.kind == "transfer" and self.operation is not None

    def wanted(self) -> list[tuple[str, bool]]:
        """The roles that `accounts` must name, and whether each is of many accounts."""
        if self.operation is not None:
            return templates.wanted_roles(self.document(), self.operation)
        return [(name, False) for name in ROLES[self.kind]]

    def uses_amount(self) -> bool:
        """Whether `amount` must be above zero; 0 it must be otherwise."""
        if self.operation is not None and self.by_steps():
            return "amount" in templates.names_used(self.operation)
        return not self.free_postings() and self.kind not in ("void", "reversal")


def version_for(m: State, t: Transaction) -> Product | None:
    """The highest version whose first value date is not after the one that is asked for, or not after today."""
    day = max(t.value_date, calendars.local_day(m.settlement_calendar(), m.now))
    fit = [p for p in m.shelf.get(t.product, ()) if p.effective_from == 0 or p.effective_from <= day]
    return max(fit, key=lambda p: p.version, default=None)


def case_of(m: State, t: Transaction) -> Case | Against:
    """What is asked for; or why that does not exist."""
    if not m.shelf or t.operation == "adjustment":
        return Case(t, t.operation) if t.operation in OPERATIONS else against("operation_unknown")
    product = version_for(m, t)
    if product is None:
        return against("product_unknown")
    operation = product.document["operations"].get(t.operation)
    return against("operation_unknown") if operation is None else Case(t, operation["kind"], product, operation)


def stands_against(m: State, t: Transaction) -> Iterator[Against]:
    """Every reason against it, first the one that is given. Later ones may be nonsense."""
    if t.partner_id != "bank" and t.partner_id not in m.partners:
        yield against("partner_unknown", partner=t.partner_id[:256])
        return
    case = case_of(m, t)
    if not isinstance(case, Case):
        yield case
        return
    yield from partners.stands_against(m.partners, t.partner_id, case.kind)
    yield from freezes.against_transaction(m, t, case.kind)
    yield from _fields(m, case)
    yield from _money(case)
    callers = (case.operation or {}).get("callers", ["partner"])
    if case.operation is None:
        callers = ["bank"] if case.kind == "adjustment" else ["bank", "partner"]
    if ("bank" if t.partner_id == "bank" else "partner") not in callers:
        yield against("not_permitted")
    if case.kind in WITH_ORIGINAL:
        found = m.find((t.partner_id, t.original))
        yield from originals.stands_against(t, case.kind, found, product=case.operation is not None)
    legs, problems = legs_of(m, case)
    yield from _accounts(m, case, legs)
    yield from problems
    legs = [leg for leg in legs if leg.amount > 0]
    yield from _transit(m, case, legs)
    yield from _funds(m, case, legs)
    if case.kind in NEW_BUSINESS:
        document = case.document() if case.product else None
        everybody = limits.asked(m.limits, t, legs, document)
        yield from limits.stands_against(m.usage, m.calendars, everybody, m.now, t)


# Fields.


def _fields(m: State, case: Case) -> Iterator[Against]:
    t = case.t
    wrong = _wrong_fields(m, case)
    if wrong:
        yield against("field_invalid")
    if case.kind in WITH_ORIGINAL or case.free_postings():
        return
    allowed: set[str] = set()
    missing: set[str] = set()
    for name, many in case.wanted():
        given = templates.numbers(t, name) if many else [name] if name in t.accounts else []
        allowed |= set(given)
        if not given:
            missing.add(name)
    if set(t.accounts) - allowed:
        yield against("role_unknown")
    if missing:
        yield against("role_missing")


def _wrong_fields(m: State, case: Case) -> list[str]:
    """The names of fields that are not as the page says."""
    t, kind = case.t, case.kind
    wrong = []
    if t.value_date < 0 or t.value_date > DAY_MAX:
        wrong.append("value_date")
    if len(t.reference) > 1024:
        wrong.append("reference")
    if len(t.metadata) > 64:
        wrong.append("metadata")
    if (t.original != "") != (kind in WITH_ORIGINAL):
        wrong.append("original")
    if t.final and kind != "capture":
        wrong.append("final")
    if t.expires_at != 0 and (kind != "hold" or t.expires_at <= m.now):
        wrong.append("expires_at")
    if not 1 <= len(t.note) <= 1024 if kind == "adjustment" else t.note != "":
        wrong.append("note")
    if t.rate != "" and kind != "exchange":
        wrong.append("rate")
    names = [a.name for a in t.amounts]
    expected: set[str] = set()
    if case.operation is not None and case.by_steps():
        expected = templates.amounts_wanted(t, case.operation)
        if templates.named_twice(t, case.document(), case.operation):
            wrong.append("accounts")
    if names != sorted(expected):
        wrong.append("amounts")
    if not case.uses_amount() and t.amount != 0:
        wrong.append("amount")
    if case.free_postings():
        if t.accounts:
            wrong.append("accounts")
        if any(p.side not in ("debit", "credit") for p in t.postings):
            wrong.append("side")
    elif t.postings:
        wrong.append("postings")
    if kind in WITH_ORIGINAL and t.accounts:
        wrong.append("accounts")
    return wrong


def _money(case: Case) -> Iterator[Against]:
    """Currencies, amounts, rate and balance, before any account is looked at."""
    t = case.t
    postings = [(p.side, p.amount, p.currency or t.currency) for p in t.postings] if case.free_postings() else []
    currencies = {c for _, _, c in postings} if case.free_postings() else {t.currency}
    if any(c not in EXPONENTS for c in currencies):
        yield against("currency_unknown")
    listed = case.document().get("currencies", []) if case.product else []
    if listed and t.currency not in listed and case.kind not in WITH_ORIGINAL:
        yield against("product_currency")
    if t.exponent not in (-1, EXPONENTS.get(t.currency)):
        yield against("exponent_mismatch")
    for amounts in (
        [t.amount] if case.uses_amount() else [],
        *([a.amount] for a in t.amounts),
        [a for _, a, _ in postings],
    ):
        if any(a < 1 for a in amounts):
            yield against("amount_not_positive")
        if any(a > LONG_MAX for a in amounts):
            yield against("amount_too_large")
    if case.kind == "exchange" and not (re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", t.rate) and Fraction(t.rate) > 0):
        yield against("rate_invalid")
    if case.free_postings():
        if not 2 <= len(postings) <= 1000:
            yield against("postings_count")
        for c in currencies:
            if sum(a if side == "debit" else -a for side, a, of in postings if of == c) != 0:
                yield against("postings_unbalanced")


# Legs.


def legs_of(m: State, case: Case) -> tuple[list[Leg], list[Against]]:
    """The legs that would be posted, and what stands against them once their accounts are known."""
    t = case.t
    if case.kind in WITH_ORIGINAL:
        fees = (case.operation or {}).get("fees", "keep")
        types = {a: known.type for a, known in m.accounts.items() if owner(a) == "bank"}
        found = m.find((t.partner_id, t.original))
        return originals.legs(t, case.kind, found, fees, product=case.operation is not None, types=types), []
    if case.free_postings():
        return [Leg(p.account_id, p.side, p.amount, p.currency or t.currency) for p in t.postings], []
    if case.operation is not None and case.by_steps():
        return _steps(m, case, case.operation)
    payer, payee = _role(case, "payer", "debit"), _role(case, "payee", "credit")
    problems = []
    if payer.account == payee.account:
        problems.append(against("same_account"))
    if case.kind != "exchange":
        return [payer._replace(amount=t.amount), payee._replace(amount=t.amount)], problems
    other = account(m, case, payee)
    currency = other.currency if other is not None and other.currency != t.currency else ""
    got = bought(t, currency) if currency else 0
    if got < 1:
        problems.append(against("rate_invalid"))
    if got > LONG_MAX:
        problems.append(against("amount_too_large"))
    return [
        payer._replace(amount=t.amount),
        _role(case, "sold", "credit")._replace(amount=t.amount),
        _role(case, "bought", "debit", currency)._replace(amount=got, currency=currency),
        payee._replace(amount=got, currency=currency),
    ], problems


def bought(t: Transaction, currency: str) -> int:
    """Minor units of the payee's currency for `amount`, rounded half up."""
    exact = t.amount * Fraction(t.rate) * Fraction(10) ** (EXPONENTS[currency] - EXPONENTS[t.currency])
    return math.floor(exact + Fraction(1, 2))


def _role(case: Case, name: str, side: str, currency: str = "") -> Leg:
    if case.operation is None:
        rule = "bank" if name in ("sold", "bought") else ""
        return Leg(case.t.accounts[name], side, 0, case.t.currency, name, rule)
    return templates.legs_of_role(case.t, case.document(), name, side, currency)[0]


def _steps(m: State, case: Case, operation: dict[str, Any]) -> tuple[list[Leg], list[Against]]:
    t = case.t

    def balance(leg: Leg) -> int | None:
        """What a debit can take to leave nothing available; of a target, what is owed there."""
        if excluded(m, case, leg) or away(m, case, leg):
            return None
        known = account(m, case, leg)
        if known is None:
            return None
        if leg.side == "credit":
            return known.available() if known.debit_normal() else 0
        return -known.available() if known.debit_normal() else known.available()

    done = templates.work(t, case.document(), operation, balance)
    posted = [leg for leg in done.legs if leg.amount > 0]
    problems = []
    if templates.same_account(t, case.document(), operation):
        problems.append(against("same_account"))
    if done.exceeds:
        problems.append(against("split_exceeds_amount"))
    if not posted:
        problems.append(against("nothing_to_move"))
    if templates.too_large(posted):
        problems.append(against("amount_too_large"))
    if len(posted) > 1000:
        problems.append(against("postings_count"))
    return done.legs, problems


# Accounts.


def account(m: State, case: Case, leg: Leg) -> Known | None:
    """The account of a leg; one that would be opened on first use is there, with nothing on it."""
    known = m.accounts.get(leg.account)
    if known is not None or leg.open is None or excluded(m, case, leg):
        return known
    who = owner(leg.account)
    good = re.fullmatch(f"{PARTNER}:{LOCAL}", leg.account)
    may = who == "bank" or (who in m.partners and not partners.not_permitting(m.partners, who, "opens"))
    return leg.open if good and may else None


def excluded(m: State, case: Case, leg: Leg) -> bool:
    """Whether the asker may not use this account on this side."""
    asker, who = case.t.partner_id, owner(leg.account)
    if leg.account.startswith(TRANSIT):
        return True
    if leg.rule == "bank":
        return who != "bank"
    if leg.rule:
        inside = {"caller": is_below(who, asker), "tree": root(who) == root(asker), "any": True}[leg.rule]
        return who == "bank" or not (inside or asker == "bank")
    if asker == "bank":
        return False
    if who == "bank":
        return case.kind == "entry" and leg.side == "debit"
    if leg.side == "debit":
        return not is_below(who, asker)
    return case.kind in ("hold", "exchange") and root(who) != root(asker)


def looked_up(m: State, case: Case, leg: Leg) -> bool:
    """Whether anybody looks whether the account of this leg exists."""
    if leg.account.startswith(TRANSIT):
        return False
    return root(owner(leg.account)) in (root(case.t.partner_id), "bank") or not excluded(m, case, leg)


def away(m: State, case: Case, leg: Leg) -> bool:
    """Whether the account belongs to another partition and may be credited there."""
    who = owner(leg.account)
    return (
        leg.side == "credit" and case.kind in ("transfer", "entry") and leg.rule in ("", "any") and who != "bank"
        and partition_of(who, m.partitions) != m.partition and not excluded(m, case, leg)
    )  # fmt: skip


def _accounts(m: State, case: Case, legs: list[Leg]) -> Iterator[Against]:
    t, kind = case.t, case.kind
    local = [leg for leg in legs if not away(m, case, leg)]
    for leg in legs:
        if leg not in local and not re.fullmatch(f"{PARTNER}:{LOCAL}", leg.account):
            yield against("account_unknown")
    if any(account(m, case, leg) is None for leg in local if looked_up(m, case, leg)):
        yield against("account_unknown")
    if any(excluded(m, case, leg) for leg in local):
        yield against("account_not_owned")
    pairs = [(leg, account(m, case, leg)) for leg in local]
    if any(a is None for _, a in pairs):
        return
    known = [(leg, a) for leg, a in pairs if a is not None]
    for leg, a in known:
        what = "paid" if kind in NEW_BUSINESS else "repaid" if kind in ("refund", "reversal") else ""
        if what and leg.side == "credit" and a.owner not in (t.partner_id, "bank"):
            name = partners.not_permitting(m.partners, a.owner, what)
        elif leg.side == "debit" and a.owner != "bank":
            name = partners.withholding(m.partners, t.partner_id, a.owner, kind)
        else:
            name = ""
        if name:
            yield against("owner_state", account=leg.account, partner=name, state=m.partners[name])
    if kind not in freezes.FREE:
        yield from freezes.against_legs(m, t.partner_id, local)
    yield from _standing(known, free=kind == "adjustment")


def _standing(known: list[tuple[Leg, Known]], *, free: bool) -> Iterator[Against]:
    """What stands against the accounts themselves. `free`: an adjustment, which blocks and freezes do not stop."""
    if any(a.closed for _, a in known):
        yield against("account_closed")
    if not free and any(a.frozen for _, a in known):
        yield against("account_frozen")
    if any(a.currency != leg.currency for leg, a in known):
        yield against("account_currency")
    if not free and any(a.no_debits and leg.side == "debit" for leg, a in known):
        yield against("debits_blocked")
    if not free and any(a.no_credits and leg.side == "credit" for leg, a in known):
        yield against("credits_blocked")


def sums_away(m: State, case: Case, legs: list[Leg]) -> list[tuple[int, str, int]]:
    """What goes to other partitions: partition, currency, sum; partitions rising, currencies as they appear there."""
    out: dict[tuple[int, str], int] = {}
    for leg in legs:
        if away(m, case, leg):
            key = (partition_of(owner(leg.account), m.partitions), leg.currency)
            out[key] = out.get(key, 0) + leg.amount
    return [(p, c, amount) for (p, c), amount in sorted(out.items(), key=lambda one: one[0][0])]


def _transit(m: State, case: Case, legs: list[Leg]) -> Iterator[Against]:
    if any(amount > LONG_MAX for _, _, amount in sums_away(m, case, legs)):
        yield against("amount_too_large")


def released(m: State, case: Case) -> int:
    """How much of a hold a capture or a void gives up, captured or not."""
    found = m.find((case.t.partner_id, case.t.original))
    assert isinstance(found, Hold)
    return found.left if case.kind == "void" or case.t.final else case.t.amount


def _funds(m: State, case: Case, legs: list[Leg]) -> Iterator[Against]:
    local = [leg for leg in legs if not away(m, case, leg)]
    aside = case.kind == "hold" or len(local) < len(legs)
    release = released(m, case) if case.kind == "capture" else 0
    before = {leg.account: account(m, case, leg) for leg in local}
    yield from funds({n: a for n, a in before.items() if a is not None}, local, aside=aside, release=release)


def funds(before: dict[str, Known], legs: list[Leg], *, aside: bool, release: int = 0) -> Iterator[Against]:
    """What the accounts would be after it. `aside`: set aside, not posted; `release`: of a hold, on each leg."""
    after = dict(before)
    for leg in legs:
        a = after[leg.account]
        if aside:
            after[leg.account] = a.set_aside(leg.side, leg.amount)
        else:
            after[leg.account] = a.set_aside(leg.side, -release).post(leg.side, leg.amount)
    for leg in legs:
        a = after[leg.account]
        floor = a.floor()
        if (leg.side == "credit") == a.debit_normal() and floor is not None and a.available() < floor:
            limit = "credit_limit" if a.credit else "min_available"
            yield against("insufficient_funds", account=leg.account, limit=limit, allowed=floor)
    if aside:  # and once it is posted it must fit as well
        later = dict(before)
        for leg in legs:
            later[leg.account] = later[leg.account].post(leg.side, leg.amount)
        after |= {f"posted {name}": a for name, a in later.items()}
    if any(counter > COUNTER_MAX for a in after.values() for counter in a.counters()):
        yield against("counter_overflow")
