"""The image: what the Dockerfile copies is enough to run every role, it runs as nobody, and it holds no more than that."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from clearline.config import Settings
from clearline.healthy import FRESH_S, trouble

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
# One process: imports every module that was copied, each as a role would, and says which packages they came from.
IMPORT_ALL = """
import importlib, json, pathlib, sys
root = pathlib.Path(sys.argv[1])
names = [".".join(p.relative_to(root).with_suffix("").parts) for p in sorted(root.rglob("*.py"))]
names = [n.removesuffix(".__init__") for n in names if not n.endswith("__main__")]
for name in names:
    module = importlib.import_module(name)
    assert str(module.__file__).startswith(str(root)), (name, module.__file__)
print(json.dumps(names))
"""


def copied() -> list[str]:
    """The folders and files of ours that the last stage copies."""
    last = TEXT.rpartition("\nFROM ")[2]
    return [source for source, target in re.findall(r"^COPY (\S+) (\S+)$", last, re.M) if source == target]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the image has of ours, and nothing else."""
    root = tmp_path_factory.mktemp("image")
    for name in copied():
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    return root


def run(image: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(image), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(image)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=image.parent, env=env, timeout=120
    )


def test_it_copies_the_packages_of_the_wheel_and_the_products():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(copied()) == {*wheel["packages"], *wheel["force-include"]}


def test_every_module_of_it_can_be_imported(image):
    done = run(image, "-W", "ignore", "-c", IMPORT_ALL, str(image))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"clearline.cli", "clearline.worker", "clearline.gateway.serve", "streams.core", "ledger.book"} <= set(found)


def test_its_entry_point_starts_and_finds_its_products(image):
    words = re.findall(r'"([^"]+)"', re.findall(r"^ENTRYPOINT \[(.*)\]$", TEXT, re.M)[0])
    assert words[0] == "python"
    done = run(image, *words[1:], "--help")
    assert done.returncode == 0, done.stderr
    assert "prepare" in done.stdout
    shelf = run(image, *words[1:], "product", "test", str(image / "products" / "wallet.yaml"), "--json")
    assert shelf.returncode == 0, shelf.stderr


def test_the_build_sees_what_is_copied_and_no_secret():
    lines = [x for x in (ROOT / ".dockerignore").read_text().splitlines() if x and not x.startswith("#")]
    assert lines[0] == "*", "nothing but what is named"
    let_in = {x[1:] for x in lines if x.startswith("!")}
    assert let_in == {*copied(), "requirements/*.txt"}
    for path in (".env", ".git/config", "tests/run.py", "docs/settings.md", "deploy/make-env.sh"):
        assert not any(fnmatch(path, f"{x}*") for x in let_in), path
    assert not re.search(r"(?i)^(ENV|ARG).*(password|secret|token|api_?key)", TEXT, re.M)


def test_it_runs_as_nobody_from_pins():
    assert re.search(r"^ARG BASE=python:3\.\d+\.\d+-slim-\w+$", TEXT, re.M)
    assert set(re.findall(r"^FROM (\S+)", TEXT, re.M)) == {"${BASE}"}
    assert re.search(r"^USER 10001$", TEXT, re.M)
    assert TEXT.index("USER 10001") < TEXT.index("ENTRYPOINT")
    assert TEXT.count("--require-hashes") == 2
    assert "org.opencontainers.image.version" in TEXT
    assert re.search(r"^HEALTHCHECK .*clearline\.healthy", TEXT, re.M)


def test_the_version_is_that_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f'image.version="{version}"' in TEXT
    assert f"image: clearline:{version}" in (ROOT / "docker-compose.yml").read_text()


def test_its_settings_are_settings(monkeypatch):
    for name, value in re.findall(r"(CLEARLINE_\w+)=(\S+)", TEXT):
        monkeypatch.setenv(name, value)
    assert str(Settings().data_dir) == "/var/lib/clearline"


def health(path: Path, now_s: float) -> str:
    return trouble({"CLEARLINE_READY_FILE": str(path)}, now_s)


def test_its_health_check_reads_what_a_role_says_of_itself(tmp_path):
    file, now = tmp_path / "ready.json", time.time()
    assert trouble({}, now) == "CLEARLINE_READY_FILE is not set"
    assert "cannot be read" in health(file, now)
    file.write_text(json.dumps({"pid": os.getpid(), "ready": True}))
    assert health(file, now) == ""
    assert health(file, now + FRESH_S + 2).startswith("silent for")
    file.write_text(json.dumps({"pid": os.getpid(), "ready": False, "waiting_for": "Kafka does not answer"}))
    assert health(file, now) == "Kafka does not answer"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    file.write_text(json.dumps({"pid": ended.pid, "ready": True}))
    assert health(file, now) == "its process is gone"
    done = run(ROOT, "-m", "clearline.healthy")
    assert done.returncode == 1
