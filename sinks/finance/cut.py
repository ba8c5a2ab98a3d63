"""Up to where a report goes: a cut through the journal, one place per partition, and a moment of booking.

A report at a cut counts exactly the records with a sequence up to the cut's, in each partition, and none booked after
`known_at`. Rows of the journal never change, so a report at the same cut is the same to the byte, whenever it is made
and however often ClickHouse was rebuilt. Sequences, not offsets, name a cut: they have no gaps, and a ledger that is
replayed from its commands has the same ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from schemas.errors import BadInputError
from sinks.clickhouse import Database

LAST_MOMENT = datetime(2299, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
_TEXT = re.compile(r"\d+:\d+(,\d+:\d+)*")


class Place(NamedTuple):
    """One partition's last record in a cut: its sequence and journal offset, its command's offset in
    transactions.submitted, and when that was booked (milliseconds UTC)."""

    sequence: int
    journal_offset: int
    source_offset: int
    booked_at: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Places by partition. `known_at`: what was booked later does not count."""

    places: dict[int, Place]
    known_at: datetime = LAST_MOMENT

    @property
    def text(self) -> str:
        """The cut as people and programs write it: `0:1204,1:998`, partition and sequence."""
        return ",".join(f"{p}:{at.sequence}" for p, at in sorted(self.places.items()))

    def ends(self) -> list[int]:
        """The parameter `ends` of the views: the journal offset after the cut's last record, for each partition from 0
        on; 0 where nothing is in the cut, which is also what an array of ClickHouse says beyond its end."""
        last = max(self.places, default=-1)
        return [self.places[p].journal_offset + 1 if p in self.places else 0 for p in range(last + 1)]


def whole_before(db: Database, cut: Cut) -> date:
    """The parameter `whole_before` of the views: every record that was booked on a day before it is in the cut.

    Sums of such days come from projections; only from that day on each row is compared with the cut. Exact for what is
    stored when it is asked; ask again after the figures, and make them again when it moved back: then a record came in
    between that a broker's clock had put into the past.
    """
    beyond = " OR ".join(f"(partition = {p} AND last > {at.sequence})" for p, at in cut.places.items())
    others = f"partition NOT IN ({', '.join(map(str, cut.places))})" if cut.places else "1"
    found = db.rows(
        "SELECT min(booked_date), count() FROM (SELECT partition, booked_date, max(sequence) AS last FROM outcomes "
        f"GROUP BY partition, booked_date) WHERE {beyond or '0'} OR {others}"
    )
    first: list[date] = [found[0][0]] if found[0][1] else []
    return min([*first, cut.known_at.date(), datetime.now(UTC).date() - timedelta(days=1)])


def head(db: Database, known_at: datetime = LAST_MOMENT) -> Cut:
    """As far as everything is in now."""
    rows = db.rows("SELECT partition, max(sequence) FROM outcomes GROUP BY topic, partition ORDER BY partition")
    return at(db, {int(p): int(s) for p, s in rows}, known_at)


def parse(text: str) -> dict[int, int]:
    """Sequences by partition from `0:1204,1:998`. Raises BadInputError."""
    if not _TEXT.fullmatch(text):
        raise BadInputError(f"cut: must be partition:sequence with commas between, as in 0:1204,1:998; not {text}")
    pairs = [(int(p), int(s)) for p, _, s in (pair.partition(":") for pair in text.split(","))]
    if len({p for p, _ in pairs}) != len(pairs):
        raise BadInputError(f"cut: names a partition twice: {text}")
    return dict(pairs)


def at(db: Database, sequences: dict[int, int], known_at: datetime = LAST_MOMENT) -> Cut:
    """The cut at these sequences. Raises BadInputError when one is not stored (yet)."""
    places: dict[int, Place] = {}
    wanted = {p: s for p, s in sequences.items() if s > 0}
    if wanted:
        pairs = " OR ".join(f"(partition = {p} AND sequence = {s})" for p, s in wanted.items())
        for p, *place in db.rows(
            "SELECT partition, sequence, offset, source_offset, toUnixTimestamp64Milli(booked_at) "
            f"FROM outcomes WHERE {pairs}"
        ):
            places[int(p)] = Place(*map(int, place))
    for p, s in wanted.items():
        if p not in places:
            raise BadInputError(f"cut: partition {p} has no record {s} in ClickHouse yet")
    return Cut(places, known_at)
