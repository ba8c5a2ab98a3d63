"""Following some topics from where they end now, through one client that is ready after one question to the brokers.

For whoever waits for what comes of a thing that he is about to do: a `LogReader` for each topic asks for the span of
each partition in turn, which takes longer than the answer that is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from streams.clients import KafkaConfig, refused
from streams.reader import LogRecord, partitions_of, patiently, record_of

_ASK_S = 10.0


class Tail:
    """Committed records of the topics, from their last stable offsets when it was made. Not thread-safe.

    `partitions`: of each topic; 0 where that is not known, and has to be asked for. Raises PartUnavailableError.
    """

    def __init__(self, kafka: KafkaConfig, partitions: Mapping[str, int]) -> None:
        self._consumer = Consumer(kafka.consumer("clearline-reader"))
        try:
            known = {t: range(n) if n else partitions_of(self._consumer, kafka, t) for t, n in partitions.items()}
            # -1 is the latest time in Kafka's protocol: this is the one call of the client that asks for the ends of
            # many partitions at once, of what is committed, as its isolation level says.
            asked = [TopicPartition(t, p, OFFSET_END) for t, parts in known.items() for p in parts]
            self._consumer.assign(patiently(kafka, lambda: self._ends(asked)))
        except BaseException:
            self._consumer.close()
            raise

    def _ends(self, asked: list[TopicPartition]) -> list[TopicPartition]:
        found: list[TopicPartition] = self._consumer.offsets_for_times(asked, timeout=_ASK_S)
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
            if place.offset < 0:
                raise KafkaException(KafkaError(KafkaError._NO_OFFSET))
        return found

    def poll(self, records_max: int = 2_000, timeout_s: float = 0.1) -> list[tuple[str, LogRecord]]:
        """What came, with its topic: at once when there is something, nothing after `timeout_s`. Raises KafkaException
        on a fatal error, and when the broker does not let us read."""
        first = self._consumer.poll(timeout_s)
        got: list[Any] = [first, *self._consumer.consume(records_max - 1, 0)] if first is not None else []
        out = []
        for m in got:
            error = m.error()
            if error is None:
                out.append((m.topic(), record_of(m)))
            elif error.fatal() or refused(error):  # who may not read waits for nothing
                raise KafkaException(error)
        return out

    def close(self) -> None:
        self._consumer.close()
