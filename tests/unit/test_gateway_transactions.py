"""Asking for transactions over HTTP: what is taken, what is refused and how, batches, and what is done about one."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearline.gateway.routes.transactions import BATCH_MAX
from schemas.identity import command_id
from tests.gateway import Gate, in_loop, keyed, pay, send

ID = command_id("acme", "k").hex()


def rules(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return {e["field"]: e["rule"] for e in answer.json()["errors"]}


@in_loop
async def test_one_transaction_and_its_document():
    gate = Gate()
    async with gate.client() as client:
        answer = await client.post("/v1/transactions", json=pay(12_550, reference="order 1001"), headers=keyed("k"))
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/v1/transactions/{ID}"
        assert answer.headers["preference-applied"] == "wait=5"
        record = gate.ledger.outcomes_of("acme", "k")[0]
        assert answer.json() == {
            "id": ID, "partner_id": "acme", "idempotency_key": "k", "status": "settled", "product": "wallet",
            "product_version": 1, "operation": "transfer", "amount": 12_550, "currency": "CNY",
            "value_date": "2026-11-22", "reference": "order 1001",
            "booked_at": f"2026-11-22T09:00:00.{record.booked_at % 1000:03d}Z",
            "position": {
                "partition": record.source_partition, "offset": record.source_offset, "sequence": record.sequence,
            },
            "reason": None,
            "links": {"self": f"/v1/transactions/{ID}", "explain": f"/v1/transactions/{ID}/explain"},
        }  # fmt: skip


@in_loop
async def test_without_a_preference_it_is_202_with_where_to_look():
    gate = Gate()
    async with gate.client() as client:
        answer = await client.post("/v1/transactions", json=pay(), headers=keyed("k", None))
        assert (answer.status_code, answer.json()["status"]) == (202, "pending")
        assert "preference-applied" not in answer.headers
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["position"]["sequence"] is None
        found = await client.get(answer.headers["location"])
        assert (found.status_code, found.json()["status"]) == (200, "settled")


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait=1", "wait=1"), ("respond-async, wait=2", "wait=2"), ("wait=9999999", "wait=30"), ('wait="3"', "wait=3"),
        ("WAIT = 4", "wait=4"), ("wait=5; x=y", "wait=5"), ("return=minimal", None),
    ],
)  # fmt: skip
def test_preferences_that_are_read(prefer, applied):
    @in_loop
    async def run():
        async with Gate().client() as client:
            answer = await client.post("/v1/transactions", json=pay(), headers={**keyed("k", None), "Prefer": prefer})
            assert answer.headers.get("preference-applied") == applied
            assert answer.status_code == (201 if applied else 202)

    run()


@pytest.mark.parametrize("prefer", ["wait", "wait=", "wait=-1", "wait=1.5", "wait=x", "wait=٣"])
def test_preferences_that_are_refused(prefer):
    @in_loop
    async def run():
        gate = Gate()
        async with gate.client() as client:
            headers = [(b"idempotency-key", b"k"), (b"prefer", prefer.encode())]
            answer = await client.post("/v1/transactions", json=pay(), headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (400, "prefer_invalid")
        assert not gate.records("k")

    run()


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "idempotency_key_missing"), ("", "idempotency_key_invalid"), ("x" * 129, "idempotency_key_invalid"),
        ("a\tb", "idempotency_key_invalid"), ("\xff", "idempotency_key_invalid"),
    ],
)  # fmt: skip
def test_keys_that_are_refused(key, code):
    @in_loop
    async def run():
        async with Gate().client() as client:
            headers = [(b"idempotency-key", key.encode("latin-1"))] if key is not None else []
            answer = await client.post("/v1/transactions", json=pay(), headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (400, code)

    run()


@in_loop
async def test_a_key_beyond_ascii_is_the_ledgers():
    gate = Gate()
    async with gate.client() as client:
        headers = [(b"idempotency-key", "订单-1".encode()), (b"prefer", b"wait=5")]
        answer = await client.post("/v1/transactions", json=pay(), headers=headers)
        assert (answer.status_code, answer.json()["idempotency_key"]) == (201, "订单-1")
    assert gate.records("订单-1") == ["settled"]


@in_loop
async def test_fields_that_are_not_the_callers_are_refused_with_why():
    gate = Gate()
    async with gate.client() as client:
        own = {"partner_id": "acme", "idempotency_key": "x", "command": "OpenAccount"}
        answer = await client.post("/v1/transactions", json={**pay(), **own}, headers=keyed("k"))
        found = rules(answer)
        assert "credential" in found["partner_id"]
        assert "Idempotency-Key" in found["idempotency_key"]
        assert "path" in found["command"]
    assert not gate.records("k")


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"amount": 1.5}, "amount", "CNY has 2 decimals, so 1.50 CNY is written 150"),
        ({"amount": 100.0}, "amount", "a float"),
        ({"amount": "100"}, "amount", "a text"),
        ({"amount": 0}, "amount", "at least 1"),
        ({"amount": 2**63}, "amount", "at most"),
        ({"currency": "cny"}, "currency", "capital letters"),
        ({"operation": None}, "operation", "must be a text"),
        ({"accounts": {"payer": "nobody", "payee": "acme:w:b"}}, "accounts.payer", "owner partner, colon"),
        ({"value_date": "22.11.2026"}, "value_date", "YYYY-MM-DD"),
        ({"amonut": 1}, "amonut", "did you mean amount?"),
        ({"colour": "red"}, "colour", "known are product, operation, amount"),
        ({"metadata": {"a": 1}}, "metadata.a", "must be a text"),
        ({"reference": "x" * 5000}, "reference", "at most"),
    ],
)
def test_the_contract_names_field_and_rule(change, field, rule):
    @in_loop
    async def run():
        gate = Gate()
        async with gate.client() as client:
            found = rules(await client.post("/v1/transactions", json=pay() | change, headers=keyed("k")))
            assert rule in found[field]
            assert "partner_id" not in str(found) and "idempotency_key" not in str(found)
        assert not gate.records("k")

    run()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "body_invalid"), (b"{", 400, "body_invalid"), (b"[]", 400, "body_invalid"), (b"1", 400, "body_invalid"),
        (b"\xff{}", 400, "body_invalid"), (b'{"amount": NaN}', 400, "body_invalid"), (b"[" * 100_000, 400, "body_invalid"),
        (b'{"amount": ' + b"9" * 5_000 + b"}", 400, "body_invalid"),
        (b'{"amount": 1, "amount": 2}', 422, "field_invalid"), (b"{}", 422, "field_invalid"),
        (b"{" + b" " * 300_000 + b"}", 413, "body_too_large"),
    ],
    ids=["none", "half", "array", "number", "not UTF-8", "NaN", "deep", "huge number", "twice", "empty", "large"],
)  # fmt: skip
def test_bodies_that_are_no_transaction(body, status, code):
    @in_loop
    async def run():
        async with Gate().client() as client:
            headers = {**keyed("k"), "Content-Type": "application/json"}
            answer = await client.post("/v1/transactions", content=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (status, code)

    run()


@pytest.mark.parametrize(
    ("media", "status"),
    [
        ("application/json", 201), ("application/json; charset=utf-8", 201), ('Application/JSON;charset="UTF-8"', 201),
        ("text/plain", 415), ("application/json; charset=latin-1", 415), ("application/jsonx", 415),
        ("application/x-www-form-urlencoded", 415), ("", 415),
    ],
)  # fmt: skip
def test_only_json_is_taken(media, status):
    @in_loop
    async def run():
        async with Gate().client() as client:
            headers = {**keyed("k"), "Content-Type": media}
            answer = await client.post("/v1/transactions", content=json.dumps(pay()), headers=headers)
            assert answer.status_code == status

    run()


@in_loop
async def test_a_command_that_no_worker_would_take_is_refused_before_it_is_published():
    gate = Gate(body_bytes_max=2_000_000)
    leg = {"account_id": "acme:" + "w" * 120 + ":a", "amount": 1}
    postings = [leg | {"side": "debit"}, leg | {"side": "credit"}] * 500
    body = {"product": "wallet", "operation": "entry", "currency": "CNY", "postings": postings}
    metadata = {f"k{i}": "x" * 1_000 for i in range(20)}
    async with gate.client() as client:
        fits = await client.post("/v1/transactions", json=body, headers=keyed("fits"))
        assert fits.status_code == 422 and fits.json()["code"] != "body_too_large"
        size = gate.parts.message_bytes_max
        gate.parts.message_bytes_max = 150_000
        large = await client.post("/v1/transactions", json=body | {"metadata": metadata}, headers=keyed("k"))
        assert (large.status_code, large.json()["code"]) == (413, "body_too_large")
        assert size > 150_000
    assert not gate.records("k") and not gate.ledger.dead


@in_loop
async def test_scopes_are_of_product_and_operation():
    gate = Gate()
    async with gate.client("acme", "transact:wallet:transfer") as client:
        assert (await client.post("/v1/transactions", json=pay(), headers=keyed("k"))).status_code == 201
        for body in (send(), pay(product="payment")):
            answer = await client.post("/v1/transactions", json=body, headers=keyed("other"))
            assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
            assert answer.json()["scope"] == f"transact:{body['product']}:{body['operation']}"
        assert (await client.get(f"/v1/transactions/{ID}")).json()["scope"] == "read"
    assert not gate.records("other")


@in_loop
async def test_an_aggregator_asks_in_the_name_of_a_partner_below_it():
    gate = Gate()
    accounts = {"payer": "acme/shop:w:till", "payee": "acme:w:a"}
    async with gate.client() as client:
        named = {**keyed("k"), "Clearline-Partner": "acme/shop"}
        answer = await client.post("/v1/transactions", json=pay(accounts=accounts), headers=named)
        assert (answer.status_code, answer.json()["partner_id"]) == (201, "acme/shop")
        assert (await client.get(answer.headers["location"])).status_code == 200
        for name in ("zeta", "bank", "acme/shopping/..", "acme2"):
            refused = {**keyed("x"), "Clearline-Partner": name}
            answer = await client.post("/v1/transactions", json=pay(), headers=refused)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    async with gate.client("zeta") as other, gate.client("acme/shop") as below:
        location = f"/v1/transactions/{command_id('acme/shop', 'k').hex()}"
        assert (await below.get(location)).status_code == 200
        assert (await other.get(location)).status_code == 404
        above = await client_post(gate, "acme", pay(), "above")
        assert (await below.get(above.headers["location"])).status_code == 404


async def client_post(gate: Gate, partner_id: str, body: dict[str, Any], key: str) -> httpx.Response:
    async with gate.client(partner_id) as client:
        return await client.post("/v1/transactions", json=body, headers=keyed(key))


@pytest.mark.parametrize("id_", ["x", "0" * 32, ID.upper(), ID[:-1], ID + "0", "..", "%00"])
def test_an_id_that_is_none_of_his_is_not_found(id_):
    @in_loop
    async def run():
        gate = Gate()
        assert (await client_post(gate, "acme", pay(), "k")).status_code == 201
        async with gate.client() as client:
            answer = await client.get(f"/v1/transactions/{id_}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")

    run()


@in_loop
async def test_what_the_bank_asked_for_is_nobodys():
    gate = Gate()
    record = next(r for r in gate.ledger.journal if r.partner_id == "bank" and r.outcome == "settled")
    async with gate.client() as client:
        assert (await client.get(f"/v1/transactions/{record.command_id.hex()}")).status_code == 404


# ---- batches ---------------------------------------------------------------------------------------------------------


@in_loop
async def test_each_of_a_batch_is_answered_as_its_own_post_would_be():
    gate = Gate()
    async with gate.client() as client:
        items: list[Any] = [
            pay(1), pay(10**9), send(2), pay(1.5), pay(3, idempotency_key="own"), pay(partner_id="zeta"), "nothing",
            pay(product="payment"), pay(4, idempotency_key=7), pay(5, idempotency_key=""),
        ]  # fmt: skip
        answer = await client.post("/v1/transactions:batch", json={"transactions": items}, headers=keyed("b"))
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert [r["status"] for r in results] == [201, 422, 201, 422, 201, 422, 422, 422, 422, 422]
        assert [r["body"].get("code") for r in results] == [
            None, "insufficient_funds", None, "field_invalid", None, "field_invalid", "field_invalid",
            "product_unknown", "field_invalid", "field_invalid",
        ]  # fmt: skip
        assert not any(r["replayed"] for r in results)
        for i, key in ((0, "b/0"), (1, "b/1"), (2, "b/2"), (4, "own")):
            body = {k: v for k, v in items[i].items() if k != "idempotency_key"}
            alone = await client.post("/v1/transactions", json=body, headers=keyed(key))
            assert (alone.status_code, alone.json()) == (results[i]["status"], results[i]["body"])
            assert alone.headers["idempotent-replayed"] == "true"
        again = await client.post("/v1/transactions:batch", json={"transactions": items[:3]}, headers=keyed("b"))
        assert [r["body"] for r in again.json()["results"]] == [r["body"] for r in results[:3]]
        assert all(r["replayed"] for r in again.json()["results"])
    assert gate.available("acme:w:b") == 1_000_004


@pytest.mark.parametrize("wait", [None, 5])
def test_one_key_twice_in_a_batch_is_two_calls(wait):
    @in_loop
    async def run():
        gate = Gate()
        one = pay(1, idempotency_key="one")
        body = {"transactions": [one, one, one | {"amount": 2}, pay(7), one]}
        async with gate.client() as client:
            answer = await client.post("/v1/transactions:batch", json=body, headers=keyed("b", wait))
            results = answer.json()["results"]
            # Also where nobody wanted to wait: what the ledger takes of two payloads under one key only it can say.
            assert [r["status"] for r in results] == [201, 201, 422, 201, 201]
            assert [r["replayed"] for r in results] == [False, True, False, False, True]
            assert results[2]["body"]["code"] == "idempotency_conflict"
            assert results[0]["body"] == results[1]["body"] == results[4]["body"]
        assert gate.records("one") == ["settled", "rejected"]
        assert gate.available("acme:w:b") == 1_000_008

    run()


@in_loop
async def test_a_batch_is_settled_in_its_order():
    gate = Gate()
    chain = [
        pay(1_000_000), pay(2_000_000, accounts={"payer": "acme:w:b", "payee": "acme:w:a"}),
        {"product": "wallet", "operation": "refund", "amount": 5, "currency": "CNY", "original": "b/1"},
    ]  # fmt: skip
    async with gate.client() as client:
        answer = await client.post("/v1/transactions:batch", json={"transactions": chain}, headers=keyed("b"))
        assert [r["status"] for r in answer.json()["results"]] == [201, 201, 201]


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ({}, "is missing"), ({"transactions": []}, "1 to 1000, not 0"), ({"transactions": {}}, "a JSON array"),
        ({"transactions": [{}] * (BATCH_MAX + 1)}, "1 to 1000, not 1001"),
    ],
)  # fmt: skip
def test_a_batch_that_is_none(body, rule):
    @in_loop
    async def run():
        async with Gate().client() as client:
            answer = await client.post("/v1/transactions:batch", json=body, headers=keyed("b"))
            assert rule in rules(answer)["transactions"]

    run()


@in_loop
async def test_a_batch_costs_as_many_calls_as_it_has():
    gate = Gate()
    async with gate.client() as client:
        before = (await client.get(f"/v1/transactions/{ID}")).headers["ratelimit"]
        body = {"transactions": [pay(1)] * 1_000}
        answer = await client.post("/v1/transactions:batch", json=body, headers=keyed("b"))
        assert {r["status"] for r in answer.json()["results"]} == {201}
        after = answer.headers["ratelimit"]
        assert day_left(before) - day_left(after) == 1_000
        long = await client.post(
            "/v1/transactions:batch", json={"transactions": [pay(1)] * 2}, headers=keyed("k" * 127)
        )
        assert [r["body"].get("code") for r in long.json()["results"]] == ["idempotency_key_invalid"] * 2


def day_left(header: str) -> int:
    return int(header.split('"day";r=')[1].split(";")[0])


@in_loop
async def test_when_the_broker_is_away_each_of_a_batch_says_so():
    gate = Gate()
    gate.ledger.down = True
    async with gate.client() as client:
        answer = await client.post("/v1/transactions:batch", json={"transactions": [pay(1)] * 3}, headers=keyed("b"))
        assert [(r["status"], r["body"]["code"]) for r in answer.json()["results"]] == [(503, "unavailable")] * 3


# ---- what is done about one ------------------------------------------------------------------------------------------


def hold(amount: int = 1_000) -> dict[str, Any]:
    return pay(amount, operation="hold")


@in_loop
async def test_a_hold_is_captured_in_parts_and_given_up():
    gate = Gate()
    async with gate.client() as client:
        held = await client.post("/v1/transactions", json=hold(), headers=keyed("k"))
        path = held.headers["location"]
        for forget in (lambda: None, gate.other_gateway):
            forget()
            part = await client.post(f"{path}/capture", json={"amount": 300}, headers=keyed("c1"))
            assert part.status_code == 201, part.text
            assert (part.json()["operation"], part.json()["amount"], part.json()["product"]) == (
                "capture",
                300,
                "wallet",
            )
        rest = await client.post(f"{path}/void", headers=keyed("v"))
        assert (rest.status_code, rest.json()["operation"], rest.json()["amount"]) == (201, "void", None)
        late = await client.post(f"{path}/capture", json={"amount": 1, "final": True}, headers=keyed("c2"))
        assert (late.status_code, late.json()["code"]) == (422, "hold_closed")
    assert gate.available("acme:w:b") == 1_000_300
    assert gate.available("acme:w:a") == 999_700


@in_loop
async def test_a_payment_is_refunded_and_reversed():
    gate = Gate()
    async with gate.client() as client:
        paid = await client.post("/v1/transactions", json=pay(1_000), headers=keyed("k"))
        path = paid.headers["location"]
        back = await client.post(
            f"{path}/refund", json={"amount": 400, "reference": "r", "metadata": {"a": "b"}}, headers=keyed("r")
        )
        assert (back.status_code, back.json()["reference"]) == (201, "r")
        much = await client.post(f"{path}/refund", json={"amount": 700}, headers=keyed("r2"))
        assert (much.json()["code"], much.json()["reason_detail"]["remaining"]) == ("refund_exceeds_payment", "600")
        other = await client.post("/v1/transactions", json=pay(50), headers=keyed("o"))
        whole = await client.post(f"{other.headers['location']}/reversal", json={}, headers=keyed("rev"))
        assert (whole.status_code, whole.json()["operation"]) == (201, "reversal")
        assert (await client.post(f"{path}/capture", json={"amount": 1}, headers=keyed("c"))).json()["code"] == (
            "original_mismatch"
        )
    assert gate.available("acme:w:b") == 1_000_600


@in_loop
async def test_what_is_done_about_one_needs_its_partner_and_its_fields():
    gate = Gate()
    gate.ledger.open("acme/shop:w:b")
    till = {"payer": "acme/shop:w:till", "payee": "acme/shop:w:b"}
    async with gate.client() as client, gate.client("zeta") as other, gate.client("acme/shop") as below:
        paid = await below.post("/v1/transactions", json=pay(accounts=till), headers=keyed("k"))
        path = f"{paid.headers['location']}/refund"
        assert (await other.post(path, json={"amount": 1}, headers=keyed("r"))).status_code == 404
        answer = await client.post(path, json={"amount": 1}, headers=keyed("r"))
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert "Clearline-Partner" in answer.json()["detail"]
        named = {**keyed("r"), "Clearline-Partner": "acme/shop"}
        assert (await client.post(path, json={"amount": 1}, headers=named)).status_code == 201
        assert "is missing" in rules(await below.post(path, json={}, headers=keyed("x")))["amount"]
        for field in ("product", "currency", "original", "accounts"):
            body = {"amount": 1, field: "x"}
            assert "not a field here" in rules(await below.post(path, json=body, headers=keyed("x")))[field]
        assert "credential" in rules(await below.post(path, json={"partner_id": "x"}, headers=keyed("x")))["partner_id"]
        missing = await below.post(f"/v1/transactions/{'0' * 32}/void", headers=keyed("x"))
        assert missing.status_code == 404
        void = await below.post(path.replace("refund", "void"), json={"amount": 1}, headers=keyed("x"))
        assert rules(void)["amount"]


# ---- whatever comes --------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    ["product", "operation", "amount", "currency", "accounts", "postings", "value_date", "reference", "metadata",
     "original", "final", "expires_at", "note", "amounts", "rate", "exponent", "partner_id", "transactions"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from(["wallet", "transfer", "send", "hold", "CNY", "acme:w:a", "2026-11-22", "2026-11-22T09:00:00Z"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def shared() -> Gate:
    return Gate()


@settings(max_examples=150)
@given(
    change=st.dictionaries(NAMES | st.text(), VALUES, max_size=4), body=VALUES, whole=st.booleans(),
    path=st.sampled_from(["/v1/transactions", "/v1/transactions:batch", f"/v1/transactions/{ID}/refund"]),
)  # fmt: skip
def test_no_body_makes_us_fail(shared, change, body, whole, path):
    document = body if whole else {"transactions": [pay() | change, change]} if "batch" in path else pay() | change

    @in_loop
    async def run():
        async with shared.client() as client:
            content = json.dumps(document).encode()
            headers = {**keyed(shared.ledger.key(), 1), "Content-Type": "application/json"}
            answer = await client.post(path, content=content, headers=headers)
            assert answer.status_code < 500, answer.text
            for result in answer.json().get("results", []) if isinstance(answer.json(), dict) else []:
                assert result["status"] < 500, result

    run()
    assert not shared.ledger.dead


@in_loop
async def test_what_nobody_expected_says_nothing_of_itself():
    gate = Gate()

    async def broken(*_: object) -> None:
        raise RuntimeError("the password is hunter2")

    gate.ledger.call_many = broken  # type: ignore[assignment]
    async with gate.client() as client:
        answer = await client.post("/v1/transactions", json=pay(), headers=keyed("k"))
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        assert "hunter2" not in answer.text
        assert answer.json()["instance"].startswith("urn:uuid:")
    assert not gate.parts.outcomes.under_way
