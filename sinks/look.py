"""What status asks of the stores: whether they serve and may be written, within a time that is fixed beforehand."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import redis
from clickhouse_driver import errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from schemas.errors import ClearlineError, PartUnavailableError
from sinks.balances import RedisConfig
from sinks.clickhouse import ClickHouseConfig, Database

_FACTS = "SELECT version(), uptime(), toString(getSetting('readonly'))"
_DISKS = "SELECT name, path, free_space, total_space FROM system.disks"
_STUCK_REPLICAS = "SELECT count() FROM system.replicas WHERE is_readonly AND database = %(database)s"


@dataclass(frozen=True, slots=True)
class DiskLook:
    """A disk of a store, bytes."""

    name: str
    path: str
    free: int
    total: int


@dataclass(frozen=True, slots=True)
class StoreLook:
    """A store that answered. `read_only`: why nothing can be written, or would not be kept; "" when all is well."""

    version: str
    uptime_s: int
    read_only: str = ""
    disks: tuple[DiskLook, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def look_clickhouse(config: ClickHouseConfig, timeout_s: float = 1.0) -> StoreLook:
    """Asks as the user who writes. Raises PartUnavailableError when it does not answer in time."""
    db = Database(replace(config, timeout_s=timeout_s), with_database=False, connect_s=timeout_s)
    try:
        ((version, uptime, readonly),) = db.rows(_FACTS)
        disks = tuple(DiskLook(*row) for row in db.rows(_DISKS))
        why = f"the user {config.user} has readonly = {readonly}" if readonly not in ("0", "") else ""
        with suppress(ClearlineError):  # a server without replication may lack the table, or the right to see it
            ((stuck,),) = db.rows(_STUCK_REPLICAS, {"database": config.database})
            if stuck and not why:
                why = f"{stuck} replicated tables are read-only: Keeper does not answer them"
        return StoreLook(str(version), int(uptime), why, disks)
    except PartUnavailableError:
        raise
    except (ClearlineError, errors.Error, ValueError) as e:
        raise PartUnavailableError("ClickHouse", config.address, str(e)) from None
    finally:
        db.close()


def look_redis(config: RedisConfig, timeout_s: float = 1.0) -> StoreLook:
    """Raises PartUnavailableError when it does not answer in time, or is still loading its data."""
    client = redis.Redis.from_url(
        config.url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
    )
    try:
        info: Any = client.info()
    except (redis.RedisError, OSError) as e:
        raise PartUnavailableError("Redis", config.address, str(e) or type(e).__name__) from None
    finally:
        client.close()
    why = ""
    if info.get("aof_last_write_status", "ok") != "ok":
        why = "its last write to the append-only file failed"
    elif info.get("role") == "slave":
        why = "it is a replica"
    elif info.get("maxmemory_policy") == "noeviction" and 0 < info["maxmemory"] < info["used_memory"]:
        why = f"its memory is full, {info['used_memory']:,} bytes of {info['maxmemory']:,}"
    elif info.get("maxmemory", 0) and str(info.get("maxmemory_policy")).startswith("allkeys-"):
        why = f"maxmemory-policy {info['maxmemory_policy']} throws balances away; it must be noeviction"
    keep = ("used_memory", "maxmemory", "connected_clients", "loading", "aof_enabled")
    version = str(info.get("valkey_version") or info.get("redis_version", ""))
    return StoreLook(version, int(info.get("uptime_in_seconds", 0)), why, (), {k: info[k] for k in keep if k in info})
