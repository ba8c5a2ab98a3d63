"""A server for each module of tests, and clients of it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import pytest
from clickhouse_driver import Client

from tests.contract.clickhouse_server.process import Server, start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(tmp_path_factory.mktemp("clickhouse") / "data")
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture(params=[False, "lz4"], ids=["plain", "lz4"])
def client(server: Server, request: pytest.FixtureRequest) -> Iterator[Client]:
    with contextlib.closing(Disconnecting(server.client(compression=request.param))) as opened:
        yield opened.client


class Disconnecting:
    """clickhouse-driver says disconnect, contextlib says close."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def close(self) -> None:
        self.client.disconnect()


@pytest.fixture
def table(server: Server) -> Iterator[str]:
    name = f"t_{uuid.uuid4().hex[:12]}"
    yield name
    opened = server.client()
    opened.execute(f"DROP TABLE IF EXISTS {name}")
    opened.disconnect()
