"""What the model knows of one partition: dicts of plain tuples, and nothing else."""

from __future__ import annotations

from collections import Counter
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any, Self

from schemas.records import Limit, SetCalendar, Transaction, Used
from tests.model import calendars
from tests.model.freezes import Freeze
from tests.model.values import Entry, Flight, Hold, Key, Known, Other, Product


@dataclass
class State:
    """What there is, what was answered under each key, and what is remembered of what settled."""

    partition: int = 0
    partitions: int = 1
    partners: dict[str, str] = field(default_factory=dict)
    accounts: dict[str, Known] = field(default_factory=dict)
    answered: dict[Key, tuple[Any, int]] = field(default_factory=dict)
    holds: dict[Key, Hold] = field(default_factory=dict)
    others: dict[Key, Entry | Other] = field(default_factory=dict)
    flights: dict[tuple[int, bytes], Flight] = field(default_factory=dict)
    shelf: dict[str, tuple[Product, ...]] = field(default_factory=dict)
    calendars: dict[str, SetCalendar] = field(default_factory=dict)
    limits: dict[tuple[str, str], tuple[Limit, ...]] = field(default_factory=dict)
    usage: dict[tuple[str, str], tuple[Used, ...]] = field(default_factory=dict)
    freezes: dict[tuple[str, str], Freeze] = field(default_factory=dict)  # by level and subject
    counts: Counter[str] = field(default_factory=Counter)
    closed_through: int = -1
    closes: dict[int, int] = field(default_factory=dict)  # day -> sequence of the record that closed it
    sealed: dict[int, str] = field(default_factory=dict)  # day -> hash
    now: int = 0

    def copy(self) -> Self:
        """A model that goes its own way from here."""
        new = copy(self)
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, dict):
                setattr(new, f.name, value.copy())
        return new

    def open_holds(self) -> dict[Key, Hold]:
        return {k: h for k, h in self.holds.items() if h.state == "open"}

    def find(self, key: Key) -> Hold | Entry | Other | None:
        """What is remembered of the transaction that settled under this key."""
        return self.holds.get(key) or self.others.get(key)

    def settlement_calendar(self) -> SetCalendar | None:
        return self.calendars.get("bank")

    def booked_on(self, asked: int) -> tuple[int, dict[str, str]]:
        """The value date that a transaction gets, and `late_for` when it is another one than was asked for."""
        if asked > self.closed_through:
            return asked, {}
        return calendars.next_day(self.settlement_calendar(), self.closed_through), {"late_for": calendars.iso(asked)}

    def set_aside(
        self, key: Key, name: str, side: str, change: int, currency: str, *, expired: bool = False
    ) -> tuple[Any, ...]:
        """Changes what is pending on one account; the row of the journal."""
        a = self.accounts[name] = self.accounts[name].set_aside(side, change)
        return (key, name, side, change, currency, expired, *a.counters())

    def post(self, name: str, side: str, amount: int, currency: str) -> tuple[Any, ...]:
        a = self.accounts[name] = self.accounts[name].post(side, amount)
        return (name, side, amount, currency, *a.counters())

    def open(self, name: str, known: Known) -> tuple[str, str, str, int | None, int]:
        self.accounts[name] = known
        return name, known.type, known.currency, known.limit, known.credit


def version_of(t: Transaction, product: Product | None) -> int:
    return 0 if product is None else product.version
