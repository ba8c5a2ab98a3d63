"""Brings pinned files into the cache: in parallel, resumable, checked by SHA-256, and never half there.

A file appears under its final name only after its checksum was right, so whatever has the name can be used. The list of
files is artifacts.lock beside this module (see lock.py). The cache lives outside the checkout and is shared by all data
folders; a lock file lets several processes prepare at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from schemas.errors import ClearlineError

if TYPE_CHECKING:
    import httpx

LOCK_FILE = Path(__file__).with_name("artifacts.lock")
PARALLEL_MAX = 6
ATTEMPTS_MAX = 5
CHUNK_BYTES = 1 << 18
SPARE_BYTES = 200_000_000


class Progress(Protocol):
    """What a download tells the screen."""

    def start(self, files: int, size: int) -> None:
        """`files` files of `size` bytes together are about to be fetched."""

    def advance(self, size: int) -> None:
        """`size` more bytes are there; less than 0 when bytes were thrown away."""

    def note(self, text: str) -> None:
        """Something else that takes a moment."""


class Silent:
    """Progress for nobody."""

    def start(self, files: int, size: int) -> None:
        """Nothing."""

    def advance(self, size: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a Maven repository: the part that needs it, bytes, SHA-256, path below the repository's base."""

    part: str
    size: int
    sha256: str
    path: str

    @property
    def name(self) -> str:
        """The file name."""
        return self.path.rsplit("/", 1)[1]


class CorruptDownloadError(ClearlineError):
    """What arrived is not what was pinned."""


def locked_artifacts(part: str) -> list[Artifact]:
    """The pinned files of a part."""
    rows = (line.split(" ", 3) for line in LOCK_FILE.read_text(encoding="utf-8").splitlines() if line)
    return [Artifact(p, int(size), sha256, path) for p, size, sha256, path in rows if p == part]


def repositories(configured: str | None) -> list[str]:
    """Base URLs to try in turn: the one in the settings, or those of jgo's configuration and its default."""
    if configured:
        return [configured]
    from jgo.config import GlobalSettings  # here, because it is needed for the first start only
    from jgo.constants import MAVEN_CENTRAL_URL

    return [*GlobalSettings.load().repositories.values(), MAVEN_CENTRAL_URL]


class Downloads:
    """A cache of pinned files. `bases` are repository URLs (or file:// folders), tried in turn."""

    def __init__(
        self,
        cache_dir: Path,
        bases: Callable[[], list[str]],
        progress: Progress,
        client: httpx.Client | None = None,
    ) -> None:
        self._root = cache_dir / "maven"
        self._bases = bases
        self._progress = progress
        self._client = client
        self._told: dict[Path, int] = {}

    def path(self, artifact: Artifact) -> Path:
        """Where the file is or will be."""
        return self._root / artifact.path

    def missing(self, artifacts: Iterable[Artifact]) -> list[Artifact]:
        """Files that are not in the cache with their full size."""
        return [a for a in artifacts if not _has_size(self.path(a), a.size)]

    def fetch(self, artifacts: list[Artifact]) -> list[Path]:
        """All files, fetched where missing. Raises ClearlineError with the reason and the next step."""
        if self.missing(artifacts):
            with self._exclusive():
                self._fetch_missing(self.missing(artifacts))
        return [self.path(a) for a in artifacts]

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _fetch_missing(self, wanted: list[Artifact]) -> None:
        size = sum(a.size for a in wanted)
        free = shutil.disk_usage(self._root).free
        if wanted and free < size * 2 + SPARE_BYTES:
            raise ClearlineError(
                f"{self._root} has {free // 1_000_000} MB free, but the downloads need "
                f"{(size * 2 + SPARE_BYTES) // 1_000_000} MB: free some, or set CLEARLINE_CACHE_DIR"
            )
        if not wanted:
            return
        self._progress.start(len(wanted), size)
        bases = self._bases()
        import httpx  # here and below: whoever has everything starts sooner without

        client = self._client or httpx.Client(timeout=httpx.Timeout(30.0), follow_redirects=True)
        with client, ThreadPoolExecutor(PARALLEL_MAX, "download") as pool:
            for done in [pool.submit(self._fetch_one, client, bases, a) for a in wanted]:
                done.result()

    def _fetch_one(self, client: httpx.Client, bases: list[str], artifact: Artifact) -> None:
        import httpx
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

        problem: Exception | None = None
        for base in bases:
            try:
                for attempt in Retrying(
                    retry=retry_if_exception_type((httpx.TransportError, CorruptDownloadError, _ServerBusyError)),
                    stop=stop_after_attempt(ATTEMPTS_MAX),
                    wait=wait_exponential(0.3, max=5),
                    reraise=True,
                ):
                    with attempt:
                        self._transfer(client, f"{base}/{artifact.path}", artifact)
                return
            except CorruptDownloadError:
                raise
            except (httpx.HTTPError, _ServerBusyError, OSError) as e:
                problem = e
        raise ClearlineError(
            f"cannot download {artifact.name} ({artifact.part}) from {', '.join(bases)}: {problem}; check the network "
            f"or the proxy, or set CLEARLINE_MAVEN_REPOSITORY to a mirror, or copy the file to {self.path(artifact)}"
        )

    def _transfer(self, client: httpx.Client, url: str, artifact: Artifact) -> None:
        """One attempt; goes on where an earlier one stopped. What is not right at the end is thrown away."""
        target = self.path(artifact)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        have = part.stat().st_size if part.exists() else 0
        if have > artifact.size:
            part.unlink()
            have = 0
        if have < artifact.size:
            self._receive(client, url, part, have)
        digest = _sha256(part)
        if digest != artifact.sha256 or part.stat().st_size != artifact.size:
            part.unlink()
            self._tell(part, 0)
            raise CorruptDownloadError(
                f"{artifact.name} from {url} is not the pinned file (SHA-256 {digest[:12]}..., expected "
                f"{artifact.sha256[:12]}...); it was thrown away: try again, or check the mirror or proxy"
            )
        part.replace(target)

    def _receive(self, client: httpx.Client, url: str, part: Path, have: int) -> None:
        headers = (
            {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
        )
        with client.stream("GET", url, headers=headers) as response:
            if response.status_code in (429, 500, 502, 503, 504):
                raise _ServerBusyError(f"the server answers {response.status_code}")
            response.raise_for_status()
            resumed = response.status_code == 206
            there = have if resumed else 0
            with part.open("ab" if resumed else "wb") as file:
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    file.write(chunk)
                    there += len(chunk)
                    self._tell(part, there)

    def _tell(self, part: Path, there: int) -> None:
        """`there` bytes of a file have come, in this attempt or an earlier one."""
        self._progress.advance(there - self._told.get(part, 0))
        self._told[part] = there

    def unpacked(self, artifact: Artifact) -> Path:
        """The folder with the contents of a tar.gz, fetched and unpacked where missing."""
        folder = self._root.parent / "unpacked" / f"{artifact.name}-{artifact.sha256[:12]}"
        if folder.is_dir():
            return folder
        (archive,) = self.fetch([artifact])
        with self._exclusive():
            if folder.is_dir():
                return folder
            self._progress.note(f"unpacking {artifact.name}")
            fresh = folder.with_name(folder.name + ".new")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            with tarfile.open(archive) as tar:
                if hasattr(tarfile, "data_filter"):  # not in Python 3.11.0 to 3.11.3; the checksum is pinned anyway
                    tar.extraction_filter = tarfile.data_filter
                tar.extractall(fresh)  # noqa: S202
            fresh.rename(folder)
            archive.unlink(missing_ok=True)
        return folder


class _ServerBusyError(ClearlineError):
    """A passing answer of the server."""


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
