"""One currency for another: four legs through the bank's position, at a rate that the caller names; integers only."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ledger.entries import ENTRY
from ledger.fields import check_amount, check_currency, check_fields, check_roles, invalid
from ledger.money import AMOUNT_MAX, EXPONENTS
from ledger.plans import Moment, Plan
from ledger.reasons import Reason, Rejection
from ledger.rules import CALLER_OR_BANK, TREE_OR_BANK, Legs, check_totals
from ledger.state import Draft
from schemas.records import Transaction

EXCHANGE_OWNERS = {"payer": CALLER_OR_BANK, "payee": TREE_OR_BANK, "sold": "bank", "bought": "bank"}
_RATE = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,12}))?")


def parse_rate(rate: str) -> tuple[int, int]:
    """A rate as a whole number and how many of its digits are decimals: `7.25` -> (725, 2). Raises Rejection."""
    found = _RATE.fullmatch(rate)
    if found is None:
        raise Rejection(Reason.RATE_INVALID, field="rate", rule="1 to 12 digits, and a point with 1 to 12 more")
    decimals = found[2] or ""
    number = int(found[1] + decimals)
    if not number:
        raise Rejection(Reason.RATE_INVALID, field="rate", rule="above zero")
    return number, len(decimals)


def bought_for(amount: int, rate: str, currency: str, other: str) -> int:
    """Minor units of `other` for `amount` minor units of `currency`, rounded half up; 0 when it buys nothing."""
    number, decimals = parse_rate(rate)
    up, down = EXPONENTS[other], EXPONENTS[currency] + decimals
    numerator: int = amount * number * 10 ** max(up - down, 0)
    denominator: int = 10 ** max(down - up, 0)
    return (2 * numerator + denominator) // (2 * denominator)


def exchange(draft: Draft, t: Transaction, at: Moment, owners: Mapping[str, str] = EXCHANGE_OWNERS) -> Plan:
    """Takes `amount` from the payer and gives the payee what it buys; the bank's position stands between."""
    check_fields(t, frozenset({"rate"}))
    if t.postings:
        invalid("postings", "an exchange names an amount and four accounts")
    check_roles(t, owners)
    check_currency(t)
    check_amount("amount", t.amount)
    parse_rate(t.rate)
    legs = Legs(draft, t.partner_id, at)
    payee = draft.accounts.find(t.accounts["payee"]) or at.openings.get(t.accounts["payee"])
    other = payee.currency if payee is not None else ""
    wanted = (("payer", "debit", t.currency), ("sold", "credit", t.currency))
    for role, side, currency in (*wanted, ("bought", "debit", other), ("payee", "credit", other)):
        legs.add(f"accounts.{role}", t.accounts[role], side, t.amount, currency, owners[role])
    if other == t.currency:
        assert payee is not None
        detail = {"account": payee.account_id, "currency": t.currency, "account_currency": other}
        rule = "another currency than the payer's"
        legs.refuse(Rejection(Reason.ACCOUNT_CURRENCY, field="accounts.payee", rule=rule, **detail))
    (payer, _, _), (sold, _, _), (bought, _, _), (payee, _, _) = legs.done()
    gets = bought_for(t.amount, t.rate, t.currency, other)
    if not gets:
        raise Rejection(Reason.RATE_INVALID, field="rate", rule="it buys nothing").once_accounts_are_known()
    if gets > AMOUNT_MAX:
        raise Rejection(Reason.AMOUNT_TOO_LARGE, field="rate", limit=AMOUNT_MAX).once_accounts_are_known()
    of_all = [(payer, "debit", t.amount), (sold, "credit", t.amount), (bought, "debit", gets), (payee, "credit", gets)]
    check_totals(of_all)
    return Plan(ENTRY, of_all, counts=True)
