"""Numbered SQL migrations: what is to do, do it, what was done. A migration that was applied may never change again.

ClickHouse has no transactions over DDL, so every statement says IF NOT EXISTS and a migration is noted after its last
statement: one that was cut short is simply run again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.resources import files

from schemas.errors import BadInputError
from sinks.clickhouse import ClickHouseConfig, Database

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_TABLE = "schema_migrations"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `applied`: whether the database has it."""

    number: int
    name: str
    text: str
    applied: bool = False

    @property
    def checksum(self) -> str:
        return sha256(self.text.encode()).hexdigest()

    def statements(self, database: str) -> list[str]:
        """The statements with the database put in."""
        code = "\n".join(line for line in self.text.splitlines() if not line.lstrip().startswith("--"))
        return [s.strip().replace("{database}", database) for s in re.split(r";\s*$", code, flags=re.M) if s.strip()]


def committed() -> list[Migration]:
    """The migrations of this version, in order."""
    out = []
    for file in (files("sinks") / "migrations").iterdir():
        found = _FILE.fullmatch(file.name)
        if found:
            out.append(Migration(int(found[1]), found[2], file.read_text(encoding="utf-8")))
    return sorted(out, key=lambda m: m.number)


def status(config: ClickHouseConfig, migrations: list[Migration] | None = None) -> list[Migration]:
    """Every migration with whether it is applied.

    Raises BadInputError when an applied one was changed since, or the database is of a newer version, and
    PartUnavailableError.
    """
    known = committed() if migrations is None else migrations
    db = Database(config, with_database=False)
    try:
        found = _applied(db)
    finally:
        db.close()
    for number in found.keys() - {m.number for m in known}:
        raise BadInputError(
            f"database {config.database} has migration {number}, which this version does not know: use a newer version"
        )
    for m in known:
        if m.number in found and found[m.number] != m.checksum:
            raise BadInputError(
                f"migration {m.number:04}_{m.name} was changed after it was applied to {config.database}: "
                "restore it, and put the change into a new migration"
            )
    return [replace(m, applied=m.number in found) for m in known]


def plan(config: ClickHouseConfig, migrations: list[Migration] | None = None) -> list[Migration]:
    """What `apply` would do. Raises as `status`."""
    return [m for m in status(config, migrations) if not m.applied]


def apply(config: ClickHouseConfig, migrations: list[Migration] | None = None) -> list[Migration]:
    """Applies what is missing, in order; returns it. Safe to run twice and by two at once. Raises as `status`."""
    todo = plan(config, migrations)
    db = Database(config, with_database=False)
    try:
        if todo:
            db.run(f"CREATE DATABASE IF NOT EXISTS {config.database}")
            db.run(
                f"CREATE TABLE IF NOT EXISTS {config.database}.{_TABLE} (number UInt32, name String, checksum String, "
                "applied_at DateTime('UTC') DEFAULT now()) ENGINE = MergeTree ORDER BY number"
            )
        for m in todo:
            for statement in m.statements(config.database):
                db.run(statement)
            db.run(
                f"INSERT INTO {config.database}.{_TABLE} (number, name, checksum) "
                f"SELECT {m.number}, '{m.name}', '{m.checksum}'"
            )
    finally:
        db.close()
    return todo


def _applied(db: Database) -> dict[int, str]:
    exists = db.rows(
        "SELECT count() FROM system.tables WHERE database = %(d)s AND name = %(t)s", {"d": db.name, "t": _TABLE}
    )
    if not exists[0][0]:
        return {}
    rows = db.rows(f"SELECT number, groupUniqArray(checksum) FROM {db.name}.{_TABLE} GROUP BY number")
    return {int(number): checksums[0] if len(checksums) == 1 else "several" for number, checksums in rows}
