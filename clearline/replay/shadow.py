"""One partition's books, settled once more by the settlement's own code; nothing leaves this process.

`processors.settlement.Settlement` is what a worker runs. Here its outcomes are kept instead of produced: there is no
producer in a replay, so there is nothing that could reach a topic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ledger.keys import KeyIndex
from ledger.state import Draft, PartitionBase
from processors.settlement import Batch, Outlets, Part, Settlement, merge
from schemas.codec import Codec
from schemas.errors import InvariantError
from schemas.records import Crossing, ProductState
from streams.reader import LogRecord

BATCH_RECORDS_MAX = 4_000  # as a worker's

Learn = Callable[[set[int]], set[int]]


class Message:
    """A record of the log as the settlement takes it from a Kafka client."""

    __slots__ = ("record",)

    def __init__(self, record: LogRecord) -> None:
        self.record = record

    def partition(self) -> int:
        return self.record.partition

    def value(self) -> bytes | None:
        return self.record.value

    def key(self) -> bytes | None:
        return self.record.key

    def offset(self) -> int:
        return self.record.offset

    def timestamp(self) -> tuple[int, int]:
        return 2, self.record.timestamp_ms

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self.record.headers


@dataclass(slots=True)
class Outcomes:
    """What a batch came to: journal records by source offset (none for a dead letter), and steps that it sent to other
    partitions by their idempotency key."""

    records: dict[int, bytes] = field(default_factory=dict)
    steps: dict[str, bytes] = field(default_factory=dict)

    def take(self, more: Outcomes) -> None:
        """Adds what came next."""
        self.records |= more.records
        self.steps |= more.steps


@dataclass(frozen=True, slots=True)
class Ground:
    """What all shadows of a world share. `window_ms`: for how long keys are remembered."""

    codec: Codec
    learn: Learn
    partitions: int
    window_ms: int
    message_bytes_max: int

    def settlement(self) -> Settlement:
        """The settlement's own code, with nowhere to send a reply."""
        names = ("submitted", "journal", "state", "dead", "replies")
        return Settlement(self.codec, Outlets(*names, self.partitions, 0, self.message_bytes_max), self.learn)


class Shadow:
    """The books of one partition. Raises InvariantError as a worker would."""

    def __init__(self, partition: int, ground: Ground) -> None:
        self.partition = partition
        self.base = PartitionBase(ground.window_ms)
        self.index = KeyIndex(ground.window_ms)
        self._settlement = ground.settlement()
        self._codec = ground.codec

    def settle(self, records: Sequence[LogRecord]) -> Outcomes:
        """Settles a batch, in the order of the log, and makes it the books' state."""
        if not records:
            return Outcomes()
        outcomes, batch = self._run(records, Draft(self.base))
        merge(batch)
        return outcomes

    def settle_asking(
        self, records: Sequence[LogRecord], wanted: Iterable[int], rows: Sequence[ProductState]
    ) -> tuple[Outcomes, dict[int, bytes]]:
        """The same, and beside it what the commands at the wanted offsets would have come to if these versions of
        products had stood on the shelf for that one command, everything before it as it was. Nothing of that answer
        stays in the books; a dead letter has none."""
        outcomes, alone = Outcomes(), dict[int, bytes]()
        offsets = set(wanted)
        waiting: list[LogRecord] = []
        for r in records:
            if r.offset in offsets:  # a batch may be cut anywhere: that is a rule of the settlement
                outcomes.take(self.settle(waiting))
                waiting = []
                alone |= self._run([r], self._with(rows))[0].records
            waiting.append(r)
        outcomes.take(self.settle(waiting))
        return outcomes, alone

    def _with(self, rows: Sequence[ProductState]) -> Draft:
        """A draft in which these versions stand in for those that are there."""
        draft = Draft(self.base)
        for row in rows:
            known = draft.versions(row.product)
            draft.shelf[row.product] = tuple(
                ProductState(v.product, v.version, v.effective_from, row.document, v.source_offset)
                if v.version == row.version
                else v
                for v in known
            )
        return draft

    def _run(self, records: Sequence[LogRecord], draft: Draft) -> tuple[Outcomes, Batch]:
        journal: list[bytes] = []
        dead: set[int] = set()
        steps: list[bytes] = []

        def keep(topic: str, value: Any, key: Any, partition: int, **more: Any) -> None:
            if topic == "journal":
                journal.append(value)
            elif topic == "dead":
                dead.add(int(dict(more["headers"])["source_offset"]))
            elif topic == "submitted":
                steps.append(value)

        batch = Batch({self.partition: Part([Message(r) for r in records], draft, self.index)}, keep)
        self._settlement.settle(batch)
        alive = [r.offset for r in records if r.offset not in dead]
        outcomes = Outcomes(dict(zip(alive, journal, strict=True)), dict(self._named(steps)))
        return outcomes, batch

    def _named(self, steps: Iterable[bytes]) -> Iterable[tuple[str, bytes]]:
        for value in steps:
            step = self._codec.decode(value)
            if not isinstance(step, Crossing):
                raise InvariantError(f"a {type(step).__name__} was sent to another partition", self.partition)
            yield step.idempotency_key, value
