"""The twelve products as tables that a finance person can read, with numbers worked out by hand.

Each grid is one story on the product as it lies in `products/`. The first line names accounts, the second what is available
on each at the beginning. Each row: what is asked, what becomes of it, and what is available on each account then (`.` is
what it was before). Amounts are minor units: 10000 is 100.00 CNY. An account of the bank that is not open yet has 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clearline.product_file import read_product, shelf_files
from schemas.records import NamedAmount, OpenAccount, Posting, PublishProduct, Transaction
from tests.ledger_world import DAY, Ledger, admit

ALICE, BOB, TILL, ZOE = "acme:alice", "acme:bob", "acme/shop:till", "zeta:zoe"
CLEARING, FEES = "bank:clearing:CNY", "bank:fees:CNY"


def ask(key: str, operation: str, amount: int = 0, by: str = "acme", **other: Any) -> dict[str, Any]:
    """A transaction; fields in capitals are named amounts, others are roles unless the record has them."""
    out: dict[str, Any] = {
        "idempotency_key": key,
        "operation": operation,
        "amount": amount,
        "partner_id": by,
        "accounts": {},
    }
    names: dict[str, int] = {}
    for name, value in other.items():
        role = name.replace("__", ".")
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], int):
            out["accounts"][role], names[role] = value
        elif name in Transaction.__struct_fields__ and name != "accounts":
            out[name] = value
        elif isinstance(value, int):
            names[role] = value
        else:
            out["accounts"][role] = value
    return out | {"amounts": tuple(NamedAmount(n, v) for n, v in sorted(names.items()))}


def legs(*legs: tuple[str, str, int]) -> tuple[Posting, ...]:
    return tuple(Posting(*leg) for leg in legs)


Grid = tuple[str, str, list[tuple[dict[str, Any], str, str]]]

GRIDS: dict[str, Grid] = {
    "wallet": (
        f"{ALICE} {BOB} {ZOE} {CLEARING}", "10000 0 0 0", [
        (ask("t1", "top_up", 5_000, "bank", recipient=ALICE),                     "settled",                "15000 . . 5000"),
        (ask("t2", "top_up", 5_000, recipient=ALICE),                             "not_permitted",          ". . . ."),
        (ask("t3", "transfer", 4_000, payer=ALICE, payee=BOB),                    "settled",                "11000 4000 . ."),
        (ask("t4", "send", 1_000, payer=ALICE, recipient=ZOE),                    "settled",                "10000 . 1000 ."),
        (ask("t5", "transfer", 1_000, payer=ALICE, payee=ZOE),                    "account_not_owned",      ". . . ."),
        (ask("t6", "send", 1, payer=ZOE, recipient=ALICE),                        "account_not_owned",      ". . . ."),
        (ask("t7", "withdraw", 500, payer=BOB),                                   "settled",                ". 3500 . 4500"),
        (ask("h1", "hold", 3_000, payer=ALICE, payee=BOB),                        "settled",                "7000 . . ."),
        (ask("c1", "capture", 2_000, original="h1"),                              "settled",                ". 5500 . ."),
        (ask("v1", "void", original="h1"),                                        "settled",                "8000 . . ."),
        (ask("r1", "refund", 500, original="c1"),                                 "settled",                "8500 5000 . ."),
        (ask("r2", "refund", 1_501, original="c1"),                               "refund_exceeds_payment", ". . . ."),
        (ask("r3", "reversal", original="t4"),                                    "account_not_owned",      ". . . ."),
        (ask("r4", "reversal", original="t3"),                                    "settled",                "12500 1000 . ."),
        (ask("r5", "refund", 500, original="t7"),                                 "account_not_owned",      ". . . ."),  # it has left the bank
        (ask("r6", "reversal", original="t7"),                                    "account_not_owned",      ". . . ."),
        (ask("e1", "entry", postings=legs((ALICE, "debit", 300), (BOB, "credit", 300))), "settled",         "12200 1300 . ."),
        (ask("e2", "entry", postings=legs((CLEARING, "debit", 9), (BOB, "credit", 9))),  "account_not_owned", ". . . ."),
        (ask("x1", "pay", 1, payer=ALICE, payee=BOB),                             "operation_unknown",      ". . . ."),
    ]),
    "scan-to-pay": (
        f"{ALICE} {TILL} {FEES}", "10000000 0 0", [
        (ask("p1", "pay", 10_000, payer=ALICE, merchant=TILL),                    "settled",                "9990000 9940 60"),
        (ask("p2", "pay", 1, payer=ALICE, merchant=TILL),                         "settled",                "9989999 . 61"),
        (ask("p3", "pay", 249, payer=ALICE, merchant=TILL),                       "settled",                "9989750 10188 62"),    # 1.494
        (ask("p4", "pay", 250, payer=ALICE, merchant=TILL),                       "settled",                "9989500 10436 64"),    # 1.5
        (ask("p5", "pay", 416_583, payer=ALICE, merchant=TILL),                   "settled",                "9572917 424520 2563"), # 2499.498
        (ask("p6", "pay", 416_584, payer=ALICE, merchant=TILL),                   "settled",                "9156333 838604 5063"), # 2499.504
        (ask("p7", "pay", 500_000, payer=ALICE, merchant=TILL),                   "settled",                "8656333 1336104 7563"),
        (ask("p8", "pay", 500_001, payer=ALICE, merchant=TILL),                   "limit_exceeded",         ". . ."),
        (ask("r1", "refund", 9_940, original="p1"),                               "settled",                "8666273 1326164 ."),
        (ask("r2", "refund", 60, original="p1"),                                  "settled",                "8666333 . 7503"),
        (ask("r3", "refund", 1, original="p1"),                                   "refund_exceeds_payment", ". . ."),
        (ask("p9", "pay", 100, payer=ALICE, merchant=TILL, currency="HKD"),       "product_currency",       ". . ."),
        (ask("h1", "hold", 333, payer=ALICE, payee=TILL),                         "settled",                "8666000 . ."),
        (ask("c1", "capture", 300, original="h1", final=True),                    "settled",                "8666033 1326464 ."),
        (ask("t1", "transfer", 33, payer=ALICE, payee=TILL),                      "settled",                "8666000 1326497 ."),
        (ask("h2", "hold", 1_000, payer=ALICE, payee=TILL),                       "settled",                "8665000 . ."),
        (ask("v2", "void", original="h2"),                                        "settled",                "8666000 . ."),
    ]),
    "e-account": (
        f"acme:li {ZOE} {CLEARING} {FEES} bank:interest-paid:CNY", "new 0 0 0 0", [
        (ask("d1", "deposit", 2_000_000, "bank", account="acme:li"),              "settled",                "2000000 . 2000000 . ."),
        (ask("w1", "withdraw", 100_000, payer="acme:li"),                         "settled",                "1900000 . 1900000 . ."),
        (ask("w2", "withdraw", 100_001, payer="acme:li"),                         "settled",                "1799999 . 1800019 20 ."),
        (ask("w3", "withdraw", 1_000_000, payer="acme:li"),                       "settled",                "799999 . 800219 220 ."),
        (ask("w4", "withdraw", 1_000_001, payer="acme:li"),                       "insufficient_funds",     ". . . . ."),
        (ask("i1", "pay_interest", 37, "bank", account="acme:li"),                "settled",                "800036 . . . 37"),
        (ask("t1", "transfer", 36, payer="acme:li", payee=ZOE),                   "settled",                "800000 36 . . ."),
        (ask("t2", "transfer", 36, "bank", payer="acme:li", payee=ZOE),           "not_permitted",          ". . . . ."),
        (ask("d2", "deposit", 20_000_000, "bank", account="acme:li"),             "settled",                "20800000 . 20800219 . ."),
        (ask("d3", "deposit", 20_000_001, "bank", account="acme:li"),             "limit_exceeded",         ". . . . ."),
        (ask("w5", "withdraw", 1_000_001, payer="acme:li"),                       "settled",                "19799999 . 19800418 420 ."),
        (ask("d4", "deposit", 5, "bank", account="omega:li"),                     "account_unknown",        ". . . . ."),
    ]),
    "deposit": (
        f"{ALICE} acme:term {TILL} {FEES} bank:interest-paid:CNY", "1000000 new 0 0 0", [
        (ask("p1", "place", 600_000, payer=ALICE, term="acme:term"),              "settled",                "400000 600000 . . ."),
        (ask("w1", "withdraw_early", 100_000, term="acme:term", payee=ALICE),     "settled",                "499650 500000 . 350 ."),
        (ask("w2", "withdraw_early", 1, term="acme:term", payee=ALICE),           "settled",                ". 499999 . 351 ."),  # 0.0035, rounded up
        (ask("m1", "mature", term="acme:term", payee=ALICE, interest_amount=9),   "not_permitted",          ". . . . ."),
        (ask("m2", "mature", by="bank", term="acme:term", payee=ALICE, interest_amount=1_234), "settled",   "1000883 0 . . 1234"),
        (ask("m3", "mature", by="bank", term="acme:term", payee=ALICE, interest_amount=5),     "settled",   "1000888 . . . 1239"),
        (ask("m4", "mature", by="bank", term="acme:term", payee=ALICE),           "field_invalid",          ". . . . ."),
        (ask("g1", "margin", 1_000, payer=ALICE, payee=TILL),                     "settled",                "999888 . . . ."),
        (ask("g2", "call_margin", 400, original="g1"),                            "settled",                ". . 400 . ."),
        (ask("g3", "release_margin", original="g1"),                              "settled",                "1000488 . . . ."),
    ]),
    "smart-loan": (
        f"{ALICE} bank:loans:acme:CNY bank:loan-interest:acme:CNY {FEES} bank:interest-earned:CNY bank:loan-losses:CNY", "0 0 0 0 0 0", [
        (ask("d1", "disburse", 1_000_000, "bank", principal="bank:loans:acme:CNY", borrower=ALICE), "settled", "995000 1000000 . 5000 . ."),
        (ask("d2", "disburse", 1_000_001, "bank", principal="bank:loans:acme:CNY", borrower=ALICE), "settled", "1990001 2000001 . 10000 . ."),
        (ask("d3", "disburse", 1_000, principal="bank:loans:acme:CNY", borrower=ALICE),       "not_permitted", ". . . . . ."),
        (ask("a1", "accrue", 3_000, "bank", interest="bank:loan-interest:acme:CNY"),          "settled",    ". . 3000 . 3000 ."),
        (ask("r1", "repay", 1_000, payer=ALICE),                                  "settled",                "1989001 . 2000 . . ."),
        (ask("r2", "repay", 5_000, payer=ALICE),                                  "settled",                "1984001 1997001 0 . . ."),
        (ask("r3", "repay", 1_984_002, payer=ALICE),                              "insufficient_funds",     ". . . . . ."),
        (ask("w1", "write_off", 1_000_000, "bank", principal="bank:loans:acme:CNY", interest="bank:loan-interest:acme:CNY"), "settled", ". 997001 . . . 1000000"),
        (ask("r4", "repay", 997_002, payer=ALICE),                                "insufficient_funds",     ". . . . . ."),
        (ask("r5", "repay", 997_001, payer=ALICE),                                "settled",                "987000 0 . . . ."),
    ]),
    "supply-chain": (
        f"acme:buyer zeta:supplier {TILL} acme:rest bank:advances:acme:CNY bank:discount-earned:CNY {FEES}", "5000000 0 0 0 0 0 0", [
        (ask("a1", "advance", 1_000_000, "bank", advances="bank:advances:acme:CNY", supplier="zeta:supplier", discount_amount=20_000),
                                                                                  "settled",                ". 979000 . . 1000000 20000 1000"),
        (ask("a2", "advance", 500, "bank", advances="bank:advances:acme:CNY", supplier="zeta:supplier", discount_amount=400),
                                                                                  "settled",                ". . . . 1000500 20400 1100"),
        (ask("a3", "advance", 500, "bank", advances="bank:advances:acme:CNY", supplier="zeta:supplier", discount_amount=401),
                                                                                  "split_exceeds_amount",   ". . . . . . ."),
        (ask("i1", "pay_invoice", 600_000, buyer="acme:buyer", supplier="zeta:supplier"), "settled",        "4400000 . . . 400500 . ."),
        (ask("i2", "pay_invoice", 600_000, buyer="acme:buyer", supplier="zeta:supplier"), "settled",        "3800000 1178500 . . 0 . ."),
        (ask("i3", "pay_invoice", 100, buyer="acme:buyer", supplier="zeta:supplier"),     "settled",        "3799900 1178600 . . . . ."),
        (ask("s1", "pay_suppliers", 1_000, buyer="acme:buyer", rest="acme:rest", suppliers__1=("zeta:supplier", 300), suppliers__2=(TILL, 450)),
                                                                                  "settled",                "3798900 1178900 450 250 . . ."),
        (ask("s2", "pay_suppliers", 749, buyer="acme:buyer", rest="acme:rest", suppliers__1=("zeta:supplier", 300), suppliers__2=(TILL, 450)),
                                                                                  "split_exceeds_amount",   ". . . . . . ."),
    ]),
    "bill-discounting": (
        f"zeta:holder acme:drawee bank:bills:CNY bank:bills-overdue:CNY bank:discount-earned:CNY {FEES}", "0 10000000 0 0 0 0", [
        (ask("d1", "discount", 10_000_000, "bank", holder="zeta:holder", discount_amount=235_000), "settled", "9763000 . 10000000 . 235000 2000"),
        (ask("d2", "discount", 10_000_001, "bank", holder="zeta:holder", discount_amount=1),       "settled", "19761000 . 20000001 . 235001 4000"),
        (ask("c1", "collect", 6_000_000, drawee="acme:drawee"),                   "settled",                ". 4000000 14000001 . . ."),
        (ask("o1", "dishonour", 14_000_001, "bank"),                              "settled",                ". . 0 14000001 . ."),
        (ask("o2", "recourse", 3_000_000, "bank", endorser="acme:drawee"),        "settled",                ". 995000 . 11000001 . 9000"),
        (ask("o3", "recourse", 1_000_000, "bank", endorser="acme:drawee"),        "insufficient_funds",     ". . . . . ."),
        (ask("c2", "collect", 1, drawee="acme:drawee"),                           "insufficient_funds",     ". . . . . ."),  # no bill is left
    ]),
    "asset-pool": (
        f"{ALICE} acme:pool acme:m1 acme/shop:m2 acme:m3 {FEES}", "100000 new 0 0 0 0", [
        (ask("c1", "contribute", 90_000, member=ALICE, pool="acme:pool"),         "settled",                "10000 90000 . . . ."),
        (ask("d1", "distribute", 1_000, pool="acme:pool", members__1="acme:m1", members__2="acme/shop:m2", members__3="acme:m3"),
                                                                                  "settled",                ". 89000 329 328 328 15"),
        (ask("d2", "distribute", 100, pool="acme:pool", members__1="acme:m1", members__2="acme/shop:m2", members__3="acme:m3"),
                                                                                  "settled",                ". 88900 359 358 358 25"),
        (ask("d3", "distribute", 9, pool="acme:pool", members__1="acme:m1"),      "split_exceeds_amount",   ". . . . . ."),
        (ask("w1", "withdraw", 900, pool="acme:pool", member=ALICE),              "settled",                "10900 88000 . . . ."),
        (ask("x1", "dissolve", pool="acme:pool", members__1="acme:m1", members__2="acme/shop:m2", members__3="acme:m3"),
                                                                                  "settled",                ". 0 29693 29691 29691 ."),
        (ask("x2", "dissolve", pool="acme:pool", members__1="acme:m1"),           "nothing_to_move",        ". . . . . ."),
        (ask("p1", "pledge", 500, payer=ALICE, payee="acme/shop:m2"),             "settled",                "10400 . . . . ."),
        (ask("p2", "call", 200, original="p1"),                                   "settled",                ". . . 29891 . ."),
        (ask("p3", "release", original="p1"),                                     "settled",                "10700 . . . . ."),
    ]),
    "escrow": (
        f"{ALICE} acme:pool zeta:a acme/shop:b acme:rest {FEES}", "1000000 new 0 0 0 0", [
        (ask("c1", "collect", 500_000, payer=ALICE, pool="acme:pool"),            "settled",                "500000 500000 . . . ."),
        (ask("r1", "refund", 50_000, original="c1"),                              "settled",                "550000 450000 . . . ."),
        (ask("s1", "split", 100_000, pool="acme:pool", rest="acme:rest", payees__1=("zeta:a", 60_000), payees__2=("acme/shop:b", 30_000)),
                                                                                  "settled",                ". 350000 60000 30000 9900 100"),
        (ask("s2", "split", 1_000, pool="acme:pool", rest="acme:rest", payees__1=("zeta:a", 600), payees__2=("acme/shop:b", 400)),
                                                                                  "split_exceeds_amount",   ". . . . . ."),
        (ask("s3", "split", 999, pool="acme:pool", rest="acme:rest", payees__1=("zeta:a", 600), payees__2=("acme/shop:b", 399)),
                                                                                  "settled",                ". 349001 60600 30399 . ."),
        (ask("e1", "share", 10, pool="acme:pool", payees__1="zeta:a", payees__2="acme/shop:b", payees__10="acme:rest"),
                                                                                  "settled",                ". 348991 60604 30402 9903 ."),
        (ask("p1", "release", 48_991, pool="acme:pool", payee="zeta:a"),          "settled",                ". 300000 109595 . . ."),
        (ask("x1", "close", by="bank", pool="acme:pool", payee="zeta:a"),         "settled",                ". 0 409595 . . ."),
        (ask("x2", "close", pool="acme:pool", payee="zeta:a"),                    "nothing_to_move",        ". . . . . ."),
        (ask("r2", "refund", 450_001, original="c1"),                             "refund_exceeds_payment", ". . . . . ."),
        (ask("r3", "refund", 1, original="c1"),                                   "insufficient_funds",     ". . . . . ."),
        (ask("d1", "deposit", 700, "bank", pool="acme:pool"),                     "settled",                ". 700 . . . ."),
    ]),
    "treasury": (
        "acme:a1 acme:a2 acme/shop:a3 acme:header acme:overdraft acme:usd bank:position:CNY bank:position:USD",
        "700 0 50 1000 -200 0 0 0", [
        (ask("s1", "sweep", header="acme:header", accounts__1="acme:a1", accounts__2="acme:a2", accounts__3="acme/shop:a3"),
                                                                                  "settled",                "0 0 0 1750 . . . ."),
        (ask("s2", "sweep", header="acme:header", accounts__1="acme:a1"),         "nothing_to_move",        ". . . . . . . ."),
        (ask("s3", "sweep", header="acme:header", accounts__1="acme:a1", accounts__2="acme:header"), "same_account", ". . . . . . . ."),
        (ask("s4", "sweep", header="acme:header", accounts__1="acme:a1", accounts__2="acme:typo"), "account_unknown", ". . . . . . . ."),
        (ask("z1", "zero", header="acme:header", accounts__1="acme:a1", accounts__7="acme:overdraft"), "settled", ". . . 1550 0 . . ."),
        (ask("a1", "allocate", 1_000, header="acme:header", rest="acme/shop:a3", members__1=("acme:a1", 300), members__2=("acme:a2", 250)),
                                                                                  "settled",                "300 250 450 550 . . . ."),
        (ask("l1", "level", 100, header="acme:header", members__1="acme:a1", members__2="acme:a2", members__3="acme/shop:a3"),
                                                                                  "settled",                "334 283 483 450 . . . ."),
        (ask("x0", "exchange", 1, payer="acme:header", payee="acme:usd", rate="999999999999"), "not_permitted", ". . . . . . . ."),
        (ask("x1", "exchange", 100, "bank", payer="acme:header", payee="acme:usd", rate="0.1449"), "settled",       ". . . 350 . 14 -100 14"),
        (ask("x2", "exchange", 100, "bank", payer="acme:header", payee="acme:usd", rate="0.145"),  "settled",       ". . . 250 . 29 -200 29"),
        (ask("x3", "exchange", 100, "bank", payer="acme:header", payee="acme:usd", rate="0"),      "rate_invalid",  ". . . . . . . ."),
        (ask("t1", "transfer", 50, payer="acme:header", payee="acme:a1"),         "settled",                "384 . . 200 . . . ."),
    ]),
    "payment": (
        f"{ALICE} {ZOE} {TILL} acme:rest {CLEARING} {FEES}", "1000000 0 0 0 0 0", [
        (ask("p1", "pay", 1_000, payer=ALICE, beneficiary=ZOE),                   "settled",                "999000 1000 . . . ."),
        (ask("c1", "collect", 2_500, "bank", beneficiary=ZOE),                    "settled",                ". 3500 . . 2500 ."),
        (ask("o1", "pay_out", 1_000, payer=ALICE),                                "settled",                "998000 . . . 1501 1"),  # 0.5
        (ask("o2", "pay_out", 999, payer=ALICE),                                  "settled",                "997001 . . . 502 ."),   # 0.4995
        (ask("m1", "pay_many", 500, payer=ALICE, rest="acme:rest", beneficiaries__1=(ZOE, 200), beneficiaries__2=(TILL, 100)),
                                                                                  "settled",                "996501 3700 100 200 . ."),
        (ask("p2", "pay", 700, "zeta", payer=ZOE, beneficiary=ALICE),             "settled",                "997201 3000 . . . ."),
        (ask("r1", "refund", 1_000, original="p1"),                               "account_not_owned",      ". . . . . ."),
        (ask("r2", "refund", 999, original="o1"),                                 "account_not_owned",      ". . . . . ."),  # it has left the bank
        (ask("r3", "reversal", original="o1"),                                    "account_not_owned",      ". . . . . ."),
        (ask("p3", "pay", 5, payer=ALICE, beneficiary=CLEARING),                  "account_not_owned",      ". . . . . ."),
    ]),
    "data-service": (
        "acme:subscriber zeta:provider bank:data-revenue:CNY", "1000000 0 0", [
        (ask("s1", "subscribe", subscriber="acme:subscriber"),                    "settled",                "990100 . 9900"),
        (ask("s2", "subscribe", 9_900, subscriber="acme:subscriber"),             "field_invalid",          ". . ."),
        (ask("s3", "refund", 9_900, original="s1"),                               "not_permitted",          ". . ."),
        (ask("m1", "meter", by="bank", subscriber="acme:subscriber", calls=1_000),           "nothing_to_move",        ". . ."),
        (ask("m2", "meter", by="bank", subscriber="acme:subscriber", calls=1_001),           "settled",                "989600 . 10400"),   # 500.5 to the even one
        (ask("m3", "meter", by="bank", subscriber="acme:subscriber", calls=1_003),           "settled",                "989098 . 10902"),   # 501.5 to the even one
        (ask("m4", "meter", by="bank", subscriber="acme:subscriber", calls=100_000),         "settled",                "939098 . 60902"),
        (ask("m5", "meter", by="bank", subscriber="acme:subscriber", calls=100_001),         "settled",                "889098 . 110902"),  # 30000.3, at least 500.00
        (ask("m6", "meter", by="bank", subscriber="acme:subscriber", calls=200_000),         "settled",                "829098 . 170902"),
        (ask("b1", "buy", 101, subscriber="acme:subscriber", provider="zeta:provider"), "settled",          "828997 71 170932"),
        (ask("r1", "refund", 500, "bank", original="m2"),                               "settled",                "829497 . 170432"),
        (ask("r2", "refund", 1, "bank", original="m2"),                                 "refund_exceeds_payment", ". . ."),
    ]),
}  # fmt: skip

FILES = {f.stem: f for f in shelf_files()}


def shelf_ledger(file: Path) -> Ledger:
    """Three partners, and one product on the shelf."""
    ledger = Ledger()
    p = read_product(file)
    ledger.settle(*(admit(name) for name in ("acme", "acme/shop", "zeta")))
    assert ledger.one(PublishProduct("bank", "shelf", p.product, p.version, 0, p.text)).outcome == "applied"
    return ledger


def opened(ledger: Ledger, accounts: list[str], start: list[str]) -> None:
    """Opens the partners' accounts and fills them. `new`: the product opens it; the bank's are the product's too."""
    ledger.one(OpenAccount("bank", "funds", "bank:funds", "equity", "CNY", None))
    for account, amount in zip(accounts, start, strict=True):
        if account.startswith("bank:") or amount == "new":
            continue
        currency = "USD" if account.endswith("usd") else "CNY"
        least = None if int(amount) < 0 else 0
        assert (
            ledger.one(OpenAccount("bank", f"o{account}", account, "liability", currency, least)).outcome == "applied"
        )
        if int(amount):
            sides = ("credit", "debit") if int(amount) > 0 else ("debit", "credit")
            postings = legs((account, sides[0], abs(int(amount))), ("bank:funds", sides[1], abs(int(amount))))
            filled = Transaction("bank", f"f{account}", "x", "adjustment", 0, "CNY", {}, postings, DAY, note="opening")
            assert ledger.one(filled).outcome == "settled"


def test_each_product_of_the_shelf_has_its_grid():
    assert set(GRIDS) == set(FILES)
    assert len(GRIDS) == 12


@pytest.mark.parametrize("name", GRIDS)
def test_a_product_does_what_its_grid_says(name):
    columns, start, rows = GRIDS[name]
    accounts = columns.split()
    ledger = shelf_ledger(FILES[name])
    opened(ledger, accounts, start.split())
    balances = ["0" if b == "new" else b for b in start.split()]
    for asked, outcome, after in rows:
        fields: dict[str, Any] = {"product": name, "currency": "CNY", "postings": (), "value_date": DAY}
        record = ledger.one(Transaction(**(fields | asked)))
        assert (record.reason or record.outcome) == outcome, (asked["idempotency_key"], record.reason, record.detail)
        balances = [before if now == "." else now for before, now in zip(balances, after.split(), strict=True)]
        found = [ledger.base.accounts.get(a) for a in accounts]
        assert [str(a.available()) if a else "0" for a in found] == balances, asked["idempotency_key"]
        debits = sum(p.amount for p in record.postings if p.side == "debit" and p.currency == "CNY")
        assert debits == sum(p.amount for p in record.postings if p.side == "credit" and p.currency == "CNY")


def test_every_operation_of_every_product_stands_in_a_grid():
    """But for reversals and refunds, which are the same in many, and an exchange that treasury has too."""
    missing = {
        (name, operation)
        for name, file in FILES.items()
        for operation, o in read_product(file).document["operations"].items()
        if operation not in {asked["operation"] for asked, _, _ in GRIDS[name][2]}
        and o["kind"] not in ("reversal", "refund")
    }
    assert missing == {("payment", "exchange")}
