"""Numbered SQL migrations and repeatable views: what is to do, do it, what was done.

ClickHouse has no transactions over DDL, so every statement says IF NOT EXISTS and a migration is noted after its last
statement: one that was cut short is simply run again. A migration that was applied may never change. A view holds no
rows, so it may: it is made anew, in one atomic exchange, whenever its text is another than the one that was noted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.resources import files
from typing import Literal

from schemas.errors import BadInputError
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance import catalogue, data
from sinks.layout import Layout

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_MIGRATIONS, _VIEWS = "schema_migrations", "schema_views"
_STORAGE = "storage"  # under this name it is noted beside the views


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file. `applied`: whether the database has it."""

    number: int
    name: str
    text: str
    applied: bool = False

    @property
    def kind(self) -> Literal["migration", "view", "storage"]:
        return "migration"

    @property
    def title(self) -> str:
        return f"{self.number:04}_{self.name}"

    @property
    def checksum(self) -> str:
        return sha256(self.text.encode()).hexdigest()

    def statements(self, database: str) -> list[str]:
        """The statements with the database put in."""
        code = "\n".join(line for line in self.text.splitlines() if not line.lstrip().startswith("--"))
        return [s.strip().replace("{database}", database) for s in re.split(r";\s*$", code, flags=re.M) if s.strip()]


@dataclass(frozen=True, slots=True)
class View(Migration):
    """One view, repeatable: its text may change. `number` is 0. `applied`: it is there, with this text."""

    @property
    def kind(self) -> Literal["migration", "view", "storage"]:
        return "view"

    @property
    def title(self) -> str:
        return self.name


class Storage(View):
    """Where parts go and what is kept, as the settings say: done again when they change."""

    @property
    def kind(self) -> Literal["migration", "view", "storage"]:
        return "storage"


def committed() -> list[Migration]:
    """The numbered migrations of this version, in order."""
    out = []
    for file in (files("sinks") / "migrations").iterdir():
        found = _FILE.fullmatch(file.name)
        if found:
            out.append(Migration(int(found[1]), found[2], file.read_text(encoding="utf-8")))
    return sorted(out, key=lambda m: m.number)


def views() -> list[View]:
    """The views of this version: those for people (`views/`) by name, then the reports, which may read them."""
    folder = [f for f in (files("sinks") / "views").iterdir() if f.name.endswith(".sql")]
    plain = {f.name.removesuffix(".sql"): f.read_text(encoding="utf-8") for f in folder}
    reports = {r.view: catalogue.text_of(r, "{database}") for r in (*catalogue.REPORTS, *data.SERVICES)}
    return [View(0, name, text) for name, text in [*sorted(plain.items()), *reports.items()]]


def storage(config: ClickHouseConfig) -> list[Storage]:
    """What the settings say of storage: one step, or none when they say nothing. Tables then stay as they are."""
    text = Layout(config).storage()
    return [Storage(0, _STORAGE, text)] if text else []


def status(config: ClickHouseConfig, steps: list[Migration] | None = None) -> list[Migration]:
    """Every migration and view with whether it is applied. `steps`: others than those of this version.

    Raises BadInputError when an applied migration was changed since, or the database is of a newer version, and
    PartUnavailableError.
    """
    known = [*committed(), *views(), *storage(config)] if steps is None else steps
    db = Database(config, with_database=False)
    try:
        found, made = _applied(db), _made(db)
    finally:
        db.close()
    for number in found.keys() - {m.number for m in known}:
        raise BadInputError(
            f"database {config.database} has migration {number}, which this version does not know: use a newer version"
        )
    for m in known:
        if m.kind == "migration" and m.number in found and found[m.number] != m.checksum:
            raise BadInputError(
                f"migration {m.title} was changed after it was applied to {config.database}: "
                "restore it, and put the change into a new migration"
            )
    return [
        replace(m, applied=m.number in found if m.kind == "migration" else made.get(m.name) == m.checksum)
        for m in known
    ]


def plan(config: ClickHouseConfig, steps: list[Migration] | None = None) -> list[Migration]:
    """What `apply` would do. Raises as `status`."""
    return [m for m in status(config, steps) if not m.applied]


def apply(config: ClickHouseConfig, steps: list[Migration] | None = None) -> list[Migration]:
    """Applies what is missing, in order; returns it. Safe to run twice and by two at once. Raises as `status`."""
    todo = plan(config, steps)
    layout = Layout(config)
    db = Database(config, with_database=False)
    try:
        if todo:
            for statement in (*layout.databases(), *NOTES):
                for rendered in layout.render(statement):
                    db.run(rendered)
        for m in todo:
            for statement in m.statements("{database}"):
                for rendered in layout.render(statement):
                    db.run(rendered)
            into = (
                f"{_MIGRATIONS} (number, name, checksum) SELECT {m.number}, "
                if m.kind == "migration"
                else f"{_VIEWS} (name, checksum) SELECT "
            )
            db.run(f"INSERT INTO {config.database}.{into}'{m.name}', '{m.checksum}'")
    finally:
        db.close()
    return todo


NOTES = (
    f"CREATE TABLE IF NOT EXISTS {{database}}.{_MIGRATIONS} (number UInt32, name String, checksum String, "
    "applied_at DateTime('UTC') DEFAULT now()) ENGINE = MergeTree ORDER BY number",
    f"CREATE TABLE IF NOT EXISTS {{database}}.{_VIEWS} (name String, checksum String, "
    "applied_at DateTime64(6, 'UTC') DEFAULT now64(6)) ENGINE = MergeTree ORDER BY (name, applied_at)",
)


def _applied(db: Database) -> dict[int, str]:
    """Checksums of the numbered migrations that were applied."""
    if not _exists(db, _MIGRATIONS):
        return {}
    rows = db.rows(f"SELECT number, groupUniqArray(checksum) FROM {db.name}.{_MIGRATIONS} GROUP BY number")
    return {int(number): checksums[0] if len(checksums) == 1 else "several" for number, checksums in rows}


def _made(db: Database) -> dict[str, str]:
    """Checksums of the views that are there, each of the text that it was last made from."""
    if not _exists(db, _VIEWS):
        return {}
    rows = db.rows(
        f"SELECT name, argMax(checksum, applied_at) FROM {db.name}.{_VIEWS} WHERE name = %(s)s "
        "OR name IN (SELECT name FROM system.tables WHERE database = %(d)s) GROUP BY name",
        {"d": db.name, "s": _STORAGE},
    )
    return {str(name): str(checksum) for name, checksum in rows}


def _exists(db: Database, table: str) -> bool:
    found = db.rows(
        "SELECT count() FROM system.tables WHERE database = %(d)s AND name = %(t)s", {"d": db.name, "t": table}
    )
    return bool(found[0][0])
