"""A sandbox over the ledger in memory: partners let themselves in, every reason can be forced, a reset begins anew."""

from __future__ import annotations

import asyncio
import inspect
import shlex
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import httpx
import pytest

from clearline.config import Settings
from clearline.gateway.app import create_app
from clearline.gateway.forced import AMOUNT, REASONS, SIMULATED
from clearline.gateway.memory_gate import MemoryGate
from clearline.gateway.parts import Parts, wall_clock_ms
from clearline.gateway.sandbox import WALLETS
from clearline.gateway.twin import LedgerTwin, give_key, ledger_of, make_twin
from clearline.signing import Signer
from ledger.reasons import Reason

URL = "https://sandbox.example"


class Desk:
    """A partner that joined, at its gateway."""

    def __init__(self, parts: Parts, joined: dict[str, Any]) -> None:
        self.parts, self.joined = parts, joined
        self.id: str = joined["partner_id"]
        self.client = client(parts, Authorization=f"Bearer {joined['token']}")
        self._keys = 0

    @property
    def ledger(self) -> LedgerTwin:
        return ledger_of(self.parts)

    def account(self, name: str) -> str:
        return f"{self.id}:wallet:{name}"

    def body(self, amount: int, **more: Any) -> dict[str, Any]:
        accounts = {"payer": self.account("main"), "payee": self.account("shop")}
        plain = {"product": "wallet", "operation": "transfer", "currency": "CNY", "accounts": accounts}
        return {**plain, "amount": amount, **more}

    async def post(self, path: str, body: Any = None, key: str = "", **headers: str) -> httpx.Response:
        self._keys += 1
        sent = {"Idempotency-Key": key or f"k-{self._keys}", "Prefer": "wait=10", **headers}
        return await self.client.post(path, json=body, headers=sent)

    async def pay(self, amount: int, key: str = "", **more: Any) -> httpx.Response:
        return await self.post("/v1/transactions", self.body(amount, **more), key)


def client(parts: Parts, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(parts), raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url=URL, headers=headers)


async def joined(parts: Parts, name: str = "Acme", **more: Any) -> dict[str, Any]:
    async with client(parts) as anybody:
        answer = await anybody.post("/v1/sandbox/partners", json={"name": name, **more})
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


Test = Callable[..., Coroutine[Any, Any, None]]


def in_loop(test: Test) -> Callable[..., None]:
    """Runs a test in an event loop of its own; one that asks for a desk gets one that was just set up."""
    parameters = dict(inspect.signature(test).parameters)
    wants_desk = parameters.pop("desk", None) is not None

    async def run(**given: Any) -> None:
        if not wants_desk:
            await test(**given)
            return
        parts = make_twin(base_url=URL)
        desk = Desk(parts, await joined(parts))
        async with desk.client:
            await test(desk=desk, **given)

    def plain(**given: Any) -> None:
        asyncio.run(run(**given))

    plain.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    plain.__name__, plain.__doc__ = test.__name__, test.__doc__
    return plain


@in_loop
async def test_one_call_lets_a_partner_in(desk: Desk) -> None:
    one = desk.joined
    assert one["partner_id"].startswith("acme-")
    assert one["token"].startswith("test_")
    assert [(a["account_id"], a["balance"]) for a in one["accounts"]] == [
        (f"{desk.id}:{w.name}", w.funds) for w in WALLETS
    ]
    for account in one["accounts"]:
        balance = (await desk.client.get(f"/v1/accounts/{account['account_id']}/balance")).json()
        assert balance["available"] == account["balance"]
    assert (await desk.client.get("/v1/partner")).json()["state"] == "live"
    assert len((await desk.client.get("/v1/products")).json()["items"]) >= 12
    paid = await desk.pay(12_550)
    assert (paid.status_code, paid.json()["status"]) == (201, "settled")


@in_loop
async def test_the_three_lines_of_curl_do_what_they_say(desk: Desk) -> None:
    seen = []
    for line in desk.joined["curl"]:
        words = shlex.split(line)
        assert words[:2] == ["curl", "-sS"]
        headers = dict(w.split(": ", 1) for a, w in pairwise(words) if a == "-H")
        data = next((w for a, w in pairwise(words) if a == "-d"), None)
        async with client(desk.parts, **headers) as curl:
            seen.append(await (curl.post(words[2], content=data) if data else curl.get(words[2])))
    assert [a.status_code for a in seen] == [201, 200, 422]
    assert seen[1].json()["available"] == 100_000_000 - 12_550
    assert seen[2].json()["code"] == "insufficient_funds"


@in_loop
async def test_the_pair_of_keys_signs(desk: Desk) -> None:
    desk.parts.now_ms = wall_clock_ms  # signatures are of now
    async with client(desk.parts) as signed:
        auth = Signer(desk.joined["key_id"], desk.joined["private_key"])
        assert (await signed.get("/v1/partner", auth=auth)).json()["partner_id"] == desk.id


@in_loop
async def test_a_public_key_of_ones_own_makes_no_private_one() -> None:
    parts = make_twin(base_url=URL)
    first = await joined(parts)
    second = await joined(parts, "Acme", public_key=first["public_key"])
    assert second["private_key"] is None
    assert second["public_key"] == first["public_key"]
    assert second["partner_id"] != first["partner_id"]


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "name"), ({"name": ""}, "name"), ({"name": "x" * 101}, "name"), ({"name": "x", "more": 1}, "more"),
     ({"name": "x", "public_key": "no key"}, "public_key"), ({"name": "x", "partner_id": "bank"}, "partner_id")],
)  # fmt: skip
@in_loop
async def test_what_is_wrong_with_who_joins_is_named(body: dict[str, Any], field: str) -> None:
    async with client(make_twin(base_url=URL)) as anybody:
        answer = await anybody.post("/v1/sandbox/partners", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "field_invalid")
    assert [e["field"] for e in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("name", "starts"), [("Müller & Söhne", "muller-sohne-"), ("汇通", "partner-"), ("-", "partner-")]
)
@in_loop
async def test_an_id_is_made_of_any_name(name: str, starts: str) -> None:
    assert (await joined(make_twin(base_url=URL), name))["partner_id"].startswith(starts)


@in_loop
async def test_an_address_lets_in_only_a_few_at_once() -> None:
    parts = make_twin(base_url=URL, gate=MemoryGate(5_000, 10**9))
    async with client(parts) as anybody:
        for _ in range(20):
            assert (await anybody.post("/v1/sandbox/partners", json={"name": "x"})).status_code == 201
        answer = await anybody.post("/v1/sandbox/partners", json={"name": "x"})
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert int(answer.headers["Retry-After"]) >= 1


# ---- magic -----------------------------------------------------------------------------------------------------------


@in_loop
async def test_every_reason_can_be_forced_and_is_the_ledgers_own(desk: Desk) -> None:
    answers = {}
    for number, reason in enumerate(REASONS, 1):
        answer = await desk.pay(AMOUNT + number, f"force-{number}")
        problem = answer.json()
        answers[reason] = (answer.status_code, problem["code"])
        if reason in SIMULATED:
            assert "simulated by the sandbox" in problem["detail"]
        elif reason != Reason.IDEMPOTENCY_CONFLICT:
            place = problem["transaction"]["position"]
            (record,) = [
                r for r in desk.ledger.journal
                if (r.source_partition, r.source_offset) == (place["partition"], place["offset"])
            ]  # fmt: skip
            assert (record.outcome, record.reason, record.detail) == ("rejected", reason, problem["reason_detail"])
    assert answers == {reason: (422, reason.value) for reason in Reason}


@in_loop
async def test_a_forced_rejection_is_repeated_like_any_other(desk: Desk) -> None:
    for number in (1, 2, 21, 22, 36, 41, 48, 50):
        first = await desk.pay(AMOUNT + number, f"r-{number}")
        desk.parts.outcomes._final.clear()  # as a gateway that was killed
        again = await desk.pay(AMOUNT + number, f"r-{number}")
        assert (first.status_code, again.status_code) == (422, 422)
        if number != 1:
            assert again.json() == first.json()
            assert again.headers["Idempotent-Replayed"] == "true"


@in_loop
async def test_magic_accounts_force_reasons_too(desk: Desk) -> None:
    accounts = {"payer": desk.account("main"), "payee": f"{desk.id}:force:account_frozen"}
    answer = await desk.pay(100, accounts=accounts)
    assert answer.json()["code"] == "account_frozen"
    accounts["payee"] = f"{desk.id}:force:nothing"
    assert (await desk.pay(100, accounts=accounts)).json()["code"] == "account_unknown"


@in_loop
async def test_magic_works_in_a_batch_each_on_its_own(desk: Desk) -> None:
    items = [desk.body(AMOUNT + 29), desk.body(1), desk.body(AMOUNT + 37), desk.body(AMOUNT + 38)]
    results = (await desk.post("/v1/transactions:batch", {"transactions": items})).json()["results"]
    assert [(r["status"], r["body"].get("code")) for r in results] == [
        (422, "account_frozen"), (201, None), (422, "counter_overflow"), (422, "limit_exceeded")
    ]  # fmt: skip


@in_loop
async def test_magic_moves_no_money_of_the_partners_own_accounts(desk: Desk) -> None:
    for number in range(1, len(REASONS) + 1):
        await desk.pay(AMOUNT + number)
    accounts = desk.ledger.accounts()
    assert [accounts[f"{desk.id}:{w.name}"].available() for w in WALLETS] == [w.funds for w in WALLETS]
    assert desk.ledger.dead == []


@pytest.mark.parametrize("amount", [AMOUNT, AMOUNT + len(Reason) + 1])
@in_loop
async def test_amounts_beside_the_magic_ones_are_amounts(desk: Desk, amount: int) -> None:
    assert (await desk.pay(amount)).json()["code"] == "insufficient_funds"


@in_loop
async def test_there_is_no_magic_in_another_world() -> None:
    parts = make_twin(Settings(world="live", partitions=2), base_url=URL)
    twin = ledger_of(parts)
    twin.publish_shelf("wallet")
    twin.admit("acme")
    twin.open("acme:wallet:main", funds=10**9)
    twin.open("acme:wallet:shop")
    desk = Desk(parts, {"partner_id": "acme", "token": give_key(parts, "acme")["Authorization"].split()[1]})
    assert (await desk.pay(AMOUNT + 29)).json()["status"] == "settled"
    accounts = {"payer": desk.account("main"), "payee": "acme:force:account_frozen"}
    assert (await desk.pay(100, accounts=accounts)).json()["code"] == "account_unknown"
    for path in ("/v1/sandbox/partners", "/v1/sandbox/reset"):
        answer = await desk.post(path, {"name": "x"})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@in_loop
async def test_a_partner_that_may_not_act_is_told_by_the_ledger(desk: Desk) -> None:
    """Magic is prepared for who is live; for others the plain transaction goes to the ledger."""
    answer = await desk.post("/v1/transactions", desk.body(AMOUNT + 29), **{"Clearline-Partner": f"{desk.id}/nobody"})
    assert answer.json()["code"] == "partner_unknown"


# ---- reset -----------------------------------------------------------------------------------------------------------


@in_loop
async def test_a_reset_begins_anew_and_keeps_what_happened(desk: Desk) -> None:
    await desk.pay(12_550)
    await desk.pay(500, operation="hold")
    await desk.pay(AMOUNT + 38)
    before = len(desk.ledger.journal)
    limit = {"limits": [{"window": "day", "currency": "CNY", "amount_max": 20_000}]}
    set_ = await desk.client.put(
        f"/v1/limits/account/{desk.account('main')}",
        json=limit,
        headers={"Idempotency-Key": "limit", "Prefer": "wait=5"},
    )
    assert set_.status_code == 201, set_.text
    assert (await desk.pay(30_000)).json()["code"] == "limit_exceeded"
    done = (await desk.post("/v1/sandbox/reset")).json()
    assert (done["holds_voided"], done["limits_lifted"], done["skipped"]) == (1, 1, [])
    accounts = desk.ledger.accounts()
    for w in WALLETS:
        a = accounts[f"{desk.id}:{w.name}"]
        assert (a.available(), a.debits_pending) == (w.funds, 0)
    assert len(desk.ledger.journal) > before
    assert (await desk.pay(30_000)).json()["status"] == "settled"
    assert (await desk.pay(AMOUNT + 38)).json()["code"] == "limit_exceeded"  # magic is left as it was


@in_loop
async def test_a_second_reset_changes_nothing(desk: Desk) -> None:
    await desk.pay(1_000)
    for _ in range(2):
        assert (await desk.post("/v1/sandbox/reset", key="same")).status_code == 200
        accounts = desk.ledger.accounts()
        assert [accounts[f"{desk.id}:{w.name}"].available() for w in WALLETS] == [w.funds for w in WALLETS]


@in_loop
async def test_a_partner_resets_its_own_tree_only(desk: Desk) -> None:
    other = Desk(desk.parts, await joined(desk.parts, "Other"))
    await other.pay(1_000)
    assert (await desk.post("/v1/sandbox/reset")).status_code == 200
    assert desk.ledger.accounts()[other.account("main")].available() == WALLETS[0].funds - 1_000
