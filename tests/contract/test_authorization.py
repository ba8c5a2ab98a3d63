"""Who may do what: every route of the gateway, with the credential of its object's own partner, of one above, below, beside
(also one whose name begins the same), of another root, with none, a wrong, an ended one, one of another world or without
the scope. What is not one's own answers exactly as what does not exist.

A route without a row fails the first test.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count, product
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import msgspec
import pytest

from clearline import keys
from clearline.gateway.openapi.operations import OPERATIONS
from clearline.webhooks.ports import QueuedInMemory
from schemas.examples import examples
from schemas.records import AdmitPartner, Delivery, Limit, SetLimit
from tests.contract.gateway_world import PARTNERS, GatewayWorld, routes_of
from tests.gateway import in_loop

SCOPES = (*keys.SIMPLE_SCOPES, "transact:*:*")
PAYMENT = {"product": "wallet", "operation": "transfer", "amount": 100, "currency": "CNY"}
NOT_THERE = {
    "transaction": "0" * 32, "key": "0" * 16, "webhook": "wh_" + "0" * 32, "partner": "acme/nobody",
    "account": "acme:wallet:nobody",
}  # fmt: skip


def above(partner: str, other: str) -> bool:
    """Whether a partner is another or above it: what it sees."""
    return other == partner or other.startswith(partner + "/")


class Row(NamedTuple):
    """What is expected of a route. `of`: the kind of object that its path names, empty for none; `granted`: the answer to
    who may; `scope`: what it needs, None: no credential; `acts`: only the object's own partner may, or one above in its
    name; `body`: of the object's owner."""

    scope: str | None
    granted: int
    of: str = ""
    acts: bool = False
    body: Callable[[str], Any] | None = None


def pay(owner: str) -> dict[str, Any]:
    return {**PAYMENT, "accounts": {"payer": f"{owner}:wallet:till", "payee": f"{owner}:wallet:safe"}}


LIMITS = [{"window": "day", "currency": "CNY", "amount_max": 1_000_000}]
HOOK = {"url": "https://shop.example/hooks", "events": [{"type": "transaction.settled"}]}
T = "transact:wallet:transfer"
NUMBERS = count(1)
ROWS: dict[tuple[str, str], Row] = {
    ("POST", "/v1/transactions"): Row(T, 201, "own", body=pay),
    ("POST", "/v1/transactions:batch"): Row(None, 200, "own", body=lambda o: {"transactions": [pay(o)]}),
    ("GET", "/v1/transactions/{id}"): Row("read", 200, "transaction"),
    ("GET", "/v1/transactions/{id}/explain"): Row("read", 200, "transaction"),
    ("POST", "/v1/transactions/{id}/capture"): Row(
        "transact:scan-to-pay:capture", 201, "hold", acts=True, body=lambda _: {"amount": 1}
    ),
    ("POST", "/v1/transactions/{id}/void"): Row("transact:scan-to-pay:void", 201, "hold", acts=True, body=lambda _: {}),
    ("POST", "/v1/transactions/{id}/refund"): Row(
        "transact:wallet:refund", 201, "transaction", acts=True, body=lambda _: {"amount": 1}
    ),
    ("POST", "/v1/transactions/{id}/reversal"): Row(
        "transact:wallet:reversal", 201, "transaction", acts=True, body=lambda _: {}
    ),
    ("GET", "/v1/accounts"): Row("read", 200, "list"),
    ("POST", "/v1/accounts"): Row("accounts", 201, "new account"),
    ("GET", "/v1/accounts/{account_id}"): Row("read", 200, "account"),
    ("GET", "/v1/accounts/{account_id}/balance"): Row("read", 200, "account"),
    ("GET", "/v1/accounts/{account_id}/statement"): Row("read", 200, "account"),
    ("GET", "/v1/partner"): Row("read", 200, "own"),
    ("GET", "/v1/partners"): Row("read", 200, "list"),
    ("GET", "/v1/partners/{partner_id}"): Row("read", 200, "partner"),
    ("GET", "/v1/products"): Row("read", 200, "own"),
    ("GET", "/v1/products/{product}"): Row("read", 200, "shelf"),
    ("GET", "/v1/limits"): Row("read", 200, "list"),
    ("PUT", "/v1/limits/{level}/{subject}"): Row("limits", 201, "below", body=lambda _: {"limits": LIMITS}),
    ("GET", "/v1/reports"): Row("reports", 200, "own"),
    ("GET", "/v1/reports/{name}"): Row("reports", 200, "report"),
    ("GET", "/v1/data/aggregates"): Row("reports", 200, "figures"),
    ("GET", "/v1/data/series"): Row("reports", 200, "figures"),
    ("GET", "/v1/data/top"): Row("reports", 200, "figures"),
    ("GET", "/v1/data/cash-flow/{account_id}"): Row("reports", 200, "account"),
    ("GET", "/v1/data/tables"): Row("data", 200, "own"),
    ("PUT", "/v1/data/tables/{table}"): Row("data", 201, "own", body=lambda o: f"partner,n\n{o},{next(NUMBERS)}\n".encode()),
    ("GET", "/v1/data/tables/{table}"): Row("data", 200, "table"),
    ("DELETE", "/v1/data/tables/{table}"): Row("data", 204, "table"),
    ("GET", "/v1/keys"): Row("keys", 200, "list"),
    ("POST", "/v1/keys"): Row("keys", 201, "own", body=lambda _: {"scopes": ["keys"]}),
    ("DELETE", "/v1/keys/{key_id}"): Row("keys", 204, "key"),
    ("GET", "/v1/webhooks"): Row("webhooks", 200, "list"),
    ("POST", "/v1/webhooks"): Row("webhooks", 201, "own", body=lambda _: HOOK),
    ("GET", "/v1/webhooks/{webhook_id}"): Row("webhooks", 200, "webhook"),
    ("PATCH", "/v1/webhooks/{webhook_id}"): Row("webhooks", 200, "webhook", body=lambda _: {"note": "changed"}),
    ("DELETE", "/v1/webhooks/{webhook_id}"): Row("webhooks", 204, "webhook"),
    ("POST", "/v1/webhooks/{webhook_id}/verify"): Row("webhooks", 422, "webhook"),
    ("POST", "/v1/webhooks/{webhook_id}/rotate"): Row("webhooks", 200, "webhook"),
    ("GET", "/v1/webhooks/{webhook_id}/deliveries"): Row("webhooks", 200, "webhook"),
    ("POST", "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"): Row("webhooks", 202, "delivery"),
    ("GET", "/v1/onboarding"): Row("read", 200, "own"),
    ("POST", "/v1/onboarding/go-live"): Row("keys", 409, "own", body=lambda _: {}),
    ("POST", "/v1/sandbox/reset"): Row("keys", 200, "own"),
    ("POST", "/v1/sandbox/partners"): Row(None, 201, "open", body=lambda _: {"name": "New"}),
    **{
        ("GET", path): Row(None, 200, "open")
        for path in (
            "/healthz", "/readyz", "/v1/status", "/metrics", "/docs", "/docs/{file}", "/openapi.json", "/asyncapi.yaml",
            "/reasons", "/reasons/{code}",
        )
    },
}  # fmt: skip
VALUES = {"table": "regions", "file": "swagger-ui.css", "product": "wallet", "code": "insufficient_funds"}


class Matrix:
    """The world with an account, keys and a client of each partner, and makers of the objects that paths name."""

    def __init__(self) -> None:
        self.world = GatewayWorld()
        self.ledger = self.world.ledger
        for p in PARTNERS:
            self.ledger.open(f"{p}:wallet:safe", funds=1_000_000)
            if f"{p}:wallet:till" not in self.ledger.accounts():
                self.ledger.open(f"{p}:wallet:till", funds=1_000_000)
        self.clients = {p: self.world.client(self.world.key(p)) for p in PARTNERS}

    def key(self) -> str:
        """A key that no other world has used: worlds that are alike share what partners' tables are in."""
        return f"m-{next(NUMBERS)}"

    async def ask(
        self, client: httpx.AsyncClient, method: str, path: str, body: Any = None, **headers: str
    ) -> httpx.Response:
        """One call; a write with a key of its own that waits for its outcome."""
        if method != "GET":
            headers = {"Idempotency_Key": self.key(), "Prefer": "wait=5", **headers}
        sent = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
        if isinstance(body, bytes):
            sent.append((b"Content-Type", b"text/csv"))
        return await client.request(
            method, path, headers=sent, **{"content" if isinstance(body, bytes) else "json": body}
        )

    async def make(self, kind: str, owner: str) -> dict[str, str]:
        """A new object of a partner: the values of the path that names it."""
        client = self.clients[owner]
        if kind in ("transaction", "hold"):
            form = pay(owner)
            if kind == "hold":
                form |= {"product": "scan-to-pay", "operation": "hold"}
            made = await self.ask(client, "POST", "/v1/transactions", form)
            assert made.status_code == 201, made.text
            return {"id": made.json()["id"]}
        if kind == "table":
            row = ([owner], [f"{next(NUMBERS)}"])
            name, tables = re.sub(r"\W", "_", owner), self.world.parts.tables
            there = await tables.ask(lambda t: t.current(owner, name))
            if there is None or there.deleted:
                await tables.ask(lambda t: t.put(owner, name, "a", ("a", "b"), row, "k", self.key()))
            return {"table": name}
        if kind == "key":
            return {"key_id": self.world.key(owner).split("_")[1]}
        if kind in ("webhook", "delivery"):
            made = await self.ask(client, "POST", "/v1/webhooks", HOOK)
            assert made.status_code == 201, made.text
            name = made.json()["id"]
            return {"webhook_id": name, **({"delivery_id": self.queue(owner, name)} if kind == "delivery" else {})}
        return {
            "account": {"account_id": f"{owner}:wallet:till"}, "partner": {"partner_id": owner},
            "below": {"level": "account", "subject": f"{owner}:wallet:till"}, "shelf": {"product": "wallet"},
            "report": {"name": "balances", "?partner": owner}, "figures": {"?partner": owner},
        }.get(kind, {})  # fmt: skip

    def queue(self, owner: str, subscription_id: str) -> str:
        """A delivery that waits; its id."""
        queued = self.world.parts.webhooks.queued
        assert isinstance(queued, QueuedInMemory)
        (example, *_) = examples("Delivery")
        assert isinstance(example, Delivery)
        name = f"{len(queued.rows):032x}"
        queued.rows.append(msgspec.structs.replace(example, delivery_id=name, subscription_id=subscription_id))
        return name


def missing(kind: str, values: dict[str, str]) -> dict[str, str]:
    """The same path for something that does not exist."""
    names = {
        "id": NOT_THERE["transaction"], "key_id": NOT_THERE["key"], "webhook_id": NOT_THERE["webhook"],
        "partner_id": NOT_THERE["partner"], "account_id": NOT_THERE["account"], "subject": "nobody:wallet:nobody",
        "?partner": NOT_THERE["partner"], "table": "none",
    }  # fmt: skip
    return {name: names.get(name, value) for name, value in values.items()}


def path_of(template: str, values: dict[str, str], end: str = "") -> str:
    """The path with the values in it, `end`, and those whose names begin with a question mark as its query."""
    path = re.sub(r"{(\w+)}", lambda m: quote({**VALUES, **values}[m[1]], safe=":"), template)
    return path + end + "".join(f"{name}={quote(value)}" for name, value in values.items() if name.startswith("?"))


def told(answer: httpx.Response) -> dict[str, Any]:
    """A problem without what names this one answer."""
    document: dict[str, Any] = answer.json()
    document.pop("instance")
    return document


def credentials(world: GatewayWorld, scope: str | None) -> dict[str, tuple[str, int, str]]:
    """Wrong ones: the header's value, and what it is told."""
    ended = world.key("acme", expires_at=world.parts.now_ms() + 1)
    revoked = world.key("acme")
    row = keys.row_key(revoked.split("_")[1])
    world.parts.access.put(row, keys.revoke(world.parts.access.get(row), world.parts.now_ms()))  # type: ignore[arg-type]
    world.ledger.advance(10)
    good = world.key("acme")
    found = {
        "none": ("", 401, "unauthenticated"),
        "empty": ("Bearer ", 401, "unauthenticated"),
        "another scheme": (f"Basic {good}", 401, "unauthenticated"),
        "no such key": ("Bearer test_" + "0" * 16 + "_" + "A" * 43, 401, "unauthenticated"),
        "another secret": (f"Bearer {good[:-1]}{'A' if good[-1] != 'A' else 'B'}", 401, "unauthenticated"),
        "another world": (f"Bearer live_{good[5:]}", 401, "unauthenticated"),
        "revoked": (f"Bearer {revoked}", 401, "unauthenticated"),
        "ended": (f"Bearer {ended}", 401, "unauthenticated"),
    }
    if scope is not None:
        others = [s for s in SCOPES if s != scope and not (s.startswith("transact:") and scope.startswith("transact:"))]
        found["without the scope"] = (f"Bearer {world.key('acme', others)}", 403, "scope_missing")
    return found


async def granted(
    m: Matrix, method: str, path: str, row: Row, owner: str, client: httpx.AsyncClient, **more: str
) -> None:
    values = await m.make(row.of, owner)
    body = row.body(owner) if row.body is not None else None
    answer = await m.ask(client, method, path_of(path, values), body, **more)
    assert answer.status_code == row.granted, (method, path, owner, answer.text[:500])
    if row.granted == 422:
        assert answer.json()["code"] == "verification_failed"


OBJECTS = (
    "transaction", "hold", "account", "partner", "key", "webhook", "delivery", "below", "report", "figures", "table",
)  # fmt: skip
WITH_OBJECT = [key for key, row in ROWS.items() if row.of in OBJECTS]
WITHOUT_OBJECT = [key for key, row in ROWS.items() if key not in WITH_OBJECT and row.of != "open"]
OPEN = [key for key, row in ROWS.items() if row.of == "open"]


def over(routes: list[tuple[str, str]]) -> pytest.MarkDecorator:
    """A test for each of these. What is asked of ClickHouse, is asked of a real one."""
    found = [pytest.param(*r, id=" ".join(r), marks=pytest.mark.stack if in_clickhouse(*r) else ()) for r in routes]
    return pytest.mark.parametrize(("method", "path"), found)


def in_clickhouse(method: str, path: str) -> bool:
    """Whether an answer comes from ClickHouse."""
    return path.startswith(("/v1/reports/", "/v1/data/"))


def test_every_route_has_a_row():
    world = GatewayWorld()
    assert set(ROWS) == routes_of(world.app)
    assert {key for key, row in ROWS.items() if row.of == "open"} == {
        k for k, o in OPERATIONS.items() if o.scope is None
    }


@over(OPEN)
@in_loop
async def test_what_is_open_needs_no_credential_and_minds_none(method, path):
    m = Matrix()
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        row = ROWS[method, path]
        body = row.body("") if row.body is not None else None
        answer = await m.ask(m.world.client(**headers), method, path_of(path, {}), body)
        assert answer.status_code == row.granted


@over([*WITH_OBJECT, *WITHOUT_OBJECT])
@in_loop
async def test_a_wrong_credential_is_told_the_same_whatever_it_asks_for(method, path):
    m = Matrix()
    row = ROWS[method, path]
    values = await m.make(row.of, "acme")
    body = row.body("acme") if row.body is not None else None
    for name, (header, status, code) in credentials(m.world, row.scope).items():
        client = m.world.client(**({"Authorization": header} if header else {}))
        there = await m.ask(client, method, path_of(path, values), body)
        assert (there.status_code, there.json()["code"]) == (status, code), (name, there.text)
        assert ("www-authenticate" in there.headers) == (status == 401)
        assert there.json().get("scope") == (row.scope if code == "scope_missing" else None), there.text
        gone = await m.ask(client, method, path_of(path, missing(row.of, values)), body)
        if status == 401:
            assert told(there) == told(gone), name


@over(WITH_OBJECT)
@in_loop
async def test_who_may_may_and_for_everybody_else_it_does_not_exist(method, path):
    m = Matrix()
    row = ROWS[method, path]
    for owner, asker in product(PARTNERS, PARTNERS):
        client = m.clients[asker]
        if above(asker, owner) and row.of == "below":
            continue  # what the ledger says to each is its own matter: docs/products.md
        if above(asker, owner) and row.of == "table" and asker != owner:
            there = await m.ask(client, method, path_of(path, missing(row.of, await m.make(row.of, owner))))
            assert (there.status_code, there.json()["code"]) == (404, "not_found")  # a table is of who acts
            await granted(m, method, path, row, owner, client, Clearline_Partner=owner)
        elif above(asker, owner) and row.acts and asker != owner:
            values = await m.make(row.of, owner)
            for_another = await m.ask(client, method, path_of(path, values), row.body and row.body(owner))
            assert (for_another.status_code, for_another.json()["code"]) == (403, "forbidden")
            await granted(m, method, path, row, owner, client, Clearline_Partner=owner)
        elif above(asker, owner):
            await granted(m, method, path, row, owner, client)
            await granted(m, method, path, row, owner, client, Clearline_Partner=owner)
        else:
            values = await m.make(row.of, owner)
            body = row.body(owner) if row.body is not None else None
            there = await m.ask(client, method, path_of(path, values), body)
            gone = await m.ask(client, method, path_of(path, missing(row.of, values)), body)
            assert there.status_code == gone.status_code == 404, (owner, asker, there.text)
            assert told(there) == told(gone), (owner, asker)
            assert set(there.headers) == set(gone.headers)


@over([k for k in WITHOUT_OBJECT if ROWS[k].of != "new account"])
@in_loop
async def test_what_is_ones_own_is_granted_to_everybody(method, path):
    m = Matrix()
    for partner in PARTNERS:
        await granted(m, method, path, ROWS[method, path], partner, m.clients[partner])


@over([k for k, row in ROWS.items() if row.of != "open"])
@in_loop
async def test_nobody_acts_for_a_partner_that_is_not_below(method, path):
    """However the header is written. What does not exist is told the same as what does."""
    m = Matrix()
    row = ROWS[method, path]
    values = await m.make(row.of, "acme")
    body = row.body("acme") if row.body is not None else None
    answers = []
    for header in HEADERS:
        answer = await m.ask(m.clients["acme"], method, path_of(path, values), body, Clearline_Partner=header)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (header, answer.text)
        answers.append(told(answer))
    assert all(a == answers[0] for a in answers)
    for child in ("acme", "acme/shop-18", "acme/shop-1", "zeta", "acme/shop-17x"):
        answer = await m.ask(m.clients["acme/shop-17"], method, path_of(path, values), body, Clearline_Partner=child)
        assert told(answer) == answers[0], child


HEADERS = (
    "zeta", "nobody", "bank", "ACME", "Acme/shop-17", "acme/", "/acme", "acme//shop-17", "acme/shop-17/", "acme/../zeta",
    "acme/./shop-17", "../zeta", "acme%2Fshop-17", "acme%2F..%2Fzeta", "acme/shop-17, zeta", "acme,zeta", "acme;zeta",
    "acme\\shop-17", "acme:zeta", "acme/*", "acme/%", "*", "%", "_cme", "acm", "acmee", "", "null", "acme\x00",
    "acme/shop-17 zeta", "ａｃｍｅ".encode().decode("latin-1"), "acme\u00a0", "acm\u00e9", "acme\u00ad", "a" * 5_000,
)  # fmt: skip


@over([k for k, row in ROWS.items() if row.of != "open"])
@in_loop
async def test_a_key_of_the_bank_reads_figures_of_everybody_and_nothing_else(method, path):
    m = Matrix()
    row = ROWS[method, path]
    client = m.world.client(m.world.key("bank", ["reports"]))
    for owner in ("acme", "acme/shop-17", "zeta"):
        values = await m.make(row.of, owner)
        body = row.body(owner) if row.body is not None else None
        answer = await m.ask(client, method, path_of(path, values), body)
        if row.scope == "reports":
            assert answer.status_code == row.granted, answer.text
        elif path.endswith(":batch"):
            assert [r["body"]["code"] for r in answer.json()["results"]] == ["scope_missing"]
        elif row.acts:  # it is looked for among what the asker sees, before the scope follows from what it is
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), answer.text
        else:
            assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing"), answer.text
        for named in (owner, "bank/desk", "bank/", "nobody"):
            other = await m.ask(client, method, path_of(path, values), body, Clearline_Partner=named)
            assert (other.status_code, other.json()["code"]) == (403, "forbidden"), other.text


@in_loop
async def test_the_header_is_taken_once():
    m = Matrix()
    for twice in (("acme", "acme"), ("acme", "zeta"), ("zeta", "acme"), ("acme/shop-17", "acme")):
        headers = [("Clearline-Partner", value) for value in twice]
        answer = await m.clients["acme"].get("/v1/partner", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), twice


@in_loop
async def test_a_credential_is_given_once():
    m = Matrix()
    one, other = (f"Bearer {m.world.key(p)}" for p in ("acme", "zeta"))
    for twice in ((one, other), (other, one), (one, one), (one, "")):
        answer = await m.world.client().get("/v1/partner", headers=[("Authorization", value) for value in twice])
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), twice


@in_loop
async def test_limits_are_set_for_what_is_below():
    m = Matrix()
    for asker, owner in product(PARTNERS, PARTNERS):
        for level, subject in (("partner", owner), ("account", f"{owner}:wallet:till")):
            path = f"/v1/limits/{level}/{quote(subject, safe=':')}"
            answer = await m.ask(m.clients[asker], "PUT", path, {"limits": LIMITS})
            if not above(asker, owner):
                assert answer.status_code == 404, (asker, subject, answer.text)
            elif asker == owner and level == "partner":
                assert (answer.status_code, answer.json()["code"]) == (422, "not_permitted"), (asker, answer.text)
            else:
                assert answer.status_code == 201, (asker, subject, answer.text)
    answer = await m.ask(m.clients["acme"], "PUT", "/v1/limits/product/wallet", {"limits": LIMITS})
    assert answer.json()["code"] == "not_permitted"


@over(list(ROWS))
@in_loop
async def test_a_slash_at_the_end_is_another_path_and_none(method, path):
    """Nothing is redirected: to where, the request itself would say."""
    m = Matrix()
    row = ROWS[method, path]
    values = await m.make(row.of, "acme")
    body = row.body("acme") if row.body is not None else None
    answer = await m.ask(m.clients["acme"], method, path_of(path, values, "/"), body)
    # Where ids may have slashes it is a longer id, of nothing; and one that is empty cannot be made anything of.
    longer = {"PUT /v1/limits/{level}/{subject}": "account_unknown", "POST /v1/accounts": "method_not_allowed"}
    assert answer.json()["code"] == longer.get(f"{method} {path}", "not_found"), answer.text


@in_loop
async def test_one_key_of_two_partners_names_two_transactions():
    """Nobody is answered with what another one asked for, however alike the requests are."""
    m = Matrix()
    seen: dict[str, str] = {}
    for asker in PARTNERS:
        for acting in (p for p in PARTNERS if above(asker, p)):
            answer = await m.ask(
                m.clients[asker],
                "POST",
                "/v1/transactions",
                pay(acting),
                Idempotency_Key="alike",
                Clearline_Partner=acting,
            )
            document = answer.json()
            assert answer.status_code == 201 and document["partner_id"] == acting, answer.text
            assert ("idempotent-replayed" in answer.headers) == (acting in seen)
            assert seen.setdefault(acting, document["id"]) == document["id"]
    assert len(set(seen.values())) == len(PARTNERS)


@over(OPEN)
@in_loop
async def test_what_is_open_tells_nothing_of_partners(method, path):
    if method == "POST":
        return  # whoever joins is told of himself
    m = Matrix()
    for partner in PARTNERS:
        await m.make("transaction", partner)
        await m.make("webhook", partner)
    answer = await m.ask(m.world.client(), method, path_of(path, {}))
    if path not in ("/openapi.json", "/asyncapi.yaml", "/reasons/{code}"):  # their examples have partners
        assert not re.search(r"acme|zeta|shop-17|wallet:", answer.text), path


LISTS = {
    "/v1/accounts": lambda item: item["partner_id"],
    "/v1/partners": lambda item: item["partner_id"],
    "/v1/keys": lambda item: item["partner_id"],
    "/v1/webhooks": lambda item: item["partner_id"],
    "/v1/limits": lambda item: item["subject"].partition(":")[0] if item["level"] != "product" else "",
}


def test_every_list_is_looked_through():
    lists = {path for (_, path), row in ROWS.items() if row.of == "list"}
    assert lists == set(LISTS)


@pytest.mark.parametrize("path", LISTS)
@in_loop
async def test_lists_hold_what_is_ones_own_and_below_and_nothing_else(path):
    m = Matrix()
    for p in PARTNERS:
        await m.make("webhook", p)
        m.ledger.must(SetLimit("bank", m.key(), "partner", p, (Limit("day", "CNY", None, 10**12),)))
        m.ledger.must(SetLimit("bank", m.key(), "account", f"{p}:wallet:till", (Limit("day", "CNY", None, 10**12),)))
    for asker in PARTNERS:
        for acting in (p for p in PARTNERS if above(asker, p)):
            seen: set[str] = set()
            cursor: str | None = ""
            while cursor is not None:
                query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
                answer = await m.clients[asker].get(path, params=query, headers={"Clearline-Partner": acting})
                assert answer.status_code == 200, answer.text
                seen |= {LISTS[path](item) for item in answer.json()["items"]}
                cursor = answer.json()["next_cursor"]
            own = {p for p in PARTNERS if above(acting, p)} - ({acting} if path == "/v1/partners" else set())
            assert seen - {""} == own, (asker, acting)


@pytest.mark.parametrize("path", [*LISTS, "/v1/accounts/acme%2Fshop-17:wallet:till/statement"])
@in_loop
async def test_a_cursor_of_another_partner_opens_nothing(path):
    """It is refused, or gives what its bearer sees anyway."""
    m = Matrix()
    for _ in range(3):
        for p in PARTNERS:
            await m.make("webhook", p)
            await m.make("transaction", p)
            m.world.key(p)
    for giver, taker in product(("acme", "acme/shop-17"), ("acme/shop-1", "acme/shop-18", "acme/shop-17/desk", "zeta")):
        first = (await m.clients[giver].get(path, params={"limit": 1})).json()
        if first.get("next_cursor") is None:
            assert path in ("/v1/limits", "/v1/partners"), path
            continue
        answer = await m.clients[taker].get(path, params={"cursor": first["next_cursor"]})
        if answer.status_code == 200:
            assert all(above(taker, LISTS[path](item)) for item in answer.json()["items"])
        else:
            assert answer.json()["code"] in ("cursor_invalid", "not_found")


@in_loop
async def test_only_of_a_partner_that_is_seen():
    """`?partner=` of another tree is as one that does not exist."""
    m = Matrix()
    for asker in PARTNERS:
        gone = await m.clients[asker].get("/v1/accounts", params={"partner": "nobody"})
        assert gone.status_code == 404
        for other in (*(p for p in PARTNERS if not above(asker, p)), "bank", f"{asker}/../zeta", "", "ZETA", "zeta/"):
            answer = await m.clients[asker].get("/v1/accounts", params={"partner": other})
            if answer.status_code == 200:
                assert answer.json()["items"] == [], (asker, other)
            else:
                assert told(answer) == told(gone), (asker, other)


PATHS = (
    "zeta:wallet:till", "ZETA:wallet:till", "acme%2F..%2Fzeta:wallet:till", "%2e%2e%2Fzeta:wallet:till", "bank:income:CNY",
    "acme:wallet:till%2F..%2F..%2Fzeta:wallet:till", "zeta%3Awallet%3Atill", "acme:wallet:till%00zeta:wallet:till",
    "acme%00:wallet:till", "zeta:wallet:till%20", "%20zeta:wallet:till", "*", "%25", "acme:*", "acme%2F%2F:wallet:till",
)  # fmt: skip


@pytest.mark.parametrize("tail", ["", "/balance", "/statement"])
@in_loop
async def test_no_spelling_of_a_path_leads_to_another_account(tail):
    m = Matrix()
    gone = await m.clients["acme"].get(f"/v1/accounts/{NOT_THERE['account']}{tail}")
    assert gone.status_code == 404
    for path in PATHS:
        answer = await m.clients["acme"].get(httpx.URL(f"https://api.example/v1/accounts/{path}{tail}"))
        assert told(answer) == told(gone), path


@in_loop
async def test_accounts_are_opened_in_the_own_tree_only():
    m = Matrix()
    told_all = []
    for asker, owner in product(PARTNERS, (*PARTNERS, "bank", "nobody")):
        form = {
            "account_id": f"{owner}:wallet:made-by-{asker.replace('/', '-')}",
            "type": "liability",
            "currency": "CNY",
        }
        answer = await m.ask(m.clients[asker], "POST", "/v1/accounts", form)
        if above(asker, owner):
            assert answer.status_code in (201, 422), (asker, owner, answer.text)
        else:
            assert answer.status_code == 404, (asker, owner, answer.text)
            told_all.append(told(answer))
            assert form["account_id"] not in m.ledger.accounts()
    assert all(t == told_all[0] for t in told_all)


@pytest.mark.parametrize("batch", [False, True])
@in_loop
async def test_no_money_leaves_an_account_that_is_not_seen(batch):
    m = Matrix()
    for asker, owner in product(PARTNERS, PARTNERS):
        if above(asker, owner):
            continue
        before = m.ledger.accounts()[f"{owner}:wallet:safe"]
        was = (before.debits_posted, before.debits_pending)
        form = {**PAYMENT, "accounts": {"payer": f"{owner}:wallet:safe", "payee": f"{asker}:wallet:till"}}
        body = {"transactions": [form]} if batch else form
        answer = await m.ask(m.clients[asker], "POST", f"/v1/transactions{':batch' if batch else ''}", body)
        status = answer.json()["results"][0]["status"] if batch else answer.status_code
        assert status == 422, (asker, owner, answer.text)
        after = m.ledger.accounts()[f"{owner}:wallet:safe"]
        assert (after.debits_posted, after.debits_pending) == was


@in_loop
async def test_a_batch_needs_the_scope_of_each_and_tells_nothing_of_others():
    m = Matrix()
    client = m.world.client(m.world.key("acme", ["read", "transact:wallet:refund"]))
    answer = await m.ask(client, "POST", "/v1/transactions:batch", {"transactions": [pay("acme")] * 2})
    assert [r["status"] for r in answer.json()["results"]] == [403, 403]
    assert {r["body"]["code"] for r in answer.json()["results"]} == {"scope_missing"}
    for wrong in credentials(m.world, None).values():
        headers = {"Authorization": wrong[0]} if wrong[0] else {}
        answer = await m.ask(
            m.world.client(**headers), "POST", "/v1/transactions:batch", {"transactions": [pay("acme")]}
        )
        assert answer.status_code == 401


@in_loop
async def test_a_statement_names_no_transaction_of_another():
    m = Matrix()
    paid = await m.ask(
        m.clients["acme"], "POST", "/v1/transactions",
        {**PAYMENT, "accounts": {"payer": "acme:wallet:till", "payee": "acme/shop-17:wallet:till"}},
    )  # fmt: skip
    name = paid.json()["id"]
    below = (await m.clients["acme/shop-17"].get("/v1/accounts/acme%2Fshop-17:wallet:till/statement")).json()
    own = (await m.clients["acme"].get("/v1/accounts/acme%2Fshop-17:wallet:till/statement")).json()
    assert name in [line["transaction_id"] for line in own["lines"]]
    assert name not in str(below)
    assert len(below["lines"]) == len(own["lines"])


@in_loop
async def test_an_event_about_another_ones_account_cannot_be_asked_for():
    m = Matrix()

    def hook(account_id: str) -> dict[str, Any]:
        return {**HOOK, "events": [{"type": "balance.below", "account_id": account_id, "amount": 1}]}

    for asker in PARTNERS:
        gone = await m.ask(m.clients[asker], "POST", "/v1/webhooks", hook(f"{asker}:wallet:nobody"))
        assert gone.status_code == 422
        for owner in (p for p in PARTNERS if not above(asker, p)):
            answer = await m.ask(m.clients[asker], "POST", "/v1/webhooks", hook(f"{owner}:wallet:till"))
            assert told(answer) == told(gone)


@in_loop
async def test_a_key_gives_no_more_than_its_maker_has():
    m = Matrix()
    maker = m.world.client(m.world.key("acme/shop-17", ["keys", "transact:wallet:*"]))
    for scopes, status in (
        (["keys"], 201), (["transact:wallet:transfer"], 201), (["transact:wallet:*"], 201),
        (["read"], 403), (["transact:*:transfer"], 403), (["transact:*:*"], 403), (["keys", "webhooks"], 403),
    ):  # fmt: skip
        made = await m.ask(maker, "POST", "/v1/keys", {"scopes": scopes})
        assert made.status_code == status, (scopes, made.text)
        if status == 201:
            assert made.json()["partner_id"] == "acme/shop-17"
    for field in ("partner_id", "key_id"):
        assert (await m.ask(maker, "POST", "/v1/keys", {"scopes": ["keys"], field: "acme"})).status_code == 422


def test_the_bank_has_no_keys():
    """Its staff works with commands on the machine; nothing of the bank's is anybody's here."""
    for name in ("bank", "bank/desk"):
        with pytest.raises(keys.KeyFieldError):
            keys.make(name, ["read"], sandbox=True, now_ms=1, requested_by="x")


@in_loop
async def test_what_is_the_banks_does_not_exist():
    m = Matrix()
    record = m.ledger.settle(AdmitPartner("bank", "admit-later", "later", "later", "live"))
    m.ledger.fund("acme:wallet:till", 5)
    funding = m.ledger.journal[-1]
    for name in (record.command_id.hex(), funding.command_id.hex()):
        gone = await m.clients["acme"].get(f"/v1/transactions/{NOT_THERE['transaction']}")
        assert told(await m.clients["acme"].get(f"/v1/transactions/{name}")) == told(gone)
    gone = await m.clients["acme"].get(f"/v1/partners/{quote(NOT_THERE['partner'], safe='')}")
    assert told(await m.clients["acme"].get("/v1/partners/bank")) == told(gone)
