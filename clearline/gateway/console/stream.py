"""The live stream: pictures as server-sent events, one after the other, the newest whenever a viewer can take one.

It ends when its session does, when the gateway stops, and when a viewer takes nothing for long: so a page that is left
open somewhere costs nothing for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import orjson
from starlette.responses import StreamingResponse
from starlette.types import Message, Send

from clearline.gateway.console.watch import Watch

BEAT_S = 1.0  # how often it is looked whether the stream may go on
QUIET_S = 15.0  # a proxy ends what says nothing for long
STALLED_S = 10.0  # a viewer who takes nothing for so long is let go
RETRY_MS = 2_000
STREAM = "clearline.stream"  # in the scope of a call whose answer has no end
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx would gather events
SESSION_ENDED = "The session has ended: load the page again to sign in."


class Stream(StreamingResponse):
    """Events, one message each, to a viewer who takes them in time."""

    def __init__(self, events: AsyncGenerator[bytes, None], stalled_s: float = STALLED_S) -> None:
        super().__init__(events, media_type="text/event-stream", headers=HEADERS)
        self._events = events
        self._stalled_s = stalled_s

    async def stream_response(self, send: Send) -> None:
        """As Starlette's, but a viewer who takes nothing is let go: the server closes the connection then."""

        async def within(message: Message) -> None:
            async with asyncio.timeout(self._stalled_s):
                await send(message)

        try:
            await super().stream_response(within)
        except TimeoutError:
            return
        finally:
            await self._events.aclose()  # whoever is let go is not counted any more


async def events(watch: Watch, why_end: Callable[[], str], stopping: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    """Events for one viewer: `board` with the sections that changed, `ended` with the reason as the last one.

    `why_end`: why the viewer may not go on, empty while he may; `stopping`: whether the gateway stops.
    """
    with watch.viewing():
        yield f"retry: {RETRY_MS}\n\n".encode()
        has: dict[str, str] = {}
        number, quiet = 0, 0.0
        while not stopping():
            if why := why_end():
                yield _event("ended", {"text": why})
                return
            picture = await watch.after(number, BEAT_S)
            if picture is None:
                quiet += BEAT_S
                if quiet >= QUIET_S:
                    quiet = 0.0
                    yield b": still here\n\n"
                continue
            number, quiet = picture.number, 0.0
            changed = {name: html for name, html in picture.sections.items() if has.get(name) != html}
            has.update(changed)
            yield _event("board", {"number": number, "error": picture.error, "sections": changed}, str(number))


def _event(name: str, told: Mapping[str, Any], number: str = "") -> bytes:
    """One event: JSON has no line breaks, so one line of data is enough."""
    mark = f"id: {number}\n".encode() if number else b""
    return mark + b"event: " + name.encode() + b"\ndata: " + orjson.dumps(told) + b"\n\n"
