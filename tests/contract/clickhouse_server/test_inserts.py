"""Inserts into the development ClickHouse server, several clients at once, and clients that misbehave."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from clickhouse_driver import Client, errors

from clearline.embedded.clickhouse import native
from clearline.embedded.clickhouse.source import string, varint
from tests.contract.clickhouse_server.process import (
    DEADLINE_S,
    LONG_QUERY,
    Server,
    running,
    wait_for,
)

pytestmark = pytest.mark.stack

# Inserts


def test_columns_in_another_order_with_defaults(client: Client, table: str) -> None:
    client.execute(
        f"CREATE TABLE {table} (a Int64, b String DEFAULT concat('d', toString(a)), m Int64 MATERIALIZED a * 2, "
        f"`odd col` UInt8) ENGINE = MergeTree ORDER BY a"
    )
    client.execute(f"INSERT INTO {table} (`odd col`, a) VALUES", [(7, 1)])
    client.execute(f"INSERT INTO {table} VALUES", [(2, "x", 8)])
    client.execute(f"INSERT INTO {table} (* EXCEPT(b)) VALUES", [(3, 9)])
    found = client.execute(f"SELECT a, b, m, `odd col` FROM {table} ORDER BY a")
    assert found == [(1, "d1", 2, 7), (2, "x", 4, 8), (3, "d3", 6, 9)]
    with pytest.raises(errors.ServerException) as caught:
        client.execute(f"INSERT INTO {table} (nope) VALUES", [(1,)])
    assert caught.value.code == 16


def test_inline_values(client: Client, table: str) -> None:
    client.execute(f"CREATE TABLE {table} (a Int64, b String) ENGINE = MergeTree ORDER BY a")
    client.execute(f"INSERT INTO {table} VALUES (1, 'a'), (2, 'b;c')")
    client.execute(f"INSERT INTO {table} SELECT number, 'n' FROM numbers(3, 2)")
    assert client.execute(f"SELECT count(), sum(a) FROM {table}") == [(4, 1 + 2 + 3 + 4)]


@pytest.mark.parametrize("columnar", [False, True])
def test_many_blocks_are_one_part(client: Client, table: str, columnar: bool) -> None:
    client.execute(f"CREATE TABLE {table} (a Int64, s String) ENGINE = MergeTree ORDER BY a")
    rows: list[Any] = [(n, str(n)) for n in range(50_000)]
    data = [list(column) for column in zip(*rows, strict=True)] if columnar else rows
    client.execute(f"INSERT INTO {table} VALUES", data, columnar=columnar, settings={"insert_block_size": 1_000})
    assert client.execute(f"SELECT count(), uniqExact(a), uniqExact(s) FROM {table}") == [(50_000,) * 3]
    parts = f"SELECT count() FROM system.parts WHERE table = '{table}' AND rows = 50000 AND level = 0"
    assert client.execute(parts) == [(1,)]


def test_a_broken_constraint_refuses_the_whole_insert(client: Client, table: str) -> None:
    client.execute(f"CREATE TABLE {table} (a Int64, CONSTRAINT small CHECK a < 9000) ENGINE = MergeTree ORDER BY a")
    rows = [(n,) for n in range(10_000)]
    with pytest.raises(errors.ServerException) as caught:
        client.execute(f"INSERT INTO {table} VALUES", rows, settings={"insert_block_size": 1_000})
    assert caught.value.code == 469
    assert "small" in caught.value.message
    assert client.execute(f"SELECT count() FROM {table}") == [(0,)]
    client.execute(f"INSERT INTO {table} VALUES", [(1,)])
    assert client.execute(f"SELECT count() FROM {table}") == [(1,)]


@pytest.mark.parametrize("compression", [False, "lz4"])
def test_numpy_columns(server: Server, table: str, compression: Any) -> None:
    pytest.importorskip("pandas", reason="the driver's numpy mode imports pandas, which we do not install")
    fast = server.client(compression=compression, settings={"use_numpy": True})
    fast.execute(
        f"CREATE TABLE {table} (a UInt64, b Int64, c LowCardinality(String), d DateTime64(3, 'UTC'), e String, "
        "f Date, g Float64) ENGINE = MergeTree ORDER BY a"
    )
    size = 100_000
    index = np.arange(size)
    names = np.array(["CNY", "USD", "EUR"], dtype=object)[index % 3]
    moments = (np.datetime64("2026-11-22T10:00:00.000") + index.astype("timedelta64[ms]")).astype("datetime64[ns]")
    refs = np.array([f"ref-{n:06d}" for n in index], dtype=object)
    days = np.full(size, "2026-11-22", "datetime64[D]")
    data = [index.astype(np.uint64), -index.astype(np.int64), names, moments, refs, days, index / 2.0]
    fast.execute(f"INSERT INTO {table} VALUES", data, columnar=True)
    found = fast.execute(f"SELECT * FROM {table} ORDER BY a", columnar=True)
    assert (found[0] == data[0]).all()
    assert (found[1] == data[1]).all()
    assert list(found[2][:4]) == ["CNY", "USD", "EUR", "CNY"]
    assert list(found[4][-1:]) == ["ref-099999"]
    assert fast.execute(f"SELECT uniqExact(d), uniqExact(e) FROM {table}", columnar=True)[0][0] == size
    fast.disconnect()


def test_an_insert_cut_off_leaves_nothing(server: Server, client: Client, table: str) -> None:
    client.execute(f"CREATE TABLE {table} (a Int64) ENGINE = MergeTree ORDER BY a")

    def rows() -> Iterator[tuple[int]]:
        yield from ((n,) for n in range(5_000))
        raise ConnectionAbortedError

    leaving = server.client(settings={"insert_block_size": 1_000})
    with pytest.raises(ConnectionAbortedError):
        leaving.execute(f"INSERT INTO {table} VALUES", rows())
    leaving.disconnect()
    assert client.execute(f"SELECT count() FROM {table}") == [(0,)]


# Several clients


def test_a_second_client_is_served_while_an_insert_runs(server: Server, table: str) -> None:
    writer, reader = server.client(), server.client()
    writer.execute(f"CREATE TABLE {table} (a Int64, b Int64) ENGINE = MergeTree ORDER BY a")
    done = threading.Event()

    def insert() -> None:
        writer.execute(
            f"INSERT INTO {table} SELECT number, sleepEachRow(0.02) FROM numbers(100) "
            "SETTINGS max_block_size = 5, min_insert_block_size_rows = 1"
        )
        done.set()

    running = threading.Thread(target=insert)
    running.start()
    answered = 0
    while not done.is_set():
        reader.execute("SELECT count() FROM numbers(1000)")
        answered += not done.is_set()
    running.join()
    assert answered > 3
    assert reader.execute(f"SELECT count() FROM {table}") == [(100,)]
    writer.disconnect()
    reader.disconnect()


def test_concurrent_inserts_all_land(server: Server, table: str) -> None:
    setup = server.client()
    setup.execute(f"CREATE TABLE {table} (a Int64, w Int64) ENGINE = MergeTree ORDER BY a")
    failures: list[Exception] = []

    def insert(worker: int) -> None:
        own = server.client(compression=bool(worker % 2))
        try:
            for turn in range(5):
                own.execute(f"INSERT INTO {table} VALUES", [(turn * 1_000 + n, worker) for n in range(1_000)])
        except Exception as error:
            failures.append(error)
        own.disconnect()

    workers = [threading.Thread(target=insert, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
    assert setup.execute(f"SELECT count(), uniqExact(a, w) FROM {table}") == [(30_000, 30_000)]
    setup.disconnect()


def test_cancel_stops_a_query_and_the_connection_goes_on(server: Server) -> None:
    looking, asking = server.client(), server.client()
    mark = uuid.uuid4().hex
    asking.execute("SELECT 1")
    asking.connection.send_query(LONG_QUERY.format(mark=mark))
    asking.connection.send_external_tables(None)
    wait_for(lambda: running(looking, mark))
    asking.cancel()
    assert not running(looking, mark)
    asking.connection.is_query_executing = False
    assert asking.execute("SELECT 2") == [(2,)]
    asking.disconnect()
    looking.disconnect()


def test_cancel_in_the_middle_of_a_result(server: Server) -> None:
    asking = server.client()
    blocks = asking.execute_iter("SELECT number FROM numbers(100000000)")
    assert next(blocks) == (0,)
    asking.cancel()
    asking.connection.is_query_executing = False
    assert asking.execute("SELECT 2") == [(2,)]
    asking.disconnect()


def test_a_client_that_leaves_stops_its_query(server: Server) -> None:
    looking, asking = server.client(), server.client()
    mark = uuid.uuid4().hex
    asking.execute("SELECT 1")
    asking.connection.send_query(LONG_QUERY.format(mark=mark))
    asking.connection.send_external_tables(None)
    wait_for(lambda: running(looking, mark))
    asking.disconnect()
    wait_for(lambda: not running(looking, mark))
    looking.disconnect()


# Bad clients


def hello(server: Server) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), DEADLINE_S)
    numbers = varint(1) + varint(1) + varint(native.REVISION_MIN)
    connection.sendall(varint(0) + string("t") + numbers + string("") + string("default") + string(""))
    assert connection.recv(1) == b"\x00"
    return connection


BAD_BYTES = {
    "unknown packet": varint(77),
    "second hello": varint(0) + bytes(50),
    "endless number": b"\xff" * 64,
    "too long a query": varint(1) + string("") + b"\x00" + string("") + varint(2) + varint(0) + varint(1 << 50),
    "block too large": varint(1) + string("") + b"\x00" + string("") + varint(2) + varint(0) + string("SELECT 1")
    + varint(2) + string("") + b"\x00" + varint(1 << 20) + varint(1 << 40),
    "GET / HTTP/1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD_BYTES))
def test_unreadable_bytes_close_only_their_connection(server: Server, client: Client, name: str) -> None:
    client.execute("SELECT 1")
    with hello(server) as connection:
        connection.sendall(BAD_BYTES[name])
        rest = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert b"DB::Exception" in rest
    assert b"Traceback" not in rest
    assert client.execute("SELECT 1") == [(1,)]


def test_random_bytes_do_no_harm(server: Server, client: Client) -> None:
    seed = random.Random(20_261_122)
    for _ in range(60):
        with (
            socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as connection,
            contextlib.suppress(OSError),
        ):
            connection.sendall(seed.randbytes(seed.randrange(1, 200)))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
    assert client.execute("SELECT 1") == [(1,)]
