"""The rows that `ledger.state` must have of a recomputed ledger, apart from accounts and holds.

What nothing says that is still kept (limits of a subject that the recomputation is unsure of) is taken from the rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from clearline.audit.limits import Subject
from clearline.audit.recompute import Recomputation
from schemas.records import (
    CalendarState,
    ClosedDay,
    CrossingPart,
    CrossingState,
    DayState,
    LimitState,
    PartnerState,
    Posting,
    ProductState,
    UsageState,
    Used,
    ZoneOffset,
)


def partner_rows(m: Recomputation) -> dict[str, PartnerState]:
    """By path."""
    return {p: PartnerState(p, m.partner_name[p], state, m.partner_offset[p]) for p, state in m.partner_state.items()}


def limit_rows(m: Recomputation, rows: Mapping[Subject, LimitState]) -> dict[Subject, LimitState]:
    """By subject."""
    out = {s: LimitState(*s, limits, m.limits_offset[s]) for s, limits in m.limits.items()}
    return out | {s: rows[s] for s in m.unsure_limits if s in rows}


def usage_rows(m: Recomputation, rows: Mapping[Subject, UsageState]) -> dict[Subject, UsageState]:
    """By subject; a product's for each root partner apart."""
    out = {s: UsageState(*s, tuple(Used(*row) for row in used), m.used_offset[s]) for s, used in m.used.items()}
    return out | {s: row for s, row in rows.items() if m.is_unsure(s)}


def ordered(rows: Mapping[Subject, UsageState]) -> dict[Subject, UsageState]:
    """The same with each row's windows in one order: which of them stands first says nothing about money."""
    return {s: replace(r, used=tuple(sorted(r.used, key=lambda u: (u.window, u.currency)))) for s, r in rows.items()}


def calendar_rows(m: Recomputation, rows: Mapping[str, CalendarState]) -> dict[str, CalendarState]:
    """By subject."""
    return {
        s: CalendarState(s, c.zone, tuple(ZoneOffset(*o) for o in c.offsets), c.weekdays,
                         tuple(map(ClosedDay, c.closed_days)), c.offset)
        for s, c in m.calendars.items()
    } | {s: rows[s] for s in m.unsure_calendars if s in rows}  # fmt: skip


def product_rows(m: Recomputation) -> dict[tuple[str, int], ProductState]:
    """By product and version."""
    return {
        (p, v.version): ProductState(p, v.version, v.effective_from, v.text, v.offset)
        for p, versions in m.shelf.items()
        for v in versions
    }


def day_rows(m: Recomputation) -> dict[int, DayState]:
    """By day."""
    return {day: DayState(day, *row) for day, row in m.days.items()}


def crossing_rows(m: Recomputation) -> dict[tuple[int, bytes], CrossingState]:
    """By home partition and transaction id."""
    return {
        name: CrossingState(
            f.transaction_id, f.digest, f.home, f.home_partition, f.asker, f.asker_key, f.product, f.version,
            f.operation, f.value_date, f.reference, f.metadata, tuple(Posting(*leg) for leg in f.legs),
            tuple(CrossingPart(*part) for part in f.answers.items()), f.reason, f.detail, f.opened, f.changed,
        )
        for name, f in m.flights.items()
    }  # fmt: skip
