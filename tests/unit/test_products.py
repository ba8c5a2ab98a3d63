"""What may be published: each rule of docs/products.md is broken once, and the refusal names its path and rule.

And which version settles: by its place in the log, by its first value date, and after a take-over as before.
"""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import msgspec
import pytest

from ledger import shelf
from ledger.days import iso_date
from ledger.product_sense import check
from ledger.products import WHOLE, compiled, percent_of
from ledger.reasons import Reason
from schemas.records import CloseDay, Limit, ProductState, PublishProduct, SetCalendar, SetLimit, ZoneOffset
from tests.ledger_world import CODEC, DAY, Ledger, account, admit, key, pay, small_bank

GOOD: dict[str, Any] = {
    "product": "shop", "version": 1, "title": "A shop", "currencies": ["CNY", "USD"],
    "roles": {
        "payer": {"owner": "caller"},
        "payee": {"owner": "tree"},
        "anyone": {"owner": "any"},
        "members": {"owner": "caller", "many": True},
        "own": {"owner": "caller", "account": "{caller}:pool:{currency}", "open": {"type": "liability", "min_available": -5, "credit_limit": 7}},
        "fees": {"owner": "bank", "account": "bank:fees:{root}:{currency}", "open": {"type": "income"}},
        "book": {"owner": "bank"},
        "sold": {"owner": "bank", "account": "bank:sold:{currency}"},
        "bought": {"owner": "bank", "account": "bank:bought:{currency}"},
    },
    "operations": {
        "pay": {"kind": "transfer", "amounts": ["tip"], "steps": [
            {"from": "payer", "amount": "amount", "to": [
                {"role": "anyone"},
                {"role": "fees", "amount": {"percent": "0.6", "of": "step", "rounding": "up", "min": {"CNY": 1, "USD": 0}, "max": {"CNY": 9, "USD": 9}}},
                {"role": "own", "amount": "tip"},
            ]},
            {"from": "payer", "amount": {"tiers": [{"up_to": {"CNY": 10, "USD": 10}, "fixed": {"CNY": 0, "USD": 0}}, {"percent": "1"}], "of": "amount"},
             "to": [{"role": "members", "amount": "equal"}]},
        ]},
        "lend": {"kind": "transfer", "callers": ["bank"], "steps": [
            {"from": "book", "amount": {"fixed": {"CNY": 1, "USD": 1}}, "to": [{"role": "anyone", "amount": "remaining"}]},
        ]},
        "zero": {"kind": "transfer", "callers": ["partner", "bank"], "steps": [{"from": "members", "amount": "to_zero", "to": [{"role": "own"}]}]},
        "hand": {"kind": "transfer", "steps": [
            {"from": "own", "amount": "balance", "to": [{"role": "members", "amount": "named"}, {"role": "payee", "amount": "balance"}, {"role": "payer"}]}]},
        "hold": {"kind": "hold"}, "take": {"kind": "capture"}, "drop": {"kind": "void"},
        "change": {"kind": "exchange"}, "free": {"kind": "entry"},
        "back": {"kind": "refund", "fees": "return"}, "undo": {"kind": "reversal", "callers": ["bank"]},
    },
    "limits": [{"window": "day", "currency": "CNY", "count_max": 3, "amount_max": 100}, {"window": "transaction", "currency": "USD", "amount_max": 1}, {"window": "hour", "count_max": 9}],
}  # fmt: skip

PAY, PERCENT, TIERS = (
    "operations.pay.steps[0]",
    "operations.pay.steps[0].to[1].amount",
    "operations.pay.steps[1].amount",
)
GONE = object()

# where it is changed | into what | path of the finding | a part of its rule
INVALID: list[tuple[str, Any, str, str]] = [
    ("colour", "red", "colour", "no such key"),
    ("version", GONE, "version", "is missing"),
    ("version", "1", "version", "a whole number"),
    ("version", True, "version", "a whole number"),
    ("version", 0, "version", "a whole number from 1"),
    ("version", 2**31, "version", "a whole number from 1 to 2147483647"),
    ("product", "Shop", "product", "a-z"),
    ("title", 5, "title", "a text"),
    ("currencies", "CNY", "currencies", "a list"),
    ("currencies", ["CNY", "XXX"], "currencies[1]", "ISO 4217"),
    ("currencies", ["CNY", "USD", "CNY"], "currencies", "nothing twice"),
    ("operations", {}, "operations", "at least one"),
    ("operations", [], "operations", "an object"),
    ("roles.Payer", {"owner": "caller"}, "roles.Payer", "a name is a-z"),
    ("roles.payer.owner", GONE, "roles.payer.owner", "is missing"),
    ("roles.payer.owner", "me", "roles.payer.owner", "one of caller"),
    ("roles.payer.many", "yes", "roles.payer.many", "true or false"),
    ("roles.own.many", True, "roles.own.many", "a fixed account is one"),
    ("roles.own.account", "bank:own", "roles.own.account", "begins with"),
    ("roles.own.account", "{caller}:{me}", "roles.own.account", "bank:, {caller}:"),
    ("roles.fees.account", "{caller}:fees", "roles.fees.account", "begins with bank:"),
    ("roles.fees.account", 7, "roles.fees.account", "bank:"),
    ("roles.fees.open.type", "cash", "roles.fees.open.type", "one of asset"),
    ("roles.own.open.credit_limit", -1, "roles.own.open.credit_limit", "a whole number from 0"),
    ("roles.own.open.min_available", GONE, "roles.own.open.credit_limit", "0 without min_available"),
    ("roles.own.open.min_available", 0.5, "roles.own.open.min_available", "a whole number"),
    ("roles.anyone.open", {"type": "liability"}, "roles.anyone.open", "only for owners"),
    ("operations.pay.kind", "payment", "operations.pay.kind", "one of transfer"),
    ("operations.pay.steps", GONE, "operations.pay.steps", "is missing"),
    ("operations.pay.steps", [], "operations.pay.steps", "1 to 50"),
    ("operations.hold.steps", [], "operations.hold.steps", "no such key"),
    ("operations.hold.fees", "keep", "operations.hold.fees", "no such key"),
    ("operations.back.fees", "share", "operations.back.fees", "one of keep, return"),
    ("operations.pay.callers", ["me"], "operations.pay.callers[0]", "one of partner, bank"),
    ("operations.pay.callers", ["bank", "bank"], "operations.pay.callers", "nothing twice"),
    ("operations.pay.amounts", ["step"], "operations.pay.amounts[0]", "none of"),
    ("operations.adjustment", {"kind": "hold"}, "operations.adjustment", "the bank's own"),
    (f"{PAY}.from", GONE, f"{PAY}.from", "is missing"),
    (f"{PAY}.from", 5, f"{PAY}.from", "the name of a role"),
    (f"{PAY}.amount", "half", f"{PAY}.amount", "one of amount, balance, to_zero, tip"),
    (f"{PAY}.amount", "remaining", f"{PAY}.amount", "one of amount"),
    (f"{PAY}.amount", {"percent": "1", "of": "step"}, f"{PAY}.amount.of", "one of amount, tip"),
    (f"{PAY}.amount", 100, f"{PAY}.amount", "one of"),
    (f"{PAY}.to", [], f"{PAY}.to", "1 to 20"),
    (f"{PAY}.to", [{"role": "anyone"}] * 21, f"{PAY}.to", "1 to 20"),
    (f"{PAY}.to[0].who", "me", f"{PAY}.to[0].who", "no such key"),
    (f"{PAY}.to[0].amount", "to_zero", f"{PAY}.to[0].amount", "one of amount, balance, remaining"),
    (f"{PERCENT}.percent", 0.6, f"{PERCENT}.percent", "as text"),
    (f"{PERCENT}.rounding", "away", f"{PERCENT}.rounding", "one of half_up"),
    (f"{PERCENT}.of", "all", f"{PERCENT}.of", "one of amount, step, tip"),
    (f"{PERCENT}.fixed", {"CNY": 1, "USD": 1}, f"{PERCENT}.percent", "no such key"),
    (f"{PERCENT}.min", {"CNY": -1, "USD": 0}, f"{PERCENT}.min.CNY", "a whole number from 0"),
    (f"{PERCENT}.min", 1, f"{PERCENT}.min", "by currency"),
    (f"{TIERS}.tiers", [], f"{TIERS}.tiers", "1 to 20"),
    (f"{TIERS}.tiers[1].up_to", {"CNY": 99, "USD": 99}, f"{TIERS}.tiers[1].up_to", "no such key"),
    (f"{TIERS}.tiers[0].up_to", GONE, f"{TIERS}.tiers[0].up_to", "is missing"),
    (f"{TIERS}.tiers[1].of", "amount", f"{TIERS}.tiers[1].of", "no such key"),
    ("limits", [{}], "limits[0].window", "is missing"),
    ("limits[0].count_max", "3", "limits[0].count_max", "a whole number"),
    ("roles", {f"r{i}": {"owner": "caller"} for i in range(51)}, "roles", "at most 50"),
    # roles
    ("roles.spare", {"owner": "caller"}, "roles.spare", "no operation uses this role"),
    (f"{PAY}.to[0].role", "nobody", f"{PAY}.to[0].role", "there is no role nobody"),
    (f"{PAY}.from", "nobody", f"{PAY}.from", "there is no role nobody"),
    ("roles.sold", GONE, "operations.change", "there is no role sold"),
    # several accounts
    ("roles.payee.many", True, "operations.hold", "is one account"),
    ("operations.zero.steps[0].amount", "amount", "operations.zero.steps[0].amount", "balance or to_zero"),
    ("operations.zero.steps[0].to[0].amount", {"percent": "5"}, "operations.zero.steps[0].to", "one target"),
    ("operations.pay.steps[1].to[0].amount", "remaining", "operations.pay.steps[1].to[0].amount", "members is credited only with equal or named"),
    (f"{PAY}.to[0].amount", "equal", f"{PAY}.to[0].amount", "anyone is one account"),
    # owners
    ("roles.payer.owner", "tree", f"{PAY}.from", "payer is debited"),
    ("roles.payer.owner", "any", f"{PAY}.from", "payer is debited"),
    ("roles.payee.owner", "any", "operations.hold", "the payee of a hold"),
    ("operations.zero.steps[0].to[0].role", "payee", "operations.zero.steps[0].to[0].role", "to_zero may debit it"),
    ("roles.sold", {"owner": "caller"}, "operations.change", "sold is an account of the bank"),
    ("operations.lend.callers", ["bank", "partner"], "operations.lend.steps[0].from", "partners may not choose"),
    # nobody can reach it
    ("operations.free.callers", [], "operations.free.callers", "nobody may call it"),
    ("operations.hold", GONE, "operations.take.kind", "needs an operation of kind hold"),
    # amounts
    (f"{PERCENT}.min", {"CNY": 1}, f"{PERCENT}.min.USD", "is missing"),
    (f"{PERCENT}.min", {"CNY": 1, "USD": 1, "JPY": 1}, f"{PERCENT}.min.JPY", "not a currency of the product"),
    ("currencies", [], f"{PERCENT}.min", "list them"),
    (f"{PERCENT}.min", {"CNY": 10, "USD": 0}, f"{PERCENT}.min.CNY", "not above max"),
    (f"{PERCENT}.percent", "-1", f"{PERCENT}.percent", "from 0 to 100"),
    (f"{PERCENT}.percent", "100.000001", f"{PERCENT}.percent", "from 0 to 100"),
    (f"{PERCENT}.percent", "0.0000001", f"{PERCENT}.percent", "at most 6 decimals"),
    (f"{PERCENT}.percent", "1e1", f"{PERCENT}.percent", "at most 6 decimals"),
    (f"{TIERS}.tiers[0]", [{"up_to": {"CNY": 10, "USD": 10}, "percent": "1"}, {"up_to": {"CNY": 11, "USD": 10}, "percent": "1"}], f"{TIERS}.tiers[1].up_to", "rises"),
    (f"{TIERS}.tiers[0].up_to", {"CNY": 10}, f"{TIERS}.tiers[0].up_to.USD", "is missing"),
    # limits
    ("limits[0].window", "year", "limits[0].window", "one of transaction"),
    ("limits[0].currency", "XXX", "limits[0].currency", "ISO 4217"),
    ("limits[2]", {"window": "hour"}, "limits[2]", "count_max or amount_max"),
    ("limits[1].count_max", 1, "limits[1].count_max", "not for one transaction"),
    ("limits[2].amount_max", 1, "limits[2].amount_max", "needs a currency"),
    ("limits[0].amount_max", -1, "limits[0].amount_max", "a whole number from 0"),
    ("limits[2]", {"window": "day", "currency": "CNY", "count_max": 1}, "limits[2]", "twice"),
]  # fmt: skip

UNBALANCED: list[tuple[str, Any, str, str]] = [
    (f"{PAY}.to[0].amount", {"percent": "1"}, f"{PAY}.to", "exactly one target takes what remains, not 0"),
    (f"{PAY}.to[2].amount", "remaining", f"{PAY}.to", "exactly one target takes what remains, not 2"),
    (f"{PAY}.to", [{"role": "anyone"}, {"role": "fees", "amount": {"percent": "60"}}, {"role": "own", "amount": {"percent": "40.000001"}}], f"{PAY}.to", "more than 100"),
]  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one value changed; a list in place of a tier stands for the tiers before the last."""
    document = deepcopy(GOOD)
    *above, last = path.replace("[", ".[").split(".")
    place: Any = document
    for part in above:
        place = place[int(part[1:-1])] if part.startswith("[") else place[part]
    name: Any = int(last[1:-1]) if last.startswith("[") else last
    if value is GONE:
        del place[name]
    elif isinstance(value, list) and isinstance(name, int):
        place[name : name + 1] = value
    else:
        place[name] = value
    return document


def publish(given: Any, **other: Any) -> PublishProduct:
    text = json.dumps(given, sort_keys=True, separators=(",", ":"))
    made = PublishProduct("bank", key(), "shop", 1, 0, text, "ann", "why")
    return msgspec.structs.replace(made, **other)


def test_the_good_one_is_published():
    assert check(GOOD) == []
    ledger = small_bank()
    record = ledger.one(publish(GOOD))
    assert (record.outcome, record.subject_id) == ("applied", "shop")
    assert set(record.changes) == {"version", "effective_from", "digest", "requested_by", "note"}
    assert record.changes["effective_from"] == ""


@pytest.mark.parametrize(("where", "value", "path", "rule"), INVALID, ids=[f"{w} {r}"[:70] for w, _, _, r in INVALID])
def test_a_document_that_breaks_a_rule_is_refused_with_path_and_rule(where, value, path, rule):
    _refused(changed(where, value), path, rule, Reason.PRODUCT_INVALID)


@pytest.mark.parametrize(("where", "value", "path", "rule"), UNBALANCED)
def test_a_step_that_cannot_balance_is_refused(where, value, path, rule):
    _refused(changed(where, value), path, rule, Reason.TEMPLATE_UNBALANCED)


@pytest.mark.parametrize("kind", ["refund", "reversal"])
def test_what_gives_back_needs_something_to_give_back(kind):
    document = {"product": "shop", "version": 1, "roles": {"payer": {"owner": "caller"}, "payee": {"owner": "tree"}},
                "operations": {"hold": {"kind": "hold"}, "back": {"kind": kind}}}  # fmt: skip
    _refused(document, "operations.back.kind", "needs an operation of kind", Reason.PRODUCT_INVALID)


def _refused(document: dict[str, Any], path: str, rule: str, reason: Reason) -> None:
    document = json.loads(json.dumps(document, sort_keys=True))
    findings = check(document)
    assert [f for f in findings if f.path == path and rule in f.rule and f.reason == reason], findings
    first = findings[0]
    if document.get("product") != "shop" or document.get("version") != 1:
        return  # the command would be refused before
    ledger = small_bank()
    before = ledger.snapshot()
    record = ledger.one(publish(document))
    assert (record.outcome, record.reason) == ("rejected", str(first.reason))
    assert (record.detail["path"], record.detail["rule"]) == (first.path, first.rule)
    assert ledger.snapshot() == before
    assert not ledger.base.shelf


@pytest.mark.parametrize(
    "junk", [None, 5, "text", [], {"product": []}, {"operations": None}, {"roles": 5, "operations": 5}]
)
def test_any_junk_is_a_finding_and_never_an_error(junk):
    assert check(junk)


def test_every_value_may_be_anything_and_the_answer_is_always_findings():
    """Each place of the document holds each kind of junk once."""

    def places(value: Any, path: str = "") -> Any:
        if isinstance(value, dict):
            for k, v in value.items():
                yield f"{path}.{k}".removeprefix(".")
                yield from places(v, f"{path}.{k}".removeprefix("."))
        elif isinstance(value, list):
            for i, v in enumerate(value):
                yield f"{path}[{i}]"
                yield from places(v, f"{path}[{i}]")

    junk: tuple[Any, ...] = (
        None,
        5,
        -1,
        2**70,
        1.5,
        True,
        "",
        "x",
        [],
        [None],
        {},
        {"x": None},
        [[]],
        {"tiers": 5},
        {"percent": None},
    )
    tried = 0
    for path in places(GOOD):
        for value in junk:
            document = changed(path, [value] if isinstance(value, list) and path.endswith("]") else value)
            for finding in check(document):
                assert isinstance(finding.path, str) and finding.rule
            tried += 1
    assert tried > 1_000


FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"partner_id": "acme"}, "not_permitted", "partner_id"),
    ({"product": "Shop"}, "field_invalid", "product"),
    ({"product": "s" * 65}, "field_invalid", "product"),
    ({"version": 0}, "field_invalid", "version"),
    ({"version": 2**31}, "field_invalid", "version"),
    ({"effective_from": -1}, "field_invalid", "effective_from"),
    ({"effective_from": 120_530}, "field_invalid", "effective_from"),
    ({"document": "{"}, "field_invalid", "document"),
    ({"document": "[" * 33 + "]" * 33}, "field_invalid", "document"),
    ({"document": "[" * 50_000}, "field_invalid", "document"),
    ({"document": '{"product":"shop","version":1,"title":NaN}'}, "field_invalid", "document"),
    ({"document": '{"product":"shop","version":1,"title":"\\ud800"}'}, "field_invalid", "document"),
    ({"document": "[]"}, "field_invalid", "document"),
    ({"document": " " * 100_001}, "field_invalid", "document"),
    ({"product": "other"}, "field_invalid", "document"),
    ({"version": 2}, "field_invalid", "document"),
]


@pytest.mark.parametrize(("fields", "reason", "field"), FIELDS)
def test_the_commands_own_fields(fields, reason, field):
    record = small_bank().one(publish(GOOD, **fields))
    assert (record.reason, record.detail["field"]) == (reason, field)


def plain(version: int, **operations: Any) -> dict[str, Any]:
    return {
        "product": "shop", "version": version, "roles": {"payer": {"owner": "caller"}, "payee": {"owner": "any"}},
        "operations": {"pay": {"kind": "transfer", "steps": [{"from": "payer", "amount": "amount", "to": [{"role": "payee"}]}]}, **operations},
    }  # fmt: skip


def test_versions_only_rise():
    ledger = small_bank()
    for version, outcome in ((3, ""), (2, "product_version"), (3, "product_version"), (4, "")):
        record = ledger.one(publish(plain(version), version=version))
        assert record.reason == outcome
        if outcome:
            assert record.detail["highest"] == "3"


def test_the_highest_version_that_is_in_force_on_the_value_date_settles():
    ledger = small_bank()

    def settled(day: int, operation: str = "pay") -> str:
        asked = pay("acme", "acme:w:alice", "acme:w:bob", 1, product="shop", operation=operation, value_date=day)
        record = ledger.one(asked)
        return record.reason or str(record.product_version)

    assert settled(DAY, "transfer") == "0"  # nothing is on the shelf
    ledger.one(publish(plain(1), effective_from=DAY + 5))
    ledger.one(publish(plain(2, later={"kind": "entry"}), version=2, effective_from=DAY + 10))
    assert [settled(DAY + n) for n in (4, 5, 9, 10, 99)] == ["product_unknown", "1", "1", "2", "2"]
    assert settled(DAY + 9, "later") == "operation_unknown"
    assert settled(DAY + 5, "transfer") == "operation_unknown"
    asked = pay("acme", "acme:w:alice", "acme:w:bob", 1, product="shop", operation="pay", value_date=DAY)
    assert ledger.one(asked).detail["effective_from"] == iso_date(DAY + 5)
    ledger.one(publish(plain(3), version=3))  # at once: for every date
    assert [settled(DAY + n) for n in (-1, 0, 99)] == ["3", "3", "3"]
    other = pay("acme", "acme:w:alice", "acme:w:bob", 1)
    assert ledger.one(other).reason == "product_unknown"  # wallet is not on the shelf
    unknown = pay("nobody", "acme:w:alice", "acme:w:bob", 1)
    assert ledger.one(unknown).reason == "partner_unknown"


NIGHT = (DAY + 1) * 86_400_000  # when today ends, UTC
EAST = SetCalendar("bank", "east", "bank", "Asia/Shanghai", (ZoneOffset(0, 480),))
UTC = SetCalendar("bank", "utc", "bank", "UTC", ())
CHANGED = SetCalendar(
    "bank", "changed", "bank", "Some/Where", (ZoneOffset(0, 60), ZoneOffset(NIGHT - 7_200_000 + 5, 240))
)

# The version of tomorrow (2) beside that of yesterday (1): the settlement calendar, and then at which moment (ms before
# midnight UTC) what is dated so many days from today settles under which version.
MIDNIGHTS: dict[str, list[tuple[Any, int, int, int]]] = {
    "midnight": [(None, -60_000, 0, 1), (None, -1, -30, 1), (None, -1, 1, 2), (None, 0, 0, 2), (None, 0, -30, 2), (None, 1, 0, 2)],
    "event time does not go back": [(None, 0, 0, 2), (None, -3_600_000, 0, 2), (None, -3_600_000, -30, 2)],
    "by the bank's clocks": [
        (EAST, -8 * 3_600_000 - 1, 0, 1), (None, -8 * 3_600_000, 0, 2), (None, -8 * 3_600_000, -9, 2), (UTC, -7 * 3_600_000, 0, 1),
        (None, -7 * 3_600_000, 1, 2), (None, -1, 0, 1), (None, 0, 0, 2),
    ],
    "clocks that change within the day": [(CHANGED, -7_200_000 + 4, 0, 1), (None, -7_200_000 + 5, 0, 2)],
}  # fmt: skip


@pytest.mark.parametrize("way", ["quick", "limited", "by the bank"])
@pytest.mark.parametrize("batches", ["one", "each"])
@pytest.mark.parametrize("name", MIDNIGHTS)
def test_nobody_gets_yesterdays_price_by_a_date_of_yesterday(name: str, batches: str, way: str) -> None:
    """Within one batch, in which what was found is kept, and with a new batch for each; on the way that asks little too."""
    document = plain(1)
    document["operations"]["pay"]["callers"] = ["partner", "bank"]
    ledger = small_bank()
    ledger.one(publish(document, effective_from=DAY - 40))
    ledger.one(publish(document | {"version": 2}, version=2, effective_from=DAY + 1))
    if way == "limited":
        ledger.one(SetLimit("bank", key(), "partner", "zeta", (Limit("day", "CNY", None, 1),)))
    by = "bank" if way == "by the bank" else "acme"
    commands: list[Any] = []
    times: list[int] = []
    wanted: list[int | str] = []
    for calendar, moment, ahead, version in MIDNIGHTS[name]:
        if calendar is not None:
            commands.append(calendar)
            times.append(NIGHT + moment)
            wanted.append("applied")
        commands.append(
            pay(by, "acme:w:alice", "acme:w:bob", 1, product="shop", operation="pay", value_date=DAY + ahead)
        )
        times.append(NIGHT + moment)
        wanted.append(version)
    if batches == "one":
        records = ledger.settle(*commands, times=times)
    else:
        records = [ledger.settle(c, times=[t])[0] for c, t in zip(commands, times, strict=True)]
    assert [r.product_version if r.outcome == "settled" else r.reason or r.outcome for r in records] == wanted


def test_a_date_of_a_closed_day_pays_todays_price_and_is_booked_late():
    ledger = small_bank()
    ledger.one(publish(plain(1), effective_from=DAY - 40))
    ledger.one(publish(plain(2), version=2, effective_from=DAY))
    ledger.one(CloseDay("bank", key(), DAY, "zhou", "day end"))
    asked = pay("acme", "acme:w:alice", "acme:w:bob", 1, product="shop", operation="pay", value_date=DAY - 30)
    record = ledger.one(asked)
    assert (record.product_version, record.value_date, record.changes["late_for"]) == (2, DAY + 1, iso_date(DAY - 30))


def test_an_adjustment_is_always_there():
    ledger = small_bank()
    ledger.one(publish(plain(1)))
    record = ledger.one(pay("bank", "", "", 0, accounts={}, operation="adjustment", note="why", postings=()))
    assert record.reason == "postings_count"


def test_a_version_counts_from_its_place_in_a_batch_on_and_not_before():
    ledger = small_bank()
    asked = [
        pay("acme", "acme:w:alice", "acme:w:bob", 1, product="shop", operation=o)
        for o in ("transfer", "pay", "pay", "transfer")
    ]
    records = ledger.settle(asked[0], asked[1], publish(plain(1)), asked[2], asked[3])
    assert [r.reason or r.product_version for r in records] == [0, "operation_unknown", 0, 1, "operation_unknown"]


def test_the_row_of_a_version_is_the_command():
    ledger = small_bank()
    ledger.one(publish(GOOD, effective_from=DAY))
    row = ledger.base.rows["d:shop:1"]
    assert isinstance(row, ProductState)
    assert CODEC.decode(CODEC.encode(row)) == row
    assert json.loads(row.document) == GOOD
    assert (row.product, row.version, row.effective_from, row.source_offset) == ("shop", 1, DAY, ledger.offset - 1)


def test_a_document_is_compiled_once():
    text = json.dumps(GOOD)
    assert compiled(text) is compiled(text)


def test_percentages_are_whole_numbers():
    assert [percent_of(p) for p in ("0", "0.6", "100", "0.000001", "33.333333")] == [0, 600_000, WHOLE, 1, 33_333_333]


def test_a_partner_that_may_not_open_accounts_gets_none_opened():
    document = plain(1, give={"kind": "transfer", "callers": ["bank"], "steps": [
        {"from": "book", "amount": "amount", "to": [{"role": "new"}]}]})  # fmt: skip
    document["roles"] |= {
        "book": {"owner": "bank"},
        "new": {"owner": "caller", "open": {"type": "liability", "min_available": 0}},
    }
    ledger = Ledger()
    ledger.settle(admit("acme"), account("bank:book", "asset", limit=None), publish(document))
    fields: dict[str, Any] = {"product": "shop", "operation": "give"}
    for owner, outcome in (("acme", "settled"), ("nobody", "account_unknown"), ("acme/unknown", "account_unknown")):
        asked = pay("bank", "", "", 5, accounts={"book": "bank:book", "new": f"{owner}:new"}, **fields)
        record = ledger.one(asked)
        assert (record.reason or record.outcome) == outcome
    bad_name = pay("bank", "", "", 5, accounts={"book": "bank:book", "new": "acme:no good"}, **fields)
    assert ledger.one(bad_name).reason == "account_unknown"


def test_how_deep_a_document_is():
    """Brackets in a text do not count, whatever is escaped in it."""
    deep = {'"[[[["': 0, "{}": 1, "[[1],[[2]]]": 3, '["\\"[["]': 1, '["\\\\",[1]]': 2, "]]]": 0}
    assert {text: shelf._depth(text) for text in deep} == deep
