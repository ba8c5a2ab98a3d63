"""The auditor's eyes on a running world: its topics through `streams.reader`, under read_committed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from schemas.codec import Codec, UnknownSchemaError
from schemas.errors import PartUnavailableError
from streams.clients import KafkaConfig
from streams.reader import LogReader, LogRecord, committed_offsets, spans
from streams.registry import Registry, learn_schemas
from streams.topics import Topics

STALL_S = 60.0
RECORDS_MAX = 10_000


class LiveLog:
    """The topics of a world on a broker. Raises PartUnavailableError when it does not answer."""

    def __init__(self, kafka: KafkaConfig, topics: Topics, partitions: int) -> None:
        self.partitions = partitions
        self._kafka = kafka
        self._group = topics.group
        self._names = {
            "submitted": topics.submitted, "journal": topics.journal, "state": topics.state, "dead": topics.dead,
            "seals": topics.seals,
        }  # fmt: skip

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset kept and the offset after the last record, now."""
        return self.spans(topic)[partition]

    def spans(self, topic: str) -> dict[int, tuple[int, int]]:
        """The same of all partitions, asked at once."""
        return spans(self._kafka, self._names[topic])

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[LogRecord]:
        """Committed records of a partition. Waits for transactions that are still open before `end`."""
        return self.read_many(topic, {partition: (start, end)})

    def read_many(self, topic: str, ranges: Mapping[int, tuple[int, int]]) -> Iterator[LogRecord]:
        """The same of several partitions, each from its start to before its end; in order within a partition."""
        ends = {p: end for p, (start, end) in ranges.items() if start < end}
        if not ends:
            return
        name = self._names[topic]
        deadline = time.monotonic() + STALL_S
        with LogReader(self._kafka, name, {p: ranges[p][0] for p in ends}) as reader:
            while behind := [p for p, end in ends.items() if reader.position[p] < end]:
                before = dict(reader.position)
                for record in reader.poll(RECORDS_MAX, 0.2):
                    if record.offset < ends[record.partition]:
                        yield record
                if reader.position != before:
                    deadline = time.monotonic() + STALL_S
                elif time.monotonic() > deadline:
                    p = behind[0]
                    hint = f"{name}[{p}] stands at {before[p]} of {ends[p]}: a Kafka transaction stays open"
                    raise PartUnavailableError("Kafka", self._kafka.bootstrap, hint)

    def group_offset(self, partition: int) -> int:
        """Where the settlement group stands; negative when it has committed nothing."""
        return committed_offsets(self._kafka, self._group, self._names["submitted"])[partition]


class LearningCodec:
    """Decodes, and asks the registry once for each schema id that it does not know."""

    def __init__(self, codec: Codec, registry: Registry) -> None:
        self._codec = codec
        self._registry = registry
        self._refused: set[int] = set()

    def decode(self, value: bytes | None) -> Any:
        """The record in these bytes. Raises UndecodableError."""
        try:
            return self._codec.decode(value)
        except UnknownSchemaError as e:
            if e.schema_id in self._refused:
                raise
            learn_schemas(self._codec, self._registry, {e.schema_id}, self._refused)
            return self._codec.decode(value)
