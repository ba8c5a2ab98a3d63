"""The capacity sheet is what its figures say, and its figures are those of the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.capacity import ASSUMED, MEASURED, document, figures, sheet

ROOT = Path(__file__).resolve().parents[2]


def test_the_sheet_is_the_one_that_the_figures_make():
    assert (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8") == document(), (
        "run `python -m benchmarks.capacity > docs/capacity.md`"
    )


@pytest.mark.parametrize("figure", [f for f in MEASURED if f.source.startswith("README: ")], ids=lambda f: f.name)
def test_a_measured_figure_stands_in_the_readme(figure):
    words = figure.source.removeprefix("README: ")
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert words in text
    numbers = [float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*(?:\.\d+)?", words)]
    assert figure.value in numbers


def values(f: dict[str, float]) -> list[float]:
    return [line.value for scale in (1, 10) for line in sheet(4e9 * scale, f, scale)]


def test_every_figure_has_a_value_and_is_used():
    f = figures()
    assert all(value > 0 for value in f.values())
    base = values(f)
    for name in f:
        if name == "worker_rate":  # shown beside: what is planned with is the shelf with limits
            continue
        others = [values({**f, name: f[name] * by}) for by in (3, 1 / 100)]
        assert any(other != base for other in others), f"{name} changes nothing"


def test_ten_times_the_transactions_need_about_ten_times_the_room():
    f = figures()
    small, large = sheet(4e9, f), sheet(4e10, f, 10)
    for a, b in zip(small, large, strict=True):
        assert a.what == b.what
        assert b.value >= a.value or "take-over" in a.what, a.what
    disk = {line.what: line.value for line in small}, {line.what: line.value for line in large}
    name = "ClickHouse, TB a year, one replica"
    assert disk[1][name] == pytest.approx(10 * disk[0][name])


def test_what_is_assumed_is_said_to_be():
    text = document()
    for figure in ASSUMED:
        assert figure.unit in text
        assert not figure.source
