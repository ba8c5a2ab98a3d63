"""From decoded journal columns to the columns of the tables, and what must be found when they are read back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from schemas.codec import schema_of
from sinks.columnar import Ints, JournalColumns, Opened, scalar_long
from sinks.native_block import Coded, Texts, objects

Columns = dict[str, Any]

_OUTCOMES = next(f["type"]["symbols"] for f in schema_of("JournalRecord")["fields"] if f["name"] == "outcome")
_OUTCOME_NAMES = [s.encode() for s in _OUTCOMES]
APPLIED = _OUTCOMES.index("applied")
SETTLED = _OUTCOMES.index("settled")
_ID_BYTES, _CHAIN_BYTES, _COUNTERS_BYTES = 16, 32, 64
_NO_CHANGE = frozenset({b"Transaction", b"Crossing", b"Tick"})


@dataclass(slots=True)
class JournalRows:
    """Decoded records with their place in the journal. `run` names the sink process that writes them."""

    topic: bytes
    run: int
    partition: Ints
    offset: Ints
    columns: JournalColumns
    _coded: dict[str, Coded] = field(default_factory=dict, repr=False)  # of all records, by name: made once

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def legs(self) -> Ints:
        """Number of postings of each record."""
        return self.columns.legs["count"]

    @property
    def pending(self) -> Ints:
        """Number of changes of what is pending of each record."""
        return self.columns.pending["count"]

    def months(self, rows: Any = slice(None)) -> Ints:
        """The month of booking of these records, as months since 1970: one insert may hold one month only."""
        booked_at: Ints = self.columns.numbers["booked_at"][rows]
        months: Ints = booked_at.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
        return months

    def place(self, rows: Ints) -> Columns:
        """The columns that say where a row comes from."""
        numbers = self.columns.numbers
        return {
            "topic": Coded([self.topic], np.zeros(len(rows), dtype=np.int64)),
            "partition": self.partition[rows].astype(np.uint16),
            "offset": self.offset[rows].astype(np.uint64),
            "source_offset": numbers["source_offset"][rows].astype(np.uint64),
            "sequence": numbers["sequence"][rows].astype(np.uint64),
            "booked_at": numbers["booked_at"][rows],
            "run": np.full(len(rows), self.run, dtype=np.uint64),
        }

    def text(self, name: str, rows: Ints) -> Texts:
        """A text of these records."""
        return self.columns.texts_at(self.columns.texts[name]).take(rows)

    def coded(self, name: str, rows: Ints) -> Coded:
        """A text of which a batch has few different ones."""
        if name not in self._coded:
            self._coded[name] = self.text(name, np.arange(len(self), dtype=np.int64)).coded()
        return self._coded[name].take(rows)

    def json(self, name: str, rows: Ints) -> Coded:
        """A map of these records as JSON texts, an empty map as an empty text. Each that repeats is made once."""
        maps = self.coded(name, rows).in_order()
        return Coded([_as_json(raw) for raw in maps.values], maps.codes)

    def command_id(self, rows: Ints) -> Texts:
        return self.columns.fixed_at("command_id", _ID_BYTES, rows)


def postings_block(j: JournalRows, records: Ints, skip: Ints) -> Columns:
    """The postings of these records, those of `skip` left out. Records without postings give none."""
    c = j.columns
    legs = _legs_of(c.legs["record"], j, records, skip)
    owner = c.legs["record"][legs]
    texts = {n: c.texts_at(span).take(legs) for n, span in c.leg_texts.items()}
    place = np.arange(len(legs), dtype=np.int64) * _COUNTERS_BYTES
    return {
        **j.place(owner),
        "line": c.legs["line"][legs].astype(np.uint16),
        "partner_id": j.coded("partner_id", owner),
        "account_id": texts["account_id"],
        "side_code": ((c.legs["side"][legs] >> 1) + 1).astype(np.uint8),
        "amount_in": c.legs["amount"][legs],
        "currency": texts["currency"].coded(),
        "counters": Texts(c.counters[legs].reshape(-1), place, place + _COUNTERS_BYTES),
        "product": j.coded("product", owner),
        "operation": j.coded("operation", owner),
        "reference": j.text("reference", owner),
        "command_id": j.command_id(owner),
        "value_day": c.numbers["value_date"][owner],
    }


def pending_block(j: JournalRows, records: Ints, skip: Ints) -> Columns:
    """What these records set aside and released, those of `skip` left out."""
    c = j.columns
    legs = _legs_of(c.pending["record"], j, records, skip)
    owner = c.pending["record"][legs]
    own_rows, back = np.unique(owner, return_inverse=True)
    texts = {n: c.texts_at(span).take(legs) for n, span in c.pending_texts.items()}
    opens = texts["hold_id"].of_size(_ID_BYTES) == j.command_id(owner).of_size(_ID_BYTES)
    lapses = np.array([_lapses(raw) for raw in j.text("changes", own_rows)], dtype=np.int64)
    return {
        **j.place(owner),
        "line": c.pending["line"][legs].astype(np.uint16),
        "partner_id": j.coded("partner_id", owner),
        "account_id": texts["account_id"],
        "side_code": ((c.pending["side"][legs] >> 1) + 1).astype(np.uint8),
        "change_in": c.pending["change"][legs],
        "currency": texts["currency"].coded(),
        "hold_id": texts["hold_id"],
        "expired": c.pending["expired"][legs].astype(np.uint8),
        "expires_at": np.where(opens, lapses[back], 0),
        "product": j.coded("product", owner),
        "operation": j.coded("operation", owner),
    }


def _legs_of(owners: Ints, j: JournalRows, records: Ints, skip: Ints) -> Ints:
    """The legs of these records, those of `skip` left out. `owners`: of which record each leg is."""
    wanted = np.zeros(len(j), dtype=bool)
    wanted[records] = True
    wanted[skip] = False
    return np.flatnonzero(wanted[owners])


def _lapses(raw: bytes) -> int:
    """When the hold that a record opens lapses, milliseconds UTC; 0 for never. `raw`: its changes."""
    return int(dict(map_items(raw)).get("expires_at", 0)) if b"expires_at" in raw else 0


def outcomes_block(j: JournalRows, rows: Ints) -> Columns:
    """One row for each of these records."""
    c = j.columns
    numbers = c.numbers
    return {
        **j.place(rows),
        "outcome": Coded(_OUTCOME_NAMES, numbers["outcome"][rows] >> 1),
        **{n: j.coded(n, rows) for n in ("command", "partner_id", "product", "operation", "reason")},
        **{n: j.text(n, rows) for n in ("idempotency_key", "reference", "subject_id")},
        "command_id": j.command_id(rows),
        "product_version": numbers["product_version"][rows].astype(np.uint32),
        "value_day": numbers["value_date"][rows],
        **{n: j.json(n, rows) for n in ("metadata", "detail", "changes")},
        "first_offset": numbers["first_offset"][rows],
        "legs": j.legs[rows].astype(np.uint16),
        "pending": j.pending[rows].astype(np.uint16),
        "chain": c.fixed_at("chain", _CHAIN_BYTES, rows),
    }


def changes_block(j: JournalRows, records: Ints, skip: Ints) -> Columns:
    """One row for each applied control command among these records, and one for each account that any of them opened
    on first use, as if it had been opened by a command; those of `skip` left out."""
    keep = np.setdiff1d(records, skip)
    control = control_rows(j, keep)
    opened = opened_in(j, keep)
    rows = np.concatenate([control, np.array([o.record for o in opened], dtype=np.int64)])
    raw, commands = j.text("changes", control), j.text("command", control)
    by_command = [dict(map_items(r)) if c == b"OpenAccount" else {} for r, c in zip(raw, commands, strict=True)]
    types = [o.get("type", "").encode() for o in by_command] + [o.type for o in opened]
    currencies = [o.get("currency", "").encode() for o in by_command] + [o.currency for o in opened]
    return {
        **j.place(rows),
        "command": objects([*commands, *(b"OpenAccount" for _ in opened)]),
        "partner_id": j.coded("partner_id", rows),
        "subject_id": objects([*j.text("subject_id", control), *(o.account_id for o in opened)]),
        "account_type": objects(types),
        "currency": objects(currencies),
        "changes": objects([*map(_as_json, raw), *(_terms(o) for o in opened)]),
    }


def _terms(o: Opened) -> bytes:
    """What an account was opened with, in the form of OpenAccount's changes."""
    limit = "" if o.min_available is None else str(o.min_available)
    terms = {"type": o.type.decode(), "currency": o.currency.decode(), "min_available": limit}
    return msgspec.json.encode({**terms, "credit_limit": str(o.credit_limit)})


def opened_in(j: JournalRows, records: Ints) -> list[Opened]:
    """The accounts that these records opened on first use, by record and name."""
    wanted = set(records.tolist()) if j.columns.opened else set()
    found = [o for o in j.columns.opened if o.record in wanted]
    return sorted(found, key=lambda o: (o.record, o.account_id))


def control_rows(j: JournalRows, records: Ints) -> Ints:
    """Those of these records that are applied control commands: not a transaction that went on elsewhere, no step of
    one, and no tick, which changes nothing."""
    applied: Ints = records[j.columns.numbers["outcome"][records] >> 1 == APPLIED]
    commands = j.coded("command", applied)
    changing = np.array([c not in _NO_CHANGE for c in commands.values], dtype=bool)
    out: Ints = applied[changing[commands.codes]]
    return out


@dataclass(frozen=True, slots=True)
class Expected:
    """What reading back must find for one partition's range: a count and three sums for each table."""

    partition: int
    first_offset: int
    last_offset: int
    first_sequence: int
    last_sequence: int
    outcomes: tuple[int, ...]  # rows, sum of sequence, of source_offset, of legs, of pending
    postings: tuple[int, ...]  # rows, sum of debits, of credits, of line
    pending: tuple[int, ...]  # rows, sum of changes of the debit side, of the credit side, of line
    changes: tuple[int, ...]  # rows, sum of sequence


def expectations(j: JournalRows, rows: Ints) -> Iterator[Expected]:
    """What must be in the store for these records, by partition."""
    c = j.columns
    numbers = c.numbers
    for p in np.unique(j.partition[rows]).tolist():
        own = rows[j.partition[rows] == p]
        mask = np.zeros(len(j), dtype=bool)
        mask[own] = True
        legs = np.flatnonzero(mask[c.legs["record"]])
        amount, debit = c.legs["amount"][legs], c.legs["side"][legs] == 0
        aside = np.flatnonzero(mask[c.pending["record"]])
        change, payer = c.pending["change"][aside], c.pending["side"][aside] == 0
        sequence = numbers["sequence"][own]
        changed = [*control_rows(j, own).tolist(), *(o.record for o in opened_in(j, own))]
        yield Expected(
            partition=p,
            first_offset=int(j.offset[own[0]]),
            last_offset=int(j.offset[own[-1]]),
            first_sequence=int(sequence[0]),
            last_sequence=int(sequence[-1]),
            outcomes=(
                len(own), int(sequence.sum()), int(numbers["source_offset"][own].sum()), int(j.legs[own].sum()),
                int(j.pending[own].sum()),
            ),
            postings=(
                len(legs), exact_sum(amount[debit]), exact_sum(amount[~debit]), int(c.legs["line"][legs].sum())
            ),
            pending=(
                len(aside), exact_sum(change[payer]), exact_sum(change[~payer]), int(c.pending["line"][aside].sum())
            ),
            changes=(len(changed), int(numbers["sequence"][np.array(changed, dtype=np.int64)].sum())),
        )  # fmt: skip


def together(found: Iterable[Expected]) -> list[Expected]:
    """What must be found of stretches that follow each other, each partition once."""
    out: dict[int, Expected] = {}
    for e in found:
        before = out.get(e.partition)
        if before is None:
            out[e.partition] = e
            continue
        out[e.partition] = replace(
            before, last_offset=e.last_offset, last_sequence=e.last_sequence,
            outcomes=_added(before.outcomes, e.outcomes), postings=_added(before.postings, e.postings),
            pending=_added(before.pending, e.pending), changes=_added(before.changes, e.changes),
        )  # fmt: skip
    return list(out.values())


def _added(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def exact_sum(values: Ints) -> int:
    """The sum of 64-bit numbers as it is, however large: numpy's own would wrap."""
    high, low = values >> 32, values & 0xFFFFFFFF
    return (int(high.sum()) << 32) + int(low.sum())


def map_items(raw: bytes) -> Iterator[tuple[str, str]]:
    """Keys and values of a map of strings in Avro bytes."""
    at = 0
    while True:
        count, at = scalar_long(raw, at)
        if count == 0:
            return
        for _ in range(count):
            size, at = scalar_long(raw, at)
            key = raw[at : at + size].decode()
            at += size
            size, at = scalar_long(raw, at)
            yield key, raw[at : at + size].decode()
            at += size


def _as_json(raw: bytes) -> bytes:
    """A map of strings in Avro bytes as JSON; an empty one as an empty text."""
    return b"" if raw == b"\0" else msgspec.json.encode(dict(map_items(raw)))
