"""The development ClickHouse server as clickhouse-driver sees it.

The real driver is the peer that proves the protocol. Every test talks to a real server process.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from clickhouse_driver import Client, errors

from clearline.embedded.clickhouse import native
from tests.contract.clickhouse_server.process import (
    Server,
)

pytestmark = pytest.mark.stack

# Types: what goes in comes out

DAY, NOW = date(2026, 11, 22), datetime(2026, 11, 22, 10, 0, 0)
UUID = uuid.UUID("61f0c404-5cb3-11e7-907b-a6006ad3dba0")
TYPES: list[tuple[str, list[Any]]] = [
    ("UInt8", [0, 255]),
    ("UInt16", [0, 65_535]),
    ("UInt32", [0, 2**32 - 1]),
    ("UInt64", [0, 2**64 - 1]),
    ("UInt128", [0, 2**128 - 1]),
    ("UInt256", [0, 2**256 - 1]),
    ("Int8", [-128, 127]),
    ("Int16", [-(2**15), 2**15 - 1]),
    ("Int32", [-(2**31), 2**31 - 1]),
    ("Int64", [-(2**63), 2**63 - 1]),
    ("Int128", [-(2**127), 2**127 - 1]),
    ("Int256", [-(2**255), 2**255 - 1]),
    ("Float32", [0.5, -2.0]),
    ("Float64", [1e300, -0.1]),
    ("Bool", [True, False]),
    ("String", ["", "жизнь" * 100]),
    ("FixedString(3)", ["abc", "x"]),
    ("Date", [DAY, date(1970, 1, 1)]),
    ("Date32", [DAY, date(1950, 1, 1)]),
    ("DateTime", [NOW, NOW]),
    ("DateTime64(3)", [NOW + timedelta(milliseconds=7), NOW]),
    ("DateTime64(6)", [NOW + timedelta(microseconds=7), NOW]),
    ("Decimal(9, 2)", [Decimal("1234567.89"), Decimal("-0.01")]),
    ("Decimal(18, 4)", [Decimal("12345678901234.5678"), Decimal(0)]),
    ("Decimal(38, 0)", [Decimal(10**37), Decimal(-(10**37))]),
    ("Decimal(76, 10)", [Decimal("1" * 60 + ".0000000001"), Decimal(1)]),
    ("Enum8('D' = 1, 'C' = 2)", ["D", "C"]),
    ("Enum16('a' = -1000, 'b' = 1000)", ["a", "b"]),
    ("UUID", [UUID, uuid.UUID(int=0)]),
    ("IPv4", [IPv4Address("127.0.0.1"), IPv4Address("8.8.8.8")]),
    ("IPv6", [IPv6Address("::1"), IPv6Address("2001:db8::1")]),
    ("Nullable(Int64)", [None, 5]),
    ("Nullable(String)", ["x", None]),
    ("Nullable(DateTime64(3))", [None, NOW]),
    ("Array(Int64)", [[1, 2, 3], []]),
    ("Array(Array(String))", [[["a"], []], []]),
    ("Array(Nullable(String))", [["a", None], []]),
    ("Map(String, UInt64)", [{"a": 1, "b": 2}, {}]),
    ("Map(UInt16, UInt64)", [{1: 10}, {2: 20}]),
    ("Map(String, Array(String))", [{"a": ["x", "y"]}, {}]),
    ("Tuple(Int64, String)", [(1, "a"), (2, "b")]),
    ("Array(Tuple(UInt8, String))", [[(1, "a")], []]),
    ("LowCardinality(String)", ["CNY", "USD"]),
    ("LowCardinality(Nullable(String))", [None, "USD"]),
    ("Array(LowCardinality(String))", [["a", "b"], []]),
    ("SimpleAggregateFunction(sum, Int64)", [1, 2]),
]


@pytest.mark.parametrize(("type_", "values"), TYPES, ids=[type_ for type_, _ in TYPES])
def test_types_come_back(client: Client, table: str, type_: str, values: list[Any]) -> None:
    client.execute(f"CREATE TABLE {table} (id UInt32, v {type_}, tail String) ENGINE = MergeTree ORDER BY id")
    rows = [(index, value, f"tail{index}") for index, value in enumerate(values)]
    assert client.execute(f"INSERT INTO {table} VALUES", rows) == len(values)
    found = client.execute(f"SELECT id, v, tail FROM {table} ORDER BY id")
    wanted = [(index, value, f"tail{index}") for index, value in enumerate(values)]
    assert found == wanted
    stored = client.execute(f"SELECT toTypeName(v) FROM {table} LIMIT 1")[0][0]
    for where in ("1", "id > 100"):
        _, columns = client.execute(f"SELECT v, id FROM {table} WHERE {where}", with_column_types=True)
        assert columns == [("v", stored), ("id", "UInt32")]


NESTED: list[tuple[str, list[Any]]] = [
    ("SELECT CAST((1, 'a') AS Tuple(id UInt8, `odd name` String))", [((1, "a"),)]),
    ("SELECT NULL", [(None,)]),
    ("SELECT [], map()", [([], {})]),
    ("SELECT toIntervalDay(3)", [(3,)]),
    ("SELECT (1.5, 2.5)::Point", [((1.5, 2.5),)]),
    ("SELECT toTime64('12:00:00.5', 3)::String", [("12:00:00.500",)]),
]


# What is said, and what is answered

PROBES: list[tuple[str, list[Any]]] = [
    ("SELECT 1", [(1,)]),
    ("SELECT 1;", [(1,)]),
    ("-- why\nSELECT 1 -- because", [(1,)]),
    ("SELECT 1 FORMAT JSON", [(1,)]),
    ("(SELECT 1) UNION DISTINCT (SELECT 1)", [(1,)]),
    ("WITH 5 AS x SELECT x + 1", [(6,)]),
    ("SELECT 'a;b', ';'", [("a;b", ";")]),
    ("SELECT count() FROM numbers(100000)", [(100_000,)]),
    ("SELECT sum(number) OVER (ORDER BY number) FROM numbers(3)", [(0,), (1,), (3,)]),
    ("SELECT number % 2 AS k, count() FROM numbers(10) GROUP BY k WITH TOTALS ORDER BY k", [(0, 5), (1, 5), (0, 10)]),
    ("SELECT 1 WHERE 0", []),
    ("SELECT toDateTime64('2026-11-22 10:00:00.123', 3, 'UTC')::String", [("2026-11-22 10:00:00.123",)]),
    ("SELECT CAST('170141183460469231731687303715884105727' AS Int128)", [(2**127 - 1,)]),
    ("SELECT sum(toInt128(9223372036854775807)) FROM numbers(3)", [(3 * (2**63 - 1),)]),
    ("SELECT toDecimal128('1.10', 2) + 1", [(Decimal("2.10"),)]),
    ("SELECT argMax(number, number), quantile(0.5)(number) FROM numbers(11)", [(10, 5.0)]),
    ("SELECT groupArray(number) FROM numbers(3)", [([0, 1, 2],)]),
    ("SELECT toUInt64(number) FROM numbers(3) ORDER BY number DESC LIMIT 1 BY number % 2", [(2,), (1,)]),
    ("SELECT JSONExtractInt('{\"a\": 7}', 'a')", [(7,)]),
    ("SELECT getSetting('async_insert'), getSetting('max_threads')", [(False, 2)]),
    ("SELECT timezone() IN (SELECT timezone())", [(1,)]),
    ("SELECT startsWith(version(), '2')", [(1,)]),
    ("EXISTS TABLE surely_not_there", [(0,)]),
    ("SHOW TABLES LIKE 'surely_not_there'", []),
    ("SELECT name FROM system.databases WHERE name = 'system'", [("system",)]),
]


@pytest.mark.parametrize(("text", "rows"), PROBES + NESTED, ids=[text[:50] for text, _ in PROBES + NESTED])
def test_queries_answer(client: Client, text: str, rows: list[Any]) -> None:
    assert client.execute(text) == rows


FAILURES: list[tuple[str, int]] = [
    ("SELECT nope", 47),
    ("SELECT * FROM nope", 60),
    ("SELECT * FROM nope.nope", 81),
    ("SELEC 1", 62),
    ("", 62),
    ("SELECT 1; SELECT 2", 62),
    ("SELECT throwIf(number = 150000, 'no') FROM numbers(300000)", 395),
    ("SELECT 1 INTO OUTFILE '/tmp/never'", 358),
    ("INSERT INTO nope VALUES", 60),
    ("CREATE TABLE", 62),
    ("SELECT quantileState(1)", 50),
    ("SELECT 1::Dynamic", 50),
    ("SELECT sleepEachRow(1) FROM numbers(30) SETTINGS max_execution_time = 0.2, max_block_size = 1", 159),
]


@pytest.mark.parametrize(("text", "code"), FAILURES, ids=[text[:40] for text, _ in FAILURES])
def test_failures_carry_clickhouse_codes_and_the_connection_goes_on(client: Client, text: str, code: int) -> None:
    with pytest.raises(errors.ServerException) as caught:
        client.execute(text, [(1,)] if text.startswith("INSERT") else None)
    assert caught.value.code == code
    assert "Traceback" not in str(caught.value)
    assert client.execute("SELECT 1") == [(1,)]


def test_hello_says_what_this_is(client: Client) -> None:
    client.execute("SELECT 1")
    said = client.connection.server_info
    assert "development server" in said.display_name
    assert said.name == "ClickHouse"
    assert said.used_revision == native.REVISION
    assert client.connection.ping()


@pytest.mark.parametrize("revision", [54_429, 54_441, 54_450, 54_454, 54_456, 54_459, 54_462])
def test_older_drivers_work(server: Server, table: str, revision: int) -> None:
    old = server.client(client_revision=revision, compression=True)
    old.execute(f"CREATE TABLE {table} (a Int64, b LowCardinality(String)) ENGINE = Memory")
    old.execute(f"INSERT INTO {table} VALUES", [(1, "x"), (2, "y")])
    assert old.execute(f"SELECT * FROM {table} ORDER BY a") == [(1, "x"), (2, "y")]
    with pytest.raises(errors.ServerException):
        old.execute("SELECT nope")
    old.disconnect()


def test_a_large_result_streams_in_blocks(client: Client) -> None:
    total = 0
    for row in client.execute_iter("SELECT number, toString(number), repeat('x', number % 300) FROM numbers(300000)"):
        assert row[1] == str(row[0])
        assert len(row[2]) == row[0] % 300
        total += 1
    assert total == 300_000
    assert client.last_query.profile_info.blocks > 1


def test_settings_last_for_one_query(client: Client) -> None:
    ask = "SELECT getSetting('max_block_size')"
    before = client.execute(ask)
    assert client.execute(ask, settings={"max_block_size": 123}) == [(123,)]
    assert client.execute(ask, settings={"max_block_size": 124, "max_result_rows": 7}) == [(124,)]
    assert client.execute(ask) == before
    client.execute("SET max_block_size = 77")
    assert client.execute(ask) == [(77,)]
    assert client.execute(ask, settings={"max_block_size": 123}) == [(123,)]
    assert client.execute(ask) == [(77,)]


def test_unknown_settings_are_ignored_unless_important(server: Server) -> None:
    relaxed = server.client(settings={"no_such_setting_here": 1})
    assert relaxed.execute("SELECT 1") == [(1,)]
    relaxed.disconnect()
    strict = server.client(settings={"no_such_setting_here": 1}, settings_is_important=True)
    with pytest.raises(errors.ServerException) as caught:
        strict.execute("SELECT 1")
    assert caught.value.code == 115
    strict.disconnect()


PARAMETERS: list[tuple[str, Any, Any]] = [
    ("UInt64", 5, 5),
    ("Int64", -(2**63), -(2**63)),
    ("String", "it's \\ a \t\n'test'", "it's \\ a \t\n'test'"),
    ("String", "", ""),
    ("String", "жизнь", "жизнь"),
    ("Date", DAY, DAY),
    ("DateTime", NOW, NOW),
    ("Array(UInt8)", [1, 2], [1, 2]),
    ("Array(String)", ["a'b", "c"], ["a'b", "c"]),
    ("Identifier", "number", 3),
]


@pytest.mark.parametrize(("type_", "value", "answer"), PARAMETERS, ids=[f"{t}-{v}" for t, v, _ in PARAMETERS])
def test_server_side_parameters(server: Server, type_: str, value: Any, answer: Any) -> None:
    asking = server.client(settings={"server_side_params": True})
    text = f"SELECT {{value:{type_}}} FROM numbers(3, 1)"
    assert asking.execute(text, {"value": value}) == [(answer,)]
    asking.disconnect()


def test_parameterised_views(client: Client, table: str) -> None:
    client.execute(f"CREATE VIEW {table} AS SELECT number AS n FROM numbers(10) WHERE number < {{upto:UInt8}}")
    assert client.execute(f"SELECT count() FROM {table}(upto = 4)") == [(4,)]


def test_totals_and_extremes(client: Client) -> None:
    rows = client.execute("SELECT number AS n, toDecimal64(n, 2) AS d FROM numbers(5)", settings={"extremes": 1})
    assert rows[:5] == [(n, Decimal(n)) for n in range(5)]
    assert rows[5:] == [(0, Decimal(0)), (4, Decimal(4))]


def test_external_tables(client: Client) -> None:
    external = [{"name": "ext", "structure": [("a", "Int64"), ("b", "String")], "data": [{"a": 1, "b": "x"}]}]
    assert client.execute("SELECT a, b FROM ext", external_tables=external) == [(1, "x")]
    with pytest.raises(errors.ServerException):
        client.execute("SELECT * FROM ext")


def test_session_state_stays_with_its_connection(server: Server, client: Client, table: str) -> None:
    client.execute(f"CREATE TEMPORARY TABLE {table} (a Int64)")
    client.execute(f"INSERT INTO {table} VALUES", [(1,)])
    assert client.execute(f"SELECT a FROM {table}") == [(1,)]
    other = server.client()
    with pytest.raises(errors.ServerException) as caught:
        other.execute(f"SELECT a FROM {table}")
    assert caught.value.code == 60
    other.disconnect()


def test_databases(server: Server, client: Client) -> None:
    client.execute("CREATE DATABASE IF NOT EXISTS `odd name`")
    inside = server.client(database="odd name")
    assert inside.execute("SELECT currentDatabase()") == [("odd name",)]
    inside.execute("USE system")
    assert inside.execute("SELECT currentDatabase()") == [("system",)]
    inside.disconnect()
    with pytest.raises(errors.ServerException) as caught:
        server.client(database="surely_not").execute("SELECT 1")
    assert caught.value.code == 81
    client.execute("DROP DATABASE `odd name`")


@pytest.mark.parametrize(("user", "password"), [("default", "wrong"), ("nobody", ""), ("clearline_reader", "x")])
def test_wrong_credentials_are_refused(server: Server, user: str, password: str) -> None:
    with pytest.raises(errors.ServerException) as caught:
        server.client(user=user, password=password).execute("SELECT 1")
    assert caught.value.code == 516
    answer = server.http(auth=(user, password)).get("/", params={"query": "SELECT 1"})
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (403, "516")


# The read-only user


@pytest.fixture
def reader(server: Server) -> Iterator[Client]:
    opened = server.client(user="clearline_reader")
    yield opened
    opened.disconnect()


REFUSED = [
    "CREATE TABLE r (a Int8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE r (a Int8)",
    "DROP TABLE IF EXISTS whatever",
    "ALTER TABLE whatever DELETE WHERE 1",
    "TRUNCATE TABLE whatever",
    "OPTIMIZE TABLE whatever",
    "SYSTEM FLUSH LOGS",
    "KILL QUERY WHERE 1",
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT file('/etc/passwd')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
    "SELECT * FROM remote('127.0.0.1:1', 'system', 'one')",
    "SELECT * FROM '/etc/passwd'",
    "INSERT INTO FUNCTION file('/tmp/never', 'CSV', 'a Int8') SELECT 1",
    "SELECT 1 SETTINGS readonly = 0",
    "SET readonly = 0",
    "SET allow_ddl = 1",
]


@pytest.mark.parametrize("text", REFUSED)
def test_the_reader_is_refused(reader: Client, text: str) -> None:
    with pytest.raises(errors.ServerException) as caught:
        reader.execute(text)
    assert caught.value.code == 164
    assert reader.execute("SELECT 1") == [(1,)]


def test_the_reader_cannot_insert(server: Server, reader: Client, client: Client, table: str) -> None:
    client.execute(f"CREATE TABLE {table} (a Int64) ENGINE = MergeTree ORDER BY a")
    with pytest.raises(errors.ServerException) as caught:
        reader.execute(f"INSERT INTO {table} VALUES", [(1,)])
    assert caught.value.code == 164
    with pytest.raises(errors.ServerException):
        reader.execute(f"INSERT INTO {table} SELECT 1")
    answer = server.http().post("/", params={"user": "clearline_reader", "query": f"INSERT INTO {table} VALUES (1)"})
    assert answer.headers["X-ClickHouse-Exception-Code"] == "164"
    assert reader.execute(f"SELECT count() FROM {table}") == [(0,)]


def test_the_reader_reads_and_sets_limits(reader: Client) -> None:
    ask = "SELECT getSetting('max_execution_time')"
    assert reader.execute(ask, settings={"max_execution_time": 7}) == [(7.0,)]
    reader.execute("SET max_execution_time = 5")
    assert reader.execute(ask) == [(5.0,)]
    assert reader.execute("SHOW DATABASES LIKE 'system'") == [("system",)]
    reader.execute("USE system")
    assert reader.execute("SELECT count() FROM one") == [(1,)]
    with pytest.raises(errors.ServerException) as caught:
        reader.execute("SELECT 1", settings={"readonly": 0, "allow_ddl": 1})
    assert caught.value.code == 164
