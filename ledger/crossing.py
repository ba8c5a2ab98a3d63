"""A transaction whose accounts live in different partitions: reserve in each, decide at home, then commit or void.

The page is docs/operations.md, "Across partitions". Between the steps all of its money is pending: at home against a
transit account of the bank, in the other partitions from one. So a partition's books balance at every step, and over
all partitions the transit accounts are zero when nothing is in flight. Each step is a command in the other partition's
log; what a step changes, its journal record and the commands that it sends are written in one Kafka transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from ledger.accounts import Account
from ledger.changes import bank_only
from ledger.flights import (
    Host,
    Place,
    as_legs,
    as_postings,
    aside,
    open_here,
    record,
    row_key,
    send,
    transit,
)
from ledger.freezes import check_product, check_world
from ledger.money import AMOUNT_MAX, COUNTER_MAX, EXPONENTS
from ledger.partners import IS_PAID
from ledger.plans import Leg, Moment, Plan
from ledger.posting import post
from ledger.reasons import Reason, Rejection, first
from ledger.rules import TRANSIT, check_account, check_left, owner_frozen, unknown
from ledger.state import Draft
from schemas.identity import BANK, owner_of, partition_of, root_of
from schemas.records import (
    Crossing,
    CrossingPart,
    CrossingState,
    JournalRecord,
    PendingLeg,
    PostedLeg,
    Posting,
    Transaction,
)

RESERVE, RESERVED, REFUSED, COMMIT, VOID = STEPS = ("reserve", "reserved", "refused", "commit", "void")
WAITING = "waiting"  # of a part that has not answered; the answers are the names of the steps

_place = lru_cache(65_536)(partition_of)
_NOTHING: dict[str, str] = {}


# ---- at home: it starts ------------------------------------------------------------------------------------------


def check_legs(draft: Draft, legs: Sequence[Leg], away: Sequence[Posting], at: Moment) -> None:
    """What must be so before the legs are set aside: transit sums, funds and counters. Raises Rejection.

    What one leg brings in is not there before the end, so it does not count against what another takes out.
    """
    leaves: dict[str, int] = {}
    for _, currency, amount in _transits(away, at.partitions):
        if amount > AMOUNT_MAX:
            raise Rejection(Reason.AMOUNT_TOO_LARGE, field="amount", limit=AMOUNT_MAX)
        leaves[TRANSIT + currency] = leaves.get(TRANSIT + currency, 0) + amount
    _check_set_aside(legs)
    for account_id, amount in leaves.items():
        a = draft.accounts.find(account_id)
        if a is not None and max(a.credits_posted, a.credits_pending) + amount > COUNTER_MAX:
            raise Rejection(Reason.COUNTER_OVERFLOW, field="postings", account=account_id, limit=COUNTER_MAX)


def _check_set_aside(legs: Sequence[Leg]) -> None:
    """Funds and counters of legs that are about to be pending; one account may stand in several of them."""
    totals: dict[str, tuple[Account, list[int]]] = {}
    for a, side, amount in legs:
        totals.setdefault(a.account_id, (a, [0, 0]))[1][side == "credit"] += amount
    for a, (debits, credits) in totals.values():
        out = credits if a.debit_normal else debits
        if out:
            check_left(a, a.available() - out)
    for a, (debits, credits) in totals.values():
        most = max(a.debits_posted, a.debits_pending) + debits, max(a.credits_posted, a.credits_pending) + credits
        if max(most) > COUNTER_MAX:
            raise Rejection(Reason.COUNTER_OVERFLOW, field="postings", account=a.account_id, limit=COUNTER_MAX)


def _transits(away: Iterable[Posting], partitions: int) -> list[tuple[int, str, int]]:
    """What goes where: partitions rising, in each the currencies as they first appear, minor units."""
    sums: dict[int, dict[str, int]] = {}
    for p in away:
        there = sums.setdefault(_place(root_of(owner_of(p.account_id)), partitions), {})
        there[p.currency] = there.get(p.currency, 0) + p.amount
    return [(place, currency, amount) for place in sorted(sums) for currency, amount in sums[place].items()]


def start(
    book: Host, t: Transaction, plan: Plan, at: Place, version: int, value_date: int
) -> tuple[list[PendingLeg], str]:
    """Sets the local legs aside and asks the other partitions; it cannot fail. Adds what it opens to `plan.opened`.

    Returns the pending legs and the partitions, as the journal has them. The accounts of the plan are in the draft.
    """
    legs = list(plan.legs)
    for _, currency, amount in _transits(plan.away, book.partitions):
        legs.append((transit(book.draft, currency, at.offset, plan.opened), "credit", amount))
    places: dict[int, list[Posting]] = {}
    for p in plan.away:
        places.setdefault(_place(root_of(owner_of(p.account_id)), book.partitions), []).append(p)
    parts = tuple(CrossingPart(p, WAITING) for p in sorted(places))
    row = CrossingState(
        at.command_id, at.digest, True, book.partition, t.partner_id, t.idempotency_key, t.product, version,
        t.operation, value_date, t.reference, t.metadata, as_postings(legs), parts, "", {}, at.offset, at.offset,
    )  # fmt: skip
    book.draft.put_row(row_key(book.partition, at.command_id), row)
    for place in sorted(places):
        send(book, row, RESERVE, place, at.offset, legs=tuple(places[place]))
    return aside(at.command_id, legs, at.offset), ",".join(map(str, sorted(places)))


# ---- the steps ---------------------------------------------------------------------------------------------------


def settle(book: Host, c: Crossing, at: Place) -> JournalRecord:
    """The outcome of one step, applied to the draft, with what it sends in the outbox."""
    try:
        bank_only(c)
        if c.step == RESERVE:
            return _reserve(book, c, at)
        if c.step in (RESERVED, REFUSED):
            return _answer(book, c, at)
        if c.step in (COMMIT, VOID):
            return _decided(book, c, at)
        raise Rejection(Reason.FIELD_INVALID, field="step", rule=", ".join(STEPS))
    except Rejection as why:
        book.head.rejected += 1
        return record(book, c, at, "rejected", reason=why.reason, detail=why.detail)


def _reserve(book: Host, c: Crossing, at: Place) -> JournalRecord:
    """In another partition: sets the credit legs aside, or says what stands against them."""
    if open_here(book.draft, c.from_partition, c.transaction_id) is not None:
        raise Rejection(Reason.CROSSING_UNKNOWN, field="transaction_id", rule="it is open here already")
    try:
        credits = _creditable(book, c)
    except Rejection as why:
        send(book, c, REFUSED, c.from_partition, at.offset, why=why)
        raise
    opened: list[Account] = []
    sums: dict[str, int] = {}
    for a, _, amount in credits:
        sums[a.currency] = sums.get(a.currency, 0) + amount
    legs = [(transit(book.draft, cur, at.offset, opened), "debit", amount) for cur, amount in sums.items()] + credits
    row = CrossingState(
        c.transaction_id, bytes(8), False, c.from_partition, c.asker, c.asker_key, c.product, c.product_version,
        c.operation, c.value_date, c.reference, c.metadata, as_postings(legs), (), "", {}, at.offset, at.offset,
    )  # fmt: skip
    book.draft.put_row(row_key(c.from_partition, c.transaction_id), row)
    pending = aside(c.transaction_id, legs, at.offset)
    send(book, c, RESERVED, c.from_partition, at.offset)
    book.head.applied += 1
    return record(book, c, at, "applied", pending=pending, opened=opened)


def _creditable(book: Host, c: Crossing) -> list[Leg]:
    """The credit legs of a reserve, when every one of them may be posted. Raises the first reason against any."""
    refused: Rejection | None = None
    legs: list[Leg] = []
    if not c.legs or any(p.side != "credit" or p.amount < 1 or p.currency not in EXPONENTS for p in c.legs):
        raise Rejection(Reason.FIELD_INVALID, field="legs", rule="credit legs, 1 or more")
    check_world(book.draft)
    check_product(book.draft, c.product)
    for p in c.legs:
        a = book.draft.accounts.find(p.account_id)
        if a is None or a.owner == BANK:
            refused = first(refused, unknown("accounts", p.account_id))
            continue
        stands = book.standing.against(a.owner, IS_PAID)
        if stands is not None:
            detail = {"field": "accounts", "account": a.account_id, "partner": stands[0], "state": stands[1]}
            refused = first(refused, Rejection(Reason.OWNER_STATE, **detail))
        refused = first(refused, owner_frozen("accounts", a, book.standing))
        refused = first(refused, check_account("accounts", a, p.currency, False))
        legs.append((a, "credit", p.amount))
    if refused is not None:
        raise refused
    _check_set_aside(legs)
    return legs


def _answer(book: Host, c: Crossing, at: Place) -> JournalRecord:
    """At home: takes one answer; the last of all reserved, or the first refused, decides."""
    row = open_here(book.draft, book.partition, c.transaction_id)
    if row is None or not any(p.partition == c.from_partition and p.answer == WAITING for p in row.parts):
        raise Rejection(Reason.CROSSING_UNKNOWN, field="transaction_id", rule="no answer of that partition is awaited")
    parts = tuple(CrossingPart(p.partition, c.step if p.partition == c.from_partition else p.answer) for p in row.parts)
    now = msgspec.structs.replace(row, parts=parts, source_offset=at.offset)
    if not row.reason and c.step == REFUSED:
        return _decide(book, msgspec.structs.replace(now, reason=c.reason, detail=c.detail), at)
    if not row.reason and all(p.answer == RESERVED for p in parts):
        return _decide(book, now, at)
    if row.reason and c.step == RESERVED:  # too late: another partition has refused
        send(book, now, VOID, c.from_partition, at.offset)
    _keep(book, now)
    book.head.applied += 1
    return record(book, c, at, "applied")


def _decide(book: Host, row: CrossingState, at: Place) -> JournalRecord:
    """Settles or rejects the transaction, and tells those that reserved."""
    legs = as_legs(book.draft, row.legs)
    pending = aside(row.transaction_id, legs, at.offset, -1)
    value_date, late_for = row.value_date, ""
    postings: tuple[PostedLeg, ...] = ()
    if row.reason:
        book.head.rejected += 1
    else:
        value_date, late_for = book.booked_on(row.value_date)
        row = msgspec.structs.replace(row, value_date=value_date)  # the others book it under the same day
        postings = post(legs, at.offset)
        book.head.settled += 1
    for p in row.parts:
        if p.answer == RESERVED:
            send(book, row, VOID if row.reason else COMMIT, p.partition, at.offset)
    _keep(book, row)
    return JournalRecord(
        row.transaction_id, row.payload_digest, False, "rejected" if row.reason else "settled", book.head.sequence + 1,
        book.partition, at.offset, at.booked_at, "Transaction", row.asker, row.asker_key, row.product,
        row.product_version, row.operation, value_date, row.reference, row.metadata, row.reason, row.detail,
        row.opened_at_offset, "", {"late_for": late_for} if late_for else _NOTHING, postings, (*at.lapsed, *pending),
    )  # fmt: skip


def _keep(book: Host, row: CrossingState) -> None:
    """It stays open at home until it is settled, or rejected and every partition has answered."""
    is_open = any(p.answer == WAITING for p in row.parts)
    book.draft.put_row(row_key(book.partition, row.transaction_id), row if is_open else None)


def _decided(book: Host, c: Crossing, at: Place) -> JournalRecord:
    """In another partition: what was set aside is posted, or given up. Nothing can stand against it."""
    row = open_here(book.draft, c.from_partition, c.transaction_id)
    if row is None or row.home:
        raise Rejection(Reason.CROSSING_UNKNOWN, field="transaction_id", rule="it is not open here")
    legs = as_legs(book.draft, row.legs)
    pending = aside(row.transaction_id, legs, at.offset, -1)
    book.draft.put_row(row_key(c.from_partition, c.transaction_id), None)
    book.head.applied += 1
    if c.step == VOID:
        return record(book, c, at, "applied", pending=pending)
    value_date, late_for = book.booked_on(c.value_date)
    postings = post(legs, at.offset)
    return record(
        book, c, at, "applied", pending=pending, postings=postings, value_date=value_date, late_for=late_for
    )  # fmt: skip
