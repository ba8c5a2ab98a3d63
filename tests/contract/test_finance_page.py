"""The page for finance without a browser: who gets in and for how long, what every answer carries."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any, cast

import httpx
import msgspec
import pytest

from clearline import keys
from clearline.gateway.finance import session as sessions
from clearline.gateway.finance.words import EN
from clearline.gateway.memory_gate import MemoryGate
from schemas.records import AccessKey
from tests.finance_day import HOSTILE
from tests.finance_page import PAGE_MS, PAGES, Desk, desk, month

pytestmark = pytest.mark.stack

MINUTE = 60_000


@pytest.fixture(scope="module")
def at() -> Desk:
    return desk()


@pytest.fixture
def inside(at: Desk) -> Iterator[httpx.Client]:
    with at.signed_in() as client:
        yield client


def is_form(answer: httpx.Response) -> bool:
    return 'action="/finance/sign-in"' in answer.text and "Sign out" not in answer.text


# ---- who gets in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_without_a_session_every_page_is_the_form(at: Desk, path: str) -> None:
    with at.client() as client:
        for headers in ({}, {"Authorization": f"Bearer {at.key()}"}, {"Cookie": "clearline-finance=AAAA"}):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401 and is_form(answer)
            assert answer.headers["www-authenticate"] == 'Form realm="finance"'
            assert f'name="next" value="{html.escape(path)}"' in answer.text


def test_only_a_key_of_the_bank_with_the_scope_opens_it(at: Desk) -> None:
    good = at.key()
    revoked, ended, signed, bound, of_partner, unscoped = (at.key() for _ in range(6))

    def change(token: str, **fields: Any) -> None:
        row = keys.row_key(token.split("_")[1])
        key = at.parts.access.get(row)
        assert isinstance(key, AccessKey)
        at.parts.access.put(row, msgspec.structs.replace(key, **fields))

    change(revoked, revoked_at=PAGE_MS - 1)
    change(ended, expires_at=PAGE_MS - 1)
    change(signed, signature="required", public_key=bytes(range(32)))
    change(bound, thumbprint="0" * 64)
    change(unscoped, scopes="read")
    of_partner = at.world.key("acme", ["reports", "read"])
    refused = {
        "": (401, "key.unknown"), "no key": (401, "key.unknown"), "test_" + "0" * 16 + "_" + "A" * 43: (401, "key.unknown"),
        good[:-1] + ("A" if good[-1] != "A" else "B"): (401, "key.unknown"), "live_" + good[5:]: (401, "key.unknown"),
        revoked: (403, "key.unknown"), ended: (403, "key.unknown"), signed: (403, "key.signed_only"),
        bound: (403, "key.certificate"), of_partner: (403, "key.not_bank"), unscoped: (403, "key.no_scope"),
    }  # fmt: skip
    for token, (status, why) in refused.items():
        with at.client() as client:
            answer = client.post("/finance/sign-in", data={"key": token, "next": "/finance"})
            assert (answer.status_code, is_form(answer)) == (status, True), token[:8]
            assert html.escape(EN[why], quote=False) in html.unescape(answer.text).replace("&#39;", "'")
            assert "set-cookie" not in answer.headers
            assert not token or token not in answer.text
            assert client.get("/finance").status_code == 401
    with at.client() as client:
        assert client.post("/finance/sign-in", data={"key": f"  {good}\n", "next": ""}).status_code == 303
        assert client.get("/finance").status_code == 200


def test_the_cookie_is_out_of_reach_and_says_nothing(at: Desk) -> None:
    key = at.key()
    with at.client() as client:
        answer = client.post("/finance/sign-in", data={"key": key, "next": "/finance"})
    cookie = answer.headers["set-cookie"]
    name, _, rest = cookie.partition("=")
    assert name == "clearline-finance"
    assert {p.strip().lower() for p in rest.split(";")[1:]} == {"httponly", "path=/finance", "samesite=strict"}
    assert all(part not in cookie for part in key.split("_", 2)[1:])
    assert answer.headers["location"] == "/finance"
    with_tls = Desk(month(), "https://bank.example")
    try:
        with with_tls.client() as client:
            answer = client.post("/finance/sign-in", data={"key": with_tls.key(), "next": "/finance"})
        assert answer.headers["set-cookie"].startswith("__Secure-clearline-finance=")
        assert "; secure" in answer.headers["set-cookie"].lower()
    finally:
        with_tls.stop()


def test_a_cookie_that_was_changed_or_is_of_another_world_opens_nothing(at: Desk) -> None:
    with at.signed_in() as client:
        text = client.cookies["clearline-finance"]
    other = Desk(month(), gateway={"master_key": "A" * 42 + "8"})
    try:
        with other.signed_in() as client:
            foreign = client.cookies["clearline-finance"]
    finally:
        other.stop()
    for value in (
        text[:60] + ("A" if text[60] != "A" else "B") + text[61:],
        "B" + text[1:],
        text[:40],
        foreign,
        text + text,
    ):
        with at.client() as client:
            assert client.get("/finance", headers={"Cookie": f"clearline-finance={value}"}).status_code == 401
    with at.client() as client:
        assert client.get("/finance", headers={"Cookie": f"clearline-finance={text}"}).status_code == 200


def test_a_session_ends_with_idleness_with_its_day_and_with_its_key(at: Desk) -> None:
    def open_(client: httpx.Client) -> bool:
        return client.get("/finance/reports").status_code == 200

    try:
        with at.signed_in() as idle:
            at.now_ms = PAGE_MS + sessions.IDLE_MS
            assert open_(idle)
            at.now_ms += sessions.IDLE_MS + 1
            assert not open_(idle)
        at.now_ms = PAGE_MS
        with at.signed_in() as busy:
            while at.now_ms < PAGE_MS + sessions.LONGEST_MS - 20 * MINUTE:
                at.now_ms += 20 * MINUTE
                assert open_(busy)
            at.now_ms = PAGE_MS + sessions.LONGEST_MS + 1
            assert not open_(busy)
        at.now_ms = PAGE_MS
        for change in (
            {"revoked_at": PAGE_MS},
            {"expires_at": PAGE_MS},
            {"secret_hash": bytes(32)},
            {"scopes": "read"},
        ):
            token = at.key()
            row = keys.row_key(token.split("_")[1])
            with at.signed_in(token) as client:
                assert open_(client)
                key = at.parts.access.get(row)
                assert isinstance(key, AccessKey)
                at.parts.access.put(row, msgspec.structs.replace(key, **change))
                assert not open_(client)
    finally:
        at.now_ms = PAGE_MS


def test_signing_out_ends_the_session_for_copies_of_the_cookie_too(at: Desk) -> None:
    with at.signed_in() as client:
        copy = client.cookies["clearline-finance"]
        answer = client.post("/finance/sign-out")
        assert answer.status_code == 200 and is_form(answer) and EN["ended"] in answer.text
        assert "max-age=0" in answer.headers["set-cookie"].lower()
        assert client.get("/finance").status_code == 401
        assert client.get("/finance", headers={"Cookie": f"clearline-finance={copy}"}).status_code == 401


def test_forms_of_other_pages_are_not_taken(at: Desk) -> None:
    strange: tuple[dict[str, str], ...] = (
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://["},
    )  # fmt: skip
    with at.signed_in() as client:
        for headers in strange:
            assert client.post("/finance/sign-out", headers=headers).status_code == 403
            answer = client.post("/finance/sign-in", data={"key": at.key(), "next": ""}, headers=headers)
            assert answer.status_code == 403 and "set-cookie" not in answer.headers
        for path in ("/finance/sign-in", "/finance/sign-out"):
            assert client.get(path).status_code == 404
        for path in ("/finance", "/finance/trial-balance", "/finance/flows"):
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                assert client.request(method, path).status_code == 405
        assert client.get("/finance").status_code == 200
        for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": at.url}):
            assert (
                client.post("/finance/sign-in", data={"key": at.key(), "next": ""}, headers=headers).status_code == 303
            )


def test_attempts_are_limited_by_the_gate(at: Desk) -> None:
    few = Desk(month(), gateway={"burst": 40, "rate_per_s": 1})
    cast(MemoryGate, few.parts.gate).burst = 40
    try:
        with few.client() as client:
            answers = [client.post("/finance/sign-in", data={"key": "guess", "next": ""}) for _ in range(25)]
        assert [a.status_code for a in answers] == [401] * 20 + [429] * 5
        assert int(answers[-1].headers["retry-after"]) >= 1
    finally:
        few.stop()


@pytest.mark.parametrize(
    ("wanted", "goes_to"),
    [
        ("/finance/flows?currency=CNY", "/finance/flows?currency=CNY"), ("", "/finance"), ("https://evil.example/finance", "/finance"),
        ("//evil.example/finance", "/finance"), ("/finance/../docs", "/finance/../docs"), ("/financed", "/finance"),
        ("/finance\\@evil.example", "/finance"), ("javascript:alert(1)", "/finance"), ("/finance/\r\nX: y", "/finance"),
        ("/v1/status", "/finance"), ("///finance", "/finance"), ("///finance/x", "/finance"), ("//[", "/finance"),
    ],
)  # fmt: skip
def test_signing_in_leads_to_pages_of_ours_only(wanted: str, goes_to: str) -> None:
    assert sessions.next_page(wanted) == goes_to


def test_without_a_master_key_there_is_no_session(at: Desk) -> None:
    bare = Desk(month())
    settings = bare.parts.settings
    gateway = settings.gateway.model_copy(update={"master_key": ""})
    bare.parts.settings = settings.model_copy(update={"gateway": gateway})
    try:
        with bare.client() as client:
            answer = client.get("/finance")
            assert answer.status_code == 503 and "CLEARLINE_GATEWAY__MASTER_KEY" in answer.text
            assert client.post("/finance/sign-in", data={"key": bare.key(), "next": ""}).status_code == 503
    finally:
        bare.stop()


def test_no_key_and_no_cookie_comes_into_the_log(at: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    token = at.key()
    wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
    with at.client() as client:
        client.post("/finance/sign-in", data={"key": wrong, "next": ""})
    with at.signed_in(token) as client:
        assert client.get("/finance").status_code == 200
        cookie = client.cookies["clearline-finance"]
    out = "".join(capfd.readouterr())
    assert "finance_sign_in " in out and "finance_sign_in_refused" in out
    for secret in (token.split("_", 2)[2], wrong.split("_", 2)[2], cookie):
        assert secret not in out


# ---- what every answer carries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PAGES, "/finance/sign-in"])
def test_answers_stay_with_the_asker_and_load_nothing(at: Desk, inside: httpx.Client, path: str) -> None:
    for answer in (inside.get(path), httpx.get(at.url + path)):
        assert answer.headers["cache-control"] == "private, no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self';") and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        text = answer.text
        assert "<script" not in text.lower().replace(html.escape(HOSTILE[0]).lower(), "")
        assert not re.search(r"<[^>]*\s(on\w+|style)\s*=", text)
        assert not re.search(r"(src|href|action)=\"(https?:)?//", text)
        assert '<html lang="en">' in text and text.count("<h1>") == 1


def test_the_style_sheet_is_named_by_its_bytes(inside: httpx.Client) -> None:
    found = re.search(r'href="(/finance/finance\.css\?[0-9a-f]{12})"', inside.get("/finance").text)
    assert found is not None
    answer = inside.get(found[1])
    assert answer.status_code == 200 and "immutable" in answer.headers["cache-control"]
    assert "url(" not in answer.text and "@import" not in answer.text


def test_metrics_call_pages_by_their_pattern(at: Desk, inside: httpx.Client) -> None:
    for path in ("/finance/reports/holds", "/finance/reports/made-up", "/finance/made-up", "/finance/download/made-up"):
        inside.get(path)
        httpx.get(at.url + path)
    text = httpx.get(at.url + "/metrics").text
    routes = set(re.findall(r'route="(/finance[^"]*)"', text))
    assert {"/finance", "/finance/reports/{name}", "/finance/download/{name}"} <= routes and "made-up" not in str(
        routes
    )


def test_it_is_no_part_of_the_api(at: Desk) -> None:
    assert all(not path.startswith("/finance") for path in httpx.get(at.url + "/openapi.json").json()["paths"])
    assert httpx.get(at.url + "/financed").json()["code"] == "not_found"
