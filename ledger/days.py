"""Days as numbers since 1970-01-01, by the Gregorian calendar, and as people write them."""

from __future__ import annotations


def civil(day: int) -> tuple[int, int, int]:
    """Year, month and day of the month: 20779 is (2026, 11, 22)."""
    # Counted from 0000-03-01, so that the leap day is the last of its year; 146,097 days are 400 years.
    era, rest = divmod(day + 719_468, 146_097)
    year = (rest - rest // 1_460 + rest // 36_524 - rest // 146_096) // 365
    of_year = rest - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    date = of_year - (153 * month + 2) // 5 + 1
    month += 3 if month < 10 else -9
    return era * 400 + year + (month <= 2), month, date


def iso_date(day: int) -> str:
    """A day as YYYY-MM-DD: 20779 is 2026-11-22."""
    year, month, date = civil(day)
    return f"{year:04d}-{month:02d}-{date:02d}"
