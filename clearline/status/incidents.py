"""What is wrong, why, and what to do next: rules over a Status, the cause first and what follows from it below.

A rule is a pure function of one Status (see model.py). It fires on what parts and roles say of themselves: states,
codes and counts. Words of an error are shown as evidence; nothing is decided by them. Each code is a section of
docs/OPERATING.md, and the label `incident` of an alert rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from clearline.status.causes import DOWN, PART_OF, with_causes_only
from streams.topics import Topics

if TYPE_CHECKING:
    from clearline.status.model import Disk, Part, Role, Status

CRITICAL, WARNING, NOTICE = "critical", "warning", "notice"

# In the order in which they are shown, causes before what they bring about: a full disk ends a broker, a broker that is
# gone makes everybody wait.
CODES = (
    "disk_full", "broker_down", "topic_missing", "topic_partitions", "invariant_breach", "tie_out_differs",
    "zombie_worker", "stuck_consumer", "role_down", "registry_down", "schema_refused", "clickhouse_down",
    "clickhouse_read_only", "redis_down", "poison_flood", "clock_skew", "lag_growing",
)  # fmt: skip

FLOOD_LETTERS = 20  # within half a minute
SKEW_MS = 5_000
SKEW_CRITICAL_MS = 60_000
FENCED_MS = 15_000  # a worker that was fenced within this time may be fenced again
STUCK_S = 20.0  # nothing of a partition is settled for so long though something waits
LAG_S = 30.0
RESTARTS_MANY = 3
DISK_FREE_SHARE = 0.05
EXIT_INVARIANT = 78  # a role ended because an invariant is broken: that is not over with its next start
_MOVED = "they are written together"  # as streams/recovery.py says of a group's offset
ENDED_MAX = 160

_NAMES = {"kafka": "Kafka", "registry": "The schema registry", "clickhouse": "ClickHouse", "redis": "Redis"}
_ROLES_COMPOSED = "worker-0 worker-1 sink-clickhouse sink-redis sealer tieout gateway-0 webhooks-0"
_PREPARE = ("clearline prepare --dry-run", "clearline prepare")
_WRITABLE = "clearline sql \"SELECT name, value FROM system.settings WHERE name = 'readonly'\""
_MEANWHILE = {
    "kafka": "nothing is taken in or settled until it is back; nothing is lost",
    "registry": "what runs goes on, but no role can start and no new schema is learned",
    "clickhouse": "settlement goes on; reports, statements and the tie-out stand still",
    "redis": "settlement goes on; balances come from elsewhere, more slowly, and limits of calls are kept per gateway",
}


@dataclass(frozen=True, slots=True)
class Incident:
    """One thing that is wrong. `subject`: of which part, role, topic or partition; `cause`: one sentence; `evidence`:
    what it was concluded from; `next_commands`: to look closer or to cure, in this order; `follows`: what else is wrong
    because of it."""

    code: str
    severity: str
    subject: str
    cause: str
    evidence: tuple[str, ...] = ()
    next_commands: tuple[str, ...] = ()
    follows: tuple[str, ...] = field(default=())

    @property
    def runbook(self) -> str:
        """The place in the runbook."""
        return f"docs/OPERATING.md#{self.code.replace('_', '-')}"

    @property
    def next_command(self) -> str:
        """The first of them."""
        return self.next_commands[0] if self.next_commands else "clearline status --json"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, `runbook` and `next_command` among them."""
        return {**asdict(self), "next_command": self.next_command, "runbook": self.runbook}


def incidents(status: Status) -> tuple[Incident, ...]:
    """What is wrong, causes first; what follows from a cause is listed in it, not beside it."""
    if status.state == "stopped":
        return ()
    found = [i for rule in _RULES for i in rule(status)]
    found.sort(key=_place)
    return tuple(with_causes_only(found, status))


def _place(i: Incident) -> tuple[int, bool, str]:
    """A partition that nobody settles comes after the workers that may be the reason, also those that are down."""
    ownerless = i.code == "stuck_consumer" and i.subject.startswith("partition ")
    return CODES.index("role_down" if ownerless else i.code), ownerless, i.subject


# ---- parts -----------------------------------------------------------------------------------------------------------


def _parts_down(status: Status) -> Iterator[Incident]:
    missed = {PART_OF.get(r.waiting_part) for r in status.roles if r.waiting_for}
    for part in status.parts:
        # On a busy machine a look is over before a part has said everything: it is down if roles miss it, too.
        refuses = part.name == "redis" and part.state == "read_only"
        if refuses or part.state == "down" or (part.state == "slow" and part.name in missed):
            severity = WARNING if part.name in ("registry", "redis") else CRITICAL
            what = f"answers and must not be written ({part.why})" if refuses else f"does not answer{_how_ended(part)}"
            yield Incident(
                DOWN[part.name],
                severity,
                part.name,
                f"{_NAMES[part.name]} at {part.address} {what}: {_MEANWHILE[part.name]}.",
                _evidence_of(part),
                _commands_for(part, status),
            )
    yield from _kafka_partly(status)


def _how_ended(part: Part) -> str:
    if part.paused:
        return f", its process {part.pid} is paused by a signal"
    if part.process in ("restarting", "failed", "stopped"):
        return f", its process is {part.process}" + (f" ({_brief(part.ended)})" if part.ended else "")
    if part.process == "starting":
        return ", its process is starting"
    return ""


def _brief(ended: str) -> str:
    """How a process ended, without the path of its log, which is shown with the process."""
    said = ended.rpartition(" (log: ")[0] or ended
    return said if len(said) <= ENDED_MAX else said[:ENDED_MAX] + " ..."


def _evidence_of(part: Part) -> tuple[str, ...]:
    said = [f"asked: {part.why}"] if part.why else []
    if part.process:
        said.append(f"process: {part.process}, pid {part.pid}, {part.restarts} restarts")
    return tuple(said)


def _commands_for(part: Part, status: Status) -> tuple[str, ...]:
    """To bring a part back: of the embedded stack, or of the composed one."""
    if not status.embedded or not part.process:
        if part.state == "read_only":
            return ("docker-compose exec redis redis-cli info memory", "docker-compose exec redis df -h /data")
        names = {"kafka": "kafka-1 kafka-2 kafka-3", "clickhouse": "clickhouse clickhouse-2"}.get(part.name, part.name)
        return (f"docker-compose ps {names}", f"docker-compose up -d {names}")
    if part.paused:
        return (f"kill -CONT {part.pid}", f"clearline restart {part.name}")
    look = f"tail -n 40 {part.log}"
    if part.state == "read_only":
        return (look, f"df -h {status.data_dir}")
    if part.process == "ready" and part.pid:
        return (f"clearline restart {part.name}", look)  # it lives and does not answer
    return (look, "clearline down", "clearline up")


def _kafka_partly(status: Status) -> Iterator[Incident]:
    """Brokers are missing from a cluster that still answers."""
    lost = [t for t in status.topics.topics if t.leaderless]
    short = [t for t in status.topics.topics if t.short]
    if lost:
        yield Incident(
            "broker_down", CRITICAL, "kafka",
            f"Nobody leads {sum(len(t.leaderless) for t in lost)} partitions, such as {lost[0].name} "
            f"{lost[0].leaderless[0]}: a broker is gone that nobody stands in for.",
            (f"{status.topics.brokers} brokers answer",), ("docker-compose ps kafka-1 kafka-2 kafka-3",),
        )  # fmt: skip
    elif short:
        yield Incident(
            "broker_down", WARNING, "kafka",
            f"A broker is gone: {sum(len(t.short) for t in short)} partitions have fewer replicas than they should. "
            "Everything goes on; another loss may stop it.",
            (f"{status.topics.brokers} brokers answer", f"such as {short[0].name} {short[0].short[0]}"),
            ("docker-compose ps kafka-1 kafka-2 kafka-3",),
        )  # fmt: skip


def _read_only(status: Status) -> Iterator[Incident]:
    house = status.part("clickhouse")
    told = [r for r in status.roles if r.waiting_code == "read_only"]
    if house is None or house.state == "down" or (house.state != "read_only" and not told):
        return
    why = house.why if house.state == "read_only" else told[0].waiting_for
    yield Incident(
        "clickhouse_read_only", CRITICAL, "clickhouse",
        f"ClickHouse at {house.address} answers and refuses to write ({why}): {_MEANWHILE['clickhouse']}.",
        tuple(f"{r.name}: {r.waiting_for}" for r in told),
        (*_unlock_command(house, status), _WRITABLE),
    )  # fmt: skip


def _unlock_command(house: Part, status: Status) -> tuple[str, ...]:
    if status.embedded and house.process:
        return (f"rm {status.data_dir}/clickhouse/read-only",)
    return ("docker-compose logs --tail 50 clickhouse clickhouse-2",)


def _disk_full(status: Status) -> Iterator[Incident]:
    for disk in status.disks:
        if disk.free < max(disk.needed, int(disk.total * DISK_FREE_SHARE) if disk.needed == 0 else 0):
            yield _full(disk)
    names = {d.path for d in status.disks}
    for part in status.parts:
        if part.state == "no_space" and not any(disk.free < disk.needed for disk in status.disks):
            yield Incident(
                "disk_full", CRITICAL, part.name, f"{_NAMES[part.name]} has no space left: {part.why}",
                tuple(sorted(names)), (f"df -h {status.data_dir}",),
            )  # fmt: skip
    told = [r for r in status.roles if r.waiting_code == "no_space"]
    if (
        told
        and not any(p.state == "no_space" for p in status.parts)
        and not any(d.free < d.needed for d in status.disks)
    ):
        yield Incident(
            "disk_full", CRITICAL, PART_OF.get(told[0].waiting_part, "clickhouse"),
            f"{told[0].waiting_part} has no space left: {told[0].waiting_for}", (f"told by {told[0].name}",),
            ("docker-compose exec clickhouse df -h /var/lib/clickhouse",),
        )  # fmt: skip


def _full(disk: Disk) -> Incident:
    biggest = sorted(disk.used_by.items(), key=lambda x: -x[1])
    return Incident(
        "disk_full", CRITICAL, disk.path,
        f"The disk of {disk.path} has {disk.free // 1_000_000:,} MB free of {disk.total // 1_000_000:,} MB: brokers "
        "and stores end, or refuse to write, when it is full.",
        tuple(f"{name}: {size // 1_000_000:,} MB" for name, size in biggest[:4]),
        _look_at(disk.path),
    )  # fmt: skip


def _look_at(path: str) -> tuple[str, ...]:
    """To see what fills a disk: `clickhouse:PATH` is one of a server that runs elsewhere."""
    service, colon, inside = path.partition(":")
    if colon and service == "clickhouse":
        return (f"docker-compose exec clickhouse df -h {inside}",)
    return (f"df -h {path}", f"du -xhd 2 {path}")


# ---- topics, schemas -------------------------------------------------------------------------------------------------


def _topics(status: Status) -> Iterator[Incident]:
    for t in status.topics.topics:
        if t.partitions == 0:
            yield Incident(
                "topic_missing", CRITICAL, t.name,
                f"Topic {t.name} does not exist: somebody deleted it, or the world was never prepared.",
                (f"{status.topics.brokers} brokers answer and do not know it",), _topic_commands(t.name, status),
            )  # fmt: skip
        elif t.expected and t.partitions != t.expected:
            few = t.partitions < t.expected
            yield Incident(
                "topic_partitions", CRITICAL, t.name,
                f"Topic {t.name} has {t.partitions} partitions, the settings say {t.expected}: "
                + ("it was created anew with too few." if few else "somebody added some, and keys go elsewhere now."),
                (f"CLEARLINE_PARTITIONS={t.expected}",), _topic_commands(t.name, status),
            )  # fmt: skip


def _topic_commands(name: str, status: Status) -> tuple[str, ...]:
    """What is only kept in the topic comes back from a backup; everything else is made anew, empty."""
    if name in Topics(status.world).truth:
        stop = ("clearline down",) if status.embedded else (f"docker-compose stop {_ROLES_COMPOSED}",)
        return (*stop, "clearline backup restore DIR --dry-run")
    return _PREPARE


def _schemas(status: Status) -> Iterator[Incident]:
    wrong: dict[str, str] = status.schemas.value or {}
    if wrong:
        first = sorted(wrong)[0]
        yield Incident(
            "schema_refused", CRITICAL, first,
            f"{len(wrong)} schemas of this version are not in the registry, such as {first}: {wrong[first]}. "
            "What runs goes on; no role of this version can start.",
            tuple(f"{subject}: {why}" for subject, why in sorted(wrong.items())[:5]),
            _PREPARE,
        )  # fmt: skip


# ---- roles -----------------------------------------------------------------------------------------------------------


def _roles_down(status: Status) -> Iterator[Incident]:
    for role in status.roles:
        if role.state in ("ready", "silent", "halted", "unknown") or (role.state == "starting" and not role.restarts):
            continue
        if f"exit code {EXIT_INVARIANT}" in role.error:
            continue  # the rule of invariants tells it
        how = (
            "it does not answer" if role.state == "down" else f"it is {role.state}, started again {role.restarts} times"
        )
        yield Incident(
            "role_down", CRITICAL if role.kind in ("worker", "gateway") else WARNING, role.name,
            f"{role.name} does not run: {how}.",
            (role.error[:300],) if role.error else (),
            (_log_of(role), "clearline down", "clearline up") if role.log
            else (_log_of(role), f"docker-compose up -d {role.name}"),
        )  # fmt: skip


def _log_of(role: Role) -> str:
    """To read a role's last words: here, or where it runs in a container."""
    return f"tail -n 40 {role.log}" if role.log else f"docker-compose logs --tail 40 {role.name}"


def _invariants(status: Status) -> Iterator[Incident]:
    for role in status.roles:
        if role.halted:
            p, why = next(iter(sorted(role.halted.items())))
            yield Incident(
                "invariant_breach", CRITICAL, role.name,
                f"{role.name} stopped partition {p}, because something is true there that can never be: {why[:200]}",
                tuple(f"partition {n}: {text}" for n, text in sorted(role.halted.items())),
                ("clearline verify --json", "clearline offsets show" if _MOVED in why else "clearline tieout --json"),
            )  # fmt: skip
        elif f"exit code {EXIT_INVARIANT}" in role.error:
            yield Incident(
                "invariant_breach", CRITICAL, role.name, f"{role.name} ended itself: an invariant is broken.",
                (role.error[:300],), ("clearline verify --json", "clearline tieout --json"),
            )  # fmt: skip


def _stuck(status: Status) -> Iterator[Incident]:
    named: set[str] = set()
    for role in status.roles:
        if role.state == "silent" or role.paused:
            named.add(role.name)
            how = "is paused by a signal (SIGSTOP)" if role.paused else "lives and does nothing"
            yield Incident(
                "stuck_consumer", CRITICAL if role.kind in ("worker", "gateway") else WARNING, role.name,
                f"{role.name} (pid {role.pid}) {how}: it has told nothing for {role.silent_s:.0f} s.",
                (f"its partitions: {', '.join(map(str, role.partitions)) or 'none'}",),
                (*((f"kill -CONT {role.pid}",) if role.paused else ()), f"clearline restart {role.name}"),
            )  # fmt: skip
    settlement = next((x for x in status.lags if x.role == "settlement"), None)
    if settlement is None or settlement.seconds is None or settlement.seconds < STUCK_S:
        return
    for p in status.partitions:
        waiting = settlement.records.get(p.number, 0)
        owner = status.role(p.worker)
        if not waiting or p.halted or p.worker in named:
            continue
        if not p.worker:
            yield Incident(
                "stuck_consumer", CRITICAL, f"partition {p.number}",
                f"Nobody settles partition {p.number}, where {waiting} commands wait, the oldest for "
                f"{settlement.seconds:.0f} s.", (), ("clearline status --json",),
            )  # fmt: skip
        elif owner is not None and _since_commit_s(owner, status) > STUCK_S:
            named.add(p.worker)
            yield Incident(
                "stuck_consumer", CRITICAL, p.worker,
                f"{_whose(owner)} settles nothing of partition {p.number}, where {waiting} commands wait, "
                f"the oldest for {settlement.seconds:.0f} s.",
                (f"its last commit was {_since_commit_s(owner, status):.0f} s ago",
                 str(owner.dropped.get("last_why", ""))[:200]),
                (f"{'clearline' if owner.pid else 'docker-compose'} restart {owner.name}", _log_of(owner)),
            )  # fmt: skip


def _whose(role: Role) -> str:
    return f"{role.name} (pid {role.pid})" if role.pid else role.name


def _since_commit_s(role: Role, status: Status) -> float:
    return (status.at_ms - role.last_commit_ms) / 1000 if role.last_commit_ms else 0.0


def _zombies(status: Status) -> Iterator[Incident]:
    for role in status.roles:
        last = int(role.dropped.get("last_fenced_at_ms") or 0)
        if not role.strangers and not (last and status.at_ms - last < FENCED_MS):
            continue
        ids = ", ".join(map(str, role.strangers))
        other = f"pid {role.pid} is the stack's, pid {ids} is a stranger" if ids else "the other is not on this machine"
        slot = role.name.rpartition("-")[2]
        yield Incident(
            "zombie_worker", CRITICAL, role.name,
            f"Two processes run as {role.name} and take its partitions from each other: {other}.",
            (f"fenced {role.dropped.get('fenced', 0)} times, {role.dropped.get('last_why', '')}"[:300],),
            tuple(f"kill -9 {pid}" for pid in role.strangers) or (f"ps -ef | grep 'role worker --slot {slot}'",),
        )  # fmt: skip


# ---- flows -----------------------------------------------------------------------------------------------------------


def _flood(status: Status) -> Iterator[Incident]:
    dead = status.dead
    if dead.half_minute < FLOOD_LETTERS:
        return
    key, n = max(dead.keys.items(), key=lambda x: x[1], default=("", 0))
    reason = max(dead.reasons.items(), key=lambda x: x[1], default=("", 0))[0]
    who = f"{n} of them carry the key {key}, " if key else ""
    yield Incident(
        "poison_flood", WARNING, key or "transactions.dead",
        f"{dead.half_minute} records in half a minute could not be taken and became dead letters: {who}mostly for "
        f"`{reason}`. Everything else goes on.",
        (f"newest {dead.newest_id}: {dead.newest_reason}", f"{dead.hour} within the last hour"),
        (f"clearline dlq ls --reason {reason}" if reason else "clearline dlq ls",
         f"clearline dlq show {dead.newest_id}"),
    )  # fmt: skip


def _skew(status: Status) -> Iterator[Incident]:
    for role in status.roles:
        if role.skew_ms is None or abs(role.skew_ms) < SKEW_MS:
            continue
        behind = next((x.seconds for x in status.lags if x.role == "settlement"), None) or 0.0
        if role.skew_ms > 0 and (status.lags_unknown or behind * 1000 > abs(role.skew_ms) / 2):
            continue  # what it takes is old, or may be: that tells nothing of its clock
        way = "fast" if role.skew_ms > 0 else "slow"
        yield Incident(
            "clock_skew", CRITICAL if abs(role.skew_ms) >= SKEW_CRITICAL_MS else WARNING, role.name,
            f"The clock under {role.name} is about {abs(role.skew_ms) / 1000:.0f} s {way} against the broker's: no "
            "balance depends on it, but signatures are refused, and lags and latencies are wrong.",
            (f"{role.skew_ms:.0f} ms between its time and the broker's for what has just been appended",),
            ("timedatectl status", "chronyc tracking", *((f"clearline restart {role.name}",) if role.log else ())),
        )  # fmt: skip


def _lags(status: Status) -> Iterator[Incident]:
    for lag in status.lags:
        if lag.seconds is None or lag.seconds < LAG_S:
            continue
        never = lag.to_zero_s is None and lag.rate is not None and lag.inflow is not None
        if not never and (lag.to_zero_s is None or lag.to_zero_s < LAG_S):
            continue
        eta = "and falls further behind" if never else f"and needs {lag.to_zero_s:.0f} s more"
        yield Incident(
            "lag_growing", WARNING, lag.role,
            f"{lag.role} is {lag.seconds:.0f} s behind ({lag.total:,} records) {eta}.",
            (f"comes in: {_rate(lag.inflow)}, goes out: {_rate(lag.rate)}",), ("clearline status --watch", "uptime"),
        )  # fmt: skip


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}/s"


def _tie_out(status: Status) -> Iterator[Incident]:
    word = status.tieout
    if word is None or word.get("verdict") != "differs":
        return
    parts = [n for n, p in word["parts"].items() if p.get("verdict") == "differs"]
    # That of ClickHouse is for one server, which the embedded one is; the runbook says what to do on a cluster.
    repairs = [p for p in parts if p == "redis" or (p == "clickhouse" and status.embedded)]
    shown = f"{len(word['differences'])} shown here" if word["differences"] else "the command below says where"
    yield Incident(
        "tie_out_differs", CRITICAL, ", ".join(parts),
        f"What stands in {', '.join(parts)} is not what the journal says ({shown}).",
        tuple(str(d.get("text", d))[:200] for d in word["differences"][:5]),
        ("clearline tieout --json", "clearline verify --json", *(f"clearline tieout --repair {p}" for p in repairs)),
    )  # fmt: skip


_RULES = (
    _disk_full, _parts_down, _topics, _invariants, _tie_out, _zombies, _stuck, _roles_down, _schemas, _read_only,
    _flood, _skew, _lags,
)  # fmt: skip
