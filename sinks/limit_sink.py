"""Limits and what was used of them into ClickHouse: the rows `l:` and `u:` of `ledger.state`, each version as it comes.

A row of the state belongs to a batch of the settlement, which ends with the row `meta`. Only whole batches are handed
on, so what is stored is always what the state was at the end of one; and with them goes a `place`, the end of the last
one, by which a report knows up to where it may say anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from schemas.errors import InvariantError
from schemas.identity import owner_of
from schemas.records import LimitState, PartitionState, UsageState
from sinks.log_sink import Logged, LogSink, objects

META_KEY = b"meta"
LIMIT, USAGE, PLACE = "limit", "usage", "place"
ROWS_MAX = 20_000  # records that are held back before they are due
_KINDS = {b"l:": LIMIT, b"u:": USAGE}


class Line(NamedTuple):
    """One window and currency. `start`: number of the window; `transactions`, `amount`: -1 for any."""

    window: str = ""
    currency: str = ""
    start: int = 0
    transactions: int = 0
    amount: int = 0


class Version(NamedTuple):
    """One record as it is stored. No lines: from here on the subject has none; a place has one that is empty."""

    kind: str
    level: str
    subject_id: str
    partner_id: str
    lines: tuple[Line, ...]
    source_offset: int
    sequence: int = 0


class LimitSink(LogSink):
    """Writes limits, usages and places. `topic`: name and id of ledger.state; records are Version."""

    table = "limit_rows"
    what = "limits"
    once = "offset, line"
    by_month = True

    def rows_of(self, x: Logged) -> int:
        """One for each of its lines, one when it has none."""
        return max(1, len(x.record.lines))

    def columns(self, records: Sequence[Logged]) -> dict[str, Any]:
        """The lines, each with its place in its record."""
        rows = [(i, x, x.record, line) for x in records for i, line in enumerate(x.record.lines or (Line(),))]
        texts = ("kind", "level", "subject_id", "partner_id")
        return {
            "line": np.array([i for i, *_ in rows], np.uint16),
            **{n: objects([getattr(v, n).encode() for _, _, v, _ in rows]) for n in texts},
            "removed": np.array([not v.lines for _, _, v, _ in rows], np.uint8),
            **{n: objects([getattr(line, n).encode() for *_, line in rows]) for n in ("window", "currency")},
            **{n: np.array([getattr(line, n) for *_, line in rows], np.int64) for n in Line._fields[2:]},
            **{n: np.array([getattr(v, n) for _, _, v, _ in rows], np.uint64) for n in ("source_offset", "sequence")},
            "stored_at": np.array([x.at_ms for _, x, _, _ in rows], np.int64),
        }


class Gathering:
    """What came of `ledger.state` and is not stored yet. `known`: the partitions that have rows already.

    `decode`: makes a record of bytes. `interval_s`: how long limits may wait; `places_s`: how long a place alone.
    """

    def __init__(
        self, known: Sequence[int], decode: Callable[[bytes], Any], interval_s: float, places_s: float
    ) -> None:
        self._placed = set(known)
        self._decode = decode
        self._interval_s, self._places_s = interval_s, places_s
        self._open: dict[int, list[Logged]] = {}  # of the batch whose end has not come
        self._whole: dict[int, list[Logged]] = {}
        self._places: dict[int, Logged] = {}
        self._since = -1.0

    def take(self, partition: int, offset: int, at_ms: int, key: bytes, value: bytes | None) -> None:
        """Takes one record of the topic, in its order. Raises InvariantError when it is not what its key says."""
        kind = _KINDS.get(key[:2])
        if kind is not None:
            version = _version(kind, key, None if value is None else self._decode(value))
            self._open.setdefault(partition, []).append(Logged(partition, offset, version, at_ms))
        elif key == META_KEY and value is not None:
            head = self._decode(value)
            if not isinstance(head, PartitionState):
                raise InvariantError(f"ledger.state: key {key!r} holds a {type(head).__name__}")
            self._end(partition, offset, at_ms, head)

    def due(self, now_s: float) -> list[Logged]:
        """What is to be stored now, in the order of the topic; empty when nothing is."""
        if not self._places and not self._whole:
            return []
        if self._since < 0:
            self._since = now_s
        count = sum(map(len, self._whole.values()))
        if count < ROWS_MAX and now_s - self._since < (self._interval_s if count else self._places_s):
            return []
        out: list[Logged] = []
        for p in sorted({*self._whole, *self._places}):
            out += self._whole.get(p, ())
            if p in self._places:
                out.append(self._places[p])
        self._places, self._whole, self._since = {}, {}, -1.0
        return out

    def _end(self, partition: int, offset: int, at_ms: int, head: PartitionState) -> None:
        last = head.next_offset - 1
        rows = self._open.pop(partition, [])
        whole = self._whole.setdefault(partition, []) if rows else []
        # A row that was deleted says nothing but its key: it counts from the end of its batch on.
        whole += [x if x.record.lines else x._replace(record=x.record._replace(source_offset=last)) for x in rows]
        place = Logged(partition, offset, Version(PLACE, "", "", "", (Line(),), last, head.sequence), at_ms)
        if partition not in self._placed:  # the first one says from where on limits are known
            self._placed.add(partition)
            self._whole.setdefault(partition, []).append(place)
        else:
            self._places[partition] = place


def _version(kind: str, key: bytes, record: Any) -> Version:
    level, _, subject = key[2:].decode().partition(":")
    wanted = LimitState if kind == LIMIT else UsageState
    if record is not None and not isinstance(record, wanted):
        raise InvariantError(f"ledger.state: key {key!r} holds a {type(record).__name__}")
    partner = {"partner": subject, "account": owner_of(subject) if level == "account" else ""}.get(level, "")
    if level == "product" and kind == USAGE:
        partner, _, subject = subject.partition(" ")
    lines: tuple[Line, ...] = ()
    if isinstance(record, LimitState):
        lines = tuple(Line(x.window, x.currency, 0, _or_any(x.count_max), _or_any(x.amount_max)) for x in record.limits)
    elif isinstance(record, UsageState):
        lines = tuple(Line(u.window, u.currency, u.start, u.count, u.amount) for u in record.used)
    return Version(kind, level, subject, partner, lines, record.source_offset if record is not None else 0)


def _or_any(most: int | None) -> int:
    return -1 if most is None else most
