"""How an amount is divided: percentages, tiers, equal parts, in whole minor units; what is rounded away is never lost.

The page is docs/products.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ledger.products import WHOLE, Amount


class Given(NamedTuple):
    """What amounts are worked out from: the transaction's amount, its named amounts, and its currency."""

    amount: int
    names: Mapping[str, int]
    currency: str


def value_of(a: Amount, given: Given, step: int) -> int:
    """An amount that depends on no balance. `step`: the step's own amount."""
    match a.kind:
        case "amount":
            return given.amount
        case "name":
            return given.names[a.name]
        case "fixed":
            return a.table[given.currency]
    base = step if a.of == "step" else given.amount if a.of == "amount" else given.names[a.of]
    if a.kind == "tiers":
        for up_to, price in a.tiers:
            if up_to is None or base <= up_to[given.currency]:
                return value_of(price, given, step)
    part = _part(base, a.percent, a.rounding)
    part = max(part, a.least.get(given.currency, part))
    return min(part, a.most.get(given.currency, part))


def _part(base: int, percent: int, rounding: str) -> int:
    """A percentage of an amount, rounded to whole minor units."""
    part, rest = divmod(base * percent, WHOLE)
    match rounding:
        case "up":
            up = rest > 0
        case "half_up":
            up = 2 * rest >= WHOLE
        case "half_even":
            up = 2 * rest > WHOLE or (2 * rest == WHOLE and part % 2 == 1)
        case _:
            up = False
    return part + up


def equal_parts(total: int, number: int) -> list[int]:
    """Equal parts; of what cannot be divided the first get one each."""
    each, rest = divmod(total, number)
    return [each + (i < rest) for i in range(number)]


def shares(credits: list[tuple[str, int]], before: int, amount: int) -> list[tuple[str, int]]:
    """Of what was paid, what the next `amount` after `before` takes back from each who got a part, in their order."""
    out: list[tuple[str, int]] = []
    start = 0
    for account_id, part in credits:
        overlap = min(start + part, before + amount) - max(start, before)
        if overlap > 0:
            out.append((account_id, overlap))
        start += part
    return out
