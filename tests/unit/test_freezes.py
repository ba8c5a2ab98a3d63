"""Freezes of partners, products and the world, and operators' acts: the grid of the page, and what goes on meanwhile."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ledger.freezes import LEVELS
from schemas.identity import route_of
from schemas.records import (
    AdmitPartner,
    BlockAccount,
    CloseAccount,
    FreezeState,
    Limit,
    OpenAccount,
    OperatorAct,
    SetAccountLimit,
    SetFreeze,
    SetLimit,
    Tick,
)
from tests.grids import (
    ALICE,
    BOB,
    CASH,
    CLEARING,
    MIDNIGHT,
    TILL,
    ZOE,
    adjust,
    answer,
    balance,
    bank,
    capture,
    hold,
    refund,
    reversal,
    state,
    transfer,
    void,
)
from tests.ledger_products import WALLET, publish
from tests.ledger_world import BOOKED_AT, CODEC, Ledger, account, key

SHOP = "acme/shop"


def freeze(level: str, subject: str, **other: Any) -> SetFreeze:
    fields: dict[str, Any] = {"requested_by": "li", "note": "court order 12", **other}
    return SetFreeze("bank", fields.pop("idempotency_key", key()), level, subject, fields.pop("frozen", True), **fields)


def thaw(level: str, subject: str, **other: Any) -> SetFreeze:
    return freeze(level, subject, **{"frozen": False, "approved_by": "zhou", **other})


def world() -> SetFreeze:
    return freeze("world", "world")


def ready() -> Ledger:
    """The bank of the grids, with something held, paid and captured to point at, by acme and by the shop below it."""
    ledger = bank()
    steps = [
        transfer("fill", 100, CLEARING, TILL, partner_id=SHOP),
        hold("h", 10), hold("other", 5), capture("c", 1, of="h"), transfer("p", 5),
        hold("sh", 10, TILL, TILL.replace("till", "two"), partner_id=SHOP),
    ]  # fmt: skip
    opened = account(TILL.replace("till", "two"))
    for r in ledger.settle(opened, *steps):
        assert r.outcome in ("applied", "settled"), r
    return ledger


def asks(who: str, payer: str = ALICE, payee: str = BOB) -> dict[str, Any]:
    """Every kind of request, each of which goes through when nothing is frozen."""
    by: dict[str, Any] = {"partner_id": who}
    one: dict[str, Any] = {
        "transfer": transfer("t", 1, payer, payee, **by), "hold": hold("t", 1, payer, payee, **by),
        "void": void("t", of="other" if who == "acme" else "sh", **by),
        "open": OpenAccount(who, "t", f"{who}:w:new", "liability", "CNY", 0),
        "block": BlockAccount(who, "t", payer, True, False), "close": CloseAccount(who, "t", f"{who}:w:empty"),
        "limit": SetLimit(who, "t", "account", payer, (Limit("day", "CNY", None, 10**6),)),
    }  # fmt: skip
    if who == "acme":
        one |= {"capture": capture("t", 1, of="h"), "refund": refund("t", 1, of="p"), "reversal": reversal("t", of="c")}
    else:
        del one["close"]
    return one


def said(ledger: Ledger, command: Any) -> str:
    return answer(ledger.one(command))


@pytest.mark.parametrize("what", asks("acme"))
def test_everything_goes_through_when_nothing_is_frozen(what: str) -> None:
    assert said(ready(), asks("acme")[what]) in ("settled", "applied")


@pytest.mark.parametrize("what", asks("acme"))
def test_a_frozen_partner_asks_for_nothing_but_voids(what: str) -> None:
    ledger = ready()
    assert said(ledger, freeze("partner", "acme")) == "applied"
    record = ledger.one(asks("acme")[what])
    if what == "void":
        assert record.outcome == "settled"
        return
    assert (record.reason, record.detail["partner"]) == ("partner_frozen", "acme")
    assert "court" not in str(record.detail), "nobody is told why"


@pytest.mark.parametrize("frozen", ["acme", SHOP])
@pytest.mark.parametrize("what", asks(SHOP))
def test_what_is_below_is_frozen_with_it(what: str, frozen: str) -> None:
    ledger = ready()
    ledger.one(freeze("partner", frozen))
    record = ledger.one(asks(SHOP, TILL, TILL.replace("till", "two"))[what])
    if what == "void":
        assert record.outcome == "settled"
        return
    assert (record.reason, record.detail["partner"]) == ("partner_frozen", frozen)


@pytest.mark.parametrize("what", asks("acme"))
def test_a_frozen_world_takes_nothing_but_voids(what: str) -> None:
    ledger = ready()
    ledger.one(world())
    assert said(ledger, asks("acme")[what]) == ("settled" if what == "void" else "world_frozen")


@pytest.mark.parametrize("subject", ["acme", SHOP])
@pytest.mark.parametrize(
    "command",
    [
        transfer("t", 1, ALICE, TILL), transfer("t", 1, TILL, ALICE), hold("t", 1, ALICE, TILL),
        transfer("t", 1, ZOE, TILL, partner_id="zeta"), transfer("t", 1, CLEARING, TILL, partner_id="bank"),
        transfer("t", 1, TILL, CLEARING, partner_id="bank"),
    ],
    ids=["credit", "debit", "hold", "another root", "the bank pays", "the bank takes"],
)  # fmt: skip
def test_nobody_else_moves_the_money_of_a_frozen_partner(command: Any, subject: str) -> None:
    ledger = ready()
    ledger.one(freeze("partner", subject))
    record = ledger.one(command)
    expected = "partner_frozen" if command.partner_id == subject else "owner_frozen"
    assert (record.reason, record.detail["partner"]) == (expected, subject)
    assert record.detail.get("account", TILL) == TILL


def test_a_partner_above_goes_on_without_it() -> None:
    ledger = ready()
    ledger.one(freeze("partner", SHOP))
    assert said(ledger, transfer("t", 1)) == "settled"
    assert said(ledger, freeze("partner", "acme/sho")) == "partner_unknown"
    assert said(ledger, transfer("z", 1, ZOE, ALICE, partner_id="zeta")) == "settled"


def test_an_account_is_opened_for_a_frozen_partner_by_nobody() -> None:
    ledger = ready()
    ledger.one(freeze("partner", SHOP))
    for by in ("bank", "acme"):
        record = ledger.one(OpenAccount(by, key(), f"{SHOP}:w:x", "liability", "CNY", 0))
        assert (record.reason, record.detail) == ("partner_frozen", {"field": "account_id", "partner": SHOP})


@pytest.mark.parametrize(("level", "subject"), [("partner", "acme"), ("world", "world")])
def test_the_bank_goes_on(level: str, subject: str) -> None:
    """Adjustments, and every command of the bank's; holds lapse; days are closed elsewhere (test_closing)."""
    ledger = ready()
    ledger.settle(hold("soon", 3, until=5), times=[MIDNIGHT])
    ledger.one(freeze(level, subject))
    commands = [
        adjust("a", (ALICE, "debit", 1), (CLEARING, "credit", 1)), BlockAccount("bank", key(), ALICE, True, False),
        SetAccountLimit("bank", key(), BOB, 0), CloseAccount("bank", key(), "acme:w:empty"), state("acme", "suspended"),
        state("acme", "live"), AdmitPartner("bank", key(), "acme/new"), SetLimit("bank", key(), "partner", "acme"),
        freeze("account", BOB), thaw("account", BOB),
    ]  # fmt: skip
    assert [answer(r) for r in ledger.settle(*commands)] == ["settled", *["applied"] * 9]
    assert balance(ledger, ALICE).endswith("-17")  # 9 of h, 5 of other, 3 of soon
    (tick,) = ledger.settle(Tick("bank", "t"), times=[MIDNIGHT + 5_000])
    assert [p.change for p in tick.pending] == [-3, -3]


def test_an_adjustment_reaches_a_frozen_partner_and_a_partner_gives_none() -> None:
    ledger = ready()
    ledger.settle(freeze("partner", "acme"), freeze("account", ALICE))
    assert said(ledger, adjust("a", (ALICE, "debit", 1), (CLEARING, "credit", 1))) == "settled"
    assert said(ledger, adjust("b", (ALICE, "debit", 1), (BOB, "credit", 1), partner_id="acme")) == "not_permitted"


def test_freezes_come_in_their_order_after_the_state() -> None:
    ledger = ready()
    ledger.settle(world(), freeze("partner", "acme"), freeze("partner", SHOP), state("acme", "suspended"))
    wrong = msgspec.structs.replace(transfer("w", 0, ALICE, TILL), value_date=-1)
    order = []
    for mend in (state("acme", "live"), thaw("world", "world"), thaw("partner", "acme"), None):
        order.append(said(ledger, msgspec.structs.replace(wrong, idempotency_key=key())))
        if mend is not None:
            ledger.one(mend)
    assert order == ["partner_suspended", "world_frozen", "partner_frozen", "field_invalid value_date"]
    assert said(ledger, transfer("r", 1, ALICE, TILL)) == "owner_frozen"


def on_the_shelf() -> Ledger:
    ledger = ready()
    assert said(ledger, publish("w", WALLET)) == "applied"
    return ledger


@pytest.mark.parametrize("limited", [False, True], ids=["settled quickly", "looked at closely"])
def test_a_frozen_product_is_not_to_be_had(limited: bool) -> None:
    """Plain transfers are settled by a short cut as long as nothing is limited: it must know of freezes too."""
    ledger = on_the_shelf()
    name, pays = "wallet", [transfer(f"t{i}", 1) for i in range(4)]
    if limited:
        ledger.one(SetLimit("bank", key(), "partner", "acme", (Limit("day", "", 1_000, None),)))
    assert said(ledger, pays[0]) == "settled"
    assert said(ledger, freeze("product", name)) == "applied"
    record = ledger.one(pays[1])
    assert (record.reason, record.detail) == ("product_frozen", {"field": "product", "product": name})
    assert said(ledger, freeze("product", "nothing")) == "product_unknown"
    assert said(ledger, thaw("product", name, approved_by="")) == "applied"
    assert said(ledger, pays[2]) == "settled"


@pytest.mark.parametrize("shelf", [False, True])
def test_the_short_cut_knows_of_freezes_within_one_batch(shelf: bool) -> None:
    ledger = on_the_shelf() if shelf else ready()
    pay = [transfer(f"t{i}", 1) for i in range(7)]
    batch = [
        pay[0], world(), pay[1], thaw("world", "world"), pay[2], freeze("partner", "acme"), pay[3],
        thaw("partner", "acme"), pay[4], freeze("account", BOB), pay[5], thaw("account", BOB), pay[6],
    ]  # fmt: skip
    got = [answer(r) for r in ledger.settle(*batch) if r.command == "Transaction"]
    assert got == ["settled", "world_frozen", "settled", "partner_frozen", "settled", "account_frozen", "settled"]


def test_a_draft_on_top_knows_what_the_one_below_froze() -> None:
    ledger = ready()
    below, records = ledger.draft([world()])
    above, (record,) = ledger.draft([transfer("t", 1)], (below,))
    assert record.reason == "world_frozen"
    lifted, lift = ledger.draft([thaw("world", "world"), transfer("u", 1)], (above, below))
    assert [answer(r) for r in lift] == ["applied", "settled"]
    for draft, of in ((below, records), (above, [record]), (lifted, lift)):
        ledger.commit(draft, of)
    assert ledger.base.freezes == 0
    assert not [k for k in ledger.base.rows if k.startswith("f:")]


FIELDS = [
    ("field_invalid requested_by", {"requested_by": ""}), ("field_invalid requested_by", {"requested_by": "x" * 1_025}),
    ("field_invalid note", {"note": ""}), ("field_invalid note", {"note": "x" * 1_025}),
    ("field_invalid level", {"level": "city"}), ("field_invalid subject_id", {"level": "world"}),
    ("field_invalid approved_by", {"approved_by": "li"}), ("field_invalid approved_by", {"approved_by": "x" * 1_025}),
    ("field_invalid approved_by", {"frozen": False}),
    ("field_invalid approved_by", {"frozen": False, "level": "world", "subject_id": "world"}),
    ("field_invalid approved_by", {"frozen": False, "approved_by": "li"}),
    ("not_permitted", {"partner_id": "acme", "note": ""}), ("partner_unknown", {"subject_id": "nobody"}),
    ("partner_unknown", {"subject_id": "bank"}), ("account_unknown", {"level": "account", "subject_id": "acme:w:no"}),
    ("account_not_owned", {"level": "account", "subject_id": "bank:crossing:CNY"}),
    ("applied", {"note": "x" * 1_024, "requested_by": "x" * 1_024, "approved_by": "y" * 1_024}),
    ("applied", {"level": "account", "subject_id": ALICE, "frozen": False}),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "fields"), FIELDS, ids=[f"{i}-{f[0]}" for i, f in enumerate(FIELDS)])
def test_what_stands_against_a_freeze(expected: str, fields: dict[str, Any]) -> None:
    ledger = ready()
    plain = {"partner_id": "bank", "level": "partner", "subject_id": "acme", "frozen": True, "requested_by": "li",
             "note": "order"}  # fmt: skip
    assert said(ledger, SetFreeze(idempotency_key="f", **{**plain, **fields})) == expected


def test_who_froze_first_and_why_stands_until_it_is_lifted() -> None:
    ledger = ready()
    first, again = ledger.settle(freeze("partner", SHOP), freeze("partner", SHOP, requested_by="wu", note="other"))
    row = ledger.base.rows[f"f:partner:{SHOP}"]
    assert row == FreezeState("partner", SHOP, "li", "court order 12", "", first.booked_at, first.source_offset)
    assert again.outcome == "applied"
    assert again.changes == {"level": "partner", "frozen": "true", "requested_by": "wu", "note": "other"}
    lifted, twice = ledger.settle(thaw("partner", SHOP), thaw("partner", SHOP))
    assert lifted.outcome == twice.outcome == "applied"
    assert lifted.changes["approved_by"] == "zhou"
    assert f"f:partner:{SHOP}" not in ledger.base.rows


def test_an_account_has_its_flag_and_a_row() -> None:
    ledger = ready()
    record = ledger.one(freeze("account", ALICE))
    assert ledger.base.accounts[ALICE].frozen
    assert ledger.base.accounts[ALICE].offset == record.source_offset
    ledger.one(freeze("account", ALICE))
    assert ledger.base.accounts[ALICE].offset == record.source_offset, "nothing changed"
    assert said(ledger, transfer("t", 1)) == "account_frozen"
    ledger.one(BlockAccount("bank", key(), ALICE, True, False, freeze=True))
    assert f"f:account:{ALICE}" in ledger.base.rows
    ledger.one(BlockAccount("bank", key(), ALICE, False, False))
    assert not ledger.base.accounts[ALICE].frozen
    assert f"f:account:{ALICE}" not in ledger.base.rows


def test_an_account_that_block_account_froze_is_lifted_as_well() -> None:
    ledger = ready()
    ledger.one(BlockAccount("bank", key(), ALICE, False, False, freeze=True))
    assert not [k for k in ledger.base.rows if k.startswith("f:")]
    assert said(ledger, thaw("account", ALICE, approved_by="")) == "applied"
    assert said(ledger, transfer("t", 1)) == "settled"


def test_a_closed_account_can_still_be_let_go() -> None:
    ledger = ready()
    ledger.settle(freeze("account", "acme:w:empty"), CloseAccount("bank", key(), "acme:w:empty"))
    assert said(ledger, thaw("account", "acme:w:empty")) == "applied"
    assert not ledger.base.accounts["acme:w:empty"].frozen


def test_levels_stand_each_for_itself() -> None:
    ledger = ready()
    ledger.settle(world(), freeze("partner", "acme"), freeze("account", ALICE))
    left = []
    for level, subject in (("world", "world"), ("partner", "acme"), ("account", ALICE)):
        left.append(said(ledger, transfer(f"t-{level}", 1)))
        ledger.one(thaw(level, subject))
    assert left == ["world_frozen", "partner_frozen", "account_frozen"]
    assert said(ledger, transfer("last", 1)) == "settled"


def test_a_worker_that_takes_over_finds_it_frozen() -> None:
    ledger = ready()
    ledger.settle(freeze("partner", SHOP), world(), thaw("world", "world"))
    again = ledger.restarted()
    assert again.base.freezes == 1
    assert said(again, transfer("t", 1, ALICE, TILL)) == "owner_frozen"
    assert again.rows() == ledger.rows() | {k: v for k, v in again.rows().items() if k not in ledger.rows()}


def test_old_rows_and_records_know_nothing_of_it_and_stay_readable() -> None:
    """A state and a journal without any of it make a ledger in which nothing is frozen."""
    ledger = bank()
    assert [CODEC.decode(v).command for v in ledger.journal].count("SetFreeze") == 0
    again = ledger.restarted()
    assert (again.base.freezes, said(again, transfer("t", 1, payer=CASH, payee=CASH))) == (0, "same_account")


ACTS = [
    ("applied", {}), ("applied", {"digest": "", "approved_by": ""}), ("not_permitted", {"partner_id": "acme", "act": ""}),
    ("field_invalid requested_by", {"requested_by": ""}), ("field_invalid note", {"note": ""}),
    ("field_invalid act", {"act": "Replay"}), ("field_invalid act", {"act": ""}), ("field_invalid act", {"act": "a" * 65}),
    ("applied", {"act": "a" * 64}), ("applied", {"subject_id": "x"}), ("field_invalid subject_id", {"subject_id": ""}),
    ("field_invalid subject_id", {"subject_id": "x" * 1_025}), ("field_invalid digest", {"digest": "ab"}),
    ("field_invalid digest", {"digest": "AB" * 32}), ("field_invalid approved_by", {"approved_by": "chen"}),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "fields"), ACTS, ids=[f"{i}-{a[0]}" for i, a in enumerate(ACTS)])
def test_an_act_changes_nothing_and_stands_in_the_journal(expected: str, fields: dict[str, str]) -> None:
    ledger = ready()
    before = ledger.snapshot()
    plain = {"partner_id": "bank", "act": "replay.apply", "subject_id": "replay-7", "digest": "ab" * 32,
             "requested_by": "chen", "approved_by": "li", "note": "fees of November"}  # fmt: skip
    given = {**plain, **fields}
    record = ledger.one(OperatorAct(idempotency_key="o", **given))
    assert answer(record) == expected
    assert ledger.snapshot() == before
    if expected == "applied":
        named = ("act", "digest", "requested_by", "note", "approved_by")
        assert record.subject_id == given["subject_id"]
        assert {k: v for k, v in record.changes.items() if v} == {k: given[k] for k in named if given[k]}


def test_an_act_stands_once_and_freezes_where_they_are_needed() -> None:
    assert len(route_of(OperatorAct("bank", "o", "a", "s", ""), 8)[1]) == 1
    places = {level: len(route_of(freeze(level, "acme"), 8)[1]) for level in LEVELS}
    assert places == {"account": 1, "partner": 1, "product": 8, "world": 8}
    assert route_of(freeze("partner", "acme/shop"), 8) == route_of(freeze("account", ALICE), 8)


def test_the_time_of_a_row_is_the_log_s() -> None:
    ledger = ready()
    (record,) = ledger.settle(freeze("partner", SHOP), times=[BOOKED_AT - 5])
    row = ledger.base.rows[f"f:partner:{SHOP}"]
    assert isinstance(row, FreezeState)
    assert row.since == ledger.base.head.event_time > record.booked_at
