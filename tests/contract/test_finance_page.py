"""The page for finance without a browser: who gets in and for how long, what every answer carries, and whether its figures
are the catalogue's."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import httpx
import msgspec
import orjson
import pytest

from clearline import keys
from clearline.audit.continuous.difference import PARTS, Difference, Finding, Verdict
from clearline.audit.continuous.machine import Word
from clearline.embedded.folder import DataFolder
from clearline.finance.formats import Form, to_bytes
from clearline.gateway.finance import breaks
from clearline.gateway.finance import session as sessions
from clearline.gateway.finance.cells import money
from clearline.gateway.finance.charts import CHARTS_MAX, DAYS_MAX, charts
from clearline.gateway.finance.tables import ROWS_ON_PAGE, balance_of
from clearline.gateway.finance.words import EN, LANGUAGES, words
from clearline.gateway.reporting import NoReports
from clearline.gateway.twin import MemoryGate
from clearline.recon.breaks import TYPES
from clearline.recon.lookup import breaks_result
from schemas.records import AccessKey
from sinks.clickhouse import Database
from sinks.finance import closes
from sinks.finance import cut as cuts
from sinks.finance.ask import Result, ask
from sinks.finance.catalogue import CATALOGUE, REPORTS
from sinks.recon import Recon
from tests.finance_day import CLEARING, CLOSED, HOSTILE, fill_to_the_seal
from tests.finance_ground import server
from tests.finance_page import ACCOUNT, PAGE_MS, PAGES, Desk, desk, month

pytestmark = pytest.mark.stack

MINUTE = 60_000


@pytest.fixture(scope="module")
def at() -> Desk:
    return desk()


@pytest.fixture
def inside(at: Desk) -> Iterator[httpx.Client]:
    with at.signed_in() as client:
        yield client


@pytest.fixture(scope="module")
def db() -> Iterator[Database]:
    found = Database(month(), reader=True)
    yield found
    found.close()


def rows_of(text: str, caption: str) -> list[list[str]]:
    """The texts of a table's body."""
    for table in re.findall(r"<table>(.*?)</table>", text, re.S):
        if re.search(rf"<caption>\s*{re.escape(caption)}", table):
            body = re.search(r"<tbody>(.*?)</tbody>", table, re.S)
            assert body is not None
            return [
                [
                    html.unescape(re.sub(r"<[^>]*>", "", c)).strip()
                    for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
                ]
                for row in re.findall(r"<tr>(.*?)</tr>", body[1], re.S)
            ]
    raise AssertionError(f"no table {caption}")


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
    assert all(part not in cookie for part in key.split("_")[1:])
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
        {"Origin": "https://evil.example"}, {"Origin": "null"},
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
        ("/v1/status", "/finance"),
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


# ---- figures -----------------------------------------------------------------------------------------------------------


def made(db: Database, name: str, at: cuts.Cut | None = None, /, **given: str) -> Result:
    return ask(db, CATALOGUE[name], given, at or cuts.head(db))


@pytest.mark.parametrize("by", ["currency", "type", "account"])
def test_the_trial_balance_is_the_catalogues(inside: httpx.Client, db: Database, by: str) -> None:
    text = inside.get("/finance/trial-balance", params={"by": by, "until": "2026-11-20"}).text
    must = [
        [r["name"], r["currency"], *(money(r[n], r["currency"]) for n in ("opening", "debits", "credits", "difference", "closing")),
         f"{r['postings']:,}"]
        for r in made(db, "trial-balance", by=by, until="2026-11-20").dicts()
    ]  # fmt: skip
    assert rows_of(text, "Trial balance") == must and len(must) >= 3
    assert 'class="verdict good"' in text and "Balanced to the cent in every currency: CNY, JPY, USD." in text
    assert f"<code>{cuts.head(db).text}</code>" in text


def test_a_difference_is_named(db: Database) -> None:
    found = made(db, "trial-balance")
    apart = [
        (*row[:3], row[3] - 1, row[4], row[5] - 1, row[6] - 1, row[7]) if row[1] == "USD" else row for row in found.rows
    ]
    verdict = balance_of(Result(found.report, found.asked, found.cut, apart), words("en"))
    assert (verdict.mood, verdict.text) == ("bad", "Not balanced: debits less credits are -0.01 USD.")
    nothing = balance_of(Result(found.report, found.asked, found.cut, []), words("en"))
    assert nothing.mood == "none"


def figures(text: str, caption: str) -> tuple[Any, ...]:
    """All figures of a page: of its table and of its charts."""
    return (
        rows_of(text, caption),
        re.findall(r"<figcaption>(.*?)</figcaption>", text),
        re.findall(r"<rect [^>]*>", text),
    )


def test_a_link_with_a_cut_shows_the_same_figures_whatever_comes_after(at: Desk, db: Database) -> None:
    head = cuts.head(db)
    earlier = cuts.at(db, {p: place.sequence - 40 for p, place in head.places.items()})
    with at.signed_in() as client:
        for path, caption in (("/finance/trial-balance", "Trial balance"), ("/finance/flows", "Flows by product"),
                              (f"/finance/statement?account={ACCOUNT}", "Statement")):  # fmt: skip
            sign = "&" if "?" in path else "?"
            old = client.get(f"{path}{sign}cut={earlier.text}")
            new = client.get(path)
            assert figures(old.text, caption) != figures(new.text, caption)
            exact = re.search(r'<a href="([^"]*)">Link to exactly these figures', new.text)
            assert exact is not None and head.text in exact[1]
            again = client.get(html.unescape(exact[1]))
            assert figures(again.text, caption) == figures(new.text, caption)
            assert EN["as_of.pinned"] in again.text and EN["as_of.pinned"] not in new.text
            for href in re.findall(r'href="(/finance/download[^"]*)"', old.text):
                assert f"cut={earlier.text}" in html.unescape(href)
            nav = re.search(r'<a href="([^"]*)"[^>]*>Flows</a>', old.text)
            assert nav is not None and f"cut={earlier.text}" in nav[1]


def test_known_at_is_the_second_axis_of_time(inside: httpx.Client, db: Database) -> None:
    at = "2026-11-20T12:00"
    shown = rows_of(inside.get("/finance/trial-balance", params={"known_at": at}).text, "Trial balance")
    cut = cuts.head(db, datetime(2026, 11, 20, 12, tzinfo=UTC))
    assert [r[3] for r in shown] == [money(r["debits"], r["currency"]) for r in made(db, "trial-balance", cut).dicts()]


def test_a_statement_says_opening_lines_and_closing(inside: httpx.Client, db: Database) -> None:
    days = {"since": "2026-11-02", "until": "2026-11-08"}
    text = inside.get("/finance/statement", params={"account": ACCOUNT, **days}).text
    found = made(db, "statement", account=ACCOUNT, **days)
    first, *lines, last = found.dicts()
    shown = rows_of(text, "Statement")
    assert len(shown) == len(lines) + 2 and len(lines) > 5
    assert [r[5] for r in shown[1:-1]] == [x["reference"] for x in lines]
    assert [r[9] for r in shown] == [money(x["balance"], "CNY") for x in (first, *lines, last)]
    numbers = re.findall(r"<dd[^>]*>([^<]*)</dd>", text)
    assert numbers == [money(x, "CNY") for x in (first["balance"], last["debits"], last["credits"], last["balance"])]
    short = inside.get("/finance/statement", params={"account": ACCOUNT, **days, "lines_max": "3"}).text
    assert f"Only the first 3 of {len(lines):,} lines" in short
    assert EN["statement.example"] in inside.get("/finance/statement").text


def test_hostile_references_are_text(inside: httpx.Client, db: Database) -> None:
    found = db.rows(
        "SELECT account_id, reference, value_date FROM postings WHERE reference IN %(bad)s", {"bad": list(HOSTILE)}
    )
    assert {r for _, r, _ in found} == set(HOSTILE)
    for account, reference, day in {r: (a, r, d) for a, r, d in found}.values():
        text = inside.get("/finance/statement", params={"account": account, "since": day, "until": day}).text
        assert reference in {row[5] for row in rows_of(text, "Statement")}
        assert (
            "<script" not in text and "<img" not in text and "49" not in {row[5] for row in rows_of(text, "Statement")}
        )
    for name in ("account", "since", "cut", "closed", "known_at", "page"):
        answer = inside.get("/finance/statement", params={"account": ACCOUNT, name: HOSTILE[1]})
        assert answer.status_code == 400 and HOSTILE[1] not in answer.text and "<img" not in answer.text


def test_every_row_is_on_one_page(inside: httpx.Client, db: Database) -> None:
    must = made(db, "totals")
    assert len(must.rows) > 3 * ROWS_ON_PAGE
    seen: list[list[str]] = []
    path = "/finance/reports/totals"
    while path:
        text = inside.get(path).text
        seen += rows_of(text, "Totals")
        found = re.search(r'<a href="([^"]*)" rel="next"', text)
        path = html.unescape(found[1]) if found else ""
    assert [[r[0], r[1], r[2], r[3], r[4]] for r in seen] == [
        [r["day"].isoformat(), r["partner"], r["product"], r["currency"], money(r["debits"], r["currency"])]
        for r in must.dicts()
    ]
    assert f"Rows 1 to {ROWS_ON_PAGE} of {len(must.rows):,}" in inside.get("/finance/reports/totals").text


@pytest.mark.parametrize("report", [r.name for r in REPORTS])
def test_each_report_has_a_page_and_files_at_one_cut(inside: httpx.Client, db: Database, report: str) -> None:
    given = {"account": ACCOUNT} if report == "statement" else {}
    text = inside.get(f"/finance/reports/{report}", params=given).text
    must = made(db, report, **given)
    links = {m[1]: html.unescape(m[0]) for m in re.findall(r'<a href="([^"]*)" download>(\w+)</a>', text)}
    assert set(links) == {"json", "csv", "parquet", "xlsx"}
    for form, href in links.items():
        answer = inside.get(href)
        assert answer.status_code == 200, answer.text
        assert answer.content == to_bytes(must, cast(Form, form))
        assert answer.headers["clearline-as-of"].startswith(must.cut.text)
        assert answer.headers["content-disposition"] == f'attachment; filename="{report}.{form}"'
        assert answer.headers["cache-control"] == "private, no-store"


def test_flows_are_drawn_as_the_table_beneath_says(inside: httpx.Client, db: Database) -> None:
    text = inside.get("/finance/flows", params={"currency": "USD"}).text
    sums: dict[str, int] = {}
    for r in made(db, "flows", currency="USD").dicts():
        sums[r["product"]] = sums.get(r["product"], 0) + r["debits"]
    shown = re.findall(r'<figcaption><span>(.*?)</span> <span class="figure">(.*?) USD</span>', text)
    assert {p.replace("no product", ""): n for p, n in shown} == {p: money(n, "USD") for p, n in sums.items()}
    assert [n for _, n in shown] == [money(n, "USD") for n in sorted(sums.values(), reverse=True)]
    assert text.count("<svg ") == text.count('role="img"') == text.count("<desc ") == len(sums)


def test_charts_are_to_one_scale_and_lose_nothing() -> None:
    last = date(2026, 11, 30)
    flows = [(last - timedelta(days=d), f"p{p:02}", 1000 * (p + 1) + d) for p in range(20) for d in range(120)]
    found = charts(flows, date(1970, 1, 1), date(2299, 12, 31))
    assert found is not None and found.cut and len(found.charts) == CHARTS_MAX + 1 and found.others == 20 - CHARTS_MAX
    drawn = [x for x in flows if (last - x[0]).days < DAYS_MAX]
    assert sum(c.total for c in found.charts) == sum(n for _, _, n in drawn)
    assert {len(c.bars) for c in found.charts} == {DAYS_MAX}
    for c in found.charts:
        assert c.total == sum(b.amount for b in c.bars)
        assert all(b.height == b.amount * 102 // c.scale and b.y + b.height == 124 for b in c.bars)
        assert (
            all(a.x + a.width <= b.x for a, b in zip(c.bars, c.bars[1:], strict=False))
            and c.bars[-1].x + c.bars[-1].width <= 360
        )
    assert len({c.scale for c in found.charts}) == 1
    assert charts([], last, last) is None
    one = charts([(last, f"p{p}", 5) for p in range(CHARTS_MAX + 1)], last, last)
    assert one is not None and one.others == 0 and len(one.charts) == CHARTS_MAX + 1


def test_what_is_asked_wrongly_is_told_beside_its_field(inside: httpx.Client) -> None:
    for path, field in (("/finance/trial-balance?since=never", "since"), ("/finance?day=2026-02-30", "day"),
                        ("/finance/flows?until=x", "until"), ("/finance/trial-balance?cut=7", "cut"),
                        ("/finance/trial-balance?closed=2026-11-01", "closed"), ("/finance/statement?account=no:such:one", "account")):  # fmt: skip
        answer = inside.get(path)
        assert answer.status_code == 400 and 'role="alert"' in answer.text, path
        marked = re.findall(r'<input id="f-(\w+)"[^>]*aria-invalid="true"', answer.text)
        assert marked == [field], (path, marked)
    assert inside.get("/finance/reports/nothing").status_code == 404
    assert inside.get("/finance/download/day?format=exe").status_code == 400


def test_a_closed_day_is_what_was_sealed(inside: httpx.Client, db: Database) -> None:
    listed = closes.listed(db)
    assert [x.day for x in listed] == [CLOSED]
    days = rows_of(inside.get("/finance/closes").text, "Day closes")
    assert [(r[0], r[1], r[2]) for r in days] == [
        (CLOSED.isoformat(), c, money(n, c)) for c, n in listed[0].totals.items()
    ]
    one = inside.get("/finance/closes", params={"day": CLOSED.isoformat()}).text
    (seal,) = closes.seals(db, CLOSED)
    _, totals = closes.read(seal)
    assert [r[3] for r in rows_of(one, EN["closes.sealed"])] == [money(t.debits, t.currency) for t in totals]
    late = db.rows(
        "SELECT reference FROM outcomes WHERE changes LIKE '%%late_for%%' ORDER BY booked_at, partition, sequence", {}
    )
    assert [r[4] for r in rows_of(one, EN["closes.late"].format(day=CLOSED))] == [r for (r,) in late] and late
    assert seal.hash in one and EN["closes.verified"] not in one
    then = inside.get("/finance/trial-balance", params={"closed": CLOSED.isoformat()})
    assert [(r[0], r[3]) for r in rows_of(then.text, "Trial balance")] == [
        (c, money(n, c)) for c, n in listed[0].totals.items()
    ]
    assert EN["as_of.pinned"] in then.text
    assert re.search(r'<input id="f-until"[^>]* value=""', then.text), "another closed day could not be chosen"
    assert inside.get("/finance/closes?day=2026-11-24").status_code == 400


def test_a_seal_is_worked_out_again_and_a_missing_row_is_named(at: Desk, inside: httpx.Client) -> None:
    path = f"/finance/closes?day={CLOSED}&verify=yes"
    assert EN["closes.verified"] in inside.get(path).text
    config = server().config("finance_page_torn")
    fill_to_the_seal(config)
    db = Database(config)
    db.run(
        f"ALTER TABLE {config.database}.postings DELETE WHERE partition = 1 AND sequence = 200 AND line = 0 SETTINGS mutations_sync = 1"
    )
    db.close()
    torn = Desk(config)
    try:
        with torn.signed_in() as client:
            text = html.unescape(client.get(path).text)
            assert (
                'class="verdict bad"' in text and "differences from what was sealed: " in text and "debits are" in text
            )
            balance = html.unescape(client.get("/finance/trial-balance").text)
            assert "Not balanced: debits less credits are -" in balance
    finally:
        torn.stop()


def test_breaks_are_the_last_runs_with_what_was_said_of_them(inside: httpx.Client, db: Database) -> None:
    recon = Recon(db)
    (last,) = recon.runs(CLEARING)
    must = {b.id: b for b in recon.breaks(last)}
    assert {b.type for b in must.values()} >= {
        "missing_in_ledger",
        "missing_in_statement",
        "amount_differs",
        "date_differs",
        "duplicate",
    }
    text = inside.get("/finance/breaks").text
    shown = {r[0]: r for r in rows_of(text, f"Breaks of {CLEARING}")}
    assert shown.keys() == must.keys()
    assert all(shown[b.id][1] == b.type and shown[b.id][8] == money(b.difference, "CNY") for b in must.values())
    (fee,) = (b.id for b in must.values() if b.reference == "FEE 2026-11")
    assert shown[fee][2] == "settled" and shown[fee][11] == "claimed back, ticket 4711"
    filtered = inside.get("/finance/breaks", params={"type": "duplicate", "state": "open"}).text
    assert [r[1] for r in rows_of(filtered, f"Breaks of {CLEARING}")] == ["duplicate"]
    assert rows_of(inside.get("/finance/breaks", params={"run": last.run}).text, "Breaks of") == rows_of(
        text, "Breaks of"
    )
    links = {m[1]: html.unescape(m[0]) for m in re.findall(r'<a href="([^"]*)" download>(\w+)</a>', text)}
    for form, href in links.items():
        assert inside.get(href).content == to_bytes(breaks_result(recon, last), cast(Form, form))
    assert set(links) == {"json", "csv", "parquet", "xlsx"}
    for wrong in ("account=no:such:one", "type=nothing", "run=0000"):
        assert inside.get(f"/finance/breaks?{wrong}").status_code == 400
    assert sorted(breaks.TYPES) == sorted(TYPES)


def test_the_last_word_of_the_tie_out_is_told(at: Desk, inside: httpx.Client) -> None:
    folder = DataFolder(at.parts.settings.data_dir).ready
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tieout.json"
    finding = Finding(
        "redis", Verdict.DIFFERS, [Difference("redis", 2, "acme:wallet:a has 5, the journal 6", "acme:wallet:a")], 1
    )
    same = {part: Finding(part) for part in PARTS}
    try:
        for findings, age_s, must in (
            (same, 2, 'verdict good" role="status">' + EN["tieout.equal"]),
            ({**same, "redis": finding}, 2, 'verdict bad" role="status">1 differences. Partition 2: acme:wallet:a has 5, the journal 6'),
            ({**same, "kafka": Finding("kafka", Verdict.UNAVAILABLE)}, 2, 'verdict none" role="status">' + EN["tieout.unavailable"]),
            (same, 3_600, 'verdict bad" role="status">Its last word is 3,600 s old'),
        ):  # fmt: skip
            word = Word(findings, {0: 7, 1: 9}, []).to_dict()
            file.write_bytes(orjson.dumps({**word, "round_at": at.now_ms - age_s * 1000}))
            assert must in inside.get("/finance").text
        file.write_bytes(b"{")
        assert EN["tieout.unknown"] in inside.get("/finance").text
    finally:
        file.unlink()
    assert EN["tieout.unknown"] in inside.get("/finance").text


def test_without_clickhouse_it_says_so(at: Desk, inside: httpx.Client) -> None:
    kept, at.parts.reporting = at.parts.reporting, NoReports()
    try:
        for path in ("/finance", "/finance/trial-balance", "/finance/flows", "/finance/closes"):
            answer = inside.get(path)
            assert (
                answer.status_code == 503
                and EN["unavailable"] in answer.text
                and "clickhouse_driver" not in answer.text
            )
    finally:
        at.parts.reporting = kept


def test_all_words_are_there_in_every_language() -> None:
    assert all(set(sentences) == set(EN) for sentences in LANGUAGES.values())
