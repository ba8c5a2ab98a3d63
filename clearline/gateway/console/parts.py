"""What the console needs of a gateway, put together: `serve.py` gives the real parts, `twin.py` those in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from clearline.gateway.console.board import draw
from clearline.gateway.console.watch import Source, Watch
from clearline.gateway.console.works import Works
from schemas.errors import PartUnavailableError

T = TypeVar("T")
WAITING_MAX = 8


class ConsoleParts:
    """The watch and the works of one gateway, and the thread in which works are asked, one after the other."""

    def __init__(self, source: Source, works: Works) -> None:
        self.watch = Watch(source, draw)
        self._works = works
        self._thread = ThreadPoolExecutor(1, "console-works")
        self._waiting = 0

    async def ask(self, question: Callable[[Works], T]) -> T:
        """The answer of the works. Raises PartUnavailableError when too many wait already."""
        if self._waiting >= WAITING_MAX:
            raise PartUnavailableError("Console", "this gateway", f"{self._waiting} questions wait for it")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, question, self._works)
        finally:
            self._waiting -= 1

    def frozen_in(self, level: str, subject_id: str) -> list[int]:
        """As `Works.frozen_in`, without waiting for what else the works are asked."""
        return self._works.frozen_in(level, subject_id)

    async def close(self) -> None:
        """Ends both, and their threads."""
        await self.watch.close()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._works.close()
