"""Full disks under load: the broker's folder, then the folder of everything else, each on a small file system of its own.

    python -m tests.faults.full_disk [--seed N] [--transactions N]

Each is filled to the last byte while transactions are being published, `clearline status` must name `disk_full` with the
folder within half a minute, then there is room again, and everything must settle by itself: nothing that was acknowledged
lost, nothing doubled, by the auditor. Takes root and Linux (tmpfs). Exit code 1 when anything was lost, doubled or not
named, 3 when the stack did not come back or no file system can be mounted.
"""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from clearline.status.collect import collect
from schemas.errors import ClearlineError
from tests.faults.plan import Plan
from tests.faults.run import FaultRun
from tests.faults.stack import wait_for

BROKER_MB = 400
REST_MB = 1_300  # without a gigabyte free no stack starts
NAMED_S = 30.0
HOLD_S = 15.0  # for so long it stays full after it was named, so that stores and roles meet it
RATE = 200


class FullDisk(FaultRun):
    """A run of which the only fault is a disk that is full, and then is not."""

    def _both_tracks(self, publisher: subprocess.Popen[bytes]) -> None:
        root = self.stack.folder.root
        for name, folder in (("the broker's disk", root / "kafka"), ("the disk of everything else", root)):
            if publisher.poll() is not None:
                self.report.problems.append(f"the publisher ended early, with exit code {publisher.returncode}")
                return
            self._fill(name, folder)

    def _fill(self, name: str, folder: Path) -> None:
        filler = folder / "filler"
        fill(filler)
        self._note(f"{name} is full")
        try:
            took = wait_for(f"status to name {folder}", lambda: self._named(folder, filler), 2 * NAMED_S, 0.5)
            self._sample(f"{name}: named by status", took)
            if took > NAMED_S:
                self.report.problems.append(f"{name}: named after {took:.0f} s only")
            until = time.monotonic() + HOLD_S
            wait_for("everybody to have met the full disk", lambda: self._held_full(filler, until), 2 * HOLD_S, 0.2)
        finally:
            filler.unlink()
        began = time.monotonic()
        self._settles_everywhere()
        self._sample(f"{name}: settles again", time.monotonic() - began)
        self._note(f"{name} has room again, and everything settles")

    def _held_full(self, filler: Path, until: float) -> bool:
        fill(filler)
        return time.monotonic() > until

    def _named(self, folder: Path, filler: Path) -> bool:
        """Whether status names it now. What was freed meanwhile is filled again: a full disk stays full."""
        fill(filler)
        found = collect(self.settings, self.stack.folder)
        return any(i.code == "disk_full" and i.subject == str(folder) for i in found.incidents)


def fill(path: Path) -> None:
    """Appends until there is no space left."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError as e:
                if e.errno != errno.ENOSPC:
                    raise


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own at `folder`. Raises ClearlineError where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClearlineError(f"no small file system can be mounted here, which takes root: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.full_disk", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--transactions", type=int, default=5_000)
    options = parser.parse_args(arguments)
    plan = Plan(options.seed, RATE, options.transactions, (), ())
    try:
        with tempfile.TemporaryDirectory(prefix="clearline-full-") as outside, ExitStack() as disks:
            data = Path(outside) / "data"
            disks.enter_context(small_disk(data, REST_MB))
            disks.enter_context(small_disk(data / "kafka", BROKER_MB))
            (data / "clearline.json").write_text('{"format": 1, "components": {}}')
            run = FullDisk(plan, data)
            run.acks = Path(outside) / "acknowledged.txt"
            report = run.run()
    except ClearlineError as e:
        print(f"error: {e}", file=sys.stderr)
        return 3
    for line in report.lines():
        print(line)
    return 0 if report.ok else 3 if report.late and report.exact else 1


if __name__ == "__main__":
    sys.exit(main())
