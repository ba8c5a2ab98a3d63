"""docs/operations.md, "Across partitions", as grids: one row per step, with what is posted and pending where after it.

acme lives in partition 0, zeta in 1, stark in 2. A balance is written `1000` when nothing is pending, `1000-100` when 100
of it are set aside, and `1000+100` when 100 may come in. Amounts are minor units (1000 is 10.00 CNY).
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from clearline.contract import ContractError, read_command
from ledger.money import AMOUNT_MAX, COUNTER_MAX
from schemas.identity import command_id, payload_digest
from schemas.records import (
    AccountState,
    BlockAccount,
    CloseAccount,
    CloseDay,
    Crossing,
    CrossingState,
    JournalRecord,
    OpenAccount,
    OpenedAccount,
    Posting,
    PublishProduct,
    SetAccountLimit,
    SetFreeze,
    SetPartnerState,
    Transaction,
)
from tests.crossing_world import Between, bank, pay
from tests.ledger_world import CODEC, DAY, WINDOW_MS

ACME, ZETA, STARK = "acme:w:a", "zeta:w:a", "stark:w:a"
HOME_TRANSIT, AWAY_TRANSIT = ("bank:crossing:CNY", 0), ("bank:crossing:CNY", 1)


def split(key: str, *legs: tuple[Any, ...], **other: Any) -> Transaction:
    """An entry of acme: (account, side, amount[, currency])."""
    return Transaction(
        "acme", key, "wallet", "transfer", 0, "CNY", {}, tuple(Posting(*leg) for leg in legs), DAY, **other
    )


def play(world: Between, rows: list[tuple[int, str, str, str, str, str]]) -> None:
    """Partition, what its next record is, and four balances after it: acme, transit at home, transit away, zeta."""
    for p, said, *balances in rows:
        (r,) = world.deliver(p)
        step = r.changes.get("step", r.command)
        assert f"{step} {r.outcome}{' ' if r.reason else ''}{r.reason}" == said, r
        shown = [world.shown(ACME), world.shown(*HOME_TRANSIT), world.shown(*AWAY_TRANSIT), world.shown(ZETA)]
        assert shown == balances, said
        assert world.totals()["posted CNY"] == world.totals()["pending CNY"] == 0


def done(world: Between) -> bool:
    """Nothing waits, nothing is in flight or pending, and the transit accounts are zero over all partitions."""
    idle = not any(world.waiting(p) for p in range(len(world.sides))) and not world.in_flight()
    pending = any(a.debits_pending or a.credits_pending for a in world.accounts().values())
    return idle and not pending and world.totals().get("transit posted CNY", 0) == 0


def test_a_payment_to_another_partition_step_by_step() -> None:
    world = bank(("acme", "zeta"))
    world.submit(pay("p", 100, ACME, ZETA))
    play(
        world,
        [
            (0, "Transaction applied", "1000-100", "0-100", "-", "1000"),
            (1, "reserve applied", "1000-100", "0-100", "0+100", "1000+100"),
            (0, "Transaction settled", "900", "-100", "0+100", "1000+100"),
            (1, "commit applied", "900", "-100", "100", "1100"),
        ],
    )
    assert done(world)


def test_a_payment_that_is_refused_elsewhere_gives_everything_back() -> None:
    world = bank(("acme", "zeta"))
    world.submit(BlockAccount("bank", "b", ZETA, False, True))
    world.deliver(1)
    world.submit(pay("p", 100, ACME, ZETA))
    play(
        world,
        [
            (0, "Transaction applied", "1000-100", "0-100", "-", "1000"),
            (1, "reserve rejected credits_blocked", "1000-100", "0-100", "-", "1000"),
            (0, "Transaction rejected credits_blocked", "1000", "0", "-", "1000"),
        ],
    )
    assert done(world)


def test_what_is_in_flight_cannot_be_spent_and_what_comes_in_neither() -> None:
    world = bank(("acme", "zeta"))
    world.submit(pay("p", 900, ACME, ZETA))
    world.deliver(0)
    world.deliver(1)
    world.submit(pay("home", 200, ACME, "acme:w:b"), pay("away", 1_100, ZETA, "zeta:w:b"))
    outcomes = [world.deliver(p)[0] for p in (0, 0, 1)]
    assert [(r.idempotency_key, r.outcome, r.reason) for r in outcomes] == [
        ("p", "settled", ""), ("home", "rejected", "insufficient_funds"), ("away", "rejected", "insufficient_funds"),
    ]  # fmt: skip
    world.run()
    assert (world.shown(ACME), world.shown(ZETA)) == ("100", "1900")
    assert done(world)


def test_two_payments_in_opposite_directions_at_once() -> None:
    world = bank(("acme", "zeta"))
    world.submit(pay("p", 1_000, ACME, ZETA), pay("p", 1_000, ZETA, ACME))
    for p in (0, 1):
        assert world.deliver(p)[0].outcome == "applied"
    assert (world.shown(ACME), world.shown(ZETA)) == ("1000-1000", "1000-1000")
    world.run()
    assert (world.shown(ACME), world.shown(ZETA)) == ("1000", "1000")
    assert done(world)


THREE = (("acme:w:a", "debit", 100), ("acme:w:b", "credit", 10), (ZETA, "credit", 30), (STARK, "credit", 60))


def three() -> Between:
    world = bank(("acme", "zeta", "stark"), 3)
    world.submit(split("p", *THREE))
    return world


def balances(world: Between) -> list[str]:
    return [world.shown(a) for a in (ACME, "acme:w:b", ZETA, STARK)]


def test_three_partitions_settle_when_the_last_has_reserved() -> None:
    world = three()
    (r,) = world.deliver(0)
    assert r.changes == {"crossing": "1,2"}
    assert [(x.account_id, x.side, x.change) for x in r.pending] == [
        (ACME, "debit", 100), ("acme:w:b", "credit", 10),
        ("bank:crossing:CNY", "credit", 30), ("bank:crossing:CNY", "credit", 60),
    ]  # fmt: skip
    world.deliver(2)
    (early,) = world.deliver(0)
    assert (early.command, early.outcome, early.changes["step"]) == ("Crossing", "applied", "reserved")
    assert balances(world) == ["1000-100", "1000+10", "1000", "1000+60"]
    world.deliver(1)
    (r,) = world.deliver(0)
    assert (r.command, r.outcome, r.first_offset) == ("Transaction", "settled", world.records(0)[-3].source_offset)
    assert [(x.account_id, x.side, x.amount) for x in r.postings] == [
        (ACME, "debit", 100), ("acme:w:b", "credit", 10),
        ("bank:crossing:CNY", "credit", 30), ("bank:crossing:CNY", "credit", 60),
    ]  # fmt: skip
    assert balances(world) == ["900", "1010", "1000+30", "1000+60"]
    world.run()
    assert balances(world) == ["900", "1010", "1030", "1060"]
    assert done(world)


@pytest.mark.parametrize("refusal_first", [True, False])
def test_one_of_two_refuses_and_the_other_gives_up_what_it_reserved(refusal_first: bool) -> None:
    world = three()
    world.submit(BlockAccount("bank", "b", STARK, False, True))
    world.deliver(2)
    world.deliver(0)
    for p in (2, 1) if refusal_first else (1, 2):
        world.deliver(p)
    said = [(r.command, r.outcome, r.reason) for r in (world.deliver(0)[0], world.deliver(0)[0])]
    rejected = ("Transaction", "rejected", "credits_blocked")
    assert said == (
        [rejected, ("Crossing", "applied", "")] if refusal_first else [("Crossing", "applied", ""), rejected]
    )
    assert balances(world) == ["1000", "1000", "1000+30", "1000"]
    (void,) = world.run()
    assert (void.changes["step"], void.outcome) == ("void", "applied")
    assert balances(world) == ["1000", "1000", "1000", "1000"]
    assert done(world)


def test_two_that_refuse_are_told_by_the_first() -> None:
    world = three()
    world.submit(BlockAccount("bank", "b", STARK, False, True), CloseAccount("bank", "c", "zeta:w:b"))
    world.submit(BlockAccount("bank", "b", ZETA, False, False, freeze=True))
    world.run()
    rejected = [r for r in world.records(0) if r.idempotency_key == "p" and r.outcome == "rejected"]
    assert [r.reason for r in rejected] == ["account_frozen"]
    assert done(world)


def reserve_of(world: Between, p: int = 1) -> Crossing:
    (found,) = [c for c in world.waiting(p) if isinstance(c, Crossing)]
    return found


@pytest.mark.parametrize(
    ("before", "reason", "named"),
    [
        ([CloseAccount("bank", "c", "zeta:w:b")], "account_closed", "account"),
        ([BlockAccount("bank", "f", "zeta:w:b", False, False, freeze=True)], "account_frozen", "account"),
        ([BlockAccount("bank", "b", "zeta:w:b", False, True)], "credits_blocked", "account"),
        ([SetPartnerState("bank", "s", "zeta", "suspended", "ops", "x")], "owner_state", "partner"),
        ([SetFreeze("bank", "z", "partner", "zeta", True, "ops", "x")], "owner_frozen", "partner"),
        ([], "account_unknown", "account"),
        ([], "account_currency", "account_currency"),
        ([], "insufficient_funds", "short"),
    ],
)
def test_every_refusal_of_the_other_partition(before: list[Any], reason: str, named: str) -> None:
    world = bank(("acme", "zeta"), funds=0)
    world.submit(pay("f", 500, "bank:clearing:CNY", ACME))
    payee = {"account_unknown": "zeta:w:none", "account_currency": "zeta:w:yen", "insufficient_funds": "zeta:w:cash"}
    world.submit(
        OpenAccount("bank", "yen", "zeta:w:yen", "liability", "JPY"),
        OpenAccount("bank", "cash", "zeta:w:cash", "asset", "CNY", 0), *before,
    )  # fmt: skip
    world.run()
    world.submit(pay("p", 100, ACME, payee.get(reason, "zeta:w:b")))
    world.deliver(0)
    before_reserve = dict(world.sides[1].rows)
    (refused,) = world.deliver(1)
    assert (refused.outcome, refused.reason, refused.subject_id) == ("rejected", reason, "acme")
    assert {k: v for k, v in world.sides[1].rows.items() if k != "meta"} == {
        k: v for k, v in before_reserve.items() if k != "meta"
    }
    (final,) = world.deliver(0)
    assert (final.command, final.outcome, final.reason, final.detail) == (
        "Transaction", "rejected", reason, refused.detail,
    )  # fmt: skip
    assert refused.detail[named]
    assert world.shown(ACME) == "500"
    assert done(world)


def test_what_is_frozen_before_it_is_reserved_is_refused_there_and_given_back_at_home() -> None:
    """The freeze stands after the payment at home, and before the reserve in the other partition."""
    world = bank(("acme", "zeta"))
    before = world.shown(ACME)
    world.submit(pay("p", 100, ACME, ZETA), SetFreeze("bank", "z", "world", "world", True, "ops", "x"))
    world.run()
    refused = [r for r in world.records(0) if r.idempotency_key == "p" and r.outcome == "rejected"]
    assert [(r.reason, r.detail) for r in refused] == [("world_frozen", {"level": "world"})]
    assert world.shown(ACME) == before
    assert done(world)


@pytest.mark.parametrize(("level", "subjects"), [("world", ["world"]), ("partner", ["acme", "zeta"])])
@pytest.mark.parametrize("refused", [False, True])
def test_what_is_reserved_goes_on_whatever_is_frozen_then(level: str, subjects: list[str], refused: bool) -> None:
    """Commit and void both: nothing stays between the partitions."""
    world = bank(("acme", "zeta", "stark"), 3)
    if refused:
        world.submit(BlockAccount("bank", "b", STARK, False, True))
        world.run()
    world.submit(split("p", (ACME, "debit", 100), (ZETA, "credit", 60), (STARK, "credit", 40)))
    world.deliver(0)
    for p in (1, 2):
        world.deliver(p)
    world.submit(*(SetFreeze("bank", f"z-{s}", level, s, True, "ops", "x") for s in subjects))
    world.run()
    (final,) = [r for r in world.records(0) if r.idempotency_key == "p" and r.outcome != "applied"]
    assert final.outcome == ("rejected" if refused else "settled")
    assert done(world)


def test_a_counter_that_would_pass_its_bound_is_refused() -> None:
    world = bank(("acme", "zeta", "stark"), 3)
    full = world.sides[1].base.accounts[ZETA]
    full.credits_posted = full.debits_posted = COUNTER_MAX - 50
    world.submit(pay("p", 100, ACME, ZETA))
    world.deliver(0)
    assert world.deliver(1)[0].reason == "counter_overflow"
    world.run()
    transit = world.sides[0].base.accounts["bank:crossing:CNY"]
    transit.credits_posted = transit.debits_posted = COUNTER_MAX - 150
    world.submit(split("q", (ACME, "debit", 151), (ZETA, "credit", 100), (STARK, "credit", 51)))
    assert [(r.reason, r.detail["account"]) for r in world.deliver(0)] == [("counter_overflow", "bank:crossing:CNY")]


REFUSED_AT_HOME = [
    (pay("p", 1_001, ACME, ZETA), "insufficient_funds"),
    (pay("p", 0, ACME, ZETA), "amount_not_positive"),
    (pay("p", 1, ACME, ZETA, currency="XXX"), "currency_unknown"),
    (pay("p", 1, ZETA, "zeta:w:b", partner_id="acme"), "account_not_owned"),
    (pay("p", 1, ACME, "zeta:w/a"), "account_unknown"),
    (pay("p", 1, ACME, "zeta:" + "w" * 129), "account_unknown"),
    (pay("p", 1, ACME, "zeta"), "account_unknown"),
    (msgspec.structs.replace(pay("p", 1, ACME, ZETA), operation="hold"), "account_not_owned"),
    (pay("p", 1, ACME, "bank:crossing:CNY"), "account_not_owned"),
    # what the entry brings in does not pay for what leaves before it is settled
    (split("p", (ACME, "debit", 1_100), (ACME, "credit", 200), (ZETA, "credit", 900)), "insufficient_funds"),
    (
        split("p", ("bank:clearing:CNY", "debit", AMOUNT_MAX), ("bank:clearing:CNY", "debit", AMOUNT_MAX),
              (ZETA, "credit", AMOUNT_MAX), ("zeta:w:b", "credit", AMOUNT_MAX)),
        "amount_too_large",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "reason"), REFUSED_AT_HOME)
def test_what_is_refused_at_home_is_not_sent_anywhere(asked: Transaction, reason: str) -> None:
    world = bank(("acme", "zeta"))
    world.submit(asked)
    before = {k: v for k, v in world.sides[0].rows.items() if k != "meta"}
    (r,) = world.deliver(0)
    assert (r.outcome, r.reason) == ("rejected", reason)
    assert {k: v for k, v in world.sides[0].rows.items() if k != "meta"} == before
    assert done(world)


@pytest.mark.parametrize(
    "command",
    [
        OpenAccount("bank", "x", "bank:crossing:JPY", "asset", "JPY"),
        BlockAccount("bank", "x", "bank:crossing:CNY", True, True),
        SetAccountLimit("bank", "x", "bank:crossing:CNY", 0),
        CloseAccount("bank", "x", "bank:crossing:CNY"),
        msgspec.structs.replace(
            split("x", ("bank:crossing:CNY", "debit", 5), (ACME, "credit", 5), note="y"), partner_id="bank",
            operation="adjustment",
        ),
    ],
)  # fmt: skip
def test_transit_accounts_are_the_protocols_alone(command: Any) -> None:
    world = bank(("acme", "zeta"))
    world.submit(pay("p", 100, ACME, ZETA))
    world.run()
    world.submit(command, at=0)
    (r,) = world.deliver(0)
    assert (r.outcome, r.reason) == ("rejected", "account_not_owned")


def test_a_transit_account_is_opened_once_and_told() -> None:
    world = bank(("acme", "zeta"))
    world.submit(pay("p", 1, ACME, ZETA), pay("q", 2, ACME, ZETA))
    world.run()
    opened = [r.opened for p in (0, 1) for r in world.records(p) if r.opened]
    assert opened == [(OpenedAccount("bank:crossing:CNY", "asset", "CNY", None, 0),)] * 2


def test_the_records_of_a_crossing_carry_what_it_is() -> None:
    world = bank(("acme", "zeta"))
    asked = pay("p", 100, ACME, ZETA, reference="order 7", metadata={"shop": "9"})
    world.submit(asked)
    world.run()
    start, final = (r for r in world.records(0) if r.idempotency_key == "p")
    steps = [r for p in (0, 1) for r in world.records(p) if r.command == "Crossing"]
    identity = command_id("acme", "p")
    assert [s.changes for s in steps] == [
        {"step": step, "transaction": identity.hex(), "key": "p"} for step in ("reserve", "commit")
    ]
    for r in (start, final, *steps):
        assert (r.product, r.operation, r.value_date, r.reference, r.metadata) == (
            "wallet", "transfer", DAY, "order 7", {"shop": "9"},
        )  # fmt: skip
    assert [s.subject_id for s in steps] == ["acme", "acme"]
    assert (start.binds_key, final.binds_key) == (True, False)
    assert (final.command_id, final.payload_digest) == (start.command_id, start.payload_digest)
    assert (start.command_id, start.payload_digest) == (identity, payload_digest(asked))
    assert {leg.hold_id for r in (start, final, *steps) for leg in r.pending} == {identity}
    assert steps[0].idempotency_key == f"reserve/{identity.hex()}/0/1/{start.source_offset}"
    assert (final.first_offset, final.subject_id, final.changes) == (start.source_offset, "", {})


def test_the_first_outcome_counts_the_transaction_once() -> None:
    world = bank(("acme", "zeta"))
    before = [s.base.head.record() for s in world.sides]
    world.submit(pay("p", 100, ACME, ZETA))
    world.run()
    for was, side in zip(before, world.sides, strict=True):
        now = side.base.head.record()
        assert now.received == now.settled + now.rejected + now.repeated + now.applied + now.dead
        assert (now.settled - was.settled, now.applied - was.applied) == ((1, 1) if side is world.sides[0] else (0, 2))


# ---- repeats, late answers, strangers ------------------------------------------------------------------------------


def again(world: Between, p: int, command: Any) -> JournalRecord:
    """Brings a command once more, alone."""
    world.submit(command, at=p)
    while len(world.waiting(p)) > 1:
        world.deliver(p)
    return world.deliver(p)[0]


def test_a_transaction_that_is_repeated_in_flight_and_after_it_moves_money_once() -> None:
    world = bank(("acme", "zeta"))
    asked = pay("p", 100, ACME, ZETA)
    world.submit(asked)
    (start,) = world.deliver(0)
    repeat = again(world, 0, asked)
    assert (repeat.outcome, repeat.first_offset) == ("repeated", start.source_offset)
    other = again(world, 0, msgspec.structs.replace(asked, amount=101))
    assert (other.outcome, other.reason) == ("rejected", "idempotency_conflict")
    world.run()
    assert again(world, 0, asked).outcome == "repeated"
    assert (world.shown(ACME), world.shown(ZETA)) == ("900", "1100")
    assert done(world)


def test_every_step_that_comes_again_is_repeated_and_every_late_one_unknown() -> None:
    world = bank(("acme", "zeta"))
    world.submit(pay("p", 100, ACME, ZETA))
    while any(world.waiting(p) for p in (0, 1)):
        for p in (0, 1):
            for c in world.waiting(p)[:1]:
                world.deliver(p)
                if isinstance(c, Crossing):
                    expected = "rejected crossing_unknown" if c.step == "reserved" else "repeated "
                    r = again(world, p, c)  # the answer that decided has no key of its own
                    assert f"{r.outcome} {r.reason}" == expected
                    late = again(world, p, msgspec.structs.replace(c, idempotency_key=f"late {c.step}"))
                    assert (late.outcome, late.reason) == ("rejected", "crossing_unknown")
    world.run()
    assert (world.shown(ACME), world.shown(ZETA)) == ("900", "1100")
    assert done(world)


def test_a_second_reserve_of_a_transaction_that_is_open_is_not_answered() -> None:
    world = bank(("acme", "zeta"))
    world.submit(pay("p", 100, ACME, ZETA))
    world.deliver(0)
    twin = msgspec.structs.replace(reserve_of(world), idempotency_key="twin")
    world.deliver(1)
    answers = len(world.waiting(0))
    r = again(world, 1, twin)
    assert (r.reason, r.changes["step"], len(world.waiting(0))) == ("crossing_unknown", "reserve", answers)
    world.run()
    assert (world.shown(ACME), world.shown(ZETA)) == ("900", "1100")


def test_steps_of_strangers_change_nothing() -> None:
    world = bank(("acme", "zeta", "stark"), 3)
    world.submit(pay("p", 100, ACME, ZETA))
    world.deliver(0)
    reserve = reserve_of(world)
    world.deliver(1)
    (answer,) = [c for c in world.waiting(0) if isinstance(c, Crossing)]
    for p, forged, reason in (
        (0, msgspec.structs.replace(answer, from_partition=2, idempotency_key="1"), "crossing_unknown"),
        (0, msgspec.structs.replace(answer, transaction_id=bytes(16), idempotency_key="2"), "crossing_unknown"),
        (0, msgspec.structs.replace(answer, partner_id="acme", idempotency_key="3"), "not_permitted"),
        (1, msgspec.structs.replace(reserve, step="commit", from_partition=2, idempotency_key="4"), "crossing_unknown"),
        (1, msgspec.structs.replace(reserve, step="commit", partner_id="zeta", idempotency_key="5"), "not_permitted"),
        (1, msgspec.structs.replace(reserve, step="else", idempotency_key="6"), "field_invalid"),
        (1, msgspec.structs.replace(reserve, from_partition=2, legs=(), idempotency_key="7"), "field_invalid"),
        (2, msgspec.structs.replace(reserve, legs=(Posting(STARK, "debit", 5, "CNY"),), idempotency_key="8"), "field_invalid"),
        (2, msgspec.structs.replace(reserve, legs=(Posting("bank:clearing:CNY", "credit", 5, "CNY"),), idempotency_key="9"), "account_unknown"),
    ):  # fmt: skip
        side = world.sides[p]
        side.log.insert(side.next, CODEC.encode(forged))
        (r,) = world.deliver(p)
        assert (r.outcome, r.reason) == ("rejected", reason), forged
    world.run()
    assert (world.shown(ACME), world.shown(ZETA), world.shown(STARK)) == ("900", "1100", "1000")
    assert not world.in_flight()


def test_the_bank_may_use_one_key_in_two_partitions_at_once() -> None:
    """Both transactions have one id; each is told from the other by its home."""
    world = bank(("acme", "zeta"))
    there = pay("k", 70, ACME, ZETA, partner_id="bank")
    back = pay("k", 30, ZETA, ACME, partner_id="bank")
    world.submit(there, at=0)
    world.submit(back, at=1)
    for p in (0, 1, 0, 1):
        assert world.deliver(p)[0].outcome == "applied"
    identity = command_id("bank", "k").hex()
    assert world.in_flight() == [f"{p} x:{home}:{identity}" for p in (0, 1) for home in (0, 1)]
    world.run()
    assert (world.shown(ACME), world.shown(ZETA)) == ("960", "1040")
    assert done(world)


def test_the_key_of_what_is_open_stays_bound_beyond_the_window() -> None:
    world = bank(("acme", "zeta"))
    asked = pay("p", 100, ACME, ZETA)
    world.submit(asked)
    (start,) = world.deliver(0)
    world.waited = 2 * WINDOW_MS
    world.submit(pay("later", 1, ACME, "acme:w:b"))
    world.deliver(0)
    world.sides[0].index.forget(world.sides[0].base.head.event_time)
    world.sides[0] = world.sides[0].cold()
    assert again(world, 0, asked).outcome == "repeated"
    assert again(world, 0, msgspec.structs.replace(asked, amount=3)).first_offset == start.source_offset
    world.run()
    assert again(world, 0, asked).outcome == "applied"  # it is done, and its key forgotten: this is another payment
    world.run()
    assert (world.shown(ACME), world.shown(ZETA)) == ("799", "1200")
    assert done(world)


def test_what_crossed_is_nobodys_original_also_after_a_take_over() -> None:
    world = bank(("acme", "zeta"))
    world.submit(pay("p", 100, ACME, ZETA))
    world.run()
    for _ in range(2):
        for n, operation in enumerate(("refund", "reversal", "capture", "void")):
            amount = 100 if operation in ("refund", "capture") else 0
            key = f"{operation}{n}{world.sides[0].next}"
            world.submit(Transaction("acme", key, "wallet", operation, amount, "CNY", {}, (), DAY, original="p"))
            assert world.deliver(0)[0].reason == "original_mismatch"
        world.sides[0] = world.sides[0].cold()


def test_a_row_says_what_is_open_and_where_it_stands() -> None:
    world = three()
    world.deliver(0)
    world.deliver(2)
    world.deliver(0)
    home: CrossingState = CODEC.decode(world.sides[0].rows[f"x:0:{command_id('acme', 'p').hex()}"])
    away: CrossingState = CODEC.decode(world.sides[2].rows[f"x:0:{command_id('acme', 'p').hex()}"])
    assert [(x.partition, x.answer) for x in home.parts] == [(1, "waiting"), (2, "reserved")]
    assert (home.home, home.home_partition, away.home, away.home_partition, away.parts) == (True, 0, False, 0, ())
    assert away.legs == (Posting("bank:crossing:CNY", "debit", 60, "CNY"), Posting(STARK, "credit", 60, "CNY"))
    assert world.sides[0].base.in_flight == world.sides[0].cold().base.in_flight == 1
    world.run()
    assert world.sides[0].base.in_flight == world.sides[0].cold().base.in_flight == 0


def test_two_currencies_to_one_partition() -> None:
    world = bank(("acme", "zeta"))
    for name in ("acme", "zeta"):
        world.submit(OpenAccount("bank", f"{name}-yen", f"{name}:w:yen", "liability", "JPY", 0))
    for p in (0, 1):
        world.submit(OpenAccount("bank", f"yen-{p}", "bank:clearing:JPY", "asset", "JPY"), at=p)
    world.submit(pay("f", 50, "bank:clearing:JPY", "acme:w:yen", currency="JPY"))
    world.run()
    world.submit(
        split(
            "p",
            ("acme:w:yen", "debit", 50, "JPY"),
            (ZETA, "credit", 7),
            ("zeta:w:yen", "credit", 50, "JPY"),
            (ACME, "debit", 7),
        )
    )
    (start,) = world.deliver(0)
    assert [(x.account_id, x.change) for x in start.pending if x.side == "credit"] == [
        ("bank:crossing:CNY", 7), ("bank:crossing:JPY", 50),
    ]  # fmt: skip
    world.run()
    assert (world.shown(ZETA), world.shown("zeta:w:yen"), world.shown(ACME)) == ("1007", "50", "993")
    assert done(world)
    assert world.totals()["transit posted JPY"] == 0


SCAN = {
    "product": "scan", "version": 3, "title": "Scan to pay",
    "roles": {
        "payer": {"owner": "caller"}, "payee": {"owner": "any"},
        "fees": {"owner": "bank", "account": "bank:fees:{currency}", "open": {"type": "income"}},
    },
    "currencies": ["CNY"],
    "operations": {"pay": {"kind": "transfer", "steps": [
        {"from": "payer", "amount": "amount", "to": [{"role": "payee"}, {"role": "fees", "amount": {"fixed": {"CNY": 5}}}]},
    ]}},
    "limits": [{"window": "day", "currency": "CNY", "amount_max": 250}],
}  # fmt: skip


def test_a_products_payment_crosses_with_its_fee_its_version_and_its_limit() -> None:
    world = bank(("acme", "zeta"))
    text = json.dumps(SCAN, sort_keys=True, separators=(",", ":"))
    for p in (0, 1):
        world.submit(PublishProduct("bank", f"publish-{p}", "scan", 3, 0, text), at=p)
    assert {r.outcome for r in world.run()} == {"applied"}
    base = msgspec.structs.replace(pay("p", 100, ACME, ZETA), product="scan", operation="pay")
    world.submit(base)
    (start,) = world.deliver(0)
    assert (start.outcome, start.product_version) == ("applied", 3)
    assert [o.account_id for o in start.opened] == ["bank:fees:CNY", "bank:crossing:CNY"]
    assert [(x.account_id, x.side, x.change) for x in start.pending] == [
        (ACME, "debit", 100), ("bank:fees:CNY", "credit", 5), ("bank:crossing:CNY", "credit", 95),
    ]  # fmt: skip
    world.run()
    assert (world.shown(ACME), world.shown(ZETA), world.shown("bank:fees:CNY", 0)) == ("900", "1095", "5")
    assert {r.product_version for p in (0, 1) for r in world.records(p) if r.product == "scan"} == {3}
    world.submit(BlockAccount("bank", "b", ZETA, False, True))
    world.run()
    for key, reason in (("q", "credits_blocked"), ("r", "limit_exceeded")):  # what was refused there counts here too
        world.submit(msgspec.structs.replace(base, idempotency_key=key))
        world.run()
        assert [r.reason for r in world.records(0) if r.idempotency_key == key and r.reason] == [reason]
    assert world.shown(ACME) == "900"
    assert done(world)


def test_accounts_take_nothing_else_while_money_is_under_way_to_them() -> None:
    world = bank(("acme", "zeta"), funds=0)
    world.submit(pay("f", 100, "bank:clearing:CNY", ACME))
    world.submit(pay("p", 100, ACME, ZETA))
    for p in (0, 0, 1):
        world.deliver(p)
    world.submit(CloseAccount("bank", "c", ZETA))
    assert world.deliver(1)[0].reason == "account_not_empty"
    world.submit(BlockAccount("bank", "f", ZETA, True, True, freeze=True))
    world.run()  # what was accepted comes in, whatever was decided since
    assert world.shown(ZETA) == "100"
    assert done(world)


def test_a_day_that_is_closed_under_way_moves_the_value_date_on_both_sides() -> None:
    world = bank(("acme", "zeta"))
    world.submit(CloseDay("bank", "d", DAY), at=0)
    world.deliver(0)
    world.submit(pay("q", 100, ACME, ZETA))
    (late,) = world.deliver(0)
    assert (late.value_date, late.changes["late_for"], late.changes["crossing"]) == (DAY + 1, "2026-11-22", "1")
    world.submit(CloseDay("bank", "e", DAY + 1), at=0)
    world.waited = 86_400_000
    world.deliver(0)
    world.run()
    settled = world.records(0)[-1]
    assert (settled.outcome, settled.value_date, settled.changes) == ("settled", DAY + 2, {"late_for": "2026-11-23"})
    commit = world.records(1)[-1]
    assert (commit.value_date, "late_for" in commit.changes) == (DAY + 2, False)
    world.submit(CloseDay("bank", "f", DAY + 3), at=1)
    world.waited = 3 * 86_400_000
    world.submit(pay("r", 100, ACME, ZETA, value_date=DAY + 3))
    world.run()
    assert (world.records(0)[-1].value_date, world.records(1)[-1].value_date) == (DAY + 3, DAY + 4)
    assert world.records(1)[-1].changes["late_for"] == "2026-11-25"
    assert done(world)


@pytest.mark.parametrize("command", ["Crossing", "Tick"])
def test_nobody_outside_can_publish_a_step(command: str) -> None:
    with pytest.raises(ContractError, match="is not a command"):
        read_command({"command": command, "partner_id": "bank", "idempotency_key": "x"}, _today())


def _today() -> Any:
    from datetime import date

    return date(2026, 11, 22)


def test_state_rows_are_as_the_contract_has_them() -> None:
    world = bank(("acme", "zeta"))
    world.submit(pay("p", 100, ACME, ZETA))
    world.run()
    transit = CODEC.decode(world.sides[1].rows["a:bank:crossing:CNY"])
    assert isinstance(transit, AccountState)
    assert (transit.type, transit.min_available, transit.debits_posted, transit.credits_posted) == (
        "asset",
        None,
        100,
        0,
    )
