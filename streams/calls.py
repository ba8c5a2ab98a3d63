"""Calls under way: commands that were published, their places in the log, and the replies that came for them.

No client, no clock and no thread in here. A call is in this table from before it is published, so a reply that is
faster than the broker's acknowledgement finds it. Replies to somebody else's commands are told by their command id;
those to somebody else's repeat of the same command by their place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import structlog

from processors.finality import speaks_for_key
from schemas.identity import command_id
from schemas.records import Command, JournalRecord, Reply

log = structlog.get_logger()

OPEN_MAX = 50_000
_EARLY_MAX = 256  # replies to repeats of one command that are kept while its own place is not known


class Place(NamedTuple):
    """Where the log has a command: partition and offset of `transactions.submitted`."""

    partition: int
    offset: int


class Called(NamedTuple):
    """An acknowledged command, and what became of it. `reply` None: nothing in time. Of a command that went to several
    partitions: the first that rejected it, else the lowest partition's."""

    places: tuple[Place, ...]
    reply: Reply | None


class Found(NamedTuple):
    """A command as the log has it. `record`: its final journal record, or the first of a transaction that is under way
    between partitions; `command`: what was asked, None when the log does not keep it any more."""

    record: JournalRecord
    command: Command | None


class Unsettled(NamedTuple):
    """A command that stands in the log and has no outcome yet."""

    place: Place
    command: Command


class Later(NamedTuple):
    """Journal records after a command that name it; `whole`: whether the journal was looked through to its end."""

    records: list[JournalRecord]
    whole: bool


Kept = Callable[[Command, Called], None]


class Waiting:
    """Whoever waits for some calls together: is told once when all are acknowledged, once when all are answered. A call
    that failed counts as both."""

    __slots__ = ("_acknowledged", "_answered", "unacknowledged", "unanswered")

    def __init__(self, calls: int, acknowledged: Callable[[], None], answered: Callable[[], None]) -> None:
        self.unacknowledged = calls
        self.unanswered = calls
        self._acknowledged = acknowledged
        self._answered = answered

    def one_acknowledged(self) -> None:
        """One call more is in the log."""
        self.unacknowledged -= 1
        if not self.unacknowledged:
            self._acknowledged()

    def one_answered(self) -> None:
        """One call more has its outcome."""
        self.unanswered -= 1
        if not self.unanswered:
            self._answered()


class Call:
    """One command on its way. `wanted`: to how many partitions it goes."""

    __slots__ = ("command", "command_id", "error", "places", "replies", "waiting", "wanted")

    def __init__(self, command: Command, wanted: int, waiting: Waiting) -> None:
        self.command = command
        self.command_id = command_id(command.partner_id, command.idempotency_key)
        self.wanted = wanted
        self.waiting = waiting
        self.places: list[Place] = []
        self.replies: dict[Place, Reply] = {}
        self.error: Exception | None = None

    @property
    def acknowledged(self) -> bool:
        """Whether every place of it is known."""
        return len(self.places) == self.wanted

    @property
    def called(self) -> Called:
        """Where it is, and its outcome if that is complete."""
        places = tuple(sorted(self.places))
        if len(self.replies) < self.wanted:
            return Called(places, None)
        replies = [self.replies[p] for p in places]
        return Called(places, next((r for r in replies if r.outcome == "rejected"), replies[0]))


def place_of(r: Reply) -> Place:
    """Where the command stands that this reply is to. A transaction between partitions was decided at a later offset
    than its own, which the last word on it has as `first_offset`."""
    own = r.first_offset >= 0 and speaks_for_key(r.outcome, r.reason)
    return Place(r.partition, r.first_offset if own else r.source_offset)


class Calls:
    """The calls under way. Not thread-safe, but `knows` may be asked from anywhere.

    `kept` is called once for each call whose outcome is complete, whether or not somebody still waits for it. Of more
    than `open_max` calls without an outcome the oldest are given up: their outcomes are in the journal.
    """

    def __init__(self, kept: Kept = lambda _command, _called: None, open_max: int = OPEN_MAX) -> None:
        self._kept = kept
        self._open_max = open_max
        self._open: dict[bytes, list[Call]] = {}
        self._early: dict[bytes, dict[Place, Reply]] = {}

    def __len__(self) -> int:
        """Commands that have no outcome yet."""
        return len(self._open)

    def knows(self, command_id: bytes) -> bool:
        """Whether a command of this id is under way."""
        return command_id in self._open

    def begin(self, command: Command, wanted: int, waiting: Waiting) -> Call:
        """A call that is about to be published to so many partitions."""
        call = Call(command, wanted, waiting)
        self._open.setdefault(call.command_id, []).append(call)
        if len(self._open) > self._open_max:
            oldest = next(iter(self._open))
            del self._open[oldest]
            self._early.pop(oldest, None)
        return call

    def acknowledged(self, call: Call, place: Place) -> None:
        """The broker has a call at this place."""
        if call.error is not None:
            return
        call.places.append(place)
        early = self._early.get(call.command_id)
        reply = early.pop(place, None) if early else None
        if call.acknowledged:
            call.waiting.one_acknowledged()
            self._forget_early(call.command_id)
        if reply is not None:
            self._answer(call, place, reply)

    def failed(self, call: Call, error: Exception) -> None:
        """Nobody knows whether the log has a call."""
        if call.error is not None:
            return
        call.error = error
        if not call.acknowledged:
            call.waiting.one_acknowledged()
        call.waiting.one_answered()
        self._close(call)

    def replied(self, reply: Reply) -> None:
        """A reply was read, to one of these calls or not."""
        calls = self._open.get(reply.command_id)
        if calls is None:
            return
        place = place_of(reply)
        for call in calls:
            if place in call.places:
                self._answer(call, place, reply)
                return
        if any(not call.acknowledged for call in calls):
            early = self._early.setdefault(reply.command_id, {})
            if len(early) < _EARLY_MAX:
                early[place] = reply

    def fail_all(self, error: Exception) -> None:
        """Gives everything up that is not acknowledged."""
        for calls in list(self._open.values()):
            for call in [c for c in calls if not c.acknowledged]:
                self.failed(call, error)

    def _answer(self, call: Call, place: Place, reply: Reply) -> None:
        call.replies[place] = reply
        if len(call.replies) == call.wanted:
            call.waiting.one_answered()
            self._close(call)
            try:
                self._kept(call.command, call.called)
            except Exception as e:  # whoever keeps outcomes must not keep others from theirs
                log.error("outcome_not_kept", command_id=call.command_id.hex(), error=f"{type(e).__name__}: {e}")

    def _close(self, call: Call) -> None:
        calls = self._open.get(call.command_id)
        if calls is not None and call in calls:
            calls.remove(call)
            if not calls:
                del self._open[call.command_id]
        self._forget_early(call.command_id)

    def _forget_early(self, command_id: bytes) -> None:
        if command_id in self._early and all(c.acknowledged for c in self._open.get(command_id, ())):
            del self._early[command_id]
