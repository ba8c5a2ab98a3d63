"""The auditor's eyes on ClickHouse and Redis: plain queries, nothing of what the sinks compute."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from clearline.audit.views import StoredBalance, StoredChange, StoredOutcome, StoredPosting
from sinks.balances import Balances, RedisConfig
from sinks.clickhouse import ClickHouseConfig, Database

OFFSETS_PER_QUERY = 200_000
_TIMES = "value_day, toInt32(value_date), toUnixTimestamp64Milli(booked_at)"
_POSTING = (
    "source_offset, line, account_id, toString(side), amount, currency, debits_posted, credits_posted, debits_pending, "
    f"credits_pending, partner_id, product, operation, reference, lower(hex(command_id)), {_TIMES}, sequence, offset"
)
_OUTCOME = (
    "source_offset, sequence, outcome, reason, command, partner_id, idempotency_key, lower(hex(command_id)), product, "
    "product_version, operation, reference, metadata, detail, changes, first_offset, subject_id, legs, "
    f"lower(hex(chain)), {_TIMES}, offset"
)
_CHANGE = "source_offset, sequence, command, partner_id, subject_id, changes, toUnixTimestamp64Milli(booked_at), offset"
_JSON_FIRST, _JSON_LAST, _CHANGES = 12, 14, 5  # places of the columns that hold JSON
_BELOW = "topic = %(topic)s AND partition = %(p)s AND source_offset >= %(from)s AND source_offset < %(to)s"
_BOTH_SIDES = "sumIf(amount, side = 'debit'), sumIf(amount, side = 'credit')"


class ClickHouseEntries:
    """The entries of one journal. `topic`: its name and id as the rows carry them, `name@id`."""

    def __init__(self, config: ClickHouseConfig, topic: str) -> None:
        self._config = config
        self._topic = topic

    def position(self, partition: int) -> int:
        """First journal offset without an outcome."""
        query = "SELECT count(), max(offset) FROM {db}.outcomes WHERE topic = %(topic)s AND partition = %(p)s"
        ((count, last),) = self._ask(query, partition)
        return last + 1 if count else 0

    def outcomes(self, partition: int, start: int, end: int) -> Iterator[StoredOutcome]:
        """Every stored copy, in order of source offset."""
        for row in self._in_pieces(f"SELECT {_OUTCOME} FROM {{db}}.outcomes", "source_offset", partition, start, end):
            maps = [_map(text) for text in row[_JSON_FIRST : _JSON_LAST + 1]]
            yield StoredOutcome._make((*row[:_JSON_FIRST], *maps, *row[_JSON_LAST + 1 :]))

    def postings(self, partition: int, start: int, end: int) -> Iterator[StoredPosting]:
        """Every stored copy, in order of source offset and line."""
        order = "source_offset, line"
        for row in self._in_pieces(f"SELECT {_POSTING} FROM {{db}}.postings", order, partition, start, end):
            yield StoredPosting._make(row)

    def changes(self, partition: int, start: int, end: int) -> Iterator[StoredChange]:
        """Every stored copy, in order of source offset and subject."""
        query = f"SELECT {_CHANGE} FROM {{db}}.control_changes"
        for row in self._in_pieces(query, "source_offset, subject_id", partition, start, end):
            yield StoredChange._make((*row[:_CHANGES], _map(row[_CHANGES]), *row[_CHANGES + 1 :]))

    def dead_letters(self, partition: int) -> int:
        """How many places of the dead letters' topic are stored, whichever incarnation of the topic they are of."""
        query = "SELECT uniqExact(topic, partition, offset) FROM {db}.dead_letters WHERE source_partition = %(p)s"
        return int(self._ask(query, partition)[0][0])

    def records_below(self, partition: int, offset: int) -> int:
        """How many outcomes are stored of source offsets below this one."""
        rows = self._ask(f"SELECT count() FROM {{db}}.outcomes WHERE {_BELOW}", partition, 0, offset)
        return int(rows[0][0])

    def totals_below(self, partition: int, offset: int) -> dict[str, tuple[int, int]]:
        """Debits and credits by currency, minor units."""
        query = f"SELECT currency, {_BOTH_SIDES} FROM {{db}}.postings WHERE {_BELOW} GROUP BY currency"
        return {str(c): (int(d), int(k)) for c, d, k in self._ask(query, partition, 0, offset)}

    def accounts_below(self, partition: int, offset: int) -> dict[str, tuple[int, int]]:
        """Debits and credits by account, minor units."""
        query = f"SELECT account_id, {_BOTH_SIDES} FROM {{db}}.postings WHERE {_BELOW} GROUP BY account_id"
        return {str(a): (int(d), int(k)) for a, d, k in self._ask(query, partition, 0, offset)}

    def postings_of(self, partition: int, account: str, offset: int) -> list[StoredPosting]:
        """One account's postings in order."""
        where = f"{_BELOW} AND account_id = %(account)s ORDER BY source_offset, line"
        rows = self._ask(f"SELECT {_POSTING} FROM {{db}}.postings WHERE {where}", partition, 0, offset, account)
        return [StoredPosting._make(row) for row in rows]

    def _in_pieces(self, query: str, order: str, partition: int, start: int, end: int) -> Iterator[tuple[Any, ...]]:
        """Rows by ranges of offsets, so that neither side ever sorts or holds more than one range."""
        for low in range(start, end + 1, OFFSETS_PER_QUERY):
            high = low + OFFSETS_PER_QUERY if low + OFFSETS_PER_QUERY <= end else 2**63  # what is beyond the end, too
            yield from self._ask(f"{query} WHERE {_BELOW} ORDER BY {order}", partition, low, high)

    def _ask(self, query: str, partition: int, low: int = 0, high: int = 0, account: str = "") -> list[tuple[Any, ...]]:
        """A connection per question: the merge asks two tables in turn, and a server may die in between."""
        database = Database(self._config)
        try:
            parameters = {"topic": self._topic, "p": partition, "from": low, "to": high, "account": account}
            return database.rows(query.replace("{db}", database.name), parameters)
        finally:
            database.close()


def _map(text: str) -> dict[str, str]:
    """A map of text from its JSON; empty for none. What is not such a map is returned as one that no record has."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"": f"not a map: {text[:100]}"}


class RedisBalances:
    """The balances of one world. An account that is not whole yet (after FLUSHALL) is simply not there."""

    def __init__(self, config: RedisConfig) -> None:
        self._config = config

    def position(self, partition: int) -> int:
        """First offset of the submitted topic that is not projected; 0 while the projection is built up again."""
        balances = Balances(self._config)
        try:
            marker = balances.marker([partition]).get(partition)
            return marker.source_next if marker is not None and marker.complete else 0
        finally:
            balances.close()

    def balances(self, partition: int) -> dict[str, StoredBalance]:
        """Every account of the partition."""
        balances = Balances(self._config)
        try:
            return {a: StoredBalance(*shard) for a, shard in balances.shards(partition).items()}
        finally:
            balances.close()
