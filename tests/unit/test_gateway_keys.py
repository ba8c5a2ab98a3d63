"""Keys over HTTP: made once for an idempotency key, never able to do more than their maker, replaced and revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import pytest

from clearline import keys
from clearline.gateway.routes import keys as routes
from schemas.errors import PartUnavailableError
from tests.signed import PUBLIC, Door, a_request

Test = Callable[[httpx.AsyncClient], Awaitable[None]]
DAY_MS = 86_400_000


def with_key(
    door: Door, test: Test, partner: str = "acme", scopes: Sequence[str] = keys.ALL_SCOPES, **more: Any
) -> str:
    """Runs a test as a client with a new key; returns the key's id."""
    made = door.key(partner, scopes, **more)

    async def run() -> None:
        async with door.client(Authorization=f"Bearer {made.token}") as client:
            await test(client)

    asyncio.run(run())
    return made.key.key_id


async def make(client: httpx.AsyncClient, key: str = "k-1", partner: str = "", **body: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key, **({"Clearline-Partner": partner} if partner else {})}
    return await client.post("/v1/keys", json=body, headers=headers)


def test_a_key_is_made_and_shows_its_token_once() -> None:
    door = Door()

    async def test(client: httpx.AsyncClient) -> None:
        answer = await make(
            client, scopes=["read", "transact:wallet:*"], note="till 7", public_key=PUBLIC, thumbprint="AB" * 32
        )
        made = answer.json()
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/v1/keys/{made['key_id']}"
        assert answer.headers["cache-control"] == "no-store"
        assert "idempotent-replayed" not in answer.headers
        assert (made["partner_id"], made["state"], made["note"]) == ("acme", "active", "till 7")
        assert made["scopes"] == ["read", "transact:wallet:*"]
        assert (made["thumbprint"], made["signature"], made["expires_at"]) == ("ab" * 32, "optional", None)
        assert made["created_at"].endswith("Z")
        listed = (await client.get("/v1/keys")).json()
        assert {k["key_id"] for k in listed["items"]} >= {made["key_id"]}
        assert made["token"] not in str(listed)
        assert "secret" not in str(listed)
        row = door.parts.access.get(keys.row_key(made["key_id"]))
        assert keys.matches(row, keys.read_token(made["token"]).secret)  # type: ignore[arg-type, union-attr]
        again = await make(
            client, scopes=["read", "transact:wallet:*"], note="till 7", public_key=PUBLIC, thumbprint="AB" * 32
        )
        assert again.status_code == 201
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json() == {**made, "token": None}
        other = await make(client, scopes=["read"])
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")

    with_key(door, test)


def test_a_new_key_works_at_once_and_ends_at_once() -> None:
    door = Door()

    async def test(client: httpx.AsyncClient) -> None:
        made = (await make(client, partner="acme/shop-17", scopes=["keys", "read"])).json()
        assert made["partner_id"] == "acme/shop-17"
        own = {"Authorization": f"Bearer {made['token']}"}
        seen = await client.get("/v1/keys", headers=own)
        assert [k["key_id"] for k in seen.json()["items"]] == [made["key_id"]]  # it does not see its maker's
        gone = await client.delete(f"/v1/keys/{made['key_id']}", headers={"Idempotency-Key": "d-1"})
        assert (gone.status_code, gone.content) == (204, b"")
        assert (await client.get("/v1/keys", headers=own)).status_code == 401
        again = await client.delete(f"/v1/keys/{made['key_id']}", headers={"Idempotency-Key": "d-2"})
        assert again.status_code == 204
        listed = (await client.get("/v1/keys")).json()["items"]
        assert {k["state"] for k in listed if k["key_id"] == made["key_id"]} == {"revoked"}
        assert {k["requested_by"] for k in listed if k["key_id"] == made["key_id"]} != {""}

    with_key(door, test)


@pytest.mark.parametrize(
    ("have", "wanted", "missing"),
    [
        (["keys"], ["read"], "read"),
        (["keys", "read"], ["keys", "limits", "read"], "limits"),
        (["keys", "transact:wallet:*"], ["transact:*:*"], "transact:*:*"),
        (["keys", "transact:wallet:*"], ["transact:*:pay"], "transact:*:pay"),
        (["keys", "transact:wallet:pay"], ["transact:wallet:*"], "transact:wallet:*"),
        (["keys", "transact:wallet:*"], ["transact:wallet:pay", "transact:wallet:*"], None),
        (["keys", "transact:*:pay"], ["transact:wallet:pay", "keys"], None),
        (["read"], ["read"], "keys"),
    ],
)
def test_a_key_can_do_nothing_that_its_maker_cannot(have: list[str], wanted: list[str], missing: str | None) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        answer = await make(client, scopes=wanted)
        if missing is None:
            assert answer.status_code == 201
        else:
            assert (answer.status_code, answer.json()["code"], answer.json()["scope"]) == (
                403,
                "scope_missing",
                missing,
            )

    with_key(Door(), test, scopes=have)


def test_keys_of_others_are_not_there() -> None:
    door = Door()
    others = [door.key(p).key.key_id for p in ("zeta", "acme", "acme/shop-18")]

    async def test(client: httpx.AsyncClient) -> None:
        for key_id in (*others, "z" * 16, "nonsense", "a%2Fb"):
            answer = await client.delete(f"/v1/keys/{key_id}", headers={"Idempotency-Key": "d"})
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), key_id
            replaced = await make(client, key=f"r{key_id}", replaces=key_id[:16], scopes=["read"])
            assert replaced.json()["errors"] == [{"field": "replaces", "rule": "is no key of acme/shop-17"}]
        assert len((await client.get("/v1/keys")).json()["items"]) == 1
        for partner in ("acme", "zeta", "acme/shop-18"):
            assert (await make(client, partner=partner, scopes=["read"])).json()["code"] == "forbidden"

    with_key(door, test, "acme/shop-17")


def test_a_key_is_replaced_with_an_overlap() -> None:
    door = Door()
    old = door.key(
        scopes=["read", "keys"],
        public_key=keys.read_public_key(PUBLIC),
        thumbprint="",
        expires_at=door.now_ms + 10 * DAY_MS,
    )

    async def test(client: httpx.AsyncClient) -> None:
        answer = await make(client, replaces=old.key.key_id, overlap_s=60, note="yearly")
        new = answer.json()
        assert answer.status_code == 201
        assert (new["scopes"], new["public_key"], new["replaces"]) == (
            ["keys", "read"],
            old.key.public_key.hex(),
            old.key.key_id,
        )
        assert new["expires_at"] is None
        token = {"Authorization": f"Bearer {new['token']}"}
        assert (await client.get("/v1/keys", headers=token)).status_code == 200
        assert (await client.get("/v1/keys", headers={"Authorization": f"Bearer {old.token}"})).status_code == 200
        door.now_ms += 60_000
        assert (await client.get("/v1/keys", headers={"Authorization": f"Bearer {old.token}"})).status_code == 401
        assert (await client.get("/v1/keys", headers=token)).status_code == 200
        again = await make(client, replaces=old.key.key_id, overlap_s=60, note="yearly")
        assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
        late = await make(client, key="k-2", replaces=old.key.key_id)
        assert late.json()["errors"][0]["field"] == "replaces"

    with_key(door, test)


def test_a_try_that_broke_off_between_the_two_rows_is_completed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door()
    old = door.key(scopes=["read"])
    put, writes = door.parts.access.put, []

    def breaks(key: str, row: Any, timeout_s: float = 15.0) -> None:
        writes.append(key)
        if len(writes) == 3:  # the caller's own, the new one, then the one that it replaces
            raise PartUnavailableError("Kafka", "nowhere", "gone")
        put(key, row)

    monkeypatch.setattr(door.parts.access, "put", breaks)

    async def test(client: httpx.AsyncClient) -> None:
        first = await make(client, replaces=old.key.key_id, overlap_s=60)
        assert (first.status_code, first.json()["code"]) == (503, "unavailable")
        door.now_ms += 5_000
        again = await make(client, replaces=old.key.key_id, overlap_s=60)
        assert (again.status_code, again.headers["idempotent-replayed"], again.json()["token"]) == (201, "true", None)
        row: Any = door.parts.access.get(keys.row_key(old.key.key_id))
        assert row.expires_at == door.now_ms - 5_000 + 60_000  # as the first try meant it

    with_key(door, test)
    assert len(writes) == 4


def test_tries_at_once_make_one_key() -> None:
    door = Door()
    tokens: list[str] = []

    async def test(client: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(*(make(client, scopes=["read"]) for _ in range(8)))
        assert {a.status_code for a in answers} == {201}
        assert len({a.json()["key_id"] for a in answers}) == 1
        tokens.extend(a.json()["token"] for a in answers if a.json()["token"])

    with_key(door, test)
    assert len(tokens) == 1
    assert door.ask(a_request(token=tokens[0])) == "acme/shop-17"


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "scopes", "is missing"),
        ({"scopes": []}, "scopes", "at least 1"),
        ({"scopes": ["write"]}, "scopes", "is no scope; known are"),
        ({"scopes": ["transact:wallet"]}, "scopes", "is no scope"),
        ({"scopes": ["transact:a b:c"]}, "scopes", "is no scope"),
        ({"scopes": "read"}, "scopes", "must be a JSON array"),
        ({"scopes": ["read"], "public_key": "zz"}, "public_key", "must be an Ed25519 key"),
        ({"scopes": ["read"], "signature": "required"}, "public_key", "is missing"),
        ({"scopes": ["read"], "signature": "never"}, "signature", "must be 'optional' or 'required'"),
        ({"scopes": ["read"], "thumbprint": "zz"}, "thumbprint", "64 hexadecimal digits"),
        ({"scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at", "in the future"),
        ({"scopes": ["read"], "expires_at": 5}, "expires_at", "must be a time"),
        ({"scopes": ["read"], "overlap_s": 10**30}, "overlap_s", "less than or equal"),
        ({"scopes": ["read"], "note": "x\n"}, "note", "printable"),
        ({"scopes": ["read"], "partner_id": "zeta"}, "partner_id", "is not taken from the body"),
        ({"scopes": ["read"], "secret": "mine"}, "secret", "is not a field of Key"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], field: str, words: str) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        answer = await make(client, **body)
        assert (answer.status_code, answer.json()["code"]) == (422, "field_invalid")
        (error,) = answer.json()["errors"]
        assert error["field"] == field
        assert words in error["rule"]

    with_key(Door(), test)


def test_writes_need_an_idempotency_key() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        for answer in (
            await client.post("/v1/keys", json={"scopes": ["read"]}),
            await client.delete("/v1/keys/" + "a" * 16),
        ):
            assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_missing")

    with_key(Door(), test)


def test_the_list_is_paged() -> None:
    door = Door()
    made = sorted(door.key("acme/shop-17").key.key_id for _ in range(7))

    async def test(client: httpx.AsyncClient) -> None:
        seen: list[str] = []
        cursor: dict[str, Any] = {}
        for _ in range(3):
            page = (
                await client.get(
                    "/v1/keys", params={"limit": 3, **cursor}, headers={"Clearline-Partner": "acme/shop-17"}
                )
            ).json()
            seen += [k["key_id"] for k in page["items"]]
            cursor = {"cursor": page["next_cursor"]}
        assert page["next_cursor"] is None
        assert seen == made
        for broken in ("!", "abc", "é", "A" * 64):
            answer = await client.get("/v1/keys", params={"cursor": broken})
            assert (answer.status_code, answer.json()["code"]) == (400, "cursor_invalid"), broken
        assert (await client.get("/v1/keys", params={"limit": 0})).status_code == 422

    with_key(door, test)


def test_a_partner_has_only_so_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "KEYS_MAX", 2)
    door = Door()
    gone = door.key()
    door.put(keys.revoke(gone.key, door.now_ms))

    async def test(client: httpx.AsyncClient) -> None:
        assert (await make(client, scopes=["read"])).status_code == 201
        answer = await make(client, key="k-2", scopes=["read"])
        assert "acme has 2 keys" in answer.json()["detail"]

    with_key(door, test)
