"""Mutation of the ledger's core: small changes of its code, one at a time, and whether the fast tests see each.

    python -m tests.mutation --seconds 1200 --out /tmp/mutants.json

The tests are collected once. A mutant is a function whose code is exchanged in a forked child, which then runs the
tests that reach the function, quickest first, until one fails; so a mutant costs what its tests cost and nothing is
written to disk. Changed is what a function does: comparisons, arithmetic, `and`, `or` and `not`, numbers, truth values,
words (texts for people, with a space in them, are left alone), raising, and calls for their effect. Tables and
constants of modules are not changed. The order is drawn from a seed, so a run that is cut short is a fair sample.
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import importlib
import json
import os
import random
import resource
import signal
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "ledger"
TESTS = (
    "ledger", "operations", "partners", "terms", "templates", "products", "crossing", "exchange", "closing",
    "invariants", "rollups", "calendars_windows", "freezes", "seals",
)  # fmt: skip
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.RShift: ast.LShift,
}  # fmt: skip
SURVIVED, KILLED, LATE, UNREACHED = "survived", "killed", "killed by time", "no test reaches it"
MARGIN_S = 5.0  # of processor time, beside three times what the tests took


@dataclass
class Mutant:
    """One change: where, what, and what became of it. `by`: the test that saw it."""

    module: str
    function: str
    line: int
    change: str
    outcome: str = ""
    by: str = ""


# ---- making them -------------------------------------------------------------------------------------------------


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], ast.AST]]]:
    """What can be changed of one node: in words, and a function from a copy of the node to what takes its place."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield f"{type(op).__name__} -> {SWAPS[type(op)].__name__}", _with("ops", [SWAPS[type(op)]()])
        case ast.BoolOp(op=op) | ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in SWAPS:
            yield f"{type(op).__name__} -> {SWAPS[type(op)].__name__}", _with("op", SWAPS[type(op)]())
        case ast.UnaryOp(op=ast.Not()):
            yield "not removed", lambda n: n.operand
        case ast.If(test=ast.Name() | ast.Attribute() | ast.Call()) | ast.IfExp(test=ast.Name() | ast.Attribute()):
            yield "condition negated", lambda n: _put(n, "test", ast.UnaryOp(ast.Not(), n.test))
        case ast.Constant(value=bool(flag)):
            yield f"{flag} -> {not flag}", _with("value", not flag)
        case ast.Constant(value=int(number)):
            yield f"{number} -> {number + 1}", _with("value", number + 1)
        case ast.Constant(value=str(text)) if text and " " not in text:
            yield f"{text!r} -> {text + '!'!r}", _with("value", text + "!")
        case ast.Raise() if node.exc is not None:
            yield "raise removed", lambda n: ast.Pass()
        case ast.Expr(value=ast.Call()):
            yield "call removed", lambda n: ast.Pass()


def _with(name: str, value: Any) -> Callable[[Any], ast.AST]:
    return lambda n: _put(n, name, value)


def _put(node: Any, name: str, value: Any) -> ast.AST:
    setattr(node, name, value)
    changed: ast.AST = node
    return changed


class _Replace(ast.NodeTransformer):
    """Puts something else in the place of the node with this number."""

    def __init__(self, number: int, make: Callable[[Any], ast.AST]) -> None:
        self.number, self.make = number, make

    def visit(self, node: ast.AST) -> Any:
        if getattr(node, "number", -1) == self.number:
            return ast.copy_location(self.make(node), node)
        return self.generic_visit(node)


def _numbered(tree: ast.Module) -> ast.Module:
    for number, node in enumerate(ast.walk(tree)):
        node.number = number  # type: ignore[attr-defined]
    return tree


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions of the module and methods of its classes, by qualified name. What is nested in them is theirs."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{n.name}", n) for n in node.body if isinstance(n, ast.FunctionDef))


def _body(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The nodes of what it does: without docstring, annotations, decorators and defaults."""
    doc = ast.get_docstring(function, clean=False) is not None
    queue: list[ast.AST] = list(function.body[1 if doc else 0 :])
    while queue:
        node = queue.pop()
        if isinstance(node, ast.JoinedStr):  # texts for people, and keys that others compare whole
            queue += [v.value for v in node.values if isinstance(v, ast.FormattedValue)]
            continue
        yield node
        if isinstance(node, ast.AnnAssign):
            queue += [node.value] if node.value is not None else []
        else:
            queue += ast.iter_child_nodes(node)


Made = tuple[Mutant, int, Callable[[Any], ast.AST], str]


def mutants_of(path: Path) -> list[Made]:
    """Every mutant of a module; with the number of its node, how it is made, and its function's name."""
    tree = _numbered(ast.parse(path.read_text(encoding="utf-8")))
    out = []
    for name, function in _functions(tree):
        for node in _body(function):
            for change, make in _changes(node):
                line = getattr(node, "lineno", function.lineno)
                out.append((Mutant(f"ledger.{path.stem}", name, line, change), node.number, make, name))  # type: ignore[attr-defined]
    return out


def code_of(path: Path, number: int, make: Callable[[Any], ast.AST], name: str) -> types.CodeType | None:
    """The code of a function with this change in it; None when it is no Python any more."""
    tree = _numbered(ast.parse(path.read_text(encoding="utf-8")))
    changed = ast.fix_missing_locations(_Replace(number, lambda n: make(copy.copy(n))).visit(tree))
    try:
        code = compile(changed, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    queue: list[types.CodeType] = [code]
    while queue:
        one = queue.pop()
        if one.co_qualname == name:
            return one
        queue += [c for c in one.co_consts if isinstance(c, types.CodeType)]
    return None


def function_of(module: str, name: str) -> types.FunctionType | None:
    """The function itself, whatever is wrapped round it."""
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = found.__dict__.get(part) if isinstance(found, type) else getattr(found, part, None)
    found = getattr(found, "fget", None) or getattr(found, "__func__", None) or found
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    return found if isinstance(found, types.FunctionType) else None


# ---- running the tests -------------------------------------------------------------------------------------------


class Run:
    """A plugin of pytest: in place of running the tests once, it runs them against the mutants."""

    def __init__(self, mutants: list[Made], seconds: float, tell: Callable[[str], None]) -> None:
        self.mutants, self.seconds, self.tell = mutants, seconds, tell
        self.done: list[Mutant] = []
        self.base_s = 0.0

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        reached, took = self._baseline(session.items)
        until = time.monotonic() + self.seconds
        for made in self.mutants:
            if time.monotonic() > until:
                break
            self.done.append(self._try(made, reached, took))
            if len(self.done) % 50 == 0:
                self.tell(summary(self.done))
        return True

    def _baseline(self, items: list[pytest.Item]) -> tuple[dict[tuple[str, str], list[pytest.Item]], dict[str, float]]:
        """Which tests reach which functions, quickest first, and how long they take, in seconds of this processor."""
        reached: dict[tuple[str, str], list[pytest.Item]] = {}
        took: dict[str, float] = {}
        prefix = str(CORE)
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                continue  # each would cost seconds for each mutant
            seen: set[tuple[str, str]] = set()

            def profile(frame: types.FrameType, event: str, _arg: Any, seen: set[tuple[str, str]] = seen) -> None:
                code = frame.f_code
                if event == "call" and code.co_filename.startswith(prefix):
                    seen.add((Path(code.co_filename).stem, code.co_qualname.partition(".<locals>")[0]))

            _forget_what_is_cached()
            started = time.process_time()
            sys.setprofile(profile)
            ok = _passes(item)
            sys.setprofile(None)
            took[item.nodeid] = time.process_time() - started
            if not ok:
                raise pytest.UsageError(f"{item.nodeid} fails without any mutant")
            for place in seen:
                reached.setdefault(place, []).append(item)
        for tests in reached.values():
            tests.sort(key=lambda i: took[i.nodeid])
        self.base_s = sum(took.values())
        self.tell(f"{len(took)} tests in {self.base_s:.1f} s of processor time, {len(self.mutants)} mutants")
        return reached, took

    def _try(
        self, made: Made, reached: dict[tuple[str, str], list[pytest.Item]], took: dict[str, float]
    ) -> Mutant:  # fmt: skip
        mutant, number, make, name = made
        stem = mutant.module.partition(".")[2]
        function, code = function_of(mutant.module, name), code_of(CORE / f"{stem}.py", number, make, name)
        tests = reached.get((stem, name), [])
        if function is None or code is None or not tests:
            mutant.outcome = UNREACHED
            return mutant
        seconds = 3 * sum(took[i.nodeid] for i in tests) + MARGIN_S
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            _in_child(function, code, tests, write, seconds)
        os.close(write)
        with os.fdopen(read) as pipe:
            mutant.by = pipe.read()
        _, status = os.waitpid(child, 0)
        signalled = os.WIFSIGNALED(status)
        mutant.outcome = LATE if signalled else KILLED if os.WEXITSTATUS(status) else SURVIVED
        return mutant


def _in_child(
    function: types.FunctionType, code: types.CodeType, tests: list[pytest.Item], write: int, seconds: float
) -> None:
    """Runs the tests until one fails, and ends the process with 1 then. It never returns."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    status = 1
    try:
        _forget_what_is_cached()
        function.__code__ = code
        status = 0
        for item in tests:
            if not _passes(item):
                os.write(write, item.nodeid.encode())
                status = 1
                break
    except BaseException as e:  # whatever it is, the mutant was seen
        os.write(write, type(e).__name__.encode())
        status = 1
    finally:
        os._exit(status)


def _forget_what_is_cached() -> None:
    """What the ledger has worked out and keeps (compiled products) was worked out by the code as it was."""
    for name, module in list(sys.modules.items()):
        if name.startswith("ledger."):
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()


def _passes(item: pytest.Item) -> bool:
    item._initrequest()  # type: ignore[attr-defined]
    return all(r.passed or r.skipped for r in runtestprotocol(item, log=False, nextitem=None))


# ---- telling -----------------------------------------------------------------------------------------------------


def summary(done: list[Mutant]) -> str:
    """How many were seen. Those that no test reaches count as not seen."""
    counts = Counter(m.outcome for m in done)
    seen = counts[KILLED] + counts[LATE]
    return f"{seen} of {len(done)} mutants seen ({100 * seen / max(1, len(done)):.1f} %): {dict(counts)}"


def run(
    modules: Sequence[str], tests: Sequence[str], seconds: float, seed: int, limit: int, tell: Callable[[str], None]
) -> list[Mutant]:
    """Tries the mutants of these modules (all of the core when empty) in a drawn order until the time is over."""
    paths = [p for p in sorted(CORE.glob("*.py")) if p.stem != "__init__" and (not modules or p.stem in modules)]
    for path in paths:
        importlib.import_module(f"ledger.{path.stem}")
    made = [m for path in paths for m in mutants_of(path)]
    random.Random(seed).shuffle(made)
    plugin = Run(made[: limit or None], seconds, tell)
    files = [str(ROOT / "tests" / "unit" / f"test_{name}.py") for name in tests]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--no-header"]
    code = pytest.main([*options, *files], plugins=[plugin])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(int(code))
    return plugin.done


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutation of the ledger's core.")
    parser.add_argument("modules", nargs="*", help="modules of ledger/, such as rules; all when none is named")
    parser.add_argument("--tests", nargs="+", default=TESTS, choices=TESTS, help="modules of tests/unit; all of these")
    parser.add_argument(
        "--seconds", type=float, default=1_200.0, help="for the mutants, beside what the tests take once"
    )
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--limit", type=int, default=0, help="most mutants; 0 for all")
    parser.add_argument("--out", type=Path, help="where all of them are written, as JSON")
    given = parser.parse_args()
    screen = os.fdopen(os.dup(2), "w", buffering=1)  # pytest takes what is printed meanwhile for its tests' own
    done = run(
        given.modules, given.tests, given.seconds, given.seed, given.limit, lambda text: print(text, file=screen)
    )
    if given.out:
        given.out.write_text(json.dumps([asdict(m) for m in done], indent=1))
    for m in done:
        if m.outcome in (SURVIVED, UNREACHED):
            print(f"{m.outcome}: {m.module}.{m.function} line {m.line}: {m.change}")
    print(summary(done))


if __name__ == "__main__":
    main()
