"""One currency for another, as a table: what Alice (CNY) and Yen (JPY) have before, what is asked, and what they have after."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.exchange import bought_for
from ledger.reasons import Rejection
from schemas.records import Limit, SetLimit
from tests.grids import ALICE, BOB, CASH, YEN, ZOE, answer, ask, balance, bank, legs, refund, reversal, transfer
from tests.ledger_world import account

SOLD, BOUGHT = "bank:fx:CNY", "bank:fx:JPY"
ROLES = {"payer": ALICE, "payee": YEN, "sold": SOLD, "bought": BOUGHT}


def change(key: str, amount: int, rate: str, **other: Any) -> Any:
    return ask("exchange", key, amount, **{"accounts": ROLES, "rate": rate, **other})


def roles(**other: str) -> dict[str, Any]:
    return {"accounts": {**ROLES, **other}}


# before: Alice (CNY), Yen | what is asked | what becomes of it | after: Alice, Yen
EXCHANGES: list[tuple[str, str, Any, str, str, str]] = [
    ("1000", "100", change("a", 100, "20.5"),                       "settled",                "900", "121"),
    ("900",  "121", change("b", 100, "20.49"),                      "settled",                "800", "141"),
    ("800",  "141", change("c", 1, "0.004"),                        "rate_invalid",           "800", "141"),
    ("800",  "141", change("d", 1, "50"),                           "settled",                "799", "142"),
    ("799",  "142", change("d", 1, "50"),                           "repeated",               "799", "142"),
    ("799",  "142", reversal("e", of="a"),                          "settled",                "899", "121"),
    ("899",  "121", refund("f", 1, of="b"),                         "original_mismatch original", "899", "121"),
    ("899",  "121", change("g", 900, "1"),                          "insufficient_funds",     "899", "121"),
    ("899",  "121", change("h", 1, "0"),                            "rate_invalid",           "899", "121"),
    ("899",  "121", change("i", 1, ""),                             "rate_invalid",           "899", "121"),
    ("899",  "121", change("j", 1, "1e3"),                          "rate_invalid",           "899", "121"),
    ("899",  "121", change("k", 1, "-1"),                           "rate_invalid",           "899", "121"),
    ("899",  "121", change("l", 1, "1.1234567890123"),              "rate_invalid",           "899", "121"),
    ("899",  "121", change("m", 1, "\u0661"),                       "rate_invalid",           "899", "121"),
    ("899",  "121", change("n", 1, "1\n"),                          "rate_invalid",           "899", "121"),
    ("899",  "121", change("o", 0, "x"),                            "amount_not_positive",    "899", "121"),
    ("899",  "121", change("p", 1, "x", currency="XAU"),            "currency_unknown",       "899", "121"),
    ("899",  "121", change("q", 1, "x", exponent=0),                "exponent_mismatch",      "899", "121"),
    ("899",  "121", change("r", 1, "1", accounts={"payer": ALICE}), "role_missing",           "899", "121"),
    ("899",  "121", change("s", 1, "1", **roles(fee=BOB)),          "role_unknown",           "899", "121"),
    ("899",  "121", change("t", 1, "1", postings=legs((ALICE, "debit", 1))), "field_invalid postings", "899", "121"),
    ("899",  "121", change("u", 1, "0.001", **roles(payee="acme:w:none")), "account_unknown", "899", "121"),
    ("899",  "121", change("v", 1, "1", **roles(sold=BOB)),         "account_not_owned",      "899", "121"),
    ("899",  "121", change("w", 1, "1", **roles(bought=CASH)),      "account_not_owned",      "899", "121"),
    ("899",  "121", change("x", 1, "1", **roles(payee=ZOE)),        "account_not_owned",      "899", "121"),
    ("899",  "121", change("y", 1, "1", **roles(payer=ZOE)),        "account_not_owned",      "899", "121"),
    ("899",  "121", change("z", 1, "1", **roles(payee=BOB, bought=SOLD)), "account_currency", "899", "121"),
    ("899",  "121", change("A", 1, "1", **roles(bought=SOLD)),      "account_currency",       "899", "121"),
    ("899",  "121", change("B", 1, "1", **roles(sold=BOUGHT)),      "account_currency",       "899", "121"),
    ("899",  "121", change("C", 2**62, "999999999999"),             "amount_too_large",       "899", "121"),
    ("899",  "121", transfer("D", 1, rate="1"),                     "field_invalid rate",     "899", "121"),
]  # fmt: skip


def test_one_currency_for_another() -> None:
    ledger = bank()
    ledger.settle(account(SOLD, "asset", limit=None), account(BOUGHT, "asset", "JPY", None))
    for number, (cny, yen, asked, expected, cny_after, yen_after) in enumerate(EXCHANGES, 1):
        assert (balance(ledger, ALICE), balance(ledger, YEN)) == (cny, yen), f"row {number}"
        record = ledger.one(asked)
        assert answer(record) == expected, f"row {number}: {asked}"
        assert (balance(ledger, ALICE), balance(ledger, YEN)) == (cny_after, yen_after), f"row {number}"
    assert ledger.base.accounts[SOLD].credits_posted - ledger.base.accounts[SOLD].debits_posted == 101
    assert ledger.base.accounts[BOUGHT].debits_posted - ledger.base.accounts[BOUGHT].credits_posted == 21


def test_the_four_legs_of_an_exchange_stand_in_their_order() -> None:
    ledger = bank()
    ledger.settle(account(SOLD, "asset", limit=None), account(BOUGHT, "asset", "JPY", None))
    record = ledger.one(change("a", 100, "20.5"))
    assert [(p.account_id, p.side, p.amount, p.currency) for p in record.postings] == [
        (ALICE, "debit", 100, "CNY"), (SOLD, "credit", 100, "CNY"), (BOUGHT, "debit", 21, "JPY"), (YEN, "credit", 21, "JPY"),
    ]  # fmt: skip
    ledger.settle(SetLimit("bank", "l", "account", BOUGHT, (Limit("day", "JPY", None, 30),)))
    refused = ledger.one(change("b", 100, "31"))
    assert (refused.reason, refused.detail["subject"], refused.detail["asked"]) == ("limit_exceeded", BOUGHT, "31")


@pytest.mark.parametrize(
    ("amount", "rate", "currency", "other", "gets"),
    [
        (100, "20.5", "CNY", "JPY", 21), (100, "20.4999", "CNY", "JPY", 20), (1, "0.5", "JPY", "JPY", 1), (1, "0.49", "JPY", "JPY", 0),
        (1, "1", "JPY", "KWD", 1000), (1000, "1", "KWD", "JPY", 1), (499, "1", "KWD", "JPY", 0), (500, "1", "KWD", "JPY", 1),
        (3, "0.333333333333", "CNY", "EUR", 1), (2**63 - 1, "1.000000000000", "CNY", "EUR", 2**63 - 1),
        (10**18, "7.123456789012", "CNY", "KWD", 71_234_567_890_120_000_000), (7, "000000000007", "JPY", "JPY", 49),
    ],
)  # fmt: skip
def test_what_a_rate_buys_is_rounded_half_up(amount: int, rate: str, currency: str, other: str, gets: int) -> None:
    assert bought_for(amount, rate, currency, other) == gets


@pytest.mark.parametrize(
    "rate", ["", ".5", "5.", "1,5", "+1", " 1", "1234567890123", "1.1234567890123", "0.000000000000", "\u0665"]
)
def test_a_rate_is_a_plain_decimal_number_above_zero(rate: str) -> None:
    with pytest.raises(Rejection, match="rate_invalid"):
        bought_for(1, rate, "CNY", "EUR")
