"""`clearline publish`, `partner`, `account` and `dlq` against a real broker, registry and worker."""

from __future__ import annotations

import json
import re
import threading
import time
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from clearline import cli
from clearline.acts import record_act
from clearline.config import settings_env
from clearline.connection import connect
from clearline.control import RejectedError
from clearline.drive import Drive
from clearline.generator import generate
from clearline.outcomes import Outcome, OutcomeTail
from schemas.errors import PartUnavailableError
from schemas.records import Transaction
from streams.reader import end_offsets
from streams.topics import Topics, create_topics
from tests.integration.conftest import World
from tests.sink_servers import wait_for

pytestmark = pytest.mark.stack


@pytest.fixture
def addressed(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """A world without workers, and an environment in which the command line finds it."""
    # These commands need no store; addresses that are set are not looked for on this machine.
    nowhere = {"CLEARLINE_CLICKHOUSE__HOST": "127.0.0.1", "CLEARLINE_REDIS__URL": "redis://127.0.0.1:1/0"}
    unused = {"CLEARLINE_CLICKHOUSE__PORT": "1", "CLEARLINE_CLICKHOUSE__HTTP_PORT": "1"}
    for name, value in {**settings_env(world.settings), **nowhere, **unused}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return world


@pytest.fixture
def running(addressed: World) -> World:
    """The same with a worker."""
    addressed.start()
    return addressed


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """One command with --json; its document."""
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def transfer(key: str, amount: Any, payee: str = "acme:wallet:bob", **more: Any) -> dict[str, Any]:
    return {
        "partner_id": "acme", "idempotency_key": key, "product": "wallet", "operation": "transfer", "amount": amount,
        "currency": "CNY", "accounts": {"payer": "acme:wallet:alice", "payee": payee}, "value_date": "2026-11-22",
        **more,
    }  # fmt: skip


OPENING = [
    {"command": "OpenAccount", "idempotency_key": "1", "account_id": "bank:clearing:CNY", "type": "asset",
     "currency": "CNY"},
    {"command": "AdmitPartner", "idempotency_key": "2", "subject_id": "acme", "name": "Acme"},
    {"command": "OpenAccount", "idempotency_key": "3", "account_id": "acme:wallet:alice", "type": "liability",
     "currency": "CNY", "min_available": 0},
    {"command": "OpenAccount", "idempotency_key": "4", "account_id": "acme:wallet:bob", "type": "liability",
     "currency": "CNY", "min_available": 0},
    transfer("5", 100_000, accounts={"payer": "bank:clearing:CNY", "payee": "acme:wallet:alice"}),
]  # fmt: skip


def write(path: Path, lines: list[Any]) -> str:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return str(path)


def test_a_file_is_settled_and_what_is_wrong_is_told(running: World, tmp_path: Path, capsys):
    lines = [
        *OPENING,
        transfer("o-1", 12_550),
        transfer("o-1", 12_550),
        transfer("o-1", 12_551),
        transfer("o-2", 10**9),
        transfer("o-3", 1, payee="acme:wallet:nobody"),
        transfer("o-4", 1, partner_id="ghost"),
        transfer("o-5", 12.5),
        "{",
    ]
    file = write(tmp_path / "orders.jsonl", lines)
    foreseen = run(capsys, "publish", file, "--dry-run", code=2)
    assert (foreseen["published"], running.journal()) == (0, []), "a dry run changes nothing"
    report = run(capsys, "publish", file, "--wait", "--rate", "500", code=2)
    assert foreseen["outcomes"] == report["outcomes"]
    assert [(r["line"], r["reason"], r["detail"]) for r in foreseen["rejections"]] == [
        (r["line"], r["reason"], r["detail"]) for r in report["rejections"]
    ]
    assert report["lines"] == len(lines)
    assert report["published"] == report["acknowledged"] == len(lines) - 2
    assert report["outcomes"] == {"applied": 4, "settled": 2, "repeated": 1, "rejected": 4}
    assert report["unanswered"] == 0
    assert {(r["line"], r["reason"]) for r in report["rejections"]} == {
        (8, "idempotency_conflict"), (9, "insufficient_funds"), (10, "account_unknown"), (11, "partner_unknown"),
    }  # fmt: skip
    assert [(r["line"], r["errors"][0]["field"]) for r in report["refusals"]] == [(12, "amount"), (13, "")]
    assert Path(report["refused_file"]).read_text().count("\n") == 2

    assert run(capsys, "publish", file, "--dry-run", code=2)["outcomes"] == {"repeated": 10, "rejected": 1}
    again = run(capsys, "publish", file, "--wait", code=2)
    assert again["outcomes"] == {"repeated": 10, "rejected": 1}, "the same file again changes nothing"

    assert cli.main(["publish", file, "--wait"]) == 2
    shown = capsys.readouterr().out
    assert "outcomes: rejected 1, repeated 10" in shown
    assert "idempotency_conflict" in shown
    assert "CNY has 2 decimals, so 12.50 CNY is written 1250" in shown

    alice = run(capsys, "account", "show", "acme:wallet:alice")
    assert (alice["available"], alice["debits_posted"]) == (87_450, 12_550)
    listed = run(capsys, "account", "list", "--below", "acme")["accounts"]
    assert [a["account_id"] for a in listed] == ["acme:wallet:alice", "acme:wallet:bob"]
    clearing = run(capsys, "account", "show", "bank:clearing:CNY")
    assert (clearing["available"], clearing["shards"]) == (100_000, 4)


def test_partners_and_accounts_are_run_from_the_command_line(running: World, tmp_path: Path, capsys):
    run(capsys, "publish", write(tmp_path / "a.jsonl", OPENING), "--wait")
    admitted = run(capsys, "partner", "admit", "acme/shop-17", "--name", "Shop 17", "--key", "k1")
    assert (admitted["outcome"], len(admitted["places"])) == ("applied", 1)
    assert run(capsys, "partner", "admit", "acme/shop-17", "--name", "Shop 17", "--key", "k1")["outcome"] == "repeated"
    assert "partner_exists" in run(capsys, "partner", "admit", "acme/shop-17", code=2)["error"]
    assert "parent_unknown" in run(capsys, "partner", "admit", "nobody/shop", code=2)["error"]

    run(capsys, "partner", "suspend", "acme", "--note", "inspection")
    shop = run(capsys, "partner", "show", "acme/shop-17")
    assert (shop["state"], shop["works"], shop["suspended_above"]) == ("live", False, ["acme"])
    refused = run(capsys, "publish", write(tmp_path / "b.jsonl", [transfer("x", 5)]), "--wait")
    assert refused["rejections"][0]["reason"] == "partner_suspended"
    run(capsys, "partner", "resume", "acme", "--note", "inspection passed")
    states = {p["partner_id"]: p["state"] for p in run(capsys, "partner", "list")["partners"]}
    assert states == {"acme": "live", "acme/shop-17": "live"}
    assert "there is no partner nobody" in run(capsys, "partner", "show", "nobody", code=2)["error"]

    opened = run(capsys, "account", "open", "bank:fees:CNY", "--currency", "CNY", "--type", "income", "--no-limit")
    assert len(opened["places"]) == 4, "the bank's accounts are in every partition"
    run(capsys, "account", "limit", "acme:wallet:alice", "-500")
    run(capsys, "account", "block", "acme:wallet:alice", "--debits", "--by", "court", "--note", "order 12")
    alice = run(capsys, "account", "show", "acme:wallet:alice")
    assert (alice["min_available"], alice["debits_blocked"], alice["credits_blocked"]) == (-500, True, False)
    run(capsys, "account", "unblock", "acme:wallet:alice")
    run(capsys, "account", "limit", "acme:wallet:alice", "none")
    alice = run(capsys, "account", "show", "acme:wallet:alice")
    assert (alice["min_available"], alice["debits_blocked"]) == (None, False)
    assert "account_not_empty" in run(capsys, "account", "close", "acme:wallet:alice", code=2)["error"]
    run(capsys, "account", "close", "acme:wallet:bob")
    assert run(capsys, "account", "show", "acme:wallet:bob")["closed"] is True
    assert "there is no account acme:x" in run(capsys, "account", "show", "acme:x", code=2)["error"]
    journal = {r.idempotency_key: r for r in running.journal()}
    block = next(
        r for r in journal.values() if r.command == "BlockAccount" and r.changes.get("requested_by") == "court"
    )
    assert block.changes["note"] == "order 12"


def test_generated_load_has_exactly_the_outcomes_that_were_foreseen(running: World, capsys):
    """Every kind of refusal and damage, through the wire: the generator predicts each outcome from its own balances."""
    system = connect(running.settings)
    items = generate(5, 4_000, partners_max=12, accounts_max=200, faults=4.0)
    with OutcomeTail(system.kafka, system.topics, system.codec) as tail:
        figures = Drive(system, tail).run(items)
    assert figures.surprises == []
    assert figures.outcomes.total() == figures.submitted
    assert figures.outcomes["dead"] > 10
    assert figures.latency_ms()["p50"] > 0

    found = run(capsys, "dlq", "ls", "--newest", "1000")
    assert found["total"] == figures.outcomes["dead"] == len(found["letters"])
    assert set(found["reasons"]) >= {"not_framed", "unknown_schema", "undecodable", "contract", "empty"}
    one = next(x for x in found["letters"] if x["reason"] == "contract")
    shown = run(capsys, "dlq", "show", one["id"])
    assert shown["record_type"] == "AccountState"
    assert shown["source_topic"] == running.topics.submitted
    assert bytes.fromhex(shown["hex"])[0] == 0
    only = run(capsys, "dlq", "ls", "--reason", "empty", "--newest", "3")
    assert {x["reason"] for x in only["letters"]} == {"empty"}
    assert cli.main(["dlq", "show", one["id"]]) == 0
    assert "is not a command" in capsys.readouterr().out
    assert cli.main(["dlq", "ls"]) == 0
    assert re.search(r"contract [\d,]+", capsys.readouterr().out)
    for wrong in ("0:999999", "99:0", "x"):
        assert "dead letter" in run(capsys, "dlq", "show", wrong, code=2)["error"]


def test_outcomes_that_do_not_come_are_told(addressed: World, monkeypatch, tmp_path: Path, capsys):
    """No worker runs: the commands are in the log, and the answer says so."""
    world = addressed
    monkeypatch.setattr("clearline.publish.STALL_S", 1.0)
    file = write(tmp_path / "a.jsonl", OPENING)
    assert cli.main(["publish", file, "--wait", "--json"]) == 3
    out = capsys.readouterr()
    assert json.loads(out.out)["unanswered"] == len(OPENING)
    assert "5 commands are in the log but got no outcome in time" in out.err
    assert cli.main(["publish", file]) == 0
    assert sum(end_offsets(world.kafka, world.topics.submitted).values()) == 2 * (len(OPENING) + 3)


def test_a_topic_with_another_number_of_partitions_is_refused(world: World):
    with pytest.raises(Exception, match=r"has 4 partitions.*CLEARLINE_PARTITIONS=4"):
        connect(world.settings.model_copy(update={"partitions": 8}))


def test_a_world_that_was_never_prepared_is_told(world: World):
    with pytest.raises(PartUnavailableError, match=r"never-made\..* does not exist; `./run up`"):
        connect(world.settings.model_copy(update={"world": "never-made"}))


def test_a_drive_without_answers_ends(world: World):
    system = connect(world.settings)
    create_topics(world.kafka, Topics(world.settings.world), 4)
    with (
        OutcomeTail(system.kafka, system.topics, system.codec) as tail,
        pytest.raises(PartUnavailableError, match="have no outcome"),
    ):
        Drive(system, tail, stall_s=0.5).run(chain(generate(1, 5, partners_max=1, accounts_max=5)))


class Paying:
    """Somebody who pays fifty times a second, from another thread."""

    def __init__(self, world: World) -> None:
        self._system = connect(world.settings)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._pay)

    def __enter__(self) -> Paying:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _pay(self) -> None:
        roles = {"payer": "acme:wallet:alice", "payee": "acme:wallet:bob"}
        publisher, i = self._system.publisher(), 0
        while not self._stop.wait(0.02):
            i += 1
            publisher.publish(Transaction("acme", f"pay-{i}", "wallet", "transfer", 1, "CNY", roles, (), 20_000))
            publisher.poll()
        publisher.flush(20.0)


def test_a_freeze_holds_from_the_next_command_on(running: World, tmp_path: Path, capsys):
    """Under payments. What is printed is the time from the call of the command line to the last one that went through."""
    run(capsys, "publish", write(tmp_path / "o.jsonl", OPENING))
    why, two = ("--note", "court order 12", "--by", "chen"), ("--approved-by", "li wei")
    with Paying(running), OutcomeTail(running.kafka, running.topics, running.codec) as tail:
        for level, subject in (("partner", "acme"), ("world", running.settings.world)):
            wait_for("payments that settle", lambda: any(o.outcome == "settled" for o in tail.poll(0.2)))
            told = run(capsys, "freeze", level, subject, *why, "--dry-run")
            assert (told["frozen_now"], told["command"]["frozen"]) == (None, True)
            asked_ms = time.time() * 1000
            frozen = run(capsys, "freeze", level, subject, *why)
            answered_ms = time.time() * 1000
            at = {o["partition"]: o["offset"] for o in frozen["outcomes"]}
            assert len(at) == (running.settings.partitions if level == "world" else 1)
            code, seen = f"{level}_frozen", list[Outcome]()

            def enough(seen: list[Outcome] = seen, code: str = code) -> bool:
                seen += tail.poll(0.2)
                return sum(o.reason == code for o in seen) > 10

            wait_for("payments that are refused", enough)
            after = [o for o in seen if o.offset > at.get(o.partition, 2**62)]
            assert {o.reason for o in after} == {code}
            last_ms = max((o.booked_at for o in seen if o.outcome == "settled"), default=asked_ms)
            with capsys.disabled():
                print(
                    f"{level}: the last payment went through {last_ms - asked_ms:.0f} ms after the freeze was asked "
                    f"for, which was answered after {answered_ms - asked_ms:.0f} ms"
                )
            (listed,) = run(capsys, "freeze", "ls")["frozen"]
            assert [listed[k] for k in ("level", "requested_by", "note", "missing")] == [level, "chen", why[1], []]
            assert "second person" in run(capsys, "unfreeze", level, subject, *why, code=2)["error"]
            run(capsys, "unfreeze", level, subject, *why, *two)
            tail.poll(0.2)
    assert run(capsys, "freeze", "ls")["frozen"] == []
    assert "this is the world" in run(capsys, "freeze", "world", "elsewhere", *why, code=2)["error"]


def test_what_an_operator_did_stands_in_the_journal_once(running: World):
    system = connect(running.settings)
    act: dict[str, Any] = {
        "act": "replay.apply",
        "subject_id": "replay-7",
        "digest": "ab" * 32,
        "requested_by": "chen",
        "note": "fees",
    }
    first, again = record_act(system, **act, key="act-1"), record_act(system, **act, key="act-1")
    assert (first.outcome, again.outcome, again.first_offset) == ("applied", "repeated", first.offset)
    with pytest.raises(RejectedError, match="idempotency_conflict"):
        record_act(system, **{**act, "note": "other"}, key="act-1")
    with pytest.raises(RejectedError, match="another person"):
        record_act(system, **act, approved_by="chen")
    (record,) = [r for r in running.journal() if r.outcome == "applied"]
    assert (record.command, record.subject_id, record.changes["act"]) == ("OperatorAct", "replay-7", "replay.apply")
