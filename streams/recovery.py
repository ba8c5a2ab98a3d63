"""Takes over a partition: from the compacted state topic the accounts, partners and open holds, from the journal the
idempotency keys and what the settled transactions did.

The order matters. The caller has asked for the committed offsets first, which waits until no Kafka transaction of a
predecessor is open; then everything below the high watermarks is stable. The group may not be ahead of the stored next
offset: both were written in one Kafka transaction, so then something else wrote here, and the partition must not run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from ledger.accounts import Account
from ledger.entries import HOLD, OTHER, EntryLog, Leg, Settled, kind_of
from ledger.holds import Hold
from ledger.keys import KeyIndex
from ledger.state import Head, PartitionBase, Partner
from schemas.codec import CHAIN_BYTES, HEADER_BYTES, Codec, schema_of
from schemas.errors import InvariantError
from schemas.reader import NotThisWayError, compile_reader
from schemas.records import AccountState, HoldState, JournalRecord, PartitionState, PartnerState, Posting
from streams.clients import KafkaConfig
from streams.reader import end_offsets, offsets_at, read_to_end
from streams.topics import Topics

_CHUNK = 20_000
_ID_END = HEADER_BYTES + 16
_DIGEST_END = HEADER_BYTES + 24


class Remembered(msgspec.Struct, gc=False):
    """What the memory of settled transactions takes of a journal record; the fields are the record's."""

    command_id: bytes
    binds_key: bool
    outcome: str
    source_offset: int
    booked_at: int
    command: str
    product: str
    operation: str
    postings: tuple[Posting, ...]
    pending: tuple[Released, ...]
    original_offset: int


class Released(msgspec.Struct, gc=False):
    """What it takes of a pending leg."""

    hold_id: bytes
    account_id: str
    side: str
    change: int
    expired: bool


_read_memory = compile_reader(
    schema_of("JournalRecord"),
    {"JournalRecord": Remembered, "PostedLeg": Posting, "PendingLeg": Released},
    only={
        "JournalRecord": Remembered.__struct_fields__,
        "PostedLeg": ("account_id", "side", "amount"),
        "PendingLeg": Released.__struct_fields__,
    },
)


def _memory_of(value: bytes, codec: Codec) -> JournalRecord | Remembered:
    """A journal record as far as it is remembered; one of another version of the schema as a whole."""
    if value[:HEADER_BYTES] == codec.journal_header:
        with suppress(NotThisWayError, IndexError, KeyError, UnicodeDecodeError):
            found: Remembered = _read_memory(value, HEADER_BYTES)
            return found
    record: JournalRecord = codec.decode(value)
    return record


class PartitionLedger:
    """What a worker holds of one partition: the committed state and the remembered keys."""

    __slots__ = ("base", "keys", "partition")

    def __init__(self, partition: int, window_ms: int) -> None:
        self.partition = partition
        self.base = PartitionBase(window_ms)
        self.keys = KeyIndex(window_ms)


def recover(
    kafka: KafkaConfig,
    topics: Topics,
    codec: Codec,
    committed: Mapping[int, int],
    window_ms: int,
    *,
    live: bool = False,
) -> list[PartitionLedger]:
    """The ledgers of these partitions. `committed`: the group's offset of each, below 0 for none.

    `live`: somebody else settles there meanwhile, so the journal may end behind the state; only to look at.

    Raises InvariantError when state, journal and offsets do not belong together.
    """
    ledgers = {p: PartitionLedger(p, window_ms) for p in committed}
    _restore_state(kafka, topics, codec, ledgers)
    for p, offset in committed.items():
        head = ledgers[p].base.head
        # The state is what counts. A group's offsets expire when it sleeps for a week, and a broker that comes back
        # from a kill can answer with old ones (Kafka 4.3.1 did, 70,000 commands behind). But the group can never be
        # ahead of the state that was committed with its offsets.
        if offset > head.next_offset:
            raise InvariantError(
                f"partition {p}: the state stands at offset {head.next_offset}, the group at {offset}; "
                "they are written together, so something else wrote here: run `clearline verify`",
                p,
            )
    _restore_window(kafka, topics, codec, ledgers, live)
    return list(ledgers.values())


def _restore_state(kafka: KafkaConfig, topics: Topics, codec: Codec, ledgers: dict[int, PartitionLedger]) -> None:
    """Reads the state topic to its end; of several records of one key the highest offset counts, not the last."""
    holds: dict[int, dict[bytes | None, HoldState]] = {p: {} for p in ledgers}
    for r in read_to_end(kafka, topics.state, dict.fromkeys(ledgers, 0)):
        base = ledgers[r.partition].base
        key = (r.key or b"").decode()
        if r.value is None:  # what is closed or lifted: its row is deleted
            holds[r.partition].pop(r.key, None)
            base.put_row(key, None)
            continue
        state = codec.decode(r.value)
        if isinstance(state, PartitionState):
            if state.next_offset >= base.head.next_offset:
                base.head = Head.from_record(state)
        elif isinstance(state, AccountState):
            known = base.accounts.get(state.account_id)
            if known is None or state.source_offset >= known.offset:
                base.accounts[state.account_id] = Account.from_state(state)
        elif isinstance(state, HoldState):
            held = holds[r.partition].get(r.key)
            if held is None or state.source_offset >= held.source_offset:
                holds[r.partition][r.key] = state
        elif not isinstance(state, PartnerState):
            row = base.rows.get(key)
            if row is None or state.source_offset >= row.source_offset:  # type: ignore[attr-defined]
                base.put_row(key, state)
        else:
            partner = base.partners.get(state.partner_id)
            if partner is None or state.source_offset >= partner.offset:
                base.partners[state.partner_id] = Partner(
                    state.partner_id, state.name, state.state, state.source_offset
                )
    for p, found in holds.items():
        for row in found.values():
            ledgers[p].base.put_hold(Hold.from_state(row))


def _restore_window(
    kafka: KafkaConfig, topics: Topics, codec: Codec, ledgers: dict[int, PartitionLedger], live: bool
) -> None:
    """Reads the journal's last window: the keys that were bound, and what the settled transactions did."""
    since = {p: ledger.keys.oldest_ms(ledger.base.head.event_time) for p, ledger in ledgers.items()}
    columns: dict[int, tuple[list[bytes], list[bytes], list[int], list[int]]] = {p: ([], [], [], []) for p in ledgers}
    tails: dict[int, bytes] = {}
    recollections = {p: Recollection(ledger.base.entries) for p, ledger in ledgers.items()}
    for p, _, timestamp, _, value, _ in read_to_end(kafka, topics.journal, offsets_at(kafka, topics.journal, since)):
        assert value is not None
        tails[p] = value
        if timestamp < since[p]:
            continue
        record = _memory_of(value, codec)
        recollections[p].take(record)
        if value[_DIGEST_END]:
            ids, digests, offsets, times = columns[p]
            ids.append(record.command_id)
            digests.append(value[_ID_END:_DIGEST_END])
            offsets.append(record.source_offset)
            times.append(timestamp)
            if len(ids) >= 50_000:
                ledgers[p].keys.add(*columns[p])
                columns[p] = ([], [], [], [])
    for p, ledger in ledgers.items():
        recollections[p].done()
        ledger.keys.add(*columns[p])
        head = ledger.base.head
        if p in tails and tails[p][-CHAIN_BYTES:] != head.chain and not live:
            raise InvariantError(
                f"partition {p}: the journal's last record is not the chain head of the state at sequence "
                f"{head.sequence}: run `clearline verify`",
                p,
            )
    quiet = {p: x.base.head.sequence for p, x in ledgers.items() if p not in tails and x.base.head.sequence}
    if quiet and not live:
        _refuse_an_empty_journal(quiet, end_offsets(kafka, topics.journal))


def _refuse_an_empty_journal(sequences: Mapping[int, int], ends: Mapping[int, int]) -> None:
    """Of partitions with nothing in the window: the journal may be quiet for so long, but it was written. A topic that
    was made anew knows no keys, and everything that is sent again would be applied again. Raises InvariantError."""
    for p, sequence in sequences.items():
        if ends[p] < sequence:
            raise InvariantError(
                f"partition {p}: the state has counted {sequence} journal records, and the journal ends at offset "
                f"{ends[p]}: the topic was lost and made anew; restore it from a backup (docs/production.md)",
                p,
            )


class Recollection:
    """Fills the memory of settled transactions from journal records, in their order, as the Book had filled it.

    Records are taken many at a time; `done` comes last.
    """

    def __init__(self, entries: EntryLog) -> None:
        self._entries = entries
        self._opened: dict[bytes, int] = {}  # source offset of each hold that was met
        self._settled: dict[int, Settled] = {}
        self._given: list[tuple[int, int]] = []
        self._lapsed: list[int] = []

    def take(self, r: JournalRecord | Remembered) -> None:
        """One record of the journal."""
        for leg in r.pending:
            if leg.expired and leg.side == "debit" and leg.hold_id in self._opened:
                self._lapsed.append(self._opened[leg.hold_id])
        if r.command != "Transaction" or not r.binds_key or r.outcome not in ("settled", "applied"):
            return
        legs: Sequence[Leg] = r.postings
        own = [p for p in r.pending if not p.expired]
        kind, gives_back = kind_of(r.operation, r.original_offset >= 0, bool(legs), bool(own))
        if r.outcome == "applied":  # it crosses partitions: nobody's original
            kind, gives_back = OTHER, False
        elif kind == HOLD:
            self._opened[r.command_id] = r.source_offset
            legs = [Posting(p.account_id, p.side, p.change) for p in own]
        self._settled[r.source_offset] = (kind, r.booked_at, legs, r.product)
        if gives_back:
            given = sum(leg.amount for leg in r.postings if leg.side == "debit")
            self._given.append((r.original_offset, given))
        if len(self._settled) >= _CHUNK:
            self.done()

    def done(self) -> None:
        """Puts what was taken so far into the memory."""
        entries = self._entries
        entries.add(self._settled)
        for offset, amount in self._given:
            entries.give_back(offset, entries.given_back(offset) + amount)
        for offset in self._lapsed:
            entries.lapse(offset)
        self._settled, self._given, self._lapsed = {}, [], []
