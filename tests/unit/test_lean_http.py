"""The tests' own client: what went wrong is told, whatever connections were open then."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from tests.lean_http import LeanClient

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every path but /never."""
    while (head := await reader.readline()) and await reader.readuntil(b"\r\n\r\n"):
        if b"/never" not in head:
            writer.write(ANSWER)
    writer.close()


async def fail_with_connections_open() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = LeanClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        async with asyncio.TaskGroup() as group:
            silent = [group.create_task(client.request("GET", "/never", {})) for _ in range(3)]
            replies = await asyncio.gather(*(client.request("GET", "/", {}) for _ in range(5)))
            assert [r.body for r in replies] == [b"ok"] * 5
            assert not any(t.done() for t in silent)
            raise KeyError("the first error")
    finally:
        await client.close()
        server.close()


def test_the_first_error_is_told_and_not_that_a_connection_was_open() -> None:
    with pytest.raises(ExceptionGroup) as found:
        uvloop.run(fail_with_connections_open())
    assert [str(e) for e in found.value.exceptions] == ["'the first error'"]


def test_who_waits_when_the_client_is_closed_is_told() -> None:
    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = LeanClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        waits = asyncio.create_task(client.request("GET", "/never", {}))
        await client.request("GET", "/", {})
        await client.close()
        with pytest.raises(ConnectionError):
            await waits
        server.close()

    uvloop.run(run())
