"""The protocols hold in every order of events: spin searches all states of models/*.pml, and finds each seeded fault.

A search counts only when it was whole: no depth limit met, no memory limit met, no hash in the place of a state.
docs/protocols.md says what the models cover and what they leave out.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[2] / "models"
DEPTH_MAX = 20_000
MEMORY_MB_MAX = 6_000
# -DCOLLAPSE keeps whole states, only packed; -DBITSTATE and -DHC would not.
# -DNOREDUCE: each order of steps is gone through, none is left out as equivalent to another.
COMPILER = ["cc", "-O2", "-w", "-DNOFAIR", "-DNOREDUCE", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MB_MAX}"]
pytestmark = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("cc")),
    reason="spin or a C compiler is missing: on Debian and Ubuntu, apt-get install spin gcc libc6-dev",
)


# Nothing of the stack is needed; but half a minute and 1.2 GB of memory are too much for `./run test --fast`.
not_fast = pytest.mark.stack


@dataclass(frozen=True)
class Search:
    """What pan said. `broken` is the first assertion or other error that it met, "" for none."""

    errors: int
    states: int
    depth: int
    broken: str
    whole: bool


def search(folder: Path, model: str, *defines: str, cycles: bool = False) -> Search:
    """Searches all states of a model; `defines` choose its variant."""
    source = MODELS / f"{model}.pml"
    options = [f"-D{d}" for d in defines]

    def done(command: list[str]) -> str:
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    done(["spin", *options, "-a", str(source)])
    # With -DNP every cycle of states is an error, as no state is marked as progress: no error means that every run ends.
    done([*COMPILER, "-DNP" if cycles else "-DSAFETY", "-o", "pan", "pan.c"])
    said = done(["./pan", "-n", f"-m{DEPTH_MAX}", *(["-l"] if cycles else [])])
    counts = re.search(r"depth reached (\d+), errors: (\d+)", said)
    states = re.search(r"(\d+(?:\.\d+)?(?:e\+\d+)?) states, stored", said)
    assert counts, said
    assert states, said
    broken = re.search(r"pan:1: (.*) \(at depth", said)
    cut = ("not completed", "max search depth too small", "out of memory", "memory limit", "truncated")
    found = Search(
        errors=int(counts[2]), states=int(float(states[1])), depth=int(counts[1]),
        broken=broken[1] if broken else "", whole=not any(words in said for words in cut),
    )  # fmt: skip
    print(
        f"\n{model} {' '.join(defines)}: {found.states:,} states, depth {found.depth}, errors {found.errors}",
        found.broken,
    )
    return found


@pytest.mark.parametrize(
    ("model", "variant", "states_min"),
    [
        pytest.param("settlement", (), 10_000_000, marks=not_fast),
        ("settlement", ("NO_SINK",), 1_000_000),
        pytest.param("settlement", ("NO_SINK", "MARKERS"), 2_000_000, marks=not_fast),
        ("crossing", (), 500_000),
    ],
)
def test_the_protocol_holds_in_every_state(tmp_path, model, variant, states_min):
    found = search(tmp_path, model, *variant)
    assert (found.errors, found.broken) == (0, "")
    assert found.whole
    assert found.depth < DEPTH_MAX
    # A model that lost a process or a misfortune would pass as well, with a fraction of the states.
    assert found.states >= states_min


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("model", "variant"),
    [
        ("settlement", ("NO_SINK", "ANY_BATCH", "ANY_VICTIM")),
        ("settlement", ("LAST_ROW",)),  # with fencing the rule of the highest offset is a second belt
        ("crossing", ("REPEATS=2", "FAILURES=1")),
        ("crossing", ("DUPLICATES=2",)),
    ],
)
def test_the_protocol_holds_in_every_state_of_a_larger_world(tmp_path, model, variant):
    found = search(tmp_path, model, *variant)
    assert (found.errors, found.broken) == (0, "")
    assert found.whole


@pytest.mark.parametrize(
    ("model", "variant"), [pytest.param("settlement", ("NO_SINK",), marks=not_fast), ("crossing", ())]
)
def test_every_run_ends(tmp_path, model, variant):
    """No cycle in the states: with the assertions at the end, everything is processed at last, whoever is slow."""
    found = search(tmp_path, model, *variant, cycles=True)
    assert (found.errors, found.broken) == (0, "")
    assert found.whole


# Misfortunes that a fault does not need are left out, so that the first thing that breaks is always the same.
FAULTS = [
    ("settlement", "UNFENCED LAST_ROW LOST=0 SINK_FAULTS=0", "next==3"),
    ("settlement", "REUSE CRASHES=0 ZOMBIES=0 SINK_FAULTS=0", "journal_doubled"),
    ("settlement", "BLIND CRASHES=0 ZOMBIES=0 LOST=0", "store[0]<=1"),
    ("settlement", "LATE_INSERT CRASHES=0 ZOMBIES=0 LOST=0", "store[0]<=1"),
    ("settlement", "OFFSETS_FIRST ZOMBIES=0 LOST=0 SINK_FAULTS=0", "journal_gap"),
    ("settlement", "STOP_FOR_GOOD LOST=0 SINK_FAULTS=0", "next==3"),
    ("crossing", "EARLY_COMMIT DUPLICATES=0", "part[t].at[p]=="),
    ("crossing", "OUTSIDE_AFTER DUPLICATES=0 REPEATS=0", "pending_in"),
    ("crossing", "OUTSIDE_FIRST DUPLICATES=0 REPEATS=0", "debits[t]==1"),
    ("crossing", "NO_CHECK FAILURES=0", "credits[t].at[p]==1"),
    ("crossing", "FORGETS FAILURES=0", "pending_in"),
    ("crossing", "LATE_FORGOTTEN FAILURES=0 DUPLICATES=0 REPEATS=0", "pending_in"),
    # No faults, but claims that must be refuted, or nothing would happen in the model's world.
    ("crossing", "NEVER_BOTH", "outcome[0]=="),
    ("crossing", "NEVER_NONE", "outcome[0]=="),
]


@pytest.mark.parametrize(("model", "variant", "assertion"), FAULTS, ids=lambda v: v.replace(" ", "-"))
def test_the_fault_is_found(tmp_path, model, variant, assertion):
    found = search(tmp_path, model, *variant.split())
    assert found.errors == 1
    assert "assertion violated" in found.broken
    assert assertion in found.broken


@pytest.mark.parametrize(
    ("model", "variant"),
    [
        ("settlement", "UNFENCED LOST=0 SINK_FAULTS=0"),  # a zombie writes stale rows, and the highest offset wins
        ("crossing", "NO_CHECK DUPLICATES=0"),
        ("crossing", "FORGETS DUPLICATES=0"),
    ],
)
def test_the_same_world_without_the_fault_holds(tmp_path, model, variant):
    """So what was found is the fault itself, not the world around it."""
    found = search(tmp_path, model, *variant.split())
    assert (found.errors, found.broken) == (0, "")
    assert found.whole
