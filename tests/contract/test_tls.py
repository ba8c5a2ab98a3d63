"""TLS to the stores and the registry: the real servers behind a real TLS end, and a certificate authority of one's own.

Neither embedded server speaks TLS itself, so the end is a terminator in this process, as a proxy in front of a server is.
What is tested is our side: that roles encrypt when the settings say so, believe the authority that is named and no
other, and refuse a certificate that is for another host.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from clearline.config import load_settings
from clearline.connection import clickhouse_config, redis_config
from schemas.errors import PartUnavailableError
from sinks.balances import Balances
from sinks.clickhouse import Database
from streams.registry import Registry
from tests.pki import Authority
from tests.sink_servers import ClickHouseServer, ValkeyServer

pytestmark = pytest.mark.stack


class Terminator:
    """Takes TLS connections on a port of its own and hands their bytes to another port of this machine."""

    def __init__(self, certificate: Path, key: Path, port: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._behind = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.ciphers: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            client = self._context.wrap_socket(plain, server_side=True)
        except (OSError, ssl.SSLError):
            plain.close()
            return
        found = client.cipher()
        self.ciphers.append(found[1] if found else "")
        server = socket.create_connection(("127.0.0.1", self._behind))
        back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
        back.start()
        self._pump(client, server)

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def ends(authority: Authority) -> Iterator[list[Terminator]]:
    opened: list[Terminator] = []
    yield opened
    for end in opened:
        end.close()


def end_before(port: int, authority: Authority, ends: list[Terminator]) -> Terminator:
    ends.append(Terminator(*authority.issue("server"), port))
    return ends[-1]


def believe(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))


def test_clickhouse_over_its_native_protocol(clickhouse, authority, ends, monkeypatch):
    end = end_before(clickhouse.port, authority, ends)
    for name, value in {"HOST": "localhost", "PORT": str(end.port), "SECURE": "true"}.items():
        monkeypatch.setenv(f"CLEARLINE_CLICKHOUSE__{name}", value)
    config = clickhouse_config(load_settings())
    assert config.secure
    with pytest.raises(PartUnavailableError, match=r"(?i)certificate verify failed"):
        Database(config, with_database=False).rows("SELECT 1")
    monkeypatch.setenv("CLEARLINE_CLICKHOUSE__CA_FILE", str(authority.certificate))
    config = clickhouse_config(load_settings())
    db = Database(config, with_database=False)
    db.run("CREATE TABLE default.t (n UInt64) ENGINE = MergeTree ORDER BY n")
    Database(replace(config, database="default")).insert_columns("t", {"n": [1, 2, 3]})
    assert db.rows("SELECT sum(n) FROM default.t") == [(6,)]
    assert set(end.ciphers) <= {"TLSv1.3", "TLSv1.2"}
    assert end.ciphers
    with pytest.raises(PartUnavailableError):  # plain words to a TLS end
        Database(replace(config, secure=False), with_database=False).rows("SELECT 1")


def test_a_certificate_for_another_host_is_refused(clickhouse, authority, ends, monkeypatch):
    end = end_before(clickhouse.port, authority, ends)
    monkeypatch.setattr(socket, "getaddrinfo", _as_localhost(socket.getaddrinfo))
    ca = str(authority.certificate)
    config = replace(clickhouse.config("default"), host="clickhouse.elsewhere", port=end.port, secure=True, ca=ca)
    with pytest.raises(PartUnavailableError, match=r"(?i)hostname mismatch"):
        Database(config, with_database=False).rows("SELECT 1")


def _as_localhost(real):
    """Every name is this machine, as somebody who redirects traffic would have it."""
    return lambda host, *rest, **more: real("127.0.0.1", *rest, **more)


def test_redis(tmp_path, authority, ends, monkeypatch):
    server = ValkeyServer(tmp_path)
    server.start()
    try:
        end = end_before(server.port, authority, ends)
        monkeypatch.setenv("CLEARLINE_REDIS__URL", f"rediss://localhost:{end.port}/0")
        config = redis_config(load_settings())
        with pytest.raises(PartUnavailableError, match=r"(?i)certificate verify failed"):
            Balances(config).balance("acme:wallet:alice")
        believe(authority, monkeypatch)
        assert Balances(config).balance("acme:wallet:alice") is None
        assert end.ciphers
        with pytest.raises(PartUnavailableError):
            Balances(replace(config, url=config.url.replace("rediss", "redis"))).balance("acme:wallet:alice")
    finally:
        server.stop()


def test_the_client_of_the_registry(clickhouse, authority, ends, monkeypatch):
    """What answers is no registry, only an HTTPS end: the same client reads whatever the registry says."""
    end = end_before(clickhouse.http_port, authority, ends)
    registry = Registry(f"https://localhost:{end.port}")
    with registry._client() as client, pytest.raises(Exception, match=r"(?i)certificate verify failed"):
        client.get("/ping")
    believe(authority, monkeypatch)
    with registry._client() as client:
        assert client.get("/ping").text == "Ok.\n"
