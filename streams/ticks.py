"""Ticks: where nothing else happens, the worker that owns a partition lets time pass in it by a command of its own.

A hold lapses before the next command of its partition, whatever that is. Where none comes, the owner writes one, a
Tick. It goes to the partition's log like any command, by a plain idempotent producer and outside of the Kafka
transaction: it needs no atomicity, because it changes nothing by itself, and a second one does no harm.

When to write one is decided by this machine's clock, and nothing else is: the time at which a hold lapses is the
broker's append time of the commands. A clock that is wrong causes ticks that nobody needs, or late ones; never a wrong
balance.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress

from confluent_kafka import KafkaException, Producer

from schemas.codec import Codec
from schemas.identity import BANK
from schemas.records import Tick
from streams.clients import KafkaConfig
from streams.recovery import PartitionLedger
from streams.topics import Topics

_DELIVERY_MS = 10_000  # a tick that could not be written by then is not worth writing: another follows


class Ticker:
    """Writes ticks into quiet partitions that have something due. `tick_ms`: how long a partition must be quiet."""

    def __init__(self, kafka: KafkaConfig, topics: Topics, codec: Codec, tick_ms: int) -> None:
        self.written = 0
        self._kafka = kafka
        self._topic = topics.submitted
        self._codec = codec
        self._tick_ms = tick_ms
        self._heard_at: dict[int, int] = {}
        self._producer: Producer | None = None  # made when it is first needed: most workers never need it

    def look(self, ledgers: Mapping[int, PartitionLedger], heard: Collection[int], now_ms: int) -> None:
        """Writes a tick for each partition that needs one. `heard`: partitions from which a command came just now."""
        for p in heard:
            self._heard_at[p] = now_ms
        for p, ledger in ledgers.items():
            due = ledger.base.due
            if not due or due[0][0] > now_ms:
                continue
            quiet_ms = now_ms - self._heard_at.setdefault(p, now_ms)
            if quiet_ms >= self._tick_ms or quiet_ms < 0:  # below zero: this machine's clock was set back
                self._heard_at[p] = now_ms
                self._write(p, ledger.base.head.next_offset)
        if self._producer is not None:
            self._producer.poll(0)

    def _write(self, partition: int, next_offset: int) -> None:
        if self._producer is None:
            self._producer = Producer(self._kafka.producer(message_timeout_ms=_DELIVERY_MS))
        tick = Tick(BANK, f"tick-{next_offset}")
        with suppress(BufferError, KafkaException):  # it is late then, and comes when the broker does
            self._producer.produce(self._topic, self._codec.encode(tick), BANK.encode(), partition)
            self.written += 1

    def close(self) -> None:
        """Drops what was not written."""
        if self._producer is not None:
            with suppress(KafkaException):
                self._producer.purge()
