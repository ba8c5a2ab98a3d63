"""What one look at the system found, as plain typed values. Whatever could not be learned says `unknown: why`.

Nothing here asks anybody: `collect` fills it, `incidents` judges it, the screen and the console show it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from clearline.status.incidents import Incident


@dataclass(frozen=True, slots=True)
class Part:
    """Kafka, the registry, ClickHouse or Redis.

    `state`: `up`, `read_only`, `no_space`, `down`, `slow` when it answers and did not answer all in time, or `unknown`
    when nobody asked. `why`: of anything but `up`.
    `process`: what its supervisor says of it, "" where it is none of ours; `paused`: stopped by a signal; `ended`: how
    its last process ended.
    """

    name: str
    address: str
    state: str = "unknown"
    why: str = ""
    process: str = ""
    pid: int | None = None
    restarts: int = 0
    paused: bool = False
    ended: str = ""
    log: str = ""
    took_ms: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Role:
    """One process of ours.

    `state`: the supervisor's (`ready`, `starting`, `restarting`, `failed`, `stopped`), or `silent`: it lives and tells
    nothing; `halted`: a partition of it broke an invariant; `down`: it runs elsewhere and did not answer.
    `waiting_part`: which part it waits for, "" when for none. `latency_ms`: p50, p99 and count of the last minute,
    `rate_per_second`: what it does, None: it does not say; `done`: records since it began, of one that runs elsewhere.
    `skew_ms`: its clock less the broker's, as small as what it heard allows. `dropped`: cores of it that ended early.
    """

    name: str
    state: str
    error: str = ""
    pid: int | None = None
    restarts: int = 0
    paused: bool = False
    silent_s: float = 0.0
    waiting_for: str = ""
    waiting_part: str = ""
    waiting_code: str = ""
    halted: dict[str, str] = field(default_factory=dict)
    partitions: tuple[int, ...] = ()
    latency_ms: dict[str, Any] | None = None
    rate_per_second: float | None = None
    last_commit_ms: int | None = None
    skew_ms: float | None = None
    dropped: dict[str, Any] = field(default_factory=dict)
    strangers: tuple[int, ...] = ()
    done: int | None = None
    metrics: str = ""
    log: str = ""

    @property
    def kind(self) -> str:
        """Which role it is: `worker` of worker-0."""
        head, _, number = self.name.rpartition("-")
        return head if number.isdecimal() else self.name


@dataclass(frozen=True, slots=True)
class Lag:
    """How far one role is behind. `records` by partition; `seconds`: age of the oldest record that it has not come to,
    by the broker's time of it and this machine's clock; `to_zero_s`: until it has caught up if both rates stay, None
    when it would never or nobody knows; `rate`, `inflow`: records a second between two looks."""

    role: str
    records: dict[int, int]
    seconds: float | None = None
    rate: float | None = None
    inflow: float | None = None
    to_zero_s: float | None = None

    @property
    def total(self) -> int:
        """Records in all partitions."""
        return sum(self.records.values())


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of this world. `partitions` 0: it is missing. `expected`: as the settings say, 0: any number is right."""

    name: str
    partitions: int
    expected: int
    leaderless: tuple[int, ...] = ()
    short: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Topics:
    """All topics that this world must have; `unknown`: why they are not known."""

    topics: tuple[Topic, ...] = ()
    brokers: int = 0
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition of the ledger: who settles it ("" nobody), the next offset, the journal's last sequence and the
    head of its chain, hexadecimal; None and "" where nobody told."""

    number: int
    worker: str = ""
    next_offset: int | None = None
    end_offset: int | None = None
    sequence: int | None = None
    chain: str = ""
    halted: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """`total`: offsets that `transactions.dead` holds, end markers included; `hour`, `half_minute`: letters that came
    within that time, at least so many when `complete` is false. `keys`, `reasons`: of the last half minute, or of the
    newest hundred when it had none."""

    total: int = 0
    hour: int = 0
    half_minute: int = 0
    complete: bool = True
    newest_id: str = ""
    newest_ms: int | None = None
    newest_reason: str = ""
    keys: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system that data of ours lies on; bytes. `needed`: below so much free nothing of ours starts any more.
    `used_by`: by part, of those that lie on this disk."""

    path: str
    free: int
    total: int
    needed: int = 0
    used_by: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Section:
    """Anything whose shape another module owns: a value, or why there is none."""

    value: Any = None
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """All of it, at `at_ms` (this machine's clock, ms UTC). `state`: running, starting, stopping, stopped, external."""

    world: str
    state: str
    data_dir: str
    at_ms: int
    embedded: bool = True
    supervisor: int | None = None
    error: str = ""
    addresses: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    roles: tuple[Role, ...] = ()
    topics: Topics = field(default_factory=Topics)
    schemas: Section = field(default_factory=Section)
    partitions: tuple[Partition, ...] = ()
    lags: tuple[Lag, ...] = ()
    lags_unknown: str = ""
    submitted: dict[int, int] = field(default_factory=dict)
    settled_per_second: float | None = None
    received_per_second: float | None = None
    in_flight: dict[str, Any] | None = None
    tieout: dict[str, Any] | None = None
    dead: DeadLetters = field(default_factory=DeadLetters)
    disks: tuple[Disk, ...] = ()
    frozen: Section = field(default_factory=Section)
    took_ms: int = 0
    incidents: tuple[Incident, ...] = ()

    def part(self, name: str) -> Part | None:
        """kafka, registry, clickhouse or redis."""
        return next((p for p in self.parts if p.name == name), None)

    def role(self, name: str) -> Role | None:
        """worker-0, sink-redis, ..."""
        return next((r for r in self.roles if r.name == name), None)

    @property
    def healthy(self) -> bool:
        """Whether everything runs and nothing is wrong that somebody must look at now."""
        return self.state in ("running", "external") and not any(i.severity != "notice" for i in self.incidents)

    def to_dict(self) -> dict[str, Any]:
        """As `clearline status --json` prints it."""
        lag: dict[str, Any] = {
            "submitted": self.submitted,
            "roles": {x.role: x.records for x in self.lags},
            "seconds": {x.role: x.seconds for x in self.lags},
            "rate": {x.role: x.rate for x in self.lags},
            "inflow": {x.role: x.inflow for x in self.lags},
            "to_zero_s": {x.role: x.to_zero_s for x in self.lags},
            "waiting": {r.name: r.waiting_for for r in self.roles if r.waiting_for},
        }
        if self.lags_unknown:
            lag["error"] = self.lags_unknown
        return {
            "state": self.state, "incidents": [i.to_dict() for i in self.incidents], "world": self.world,
            "at_ms": self.at_ms, "took_ms": self.took_ms, "data_dir": self.data_dir, "error": self.error or None,
            "supervisor": self.supervisor, "addresses": self.addresses,
            "parts": {p.name: _part(p) for p in self.parts}, "roles": {r.name: _role(r) for r in self.roles},
            "lag": lag, "in_flight": self.in_flight, "tieout": self.tieout,
            "settled_per_second": self.settled_per_second, "received_per_second": self.received_per_second,
            "partitions": {str(p.number): _without_number(p) for p in self.partitions},
            "topics": asdict(self.topics), "schemas": asdict(self.schemas), "dead": asdict(self.dead),
            "disks": [asdict(d) for d in self.disks], "frozen": asdict(self.frozen),
        }  # fmt: skip


def _part(p: Part) -> dict[str, Any]:
    """`state` stays the process's, as before there were looks; `serves` is what the part itself answered."""
    out = asdict(p)
    del out["name"]
    out["serves"] = p.state
    out["state"] = p.process or p.state
    out["error"] = p.why or None
    return out


def _role(r: Role) -> dict[str, Any]:
    out = asdict(r)
    del out["name"]
    out["error"] = r.error or None
    if not r.metrics:
        del out["metrics"]
    return out


def _without_number(p: Partition) -> dict[str, Any]:
    out = asdict(p)
    del out["number"]
    return out
