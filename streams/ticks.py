"""Ticks: where nothing else happens, the worker that owns a partition lets time pass in it by a command of its own.

A hold lapses before the next command of its partition, whatever that is. Where none comes, the owner writes one, a
Tick. It goes to the partition's log like any command, by a plain idempotent producer and outside of the Kafka
transaction: it needs no atomicity, because it changes nothing by itself, and a second one does no harm.

When to write one is decided by this machine's clock, and nothing else is: the time at which a hold lapses is the
broker's append time of the commands. A clock that is wrong causes ticks that nobody needs, or late ones; never a wrong
balance.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping
from contextlib import suppress

from confluent_kafka import KafkaException, Producer

from ledger.posting import LAPSED_MAX
from schemas.codec import Codec
from schemas.identity import BANK
from schemas.records import Tick
from streams.clients import KafkaConfig
from streams.recovery import PartitionLedger
from streams.topics import Topics

TICKS_MAX = 20  # written at once, when more holds are due than lapse before one command
_DELIVERY_MS = 10_000  # a tick that could not be written by then is not worth writing: another follows


def due_holds(ledger: PartitionLedger, now_ms: int) -> int:
    """How many holds of a partition are due, as far as its committed state knows."""
    return bisect_left(ledger.base.due, (now_ms + 1,))


class Ticker:
    """Writes ticks into quiet partitions that have something due, and where more is due than lapses before one command,
    into others as well. `tick_ms`: how long a partition must be quiet, and how long it is from ticks to ticks."""

    def __init__(self, kafka: KafkaConfig, topics: Topics, codec: Codec, tick_ms: int) -> None:
        self.written = 0
        self._kafka = kafka
        self._topic = topics.submitted
        self._codec = codec
        self._tick_ms = tick_ms
        self._heard_at: dict[int, int] = {}
        self._wrote_at: dict[int, int] = {}
        self._producer: Producer | None = None  # made when it is first needed: most workers never need it

    def look(self, ledgers: Mapping[int, PartitionLedger], heard: Collection[int], now_ms: int) -> None:
        """Writes a tick for each partition that needs one. `heard`: partitions from which a command came just now."""
        for p in heard:
            self._heard_at[p] = now_ms
        for p, ledger in ledgers.items():
            due = ledger.base.due
            if not due or due[0][0] > now_ms:
                continue
            ticks = min(TICKS_MAX, -(-due_holds(ledger, now_ms) // LAPSED_MAX))
            heard_at = self._heard_at.setdefault(p, now_ms)
            quiet_ms = now_ms - (heard_at if ticks == 1 else self._wrote_at.get(p, heard_at))
            if quiet_ms >= self._tick_ms or quiet_ms < 0:  # below zero: this machine's clock was set back
                self._heard_at[p] = self._wrote_at[p] = now_ms
                for n in range(ticks):
                    self._write(p, ledger.base.head.next_offset, n)
        if self._producer is not None:
            self._producer.poll(0)

    def _write(self, partition: int, next_offset: int, number: int) -> None:
        if self._producer is None:
            self._producer = Producer(self._kafka.producer(message_timeout_ms=_DELIVERY_MS))
        tick = Tick(BANK, f"tick-{next_offset}-{number}" if number else f"tick-{next_offset}")
        with suppress(BufferError, KafkaException):  # it is late then, and comes when the broker does
            self._producer.produce(self._topic, self._codec.encode(tick), BANK.encode(), partition)
            self.written += 1

    def close(self) -> None:
        """Drops what was not written."""
        if self._producer is not None:
            with suppress(KafkaException):
                self._producer.purge()
