"""What an operation points back at: an open hold, or a settled entry of which something may be given back."""

from __future__ import annotations

from typing import NoReturn

from ledger.entries import ENTRY, HOLD, LAPSED, Moved
from ledger.holds import Hold
from ledger.plans import Leg, Moment
from ledger.reasons import Reason, Rejection
from ledger.rules import ANY_OR_BANK, CALLER, CALLER_OR_BANK, Legs
from ledger.state import Draft
from schemas.identity import BANK, command_id, owner_of
from schemas.records import Transaction


def _settled(draft: Draft, t: Transaction) -> tuple[int, Moved]:
    """The settled transaction that `original` names: its source offset, and what it was."""
    earlier = draft.keys.get(command_id(t.partner_id, t.original))
    moved = draft.moved(earlier[1]) if earlier is not None else None
    if earlier is None or moved is None:
        raise Rejection(Reason.ORIGINAL_UNKNOWN, field="original", original=t.original[:128], partner=t.partner_id)
    return earlier[1], moved


def mismatch(t: Transaction, rule: str, field: str = "original") -> NoReturn:
    """Raises the Rejection of an original that this operation does not take."""
    raise Rejection(Reason.ORIGINAL_MISMATCH, field=field, original=t.original[:128], rule=rule)


def hold_of(draft: Draft, t: Transaction) -> Hold:
    """The open hold that `original` names."""
    found = draft.open_hold(command_id(t.partner_id, t.original).hex())
    if found is not None:
        if found.currency != t.currency:
            mismatch(t, f"the hold is in {found.currency}", "currency")
        return found
    _, moved = _settled(draft, t)
    if moved.kind not in (HOLD, LAPSED):
        mismatch(t, f"a {t.operation} takes a hold")
    _check_currency_of(draft, t, moved.accounts[0])
    raise Rejection(
        Reason.HOLD_EXPIRED if moved.kind == LAPSED else Reason.HOLD_CLOSED, field="original", original=t.original[:128]
    )


def entry_of(draft: Draft, t: Transaction) -> tuple[int, Moved]:
    """The entry that `original` names, and its source offset."""
    if draft.open_hold(command_id(t.partner_id, t.original).hex()) is not None:
        mismatch(t, "a hold: give back what was captured of it")
    offset, moved = _settled(draft, t)
    if moved.kind != ENTRY:
        mismatch(t, f"a {t.operation} takes a settled transfer or capture")
    return offset, moved


def check_original(draft: Draft, t: Transaction, moved: Moved) -> None:
    """The entry that is given back is of the transaction's currency and product."""
    _check_currency_of(draft, t, moved.accounts[0])
    if moved.product != t.product:
        mismatch(t, f"the original is of {moved.product[:64]}", "product")


def _check_currency_of(draft: Draft, t: Transaction, account_id: str) -> None:
    currency = draft.accounts[account_id].currency
    if currency != t.currency:
        mismatch(t, f"the original is in {currency}", "currency")


def of_original(
    draft: Draft, t: Transaction, at: Moment, signed: list[tuple[str, int]], pays: str, payee: str = ""
) -> list[Leg]:
    """Legs on the accounts of an original, debits positive, by the account rules; the bank's accounts among them are
    where the original put them. `payee`: of a refund; when that is the bank, only the bank gives it back."""
    legs = Legs(draft, t.partner_id, at, pays)
    careful = bool(pays) and at.shelf and t.partner_id != BANK
    for account_id, amount in signed:
        a = draft.accounts[account_id]
        side, owners = ("debit", CALLER_OR_BANK) if amount > 0 else ("credit", ANY_OR_BANK)
        if careful and amount > 0 and (account_id == payee or a.type != "income"):
            owners = CALLER  # money that left through the bank, was lent or exchanged does not come back by itself
        legs.add("original", account_id, side, abs(amount), a.currency, owners)
    return legs.done()


def credits_of(moved: Moved) -> list[tuple[str, int]]:
    """The credit legs of a payment, in the order in which a refund takes from them: the bank's come last."""
    credits = [(a, -n) for a, n in zip(moved.accounts, moved.amounts, strict=True) if n < 0]
    return sorted(credits, key=lambda leg: owner_of(leg[0]) == BANK)


def check_refund(draft: Draft, t: Transaction, offset: int, paid: int) -> int:
    """What of the entry at this offset is given back in all with this refund. `paid`: at most so much may be."""
    returned = draft.returned(offset)
    if t.amount > paid - returned:
        raise Rejection(Reason.REFUND_EXCEEDS_PAYMENT, field="amount", amount=t.amount, remaining=paid - returned)
    return returned + t.amount
