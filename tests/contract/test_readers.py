"""Readers of partners and of finance: what they are refused, on both ports, and that they see their own rows and all of
them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from clickhouse_driver.errors import ServerException

from ledger.names import within
from sinks.clickhouse import Database
from sinks.finance.catalogue import REPORTS
from sinks.finance.changeable import FREE_SETTINGS
from sinks.finance.readers import OWNER, WITHHELD, Limits
from tests.hostile_statements import CHANGES, EVERYTHING, LOOSE, OF_ALL, OF_P2, ORACLES, OTHERS, PERIOD
from tests.journals import Line
from tests.reader_world import FINANCE, World, some_partners, world

pytestmark = pytest.mark.stack

READONLY, CONSTRAINT, DENIED, QUOTA, UNAUTHENTICATED = 164, 452, 497, 201, 516
REFUSED = {READONLY, CONSTRAINT, DENIED}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    running = world(tmp_path_factory.mktemp("readers"))
    running.add("p1")
    yield running
    running.server.stop()


@pytest.mark.parametrize("text", CHANGES)
def test_hostile_statements_are_refused_to_all_readers(ledger: World, text: str) -> None:
    for user in ("p1_reader", FINANCE):
        codes = set(ledger.refused(user, text))
        assert codes <= REFUSED | {LOOSE.get(text, READONLY)}, (user, codes)
    db = Database(ledger.config)  # the server lives, and nothing is gone
    assert db.rows("SELECT count() FROM outcomes") == [(len(ledger.lines),)]
    db.close()


@pytest.mark.parametrize("text", OTHERS)
def test_what_others_have_is_refused_to_a_partner(ledger: World, text: str) -> None:
    codes = set(ledger.refused("p1_reader", text.replace("DATABASE", ledger.config.database)))
    assert codes <= REFUSED | {60 if "query_log" in text else READONLY}, codes


@pytest.mark.parametrize("port", ["native", "http"])
@pytest.mark.parametrize("user", ["p1_reader", FINANCE])
def test_grafanas_own_change_is_taken_and_more_than_the_cap_is_not(ledger: World, user: str, port: str) -> None:
    """Grafana's plugin sends max_execution_time with each query, in read-only mode as well."""
    text = "SELECT getSetting('max_execution_time'), getSetting('readonly')"
    most = 60 if user != FINANCE else 600
    for value, taken in ((10, True), (most, True), (most + 1, False), (0, False), (-1, False), ("x", False)):
        if port == "http":
            with ledger.http(user) as web:
                for answer in (
                    web.get("/", params={"query": f"{text} FORMAT JSONCompact", "max_execution_time": value}),
                    web.post("/", content=f"{text} SETTINGS max_execution_time = '{value}' FORMAT JSONCompact"),
                ):
                    assert (answer.status_code == 200) is taken, answer.text
                    if taken:
                        assert answer.json()["data"] == [[value, 1]]
                    else:
                        assert answer.headers["X-ClickHouse-Exception-Code"] == str(CONSTRAINT)
            continue
        with ledger.client(user) as client:
            if taken:
                assert client.execute(text, settings={"max_execution_time": value}) == [(value, 1)]
                assert client.execute(f"{text} SETTINGS max_execution_time = {value}") == [(value, 1)]
            elif value != "x":  # the driver itself sends numbers only
                with pytest.raises(ServerException) as caught:
                    client.execute(text, settings={"max_execution_time": value})
                assert caught.value.code == CONSTRAINT


def test_settings_that_tools_send_unasked_are_taken(ledger: World) -> None:
    with ledger.client("p1_reader") as client:
        known = dict(client.execute("SELECT name, value FROM system.settings"))
        for name in FREE_SETTINGS:
            if name in known:
                client.execute("SELECT 1", settings={name: known[name]})
        assert client.execute("SELECT getSetting('join_use_nulls')", settings={"join_use_nulls": 1}) == [(True,)]
        assert client.execute("SELECT getSetting('join_use_nulls')") == [(False,)]
        assert client.execute("SELECT 1", settings={"max_threads": known["max_threads"].strip("auto()")}) == [(1,)]


# What a reader sees is what is its own


def own_rows(lines: list[Line], partner: str, tree: bool) -> dict[str, Counter[tuple[Any, ...]]]:
    """By table, the places of the rows that a reader must see."""

    def sees(owner: str) -> bool:
        return within(owner, partner) if tree else owner == partner

    rows: dict[str, Counter[tuple[Any, ...]]] = {name: Counter() for name in ("postings", "pending", "outcomes")}
    for line in lines:
        r = line.record
        if sees(r.partner_id):
            rows["outcomes"][line.partition, line.offset, r.outcome, r.partner_id] += 1
        for at, leg in enumerate(r.postings):
            if sees(leg.account_id.partition(":")[0]):
                rows["postings"][line.partition, line.offset, at, leg.account_id, leg.side, leg.amount] += 1
        for at, aside in enumerate(r.pending):
            if sees(aside.account_id.partition(":")[0]):
                rows["pending"][line.partition, line.offset, at, aside.account_id, aside.side, aside.change] += 1
    return rows


SELECTS = {
    "postings": "SELECT partition, offset, line, account_id, side, amount FROM postings",
    "pending": "SELECT partition, offset, line, account_id, side, change FROM pending",
    "outcomes": "SELECT partition, offset, outcome, partner_id FROM outcomes",
}


@pytest.mark.parametrize("tree", [True, False], ids=["tree", "alone"])
@pytest.mark.parametrize("seed", range(4))
def test_a_reader_sees_its_own_rows_and_all_of_them(ledger: World, seed: int, tree: bool) -> None:
    for partner in some_partners(ledger.lines, seed, 3):
        name = ledger.add(partner, tree=tree)
        must = own_rows(ledger.lines, partner, tree)
        with ledger.client(name) as client:
            for table, text in SELECTS.items():
                assert Counter(client.execute(text)) == must[table], (partner, table)
                found = client.execute(f"SELECT count() FROM {table}")[0][0]
                assert found == sum(must[table].values()), (partner, table)
            changes = client.execute("SELECT DISTINCT subject_id FROM control_changes")
            for (subject,) in changes:
                owner = subject.partition(":")[0]
                assert within(owner, partner) if tree else owner == partner
            sums = client.execute("SELECT account_id, side, sum(amount) FROM postings GROUP BY account_id, side")
            expected: Counter[tuple[Any, ...]] = Counter()
            for (*_, account, side, amount), times in must["postings"].items():
                expected[account, side] += amount * times
            assert {(a, s): n for a, s, n in sums} == dict(expected)


@pytest.mark.parametrize(
    "source",
    [
        *(
            "postings AS outcomes",
            "postings outcomes",
            "postings AS `outcomes`",
            "postings AS x",
            "postings AS databases",
        ),
        *(
            "`postings`",
            "DATABASE.postings AS outcomes",
            "DATABASE.postings AS tables",
            "(SELECT * FROM postings) AS x",
        ),
        *("(SELECT * FROM postings AS x) AS outcomes", "postings AS `DATABASE`", "postings AS `a.b`"),
    ],
)
def test_no_alias_of_a_table_changes_what_is_seen(ledger: World, source: str) -> None:
    must = sum(own_rows(ledger.lines, "p1", True)["postings"].values())
    for database in (ledger.config.database, "system", "default"):
        if database == ledger.config.database or "DATABASE." in source:
            with ledger.client("p1_reader", database=database) as client:
                text = f"SELECT count() FROM {source}".replace("DATABASE", ledger.config.database)
                assert client.execute(text) == [(must,)]
                text = f"WITH outcomes AS (SELECT * FROM {source}) SELECT count() FROM outcomes"
                assert client.execute(text.replace("DATABASE", ledger.config.database)) == [(must,)]


def test_every_table_that_can_be_selected_is_filtered(ledger: World) -> None:
    """Whatever SHOW TABLES says can be read, and holds nothing of anybody else: by the column that says whose it is."""
    with ledger.client("p1_reader") as client:
        named = [name for (name,) in client.execute("SHOW TABLES")]
        engines = dict(client.execute("SELECT name, engine FROM system.tables"))
        tables = [name for name in named if engines[name] != "View"]
        assert set(tables) == set(OWNER)
        for table in tables:
            column = OWNER[table]
            for (value,) in client.execute(f"SELECT DISTINCT {column} FROM {table}"):
                assert within(value.partition(":")[0], "p1"), (table, value)
            listed = [name for name, *_ in client.execute(f"SELECT name FROM system.columns WHERE table = '{table}'")]
            assert not set(listed) & WITHHELD.get(table, frozenset())
        views = [name for name in named if engines[name] == "View"]
        reports = {r.view: r for r in REPORTS}
        assert {"report_totals", "report_statement", "report_balances"} <= set(views)
        assert all(reports[name].scoped for name in views if name in reports)


def test_reports_show_a_partner_its_own(ledger: World) -> None:
    """The policies hold inside the parameterised views, whatever partner is asked for."""
    mine = own_rows(ledger.lines, "p1", True)["postings"]
    debits = sum(key[5] * times for key, times in mine.items() if key[4] == "debit")
    by_account: Counter[str] = Counter()
    for key, times in mine.items():
        by_account[key[3]] += key[5] * times * (1 if key[4] == "credit" else -1)
    with ledger.client("p1_reader") as client:
        sums = f"SELECT sum(debits) FROM report_totals({EVERYTHING}, {PERIOD}, {OF_ALL})"
        assert client.execute(sums) == [(debits,)]
        text = f"SELECT count() FROM report_totals({EVERYTHING}, {PERIOD}, {OF_P2})"
        assert client.execute(text) == [(0,)]
        text = f"SELECT account, balance FROM report_balances({EVERYTHING}, {PERIOD}, partner = '', account = '')"
        assert {a: b for a, b in client.execute(text) if b} == {a: b for a, b in by_account.items() if b}
    with ledger.client("default", database=ledger.config.database) as client:
        whole = client.execute(sums)
    assert whole[0][0] > debits


@pytest.mark.parametrize("text", ORACLES)
def test_no_condition_looks_at_a_row_of_others(ledger: World, text: str) -> None:
    """A condition that fails on somebody else's rows would tell by its error that they are there."""
    for seen in ("throwIf(startsWith(account_id, 'p2:'))", "intDiv(1, not startsWith(account_id, 'p2:')) - 1"):
        asked = text.replace("{account}", seen.replace("account_id", "account")).replace("{}", seen)
        with ledger.client("p1_reader") as client:
            client.execute(asked)
        with ledger.client(FINANCE, database=ledger.config.database) as client, pytest.raises(ServerException):
            client.execute(asked)  # and it does fail for whom they are there


def test_an_answer_does_not_tell_how_many_rows_were_passed_over(ledger: World) -> None:
    with ledger.http("p1_reader") as web:
        answer = web.post("/", content="SELECT count() FROM postings FORMAT JSON")
        assert json.loads(answer.headers["X-ClickHouse-Summary"])["read_rows"] == "0"
        assert "rows_read" not in answer.text
    with ledger.client("p1_reader") as client:
        client.execute("SELECT count() FROM postings")
        assert client.last_query.progress.rows == 0


def test_tables_that_a_client_brings_along_are_refused(ledger: World) -> None:
    with ledger.client("p1_reader") as client:
        brought = [{"name": "mine", "structure": [("a", "Int64")], "data": [{"a": 1}]}]
        with pytest.raises(ServerException) as caught:
            client.execute("SELECT * FROM mine", external_tables=brought)
        assert caught.value.code == DENIED
        assert client.execute("SELECT 1") == [(1,)]


def test_parameters_cannot_name_what_the_text_could_not(ledger: World) -> None:
    with ledger.http("p1_reader") as web:
        params = {"query": "SELECT count() FROM {t:Identifier}", "param_t": "dead_letters"}
        assert web.get("/", params=params).headers["X-ClickHouse-Exception-Code"] == str(DENIED)
        assert web.get("/", params={**params, "param_t": "postings"}).status_code == 200
        for database in ("default", "clearline_wide", ledger.config.database):
            answer = web.get("/", params={"query": "SELECT count() FROM dead_letters", "database": database})
            assert answer.status_code >= 400
        kept = {"session_id": "mine", "query": "SELECT currentDatabase()", "database": "other"}
        assert web.get("/", params=kept).headers["X-ClickHouse-Exception-Code"] == "81"


def test_a_view_that_was_made_anew_over_other_tables_is_refused(ledger: World) -> None:
    db = Database(ledger.config)
    db.run(f"CREATE VIEW {ledger.config.database}.turned AS SELECT count() AS n FROM {ledger.config.database}.outcomes")
    name = ledger.add("p1", name="turning")
    with ledger.client(name) as client:
        assert client.execute("SELECT n FROM turned")[0][0] > 0
        db.run(f"CREATE OR REPLACE VIEW {db.name}.turned AS SELECT count() AS n FROM {db.name}.dead_letters")
        with pytest.raises(ServerException) as caught:
            client.execute("SELECT n FROM turned")
        assert caught.value.code == DENIED
    db.run(f"DROP VIEW {db.name}.turned")
    db.close()


# Who they are, and how much they may


def test_a_reader_is_read_anew_without_a_restart(ledger: World) -> None:
    name = ledger.add("p2", name="passing")
    with ledger.client(name) as client:
        assert client.execute("SELECT count() > 0 FROM postings") == [(1,)]
        narrowed = {**ledger.readers[name], "tables": {"postings": "0"}, "views": []}
        ledger.readers[name] = narrowed
        ledger.write()
        assert client.execute("SELECT count() FROM postings") == [(0,)]
        del ledger.readers[name]
        ledger.write()
        with pytest.raises(ServerException) as caught:
            client.execute("SELECT 1")
        assert caught.value.code == UNAUTHENTICATED
    with ledger.http(name) as web:
        assert web.get("/", params={"query": "SELECT 1"}).status_code == 403
        assert web.get("/", params={"query": "SELECT 1", "session_id": "x"}).status_code == 403


def test_a_file_that_cannot_be_read_lets_nobody_in(ledger: World) -> None:
    name = ledger.add("p1", name="locked-out")
    file = ledger.server.folder / "data" / "clearline-readers.json"
    assert file.stat().st_mode & 0o077 == 0
    file.write_text('{"readers": [')
    with ledger.http(name) as web:
        assert web.get("/", params={"query": "SELECT 1"}).status_code == 403
        ledger.write()
        assert web.get("/", params={"query": "SELECT 1"}).status_code == 200


def test_a_wrong_password_and_the_hash_itself_are_refused(ledger: World) -> None:
    told = ledger.readers["p1_reader"]["password"]
    with ledger.http("p1_reader") as web:
        for wrong in ("", "wrong", told["sha256"], told["salt"]):
            answer = web.get("/", params={"query": "SELECT 1"}, headers={"X-ClickHouse-Key": wrong})
            assert answer.status_code == 403


@pytest.mark.parametrize(
    ("limits", "text", "times"),
    [
        (Limits(queries_per_hour=3), "SELECT 1", 3),
        (Limits(read_rows_per_hour=1), "SELECT count() FROM outcomes WHERE sequence > 0", 1),
    ],
    ids=["queries", "rows"],
)
def test_a_quota_ends(ledger: World, limits: Limits, text: str, times: int) -> None:
    name = ledger.add("p1", name=f"quota-{times}", limits=limits)
    with ledger.client(name) as client, ledger.http(name) as web:
        for _ in range(times):
            client.execute(text)
        with pytest.raises(ServerException) as caught:
            client.execute(text)
        assert caught.value.code == QUOTA
        answer = web.get("/", params={"query": text})  # the same count for both ports
        assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (429, str(QUOTA))


def test_limits_of_one_query_hold(ledger: World) -> None:
    name = ledger.add("p1", name="small", limits=Limits(result_rows=10, rows_to_read=1_000_000))
    with ledger.client(name) as client:
        for text in ("SELECT number FROM numbers(100)", "SELECT sum(number) FROM numbers(10000000)"):
            with pytest.raises(ServerException) as caught:
                client.execute(text)
            assert caught.value.code in (158, 396)
