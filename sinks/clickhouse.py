"""Talking to ClickHouse: one client class, and errors of the driver turned into ours, said in one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from clickhouse_driver import Client, errors
from clickhouse_driver.block import ColumnOrientedBlock

from schemas.errors import NO_SPACE, READ_ONLY, BadInputError, ClearlineError, PartUnavailableError
from schemas.failpoints import failpoint
from sinks.native_block import Coded, Texts, send_block

VIOLATED_CONSTRAINT = 469
_MISSING = {60: "table", 81: "database", 47: "column"}  # codes of what a migration would have made
_QUERY_FAULTS = frozenset({
    6, 10, 16, 36, 38, 41, 42, 43, 46, 53, 62, 70, 115, 158, 164, 184, 215, 352, 386, 396, 452, 497, 507,
})  # fmt: skip
# What a server answers that serves reads and takes no writes: a user's profile, a table without its Keeper, a disk.
_REFUSES_WRITES = {164: READ_ONLY, 242: READ_ONLY, 243: NO_SPACE}
# A person's query is to blame for whatever the server says, except that the server cannot serve it now.
_NOT_THE_QUERY = frozenset({
    159, 192, 193, 194, 202, 209, 210, 241, 243, 252, 279, 425, 439, 516, 518, 745, 999, 1000, 1002,
})  # fmt: skip
_TOO_MUCH = frozenset({158, 159, 160, 241, 307, 396})  # rows, time, speed, memory, bytes, rows or bytes of a result
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FENCE = re.compile(r"`run_(\d+)")
# On a cluster an insert is done when a majority of the replicas of its shard has it, a query sees all of those, and a
# change of a table is done when every replica has made it. So what was read back stays, whichever replica is lost.
ON_A_CLUSTER: dict[str, Any] = {
    "distributed_foreground_insert": 1, "insert_quorum": "auto", "insert_quorum_parallel": 0,
    "select_sequential_consistency": 1, "alter_sync": 2, "distributed_product_mode": "global",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClickHouseConfig:
    """Where the server is and which database is ours. `reader_user` may only read; people's own SQL runs as it.

    `secure`: TLS; `ca`: PEM file of the authorities that are believed, empty for those that every browser believes.
    `cluster`: its name on the servers; empty for a server of its own (see `sinks.layout`). `storage_policy`: of the
    tables that grow with the ledger, empty for the server's own; `cold_after_months`: after so many months of booking
    their parts go to the policy's `cold_volume`, 0 never; `calls_keep_days`: for so long counts of calls are kept, 0
    for ever. Rows of the ledger are never deleted.
    """

    host: str
    port: int
    database: str
    user: str = "default"
    password: str = field(default="", repr=False)
    reader_user: str = "clearline_reader"
    reader_password: str = field(default="", repr=False)
    secure: bool = False
    ca: str = ""
    timeout_s: float = 30.0
    cluster: str = ""
    storage_policy: str = ""
    cold_volume: str = "cold"
    cold_after_months: int = 0
    calls_keep_days: int = 0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.database):
            raise BadInputError(f"ClickHouse database {self.database!r}: letters, digits and _ only")
        for what, name in (
            ("cluster", self.cluster),
            ("storage policy", self.storage_policy),
            ("volume", self.cold_volume),
        ):
            if name and not _NAME.fullmatch(name):
                raise BadInputError(f"ClickHouse {what} {name!r}: letters, digits and _ only")

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


class FencedError(ClearlineError):
    """Another sink has taken over: this one may not write any more and must end."""


class QueryFaultError(BadInputError):
    """The server refuses a query for what it says, or lacks what a migration would have made."""


class TooMuchError(BadInputError):
    """A query met a limit of time, rows, bytes or memory that it was given."""


class _InsertClient(Client):  # type: ignore[misc]
    """A client with fail points where an insert is half done."""

    def send_data(self, sample_block: Any, data: Any, types_check: bool = False, columnar: bool = False) -> int:
        failpoint("sink_clickhouse.mid_insert")
        rows: int = super().send_data(sample_block, data, types_check=types_check, columnar=columnar)
        failpoint("sink_clickhouse.after_send")
        return rows


class _BlockClient(_InsertClient):
    """A client whose inserts bring columns that are bytes already; see `sinks.native_block`."""

    def begin_insert(self, query: str, blocks: Sequence[Sequence[Any]], settings: dict[str, Any]) -> None:
        """Sends an insert with all its rows, and leaves the server to it."""
        with self.disconnect_on_error(query, settings):
            self.connection.send_query(query)
            self.connection.send_external_tables(None)
            wanted = self.receive_sample_block().columns_with_types
            for columns in blocks:
                failpoint("sink_clickhouse.mid_insert")
                send_block(self.connection, wanted, columns)
                self.receive_profile_events()
            self.connection.send_data(ColumnOrientedBlock())  # an empty block: that is all

    def finish_insert(self) -> None:
        """Waits for the server's word on it."""
        try:
            self.receive_profile_events()
            failpoint("sink_clickhouse.after_send")
            self.receive_end_of_insert_query()
        except BaseException:
            self.disconnect()
            raise


@dataclass(frozen=True, slots=True)
class Insert:
    """Rows on their way into a table. `finish` waits until they are in, and raises as `Database.insert`; until it has
    returned nobody knows."""

    finish: Callable[[], None]


class Database:
    """One connection to one database. Not thread-safe. Opens when first used, and again after it broke.

    `seconds_max`: for so long one query may run; whoever meets it, or `rows_max`, is told by TooMuchError.
    `connect_s`: how long a connection may take.

    Every call raises PartUnavailableError when the server does not answer or cannot serve now, BadInputError for a
    query that can never work, and FencedError when an insert met another sink's fence. A repair's fence is the first of
    these: it is over when it is met, or soon.
    """

    def __init__(
        self, config: ClickHouseConfig, *, reader: bool = False, with_database: bool = True,
        seconds_max: int = 0, connect_s: float = 5.0,
    ) -> None:  # fmt: skip
        self.config = config
        self._connect_s = connect_s
        self._limits: dict[str, Any] = {"max_execution_time": seconds_max} if seconds_max else {}
        if config.cluster and not reader:
            self._limits |= ON_A_CLUSTER
        self._seconds_max = seconds_max
        self.name = config.database
        self._reader = reader
        self._database = config.database if with_database else "default"
        self._client = self._connection(raw=False)
        self._inserters: dict[str, _BlockClient] = {}  # by table: inserts into several run at once

    def _connection(self, *, raw: bool) -> Any:
        config = self.config
        client = _BlockClient if raw else _InsertClient
        return client(
            config.host,
            port=config.port,
            database=self._database,
            user=config.reader_user if self._reader else config.user,
            password=config.reader_password if self._reader else config.password,
            secure=config.secure,
            **({"ca_certs": config.ca} if config.ca else {}),
            compression="lz4",  # its frames carry checksums
            connect_timeout=self._connect_s,
            send_receive_timeout=config.timeout_s,
            sync_request_timeout=self._connect_s,
            settings={**self._limits, "strings_as_bytes": raw},
        )

    def rows(self, query: str, params: dict[str, Any] | None = None, *, rows_max: int = 0) -> list[tuple[Any, ...]]:
        """All rows of a query. `%(name)s` in it are put in, quoted, by the driver. `rows_max`: most that it may have, 0
        for any number. They are counted here: a user that may only read is let change no setting but the time."""
        with self._errors():
            if not rows_max:
                return list(self._client.execute(query, params or None))
            found = list(islice(self._client.execute_iter(query, params or None), rows_max + 1))
            if len(found) > rows_max:
                self.close()  # the rest is on its way
                raise TooMuchError(f"more than {rows_max} rows")
            return found

    def columns_and_rows(self, query: str) -> tuple[list[tuple[str, str]], list[tuple[Any, ...]]]:
        """Names and types of the columns, and all rows of a query that somebody typed."""
        with self._errors(typed=True):
            rows, columns = self._client.execute(query, with_column_types=True)
            return list(columns), list(rows)

    def columnar(self, query: str, params: dict[str, Any] | None = None) -> list[Sequence[Any]]:
        """The columns of a query's answer; none when it has no row."""
        with self._errors():
            return list(self._client.execute(query, params or None, columnar=True))

    def stream(self, query: str, params: dict[str, Any] | None = None) -> Iterator[tuple[Any, ...]]:
        """Rows as they come, for results that need not fit into memory."""
        with self._errors():
            yield from self._client.execute_iter(query, params or None, settings={"max_block_size": 65_536})

    def run(self, statement: str) -> None:
        """A statement without an answer."""
        with self._errors():
            self._client.execute(statement)

    def insert(self, table: str, columns: Sequence[str], data: Sequence[Any]) -> None:
        """One block of rows into a table. A column is a numpy array, Texts, Coded, or whatever has `tolist`. It lands
        whole or not at all if it is of one month."""
        self.begin(table, columns, [data]).finish()

    def begin(self, table: str, columns: Sequence[str], blocks: Sequence[Sequence[Any]]) -> Insert:
        """The same, sent and not waited for: one at a time into each table. Of several blocks the server makes one part
        as long as it gathers inserts (at least a million rows, unless it is set otherwise); else what lands is the
        first of them. `close` gives up those that are not finished, and the server may still store them."""
        query = f"INSERT INTO {self.name}.{table} ({', '.join(columns)}) VALUES"
        if table not in self._inserters:
            self._inserters[table] = self._connection(raw=True)
        client = self._inserters[table]
        with self._errors():
            ready = [[c if isinstance(c, np.ndarray | Texts | Coded) else c.tolist() for c in data] for data in blocks]
            client.begin_insert(query, ready, {"async_insert": 0})
        return Insert(partial(self._finish, client))

    def _finish(self, client: _BlockClient) -> None:
        with self._errors():
            client.finish_insert()

    def insert_columns(self, table: str, columns: dict[str, Sequence[Any]]) -> None:
        """One block of rows into a table, a list of values by column. It lands whole or not at all."""
        query = f"INSERT INTO {self.name}.{table} ({', '.join(columns)}) VALUES"
        with self._errors():
            self._client.execute(query, list(columns.values()), columnar=True, settings={"async_insert": 0})

    def close(self) -> None:
        self._client.disconnect()
        for client in self._inserters.values():
            client.disconnect()

    @contextmanager
    def _errors(self, *, typed: bool = False) -> Iterator[None]:
        try:
            yield
        except errors.ServerException as e:
            raise self._translated(e, typed) from None
        except (errors.Error, OSError, EOFError) as e:
            self.close()
            text = str(e).strip().splitlines()
            hint = text[-1] if text else type(e).__name__
            raise PartUnavailableError("ClickHouse", self.config.address, hint) from None
        except GeneratorExit:  # the rest of a stream is not wanted: the connection is of no more use
            self.close()
            raise

    def _translated(self, e: errors.ServerException, typed: bool) -> ClearlineError:
        text = first_line(e.message)
        if self._seconds_max and e.code in _TOO_MUCH:
            return TooMuchError(text)
        if typed and e.code not in _NOT_THE_QUERY:
            return BadInputError(f"ClickHouse refuses the query: {text.partition('. In scope ')[0]}")
        if not self._reader and e.code in _REFUSES_WRITES:  # a reader is told that its query may not do that
            return PartUnavailableError("ClickHouse", self.config.address, text, code=_REFUSES_WRITES[e.code])
        if e.code == VIOLATED_CONSTRAINT and (fence := _FENCE.search(text)):
            if int(fence[1]) % 2 == 0:  # see `sinks.fence`: nobody has taken the sink's place
                return PartUnavailableError("ClickHouse", self.config.address, "rows were repaired; taking over again")
            return FencedError(f"another ClickHouse sink has taken over the database {self.name}; this one ends")
        if e.code in _MISSING:
            return QueryFaultError(f"ClickHouse lacks a {_MISSING[e.code]} ({text}); run `./run setup` to migrate it")
        if e.code in _QUERY_FAULTS or e.code == VIOLATED_CONSTRAINT:
            return QueryFaultError(f"ClickHouse refuses the query: {text}")
        return PartUnavailableError("ClickHouse", self.config.address, text)


def first_line(message: str) -> str:
    """What the server says, without its prefix, its stack trace and its code name."""
    text = re.sub(r"^(Code: \d+\.\s*)*(DB::Exception: )*", "", message.strip())
    return re.sub(r"\s*(\. )?Stack trace:.*", "", text, flags=re.S).strip().splitlines()[0][:500]
