"""A real ClickHouse under a gateway over the twin: its journal goes through the ledger's sink, and reports are asked of
what is stored. One server for a test process, started when a report is first asked; a database for each journal, so
that worlds which are alike share one.
"""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary, finalize

from clearline.gateway.reporting import Place, Question, Reports, When
from clearline.gateway.twin import LedgerTwin, codec
from sinks import migrate
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance.ask import Result
from sinks.finance.tables import Tables
from sinks.ledger_sink import Arrival, LedgerSink
from tests.sink_child import TOPIC, feed
from tests.sink_servers import ClickHouseServer

T = TypeVar("T")


@cache
def server() -> ClickHouseServer:
    """The process' own server; it ends with the process."""
    folder = tempfile.TemporaryDirectory(prefix="clearline-finance-")
    found = ClickHouseServer(Path(folder.name))
    found.start()
    atexit.register(folder.cleanup)
    atexit.register(found.stop)
    return found


_DATABASES: dict[tuple[bytes, ...], ClickHouseConfig] = {}
_OF_TWINS: WeakKeyDictionary[LedgerTwin, ClickHouseConfig] = WeakKeyDictionary()


def stored(twin: LedgerTwin) -> ClickHouseConfig:
    """A database that holds the twin's journal as it was when this was first asked."""
    if twin not in _OF_TWINS:
        _OF_TWINS[twin] = _stored(twin)
    return _OF_TWINS[twin]


def _stored(twin: LedgerTwin) -> ClickHouseConfig:
    heads = tuple(twin.base(p).head.chain for p in range(twin.partitions))
    if heads not in _DATABASES:
        config = server().config(f"clearline_{len(_DATABASES)}")
        migrate.apply(config)
        store(twin, config)
        _DATABASES[heads] = config
    return _DATABASES[heads]


def store(twin: LedgerTwin, config: ClickHouseConfig) -> None:
    """Puts what is new of the twin's journal into a database, as the sink does."""
    sink = LedgerSink(config, TOPIC, codec())
    journals = ((p, twin.journal_of(p)) for p in range(twin.partitions))
    feed(sink, [Arrival(p, i, codec().encode(r)) for p, journal in journals for i, r in enumerate(journal)], 5_000)
    sink.close()


class GroundReports:
    """`Reporting` over a twin's journal as it stood when a report was first asked; what is settled later is not in it
    until `store` is called."""

    def __init__(self, twin: LedgerTwin, **limits: int) -> None:
        self._twin, self._limits = twin, limits
        self._reports: Reports | None = None

    @property
    def reports(self) -> Reports:
        """The real ones."""
        if self._reports is None:
            self._reports = Reports(stored(self._twin), **self._limits)
            finalize(self, self._reports._pool.close)
        return self._reports

    async def place(self, when: When, *, of_state: bool = False) -> Place:
        """As `Reporting.place`."""
        return await self.reports.place(when, of_state=of_state)

    async def result(self, question: Question) -> Result:
        """As `Reporting.result`."""
        return await self.reports.result(question)

    async def file(self, question: Question, form: str, render: Callable[[Result], bytes]) -> bytes:
        """As `Reporting.file`."""
        return await self.reports.file(question, form, render)

    async def look(self, question: Callable[[Database], T]) -> T:
        """As `Reporting.look`."""
        return await self.reports.look(question)

    async def close(self) -> None:
        """As `Reporting.close`."""
        if self._reports is not None:
            await self._reports.close()


class GroundTables:
    """`PartnerTables` beside the ledger of a twin: in the same server, made when a table is first asked for."""

    def __init__(self, twin: LedgerTwin) -> None:
        self._twin = twin
        self._tables: Tables | None = None

    async def ask(self, question: Callable[[Tables], T]) -> T:
        """As `PartnerTables.ask`, in the thread that asks."""
        if self._tables is None:
            self._tables = Tables(stored(self._twin))
            finalize(self, self._tables.close)
        return question(self._tables)
