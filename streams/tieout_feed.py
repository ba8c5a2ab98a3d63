"""What the tie-out reads from Kafka under read_committed: journal and ledger.state, and stretches of the journal again.

It reads by assignment from places that its caller keeps, and waits out what does not answer, both like a sink.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from confluent_kafka import KafkaException

from schemas.codec import Codec
from schemas.errors import InvariantError, PartUnavailableError
from schemas.records import AccountState, PartitionState
from sinks.columnar import decode_journal
from sinks.rows import JournalRows
from streams.clients import KafkaConfig
from streams.reader import LogReader, LogRecord, end_offsets
from streams.registry import Registry
from streams.report import Ends, Report
from streams.sink_host import SinkOptions, _keep_running, _Learner, _stop_on_signals
from streams.topics import Topics, topic_ids

T = TypeVar("T")

RECORDS_PER_POLL = 20_000
STALL_S = 20.0
_PATIENCE_MS = 200


class Feed:
    """Both topics of a world. Make one for each session; every call may raise KafkaException, which ends it."""

    def __init__(self, kafka: KafkaConfig, topics: Topics, learner: _Learner) -> None:
        self._kafka, self._topics, self._learner = kafka, topics, learner
        ids = topic_ids(kafka, [topics.journal, topics.state])
        self.journal_topic = f"{topics.journal}@{ids[topics.journal]}"
        self.state_topic = f"{topics.state}@{ids[topics.state]}"
        self.partitions = sorted(end_offsets(kafka, topics.journal))
        self._journal_ends = Ends(kafka, topics.journal, self.partitions)
        self._state_ends = Ends(kafka, topics.state, self.partitions)
        self._journal: LogReader | None = None
        self._state: LogReader | None = None

    def open(self, journal: Mapping[int, int], state: Mapping[int, int]) -> None:
        """Starts reading from these offsets; what was read before is left."""
        for reader in (self._journal, self._state):
            if reader is not None:
                reader.close()
        every = self.partitions
        self._journal = LogReader(
            self._kafka, self._topics.journal, {p: journal.get(p, 0) for p in every}, patience_ms=_PATIENCE_MS
        )
        self._state = LogReader(
            self._kafka, self._topics.state, {p: state.get(p, 0) for p in every}, patience_ms=_PATIENCE_MS
        )

    def close(self) -> None:
        """Ends all connections."""
        for part in (self._journal, self._state, self._journal_ends, self._state_ends):
            if part is not None:
                part.close()

    def journal_ends(self) -> dict[int, int]:
        """Where each partition of the journal ends now."""
        return self._journal_ends()

    def state_ends(self) -> dict[int, int]:
        """Where each partition of ledger.state ends now."""
        return self._state_ends()

    def poll_journal(self, timeout_s: float) -> tuple[JournalRows | None, dict[int, int]]:
        """What came, and the offset to read next of each partition."""
        assert self._journal is not None, "open comes first"
        records = self._journal.poll(RECORDS_PER_POLL, timeout_s)
        return (self._rows(records) if records else None), dict(self._journal.position)

    def poll_state(
        self, timeout_s: float
    ) -> tuple[list[tuple[int, int, AccountState | PartitionState]], dict[int, int], set[int]]:
        """Rows of accounts and heads (partition, offset, row) that came, the offset to read next of each partition, and
        the partitions of which everything was read."""
        assert self._state is not None, "open comes first"
        out = [
            (r.partition, r.offset, self._state_row(r))
            for r in self._state.poll(RECORDS_PER_POLL, timeout_s)
            if r.value is not None and ((r.key or b"")[:2] == b"a:" or r.key == b"meta")
        ]
        return out, dict(self._state.position), set(self._state.at_end)

    def _state_row(self, r: LogRecord) -> AccountState | PartitionState:
        row = self._learner(lambda: self._learner.codec.decode(r.value))
        if not isinstance(row, AccountState | PartitionState):
            raise InvariantError(f"ledger.state: key {r.key!r} holds a {type(row).__name__}")
        return row

    def again(self, partition: int, first: int, end: int) -> Iterator[JournalRows]:
        """The journal's records from offset `first` to before `end`, read anew. Raises PartUnavailableError when it
        does not come to the end."""
        if first >= end:
            return
        deadline = time.monotonic() + STALL_S
        with LogReader(self._kafka, self._topics.journal, {partition: first}) as reader:
            while reader.position[partition] < end:
                records = reader.poll(RECORDS_PER_POLL, 0.2)
                inside = [r for r in records if r.offset < end]
                if inside:
                    yield self._rows(inside)
                    deadline = time.monotonic() + STALL_S
                elif time.monotonic() > deadline:
                    hint = f"{self._topics.journal}[{partition}] is not read from {first} to {end}"
                    raise PartUnavailableError("Kafka", self._kafka.bootstrap, hint)

    def _rows(self, records: list[LogRecord]) -> JournalRows:
        columns = self._learner(lambda: decode_journal([r.value for r in records], self._learner.codec))
        places = np.array([(r.partition, r.offset) for r in records], dtype=np.int64)
        return JournalRows(self.journal_topic.encode(), 0, places[:, 0], places[:, 1], columns)


def feed_once(kafka: KafkaConfig, topics: Topics, registry: Registry, body: Callable[[Feed], T]) -> T:
    """What `body` returns. Raises PartUnavailableError when Kafka or the registry does not answer."""
    try:
        feed = Feed(kafka, topics, _Learner(registry.codec(), registry))
        try:
            return body(feed)
        finally:
            feed.close()
    except KafkaException as e:
        raise PartUnavailableError("Kafka", kafka.bootstrap, e.args[0].str()) from e


def keep_feeding(
    kafka: KafkaConfig,
    topics: Topics,
    registry: Registry,
    report: Report,
    session: Callable[[Feed, threading.Event], Any],
    stop: threading.Event | None = None,
) -> None:
    """Runs sessions until SIGTERM, SIGINT or `stop`; a new one whenever Kafka or the registry did not answer."""
    stop = stop or _stop_on_signals()
    codec: list[Codec] = []

    def one() -> None:
        if not codec:
            codec.append(registry.codec())
        feed = Feed(kafka, topics, _Learner(codec[0], registry))
        try:
            session(feed, stop)
        finally:
            feed.close()

    _keep_running(one, report, SinkOptions(), stop)
