"""Days as numbers since 1970-01-01, and as people write them."""

from __future__ import annotations


def iso_date(day: int) -> str:
    """A day since 1970-01-01 as YYYY-MM-DD, by the Gregorian calendar: 20779 is 2026-11-22."""
    # Counted from 0000-03-01, so that the leap day is the last of its year; 146,097 days are 400 years.
    era, rest = divmod(day + 719_468, 146_097)
    year = (rest - rest // 1_460 + rest // 36_524 - rest // 146_096) // 365
    of_year = rest - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    date = of_year - (153 * month + 2) // 5 + 1
    month += 3 if month < 10 else -9
    return f"{era * 400 + year + (month <= 2):04d}-{month:02d}-{date:02d}"
