"""The HTTP interface of the development ClickHouse server, as curl and BI tools use it."""

from __future__ import annotations

import gzip
import json
import socket
import uuid
from collections.abc import Iterator

import httpx
import lz4.frame
import pytest

from tests.contract.clickhouse_server.process import (
    DEADLINE_S,
    Server,
)

pytestmark = pytest.mark.stack


@pytest.fixture
def web(server: Server) -> Iterator[httpx.Client]:
    with server.http() as opened:
        yield opened


def test_http_basics(web: httpx.Client) -> None:
    assert web.get("/ping").text == "Ok.\n"
    assert web.get("/").text == "Ok.\n"
    assert web.get("/", params={"query": "SELECT 1"}).text == "1\n"
    assert web.post("/", content="SELECT 2").text == "2\n"
    assert web.post("/", params={"query": "SELECT"}, content="3, 'x'").text == "3\tx\n"
    assert web.get("/nowhere").status_code == 404
    assert web.head("/ping").status_code == 200


def test_http_formats(web: httpx.Client) -> None:
    answer = web.get("/", params={"query": "SELECT 1 AS a, 'x' AS b FORMAT JSON"})
    assert answer.json()["data"] == [{"a": 1, "b": "x"}]
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["X-ClickHouse-Format"] == "JSON"
    assert "development server" in answer.headers["X-ClickHouse-Server-Display-Name"]
    assert web.get("/", params={"query": "SELECT 1", "default_format": "JSONEachRow"}).json() == {"1": 1}
    assert web.get("/", params={"query": "SELECT 1"}, headers={"X-ClickHouse-Format": "CSV"}).text == "1\n"
    csv = web.get("/", params={"query": "SELECT number, 'a' FROM numbers(3)", "default_format": "CSVWithNames"})
    assert csv.text == '"number","\'a\'"\n0,"a"\n1,"a"\n2,"a"\n'
    parquet = web.get("/", params={"query": "SELECT 1 FORMAT Parquet"})
    assert parquet.content[:4] == b"PAR1"


def test_http_parameters_settings_and_database(web: httpx.Client) -> None:
    text = "SELECT {n:UInt8} + 1, {s:String}"
    assert web.get("/", params={"query": text, "param_n": "4", "param_s": "it's"}).text == "5\tit\\'s\n"
    text = "SELECT getSetting('max_block_size'), currentDatabase()"
    answer = web.get("/", params={"query": text, "max_block_size": "99", "database": "system"})
    assert answer.text == "99\tsystem\n"
    answer = web.get("/", params={"query": text}, headers={"X-ClickHouse-Database": "system"})
    assert answer.text.endswith("\tsystem\n")
    assert web.get("/", params={"query": "SELECT 1", "no_such_setting": "1"}).status_code == 404


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [("SELECT nope", 404, 47), ("SELECT * FROM nope", 404, 60), ("SELEC", 400, 62), ("SELECT throwIf(1)", 500, 395)],
)
def test_http_errors(web: httpx.Client, text: str, status: int, code: int) -> None:
    answer = web.get("/", params={"query": text})
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (status, str(code))
    assert answer.text.startswith(f"Code: {code}. DB::Exception: ")


def test_http_get_is_read_only(web: httpx.Client, table: str) -> None:
    create = f"CREATE TABLE {table} (a Int8) ENGINE = Memory"
    assert web.get("/", params={"query": create}).headers["X-ClickHouse-Exception-Code"] == "164"
    assert web.post("/", params={"query": create}).status_code == 200
    refused = web.get("/", params={"query": f"INSERT INTO {table} VALUES (1)"})
    assert refused.headers["X-ClickHouse-Exception-Code"] == "164"


def test_http_credentials(server: Server) -> None:
    who = {"query": "SELECT 1"}
    with server.http() as web:
        assert web.get("/", params={**who, "user": "clearline_reader"}).text == "1\n"
        assert web.get("/", params=who, headers={"X-ClickHouse-User": "default", "X-ClickHouse-Key": ""}).text == "1\n"
        assert web.get("/", params=who, auth=("clearline_reader", "")).text == "1\n"
        assert web.get("/", params=who, headers={"Authorization": "Basic ???"}).status_code >= 400


ROWS = b'{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n'


def test_http_inserts(web: httpx.Client, table: str) -> None:
    web.post("/", content=f"CREATE TABLE {table} (a Int64, b String DEFAULT 'd') ENGINE = MergeTree ORDER BY a")
    head = f"INSERT INTO {table} FORMAT JSONEachRow"
    bodies: list[tuple[dict[str, str], bytes, dict[str, str]]] = [
        ({"query": head}, ROWS, {}),
        ({}, head.encode() + b"\n" + ROWS, {}),
        ({"query": head}, gzip.compress(ROWS), {"Content-Encoding": "gzip"}),
        ({"query": head}, lz4.frame.compress(ROWS), {"Content-Encoding": "lz4"}),
        ({"query": f"INSERT INTO {table} VALUES"}, b"(1, 'x'), (2, 'y')", {}),
        ({}, f"INSERT INTO {table} VALUES (1, 'x'), (2, 'y')".encode(), {}),
        ({"query": f"INSERT INTO {table} (a) FORMAT CSV"}, b"1\n2\n", {}),
    ]
    for params, content, headers in bodies:
        answer = web.post("/", params=params, content=content, headers=headers)
        assert answer.status_code == 200, answer.text
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["written_rows"] == "2"
    found = web.get("/", params={"query": f"SELECT count(), sum(a), countIf(b = 'd') FROM {table}"}).text
    assert found == f"{2 * len(bodies)}\t{3 * len(bodies)}\t2\n"

    def chunks() -> Iterator[bytes]:
        yield ROWS[:7]
        yield ROWS[7:]

    assert web.post("/", params={"query": head}, content=chunks()).status_code == 200
    broken = web.post("/", params={"query": head}, content=ROWS + b'{"a": oops}')
    assert broken.status_code == 400
    assert broken.text.startswith("Code: ")
    after = web.get("/", params={"query": f"SELECT count() FROM {table}"}).text
    assert after == f"{2 * len(bodies) + 2}\n"


def test_http_binary_insert_and_native_output(web: httpx.Client, table: str) -> None:
    web.post("/", content=f"CREATE TABLE {table} (a Int64, b String) ENGINE = MergeTree ORDER BY a")
    rows = web.get("/", params={"query": "SELECT toInt64(number) AS a, 'é' AS b FROM numbers(3) FORMAT Native"}).content
    head = f"INSERT INTO {table} FORMAT Native\n".encode()
    assert web.post("/", content=head + rows).status_code == 200
    assert web.get("/", params={"query": f"SELECT sum(a), any(b) FROM {table}"}).text == "3\té\n"
    variant = web.get("/", params={"query": VARIANT, "client_protocol_version": "54454"})
    assert variant.status_code == 200
    assert variant.content.count(b"Variant(String, UInt64)") == 1
    wrapped = web.get("/", params={"query": "SELECT 1 AS x FORMAT Native", "client_protocol_version": "54405"}).content
    assert wrapped == b"\x01\x00\x02\xff\xff\xff\xff\x00\x01\x01\x01x\x05UInt8\x01"


VARIANT = "SELECT arrayJoin(['x'::Variant(UInt64, String), 7::UInt64::Variant(UInt64, String)]) FORMAT Native"


@pytest.mark.parametrize("encoding", ["gzip", "lz4"])
def test_http_compressed_answers(web: httpx.Client, encoding: str) -> None:
    params = {"query": "SELECT * FROM numbers(1000)", "enable_http_compression": "1"}
    with web.stream("GET", "/", params=params, headers={"Accept-Encoding": encoding}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["Content-Encoding"] == encoding
    text = gzip.decompress(raw) if encoding == "gzip" else lz4.frame.decompress(raw)
    assert text.split()[-1] == b"999"


def test_http_sessions(web: httpx.Client, table: str) -> None:
    session = {"session_id": uuid.uuid4().hex}
    web.post("/", params=session, content=f"CREATE TEMPORARY TABLE {table} (a Int8)")
    web.post("/", params=session, content=f"INSERT INTO {table} VALUES (5)")
    web.post("/", params=session, content="SET max_block_size = 55")
    answer = web.post("/", params=session, content=f"SELECT a, getSetting('max_block_size') FROM {table}")
    assert answer.text == "5\t55\n"
    assert web.post("/", content=f"SELECT a FROM {table}").status_code == 404
    odd = web.post("/", params={**session, "session_timeout": "soon"}, content="SELECT 1")
    assert odd.headers["X-ClickHouse-Exception-Code"] == "36"
    assert web.post("/", params=session, content="SELECT 1").text == "1\n"
    missing = web.post("/", params={"session_id": "never", "session_check": "1"}, content="SELECT 1")
    assert missing.headers["X-ClickHouse-Exception-Code"] == "372"


@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
def test_half_a_body_inserts_nothing(server: Server, web: httpx.Client, table: str, framing: bytes) -> None:
    web.post("/", content=f"CREATE TABLE {table} (a Int64, b String) ENGINE = MergeTree ORDER BY a")
    with socket.create_connection(("127.0.0.1", server.http_port), DEADLINE_S) as connection:
        head = f"POST /?query=INSERT+INTO+{table}+FORMAT+JSONEachRow HTTP/1.1\r\nHost: x\r\n".encode()
        size = b"" if b"Length" in framing else f"{len(ROWS):x}\r\n".encode()
        connection.sendall(head + framing + b"\r\n\r\n" + size + ROWS + (b"\r\n" if size else b""))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400")
    assert web.get("/", params={"query": f"SELECT count() FROM {table}"}).text == "0\n"
