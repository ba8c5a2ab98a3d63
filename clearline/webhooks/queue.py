"""The queue in memory: which delivery is next, and what becomes of one that failed. No clock, no topic, no network.

Deliveries of one subscription and ordering stand in a line; only its head is sent, and the next one is its head when
whoever uses this says that the end of the one before is written. Of each subscription a bounded number is held; what
does not fit stays in the topic (`spilled`), in rising numbers, and is handed in again when there is room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush

import msgspec

from schemas.records import Delivery

PENDING, DEAD = "pending", "dead"
RETRY_MS_MAX = 3_600_000
HELD_MAX = 1_000  # of one subscription
NEVER = 1 << 62
_ERROR_CHARS_MAX = 300

Key = tuple[str, str]  # subscription, ordering


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """How it retries, in milliseconds, and how much at once."""

    first_retry_ms: int = 5_000
    give_up_ms: int = 3 * 86_400_000
    concurrency: int = 64
    held_max: int = HELD_MAX

    @property
    def of_one(self) -> int:
        """Requests at once to one subscription."""
        return max(1, self.concurrency // 8)


@dataclass(slots=True)
class _Line:
    rows: deque[Delivery] = field(default_factory=deque)
    busy: bool = False


@dataclass(slots=True)
class _Receiver:
    """One subscription. `spilled`: how many of its rows are in the topic alone; `spilled_at`: from which offset on."""

    open: bool = False
    held: int = 0
    under_way: int = 0
    waiting: deque[tuple[int, Key]] = field(default_factory=deque)
    spilled: int = 0
    spilled_at: int = 0
    last: int = 0  # the highest number that is held


class Queue:
    """The pending deliveries of one partition or several. `jitter` gives a factor for each wait, about 1.

    Times are milliseconds UTC, handed in by the caller.
    """

    def __init__(self, options: QueueOptions, jitter: Callable[[], float]) -> None:
        self._options = options
        self._jitter = jitter
        self._lines: dict[Key, _Line] = {}
        self._receivers: dict[str, _Receiver] = {}
        self._heads: list[tuple[int, int, Key]] = []  # when, number, line
        self.under_way = 0
        self.dead = 0

    # ---- what is asked of it -----------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """How many are not delivered and not dead."""
        return sum(r.held + r.spilled for r in self._receivers.values())

    def next(self, now_ms: int) -> Delivery | None:
        """One to send now, or None. Whoever takes it calls `delivered`, `put_back` or `buried` in the end."""
        while self._heads and self._heads[0][0] <= now_ms and self.under_way < self._options.concurrency:
            at, number, key = heappop(self._heads)
            line = self._lines.get(key)
            if (
                line is None
                or line.busy
                or not line.rows
                or (line.rows[0].next_at, line.rows[0].number) != (at, number)
            ):
                continue  # an entry of what is not so any more
            receiver = self._receivers[key[0]]
            if not receiver.open or receiver.under_way >= self._options.of_one:
                receiver.waiting.append((at, key))
                continue
            line.busy = True
            receiver.under_way += 1
            self.under_way += 1
            return line.rows[0]
        return None

    def wake_at(self) -> int:
        """When something may be due; NEVER when nothing is, as things stand."""
        if self.under_way >= self._options.concurrency or not self._heads:
            return NEVER
        return self._heads[0][0]

    def short(self) -> list[tuple[str, int, int, int]]:
        """Subscriptions of which more should be read from the topic: the offset to read from, the number after which,
        and how many."""
        half = self._options.held_max // 2
        return [
            (name, r.spilled_at, r.last, self._options.held_max - r.held)
            for name, r in self._receivers.items()
            if r.spilled and r.held <= half
        ]

    # ---- what happens ------------------------------------------------------------------------------------------

    def put(self, delivery: Delivery, offset: int) -> None:
        """Takes one that is written at this offset of the topic, in the order of the numbers of its subscription."""
        receiver = self._receivers.setdefault(delivery.subscription_id, _Receiver())
        if delivery.number <= receiver.last:
            return  # `refill` read it from the topic before its writer came to hand it in
        if receiver.spilled or receiver.held >= self._options.held_max:
            if not receiver.spilled:
                receiver.spilled_at = offset
            receiver.spilled += 1
        else:
            self._hold(receiver, delivery)

    def spill(self, subscription_id: str, offset: int, count: int) -> None:
        """Of a subscription so many rows more are in the topic alone, the first of them at this offset."""
        receiver = self._receivers.setdefault(subscription_id, _Receiver())
        receiver.spilled, receiver.spilled_at = count, offset

    def refill(self, subscription_id: str, rows: Iterable[Delivery], goes_on_at: int) -> None:
        """Takes what was read from the topic for `short`; nothing: there is no more. `goes_on_at`: from which offset on
        the next ones are."""
        receiver = self._receivers.get(subscription_id)
        if receiver is None:
            return
        read = list(rows)
        for d in read:
            self._hold(receiver, d)
        receiver.spilled = max(0, receiver.spilled - len(read)) if read else 0
        receiver.spilled_at = goes_on_at

    def set_open(self, subscription_id: str, is_open: bool) -> None:
        """Whether anything is sent to a subscription."""
        receiver = self._receivers.setdefault(subscription_id, _Receiver())
        receiver.open = is_open
        if is_open:
            self._release(receiver)

    def delivered(self, delivery: Delivery) -> None:
        """It is delivered, and that is written."""
        self._leave(delivery)

    def buried(self, delivery: Delivery) -> None:
        """It is dead, and that is written."""
        if self._leave(delivery):
            self.dead += 1

    def after_failure(self, delivery: Delivery, now_ms: int, error: str, status: int) -> Delivery:
        """The row to write after a failed attempt: again later, or dead."""
        attempts = delivery.attempts + 1
        row = msgspec.structs.replace(
            delivery, attempts=attempts, error=error[:_ERROR_CHARS_MAX], status=status, state=PENDING
        )
        if now_ms - delivery.queued_at >= self._options.give_up_ms:
            return msgspec.structs.replace(row, state=DEAD, died_at=now_ms)
        wait = min(RETRY_MS_MAX, self._options.first_retry_ms << min(attempts - 1, 40)) * self._jitter()
        return msgspec.structs.replace(row, next_at=now_ms + int(wait))

    def put_back(self, row: Delivery) -> None:
        """The row of a failed attempt is written: it stays the head of its line."""
        line = self._lines.get(_key(row))
        if line is None or not line.rows:
            return  # dropped meanwhile
        line.rows[0] = row
        self._end_attempt(row)
        line.busy = False
        heappush(self._heads, (row.next_at, row.number, _key(row)))

    def hasten(self, delivery: Delivery, now_ms: int) -> None:
        """One that is held and not under way is due now."""
        key = _key(delivery)
        line = self._lines.get(key)
        for i, known in enumerate(line.rows if line is not None else ()):
            if line is not None and known.delivery_id == delivery.delivery_id and not (line.busy and i == 0):
                line.rows[i] = msgspec.structs.replace(known, next_at=now_ms)
                if i == 0:
                    heappush(self._heads, (now_ms, known.number, key))
                return

    def drop(self, subscription_id: str) -> None:
        """Forgets everything of a subscription; attempts under way end into nothing."""
        receiver = self._receivers.pop(subscription_id, None)
        if receiver is not None:
            self.under_way -= receiver.under_way
        for key in [k for k in self._lines if k[0] == subscription_id]:
            del self._lines[key]

    # ---- its own -------------------------------------------------------------------------------------------------

    def _hold(self, receiver: _Receiver, delivery: Delivery) -> None:
        receiver.held += 1
        receiver.last = max(receiver.last, delivery.number)
        key = _key(delivery)
        line = self._lines.setdefault(key, _Line())
        line.rows.append(delivery)
        if len(line.rows) == 1:
            heappush(self._heads, (delivery.next_at, delivery.number, key))

    def _leave(self, delivery: Delivery) -> bool:
        key = _key(delivery)
        line = self._lines.get(key)
        if line is None or not line.rows:
            return False
        line.rows.popleft()
        self._receivers[key[0]].held -= 1
        self._end_attempt(delivery)
        line.busy = False
        if line.rows:
            heappush(self._heads, (line.rows[0].next_at, line.rows[0].number, key))
        else:
            del self._lines[key]
        return True

    def _end_attempt(self, delivery: Delivery) -> None:
        receiver = self._receivers[delivery.subscription_id]
        receiver.under_way -= 1
        self.under_way -= 1
        self._release(receiver)

    def _release(self, receiver: _Receiver) -> None:
        """As many heads that waited for room, or for the subscription to open, as there is room for."""
        room = self._options.of_one - receiver.under_way if receiver.open else 0
        while receiver.waiting and room > 0:
            at, key = receiver.waiting.popleft()
            line = self._lines.get(key)
            if line is not None and line.rows and not line.busy and line.rows[0].next_at == at:
                heappush(self._heads, (at, line.rows[0].number, key))
                room -= 1


def _key(d: Delivery) -> Key:
    return d.subscription_id, d.ordering
