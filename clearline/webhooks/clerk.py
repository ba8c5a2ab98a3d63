"""What is not urgent about the queue: filling it from the topic, sending dead ones again, and clearing away.

Each of these reads the topic anew, in a thread, and one is done after the other, so no two of them ever decide about
the same row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import msgspec
import structlog

from clearline.webhooks.queue import DEAD, HELD_MAX, PENDING, Queue
from schemas.records import Delivery, Notice, Record, Redelivery, Subscription
from streams.outbox import Outbox, Row, Write, delivery_key, last_rows
from streams.table import Table
from streams.topics import DAY_MS

log = structlog.get_logger()

DEAD_KEPT_MS = 30 * DAY_MS
CLEARED_S = 3_600.0  # from one clearing away to the next
_WRITES_MAX = 5_000


class Brief(NamedTuple):
    """What is remembered of a delivery's row while the topic is read: its body stays there."""

    offset: int
    number: int
    subscription_id: str
    state: str
    died_at: int


class Desk(Protocol):
    """What a session lends: the queue and its topic, the subscriptions, and the way to write."""

    queue: Queue
    outbox: Outbox
    access: Table
    subscriptions: dict[str, Subscription]
    numbers: dict[int, int]

    def requests(self) -> list[Redelivery]: ...
    def now_ms(self) -> int: ...
    def partition_of(self, subscription_id: str) -> int | None: ...
    def wake(self) -> None: ...
    async def write(self, writes: list[Write]) -> list[int]: ...


def brief(row: Row) -> Brief | Record:
    """A row as far as it is kept in memory."""
    d = row.row
    return Brief(row.offset, d.number, d.subscription_id, d.state, d.died_at) if isinstance(d, Delivery) else d


class Clerk:
    """`news`: set when there may be something to do; `closed`: rows may be left of subscriptions that are gone."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.news = asyncio.Event()
        self.closed = False

    async def fill(self, found: Mapping[tuple[int, str], Brief | Record]) -> None:
        """Puts what the topic holds into an empty queue, of each subscription the first ones with their bodies."""
        queue = self._desk.queue
        pending: dict[tuple[int, str], list[Brief]] = {}
        for (partition, _), b in found.items():
            if isinstance(b, Brief) and b.subscription_id not in self._desk.subscriptions:
                self.closed = True
            elif isinstance(b, Brief) and b.state == DEAD:
                queue.dead += 1
            elif isinstance(b, Brief):
                pending.setdefault((partition, b.subscription_id), []).append(b)
        wanted: dict[int, set[int]] = {}
        for (partition, _), briefs in pending.items():
            briefs.sort(key=lambda b: b.number)
            wanted.setdefault(partition, set()).update(b.offset for b in briefs[:HELD_MAX])
        held = await asyncio.to_thread(self._at, wanted)
        for d in sorted(held, key=lambda d: d.number):
            queue.put(d, 0)
        self.news.set()
        for (_, name), briefs in pending.items():
            if len(briefs) > HELD_MAX:
                queue.spill(name, briefs[HELD_MAX].offset, len(briefs) - HELD_MAX)

    def _at(self, wanted: Mapping[int, set[int]]) -> list[Delivery]:
        start = {p: min(offsets) for p, offsets in wanted.items()}
        rows = self._desk.outbox.rows(start) if start else iter(())
        return [
            r.row
            for r in rows
            if isinstance(r, Row) and isinstance(r.row, Delivery) and r.offset in wanted[r.partition]
        ]

    async def work(self) -> None:
        """Does what there is to do, again and again."""
        cleared = asyncio.get_running_loop().time()
        while True:
            try:
                async with asyncio.timeout(60):
                    await self.news.wait()
            except TimeoutError:
                pass
            self.news.clear()
            requests = self._desk.requests()
            if requests:
                await self._redeliver(requests)
            for name, offset, number, room in self._desk.queue.short():
                await self._refill(name, offset, number, room)
            now = asyncio.get_running_loop().time()
            if self.closed or now - cleared > CLEARED_S:
                self.closed, cleared = False, now
                await self._clear()

    async def _refill(self, name: str, offset: int, number: int, room: int) -> None:
        partition = self._desk.partition_of(name)
        if partition is None:
            return
        rows = await asyncio.to_thread(self._following, partition, name, offset, number, room)
        if not rows:
            log.error("spilled rows are not in the topic", subscription=name, offset=offset)
        self._desk.queue.refill(name, [d for d, _ in rows], rows[-1][1] + 1 if rows else offset)
        self._desk.wake()

    def _following(self, partition: int, name: str, offset: int, number: int, room: int) -> list[tuple[Delivery, int]]:
        """Pending rows of a subscription from an offset on, at most `room`, with their offsets."""
        out: list[tuple[Delivery, int]] = []
        for r in self._desk.outbox.rows({partition: offset}):
            d = r.row if isinstance(r, Row) else None
            if isinstance(d, Delivery) and d.subscription_id == name and d.number > number and d.state == PENDING:
                assert isinstance(r, Row)
                out.append((d, r.offset))
                if len(out) == room:
                    break
        return out

    async def _redeliver(self, requests: Iterable[Redelivery]) -> None:
        """Dead rows that are asked for stand at the end of their lines again; pending ones are due at once."""
        asked = {r.delivery_id: r for r in requests}
        found = await asyncio.to_thread(self._named, set(asked))
        now = self._desk.now_ms()
        for (partition, _), d in sorted(found.items(), key=lambda item: item[1].number):
            if d.subscription_id not in self._desk.subscriptions:
                continue
            if d.state == PENDING:
                self._desk.queue.hasten(d, now)
                continue
            number = self._desk.numbers[partition]
            self._desk.numbers[partition] = number + 1
            row = msgspec.structs.replace(
                d, number=number, state=PENDING, attempts=0, next_at=now, queued_at=now, died_at=0
            )
            offsets = await self._desk.write([Write(partition, delivery_key(d.delivery_id), row)])
            self._desk.queue.dead -= 1
            if d.subscription_id in self._desk.subscriptions:
                self._desk.queue.put(row, offsets[0])
        for delivery_id in asked:
            await asyncio.to_thread(self._desk.access.put, f"r:{delivery_id}", None)
        self._desk.wake()

    def _named(self, ids: set[str]) -> dict[tuple[int, str], Delivery]:
        """The rows of these deliveries as they stand."""
        keys = {delivery_key(i) for i in ids}
        rows = (r for r in self._desk.outbox.rows() if (r.key if isinstance(r, Row) else r[1]) in keys)
        return {at: r for at, r in last_rows(rows, lambda r: r.row).items() if isinstance(r, Delivery)}

    async def _clear(self) -> None:
        """Deletes rows of subscriptions that are gone, and dead ones that were kept for long enough."""
        found = await asyncio.to_thread(lambda: last_rows(self._desk.outbox.rows(), brief))
        oldest = self._desk.now_ms() - DEAD_KEPT_MS
        gone: list[Write] = []
        for (partition, key), b in found.items():
            if not isinstance(b, Brief | Notice):
                continue
            unwanted = b.subscription_id not in self._desk.subscriptions
            if unwanted or (isinstance(b, Brief) and b.state == DEAD and b.died_at < oldest):
                gone.append(Write(partition, key, None))
                self._desk.queue.dead -= isinstance(b, Brief) and b.state == DEAD
        for i in range(0, len(gone), _WRITES_MAX):
            await self._desk.write(gone[i : i + _WRITES_MAX])
        if gone:
            log.info("cleared away", rows=len(gone))
