"""The body of the settlement agent: a batch of commands in, journal records, state and dead letters out.

It works in stages over the whole batch (decode, identify, look up, settle, encode, produce), because a tight loop per
stage costs half of one long loop, and so that a benchmark can say where each microsecond goes. It writes only into
drafts; the transactional core merges them after its commit returned.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

from ledger.book import Book
from ledger.crossing import STEPS
from ledger.invariants import check_accounts, check_limits, check_records
from ledger.keys import KeyIndex
from ledger.names import NAME_MAX
from ledger.state import Draft
from processors.finality import is_final
from schemas.codec import Codec, UndecodableError, UnknownSchemaError
from schemas.errors import InvariantError
from schemas.failpoints import failpoint
from schemas.identity import BANK, command_id, owner_of, partition_of, payload_digest, root_of, tree_of
from schemas.records import COMMANDS, Crossing, JournalRecord, Reply, Transaction

REPLY_HEADER = "reply_to"
# Of a command that an operator put back: how often it was tried before, and the dead letter that came first.
ATTEMPTS_HEADER = "clearline-attempts"
REDRIVE_HEADER = "clearline-redrive-of"
_LETTER_ID = re.compile(rb"\d{1,6}:\d{1,18}")
_REPLY_DIGITS_MAX = 6
CARRIED_BYTES_MAX = 64
META_KEY = b"meta"
PARTNER_ID_MAX = 256
KEY_MAX = 128
_COMMANDS: frozenset[Any] = frozenset(COMMANDS)

Produce = Callable[..., None]


class Inbound(Protocol):
    """What is read of a Kafka client's message."""

    def partition(self) -> int: ...
    def value(self) -> bytes | None: ...
    def key(self) -> bytes | None: ...
    def offset(self) -> int: ...
    def timestamp(self) -> tuple[int, int]: ...
    def headers(self) -> list[tuple[str, bytes]] | None: ...


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where outcomes go, and what is allowed in. `message_bytes_max`: bytes of one command."""

    submitted: str
    journal: str
    state: str
    dead: str
    replies: str
    partitions: int
    reply_partitions: int
    message_bytes_max: int = 262_144


@dataclass(slots=True)
class Stages:
    """Seconds spent in each stage, summed over batches, and how many commands they were spent on."""

    commands: int = 0
    decode: float = 0.0
    identify: float = 0.0
    look_up: float = 0.0
    settle: float = 0.0
    encode: float = 0.0
    produce: float = 0.0
    state: float = 0.0


@dataclass(slots=True)
class Part:
    """The share of a batch that belongs to one partition."""

    messages: list[Inbound]
    draft: Draft
    index: KeyIndex
    bound: tuple[list[bytes], list[bytes], list[int], list[int]] = field(default_factory=lambda: ([], [], [], []))


@dataclass(slots=True, eq=False)
class Batch:
    """One batch on its way through the agent's channel. `claimed` guards against a second delivery."""

    parts: dict[int, Part]
    produce: Produce
    claimed: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None


class Settlement:
    """Settles batches. `learn` asks the registry for unknown schema ids and returns those that are not ours."""

    def __init__(self, codec: Codec, outlets: Outlets, learn: Callable[[set[int]], set[int]]) -> None:
        self.codec = codec
        self.outlets = outlets
        self.stages = Stages()
        self.carries = ""  # the name of a header that goes along, to the journal and to other partitions; none
        self._learn = learn
        self._places: dict[str, int] = {}

    def settle(self, batch: Batch) -> None:
        """Settles every part of the batch into its draft and produces the outcomes. Raises InvariantError with its
        partition, and whatever a registry that does not answer raises; then nothing of the batch may be committed."""
        for partition, part in batch.parts.items():
            try:
                book = Book(partition, part.draft, self.outlets.partitions)
                for run in self._runs(part):
                    self._settle_run(book, part, run, batch.produce)
                check_accounts(part.draft)
                check_limits(part.draft)
            except InvariantError as e:
                e.partition = partition
                raise
            self._emit_state(partition, part.draft, batch.produce)

    def _runs(self, part: Part) -> list[list[Inbound]]:
        """The messages, cut where a new generation of remembered keys begins (once in days)."""
        ms = part.messages
        generation = part.index.generation
        if generation(ms[0].timestamp()[1]) == generation(ms[-1].timestamp()[1]):
            return [ms]
        runs: list[list[Inbound]] = [[ms[0]]]
        for m in ms[1:]:
            if generation(m.timestamp()[1]) != generation(runs[-1][-1].timestamp()[1]):
                runs.append([])
            runs[-1].append(m)
        return runs

    def _settle_run(self, book: Book, part: Part, messages: Sequence[Inbound], produce: Produce) -> None:
        t0 = perf_counter()
        commands = self._decode(messages, book.partition)
        t1 = perf_counter()
        ids = [command_id(c.partner_id, c.idempotency_key) if c.__class__ in _COMMANDS else b"" for c in commands]
        digests = [payload_digest(c) if c.__class__ in _COMMANDS else b"" for c in commands]
        t2 = perf_counter()
        event_time = max(book.head.event_time, messages[-1].timestamp()[1])
        originals = [
            command_id(c.partner_id, c.original) for c in commands if c.__class__ is Transaction and c.original
        ]
        self._remember(part, [*(i for i in ids if i), *originals], event_time)
        t3 = perf_counter()
        records = [
            self._settle_one(book, m, c, i, d, produce)
            for m, c, i, d in zip(messages, commands, ids, digests, strict=True)
        ]
        check_records(records)
        t4 = perf_counter()
        values = self._encode(book, records)
        t5 = perf_counter()
        failpoint("settlement.mid_emit")
        self._emit_journal(part, messages, records, values, produce)
        s = self.stages
        s.commands += len(messages)
        s.decode += t1 - t0
        s.identify += t2 - t1
        s.look_up += t3 - t2
        s.settle += t4 - t3
        s.encode += t5 - t4
        s.produce += perf_counter() - t5

    def _decode(self, messages: Sequence[Inbound], partition: int) -> list[Any]:
        """A command, or the UndecodableError that says why not, for each message."""
        out: list[Any] = []
        decode = self.codec.decode
        limit = self.outlets.message_bytes_max
        for m in messages:
            value = m.value()
            try:
                if value is not None and len(value) > limit and not self._is_step(value):
                    raise UndecodableError("too_large", f"{len(value)} bytes, at most {limit} are taken")
                try:
                    command = decode(value)
                except UnknownSchemaError as e:
                    if e.schema_id in self._learn({e.schema_id}):
                        raise
                    command = decode(value)
                self._check_contract(command, partition)
                out.append(command)
            except UndecodableError as e:
                out.append(e)
        return out

    def _is_step(self, value: bytes) -> bool:
        """Whether it is a step between partitions: a worker wrote it, from a transaction that was not too large, and it
        must not be lost for the legs that a product added."""
        unknown = self.codec.unknown_ids([value])
        if unknown:
            self._learn(unknown)
        return self.codec.name_of(value) == "Crossing"

    def _check_contract(self, command: Any, partition: int) -> None:
        """What a command must be before the ledger looks at it. Raises UndecodableError("contract")."""
        if command.__class__ not in _COMMANDS:
            raise UndecodableError("contract", f"{type(command).__name__} is not a command")
        partner, key = command.partner_id, command.idempotency_key
        if not 0 < len(partner) <= PARTNER_ID_MAX or "\0" in partner:
            raise UndecodableError("contract", f"partner_id: 1 to {PARTNER_ID_MAX} characters, no NUL")
        if not 0 < len(key) <= KEY_MAX or "\0" in key:
            raise UndecodableError("contract", f"idempotency_key: 1 to {KEY_MAX} characters, no NUL")
        if command.__class__ is Crossing:
            self._check_step(command, partition)
        root = tree_of(command)
        place = self._places.get(root)
        if place is None:
            if len(self._places) > 100_000:
                self._places.clear()
            place = -1 if root == BANK else partition_of(root, self.outlets.partitions)
            if len(root) <= NAME_MAX:  # no partner has a longer one, and this memory must not grow by what is sent
                self._places[root] = place
        if place != partition and place >= 0:
            raise UndecodableError(
                "contract", f"partition: commands of {root} belong to partition {place}, this is {partition}"
            )

    def _check_step(self, c: Crossing, partition: int) -> None:
        if c.partner_id != BANK or c.step not in STEPS:
            raise UndecodableError("contract", f"step: one of {', '.join(STEPS)}, and the bank's")
        if c.to_partition != partition or c.from_partition == partition:
            raise UndecodableError("contract", f"partition: from {c.from_partition} to {c.to_partition} in {partition}")
        if not 0 <= c.from_partition < self.outlets.partitions:
            raise UndecodableError("contract", f"partition: there is no partition {c.from_partition}")

    def _remember(self, part: Part, ids: list[bytes], event_time: int) -> None:
        """Puts what is known of these keys at this event time into the draft: from the index, from this batch's runs
        before, and from a draft below that is not merged yet. Nothing that an earlier run looked up stays: what is
        known must not depend on where a batch was cut."""
        draft = part.draft
        keys = draft.keys
        keys.clear()
        keys.update(part.index.find(ids, event_time))
        oldest = part.index.oldest_ms(event_time)
        for bound in (*(d.bound for d in reversed(draft.under)), draft.bound):
            for i in ids if bound else ():
                first = bound.get(i)
                if first is not None and first[2] >= oldest:
                    keys[i] = first[:2]

    def _settle_one(
        self, book: Book, m: Inbound, command: Any, cid: bytes, digest: bytes, produce: Produce
    ) -> JournalRecord | None:
        """The outcome of one message; None when it went to the dead letters."""
        if command.__class__ in _COMMANDS:
            try:
                record = book.settle(command, cid, digest, m.offset(), m.timestamp()[1])
            except InvariantError:
                raise
            except Exception as e:
                # Our own bug, met in the checks, before anything changed: one record steps aside, the rest goes on.
                command = UndecodableError("internal", f"{type(e).__name__}: {e}"[:300])
            else:
                if book.outbox:  # outside of the `try`: what is raised here must end the batch
                    self._send(book, m, produce)
                return record
        book.outbox.clear()
        book.dead(m.offset(), m.timestamp()[1])
        self._bury(m, book.partition, command, produce)
        return None

    def _send(self, book: Book, m: Inbound, produce: Produce) -> None:
        """Commands for other partitions. Who waits travels with them, so that it is answered in the end; no other
        header does, because a step must fit into the log whatever came with the command that caused it."""
        came = m.headers() or []
        where = _who_waits(came)
        headers = [*([(REPLY_HEADER, where)] if where else []), *(self._carried(came) if self.carries else [])]
        for c in book.outbox:
            root = root_of(owner_of(c.legs[0].account_id) if c.legs else c.asker)
            value = self.codec.encode(c)
            produce(self.outlets.submitted, value, root.encode(), c.to_partition, headers=headers)
        book.outbox.clear()

    def _bury(self, m: Inbound, partition: int, why: UndecodableError, produce: Produce) -> None:
        headers = {
            "reason": why.reason,
            "detail": why.detail,
            "source_topic": self.outlets.submitted,
            "source_partition": str(partition),
            "source_offset": str(m.offset()),
            "received_at": str(m.timestamp()[1]),
            **_tried(m.headers() or []),
        }
        produce(
            self.outlets.dead, m.value(), m.key(), partition,
            headers=[(k, v.encode("utf-8", "replace")) for k, v in headers.items()],
        )  # fmt: skip

    def _encode(self, book: Book, records: Sequence[JournalRecord | None]) -> list[bytes]:
        """The journal records in wire format, each sealed into the chain; b"" for dead letters."""
        head, body_of, seal = self.codec.journal_header, self.codec.journal_body, book.seal
        out = []
        for r in records:
            if r is None:
                out.append(b"")
            else:
                body = body_of(r)
                out.append(head + body + seal(body))
        return out

    def _emit_journal(
        self, part: Part, messages: Sequence[Inbound], records: Sequence[JournalRecord | None], values: list[bytes],
        produce: Produce,
    ) -> None:  # fmt: skip
        journal = self.outlets.journal
        ids, digests, offsets, times = part.bound
        for m, r, value in zip(messages, records, values, strict=True):
            if r is None:
                continue
            headers = m.headers()
            if self.carries and headers and (carried := self._carried(headers)):
                produce(journal, value, m.key(), r.source_partition, timestamp=r.booked_at, headers=carried)
            else:
                produce(journal, value, m.key(), r.source_partition, timestamp=r.booked_at)
            if r.binds_key:
                ids.append(r.command_id)
                digests.append(r.payload_digest)
                offsets.append(r.source_offset)
                times.append(r.booked_at)
            if headers and is_final(r):
                self._reply(headers, r, produce)
        part.draft.bound.update(zip(ids, zip(digests, offsets, times, strict=True), strict=True))

    def _carried(self, headers: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """The header that is to be beside what comes of a command, as it came: no longer than it may be."""
        return [h for h in headers if h[0] == self.carries and h[1] is not None and len(h[1]) <= CARRIED_BYTES_MAX][:1]

    def _reply(self, headers: list[tuple[str, bytes]], r: JournalRecord, produce: Produce) -> None:
        """Sends the outcome to the gateway instance that asked for it, if its header names one."""
        where = _who_waits(headers)
        if not where or int(where) >= self.outlets.reply_partitions:
            return
        reply = Reply(
            r.command_id, r.partner_id, r.idempotency_key, r.outcome, r.reason, r.detail, r.source_partition,
            r.sequence, r.source_offset, r.first_offset, r.booked_at, r.product_version,
        )  # fmt: skip
        produce(self.outlets.replies, self.codec.encode(reply), r.command_id, int(where))

    def _emit_state(self, partition: int, draft: Draft, produce: Produce) -> None:
        """What changed, once per key however often it changed, and where the partition stands."""
        t = perf_counter()
        topic, encode = self.outlets.state, self.codec.encode
        for account in draft.changed_accounts():
            produce(topic, encode(account.state()), b"a:" + account.account_id.encode(), partition)
        for hold in draft.changed_holds():
            produce(topic, encode(hold.state()) if hold.remaining else None, b"h:" + hold.name.encode(), partition)
        for partner in draft.changed_partners():
            produce(topic, encode(partner.record()), b"p:" + partner.partner_id.encode(), partition)
        for key, row in draft.rows.items():
            produce(topic, encode(row) if row is not None else None, key.encode(), partition)
        produce(topic, encode(draft.head.record()), META_KEY, partition)
        self.stages.state += perf_counter() - t


def merge(batch: Batch) -> None:
    """Makes a committed batch the partitions' state. Oldest batch first; never before the commit returned."""
    for part in batch.parts.values():
        part.draft.merge()
        part.index.add(*part.bound)
        part.index.forget(part.draft.head.event_time)


def _tried(headers: list[tuple[str, bytes]]) -> dict[str, str]:
    """How often a command was tried, this time included, and which letter came first if it was a dead letter before.
    Anybody may write such headers: what has not their form is left out."""
    found = dict(headers)
    before = found.get(ATTEMPTS_HEADER) or b""
    out = {"attempts": str(int(before) + 1 if before.isdigit() and len(before) <= 6 else 1)}
    first = found.get(REDRIVE_HEADER) or b""
    if _LETTER_ID.fullmatch(first):
        out[REDRIVE_HEADER] = first.decode()
    return out


def _who_waits(headers: list[tuple[str, bytes]]) -> bytes:
    """The digits of the gateway instance that a header names; empty for none. A header may have no value at all."""
    where = dict(headers).get(REPLY_HEADER) or b""
    return where if where.isdigit() and len(where) <= _REPLY_DIGITS_MAX else b""
