"""What the brokers say: topics, how far everybody is behind and since when, dead letters. One thread asks all of it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from clearline.config import Settings
from clearline.connection import kafka_config
from clearline.status.model import DeadLetters, Lag, Topic, Topics
from streams.look import BrokerLook, Brokers, Letters, LettersLook, Peek, Waiting
from streams.topics import Topics as TopicNames

HALF_MINUTE_MS = 30_000
_RATE_S = 10.0  # rates are of about the last so many seconds
_NEWEST = 100
_ASK_S = 1.3
_PEEK_S = 0.4


@dataclass(frozen=True, slots=True)
class Flows:
    """What one look at the brokers found."""

    look: BrokerLook
    topics: Topics
    lags: tuple[Lag, ...]
    dead: DeadLetters


@dataclass(slots=True)
class _Pace:
    """Sums of what was done and what had come, over the last looks."""

    samples: deque[tuple[float, int, int]] = field(default_factory=deque)

    def add(self, done: int, came: int) -> tuple[float | None, float | None]:
        """Both rates per second; None at the first look."""
        now = time.monotonic()
        self.samples.append((now, done, came))
        while len(self.samples) > 2 and now - self.samples[1][0] > _RATE_S:
            self.samples.popleft()
        since, done_then, came_then = self.samples[0]
        if now - since < 0.3:
            return None, None
        return max(0, done - done_then) / (now - since), max(0, came - came_then) / (now - since)


class FlowReader:
    """Asks one cluster about one world, again and again, with clients that stay. Not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        """`settings` must hold addresses."""
        self._settings = settings
        self._kafka = kafka_config(settings)
        self._names = TopicNames(settings.world)
        self._brokers = Brokers(self._kafka, self._names, _ASK_S)
        self._peeks: dict[str, Peek] = {}
        self._letters: Letters | None = None
        self._paces: dict[str, _Pace] = {}

    @property
    def answered(self) -> bool:
        """Whether a broker answers at all, by the last look, or the one that goes on."""
        return self._brokers.answered

    def look(self, followers: Mapping[str, Mapping[int, int]]) -> Flows:
        """`followers`: by role, up to where it is in each of its partitions. Raises PartUnavailableError."""
        found = self._brokers.look()
        lags = [self._settlement(found)]
        lags += [self._follower(role, at, found) for role, at in followers.items()]
        return Flows(found, self._topics(found), tuple(lags), self._dead(found))

    def _topics(self, found: BrokerLook) -> Topics:
        topics = []
        for name in self._names.settings():
            there = found.topics.get(name)
            expected = 0 if name == self._names.replies else self._settings.partitions
            if there is None:
                topics.append(Topic(name, 0, expected))
            else:
                topics.append(Topic(name, there.partitions, expected, there.leaderless, there.short))
        return Topics(tuple(topics), found.brokers)

    def _settlement(self, found: BrokerLook) -> Lag:
        ends = found.ends.get(self._names.submitted, {})
        lows = found.lows.get(self._names.submitted, {})
        return self._lag(
            "settlement", self._names.submitted, {p: found.committed.get(p, lows.get(p, 0)) for p in ends}, ends
        )

    def _follower(self, role: str, at: Mapping[int, int], found: BrokerLook) -> Lag:
        topic = self._names.state if role == "sink-redis" else self._names.journal
        ends = found.ends.get(topic, {})
        if role.startswith("webhooks-"):  # of several each has partitions of its own
            ends = {p: end for p, end in ends.items() if p in at}
        return self._lag(role, topic, {p: at.get(p, 0) for p in ends}, ends)

    def _lag(self, role: str, topic: str, at: Mapping[int, int], ends: Mapping[int, int]) -> Lag:
        records = {p: max(0, end - at[p]) for p, end in ends.items()}
        rate, inflow = self._paces.setdefault(role, _Pace()).add(sum(at.values()), sum(ends.values()))
        seconds = 0.0
        if any(records.values()):
            peek = self._peeks.get(role)
            if peek is None:
                peek = self._peeks[role] = Peek(self._kafka, topic)
            waiting = peek.waiting(at, ends, _PEEK_S, count=role == "settlement")
            records |= {p: w.records for p, w in waiting.items() if w.records is not None}
            known = _oldest_s(waiting)
            unread = any(n and p not in waiting for p, n in records.items())
            seconds = None if known is None and unread else known or 0.0  # type: ignore[assignment]
        return Lag(role, records, seconds, rate, inflow, _to_zero_s(sum(records.values()), rate, inflow))

    def _dead(self, found: BrokerLook) -> DeadLetters:
        ends = found.ends.get(self._names.dead, {})
        lows = found.lows.get(self._names.dead, {})
        if not ends:
            return DeadLetters(unknown=f"topic {self._names.dead} does not exist")
        if self._letters is None:
            self._letters = Letters(self._kafka, self._names)
        return _summed(self._letters.look(lows, ends), sum(ends[p] - lows.get(p, 0) for p in ends))

    def close(self) -> None:
        """Ends the clients."""
        for client in (*self._peeks.values(), self._letters):
            if client is not None:
                with suppress(Exception):  # a client that cannot be closed is of no more use anyway
                    client.close()


def _oldest_s(waiting: Mapping[int, Waiting]) -> float | None:
    """Seconds since the broker took the oldest of what waits; None when nothing does."""
    first = min((w.first_ms for w in waiting.values() if w.first_ms is not None), default=None)
    return None if first is None else round(max(0.0, time.time() - first / 1000), 2)


def _to_zero_s(records: int, rate: float | None, inflow: float | None) -> float | None:
    if not records:
        return 0.0
    if rate is None or inflow is None or rate <= inflow:
        return None
    return round(records / (rate - inflow), 1)


def _summed(found: LettersLook, total: int) -> DeadLetters:
    letters = found.hour
    now_ms = int(time.time() * 1000)
    recent = [x for x in letters if now_ms - x.at_ms <= HALF_MINUTE_MS]
    sample = recent or letters[-_NEWEST:]
    newest: Any = letters[-1] if letters else None
    return DeadLetters(
        total, len(letters), len(recent), found.complete,
        f"{newest.partition}:{newest.offset}" if newest else "", newest.at_ms if newest else None,
        newest.reason if newest else "",
        dict(Counter(x.key for x in sample).most_common(5)), dict(Counter(x.reason for x in sample).most_common(5)),
    )  # fmt: skip
