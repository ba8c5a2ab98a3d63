"""What a closed day is sealed with, worked out from the postings, and what the journal says that it was sealed with.

The text that is hashed has one form (docs/operations.md, SealDay): whoever has the journal or the rows makes the same
bytes. Sums are of everything up to the cut with a value date up to the day; later entries for a closed day are booked
to an open one, so the same sums come out for ever.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from hashlib import sha256
from typing import Any, NamedTuple

from sinks.clickhouse import Database
from sinks.finance import cut as cuts
from sinks.finance.cut import Cut

_CLOSED_BY = (
    "SELECT partition, min(sequence) FROM control_changes WHERE command = 'CloseDay' AND subject_id >= %(day)s "
    "GROUP BY partition"
)
_SUMS = (
    "SELECT partition, currency, side, sum(amount), count() FROM postings WHERE value_date <= %(day)s "
    "AND offset < {ends}[partition + 1] GROUP BY partition, currency, side"
)
_LEGS = (
    "SELECT partition, sum(toUInt64(legs)) FROM outcomes WHERE value_date <= %(day)s "
    "AND offset < {ends}[partition + 1] GROUP BY partition"
)


class Total(NamedTuple):
    """What one partition had in one currency, minor units."""

    partition: int
    currency: str
    debits: int
    credits: int
    postings: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What a day is sealed with. `chains`: of the cut's last record in each partition, hexadecimal."""

    day: date
    cut: Cut
    chains: dict[int, str]
    totals: tuple[Total, ...]

    @property
    def text(self) -> str:
        """The text that is hashed."""
        places = [
            {"partition": p, "sequence": at.sequence, "chain": self.chains[p]}
            for p, at in sorted(self.cut.places.items())
        ]
        totals = [
            {"partition": t.partition, "currency": t.currency, "debits": str(t.debits), "credits": str(t.credits),
             "postings": t.postings}
            for t in self.totals
        ]  # fmt: skip
        return json.dumps({"day": self.day.isoformat(), "cut": places, "totals": totals}, separators=(",", ":"))

    @property
    def hash(self) -> str:
        return sha256(self.text.encode()).hexdigest()


class Closing(NamedTuple):
    """The record that closed a day in one partition. `day`: its own, which may be a later one."""

    partition: int
    sequence: int
    day: date
    booked_at: datetime
    by: str
    note: str


@dataclass(frozen=True, slots=True)
class Seal:
    """What the journal of these partitions says that a day was sealed with: text and hash, as they stand there."""

    day: date
    hash: str
    figures: str
    partitions: tuple[int, ...]


def closings(db: Database, day: date) -> dict[int, Closing]:
    """The records that closed a day, by partition, as far as they are stored; none for a partition where it is open."""
    rows = db.rows(
        "SELECT partition, sequence, subject_id, booked_at, JSONExtractString(changes, 'requested_by'), "
        "JSONExtractString(changes, 'note') FROM control_changes WHERE command = 'CloseDay' "
        f"AND (partition, sequence) GLOBAL IN ({_CLOSED_BY}) ORDER BY partition",
        {"day": day.isoformat()},
    )
    return {int(p): Closing(int(p), int(s), date.fromisoformat(d), *more) for p, s, d, *more in rows}


def stored_to(db: Database) -> dict[int, int]:
    """The last record of each partition that is in, by its sequence."""
    rows = db.rows("SELECT partition, max(sequence) FROM outcomes GROUP BY topic, partition")
    return {int(p): int(s) for p, s in rows}


def work_out(db: Database, day: date, cut: Cut) -> Figures:
    """Sums and counts of a day at a cut, from the postings."""
    ends = cut.ends()
    sides: dict[tuple[int, str], list[int]] = {}
    for p, currency, side, amount, count in db.rows(_SUMS.format(ends=ends), {"day": day}):
        mine = sides.setdefault((int(p), currency), [0, 0, 0])
        mine[side == "credit"] += int(amount)
        mine[2] += int(count)
    pairs = " OR ".join(f"(partition = {p} AND sequence = {at.sequence})" for p, at in cut.places.items())
    chains = db.rows(f"SELECT partition, lower(hex(chain)) FROM outcomes WHERE {pairs or '0'}")
    totals = tuple(Total(*name, *sums) for name, sums in sorted(sides.items()))
    return Figures(day, cut, {int(p): chain for p, chain in chains}, totals)


def faults(db: Database, f: Figures) -> list[str]:
    """What stands against figures by themselves: sides that differ, postings that the outcomes do not know of, a place
    that is no CloseDay's."""
    out = [
        f"partition {t.partition} has {t.debits} {t.currency} of debits and {t.credits} of credits up to {f.day}"
        for t in f.totals
        if t.debits != t.credits
    ]
    found: dict[int, int] = {}
    for t in f.totals:
        found[t.partition] = found.get(t.partition, 0) + t.postings
    legs = {int(p): int(n) for p, n in db.rows(_LEGS.format(ends=f.cut.ends()), {"day": f.day})}
    out += [
        f"partition {p} has {found.get(p, 0)} postings up to {f.day}, its outcomes say {legs.get(p, 0)}"
        for p in f.cut.places
        if found.get(p, 0) != legs.get(p, 0)
    ]
    pairs = " OR ".join(f"(partition = {p} AND sequence = {at.sequence})" for p, at in f.cut.places.items())
    others = db.rows(f"SELECT partition, command FROM outcomes WHERE ({pairs or '0'}) AND command != 'CloseDay'")
    # `control_changes` says where the day was closed: a row of it that was altered would cut a seal at another place.
    out += [f"partition {p} is cut at a {command}, not at the CloseDay of {f.day}" for p, command in others]
    return out


def seals(db: Database, day: date | None = None) -> list[Seal]:
    """What days were sealed with, by day; one for a day, and more only where partitions do not agree."""
    where = f"AND subject_id = '{day.isoformat()}'" if day else ""
    rows = db.rows(
        "SELECT subject_id, JSONExtractString(changes, 'hash') AS hash, "
        "JSONExtractString(changes, 'figures') AS figures, "
        f"groupUniqArray(partition) FROM control_changes WHERE command = 'SealDay' {where} "
        "GROUP BY subject_id, hash, figures ORDER BY subject_id, hash"
    )
    return [Seal(date.fromisoformat(d), h, f, tuple(sorted(map(int, ps)))) for d, h, f, ps in rows]


def open_closes(db: Database) -> list[date]:
    """Days that were closed and are not sealed."""
    rows = db.rows(
        "SELECT DISTINCT subject_id FROM control_changes WHERE command = 'CloseDay' AND subject_id GLOBAL NOT IN "
        "(SELECT subject_id FROM control_changes WHERE command = 'SealDay') ORDER BY subject_id"
    )
    return [date.fromisoformat(d) for (d,) in rows]


class Listed(NamedTuple):
    """A sealed day. `totals`: debits by currency in minor units, which are also the credits."""

    day: date
    hash: str
    closed_at: datetime
    by: str
    postings: int
    totals: dict[str, int]


def listed(db: Database) -> list[Listed]:
    """The days that are sealed, the last first."""
    rows = db.rows(
        "SELECT closed_day, lower(hex(hash)), min(closed_at), argMin(by, partition), sum(postings), "
        "sumMap(if(currency = '', map(), map(currency, debits))) FROM closes GROUP BY closed_day, hash "
        "ORDER BY closed_day DESC, hash"
    )
    return [Listed(d, h, at, by, int(n), {c: int(v) for c, v in sorted(m.items())}) for d, h, at, by, n, m in rows]


def read(seal: Seal) -> tuple[dict[int, tuple[int, str]], tuple[Total, ...]]:
    """The cut (sequence and chain by partition) and the totals of a seal's text. Raises ValueError for another form."""
    try:
        said: dict[str, Any] = json.loads(seal.figures)
        places = {int(p["partition"]): (int(p["sequence"]), str(p["chain"])) for p in said["cut"]}
        totals = tuple(
            Total(int(t["partition"]), str(t["currency"]), int(t["debits"]), int(t["credits"]), int(t["postings"]))
            for t in said["totals"]
        )
    except (KeyError, TypeError) as e:
        raise ValueError(f"no {e}") from None
    return places, totals


def differences(db: Database, day: date, found: list[Seal]) -> Iterator[str]:
    """What differs between a day's seals, as the journal has them, and the rows as they are now."""
    if len(found) > 1:
        yield f"{day} has {len(found)} different seals: {', '.join(f'{s.hash} in {s.partitions}' for s in found)}"
    for seal in found:
        if sha256(seal.figures.encode()).hexdigest() != seal.hash:
            yield f"the hash {seal.hash} of {day} is not that of its figures"
        try:
            places, totals = read(seal)
        except ValueError as e:
            yield f"the figures of {day} are not in their form: {e}"
            continue
        yield from _against_rows(db, day, places, totals)


def _against_rows(
    db: Database, day: date, places: dict[int, tuple[int, str]], totals: tuple[Total, ...]
) -> Iterator[str]:
    closed = closings(db, day)
    for p in sorted(places.keys() | closed.keys()):
        said = places.get(p, (0, ""))[0]
        by = closed[p].sequence if p in closed else 0
        if said != by:
            yield f"partition {p}: {day} is sealed at record {said}, it was closed by record {by}"
    cut = cuts.at(db, {p: s for p, (s, _) in places.items()})
    now = work_out(db, day, cut)
    for p, (sequence, chain) in sorted(places.items()):
        if now.chains.get(p) != chain:
            yield f"partition {p}: record {sequence} has chain {now.chains.get(p)}, sealed is {chain}"
    before, after = ({(t.partition, t.currency): t[2:] for t in ts} for ts in (totals, now.totals))
    for p, currency in sorted(before.keys() | after.keys()):
        sealed, has = before.get((p, currency), (0, 0, 0)), after.get((p, currency), (0, 0, 0))
        for what, a, b in zip(("debits", "credits", "postings"), sealed, has, strict=True):
            if a != b:
                yield f"partition {p} {currency}: {what} are {b}, sealed are {a}: {b - a:+}"
    yield from faults(db, now)
