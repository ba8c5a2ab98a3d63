"""Accounts, balances, statements, partners, products, limits and explanations over HTTP: what is shown, to whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from clearline.gateway import views
from clearline.gateway.paging import decode, encode
from clearline.gateway.problems import Problem
from ledger.calendars import DAY_MS
from schemas.records import Limit, SetLimit, Transaction
from tests.gateway import Gate, in_loop, keyed, pay, send

NOT_FOUND = 404


async def pages(client: httpx.AsyncClient, path: str, **query: Any) -> AsyncIterator[dict[str, Any]]:
    """Every page of a list, following its cursors."""
    answer = await client.get(path, params=query)
    while True:
        assert answer.status_code == 200, answer.text
        yield answer.json()
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return
        answer = await client.get(path, params={"cursor": cursor, "limit": query.get("limit", 100)})


async def items(client: httpx.AsyncClient, path: str, name: str = "items", **query: Any) -> list[dict[str, Any]]:
    return [x async for page in pages(client, path, **query) for x in page[name]]


def code_of(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


@in_loop
async def test_accounts_of_the_tree_in_pages() -> None:
    gate = Gate()
    async with gate.client() as client:
        for limit in (1, 2, 100):
            found = await items(client, "/v1/accounts", limit=limit)
            assert [a["account_id"] for a in found] == ["acme/shop:w:till", "acme:w:a", "acme:w:b"]
        assert [a["account_id"] for a in await items(client, "/v1/accounts", partner="acme/shop")] == [
            "acme/shop:w:till"
        ]
        assert views.Account.model_validate(found[0]).links.balance == "/v1/accounts/acme%2Fshop:w:till/balance"
        one = await client.get(found[0]["links"]["self"])
        assert one.json() == found[0] and one.json()["opened_at"].startswith("2026-11-22T09:00:00.")
        for other in ("zeta", "bank", "acme/none", "acme/shop/", "acm", "ACME"):
            assert code_of(await client.get("/v1/accounts", params={"partner": other})) == (404, "not_found")


@in_loop
async def test_a_balance_says_as_of_where() -> None:
    gate = Gate()
    async with gate.client() as client:
        await client.post("/v1/transactions", json=pay(2_500), headers=keyed("k"))
        hold = pay(100, operation="hold")
        place = (await client.post("/v1/transactions", json=hold, headers=keyed("h"))).json()["position"]
        found = (await client.get("/v1/accounts/acme:w:a/balance")).json()
        assert found == {
            "account_id": "acme:w:a", "currency": "CNY", "debits_pending": 100, "debits_posted": 2_500,
            "credits_pending": 0, "credits_posted": 1_000_000, "available": 997_400, "min_available": 0,
            "credit_limit": 0, "as_of": [{"partition": place["partition"], "offset": place["offset"]}],
            "source": "redis",
        }  # fmt: skip


@in_loop
async def test_a_statement_in_pages_to_the_cent() -> None:
    gate = Gate()
    async with gate.client() as client:
        for i in range(7):
            assert (await client.post("/v1/transactions", json=pay(100 + i), headers=keyed(f"k{i}"))).status_code == 201
        whole = (await client.get("/v1/accounts/acme:w:a/statement")).json()
        views.Statement.model_validate(whole)
        assert (whole["opening"], whole["closing"], whole["debits"], whole["credits"]) == (0, 999_279, 721, 1_000_000)
        assert (whole["since"], whole["until"], whole["on"]) == ("2026-11-01", "2026-11-22", "value")
        assert [x["balance"] for x in whole["lines"]][-1] == 999_279 and whole["next_cursor"] is None
        assert [x["transaction_id"] is None for x in whole["lines"]] == [True] + [False] * 7, "the bank's is not ours"
        assert whole["lines"] == await items(client, "/v1/accounts/acme:w:a/statement", "lines", limit=1)
        turned: list[dict[str, Any]] = []
        async for page in pages(client, "/v1/accounts/acme:w:a/statement", limit=3):
            turned += page["lines"]
            gate.ledger.fund("acme:w:a", 1)  # booked while the pages are turned: none of them shows it
            assert (page["opening"], page["closing"]) == (0, 999_279)
        assert turned == whole["lines"]
        assert (await client.get("/v1/accounts/acme:w:a/statement")).json()["closing"] == 999_282


@in_loop
async def test_a_statement_by_day_and_what_is_wrong_with_a_period() -> None:
    gate = Gate()
    async with gate.client() as client:
        late = pay(50, value_date="2026-11-20")
        await client.post("/v1/transactions", json=late, headers=keyed("k"))
        path = "/v1/accounts/acme:w:b/statement"
        by_value = (await client.get(path, params={"since": "2026-11-20", "until": "2026-11-21"})).json()
        assert (by_value["opening"], by_value["closing"], len(by_value["lines"])) == (0, 50, 1)
        by_day = (await client.get(path, params={"since": "2026-11-20", "until": "2026-11-21", "on": "booking"})).json()
        assert (by_day["opening"], by_day["closing"], by_day["lines"]) == (0, 0, [])
        assert (await client.get(path, params={"until": "2026-11-21"})).json()["since"] == "2026-11-01"
        for query, field in (
            ({"since": "2026-11-21", "until": "2026-11-20"}, "since"), ({"since": "21.11.2026"}, "since"),
            ({"until": "2300-01-01"}, "until"), ({"on": "moon"}, "on"), ({"limit": "0"}, "limit"),
            ({"limit": "1001"}, "limit"), ({"limit": "x"}, "limit"), ({"untill": "2026-11-20"}, "untill"),
        ):  # fmt: skip
            answer = await client.get(path, params=query)
            assert code_of(answer) == (422, "field_invalid"), query
            assert [e["field"] for e in answer.json()["errors"]] == [field]
        twice = await client.get(path + "?on=value&on=booking")
        assert code_of(twice) == (422, "field_invalid")


@in_loop
async def test_cursors_are_of_their_query_and_of_nothing_else() -> None:
    gate = Gate()
    async with gate.client() as client:
        for i in range(3):
            await client.post("/v1/transactions", json=pay(1), headers=keyed(f"k{i}"))
        path = "/v1/accounts/acme:w:a/statement"
        cursor = (await client.get(path, params={"limit": 2, "since": "2026-11-02"})).json()["next_cursor"]
        assert (await client.get(path, params={"cursor": cursor})).json()["since"] == "2026-11-02"
        again = {"cursor": cursor, "since": "2026-11-02"}
        assert (await client.get(path, params=again)).status_code == 200
        for other, query in (
            (path, {"since": "2026-11-03"}), (path, {"on": "booking"}), ("/v1/accounts/acme:w:b/statement", {}),
            ("/v1/accounts", {}), ("/v1/partners", {}), ("/v1/limits", {}), ("/v1/products", {}),
        ):  # fmt: skip
            answer = await client.get(other, params={**query, "cursor": cursor})
            assert code_of(answer) == (400, "cursor_invalid"), other
        for broken in (cursor[:-1], cursor + "A", cursor[::-1], "A" + cursor, "", "x", "é", cursor + "=", "AAAA" * 20):
            assert code_of(await client.get(path, params={"cursor": broken})) == (400, "cursor_invalid"), broken
    async with gate.client("acme", **{"Clearline-Partner": "acme/shop"}) as client:
        accounts = await client.get(
            "/v1/accounts", params={"cursor": encode("accounts", "acme", {"partner": "acme"}, "")}
        )
        assert code_of(accounts) == (400, "cursor_invalid"), "it is another partner's"


def test_a_cursor_with_another_shape_is_refused() -> None:
    good = encode("accounts", "acme", {"partner": "acme"}, "acme:w:a")
    assert decode(good, "accounts", "acme", {"partner": None}, str) == ({"partner": "acme"}, "acme:w:a")
    with pytest.raises(Problem, match="cursor_invalid"):
        decode(good, "accounts", "acme", {}, str)
    for after in (7, None, ["a"], {"a": 1}):
        with pytest.raises(Problem, match="cursor_invalid"):
            decode(encode("accounts", "acme", {}, after), "accounts", "acme", {}, str)


@in_loop
async def test_nobody_sees_another_tree_nor_what_is_above() -> None:
    gate = Gate()
    paths = [f"/v1/accounts/{quote(a, safe=':')}{x}" for a in ("zeta:w:a", "bank:funds:CNY", "acme:w:none", "acme:w")
             for x in ("", "/balance", "/statement")]  # fmt: skip
    paths += ["/v1/partners/zeta", "/v1/partners/bank", "/v1/partners/acme%2Fnone", "/v1/products/moon"]
    async with gate.client() as client:
        bodies = set()
        for path in paths:
            answer = await client.get(path)
            assert code_of(answer) == (404, "not_found"), path
            bodies.add((answer.json()["detail"], answer.json()["title"]))
        assert len(bodies) == 1, "what is not there and what is another's answer alike"
    async with gate.client("acme/shop") as client:
        for path in ("/v1/accounts/acme:w:a", "/v1/accounts/acme:w:a/balance", "/v1/partners/acme"):
            assert code_of(await client.get(path)) == (404, "not_found")
        assert [a["account_id"] for a in await items(client, "/v1/accounts")] == ["acme/shop:w:till"]
        assert (await client.get("/v1/partner")).json()["partner_id"] == "acme/shop"
        assert await items(client, "/v1/partners") == []
    async with gate.client("acme", "accounts") as client:
        for path in (
            "/v1/accounts",
            "/v1/accounts/acme:w:a",
            "/v1/partner",
            "/v1/partners",
            "/v1/products",
            "/v1/limits",
        ):
            answer = await client.get(path)
            assert code_of(answer) == (403, "scope_missing") and answer.json()["scope"] == "read"


@in_loop
async def test_partners_below_and_one() -> None:
    gate = Gate()
    gate.ledger.admit("acme/shop/till", "acme/stall")
    async with gate.client() as client:
        for limit in (1, 2, 9):
            names = [p["partner_id"] for p in await items(client, "/v1/partners", limit=limit)]
            assert names == ["acme/shop", "acme/shop/till", "acme/stall"]
        one = (await client.get("/v1/partners/acme%2Fshop%2Ftill")).json()
        assert one == {"partner_id": "acme/shop/till", "name": one["name"], "state": "live"}
        assert (await client.get("/v1/partner")).json()["partner_id"] == "acme"
    async with gate.client("acme", **{"Clearline-Partner": "acme/shop"}) as client:
        assert [p["partner_id"] for p in await items(client, "/v1/partners")] == ["acme/shop/till"]


@in_loop
async def test_the_shelf_and_one_product() -> None:
    gate = Gate()
    gate.ledger.publish_shelf("deposit", "escrow")
    text = gate.ledger.products()["deposit"][0].document.replace('"version":1', '"version":2')
    later = gate.ledger.now_ms // DAY_MS + 3
    gate.ledger.publish("deposit", 2, text, later)
    async with gate.client() as client:
        for limit in (1, 2, 9):
            shelf = await items(client, "/v1/products", limit=limit)
            assert [(p["product"], p["version"]) for p in shelf] == [("deposit", 1), ("escrow", 1), ("wallet", 1)]
        one = (await client.get("/v1/products/deposit")).json()
        assert {k: one[k] for k in shelf[0]} == shelf[0]
        assert [(v["version"], v["effective_from"]) for v in one["versions"]] == [(1, None), (2, "2026-11-25")]
        assert one["versions"][0]["document"]["product"] == "deposit"
        wallet = (await client.get("/v1/products/wallet")).json()
        send_ = next(o for o in wallet["operations"] if o["name"] == "send")
        assert send_ == {"name": "send", "kind": "transfer", "callers": ["partner"], "roles": ["payer", "recipient"]}
        gate.ledger.advance(4 * DAY_MS)
        assert (await client.get("/v1/products/deposit")).json()["version"] == 2


@in_loop
async def test_limits_and_what_is_used_of_them() -> None:
    gate = Gate()
    limits = (Limit("day", "CNY", 3, 1_000), Limit("transaction", "CNY", None, 600))
    gate.ledger.must(SetLimit("bank", "l1", "partner", "acme", limits))
    gate.ledger.must(SetLimit("bank", "l2", "account", "acme/shop:w:till", (Limit("hour", "", 9, None),)))
    gate.ledger.must(SetLimit("bank", "l3", "product", "wallet", (Limit("month", "CNY", 100, None),)))
    async with gate.client() as client:
        await client.post("/v1/transactions", json=pay(250), headers=keyed("k"))
        found = await items(client, "/v1/limits", limit=1)
        assert found == await items(client, "/v1/limits")
        assert [(x["level"], x["subject"]) for x in found] == [
            ("account", "acme/shop:w:till"), ("partner", "acme"), ("product", "wallet"),
        ]  # fmt: skip
        assert found[1]["limits"][0] == {"window": "day", "currency": "CNY", "count_max": 3, "amount_max": 1_000}
        assert found[1]["used"] == [
            {
                "window": "day",
                "currency": "CNY",
                "transactions": 1,
                "amount": 250,
                "ends_at": "2026-11-23T00:00:00.000Z",
            }
        ]
        assert found[2]["used"][0]["transactions"] == 1 and found[0]["limits"][0]["currency"] is None
    async with gate.client("acme/shop") as client:
        found = await items(client, "/v1/limits")
        assert [(x["level"], x["used"]) for x in found if x["level"] == "product"] == [("product", [])]
        assert "partner" not in {x["level"] for x in found}, "what is above is another tree"


@in_loop
async def test_an_account_is_opened_once_and_read_at_once() -> None:
    gate = Gate()
    body = {"account_id": "acme/shop:w:new", "type": "liability", "currency": "CNY", "min_available": 0}
    async with gate.client() as client:
        made = await client.post("/v1/accounts", json=body, headers=keyed("o"))
        assert made.status_code == 201 and made.headers["location"] == "/v1/accounts/acme%2Fshop:w:new"
        document = made.json()
        assert (document["status"], document["command"], document["subject"]) == (
            "applied",
            "OpenAccount",
            "acme/shop:w:new",
        )
        assert (await client.get(made.headers["location"])).json()["min_available"] == 0
        again = await client.post("/v1/accounts", json=body, headers=keyed("o"))
        assert (again.status_code, again.json()) == (201, document) and again.headers["idempotent-replayed"] == "true"
        other = await client.post("/v1/accounts", json={**body, "currency": "USD"}, headers=keyed("o"))
        assert code_of(other) == (422, "idempotency_conflict")
        exists = await client.post("/v1/accounts", json=body, headers=keyed("o2"))
        assert code_of(exists) == (422, "account_exists")
        later = await client.post("/v1/accounts", json={**body, "account_id": "acme:w:c"}, headers=keyed("o3", None))
        assert later.status_code == 202 and later.json()["status"] == "pending"
        asset = {**body, "account_id": "acme:w:d", "type": "asset"}
        assert code_of(await client.post("/v1/accounts", json=asset, headers=keyed("o4"))) == (422, "not_permitted")
        before = len(gate.ledger.journal)
        for account in ("zeta:w:b", "bank:fees:CNY"):
            answer = await client.post(
                "/v1/accounts", json={**body, "account_id": account}, headers=keyed("x" + account)
            )
            assert code_of(answer) == (404, "not_found")
        for wrong in ({"requested_by": "me"}, {"partner_id": "acme"}, {"command": "OpenAccount"}, {"colour": "red"},
                      {"account_id": "acme"}, {"type": "moon"}, {"min_available": 1.5}):  # fmt: skip
            answer = await client.post("/v1/accounts", json={**body, **wrong}, headers=keyed("w"))
            assert code_of(answer) == (422, "field_invalid"), wrong
        assert code_of(await client.post("/v1/accounts", json=body)) == (400, "idempotency_key_missing")
        assert len(gate.ledger.journal) == before, "none of these reached the ledger"
    async with gate.client("acme", "read") as client:
        assert code_of(await client.post("/v1/accounts", json=body, headers=keyed("s"))) == (403, "scope_missing")


@in_loop
async def test_limits_are_set_below_and_only_tightened() -> None:
    gate = Gate()
    body = {"limits": [{"window": "day", "currency": "CNY", "count_max": 5}], "note": "as agreed"}
    async with gate.client() as client:
        made = await client.put("/v1/limits/partner/acme%2Fshop", json=body, headers=keyed("l"))
        assert made.status_code == 201 and made.headers["location"] == "/v1/limits"
        assert (made.json()["command"], made.json()["subject"]) == ("SetLimit", "acme/shop")
        (found,) = [x for x in await items(client, "/v1/limits") if x["subject"] == "acme/shop"]
        assert found["limits"][0]["count_max"] == 5
        looser = {"limits": [{"window": "day", "currency": "CNY", "count_max": 6}]}
        answer = await client.put("/v1/limits/partner/acme%2Fshop", json=looser, headers=keyed("l2"))
        assert code_of(answer) == (422, "not_permitted")
        account = await client.put("/v1/limits/account/acme:w:a", json=body, headers=keyed("l3"))
        assert account.status_code == 201
        own = await client.put("/v1/limits/partner/acme", json=body, headers=keyed("l4"))
        assert code_of(own) == (422, "not_permitted")
        before = len(gate.ledger.journal)
        for path, code in (
            ("partner/zeta", (404, "not_found")), ("account/zeta:w:a", (404, "not_found")),
            ("partner/bank", (404, "not_found")), ("product/wallet", (422, "not_permitted")),
            ("moon/acme", (422, "field_invalid")),
        ):  # fmt: skip
            assert code_of(await client.put(f"/v1/limits/{path}", json=body, headers=keyed("n" + path))) == code
        for wrong in (
            {"level": "partner"},
            {"subject_id": "acme"},
            {"requested_by": "me"},
            {"limits": [{"window": "day"}]},
        ):
            answer = await client.put("/v1/limits/partner/acme%2Fshop", json={**body, **wrong}, headers=keyed("w"))
            assert code_of(answer) == (422, "field_invalid"), wrong
        assert len(gate.ledger.journal) == before
    async with gate.client("acme", "read") as client:
        answer = await client.put("/v1/limits/partner/acme%2Fshop", json=body, headers=keyed("s"))
        assert code_of(answer) == (403, "scope_missing")


@in_loop
async def test_an_explanation_for_those_who_may_read_it() -> None:
    gate = Gate()
    async with gate.client() as client:
        refused = await client.post("/v1/transactions", json=pay(99_999_999), headers=keyed("k"))
        link = refused.json()["transaction"]["links"]["explain"]
        found = await client.get(link)
        assert found.status_code == 200 and found.headers["content-language"] == "en"
        document = found.json()
        assert document.keys() == {"id", "language", "summary", "steps", "why", "cure"}
        assert "989,999.99 CNY short" in document["why"] and "Bring in" in document["cure"]
        assert document["steps"][0].keys() == {"at", "partition", "offset", "text"}
        chinese = await client.get(link, headers={"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.1"})
        assert chinese.json()["language"] == "zh" and "989,999.99" in chinese.json()["why"]
        assert (await client.get(link, params={"lang": "zh"})).json() == chinese.json()
        assert (await client.get(link, params={"lang": "en"}, headers={"Accept-Language": "zh"})).json() == document
        assert code_of(await client.get(link, params={"lang": "fr"})) == (422, "field_invalid")
        sent = await client.post("/v1/transactions", json=send(500), headers=keyed("s"))
        document = (await client.get(sent.json()["links"]["explain"])).json()
        legs = [s["text"] for s in document["steps"] if "zeta:w:a" in s["text"]]
        assert legs and not any("balance" in x or "available" in x for x in legs)
        for unknown in ("0" * 32, "x", "0" * 31):
            assert code_of(await client.get(f"/v1/transactions/{unknown}/explain")) == (404, "not_found")
        gate.ledger.paused = True
        pending = await client.post("/v1/transactions", json=pay(1), headers=keyed("p", None))
        told = (await client.get(pending.json()["links"]["explain"])).json()
        assert told["summary"].startswith("Under way") and told["why"] is None
        gate.ledger.resume()
        told = (await client.get(pending.json()["links"]["explain"])).json()
        assert told["summary"].startswith("Settled")
    for other in ("zeta", "acme/shop"):
        async with gate.client(other) as client:
            assert code_of(await client.get(link)) == (404, "not_found")


@in_loop
async def test_what_another_gateway_saw_is_explained_alike() -> None:
    gate = Gate()
    async with gate.client() as client:
        made = await client.post("/v1/transactions", json=pay(1), headers=keyed("k"))
        first = (await client.get(made.json()["links"]["explain"])).json()
        gate.other_gateway()
        assert (await client.get(made.json()["links"]["explain"])).json() == first


def test_the_twins_statement_has_the_legs_of_what_crossed() -> None:
    gate = Gate()
    day = gate.ledger.now_ms // DAY_MS
    roles = {"payer": "acme:w:a", "recipient": "zeta:w:a"}
    gate.ledger.must(Transaction("acme", "k", "wallet", "send", 70, "CNY", roles, (), day, reference="rent"))

    @in_loop
    async def look() -> None:
        async with gate.client("zeta") as client:
            line = (await client.get("/v1/accounts/zeta:w:a/statement")).json()["lines"][-1]
            assert (line["amount"], line["side"], line["reference"], line["partner_id"]) == (
                70,
                "credit",
                "rent",
                "bank",
            )
            assert line["transaction_id"] is None

    look()
