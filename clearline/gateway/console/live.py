"""Facts of a real system: what `clearline status` finds, with what this gateway follows anyway and what ClickHouse has.

What costs little is looked at each time; the journal's acts, replays and dead letters now and then. A part that is away
makes its section unknown, and nothing else.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import httpx
import msgspec
import structlog
from prometheus_client.parser import text_string_to_metric_families

from clearline.config import Settings
from clearline.connection import Connection
from clearline.deadletters import Desk
from clearline.embedded.folder import DataFolder
from clearline.freezing import frozen_in
from clearline.gateway.console.facts import (
    BOUNDS_MS,
    Act,
    Facts,
    Frozen,
    Head,
    Latency,
    Replay,
    Role,
    Trouble,
)
from clearline.gateway.console.works import LetterTask
from clearline.replay.progress import replays
from clearline.status.collect import Collector
from clearline.status.model import Role as FoundRole
from clearline.status.model import Status
from schemas.errors import ClearlineError
from sinks.clickhouse import ClickHouseConfig, Database
from streams.metric_names import Name
from streams.registry import Registry
from streams.state_rows import StateRows

T = TypeVar("T")
log = structlog.get_logger()

ACTS_S, REPLAYS_S, LETTERS_S, AGAIN_S = 4.0, 2.0, 3.0, 10.0
ACTS_SHOWN, REPLAYS_SHOWN, TASKS_SHOWN = 20, 5, 10
SCRAPE_S = 0.5
SAME_ACT_MS = 2_000
LETTERS_EFFORT = 20  # reading all letters takes at most one part in so many of the time
_ACTS = """
SELECT toUnixTimestamp64Milli(booked_at), command, subject_id, changes, partition, sequence FROM {db}.control_changes
WHERE command IN ('SetFreeze', 'OperatorAct') AND booked_at > now() - INTERVAL 30 DAY
ORDER BY booked_at DESC, partition LIMIT {most}
"""
_ROWS_MAX = 2_000


class Kept(Generic[T]):
    """An answer that is asked for anew only when it is older than `for_s`; after an error not before AGAIN_S."""

    def __init__(self, ask: Callable[[], T], for_s: float) -> None:
        self._ask = ask
        self.for_s = for_s
        self._next = float("-inf")
        self._last: T | None = None
        self._why = ""

    def get(self, unknown: dict[str, str], name: str) -> T | None:
        """The answer; None when it is not known, and then `unknown` says why under this name."""
        now = time.monotonic()
        if now >= self._next:
            try:
                self._last, self._why = self._ask(), ""
                self._next = time.monotonic() + self.for_s
            except ClearlineError as e:
                self._last, self._why = None, str(e)
                self._next = time.monotonic() + AGAIN_S
        if self._why:
            unknown[name] = self._why
        return self._last


class LiveSource:
    """`Source` of a gateway. `rows`: the end of `ledger.state` that it follows; `house`: ClickHouse."""

    def __init__(
        self, settings: Settings, system: Connection, registry: Registry, rows: StateRows, house: ClickHouseConfig
    ) -> None:
        self._settings, self._system, self._rows = settings, system, rows
        self._collector = Collector(settings, DataFolder(settings.data_dir))
        self._http = httpx.Client(timeout=SCRAPE_S, trust_env=False)
        self._reader = Database(house, reader=True, seconds_max=3, connect_s=1.0)
        self._letters = Letters(Desk(system, registry))
        self._acts = Kept(self._read_acts, ACTS_S)
        self._replays = Kept(lambda: _replays(house), REPLAYS_S)

    def look(self) -> Facts:
        """As `Source.look`."""
        status = self._collector.collect()
        unknown: dict[str, str] = {}
        if status.lags_unknown:
            unknown["lag"] = status.lags_unknown
        if status.error:
            unknown["roles"] = status.error
        up = {p.name: p.state in ("up", "read_only") for p in status.parts}
        dead, tasks = self._letters.look(status, unknown) if up.get("kafka") else (None, ())
        if dead is None:
            unknown.setdefault("dead", "Kafka does not answer")
        house = up.get("clickhouse", False)
        acts = self._acts.get(unknown, "acts") if house else None
        found = self._replays.get(unknown, "replays") if house else None
        if not house:
            unknown |= dict.fromkeys(("acts", "replays"), "ClickHouse does not answer")
        return Facts(
            status.at_ms, status.world, [role_of(r, status) for r in status.roles], dict(status.submitted),
            {x.role: dict(x.records) for x in status.lags},
            {x.role: x.seconds for x in status.lags if x.seconds is not None}, heads_of(status),
            self._latency(status, unknown), dead, status.tieout, (status.in_flight or {}).get("transactions"),
            [trouble_of(i) for i in status.incidents], self._frozen(unknown), acts, found, tasks, stores_of(status),
            unknown,
        )  # fmt: skip

    def close(self) -> None:
        """Ends clients."""
        self._collector.close()
        self._http.close()
        self._reader.close()
        self._letters.desk.close()

    def _frozen(self, unknown: dict[str, str]) -> list[Frozen] | None:
        try:
            found = frozen_in(self._rows, self._system.partitions)
        except ClearlineError as e:
            unknown["frozen"] = str(e)
            return None
        return [Frozen(f.level, f.subject_id, f.requested_by, f.approved_by, f.note, f.since, f.missing) for f in found]

    def _read_acts(self) -> list[Act]:
        most = min(_ROWS_MAX, ACTS_SHOWN * self._system.partitions)
        return distinct(self._reader.rows(_ACTS.format(db=self._reader.name, most=most)))[:ACTS_SHOWN]

    def _latency(self, status: Status, unknown: dict[str, str]) -> Latency | None:
        """The workers' histograms together; percentiles as they say them."""
        workers = [r for r in status.roles if r.kind == "worker"]
        said = [r.latency_ms for r in workers if r.latency_ms]
        sums = [0] * (len(BOUNDS_MS) + 1)
        for role in workers:
            if not role.metrics:
                continue
            try:
                answer = self._http.get(role.metrics)
                counts = histogram(answer.text)
            except (httpx.HTTPError, ValueError) as e:
                unknown["latency"] = f"{role.name} does not show its metrics: {type(e).__name__}"
                continue
            sums = [a + b for a, b in zip(sums, counts, strict=True)]
        halves = [float(x["p50"]) for x in said if x.get("p50") is not None]
        nearly = [float(x["p99"]) for x in said if x.get("p99") is not None]
        return Latency(sums, max(halves, default=None), max(nearly, default=None)) if workers else None


class Letters:
    """Open dead letters by reason, and tasks: what is new is read each LETTERS_S, all letters only when some came or
    went, and never for more than a small part of the time."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._seen: tuple[int, int] = (-1, -1)
        self._counts: dict[str, int] = {}
        self._total = 0
        self._not_before = float("-inf")
        self._moves = Kept(self._refresh, LETTERS_S)

    def look(self, status: Status, unknown: dict[str, str]) -> tuple[dict[str, int] | None, Sequence[LetterTask]]:
        """Both; None for letters that are not known."""
        if status.dead.unknown:
            unknown["dead"] = status.dead.unknown
            return None, ()
        self._total = status.dead.total
        tasks = self._moves.get(unknown, "dead")
        if tasks is None:
            return None, ()
        return dict(self._counts), tasks

    def _refresh(self) -> list[LetterTask]:
        moves = self.desk.refresh()
        now = time.monotonic()
        if (self._total, moves.count) != self._seen and now >= self._not_before:
            seen = (self._total, moves.count)
            counts: Counter[str] = Counter()
            for group in self.desk.groups():
                counts[group.reason] += group.open
            self._seen, self._counts = seen, {reason: n for reason, n in counts.items() if n}
            self._not_before = time.monotonic() + LETTERS_EFFORT * (time.monotonic() - now)
        return tasks_of(self.desk)


def tasks_of(desk: Desk) -> list[LetterTask]:
    """The last tasks, the newest first."""
    found = sorted(desk.moves.tasks.values(), key=lambda t: t.started_at, reverse=True)[:TASKS_SHOWN]
    return [LetterTask(t.id, t.what, t.state, t.moved, t.total, t.requested_by, t.note, t.started_at) for t in found]


def role_of(r: FoundRole, status: Status) -> Role:
    """A role as the console shows it."""
    why = r.error or r.waiting_for or "; ".join(f"partition {p}: {said}" for p, said in r.halted.items())
    partitions = tuple(p.number for p in status.partitions if p.worker == r.name) or r.partitions
    if r.paused:
        why = why or "its process is stopped by a signal"
    return Role(
        r.name, r.kind, r.state, r.pid, r.restarts, why, r.done, r.rate_per_second, partitions, r.metrics,
        r.last_commit_ms,
    )  # fmt: skip


def heads_of(status: Status) -> dict[int, Head]:
    """Where the partitions stand, of which that is known."""
    return {
        p.number: Head(p.sequence, p.next_offset, p.chain)
        for p in status.partitions
        if p.sequence is not None and p.next_offset is not None
    }


def trouble_of(found: Any) -> Trouble:
    """An incident as the console shows it."""
    evidence = " ".join([*found.evidence, *(f"Follows from it: {text}" for text in found.follows)])
    return Trouble(
        found.code, found.severity, found.cause, evidence, found.next_command, found.runbook, found.subject
    )  # fmt: skip


def stores_of(status: Status) -> dict[str, str]:
    """Why each store of the map does not answer; empty when it does, missing when nobody asked."""
    names = {"clickhouse": "ClickHouse", "redis": "Redis"}
    found = ((names[p.name], p) for p in status.parts if p.name in names and p.state != "unknown")
    return {name: "" if p.state == "up" else p.why or p.state.replace("_", " ") for name, p in found}


def distinct(rows: Iterable[Sequence[Any]]) -> list[Act]:
    """The acts in rows of control_changes, the newest first: a product's or the world's freeze has a row for each
    partition, booked within moments, and is one act."""
    last: dict[tuple[Any, ...], int] = {}
    out = []
    for row in rows:
        at, key = int(row[0]), tuple(row[1:4])
        if key not in last or last[key] - at > SAME_ACT_MS:
            out.append(act_of(*row))
        last[key] = at
    return out


def act_of(at: int, command: str, subject: str, changes: str, partition: int, sequence: int) -> Act:
    """A row of control_changes."""
    told: Mapping[str, Any] = msgspec.json.decode(changes) if changes else {}
    if command == "SetFreeze":
        frozen = str(told.get("frozen", "")).lower() == "true"
        act = f"{'freeze' if frozen else 'lift'} {told.get('level', '')}"
    else:
        act = str(told.get("act", command))
    by, approved_by, note = (str(told.get(name, "")) for name in ("requested_by", "approved_by", "note"))
    return Act(at, act, subject, by, approved_by, note, partition, sequence)


def histogram(text: str) -> list[int]:
    """Counts by BOUNDS_MS of a worker's latencies, from its metrics. Raises ValueError for what is none."""
    below: dict[float, int] = {}
    for family in text_string_to_metric_families(text):
        if family.name == Name.LATENCY:
            for s in family.samples:
                if s.name.endswith("_bucket"):
                    below[float(s.labels["le"])] = int(s.value)
    whole = below.get(float("inf"), 0)
    steps = [below.get(ms / 1000, whole) for ms in BOUNDS_MS]
    return [n - (steps[i - 1] if i else 0) for i, n in enumerate([*steps, whole])]


def _replays(house: ClickHouseConfig) -> list[Replay]:
    return [
        Replay(
            r.id, r.kind, r.subject, r.state, r.done, r.total, r.started_at, r.updated_at, r.requested_by, r.approved_by
        )
        for r in replays(house, REPLAYS_SHOWN)
    ]  # fmt: skip
