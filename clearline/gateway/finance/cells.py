"""How a figure looks: money with its decimals and thousands, days, moments, and what a cell leads to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from ledger.money import EXPONENTS, format_minor
from sinks.finance.catalogue import Column, Kind

NUMBERS: frozenset[Kind] = frozenset(("count", "money", "share"))
_FIGURES = frozenset(
    ("debits", "credits", "difference", "postings", "partition", "sequence", "run", "breaks", "open", "age_days")
)
_ACCOUNTS = ("account", "payee", "name")  # the last one of a trial balance by account


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: its text, whether it is a number, whether it is below zero, and the page it leads to."""

    text: str
    number: bool = False
    negative: bool = False
    href: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """A column's head. `about`: what it means, empty when its name says it."""

    text: str
    number: bool
    about: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its words. `totals`: rows at its foot."""

    title: str
    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    totals: Sequence[Sequence[Cell]] = ()
    note: str = ""


def money(amount: int, currency: str) -> str:
    """Minor units for people: 1255000 CNY -> `12,550.00`. What is no known currency stays in minor units."""
    if currency not in EXPONENTS:
        return f"{amount:,}"
    whole, dot, rest = format_minor(abs(amount), currency).partition(".")
    return f"{'-' if amount < 0 else ''}{int(whole):,}{dot}{rest}"


def cell(kind: Kind, value: Any, currency: str = "") -> Cell:
    """A value of a report's column. `currency`: of its row."""
    if value is None:
        return Cell("", kind in NUMBERS)
    match kind:
        case "money":
            return Cell(money(int(value), currency), True, int(value) < 0)
        case "count":
            return Cell(f"{int(value):,}", True, int(value) < 0)
        case "share":
            basis_points = int(value)
            sign = "-" if basis_points < 0 else ""
            return Cell(f"{sign}{abs(basis_points) // 100:,}.{abs(basis_points) % 100:02} %", True, basis_points < 0)
        case "moment":
            return Cell(moment_text(value) if isinstance(value, datetime) else str(value))
        case "date":
            return Cell(value.isoformat() if isinstance(value, date) else str(value))
        case "flag":
            return Cell("yes" if value else "no")
    return Cell(str(value))


def moment_text(at: datetime) -> str:
    """A moment in UTC, to the millisecond."""
    utc = at.astimezone(UTC) if at.tzinfo else at
    return utc.strftime("%Y-%m-%d %H:%M:%S.") + f"{utc.microsecond // 1000:03}"


def heads(columns: Sequence[Column], name: Callable[[Column], str]) -> list[Head]:
    """The heads of a report's columns."""
    return [Head(name(c), c.kind in NUMBERS, c.about) for c in columns]


def named_heads(name: Callable[[str, str], str], *names: str) -> list[Head]:
    """Heads of a table that is no report's. `name`: gives a column's name in words."""
    return [Head(name("column", n), n in _FIGURES) for n in names]


def row_cells(
    columns: Sequence[Column], row: Sequence[Any], statement: Callable[[str], str] | None = None
) -> list[Cell]:
    """A report's row. `statement`: the page of an account's statement, to which its id leads."""
    by_name = dict(zip((c.name for c in columns), row, strict=True))
    currency = str(by_name.get("currency") or "")
    out = []
    for c, value in zip(columns, row, strict=True):
        unused = by_name.get("kind") == "line" and c.name in ("debits", "credits") and value == 0
        shown = Cell("", True) if unused else cell(c.kind, value, currency)
        if statement is not None and c.name in _ACCOUNTS and ":" in shown.text and " " not in shown.text:
            shown = Cell(shown.text, href=statement(shown.text))
        out.append(shown)
    return out


def total_rows(columns: Sequence[Column], totals: Mapping[str, Mapping[str, int]], word: str) -> list[list[Cell]]:
    """The totals by currency as rows under a report's."""
    out = []
    for currency, sums in totals.items():
        cells = [
            cell("money", sums[c.name], currency) if c.name in sums
            else Cell(currency if c.name == "currency" else "", c.kind in NUMBERS)
            for c in columns
        ]  # fmt: skip
        if not cells[0].text or columns[0].name == "currency":
            cells[0] = Cell(f"{word} {currency}")
        out.append(cells)
    return out
