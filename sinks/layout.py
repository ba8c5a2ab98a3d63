"""Where the tables lie: on one server, or on a cluster, from the same migrations.

On a cluster every table that has a column `partition` is sharded by it: the rows of one partition of the journal are
all on one shard, so an insert of them is one part there, all or nothing, as on one server. Such a table is a
ReplicatedMergeTree in the database `<database>_shard`, and a Distributed table of its name in `<database>`, which is
what everybody reads and writes. A table without that column is small: it is whole on every server, replicated between
all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from schemas.errors import InvariantError

if TYPE_CHECKING:
    from sinks.clickhouse import ClickHouseConfig

_NAME = r"\{database\}\.([a-z_0-9]+)"
_CREATE = re.compile(rf"CREATE TABLE IF NOT EXISTS {_NAME}\s*\((.*)\)\s*ENGINE = MergeTree\b(.*)", re.S)
_ALTER = re.compile(rf"ALTER TABLE {_NAME} (.*)", re.S)
_VIEW = re.compile(rf"CREATE OR REPLACE VIEW {_NAME}\s+AS\b(.*)", re.S)
_NOT_DISTRIBUTED = ("INDEX ", "PROJECTION ", "CONSTRAINT ")
_LOCAL_CHANGES = (
    "ADD INDEX", "DROP INDEX", "ADD PROJECTION", "DROP PROJECTION", "ADD CONSTRAINT", "DROP CONSTRAINT", "MATERIALIZE ",
    "MODIFY TTL", "MODIFY SETTING",
)  # fmt: skip

_GROWING = ("postings", "pending", "outcomes", "control_changes")  # with the ledger, by month


class Layout:
    """Renders statements for the servers that a configuration names."""

    def __init__(self, config: ClickHouseConfig) -> None:
        self._config = config
        self.database = config.database
        self.cluster = config.cluster
        self.local = f"{config.database}_shard" if config.cluster else config.database

    def databases(self) -> list[str]:
        """The statements that make the databases."""
        names = dict.fromkeys((self.database, self.local))
        return [f"CREATE DATABASE IF NOT EXISTS {name}{self.on_cluster}" for name in names]

    def everywhere(self, table: str) -> str:
        """A table of the server's own, of all servers together."""
        return f"clusterAllReplicas('{self.cluster}', {table})" if self.cluster else table

    def storage(self) -> str:
        """The statements, with `{database}`, that say where parts go and what is kept; empty when nothing is set."""
        c, out = self._config, []
        for table in _GROWING:
            alter = f"ALTER TABLE {{database}}.{table} MODIFY"
            if c.storage_policy:
                out.append(f"{alter} SETTING storage_policy = '{c.storage_policy}'")
            if c.cold_after_months:
                out.append(
                    f"{alter} TTL toDate(booked_at) + INTERVAL {c.cold_after_months} MONTH TO VOLUME '{c.cold_volume}'"
                )
        if c.calls_keep_days:
            alter, days = "ALTER TABLE {database}.calls MODIFY", c.calls_keep_days
            out.append(f"{alter} SETTING ttl_only_drop_parts = 1")
            out.append(f"{alter} TTL toDate(counted_at) + INTERVAL {days} DAY DELETE")
        return "".join(f"{s};\n" for s in out)

    def render(self, statement: str) -> list[str]:
        """A statement of a migration or a view, with `{database}` for the database, as the statements to run.

        Raises InvariantError on a cluster for a statement of a kind that has no rule here.
        """
        if not self.cluster:
            return [self._named(statement)]
        if found := _CREATE.fullmatch(statement):
            return self._table(*found.groups())
        if found := _ALTER.fullmatch(statement):
            return self._change(*found.groups())
        if found := _VIEW.fullmatch(statement):
            name, rest = found.groups()
            return [f"CREATE OR REPLACE VIEW {self.database}.{name}{self.on_cluster} AS{self._named(rest)}"]
        if statement.startswith("CREATE DATABASE"):
            return [statement]
        raise InvariantError(f"no rule for a cluster: {statement[:80]}")

    def _table(self, name: str, columns: str, rest: str) -> list[str]:
        own = [line for line in columns.splitlines() if line.strip()]
        path = f"/clickhouse/tables/{{shard}}/{self.database}/{name}"
        if not re.search(r"^\s*partition\s", columns, re.M):
            path = path.replace("{shard}/", "")
            engine = f"ReplicatedMergeTree('{path}', '{{shard}}-{{replica}}')"
            table = f"{self.database}.{name}{self.on_cluster}"
            return [f"CREATE TABLE IF NOT EXISTS {table}\n({columns})\nENGINE = {engine}{rest}"]
        engine = f"ReplicatedMergeTree('{path}', '{{replica}}')"
        plain = [line for line in own if not line.strip().startswith(_NOT_DISTRIBUTED)]
        plain[-1] = plain[-1].rstrip().rstrip(",")
        shown = "\n".join(plain)
        comment = re.search(r"^COMMENT '(?:[^']|'')*'$", rest, re.M)
        return [
            f"CREATE TABLE IF NOT EXISTS {self.local}.{name}{self.on_cluster}\n({columns})\nENGINE = {engine}{rest}",
            f"CREATE TABLE IF NOT EXISTS {self.database}.{name}{self.on_cluster}\n(\n{shown}\n)\n"
            f"ENGINE = Distributed('{self.cluster}', '{self.local}', '{name}', partition)"
            + (f"\n{comment[0]}" if comment else ""),
        ]

    def _change(self, name: str, change: str) -> list[str]:
        out = [f"ALTER TABLE {self.local}.{name}{self.on_cluster} {change}"]
        if not change.startswith(_LOCAL_CHANGES):
            out.append(f"ALTER TABLE {self.database}.{name}{self.on_cluster} {change}")
        return out

    def _named(self, text: str) -> str:
        return text.replace("{database}", self.database)

    @property
    def on_cluster(self) -> str:
        """What makes a statement one for all servers."""
        return f" ON CLUSTER '{self.cluster}'" if self.cluster else ""
