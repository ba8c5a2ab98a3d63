"""The life of a partner: the table of the page, what each state permits, and each step from one to the next."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ledger.partners import COLUMNS, STATES, TRANSFERS
from schemas.records import AdmitPartner, BlockAccount, CloseAccount, JournalRecord, Limit, OpenAccount, SetLimit
from tests.grids import (
    ALICE,
    BOB,
    CLEARING,
    YEN_CLEARING,
    ZOE,
    adjust,
    answer,
    ask,
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
from tests.ledger_world import Ledger, account, admit, key

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()


def cell(name: str, column: str) -> str:
    permitted = STATES[name].permits & set(COLUMNS[column])
    if permitted == set(TRANSFERS):
        return "transfers"
    return "yes" if permitted == set(COLUMNS[column]) else "-" if not permitted else f"? {sorted(permitted)}"


def table() -> list[str]:
    """The table as the page has it, made from the one that the ledger goes by."""
    head = ["state", *COLUMNS, "may become"]
    rows = [[f"`{n}`", *(cell(n, c) for c in COLUMNS), ", ".join(STATES[n].may_become)] for n in STATES]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(r)} |" for r in rows)]
    return [re.sub(r" +", " ", line) for line in lines]


def test_the_page_shows_the_table_that_the_ledger_goes_by() -> None:
    section = PAGE.partition("## Partners")[2].partition("\n## ")[0]
    shown = [re.sub(r" +", " ", line) for line in section.splitlines() if line.startswith("|")]
    assert shown == table()


# What each state permits: the letters of what goes through, in the order of the list below.
PATHS: dict[str, tuple[str, ...]] = {
    "applied": (), "inspected": ("inspected",), "sandbox": ("inspected", "sandbox"),
    "live": ("inspected", "sandbox", "live"), "suspended": ("inspected", "sandbox", "live", "suspended"),
    "exiting": ("inspected", "sandbox", "live", "exiting"),
}  # fmt: skip
SHOP, TILL = "zeta/shop", "zeta/shop:w:till"


def shop(in_state: str) -> Ledger:
    """Partner zeta/shop with 100 on one account, something held, captured and paid, brought to this state of its life."""
    ledger = bank()
    by: dict[str, Any] = {"partner_id": SHOP}
    steps: list[Any] = [AdmitPartner("bank", key(), SHOP, state="applied")]
    live = [
        account(TILL), account("zeta/shop:w:cash"), account("zeta/shop:w:new"),
        transfer("fill", 100, payer=CLEARING, payee=TILL, **by), hold("h", 10, TILL, "zeta/shop:w:cash", **by),
        capture("c", 1, of="h", **by), transfer("p", 5, TILL, "zeta/shop:w:cash", **by), transfer("in", 7, payee=TILL),
    ]  # fmt: skip
    for next_state in PATHS[in_state]:
        steps.append(state(SHOP, next_state))
        steps += live if next_state == "live" else []
    for record in ledger.settle(*steps):
        assert record.outcome in ("applied", "settled"), record
    return ledger


def asked_in(ledger: Ledger, name: str) -> JournalRecord:
    by: dict[str, Any] = {"partner_id": SHOP}
    limit = (Limit("day", "CNY", None, 10**6),)
    requests: dict[str, Any] = {
        "transfer": transfer(name, 1, TILL, "zeta/shop:w:cash", **by),
        "hold": hold(name, 1, TILL, "zeta/shop:w:cash", **by),
        "exchange": ask("exchange", name, 1, accounts=dict.fromkeys(("payer", "payee", "sold", "bought"), TILL), rate="1", **by),
        "capture": capture(name, 1, of="h", **by),
        "void": void(name, of="h", **by),
        "refund": refund(name, 1, of="p", **by),
        "reversal": reversal(name, of="c", **by),
        "open": OpenAccount(SHOP, name, "zeta/shop:w:newer", "liability", "CNY", 0),
        "open by the bank": account("zeta/shop:w:newest"),
        "block": BlockAccount(SHOP, name, TILL, True, True),
        "close": CloseAccount(SHOP, name, "zeta/shop:w:new"),
        "limit": SetLimit(SHOP, name, "account", TILL, limit),
        "is paid": transfer(name, 1, ZOE, TILL, partner_id="zeta"),
        "is repaid": refund(name, 1, of="in"),
        "adjustment": ask("adjustment", name, note="x", **by),
    }  # fmt: skip
    return ledger.one(requests[name])


MAY = {  # what goes through in which state; a refusal names the state, or that the owner is not paid
    "transfer": "live exiting", "hold": "live", "exchange": "live", "capture": "live exiting", "void": "live suspended exiting",
    "refund": "live suspended exiting", "reversal": "live exiting", "open": "sandbox live", "open by the bank": "sandbox live",
    "block": "sandbox live exiting", "close": "sandbox live exiting", "limit": "sandbox live exiting", "is paid": "live",
    "adjustment": "live",
}  # fmt: skip


@pytest.mark.parametrize("in_state", PATHS)
@pytest.mark.parametrize("what", MAY)
def test_what_a_state_permits(what: str, in_state: str) -> None:
    """A request that goes through meets the next rule (an account that is not there, an original that is unknown)."""
    ledger = shop(in_state)
    record = asked_in(ledger, what)
    if in_state in MAY[what].split():
        assert record.reason not in ("partner_state", "partner_suspended", "owner_state"), record
        return
    if what == "is paid" and in_state in ("applied", "inspected", "sandbox"):
        assert record.reason == "account_unknown", "it has no account that could be paid"
        return
    expected = (
        "owner_state" if what == "is paid" else "partner_suspended" if in_state == "suspended" else "partner_state"
    )
    assert (record.reason, record.detail["partner"], record.detail["state"]) == (expected, SHOP, in_state)


@pytest.mark.parametrize("in_state", ["live", "suspended", "exiting"])
def test_a_partner_is_repaid_until_it_has_left(in_state: str) -> None:
    """Acme paid the shop; acme cannot take that back, but the shop's own refund reaches acme, and the other way round."""
    ledger = shop("live")
    paid = transfer("out", 3, TILL, ALICE, partner_id=SHOP)
    earlier = transfer("earlier", 1, TILL, ZOE, partner_id="zeta")
    ledger.settle(paid, hold("held", 2), earlier, *([] if in_state == "live" else [state(SHOP, in_state)]))
    assert asked_in(ledger, "is repaid").reason == "account_not_owned", "the money is the shop's now"
    bank_gives = refund("back", 2, of="out", partner_id=SHOP)
    assert ledger.one(bank_gives).reason == "account_not_owned", "and this is acme's"
    given = [
        transfer("gift", 4, ZOE, "zeta:w:two", partner_id="zeta"),
        transfer("down", 4, ZOE, TILL, partner_id="zeta"),
    ]
    ledger.settle(account("zeta:w:two"), *given)
    took = answer(ledger.one(transfer("up", 1, TILL, ZOE, partner_id="zeta")))
    assert took == ("owner_state" if in_state == "suspended" else "settled"), (
        "a partner above takes what the shop may give"
    )
    again = ledger.one(refund("again", 1, of="earlier", partner_id="zeta"))
    assert answer(again) == "settled", "and pays it back in any state"


# What zeta and the bank ask of an account of zeta/shop, and the states of the shop in which it goes through.
FROM_ABOVE: dict[str, tuple[Any, str]] = {
    "transfer": (transfer("x", 1, TILL, ZOE, partner_id="zeta"), "live exiting"),
    "entry": (ask("transfer", "x", postings=legs((ZOE, "credit", 2), (TILL, "debit", 1), (ZOE, "debit", 1)), partner_id="zeta"),
              "live exiting"),
    "hold": (hold("x", 1, TILL, ZOE, partner_id="zeta"), "live"),
    "exchange": (ask("exchange", "x", 10, accounts={"payer": TILL, "payee": "zeta:w:yen", "sold": CLEARING, "bought": YEN_CLEARING},
                     rate="20", partner_id="zeta"), "live"),
    "capture": (capture("x", 1, of="zeta's hold", partner_id="zeta"), "live exiting"),
    "void": (void("x", of="zeta's hold", partner_id="zeta"), "live suspended exiting"),
    "refund": (refund("x", 1, of="zeta's gift", partner_id="zeta"), "live suspended exiting"),
    "reversal": (reversal("x", of="zeta's gift", partner_id="zeta"), "live exiting"),
    "adjustment": (adjust("x", (TILL, "debit", 1), (ZOE, "credit", 1)), "live suspended exiting"),
    "the bank's transfer": (transfer("x", 1, TILL, ZOE, partner_id="bank"), "live suspended exiting"),
    "the bank's hold": (hold("x", 1, TILL, ZOE, partner_id="bank"), "live suspended exiting"),
    "the bank's reversal": (reversal("x", of="the bank's gift", partner_id="bank"), "live suspended exiting"),
}  # fmt: skip


@pytest.mark.parametrize("in_state", ["live", "suspended", "exiting"])
@pytest.mark.parametrize("what", FROM_ABOVE)
def test_whoever_is_above_cannot_do_with_a_partners_money_what_it_may_not(what: str, in_state: str) -> None:
    asked, permitted = FROM_ABOVE[what]
    ledger = shop("live")
    ground = ledger.settle(
        account("zeta:w:yen", currency="JPY"), hold("zeta's hold", 3, TILL, ZOE, partner_id="zeta"),
        transfer("zeta's gift", 2, ZOE, TILL, partner_id="zeta"), transfer("the bank's gift", 2, ZOE, TILL, partner_id="bank"),
    )  # fmt: skip
    assert {r.outcome for r in ground} == {"applied", "settled"}
    if in_state != "live":
        ledger.one(state(SHOP, in_state))
    record = ledger.one(asked)
    if in_state in permitted.split():
        assert record.outcome == "settled", record
        return
    named = [record.detail[name] for name in ("account", "partner", "state")]
    assert [record.reason, *named] == ["owner_state", TILL, SHOP, in_state]


def test_of_the_owners_path_the_partners_below_the_asker_are_asked_from_above_down() -> None:
    low = "zeta/shop/low"
    ledger = shop("live")
    ledger.settle(
        admit(low), account(f"{low}:w"), transfer("in", 5, ZOE, f"{low}:w", partner_id="zeta"), state(low, "exiting")
    )

    def taken(by: str, account_id: str = f"{low}:w", operation: Any = hold) -> list[str]:
        record = ledger.one(operation(key(), 1, account_id, f"{by}:w", partner_id=by))
        return [record.reason or record.outcome, record.detail.get("partner", "")]

    ledger.settle(account("zeta:w"), account("zeta/shop:w"))
    assert taken("zeta") == taken("zeta/shop") == ["owner_state", low]
    assert taken("zeta", operation=transfer) == ["settled", ""], "exiting is left its transfers"
    assert taken("zeta", TILL) == ["settled", ""], "what is below the owner is not asked"
    ledger.one(state(SHOP, "suspended"))
    assert taken("zeta", operation=transfer) == ["owner_state", SHOP], "the one above comes first"
    assert taken("zeta/shop") == ["partner_suspended", SHOP], "the asker's own path has its own reason"
    ledger.one(state("zeta", "suspended"))
    assert taken("zeta") == ["partner_suspended", "zeta"]


def test_the_owners_state_has_its_place_among_the_reasons() -> None:
    """After account_not_owned, before account_closed and what comes after it; whichever leg it is."""
    ledger = shop("live")
    ledger.settle(state(SHOP, "suspended"), BlockAccount("bank", key(), TILL, True, True, freeze=True))
    by: dict[str, Any] = {"partner_id": "zeta"}
    assert ledger.one(transfer("a", 10**6, TILL, TILL, **by)).reason == "owner_state"
    assert ledger.one(transfer("b", 1, TILL, "zeta:w:none", **by)).reason == "account_unknown"
    two = legs((ALICE, "debit", 1), (TILL, "debit", 1), (ZOE, "credit", 2))
    assert ledger.one(ask("transfer", "c", postings=two, **by)).reason == "account_not_owned"
    three = legs((ZOE, "debit", 1), (TILL, "debit", 1), (SHOP + ":w:cash", "debit", 1), (ZOE, "credit", 3))
    record = ledger.one(ask("transfer", "d", postings=three, **by))
    assert (record.reason, record.detail["field"]) == ("owner_state", "postings[1].account_id")
    assert ledger.one(transfer("e", 1, ZOE, ALICE, **by)).outcome == "settled", "its own money is not touched by that"


def test_a_partner_above_that_does_not_permit_is_named_first() -> None:
    ledger = shop("live")
    ledger.settle(state("zeta", "suspended"), state(SHOP, "exiting"))
    record = asked_in(ledger, "hold")
    assert (record.reason, record.detail["partner"]) == ("partner_suspended", "zeta")
    assert asked_in(ledger, "void").outcome == "settled", "both states permit it"
    ledger.one(state("zeta", "exiting"))
    record = ledger.one(hold("h2", 1, TILL, TILL, partner_id=SHOP))
    assert (record.reason, record.detail["partner"], record.detail["state"]) == ("partner_state", "zeta", "exiting")


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("after", STATES)
def test_only_the_steps_of_the_table_are_taken(before: str, after: str) -> None:
    way = {**PATHS, "exited": ("exited",)}[before]
    ledger = bank()
    ledger.settle(AdmitPartner("bank", key(), SHOP, state="applied"), *(state(SHOP, s) for s in way))
    assert ledger.base.partners[SHOP].state == before
    record = ledger.one(state(SHOP, after))
    if after in STATES[before].may_become:
        assert (record.outcome, record.changes) == (
            "applied",
            {"state": after, "requested_by": "zhou", "note": "case 9"}
            | ({"approved_by": "li"} if after == "live" else {}),
        )
    else:
        assert (record.reason, record.detail["state"]) == ("state_transition", before)


def test_a_partner_leaves_when_nothing_is_left() -> None:
    """Accounts first, then the partners below, each the first in alphabetical order."""
    ledger = shop("exiting")
    ledger.settle(admit("zeta/shop/b"), admit("zeta/shop/a"))
    left = []
    for mend in (
        transfer("drain-cash", 6, "zeta/shop:w:cash", ZOE, partner_id=SHOP), void("rest", of="h", partner_id=SHOP),
        transfer("drain", 101, TILL, ZOE, partner_id=SHOP), state("zeta/shop/a", "exiting"), state("zeta/shop/a", "exited"),
        state("zeta/shop/b", "exiting"), state("zeta/shop/b", "exited"),
    ):  # fmt: skip
        record = ledger.one(state(SHOP, "exited"))
        assert record.reason == "partner_not_empty"
        left.append(record.detail.get("account") or record.detail["partner"])
        done = ledger.one(mend)
        assert done.outcome in ("settled", "applied"), done
    assert left == [
        "zeta/shop:w:cash",
        "zeta/shop:w:cash",
        TILL,
        "zeta/shop/a",
        "zeta/shop/a",
        "zeta/shop/b",
        "zeta/shop/b",
    ]
    assert ledger.one(state(SHOP, "exited")).outcome == "applied"
    assert ledger.one(transfer("late", 1, ZOE, TILL, partner_id="zeta")).reason == "owner_state"
    assert ledger.one(admit("zeta/shop/c")).reason == "parent_unknown"
    assert ledger.one(state(SHOP, "live")).reason == "state_transition"


def test_what_a_batch_did_itself_counts_for_leaving() -> None:
    ledger = bank()
    ledger.settle(admit("new"), account("new:w"), state("new", "exiting"))
    paid = transfer("pay", 1, ALICE, "new:w")
    got = ledger.settle(paid, state("new", "exited"), admit("new/x"))
    assert [answer(r) for r in got] == ["owner_state", "applied", "parent_unknown"]
    ledger = bank()
    got = ledger.settle(admit("new"), account("new:w"), transfer("pay", 1, ALICE, "new:w"), state("new", "exiting"),
                        state("new", "exited"), transfer("back", 1, "new:w", BOB, partner_id="new"), state("new", "exited"))  # fmt: skip
    assert [answer(r) for r in got][2:] == ["settled", "applied", "partner_not_empty", "settled", "applied"]


def test_the_bank_may_ask_for_anything_but_not_pay_who_may_not_be_paid() -> None:
    ledger = bank()
    ledger.one(state("zeta", "suspended"))
    out = ledger.one(transfer("a", 1, ZOE, ALICE, partner_id="bank"))
    back = ledger.one(transfer("b", 1, ALICE, ZOE, partner_id="bank"))
    again = ledger.one(refund("c", 1, of="a", partner_id="bank"))
    assert [answer(r) for r in (out, back, again)] == ["settled", "owner_state", "settled"]


def test_any_partner_may_be_paid_and_nobody_elses_account_be_debited_or_looked_up() -> None:
    ledger = bank()
    got = ledger.settle(
        transfer("a", 1, ALICE, ZOE), transfer("b", 1, ZOE, ALICE), transfer("c", 1, "zeta:w:none", ALICE),
        transfer("d", 1, ALICE, "zeta:w:none"), hold("e", 1, ALICE, ZOE), hold("f", 1, ALICE, "zeta:w:none"),
        transfer("g", 1, ALICE, "acme/shop:w:none", partner_id="acme/shop"), transfer("h", 1, ALICE, CLEARING),
        transfer("i", 1, "bank:none", ALICE),
    )  # fmt: skip
    assert [answer(r) for r in got] == [
        "settled", "account_not_owned", "account_not_owned", "account_unknown", "account_not_owned", "account_not_owned",
        "account_unknown", "settled", "account_unknown",
    ]  # fmt: skip


def test_nobody_takes_a_partner_live_alone() -> None:
    ledger = shop("sandbox")
    got = ledger.settle(
        state(SHOP, "live", approved_by=""), state(SHOP, "live", approved_by="zhou"),
        state(SHOP, "gone", approved_by="zhou"), state("nobody", "live", approved_by="zhou"),
        state("nobody", "live", approved_by=""), state(SHOP, "live", approved_by="", note=""),
        state(SHOP, "live", "acme", approved_by=""),
    )  # fmt: skip
    assert [answer(r) for r in got] == [
        "field_invalid approved_by", "field_invalid approved_by", "field_invalid approved_by", "field_invalid approved_by",
        "partner_unknown", "field_invalid note", "not_permitted",
    ]  # fmt: skip
    done = ledger.one(state(SHOP, "live", approved_by="li"))
    assert done.changes == {"state": "live", "requested_by": "zhou", "note": "case 9", "approved_by": "li"}


def test_other_steps_need_no_second_person_and_keep_who_was_named() -> None:
    ledger = shop("live")
    got = ledger.settle(
        state(SHOP, "suspended", approved_by="zhou"), state(SHOP, "suspended"), state(SHOP, "live", approved_by=""),
        state(SHOP, "exiting", approved_by="li"),
    )  # fmt: skip
    assert [answer(r) for r in got] == ["field_invalid approved_by", *["applied"] * 3]
    assert [r.changes.get("approved_by") for r in got[1:]] == [None, None, "li"]
