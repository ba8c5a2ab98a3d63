"""The table of docs/metrics.md, from the list. `python -m tests.contract.metric_page` writes it anew."""

from __future__ import annotations

from pathlib import Path

from streams.metric_names import EVERY, Name

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
BEGIN, END = "<!-- the list begins -->\n", "<!-- the list ends -->\n"


def table() -> str:
    """One row for each metric, in the order of the list."""
    rows = ["| name | kind | unit | labels | served by | says |", "|---|---|---|---|---|---|"]
    for n in Name:
        by = "every role" if n.roles == EVERY else ", ".join(n.roles)
        labels = ", ".join(f"`{label}`" for label in n.labels)
        rows.append(f"| `{n}` | {n.kind} | {n.unit} | {labels} | {by} | {n.help} |")
    return "\n".join(rows) + "\n"


def page(text: str) -> str:
    """The page with the table in its place."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
