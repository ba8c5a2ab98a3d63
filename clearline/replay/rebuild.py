"""A projection built anew as a whole, while everything runs and nobody ever reads an empty or half table.

Redis: each account's text is written over what is there, from the newest record of `ledger.state`; one that the sink
has written meanwhile is newer and stays. What no record has is taken out. ClickHouse: the tables of the ledger are
filled beside themselves, month by month, and each month is put in the place of the old one in one step, as
`clearline tieout --repair` does it with months that are wrong. Both end with a comparison of every row and balance.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from clearline.audit.continuous.difference import Finding, Verdict
from clearline.audit.continuous.once import Once
from clearline.audit.continuous.repair import Repaired
from clearline.audit.tieout import logs_on_stderr
from clearline.config import Settings
from clearline.connection import clickhouse_config, connect, kafka_config
from clearline.replay.progress import Board
from clearline.replay.run import CANCELLED, DONE, FAILED, RUNNING
from schemas.errors import ClearlineError
from streams.reader import spans
from streams.topics import Topics

REDIS, CLICKHOUSE = "redis", "clickhouse"
Progress = Callable[[str, int, int], None]  # what is under way, how much of it is done, of how much


class RebuildCancelledError(ClearlineError):
    """Somebody cancelled it; what was not swapped yet is as it was."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class RebuildPlan:
    """What will be read: records of a topic, by partition."""

    part: str
    topic: str
    records: dict[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"rebuild": self.part, "topic": self.topic, "records_at_most": sum(self.records.values())}

    def lines(self) -> list[str]:
        """For people."""
        how = (
            "every account is written over what is there; accounts that nobody has are taken out"
            if self.part == REDIS
            else "every month of postings, pending, outcomes and control_changes is filled beside and swapped at once"
        )
        return [f"{self.part} from {self.topic}: at most {sum(self.records.values()):,} records", how]


@dataclass(slots=True)
class Rebuilt:
    """What was done. `equal`: whether the comparison at the end found no difference."""

    id: str
    part: str
    repaired: Repaired
    equal: bool
    seconds: float
    differences: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "id": self.id, "rebuild": self.part, "months": self.repaired.months,
            "accounts": len(self.repaired.accounts),
            "equal": self.equal, "differences": self.differences, "seconds": round(self.seconds, 1),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For people."""
        out = [f"{name}: {rows:,} rows from the journal" for name, rows in self.repaired.months.items()]
        if self.part == REDIS:
            out.append(f"{len(self.repaired.accounts):,} balances were written from ledger.state")
        out += [f"DIFFERS: {d}" for d in self.differences]
        out.append(f"{self.part} is {'equal to the journal' if self.equal else 'NOT equal'} ({self.seconds:.1f} s)")
        return out


def wrong_in(finding: Finding) -> list[str]:
    """What stands against saying that a part is equal to the journal; that it was not compared to the end, too."""
    lines = [d.line for d in finding.differences]
    if finding.count and not lines:
        return [f"{finding.count} places differ"]
    if not lines and finding.verdict not in (Verdict.EQUAL, Verdict.BEHIND):
        return [f"not compared to the end, {finding.verdict.word}: {finding.said or 'its sink does not write'}"]
    return lines


def plan(settings: Settings, part: str) -> RebuildPlan:
    """What a rebuild would read. Raises PartUnavailableError."""
    topics = Topics(settings.world)
    topic = topics.state if part == REDIS else topics.journal
    return RebuildPlan(
        part, topic, {p: end - start for p, (start, end) in spans(kafka_config(settings), topic).items()}
    )


def rebuild(settings: Settings, part: str, by: str, progress: Progress) -> Rebuilt:
    """Builds a projection anew and compares it. Raises RebuildCancelledError, PartUnavailableError, InvariantError."""
    connect(settings)
    began = time.monotonic()
    board = Board(clickhouse_config(settings), "rebuild")
    run_id, started = f"b{uuid4().hex[:10]}", int(time.time() * 1000)
    last = [0, 0]

    def say(state: str, result: object = None) -> bool:
        return board.say(run_id, state, part, "", last[0], last[1], 0.0, by, "", result, started)

    def tell(what: str, done: int, total: int) -> None:
        last[:] = done, total
        progress(what, done, total)
        if say(RUNNING):
            raise RebuildCancelledError(f"rebuild {run_id} was cancelled")

    state, result = FAILED, None
    say(RUNNING)
    try:
        with logs_on_stderr(), closing(Once(settings, lambda _: None)) as once:
            repaired, word = once.rebuild(part, tell)
        differences = wrong_in(word.findings[part])
        done = Rebuilt(run_id, part, repaired, not differences, time.monotonic() - began, differences)
        state, result = DONE, done.to_dict()
        return done
    except (RebuildCancelledError, KeyboardInterrupt):
        state = CANCELLED
        raise
    finally:
        say(state, result)
        board.close()
