"""Redis as the gate: limits of calls, nonces of signatures, outcomes at hand. Never the truth, not waited for.

A call costs one script, so that its bucket and its day are looked at and written at once. When Redis is away or slow,
one call finds out and the next ones do not ask for a while: they go on in this process's own memory with the same
numbers. What Redis forgets (FLUSHALL) gives partners a full bucket and a new day, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b, sha1
from typing import Any, Literal, NamedTuple

import orjson
import redis.asyncio as aredis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from sinks.balances import RedisConfig

log = structlog.get_logger()

DAY_MS = 86_400_000
NONCES_MAX = 1_000_000  # remembered by one process: 300 signed calls a second for the hour of the longest age
OUTCOMES_MAX = 100_000
_CONNECTIONS_MAX = 32
_LOOK_MAX = 250  # outcomes that are fetched together, about 1.5 KB each
_REFUSED = ("", "burst", "day")
What = Literal["calls", "reports"]  # what is counted: every call, and reports besides

Outcomes = Sequence[tuple[bytes, dict[str, Any]]]  # command ids and what is kept under them

# KEYS: the tree's calls. ARGV: calls, tokens per millisecond, burst, calls a day, now in ms (0: the server's clock).
# Answers what refused it (0 nothing, 1 burst, 2 day), whole tokens left, calls of the day left, now. A call that is
# refused takes nothing. An older clock than the one written before neither fills the bucket nor begins a day.
_TAKE = """
local now = tonumber(ARGV[5])
if now == 0 then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local calls, burst, per_day = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
local have = redis.call('HMGET', KEYS[1], 'tokens', 'at', 'day', 'used')
local tokens, at = tonumber(have[1]) or burst, tonumber(have[2]) or now
if now > at then
  tokens = tokens + (now - at) * tonumber(ARGV[2])
  at = now
end
tokens = math.min(burst, tokens)
local day, used = math.floor(now / 86400000), 0
if have[3] and tonumber(have[3]) >= day then
  day = tonumber(have[3])
  used = tonumber(have[4])
end
local refused = 0
if used + calls > per_day then
  refused = 2
elseif tokens < math.min(calls, burst) then
  refused = 1
else
  tokens = tokens - math.min(calls, burst)
  used = used + calls
  redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', at, 'day', day, 'used', used)
  redis.call('PEXPIRE', KEYS[1], 172800000)
end
return {refused, math.floor(tokens), math.max(0, per_day - used), now}
"""
_TAKE_SHA = sha1(_TAKE.encode()).hexdigest()  # noqa: S324 - Redis names scripts by it


class Taken(NamedTuple):
    """What a call took of the limits. `left` and `reset_s` of the burst and of the day; `refused`: which one, or empty;
    `local`: Redis was away."""

    refused: str
    burst_left: int
    burst_reset_s: float
    day_left: int
    day_reset_s: float
    local: bool


class CallLimits(NamedTuple):
    """Per root partner: a bucket of `burst` calls that fills with `rate_per_s`, and calls a UTC day. A batch larger
    than the bucket takes all of it."""

    rate_per_s: float
    burst: int
    per_day: int


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class LocalGate:
    """The gate in this process's memory: all there is while Redis is away, and the twin in tests."""

    local = True

    def __init__(
        self, limits: CallLimits, outcome_s: int = 3600, now_ms: Callable[[], int] = _wall_clock_ms,
        reports: CallLimits | None = None,
    ) -> None:  # fmt: skip
        self._limits: dict[What, CallLimits] = {"calls": limits, "reports": reports or limits}
        self._outcome_ms = outcome_s * 1000
        self._now_ms = now_ms
        self._trees: dict[tuple[What, str], tuple[float, int, int, int]] = {}  # tokens, at, day, used
        self._nonces: dict[bytes, int] = {}  # until when; in the order in which they came
        self._outcomes: dict[bytes, tuple[int, bytes]] = {}

    async def take(self, root: str, calls: int, what: What = "calls") -> Taken:
        """As the script does it."""
        limits, now = self._limits[what], self._now_ms()
        burst = limits.burst
        tokens, at, day, used = self._trees.get((what, root), (float(burst), now, 0, 0))
        if now > at:
            tokens += (now - at) * limits.rate_per_s / 1000
            at = now
        tokens = min(float(burst), tokens)
        if now // DAY_MS > day:
            day, used = now // DAY_MS, 0
        refused = 0
        if used + calls > limits.per_day:
            refused = 2
        elif tokens < min(calls, burst):
            refused = 1
        else:
            tokens -= min(calls, burst)
            used += calls
            self._trees[what, root] = tokens, at, day, used
        return taken(limits, refused, math.floor(tokens), max(0, limits.per_day - used), now, local=True)

    async def first_use(self, key_id: str, nonce: str, for_s: int) -> bool:
        """Whether this nonce is new; it is remembered for `for_s` seconds, unless NONCES_MAX newer ones come first."""
        now = self._now_ms()
        while self._nonces:
            oldest = next(iter(self._nonces))
            if self._nonces[oldest] > now and len(self._nonces) < NONCES_MAX:
                break
            del self._nonces[oldest]
        name = blake2b(f"{key_id}\0{nonce}".encode(), digest_size=16).digest()
        if self._nonces.get(name, 0) > now:
            return False
        self._nonces.pop(name, None)
        self._nonces[name] = now + for_s * 1000
        return True

    async def outcome(self, command_id: bytes) -> dict[str, Any] | None:
        """The outcome that was kept, for as long as it is kept."""
        until, document = self._outcomes.get(command_id, (0, b""))
        if until <= self._now_ms():
            return None
        found: dict[str, Any] = orjson.loads(document)
        return found

    async def keep_outcomes(self, documents: Outcomes) -> None:
        """Keeps outcomes; the oldest go when there are more than OUTCOMES_MAX."""
        for command_id, document in documents:
            while len(self._outcomes) >= OUTCOMES_MAX:
                del self._outcomes[next(iter(self._outcomes))]
            self._outcomes[command_id] = self._now_ms() + self._outcome_ms, orjson.dumps(document)

    async def close(self) -> None:
        """Nothing to close."""


class RedisGate:
    """The gate in Redis. Never raises because of it. `timeout_s`: how long a call waits for it; `away_s`: how long
    nobody asks it again after it did not answer; `now_ms` None: Redis' own clock, one for all gateways; `log`: names
    the topics that outcomes are of. Redis outlives topics that are deleted and made again, and an outcome of those
    before would be given to a command that the ledger has never had."""

    def __init__(
        self,
        config: RedisConfig,
        limits: CallLimits,
        outcome_s: int,
        *,
        timeout_s: float = 0.25,
        away_s: float = 1.0,
        now_ms: Callable[[], int] | None = None,
        log: str = "",
        reports: CallLimits | None = None,
    ) -> None:
        self._config = config
        self._outcomes = f"{config.world}:outcome:{log}:" if log else f"{config.world}:outcome:"
        self._limits: dict[What, CallLimits] = {"calls": limits, "reports": reports or limits}
        self._outcome_s = outcome_s
        self._timeout_s = timeout_s
        self._away_s = away_s
        self._now_ms = now_ms
        self._own = LocalGate(limits, now_ms=now_ms or _wall_clock_ms, reports=reports)
        self._local = False
        self._ask_again = 0.0
        self._asked: dict[bytes, asyncio.Future[Any]] = {}
        self._looks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(_CONNECTIONS_MAX)
        # The pool blocks instead of failing: more calls at once than connections are no reason to think Redis away.
        self._redis: Any = aredis.Redis.from_pool(
            aredis.BlockingConnectionPool.from_url(
                config.url, max_connections=_CONNECTIONS_MAX, timeout=None, retry=Retry(NoBackoff(), 0)
            )
        )

    @property
    def local(self) -> bool:
        """Whether the last call found Redis away."""
        return self._local

    async def take(self, root: str, calls: int, what: What = "calls") -> Taken:
        """Takes calls, or reports, of a tree's limits."""
        now, limits = self._now_ms() if self._now_ms else 0, self._limits[what]
        numbers = (limits.rate_per_s / 1000, limits.burst, limits.per_day)
        found = await self._ask(self._take, f"{self._config.world}:{what}:{root}", calls, *numbers, now)
        if found is None:
            return await self._own.take(root, calls, what)
        refused, burst_left, day_left, at = found
        return taken(limits, refused, burst_left, day_left, at, local=False)

    async def first_use(self, key_id: str, nonce: str, for_s: int) -> bool:
        """Whether this nonce is new. This process remembers it as well, for when Redis goes away or forgets."""
        if not await self._own.first_use(key_id, nonce, for_s):
            return False
        name = f"{self._config.world}:nonce:{key_id}:{nonce}"
        answer = await self._ask(self._redis.execute_command, "SET", name, "1", "NX", "EX", for_s, none="used")
        return bool(answer != "used")

    async def outcome(self, command_id: bytes) -> dict[str, Any] | None:
        """The outcome that a gateway kept. Those that are asked for at once, as for a batch, are one look: a thousand
        would wait for each other for so long that Redis seemed to be away, and with it the limits of calls."""
        asked = self._asked.get(command_id)
        if asked is None:
            asked = self._asked[command_id] = asyncio.get_running_loop().create_future()
            if len(self._asked) == 1:
                self._looks.add(task := asyncio.create_task(self._look()))
                task.add_done_callback(self._looks.discard)
        value = await asyncio.shield(asked)
        try:
            document = orjson.loads(value) if value is not None else None
        except orjson.JSONDecodeError:
            return None
        return document if isinstance(document, dict) else None

    async def _look(self) -> None:
        """Fetches all outcomes that are asked for now."""
        asked, self._asked = self._asked, {}
        ids = list(asked)
        try:
            for at in range(0, len(ids), _LOOK_MAX):
                some = ids[at : at + _LOOK_MAX]
                values = await self._ask(self._redis.execute_command, "MGET", *map(self._outcome, some))
                for command_id, value in zip(some, values or (None,) * len(some), strict=True):
                    asked[command_id].set_result(value)
        finally:
            for future in asked.values():
                if not future.done():
                    future.set_result(None)

    async def keep_outcomes(self, documents: Outcomes) -> None:
        """Keeps outcomes for all gateways: in one round trip, because a command on its own costs five times as much of
        the event loop's time."""
        pipe = self._redis.pipeline(transaction=False)
        for command_id, document in documents:
            pipe.execute_command("SET", self._outcome(command_id), orjson.dumps(document), "EX", self._outcome_s)
        await self._ask(pipe.execute)

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose(close_connection_pool=True)

    def _outcome(self, command_id: bytes) -> str:
        return self._outcomes + command_id.hex()

    async def _take(self, key: str, *values: object) -> Any:
        try:
            return await self._redis.execute_command("EVALSHA", _TAKE_SHA, 1, key, *values)
        except NoScriptError:
            return await self._redis.execute_command("EVAL", _TAKE, 1, key, *values)

    async def _ask(self, command: Callable[..., Any], *arguments: object, none: object = None) -> Any:
        """What Redis answers; `none` when it answers nil, and None when it is away. Only one call at a time finds out
        whether it is back."""
        # Whoever waits for others to be answered does not wait for Redis: the time begins with a connection.
        async with self._turns:
            return await self._ask_now(command, *arguments, none=none)

    async def _ask_now(self, command: Callable[..., Any], *arguments: object, none: object) -> Any:
        if self._local:
            if time.monotonic() < self._ask_again:
                return None
            self._ask_again = time.monotonic() + self._timeout_s + self._away_s
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await command(*arguments)
        except (RedisError, OSError, TimeoutError) as e:
            self._ask_again = time.monotonic() + self._away_s
            if not self._local:
                log.warning("redis_away", address=self._config.address, error=type(e).__name__)
            self._local = True
            return None
        if self._local:
            # The pool's other connections are of before: each of them would fail one call, and make Redis away again.
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await self._redis.connection_pool.disconnect(inuse_connections=False)
            log.info("redis_back", address=self._config.address)
            self._local = False
        return none if answer is None else answer


def taken(limits: CallLimits, refused: int, burst_left: int, day_left: int, now_ms: int, *, local: bool) -> Taken:
    """The answer for a caller. `refused`: 0 no, 1 burst, 2 day."""
    return Taken(
        _REFUSED[refused], burst_left, (limits.burst - burst_left) / limits.rate_per_s, day_left,
        (DAY_MS - now_ms % DAY_MS) / 1000, local,
    )  # fmt: skip
