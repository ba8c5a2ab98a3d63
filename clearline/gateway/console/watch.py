"""Looks once a second for everybody who watches, and not at all while nobody does.

One thread collects, one task of the event loop draws what it found, and all viewers take the newest picture: a hundred
open pages cost what one costs. A viewer who is slow misses pictures, and nobody waits for him.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from clearline.gateway.console.facts import Facts
from schemas.errors import ClearlineError

log = structlog.get_logger()

INTERVAL_S = 1.0
LINGER_S = 3.0  # a page that is loaded anew is no reason to begin again
FIRST_S = 6.0  # for so long a page waits for its first picture
VIEWERS_MAX = 32
HISTORY = 11  # pictures: rates are of the last ten seconds


class Source(Protocol):
    """Where facts come from."""

    def look(self) -> Facts:
        """All facts as they are now. May take seconds when a part is away; never called by two threads at once."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Picture:
    """One look, drawn. `sections`: HTML by the id of the element that it stands in; `error`: why there is none."""

    number: int
    at: float
    sections: Mapping[str, str]
    error: str = ""


class TooManyViewersError(ClearlineError):
    """VIEWERS_MAX watch already."""


Draw = Callable[[deque[Facts]], Mapping[str, str]]


class Watch:
    """`source`: is looked at in a thread of this object's own; `draw`: makes sections of the last looks, the newest
    last. For one event loop. Starts nothing before somebody watches."""

    def __init__(
        self, source: Source, draw: Draw, *, interval_s: float = INTERVAL_S, viewers_max: int = VIEWERS_MAX
    ) -> None:
        self._source, self._draw = source, draw
        self._interval_s, self._viewers_max = interval_s, viewers_max
        self._thread = ThreadPoolExecutor(1, "console")
        self._history: deque[Facts] = deque(maxlen=HISTORY)
        self._picture = Picture(0, 0.0, {}, "the first look takes longer than usual; load the page again")
        self._newer = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._seen = 0.0  # when somebody last watched
        self.viewers = 0
        self._closed = False

    @contextmanager
    def viewing(self) -> Iterator[None]:
        """For as long as somebody watches. Raises TooManyViewersError."""
        if self.full:
            raise TooManyViewersError(f"{self.viewers} pages watch already, which is the most")
        self.viewers += 1
        self._run()
        try:
            yield
        finally:
            self.viewers -= 1
            self._seen = time.monotonic()

    @property
    def shown(self) -> int:
        """How many pictures there were."""
        return self._picture.number

    @property
    def full(self) -> bool:
        """Whether nobody more may watch."""
        return self.viewers >= self._viewers_max

    async def newest(self, wait_s: float = FIRST_S) -> Picture:
        """A picture that is not older than two looks. When that takes longer than `wait_s`, the last one there is."""
        self._run()
        fresh = time.monotonic() - 2 * self._interval_s
        deadline = time.monotonic() + wait_s
        while self._picture.at < fresh and (left := deadline - time.monotonic()) > 0:
            await self._wait(left)
        return self._picture

    async def after(self, number: int, wait_s: float) -> Picture | None:
        """The newest picture when it is another than this one; None when there is none within `wait_s`."""
        if self._picture.number == number:
            await self._wait(wait_s)
        return self._picture if self._picture.number != number else None

    async def close(self) -> None:
        """Ends looking. Those who wait are answered with what there is."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._newer.set()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._source.close()

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._newer.wait(), seconds)
        except TimeoutError:
            return

    def _run(self) -> None:
        self._seen = time.monotonic()
        if not self._closed and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._looking())

    async def _looking(self) -> None:
        loop = asyncio.get_running_loop()
        while self.viewers or time.monotonic() - self._seen < LINGER_S:
            began = time.monotonic()
            try:
                sections, error = await loop.run_in_executor(self._thread, self._look), ""
            except Exception as e:  # whatever it is: the page says it, and the next look follows
                log.warning("console_look", error=f"{type(e).__name__}: {e}")
                sections, error = dict(self._picture.sections), f"{type(e).__name__}: {e}"
            self._picture = Picture(self._picture.number + 1, time.monotonic(), sections, error)
            newer, self._newer = self._newer, asyncio.Event()
            newer.set()
            await asyncio.sleep(max(0.05, self._interval_s - (time.monotonic() - began)))
        self._history.clear()  # rates are of looks that follow each other

    def _look(self) -> dict[str, str]:
        self._history.append(self._source.look())
        return dict(self._draw(self._history))
