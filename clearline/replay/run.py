"""Doing a plan: partition after partition into files of a folder, so that whoever comes after a kill -9 goes on.

Files and not tables: what a replay writes is read by nobody before it is done, must be the same bytes after any number
of kills, and must not load the store that serves reports. The folder is `replay/WORLD/ID` in the data folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from clearline.audit.journal import Decode
from clearline.audit.views import SUBMITTED
from clearline.replay import bases, diff, live
from clearline.replay.live import Mark, Topics
from clearline.replay.partition import PartitionReplay, Result
from clearline.replay.plan import Plan, plan_of
from clearline.replay.shadow import Ground
from schemas.errors import BadInputError, ClearlineError
from schemas.failpoints import failpoint

CHECKPOINT_S = 15.0
RUNNING, DONE, CANCELLED, STOPPED, FAILED = "running", "done", "cancelled", "stopped", "failed"
CANCELLING = "cancelling"
TELL_S = 1.0
_LOCK_S = 1.0


class CancelledError(ClearlineError):
    """Somebody cancelled the replay. What was done is kept: `clearline replay resume ID` goes on."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Eyes:
    """What a replay sees of the world: its topics, and how to read them."""

    log: Topics
    decode: Decode
    ground: Ground


@dataclass(slots=True)
class Run:
    """One replay as its folder has it. Times in ms UTC; `done` and `total` are commands."""

    id: str
    folder: Path
    plan: Plan
    state: str = RUNNING
    done: int = 0
    total: int = 0
    started_at: int = 0
    updated_at: int = 0
    requested_by: str = ""
    approved_by: str = ""
    rate_per_second: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def diff_path(self) -> Path:
        """Where the diff is, once there is one."""
        return self.folder / "diff.json"

    def document(self) -> dict[str, Any]:
        """Plain values: what `ls` and the console show."""
        left = max(0, self.total - self.done)
        eta = left / self.rate_per_second if self.rate_per_second and self.state == RUNNING else None
        return {
            "id": self.id, "state": self.state, "world": self.plan.world, "plan_sha256": self.plan.digest,
            "selection": self.plan.selection.words(), "rules": [r.product for r in self.plan.rules],
            "done": self.done, "total": self.total, "rate_per_second": round(self.rate_per_second, 1),
            "eta_seconds": None if eta is None else round(eta, 1), "started_at": self.started_at,
            "updated_at": self.updated_at, "requested_by": self.requested_by, "approved_by": self.approved_by,
            **self.found,
        }  # fmt: skip

    def save(self) -> None:
        """Writes what is known into the folder."""
        self.updated_at = int(time.time() * 1000)
        known = {
            "id": self.id, "plan": self.plan.body(), "state": self.state, "done": self.done, "total": self.total,
            "started_at": self.started_at, "updated_at": self.updated_at, "requested_by": self.requested_by,
            "approved_by": self.approved_by, "rate_per_second": self.rate_per_second, "found": self.found,
        }  # fmt: skip
        draft = self.folder / "run.json.tmp"
        draft.write_bytes(orjson.dumps(known, option=orjson.OPT_INDENT_2))
        draft.replace(self.folder / "run.json")


def new_id() -> str:
    """An id for a run."""
    return f"r{uuid4().hex[:10]}"


def begin(root: Path, plan: Plan, *, run_id: str = "", requested_by: str = "", approved_by: str = "") -> Run:
    """A new run of a plan, with its folder below `root`. `run_id`: of `new_id`, when it is needed before."""
    run_id = run_id or new_id()
    folder = root / run_id
    folder.mkdir(parents=True)
    now = int(time.time() * 1000)
    run = Run(run_id, folder, plan, total=plan.commands, started_at=now, requested_by=requested_by or plan.requested_by,
              approved_by=approved_by)  # fmt: skip
    run.save()
    return run


def find(root: Path, run_id: str) -> Run:
    """The run of this id. Raises BadInputError when there is none."""
    folder = root / run_id
    try:
        known = json.loads((folder / "run.json").read_bytes())
    except (OSError, ValueError):
        raise BadInputError(f"there is no replay {run_id} here; see `clearline replay ls`") from None
    run = Run(folder=folder, plan=plan_of(known.pop("plan")), **known)
    if run.state == RUNNING and not is_alive(folder):
        run.state = STOPPED
    return run


def runs(root: Path) -> list[Run]:
    """All runs of a data folder, the newest first."""
    found = [find(root, f.parent.name) for f in root.glob("*/run.json")] if root.is_dir() else []
    return sorted(found, key=lambda r: (r.started_at, r.id), reverse=True)


def is_alive(folder: Path) -> bool:
    """Whether a process is at work on this run."""
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def _only_one(run: Run) -> Iterator[None]:
    with (run.folder / "lock").open("a") as lock:
        deadline = time.monotonic() + _LOCK_S  # who only looks whether it runs has the lock for a moment, too
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BadInputError(f"replay {run.id} is running already") from None
                time.sleep(0.02)
        yield


def ask_to_cancel(root: Path, run_id: str) -> None:
    """Asks a run of this data folder to end; it does within a batch. Raises BadInputError for an unknown one."""
    run = find(root, run_id)
    (run.folder / "cancel").touch()
    if run.state == STOPPED:
        run.state = CANCELLED
        run.save()


Tell = Callable[[Run], bool]  # called about once a second; True: cancel


def execute(
    run: Run, eyes: Eyes, marks: Mapping[int, Mark], tell: Tell = lambda _: False, *,
    books: Path | None = None, checkpoint_s: float = CHECKPOINT_S,
) -> dict[str, Any]:  # fmt: skip
    """Does the run, or the rest of it; returns the summary of its diff, which is in `run.diff_path`.

    `marks`: where the live system stands now; it is looked at again at the end. `books`: where to keep books.
    Raises CancelledError, which leaves a checkpoint, KeyboardInterrupt as it comes, PartUnavailableError; after any of
    them the same run goes on from its last checkpoint.
    """
    with _only_one(run):
        (run.folder / "cancel").unlink(missing_ok=True)
        run.state, run.found = RUNNING, {}
        try:
            return _Walk(run, eyes, tell, checkpoint_s).through(marks, books)
        except (CancelledError, KeyboardInterrupt):
            run.state = CANCELLED
            raise
        except Exception as e:
            run.state, run.found = FAILED, {"error": str(e)}
            raise
        finally:
            run.save()
            tell(run)


class _Walk:
    def __init__(self, run: Run, eyes: Eyes, tell: Tell, checkpoint_s: float) -> None:
        self.run, self.eyes, self.tell, self.checkpoint_s = run, eyes, tell, checkpoint_s
        self._told = self._saved = time.monotonic()
        self._since = (time.monotonic(), 0)

    def through(self, marks: Mapping[int, Mark], books: Path | None) -> dict[str, Any]:
        run, plan = self.run, self.run.plan
        before = {t.partition: marks[t.partition] for t in plan.tasks}
        results: dict[int, Result] = {}
        done = 0
        for task in plan.tasks:
            part = PartitionReplay(
                task, self.eyes.log, self.eyes.ground, plan.rules, plan.selection, run.folder
            )  # fmt: skip
            run.done = done + part.result.done
            if done + part.result.done:
                self._since = (time.monotonic(), run.done)
            self._partition(part)
            done += part.result.done
            results[task.partition] = part.result
            if books is not None and _is_history(part.result):
                self._keep(part, books)
        failpoint("replay.before_diff")
        summary = diff.summary_of(plan, results, diff.changes_of(run.folder, results))
        digest = diff.write_diff(run.diff_path, summary, run.folder, list(results))
        untouched = self._untouched(before, results)
        run.done = run.total = done
        run.state = DONE
        run.found = {
            "diff_sha256": digest, "hash": summary["hash"], "transactions_changed": summary["transactions_changed"],
            "differs": diff.differs(summary), **untouched,
        }  # fmt: skip
        return summary

    def _partition(self, part: PartitionReplay) -> None:
        try:
            for count in part.run():
                failpoint("replay.after_batch")
                self.run.done += count
                self._pause(part)
        except CancelledError:  # raised between two batches only: whatever else comes may have met a batch half done
            part.save()
            raise
        part.save()

    def _pause(self, part: PartitionReplay) -> None:
        """Between two batches: a checkpoint when it is due, the word to whoever watches, and whether to go on."""
        now = time.monotonic()
        if now - self._saved >= self.checkpoint_s:
            part.save()
            # A large ledger's checkpoint takes its time: never more than a tenth of all of it.
            self._saved = time.monotonic() + 9 * (time.monotonic() - now)
        if now - self._told < TELL_S:
            asked = (self.run.folder / "cancel").exists()
        else:
            since, already = self._since
            self.run.rate_per_second = (self.run.done - already) / max(now - since, 1e-6)
            self._told = now
            self.run.save()
            asked = self.tell(self.run) or (self.run.folder / "cancel").exists()
        if asked:
            raise CancelledError(f"replay {self.run.id} was cancelled; `clearline replay resume {self.run.id}` goes on")

    def _keep(self, part: PartitionReplay, books: Path) -> None:
        r = part.result
        kept_from, _ = self.eyes.log.span(SUBMITTED, part.task.partition)
        path = bases.path_for(books, part.task.partition, r.next_offset, r.counts["received"])
        if not path.exists() and part.has_books:
            part.keep_books(path)
            bases.thin_out(bases.bases_of(books)[part.task.partition], kept_from)

    def _untouched(self, before: Mapping[int, Mark], results: Mapping[int, Result]) -> dict[str, Any]:
        """The live system at the places where it stood before, looked at once more."""
        log, codec, decode = self.eyes.log, self.eyes.ground.codec, self.eyes.decode
        ends = {p: (results[p].journal_next - 1, results[p].chain) for p in before if results[p].sequence}
        after = live.again(log, codec, decode, before, ends)
        first, second = live.hash_of(before.values()), live.hash_of(after.values())
        same_place = [p for p, m in before.items() if results[p].next_offset == m.head.next_offset]
        return {
            "live_before": first, "live_after": second, "live_untouched": first == second,
            "state_equal": {
                str(p): before[p].state == results[p].state for p in same_place if not self.run.plan.rules
            },
        }  # fmt: skip


def _is_history(r: Result) -> bool:
    """Whether a partition came to history's own records, so that its books are the ledger's."""
    return r.finished and not r.drift and (r.own_chain == r.chain or r.older_schema) and not r.bytes_differ


def scratch_of(folder: Path) -> int:
    """Bytes that a run's folder takes."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def drop(root: Path, run_id: str) -> None:
    """Deletes a run's folder. Raises BadInputError for one that is running or unknown."""
    run = find(root, run_id)
    if is_alive(run.folder):
        raise BadInputError(f"replay {run_id} is running: cancel it first")
    for path in run.folder.iterdir():
        path.unlink()
    os.rmdir(run.folder)
