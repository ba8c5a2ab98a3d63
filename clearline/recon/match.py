"""The matcher: lines of statements with postings of an account, in the passes that docs/reconciliation.md gives.

Pure: columns in, pairs out. Items are named by their place in the order that the page defines (`key`, from 0), so every
tie is broken by comparing two numbers. Amounts are signed minor units, days are counted from 1970-01-01.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from clearline.recon.camt import NO_REFERENCE
from clearline.recon.unreferenced import considered, degrees

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

PAIRS_MAX = 400  # of one reference: beyond it the reference tells nothing apart
PASSES = ("exact", "near", "sum", "amount", "amount_days", "amount_near")


class Rules(NamedTuple):
    """Days and minor units that a line and its posting may differ by."""

    date_tolerance: int = 1
    amount_tolerance: int = 0


@dataclass(slots=True)
class Side:
    """Lines, or postings, in their order: row i has key i. `free`: no match has it so far."""

    frame: pl.DataFrame  # key, ref (a number, 0 for none), day, amount, and whatever names the item
    free: Flags

    def left(self) -> pl.DataFrame:
        """The rows that are free."""
        return self.frame.filter(pl.Series(self.free))


class Links(NamedTuple):
    """Pairs of keys that belong together; a match of several has several pairs and one `match` number."""

    line: Ints
    posting: Ints
    match: Ints
    match_pass: Ints  # place in PASSES


def normal(reference: str) -> str:
    """A reference as references are compared: empty for none."""
    found = " ".join(reference.split()).upper()
    return "" if found in NO_REFERENCE else found


def sides(lines: pl.DataFrame, postings: pl.DataFrame) -> tuple[Side, Side]:
    """Both in their order, with references as numbers.

    `lines`: statement, number, detail, day, booking, amount, reference, bank_reference, text, taken. `postings`:
    partition, sequence, leg, day, booking, amount (signed), reference, taken. Lines of amount 0 are not free.
    """
    lines, postings = (
        f.with_columns(normal=pl.Series([normal(r) for r in f["reference"].to_list()], dtype=pl.String))
        for f in (lines, postings)
    )
    known = pl.concat([lines["normal"], postings["normal"]]).unique().sort()
    known = known.filter(known != "")
    numbers = pl.DataFrame({"normal": known, "ref": np.arange(1, len(known) + 1, dtype=np.int64)})

    def ordered(frame: pl.DataFrame, by: Sequence[str]) -> Side:
        frame = frame.join(numbers, on="normal", how="left").with_columns(pl.col("ref").fill_null(0))
        frame = frame.sort(by).drop("key", strict=False).with_row_index("key")
        frame = frame.with_columns(pl.col("key", "day", "booking", "amount").cast(pl.Int64))
        return Side(frame, ~frame["taken"].to_numpy() & (frame["amount"].to_numpy() != 0))

    # `ref` is in the order of the references themselves.
    return (
        ordered(lines, ["day", "amount", "ref", "bank_reference", "text", "statement", "number", "detail"]),
        ordered(postings, ["day", "amount", "ref", "partition", "sequence", "leg"]),
    )


class Matcher:
    """Runs the passes once. What is left free afterwards, `clearline.recon.breaks` types."""

    def __init__(self, lines: Side, postings: Side, rules: Rules) -> None:
        self.lines = lines
        self.postings = postings
        self.rules = rules
        self._found: list[tuple[Ints, Ints, Ints, int]] = []
        self._matches = 0

    def run(self) -> Links:
        """All passes, in order."""
        days, tolerance = self.rules
        self._one_to_one(0, self._exact())
        self._one_to_one(1, self._near())
        self._sums()
        for place, reach in ((3, (0, 0)), (4, (days, 0)), (5, (days, tolerance))):
            self._one_to_one(place, self._unambiguous(*reach))
        return self._numbered()

    def _one_to_one(self, place: int, pairs: tuple[Ints, Ints]) -> None:
        self._take(place, *pairs, np.arange(len(pairs[0]), dtype=np.int64))

    def _take(self, place: int, line: Ints, posting: Ints, match: Ints) -> None:
        if not len(line):
            return
        self.lines.free[line] = False
        self.postings.free[posting] = False
        self._found.append((line, posting, match + self._matches, place))
        self._matches += int(match.max()) + 1

    def _exact(self) -> tuple[Ints, Ints]:
        by = ["ref", "amount", "day"]

        def ranked(side: Side, name: str) -> pl.DataFrame:
            frame = side.left().filter(pl.col("ref") > 0).select(*by, pl.col("key").alias(name))
            return frame.with_columns(rank=pl.int_range(pl.len()).over(by))

        found = ranked(self.lines, "line").join(ranked(self.postings, "posting"), on=[*by, "rank"])
        return _ints(found["line"]), _ints(found["posting"])

    def _near(self) -> tuple[Ints, Ints]:
        days, tolerance = self.rules
        pairs = pairs_of_reference(self.lines, self.postings)
        return greedy(
            pairs.filter((pl.col("off") <= tolerance) & (pl.col("days") <= days)), ["off", "days", "line", "posting"]
        )

    def _sums(self) -> None:
        clusters = self._clusters()
        single_line = pl.col("lines") == 1
        several = clusters.filter(
            (single_line & (pl.col("postings") > 1)) | ((pl.col("postings") == 1) & (pl.col("lines") > 1))
        ).drop("lines", "postings")
        is_line, days, tolerance = pl.col("is_line"), *self.rules
        amount = pl.col("amount").cast(pl.Int128)
        low, high = pl.col("day").min(), pl.col("day").max()
        sums = several.group_by("cluster").agg(
            is_line.sum().alias("lines"),
            (amount.filter(is_line).sum() - amount.filter(~is_line).sum()).abs().alias("off"),
            pl.when(is_line.sum() == 1)
            .then(pl.col("day").filter(is_line).first())
            .otherwise(pl.col("day").filter(~is_line).first())
            .alias("single"),
            low.alias("low"), high.alias("high"),
        )  # fmt: skip
        near = (pl.col("single") - pl.col("low") <= days) & (pl.col("high") - pl.col("single") <= days)
        good = sums.filter((pl.col("off") <= tolerance) & near).select("cluster").sort("cluster")
        good = good.with_row_index("match")
        members = several.join(good, on="cluster").select("match", "is_line", "key")
        pairs = (
            members.filter(is_line)
            .join(members.filter(~is_line), on="match", suffix="_posting")
            .sort("match", "key", "key_posting")
        )
        self._take(2, _ints(pairs["key"]), _ints(pairs["key_posting"]), _ints(pairs["match"]))

    def _clusters(self) -> pl.DataFrame:
        """Free items with a reference, each with its cluster and how many lines and postings that has."""
        columns = ["ref", "day", "amount", "key"]
        both = pl.concat(
            side.left().filter(pl.col("ref") > 0).select(*columns, pl.lit(is_line).alias("is_line"))
            for side, is_line in ((self.lines, True), (self.postings, False))
        ).sort("ref", "day", "is_line", "key", descending=[False, False, True, False])
        apart = (pl.col("ref") != pl.col("ref").shift(1)) | (
            pl.col("day") - pl.col("day").shift(1) > self.rules.date_tolerance
        )
        both = both.with_columns(cluster=apart.fill_null(value=True).cum_sum())
        return both.with_columns(
            lines=pl.col("is_line").sum().over("cluster"), postings=(~pl.col("is_line")).sum().over("cluster")
        )

    def _unambiguous(self, days: int, tolerance: int) -> tuple[Ints, Ints]:
        return considered(_columns(self.lines), _columns(self.postings), days, tolerance)

    def _numbered(self) -> Links:
        """The pairs, matches numbered from 1 by their first line, in the order of matches, lines and postings."""
        if not self._found:
            empty = np.zeros(0, dtype=np.int64)
            return Links(empty, empty, empty, empty)
        line, posting, match = (np.concatenate([f[i] for f in self._found]) for i in range(3))
        place = np.concatenate([np.full(len(f[0]), f[3], dtype=np.int64) for f in self._found])
        first = np.full(self._matches, np.iinfo(np.int64).max, dtype=np.int64)
        np.minimum.at(first, match, line)
        number = np.empty(self._matches, dtype=np.int64)
        number[np.argsort(first, kind="stable")] = np.arange(1, self._matches + 1)
        match = number[match]
        order = np.lexsort((posting, line, match))
        return Links(line[order], posting[order], match[order], place[order])


def pairs_of_reference(lines: Side, postings: Side) -> pl.DataFrame:
    """All pairs of free items with the same reference and sign: line, posting, off (|difference|), days. A reference
    with more than PAIRS_MAX pairs is left out."""
    left = [s.left().filter(pl.col("ref") > 0).select("ref", "day", "amount", "key") for s in (lines, postings)]
    counts = [f.group_by("ref").len(name) for f, name in zip(left, ("n", "m"), strict=True)]
    few = counts[0].join(counts[1], on="ref").filter(pl.col("n").cast(pl.Int64) * pl.col("m") <= PAIRS_MAX)
    chosen = [f.join(few.select("ref"), on="ref", how="semi") for f in left]
    pairs = chosen[0].join(chosen[1], on="ref", suffix="_posting")
    pairs = pairs.filter((pl.col("amount") > 0) == (pl.col("amount_posting") > 0))
    return pairs.select(
        pl.col("key").alias("line"),
        pl.col("key_posting").alias("posting"),
        (pl.col("amount") - pl.col("amount_posting")).abs().alias("off"),
        (pl.col("day") - pl.col("day_posting")).abs().alias("days"),
    )


def greedy(pairs: pl.DataFrame, order: Sequence[str]) -> tuple[Ints, Ints]:
    """The pairs in this order, each taken when neither of its items was before."""
    pairs = pairs.sort(order)
    used: tuple[set[int], set[int]] = (set(), set())
    lines, postings = [], []
    for line, posting in zip(pairs["line"].to_list(), pairs["posting"].to_list(), strict=True):
        if line not in used[0] and posting not in used[1]:
            used[0].add(line)
            used[1].add(posting)
            lines.append(line)
            postings.append(posting)
    return np.array(lines, dtype=np.int64), np.array(postings, dtype=np.int64)


def candidates(lines: Side, postings: Side, rules: Rules) -> tuple[Ints, Ints]:
    """How many postings pass 6 would consider for each free line, in the order of free lines; and the other way."""
    left = [_columns(s) for s in (lines, postings)]
    return degrees(left[0], left[1], *rules), degrees(left[1], left[0], *rules)


def _columns(side: Side) -> tuple[Ints, Ints, Ints, Flags]:
    """Key, day, amount of the free items, and whether they have a reference."""
    left = side.left()
    return _ints(left["key"]), _ints(left["day"]), _ints(left["amount"]), left["ref"].to_numpy() > 0


def _ints(series: Any) -> Ints:
    out: Ints = series.to_numpy().astype(np.int64, copy=False)
    return out
