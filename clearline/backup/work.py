"""Makes a backup of a world that runs, and restores one where the world is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from clearline import __version__
from clearline.backup.manifest import Manifest, read_manifest, verify
from clearline.config import Settings
from clearline.connection import clickhouse_config, connect, kafka_config, registry_of
from schemas.errors import BadInputError
from sinks import backup as clickhouse
from streams.archive.put import put_topics
from streams.archive.take import bare, take_topics
from streams.topics import Topics

Extent = Literal["whole", "own", "none"]
Progress = Callable[[int], None]
PARTS = ("topics", "clickhouse", "own")


def create(
    settings: Settings, folder: Path, *, extent: Extent = "own", disk: str = "", progress: Progress | None = None
) -> tuple[Manifest, str]:
    """Writes a backup into a folder that is empty or not there; returns its manifest and the manifest's SHA-256.

    ClickHouse first, so that it is never ahead of the journal in the backup. `disk`: the disk of the ClickHouse servers
    that its part goes to; empty: below the folder, which a server on this machine can write.

    Raises BadInputError, PartUnavailableError, InvariantError when state and journal do not belong together.
    """
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        raise BadInputError(f"{folder} is not empty: every backup has a folder of its own")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds what partners did
    began, begun_at_ms = time.monotonic(), int(time.time() * 1000)
    system = connect(settings)
    registry = registry_of(settings)
    kept: dict[str, Any] = {}
    if extent != "none":
        place = clickhouse.Place(folder.name if disk else str(folder / "clickhouse"), disk)
        parts = clickhouse.backup(clickhouse_config(settings), place, extent)
        kept = {"extent": extent, **asdict(place), "parts": parts}
    taken = take_topics(system.kafka, system.topics, system.codec, folder, progress)
    manifest = Manifest(
        settings.world, settings.partitions, begun_at_ms, time.monotonic() - began, taken.cuts, taken.files,
        registry.listing(), kept, __version__,
    )  # fmt: skip
    return manifest, manifest.write(folder)


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored."""

    schemas_new: int
    records: int
    clickhouse: list[str]
    seconds: float


def restore(settings: Settings, folder: Path, only: str = "", progress: Progress | None = None) -> Restored:
    """Restores a backup, or one of PARTS. No role of the world may run.

    topics: schemas and topics, on a cluster where the world's topics are empty or not there; clickhouse: all of it,
    where its databases are not; own: of ClickHouse what no journal can bring back, into tables that are empty.

    Raises BadInputError, NotEmptyError, PartUnavailableError.
    """
    folder = folder.absolute()
    began = time.monotonic()
    manifest, _ = read_manifest(folder)
    _refuse_another(settings, manifest, only)
    schemas_new = records = 0
    if only in ("", "topics"):
        verify(folder, manifest)  # else a torn file would be met when half of the world is written
        schemas_new = registry_of(settings).register_again(manifest.schemas)
        records = put_topics(
            kafka_config(settings), Topics(settings.world), folder, manifest.files,
            {p: cut.next_offset for p, cut in manifest.cuts.items()}, manifest.partitions,
            replication=settings.kafka.replication, progress=progress,
        )  # fmt: skip
    parts: list[str] = []
    if only != "topics" and manifest.clickhouse:
        kept, config = manifest.clickhouse, clickhouse_config(settings)
        # A backup may be read in another place than it was written in.
        place = clickhouse.Place(kept["name"] if kept["disk"] else str(folder / "clickhouse"), kept["disk"])
        whole = only == "clickhouse"
        parts = (clickhouse.restore_whole if whole else clickhouse.restore_own)(config, place, list(kept["parts"]))
    return Restored(schemas_new, records, parts, time.monotonic() - began)


def _refuse_another(settings: Settings, manifest: Manifest, only: str) -> None:
    if only not in ("", *PARTS):
        raise BadInputError(f"{only} is no part of a backup; parts are {', '.join(PARTS)}")
    for name, ours, theirs in (
        ("world", settings.world, manifest.world),
        ("partitions", settings.partitions, manifest.partitions),
    ):
        if ours != theirs:
            raise BadInputError(f"the backup is of {name} {theirs}, the settings say {ours}")
    known = {bare(Topics(settings.world), n) for n in Topics(settings.world).settings()}
    unknown = {f.topic for f in manifest.files} - known
    if unknown:
        raise BadInputError(
            f"the backup has the topic {min(unknown)}, which this version does not know: use a newer one"
        )


def plan_of(settings: Settings, folder: Path, only: str = "") -> list[str]:
    """What `restore` would do, in words. Raises BadInputError."""
    manifest, _ = read_manifest(folder)
    _refuse_another(settings, manifest, only)
    lines = []
    if only in ("", "topics"):
        lines.append(f"register {len(manifest.schemas)} schemas with the ids that they had")
        lines += [
            f"write {f.records:,} records to {settings.world}.{f.topic}[{f.partition}] up to offset {f.last}"
            for f in manifest.files
            if f.records
        ]
    if only != "topics":
        what = "all of" if only == "clickhouse" else "what no journal can bring back of"
        lines += [f"restore {what} ClickHouse from its part {p}" for p in manifest.clickhouse.get("parts", [])]
    return lines or [f"{folder} holds nothing of this"]
