"""What a backup says of itself: written last, so a folder without it is no backup."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.errors import BadInputError
from streams.archive.files import FileFacts, read_file
from streams.archive.take import Cut
from streams.registry import Registered

FORMAT = 1
NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A backup. `begun_at_ms`: commands that were settled before it are in it; `clickhouse`: where ClickHouse's part
    is ({} when there is none)."""

    world: str
    partitions: int
    begun_at_ms: int
    seconds: float
    cuts: dict[int, Cut]
    files: list[FileFacts]
    schemas: list[Registered]
    clickhouse: dict[str, Any] = field(default_factory=dict)
    version: str = ""

    @property
    def records(self) -> int:
        return sum(f.records for f in self.files)

    @property
    def bytes(self) -> int:
        return sum(f.bytes for f in self.files)

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "world": self.world, "partitions": self.partitions, "version": self.version,
            "begun_at_ms": self.begun_at_ms, "seconds": round(self.seconds, 3), "records": self.records,
            "cuts": [c.to_dict() for _, c in sorted(self.cuts.items())], "files": [f.to_dict() for f in self.files],
            "schemas": [s._asdict() for s in self.schemas], "clickhouse": self.clickhouse,
        }  # fmt: skip

    def write(self, folder: Path) -> str:
        """Writes it; returns its SHA-256, which belongs where the backup does not."""
        text = json.dumps(self.to_dict(), indent=1).encode()
        draft = folder / f"{NAME}.tmp"
        draft.write_bytes(text)
        draft.replace(folder / NAME)
        return hashlib.sha256(text).hexdigest()


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest of a backup, and its SHA-256. Raises BadInputError when there is none or it cannot be read."""
    path = folder / NAME
    try:
        text = path.read_bytes()
        found = json.loads(text)
    except FileNotFoundError:
        raise BadInputError(f"{folder} is no backup: {NAME} is written last, and is not there") from None
    except (OSError, ValueError) as e:
        raise BadInputError(f"{path} cannot be read: {e}") from None
    if found.get("format") != FORMAT:
        raise BadInputError(f"{path} has format {found.get('format')}, this version reads {FORMAT}")
    try:
        return _parsed(found), hashlib.sha256(text).hexdigest()
    except (KeyError, TypeError) as e:
        raise BadInputError(f"{path} is damaged: {e}") from None


def _parsed(found: Mapping[str, Any]) -> Manifest:
    return Manifest(
        found["world"], found["partitions"], found["begun_at_ms"], found["seconds"],
        {c["partition"]: Cut(**c) for c in found["cuts"]}, [FileFacts(**f) for f in found["files"]],
        [Registered(**s) for s in found["schemas"]], found["clickhouse"], found["version"],
    )  # fmt: skip


def verify(folder: Path, manifest: Manifest) -> int:
    """Reads every file of it again; returns the number of records. Raises BadInputError for the first that is not as
    it was written, or when the last journal record is not the one at which the state stands."""
    records = 0
    for facts in manifest.files:
        tail = b""
        for r in read_file(folder, facts):
            records += 1
            tail = r.value or b""
        cut = manifest.cuts.get(facts.partition)
        if (
            facts.topic == "journal"
            and cut is not None
            and cut.sequence
            and not tail.endswith(bytes.fromhex(cut.chain))
        ):
            raise BadInputError(f"{folder / facts.name} does not end with the record at which the state stands")
    return records
