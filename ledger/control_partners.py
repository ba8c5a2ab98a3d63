"""Control commands about partners: admission, and the steps of their life (the table is in `ledger.partners`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.changes import Changes, audit, bank_only
from ledger.fields import invalid
from ledger.names import PARTNER_ID, within
from ledger.partners import ADMITTED_AS, STATES
from ledger.reasons import Reason, Rejection
from ledger.state import Partner
from schemas.identity import BANK, owner_of, root_of
from schemas.records import AdmitPartner, SetPartnerState

if TYPE_CHECKING:
    from ledger.book import Book

SANDBOX, LIVE, EXITED = "sandbox", "live", "exited"


def admit_partner(book: Book, c: AdmitPartner, offset: int) -> Changes:
    """Admits a partner below one that was admitted before."""
    bank_only(c)
    if not PARTNER_ID.fullmatch(c.subject_id) or root_of(c.subject_id) == BANK:
        invalid("subject_id", "a path of names in a-z 0-9 . _ -, not bank")
    if c.state not in ADMITTED_AS:
        raise Rejection(Reason.STATE_UNKNOWN, field="state", rule=" or ".join(ADMITTED_AS))
    partners = book.draft.partners
    if partners.find(c.subject_id) is not None:
        raise Rejection(Reason.PARTNER_EXISTS, field="subject_id", partner=c.subject_id)
    parent = c.subject_id.rpartition("/")[0]
    above = partners.find(parent) if parent else None
    if parent and (above is None or above.state == EXITED):
        raise Rejection(Reason.PARENT_UNKNOWN, field="subject_id", partner=parent)
    partners[c.subject_id] = Partner(c.subject_id, c.name, c.state, offset)
    return c.subject_id, audit(c, state=c.state, name=c.name)


def set_partner_state(book: Book, c: SetPartnerState, offset: int) -> Changes:
    """Takes a partner one step further in its life; who asked for it and why stands in the journal."""
    bank_only(c)
    for name in ("requested_by", "note"):
        if not getattr(c, name):
            invalid(name, "who asks for it, and why")
    partner = book.draft.partners.find(c.subject_id)
    _check_approval(c, goes_live=c.state == LIVE and partner is not None and partner.state == SANDBOX)
    if c.state not in STATES:
        raise Rejection(Reason.STATE_UNKNOWN, field="state", rule=", ".join(STATES))
    if partner is None:
        raise Rejection(Reason.PARTNER_UNKNOWN, field="subject_id", partner=c.subject_id[:256])
    may_become = STATES[partner.state].may_become
    if c.state not in may_become:
        raise Rejection(
            Reason.STATE_TRANSITION,
            field="state",
            partner=c.subject_id,
            state=partner.state,
            rule=", ".join(may_become),
        )
    if c.state == EXITED:
        _check_empty(book, c.subject_id)
    partner.state, partner.offset = c.state, offset
    return c.subject_id, audit(c, state=c.state, **({"approved_by": c.approved_by} if c.approved_by else {}))


def _check_approval(c: SetPartnerState, *, goes_live: bool) -> None:
    """Nobody takes a partner live alone, and nobody is the second person of what they asked for themselves."""
    if goes_live and not c.approved_by:
        invalid("approved_by", "to go live takes a second person")
    if c.approved_by == c.requested_by:
        invalid("approved_by", "another person than requested_by")


def _check_empty(book: Book, subject: str) -> None:
    """A partner leaves when nothing is on its accounts, and nobody is left below it."""
    accounts = book.draft.accounts.select(lambda account_id: within(owner_of(account_id), subject))
    full = min((name for name, a in accounts.items() if not a.is_empty()), default="")
    if full:
        raise Rejection(Reason.PARTNER_NOT_EMPTY, field="subject_id", account=full)
    below = book.draft.partners.select(lambda partner_id: partner_id.startswith(subject + "/"))
    left = min((name for name, p in below.items() if p.state != EXITED), default="")
    if left:
        raise Rejection(Reason.PARTNER_NOT_EMPTY, field="subject_id", partner=left)
