"""What a transaction may ask for. Each operation checks everything and returns the legs to post, or raises Rejection.

Stage 1 brings `transfer`. Holds, captures, voids, refunds and the product shelf's other operations take their place in
`OPERATIONS`; the Book does not change for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from ledger.accounts import Account
from ledger.money import AMOUNT_MAX, COUNTER_MAX, EXPONENTS
from ledger.reasons import Reason, Rejection
from ledger.state import Overlay
from schemas.identity import BANK, root_of
from schemas.records import Posting, Transaction

POSTINGS_MAX = 1_000
VALUE_DATE_MAX = 2_932_896  # 9999-12-31, days since 1970-01-01
TEXT_MAX = 1_024  # characters of a reference
METADATA_MAX = 64  # fields
_ROLES = {"payer", "payee"}
_SIDES = ("debit", "credit")
_ORDER = {reason: rank for rank, reason in enumerate(Reason)}

Leg = tuple[Account, str, int]
Accounts = Overlay[Account]


def transfer(accounts: Accounts, t: Transaction) -> list[Leg]:
    """A direct transfer: `amount` from payer to payee, or 2 to 1,000 balanced postings, all or nothing.

    For the common case, conditions in line let a plain transfer pass; whatever else goes through the full checks.
    """
    if not 0 <= t.value_date <= VALUE_DATE_MAX or len(t.reference) > TEXT_MAX or len(t.metadata) > METADATA_MAX:
        _refuse_fields(t)
    if t.postings:
        return _by_postings(accounts, t)
    roles, currency, amount, partner_id = t.accounts, t.currency, t.amount, t.partner_id
    if len(roles) != 2 or "payer" not in roles or "payee" not in roles:
        odd = sorted(_ROLES ^ set(roles))
        raise Rejection(
            Reason.FIELD_INVALID, field="accounts", rule="exactly payer and payee", roles=",".join(odd)[:128]
        )
    if currency not in EXPONENTS or not 0 < amount <= AMOUNT_MAX:
        _check_money("amount", currency, amount)
    refused: Rejection | None = None
    try:
        payer = accounts[roles["payer"]]
        if payer.owner != partner_id or payer.currency != currency or payer.debits_blocked or payer.closed:
            refused = _check_account("accounts.payer", payer, partner_id, currency, True)
    except KeyError:
        refused = _unknown("accounts.payer", roles["payer"])
    try:
        payee = accounts[roles["payee"]]
        if payee.owner != partner_id or payee.currency != currency or payee.credits_blocked or payee.closed:
            refused = _first(refused, _check_account("accounts.payee", payee, partner_id, currency, False))
    except KeyError:
        refused = _first(refused, _unknown("accounts.payee", roles["payee"]))
    if refused is not None:
        raise refused
    if payer is payee:
        raise Rejection(Reason.SAME_ACCOUNT, field="accounts", account=payer.account_id)
    if payer.min_available is not None and not payer.debit_normal:
        left = payer.credits_posted - payer.debits_posted - payer.debits_pending - amount
        if left < payer.min_available:
            _check_left(payer, left)
    if payee.debit_normal and payee.min_available is not None:
        _check_left(payee, payee.available() - amount)
    if payer.debits_posted + amount > COUNTER_MAX or payee.credits_posted + amount > COUNTER_MAX:
        raise Rejection(Reason.COUNTER_OVERFLOW, field="amount", limit=COUNTER_MAX)
    return [(payer, "debit", amount), (payee, "credit", amount)]


def _refuse_fields(t: Transaction) -> NoReturn:
    if not 0 <= t.value_date <= VALUE_DATE_MAX:
        raise Rejection(Reason.FIELD_INVALID, field="value_date", rule="a day from 1970-01-01 to 9999-12-31")
    field = "reference" if len(t.reference) > TEXT_MAX else "metadata"
    raise Rejection(Reason.FIELD_INVALID, field=field, rule=f"at most {TEXT_MAX} characters, {METADATA_MAX} fields")


def _by_postings(accounts: Accounts, t: Transaction) -> list[Leg]:
    postings = t.postings
    if t.amount or t.accounts:
        field = "amount" if t.amount else "accounts"
        raise Rejection(Reason.FIELD_INVALID, field=field, rule="either postings, or amount with accounts; not both")
    _check_postings(postings, t.currency)
    refused: Rejection | None = None
    legs: list[Leg] = []
    for i, p in enumerate(postings):
        field = f"postings[{i}].account_id"
        account = accounts.find(p.account_id)
        if account is None:
            refused = _first(refused, _unknown(field, p.account_id))
            continue
        currency = p.currency or t.currency
        refused = _first(refused, _check_account(field, account, t.partner_id, currency, p.side == "debit"))
        legs.append((account, p.side, p.amount))
    if refused is not None:
        raise refused
    _check_totals(legs)
    return legs


def _check_money(field: str, currency: str, amount: int) -> None:
    if currency not in EXPONENTS:
        raise Rejection(Reason.CURRENCY_UNKNOWN, field="currency", currency=currency[:16])
    if amount <= 0:
        raise Rejection(Reason.AMOUNT_NOT_POSITIVE, field=field, amount=amount)
    if amount > AMOUNT_MAX:
        raise Rejection(Reason.AMOUNT_TOO_LARGE, field=field, limit=AMOUNT_MAX)


def _check_postings(postings: tuple[Posting, ...], default_currency: str) -> None:
    """Number, sides, currencies, amounts and balance; reasons in their order over all legs."""
    refused: Rejection | None = None
    sums: dict[str, list[int]] = {}
    for i, p in enumerate(postings):
        currency = p.currency or default_currency
        if p.side not in _SIDES:
            refused = _first(
                refused, Rejection(Reason.FIELD_INVALID, field=f"postings[{i}].side", rule="debit or credit")
            )
        try:
            _check_money(f"postings[{i}].amount", currency, p.amount)
        except Rejection as r:
            refused = _first(refused, r)
        sides = sums.setdefault(currency, [0, 0])
        sides[p.side == "credit"] += p.amount
    if refused is not None:
        raise refused
    if not 2 <= len(postings) <= POSTINGS_MAX:
        raise Rejection(Reason.POSTINGS_COUNT, field="postings", count=len(postings), limit=f"2 to {POSTINGS_MAX}")
    for currency, (debits, credits) in sums.items():
        if debits != credits:
            raise Rejection(
                Reason.POSTINGS_UNBALANCED, field="postings", currency=currency, debits=debits, credits=credits
            )


def _check_account(field: str, a: Account, partner_id: str, currency: str, debit: bool) -> Rejection | None:
    """What stands against posting to this account, first reason first; None when nothing does."""
    owner = a.owner
    if owner != partner_id and owner != BANK:
        own = owner.startswith(partner_id + "/") if debit else a.root == root_of(partner_id)
        if not own:
            return Rejection(Reason.ACCOUNT_NOT_OWNED, field=field, account=a.account_id, partner=partner_id)
    if a.closed:
        return Rejection(Reason.ACCOUNT_CLOSED, field=field, account=a.account_id)
    if a.currency != currency:
        return Rejection(
            Reason.ACCOUNT_CURRENCY, field=field, account=a.account_id, currency=currency, account_currency=a.currency
        )
    if debit:
        if a.debits_blocked:
            return Rejection(Reason.DEBITS_BLOCKED, field=field, account=a.account_id)
    elif a.credits_blocked:
        return Rejection(Reason.CREDITS_BLOCKED, field=field, account=a.account_id)
    return None


def _check_totals(legs: list[Leg]) -> None:
    """Limits and counters after all legs; one account may stand in several of them."""
    totals: dict[str, list[int]] = {}
    for account, side, amount in legs:
        totals.setdefault(account.account_id, [0, 0])[side == "credit"] += amount
    by_id = {a.account_id: a for a, _, _ in legs}
    for account_id, (debits, credits) in totals.items():
        a = by_id[account_id]
        out, back = (credits, debits) if a.debit_normal else (debits, credits)
        if out and a.min_available is not None:
            _check_left(a, a.available() - out + back)
    for account_id, (debits, credits) in totals.items():
        a = by_id[account_id]
        if a.debits_posted + debits > COUNTER_MAX or a.credits_posted + credits > COUNTER_MAX:
            raise Rejection(Reason.COUNTER_OVERFLOW, field="postings", account=account_id, limit=COUNTER_MAX)


def _check_left(a: Account, left: int) -> None:
    assert a.min_available is not None
    if left < a.min_available:
        raise Rejection(
            Reason.INSUFFICIENT_FUNDS, account=a.account_id, limit="min_available", level="account",
            allowed=a.min_available, available=a.available(), short=a.min_available - left,
        )  # fmt: skip


def _unknown(field: str, account_id: str) -> Rejection:
    return Rejection(Reason.ACCOUNT_UNKNOWN, field=field, account=account_id[:256])


def _first(a: Rejection | None, b: Rejection | None) -> Rejection | None:
    """Of two reasons the one that comes first in the list; the earlier leg's when they are equal."""
    if a is None or b is None:
        return a or b
    return b if _ORDER[b.reason] < _ORDER[a.reason] else a


OPERATIONS: dict[str, Callable[[Accounts, Transaction], list[Leg]]] = {"transfer": transfer}
