"""Commands of the bank's operators: freezing and lifting it, and acts outside of the ledger that shall stand in it.

Who froze and why stands in the journal and in the row; a partner whose money does not move is told neither.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ledger import freezes
from ledger.changes import Changes, audit, bank_only
from ledger.control_accounts import check_transit
from ledger.fields import TEXT_MAX, invalid
from ledger.reasons import Reason, Rejection
from schemas.records import FreezeState, OperatorAct, SetFreeze

if TYPE_CHECKING:
    from ledger.book import Book

_ACT = re.compile(r"[a-z][a-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BY_TWO = (freezes.PARTNER, freezes.WORLD)  # what no single person lifts


def set_freeze(book: Book, c: SetFreeze, offset: int) -> Changes:
    """Freezes a subject or lifts that. What is as it is asked for stays as it is, and the command is applied."""
    bank_only(c)
    _check_who_and_why(c)
    if c.level not in freezes.LEVELS:
        invalid("level", ", ".join(freezes.LEVELS))
    if c.level == freezes.WORLD and c.subject_id != freezes.THE_WORLD:
        invalid("subject_id", f"{freezes.THE_WORLD}, for the world that this is")
    if not c.frozen and c.level in _BY_TWO and not c.approved_by:
        invalid("approved_by", f"to lift the freeze of a {c.level} takes a second person")
    _check_approval(c)
    _check_subject(book, c)
    draft, key = book.draft, freezes.row_key(c.level, c.subject_id)
    known = draft.row(key) is not None
    if c.frozen and not known:
        row = FreezeState(
            c.level, c.subject_id, c.requested_by, c.note, c.approved_by, book.head.event_time, offset
        )  # fmt: skip
        draft.put_row(key, row)
    elif not c.frozen and known:
        draft.put_row(key, None)
    if c.level == freezes.ACCOUNT:
        account = draft.accounts[c.subject_id]
        if account.frozen != c.frozen:
            account.frozen, account.offset = c.frozen, offset
    approved = {"approved_by": c.approved_by} if c.approved_by else {}
    return c.subject_id, audit(c, level=c.level, frozen=c.frozen, **approved)


def operator_act(book: Book, c: OperatorAct, offset: int) -> Changes:
    """Changes nothing: that it was done, by whom and why, is what its record says."""
    bank_only(c)
    _check_who_and_why(c)
    if not _ACT.fullmatch(c.act):
        invalid("act", "a-z, then up to 63 of a-z 0-9 . _ -")
    if not 0 < len(c.subject_id) <= TEXT_MAX:
        invalid("subject_id", f"1 to {TEXT_MAX} characters")
    if c.digest and not _DIGEST.fullmatch(c.digest):
        invalid("digest", "64 hexadecimal digits, or empty")
    _check_approval(c)
    approved = {"approved_by": c.approved_by} if c.approved_by else {}
    return c.subject_id, audit(c, act=c.act, digest=c.digest, **approved)


def _check_who_and_why(c: SetFreeze | OperatorAct) -> None:
    for name in ("requested_by", "note"):
        if not 0 < len(getattr(c, name)) <= TEXT_MAX:
            invalid(name, f"who asks for it, and why: 1 to {TEXT_MAX} characters")


def _check_approval(c: SetFreeze | OperatorAct) -> None:
    """Nobody is the second person of what they asked for themselves."""
    if len(c.approved_by) > TEXT_MAX or c.approved_by == c.requested_by:
        invalid("approved_by", f"another person than requested_by, at most {TEXT_MAX} characters")


def _check_subject(book: Book, c: SetFreeze) -> None:
    """What is frozen is there. An account may be closed: its freeze can still be lifted."""
    draft, subject = book.draft, c.subject_id
    if c.level == freezes.ACCOUNT:
        check_transit(subject, c.partner_id, "subject_id")
        if draft.accounts.find(subject) is None:
            raise Rejection(Reason.ACCOUNT_UNKNOWN, field="subject_id", account=subject[:256])
    elif c.level == freezes.PARTNER and draft.partners.find(subject) is None:
        raise Rejection(Reason.PARTNER_UNKNOWN, field="subject_id", partner=subject[:256])
    elif c.level == freezes.PRODUCT and not draft.versions(subject):
        raise Rejection(Reason.PRODUCT_UNKNOWN, field="subject_id", product=subject[:64])
