"""The Book by examples: each reason, nothing changed by a refusal, limits counted at the end, keys bound to payloads."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import msgspec
import pytest

from clearline.generator import generate
from ledger.accounts import Account
from ledger.book import Book
from ledger.money import AMOUNT_MAX, COUNTER_MAX, EXPONENTS, format_minor
from ledger.reasons import MEANING, Reason
from ledger.state import ZERO_CHAIN, Draft, Head, PartitionBase
from schemas.errors import InvariantError
from schemas.identity import command_id, payload_digest
from schemas.records import (
    AccountState,
    AdmitPartner,
    BlockAccount,
    CloseAccount,
    NamedAmount,
    OpenAccount,
    PartitionState,
    SetAccountLimit,
)
from tests.grids import state
from tests.ledger_world import CODEC, DAY, Ledger, account, admit, entry, key, pay, small_bank

ALICE, BOB, SHOP, YEN, CLEARING = "acme:w:alice", "acme:w:bob", "acme/shop:w:till", "acme:w:yen", "bank:clearing:CNY"


def block(name: str, debits: bool, credits: bool, by: str = "bank") -> BlockAccount:
    return BlockAccount(by, key(), name, debits, credits)


def freeze(name: str) -> BlockAccount:
    return BlockAccount("bank", key(), name, False, False, freeze=True)


def full_account(ledger: Ledger) -> None:
    """Puts an account where one more posting passes the counter; only a restored state can be there."""
    ledger.base.accounts["acme:w:full"] = Account.from_state(
        AccountState("acme:w:full", "liability", "CNY", None, False, False, False, 0, 0, 0, COUNTER_MAX - 5, 0)
    )


# Reason -> (commands before, the command that is refused, what the detail names at least)
SUSPEND = state("acme", "suspended")
CASES: list[tuple[Reason, list[Any], Any, dict[str, str]]] = [
    (Reason.PARTNER_UNKNOWN, [], pay("nobody", ALICE, BOB, 1), {"partner": "nobody"}),
    (Reason.PARTNER_UNKNOWN, [], state("nobody", "live"), {"partner": "nobody"}),
    (Reason.PARTNER_UNKNOWN, [], OpenAccount("bank", "k", "nobody:w", "liability", "CNY"), {"partner": "nobody"}),
    (Reason.PARTNER_SUSPENDED, [SUSPEND], pay("acme", ALICE, BOB, 1), {"partner": "acme"}),
    (Reason.PARTNER_SUSPENDED, [SUSPEND], pay("acme/shop", SHOP, BOB, 1), {"partner": "acme"}),
    (Reason.PARTNER_SUSPENDED, [SUSPEND], CloseAccount("acme/shop", "k", SHOP), {"partner": "acme"}),
    (Reason.OPERATION_UNKNOWN, [], pay("acme", ALICE, BOB, 1, operation="teleport"), {"operation": "teleport"}),
    (Reason.FIELD_INVALID, [], pay("acme", ALICE, BOB, 1, value_date=-1), {"field": "value_date"}),
    (Reason.FIELD_INVALID, [], pay("acme", ALICE, BOB, 1, value_date=2_932_897), {"field": "value_date"}),
    (Reason.FIELD_INVALID, [], pay("acme", ALICE, BOB, 1, reference="x" * 1025), {"field": "reference"}),
    (Reason.FIELD_INVALID, [], pay("acme", ALICE, BOB, 1, metadata={str(i): "" for i in range(65)}), {"field": "metadata"}),
    (Reason.ROLE_MISSING, [], pay("acme", ALICE, BOB, 1, accounts={"payer": ALICE}), {"role": "payee"}),
    (Reason.ROLE_MISSING, [], pay("acme", "", "", 1, accounts={}), {"role": "payee", "roles": "payee,payer"}),
    (Reason.ROLE_UNKNOWN, [], pay("acme", ALICE, BOB, 1, accounts={"payer": ALICE, "fee": BOB, "cut": BOB}), {"role": "cut"}),
    (Reason.FIELD_INVALID, [], pay("acme", ALICE, BOB, 1, rate="1.5"), {"field": "rate"}),
    (Reason.FIELD_INVALID, [], pay("acme", ALICE, BOB, 1, amounts=(NamedAmount("fee", 1),)), {"field": "amounts"}),
    (Reason.FIELD_INVALID, [], entry("acme", (ALICE, "debit", 5), (BOB, "credit", 5), amount=5), {"field": "amount"}),
    (Reason.FIELD_INVALID, [], entry("acme", (ALICE, "debit", 5), (BOB, "credit", 5), accounts={"a": "b"}), {"field": "accounts"}),
    (Reason.FIELD_INVALID, [], entry("acme", (ALICE, "debit", 5), (BOB, "left", 5)), {"field": "postings[1].side"}),
    (Reason.FIELD_INVALID, [], OpenAccount("bank", "k", "acme:", "liability", "CNY"), {"field": "account_id"}),
    (Reason.FIELD_INVALID, [], OpenAccount("bank", "k", "acme:w:new", "gold", "CNY"), {"field": "type"}),
    (Reason.FIELD_INVALID, [], admit("Acme"), {"field": "subject_id"}),
    (Reason.FIELD_INVALID, [], admit("bank/branch"), {"field": "subject_id"}),
    (Reason.CURRENCY_UNKNOWN, [], pay("acme", ALICE, BOB, 1, "XAU"), {"currency": "XAU"}),
    (Reason.CURRENCY_UNKNOWN, [], entry("acme", (ALICE, "debit", 5), (BOB, "credit", 5, "cny")), {"currency": "cny"}),
    (Reason.EXPONENT_MISMATCH, [], pay("acme", ALICE, BOB, 1, exponent=3), {"field": "exponent", "allowed": "2"}),
    (Reason.EXPONENT_MISMATCH, [], pay("acme", YEN, "acme:w:yen2", 1, "JPY", exponent=2), {"currency": "JPY"}),
    (Reason.EXPONENT_MISMATCH, [], entry("acme", (ALICE, "debit", 5), (BOB, "credit", 4), exponent=0), {}),
    (Reason.CURRENCY_UNKNOWN, [], OpenAccount("bank", "k", "acme:w:new", "liability", "BTC"), {"currency": "BTC"}),
    (Reason.AMOUNT_NOT_POSITIVE, [], pay("acme", ALICE, BOB, 0), {"field": "amount", "amount": "0"}),
    (Reason.AMOUNT_NOT_POSITIVE, [], pay("acme", ALICE, BOB, -1), {"amount": "-1"}),
    (Reason.AMOUNT_NOT_POSITIVE, [], entry("acme", (ALICE, "debit", 0), (BOB, "credit", 0)), {"field": "postings[0].amount"}),
    (Reason.AMOUNT_TOO_LARGE, [], pay("acme", ALICE, BOB, AMOUNT_MAX + 1), {"limit": str(AMOUNT_MAX)}),
    (Reason.AMOUNT_TOO_LARGE, [], SetAccountLimit("bank", "k", ALICE, AMOUNT_MAX + 1), {"field": "min_available"}),
    (Reason.POSTINGS_COUNT, [], entry("acme", (ALICE, "debit", 5)), {"count": "1"}),
    (Reason.POSTINGS_COUNT, [], entry("acme", *[(ALICE, "debit", 1), (BOB, "credit", 1)] * 501), {"count": "1002"}),
    (Reason.POSTINGS_UNBALANCED, [], entry("acme", (ALICE, "debit", 5), (BOB, "credit", 4)), {"debits": "5", "credits": "4"}),
    (Reason.POSTINGS_UNBALANCED, [], entry("acme", (ALICE, "debit", 5), (YEN, "credit", 5, "JPY")), {"currency": "CNY"}),
    (Reason.ACCOUNT_UNKNOWN, [], pay("acme", "acme:w:carol", BOB, 1), {"field": "accounts.payer", "account": "acme:w:carol"}),
    (Reason.ACCOUNT_UNKNOWN, [], pay("acme", ALICE, "acme:w:carol", 1), {"field": "accounts.payee"}),
    (Reason.ACCOUNT_UNKNOWN, [], entry("acme", (ALICE, "debit", 5), ("?", "credit", 5)), {"field": "postings[1].account_id"}),
    (Reason.ACCOUNT_UNKNOWN, [], block("acme:w:carol", True, True), {"account": "acme:w:carol"}),
    (Reason.ACCOUNT_NOT_OWNED, [], pay("acme", "zeta:w:zoe", ALICE, 1), {"account": "zeta:w:zoe", "partner": "acme"}),
    (Reason.ACCOUNT_NOT_OWNED, [], pay("acme", "zeta:w:who", ALICE, 1), {"field": "accounts.payer"}),
    (Reason.ACCOUNT_NOT_OWNED, [], pay("acme", ALICE, "zeta:w:zoe", 1, operation="hold"), {"field": "accounts.payee"}),
    (Reason.ACCOUNT_NOT_OWNED, [], pay("acme", ALICE, "bank:crossing:CNY", 1), {"field": "accounts.payee"}),
    (Reason.ACCOUNT_NOT_OWNED, [], pay("bank", "bank:crossing:CNY", ALICE, 1), {"field": "accounts.payer"}),
    (Reason.ACCOUNT_NOT_OWNED, [], account("bank:crossing:CNY", "asset"), {"account": "bank:crossing:CNY"}),
    (Reason.ACCOUNT_NOT_OWNED, [], block("bank:crossing:CNY", True, True), {"account": "bank:crossing:CNY"}),
    (Reason.ACCOUNT_NOT_OWNED, [], pay("acme/shop", ALICE, SHOP, 1), {"account": ALICE}),
    (Reason.OWNER_STATE, [state("acme/shop", "suspended")], pay("acme", ALICE, SHOP, 1),
     {"account": SHOP, "partner": "acme/shop", "state": "suspended", "field": "accounts.payee"}),
    (Reason.ACCOUNT_CLOSED, [CloseAccount("bank", "c", "acme:w:empty")], pay("acme", ALICE, "acme:w:empty", 1), {}),
    (Reason.ACCOUNT_CLOSED, [CloseAccount("bank", "c", "acme:w:empty")], CloseAccount("bank", "d", "acme:w:empty"), {}),
    (Reason.ACCOUNT_CURRENCY, [], pay("acme", YEN, ALICE, 1), {"currency": "CNY", "account_currency": "JPY"}),
    (Reason.DEBITS_BLOCKED, [block(ALICE, True, False)], pay("acme", ALICE, BOB, 1), {"account": ALICE}),
    (Reason.CREDITS_BLOCKED, [block(BOB, False, True)], pay("acme", ALICE, BOB, 1), {"account": BOB}),
    (Reason.SAME_ACCOUNT, [], pay("acme", ALICE, ALICE, 1), {"account": ALICE}),
    (Reason.INSUFFICIENT_FUNDS, [], pay("acme", ALICE, BOB, 100_001),
     {"account": ALICE, "available": "100000", "allowed": "0", "short": "1", "limit": "min_available"}),
    (Reason.INSUFFICIENT_FUNDS, [], pay("acme", CLEARING, "acme:cash", 1), {}),
    (Reason.INSUFFICIENT_FUNDS, [], entry("acme", (ALICE, "debit", 100_001), (BOB, "credit", 100_001)), {"short": "1"}),
    (Reason.COUNTER_OVERFLOW, [full_account], pay("acme", ALICE, "acme:w:full", 6), {"limit": str(COUNTER_MAX)}),
    (Reason.COUNTER_OVERFLOW, [full_account], entry("acme", (ALICE, "debit", 6), ("acme:w:full", "credit", 6)),
     {"account": "acme:w:full"}),
    (Reason.NOT_PERMITTED, [], AdmitPartner("acme", "k", "acme/new"), {"partner": "acme"}),
    (Reason.NOT_PERMITTED, [], state("acme/shop", "suspended", by="acme"), {"partner": "acme"}),
    (Reason.NOT_PERMITTED, [], SetAccountLimit("acme", "k", ALICE, -5), {"account": ALICE}),
    (Reason.NOT_PERMITTED, [], OpenAccount("acme/shop", "k", "acme:w:new", "liability", "CNY"), {}),
    (Reason.NOT_PERMITTED, [], OpenAccount("acme", "k", "acme:w:new", "liability", "CNY", None), {"field": "min_available"}),
    (Reason.NOT_PERMITTED, [], OpenAccount("acme", "k", "acme:w:new", "liability", "CNY", -1), {"field": "min_available"}),
    (Reason.NOT_PERMITTED, [], CloseAccount("zeta", "k", ALICE), {}),
    (Reason.NOT_PERMITTED, [block(ALICE, True, True)], block(ALICE, False, True, by="acme"), {"account": ALICE}),
    (Reason.ACCOUNT_EXISTS, [], account(ALICE), {"account": ALICE}),
    (Reason.ACCOUNT_NOT_EMPTY, [], CloseAccount("acme", "k", ALICE), {"available": "100000"}),
    (Reason.PARTNER_EXISTS, [], admit("acme"), {"partner": "acme"}),
    (Reason.PARENT_UNKNOWN, [], admit("nobody/shop"), {"partner": "nobody"}),
    (Reason.PARENT_UNKNOWN, [AdmitPartner("bank", "x", "zeta/x", state="applied"), state("zeta/x", "exited")], admit("zeta/x/y"), {"partner": "zeta/x"}),
    (Reason.STATE_UNKNOWN, [], state("acme", "closed"), {"field": "state"}),
    (Reason.STATE_UNKNOWN, [], AdmitPartner("bank", "k", "new", state="sandbox"), {"field": "state"}),
    (Reason.FIELD_INVALID, [], state("acme", "suspended", requested_by=""), {"field": "requested_by"}),
    (Reason.FIELD_INVALID, [], state("acme", "suspended", note=""), {"field": "note"}),
    (Reason.ACCOUNT_FROZEN, [freeze(BOB)], pay("acme", ALICE, BOB, 1), {"account": BOB, "field": "accounts.payee"}),
    (Reason.ACCOUNT_FROZEN, [freeze(ALICE)], pay("acme", ALICE, BOB, 1), {"account": ALICE, "field": "accounts.payer"}),
    (Reason.NOT_PERMITTED, [freeze(ALICE)], block(ALICE, False, False, by="acme"), {"account": ALICE}),
    (Reason.NOT_PERMITTED, [], OpenAccount("acme", "k", "acme:w:new", "liability", "CNY", 0, credit_limit=1),
     {"field": "credit_limit"}),
    (Reason.FIELD_INVALID, [], SetAccountLimit("bank", "k", ALICE, 0, credit_limit=-1), {"field": "credit_limit"}),
    (Reason.FIELD_INVALID, [], SetAccountLimit("bank", "k", ALICE, None, credit_limit=1), {"field": "credit_limit"}),
    (Reason.AMOUNT_TOO_LARGE, [], OpenAccount("bank", "k", "acme:n", "asset", "CNY", 0, credit_limit=2**63),
     {"field": "credit_limit"}),
    (Reason.INSUFFICIENT_FUNDS, [SetAccountLimit("bank", "l", ALICE, 10, credit_limit=60)], pay("acme", ALICE, BOB, 100_051),
     {"allowed": "-50", "short": "1", "limit": "credit_limit"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "before", "command", "names"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)]
)
def test_a_refused_command_gives_its_reason_and_changes_nothing(reason, before, command, names):
    ledger = small_bank()
    for b in before:
        if callable(b):
            b(ledger)
        else:
            assert ledger.one(b).outcome == "applied"
    state, head = ledger.snapshot(), ledger.base.head.copy()
    draft, (record,) = ledger.draft([command])
    assert ledger.snapshot(draft) == ledger.snapshot() == state
    assert draft.changed_accounts() == []
    assert draft.changed_partners() == []
    assert (record.outcome, record.reason, record.binds_key, record.first_offset) == ("rejected", reason, True, -1)
    assert record.postings == ()
    assert record.changes == {}
    assert record.detail.items() >= names.items()
    ledger.commit(draft, [record])
    assert ledger.snapshot() == state
    after = ledger.base.head
    assert (after.rejected, after.received, after.sequence, after.next_offset) == (
        head.rejected + 1, head.received + 1, head.sequence + 1, head.next_offset + 1
    )  # fmt: skip
    assert (after.settled, after.applied, after.repeated, after.dead) == (head.settled, head.applied, head.repeated, 0)


def test_every_reason_is_reachable_and_explained():
    told_by_other_tests = {  # each has a grid or a case in a module beside this one
        Reason.IDEMPOTENCY_CONFLICT, Reason.ORIGINAL_UNKNOWN, Reason.ORIGINAL_MISMATCH, Reason.HOLD_EXPIRED,
        Reason.HOLD_CLOSED, Reason.CAPTURE_EXCEEDS_HOLD, Reason.REFUND_EXCEEDS_PAYMENT,  # test_operations.py
        Reason.RATE_INVALID, Reason.LIMIT_EXCEEDED, Reason.DAY_CLOSED, Reason.DAY_AHEAD,  # test_terms.py, test_exchange.py
        Reason.PARTNER_STATE, Reason.STATE_TRANSITION, Reason.PARTNER_NOT_EMPTY,  # test_partners.py
        Reason.PRODUCT_UNKNOWN, Reason.PRODUCT_CURRENCY, Reason.PRODUCT_VERSION, Reason.PRODUCT_INVALID,  # products
        Reason.TEMPLATE_UNBALANCED, Reason.SPLIT_EXCEEDS_AMOUNT, Reason.NOTHING_TO_MOVE,  # products
        Reason.CROSSING_UNKNOWN,  # test_crossing.py
        Reason.DAY_OPEN, Reason.DAY_SEALED,  # test_closing.py
        Reason.WORLD_FROZEN, Reason.PARTNER_FROZEN, Reason.PRODUCT_FROZEN, Reason.OWNER_FROZEN,  # test_freezes.py
    }  # fmt: skip
    assert {c[0] for c in CASES} | told_by_other_tests == set(Reason)
    assert set(MEANING) == set(Reason)
    assert all(text.endswith(".") for text in MEANING.values())


def test_when_several_reasons_apply_the_first_of_the_list_is_given():
    ledger = small_bank()
    ledger.settle(block(BOB, True, True), CloseAccount("bank", "c", "acme:w:empty"))
    legs = [(ALICE, "debit", 5), (BOB, "credit", 5), ("acme:w:empty", "credit", 0, "XXX"), ("zeta:w:zoe", "left", 1)]
    wrong = entry("acme", *legs, operation="teleport", value_date=-1)
    order = []
    for mend in (
        {"operation": "transfer"}, {"value_date": DAY},
        {"postings": (*wrong.postings[:3], msgspec.structs.replace(wrong.postings[3], side="debit"))},
        {"postings": tuple(msgspec.structs.replace(p, currency="") for p in wrong.postings[:3])},
        {"postings": tuple(msgspec.structs.replace(p, currency="", amount=n) for p, n in zip(wrong.postings[:3], (5, 5, 1), strict=True))},
        {"postings": tuple(msgspec.structs.replace(p, currency="", amount=n) for p, n in zip(wrong.postings[:3], (6, 5, 1), strict=True))},
        {"postings": wrong.postings[:2]}, {},
    ):  # fmt: skip
        order.append(ledger.one(msgspec.structs.replace(wrong, idempotency_key=key())).reason)
        wrong = msgspec.structs.replace(wrong, **mend)
    assert order == ["operation_unknown", "field_invalid", "field_invalid", "currency_unknown", "amount_not_positive",
                     "postings_unbalanced", "account_closed", "credits_blocked"]  # fmt: skip


# What settles.


def test_a_transfer_moves_money_and_says_the_counters_after():
    ledger = small_bank()
    (record,) = ledger.settle(pay("acme", ALICE, BOB, 30_000, reference="rent", metadata={"m": "11"}))
    assert (record.outcome, record.reason, record.binds_key) == ("settled", "", True)
    debit, credit = record.postings
    assert (debit.account_id, debit.side, debit.amount, debit.currency) == (ALICE, "debit", 30_000, "CNY")
    assert (debit.debits_posted, debit.credits_posted) == (30_000, 100_000)
    assert (credit.account_id, credit.side, credit.credits_posted) == (BOB, "credit", 130_000)
    assert (record.reference, record.metadata, record.value_date, record.source_partition) == (
        "rent",
        {"m": "11"},
        DAY,
        3,
    )
    assert ledger.base.accounts[ALICE].available() == 70_000


def test_the_last_unit_may_go_and_not_one_more():
    ledger = small_bank()
    assert ledger.one(pay("acme", ALICE, BOB, 100_000)).outcome == "settled"
    assert ledger.one(pay("acme", ALICE, BOB, 1)).reason == "insufficient_funds"
    ledger.one(SetAccountLimit("bank", key(), ALICE, -50))
    assert ledger.one(pay("acme", ALICE, BOB, 51)).reason == "insufficient_funds"
    assert ledger.one(pay("acme", ALICE, BOB, 50)).outcome == "settled"
    ledger.one(SetAccountLimit("bank", key(), ALICE, None))
    assert ledger.one(pay("acme", ALICE, BOB, 10**15)).outcome == "settled"
    ledger.one(SetAccountLimit("bank", key(), ALICE, 0))
    assert ledger.one(pay("acme", BOB, ALICE, 5)).outcome == "settled", "money may always come in below the limit"


def test_limits_count_after_all_legs_of_an_entry():
    ledger = small_bank()
    through = entry("acme", ("acme:w:empty", "debit", 500), (ALICE, "debit", 500), ("acme:w:empty", "credit", 500),
                    (BOB, "credit", 500))  # fmt: skip
    assert ledger.one(through).outcome == "settled"
    short = entry("acme", ("acme:w:empty", "debit", 500), (ALICE, "debit", 1), ("acme:w:empty", "credit", 499),
                  (BOB, "credit", 2))  # fmt: skip
    assert ledger.one(short).reason == "insufficient_funds"


def test_an_entry_of_several_currencies_balances_in_each():
    ledger = small_bank()
    exchange = entry("acme", (ALICE, "debit", 480), (CLEARING, "credit", 480), ("bank:clearing:JPY", "debit", 100, "JPY"),
                     (YEN, "credit", 100, "JPY"))  # fmt: skip
    assert ledger.one(exchange).outcome == "settled"
    assert ledger.base.accounts[YEN].credits_posted == 600


def test_a_partner_reaches_down_its_tree_and_its_shops_pay_up():
    ledger = small_bank()
    assert ledger.one(pay("acme", SHOP, ALICE, 1)).outcome == "settled"
    assert ledger.one(pay("acme/shop", SHOP, ALICE, 1)).outcome == "settled"
    ledger.one(admit("acme/shopping"))
    assert ledger.one(pay("acme/shopping", SHOP, ALICE, 1)).reason == "account_not_owned", "a path is not a prefix"


def test_1000_postings_settle_and_1001_do_not():
    ledger = small_bank()
    legs = [(ALICE, "debit", 999), *((BOB, "credit", 1) for _ in range(999))]
    record = ledger.one(entry("acme", *legs))
    assert record.outcome == "settled"
    assert len(record.postings) == 1000
    assert [p.credits_posted for p in record.postings[1:]] == list(range(100_001, 101_000))
    assert CODEC.decode(CODEC.encode(record)) == record
    assert ledger.one(entry("acme", *legs, (BOB, "credit", 1))).reason == "postings_count"


def test_counters_pass_64_bits_and_survive_state_and_journal():
    ledger = small_bank()
    ledger.settle(SetAccountLimit("bank", key(), ALICE, None))
    for _ in range(5):
        record = ledger.one(pay("acme", ALICE, BOB, AMOUNT_MAX))
        assert record.outcome == "settled"
    bob = ledger.base.accounts[BOB]
    assert bob.credits_posted == 5 * (2**63 - 1) + 100_000 > 2**65
    assert ledger.base.accounts[ALICE].available() == 100_000 - 5 * AMOUNT_MAX
    state = CODEC.decode(CODEC.encode(bob.state()))
    assert Account.from_state(state).state() == bob.state() == state
    assert CODEC.decode(ledger.journal[-1]).postings[1].credits_posted == bob.credits_posted


def test_the_last_counter_value_is_reached():
    ledger = small_bank()
    full_account(ledger)
    record = ledger.one(pay("acme", ALICE, "acme:w:full", 5))
    assert record.postings[1].credits_posted == COUNTER_MAX == 10**38 - 1
    assert CODEC.decode(CODEC.encode(record)) == record


# Keys.


def test_the_same_command_again_points_to_the_first_outcome_and_moves_nothing():
    ledger = small_bank()
    payment = pay("acme", ALICE, BOB, 10)
    (first, again) = ledger.settle(payment, payment)
    state = ledger.snapshot()
    (later,) = ledger.settle(payment)
    for record in (again, later):
        assert (record.outcome, record.first_offset, record.binds_key) == ("repeated", first.source_offset, False)
        assert (record.postings, record.reason) == ((), "")
    assert ledger.snapshot() == state
    assert ledger.base.head.repeated == 2


@pytest.mark.parametrize("later", [False, True])
def test_the_same_key_with_another_payload_is_refused_and_keeps_the_first(later):
    ledger = small_bank()
    payment = pay("acme", ALICE, BOB, 10)
    other = msgspec.structs.replace(payment, amount=11)
    (first,) = ledger.settle(payment)
    batch = [other, payment] if later else [other]
    record = ledger.settle(*batch)[0]
    assert (record.outcome, record.reason, record.first_offset, record.binds_key) == (
        "rejected", "idempotency_conflict", first.source_offset, False
    )  # fmt: skip
    assert ledger.one(payment).first_offset == first.source_offset


def test_a_refusal_binds_its_key_too():
    ledger = small_bank()
    payment = pay("acme", "acme:w:empty", BOB, 10)
    refused = ledger.one(payment)
    ledger.one(pay("acme", ALICE, "acme:w:empty", 10))
    again = ledger.one(payment)
    assert (refused.reason, again.outcome, again.first_offset) == (
        "insufficient_funds",
        "repeated",
        refused.source_offset,
    )


def test_two_partners_may_use_the_same_key_and_control_commands_have_keys_too():
    ledger = small_bank()
    a, b = (
        pay("acme", ALICE, BOB, 1, idempotency_key="same"),
        pay("zeta", "zeta:w:zoe", CLEARING, 1, idempotency_key="same"),
    )
    assert [r.outcome for r in ledger.settle(a, b)] == ["settled", "settled"]
    opened = account("acme:w:new")
    assert [r.outcome for r in ledger.settle(opened, opened)] == ["applied", "repeated"]
    assert ledger.one(msgspec.structs.replace(opened, account_id="acme:w:newer")).reason == "idempotency_conflict"


# Control.


def test_a_suspended_partner_goes_on_after_it_is_live_again():
    ledger = small_bank()
    down, up = state("acme/shop", "suspended"), state("acme/shop", "live")
    outcomes = ledger.settle(pay("acme/shop", SHOP, BOB, 1), down, pay("acme/shop", SHOP, BOB, 1),
                             pay("acme/shop/till", SHOP, BOB, 1), pay("acme", SHOP, BOB, 1), up,
                             pay("acme/shop", SHOP, BOB, 1))  # fmt: skip
    assert [r.reason or r.outcome for r in outcomes] == [
        "settled", "applied", "partner_suspended", "partner_suspended", "owner_state", "applied", "settled"
    ]  # fmt: skip


def test_a_partner_blocks_its_account_and_only_the_bank_lifts_it():
    ledger = small_bank()
    blocked = ledger.one(block(ALICE, True, False, by="acme"))
    assert (blocked.outcome, blocked.subject_id) == ("applied", ALICE)
    assert blocked.changes == {"block_debits": "true", "block_credits": "false", "freeze": "false"}
    assert ledger.one(block(ALICE, True, True, by="acme")).outcome == "applied"
    assert ledger.one(block(ALICE, True, False, by="acme")).reason == "not_permitted"
    assert ledger.one(block(ALICE, False, False)).outcome == "applied"
    assert ledger.one(pay("acme", ALICE, BOB, 1)).outcome == "settled"


def test_an_account_closes_when_it_is_empty_and_for_good():
    ledger = small_bank()
    ledger.one(pay("acme", ALICE, BOB, 100_000))
    assert ledger.one(CloseAccount("acme", key(), ALICE, "api", "left")).changes == {
        "closed": "true", "requested_by": "api", "note": "left"
    }  # fmt: skip
    assert ledger.one(pay("acme", BOB, ALICE, 1)).reason == "account_closed"
    assert ledger.one(account(ALICE)).reason == "account_exists"


# The log.


def test_sequence_and_chain_run_over_all_outcomes():
    ledger = small_bank()
    ledger.settle(pay("acme", ALICE, BOB, 1), pay("acme", ALICE, "?", 1))
    chain, previous = ZERO_CHAIN, 0
    for value in ledger.journal:
        record = CODEC.decode(value)
        assert record.sequence == previous + 1
        previous = record.sequence
        chain = hashlib.sha256(chain + CODEC.journal_body(record)).digest()
        assert chain == record.chain
    assert chain == ledger.base.head.chain


def test_what_was_received_is_what_became_of_it():
    ledger = small_bank()
    payment = pay("acme", ALICE, BOB, 1)
    ledger.settle(payment, payment, pay("acme", ALICE, "?", 1))
    draft = Draft(ledger.base)
    Book(3, draft).dead(draft.head.next_offset + 4, 5)
    draft.merge()
    h = ledger.base.head
    assert h.received == h.settled + h.rejected + h.repeated + h.applied + h.dead
    assert (h.dead, h.repeated, h.rejected, h.sequence) == (1, 1, 1, h.received - 1)
    assert Head.from_record(CODEC.decode(CODEC.encode(h.record()))).record() == h.record()
    assert isinstance(h.record(), PartitionState)


@pytest.mark.parametrize("again", [0, 1])
def test_an_offset_that_comes_again_stops_the_partition(again):
    ledger = small_bank()
    draft = Draft(ledger.base)
    book = Book(3, draft)
    payment = pay("acme", ALICE, BOB, 1)
    offset, name, digest = draft.head.next_offset - 1, command_id("a", "b"), payload_digest(payment)
    attempt = partial(book.dead, offset, 1) if again else partial(book.settle, payment, name, digest, offset, 1)
    with pytest.raises(InvariantError, match="came again"):
        attempt()


def test_time_does_not_run_backwards():
    ledger = small_bank()
    before = ledger.base.head.event_time
    draft = Draft(ledger.base)
    payment = pay("acme", ALICE, BOB, 1)
    record = Book(3, draft).settle(payment, b"i" * 16, b"d" * 8, draft.head.next_offset, 5)
    assert (record.booked_at, draft.head.event_time) == (5, before)


# Drafts.


def test_a_dropped_draft_leaves_no_trace():
    ledger = small_bank()
    state = ledger.snapshot()
    draft, first = ledger.draft(
        [pay("acme", ALICE, BOB, 1, idempotency_key="d"), admit("acme/new"), block(ALICE, True, True)]
    )
    assert ledger.snapshot() == state
    del draft
    again, second = ledger.draft([pay("acme", ALICE, BOB, 1, idempotency_key="d")])
    assert second[0] == first[0]
    ledger.commit(again, second)
    assert ledger.snapshot() != state


def test_a_draft_sees_the_drafts_below_it_and_they_merge_in_order():
    ledger, plain = small_bank(), small_bank()
    batches: list[list[Any]] = [[pay("acme", ALICE, BOB, 100_000, idempotency_key="1"), msgspec.structs.replace(admit("acme/new"), idempotency_key="0")],
               [pay("acme", BOB, ALICE, 200_000, idempotency_key="2"), pay("acme", ALICE, BOB, 100_000, idempotency_key="1")],
               [account("acme/new:w"), pay("acme", ALICE, "acme/new:w", 200_000, idempotency_key="3")]]  # fmt: skip
    first, a = ledger.draft(batches[0])
    second, b = ledger.draft(batches[1], (first,))
    third, c = ledger.draft(batches[2], (second, first))
    for draft, records in ((first, a), (second, b), (third, c)):
        ledger.commit(draft, records)
    together = plain.settle(*(x for batch in batches for x in batch))
    assert [r.outcome for r in (*a, *b, *c)] == ["settled", "applied", "settled", "repeated", "applied", "settled"]
    assert [*a, *b, *c] == together
    assert ledger.snapshot() == plain.snapshot()
    assert ledger.base.head.record() == plain.base.head.record()


def test_a_base_starts_from_nothing():
    head = PartitionBase().head
    assert (head.next_offset, head.sequence, head.chain) == (0, 0, bytes(32))


# Money.


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [(12550, "CNY", "125.50"), (5, "CNY", "0.05"), (-5, "CNY", "-0.05"), (0, "CNY", "0.00"), (125, "JPY", "125"),
     (-1, "JPY", "-1"), (1, "KWD", "0.001"), (2**80, "EUR", "12089258196146291747061.76")],
)  # fmt: skip
def test_minor_units_as_people_read_them(amount, currency, text):
    assert format_minor(amount, currency) == text


def test_currencies_are_iso_4217():
    assert set(EXPONENTS.values()) == {0, 2, 3}
    assert all(len(c) == 3 and c.isupper() for c in EXPONENTS)
    assert {"CNY": 2, "JPY": 0, "KWD": 3}.items() <= EXPONENTS.items()
    with pytest.raises(KeyError):
        format_minor(1, "XAU")


def test_a_check_says_what_would_become_of_a_command_and_changes_nothing():
    """For every command of a generated day: the decision of the dry run is the decision, legs and all."""
    book = Book(0, Draft(PartitionBase()))
    seen = set()
    for offset, item in enumerate(generate(5, 3_000, partners_max=6, accounts_max=60)):
        c = item.command
        if item.damage:
            continue
        named = command_id(c.partner_id, c.idempotency_key), payload_digest(c)
        foreseen = book.check(c, *named, offset)
        assert book.check(c, *named, offset) == foreseen
        record = book.settle(c, *named, max(offset, book.head.next_offset), offset)
        assert msgspec.structs.replace(foreseen, source_offset=record.source_offset) == record
        seen.add((record.operation, record.outcome))
    assert {("hold", "settled"), ("capture", "settled"), ("refund", "settled"), ("transfer", "rejected")} <= seen


@pytest.mark.parametrize("kind", ["asset", "expense", "liability", "equity", "income"])
def test_a_partner_opens_only_accounts_whose_debits_take_from_somebody(kind):
    """A debit of an asset account meets no floor: whoever opened one for himself could pay out of nothing."""
    ledger = small_bank()
    opened = ledger.one(OpenAccount("acme", key(), "acme:magic", kind, "CNY", 0))
    if kind in ("asset", "expense"):
        assert (opened.reason, opened.detail["field"]) == ("not_permitted", "type")
        assert ledger.one(OpenAccount("bank", key(), "acme:magic", kind, "CNY", 0)).outcome == "applied"
    else:
        assert opened.outcome == "applied"
        assert ledger.one(pay("acme", "acme:magic", "acme:w:alice", 1)).reason == "insufficient_funds"
