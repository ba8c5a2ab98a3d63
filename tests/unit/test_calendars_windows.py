"""When a window is over: against walking on by minutes until it is another one."""

from __future__ import annotations

import random

import pytest

from ledger.calendars import DAY_MS, MINUTE_MS, window_ends, window_number
from schemas.records import CalendarState, ClosedDay, ZoneOffset

FIRST = 20_700
CALENDARS = {
    "utc": None,
    "weekends": CalendarState("bank", "Asia/Shanghai", (ZoneOffset(0, 480),), 0b1100000, (ClosedDay(FIRST + 40),), 0),
    "summer": CalendarState(
        "acme", "Europe/Berlin", (ZoneOffset(0, 60), ZoneOffset((FIRST + 50) * DAY_MS + 3_600_000, 120)), 0, (), 0
    ),
}


@pytest.mark.parametrize("window", ["minute", "hour", "day", "month"])
@pytest.mark.parametrize("name", list(CALENDARS))
def test_a_window_ends_when_the_next_one_begins(name: str, window: str) -> None:
    calendar = CALENDARS[name]
    rng = random.Random(f"{name} {window}")
    for _ in range(5 if window == "month" else 60):
        now = rng.randrange(FIRST * DAY_MS, (FIRST + 100) * DAY_MS)
        number, t = window_number(calendar, window, now), now
        while window_number(calendar, window, t) == number:
            t += MINUTE_MS - t % MINUTE_MS
        assert window_ends(calendar, window, now) == t
