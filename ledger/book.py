"""The Book of one partition: takes commands in the order of the log and says what became of each.

Every command is checked completely before anything is changed, and what is then applied cannot fail; so a rejected
command changes nothing. The Book sees no clock, no randomness and no environment: the same commands in the same order
give the same journal, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from ledger import control
from ledger.accounts import Account
from ledger.entries import ENTRY
from ledger.holds import Hold
from ledger.operations import LAPSED_MAX, OPERATIONS, Leg, Moment, Plan, transfer
from ledger.reasons import Reason, Rejection
from ledger.state import Draft
from schemas.errors import InvariantError
from schemas.identity import BANK
from schemas.records import Command, JournalRecord, PendingLeg, PostedLeg, Posting, Transaction

_NOTHING: dict[str, str] = {}
_UNSEEN = (Reason.PARTNER_UNKNOWN, "")


class Book:
    """Settles commands against a draft of one partition's state. `partition`: its number, for the records."""

    __slots__ = ("_due_at", "_lapsed", "_old_holds", "_pending", "_standing", "draft", "head", "partition")

    def __init__(self, partition: int, draft: Draft) -> None:
        self.partition = partition
        self.draft = draft
        self.head = draft.head
        self._standing: dict[str, tuple[Reason, str] | None] = {}
        self._due_at = draft.next_due()
        self._old_holds = draft.base.holds
        self._pending: tuple[PendingLeg, ...] = ()  # of the command that is being settled
        self._lapsed: list[tuple[Hold, int, int, int, int]] = []  # and what its lapsed holds were before

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
            self._pending, self._lapsed = (), []
        if now >= self._due_at:
            self._pending = self._lapse(now, offset)
        keys = self.draft.keys
        first = keys.get(command_id)
        if first is None and self._old_holds:
            first = self._open_hold(command_id)
        if first is not None:
            record = self._again(command, command_id, digest, offset, booked_at, first)
        else:
            # Whatever is raised in here is raised by a check, before anything was changed.
            try:
                if type(command) is Transaction:
                    if self._standing.get(command.partner_id, _UNSEEN) is not None:
                        self.require_live(command.partner_id)
                    original, note = -1, _NOTHING
                    if command.operation == "transfer":
                        legs = _post(transfer(self.draft.accounts, command), offset)
                        self.draft.settled[offset] = (ENTRY, booked_at, legs)
                    else:
                        legs, original, note = self._operate(command, digest, offset, booked_at)
                    head.settled += 1
                    record = JournalRecord(
                        command_id, digest, True, "settled", head.sequence + 1, self.partition, offset, booked_at,
                        "Transaction", command.partner_id, command.idempotency_key, command.product, 0,
                        command.operation, command.value_date, command.reference, command.metadata,
                        "", _NOTHING, -1, "", note, legs, self._pending, original,
                    )  # fmt: skip
                else:
                    record = self._control(command, command_id, digest, offset, booked_at)
            except Rejection as r:
                record = self._reject(command, command_id, digest, offset, booked_at, r)
            except Exception:
                self._take_back_lapsed()
                raise
            keys[command_id] = (digest, offset)
        head.sequence += 1
        head.received += 1
        head.next_offset = offset + 1
        return record

    def _open_hold(self, command_id: bytes) -> tuple[bytes, int] | None:
        """The key of an open hold stays bound when the memory of keys has forgotten it."""
        name = command_id.hex()
        hold = self.draft.open_hold(name) if name in self._old_holds else None
        return (hold.digest, hold.opened_at) if hold is not None else None

    def _control(
        self, command: Command, command_id: bytes, digest: bytes, offset: int, booked_at: int
    ) -> JournalRecord:
        subject, changes = control.apply(self, command, offset)
        self.head.applied += 1
        self._standing.clear()
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
        book = Book(self.partition, scratch)
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

    def require_live(self, partner_id: str) -> None:
        """Raises Rejection unless the partner and all above it are admitted and live. `bank` always is."""
        try:
            refused = self._standing[partner_id]
        except KeyError:
            refused = self._standing[partner_id] = self._find_standing(partner_id)
        if refused is not None:
            raise Rejection(refused[0], field="partner_id", partner=refused[1])

    def _find_standing(self, partner_id: str) -> tuple[Reason, str] | None:
        if partner_id == BANK:
            return None
        partners = self.draft.partners
        if partners.find(partner_id) is None:
            return Reason.PARTNER_UNKNOWN, partner_id
        parts = partner_id.split("/")
        for i in range(len(parts)):
            above = partners.find("/".join(parts[: i + 1]))
            if above is None or above.state != "live":
                return Reason.PARTNER_SUSPENDED, "/".join(parts[: i + 1])
        return None

    def _operate(
        self, t: Transaction, digest: bytes, offset: int, booked_at: int
    ) -> tuple[tuple[PostedLeg, ...], int, dict[str, str]]:
        """Any other operation: legs, the original's offset, and the note. Nothing after the plan can fail."""
        operation = OPERATIONS.get(t.operation)
        if operation is None:
            raise Rejection(Reason.OPERATION_UNKNOWN, field="operation", operation=t.operation[:64])
        plan = operation(self.draft, t, Moment(offset, self.head.event_time, digest))
        self._pending += self._apply_pending(plan, offset)
        legs = _post(plan.legs, offset)
        if plan.gives_back:
            self.draft.given_back[plan.original] = plan.gives_back
        moved: Sequence[PostedLeg | Posting] = legs
        if plan.opens is not None:
            h = plan.opens
            moved = Posting(h.payer, "debit", h.amount), Posting(h.payee, "credit", h.amount)
        self.draft.settled[offset] = (plan.kind, booked_at, moved)
        return legs, plan.original, {"note": plan.note} if plan.note else _NOTHING

    def _apply_pending(self, plan: Plan, offset: int) -> tuple[PendingLeg, ...]:
        if plan.opens is not None:
            self.draft.add_hold(plan.opens)
            if 0 < plan.opens.expires_at < self._due_at:
                self._due_at = plan.opens.expires_at
            return self._change(plan.opens, plan.opens.amount, offset, expired=False)
        if plan.releases is not None:
            hold, amount = plan.releases
            hold.remaining -= amount
            return self._change(hold, -amount, offset, expired=False)
        return ()

    def _change(self, hold: Hold, change: int, offset: int, *, expired: bool) -> tuple[PendingLeg, ...]:
        """Changes what is pending on both accounts of a hold."""
        hold.offset = offset
        payer, payee = self.draft.accounts[hold.payer], self.draft.accounts[hold.payee]
        payer.debits_pending += change
        payer.offset = offset
        debit = _pending_leg(hold, payer, "debit", change, expired)
        payee.credits_pending += change
        payee.offset = offset
        return debit, _pending_leg(hold, payee, "credit", change, expired)

    def _lapse(self, now: int, offset: int) -> tuple[PendingLeg, ...]:
        """Releases the holds that are due, at most LAPSED_MAX of them, in the order in which they lapse."""
        legs: list[PendingLeg] = []
        before = self._lapsed
        for hold in self.draft.due_holds():
            if hold.expires_at > now or len(legs) == 2 * LAPSED_MAX:
                break
            payer, payee = self.draft.accounts[hold.payer], self.draft.accounts[hold.payee]
            before.append((hold, hold.remaining, hold.offset, payer.offset, payee.offset))
            change, hold.remaining = -hold.remaining, 0
            legs += self._change(hold, change, offset, expired=True)
            self.draft.lapsed.add(hold.opened_at)
        self._due_at = self.draft.next_due()
        return tuple(legs)

    def _take_back_lapsed(self) -> None:
        """Our own bug met a command before which holds lapsed: it has no journal record, the next one lapses them."""
        for hold, remaining, offset, payer_offset, payee_offset in reversed(self._lapsed):
            payer, payee = self.draft.accounts[hold.payer], self.draft.accounts[hold.payee]
            payer.debits_pending += remaining
            payee.credits_pending += remaining
            hold.remaining, hold.offset, payer.offset, payee.offset = remaining, offset, payer_offset, payee_offset
            self.draft.lapsed.remove(hold.opened_at)
        self._lapsed = []
        self._due_at = self.draft.next_due()

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
        t = c if type(c) is Transaction else None
        return JournalRecord(
            command_id, digest, first_offset < 0, outcome, self.head.sequence + 1, self.partition, offset, booked_at,
            type(c).__name__, c.partner_id, c.idempotency_key, t.product if t else "", 0, t.operation if t else "",
            t.value_date if t else booked_at // 86_400_000, t.reference if t else "", t.metadata if t else _NOTHING,
            str(reason), detail, first_offset, subject, changes, (), self._pending,
        )  # fmt: skip


def _post(legs: list[Leg], offset: int) -> tuple[PostedLeg, ...]:
    """Posts checked legs."""
    posted = []
    for a, side, amount in legs:
        if side == "debit":
            a.debits_posted += amount
        else:
            a.credits_posted += amount
        a.offset = offset
        leg = PostedLeg(
            a.account_id, side, amount, a.currency,
            a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted,
        )  # fmt: skip
        posted.append(leg)
    return tuple(posted)


def _pending_leg(hold: Hold, a: Account, side: str, change: int, expired: bool) -> PendingLeg:
    return PendingLeg(
        hold.hold_id, a.account_id, side, change, hold.currency, expired,
        a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted,
    )  # fmt: skip
