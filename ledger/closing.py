"""The end of a day: closing it, and sealing what the whole ledger had when it was closed.

A seal is worked out outside, from the journal's rows. Here is held what one partition knows of it: that its words and
its hash belong together, that the day is closed, and that the cut is where this partition closed it.
"""

from __future__ import annotations

import re
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING

from ledger.calendars import calendar_of, local_date, next_business_day
from ledger.changes import Changes, audit, bank_only
from ledger.days import iso_date
from ledger.fields import invalid, is_day
from ledger.money import EXPONENTS
from ledger.reasons import Reason, Rejection
from schemas.identity import BANK
from schemas.records import CloseDay, DayState, SealDay, SealedPlace, SealedTotal

if TYPE_CHECKING:
    from ledger.book import Book
    from ledger.state import Draft

PARTITIONS_MAX = 1_000
TOTALS_MAX = 100_000
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUM = re.compile(r"[1-9][0-9]{0,37}")


def close_day(book: Book, c: CloseDay, offset: int) -> Changes:
    """Closes a business day: what is valued on it from now on is late, and booked to the next business day."""
    bank_only(c)
    if not is_day(c.day):
        invalid("day", "a day from 1970-01-01 to 2299-12-31")
    head = book.head
    if c.day <= head.closed_through:
        raise Rejection(
            Reason.DAY_CLOSED, field="day", day=iso_date(c.day), closed_through=iso_date(head.closed_through)
        )
    calendar = calendar_of(book.draft, BANK)
    today = local_date(calendar, head.event_time)
    if c.day > today:
        raise Rejection(Reason.DAY_AHEAD, field="day", day=iso_date(c.day), today=iso_date(today))
    head.closed_through = c.day
    day = iso_date(c.day)
    book.draft.put_row(f"y:{day}", DayState(c.day, head.sequence + 1, "", offset))
    return day, audit(c, day=day, next_day=iso_date(next_business_day(calendar, c.day)))


def seal_day(book: Book, c: SealDay, offset: int) -> Changes:
    """Seals a closed day, once."""
    bank_only(c)
    if not is_day(c.day):
        invalid("day", "a day from 1970-01-01 to 2299-12-31")
    if not _is_cut(c.cut):
        invalid("cut", f"1 to {PARTITIONS_MAX} partitions, rising, with sequence and chain")
    if not _are_totals(c.totals, {at.partition for at in c.cut}):
        invalid("totals", f"at most {TOTALS_MAX}, rising by partition and currency, debits and credits alike")
    figures = figures_of(c)
    if c.hash != sha256(figures.encode()).hexdigest():
        invalid("hash", "SHA-256 of what is sealed")
    closed = _closed(book.draft, c.day, book.head.closed_through)
    day = iso_date(c.day)
    if closed is None:
        raise Rejection(Reason.DAY_OPEN, field="day", day=day)
    if closed.day == c.day and closed.hash:
        raise Rejection(Reason.DAY_SEALED, field="day", day=day, hash=closed.hash)
    here = next((at.sequence for at in c.cut if at.partition == book.partition), 0)
    if here != closed.sequence:
        invalid("cut", f"partition {book.partition} closed the day with record {closed.sequence}")
    book.draft.put_row(f"y:{day}", DayState(c.day, closed.sequence, c.hash, offset))
    cut = ",".join(f"{at.partition}:{at.sequence}" for at in c.cut)
    return day, audit(c, day=day, hash=c.hash, cut=cut, figures=figures)


def _is_cut(cut: tuple[SealedPlace, ...]) -> bool:
    return (
        0 < len(cut) <= PARTITIONS_MAX and cut[0].partition >= 0
        and all(a.partition < b.partition for a, b in pairwise(cut))
        and all(at.sequence > 0 and _DIGEST.fullmatch(at.chain) is not None for at in cut)
    )  # fmt: skip


def _are_totals(totals: tuple[SealedTotal, ...], partitions: set[int]) -> bool:
    return (
        len(totals) <= TOTALS_MAX
        and all((a.partition, a.currency) < (b.partition, b.currency) for a, b in pairwise(totals))
        and all(
            t.partition in partitions and t.currency in EXPONENTS and _SUM.fullmatch(t.debits) is not None
            and t.credits == t.debits and t.postings >= 2
            for t in totals
        )
    )  # fmt: skip


def figures_of(c: SealDay) -> str:
    """The text that is sealed: JSON in one form. Nothing in it needs escaping once the fields are checked."""
    cut = ",".join(f'{{"partition":{at.partition},"sequence":{at.sequence},"chain":"{at.chain}"}}' for at in c.cut)
    totals = ",".join(
        f'{{"partition":{t.partition},"currency":"{t.currency}","debits":"{t.debits}","credits":"{t.credits}",'
        f'"postings":{t.postings}}}'
        for t in c.totals
    )
    return f'{{"day":"{iso_date(c.day)}","cut":[{cut}],"totals":[{totals}]}}'


def _closed(draft: Draft, day: int, closed_through: int) -> DayState | None:
    """The row of this day, else of the first closed after it: that one closed both."""
    for d in range(day, closed_through + 1):
        found = draft.row(f"y:{iso_date(d)}")
        if found is not None:
            assert isinstance(found, DayState)
            return found
    return None
