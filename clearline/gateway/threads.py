"""Clients that are not for several threads, in a few threads that each have one: so the event loop never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import LifoQueue
from typing import Generic, Protocol, TypeVar

from schemas.errors import PartUnavailableError


class Closing(Protocol):
    """A client of a store."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Closing)
T = TypeVar("T")


class ClientPool(Generic[C]):
    """Clients in a few threads. `part`, `address`: what an error names; `make`: a new client, which connects when it is
    first asked."""

    def __init__(self, part: str, address: str, make: Callable[[], C], threads: int, waiting_max: int) -> None:
        self._part = part
        self.address = address
        self._most = threads + waiting_max
        self._under_way = 0
        self._threads = ThreadPoolExecutor(threads, part.lower())
        self._free: LifoQueue[C] = LifoQueue()
        for _ in range(threads):
            self._free.put(make())

    async def ask(self, question: Callable[[C], T]) -> T:
        """The answer to a question that is asked in one of the threads. Raises PartUnavailableError when too many wait
        already: then it is too slow, and whoever asks next would wait longer still."""
        if self._under_way >= self._most:
            raise PartUnavailableError(self._part, self.address, f"{self._under_way} questions wait for it")
        self._under_way += 1
        loop = asyncio.get_running_loop()
        future = self._threads.submit(self._ask, question)
        future.add_done_callback(lambda _: self._done(loop))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Ends the threads and closes their connections."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        while not self._free.empty():
            self._free.get_nowait().close()

    def _ask(self, question: Callable[[C], T]) -> T:
        client = self._free.get()
        try:
            return question(client)
        finally:
            self._free.put(client)

    def _done(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop.is_closed():
            self._under_way -= 1
        else:
            loop.call_soon_threadsafe(self._count_down)

    def _count_down(self) -> None:
        self._under_way -= 1
