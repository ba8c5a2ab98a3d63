"""The console over a ledger in memory: the same facts and works as `live.py` gives, from a twin's lists.

Roles are as a small system has them, all well unless a test says otherwise; replays are a test's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from clearline.gateway.console.facts import BOUNDS_MS, Act, Facts, Frozen, Head, Latency, Replay, Role, Trouble
from clearline.gateway.console.parts import ConsoleParts
from clearline.gateway.console.works import LetterGroup, LetterTask, Planned
from clearline.gateway.twin import LedgerTwin, TwinLetter
from ledger.freezes import row_key
from schemas.errors import BadInputError
from schemas.identity import root_of
from schemas.records import FreezeState, JournalRecord, OperatorAct, SetFreeze

_RECENT = 50


@dataclass
class TwinConsole:
    """`Source` and `Works` over a twin. `ill`: what is wrong with a role, by its name; `troubles`, `replays`: a test's;
    `tasks_paused`: a redrive begins and moves nothing until it is cancelled."""

    twin: LedgerTwin
    now_ms: Callable[[], int]
    world: str = "sandbox"
    ill: dict[str, str] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)
    replays: list[Replay] = field(default_factory=list)
    tasks_paused: bool = False
    fails: Exception | None = None

    def __post_init__(self) -> None:
        self._moved: dict[int, str] = {}  # by place in the twin's letters
        self._origin: dict[tuple[int, int], int] = {}  # the letter whose command was put back to there
        self._tasks: list[LetterTask] = []
        self.looked = 0  # how often
        self.stopped: list[tuple[str, str, str]] = []  # tasks: which, by whom, why

    # ---- Source ------------------------------------------------------------------------------------------------------

    def look(self) -> Facts:
        """As `Source.look`."""
        self.looked += 1
        if self.fails is not None:
            raise self.fails
        twin, ends = self.twin, self.twin.ends()
        heads = {p: twin.base(p).head for p in range(twin.partitions)}
        done = sum(h.sequence for h in heads.values())
        behind = {p: end - heads[p].next_offset for p, end in ends.items()}
        none = dict.fromkeys(ends, 0)
        counts = [0] * (len(BOUNDS_MS) + 1)
        counts[2], counts[3] = done - done // 5, done // 5
        return Facts(
            self.now_ms(), self.world, self._roles(done), ends,
            {"settlement": behind, **dict.fromkeys(("sink-clickhouse", "sink-redis", "sealer", "tieout"), none)},
            {"settlement": 0.0}, {p: Head(h.sequence, h.next_offset, h.chain.hex()) for p, h in heads.items()},
            Latency(counts, 4.0, 11.0), self._dead(), self._tie_out(), 0,
            list(self.troubles), self._frozen(), self._acts(), list(self.replays), self.tasks(),
            {"ClickHouse": "", "Redis": ""},
        )  # fmt: skip

    def _roles(self, done: int) -> list[Role]:
        half = self.twin.partitions // 2
        places = {"worker-0": range(half), "worker-1": range(half, self.twin.partitions)}
        rows = [
            ("gateway-0", "gateway"), ("worker-0", "worker"), ("worker-1", "worker"),
            *((name, name) for name in ("sink-clickhouse", "sink-redis", "tieout", "sealer")),
        ]  # fmt: skip
        out = []
        for i, (name, kind) in enumerate(rows):
            own = sum(self.twin.base(p).head.sequence for p in places[name]) if name in places else done
            out.append(
                Role(name, kind, "ready", 100 + i, 0, self.ill.get(name, ""), own, None, tuple(places.get(name, ())))
            )
        return out

    def _dead(self) -> dict[str, int]:
        return dict(Counter(x.reason for i, x in enumerate(self.twin.letters) if i not in self._moved))

    def _tie_out(self) -> dict[str, object]:
        parts = {name: {"verdict": "equal", "said": "", "differences": 0} for name in ("kafka", "clickhouse", "redis")}
        return {
            "verdict": "equal", "lag_seconds": 0.4, "parts": parts, "differences": [], "round_at": self.now_ms(),
            "cut": ",".join(f"{p}:{self.twin.base(p).head.sequence}" for p in range(self.twin.partitions)),
        }  # fmt: skip

    def _frozen(self) -> list[Frozen]:
        found = [r for r in self.twin.rows("f:").values() if isinstance(r, FreezeState)]
        every = set(range(self.twin.partitions))
        return [
            Frozen(
                r.level, r.subject_id, r.requested_by, r.approved_by, r.note, r.since,
                sorted(every - {*self.frozen_in(r.level, r.subject_id)}) if r.level in ("product", "world") else (),
            )
            for r in found
        ]  # fmt: skip

    def _acts(self) -> list[Act]:
        seen: dict[bytes, JournalRecord] = {}
        for r in self.twin.journal:
            if r.command in ("SetFreeze", "OperatorAct") and r.outcome == "applied":
                seen.setdefault(r.command_id, r)
        return [self._act(r) for r in reversed(list(seen.values())[-_RECENT:])]

    def _act(self, r: JournalRecord) -> Act:
        command = self.twin.command_at(r.source_partition, r.source_offset)
        if isinstance(command, OperatorAct):
            act, subject = command.act, command.subject_id
        else:
            assert isinstance(command, SetFreeze)
            act, subject = f"{'freeze' if command.frozen else 'lift'} {command.level}", command.subject_id
        return Act(
            r.booked_at, act, subject, command.requested_by, command.approved_by, command.note, r.source_partition,
            r.sequence,
        )  # fmt: skip

    # ---- Works -------------------------------------------------------------------------------------------------------

    def groups(self) -> list[LetterGroup]:
        """As `Works.groups`."""
        by: dict[str, list[int]] = {}
        for i, letter in enumerate(self.twin.letters):
            by.setdefault(letter.reason, []).append(i)
        out = []
        for reason, places in by.items():
            letters = [self.twin.letters[i] for i in places]
            states = Counter(self._moved.get(i, "open") for i in places)
            out.append(
                LetterGroup(
                    reason, letters[0].detail[:80], states["open"], states["redrive"], states["discard"],
                    sorted({root_of(x.key.decode()) for x in letters}), letters[0].at_ms, letters[-1].at_ms,
                    max(self._attempts(x) for x in letters), str(places[-1]), [f"reason={reason}"],
                )
            )  # fmt: skip
        return sorted(out, key=lambda g: (-g.open, g.reason))

    def tasks(self) -> list[LetterTask]:
        """As `Works.tasks`."""
        return list(reversed(self._tasks))

    def plan(self, what: str, match: Sequence[str]) -> Planned:
        """As `Works.plan`."""
        reason = next(m.partition("=")[2] for m in match if m.startswith("reason="))
        meant = [i for i, x in enumerate(self.twin.letters) if x.reason == reason]
        todo = [i for i in meant if i not in self._moved]
        lines = "\n".join([what, *(f"{i} {self.twin.letters[i].value.hex()}" for i in todo)])
        skipped = {"already_moved": len(meant) - len(todo)} if len(meant) > len(todo) else {}
        digest = sha256(lines.encode()).hexdigest()
        return Planned(what, list(match), digest, len(todo), skipped, {}, [str(i) for i in todo[:20]])

    def begin(self, planned: Planned, *, by: str, note: str, rate: float) -> str:
        """As `Works.begin`."""
        if self.plan(planned.what, planned.match).digest != planned.digest:
            raise BadInputError("The letters are others by now than were planned: plan again.")
        reason = next(m.partition("=")[2] for m in planned.match if m.startswith("reason="))
        todo = [i for i, x in enumerate(self.twin.letters) if x.reason == reason and i not in self._moved]
        name = f"t{len(self._tasks):012x}"
        self.twin.must(
            OperatorAct("bank", f"dlq-{name}", f"dlq.{planned.what}", name, planned.digest, by, note=note)
        )  # fmt: skip
        state = "running" if self.tasks_paused else "done"
        moved = 0 if self.tasks_paused else len(todo)
        self._tasks.append(LetterTask(name, planned.what, state, moved, len(todo), by, note, self.now_ms()))
        for i in [] if self.tasks_paused else todo:
            self._move(i, planned.what)
        return name

    def stop(self, task_id: str, *, by: str, note: str) -> None:
        """As `Works.stop`."""
        for i, task in enumerate(self._tasks):
            if task.id == task_id and task.running:
                self.stopped.append((task_id, by, note))
                self._tasks[i] = replace(task, state="cancelled")
                return
        raise BadInputError(f"no redrive or discard {task_id} is running")

    def cancel_replay(self, replay_id: str, *, by: str, note: str) -> None:
        """As `Works.cancel_replay`."""
        for i, r in enumerate(self.replays):
            if r.id == replay_id and r.running:
                self.replays[i] = replace(r, state="cancelled")
                return
        raise BadInputError(f"no replay {replay_id} is running")

    def frozen_in(self, level: str, subject_id: str) -> list[int]:
        """As `Works.frozen_in`."""
        return [p for p in range(self.twin.partitions) if row_key(level, subject_id) in self.twin.base(p).rows]

    def close(self) -> None:
        """Nothing to close."""

    def _attempts(self, letter: TwinLetter) -> int:
        before = self._origin.get((letter.place.partition, letter.place.offset))
        return 1 if before is None else self._attempts(self.twin.letters[before]) + 1

    def _move(self, i: int, what: str) -> None:
        self._moved[i] = what
        if what == "redrive":
            letter = self.twin.letters[i]
            self._origin[letter.place.partition, self.twin.ends()[letter.place.partition]] = i
            self.twin.put_bytes(letter.place.partition, letter.value, letter.key)


def twin_console(twin: LedgerTwin, now_ms: Callable[[], int], world: str) -> tuple[ConsoleParts, TwinConsole]:
    """The console's parts over a twin, and what a test changes."""
    made = TwinConsole(twin, now_ms, world)
    return ConsoleParts(made, made), made
