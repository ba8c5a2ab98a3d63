"""A receipt: proof that one record stands in the journal, which a partner checks without us (docs/check_receipt.py).

It holds the record's own bytes, the seal that covers it, and the inclusion proof that leads from one to the other. The
record is looked up in ClickHouse, and what ClickHouse does not have yet is looked for in the journal itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from clearline.audit.views import JOURNAL, SEALS, Log
from processors.finality import speaks_for_key
from schemas.codec import HEADER_BYTES, schema_of
from schemas.errors import BadInputError, DifferenceFoundError, InvariantError
from schemas.identity import BANK, command_id, partition_of, root_of
from schemas.merkle import leaf, path, root_from_path
from schemas.records import JournalRecord, Seal
from streams.reader import LogRecord

FORMAT = "clearline-receipt-1"
_ID_END = HEADER_BYTES + 16
_OFFSETS_OF_A_SEAL = 2  # itself and the marker of its Kafka transaction
_SCHEMA_KEYS = ("type", "name", "fields", "items", "values", "size", "symbols")

Decode = Callable[[bytes | None], Any]
OffsetAt = Callable[[str, int, int], int]  # topic, partition, time in ms UTC: first offset that is not before it


class Wanted(NamedTuple):
    """Whose record is looked for. `partner_id` and `idempotency_key` may be empty when only the id is known."""

    command_id: bytes
    partner_id: str = ""
    idempotency_key: str = ""

    @classmethod
    def of(cls, partner_id: str, idempotency_key: str, hex_id: str) -> Wanted:
        """From what was typed. Raises BadInputError."""
        if hex_id:
            if partner_id or idempotency_key:
                raise BadInputError("give PARTNER and KEY, or --id, not both")
            try:
                found = bytes.fromhex(hex_id)
            except ValueError:
                found = b""
            if len(found) != 16:
                raise BadInputError(f"--id is a command id of 32 hexadecimal digits; {hex_id!r} is none")
            return cls(found)
        if not partner_id or not idempotency_key:
            raise BadInputError("give PARTNER and KEY, or --id")
        return cls(command_id(partner_id, idempotency_key), partner_id, idempotency_key)

    def partitions(self, count: int) -> list[list[int]]:
        """Where its record is, and if it is not there, where else: a control command goes to what it changes."""
        everywhere = list(range(count))
        if not self.partner_id or root_of(self.partner_id) == BANK:
            return [everywhere]
        home = partition_of(self.partner_id, count)
        return [[home], [p for p in everywhere if p != home]]

    def __str__(self) -> str:
        return f"{self.partner_id} {self.idempotency_key}" if self.partner_id else self.command_id.hex()


class Place(NamedTuple):
    """A journal record: its partition and offset, and what tells the final outcome from the others."""

    partition: int
    offset: int
    sequence: int
    outcome: str
    reason: str
    command: str


def final(places: Iterable[Place]) -> Place | None:
    """Of all records of one command the one that says what became of it, the newest if its key was used again.

    A repeat, another payload under the key and the start of a transaction between partitions are not final. Of a
    command that went to several partitions it is the record in the first of them.
    """
    done = [
        p
        for p in places
        if speaks_for_key(p.outcome, p.reason) or (p.outcome == "applied" and p.command != "Transaction")
    ]
    return max(done, key=lambda p: (-p.partition, p.sequence), default=None)


def find(log: Log, decode: Decode, wanted: Wanted, stored: Iterable[Place], starts: dict[int, int]) -> list[Place]:
    """The records of the command: those that are known already, and when none of them is final, from the journal.

    `starts`: from which offset of each partition the journal is read; the whole of one that is not named.
    """
    found = list(stored)
    for partitions in wanted.partitions(log.partitions):
        if final(found) is None:
            found += _in_journal(log, decode, wanted, {p: starts.get(p, 0) for p in partitions})
    return found


def _in_journal(log: Log, decode: Decode, wanted: Wanted, starts: dict[int, int]) -> Iterator[Place]:
    """The records of the command from these offsets on, by the id with which each record begins."""
    for p, start in starts.items():
        low, end = log.span(JOURNAL, p)
        for raw in log.read(JOURNAL, p, max(low, start), end):
            if raw.value is not None and raw.value[HEADER_BYTES:_ID_END] == wanted.command_id:
                r: JournalRecord = decode(raw.value)
                yield Place(p, raw.offset, r.sequence, r.outcome, r.reason, r.command)


class Receipts:
    """Makes receipts from a log. `schema_of`: the schema, as a document, with which a journal value was written."""

    def __init__(
        self, world: str, log: Log, decode: Decode, offset_at: OffsetAt, schema_of: Callable[[bytes], Any]
    ) -> None:
        self._world = world
        self._log, self._decode = log, decode
        self._offset_at, self._schema_of = offset_at, schema_of

    def receipt(self, place: Place) -> dict[str, Any]:
        """The receipt of the record at this place.

        Raises DifferenceFoundError when it is under no seal yet, and when its seal does not fit the journal.
        """
        p = place.partition
        raw = next(iter(self._log.read(JOURNAL, p, place.offset, place.offset + 1)), None)
        if raw is None or raw.value is None:
            raise DifferenceFoundError(f"the journal has no record at {p}:{place.offset}: run `clearline verify`")
        record: JournalRecord = self._decode(raw.value)
        sealed = self._seal_over(p, record)
        if sealed is None:
            raise DifferenceFoundError(
                f"the record at partition {p}, sequence {record.sequence} is not sealed yet: seals are made each "
                "minute, so try again in one or two; if it stays so, the sealer does not run (`clearline status`)"
            )
        seal, body = sealed
        leaves = self._leaves(seal)
        index, count = record.sequence - seal.first_sequence, seal.last_sequence - seal.first_sequence + 1
        proof = path(leaves, index) if len(leaves) == count else []
        if root_from_path(leaf(raw.value[HEADER_BYTES:]), index, count, proof) != seal.root:
            raise DifferenceFoundError(
                f"the seal over partition {p}, sequence {seal.first_sequence} to {seal.last_sequence} does not fit the "
                "journal: run `clearline verify`"
            )
        return {
            "receipt": FORMAT,
            "world": self._world,
            "transaction": readable(record),
            "partition": p,
            "sequence": record.sequence,
            "index": index,
            "record": raw.value[HEADER_BYTES:].hex(),
            "path": [h.hex() for h in proof],
            "seal": {k: v.hex() if isinstance(v, bytes) else v for k, v in msgspec.structs.asdict(seal).items()},
            "seal_body": body.hex(),
            "schema": bare(self._schema_of(raw.value)),
            "seal_schema": bare(schema_of("Seal")),
        }

    def _seal_over(self, p: int, record: JournalRecord) -> tuple[Seal, bytes] | None:
        """The seal that covers a record. It is looked for by time, and from the start when time misleads."""
        start, end = self._log.span(SEALS, p)
        near = max(start, self._offset_at(SEALS, p, record.booked_at) - _OFFSETS_OF_A_SEAL)
        for begin in dict.fromkeys((near, start)):
            seen = False
            for raw in self._log.read(SEALS, p, begin, end):
                seal = self._decode(raw.value)
                if not isinstance(seal, Seal) or raw.value is None:
                    raise DifferenceFoundError(f"seals {p}:{raw.offset} is no seal: run `clearline verify`")
                if seal.first_sequence <= record.sequence <= seal.last_sequence:
                    return seal, raw.value[HEADER_BYTES:]
                if seal.first_sequence > record.sequence:
                    break
                seen = True
            if seen:
                return None
        return None

    def _leaves(self, seal: Seal) -> list[bytes]:
        """The leaf hashes of what a seal covers, as the journal has it now."""
        p = seal.partition
        low, end = self._log.span(JOURNAL, p)
        near = max(low, self._offset_at(JOURNAL, p, seal.first_booked_at))
        for begin in dict.fromkeys((near, low)):
            leaves: list[bytes] = []
            for raw in self._log.read(JOURNAL, p, begin, end):
                sequence = self._sequence(raw)
                if sequence > seal.last_sequence or (not leaves and sequence > seal.first_sequence):
                    break
                if sequence >= seal.first_sequence:
                    leaves.append(leaf((raw.value or b"")[HEADER_BYTES:]))
                if sequence == seal.last_sequence:
                    return leaves
        return []

    def _sequence(self, raw: LogRecord) -> int:
        record = self._decode(raw.value)
        if not isinstance(record, JournalRecord):
            raise InvariantError(f"journal {raw.partition}:{raw.offset} is no journal record", raw.partition)
        return record.sequence


def readable(r: JournalRecord) -> dict[str, Any]:
    """What the record says of the transaction. Amounts are minor units of their currency, times ms since 1970 UTC."""
    return {
        "partner_id": r.partner_id,
        "idempotency_key": r.idempotency_key,
        "outcome": r.outcome,
        "reason": r.reason,
        "booked_at": r.booked_at,
        "postings": [
            {"account_id": p.account_id, "side": p.side, "amount": p.amount, "currency": p.currency} for p in r.postings
        ],
    }


def bare(schema: Any) -> Any:
    """A schema with only what decoding needs: no documentation, defaults or logical types."""
    if isinstance(schema, list):
        return [bare(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    return {k: bare(v) for k, v in schema.items() if k in _SCHEMA_KEYS}


def to_text(receipt: dict[str, Any]) -> str:
    """The receipt as it is handed over: JSON, the long parts on lines of their own."""
    return json.dumps(receipt, indent=1, ensure_ascii=False) + "\n"
