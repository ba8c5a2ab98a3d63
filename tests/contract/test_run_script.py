"""`./run` on machines that cannot make an environment says what to do; the pins it installs are complete."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINS = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without an environment, in a folder with a space in its name."""
    fresh = tmp_path / "my clone"
    fresh.mkdir()
    shutil.copy(ROOT / "run", fresh / "run")
    shutil.copytree(ROOT / "requirements", fresh / "requirements")
    return fresh


def run(checkout: Path, python: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "PYTHON": python, "HOME": str(checkout)}
    return subprocess.run(["sh", checkout / "run", "status"], capture_output=True, text=True, env=env, timeout=60)


def imitation(checkout: Path, refuses: str) -> str:
    """A Python that ends with an error when a program for it has this text."""
    path = checkout / "python"
    path.write_text(f'#!/bin/sh\ncase "$2" in *{refuses}*) exit 1 ;; esac\nexit 0\n')
    path.chmod(0o755)
    return str(path)


def test_without_a_python_it_says_which_one_is_needed(checkout):
    done = run(checkout, "/no/such/python")
    assert done.returncode == 2
    assert "error: Python 3.11 or newer was not found" in done.stderr
    assert done.stdout == ""


def test_an_old_python_is_not_taken(checkout):
    assert "Python 3.11 or newer" in run(checkout, imitation(checkout, "version_info")).stderr


def test_a_python_without_ensurepip_is_told_apart(checkout):
    done = run(checkout, imitation(checkout, "ensurepip"))
    assert done.returncode == 2
    assert "has no ensurepip" in done.stderr
    assert "apt install python3-venv" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("file", PINS, ids=lambda p: p.name)
def test_every_package_is_pinned_with_hashes_and_no_index_is_named(file):
    text = file.read_text()
    packages = re.findall(r"^[a-z0-9][^\n]*(?:\n    --hash[^\n]*)*", text, re.M)
    assert packages
    for package in packages:
        assert re.match(r"[a-z0-9._-]+(\[[a-z0-9,]+\])?==\S+", package), package
        assert "--hash=sha256:" in package, package
    assert "://" not in text


def test_nothing_that_is_installed_needs_a_compiler_or_is_there_for_data_frames():
    names = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements" / "runtime.txt").read_text(), re.M))
    assert not names & {"pandas", "pyarrow", "chdb"}
    assert "lz4==3" not in (ROOT / "requirements" / "runtime.txt").read_text()  # the last one without wheels
