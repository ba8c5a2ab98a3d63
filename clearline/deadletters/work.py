"""A plan, carried out: letters put back or discarded at a rate, until all are, or somebody asks it to stop.

First it fences whoever was at it before and reads what that one did; then it looks at the plan again. What is moved and
the record of it are written in one Kafka transaction per batch, so a task can be killed anywhere: whoever begins again
knows what is done. Each task is one operator's act in the journal.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from clearline.deadletters.desk import Desk
from clearline.deadletters.letters import letters_at
from clearline.deadletters.moves import DISCARDED, REDRIVEN, Task
from clearline.deadletters.plan import Plan, Put, Refused
from clearline.outcomes import Matcher, Outcome, OutcomeTail, wait_for_all
from schemas.errors import BadInputError
from schemas.records import Triage
from streams.triage import TASKS_PARTITION, TriageFollower, TriageWriter, say

RATE_DEFAULT = 500.0  # letters a second
ANSWER_S = 5.0  # within which a task that lives has stopped, on a busy machine, too; else within a moment
_BATCH_MAX = 500
_BATCH_BYTES = 4_000_000
_LOOK_S = 0.05  # how often a task looks whether more is due, and whether it shall stop
_BEHIND_S = 0.5  # of work that is made up for after a pause; the rest is let go, so that nothing is flooded
_DIED_SHOWN = 100


class Pace:
    """How many are due by now. `rate`: a second; 0 for as many as can be."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._began = now
        self._done = 0

    def due(self, now: float) -> int:
        """How many may go now."""
        if not self.rate:
            return _BATCH_MAX
        ahead = (now - self._began) * self.rate - self._done
        if ahead > self.rate * _BEHIND_S + 1:
            self._began += ahead / self.rate - _BEHIND_S
        return min(_BATCH_MAX, int((now - self._began) * self.rate) - self._done)

    def went(self, count: int) -> None:
        """So many went."""
        self._done += count


@dataclass(slots=True)
class Progress:
    """How far a task is. `state`: planned, running, done, cancelled; `seconds` since the first letter was due."""

    task: str
    what: str
    total: int
    moved: int = 0
    state: str = "planned"
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    stopped_by: str = ""

    @property
    def rate(self) -> float:
        """Letters a second so far."""
        return self.moved / self.seconds if self.seconds else 0.0

    @property
    def left_s(self) -> float:
        """Seconds until all are moved, at this rate."""
        return (self.total - self.moved) / self.rate if self.rate else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "task": self.task, "what": self.what, "state": self.state, "total": self.total, "moved": self.moved,
            "seconds": round(self.seconds, 3), "rate_per_second": round(self.rate, 1),
            "left_seconds": round(self.left_s, 1), "outcomes": dict(sorted(self.outcomes.items())),
            "unanswered": self.unanswered, "stopped_by": self.stopped_by,
        }  # fmt: skip


class Work:
    """One task. `run` blocks until it is over; `stop` may be set by anybody, and ends it after the batch under way.

    Made, it has fenced the task before; `plan` is then what is left of the plan. Raises TakenOverError when another one
    was begun meanwhile, and PartUnavailableError: what was moved stands, and is known to the next one.
    """

    def __init__(self, desk: Desk, plan: Plan, *, by: str, note: str, rate: float = RATE_DEFAULT) -> None:
        system = desk.system
        self.desk, self.plan = desk, plan
        self._writer: TriageWriter | None = None  # with nothing to do nobody is disturbed
        if plan.puts:
            self._writer = TriageWriter(system.kafka, system.topics, system.codec)
            self.plan = desk.planner.again(plan, desk.refresh())
        self.by, self.note, self.rate = by, note, rate
        self.stop = threading.Event()
        self.progress = Progress(f"t{uuid4().hex[:12]}", plan.rules.what, len(self.plan.puts))
        self.died: list[Outcome] = []
        self._follower: TriageFollower | None = None

    def run(self, told: Callable[[Progress], None] = lambda _: None, wait_s: float = 60.0) -> Progress:
        """Does it. `wait_s`: how long to wait for outcomes after the last one came; 0: not at all."""
        progress = self.progress
        if not self.plan.puts:
            progress.state = "done"
            if self._writer is not None:
                self._writer.close()
            return progress
        self._record_act()
        s = self.desk.system
        self._follower = TriageFollower(s.kafka, s.topics, s.codec)
        watched = wait_s > 0 and progress.what == "redrive"
        tail = OutcomeTail(s.kafka, s.topics, s.codec) if watched else None
        matcher: Matcher[Put] = Matcher(self._became)
        try:
            self._write_own("started", total=progress.total, state=progress.what)
            progress.state = "running"
            self._move_all(matcher if watched else None, tail, told)
            progress.state = "cancelled" if self.stop.is_set() else "done"
            self._write_own("ended", done=progress.moved, state=progress.state)
            told(progress)
            if tail is not None:
                wait_for_all(matcher, tail, wait_s, lambda: told(progress))
                progress.unanswered = matcher.waiting
        finally:
            self._follower.close()
            self._fenced.close()
            if tail is not None:
                tail.close()
        told(progress)
        return progress

    @property
    def _fenced(self) -> TriageWriter:
        assert self._writer is not None, "there is something to do"
        return self._writer

    def to_dict(self) -> dict[str, Any]:
        """How far it is and what came of it, as plain values."""
        skipped, refused = self.plan.counts()
        return {
            **self.progress.to_dict(), "plan_digest": self.plan.digest.hex() if self.plan.puts else "",
            "skipped": skipped, "refused": refused, "not_moved": self.plan.to_dict()["not_moved"],
            "died": [o.to_dict() for o in self.died],
        }  # fmt: skip

    def _record_act(self) -> None:
        """That an operator does this, and to which letters, becomes part of the journal."""
        from clearline.acts import record_act

        p = self.progress
        record_act(
            self.desk.system, act=f"dlq.{p.what}", subject_id=p.task, digest=self.plan.digest.hex(),
            requested_by=self.by, note=self.note, key=f"dlq-{p.task}",
        )  # fmt: skip

    def _write_own(self, move: str, *, total: int = 0, done: int = 0, state: str = "") -> None:
        row = Triage(
            self.progress.task, move, requested_by=self.by, note=self.note, plan_digest=self.plan.digest, total=total,
            done=done, state=state,
        )  # fmt: skip
        self._fenced.write([], lambda _: [(TASKS_PARTITION, row)])

    def _move_all(
        self, matcher: Matcher[Put] | None, tail: OutcomeTail | None, told: Callable[[Progress], None]
    ) -> None:
        progress = self.progress
        began = time.monotonic()
        pace = Pace(self.rate, began)
        letters = self._with_bytes()
        while not self._is_over(pace):
            batch = _take(letters, pace.due(time.monotonic()))
            if not batch:
                break
            offsets = self._move(batch)
            pace.went(len(batch))
            progress.moved += len(batch)
            progress.seconds = time.monotonic() - began
            if matcher is not None and tail is not None:
                for (put, _), offset in zip(batch, offsets, strict=True):
                    matcher.sent(put, put.to_partition, offset)
                for outcome in tail.poll(0.0):
                    matcher.came(outcome)
            told(progress)

    def _is_over(self, pace: Pace) -> bool:
        """Waits until something is due; whether the task shall stop instead."""
        assert self._follower is not None, "run has made it"
        while not self.stop.is_set():
            due = pace.due(time.monotonic()) > 0
            for t in self._follower.poll(0.0 if due else _LOOK_S):
                if t.move == "cancel" and t.task == self.progress.task:
                    self.progress.stopped_by = t.requested_by
                    self.stop.set()
            if due and not self.stop.is_set():
                return False
        return True

    def _with_bytes(self) -> Iterator[tuple[Put, bytes]]:
        """The letters of the plan with their bytes, read some at a time. One that is kept no longer is told of."""
        puts = iter(self.plan.puts)
        ahead: list[Put] = []
        while True:
            size = 0
            for put in puts:
                ahead.append(put)
                size += put.size
                if len(ahead) >= _BATCH_MAX or size >= _BATCH_BYTES:
                    break
            if not ahead:
                return
            places = [(p.partition, p.offset) for p in ahead]
            found = letters_at(self.desk.log, self.desk.system.topics.dead, places)
            for put, place in zip(ahead, places, strict=True):
                letter = found.get(place)
                if letter is None or letter.digest != put.letter_digest:
                    self.plan.refused.append(Refused(put.id, "gone", "the letter is not kept any more"))
                    continue
                yield put, letter.letter.value or b""
            ahead.clear()

    def _move(self, batch: list[tuple[Put, bytes]]) -> list[int]:
        p = self.progress
        if p.what == "discard":
            rows = [(put.partition, put.row(p.task, DISCARDED, self.by, self.note, -1)) for put, _ in batch]
            self._fenced.write([], lambda _: rows)
            return [-1] * len(batch)
        return self._fenced.write(
            [put.command(value) for put, value in batch],
            lambda offsets: [
                (put.partition, put.row(p.task, REDRIVEN, self.by, self.note, offset))
                for (put, _), offset in zip(batch, offsets, strict=True)
            ],
        )

    def _became(self, _put: Put, outcome: Outcome) -> None:
        self.progress.outcomes[outcome.outcome] += 1
        if outcome.outcome in ("dead", "rejected") and len(self.died) < _DIED_SHOWN:
            self.died.append(outcome)


def _take(letters: Iterator[tuple[Put, bytes]], count: int) -> list[tuple[Put, bytes]]:
    """So many of them, fewer when they are large."""
    out: list[tuple[Put, bytes]] = []
    size = 0
    while len(out) < count and size < _BATCH_BYTES:
        one = next(letters, None)
        if one is None:
            break
        out.append(one)
        size += len(one[1]) + len(one[0].value or b"")
    return out


def cancel(desk: Desk, by: str, task_id: str = "", note: str = "") -> tuple[Task, bool]:
    """Asks the task that runs to stop; the task, and whether it answered. One that does not is fenced: it can move
    nothing more. `note`: why, which stays in the topic `triage`. Raises BadInputError when none runs, or another than
    `task_id`."""
    s = desk.system
    follower = TriageFollower(s.kafka, s.topics, s.codec)
    try:
        task = desk.refresh().running()
        if task is None:
            raise BadInputError("no redrive or discard is running")
        if task_id not in ("", task.id):
            raise BadInputError(f"{task_id} is not running; {task.id} is")
        say(s.kafka, s.topics, s.codec, Triage(task.id, "cancel", requested_by=by, note=note))
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            if any(t.task == task.id and t.move == "ended" for t in follower.poll(_LOOK_S)):
                desk.refresh()
                return desk.moves.tasks[task.id], True
    finally:
        follower.close()
    writer = TriageWriter(s.kafka, s.topics, s.codec)
    desk.refresh()
    if desk.moves.tasks[task.id].state == "running":
        row = Triage(task.id, "ended", requested_by=by, note=note, done=task.moved, state="cancelled")
        writer.write([], lambda _: [(TASKS_PARTITION, row)])
        desk.refresh()
    writer.close()
    return desk.moves.tasks[task.id], False
