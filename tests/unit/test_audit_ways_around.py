"""The auditor's reading of docs/operations.md and docs/products.md where the pages close a way around a rule: a partner above in
the name of one below, a date of yesterday, and documents that parsers read differently."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from clearline.audit.contract import DAY_MS
from schemas.records import AdmitPartner, JournalRecord, Limit, Posting, SetCalendar, Transaction, ZoneOffset
from tests.faults.hostile_whole import SHOP, canonical, publishing
from tests.unit.test_audit_page import Desk, limit, said, use


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def shop(desk: Desk) -> Desk:
    assert desk.say(publishing(SHOP, "shop")) == "applied"
    return desk


def test_whoever_is_above_does_not_move_what_a_partner_may_not(desk: Desk) -> None:
    assert desk.say(AdmitPartner("bank", "t", "acme/shop/till")) == "applied"
    assert desk.open("acme/shop/till:t") == "applied"
    desk.move("acme:a", "acme/shop/till:t", 100, key="in")
    desk.move("acme/shop/till:t", "acme:b", 30, key="out")
    desk.move("acme/shop/till:t", "acme:b", 20, operation="hold", key="one")
    desk.move("acme/shop/till:t", "acme:b", 20, operation="hold", key="two")
    desk.become("acme/shop", "exiting")  # in the middle: transfers, captures and reversals only
    assert desk.move("acme/shop/till:t", "acme:b", 1) == "settled"
    assert desk.move("acme/shop/till:t", "acme:b", 1, operation="hold") == "owner_state"
    assert said(desk.ask("capture", {}, 5, original="one")) == "settled"
    assert said(desk.ask("refund", {}, 5, original="in")) == "settled"
    desk.become("acme/shop/till", "suspended")
    assert desk.move("acme/shop/till:t", "acme:b", 1) == "owner_state"
    assert desk.move("acme/shop/till:t", "acme:b", 1, partner="acme/shop") == "owner_state"
    assert desk.move("acme/shop/till:t", "acme:b", 1, partner="bank") == "settled"
    assert said(desk.ask("capture", {}, 5, original="one")) == "owner_state"
    assert said(desk.ask("refund", {}, 5, original="in")) == "settled"  # the till gives back
    assert said(desk.ask("reversal", {}, 0, original="out")) == "settled"  # the till is repaid
    assert said(desk.ask("void", {}, 0, original="two")) == "settled"
    legs = (Posting("acme/shop/till:t", "debit", 1), Posting("acme:b", "credit", 1))
    assert said(desk.ask("transfer", {}, 0, postings=legs)) == "owner_state"
    assert said(desk.ask("adjustment", {}, 0, partner="bank", postings=legs, note="n")) == "settled"
    desk.become("acme", "suspended")  # the asker's own state is told first, whoever is below
    assert desk.move("acme/shop/till:t", "acme:b", 1) == "partner_suspended"


def test_a_reversal_takes_nothing_from_a_suspended_partner(desk: Desk) -> None:
    desk.move("acme:a", "acme/shop:s", 100, key="in")
    desk.become("acme/shop", "suspended")
    assert said(desk.ask("reversal", {}, 0, original="in")) == "owner_state"
    assert said(desk.ask("reversal", {}, 0, original="in", partner="bank")) == "original_unknown"
    desk.become("acme/shop", "live")
    assert said(desk.ask("reversal", {}, 0, original="in")) == "settled"


def test_the_limits_of_those_below_bind_whoever_is_above(desk: Desk) -> None:
    assert desk.say(AdmitPartner("bank", "t", "acme/shop/till")) == "applied"
    assert desk.open("acme/shop/till:t") == "applied"
    for to in ("acme/shop:s", "acme/shop/till:t"):
        desk.move("acme:a", to, 100)
    five = Limit("day", "CNY", None, 5)
    assert limit(desk, "partner", "acme/shop/till", five) == "applied"
    assert limit(desk, "partner", "acme/shop", Limit("day", "CNY", 3, 9)) == "applied"
    assert desk.move("acme/shop/till:t", "acme:b", 6) == "limit_exceeded"
    assert desk.move("acme/shop/till:t", "acme:b", 6, partner="bank") == "settled"
    assert desk.model.used == {}
    both = (
        Posting("acme/shop:s", "debit", 4), Posting("acme:b", "credit", 8),
        Posting("acme/shop/till:t", "debit", 3), Posting("acme/shop/till:t", "debit", 1),
    )  # fmt: skip
    assert said(desk.ask("transfer", {}, 0, postings=both)) == "settled"
    assert desk.model.used == {
        ("partner", "acme/shop"): [("day", "CNY", 20_000, 1, 8)], ("partner", "acme/shop/till"): [("day", "CNY", 20_000, 1, 4)]
    }  # fmt: skip
    assert desk.move("acme/shop/till:t", "acme:b", 2) == "limit_exceeded"  # of the till
    assert desk.move("acme/shop:s", "acme:b", 2) == "limit_exceeded"  # of the shop, which gave eight
    assert desk.move("acme/shop:s", "acme:b", 1, partner="acme/shop") == "settled"
    assert desk.move("acme:a", "acme/shop:s", 500) == "settled"  # what comes in is not asked
    assert desk.model.used["partner", "acme/shop"] == [("day", "CNY", 20_000, 2, 9)]


def test_a_date_of_yesterday_does_not_bring_yesterday_s_prices(shop: Desk) -> None:
    two = {"payer": "acme:a", "to": "acme:b"}
    assert shop.say(publishing({**SHOP, "version": 2}, "later", effective_from=20_001)) == "applied"
    assert use(shop, "pay", two, 5).version == 1
    assert use(shop, "pay", two, 5, value_date=20_001).version == 2  # ahead, as asked for
    at = 20_001 * DAY_MS
    assert use(shop, "pay", two, 5, at=at - 1).version == 1
    assert use(shop, "pay", two, 5, at=at).version == 2
    assert use(shop, "pay", two, 5, value_date=0).version == 2
    far_west = SetCalendar("bank", "c", "bank", "x", (ZoneOffset(0, -300),))
    assert shop.say(far_west) == "applied"  # where it is still the evening before
    assert use(shop, "pay", two, 5).version == 1
    assert shop.say(replace(far_west, subject_id="acme", offsets=(), idempotency_key="c2")) == "applied"
    assert use(shop, "pay", two, 5).version == 1  # the settlement calendar is the bank's
    shop.move("x", "y", at=at + 9 * 3_600_000)
    assert use(shop, "pay", two, 5).version == 2


def record(version: int) -> JournalRecord:
    """What the journal has of a payment that settled under a version."""
    return JournalRecord(
        bytes(16), bytes(8), True, "settled", 0, 0, 0, 0, "Transaction", "acme", "v", "shop", version, "pay", 20_000, "", {},
        "", {}, -1, "", {}, (),
    )  # fmt: skip


def test_a_price_that_a_forgotten_calendar_decided_is_believed_within_a_day(shop: Desk) -> None:
    two = {"payer": "acme:a", "to": "acme:b"}
    assert shop.say(publishing({**SHOP, "version": 2}, "later", effective_from=20_001)) == "applied"
    assert shop.say(publishing({**SHOP, "version": 3}, "last", effective_from=20_002)) == "applied"
    model, at = shop.model, 20_001 * DAY_MS - 1
    model.unsure_calendars.add("bank")
    model.event_time = at

    def version(said: int) -> int:
        t = Transaction("acme", f"v{said}", "shop", "pay", 5, "CNY", two, (), 20_000)
        model.witness = record(said)
        why, plan = model.judge(t)
        assert why == ""
        return plan.number

    assert [version(n) for n in (1, 2)] == [1, 2]  # by clocks of the west and of the east
    assert version(3) != 3  # nowhere is it the day after tomorrow


def test_documents_that_are_no_json_or_too_deep(desk: Desk) -> None:
    good = canonical(SHOP)

    def of(text: str) -> str:
        return desk.say(replace(publishing(SHOP, desk.key()), document=text))

    def titled(value: str) -> str:
        return good.replace('"title":"Everything that a step can do"', f'"title":{value}')

    wrong = ("[1]", "{", good + "x", titled("NaN"), titled("-Infinity"), titled("1e400"), titled("1" + "0" * 400),
             titled(r'"\ud800"'), titled("[" * 32 + "]" * 32), titled("[" * 100_000))  # fmt: skip
    assert {of(text) for text in wrong} == {"field_invalid"}
    assert of(titled("[" * 31 + "]" * 31)) == "product_invalid"  # the object itself is the first
    assert of(titled("1e300")) == "product_invalid"
    assert of(titled('"' + "[" * 40 + r'\"{\ud83d\ude00"')) == "applied"


def test_in_an_account_that_is_not_the_role_s_nobody_looks_what_is_owed(shop: Desk) -> None:
    assert said(use(shop, "borrow", {"payer": "acme:a"}, 500)) == "settled"  # acme:loan:CNY
    assert said(use(shop, "pay", {"payer": "acme:a", "to": "acme/shop:s"}, 400)) == "settled"
    repay = {"payer": "acme/shop:s"}
    shop.become("acme/shop", "exiting")  # so it opens no pot, and the loan is its root's
    assert said(use(shop, "repay", repay, 300, partner="acme/shop")) == "account_unknown"  # all would go to the pot
    assert use(shop, "repay", {"payer": "acme:a"}, 300).legs[1][:3] == ("acme:loan:CNY", "credit", 300)
