"""Rows of `ledger.state` that are kept as the records that they are: limits, usage, calendars, days, products, freezes.

`schemas.records` has all of these names too. Dates are days since 1970-01-01; amounts are minor units.
"""

from __future__ import annotations

from schemas.commands import ClosedDay, Limit, Record, ZoneOffset


class LimitState(Record, frozen=True, gc=False):
    """The limits of one subject as of `source_offset`."""

    level: str
    subject_id: str
    limits: tuple[Limit, ...]
    source_offset: int


class Used(Record, frozen=True, gc=False):
    """What one window has taken. `start`: number of the window, counted from 1970-01-01 in local time."""

    window: str
    currency: str
    start: int
    count: int
    amount: int


class UsageState(Record, frozen=True, gc=False):
    """What the open windows of one subject have taken, as of `source_offset`."""

    level: str
    subject_id: str
    used: tuple[Used, ...]
    source_offset: int


class CalendarState(Record, frozen=True, gc=False):
    """One business-day calendar as of `source_offset`; the fields are those of SetCalendar."""

    subject_id: str
    zone: str
    offsets: tuple[ZoneOffset, ...]
    closed_weekdays: int
    closed_days: tuple[ClosedDay, ...]
    source_offset: int


class DayState(Record, frozen=True, gc=False):
    """A closed day as of `source_offset`. `sequence`: of the record that closed it; `hash`: empty until sealed."""

    day: int
    sequence: int
    hash: str
    source_offset: int


class ProductState(Record, frozen=True, gc=False):
    """One version of a product as of `source_offset`; the fields are those of PublishProduct."""

    product: str
    version: int
    effective_from: int
    document: str
    source_offset: int


class FreezeState(Record, frozen=True, gc=False):
    """What is frozen as of `source_offset`, by whom and why. `since`: event time, milliseconds UTC."""

    level: str
    subject_id: str
    requested_by: str
    note: str
    approved_by: str
    since: int
    source_offset: int
