"""The page for finance shows the catalogue's figures, at the cut that it says: tables, charts, files, closes and breaks."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from typing import Any, cast

import httpx
import orjson
import pytest

from clearline.audit.continuous.difference import PARTS, Difference, Finding, Verdict
from clearline.audit.continuous.machine import Word
from clearline.embedded.folder import DataFolder
from clearline.finance.formats import Form, to_bytes
from clearline.gateway.finance import breaks
from clearline.gateway.finance.cells import money
from clearline.gateway.finance.charts import CHARTS_MAX, DAYS_MAX, charts
from clearline.gateway.finance.tables import ROWS_ON_PAGE, balance_of
from clearline.gateway.finance.words import EN, LANGUAGES, words
from clearline.gateway.reporting import NoReports
from clearline.recon.breaks import TYPES
from clearline.recon.lookup import breaks_result
from sinks.clickhouse import Database
from sinks.finance import closes
from sinks.finance import cut as cuts
from sinks.finance.ask import Result, ask
from sinks.finance.catalogue import CATALOGUE, REPORTS
from sinks.recon import Recon
from tests.finance_day import CLEARING, CLOSED, HOSTILE, fill_to_the_seal
from tests.finance_ground import server
from tests.finance_page import ACCOUNT, Desk, desk, month, rows_of

pytestmark = pytest.mark.stack


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


def test_no_word_is_there_for_nothing() -> None:
    folder = files("clearline.gateway.finance")
    code = [f for f in (*folder.iterdir(), *(folder / "templates").iterdir()) if f.name.endswith((".py", ".html"))]
    text = "".join(f.read_text(encoding="utf-8") for f in code if f.name != "words.py")
    put_together = ("nav.", "column.", "parameter.", "about.", "tieout.", "today.", "as_of.", "not_found.", "method.")
    assert [key for key in EN if f'"{key}"' not in text and not key.startswith(put_together)] == []
