"""Seals of days, from docs/operations.md: their form, and whether the journal itself bears out what they say.

What a day was sealed with was worked out in ClickHouse. Here the same sums are made from the journal's records as they
come, so a seal over rows that were wrong, or wrong when they were read, is found whatever ClickHouse says today.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from hashlib import sha256
from typing import Any

from clearline.audit.currencies import CURRENCIES
from clearline.audit.verdict import Finding
from schemas.records import JournalRecord, SealDay

PLACES_MAX, TOTALS_MAX = 1_000, 100_000
EPOCH = date(1970, 1, 1)
_HEX = re.compile("[0-9a-f]{64}")
_DIGITS = re.compile("[1-9][0-9]{0,37}")


def iso(day: int) -> str:
    """The day as people write it."""
    return (EPOCH + timedelta(days=day)).isoformat()


def digest_of(text: str) -> str:
    """SHA-256 in hexadecimal digits."""
    return sha256(text.encode()).hexdigest()


def figures_of(c: SealDay) -> str:
    """The text that is sealed."""
    cut = [{"partition": p.partition, "sequence": p.sequence, "chain": p.chain} for p in c.cut]
    totals = [
        {"partition": t.partition, "currency": t.currency, "debits": t.debits, "credits": t.credits,
         "postings": t.postings}
        for t in c.totals
    ]  # fmt: skip
    return json.dumps({"day": iso(c.day), "cut": cut, "totals": totals}, separators=(",", ":"))


def cut_of(c: SealDay) -> str:
    """The cut as the journal writes it."""
    return ",".join(f"{p.partition}:{p.sequence}" for p in c.cut)


def well_formed(c: SealDay) -> bool:
    """Whether cut and totals are as they must be by themselves."""
    partitions = [p.partition for p in c.cut]
    names = [(t.partition, t.currency) for t in c.totals]
    if not 1 <= len(partitions) <= PLACES_MAX or len(names) > TOTALS_MAX:
        return False
    if partitions != sorted(set(partitions)) or partitions[0] < 0 or names != sorted(set(names)):
        return False
    if not all(p.sequence >= 1 and _HEX.fullmatch(p.chain) for p in c.cut):
        return False
    here = set(partitions)
    return all(
        t.partition in here
        and t.currency in CURRENCIES
        and _DIGITS.fullmatch(t.debits)
        and t.debits == t.credits
        and t.postings >= 2
        for t in c.totals
    )


Sums = dict[str, list[int]]  # by currency: debits, credits, postings


def added(several: Iterable[Sums]) -> Sums:
    """All of them in one, which is nobody else's."""
    out: Sums = {}
    for sums in several:
        for currency, s in sums.items():
            mine = out.setdefault(currency, [0, 0, 0])
            mine[:] = [a + b for a, b in zip(mine, s, strict=True)]
    return out


@dataclass(slots=True)
class Closes:
    """All partitions: every one must have sealed a day with the same words."""

    finding: Finding
    sealed: dict[str, str] = field(default_factory=dict)  # ISO date -> figures

    def partition(self, number: int) -> PartitionCloses:
        """The check of one partition's journal."""
        return PartitionCloses(number, self)

    def same(self, at: str, day: str, figures: str) -> None:
        """Notes what a partition has; another has it as well, or will."""
        if self.sealed.setdefault(day, figures) != figures:
            self.finding.differ(f"{at}: {day} is sealed with other figures than in another partition")


@dataclass(slots=True)
class PartitionCloses:
    """One partition's journal, record after record. Sums are kept by value date, as they are and as they were when the
    day was closed: some 500 bytes for a day with one currency."""

    partition: int
    whole: Closes
    by_day: dict[int, Sums] = field(default_factory=dict)
    closed: dict[int, tuple[int, str]] = field(default_factory=dict)  # day -> sequence, chain
    kept: dict[int, dict[int, Sums]] = field(default_factory=dict)  # day of a close -> sums by value date, see `_close`

    def take(self, at: str, r: JournalRecord, chain: bytes) -> None:
        """One record of the journal, with its chain value."""
        if r.postings:
            sums = self.by_day.setdefault(r.value_date, {})
            for leg in r.postings:
                mine = sums.setdefault(leg.currency, [0, 0, 0])
                mine[leg.side == "credit"] += leg.amount
                mine[2] += 1
        elif r.outcome == "applied" and r.command == "CloseDay":
            self._close(r, chain)
        elif r.outcome == "applied" and r.command == "SealDay":
            self._seal(at, r.subject_id, r.changes)

    def _close(self, r: JournalRecord, chain: bytes) -> None:
        """Keeps what there is of the days that are closed with this one, each by itself, and of all before in one sum,
        under the day that was closed last."""
        day = (date.fromisoformat(r.changes["day"]) - EPOCH).days
        last = max(self.closed, default=-1)
        self.closed[day] = (r.sequence, chain.hex())
        kept: dict[int, Sums] = {last: added(sums for d, sums in self.by_day.items() if d <= last)}
        self.kept[day] = kept | {d: added([sums]) for d, sums in self.by_day.items() if last < d <= day}

    def _seal(self, at: str, subject: str, changes: Mapping[str, str]) -> None:
        f = self.whole.finding
        f.count("sealed")
        figures = changes.get("figures", "")
        if digest_of(figures) != changes.get("hash"):
            f.differ(f"{at}: the hash of {subject} is not that of its figures")
        self.whole.same(at, subject, figures)
        try:
            said: dict[str, Any] = json.loads(figures)
            day = (date.fromisoformat(said["day"]) - EPOCH).days
            place = {p["partition"]: (p["sequence"], p["chain"]) for p in said["cut"]}.get(self.partition)
            totals = {
                t["currency"]: [int(t["debits"]), int(t["credits"]), t["postings"]]
                for t in said["totals"]
                if t["partition"] == self.partition
            }
        except (ValueError, KeyError, TypeError):
            f.differ(f"{at}: the figures of {subject} are not in their form")
            return
        by = min((d for d in self.closed if d >= day), default=None)
        if by is None or said["day"] != subject:
            f.differ(f"{at}: seals {subject}, which was not closed before")
            return
        if place != self.closed[by]:
            f.differ(f"{at}: {subject} is sealed at {place}, it was closed at {self.closed[by]}")
        right = added(sums for d, sums in self.kept[by].items() if d <= day)
        for currency in sorted(right.keys() | totals.keys()):
            if totals.get(currency) != right.get(currency):
                f.differ(
                    f"{at}: {subject} is sealed with {totals.get(currency)} {currency} (debits, credits, postings), "
                    f"the journal has {right.get(currency)}"
                )
