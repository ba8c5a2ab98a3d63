"""Partners' own reference data: each version of a table is a table of ClickHouse, and one row of a register says which
counts.

They are no projection of the journal and cannot be built from it, so they are in a database of their own,
`<database>_data`: who drops the ledger's to have it built anew drops nothing of a partner's. A version is written whole
before the register names it, so nobody ever reads half of one; the version before is kept for whoever is reading it.
Columns are text, in ClickHouse `c_` and the name, so no name is a word of SQL.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b, sha256
from typing import Any

from schemas.identity import root_of
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.layout import Layout

REGISTER = "tables"
_COLUMNS = (
    "owner", "name", "version", "table", "key", "columns", "rows", "bytes", "digest", "deleted", "at", "by", "asked_as",
)  # fmt: skip
_MAKE_REGISTER = """CREATE TABLE IF NOT EXISTS {database}.tables
(
    root     LowCardinality(String) COMMENT 'the owner''s root partner',
    owner    String COMMENT 'the partner whose table it is',
    name     String,
    version  UInt64 COMMENT '1, 2, 3 ... per owner and name; the highest counts',
    table    String COMMENT 'where the rows are; empty when deleted',
    key      String COMMENT 'the column that names a row',
    columns  Array(String),
    rows     UInt64,
    bytes    UInt64 COMMENT 'of the values',
    digest   String COMMENT 'SHA-256 of key, names and values, hexadecimal',
    deleted  UInt8,
    at       DateTime64(3, 'UTC'),
    by       String COMMENT 'the id of the key that asked',
    asked_as String COMMENT 'the Idempotency-Key'
)
ENGINE = MergeTree
ORDER BY (root, owner, name, version)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Every version of every table that a partner sent; rows are only added'"""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a table. `at`: when it was sent; `by`: the key that asked, `asked_as`: its Idempotency-Key."""

    owner: str
    name: str
    version: int
    table: str
    key: str
    columns: tuple[str, ...]
    rows: int
    bytes: int
    digest: str
    deleted: bool
    at: datetime
    by: str
    asked_as: str


class Tables:
    """The tables of all partners in a world. Not for several threads at once. `config`: of the ledger's database, with
    a user that may make, fill and drop tables in `<database>_data`.

    Raises PartUnavailableError when ClickHouse does not answer.
    """

    def __init__(self, config: ClickHouseConfig) -> None:
        self._config = replace(config, database=data_database(config.database))
        self._layout = Layout(self._config)
        self._made = False
        self._db = Database(self._config, with_database=False)

    def close(self) -> None:
        """Closes the connection."""
        self._db.close()

    def of(self, owner: str) -> list[Version]:
        """The tables that a partner has, by name."""
        return [v for v in self._last("owner = %(who)s", owner) if not v.deleted]

    def count(self, owner: str) -> int:
        """How many tables the whole tree of a partner has."""
        return sum(not v.deleted for v in self._last("root = %(who)s", root_of(owner)))

    def current(self, owner: str, name: str) -> Version | None:
        """The version that counts; also one that says that it was deleted."""
        found = self._last("owner = %(who)s AND name = %(name)s", owner, name)
        return found[0] if found else None

    def asked(self, owner: str, asked_as: str) -> Version | None:
        """What became of a write under this Idempotency-Key."""
        self._make()
        rows = self._rows("owner = %(who)s AND asked_as = %(asked_as)s", {"who": owner, "asked_as": asked_as})
        return rows[0] if rows else None

    def put(
        self, owner: str, name: str, key: str, columns: Sequence[str], values: Sequence[Sequence[str]], by: str,
        asked_as: str,
    ) -> Version:  # fmt: skip
        """Writes a new version, whole, and lets it count. The one before the last is dropped."""
        last = self.current(owner, name)
        table = _prefix(owner, name) + secrets.token_hex(8)
        names = [column_of(c) for c in columns]
        described = ",\n".join(f"    {n} String CODEC(ZSTD(1))" for n in names)
        for statement in self._layout.render(
            f"CREATE TABLE IF NOT EXISTS {{database}}.{table}\n(\n{described}\n)\nENGINE = MergeTree\n"
            f"ORDER BY {column_of(key)}\nSETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
        ):
            self._db.run(statement)
        self._db.insert_columns(table, dict(zip(names, values, strict=True)))
        version = Version(
            owner, name, last.version + 1 if last is not None else 1, table, key, tuple(columns), len(values[0]),
            sum(len(v.encode()) for column in values for v in column), digest_of(key, columns, values), False,
            self._now(), by, asked_as,
        )  # fmt: skip
        self._note(version)
        self._drop_before(version, kept=1)
        return version

    def delete(self, owner: str, name: str, by: str, asked_as: str) -> Version | None:
        """Lets a table count no more, and drops its rows; None when there is none."""
        last = self.current(owner, name)
        if last is None or last.deleted:
            return None
        gone = replace(
            last, version=last.version + 1, table="", rows=0, bytes=0, digest="", deleted=True, at=self._now(), by=by,
            asked_as=asked_as,
        )  # fmt: skip
        self._note(gone)
        self._drop_before(gone, kept=0)
        return gone

    def page(self, version: Version, after: str, limit: int) -> list[tuple[str, ...]]:
        """Rows of a version by key, after one."""
        names = ", ".join(column_of(c) for c in version.columns)
        return [
            tuple(map(str, row))
            for row in self._db.rows(
                f"SELECT {names} FROM {self._config.database}.{version.table} "
                f"WHERE {column_of(version.key)} > %(after)s ORDER BY {column_of(version.key)} LIMIT %(limit)s",
                {"after": after, "limit": limit},
            )
        ]

    def _make(self) -> None:
        if self._made:
            return
        for statement in (*self._layout.databases(), *self._layout.render(_MAKE_REGISTER)):
            self._db.run(statement)
        self._made = True

    def _last(self, where: str, who: str, name: str = "") -> list[Version]:
        """The last version of each table. Of two gateways that write at one moment, the greater name wins."""
        self._make()
        found: dict[tuple[str, str], Version] = {}
        for v in self._rows(where, {"who": who, "name": name}):
            found[v.owner, v.name] = v
        return [v for _, v in sorted(found.items())]

    def _rows(self, where: str, values: dict[str, Any]) -> list[Version]:
        found = self._db.rows(
            f"SELECT {', '.join(_COLUMNS)} FROM {self._config.database}.{REGISTER} WHERE {where} "
            "ORDER BY owner, name, version, table",
            values,
        )
        rows = (dict(zip(_COLUMNS, r, strict=True)) for r in found)
        return [Version(**{**r, "columns": tuple(r["columns"]), "deleted": bool(r["deleted"])}) for r in rows]

    def _note(self, v: Version) -> None:
        row = {"root": root_of(v.owner), **{name: getattr(v, name) for name in _COLUMNS}}
        row |= {"columns": list(v.columns), "deleted": int(v.deleted)}
        self._db.insert_columns(REGISTER, {name: [value] for name, value in row.items()})

    def _drop_before(self, v: Version, kept: int) -> None:
        """Drops the rows of versions before this one but for the last `kept`, and what a write that was cut short left
        behind an hour ago."""
        versions = self._rows("owner = %(who)s AND name = %(name)s", {"who": v.owner, "name": v.name})
        known = {o.table for o in versions if o.table and o.version >= v.version - kept}
        old = {o.table for o in versions if o.table} - known
        stored = self._db.rows(
            "SELECT name, metadata_modification_time < now() - 3600 FROM system.tables WHERE database = %(database)s "
            "AND startsWith(name, %(prefix)s)",
            {"database": self._config.database, "prefix": _prefix(v.owner, v.name)},
        )
        cluster = f" ON CLUSTER '{self._config.cluster}'" if self._config.cluster else ""
        for table, left in stored:
            if table in old or (left and table not in known):
                self._db.run(f"DROP TABLE IF EXISTS {self._config.database}.{table}{cluster}")

    def _now(self) -> datetime:
        found: datetime = self._db.rows("SELECT now64(3, 'UTC')")[0][0]
        return found


def data_database(database: str) -> str:
    """The database of partners' tables beside a ledger's."""
    return f"{database}_data"


def _prefix(owner: str, name: str) -> str:
    """What the names of all versions of a table begin with."""
    return f"t_{blake2b(f'{owner}:{name}'.encode(), digest_size=8).hexdigest()}_"


def column_of(name: str) -> str:
    """A column in ClickHouse."""
    return f"c_{name}"


def digest_of(key: str, columns: Sequence[str], values: Sequence[Sequence[str]]) -> str:
    """Names a content: the same for the same key, names and values."""
    out = sha256()
    for text in (key, str(len(columns)), *columns, *(v for column in values for v in column)):
        raw = text.encode()
        out.update(len(raw).to_bytes(4, "big") + raw)
    return out.hexdigest()
