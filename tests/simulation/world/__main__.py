"""`python -m tests.simulation.world --seed N`: runs one world and prints its trace; `--seeds N`: runs many.

--seed N            one world, with its trace; exit code 1 when something was wrong
--seeds N           the worlds of N seeds from --from on; the first that fails prints itself and ends the run
--from N            first seed of --seeds (default 0)
--repeat N          runs the one seed N times and compares the digests
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.world.world import Result, simulate

COMMAND = "python -m tests.simulation.world --seed"


def failure(result: Result) -> str:
    """What a failing seed prints: itself, what is wrong, and the command that repeats it."""
    wrong = "\n  ".join(result.violations)
    return f"seed {result.seed} fails:\n  {wrong}\nrepeat it with: {COMMAND} {result.seed}"


def run_seeds(first: int, count: int, *, tell_every: int = 0) -> str:
    """Runs so many worlds and returns a line about them. Raises AssertionError at the first that is wrong."""
    began, used = time.perf_counter(), time.process_time()
    faults: Counter[str] = Counter()
    commands = events = 0
    slowest = 0.0
    for n, seed in enumerate(range(first, first + count), 1):
        result = simulate(seed)
        if result.violations:
            raise AssertionError(failure(result))
        faults += result.faults
        commands += result.commands
        events += result.events
        slowest = max(slowest, result.done_s)
        if tell_every and n % tell_every == 0:
            print(f"{n} seeds, {time.perf_counter() - began:.0f} s", flush=True)
    return (
        f"seeds {first} to {first + count - 1}: {commands} commands, {events} events, 0 violations, done at most "
        f"{slowest:.1f} virtual seconds after the last fault, {time.perf_counter() - began:.1f} s "
        f"({time.process_time() - used:.1f} s of a core); "
        f"{sum(faults.values())} faults: {dict(faults.most_common())}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.world")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    if options.seed is None:
        try:
            print(run_seeds(options.first, options.seeds or 100, tell_every=500))
        except AssertionError as e:
            print(e)
            return 1
        return 0
    result = simulate(options.seed, trace=True)
    print("\n".join(result.trace))
    if options.repeat > 1:
        digests = {simulate(options.seed).digest() for _ in range(options.repeat)}
        print(f"{options.repeat} runs, {len(digests)} different")
        return int(len(digests) > 1)
    print(failure(result) if result.violations else f"seed {result.seed}: all is well, digest {result.digest()}")
    return int(bool(result.violations))


if __name__ == "__main__":
    sys.exit(main())
