"""The readers of the development server: a file in its data folder, read again whenever it changed, and their quotas.

`clearline reader add` writes the file; a removed reader is refused at its next query, also on an open connection.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from clearline.embedded.clickhouse.errors import AUTHENTICATION_FAILED, QUOTA_EXCEEDED, ServerError
from clearline.embedded.clickhouse.policy import FINANCE_CAPS, Cap, Policy

READERS_FILE: Final = "clearline-readers.json"
FINANCE: Final = "clearline_reader"
_SALT_BYTES: Final = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Quota:
    """What one reader may take in each interval of `seconds`; 0 for no bound."""

    seconds: int
    queries: int = 0
    read_rows: int = 0
    execution_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class User:
    """Who may connect. `policy` and `quota`: of a partner's reader."""

    name: str
    password: str = field(default="", repr=False)
    read_only: bool = False
    salt: str = ""  # then `password` is hexadecimal, SHA-256 of password and salt as a server has it
    policy: Policy | None = None
    quota: Quota | None = None

    @property
    def caps(self) -> Mapping[str, Cap]:
        """Settings with bounds that it may change."""
        return self.policy.caps if self.policy is not None else FINANCE_CAPS

    def knows(self, password: str) -> bool:
        """Whether this is its password."""
        given = digest(password, self.salt) if self.salt else password
        return secrets.compare_digest(self.password.encode(), given.encode())


def digest(password: str, salt: str) -> str:
    """As ClickHouse's `sha256_hash` with SALT has it."""
    return hashlib.sha256(f"{password}{salt}".encode()).hexdigest()


def new_salt() -> str:
    """A salt for a new reader."""
    return secrets.token_hex(_SALT_BYTES)


class Users:
    """Everybody who may connect: `default`, the whole bank's reader, and the readers in the file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._built_in = {"default": User("default"), FINANCE: User(FINANCE, read_only=True)}
        self._readers: dict[str, User] = {}
        self._seen: tuple[int, int, int] | None = None
        self._lock = threading.Lock()

    def authenticate(self, name: str, password: str) -> User:
        """The user, or ServerError as ClickHouse words it."""
        user = self._find(name or "default")
        if user is None or not user.knows(password):
            raise _refused(name)
        return user

    def again(self, user: User) -> User:
        """The same user as the file has it now. Raises ServerError when it was removed or has another password."""
        if user.name in self._built_in:
            return user
        found = self._find(user.name)
        if found is None or (found.password, found.salt) != (user.password, user.salt):
            raise _refused(user.name)
        return found

    def _find(self, name: str) -> User | None:
        if name in self._built_in:
            return self._built_in[name]
        with self._lock:
            self._refresh()
            return self._readers.get(name)

    def _refresh(self) -> None:
        try:
            status = self._file.stat()
        except FileNotFoundError:
            self._readers, self._seen = {}, None
            return
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if seen == self._seen:
            return
        try:
            self._readers = parse(json.loads(self._file.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # A file that cannot be understood lets nobody in, rather than those of yesterday.
            log.exception("%s cannot be read: no partner's reader may connect until it can", self._file)
            self._readers = {}
        self._seen = seen


def _refused(name: str) -> ServerError:
    return ServerError(
        AUTHENTICATION_FAILED,
        f"{name}: Authentication failed: password is incorrect, or there is no user with such name.",
    )


def parse(document: Mapping[str, Any]) -> dict[str, User]:
    """The readers of a file's document. Raises KeyError, TypeError, ValueError or AttributeError for another shape."""
    return {name: _user(name, reader) for name, reader in document["readers"].items()}


def _user(name: str, reader: Mapping[str, Any]) -> User:
    quota = reader["quota"]
    policy = Policy(
        str(reader["database"]),
        {str(table): str(condition) for table, condition in reader["tables"].items()},
        frozenset(map(str, reader["views"])),
        {str(table): frozenset(map(str, columns)) for table, columns in reader["withheld"].items()},
        {
            str(s): Cap(*(float(cap[key]) for key in ("value", "least", "most")))
            for s, cap in reader["settings"].items()
        },
    )
    return User(
        name,
        str(reader["password"]["sha256"]),
        read_only=True,
        salt=str(reader["password"]["salt"]),
        policy=policy,
        quota=Quota(
            int(quota["seconds"]), int(quota["queries"]), int(quota["read_rows"]), float(quota["execution_seconds"])
        ),
    )


def write(file: Path, readers: Mapping[str, Any]) -> None:
    """Writes the file whole; only its owner may read it."""
    draft = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as out:
        json.dump({"readers": dict(readers)}, out, indent=1, sort_keys=True)
        out.flush()
        os.fsync(out.fileno())
    os.replace(draft, file)


def read(file: Path) -> dict[str, Any]:
    """The readers in a file, by name; none when there is no file. Raises ValueError for another shape."""
    try:
        found = json.loads(file.read_bytes())["readers"]
    except FileNotFoundError:
        return {}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a file of readers") from error
    return dict(found)


@dataclass(slots=True)
class _Used:
    interval: int = -1
    queries: int = 0
    read_rows: int = 0
    execution_seconds: float = 0.0


class Quotas:
    """What each reader has taken in the interval that runs. Begins anew with the server, as ClickHouse's own do."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._used: dict[str, _Used] = {}
        self._lock = threading.Lock()

    def begin(self, user: User) -> None:
        """Counts a query. Raises ServerError when the reader has had its share."""
        quota = user.quota
        if quota is None:
            return
        with self._lock:
            used = self._current(user.name, quota)
            used.queries += 1
            for name in ("queries", "read_rows", "execution_seconds"):
                most, taken = getattr(quota, name), getattr(used, name)
                if most and taken > most:
                    raise ServerError(
                        QUOTA_EXCEEDED,
                        # Not how much was taken: that would count the rows of others that were passed over.
                        f"Quota for user `{user.name}` for {quota.seconds}s has been exceeded: more {name} than "
                        f"{most:g}. Interval will end at {self._end(used, quota)}.",
                    )

    def end(self, user: User, read_rows: int, seconds: float) -> None:
        """Counts what a query took."""
        if user.quota is None:
            return
        with self._lock:
            used = self._current(user.name, user.quota)
            used.read_rows += read_rows
            used.execution_seconds += seconds

    def _current(self, name: str, quota: Quota) -> _Used:
        interval = int(self._clock()) // quota.seconds
        used = self._used.get(name)
        if used is None or used.interval != interval:
            used = self._used[name] = _Used(interval)
        return used

    def _end(self, used: _Used, quota: Quota) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime((used.interval + 1) * quota.seconds))
