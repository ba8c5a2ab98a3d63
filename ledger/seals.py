"""When a stretch of a partition's journal is sealed, and what the seal says.

Seals follow each other without gap or overlap: each begins one sequence after the last, and names the seal before it.
A seal ends with the minute (of `booked_at`, so a sealer that was away for a day makes the same seals as one that was
not), at the close of a business day, and when it covers as many records as one seal may. Only hashes are kept of what
is not sealed yet: one per level of the tree.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Protocol

from schemas.codec import CHAIN_BYTES
from schemas.errors import InvariantError
from schemas.merkle import DIGEST_BYTES, Frontier, leaf
from schemas.records import Seal

SEAL_RECORDS_MAX = 65_536
MINUTE_MS = 60_000
CLOCK_SEALS_APART_MS = 5_000  # a clock that is ahead makes a seal every five seconds, not at every look
DAY_CLOSE = "CloseDay"  # the command at which a seal ends
FIRST_PREVIOUS = bytes(DIGEST_BYTES)


class Sealable(Protocol):
    """What sealing looks at in a journal record."""

    @property
    def outcome(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def booked_at(self) -> int: ...
    @property
    def command(self) -> str: ...


class Sealing:
    """The end of one partition's journal that is not sealed yet.

    `last`: the last seal and its Avro body as it is stored, None for a partition without any. `body_of`: encodes one.
    """

    __slots__ = (
        "_body_of", "_chain", "_first_booked_at", "_frontier", "_last_booked_at", "_previous", "_clock_sealed_ms",
        "partition", "sealed",
    )  # fmt: skip

    def __init__(self, partition: int, last: tuple[Seal, bytes] | None, body_of: Callable[[Seal], bytes]) -> None:
        self.partition = partition
        self.sealed = last[0].last_sequence if last else 0
        self._chain = last[0].chain if last else bytes(CHAIN_BYTES)
        self._previous = sha256(last[1]).digest() if last else FIRST_PREVIOUS
        self._body_of = body_of
        self._frontier = Frontier()
        self._first_booked_at = self._last_booked_at = 0
        self._clock_sealed_ms = 0

    @property
    def unsealed(self) -> int:
        """Records taken since the last seal."""
        return self._frontier.count

    def take(self, record: Sealable, value: bytes, now_ms: int) -> list[Seal]:
        """The seals that the next record of the journal makes due, most often none; two when it begins a minute and
        closes a day. `value` is the record without its wire header.

        Records before the last seal are passed by. Raises InvariantError when the journal is not the one that was
        sealed: a gap, or a chain that does not continue.
        """
        if record.sequence <= self.sealed:
            if record.sequence == self.sealed and value[-CHAIN_BYTES:] != self._chain:
                self._refuse(f"the record at sequence {record.sequence} is not the one under the last seal")
            return []
        if record.sequence != self.sealed + self.unsealed + 1:
            self._refuse(f"sequence {record.sequence} follows {self.sealed + self.unsealed} in the journal")
        if sha256(self._chain + value[:-CHAIN_BYTES]).digest() != value[-CHAIN_BYTES:]:
            self._refuse(f"the chain does not continue at sequence {record.sequence}")
        seals = []
        if self.unsealed and record.booked_at // MINUTE_MS > self._first_booked_at // MINUTE_MS:
            seals.append(self._seal("minute", now_ms))
        if not self.unsealed:
            self._first_booked_at = record.booked_at
        self._frontier.add(leaf(value))
        self._chain = value[-CHAIN_BYTES:]
        self._last_booked_at = record.booked_at
        if record.command == DAY_CLOSE and record.outcome == "applied":
            seals.append(self._seal("day_close", now_ms))
        elif self.unsealed == SEAL_RECORDS_MAX:
            seals.append(self._seal("size", now_ms))
        return seals

    def at_end(self, now_ms: int) -> list[Seal]:
        """The seal that the clock makes due when no further record is there: the minute of the first record is over."""
        over = self.unsealed and now_ms // MINUTE_MS > self._first_booked_at // MINUTE_MS
        if not over or 0 <= now_ms - self._clock_sealed_ms < CLOCK_SEALS_APART_MS:
            return []
        self._clock_sealed_ms = now_ms
        return [self._seal("minute", now_ms)]

    def _seal(self, why: str, now_ms: int) -> Seal:
        seal = Seal(
            self.partition, self.sealed + 1, self.sealed + self.unsealed, self._first_booked_at, self._last_booked_at,
            self._frontier.root(), self._chain, self._previous, now_ms, why,
        )  # fmt: skip
        self.sealed = seal.last_sequence
        self._previous = sha256(self._body_of(seal)).digest()
        self._frontier = Frontier()
        return seal

    def _refuse(self, what: str) -> None:
        raise InvariantError(f"partition {self.partition}: {what}: run `clearline verify`", self.partition)
