"""The auditor on whole worlds in memory (limits, calendars, days, products, money between partitions): silent on right
ones, and every single change is named by its check."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import msgspec
import pytest

from clearline.audit.currencies import DECIMALS
from clearline.audit.views import JOURNAL, STATE, SUBMITTED
from ledger.money import EXPONENTS
from ledger.reasons import Reason
from schemas.identity import command_id
from schemas.records import (
    CalendarState,
    Crossing,
    FreezeState,
    LimitState,
    PartitionState,
    ProductState,
    Record,
    UsageState,
)
from tests.faults.hostile import START_MS, STEP_MS, hostile_stream, setting_up
from tests.faults.hostile_whole import forged_step
from tests.faults.memory_world import MemoryWorld, build_world
from tests.ledger_bugs import BUGS
from tests.ledger_world import CODEC
from tests.unit.test_audit import rewrite, trim

NAMED = ("_who_is_above_moves_what_a_partner_may_not", "_a_partner_below_is_not_asked_for_its_limits",
         "_yesterdays_price_is_to_be_had", "_one_person_takes_a_partner_live")  # fmt: skip
WAYS_AROUND = [bug for bug in BUGS if bug.__name__ in NAMED]
assert len(WAYS_AROUND) == len(NAMED)


@cache
def _one() -> MemoryWorld:
    return build_world(7, 900, whole=True, shelf=True)


@pytest.fixture
def world() -> MemoryWorld:
    return _one().clone()


@pytest.mark.parametrize("shelf", [False, True])
@pytest.mark.parametrize(("seed", "step_ms"), [(1, STEP_MS), (2, 40_000), (3, 4_000_000)])
def test_silent_on_a_right_world(seed: int, step_ms: int, shelf: bool) -> None:
    world = build_world(seed, 900, partitions=2 + seed % 2, step_ms=step_ms, whole=True, shelf=shelf)
    verdict = world.verify()
    assert verdict.ok, verdict.lines()
    assert int(verdict.check("crossing").figures["steps"]) > 10


def test_the_streams_meet_nearly_every_reason() -> None:
    met = {
        r.reason
        for seed in range(3)
        for shelf in (False, True)
        for w in [build_world(seed, 1_500, whole=True, shelf=shelf)]
        for p in range(2)
        for r in w.records(p)
    }
    assert {str(r) for r in Reason} - met <= {
        "counter_overflow",
        "crossing_unknown",
        "day_sealed",
    }  # the last: test_closing.py


@pytest.mark.no_cover  # the others walk these lines; traced it would take twice as long
@pytest.mark.parametrize("bug", WAYS_AROUND, ids=lambda b: b.__name__)
def test_a_ledger_that_leaves_a_way_around_a_rule_is_found(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    assert any(
        not build_world(seed, 900, step_ms=40_000, whole=True, shelf=shelf).verify().ok
        for seed in range(12)
        for shelf in (True, False)
    )


def test_decimals_are_the_ledger_s() -> None:
    assert DECIMALS == EXPONENTS


@pytest.mark.parametrize("seed", range(3))
def test_on_a_live_world_steps_on_their_way_are_no_differences(seed: int) -> None:
    world = MemoryWorld()
    for command in setting_up():
        world.publish(command)
    seen = 0
    for i, item in enumerate(hostile_stream(seed, 700, whole=True)):
        if item is not None and not isinstance(item, bytes):
            world.publish(item)
        if i % 50 == 49:
            world.settle_once()
            verdict = world.verify(drained=False)
            wrong = set(verdict.failed) - {"clickhouse", "redis"}  # which are projected at the end
            assert not wrong, verdict.lines()
            seen += int(verdict.check("crossing").figures.get("in_flight", 0))
    assert seen > 0


@pytest.mark.parametrize("shelf", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_trimmed_commands_start_from_the_journal_and_the_rows(share: float, shelf: bool) -> None:
    world = build_world(4, 900, step_ms=40_000, whole=True, shelf=shelf)
    trim(world, share)
    verdict = world.verify()
    assert verdict.ok, verdict.lines()


def test_a_forged_step_is_found_whatever_it_did() -> None:
    world = MemoryWorld()
    for command in setting_up():
        world.publish(command)
    rnd, forged = random.Random(1), 0
    for i, item in enumerate(hostile_stream(1, 600, START_MS, STEP_MS, whole=True)):
        if item is not None and not isinstance(item, bytes):
            world.publish(item)
        if i % 20 == 0:
            step = forged_step(rnd, i)
            world.publish(msgspec.structs.replace(step, asker="initech"))
            forged += 1
        if i % 40 == 0:
            world.settle_once()
    world.settle()
    verdict = world.verify()
    assert verdict.failed == ("crossing",), verdict.lines()
    named = [d for d in verdict.check("crossing").differences if "forged" in d]
    assert len(named) == min(20, forged)
    assert "crossing_unknown" in {r.reason for p in range(2) for r in world.records(p)}


# ---- one change, and who notices -------------------------------------------------------------------------------------


def steps(world: MemoryWorld, step: str, p: int = 0) -> list[int]:
    """Places in the submitted log of partition p of this step between partitions."""
    log, codec = world.log.topic(SUBMITTED, p), world.codec
    out = []
    for i, raw in enumerate(log):
        if raw.value and codec.name_of(raw.value) == "Crossing" and raw.key == b"step":
            command = codec.decode(raw.value)
            if command.step == step:
                out.append(i)
    return out


def alter_step(world: MemoryWorld, step: str, **changes: object) -> None:
    log = world.log.topic(SUBMITTED, 0)
    i = steps(world, step)[0]
    command: Crossing = world.codec.decode(log[i].value)
    log[i] = log[i]._replace(value=world.codec.encode(msgspec.structs.replace(command, **changes)))


def commit_lost(w: MemoryWorld) -> None:
    """A step is taken out with its outcome: what was set aside stays so."""
    log = w.log.topic(SUBMITTED, 0)
    raw = log.pop(steps(w, "commit")[-1])
    journal = w.log.topic(JOURNAL, 0)
    journal[:] = [r for r in journal if w.codec.decode(r.value).source_offset != raw.offset]


def other_amount_reserved(w: MemoryWorld) -> None:
    log = w.log.topic(SUBMITTED, 0)
    legs = w.codec.decode(log[steps(w, "reserve")[0]].value).legs
    alter_step(w, "reserve", legs=(msgspec.structs.replace(legs[0], amount=legs[0].amount + 1), *legs[1:]))


def refusal_turned(w: MemoryWorld) -> None:
    alter_step(w, "refused", reason="account_frozen")


def step_of_another_transaction(w: MemoryWorld) -> None:
    alter_step(w, "commit", transaction_id=command_id("acme", "never"))


def decision_of_another_date(w: MemoryWorld) -> None:
    i = next(i for i, r in enumerate(w.records(0)) if r.command == "Transaction" and not r.binds_key and r.postings)
    rewrite(w, i, value_date=w.records(0)[i].value_date + 1)


def other_version(w: MemoryWorld) -> None:
    i = next(i for i, r in enumerate(w.records(0)) if r.product_version and r.postings)
    rewrite(w, i, product_version=9)


def opened_not_said(w: MemoryWorld) -> None:
    i = next(i for i, r in enumerate(w.records(0)) if r.opened)
    rewrite(w, i, opened=())


def late_not_said(w: MemoryWorld) -> None:
    i = next(i for i, r in enumerate(w.records(0)) if "late_for" in r.changes and r.outcome == "settled")
    rewrite(w, i, changes={})


def change_row(w: MemoryWorld, kind: type[Record], **changes: object) -> None:
    rows = w.log.topic(STATE, 0)
    gone = {r.key for r in rows if r.value is None}
    i = max(
        i for i, r in enumerate(rows) if r.value and r.key not in gone and w.codec.name_of(r.value) == kind.__name__
    )
    row = msgspec.structs.replace(w.codec.decode(rows[i].value), **changes)
    rows[i] = rows[i]._replace(value=w.codec.encode(row))


def limits_row(w: MemoryWorld) -> None:
    change_row(w, LimitState, limits=())


def usage_row(w: MemoryWorld) -> None:
    change_row(w, UsageState, used=())


def calendar_row(w: MemoryWorld) -> None:
    change_row(w, CalendarState, closed_weekdays=3)


def product_row(w: MemoryWorld) -> None:
    change_row(w, ProductState, document="{}")


def closed_through(w: MemoryWorld) -> None:
    change_row(w, PartitionState, closed_through=7)


def usage_row_lost(w: MemoryWorld) -> None:
    rows = w.log.topic(STATE, 0)
    key = max(r.key or b"" for r in rows if r.key and r.key.startswith(b"u:"))
    rows[:] = [r for r in rows if r.key != key]


def flight_row_revived(w: MemoryWorld) -> None:
    rows = w.log.topic(STATE, 0)
    i = max(i for i, r in enumerate(rows) if r.key and r.key.startswith(b"x:") and r.value is None)
    del rows[i]


def frozen_by_nobody(w: MemoryWorld) -> None:
    rows = w.log.topic(STATE, 0)
    row = FreezeState("partner", "acme", "ops", "a row that no command wrote", "", START_MS, 3)
    rows.append(rows[-1]._replace(offset=rows[-1].offset + 1, key=b"f:partner:acme", value=CODEC.encode(row)))


CHANGES: dict[Callable[[MemoryWorld], None], set[str]] = {
    commit_lost: {"crossing"}, other_amount_reserved: {"crossing", "pending"}, refusal_turned: {"crossing"},
    step_of_another_transaction: {"crossing", "outcome"}, decision_of_another_date: {"outcome"},
    other_version: {"outcome"}, opened_not_said: {"outcome"}, late_not_said: {"outcome"}, limits_row: {"state"},
    usage_row: {"state"}, calendar_row: {"state"}, product_row: {"state"}, closed_through: {"partition_state"},
    usage_row_lost: {"state"}, flight_row_revived: {"state"}, frozen_by_nobody: {"state"},
}  # fmt: skip


@pytest.mark.parametrize(("change", "named"), CHANGES.items(), ids=lambda x: x.__name__ if callable(x) else "")
def test_every_change_is_named(world: MemoryWorld, change: Callable[[MemoryWorld], None], named: set[str]) -> None:
    assert world.verify().ok
    change(world)
    verdict = world.verify()
    assert named <= set(verdict.failed), verdict.lines()


def test_money_between_partitions_sums_to_nothing(world: MemoryWorld) -> None:
    i = next(i for i, r in enumerate(world.records(0)) if r.command == "Crossing" and r.postings)
    record = world.records(0)[i]
    legs = [msgspec.structs.replace(p, debits_posted=p.debits_posted + 5) for p in record.postings]
    rewrite(world, i, postings=tuple(legs))
    assert "counters" in world.verify().failed
