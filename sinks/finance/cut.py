"""Up to where a report goes: a cut through the journal, one place per partition, and a moment of booking.

A report at a cut counts exactly the records with a sequence up to the cut's, in each partition, and none booked after
`known_at`. Rows of the journal never change, so a report at the same cut is the same to the byte, whenever it is made
and however often ClickHouse was rebuilt. Sequences, not offsets, name a cut: they have no gaps, and a ledger that is
replayed from its commands has the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from types import MappingProxyType
from typing import NamedTuple

from schemas.errors import BadInputError
from sinks.clickhouse import Database

LAST_MOMENT = datetime(2299, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
# Asked first, then the days: a batch that comes in between is in the days, or stands here beyond the outcomes. In one
# statement that would rest on both having the same snapshot, which is a setting of the server's.
_ENDS = """
    SELECT 'outcomes', partition, max(sequence), max(offset), count() FROM outcomes GROUP BY topic, partition
    UNION ALL SELECT 'postings', partition, 0, max(offset), count() FROM postings GROUP BY topic, partition
    UNION ALL SELECT 'pending', partition, 0, max(offset), count() FROM pending GROUP BY topic, partition
"""
# The same of the head, where the outcomes are read by day: the last day is known then, and no day is beyond. Their last
# offsets are those of the places that are looked up next.
_HEAD = """
    SELECT 'outcomes', partition, max(high), 0, sum(n), max(day) FROM
    (
        SELECT partition, booked_date AS day, max(sequence) AS high, count() AS n FROM outcomes
        GROUP BY topic, partition, booked_date
    )
    GROUP BY partition
    UNION ALL
    SELECT 'postings', partition, 0, max(offset), count(), toDate32(0) FROM postings GROUP BY topic, partition
    UNION ALL
    SELECT 'pending', partition, 0, max(offset), count(), toDate32(0) FROM pending GROUP BY topic, partition
"""
_TABLES = ("outcomes", "postings", "pending")
_ROWS = " UNION ALL ".join(f"SELECT '{table}', count() FROM {table}" for table in _TABLES)
_DAYS = (
    "SELECT partition, booked_date, min(sequence), max(sequence) FROM outcomes GROUP BY topic, partition, booked_date"
)
_PLACES = "SELECT partition, sequence, offset, source_offset, toUnixTimestamp64Milli(booked_at) FROM outcomes WHERE "
PARTITIONS_MAX = 1_024  # of a world
_TEXT = re.compile(r"[0-9]{1,5}:[0-9]{1,19}(,[0-9]{1,5}:[0-9]{1,19})*")


class Place(NamedTuple):
    """One partition's last record in a cut: its sequence and journal offset, its command's offset in
    transactions.submitted, and when that was booked (milliseconds UTC)."""

    sequence: int
    journal_offset: int
    source_offset: int
    booked_at: int


class Stored(NamedTuple):
    """What was stored at some moment: the last sequence by partition, the last offset by table and partition, and how
    many rows `outcomes`, `postings` and `pending` had. Tables only grow: while they have as many, nothing came in.
    `days`: the last day of booking by partition, asked for a head only."""

    sequences: dict[int, int]
    ends: dict[tuple[str, int], int]
    rows: tuple[int, ...]
    days: Mapping[int, date] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Cut:
    """Places by partition. `known_at`: what was booked later does not count. `stored`: of a head, what it is of."""

    places: dict[int, Place]
    known_at: datetime = LAST_MOMENT
    stored: Stored | None = field(default=None, compare=False, repr=False)

    @property
    def text(self) -> str:
        """The cut as people and programs write it: `0:1204,1:998`, partition and sequence."""
        return ",".join(f"{p}:{at.sequence}" for p, at in sorted(self.places.items()))

    def ends(self) -> list[int]:
        """The parameter `ends` of the views: the journal offset after the cut's last record, for each partition from 0
        on; 0 where nothing is in the cut, which is also what an array of ClickHouse says beyond its end."""
        last = max(self.places, default=-1)
        return [self.places[p].journal_offset + 1 if p in self.places else 0 for p in range(last + 1)]


class Bounds(NamedTuple):
    """What the views need beside `ends`.

    `whole_before`: every record that was booked on a day before it is in the cut. `last`: the cut's `known_at`, or the
    end of the last day on which anything in the cut was booked, whichever is first. `rows`: of each table, before these
    were worked out.
    """

    whole_before: date
    last: datetime
    rows: tuple[int, ...] = ()


def bounds(db: Database, cut: Cut, stored: Stored | None = None, *, today: date | None = None) -> Bounds:
    """The parameters `whole_before` and `known_at` of the views.

    Sums of days before `whole_before` come from projections; only from that day on each row is compared with the cut.
    Exact for what is stored when it is asked; ask `again` after the figures, and make them again when the day moved
    back: then a record came in between that a broker's clock had put into the past. Rows of a batch that is being
    written or was torn, which have no outcomes yet, are in no cut either. `stored`: what the cut is the head of; exact
    for that moment then, at which no outcome was beyond it. `today`: UTC, the clock's when not given.
    """
    beyond: list[date] = []
    last = date(1970, 1, 1)
    if stored is not None:
        last = max([last, *stored.days.values()])
    else:
        stored = _stored(db)
        for partition, day, low, high in db.rows(_DAYS):
            end = cut.places[partition].sequence if partition in cut.places else 0
            if high > end:
                beyond.append(day)
            if low <= end:
                last = max(last, day)
    for (table, partition), offset in stored.ends.items():
        through = stored.ends.get(("outcomes", partition), -1)
        if offset > through:
            beyond += _first_day_beyond(db, table, partition, through)
    end_of_last = datetime.combine(last, time(23, 59, 59, 999_000), UTC)
    yesterday = (today or datetime.now(UTC).date()) - timedelta(days=1)
    whole_before = min([*beyond, cut.known_at.date(), yesterday])
    return Bounds(whole_before, min(cut.known_at, end_of_last), stored.rows)


def again(db: Database, cut: Cut, found: Bounds) -> Bounds:
    """The bounds as they are now: those that were found, unless anything came in since they were begun. Counts of whole
    tables stand in their parts' headers, so that costs next to nothing."""
    now = dict(db.rows(_ROWS))
    return found if tuple(now[table] for table in _TABLES) == found.rows else bounds(db, cut)


def _stored(db: Database) -> Stored:
    sequences: dict[int, int] = {}
    ends: dict[tuple[str, int], int] = {}
    rows = dict.fromkeys(_TABLES, 0)
    for table, partition, sequence, offset, count in db.rows(_ENDS):
        ends[table, partition] = offset
        rows[table] += count
        if table == "outcomes":
            sequences[partition] = sequence
    return Stored(sequences, ends, tuple(rows.values()))


def _first_day_beyond(db: Database, table: str, partition: int, offset: int) -> list[date]:
    """The first day of booking among a partition's rows after an offset; none when there are none."""
    found = db.rows(
        f"SELECT min(booked_date), count() FROM {table} WHERE partition = %(p)s AND offset > %(o)s",
        {"p": partition, "o": offset},
    )
    return [found[0][0]] if found[0][1] else []


def head(db: Database, known_at: datetime = LAST_MOMENT) -> Cut:
    """As far as everything is in now."""
    sequences: dict[int, int] = {}
    ends: dict[tuple[str, int], int] = {}
    days: dict[int, date] = {}
    rows = dict.fromkeys(_TABLES, 0)
    for table, partition, sequence, offset, count, day in db.rows(_HEAD):
        rows[table] += count
        if table == "outcomes":
            sequences[partition], days[partition] = sequence, day
        else:
            ends[table, partition] = offset
    found = at(db, sequences, known_at, since=min(days.values(), default=None))
    ends |= {("outcomes", p): place.journal_offset for p, place in found.places.items()}
    return replace(found, stored=Stored(sequences, ends, tuple(rows.values()), days))


def parse(text: str) -> dict[int, int]:
    """Sequences by partition from `0:1204,1:998`. Raises BadInputError."""
    if not _TEXT.fullmatch(text):
        raise BadInputError(f"cut: must be partition:sequence with commas between, as in 0:1204,1:998; not {text[:64]}")
    if text.count(",") >= PARTITIONS_MAX:
        raise BadInputError(f"cut: must name at most {PARTITIONS_MAX} partitions")
    pairs = [(int(p), int(s)) for p, _, s in (pair.partition(":") for pair in text.split(","))]
    if len({p for p, _ in pairs}) != len(pairs):
        raise BadInputError(f"cut: names a partition twice: {text[:64]}")
    return dict(pairs)


def at(db: Database, sequences: dict[int, int], known_at: datetime = LAST_MOMENT, *, since: date | None = None) -> Cut:
    """The cut at these sequences. `since`: the day from which on they are looked for first, so that older months are
    not touched. Raises BadInputError when one is not stored (yet)."""
    wanted = {p: s for p, s in sequences.items() if s > 0}
    pairs = " OR ".join(f"(partition = {p} AND sequence = {s})" for p, s in wanted.items())
    places: dict[int, Place] = {}
    if wanted and since is not None:
        places = _places(db, f"booked_at >= toDateTime64('{since}', 3, 'UTC') AND ({pairs})")
    if len(places) < len(wanted):
        places = _places(db, pairs)
    for p, s in wanted.items():
        if p not in places:
            raise BadInputError(f"cut: partition {p} has no record {s} in ClickHouse yet")
    return Cut(places, known_at)


def closed(db: Database, day: date, known_at: datetime = LAST_MOMENT) -> Cut:
    """The cut that the close of a day sealed. Raises BadInputError when that day is not closed."""
    rows = db.rows(
        "SELECT partition, max(sequence) FROM closes WHERE closed_day = %(day)s GROUP BY partition", {"day": day}
    )
    if not rows:
        raise BadInputError(f"closed: {day} is not closed; `clearline close --list` shows the days that are")
    return at(db, {int(p): int(s) for p, s in rows}, known_at)


def _places(db: Database, where: str) -> dict[int, Place]:
    return {int(p): Place(*map(int, place)) for p, *place in db.rows(_PLACES + where)}
