"""Start, stop and kill -9 of the development ClickHouse server, and a comparison with another server."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest
from clickhouse_driver import Client, errors

from tests.contract.clickhouse_server.process import (
    LONG_QUERY,
    ROOT,
    START_S,
    Server,
    command,
    running,
    start,
    wait_for,
)

pytestmark = pytest.mark.stack

# Start and stop


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=START_S)


def test_it_listens_on_loopback_only(server: Server) -> None:
    listening = {
        entry.laddr
        for entry in psutil.Process(server.process.pid).net_connections("inet")
        if entry.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", server.port), ("127.0.0.1", server.http_port)}


def test_its_log_says_what_it_is(server: Server) -> None:
    assert "development server" in server.log.read_text()


def test_a_taken_port_is_exit_3(server: Server, tmp_path: Path) -> None:
    for ports in ((server.port, 0), (0, server.http_port)):
        ended = run(*command(tmp_path / "other", *ports))
        assert ended.returncode == 3
        assert f"port {max(ports)} on 127.0.0.1 cannot be used" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_folder_in_use_is_exit_3(server: Server) -> None:
    ended = run(*command(server.folder))
    assert ended.returncode == 3
    assert f"is in use by process {server.process.pid}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("clearline-clickhouse.json", '{"clickhouse": "99.1.1.1"}', "was written by ClickHouse 99.1.1.1"),
        ("clearline-clickhouse.json", "what", "is damaged"),
        ("holiday.jpg", "", "is not empty and is not a ClickHouse data folder"),
    ],
)
def test_a_foreign_folder_is_exit_3_and_untouched(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    ended = run(*command(tmp_path))
    assert (ended.returncode, message in ended.stderr) == (3, True), ended.stderr
    assert (tmp_path / name).read_text() == content
    assert not (tmp_path / "store").exists()


def test_wrong_usage_is_exit_2(tmp_path: Path) -> None:
    assert run(sys.executable, "-m", "clearline.embedded.clickhouse_server").returncode == 2
    ended = run(*command(tmp_path / "never", port=99_999))
    assert (ended.returncode, "99999 is not a port" in ended.stderr) == (2, True)


def test_term_stops_cleanly_and_data_survives(tmp_path: Path) -> None:
    first = start(tmp_path / "data")
    writer = first.client()
    writer.execute("CREATE TABLE kept (a Int64) ENGINE = MergeTree ORDER BY a")
    writer.execute("INSERT INTO kept VALUES", [(7,)])

    def ask_for_long() -> None:
        with contextlib.suppress(errors.Error, OSError, EOFError):
            first.client().execute(LONG_QUERY.format(mark="stopped"))

    busy = threading.Thread(target=ask_for_long, daemon=True)
    busy.start()
    wait_for(lambda: running(writer, "stopped"))
    assert first.stop() == 0
    busy.join()
    second = start(tmp_path / "data")
    reading = second.client()
    assert reading.execute("SELECT a FROM kept") == [(7,)]
    reading.disconnect()
    assert second.stop() == 0


# kill -9

KILLS = 10  # in each of two parts
DAY, NOW = date(2026, 11, 22), datetime(2026, 11, 22, 10, 0, 0)


def check_killed(server: Server, tried: int, acknowledged: set[int], rows: int) -> None:
    reading = server.client()
    counted = dict(reading.execute("SELECT batch, count() FROM killed GROUP BY batch"))  # by the projection
    distinct = dict(reading.execute("SELECT batch, uniqExact(row) FROM killed GROUP BY batch"))
    reading.disconnect()
    assert set(counted) <= set(range(1, tried + 1))
    assert acknowledged <= set(counted), "an acknowledged insert is lost"
    assert set(counted.values()) | set(distinct.values()) <= {rows}, "an insert is there in half or twice"


@pytest.mark.timeout(600)  # ten starts of a server on a machine that may be busy with others
@pytest.mark.parametrize("part", [1, 2])
def test_kill_9_loses_no_acknowledged_insert_and_leaves_no_half(tmp_path: Path, part: int) -> None:
    """A writer inserts numbered batches of several blocks; the server is killed at random moments and started again."""
    seed = int(os.environ.get("CLEARLINE_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed} (CLEARLINE_SEED repeats it)")
    seed += part
    chance, rows, folder = random.Random(seed), 1_500, tmp_path / "data"
    acknowledged: set[int] = set()
    tried = 0
    server = start(folder)
    try:
        opened = server.client()
        opened.execute(
            "CREATE TABLE killed (batch UInt32, row UInt32, pad String, "
            "PROJECTION p (SELECT batch, count() GROUP BY batch)) ENGINE = MergeTree ORDER BY (batch, row)"
        )
        opened.disconnect()
        for _ in range(KILLS):
            writer = server.client(compression=chance.random() < 0.5, settings={"insert_block_size": 500})
            began, timer = time.monotonic(), None
            with contextlib.suppress(errors.Error, OSError, EOFError):
                while True:
                    tried += 1
                    writer.execute("INSERT INTO killed VALUES", [(tried, n, "x" * 40) for n in range(rows)])
                    acknowledged.add(tried)
                    if timer is None:  # anywhere in the next few inserts, however fast this machine is
                        wait_s = chance.uniform(0, 4 * (time.monotonic() - began))
                        timer = threading.Timer(wait_s, server.process.send_signal, (signal.SIGKILL,))
                        timer.start()
            writer.disconnect()
            assert timer is not None, "the first insert failed without a kill"
            timer.join()
            server.process.wait()
            server = start(folder)
            check_killed(server, tried, acknowledged, rows)
        assert len(acknowledged) >= KILLS
        assert server.stop() == 0
    finally:
        if server.process.poll() is None:
            server.kill()


# The other server


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[int]:
    """Debian's clickhouse-server 18.16, when it happens to be installed: another engine behind the same protocol."""
    program = shutil.which("clickhouse-server") or shutil.which("clickhouse")
    if program is None:
        pytest.skip("no clickhouse-server is installed on this machine to compare with")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "users.xml").write_text(
        "<yandex><profiles><default/></profiles><quotas><default/></quotas><users><default><password></password>"
        "<networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default></users></yandex>"
    )
    (tmp_path / "config.xml").write_text(
        f"<yandex><logger><level>warning</level><console>true</console></logger><tcp_port>{port}</tcp_port>"
        f"<listen_host>127.0.0.1</listen_host><path>{tmp_path}/debian/</path><tmp_path>{tmp_path}/debian/tmp/</tmp_path>"
        "<mark_cache_size>100000000</mark_cache_size><users_config>users.xml</users_config>"
        "<default_profile>default</default_profile><default_database>default</default_database></yandex>"
    )
    words = [
        program,
        *(["server"] if Path(program).name == "clickhouse" else []),
        f"--config-file={tmp_path}/config.xml",
    ]
    with (tmp_path / "debian.log").open("wb") as log:
        process = subprocess.Popen(words, cwd=tmp_path, stdout=log, stderr=log)

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return process.poll() is not None

    wait_for(answers, START_S)
    yield port
    process.kill()
    process.wait()


@pytest.mark.parametrize("compression", [False, "lz4"])
def test_the_driver_sees_the_same_from_debians_server(server: Server, debian: int, compression: Any) -> None:
    ours, theirs = server.client(compression=compression), Client("127.0.0.1", debian, compression=compression)
    table = f"same_{uuid.uuid4().hex[:8]}"
    setup = [
        f"CREATE TABLE {table} (id UInt32, d Date, s String, n Nullable(Int32), a Array(String), "
        "e Enum8('D' = 1, 'C' = 2), f FixedString(3), m Decimal(18, 2), t DateTime) ENGINE = MergeTree() "
        "PARTITION BY toYYYYMM(d) ORDER BY id",
        f"ALTER TABLE {table} ADD COLUMN z UInt8",
    ]
    rows = [
        (n, DAY, f"row {n}", None if n % 3 else n, ["a"] * (n % 4), "DC"[n % 2], "abc", Decimal(n) / 4, NOW, 1)
        for n in range(2_000)
    ]
    questions = [
        f"SELECT * FROM {table} ORDER BY id",
        f"SELECT e, count(), sum(m) FROM {table} GROUP BY e WITH TOTALS ORDER BY e",
        f"SELECT * FROM {table} WHERE id > 100000",
        f"SELECT n, length(a) FROM {table} WHERE n IS NOT NULL ORDER BY id LIMIT 5",
        "SELECT number, toString(number) FROM system.numbers LIMIT 100000",
        "SELECT [1, 2], (1, 'a') AS pair, NULL",
    ]
    answers = []
    for client in (ours, theirs):
        for text in setup:
            client.execute(text)
        client.execute(f"INSERT INTO {table} VALUES", list(rows))
        answers.append([client.execute(text, with_column_types=True) for text in questions])
        with pytest.raises(errors.ServerException) as caught:
            client.execute("SELECT * FROM surely_not_there")
        assert caught.value.code == 60
        client.execute(f"DROP TABLE {table}")
        client.disconnect()
    for question, ours_said, theirs_said in zip(questions, *answers, strict=True):
        assert ours_said == theirs_said, question
