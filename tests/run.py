"""The program behind `./run test`: static checks, the tests, and the coverage each package must have.

    python tests/run.py [--fast] [--long] [--no-static] [PYTEST ARGUMENTS ...]

Everything is run even when something failed before it, so that one run shows all there is to mend. The last line is the
count of what was checked; the exit code is 0 only when nothing failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SEARCHES = ["tests/simulation", "tests/property"]
WORLDS = "tests/simulation/test_world.py"  # takes as long as each of the other two parts that search
# Those that start whole systems and do them harm: one after the other in one part, so that no two are at it at once.
# In this order, the longest first. Whoever is not named here runs in the part of roles on a shared broker.
SYSTEMS = [
    f"tests/integration/test_{name}.py"
    for name in ("exactly_once", "incidents", "unsure_clients", "demo", "restore", "embedded", "access", "gateway",
                 "gateway_reads", "metrics", "sandbox", "known_bugs", "bench_smoke", "brokers")
]  # fmt: skip
# What of tests/contract walks the lines of sinks/ and of the tie-out; the rest of it is not traced.
SINKS = [*(f"tests/contract/{p.name}" for kind in ("test_sinks_*.py", "test_tieout*.py")
           for p in sorted((ROOT / "tests/contract").glob(kind))), "tests/contract/test_gate.py"]  # fmt: skip
LANES = 3  # of two cores: whoever starts servers, kills them and waits leaves a third of a core to others
MODULE_S_MIN = 10.0  # what a module must take to be named at the end of its part
STATIC: dict[str, list[str]] = {
    "ruff check": [str(BIN / "ruff"), "check", "."],
    "ruff format": [str(BIN / "ruff"), "format", "--check", "--quiet", "."],
    "import-linter": [str(BIN / "lint-imports"), "--no-logo"],
    "mypy --strict": [str(BIN / "mypy")],
}


def run_static_checks() -> list[str]:
    """Runs the static checks side by side; returns the names of those that failed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = {
        name: subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for name, command in STATIC.items()
    }  # fmt: skip
    failed = []
    for name, process in started.items():
        output, _ = process.communicate()
        print(f"{'ok    ' if process.returncode == 0 else 'FAILED'} {name}", flush=True)
        if process.returncode != 0:
            failed.append(name)
            print(output, flush=True)
    return failed


class Pytest:
    """One run of pytest."""

    def __init__(self, name: str, arguments: list[str], scratch: Path, *, coverage: bool) -> None:
        self.name = name
        self.processor_s = 0.0  # of it and all that it started and waited for, once it has run
        self._report = scratch / f"{name}.xml"
        slow = ["--durations=20", "--durations-min=8"]  # where a suite's time goes should be seen without a search
        self._command = [sys.executable, "-m", "pytest", f"--junitxml={self._report}", *slow, *arguments]
        if coverage:
            self._command += ["--cov", "--cov-report="]
        self._env = {**os.environ, "COVERAGE_FILE": str(scratch / f".coverage.{name}")}

    def run(self, output: IO[str] | None = None) -> tuple[int, int, int, int]:
        """Its exit code and how many tests passed, failed and were skipped. `output` takes what it prints, None: the
        terminal."""
        process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._env, stdin=subprocess.DEVNULL, stdout=output,
            stderr=output and subprocess.STDOUT,
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        self.processor_s = used.ru_utime + used.ru_stime
        passed = failed = skipped = 0
        if self._report.exists():
            for suite in ET.parse(self._report).getroot().iter("testsuite"):
                total, skips = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
                bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
                passed, failed, skipped = passed + total - skips - bad, failed + bad, skipped + skips
        return code, passed, failed, skipped

    def modules(self) -> list[tuple[str, float]]:
        """The modules that took longest, with their seconds: tests, and what was set up for them."""
        took: dict[str, float] = defaultdict(float)
        if self._report.exists():
            for case in ET.parse(self._report).getroot().iter("testcase"):
                took[case.get("classname", "").split(".Test")[0]] += float(case.get("time", 0))
        return sorted(((name, s) for name, s in took.items() if s >= MODULE_S_MIN), key=lambda x: -x[1])


def run_whole_suite(long: bool, scratch: Path) -> list[tuple[int, int, int, int]]:
    """Eight parts in three lanes; what a part printed is shown when it is done.

    In two lanes they used 70 % of two cores (2,955 s of processor in 2,113 s). The parts that start and kill most come
    first; the searches, which only reckon, last and side by side.

    To count lines makes Python 1.7 times as slow (73 s of processor instead of 43 for the tests of auditor, ledger, products
    and gateway), so they are counted where they are reached for the first time: of schemas, ledger, processors and clearline
    by the plain tests, of sinks and the tie-out by those of SINKS, of streams by the roles. Searches and whole
    systems would only go through the same lines again, millions of times.
    """
    tier = "" if long else " and not long"
    ignored = [f"--ignore={folder}" for folder in SEARCHES]
    others, traced = ([f"--ignore={path}" for path in paths] for paths in (SYSTEMS, SINKS))
    parts = [
        Pytest("systems", ["-m", f"stack{tier}", *SYSTEMS], scratch, coverage=False),
        Pytest("stores", ["-m", f"stack{tier}", "tests/contract", *traced], scratch, coverage=False),
        Pytest("roles", ["-m", f"stack{tier}", "tests/integration", *others], scratch, coverage=True),
        Pytest("plain", ["-m", f"not stack{tier}", "tests", *ignored], scratch, coverage=True),
        Pytest("sinks", ["-m", f"stack{tier}", *SINKS], scratch, coverage=True),
        Pytest("worlds", ["-m", f"not stack{tier}", WORLDS], scratch, coverage=False),
        Pytest("properties", ["-m", f"not stack{tier}", "tests/property"], scratch, coverage=False),
        Pytest(
            "simulations", ["-m", f"not stack{tier}", "tests/simulation", f"--ignore={WORLDS}"], scratch, coverage=False
        ),
    ]
    began = time.monotonic()

    def one(part: Pytest) -> tuple[int, int, int, int]:
        with (scratch / f"{part.name}.txt").open("w+", encoding="utf-8") as kept:
            result = part.run(kept)
            kept.seek(0)
            told = "".join(f"{seconds:8.0f} s  {module}\n" for module, seconds in part.modules())
            took = f"done after {time.monotonic() - began:.0f} s, with {part.processor_s:.0f} s of processor"
            print(f"{kept.read()}\n{told}{part.name}: {took}\n", flush=True)
        return result

    print(f"{', '.join(part.name for part in parts)}: each is shown when it is done", flush=True)
    with ThreadPoolExecutor(LANES) as pool:
        found = list(pool.map(one, parts))
    for what in (["combine", "--quiet"], ["json", "--quiet", "-o", str(scratch / "coverage.json")]):
        env = {**os.environ, "COVERAGE_FILE": str(scratch / ".coverage")}
        subprocess.run([sys.executable, "-m", "coverage", *what], cwd=ROOT, env=env, check=False)
    return found


def check_coverage(scratch: Path) -> list[str]:
    """Compares each package's coverage of lines and branches with its floor; returns what is below."""
    floors: dict[str, int] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["clearline"]["coverage"]
    path = scratch / "coverage.json"
    if not path.exists():
        return ["coverage was not measured"]
    summaries = {name: f["summary"] for name, f in json.loads(path.read_text())["files"].items()}
    below = []
    for package, floor in floors.items():
        mine = [s for name, s in summaries.items() if name.startswith(package + "/")]
        there = sum(s["num_statements"] + s["num_branches"] for s in mine)
        met = sum(s["covered_lines"] + s["covered_branches"] for s in mine)
        percent = 100 * met / there if there else 0.0
        word = "ok    " if percent >= floor else "FAILED"
        print(f"{word} coverage of {package}: {percent:.1f}% (at least {floor}%)")
        if percent < floor:
            below.append(package)
    return below


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run test", description="Static checks, tests, coverage.")
    parser.add_argument("--fast", action="store_true", help="only what needs no running part: under two minutes")
    parser.add_argument("--long", action="store_true", help="also the tests that take an hour and more")
    parser.add_argument("--no-static", action="store_true", help="leave the static checks out")
    options, rest = parser.parse_known_args()
    started = time.monotonic()
    if options.long:
        os.environ.setdefault("HYPOTHESIS_PROFILE", "long")
    failed_checks = [] if options.no_static else run_static_checks()
    checks = 0 if options.no_static else len(STATIC)
    chosen = ["not long"] if not options.long else []
    chosen += ["not stack"] if options.fast else []
    # Coverage is measured on the whole suite only: a part of it says nothing about the floors.
    whole = not options.fast and not rest
    with tempfile.TemporaryDirectory(prefix="clearline-test-") as folder:
        scratch = Path(folder)
        if whole:
            runs = run_whole_suite(options.long, scratch)
            below = check_coverage(scratch)
            checks += 1
            failed_checks += [f"coverage of {', '.join(below)}"] if below else []
        else:
            arguments = (["-m", " and ".join(chosen)] if chosen else []) + rest
            runs = [Pytest("chosen", arguments, scratch, coverage=False).run()]
    passed, failed, skipped = (sum(r[i] for r in runs) for i in (1, 2, 3))
    for code, _, bad, _ in runs:
        if code not in (0, 1) or (code == 1 and not bad):
            checks += 1
            failed_checks.append(f"pytest itself (exit code {code})")
    for name in failed_checks:
        print(f"failed: {name}")
    print(f"{passed} tests and {checks - len(failed_checks)} checks passed in {time.monotonic() - started:.0f} s")
    failures = failed + len(failed_checks)
    print(f"{passed + checks - len(failed_checks)} passed, {failures} failed, {skipped} skipped", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
