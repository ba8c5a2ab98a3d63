"""Mutation of the core: small changes of its code, one at a time, and whether the fast tests see each.

    python -m tests.mutation --sample 400 --out /tmp/mutants.json

The tests are collected and run once, and what lines each reaches is noted. A mutant is a function whose code is
exchanged in a forked child, which then runs what reaches the changed statement until something fails: tests that saw
another mutant of the same function first, then the quickest, then commands beside the model and worlds
under simulated faults. So a mutant costs what its tests cost, and nothing is written to disk. Changed is what a
function does: comparisons, arithmetic, `and`, `or` and `not`, numbers, truth values, words (texts for people, with a
space in them, are left alone), raising, and calls for their effect. Tables and constants of modules are not changed.

The sample is drawn from a seed, from each module in proportion to its mutants and at least a few of each.
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import gc
import importlib
import json
import math
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
from typing import Any, NamedTuple

import coverage
import pytest
from _pytest.runner import runtestprotocol

from ledger import products

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "ledger"
PACKAGES = ("ledger", "processors")
TESTS = (
    "ledger", "operations", "partners", "terms", "templates", "products", "crossing", "exchange", "closing",
    "invariants", "rollups", "calendars_windows", "freezes", "seals", "settlement", "crossing_host", "shelf_grids",
    "ticks", "deadletters", "audit_key_growth", "core_mutants",
)  # fmt: skip
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.RShift: ast.LShift,
}  # fmt: skip
SURVIVED, KILLED, LATE, UNMADE = "survived", "killed", "killed by time", "cannot be made"
MARGIN_S = 2.0  # of processor time for a check, beside five times what it took
MODEL_RUNS, WORLDS = 12, 4  # CI has 512 and more of each
LEAST = 3  # mutants of each module, if it has so many


@dataclass
class Mutant:
    """One change: where, what, and what became of it. `by`: the test that saw it; `seconds`: what it took."""

    module: str
    function: str
    line: int
    change: str
    outcome: str = ""
    by: str = ""
    seconds: float = 0.0


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


class Made(NamedTuple):
    """A mutant and how it is made: the number of its node, and what takes the node's place. `lines`: of its statement."""

    mutant: Mutant
    number: int
    make: Callable[[Any], ast.AST]
    lines: range


def _statements(function: ast.FunctionDef) -> dict[int, range]:
    """The lines of the statement that a node, by its number, belongs to; of a compound one, those of its head."""
    out: dict[int, range] = {}

    def walk(node: ast.AST, lines: range) -> None:
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if isinstance(body, list) else node.end_lineno or node.lineno
            lines = range(node.lineno, max(end, node.lineno) + 1)
        elif isinstance(node, ast.match_case):
            lines = range(node.pattern.lineno, max(node.body[0].lineno - 1, node.pattern.lineno) + 1)
        out[node.number] = lines  # type: ignore[attr-defined]
        for child in ast.iter_child_nodes(node):
            walk(child, lines)

    walk(function, range(0))
    return out


def module_of(path: Path) -> str:
    return f"{path.parent.name}.{path.stem}"


def mutants_of(path: Path) -> list[Made]:
    """Every mutant of a module."""
    tree = _numbered(ast.parse(path.read_text(encoding="utf-8")))
    out = []
    for name, function in _functions(tree):
        statements = _statements(function)
        for node in _body(function):
            for change, make in _changes(node):
                line, number = getattr(node, "lineno", function.lineno), node.number  # type: ignore[attr-defined]
                out.append(Made(Mutant(module_of(path), name, line, change), number, make, statements[number]))
    return out


def code_of(path: Path, made: Made) -> types.CodeType | None:
    """The code of a mutant's function with the change in it; None when it is no Python any more."""
    tree = _numbered(ast.parse(path.read_text(encoding="utf-8")))
    changed = ast.fix_missing_locations(_Replace(made.number, lambda n: made.make(copy.copy(n))).visit(tree))
    try:
        code = compile(changed, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    queue: list[types.CodeType] = [code]
    while queue:
        one = queue.pop()
        if one.co_qualname == made.mutant.function:
            return one
        queue += [c for c in one.co_consts if isinstance(c, types.CodeType)]
    return None


def function_of(module: str, name: str) -> types.FunctionType | None:
    """The function itself, whatever is wrapped round it."""
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = found.__dict__.get(part) if isinstance(found, type) else getattr(found, part, None)
    for inner in ("fget", "func", "__func__"):
        found = getattr(found, inner, None) or found
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    return found if isinstance(found, types.FunctionType) else None


def drawn(made: list[Made], count: int, seed: int) -> list[Made]:
    """So many of them (0 for all), in an order from the seed: of each module its share, and LEAST at least."""
    random.Random(seed).shuffle(made)
    by_module: dict[str, list[Made]] = {}
    for m in made:
        by_module.setdefault(m.mutant.module, []).append(m)
    share = min(1.0, count / len(made)) if count else 1.0
    taken = {id(m) for of in by_module.values() for m in of[: max(LEAST, round(share * len(of)))]}
    return [m for m in made if id(m) in taken]


# ---- running the tests -------------------------------------------------------------------------------------------


class Check(NamedTuple):
    """What can see a mutant: a test, a run of commands beside the model, a world. `passes` raises or says False."""

    name: str
    passes: Callable[[], bool]
    large: bool = False


def _model_run(number: int) -> bool:
    from tests.simulation.test_ledger import SEED, run_of

    run_of(SEED + number, number, 512)
    return True


def _world(seed: int) -> bool:
    from tests.simulation.world.world import simulate

    return not simulate(seed).violations


def _large() -> list[Check]:
    runs = [Check(f"model, run {n}", functools.partial(_model_run, n), large=True) for n in range(MODEL_RUNS)]
    return runs + [Check(f"simulated world {n}", functools.partial(_world, n), large=True) for n in range(WORLDS)]


class Run:
    """A plugin of pytest: in place of running the tests once, it runs them against the mutants."""

    def __init__(self, mutants: list[Made], seconds: float, tell: Callable[[str], None]) -> None:
        self.mutants, self.seconds, self.tell = mutants, seconds, tell
        self.done: list[Mutant] = []
        self.large: list[Check] = []
        self.took: dict[Check, float] = {}
        self.reached: dict[tuple[str, int], set[Check]] = {}  # by file and line
        self.saw: Counter[tuple[str, str, str]] = Counter()  # module, function, check

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        tests = [Check(i.nodeid, functools.partial(_passes, i)) for i in session.items]
        self.large = _large()
        self._baseline(tests + self.large)
        gc.freeze()  # what stands is shared with the children
        until = time.monotonic() + self.seconds
        for made in self.mutants:
            if time.monotonic() > until:
                break
            started = time.monotonic()
            mutant = self._try(made)
            mutant.seconds = round(time.monotonic() - started, 2)
            self.done.append(mutant)
            if mutant.outcome in (KILLED, LATE):
                self.saw[mutant.module, mutant.function, mutant.by] += 1
            else:
                self.tell(told(mutant))
            if len(self.done) % 50 == 0:
                self.tell(summary(self.done))
        return True

    def _baseline(self, checks: list[Check]) -> None:
        """Which tests reach which lines, and how long everything takes, in seconds of this processor (tests slower than
        later: lines are noted meanwhile). What is large is taken to reach every line: to note it would cost more than
        it saves. Raises pytest.UsageError when a check does not hold for the code as it is."""
        watch = coverage.Coverage(include=[f"{ROOT / p}/*" for p in PACKAGES], data_file=None, config_file=False)
        for number, check in enumerate(checks):
            _forget_what_is_cached()
            started = time.process_time()
            if not check.large:
                watch.start()
                watch.switch_context(str(number))
            try:
                ok = check.passes()
            finally:
                if not check.large:
                    watch.stop()
            self.took[check] = time.process_time() - started
            if not ok:
                raise pytest.UsageError(f"{check.name} fails without any mutant")
        data = watch.get_data()
        for file in data.measured_files():
            for line, contexts in data.contexts_by_lineno(file).items():
                self.reached[file, line] = {checks[int(c)] for c in contexts if c}
        self.tell(f"{len(checks)} checks in {sum(self.took.values()):.1f} s of processor time")

    def _try(self, made: Made) -> Mutant:
        mutant = made.mutant
        path = ROOT / f"{mutant.module.replace('.', '/')}.py"
        function, code = function_of(mutant.module, mutant.function), code_of(path, made)
        found: set[Check] = set().union(*(self.reached.get((str(path), line), ()) for line in made.lines))
        mutant.outcome = UNMADE
        if function is not None and code is not None and len(code.co_freevars) == len(function.__code__.co_freevars):
            saw, key = self.saw, (mutant.module, mutant.function)
            found.update(self.large)
            checks = sorted(found, key=lambda c: (-saw[*key, c.name], self.took[c] / (10 if c.large else 1)))
            limits = [5 * self.took[c] + MARGIN_S for c in checks]
            mutant.outcome, mutant.by = _in_a_child(function, code, checks, limits)
        return mutant


def _in_a_child(
    function: types.FunctionType, code: types.CodeType, checks: list[Check], limits: list[float]
) -> tuple[str, str]:
    """What became of the function with this code, and which check saw it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _be_the_child(function, code, checks, limits, write)
    os.close(write)
    with os.fdopen(read) as pipe:
        by = pipe.read()
    _, status = os.waitpid(child, 0)
    return LATE if os.WIFSIGNALED(status) else KILLED if os.WEXITSTATUS(status) else SURVIVED, by


def _be_the_child(
    function: types.FunctionType, code: types.CodeType, checks: list[Check], limits: list[float], write: int
) -> None:
    """Runs the checks until one fails, and ends the process with 1 then. It never returns."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    _forget_what_is_cached()
    function.__code__ = code
    status, by = 0, ""
    try:
        for check, seconds in zip(checks, limits, strict=True):
            by = check.name
            signal.setitimer(signal.ITIMER_PROF, seconds)
            if not check.passes():
                status = 1
                break
    except BaseException:  # whatever it is, the mutant was seen
        status = 1
    finally:
        if status:
            os.write(write, by.encode())
        os._exit(status)


def _forget_what_is_cached() -> None:
    """What the core has worked out and keeps (compiled products) was worked out by the code as it was."""
    products._compiled.clear()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in PACKAGES:
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()


def _passes(item: pytest.Item) -> bool:
    item._initrequest()  # type: ignore[attr-defined]
    return all(r.passed or r.skipped for r in runtestprotocol(item, log=False, nextitem=None))


# ---- telling -----------------------------------------------------------------------------------------------------


def told(m: Mutant, outcome: str = "") -> str:
    return f"{outcome or m.outcome}: {m.module}.{m.function} line {m.line}: {m.change} {m.by}".rstrip()


def interval(seen: int, count: int) -> tuple[float, float]:
    """Between what the share lies, as the sample says with 95 % (Wilson)."""
    z, share = 1.96, seen / count
    middle, half = share + z * z / 2 / count, z * math.sqrt(share * (1 - share) / count + (z / 2 / count) ** 2)
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def summary(done: Sequence[Mutant]) -> str:
    """How many were seen. Those that cannot be made count as not seen."""
    counts = Counter(m.outcome for m in done)
    seen, count = counts[KILLED] + counts[LATE], max(1, len(done))
    low, high = interval(seen, count)
    share = f"{100 * seen / count:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    return f"{seen} of {len(done)} mutants seen ({share}): {dict(counts)}"


def table(done: Sequence[Mutant], all_of: Counter[str]) -> str:
    """Seen, drawn and all mutants of each module."""
    rows = ["| module | seen | drawn | all |", "|---|---|---|---|"]
    for module in sorted(all_of):
        mine = [m for m in done if m.module == module]
        rows.append(f"| {module} | {sum(m.outcome in (KILLED, LATE) for m in mine)} | {len(mine)} | {all_of[module]} |")
    return "\n".join(rows)


def run(given: argparse.Namespace, tell: Callable[[str], None]) -> list[Mutant]:
    """Tries the sample (of all of the core when no module is named) until it or the time is over, and tells of it."""
    paths = [
        p
        for package in PACKAGES
        for p in sorted((ROOT / package).glob("*.py"))
        if p.stem != "__init__" and (not given.modules or p.stem in given.modules)
    ]
    for path in paths:
        importlib.import_module(module_of(path))
    made = [m for path in paths for m in mutants_of(path)]
    all_of = Counter(m.mutant.module for m in made)
    sample = drawn(made, given.sample, given.seed)
    if given.again:
        before = {told(Mutant(**m)) for m in json.loads(given.again.read_text()) if m["outcome"] in (SURVIVED, UNMADE)}
        sample = [m for m in made if told(m.mutant, SURVIVED) in before]
    tell(f"{len(sample)} of {len(made)} mutants, seed {given.seed}")
    plugin = Run(sample, given.seconds, tell)
    files = [str(ROOT / "tests" / "unit" / f"test_{name}.py") for name in given.tests]
    options = ["-q", "--tb=native", "-p", "no:cacheprovider", "-p", "no:randomly", "--no-header"]
    code = pytest.main([*options, *files], plugins=[plugin])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(int(code))
    tell(table(plugin.done, all_of))
    return plugin.done


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutation of the core.")
    parser.add_argument("modules", nargs="*", help="modules of ledger/ and processors/, such as rules; all when none")
    parser.add_argument("--tests", nargs="+", default=TESTS, choices=TESTS, help="modules of tests/unit; all of these")
    parser.add_argument("--seconds", type=float, default=1_800.0, help="for the mutants, beside what the tests take")
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--sample", type=int, default=400, help="about how many mutants; 0 for all")
    parser.add_argument("--again", type=Path, help="only those that were not seen in the run that wrote this")
    parser.add_argument("--out", type=Path, help="where all of them are written, as JSON")
    given = parser.parse_args()
    screen = os.fdopen(os.dup(2), "w", buffering=1)  # pytest takes what is printed meanwhile for its tests' own
    done = run(given, lambda text: print(text, file=screen))
    if given.out:
        given.out.write_text(json.dumps([asdict(m) for m in done], indent=1))
    for m in done:
        if m.outcome in (SURVIVED, UNMADE):
            print(told(m))
    print(summary(done))


if __name__ == "__main__":
    main()
