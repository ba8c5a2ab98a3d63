"""The HTTP interface: what BI tools, curl and clickhouse-connect speak.

Answers are built whole before the first byte is sent, so an error always arrives as an error and never at the end of
half a result; that also bounds what it is good for, and large exports belong on the native port.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import gzip
import json
import logging
import secrets
import socket
import threading
import time
import urllib.parse
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import lz4.frame

from clearline.embedded.clickhouse import frames, native, sql
from clearline.embedded.clickhouse.engine import Engine
from clearline.embedded.clickhouse.errors import (
    BAD_ARGUMENTS,
    INCORRECT_DATA,
    READONLY,
    SESSION_IS_LOCKED,
    SYNTAX_ERROR,
    UNKNOWN_COMPRESSION_METHOD,
    UNKNOWN_EXCEPTION,
    EndOfInputError,
    ServerError,
)
from clearline.embedded.clickhouse.gate import Gate
from clearline.embedded.clickhouse.readers import User
from clearline.embedded.clickhouse.sessions import Result, Session, memory_file
from clearline.embedded.clickhouse.source import Source

BODY_BYTES_MAX: Final = 1 << 30
_HEAD_BYTES: Final = 1 << 18  # an INSERT's statement ends within this much of the body
_SESSION_NOT_FOUND: Final = 372
_SESSION_TIMEOUT_S: Final = 60
_SESSION_TIMEOUT_MAX_S: Final = 3600
_IDLE_TIMEOUT_S: Final = 60

# Parameters of a request that are not settings of its query.
_CONTROLS: Final = frozenset(
    {
        *("query", "query_id", "database", "default_format", "user", "password", "quota_key", "role"),
        *("session_id", "session_timeout", "session_check", "client_protocol_version"),
        *("compress", "decompress", "wait_end_of_query", "buffer_size", "stacktrace"),
    }
)
_STATUS: Final[dict[int, HTTPStatus]] = {
    **dict.fromkeys((6, 26, 27, 38, 41, 53, 62, 69, 117, 131, 158, 469), HTTPStatus.BAD_REQUEST),
    **dict.fromkeys((16, 46, 47, 50, 60, 81, 115, 372), HTTPStatus.NOT_FOUND),
    **dict.fromkeys((497, 516), HTTPStatus.FORBIDDEN),
    201: HTTPStatus.TOO_MANY_REQUESTS,
    48: HTTPStatus.NOT_IMPLEMENTED,
}
_CONTENT_TYPES: Final[tuple[tuple[str, str], ...]] = (
    ("JSONEachRow", "application/x-ndjson; charset=UTF-8"),
    ("JSONCompactEachRow", "application/x-ndjson; charset=UTF-8"),
    ("JSON", "application/json; charset=UTF-8"),
    ("CSV", "text/csv; charset=UTF-8; header=absent"),
    ("TabSeparated", "text/tab-separated-values; charset=UTF-8"),
    ("TSV", "text/tab-separated-values; charset=UTF-8"),
    ("XML", "application/xml; charset=UTF-8"),
    ("Parquet", "application/octet-stream"),
    ("Native", "application/octet-stream"),
    ("RowBinary", "application/octet-stream"),
    ("Arrow", "application/octet-stream"),
)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept:
    """A session that outlives its request."""

    session: Session
    expires: float
    lock: threading.Lock = field(default_factory=threading.Lock)


class Sessions:
    """Sessions named by the client (session_id): settings and temporary tables stay between its requests."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def use(self, user: User, controls: Mapping[str, str]) -> Iterator[Session]:
        """The session of this request. Raises ServerError when another request of the same session is running."""
        name, database = controls.get("session_id", ""), controls.get("database", "")
        if not name:
            session = Session(self._engine, user, database)
            try:
                yield session
            finally:
                session.close()
            return
        kept = self._find(user, name, controls.get("session_check") == "1")
        try:
            timeout = min(number(controls, "session_timeout", _SESSION_TIMEOUT_S), _SESSION_TIMEOUT_MAX_S)
            if database:
                kept.session.use(database)
            yield kept.session
            kept.expires = time.monotonic() + timeout
        finally:
            kept.lock.release()

    def _find(self, user: User, name: str, must_exist: bool) -> _Kept:
        now = time.monotonic()
        with self._lock:
            for key, kept in list(self._kept.items()):
                if kept.expires < now and kept.lock.acquire(blocking=False):
                    kept.session.close()
                    del self._kept[key]
            found = self._kept.get((user.name, name))
            if found is None:
                if must_exist:
                    raise ServerError(
                        _SESSION_NOT_FOUND, f"DB::Exception: Session {name} not found (SESSION_NOT_FOUND)"
                    )
                found = _Kept(Session(self._engine, user), now + _SESSION_TIMEOUT_S)
                self._kept[(user.name, name)] = found
            if not found.lock.acquire(blocking=False):
                raise ServerError(SESSION_IS_LOCKED, f"Session {name} is locked by a concurrent client")
            return found


@dataclass(slots=True)
class Request:
    """A request, taken apart."""

    method: str
    controls: dict[str, str]
    settings: dict[str, tuple[str, bool]]
    parameters: dict[str, str]
    body: bytes

    def statement(self) -> tuple[sql.Statement, bytes]:
        """The statement and, for an INSERT, its rows. Raises ServerError."""
        text = self.controls.get("query", "")
        if text:
            statement = sql.inspect(text)
            if statement.insert is not None:
                return statement, sql.inline_data(statement).encode() + self.body
            return (sql.inspect(f"{text}\n{_decode(self.body)}") if self.body else statement), b""
        head = self.body[:_HEAD_BYTES].decode("utf-8", "surrogateescape")
        if head.lstrip()[:6].upper() == "INSERT" or "INSERT" in head[:4096].upper():
            statement = sql.inspect(head)
            if statement.insert is not None:
                start = len(head[: statement.insert.data_start].encode("utf-8", "surrogateescape"))
                return statement, _rows_after(self.body, start)
        return sql.inspect(_decode(self.body)), b""


def _decode(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise ServerError(SYNTAX_ERROR, "the query is not UTF-8") from error


def _rows_after(body: bytes, start: int) -> bytes:
    """Blanks up to and with one line end belong to the statement, not to the rows."""
    while start < len(body) and body[start] in b" \t\r":
        start += 1
    return body[start + 1 :] if body[start : start + 1] == b"\n" else body[start:]


def parse_request(method: str, target: str, headers: Message, body: bytes) -> Request:
    """Sort the parts of a request. Raises ServerError for a body that does not unpack."""
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(target).query, keep_blank_values=True))
    controls = {name: value for name, value in query.items() if name in _CONTROLS}
    for header, name in (("X-ClickHouse-Database", "database"), ("X-ClickHouse-Format", "default_format")):
        if headers.get(header):
            controls.setdefault(name, headers[header])
    parameters = {name[6:]: value for name, value in query.items() if name.startswith("param_")}
    settings = {
        name: (value, True) for name, value in query.items() if name not in _CONTROLS and not name.startswith("param_")
    }
    if method == "GET":
        settings.setdefault("readonly", ("2", True))
    body = _unpack(body, headers.get("Content-Encoding", "").lower(), controls.get("decompress") == "1")
    return Request(method, controls, settings, parameters, body)


def _unpack(body: bytes, encoding: str, own_frames: bool) -> bytes:
    try:
        match encoding:
            case "" | "identity":
                pass
            case "gzip" | "x-gzip":
                body = gzip.decompress(body)
            case "deflate":
                body = zlib.decompress(body)
            case "lz4":
                body = lz4.frame.decompress(body)
            case _:
                raise ServerError(UNKNOWN_COMPRESSION_METHOD, f"Content-Encoding {encoding}: use gzip, deflate or lz4")
        if own_frames and body:
            chunks = iter((body,))
            source = Source(lambda: next(chunks, b""))
            pieces = []
            while not source.at_end():
                pieces.append(frames.read_frame(source))
            body = b"".join(pieces)
    except (OSError, EOFError, zlib.error, RuntimeError, EndOfInputError) as error:
        raise ServerError(INCORRECT_DATA, "the request's body does not unpack") from error
    return body


def number(controls: Mapping[str, str], name: str, default: int) -> int:
    """A control that is a whole number. Raises ServerError."""
    text = controls.get(name) or str(default)
    if not text.isascii() or not text.isdigit():
        raise ServerError(BAD_ARGUMENTS, f"{name} is not a whole number: {text}")
    return int(text)


def _credentials(headers: Message, controls: Mapping[str, str]) -> tuple[str, str]:
    if headers.get("X-ClickHouse-User"):
        return headers["X-ClickHouse-User"], headers.get("X-ClickHouse-Key", "")
    scheme, _, encoded = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ServerError(BAD_ARGUMENTS, "the Authorization header is not base64 of user:password") from error
        return user, password
    return controls.get("user", "default"), controls.get("password", "")


class HttpServer:
    """Serves the HTTP interface on a socket that listens already."""

    def __init__(self, listener: socket.socket, engine: Engine, gate: Gate) -> None:
        self.engine = engine
        self.gate = gate
        self.sessions = Sessions(engine)
        self.timezone = engine.timezone()
        self._running = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(listener.getsockname(), handler, bind_and_activate=False)
        self._server.daemon_threads = True
        self._server.socket.close()
        self._server.socket = listener

    def start(self) -> None:
        """Serve from now on."""
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True).start()

    def stop(self) -> None:
        """No new requests."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def count(self) -> int:
        """Requests being answered."""
        with self._lock:
            return self._running

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Count a request while it runs."""
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "clearline-development-server"
    timeout = _IDLE_TIMEOUT_S
    disable_nagle_algorithm = True
    owner: HttpServer

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def do_GET(self) -> None:
        with self.owner.busy():
            self._handle(b"")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        with self.owner.busy():
            try:
                body = self._body()
            except ValueError as error:
                self.close_connection = True
                self._answer(HTTPStatus.BAD_REQUEST, f"{error}\n".encode(), {})
                return
            self._handle(body)

    def _body(self) -> bytes:
        """The whole body. Raises ValueError when it is too large, and when the client left in the middle of it:
        half of an INSERT must not be taken for the whole."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 <= length <= BODY_BYTES_MAX:
                raise ValueError(f"a body of {length} bytes is larger than the {BODY_BYTES_MAX} allowed")
            return self._exactly(length)
        pieces, total = [], 0
        while size := int(self.rfile.readline(64).split(b";")[0], 16):
            total += size
            if size < 0 or total > BODY_BYTES_MAX:
                raise ValueError(f"a body of more than {BODY_BYTES_MAX} bytes is too large")
            pieces.append(self._exactly(size))
            self.rfile.readline(64)
        while self.rfile.readline(65536).strip():
            pass  # trailers
        return b"".join(pieces)

    def _exactly(self, size: int) -> bytes:
        content = self.rfile.read(size)
        if len(content) < size:
            raise ValueError(f"the body ended after {len(content)} of {size} bytes")
        return content

    def _handle(self, body: bytes) -> None:
        path = urllib.parse.urlsplit(self.path).path
        if path in ("/ping", "/replicas_status"):
            self._answer(HTTPStatus.OK, b"Ok.\n", {})
            return
        if path != "/":
            self._answer(HTTPStatus.NOT_FOUND, f"There is no handle {path}\nUse / or /ping\n".encode(), {})
            return
        try:
            request = parse_request(self.command, self.path, self.headers, body)
            user = self.owner.gate.users.authenticate(*_credentials(self.headers, request.controls))
            if not request.controls.get("query") and not request.body:
                self._answer(HTTPStatus.OK, b"Ok.\n", {})
                return
            self._run(request, user)
        except ServerError as error:
            self._refuse(error)
        except OSError as error:
            log.info("connection lost: %s", error)
            self.close_connection = True
        except Exception as error:
            log.exception("unexpected error in a request")
            self._refuse(ServerError(UNKNOWN_EXCEPTION, f"unexpected {type(error).__name__} in the server"))

    def _run(self, request: Request, user: User) -> None:
        statement, rows = request.statement()
        started = time.monotonic_ns()
        format_ = statement.format or request.controls.get("default_format") or "TabSeparated"
        gate = self.owner.gate
        with self.owner.sessions.use(user, request.controls) as session, gate.counted(session) as spent:
            statement = gate.admit(session, statement, request.settings, request.parameters)
            if statement.insert is not None:
                if user.read_only or request.method != "POST":
                    raise ServerError(READONLY, "Cannot execute query in readonly mode.")
                written = 0
                if rows:
                    with memory_file([rows]) as file:
                        written = session.insert(statement.insert, file, statement.insert.format)
                result = Result(b"", 0, 0, written)
            elif session.accept_set_or_use(statement):
                result = Result(b"", 0, 0, 0)
            else:
                result = session.run(statement.body, format_, request.parameters)
                session.remember(statement)
            spent.rows_read = result.rows_read
            if session.user.policy is not None:  # how many rows of others were passed over is not for a partner
                result = Result(result.content, 0, 0, 0, result.rows)
        content = result.content
        if format_ == "Native":
            content = native.body(content, number(request.controls, "client_protocol_version", 0))
        if request.controls.get("compress") == "1":
            content = frames.compress(content)
        summary = {
            "read_rows": str(result.rows_read),
            "read_bytes": str(result.bytes_read),
            "written_rows": str(result.rows_written),
            "written_bytes": "0",
            "total_rows_to_read": str(result.rows_read),
            "result_rows": str(result.rows),  # ClickHouse's JDBC driver takes an answer without this for an empty one
            "result_bytes": str(len(result.content)),
            "elapsed_ns": str(time.monotonic_ns() - started),
        }
        self._answer(
            HTTPStatus.OK,
            content,
            {
                "Content-Type": _content_type(format_),
                "X-ClickHouse-Format": format_,
                "X-ClickHouse-Query-Id": request.controls.get("query_id") or secrets.token_hex(16),
                "X-ClickHouse-Timezone": self.owner.timezone,
                "X-ClickHouse-Summary": json.dumps(summary),
            },
            compress=request.settings.get("enable_http_compression", ("0", True))[0] in ("1", "true"),
        )

    def _refuse(self, error: ServerError) -> None:
        text = f"Code: {error.code}. {error.message} (version {self.owner.engine.version} (development server))\n"
        status = _STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
        self._answer(status, text.encode(), {"X-ClickHouse-Exception-Code": str(error.code)})

    def _answer(self, status: HTTPStatus, content: bytes, headers: dict[str, str], compress: bool = False) -> None:
        if compress and content:
            accepted = self.headers.get("Accept-Encoding", "").lower()
            if "lz4" in accepted:
                content, headers = lz4.frame.compress(content), {**headers, "Content-Encoding": "lz4"}
            elif "gzip" in accepted:
                content, headers = gzip.compress(content, 1), {**headers, "Content-Encoding": "gzip"}
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain; charset=UTF-8", **headers}.items():
            self.send_header(name, value)
        self.send_header("X-ClickHouse-Server-Display-Name", "clearline development server (chDB)")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _content_type(format_: str) -> str:
    return next((kind for prefix, kind in _CONTENT_TYPES if format_.startswith(prefix)), "text/plain; charset=UTF-8")
