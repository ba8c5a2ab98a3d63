"""Products worked out: every kind of amount with numbers by hand, and over random documents that the legs always balance.

The random ones are compared with the conformance suite's calculator, which works with fractions from the document alone.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st

from clearline.conformance import suite
from clearline.conformance.calculator import price
from clearline.conformance.cases import Stage
from clearline.conformance.prices import points
from ledger.parts import Given, equal_parts, shares, value_of
from ledger.product_sense import check
from ledger.products import amount_of
from schemas.identity import partition_of
from schemas.records import BlockAccount, NamedAmount, PublishProduct, SetPartnerState
from tests.ledger_world import DAY, Ledger, account, admit, entry, key, pay

CUR = "CNY"


def cny(amount: int) -> dict[str, int]:
    return {CUR: amount}


# amount expression | base | what it comes to
PRICES: list[tuple[Any, int, int]] = [
    ({"fixed": cny(7)}, 1, 7),
    ({"percent": "50"}, 1, 1), ({"percent": "50"}, 3, 2), ({"percent": "50"}, 5, 3),
    ({"percent": "50", "rounding": "half_even"}, 1, 0), ({"percent": "50", "rounding": "half_even"}, 3, 2), ({"percent": "50", "rounding": "half_even"}, 5, 2),
    ({"percent": "50", "rounding": "down"}, 3, 1), ({"percent": "50", "rounding": "up"}, 3, 2), ({"percent": "50", "rounding": "up"}, 2, 1),
    ({"percent": "0.000001", "rounding": "up"}, 1, 1), ({"percent": "0.000001"}, 10**8 - 1, 1), ({"percent": "0.000001"}, 49_999_999, 0), ({"percent": "0.000001"}, 50_000_000, 1),
    ({"percent": "33.333333"}, 2**63 - 1, 3_074_457_314_873_685_146),  # no float could say so
    ({"percent": "100"}, 2**63 - 1, 2**63 - 1), ({"percent": "0"}, 2**63 - 1, 0),
    ({"percent": "1", "min": cny(5)}, 499, 5), ({"percent": "1", "min": cny(5)}, 549, 5), ({"percent": "1", "min": cny(5)}, 550, 6),
    ({"percent": "1", "max": cny(5)}, 549, 5), ({"percent": "1", "max": cny(5)}, 449, 4), ({"percent": "1", "max": cny(5)}, 10**9, 5),
    ({"percent": "1", "min": cny(5), "max": cny(5)}, 10**9, 5),
    ({"tiers": [{"up_to": cny(10), "fixed": cny(1)}, {"up_to": cny(20), "percent": "50"}, {"percent": "10", "min": cny(3)}]}, 10, 1),
    ({"tiers": [{"up_to": cny(10), "fixed": cny(1)}, {"up_to": cny(20), "percent": "50"}, {"percent": "10", "min": cny(3)}]}, 11, 6),
    ({"tiers": [{"up_to": cny(10), "fixed": cny(1)}, {"up_to": cny(20), "percent": "50"}, {"percent": "10", "min": cny(3)}]}, 20, 10),
    ({"tiers": [{"up_to": cny(10), "fixed": cny(1)}, {"up_to": cny(20), "percent": "50"}, {"percent": "10", "min": cny(3)}]}, 21, 3),
    ({"tiers": [{"up_to": cny(10), "fixed": cny(1)}, {"up_to": cny(20), "percent": "50"}, {"percent": "10", "min": cny(3)}]}, 35, 4),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "base", "amount"), PRICES)
def test_a_price(expression, base, amount):
    assert value_of(amount_of(expression, "amount"), Given(base, {}, CUR), 0) == amount
    assert value_of(amount_of(expression, "step"), Given(0, {}, CUR), base) == amount
    assert (
        value_of(
            amount_of({**expression, "of": "calls"}, "step")
            if "fixed" not in expression
            else amount_of(expression, ""),
            Given(0, {"calls": base}, CUR),
            0,
        )
        == amount
    )
    assert price(expression, Fraction(base), CUR) == amount


def test_equal_parts_give_the_odd_units_to_the_first():
    assert [equal_parts(n, 3) for n in (0, 1, 2, 3, 10)] == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [4, 3, 3]]


@pytest.mark.parametrize(
    ("before", "amount", "taken"),
    [
        (0, 10, [("a", 10)]),
        (0, 60, [("a", 50), ("b", 10)]),
        (50, 25, [("b", 20), ("c", 5)]),
        (69, 2, [("b", 1), ("c", 1)]),
        (70, 30, [("c", 30)]),
    ],
)
def test_what_is_returned_comes_from_the_payee_first(before, amount, taken):
    assert shares([("a", 50), ("b", 20), ("c", 30)], before, amount) == taken


ROLES: dict[str, Any] = {
    "payer": {"owner": "caller"}, "payee": {"owner": "any"}, "near": {"owner": "tree"}, "many": {"owner": "caller", "many": True},
    "others": {"owner": "any", "many": True}, "debt": {"owner": "caller"}, "fees": {"owner": "bank", "account": "bank:fees:{currency}"},
    "fresh": {"owner": "caller", "open": {"type": "liability", "min_available": 0, "credit_limit": 50}},
    "own": {"owner": "caller", "account": "{caller}:pool:{currency}"}, "roots": {"owner": "caller", "account": "{root}:pool:{currency}"},
}  # fmt: skip


def product(*steps: dict[str, Any], **other: Any) -> dict[str, Any]:
    """A product of one operation `go`, with the roles that it uses."""
    operation = {
        "kind": "transfer",
        "steps": list(steps),
        **{k: v for k, v in other.items() if k in ("amounts", "callers")},
    }
    used = {r for s in steps for r in (s["from"], *(t["role"] for t in s["to"]))}
    document = {
        "product": "try", "version": 1, "currencies": [CUR], "roles": {r: ROLES[r] for r in sorted(used)},
        "operations": {"go": operation, "back": {"kind": "refund", "fees": other.get("fees", "keep")}},
    }  # fmt: skip
    assert check(document) == []
    return document


def step(source: str, amount: Any, *to: Any) -> dict[str, Any]:
    targets = [{"role": t} if isinstance(t, str) else {"role": t[0], "amount": t[1]} for t in to]
    return {"from": source, "amount": amount, "to": targets}


def ledger(document: dict[str, Any]) -> Ledger:
    """acme has 1,000 on w, 60 on x, 5 on y, -40 on z, and 70 on the other side of debt; zeta and acme/shop have an empty account."""
    out = Ledger()
    out.settle(*(admit(p) for p in ("acme", "acme/shop", "zeta")))
    names = {
        "acme:w": 1_000,
        "acme:x": 60,
        "acme:y": 5,
        "acme:z": -40,
        "acme:n": 0,
        "zeta:a": 0,
        "acme/shop:a": 0,
        "acme/shop:w": 9,
        "acme:pool:CNY": 0,
    }
    out.settle(account("bank:funds", "equity", limit=None), account("bank:fees:CNY", "income", limit=None))
    out.settle(
        account("acme:debt", "asset", limit=None), *(account(n, limit=None if n == "acme:z" else 0) for n in names)
    )
    for name, amount in {**names, "acme:debt": 70}.items():
        if amount:
            sides = ("credit", "debit") if amount > 0 else ("debit", "credit")
            made = entry(
                "bank",
                (name, sides[0], abs(amount)),
                ("bank:funds", sides[1], abs(amount)),
                operation="adjustment",
                note="x",
            )
            assert out.one(made).outcome == "settled"
    published = out.one(PublishProduct("bank", key(), "try", 1, 0, json.dumps(document)))
    assert published.outcome == "applied", published
    return out


def go(world: Ledger, amount: int = 0, by: str = "acme", names: dict[str, int] | None = None, **roles: str) -> Any:
    accounts = {k.replace("__", "."): v for k, v in roles.items() if k != "key"}
    amounts = tuple(NamedAmount(n, v) for n, v in sorted((names or {}).items()))
    other = {"idempotency_key": roles["key"]} if "key" in roles else {}
    record = world.one(
        pay(by, "", "", amount, accounts=accounts, amounts=amounts, product="try", operation="go", **other)
    )
    return record.reason or [(p.account_id, p.amount if p.side == "debit" else -p.amount) for p in record.postings]


W, X, Y, Z, A, FEES, DEBT = "acme:w", "acme:x", "acme:y", "acme:z", "zeta:a", "bank:fees:CNY", "acme:debt"

# steps | amount, named amounts | accounts | the legs, debits positive, or the reason
STEPS: list[tuple[str, list[dict[str, Any]], int, dict[str, int], dict[str, str], Any]] = [
    ("amount", [step("payer", "amount", "payee")], 7, {}, {"payer": W, "payee": A}, [(W, 7), (A, -7)]),
    ("fee of the step", [step("payer", "amount", ("fees", {"percent": "1"}), "payee")], 250, {}, {"payer": W, "payee": A}, [(W, 250), (FEES, -3), (A, -247)]),
    ("fee of nothing is left out", [step("payer", "amount", ("fees", {"percent": "1"}), "payee")], 49, {}, {"payer": W, "payee": A}, [(W, 49), (A, -49)]),
    ("fee takes all", [step("payer", "amount", ("fees", {"fixed": cny(9)}), "payee")], 9, {}, {"payer": W, "payee": A}, [(W, 9), (FEES, -9)]),
    ("fee takes more", [step("payer", "amount", ("fees", {"fixed": cny(9)}), "payee")], 8, {}, {"payer": W, "payee": A}, "split_exceeds_amount"),
    ("fee on top", [step("payer", "amount", "payee"), step("payer", {"percent": "10", "rounding": "up"}, "fees")], 11, {}, {"payer": W, "payee": A}, [(W, 11), (A, -11), (W, 2), (FEES, -2)]),
    ("fee on top, not enough for both", [step("payer", "amount", "payee"), step("payer", {"fixed": cny(1)}, "fees")], 1_000, {}, {"payer": W, "payee": A}, "insufficient_funds"),
    ("percent of a name", [step("payer", {"percent": "50", "of": "n"}, "payee")], 0, {"n": 9}, {"payer": W, "payee": A}, [(W, 5), (A, -5)]),
    ("a name", [step("payer", "n", "payee")], 0, {"n": 9}, {"payer": W, "payee": A}, [(W, 9), (A, -9)]),
    ("target of the amount", [step("payer", "n", ("fees", {"percent": "10", "of": "amount"}), "payee")], 30, {"n": 9}, {"payer": W, "payee": A}, [(W, 9), (FEES, -3), (A, -6)]),
    ("target is the amount", [step("payer", "n", ("fees", "amount"), "payee")], 4, {"n": 9}, {"payer": W, "payee": A}, [(W, 9), (FEES, -4), (A, -5)]),
    ("equal", [step("payer", "amount", ("others", "equal"))], 8, {}, {"payer": W, "others__2": A, "others__10": X, "others__1": Y}, [(W, 8), (Y, -3), (A, -3), (X, -2)]),
    ("equal, too little for all", [step("payer", "amount", ("others", "equal"))], 1, {}, {"payer": W, "others__1": A, "others__2": X}, [(W, 1), (A, -1)]),
    ("named", [step("payer", "amount", ("others", "named"), "near")], 9, {"others.1": 4, "others.7": 3}, {"payer": W, "near": X, "others__7": A, "others__1": Y}, [(W, 9), (Y, -4), (A, -3), (X, -2)]),
    ("named, all of it", [step("payer", "amount", ("others", "named"), "near")], 7, {"others.1": 7}, {"payer": W, "near": X, "others__1": Y}, [(W, 7), (Y, -7)]),
    ("named, too much", [step("payer", "amount", ("others", "named"), "near")], 6, {"others.1": 7}, {"payer": W, "near": X, "others__1": Y}, "split_exceeds_amount"),
    ("named, an account without", [step("payer", "amount", ("others", "named"), "near")], 6, {}, {"payer": W, "near": X, "others__1": Y}, "field_invalid"),
    ("balance", [step("many", "balance", "payee")], 0, {}, {"many__1": W, "many__3": Y, "many__2": X, "payee": A}, [(W, 1000), (X, 60), (Y, 5), (A, -1065)]),
    ("balance below zero is nothing", [step("many", "balance", "payee")], 0, {}, {"many__1": Z, "many__2": Y, "payee": A}, [(Y, 5), (A, -5)]),
    ("balance of nothing", [step("many", "balance", "payee")], 0, {}, {"many__1": "acme:n", "payee": A}, "nothing_to_move"),
    ("balance of one", [step("payer", "balance", ("fees", {"percent": "10"}), "payee")], 0, {}, {"payer": X, "payee": A}, [(X, 60), (FEES, -6), (A, -54)]),
    ("balance of what is owed there", [step("debt", "balance", "payee")], 0, {}, {"debt": DEBT, "payee": A}, [(DEBT, 70), (A, -70)]),
    ("balance of an account that is not there", [step("many", "balance", "payee")], 0, {}, {"many__1": Y, "many__2": "acme:typo", "payee": A}, "account_unknown"),
    ("balance of another's account", [step("many", "balance", "payee")], 0, {}, {"many__1": Y, "many__2": A, "payee": A}, "account_not_owned"),
    ("balance of another's account that is not there", [step("many", "balance", "payee")], 0, {}, {"many__1": Y, "many__2": "zeta:typo", "payee": A}, "account_not_owned"),
    ("to zero", [step("many", "to_zero", "own")], 0, {}, {"many__1": X, "many__2": Z, "many__3": "acme:n"}, [(X, 60), ("acme:pool:CNY", -60), ("acme:pool:CNY", 40), (Z, -40)]),
    ("to zero, more comes down than goes up", [step("many", "to_zero", "own")], 0, {}, {"many__1": Y, "many__2": Z}, "insufficient_funds"),
    ("to zero of a debit-normal account", [step("many", "to_zero", "payer")], 0, {}, {"many__1": DEBT, "payer": W}, [(DEBT, 70), (W, -70)]),
    ("owed first", [step("payer", "amount", ("debt", "balance"), "near")], 100, {}, {"payer": W, "debt": "acme:owes", "near": X}, [(W, 100), ("acme:owes", -30), (X, -70)]),
    ("owed first, less is paid", [step("payer", "amount", ("debt", "balance"), "near")], 20, {}, {"payer": W, "debt": "acme:owes", "near": X}, [(W, 20), ("acme:owes", -20)]),
    ("owed after the fee", [step("payer", "amount", ("fees", {"fixed": cny(15)}), ("debt", "balance"), "near")], 20, {}, {"payer": W, "debt": "acme:owes", "near": X}, [(W, 20), (FEES, -15), ("acme:owes", -5)]),
    ("nothing is owed on a liability", [step("payer", "amount", ("debt", "balance"), "near")], 20, {}, {"payer": W, "debt": X, "near": Y}, [(W, 20), (Y, -20)]),
    ("same account", [step("payer", "amount", "near")], 7, {}, {"payer": W, "near": W}, "same_account"),
    ("same account among those swept", [step("many", "balance", "near")], 0, {}, {"many__1": W, "many__2": X, "near": X}, "same_account"),
    ("swept twice", [step("many", "balance", "payee")], 0, {}, {"many__1": W, "many__2": W, "payee": A}, "field_invalid"),
    ("an account of the bank for anybody", [step("payer", "amount", "payee")], 7, {}, {"payer": W, "payee": FEES}, "account_not_owned"),
    ("another root's for the tree", [step("payer", "amount", "near")], 7, {}, {"payer": W, "near": A}, "account_not_owned"),
    ("another root's that is not there, for the tree", [step("payer", "amount", "near")], 7, {}, {"payer": W, "near": "zeta:none"}, "account_not_owned"),
    ("a number that is none", [step("payer", "amount", ("others", "equal"))], 8, {}, {"payer": W, "others__01": A}, "role_unknown"),
    ("a number too high", [step("payer", "amount", ("others", "equal"))], 8, {}, {"payer": W, "others__1": A, "others__1000": A}, "role_unknown"),
    ("none of many", [step("payer", "amount", ("others", "equal"))], 8, {}, {"payer": W}, "role_missing"),
    ("the caller's own", [step("payer", "amount", "own")], 8, {}, {"payer": W}, [(W, 8), ("acme:pool:CNY", -8)]),
]  # fmt: skip


@pytest.mark.parametrize(("what", "steps", "amount", "names", "roles", "wanted"), STEPS, ids=[s[0] for s in STEPS])
def test_a_step(what, steps, amount, names, roles, wanted):
    listed = {"amounts": ["n"]} if "n" in names else {}
    world = ledger(product(*steps, **listed))
    if "acme:owes" in roles.values():  # 30 are owed
        world.one(account("acme:owes", "asset", limit=0))
        world.one(
            entry("bank", ("acme:owes", "debit", 30), ("bank:funds", "credit", 30), operation="adjustment", note="x")
        )
    if DEBT in roles.values():  # debits only add to what is owed, so 70 are kept on its other side
        assert world.base.accounts[DEBT].available() == -70
    before = world.snapshot()
    found = go(world, amount, names=names, **roles)
    assert found == wanted
    if isinstance(wanted, str):
        assert world.snapshot() == before, "a refusal changes nothing"
    else:
        assert sum(n for _, n in found) == 0


def test_a_fixed_account_of_the_root_is_not_the_subpartners():
    world = ledger(product(step("payer", "amount", "roots")))
    assert go(world, 5, payer=W) == [(W, 5), ("acme:pool:CNY", -5)]
    assert go(world, 5, "acme/shop", payer="acme/shop:w") == "account_not_owned"


def test_an_account_is_opened_when_a_leg_falls_on_it_and_not_otherwise():
    world = ledger(product(step("payer", "amount", ("fees", {"fixed": cny(5)}), "fresh")))
    assert go(world, 5, payer=W, fresh="acme:new") == [(W, 5), (FEES, -5)]
    assert "acme:new" not in world.base.accounts
    assert go(world, 6, payer=W, fresh="acme:new") == [(W, 6), (FEES, -5), ("acme:new", -1)]
    a = world.base.accounts["acme:new"]
    assert (a.type, a.currency, a.min_available, a.credit_limit, a.available()) == ("liability", CUR, 0, 50, 1)
    assert go(world, 6, payer=W, fresh="acme:new") == [(W, 6), (FEES, -5), ("acme:new", -1)]
    assert world.restarted().snapshot() == world.snapshot()


def test_a_refused_opening_leaves_nothing():
    world = ledger(product(step("payer", "amount", "fresh")))
    before = world.snapshot()
    assert go(world, 1_001, payer=W, fresh="acme:new") == "insufficient_funds"
    assert world.snapshot() == before
    assert "acme:new" not in world.base.accounts


def test_more_than_a_thousand_legs():
    """999 accounts of one role, and what is taken from them, are 1,000 legs; two more are too many."""
    world = ledger(product(step("many", "balance", ("fees", {"fixed": cny(1)}), "own")))
    world.settle(*(account(f"acme:m{n}") for n in range(999)))
    legs = [(f"acme:m{n}", "credit", 1) for n in range(998)]
    world.one(entry("bank", *legs, ("bank:funds", "debit", 998), operation="adjustment", note="x"))
    roles: dict[str, Any] = {f"many__{n + 1}": f"acme:m{n}" for n in range(999)}
    assert len(go(world, 0, **roles)) == 1_000
    world.one(entry("bank", *legs, ("bank:funds", "debit", 998), operation="adjustment", note="x"))
    world.one(entry("bank", ("acme:m998", "credit", 1), ("bank:funds", "debit", 1), operation="adjustment", note="x"))
    assert go(world, 0, **roles) == "postings_count"


def test_a_leg_above_63_bits():
    world = ledger(product(step("many", "balance", "own")))
    for name in (X, Y):
        world.one(
            entry("bank", (name, "credit", 2**62), ("bank:funds", "debit", 2**62), operation="adjustment", note="x")
        )
    assert go(world, 0, many__1=X, many__2=Y) == "amount_too_large"
    assert len(go(world, 0, many__1=X)) == 2


def test_the_rules_of_accounts_name_the_role():
    world = ledger(product(step("payer", "amount", ("others", "equal"))))
    world.one(BlockAccount("bank", key(), A, False, True))
    record = world.one(
        pay("acme", "", "", 9, accounts={"payer": W, "others.3": A, "others.4": X}, product="try", operation="go")
    )
    assert (record.reason, record.detail["field"]) == ("credits_blocked", "accounts.others.3")
    world.one(SetPartnerState("bank", key(), "zeta", "suspended", "ann", "why"))
    record = world.one(
        pay("acme", "", "", 9, accounts={"payer": W, "others.3": A, "others.4": X}, product="try", operation="go")
    )
    assert (record.reason, record.detail["field"], record.detail["partner"]) == (
        "owner_state",
        "accounts.others.3",
        "zeta",
    )


@pytest.mark.parametrize("fees", ["keep", "return"])
def test_a_refund_in_parts_gives_back_what_was_paid_and_no_more(fees):
    world = ledger(product(step("payer", "amount", ("fees", {"percent": "10"}), "near"), fees=fees))
    world.one(entry("bank", (X, "credit", 1_000), ("bank:funds", "debit", 1_000), operation="adjustment", note="x"))
    assert go(world, 100, payer=W, near=X, key="paid") == [(W, 100), (FEES, -10), (X, -90)]
    back = []
    for amount in (9, 2, 88, 2, 1, 1):
        r = world.one(pay("acme", "", "", amount, accounts={}, product="try", operation="back", original="paid"))
        back.append(r.reason or [(p.account_id, p.amount if p.side == "debit" else -p.amount) for p in r.postings])
    wanted: list[Any] = [
        [(X, 9), (W, -9)],
        [(X, 2), (W, -2)],
        [(X, 88), (W, -88)] if fees == "keep" else [(X, 79), (FEES, 9), (W, -88)],  # the bank gives back last
        "refund_exceeds_payment",
        [(X if fees == "keep" else FEES, 1), (W, -1)],
        "refund_exceeds_payment",
    ]
    assert back == wanted


def test_a_payment_of_two_payers_is_not_refunded():
    world = ledger(product(step("payer", "amount", "near"), step("own", {"fixed": cny(1)}, "near")))
    world.one(
        entry("bank", ("acme:pool:CNY", "credit", 5), ("bank:funds", "debit", 5), operation="adjustment", note="x")
    )
    assert len(go(world, 5, payer=W, near=X, key="paid")) == 4
    record = world.one(pay("acme", "", "", 1, accounts={}, product="try", operation="back", original="paid"))
    assert record.reason == "original_mismatch"


def test_credits_of_a_role_any_cross_partitions_and_others_never():
    """With two partitions, zeta lives in the other one: what goes there is set aside, and the rest stands with it."""
    from ledger.book import Book
    from ledger.state import Draft
    from schemas.identity import command_id, payload_digest

    home = partition_of("acme", 2)
    other = next(n for n in (f"p{i}" for i in range(99)) if partition_of(n, 2) != home)
    world = ledger(product(step("payer", "amount", ("fees", {"percent": "10"}), ("others", "equal"))))
    asked = pay(
        "acme",
        "",
        "",
        101,
        accounts={"payer": W, "others.1": f"{other}:a", "others.2": X},
        product="try",
        operation="go",
    )
    draft = Draft(world.base)
    book = Book(home, draft, 2)
    record = book.settle(
        asked,
        command_id("acme", asked.idempotency_key),
        payload_digest(asked),
        world.offset,
        world.base.head.event_time,
    )
    assert (record.outcome, record.reason) == ("applied", "")
    assert [(p.account_id, p.side, p.change) for p in record.pending] == [
        (W, "debit", 101), (FEES, "credit", 10), (X, "credit", 45), ("bank:crossing:CNY", "credit", 46),
    ]  # fmt: skip
    assert [(p.account_id, p.amount) for c in book.outbox for p in c.legs] == [(f"{other}:a", 46)]


# ---- random documents ------------------------------------------------------------------------------------------------

WIDE = st.integers(0, 10**6) | st.integers(0, 10**15)


def percent_text(draw: Any, most: int) -> str:
    units = draw(st.integers(0, most) | st.sampled_from([0, 1, most]))
    places = draw(st.integers(0, 6))
    whole, rest = divmod(units, 10**6)
    text = str(rest).rjust(6, "0")[:places]
    return f"{whole}.{text}" if text else str(whole)


def percentage(draw: Any, most: int) -> dict[str, Any]:
    out: dict[str, Any] = {"percent": percent_text(draw, most)}
    if draw(st.booleans()):
        out["rounding"] = draw(st.sampled_from(["half_up", "half_even", "down", "up"]))
    low, high = sorted((draw(WIDE), draw(WIDE)))
    if draw(st.booleans()):
        out["min"] = cny(low)
    if draw(st.booleans()):
        out["max"] = cny(high)
    return out


def expression(draw: Any, own: bool, most: int) -> Any:
    kind = draw(st.sampled_from(["percent", "fixed", "tiers", "amount", "n"]))
    if kind in ("amount", "n"):
        return kind
    if kind == "fixed":
        return {"fixed": cny(draw(st.integers(0, 5_000)))}
    of = draw(st.sampled_from(["amount", "n"] if own else ["amount", "n", "step", ""]))
    out: dict[str, Any] = {"of": of} if of else {}
    if kind == "percent":
        return out | percentage(draw, most)
    edges = sorted({draw(st.integers(1, 10**7)) for _ in range(draw(st.integers(0, 3)))})
    tiers = [
        {"up_to": cny(e)}
        | (percentage(draw, most) if draw(st.booleans()) else {"fixed": cny(draw(st.integers(0, 900)))})
        for e in edges
    ]
    return out | {"tiers": [*tiers, percentage(draw, most)]}


@st.composite
def documents(draw: Any) -> dict[str, Any]:
    """A product of one operation with one to three steps, of everything that there is."""
    steps = []
    for _ in range(draw(st.integers(1, 3))):
        source = draw(st.sampled_from(["payer", "payer", "many", "own"]))
        if source == "many":
            amount = draw(st.sampled_from(["balance", "to_zero"]))
        else:
            amount = draw(st.sampled_from(["amount", "amount", "balance", "x"]))
            amount = expression(draw, True, 10**8) if amount == "x" else amount
        if amount == "to_zero":
            steps.append(step(source, amount, draw(st.sampled_from(["fees", "fresh"]))))
            continue
        rest = draw(st.sampled_from(["payee", "near", ("others", "equal")]))
        targets: list[Any] = [rest]
        for role in draw(st.lists(st.sampled_from(["fees", "debt", "near", "others", "fresh"]), max_size=3)):
            if role == "others":
                targets.append((role, "named"))
            elif role == "debt":
                targets.append((role, "balance"))
            else:
                targets.append((role, expression(draw, False, 2 * 10**7)))
        steps.append(step(source, amount, *draw(st.permutations(targets))))
    own = any(s["from"] == "own" for s in steps)  # a partner's fixed account: the bank has none
    callers = ["partner"] if own else draw(st.sampled_from([["partner"], ["bank"], ["bank", "partner"]]))
    document = {
        "product": "try", "version": draw(st.integers(1, 2**31 - 1)), "currencies": [CUR],
        "roles": {r: ROLES[r] for s in steps for r in (s["from"], *(t["role"] for t in s["to"]))},
        "operations": {"go": {"kind": "transfer", "amounts": ["n"], "steps": steps, "callers": callers}},
    }  # fmt: skip
    assume(not check(document))
    return document


@settings(max_examples=400, deadline=None)
@given(documents(), st.data())
def test_the_legs_of_any_good_document_balance_and_are_what_the_calculator_says(document, data):
    asker = data.draw(st.sampled_from(["acme" if "partner" in document["operations"]["go"]["callers"] else "bank"]))
    stage = Stage(document, "go", asker, CUR)
    for account_id in data.draw(st.lists(st.sampled_from(sorted(stage.accounts)), max_size=3)):
        a = stage.accounts[account_id]
        holds = data.draw(st.integers(0 if a.least is not None else -(10**6), 10**6) | WIDE)
        stage = stage.with_account(a.holding(holds))
    amount = (
        data.draw(st.integers(1, 2_000) | st.integers(1, 10**7) | st.integers(1, 10**12)) if stage.uses_amount() else 0
    )
    names = {n: data.draw(st.integers(1, 2_000) | st.integers(1, 10**9)) for n in stage.names()}
    names |= {label: data.draw(st.integers(1, 500)) for label in stage.parts()}
    case = stage.case("random", amount, names)
    text = json.dumps(document, sort_keys=True)
    result = suite.try_case(document, text, case)
    assert not [d for d in result.differences if not d.startswith("opened")], result.differences
    event(result.reason or result.outcome)
    debits = sum(n for _, side, n in result.legs if side == "debit")
    assert debits == sum(n for _, side, n in result.legs if side == "credit")
    if result.outcome == "settled":
        taken = sum(n for account, side, n in result.legs if side == "debit")
        assert taken > 0
        only = document["operations"]["go"]["steps"]
        if len(only) == 1 and only[0]["amount"] == "amount":
            assert taken == amount, "the legs of a step sum to its gross"


_NEVER_REACHED = {
    "of": "amount",
    "percent": "0.000501",
    "max": {CUR: 46_116_860_193_629},
}  # half of what a posting can be
_HUGE = {
    "product": "try", "version": 142, "currencies": [CUR], "roles": {r: ROLES[r] for r in ("payer", "payee", "fees")},
    "operations": {
        "go": {"kind": "transfer", "callers": ["partner"], "steps": [
            step("payer", "amount", "payee", ("fees", _NEVER_REACHED)),
        ]},
    },
}  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(documents())
@example(_HUGE)
def test_the_conformance_suite_of_any_good_document_passes(document):
    results = suite.run(document)
    assert [(r.case.operation, r.case.name, r.differences) for r in results if r.differences] == []


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_price_is_the_same_in_whole_numbers_and_in_fractions_at_each_of_its_boundaries(data):
    made = expression(data.draw, False, 10**8)
    assume(isinstance(made, dict))
    bases = [base for _, base in points(made, CUR)] or [1]
    for base in [*bases, data.draw(st.integers(1, 2**63 - 1))]:
        of = {"of": "amount"} if "fixed" not in made else {}
        assert value_of(amount_of({**made, **of}, "amount"), Given(base, {}, CUR), 0) == price(
            made, Fraction(base), CUR
        )


def test_the_day_of_the_tests_is_the_day_of_the_suite():
    from clearline.conformance.world import DAY as SUITE_DAY

    assert DAY == SUITE_DAY
