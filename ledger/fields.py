"""The fields of a transaction, before any account is looked at: lengths, dates, roles, money, postings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NoReturn

from ledger.money import AMOUNT_MAX, EXPONENTS
from ledger.reasons import Reason, Rejection, first
from schemas.records import Posting, Transaction

POSTINGS_MAX = 1_000
VALUE_DATE_MAX = 120_529  # 2299-12-31, the last day that ClickHouse keeps; days since 1970-01-01
TEXT_MAX = 1_024  # characters of a reference or a note
METADATA_MAX = 64  # fields
_SIDES = ("debit", "credit")
_OPTIONAL = ("original", "final", "expires_at", "note", "rate", "amounts")


def invalid(field: str, rule: str) -> NoReturn:
    """Raises the Rejection of a field that breaks a rule."""
    raise Rejection(Reason.FIELD_INVALID, field=field, rule=rule)


def is_day(day: int) -> bool:
    """Whether a number of days since 1970-01-01 may be a value date."""
    return 0 <= day <= VALUE_DATE_MAX


def check_fields(t: Transaction, used: frozenset[str]) -> None:
    """Dates, lengths, and that nothing is given which this operation does not use. `used`: optional fields it does."""
    if not is_day(t.value_date):
        invalid("value_date", "a day from 1970-01-01 to 2299-12-31")
    if len(t.reference) > TEXT_MAX:
        invalid("reference", f"at most {TEXT_MAX} characters")
    if len(t.metadata) > METADATA_MAX:
        invalid("metadata", f"at most {METADATA_MAX} fields")
    if t.original or t.final or t.expires_at or t.note or t.rate or t.amounts:
        for name in _OPTIONAL:
            if name not in used and getattr(t, name):
                invalid(name, f"not used by {t.operation}")


def check_pointer(t: Transaction, used: frozenset[str], *, with_amount: bool) -> None:
    """The fields of an operation that points at an earlier transaction."""
    check_fields(t, used)
    if t.postings or t.accounts:
        invalid("postings" if t.postings else "accounts", "the original names them")
    if not t.original:
        invalid("original", "the idempotency key of the earlier transaction")
    if not with_amount and t.amount:
        invalid("amount", f"a {t.operation} is of all that is left; leave it out")
    check_currency(t)
    if with_amount:
        check_amount("amount", t.amount)


def check_roles(t: Transaction, roles: Iterable[str]) -> None:
    """Exactly these roles have an account."""
    if t.accounts.keys() == (roles.keys() if isinstance(roles, Mapping) else set(roles)):
        return
    wanted = sorted(roles)
    for reason, odd in (
        (Reason.ROLE_UNKNOWN, set(t.accounts).difference(wanted)),
        (Reason.ROLE_MISSING, set(wanted).difference(t.accounts)),
    ):
        if odd:
            raise Rejection(reason, field="accounts", role=min(odd)[:64], roles=",".join(wanted))


def check_currency(t: Transaction) -> None:
    """The transaction's currency, and how many decimals the caller believes it to have."""
    exponent = EXPONENTS.get(t.currency)
    if exponent is None:
        raise Rejection(Reason.CURRENCY_UNKNOWN, field="currency", currency=t.currency[:16])
    check_exponent(t)


def check_exponent(t: Transaction) -> None:
    exponent = EXPONENTS.get(t.currency)
    if t.exponent not in (-1, exponent):
        raise Rejection(
            Reason.EXPONENT_MISMATCH, field="exponent", currency=t.currency[:16], exponent=t.exponent, allowed=exponent
        )


def check_amount(field: str, amount: int) -> None:
    """An amount of money: 1 to 2^63 - 1 minor units."""
    if amount <= 0:
        raise Rejection(Reason.AMOUNT_NOT_POSITIVE, field=field, amount=amount)
    if amount > AMOUNT_MAX:
        raise Rejection(Reason.AMOUNT_TOO_LARGE, field=field, limit=AMOUNT_MAX)


def check_postings(t: Transaction) -> None:
    """Number, sides, currencies, amounts and balance; reasons in their order over all legs."""
    postings = t.postings
    refused: Rejection | None = None
    sums: dict[str, list[int]] = {}
    for i, p in enumerate(postings):
        currency = p.currency or t.currency
        refused = first(refused, _against(i, p, currency))
        sides = sums.setdefault(currency, [0, 0])
        sides[p.side == "credit"] += p.amount
    if t.exponent != -1:
        try:
            check_exponent(t)
        except Rejection as r:
            refused = first(refused, r)
    if refused is not None:
        raise refused
    check_count(len(postings))
    for currency, (debits, credits) in sums.items():
        if debits != credits:
            raise Rejection(
                Reason.POSTINGS_UNBALANCED, field="postings", currency=currency, debits=debits, credits=credits
            )


def check_count(count: int) -> None:
    """An entry has 2 to 1,000 postings."""
    if not 2 <= count <= POSTINGS_MAX:
        raise Rejection(Reason.POSTINGS_COUNT, field="postings", count=count, limit=f"2 to {POSTINGS_MAX}")


def _against(i: int, p: Posting, currency: str) -> Rejection | None:
    """What stands against one posting; the first reason of the list."""
    if p.side not in _SIDES:
        return Rejection(Reason.FIELD_INVALID, field=f"postings[{i}].side", rule="debit or credit")
    if currency not in EXPONENTS:
        return Rejection(Reason.CURRENCY_UNKNOWN, field="currency", currency=currency[:16])
    try:
        check_amount(f"postings[{i}].amount", p.amount)
    except Rejection as r:
        return r
    return None
