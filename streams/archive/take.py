"""Takes a backup of a world's topics while everything runs.

There is no moment at which all topics stand still, so the order makes the copy consistent. First what only follows the
journal (notifications, seals, what operators did, keys): of it the copy never knows more than of the journal. Then
`ledger.state`, whose last row `meta` of each partition is the cut: next offset, sequence and chain head, committed
together. Then `transactions.submitted`, at least as far as the cut, so each step between partitions that the state has
sent is in it. Then journal and dead letters, no further than the cut. What is submitted beyond the cut is kept, too:
it is settled after the restore as it was settled the first time, because the ledger is a function of this log.

`ledger.state` is compacted while it is copied: a row may be taken away before it was read because a newer one exists,
and the newer one may stand beyond where the reading was to end. So it is read on to where it ends by then, until a
stretch comes of which nothing was taken away: then whatever is missing before has its newer row in the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from schemas.codec import CHAIN_BYTES, Codec
from schemas.errors import InvariantError, PartUnavailableError
from schemas.records import PartitionState
from streams.archive.files import FileFacts, RecordFile
from streams.clients import KafkaConfig
from streams.letters import letter_of
from streams.reader import LogRecord, end_offsets, read_decided, read_to_end, spans
from streams.topics import Topics

META = b"meta"
_STRETCHES_MAX = 30
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the ledger of one partition stands in a backup."""

    partition: int
    next_offset: int
    sequence: int
    chain: str  # hex

    def to_dict(self) -> dict[str, int | str]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken: a cut for each partition that has settled something, and the files."""

    cuts: dict[int, Cut]
    files: list[FileFacts]

    @property
    def records(self) -> int:
        return sum(f.records for f in self.files)


class Stretch:
    """Sees the committed records of a stretch of `ledger.state`, from last stable offsets to others, and whether each
    that was written there came: between them are the end markers of Kafka transactions, each behind a `meta`, and else
    nothing. What was aborted looks as if something was taken away."""

    def __init__(self, start: Mapping[int, int], ends: Mapping[int, int]) -> None:
        self._ends = ends
        self._at = {p: (start[p], False) for p in ends}  # the next offset, and whether a marker may be there
        self._torn = False

    def see(self, r: LogRecord) -> None:
        """The next record of its partition."""
        self._torn |= not self._may_be(r.partition, r.offset)
        self._at[r.partition] = r.offset + 1, r.key == META

    def is_whole(self) -> bool:
        """Whether nothing is missing, now that all came."""
        return not self._torn and all(self._may_be(p, end) for p, end in self._ends.items())

    def _may_be(self, partition: int, offset: int) -> bool:
        at, marker = self._at[partition]
        return offset == at or (marker and offset == at + 1)


def bare(topics: Topics, name: str) -> str:
    """A topic's name without its world: `journal`."""
    return name.removeprefix(f"{topics.world}.")


def order(topics: Topics) -> list[str]:
    """The topics in the order in which they are read. Answers that nobody waits for any more are in no backup."""
    last = [topics.state, topics.submitted, topics.journal, topics.dead]
    return [n for n in topics.settings() if n not in (*last, topics.replies)] + last


def take_topics(
    kafka: KafkaConfig, topics: Topics, codec: Codec, folder: Path, progress: Progress | None = None
) -> Taken:
    """Writes the topics into a folder. Raises PartUnavailableError, InvariantError when state and journal differ."""
    taker = _Taker(kafka, topics, codec, folder, progress or (lambda _done: None))
    for name in order(topics):
        taker.take(name)
    return Taken(taker.cuts, taker.files)


class _Taker:
    def __init__(self, kafka: KafkaConfig, topics: Topics, codec: Codec, folder: Path, progress: Progress) -> None:
        self.kafka, self.topics, self.codec, self.folder = kafka, topics, codec, folder
        self.cuts: dict[int, Cut] = {}
        self.files: list[FileFacts] = []
        self._progress = progress
        self._done = 0

    def take(self, name: str) -> None:
        rows = {
            self.topics.state: self._state, self.topics.journal: self._journal, self.topics.dead: self._dead,
        }.get(name, self._whole)(name)  # fmt: skip
        cut_short = name in (self.topics.journal, self.topics.dead)
        open_files = {
            p: RecordFile(self.folder, bare(self.topics, name), p, low, 0 if cut_short else high)
            for p, (low, high) in spans(self.kafka, name).items()
        }
        try:
            for r in rows:
                file = open_files[r.partition]
                if r.offset <= file.last:  # its beginning was dropped by retention between the two questions
                    continue
                file.add(r)
                self._done += 1
                if not self._done % 1_000:
                    self._progress(self._done)
        finally:
            for file in open_files.values():
                file.close()
        self.files += [file.facts for file in open_files.values()]
        self._progress(self._done)

    def _whole(self, name: str) -> Iterator[LogRecord]:
        """To the end; of one that is compacted slowly once more to where it ends by then, for the same reason."""
        if self.topics.settings()[name].get("cleanup.policy") != "compact":
            yield from read_to_end(self.kafka, name)
            return
        ends = end_offsets(self.kafka, name)
        yield from read_decided(self.kafka, name, ends)
        yield from read_to_end(self.kafka, name, ends)

    def _stable(self, name: str) -> Iterator[LogRecord]:
        """Up to a last stable offset: whole Kafka transactions only, because one writer writes each partition. Nothing
        that compaction took away meanwhile is missing (see the module)."""
        start: dict[int, int] | None = None
        for _ in range(_STRETCHES_MAX):
            ends = end_offsets(self.kafka, name)
            stretch = Stretch(start, ends) if start is not None else None
            for r in read_decided(self.kafka, name, ends, start):
                if stretch is not None:
                    stretch.see(r)
                yield r
            if stretch is not None and stretch.is_whole():
                return
            start = ends
        hint = f"{name} is compacted, or Kafka transactions are aborted, faster than it can be copied: try again"
        raise PartUnavailableError("Kafka", self.kafka.bootstrap, hint)

    def _state(self, name: str) -> Iterator[LogRecord]:
        """Rows of each partition up to a `meta`, with which each batch of the settlement ends."""
        waiting: dict[int, list[LogRecord]] = {}
        for r in self._stable(name):
            rows = waiting.setdefault(r.partition, [])
            rows.append(r)
            if r.key != META:
                continue
            head = self.codec.decode(r.value)
            assert isinstance(head, PartitionState)
            known = self.cuts.get(r.partition)
            if known is None or head.next_offset >= known.next_offset:
                self.cuts[r.partition] = Cut(r.partition, head.next_offset, head.sequence, head.chain.hex())
            yield from rows
            rows.clear()

    def _journal(self, name: str) -> Iterator[LogRecord]:
        """Each partition up to the record whose chain is the state's."""
        wanted = {p: bytes.fromhex(c.chain) for p, c in self.cuts.items() if c.sequence}
        reached: set[int] = set()
        for r in read_to_end(self.kafka, name):
            if r.partition in reached or r.partition not in wanted:
                continue
            yield r
            if r.value is not None and r.value[-CHAIN_BYTES:] == wanted[r.partition]:
                reached.add(r.partition)
                if reached == wanted.keys():
                    return
        missing = sorted(wanted.keys() - reached)
        if missing:
            raise InvariantError(
                f"the journal of partitions {missing} does not hold the record at which the state stands: "
                "run `clearline verify`",
                missing[0],
            )

    def _dead(self, name: str) -> Iterator[LogRecord]:
        """Letters of commands before the cut: those after it are written again when their commands are settled."""
        for r in read_to_end(self.kafka, name):
            cut = self.cuts.get(r.partition)
            if cut is not None and letter_of(r).source_offset < cut.next_offset:
                yield r
