"""The queue against a world with a clock of its own: whatever fails, pauses or does not fit, all is sent in order."""

from __future__ import annotations

import random
from collections import defaultdict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearline.webhooks.queue import DEAD, NEVER, PENDING, RETRY_MS_MAX, Queue, QueueOptions
from schemas.records import Delivery

START = 1_800_000_000_000
DAY = 86_400_000


def delivery(number: int, subscription: str = "s", ordering: str = "a", now: int = START) -> Delivery:
    return Delivery(
        f"{subscription}-{number}", subscription, number, ordering, "transaction.settled", b"{}", PENDING, 0, now, now,
        now, 0, "", 0, number,
    )  # fmt: skip


def queue(**options: int) -> Queue:
    q = Queue(QueueOptions(**options), lambda: 1.0)
    for name in ("s", "t"):
        q.set_open(name, True)
    return q


def test_of_one_account_the_second_waits_for_the_first_also_while_that_is_retried() -> None:
    q = queue(first_retry_ms=1_000)
    first, second, other = delivery(1), delivery(2), delivery(3, ordering="b")
    for d in (first, second, other):
        q.put(d, d.number)
    assert [q.next(START), q.next(START), q.next(START)] == [first, other, None]
    q.delivered(other)
    row = q.after_failure(first, START, "answered 500", 500)
    assert (row.state, row.attempts, row.next_at, row.error, row.status) == (
        PENDING,
        1,
        START + 1_000,
        "answered 500",
        500,
    )
    q.put_back(row)
    assert (q.next(START + 999), q.wake_at()) == (None, START + 1_000)
    assert q.next(START + 1_000) == row
    q.delivered(row)
    assert q.next(START + 1_000) == second
    q.delivered(second)
    assert (q.pending, q.under_way, q.wake_at()) == (0, 0, NEVER)


def test_waits_double_up_to_an_hour_and_end_after_the_days() -> None:
    q, d = queue(first_retry_ms=5_000, give_up_ms=3 * DAY), delivery(1)
    now, waits = START, []
    while True:
        d = q.after_failure(d, now, "x", 0)
        if d.state == DEAD:
            break
        waits.append(d.next_at - now)
        now = d.next_at
    assert waits[:4] == [5_000, 10_000, 20_000, 40_000]
    assert set(waits[12:]) == {RETRY_MS_MAX}
    assert 3 * DAY <= now - START < 3 * DAY + RETRY_MS_MAX and d.died_at == now


def test_one_that_waited_for_longer_than_its_days_is_tried_all_the_same() -> None:
    q = queue(give_up_ms=DAY)
    first, second = delivery(1), delivery(2)
    q.put(first, 1)
    q.put(second, 2)
    assert q.next(START) == first
    q.buried(q.after_failure(first, START + DAY, "x", 0))
    assert q.next(START + DAY) == second
    assert q.after_failure(second, START + DAY, "x", 0).state == DEAD
    assert q.dead == 1


def test_one_subscription_takes_an_eighth_of_what_goes_at_once() -> None:
    q = queue(concurrency=16)
    for n in range(1, 40):
        q.put(delivery(n, ordering=str(n)), n)
    for n in range(1, 4):
        q.put(delivery(n, "t", str(n)), n)
    taken = list(iter(lambda: q.next(START), None))
    assert [d.subscription_id for d in taken].count("s") == 2
    assert [d.subscription_id for d in taken].count("t") == 2
    q.delivered(next(d for d in taken if d.subscription_id == "s"))
    found = q.next(START)
    assert found is not None and (found.subscription_id, found.number) == ("s", 3)


def test_nothing_is_sent_to_one_that_is_not_open_and_all_of_it_afterwards() -> None:
    q = queue()
    q.set_open("s", False)
    for n in range(1, 30):
        q.put(delivery(n, ordering=str(n)), n)
    assert q.next(START) is None
    q.set_open("s", True)
    sent = []
    while (d := q.next(START)) is not None:
        sent.append(d.number)
        q.delivered(d)
    assert sorted(sent) == list(range(1, 30))


def test_a_dropped_one_leaves_nothing_even_under_way() -> None:
    q = queue()
    q.put(delivery(1), 1)
    q.put(delivery(2), 2)
    d = q.next(START)
    assert d is not None
    q.drop("s")
    assert (q.pending, q.under_way) == (0, 0)
    q.put_back(q.after_failure(d, START, "x", 0))
    q.delivered(d)
    q.buried(d)
    assert (q.pending, q.under_way, q.dead, q.next(START + DAY)) == (0, 0, 0, None)


def test_hastened_it_is_due_at_once() -> None:
    q = queue()
    d = msgspec.structs.replace(delivery(1), next_at=START + DAY)
    q.put(d, 1)
    assert q.next(START) is None
    q.hasten(d, START)
    found = q.next(START)
    assert found is not None and (found.delivery_id, found.next_at) == ("s-1", START)
    q.hasten(d, START)
    assert q.next(START) is None, "it is under way"


class World:
    """A queue with its topic, receivers that fail at random, and restarts; time jumps to when something is due."""

    def __init__(self, seed: int, concurrency: int, held_max: int) -> None:
        self.random = random.Random(seed)
        self.options = QueueOptions(1_000, 3_600_000, concurrency, held_max)
        self.topic: dict[str, tuple[int, Delivery]] = {}  # id -> offset, row
        self.offset = self.number = 0
        self.now = START
        self.sent: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.tries: dict[str, int] = defaultdict(int)
        self.dead: set[str] = set()
        self.under_way: list[Delivery] = []
        self.queue = self.fresh()

    def fresh(self) -> Queue:
        q = Queue(self.options, lambda: self.random.uniform(0.8, 1.2))
        rows = sorted((x for x in self.topic.values() if x[1].state == PENDING), key=lambda x: x[1].number)
        by_subscription: dict[str, list[tuple[int, Delivery]]] = defaultdict(list)
        for x in rows:
            by_subscription[x[1].subscription_id].append(x)
        for name, found in by_subscription.items():
            for offset, d in found[: self.options.held_max]:
                q.put(d, offset)
            if len(found) > self.options.held_max:
                q.spill(name, found[self.options.held_max][0], len(found) - self.options.held_max)
        for n in range(4):
            q.set_open(f"s{n}", True)
        return q

    def write(self, d: Delivery) -> int:
        self.offset += 1
        self.topic[d.delivery_id] = (self.offset, d)
        return self.offset

    def enqueue(self) -> None:
        self.number += 1
        d = delivery(self.number, f"s{self.random.randrange(4)}", self.random.choice("abc"), self.now)
        self.queue.put(d, self.write(d))

    def refill(self) -> None:
        for name, offset, number, room in self.queue.short():
            found = sorted(
                (o, d) for o, d in self.topic.values()
                if o >= offset and d.subscription_id == name and d.number > number and d.state == PENDING
            )[:room]  # fmt: skip
            assert found, "what is spilled is in the topic"
            assert [d.number for _, d in found] == sorted(d.number for _, d in found)
            self.queue.refill(name, [d for _, d in found], found[-1][0] + 1)

    def begin(self) -> None:
        while (d := self.queue.next(self.now)) is not None:
            self.under_way.append(d)
        assert len(self.under_way) == self.queue.under_way <= self.options.concurrency
        lines = [(d.subscription_id, d.ordering) for d in self.under_way]
        assert len(set(lines)) == len(lines), "one of a line at once"

    def end(self, patience: int) -> None:
        d = self.under_way.pop(self.random.randrange(len(self.under_way)))
        self.tries[d.delivery_id] += 1
        if self.random.random() < 0.4 or self.tries[d.delivery_id] > patience:
            self.sent[d.subscription_id, d.ordering].append(d.number)
            del self.topic[d.delivery_id]
            self.queue.delivered(d)
            return
        row = self.queue.after_failure(d, self.now, "x", 500)
        self.write(row)
        if row.state == DEAD:
            self.dead.add(d.delivery_id)
            self.queue.buried(row)
        else:
            self.queue.put_back(row)

    def run(self, count: int, restarts: bool) -> None:
        left = count
        while left or self.queue.pending:
            for _ in range(self.random.randrange(min(left, 20) + 1)):
                self.enqueue()
                left -= 1
            self.refill()
            self.begin()
            if self.under_way:
                self.end(patience=30)
            elif self.queue.wake_at() < NEVER:
                self.now = max(self.now, self.queue.wake_at())
            else:
                assert left or not self.queue.pending, "something is pending and never due"
            if restarts and self.random.random() < 0.02:
                self.under_way = []
                self.queue = self.fresh()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 3, 8, 64]), st.sampled_from([2, 5, 1_000]), st.booleans())
def test_everything_is_sent_in_the_order_of_its_line(
    seed: int, concurrency: int, held_max: int, restarts: bool
) -> None:
    w = World(seed, concurrency, held_max)
    w.run(200, restarts)
    for numbers in w.sent.values():
        assert numbers == sorted(set(numbers))
    assert sum(map(len, w.sent.values())) + len(w.dead) == 200
    assert {name for name, (_, d) in w.topic.items() if d.state == DEAD} == w.dead == set(w.topic)


@pytest.mark.parametrize("held_max", [2, 50])
def test_what_is_held_of_one_subscription_is_bounded(held_max: int) -> None:
    w = World(1, 1, held_max)
    for _ in range(500):
        w.enqueue()
    assert w.queue.pending == 500
    assert sum(len(line.rows) for line in w.queue._lines.values()) == 4 * held_max


def test_what_a_refill_brought_before_its_writer_handed_it_in_is_sent_once() -> None:
    """A row is in the topic a moment before whoever wrote it knows; a refill at that moment reads it already."""
    q = queue(held_max=2)
    for number in (1, 2, 3):
        q.put(delivery(number), number)
    sent = []
    for _ in range(2):
        d = q.next(START)
        assert d is not None
        sent.append(d.number)
        q.delivered(d)
    q.refill("s", [delivery(3), delivery(4)], 5)
    q.put(delivery(4), 4)
    while (d := q.next(START)) is not None:
        sent.append(d.number)
        q.delivered(d)
    assert (sent, q.pending) == ([1, 2, 3, 4], 0)
