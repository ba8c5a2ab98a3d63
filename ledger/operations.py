"""What a transaction may ask for. Each operation checks everything and returns a plan, or raises Rejection.

The page they are written from is docs/operations.md. The Book applies a plan without any further question. The
transfer, nine of ten transactions, returns its legs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import msgspec

from ledger.accounts import Account
from ledger.entries import ENTRY, HOLD, LAPSED, OTHER, Moved
from ledger.holds import Hold
from ledger.money import AMOUNT_MAX, COUNTER_MAX, EXPONENTS
from ledger.reasons import Reason, Rejection
from ledger.state import Draft, Overlay
from schemas.identity import BANK, command_id, root_of
from schemas.records import Posting, Transaction

POSTINGS_MAX = 1_000
VALUE_DATE_MAX = 120_529  # 2299-12-31, the last day that ClickHouse keeps; days since 1970-01-01
TEXT_MAX = 1_024  # characters of a reference
METADATA_MAX = 64  # fields
_ROLES = {"payer", "payee"}
_SIDES = ("debit", "credit")
_ORDER = {reason: rank for rank, reason in enumerate(Reason)}
_NOTHING: dict[str, int] = {}
LAPSED_MAX = 500  # holds that lapse before one command; more wait for the next

Leg = tuple[Account, str, int]
Accounts = Overlay[Account]


def transfer(accounts: Accounts, t: Transaction) -> list[Leg]:
    """A direct transfer: `amount` from payer to payee, or 2 to 1,000 balanced postings, all or nothing.

    Conditions in line let the common case pass; whatever else goes through the full checks.
    """
    if (
        not 0 <= t.value_date <= VALUE_DATE_MAX or len(t.reference) > TEXT_MAX or len(t.metadata) > METADATA_MAX
        or t.original or t.expires_at or t.final or t.note
    ):  # fmt: skip
        _check_fields(t, frozenset())
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


def _check_fields(t: Transaction, used: frozenset[str]) -> None:
    """Dates, lengths, and that nothing is given which this operation does not use. `used`: optional fields it does."""
    if not 0 <= t.value_date <= VALUE_DATE_MAX:
        _invalid("value_date", "a day from 1970-01-01 to 2299-12-31")
    if len(t.reference) > TEXT_MAX:
        _invalid("reference", f"at most {TEXT_MAX} characters")
    if len(t.metadata) > METADATA_MAX:
        _invalid("metadata", f"at most {METADATA_MAX} fields")
    for name in ("original", "final", "expires_at", "note"):
        if name not in used and getattr(t, name):
            _invalid(name, f"not used by {t.operation}")


def _invalid(field: str, rule: str) -> NoReturn:
    raise Rejection(Reason.FIELD_INVALID, field=field, rule=rule)


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
    if a.closed or a.currency != currency:
        return _check_open(field, a, currency)
    if debit:
        if a.debits_blocked:
            return Rejection(Reason.DEBITS_BLOCKED, field=field, account=a.account_id)
    elif a.credits_blocked:
        return Rejection(Reason.CREDITS_BLOCKED, field=field, account=a.account_id)
    return None


def _check_open(field: str, a: Account, currency: str) -> Rejection | None:
    if a.closed:
        return Rejection(Reason.ACCOUNT_CLOSED, field=field, account=a.account_id)
    if a.currency != currency:
        return Rejection(
            Reason.ACCOUNT_CURRENCY, field=field, account=a.account_id, currency=currency, account_currency=a.currency
        )
    return None


def _check_totals(legs: Sequence[Leg], released: Mapping[str, int] = _NOTHING) -> None:
    """Limits and counters after all legs; one account may stand in several of them.

    `released`: minor units by account that are set free in the same command, and so are there to be taken.
    """
    totals: dict[str, list[int]] = {}
    for account, side, amount in legs:
        totals.setdefault(account.account_id, [0, 0])[side == "credit"] += amount
    by_id = {a.account_id: a for a, _, _ in legs}
    for account_id, (debits, credits) in totals.items():
        a = by_id[account_id]
        out, back = (credits, debits) if a.debit_normal else (debits, credits)
        if out and a.min_available is not None:
            _check_left(a, a.available() + released.get(account_id, 0) - out + back)
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


class Moment(NamedTuple):
    """The command's place: its source offset, the event time in milliseconds, and its payload's digest."""

    offset: int
    now: int
    digest: bytes


@dataclass(slots=True)
class Plan:
    """What a checked operation does, beside posting `legs`.

    `opens`: a new hold; `releases`: a hold, and how many minor units of it; `original`: source offset of the
    transaction that it points at; `gives_back`: what of that is given back in all, once this is done.
    """

    kind: int
    legs: list[Leg] = field(default_factory=list)
    opens: Hold | None = None
    releases: tuple[Hold, int] | None = None
    original: int = -1
    gives_back: int = 0
    note: str = ""


def hold(draft: Draft, t: Transaction, at: Moment) -> Plan:
    """Sets `amount` aside between payer and payee until it is captured, voided, or lapses."""
    _check_fields(t, frozenset({"expires_at"}))
    if t.postings:
        _invalid("postings", "a hold names an amount, a payer and a payee")
    if t.expires_at and t.expires_at <= at.now:
        _invalid("expires_at", "after the time at which the hold is booked")
    (payer, _, amount), (payee, _, _) = transfer(draft.accounts, msgspec.structs.replace(t, expires_at=0))
    if payer.debits_pending + amount > COUNTER_MAX or payee.credits_pending + amount > COUNTER_MAX:
        raise Rejection(Reason.COUNTER_OVERFLOW, field="amount", limit=COUNTER_MAX)
    hold_id = command_id(t.partner_id, t.idempotency_key)
    opened = Hold(
        hold_id, at.digest, t.partner_id, payer.account_id, payee.account_id, t.currency,
        amount, amount, t.expires_at, at.offset, at.offset,
    )  # fmt: skip
    return Plan(HOLD, opens=opened)


def capture(draft: Draft, t: Transaction, _: Moment) -> Plan:
    """Takes `amount` of a hold; with `final` the rest is released."""
    _check_pointer(t, frozenset({"original", "final"}), with_amount=True)
    found = _hold_of(draft, t)
    if t.amount > found.remaining:
        raise Rejection(Reason.CAPTURE_EXCEEDS_HOLD, field="amount", amount=t.amount, remaining=found.remaining)
    released = found.remaining if t.final else t.amount
    payer, payee = draft.accounts[found.payer], draft.accounts[found.payee]
    legs = [(payer, "debit", t.amount), (payee, "credit", t.amount)]
    _check_legs(legs, t.partner_id)
    _check_totals(legs, {a.account_id: released for a in (payer, payee)})
    return Plan(ENTRY, legs, releases=(found, released), original=found.opened_at)


def void(draft: Draft, t: Transaction, _: Moment) -> Plan:
    """Gives up what is left of a hold. Nothing can stand against it."""
    _check_pointer(t, frozenset({"original"}), with_amount=False)
    found = _hold_of(draft, t)
    return Plan(OTHER, releases=(found, found.remaining), original=found.opened_at)


def refund(draft: Draft, t: Transaction, _: Moment) -> Plan:
    """Gives `amount` of a payment back, from its payee to its payer."""
    _check_pointer(t, frozenset({"original"}), with_amount=True)
    offset, moved = _entry_of(draft, t)
    if len(moved.amounts) != 2:
        _mismatch(t, "a payment of two legs; undo this one as a whole by a reversal")
    _check_currency(draft, t, moved.accounts[0])
    returned = draft.returned(offset)
    left = abs(moved.amounts[0]) - returned
    if t.amount > left:
        raise Rejection(Reason.REFUND_EXCEEDS_PAYMENT, field="amount", amount=t.amount, remaining=left)
    payer, payee = moved.accounts if moved.amounts[0] > 0 else moved.accounts[::-1]
    legs = [(draft.accounts[payee], "debit", t.amount), (draft.accounts[payer], "credit", t.amount)]
    _check_legs(legs, t.partner_id)
    _check_totals(legs)
    return Plan(OTHER, legs, original=offset, gives_back=returned + t.amount)


def reversal(draft: Draft, t: Transaction, _: Moment) -> Plan:
    """Undoes an entry as a whole, leg by leg."""
    _check_pointer(t, frozenset({"original"}), with_amount=False)
    offset, moved = _entry_of(draft, t)
    _check_currency(draft, t, moved.accounts[0])
    total = sum(a for a in moved.amounts if a > 0)
    returned = draft.returned(offset)
    if returned:
        raise Rejection(Reason.REFUND_EXCEEDS_PAYMENT, field="original", remaining=max(0, total - returned))
    pairs = zip(moved.accounts, moved.amounts, strict=True)
    legs = [(draft.accounts[a], "credit" if n > 0 else "debit", abs(n)) for a, n in pairs]
    _check_legs(legs, t.partner_id)
    _check_totals(legs)
    return Plan(OTHER, legs, original=offset, gives_back=total)


def adjustment(draft: Draft, t: Transaction, _: Moment) -> Plan:
    """A correction by the bank's staff, with a note that says why; blocks do not stop it, limits do."""
    _check_fields(t, frozenset({"note"}))
    if not 0 < len(t.note) <= TEXT_MAX:
        _invalid("note", f"why, 1 to {TEXT_MAX} characters")
    if t.amount or t.accounts:
        _invalid("amount" if t.amount else "accounts", "an adjustment names postings")
    _check_postings(t.postings, t.currency)
    if t.partner_id != BANK:
        raise Rejection(
            Reason.NOT_PERMITTED, field="operation", rule="adjustments are the bank's", partner=t.partner_id
        )
    refused: Rejection | None = None
    legs: list[Leg] = []
    for i, p in enumerate(t.postings):
        at = f"postings[{i}].account_id"
        a = draft.accounts.find(p.account_id)
        if a is None:
            refused = _first(refused, _unknown(at, p.account_id))
            continue
        refused = _first(refused, _check_open(at, a, p.currency or t.currency))
        legs.append((a, p.side, p.amount))
    if refused is not None:
        raise refused
    _check_totals(legs)
    return Plan(OTHER, legs, note=t.note)


def _check_pointer(t: Transaction, used: frozenset[str], *, with_amount: bool) -> None:
    """The fields of an operation that points at an earlier transaction."""
    _check_fields(t, used)
    if t.postings or t.accounts:
        _invalid("postings" if t.postings else "accounts", "the original names them")
    if not t.original:
        _invalid("original", "the idempotency key of the earlier transaction")
    if with_amount:
        _check_money("amount", t.currency, t.amount)
    elif t.amount:
        _invalid("amount", f"a {t.operation} is of all that is left; leave it out")
    elif t.currency not in EXPONENTS:
        raise Rejection(Reason.CURRENCY_UNKNOWN, field="currency", currency=t.currency[:16])


def _settled(draft: Draft, t: Transaction) -> tuple[int, Moved]:
    """The settled transaction that `original` names: its source offset, and what it was."""
    first = draft.keys.get(command_id(t.partner_id, t.original))
    moved = draft.moved(first[1]) if first is not None else None
    if first is None or moved is None:
        raise Rejection(Reason.ORIGINAL_UNKNOWN, field="original", original=t.original[:128], partner=t.partner_id)
    return first[1], moved


def _mismatch(t: Transaction, rule: str, field: str = "original") -> NoReturn:
    raise Rejection(Reason.ORIGINAL_MISMATCH, field=field, original=t.original[:128], rule=rule)


def _hold_of(draft: Draft, t: Transaction) -> Hold:
    """The open hold that `original` names."""
    found = draft.open_hold(command_id(t.partner_id, t.original).hex())
    if found is not None:
        if found.currency != t.currency:
            _mismatch(t, f"the hold is in {found.currency}", "currency")
        return found
    _, moved = _settled(draft, t)
    if moved.kind not in (HOLD, LAPSED):
        _mismatch(t, f"a {t.operation} takes a hold")
    _check_currency(draft, t, moved.accounts[0])
    raise Rejection(
        Reason.HOLD_EXPIRED if moved.kind == LAPSED else Reason.HOLD_CLOSED, field="original", original=t.original[:128]
    )


def _entry_of(draft: Draft, t: Transaction) -> tuple[int, Moved]:
    """The entry that `original` names, and its source offset."""
    if draft.open_hold(command_id(t.partner_id, t.original).hex()) is not None:
        _mismatch(t, "a hold: give back what was captured of it")
    offset, moved = _settled(draft, t)
    if moved.kind != ENTRY:
        _mismatch(t, f"a {t.operation} takes a settled transfer or capture")
    return offset, moved


def _check_currency(draft: Draft, t: Transaction, account_id: str) -> None:
    currency = draft.accounts[account_id].currency
    if currency != t.currency:
        _mismatch(t, f"the original is in {currency}", "currency")


def _check_legs(legs: Sequence[Leg], partner_id: str) -> None:
    """The account rules over all legs of an original, first reason first."""
    refused: Rejection | None = None
    for a, side, _ in legs:
        refused = _first(refused, _check_account("original", a, partner_id, a.currency, side == "debit"))
    if refused is not None:
        raise refused


OPERATIONS: dict[str, Callable[[Draft, Transaction, Moment], Plan]] = {
    "hold": hold,
    "capture": capture,
    "void": void,
    "refund": refund,
    "reversal": reversal,
    "adjustment": adjustment,
}
