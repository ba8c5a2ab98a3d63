"""Books that replays have kept, for later ones to begin with.

Commands are kept for a limited time (30 days), and no state can be had from outcomes alone: an outcome tells what was
done, not all that was asked. So a replay that came to history's own chain keeps its books; a later one may begin there
when the commands before are gone, or to reach a late stretch of a long log sooner. What is in such a file is proven by
its chain, which the journal has as well, and the journal is kept for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_FILE = re.compile(r"(\d+)-(\d+)-(\d+)\.books")
_NEWEST_KEPT = 2


@dataclass(frozen=True, slots=True)
class Base:
    """Books of one partition. `next_offset`: the first command that is not in them; `received`: how many are."""

    path: Path
    partition: int
    next_offset: int
    received: int


def bases_of(folder: Path) -> dict[int, list[Base]]:
    """What is kept, by partition, rising."""
    out: dict[int, list[Base]] = {}
    for path in folder.glob("*.books") if folder.is_dir() else ():
        found = _FILE.fullmatch(path.name)
        if found:
            p, offset, received = map(int, found.groups())
            out.setdefault(p, []).append(Base(path, p, offset, received))
    return {p: sorted(found, key=lambda b: b.next_offset) for p, found in sorted(out.items())}


def path_for(folder: Path, partition: int, next_offset: int, received: int) -> Path:
    """Where books of this place are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{partition}-{next_offset}-{received}.books"


def thin_out(bases: Iterable[Base], kept_from: int) -> None:
    """Deletes all but the oldest that can still be begun with, and the newest."""
    usable = sorted((b for b in bases if b.next_offset >= kept_from), key=lambda b: b.next_offset)
    keep = {b.path for b in (*usable[:1], *usable[-_NEWEST_KEPT:])}
    for b in bases:
        if b.path not in keep:
            b.path.unlink(missing_ok=True)
