"""The gateway's gate without a Redis: for tests, beside a ledger in memory."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

from clearline.gateway.parts import Taken
from sinks.gate import What


class MemoryGate:
    """`Gate` in dicts, for one process. Limits of calls never refill: a test says how many there are."""

    def __init__(self, burst: int, day: int) -> None:
        self.burst, self.day = burst, day
        self.taken: dict[str, int] = defaultdict(int)
        self.outcomes: dict[bytes, dict[str, Any]] = {}
        self._nonces: deque[tuple[str, str]] = deque(maxlen=100_000)

    @property
    def local(self) -> bool:
        """As `Gate.local`: memory is never away."""
        return False

    async def take(self, root: str, calls: int, what: What = "calls") -> Taken:
        """As `Gate.take`."""
        name = root if what == "calls" else f"{what} of {root}"
        taken = self.taken[name] + calls
        refused = "day" if taken > self.day else "burst" if taken > self.burst else ""
        if not refused:
            self.taken[name] = taken
        left = self.taken[name]
        return Taken(refused, max(0, self.burst - left), 1.0, max(0, self.day - left), 86_400.0, False)

    async def first_use(self, key_id: str, nonce: str, for_s: int) -> bool:
        """As `Gate.first_use`."""
        if (key_id, nonce) in self._nonces:
            return False
        self._nonces.append((key_id, nonce))
        return True

    async def outcome(self, command_id: bytes) -> dict[str, Any] | None:
        """As `Gate.outcome`."""
        return self.outcomes.get(command_id)

    async def keep_outcomes(self, documents: Sequence[tuple[bytes, dict[str, Any]]]) -> None:
        """As `Gate.keep_outcomes`."""
        self.outcomes.update(documents)
