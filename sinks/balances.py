"""Balances in Redis: a projection of the compacted topic ledger.state, never the truth.

Each account is a hash `WORLD:account:ID` with one field per partition (an account of the bank has a shard in each).
Each partition has a marker `WORLD:sink:PARTITION` that says up to where the topic is in; a script writes both at once,
and never lets an older offset overwrite a newer. So whatever Redis forgets (FLUSHALL, an old snapshot, a lagging
replica), its markers forget with it: the sink sees that and reads again from where the markers stand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError
from redis.retry import Retry

from schemas.codec import Codec
from schemas.errors import InvariantError, PartUnavailableError
from schemas.records import AccountState, PartitionState

ACCOUNTS_PER_SCRIPT = 500
_DEBIT_NORMAL = ("asset", "expense")

# KEYS: the marker, then accounts. ARGV: topic, from, next, source_next, partition, then the accounts' values.
# Answers the number of accounts written, -1 when the marker is gone or of another topic, -2 when it is before `from`.
_APPLY = """
local m = redis.call('HMGET', KEYS[1], 'topic', 'next', 'source_next')
if m[1] ~= ARGV[1] then return -1 end
if tonumber(m[2]) < tonumber(ARGV[2]) then return -2 end
local written = 0
for i = 2, #KEYS do
  local have = redis.call('HGET', KEYS[i], ARGV[5])
  local value = ARGV[i + 4]
  if not have or tonumber(string.match(have, '^%d+')) <= tonumber(string.match(value, '^%d+')) then
    redis.call('HSET', KEYS[i], ARGV[5], value)
    written = written + 1
  end
end
if tonumber(m[2]) < tonumber(ARGV[3]) then redis.call('HSET', KEYS[1], 'next', ARGV[3]) end
if tonumber(m[3]) < tonumber(ARGV[4]) then redis.call('HSET', KEYS[1], 'source_next', ARGV[4]) end
return written
"""


@dataclass(frozen=True, slots=True)
class RedisConfig:
    """Where Redis (or Valkey) is, as a URL, and the world, which prefixes every key."""

    url: str = field(repr=False)
    world: str
    timeout_s: float = 5.0

    @property
    def address(self) -> str:
        """The URL without user and password."""
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"


class StateArrival(NamedTuple):
    """One committed record of ledger.state. `value` None: the key was deleted."""

    offset: int
    key: bytes
    value: bytes | None


class Shard(NamedTuple):
    """One account in one partition as of `source_offset`, counters in minor units."""

    source_offset: int
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int
    currency: str
    type: str
    min_available: int | None
    debits_blocked: bool
    credits_blocked: bool
    closed: bool
    frozen: bool
    credit_limit: int


@dataclass(frozen=True, slots=True)
class Balance:
    """One account, its shards summed; minor units. `credit_limit`: how far below `min_available` it may go; `offsets`:
    the source offset of each partition's shard."""

    account_id: str
    type: str
    currency: str
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int
    min_available: int | None
    debits_blocked: bool
    credits_blocked: bool
    closed: bool
    frozen: bool
    credit_limit: int
    offsets: dict[int, int]

    @property
    def available(self) -> int:
        """What may still be taken before the limit is counted, on the account's normal side."""
        if self.type in _DEBIT_NORMAL:
            return self.debits_posted - self.credits_posted - self.credits_pending
        return self.credits_posted - self.debits_posted - self.debits_pending


@dataclass(frozen=True, slots=True)
class Marker:
    """How far a partition is in. `next_offset`: of ledger.state; `source_next`: the first offset of
    transactions.submitted that is not in; `target`: the end of ledger.state when the projection was begun."""

    topic: str
    next_offset: int
    source_next: int
    target: int

    @property
    def complete(self) -> bool:
        """Whether what Redis shows is whole: false while it is built up again."""
        return self.next_offset >= self.target


def encode_shard(a: AccountState) -> str:
    """The text kept in Redis: the offset first, so that the script can compare it."""
    named = {"d": a.debits_blocked, "c": a.credits_blocked, "x": a.closed, "f": a.frozen}
    flags = "".join(flag for flag, is_set in named.items() if is_set)
    limit = "-" if a.min_available is None else a.min_available
    return (
        f"{a.source_offset} {a.debits_pending} {a.debits_posted} {a.credits_pending} {a.credits_posted} "
        f"{a.currency} {a.type} {limit} {flags or '-'} {a.credit_limit}"
    )


def decode_shard(text: str) -> Shard:
    """The shard in a text made by `encode_shard`."""
    offset, dp, d, cp, c, currency, kind, limit, flags, *credit_limit = text.split(" ")  # the last one came later
    return Shard(
        int(offset), int(dp), int(d), int(cp), int(c), currency, kind, None if limit == "-" else int(limit),
        "d" in flags, "c" in flags, "x" in flags, "f" in flags, int(*credit_limit),
    )  # fmt: skip


class Balances:
    """Redis as the sink and its readers see it. Every call raises PartUnavailableError when it does not answer."""

    def __init__(self, config: RedisConfig) -> None:
        self.config = config
        self._redis: Any = redis.Redis.from_url(
            config.url, decode_responses=True, socket_timeout=config.timeout_s,
            socket_connect_timeout=config.timeout_s, retry=Retry(NoBackoff(), 0),
        )  # fmt: skip

    def balance(self, account_id: str) -> Balance | None:
        """One account summed over its partitions; None when it is not there."""
        with self._errors():
            found: dict[str, str] = self._redis.hgetall(self._account(account_id))
        return _sum(account_id, {int(p): decode_shard(v) for p, v in found.items()}) if found else None

    def shards(self, partition: int) -> dict[str, Shard]:
        """Every account of a partition. Reads all keys: for audits."""
        out: dict[str, Shard] = {}
        prefix = len(self._account(""))
        with self._errors():
            for keys in _batches(self._redis.scan_iter(match=self._account("*"), count=2000)):
                pipe = self._redis.pipeline(transaction=False)
                for key in keys:
                    pipe.hget(key, str(partition))
                for key, value in zip(keys, pipe.execute(), strict=True):
                    if value is not None:
                        out[key[prefix:]] = decode_shard(value)
        return out

    def markers(self) -> dict[int, Marker]:
        """How far each partition is in; empty after FLUSHALL."""
        with self._errors():
            prefix = f"{self.config.world}:sink:"
            keys = [k for k in self._redis.scan_iter(match=prefix + "*", count=2000) if k[len(prefix) :].isdigit()]
            pipe = self._redis.pipeline(transaction=False)
            for key in keys:
                pipe.hgetall(key)
            return {int(key[len(prefix) :]): _marker(m) for key, m in zip(keys, pipe.execute(), strict=True) if m}

    def marker(self, partitions: Sequence[int]) -> dict[int, Marker]:
        """The markers of these partitions; one that is gone is left out."""
        with self._errors():
            pipe = self._redis.pipeline(transaction=False)
            for p in partitions:
                pipe.hgetall(self._marker(p))
            return {p: _marker(m) for p, m in zip(partitions, pipe.execute(), strict=True) if m}

    def begin(self, partition: int, topic: str, target: int) -> None:
        """Starts a partition from nothing; `target`: the end of ledger.state now."""
        with self._errors():
            fields = {"topic": topic, "next": 0, "source_next": 0, "target": target}
            self._redis.hset(self._marker(partition), mapping=fields)

    def clear(self) -> int:
        """Deletes every account and marker of the world, markers first; returns the number of keys.

        Markers once more at the end: a sink that runs may have begun anew meanwhile, and what it wrote before its key
        came by here is gone again, so it must begin once more.
        """
        deleted = 0
        markers = f"{self.config.world}:sink:*"
        with self._errors():
            for pattern in (markers, self._account("*"), markers):
                for keys in _batches(self._redis.scan_iter(match=pattern, count=2000)):
                    deleted += int(self._redis.unlink(*keys))
        return deleted

    def apply(self, partition: int, topic: str, start: int, end: int, source_next: int, values: dict[str, str]) -> int:
        """Writes accounts (id -> `encode_shard`) of a stretch of ledger.state, `start` to before `end`, and the marker.

        Returns the number of accounts written (others stood at a newer offset), -1 when the marker is gone or of
        another topic, -2 when it stands before `start`: then nothing of the last part was written, and the partition
        must be read again from its marker.
        """
        items = list(values.items())
        cuts = range(0, len(items), ACCOUNTS_PER_SCRIPT) or range(1)
        with self._errors():
            pipe = self._redis.pipeline(transaction=False)
            for cut in cuts:
                part = items[cut : cut + ACCOUNTS_PER_SCRIPT]
                last = cut + ACCOUNTS_PER_SCRIPT >= len(items)
                keys = [self._marker(partition), *(self._account(a) for a, _ in part)]
                reach = (end, source_next) if last else (start, 0)
                pipe.eval(_APPLY, len(keys), *keys, topic, start, *reach, partition, *(v for _, v in part))
            answers: list[int] = pipe.execute()
        return min(answers) if min(answers) < 0 else sum(answers)

    def close(self) -> None:
        self._redis.close()

    def _account(self, account_id: str) -> str:
        return f"{self.config.world}:account:{account_id}"

    def _marker(self, partition: int) -> str:
        return f"{self.config.world}:sink:{partition}"

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as e:
            self._redis.connection_pool.disconnect()
            full = isinstance(e, OutOfMemoryError)  # its text holds the whole script
            why = "it refuses to write, its memory is full (maxmemory)" if full else str(e)
            raise PartUnavailableError("Redis", self.config.address, why) from None


class Coalescer:
    """Turns a stretch of one partition of ledger.state into what must be written: each account once."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def values(self, records: Sequence[StateArrival]) -> tuple[dict[str, str], int]:
        """The accounts' texts, and the last `source_next` among the records (0: none).

        Raises UnknownSchemaError when the codec must first learn a version, InvariantError on another record.
        """
        last = {r.key: r for r in records if r.value is not None}
        out: dict[str, str] = {}
        source_next = 0
        decode = self._codec.decode
        for key, r in last.items():
            if key[:2] == b"a:":
                state = decode(r.value)
                if type(state) is not AccountState:
                    raise InvariantError(f"ledger.state: key {key!r} holds a {type(state).__name__}")
                out[state.account_id] = encode_shard(state)
            elif key == b"meta":
                state = decode(r.value)
                if type(state) is not PartitionState:
                    raise InvariantError(f"ledger.state: key {key!r} holds a {type(state).__name__}")
                source_next = state.next_offset
        return out, source_next


def read_balance(config: RedisConfig, account_id: str) -> Balance | None:
    """One account's balance; None when Redis has none. Raises PartUnavailableError."""
    balances = Balances(config)
    try:
        return balances.balance(account_id)
    finally:
        balances.close()


def _marker(m: dict[str, str]) -> Marker:
    return Marker(m["topic"], int(m["next"]), int(m["source_next"]), int(m["target"]))


def _sum(account_id: str, shards: dict[int, Shard]) -> Balance:
    some = next(iter(shards.values()))
    every = shards.values()
    limits = [s.min_available for s in every]
    return Balance(
        account_id=account_id,
        type=some.type,
        currency=some.currency,
        debits_pending=sum(s.debits_pending for s in every),
        debits_posted=sum(s.debits_posted for s in every),
        credits_pending=sum(s.credits_pending for s in every),
        credits_posted=sum(s.credits_posted for s in every),
        min_available=None if None in limits else sum(x for x in limits if x is not None),
        debits_blocked=any(s.debits_blocked for s in every),
        credits_blocked=any(s.credits_blocked for s in every),
        closed=all(s.closed for s in every),
        frozen=any(s.frozen for s in every),
        credit_limit=sum(s.credit_limit for s in every),
        offsets={p: s.source_offset for p, s in sorted(shards.items())},
    )


def _batches(keys: Iterator[str], size: int = 1000) -> Iterator[list[str]]:
    batch: list[str] = []
    for key in keys:
        batch.append(key)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
