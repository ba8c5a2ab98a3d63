"""A worker whose clock is wrong settles what one with a good clock settles: an hour off, jumping, on 29 February, over the
change to summer time and back, and over the end of a year.

Time in the ledger is the broker's append time of a command. Of two workers on the real broker one runs under libfaketime,
and its clock is moved under it while it works. Afterwards the commands that the broker took are settled once more, in this
process, and every byte of every journal must be the same.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from clearline.replay.shadow import Message
from clearline.zones import offsets_of
from ledger.keys import KeyIndex
from ledger.state import Draft, PartitionBase
from processors.agents import take
from processors.settlement import Batch, Outlets, Part, Settlement, merge
from schemas.identity import command_id, partition_of
from schemas.records import (
    AdmitPartner,
    CloseDay,
    Command,
    JournalRecord,
    Limit,
    OpenAccount,
    SetCalendar,
    SetLimit,
    Transaction,
)
from streams.publisher import CommandPublisher
from streams.reader import LogRecord, read_to_end
from tests.integration.conftest import World
from tests.sink_servers import wait_for

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(1_200),
    pytest.mark.skipif(
        not (shutil.which("faketime") and shutil.which("cc")),
        reason="faketime or a C compiler is missing: on Debian and Ubuntu, apt-get install faketime gcc libc6-dev",
    ),
]

DAY_MS, HOUR_S = 86_400_000, 3_600
SHOWN_S = 1_800  # for so long after its time a clock is told from all others; a busy machine may need minutes
WAITS = Path(__file__).with_name("clock_waits.c")  # what libfaketime lacks
SLOT = 1  # of the worker with the wrong clock
PARTNERS = ("acme", "globex", "initech", "hooli")  # one in each partition
LIMIT_A_DAY = 20
UNREADABLE = b"no command"
ZONE = "Europe/Berlin"


@dataclass(frozen=True)
class Clock:
    """`ahead_s`: seconds off; or `shows`: what it shows when it is set, UTC. It must be seen to pass `passes`."""

    name: str
    ahead_s: int = 0
    shows: str = ""
    passes: str = ""


CLOCKS = (
    Clock("an hour fast", HOUR_S),
    Clock("an hour slow", -HOUR_S),
    Clock("29 February", shows="2028-02-29T23:59:57", passes="2028-03-01T00:00:00"),
    Clock("into 29 February", shows="2028-02-28T23:59:58", passes="2028-02-29T00:00:00"),
    Clock("summer time begins", shows="2027-03-28T00:59:58", passes="2027-03-28T01:00:00"),
    Clock("summer time ends", shows="2027-10-31T00:59:58", passes="2027-10-31T01:00:00"),
    Clock("the year ends", shows="2027-12-31T23:59:58", passes="2028-01-01T00:00:00"),
    Clock("right again"),  # and with it the end of the ticks that a fast clock writes for holds that are not due yet
)
STARTED_ANEW_UNDER = "summer time begins"


def seconds(utc: str) -> float:
    return datetime.fromisoformat(utc).replace(tzinfo=UTC).timestamp()


@dataclass
class Wrong:
    """The worker with the wrong clock. libfaketime reads its offset from a file, at most a second later."""

    world: World

    @property
    def dial(self) -> Path:
        return self.world.folder / "clock"

    @property
    def ready(self) -> Path:
        return self.world.folder / "ready.json"

    def set(self, clock: Clock) -> None:
        ahead = seconds(clock.shows) - time.time() if clock.shows else clock.ahead_s
        scratch = self.dial.with_suffix(".new")
        scratch.write_text(f"{ahead:+.1f}\n")
        scratch.replace(self.dial)

    def start(self) -> None:
        waits = self.world.folder / "clock_waits.so"
        subprocess.run(
            ["cc", "-std=c11", "-O2", "-shared", "-fPIC", "-o", str(waits), str(WAITS), "-ldl"], check=True
        )  # fmt: skip
        # `faketime` itself knows where its library is; -m: the one for programs with threads.
        library = subprocess.run(
            ["faketime", "-m", "-f", "+0", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        self.world.start(
            SLOT, LD_PRELOAD=f"{waits}:{library}", FAKETIME_TIMESTAMP_FILE=str(self.dial), FAKETIME_CACHE_DURATION="1",
            # What a wrong clock leaves alone: the time since the start of the machine, and the times of files.
            FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1", NO_FAKE_STAT="1", PYTHONDONTWRITEBYTECODE="1",
            TZ=ZONE, CLEARLINE_READY_FILE=str(self.ready), CLEARLINE_SETTLEMENT__TICK_MS="200",
        )  # fmt: skip

    def figures(self) -> dict[str, Any]:
        """What it said last, once it has partitions."""
        found: dict[str, Any] = json.loads(self.ready.read_text()) if self.ready.exists() else {}
        return found if found.get("pid") == self.world.workers[SLOT].pid and found.get("partitions") else {}


@dataclass
class Load:
    """Publishes what asks for the time: holds that lapse, limits of a day, days that are closed, money to elsewhere."""

    world: World
    publisher: CommandPublisher
    count: int = 0
    holds: list[Transaction] = field(default_factory=list)

    def publish(self, *commands: Command) -> None:
        for c in commands:
            self.publisher.publish(c)
        self.publisher.flush(120)

    def set_up(self) -> None:
        who: Any = {"requested_by": "zhou", "note": "clock test"}
        self.publish(OpenAccount("bank", "clearing", "bank:clearing:CNY", "asset", "CNY"))
        for p in PARTNERS:
            shop = f"{p}/shop"
            day = (Limit("day", "", LIMIT_A_DAY, None),)
            self.publish(
                AdmitPartner("bank", f"admit-{p}", p),
                AdmitPartner("bank", f"admit-{shop}", shop),
                *(OpenAccount(p, f"open-{n}", f"{p}:wallet:{n}", "liability", "CNY", 0) for n in "ab"),
                OpenAccount(shop, "open", f"{shop}:wallet:a", "liability", "CNY", 0),
                SetCalendar("bank", f"calendar-{p}", p, ZONE, offsets_of(ZONE), **who),
                SetLimit("bank", f"limit-{p}", "partner", shop, day, **who),
                self._transfer(p, "bank:clearing:CNY", f"{p}:wallet:a", 1_000_000),
                self._transfer(p, f"{p}:wallet:a", f"{shop}:wallet:a", 1_000),
            )

    def round(self, close: int = 0) -> None:
        """One round for each partner; `close`: the day to be closed, in days since 1970."""
        now_ms = int(time.time() * 1000)
        today = now_ms // DAY_MS
        if close:
            self.publish(CloseDay("bank", f"close-{close}", close, "zhou", "clock test"))
        captured, self.holds = self.holds, []
        for p, other in zip(PARTNERS, (*PARTNERS[1:], PARTNERS[0]), strict=True):
            payer, payee = f"{p}:wallet:a", f"{p}:wallet:b"
            for expires_at in (now_ms + 300, now_ms + DAY_MS, 0):
                self.holds.append(self._transfer(p, payer, payee, 10, "hold", expires_at=expires_at))
            self.publish(
                *self.holds[-3:],
                *(self._transfer(p, payer, payee, n) for n in range(1, 6)),
                self._transfer(p, payer, payee, 7, value_date=today - 2),
                self._transfer(p, payer, f"{other}:wallet:b", 3),
                *(self._transfer(f"{p}/shop", f"{p}/shop:wallet:a", payee, 1) for _ in range(4)),
            )
        self.publish(*(self._capture(h) for h in captured))

    def pulse(self) -> None:
        """A little for every partition, so that each has something to commit: one for whose outcome somebody waits, and
        one that does not decode."""
        for p in PARTNERS:
            self.publisher.publish(self._transfer(p, f"{p}:wallet:a", f"{p}:wallet:b", 1), reply_to=0)
            self.publisher.send(UNREADABLE, p.encode(), self.publisher.partition(p))
        self.publisher.flush(120)

    def _key(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def _transfer(
        self, partner: str, payer: str, payee: str, amount: int, operation: str = "transfer", **more: Any
    ) -> Transaction:
        more.setdefault("value_date", int(time.time() * 1000) // DAY_MS)
        roles = {"payer": payer, "payee": payee}
        return Transaction(partner, self._key(), "wallet", operation, amount, "CNY", roles, (), **more)

    def _capture(self, hold: Transaction) -> Transaction:
        return Transaction(
            hold.partner_id, self._key(), "wallet", "capture", 4, "CNY", {}, (), hold.value_date,
            original=hold.idempotency_key,
        )  # fmt: skip


def settled_again(
    world: World, submitted: list[LogRecord]
) -> tuple[dict[int, list[bytes]], dict[tuple[int, bytes], bytes | None]]:
    """The journal of each partition and the last row under each key of the state, from what was submitted alone."""
    t, partitions = world.topics, world.settings.partitions
    outlets = Outlets(t.submitted, t.journal, t.state, t.dead, t.replies, partitions, 0)
    settlement = Settlement(world.codec, outlets, lambda ids: ids)
    journals: dict[int, list[bytes]] = defaultdict(list)
    state: dict[tuple[int, bytes], bytes | None] = {}

    def produce(topic: str, value: Any, key: Any, partition: int, **_: Any) -> None:
        if topic == t.journal:
            journals[partition].append(value)
        elif topic == t.state:
            state[partition, key] = value

    for p in range(partitions):
        base, keys = PartitionBase(), KeyIndex(30 * DAY_MS)
        own = [Message(r) for r in submitted if r.partition == p]
        for i in range(0, len(own), 97):
            batch = Batch({p: Part([*own[i : i + 97]], Draft(base), keys)}, produce)
            take(batch, settlement)
            if batch.error is not None:
                raise batch.error
            merge(batch)
    return journals, state


def drained(world: World) -> list[list[LogRecord]]:
    """All that was submitted, outcomes, rows of the state and dead letters, of a moment at which nothing waits."""
    topics = (world.topics.submitted, world.topics.journal, world.topics.state, world.topics.dead)
    submitted, journal, state, dead = (list(read_to_end(world.kafka, t)) for t in topics)
    came = len(list(read_to_end(world.kafka, world.topics.submitted))) - len(submitted)  # such as a tick
    return [submitted, journal, state, dead] if len(submitted) == len(journal) + len(dead) and not came else []


def must_lapse(world: World, submitted: list[LogRecord]) -> set[tuple[int, int, bytes]]:
    """Where each hold must lapse: at the first command of its partition that the broker took at its time or later, unless
    it was captured before. As (partition, offset, hold)."""
    out = set()
    for p in range(world.settings.partitions):
        due: dict[bytes, int] = {}
        event_time = 0
        for r in (r for r in submitted if r.partition == p):
            event_time = max(event_time, r.timestamp_ms)
            for hold in [h for h, at in due.items() if at <= event_time]:
                del due[hold]
                out.add((p, r.offset, hold))
            c = world.codec.decode(r.value) if r.value != UNREADABLE else None
            if isinstance(c, Transaction) and c.operation == "hold" and c.expires_at > event_time:
                due[command_id(c.partner_id, c.idempotency_key)] = c.expires_at
    return out


def late_holds(world: World, submitted: list[LogRecord]) -> list[str]:
    """Keys of the holds that were over already when the broker took them, which a busy machine does."""
    out, event_time = [], defaultdict[int, int](int)
    for r in submitted:
        event_time[r.partition] = max(event_time[r.partition], r.timestamp_ms)
        c = world.codec.decode(r.value) if r.value != UNREADABLE else None
        if isinstance(c, Transaction) and c.operation == "hold" and 0 < c.expires_at <= event_time[r.partition]:
            out.append(c.idempotency_key)
    return out


@pytest.fixture
def load(world: World) -> Iterator[Load]:
    with world.publisher() as publisher:
        yield Load(world, publisher)


def test_a_wrong_clock_changes_no_byte_of_the_ledger(world: World, load: Load) -> None:
    assert {partition_of(p, world.settings.partitions) for p in PARTNERS} == set(range(world.settings.partitions))
    wrong = Wrong(world)
    wrong.set(CLOCKS[0])
    load.set_up()
    world.start(0)
    wrong.start()
    wait_for("both workers to settle", lambda: len(wrong.figures().get("partitions", ())) == 2)
    today = int(time.time() * 1000) // DAY_MS
    for i, clock in enumerate(CLOCKS):
        wrong.set(clock)
        if clock.name == STARTED_ANEW_UNDER:
            world.kill(SLOT)
            wrong.start()
        load.round(close=today - len(CLOCKS) + i)
        must_show = seconds(clock.passes) if clock.shows else time.time() + clock.ahead_s

        def shown(must_show: float = must_show) -> bool:
            """Whether it has committed at a time that only this clock has."""
            load.pulse()
            return 0 <= float(wrong.figures().get("last_commit_at", 0)) - must_show < SHOWN_S

        wait_for(f"the worker to settle under its clock: {clock.name}", shown)
    assert wrong.figures()["stopped"] == {}
    submitted, journal, rows, dead = wait_for("every command to be settled", lambda: drained(world))

    journals, state = settled_again(world, submitted)
    for p in range(world.settings.partitions):
        assert [r.value for r in journal if r.partition == p] == journals[p]
    kept: dict[tuple[int, bytes], bytes | None] = {}
    for r in rows:
        kept[r.partition, r.key or b""] = r.value
    assert kept == state
    letters = Counter(r.partition for r in submitted if r.value == UNREADABLE)
    assert Counter(r.partition for r in dead) == letters
    assert len(list(read_to_end(world.kafka, world.topics.replies))) == letters.total(), "as many as were waited for"
    _asks_for_the_time(world, submitted, [world.codec.decode(r.value) for r in journal])


def _asks_for_the_time(world: World, submitted: list[LogRecord], records: list[JournalRecord]) -> None:
    """That the load met what depends on the time, and that it came out by the broker's."""
    lapsed = {(r.source_partition, r.source_offset, leg.hold_id) for r in records for leg in r.pending if leg.expired}
    assert lapsed == must_lapse(world, submitted)
    late = late_holds(world, submitted)
    assert len(lapsed) >= len(PARTNERS) * (len(CLOCKS) - 1) - len(late) > 0
    reasons = Counter(r.reason for r in records if r.outcome == "rejected")
    assert reasons["field_invalid"] == len(late)
    assert set(reasons) == {"hold_expired", "limit_exceeded", *(("field_invalid", "original_unknown") if late else ())}
    asked, got = Counter[tuple[str, date]](), Counter[tuple[str, date]]()
    for r in (r for r in records if r.command == "Transaction" and r.partner_id.endswith("/shop")):
        day = datetime.fromtimestamp(r.booked_at / 1000, ZoneInfo(ZONE)).date()
        asked[r.partner_id, day] += 1
        got[r.partner_id, day] += r.outcome == "settled"
    assert got == {shop: min(n, LIMIT_A_DAY) for shop, n in asked.items()}
    assert len([r for r in records if r.changes.get("late_for")]) >= len(PARTNERS)
    assert Counter(r.command for r in records)["Crossing"] > 0
