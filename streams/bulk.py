"""Many commands as fast as they go: whole batches are handed to the client, and it reports only what it gave up on.

Nobody is told of a single acknowledgement; `flush` says that the broker has all of them. So there are no outcomes and
no places here, and no header either, because the client's batch call takes none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypedDict

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.errors import PartUnavailableError
from streams.clients import KafkaConfig
from streams.topics import MESSAGE_BYTES_MAX

QUEUE_MAX = 100_000
LINGER_MS = 5
_QUEUE_BYTES_MAX = 900_000_000  # of the 1 GB that the client's queue takes
_BYTES_EACH = 1_000.0
_FIRST_RETRY_S, _RETRY_S_MAX = 0.1, 5.0


class BulkMessage(TypedDict):
    """One message as the client's batch call takes it."""

    value: bytes
    key: bytes


_VALUE: Callable[[BulkMessage], bytes] = itemgetter("value")


class Bulk:
    """Publishes values into a topic, in the order of their partition. Not thread-safe.

    At most `queue_max` are on their way; `send` blocks while there are more. What the client gave up on is published
    again for as long as `give_up_s` after the first failure: then it is not in its order any more.
    """

    def __init__(self, kafka: KafkaConfig, topic: str, *, queue_max: int = QUEUE_MAX, give_up_s: float = 30.0) -> None:
        self._kafka = kafka
        self._topic = topic
        self._queue_max = queue_max
        self._give_up_s = give_up_s
        self._failed: list[tuple[int, bytes, bytes]] = []
        self._why = ""
        self._bytes_each = _BYTES_EACH  # the most that a batch since the last flush has had on average
        self._producer = self._connect()
        self.published = 0

    def _connect(self) -> Producer:
        settings = self._kafka.producer(
            message_timeout_ms=max(1000, int(self._give_up_s * 1000)), linger_ms=LINGER_MS,
            message_max_bytes=MESSAGE_BYTES_MAX, queue_buffering_max_messages=2 * self._queue_max + 10_000,
            delivery_report_only_error=True,
        )  # fmt: skip
        return Producer({**settings, "on_delivery": self._reported})

    def send(self, parts: Mapping[int, list[BulkMessage]]) -> None:
        """Queues messages at their partitions. Raises PartUnavailableError when the client has given up on some, again
        and again."""
        count = 0
        for messages in parts.values():
            count += len(messages)
            size = sum(map(len, map(_VALUE, messages)))
            if size > len(messages) * self._bytes_each:
                self._bytes_each = size / len(messages)
        self._make_room(count)
        for partition, messages in parts.items():
            queued = self._produce(messages, partition)
            if queued < len(messages):
                self._one_by_one([m for m in messages if "_error" in m] if queued else messages, partition)
        self.published += count
        self._producer.poll(0)
        if self._failed:
            self._again()

    def flush(self) -> None:
        """Waits until the broker has everything. Raises PartUnavailableError: then of some it is not known."""
        deadline = time.monotonic() + 2 * self._give_up_s + 5
        while len(self._producer) or self._failed:
            self._producer.flush(0.2)
            if self._failed:
                self._again()
            elif time.monotonic() > deadline:
                raise self._unavailable(f"{len(self._producer)} commands without a report")
        self._bytes_each = _BYTES_EACH

    def close(self) -> None:
        """Gives up what is still queued."""
        self._producer.purge()
        self._producer.flush(1)

    def _produce(self, messages: list[Any], partition: int) -> int:
        try:
            return self._producer.produce_batch(self._topic, messages, partition=partition)
        except BufferError:
            return 0

    def _make_room(self, wanted: int) -> None:
        """Waits while there are too many, or too large ones: a queue that is full by its bytes would take a small
        message after it has refused a large one."""
        most = min(self._queue_max, int(_QUEUE_BYTES_MAX / self._bytes_each))
        while len(self._producer) and len(self._producer) + wanted > most:
            self._producer.poll(0.05)  # returns when something was reported
            if self._failed:
                self._again()

    def _one_by_one(self, messages: Sequence[BulkMessage], partition: int) -> None:
        for m in messages:
            while True:
                try:
                    self._producer.produce(self._topic, m["value"], m["key"], partition)
                    break
                except BufferError:
                    self._producer.poll(0.01)
                except KafkaException as e:
                    raise self._unavailable(e.args[0].str()) from None

    def _reported(self, error: KafkaError, message: Message) -> None:
        """Only failures come here."""
        if error.code() == KafkaError._PURGE_QUEUE or error.code() == KafkaError._PURGE_INFLIGHT:
            return
        self._why = error.str()
        self._failed.append((message.partition() or 0, message.key() or b"", message.value() or b""))

    def _again(self) -> None:
        """Publishes what failed with growing pauses between, until it is through or the time is up."""
        deadline, pause = time.monotonic() + self._give_up_s, _FIRST_RETRY_S
        while self._failed:
            if time.monotonic() > deadline:
                raise self._unavailable(f"{len(self._failed)} commands were not acknowledged: {self._why}")
            time.sleep(pause)
            pause = min(2 * pause, _RETRY_S_MAX)
            failed, self._failed = self._failed, []
            for partition, key, value in failed:
                self._one_by_one([{"value": value, "key": key}], partition)
            while len(self._producer) and not self._failed:
                self._producer.poll(0.05)

    def _unavailable(self, why: str) -> PartUnavailableError:
        return PartUnavailableError("Kafka", self._kafka.bootstrap, why)
