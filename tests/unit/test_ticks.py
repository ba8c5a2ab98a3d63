"""When a worker writes a tick, as a table: what is due, what was heard, what time its own clock shows."""

from __future__ import annotations

import pytest

from ledger.holds import Hold
from streams.clients import KafkaConfig
from streams.recovery import PartitionLedger
from streams.ticks import Ticker
from streams.topics import Topics
from tests.ledger_world import CODEC


class Noted(Ticker):
    """Notes what it would write, in place of writing it."""

    def __init__(self, tick_ms: int) -> None:
        super().__init__(KafkaConfig("localhost:1"), Topics("t"), CODEC, tick_ms)
        self.wrote: list[tuple[int, int]] = []

    def _write(self, partition: int, next_offset: int, number: int) -> None:
        self.wrote.append((partition, next_offset))


def ledger(partition: int, *expires_at: int) -> PartitionLedger:
    out = PartitionLedger(partition, 1)
    for n, at in enumerate(expires_at):
        out.base.put_hold(Hold(n.to_bytes(16, "big"), b"", "acme", "a:1", "a:2", "CNY", 1, 1, at, n, n))
    out.base.head.next_offset = 70 + partition
    return out


# what this worker hears (partitions), its clock in ms | where it writes a tick then
STORY: list[tuple[set[int], int, list[int]]] = [
    ({0, 1, 2}, 1_000, []),  # partition 0 has a hold until 3,000, partition 1 one without end, partition 2 none
    (set(), 2_999, []),
    (set(), 3_000, [0]),  # due, and quiet for longer than a tick
    (set(), 3_100, []),
    (set(), 3_999, []),
    (set(), 4_000, [0]),  # still due: more than one command may lapse, or the broker's clock is behind
    ({0}, 4_900, []),  # somebody else's command lets it lapse
    ({1}, 5_000, []),
    (set(), 5_899, []),
    (set(), 5_900, [0]),
    (set(), 3_500, [0]),  # the clock was set back
    (set(), 3_600, []),
    (set(), 2_000, []),  # before its time nothing is due, as far as this worker knows
]


def test_a_tick_is_written_where_something_is_due_and_nothing_came_for_a_tick() -> None:
    ledgers = {0: ledger(0, 3_000, 9_000), 1: ledger(1, 0), 2: ledger(2)}
    ticker = Noted(1_000)
    for row, (heard, clock, expected) in enumerate(STORY):
        ticker.wrote.clear()
        ticker.look(ledgers, heard, clock)
        assert ticker.wrote == [(p, 70 + p) for p in expected], f"row {row}"


def test_where_more_is_due_than_lapses_before_one_command_more_ticks_are_written() -> None:
    ledgers, ticker = {0: ledger(0, *[5_000] * 1_001), 1: ledger(1, *[5_000] * 20_000)}, Noted(1_000)
    ticker.look(ledgers, {0, 1}, 4_000)
    ticker.look(ledgers, (), 4_999)
    assert ticker.wrote == [], "nothing is due yet"
    ticker.look(ledgers, (), 5_999)
    assert ticker.wrote == [(0, 70)] * 3 + [(1, 71)] * 20
    ticker.look(ledgers, {0, 1}, 6_998)
    assert len(ticker.wrote) == 23
    ticker.look(ledgers, {0, 1}, 6_999)
    assert len(ticker.wrote) == 46, "other commands do not put it off: each of them lapses no more than a tick"


@pytest.mark.parametrize("tick_ms", [50, 1_000, 60_000])
def test_a_worker_that_has_just_taken_over_waits_for_one_tick(tick_ms: int) -> None:
    ledgers, ticker = {4: ledger(4, 10)}, Noted(tick_ms)
    ticker.look(ledgers, (), 1_000_000)
    ticker.look(ledgers, (), 1_000_000 + tick_ms - 1)
    assert ticker.wrote == []
    ticker.look(ledgers, (), 1_000_000 + tick_ms)
    assert ticker.wrote == [(4, 74)]
    ticker.look({4: ledger(4)}, (), 1_000_000 + 3 * tick_ms)
    assert len(ticker.wrote) == 1, "what has lapsed is not due any more"
    ticker.close()
