"""What an outsider hands in: every rule of the contract has a bad line here, and says field and rule."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from clearline.contract import INPUTS, LINE_BYTES_MAX, ContractError, parse_line
from ledger.money import AMOUNT_MAX
from schemas.records import (
    COMMANDS,
    RECORDS,
    CloseDay,
    Crossing,
    Limit,
    NamedAmount,
    OpenAccount,
    Posting,
    PublishProduct,
    SetAccountLimit,
    SetCalendar,
    SetLimit,
    Tick,
    Transaction,
    ZoneOffset,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
TODAY = date(2026, 11, 22)
GOOD: dict[str, Any] = {
    "partner_id": "acme", "idempotency_key": "o-1001", "product": "wallet", "operation": "transfer",
    "amount": 12550, "currency": "CNY", "accounts": {"payer": "acme:wallet:alice", "payee": "acme:wallet:bob"},
    "value_date": "2026-11-22", "reference": "order 1001", "metadata": {"shop": "17"},
}  # fmt: skip
LEGS = [
    {"account_id": "acme:a", "side": "debit", "amount": 15},
    {"account_id": "acme:b", "side": "credit", "amount": 15},
]
ABSENT = object()


def read(document: Any, **changes: Any) -> Any:
    if isinstance(document, dict):
        document = {k: v for k, v in {**document, **changes}.items() if v is not ABSENT}
    return parse_line(json.dumps(document).encode(), TODAY)


def refused(document: Any, **changes: Any) -> list[tuple[str, str]]:
    with pytest.raises(ContractError) as caught:
        read(document, **changes)
    assert caught.value.exit_code == 2
    return [(e.field, e.rule) for e in caught.value.errors]


def test_a_line_becomes_a_transaction():
    assert read(GOOD) == Transaction(
        "acme", "o-1001", "wallet", "transfer", 12550, "CNY",
        {"payer": "acme:wallet:alice", "payee": "acme:wallet:bob"}, (), 20779, "order 1001", {"shop": "17"},
    )  # fmt: skip


def test_the_value_date_is_the_runs_day_when_none_is_given():
    assert read(GOOD, value_date=ABSENT).value_date == 20779


def test_postings_take_the_transactions_currency_unless_they_name_one():
    legs = [*LEGS, *({**leg, "currency": "JPY"} for leg in LEGS)]
    t = read(GOOD, amount=ABSENT, accounts=ABSENT, postings=legs)
    assert t.amount == 0
    assert t.postings[0] == Posting("acme:a", "debit", 15, "")
    assert t.postings[2] == Posting("acme:a", "debit", 15, "JPY")


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"partner_id": ABSENT}, "partner_id", "is missing"),
        ({"partner_id": "Acme"}, "partner_id", "path of names"),
        ({"partner_id": "acme//x"}, "partner_id", "path of names"),
        ({"partner_id": None}, "partner_id", "must be a text, not null"),
        ({"idempotency_key": ""}, "idempotency_key", "must not be empty"),
        ({"idempotency_key": "x" * 129}, "idempotency_key", "at most 128 characters, not 129"),
        ({"idempotency_key": "a\nb"}, "idempotency_key", "control characters"),
        ({"product": 7}, "product", "must be a text, not 7"),
        ({"ammount": 5}, "ammount", "is not a field of Transaction; did you mean amount?"),
        ({"amount": ABSENT}, "amount", "is missing"),
        ({"amount": None}, "amount", "is missing"),
        ({"amount": 1.0}, "amount", "not a float (1.0); CNY has 2 decimals, so 1.00 CNY is written 100"),
        ({"amount": 125.5}, "amount", "125.50 CNY is written 12550"),
        ({"amount": 125.5, "currency": "JPY"}, "amount", "JPY has 0 decimals"),
        ({"amount": 1e300}, "amount", "not a float"),
        ({"amount": "12550"}, "amount", "not a text"),
        ({"amount": True}, "amount", "not true or false"),
        ({"amount": [1]}, "amount", "must be a whole number"),
        ({"amount": 0}, "amount", "at least 1 minor unit, not 0"),
        ({"amount": -5}, "amount", "swap payer and payee"),
        ({"amount": AMOUNT_MAX + 1}, "amount", f"at most {AMOUNT_MAX}"),
        ({"amount": 10**40}, "amount", f"at most {AMOUNT_MAX}"),
        ({"currency": "cny"}, "currency", "capital letters: CNY"),
        ({"currency": "XXX"}, "currency", "not an active ISO 4217 currency code"),
        ({"currency": ABSENT}, "currency", "is missing"),
        ({"accounts": {"payer": "acme:a", "payee": "acme:a"}}, "accounts", "one account"),
        ({"accounts": {"payer": "alice", "payee": "acme:b"}}, "accounts.payer", "owner partner, colon"),
        ({"accounts": "acme:a"}, "accounts", "must be a JSON object"),
        ({"postings": LEGS}, "postings", "not both"),
        ({"postings": 5}, "postings", "must be a JSON array, not 5"),
        ({"value_date": "2026-02-30"}, "value_date", "not a day of the calendar"),
        ({"value_date": "22.11.2026"}, "value_date", "YYYY-MM-DD"),
        ({"value_date": "20261122"}, "value_date", "YYYY-MM-DD"),
        ({"value_date": 20779}, "value_date", "YYYY-MM-DD"),
        ({"value_date": "1969-12-31"}, "value_date", "from 1970-01-01 to 2299-12-31"),
        ({"value_date": "2300-01-01"}, "value_date", "from 1970-01-01 to 2299-12-31"),
        ({"reference": "x" * 1025}, "reference", "at most 1024"),
        ({"reference": "\ud800"}, "reference", "surrogate"),
        ({"metadata": {"shop": 17}}, "metadata.shop", "must be a text, not 17"),
        ({"metadata": {"": "x"}}, 'metadata.""', "must not be empty"),
        ({"metadata": {"k": "v" * 1025}}, "metadata.k", "at most 1024"),
        ({"metadata": {str(i): "" for i in range(65)}}, "metadata", "at most 64 entries"),
        ({"command": "OpenAcount"}, "command", "did you mean OpenAccount?"),
        ({"command": 5}, "command", "is not a command"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_rule(changes, field, rule):
    errors = refused(GOOD, **changes)
    assert len(errors) == 1
    assert errors[0][0] == field
    assert rule in errors[0][1]


@pytest.mark.parametrize(
    ("legs", "field", "rule"),
    [
        (LEGS[:1], "postings", "2 to 1000, not 1"),
        ([LEGS[0], {**LEGS[1], "amount": 14}], "postings", "in CNY: debits 0.15, credits 0.14"),
        ([LEGS[0], {**LEGS[1], "currency": "EUR"}], "postings", "do not balance"),
        ([LEGS[0], {**LEGS[1], "side": "credits"}], "postings[1].side", "'debit' or 'credit'"),
        ([LEGS[0], {**LEGS[1], "amount": 15.0}], "postings[1].amount", "a float"),
        ([LEGS[0], {**LEGS[1], "amout": 15}], "postings[1].amout", "a field of a posting; did you mean amount?"),
        ([LEGS[0], 3], "postings[1]", "must be a JSON object"),
        (LEGS * 501, "postings", "2 to 1000, not 1002"),
    ],
)
def test_a_wrong_posting_is_named_by_its_place(legs, field, rule):
    errors = refused(GOOD, amount=ABSENT, accounts=ABSENT, postings=legs)
    assert errors[0][0] == field
    assert rule in errors[0][1]


def test_every_wrong_field_of_a_line_is_told_at_once():
    assert [f for f, _ in refused(GOOD, amount=-1, currency="xxx", partner_id=ABSENT)] == [
        "partner_id", "amount", "currency",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b'{"partner_id": "acme"', "is not JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"\xff\xfe", "is not UTF-8 at byte 1"),
        (b'{"amount": NaN}', "NaN is not a number"),
        (b'{"amount": Infinity}', "Infinity is not a number"),
        (b'{"amount": 1, "amount": 2}', "given twice"),
        (b'{"amount": ' + b"9" * 5000 + b"}", "not JSON that we take"),
        (b"[" * 200_000, "nested too deeply"),
        (b" " * LINE_BYTES_MAX + b"{}", "the most is"),
    ],
    ids=lambda v: v[:12] if isinstance(v, bytes) else None,
)
def test_what_is_not_a_json_object_is_refused(line, rule):
    with pytest.raises(ContractError, match=rule):
        parse_line(line, TODAY)


def test_control_commands_come_from_the_bank_unless_they_name_a_partner():
    line = {
        "command": "OpenAccount",
        "idempotency_key": "k",
        "account_id": "acme:x",
        "type": "liability",
        "currency": "KWD",
    }
    assert read(line) == OpenAccount("bank", "k", "acme:x", "liability", "KWD", None)
    assert read(line, partner_id="acme", min_available=0).partner_id == "acme"
    assert refused(line, min_available=0.5)[0][0] == "min_available"
    assert refused(line, min_available=2**63)[0][0] == "min_available"
    assert refused(line, type="wallet")[0][0] == "type"


def test_a_limit_is_never_lifted_by_leaving_the_field_out():
    line = {"command": "SetAccountLimit", "idempotency_key": "k", "account_id": "acme:x"}
    assert refused(line) == [("min_available", "is missing")]
    assert read(line, min_available=None) == SetAccountLimit("bank", "k", "acme:x", None)


# Worked out from what is given: the zone's offsets; product and version stand in the document.
WORKED_OUT = {"SetCalendar": {"offsets"}, "PublishProduct": {"product", "version"}}


def test_every_command_has_its_input_with_the_same_fields():
    """But for those that only the platform's own roles write."""
    assert list(INPUTS) == [c.__name__ for c in COMMANDS if c not in (Tick, Crossing)]
    for name, model in INPUTS.items():
        command = RECORDS[name]
        fields = set(model.model_fields) - {"command"} | WORKED_OUT.get(name, set())
        assert fields == set(command.__struct_fields__)


def control(command: str, **fields: Any) -> dict[str, Any]:
    return {"command": command, "idempotency_key": "c-1", **fields}


def test_limits_become_a_command():
    limits = [{"window": "day", "currency": "CNY", "amount_max": 5}, {"window": "minute", "count_max": 0}]
    assert read(control("SetLimit", level="partner", subject_id="acme", limits=limits)) == SetLimit(
        "bank", "c-1", "partner", "acme", (Limit("day", "CNY", None, 5), Limit("minute", "", 0, None))
    )


@pytest.mark.parametrize(
    ("limit", "field", "rule"),
    [
        ({"window": "week", "count_max": 1}, "limits[0].window", "must be 'transaction'"),
        ({"window": "day"}, "limits[0]", "limits nothing"),
        ({"window": "transaction", "count_max": 1}, "limits[0].count_max", "one transaction is one"),
        ({"window": "day", "amount_max": 1}, "limits[0].currency", "is missing"),
        ({"window": "day", "currency": "CNY", "amount_max": -1}, "limits[0].amount_max", "between 0 and"),
        ({"window": "day", "currency": "XXX", "amount_max": 1}, "limits[0].currency", "not an active ISO 4217"),
    ],
)
def test_a_wrong_limit_is_named_by_its_place(limit, field, rule):
    found = refused(control("SetLimit", level="account", subject_id="acme:w", limits=[limit]))
    assert found[0][0] == field
    assert rule in found[0][1]


def test_a_window_and_currency_are_limited_once():
    limit = {"window": "day", "currency": "CNY", "amount_max": 1}
    found = refused(control("SetLimit", level="product", subject_id="wallet", limits=[limit, limit]))
    assert found == [("limits[1]", "this window and currency are limited above")]


def test_a_calendar_carries_what_the_clocks_of_its_zone_show():
    c = read(control("SetCalendar", subject_id="bank", zone="Europe/Berlin", closed_weekdays=["sunday", "saturday"],
                     closed_days=["2027-01-01", "2026-12-25"]))  # fmt: skip
    assert isinstance(c, SetCalendar)
    assert (c.closed_weekdays, [d.day for d in c.closed_days]) == (96, [20812, 20819])
    assert c.offsets[0] == ZoneOffset(0, 60)
    # The last Sundays of March and October 2026, 01:00 UTC.
    assert [o for o in c.offsets if 1_767_225_600_000 < o.from_ms < 1_798_761_600_000] == [
        ZoneOffset(1_774_746_000_000, 120), ZoneOffset(1_792_890_000_000, 60)
    ]  # fmt: skip
    assert len(c.offsets) <= 500
    assert read(control("SetCalendar", subject_id="acme", zone="Asia/Shanghai")).offsets == (ZoneOffset(0, 480),)


def test_a_zone_must_exist():
    assert refused(control("SetCalendar", subject_id="bank", zone="Mars/Olympus"))[0][0] == "zone"
    found = refused(control("SetCalendar", subject_id="bank", zone="UTC", closed_weekdays=["caturday"]))
    assert found[0][0] == "closed_weekdays[0]"


def test_a_day_is_closed_by_its_date():
    assert read(control("CloseDay", day="2026-11-22")) == CloseDay("bank", "c-1", 20779)


def test_a_product_is_published_as_canonical_json():
    document = {"version": 3, "product": "wallet", "title": "钱包"}
    assert read(control("PublishProduct", document=document, effective_from="2027-01-01")) == PublishProduct(
        "bank", "c-1", "wallet", 3, 20819, '{"product":"wallet","title":"钱包","version":3}'
    )
    assert refused(control("PublishProduct", document="wallet"))[0][0] == "document"


def test_a_partner_changes_its_state_only_with_who_and_why():
    found = refused(control("SetPartnerState", subject_id="acme", state="suspended"))
    assert {f for f, _ in found} == {"requested_by", "note"}
    assert (
        refused(control("SetPartnerState", subject_id="acme", state="gone", requested_by="x", note="y"))[0][0]
        == "state"
    )


def test_who_approves_is_another_person():
    known = {"subject_id": "acme", "state": "live", "requested_by": "zhou", "note": "all checks passed"}
    assert refused(control("SetPartnerState", **known, approved_by="zhou")) == [
        ("approved_by", "must be another person than requested_by")
    ]
    assert read(control("SetPartnerState", **known, approved_by="li")).approved_by == "li"
    assert read(control("SetPartnerState", **known)).approved_by == ""  # a suspended partner goes on without


def test_an_exchange_and_a_products_own_amounts():
    roles = {"payer": "acme:usd", "payee": "acme:cny", "sold": "bank:position:USD", "bought": "bank:position:CNY"}
    t = read(GOOD, operation="exchange", currency="USD", accounts=roles, rate="7.1234", exponent=2)
    assert (t.rate, t.exponent, t.amounts) == ("7.1234", 2, ())
    assert read(GOOD, operation="repay", amounts={"principal": 7, "interest": 3}).amounts == (
        NamedAmount("interest", 3), NamedAmount("principal", 7)
    )  # fmt: skip
    assert read(GOOD, operation="sweep", amount=ABSENT).amount == 0


@pytest.mark.parametrize("rate", ["0", "0.00", "-1", "1.", ".5", "1e3", "7,1", 7.1, "1" * 13, "0." + "1" * 13])
def test_a_rate_is_a_decimal_number_above_zero(rate):
    assert refused(GOOD, operation="exchange", rate=rate)[0][0] == "rate"


HOLD = {**GOOD, "operation": "hold", "expires_at": "2026-11-23T08:00:00+08:00"}
CAPTURE = {"partner_id": "acme", "idempotency_key": "c-1", "product": "wallet", "operation": "capture", "currency": "CNY",
           "original": "o-1001", "amount": 5, "final": True}  # fmt: skip


def test_a_hold_lapses_at_a_time_with_its_zone():
    t = read(HOLD)
    assert isinstance(t, Transaction)
    assert (t.operation, t.expires_at) == ("hold", 1_795_392_000_000)
    assert read(HOLD, expires_at="2026-11-23T00:00:00.250Z").expires_at == 1_795_392_000_250


def test_a_capture_points_at_its_hold():
    t = read(CAPTURE)
    assert isinstance(t, Transaction)
    assert (t.original, t.amount, t.final, t.accounts, t.postings) == ("o-1001", 5, True, {}, ())


@pytest.mark.parametrize(
    ("document", "changes", "field", "rule"),
    [
        (HOLD, {"expires_at": "2026-11-23"}, "expires_at", "YYYY-MM-DDTHH:MM:SSZ"),
        (HOLD, {"expires_at": "2026-11-23T00:00:00"}, "expires_at", "with its zone"),
        (HOLD, {"expires_at": "2026-02-30T00:00:00Z"}, "expires_at", "not a time of the calendar"),
        (HOLD, {"expires_at": 1795392000000}, "expires_at", "must be a time"),
        (HOLD, {"original": "x"}, "original", "not used by hold"),
        (CAPTURE, {"original": ABSENT}, "original", "capture needs it"),
        (CAPTURE, {"amount": ABSENT}, "amount", "capture needs it"),
        (CAPTURE, {"accounts": GOOD["accounts"]}, "accounts", "not used by capture"),
        (CAPTURE, {"operation": "void", "amount": ABSENT}, "final", "not used by void"),
        (CAPTURE, {"operation": "reversal", "final": ABSENT}, "amount", "not used by reversal"),
        (GOOD, {"note": "why"}, "note", "not used by transfer"),
        (GOOD, {"operation": "adjustment", "note": "why"}, "postings", "adjustment needs it"),
    ],
)  # fmt: skip
def test_an_operation_is_told_what_it_needs_and_does_not_use(document, changes, field, rule):
    errors = refused(document, **changes)
    assert errors[0][0] == field
    assert rule in errors[0][1]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.jsonl")), ids=lambda p: p.name)
def test_the_examples_of_the_documents_are_commands(path):
    lines = path.read_bytes().splitlines()
    assert lines
    for line in lines:
        parse_line(line, TODAY)


@pytest.mark.parametrize("accounts", [{}, {"payer": "acme:a"}, {"account": "acme:a", "parts.1": "acme:b"}])
@pytest.mark.parametrize("operation", ["transfer", "hold"])
def test_which_roles_there_are_is_the_products_to_say(operation, accounts):
    """A product may have other roles than payer and payee, and fixed accounts for them, under any name."""
    document = {k: v for k, v in GOOD.items() if k not in ("operation", "accounts")}
    line = json.dumps(document | {"operation": operation, "accounts": accounts}).encode()
    command = parse_line(line, TODAY)
    assert isinstance(command, Transaction)
    assert (command.operation, command.accounts) == (operation, accounts)
