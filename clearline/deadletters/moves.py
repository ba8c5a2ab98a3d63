"""What was done with dead letters, from the topic `triage`: by letter, by family, by task.

A letter whose command died again is another letter; both are of one family, named by the letter that came first. Which
family a letter is of is told by the place of its command, which the triage has, and not by headers that anybody can
write.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from clearline.deadletters.letters import Found
from schemas.records import Triage
from streams.triage import Row

OPEN, REDRIVEN, DISCARDED = "open", "redriven", "discarded"
STATES = (OPEN, REDRIVEN, DISCARDED)


@dataclass(slots=True)
class Task:
    """A redrive or a discard. `state`: running until it has ended; one that was killed stays so until the next begins.
    Times in milliseconds UTC. `rows`: of its letters, as they were read; `done`: how many it says at its end."""

    id: str
    what: str
    requested_by: str
    note: str
    plan_digest: bytes
    total: int
    started_at: int
    last_at: int
    rows: int = 0
    done: int = 0
    state: str = "running"

    @property
    def moved(self) -> int:
        """How many letters it has moved. Its end can be read before the last of its rows, which stand in other
        partitions: the markers of one Kafka transaction are not written all at once."""
        return max(self.rows, self.done)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "task": self.id, "what": self.what, "state": self.state, "requested_by": self.requested_by,
            "note": self.note, "plan_digest": self.plan_digest.hex(), "total": self.total, "moved": self.moved,
            "started_at": self.started_at, "last_at": self.last_at,
        }  # fmt: skip


class Moves:
    """An index of everything that was ever done. Corrected bytes are not kept in it."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._of: dict[str, list[Row]] = {}
        self._families: dict[str, list[Row]] = {}
        self._placed: dict[tuple[int, int], Row] = {}
        self.tasks: dict[str, Task] = {}
        self.count = 0
        for row in rows:
            self.take(row)

    def take(self, row: Row) -> None:
        """Takes the next row."""
        t, at = row
        self.count += 1
        if not t.letter:
            self._task(t, at)
            return
        if t.value is not None:
            t = Triage(**{**{f: getattr(t, f) for f in t.__struct_fields__}, "value": None})
            row = Row(t, at)
        self._of.setdefault(t.letter, []).append(row)
        if t.move == REDRIVEN:
            self._families.setdefault(t.original, []).append(row)
            self._placed[t.to_partition, t.to_offset] = row
        task = self.tasks.get(t.task)
        if task is not None:
            task.rows, task.last_at = task.rows + 1, max(task.last_at, at)

    def _task(self, t: Triage, at: int) -> None:
        if t.move == "started":
            for other in self.tasks.values():  # it has fenced whoever was at it
                if other.state == "running":
                    other.state = "taken over"
            self.tasks[t.task] = Task(t.task, t.state, t.requested_by, t.note, t.plan_digest, t.total, at, at)
        elif t.task in self.tasks:
            task = self.tasks[t.task]
            task.last_at = at
            if t.move == "ended":
                task.state, task.done = t.state, t.done

    def of(self, found: Found) -> list[Row]:
        """What was done with this letter, oldest first."""
        return self.rows_of(found.id, found.digest) if found.id in self._of else []

    def rows_of(self, letter_id: str, digest: bytes) -> list[Row]:
        """The same by its id and the digest of its bytes."""
        return [r for r in self._of.get(letter_id, []) if r.triage.letter_digest == digest]

    def state(self, found: Found) -> str:
        """What became of it last."""
        rows = self.of(found)
        return rows[-1].triage.move if rows else OPEN

    def origin(self, found: Found) -> Row | None:
        """The move that put back the command which died as this letter."""
        return self._placed.get((found.letter.source_partition, found.letter.source_offset))

    def first_of(self, found: Found) -> str:
        """The letter that came first: its own id, when its command was not put back by anybody."""
        row = self.origin(found)
        return row.triage.original if row is not None else found.id

    def attempts(self, found: Found) -> int:
        """How often its command was tried: by what was done, else by what its headers say."""
        row = self.origin(found)
        return row.triage.attempts + 1 if row is not None else found.letter.attempts

    def family(self, first: str) -> list[Row]:
        """All that was put back for a letter and for those that came of it, oldest first."""
        return self._families.get(first, [])

    def running(self) -> Task | None:
        """The task that has begun last, unless it has ended."""
        return next((t for t in reversed(self.tasks.values()) if t.state == "running"), None)
