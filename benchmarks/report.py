"""How figures are shown and kept: one table on the screen, one JSON line per part in the results."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import Results


class Report:
    """Collects the parts of one run. `as_json`: lines of JSON on standard output instead of tables."""

    def __init__(self, results: Results, as_json: bool) -> None:
        self._results = results
        self._as_json = as_json
        wide = None if sys.stdout.isatty() else 120
        self._console = Console(stderr=as_json, highlight=False, markup=False, width=wide)

    def say(self, text: str) -> None:
        """What is happening now."""
        self._console.print(text, style="dim")

    def add(self, part: str, figures: Mapping[str, Any], rows: list[tuple[str, Any]] | None = None) -> None:
        """Keeps the figures of a part and shows `rows` of it (name, value), or all its figures."""
        line = self._results.add(part, figures)
        if self._as_json:
            print(json.dumps(line), flush=True)
            return
        table = Table(title=part, title_justify="left", show_header=False, min_width=72)
        table.add_column(min_width=46)
        table.add_column(justify="right")
        for name, value in rows if rows is not None else figures.items():
            table.add_row(name, shown(value))
        self._console.print(table)

    def grid(self, part: str, figures: Mapping[str, Any], columns: list[str], rows: list[list[Any]]) -> None:
        """The same, as a table with several columns."""
        line = self._results.add(part, figures)
        if self._as_json:
            print(json.dumps(line), flush=True)
            return
        table = Table(title=part, title_justify="left")
        for name in columns:
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*(shown(v) for v in row))
        self._console.print(table)


def shown(value: Any) -> str:
    """A figure for people: thousands separated, no more digits than it is good for."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {shown(v)}" for k, v in value.items())
    return str(value)
