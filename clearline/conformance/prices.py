"""Where a price changes: each bound, each edge of a tier, and each way of rounding, as amounts to try.

All found from the expression alone, with whole numbers and the calculator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from clearline.conformance.calculator import price

AMOUNT_MAX = 2**63 - 1
Point = tuple[str, int]  # what it shows, and the base at which it does


def points(expression: Mapping[str, Any], currency: str) -> Iterator[Point]:
    """The bases at which a price must be tried, in minor units, smallest first within each kind."""
    if "tiers" in expression:
        least = 1
        for i, tier in enumerate(expression["tiers"]):
            up_to = tier["up_to"][currency] if "up_to" in tier else AMOUNT_MAX
            if i:
                yield f"tier {i + 1}, first", least
            for what, base in points(tier, currency):
                if least <= base <= up_to:
                    yield f"tier {i + 1}, {what}", base
            if "up_to" in tier:
                yield f"tier {i + 1}, last", up_to
            least = up_to + 1
        return
    if "fixed" in expression:
        return
    yield "smallest amount", 1
    start = 1
    least, most = expression.get("min", {}).get(currency), expression.get("max", {}).get(currency)
    if least is not None:
        above = first(lambda base: price(expression, Fraction(base), currency) > least)
        if above is not None:
            yield "last at the minimum", above - 1
            yield "first above the minimum", above
            start = above
    for what, base in _roundings(expression, start):
        if most is None or price(expression, Fraction(base), currency) < most:
            yield what, base
    if most is not None:
        at = first(lambda base: price(expression, Fraction(base), currency) >= most)
        if at is not None:
            yield "last below the maximum", at - 1
            yield "first at the maximum", at
            yield "far above the maximum", min(AMOUNT_MAX, at * 10)


def _roundings(expression: Mapping[str, Any], start: int) -> Iterator[Point]:
    """Bases from `start` on whose exact part ends in just under a half, a half (after an even and an odd unit), and
    just over it."""
    rate = Fraction(expression["percent"]) / 100
    n, d = rate.numerator, rate.denominator
    if d == 1 or not n:
        return
    back = pow(n, -1, d)
    for what, rest in (("under half", (d - 1) // 2), ("half", d // 2 if d % 2 == 0 else 0), ("over half", d // 2 + 1)):
        if not 0 < rest < d:
            continue
        base = rest * back % d
        base += -((base - start) // d) * d if base < start else 0
        yield f"rounds {what}", base
        if what == "half":
            yield "rounds half, the next", base + d


def first(holds: Callable[[int], bool]) -> int | None:
    """The smallest base for which something holds that goes on holding; None when it never does."""
    low, high = 0, AMOUNT_MAX
    if not holds(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
