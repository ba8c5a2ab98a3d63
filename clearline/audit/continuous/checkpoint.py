"""The running sums over a restart: a file, so that years of journal need not be read again.

It is not believed blindly: its digest must be right, it must be of this journal (topic id), and the journal's record at
its place must carry the chain value that it names, which proves every record before. What it says of sums is looked at
again in turn, stretch by stretch, from the journal; and whatever differs is read again before it is said.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from clearline.audit.continuous.running import Head, RunningSums
from sinks.stored_sums import Key, PartSums, Sums

log = structlog.get_logger()

_VERSION = 1
Contents = tuple[str, str]


class _File(msgspec.Struct):
    """What is written; chains as hex digits, sums as rows of key and figures."""

    version: int
    topic: str
    heads: dict[str, tuple[int, int, int, str]]
    sums: list[tuple[str, int, int, int, str, int, int, int, int]]
    parts: list[tuple[str, str, list[tuple[int, int, int, str, int, int, int, int]]]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Sums up to the heads, and the sums of parts of ClickHouse by table and contents."""

    topic: str
    heads: dict[int, Head]
    sums: dict[Key, Sums]
    parts: dict[Contents, PartSums]

    def running(self) -> RunningSums:
        """Running sums that go on from here."""
        out = RunningSums()
        out.sums = dict(self.sums)
        for p, head in self.heads.items():
            at = out.of(p)
            at.read = at.cut = head
            at.position = head.offset + 1
        for key, sums in self.sums.items():
            if key.table == "postings":
                totals = out.of(key.partition).totals
                totals[key.currency] = totals.get(key.currency, Sums()).plus(sums)
        return out


def save(path: Path, topic: str, running: RunningSums, parts: Mapping[Contents, PartSums]) -> None:
    """Writes the file whole or not at all. Raises OSError."""
    content = _File(
        _VERSION,
        topic,
        {
            str(p): (at.cut.offset, at.cut.sequence, at.cut.booked_at, at.cut.chain.hex())
            for p, at in running.partitions.items()
            if at.cut.sequence
        },
        [(*key, *sums) for key, sums in running.sums.items()],
        [(t, c, [(*k[1:], *s) for k, s in p.within.items()]) for (t, c), p in parts.items() if p.whole],
    )
    body = msgspec.json.encode(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    with draft.open("wb") as f:
        f.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        f.flush()
        os.fsync(f.fileno())
    draft.replace(path)


def load(path: Path, topic: str) -> Checkpoint | None:
    """What the file says; None when there is none, it is damaged, or of another journal."""
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            raise ValueError("its digest is wrong")
        found = msgspec.json.decode(body, type=_File)
        if found.version != _VERSION or found.topic != topic:
            raise ValueError(f"it is of {found.topic}, version {found.version}")
        return _checkpoint(found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError) as e:
        log.warning("tie-out's checkpoint is not used: the journal is read from its start", file=str(path), why=str(e))
        return None


def _checkpoint(found: _File) -> Checkpoint:
    parts: dict[Contents, PartSums] = {}
    for table, contents, rows in found.parts:
        within = {Key(table, *row[:4]): Sums(*row[4:]) for row in rows}
        parts[table, contents] = PartSums(within)
    return Checkpoint(
        found.topic,
        {int(p): Head(offset, sequence, at, bytes.fromhex(c)) for p, (offset, sequence, at, c) in found.heads.items()},
        {Key(*row[:5]): Sums(*row[5:]) for row in found.sums},
        parts,
    )
