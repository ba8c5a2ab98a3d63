"""Migrations: planned, applied once, never changed afterwards; a cut-short one is simply run again. Views: made anew."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from clearline.cli import main
from schemas.errors import BadInputError, PartUnavailableError
from sinks import migrate
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance import catalogue
from sinks.ledger_sink import Arrival, LedgerSink
from tests.journals import Line, Maker, local_codec
from tests.sink_child import TOPIC
from tests.sink_servers import ClickHouseServer

pytestmark = pytest.mark.stack


@pytest.fixture
def config(server: ClickHouseServer) -> ClickHouseConfig:
    return server.config(f"clearline_{uuid.uuid4().hex[:8]}")


def tables(config: ClickHouseConfig) -> set[str]:
    db = Database(config)
    try:
        return {row[0] for row in db.rows("SHOW TABLES")}
    finally:
        db.close()


def test_plan_apply_status(config: ClickHouseConfig) -> None:
    everything = [*migrate.committed(), *migrate.views()]
    assert migrate.plan(config) == everything
    assert [m.applied for m in migrate.status(config)] == [False] * len(everything)
    assert migrate.apply(config) == everything
    assert migrate.apply(config) == migrate.plan(config) == []
    assert all(m.applied for m in migrate.status(config))
    made = {"postings", "outcomes", "control_changes", "dead_letters", "ingest_batches", "pending", "seals", "calls"}
    made |= {"limit_rows"}
    assert made | {"entries", "rejections", "partners", "accounts", "products", "closes"} <= tables(config)
    assert {r.view for r in catalogue.REPORTS} <= tables(config)


def test_a_view_is_made_anew_when_its_text_changed_or_it_is_gone(config: ClickHouseConfig) -> None:
    first = migrate.View(0, "v", "-- one;\nCREATE OR REPLACE VIEW {database}.v AS SELECT 1 AS x;\n")
    second = replace(first, text=first.text.replace("1 AS x", "2 AS x"))
    assert migrate.apply(config, [first]) == [first]
    assert migrate.plan(config, [first]) == []
    assert migrate.apply(config, [second]) == [second]
    db = Database(config)
    assert db.rows("SELECT x FROM v") == [(2,)]
    assert migrate.apply(config, [first]) == [first], "an older version's text counts, too"
    db.run("DROP VIEW v")
    assert migrate.apply(config, [first]) == [first]
    assert db.rows("SELECT x FROM v") == [(1,)]
    db.close()


def test_a_view_is_there_while_it_is_replaced(config: ClickHouseConfig) -> None:
    """Readers meet the old one or the new one, never none, and always a whole one."""
    texts = [f"CREATE OR REPLACE VIEW {{database}}.v AS SELECT {i} AS x, {i} AS y" for i in range(40)]
    migrate.apply(config, [migrate.View(0, "v", texts[0])])
    done = threading.Event()
    seen: list[tuple[Any, ...]] = []

    def read() -> None:
        db = Database(config)
        while not done.is_set():
            seen.extend(db.rows("SELECT x, y FROM v"))
        db.close()

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            pool.submit(lambda: [migrate.apply(config, [migrate.View(0, "v", t)]) for t in texts]).result(60)
        finally:
            done.set()
        for reader in readers:
            reader.result(60)
    assert len(set(seen)) > 1
    assert all(x == y for x, y in seen)


def test_two_that_migrate_at_once_come_to_the_same(config: ClickHouseConfig) -> None:
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(migrate.apply, config) for _ in range(2)]:
            done.result(60)
    assert migrate.plan(config) == []


def test_a_changed_migration_is_refused(config: ClickHouseConfig) -> None:
    migrate.apply(config)
    changed = [replace(m, text=m.text + "-- a comment\n") for m in migrate.committed()]
    for call in (migrate.plan, migrate.apply, migrate.status):
        with pytest.raises(BadInputError, match="0001_ledger was changed"):
            call(config, changed)


def test_a_newer_database_is_refused(config: ClickHouseConfig) -> None:
    migrate.apply(config, [*migrate.committed(), migrate.Migration(99, "later", "SELECT 1;\n")])
    with pytest.raises(BadInputError, match="migration 99"):
        migrate.apply(config)


def test_one_that_failed_half_way_is_run_again(config: ClickHouseConfig) -> None:
    text = (
        "CREATE TABLE IF NOT EXISTS {database}.first (x Int8) ENGINE = MergeTree ORDER BY x;\nSELECT no_such_column;\n"
    )
    with pytest.raises(BadInputError, match="no_such_column"):
        migrate.apply(config, [migrate.Migration(1, "half", text)])
    assert "first" in tables(config)
    whole = [migrate.Migration(1, "half", text.replace("no_such_column", "1"))]
    assert [m.number for m in migrate.apply(config, whole)] == [1]
    assert migrate.plan(config, whole) == []


def test_a_database_of_an_earlier_version_goes_on(config: ClickHouseConfig, server: ClickHouseServer) -> None:
    """Rows from before `pending` was there stay as they are; new ones have theirs; the sink takes both for whole."""
    full = server.config(config.database + "_full")
    lines = Maker(41).lines(600)
    migrate.apply(full)
    write(full, lines[:400])
    migrate.apply(config, [m for m in migrate.committed() if m.number < 4])
    db = Database(config)
    for table in ("outcomes", "postings", "control_changes"):
        names = ", ".join(
            str(row[0])
            for row in db.rows(
                f"SELECT name FROM system.columns WHERE database = '{config.database}' AND table = '{table}' "
                "AND default_kind NOT IN ('EPHEMERAL', 'MATERIALIZED')"
            )
        )
        db.run(f"INSERT INTO {table} ({names}) SELECT {names} FROM {full.database}.{table}")
    assert migrate.apply(config)[0].number == 4
    write(config, lines[400:])
    wanted = [(x.partition, x.offset, i) for x in lines[400:] for i, _ in enumerate(x.record.pending)]
    assert len(wanted) > 10
    assert db.rows("SELECT partition, offset, line FROM pending ORDER BY partition, offset, line") == sorted(wanted)
    days = "SELECT partition, booked_date, min(sequence), max(sequence), count() FROM outcomes GROUP BY 1, 2 ORDER BY 1"
    assert db.rows(days + " SETTINGS optimize_use_projections = 1") == db.rows(
        days + " SETTINGS optimize_use_projections = 0"
    )
    assert "by_booked_day" in "".join(str(row[0]) for row in db.rows("EXPLAIN indexes = 1 " + days))
    db.close()


def write(config: ClickHouseConfig, lines: list[Line]) -> None:
    sink = LedgerSink(config, TOPIC, local_codec())
    sink.take_over()
    sink.write([Arrival(x.partition, x.offset, x.value) for x in lines])
    sink.close()


def test_statements_are_cut_at_line_ends_and_comments_left_out() -> None:
    m = migrate.Migration(1, "x", "-- a;\nCREATE TABLE {database}.a\n(\n  x Int8 COMMENT 'b; c'\n);\n-- d\nSELECT 2;")
    assert m.statements("w") == ["CREATE TABLE w.a\n(\n  x Int8 COMMENT 'b; c'\n)", "SELECT 2"]


def test_no_server_and_no_name() -> None:
    with pytest.raises(PartUnavailableError, match=r"127\.0\.0\.1:1"):
        migrate.apply(ClickHouseConfig("127.0.0.1", 1, "clearline_x"))
    with pytest.raises(BadInputError, match="letters"):
        ClickHouseConfig("127.0.0.1", 1, "x; DROP DATABASE y")


def test_the_command(
    server: ClickHouseServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """plan, apply, status and their exit codes: 0, 2 for a changed migration, 3 when ClickHouse does not answer."""
    database = f"clearline_{uuid.uuid4().hex[:8]}"
    for name, value in (("HOST", "127.0.0.1"), ("PORT", str(server.port)), ("DATABASE", database)):
        monkeypatch.setenv(f"CLEARLINE_CLICKHOUSE__{name}", value)

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["migrate", *arguments])
        out = capsys.readouterr()
        return code, out.out + out.err

    everything = len(migrate.committed()) + len(migrate.views())
    code, text = run("plan", "--json")
    assert (code, len(json.loads(text)["steps"])) == (0, everything)
    code, text = run("apply")
    assert (code, text.count("done: ")) == (0, everything)
    assert run("apply") == run("apply") != (code, text)
    code, text = run("status", "--json")
    assert (code, all(step["applied"] for step in json.loads(text)["steps"])) == (0, True)
    assert "nothing to do" in run("plan")[1]
    db = server.database(database)
    db.run("INSERT INTO schema_migrations (number, name, checksum) SELECT 1, 'ledger', 'other'")
    db.close()
    for command in ("plan", "apply", "status"):
        code, text = run(command)
        assert (code, "was changed after it was applied" in text) == (2, True)
    monkeypatch.setenv("CLEARLINE_CLICKHOUSE__PORT", "1")
    code, text = run("plan")
    assert (code, "does not answer" in text) == (3, True)
