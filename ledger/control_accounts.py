"""Control commands about accounts: open, block and freeze, change limits, close.

Lifting a block or a freeze, changing limits and opening an account that may go below zero is the bank's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger import freezes
from ledger.accounts import ACCOUNT_TYPES, DEBIT_NORMAL, Account
from ledger.changes import Changes, audit
from ledger.fields import invalid
from ledger.money import AMOUNT_MAX, EXPONENTS
from ledger.names import is_account, within
from ledger.partners import OPENS, SETS
from ledger.reasons import Reason, Rejection
from ledger.rules import TRANSIT, not_owned
from schemas.identity import BANK, owner_of
from schemas.records import BlockAccount, CloseAccount, OpenAccount, SetAccountLimit

if TYPE_CHECKING:
    from ledger.book import Book


def open_account(book: Book, c: OpenAccount, offset: int) -> Changes:
    """Opens an account."""
    _permit(book, c, OPENS)
    if c.partner_id != BANK and c.type in DEBIT_NORMAL:
        _not_permitted(c, field="type", rule="liability, equity or income; a debit of others takes from nobody")
    if c.partner_id != BANK and (c.min_available is None or c.min_available < 0):
        _not_permitted(c, field="min_available", rule="0 or more; only the bank lends")
    if c.partner_id != BANK and c.credit_limit:
        _not_permitted(c, field="credit_limit", rule="0; only the bank lends")
    if not is_account(c.account_id):
        invalid("account_id", "owner partner, colon, name of 1 to 128 characters")
    if c.type not in ACCOUNT_TYPES:
        invalid("type", ", ".join(sorted(ACCOUNT_TYPES)))
    if c.currency not in EXPONENTS:
        raise Rejection(Reason.CURRENCY_UNKNOWN, field="currency", currency=c.currency[:16])
    _check_limits(c.min_available, c.credit_limit)
    book.standing.require(owner_of(c.account_id), OPENS)
    freezes.check_partner(book.standing, owner_of(c.account_id), "account_id")
    check_transit(c.account_id, c.partner_id)
    if book.draft.accounts.find(c.account_id) is not None:
        raise Rejection(Reason.ACCOUNT_EXISTS, field="account_id", account=c.account_id)
    opened = Account.new(c.account_id, c.type, c.currency, c.min_available, offset, c.credit_limit)
    book.draft.accounts[c.account_id] = opened
    return c.account_id, audit(
        c, type=c.type, currency=c.currency, min_available=c.min_available, credit_limit=c.credit_limit
    )


def block_account(book: Book, c: BlockAccount, offset: int) -> Changes:
    """Sets or lifts blocks and the freeze of an account."""
    _permit(book, c, SETS)
    a = _account(book, c)
    lifts = (
        (a.debits_blocked and not c.block_debits)
        or (a.credits_blocked and not c.block_credits)
        or (a.frozen and not c.freeze)
    )
    if lifts and c.partner_id != BANK:
        _not_permitted(c, field="partner_id", rule="only the bank lifts a block or a freeze")
    a.debits_blocked, a.credits_blocked, a.frozen, a.offset = c.block_debits, c.block_credits, c.freeze, offset
    if not c.freeze and book.draft.is_frozen(freezes.ACCOUNT, c.account_id):
        book.draft.put_row(freezes.row_key(freezes.ACCOUNT, c.account_id), None)
    return c.account_id, audit(c, block_debits=c.block_debits, block_credits=c.block_credits, freeze=c.freeze)


def set_account_limit(book: Book, c: SetAccountLimit, offset: int) -> Changes:
    """Changes what must stay available on an account, and how far it may borrow."""
    _permit(book, c, SETS, bank_only=True)
    _check_limits(c.min_available, c.credit_limit)
    a = _account(book, c)
    a.min_available, a.credit_limit, a.offset = c.min_available, c.credit_limit, offset
    book.draft.floors_set.add(a.account_id)
    return c.account_id, audit(c, min_available=c.min_available, credit_limit=c.credit_limit)


def close_account(book: Book, c: CloseAccount, offset: int) -> Changes:
    """Closes an account that is empty, for good."""
    _permit(book, c, SETS)
    a = _account(book, c)
    if not a.is_empty():
        raise Rejection(Reason.ACCOUNT_NOT_EMPTY, field="account_id", account=c.account_id, available=a.available())
    a.closed, a.offset = True, offset
    return c.account_id, audit(c, closed=True)


def _permit(book: Book, c: Any, what: str, *, bank_only: bool = False) -> None:
    """Raises Rejection unless the command's partner may act on this account."""
    book.standing.require(c.partner_id, what)
    freezes.check_asker(book.draft, book.standing, c.partner_id)
    if c.partner_id != BANK and (bank_only or not within(owner_of(c.account_id), c.partner_id)):
        _not_permitted(c, field="partner_id", partner=c.partner_id)


def _not_permitted(c: Any, **detail: str) -> None:
    raise Rejection(Reason.NOT_PERMITTED, **detail, account=c.account_id[:256])


def check_transit(account_id: str, partner_id: str, field: str = "account_id") -> None:
    """What is under way between partitions stands on accounts that no command may touch. Raises Rejection."""
    if account_id.startswith(TRANSIT):
        raise not_owned(field, account_id, partner_id)


def _account(book: Book, c: Any) -> Account:
    """The open account that a command names."""
    check_transit(c.account_id, c.partner_id)
    found = book.draft.accounts.find(c.account_id)
    if found is None:
        raise Rejection(Reason.ACCOUNT_UNKNOWN, field="account_id", account=c.account_id[:256])
    if found.closed:
        raise Rejection(Reason.ACCOUNT_CLOSED, field="account_id", account=c.account_id)
    return found


def _check_limits(min_available: int | None, credit_limit: int) -> None:
    if min_available is not None and abs(min_available) > AMOUNT_MAX:
        raise Rejection(Reason.AMOUNT_TOO_LARGE, field="min_available", limit=AMOUNT_MAX)
    if credit_limit < 0:
        invalid("credit_limit", "0 or more")
    if credit_limit > AMOUNT_MAX:
        raise Rejection(Reason.AMOUNT_TOO_LARGE, field="credit_limit", limit=AMOUNT_MAX)
    if credit_limit and min_available is None:
        invalid("credit_limit", "0 where min_available sets no limit")
