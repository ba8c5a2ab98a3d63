"""Reports against sums made from the journal by hand, and the promise that each is answered from an index."""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import BadInputError
from sinks import migrate, pages, reports
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.ledger_sink import LedgerSink
from sinks.reports import Reports
from tests.contract.test_sinks_clickhouse import arrivals
from tests.journals import DAY_MS, Line, Maker, local_codec
from tests.sink_child import TOPIC, feed
from tests.sink_servers import ClickHouseServer

pytestmark = pytest.mark.stack

EPOCH = date(1970, 1, 1)


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
    place = "number % 4, number, number, number, concat('p', toString(intDiv(number, 4) % 50))"
    when = "toDate('2026-11-01') + number % 28, toDateTime64('2026-11-01', 3, 'UTC') + number * 24"
    for statement in (
        "INSERT INTO postings (partition, offset, source_offset, sequence, partner_id, value_date, booked_at, account_id, "
        f"side_code, amount_in, currency) SELECT {place}, {when}, "
        "concat('p', toString(rand() % 50), ':wallet:', toString(rand() % 400)), 1 + number % 2, 5, 'CNY'",
        "INSERT INTO outcomes (partition, offset, source_offset, sequence, partner_id, value_date, booked_at, outcome, "
        f"command) SELECT {place}, {when}, 'settled', 'Transaction'",
        "INSERT INTO control_changes (partition, offset, source_offset, sequence, subject_id, booked_at, command) "
        "SELECT number % 4, number, number, number, concat('p1:wallet:', toString(number)), now64(3), 'OpenAccount'",
    ):
        db.run(f"{statement} FROM numbers(100000)")
    db.close()
    return config


def days(books: Books) -> tuple[date, date]:
    values = [x.record.value_date for x in books.lines if x.record.postings]
    return EPOCH + timedelta(days=min(values)), EPOCH + timedelta(days=max(values))


def test_trial_balance_balances_and_says_as_of(books: Books) -> None:
    must: dict[str, Counter[str]] = defaultdict(Counter)
    for _, _, side, amount, currency in books.legs():
        must[currency][side] += amount
        must[currency]["n"] += 1
    report = books.ask.trial_balance()
    assert report.balanced and report.differences == {}
    assert {(r.name, r.currency, r.debits, r.credits, r.postings) for r in report} == {
        (c, c, n["debit"], n["credit"], n["n"]) for c, n in must.items()
    }
    last = {x.partition: (x.record.sequence, x.offset, x.record.source_offset) for x in books.lines}
    assert report.as_of == last


def test_trial_balance_by_type_and_account_over_a_period(books: Books) -> None:
    first, last = days(books)
    since, until = first + timedelta(days=2), last - timedelta(days=2)
    by_account: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    by_type: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for x, account, side, amount, currency in books.legs():
        if since <= EPOCH + timedelta(days=x.record.value_date) <= until:
            kind = "asset" if account.startswith("bank:") else "liability"
            for sums in (by_account[account, currency], by_type[kind, currency]):
                sums[side == "credit"] += amount
                sums[2] += 1
    for by, must in (("account", by_account), ("type", by_type)):
        report = books.ask.trial_balance(by=by, since=since, until=until)  # type: ignore[arg-type]
        assert {(r.name, r.currency): [r.debits, r.credits, r.postings] for r in report} == must
        assert report.balanced
        assert sum(r.debits for r in report) == sum(t.debits for t in report.totals)


@pytest.mark.parametrize("on", ["value", "booking"])
@pytest.mark.parametrize("account", ["bank:clearing:CNY", "p1:wallet:a-cny"])
def test_statement_runs_from_opening_to_closing(books: Books, on: reports.On, account: str) -> None:
    first, last = days(books)
    since, until = first + timedelta(days=3), last - timedelta(days=3)
    sign = 1 if account.startswith("bank:") else -1

    def day(x: Line) -> date:
        return EPOCH + timedelta(days=x.record.value_date if on == "value" else x.record.booked_at // DAY_MS)

    own = [(day(x), x, side, amount) for x, a, side, amount, _ in books.legs() if a == account]
    moved = [(d, x, sign * (amount if side == "debit" else -amount)) for d, x, side, amount in own]
    s = books.ask.statement(account, since, until, on=on)
    assert s.opening == sum(m for d, _, m in moved if d < since)
    assert s.closing == sum(m for d, _, m in moved if d <= until)
    assert s.complete and len(s.lines) == sum(since <= d <= until for d, _, _ in moved) > 3
    assert s.lines[-1].balance == s.closing
    assert [x.balance for x in s.lines] == [
        s.opening + sum((1 if y.side == "debit" else -1) * sign * y.amount for y in s.lines[: i + 1])
        for i in range(len(s.lines))
    ]
    stamps = [(x.value_date if on == "value" else x.booked_at.date(), x.booked_at) for x in s.lines]
    assert stamps == sorted(stamps)
    cut = books.ask.statement(account, since, until, on=on, lines_max=2)
    assert (len(cut.lines), cut.complete, cut.closing) == (2, False, s.closing)


def test_balance_at_a_day_and_at_a_moment(books: Books) -> None:
    account = "bank:clearing:CNY"
    own = [(x.record, side, amount) for x, a, side, amount, _ in books.legs() if a == account]
    at_ms = own[len(own) // 2][0].booked_at
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    b = books.ask.balance(account, at=moment)
    assert b.debits == sum(n for r, side, n in own if side == "debit" and r.booked_at <= at_ms)
    assert b.credits == sum(n for r, side, n in own if side == "credit" and r.booked_at <= at_ms)
    assert b.balance == b.debits - b.credits
    day = own[len(own) // 2][0].value_date
    d = books.ask.balance(account, until=EPOCH + timedelta(days=day))
    assert d.postings == sum(r.value_date <= day for r, _, _ in own)
    whole = books.ask.balance(account)
    assert whole.postings == len(own)


def test_partners_totals_and_outcomes(books: Books) -> None:
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

    totals = books.ask.totals()
    assert sum(r.debits for r in totals) == sum(a for _, _, side, a, _ in books.legs() if side == "debit")
    of_p0 = books.ask.totals(partner_id="p0")
    assert {r.partner_id for r in of_p0} == {p for p in settled if p == "p0" or p.startswith("p0/")}

    ends = Counter((x.record.outcome, x.record.command, x.record.reason) for x in books.lines)
    assert ends.pop(("applied", "Transaction", "")) > 1  # they began to cross: their last word is counted
    assert {(r.outcome, r.command, r.reason): r.count for r in books.ask.outcome_counts()} == ends


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
    first, last = days(books)
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


def test_unknown_accounts_and_empty_periods_are_said(books: Books) -> None:
    with pytest.raises(BadInputError, match="p1:wallet:none"):
        books.ask.statement("p1:wallet:none", date(2026, 1, 1), date(2026, 1, 2))
    with pytest.raises(BadInputError, match="no day"):
        books.ask.statement("p1:wallet:a-cny", date(2026, 1, 2), date(2026, 1, 1))


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
    "as_of": "by_partition", "by_currency": "by_currency", "by_account": "by_account", "by_type": "by_account",
    "account": "PrimaryKey", "account_sums": "by_account", "account_lines": "lines_of_account",
    "account_sums_within_day": "lines_of_account", "partners": "by_day", "turnover": "partner_id", "totals": "by_day",
    "outcomes": "by_day", "rollup": "by_account", "rollup_transactions": "by_day",
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
