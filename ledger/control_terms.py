"""Control commands about limits and calendars, and the tick that lets time pass where nothing else happens."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from ledger import freezes, limits
from ledger.changes import Changes, audit, bank_only
from ledger.fields import invalid, is_day
from ledger.names import within
from ledger.partners import SETS
from ledger.reasons import Reason, Rejection
from schemas.identity import BANK, owner_of
from schemas.records import CalendarState, SetCalendar, SetLimit, Tick

if TYPE_CHECKING:
    from ledger.book import Book

ZONE_MAX = 64  # characters
OFFSETS_MAX = 500
MINUTES_MAX = 900  # east or west of UTC
WEEKDAYS_MAX = 126  # at least one weekday is open
CLOSED_DAYS_MAX = 1_000


def set_limit(book: Book, c: SetLimit, offset: int) -> Changes:
    """Sets all limits of a subject."""
    book.standing.require(c.partner_id, SETS)
    freezes.check_asker(book.draft, book.standing, c.partner_id)
    if c.partner_id != BANK and not _is_below(c):
        raise Rejection(Reason.NOT_PERMITTED, field="subject_id", partner=c.partner_id, subject=c.subject_id[:256])
    if c.level not in limits.LEVELS:
        invalid("level", ", ".join(limits.LEVELS))
    limits.check_limits(c.limits)
    draft = book.draft
    if c.level == limits.PARTNER and draft.partners.find(c.subject_id) is None:
        raise Rejection(Reason.PARTNER_UNKNOWN, field="subject_id", partner=c.subject_id[:256])
    if c.level == limits.ACCOUNT and draft.accounts.find(c.subject_id) is None:
        raise Rejection(Reason.ACCOUNT_UNKNOWN, field="subject_id", account=c.subject_id[:256])
    if c.level == limits.PRODUCT and not draft.versions(c.subject_id):
        raise Rejection(Reason.PRODUCT_UNKNOWN, field="subject_id", product=c.subject_id[:64])
    if c.partner_id != BANK and limits.loosens(limits.limits_of(draft, c.level, c.subject_id), c.limits):
        rule = "only the bank loosens or lifts limits"
        raise Rejection(Reason.NOT_PERMITTED, field="limits", rule=rule, subject=c.subject_id)
    limits.put(draft, c.level, c.subject_id, c.limits, offset)
    return c.subject_id, audit(c, level=c.level, limits=len(c.limits))


def _is_below(c: SetLimit) -> bool:
    """Whether a partner may limit this subject: partners below it, accounts of its subtree."""
    if c.level == limits.PARTNER:
        return c.subject_id != c.partner_id and within(c.subject_id, c.partner_id)
    return c.level == limits.ACCOUNT and within(owner_of(c.subject_id), c.partner_id)


def set_calendar(book: Book, c: SetCalendar, offset: int) -> Changes:
    """Sets the business-day calendar of a partner's tree, or the bank's."""
    bank_only(c)
    if c.subject_id != BANK and book.draft.partners.find(c.subject_id) is None:
        raise Rejection(Reason.PARTNER_UNKNOWN, field="subject_id", partner=c.subject_id[:256])
    if not 0 < len(c.zone) <= ZONE_MAX or not c.zone.isprintable():
        invalid("zone", f"1 to {ZONE_MAX} printable characters")
    if len(c.offsets) > OFFSETS_MAX or not _rise(o.from_ms for o in c.offsets):
        invalid("offsets", f"at most {OFFSETS_MAX}, strictly rising")
    if any(abs(o.minutes) > MINUTES_MAX for o in c.offsets):
        invalid("offsets", f"minutes within {MINUTES_MAX} of UTC")
    if not 0 <= c.closed_weekdays <= WEEKDAYS_MAX:
        invalid("closed_weekdays", f"0 to {WEEKDAYS_MAX}")
    if len(c.closed_days) > CLOSED_DAYS_MAX or not _rise(d.day for d in c.closed_days):
        invalid("closed_days", f"at most {CLOSED_DAYS_MAX}, strictly rising")
    if not all(is_day(d.day) for d in c.closed_days):
        invalid("closed_days", "days from 1970-01-01 to 2299-12-31")
    row = CalendarState(c.subject_id, c.zone, c.offsets, c.closed_weekdays, c.closed_days, offset)
    book.draft.put_row(f"c:{c.subject_id}", row)
    return c.subject_id, audit(
        c, zone=c.zone, offsets=len(c.offsets), closed_weekdays=c.closed_weekdays, closed_days=len(c.closed_days)
    )


def _rise(values: Iterable[int]) -> bool:
    return all(a < b for a, b in pairwise(values))


def tick(book: Book, c: Tick, offset: int) -> Changes:
    """Changes nothing: what is due lapsed before it, as before every command."""
    bank_only(c)
    return "", {}
