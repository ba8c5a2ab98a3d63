"""Up to where limits and what was used of them are known: they come beside the journal, from `ledger.state`.

The sink notes for each partition up to which sequence of the journal it has everything (`place` in `limit_rows`). A
report of limits is made nowhere else: at the head it goes as far as that, and a cut beyond it, or before the first
place, is refused. A database without any place has no limits to show.
"""

from __future__ import annotations

from datetime import datetime

from schemas.errors import BadInputError
from sinks.clickhouse import Database
from sinks.finance import cut as cuts
from sinks.finance.cut import LAST_MOMENT, Bounds, Cut

_KNOWN = (
    "SELECT partition, min(sequence), max(sequence) FROM limit_rows WHERE kind = 'place' "
    "GROUP BY topic, partition, kind"
)
# The last record of each partition that was booked up to a moment: the two halves of a cut, as in the views.
_LAST = """
SELECT partition, max(last) FROM
(
    SELECT partition, booked_date, max(sequence) AS last FROM outcomes WHERE booked_date < %(day)s
    GROUP BY topic, partition, booked_date
    UNION ALL
    SELECT partition, booked_date, max(sequence) AS last FROM outcomes
    WHERE booked_date >= %(day)s AND booked_at <= fromUnixTimestamp64Milli(%(at)s, 'UTC')
        AND offset < {ends}[partition + 1]
    GROUP BY topic, partition, booked_date
)
GROUP BY partition
"""


def head(db: Database, known_at: datetime = LAST_MOMENT) -> Cut:
    """As far as everything is in now, limits included. Raises PartUnavailableError."""
    known = _known(db)
    found = cuts.head(db, known_at)
    if not known:
        return found
    ends = {p: min(at.sequence, known.get(p, (0, 0))[1]) for p, at in found.places.items()}
    return cuts.at(db, {p: end if end >= known[p][0] else 0 for p, end in ends.items() if p in known}, known_at)


def source_ends(db: Database, cut: Cut, bounds: Bounds) -> list[int]:
    """The parameter `source_ends` of the view: for each partition from 0 on, the offset after the last command in the
    cut. Raises BadInputError when limits are not known at this cut."""
    places = cut.places
    if cut.known_at != LAST_MOMENT and places:
        # A cut that ends before its moment is whole, whatever days it reaches to.
        wanted = {"day": bounds.whole_before, "at": _milliseconds(bounds.last)}
        booked = dict(db.rows(_LAST.format(ends=cut.ends()), wanted))
        places = cuts.at(db, {p: booked.get(p, 0) for p in places}).places
    known = _known(db)
    for p, at in sorted(places.items()) if known else ():
        first, last = known.get(p, (0, 0))
        if not first <= at.sequence <= last:
            told = f"from {p}:{first} to {p}:{last}" if last else f"nowhere in partition {p} yet"
            raise BadInputError(f"cut: limits are known {told}, and the cut goes to {p}:{at.sequence}")
    return ends_of(Cut(places))


def ends_of(cut: Cut) -> list[int]:
    """The same of a cut without a moment of booking, unchecked."""
    places = cut.places
    return [places[p].source_offset + 1 if p in places else 0 for p in range(max(places, default=-1) + 1)]


def _known(db: Database) -> dict[int, tuple[int, int]]:
    """The first and the last sequence of each partition at which limits are known."""
    return {int(p): (int(low), int(high)) for p, low, high in db.rows(_KNOWN)}


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)
