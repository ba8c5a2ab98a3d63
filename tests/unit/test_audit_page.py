"""The auditor's own reading of docs/operations.md and docs/products.md for the whole ledger, case by case, without any
ledger: partners' lives, floors, exchange, limits, days, products, money between partitions."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from clearline.audit.calendars import Calendar
from clearline.audit.contract import DAY_MS, Terms
from clearline.audit.documents import fault
from clearline.audit.recompute import Expected, Recomputation
from clearline.audit.rules import bought
from clearline.audit.templates import rounded
from schemas.identity import command_id, partition_of
from schemas.records import (
    AdmitPartner,
    BlockAccount,
    CloseDay,
    ClosedDay,
    Crossing,
    Limit,
    NamedAmount,
    OpenAccount,
    Posting,
    SetAccountLimit,
    SetCalendar,
    SetLimit,
    SetPartnerState,
    Tick,
    Transaction,
    ZoneOffset,
)
from tests.faults.hostile_whole import SHOP, publishing

T0 = 20_000 * DAY_MS + 9 * 3_600_000  # Friday 2024-10-04, 09:00 UTC
WHO = {"requested_by": "ops", "note": "why"}
HERE, THERE = "acme", "globex"  # two roots of different partitions, when there are two
assert {partition_of(HERE, 2), partition_of(THERE, 2)} == {0, 1}


class Desk:
    """Gives commands to the recomputation of the partition of `acme`, a millisecond apart."""

    def __init__(self, partitions: int = 1, root: str = HERE) -> None:
        self.model = Recomputation(Terms(partitions), partition_of(root, partitions))
        self.offset, self.now, self.n = -1, T0, 0
        for p in (root, f"{root}/shop", *(() if partitions > 1 else (THERE,))):
            self.give(AdmitPartner("bank", self.key(), p))
        self.open("bank:cash", "asset", least=None)
        for name in (f"{root}:a", f"{root}:b", f"{root}/shop:s", *(() if partitions > 1 else (f"{THERE}:g",))):
            self.open(name)
        self.move("bank:cash", f"{root}:a", 1_000, partner=root)

    def key(self) -> str:
        self.n += 1
        return f"k{self.n}"

    def give(self, command: Any, at: int = 0) -> Expected:
        self.offset += 1
        self.now = max(at, self.now + 1)
        return self.model.expect(self.offset, command, self.now)

    def say(self, command: Any, at: int = 0) -> str:
        e = self.give(command, at)
        return e.reason or e.outcome

    def open(self, account: str, kind: str = "liability", currency: str = "CNY", least: int | None = 0) -> str:
        return self.say(OpenAccount("bank", self.key(), account, kind, currency, least))

    def ask(self, operation: str, accounts: dict[str, str], amount: int = 10, **more: Any) -> Expected:
        at = more.pop("at", 0)
        t = Transaction(more.pop("partner", HERE), more.pop("key", "") or self.key(), more.pop("product", ""), operation,
                        amount, more.pop("currency", "CNY"), accounts, more.pop("postings", ()),
                        more.pop("value_date", 20_000), **more)  # fmt: skip
        return self.give(t, at)

    def move(self, payer: str, payee: str, amount: int = 10, **more: Any) -> str:
        e = self.ask(more.pop("operation", "transfer"), {"payer": payer, "payee": payee}, amount, **more)
        return e.reason or e.outcome

    def become(self, partner: str, *states: str) -> list[str]:
        return [self.say(SetPartnerState("bank", self.key(), partner, s, **WHO, approved_by="second")) for s in states]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def said(e: Expected) -> str:
    return e.reason or e.outcome


def moved(e: Expected) -> list[tuple[str, str, int]]:
    return [leg[:3] for leg in e.legs]


# ---- partners --------------------------------------------------------------------------------------------------------


def test_a_partner_lives_and_leaves_by_the_table(desk: Desk) -> None:
    assert desk.say(AdmitPartner("bank", "n", "neu", state="applied")) == "applied"
    assert desk.say(AdmitPartner("bank", "n2", "neu2", state="suspended")) == "state_unknown"
    assert desk.become("neu", "live", "inspected", "inspected", "sandbox") == [
        "state_transition", "applied", "state_transition", "applied"
    ]  # fmt: skip
    assert desk.say(OpenAccount("neu", "n3", "neu:a", "liability", "CNY", 0)) == "applied"
    assert desk.move("neu:a", "neu:a", partner="neu") == "partner_state"
    assert desk.become("neu", "live", "exiting") == ["applied", "applied"]
    assert desk.say(OpenAccount("bank", "n4", "neu:b", "liability", "CNY", 0)) == "partner_state"
    assert desk.say(AdmitPartner("bank", "n5", "neu/kid", state="live")) == "applied"
    assert desk.become("neu", "exited") == ["partner_not_empty"]
    assert desk.become("neu/kid", "exiting", "exited") == ["applied", "applied"]
    assert desk.become("neu", "exited", "live") == ["applied", "state_transition"]
    assert desk.say(AdmitPartner("bank", "n6", "neu/late")) == "parent_unknown"


def test_out_of_the_sandbox_with_four_eyes(desk: Desk) -> None:
    desk.say(AdmitPartner("bank", "n", "neu", state="applied"))
    desk.become("neu", "inspected", "sandbox")

    def live(approved_by: str, subject: str = "neu") -> str:
        return desk.say(SetPartnerState("bank", desk.key(), subject, "live", **WHO, approved_by=approved_by))

    assert [live(""), live("ops"), live("ops", "nobody"), live("", "nobody")] == [
        "field_invalid", "field_invalid", "field_invalid", "partner_unknown"
    ]  # fmt: skip
    asked = desk.give(SetPartnerState("bank", desk.key(), "neu", "live", **WHO, approved_by="second"))
    assert (said(asked), asked.changes) == (
        "applied", {"state": "live", "requested_by": "ops", "note": "why", "approved_by": "second"}
    )  # fmt: skip
    assert desk.become("neu", "suspended") == ["applied"]
    assert live("") == "applied"  # it was live before


def test_who_may_not_is_told_in_the_order_of_the_page(desk: Desk) -> None:
    ask = SetPartnerState("acme", "x", "nobody", "asleep")
    assert desk.say(ask) == "not_permitted"
    assert desk.say(replace(ask, partner_id="bank", idempotency_key="x2")) == "field_invalid"
    assert desk.say(replace(ask, partner_id="bank", idempotency_key="x3", **WHO)) == "state_unknown"
    assert desk.say(replace(ask, partner_id="bank", idempotency_key="x4", state="live", **WHO)) == "partner_unknown"


def test_what_a_suspended_partner_may_and_who_may_pay_it(desk: Desk) -> None:
    desk.move("acme:a", "acme/shop:s", 100, key="paid")
    assert desk.become("acme/shop", "suspended") == ["applied"]
    assert desk.move("acme/shop:s", "acme:a", partner="acme/shop") == "partner_suspended"
    assert desk.move("acme:a", "acme/shop:s") == "owner_state"
    assert said(desk.ask("refund", {}, 40, original="paid")) == "settled"
    assert desk.move("acme:a", "acme/shop:s", operation="hold") == "owner_state"
    assert said(desk.ask("teleport", {}, partner="acme/shop")) == "operation_unknown"
    assert said(desk.ask("transfer", {}, partner="acme/shop", reference="x" * 2_000)) == "partner_suspended"


def test_an_exiting_partner_transfers_and_holds_no_more(desk: Desk) -> None:
    desk.become("acme", "exiting")
    assert desk.move("acme:a", "bank:cash") == "settled"
    assert desk.move("acme:a", "bank:cash", operation="hold") == "partner_state"
    assert desk.become("acme", "exited") == ["partner_not_empty"]


# ---- accounts and fields ---------------------------------------------------------------------------------------------


def test_credit_goes_below_the_least(desk: Desk) -> None:
    limit = SetAccountLimit("bank", "l", "acme:b", None, credit_limit=5)
    assert desk.say(limit) == "field_invalid"
    assert desk.say(replace(limit, idempotency_key="l2", min_available=0, credit_limit=-1)) == "field_invalid"
    assert desk.say(replace(limit, idempotency_key="l3", min_available=-10, credit_limit=50)) == "applied"
    assert desk.move("acme:b", "acme:a", 61) == "insufficient_funds"
    assert desk.move("acme:b", "acme:a", 60) == "settled"
    opened = OpenAccount("acme", "o", "acme:x", "liability", "CNY", 0, credit_limit=1)
    assert desk.say(opened) == "not_permitted"
    assert desk.say(replace(opened, partner_id="bank", idempotency_key="o2")) == "applied"


def test_a_frozen_account_takes_nothing_but_adjustments(desk: Desk) -> None:
    assert desk.say(BlockAccount("acme", "f", "acme:b", False, False, freeze=True)) == "applied"
    assert desk.say(BlockAccount("acme", "f2", "acme:b", False, False)) == "not_permitted"
    assert desk.move("acme:a", "acme:b") == "account_frozen"
    legs = (Posting("bank:cash", "debit", 5), Posting("acme:b", "credit", 5))
    assert said(desk.ask("adjustment", {}, 0, partner="bank", postings=legs, note="n")) == "settled"
    assert desk.say(BlockAccount("bank", "f3", "acme:b", False, False)) == "applied"
    assert desk.move("acme:a", "acme:b") == "settled"


def test_roles_and_exponent(desk: Desk) -> None:
    two = {"payer": "acme:a", "payee": "acme:b"}
    assert said(desk.ask("transfer", {**two, "fees": "x"}, currency="XXX")) == "role_unknown"
    assert said(desk.ask("transfer", {"payer": "acme:a"}, currency="XXX")) == "role_missing"
    assert said(desk.ask("transfer", {"payer": "acme:a", "fees": "x"})) == "role_unknown"
    assert said(desk.ask("transfer", two, 0, exponent=3)) == "exponent_mismatch"
    assert said(desk.ask("transfer", two, exponent=2)) == "settled"
    assert said(desk.ask("transfer", two, rate="1")) == "field_invalid"
    assert said(desk.ask("transfer", two, amounts=(NamedAmount("tip", 1),))) == "field_invalid"


def test_whose_accounts(desk: Desk) -> None:
    assert desk.move("acme:a", "globex:g") == "settled"
    assert desk.move("globex:none", "acme:a") == "account_not_owned"
    assert desk.move("acme:a", "globex:none") == "account_unknown"
    assert desk.move("acme:a", "globex:none", operation="hold") == "account_not_owned"
    assert desk.move("acme:a", "acme:b", partner="acme/shop") == "account_not_owned"
    assert desk.move("acme:a", "bank:crossing:CNY") == "account_not_owned"
    assert desk.open("bank:crossing:CNY", "asset") == "account_not_owned"


# ---- exchange --------------------------------------------------------------------------------------------------------


def test_what_is_bought_is_rounded_half_up() -> None:
    assert bought(100, "CNY", "0.005", "USD") == 1
    assert bought(100, "CNY", "0.0049", "USD") == 0
    assert bought(1_000, "USD", "149.5", "JPY") == 1_495
    assert bought(1, "JPY", "1", "KWD") == 1_000


def test_an_exchange_posts_four_legs(desk: Desk) -> None:
    for account, currency in (("acme:usd", "USD"), ("bank:usd", "USD")):
        desk.open(account, currency=currency, least=None)
    roles = {"payer": "acme:a", "payee": "acme:usd", "sold": "bank:cash", "bought": "bank:usd"}
    e = desk.ask("exchange", roles, 700, rate="0.14", key="x")
    assert moved(e) == [
        ("acme:a", "debit", 700), ("bank:cash", "credit", 700), ("bank:usd", "debit", 98), ("acme:usd", "credit", 98)
    ]  # fmt: skip
    assert said(desk.ask("exchange", roles, 0, rate="none")) == "amount_not_positive"
    assert said(desk.ask("exchange", roles, 1, rate="0")) == "rate_invalid"
    assert said(desk.ask("exchange", roles, 1, rate="0.001")) == "rate_invalid"
    assert said(desk.ask("exchange", {**roles, "payee": "acme:b"}, 1, rate="1")) == "account_currency"
    assert said(desk.ask("exchange", {**roles, "sold": "acme:b"}, 1, rate="1")) == "account_not_owned"
    assert said(desk.ask("refund", {}, 1, original="x")) == "original_mismatch"
    assert said(desk.ask("reversal", {}, 0, original="x")) == "settled"


# ---- calendars, days, ticks ------------------------------------------------------------------------------------------


def test_business_days_in_local_time() -> None:
    shanghai = Calendar(
        SetCalendar("bank", "c", "bank", "Asia/Shanghai", (ZoneOffset(0, 480), ZoneOffset(T0, 540)), 96, (ClosedDay(20_003),))
    )  # fmt: skip
    sixteen = 20_000 * DAY_MS + 16 * 3_600_000
    assert shanghai.date(sixteen) == 20_001
    assert shanghai.date(20_000 * DAY_MS - 8 * 3_600_000) == 20_000
    assert shanghai.first_open(20_000) == 20_000  # a Friday
    assert shanghai.first_open(20_001) == 20_004  # after the weekend and a closed Monday
    assert shanghai.window("hour", 0) == 8
    assert Calendar(None).window("month", 31 * DAY_MS) == 1


def test_a_late_transaction_is_booked_to_the_open_day(desk: Desk) -> None:
    close = CloseDay("bank", "d", 20_000, **WHO)
    assert desk.say(replace(close, partner_id="acme", idempotency_key="d0")) == "not_permitted"
    assert desk.say(replace(close, day=20_001, idempotency_key="d1")) == "day_ahead"
    e = desk.give(close)
    assert (e.outcome, e.subject, e.changes) == (
        "applied", "2024-10-04", {"day": "2024-10-04", "next_day": "2024-10-05", **WHO}
    )  # fmt: skip
    assert desk.say(replace(close, idempotency_key="d2")) == "day_closed"
    late = desk.ask("transfer", {"payer": "acme:a", "payee": "acme:b"}, value_date=19_000)
    assert (late.value_date, late.changes) == (20_001, {"late_for": "2022-01-08"})
    assert desk.say(Tick("acme", "t")) == "not_permitted"
    assert desk.give(Tick("bank", "t")).changes == {}


# ---- limits ----------------------------------------------------------------------------------------------------------


def limit(desk: Desk, level: str, subject: str, *limits: Limit, by: str = "bank") -> str:
    return desk.say(SetLimit(by, desk.key(), level, subject, limits))


def test_limits_of_each_level_in_windows_that_pass(desk: Desk) -> None:
    assert limit(desk, "partner", "acme", Limit("minute", "CNY", 2, 100)) == "applied"
    assert [desk.move("acme:a", "acme:b", 50) for _ in range(3)] == ["settled", "settled", "limit_exceeded"]
    assert desk.move("acme:a", "acme:b", 101, at=desk.now + 60_000) == "limit_exceeded"
    assert desk.move("acme:a", "acme:b", 100) == "settled"
    assert limit(desk, "partner", "acme", Limit("day", "USD", None, 5)) == "applied"
    assert desk.move("acme:a", "acme:b", 1) == "limit_exceeded"
    assert desk.model.used == {}
    assert limit(desk, "partner", "acme") == "applied"
    assert limit(desk, "account", "acme:a", Limit("transaction", "CNY", None, 7)) == "applied"
    assert [desk.move("acme:a", "acme:b", n) for n in (8, 7)] == ["limit_exceeded", "settled"]


def test_only_the_bank_loosens_limits(desk: Desk) -> None:
    day, all_of = Limit("day", "CNY", None, 40), Limit("day", "", 9, None)
    assert limit(desk, "account", "acme:a", day, all_of) == "applied"
    looser = [(), (day,), (all_of,), (Limit("day", "CNY", None, 41), all_of), (Limit("day", "CNY", 1, None), all_of),
              (Limit("hour", "CNY", None, 40), all_of), (day, all_of, Limit("day", "USD", None, 1))]  # fmt: skip
    assert {limit(desk, "account", "acme:a", *new, by="acme") for new in looser} == {"not_permitted"}
    assert desk.move("acme:a", "acme:b", 41) == "limit_exceeded"
    assert limit(desk, "account", "acme:a", all_of, Limit("day", "CNY", 3, 39), by="acme") == "applied"
    assert limit(desk, "account", "acme:a", all_of, Limit("day", "CNY", None, 39), by="acme") == "not_permitted"
    assert limit(desk, "account", "acme:a") == "applied"


def test_who_may_set_which_limits(desk: Desk) -> None:
    one = Limit("day", "", 1, None)
    assert limit(desk, "partner", "acme", one, by="acme") == "not_permitted"
    assert limit(desk, "partner", "acme/shop", one, by="acme") == "applied"
    assert limit(desk, "account", "globex:g", one, by="acme") == "not_permitted"
    assert limit(desk, "product", "shop", one, by="acme") == "not_permitted"
    assert limit(desk, "product", "shop", one) == "product_unknown"
    assert limit(desk, "partner", "acme", one, one) == "field_invalid"
    assert limit(desk, "partner", "nobody", Limit("day", "XXX", 1, None)) == "currency_unknown"
    assert limit(desk, "partner", "nobody", one) == "partner_unknown"


def test_two_limits_of_one_window_share_a_row(desk: Desk) -> None:
    document = {**SHOP, "limits": [{"window": "day", "currency": "CNY", "amount_max": 100}]}
    assert desk.say(publishing(document, "p")) == "applied"
    assert limit(desk, "product", "shop", Limit("day", "CNY", 5, None)) == "applied"
    pay = {"payer": "acme:a", "to": "acme:b"}
    assert [said(desk.ask("pay", pay, 60, product="shop")) for _ in range(2)] == ["settled", "limit_exceeded"]
    assert desk.model.used == {("product", "acme shop"): [("day", "CNY", 20_000, 1, 60)]}


# ---- products --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(desk: Desk) -> Desk:
    assert desk.say(publishing(SHOP, "shop")) == "applied"
    return desk


def use(desk: Desk, operation: str, accounts: dict[str, str], amount: int = 0, **more: Any) -> Expected:
    return desk.ask(operation, accounts, amount, product="shop", **more)


def test_rounding() -> None:
    from fractions import Fraction

    half = Fraction(5, 2)
    assert [rounded(half, how) for how in ("half_up", "half_even", "down", "up")] == [3, 2, 2, 3]
    assert rounded(Fraction(7, 2), "half_even") == 4


def test_fees_open_their_account_and_come_back_with_a_refund(shop: Desk) -> None:
    e = use(shop, "pay", {"payer": "acme:a", "to": "acme:b"}, 1_000, key="p")
    assert moved(e) == [("acme:a", "debit", 1_000), ("acme:b", "credit", 994), ("bank:fees:CNY", "credit", 6)]
    assert e.opened == (("bank:fees:CNY", "income", "CNY", None, 0),)
    assert e.version == 1
    first = use(shop, "refund_all", {}, 990, original="p")
    assert moved(first) == [("acme:b", "debit", 990), ("acme:a", "credit", 990)]
    rest = use(shop, "refund_all", {}, 10, original="p")
    assert moved(rest) == [("acme:b", "debit", 4), ("bank:fees:CNY", "debit", 6), ("acme:a", "credit", 10)]
    assert said(use(shop, "refund_all", {}, 1, original="p")) == "refund_exceeds_payment"


def test_parts_named_equal_and_swept(shop: Desk) -> None:
    many = {"payer": "acme:a", "many.2": "acme:b", "many.10": "acme/shop:s", "many.1": "globex:g"}
    e = use(shop, "share", many, 101)
    assert moved(e)[1:] == [
        ("globex:g", "credit", 34), ("acme:b", "credit", 33), ("acme/shop:s", "credit", 33), ("bank:fees:CNY", "credit", 1)
    ]  # fmt: skip
    parts = (NamedAmount("many.1", 5), NamedAmount("many.10", 6), NamedAmount("many.2", 7))
    assert [n for _, _, n in moved(use(shop, "split", many, 20, amounts=parts))] == [20, 5, 7, 6, 2]
    assert said(use(shop, "split", many, 17, amounts=parts)) == "split_exceeds_amount"
    assert said(use(shop, "split", many, 20, amounts=parts[:2])) == "field_invalid"
    swept = use(shop, "sweep", {"own.1": "acme:b", "own.2": "acme/shop:s"})
    assert [n for _, _, n in moved(swept)] == [40, 39, 79]
    assert said(use(shop, "sweep", {"own.1": "acme:b"})) == "nothing_to_move"
    assert said(use(shop, "sweep", {"own.1": "acme:b", "own.2": "acme:b"})) == "field_invalid"


def test_the_shelf_says_what_there_is(shop: Desk) -> None:
    two = {"payer": "acme:a", "payee": "acme:b"}
    assert said(shop.ask("transfer", two, product="wallet")) == "product_unknown"
    assert said(shop.ask("transfer", two, product="shop")) == "operation_unknown"
    assert said(use(shop, "pay", {"payer": "acme:a", "to": "acme:b"}, 5, currency="EUR")) == "product_currency"
    assert said(use(shop, "only_bank", {"held": "acme:b"}, 5)) == "not_permitted"
    legs = (Posting("bank:cash", "debit", 5), Posting("acme:b", "credit", 5))
    assert said(use(shop, "free", {}, postings=legs)) == "account_not_owned"
    assert said(use(shop, "free", {}, postings=legs, partner="bank")) == "settled"
    assert shop.say(publishing(SHOP, "again")) == "product_version"
    later = publishing({**SHOP, "version": 2}, "later", effective_from=20_010)
    assert shop.say(later) == "applied"
    e = use(shop, "pay", {"payer": "acme:a", "to": "acme:b"}, 5, value_date=20_010)
    assert e.version == 2


def test_documents_that_may_not_be_published() -> None:
    assert fault(SHOP) == ""
    rest = {"role": "payee"}
    step = {"from": "payer", "amount": "amount", "to": [rest]}
    plain: dict[str, Any] = {
        "product": "p", "version": 1, "roles": {"payer": {"owner": "caller"}, "payee": {"owner": "any"}},
        "operations": {"pay": {"kind": "transfer", "steps": [step]}},
    }  # fmt: skip

    def of(**changes: Any) -> str:
        return fault({**plain, "operations": {"pay": {"kind": "transfer", "steps": [{**step, **changes}]}}})

    assert of() == ""
    assert of(to=[rest, rest]) == "template_unbalanced"
    assert of(to=[{**rest, "amount": "amount"}]) == "template_unbalanced"
    sixty = {"role": "payee", "amount": {"percent": "60"}}
    assert of(to=[sixty, sixty, rest]) == "template_unbalanced"
    assert of(**{"from": "payee"}) == "product_invalid"
    assert of(amount="balance") == ""
    assert of(amount={"fixed": {"CNY": 1}}) == "product_invalid"
    assert fault({**plain, "operations": {**plain["operations"], "give": {"kind": "capture"}}}) == "product_invalid"


# ---- between partitions ----------------------------------------------------------------------------------------------


def test_a_transaction_crosses_and_settles() -> None:
    home, there = Desk(2, HERE), Desk(2, THERE)
    cid = command_id(HERE, "x")
    start = home.ask("transfer", {"payer": "acme:a", "payee": "globex:a"}, 30, key="x")
    assert (start.outcome, start.legs) == ("applied", ())
    assert [(a, side, n) for _, a, side, n, *_ in start.pending] == [
        ("acme:a", "debit", 30), ("bank:crossing:CNY", "credit", 30)
    ]  # fmt: skip
    assert start.opened == (("bank:crossing:CNY", "asset", "CNY", None, 0),)
    (reserve,) = start.emits
    a, b = partition_of(HERE, 2), partition_of(THERE, 2)
    assert reserve.idempotency_key == f"reserve/{cid.hex()}/{a}/{b}/{home.offset}"
    taken = there.give(reserve)
    assert (taken.outcome, taken.changes) == (
        "applied", {"step": "reserve", "transaction": cid.hex(), "key": "x"}
    )  # fmt: skip
    (reserved,) = taken.emits
    decided = home.give(reserved)
    assert (decided.outcome, decided.binds_key, decided.command_id) == ("settled", False, cid)
    assert moved(decided) == [("acme:a", "debit", 30), ("bank:crossing:CNY", "credit", 30)]
    (commit,) = decided.emits
    done = there.give(commit)
    assert moved(done) == [("bank:crossing:CNY", "debit", 30), ("globex:a", "credit", 30)]
    assert not home.model.flights
    assert not there.model.flights
    assert home.say(reserved) == "crossing_unknown"
    assert there.say(commit) == "repeated"
    assert said(home.ask("refund", {}, 1, original="x")) == "original_mismatch"


def test_a_refusal_gives_all_back() -> None:
    home, there = Desk(2, HERE), Desk(2, THERE)
    start = home.ask("transfer", {"payer": "acme:a", "payee": "globex:none"}, 30, key="x")
    refused = there.give(start.emits[0])
    assert (said(refused), refused.subject) == ("account_unknown", "acme")
    answer = replace(refused.emits[0], detail={"account": "globex:none"})
    decided = home.give(answer)
    assert (said(decided), decided.emits, len(decided.pending)) == ("account_unknown", (), 2)
    assert home.model.available("acme:a") == 1_000
    assert not home.model.flights


def test_what_only_comes_in_does_not_count_against_what_goes_out() -> None:
    home = Desk(2, HERE)
    legs = (
        Posting("acme:a", "debit", 1_001), Posting("acme:a", "credit", 1), Posting("globex:a", "credit", 1_000)
    )  # fmt: skip
    assert said(home.ask("transfer", {}, 0, postings=legs)) == "insufficient_funds"


def test_steps_that_go_elsewhere_are_dead_letters() -> None:
    from schemas.codec import UndecodableError

    good = Crossing("bank", "k", "commit", bytes(16), 0, 1, "acme", "x", "", 0, "transfer", 20_000)
    Terms(2).refuse(good, 1)
    for wrong in (
        {"to_partition": 0},
        {"from_partition": 1},
        {"from_partition": 2},
        {"step": "hop"},
        {"partner_id": "acme"},
    ):
        with pytest.raises(UndecodableError):
            Terms(2).refuse(replace(good, **wrong), 1)
