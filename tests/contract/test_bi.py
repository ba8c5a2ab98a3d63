"""What BI tools send, through their own drivers, on both ports; and every statement of docs/bi.md and of the Grafana
dashboard, with figures worked out from the journal in Python."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client as Connect
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_driver.errors import ServerException

from ledger.money import EXPONENTS
from tests.reader_world import FINANCE, PASSWORD, World, world

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "bi.md").read_text(encoding="utf-8")
PANELS = {title: sql.strip() for title, sql in re.findall(r"\*\*([^*]+)\*\*[^\n]*\n```sql\n(.*?)```", PAGE, re.S)}
STATEMENTS = [sql.strip() for sql in re.findall(r"```sql\n(.*?)```", PAGE, re.S)]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "finance.json").read_text(encoding="utf-8"))
READERS = [FINANCE, "p1_reader"]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    running = world(tmp_path_factory.mktemp("bi"), seed=5, records=1_000)
    running.add("p1")
    yield running
    running.server.stop()


def connect(ledger: World, user: str = FINANCE, **options: Any) -> Connect:
    """clickhouse-connect, as Superset opens it."""
    return clickhouse_connect.get_client(
        host="127.0.0.1",
        port=ledger.server.http_port,
        username=user,
        password="" if user == FINANCE else PASSWORD,
        database=ledger.config.database,
        **options,
    )


def plain(row: Iterable[Any]) -> tuple[Any, ...]:
    """A row without what the drivers differ in: whether a moment of UTC says so."""
    return tuple(value.replace(tzinfo=None) if isinstance(value, datetime) else value for value in row)


# The page and the dashboard


@pytest.mark.parametrize("text", STATEMENTS, ids=range(len(STATEMENTS)))
@pytest.mark.parametrize("user", READERS)
def test_every_statement_of_the_page_runs_the_same_on_both_ports(ledger: World, user: str, text: str) -> None:
    if user != FINANCE and "report_trial_balance" in text:
        assert set(ledger.refused(user, text)) <= {164, 497}  # a report of the whole bank
        return
    with connect(ledger, user) as web, ledger.client(user, database=ledger.config.database) as native:
        found = [plain(row) for row in web.query(text).result_rows]
        assert found
        assert found == [plain(row) for row in native.execute(text)]


def test_panels_are_exact(ledger: World) -> None:
    sums: Counter[tuple[str, str]] = Counter()
    balances: Counter[tuple[str, str]] = Counter()
    flows: Counter[tuple[int, str]] = Counter()
    rejected: Counter[str] = Counter()
    for line in ledger.lines:
        r = line.record
        rejected[r.reason] += r.outcome == "rejected"
        for leg in r.postings:
            sums[leg.currency, leg.side] += leg.amount
            partner = leg.account_id.partition(":")[0]
            if partner != "bank":
                balances[partner, leg.currency] += leg.amount if leg.side == "credit" else -leg.amount
            if leg.side == "debit" and leg.currency == "CNY" and r.product:
                flows[r.value_date, r.product] += leg.amount

    def decimal(amount: int, currency: str) -> Decimal:
        return Decimal(amount).scaleb(-EXPONENTS[currency])

    with ledger.client(FINANCE, database=ledger.config.database) as client:
        found = client.execute(PANELS["Trial balance"])
        assert [(c, d, cr, x) for c, d, cr, x, _ in found] == [
            (c, decimal(sums[c, "debit"], c), decimal(sums[c, "credit"], c), 0) for c in ("CNY", "JPY", "USD")
        ]
        found = client.execute(PANELS["Balances"])
        assert {(p, c): b for p, c, b in found} == {(p, c): decimal(n, c) for (p, c), n in balances.items()}
        assert all(isinstance(balance, Decimal) for *_, balance in found)
        found = client.execute(PANELS["Flows by product"])
        days = {((day - type(day)(1970, 1, 1)).days, product): amount for day, product, _, amount in found}
        assert days == {key: decimal(n, "CNY") for key, n in flows.items()}
        found = client.execute(PANELS["Rejections"])
        assert sum(n for *_, n in found) == sum(n for reason, n in rejected.items() if reason)
        found = client.execute(PANELS["As of"])
        assert sum(row[1] for row in found) == len(ledger.lines)
        assert all(row[3] for row in found)


def test_currencies_are_the_ledgers(ledger: World) -> None:
    for user in READERS:
        with ledger.client(user, database=ledger.config.database) as client:
            found = client.execute("SELECT currency, exponent, minor_units FROM currencies")
        assert {c: e for c, e, _ in found} == EXPONENTS
        assert all(units == 10**exponent for _, exponent, units in found)


def grafana(text: str) -> str:
    """A query as Grafana's plugin sends it: its macros and the dashboard's variables put in."""
    text = re.sub(r"\$__dateFilter\((\w+)\)", r"\1 >= toDate('2026-11-01') AND \1 <= toDate('2026-12-31')", text)
    return text.replace("${currency}", "CNY")


def targets() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["rawSql"]
    for variable in DASHBOARD["templating"]["list"]:
        yield variable["name"], variable["query"]["rawSql"]


@pytest.mark.parametrize(("title", "text"), list(targets()))
@pytest.mark.parametrize("user", READERS)
def test_every_query_of_the_grafana_dashboard_answers(ledger: World, user: str, title: str, text: str) -> None:
    asked = grafana(text)
    assert "$" not in asked, title
    with ledger.client(user, database=ledger.config.database) as client:
        rows = client.execute(asked, settings={"max_execution_time": 60})
    assert rows, title


def test_the_dashboard_asks_for_its_data_source() -> None:
    """Nothing of one installation is in it."""
    (source,) = DASHBOARD["__inputs"]
    assert source["pluginId"] == "grafana-clickhouse-datasource"
    named = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    assert named == {"${" + source["name"] + "}"}
    assert {panel["title"].partition(",")[0] for panel in DASHBOARD["panels"]} == set(PANELS)


# What the drivers send unasked, from their sources

PROBES = [
    # Grafana's plugin and clickhouse-go
    "SELECT version()",
    "SELECT timezone(), version()",
    "SELECT displayName(), version(), revision(), timezone()",
    "SHOW DATABASES",
    'SHOW TABLES FROM "{database}"',
    'DESC TABLE "{database}"."postings"',
    "SELECT name, type, table FROM system.columns",
    "SELECT name, type, table FROM system.columns WHERE database IN ('{database}') AND table = 'postings'",
    "SELECT name, is_aggregate, case_insensitive, alias_to, origin, description, syntax, arguments, returned_value, "
    "examples, categories FROM system.functions LIMIT 10000",
    "select distinct currency from postings limit 1000",
    # clickhouse-jdbc (Metabase)
    "SELECT version() as server_version",
    "SELECT currentUser() AS user, timezone() AS timezone, version() AS version LIMIT 1",
    "SELECT database AS TABLE_SCHEM, name AS TABLE_NAME, engine, comment, data_paths FROM system.tables "
    "WHERE database = '{database}' AND name LIKE '%'",
    "SELECT database, table, name, type, position, comment, default_expression FROM system.columns "
    "WHERE database LIKE '{database}' AND table LIKE 'postings' AND name LIKE '%'",
    "SELECT name, is_in_primary_key FROM system.columns WHERE database = '{database}' AND table = 'postings'",
    "SELECT name, case_insensitive, alias_to FROM system.data_type_families",
    "SELECT TRUE AS `_` FROM `{database}`.`postings` WHERE 1 <> 1 LIMIT 0",
    "SELECT `postings`.`currency` AS `currency`, count(*) AS `count` FROM `{database}`.`postings` "
    "GROUP BY `postings`.`currency` ORDER BY `postings`.`currency` ASC",
    # clickhouse-connect and its dialect (Superset)
    "SELECT name, value, readonly FROM system.settings LIMIT 10000",
    "EXISTS DATABASE `{database}`",
    "EXISTS TABLE `{database}`.`postings`",
    "SHOW TABLES FROM `{database}`",
    "SELECT name FROM system.tables WHERE database = '{database}' AND engine IN ('View', 'WindowView') ORDER BY name",
    "SELECT engine, engine_full, comment FROM system.tables WHERE database = '{database}' AND name = 'postings'",
    "DESCRIBE TABLE `{database}`.`postings`",
    'SELECT currency AS currency, sum("amount") AS "SUM(amount)" FROM (SELECT currency, amount FROM postings) AS '
    "virtual_table GROUP BY currency ORDER BY `SUM(amount)` DESC LIMIT 1000",
    # clickhouse-driver and its SQLAlchemy dialect
    "SELECT name FROM system.databases WHERE name NOT LIKE '.inner%'",
    "SELECT name, type, default_kind FROM system.columns WHERE database = '{database}' AND table = 'postings'",
    # information_schema, which many tools know
    "SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_schema = '{database}'",
    "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'postings'",
    "SELECT schema_name FROM information_schema.schemata",
]


@pytest.mark.parametrize("text", PROBES)
@pytest.mark.parametrize("user", READERS)
def test_what_drivers_ask_unasked_is_answered(ledger: World, user: str, text: str) -> None:
    asked = text.replace("{database}", ledger.config.database)
    with ledger.client(user, database=ledger.config.database) as client:
        native = client.execute(asked)
    with ledger.http(user) as web:
        answer = web.post("/", params={"default_format": "JSONCompact"}, content=asked)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["data"]) == len(native)
        assert "dead_letters" not in answer.text or user == FINANCE


FORMATS = ["Native", "RowBinaryWithNamesAndTypes", "JSONCompact", "JSON", "JSONEachRow", "CSVWithNames"]
FORMATS += ["JSONCompactEachRowWithNamesAndTypes", "TabSeparatedWithNamesAndTypes", "ArrowStream", "Parquet"]


@pytest.mark.parametrize("encoding", ["", "gzip", "lz4", "own"])
@pytest.mark.parametrize("format_", FORMATS)
def test_formats_and_compressions_tools_choose(ledger: World, format_: str, encoding: str) -> None:
    text = "SELECT currency, side, sum(amount) AS total, max(booked_at) FROM postings GROUP BY currency, side ORDER BY 1, 2"
    with ledger.http("p1_reader") as web:
        plain = web.post("/", params={"default_format": format_}, content=text)
        headers = {"Accept-Encoding": encoding} if encoding in ("gzip", "lz4") else {"Accept-Encoding": "identity"}
        params = {"default_format": format_, "wait_end_of_query": "1", "async_insert": "0"}
        params |= {"compress": "1"} if encoding == "own" else {"enable_http_compression": "1"}
        with web.stream("POST", "/", params=params, content=text, headers=headers) as answer:
            raw = b"".join(answer.iter_raw())
        assert (plain.status_code, answer.status_code) == (200, 200)
        assert answer.headers["X-ClickHouse-Format"] == format_
        summary = json.loads(answer.headers["X-ClickHouse-Summary"])
        assert summary["result_rows"] == str(6)  # three currencies, both sides
        if encoding == "" and format_ not in ("JSON", "JSONCompact"):  # those say how long it took
            assert raw == plain.content
        assert (answer.headers.get("Content-Encoding") or "") == (encoding if encoding in ("gzip", "lz4") else "")


def test_clickhouse_connect_as_a_session(ledger: World) -> None:
    """Its settings, parameters, streams, blocks and errors, as Superset and notebooks use them."""
    options: list[dict[str, Any]] = [{}, {"compress": "lz4"}, {"compress": "gzip"}, {"compress": False}]
    for more in [*options, {"autogenerate_session_id": True}, {"settings": {"max_execution_time": 20}}]:
        with connect(ledger, "p1_reader", **more) as client:
            assert str(client.server_version).startswith("26.")
            assert client.query("SELECT getSetting('max_execution_time')").result_rows == [
                (more.get("settings", {}).get("max_execution_time", 30),)
            ]
            found = client.query(
                "SELECT count() FROM postings WHERE currency = {c:String} AND value_date >= {d:Date}",
                parameters={"c": "CNY", "d": "2026-01-01"},
            )
            count = sum(
                leg.currency == "CNY" and leg.account_id.startswith(("p1:", "p1/"))
                for line in ledger.lines
                for leg in line.record.postings
            )
            assert found.result_rows == [(count,)]
            with client.query_row_block_stream("SELECT account_id, amount FROM postings") as stream:
                rows = [row for block in stream for row in block]
            assert rows
            assert all(account.startswith(("p1:", "p1/")) and isinstance(amount, int) for account, amount in rows)
            assert client.command("SELECT max(amount) FROM postings") == max(amount for _, amount in rows)
            assert client.raw_query("SELECT 1 AS one", fmt="JSONEachRow").strip() == b'{"one":1}'
            for text in ("INSERT INTO postings (partner_id) VALUES ('x')", "SELECT * FROM dead_letters"):
                with pytest.raises(DatabaseError):
                    client.command(text)
            with pytest.raises(DatabaseError):
                client.query("SELECT 1", settings={"max_execution_time": 100})
            assert client.query("SELECT 1", settings={"max_execution_time": 60}).result_rows == [(1,)]


@pytest.mark.parametrize("compression", [False, "lz4"])
def test_clickhouse_driver_as_a_reader(ledger: World, compression: Any) -> None:
    with ledger.client("p1_reader", compression=compression, settings={"server_side_params": True}) as client:
        found = client.execute("SELECT count() > 0 FROM postings WHERE currency = {c:String}", {"c": "CNY"})
        assert found == [(1,)]
        rows, columns = client.execute("SELECT amount, side FROM postings LIMIT 1", with_column_types=True)
        assert [name for name, _ in columns] == ["amount", "side"] and len(rows) == 1
        assert sum(1 for _ in client.execute_iter("SELECT line FROM postings", settings={"max_block_size": 100})) > 100
        with pytest.raises(ServerException) as caught:
            client.execute("INSERT INTO postings (partner_id) VALUES", [("x",)])
        assert caught.value.code == 164
        assert client.execute("SELECT 1") == [(1,)]
