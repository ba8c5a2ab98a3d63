"""A run that is killed leaves its small file system mounted: the next one takes it away, and nothing that is in use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.small_disk import clear_away, data_folder

HOLDER = """
import sys
from tests.faults.small_disk import data_folder
with data_folder("kafka", 8) as (folder, disk):
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_run_has_left_is_cleared_away_and_what_runs_is_not() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        outside = Path(holder.stdout.readline().strip()).parent
        disk = outside / "data" / "kafka"
        assert disk.is_dir()
        mounted = disk.is_mount()  # where that is allowed
        assert outside not in clear_away()
        assert disk.is_dir() and disk.is_mount() == mounted
    finally:
        holder.kill()
        holder.communicate()
    assert disk.is_dir(), "it was killed, and could not remove it"
    assert outside in clear_away()
    assert not outside.exists()


def fail_in(seen: list[Path]) -> None:
    with data_folder("kafka", 8) as (folder, _):
        (folder / "kafka" / "file").touch()
        seen.append(folder.parent)
        raise ZeroDivisionError


def test_nothing_stays_when_a_block_fails() -> None:
    seen: list[Path] = []
    with pytest.raises(ZeroDivisionError):
        fail_in(seen)
    assert not seen[0].exists()
