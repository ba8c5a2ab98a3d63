"""A ledger with readers: a development server, a database with a journal in it, and users for some of its partners."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException

from clearline.embedded.clickhouse import readers as file_of_readers
from sinks import migrate
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance.readers import Limits, Reader, default_name, document, shape
from sinks.ledger_sink import LedgerSink
from tests.contract.test_sinks_clickhouse import arrivals
from tests.journals import DAY_MS, Line, Maker, local_codec
from tests.sink_child import TOPIC, feed
from tests.sink_servers import ClickHouseServer

PASSWORD = "a password, of tests"
FINANCE = "clearline_reader"


@dataclass
class World:
    """`lines`: the journal that is in the ledger."""

    server: ClickHouseServer
    config: ClickHouseConfig
    lines: list[Line]
    readers: dict[str, Any] = field(default_factory=dict)

    def add(self, partner: str, *, tree: bool = True, name: str = "", limits: Limits | None = None) -> str:
        """A reader, made as `clearline reader add` makes it; its name."""
        reader = Reader(name or default_name(partner) + ("" if tree else ".alone"), partner, tree, limits or Limits())
        db = Database(self.config)
        salt = file_of_readers.new_salt()
        found = document(reader, shape(db), file_of_readers.digest(PASSWORD, salt), salt)
        db.close()
        self.readers[reader.name] = found
        self.write()
        return reader.name

    def write(self) -> None:
        """The file, as it is now."""
        file_of_readers.write(self.server.folder / "data" / file_of_readers.READERS_FILE, self.readers)

    @contextmanager
    def client(self, user: str, **options: Any) -> Iterator[Client]:
        """clickhouse-driver, as a reader."""
        password = "" if user in (FINANCE, "default") else PASSWORD
        opened = Client("127.0.0.1", self.server.port, user=user, password=password, **options)
        try:
            yield opened
        finally:
            opened.disconnect()

    def http(self, user: str) -> httpx.Client:
        """HTTP, as a reader."""
        headers = {"X-ClickHouse-User": user, "X-ClickHouse-Database": self.config.database}
        if user not in (FINANCE, "default"):
            headers["X-ClickHouse-Key"] = PASSWORD
        return httpx.Client(base_url=f"http://127.0.0.1:{self.server.http_port}", headers=headers, timeout=60)

    def refused(self, user: str, text: str, **settings: Any) -> tuple[int, int]:
        """The codes with which both ports refuse a statement. Fails when one of them answers."""
        with self.client(user, database=self.config.database) as client:
            try:
                found = client.execute(text, settings=settings or None)
            except ServerException as error:
                native = error.code
            else:
                raise AssertionError(f"{text}: answered over the native port with {str(found)[:200]}")
        with self.http(user) as web:
            answer = web.post("/", content=text, params={name: str(value) for name, value in settings.items()})
        assert answer.status_code >= 400, f"{text}: answered over HTTP with {answer.text[:200]}"
        return native, int(answer.headers["X-ClickHouse-Exception-Code"])


def world(folder: Path, seed: int = 21, records: int = 1_500) -> World:
    """Starts the server; stop it with `world.server.stop()`."""
    server = ClickHouseServer(folder)
    server.start()
    config = server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(config)
    lines = Maker(seed, step_ms=DAY_MS // 100).lines(records)
    feed(LedgerSink(config, TOPIC, local_codec()), arrivals(lines), 1000)
    return World(server, config, lines)


def some_partners(lines: list[Line], seed: int, count: int) -> list[str]:
    """Partners of a journal, their parents among them."""
    names = sorted({x.record.partner_id for x in lines if x.record.partner_id != "bank"})
    roots = sorted({name.split("/")[0] for name in names})
    return random.Random(seed).sample(sorted({*names, *roots}), count)
