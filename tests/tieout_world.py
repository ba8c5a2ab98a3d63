"""A world for the tie-out: a journal made from the schemas, both real stores filled with it, and a source over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np

from clearline.audit.continuous.machine import Machine, Options, Word
from schemas.records import AccountState, PartitionState
from sinks.balances import Balances, RedisConfig, encode_shard
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.columnar import decode_journal
from sinks.ledger_sink import Arrival, LedgerSink
from sinks.rows import JournalRows
from tests.journals import Line, Maker, local_codec

JOURNAL, STATE = "test.journal@one", "test.ledger.state@one"


class MemorySource:
    """Journal and ledger.state in memory; `shown` says how much of each partition of the journal is visible."""

    journal_topic, state_topic = JOURNAL, STATE

    def __init__(self, partitions: int) -> None:
        self.partitions = list(range(partitions))
        self.journal: dict[int, list[Line]] = {p: [] for p in self.partitions}
        self.state: dict[int, list[tuple[int, AccountState | PartitionState]]] = {p: [] for p in self.partitions}
        self._at: dict[int, int] = {}
        self._state_at: dict[int, int] = {}
        self.reread = 0

    def open(self, journal: Mapping[int, int], state: Mapping[int, int]) -> None:
        self._at, self._state_at = dict(journal), dict(state)

    def journal_ends(self) -> dict[int, int]:
        return {p: lines[-1].offset + 1 if lines else 0 for p, lines in self.journal.items()}

    def state_ends(self) -> dict[int, int]:
        return {p: len(rows) for p, rows in self.state.items()}

    def poll_journal(self, timeout_s: float) -> tuple[JournalRows | None, dict[int, int]]:
        lines = [x for p in self.partitions for x in self.journal[p] if x.offset >= self._at.get(p, 0)]
        self._at = self.journal_ends()
        return (rows_of(lines) if lines else None), dict(self._at)

    def poll_state(
        self, timeout_s: float
    ) -> tuple[list[tuple[int, int, AccountState | PartitionState]], dict[int, int], set[int]]:
        found = [(p, o, row) for p, rows in self.state.items() for o, row in rows if o >= self._state_at.get(p, 0)]
        self._state_at = self.state_ends()
        return found, dict(self._state_at), set(self.partitions)

    def again(self, partition: int, first: int, end: int) -> Iterable[JournalRows]:
        self.reread += 1
        lines = [x for x in self.journal[partition] if first <= x.offset < end]
        return [rows_of(lines)] if lines else []


def rows_of(lines: list[Line]) -> JournalRows:
    columns = decode_journal([x.value for x in lines], local_codec())
    places = np.array([(x.partition, x.offset) for x in lines], dtype=np.int64)
    return JournalRows(JOURNAL.encode(), 0, places[:, 0], places[:, 1], columns)


class TieOutWorld:
    """Journal, stores and machine. `grow` books records; `sink` brings the stores up to them."""

    def __init__(self, clickhouse: ClickHouseConfig, redis: RedisConfig, seed: int = 1, **maker: Any) -> None:
        self.clickhouse, self.redis = clickhouse, redis
        self.maker = Maker(seed, **maker)
        self.source = MemorySource(self.maker.partitions)
        self.ledger_sink = LedgerSink(clickhouse, JOURNAL, local_codec())
        self.balances = Balances(redis)
        self._applied = dict.fromkeys(self.source.partitions, 0)
        self._sunk = dict.fromkeys(self.source.partitions, 0)
        self._states: dict[tuple[int, str], AccountState] = {}

    def grow(self, count: int) -> list[Line]:
        """Books records: they are in the journal and in ledger.state, and in no store."""
        lines = self.maker.lines(count)
        for x in lines:
            self.source.journal[x.partition].append(x)
        for (p, name), a in self.maker.accounts.items():
            if self._states.get((p, name)) != a:
                self._states[p, name] = a
                self.source.state[p].append((len(self.source.state[p]), a))
        for p, head in self.maker.heads.items():
            self.source.state[p].append((len(self.source.state[p]), head))
        return lines

    def fill(self, batch: int = 500) -> None:
        """Both sinks come up to the journal's end."""
        self.fill_clickhouse(batch)
        self.fill_redis()

    def fill_clickhouse(self, batch: int = 500) -> None:
        if not self.ledger_sink.run:
            self._sunk = {p: self.ledger_sink.take_over().get(p, 0) for p in self.source.partitions}
        todo = [
            Arrival(x.partition, x.offset, x.value)
            for p, lines in self.source.journal.items() for x in lines if x.offset >= self._sunk[p]
        ]  # fmt: skip
        for i in range(0, len(todo), batch):
            self.ledger_sink.write(todo[i : i + batch])
        self._sunk = self.source.journal_ends()

    def fill_redis(self, only: Iterable[int] | None = None) -> None:
        for p in self.source.partitions if only is None else only:
            markers = self.balances.marker([p])
            rows = self.source.state[p]
            if p not in markers:
                self.balances.begin(p, STATE, len(rows))
                self._applied[p] = 0
            fresh = rows[self._applied[p] :]
            values = {a.account_id: encode_shard(a) for _, a in fresh if isinstance(a, AccountState)}
            heads = [h.next_offset for _, h in fresh if isinstance(h, PartitionState)]
            self.balances.apply(p, STATE, self._applied[p], len(rows), max(heads, default=0), values)
            self._applied[p] = len(rows)

    def rewind_redis(self, partition: int) -> None:
        """The sink sees a marker that was set back."""
        self._applied[partition] = 0

    def machine(self, options: Options | None = None) -> Machine:
        m = Machine(self.clickhouse, self.redis, options)
        m.open(self.source)
        return m

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """A statement by hand."""
        db = Database(self.clickhouse)
        try:
            return db.rows(query)
        finally:
            db.close()

    def every(self) -> JournalRows:
        """The whole journal."""
        return rows_of([x for lines in self.source.journal.values() for x in lines])

    def close(self) -> None:
        self.ledger_sink.close()
        self.balances.close()


def said(machine: Machine, rounds: int = 1) -> Word:
    """What the machine says after it has read everything."""
    for _ in range(rounds):
        while machine.read(0.0):
            pass
        word = machine.round()
    return word


def altered(a: AccountState, **fields: Any) -> AccountState:
    return msgspec.structs.replace(a, **fields)
