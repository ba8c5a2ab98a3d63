"""What a replay will do, before anything is done: which commands it reads, how many, how long that takes, what the
selection means, and what cannot be replayed any more. As a file it carries its own SHA-256."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from clearline.audit.views import SUBMITTED
from clearline.replay.bases import Base
from clearline.replay.live import Mark, Topics
from clearline.replay.partition import Task
from clearline.replay.rules import Rule
from clearline.replay.selection import EVER, Bound, Selection, bound_of
from clearline.replay.shadow import Ground, Shadow
from schemas.errors import BadInputError

FORMAT = 1
_SAMPLE = 4_000  # commands that are settled to measure the rate

OffsetsAt = Callable[[Mapping[int, int]], Mapping[int, int]]  # partition -> ms UTC, to the first offset from then on


class PlanChangedError(BadInputError):
    """A plan's file is not what was written, or what it was made for is gone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One replay. `base`: where each partition of the tasks stood; `unreachable`: sentences, what cannot be replayed;
    `commands`: to be read, `exact` when that is no upper bound; `rate_per_second`: as measured."""

    world: str
    selection: Selection
    rules: tuple[Rule, ...]
    tasks: tuple[Task, ...]
    base: Mapping[int, Mapping[str, Any]]
    unreachable: tuple[str, ...]
    commands: int
    exact: bool
    rate_per_second: float
    topics: Mapping[str, str]
    partitions: int
    made_at_ms: int
    requested_by: str = ""
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def seconds(self) -> float:
        """How long it is estimated to take."""
        return self.commands / self.rate_per_second if self.rate_per_second else 0.0

    def body(self) -> dict[str, Any]:
        """Plain values, without the digest."""
        return {
            "format": FORMAT, "world": self.world, "selection": self.selection.to_dict(),
            "rules": [r.to_dict() for r in self.rules], "tasks": [asdict(t) for t in self.tasks],
            "base": {str(p): dict(b) for p, b in sorted(self.base.items())}, "unreachable": list(self.unreachable),
            "commands": self.commands, "exact": self.exact, "rate_per_second": round(self.rate_per_second, 1),
            "topics": dict(self.topics), "partitions": self.partitions, "made_at_ms": self.made_at_ms,
            "requested_by": self.requested_by, "notes": list(self.notes),
        }  # fmt: skip

    @property
    def digest(self) -> str:
        """SHA-256 over the plan's values as canonical JSON, in hex."""
        return sha256(orjson.dumps(self.body(), option=orjson.OPT_SORT_KEYS)).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for people and programs."""
        more = {"seconds": round(self.seconds, 1), "means": self.means(), "sha256": self.digest}
        return self.body() | {"rules": [_without_text(r) for r in self.rules]} | more

    def means(self) -> str:
        """What the selection means, in a sentence."""
        text = (
            f"compared is: {self.selection.words()}. A partition's state is a function of its whole log, so partitions "
            f"{', '.join(str(t.partition) for t in self.tasks) or 'none'} are settled whole, from where each begins; "
            "the selection narrows what is compared, not what is settled."
        )
        if self.rules:
            text += " Steps between partitions are read from the log as history wrote them."
        return text

    def lines(self) -> list[str]:
        """For people."""
        about = "" if self.exact else "at most "
        out = [f"plan {self.digest[:12]} for world {self.world}", *_task_lines(self.tasks)]
        out.append(
            f"{about}{self.commands:,} commands, about {_duration(self.seconds)} at "
            f"{self.rate_per_second:,.0f} a second as measured now"
        )
        for r in self.rules:
            other = f" (the file says version {r.given}, which was never published)" if r.given != r.version else ""
            out.append(f"rule: {r.product} version {r.version} is settled under another document{other}")
        out += [self.means(), *self.notes]
        out += [f"CANNOT be replayed: {text}" for text in self.unreachable]
        return out


def _without_text(r: Rule) -> dict[str, Any]:
    return {"product": r.product, "version": r.version, "given": r.given, "sha256": r.digest}


def _task_lines(tasks: Sequence[Task]) -> Iterator[str]:
    for t in tasks:
        books = ", with books that an earlier replay kept" if t.base else ", from the beginning"
        yield f"partition {t.partition}: offsets {t.start} to before {t.end}{books if t.start or t.base else ''}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def make_plan(
    world: str, selection: Selection, rules: Sequence[Rule], log: Topics, ground: Ground, marks: Mapping[int, Mark],
    bases: Mapping[int, Sequence[Base]], offsets_at: OffsetsAt, topics: Mapping[str, str], *,
    now_ms: int | None = None, rate: float | None = None,
) -> Plan:  # fmt: skip
    """The plan of a replay. `marks`: where the partitions of the selection stand; `bases`: books that were kept.

    Raises BadInputError for a selection that names nothing.
    """
    since, until = bound_of(selection.since, "--from"), bound_of(selection.until, "--to")
    firsts, lasts = _resolved(since, marks, offsets_at, 0), _resolved(until, marks, offsets_at, EVER)
    tasks: list[Task] = []
    unreachable: list[str] = []
    commands, exact = 0, True
    spans = log.spans(SUBMITTED)
    for p, mark in sorted(marks.items()):
        kept_from, _ = spans[p]
        end = min(mark.head.next_offset, lasts[p])
        first = firsts[p] if since.at_ms is None else 0
        begin = _beginning(p, kept_from, firsts[p], bases.get(p, ()), bool(rules))
        if begin is None:
            unreachable.append(
                f"partition {p}: its commands before offset {kept_from} are no longer kept, and no replay has kept "
                "books from there on. The journal has their outcomes, but no outcome tells the whole command"
            )
            continue
        start, base = begin
        end = max(end, start)
        if base is not None and start > firsts[p]:
            unreachable.append(f"partition {p}: offsets before {start}; from there on it is replayed")
        received = mark.head.received - (base.received if base else 0)
        whole = end == mark.head.next_offset
        commands += received if whole else min(received, end - start)
        exact = exact and whole
        tasks.append(Task(p, start, end, first, since.at_ms or 0, str(base.path) if base else ""))
    speed = rate if rate is not None else measured_rate(log, ground, tasks, bool(rules))
    return Plan(
        world, selection, tuple(rules), tuple(tasks), {t.partition: _base(marks[t.partition]) for t in tasks},
        tuple(unreachable), commands, exact, speed, dict(topics), ground.partitions,
        int(time.time() * 1000) if now_ms is None else now_ms, notes=tuple(_notes(tasks, rules)),
    )  # fmt: skip


def _notes(tasks: Sequence[Task], rules: Sequence[Rule]) -> Iterator[str]:
    if rules and any(t.base for t in tasks):
        yield "the rules are in force from where each partition begins; what was settled before is as it was"


def _base(mark: Mark) -> dict[str, Any]:
    h = mark.head
    return {"offset": h.next_offset, "sequence": h.sequence, "chain": h.chain.hex()}


def _resolved(bound: Bound, marks: Mapping[int, Mark], offsets_at: OffsetsAt, otherwise: int) -> dict[int, int]:
    """The offset of a bound in each partition."""
    if bound.at_ms is not None:
        found = offsets_at(dict.fromkeys(marks, bound.at_ms))
        return {p: found.get(p, otherwise) for p in marks}
    return {p: bound.offset(p, otherwise) for p in marks}


def _beginning(
    partition: int, kept_from: int, first: int, bases: Sequence[Base], rules: bool
) -> tuple[int, Base | None] | None:
    """Where a partition begins, and with which books; None when nothing is kept to begin with.

    Rules are to be in force from the beginning, so books are taken only where there is no other way.
    """
    usable = sorted((b for b in bases if b.next_offset >= kept_from), key=lambda b: b.next_offset)
    below = [b for b in usable if b.next_offset <= first]
    if kept_from == 0:
        if rules or not below:
            return 0, None
        return below[-1].next_offset, below[-1]
    chosen = below[-1] if below and not rules else usable[0] if usable else None
    return (chosen.next_offset, chosen) if chosen else None


def measured_rate(log: Topics, ground: Ground, tasks: Sequence[Task], rules: bool) -> float:
    """Commands a second that this machine settles into a shadow, by settling some; 0 when there is nothing."""
    for t in tasks:
        if t.start or t.end <= t.start:
            continue
        shadow, done = Shadow(t.partition, ground), 0
        sample = []
        for record in log.read(SUBMITTED, t.partition, t.start, min(t.end, t.start + 2 * _SAMPLE)):
            sample.append(record)
            if len(sample) == _SAMPLE:
                break
        began = time.perf_counter()
        shadow.settle(sample)
        took = time.perf_counter() - began
        done = len(sample)
        if done:
            return done / max(took, 1e-6) / (2 if rules else 1)
    return 10_000.0 if tasks else 0.0  # no log to measure it on: what was measured on the machine of docs/benchmarks.md


# ---- as a file -------------------------------------------------------------------------------------------------------


def write_plan(plan: Plan, path: Path) -> str:
    """Writes a plan with its digest; returns the digest. Raises BadInputError when the file cannot be written."""
    document = plan.body() | {"sha256": plan.digest}
    try:
        path.write_bytes(orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2) + b"\n")
    except OSError as e:
        raise BadInputError(f"{path} cannot be written: {e.strerror}") from None
    return plan.digest


def read_plan(path: Path) -> Plan:
    """The plan in a file. Raises PlanChangedError when it is not what was written, BadInputError for no file."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as e:
        raise BadInputError(f"{path} cannot be read: {e.strerror}") from None
    except ValueError:
        raise PlanChangedError(f"{path} is no plan: it is not JSON") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise PlanChangedError(f"{path} is no plan of this version: write it with `clearline replay plan --out`")
    said = found.pop("sha256", "")
    try:
        plan = plan_of(found)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise PlanChangedError(f"{path} was changed after it was written: a part of it is missing") from None
    if plan.digest != said or plan.body() != found:
        raise PlanChangedError(f"{path} was changed after it was written: its SHA-256 is {plan.digest}, not {said}")
    return plan


def plan_of(d: Mapping[str, Any]) -> Plan:
    """The plan that `body` gave."""
    return Plan(
        d["world"], Selection.from_dict(d["selection"]), tuple(Rule.from_dict(r) for r in d["rules"]),
        tuple(Task(**t) for t in d["tasks"]), {int(p): b for p, b in d["base"].items()}, tuple(d["unreachable"]),
        d["commands"], d["exact"], d["rate_per_second"], d["topics"], d["partitions"], d["made_at_ms"],
        d["requested_by"], tuple(d["notes"]),
    )  # fmt: skip


def check_plan(plan: Plan, world: str, log: Topics, topics: Mapping[str, str]) -> None:
    """Whether a plan can still be done here. Raises PlanChangedError when what it was made for is gone."""
    if plan.world != world:
        raise PlanChangedError(f"the plan is for world {plan.world}, this is {world}")
    if dict(plan.topics) != dict(topics):
        raise PlanChangedError("the topics were re-created after the plan was made")
    spans = log.spans(SUBMITTED)
    for t in plan.tasks:
        if t.base and not Path(t.base).exists():
            raise PlanChangedError(f"partition {t.partition}: the books that the plan begins with are gone")
        kept_from, _ = spans[t.partition]
        if kept_from > t.start:
            raise PlanChangedError(
                f"partition {t.partition}: the plan begins at offset {t.start}, and commands are kept from {kept_from}"
            )
