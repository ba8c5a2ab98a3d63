"""The calls that become the examples of the OpenAPI document: each is made of a gateway over the twin, and its answer kept.

`python -m tests.contract.api_story` records them anew, into clearline/gateway/openapi/examples.json. The twin's clock and
ids are its own, so the same story gives the same answers; what is random (secrets, names of answers) is masked.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import msgspec

from clearline import keys
from clearline.gateway import onboarding
from clearline.gateway.memory_gate import MemoryGate
from clearline.gateway.openapi import examples
from clearline.gateway.openapi.examples import RECORDED_AT, Step
from clearline.gateway.openapi.operations import OPERATIONS
from clearline.gateway.parts import wall_clock_ms
from clearline.signing import Signer, new_key_pair
from clearline.webhooks.ports import QueuedInMemory
from schemas.examples import examples as records
from schemas.records import Delivery
from tests.contract.gateway_world import GatewayWorld
from tests.finance_ground import GroundReports

FILE = Path(examples.__file__).with_name("examples.json")
ALICE, BOB = "acme:wallet:alice", "acme:wallet:bob"
PAY = {"product": "wallet", "operation": "transfer", "amount": 12_550, "currency": "CNY",
       "accounts": {"payer": ALICE, "payee": BOB}}  # fmt: skip
HOLD = {"product": "scan-to-pay", "operation": "hold", "amount": 30_000, "currency": "CNY",
        "accounts": {"payer": ALICE, "payee": BOB}, "expires_at": "2026-12-31T00:00:00Z"}  # fmt: skip
HOOK = {"url": "https://shop.example/hooks/clearline", "note": "till", "events": [
    {"type": "transaction.settled"}, {"type": "transaction.rejected"},
    {"type": "balance.below", "account_id": ALICE, "amount": 100_000},
]}  # fmt: skip
_MASKS = (
    (r"urn:uuid:[0-9a-f-]{36}", "urn:uuid:9f0d9a5e-3c1b-4b6e-8f2a-5d7c9b1a0f2e"),
    (r"(test|live)_([a-z0-9]{16})_[A-Za-z0-9_-]{43}", r"\1_\2_" + "A" * 43),
    (r"whsec_[A-Za-z0-9+/]{43}=", "whsec_" + "A" * 43 + "="),
    (r'("created_at": )"[0-9TZ:.-]+"(,\n +"requested_by": "key)', r'\1"2026-11-22T09:00:00.500Z"\2'),
    # A signature is made and checked by the clock of the wall.
    (r'("check": "signature_verified",\n +"passed_at": )"[0-9TZ:.-]+"', r'\1"2026-11-22T09:00:00.094Z"'),
    (r"(-----BEGIN PRIVATE KEY-----\\n)[^-]*(\\n-----END)", r"\1...\2"),
    (r"(-----BEGIN PUBLIC KEY-----\\n)[^-]*(\\n-----END)", r"\1...\2"),
)
_PLACE = re.compile(r"{(\w+)}")


class Story:
    """Makes calls and keeps them."""

    def __init__(self) -> None:
        self.world = GatewayWorld(RECORDED_AT)
        self.steps: list[Step] = []
        self._keys = 0
        self._token = self.key()

    def key(self, scopes: Any = keys.ALL_SCOPES, partner: str = "acme", **more: Any) -> str:
        """A token; ids of keys are counted, so that they are the same each time."""
        self._keys += 1
        return self.world.key(partner, scopes, key_id=f"key{self._keys:013d}", **more)

    async def call(
        self, name: str, summary: str, method: str, path: str, body: Any = None, *, status: int = 0, token: str | None = None,
        raw: bytes | None = None, auth: httpx.Auth | None = None, tamper: bool = False, **headers: Any,
    ) -> Any:  # fmt: skip
        """One call, kept under a name; the JSON of its answer. `status`: what it must be, 2xx unless it is given."""
        given = {k.replace("_", "-"): v for k, v in headers.items()}
        token = self._token if token is None else token
        shown = dict(given)
        client = self.world.client(token) if token else self.world.client()
        kind = {"content": raw} if raw is not None else {"json": body} if body is not None else {}
        async with client:
            request = client.build_request(method, path, headers=given, **kind)
            if isinstance(auth, Signer):
                auth.sign(request)
                if tamper:
                    request.headers["Idempotency-Key"] = "another"
            answer = await client.send(request)
        assert answer.status_code == status or (not status and answer.is_success), (
            name,
            answer.status_code,
            answer.text,
        )
        document = answer.json() if answer.content and "json" in answer.headers["content-type"] else None
        body = None if raw is not None else body
        self.steps.append(
            Step(name, operation_of(method, path), summary, method, path, shown, body, answer.status_code, document)
        )
        return document

    def text(self) -> str:
        """All that was kept, as it is committed."""
        text = json.dumps([s._asdict() for s in self.steps], indent=1, ensure_ascii=False)
        for pattern, mask in _MASKS:
            text = re.sub(pattern, mask, text)
        return text + "\n"


def operation_of(method: str, path: str) -> str:
    """The operationId of a call; empty for none."""
    bare = path.partition("?")[0]
    for (m, template), o in OPERATIONS.items():
        pattern = _PLACE.sub("[^/]+", template.replace(".", r"\."))
        if m == method and re.fullmatch(pattern, bare):
            return o.id
    return ""


async def tell() -> Story:
    """The whole story."""
    s = Story()
    await _transactions(s)
    await _reads(s)
    await _figures(s)
    await _keys_and_webhooks(s)
    await _problems(s)
    await _credentials(s)
    await _onboarding(s)
    return s


def _w(key: str, wait: bool = True) -> dict[str, Any]:
    return {"Idempotency_Key": key, **({"Prefer": "wait=5"} if wait else {})}


async def _transactions(s: Story) -> None:
    post = "/v1/transactions"
    paid = await s.call(
        "transfer",
        "A payment, waited for",
        "POST",
        post,
        {**PAY, "value_date": "2026-11-22", "reference": "order 1001", "metadata": {"shop": "17"}},
        **_w("o-1001"),
    )
    await s.call(
        "transfer_at_once", "A payment, not waited for", "POST", post, PAY, status=202, **_w("o-1002", wait=False)
    )
    await s.call(
        "postings",
        "Several legs that balance",
        "POST",
        post,
        {
            "product": "wallet",
            "operation": "entry",
            "currency": "CNY",
            "postings": [
                {"account_id": BOB, "side": "debit", "amount": 500},
                {"account_id": ALICE, "side": "credit", "amount": 500},
            ],
        },
        **_w("o-1003"),
    )
    hold = await s.call("hold", "Money set aside", "POST", post, HOLD, **_w("stay-17"))
    other = await s.call("hold_to_void", "Money set aside, to be given up", "POST", post, HOLD, **_w("stay-18"))
    await s.call(
        "capture",
        "A part of the hold",
        "POST",
        f"{post}/{hold['id']}/capture",
        {"amount": 12_000, "reference": "first night"},
        **_w("stay-17-night-1"),
    )
    await s.call(
        "void",
        "The hold is given up",
        "POST",
        f"{post}/{other['id']}/void",
        {"reference": "guest cancelled"},
        **_w("stay-18-void"),
    )
    await s.call(
        "refund",
        "A part of the payment back",
        "POST",
        f"{post}/{paid['id']}/refund",
        {"amount": 2_000, "reference": "one item back"},
        **_w("o-1001-refund"),
    )
    entry = await s.call("transfer_wrong", "A payment made by mistake", "POST", post, PAY, **_w("o-1004"))
    await s.call(
        "reversal",
        "All of it back",
        "POST",
        f"{post}/{entry['id']}/reversal",
        {"reference": "paid twice"},
        **_w("o-1004-reversal"),
    )
    await s.call(
        "batch",
        "Two at once, of which one is rejected",
        "POST",
        f"{post}:batch",
        {"transactions": [{**PAY, "idempotency_key": "o-1005"}, {**PAY, "amount": 9_000_000_000}]},
        **_w("batch-1"),
    )
    await s.call("transaction", "What became of it", "GET", f"{post}/{paid['id']}")
    await s.call("explained", "The same in words", "GET", f"{post}/{paid['id']}/explain?lang=en")
    await s.call(
        "insufficient", "More than there is", "POST", post, {**PAY, "amount": 9_000_000_000}, status=422, **_w("o-1006")
    )
    await s.call(
        "conflict", "Another payload under the key", "POST", post, {**PAY, "amount": 1}, status=422, **_w("o-1002")
    )
    await s.call(
        "field", "A field that breaks its rule", "POST", post, {**PAY, "amount": 125.5}, status=422, **_w("o-1007")
    )
    refused = f"{post}/{paid['id']}/refund"
    await s.call(
        "refund_too_much",
        "More back than was paid",
        "POST",
        refused,
        {"amount": 20_000},
        status=422,
        **_w("o-1001-more"),
    )


async def _reads(s: Story) -> None:
    await s.call(
        "open_account",
        "A wallet without overdraft",
        "POST",
        "/v1/accounts",
        {
            "account_id": "acme/shop-17:wallet:float",
            "type": "liability",
            "currency": "CNY",
            "min_available": 0,
        },
        **_w("open-float"),
    )
    await s.call("accounts", "The first two", "GET", "/v1/accounts?limit=2")
    await s.call("account", "A wallet", "GET", f"/v1/accounts/{ALICE}")
    await s.call("balance", "Its balance", "GET", f"/v1/accounts/{ALICE}/balance")
    await s.call(
        "statement",
        "A day, three lines",
        "GET",
        f"/v1/accounts/{ALICE}/statement?since=2026-11-22&until=2026-11-22&limit=3",
    )
    await s.call("own_partner", "Oneself", "GET", "/v1/partner")
    await s.call("partners", "Those below", "GET", "/v1/partners?limit=2")
    await s.call("partner", "One of them", "GET", "/v1/partners/acme%2Fshop-17")
    await s.call("products", "The first two of the shelf", "GET", "/v1/products?limit=2")
    await s.call("product", "One product", "GET", "/v1/products/wallet")
    await s.call("limits_listed", "Limits with what is used", "GET", "/v1/limits?limit=1")
    await s.call(
        "limits",
        "A day's limit of a shop",
        "PUT",
        "/v1/limits/partner/acme%2Fshop-17",
        {"limits": [{"window": "day", "currency": "CNY", "amount_max": 1_000_000}], "note": "new shop"},
        **_w("limit-shop-17"),
    )
    await s.call("cursor", "A cursor that is none", "GET", "/v1/accounts?cursor=no", status=400)
    await s.call("unknown_account", "Nothing of yours", "GET", "/v1/accounts/zeta:wallet:main", status=404)


async def _figures(s: Story) -> None:
    await s.call("reports", "Those that a partner may ask", "GET", "/v1/reports")
    await s.call("report_balances", "What is on the accounts of a shop", "GET",
                 "/v1/reports/balances?partner=acme%2Fshop-17&until=2026-11-22")  # fmt: skip
    bank = s.key(["reports"], "bank")
    await s.call("report_trial_balance", "The bank's own, at a cut", "GET",
                 "/v1/reports/trial-balance?cut=0:20,1:10,2:10,3:10", token=bank)  # fmt: skip
    await s.call("report_not_scoped", "A report of the bank's", "GET", "/v1/reports/trial-balance", status=404)
    await s.call("report_wrong_day", "A day that is none", "GET", "/v1/reports/totals?since=yesterday", status=422)
    regions = b"account,region\nacme:wallet:alice,north\nacme:wallet:bob,south\n"
    await s.call("table_put", "Which account is of which region", "PUT", "/v1/data/tables/regions", raw=regions,
                 status=201, Content_Type="text/csv", Idempotency_Key="regions-1")  # fmt: skip
    await s.call("table_again", "The same content again", "PUT", "/v1/data/tables/regions", raw=regions, status=200,
                 Content_Type="text/csv", Idempotency_Key="regions-1b")  # fmt: skip
    await s.call("tables", "All of them", "GET", "/v1/data/tables")
    await s.call("table", "Its first row", "GET", "/v1/data/tables/regions?limit=1")
    await s.call("table_twice", "A key that is there twice", "PUT", "/v1/data/tables/regions", raw=b"a\n1\n1\n",
                 status=422, Content_Type="text/csv", Idempotency_Key="regions-2")  # fmt: skip
    await s.call("aggregates", "By day and product", "GET", "/v1/data/aggregates?by=day,product")
    await s.call("aggregates_joined", "By region, of the own table", "GET", "/v1/data/aggregates?by=day&join=regions")
    await s.call("series", "Three days", "GET", "/v1/data/series?since=2026-11-20&until=2026-11-22")
    await s.call("top", "The first two accounts", "GET", "/v1/data/top?of=account&n=2")
    await s.call("cash_flow", "A wallet by week", "GET", f"/v1/data/cash-flow/{ALICE}?by=week&since=2026-11-16")
    await s.call("table_deleted", "It is gone", "DELETE", "/v1/data/tables/regions", Idempotency_Key="regions-3")
    s.world.parts.settings = s.world.parts.settings.model_copy(
        update={"gateway": s.world.parts.settings.gateway.model_copy(update={"tables_max": 0})}
    )
    await s.call("tables_full", "One too many", "PUT", "/v1/data/tables/more", raw=regions, status=409,
                 Content_Type="text/csv", Idempotency_Key="more-1")  # fmt: skip
    await s.world.parts.reporting.close()
    s.world.parts.reporting = GroundReports(s.world.ledger, rows_max=1)
    await s.call("report_too_large", "More rows than a report may have", "GET", "/v1/reports/balances", status=422)
    await s.world.parts.reporting.close()


async def _keys_and_webhooks(s: Story) -> None:
    made = await s.call(
        "key",
        "A key that only reads",
        "POST",
        "/v1/keys",
        {"scopes": ["read"], "note": "dashboard"},
        Idempotency_Key="key-dashboard",
    )
    await s.call("keys", "The first of the tree", "GET", "/v1/keys?limit=1")
    await s.call(
        "key_revoked", "It is taken no more", "DELETE", f"/v1/keys/{made['key_id']}", Idempotency_Key="key-gone"
    )
    hook = await s.call(
        "webhook", "Outcomes, and a balance that runs low", "POST", "/v1/webhooks", HOOK, Idempotency_Key="hook-till"
    )
    path = f"/v1/webhooks/{hook['id']}"
    await s.call("webhooks", "All of the tree", "GET", "/v1/webhooks")
    await s.call("webhook_read", "One subscription", "GET", path)
    await s.call(
        "webhook_change",
        "Another note, fewer events",
        "PATCH",
        path,
        {"note": "till 1", "events": [{"type": "transaction.settled"}]},
        Idempotency_Key="hook-till-2",
    )
    await s.call("webhook_rotated", "A new secret", "POST", f"{path}/rotate", Idempotency_Key="hook-till-3")
    await s.call(
        "not_verified",
        "The receiver does not answer",
        "POST",
        f"{path}/verify",
        status=422,
        Idempotency_Key="hook-till-4",
    )
    row = await asyncio.to_thread(s.world.parts.access.get, f"s:{hook['id']}")
    seen = msgspec.structs.replace(row, state="verified", verified_at=s.world.parts.now_ms())  # type: ignore[type-var]
    s.world.parts.access.put(f"s:{hook['id']}", seen)
    await s.call("webhook_verified", "It was verified", "POST", f"{path}/verify", Idempotency_Key="hook-till-5")
    (example, *_) = records("Delivery")
    assert isinstance(example, Delivery)
    queued = s.world.parts.webhooks.queued
    assert isinstance(queued, QueuedInMemory)
    queued.rows.append(msgspec.structs.replace(example, subscription_id=hook["id"]))
    await s.call("deliveries", "One that failed twice", "GET", f"{path}/deliveries?status=pending")
    await s.call(
        "redelivered",
        "Tried at once",
        "POST",
        f"{path}/deliveries/{example.delivery_id}/redeliver",
        Idempotency_Key="again-1",
    )
    await s.call("webhook_deleted", "It ends", "DELETE", path, Idempotency_Key="hook-till-6")


async def _problems(s: Story) -> None:
    post = "/v1/transactions"
    await s.call("no_key", "A write without a key", "POST", post, PAY, status=400)
    await s.call("bad_key", "A key that is none", "POST", post, PAY, status=400, Idempotency_Key="x" * 129)
    await s.call(
        "bad_prefer", "A wait that is none", "POST", post, PAY, status=400, Idempotency_Key="k", Prefer="wait=soon"
    )
    await s.call(
        "bad_body",
        "Not JSON",
        "POST",
        post,
        status=400,
        raw=b"{amount: 1}",
        Idempotency_Key="k",
        Content_Type="application/json",
    )
    await s.call(
        "bad_type",
        "Not JSON's type",
        "POST",
        post,
        status=415,
        raw=b"amount=1",
        Idempotency_Key="k",
        Content_Type="application/x-www-form-urlencoded",
    )
    await s.call(
        "too_large",
        "Too much at once",
        "POST",
        post,
        status=413,
        raw=b" " * 300_000,
        Idempotency_Key="k",
        Content_Type="application/json",
    )
    await s.call("no_method", "A method that the path does not have", "DELETE", post, status=405)
    gate = s.world.parts.gate
    assert isinstance(gate, MemoryGate)
    burst, gate.burst = gate.burst, 0
    await s.call("too_many", "Too many at once", "GET", "/v1/partner", status=429)
    gate.burst, day, gate.day = burst, gate.day, 0
    await s.call("day_used_up", "The day's calls are used up", "GET", "/v1/partner", status=429)
    gate.day = day
    s.world.ledger.down = True
    await s.call("broker_away", "The broker is away", "POST", post, PAY, status=503, **_w("o-1009"))
    s.world.ledger.down = False
    await s.call("foreign", "Another tree's partner", "GET", "/v1/partner", status=403, Clearline_Partner="zeta")
    await s.call("scope", "A key that only reads", "POST", post, PAY, status=403, token=s.key(["read"]), **_w("o-1010"))


async def _credentials(s: Story) -> None:
    await s.call("nobody", "No credential", "GET", "/v1/partner", status=401, token="")
    private, public = new_key_pair()
    raw = keys.read_public_key(public)
    optional = s.key(public_key=raw)
    required = s.key(public_key=raw, signature="required")
    bound = s.key(thumbprint="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")
    await s.call("must_be_signed", "A key that must sign", "GET", "/v1/partner", status=401, token=required)
    await s.call("no_certificate", "A key without its certificate", "GET", "/v1/partner", status=401, token=bound)
    signer = Signer(optional.split("_")[1], private)
    then, s.world.parts.now_ms = s.world.parts.now_ms, lambda: wall_clock_ms() + 3_600_000
    await s.call("old_signature", "Signed an hour ago", "GET", "/v1/partner", status=401, token="", auth=signer)
    s.world.parts.now_ms = wall_clock_ms
    await s.call(
        "tampered",
        "Changed after it was signed",
        "POST",
        "/v1/transactions",
        PAY,
        status=401,
        token="",
        auth=signer,
        tamper=True,
        **_w("o-1011"),
    )
    once = _Once(optional.split("_")[1], private)
    async with s.world.client() as client:
        first = client.build_request("GET", "/v1/partner")
        once.sign(first)
        assert (await client.send(first)).status_code == 200
    await s.call("replayed", "Sent twice", "GET", "/v1/partner", status=401, token="", auth=once)
    s.world.parts.now_ms = then


class _Once(Signer):
    """Signs one request, and gives every other the same signature: what a thief would do."""

    _first: httpx.Headers | None = None

    def sign(self, request: httpx.Request) -> None:
        if self._first is None:
            super().sign(request)
            self._first = request.headers
        for name in ("signature", "signature-input"):
            request.headers[name] = self._first[name]


async def _onboarding(s: Story) -> None:
    """At the end: the partner that joins has a random name, and so a partition that is not always the same."""
    await s.call("onboarding", "What is passed, what is missing", "GET", "/v1/onboarding")
    await s.call(
        "not_ready",
        "Checks are missing",
        "POST",
        "/v1/onboarding/go-live",
        {"note": "opening in December"},
        status=409,
        Idempotency_Key="go-live-0",
    )
    await _pass_all(s)
    await s.call(
        "go_live",
        "Asked for",
        "POST",
        "/v1/onboarding/go-live",
        {"note": "opening in December"},
        Idempotency_Key="go-live-1",
    )
    for name, path in (("health", "/healthz"), ("readiness", "/readyz"), ("status", "/v1/status")):
        await s.call(name, "Of a gateway that is well", "GET", path, token="")
    await s.call("reset", "Balances as they were at first", "POST", "/v1/sandbox/reset", Idempotency_Key="reset-1")
    joined = await s.call(
        "join", "A partner in one call", "POST", "/v1/sandbox/partners", {"name": "Corner Shop"}, token=""
    )
    text = json.dumps(s.steps[-1].answer).replace(joined["partner_id"], "corner-shop-7k2m")
    text = text.replace(joined["key_id"], "4kq7x0m2c9vbt1sd")
    s.steps[-1] = s.steps[-1]._replace(answer=json.loads(text))


async def _pass_all(s: Story) -> None:
    for check in onboarding.CHECKS:
        await onboarding.change(s.world.parts, "acme", check)


def record() -> str:
    """The text of examples.json."""
    return asyncio.run(tell()).text()


if __name__ == "__main__":
    FILE.write_text(record(), encoding="utf-8")
