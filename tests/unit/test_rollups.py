"""Sums up the tree: each level is the sum of the one below it and its own accounts."""

from __future__ import annotations

from ledger.accounts import Account
from ledger.rollups import rollups
from tests.grids import ALICE, BOB, TILL, ZOE, bank, hold, transfer
from tests.ledger_world import account, admit


def test_a_tree_of_three_levels_is_summed_at_each() -> None:
    ledger = bank()
    ledger.settle(
        admit("acme/shop/till"), account("acme/shop/till:w:cash"), account("acme/shop/till:w:yen", currency="JPY")
    )
    ledger.settle(transfer("a", 300, ALICE, TILL), transfer("b", 70, TILL, "acme/shop/till:w:cash"), hold("h", 10, TILL, BOB),
                  transfer("c", 5, ALICE, ZOE))  # fmt: skip
    got = rollups(ledger.base.accounts.values())
    # debits posted, credits posted, debits pending, credits pending
    assert got["acme/shop/till"] == {"CNY": (0, 70, 0, 0), "JPY": (0, 0, 0, 0)}
    assert got["acme/shop"] == {"CNY": (70, 370, 10, 0), "JPY": (0, 0, 0, 0)}
    assert got["acme"] == {"CNY": (375, 1370, 10, 10), "JPY": (0, 100, 0, 0)}
    assert got["zeta"] == {"CNY": (0, 105, 0, 0)}
    assert set(got) == {"acme", "acme/shop", "acme/shop/till", "zeta", "bank"}
    whole = [sum(got[root]["CNY"][i] for root in ("acme", "zeta", "bank")) for i in range(4)]
    assert whole[0] == whole[1], "over all roots debits equal credits"
    assert whole[2] == whole[3]


def test_a_path_is_not_a_prefix() -> None:
    accounts = [Account.new(f"{p}:w", "liability", "CNY", 0, 0) for p in ("acme", "acme-two", "acme/x")]
    for n, a in enumerate(accounts):
        a.credits_posted = 10**n
    assert {p: s["CNY"][1] for p, s in rollups(accounts).items()} == {"acme": 101, "acme-two": 10, "acme/x": 100}
    assert rollups([]) == {}
