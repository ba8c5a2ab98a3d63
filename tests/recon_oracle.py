"""A second matcher, written from docs/reconciliation.md alone: every pair is looked at, nothing is quick."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

NONE = {"", "NOTPROVIDED", "NONREF"}


class L(NamedTuple):
    """A line. Days are numbers, amounts signed."""

    day: int
    amount: int
    reference: str = ""
    bank_reference: str = ""
    text: str = ""
    statement: int = 0
    number: int = 0
    detail: int = 0


class P(NamedTuple):
    """A posting."""

    day: int
    amount: int
    reference: str = ""
    partition: int = 0
    sequence: int = 0
    leg: int = 0


@dataclass
class Verdict:
    """`matches`: pass, lines, postings. `breaks`: type, line, posting, candidates. `not_due`: postings."""

    matches: list[tuple[str, frozenset[L], frozenset[P]]] = field(default_factory=list)
    breaks: list[tuple[str, L | None, P | None, int]] = field(default_factory=list)
    not_due: list[P] = field(default_factory=list)


def normal(reference: str) -> str:
    found = " ".join(reference.split()).upper()
    return "" if found in NONE else found


def line_order(x: L) -> tuple:
    return (x.day, x.amount, normal(x.reference), x.bank_reference, x.text, x.statement, x.number, x.detail)


def posting_order(x: P) -> tuple:
    return (x.day, x.amount, normal(x.reference), x.partition, x.sequence, x.leg)


def judge(
    lines: Sequence[L], postings: Sequence[P], days: int, tolerance: int, first: int, last: int,
    taken: tuple[Iterable[L], Iterable[P]] = ((), ()),
) -> Verdict:  # fmt: skip
    """What a run finds. `taken`: what earlier runs have matched."""
    out = Verdict()
    all_lines, all_postings = sorted(lines, key=line_order), sorted(postings, key=posting_order)
    free_l = [x for x in all_lines if x.amount and x not in set(taken[0])]
    free_p = [x for x in all_postings if x not in set(taken[1])]

    def take(name: str, ls: Iterable[L], ps: Iterable[P]) -> None:
        ls, ps = list(ls), list(ps)
        out.matches.append((name, frozenset(ls), frozenset(ps)))
        for x in ls:
            free_l.remove(x)
        for y in ps:
            free_p.remove(y)

    def off(x: L, y: P) -> int:
        return abs(x.amount - y.amount)

    def apart(x: L, y: P) -> int:
        return abs(x.day - y.day)

    def one_sign(x: L, y: P) -> bool:
        return (x.amount > 0) == (y.amount > 0)

    def same_reference(x: L, y: P) -> bool:
        return normal(x.reference) != "" and normal(x.reference) == normal(y.reference)

    # 1
    for x in list(free_l):
        y = next(
            (y for y in free_p if same_reference(x, y) and x.amount == y.amount and x.day == y.day), None
        )  # fmt: skip
        if y is not None:
            take("exact", [x], [y])

    def told_apart(reference: str) -> bool:
        n = sum(normal(x.reference) == reference for x in free_l)
        m = sum(normal(y.reference) == reference for y in free_p)
        return n * m <= 400

    def pairs(good: Callable[[L, P], bool], order: Callable[[L, P], tuple]) -> list[tuple[L, P]]:
        """Pairs of one reference and sign for which `good` holds, each item once, in this order."""
        apart_ = {normal(x.reference): told_apart(normal(x.reference)) for x in free_l}
        found = [
            (x, y) for x in free_l for y in free_p
            if same_reference(x, y) and apart_[normal(x.reference)] and one_sign(x, y) and good(x, y)
        ]  # fmt: skip
        found.sort(key=lambda p: (*order(*p), line_order(p[0]), posting_order(p[1])))
        chosen: list[tuple[L, P]] = []
        for x, y in found:
            if all(x != a and y != b for a, b in chosen):
                chosen.append((x, y))
        return chosen

    # 2
    for x, y in pairs(
        lambda x, y: off(x, y) <= tolerance and apart(x, y) <= days, lambda x, y: (off(x, y), apart(x, y))
    ):
        take("near", [x], [y])

    # 3
    both: list[L | P] = [*free_l, *free_p]
    items = [i for i in both if normal(i.reference)]
    items.sort(key=lambda i: (normal(i.reference), i.day))
    for _, group in groupby(items, key=lambda i: normal(i.reference)):
        clusters: list[list[L | P]] = []
        for i in group:
            if clusters and i.day - clusters[-1][-1].day <= days:
                clusters[-1].append(i)
            else:
                clusters.append([i])
        for cluster in clusters:
            ls, ps = [i for i in cluster if isinstance(i, L)], [i for i in cluster if isinstance(i, P)]
            if not ((len(ls) == 1 and len(ps) > 1) or (len(ps) == 1 and len(ls) > 1)):
                continue
            near = all(apart(x, y) <= days for x in ls for y in ps)
            if near and abs(sum(x.amount for x in ls) - sum(y.amount for y in ps)) <= tolerance:
                take("sum", ls, ps)

    # 4 to 6
    def may(x: L, y: P, d: int, t: int) -> bool:
        named = bool(normal(x.reference)) + bool(normal(y.reference))
        return named <= 1 and one_sign(x, y) and off(x, y) <= t and apart(x, y) <= d

    for name, d, t in (("amount", 0, 0), ("amount_days", days, 0), ("amount_near", days, tolerance)):
        good = []
        for x in free_l:
            mine = [y for y in free_p if may(x, y, d, t)]
            if len(mine) == 1 and sum(may(z, mine[0], d, t) for z in free_l) == 1:
                good.append((x, mine[0]))
        for x, y in good:
            take(name, [x], [y])

    # breaks
    def due(y: P) -> bool:
        return first <= y.day <= last

    def stop(kind: str, x: L | None, y: P | None, count: int = 0) -> None:
        out.breaks.append((kind, x, y, count))
        if x is not None:
            free_l.remove(x)
        if y is not None:
            free_p.remove(y)

    def line_facts(x: L) -> tuple:
        return (normal(x.reference), x.bank_reference, x.amount, x.day)

    def posting_facts(y: P) -> tuple:
        return (normal(y.reference), y.amount, y.day)

    matched_l, matched_p = (
        [x for x in all_lines if x.amount and x not in free_l],
        [y for y in all_postings if y not in free_p],
    )
    again = [
        x for x in free_l
        if (normal(x.reference) or x.bank_reference)
        and any(line_facts(z) == line_facts(x) and (z in matched_l or line_order(z) < line_order(x))
                for z in all_lines if z.amount and z != x)
    ]  # fmt: skip
    again_p = [
        y for y in free_p
        if normal(y.reference) and due(y)
        and any(posting_facts(z) == posting_facts(y) and (z in matched_p or posting_order(z) < posting_order(y))
                for z in all_postings if z != y)
    ]  # fmt: skip
    for x in again:
        stop("duplicate", x, None)
    for y in again_p:
        stop("duplicate", None, y)
    for x, y in pairs(
        lambda x, y: off(x, y) <= tolerance and apart(x, y) > days, lambda x, y: (apart(x, y), off(x, y))
    ):
        stop("date_differs", x, y)
    for x, y in pairs(
        lambda x, y: off(x, y) > tolerance and apart(x, y) <= days, lambda x, y: (off(x, y), apart(x, y))
    ):
        stop("amount_differs", x, y)
    of_l = {x: sum(may(x, y, days, tolerance) for y in free_p) for x in free_l}
    of_p = {y: sum(may(x, y, days, tolerance) for x in free_l) for y in free_p}
    for x, n in of_l.items():
        stop("ambiguous" if n else "missing_in_ledger", x, None, n)
    for y, n in of_p.items():
        if due(y):
            stop("ambiguous" if n else "missing_in_statement", None, y, n)
    out.not_due = list(free_p)
    return out
