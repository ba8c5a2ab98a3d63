"""Ports, threads, start and stop of the development server."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Final

from clearline.embedded.clickhouse.conversation import DISPLAY_NAME, Conversation, Watcher
from clearline.embedded.clickhouse.engine import CannotStartError, Engine
from clearline.embedded.clickhouse.errors import TOO_MANY_CONNECTIONS, ServerError
from clearline.embedded.clickhouse.gate import Gate
from clearline.embedded.clickhouse.http import HttpServer
from clearline.embedded.clickhouse.native import NativeProtocol
from clearline.embedded.clickhouse.readers import READERS_FILE, Users
from clearline.embedded.clickhouse.source import Source

HOST: Final = "127.0.0.1"
CONNECTIONS_MAX: Final = 256
MEMORY_BYTES_MAX: Final = 4 << 30
STOP_BUSY_S: Final = 1.0  # what running inserts get to finish
STOP_TOTAL_S: Final = 2.5

log = logging.getLogger(__name__)


def listen(port: int) -> socket.socket:
    """A listening socket on loopback; port 0 takes a free one. Raises CannotStartError."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise CannotStartError(
            f"port {port} on {HOST} cannot be used ({error.strerror}): choose another one"
        ) from error
    return listener


class NativeListener:
    """Accepts native clients, a thread for each."""

    def __init__(self, listener: socket.socket, engine: Engine, gate: Gate) -> None:
        self._listener = listener
        self._engine = engine
        self._gate = gate
        self._watcher = Watcher(engine)
        self._timezone = engine.timezone()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Accept from now on."""
        threading.Thread(target=self._accept, name="native", daemon=True).start()

    def stop(self) -> None:
        """No new clients, and those that are connected hear nothing more after their current query."""
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)

    @property
    def count(self) -> int:
        """Clients connected."""
        with self._lock:
            return len(self._open)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed by stop()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.count >= CONNECTIONS_MAX:
                _refuse(connection)
                continue
            with self._lock:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            Conversation(connection, self._engine, self._watcher, self._gate, self._timezone).run()
        finally:
            with self._lock:
                self._open.discard(connection)


def _refuse(connection: socket.socket) -> None:
    error = ServerError(TOO_MANY_CONNECTIONS, f"more than {CONNECTIONS_MAX} connections: close some first")
    with contextlib.suppress(OSError), connection:
        connection.sendall(NativeProtocol(Source(lambda: b"")).exception(error))


def serve(folder: Path, port: int, http_port: int, ready_file: Path | None) -> int:
    """Serve `folder` until SIGTERM or SIGINT. Raises CannotStartError. Ends the process itself after a stop."""
    stop = threading.Event()
    native_socket, http_socket = listen(port), listen(http_port)
    engine = Engine(folder, MEMORY_BYTES_MAX)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    gate = Gate(engine, Users(engine.folder / READERS_FILE))
    native = NativeListener(native_socket, engine, gate)
    http = HttpServer(http_socket, engine, gate)
    native.start()
    http.start()
    ports = {"port": native_socket.getsockname()[1], "http_port": http_socket.getsockname()[1]}
    log.warning("%s: not for production, loopback only, ClickHouse %s", DISPLAY_NAME, engine.version)
    log.warning(
        "serving %s: native protocol on %s:%d, HTTP on %s:%d", folder, HOST, ports["port"], HOST, ports["http_port"]
    )
    if ready_file is not None:
        _write_ready(ready_file, {"pid": os.getpid(), "ready": True, "host": HOST, **ports, "version": engine.version})
    stop.wait()
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)
    _stop(engine, native, http)
    return 0


def _write_ready(path: Path, content: dict[str, object]) -> None:
    """Appears whole or not at all: who waits for it never reads half of it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(content) + "\n")
    os.replace(draft, path)


def _stop(engine: Engine, native: NativeListener, http: HttpServer) -> None:
    log.warning("stopping")
    # Whatever hangs, the process is gone in time: an insert is on disk before it is acknowledged, so nothing is lost.
    deadline = threading.Timer(STOP_TOTAL_S, os._exit, (0,))
    deadline.daemon = True
    deadline.start()
    native.stop()
    http.stop()
    _wait_until_idle(native, http, STOP_BUSY_S)
    if native.count or http.count:
        engine.kill_all()
        _wait_until_idle(native, http, STOP_BUSY_S / 2)
    engine.close()
    log.warning("stopped")
    # The engine's own exit handlers wait for threads that may still be reading; everything is on disk.
    logging.shutdown()
    os._exit(0)


def _wait_until_idle(native: NativeListener, http: HttpServer, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (native.count or http.count) and time.monotonic() < end:
        time.sleep(0.01)
