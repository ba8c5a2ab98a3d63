"""Around the whole application: bodies that are too large never get in, and headers that each answer carries.

Plain ASGI, because it runs for each call: a body is counted as it arrives, whatever Content-Length says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import orjson
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clearline.gateway import problems
from clearline.gateway.problems import Problem

TABLES = "/v1/data/tables/"
BATCH_FACTOR = 10  # a batch may have so many times the bytes of one
_HEADERS = "clearline.headers"


def add_headers(scope: Scope, headers: list[tuple[bytes, bytes]]) -> None:
    """Has the answer to this call carry these headers, in place of what was added before under their names."""
    kept: dict[bytes, bytes] = scope.setdefault(_HEADERS, {})
    kept.update(headers)


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """What was added until now."""
    return dict(scope.get(_HEADERS, {}))


class Guard:
    """Refuses bodies of more than `bytes_max` bytes (ten times as many for a batch, `table_bytes_max` for a partner's
    table) with 413, and adds headers.

    `base_url`: of the pages of codes.
    """

    def __init__(self, app: ASGIApp, bytes_max: int, table_bytes_max: int, base_url: str) -> None:
        self._app = app
        self._bytes_max = bytes_max
        self._table_bytes_max = table_bytes_max
        self._base_url = base_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bytes_max = self._most(scope["path"])
        declared = _declared(scope)
        if declared is not None and declared > bytes_max:
            await self._refuse(send, bytes_max)
            return
        await self._app(scope, _counted(receive, bytes_max), _with_headers(scope, send))

    def _most(self, path: str) -> int:
        if path.startswith(TABLES):
            return self._table_bytes_max
        return self._bytes_max * (BATCH_FACTOR if path.endswith(":batch") else 1)

    async def _refuse(self, send: Send, bytes_max: int) -> None:
        problem = Problem("body_too_large", f"the body may have {bytes_max} bytes")
        document = problems.document(problem, self._base_url, f"urn:uuid:{uuid4()}")
        body = orjson.dumps(document)
        headers = [
            (b"content-type", problems.MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),  # else the server would read what nobody wants
        ]  # fmt: skip
        await send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _declared(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return None


def _counted(receive: Receive, bytes_max: int) -> Receive:
    got = 0

    async def counted() -> Message:
        nonlocal got
        message = await receive()
        if message["type"] == "http.request":
            got += len(message.get("body", b""))
            if got > bytes_max:
                # Starlette's own, because FastAPI lets it through wherever the body is read.
                detail = f"the body may have {bytes_max} bytes"
                raise HTTPException(413, detail, {"Connection": "close"})
        return message

    return counted


def _with_headers(scope: Scope, send: Send) -> Callable[[Message], Any]:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start" and (added := scope.get(_HEADERS)):
            message["headers"] = [*message.get("headers", ()), *added.items()]
        await send(message)

    return sent
