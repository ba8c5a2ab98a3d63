"""Reconciliation against a real ClickHouse: whole or not at all, again changes nothing, later runs go on."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from clearline import cli
from clearline.finance.formats import to_bytes
from clearline.recon import lookup
from clearline.recon.importing import Given, Imported, import_file
from clearline.recon.mapping import Mapping, parse_mapping, read_mapping
from clearline.recon.match import Rules
from clearline.recon.run import Done, Request, run
from clearline.recon.statement import RefusedStatementError
from schemas.errors import BadInputError
from sinks.clickhouse import Database
from sinks.finance import cut
from sinks.recon import Recon, RunRow
from tests.recon_world import MAPPING, NOSTRO, TABLES, Line, Posted, clear, migrated, on, post, shuffled, write_csv
from tests.sink_servers import ClickHouseServer

pytestmark = pytest.mark.stack

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "recon-statement.xml"
POSTED = [
    Posted(1, 10_000, "order 1"), Posted(2, -2_500, "order 2"), Posted(3, 700), Posted(4, 30, "batch"),
    Posted(4, 40, "batch"), Posted(5, 99, "order 5"), Posted(6, 1, "order 6"), Posted(20, 5, "later"),
]  # fmt: skip
LINES = [
    Line(1, 10_000, "ORDER 1", "B1"), Line(3, -2_500, "order 2", "B2"), Line(3, 700), Line(4, 70, "batch", "B3", "two"),
    Line(5, 98, "order 5", "B4"), Line(5, -1_100, "fee", "B5"), Line(6, 0, "nothing"), Line(1, 10_000, "order 1", "B1"),
]  # fmt: skip


@pytest.fixture(scope="module")
def tables(server: ClickHouseServer) -> Iterator[Recon]:
    r = migrated(server, "clearline_recon")
    yield r
    r.db.close()


@pytest.fixture
def recon(tables: Recon) -> Recon:
    post(clear(tables).db, POSTED)
    return tables


def mapping() -> Mapping:
    return parse_mapping("m.yaml", MAPPING)


def bring(recon: Recon, path: Path, lines: Sequence[Line] = LINES, **given: Any) -> Imported:
    return import_file(recon, write_csv(path, lines), NOSTRO, mapping(), Given(**given))


def reconcile(recon: Recon, at: str = "", days: int = 1, tolerance: int = 0, day: date | None = None) -> Done:
    chosen = cut.at(recon.db, cut.parse(at)) if at else cut.head(recon.db)
    return run(recon, Request(NOSTRO, chosen, Rules(days, tolerance), day))


def stored(recon: Recon) -> dict[str, int]:
    return {t: int(recon.db.rows(f"SELECT count() FROM {t}")[0][0]) for t in TABLES}


def types(recon: Recon, row: RunRow) -> list[tuple[str, int]]:
    return sorted((b.type, b.difference) for b in recon.breaks(row))


def matched(recon: Recon) -> set[tuple[Any, ...]]:
    return {(x.match_pass, x.line, x.partition, x.sequence) for x in recon.links(NOSTRO, recon.runs(NOSTRO))}


def test_an_import_and_a_run_find_what_is_there(recon, tmp_path):
    imported = bring(recon, tmp_path / "s.csv", opening="0.00", closing="172.68", entries=8)
    (s,) = imported.statements
    assert imported.new
    assert (s.opening, s.closing, s.lines, s.first_day, s.last_day) == (
        0,
        17_268,
        8,
        "2026-11-02",
        "2026-11-07",
    )
    done = reconcile(recon, day=on(30))
    assert matched(recon) == {
        ("exact", 2, 0, 1),
        ("near", 3, 0, 2),
        ("amount", 4, 0, 3),
        ("sum", 5, 0, 4),
        ("sum", 5, 0, 5),
    }
    assert types(recon, done.row) == [
        ("amount_differs", -1), ("duplicate", 10_000), ("missing_in_ledger", -1_100), ("missing_in_statement", -1),
    ]  # fmt: skip
    assert done.row.figures["not_due"] == 1
    assert done.row.figures["zero_lines"] == 1
    ages = {b.type: b.age_days for b in recon.breaks(done.row)}
    assert ages == {"amount_differs": 25, "duplicate": 29, "missing_in_ledger": 25, "missing_in_statement": 24}


def test_from_the_ledgers_balance_to_the_statements_nothing_is_unexplained(recon, tmp_path):
    closing = sum(x.amount for x in LINES)
    bring(recon, tmp_path / "s.csv", opening="0.00", closing=f"{closing // 100}.{closing % 100:02}")
    found = reconcile(recon).row.figures["balance"]
    ledger = sum(p.amount for p in POSTED if p.day <= 6)
    assert (found["statement_closing"], found["ledger"], found["difference"]) == (closing, ledger, closing - ledger)
    assert (found["before_first_statement"], found["unexplained"]) == (0, 0)
    assert found["breaks"] == -1 + 10_000 - 1_100 - 1


def test_importing_and_running_again_changes_nothing(recon, tmp_path):
    first = bring(recon, tmp_path / "s.csv")
    one = reconcile(recon)
    before, shown = stored(recon), to_bytes(lookup.breaks_result(recon, one.row), "json")
    again = bring(recon, tmp_path / "renamed.csv")
    two = reconcile(recon)
    assert (again.new, two.new) == (False, False)
    assert (again.statements, two.row) == (first.statements, one.row)
    assert stored(recon) == before
    for form in ("json", "csv", "parquet", "xlsx"):
        assert to_bytes(lookup.breaks_result(recon, one.row), form) == to_bytes(
            lookup.breaks_result(recon, two.row), form
        )
    assert to_bytes(lookup.breaks_result(recon, two.row), "json") == shown


def test_anywhere_the_same_facts_have_the_same_result(recon, tmp_path):
    seen = []
    for _ in range(2):
        post(clear(recon).db, POSTED)
        bring(recon, tmp_path / "s.csv")
        row = reconcile(recon).row
        files = [to_bytes(lookup.breaks_result(recon, row), f) for f in ("json", "csv", "parquet", "xlsx")]
        seen.append((row.run, row.result, row.figures, *files, to_bytes(lookup.matches_result(recon, row), "parquet")))
    assert seen[0] == seen[1]


def test_the_order_of_lines_and_of_rows_in_the_store_changes_no_match(recon, tmp_path):
    plain = [x for x in LINES if x.amount and x != Line(1, 10_000, "order 1", "B1")]

    def facts(lines: Sequence[Line]) -> tuple[Any, ...]:
        """Matches and breaks by what the lines say, whatever number they have."""
        bring(recon, tmp_path / f"{random.random()}.csv", lines)
        row = reconcile(recon).row
        links = {(lines[x.line - 2], x.match_pass, x.sequence) for x in recon.links(NOSTRO, [row])}
        breaks = [
            (b.type, b.sequence, b.difference, b.age_days, str(lines[b.line - 2] if b.line else ""))
            for b in recon.breaks(row)
        ]
        return links, sorted(breaks)

    expected = facts(plain)
    for seed in range(2):
        clear(recon)
        for i in random.Random(seed).sample(range(0, len(POSTED), 2), len(POSTED) // 2):
            post(recon.db, POSTED[i : i + 2], first=i + 1)
        assert facts(shuffled(plain, seed)) == expected


def test_a_later_run_keeps_matches_and_resolves_breaks(recon, tmp_path):
    bring(recon, tmp_path / "s.csv")
    one = reconcile(recon)
    before = matched(recon)
    post(recon.db, [Posted(5, -1_100, "fee", booked=21), Posted(5, -1, "order 5", booked=21)], first=len(POSTED) + 1)
    bring(recon, tmp_path / "next.csv", [Line(8, 1, "order 6"), Line(20, 5, "later")])
    two = reconcile(recon, days=3)
    assert two.row.number == 2
    assert before < matched(recon)
    assert types(recon, two.row) == [("duplicate", 10_000)]
    assert two.row.figures["change"] == {"new": 0, "kept": 1, "resolved": 3}
    assert ("sum", 6, 0, 6) in matched(recon)
    with pytest.raises(BadInputError, match="beyond 0:8"):  # other statements than the first run: it is not that one
        reconcile(recon, at=one.row.cut)


def test_a_run_does_not_go_back(recon, tmp_path):
    bring(recon, tmp_path / "s.csv")
    reconcile(recon)
    with pytest.raises(BadInputError, match="the last run of bank:nostro:EUR was at the cut 0:8, beyond 0:5"):
        reconcile(recon, at="0:5")


def test_a_run_at_a_cut_sees_nothing_beyond_it(recon, tmp_path):
    bring(recon, tmp_path / "s.csv")
    done = reconcile(recon, at="0:2")
    assert done.row.figures["postings"] == 2
    assert [x for x in types(recon, done.row) if x[0] != "missing_in_ledger"] == [("duplicate", 10_000)]
    assert reconcile(recon).row.figures["matched_before"] == {"lines": 2, "postings": 2}


def test_a_persons_word_is_kept_and_changes_no_ledger(recon, tmp_path):
    bring(recon, tmp_path / "s.csv")
    one = reconcile(recon).row
    postings = recon.db.rows("SELECT count(), sum(amount), sum(sipHash64(*)) FROM postings")
    fee = next(b for b in recon.breaks(one) if b.type == "missing_in_ledger")
    found = lookup.find(recon, fee.id[:8])
    assert found.entry is not None
    assert lookup.open_breaks(recon, one) == 4
    assert lookup.say(recon, found.entry, "claimed back", "A. Analyst")
    assert not lookup.say(recon, found.entry, "claimed back", "A. Analyst")
    assert lookup.open_breaks(recon, one) == 3
    row = next(r for r in lookup.breaks_result(recon, one).dicts() if r["break"] == fee.id)
    assert (row["state"], row["note"], row["by"]) == ("settled", "claimed back", "A. Analyst")
    assert fee.id not in {r["break"] for r in lookup.breaks_result(recon, one, only_open=True).dicts()}
    post(recon.db, [Posted(20, 1, "x")], first=len(POSTED) + 1)
    assert lookup.open_breaks(recon, reconcile(recon).row) == 3
    assert recon.db.rows("SELECT count(), sum(amount), sum(sipHash64(*)) FROM postings WHERE sequence <= 8") == postings
    with pytest.raises(BadInputError, match="--note must have 1 to"):
        lookup.say(recon, found.entry, " ", "A")


def test_the_adjustment_that_is_offered_mends_the_break(recon, tmp_path):
    bring(recon, tmp_path / "s.csv")
    one = reconcile(recon).row
    added = []
    for b in recon.breaks(one):
        entry = lookup.find(recon, b.id).entry
        assert entry is not None
        line = lookup.adjustment(recon, entry)
        if line is None or b.type in ("duplicate", "missing_in_statement"):
            continue
        leg = next(p for p in line["postings"] if p["account_id"] == NOSTRO)
        assert sum(p["amount"] * (1 if p["side"] == "debit" else -1) for p in line["postings"]) == 0
        day = (date.fromisoformat(line["value_date"]) - on(0)).days
        added.append(Posted(day, leg["amount"] * (1 if leg["side"] == "debit" else -1), line["reference"], booked=21))
    assert len(added) == 2
    post(recon.db, added, first=len(POSTED) + 1)
    assert types(recon, reconcile(recon).row) == [("duplicate", 10_000), ("missing_in_statement", -1)]


def test_a_statement_is_withdrawn_with_every_match_it_is_part_of(recon, tmp_path):
    post(clear(recon).db, [Posted(1, 300, "split"), Posted(2, 50, "other")])
    bring(recon, tmp_path / "good.csv", [Line(1, 100, "split"), Line(2, 50, "other")])
    (wrong,) = bring(recon, tmp_path / "wrong.csv", [Line(1, 200, "split"), Line(2, 7, "junk")]).statements
    one = reconcile(recon).row
    assert {x[0] for x in matched(recon)} == {"sum", "exact"}
    assert lookup.withdraw(recon, wrong.statement[:12], "wrong mapping", "me")[1]
    assert not lookup.withdraw(recon, wrong.statement[:12], "wrong mapping", "me")[1]
    assert [s.file_name for s in recon.statements(NOSTRO)] == ["good.csv"]
    assert {x[0] for x in matched(recon)} == {"exact"}
    two = reconcile(recon).row
    assert two.number == one.number + 1
    assert two.figures["matched_before"] == {"lines": 1, "postings": 1}
    assert types(recon, two) == [("amount_differs", -200)]
    with pytest.raises(
        BadInputError, match=r"wrong.csv was imported to bank:nostro:EUR and withdrawn: .*wrong mapping"
    ):
        bring(recon, tmp_path / "wrong.csv", [Line(1, 200, "split"), Line(2, 7, "junk")])
    other = parse_mapping("m.yaml", MAPPING.replace(b"text: {column: text}", b""))
    assert import_file(recon, tmp_path / "wrong.csv", NOSTRO, other, Given()).new


def test_what_is_withdrawn_is_in_no_break_any_more_at_the_same_cut(recon, tmp_path):
    """Though statements and cut are then those of a run that is there, from before it was imported."""
    bring(recon, tmp_path / "good.csv")
    one = reconcile(recon).row
    (wrong,) = bring(recon, tmp_path / "wrong.csv", [Line(7, 4_711, "wrong")]).statements
    two = reconcile(recon).row
    assert ("missing_in_ledger", 4_711) in types(recon, two)
    assert lookup.withdraw(recon, wrong.statement, "wrong account", "me")[1]
    three = reconcile(recon)
    assert (three.new, three.row.number, three.row.cut) == (True, 3, one.cut)
    assert types(recon, recon.runs(NOSTRO)[-1]) == types(recon, one)
    assert not reconcile(recon).new


def test_the_file_is_kept_as_it_came(recon, tmp_path):
    (s,) = bring(recon, tmp_path / "s.csv").statements
    assert b"".join(recon.file(s)) == (tmp_path / "s.csv").read_bytes()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"opening": "1.00", "closing": "5.00"},
            "closing balance: opening 1.00 EUR and 2 entries make 4.00 EUR, .* off by 1.00 EUR",
        ),
        ({"entries": 3}, "entries: are given as 3, there are 2: off by -1"),
        ({"opening": "1.001"}, "--opening has 3 decimals"),
        ({"closing": "much"}, "--closing must be an amount"),
    ],
)
def test_what_was_given_must_agree_and_nothing_of_a_refused_file_is_stored(recon, tmp_path, given, words):
    with pytest.raises(BadInputError, match=words):
        bring(recon, tmp_path / "s.csv", [Line(1, 100), Line(2, 200)], **given)
    assert stored(recon) == dict.fromkeys(stored(recon), 0)


def test_one_bad_line_refuses_the_whole_file(recon, tmp_path):
    path = write_csv(tmp_path / "s.csv", LINES)
    path.write_text(path.read_text() + "2026-11-09;1.005;x;y;z\n")
    with pytest.raises(RefusedStatementError, match=r"line 10: amount: has 3 decimals \('1.005'\), EUR has 2"):
        import_file(recon, path, NOSTRO, mapping(), Given())
    assert stored(recon) == dict.fromkeys(stored(recon), 0)


def test_wrong_account_currency_mapping_and_file(recon, tmp_path):
    bring(recon, tmp_path / "s.csv", external="DE1")
    other = parse_mapping("m.yaml", MAPPING.replace(b"text: {column: text}", b""))
    with pytest.raises(BadInputError, match="was imported to bank:nostro:EUR before, with another mapping"):
        import_file(recon, tmp_path / "s.csv", NOSTRO, other, Given())
    dollars = parse_mapping("m.yaml", MAPPING.replace(b"EUR", b"USD"))
    with pytest.raises(BadInputError, match="is in USD, account bank:nostro:EUR in EUR"):
        import_file(recon, write_csv(tmp_path / "t.csv", LINES[:2]), NOSTRO, dollars, Given())
    foreign = parse_mapping("m.yaml", MAPPING + b"external_account: DE2\n")
    with pytest.raises(BadInputError, match="is a statement of DE2; those of bank:nostro:EUR so far are of DE1"):
        import_file(recon, tmp_path / "t.csv", NOSTRO, foreign, Given())
    assert import_file(recon, tmp_path / "t.csv", NOSTRO, foreign, Given(external="DE2")).new
    with pytest.raises(BadInputError, match="account bank:nostro:GBP is not known"):
        import_file(recon, tmp_path / "t.csv", "bank:nostro:GBP", mapping(), Given())
    with pytest.raises(BadInputError, match="is in CNY, account bank:nostro:EUR in EUR"):
        import_file(recon, EXAMPLE, NOSTRO, None, Given())
    with pytest.raises(BadInputError, match="is not XML"):
        import_file(recon, write_csv(tmp_path / "u.csv", LINES[:1]), NOSTRO, None, Given())
    with pytest.raises(BadInputError, match="cannot be read"):
        import_file(recon, tmp_path / "none.csv", NOSTRO, mapping(), Given())


def test_the_examples_reconcile_as_they_say(recon, tmp_path):
    """The account that docs/examples/first.jsonl leaves behind, with the two statements beside it."""
    account = "bank:clearing:CNY"
    clear(recon, account=account)
    post(recon.db, [Posted(21, 100_000, "top-up"), Posted(21, -200, "split of three legs")], account=account)
    (one,) = import_file(recon, EXAMPLE, account, None, Given()).statements
    assert (one.name, one.opening, one.closing, one.entries) == ("2026-326", 0, 98_550, 3)
    row = run(recon, Request(account, cut.head(recon.db))).row
    assert [(b.type, b.difference, b.reference) for b in recon.breaks(row)] == [
        ("missing_in_ledger", -1_250, "FEE 2026-11")
    ]
    rules = read_mapping(EXAMPLE.with_name("recon-mapping.yaml"))
    (two,) = import_file(recon, EXAMPLE.with_name("recon-statement.csv"), account, rules, Given()).statements
    assert (two.opening, two.closing, two.lines) == (98_550, 23_550, 2)
    row = run(recon, Request(account, cut.head(recon.db))).row
    assert row.figures["change"] == {"new": 2, "kept": 1, "resolved": 0}
    assert row.figures["balance"]["unexplained"] == 0
    assert b"".join(recon.file(one)) == EXAMPLE.read_bytes()


class KilledError(BaseException):
    """The process is gone."""


class Dying(Database):
    """Ends the process right after its n-th change of the store, which is also right before the next."""

    def __init__(self, config: Any, after: int) -> None:
        super().__init__(config)
        self._left = after

    def _maybe(self, change: Callable[[], Any]) -> Any:
        found = change()
        self._left -= 1
        if self._left == 0:
            raise KilledError
        return found

    def insert(self, table: str, columns: Any, data: Any) -> None:
        self._maybe(lambda: super(Dying, self).insert(table, columns, data))

    def rows(self, query: str, params: dict[str, Any] | None = None, **more: Any) -> list[tuple[Any, ...]]:
        if query.startswith("INSERT"):
            found: list[tuple[Any, ...]] = self._maybe(lambda: super(Dying, self).rows(query, params, **more))
            return found
        return super().rows(query, params, **more)


def test_killed_at_any_point_it_is_whole_or_not_there_and_comes_to_the_same_end(recon, tmp_path):
    bring(recon, tmp_path / "s.csv")
    expected = reconcile(recon).row
    survived = 0
    for after in range(1, 20):
        clear(recon, *TABLES)
        dying = Recon(Dying(recon.db.config, after))
        try:
            bring(dying, tmp_path / "s.csv")
            reconcile(dying)
            survived = after
        except KilledError:
            pass
        finally:
            dying.db.close()
        for s in recon.statements(NOSTRO):  # visible: then whole
            lines = recon.lines(NOSTRO, [s], [])
            assert (len(lines[1]), sum(lines[5])) == (s.lines, s.credits - s.debits)
        for r in recon.runs(NOSTRO):
            assert len(recon.breaks(r)) == sum(t["count"] for t in r.figures["breaks"].values())
            assert len(list(recon.links(NOSTRO, [r]))) == 5
        bring(recon, tmp_path / "s.csv")
        row = reconcile(recon).row
        assert (row.run, row.result, row.number) == (expected.run, expected.result, 1)
        assert len(recon.statements(NOSTRO)) == len(recon.runs(NOSTRO)) == 1
        if survived:
            break
    assert survived == 7, "file, lines, statement, links, breaks and run are written one after the other"


def test_two_runs_at_once_make_one(recon, tmp_path):
    bring(recon, tmp_path / "s.csv")
    results: list[object] = []
    start = threading.Barrier(4)

    def go(tolerance: int) -> None:
        mine = Recon(Database(recon.db.config))
        start.wait()
        try:
            results.append(reconcile(mine, tolerance=tolerance).row)
        except BadInputError as e:
            results.append(e)
        finally:
            mine.db.close()

    threads = [threading.Thread(target=go, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    runs = recon.runs(NOSTRO)
    stored_ones = [r for r in results if isinstance(r, RunRow)]
    assert len(results) == 4
    assert sorted(r.run for r in stored_ones) == sorted(r.run for r in runs)
    assert [r.number for r in runs] == list(range(1, len(runs) + 1))
    for e in results:
        if isinstance(e, BadInputError):
            assert "was stored meanwhile; run it again" in str(e)
    taken = [(x.statement, x.line, x.partition, x.sequence) for x in recon.links(NOSTRO, runs)]
    assert len(taken) == len(set(taken)) >= 5


def test_the_commands(server, recon, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for key, value in {
        "CLICKHOUSE__HOST": "127.0.0.1", "CLICKHOUSE__PORT": str(server.port), "CLICKHOUSE__DATABASE": recon.db.name,
        "DATA_DIR": str(tmp_path / "data"), "KAFKA__BOOTSTRAP": "127.0.0.1:9", "REGISTRY__URL": "http://127.0.0.1:9",
        "REDIS__URL": "redis://127.0.0.1:9/0",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"CLEARLINE_{key}", value)
    write_csv(tmp_path / "s.csv", LINES)
    (tmp_path / "m.yaml").write_bytes(MAPPING)

    def command(*arguments: str) -> tuple[int, Any]:
        code = cli.main(["recon", *arguments, "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out)

    given = ("--account", NOSTRO)
    assert command("run", *given)[0] == 2
    code, document = command("import", "s.csv", *given, "--mapping", "m.yaml")
    assert (code, document["new"], document["statements"][0]["lines"]) == (0, True, 8)
    assert command("import", "s.csv", *given, "--mapping", "m.yaml")[1]["new"] is False
    assert command("run", *given, "--closed", "2026-11-02") == (
        2,
        {"error": "closed: 2026-11-02 is not closed; `clearline close --list` shows the days that are", "exit_code": 2},
    )
    code, document = command("run", *given)
    assert (code, document["open_breaks"]) == (1, 4)
    again = cli.main(["recon", "run", *given]), capsys.readouterr().out
    assert again[0] == 1
    assert "the same run was made before; nothing changed" in again[1]
    assert "4 open breaks" in again[1]
    code, listed = command("list")
    assert (code, len(listed["statements"]), len(listed["runs"])) == (0, 1, 1)
    code, breaks = command("breaks", *given)
    assert (code, len(breaks["rows"])) == (1, 4)
    assert cli.main(["recon", "breaks", *given, "--type", "duplicate"]) == 1
    assert "duplicate" in capsys.readouterr().out
    for ending in ("csv", "parquet", "xlsx", "json"):
        assert cli.main(["recon", "export", *given, "--out", f"b.{ending}"]) == 0
        assert (tmp_path / f"b.{ending}").stat().st_size > 100
    assert cli.main(["recon", "export", *given, "--what", "matches", "--out", "m.csv"]) == 0
    assert len((tmp_path / "m.csv").read_text().splitlines()) == 6
    capsys.readouterr()
    for row in breaks["rows"]:
        code, shown = command("show", row["break"][:10])
        assert (code, shown["break"]) == (0, row["break"])
        assert command("settle", row["break"], "--note", "known", "--by", "me")[0] == 0
    assert command("breaks", *given)[0] == command("run", *given)[0] == 0
    assert command("breaks", *given, "--open")[1]["rows"] == []
    statement = listed["statements"][0]["statement"]
    assert cli.main(["recon", "show", statement, "--original"]) == 0
    assert capsys.readouterr().out == (tmp_path / "s.csv").read_text()
    assert command("show", "zzzzzzzz")[0] == command("show", "x")[0] == 2
    monkeypatch.setenv("CLEARLINE_CLICKHOUSE__PORT", "9")
    assert command("list")[0] == 3
