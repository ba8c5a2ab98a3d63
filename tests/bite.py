"""Does it bite? Bugs that are put in on purpose, and the test that has to catch each: all of them, in one place.

    python -m tests.bite               every one of them; with a stack, some minutes
    python -m tests.bite --quick       those that need no server: what CI runs
    python -m tests.bite --list        the table, without running anything

Each test passes when its bug is caught, and fails when the bug goes unseen; beside it stands, in the same module, the
same story without the bug, on which nothing may be found. Ends with 1 when a bug was not caught.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from tests.ledger_bugs import BUGS as LEDGER_BUGS
from tests.simulation.world.bugs import BUGS as WORLD_BUGS
from tests.unit.test_audit import CHANGES as RECORDS_CHANGED
from tests.unit.test_audit_whole import CHANGES as WORLDS_CHANGED

KNOWN = "tests/integration/test_known_bugs.py"
LEDGER = "tests/simulation/test_ledger.py::test_a_bug_put_in_on_purpose_is_found"
WORLD = "tests/simulation/test_world.py::test_a_bug_put_in_on_purpose_is_found"
TIMEOUT_S = 1_800  # for one test, on a machine that has other things to do
REAL, MODEL, SIMULATED, AUDITED = "the real broker", "the model", "simulated faults", "the auditor"


class Seeded(NamedTuple):
    """One bug. `by`: what catches it; `test`: which test, without the parameters that pytest adds by itself."""

    bug: str
    by: str
    test: str
    quick: bool


def _named(bug: str, test: str, by: str = REAL) -> Seeded:
    return Seeded(bug, f"{by}: {test.rpartition('::')[2]}", test, quick=False)


# On the real broker, with workers and sinks that have the bug: what others' systems were seen to do.
NAMED = (
    _named("Faust's own exactly_once", f"{KNOWN}::test_faust_exactly_once_under_kill_9"),
    _named("offsets committed before the produce", f"{KNOWN}::test_offsets_committed_before_the_produce"),
    _named("a producer reused after a timeout", f"{KNOWN}::test_producer_reused_after_a_timeout"),
    _named("the last changelog row wins", f"{KNOWN}::test_last_changelog_row_wins"),
    _named("no memory of keys after a take-over", f"{KNOWN}::test_keys_forgotten_at_a_take_over"),
    _named("lost rejects", f"{KNOWN}::test_lost_rejects"),
    _named("swapped legs", f"{KNOWN}::test_swapped_legs"),
    _named("float amounts", f"{KNOWN}::test_float_amounts"),
    _named("a checker that reads uncommitted", f"{KNOWN}::test_an_auditor_that_reads_uncommitted_would_cry_wolf"),
    _named("a sink without deduplication or read-back", f"{KNOWN}::test_sink_without_read_back"),
)


def seeded() -> list[Seeded]:
    """All of them."""
    out = list(NAMED)
    out += [Seeded(_words(b), f"{SIMULATED}: 2,000 seeds at most", f"{WORLD}[{b}]", True) for b in WORLD_BUGS]
    for bug in LEDGER_BUGS:
        name = bug.__name__[1:]
        out.append(Seeded(_words(name), f"{MODEL}: 32 runs of 512 commands", f"{LEDGER}[{name}]", True))
    for module, changes in (("test_audit", RECORDS_CHANGED), ("test_audit_whole", WORLDS_CHANGED)):
        for change, named in changes.items():
            name = change.__name__
            checks = ", ".join(sorted(named))
            test = f"tests/unit/{module}.py::test_every_change_is_named[{name}-"
            out.append(Seeded(_words(name), f"{AUDITED}: {checks}", test, True))
    return out


def _words(name: str) -> str:
    return name.strip("_").replace("_", " ")


class Watch:
    """A plugin of pytest: what became of each test, and how long it took, in seconds. `tell` is given a line for each
    bug as soon as its test is over; after `until` (of the monotonic clock) no test begins."""

    def __init__(
        self, bugs: Sequence[Seeded] = (), tell: Callable[[str], object] = str, until: float = math.inf
    ) -> None:
        self.bugs, self.tell, self.until = bugs, tell, until
        self.took: dict[str, float] = {}
        self.failed: set[str] = set()
        self.skipped: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.took[report.nodeid] = self.took.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.add(report.nodeid)
        elif report.skipped:
            self.skipped.add(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        for bug in self.bugs:
            if _is_of(bug, nodeid):
                self.tell(line(bug, self)[1])

    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        if time.monotonic() > self.until:
            item.session.shouldstop = "the time is over"


def _is_of(bug: Seeded, nodeid: str) -> bool:
    if bug.test.endswith("-"):  # the rest of the id is pytest's
        return nodeid.startswith(bug.test)
    return nodeid == bug.test or ("[" not in bug.test and nodeid.startswith(f"{bug.test}["))


def line(bug: Seeded, watch: Watch) -> tuple[bool, str]:
    """Whether it was caught, and its row of the table."""
    mine = {n for n in watch.took if _is_of(bug, n)}
    caught = bool(mine) and not mine & (watch.failed | watch.skipped)
    word = "" if caught else " NOT CAUGHT" if mine & watch.failed else " not run"
    return caught, f"| {bug.bug} | {bug.by} | {sum(watch.took[n] for n in mine):.1f}{word} |"


def run(bugs: Sequence[Seeded], seconds: float = math.inf) -> bool:
    """Runs the tests of these bugs and prints the table, a row as soon as it is known; whether all were caught. A bug
    whose test had not begun after so many seconds was not run, and so not caught."""
    screen = os.fdopen(os.dup(1), "w", buffering=1)  # pytest takes what is printed meanwhile for its tests' own
    started = time.monotonic()
    watch = Watch(bugs, lambda text: print(text, file=screen), started + seconds)
    # Tests of changed records have ids that only pytest knows whole: their modules are run as they are.
    wanted = dict.fromkeys(b.test.partition("[")[0] if b.test.endswith("-") else b.test for b in bugs)
    print("| bug | caught by | seconds |\n|---|---|---|", file=screen)
    options = ["-q", "-q", "--no-header", "--tb=native", "-p", "no:cacheprovider", "-o", f"timeout={TIMEOUT_S}"]
    pytest.main([*options, *wanted], plugins=[watch])
    rows = {b: line(b, watch) for b in bugs}
    caught = sum(ok for ok, _ in rows.values())
    print(f"\n{caught} of {len(rows)} bugs caught in {time.monotonic() - started:.0f} s", file=screen)
    for b, (ok, text) in rows.items():
        if not ok:
            print(f"{text} {b.test}", file=screen)
    return caught == len(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description="Seeded bugs, and whether each is caught.")
    parser.add_argument("--quick", action="store_true", help="only those that need no server")
    parser.add_argument("--list", action="store_true", help="show the table and run nothing")
    parser.add_argument("--only", default="", help="only bugs whose name has this in it")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after these no test begins any more")
    given = parser.parse_args()
    bugs = [b for b in seeded() if (b.quick or not given.quick) and given.only in b.bug]
    if given.list:
        for b in bugs:
            print(f"| {b.bug} | {b.by} | {b.test} |")
        print(f"{len(bugs)} bugs")
        return 0
    return 0 if run(bugs, given.seconds) else 1


if __name__ == "__main__":
    raise SystemExit(main())
