"""The role `webhooks`: reads journal and state, queues what subscriptions are to be told, and sends it.

Decisions are made elsewhere, without I/O (`events`, `alerts`, `queue`); here they meet Kafka and the network. All
writes of a slot go through one coroutine that commits whatever has come together in one Kafka transaction. A session
ends with the first error of Kafka, and the next one reads everything again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from clearline.config import Settings
from clearline.connection import kafka_config, registry_of
from clearline.metrics import metrics_address
from clearline.vault import vault_of
from clearline.webhooks.alerts import Alerts, Told
from clearline.webhooks.clerk import Brief, Clerk, brief
from clearline.webhooks.events import asked_at, events_of
from clearline.webhooks.interest import Event, Interest, since
from clearline.webhooks.queue import DEAD, PENDING, Queue, QueueOptions
from clearline.webhooks.sender import Sender
from schemas.codec import Codec, UndecodableError
from schemas.errors import ClearlineError, InvariantError, PartUnavailableError
from schemas.failpoints import failpoint
from schemas.identity import partition_of
from schemas.records import Command, Delivery, JournalRecord, Notice, Record, Redelivery, Subscription, WebhookProgress
from streams.outbox import (
    PROGRESS,
    Ends,
    FencedOutError,
    Outbox,
    Report,
    Sources,
    Write,
    delivery_key,
    last_rows,
    notice_key,
    partitions_of_slot,
    stop_on_signals,
)
from streams.reader import LogRecord
from streams.registry import Registry, learn_schemas
from streams.report import served
from streams.table import Table
from streams.topics import DAY_MS, Topics

log = structlog.get_logger()

READ_MAX = 2_000
THREADS = 80
IDLE_S = 0.1
PROGRESS_S = 5.0  # how often the place is written where nothing else is
RETRY_S_MAX = 5.0


def now_ms() -> int:
    """This machine's clock, milliseconds UTC."""
    return int(time.time() * 1000)


def queue_options(settings: Settings) -> QueueOptions:
    """How the queue retries, from the settings."""
    w = settings.webhooks
    return QueueOptions(int(w.first_retry_s * 1000), int(w.give_up_days * DAY_MS), w.concurrency)


def run(settings: Settings, slot: int, ready_file: Path | None, report_interval_s: float = 1.0) -> None:
    """Blocks until SIGTERM or SIGINT. Waits out what does not answer.

    Raises FencedOutError when another worker took the slot over, BadInputError when there is no master key.
    """
    stop = stop_on_signals()
    report = Report("webhooks", ready_file, report_interval_s)
    vault = vault_of(settings)
    with served(report, metrics_address(settings, "webhooks", slot), f"webhooks-{slot}"):
        asyncio.run(
            _keep_running(lambda: Session(settings, slot, report, Sender(settings.webhooks, vault)), report, stop)
        )


async def _keep_running(make: Callable[[], Session], report: Report, stop: Any) -> None:
    # Names are looked up in threads, too, some of them slowly: Kafka must never wait for those.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    pause = 0.1
    while not stop.is_set():
        began = time.monotonic()
        try:
            await make().run(stop)
        except Exception as e:
            if isinstance(e, ClearlineError) and not isinstance(e, PartUnavailableError):
                raise
            pause = 0.1 if time.monotonic() - began > 10 else min(RETRY_S_MAX, pause * 2)
            report.wait(e, f"{type(e).__name__}: {e}")
            log.warning("webhooks wait", why=str(e), retry_s=round(pause, 2), error=type(e).__name__)
            await asyncio.to_thread(stop.wait, pause * random.uniform(0.7, 1.3))


class Session:
    """One stretch of work, from the fence to the first error or the end."""

    def __init__(self, settings: Settings, slot: int, report: Report, sender: Sender) -> None:
        self.settings = settings
        self.slot = slot
        self.report = report
        self.sender = sender
        self.queue = Queue(queue_options(settings), lambda: random.uniform(0.8, 1.2))
        self.subscriptions: dict[str, Subscription] = {}
        self.interest: dict[int, Interest] = {}
        self.alerts: dict[int, Alerts] = {}
        self.numbers: dict[int, int] = {}
        self.outbox: Outbox
        self.access: Table
        self.clerk = Clerk(self)
        self._sources: Sources
        self._progress: dict[int, WebhookProgress] = {}
        self._progress_at = time.monotonic()
        self._writes: list[Write] = []
        self._written: list[tuple[int, asyncio.Future[list[int]]]] = []
        self._to_write = asyncio.Event()
        self._wake = asyncio.Event()
        self._access_changed = True
        self._told_at = 0.0
        self._failed: BaseException | None = None
        self._attempts: set[asyncio.Task[None]] = set()

    async def run(self, stop: Any) -> None:
        """Until `stop` is set. Raises what ends a session."""
        try:
            await self._start()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(c) for c in (self._read(), self._commit(), self._send(), self.clerk.work())]
                while not stop.is_set():
                    await asyncio.sleep(0.05)
                for t in tasks:
                    t.cancel()
        except BaseExceptionGroup as e:
            raise _first(e) from None
        finally:
            for t in self._attempts:
                t.cancel()
            await self.sender.close()
            await asyncio.to_thread(self._close)

    # ---- start ---------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()

        def changed(key: str, _row: Record | None) -> None:
            if key[:2] in ("s:", "r:") and not loop.is_closed():
                loop.call_soon_threadsafe(self._access_news)

        found = await asyncio.to_thread(self._open, changed)
        self._follow_access()
        await self.clerk.fill(found)
        failpoint("webhooks.after_rebuild")

    def _open(self, changed: Callable[[str, Record | None], None]) -> dict[tuple[int, str], Brief | Record]:
        kafka, topics, registry = kafka_config(self.settings), Topics(self.settings.world), registry_of(self.settings)
        mine = partitions_of_slot(self.settings.partitions, self.slot, self.settings.webhooks.instances)
        self.outbox = Outbox(kafka, topics, registry, self.slot, mine)
        notices: dict[int, list[Notice]] = {p: [] for p in mine}
        found = last_rows(self.outbox.rows(), brief)
        for (partition, _), row in found.items():
            if isinstance(row, WebhookProgress):
                self._progress[partition] = row
            elif isinstance(row, Notice):
                notices[partition].append(row)
        self.alerts = {p: Alerts(notices[p]) for p in mine}
        self.numbers = {p: self._progress[p].next_number if p in self._progress else 1 for p in mine}
        for (p, _), row in found.items():  # one that was sent again has its number before any progress is written
            if isinstance(row, Brief):
                self.numbers[p] = max(self.numbers[p], row.number + 1)
        self.access = Table(
            kafka, topics.access, self.outbox.codec, changed, partial(_learn, self.outbox.codec, registry)
        )
        verified = [since(s) for _, s in self.access.items("s:") if isinstance(s, Subscription) and s.verified_at]
        self._sources = self.outbox.sources(self._progress, min(verified) if verified else None)
        self.report.ends = Ends(kafka, topics.journal, mine)
        return found

    def _close(self) -> None:
        ends, self.report.ends = self.report.ends, None
        for part in (ends, *(getattr(self, name, None) for name in ("_sources", "access", "outbox"))):
            if part is not None:
                part.close()  # type: ignore[union-attr]

    # ---- subscriptions -------------------------------------------------------------------------------------------

    def _access_news(self) -> None:
        self._access_changed = True
        self.clerk.news.set()
        self._wake.set()

    def _follow_access(self) -> None:
        """Takes the subscriptions as they are now, if they may have changed."""
        if not self._access_changed:
            return
        self._access_changed = False
        unreadable = [why for key, why in self.access.unreadable.items() if key.startswith("s:")]
        if unreadable:  # its events would be passed over, and its rows cleared away: better all wait, and say why
            raise PartUnavailableError("Kafka", "the table of subscriptions", unreadable[0])
        rows = [s for _, s in self.access.items("s:") if isinstance(s, Subscription)]
        place = {s.subscription_id: partition_of(s.partner_id, self.settings.partitions) for s in rows}
        mine = {s.subscription_id: s for s in rows if place[s.subscription_id] in self.alerts}
        kept = {name: s for name, s in mine.items() if s.state != "deleted"}
        for name in self.subscriptions.keys() - kept.keys():
            self.queue.drop(name)
            self.clerk.closed = True
            self.clerk.news.set()
        self.subscriptions = kept
        for name, s in kept.items():
            self.queue.set_open(name, s.state == "verified")
        for p, alerts in self.alerts.items():
            self.interest[p] = Interest(s for name, s in kept.items() if place[name] == p)
            alerts.follow(self.interest[p])

    def now_ms(self) -> int:
        """This machine's clock, milliseconds UTC."""
        return now_ms()

    def partition_of(self, subscription_id: str) -> int | None:
        """The partition of a subscription's partner; None when it is gone."""
        s = self.subscriptions.get(subscription_id)
        return partition_of(s.partner_id, self.settings.partitions) if s is not None else None

    def wake(self) -> None:
        """Something may be due."""
        self._wake.set()

    def requests(self) -> list[Redelivery]:
        """What somebody asks to be sent again, of this slot's partitions."""
        return [r for _, r in self.access.items("r:") if isinstance(r, Redelivery) and r.partition in self.alerts]

    # ---- writing -------------------------------------------------------------------------------------------------

    async def write(self, writes: list[Write]) -> list[int]:
        """Has rows written, in the order of the calls; returns their offsets when they are committed."""
        done: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._writes += writes
        self._written.append((len(writes), done))
        self._to_write.set()
        return await done

    async def _commit(self) -> None:
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            writes, self._writes = self._writes, []
            written, self._written = self._written, []
            offsets = await asyncio.to_thread(self.outbox.write, writes)
            at = 0
            for count, done in written:
                if not done.done():
                    done.set_result(offsets[at : at + count])
                at += count

    def delivery(self, partition: int, e: Event, now: int) -> Delivery:
        """A new row of the queue, with the next number."""
        number = self.numbers[partition]
        self.numbers[partition] = number + 1
        return Delivery(
            e.event_id, e.subscription_id, number, e.ordering, e.type, e.body, PENDING, 0, now, now, now, 0, "", 0,
            e.sequence,
        )  # fmt: skip

    # ---- reading -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            records, rows = await asyncio.to_thread(self._sources.poll, READ_MAX, IDLE_S)
            if records:
                failpoint("webhooks.after_read")
            self._follow_access()
            told: dict[int, list[Told]] = {p: [] for p in self.alerts}
            self._take_state(rows, told)
            heard = self._heard(records)
            self._take_journal(heard, await self._asked(heard), told)
            self._take_time(told)
            await self._queue(told)
            self.report.records += len(records)
            if time.monotonic() - self._told_at >= self.report.interval_s:
                self._told_at = time.monotonic()
                await asyncio.to_thread(self._tell)  # it asks the broker for the journal's end

    def _take_state(self, rows: list[LogRecord], told: dict[int, list[Told]]) -> None:
        for r in rows:
            row = self.outbox.decode(r.value) if r.value is not None else None
            live = r.offset >= self._sources.live[r.partition]
            key = (r.key or b"").decode("utf-8", "replace")
            told[r.partition].append(self.alerts[r.partition].take(key, row, r.timestamp_ms, live))

    def _heard(self, records: list[LogRecord]) -> list[tuple[int, JournalRecord]]:
        """Partition and record of what somebody may want to know; where nobody listens nothing is decoded."""
        return [
            (r.partition, self.outbox.decode(r.value))
            for r in records
            if r.value is not None and self.interest[r.partition]
        ]

    async def _asked(self, heard: list[tuple[int, JournalRecord]]) -> dict[tuple[int, int], Command]:
        """The commands of transactions that somebody is to be told of, by their places."""
        wanted: dict[int, list[int]] = {}
        for p, r in heard:
            place = asked_at(r, self.interest[p])
            if place is not None:
                wanted.setdefault(place.partition, []).append(place.offset)
        found = await asyncio.to_thread(self._sources.commands, wanted) if wanted else {}
        asked: dict[tuple[int, int], Command] = {}
        for at, command in found.items():
            with suppress(UndecodableError, InvariantError):  # what was settled does decode; else the journal must do
                asked[at] = self.outbox.decode(command.value or b"")
        return asked

    def _take_journal(
        self,
        heard: list[tuple[int, JournalRecord]],
        asked: dict[tuple[int, int], Command],
        told: dict[int, list[Told]],
    ) -> None:
        for p, r in heard:
            place = asked_at(r, self.interest[p])
            told[p].append(self.alerts[p].heard(r))
            told[p].append(Told(events_of(r, self.interest[p], asked.get(place) if place is not None else None), {}))

    def _take_time(self, told: dict[int, list[Told]]) -> None:
        now = now_ms()
        for p, alerts in self.alerts.items():
            if p in self._sources.state.at_end:  # else a hold that is closed already may look open
                told[p].append(alerts.lapsing(now))
            if p in self._sources.journal.at_end:
                told[p].append(alerts.days_over(now))

    async def _queue(self, told: dict[int, list[Told]]) -> None:
        """Writes what is to be told, and the place that was read to, together; then it may be sent."""
        now = now_ms()
        writes: list[Write] = []
        made: list[Delivery | None] = []
        for p, parts in told.items():
            rows = [self.delivery(p, e, now) for t in parts for e in t.events]
            notices = {key: n for t in parts for key, n in t.notices.items()}
            if rows or notices:
                writes += [Write(p, delivery_key(d.delivery_id), d) for d in rows]
                writes += [Write(p, notice_key(key), n) for key, n in notices.items()]
                writes.append(Write(p, PROGRESS, self._place(p)))
                made += [*rows, *([None] * (len(notices) + 1))]
        if time.monotonic() - self._progress_at > PROGRESS_S:
            self._progress_at = time.monotonic()
            moved = [Write(p, PROGRESS, self._place(p)) for p in told if self._progress.get(p) != self._place(p)]
            writes += moved
            made += [None] * len(moved)
        if not writes:
            return
        offsets = await self.write(writes)
        for w, d, offset in zip(writes, made, offsets, strict=True):
            if isinstance(w.row, WebhookProgress):
                self._progress[w.partition] = w.row
            if d is not None:
                self.report.counts["queued"] += 1
                if d.subscription_id in self.subscriptions:
                    self.queue.put(d, offset)
        self._wake.set()

    def _place(self, p: int) -> WebhookProgress:
        s = self._sources
        return WebhookProgress(s.journal.position[p], max(s.state.position[p], s.live[p]), self.numbers[p])

    # ---- sending -------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        while True:
            while (d := self.queue.next(now_ms())) is not None:
                task = asyncio.create_task(self._attempt(d))
                self._attempts.add(task)
                task.add_done_callback(self._attempts.discard)
                task.add_done_callback(self._ended)
            if any(self.queue.short()):
                self.clerk.news.set()
            wait_s = (self.queue.wake_at() - now_ms()) / 1000
            try:
                async with asyncio.timeout(min(max(wait_s, 0.001), 1.0)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if self._failed is not None:
                raise self._failed

    def _ended(self, task: asyncio.Task[None]) -> None:
        """An attempt is over; what it raised ends the session."""
        if not task.cancelled() and task.exception() is not None:
            self._failed = task.exception()
        self._wake.set()

    async def _attempt(self, d: Delivery) -> None:
        s = self.subscriptions.get(d.subscription_id)
        if s is None:
            return  # dropped a moment ago
        if s.state != "verified":
            self.queue.put_back(d)
            return
        failpoint("webhooks.before_send")
        sent = await self.sender.send(s, d.delivery_id, d.body, d.attempts + 1, now_ms())
        partition = partition_of(s.partner_id, self.settings.partitions)
        if sent.ok:
            self.report.counts["delivered"] += 1
            failpoint("webhooks.after_send")
            if d.subscription_id in self.subscriptions:
                await self.write([Write(partition, delivery_key(d.delivery_id), None)])
                self.queue.delivered(d)
            return
        failpoint("webhooks.after_fail")
        row = self.queue.after_failure(d, now_ms(), sent.error, sent.status)
        self.report.counts["dead" if row.state == DEAD else "failed"] += 1
        if d.subscription_id not in self.subscriptions:
            return
        await self.write([Write(partition, delivery_key(d.delivery_id), row)])
        if row.state == DEAD:
            log.warning("webhook is dead", subscription=s.subscription_id, delivery=d.delivery_id, error=row.error)
            self.queue.buried(row)
        else:
            self.queue.put_back(row)

    # ---- what it says of itself ----------------------------------------------------------------------------------

    def _tell(self) -> None:
        r = self.report
        r.verified = dict(self._sources.journal.position)
        r.serves()
        r.more = {
            "pending": self.queue.pending, "dead": self.queue.dead, "under_way": self.queue.under_way,
            "subscriptions": len(self.subscriptions),
        }  # fmt: skip
        with suppress(OSError):  # a disk that is full is no reason to deliver nothing
            r.tell()


def _learn(codec: Codec, registry: Registry, schema_ids: set[int]) -> None:
    learn_schemas(codec, registry, schema_ids, set())


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """One of the exceptions of a group: that it was fenced out comes before all others."""
    found: list[BaseException] = []
    open_: list[BaseException] = [group]
    while open_:
        e = open_.pop()
        if isinstance(e, BaseExceptionGroup):
            open_ += e.exceptions
        else:
            found.append(e)
    return next((e for e in found if isinstance(e, FencedOutError)), found[0])
