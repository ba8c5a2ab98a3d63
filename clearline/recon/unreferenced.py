"""Amount and date without reference: how many partners an item has, counted without listing them.

With a tolerance a line could have thousands of postings near it. Counting them takes a binary search for each day of
the tolerance: postings sorted by day and amount lie in one range. Only where the count is one is it asked which.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
# Keys, days, signed amounts (never 0) and whether it has a reference, of the items that are left.
Items = tuple[Ints, Ints, Ints, Flags]


def considered(lines: Items, postings: Items, days: int, tolerance: int) -> tuple[Ints, Ints]:
    """The unambiguous pairs: a line with one posting that is near, which has this one line. Two references that differ
    rule a pair out, and here all that are left differ: at most one of a pair may have one."""
    if not len(lines[0]) or not len(postings[0]):
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty
    posting = _only(lines, postings, days, tolerance)
    back = _only(postings, lines, days, tolerance)
    line = np.flatnonzero(posting >= 0)
    line = line[back[posting[line]] == line]
    return lines[0][line], postings[0][posting[line]]


def degrees(items: Items, others: Items, days: int, tolerance: int) -> Ints:
    """How many of the others are near each item, at most one of the two having a reference."""
    return _counted(items, others, days, tolerance)[0]


def _only(items: Items, others: Items, days: int, tolerance: int) -> Ints:
    """The place of the one other that is near; -1 for items that have none or several."""
    count, place = _counted(items, others, days, tolerance)
    return np.where(count == 1, place, -1)


def _counted(items: Items, others: Items, days: int, tolerance: int) -> tuple[Ints, Ints]:
    """For each item the number of others, and the place of one of them."""
    count = np.zeros(len(items[0]), dtype=np.int64)
    place = np.full(len(items[0]), -1, dtype=np.int64)
    if not len(others[0]):
        return count, place
    # An item without a reference may have any other, one with a reference only others without.
    for mine, theirs in ((~items[3], np.ones(len(others[0]), dtype=bool)), (items[3], ~others[3])):
        if mine.any() and theirs.any():
            count[mine], place[mine] = _in_range(
                items[1][mine], items[2][mine], others[1], others[2], np.flatnonzero(theirs), days, tolerance
            )
    return count, place


def _in_range(
    day: Ints, amount: Ints, other_day: Ints, other_amount: Ints, chosen: Ints, days: int, tolerance: int
) -> tuple[Ints, Ints]:
    values = np.unique(other_amount[chosen])
    # Amounts as places among the others' amounts, so that day and amount fit into one number.
    low = np.searchsorted(values, _down(amount, tolerance), "left")
    high = np.searchsorted(values, _up(amount, tolerance), "right")
    width = len(values) + 1
    keys = other_day[chosen] * width + np.searchsorted(values, other_amount[chosen])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    count = np.zeros(len(day), dtype=np.int64)
    place = np.full(len(day), -1, dtype=np.int64)
    for shift in range(-days, days + 1):
        base = (day + shift) * width
        first, end = np.searchsorted(keys, base + low, "left"), np.searchsorted(keys, base + high, "left")
        found = end > first
        count += end - first
        place[found] = chosen[order[first[found]]]
    return count, place


def _down(amount: Ints, tolerance: int) -> Ints:
    """The lowest amount that is near: of the same sign."""
    lowest = np.where(amount > 0, np.int64(1), np.int64(-(2**63) + 1))
    room = np.where(amount > 0, amount - 1, np.iinfo(np.int64).max + np.minimum(amount, 0))
    return np.where(room >= tolerance, amount - np.int64(tolerance), lowest)


def _up(amount: Ints, tolerance: int) -> Ints:
    """The highest amount that is near: of the same sign."""
    return -_down(-amount, tolerance)
