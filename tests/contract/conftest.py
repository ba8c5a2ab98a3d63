"""The stores that contract tests talk to, one of each for a module; a module that needs another defines its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from sinks import migrate
from sinks.clickhouse import ClickHouseConfig
from tests.sink_servers import ClickHouseServer, ValkeyServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    s = ClickHouseServer(tmp_path_factory.mktemp("clickhouse"))
    s.start()
    yield s
    s.stop()


@pytest.fixture
def config(server: ClickHouseServer) -> ClickHouseConfig:
    c = server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(c)
    return c


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    s = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    s.start()
    yield s
    s.stop()
