"""The routes of webhooks: over the gateway's application, with a real client and a real receiver."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from clearline.config import WebhookSettings
from clearline.webhooks.ports import QueuedInMemory
from clearline.webhooks.subscriptions import OVERLAP_MS, SHOWN_MS
from schemas.identity import partition_of
from schemas.records import Delivery, OpenAccount, Redelivery, Subscription
from tests.contract.gateway_world import GatewayWorld
from tests.webhook_world import Receiver

BODY = {"url": "https://shop.example/hook", "events": [{"type": "transaction.settled"}]}


class Door:
    """A gateway with a partner's client; `go` runs one coroutine in its loop."""

    def __init__(self) -> None:
        self.world = GatewayWorld(webhooks=WebhookSettings(private_targets=True, timeout_s=2))
        self.parts = self.world.parts
        self.numbers = 0

    def call(
        self, method: str, path: str, body: Any = None, *, who: str = "acme", key: str = "", **headers: str
    ) -> Any:
        """One call of a partner, with an idempotency key of its own unless one is given."""
        self.numbers += 1
        token = self.world.key(who)

        async def main() -> httpx.Response:
            async with self.world.client(token) as client:
                return await client.request(
                    method, path, json=body, headers={"Idempotency-Key": key or f"k-{self.numbers}", **headers}
                )

        return asyncio.run(main())

    def made(self, who: str = "acme", **fields: Any) -> Any:
        answer = self.call("POST", "/v1/webhooks", {**BODY, **fields}, who=who)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def row(self, name: str) -> Subscription:
        row = self.parts.access.get(f"s:{name}")
        assert isinstance(row, Subscription)
        return row


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    r = Receiver()
    yield r
    r.close()


def secret_of(text: str) -> bytes:
    assert text.startswith("whsec_")
    return base64.b64decode(text.removeprefix("whsec_"))


def test_it_is_made_once_and_its_secret_is_shown_once_and_sealed(door: Door) -> None:
    first = door.call("POST", "/v1/webhooks", BODY, key="k")
    again = door.call("POST", "/v1/webhooks", BODY, key="k")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert first.headers["location"] == f"/v1/webhooks/{first.json()['id']}"
    assert again.headers["idempotent-replayed"] == "true"
    secret = secret_of(first.json()["secret"])
    assert len(secret) == 32
    row = door.row(first.json()["id"])
    assert secret not in row.secrets[0].sealed
    assert base64.b64encode(secret) not in row.secrets[0].sealed
    seen = door.call("GET", f"/v1/webhooks/{first.json()['id']}").json()
    assert seen == {k: v for k, v in first.json().items() if k != "secret"}
    other = door.call("POST", "/v1/webhooks", {**BODY, "note": "another"}, key="k")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")
    door.world.ledger.advance(SHOWN_MS)
    assert door.call("POST", "/v1/webhooks", BODY, key="k").json()["secret"] is None


def test_verified_by_the_challenge_with_a_signature_that_the_receiver_can_check(door: Door, receiver: Receiver) -> None:
    made = door.made(url=f"{receiver.url}/hook")
    receiver.secret = secret_of(made["secret"])
    path = f"/v1/webhooks/{made['id']}/verify"
    receiver.echo = False
    refused = door.call("POST", path)
    assert (refused.status_code, refused.json()["code"]) == (422, "verification_failed")
    assert "without the challenge" in refused.json()["detail"]
    receiver.answer = lambda *_: 401
    assert "answered 401" in door.call("POST", path).json()["detail"]
    assert door.row(made["id"]).state == "new"
    receiver.echo, receiver.answer = True, lambda *_: 200
    done = door.call("POST", path)
    assert (done.status_code, done.json()["state"]) == (200, "verified")
    assert door.row(made["id"]).verified_at == door.parts.now_ms()
    assert all(a.verified for a in receiver.seen())
    assert len({a.id for a in receiver.seen()}) == 3
    assert door.call("POST", path).json() == done.json(), "it stays so"
    assert len(receiver.seen()) == 3


def test_another_address_is_verified_anew_and_a_disabled_one_is_enabled_again(door: Door, receiver: Receiver) -> None:
    made = door.made(url=f"{receiver.url}/hook")
    path = f"/v1/webhooks/{made['id']}"
    early = door.call("PATCH", path, {"state": "verified"})
    assert (early.status_code, early.json()["errors"][0]["field"]) == (422, "state")
    door.call("POST", f"{path}/verify")
    assert door.call("PATCH", path, {"state": "disabled"}).json()["state"] == "disabled"
    door.world.ledger.advance(1_000)
    assert door.call("PATCH", path, {"state": "verified"}).json()["state"] == "verified"
    assert door.row(made["id"]).verified_at == door.parts.now_ms()
    changed = door.call("PATCH", path, {"events": [{"type": "limit.reached"}], "note": "n"}).json()
    assert (changed["events"], changed["note"], changed["state"]) == (
        [{"type": "limit.reached", "percent": 80}], "n", "verified",
    )  # fmt: skip
    moved = door.call("PATCH", path, {"url": f"{receiver.url}/other"}).json()
    assert (moved["state"], moved["url"]) == ("new", f"{receiver.url}/other")
    both = door.call("PATCH", path, {"url": f"{receiver.url}/third", "state": "verified"})
    assert both.status_code == 422


def test_two_secrets_sign_for_a_day_after_a_rotation(door: Door, receiver: Receiver) -> None:
    made = door.made(url=receiver.url)
    path = f"/v1/webhooks/{made['id']}/rotate"
    first = door.call("POST", path, key="r")
    assert (first.status_code, first.json()["secret"] != made["secret"]) == (200, True)
    again = door.call("POST", path, key="r")
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert [bool(s["ends_at"]) for s in first.json()["secrets"]] == [False, True]
    third = door.call("POST", path, key="r2").json()
    assert len(door.row(made["id"]).secrets) == 2
    assert door.call("POST", path, key="r").json()["code"] == "idempotency_conflict"
    assert len({made["secret"], first.json()["secret"], third["secret"]}) == 3
    door.world.ledger.advance(OVERLAP_MS)
    assert len(door.call("GET", f"/v1/webhooks/{made['id']}").json()["secrets"]) == 1


def test_of_another_tree_it_is_not_there(door: Door) -> None:
    made = door.made(who="acme/shop-17")
    calls: list[tuple[str, str, Any]] = [
        ("GET", "", None), ("PATCH", "", {"note": "x"}), ("DELETE", "", None), ("POST", "/verify", None),
        ("POST", "/rotate", None), ("GET", "/deliveries", None), ("POST", f"/deliveries/{'ab' * 16}/redeliver", None),
    ]  # fmt: skip
    for method, more, body in calls:
        for who in ("zeta", "acme/shop-18", "acme/shop-17/desk"):
            answer = door.call(method, f"/v1/webhooks/{made['id']}{more}", body, who=who)
            nothing = door.call(method, f"/v1/webhooks/wh_{'0' * 32}{more}", body, who=who)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found") == (
                nothing.status_code, nothing.json()["code"],
            )  # fmt: skip
    assert door.call("GET", f"/v1/webhooks/{made['id']}", who="acme").status_code == 200
    assert [w["id"] for w in door.call("GET", "/v1/webhooks", who="acme").json()["items"]] == [made["id"]]
    assert door.call("GET", "/v1/webhooks", who="zeta").json()["items"] == []


def test_lists_are_paged(door: Door) -> None:
    made = {door.made(note=str(n))["id"] for n in range(5)}
    found, cursor = [], ""
    while True:
        page = door.call("GET", f"/v1/webhooks?limit=2{cursor}").json()
        found += [w["id"] for w in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == sorted(made)
    assert door.call("GET", "/v1/webhooks?cursor=x").json()["code"] == "cursor_invalid"


def test_deleted_it_leaves_an_id_that_is_not_used_again(door: Door) -> None:
    made = door.call("POST", "/v1/webhooks", BODY, key="k").json()
    assert door.call("DELETE", f"/v1/webhooks/{made['id']}").status_code == 204
    assert door.call("GET", f"/v1/webhooks/{made['id']}").status_code == 404
    row = door.row(made["id"])
    assert (row.state, row.url, row.secrets, row.wants) == ("deleted", "", (), ())
    assert door.call("POST", "/v1/webhooks", BODY, key="k").json()["code"] == "idempotency_conflict"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"url": "ftp://shop.example/"}, "url"), ({"url": "https://shop.example/#x"}, "url"), ({"url": 5}, "url"), ({"events": []}, "events"),
        ({"events": [{"type": "nope"}]}, "events[0].type"), ({"events": [{"type": "balance.below"}]}, "events[0]"),
        ({"events": [{"type": "transaction.settled", "percent": 5}]}, "events[0]"), ({"events": [{"type": "limit.reached", "percent": 0}]}, "events[0].percent"),
        ({"events": [{"type": "hold.expiring", "lead_s": 1}]}, "events[0].lead_s"), ({"events": [{"type": "day.quiet"}, {"type": "day.quiet"}]}, "events[1]"),
        ({"events": [{"type": "balance.below", "account_id": "zeta:wallet:main", "amount": 1}]}, "events[0].account_id"),
        ({"events": [{"type": "balance.below", "account_id": "acme:wallet:nobody", "amount": 1}]}, "events[0].account_id"),
        ({"events": [{"type": "balance.below", "account_id": "bank:clearing:CNY", "amount": 1}]}, "events[0].account_id"),
        ({"events": [{"type": "balance.below", "account_id": "acme:wallet:alice", "amount": 1.5}]}, "events[0].amount"),
        ({"partner_id": "acme"}, "partner_id"), ({"note": "x" * 201}, "note"), ({"secret": "mine"}, "secret"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(door: Door, fields: Any, field: str) -> None:
    answer = door.call("POST", "/v1/webhooks", {**BODY, **fields})
    assert (answer.status_code, answer.json()["code"]) == (422, "field_invalid"), answer.text
    assert answer.json()["errors"][0]["field"] == field


def test_hostile_targets_are_refused_where_private_ones_are_not_allowed() -> None:
    door = Door()
    settings = door.parts.settings
    door.parts.settings = settings.model_copy(update={"webhooks": WebhookSettings()})
    for url in ("https://127.0.0.1/", "https://169.254.169.254/latest", "http://shop.example/", "https://localhost/"):
        answer = door.call("POST", "/v1/webhooks", {**BODY, "url": url})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "url"), url


def test_thresholds_take_the_own_side_of_the_account(door: Door) -> None:
    door.world.ledger.must(OpenAccount("bank", "loan", "acme:loan:1", "asset", "CNY", None))
    events = [{"type": "balance.above", "account_id": a, "amount": -5} for a in ("acme:loan:1", "acme:wallet:alice")]
    made = door.made(events=events)
    assert made["events"] == events
    assert [w.normal for w in door.row(made["id"]).wants] == ["debit", "credit"]


def test_no_more_than_fifty_for_one_tree(door: Door) -> None:
    for n in range(50):
        door.made(who=("acme", "acme/shop-17")[n % 2])
    answer = door.call("POST", "/v1/webhooks", BODY, who="acme/shop-18")
    assert (answer.status_code, "50 subscriptions" in answer.json()["detail"]) == (422, True)
    door.made(who="zeta")


def test_what_is_not_delivered_is_listed_and_asked_for_again(door: Door) -> None:
    made, other = door.made(), door.made()
    rows = [
        Delivery(f"{n:032x}", (made if n % 2 else other)["id"], n, "acme:wallet:alice", "transaction.settled", b'{"type":"transaction.settled"}',
                 "dead" if n % 3 == 0 else "pending", 2, 5, 1, 1, 9 if n % 3 == 0 else 0, "answered 500", 500, n)
        for n in range(1, 20)
    ]  # fmt: skip
    door.parts.webhooks.queued = QueuedInMemory(rows)
    path = f"/v1/webhooks/{made['id']}/deliveries"
    listed = door.call("GET", path).json()["items"]
    assert [d["id"] for d in listed] == [f"{n:032x}" for n in range(1, 20, 2)]
    assert listed[0] == {
        "id": f"{1:032x}", "event": "transaction.settled", "account": "acme:wallet:alice", "state": "pending", "attempts": 2,
        "created_at": "1970-01-01T00:00:00.001Z", "next_at": "1970-01-01T00:00:00.005Z", "died_at": None,
        "last_error": "answered 500", "last_status": 500, "body": {"type": "transaction.settled"},
    }  # fmt: skip
    page = door.call("GET", f"{path}?status=dead&limit=2").json()
    assert [d["id"] for d in page["items"]] == [f"{n:032x}" for n in (3, 9)]
    rest = door.call("GET", f"{path}?limit=2&cursor={page['next_cursor']}").json()
    assert ([d["id"] for d in rest["items"]], rest["next_cursor"]) == ([f"{15:032x}"], None)
    asked = door.call("POST", f"{path}/{3:032x}/redeliver")
    assert (asked.status_code, asked.content) == (202, b"")
    row = door.parts.access.get(f"r:{3:032x}")
    assert isinstance(row, Redelivery)
    assert (row.subscription_id, row.partition) == (made["id"], partition_of("acme", door.parts.partitions))
    assert door.call("POST", f"{path}/{4:032x}/redeliver").status_code == 404, "another subscription's"


def test_every_write_needs_its_key_and_every_call_the_scope(door: Door) -> None:
    made = door.made()
    narrow = door.world.key("acme", ["read", "keys"])

    async def call(method: str, path: str, token: str) -> Any:
        async with door.world.client(token) as client:
            answer = await client.request(method, path, json=BODY)
        return answer.status_code, answer.json()

    for method, more in (("POST", ""), ("PATCH", f"/{made['id']}"), ("DELETE", f"/{made['id']}"), ("POST", f"/{made['id']}/verify"),
                         ("POST", f"/{made['id']}/rotate"), ("POST", f"/{made['id']}/deliveries/{'ab' * 16}/redeliver")):  # fmt: skip
        status, problem = asyncio.run(call(method, f"/v1/webhooks{more}", door.world.key("acme")))
        assert (status, problem["code"]) == (400, "idempotency_key_missing"), (method, more)
        status, problem = asyncio.run(call(method, f"/v1/webhooks{more}", narrow))
        assert (status, problem["scope"]) == (403, "webhooks"), (method, more)
