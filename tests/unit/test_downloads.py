"""Downloads against a real HTTP server on loopback: resumed, checked, refused, explained."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clearline.embedded import downloads as module
from clearline.embedded.downloads import (
    Artifact,
    CorruptDownloadError,
    Downloads,
    Silent,
    locked_artifacts,
    repositories,
)
from schemas.errors import ClearlineError

CONTENT = bytes(range(256)) * 4096


@dataclass
class Mirror:
    """A repository that can be told to misbehave: cut answers short, lie, or refuse."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    refuse: list[int] = field(default_factory=list)
    ranges_seen: list[str | None] = field(default_factory=list)
    understands_ranges: bool = True
    url: str = ""


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    state = Mirror()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.ranges_seen.append(wanted)
            content = state.files.get(self.path)
            if state.refuse or content is None:
                self.send_error(state.refuse.pop(0) if state.refuse else 404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.understands_ranges else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = state.cut_after.pop(0) if state.cut_after else len(content)
            self.wfile.write(content[start:end])
            if end < len(content):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def artifact(content: bytes = CONTENT, path: str = "org/example/thing/1.0/thing-1.0.jar") -> Artifact:
    return Artifact("kafka", len(content), hashlib.sha256(content).hexdigest(), path)


def cache(mirror: Mirror, folder: Path, progress: module.Progress | None = None) -> Downloads:
    return Downloads(folder, lambda: [mirror.url], progress or Silent())


def test_a_file_is_fetched_once(mirror, tmp_path):
    wanted = artifact()
    mirror.files["/" + wanted.path] = CONTENT
    for _ in range(2):
        (path,) = cache(mirror, tmp_path).fetch([wanted])
        assert path.read_bytes() == CONTENT
    assert mirror.ranges_seen == [None]


def test_an_interrupted_download_goes_on_where_it_stopped(mirror, tmp_path):
    wanted = artifact()
    mirror.files["/" + wanted.path] = CONTENT
    mirror.cut_after = [300_000, 700_000]
    (path,) = cache(mirror, tmp_path).fetch([wanted])
    assert path.read_bytes() == CONTENT
    first, second, third = mirror.ranges_seen
    assert first is None
    assert second is not None
    assert third is not None
    starts = [int(re.sub(r"\D", "", r)) for r in (second, third)]
    assert 0 < starts[0] <= 300_000 < starts[1] <= 700_000


def test_a_download_left_by_a_killed_process_is_finished(mirror, tmp_path):
    wanted = artifact()
    mirror.files["/" + wanted.path] = CONTENT
    part = cache(mirror, tmp_path).path(wanted).with_name("thing-1.0.jar.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    (path,) = cache(mirror, tmp_path).fetch([wanted])
    assert path.read_bytes() == CONTENT
    assert mirror.ranges_seen == ["bytes=1000-"]


def test_a_server_without_ranges_sends_all_of_it_again(mirror, tmp_path):
    wanted = artifact()
    mirror.files["/" + wanted.path] = CONTENT
    mirror.cut_after, mirror.understands_ranges = [300_000], False
    (path,) = cache(mirror, tmp_path).fetch([wanted])
    assert path.read_bytes() == CONTENT


def test_a_corrupt_rest_is_thrown_away_and_fetched_again(mirror, tmp_path):
    wanted = artifact()
    mirror.files["/" + wanted.path] = CONTENT
    part = cache(mirror, tmp_path).path(wanted).with_name("thing-1.0.jar.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    (path,) = cache(mirror, tmp_path).fetch([wanted])
    assert path.read_bytes() == CONTENT
    assert mirror.ranges_seen == ["bytes=1000-", None]


def test_a_file_of_a_wrong_size_in_the_cache_is_replaced(mirror, tmp_path):
    wanted = artifact()
    mirror.files["/" + wanted.path] = CONTENT
    there = cache(mirror, tmp_path).path(wanted)
    there.parent.mkdir(parents=True)
    there.write_bytes(CONTENT[:-1])
    (path,) = cache(mirror, tmp_path).fetch([wanted])
    assert path.read_bytes() == CONTENT


def test_a_file_that_is_not_the_pinned_one_never_gets_its_name(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS_MAX", 2)
    wanted = artifact()
    mirror.files["/" + wanted.path] = CONTENT[:-1] + b"!"
    with pytest.raises(
        CorruptDownloadError, match=r"thing-1\.0\.jar .* is not the pinned file .* thrown away"
    ) as caught:
        cache(mirror, tmp_path).fetch([wanted])
    assert caught.value.exit_code == 3
    assert not [p for p in tmp_path.rglob("thing*") if p.is_file()]


def test_a_busy_server_is_asked_again(mirror, tmp_path):
    wanted = artifact()
    mirror.files["/" + wanted.path] = CONTENT
    mirror.refuse = [503, 429]
    (path,) = cache(mirror, tmp_path).fetch([wanted])
    assert path.read_bytes() == CONTENT


def test_the_next_repository_is_tried(mirror, tmp_path):
    wanted = artifact()
    mirror.files["/" + wanted.path] = CONTENT
    bases = [mirror.url + "/empty", mirror.url]
    (path,) = Downloads(tmp_path, lambda: bases, Silent()).fetch([wanted])
    assert path.read_bytes() == CONTENT


def test_an_impossible_download_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS_MAX", 1)
    wanted = artifact()
    with pytest.raises(ClearlineError) as caught:
        Downloads(tmp_path, lambda: ["http://127.0.0.1:1"], Silent()).fetch([wanted])
    text = str(caught.value)
    for hint in ("thing-1.0.jar", "http://127.0.0.1:1", "CLEARLINE_MAVEN_REPOSITORY", str(tmp_path)):
        assert hint in text
    assert "\n" not in text


def test_a_full_disk_is_told_before_anything_is_fetched(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SPARE_BYTES", 1 << 60)
    with pytest.raises(ClearlineError, match=r"MB free, but the downloads need .* CLEARLINE_CACHE_DIR"):
        cache(mirror, tmp_path).fetch([artifact()])
    assert mirror.ranges_seen == []


def test_progress_adds_up_to_the_size_although_the_download_was_interrupted(mirror, tmp_path):
    told: list[int] = []

    class Told(Silent):
        def advance(self, size: int) -> None:
            told.append(size)

    wanted = artifact()
    mirror.files["/" + wanted.path] = CONTENT
    mirror.cut_after = [300_000]
    cache(mirror, tmp_path, Told()).fetch([wanted])
    assert sum(told) == wanted.size


def test_many_files_at_once_and_two_caches_in_one_folder(mirror, tmp_path):
    wanted = [artifact(CONTENT[i:], f"org/example/a{i}/1/a{i}.jar") for i in range(12)]
    mirror.files = {"/" + a.path: CONTENT[i:] for i, a in enumerate(wanted)}
    threads = [threading.Thread(target=cache(mirror, tmp_path).fetch, args=[wanted]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not cache(mirror, tmp_path).missing(wanted)
    assert len(mirror.ranges_seen) == 12


def test_an_archive_is_unpacked_once_and_then_no_longer_needed(mirror, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("lib/a.txt")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    content = buffer.getvalue()
    wanted = artifact(content, "org/example/app/1/app-1.tar.gz")
    mirror.files["/" + wanted.path] = content
    for _ in range(2):
        folder = cache(mirror, tmp_path).unpacked(wanted)
        assert (folder / "lib" / "a.txt").read_bytes() == b"abc"
    assert mirror.ranges_seen == [None]
    assert not cache(mirror, tmp_path).path(wanted).exists()


def test_everything_that_is_pinned_is_pinned_completely():
    kafka, registry = locked_artifacts("kafka"), locked_artifacts("registry")
    assert any(a.name.startswith("kafka_2.13-") for a in kafka)
    assert [a.name.endswith("-all.tar.gz") for a in registry] == [True]
    for found in kafka + registry:
        assert re.fullmatch(r"[0-9a-f]{64}", found.sha256)
        assert found.size > 0
    assert len({a.name for a in kafka}) == len(kafka)


def test_the_configured_repository_is_the_only_one():
    assert repositories("https://mirror.example/maven") == ["https://mirror.example/maven"]
    assert all(base.startswith("https://") for base in repositories(None))


def test_no_repository_is_named_in_the_lock():
    assert "://" not in module.LOCK_FILE.read_text()
