"""A client's session in the engine: settings that last for one query, settings that stay, and read-only users.

The engine knows one user and settings that stick to a connection. ClickHouse's clients send settings with every query,
and expect them gone with the next; a read-only client must stay read-only. Both are made here from SET statements.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from clearline.embedded.clickhouse import sql
from clearline.embedded.clickhouse.access import READER_ROLE
from clearline.embedded.clickhouse.engine import Engine
from clearline.embedded.clickhouse.errors import (
    READONLY,
    UNKNOWN_DATABASE,
    UNKNOWN_SETTING,
    ServerError,
    from_engine,
)
from clearline.embedded.clickhouse.policy import ROWS_FIRST, check_setting
from clearline.embedded.clickhouse.readers import User

# By itself the engine looks up where an account's rows are only in parts of a million rows and more, and reads all
# others whole: of those there are many while a month is being booked. deploy/clickhouse-reader.xml says the same.
LOOK_UPS: Final = "min_table_rows_to_use_projection_index = 0"

_NO_SUCH_COLUMN: Final = 16
_NAME: Final = re.compile(r"\w+", re.ASCII)

# Everything an INSERT brings becomes one block, hence one part per partition: it lands whole or not at all.
_ONE_BLOCK: Final = ", ".join(
    f"{name} = {value}"
    for name, value in {
        "async_insert": 0,
        "max_insert_threads": 1,
        "max_insert_block_size": 1 << 40,
        "min_insert_block_size_rows": 1 << 40,
        "min_insert_block_size_bytes": 1 << 40,
    }.items()
)

Settings = Mapping[str, tuple[str, bool]]


@dataclass(slots=True)
class Result:
    """Bytes in the format asked for, and what the engine counted."""

    content: bytes
    rows_read: int
    bytes_read: int
    rows_written: int
    rows: int = 0  # of the result itself


@dataclass(frozen=True, slots=True)
class Totals:
    """A result with its totals and extremes, each in Native format; empty where there are none."""

    data: bytes
    totals: bytes
    extremes: bytes


class Session:
    """One client's session. Not for use by several threads at once."""

    def __init__(self, engine: Engine, user: User, database: str = "") -> None:
        """Raises ServerError for a database that does not exist."""
        self.user = user
        self._engine = engine
        self._base = engine.connect()
        self._restricted: Any = None
        self._restricted_for: object = None
        self._current = self._base
        self._said: list[str] = []  # SET statements of this session, to be repeated in a restricted one
        self._applied: dict[str, str] = {}  # settings of the last query, still in force
        self._before: dict[str, str] = {}  # what they replaced
        self._unknown: set[str] = set()
        if database or user.policy is not None:
            try:
                self.use(database or (user.policy.database if user.policy is not None else ""))
            except ServerError:
                self.close()
                raise

    def use(self, database: str) -> None:
        """Make a database the current one. Raises ServerError for one that is not there, or not for this reader."""
        rules = self.user.policy
        if rules is not None and not rules.may_use(database):
            raise ServerError(UNKNOWN_DATABASE, f"Database {database} does not exist.")
        self._command(self._base, f"USE {sql.identifier(database)}")

    def database(self) -> str:
        """The current one."""
        return self._command(self._current, "SELECT currentDatabase()").removesuffix("\n")

    def close(self) -> None:
        """End the session; its temporary tables go."""
        for connection in (self._restricted, self._base):
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.close()

    def begin(self, settings: Settings) -> None:
        """Put the settings of the next query in force and take back those of the last. Raises ServerError."""
        readonly = settings.get("readonly", ("0", False))[0]
        if self.user.read_only or readonly not in ("0", ""):
            self._begin_restricted(settings, "1" if self.user.read_only else readonly)
            return
        self._current = self._base
        wanted = {name: value for name, (value, _) in settings.items() if name not in self._unknown}
        if wanted == self._applied:
            return
        for name in [name for name in self._applied if name not in wanted]:
            self._command(self._base, f"SET {name} = {sql.literal(self._before.pop(name))}")
            del self._applied[name]
        for name, value in wanted.items():
            if self._applied.get(name) == value:
                continue
            if name not in self._before:
                before = self._value_of(name, important=settings[name][1])
                if before is None:
                    continue
                self._before[name] = before
            self._command(self._base, f"SET {name} = {sql.literal(value)}")
            self._applied[name] = value

    def run(self, text: str, format_: str = "Native", parameters: Mapping[str, str] | None = None) -> Result:
        """Run a statement and wait for all of its result. Raises ServerError."""
        try:
            found = self._current.query(text, format_, params=dict(parameters or {}))
        except Exception as error:
            raise from_engine(error) from error
        return Result(
            found.bytes(),
            found.storage_rows_read(),
            found.storage_bytes_read(),
            found.rows_written(),
            found.rows_read(),
        )

    def stream(self, text: str, parameters: Mapping[str, str] | None = None) -> Generator[Result, None, None]:
        """Run a query and yield its result in Native format, block by block, each with what was read since the one
        before. Raises ServerError."""
        try:
            running = self._current.send_query(text, "Native", params=dict(parameters or {}))
        except Exception as error:
            raise from_engine(error) from error
        try:
            while (chunk := running.fetch()) is not None:
                yield Result(chunk.bytes(), chunk.storage_rows_read(), chunk.storage_bytes_read(), 0)
        except GeneratorExit:
            raise
        except Exception as error:
            raise from_engine(error) from error
        finally:
            with contextlib.suppress(Exception):
                running.cancel()

    def remember(self, statement: sql.Statement) -> None:
        """A SET of this session succeeded: it stays, whatever the settings of single queries were."""
        if statement.verb != "SET":
            return
        self._said.append(statement.text)
        for here, after in zip(statement.tokens, statement.tokens[1:], strict=False):
            if after.text == "=":
                self._applied.pop(here.text, None)
                self._before.pop(here.text, None)

    def header(self, statement: sql.Statement, parameters: Mapping[str, str]) -> list[tuple[str, str]]:
        """Names and types of a query's result, without running it if that can be known."""
        if statement.is_query:
            return self._describe(f"({statement.body}\n)", parameters)[0]
        meta = json.loads(self.run(statement.body, "JSONCompact", parameters).content or b'{"meta": []}')["meta"]
        return [(column["name"], column["type"]) for column in meta]

    def insert_columns(self, insert: sql.Insert) -> list[tuple[str, str]]:
        """Names and types an INSERT expects, in its order. Raises ServerError for a column that is not there."""
        inner = insert.columns[1:-1].strip()
        tokens = list(sql.tokenize(inner))
        if any(token.text in ("*", "(") for token in tokens):
            return self._describe(f"(SELECT {inner} FROM {insert.target})")[0]
        columns, kinds = self._describe(f"TABLE {insert.target}")
        if not tokens:
            return [column for column in columns if kinds[column[0]] in ("", "DEFAULT")]
        types, chosen, name = dict(columns), [], ""
        for token in [*tokens, sql.Token("punct", ",", 0, 0, 0)]:
            if token.text != "," or token.kind != "punct":
                name += token.text[1:-1].replace("\\`", "`") if token.kind == "quoted" else token.text
                continue
            if name not in types:
                table = insert.target.replace("`", "")
                raise from_engine(
                    ValueError(
                        f"Code: {_NO_SUCH_COLUMN}. DB::Exception: No such column {name} in table {table}. "
                        "(NO_SUCH_COLUMN_IN_TABLE)"
                    )
                )
            chosen.append((name, types[name]))
            name = ""
        return chosen

    def insert(self, insert: sql.Insert, rows: BinaryIO, format_: str) -> int:
        """Insert what `rows` (a file in memory) holds, whole or not at all; returns the rows written."""
        text = insert.from_file(f"/proc/self/fd/{rows.fileno()}", format_, _ONE_BLOCK)
        return self.run(text, "Null").rows_written

    def external_table(self, name: str, columns: Iterable[tuple[str, str]], rows: BinaryIO | None) -> None:
        """A table that a client sends along with one query."""
        described = ", ".join(f"{sql.identifier(column)} {type_}" for column, type_ in columns)
        table = sql.identifier(name)
        self._command(self._base, f"CREATE OR REPLACE TEMPORARY TABLE {table} ({described}) ENGINE = Memory")
        if rows is not None:
            path = f"/proc/self/fd/{rows.fileno()}"
            self._command(self._base, f"INSERT INTO {table} FROM INFILE '{path}' FORMAT Native")

    def drop_external_tables(self, names: Iterable[str]) -> None:
        """They last as long as their query."""
        for name in names:
            with contextlib.suppress(ServerError):
                self._command(self._base, f"DROP TEMPORARY TABLE IF EXISTS {sql.identifier(name)}")

    def with_totals(self, text: str, parameters: Mapping[str, str]) -> Totals:
        """Run a query whose totals or extremes are wanted; Native format alone would lose them."""
        answer = json.loads(self.run(text, "JSONCompactStrings", parameters).content)
        columns = ", ".join(f"{sql.identifier(column['name'])} {column['type']}" for column in answer["meta"])
        extremes = answer.get("extremes")
        return Totals(
            self._native(columns, answer["data"]),
            self._native(columns, [answer["totals"]] if "totals" in answer else []),
            self._native(columns, [extremes["min"], extremes["max"]] if extremes else []),
        )

    def _native(self, columns: str, rows: list[list[str]]) -> bytes:
        if not rows:
            return b""
        with memory_file(json.dumps(row).encode() + b"\n" for row in rows) as file:
            path = f"/proc/self/fd/{file.fileno()}"
            text = f"SELECT * FROM file('{path}', 'JSONCompactStringsEachRow', {sql.literal(columns)})"
            connection = self._engine.connect()
            try:
                content: bytes = connection.query(text, "Native").bytes()
            except Exception as error:
                raise from_engine(error) from error
            finally:
                connection.close()
        return content

    def _describe(
        self, what: str, parameters: Mapping[str, str] | None = None
    ) -> tuple[list[tuple[str, str]], dict[str, str]]:
        answer = json.loads(self.run(f"DESCRIBE {what}", "JSONCompact", parameters).content)["data"]
        return [(row[0], row[1]) for row in answer], {row[0]: row[2] for row in answer}

    def _begin_restricted(self, settings: Settings, readonly: str) -> None:
        database = self._command(self._base, "SELECT currentDatabase()").strip()
        wanted = {name: value for name, (value, _) in settings.items() if name != "readonly"}
        if self.user.read_only:
            wanted = self._allowed(wanted, settings)
        key = (database, tuple(wanted.items()), len(self._said), readonly, self.user)
        if self._restricted_for != key:
            if self._restricted is not None:
                self._restricted.close()
            self._restricted_for = None
            self._restricted = self._engine.connect()
            self._command(self._restricted, f"USE {sql.identifier(database)}")
            if self.user.read_only:
                caps = ", ".join(f"{name} = {cap.value:.0f}" for name, cap in self.user.caps.items())
                self._command(self._restricted, f"SET {caps}, {LOOK_UPS}")
            for statement in self._said:
                self._command(self._restricted, statement)
            for name, value in wanted.items():
                self._set_if_known(self._restricted, name, value, settings[name][1])
            self._restrict(readonly)
            self._restricted_for = key
        self._current = self._restricted

    def _restrict(self, readonly: str) -> None:
        """After everything that a client asked for, so that nothing of it is taken back."""
        rules = self.user.policy
        if rules is not None:
            fixed = ", ".join(f"{name} = {value}" for name, value in ROWS_FIRST.items())
            self._command(self._restricted, f"SET additional_table_filters = {rules.filters()}, {fixed}")
        if self.user.read_only:
            self._command(self._restricted, f"SET ROLE {READER_ROLE}")
        self._command(self._restricted, f"SET readonly = {int(readonly)}")

    def _allowed(self, wanted: Mapping[str, str], settings: Settings) -> dict[str, str]:
        """The settings that this reader may change. One that has its value already, or that no version knows and nobody
        insists on, is left out. Raises ServerError for any other."""
        found = {}
        for name, value in wanted.items():
            try:
                check_setting(self.user.caps, name, value)
            except ServerError:
                before = self._value_of(name, important=settings[name][1])
                before = before if before is None else _word(before)
                if name in self.user.caps or name in ROWS_FIRST or before not in (None, _word(value)):
                    raise
            else:
                found[name] = value
        if settings.get("readonly", ("1", False))[0] not in ("1", "2"):
            raise ServerError(READONLY, "Cannot modify 'readonly' setting in readonly mode.")
        return found

    def accept_set_or_use(self, statement: sql.Statement) -> bool:
        """A restricted session cannot change itself: SET and USE act on what it is built from. True if it was one."""
        if self._current is self._base or statement.verb not in ("SET", "USE") or not self.user.read_only:
            return False
        self._command(self._base, statement.text)
        self.remember(statement)
        return True

    def _value_of(self, name: str, important: bool) -> str | None:
        try:
            if not _NAME.fullmatch(name):
                raise ServerError(UNKNOWN_SETTING, f"Unknown setting '{name}'")
            found = self._command(self._base, f"SELECT toString(getSetting({sql.literal(name)}))")
        except ServerError as error:
            if important or error.code != UNKNOWN_SETTING:
                raise
            self._unknown.add(name)
            return None
        return found.removesuffix("\n")

    def _set_if_known(self, connection: Any, name: str, value: str, important: bool) -> None:
        try:
            if not _NAME.fullmatch(name):
                raise ServerError(UNKNOWN_SETTING, f"Unknown setting '{name}'")
            self._command(connection, f"SET {name} = {sql.literal(value)}")
        except ServerError as error:
            if important or error.code != UNKNOWN_SETTING:
                raise

    def _command(self, connection: Any, text: str) -> str:
        try:
            content: bytes = connection.query(text, "TSVRaw").bytes()
        except Exception as error:
            raise from_engine(error) from error
        return content.decode(errors="replace")


def _word(value: str) -> str:
    """A flag as ClickHouse's clients send it: the engine says true where they say 1."""
    return {"true": "1", "false": "0"}.get(value.lower(), value)


@contextlib.contextmanager
def memory_file(pieces: Iterable[bytes]) -> Iterator[BinaryIO]:
    """A file that exists only in memory and only while it is open: a killed process leaves nothing behind."""
    with os.fdopen(os.memfd_create("rows", os.MFD_CLOEXEC), "wb") as file:
        file.writelines(pieces)
        file.flush()
        yield file
