"""One native client from hello to goodbye, and the watcher that notices a cancel while a query runs."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO, Final

from clearline.embedded.clickhouse import sql
from clearline.embedded.clickhouse.engine import Engine
from clearline.embedded.clickhouse.errors import (
    ACCESS_DENIED,
    MEMORY_LIMIT_EXCEEDED,
    READONLY,
    UNKNOWN_EXCEPTION,
    UNKNOWN_TYPE,
    EndOfInputError,
    ProtocolError,
    ServerError,
)
from clearline.embedded.clickhouse.gate import Gate, Spent
from clearline.embedded.clickhouse.native import Cancel, Data, Hello, NativeProtocol, Ping, Query
from clearline.embedded.clickhouse.sessions import Session
from clearline.embedded.clickhouse.source import Source

DISPLAY_NAME: Final = "clearline development server (chDB)"
INSERT_BYTES_MAX: Final = 1 << 30
_RECEIVE_BYTES: Final = 1 << 18
_FLUSH_BYTES: Final = 1 << 20
_CANCEL: Final = 3
_KILL_INTERVAL_S: Final = 0.05

log = logging.getLogger(__name__)


class Watch:
    """A running query, marked by a comment in its text so that it can be found and stopped."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.mark = f"/* query {secrets.token_hex(8)} */"
        self.cancelled = False
        self.done = False


class Watcher:
    """One thread that looks at the sockets of clients whose query is running."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._poll = select.epoll()
        self._watched: dict[int, Watch] = {}
        self._doomed: list[Watch] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="watcher", daemon=True).start()

    @contextlib.contextmanager
    def watch(self, connection: socket.socket) -> Iterator[Watch]:
        """While this lasts, a cancel or a disconnect of the client kills its query."""
        watch = Watch(connection)
        number = connection.fileno()
        with self._lock:
            self._watched[number] = watch
            self._poll.register(number, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT)
        try:
            yield watch
        finally:
            with self._lock:
                watch.done = True
                del self._watched[number]
                self._poll.unregister(number)

    def _run(self) -> None:
        while True:
            events = self._poll.poll(_KILL_INTERVAL_S if self._doomed else -1)
            with self._lock:
                for number, _ in events:
                    watch = self._watched.get(number)
                    if watch is not None and _wants_to_stop(watch.connection):
                        watch.cancelled = True
                        self._doomed.append(watch)
                self._doomed = [watch for watch in self._doomed if not watch.done]
                doomed = list(self._doomed)
            for watch in doomed:
                # The query may not have begun when the cancel came, so this repeats until it is over.
                with contextlib.suppress(Exception):
                    self._engine.kill(watch.mark)


def _wants_to_stop(connection: socket.socket) -> bool:
    try:
        ahead = connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return not ahead or ahead[0] == _CANCEL


class Conversation:
    """Serves one connection; run() returns when it is over."""

    def __init__(
        self,
        connection: socket.socket,
        engine: Engine,
        watcher: Watcher,
        gate: Gate,
        timezone: str,
    ) -> None:
        self._connection = connection
        self._engine = engine
        self._watcher = watcher
        self._gate = gate
        self._timezone = timezone
        self._source = Source(self._receive)
        self._protocol = NativeProtocol(self._source)
        self._session: Session | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0

    def run(self) -> None:
        """Serve until the client leaves or says something that cannot be read."""
        try:
            while self._step():
                self._flush()
        except EndOfInputError:
            pass
        except ProtocolError as error:
            log.warning("closing a connection: %s", error.message)
            self._say_goodbye(error)
        except OSError as error:
            log.info("connection lost: %s", error)
        except Exception as error:
            log.exception("closing a connection after an unexpected error")
            self._say_goodbye(ServerError(UNKNOWN_EXCEPTION, f"unexpected {type(error).__name__} in the server"))
        finally:
            if self._session is not None:
                self._session.close()
            self._connection.close()

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(_RECEIVE_BYTES)
        except OSError as error:
            raise EndOfInputError from error

    def _send(self, data: bytes) -> None:
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._out:
            data = b"".join(self._out)
            self._out, self._out_bytes = [], 0
            self._connection.sendall(data)

    def _say_goodbye(self, error: ServerError) -> None:
        with contextlib.suppress(OSError):
            self._send(self._protocol.exception(error))
            self._flush()
            self._connection.shutdown(socket.SHUT_WR)

    def _step(self) -> bool:
        packet = self._protocol.read()
        match packet:
            case Hello():
                return self._greet(packet)
            case Ping():
                self._send(self._protocol.pong())
            case Query():
                self._answer(packet)
            case Data() | Cancel():
                pass  # the rest of a query that failed early
        return True

    def _greet(self, hello: Hello) -> bool:
        try:
            user = self._gate.users.authenticate(hello.user, hello.password)
            self._session = Session(self._engine, user, hello.database)
        except ServerError as error:
            self._say_goodbye(error)
            return False
        self._send(self._protocol.hello(self._engine.version_tuple, self._timezone, DISPLAY_NAME))
        self._flush()
        self._protocol.read_addendum()
        return True

    def _answer(self, query: Query) -> None:
        session = self._session
        assert session is not None  # the protocol's table allows no query before hello
        started, tables = time.monotonic_ns(), list[str]()
        try:
            try:
                self._receive_tables(session, tables)
                with self._gate.counted(session) as spent:
                    self._execute(session, query, started, spent)
            except ProtocolError:
                raise
            except ServerError as error:
                self._send(self._protocol.exception(error))
        finally:
            if tables:
                session.drop_external_tables(tables)

    def _receive_tables(self, session: Session, names: list[str]) -> None:
        """Every query is followed by the tables it brings along, and an empty block."""
        failed: ServerError | None = None
        while True:
            packet = self._protocol.read()
            if not isinstance(packet, Data) or (not packet.table and not packet.head.rows):
                break
            try:
                if session.user.policy is not None:
                    raise ServerError(ACCESS_DENIED, "Not enough privileges: the grant CREATE TEMPORARY TABLE ON *.*")
                name = packet.table or "_data"
                names.append(name)
                with _rows(packet) as file:
                    session.external_table(name, packet.head.columns, file)
            except ServerError as error:
                failed = error
        if failed is not None:
            raise failed

    def _execute(self, session: Session, query: Query, started: int, spent: Spent) -> None:
        statement = sql.inspect(query.text)
        sql.check_supported_native(statement)
        statement = self._gate.admit(session, statement, query.settings, query.parameters)
        if session.accept_set_or_use(statement):
            self._send(self._protocol.end())
        elif statement.insert is not None and not sql.inline_data(statement):
            self._insert(session, statement.insert)
        elif statement.is_query:
            self._select(session, statement, query, started, spent)
        else:
            answer = session.run(statement.body, "Native", query.parameters)
            spent.rows_read = answer.rows_read
            session.remember(statement)
            self._send_native(answer.content, with_header=True)
            if not answer.content and statement.verb in ("SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN"):
                self._send(self._protocol.header(session.header(statement, query.parameters)))
            self._send(self._protocol.end())

    def _send_native(self, content: bytes, kind: str = "data", with_header: bool = False) -> int:
        try:
            packets = self._protocol.blocks(content, kind, with_header) if content else []
        except (ProtocolError, EndOfInputError) as error:
            # A type this server cannot carry. The client's own bytes are fine, so its connection goes on.
            code = error.code if isinstance(error, ProtocolError) else UNKNOWN_TYPE
            raise ServerError(code, str(error) or "the result is not in Native format") from error
        for packet in packets:
            self._send(packet)
        return len(packets) - (1 if with_header and packets else 0)

    def _select(self, session: Session, statement: sql.Statement, query: Query, started: int, spent: Spent) -> None:
        wants_extremes = query.settings.get("extremes", ("0", False))[0] in ("1", "true")
        with self._watcher.watch(self._connection) as watch:
            text = f"{statement.body}\n{watch.mark}"
            try:
                if statement.has_totals or wants_extremes:
                    self._with_totals(session, statement, query, text)
                else:
                    self._stream(session, statement, query, text, watch, started, spent)
            except ServerError:
                if not watch.cancelled:
                    raise
        self._send(self._protocol.end())

    def _stream(
        self,
        session: Session,
        statement: sql.Statement,
        query: Query,
        text: str,
        watch: Watch,
        started: int,
        spent: Spent,
    ) -> None:
        blocks = size = rows_read = bytes_read = 0
        with contextlib.closing(session.stream(text, query.parameters)) as stream:
            for chunk in stream:
                if watch.cancelled or self._source.peek_buffered() == _CANCEL:
                    return
                blocks += self._send_native(chunk.content, with_header=not blocks)
                size += len(chunk.content)
                rows_read += chunk.rows_read
                bytes_read += chunk.bytes_read
                spent.rows_read = rows_read
        if not blocks:
            self._send(self._protocol.header(session.header(statement, query.parameters)))
        if session.user.policy is not None:  # how many rows of others were passed over is not for a partner
            rows_read = bytes_read = 0
        self._send(self._protocol.profile(rows_read, blocks, size))
        self._send(self._protocol.progress(rows_read, bytes_read, time.monotonic_ns() - started))

    def _with_totals(self, session: Session, statement: sql.Statement, query: Query, text: str) -> None:
        answer = session.with_totals(text, query.parameters)
        if not self._send_native(answer.data, with_header=True):
            self._send(self._protocol.header(session.header(statement, query.parameters)))
        self._send_native(answer.totals, "totals")
        self._send_native(answer.extremes, "extremes")

    def _insert(self, session: Session, insert: sql.Insert) -> None:
        if session.user.read_only:
            raise ServerError(READONLY, "Cannot execute query in readonly mode.")
        columns = session.insert_columns(insert)
        self._send(self._protocol.header(columns))
        self._flush()
        self._protocol.expect_rows()
        size = rows = 0
        with os.fdopen(os.memfd_create("rows", os.MFD_CLOEXEC), "wb") as file:
            while isinstance(packet := self._protocol.read(), Data) and packet.head.rows:
                size += sum(map(len, packet.content))
                rows += packet.head.rows
                if size <= INSERT_BYTES_MAX:
                    file.writelines(packet.content)
                self._send(self._protocol.block_received())
                self._flush()
            if isinstance(packet, Data):
                if size > INSERT_BYTES_MAX:
                    raise ServerError(
                        MEMORY_LIMIT_EXCEEDED,
                        f"an INSERT of {size} bytes is larger than the {INSERT_BYTES_MAX} allowed: send smaller ones",
                    )
                file.flush()
                if rows:
                    session.insert(insert, file, "Native")
                self._send(self._protocol.block_received())
        self._send(self._protocol.end())


@contextlib.contextmanager
def _rows(packet: Data) -> Iterator[BinaryIO | None]:
    if not packet.head.rows:
        yield None
        return
    with os.fdopen(os.memfd_create("rows", os.MFD_CLOEXEC), "wb") as file:
        file.writelines(packet.content)
        file.flush()
        yield file
