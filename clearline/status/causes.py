"""Which incident is the cause of which other: one that explains others is shown alone, and they stand in it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clearline.status.incidents import Incident
    from clearline.status.model import Status

PART_OF = {"Kafka": "kafka", "Schema registry": "registry", "ClickHouse": "clickhouse", "Redis": "redis"}
DOWN = {"kafka": "broker_down", "registry": "registry_down", "clickhouse": "clickhouse_down", "redis": "redis_down"}
# The tie-out compares what stands in the stores: it is behind with them, also when it waits for none of them itself.
_READERS = {
    "clickhouse_down": ("sink-clickhouse", "tieout"), "clickhouse_read_only": ("sink-clickhouse", "tieout"),
    "redis_down": ("sink-redis", "tieout"),
}  # fmt: skip


def with_causes_only(found: list[Incident], status: Status) -> list[Incident]:
    """Moves into each cause what it explains."""
    out: list[Incident] = []
    for i in found:
        cause = next((n for n, c in enumerate(out) if explains(c, i, status)), None)
        if cause is None:
            out.append(i)
        else:
            out[cause] = replace(out[cause], follows=(*out[cause].follows, f"{i.code}: {i.cause}"))
    for n, i in enumerate(out):
        part = next((p for p, code in DOWN.items() if code == i.code), None)
        if i.code == "clickhouse_read_only":
            part = "clickhouse"
        if part:
            waiting = tuple(
                f"{r.name} waits for it" for r in status.roles if PART_OF.get(r.waiting_part) == part and r.waiting_for
            )
            out[n] = replace(i, follows=(*i.follows, *waiting))
    return out


def explains(cause: Incident, other: Incident, status: Status) -> bool:
    if cause.code == "disk_full":
        # Where there is no room for a ready file, a role looks as if it had fallen silent.
        silent = other.code == "stuck_consumer" and (role := status.role(other.subject)) and not role.paused
        return other.code in {*DOWN.values(), "clickhouse_read_only", "role_down", "lag_growing"} or bool(silent)
    if cause.code == "broker_down":
        return cause.severity == "critical" and other.code in (
            "topic_missing", "stuck_consumer", "zombie_worker", "lag_growing", "role_down",
        )  # fmt: skip
    if other.code == "lag_growing" and other.subject in _READERS.get(cause.code, ()):
        return True
    role = status.role(other.subject)
    if other.code in ("role_down", "lag_growing") and role is not None:
        waits = PART_OF.get(role.waiting_part)
        if waits and cause.code == DOWN.get(waits):
            return True
        if cause.code == "clickhouse_read_only" and waits == "clickhouse":
            return True
        if cause.code in ("registry_down", "schema_refused") and role.state in ("failed", "starting", "restarting"):
            return role.pid is None or not role.waiting_part
        if cause.code in ("stuck_consumer", "invariant_breach", "zombie_worker", "role_down"):
            return cause.subject == other.subject or (role.kind == "worker" and cause.subject.startswith("worker"))
    if other.code == "lag_growing" and other.subject == "settlement":
        return cause.code in ("stuck_consumer", "role_down", "invariant_breach", "zombie_worker", "topic_missing")
    if (
        other.code == "stuck_consumer"
        and other.subject.startswith("partition ")
        and cause.subject.startswith("worker-")
    ):
        return cause.code in ("stuck_consumer", "role_down", "zombie_worker", "invariant_breach")
    if other.code == "stuck_consumer" and cause.code == "invariant_breach":
        return True  # nothing of a partition that stopped is settled
    return other.code == "clickhouse_read_only" and cause.code == "clickhouse_down"
