"""BACKUP and RESTORE of a world's databases, by ClickHouse's own statements.

The ledger's tables are a projection of the journal, so two things are told apart: `whole`, everything, so that only
what came after need be projected again; and `own`, the tables that no journal can bring back (statements from outside
and their matches, partners' own tables, records of replays), which is little.

BACKUP copies one table after the other while the sink writes. The sink writes `outcomes` last and goes on from there,
so `outcomes` is copied first: what the others have beyond it the sink finds and leaves out, as after a kill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from schemas.errors import BadInputError
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance.tables import data_database
from sinks.layout import Layout

LAST_WRITTEN: Final = "outcomes"
_NOTES: Final = ("schema_migrations", "schema_views")
_INTO_TABLES: Final = "SETTINGS allow_non_empty_tables = 1"  # it was looked at before that they are empty
Extent = Literal["whole", "own"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the server puts a backup. `disk`: the name of one of its disks, or empty for a folder of this machine."""

    name: str
    disk: str = ""

    def of(self, part: str) -> str:
        """A part of the backup, as the statement names it."""
        path = f"{self.name}/{part}".replace("\\", "\\\\").replace("'", "\\'")
        return f"Disk('{self.disk}', '{path}')" if self.disk else f"File('{path}')"


def own_tables(db: Database) -> list[str]:
    """Tables with rows of their own: not of a topic, and not the notes of migrations."""
    rows = db.rows(
        "SELECT name FROM system.tables WHERE database = %(d)s AND engine LIKE '%%MergeTree' AND name NOT IN "
        "(SELECT table FROM system.columns WHERE database = %(d)s AND name = 'topic') ORDER BY name",
        {"d": db.name},
    )
    return [str(name) for (name,) in rows if name not in _NOTES]


def backup(config: ClickHouseConfig, place: Place, extent: Extent) -> list[str]:
    """Copies the databases; returns the parts, in their order. Raises BadInputError when the server does not let a
    backup be made there, or has one of that name; PartUnavailableError."""
    db = Database(config, with_database=False)
    layout = Layout(config)
    try:
        if extent == "own":
            parts = {"own": _tables(config.database, own_tables(db))}
        else:
            first = f"TABLE {layout.local}.{LAST_WRITTEN}"
            rest = [f"DATABASE {layout.local} EXCEPT TABLES {layout.local}.{LAST_WRITTEN}"]
            if layout.local != config.database:
                rest.append(f"DATABASE {config.database}")
            parts = {"outcomes": first, "rest": ", ".join(rest)}
        data = data_database(config.database)
        if db.rows("SELECT 1 FROM system.databases WHERE name = %(d)s", {"d": data}):
            parts["data"] = f"DATABASE {data}"
        parts = {part: what for part, what in parts.items() if what}
        for part, what in parts.items():
            db.run(f"BACKUP {what}{layout.on_cluster} TO {place.of(part)}")
        return list(parts)
    finally:
        db.close()


def restore_own(config: ClickHouseConfig, place: Place, parts: list[str]) -> list[str]:
    """Brings back what no journal can, from a backup of either extent, into a database whose tables are made and empty;
    returns the parts that were read. Raises BadInputError when a table has rows, PartUnavailableError."""
    db = Database(config, with_database=False)
    on = Layout(config).on_cluster
    try:
        tables = own_tables(db)
        full = [t for t in tables if db.rows(f"SELECT 1 FROM {config.database}.{t} LIMIT 1")]
        if full:
            raise BadInputError(f"{config.database}.{full[0]} has rows: a backup is restored into empty tables")
        if "data" in parts:
            _refuse_rows(db, data_database(config.database))
        read: list[str] = [p for p in ("own", "rest") if p in parts and tables]
        for part in read:
            db.run(f"RESTORE {_tables(config.database, tables)}{on} FROM {place.of(part)} {_INTO_TABLES}")
        if "data" in parts:
            db.run(f"RESTORE DATABASE {data_database(config.database)}{on} FROM {place.of('data')} {_INTO_TABLES}")
            read.append("data")
        return read
    finally:
        db.close()


def restore_whole(config: ClickHouseConfig, place: Place, parts: list[str]) -> list[str]:
    """Brings all of a `whole` backup back, where the databases are not; returns the parts that were read.

    Raises BadInputError when there are tables, or the backup is not whole; PartUnavailableError.
    """
    if "outcomes" not in parts:
        raise BadInputError("this backup has only what no journal can bring back: restore that with --only own")
    db = Database(config, with_database=False)
    layout = Layout(config)
    try:
        _refuse_tables(db, layout)
        if "data" in parts:
            _refuse_rows(db, data_database(config.database))
        for statement in layout.databases():
            db.run(statement)
        names = dict.fromkeys((layout.local, config.database))
        what = {
            "outcomes": f"TABLE {layout.local}.{LAST_WRITTEN}",
            "rest": ", ".join(f"DATABASE {name}" for name in names),
            "data": f"DATABASE {data_database(config.database)}",
        }
        for part in parts:
            db.run(f"RESTORE {what[part]}{layout.on_cluster} FROM {place.of(part)} {_INTO_TABLES}")
        return parts
    finally:
        db.close()


def _refuse_rows(db: Database, database: str) -> None:
    """A table with rows would have those of the backup beside them, so a second restore would double them."""
    found = db.rows("SELECT name FROM system.tables WHERE database = %(d)s AND total_rows > 0 LIMIT 1", {"d": database})
    if found:
        raise BadInputError(
            f"{database}.{found[0][0]} has rows: a backup is restored into empty tables; DROP DATABASE {database} "
            "first, if what is in it is not wanted"
        )


def _refuse_tables(db: Database, layout: Layout) -> None:
    found = db.rows("SELECT name FROM system.tables WHERE database = %(d)s LIMIT 1", {"d": layout.local})
    if found:
        raise BadInputError(
            f"database {layout.local} has the table {found[0][0]}: a whole backup is restored where the database is "
            f"not; DROP DATABASE {layout.local} first, if what is in it is not wanted"
        )


def _tables(database: str, names: list[str]) -> str:
    return ", ".join(f"TABLE {database}.{name}" for name in names)
