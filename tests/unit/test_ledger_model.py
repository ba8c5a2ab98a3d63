"""The tests' model by numbers worked out by hand from docs/operations.md and docs/products.md: it is what others are
compared with, so somebody must look at it too."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import msgspec
import pytest

from schemas.records import (
    AdmitPartner,
    BlockAccount,
    CloseDay,
    ClosedDay,
    Limit,
    NamedAmount,
    OpenAccount,
    Posting,
    SetCalendar,
    SetLimit,
    SetPartnerState,
    Tick,
    Transaction,
    ZoneOffset,
)
from tests.ledger_model import LONG_MAX, Answer, Entry, Model
from tests.ledger_products import SHELF, broken, publish
from tests.ledger_world import BOOKED_AT, DAY
from tests.model import calendars, documents, limits, templates, transactions

HOUR = 3_600_000


class Bank:
    """A model with some partners and accounts; every command a second later."""

    def __init__(self, partition: int = 0, partitions: int = 1, root: str = "acme") -> None:
        self.model = Model(partition=partition, partitions=partitions)
        self.root, self.n = root, 0
        for p in (root, f"{root}/shop", f"{root}/shop/till"):
            self.do(AdmitPartner("bank", "", p, p))
        for name, kind in (("w", "liability"), ("x", "liability"), ("cash", "asset")):
            self.do(OpenAccount("bank", "", f"{root}:{name}", kind, "CNY", 0 if kind == "liability" else None))
        self.do(OpenAccount("bank", "", f"{root}/shop:w", "liability", "CNY", 0))
        self.do(OpenAccount("bank", "", f"{root}:yen", "liability", "JPY", 0))
        for currency in ("CNY", "JPY", "KWD"):
            self.do(OpenAccount("bank", "", f"bank:till:{currency}", "asset", currency))

    def do(self, c: Any, at: int = 0) -> Answer:
        """Settles a command under a new key, unless it has one."""
        self.n += 1
        if not c.idempotency_key:
            c = msgspec.structs.replace(c, idempotency_key=f"k{self.n}")
        return self.model.settle(c, self.n, at or BOOKED_AT + self.n * 1_000)

    def ask(self, operation: str, amount: int = 0, partner: str = "", **other: Any) -> Answer:
        fields: dict[str, Any] = {
            "accounts": {},
            "postings": (),
            "value_date": DAY,
            "product": "wallet",
            "currency": "CNY",
        }
        fields |= {"idempotency_key": ""} | other
        return self.do(Transaction(partner_id=partner or self.root, operation=operation, amount=amount, **fields))

    def move(self, payer: str, payee: str, amount: int, **other: Any) -> Answer:
        return self.ask("transfer", amount, accounts={"payer": payer, "payee": payee}, **other)

    def fund(self, name: str, amount: int) -> None:
        assert self.move("bank:till:CNY", name, amount).outcome == "settled"

    def shelve(self) -> None:
        for document, later in SHELF:
            assert self.do(publish("", document, DAY + later if later else 0)).outcome == "applied"

    def balance(self, name: str) -> int:
        return self.model.accounts[name].available()


def legs(answer: Answer) -> list[tuple[str, str, int]]:
    assert answer.outcome == "settled", answer
    return [(p[0], p[1], p[2]) for p in answer.postings]


def test_a_credit_limit_lets_an_account_go_so_far_below():
    bank = Bank()
    bank.do(OpenAccount("bank", "", "acme:credit", "liability", "CNY", -10, credit_limit=90))
    assert bank.move("acme:credit", "acme:w", 101).reason == "insufficient_funds"
    answer = bank.move("acme:credit", "acme:w", 101)
    assert answer.detail == {"account": "acme:credit", "limit": "credit_limit", "allowed": "-100"}
    assert bank.move("acme:credit", "acme:w", 100).outcome == "settled"
    assert bank.balance("acme:credit") == -100


def test_a_frozen_account_takes_nothing_but_adjustments():
    bank = Bank()
    bank.fund("acme:w", 100)
    assert bank.do(BlockAccount("acme", "", "acme:w", False, False, freeze=True)).outcome == "applied"
    assert bank.move("acme:w", "acme:x", 1).reason == "account_frozen"
    assert bank.move("bank:till:CNY", "acme:w", 1).reason == "account_frozen"
    postings = (Posting("acme:w", "debit", 40), Posting("acme:x", "credit", 40))
    assert bank.ask("adjustment", partner="bank", postings=postings, note="why").outcome == "settled"
    assert bank.do(BlockAccount("acme", "", "acme:w", False, False)).reason == "not_permitted"
    assert bank.do(BlockAccount("bank", "", "acme:w", False, False)).outcome == "applied"
    assert (bank.balance("acme:w"), bank.balance("acme:x")) == (60, 40)


@pytest.mark.parametrize(
    ("amount", "rate", "currency", "other", "bought"),
    [
        (10_000, "20.5", "CNY", "JPY", 2_050),  # 100.00 CNY are 2,050 yen
        (1, "20.5", "CNY", "JPY", 0),  # 0.205 yen
        (1, "50", "CNY", "JPY", 1),  # half a yen is rounded up
        (1, "49.999999999999", "CNY", "JPY", 0),
        (100, "0.05", "JPY", "CNY", 500),
        (1, "0.0025", "JPY", "KWD", 3),  # 2.5 fils
        (12_345, "0.0425", "CNY", "KWD", 5_247),  # 123.45 × 0.0425 = 5.246625 dinar
        (LONG_MAX, "1", "JPY", "KWD", LONG_MAX * 1_000),
    ],
)
def test_what_an_exchange_buys(amount, rate, currency, other, bought):
    t = Transaction("acme", "k", "wallet", "exchange", amount, currency, {}, (), DAY, rate=rate)
    assert transactions.bought(t, other) == bought


def test_an_exchange_has_four_legs_and_its_reasons_in_order():
    bank = Bank()
    bank.fund("acme:w", 10_000)
    roles = {"payer": "acme:w", "payee": "acme:yen", "sold": "bank:till:CNY", "bought": "bank:till:JPY"}
    answer = bank.ask("exchange", 1_000, accounts=roles, rate="20.5", idempotency_key="e")
    assert legs(answer) == [
        ("acme:w", "debit", 1_000), ("bank:till:CNY", "credit", 1_000),
        ("bank:till:JPY", "debit", 205), ("acme:yen", "credit", 205),
    ]  # fmt: skip
    for rate in ("", "0", "0.000", "-1", "1.", ".5", "1e3", "1234567890123", "1.1234567890123"):
        assert bank.ask("exchange", 1, accounts=roles, rate=rate).reason == "rate_invalid", rate
    assert bank.ask("exchange", 1, accounts=roles, rate="20.5").reason == "rate_invalid"  # a fifth of a yen
    assert bank.ask("exchange", 1, accounts=roles | {"payee": "acme:x"}, rate="2").reason == "account_currency"
    assert bank.ask("exchange", 1, accounts=roles | {"sold": "acme:x"}, rate="2").reason == "account_not_owned"
    assert bank.ask("exchange", 1, accounts={"payer": "acme:w"}, rate="2").reason == "role_missing"
    assert bank.ask("exchange", 1, accounts=roles | {"fee": "acme:w"}, rate="2").reason == "role_unknown"
    assert bank.ask("refund", 1, original="e").reason == "original_mismatch"
    assert len(legs(bank.ask("reversal", original="e"))) == 4
    assert (bank.balance("acme:w"), bank.balance("acme:yen")) == (10_000, 0)


def test_the_life_of_a_partner():
    bank = Bank()
    bank.fund("acme/shop:w", 100)

    def becomes(state: str, subject: str = "acme/shop") -> str:
        answer = bank.do(SetPartnerState("bank", "", subject, state, "ops", "why"))
        return answer.reason or answer.outcome

    assert (
        bank.ask("transfer", 1, accounts={"payer": "acme/shop:w", "payee": "acme:w"}, idempotency_key="t").outcome
        == "settled"
    )
    assert (
        bank.ask(
            "hold", 5, partner="acme/shop", accounts={"payer": "acme/shop:w", "payee": "acme:w"}, idempotency_key="h"
        ).outcome
        == "settled"
    )
    assert becomes("live") == becomes("sandbox") == "state_transition"
    assert becomes("gone") == "state_unknown"
    assert becomes("suspended") == "applied"
    by_shop: dict[str, Any] = {"partner": "acme/shop", "accounts": {"payer": "acme/shop:w", "payee": "acme:w"}}
    assert bank.ask("transfer", 1, **by_shop).reason == "partner_suspended"
    assert bank.ask("capture", 5, partner="acme/shop", original="h").reason == "partner_suspended"
    assert bank.move("acme:w", "acme/shop:w", 1).reason == "owner_state"
    assert bank.ask("refund", 1, original="t").outcome == "settled"  # it is repaid
    assert becomes("exiting") == "applied"
    assert bank.ask("hold", 1, **by_shop).reason == "partner_state"
    assert bank.ask("transfer", 95, **by_shop).outcome == "settled"
    assert becomes("exited") == "partner_not_empty"
    assert bank.ask("capture", 5, partner="acme/shop", original="h").outcome == "settled"
    assert becomes("exited") == "partner_not_empty"  # the till below it is live
    assert becomes("exiting", "acme/shop/till") == "applied"
    assert becomes("exited", "acme/shop/till") == "applied"
    assert becomes("exited") == "applied"
    assert bank.do(AdmitPartner("bank", "", "acme/shop/new", "new")).reason == "parent_unknown"


def below() -> Bank:
    """acme/shop and acme/shop/till have 100 each; payments, holds and one payment out of the till stand."""
    bank = Bank()
    bank.do(OpenAccount("bank", "", "acme/shop/till:w", "liability", "CNY", 0))
    bank.fund("acme/shop:w", 100)
    bank.fund("acme/shop/till:w", 100)
    for key in ("h1", "h2"):
        bank.ask("hold", 20, accounts={"payer": "acme/shop/till:w", "payee": "acme:w"}, idempotency_key=key)
    bank.move("acme/shop:w", "acme/shop/till:w", 10, idempotency_key="in")
    bank.move("acme/shop/till:w", "acme:w", 10, idempotency_key="out")
    return bank


def test_whoever_is_above_may_not_do_what_a_partner_may_not():
    bank = below()
    bank.do(SetPartnerState("bank", "", "acme/shop", "exiting", "ops", "why"))
    held = {"payer": "acme/shop/till:w", "payee": "acme:w"}
    assert bank.move("acme/shop/till:w", "acme:w", 1).outcome == "settled"  # a transfer
    answer = bank.ask("hold", 1, accounts=held)
    assert answer.reason == "owner_state"
    assert answer.detail == {"account": "acme/shop/till:w", "partner": "acme/shop", "state": "exiting"}
    bank.do(SetPartnerState("bank", "", "acme/shop/till", "suspended", "ops", "why"))
    answer = bank.move("acme/shop/till:w", "acme:w", 1)
    assert answer.detail == {"account": "acme/shop/till:w", "partner": "acme/shop/till", "state": "suspended"}
    assert bank.move("acme/shop/till:w", "acme:w", 1, partner="bank").outcome == "settled"
    assert bank.ask("capture", 1, original="h1").reason == "owner_state"
    assert bank.ask("void", original="h2").outcome == "settled"
    assert bank.ask("refund", 1, original="in").outcome == "settled"  # it may give back
    assert bank.ask("reversal", original="in").reason == "refund_exceeds_payment"
    assert bank.ask("reversal", original="out").outcome == "settled"  # nothing is taken from it
    postings = (Posting("acme/shop/till:w", "debit", 1), Posting("acme:w", "credit", 1))
    assert bank.ask("transfer", postings=postings).reason == "owner_state"
    assert bank.ask("adjustment", partner="bank", postings=postings, note="why").outcome == "settled"


def test_a_reversal_may_not_take_from_who_is_suspended():
    bank = below()
    bank.do(SetPartnerState("bank", "", "acme/shop/till", "suspended", "ops", "why"))
    answer = bank.ask("reversal", original="in")
    assert (answer.reason, answer.detail["partner"]) == ("owner_state", "acme/shop/till")


def test_limits_of_those_below_bind_whoever_is_above():
    bank = below()
    for subject, most in (("acme/shop", 9), ("acme/shop/till", 5)):
        bank.do(SetLimit("bank", "", "partner", subject, (Limit("day", "CNY", None, most),)))
    assert bank.move("acme/shop/till:w", "acme:w", 6, partner="bank").outcome == "settled"
    assert bank.model.usage == {}
    postings = (
        Posting("acme/shop:w", "debit", 4), Posting("acme/shop/till:w", "debit", 3),
        Posting("acme/shop/till:w", "debit", 1), Posting("acme:w", "credit", 8),
    )  # fmt: skip
    assert bank.ask("transfer", postings=postings).outcome == "settled"
    assert {s: rows[0].amount for s, rows in bank.model.usage.items()} == {
        ("partner", "acme/shop"): 8, ("partner", "acme/shop/till"): 4
    }  # fmt: skip
    answer = bank.move("acme/shop/till:w", "acme:w", 2)  # from above down: of both that say no the shop does
    assert (answer.reason, answer.detail["subject"], answer.detail["used"]) == ("limit_exceeded", "acme/shop", "8")
    assert bank.move("acme:w", "acme/shop:w", 10).outcome == "settled"  # what comes in is not asked
    assert bank.move("acme/shop:w", "acme:w", 1, partner="acme/shop").outcome == "settled"


def test_a_date_of_yesterday_does_not_bring_yesterdays_prices():
    bank = Bank()
    bank.fund("acme:w", 5_000)
    bank.shelve()

    def version(at: int, value_date: int = DAY) -> int:
        to = {"payer": "acme:w", "payee": "acme/shop:w"}
        t = Transaction("acme", "", "shop", "pay", 100, "CNY", to, (), value_date)
        answer = bank.do(t, at)
        assert answer.outcome == "settled", answer
        return answer.version

    third = (DAY + 3) * 24 * HOUR  # midnight before the day from which version 2 counts
    assert [version(third - 2), version(third - 1, DAY + 3), version(third), version(third + 1, 0)] == [1, 2, 2, 2]
    bank.do(SetCalendar("bank", "", "bank", "x", (ZoneOffset(0, -60),)), third + 2)
    assert [version(third + 3), version(third + HOUR - 1), version(third + HOUR)] == [1, 1, 2]
    bank.do(SetCalendar("bank", "", "acme", "x", (ZoneOffset(0, -720),)), third + HOUR + 1)
    assert version(third + HOUR + 2) == 2  # not the partner's calendar


CHINA = SetCalendar("bank", "", "bank", "Asia/Shanghai", (ZoneOffset(0, 480),), 96, (ClosedDay(DAY + 1),))


def test_business_days_and_windows():
    sunday = DAY  # 2026-11-22
    assert (date(1970, 1, 1) + timedelta(days=sunday)).isoformat() == "2026-11-22"
    saturday_evening = (sunday - 1) * 24 * HOUR + 15 * HOUR  # 23:00 in Shanghai
    assert calendars.local_day(CHINA, saturday_evening) == sunday - 1
    assert calendars.local_day(CHINA, saturday_evening + HOUR) == sunday
    assert calendars.business_day(CHINA, saturday_evening) == sunday + 2  # Monday is closed too
    assert calendars.next_day(CHINA, sunday - 2) == sunday + 2
    assert calendars.business_day(None, saturday_evening) == sunday - 1
    assert calendars.window_number(CHINA, "month", saturday_evening) == 56 * 12 + 10
    assert calendars.window_number(None, "hour", saturday_evening) == saturday_evening // HOUR
    end_of_month = calendars.window_number(CHINA, "month", (20_787 * 24 + 15) * HOUR)  # 30 November, 23:00 there
    assert calendars.window_number(CHINA, "month", (20_787 * 24 + 16) * HOUR) == end_of_month + 1
    berlin = SetCalendar(
        "bank", "", "bank", "Europe/Berlin", (ZoneOffset(1_000 * HOUR, 120), ZoneOffset(2_000 * HOUR, 60))
    )
    assert [calendars.local_ms(berlin, h * HOUR) // HOUR - h for h in (0, 1_000, 1_999, 2_000, 9_999)] == [
        2,
        2,
        2,
        1,
        1,
    ]


def test_limits_of_each_level_bind_what_is_below():
    bank = Bank()
    bank.fund("acme/shop:w", 10_000)
    to = {"payer": "acme/shop:w", "payee": "acme/shop/till:w"}
    bank.do(OpenAccount("bank", "", "acme/shop/till:w", "liability", "CNY", 0))

    def limited(level: str, subject: str, *of: Limit) -> None:
        assert bank.do(SetLimit("bank", "", level, subject, of)).outcome == "applied"

    def pay(amount: int) -> Answer:
        return bank.ask("transfer", amount, partner="acme/shop", accounts=to)

    limited("partner", "acme", Limit("day", "CNY", None, 100))
    assert pay(60).outcome == "settled"
    answer = pay(41)
    assert (answer.reason, dict(answer.detail)) == ("limit_exceeded", {
        "field": "amount", "limit": "amount per day", "level": "partner", "subject": "acme", "used": "60", "asked": "41",
        "allowed": "100", "currency": "CNY",
    })  # fmt: skip
    assert pay(40).outcome == "settled"
    limited("partner", "acme", Limit("day", "CNY", None, 1_000))  # what was used stays used
    assert pay(901).reason == "limit_exceeded"
    limited("partner", "acme")
    limited("account", "acme/shop:w", Limit("hour", "", 1, None))
    assert pay(1).outcome == "settled"
    assert pay(1).detail["limit"] == "count per hour"
    limited("account", "acme/shop:w")
    limited("partner", "acme/shop", Limit("transaction", "JPY", None, 5))
    answer = pay(1)  # fail closed: no limit names CNY
    assert (answer.reason, answer.detail["limit"], answer.detail["allowed"]) == ("limit_exceeded", "currency", "0")


@pytest.mark.parametrize(
    "limit",
    [
        Limit("year", "CNY", 1, None), Limit("day", "CNY", None, None), Limit("day", "CNY", -1, None), Limit("day", "", None, 1),
        Limit("transaction", "CNY", 1, None),
    ],
)  # fmt: skip
def test_a_limit_out_of_form(limit):
    assert limits.wrong([limit])
    assert Bank().do(SetLimit("bank", "", "partner", "acme", (limit,))).reason == "field_invalid"


def test_what_comes_after_a_day_was_closed_is_booked_to_the_next():
    bank = Bank()
    assert bank.do(CHINA).outcome == "applied"
    assert bank.do(CloseDay("bank", "", DAY + 1)).reason == "day_ahead"
    closed = bank.do(CloseDay("bank", "", DAY))
    assert (closed.outcome, closed.subject) == ("applied", "2026-11-22")
    assert closed.changes == {"day": "2026-11-22", "next_day": "2026-11-24"}
    assert bank.do(CloseDay("bank", "", DAY)).reason == "day_closed"
    bank.fund("acme:w", 10)
    late = bank.move("acme:w", "acme:x", 1, value_date=DAY - 3)
    assert (late.value_date, late.changes) == (DAY + 2, {"late_for": "2026-11-19"})
    assert bank.move("acme:w", "acme:x", 1, value_date=DAY + 1).value_date == DAY + 1
    assert bank.do(Tick("acme", "")).reason == "not_permitted"
    assert bank.do(Tick("bank", "")) == Answer("applied", subject="", changes={})


@pytest.mark.parametrize(
    ("amount", "of", "part"),
    [
        ({"percent": "0.6"}, 250, 2), ({"percent": "0.6", "rounding": "half_even"}, 250, 2), ({"percent": "0.6", "rounding": "up"}, 250, 2),
        ({"percent": "1"}, 250, 3), ({"percent": "1", "rounding": "half_even"}, 250, 2), ({"percent": "1", "rounding": "half_even"}, 350, 4),
        ({"percent": "1", "rounding": "down"}, 299, 2), ({"percent": "1", "rounding": "up"}, 201, 3),
        ({"percent": "0.6", "min": {"CNY": 5}}, 250, 5), ({"percent": "0.6", "max": {"CNY": 1}}, 250, 1),
        ({"percent": "0.000001"}, LONG_MAX, 92_233_720_369), ({"fixed": {"CNY": 7}}, 1, 7),
        ({"tiers": [{"up_to": {"CNY": 10}, "fixed": {"CNY": 1}}, {"percent": "50"}]}, 10, 1),
        ({"tiers": [{"up_to": {"CNY": 10}, "fixed": {"CNY": 1}}, {"percent": "50"}]}, 11, 6),
    ],
)  # fmt: skip
def test_parts_of_an_amount(amount, of, part):
    assert templates.part_of(amount, of, "CNY") == part


def test_a_payment_with_a_fee_and_how_it_is_given_back():
    bank = Bank()
    bank.fund("acme:w", 5_000)
    bank.shelve()
    to = {"payer": "acme:w", "payee": "acme/shop:w"}
    paid = bank.ask("pay", 1_000, product="shop", accounts=to, idempotency_key="p")
    assert legs(paid) == [("acme:w", "debit", 1_000), ("acme/shop:w", "credit", 994), ("bank:fees:CNY", "credit", 6)]
    assert paid.opened == (("bank:fees:CNY", "income", "CNY", None, 0),)
    assert paid.version == 1
    assert bank.ask("refund", 1, product="wallet", original="p").reason == "original_mismatch"
    back = bank.ask("refund", 990, product="shop", original="p")
    assert legs(back) == [("acme/shop:w", "debit", 990), ("acme:w", "credit", 990)]
    back = bank.ask("refund", 10, product="shop", original="p")
    assert legs(back) == [("acme/shop:w", "debit", 4), ("bank:fees:CNY", "debit", 6), ("acme:w", "credit", 10)]
    assert bank.ask("refund", 1, product="shop", original="p").reason == "refund_exceeds_payment"
    later = bank.ask("pay", 1_000, product="shop", accounts=to, value_date=DAY + 3)
    assert (later.version, legs(later)[2]) == (2, ("bank:fees:CNY", "credit", 123))
    assert bank.ask("pay", 1, product="shop", accounts=to, currency="EUR").reason == "product_currency"
    assert bank.ask("pay", 1, product="none", accounts=to).reason == "product_unknown"
    assert bank.ask("hold", 1, product="shop", accounts=to).reason == "operation_unknown"
    tip = bank.ask("tip", 2, product="shop", accounts=to, amounts=(NamedAmount("tip", 1),))
    assert tip.reason == "split_exceeds_amount"  # 3 of the first step's 2
    assert bank.ask("tip", 9, product="shop", accounts=to).reason == "field_invalid"


def test_splits_sweeps_and_a_loan():
    bank = Bank()
    bank.fund("acme:w", 5_000)
    bank.shelve()
    for n in (1, 2, 3):
        bank.do(OpenAccount("bank", "", f"acme:s{n}", "liability", "CNY", None))
    many = {"payees.10": "acme:s3", "payees.2": "acme:s2", "payees.1": "acme:s1"}
    assert bank.ask("split", 1, product="escrow", accounts=many).reason == "insufficient_funds"
    bank.ask("collect", 1_000, product="escrow", accounts={"payer": "acme:w"})
    split = bank.ask("split", 100, product="escrow", accounts=many)
    assert legs(split)[1:] == [("acme:s1", "credit", 34), ("acme:s2", "credit", 33), ("acme:s3", "credit", 33)]
    named = (NamedAmount("payees.1", 600), NamedAmount("payees.10", 200), NamedAmount("payees.2", 50))
    release = bank.ask("release", 900, product="escrow", accounts=many | {"rest": "acme:x"}, amounts=named)
    assert [amount for _, _, amount in legs(release)] == [900, 600, 50, 200, 50]
    assert bank.ask("close", product="escrow", accounts={"rest": "acme:x"}).reason == "nothing_to_move"
    bank.move("acme:s2", "acme:s1", 100, partner="acme")
    subs = {"subs.1": "acme:s1", "subs.2": "acme:s2", "header": "acme:x"}
    before = bank.balance("acme:s1"), bank.balance("acme:s2"), bank.balance("acme:x")
    assert before == (734, -17, 50)
    zero = bank.ask("zero", product="treasury", accounts=subs)
    assert legs(zero) == [
        ("acme:s1", "debit", 734), ("acme:x", "credit", 734), ("acme:x", "debit", 17), ("acme:s2", "credit", 17),
    ]  # fmt: skip
    assert bank.ask("sweep", product="treasury", accounts=subs).reason == "nothing_to_move"
    bank.ask("disburse", 500, product="loan", accounts={"payee": "acme:w"})
    bank.ask("accrue", 80, product="loan")  # 7.5% of 80
    repaid = bank.ask("repay", 406, product="loan", accounts={"payer": "acme:x", "payee": "acme:w"})
    assert legs(repaid)[1:] == [("acme:interest:CNY", "credit", 6), ("acme:principal:CNY", "credit", 400)]


def test_every_broken_document_is_refused_and_the_shelf_is_good():
    assert [documents.verdict(d) for d, _ in SHELF] == [None] * len(SHELF)
    found = [(reason, documents.verdict(d)) for reason, _, d in broken(9)]
    assert all(verdict is not None and verdict[0] == reason for reason, verdict in found), found


def test_documents_that_are_no_json_or_too_deep():
    bank = Bank()
    good = publish("", SHELF[1][0])

    def titled(value: str) -> str:
        answer = bank.do(msgspec.structs.replace(good, document=good.document.replace('"Scan to pay"', value)))
        return answer.reason or answer.outcome

    assert good.document.count('"Scan to pay"') == 1
    wrong = ("NaN", "-Infinity", "1e400", "1" + "0" * 400, r'"\udc00"', "[" * 32 + "]" * 32, "[" * 99_000, '"x')
    assert {titled(value) for value in wrong} == {"field_invalid"}
    assert titled("[" * 31 + "]" * 31) == titled("1e300") == "product_invalid"
    assert titled('"' + "{" * 40 + r'\"[\\"') == "applied"


def test_a_transaction_between_partitions():
    home, there = Bank(0, 3, "acme"), Bank(1, 3, "zeta")
    home.fund("acme:w", 100)

    def start(key: str, payee: str) -> Answer:
        return home.move("acme:w", payee, 60, idempotency_key=key)

    answer = start("t1", "zeta:w")
    assert (answer.outcome, answer.changes) == ("applied", {"crossing": "1"})
    assert [p[1:4] for p in answer.pending] == [("acme:w", "debit", 60), ("bank:crossing:CNY", "credit", 60)]
    assert start("t2", "zeta:w").reason == "insufficient_funds"
    (reserve,) = answer.sent
    reserved = there.do(reserve)
    assert [p[1:4] for p in reserved.pending] == [("bank:crossing:CNY", "debit", 60), ("zeta:w", "credit", 60)]
    assert there.do(reserve).outcome == "repeated"
    settled = home.do(reserved.sent[0])
    assert (settled.outcome, settled.first_offset, settled.speaks_for) == ("settled", 13, ("acme", "t1"))
    assert home.do(reserved.sent[0]).reason == "crossing_unknown"
    done = there.do(settled.sent[0])
    assert [p[:3] for p in done.postings] == [("bank:crossing:CNY", "debit", 60), ("zeta:w", "credit", 60)]
    assert home.ask("refund", 1, original="t1").reason == "original_mismatch"
    refused = there.do(home.move("acme:w", "zeta:none", 40, idempotency_key="t3").sent[0])
    assert (refused.outcome, refused.reason, refused.sent[0].step) == ("rejected", "account_unknown", "refused")
    rejected = home.do(refused.sent[0])
    assert (rejected.outcome, rejected.reason, rejected.sent) == ("rejected", "account_unknown", ())
    assert home.balance("acme:w") == 40
    assert home.model.flights == there.model.flights == {}
    assert home.balance("bank:crossing:CNY") + there.balance("bank:crossing:CNY") == 0


def test_what_is_remembered_of_a_transfer():
    bank = Bank()
    bank.fund("acme:w", 10)
    bank.move("acme:w", "acme:x", 4, idempotency_key="t")
    found = bank.model.find(("acme", "t"))
    assert isinstance(found, Entry)
    assert (found.given_back, found.product, [leg.amount for leg in found.legs]) == (0, "wallet", [4, 4])
