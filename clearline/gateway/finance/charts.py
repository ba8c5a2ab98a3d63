"""Flows by product and day as bars, drawn here: one small chart for each product, all to one scale.

Small charts beside each other need no colours to tell products apart, and each says in words what it shows. Heights
are whole numbers of a viewBox's units; amounts never become floats.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

CHARTS_MAX = 12
DAYS_MAX = 92
WIDTH, HEIGHT = 360, 150
TOP, BASE = 22, 124  # of the bars, in units of the viewBox
_LEFT, _RIGHT = 4, 356


@dataclass(frozen=True, slots=True)
class Bar:
    """One day: where its bar stands, and its amount in minor units."""

    day: date
    amount: int
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Chart:
    """One product's days. `scale`: the amount at the top, in minor units, the same for all charts of a page."""

    product: str
    bars: Sequence[Bar]
    total: int
    scale: int

    @property
    def highest(self) -> Bar:
        """The day with the most; the first of equals."""
        return max(self.bars, key=lambda b: b.amount)

    @property
    def lowest(self) -> Bar:
        """The day with the least; the first of equals."""
        return min(self.bars, key=lambda b: b.amount)


@dataclass(frozen=True, slots=True)
class Charts:
    """All charts of a page, the largest product first. `others`: how many products the last one sums up, 0 when it is
    of one product like the rest; `cut`: whether days with flows are left out, because there are too many."""

    charts: Sequence[Chart]
    others: int
    cut: bool


def charts(flows: Iterable[tuple[date, str, int]], since: date, until: date) -> Charts | None:
    """Charts of flows: day, product and amount in minor units of one currency. A day without any is drawn as nothing;
    of a period longer than DAYS_MAX the last days. None when there are no flows in what would be drawn."""
    sums: dict[str, dict[date, int]] = defaultdict(lambda: defaultdict(int))
    days = [(day, product, amount) for day, product, amount in flows if since <= day <= until]
    if not days:
        return None
    earliest, last = min(d for d, _, _ in days), max(d for d, _, _ in days)
    first = max(earliest, last - timedelta(days=DAYS_MAX - 1))
    for day, product, amount in days:
        if day >= first:
            sums[product][day] += amount
    ranked = sorted(sums, key=lambda p: (-sum(sums[p].values()), p))
    shown, rest = ranked[:CHARTS_MAX], ranked[CHARTS_MAX:]
    if len(rest) == 1:  # one that would be summed up alone has a chart of its own
        shown, rest = ranked, []
    drawn: list[tuple[str, Mapping[date, int]]] = [(p, sums[p]) for p in shown]
    if rest:
        others: dict[date, int] = defaultdict(int)
        for p in rest:
            for day, amount in sums[p].items():
                others[day] += amount
        drawn.append(("", others))
    scale = max(1, *(amount for _, by_day in drawn for amount in by_day.values()))
    return Charts([_chart(p, by_day, first, last, scale) for p, by_day in drawn], len(rest), first > earliest)


def _chart(product: str, by_day: Mapping[date, int], first: date, last: date, scale: int) -> Chart:
    count = (last - first).days + 1
    bars = []
    for i in range(count):
        day = first + timedelta(days=i)
        amount = by_day.get(day, 0)
        left = _LEFT + (_RIGHT - _LEFT) * i // count
        right = _LEFT + (_RIGHT - _LEFT) * (i + 1) // count
        height = max(1, amount * (BASE - TOP) // scale) if amount > 0 else 0
        width = max(1, min(40, right - left - (1 if right - left > 2 else 0)))
        bars.append(Bar(day, amount, left + (right - left - width) // 2, BASE - height, width, height))
    return Chart(product, bars, sum(by_day.values()), scale)
