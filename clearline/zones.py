"""What the clocks of a zone show, as a list that a command can carry: the ledger itself asks no system for zones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from schemas.errors import BadInputError
from schemas.records import ZoneOffset

FIRST = datetime(2020, 1, 1, tzinfo=UTC)
LAST = datetime(2060, 1, 1, tzinfo=UTC)


@cache
def offsets_of(zone: str) -> tuple[ZoneOffset, ...]:
    """The offsets of an IANA zone from 2020 to 2059, in minutes east of UTC; the first one counts from 1970 on.

    Raises BadInputError for a zone that does not exist.
    """
    try:
        there = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInputError(f"{zone!r} is not an IANA time zone, such as Asia/Shanghai or Europe/Berlin") from None
    out = [ZoneOffset(0, _minutes(FIRST, there))]
    day = FIRST
    while day < LAST:
        following = day + timedelta(days=7)
        if _minutes(following, there) != out[-1].minutes:
            at = _change(day, following, there)
            out.append(ZoneOffset(int(at.timestamp()) * 1_000, _minutes(at, there)))
            following = at
        day = following
    return tuple(out)


def _minutes(at: datetime, zone: ZoneInfo) -> int:
    offset = at.astimezone(zone).utcoffset()
    assert offset is not None
    return round(offset.total_seconds() / 60)


def _change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The minute from which on the zone shows another offset than it did at `before`."""
    was = _minutes(before, zone)
    while after - before > timedelta(minutes=1):
        middle = before + (after - before) // 2
        middle = middle.replace(second=0, microsecond=0)
        if middle <= before:
            middle = before + timedelta(minutes=1)
        if _minutes(middle, zone) == was:
            before = middle
        else:
            after = middle
    return after
