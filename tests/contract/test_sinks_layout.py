"""Tables on a cluster, and where their parts lie, from the same migrations: every statement rendered and parsed.

No cluster runs here: what is held is that the engine takes each statement, that every table is replicated, and that the
sharded ones and those that people see fit together. Settings of storage are applied for real.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from typing import Any

import pytest

from schemas.errors import BadInputError, InvariantError
from sinks import fence, migrate
from sinks.clickhouse import ON_A_CLUSTER, ClickHouseConfig, Database
from sinks.layout import Layout
from sinks.ledger_sink import TABLES
from tests.sink_servers import ClickHouseServer

CLUSTER = ClickHouseConfig("127.0.0.1", 1, "clearline_live", cluster="ours")


def rendered(config: ClickHouseConfig) -> list[str]:
    """Everything that `migrate apply` runs on an empty database."""
    layout = Layout(config)
    out: list[str] = []
    steps = [*migrate.committed(), *migrate.views(), *migrate.storage(config)]
    texts = [*layout.databases(), *migrate.NOTES, *(s for m in steps for s in m.statements("{database}"))]
    for text in texts:
        out += layout.render(text)
    return out


def created(statements: list[str], engine: str) -> dict[str, str]:
    """Full names of the tables with an engine, and what follows it."""
    pattern = re.compile(rf"CREATE TABLE IF NOT EXISTS (\S+) .*\)\s*ENGINE = {engine}\b(.*)", re.S)
    return {m[1]: m[2] for m in map(pattern.match, statements) if m}


def test_on_one_server_statements_are_as_they_are_written() -> None:
    one = replace(CLUSTER, cluster="")
    for m in migrate.committed():
        for text in m.statements("{database}"):
            assert Layout(one).render(text) == [text.replace("{database}", "clearline_live")]
    assert not any("CLUSTER" in s for s in rendered(one))


def test_every_table_is_replicated_and_those_of_the_journal_are_sharded_by_partition() -> None:
    statements = rendered(replace(CLUSTER, storage_policy="tiered", cold_after_months=24, calls_keep_days=400))
    assert all(" ON CLUSTER 'ours'" in s for s in statements)
    replicated = created(statements, "ReplicatedMergeTree")
    distributed = created(statements, "Distributed")
    assert not created(statements, "MergeTree")
    sharded = {n.partition(".")[2] for n in replicated if n.startswith("clearline_live_shard.")}
    assert (
        {n.partition(".")[2] for n in distributed}
        == sharded
        >= {*TABLES, "seals", "calls", "dead_letters", "ingest_batches"}
    )
    for name, rest in distributed.items():
        table = name.partition(".")[2]
        assert rest.startswith(f"('ours', 'clearline_live_shard', '{table}', partition)")
    paths = {}
    for name, rest in replicated.items():
        path, replica = re.match(r"\('([^']+)', '([^']+)'\)", rest).groups()  # type: ignore[union-attr]
        paths[path] = name
        whole = "{shard}" not in path
        assert replica == ("{shard}-{replica}" if whole else "{replica}")
        assert whole == (not name.startswith("clearline_live_shard."))
    assert len(paths) == len(replicated), "two tables in one place"
    assert {"clearline_live.schema_migrations", "clearline_live.schema_views"} <= set(replicated)


def test_columns_that_people_see_are_those_of_the_shards() -> None:
    """Also those that a later migration added; indexes, projections and checks are the shards' own."""
    columns: dict[str, list[str]] = {}
    for s in rendered(CLUSTER):
        if m := re.match(r"CREATE TABLE IF NOT EXISTS (\S+) ON CLUSTER 'ours'\n\((.*)\)\nENGINE", s, re.S):
            lines = [line.strip().rstrip(",") for line in m[2].splitlines() if line.strip()]
            columns[m[1]] = [x for x in lines if not x.startswith(("INDEX ", "PROJECTION ", "CONSTRAINT "))]
            assert "Distributed" not in s or columns[m[1]] == lines
        elif m := re.match(r"ALTER TABLE (\S+) ON CLUSTER 'ours' ADD COLUMN IF NOT EXISTS (.*?)( AFTER \w+)?$", s):
            columns[m[1]].append(m[2])
    for name, own in columns.items():
        database, _, table = name.partition(".")
        if database == "clearline_live_shard":
            assert own == columns[f"clearline_live.{table}"], table
    assert any(c.startswith("pending ") for c in columns["clearline_live.outcomes"])


@pytest.mark.stack
def test_the_engine_parses_every_statement(server: ClickHouseServer) -> None:
    config = replace(CLUSTER, storage_policy="tiered", cold_after_months=24, calls_keep_days=400)
    db = server.database("default")
    statements = rendered(config)
    for s in statements:
        assert db.rows("EXPLAIN AST " + s), s
    db.close()
    assert len(statements) > 60


class Recorded:
    """A database that answers as replicas would, and keeps what it was told to do."""

    def __init__(self, config: ClickHouseConfig, replicas: list[str]) -> None:
        self.config, self.name = config, config.database
        self.replicas, self.ran, self.asked = replicas, [], []  # type: ignore[var-annotated]

    def rows(self, query: str, params: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        self.asked.append(query)
        if "create_table_query" in query:
            return [(text,) for text in self.replicas]
        return [("one",)] if "system.processes" in query and len(self.asked) < 2 else []

    def run(self, statement: str) -> None:
        self.ran.append(statement)
        added = re.findall(r"ADD CONSTRAINT IF NOT EXISTS (run_\d+)", statement)
        self.replicas = [f"CONSTRAINT {name}" for name in added for _ in self.replicas]


def test_the_fence_is_put_up_on_every_replica() -> None:
    db: Any = Recorded(CLUSTER, ["CONSTRAINT run_7 CHECK run = 7", ""])
    assert fence._holders(db, "postings") == [0, 7], "replicas that do not agree are nobody's"
    fence._hold(db, "postings", 9)
    assert db.ran == [
        "ALTER TABLE clearline_live_shard.postings ON CLUSTER 'ours' ADD CONSTRAINT IF NOT EXISTS run_9 CHECK run = 9, "
        "DROP CONSTRAINT IF EXISTS run_0, DROP CONSTRAINT IF EXISTS run_7"
    ]
    assert all("clusterAllReplicas('ours', system.tables)" in q for q in db.asked)
    waiting: Any = Recorded(CLUSTER, [])
    fence._wait_for_inserts(waiting, ("postings",))
    assert "clusterAllReplicas('ours', system.processes)" in waiting.asked[0]
    assert waiting.asked[1].startswith("KILL QUERY ON CLUSTER 'ours' WHERE")


@pytest.mark.stack
def test_the_engine_parses_the_fence_and_knows_the_settings(server: ClickHouseServer) -> None:
    db = server.database("default")
    recorded: Any = Recorded(CLUSTER, ["CONSTRAINT run_7"])
    fence._hold(recorded, "postings", 9)
    assert db.rows("EXPLAIN AST " + recorded.ran[0])
    names = db.rows("SELECT name FROM system.settings WHERE name IN %(n)s", {"n": tuple(ON_A_CLUSTER)})
    assert {row[0] for row in names} == set(ON_A_CLUSTER)
    db.close()


def test_a_statement_without_a_rule_is_refused_on_a_cluster() -> None:
    with pytest.raises(InvariantError, match="no rule"):
        Layout(CLUSTER).render("OPTIMIZE TABLE {database}.postings FINAL")
    with pytest.raises(BadInputError, match="cluster"):
        replace(CLUSTER, cluster="a'b")


@pytest.mark.stack
def test_storage_is_as_the_settings_say_and_rows_of_the_ledger_are_never_deleted(server: ClickHouseServer) -> None:
    config = replace(
        server.config(f"clearline_{uuid.uuid4().hex[:8]}"),
        storage_policy="default", cold_volume="default", cold_after_months=24, calls_keep_days=400,
    )  # fmt: skip
    plain = replace(config, storage_policy="", cold_after_months=0, calls_keep_days=0)
    migrate.apply(plain)
    assert migrate.plan(plain) == []
    assert [m.title for m in migrate.apply(config)] == ["storage"]
    assert migrate.plan(config) == []
    db = Database(config)
    texts = dict(
        db.rows("SELECT name, create_table_query FROM system.tables WHERE database = %(d)s", {"d": config.database})
    )
    for table in ("postings", "pending", "outcomes", "control_changes"):
        assert "TTL toDate(booked_at) + toIntervalMonth(24) TO VOLUME 'default'" in texts[table]
        assert "storage_policy = 'default'" in texts[table]
        assert "DELETE" not in texts[table]
    assert "TTL toDate(counted_at) + toIntervalDay(400)" in texts["calls"]
    again = replace(config, calls_keep_days=30)
    assert [m.title for m in migrate.apply(again)] == ["storage"]
    db.close()
