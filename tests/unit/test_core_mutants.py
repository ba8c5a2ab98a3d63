"""What changes of the core, made on purpose one at a time (docs/bite.md), could do to money or its story unseen.

Each test says what the owner of the money, or who reads a refusal, would lose.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from datetime import date, timedelta
from time import perf_counter
from typing import Any

import faust
import msgspec
import pytest

from ledger import control_accounts, crossing, exchange, rules
from ledger.accounts import Account
from ledger.book import Book
from ledger.days import civil
from ledger.entries import ENTRY, HOLD, EntryLog, Moved, kind_of
from ledger.invariants import check_accounts, check_limits
from ledger.keys import GENERATIONS, KeyIndex
from ledger.money import AMOUNT_MAX, COUNTER_MAX
from ledger.operations import quick_transfer
from ledger.posting import Pending
from ledger.product_sense import check
from ledger.products import compile_document
from ledger.reasons import MEANING, Rejection, told_of
from ledger.state import Draft, PartitionBase
from processors.agents import add_settlement_agent
from processors.finality import decides, offset_of
from processors.settlement import Batch, merge
from schemas.codec import UndecodableError
from schemas.errors import InvariantError
from schemas.identity import command_id
from schemas.records import (
    Crossing,
    Limit,
    PostedLeg,
    Posting,
    PublishProduct,
    SealDay,
    SealedPlace,
    SetCalendar,
    SetFreeze,
    SetLimit,
    SetPartnerState,
    Transaction,
)
from schemas.states import LimitState, UsageState, Used
from tests.ledger_world import DAY, Ledger, account, admit, entry, key, pay, small_bank
from tests.unit.test_closing import close, seal
from tests.unit.test_settlement import World, transfer

LEGS = (PostedLeg("acme:w", "debit", 5, "CNY", 0, 5, 0, 0), PostedLeg("acme:x", "credit", 5, "CNY", 0, 0, 0, 5))


def wide(**counters: int) -> Account:
    """A liability without limit, with these counters."""
    a = Account.new("acme:w", "liability", "CNY", None, 0)
    for name, value in counters.items():
        setattr(a, name, value)
    return a


# ---- counters and limits at their last unit ----------------------------------------------------------------------


@pytest.mark.parametrize("side", ["debit", "credit"])
@pytest.mark.parametrize("state", ["posted", "pending"])
def test_the_last_unit_of_a_counter_can_be_set_aside_and_no_more(side: str, state: str) -> None:
    """Refused too early, money is stuck; too late, a counter is no 38-digit number and no store takes it."""
    counter = f"{side}s_{state}"
    crossing._check_set_aside([(wide(**{counter: COUNTER_MAX - 7}), side, 7)])
    with pytest.raises(Rejection, match="counter_overflow"):
        crossing._check_set_aside([(wide(**{counter: COUNTER_MAX - 7}), side, 8)])


@pytest.mark.parametrize("side", ["debit", "credit"])
def test_an_entry_of_many_legs_that_overflows_one_side_is_refused(side: str) -> None:
    full, other = wide(**{f"{side}s_posted": COUNTER_MAX - 7}), Account.new("acme:x", "liability", "CNY", None, 0)
    opposite = "credit" if side == "debit" else "debit"
    rules.check_totals([(full, side, 3), (full, side, 4), (other, opposite, 7)])
    with pytest.raises(Rejection, match="counter_overflow") as caught:
        rules.check_totals([(full, side, 3), (full, side, 5), (other, opposite, 8)])
    assert caught.value.detail["field"] == "postings"


def test_the_largest_credit_limit_is_one() -> None:
    control_accounts._check_limits(0, AMOUNT_MAX)
    with pytest.raises(Rejection, match="amount_too_large"):
        control_accounts._check_limits(0, AMOUNT_MAX + 1)


def test_what_is_in_transit_has_a_last_unit_too_and_the_refusal_names_the_postings() -> None:
    from ledger.plans import Moment
    from schemas.records import Posting

    bank = small_bank()
    draft = Draft(bank.base, ())
    bank.base.accounts["bank:crossing:CNY"] = full = Account.new("bank:crossing:CNY", "liability", "CNY", None, 0)
    full.credits_posted = COUNTER_MAX - 7
    at = Moment(**{**dict.fromkeys(Moment._fields, 0), "partitions": 4})  # type: ignore[arg-type]
    crossing.check_legs(draft, [], [Posting("zeta:w:zoe", "credit", 7, "CNY")], at)
    with pytest.raises(Rejection) as e:
        crossing.check_legs(draft, [], [Posting("zeta:w:zoe", "credit", 8, "CNY")], at)
    assert e.value.detail["field"] == "postings"


# ---- what is remembered ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one at a time"])
def test_every_key_is_known_after_a_snapshot(together: bool) -> None:
    """A key that a snapshot leaves out is free again: its transaction is paid a second time."""
    ids = [n.to_bytes(8, "big") + (n * 7919).to_bytes(8, "big") for n in range(1, 5_001)]
    digests, offsets = [n.to_bytes(8, "big") for n in range(5_000)], list(range(5_000))
    index = KeyIndex(1_000_000)
    if together:
        index.add(ids, digests, offsets, [5] * 5_000)
    else:
        for i, d, o in zip(ids, digests, offsets, strict=True):
            index.add([i], [d], [o], [5])
    loaded = KeyIndex(1_000_000)
    loaded.load(index.dump())
    wanted = {i: (d, o) for i, d, o in zip(ids, digests, offsets, strict=True)}
    for known in (index, loaded):
        assert len(known) == 5_000
        assert known.find(ids, 5) == wanted
        assert known.find(ids[:3], 5) == {i: wanted[i] for i in ids[:3]}


def test_many_keys_looked_up_at_once_are_found_with_their_own_digests_and_offsets() -> None:
    """A repeat that met another key's digest would be refused as another payload, in large batches only."""
    ids = [n.to_bytes(8, "big") * 2 for n in range(1, 601)]
    digests = [(7 * n).to_bytes(8, "big") for n in range(1, 601)]
    index = KeyIndex(1_000)
    index.add(ids, digests, list(range(5_000, 5_600)), [500] * 600)
    assert index.find(ids, 500) == dict(zip(ids, zip(digests, range(5_000, 5_600), strict=True), strict=True))


def test_an_entry_is_forgotten_when_its_window_is_over() -> None:
    """Remembered for ever, a worker's memory grows until it dies."""
    log = EntryLog(window_ms=10 * GENERATIONS)
    log.add({3: (ENTRY, 0, LEGS, "wallet")})
    log.forget(10 * GENERATIONS)
    assert log.find(3) == Moved(ENTRY, ("acme:w", "acme:x"), (5, -5), "wallet")
    log.forget(10 * (GENERATIONS + 1))
    assert len(log) == 0


def test_many_keys_of_several_generations_are_all_remembered() -> None:
    """So a worker takes over: a key it does not know is a payment that is made twice."""
    index = KeyIndex(window_ms=10 * GENERATIONS)
    n = 600  # more than are put in one by one
    ids = [command_id("acme", str(i)) for i in range(n)]
    digests = [i.to_bytes(8, "big") for i in range(n)]
    index.add(ids, digests, range(n), [i * 40 // n for i in range(n)])
    assert index.find(ids, 40) == {ids[i]: (digests[i], i) for i in range(n)}


def test_entries_that_are_read_back_are_those_that_were_kept() -> None:
    """A backup of a partition's memory: whoever points at one of them points at the same."""
    log = EntryLog(window_ms=10 * GENERATIONS)
    for offset, kind in ((3, ENTRY), (9, HOLD), (12, ENTRY)):
        log.add({offset: (kind, offset * 4, LEGS[: 1 + offset % 2], "wallet" if offset < 10 else "shop")})
    log.give_back(3, 2)
    log.lapse(9)
    again = EntryLog(window_ms=10 * GENERATIONS)
    again.load(*log.dump())
    assert [again.find(o) for o in (3, 9, 12, 13)] == [log.find(o) for o in (3, 9, 12, 13)]
    assert (len(again), again.given_back(3), again.dump()) == (3, 2, log.dump())


def test_entries_of_two_generations_are_forgotten_one_after_the_other() -> None:
    """One that is forgotten with an older one can no longer be refunded."""
    log = EntryLog(window_ms=10 * GENERATIONS)
    log.add({3: (ENTRY, 9, LEGS, "wallet"), 4: (ENTRY, 10, LEGS, "wallet")})
    log.forget(10 * (GENERATIONS + 1))
    assert (log.find(3), log.find(4)) == (None, Moved(ENTRY, ("acme:w", "acme:x"), (5, -5), "wallet"))


@pytest.mark.parametrize("carries", ["trace", ""])
def test_the_journal_has_its_record_whatever_travels_beside_it(carries: str) -> None:
    world = World()
    world.settlement.carries = carries
    beside = [("other", b"1"), ("trace", b"t" * 65), ("trace", b"t" * 64), ("trace", b"again")]
    merge(world.batch([world.message(admit("acme"), head=beside), world.message(admit("beta"))]))
    sent = [more.get("headers") for _, _, _, _, more in world.of("journal")]
    assert sent == [[("trace", b"t" * 64)] if carries else None, None]


def test_only_a_transaction_is_decided_somewhere_else() -> None:
    """A caller that waits takes the first record that decides as its answer."""
    plain = small_bank().one(admit("beta"))
    for command, offset, outcome, reason, wanted in (
        ("Transaction", 0, "settled", "", True), ("Transaction", 7, "rejected", "no_route", True),
        ("Transaction", 7, "rejected", "idempotency_conflict", False), ("Transaction", 7, "repeated", "", False),
        ("Transaction", -1, "settled", "", False), ("Crossing", 7, "settled", "", False),
    ):  # fmt: skip
        r = msgspec.structs.replace(plain, command=command, first_offset=offset, outcome=outcome, reason=reason)
        assert decides(r) is wanted, r
        assert offset_of(r) == (offset if wanted else r.source_offset)


def test_a_product_of_two_steps_is_not_settled_as_if_it_had_one() -> None:
    """The quick way of a plain transfer would leave the second step out: the fee, or the tax."""
    first = {"from": "payer", "amount": "amount", "to": [{"role": "payee"}]}
    second = {"from": "payee", "amount": {"fixed": {"CNY": 1}}, "to": [{"role": "payer"}]}
    split = {**first, "to": [{"role": "payee"}, {"role": "payer", "amount": {"fixed": {"CNY": 1}}}]}
    roles = {"payer": {"owner": "caller"}, "payee": {"owner": "any"}}
    for steps, plain in (([first], True), ([first, second], False), ([split], False)):
        operation = {"kind": "transfer", "steps": steps, "callers": ["partner"]}
        document = {"product": "shop", "version": 1, "roles": roles, "operations": {"pay": operation}}
        assert compile_document(document).operations["pay"].plain is plain, steps


def test_whoever_refuses_a_step_between_partitions_names_a_field_that_it_has() -> None:
    """The home partition tells it to the caller as it stands."""
    bank = small_bank()
    step = Crossing(
        "bank", key(), "reserve", bytes(16), 1, 3, "acme", "p", "wallet", 0, "transfer", DAY, "", {},
        (Posting("zeta:w:zoe", "debit", 5, "CNY"),),
    )  # fmt: skip
    assert bank.one(step).detail["field"] == "legs"
    bank.one(SetPartnerState("bank", key(), "zeta", "suspended", "ann", "why"))
    again = msgspec.structs.replace(step, idempotency_key=key(), legs=(Posting("zeta:w:zoe", "credit", 5, "CNY"),))
    record = bank.one(again)
    assert (record.reason, record.detail["field"]) == ("owner_state", "accounts")


@pytest.mark.parametrize(("level", "named"), [("account", "account"), ("partner", "partner")])
def test_a_limit_of_nobody_is_refused_with_as_much_of_the_name_as_is_kept(level: str, named: str) -> None:
    record = small_bank().one(SetLimit("bank", key(), level, "acme:" + "x" * 300, (Limit("day", "", 1, None),)))
    assert (record.reason, record.detail["field"], len(record.detail[named])) == (
        f"{level}_unknown", "subject_id", 256,
    )  # fmt: skip


def test_a_product_names_each_of_its_callers_once() -> None:
    roles = {"payer": {"owner": "caller"}, "payee": {"owner": "caller"}}
    operations = {"pay": {**PLAIN, "callers": ["partner", "bank", "partner"]}}
    document = {"product": "shop", "version": 1, "roles": roles, "operations": operations}
    record = small_bank().one(PublishProduct("bank", key(), "shop", 1, 0, json.dumps(document), "ann", "why"))
    assert (record.outcome, record.detail["path"]) == ("rejected", "operations.pay.callers")


def test_whoever_leaves_a_role_out_is_told_all_that_there_are() -> None:
    bank = small_bank()
    on_the_shelf(bank, roles={"payer": {"owner": "caller"}, "payee": {"owner": "caller"}}, operations={"pay": PLAIN})
    record = bank.one(pay("acme", "", "", 5, product="shop", operation="pay", accounts={"payer": "acme:w:alice"}))
    assert (record.reason, record.detail["roles"]) == ("role_missing", "payee,payer")


@pytest.mark.parametrize(
    ("asked", "reason", "named", "kept"),
    [
        (pay("acme", "", "", 5, operation="refund", accounts={}, original="o" * 300), "original_unknown", "original", 128),
        (entry("bank", ("bank:crossing:" + "x" * 300, "debit", 5), ("acme:w:bob", "credit", 5), operation="adjustment", note="why"),
         "account_not_owned", "account", 256),
        (entry("acme", ("acme:w:bob", "debit", 5, "CNY"), ("acme:w:alice", "credit", 5, "CNY"), currency="X" * 30, exponent=2),
         "exponent_mismatch", "currency", 16),
    ],
)  # fmt: skip
def test_of_a_text_that_somebody_sent_a_refusal_keeps_so_much(
    asked: Transaction, reason: str, named: str, kept: int
) -> None:
    """A journal does not grow by what is sent to it."""
    record = small_bank().one(asked)
    assert (record.reason, len(record.detail[named])) == (reason, kept)


def test_a_number_beyond_every_double_is_refused_wherever_it_stands() -> None:
    """A reader in another language would read infinity as a price."""
    roles = {"payer": {"owner": "caller"}, "payee": {"owner": "caller"}}
    bank = small_bank()
    for where in ({"title": 10**400}, {"limits": [{"window": "day", "count_max": 10**400}]}):
        document = {"product": "shop", "version": 1, "roles": roles, "operations": {"pay": PLAIN}, **where}
        record = bank.one(PublishProduct("bank", key(), "shop", 1, 0, json.dumps(document), "ann", "why"))
        assert (record.reason, record.detail["rule"]) == (
            "field_invalid",
            "JSON, and no number beyond a double's range",
        )


@pytest.mark.parametrize(("length", "taken"), [(200, True), (201, False)])
def test_the_longest_title_of_a_product_is_one(length: int, taken: bool) -> None:
    roles = {"payer": {"owner": "caller"}, "payee": {"owner": "caller"}}
    document = {"product": "shop", "version": 1, "title": "x" * length, "roles": roles, "operations": {"pay": PLAIN}}
    record = small_bank().one(PublishProduct("bank", key(), "shop", 1, 0, json.dumps(document), "ann", "why"))
    assert (record.outcome == "applied") is taken, record


def test_an_account_below_its_limit_may_stay_where_it_is() -> None:
    """A limit that was raised above the balance is no breach of anybody who only brings money, or moves none."""
    base = PartitionBase()
    base.accounts["acme:w"] = Account.new("acme:w", "liability", "CNY", 100, 0)
    draft = Draft(base)
    draft.accounts["acme:w"].credits_blocked = True  # looked at, like every account that a batch changes
    check_accounts(draft)


def test_what_a_command_sent_before_our_own_bug_met_it_is_not_sent_with_the_next() -> None:
    """It would pay out in another partition for a payment that never was."""
    world = World()
    world.settle(admit("acme"))
    found: list[Any] = []
    whole = Book.settle

    def broken(book: Book, command: Any, *more: Any) -> Any:
        if not found:
            found.append(book)
            book.outbox.append("half of a payment")  # type: ignore[arg-type]
            raise ZeroDivisionError("ours")
        return whole(book, command, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Book, "settle", broken)
        world.settle(admit("beta"), admit("gamma"))
    assert [len(world.of(t)) for t in ("dead", "submitted")] == [1, 0]
    assert found[0].outbox == []


def test_a_letter_can_be_kept_whatever_was_wrong_with_its_text() -> None:
    world, taken = World(), list[Any]()
    world.settlement._bury(
        world.message(b"x"), 0, UndecodableError("contract", "half a \ud800"), lambda *a, **k: taken.append(k)
    )
    assert ("detail", b"half a ?") in taken[0]["headers"]


@pytest.mark.parametrize("posts", [True, False])
def test_what_points_at_nothing_gives_nothing_back(posts: bool) -> None:
    """Else a take-over would count a payment as returned, and its refund would be refused."""
    assert kind_of("transfer", points=False, posts=posts, changes_pending=not posts) == (
        ENTRY if posts else HOLD,
        False,
    )


def _held(bank: Ledger) -> None:
    bank.one(pay("acme", "acme:w:alice", "acme:w:bob", 5, operation="hold", expires_at=1_795_338_000_500))
    assert len(bank.base.due) == 1


def test_a_hold_that_lapsed_is_due_no_more() -> None:
    """Kept on the list, each lapse is looked at again with every command for ever."""
    bank = small_bank()
    _held(bank)
    bank.wait(10_000)
    bank.one(pay("acme", "acme:w:alice", "acme:w:bob", 1))
    assert bank.base.due == []


def test_a_lapse_that_is_taken_back_is_forgotten_as_a_lapse() -> None:
    """Else the hold of a command that met our own bug would be remembered as lapsed while it is still open."""
    bank = small_bank()
    _held(bank)
    draft = Draft(bank.base, ())
    pending = Pending(draft)
    assert pending.lapse(1_795_338_009_000, draft.head.next_offset)
    assert draft.lapsed
    pending.take_back_lapsed()
    assert not draft.lapsed
    assert draft.holds[next(iter(draft.holds))].remaining == 5


# ---- days --------------------------------------------------------------------------------------------------------


def test_every_day_of_the_calendar_is_the_day_that_it_is() -> None:
    first = date(1970, 1, 1)
    for n in range((date(2299, 12, 31) - first).days + 1):
        d = first + timedelta(n)
        assert civil(n) == (d.year, d.month, d.day)


def test_a_seal_without_a_partition_that_closed_with_its_first_record_is_refused() -> None:
    """Else that partition's money would be missing from a sealed day."""
    bank = Ledger(partition=0, partitions=2)
    closed = bank.one(close(DAY - 1))
    assert (closed.outcome, closed.sequence) == ("applied", 1)
    asked: SealDay = seal(DAY - 1, cut=(SealedPlace(1, 77, "0a" * 32),))
    record = bank.one(asked)
    assert (record.reason, record.detail["field"]) == ("field_invalid", "cut")
    assert bank.one(seal(DAY - 1, sequence=1)).outcome == "applied"


# ---- products ----------------------------------------------------------------------------------------------------


def on_the_shelf(bank: Ledger, **document: Any) -> None:
    made = {"product": "shop", "version": 1, "currencies": ["CNY"], **document}
    text = json.dumps(made, sort_keys=True, separators=(",", ":"))
    record = bank.one(PublishProduct("bank", key(), made["product"], 1, 0, text, "ann", "why"))
    assert record.outcome == "applied", record


def asked(operation: str, amount: int = 5, currency: str = "CNY", **accounts: str) -> Any:
    made = pay("acme", "", "", amount, currency, product="shop", operation=operation)
    return msgspec.structs.replace(made, accounts=accounts)


PLAIN = {"kind": "transfer", "steps": [{"from": "payer", "amount": "amount", "to": [{"role": "payee"}]}]}


def test_a_plain_product_takes_only_its_currencies() -> None:
    """The short cut must not sell in a currency that the product has no price and no promise in."""
    bank = small_bank()
    on_the_shelf(bank, roles={"payer": {"owner": "caller"}, "payee": {"owner": "caller"}}, operations={"pay": PLAIN})
    bank.one(account("acme:w:yen2", currency="JPY"))
    record = bank.one(asked("pay", 5, "JPY", payer="acme:w:yen", payee="acme:w:yen2"))
    assert (record.outcome, record.reason) == ("rejected", "product_currency")
    assert bank.one(asked("pay", payer="acme:w:alice", payee="acme:w:bob")).outcome == "settled"


def test_a_product_without_currencies_of_its_own_takes_all() -> None:
    bank = small_bank()
    roles = {"payer": {"owner": "caller"}, "payee": {"owner": "caller"}}
    on_the_shelf(bank, roles=roles, operations={"pay": PLAIN}, currencies=[])
    assert bank.one(asked("pay", payer="acme:w:alice", payee="acme:w:bob")).outcome == "settled"


def test_a_role_of_many_is_named_with_a_number() -> None:
    bank = small_bank()
    roles = {"payer": {"owner": "caller"}, "payees": {"owner": "caller", "many": True}}
    steps = [{"from": "payer", "amount": "amount", "to": [{"role": "payees", "amount": "equal"}]}]
    on_the_shelf(bank, roles=roles, operations={"split": {"kind": "transfer", "steps": steps}})
    record = bank.one(asked("split", payer="acme:w:alice", payees="acme:w:bob"))
    assert (record.outcome, record.reason) == ("rejected", "role_unknown")


# ---- the short ways say no more than the long ones ----------------------------------------------------------------


@pytest.mark.parametrize("counter", ["payer", "payee"])
def test_the_short_way_leaves_a_counter_at_its_last_unit_to_the_long_one(counter: str) -> None:
    """The unit that does not fit would be posted, and the counter be no number that a store takes."""
    bank = small_bank()
    payment = pay("acme", "acme:w:alice", "acme:w:bob", 7)
    accounts = Draft(bank.base).accounts
    payer, payee = accounts["acme:w:alice"], accounts["acme:w:bob"]
    payer.min_available = None
    if counter == "payer":
        payer.debits_posted = COUNTER_MAX - 7
    else:
        payee.credits_posted = COUNTER_MAX - 7
    assert quick_transfer(accounts, payment) == [(payer, "debit", 7), (payee, "credit", 7)]
    assert quick_transfer(accounts, msgspec.structs.replace(payment, amount=8)) is None


def test_what_one_entry_takes_and_brings_back_is_counted_together() -> None:
    """An account that stands in three legs may give what it gets in the same entry, what is released there, and no more."""
    a, b = Account.new("acme:w", "liability", "CNY", 0, 0), Account.new("acme:x", "liability", "CNY", None, 0)
    a.credits_posted = 40

    def taken(amount: int, released: int = 0) -> None:
        rules.check_totals([(a, "debit", amount), (a, "credit", 60), (b, "credit", amount - 60)], {"acme:w": released})

    taken(100)
    with pytest.raises(Rejection, match="insufficient_funds"):
        taken(101)
    taken(105, released=5)
    with pytest.raises(Rejection, match="insufficient_funds"):
        taken(106, released=5)


def test_a_payment_is_refunded_under_its_own_product_only() -> None:
    """Another one may keep no fees: what was agreed when it was paid would be undone by whoever chooses the refund."""
    bank = small_bank()
    roles = {"payer": {"owner": "caller"}, "payee": {"owner": "caller"}}
    operations = {"pay": PLAIN, "back": {"kind": "refund", "fees": "keep"}}
    on_the_shelf(bank, roles=roles, operations=operations)
    on_the_shelf(bank, product="stall", roles=roles, operations=operations)
    paid = asked("pay", payer="acme:w:alice", payee="acme:w:bob")
    assert bank.one(paid).outcome == "settled"
    back = msgspec.structs.replace(asked("back", 2), original=paid.idempotency_key)
    record = bank.one(msgspec.structs.replace(back, product="stall"))
    assert (record.reason, record.detail["field"]) == ("original_mismatch", "product")
    record = bank.one(msgspec.structs.replace(back, currency="JPY", idempotency_key=key()))
    assert (record.outcome, record.detail["field"]) == ("rejected", "currency")
    assert bank.one(msgspec.structs.replace(back, idempotency_key=key())).outcome == "settled"


@pytest.mark.parametrize("before", [True, False])
def test_what_a_batch_before_had_used_is_no_breach_of_a_limit_that_was_lowered_since(before: bool) -> None:
    """Looked for in the batches that are not merged yet, then in what is committed."""
    base = PartitionBase()
    used = UsageState("partner", "acme", (Used("day", "", 20_000, 9, 0),), 5)
    lowered = LimitState("partner", "acme", (Limit("day", "", 3, None),), 6)
    base.put_row("l:partner:acme", lowered)
    under = Draft(base)
    if before:
        under.put_row("u:partner:acme", used)
    else:
        base.put_row("u:partner:acme", used)
    draft = Draft(base, (under,))
    draft.put_row("u:partner:acme", msgspec.structs.replace(used, source_offset=7))
    check_limits(draft)
    more = msgspec.structs.replace(used, used=(msgspec.structs.replace(used.used[0], count=10),))
    draft.put_row("u:partner:acme", more)
    with pytest.raises(InvariantError, match="partner acme took"):
        check_limits(draft)


def test_what_is_bought_and_sold_is_of_the_bank() -> None:
    document = {
        "product": "fx", "version": 1,
        "roles": {r: {"owner": "caller"} for r in ("payer", "payee", "sold", "bought")},
        "operations": {"change": {"kind": "exchange"}},
    }  # fmt: skip
    found = {f.rule for f in check(document)}
    assert {"sold is an account of the bank", "bought is an account of the bank"} <= found


# ---- what a refusal tells ----------------------------------------------------------------------------------------


def test_a_reversal_of_what_was_given_back_whole_tells_that_nothing_is_left() -> None:
    """Who reads `remaining` as 1 gives a unit back that is not there."""
    bank = small_bank()
    payment = pay("acme", "acme:w:alice", "acme:w:bob", 5)
    bank.one(payment)
    pointed = msgspec.structs.replace(payment, accounts={}, original=payment.idempotency_key, operation="refund")
    assert bank.one(msgspec.structs.replace(pointed, idempotency_key=key())).outcome == "settled"
    record = bank.one(msgspec.structs.replace(pointed, idempotency_key=key(), operation="reversal", amount=0))
    assert (record.reason, record.detail) == ("refund_exceeds_payment", {"field": "original", "remaining": "0"})


FX = {"payer": "acme:w:alice", "payee": "acme:w:yen", "sold": "bank:clearing:CNY", "bought": "bank:clearing:JPY"}


@pytest.mark.parametrize(
    ("amount", "rate", "payee", "reason", "detail"),
    [
        (1, "0.001", "acme:w:yen", "rate_invalid", {"field": "rate"}),
        (10**12, "999999999999", "acme:w:yen", "amount_too_large", {"field": "rate"}),
        (1, "1", "acme:w:bob", "account_currency", {"field": "accounts.bought", "account_currency": "JPY"}),
    ],
)
def test_a_refused_exchange_names_what_is_wrong(
    amount: int, rate: str, payee: str, reason: str, detail: dict[str, str]
):
    bank = small_bank()
    asked = pay("acme", "", "", amount, operation="exchange", rate=rate, accounts={**FX, "payee": payee})
    record = bank.one(asked)
    assert record.reason == reason
    assert {k: record.detail[k] for k in detail} == detail


def test_an_exchange_into_the_same_currency_names_it() -> None:
    bank = small_bank()
    accounts = {**FX, "payee": "acme:w:bob", "bought": "bank:clearing:CNY2"}
    bank.one(account("bank:clearing:CNY2", "asset", limit=None))
    asked = pay("acme", "", "", 1, operation="exchange", rate="1", accounts=accounts)
    detail = bank.one(asked).detail
    assert (detail["field"], detail["currency"], detail["account_currency"]) == ("accounts.payee", "CNY", "CNY")
    assert exchange.bought_for(100, "1", "CNY", "CNY") == 100


def test_another_payload_under_a_key_and_a_product_that_is_none_are_named() -> None:
    bank = small_bank()
    payment = pay("acme", "acme:w:alice", "acme:w:bob", 5)
    bank.one(payment)
    record = bank.one(msgspec.structs.replace(payment, amount=6))
    told = {"field": "idempotency_key", "rule": "a key names one payload"}
    assert (record.reason, record.detail) == ("idempotency_conflict", told)
    on_the_shelf(bank, roles={"payer": {"owner": "caller"}, "payee": {"owner": "caller"}}, operations={"pay": PLAIN})
    record = bank.one(msgspec.structs.replace(asked("pay"), product="shpo"))
    assert (record.reason, record.detail) == ("product_unknown", {"field": "product", "product": "shpo"})


@pytest.mark.parametrize("who", ["bank", "p" * 300])
def test_of_a_calendars_subject_and_of_who_may_not_set_it_256_characters_are_told(who: str) -> None:
    record = small_bank().one(SetCalendar(who, key(), "q" * 300, "UTC", (), 96, (), "ann", "why"))
    assert record.outcome == "rejected"
    assert record.detail["partner"] == ("q" if who == "bank" else "p") * 256


def test_a_name_that_is_too_long_is_told_in_its_first_256_characters() -> None:
    """A refusal goes into the journal for ever: what is sent must not make it grow."""
    bank = small_bank()
    record = bank.one(SetFreeze("bank", key(), "account", "acme:" + "x" * 300, True, "ann", "why"))
    assert (record.reason, len(record.detail["account"])) == ("account_unknown", 256)


def test_a_partner_does_not_leave_money_or_anybody_behind_and_is_told_who() -> None:
    bank = small_bank()
    bank.settle(admit("zed"), admit("zed/a"))
    for partner, named in (("acme/shop", {"account": "acme/shop:w:till"}), ("zed", {"partner": "zed/a"})):
        bank.one(SetPartnerState("bank", key(), partner, "exiting", "ann", "why", "bob"))
        record = bank.one(SetPartnerState("bank", key(), partner, "exited", "ann", "why", "bob"))
        assert (record.reason, record.detail) == ("partner_not_empty", {"field": "subject_id", **named})


def test_the_place_of_a_mistake_in_a_document_is_told_in_its_first_256_characters() -> None:
    bank = small_bank()
    roles = {"payer": {"owner": "caller"}, "payee": {"owner": "caller"}}
    text = json.dumps({"product": "shop", "version": 1, "roles": roles, "operations": {"x" * 300: PLAIN}})
    record = bank.one(PublishProduct("bank", key(), "shop", 1, 0, text, "ann", "why"))
    assert record.outcome == "rejected"
    assert max(map(len, record.detail.values())) <= 256


def test_a_code_that_is_none_has_no_meaning_and_every_other_has() -> None:
    assert told_of("no_such_code", MEANING) == ""
    assert told_of("insufficient_funds", MEANING)


# ---- the agent ---------------------------------------------------------------------------------------------------


def test_the_agent_settles_what_its_channel_brings() -> None:
    """Without it nothing is settled, whatever the core can do."""
    world = World()
    draft = Draft(world.base, ())
    taken: list[Any] = []
    batch = Batch({}, lambda *a, **k: taken.append(a))

    async def stream() -> AsyncIterator[Batch]:
        yield batch

    app = faust.App("clearline-test")  # never started
    agent = add_settlement_agent(app, app.channel(), world.settlement)
    asyncio.run(agent.fun(stream()))
    assert (batch.claimed, batch.done.is_set(), batch.error) == (True, True, None)
    assert agent.name.endswith("settlement")
    assert draft.head.settled == 0
    assert isinstance(batch.done, threading.Event)


def test_the_stages_of_a_batch_do_not_take_longer_than_the_batch() -> None:
    world = World()
    started = perf_counter()
    world.settle(transfer("t1"), transfer("t2"))
    took = perf_counter() - started
    s = world.settlement.stages
    each = (s.decode, s.identify, s.look_up, s.settle, s.encode, s.produce, s.state)
    assert min(each) >= 0
    assert 0 < sum(each) <= took
    assert s.commands == 2
