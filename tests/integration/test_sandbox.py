"""From nothing to live on a real broker: a sandbox world with its gateway, a live world beside it, and the bank's staff."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from clearline import cli
from clearline.config import Settings, settings_env
from clearline.gateway.forced import AMOUNT, REASONS
from clearline.gateway.onboarding import PREFIX, row_of
from clearline.stack import CHECKOUT
from ledger.reasons import Reason
from schemas.records import JournalRecord
from streams.clients import KafkaConfig
from streams.registry import Registry
from streams.table import Table
from streams.topics import Topics, create_topics
from tests.integration.conftest import World
from tests.sink_servers import wait_for

pytestmark = pytest.mark.stack

# No store is needed: what a gateway knows of partners and accounts it reads from the log.
NOWHERE = {
    "CLEARLINE_CLICKHOUSE__HOST": "127.0.0.1", "CLEARLINE_CLICKHOUSE__PORT": "1", "CLEARLINE_CLICKHOUSE__HTTP_PORT": "1",
    "CLEARLINE_REDIS__URL": "redis://127.0.0.1:1/0",
}  # fmt: skip
# Reasons of every kind: plain fields, prepared accounts, a history of its own, the bank's commands, simulated ones.
SAMPLE = (
    Reason.IDEMPOTENCY_CONFLICT, Reason.PARTNER_SUSPENDED, Reason.ROLE_MISSING, Reason.HOLD_EXPIRED, Reason.HOLD_CLOSED,
    Reason.ACCOUNT_FROZEN, Reason.INSUFFICIENT_FUNDS, Reason.COUNTER_OVERFLOW, Reason.LIMIT_EXCEEDED,
    Reason.PARTNER_EXISTS, Reason.PRODUCT_INVALID, Reason.DAY_AHEAD,
)  # fmt: skip


class Bank:
    """Two worlds on one broker, a worker in each, and the command line in either."""

    capsys: pytest.CaptureFixture[str]  # of the test that runs

    def __init__(self, broker: Settings, folder: Path) -> None:
        number = uuid.uuid4().hex[:6]
        self.url = ""
        self.worlds = {name: _world(broker, f"{name}-{number}", folder) for name in ("sandbox", "live")}
        self.sandbox = self.worlds["sandbox"].settings.world
        self._ready = folder / "gateway.json"
        self._gateway: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Workers and the sandbox's gateway."""
        for world in self.worlds.values():
            world.start(CLEARLINE_SETTLEMENT__WATCHDOG_S="60")  # nobody would start it again
        sandbox = self.worlds["sandbox"]
        own = {**self.environment("sandbox"), "CLEARLINE_READY_FILE": str(self._ready), "PYTHONPATH": str(CHECKOUT),
               "CLEARLINE_WEBHOOKS__PRIVATE_TARGETS": "true", "CLEARLINE_GATEWAY__MASTER_KEY": "A" * 43}  # fmt: skip
        with (sandbox.folder / "gateway.log").open("ab") as log:
            self._gateway = subprocess.Popen(
                [sys.executable, "-m", "clearline", "up", "--role", "gateway"], stdout=log, stderr=log,
                env={**os.environ, **own}, cwd=sandbox.folder,
            )  # fmt: skip

        def url() -> str:
            if not self._ready.exists():
                return ""
            found = str(json.loads(self._ready.read_bytes())["url"])
            return found if httpx.get(f"{found}/readyz").status_code == 200 else ""

        self.url = wait_for("the gateway", url)

    def stop(self) -> None:
        for process in [*(w for world in self.worlds.values() for w in world.workers.values()), self._gateway]:
            if process is not None:
                process.kill()
                process.wait()

    def environment(self, world: str) -> dict[str, str]:
        return {**settings_env(self.worlds[world].settings), **NOWHERE}

    def run(self, world: str, *arguments: str, code: int = 0) -> Any:
        """One command in a world with --json; its document."""
        return json.loads(self.shown(world, *arguments, "--json", code=code))

    def shown(self, world: str, *arguments: str, code: int = 0) -> str:
        """One command in a world, and what it prints."""
        with pytest.MonkeyPatch.context() as environment:
            for name, value in self.environment(world).items():
                environment.setenv(name, value)
            self.capsys.readouterr()
            assert cli.main(list(arguments)) == code, self.capsys.readouterr().err
        return self.capsys.readouterr().out


def _world(broker: Settings, name: str, folder: Path) -> World:
    kafka, topics = KafkaConfig(str(broker.kafka.bootstrap)), Topics(name)
    create_topics(kafka, topics, broker.partitions)
    (folder / name).mkdir()
    codec = Registry(str(broker.registry.url)).codec()
    gateway = broker.gateway.model_copy(update={"public_url": None})  # its own address
    settings = broker.model_copy(update={"world": name, "gateway": gateway})
    return World(settings, kafka, topics, codec, folder / name)


@pytest.fixture(scope="module")
def both_worlds(broker: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    found = Bank(broker, tmp_path_factory.mktemp("bank"))
    found.start()
    yield found
    found.stop()


@pytest.fixture
def bank(both_worlds: Bank, capsys: pytest.CaptureFixture[str]) -> Bank:
    both_worlds.capsys = capsys
    return both_worlds


def test_the_quickstart_does_what_it_shows(bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the page in its order, but for the clone, and the stack that this test has already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLEARLINE_GATEWAY__PUBLIC_URL", bank.url)
    page = (CHECKOUT / "docs" / "QUICKSTART.md").read_text()
    commands = re.findall(r"^\$ (.+)$", page, re.M)
    assert commands[0].startswith("git clone")
    assert commands[1].endswith("./run --world sandbox up")
    assert commands[-1] == "./run --world sandbox down"
    settled_after = next(i for i, c in enumerate(commands) if c.startswith("curl")) + 1
    assert settled_after <= 6
    mine: dict[str, str] = {}  # what the page has, and what this run has in its place
    seen = []
    for command in commands[2:-1]:
        command = _with(mine, command)
        if command.startswith("./run "):
            seen.append(bank.shown("sandbox", *shlex.split(command)[1:]))
        else:
            seen.append(subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout)
        if not mine:
            mine = {pattern(page): pattern(seen[0]) for pattern in (_id, _token, _url)}
    joined, paid, balance, refused, inspected = seen
    assert joined.splitlines()[-3:] == [_with(mine, c) for c in commands[3:6]]  # what was pasted is what was printed
    assert json.loads(paid)["status"] == "settled"
    assert json.loads(balance)["available"] == 100_000_000 - 12_550
    assert json.loads(refused)["code"] == "insufficient_funds"
    assert "nothing is missing" in inspected


def _id(text: str) -> str:
    return str(re.findall(r"my-shop-[a-z0-9]{6}", text)[0])


def _token(text: str) -> str:
    return str(re.findall(r"test_[a-z0-9]{16}_[A-Za-z0-9_-]+", text)[0])


def _url(text: str) -> str:
    return str(re.findall(r"curl -sS (http://[^/]+)", text)[0])


def _with(mine: dict[str, str], text: str) -> str:
    for shown, own in mine.items():
        text = text.replace(shown, own)
    return text


def test_from_nothing_to_live(bank: Bank, tmp_path: Path) -> None:
    url, pem = bank.url, tmp_path / "key.pem"

    # The partner's developer, in the sandbox.
    one = bank.run("sandbox", "sandbox", "join", "Acme", "--url", url, "--save-key", str(pem))
    partner = one["partner_id"]
    show = ("onboard", "show", partner, "--sandbox-world", bank.sandbox)
    approve = (
        "onboard",
        "approve",
        partner,
        "--live-as",
        "acme",
        "--sandbox-world",
        bank.sandbox,
        "--note",
        "inspected",
    )
    request = ("onboard", "request", partner, "--note", "contract 117", "--requested-by", "zhou")
    assert bank.run("live", *show)["missing"]
    bank.run("sandbox", *request, code=2)  # nothing is passed yet
    common = ("--url", url, "--key", one["token"], "--signing-key", str(pem))
    inspected = bank.run("sandbox", "onboard", *common)
    assert (inspected["missing"], [s["passed"] for s in inspected["steps"]]) == ([], [True] * 7)

    # The bank's staff: the partner's life in the live world, then go-live with four eyes.
    bank.run("live", "partner", "admit", "acme", "--name", "Acme", "--applied")
    bank.run("live", *approve, "--approved-by", "li", code=2)  # nobody has asked, and it is an applicant
    for state in ("inspected", "sandbox"):
        bank.run("live", "partner", "state", "acme", state, "--note", "as agreed", "--by", "zhou")
    bank.run(
        "live", "partner", "state", "acme", "live", "--note", "quickly", "--by", "zhou", code=2
    )  # the ledger's word
    assert bank.run("sandbox", *request, "--dry-run")["go_live"]["state"] == "requested"
    bank.run("live", *approve, "--approved-by", "li", code=2)  # that was a dry run: nobody has asked
    bank.run("sandbox", *request)
    bank.run("live", *approve, "--approved-by", " Zhou", code=2)  # one person
    assert bank.run("live", *approve, "--approved-by", "li", "--dry-run")["place"] is None
    assert bank.run("live", "partner", "show", "acme")["state"] == "sandbox"
    done = bank.run("live", *approve, "--approved-by", "li")
    assert (done["go_live"]["state"], done["go_live"]["live_as"]) == ("approved", "acme")
    assert bank.run("live", "partner", "show", "acme")["state"] == "live"
    (record,) = approvals(bank)
    assert (record.subject_id, record.source_offset) == ("acme", done["place"]["offset"])
    assert record.changes == {"state": "live", "requested_by": "zhou", "note": "inspected", "approved_by": "li"}
    bank.run("live", *approve, "--approved-by", "li", code=2)  # it was approved before
    forget_approval(bank, partner)
    bank.run("live", *approve, "--approved-by", "li", "--dry-run", code=2)  # it is live
    bank.run("live", *approve, "--approved-by", "wang", code=2)  # by another approval than this one
    again = bank.run("live", *approve, "--approved-by", "li")
    assert (again["go_live"]["state"], len(approvals(bank))) == ("approved", 1)
    bank.run("sandbox", *request, code=2)
    assert bank.run("live", *show)["go_live"]["approved_by"] == "li"

    # And a key of the sandbox is none in the live world; the sandbox goes on.
    force(url, one)
    begin_anew(bank, url, one)


def approvals(bank: Bank) -> list[JournalRecord]:
    return [r for r in bank.worlds["live"].journal() if r.changes.get("approved_by")]


def forget_approval(bank: Bank, partner: str) -> None:
    """As when whoever approved was killed after the ledger had it, and before the row was written."""
    world = bank.worlds["sandbox"]
    with Table(world.kafka, world.topics.access, world.codec) as table:
        row = row_of(table, partner)
        table.put(PREFIX + partner, replace(row, approved_by="", approved_at=0, approval="", live_as=""))


def force(url: str, one: dict[str, Any]) -> None:
    """A sample of the magic amounts against real workers; all of them are forced over the twin."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {one['token']}"}, timeout=180) as http:
        for reason in SAMPLE:
            answer = _pay(http, one, AMOUNT + 1 + REASONS.index(reason), f"force-{reason}")
            assert (answer.status_code, answer.json()["code"]) == (422, reason.value), answer.text


def begin_anew(bank: Bank, url: str, one: dict[str, Any]) -> None:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {one['token']}"}, timeout=180) as http:
        assert _pay(http, one, 12_550, "paid").json()["status"] == "settled"
        assert _pay(http, one, 500, "held", operation="hold").json()["status"] == "settled"
        path, limit = f"/v1/limits/account/{one['partner_id']}:wallet:main", {"window": "day", "count_max": 1}
        headers = {"Idempotency-Key": "limit", "Prefer": "wait=20"}
        assert http.put(path, json={"limits": [limit]}, headers=headers).status_code == 201
        done = http.post("/v1/sandbox/reset", headers={"Idempotency-Key": "anew"})
        assert done.status_code == 200, done.text
        assert (done.json()["holds_voided"], done.json()["limits_lifted"]) == (1, 1)
        accounts = bank.run("sandbox", "account", "list", "--below", one["partner_id"])["accounts"]
        shown = {a["account_id"]: (a["available"], a["debits_pending"]) for a in accounts}
        assert [shown[a["account_id"]] for a in one["accounts"]] == [(a["balance"], 0) for a in one["accounts"]]


def _pay(http: httpx.Client, one: dict[str, Any], amount: int, key: str, operation: str = "transfer") -> httpx.Response:
    accounts = {"payer": f"{one['partner_id']}:wallet:main", "payee": f"{one['partner_id']}:wallet:shop"}
    body = {"product": "wallet", "operation": operation, "amount": amount, "currency": "CNY", "accounts": accounts}
    return http.post("/v1/transactions", json=body, headers={"Idempotency-Key": key, "Prefer": "wait=20"})
