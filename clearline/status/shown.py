"""A Status as tables for people: what is wrong first, then processes, flows, places."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from rich.console import RenderableType
from rich.text import Text

from clearline import screen
from clearline.status.incidents import CRITICAL, Incident
from clearline.status.model import Lag, Part, Role, Status

_ERROR_MAX = 100
_FRESH_S = 5.0


def readable(status: Status, *, addresses: bool = True) -> list[RenderableType]:
    """Everything, in the order in which somebody who was just woken wants it.

    Sentences are no markup, wherever they are printed: partners' names and keys stand in them.
    """
    return [Text(screen.plain(x)) if isinstance(x, str) else x for x in _lines(status, addresses)]


def _lines(status: Status, addresses: bool) -> list[RenderableType]:
    if status.state == "stopped":
        return [f"nothing is running on {status.data_dir}; start it with `./run up`"]
    return [
        *_incidents(status.incidents),
        f"world {status.world}: {status.state}" + (f" ({status.error})" if status.error else ""),
        _processes(status),
        *_unseen(status),
        *_flows(status),
        *_partitions(status),
        *_in_flight(status),
        *_tie_out(status),
        *_dead(status),
        *_frozen(status),
        *_disks(status),
        *(_addresses(status) if addresses else []),
    ]


def _incidents(found: Iterable[Incident]) -> list[RenderableType]:
    out: list[RenderableType] = []
    for i in found:
        colour = "bold red" if i.severity == CRITICAL else "bold yellow"
        out.append(Text.assemble((f"{i.severity.upper()} {i.code}", colour), f"  {screen.plain(i.cause)}"))
        out += [f"    seen: {e}" for e in i.evidence if e]
        out += [f"    next: {c}" for c in i.next_commands]
        out += [f"    follows from it: {f}" for f in i.follows]
        out.append(f"    page: {i.runbook}")
    if out:
        out.append("")
    return out


def _processes(status: Status) -> RenderableType:
    rows = [(p.name, _state_of(p), _pid(p), p.restarts, "", "", _short(p.why)) for p in status.parts]
    rows += [
        (r.name, "paused" if r.paused else r.state, _pid(r), r.restarts, _numbers(r.partitions), _pace(r), _trouble(r))
        for r in status.roles
    ]
    columns = ("name", "state", "pid", "restarts", "partitions", "rate, p50/p99 ms", "")
    return screen.table("", columns, rows, right=["pid", "restarts"])


def _unseen(status: Status) -> list[RenderableType]:
    """That nobody was asked is not that all is well."""
    if status.roles or status.embedded:
        return []
    return ["roles: unknown, so none is judged; CLEARLINE_STATUS__ROLES says where they serve (docs/settings.md)"]


def _state_of(part: Part) -> str:
    """What it answers, and what its process does where that is not the same."""
    if part.state == "up":
        return "ready" if part.process in ("", "ready") else part.process
    return part.state if part.process in ("", "ready") else f"{part.state}, {part.process}"


def _pid(x: Part | Role) -> str:
    return str(x.pid) if x.pid else ""


def _numbers(partitions: tuple[int, ...]) -> str:
    return " ".join(map(str, partitions[:12])) + (" ..." if len(partitions) > 12 else "")


def _pace(role: Role) -> str:
    rate = "" if role.rate_per_second is None else f"{role.rate_per_second:,.0f}/s"
    times = role.latency_ms or {}
    if times.get("p50") is None:
        return rate
    return f"{rate}, {times['p50']:,.0f}/{times['p99']:,.0f}"


def _trouble(role: Role) -> str:
    return _short(role.error or role.waiting_for)


def _flows(status: Status) -> list[RenderableType]:
    if status.lags_unknown:
        return [f"lag is not known: {status.lags_unknown}"]
    rows = [
        (x.role, x.total, _seconds(x.seconds), _to_zero(x), " ".join(f"{p}:{n}" for p, n in sorted(x.records.items())))
        for x in status.lags
    ]
    columns = ("records behind", "total", "oldest", "caught up in", "by partition")
    waits = [f"{r.name} waits: {r.waiting_for}" for r in status.roles if r.waiting_for]
    rates = f"comes in: {_rate(status.received_per_second)}, settled: {_rate(status.settled_per_second)}"
    return ["", rates, screen.table("", columns, rows, right=["total", "oldest", "caught up in"]), *waits]


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:,.1f} s"


def _to_zero(lag: Lag) -> str:
    if not lag.total:
        return ""
    if lag.to_zero_s is not None:
        return f"{lag.to_zero_s:,.0f} s"
    if lag.rate is None:
        return "?"
    # A rate is that of a moment: with what has only just come in it says nothing.
    return "moments" if lag.seconds is not None and lag.seconds < _FRESH_S else "never at this rate"


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}/s"


def _partitions(status: Status) -> list[RenderableType]:
    rows = [
        (
            p.number,
            p.worker or "nobody",
            "?" if p.next_offset is None else p.next_offset,
            "?" if p.sequence is None else p.sequence,
            p.chain[:16] or "?",
            _short(p.halted),
        )
        for p in status.partitions[:64]
    ]
    columns = ("partition", "settled by", "next offset", "sequence", "chain head", "")
    return ["", screen.table("", columns, rows, right=["partition", "next offset", "sequence"])]


def _in_flight(status: Status) -> list[RenderableType]:
    """What is under way between partitions, when anything is."""
    from ledger.money import format_minor

    flights = status.in_flight
    if not flights or not (flights["transactions"] or flights["amounts"]):
        return []
    sums = (
        f"{format_minor(a['set_aside'], c)} {c} set aside, {format_minor(a['decided'], c)} {c} decided and not in yet"
        for c, a in flights["amounts"].items()
    )
    return [f"between partitions: {flights['transactions']} transactions under way; {'; '.join(sums)}"]


def _tie_out(status: Status) -> list[RenderableType]:
    """What the role `tieout` said last, and the first differences."""
    word = status.tieout
    if word is None:
        return ["tie-out: unknown, its role has said nothing"]
    parts = ", ".join(f"{name} {p['verdict']}" for name, p in word["parts"].items())
    why = "; ".join(p["said"] for p in word["parts"].values() if p["said"])
    said = f"tie-out: {word['verdict']}, {word['lag_seconds']:.1f} s behind ({parts})"
    return [said + (f": {why}" if why else ""), *(f"      {d['text']}" for d in word["differences"][:5])]


def _dead(status: Status) -> list[RenderableType]:
    dead = status.dead
    if dead.unknown:
        return [f"dead letters: unknown: {dead.unknown}"]
    least = "" if dead.complete else "at least "
    line = f"dead letters: {least}{dead.hour:,} within the last hour"
    if dead.newest_ms:
        at = datetime.fromtimestamp(dead.newest_ms / 1000, UTC).strftime("%H:%M:%S")
        line += f", newest {dead.newest_id} at {at} UTC ({dead.newest_reason})"
    return [line]


def _frozen(status: Status) -> list[RenderableType]:
    if status.frozen.unknown:
        return [f"frozen: unknown: {status.frozen.unknown}"]
    return [
        f"frozen: {row['level']} {row['subject_id']} by {row['requested_by'] or '?'}: {row['note']}"
        for row in (status.frozen.value or [])[:10]
    ]


def _disks(status: Status) -> list[RenderableType]:
    out: list[RenderableType] = []
    for d in status.disks:
        used = ", ".join(f"{n} {size / 1e6:,.0f} MB" for n, size in sorted(d.used_by.items(), key=lambda x: -x[1])[:4])
        out.append(
            f"disk {d.path}: {d.free / 1e9:,.1f} of {d.total / 1e9:,.1f} GB free" + (f" ({used})" if used else "")
        )
    return out


def _addresses(status: Status) -> list[RenderableType]:
    at = status.addresses
    if not at:
        return []
    rows = [
        ("gateway", at.get("gateway_url")),
        ("Kafka bootstrap", at.get("kafka_bootstrap")),
        ("schema registry", at.get("registry_url")),
        ("ClickHouse native", f"{at.get('clickhouse_host')}:{at.get('clickhouse_port')}"),
        ("ClickHouse HTTP", f"http://{at.get('clickhouse_host')}:{at.get('clickhouse_http_port')}"),
        ("Redis", at.get("redis_url")),
        *((f"metrics of {r.name}", r.metrics) for r in status.roles if r.metrics),
        ("data", status.data_dir),
    ]
    return ["", screen.table("", ("address", ""), rows)]


def _short(text: str) -> str:
    return text if len(text) <= _ERROR_MAX else text[: _ERROR_MAX - 1] + "…"
