"""Where a topic ends, asked in a thread of its own: so whoever works never waits for the answer, and knows at once
whether the broker answers at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # exported, but not said so

from streams.clients import KafkaConfig

PATIENCE_S = 3.0


class EndsWatch:
    """Asks the ends of the partitions that `partitions` gives, once in `every_s`; one request, however many they are.

    `ends`: as they were last; `why`: why the broker did not answer the last time, or empty.
    """

    def __init__(
        self, kafka: KafkaConfig, topic: str, partitions: Callable[[], Iterable[int]], every_s: float = 1.0
    ) -> None:
        self._kafka, self._topic, self._partitions, self._every_s = kafka, topic, partitions, every_s
        self.ends: dict[int, int] = {}
        self.why = ""
        self._away_since = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask_again_and_again, name="ends", daemon=True)
        self._thread.start()

    def _ask_again_and_again(self) -> None:
        admin = AdminClient(self._kafka.base())
        while not self._ended.is_set():
            try:
                self.ends = self._ask(admin)
                self.why, self._away_since = "", 0.0
            except KafkaException as e:
                self._away_since = self._away_since or time.monotonic()
                self.why = f"Kafka at {self._kafka.bootstrap} does not answer: {e.args[0].str()}"
            self._ended.wait(self._every_s)

    def _ask(self, admin: AdminClient) -> dict[int, int]:
        wanted = list(self._partitions())
        if not wanted:
            admin.list_topics(self._topic, timeout=PATIENCE_S)
            return {}
        latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(self._topic, p): latest for p in wanted}
        found = admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=PATIENCE_S
        )  # fmt: skip
        return {tp.partition: done.result().offset for tp, done in found.items()}

    def close(self) -> None:
        """Stops asking."""
        self._ended.set()
        self._thread.join(PATIENCE_S + 1)
