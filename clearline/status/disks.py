"""The file systems that the embedded stack's data lies on, and what takes how much of them."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from clearline.embedded.folder import FREE_BYTES_MIN, DataFolder
from clearline.status.model import Disk

_AGAIN_S = 15.0  # sizes of folders are counted file by file


class Disks:
    """Looks again and again; sizes are counted at most every 15 s."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._sizes: dict[Path, int] = {}
        self._counted_at = float("-inf")

    def look(self) -> tuple[Disk, ...]:
        """One entry for each file system below the data folder."""
        root = self._folder.root
        there = next((p for p in (root, *root.parents) if p.exists()), root)
        folders = [p for p in (root / n for n in ("kafka", "clickhouse", "redis", "registry", "logs")) if p.is_dir()]
        if time.monotonic() - self._counted_at > _AGAIN_S:
            self._sizes = {p: _bytes_below(p) for p in folders}
            self._counted_at = time.monotonic()
        by_device: dict[int, tuple[Path, dict[str, int]]] = {}
        for path in (there, *folders):
            with suppress(OSError):
                _, used = by_device.setdefault(path.stat().st_dev, (path, {}))
                if path in self._sizes:
                    used[path.name] = self._sizes[path]
        found = []
        for path, used in by_device.values():
            with suppress(OSError):
                space = shutil.disk_usage(path)
                # Without so much in the data folder nothing starts; what is mounted below it may be a small disk.
                needed = FREE_BYTES_MIN if path == there else min(FREE_BYTES_MIN, space.total // 10)
                found.append(Disk(str(path), space.free, space.total, needed, used))
        return tuple(found)


def _bytes_below(folder: Path) -> int:
    """What the files of a folder take on the disk; files come and go meanwhile."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
    return total
