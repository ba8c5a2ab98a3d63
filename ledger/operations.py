"""What a transaction may ask for. Each operation checks everything and returns a plan, or raises Rejection.

The page they are written from is docs/operations.md. `owners` says whose accounts each role may take; products say it
for their own operations (docs/products.md), and without a shelf it is as it stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from ledger.accounts import Account
from ledger.crossing import check_legs
from ledger.entries import ENTRY, HOLD, OTHER
from ledger.exchange import exchange
from ledger.fields import (
    METADATA_MAX,
    TEXT_MAX,
    VALUE_DATE_MAX,
    check_amount,
    check_currency,
    check_fields,
    check_pointer,
    check_postings,
    check_roles,
    invalid,
)
from ledger.holds import Hold
from ledger.money import AMOUNT_MAX, COUNTER_MAX, EXPONENTS
from ledger.originals import check_original, check_refund, entry_of, hold_of, mismatch, of_original
from ledger.partners import IS_REPAID
from ledger.plans import Leg, Moment, Plan
from ledger.reasons import Reason, Rejection
from ledger.rules import (
    ANY_OR_BANK,
    CALLER_OR_BANK,
    TRANSIT,
    TREE_OR_BANK,
    Legs,
    check_account,
    check_totals,
    not_owned,
    unknown,
)
from ledger.state import Draft, Overlay
from schemas.identity import BANK, command_id
from schemas.records import Transaction

TRANSFER_OWNERS = {"payer": CALLER_OR_BANK, "payee": ANY_OR_BANK}
HOLD_OWNERS = {"payer": CALLER_OR_BANK, "payee": TREE_OR_BANK}
_NONE: frozenset[str] = frozenset()
_HOLD_FIELDS, _POINTER, _CAPTURE_FIELDS = (
    frozenset({"expires_at"}),
    frozenset({"original"}),
    frozenset({"original", "final"}),
)
_BY_POSTINGS = {"debit": CALLER_OR_BANK, "credit": ANY_OR_BANK}


def quick_transfer(accounts: Overlay[Account], t: Transaction) -> list[Leg] | None:
    """The legs of a plain transfer within one partner, nine of ten transactions; None when it is anything else.

    It says yes to less than `transfer` does and never to more: whatever it does not take goes through the full checks.
    """
    roles, currency, amount, partner_id = t.accounts, t.currency, t.amount, t.partner_id
    if (
        not 0 <= t.value_date <= VALUE_DATE_MAX or len(t.reference) > TEXT_MAX or len(t.metadata) > METADATA_MAX
        or t.original or t.expires_at or t.final or t.note or t.postings or t.rate or t.amounts
        or len(roles) != 2 or not 0 < amount <= AMOUNT_MAX
        or (t.exponent != -1 and t.exponent != EXPONENTS.get(currency))
    ):  # fmt: skip
        return None
    try:
        payer = accounts[roles["payer"]]
        payee = accounts[roles["payee"]]
    except KeyError:
        return None
    if (
        payer.owner != partner_id or payer.currency != currency or payer.debits_blocked or payer.closed or payer.frozen
        or payee.owner != partner_id or payee.currency != currency or payee.credits_blocked or payee.closed
        or payee.frozen or payer is payee or partner_id == BANK
    ):  # fmt: skip
        return None
    limit = payer.min_available
    if limit is not None:
        left = payer.credits_posted - payer.debits_posted - payer.debits_pending - amount
        if left < limit - payer.credit_limit and not payer.debit_normal:
            return None
    if payee.debit_normal and payee.min_available is not None:
        return None
    if payer.debits_posted + amount > COUNTER_MAX or payee.credits_posted + amount > COUNTER_MAX:
        return None
    return [(payer, "debit", amount), (payee, "credit", amount)]


def transfer(draft: Draft, t: Transaction, at: Moment) -> Plan:
    """Moves `amount` from payer to payee now, or 2 to 1,000 balanced postings, all or nothing."""
    quick = quick_transfer(draft.accounts, t)
    if quick is not None:
        return Plan(ENTRY, quick, counts=True)
    check_fields(t, _NONE)
    if t.postings:
        return entry(draft, t, at)
    legs = _by_roles(draft, t, at, TRANSFER_OWNERS)
    check_moved(draft, legs, at)
    return Plan(ENTRY, legs.legs, away=legs.away, counts=True)


def _by_roles(draft: Draft, t: Transaction, at: Moment, owners: Mapping[str, str]) -> Legs:
    """The legs from payer to payee, checked but for funds and counters."""
    check_roles(t, owners)
    check_currency(t)
    check_amount("amount", t.amount)
    legs = Legs(draft, t.partner_id, at)
    legs.add("accounts.payer", t.accounts["payer"], "debit", t.amount, t.currency, owners["payer"])
    legs.add("accounts.payee", t.accounts["payee"], "credit", t.amount, t.currency, owners["payee"])
    legs.done()
    check_same(t)
    return legs


def check_same(t: Transaction) -> None:
    """Payer and payee are two accounts."""
    if t.accounts["payer"] == t.accounts["payee"]:
        raise Rejection(Reason.SAME_ACCOUNT, field="accounts", account=t.accounts["payer"])


def entry(draft: Draft, t: Transaction, at: Moment, owners: Mapping[str, str] = _BY_POSTINGS) -> Plan:
    """Free postings that balance. `owners`: whose accounts the two sides may take."""
    if t.amount or t.accounts:
        invalid("amount" if t.amount else "accounts", "either postings, or amount with accounts; not both")
    check_postings(t)
    legs = Legs(draft, t.partner_id, at)
    for i, p in enumerate(t.postings):
        legs.add(f"postings[{i}].account_id", p.account_id, p.side, p.amount, p.currency or t.currency, owners[p.side])
    legs.done()
    check_moved(draft, legs, at)
    return Plan(ENTRY, legs.legs, away=legs.away, counts=True)


def check_moved(draft: Draft, legs: Legs, at: Moment) -> None:
    """Funds and counters of legs that are posted now, or set aside when some of them lie in other partitions."""
    if legs.away:
        check_legs(draft, legs.legs, legs.away, at)
    else:
        check_totals(legs.legs)


def hold(draft: Draft, t: Transaction, at: Moment, owners: Mapping[str, str] = HOLD_OWNERS) -> Plan:
    """Sets `amount` aside between payer and payee until it is captured, voided, or lapses."""
    check_fields(t, _HOLD_FIELDS)
    if t.postings:
        invalid("postings", "a hold names an amount, a payer and a payee")
    if t.expires_at and t.expires_at <= at.now:
        invalid("expires_at", "after the time at which the hold is booked")
    plain = msgspec.structs.replace(t, expires_at=0) if t.expires_at else t
    legs = quick_transfer(draft.accounts, plain) if BANK not in owners.values() else None
    if legs is None:
        legs = _by_roles(draft, t, at, owners).legs
        check_totals(legs)
    (payer, _, amount), (payee, _, _) = legs
    if payer.debits_pending + amount > COUNTER_MAX or payee.credits_pending + amount > COUNTER_MAX:
        raise Rejection(Reason.COUNTER_OVERFLOW, field="amount", limit=COUNTER_MAX)
    hold_id = command_id(t.partner_id, t.idempotency_key)
    opened = Hold(
        hold_id, at.digest, t.partner_id, payer.account_id, payee.account_id, t.currency,
        amount, amount, t.expires_at, at.offset, at.offset,
    )  # fmt: skip
    return Plan(HOLD, opens=opened, counts=True)


def capture(draft: Draft, t: Transaction, at: Moment) -> Plan:
    """Takes `amount` of a hold; with `final` the rest is released."""
    check_pointer(t, _CAPTURE_FIELDS, with_amount=True)
    found = hold_of(draft, t)
    if t.amount > found.remaining:
        raise Rejection(Reason.CAPTURE_EXCEEDS_HOLD, field="amount", amount=t.amount, remaining=found.remaining)
    released = found.remaining if t.final else t.amount
    legs = of_original(draft, t, at, [(found.payer, t.amount), (found.payee, -t.amount)], "")
    check_totals(legs, {found.payer: released, found.payee: released})
    return Plan(ENTRY, legs, releases=(found, released), original=found.opened_at)


def void(draft: Draft, t: Transaction, _: Moment) -> Plan:
    """Gives up what is left of a hold. Nothing can stand against it."""
    check_pointer(t, _POINTER, with_amount=False)
    found = hold_of(draft, t)
    return Plan(OTHER, releases=(found, found.remaining), original=found.opened_at)


def refund(draft: Draft, t: Transaction, at: Moment) -> Plan:
    """Gives `amount` of a payment back, from its payee to its payer."""
    check_pointer(t, _POINTER, with_amount=True)
    offset, moved = entry_of(draft, t)
    if len(moved.amounts) != 2:
        mismatch(t, "a payment of two legs; undo this one as a whole by a reversal")
    check_original(draft, t, moved)
    payer, payee = moved.accounts if moved.amounts[0] > 0 else moved.accounts[::-1]
    gives_back = check_refund(draft, t, offset, abs(moved.amounts[0]))
    legs = of_original(draft, t, at, [(payee, t.amount), (payer, -t.amount)], IS_REPAID)
    check_totals(legs)
    return Plan(OTHER, legs, original=offset, gives_back=gives_back)


def reversal(draft: Draft, t: Transaction, at: Moment) -> Plan:
    """Undoes an entry as a whole, leg by leg."""
    check_pointer(t, _POINTER, with_amount=False)
    offset, moved = entry_of(draft, t)
    check_original(draft, t, moved)
    total = sum(a for a in moved.amounts if a > 0)
    returned = draft.returned(offset)
    if returned:
        raise Rejection(Reason.REFUND_EXCEEDS_PAYMENT, field="original", remaining=max(0, total - returned))
    swapped = [(a, -n) for a, n in zip(moved.accounts, moved.amounts, strict=True)]
    legs = of_original(draft, t, at, swapped, IS_REPAID)
    check_totals(legs)
    return Plan(OTHER, legs, original=offset, gives_back=total)


def adjustment(draft: Draft, t: Transaction, at: Moment) -> Plan:
    """A correction by the bank's staff, with a note that says why; blocks do not stop it, limits do."""
    check_fields(t, frozenset({"note"}))
    if not 0 < len(t.note) <= TEXT_MAX:
        invalid("note", f"why, 1 to {TEXT_MAX} characters")
    if t.amount or t.accounts:
        invalid("amount" if t.amount else "accounts", "an adjustment names postings")
    check_postings(t)
    if t.partner_id != BANK:
        raise Rejection(
            Reason.NOT_PERMITTED, field="operation", rule="adjustments are the bank's", partner=t.partner_id
        )
    legs = Legs(draft, t.partner_id, at)
    for i, p in enumerate(t.postings):
        field = f"postings[{i}].account_id"
        a = draft.accounts.find(p.account_id)
        if p.account_id.startswith(TRANSIT):
            legs.refuse(not_owned(field, p.account_id, t.partner_id))
        elif a is None:
            legs.refuse(unknown(field, p.account_id))
        else:
            legs.refuse(check_account(field, a, p.currency or t.currency, p.side == "debit", adjusts=True))
            legs.legs.append((a, p.side, p.amount))
    check_totals(legs.done())
    return Plan(OTHER, legs.legs, note=t.note)


Operation = Callable[[Draft, Transaction, Moment], Plan]
OPERATIONS: dict[str, Operation] = {
    "transfer": transfer,
    "hold": hold,
    "exchange": exchange,
    "capture": capture,
    "void": void,
    "refund": refund,
    "reversal": reversal,
    "adjustment": adjustment,
}
