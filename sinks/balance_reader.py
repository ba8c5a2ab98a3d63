"""Balances in Redis as a gateway reads them: without blocking its event loop, and with how far they go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from schemas.errors import PartUnavailableError
from sinks.balances import RedisConfig, Shard, decode_shard

_AWAY_S = 1.0  # for so long it is not asked again after it did not answer


class Shards(NamedTuple):
    """Accounts of one partition. Every command before `source_next` is in them; those that Redis has none of are left
    out. `complete`: false while the projection is built up, or is not there: then nothing follows from it."""

    complete: bool
    source_next: int
    shards: dict[str, Shard]


class BalanceReader:
    """Asks Redis over a pool of connections. Raises PartUnavailableError when it does not answer, at once within a
    second after it did not."""

    def __init__(self, config: RedisConfig, connections_max: int = 16, timeout_s: float = 0.5) -> None:
        self._config = config = replace(config, timeout_s=timeout_s)
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            config.url, decode_responses=True, socket_timeout=config.timeout_s, timeout=config.timeout_s,
            socket_connect_timeout=config.timeout_s, retry=Retry(NoBackoff(), 0), max_connections=connections_max,
        )  # fmt: skip
        self._redis: Any = redis.asyncio.Redis(connection_pool=pool)
        self._away_until = 0.0

    async def shards(self, partition: int, account_ids: Sequence[str]) -> Shards:
        """These accounts as they are in one partition. The marker is read first, so it promises no more than is so."""
        world = self._config.world
        if time.monotonic() < self._away_until:
            raise PartUnavailableError("Redis", self._config.address, "it did not a moment ago")
        try:
            pipe = self._redis.pipeline(transaction=False)
            pipe.hmget(f"{world}:sink:{partition}", "next", "source_next", "target")
            for account_id in account_ids:
                pipe.hget(f"{world}:account:{account_id}", str(partition))
            (reached, source_next, target), *values = await pipe.execute()
        except (redis.RedisError, OSError) as e:
            self._away_until = time.monotonic() + _AWAY_S
            raise PartUnavailableError("Redis", self._config.address, str(e)) from None
        found = zip(account_ids, values, strict=True)
        shards = {account_id: decode_shard(value) for account_id, value in found if value is not None}
        complete = reached is not None and int(reached) >= int(target)
        return Shards(complete, int(source_next or 0), shards)

    async def close(self) -> None:
        """Closes its connections."""
        await self._redis.aclose()
