"""Turns of making something large: many questions of one partner wait for each other, and nobody else for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from clearline.gateway.problems import Problem
from schemas.identity import root_of


@dataclass(slots=True)
class _One:
    """A root partner's turns. `there`: how many have one or wait for it."""

    turn: asyncio.Semaphore
    there: int = 0


class Turns:
    """`each`: turns of one root partner at once, `waiting`: how many more of it may wait; `together`: of all. `what`:
    what they are, for who is refused."""

    def __init__(self, each: int, waiting: int, together: int, what: str = "reports") -> None:
        self._each, self._waiting, self._what = each, waiting, what
        self._together = asyncio.Semaphore(together)
        self._of: dict[str, _One] = {}

    def __len__(self) -> int:
        """How many partners have a turn, or wait for one."""
        return len(self._of)

    @asynccontextmanager
    async def of(self, partner_id: str) -> AsyncIterator[None]:
        """A turn of this partner's root, when there is one. Raises Problem("rate_limited") when too many wait."""
        root = root_of(partner_id)
        one = self._of.setdefault(root, _One(asyncio.Semaphore(self._each)))
        if one.there >= self._each + self._waiting:
            raise Problem("rate_limited", f"{self._what} of this partner at once", headers={"Retry-After": "1"})
        one.there += 1
        try:
            async with one.turn, self._together:
                yield
        finally:
            one.there -= 1
            if not one.there:
                del self._of[root]
