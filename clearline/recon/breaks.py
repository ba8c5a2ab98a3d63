"""What no pass has matched, typed and aged (docs/reconciliation.md, "Breaks")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from clearline.recon.match import Ints, Rules, Side, candidates, greedy, pairs_of_reference

TYPES = ("duplicate", "date_differs", "amount_differs", "ambiguous", "missing_in_ledger", "missing_in_statement")


class Period(NamedTuple):
    """First and last day that the statements cover, and the run's day, counted from 1970-01-01."""

    first_day: int
    last_day: int
    day: int


@dataclass(frozen=True, slots=True)
class Break:
    """One break. `line`, `posting`: rows of the frames, None for none. Amounts in minor units, signed."""

    id: str
    type: str
    line: dict[str, Any] | None
    posting: dict[str, Any] | None
    value_day: int
    statement_amount: int
    ledger_amount: int
    age_days: int
    candidates: int
    reference: str

    @property
    def difference(self) -> int:
        """Statement less ledger."""
        return self.statement_amount - self.ledger_amount


class _Found(NamedTuple):
    """A break by its keys; -1 for no line, no posting."""

    type: str
    line: int
    posting: int
    candidates: int = 0


def find_breaks(
    account: str, statements: Sequence[str], lines: Side, postings: Side, rules: Rules, period: Period
) -> tuple[list[Break], int]:
    """The breaks by value date and id, and the number of postings that are not due. Marks what they hold as not free.

    `statements`: names by their place in the lines' column `statement`.
    """
    found = [*_typed(lines, postings, rules, period)]
    out = _described(account, statements, lines, postings, found, period)
    return sorted(out, key=lambda b: (b.value_day, b.id)), int(postings.free.sum())


def _typed(lines: Side, postings: Side, rules: Rules, period: Period) -> Iterator[_Found]:
    days = postings.frame["day"].to_numpy()
    due = (days >= period.first_day) & (days <= period.last_day)
    line_by, posting_by = ["ref", "bank_reference", "amount", "day"], ["ref", "amount", "day"]
    again = _again(lines, line_by, (pl.col("ref") > 0) | (pl.col("bank_reference") != ""))
    again_posted = _again(postings, posting_by, pl.col("ref") > 0)
    yield from _take_lines("duplicate", lines, again)
    yield from _take_postings("duplicate", postings, again_posted[due[again_posted]])
    tolerance_days, tolerance = rules.date_tolerance, rules.amount_tolerance
    pairs = pairs_of_reference(lines, postings)
    late = pairs.filter((pl.col("off") <= tolerance) & (pl.col("days") > tolerance_days))
    yield from _take_pairs("date_differs", lines, postings, greedy(late, ["days", "off", "line", "posting"]))
    pairs = pairs_of_reference(lines, postings)
    other = pairs.filter((pl.col("off") > tolerance) & (pl.col("days") <= tolerance_days))
    yield from _take_pairs("amount_differs", lines, postings, greedy(other, ["off", "days", "line", "posting"]))
    of_lines, of_postings = candidates(lines, postings, rules)
    line_keys, posting_keys = np.flatnonzero(lines.free), np.flatnonzero(postings.free)
    several = np.flatnonzero(of_lines)
    yield from _take_lines("ambiguous", lines, line_keys[several], of_lines[several])
    several = np.flatnonzero((of_postings > 0) & due[posting_keys])
    yield from _take_postings("ambiguous", postings, posting_keys[several], of_postings[several])
    yield from _take_lines("missing_in_ledger", lines, np.flatnonzero(lines.free))
    yield from _take_postings("missing_in_statement", postings, np.flatnonzero(postings.free & due))


def _again(side: Side, by: Sequence[str], named: pl.Expr) -> Ints:
    """Keys of the free items that equal an item which is not free, or an earlier one."""
    frame = side.frame.with_columns(free=pl.Series(side.free)).filter(named & (pl.col("amount") != 0))
    frame = frame.with_columns(held=(~pl.col("free")).any().over(by), first=pl.col("key").min().over(by))
    keys = frame.filter(pl.col("free") & (pl.col("held") | (pl.col("key") > pl.col("first"))))["key"].sort()
    out: Ints = keys.to_numpy().astype(np.int64, copy=False)
    return out


def _take_lines(kind: str, lines: Side, keys: Ints, counts: Ints | None = None) -> Iterator[_Found]:
    lines.free[keys] = False
    for i, key in enumerate(keys.tolist()):
        yield _Found(kind, key, -1, 0 if counts is None else int(counts[i]))


def _take_postings(kind: str, postings: Side, keys: Ints, counts: Ints | None = None) -> Iterator[_Found]:
    postings.free[keys] = False
    for i, key in enumerate(keys.tolist()):
        yield _Found(kind, -1, key, 0 if counts is None else int(counts[i]))


def _take_pairs(kind: str, lines: Side, postings: Side, pairs: tuple[Ints, Ints]) -> Iterator[_Found]:
    lines.free[pairs[0]] = False
    postings.free[pairs[1]] = False
    for line, posting in zip(pairs[0].tolist(), pairs[1].tolist(), strict=True):
        yield _Found(kind, line, posting)


def _described(
    account: str, statements: Sequence[str], lines: Side, postings: Side, found: Sequence[_Found], period: Period
) -> Iterator[Break]:
    line_rows = _rows(lines, [f.line for f in found if f.line >= 0])
    posting_rows = _rows(postings, [f.posting for f in found if f.posting >= 0])
    for f in found:
        line = line_rows[f.line] if f.line >= 0 else None
        posting = posting_rows[f.posting] if f.posting >= 0 else None
        names, days = [account, f.type], []
        if line is not None:
            names += [statements[int(line["statement"])], str(line["number"]), str(line["detail"])]
            days += [line["day"], line["booking"]]
        if posting is not None:
            names += ["posting", str(posting["partition"]), str(posting["sequence"]), str(posting["leg"])]
            days += [posting["day"], posting["booking"]]
        first = line if line is not None else posting
        assert first is not None
        yield Break(
            sha256("\n".join(names).encode()).hexdigest()[:16], f.type, line, posting, first["day"],
            line["amount"] if line else 0, posting["amount"] if posting else 0, period.day - max(days), f.candidates,
            first["reference"],
        )  # fmt: skip


def _rows(side: Side, keys: Sequence[int]) -> dict[int, dict[str, Any]]:
    return {row["key"]: row for row in side.frame[list(keys)].iter_rows(named=True)} if keys else {}
