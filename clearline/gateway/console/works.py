"""What the console does beside the ledger's commands: dead letters and replays. All of it blocks, so it is asked in
threads; `live.py` has the real one, `twin.py` the one over a ledger in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

LEVELS = ("account", "partner", "product", "world")
WHATS = ("redrive", "discard")


@dataclass(frozen=True, slots=True)
class LetterGroup:
    """Dead letters of one reason and one kind of detail. `match`: the conditions that name exactly these; times in
    milliseconds UTC."""

    reason: str
    pattern: str
    open: int
    redriven: int
    discarded: int
    partners: Sequence[str]
    first_at: int
    last_at: int
    attempts_max: int
    example: str
    match: Sequence[str]


@dataclass(frozen=True, slots=True)
class Planned:
    """What moving the letters that match would do. `digest`: SHA-256 of every letter concerned, hexadecimal; `skipped`,
    `refused`: how many are not moved, by code; `letters`: ids of the first that are."""

    what: str
    match: Sequence[str]
    digest: str
    to_move: int
    skipped: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    letters: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class LetterTask:
    """A redrive or a discard. `state`: running, done, cancelled, taken over, failed."""

    id: str
    what: str
    state: str
    moved: int
    total: int
    by: str
    note: str
    started_at: int

    @property
    def running(self) -> bool:
        return self.state == "running"


class Works(Protocol):
    """Every method may block for seconds and is asked in a thread. Raises PartUnavailableError, and BadInputError for
    what cannot be done."""

    def groups(self) -> list[LetterGroup]:
        """The dead letters in groups by cause, the largest open ones first."""
        ...

    def tasks(self) -> list[LetterTask]:
        """The last redrives and discards, the newest first."""
        ...

    def plan(self, what: str, match: Sequence[str]) -> Planned:
        """What a redrive or discard of all that match would do."""
        ...

    def begin(self, planned: Planned, *, by: str, note: str, rate: float) -> str:
        """Begins it, and goes on by itself; the task's id. Raises BadInputError when the letters are others by now than
        were planned."""
        ...

    def stop(self, task_id: str, *, by: str, note: str) -> None:
        """Cancels a redrive or discard that runs. `note`: why, kept with it."""
        ...

    def cancel_replay(self, replay_id: str, *, by: str, note: str) -> None:
        """Cancels a replay that runs."""
        ...

    def frozen_in(self, level: str, subject_id: str) -> list[int]:
        """The partitions in which this is frozen now. The one question that is answered at once, by any thread."""
        ...

    def close(self) -> None: ...
