"""Local time, business days and the numbers of windows, from docs/operations.md."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

from schemas.records import SetCalendar
from tests.model.values import path

EPOCH = date(1970, 1, 1)
MINUTE = 60_000
Calendars = Mapping[str, SetCalendar]


def iso(day: int) -> str:
    return (EPOCH + timedelta(days=day)).isoformat()


def of(calendars: Calendars, partner: str) -> SetCalendar | None:
    """A partner's own calendar, else the nearest above, else the bank's; None: UTC, every day open."""
    for name in [*reversed(path(partner)), "bank"]:
        if name in calendars:
            return calendars[name]
    return None


def local_ms(calendar: SetCalendar | None, now: int) -> int:
    if calendar is None or not calendar.offsets:
        return now
    in_force = [o for o in calendar.offsets if o.from_ms <= now] or [calendar.offsets[0]]
    return now + in_force[-1].minutes * MINUTE


def local_day(calendar: SetCalendar | None, now: int) -> int:
    return local_ms(calendar, now) // (1440 * MINUTE)


def is_open(calendar: SetCalendar | None, day: int) -> bool:
    if calendar is None:
        return True
    weekday = (day + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    return not calendar.closed_weekdays >> weekday & 1 and day not in {c.day for c in calendar.closed_days}


def first_open(calendar: SetCalendar | None, first: int, days: int) -> int | None:
    """The first open day from `first` on, among so many."""
    return next((d for d in range(first, first + days) if is_open(calendar, d)), None)


def business_day(calendar: SetCalendar | None, now: int) -> int:
    today = local_day(calendar, now)
    found = first_open(calendar, today, 401)
    return today if found is None else found


def next_day(calendar: SetCalendar | None, day: int) -> int:
    """The next business day after a day; at most 400 days ahead, else the day after it."""
    found = first_open(calendar, day + 1, 400)
    return day + 1 if found is None else found


def window_number(calendar: SetCalendar | None, window: str, now: int) -> int:
    if window == "minute":
        return local_ms(calendar, now) // MINUTE
    if window == "hour":
        return local_ms(calendar, now) // (60 * MINUTE)
    day = business_day(calendar, now)
    if window == "day":
        return day
    that = EPOCH + timedelta(days=day)
    return (that.year - 1970) * 12 + that.month - 1
