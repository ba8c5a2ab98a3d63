"""A product's operation worked out for one transaction: amounts, fees and splits as legs that balance.

The page is docs/products.md. Everything is whole minor units: what cannot be divided goes where the page says, and the
legs of every step always sum to what was taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from ledger import operations, originals
from ledger.accounts import Account
from ledger.entries import ENTRY, OTHER
from ledger.exchange import exchange
from ledger.fields import check_amount, check_currency, check_fields, check_pointer, invalid
from ledger.money import AMOUNT_MAX
from ledger.partners import IS_REPAID
from ledger.parts import Given, equal_parts, shares, value_of
from ledger.plans import Moment, Plan
from ledger.products import Offer, Operation, Step
from ledger.reasons import Reason, Rejection, first
from ledger.roles import Place, Places, check_roles, numbers_of, openings_of, places_of
from ledger.rules import ANY_OR_BANK, CALLER, CALLER_OR_BANK, TRANSIT, Legs, check_totals, not_owned, owned, unknown
from ledger.state import Draft
from schemas.identity import BANK, owner_of, root_of
from schemas.records import Transaction

LEGS_MAX = 1_000
_POINTING = frozenset({"capture", "void", "refund", "reversal"})


def plan(draft: Draft, t: Transaction, offer: Offer, at: Moment) -> Plan:
    """What a product's operation does. Raises Rejection with the first reason that stands against it."""
    against = _against(t, offer)
    if against is None:
        if offer.operation.plain:
            legs = operations.quick_transfer(draft.accounts, t)
            if legs is not None:
                return Plan(ENTRY, legs, counts=True)
        return _plan(draft, t, offer, at)
    # The reasons' order decides: what is wrong with the fields comes before it, what is wrong with accounts after.
    try:
        _plan(draft, t, offer, at)
    except Rejection as r:
        against = first(against, r) or against
    raise against


def _against(t: Transaction, offer: Offer) -> Rejection | None:
    """What the product itself has against this caller or currency."""
    found = None
    caller = "bank" if t.partner_id == BANK else "partner"
    if caller not in offer.callers:
        found = Rejection(
            Reason.NOT_PERMITTED, field="operation", rule=f"only for {' and '.join(sorted(offer.callers))}",
            partner=t.partner_id,
        )  # fmt: skip
    return (None if offer.kind in _POINTING else _not_listed(t, offer)) or found


def _not_listed(t: Transaction, offer: Offer) -> Rejection | None:
    currencies = offer.product.currencies
    if not currencies or t.currency in currencies:
        return None
    listed = ",".join(sorted(currencies))
    return Rejection(Reason.PRODUCT_CURRENCY, field="currency", currency=t.currency[:16], allowed=listed[:256])


def _plan(draft: Draft, t: Transaction, offer: Offer, at: Moment) -> Plan:
    kind = offer.kind
    if kind == "transfer":
        return _steps(draft, t, offer, at)
    if kind == "entry":
        check_fields(t, frozenset())
        debit = CALLER_OR_BANK if t.partner_id == BANK else CALLER
        return operations.entry(draft, t, at, {"debit": debit, "credit": ANY_OR_BANK})
    if kind in ("hold", "exchange"):
        return _built_in(draft, t, offer.operation, at)
    if kind == "refund":
        return _refund(draft, t, offer.operation, at)
    return operations.OPERATIONS[kind](draft, t, at)


def _built_in(draft: Draft, t: Transaction, op: Operation, at: Moment) -> Plan:
    """A hold or an exchange with the product's roles."""
    wrong = check_roles(t, op)
    if wrong is not None:
        try:
            operations.OPERATIONS[op.kind](draft, t, at)
        except Rejection as r:
            if r.reason == Reason.FIELD_INVALID:
                raise
        raise wrong
    currencies = {} if op.kind == "hold" else _bought_in(draft, t, op)
    places = {role.name: places_of(t, role, currencies.get(role.name, "")) for role in op.roles}
    openings = openings_of(draft, t, op, at, places, currencies)
    named = {p.label: p.account_id for found in places.values() for p in found}
    owners = {role.name: role.owner for role in op.roles}
    resolved = msgspec.structs.replace(t, accounts=named)
    function = operations.hold if op.kind == "hold" else exchange
    plan = function(draft, resolved, at._replace(openings=openings), owners)
    named_by = [plan.opens.payer, plan.opens.payee] if plan.opens else [a.account_id for a, _, _ in plan.legs]
    plan.opened = [openings[name] for name in dict.fromkeys(named_by) if name in openings]
    return plan


def _bought_in(draft: Draft, t: Transaction, op: Operation) -> dict[str, str]:
    """The currency of what an exchange buys, by the roles in it: the payee's, as far as there is a payee."""
    (place,) = next(places_of(t, role) for role in op.roles if role.name == "payee")
    payee = draft.accounts.find(place.account_id)
    return {} if payee is None else {"bought": payee.currency, "payee": payee.currency}


class Worked(NamedTuple):
    """One leg worked out. `amount` may be 0: then it is left out, and only asked for when its balance was taken."""

    place: Place
    side: str
    amount: int
    owner: str
    balance: bool = False


class _Worker:
    """Works the steps of one transaction out."""

    def __init__(self, draft: Draft, t: Transaction, given: Given, places: Places) -> None:
        self.draft = draft
        self.t = t
        self.places = places
        self.given = given
        self.legs: list[Worked] = []
        self.exceeds: Rejection | None = None
        self.same: str = ""

    def step(self, step: Step) -> None:
        """One step: what is taken, and who gets it."""
        sources, places = self.places[step.source.name], self.places
        ids = {p.account_id for p in sources}
        self.same = self.same or next(
            (p.account_id for target in step.targets for p in places[target.role.name] if p.account_id in ids), ""
        )
        if step.amount.kind == "to_zero":
            self._to_zero(sources, step)
            return
        if step.amount.kind == "balance":
            taken = [max(0, self._available(p, step.source.owner)) for p in sources]
        else:
            taken = [value_of(step.amount, self.given, 0)]
        total, balance = sum(taken), step.amount.kind == "balance"
        for place, amount in zip(sources, taken, strict=True):
            self.legs.append(Worked(place, "debit", amount, step.source.owner, balance))
        self._give(step, total)

    def _give(self, step: Step, total: int) -> None:
        """Splits what was taken over the targets; what remains goes to the one that takes it."""
        left = total
        amounts: list[list[int]] = []
        for target in step.targets:
            places, a = self.places[target.role.name], target.amount
            if a.kind in ("remaining", "equal"):
                amounts.append([])
                continue
            if a.kind == "named":
                found = [self.given.names[p.label] for p in places]
            elif a.kind == "balance":
                found = [min(max(0, left), self._owed(places[0], target.role.owner))]
            else:
                found = [value_of(a, self.given, total)]
            left -= sum(found)
            amounts.append(found)
        if left < 0:
            self.exceeds = self.exceeds or Rejection(
                Reason.SPLIT_EXCEEDS_AMOUNT, field="amount", amount=total, parts=total - left
            )
        rest = max(0, left)
        for target, found in zip(step.targets, amounts, strict=True):
            places = self.places[target.role.name]
            parts = found or equal_parts(rest, len(places))
            for place, amount in zip(places, parts, strict=True):
                self.legs.append(Worked(place, "credit", amount, target.role.owner, target.amount.kind == "balance"))

    def _to_zero(self, sources: list[Place], step: Step) -> None:
        (target,) = self.places[step.targets[0].role.name]
        owner = step.targets[0].role.owner
        for place in sources:
            amount = self._available(place, step.source.owner)
            out = Worked(place, "debit", amount, step.source.owner, True), Worked(target, "credit", amount, owner)
            back = Worked(target, "debit", -amount, owner), Worked(place, "credit", -amount, step.source.owner, True)
            self.legs += out if amount >= 0 else back

    def _account(self, place: Place, owner: str) -> Account | None:
        """The account whose balance is taken; None when it is not there, or not the role's."""
        if not owned(owner, self.t.partner_id, owner_of(place.account_id)):
            return None
        return self.draft.accounts.find(place.account_id)

    def _available(self, place: Place, owner: str) -> int:
        """What a debit could take: negative when the account owes, or when money is kept on its other side."""
        a = self._account(place, owner)
        return 0 if a is None else -a.available() if a.debit_normal else a.available()

    def _owed(self, place: Place, owner: str) -> int:
        """What is owed on a debit-normal account."""
        a = self._account(place, owner)
        return max(0, a.available()) if a is not None and a.debit_normal else 0


def _steps(draft: Draft, t: Transaction, offer: Offer, at: Moment) -> Plan:
    op = offer.operation
    given = _check_given(t, op)
    not_listed = _not_listed(t, offer)
    if not_listed is not None:
        raise not_listed  # its prices are not known in any other currency
    places = {role.name: places_of(t, role) for role in op.roles}
    openings = openings_of(draft, t, op, at, places)
    worker = _Worker(draft, t, given, places)
    for step in op.steps:
        worker.step(step)
    legs = Legs(draft, t.partner_id, at._replace(openings=openings) if openings else at)
    for leg in worker.legs:
        if leg.amount:
            legs.add(leg.place.field, leg.place.account_id, leg.side, leg.amount, t.currency, leg.owner)
        elif leg.balance:
            legs.refuse(_not_there(draft, t, leg, openings))
    legs.done()
    _check_worked(worker, len(legs.legs) + len(legs.away))
    operations.check_moved(draft, legs, at)
    used = {a.account_id: a for a, _, _ in legs.legs}
    opened = [a for name, a in used.items() if name in openings]
    return Plan(ENTRY, legs.legs, opened=opened, away=legs.away, counts=True)


def _check_given(t: Transaction, op: Operation) -> Given:
    """The fields of a transaction with steps, before any account is looked at."""
    wanted = {*op.names, *(f"{r}.{n}" for r in op.parts for n in numbers_of(r, t.accounts))}
    check_fields(t, frozenset({"amounts"}) if op.names or op.parts else frozenset())
    if t.postings:
        invalid("postings", f"{op.name} names accounts, not postings")
    if t.amount and not op.uses_amount:
        invalid("amount", f"not used by {op.name}; leave it out")
    names = [n.name for n in t.amounts]
    if names != sorted(wanted):
        invalid("amounts", f"exactly {','.join(sorted(wanted))[:256]}, sorted by name")
    for step in op.steps:
        if step.source.many:
            taken = [t.accounts[f"{step.source.name}.{n}"] for n in numbers_of(step.source.name, t.accounts)]
            if len(set(taken)) != len(taken):
                invalid("accounts", f"{step.source.name} names an account twice: its balance is there once")
    wrong = check_roles(t, op)
    if wrong is not None:
        raise wrong
    check_currency(t)
    if op.uses_amount:
        check_amount("amount", t.amount)
    for n in t.amounts:
        check_amount(f"amounts.{n.name}", n.amount)
    return Given(t.amount, {n.name: n.amount for n in t.amounts}, t.currency)


def _not_there(draft: Draft, t: Transaction, leg: Worked, openings: Mapping[str, Account]) -> Rejection | None:
    """What stands against an account that was looked at, though nothing is to be posted to it."""
    field, _, account_id = leg.place
    owner = owner_of(account_id)
    may = owned(leg.owner, t.partner_id, owner)
    if account_id.startswith(TRANSIT) or (not may and root_of(owner) not in (root_of(t.partner_id), BANK)):
        return not_owned(field, account_id, t.partner_id)
    if draft.accounts.find(account_id) is None and account_id not in openings:
        return unknown(field, account_id)
    return None if may else not_owned(field, account_id, t.partner_id)


def _check_worked(worker: _Worker, count: int) -> None:
    """What stands against the legs as such, once each of them may be posted."""
    if worker.same:
        raise Rejection(Reason.SAME_ACCOUNT, field="accounts", account=worker.same)
    if worker.exceeds is not None:
        raise worker.exceeds
    if not count:
        raise Rejection(Reason.NOTHING_TO_MOVE, field="accounts", rule="what the operation moves is zero")
    if any(leg.amount > AMOUNT_MAX for leg in worker.legs):
        raise Rejection(Reason.AMOUNT_TOO_LARGE, field="amount", limit=AMOUNT_MAX).once_accounts_are_known()
    if count > LEGS_MAX:
        too_many = Rejection(Reason.POSTINGS_COUNT, field="accounts", count=count, limit=f"2 to {LEGS_MAX}")
        raise too_many.once_accounts_are_known()


def _refund(draft: Draft, t: Transaction, op: Operation, at: Moment) -> Plan:
    """Gives back a part of a payment with one payer: from its payee alone, or with what fees and others got of it."""
    check_pointer(t, frozenset({"original"}), with_amount=True)
    offset, moved = originals.entry_of(draft, t)
    debits = [i for i, amount in enumerate(moved.amounts) if amount > 0]
    if len(debits) != 1:
        originals.mismatch(t, "a payment with one payer; undo this one as a whole by a reversal")
    originals.check_original(draft, t, moved)
    payer, paid = moved.accounts[debits[0]], moved.amounts[debits[0]]
    gives_back = originals.check_refund(draft, t, offset, paid)
    credits = originals.credits_of(moved)
    payee = credits[0][0]
    signed = shares(credits, gives_back - t.amount, t.amount) if op.returns_fees else [(payee, t.amount)]
    legs = originals.of_original(draft, t, at, [*signed, (payer, -t.amount)], IS_REPAID, payee)
    check_totals(legs)
    return Plan(OTHER, legs, original=offset, gives_back=gives_back)
