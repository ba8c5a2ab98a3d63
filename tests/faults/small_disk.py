"""A folder with a small file system of its own in it, of which nothing stays behind, however a run ends.

It does not lie in pytest's numbered folders, where a mount that was left would be in the way of everybody who cleans up
old ones. Each run holds a lock on its folder as long as it lives; whoever makes one first clears away those whose lock
nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "clearline-incidents-"
_LOCK = "owner.lock"


@contextmanager
def data_folder(small: str, megabytes: int) -> Iterator[tuple[Path, Path | None]]:
    """A data folder, and the mounted folder `small` in it: None where nothing may be mounted. Both are gone after."""
    clear_away()
    hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))  # until it is locked nobody may take it for one that was left
    with (hidden / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        outside = hidden.rename(hidden.with_name(hidden.name.removeprefix(".")))
        try:
            folder = outside / "data"
            yield folder, mount(folder / small, megabytes)
        finally:
            remove(outside)


def mount(folder: Path, megabytes: int) -> Path | None:
    """A file system of its own at `folder`, which is made; None where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid():
        return None
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    return None if subprocess.run(command, capture_output=True, check=False).returncode else folder


def remove(outside: Path) -> None:
    """Unmounts whatever is mounted below a folder, and removes it."""
    for place in reversed(_mounted_below(outside)):
        subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)
    shutil.rmtree(outside, ignore_errors=True)


def clear_away() -> list[Path]:
    """Removes what runs that were killed have left; returns which."""
    left = []
    for outside in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError), (outside / _LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it is in use
            remove(outside)
            left.append(outside)
    return left


def _mounted_below(folder: Path) -> list[str]:
    lines = Path("/proc/mounts").read_text(encoding="utf-8").splitlines() if Path("/proc/mounts").exists() else []
    return [place for _, place, *_ in (line.split(" ") for line in lines) if place.startswith(f"{folder}/")]
