"""Local time, business days and windows of limits, counted in integers: no clock and no time zone database in here.

A calendar carries its zone's offsets and its closed days as data. None stands for UTC with every day open. Days are
numbers since 1970-01-01, times are milliseconds UTC.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import lru_cache
from operator import attrgetter
from typing import Protocol

from ledger.days import civil
from schemas.identity import BANK
from schemas.records import CalendarState, Record

DAY_MS, HOUR_MS, MINUTE_MS = 86_400_000, 3_600_000, 60_000
AHEAD_DAYS_MAX = 400  # so far is looked for an open day
_THURSDAY = 3  # 1970-01-01, counted from Monday
_from_ms, _day = attrgetter("from_ms"), attrgetter("day")


class HasRows(Protocol):
    """What calendars are looked up in: a draft, or whatever has rows of `ledger.state` by key."""

    def row(self, key: str, /) -> Record | None: ...


def calendar_of(rows: HasRows, partner_id: str) -> CalendarState | None:
    """The partner's own calendar, else that of the nearest partner above, else the bank's (the settlement calendar)."""
    while partner_id:
        found = rows.row(f"c:{partner_id}")
        if found is not None:
            assert isinstance(found, CalendarState)
            return found
        partner_id = partner_id.rpartition("/")[0] or ("" if partner_id == BANK else BANK)
    return None


def local_ms(calendar: CalendarState | None, now: int) -> int:
    """What the calendar's clocks show at `now`."""
    if calendar is None or not calendar.offsets:
        return now
    last = bisect_right(calendar.offsets, now, key=_from_ms) - 1
    return now + calendar.offsets[max(last, 0)].minutes * MINUTE_MS


def local_date(calendar: CalendarState | None, now: int) -> int:
    """The date that the calendar's zone has at `now`, open or not."""
    return local_ms(calendar, now) // DAY_MS


def date_until(calendar: CalendarState | None, now: int) -> tuple[int, int]:
    """The local date at `now`, and a moment after it, in milliseconds UTC, until which it surely stays the same."""
    local = local_ms(calendar, now)
    until = now + DAY_MS - local % DAY_MS
    offsets = calendar.offsets if calendar is not None else ()
    following = bisect_right(offsets, now, key=_from_ms)
    if following < len(offsets):  # the clocks are changed before the day is over
        until = min(until, offsets[following].from_ms)
    return local // DAY_MS, until


def is_open(calendar: CalendarState | None, day: int) -> bool:
    """Whether business is done on this day."""
    if calendar is None:
        return True
    if calendar.closed_weekdays >> (day + _THURSDAY) % 7 & 1:
        return False
    closed = calendar.closed_days
    i = bisect_left(closed, day, key=_day)
    return i == len(closed) or closed[i].day != day


def business_day(calendar: CalendarState | None, now: int) -> int:
    """The first open day from the local date on; the local date when there is none for 400 days."""
    today = local_date(calendar, now)
    if is_open(calendar, today):
        return today
    return next((d for d in range(today, today + AHEAD_DAYS_MAX + 1) if is_open(calendar, d)), today)


def next_business_day(calendar: CalendarState | None, day: int) -> int:
    """The first open day after a day; the day after it when there is none for 400 days."""
    return next((d for d in range(day + 1, day + AHEAD_DAYS_MAX + 1) if is_open(calendar, d)), day + 1)


def window_number(calendar: CalendarState | None, window: str, now: int) -> int:
    """The number of the minute, hour, day or month that `now` lies in."""
    if window == "minute":
        return local_ms(calendar, now) // MINUTE_MS
    if window == "hour":
        return local_ms(calendar, now) // HOUR_MS
    day = business_day(calendar, now)
    if window == "day":
        return day
    return _month_of(day)


@lru_cache(1_024)
def _month_of(day: int) -> int:
    """The number of a day's month, from January 1970 on."""
    year, month, _ = civil(day)
    return (year - 1970) * 12 + month - 1


def window_ends(calendar: CalendarState | None, window: str, now: int) -> int:
    """When the window that `now` lies in is over, milliseconds UTC, as its calendar is now."""
    number = window_number(calendar, window, now)
    t = now
    for _ in range(2 * AHEAD_DAYS_MAX):
        t = _next_change(calendar, window, t)
        if window_number(calendar, window, t) != number:
            break
    return t


def _next_change(calendar: CalendarState | None, window: str, now: int) -> int:
    """A moment after `now` before which no window of this kind begins."""
    until = date_until(calendar, now)[1]
    size = {"minute": MINUTE_MS, "hour": HOUR_MS}.get(window)
    return until if size is None else min(until, now + size - local_ms(calendar, now) % size)
