"""From nothing to live on a real broker: a sandbox world with its gateway, a live world beside it, and the bank's staff."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from clearline import cli
from clearline.config import Settings, settings_env
from clearline.gateway.forced import AMOUNT, REASONS
from clearline.stack import CHECKOUT
from ledger.reasons import Reason
from streams.clients import KafkaConfig
from streams.registry import Registry
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

    def __init__(self, broker: Settings, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        number = uuid.uuid4().hex[:6]
        self.capsys = capsys
        self.worlds = {name: _world(broker, f"{name}-{number}", folder) for name in ("sandbox", "live")}
        self.sandbox = self.worlds["sandbox"].settings.world
        self._ready = folder / "gateway.json"
        self._gateway: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Workers and the sandbox's gateway; its address."""
        for world in self.worlds.values():
            world.start()
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
            facts = json.loads(self._ready.read_bytes())
            return "" if facts["troubles"] else str(facts["url"])

        return wait_for("the gateway", url, 60)

    def stop(self) -> None:
        for process in [*(w for world in self.worlds.values() for w in world.workers.values()), self._gateway]:
            if process is not None:
                process.kill()
                process.wait()

    def environment(self, world: str) -> dict[str, str]:
        return {**settings_env(self.worlds[world].settings), **NOWHERE}

    def run(self, world: str, *arguments: str, code: int = 0) -> Any:
        """One command in a world with --json; its document."""
        with pytest.MonkeyPatch.context() as environment:
            for name, value in self.environment(world).items():
                environment.setenv(name, value)
            self.capsys.readouterr()
            assert cli.main([*arguments, "--json"]) == code, self.capsys.readouterr().err
        return json.loads(self.capsys.readouterr().out)


def _world(broker: Settings, name: str, folder: Path) -> World:
    kafka, topics = KafkaConfig(str(broker.kafka.bootstrap)), Topics(name)
    create_topics(kafka, topics, broker.partitions)
    (folder / name).mkdir()
    codec = Registry(str(broker.registry.url)).codec()
    gateway = broker.gateway.model_copy(update={"public_url": None})  # its own address
    settings = broker.model_copy(update={"world": name, "gateway": gateway})
    return World(settings, kafka, topics, codec, folder / name)


@pytest.fixture
def bank(broker: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Bank]:
    found = Bank(broker, tmp_path, capsys)
    yield found
    found.stop()


def test_from_nothing_to_live(bank: Bank, tmp_path: Path) -> None:
    url, pem = bank.start(), tmp_path / "key.pem"

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
    (record,) = [r for r in bank.worlds["live"].journal() if r.changes.get("approved_by")]
    assert (record.subject_id, record.source_offset) == ("acme", done["place"]["offset"])
    assert record.changes == {"state": "live", "requested_by": "zhou", "note": "inspected", "approved_by": "li"}
    bank.run("live", *approve, "--approved-by", "li", code=2)  # it is live
    bank.run("sandbox", *request, code=2)
    assert bank.run("live", *show)["go_live"]["approved_by"] == "li"

    # And a key of the sandbox is none in the live world; the sandbox goes on.
    force(url, one)
    begin_anew(bank, url, one)


def force(url: str, one: dict[str, Any]) -> None:
    """A sample of the magic amounts against real workers; all of them are forced over the twin."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {one['token']}"}, timeout=60) as http:
        for reason in SAMPLE:
            answer = _pay(http, one, AMOUNT + 1 + REASONS.index(reason), f"force-{reason}")
            assert (answer.status_code, answer.json()["code"]) == (422, reason.value), answer.text


def begin_anew(bank: Bank, url: str, one: dict[str, Any]) -> None:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {one['token']}"}, timeout=60) as http:
        assert _pay(http, one, 12_550, "paid").json()["status"] == "settled"
        assert _pay(http, one, 500, "held", operation="hold").json()["status"] == "settled"
        done = http.post("/v1/sandbox/reset", headers={"Idempotency-Key": "anew"})
        assert done.status_code == 200, done.text
        assert done.json()["holds_voided"] == 1
        accounts = bank.run("sandbox", "account", "list", "--below", one["partner_id"])["accounts"]
        shown = {a["account_id"]: (a["available"], a["debits_pending"]) for a in accounts}
        assert [shown[a["account_id"]] for a in one["accounts"]] == [(a["balance"], 0) for a in one["accounts"]]


def _pay(http: httpx.Client, one: dict[str, Any], amount: int, key: str, operation: str = "transfer") -> httpx.Response:
    accounts = {"payer": f"{one['partner_id']}:wallet:main", "payee": f"{one['partner_id']}:wallet:shop"}
    body = {"product": "wallet", "operation": operation, "amount": amount, "currency": "CNY", "accounts": accounts}
    return http.post("/v1/transactions", json=body, headers={"Idempotency-Key": key, "Prefer": "wait=20"})
