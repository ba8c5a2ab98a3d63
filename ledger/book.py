"""The Book of one partition: takes commands in the order of the log and says what became of each.

Every command is checked completely before anything is changed, and what is then applied cannot fail; so a rejected
command changes nothing. The Book sees no clock, no randomness and no environment: the same commands in the same order
give the same journal, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from ledger import control, crossing, flights, freezes, limits, shelf, templates
from ledger.calendars import calendar_of, date_until, next_business_day
from ledger.days import iso_date
from ledger.entries import ADJUSTMENT, ENTRY, OTHER
from ledger.operations import OPERATIONS, quick_transfer
from ledger.partners import Standing
from ledger.plans import Moment, Plan
from ledger.posting import Pending, post
from ledger.reasons import Reason, Rejection
from ledger.state import Draft
from schemas.errors import InvariantError
from schemas.identity import BANK
from schemas.records import (
    Command,
    Crossing,
    JournalRecord,
    PendingLeg,
    PostedLeg,
    Posting,
    Transaction,
)

_NOTHING: dict[str, str] = {}


class Book:
    """Settles commands against a draft of one partition's state. `partition`: its number, of so many `partitions`.

    `standing`: what partners may do; `outbox`: commands for other partitions, to be written together with the outcomes.
    """

    __slots__ = (
        "_held", "_holds", "_in_flight", "_offered", "_pending", "_plain", "_today", "_today_ends", "_versions",
        "draft", "head", "outbox", "partition", "partitions", "standing",
    )  # fmt: skip

    def __init__(self, partition: int, draft: Draft, partitions: int = 1) -> None:
        self.partition = partition
        self.partitions = partitions
        self.draft = draft
        self.head = draft.head
        self.outbox: list[Crossing] = []
        self.standing = Standing(draft.partners, draft.is_frozen)
        self._held = Pending(draft)
        # Holds and crossings that may be open though their keys are forgotten: also those that are not merged yet.
        self._holds = [layer for layer in (draft.holds, *draft.holds.below) if layer or layer is draft.holds]
        self._in_flight = draft.base.in_flight > 0 or any(k.startswith("x:") for d in draft.under for k in d.rows)
        self._pending: tuple[PendingLeg, ...] = ()  # of the command that is being settled
        self._look()

    def _look(self) -> None:
        """Looks at what decides which transactions are settled as they stand: is anything limited, what is offered."""
        limited, offered = self.draft.limited, self.draft.has_shelf()
        self._offered = offered
        self._plain = not limited and not offered
        self._today = self._today_ends = 0  # worked out when it is asked for
        # By product, operation, currency and day: the version under which it is a plain transfer, or -1.
        self._versions: dict[tuple[str, str, str, int], int] | None = {} if offered and not limited else None

    def settle(self, command: Command, command_id: bytes, digest: bytes, offset: int, booked_at: int) -> JournalRecord:
        """The outcome of one command, applied to the draft; its `chain` is added by `seal`.

        `command_id` and `digest` are those of `schemas.identity`; `offset` is the command's place in the log;
        `booked_at` its append time, milliseconds UTC. Raises InvariantError when offsets go backwards.
        """
        head = self.head
        if offset < head.next_offset:
            raise InvariantError(f"partition {self.partition}: offset {offset} came again, {head.next_offset} is next")
        now = head.event_time
        if booked_at > now:
            now = head.event_time = booked_at
        if self._pending:
            self._pending = ()
            self._held.forget_lapsed()
        if now >= self._held.due_at:
            self._pending = self._held.lapse(now, offset)
        keys = self.draft.keys
        first = keys.get(command_id)
        if first is None and (len(self._holds) > 1 or self._holds[0] or self._in_flight):
            first = self._still_bound(command_id)
        if first is not None:
            record = self._again(command, command_id, digest, offset, booked_at, first)
        else:
            # Whatever is raised in here is raised by a check, before anything was changed.
            try:
                record = self._outcome(command, command_id, digest, offset, booked_at)
            except Rejection as r:
                record = self._reject(command, command_id, digest, offset, booked_at, r)
            except Exception:
                self._held.take_back_lapsed()
                raise
            if record.binds_key:
                keys[command_id] = (digest, offset)
        head.sequence += 1
        head.received += 1
        head.next_offset = offset + 1
        return record

    def _outcome(
        self, command: Command, command_id: bytes, digest: bytes, offset: int, booked_at: int
    ) -> JournalRecord:
        """What becomes of a command that was not seen before. Raises Rejection, with nothing changed."""
        if type(command) is not Transaction:
            if type(command) is Crossing:
                return crossing.settle(self, command, self._place(command_id, digest, offset, booked_at))
            return self._control(command, command_id, digest, offset, booked_at)
        head = self.head
        version = -1
        if self._plain:
            version = 0 if command.operation == "transfer" else -1
        elif self._versions is not None:
            asked = (command.product, command.operation, command.currency, self._priced_on(command.value_date))
            try:
                version = self._versions[asked]
            except KeyError:
                version = self._versions[asked] = shelf.plain_version(self.draft, command, asked[3])
        if (
            version >= 0 and command.value_date > head.closed_through
            and (command.partner_id in self.standing.live or self.standing.is_live(command.partner_id))
        ):  # fmt: skip
            legs = quick_transfer(self.draft.accounts, command)
            if legs is not None:
                posted = post(legs, offset)
                self.draft.settled[offset] = (ENTRY, booked_at, posted, command.product)
                head.settled += 1
                return JournalRecord(
                    command_id, digest, True, "settled", head.sequence + 1, self.partition, offset, booked_at,
                    "Transaction", command.partner_id, command.idempotency_key, command.product, version,
                    command.operation, command.value_date, command.reference, command.metadata,
                    "", _NOTHING, -1, "", _NOTHING, posted, self._pending,
                )  # fmt: skip
        return self._transaction(command, command_id, digest, offset, booked_at)

    def _transaction(
        self, t: Transaction, command_id: bytes, digest: bytes, offset: int, booked_at: int
    ) -> JournalRecord:
        """Any transaction. Everything is checked first; nothing after that can fail."""
        draft, standing = self.draft, self.standing
        may_all = standing.is_live(t.partner_id)
        if not may_all:
            standing.known(t.partner_id)
        kind, version, offer = t.operation, 0, None
        if self._offered and kind != ADJUSTMENT:
            offer = shelf.offer(draft, t, self._priced_on(t.value_date))
            kind, version = offer.kind, offer.version
        elif kind not in OPERATIONS:
            raise Rejection(Reason.OPERATION_UNKNOWN, field="operation", operation=kind[:64])
        if not may_all:
            standing.require(t.partner_id, kind)
        freezes.check_transaction(draft, standing, t, kind)
        now = self.head.event_time
        at = Moment(offset, now, digest, standing, kind, self.partition, self.partitions, self._offered)
        plan = OPERATIONS[kind](draft, t, at) if offer is None else templates.plan(draft, t, offer, at)
        of_document = offer.limits if offer is not None else ()
        counts = plan.counts and (draft.limited or of_document)
        usage = limits.check(draft, t, plan, at, of_document) if counts else {}
        value_date, late_for = self.booked_on(t.value_date)
        changes = {"note": plan.note} if plan.note else {}
        if late_for:
            changes["late_for"] = late_for
        if plan.opens is not None and plan.opens.expires_at:
            changes["expires_at"] = str(plan.opens.expires_at)
        if plan.away:
            place = self._place(command_id, digest, offset, booked_at)
            changes["crossing"] = self._cross(plan, t, place, version, value_date)
        for key, row in usage.items():
            draft.put_row(key, row)
        legs = self._apply(plan, t, offset, booked_at)
        if plan.away:
            self.head.applied += 1
        else:
            self.head.settled += 1
        return JournalRecord(
            command_id, digest, True, "applied" if plan.away else "settled", self.head.sequence + 1, self.partition,
            offset, booked_at, "Transaction", t.partner_id, t.idempotency_key, t.product, version, t.operation,
            value_date, t.reference, t.metadata, "", _NOTHING, -1, "", changes, legs, self._pending, plan.original,
            flights.opened_records(plan.opened),
        )  # fmt: skip

    def _cross(self, plan: Plan, t: Transaction, place: flights.Place, version: int, value_date: int) -> str:
        """Sets the legs of a plan aside and asks the other partitions; nothing is posted. Which these are."""
        legs, where = crossing.start(self, t, plan, place, version, value_date)
        self._in_flight = True
        self._pending += tuple(legs)
        plan.kind, plan.legs = OTHER, []  # nobody's original
        return where

    def _apply(self, plan: Plan, t: Transaction, offset: int, booked_at: int) -> tuple[PostedLeg, ...]:
        """Does what a plan says; the legs that were posted."""
        draft = self.draft
        for a in plan.opened:
            draft.accounts[a.account_id] = a
        self._pending += self._held.apply(plan, offset)
        legs = post(plan.legs, offset)
        if plan.gives_back:
            draft.given_back[plan.original] = plan.gives_back
        moved: Sequence[PostedLeg | Posting] = legs
        if plan.opens is not None:
            h = plan.opens
            moved = Posting(h.payer, "debit", h.amount), Posting(h.payee, "credit", h.amount)
        draft.settled[offset] = (plan.kind, booked_at, moved, t.product)
        return legs

    def _still_bound(self, command_id: bytes) -> tuple[bytes, int] | None:
        """The key of what is open (a hold, a crossing) stays bound when the memory of keys has forgotten it."""
        name = command_id.hex()
        hold = self.draft.open_hold(name) if any(name in layer for layer in self._holds) else None
        if hold is not None:
            return hold.digest, hold.opened_at
        row = flights.open_here(self.draft, self.partition, command_id) if self._in_flight else None
        return (row.payload_digest, row.opened_at_offset) if row is not None else None

    def _place(self, command_id: bytes, digest: bytes, offset: int, booked_at: int) -> flights.Place:
        return flights.Place(command_id, digest, offset, booked_at, self._pending)

    def _priced_on(self, value_date: int) -> int:
        """The day whose version of a product settles: the value date, or today when that is later."""
        now = self.head.event_time
        if now >= self._today_ends:
            self._today, self._today_ends = date_until(calendar_of(self.draft, BANK), now)
        return value_date if value_date > self._today else self._today

    def booked_on(self, value_date: int) -> tuple[int, str]:
        """The value date to book under, and when a closed day moved it the ISO date that it was before."""
        if value_date > self.head.closed_through:
            return value_date, ""
        settlement = calendar_of(self.draft, BANK)
        return next_business_day(settlement, self.head.closed_through), iso_date(value_date)

    def _control(
        self, command: Command, command_id: bytes, digest: bytes, offset: int, booked_at: int
    ) -> JournalRecord:
        subject, changes = control.apply(self, command, offset)
        self.head.applied += 1
        self.standing.clear()
        self._look()
        return self._record(command, command_id, digest, offset, booked_at, "applied", subject=subject, changes=changes)

    def _reject(
        self, command: Command, command_id: bytes, digest: bytes, offset: int, booked_at: int, why: Rejection
    ) -> JournalRecord:
        self.head.rejected += 1
        return self._record(
            command, command_id, digest, offset, booked_at, "rejected", reason=why.reason, detail=why.detail
        )

    def check(self, command: Command, command_id: bytes, digest: bytes, booked_at: int) -> JournalRecord:
        """The outcome that this command would have if it came next, without any effect: a dry run.

        The record is not sealed. Raises what `settle` raises.
        """
        scratch = Draft(self.draft.base, (self.draft, *self.draft.under))
        scratch.keys = dict(self.draft.keys)
        book = Book(self.partition, scratch, self.partitions)
        return book.settle(command, command_id, digest, self.head.next_offset, booked_at)

    def dead(self, offset: int, booked_at: int) -> None:
        """Counts a record that went to the dead letters. Raises InvariantError when offsets go backwards."""
        head = self.head
        if offset < head.next_offset:
            raise InvariantError(f"partition {self.partition}: offset {offset} came again, {head.next_offset} is next")
        head.dead += 1
        head.received += 1
        head.next_offset = offset + 1
        head.event_time = max(head.event_time, booked_at)

    def seal(self, body: bytes) -> bytes:
        """The chain value of the next journal record: SHA-256 of the previous one and the record's Avro body."""
        chain = self.head.chain = sha256(self.head.chain + body).digest()
        return chain

    def _again(
        self, c: Command, command_id: bytes, digest: bytes, offset: int, booked_at: int, first: tuple[bytes, int]
    ) -> JournalRecord:
        if first[0] == digest:
            self.head.repeated += 1
            return self._record(c, command_id, digest, offset, booked_at, "repeated", first_offset=first[1])
        self.head.rejected += 1
        return self._record(
            c, command_id, digest, offset, booked_at, "rejected", reason=Reason.IDEMPOTENCY_CONFLICT,
            detail={"field": "idempotency_key", "rule": "a key names one payload"}, first_offset=first[1],
        )  # fmt: skip

    def _record(
        self, c: Command, command_id: bytes, digest: bytes, offset: int, booked_at: int, outcome: str, *,
        reason: str = "", detail: dict[str, str] = _NOTHING, first_offset: int = -1,
        subject: str = "", changes: dict[str, str] = _NOTHING,
    ) -> JournalRecord:  # fmt: skip
        if type(c) is Crossing:
            place = self._place(command_id, digest, offset, booked_at)
            return flights.record(self, c, place, outcome, reason=reason, detail=detail, first_offset=first_offset)
        t = c if type(c) is Transaction else None
        return JournalRecord(
            command_id, digest, first_offset < 0, outcome, self.head.sequence + 1, self.partition, offset, booked_at,
            type(c).__name__, c.partner_id, c.idempotency_key, t.product if t else "", 0, t.operation if t else "",
            t.value_date if t else booked_at // 86_400_000, t.reference if t else "", t.metadata if t else _NOTHING,
            str(reason), detail, first_offset, subject, changes, (), self._pending,
        )  # fmt: skip
