"""What a hostile caller sends: bodies that are wrong all over, cursors of his own making, times that are none."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from clearline.contract import ERRORS_MAX, HINTS_MAX, ContractError, _object, parse_json
from clearline.gateway import paging, sandbox
from clearline.gateway.routes.explain import TURNS
from clearline.gateway.routes.webhooks import CHALLENGES_MAX
from clearline.webhooks.targets import PinnedTransport
from schemas.identity import BANK
from schemas.records import Limit, OpenAccount, SetLimit
from sinks.gate import CallLimits, LocalGate
from tests.gateway import URL, Gate, in_loop, keyed, pay, send

JSON = {"Content-Type": "application/json"}


def test_a_name_given_twice_is_found_in_one_walk():
    """Counting each name took 6 s for a body of 230 KB, and minutes for a batch: for everybody, in one event loop."""
    compared = 0

    class Name(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [*(f"n{i}" for i in range(2_000)), "z", "z"]
    with pytest.raises(ContractError, match="z: is given twice"):
        _object([(Name(n), 1) for n in names])
    assert compared < 20 * len(names)


def test_a_name_given_twice_is_told_without_what_a_terminal_would_take_for_a_command():
    with pytest.raises(ContractError) as told:
        parse_json(b'{"\\u001b[2J":1,"\\u001b[2J":2}')
    assert told.value.errors[0].field.isprintable()


@in_loop
async def test_of_a_body_that_is_wrong_all_over_some_fields_are_named():
    async with Gate().client() as client:
        body = pay(**{f"amoun{i}": 1 for i in range(1_000)})
        found = (await client.post("/v1/transactions", json=body, headers=keyed("k"))).json()
        assert len(found["errors"]) == ERRORS_MAX + 1
        assert found["errors"][-1] == {"field": "", "rule": f"{1_000 - ERRORS_MAX} more are wrong; correct these first"}
        assert sum("did you mean amount?" in e["rule"] for e in found["errors"]) == HINTS_MAX
        other = await client.post("/v1/transactions:batch", json={str(i): 1 for i in range(1_000)}, headers=keyed("b"))
        assert len(other.json()["errors"]) == ERRORS_MAX
        query = await client.get("/v1/accounts", params={f"q{i}": 1 for i in range(1_000)})
        assert len(query.json()["errors"]) == ERRORS_MAX


@in_loop
async def test_half_a_character_in_the_name_of_a_role_is_refused():
    async with Gate().client() as client:
        body = json.dumps(pay(accounts={"payer": "acme:w:a", "pay\ud800ee": "acme:w:b"}))
        found = await client.post("/v1/transactions", content=body, headers={**keyed("k"), **JSON})
        assert (found.status_code, found.json()["code"]) == (422, "field_invalid")
        assert "surrogate" in found.json()["detail"]


@in_loop
async def test_the_first_moment_of_all_is_no_way_to_say_never():
    """Records say `none` with it: a key that should have ended in 1970 would never have ended, nor a hold lapsed."""
    async with Gate().client() as client:
        asked = {"scopes": ["read"], "expires_at": "1970-01-01T00:00:00Z"}
        key = await client.post("/v1/keys", json=asked, headers=keyed("k"))
        assert (key.status_code, key.json()["errors"][0]["field"]) == (422, "expires_at")
        body = pay(operation="hold", expires_at="1970-01-01T01:00:00+01:00")
        hold = await client.post("/v1/transactions", json=body, headers=keyed("h"))
        assert (hold.status_code, hold.json()["errors"][0]["field"]) == (422, "expires_at")


PERIOD = {"account": "acme:w:a", "since": "2026-01-01", "until": "2026-12-31", "on": "value"}
MARK = ["2026-11-22", 1, 0, 1, 0, 5]


@pytest.mark.parametrize(
    ("path", "name", "query", "after"),
    [
        ("/v1/accounts", "accounts", {}, ""),
        ("/v1/accounts", "accounts", {"partner": "acme", "more": "x"}, ""),
        ("/v1/accounts/acme:w:a/statement", "statement", {**PERIOD, "since": "yesterday"}, MARK),
        ("/v1/accounts/acme:w:a/statement", "statement", {**PERIOD, "on": "1 or 1=1"}, MARK),
        ("/v1/accounts/acme:w:a/statement", "statement", {"account": "acme:w:a"}, MARK),
    ],
)
@in_loop
async def test_a_cursor_of_somebodys_own_making_is_none(path: str, name: str, query: dict[str, str], after: Any):
    """The sum in a cursor is no secret, so whoever wants to makes one that fits it."""
    async with Gate().client() as client:
        found = await client.get(path, params={"cursor": paging.encode(name, "acme", query, after)})
        assert (found.status_code, found.json()["code"]) == (400, "cursor_invalid")


@in_loop
async def test_a_tree_has_few_verifications_under_way_at_once():
    """Each is a request from inside of the bank to wherever a partner says, for as long as that pleases."""
    gate = Gate()
    asked, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def slow(host: str, port: int) -> list[str]:
        asked.release()
        await go_on.wait()
        return ["127.0.0.1"]  # refused: not public

    gate.parts.webhooks.resolve = slow
    async with gate.client() as client, gate.client("zeta") as other:
        hook = {"url": "https://shop.example/", "events": [{"type": "transaction.settled"}]}
        path, others = [
            f"/v1/webhooks/{(await c.post('/v1/webhooks', json=hook, headers=keyed('w'))).json()['id']}/verify"
            for c in (client, other)
        ]
        calls = [asyncio.create_task(client.post(path, headers=keyed(f"v{i}"))) for i in range(CHALLENGES_MAX)]
        for _ in calls:
            await asyncio.wait_for(asked.acquire(), 20)
        refused = await client.post(path, headers=keyed("one-more"))
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert refused.headers["Retry-After"] == "1"
        calls.append(asyncio.create_task(other.post(others, headers=keyed("v"))))
        await asyncio.wait_for(asked.acquire(), 20)  # another tree is not kept waiting
        go_on.set()
        assert {c.status_code for c in await asyncio.gather(*calls)} == {422}
        assert (await client.post(path, headers=keyed("later"))).status_code == 422


def test_the_certificate_authorities_are_read_once():
    """It blocks the event loop for as long as a hundred calls take."""
    one, two = (PinnedTransport(1, False)._pool._ssl_context for _ in range(2))
    assert one is two


@in_loop
async def test_a_rejection_says_nothing_of_what_others_have():
    """A merchant could read the aggregator's turnover off its limit, and what is on anybody's asset account."""
    gate = Gate()
    limit = (Limit("day", "CNY", None, 500_000),)
    gate.ledger.must(
        SetLimit(BANK, "l", "partner", "acme", limit, "x", "n"),
        OpenAccount(BANK, "o1", "acme:asset:x", "asset", "CNY", 0, "x"),
        OpenAccount(BANK, "o2", "zeta:asset:x", "asset", "CNY", 0, "x"),
    )
    of_limit = {"field", "level", "subject", "limit", "asked", "currency"}
    others = ("123456", "1,234.56", "500000", "5,000.00", "3,765.44", "available 0")
    till = {"payer": "acme/shop:w:till"}
    async with gate.client() as above, gate.client("acme/shop") as shop:
        assert (await above.post("/v1/transactions", json=pay(123_456), headers=keyed("first"))).status_code == 201
        own = await above.post("/v1/transactions", json=pay(450_000), headers=keyed("own"))
        assert (own.json()["reason_detail"]["used"], own.json()["reason_detail"]["allowed"]) == ("123456", "500000")
        for key, body, names in (
            ("limit", pay(450_000, accounts={**till, "payee": "acme:w:b"}), of_limit),
            ("above", pay(10, accounts={**till, "payee": "acme:asset:x"}), {"account", "level", "limit"}),
            ("beside", send(10, accounts={**till, "recipient": "zeta:asset:x"}), {"account", "level", "limit"}),
        ):  # fmt: skip
            found = [await shop.post("/v1/transactions", json=body, headers=keyed(key)) for _ in range(2)]
            assert found[0].content == found[1].content
            problem = found[0].json()
            assert set(problem["reason_detail"]) == names
            for lang in ("en", "zh"):
                path = f"{problem['transaction']['links']['explain']}?lang={lang}"
                told = (await shop.get(path)).json()
                text = json.dumps([problem, told["why"], told["cure"]], ensure_ascii=False)
                assert not any(n in text for n in others)
                assert told["why"] and told["cure"] and "{" not in told["why"] + told["cure"]
                if key == "limit":
                    assert "acme" in told["why"] and "4,500.00" in told["why"] and "acme" in told["cure"]


@pytest.mark.parametrize(
    "raw", [bytes(32), b"\1" + bytes(31), b"\1" + bytes(30) + b"\x80", b"\xec" + b"\xff" * 30 + b"\x7f"]
)
@in_loop
async def test_a_public_key_by_which_anybody_can_sign_is_refused(raw: bytes):
    async with Gate().client() as client:
        asked = {"scopes": ["read"], "public_key": raw.hex()}
        found = await client.post("/v1/keys", json=asked, headers=keyed("k"))
        assert (found.status_code, found.json()["errors"][0]["field"]) == (422, "public_key")


@in_loop
async def test_an_id_that_is_drawn_twice_lets_nobody_into_anothers_partner(monkeypatch: pytest.MonkeyPatch):
    gate = Gate()
    monkeypatch.setattr(sandbox, "new_partner_id", lambda name: "my-shop-aaaaaa")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate.app), base_url=URL) as client:
        first, second = [await client.post("/v1/sandbox/partners", json={"name": "My Shop"}) for _ in range(2)]
        assert first.status_code == 201
        assert second.status_code == 503 and "token" not in second.json()
        keys_made = [k for _, k in gate.parts.access.items("k:") if getattr(k, "partner_id", "") == "my-shop-aaaaaa"]
        assert len(keys_made) == 1
        own = {"Authorization": f"Bearer {first.json()['token']}"}
        balance = await client.get("/v1/accounts/my-shop-aaaaaa:wallet:main/balance", headers=own)
        assert balance.json()["available"] == 100_000_000


@in_loop
async def test_a_network_of_ipv6_is_one_address_to_joins():
    gate = Gate(burst=20)
    gate.parts.gate = LocalGate(CallLimits(rate_per_s=0.001, burst=20, per_day=1_000))
    for address, status in (("2001:db8::1", 201), ("2001:db8::2", 429), ("2001:db8:0:1::1", 201)):
        transport = httpx.ASGITransport(gate.app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
            found = [(await client.post("/v1/sandbox/partners", json={"name": "A"})).status_code for _ in range(20)]
            assert found == [status] * 20


@in_loop
async def test_explanations_leave_the_looking_up_to_others():
    """Each may read 20,000 records; a repeat of a write is looked up by the same few threads."""
    gate = Gate()
    now = most = 0
    later, go_on = gate.parts.finder.later, asyncio.Event()

    async def slow(*what: Any) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await go_on.wait()
        now -= 1
        return await later(*what)

    gate.parts.finder.later = slow  # type: ignore[method-assign,assignment]
    async with gate.client() as client:
        hold = (await client.post("/v1/transactions", json=pay(operation="hold"), headers=keyed("h"))).json()
        calls = [asyncio.create_task(client.get(hold["links"]["explain"])) for _ in range(6)]
        async with asyncio.timeout(20):
            while now < TURNS:
                await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        go_on.set()
        assert {c.status_code for c in await asyncio.gather(*calls)} == {200}
        assert most == TURNS
