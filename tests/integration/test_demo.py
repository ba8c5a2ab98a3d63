"""The demo on the whole stack, and every command that looks at a running system, on what the demo left running."""

from __future__ import annotations

import csv
import io
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from clearline import cli
from clearline.demo import empty_folder
from schemas.errors import BadInputError
from sinks.clickhouse import ClickHouseConfig, Database
from tests.sink_servers import wait_for
from tests.unit.test_metrics import samples

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1_200)]
TRANSACTIONS = 3_000


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that was given this data folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(folder) in " ".join(
                [*process.cmdline(), *process.environ().values()]
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the demo's data, and an environment that names it."""
    folder = tmp_path_factory.mktemp("demo-data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEARLINE_DATA_DIR", str(folder))
        patch.delenv("CLEARLINE_WORLD", raising=False)
        yield folder


def command(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def well(capsys: pytest.CaptureFixture[str]) -> Any:
    """The status once it has no incident: a busy machine may still have one of the start, or of a role that was
    killed."""

    def found() -> Any:
        capsys.readouterr()
        code = cli.main(["status", "--json"])
        document = json.loads(capsys.readouterr().out)
        return document if code == 0 else None

    return wait_for("a status without an incident", found)


def busiest(kept: dict[str, Any]) -> str:
    """The partner with the most settled transactions; the bank's own staff is none."""
    return str(next(p["partner_id"] for p in kept["top_partners"] if p["partner_id"] != "bank"))


@pytest.fixture(scope="module")
def kept(base: Path) -> Iterator[dict[str, Any]]:
    """What a demo with --keep printed; its stack runs on for the tests of this module."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        code = cli.main(
            ["demo", "--transactions", str(TRANSACTIONS), "--rate", "1000", "--seed", "7", "--keep", "--json"]
        )
    document = json.loads(out.getvalue())
    assert code == 0, document
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEARLINE_WORLD", "demo")
        patch.setenv("CLEARLINE_DATA_DIR", document["data_dir"])
        yield document
        assert cli.main(["down"]) == 0
        assert processes_of(base) == []


def test_the_demo_says_what_the_design_promises(kept: dict[str, Any]):
    outcomes = ("settled", "rejected", "repeated", "applied", "dead")
    assert kept["submitted"] == TRANSACTIONS == sum(kept[o] for o in outcomes)
    assert all(kept[o] > 0 for o in ("settled", "rejected", "repeated", "dead"))
    assert kept["settled_per_second"] > 0
    assert set(kept["latency_ms"]) == {"p50", "p99", "max"}
    assert 0 < kept["latency_ms"]["p50"] <= kept["latency_ms"]["p99"] <= kept["latency_ms"]["max"]
    assert kept["debits_equal_credits"] is True
    assert kept["tieout"] == {"kafka": "equal", "clickhouse": "equal", "redis": "equal"}
    assert kept["as_expected"] is True
    assert len(kept["trial_balance"]) >= 3
    assert len(kept["top_partners"]) == 10
    assert kept["seed"] == 7
    assert kept["data_dir"].endswith("/demo")


def test_status_has_every_pid_address_and_lag(kept, capsys):
    status = well(capsys)
    assert status["state"] == "running"
    for name, child in {**status["parts"], **status["roles"]}.items():
        assert psutil.pid_exists(child["pid"]), name
    assert set(status["parts"]) == {"kafka", "registry", "clickhouse", "redis"}
    assert set(status["roles"]) == {
        "worker-0", "worker-1", "sink-clickhouse", "sink-redis", "sealer", "tieout", "gateway-0", "webhooks-0",
    }  # fmt: skip
    assert set(status["addresses"]) == {
        "kafka_bootstrap", "registry_url", "clickhouse_host", "clickhouse_port", "clickhouse_http_port", "redis_url",
        "gateway_url",
    }  # fmt: skip
    workers = [status["roles"][w] for w in ("worker-0", "worker-1")]
    told = [samples(w["metrics"]) for w in workers]
    assert sum(t["clearline_commands_total"] for t in told) > 0
    assert sorted(k for t in told for k in t if k.startswith("clearline_partition_stopped")) == [
        f"clearline_partition_stopped{{{p}}}" for p in range(4)
    ]
    assert set(status["lag"]["roles"]) == {
        "settlement",
        "sink-clickhouse",
        "sink-redis",
        "sealer",
        "tieout",
        "webhooks-0",
    }
    cli.main(["status"])
    assert "sink-clickhouse" in capsys.readouterr().out
    assert cli.main(["up", "--json"]) == 0
    out = capsys.readouterr()
    assert "already running" in out.err
    assert json.loads(out.out)["supervisor"] == status["supervisor"]


def test_a_killed_role_is_started_again(kept, capsys):
    before = well(capsys)["roles"]["worker-0"]
    psutil.Process(before["pid"]).kill()

    def back() -> Any:
        cli.main(["status", "--json"])
        now = json.loads(capsys.readouterr().out)["roles"]["worker-0"]
        return now if now["state"] == "ready" and now["restarts"] > before["restarts"] else None

    assert wait_for("worker-0 to be back", back)["pid"] != before["pid"]


def test_the_books_are_proven_from_outside(kept, capsys):
    assert command(capsys, "tieout") == {"kafka": "equal", "clickhouse": "equal", "redis": "equal"}
    verdict = command(capsys, "verify", "--drained")
    assert verdict["ok"] is True
    assert verdict["waiting"] == 0
    crossing = next(c for c in verdict["checks"] if c["name"] == "crossing")["figures"]
    assert crossing["steps"] > 100  # what partitions wrote to each other
    assert crossing["on_their_way"] == 0
    assert verdict["commands"] == kept["submitted"] + kept["setup"]["submitted"] + crossing["steps"]
    assert cli.main(["tieout"]) == 0
    assert cli.main(["verify"]) == 0
    assert "every check holds" in capsys.readouterr().out


def test_the_tie_out_names_what_somebody_changed_and_repairs_it(kept, capsys):
    def said(part: str, verdict: str) -> Any:
        capsys.readouterr()
        code = cli.main(["status", "--json"])
        status = json.loads(capsys.readouterr().out)
        word = status["tieout"]
        wrong = ", ".join(p for p, x in word["parts"].items() if x["verdict"] == "differs")
        assert [i["subject"] for i in status["incidents"] if i["code"] == "tie_out_differs"] == (
            [wrong] if wrong else []
        )
        assert code or not wrong
        return word if word["parts"][part]["verdict"] == verdict else None

    wait_for("the first word", lambda: said("clickhouse", "equal"))
    before = well(capsys)
    ports, metrics = before["addresses"], before["roles"]["tieout"]["metrics"]
    db = Database(ClickHouseConfig("127.0.0.1", ports["clickhouse_port"], "clearline_demo"))
    ((p, sequence, key, account),) = db.rows(
        "SELECT o.partition, o.sequence, o.idempotency_key, p.account_id FROM postings AS p JOIN outcomes AS o "
        "USING (partition, sequence) WHERE line = 0 AND p.partner_id != 'bank' ORDER BY o.booked_at LIMIT 1"
    )
    db.run(f"ALTER TABLE postings UPDATE reference = 'x' WHERE partition = {p} AND sequence = {sequence} AND line = 0")
    db.close()
    word = wait_for("ClickHouse to be told", lambda: said("clickhouse", "differs"))
    assert [(d["account"], d["transaction"].split()[-1]) for d in word["differences"]] == [(account, key)]
    with redis.Redis.from_url(ports["redis_url"], decode_responses=True) as client:
        client.delete(f"demo:account:{account}")
    word = wait_for("Redis to be told", lambda: said("redis", "differs"))
    assert {d["account"] for d in word["differences"]} == {account}
    assert 'clearline_tieout_differences{part="redis"} 1.0' in urllib.request.urlopen(metrics).read().decode()
    differs = command(capsys, "tieout", code=1)
    assert {d["account"] for d in differs["named"]} == {account}
    repaired = command(capsys, "tieout", "--repair")
    assert {part: repaired[part] for part in ("kafka", "clickhouse", "redis")} == kept["tieout"]
    assert len(repaired["repaired"]) >= 2
    wait_for("the role to agree", lambda: said("clickhouse", "equal") and said("redis", "equal"))


def test_reports_agree_with_each_other(kept, capsys):
    balance = command(capsys, "report", "trial-balance")
    assert balance["balanced"] is True
    sums = {r["currency"]: (r["debits"], r["credits"]) for r in balance["rows"]}
    for by in ("type", "account"):
        rows = command(capsys, "report", "trial-balance", "--by", by)["rows"]
        again: dict[str, list[int]] = {}
        for r in rows:
            pair = again.setdefault(r["currency"], [0, 0])
            pair[0] += r["debits"]
            pair[1] += r["credits"]
        assert {c: tuple(p) for c, p in again.items()} == sums
    totals = command(capsys, "report", "totals")["rows"]
    assert {c: sum(r["debits"] for r in totals if r["currency"] == c) for c in sums} == {
        c: d for c, (d, _) in sums.items()
    }

    top = command(capsys, "report", "top-partners", "--limit", "3", "--roots")["rows"]
    assert len(top) == 3
    account = f"{busiest(kept)}:settlement:till"
    statement = command(capsys, "report", "statement", account)
    assert statement["closing"] == statement["rows"][-2]["balance"]
    now, booked = command(capsys, "balance", account), command(capsys, "balance", account, "--value-date", "2149-01-01")
    assert now["balance"] == booked["balance"] == statement["closing"]
    assert command(capsys, "balance", account, "--as-of", "2020-01-01")["balance"] == 0
    assert command(capsys, "account", "show", account)["available"] == now["available"]
    both = command(capsys, "balance", account, "--as-of", "2149-01-01", "--value-date", "2149-01-01")
    assert both["balance"] == now["balance"]

    rows = command(capsys, "sql", "SELECT outcome, count() AS n FROM outcomes GROUP BY outcome")["rows"]
    assert dict(rows)["settled"] == kept["settled"] + kept["setup"]["outcomes"]["settled"]
    assert "readonly" in command(capsys, "sql", "DROP TABLE outcomes", code=2)["error"]
    for wrong in (
        ["report", "statement", "acme:nobody"],
        ["balance", "acme:nobody"],
        ["report", "totals", "--since", "x"],
    ):
        assert "error" in command(capsys, *wrong, code=2)


def test_a_roll_up_is_the_same_in_the_book_and_in_clickhouse(kept, capsys):
    """At every level of a tree: the sums of what each worker committed as state, and those of all postings."""
    partners = [p["partner_id"] for p in command(capsys, "partner", "list")["partners"]]
    aggregators = sorted({p.split("/")[0] for p in partners if "/" in p})
    assert aggregators, "a demo has partners below partners"
    levels = 0
    for root in aggregators[:5]:
        report = command(capsys, "report", "rollup", root)
        stored = {(r["partner_id"], r["currency"]): (r["debits"], r["credits"]) for r in report["rows"]}
        shown = command(capsys, "partner", "show", root)["rollup"]
        book = {(r["partner_id"], r["currency"]): (r["debits_posted"], r["credits_posted"]) for r in shown}
        assert {at: sums for at, sums in book.items() if any(sums)} == stored
        own = {r["partner_id"]: r["own_settled"] for r in report["transactions"]}
        assert {r["settled"] for r in report["transactions"] if r["partner_id"] == root} == {sum(own.values())}
        levels += sum("/" in path for path, _ in stored)
    assert levels > 0


def test_tables_and_csv_are_for_people_and_spreadsheets(kept, capsys):
    account = f"{busiest(kept)}:settlement:till"
    for arguments, words in (
        (["report", "trial-balance"], "debits equal credits in every currency"),
        (["report", "trial-balance", "--by", "type"], "liability"),
        (["report", "statement", account], "closing"),
        (["report", "totals"], "scan-to-pay"),
        (["report", "top-partners"], "turnover"),
        (["report", "rollup"], "credits less debits"),
        (["partner", "show", busiest(kept).split("/")[0]], "With all below it"),
        (["balance", account], "available"),
        (["sql", "SELECT 2026 AS year"], "2026"),
    ):
        assert cli.main(arguments) == 0
        assert words in capsys.readouterr().out
    assert cli.main(["report", "trial-balance", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert all(r["debits"] == r["credits"] for r in rows)


def test_redis_is_built_up_again(kept, capsys):
    account = f"{busiest(kept)}:settlement:till"
    before = command(capsys, "balance", account)
    assert command(capsys, "redis", "rebuild")["complete"] is True
    assert command(capsys, "balance", account) == before


def test_a_day_is_closed_sealed_and_proven(kept, capsys):
    day = max(r["day"] for r in command(capsys, "report", "totals")["rows"])
    rows = command(capsys, "report", "trial-balance", "--until", day)["rows"]
    done = command(capsys, "close", day, "--by", "li", "--note", "end of day")
    sums: dict[str, int] = {}
    for t in done["totals"]:
        sums[t["currency"]] = sums.get(t["currency"], 0) + t["debits"]
    assert sums == {r["currency"]: r["debits"] for r in rows}, "nothing came in between"
    assert command(capsys, "close", day, "--by", "wang") == done, "again it changes nothing and says the same"
    assert [x["hash"] for x in command(capsys, "close", "--list")["sealed"]] == [done["hash"]]
    assert command(capsys, "close", "--verify", day)["equal"] is True
    assert cli.main(["close", day]) == 0
    assert f"{day} is closed and sealed: {done['hash']}" in capsys.readouterr().out
    assert command(capsys, "report", "trial-balance", "--closed", day)["as_of"]["cut"] == done["cut"]
    verdict = command(capsys, "verify", "--drained")
    assert verdict["ok"] is True, verdict
    closes = next(c for c in verdict["checks"] if c["name"] == "closes")["figures"]
    assert closes == {"sealed": len(done["places"])}


def test_a_folder_that_is_no_demo_is_not_emptied(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInputError, match="holds something that is not a demo"):
        empty_folder(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
    empty_folder(tmp_path / "nothing")


def test_a_demo_leaves_nothing_running(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("CLEARLINE_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("CLEARLINE_WORLD", raising=False)
    document = command(capsys, "demo", "--transactions", "300", "--rate", "0")
    assert document["submitted"] == 300
    assert document["kept"] is False
    assert processes_of(tmp_path) == []
