"""Balances compared in Redis itself: the texts that must be there go in, only those that differ come out.

So looking at every account costs the network and the server as little as writing it once, and what is compared and the
marker that says how far Redis is in are of one moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sinks.balances import Balances, Marker, Shard, decode_shard

ACCOUNTS_PER_SCRIPT = 500
NAMES_PER_SCAN = 2_000

# KEYS: the marker, then accounts. ARGV: the partition, then the texts. Answers the marker and, for each account whose
# text is another one, its number from 1 and what is there (nothing: empty; another type of key: an error's text).
_COMPARE = """
local m = redis.pcall('HMGET', KEYS[1], 'topic', 'next', 'source_next', 'target')
local out = {m.err or m[1] or '', m[2] or '', m[3] or '', m[4] or ''}
for i = 2, #KEYS do
  local have = redis.pcall('HGET', KEYS[i], ARGV[1])
  if type(have) == 'table' then have = 'no hash' end
  if have ~= ARGV[i] then
    out[#out + 1] = i - 1
    out[#out + 1] = have or ''
  end
end
return out
"""

# ARGV: cursor, pattern, count. Answers the next cursor, then each key and how many fields it has.
_NAMES = """
local found = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local out = {found[1]}
for _, key in ipairs(found[2]) do
  local fields = redis.pcall('HLEN', key)
  out[#out + 1] = key
  out[#out + 1] = type(fields) == 'number' and fields or -1
end
return out
"""

# KEYS: an account. ARGV: partition, what was seen there, what must be there (empty: nothing). Answers 1 when it did it.
_REPAIR = """
local have = redis.pcall('HGET', KEYS[1], ARGV[1])
if type(have) == 'table' then redis.call('UNLINK', KEYS[1]) have = 'no hash' end
if (have or '') ~= ARGV[2] then return 0 end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
return 1
"""

# KEYS: accounts. ARGV: the partition, then the texts. Answers how many were written: one that stands at a newer offset
# is the sink's own and stays. Every account is there at every moment.
_OVERWRITE = """
local written = 0
for i = 1, #KEYS do
  local have = redis.pcall('HGET', KEYS[i], ARGV[1])
  if type(have) == 'table' then redis.call('UNLINK', KEYS[i]) have = false end
  local at = have and tonumber(string.match(have, '^%d+'))
  if not at or at <= tonumber(string.match(ARGV[i + 1], '^%d+')) then
    redis.call('HSET', KEYS[i], ARGV[1], ARGV[i + 1])
    written = written + 1
  end
end
return written
"""


class Unlike(NamedTuple):
    """An account whose text in Redis is not the one that was given. `found`: what is there; empty for nothing."""

    account: str
    text: str
    found: str


class Compared(NamedTuple):
    """Some accounts of a partition and its marker, at one moment. `marker` None: there is none, or it says nothing."""

    marker: Marker | None
    unlike: list[Unlike]


def shard_of(text: str) -> Shard | None:
    """The shard in a text of Redis; None when it is none."""
    try:
        return decode_shard(text)
    except (ValueError, TypeError):
        return None


class BalanceCheck(Balances):
    """Redis as the tie-out sees it. Every call raises PartUnavailableError when it does not answer."""

    def compare(self, partition: int, accounts: Sequence[tuple[str, str]]) -> list[Compared]:
        """Compares accounts (id, text as `encode_shard` makes it); an answer for each ACCOUNTS_PER_SCRIPT of them."""
        pieces = [accounts[i : i + ACCOUNTS_PER_SCRIPT] for i in range(0, len(accounts), ACCOUNTS_PER_SCRIPT)] or [[]]
        with self._errors():
            pipe = self._redis.pipeline(transaction=False)
            for piece in pieces:
                keys = [self._marker(partition), *(self._account(a) for a, _ in piece)]
                pipe.eval(_COMPARE, len(keys), *keys, partition, *(text for _, text in piece))
            answers = pipe.execute()
        return [self._compared(piece, answer) for piece, answer in zip(pieces, answers, strict=True)]

    def _compared(self, piece: Sequence[tuple[str, str]], answer: list[Any]) -> Compared:
        topic, *numbers = answer[:4]
        marker = None
        if topic and all(str(n).isdigit() for n in numbers):
            marker = Marker(topic, *(int(n) for n in numbers))
        found = zip(answer[4::2], answer[5::2], strict=True)
        return Compared(marker, [Unlike(*piece[int(i) - 1], str(have)) for i, have in found])

    def names(self, cursor: str) -> tuple[str, list[tuple[str, int]]]:
        """The next account ids of a walk over all of them (some may come twice) with the number of their fields, -1 for
        what is no hash; and the cursor to go on from, `0` at the start and when the walk is through."""
        with self._errors():
            cursor, *found = self._redis.eval(_NAMES, 0, cursor, self._account("*"), NAMES_PER_SCAN)
        prefix = len(self._account(""))
        return str(cursor), [(str(k)[prefix:], int(n)) for k, n in zip(found[::2], found[1::2], strict=True)]

    def shard_texts(self, accounts: Sequence[str]) -> dict[str, dict[str, str]]:
        """Every field of these accounts, by account; a key that is no hash has the field `no hash`."""
        with self._errors():
            pipe = self._redis.pipeline(transaction=False)
            for account in accounts:
                pipe.hgetall(self._account(account))
            found = pipe.execute(raise_on_error=False)
        return {a: f if isinstance(f, dict) else {"no hash": ""} for a, f in zip(accounts, found, strict=True)}

    def repair(self, partition: int, account: str, found: str, text: str) -> bool:
        """Puts `text` (empty: nothing) where `found` stands; False when something else stands there by now."""
        with self._errors():
            done = self._redis.eval(_REPAIR, 1, self._account(account), partition, found, text)
        return bool(done)

    def overwrite(self, partition: int, accounts: Sequence[tuple[str, str]]) -> int:
        """Writes accounts (id, text) over what is there, unless that is newer; returns how many. At most
        ACCOUNTS_PER_SCRIPT at once."""
        keys = [self._account(a) for a, _ in accounts]
        with self._errors():
            return int(self._redis.eval(_OVERWRITE, len(keys), *keys, partition, *(text for _, text in accounts)))

    def drop_field(self, account: str, field: str) -> None:
        """Takes out what is no partition's shard."""
        with self._errors():
            if field == "no hash":
                self._redis.unlink(self._account(account))
            else:
                self._redis.hdel(self._account(account), field)
