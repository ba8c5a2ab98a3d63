"""Reads of a gateway on a real stack: the same commands settled there and in the twin give the same statements, balances,
limits and explanations; what was answered is read at once; without Redis what is posted is still told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer

from clearline import cli, keys
from clearline.config import load_settings, settings_env
from clearline.connection import Connection, connect
from clearline.gateway.twin import LedgerTwin, ledger_of
from clearline.stack import Stack
from schemas.identity import command_id, partition_of
from schemas.records import Command, JournalRecord, Limit, SetLimit, Transaction
from streams.reader import read_to_end
from streams.table import Table
from tests.console_page import live_with, text_of, ticket_of
from tests.gateway import Gate, in_loop, keyed
from tests.integration.test_gateway import Gateways, ground
from tests.sink_servers import wait_for

pytestmark = pytest.mark.stack

PAYMENTS = 60
SAME_LINES = ("value_date", "partner_id", "product", "operation", "reference", "side", "amount")
SAME_BALANCE = ("debits_pending", "debits_posted", "credits_pending", "credits_posted", "available", "min_available")


def business(today: int) -> list[Command]:
    """Payments at home and to another partition, dated about today, a hold and its capture, a refund, refusals."""
    out: list[Command] = [SetLimit("bank", "limit", "partner", "acme", (Limit("month", "CNY", 10_000, None),))]
    here, there = {"payer": "acme:w:a", "payee": "acme:w:b"}, {"payer": "acme:w:b", "recipient": "zeta:w:a"}
    for i in range(PAYMENTS):
        day, text = today - i % 3, f"order {i}"
        kind, accounts = ("send", there) if i % 4 == 0 else ("transfer", here)
        out.append(Transaction("acme", f"o-{i}", "wallet", kind, 100 + i, "CNY", accounts, (), day, text))
    out += [
        Transaction("acme", "h", "wallet", "hold", 900, "CNY", here, (), today),
        Transaction("acme", "c", "wallet", "capture", 400, "CNY", {}, (), today, original="h"),
        Transaction("acme", "r", "wallet", "refund", 50, "CNY", {}, (), today, original="o-1"),
        Transaction("acme", "no", "wallet", "transfer", 10**9, "CNY", here, (), today),
    ]
    return out


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    folder = tmp_path_factory.mktemp("reads")
    settings = load_settings(
        data_dir=folder / "data", world="sandbox", partitions=4, workers=1, gateway={"wait_s_max": 120}
    )
    with Stack(settings) as stack:
        stack.start(roles=["worker-0", "sink-clickhouse", "sink-redis"])
        found = Gateways(stack, stack.resolved(), folder)
        ground(found)
        system = connect(found.settings)
        with system.publisher() as publisher:
            for command in business(int(time.time() // 86_400)):
                publisher.publish(command)
        found.start(0)
        yield found
        for process in found.running.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def twin() -> Gate:
    """The same, settled in memory, on the same day."""
    gate = Gate()
    gate.ledger = ledger_of(gate.parts)
    gate.ledger.advance(int(time.time() * 1000) - gate.ledger.now_ms)
    for command in business(int(time.time() // 86_400)):
        gate.ledger.settle(command)
    return gate


def get(real: Gateways, path: str, **query: Any) -> Any:
    with real.client(0) as client:
        answer = client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()


def everything_is_in(real: Gateways, twin: LedgerTwin) -> bool:
    """Whether the sinks have what was published: both accounts of acme stand where the twin's stand."""
    for account_id in ("acme:w:a", "acme:w:b", "zeta:w:a"):
        whole = real.balance(account_id) if account_id.startswith("zeta") else None
        a = twin.account(account_id)
        assert a is not None
        if whole is not None and whole != a.available():
            return False
        if whole is None:
            page = get(real, f"/v1/accounts/{account_id}/statement", since="2026-01-01", limit=1)
            if page["closing"] != a.credits_posted - a.debits_posted:
                return False
    return True


def same_as_twin(twin: Gate, path: str, **query: Any) -> Any:
    found: dict[str, Any] = {}

    @in_loop
    async def ask() -> None:
        async with twin.client() as client:
            answer = await client.get(path, params=query)
            assert answer.status_code == 200, answer.text
            found.update(answer.json())

    ask()
    return found


def facts(lines: list[dict[str, Any]]) -> list[str]:
    """What lines say, sorted; without the ground, which is of another day in the twin."""
    return sorted(str([x[k] for k in SAME_LINES]) for x in lines if x["operation"] != "adjustment")


def test_statements_balances_and_limits_are_the_twins(real: Gateways, twin: Gate) -> None:
    wait_for("the sinks", lambda: everything_is_in(real, twin.ledger))
    first = "2026-01-01"
    for account_id in ("acme:w:a", "acme:w:b"):
        path = f"/v1/accounts/{account_id}/statement"
        must = same_as_twin(twin, path, since=first, limit=1000)
        lines, page = [], get(real, path, since=first, limit=7)
        while True:
            assert {k: page[k] for k in ("opening", "debits", "credits", "closing", "type", "currency")} == {
                k: must[k] for k in ("opening", "debits", "credits", "closing", "type", "currency")
            }
            lines += page["lines"]
            if page["next_cursor"] is None:
                break
            page = get(real, path, cursor=page["next_cursor"], limit=7)
        # The order within a day is that of booking: of what crosses it is another here than there.
        assert facts(lines) == facts(must["lines"]) and len(lines) > PAYMENTS // 4
        balance = page["opening"]
        for x in lines:
            balance += x["amount"] if x["side"] == "credit" else -x["amount"]
            assert x["balance"] == balance
        assert balance == page["closing"]
        ours, theirs = (
            get(real, f"/v1/accounts/{account_id}/balance"),
            same_as_twin(twin, f"/v1/accounts/{account_id}/balance"),
        )
        assert {k: ours[k] for k in SAME_BALANCE} == {k: theirs[k] for k in SAME_BALANCE}
        assert ours["source"] in ("redis", "state") and ours["as_of"]
    ours, theirs = get(real, "/v1/limits"), same_as_twin(twin, "/v1/limits")
    assert ours == theirs
    assert get(real, "/v1/partner") | {"name": ""} == same_as_twin(twin, "/v1/partner") | {"name": ""}
    assert get(real, "/v1/products/wallet") == same_as_twin(twin, "/v1/products/wallet")


def test_what_was_answered_is_read_at_once(real: Gateways) -> None:
    with real.client(0) as client:
        for i in range(5):
            body = {"account_id": f"acme:w:new-{i}", "type": "liability", "currency": "CNY", "min_available": 0}
            made = client.post("/v1/accounts", json=body, headers=keyed(f"new-{i}", 120))
            assert made.status_code == 201, made.text
            assert client.get(made.headers["location"]).status_code == 200
            accounts = {"payer": "acme:w:a", "payee": f"acme:w:new-{i}"}
            pay = {"product": "wallet", "operation": "transfer", "amount": 5, "currency": "CNY", "accounts": accounts}
            assert client.post("/v1/transactions", json=pay, headers=keyed(f"first-{i}", 120)).status_code == 201
            balance = client.get(f"/v1/accounts/acme:w:new-{i}/balance").json()
            assert balance["available"] == 5, balance


Explained = Callable[..., tuple[int, Any]]


@pytest.fixture
def explained(real: Gateways, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Explained:
    """`clearline explain`: its exit code and its document."""
    for name, value in settings_env(real.settings).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, Any]:
        code = cli.main(["explain", *arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_the_same_is_told_over_http_and_on_the_command_line(real: Gateways, twin: Gate, explained: Explained) -> None:
    told: dict[str, Any] = {}
    for key in ("o-0", "o-1", "h", "c", "r", "no"):
        id_hex = command_id("acme", key).hex()
        over_http = get(real, f"/v1/transactions/{id_hex}/explain")
        must = same_as_twin(twin, f"/v1/transactions/{id_hex}/explain")
        assert (must["summary"], must["cure"]) == (over_http["summary"], over_http["cure"])
        shape = [t["text"].split(" ")[0] for t in must["steps"]]
        assert [t["text"].split(" ")[0] for t in over_http["steps"]] == shape, (over_http, must)
        told[key] = over_http
    for arguments, key in ((("acme", "h"), "h"), ((told["o-0"]["id"],), "o-0")):
        code, document = explained(*arguments)
        assert code == 0 and {k: document[k] for k in ("id", "summary", "why", "cure")} == {
            k: told[key][k] for k in ("id", "summary", "why", "cure")
        }
        assert len(document["steps"]) == len(told[key]["steps"])
    text = str(told["h"]["steps"])
    assert "acme captured 4.00 CNY of it (key c)" in text and "5.00 CNY of it is still set aside" in text
    assert "reserved its part" in str(told["o-0"]["steps"]) and "booked its part" in str(told["o-0"]["steps"])
    code, document = explained("acme", "no", "--lang", "zh")
    assert code == 0 and document["language"] == "zh" and "差" in document["why"]
    assert explained("acme", "never")[0] == 2
    assert explained("xyz")[0] == 2


def test_the_console_shows_and_changes_the_real_system(real: Gateways) -> None:
    """Where the workers stand; a freeze by two people that holds from then on; a letter put back once."""
    system = connect(real.settings)
    tokens = []
    with Table(system.kafka, system.topics.access, system.codec) as table:
        for holder in ("li.wei", "zhang.min"):
            made = keys.make(
                "bank", ("status", "operate"), sandbox=True, now_ms=time.time_ns() // 1_000_000, requested_by="test",
                holder=holder,
            )  # fmt: skip
            table.put(keys.row_key(made.key.key_id), made.key)
            tokens.append(made.token)
    with httpx.Client(base_url=real.urls[0], timeout=180, trust_env=False) as desk:

        def signed_in() -> bool:
            return desk.post("/operations/sign-in", data={"key": tokens[0], "next": "/operations"}).status_code == 303

        wait_for("the gateway to know the key", signed_in)
        said = live_with(desk, "worker-0 ready")
        last = [journal(system, p)[-1] for p in range(4) if journal(system, p)]
        assert last and all(r.chain.hex()[:16] in said for r in last), "the heads of the chains are the journal's"
        for lift, code in (("", 422), ("yes", 201)):
            query = {"level": "account", "subject": "acme:w:a", "note": "case 9", "lift": lift}
            form = {"ticket": ticket_of(desk.get("/operations/freeze/confirm", params=query)), "second_key": tokens[1]}
            answer = desk.post("/operations/freeze/do", data=form)
            assert "applied" in text_of(desk.get(answer.headers["location"]))
            with real.client(0) as client:
                paid = client.post("/v1/transactions", json=payment(), headers=keyed(f"f{lift}", 120))
            assert paid.status_code == code, paid.text
            assert code == 201 or paid.json()["code"] == "account_frozen"
            shown = live_with(desk, f"{'lift' if lift else 'freeze'} account acme:w:a li.wei zhang.min case 9")
            assert ("account acme:w:a li.wei zhang.min 20" in shown) == (not lift), "what is frozen is listed"
        astray(system)
        live_with(desk, "contract 1 Look")
        match = {"what": "redrive", "reason": "contract"}
        plan = desk.get("/operations/dead-letters/plan", params=match)
        assert "Redrive 1 dead letters" in text_of(plan)
        form = {"ticket": ticket_of(plan), "note": "it went to the wrong partition", "rate": "500"}
        begun = [desk.post("/operations/dead-letters/do", data=form) for _ in range(2)]
        assert len({a.headers["location"] for a in begun}) == 1
        wait_for(
            "the letter to be put back", lambda: "done, 1 of 1 moved" in text_of(desk.get(begun[0].headers["location"]))
        )
        assert "There is nothing to move" in text_of(desk.get("/operations/dead-letters/plan", params=match))
        live_with(desk, "dlq.redrive")
        outcomes = [r for p in range(4) for r in journal(system, p) if r.idempotency_key == "astray"]
        assert [r.outcome for r in outcomes] == ["settled"]


def payment() -> dict[str, Any]:
    accounts = {"payer": "acme:w:a", "payee": "acme:w:b"}
    return {"product": "wallet", "operation": "transfer", "amount": 100, "currency": "CNY", "accounts": accounts}


def astray(system: Connection) -> None:
    """A payment of acme in a partition that is not acme's: it becomes a dead letter."""
    legs = {"payer": "acme:w:a", "payee": "acme:w:b"}
    command = Transaction("acme", "astray", "wallet", "transfer", 100, "CNY", legs, (), int(time.time() // 86_400))
    wrong = (partition_of("acme", system.partitions) + 1) % system.partitions
    producer = Producer({"bootstrap.servers": system.kafka.bootstrap})
    producer.produce(system.topics.submitted, system.codec.encode(command), b"acme", partition=wrong)
    assert producer.flush(120) == 0


def journal(system: Connection, partition: int) -> list[JournalRecord]:
    found = [system.codec.decode(r.value) for r in read_to_end(system.kafka, system.topics.journal, {partition: 0})]
    return [r for r in found if isinstance(r, JournalRecord)]


def test_without_redis_what_is_posted_is_told(real: Gateways, twin: Gate) -> None:
    """A gateway that starts without Redis knows accounts that changed lately from `ledger.state`, others from ClickHouse."""
    posted = get(real, "/v1/accounts/acme:w:b/balance")
    real.stack.kill("redis")
    balance = get(real, "/v1/accounts/acme:w:b/balance")
    assert balance["source"] in ("state", "clickhouse")
    assert (balance["debits_posted"], balance["credits_posted"]) == (posted["debits_posted"], posted["credits_posted"])
    assert [a["account_id"] for a in get(real, "/v1/accounts", limit=2)["items"]] == ["acme:w:a", "acme:w:b"]


def test_reports_data_and_a_table_of_ones_own(real: Gateways) -> None:
    made = keys.make("bank", ["reports"], sandbox=True, now_ms=time.time_ns() // 1_000_000, requested_by="test")
    system = connect(real.settings)
    with Table(system.kafka, system.topics.access, system.codec) as table:
        table.put(keys.row_key(made.key.key_id), made.key)
    closing = get(real, "/v1/accounts/acme:w:a/statement", since="2026-01-01", limit=1)["closing"]
    (row,) = get(real, "/v1/reports/balances", account="acme:w:a")["rows"]
    assert row["balance"] == closing > 0
    with real.client(0) as acme, httpx.Client(base_url=real.urls[0], timeout=180, trust_env=False) as bank:
        bank.headers["Authorization"] = f"Bearer {made.token}"
        whole = wait_for("the key of the bank", lambda: _well(bank.get("/v1/reports/trial-balance")))
        assert whole is not None
        assert whole.json()["balanced"] and "reports" in whole.headers["ratelimit"]
        cut = whole.headers["clearline-as-of"]
        assert bank.get("/v1/reports/trial-balance", params={"cut": cut}).content == whole.content
        assert bank.get("/v1/accounts").json()["code"] == "scope_missing"
        assert acme.get("/v1/reports/trial-balance").json()["code"] == "not_found"
        put = acme.put(
            "/v1/data/tables/purposes", content=b"account,purpose\nacme:w:a,daily\n",
            headers={"Content-Type": "text/csv", "Idempotency-Key": "purposes-1"},
        )  # fmt: skip
        assert put.status_code == 201, put.text
        sums = acme.get("/v1/data/aggregates", params={"by": "", "join": "purposes"}).json()["rows"]
        plain = acme.get("/v1/data/aggregates", params={"by": ""}).json()["rows"]
        assert {r["purposes_purpose"] for r in sums} == {"", "daily"}
        assert sum(r["debits"] for r in sums) == sum(r["debits"] for r in plain) > 0


def _well(answer: httpx.Response) -> httpx.Response | None:
    return answer if answer.status_code == 200 else None
