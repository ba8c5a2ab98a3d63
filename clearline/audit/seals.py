"""The seals beside the journal: contiguous, each naming the one before, each root and chain head as the journal has it.

The root is computed from its definition over the leaves of one stretch (at most 65,536 hashes, 2 MB), not with what the
sealer uses. What is not sealed yet is counted, not judged: the minute that goes on never is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, NamedTuple

from clearline.audit.verdict import Finding
from clearline.audit.views import SEALS, Log
from schemas.codec import CHAIN_BYTES, HEADER_BYTES, UndecodableError
from schemas.merkle import DIGEST_BYTES, leaf, root
from schemas.records import Seal
from streams.reader import LogRecord

SEALED_RECORDS_MAX = 65_536
SEALED_WITHIN_MS = 5 * 60_000  # a sealer that runs needs two minutes at the most
WHY = ("minute", "day_close", "size")

Decode = Callable[[bytes | None], Any]


class _Booked(NamedTuple):
    """What is kept of the last record that went by."""

    sequence: int
    booked_at: int
    chain: bytes


class SealsCheck:
    """Goes along one partition's journal, record by record. Make it before the journal's end is looked at."""

    def __init__(self, partition: int, log: Log, decode: Decode, finding: Finding) -> None:
        self.partition = partition
        self.notes: list[str] = []
        self._decode, self._f = decode, finding
        start, end = log.span(SEALS, partition)
        self._raw = log.read(SEALS, partition, start, end)
        self._previous = bytes(DIGEST_BYTES)
        self._sealed = 0  # last sequence that the seals so far cover
        self._leaves: list[bytes] = []
        self._first_booked_at = 0
        self._last = _Booked(0, 0, bytes(CHAIN_BYTES))
        self._first_unsealed: _Booked | None = None
        self._gap_before = ""  # the seal before which a gap was noted
        self._seals = self._in_order()
        self._seal = next(self._seals, None)

    # ---- the seals by themselves -------------------------------------------------------------------------------------

    def _in_order(self) -> Iterator[tuple[str, Seal]]:
        """The seals that continue from the one before; what does not is noted and left out."""
        for raw in self._raw:
            at = f"seals[{self.partition}] offset {raw.offset}"
            seal = self._read(at, raw)
            if seal is None:
                continue
            at = f"{at} (sequence {seal.first_sequence} to {seal.last_sequence})"
            self._f.count("seals")
            if seal.previous != self._previous:
                self._f.differ(f"{at}: does not name the seal before it")
            self._previous = sha256((raw.value or b"")[HEADER_BYTES:]).digest()
            if seal.partition != self.partition:
                self._f.differ(f"{at}: is of partition {seal.partition}")
            if seal.why not in WHY:
                self._f.differ(f"{at}: says it was due by {seal.why!r}")
            if not 0 < seal.last_sequence - seal.first_sequence + 1 <= SEALED_RECORDS_MAX:
                self._f.differ(f"{at}: covers {seal.last_sequence - seal.first_sequence + 1} records")
                continue
            if seal.first_sequence <= self._sealed:
                self._f.differ(f"{at}: a fork: sequence {self._sealed} was the last one sealed before it")
                continue
            if seal.first_sequence != self._sealed + 1:
                self._f.differ(f"{at}: a gap: sequence {self._sealed} was the last one sealed before it")
            self._sealed = seal.last_sequence
            yield at, seal

    def _read(self, at: str, raw: LogRecord) -> Seal | None:
        try:
            found = self._decode(raw.value)
        except UndecodableError as e:
            self._f.differ(f"{at} does not decode: {e}")
            return None
        if not isinstance(found, Seal):
            self._f.differ(f"{at} is a {type(found).__name__}, not a seal")
            return None
        return found

    # ---- beside the journal ------------------------------------------------------------------------------------------

    def record(self, sequence: int, booked_at: int, value: bytes, closes: bool) -> None:
        """The next record of the journal, as it came. `closes`: it closed a business day, so its seal ends with it."""
        self._last = _Booked(sequence, booked_at, value[-CHAIN_BYTES:])
        while self._seal is not None and self._seal[1].last_sequence < sequence:
            self._f.differ(f"{self._seal[0]}: the journal has no record with its last sequence")
            self._next()
        if self._seal is None:
            self._f.count("not_sealed_yet")
            self._first_unsealed = self._first_unsealed or self._last
            return
        at, seal = self._seal
        if sequence < seal.first_sequence:
            if at != self._gap_before:  # once for the stretch
                self._f.differ(
                    f"partition {self.partition} sequence {sequence}: is under no seal, and {at} is after it"
                )
            self._gap_before = at
            return
        if not self._leaves:
            self._first_booked_at = booked_at
        if len(self._leaves) < SEALED_RECORDS_MAX:  # more of them are in it only when sequences repeat
            self._leaves.append(leaf(value[HEADER_BYTES:]))
        if (sequence == seal.last_sequence and seal.why == "day_close") != closes:
            what = "closed a day" if closes else "closed no day"
            self._f.differ(f"{at}: was due by {seal.why!r}, and the record at sequence {sequence} {what}")
        if sequence == seal.last_sequence:
            self._compare(at, seal)
            self._next()

    def _next(self) -> None:
        self._leaves = []
        self._seal = next(self._seals, None)

    def _compare(self, at: str, seal: Seal) -> None:
        count = seal.last_sequence - seal.first_sequence + 1
        self._f.count("records", count)
        if len(self._leaves) != count:
            self._f.differ(f"{at}: the journal has {len(self._leaves)} records there")
        if root(self._leaves) != seal.root:
            self._f.differ(f"{at}: the root is not that of the journal's records")
        if seal.chain != self._last.chain:
            self._f.differ(f"{at}: the chain head is not that of the journal")
        if (seal.first_booked_at, seal.last_booked_at) != (self._first_booked_at, self._last.booked_at):
            self._f.differ(f"{at}: the times are not those of its first and last record")

    def close(self, now_ms: int | None) -> None:
        """The end of the journal, at this time; None: when its last record was booked. Says what should be sealed."""
        while self._seal is not None:
            self._f.differ(f"{self._seal[0]}: the journal ends at sequence {self._last.sequence}")
            self._next()
        self._f.count("not_sealed_yet", 0)
        first = self._first_unsealed
        if first is not None and (age_ms := (now_ms or self._last.booked_at) - first.booked_at) > SEALED_WITHIN_MS:
            self.notes.append(
                f"partition {self.partition}: the records from sequence {first.sequence} on are not sealed, and the "
                f"first of them was booked {age_ms // 60_000} minutes ago: does the sealer run?"
            )
