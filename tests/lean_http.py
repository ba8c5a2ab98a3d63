"""A lean HTTP/1.1 client with keep-alive connections, for tests that send tens of thousands of requests.

It does one thing less than others: it never tries again by itself. A connection that is lost, before or after a part of
the answer has come, is a ConnectionError, and whoever asked does not know what became of his request.

It knows every connection that it made until that is gone. A loop that is closed with one of them open fails itself, and
what went wrong before is not told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httptools


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Connection(asyncio.Protocol):
    def __init__(self, open_: set[_Connection]) -> None:
        self._transport: Any = None
        self._open = open_
        self._waits: asyncio.Future[Reply] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._open.add(self)

    @property
    def lost(self) -> bool:
        return bool(self._transport.is_closing())

    def close(self) -> None:
        self._transport.abort()  # nobody waits for what may still come, nor for what was not sent yet

    async def ask(self, request: bytes) -> Reply:
        if self.lost:  # nobody would tell whoever waits now
            raise ConnectionError("closed by the server before the request was sent")
        self._waits = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waits

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        reply = Reply(self._parser.get_status_code(), self._headers, b"".join(self._body))
        self._headers, self._body = {}, []
        if not self._parser.should_keep_alive():
            self._transport.close()
        if self._waits is not None and not self._waits.done():
            self._waits.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self._open.discard(self)
        if self._waits is not None and not self._waits.done():
            self._waits.set_exception(ConnectionError(str(error or "closed by the server")))


class LeanClient:
    """Requests to one server. Use it in one event loop."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"", timeout_s: float = 60.0
    ) -> Reply:
        """One request on a connection of its own. Raises ConnectionError, TimeoutError."""
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        start = (
            f"{method} {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{head}Content-Length: {len(body)}\r\n\r\n"
        )
        connection = await self._connection()
        try:
            async with asyncio.timeout(timeout_s):
                reply = await connection.ask(start.encode() + body)
        except BaseException:
            connection.close()
            raise
        if not connection.lost:
            self._idle.append(connection)
        return reply

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                return connection
        loop = asyncio.get_running_loop()
        try:
            _, made = await loop.create_connection(lambda: _Connection(self._open), self.host, self.port)
        except OSError as e:
            raise ConnectionError(str(e)) from None
        return made

    async def close(self) -> None:
        """Closes every connection that was made, and returns when all are gone: whoever still waits for an answer gets a
        ConnectionError."""
        self._idle.clear()
        while self._open:
            for connection in list(self._open):
                connection.close()
            await asyncio.sleep(0)
