"""Several weeks of a bank as the real ledger settles them: commands of the shelf's day, a bank calendar, and a journal.

Business follows Shanghai's days with the holiday week of October: fewer commands on closed days, a close after each
working day, entries dated back into closed days, reversals, holds that lapse, corrections by staff, payments between
partitions whose steps take their time, and a broker whose clock now and then steps back. All from one seed.
"""

from __future__ import annotations

import csv
import gzip
import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from clearline.generator_shelf import ShelfDay, shelf_of
from clearline.generator_world import CURRENCIES, World
from ledger.book import Book
from ledger.state import Draft, PartitionBase
from schemas.codec import Codec
from schemas.identity import BANK, command_id, payload_digest, route_of
from schemas.records import (
    AdmitPartner,
    CloseDay,
    ClosedDay,
    Command,
    Crossing,
    JournalRecord,
    OpenAccount,
    Posting,
    SetCalendar,
    Tick,
    Transaction,
    ZoneOffset,
)
from tests.journals import DAY_MS, Line, local_codec

EPOCH = date(1970, 1, 1)
START = (date(2026, 9, 14) - EPOCH).days  # a Monday
HOLIDAYS = range((date(2026, 10, 1) - EPOCH).days, (date(2026, 10, 8) - EPOCH).days)
SHANGHAI_MS = 8 * 3_600_000
LAPSES_MS = (20 * 60_000, 6 * 3_600_000, 3 * DAY_MS)
PURCHASES = Path(__file__).parent / "vendor" / "cdnow-sample.txt.gz"


@dataclass(frozen=True)
class Logged:
    """One command as its partition's log holds it."""

    offset: int
    append_ms: int
    value: bytes


class History:
    """Logs and journals of `partitions` partitions. `lines`: the journal in the order in which it came to be."""

    def __init__(self, seed: int, partitions: int = 3) -> None:
        self.partitions = partitions
        self.rng = random.Random(f"history {seed}")
        self.codec = local_codec()
        self.logs: list[list[Logged]] = [[] for _ in range(partitions)]
        self.lines: list[Line] = []
        self._books = [fresh_book(p, partitions) for p in range(partitions)]
        self._offsets, self._ends = [0] * partitions, [0] * partitions
        self._under_way: list[tuple[int, int, Crossing]] = []
        self._sent = 0

    def give(self, command: Command, at: int, *places: int) -> list[JournalRecord]:
        """What became of a command, appended at `at` (milliseconds UTC) in its partitions or in these."""
        self.deliver(at)
        return [self._take(p, command, at) for p in places or route_of(command, self.partitions)[1]]

    def skip(self, partition: int) -> None:
        """A record of the log that is no command: it becomes a dead letter, and the journal has nothing of it."""
        self._offsets[partition] += 1

    def deliver(self, until: int) -> None:
        """The steps between partitions that arrive up to a moment, and those that they cause."""
        while self._under_way and self._under_way[0][0] <= until:
            at, _, step = heapq.heappop(self._under_way)
            self._take(step.to_partition, step, at)

    def _take(self, p: int, command: Command, at: int) -> JournalRecord:
        logged = Logged(self._offsets[p], at, self.codec.encode(command))
        self._offsets[p] += 1
        self.logs[p].append(logged)
        book = self._books[p]
        record = settle(book, logged, self.codec)
        for step in book.outbox:
            self._sent += 1
            slow = self.rng.random() < 0.1
            arrives = at + (self.rng.randrange(DAY_MS) if slow else self.rng.randrange(3, 900))
            heapq.heappush(self._under_way, (arrives, self._sent, step))
        book.outbox = []
        self.lines.append(Line(p, self._ends[p], self.codec.encode(record), record))
        self._ends[p] += 1 + (self.rng.random() < 0.1)  # a transaction marker
        return record

    def replayed(self) -> list[Line]:
        """The journal that new Books make of the logs, partition by partition; at the same journal offsets."""
        places = {(x.partition, x.record.sequence): x.offset for x in self.lines}
        out = []
        for p, log in enumerate(self.logs):
            book = fresh_book(p, self.partitions)
            for logged in log:
                record = settle(book, logged, self.codec)
                out.append(Line(p, places[p, record.sequence], self.codec.encode(record), record))
        return out


def fresh_book(partition: int, partitions: int) -> Book:
    """A partition in which nothing happened yet."""
    return Book(partition, Draft(PartitionBase()), partitions)


def settle(book: Book, logged: Logged, codec: Codec) -> JournalRecord:
    """The sealed outcome of one command of the log, from its bytes alone."""
    command: Any = codec.decode(logged.value)
    cid = command_id(command.partner_id, command.idempotency_key)
    record = book.settle(command, cid, payload_digest(command), logged.offset, logged.append_ms)
    return replace(record, chain=book.seal(codec.journal_body(record)))


class Weeks(History):
    """`days` days of the shelf, about `each` commands on a working day."""

    def __init__(self, seed: int, days: int, each: int, partners_max: int = 14, accounts_max: int = 130) -> None:
        super().__init__(seed)
        self._seed, self._number = seed, 0
        self.world = World(seed, partners_max, accounts_max)
        self._setup()
        self._shelf = ShelfDay(self.world, 1.5, START)
        self._settled: list[Transaction] = []
        for day in range(START, START + days):
            self._day(day, each)

    def _key(self) -> str:
        self._number += 1
        return f"{self._seed}-history-{self._number}"

    def _setup(self) -> None:
        now = START * DAY_MS - SHANGHAI_MS - 3_600_000
        calendar = SetCalendar(
            BANK, self._key(), BANK, "Asia/Shanghai", (ZoneOffset(0, 480),), 32 + 64,
            tuple(ClosedDay(day) for day in HOLIDAYS), "operations", "the settlement calendar",
        )  # fmt: skip
        costs = [OpenAccount(BANK, self._key(), f"bank:costs:{c}", "expense", c) for c in CURRENCIES]
        for i, command in enumerate((calendar, *shelf_of(self._seed), *self.world.setup(START, by_bank=True), *costs)):
            for record in self.give(command, now + i * 20):
                assert record.outcome in ("applied", "settled"), record

    def _day(self, day: int, each: int) -> None:
        closed = day % 7 in (2, 3) or day in HOLIDAYS  # 1970-01-01 was a Thursday
        self._shelf.day = day
        midnight = day * DAY_MS - SHANGHAI_MS
        for item in self._shelf.items(each // 2 if closed else each):
            at = midnight + int(item.second * 1000) + self.rng.randrange(1000)
            if self.rng.random() < 0.01:
                at -= self.rng.randrange(5_000)  # the broker's clock steps back
            if item.damage:
                self.skip(item.places(self.partitions)[1][0])
                continue
            assert isinstance(item.command, Transaction)
            t = item.command
            if item.kind not in ("repeat", "conflict"):
                t = self._dated(t, day, at)
            record = self.give(t, at)[0]
            if record.outcome == "settled" and len(record.postings) and t.operation != "hold":
                self._settled.append(t)
            self._unusual(day, at)
        for p in range(self.partitions):
            self.give(Tick(BANK, self._key()), midnight + DAY_MS - 1, p)
        if not closed:
            self._close(day, midnight + DAY_MS)

    def _dated(self, t: Transaction, day: int, at: int) -> Transaction:
        """With another value date, before or after the day, now and then; a hold perhaps with its end."""
        u = self.rng.random()
        if u < 0.12:
            t = replace(t, value_date=day - self.rng.randrange(1, 9))
        elif u < 0.15:
            t = replace(t, value_date=day + self.rng.randrange(1, 4))
        if t.operation == "hold" and self.rng.random() < 0.4:
            t = replace(t, expires_at=at + self.rng.choice(LAPSES_MS))
        return t

    def _unusual(self, day: int, at: int) -> None:
        """A reversal of something of the last days, or a correction by the bank's staff, once in a while."""
        u = self.rng.random()
        if u < 0.02 and self._settled:
            t = self._settled[-self.rng.randrange(1, min(200, len(self._settled)) + 1)]
            undo = Transaction(
                t.partner_id, self._key(), t.product, "reversal", 0, t.currency, {}, (), day,
                "reversal", original=t.idempotency_key,
            )  # fmt: skip
            self.give(undo, at)
        elif u < 0.03:
            currency, amount = self.rng.choice(CURRENCIES), self.rng.randrange(1, 90_000)
            legs = (
                Posting(f"bank:costs:{currency}", "debit", amount), Posting(f"bank:clearing:{currency}", "credit", amount)
            )  # fmt: skip
            dated = day - self.rng.choice((0, 0, 1, 5))
            self.give(
                Transaction(
                    BANK, self._key(), "payment", "adjustment", 0, currency, {}, legs, dated, note="scheme costs"
                ),
                at,
            )

    def _close(self, day: int, midnight: int) -> None:
        for p in range(self.partitions):
            at = midnight + self.rng.randrange(20 * 60_000, 25 * 60_000)
            assert (
                self.give(CloseDay(BANK, self._key(), day, "operations", "end of day"), at, p)[0].outcome == "applied"
            )


class Shops(History):
    """Real purchases of real customers: each owes what it bought, the shop gets it less a fee (tests/vendor/README.md).

    Booked in the first hours of the next working day, so weekends come in on Monday with three value dates. Four shops,
    by customer, in different partitions. Purchases of nothing are refused.
    """

    def __init__(self, rows_max: int = 1 << 30) -> None:
        super().__init__(1997)
        rows = sorted(list(purchases())[:rows_max])
        now = rows[0][0] * DAY_MS - DAY_MS
        for name, kind in (("clearing", "asset"), ("fees", "income")):
            self.give(OpenAccount(BANK, f"{name}", f"bank:{name}:USD", kind, "USD"), now)
        for shop in SHOPS:
            self.give(AdmitPartner(BANK, f"admit {shop}", shop), now)
            self.give(OpenAccount(shop, f"till {shop}", f"{shop}:till:usd", "liability", "USD", 0), now)
        known: set[str] = set()
        for number, (day, customer, cents) in enumerate(rows, 1):
            shop = SHOPS[int(customer) % len(SHOPS)]
            booked = day + 1 + {1: 2, 2: 1}.get(day % 7, 0)  # Friday's and Saturday's with Sunday's, on Monday
            at = booked * DAY_MS + number * 40 % 7_200_000
            account = f"{shop}:card:{customer}"
            if account not in known:
                known.add(account)
                self.give(OpenAccount(BANK, f"open {customer}", account, "liability", "USD"), at)
            fee = cents * 3 // 100
            legs: tuple[Posting, ...] = (
                Posting(account, "debit", cents),
                Posting(f"{shop}:till:usd", "credit", cents - fee),
            )
            legs = (*legs, Posting("bank:fees:USD", "credit", fee)) if fee else legs
            self.give(
                Transaction(
                    shop, f"buy {number}", "scan-to-pay", "transfer", 0, "USD", {}, legs, day, f"order {number}"
                ),
                at,
            )


SHOPS = ("cd-one", "cd-two", "cd-three", "cd-four")


def purchases() -> Iterator[tuple[int, str, int]]:
    """Day (since 1970), customer and cents of each purchase of the public data set."""
    with gzip.open(PURCHASES, "rt") as lines:
        for _, customer, day, _, dollars in csv.reader(lines, delimiter=" ", skipinitialspace=True):
            whole, _, cents = dollars.partition(".")
            at = date(int(day[:4]), int(day[4:6]), int(day[6:]))
            yield (at - EPOCH).days, customer, int(whole) * 100 + int(cents.ljust(2, "0"))
