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
from schemas.records import AccountState, AdmitPartner, JournalRecord, PartitionState, PostedLeg, Transaction
from tests.faults.memory_world import MemoryWorld, build_world, stored

SEED, SIZE = 20261122, 900


@cache
def _one() -> MemoryWorld:
    return build_world(SEED, SIZE)


@pytest.fixture
def world() -> MemoryWorld:
    return _one().clone()


# ---- ways to change a journal ----------------------------------------------------------------------------------------


def settled(world: MemoryWorld, p: int = 0, nth: int = 5) -> int:
    """Index in the journal of the nth settled entry of partition p."""
    return [i for i, r in enumerate(world.records(p)) if r.outcome == "settled"][nth]


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
    rows = world.log.topic(STATE, p)
    return max(i for i, r in enumerate(rows) if isinstance(world.codec.decode(r.value), kind))


def change_row(world: MemoryWorld, kind: type, p: int = 0, **changes: object) -> None:
    i, rows = last_row(world, kind, p), world.log.topic(STATE, p)
    row = msgspec.structs.replace(world.codec.decode(rows[i].value), **changes)
    rows[i] = rows[i]._replace(value=world.codec.encode(row))


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
    settled_at = {r.source_offset: r for r in w.records(0) if r.outcome == "settled"}
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


def test_the_streams_meet_nearly_every_reason() -> None:
    """The agreement of two ledgers means something only if the streams reach the rules."""
    met = {r.reason for seed in range(4) for p in range(2) for r in build_world(seed, 1500).records(p)} - {""}
    never = {str(r) for r in Reason} - met
    assert never <= {"counter_overflow"}, never


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
