"""What is looked at before every commit, on drafts that were spoilt on purpose, and on those that only look spoilt."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from ledger.book import Book
from ledger.invariants import check_accounts, check_limits
from ledger.state import Draft
from schemas.errors import InvariantError
from schemas.identity import command_id, payload_digest
from schemas.records import Limit, PublishProduct, SetLimit, UsageState, Used
from tests.grids import ALICE, BOB, bank, hold, transfer
from tests.ledger_world import Ledger, key

PER_DAY = Limit("day", "CNY", 3, 100)


def limit(level: str, subject: str, *of: Limit) -> SetLimit:
    return SetLimit("bank", key(), level, subject, of)


def wallet(version: int, *limits: dict[str, Any]) -> PublishProduct:
    step = {"from": "payer", "amount": "amount", "to": [{"role": "payee"}]}
    document = {
        "product": "wallet", "version": version, "currencies": ["CNY"], "limits": list(limits),
        "roles": {"payer": {"owner": "caller"}, "payee": {"owner": "any"}},
        "operations": {"transfer": {"kind": "transfer", "steps": [step]}},
    }  # fmt: skip
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return PublishProduct("bank", key(), "wallet", version, 0, text)


def used(ledger: Ledger, row: str, **wrong: int) -> Draft:
    """A draft with one more transfer of 1, and its row of what is used changed."""
    draft, (record,) = ledger.draft([transfer(key(), 1)])
    assert record.outcome == "settled"
    check_limits(draft)
    found = draft.rows[row]
    assert isinstance(found, UsageState)
    (first, *others) = found.used
    draft.rows[row] = msgspec.structs.replace(found, used=(msgspec.structs.replace(first, **wrong), *others))
    return draft


@pytest.mark.parametrize("wrong", [{"count": 4}, {"amount": 101}])
@pytest.mark.parametrize(
    ("before", "row"),
    [
        ([limit("partner", "acme", PER_DAY)], "u:partner:acme"),
        ([limit("account", ALICE, PER_DAY)], f"u:account:{ALICE}"),
        ([wallet(1), limit("product", "wallet", PER_DAY)], "u:product:acme wallet"),
        ([wallet(1, {"window": "day", "currency": "CNY", "count_max": 3, "amount_max": 100})], "u:product:acme wallet"),
    ],
)
def test_a_window_that_took_too_much_stops_the_partition(before: list[Any], row: str, wrong: dict[str, int]) -> None:
    ledger = bank()
    assert {r.outcome for r in ledger.settle(*before)} == {"applied"}
    with pytest.raises(InvariantError, match=r"took Used\(window='day'.*, its limit is Limit\(window='day'"):
        check_limits(used(ledger, row, **wrong))


def test_what_was_used_before_is_not_looked_at_again() -> None:
    """Neither in the base, nor in a draft below that is not committed yet."""
    ledger = bank()
    ledger.settle(limit("partner", "acme", PER_DAY, Limit("day", "", 9, None)))
    ledger.settle(transfer("a", 90))
    ledger.settle(
        limit("partner", "acme", Limit("day", "CNY", 3, 10), Limit("day", "JPY", 3, 10), Limit("day", "", 9, None))
    )
    row = ledger.base.rows["u:partner:acme"]
    assert isinstance(row, UsageState)
    below = Draft(ledger.base)
    below.rows["u:partner:acme"] = row
    above = Draft(ledger.base, (below,))
    above.rows["u:partner:acme"] = msgspec.structs.replace(row, used=(*row.used, Used("day", "JPY", 1, 1, 1)))
    check_limits(above)
    other = Draft(ledger.base)
    other.rows["u:partner:acme"] = above.rows["u:partner:acme"]
    check_limits(other)
    other.rows["u:partner:acme"] = None
    check_limits(other)


def test_each_version_of_a_product_has_its_own_limits() -> None:
    """With two versions no single limit holds for all that was counted, so only SetLimit's are looked at."""
    ledger = bank()
    first = wallet(1, {"window": "day", "currency": "CNY", "amount_max": 10})
    ledger.settle(first, transfer("a", 10))
    second = wallet(2, {"window": "day", "currency": "CNY", "amount_max": 500})
    draft, records = ledger.draft([second, transfer("b", 90)])
    assert [r.outcome for r in records] == ["applied", "settled"]
    check_limits(draft)
    ledger.commit(draft, records)
    check_limits(ledger.draft([transfer("c", 1)])[0])


def test_a_posted_counter_never_goes_back() -> None:
    ledger = bank()
    draft, _ = ledger.draft([transfer("a", 1)])
    check_accounts(draft)
    draft.accounts[ALICE].credits_posted -= 1
    with pytest.raises(InvariantError, match=f"account {ALICE}: a posted counter went back"):
        check_accounts(draft)


def test_a_bug_in_a_check_takes_back_what_lapsed_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record becomes a dead letter and has no journal record, so the lapse belongs to the next command."""
    from ledger import book as module

    ledger = bank()
    ledger.settle(hold("h", 100, until=1))
    rows = ledger.rows()
    expires_at = hold("h", 100, until=1).expires_at
    draft = Draft(ledger.base)
    book = Book(3, draft)

    def buggy(*_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as m:
        m.setattr(module, "quick_transfer", buggy)
        t = transfer("t", 1)
        with pytest.raises(ZeroDivisionError):
            book.settle(t, command_id("acme", "t"), payload_digest(t), draft.head.next_offset, expires_at)
    assert ledger.rows(draft) == rows
    offset = draft.head.next_offset
    book.dead(offset, expires_at)
    record = book.settle(t, command_id("acme", "t"), payload_digest(t), offset + 1, expires_at)
    assert [(p.account_id, p.change, p.expired) for p in record.pending] == [(ALICE, -100, True), (BOB, -100, True)]
    assert record.outcome == "settled"
