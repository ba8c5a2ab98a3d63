"""Limits, calendars, closed days and ticks as tables that a finance person can read; docs/operations.md is the page.

Amounts are minor units. A limit that would be passed is written as it is told: what was used, what is asked, what is
allowed.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest

from ledger.calendars import business_day, date_until, local_date, local_ms, next_business_day, window_number
from ledger.days import civil, iso_date
from ledger.limits import WINDOWS
from ledger.money import AMOUNT_MAX
from schemas.records import (
    CalendarState,
    CloseDay,
    ClosedDay,
    JournalRecord,
    Limit,
    SetCalendar,
    SetLimit,
    Tick,
    UsageState,
    ZoneOffset,
)
from tests.grids import (
    ALICE,
    BOB,
    CLEARING,
    TILL,
    YEN,
    YEN_CLEARING,
    adjust,
    answer,
    ask,
    balance,
    bank,
    capture,
    hold,
    legs,
    refund,
    reversal,
    state,
    transfer,
    void,
)
from tests.ledger_world import BOOKED_AT, CODEC, account, admit, key

DAY_MS, HOUR_MS, MINUTE_MS = 86_400_000, 3_600_000, 60_000
TODAY = BOOKED_AT // DAY_MS + 1
MIDNIGHT = TODAY * DAY_MS  # UTC


def at(day: int, hour: int = 12, minute: int = 0, second: int = 0) -> int:
    """A moment, UTC; day 0 is TODAY."""
    return MIDNIGHT + day * DAY_MS + hour * HOUR_MS + minute * MINUTE_MS + second * 1000


def per(window: str, amount: int | None = None, count: int | None = None, currency: str = "CNY") -> Limit:
    return Limit(window, currency, count, amount)


def limit(level: str, subject: str, *of: Limit, by: str = "bank") -> SetLimit:
    return SetLimit(by, key(), level, subject, of, "zhou", "case 3")


def calendar(subject: str, *offsets: tuple[int, int], weekdays: int = 0, closed: tuple[int, ...] = ()) -> SetCalendar:
    """`offsets`: from when (ms) the clocks show how many minutes more than UTC."""
    return SetCalendar(
        "bank", key(), subject, "Some/Where", tuple(ZoneOffset(*o) for o in offsets), weekdays,
        tuple(ClosedDay(d) for d in closed), "zhou", "case 4",
    )  # fmt: skip


def close(day: int, by: str = "bank") -> CloseDay:
    return CloseDay(by, key(), day, "zhou", "day end")


def told(record: JournalRecord) -> str:
    """What became of it; a limit in words."""
    d = record.detail
    if record.reason != "limit_exceeded":
        return answer(record)
    money = d["currency"] + " " if d["limit"].startswith("amount") and d["currency"] else ""
    return f"{d['limit']} of {d['level']} {d['subject']}: {money}{d['used']} + {d['asked']} > {d['allowed']}"


LOW = "acme/shop/low:w"
TWO = [per("day", 100), per("day", count=2, currency="")]
IN_YEN = {"accounts": {"payer": YEN, "payee": YEN_CLEARING}, "currency": "JPY"}

# when (UTC) | what is asked | what becomes of it
LIMITS: dict[str, list[tuple[int, Any, str]]] = {
    "one transaction": [
        (at(0), limit("partner", "acme", per("transaction", 100)),       "applied"),
        (at(0), transfer("a", 100),                                      "settled"),
        (at(0), transfer("b", 101),      "amount per transaction of partner acme: CNY 0 + 101 > 100"),
        (at(0), transfer("c", 100),                                      "settled"),
        (at(0), ask("transfer", "d", 1, **IN_YEN), "currency of partner acme: 0 + 1 > 0"),
    ],
    "a day, by amount and by number": [
        (at(0), limit("partner", "acme", *TWO),                          "applied"),
        (at(0), transfer("a", 60),                                       "settled"),
        (at(0), transfer("b", 41),       "amount per day of partner acme: CNY 60 + 41 > 100"),
        (at(0), transfer("c", 40),                                       "settled"),
        (at(0), transfer("d", 1),        "amount per day of partner acme: CNY 100 + 1 > 100"),
        (at(0, 23, 59, 59), transfer("e", 1), "amount per day of partner acme: CNY 100 + 1 > 100"),
        (at(1, 0), transfer("f", 1),                                     "settled"),
        (at(1, 0), transfer("g", 1),                                     "settled"),
        (at(1, 0), transfer("h", 1),     "count per day of partner acme: 2 + 1 > 2"),
        (at(1, 0), limit("partner", "acme"),                             "applied"),
        (at(1, 0), transfer("i", 100),                                   "settled"),
    ],
    "a minute and an hour": [
        (at(0), limit("partner", "acme", per("minute", count=1, currency=""), per("hour", 10)), "applied"),
        (at(0, 12, 0, 1), transfer("a", 4),                              "settled"),
        (at(0, 12, 0, 59), transfer("b", 4),  "count per minute of partner acme: 1 + 1 > 1"),
        (at(0, 12, 1, 0), transfer("c", 6),                              "settled"),
        (at(0, 12, 2, 0), transfer("d", 1),   "amount per hour of partner acme: CNY 10 + 1 > 10"),
        (at(0, 13, 0, 0), transfer("e", 1),                              "settled"),
    ],
    "what counts, and what does not": [
        (at(0), limit("partner", "acme", per("day", 100)),               "applied"),
        (at(0), hold("a", 30),                                           "settled"),
        (at(0), capture("b", 30, of="a"),                                "settled"),
        (at(0), hold("c", 30),                                           "settled"),
        (at(0), void("d", of="c"),                                       "settled"),
        (at(0), transfer("e", 41),       "amount per day of partner acme: CNY 60 + 41 > 100"),
        (at(0), ask("transfer", "f", postings=legs((ALICE, "debit", 20), (BOB, "credit", 5), (TILL, "credit", 15))), "settled"),
        (at(0), ask("transfer", "g", postings=legs((ALICE, "debit", 15), (BOB, "debit", 6), (TILL, "credit", 21))),
                                         "amount per day of partner acme: CNY 80 + 21 > 100"),
        (at(0), refund("h", 10, of="b"),                                 "settled"),
        (at(0), reversal("i", of="f"),                                   "settled"),
        (at(0), transfer("j", 1000),     "amount per day of partner acme: CNY 80 + 1000 > 100"),
        (at(0), transfer("j", 1000),                                     "repeated"),
        (at(0), adjust("k", (ALICE, "debit", 500), (BOB, "credit", 500)), "settled"),
        (at(0), transfer("l", 200, ALICE, BOB, partner_id="bank"),       "settled"),
        (at(0), transfer("m", 20),                                       "settled"),
        (at(0), transfer("n", 1),        "amount per day of partner acme: CNY 100 + 1 > 100"),
    ],
    "each level binds what is below it": [
        (at(0), limit("partner", "acme", per("day", 100)),               "applied"),
        (at(0), limit("partner", "acme/shop", per("day", 60), by="acme"), "applied"),
        (at(0), limit("account", ALICE, per("day", 40), by="acme"),      "applied"),
        (at(0), limit("account", TILL, per("transaction", 5), by="acme/shop"), "applied"),
        (at(0), transfer("a", 41),       "amount per day of account acme:w:alice: CNY 0 + 41 > 40"),
        (at(0), transfer("b", 40),                                       "settled"),
        (at(0), transfer("c", 61, TILL, "acme/shop:w:none", partner_id="acme/shop"), "account_unknown"),
        (at(0), transfer("d", 61, TILL, BOB, partner_id="acme/shop"),    "insufficient_funds"),
        (at(0), transfer("e", 50, BOB, TILL, partner_id="acme"),         "insufficient_funds"),
        (at(0), transfer("f", 40, BOB, TILL, partner_id="acme"),         "settled"),
        (at(0), transfer("g", 6, TILL, BOB, partner_id="acme/shop"),
                                         "amount per transaction of account acme/shop:w:till: CNY 0 + 6 > 5"),
        (at(0), transfer("h", 5, TILL, BOB, partner_id="acme/shop"),     "settled"),
        (at(0), limit("partner", "acme/shop", per("day", 8)),            "applied"),
        (at(0), transfer("i", 4, TILL, BOB, partner_id="acme/shop"), "amount per day of partner acme/shop: CNY 5 + 4 > 8"),
        (at(0), transfer("j", 3, TILL, BOB, partner_id="acme/shop"),     "settled"),
        (at(0), transfer("k", 13, TILL, BOB),  "amount per day of partner acme: CNY 88 + 13 > 100"),
        (at(0), transfer("l", 5, TILL, BOB),   "amount per day of partner acme/shop: CNY 8 + 5 > 8"),
        (at(0), limit("partner", "acme/shop", per("day", 13)),           "applied"),
        (at(0), transfer("m", 6, TILL, BOB),   "amount per day of partner acme/shop: CNY 8 + 6 > 13"),
        (at(0), limit("partner", "acme/shop", per("day", 14)),           "applied"),
        (at(0), transfer("n", 6, TILL, BOB), "amount per transaction of account acme/shop:w:till: CNY 0 + 6 > 5"),
        (at(0), transfer("o", 5, TILL, BOB),                             "settled"),
    ],
    "only the bank loosens limits": [
        (at(0), limit("account", ALICE, per("day", 40), per("day", count=9, currency="")), "applied"),
        (at(0), limit("account", ALICE, by="acme"),                      "not_permitted"),
        (at(0), limit("account", ALICE, per("day", 40), by="acme"),      "not_permitted"),
        (at(0), limit("account", ALICE, per("day", 41), per("day", count=9, currency=""), by="acme"), "not_permitted"),
        (at(0), limit("account", ALICE, per("day", count=1), per("day", count=9, currency=""), by="acme"), "not_permitted"),
        (at(0), limit("account", ALICE, per("month", 40), per("day", count=9, currency=""), by="acme"), "not_permitted"),
        (at(0), limit("account", ALICE, per("day", 40), per("day", count=9, currency=""), per("day", 1, currency="JPY"), by="acme"),
                                         "not_permitted"),
        (at(0), limit("account", "acme:none", by="acme"),                "account_unknown"),
        (at(0), transfer("a", 41),       "amount per day of account acme:w:alice: CNY 0 + 41 > 40"),
        (at(0), limit("account", ALICE, per("hour", 7), per("day", count=9, currency=""), per("day", 39, count=3), by="acme"), "applied"),
        (at(0), transfer("b", 8),        "amount per hour of account acme:w:alice: CNY 0 + 8 > 7"),
        (at(0), limit("account", ALICE, per("hour", 7), per("day", count=9, currency=""), per("day", 39), by="acme"), "not_permitted"),
        (at(0), limit("partner", "acme/shop", per("day", 5)),            "applied"),
        (at(0), limit("partner", "acme/shop", by="acme"),                "not_permitted"),
        (at(0), limit("partner", "acme/shop", per("day", 4), by="acme"), "applied"),
        (at(0), limit("partner", "acme/shop", per("day", 5), by="acme"), "not_permitted"),
        (at(0), limit("partner", "acme/shop", per("day", 9)),            "applied"),
        (at(0), limit("account", ALICE),                                 "applied"),
        (at(0), transfer("c", 500),                                      "settled"),
    ],
    "a partner's limits bind whoever is above it": [
        (at(0), admit("acme/shop/low"),                                  "applied"),
        (at(0), account(LOW),                                            "applied"),
        (at(0), transfer("f1", 500, ALICE, TILL),                        "settled"),
        (at(0), transfer("f2", 500, ALICE, LOW),                         "settled"),
        (at(0), limit("partner", "acme", per("day", 100)),               "applied"),
        (at(0), limit("partner", "acme/shop", per("day", 50)),           "applied"),
        (at(0), limit("partner", "acme/shop/low", per("transaction", 10), per("day", count=3, currency="")), "applied"),
        (at(0), transfer("a", 11, LOW, BOB), "amount per transaction of partner acme/shop/low: CNY 0 + 11 > 10"),
        (at(0), transfer("b", 10, LOW, BOB),                             "settled"),
        (at(0), ask("transfer", "c", postings=legs((ALICE, "debit", 20), (TILL, "debit", 25), (BOB, "credit", 60),
                    (LOW, "debit", 5), (TILL, "debit", 10))),            "settled"),
        (at(0), transfer("d", 1, TILL, BOB),   "amount per day of partner acme/shop: CNY 50 + 1 > 50"),
        (at(0), hold("e", 1, LOW, BOB),        "amount per day of partner acme/shop: CNY 50 + 1 > 50"),
        (at(0), transfer("f", 1, LOW, BOB, partner_id="acme/shop"), "amount per day of partner acme/shop: CNY 50 + 1 > 50"),
        (at(0), transfer("g", 30, ALICE, TILL),                          "settled"),
        (at(0), transfer("h", 51, TILL, BOB),  "amount per day of partner acme: CNY 100 + 51 > 100"),
        (at(0), limit("partner", "acme"),                                "applied"),
        (at(0), limit("partner", "acme/shop"),                           "applied"),
        (at(0), hold("i", 10, LOW, ALICE),                               "settled"),
        (at(0), transfer("j", 1, LOW, BOB),    "count per day of partner acme/shop/low: 3 + 1 > 3"),
        (at(0), hold("k", 1, LOW, TILL, partner_id="acme/shop"), "count per day of partner acme/shop/low: 3 + 1 > 3"),
        (at(0), capture("l", 10, of="i"),                                "settled"),
        (at(0), reversal("m", of="l"),                                   "settled"),
        (at(0), transfer("n", 99, LOW, BOB, partner_id="bank"),          "settled"),
        (at(0), adjust("o", (LOW, "debit", 99), (BOB, "credit", 99)),    "settled"),
        (at(0), transfer("p", 99, TILL, LOW),                            "settled"),
        (at(1), transfer("q", 10, LOW, BOB),                             "settled"),
    ],
    "partners below are asked in the order of the legs, each for what its subtree pays": [
        (at(0), admit("acme/shop/low"),                                  "applied"),
        (at(0), admit("acme/b"),                                         "applied"),
        (at(0), account(LOW),                                            "applied"),
        (at(0), account("acme/b:w"),                                     "applied"),
        (at(0), account("acme/b:yen", currency="JPY"),                   "applied"),
        (at(0), ask("transfer", "f", postings=legs((ALICE, "debit", 90), (TILL, "credit", 30), (LOW, "credit", 30),
                    ("acme/b:w", "credit", 30), (YEN, "debit", 9, "JPY"), ("acme/b:yen", "credit", 9, "JPY"))), "settled"),
        (at(0), limit("account", TILL, per("day", 1)),                   "applied"),
        (at(0), limit("partner", "acme/shop", per("day", 5)),            "applied"),
        (at(0), limit("partner", "acme/shop/low", per("day", 2)),        "applied"),
        (at(0), limit("partner", "acme/b", per("day", 5)),               "applied"),
        (at(0), ask("transfer", "a", postings=legs(("acme/b:w", "debit", 6), (TILL, "debit", 3), (LOW, "debit", 3), (BOB, "credit", 12))),
                                         "amount per day of partner acme/b: CNY 0 + 6 > 5"),
        (at(0), ask("transfer", "b", postings=legs((TILL, "debit", 3), (LOW, "debit", 3), ("acme/b:w", "debit", 6), (BOB, "credit", 12))),
                                         "amount per day of partner acme/shop: CNY 0 + 6 > 5"),
        (at(0), ask("transfer", "c", postings=legs((LOW, "debit", 3), (TILL, "debit", 2), ("acme/b:w", "debit", 6), (BOB, "credit", 11))),
                                         "amount per day of partner acme/shop/low: CNY 0 + 3 > 2"),
        (at(0), ask("transfer", "d", postings=legs((TILL, "debit", 2), ("acme/b:w", "debit", 6), (LOW, "debit", 3), (BOB, "credit", 11))),
                                         "amount per day of partner acme/b: CNY 0 + 6 > 5"),
        (at(0), ask("transfer", "e", postings=legs((TILL, "debit", 2), ("acme/b:w", "debit", 6), (LOW, "debit", 2), (BOB, "credit", 10))),
                                         "amount per day of partner acme/b: CNY 0 + 6 > 5"),
        (at(0), ask("transfer", "g", postings=legs((TILL, "debit", 2), ("acme/b:w", "debit", 5), (LOW, "debit", 2), (BOB, "credit", 9))),
                                         "amount per day of account acme/shop:w:till: CNY 0 + 2 > 1"),
        (at(0), ask("transfer", "h", postings=legs((TILL, "debit", 1), (YEN, "debit", 9, "JPY"), (YEN_CLEARING, "credit", 9, "JPY"),
                    (BOB, "credit", 1))),                                "settled"),
        (at(0), ask("transfer", "i", postings=legs(("acme/b:yen", "debit", 9, "JPY"), ("acme/b:w", "debit", 9), (BOB, "credit", 9),
                    (YEN, "credit", 9, "JPY"))),                         "currency of partner acme/b: 0 + 9 > 0"),
        (at(0), limit("partner", "acme/b", per("day", 5, currency="JPY"), per("day", 5)), "applied"),
        (at(0), ask("transfer", "j", postings=legs(("acme/b:w", "debit", 9), ("acme/b:yen", "debit", 9, "JPY"), (BOB, "credit", 9),
                    (YEN, "credit", 9, "JPY"))),                         "amount per day of partner acme/b: JPY 0 + 9 > 5"),
    ],
    "windows of a partner below are those of its own calendar": [
        (at(0), calendar("acme/shop", (0, 8 * 60)),                      "applied"),
        (at(0), transfer("f", 90, ALICE, TILL),                          "settled"),
        (at(0), limit("partner", "acme/shop", per("day", 10)),           "applied"),
        (at(0), limit("partner", "acme", per("day", 15)),                "applied"),
        (at(0, 15, 59, 59), transfer("a", 10, TILL, BOB),                "settled"),
        (at(0, 15, 59, 59), transfer("b", 1, TILL, BOB), "amount per day of partner acme/shop: CNY 10 + 1 > 10"),
        (at(0, 16), transfer("c", 5, TILL, BOB),                         "settled"),
        (at(0, 16), transfer("d", 1, TILL, BOB), "amount per day of partner acme: CNY 15 + 1 > 15"),
    ],
    "an account that is debited twice is asked once, in its own currency": [
        (at(0), limit("account", ALICE, per("day", 10), per("day", count=2, currency="")), "applied"),
        (at(0), ask("transfer", "a", postings=legs((ALICE, "debit", 6), (ALICE, "debit", 5), (BOB, "credit", 11))),
                                         "amount per day of account acme:w:alice: CNY 0 + 11 > 10"),
        (at(0), ask("transfer", "b", postings=legs((ALICE, "debit", 5), (ALICE, "debit", 5), (BOB, "credit", 10))), "settled"),
        (at(0), transfer("c", 1, BOB, ALICE),                            "settled"),
        (at(0), transfer("d", 1),        "amount per day of account acme:w:alice: CNY 10 + 1 > 10"),
    ],
    "limits in two currencies": [
        (at(0), limit("partner", "acme", per("day", 10), per("day", 50, currency="JPY")), "applied"),
        (at(0), ask("transfer", "a", 50, **IN_YEN),                      "settled"),
        (at(0), ask("transfer", "b", 1, **IN_YEN), "amount per day of partner acme: JPY 50 + 1 > 50"),
        (at(0), transfer("c", 10),                                       "settled"),
        (at(1), ask("transfer", "d", postings=legs((ALICE, "debit", 10), (BOB, "credit", 10), (YEN_CLEARING, "debit", 51, "JPY"),
                    (YEN, "credit", 51, "JPY"))),                        "amount per day of partner acme: JPY 0 + 51 > 50"),
        (at(1), ask("transfer", "e", postings=legs((ALICE, "debit", 10), (BOB, "credit", 10), (YEN_CLEARING, "debit", 50, "JPY"),
                    (YEN, "credit", 50, "JPY"))),                        "settled"),
    ],
    "what was used stays when the limit is set anew": [
        (at(0), limit("partner", "acme", per("day", 100)),               "applied"),
        (at(0), transfer("a", 60),                                       "settled"),
        (at(0), limit("partner", "acme", per("day", 50), per("month", 70)), "applied"),
        (at(0), transfer("b", 1),        "amount per day of partner acme: CNY 60 + 1 > 50"),
        (at(1), transfer("c", 50),                                       "settled"),
        (at(1), limit("partner", "acme", per("month", 70)),              "applied"),
        (at(1), transfer("d", 21),       "amount per month of partner acme: CNY 50 + 21 > 70"),
        (at(1), limit("partner", "acme", per("day", 60)),                "applied"),
        (at(1), transfer("e", 60),                                       "settled"),
    ],
    "a day is the business day of the partner's zone": [
        (at(0), calendar("acme", (0, 8 * 60), weekdays=0),               "applied"),
        (at(0), limit("partner", "acme", per("day", 10)),                "applied"),
        (at(0, 15, 59, 59), transfer("a", 10),                           "settled"),
        (at(0, 15, 59, 59), transfer("b", 1), "amount per day of partner acme: CNY 10 + 1 > 10"),
        (at(0, 16), transfer("c", 10),                                   "settled"),
        (at(0, 16), calendar("acme", (0, 8 * 60), closed=(TODAY + 1,)),  "applied"),
        (at(0, 16), transfer("d", 10),                                   "settled"),
        (at(1, 15), transfer("e", 1),    "amount per day of partner acme: CNY 10 + 1 > 10"),
        (at(1, 16), transfer("f", 1),    "amount per day of partner acme: CNY 10 + 1 > 10"),
        (at(2, 16), transfer("g", 1),                                    "settled"),
    ],
    "who sets what": [
        (at(0), limit("partner", "acme", per("day", 1), by="acme"),      "not_permitted"),
        (at(0), limit("partner", "zeta", per("day", 1), by="acme"),      "not_permitted"),
        (at(0), limit("account", ALICE, per("day", 1), by="acme/shop"),  "not_permitted"),
        (at(0), limit("product", "wallet", per("day", 1), by="acme"),    "not_permitted"),
        (at(0), limit("tribe", ALICE, per("day", 1), by="acme"),         "not_permitted"),
        (at(0), limit("partner", "nobody", per("day", 1), by="nobody"),  "partner_unknown"),
        (at(0), limit("tribe", ALICE, per("day", 1)),                    "field_invalid level"),
        (at(0), limit("partner", "acme", per("week", 1)),                "field_invalid limits[0]"),
        (at(0), limit("partner", "acme", per("day")),                    "field_invalid limits[0]"),
        (at(0), limit("partner", "acme", per("day", -1)),                "field_invalid limits[0]"),
        (at(0), limit("partner", "acme", per("day", count=-1)),          "field_invalid limits[0]"),
        (at(0), limit("partner", "acme", per("day", 1), per("transaction", count=1)), "field_invalid limits[1]"),
        (at(0), limit("partner", "acme", per("day", 1, currency="")),    "field_invalid limits[0]"),
        (at(0), limit("partner", "acme", per("day", 1), per("day", 2)),  "field_invalid limits[1]"),
        (at(0), limit("partner", "acme", *(per("day", 1, currency=str(i)) for i in range(51))), "field_invalid limits"),
        (at(0), limit("partner", "acme", per("day", AMOUNT_MAX + 1), per("day", 1, currency="XAU")), "currency_unknown"),
        (at(0), limit("partner", "acme", per("day", AMOUNT_MAX + 1)),    "amount_too_large"),
        (at(0), limit("partner", "acme", per("day", count=AMOUNT_MAX + 1)), "amount_too_large"),
        (at(0), limit("partner", "nobody", per("day", 1)),               "partner_unknown"),
        (at(0), limit("account", "acme:w:none", per("day", 1)),          "account_unknown"),
        (at(0), limit("product", "none", per("day", 1)),                 "product_unknown"),
        (at(0), limit("partner", "acme", per("day", 0)),                 "applied"),
        (at(0), transfer("a", 1),        "amount per day of partner acme: CNY 0 + 1 > 0"),
        (at(0), state("acme", "suspended"),                              "applied"),
        (at(0), limit("account", ALICE, per("day", 1), by="acme"),       "partner_suspended"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("name", LIMITS)
def test_each_row_comes_to_what_it_says(name: str, restart: bool) -> None:
    """Once as it is, and once with a new worker before each row, that knows what was written and nothing else."""
    ledger = bank()
    ledger.one(adjust("ten", (CLEARING, "debit", 9_000), (ALICE, "credit", 9_000)))
    for number, (when, asked, expected) in enumerate(LIMITS[name], 1):
        rows = ledger.rows()
        (record,) = ledger.settle(asked, times=[when])
        assert told(record) == expected, f"{name}, row {number}: {asked}"
        assert CODEC.decode(CODEC.encode(record)) == record
        if record.outcome in ("rejected", "repeated"):
            assert ledger.rows() == rows, "nothing is counted that is not settled"
        ledger = ledger.restarted() if restart else ledger


def test_the_rows_of_what_was_used() -> None:
    """One for each limit with a window that was counted, in the limits' order; a new day starts from zero."""
    ledger = bank()
    of = (per("transaction", 500), per("day", 500), per("day", count=9, currency=""), per("month", 90, currency="JPY"))
    ledger.settle(limit("partner", "acme", *of), times=[at(0)])
    assert "u:partner:acme" not in ledger.rows()

    def used() -> list[tuple[Any, ...]]:
        row = CODEC.decode(ledger.rows()["u:partner:acme"])
        assert isinstance(row, UsageState)
        return [msgspec.structs.astuple(u) for u in row.used]

    ledger.settle(transfer("a", 60), transfer("b", 5), times=[at(0), at(0)])
    assert used() == [("day", "CNY", TODAY, 2, 65), ("day", "", TODAY, 2, 0)]
    ledger.settle(ask("transfer", "c", 7, **IN_YEN), times=[at(1)])
    month = (2026 - 1970) * 12 + 11 - 1
    assert iso_date(TODAY + 1)[:7] == "2026-11"
    assert used() == [("day", "CNY", TODAY, 2, 65), ("day", "", TODAY + 1, 1, 0), ("month", "JPY", month, 1, 7)]
    (record,) = ledger.settle(limit("partner", "acme", per("day", count=9, currency="")), times=[at(1)])
    assert record.changes == {"level": "partner", "limits": "1", "requested_by": "zhou", "note": "case 3"}
    assert used() == [("day", "", TODAY + 1, 1, 0)]
    ledger.settle(limit("partner", "acme"), times=[at(1)])
    assert not [k for k in ledger.rows() if k[:2] in ("l:", "u:")]
    assert ledger.base.limits == 0, "so transfers go the quick way again"


def test_limits_count_in_drafts_that_are_not_committed_yet() -> None:
    ledger = bank()
    ledger.settle(limit("partner", "acme", per("day", 100)), times=[at(0)])
    first, a = ledger.draft([transfer("a", 60)], (), [at(0)])
    second, b = ledger.draft([transfer("b", 60), transfer("c", 40)], (first,), [at(0)] * 2)
    ledger.commit(first, a)
    ledger.commit(second, b)
    assert [r.reason or r.outcome for r in (*a, *b)] == ["settled", "limit_exceeded", "settled"]


# Calendars: every figure is checked against Python's own dates.


def shown(*offsets: tuple[int, int], weekdays: int = 0, closed: tuple[int, ...] = ()) -> CalendarState:
    c = calendar("bank", *offsets, weekdays=weekdays, closed=closed)
    return CalendarState(c.subject_id, c.zone, c.offsets, c.closed_weekdays, c.closed_days, 0)


def test_days_are_those_of_the_gregorian_calendar() -> None:
    epoch = date(1970, 1, 1)
    for day in [*range(-800, 1200), *range(10_950, 11_100), *range(0, 120_530, 97), 120_529]:
        known = epoch + timedelta(days=day)
        assert (civil(day), iso_date(day)) == ((known.year, known.month, known.day), known.isoformat())


def test_saturday_and_sunday_are_what_the_bits_say() -> None:
    weekend = shown(weekdays=32 + 64)
    for day in range(TODAY, TODAY + 14):
        weekday = (date(1970, 1, 1) + timedelta(days=day)).weekday()
        opens = business_day(weekend, day * DAY_MS)
        assert opens == (day if weekday < 5 else day + 7 - weekday)
        assert next_business_day(weekend, day) == day + (1 if weekday not in (4, 5) else 3 if weekday == 4 else 2)


# closed days from TODAY on | business day | next business day after TODAY
CLOSED: list[tuple[list[int], int, int]] = [
    ([], 0, 1),
    ([0], 1, 1),
    ([1], 0, 2),
    ([0, 1, 2, 4], 3, 3),
    (list(range(400)), 400, 400),
    (list(range(401)), 0, 1),
]


@pytest.mark.parametrize(("closed", "business", "following"), CLOSED)
def test_business_days(closed: list[int], business: int, following: int) -> None:
    c = shown(closed=tuple(TODAY + d for d in closed))
    assert (business_day(c, MIDNIGHT) - TODAY, next_business_day(c, TODAY) - TODAY) == (business, following)


def test_the_clocks_of_a_zone_go_forward_and_back() -> None:
    """Berlin in 2026: an hour forward on 29 March, one back on 25 October, both at 01:00 UTC."""
    spring, autumn = (int(datetime(2026, m, d, 1, tzinfo=UTC).timestamp() * 1000) for m, d in ((3, 29), (10, 25)))
    berlin = shown((0, 60), (spring, 120), (autumn, 60))
    for moment, minutes in ((spring - 1, 60), (spring, 120), (autumn - 1, 120), (autumn, 60), (-5, 60)):
        assert local_ms(berlin, moment) == moment + minutes * MINUTE_MS
    assert window_number(berlin, "hour", autumn - HOUR_MS) == window_number(berlin, "hour", autumn), "02:00 comes twice"
    assert local_date(shown((0, -300)), MIDNIGHT) == TODAY - 1
    assert (local_date(shown(), MIDNIGHT), local_date(None, MIDNIGHT)) == (TODAY, TODAY)


@pytest.mark.parametrize("offsets", [
    (), ((0, 480),), ((0, -300),), ((MIDNIGHT, 60),), ((0, 60), (MIDNIGHT + 90 * MINUTE_MS, 120)),
    ((0, 120), (MIDNIGHT + HOUR_MS, 60), (MIDNIGHT + 9 * HOUR_MS + 7, -900), (MIDNIGHT + 9 * HOUR_MS + 8, 900)),
])  # fmt: skip
def test_a_date_is_known_until_it_ends_or_the_clocks_change(offsets: tuple[tuple[int, int], ...]) -> None:
    """Walked through for three days: each step is ahead, and until its last millisecond the date is the same."""
    calendar = shown(*offsets)
    now, changes = MIDNIGHT - DAY_MS, 0
    while now < MIDNIGHT + 2 * DAY_MS:
        date, until = date_until(calendar, now)
        assert now < until <= now + DAY_MS
        moments = {now, until - 1, *range(now, until, 7 * MINUTE_MS)}
        assert {local_date(calendar, ms) for ms in moments} == {date}
        changes += local_date(calendar, until) != date
        now = until
    assert changes >= 2


def test_windows_have_numbers() -> None:
    moment = int(datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp() * 1000)
    new_year = shown(closed=(date(2026, 12, 31).toordinal() - 719_163,))
    assert [window_number(None, w, moment) for w in WINDOWS[1:]] == [moment // 60_000, moment // 3_600_000, 20_818, 683]
    assert [window_number(new_year, w, moment) for w in WINDOWS[3:]] == [20_819, 684], "its business day is in January"


def test_whose_calendar_it_is() -> None:
    """A partner's own, else the nearest above, else the bank's, else UTC; an account's is its owner's."""
    for setters, dates in (
        (("bank",), (1, 1)),
        (("bank", "acme"), (2, 2)),
        (("bank", "acme", "acme/shop"), (2, 3)),
        ((), (0, 0)),
    ):
        ledger = bank()
        calendars = [calendar(s, closed=tuple(range(TODAY, TODAY + n))) for n, s in enumerate(setters, 1)]
        ledger.settle(*calendars, limit("partner", "acme", per("day", 100)), limit("account", TILL, per("day", 100)))
        ledger.settle(transfer("a", 5, ALICE, TILL), transfer("b", 5, TILL, BOB), times=[at(0)] * 2)
        got = [CODEC.decode(ledger.rows()[f"u:{k}"]).used[0].start - TODAY for k in ("partner:acme", f"account:{TILL}")]
        assert tuple(got) == dates


RISING = tuple((i, 0) for i in range(501))
CALENDARS: list[tuple[SetCalendar, str]] = [
    (msgspec.structs.replace(calendar("acme"), partner_id="acme"), "not_permitted"),
    (calendar("nobody", weekdays=-1), "partner_unknown"),
    (msgspec.structs.replace(calendar("bank"), zone=""), "field_invalid zone"),
    (msgspec.structs.replace(calendar("bank"), zone="x" * 65), "field_invalid zone"),
    (msgspec.structs.replace(calendar("bank"), zone="a\n"), "field_invalid zone"),
    (calendar("bank", *RISING), "field_invalid offsets"),
    (calendar("bank", (5, 0), (5, 60)), "field_invalid offsets"),
    (calendar("bank", (5, 901)), "field_invalid offsets"),
    (calendar("bank", (5, -901)), "field_invalid offsets"),
    (calendar("bank", weekdays=127), "field_invalid closed_weekdays"),
    (calendar("bank", weekdays=-1), "field_invalid closed_weekdays"),
    (calendar("bank", closed=(5, 5)), "field_invalid closed_days"),
    (calendar("bank", closed=tuple(range(1001))), "field_invalid closed_days"),
    (calendar("bank", closed=(-1,)), "field_invalid closed_days"),
    (calendar("bank", closed=(120_530,)), "field_invalid closed_days"),
    (calendar("acme", *RISING[:500], weekdays=126, closed=(0, *range(119_531, 120_530))), "applied"),
]


@pytest.mark.parametrize(("asked", "expected"), CALENDARS)
def test_a_calendar_is_looked_at_before_it_is_taken(asked: SetCalendar, expected: str) -> None:
    ledger = bank()
    record = ledger.one(asked)
    assert answer(record) == expected
    if expected == "applied":
        assert record.subject_id == "acme"
        assert record.changes == {
            "zone": "Some/Where", "offsets": "500", "closed_weekdays": "126", "closed_days": "1000",
            "requested_by": "zhou", "note": "case 4",
        }  # fmt: skip
        assert CODEC.decode(ledger.rows()["c:acme"]).closed_weekdays == 126


# Days.

WEEKEND = calendar("bank", (0, 480), closed=(TODAY + 1, TODAY + 2))
VALUED = {"value_date": TODAY}

# when (UTC) | what is asked | what becomes of it | its value date, in days from TODAY, and which day it is late for
DAYS: list[tuple[int, Any, str, int | None, int | None]] = [
    (at(0), WEEKEND,                                          "applied",            None, None),
    (at(0), close(TODAY, by="acme"),                          "not_permitted",      None, None),
    (at(0), close(-1),                                        "field_invalid day",  None, None),
    (at(0), close(120_530),                                   "field_invalid day",  None, None),
    (at(0), close(TODAY + 1),                                 "day_ahead",          None, None),
    (at(0), msgspec.structs.replace(transfer("a", 1), value_date=TODAY), "settled", 0, None),
    (at(0, 15, 59), close(TODAY),                             "applied",            None, None),
    (at(0, 15, 59), close(TODAY),                             "day_closed",         None, None),
    (at(0, 15, 59), close(TODAY - 3),                         "day_closed",         None, None),
    (at(0), msgspec.structs.replace(transfer("b", 1), value_date=TODAY), "settled", 3, 0),
    (at(0), msgspec.structs.replace(transfer("c", 1), value_date=TODAY - 9), "settled", 3, -9),
    (at(0), msgspec.structs.replace(hold("h", 1), value_date=TODAY), "settled",     3, 0),
    (at(0), msgspec.structs.replace(capture("d", 1, of="h"), value_date=TODAY), "settled", 3, 0),
    (at(0), msgspec.structs.replace(adjust("e", (ALICE, "debit", 1), (BOB, "credit", 1)), value_date=TODAY), "settled", 3, 0),
    (at(0), msgspec.structs.replace(transfer("f", 1), value_date=TODAY + 1), "settled", 1, None),
    (at(0), msgspec.structs.replace(transfer("g", 10**6), value_date=TODAY), "insufficient_funds", 0, None),
    (at(0), msgspec.structs.replace(transfer("i", 1), value_date=-1), "field_invalid value_date", -1 - TODAY, None),
    (at(0, 16), close(TODAY + 1),                             "applied",            None, None),
    (at(0, 16), msgspec.structs.replace(transfer("j", 1), value_date=TODAY + 1), "settled", 3, 1),
    (at(0, 16), calendar("bank", (0, 480)),                   "applied",            None, None),
    (at(0, 16), msgspec.structs.replace(transfer("k", 1), value_date=TODAY), "settled", 2, 0),
]  # fmt: skip


@pytest.mark.parametrize("restart", [False, True])
def test_a_closed_day_takes_nothing_more(restart: bool) -> None:
    ledger = bank()
    for number, (when, asked, expected, value_date, late_for) in enumerate(DAYS, 1):
        (record,) = ledger.settle(asked, times=[when])
        assert answer(record) == expected, f"row {number}: {asked}"
        if value_date is not None:
            assert record.value_date == TODAY + value_date, f"row {number}"
            told_late = record.changes.get("late_for")
            assert told_late == (None if late_for is None else iso_date(TODAY + late_for)), f"row {number}"
        ledger = ledger.restarted() if restart else ledger


def test_a_close_says_which_day_and_which_is_next() -> None:
    ledger = bank()
    ledger.settle(WEEKEND)
    (record,) = ledger.settle(close(TODAY), times=[at(0)])
    assert (record.subject_id, record.changes) == (iso_date(TODAY), {
        "day": iso_date(TODAY), "next_day": iso_date(TODAY + 3), "requested_by": "zhou", "note": "day end",
    })  # fmt: skip
    assert ledger.base.head.closed_through == TODAY
    draft, _ = ledger.draft([close(TODAY + 1)], (), [at(2)])
    assert (draft.head.closed_through, ledger.base.head.closed_through) == (TODAY + 1, TODAY), (
        "a dropped draft closes nothing"
    )


def test_a_tick_lets_what_is_due_lapse_and_changes_nothing_itself() -> None:
    ledger = bank()
    held = msgspec.structs.replace(hold("h", 40), expires_at=at(0, 12, 0, 30))
    ledger.settle(held, times=[at(0)])
    (early, due, again, other) = ledger.settle(
        Tick("bank", "t1"),
        Tick("bank", "t2"),
        Tick("bank", "t2"),
        Tick("acme", "t3"),
        times=[at(0, 12, 0, s) for s in (29, 30, 31, 32)],
    )
    assert [answer(r) for r in (early, due, again, other)] == ["applied", "applied", "repeated", "not_permitted"]
    assert [(p.account_id, p.change, p.expired) for p in due.pending] == [(ALICE, -40, True), (BOB, -40, True)]
    assert (early.pending, early.subject_id, early.changes, due.subject_id, due.changes) == ((), "", {}, "", {})
    assert (balance(ledger, ALICE), balance(ledger, BOB)) == ("1000", "0")
