"""Publishing commands: one partition for a partner's whole tree, acknowledged by all replicas, no silent loss."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from schemas.codec import Codec
from schemas.errors import PartUnavailableError
from schemas.identity import BANK, partition_of, route_of
from schemas.records import AdmitPartner, Command, OpenAccount, SetPartnerState
from streams.clients import KafkaConfig
from streams.topics import Topics

REPLY_HEADER = "reply_to"
Delivery = Callable[[KafkaError | None, Message], None]


class CommandPublisher:
    """Publishes commands to `transactions.submitted`. Not thread-safe.

    `idempotent`: False for whoever publishes one command and is in a hurry. The client asks for the number under which
    the brokers know an idempotent producer half a second after it was made, never sooner. Without one, a command whose
    acknowledgement was lost may come into the log twice; the ledger knows the key, and the second is `repeated`.

    `failed` counts deliveries that the client gave up on; each of them also went to its `on_delivery`.
    """

    def __init__(
        self, kafka: KafkaConfig, topics: Topics, codec: Codec, partitions: int, *, delivery_timeout_s: float = 120.0,
        idempotent: bool = True,
    ) -> None:  # fmt: skip
        self._producer = Producer(
            kafka.producer(
                message_timeout_ms=int(delivery_timeout_s * 1000), linger_ms=2, enable_idempotence=idempotent
            )
        )
        self._kafka = kafka
        self._topic = topics.submitted
        self._codec = codec
        self._partitions = partitions
        self.published = 0
        self.acknowledged = 0
        self.failed = 0

    def partition(self, partner_id: str) -> int:
        """The partition of a partner's tree."""
        return partition_of(partner_id, self._partitions)

    def publish(self, command: Command, reply_to: int | None = None, on_delivery: Delivery | None = None) -> None:
        """Queues one command; blocks while the client's queue is full. A bank account's command is broadcast."""
        key, partitions = route_of(command, self._partitions)
        value = self._codec.encode(command)
        for p in partitions:
            self.send(value, key, p, reply_to, on_delivery)

    def broadcast(self, command: OpenAccount | AdmitPartner | SetPartnerState) -> None:
        """Queues one command to every partition."""
        value = self._codec.encode(command)
        for p in range(self._partitions):
            self.send(value, BANK.encode(), p)

    def send(
        self, value: bytes, key: bytes, partition: int, reply_to: int | None = None, on_delivery: Delivery | None = None
    ) -> None:
        """Queues bytes as they are, at a partition. For callers that encoded them already."""

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                self.acknowledged += 1
            else:
                self.failed += 1
            if on_delivery is not None:
                on_delivery(error, message)

        headers: Any = [(REPLY_HEADER, str(reply_to).encode())] if reply_to is not None else []
        while True:
            try:
                self._producer.produce(self._topic, value, key, partition, on_delivery=delivered, headers=headers)
                break
            except BufferError:
                self._producer.poll(0.05)
        self.published += 1
        self._producer.poll(0)

    def poll(self, timeout_s: float = 0.0) -> None:
        """Serves delivery reports."""
        self._producer.poll(timeout_s)

    def flush(self, timeout_s: float = 60.0) -> None:
        """Waits until all is acknowledged. Raises PartUnavailableError when some is not after `timeout_s`."""
        left = self._producer.flush(timeout_s)
        if left or self.failed:
            lost = f"{left + self.failed} of {self.published} commands were not acknowledged within {timeout_s:.0f} s"
            raise PartUnavailableError("Kafka", self._kafka.bootstrap, lost)

    def __enter__(self) -> CommandPublisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if kind is None:
            self.flush()
