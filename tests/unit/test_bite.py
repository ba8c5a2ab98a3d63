"""The table of seeded bugs names tests that there are; and the mutator makes mutants that differ.

That each bug is caught is held by those tests themselves: they run with all others.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import bite, mutation

ROOT = Path(__file__).resolve().parents[2]
ROW = (  # what the acceptance row asks for by name
    "exactly_once", "before the produce", "last changelog row wins", "deduplication", "reused after a timeout",
    "float amounts", "uncommitted", "lost rejects", "swapped legs",
)  # fmt: skip


def test_every_bug_has_a_test_that_there_is() -> None:
    functions: dict[str, set[str]] = {}
    for bug in bite.seeded():
        path, _, name = bug.test.partition("::")
        if path not in functions:
            tree = ast.parse((ROOT / path).read_text())
            functions[path] = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        assert name.partition("[")[0] in functions[path], bug


def test_the_table_has_what_is_asked_for_each_once() -> None:
    bugs = bite.seeded()
    assert len(bugs) == len({b.test for b in bugs}) > 150
    assert all(any(part in b.bug for b in bugs) for part in ROW)
    assert sum(not b.quick for b in bugs) == len(bite.NAMED)


def test_what_was_not_seen_is_told() -> None:
    one, watch = bite.seeded()[0], bite.Watch()
    assert bite.line(one, watch) == (False, f"| {one.bug} | {one.by} | 0.0 not run |")
    watch.took[f"{one.test}[x]"] = 1.5
    assert bite.line(one, watch) == (True, f"| {one.bug} | {one.by} | 1.5 |")
    watch.failed.add(f"{one.test}[x]")
    assert bite.line(one, watch) == (False, f"| {one.bug} | {one.by} | 1.5 NOT CAUGHT |")


@pytest.mark.parametrize("module", ["rules", "freezes", "parts"])
def test_every_mutant_is_other_code(module: str) -> None:
    path = mutation.CORE / f"{module}.py"
    __import__(f"ledger.{module}")
    made = mutation.mutants_of(path)
    assert len(made) > 5
    for one in made:
        mutant = one.mutant
        function, code = mutation.function_of(mutant.module, mutant.function), mutation.code_of(path, one)
        assert function is not None, mutant
        assert code is not None, mutant
        was = function.__code__
        assert (code.co_code, code.co_consts, code.co_names) != (was.co_code, was.co_consts, was.co_names), mutant
        assert mutant.line in one.lines, mutant


def test_the_sample_has_of_every_module_and_is_the_same_for_one_seed() -> None:
    made = [m for p in sorted(mutation.CORE.glob("*.py")) for m in mutation.mutants_of(p)]
    names = [mutation.told(m.mutant) for m in mutation.drawn(list(made), 200, 7)]
    assert names == [mutation.told(m.mutant) for m in mutation.drawn(list(made), 200, 7)]
    assert names != [mutation.told(m.mutant) for m in mutation.drawn(list(made), 200, 8)]
    assert {m.mutant.module for m in mutation.drawn(list(made), 200, 7)} == {m.mutant.module for m in made}
    assert len(mutation.drawn(list(made), 0, 7)) == len(made)


def test_the_interval_is_wilsons() -> None:
    low, high = mutation.interval(36, 42)  # 72.2 to 93.3 % in tables
    assert (round(low, 3), round(high, 3)) == (0.722, 0.933)
    assert mutation.interval(10, 10)[1] == pytest.approx(1.0)
