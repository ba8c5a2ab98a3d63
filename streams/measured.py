"""Measurements into a topic of their own, without ever making anybody wait."""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from confluent_kafka import Producer

from schemas.codec import Codec
from schemas.records import Record
from streams.clients import KafkaConfig

log = structlog.get_logger()

_KEPT_MS = 300_000  # for so long the client tries while the broker is away
_QUEUE_MAX = 10_000


class MeasuredLog:
    """Sends records to one partition of a topic. `send` returns at once; `close` waits at most `timeout_s`.

    What the broker does not take within five minutes, or does not fit into the queue, is dropped with a line in the
    log.
    """

    def __init__(self, kafka: KafkaConfig, topic: str, partition: int, codec: Codec) -> None:
        self._topic = topic
        self._partition = partition
        self._codec = codec
        self._producer = Producer(
            kafka.producer(message_timeout_ms=_KEPT_MS, linger_ms=50, queue_buffering_max_messages=_QUEUE_MAX)
        )

    def send(self, records: Iterable[Record]) -> None:
        """Hands records to the client, and looks at what became of those before."""
        for record in records:
            try:
                self._producer.produce(
                    self._topic, self._codec.encode(record), partition=self._partition, on_delivery=self._delivered
                )
            except BufferError:
                log.warning("measurements dropped", topic=self._topic, why="the broker is behind")
        self._producer.poll(0)

    def close(self, timeout_s: float = 3.0) -> None:
        """Waits until the broker has what was sent."""
        left = self._producer.flush(timeout_s)
        if left:
            log.warning("measurements dropped", topic=self._topic, records=left)

    def _delivered(self, error: object, _message: object) -> None:
        if error is not None:
            log.warning("measurements dropped", topic=self._topic, why=str(error))
