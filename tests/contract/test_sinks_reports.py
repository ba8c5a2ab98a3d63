"""Reports against sums made from the journal by hand, and the promise that each is answered from an index."""

from __future__ import annotations

import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import BadInputError
from sinks import migrate, pages, reports
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance import cut as cuts
from sinks.finance.ask import query, values
from sinks.finance.catalogue import CATALOGUE, REPORTS, Report, text_of
from sinks.finance.data import SERVICES, shaped
from sinks.ledger_sink import LedgerSink
from sinks.reports import Reports
from tests.contract.test_sinks_clickhouse import arrivals
from tests.journals import DAY_MS, Line, Maker, local_codec
from tests.sink_child import TOPIC, feed
from tests.sink_servers import ClickHouseServer

pytestmark = pytest.mark.stack

EPOCH = date(1970, 1, 1)
AMONG, AFTER = date(2026, 11, 20), date(2027, 3, 1)  # a day among the rows of `wide_tables`, and one after all


def shapes(report: Report) -> set[str]:
    """A report, by each of what it may be broken down by."""
    by = [p.choices for p in report.parameters if p.name == "by"]
    return {f"{report.name} {b}" for b in by[0]} if by else {report.name}


@dataclass
class Books:
    """A database with ten days of a journal in it."""

    config: ClickHouseConfig
    lines: list[Line]
    ask: Reports
    wide: ClickHouseConfig  # a database of many granules, whose rows mean nothing

    def legs(self) -> Iterator[tuple[Line, str, str, int, str]]:
        for x in self.lines:
            for p in x.record.postings:
                yield x, p.account_id, p.side, p.amount, p.currency


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse"))
    server.start()
    config = server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(config)
    lines = Maker(21, step_ms=DAY_MS // 100).lines(2000)
    feed(LedgerSink(config, TOPIC, local_codec()), arrivals(lines), 1000)
    ask = Reports(config)
    yield Books(config, lines, ask, wide_tables(server))
    ask.close()
    server.stop()


def wide_tables(server: ClickHouseServer) -> ClickHouseConfig:
    """Tables of more granules than one, so that a plan has something to choose."""
    config = server.config("clearline_wide")
    migrate.apply(config)
    db = Database(config)
    place = "number % 4, number, number, number, concat('p', toString(intDiv(number, 4) % 5))"
    booked = "toDateTime64('2026-11-01', 3, 'UTC') + number * 24.192"  # 28 days
    when = f"toDate({booked}), {booked}"
    account = "multiIf(number % 100 = 0, 'bank:fees:CNY', concat('p', toString(rand() % 50), ':wallet:', toString(rand() % 400)))"
    for statement in (
        "INSERT INTO postings (partition, offset, source_offset, sequence, partner_id, value_date, booked_at, account_id, "
        f"side_code, amount_in, currency) SELECT {place}, {when}, {account}, 1 + number % 2, 5, 'CNY'",
        "INSERT INTO outcomes (partition, offset, source_offset, sequence, partner_id, value_date, booked_at, outcome, "
        f"command) SELECT {place}, {when}, 'settled', 'Transaction'",
        "INSERT INTO pending (partition, offset, source_offset, sequence, partner_id, booked_at, account_id, side_code, "
        f"change_in, currency, hold_id) SELECT {place}, {booked}, concat('p1:wallet:', toString(number % 400)), "
        "1 + number % 2, 5, 'CNY', toString(intDiv(number, 2))",
        "INSERT INTO control_changes (partition, offset, source_offset, sequence, subject_id, booked_at, command, "
        "account_type, currency) SELECT number % 4, number, number, number, if(number = 0, 'bank:fees:CNY', "
        f"concat('p1:wallet:', toString(number))), {booked}, 'OpenAccount', if(number = 0, 'income', 'liability'), 'CNY'",
        "INSERT INTO calls (minute, calls, buckets) SELECT toDateTime('2026-11-01 00:00:00', 'UTC') + number * 24, 1, "
        "arrayWithConstant(61, 1)",
        "INSERT INTO limit_rows (partition, offset, kind, level, subject_id, partner_id, source_offset, stored_at) SELECT "
        "number % 4, number, if(number % 2 = 0, 'limit', 'usage'), 'partner', concat('p', toString(intDiv(number, 8) % 9)), "
        f"'p1', number * 100, {booked}",
    ):
        db.run(f"{statement} FROM numbers(100000)")
    db.close()
    return config


def test_top_partners(books: Books) -> None:
    settled = Counter(x.record.partner_id for x in books.lines if x.record.outcome == "settled")
    top = books.ask.top_partners(3)
    assert [r.settled for r in top] == [n for _, n in settled.most_common(3)]
    turnover: dict[str, Counter[str]] = defaultdict(Counter)
    for x, _, side, amount, currency in books.legs():
        if side == "debit":
            turnover[x.record.partner_id][currency] += amount
    assert all(r.turnover == turnover[r.partner_id] for r in top)
    roots = books.ask.top_partners(50, roots=True)
    assert sum(r.settled for r in roots) == sum(settled.values())
    assert not any("/" in r.partner_id for r in roots)


def above(partner: str) -> list[str]:
    """A partner and all above it, by cutting the path from its end."""
    found = [partner]
    while "/" in partner:
        partner = partner[: partner.rindex("/")]
        found.append(partner)
    return found


def rolled_up(books: Books, until: date) -> dict[tuple[str, str], list[int]]:
    """What each level must be, leg by leg: an account's owner is what stands before its first colon."""
    must: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for x, account, side, amount, currency in books.legs():
        if EPOCH + timedelta(days=x.record.value_date) <= until:
            for path in above(account[: account.index(":")]):
                must[path, currency][side == "credit"] += amount
                must[path, currency][2] += 1
    return must


def test_a_roll_up_is_the_sum_of_all_below_at_every_level(books: Books) -> None:
    values = [x.record.value_date for x in books.lines if x.record.postings]
    first, last = EPOCH + timedelta(days=min(values)), EPOCH + timedelta(days=max(values))
    for until in (first + timedelta(days=4), last):
        must = rolled_up(books, until)
        whole = books.ask.rollup(until=until)
        assert {(r.partner_id, r.currency): [r.debits, r.credits, r.postings] for r in whole} == must
        for root in ("p0", "p3", "p1", "bank"):
            part = books.ask.rollup(root, until=until)
            assert part.rows == [r for r in whole if root in above(r.partner_id)]
    assert books.ask.rollup().rows == whole.rows
    assert books.ask.rollup("p").rows == [], "p is not a partner above p1"
    assert books.ask.rollup("p0/shop-0").rows == [r for r in whole if r.partner_id == "p0/shop-0"]
    assert {r.partner_id.count("/") for r in whole} == {0, 1, 2}, "three levels"


def test_the_transactions_of_a_tree_are_those_of_its_leaves(books: Books) -> None:
    own: dict[str, Counter[str]] = defaultdict(Counter)
    tree: dict[str, Counter[str]] = defaultdict(Counter)
    for x in books.lines:
        if x.record.command == "Transaction":
            own[x.record.partner_id][x.record.outcome] += 1
            for path in above(x.record.partner_id):
                tree[path][x.record.outcome] += 1
    whole = books.ask.rollup().transactions
    assert {(r.partner_id, r.own_settled, r.settled, r.rejected, r.repeated) for r in whole} == {
        (p, own[p]["settled"], n["settled"], n["rejected"], n["repeated"]) for p, n in tree.items()
    }
    assert books.ask.rollup("p0").transactions == [r for r in whole if "p0" in above(r.partner_id)]
    assert sum(r.own_settled for r in whole) == sum(x.record.outcome == "settled" for x in books.lines)


def test_anybody_may_read_and_nobody_may_write(books: Books) -> None:
    columns, rows = reports.run_sql(books.config, "SELECT outcome, count() AS n FROM outcomes GROUP BY 1 ORDER BY 1")
    assert [name for name, _ in columns] == ["outcome", "n"]
    assert sum(n for _, n in rows) == len(books.lines)
    with pytest.raises(BadInputError):
        reports.run_sql(books.config, "SELECT nothing FROM outcomes")
    for harm in ("DROP TABLE postings", "ALTER TABLE postings DELETE WHERE 1", "TRUNCATE TABLE outcomes"):
        with pytest.raises(BadInputError, match="readonly"):
            reports.run_sql(books.config, harm)


def test_the_auditors_queries_in_the_docs_find_nothing_wrong(books: Books) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "clickhouse.md").read_text()
    queries = [q for q in text.split("```sql\n")[1].split("```")[0].split(";\n") if q.strip()]
    results = [reports.run_sql(books.config, q)[1] for q in queries]
    sums = {(currency, side): total for currency, side, total in results[0]}
    assert all(sums[c, "debit"] == sums[c, "credit"] for c, _ in sums)
    assert all(whole for _, whole, _ in results[1]) and len(results[1]) == 3
    assert results[2] == results[3] == []
    assert results[4] == [("insufficient_funds", sum(x.record.outcome == "rejected" for x in books.lines))]


INDEX_OF = {  # which index must answer each query
    "as_of": "by_partition", "partners": "by_day", "turnover": "partner_id", "rollup": "by_account",
    "rollup_transactions": "by_day",
}  # fmt: skip


INDEX_OF_PAGE = {
    "point": "by_partition", "opened": "PrimaryKey", "sums": "by_account", "beyond": "lines_of_account",
    "sums_through": "lines_of_account", "sums_of_day": "lines_of_account", "lines": "lines_of_account",
    "ids": "PrimaryKey", "changes": "PrimaryKey",
}  # fmt: skip


@pytest.mark.parametrize("on", ["value", "booking"])
@pytest.mark.parametrize("name", [*reports.QUERIES, *(f"page {name}" for name in pages.QUERIES)])
def test_every_report_is_answered_from_an_index(books: Books, name: str, on: reports.On) -> None:
    params: dict[str, Any] = {
        "since": date(2026, 11, 20), "until": date(2026, 11, 25), "account": "p1:wallet:7", "limit": 10,
        "today": date(2026, 11, 22), "until_ms": 1_795_309_200_000, "who": ("p1", "p2"), "partner_id": "p0", "below": "p0/",
        "partition": 1, "through": 90_000, "day": date(2026, 11, 21), "booked_at": 1_795_309_200_000, "sequence": 9,
        "line": 0, "own": "p1:", "after": "p1:wallet:4", "accounts": ("p1:wallet:5", "p1:wallet:6"),
    }  # fmt: skip
    of_page = name.removeprefix("page ")
    db = Database(books.wide)
    try:
        query = pages.query_text(of_page, on) if of_page != name else reports.query_text(name, on)
        small = "SETTINGS min_table_rows_to_use_projection_index = 0"  # it is for tables of a million rows and more
        plan = "\n".join(row[0] for row in db.rows(f"EXPLAIN indexes = 1, projections = 1 {query} {small}", params))
    finally:
        db.close()
    index = INDEX_OF_PAGE[of_page] if of_page != name else INDEX_OF[name]
    used = {
        "PrimaryKey": "Keys:" in plan and "subject_id" in plan,
        "partner_id": "ReadFromMergeTree (by_day)" in plan
        or "Condition: (partner_id in" in plan,  # whichever is shorter
        "lines_of_account": "Name: lines_of_account" in plan,
    }.get(index, f"ReadFromMergeTree ({index})" in plan)
    assert used, plan


INDEX_OF_REPORT = {  # what the view of each report must be answered from, beside the rows of the days of the cut
    "trial-balance currency": {"(by_currency)"},
    "trial-balance type": {"(by_account)"},
    "trial-balance account": {"(by_account)"},
    "statement": {"(by_account)", "Name: lines_of_account", "subject_id in"},
    "balances": {"(by_account)", "subject_id in"},
    "totals": {"(by_day)", "partner_id in"},
    "flows": {"(by_day)"},
    "fees": {"Name: lines_of_account"},
    "holds": {"Name: ix_hold"},
    "rejections": {"(by_day)"},
    "profitability": {"(by_day)", "Name: lines_of_account"},
    "limits": {"((partition, offset) in"},
    "day": {"(by_day)", "(by_currency)"},
}
GIVEN = {"statement": {"account": "p1:wallet:7"}, "balances": {"account": "p1:wallet:7"}, "totals": {"partner": "p1"}}
_READS = re.compile(r"ReadFromMergeTree \(clearline_wide\.(\w+)\).*?(?=ReadFromMergeTree \(|\Z)", re.S)


@pytest.mark.parametrize("place", ["head", "head, long after", "old cut"])
@pytest.mark.parametrize("on", ["value", "booking"])
@pytest.mark.parametrize("name", [n for r in REPORTS for n in sorted(shapes(r))])
def test_every_view_is_answered_from_an_index(books: Books, name: str, on: str, place: str) -> None:
    report = CATALOGUE[name.split()[0]]
    db = Database(books.wide)
    cut = cuts.at(db, {p: 40_000 + p for p in range(4)}) if place == "old cut" else cuts.head(db)
    today = AFTER if place == "head, long after" else AMONG
    given = {"since": "2026-11-03", "until": "2026-11-25", "on": on, "by": name.split()[-1]}
    wanted = GIVEN.get(name, {}) | {k: v for k, v in given.items() if k in {p.name for p in report.parameters}}
    text = query(report, values(report, wanted), cut, cuts.bounds(db, cut, today=today), db.name)
    plan = explained(books.wide, text)
    db.close()
    for index in INDEX_OF_REPORT[name]:
        assert index in plan, (index, plan)
    for read in _READS.finditer(plan):
        by_value = (name, on, read[1]) == ("profitability", "value", "outcomes")  # documented: docs/finance.md
        found = any(x in read[0] for x in ("booked_at in [", "Name: lines_of_account", "Name: ix_hold"))
        nothing = "Parts: " not in read[0]  # no day is looked at row by row: all are whole
        assert found or nothing or by_value or read[1] in ("control_changes", "limit_rows"), read[0]


INDEX_OF_SERVICE: dict[str, tuple[dict[str, str], set[str]]] = {  # what is asked, and what must answer it
    "aggregates": ({"by": "week,product,partner"}, {"(by_day)"}),
    "series": ({"by": "month"}, {"(by_currency)"}),
    "series product": ({"by": "month", "product": "wallet"}, {"(by_day)"}),
    "top": ({"of": "product"}, {"(by_day)"}),
    "top account": ({"of": "account"}, {"(by_account)"}),
    "cash-flow": ({"account": "p1:wallet:7", "by": "week"}, {"(by_account)", "subject_id in"}),
    # The account's own lines are a subquery, which this plan does not show; by them the entries are found:
    "cash-flow-counterparties": ({"account": "p1:wallet:7"}, {"((partner_id, value_date, booked_at) in"}),
    "cash-flow-regular": ({"account": "p1:wallet:7"}, {"Name: lines_of_account"}),
}


@pytest.mark.parametrize("on", ["value", "booking"])
@pytest.mark.parametrize("name", INDEX_OF_SERVICE)
def test_every_data_service_is_answered_from_an_index(books: Books, name: str, on: str) -> None:
    asked, indexes = INDEX_OF_SERVICE[name]
    service = next(s for s in SERVICES if s.name == name.split()[0])
    db = Database(books.wide)
    cut = cuts.head(db)
    given = {"since": "2026-11-03", "until": "2026-11-25", "on": on, **asked}
    report = shaped(service, given)
    plan = explained(books.wide, query(report, values(report, given), cut, cuts.bounds(db, cut, today=AMONG), db.name))
    db.close()
    for index in indexes:
        assert index in plan, (index, plan)
    assert {s.name for s in SERVICES} == {n.split()[0] for n in INDEX_OF_SERVICE} | {"aggregates-keyed"}  # row by row


def test_open_holds_are_found_in_their_projection(books: Books) -> None:
    """The plan of a report has no plan of the subquery whose result its indexes look for: this is it."""
    db = Database(books.wide)
    text = text_of(CATALOGUE["holds"], db.name)
    inner = text[text.index("WITH open_holds AS\n(") :].partition("(")[2].partition("\n)\nSELECT")[0]
    db.run(f"CREATE OR REPLACE VIEW {db.name}.open_holds AS {inner}")
    asked = "partner = '', account = '', ends = '[1, 2, 3, 4]', whole_before = '2026-11-20'"
    plan = explained(books.wide, f"SELECT * FROM open_holds({asked}, known_at = '2026-11-22 00:00:00.000')")
    db.close()
    assert "ReadFromMergeTree (by_hold)" in plan, plan


def test_newest_limits_are_found_in_their_projection(books: Books) -> None:
    """Likewise: whole blocks from the projection, of the last one only its own stretch of commands."""
    db = Database(books.wide)
    text = text_of(CATALOGUE["limits"], db.name)
    inner = text[text.index("newest AS\n") :].partition("(")[2].partition("\n    ),\n    found AS")[0]
    db.run(f"CREATE OR REPLACE VIEW {db.name}.newest_limits AS {inner}")
    ends = "[5000001, 5000001, 5000002, 5000001]"
    plan = explained(books.wide, f"SELECT * FROM newest_limits(partner = '', subject = '', source_ends = '{ends}')")
    db.close()
    assert "ReadFromMergeTree (newest)" in plan, plan
    assert "(source_offset in [5000000, +Inf))" in plan and "Granules: 7/12" in plan, plan


def test_a_plan_says_so_when_a_table_is_read_whole(books: Books) -> None:
    """What the tests above take for a read of nothing must not be what a scan looks like."""
    assert "Parts: 1" in explained(books.wide, "SELECT count() FROM clearline_wide.postings WHERE amount_in = 7")


def explained(config: ClickHouseConfig, text: str) -> str:
    """How a query is answered for the user of reports, for whom an account's rows are looked up in tables of any size."""
    db = Database(config, reader=True)
    plan = "\n".join(row[0] for row in db.rows(f"EXPLAIN indexes = 1, projections = 1 {text}"))
    db.close()
    return plan
