"""Waiting for what becomes of commands: a read_committed tail of the journal and of the dead letters.

A command is told from others by its place in the log (partition and offset), which the broker gives with its
acknowledgement; so a command that was sent twice has two outcomes, and each finds its own line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from processors.finality import decides, is_final
from schemas.codec import Codec
from schemas.records import JournalRecord
from streams.clients import KafkaConfig
from streams.reader import LogRecord
from streams.tail import Tail
from streams.topics import Topics

__all__ = ["Matcher", "Outcome", "OutcomeTail", "decides", "outcome_of", "wait_for_all"]

T = TypeVar("T")


class Outcome(NamedTuple):
    """What became of one command. `outcome`: settled, rejected, repeated, applied, or dead.

    `offset` is the command's own in `partition`, also of a transaction between partitions, which was decided at a later
    one; `booked_at` milliseconds since 1970 UTC.
    """

    outcome: str
    reason: str
    detail: dict[str, str]
    partition: int
    offset: int
    sequence: int
    first_offset: int
    booked_at: int

    def why(self) -> str:
        """The reason with what it names, for people."""
        named = ", ".join(f"{k}={v}" for k, v in self.detail.items())
        return f"{self.reason} ({named})" if named else self.reason

    def to_dict(self) -> dict[str, Any]:
        return self._asdict()


class OutcomeTail:
    """Follows outcomes from where the topics end now. Make it before the first command is published.

    `partitions`: of the world's topics, when that is known: it need not be asked for then.
    """

    def __init__(self, kafka: KafkaConfig, topics: Topics, codec: Codec, partitions: int = 0) -> None:
        self._codec = codec
        self._journal = topics.journal
        self._tail = Tail(kafka, {topics.journal: partitions, topics.dead: partitions})

    def poll(self, timeout_s: float = 0.05) -> list[Outcome]:
        """What came since the last call: at once when there is something, nothing after `timeout_s`."""
        out = []
        for topic, r in self._tail.poll(2_000, timeout_s):
            if topic != self._journal:
                out.append(_buried(r))
            elif is_final(j := self._codec.decode(r.value)):
                out.append(outcome_of(j))
        return out

    def close(self) -> None:
        self._tail.close()

    def __enter__(self) -> OutcomeTail:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def outcome_of(j: JournalRecord) -> Outcome:
    """The outcome in a journal record that is final."""
    offset, first_offset = j.source_offset, j.first_offset
    if decides(j):
        offset, first_offset = first_offset, -1
    return Outcome(j.outcome, j.reason, j.detail, j.source_partition, offset, j.sequence, first_offset, j.booked_at)


def _buried(r: LogRecord) -> Outcome:
    headers = {k: v.decode("utf-8", "replace") for k, v in r.headers or []}
    return Outcome(
        "dead", headers.get("reason", ""), {"detail": headers.get("detail", "")},
        int(headers.get("source_partition", r.partition)), int(headers.get("source_offset", -1)), 0, -1,
        int(headers.get("received_at", 0)),
    )  # fmt: skip


class Matcher(Generic[T]):
    """Brings acknowledgements and outcomes together, whichever comes first.

    `matched(token, outcome)` is called once for each command that `sent` named. Outcomes of other publishers' commands
    are dropped as soon as an acknowledgement of a later offset of their partition shows that they are not ours.
    """

    def __init__(self, matched: Callable[[T, Outcome], None]) -> None:
        self._matched = matched
        self._waiting: dict[tuple[int, int], T] = {}
        self._early: dict[int, dict[int, Outcome]] = {}
        self._acknowledged: dict[int, int] = {}

    @property
    def waiting(self) -> int:
        """Acknowledged commands without an outcome yet."""
        return len(self._waiting)

    def tokens(self) -> list[T]:
        """Those of the commands that still wait."""
        return list(self._waiting.values())

    def sent(self, token: T, partition: int, offset: int) -> None:
        """The broker has this command at this place."""
        self._acknowledged[partition] = max(offset, self._acknowledged.get(partition, -1))
        early = self._early.get(partition)
        outcome = early.pop(offset, None) if early else None
        if outcome is not None:
            self._matched(token, outcome)
        else:
            self._waiting[partition, offset] = token

    def came(self, outcome: Outcome) -> None:
        """An outcome was read, ours or another's."""
        token = self._waiting.pop((outcome.partition, outcome.offset), None)
        if token is not None:
            self._matched(token, outcome)
        elif outcome.offset > self._acknowledged.get(outcome.partition, -1):
            early = self._early.setdefault(outcome.partition, {})
            early[outcome.offset] = outcome
            if len(early) > 10_000:
                acknowledged = self._acknowledged.get(outcome.partition, -1)
                self._early[outcome.partition] = {o: x for o, x in early.items() if o > acknowledged}


def wait_for_all(
    matcher: Matcher[T], tail: OutcomeTail, stall_s: float, progress: Callable[[], None] = lambda: None
) -> bool:
    """Follows the tail until nothing waits. False when nothing of ours came for `stall_s` seconds."""
    left, deadline = matcher.waiting, time.monotonic() + stall_s
    while matcher.waiting:
        for outcome in tail.poll(0.05):
            matcher.came(outcome)
        progress()
        if matcher.waiting < left:
            left, deadline = matcher.waiting, time.monotonic() + stall_s
        elif time.monotonic() > deadline:
            return False
    return True
