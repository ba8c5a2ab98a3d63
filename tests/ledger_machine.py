"""Books beside models, batch by batch: settled into drafts that are stacked, merged or dropped; with several partitions,
what one sends to another is delivered later, in any order, among other commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from ledger.rollups import rollups
from ledger.state import Draft
from schemas.records import Crossing, JournalRecord
from tests.ledger_checks import (
    Watch,
    check_limits_kept,
    check_nothing_changed,
    check_rollups,
    check_rows,
    compare,
    compare_sent,
    seen_from,
)
from tests.ledger_commands import command, later, setup
from tests.ledger_model import Answer, Model
from tests.ledger_products import shelf as all_products
from tests.ledger_world import BOOKED_AT, DAY, LONG_MS, Ledger

DRAFTS_MAX = 3
TRANSIT = "bank:crossing:"

Chooser = Callable[[Random, Model], Any]
When = Callable[[Random, Model], int]


@dataclass
class Open:
    """A draft whose commit is still under way, and the model as it will be after it."""

    draft: Draft
    commands: list[Any]
    records: list[JournalRecord]
    sent: list[Crossing]
    model: Model


@dataclass
class Site:
    """One partition: the Book's state and the model's."""

    ledger: Ledger
    model: Model
    open: list[Open] = field(default_factory=list)
    watch: Watch = field(default_factory=Watch)

    def newest(self) -> Model:
        """The model as it is after all that was settled, committed or not."""
        return self.open[-1].model if self.open else self.model


class Machine:
    """Any command may fail to be as the model says; then AssertionError. `shelf`: with products from the beginning."""

    def __init__(self, partitions: int = 1, *, shelf: bool = False) -> None:
        self.sites = [
            Site(Ledger(p, partitions, LONG_MS), Model(partition=p, partitions=partitions)) for p in range(partitions)
        ]
        self.at = self.sites[0]
        self.flying: list[Crossing] = []  # sent by what is committed, not yet settled
        self.promised: set[tuple[int, bytes]] = set()  # partition and id of what was committed at home, not yet there
        self.past: list[Crossing] = []  # what was settled somewhere
        self.seen: Counter[str] = Counter()
        self.largest = {"posted": 0, "pending": 0}
        for site in self.sites:
            self.at = site
            self.settle(setup(site.model, shelf=shelf))
            self.commit()

    @property
    def ledger(self) -> Ledger:
        return self.at.ledger

    def newest(self) -> Model:
        return self.at.newest()

    def go(self, random: Random) -> Site:
        """To any partition."""
        self.at = random.choice(self.sites)
        return self.at

    def settle(self, commands: Sequence[Any]) -> None:
        """Settles a batch on top of the open drafts, one command a millisecond."""
        left = iter(commands)
        self.play(Random(0), len(commands), lambda _, model: next(left), lambda _, model: max(BOOKED_AT, model.now) + 1)

    def play(self, random: Random, count: int, choose: Chooser = command, when: When = later) -> None:
        """Draws commands and their times, each from what the one before it left, and settles them as one batch."""
        site = self.at
        if count == 0:
            return
        if len(site.open) >= DRAFTS_MAX:
            self.commit()
        model = site.newest().copy()
        offset = site.open[-1].draft.head.next_offset if site.open else site.ledger.offset
        arrived = iter(self._arrivals(random, site)) if choose is command else iter(())
        drawn: list[tuple[Any, int, Answer]] = []
        for n in range(count):
            c = next(arrived, None) if random.random() < 0.5 else None
            c = choose(random, model) if c is None else c
            time, before = when(random, model), model.accounts.copy()
            drawn.append((c, time, model.settle(c, offset + n, time)))
            check_limits_kept(before, model)
        for c in arrived:  # for another time
            self.flying.append(c)
        self._book(site, model, drawn)

    def _arrivals(self, random: Random, site: Site) -> list[Crossing]:
        """Some of what flies to this partition, in any order."""
        here = [c for c in self.flying if c.to_partition == site.ledger.partition]
        some = random.sample(here, random.randint(0, len(here)))
        self.flying = [c for c in self.flying if c not in some]
        past = [c for c in self.past if c.to_partition == site.ledger.partition]
        if past and random.random() < 0.3:
            some.append(_once_more(random, random.choice(past)))
        self.past += some
        return some

    def publish(self) -> None:
        """Puts the shelf up in the middle of things."""
        self.settle([] if self.newest().shelf else all_products(DAY))

    def _book(self, site: Site, model: Model, drawn: Sequence[tuple[Any, int, Answer]]) -> None:
        under = tuple(o.draft for o in reversed(site.open))
        commands = [c for c, _, _ in drawn]
        draft, records = site.ledger.draft(commands, under, [time for _, time, _ in drawn])
        for (c, _, expected), record in zip(drawn, records, strict=True):
            compare(c, record, expected)
            self._count(record, model)
        sent = list(site.ledger.outbox)
        compare_sent(sent, [c for _, _, expected in drawn for c in expected.sent])
        site.open.append(Open(draft, commands, records, sent, model))
        self.check(draft, model)
        if all(
            r.outcome in ("rejected", "repeated") and r.command == type(c).__name__
            for c, r in zip(commands, records, strict=True)
        ):
            check_nothing_changed(draft, records)

    def _count(self, record: JournalRecord, model: Model) -> None:
        self.seen[record.reason or record.outcome] += 1
        if record.outcome == "settled":
            versions = {p.version: p.document for p in model.shelf.get(record.product, ())}
            document = versions.get(record.product_version, {"operations": {}})
            kind = document["operations"].get(record.operation, {"kind": record.operation})["kind"]
            if kind == "transfer" and len(record.postings) > 2 and not versions:
                kind = "entry"
            self.seen[f"kind {kind}"] += 1
            if record.product_version:
                self.seen[f"{record.product} {record.operation}"] += 1
        if record.command != "Transaction" and record.outcome == "applied":
            self.seen[record.command] += 1
        self.seen["crossed"] += record.outcome == "settled" and record.first_offset >= 0
        self.seen["opened"] += len(record.opened)
        self.seen["late"] += "late_for" in record.changes
        self.seen["lapsed"] += sum(p.expired for p in record.pending) // 2

    def commit(self) -> None:
        """Merges the oldest draft; what it sends to others flies from now on."""
        site = self.at
        if not site.open:
            return
        done = site.open.pop(0)
        site.ledger.commit(done.draft, done.records)
        site.model = done.model
        here = site.ledger.partition
        for c, record in zip(done.commands, done.records, strict=True):
            site.watch.take(c, record)
            if isinstance(c, Crossing) and c.step == "commit" and record.outcome == "applied":
                self.promised.discard((here, c.transaction_id))
        self.promised |= {(c.to_partition, c.transaction_id) for c in done.sent if c.step == "commit"}
        self.flying += done.sent
        if len(self.sites) > 1:
            self.check_in_flight()

    def drop(self) -> None:
        """Drops all drafts, as a worker does when a commit fails; what they took from others comes again."""
        site = self.at
        for o in site.open:
            again = [c for c in o.commands if isinstance(c, Crossing) and c not in self.flying]
            self.flying += [c for c in again if (c.partner_id, c.idempotency_key) not in site.model.answered]
        site.open.clear()
        self.check(Draft(site.ledger.base), site.model)

    def land(self) -> None:
        """Commits everything and delivers what flies until nothing does: then no money is between partitions."""
        for _ in range(1_000):
            for site in self.sites:
                self.at = site
                here = [c for c in self.flying if c.to_partition == site.ledger.partition]
                self.flying = [c for c in self.flying if c not in here]
                if here:
                    self.settle(here)
                while site.open:
                    self.commit()
            if not self.flying:
                break
        totals: Counter[str] = Counter()
        for site in self.sites:
            assert site.model.flights == {}
            for name, a in site.ledger.base.accounts.items():
                if name.startswith(TRANSIT):
                    assert (a.debits_pending, a.credits_pending) == (0, 0), name
                    totals[a.currency] += a.debits_posted - a.credits_posted
        assert not any(totals.values()), totals

    def check_in_flight(self) -> None:
        """Over all partitions, what left the transit accounts for good is what a commit is still to bring."""
        left: Counter[str] = Counter()
        for site in self.sites:
            for name, a in site.ledger.base.accounts.items():
                if name.startswith(TRANSIT):
                    left[a.currency] += a.credits_posted - a.debits_posted
            for (_, name_), flight in site.model.flights.items():
                if not flight.home and (site.ledger.partition, name_) in self.promised:
                    for leg in flight.legs:
                        left[leg.currency] -= leg.amount if leg.side == "credit" else 0
        assert not any(left.values()), left

    def check(self, draft: Draft, model: Model) -> None:
        """Every balance, hold, block, state and count as the model has them; and what must hold whatever the model says:
        debits equal credits in each currency, no counter is negative, what is open explains what is pending."""
        accounts = seen_from(draft, "accounts")
        sums: Counter[str] = Counter()
        pending: Counter[str] = Counter()
        assert accounts.keys() == model.accounts.keys()
        for name, known in model.accounts.items():
            a = accounts[name]
            counters = (a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted)
            assert counters == known.counters(), name
            assert min(counters) >= 0, name
            self.largest["posted"] = max(self.largest["posted"], known.d, known.c)
            self.largest["pending"] = max(self.largest["pending"], known.dp, known.cp)
            assert (a.debits_blocked, a.credits_blocked, a.closed) == (known.no_debits, known.no_credits, known.closed)
            assert (a.frozen, a.type, a.currency) == (known.frozen, known.type, known.currency), name
            assert (a.min_available, a.credit_limit, a.available()) == (known.limit, known.credit, known.available())
            sums[a.currency] += a.debits_posted - a.credits_posted
            pending[a.currency] += a.debits_pending - a.credits_pending
        assert not any(sums.values()), sums
        assert not any(pending.values()), pending
        check_rollups(rollups(accounts.values()), model)
        partners = seen_from(draft, "partners")
        assert {n: p.state for n, p in partners.items()} == model.partners
        check_rows(draft, model)
        head = draft.head
        assert (head.settled, head.rejected, head.repeated, head.applied) == tuple(
            model.counts[o] for o in ("settled", "rejected", "repeated", "applied")
        )
        assert head.received == head.sequence == sum(model.counts.values())
        assert (head.event_time, head.closed_through) == (model.now, model.closed_through)


def _once_more(random: Random, c: Crossing) -> Crossing:
    """A step that was taken before: sent again, or said again by another command where that must change nothing."""
    if c.step == "reserve" or random.random() < 0.4:
        return c
    other = random.choice((c.transaction_id, bytes(16)))
    return msgspec.structs.replace(c, idempotency_key=f"{c.idempotency_key}{random.randrange(9)}", transaction_id=other)
