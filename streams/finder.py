"""Commands that somebody else published, or that were answered before this process began: found by place or by id.

By place: in the journal, by halving. By id: ClickHouse says where, and what it does not have yet is read from the
journal's end. What is given back always comes from the journal itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar

from processors.finality import offset_of, speaks_for_key
from schemas.codec import UndecodableError
from schemas.errors import PartUnavailableError
from schemas.identity import command_id as command_id_of
from schemas.records import Command, JournalRecord
from sinks.clickhouse import ClickHouseConfig
from sinks.lookup import Lookup, Stored
from streams.calls import Found, Later, Place, Unsettled
from streams.clients import KafkaConfig
from streams.places import (
    CHUNK,
    Decode,
    KafkaLog,
    Log,
    Placed,
    find_outcome,
    holding,
    last_word,
    of_command,
    record_at,
)
from streams.reader import LogRecord
from streams.topics import Topics, topic_ids

T = TypeVar("T")
WAITING_MAX = 10_000


class Index(Protocol):
    """What ClickHouse knows: `sinks.lookup.Lookup`."""

    def ends(self) -> dict[int, int]: ...
    def by_command(self, command_id: bytes) -> list[Stored]: ...


class NoIndex:
    """Nothing is stored."""

    def ends(self) -> dict[int, int]:
        return {}

    def by_command(self, command_id: bytes) -> list[Stored]:
        return []

    def close(self) -> None:
        """There is nothing to close."""


class _Candidate(NamedTuple):
    """A journal record of the command that is looked for, by what decides whether it is the final one."""

    partition: int
    offset: int
    sequence: int
    outcome: str
    reason: str
    command: str

    @property
    def final(self) -> bool:
        """Whether it says what became of the command: no repeat, no other payload, no start between partitions."""
        return speaks_for_key(self.outcome, self.reason) or (
            self.outcome == "applied" and self.command != "Transaction"
        )

    @property
    def under_way(self) -> bool:
        return self.outcome == "applied" and self.command == "Transaction"


class Search:
    """The search itself, over a log and an index. Not thread-safe; blocks. `decode` raises UndecodableError."""

    def __init__(self, log: Log, index: Index, decode: Decode, topics: Topics, partitions: int) -> None:
        self._log = log
        self._index = index
        self._decode = decode
        self._journal, self._submitted = topics.journal, topics.submitted
        self._partitions = partitions
        self._ends: dict[int, int] | None = None  # as the index last said

    def at(self, partition: int, offset: int) -> Found | None:
        """The command at a place; of a repeat the first command under its key."""
        asked, placed = self._placed(partition, offset)
        if placed is None:
            return None
        r = placed.record
        if r.outcome == "repeated" and 0 <= r.first_offset < offset:
            return self.at(partition, r.first_offset)
        placed = last_word(self._log, self._decode, self._journal, partition, placed)
        return Found(placed.record, self._command(asked.value if asked is not None else None))

    def record(self, partition: int, offset: int) -> JournalRecord | None:
        """The journal record of the command at exactly this place, be it the last word or not."""
        _, placed = self._placed(partition, offset)
        return placed.record if placed is not None else None

    def later(self, partition: int, offset: int, name: bytes, most: int) -> Later:
        """Of the `most` journal records after that of the command at this place those that hold these bytes."""
        _, placed = self._placed(partition, offset)
        if placed is None:
            return Later([], True)
        return holding(self._log, self._decode, self._journal, partition, placed.offset + 1, name, most)

    def waiting(self, partition: int, command_id: bytes, most: int) -> Unsettled | None:
        """A command of this id that is in the log of a partition and has no outcome, among the `most` next ones. Raises
        PartUnavailableError when there are more of them: it may be one of those."""
        low, high = self._log.span(self._journal, partition)
        start = self._log.span(self._submitted, partition)[0]
        # The end may be markers of Kafka transactions only.
        for back in (CHUNK, 16 * CHUNK, 256 * CHUNK, 4096 * CHUNK, high - low):
            last: LogRecord | None = None
            for records in self._log.chunks(self._journal, {partition: max(low, high - back)}):
                last = records[-1]
            if last is not None:
                record: JournalRecord = self._decode(last.value)
                start = max(start, record.source_offset + 1)
                break
        seen, looked_to = 0, start
        chunks = self._log.chunks(self._submitted, {partition: start})
        try:
            for records in chunks:
                for r in records:
                    command = self._command(r.value)
                    if command is not None and command_id_of(command.partner_id, command.idempotency_key) == command_id:
                        return Unsettled(Place(partition, r.offset), command)
                seen, looked_to = seen + len(records), records[-1].offset + 1
                if seen >= most:
                    break
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        if seen >= most and looked_to < self._log.span(self._submitted, partition)[1]:
            why = f"more than {most} commands of partition {partition} have no outcome yet"
            raise PartUnavailableError("Settlement", self._submitted, why)
        return None

    def _placed(self, partition: int, offset: int) -> tuple[LogRecord | None, Placed | None]:
        """The command at a place, when the log keeps it, and its journal record, when there is one."""
        if not 0 <= partition < self._partitions or offset < 0:
            return None, None
        asked = record_at(self._log, self._submitted, partition, offset)
        time_ms = asked.timestamp_ms if asked is not None else -1
        return asked, find_outcome(self._log, self._decode, self._journal, partition, offset, time_ms)

    def by_id(self, command_id: bytes) -> Found | None:
        """The command of this id. When the index does not answer, only what it did not have when it last did is
        searched; what is not found there may be in what it has, so that raises PartUnavailableError."""
        away: PartUnavailableError | None = None
        candidates: list[_Candidate] = []
        try:
            self._ends = self._index.ends()  # first: what is stored after that is read once more, which does no harm
            candidates = [_candidate(s) for s in self._index.by_command(command_id)]
        except PartUnavailableError as e:
            away = e
            if self._ends is None:
                raise
        chosen = _final(candidates)
        if chosen is None:
            candidates += self._tail(command_id)
            chosen = _final(candidates) or min((c for c in candidates if c.under_way), default=None)
        if chosen is not None:
            return self._found(chosen)
        if away is not None:
            raise away
        return None

    def _tail(self, command_id: bytes) -> Iterable[_Candidate]:
        assert self._ends is not None
        starts = {p: self._ends.get(p, 0) for p in range(self._partitions)}
        starts = {p: max(start, self._log.span(self._journal, p)[0]) for p, start in starts.items()}
        return [
            _Candidate(placed.record.source_partition, placed.offset, *_words(placed.record))
            for placed in of_command(self._log, self._decode, self._journal, starts, command_id)
        ]

    def _found(self, c: _Candidate) -> Found | None:
        raw = record_at(self._log, self._journal, c.partition, c.offset)
        if raw is None:
            return None
        record: JournalRecord = self._decode(raw.value)
        if c.under_way:
            record = last_word(self._log, self._decode, self._journal, c.partition, Placed(c.offset, record)).record
        asked = record_at(self._log, self._submitted, c.partition, offset_of(record))
        return Found(record, self._command(asked.value if asked is not None else None))

    def _command(self, value: bytes | None) -> Command | None:
        try:
            command: Command | None = self._decode(value) if value is not None else None
        except UndecodableError:
            return None
        return command


def _words(r: JournalRecord) -> tuple[int, str, str, str]:
    return r.sequence, r.outcome, r.reason, r.command


def _candidate(s: Stored) -> _Candidate:
    return _Candidate(s.partition, s.offset, s.sequence, s.outcome, s.reason, s.command)


def _final(candidates: Iterable[_Candidate]) -> _Candidate | None:
    """The newest final record of each partition; of several partitions the first that rejected, else the first."""
    newest: dict[int, _Candidate] = {}
    for c in candidates:
        if c.final and (c.partition not in newest or c.sequence > newest[c.partition].sequence):
            newest[c.partition] = c
    return min(newest.values(), key=lambda c: (c.outcome != "rejected", c.partition), default=None)


class Finder:
    """Looks commands up in a running world, for an asyncio program. Each of `workers` threads has its own clients.

    Without a ClickHouse whoever asks by id has the whole journal read."""

    def __init__(
        self, kafka: KafkaConfig, clickhouse: ClickHouseConfig | None, topics: Topics, decode: Decode, partitions: int,
        workers: int = 2,
    ) -> None:  # fmt: skip
        self._kafka = kafka
        self._clickhouse = clickhouse
        self._topics = topics
        self._decode = decode
        self._partitions = partitions
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="finder")
        self._own = threading.local()
        self._opened: list[Any] = []
        self._looking = 0

    async def at(self, partition: int, offset: int) -> Found | None:
        """The command at a place of the log, once the journal has it. Raises PartUnavailableError."""
        return await self._run(lambda search: search.at(partition, offset))

    async def record(self, partition: int, offset: int) -> JournalRecord | None:
        """The journal record of the command at exactly this place. Raises PartUnavailableError."""
        return await self._run(lambda search: search.record(partition, offset))

    async def later(self, partition: int, offset: int, name: bytes, most: int) -> Later:
        """Of the `most` journal records after that of the command at this place those that hold these bytes. Raises
        PartUnavailableError."""
        return await self._run(lambda search: search.later(partition, offset, name, most))

    async def by_id(self, command_id: bytes) -> Found | None:
        """The command of this id. Raises PartUnavailableError."""
        return await self._run(lambda search: search.by_id(command_id))

    async def waiting(self, partition: int, command_id: bytes, most: int = WAITING_MAX) -> Unsettled | None:
        """A command of this id that is in the log of a partition and has no outcome yet, among the `most` that come
        next. Raises PartUnavailableError."""
        return await self._run(lambda search: search.waiting(partition, command_id, most))

    async def close(self) -> None:
        """Waits for what is being looked for, and ends."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        while self._looking:  # no pool of threads waits for it: that may be gone when a program ends
            await asyncio.sleep(0.005)
        for client in self._opened:
            client.close()

    async def __aenter__(self) -> Finder:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, what: Callable[[Search], T]) -> T:
        self._looking += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: what(self._search()))
        finally:
            self._looking -= 1

    def _search(self) -> Search:
        """This thread's own."""
        search: Search | None = getattr(self._own, "search", None)
        if search is None:
            journal = self._topics.journal
            ids = topic_ids(self._kafka, [journal]) if self._clickhouse is not None else {journal: ""}
            log, index = KafkaLog(self._kafka), self._index(f"{journal}@{ids[journal]}")
            self._opened += [log, index]
            search = self._own.search = Search(log, index, self._decode, self._topics, self._partitions)
        return search

    def _index(self, topic: str) -> Lookup | NoIndex:
        return Lookup(self._clickhouse, topic) if self._clickhouse is not None else NoIndex()
