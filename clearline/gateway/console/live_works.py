"""Redrives, discards and cancelled replays from a gateway: the same code as `clearline dlq` and `clearline replay`.

A redrive that was begun here goes on in a thread of its own. A gateway that stops ends it after the batch under way;
one that is killed leaves it to whoever begins the next: nothing is put back twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from clearline.acts import record_act
from clearline.config import Settings
from clearline.connection import Connection
from clearline.deadletters import AnsweredBefore, Desk, Match, Plan, Rules, Work, cancel
from clearline.gateway.console.live import tasks_of
from clearline.gateway.console.works import LetterGroup, LetterTask, Planned
from clearline.replay.progress import cancel as cancel_replay
from ledger.freezes import row_key
from schemas.errors import BadInputError
from sinks.clickhouse import ClickHouseConfig
from streams.registry import Registry
from streams.state_rows import StateRows

log = structlog.get_logger()

LETTERS_SHOWN = 20
STOP_S = 5.0
ALIVE_MS = 10_000  # a task that moved nothing for so long has been killed, or waits for nothing


class LiveWorks:
    """`Works` over a real system. For one thread; what it begins has its own. `rows`: the end of `ledger.state`."""

    def __init__(
        self, settings: Settings, system: Connection, registry: Registry, house: ClickHouseConfig,
        now_ms: Callable[[], int], rows: StateRows,
    ) -> None:  # fmt: skip
        self._rows = rows
        self._system, self._registry, self._house, self._now_ms = system, registry, house, now_ms
        self._memory_ms = settings.settlement.keys_window_ms
        self._desk = self._new_desk()
        self._under_way: dict[str, tuple[Work, threading.Thread]] = {}
        self._failed: dict[str, LetterTask] = {}

    def groups(self) -> list[LetterGroup]:
        """As `Works.groups`."""
        return [
            LetterGroup(
                g.reason, g.pattern, g.open, g.states["redriven"], g.states["discarded"],
                [p for p, _ in g.partners.most_common(5) if p], g.first_at, g.last_at, g.attempts_max, g.example,
                g.to_dict()["match"],
            )
            for g in self._desk.groups()
        ]  # fmt: skip

    def tasks(self) -> list[LetterTask]:
        """As `Works.tasks`."""
        self._desk.refresh()
        return [*self._failed.values(), *tasks_of(self._desk)]

    def plan(self, what: str, match: Sequence[str]) -> Planned:
        """As `Works.plan`."""
        return planned_of(self._plan(self._desk, what, match), match)

    def begin(self, planned: Planned, *, by: str, note: str, rate: float) -> str:
        """As `Works.begin`."""
        running = self._desk.refresh().running()
        if running is not None and self._now_ms() - running.last_at < ALIVE_MS:
            raise BadInputError(
                f"{running.what.capitalize()} {running.id} is running: wait for it, or cancel it first."
            )
        desk = self._new_desk()
        try:
            plan = self._plan(desk, planned.what, planned.match)
            if plan.digest.hex() != planned.digest:
                raise BadInputError("The letters are others by now than were planned: look at them again.")
            work = Work(desk, plan, by=by, note=note, rate=rate)
        except BaseException:
            desk.close()
            raise
        name = work.progress.task
        thread = threading.Thread(target=self._run, args=(work, by, note), name=f"redrive {name}", daemon=True)
        self._under_way[name] = work, thread
        thread.start()
        self._wait_begun(name, thread)
        return name

    def stop(self, task_id: str, *, by: str, note: str) -> None:
        """As `Works.stop`."""
        cancel(self._desk, by, task_id, note)

    def cancel_replay(self, replay_id: str, *, by: str, note: str) -> None:
        """As `Works.cancel_replay`."""
        cancel_replay(self._house, replay_id, by)
        # A key of its own: what was resumed may be cancelled again, by somebody else and for another reason.
        record_act(self._system, act="replay.cancel", subject_id=replay_id, digest="", requested_by=by, note=note)

    def frozen_in(self, level: str, subject_id: str) -> list[int]:
        """As `Works.frozen_in`."""
        key = row_key(level, subject_id)
        return [p for p in range(self._system.partitions) if self._rows.row(p, key) is not None]

    def close(self) -> None:
        """Lets what was begun here end after its batch."""
        for work, _ in self._under_way.values():
            work.stop.set()
        deadline = time.monotonic() + STOP_S
        for _, thread in self._under_way.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        self._desk.close()

    def _new_desk(self) -> Desk:
        answered = AnsweredBefore(self._system, self._house, self._memory_ms)
        return Desk(self._system, self._registry, answered, self._memory_ms)

    def _plan(self, desk: Desk, what: str, match: Sequence[str]) -> Plan:
        return desk.plan(Match(match), Rules(what))

    def _run(self, work: Work, by: str, note: str) -> None:
        """In the task's own thread."""
        p = work.progress
        try:
            work.run(wait_s=0)
            log.info("operator_letters_ended", task=p.task, what=p.what, state=p.state, moved=p.moved, total=p.total)
        except Exception as e:  # whatever it was: it is told by the page, and what was moved stands
            log.error("operator_letters_failed", task=p.task, error=f"{type(e).__name__}: {e}")
            said = f"{note} ({type(e).__name__}: {e})"
            self._failed[p.task] = LetterTask(p.task, p.what, "failed", p.moved, p.total, by, said, self._now_ms())
        finally:
            work.desk.close()

    def _wait_begun(self, name: str, thread: threading.Thread) -> None:
        """Until the topic says that it has begun, or it is over: the page that follows shows it."""
        deadline = time.monotonic() + STOP_S
        while time.monotonic() < deadline and thread.is_alive() and name not in self._desk.refresh().tasks:
            thread.join(0.05)


def planned_of(plan: Plan, match: Sequence[str]) -> Planned:
    """A plan as the console shows it."""
    skipped, refused = plan.counts()
    return Planned(
        plan.rules.what, tuple(match), plan.digest.hex(), len(plan.puts), skipped, refused,
        [p.id for p in plan.puts[:LETTERS_SHOWN]],
    )  # fmt: skip
