"""What a gateway needs for its routes of webhooks, beside the table of subscriptions."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from clearline.webhooks.targets import Resolve, system_resolve
from schemas.codec import Codec
from schemas.records import Delivery
from streams.clients import KafkaConfig
from streams.outbox import deliveries
from streams.topics import Topics


class Queued(Protocol):
    """What is not delivered."""

    async def of(self, partition: int, subscription_id: str) -> list[Delivery]:
        """A subscription's deliveries that are pending or dead, by their number. Raises PartUnavailableError."""
        ...


class QueuedInMemory:
    """`Queued` of a list that a test fills."""

    def __init__(self, rows: Iterable[Delivery] = ()) -> None:
        self.rows = list(rows)

    async def of(self, partition: int, subscription_id: str) -> list[Delivery]:
        """As `Queued.of`."""
        return sorted((d for d in self.rows if d.subscription_id == subscription_id), key=lambda d: d.number)


class QueuedInKafka:
    """`Queued` from the topic itself, read anew for each call: it is asked for when something went wrong, not often."""

    def __init__(self, kafka: KafkaConfig, topics: Topics, codec: Codec) -> None:
        self._kafka, self._topics, self._codec = kafka, topics, codec
        self._one_at_a_time = asyncio.Semaphore(2)

    async def of(self, partition: int, subscription_id: str) -> list[Delivery]:
        """As `Queued.of`."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(
                deliveries, self._kafka, self._topics, self._codec, partition, subscription_id
            )


@dataclass(slots=True)
class WebhookParts:
    """`resolve` and `tls` are for tests; by default those of this machine."""

    queued: Queued = field(default_factory=QueuedInMemory)
    resolve: Resolve = system_resolve
    tls: ssl.SSLContext | None = None
