"""Local time, business days, and the closing of days."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

from clearline.audit.closes import EPOCH, digest_of, figures_of, iso, well_formed
from clearline.audit.contract import DAY_MS, Terms
from clearline.audit.figures import LAST_DAY
from clearline.audit.partners import path_of
from clearline.audit.registrations import Registrations
from schemas.identity import BANK
from schemas.records import CloseDay, SealDay, SetCalendar

OFFSETS_MAX, CLOSED_DAYS_MAX, ZONE_CHARS_MAX, MINUTES_MAX, WEEKDAYS_MAX = 500, 1_000, 64, 900, 126
AHEAD_MAX = 400  # days
THURSDAY = 3  # 1970-01-01, counted from Monday


def day_of(text: str) -> int:
    """The day again, since 1970-01-01."""
    return (date.fromisoformat(text) - EPOCH).days


class Calendar:
    """One calendar: offsets (ms UTC, minutes), weekdays and days without business."""

    def __init__(self, c: SetCalendar | None, offset: int = -1) -> None:
        self.zone = c.zone if c else ""
        self.offsets = [(o.from_ms, o.minutes) for o in c.offsets] if c else []
        self.weekdays = c.closed_weekdays if c else 0
        self.closed_days = [d.day for d in c.closed_days] if c else []
        self.offset = offset
        self._closed = set(self.closed_days)

    def local_ms(self, at: int) -> int:
        """What the clocks show at a moment, in ms since 1970-01-01 00:00 there."""
        minutes = self.offsets[0][1] if self.offsets else 0
        for from_ms, m in self.offsets:
            if from_ms <= at:
                minutes = m
        return at + minutes * 60_000

    def date(self, at: int) -> int:
        """The local date of a moment, days since 1970-01-01."""
        return self.local_ms(at) // DAY_MS

    def is_open(self, day: int) -> bool:
        return not self.weekdays >> (day + THURSDAY) % 7 & 1 and day not in self._closed

    def first_open(self, day: int, at_most: int = AHEAD_MAX) -> int:
        """The first open day from this one on, at most so many days later; this one when there is none."""
        return next((d for d in range(day, day + at_most + 1) if self.is_open(d)), day)

    def window(self, kind: str, at: int) -> int:
        """The number of the minute, hour, day or month that a moment lies in."""
        if kind in ("minute", "hour"):
            return self.local_ms(at) // (60_000 if kind == "minute" else 3_600_000)
        day = self.first_open(self.date(at))
        if kind == "day":
            return day
        d = EPOCH + timedelta(days=day)
        return (d.year - 1970) * 12 + d.month - 1


ALWAYS_OPEN = Calendar(None)


class Calendars(Registrations):
    """The calendars by subject, and how far the days are closed."""

    def __init__(self, terms: Terms, partition: int = 0) -> None:
        super().__init__(terms, partition)
        self.calendars: dict[str, Calendar] = {}
        self.sequence = 0  # of the journal record that is looked at
        self.days: dict[int, tuple[int, str, int]] = {}  # sequence that closed it, hash, offset of the last change

    def calendar_of(self, partner: str) -> Calendar:
        """The partner's own calendar, else the nearest above, else the bank's."""
        for p in reversed(path_of(partner)):
            if p in self.calendars:
                return self.calendars[p]
        return self.calendars.get(BANK, ALWAYS_OPEN)

    def set_calendar(self, offset: int, c: SetCalendar) -> str:
        """The reason why a calendar is not set, or empty."""
        if c.partner_id != BANK:
            return "not_permitted"
        if c.subject_id != BANK and c.subject_id not in self.partner_state:
            return "partner_unknown"
        moments, days = [o.from_ms for o in c.offsets], [d.day for d in c.closed_days]
        right = (
            1 <= len(c.zone) <= ZONE_CHARS_MAX
            and c.zone.isprintable()
            and len(moments) <= OFFSETS_MAX
            and all(a < b for a, b in pairwise(moments))
            and all(abs(o.minutes) <= MINUTES_MAX for o in c.offsets)
            and 0 <= c.closed_weekdays <= WEEKDAYS_MAX
            and len(days) <= CLOSED_DAYS_MAX
            and all(a < b for a, b in pairwise(days))
            and all(0 <= d <= LAST_DAY for d in days)
        )
        if not right:
            return "field_invalid"
        self.calendars[c.subject_id] = Calendar(c, offset)
        self.unsure_calendars.discard(c.subject_id)
        return ""

    def close_day(self, offset: int, c: CloseDay) -> str:
        """The reason why a day is not closed, or empty."""
        if c.partner_id != BANK:
            return "not_permitted"
        if not 0 <= c.day <= LAST_DAY:
            return "field_invalid"
        if c.day <= self.closed_through:
            return "day_closed"
        ahead = c.day > self.calendar_of(BANK).date(self.event_time)
        if BANK in self.unsure_calendars and self.witness is not None:
            ahead = self.witness.reason == "day_ahead"
        if ahead:
            return "day_ahead"
        self.closed_through = c.day
        self.days[c.day] = (self.sequence, "", offset)
        return ""

    def closed_by(self, day: int) -> int:
        """Sequence of the record that closed a day, also together with a later one; 0 while it is open."""
        later = [d for d in self.days if d >= day]
        return self.days[min(later)][0] if later else 0

    def seal_day(self, offset: int, c: SealDay) -> str:
        """The reason why a day is not sealed, or empty."""
        if c.partner_id != BANK:
            return "not_permitted"
        if not 0 <= c.day <= LAST_DAY or not well_formed(c) or c.hash != digest_of(figures_of(c)):
            return "field_invalid"
        sequence = self.closed_by(c.day)
        if not sequence:
            return "day_open"
        if self.days.get(c.day, (0, "", 0))[1]:
            return "day_sealed"
        if {at.partition: at.sequence for at in c.cut}.get(self.partition) != sequence:
            return "field_invalid"
        self.days[c.day] = (sequence, c.hash, offset)
        return ""

    def todays(self) -> list[int]:
        """Today's local date by the settlement calendar; where nothing that is kept says that, each that it may be."""
        if BANK in self.unsure_calendars and self.witness is not None:
            first, last = ((self.event_time + m * 60_000) // DAY_MS for m in (-MINUTES_MAX, MINUTES_MAX))
            return list(range(first, last + 1))
        return [self.calendar_of(BANK).date(self.event_time)]

    def next_day(self) -> int:
        """The business day after the last closed one, by the settlement calendar as it is now."""
        if BANK in self.unsure_calendars and self.witness is not None:
            said = self.witness.changes.get("next_day")
            return day_of(said) if said else self.witness.value_date
        return self.calendar_of(BANK).first_open(self.closed_through + 1, AHEAD_MAX - 1)

    def booked_on(self, value_date: int) -> tuple[int, dict[str, str]]:
        """The value date on which something is booked, and what the record says of it when it comes late."""
        if value_date > self.closed_through:
            return value_date, {}
        return self.next_day(), {"late_for": iso(value_date)}
