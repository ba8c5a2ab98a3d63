"""Control commands: partners and accounts. Each checks everything, changes the draft, and says what it set.

The bank's own staff (partner `bank`) may give any of them; a live partner may open, block and close accounts of its own
subtree. Lifting a block, changing a limit and opening an account that may go below zero is the bank's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger import shelf
from ledger.accounts import ACCOUNT_TYPES, Account
from ledger.money import AMOUNT_MAX, EXPONENTS
from ledger.names import LOCAL_NAME, PARTNER_ID
from ledger.partners import OPENS, SETS
from ledger.reasons import Reason, Rejection
from ledger.state import Partner
from schemas.identity import BANK, owner_of
from schemas.records import (
    AdmitPartner,
    BlockAccount,
    CloseAccount,
    OpenAccount,
    PublishProduct,
    SetAccountLimit,
    SetPartnerState,
)

if TYPE_CHECKING:
    from ledger.book import Book

PARTNER_STATES = ("live", "suspended")

Changes = tuple[str, dict[str, str]]


def apply(book: Book, command: Any, offset: int) -> Changes:
    """Applies one control command; returns its subject and what it set, or raises Rejection."""
    result: Changes = _HANDLERS[type(command)](book, command, offset)
    return result


def _audit(command: Any, **changes: object) -> dict[str, str]:
    out = {k: "" if v is None else str(v).lower() if isinstance(v, bool) else str(v) for k, v in changes.items()}
    if command.requested_by:
        out["requested_by"] = command.requested_by
    if command.note:
        out["note"] = command.note
    return out


def _permit(book: Book, command: Any, account_id: str, *, bank_only: bool = False) -> None:
    """Raises Rejection unless the command's partner may act on this account."""
    partner_id = command.partner_id
    book.standing.require(partner_id, SETS)
    owner = owner_of(account_id)
    own = owner == partner_id or owner.startswith(partner_id + "/")
    if partner_id != BANK and (bank_only or not own):
        raise Rejection(Reason.NOT_PERMITTED, field="partner_id", partner=partner_id, account=account_id[:256])


def _account(book: Book, account_id: str) -> Account:
    found = book.draft.accounts.find(account_id)
    if found is None:
        raise Rejection(Reason.ACCOUNT_UNKNOWN, field="account_id", account=account_id[:256])
    if found.closed:
        raise Rejection(Reason.ACCOUNT_CLOSED, field="account_id", account=account_id)
    return found


def _check_limit(value: int | None) -> None:
    if value is not None and abs(value) > AMOUNT_MAX:
        raise Rejection(Reason.AMOUNT_TOO_LARGE, field="min_available", limit=AMOUNT_MAX)


def open_account(book: Book, c: OpenAccount, offset: int) -> Changes:
    _permit(book, c, c.account_id)
    if c.partner_id != BANK and (c.min_available is None or c.min_available < 0):
        raise Rejection(
            Reason.NOT_PERMITTED,
            field="min_available",
            rule="0 or more; only the bank lends",
            account=c.account_id[:256],
        )  # fmt: skip
    owner, _, local = c.account_id.partition(":")
    if not LOCAL_NAME.fullmatch(local) or not PARTNER_ID.fullmatch(owner):
        raise Rejection(
            Reason.FIELD_INVALID, field="account_id", rule="owner partner, colon, name of 1 to 128 characters"
        )
    if c.type not in ACCOUNT_TYPES:
        raise Rejection(Reason.FIELD_INVALID, field="type", rule=", ".join(sorted(ACCOUNT_TYPES)))
    if c.currency not in EXPONENTS:
        raise Rejection(Reason.CURRENCY_UNKNOWN, field="currency", currency=c.currency[:16])
    _check_limit(c.min_available)
    if owner != BANK:
        book.standing.require(owner, OPENS)
    if book.draft.accounts.find(c.account_id) is not None:
        raise Rejection(Reason.ACCOUNT_EXISTS, field="account_id", account=c.account_id)
    book.draft.accounts[c.account_id] = Account.new(c.account_id, c.type, c.currency, c.min_available, offset)
    return c.account_id, _audit(c, type=c.type, currency=c.currency, min_available=c.min_available)


def block_account(book: Book, c: BlockAccount, offset: int) -> Changes:
    _permit(book, c, c.account_id)
    a = _account(book, c.account_id)
    lifts = (a.debits_blocked and not c.block_debits) or (a.credits_blocked and not c.block_credits)
    if lifts and c.partner_id != BANK:
        raise Rejection(
            Reason.NOT_PERMITTED, field="partner_id", rule="only the bank lifts a block", account=c.account_id
        )
    a.debits_blocked, a.credits_blocked, a.offset = c.block_debits, c.block_credits, offset
    return c.account_id, _audit(c, block_debits=c.block_debits, block_credits=c.block_credits)


def set_account_limit(book: Book, c: SetAccountLimit, offset: int) -> Changes:
    _permit(book, c, c.account_id, bank_only=True)
    _check_limit(c.min_available)
    a = _account(book, c.account_id)
    a.min_available, a.offset = c.min_available, offset
    return c.account_id, _audit(c, min_available=c.min_available)


def close_account(book: Book, c: CloseAccount, offset: int) -> Changes:
    _permit(book, c, c.account_id)
    a = _account(book, c.account_id)
    if not a.is_empty():
        raise Rejection(Reason.ACCOUNT_NOT_EMPTY, field="account_id", account=c.account_id, available=a.available())
    a.closed, a.offset = True, offset
    return c.account_id, _audit(c, closed=True)


def admit_partner(book: Book, c: AdmitPartner, offset: int) -> Changes:
    _bank_only(c)
    if not PARTNER_ID.fullmatch(c.subject_id) or c.subject_id.split("/")[0] == BANK:
        raise Rejection(Reason.FIELD_INVALID, field="subject_id", rule="a path of names in a-z 0-9 . _ -, not bank")
    parent = c.subject_id.rpartition("/")[0]
    if book.draft.partners.find(c.subject_id) is not None:
        raise Rejection(Reason.PARTNER_EXISTS, field="subject_id", partner=c.subject_id)
    if parent and book.draft.partners.find(parent) is None:
        raise Rejection(Reason.PARENT_UNKNOWN, field="subject_id", partner=parent)
    book.draft.partners[c.subject_id] = Partner(c.subject_id, c.name, "live", offset)
    return c.subject_id, _audit(c, state="live", name=c.name)


def set_partner_state(book: Book, c: SetPartnerState, offset: int) -> Changes:
    _bank_only(c)
    if c.state not in PARTNER_STATES:
        raise Rejection(Reason.STATE_UNKNOWN, field="state", rule=" or ".join(PARTNER_STATES))
    partner = book.draft.partners.find(c.subject_id)
    if partner is None:
        raise Rejection(Reason.PARTNER_UNKNOWN, field="subject_id", partner=c.subject_id[:256])
    partner.state, partner.offset = c.state, offset
    return c.subject_id, _audit(c, state=c.state)


def _bank_only(c: Any) -> None:
    if c.partner_id != BANK:
        raise Rejection(Reason.NOT_PERMITTED, field="partner_id", partner=c.partner_id[:256])


_HANDLERS: dict[type, Any] = {
    OpenAccount: open_account,
    BlockAccount: block_account,
    SetAccountLimit: set_account_limit,
    CloseAccount: close_account,
    AdmitPartner: admit_partner,
    SetPartnerState: set_partner_state,
    PublishProduct: shelf.publish,
}
