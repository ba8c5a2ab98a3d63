"""What the console shows, as plain values: where they come from is `live.py`, and `twin.py` for a ledger in memory.

Whatever could not be learnt is None or missing, and `unknown` says why by the name of its section: a console must not
show a zero where nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clearline.gateway.console.works import LetterTask

# Upper bounds of the latency histogram, milliseconds; what is above the last has a bar of its own.
BOUNDS_MS = (2, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1_000, 2_000, 5_000)


@dataclass(frozen=True, slots=True)
class Role:
    """A process. `kind`: gateway, worker, sink-clickhouse ...; `state`: ready, starting, silent, halted, stopped;
    `why`: what is wrong, or waited for; `done`: records it has dealt with since it began, None when it does not say;
    `rate`: records a second, as it says itself; `partitions`: those it has."""

    name: str
    kind: str
    state: str
    pid: int | None = None
    restarts: int = 0
    why: str = ""
    done: int | None = None
    rate: float | None = None
    partitions: Sequence[int] = ()
    url: str = ""
    last_commit_ms: int | None = None

    @property
    def well(self) -> bool:
        """Whether it does all of its work."""
        return self.state == "ready" and not self.why


@dataclass(frozen=True, slots=True)
class Head:
    """Where a partition stands: records of the journal, offset of the next command, and the hash of the last record."""

    sequence: int
    next_offset: int
    chain: str


@dataclass(frozen=True, slots=True)
class Latency:
    """From the broker's append of a command to the commit of its outcome. `counts`: by BOUNDS_MS and above the last
    one, since the processes began; percentiles in milliseconds over the last minute, of the slowest worker."""

    counts: Sequence[int] = ()
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """An incident: what is wrong, by what it is known, and the command that helps. `severity`: critical, warning or
    notice; `subject`: of which part, role, topic or partition; `runbook`: its place there."""

    code: str
    severity: str
    cause: str
    evidence: str = ""
    next_command: str = ""
    runbook: str = ""
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Frozen:
    """What is frozen: by whom, why, and since when, milliseconds UTC. `missing`: partitions in which it must be, and is
    not yet."""

    level: str
    subject_id: str
    by: str
    approved_by: str
    note: str
    since: int
    missing: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Act:
    """Something an operator did, as the journal has it. `at`: milliseconds UTC."""

    at: int
    act: str
    subject_id: str
    by: str
    approved_by: str
    note: str
    partition: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay or a rebuild: of what, `state` as it says, how much of how many is done, times in milliseconds UTC."""

    id: str
    kind: str
    subject: str
    state: str
    done: int
    total: int
    started_at: int
    updated_at: int
    by: str
    approved_by: str

    @property
    def running(self) -> bool:
        """Whether it goes on, so that it can be cancelled."""
        return self.state == "running"


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything at one moment. `ends`: next offsets of `transactions.submitted`; `behind`: records by role and
    partition; `seconds`: the same in seconds, where it is known; `dead`: open letters by reason; `tie_out`: what that
    role said last; `tasks`: redrives and discards, the newest first; `stores`: why ClickHouse or Redis does not answer,
    empty when it does."""

    at_ms: int
    world: str
    roles: Sequence[Role] = ()
    ends: Mapping[int, int] = field(default_factory=dict)
    behind: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    heads: Mapping[int, Head] = field(default_factory=dict)
    latency: Latency | None = None
    dead: Mapping[str, int] | None = None
    tie_out: Mapping[str, Any] | None = None
    in_flight: int | None = None
    troubles: Sequence[Trouble] | None = None
    frozen: Sequence[Frozen] | None = None
    acts: Sequence[Act] | None = None
    replays: Sequence[Replay] | None = None
    tasks: Sequence[LetterTask] = ()
    stores: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
