"""The files of a backup: records as they were, framed, compressed, and hashed.

A file holds one partition: per record four bytes of length and a MessagePack array of offset, timestamp in ms, key,
value and headers. Its hash is over the frames before compression, so it says the same whatever compressed them.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec

from schemas.errors import BadInputError
from streams.reader import LogRecord

_LENGTH = 4
_COMPRESSION = 1  # chain values and ids are random: more effort takes time and saves little


class Kept(NamedTuple):
    """One record of a file. `timestamp_ms`: as the broker had it."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What the manifest says of one file. `start`: first offset that the log kept; `records` from there on, the last at
    `last` (`start` - 1 when there is none); `end`: the next offset that the log would have given."""

    topic: str  # without its world
    partition: int
    start: int
    last: int
    end: int
    records: int
    bytes: int  # of the frames
    sha256: str

    @property
    def name(self) -> str:
        return f"topics/{self.topic}/{self.partition}.gz"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class RecordFile:
    """Writes one partition. Close it; then `facts` holds."""

    folder: Path
    topic: str
    partition: int
    start: int
    end: int = 0  # at least; what comes behind the last record as well
    last: int = field(init=False)
    records: int = 0
    size: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)
    _file: BinaryIO = field(init=False)

    def __post_init__(self) -> None:
        self.last = self.start - 1
        path = self.folder / "topics" / self.topic / f"{self.partition}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = cast(BinaryIO, gzip.open(path, "wb", compresslevel=_COMPRESSION))  # noqa: SIM115  # see close

    def add(self, r: LogRecord) -> None:
        """Adds a record; offsets must rise."""
        assert r.offset > self.last
        body = msgspec.msgpack.encode([r.offset, r.timestamp_ms, r.key, r.value, r.headers or []])
        frame = len(body).to_bytes(_LENGTH, "big") + body
        self._hash.update(frame)
        self._file.write(frame)
        self.last = r.offset
        self.records += 1
        self.size += len(frame)

    def close(self) -> None:
        self._file.close()

    @property
    def facts(self) -> FileFacts:
        return FileFacts(
            self.topic, self.partition, self.start, self.last, max(self.end, self.last + 1), self.records, self.size,
            self._hash.hexdigest(),
        )  # fmt: skip


def read_file(folder: Path, facts: FileFacts) -> Iterator[Kept]:
    """The records of a file, checked while they are read.

    Raises BadInputError when it is missing, cut short or changed: after the last record at the latest.
    """
    path = folder / facts.name
    digest, records, last = hashlib.sha256(), 0, facts.start - 1
    decoder = msgspec.msgpack.Decoder(Kept)
    try:
        with gzip.open(path, "rb") as file:
            while head := file.read(_LENGTH):
                body = file.read(int.from_bytes(head, "big"))
                digest.update(head + body)
                record = decoder.decode(body)
                if record.offset <= last:
                    raise BadInputError(f"{path}: offset {record.offset} comes after {last}")
                records, last = records + 1, record.offset
                yield record
    except (OSError, EOFError, msgspec.DecodeError, ValueError) as e:
        if isinstance(e, BadInputError):
            raise
        raise BadInputError(f"{path} cannot be read: {e}") from None
    if (records, last, digest.hexdigest()) != (facts.records, facts.last, facts.sha256):
        raise BadInputError(
            f"{path} is not the file that was written: {records} records, the manifest says {facts.records}"
        )
