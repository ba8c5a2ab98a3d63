"""Which events a record gives: on the journal of a whole ledger in memory, and against a second account of it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from clearline.config import Settings
from clearline.gateway.twin import LedgerTwin
from clearline.webhooks.events import Counters, crossed, events_of, ordering_of
from clearline.webhooks.interest import Event, Interest
from schemas.identity import partition_of
from schemas.records import JournalRecord, OpenAccount, Posting, SetAccountLimit, Tick, Transaction, Want
from tests.journals import Maker
from tests.webhook_world import subscription

ALL = (
    "transaction.settled", "transaction.rejected", "hold.expired", "hold.expiring", "limit.reached", "day.quiet",
)  # fmt: skip
URL = "https://shop.example/hook"


@pytest.fixture
def ledger() -> LedgerTwin:
    twin = LedgerTwin(Settings(world="sandbox", partitions=4), 4)
    twin.admit("acme", "acme/shop-17", "zeta", "umbrella")
    twin.open("acme:w:a", "acme:w:b", "acme/shop-17:w:till", "zeta:w:a", "umbrella:w:a", funds=100_000)
    return twin


def transfer(key: str, amount: int, payer: str, payee: str, asker: str = "", **fields: Any) -> Transaction:
    return Transaction(
        asker or payer.partition(":")[0], key, "wallet", fields.pop("operation", "transfer"), amount, "CNY",
        {"payer": payer, "payee": payee}, (), 20_779, **fields,
    )  # fmt: skip


def told(records: list[JournalRecord], *subscriptions: Any) -> list[Event]:
    interest = Interest(subscriptions)
    return [e for r in records for e in events_of(r, interest)]


def settle(ledger: LedgerTwin, command: Any) -> list[JournalRecord]:
    at = len(ledger.journal)
    ledger.settle(command)
    return ledger.journal[at:]


def types(events: list[Event]) -> list[tuple[str, str]]:
    return [(e.subscription_id, e.type) for e in events]


def test_an_outcome_is_told_at_the_asker_and_above_and_nowhere_else(ledger: LedgerTwin) -> None:
    everybody = [subscription(n, p, URL, ALL) for n, p in
                 (("root", "acme"), ("shop", "acme/shop-17"), ("other", "zeta"), ("like", "acm"), ("bank", "bank"))]  # fmt: skip
    events = told(settle(ledger, transfer("1", 5, "acme/shop-17:w:till", "acme:w:a")), *everybody)
    assert types(events) == [("shop", "transaction.settled"), ("root", "transaction.settled")]
    assert {e.ordering for e in events} == {"acme/shop-17:w:till"}
    assert len({e.event_id for e in events}) == 2
    events = told(settle(ledger, transfer("2", 10**9, "acme:w:a", "acme:w:b")), *everybody)
    assert types(events) == [("root", "transaction.rejected")]
    body = orjson.loads(events[0].body)
    assert (body["data"]["reason"], body["data"]["status"]) == ("insufficient_funds", "rejected")
    assert body["data"]["reason_detail"]["account"] == "acme:w:a" == events[0].ordering
    assert body["timestamp"] == body["data"]["booked_at"]


def test_a_repeat_and_another_payload_under_a_key_are_not_told(ledger: LedgerTwin) -> None:
    s = subscription("s", "acme", URL, ALL)
    first = transfer("k", 5, "acme:w:a", "acme:w:b")
    assert len(told(settle(ledger, first), s)) == 1
    assert told(settle(ledger, first), s) == []
    conflict = settle(ledger, transfer("k", 6, "acme:w:a", "acme:w:b"))
    assert conflict[0].reason == "idempotency_conflict"
    assert told(conflict, s) == []


@pytest.mark.parametrize("works", [True, False])
def test_between_partitions_only_the_last_word_is_told(ledger: LedgerTwin, works: bool) -> None:
    assert partition_of("acme", 4) != partition_of("zeta", 4)
    watched = [
        Want("balance.above", "zeta:w:a", "credit", 100_000),
        Want("balance.below", "acme:w:a", "credit", 100_000),
    ]
    subscriptions = [
        subscription("a", "acme", URL, [*ALL, watched[1]]),
        subscription("z", "zeta", URL, [*ALL, watched[0]]),
    ]
    if not works:
        ledger.must(OpenAccount("bank", "usd", "zeta:w:usd", "liability", "USD", 0))
    payee = "zeta:w:a" if works else "zeta:w:usd"
    events = told(settle(ledger, transfer("x", 7, "acme:w:a", payee)), *subscriptions)
    wanted = [("a", "balance.below"), ("a", "transaction.settled" if works else "transaction.rejected")]
    assert sorted(types(events)) == sorted([*wanted, *([("z", "balance.above")] if works else [])])
    last = next(e for e in events if e.type.startswith("transaction."))
    document = orjson.loads(last.body)["data"]
    assert document["id"] == ledger.outcomes_of("acme", "x")[0].command_id.hex()
    assert last.ordering == "acme:w:a"


def test_a_hold_that_lapses_is_told_whatever_command_came_by(ledger: LedgerTwin) -> None:
    s = subscription("s", "acme", URL, ["hold.expired"])
    hold = transfer("h", 40, "acme:w:a", "acme:w:b", operation="hold", expires_at=ledger.now_ms + 5_000)
    assert told(settle(ledger, hold), s) == []
    ledger.advance(10_000)
    tick = settle(ledger, Tick("bank", "t"))
    events = told(tick, s)
    assert types(events) == [("s", "hold.expired")]
    name = ledger.outcomes_of("acme", "h")[0].command_id.hex()
    assert orjson.loads(events[0].body)["data"]["hold"] == {
        "id": name, "payer": "acme:w:a", "payee": "acme:w:b", "currency": "CNY", "amount": 40, "expires_at": None,
    }  # fmt: skip
    assert told(settle(ledger, Tick("bank", "t2")), s) == []


def test_a_hold_takes_from_what_is_available(ledger: LedgerTwin) -> None:
    below, above = (
        Want("balance.below", "acme:w:a", "credit", 99_980),
        Want("balance.above", "acme:w:a", "credit", 99_990),
    )
    s = subscription("s", "acme", URL, [below, above])
    events = told(settle(ledger, transfer("h", 40, "acme:w:a", "acme:w:b", operation="hold")), s)
    assert types(events) == [("s", "balance.below")]
    data = orjson.loads(events[0].body)["data"]
    assert (data["account"]["available"], data["account"]["debits_pending"]) == (99_960, 40)
    assert data["threshold"]["amount"] == 99_980
    void = Transaction("acme", "v", "wallet", "void", 0, "CNY", {}, (), 20_779, original="h")
    assert types(told(settle(ledger, void), s)) == [("s", "balance.above")]


def test_only_from_the_time_on_at_which_it_was_verified(ledger: LedgerTwin) -> None:
    late = subscription("late", "acme", URL, ["transaction.settled"], verified_at=ledger.now_ms + 60_000)
    for state in ("new", "disabled", "deleted"):
        assert not Interest([subscription("s", "acme", URL, ALL, state=state)])
    assert told(settle(ledger, transfer("1", 5, "acme:w:a", "acme:w:b")), late) == []
    ledger.advance(60_000)
    assert len(told(settle(ledger, transfer("2", 5, "acme:w:a", "acme:w:b")), late)) == 1


def test_a_threshold_on_an_account_of_another_tree_is_never_told(ledger: LedgerTwin) -> None:
    s = subscription("s", "zeta", URL, [Want("balance.below", "acme:w:a", "credit", 100_000)])
    assert told(settle(ledger, transfer("1", 5, "acme:w:a", "acme:w:b")), s) == []


def test_a_command_that_is_no_transaction_gives_no_outcome(ledger: LedgerTwin) -> None:
    s = subscription("s", "acme", URL, ALL)
    assert told(settle(ledger, SetAccountLimit("bank", "l", "acme:w:a", 5)), s) == []


def test_one_entry_with_an_account_twice_is_seen_before_and_after_all_of_it(ledger: LedgerTwin) -> None:
    legs = (Posting("acme:w:a", "debit", 50), Posting("acme:w:a", "credit", 49), Posting("acme:w:b", "credit", 1))
    wants = [Want("balance.below", "acme:w:a", "credit", at) for at in (99_951, 99_999, 100_000, 100_001)]
    events = told(settle(ledger, Transaction("acme", "e", "wallet", "transfer", 0, "CNY", {}, legs, 20_779)),
                  subscription("s", "acme", URL, wants))  # fmt: skip
    assert [orjson.loads(e.body)["data"]["threshold"]["amount"] for e in events] == [100_000]


def test_ids_and_bodies_are_the_same_however_often_they_are_computed() -> None:
    lines = Maker(7, partitions=4).lines(400)
    subscriptions = [subscription(f"s{i}", f"p{i}", URL, ALL) for i in range(9)]
    once, twice = (told([x.record for x in lines], *subscriptions) for _ in range(2))
    assert once == twice
    assert len({e.event_id for e in once}) == len(once) > 100


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1_000), st.integers(-200_000, 200_000))
def test_thresholds_agree_with_balances_that_are_added_up(seed: int, amount: int) -> None:
    """Every crossing of the available balance is told once, in both directions, and nothing else is."""
    # Of what a Maker sets aside the counters do not add up: it is for stores, which keep them as they come.
    records = [replace(x.record, pending=()) for x in Maker(seed, partitions=3).lines(250)]
    accounts = sorted({p.account_id for r in records for p in r.postings if not p.account_id.startswith("bank:")})
    wants = [Want(kind, a, "credit", amount) for a in accounts for kind in ("balance.below", "balance.above")]
    by_root: dict[str, list[Want]] = defaultdict(list)
    for w in wants:
        by_root[w.account_id.partition(":")[0].partition("/")[0]].append(w)
    events = told(records, *(subscription(root, root, URL, ws) for root, ws in by_root.items()))
    balance: dict[str, int] = defaultdict(int)
    wanted = []
    for r in records:
        before = dict(balance)
        moved = []
        for q in r.postings:
            balance[q.account_id] += q.amount if q.side == "credit" else -q.amount
            moved.append(q.account_id)
        for a in dict.fromkeys(moved):
            if a in accounts:
                old = before.get(a, 0)
                if old >= amount > balance[a]:
                    wanted.append((r.sequence, "balance.below", a))
                if old <= amount < balance[a]:
                    wanted.append((r.sequence, "balance.above", a))
    assert sorted((e.sequence, e.type, e.ordering) for e in events) == sorted(wanted)


def test_the_own_side_of_a_debit_account() -> None:
    before, after = Counters(0, 100, 0, 0), Counters(0, 100, 0, 60)
    assert (before.available("debit"), after.available("debit")) == (100, 40)
    assert crossed(Want("balance.below", "a:b", "debit", 50), before, after)
    assert not crossed(Want("balance.below", "a:b", "credit", 50), before, after)


def test_the_order_of_what_moved_nothing_is_its_partners() -> None:
    lines = Maker(3, partitions=3).lines(300)
    rejected = next(x.record for x in lines if x.record.outcome == "rejected")
    assert ordering_of(rejected) == rejected.partner_id
