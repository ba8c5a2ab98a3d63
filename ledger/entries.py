"""What settled transactions did, for those that point back at them: columns of integers, 45 bytes per two-leg entry.

Kept for as long as the idempotency keys by which they are found, in the same generations of event time, and rebuilt
from the journal like them. The transactions of one generation are in the order of their source offsets, so one is found
by bisection.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

from ledger.keys import GENERATIONS

ENTRY, HOLD, LAPSED, OTHER = 1, 2, 3, 4  # what a settled transaction was; LAPSED: a hold that did
ADJUSTMENT = "adjustment"
WINDOW_MS = 30 * 86_400_000


class Leg(Protocol):
    """What is read of a posted leg."""

    @property
    def account_id(self) -> str: ...
    @property
    def side(self) -> str: ...
    @property
    def amount(self) -> int: ...


Settled = tuple[int, int, Sequence[Leg], str]  # kind, append time in milliseconds, legs, product


class Moved(NamedTuple):
    """One settled transaction: what it was, and what it posted. `amounts`: minor units, debits positive."""

    kind: int
    accounts: tuple[str, ...]
    amounts: tuple[int, ...]
    product: str = ""


def kind_of(operation: str, points: bool, posts: bool, changes_pending: bool) -> tuple[int, bool]:
    """What a settled transaction is remembered as, and whether it gives back what it debits of its original.

    It follows from what it did, as the journal tells it, because the names of operations are the products' own: whether
    it points at an original, has postings, and changes what is pending other than by lapses.
    """
    if operation == ADJUSTMENT:
        return OTHER, False
    if not points:
        return (ENTRY if posts else HOLD), False
    if changes_pending:
        return (ENTRY if posts else OTHER), False  # a capture, a void
    return OTHER, True


class _Span:
    """One generation: a row per transaction; its legs stand between its start and the next one's."""

    __slots__ = ("accounts", "amounts", "given_back", "kinds", "offsets", "products", "starts")

    def __init__(self) -> None:
        self.offsets = array("q")
        self.kinds = bytearray()
        self.products = array("I")
        self.starts = array("q")
        self.accounts = array("I")
        self.amounts = array("q")
        self.given_back: dict[int, int] = {}


_COLUMNS = ("offsets", "kinds", "products", "starts", "accounts", "amounts")


class _Numbers(dict[str, int]):
    """Account ids and products by number, in the order in which they came; `names` has them by their number."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __missing__(self, name: str) -> int:
        number = self[name] = len(self)
        self.names.append(name)
        return number


class EntryLog:
    """The settled transactions of one partition. `window_ms`: how long one is remembered at least, in event time."""

    __slots__ = ("_numbers", "_span_ms", "_spans")

    def __init__(self, window_ms: int = WINDOW_MS) -> None:
        self._span_ms = max(1, window_ms // GENERATIONS)
        self._spans: dict[int, _Span] = {}
        self._numbers = _Numbers()

    def _span(self, time_ms: int) -> _Span:
        generation = time_ms // self._span_ms
        span = self._spans.get(generation)
        if span is None:
            span = self._spans[generation] = _Span()
        return span

    def add(self, settled: Mapping[int, Settled]) -> None:
        """Remembers settled transactions by source offset, in rising order."""
        generations = {time_ms // self._span_ms for _, time_ms, _, _ in settled.values()}
        if len(generations) == 1:
            self._add_to(self._span(generations.pop() * self._span_ms), settled)
            return
        for offset, one in settled.items():
            self._add_to(self._span(one[1]), {offset: one})

    def _add_to(self, span: _Span, settled: Mapping[int, Settled]) -> None:
        """A column at a time: that takes half of what a transaction at a time would."""
        numbers, start = self._numbers, len(span.amounts)
        rows = list(settled.values())
        legs = [leg for _, _, of_one, _ in rows for leg in of_one]
        span.offsets.extend(settled)
        span.kinds.extend([kind for kind, _, _, _ in rows])
        span.products.extend([numbers[product] for _, _, _, product in rows])
        span.starts.extend(accumulate([len(of_one) for _, _, of_one, _ in rows[:-1]], initial=start))
        span.accounts.extend([numbers[leg.account_id] for leg in legs])
        span.amounts.extend([leg.amount if leg.side == "debit" else -leg.amount for leg in legs])

    def _place(self, offset: int) -> tuple[_Span, int] | None:
        for span in self._spans.values():
            i = bisect_left(span.offsets, offset)
            if i < len(span.offsets) and span.offsets[i] == offset:
                return span, i
        return None

    def find(self, offset: int) -> Moved | None:
        """The transaction that was settled at this source offset, or None."""
        place = self._place(offset)
        if place is None:
            return None
        span, i = place
        start = span.starts[i]
        end = span.starts[i + 1] if i + 1 < len(span.starts) else len(span.amounts)
        names = self._numbers.names
        accounts = tuple(names[n] for n in span.accounts[start:end])
        return Moved(span.kinds[i], accounts, tuple(span.amounts[start:end]), names[span.products[i]])

    def given_back(self, offset: int) -> int:
        """Minor units given back of the entry at this offset."""
        place = self._place(offset)
        return place[0].given_back.get(offset, 0) if place else 0

    def give_back(self, offset: int, amount: int) -> None:
        """Sets how much of an entry was given back."""
        place = self._place(offset)
        if place:
            place[0].given_back[offset] = amount

    def lapse(self, offset: int) -> None:
        """Remembers that the hold which was opened at this offset lapsed, as long as it is remembered itself."""
        place = self._place(offset)
        if place:
            place[0].kinds[place[1]] = LAPSED

    def forget(self, event_time: int) -> None:
        """Drops the generations that no command from `event_time` on can meet."""
        oldest = event_time // self._span_ms - GENERATIONS
        for g in [g for g in self._spans if g < oldest]:
            del self._spans[g]

    def dump(self) -> tuple[list[str], list[tuple[int, list[bytes], list[tuple[int, int]]]]]:
        """All that is remembered, as plain values: names by their number; of each generation its columns, and what was
        given back by source offset."""
        spans = [
            (g, [bytes(getattr(s, name)) for name in _COLUMNS], sorted(s.given_back.items()))
            for g, s in sorted(self._spans.items())
        ]
        return list(self._numbers.names), spans

    def load(
        self, names: Sequence[str], spans: Sequence[tuple[int, Sequence[bytes], Sequence[tuple[int, int]]]]
    ) -> None:
        """Takes what `dump` gave into a memory that is empty."""
        for name in names:
            self._numbers[name]  # numbered in this order
        for generation, columns, given_back in spans:
            span = self._spans[generation] = _Span()
            for name, data in zip(_COLUMNS, columns, strict=True):
                column = getattr(span, name)
                if isinstance(column, bytearray):
                    column.extend(data)
                else:
                    column.frombytes(data)
            span.given_back.update(given_back)

    def __len__(self) -> int:
        return sum(len(s.offsets) for s in self._spans.values())

    @property
    def memory_bytes(self) -> int:
        """Bytes of RAM held by the columns."""
        columns: list[Sequence[array[int]]] = [
            (s.offsets, s.starts, s.accounts, s.amounts, s.products) for s in self._spans.values()
        ]
        return sum(c.itemsize * len(c) for group in columns for c in group) + sum(
            len(s.kinds) for s in self._spans.values()
        )
