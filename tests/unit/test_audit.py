"""The auditor on worlds in memory: silent on a right one, and every single change is named by its check."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from hashlib import sha256

import msgspec
import pytest

from clearline.audit.contract import DAY_MS, Terms
from clearline.audit.currencies import CURRENCIES
from clearline.audit.recompute import Recomputation
from clearline.audit.views import DEAD, JOURNAL, STATE, SUBMITTED
from ledger.money import EXPONENTS
from ledger.reasons import Reason
from schemas.records import (
    AccountState,
    AdmitPartner,
    HoldState,
    JournalRecord,
    PartitionState,
    PendingLeg,
    PostedLeg,
    Transaction,
)
from tests.faults.memory_world import MemoryWorld, build_world, setting_up, stored

SEED, SIZE = 20261126, 900


@cache
def _one() -> MemoryWorld:
    return build_world(SEED, SIZE)


@pytest.fixture
def world() -> MemoryWorld:
    return _one().clone()


# ---- ways to change a journal ----------------------------------------------------------------------------------------


def settled(world: MemoryWorld, p: int = 0, nth: int = 5) -> int:
    """Index in the journal of the nth settled entry of partition p."""
    return [i for i, r in enumerate(world.records(p)) if r.postings][nth]


def rewrite(world: MemoryWorld, i: int, p: int = 0, **changes: object) -> None:
    """Changes one journal record and forges the chain from there on, as somebody with the log in hand could."""
    record: JournalRecord = world.records(p)[i]
    body = world.codec.journal_body(msgspec.structs.replace(record, **changes))
    log = world.log.topic(JOURNAL, p)
    log[i] = log[i]._replace(value=world.codec.journal_header + body + bytes(32))
    rechain(world, p)


def rechain(world: MemoryWorld, p: int = 0) -> None:
    chain, log = bytes(32), world.log.topic(JOURNAL, p)
    for i, raw in enumerate(log):
        assert raw.value is not None
        chain = sha256(chain + raw.value[5:-32]).digest()
        log[i] = raw._replace(value=raw.value[:-32] + chain)


def leg(world: MemoryWorld, i: int, j: int = 0, **changes: object) -> tuple[PostedLeg, ...]:
    legs = list(world.records(0)[i].postings)
    legs[j] = msgspec.structs.replace(legs[j], **changes)
    return tuple(legs)


def last_row(world: MemoryWorld, kind: type, p: int = 0) -> int:
    """Index of the last row of this kind; of a hold, one that is still open."""
    rows = world.log.topic(STATE, p)
    closed = {r.key for r in rows if r.value is None}
    return max(
        i
        for i, r in enumerate(rows)
        if r.value is not None and r.key not in closed and isinstance(world.codec.decode(r.value), kind)
    )


def change_row(world: MemoryWorld, kind: type, p: int = 0, **changes: object) -> None:
    i, rows = last_row(world, kind, p), world.log.topic(STATE, p)
    row = msgspec.structs.replace(world.codec.decode(rows[i].value), **changes)
    rows[i] = rows[i]._replace(value=world.codec.encode(row))


def first(world: MemoryWorld, operation: str, outcome: str = "settled") -> int:
    """Index in the journal of the first record of this operation on partition 0."""
    records = world.records(0)
    return next(i for i, r in enumerate(records) if (r.operation, r.outcome) == (operation, outcome))


def own_pending(r: JournalRecord) -> tuple[PendingLeg, ...]:
    return tuple(p for p in r.pending if not p.expired)


def lapsing(world: MemoryWorld) -> int:
    """Index of the first record on partition 0 that carries the release of a lapsed hold."""
    return next(i for i, r in enumerate(world.records(0)) if any(p.expired for p in r.pending))


# ---- the changes, each with the checks that must notice it -----------------------------------------------------------


def drop_journal_record(w: MemoryWorld) -> None:
    del w.log.topic(JOURNAL, 0)[settled(w)]


def drop_last_journal_record(w: MemoryWorld) -> None:
    del w.log.topic(JOURNAL, 0)[-1]


def repeat_journal_record(w: MemoryWorld) -> None:
    log, i = w.log.topic(JOURNAL, 0), settled(w)
    log.insert(i + 1, log[i])
    rechain(w)


def swap_journal_records(w: MemoryWorld) -> None:
    log, i = w.log.topic(JOURNAL, 0), settled(w)
    log[i], log[i + 1] = log[i + 1], log[i]


def flip_a_bit(w: MemoryWorld) -> None:
    log, i = w.log.topic(JOURNAL, 0), settled(w)
    value = bytearray(log[i].value or b"")
    value[-33] ^= 1
    log[i] = log[i]._replace(value=bytes(value))


def other_amount_on_one_leg(w: MemoryWorld) -> None:
    i = settled(w)
    rewrite(w, i, postings=leg(w, i, amount=w.records(0)[i].postings[0].amount + 1))


def swapped_legs(w: MemoryWorld) -> None:
    i = settled(w)
    other = {"debit": "credit", "credit": "debit"}
    rewrite(w, i, postings=tuple(msgspec.structs.replace(p, side=other[p.side]) for p in w.records(0)[i].postings))


def wrong_counter_after(w: MemoryWorld) -> None:
    i = settled(w)
    rewrite(w, i, postings=leg(w, i, debits_posted=w.records(0)[i].postings[0].debits_posted + 1))


def broken_limit(w: MemoryWorld) -> None:
    """The counters of an entry say that a wallet without overdraft was overdrawn."""
    records = w.records(0)
    moved = {r.subject_id for r in records if r.command == "SetAccountLimit"}
    i = next(
        i
        for i, r in enumerate(records)
        for p in r.postings[:1]
        if r.postings[1].account_id != p.account_id
        and len(r.postings) == 2
        and p.account_id.endswith(":a:CNY")
        and p.side == "debit"
        and p.account_id not in moved
    )
    rewrite(w, i, postings=leg(w, i, debits_posted=records[i].postings[0].credits_posted + 10**9))


def rejected_turned_settled(w: MemoryWorld) -> None:
    i = next(i for i, r in enumerate(w.records(0)) if r.reason == "insufficient_funds")
    rewrite(w, i, outcome="settled", reason="")


def other_reason(w: MemoryWorld) -> None:
    i = next(i for i, r in enumerate(w.records(0)) if r.reason == "insufficient_funds")
    rewrite(w, i, reason="account_unknown")


def repeat_that_settles_again(w: MemoryWorld) -> None:
    settled_at = {r.source_offset: r for r in w.records(0) if r.postings}
    i = next(i for i, r in enumerate(w.records(0)) if r.outcome == "repeated" and r.first_offset in settled_at)
    first = settled_at[w.records(0)[i].first_offset]
    rewrite(w, i, outcome="settled", binds_key=True, first_offset=-1, postings=first.postings)


def conflict_not_refused(w: MemoryWorld) -> None:
    i = next(i for i, r in enumerate(w.records(0)) if r.reason == "idempotency_conflict")
    rewrite(w, i, outcome="repeated", reason="")


def repeat_points_elsewhere(w: MemoryWorld) -> None:
    i = next(i for i, r in enumerate(w.records(0)) if r.outcome == "repeated")
    rewrite(w, i, first_offset=w.records(0)[i].first_offset + 1)


def sequence_with_a_gap(w: MemoryWorld) -> None:
    rewrite(w, len(w.records(0)) - 1, sequence=len(w.records(0)) + 1)


def booked_by_a_local_clock(w: MemoryWorld) -> None:
    rewrite(w, settled(w), booked_at=1_760_000_000_001)


def other_reference(w: MemoryWorld) -> None:
    rewrite(w, settled(w), reference="order 0")


def unfounded_outcome(w: MemoryWorld) -> None:
    del w.log.topic(SUBMITTED, 0)[settled(w)]


def dead_letter_lost(w: MemoryWorld) -> None:
    del w.log.topic(DEAD, 0)[3]


def dead_letter_twice(w: MemoryWorld) -> None:
    letters = w.log.topic(DEAD, 0)
    letters.insert(3, letters[3])


def dead_letter_with_other_bytes(w: MemoryWorld) -> None:
    letters = w.log.topic(DEAD, 0)
    letters[3] = letters[3]._replace(value=b"else")


def dead_letter_with_other_reason(w: MemoryWorld) -> None:
    letters = w.log.topic(DEAD, 0)
    headers = [(k, b"undecodable?" if k == "reason" else v) for k, v in letters[3].headers or []]
    letters[3] = letters[3]._replace(headers=headers)


def good_command_buried(w: MemoryWorld) -> None:
    """A settled command becomes a dead letter instead: a lost transaction with an excuse."""
    i = settled(w)
    offset = w.records(0)[i].source_offset
    del w.log.topic(JOURNAL, 0)[i]
    raw = next(r for r in w.log.topic(SUBMITTED, 0) if r.offset == offset)
    letters = w.log.topic(DEAD, 0)
    headers = [("reason", b"internal"), ("source_offset", str(offset).encode())]
    letters.append(letters[-1]._replace(key=raw.key, value=raw.value, headers=headers))
    letters.sort(key=lambda r: int(dict(r.headers or [])["source_offset"]))


def state_row_altered(w: MemoryWorld) -> None:
    change_row(w, AccountState, debits_posted=12345)


def state_row_lost(w: MemoryWorld) -> None:
    rows = w.log.topic(STATE, 0)
    name = rows[last_row(w, AccountState)].key
    rows[:] = [r for r in rows if r.key != name]


def stale_state_row(w: MemoryWorld) -> None:
    """A zombie writes an older row of an account after the newest one: the last row must not win."""
    rows = w.log.topic(STATE, 0)
    name = rows[last_row(w, AccountState)].key
    first = next(r for r in rows if r.key == name)
    rows.append(first._replace(offset=rows[-1].offset + 1))


def counts_altered(w: MemoryWorld) -> None:
    change_row(w, PartitionState, settled=1)


def chain_head_altered(w: MemoryWorld) -> None:
    change_row(w, PartitionState, chain=bytes(32))


def group_ahead_of_the_state(w: MemoryWorld) -> None:
    w.log.groups[0] += 1


def group_behind_the_state(w: MemoryWorld) -> None:
    w.log.groups[0] -= 1


def clickhouse_row_lost(w: MemoryWorld) -> None:
    del w.entries.posting_rows[0][7]


def clickhouse_row_twice(w: MemoryWorld) -> None:
    w.entries.posting_rows[0].insert(7, w.entries.posting_rows[0][7])


def clickhouse_row_altered(w: MemoryWorld) -> None:
    w.entries.posting_rows[0][7] = w.entries.posting_rows[0][7]._replace(amount=1)


def clickhouse_product_altered(w: MemoryWorld) -> None:
    w.entries.posting_rows[0][7] = w.entries.posting_rows[0][7]._replace(product="FORGED")


def clickhouse_value_date_altered(w: MemoryWorld) -> None:
    w.entries.posting_rows[0][7] = w.entries.posting_rows[0][7]._replace(value_date=1)


def clickhouse_metadata_altered(w: MemoryWorld) -> None:
    w.entries.outcome_rows[0][7] = w.entries.outcome_rows[0][7]._replace(metadata={"forged": "yes"})


def clickhouse_chain_altered(w: MemoryWorld) -> None:
    w.entries.outcome_rows[0][7] = w.entries.outcome_rows[0][7]._replace(chain="00" * 32)


def clickhouse_change_lost(w: MemoryWorld) -> None:
    del w.entries.change_rows[0][3]


def clickhouse_change_altered(w: MemoryWorld) -> None:
    w.entries.change_rows[0][3] = w.entries.change_rows[0][3]._replace(changes={"min_available": "-1000000"})


def clickhouse_dead_letters_lost(w: MemoryWorld) -> None:
    w.entries.letters[0] = 0


def clickhouse_dead_letter_invented(w: MemoryWorld) -> None:
    w.entries.letters[0] += 1


def clickhouse_outcome_twice(w: MemoryWorld) -> None:
    w.entries.outcome_rows[0].append(w.entries.outcome_rows[0][7])


def clickhouse_lags(w: MemoryWorld) -> None:
    w.entries.positions[0] -= 1


def clickhouse_invented_row(w: MemoryWorld) -> None:
    dead = int(dict(w.log.topic(DEAD, 0)[2].headers or [])["source_offset"])
    w.entries.posting_rows[0].append(w.entries.posting_rows[0][7]._replace(source_offset=dead))


def clickhouse_row_beyond_the_end(w: MemoryWorld) -> None:
    w.entries.posting_rows[0].append(w.entries.posting_rows[0][7]._replace(source_offset=10**9))


def redis_value_altered(w: MemoryWorld) -> None:
    name, row = next(iter(w.balances.rows[0].items()))
    w.balances.rows[0][name] = row._replace(debits_posted=row.debits_posted + 1)


def redis_value_lost(w: MemoryWorld) -> None:
    del w.balances.rows[0][next(iter(w.balances.rows[0]))]


def redis_value_stale(w: MemoryWorld) -> None:
    """An older balance overwrote a newer one: right at its offset, but not where Redis says that it stands."""
    rows = w.balances.rows[0]
    for raw in w.log.topic(STATE, 0):
        row = w.codec.decode(raw.value)
        if isinstance(row, AccountState) and rows[row.account_id].source_offset > row.source_offset:
            rows[row.account_id] = stored(row)
            return


def redis_limit_altered(w: MemoryWorld) -> None:
    name, row = next(iter(w.balances.rows[0].items()))
    w.balances.rows[0][name] = row._replace(min_available=-1)


def redis_unknown_account(w: MemoryWorld) -> None:
    w.balances.rows[0]["ghost:x"] = next(iter(w.balances.rows[0].values()))


def redis_lags(w: MemoryWorld) -> None:
    w.balances.positions[0] = 0


def forged_pending_leg(w: MemoryWorld) -> None:
    i = first(w, "hold")
    rewrite(w, i, pending=tuple(msgspec.structs.replace(p, change=p.change + 1) for p in w.records(0)[i].pending))


def pending_on_one_side(w: MemoryWorld) -> None:
    i = first(w, "void")
    rewrite(w, i, pending=w.records(0)[i].pending[:-1])


def pending_of_another_account(w: MemoryWorld) -> None:
    i = first(w, "hold")
    one, *others = w.records(0)[i].pending
    rewrite(w, i, pending=(msgspec.structs.replace(one, account_id="acme:b:CNY"), *others))


def pending_counter_after(w: MemoryWorld) -> None:
    i = first(w, "capture")
    *others, last = w.records(0)[i].pending
    rewrite(w, i, pending=(*others, msgspec.structs.replace(last, credits_pending=last.credits_pending + 1)))


def negative_pending_counter(w: MemoryWorld) -> None:
    i = first(w, "capture")
    *others, last = w.records(0)[i].pending
    rewrite(w, i, pending=(*others, msgspec.structs.replace(last, credits_pending=-1)))


def broken_limit_of_a_hold(w: MemoryWorld) -> None:
    """The counters of a hold say that more was set aside than there was."""
    records = w.records(0)
    moved = {r.subject_id for r in records if r.command == "SetAccountLimit"}
    i = next(
        i
        for i, r in enumerate(records)
        if r.operation == "hold"
        for p in own_pending(r)[:1]
        if p.account_id.endswith(":a:CNY") and p.account_id not in moved
    )
    pending = list(records[i].pending)
    pending[-2] = msgspec.structs.replace(pending[-2], debits_pending=10**12)
    rewrite(w, i, pending=tuple(pending))


def released_twice(w: MemoryWorld) -> None:
    """A void's releases stand in the record after it, too, so its money is free twice."""
    i = first(w, "void")
    records = w.records(0)
    rewrite(w, i + 1, pending=own_pending(records[i]) + records[i + 1].pending)


def lapsed_hold_not_released(w: MemoryWorld) -> None:
    rewrite(w, lapsing(w), pending=own_pending(w.records(0)[lapsing(w)]))


def lapsed_hold_passed_for_a_void(w: MemoryWorld) -> None:
    i = lapsing(w)
    rewrite(w, i, pending=tuple(msgspec.structs.replace(p, expired=False) for p in w.records(0)[i].pending))


def lapsed_one_command_late(w: MemoryWorld) -> None:
    i = lapsing(w)
    this, after = w.records(0)[i : i + 2]
    lapsed = tuple(p for p in this.pending if p.expired)
    rewrite(w, i, pending=own_pending(this))
    rewrite(w, i + 1, pending=lapsed + after.pending)


def refund_above_the_payment(w: MemoryWorld) -> None:
    """A refund that must be refused is settled; it moves nothing, as a forger would hide it."""
    i = next(i for i, r in enumerate(w.records(0)) if r.reason == "refund_exceeds_payment")
    rewrite(w, i, outcome="settled", reason="")


def refund_above_the_payment_with_its_postings(w: MemoryWorld) -> None:
    records = w.records(0)
    i = next(i for i, r in enumerate(records) if r.reason == "refund_exceeds_payment")
    rewrite(w, i, outcome="settled", reason="", postings=records[first(w, "refund")].postings)


def capture_above_the_hold(w: MemoryWorld) -> None:
    records = w.records(0)
    i = next(i for i, r in enumerate(records) if r.reason == "capture_exceeds_hold")
    rewrite(w, i, outcome="settled", reason="", postings=records[first(w, "capture")].postings)


def other_original_offset(w: MemoryWorld) -> None:
    i = first(w, "refund")
    rewrite(w, i, original_offset=w.records(0)[i].original_offset + 1)


def no_original_offset(w: MemoryWorld) -> None:
    rewrite(w, first(w, "void"), original_offset=-1)


def other_note(w: MemoryWorld) -> None:
    rewrite(w, first(w, "adjustment"), changes={"note": "something else"})


def note_lost(w: MemoryWorld) -> None:
    rewrite(w, first(w, "adjustment"), changes={})


def hold_row_lost(w: MemoryWorld) -> None:
    rows = w.log.topic(STATE, 0)
    name = rows[last_row(w, HoldState)].key
    rows[:] = [r for r in rows if r.key != name]


def hold_row_deleted(w: MemoryWorld) -> None:
    """A zombie writes the deletion of a hold that is open."""
    rows = w.log.topic(STATE, 0)
    rows.append(rows[last_row(w, HoldState)]._replace(offset=rows[-1].offset + 1, value=None))


def hold_row_revived(w: MemoryWorld) -> None:
    """A zombie writes a row of a hold after its deletion: its money would be set aside once more."""
    rows = w.log.topic(STATE, 0)
    closed = {r.key for r in rows if r.value is None}
    row = next(r for r in rows if r.key in closed and r.value is not None)
    rows.append(row._replace(offset=rows[-1].offset + 1))


def hold_row_with_another_remaining(w: MemoryWorld) -> None:
    change_row(w, HoldState, remaining=1_000_000)


def hold_row_with_another_end(w: MemoryWorld) -> None:
    change_row(w, HoldState, expires_at=7)


def hold_row_under_another_key(w: MemoryWorld) -> None:
    rows, i = w.log.topic(STATE, 0), last_row(w, HoldState)
    rows[i] = rows[i]._replace(key=b"h:" + bytes(16).hex().encode())


def hold_row_with_a_key_of_nothing(w: MemoryWorld) -> None:
    rows = w.log.topic(STATE, 0)
    rows.append(rows[-1]._replace(offset=rows[-1].offset + 1, key=b"h:not-hex", value=None))


def account_row_deleted(w: MemoryWorld) -> None:
    rows = w.log.topic(STATE, 0)
    rows.append(rows[last_row(w, AccountState)]._replace(offset=rows[-1].offset + 1, value=None))


def stale_hold_row(w: MemoryWorld) -> None:
    """A hold that was captured in part stands in the state as it was before."""
    rows = w.log.topic(STATE, 0)
    closed = {r.key for r in rows if r.value is None}
    have = [(i, r) for i, r in enumerate(rows) if (r.key or b"")[:2] == b"h:" and r.key not in closed]
    old = next(r for i, r in have if any(r.key == s.key and j > i for j, s in have))
    rows.append(old._replace(offset=rows[-1].offset + 1))


def pending_counter_of_the_state(w: MemoryWorld) -> None:
    change_row(w, AccountState, debits_pending=77)


def redis_pending_altered(w: MemoryWorld) -> None:
    name, row = next((n, r) for n, r in w.balances.rows[0].items() if r.debits_pending)
    w.balances.rows[0][name] = row._replace(debits_pending=0)


CHANGES: dict[Callable[[MemoryWorld], None], set[str]] = {
    drop_journal_record: {"one_outcome", "sequence", "chain"},
    drop_last_journal_record: {"one_outcome", "partition_state"},
    repeat_journal_record: {"one_outcome", "sequence"},
    swap_journal_records: {"one_outcome", "sequence", "chain"},
    flip_a_bit: {"chain"},
    other_amount_on_one_leg: {"conservation", "counters"},
    swapped_legs: {"counters"},
    wrong_counter_after: {"counters"},
    broken_limit: {"limits", "counters"},
    rejected_turned_settled: {"outcome"},
    other_reason: {"outcome"},
    repeat_that_settles_again: {"idempotency", "counters"},
    conflict_not_refused: {"idempotency"},
    repeat_points_elsewhere: {"idempotency"},
    sequence_with_a_gap: {"sequence"},
    booked_by_a_local_clock: {"outcome"},
    other_reference: {"outcome"},
    unfounded_outcome: {"one_outcome"},
    dead_letter_lost: {"one_outcome"},
    dead_letter_twice: {"one_outcome", "accounted"},
    dead_letter_with_other_bytes: {"dead_letters"},
    dead_letter_with_other_reason: {"dead_letters"},
    good_command_buried: {"dead_letters", "sequence"},
    state_row_altered: {"state"},
    state_row_lost: {"state"},
    stale_state_row: {"state"},
    counts_altered: {"partition_state"},
    chain_head_altered: {"partition_state"},
    group_ahead_of_the_state: {"group_offsets"},
    group_behind_the_state: {"group_offsets"},
    clickhouse_row_lost: {"clickhouse"},
    clickhouse_row_twice: {"clickhouse"},
    clickhouse_row_altered: {"clickhouse"},
    clickhouse_product_altered: {"clickhouse"},
    clickhouse_value_date_altered: {"clickhouse"},
    clickhouse_metadata_altered: {"clickhouse"},
    clickhouse_chain_altered: {"clickhouse"},
    clickhouse_change_lost: {"clickhouse"},
    clickhouse_change_altered: {"clickhouse"},
    clickhouse_dead_letters_lost: {"clickhouse"},
    clickhouse_dead_letter_invented: {"clickhouse"},
    clickhouse_outcome_twice: {"clickhouse"},
    clickhouse_lags: {"clickhouse"},
    clickhouse_invented_row: {"clickhouse"},
    clickhouse_row_beyond_the_end: {"clickhouse"},
    redis_value_altered: {"redis"},
    redis_value_lost: {"redis"},
    redis_value_stale: {"redis"},
    redis_limit_altered: {"redis"},
    redis_lags: {"redis"},
    redis_unknown_account: {"redis"},
    forged_pending_leg: {"pending"},
    pending_on_one_side: {"pending"},
    pending_of_another_account: {"pending"},
    pending_counter_after: {"pending"},
    negative_pending_counter: {"pending"},
    broken_limit_of_a_hold: {"limits", "pending"},
    released_twice: {"pending"},
    lapsed_hold_not_released: {"pending"},
    lapsed_hold_passed_for_a_void: {"pending"},
    lapsed_one_command_late: {"pending"},
    refund_above_the_payment: {"outcome"},
    refund_above_the_payment_with_its_postings: {"outcome", "counters"},
    capture_above_the_hold: {"outcome", "counters"},
    other_original_offset: {"outcome"},
    no_original_offset: {"outcome"},
    other_note: {"outcome"},
    note_lost: {"outcome"},
    hold_row_lost: {"state", "pending"},
    hold_row_deleted: {"state"},
    hold_row_revived: {"state", "pending"},
    hold_row_with_another_remaining: {"state"},
    hold_row_with_another_end: {"state"},
    hold_row_under_another_key: {"state"},
    hold_row_with_a_key_of_nothing: {"state"},
    account_row_deleted: {"state"},
    stale_hold_row: {"state"},
    pending_counter_of_the_state: {"state", "pending"},
    redis_pending_altered: {"redis"},
}


@pytest.mark.parametrize(("change", "named"), CHANGES.items(), ids=lambda x: x.__name__ if callable(x) else "")
def test_every_change_is_named(world: MemoryWorld, change: Callable[[MemoryWorld], None], named: set[str]) -> None:
    change(world)
    verdict = world.verify()
    assert not verdict.ok
    assert named <= set(verdict.failed), verdict.lines()
    for name in named:
        assert verdict.check(name).differences


def test_changes_outside_the_stores_name_only_what_they_touch(world: MemoryWorld) -> None:
    redis_value_lost(world)
    assert world.verify().failed == ("redis",)


@pytest.mark.parametrize("change", [other_original_offset, other_note, hold_row_revived, pending_counter_after])
def test_changes_of_one_place_name_only_it(world: MemoryWorld, change: Callable[[MemoryWorld], None]) -> None:
    change(world)
    later = {"partition_state", "clickhouse"}  # the chain's head, wherever a record was forged, and its stored copy
    assert set(world.verify().failed) - later == CHANGES[change]


# ---- a right world ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_silent_on_a_right_world(seed: int) -> None:
    world = build_world(seed, 900, partitions=1 + seed % 3)
    verdict = world.verify()
    assert verdict.ok, verdict.lines()
    figures = verdict.check("accounted").figures
    published = sum(len(world.log.topic(SUBMITTED, p)) for p in range(1 + seed % 3))
    assert figures["received"] == verdict.commands == published
    assert {"settled", "rejected", "repeated", "applied", "dead"} <= {k for k, v in figures.items() if v}


@pytest.mark.parametrize("seed", range(3))
def test_silent_when_keys_are_forgotten_and_holds_last_for_months(seed: int) -> None:
    world = build_world(seed, 900, step_ms=DAY_MS // 4)
    verdict = world.verify()
    assert verdict.ok, verdict.lines()
    assert int(verdict.check("pending").figures["expired"]) > 0


def test_more_holds_than_one_command_may_release() -> None:
    world = MemoryWorld(1)
    for command in setting_up():
        world.publish(command)
    end = world.now_ms + 4_000
    accounts = {"payer": "bank:clearing:CNY", "payee": "acme:a:CNY"}
    plain = Transaction("acme", "", "", "hold", 1, "CNY", accounts, (), 20_000)
    for i in range(1_100):
        world.publish(msgspec.structs.replace(plain, idempotency_key=f"h-{i}", expires_at=end - i % 3))
    world.pass_time(10_000)
    for i in range(4):
        transfer = msgspec.structs.replace(plain, operation="transfer", idempotency_key=f"t-{i}")
        world.publish(transfer)
        world.publish_bytes(0, b"acme", b"junk")
    world.settle()
    released = [len(r.pending) for r in world.records(0) if r.idempotency_key.startswith("t-")]
    assert released == [1_000, 1_000, 200, 0]
    assert world.verify().ok, world.verify().lines()


def test_the_streams_meet_nearly_every_reason_and_each_outcome_of_each_operation() -> None:
    """The agreement of two ledgers means something only if the streams reach the rules."""
    met = [(r.operation, r.outcome, r.reason) for seed in range(4) for r in build_world(seed, 1500, 1).records(0)]
    of_the_whole = {
        "product_unknown", "owner_state", "split_exceeds_amount", "nothing_to_move", "limit_exceeded", "product_currency",
        "exponent_mismatch", "rate_invalid", "account_frozen", "partner_state", "partner_not_empty", "product_version",
        "product_invalid", "template_unbalanced", "day_closed", "day_ahead", "crossing_unknown",
        "day_open", "day_sealed", "world_frozen", "partner_frozen", "product_frozen", "owner_frozen",
    }  # fmt: skip
    never = {str(r) for r in Reason} - {reason for _, _, reason in met}
    assert never <= {"counter_overflow"} | of_the_whole, never  # the rest is met by test_audit_whole
    for operation in ("transfer", "hold", "capture", "void", "refund", "reversal", "adjustment"):
        assert {o for op, o, _ in met if op == operation} == {"settled", "rejected", "repeated"}, operation


def test_an_empty_world_holds() -> None:
    verdict = MemoryWorld().verify()
    assert verdict.ok
    assert verdict.commands == 0


def test_currencies_are_the_ledger_s() -> None:
    assert frozenset(EXPONENTS) == CURRENCIES


# ---- live systems ----------------------------------------------------------------------------------------------------


def test_commands_on_their_way_are_waiting_not_lost(world: MemoryWorld) -> None:
    world.publish(AdmitPartner("bank", "late", "late", "Late"))
    live = world.verify(drained=False)
    assert live.ok
    assert live.waiting == 1
    assert "1 wait for their outcome" in live.lines()[-1]
    assert world.verify(drained=True).failed == ("accounted",)


@pytest.mark.parametrize("seed", range(4))
def test_lagging_projections_are_compared_at_their_own_offset(world: MemoryWorld, seed: int) -> None:
    rnd = random.Random(seed)
    for p in range(2):
        _, end = world.log.span(JOURNAL, p)
        world.project(p, up_to=rnd.randrange(end))
    live = world.verify(drained=False)
    assert live.ok, live.lines()
    assert int(live.check("clickhouse").figures["lag"]) > 0
    assert int(live.check("redis").figures["lag"]) > 0
    assert set(world.verify(drained=True).failed) == {"clickhouse", "redis"}


def test_a_difference_in_a_lagging_projection_is_still_found(world: MemoryWorld) -> None:
    _, end = world.log.span(JOURNAL, 0)
    world.project(0, up_to=end // 2)
    redis_value_stale(world)
    clickhouse_row_altered(world)
    assert set(world.verify(drained=False).failed) == {"clickhouse", "redis"}


# ---- commands no longer kept -----------------------------------------------------------------------------------------


def trim(world: MemoryWorld, share: float) -> None:
    """Drops the oldest commands of every partition, as retention does."""
    for p in range(world.log.partitions):
        log = world.log.topic(SUBMITTED, p)
        first = log[int(len(log) * share)].offset
        log[:] = [r for r in log if r.offset >= first]
        world.log.starts[SUBMITTED, p] = first


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_trimmed_commands_start_from_the_journal_and_say_so(world: MemoryWorld, share: float) -> None:
    trim(world, share)
    verdict = world.verify()
    assert verdict.ok, verdict.lines()
    assert len(verdict.notes) == 2
    assert "no longer kept" in verdict.lines()[0]


def compact(world: MemoryWorld) -> None:
    """Keeps the last row of each key, and no row of a key that was deleted, as the broker's compaction does."""
    for p in range(world.log.partitions):
        rows = world.log.topic(STATE, p)
        last = {r.key: r.offset for r in rows}
        rows[:] = [r for r in rows if r.offset == last[r.key] and r.value is not None]


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_holds_of_trimmed_commands_lapse_though_their_rows_are_gone(seed: int, share: float) -> None:
    world = build_world(seed, 900)
    compact(world)
    assert world.verify().ok, world.verify().lines()
    trim(world, share)
    verdict = world.verify()
    assert verdict.ok, verdict.lines()
    assert int(verdict.check("pending").figures["expired"]) > 0


def test_a_lapse_of_a_trimmed_hold_that_its_row_does_not_foresee_is_found(world: MemoryWorld) -> None:
    trim(world, 0.5)
    hold_row_with_another_remaining(world)
    assert "state" in world.verify().failed


def test_differences_after_the_trimmed_part_are_found(world: MemoryWorld) -> None:
    trim(world, 0.5)
    wrong_counter_after_end = settled(world, nth=-1)
    rewrite(world, wrong_counter_after_end, postings=leg(world, wrong_counter_after_end, debits_posted=1))
    assert "counters" in world.verify().failed


def test_unbalanced_entries_in_the_trimmed_part_are_found(world: MemoryWorld) -> None:
    trim(world, 0.9)
    other_amount_on_one_leg(world)
    assert "conservation" in world.verify().failed


# ---- rules that a short stream does not reach ------------------------------------------------------------------------


def test_a_key_is_remembered_for_its_window_and_free_after_it() -> None:
    model = Recomputation(Terms(partitions=1, idempotency_days=4))
    command = AdmitPartner("bank", "k", "acme")
    start = 1_000 * DAY_MS
    assert model.expect(0, command, start).outcome == "applied"
    assert model.expect(1, command, start + 4 * DAY_MS).first_offset == 0
    again = model.expect(2, command, start + 5 * DAY_MS)
    assert (again.outcome, again.reason, again.binds_key) == ("rejected", "partner_exists", True)


def test_too_large_commands_must_be_dead_letters() -> None:
    world = build_world(3, 50)
    value = world.codec.encode(
        Transaction("acme", "big", "wallet", "transfer", 1, "CNY", {}, (), 20_000, "x" * 2_000_000)
    )
    world.publish_bytes(0, b"acme", value)
    world.settle()
    verdict = world.verify()
    assert not verdict.ok
    assert any("too_large" in d for d in verdict.check("outcome").differences)


def test_a_verdict_is_a_document(world: MemoryWorld) -> None:
    clickhouse_row_lost(world)
    document = world.verify().to_dict()
    assert document["ok"] is False
    assert document["commands"] > SIZE
    wrong = [c for c in document["checks"] if not c["ok"]]
    assert [c["name"] for c in wrong] == ["clickhouse"]
    assert wrong[0]["differences_total"] == 1
