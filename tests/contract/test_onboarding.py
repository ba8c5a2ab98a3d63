"""Onboarding over a real socket: what a gateway saw counts as passed, the guided inspection, and asking for go-live."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from clearline import cli
from clearline.config import Settings
from clearline.gateway import onboarding
from clearline.gateway.app import create_app
from clearline.gateway.onboarding import CHECKS, missing, row_of
from clearline.gateway.parts import Parts, wall_clock_ms
from clearline.gateway.twin import give_key, ledger_of, make_twin
from clearline.inspection import Inspection
from tests.sink_servers import wait_for


class Server:
    """A sandbox's gateway over the twin, on a port of its own."""

    def __init__(self, **settings: Any) -> None:
        self.parts: Parts = make_twin(Settings(world="sandbox", partitions=2, **settings))
        self.parts.now_ms = wall_clock_ms  # signatures are of now
        config = uvicorn.Config(create_app(self.parts), port=0, log_config=None, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for("the gateway", lambda: self._server.started)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = self.parts.base_url = f"http://127.0.0.1:{port}"

    def join(self, name: str = "Acme") -> dict[str, Any]:
        answer = httpx.post(f"{self.url}/v1/sandbox/partners", json={"name": name})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def onboarding(self, token: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/v1/onboarding", headers=bearer(token)).json()
        return found

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


def bearer(token: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **more}


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server(webhooks={"private_targets": True})
    yield found
    found.stop()


def go_live(server: Server, token: str, body: Any = None) -> httpx.Response:
    headers = bearer(token, **{"Idempotency-Key": "go"})
    return httpx.post(f"{server.url}/v1/onboarding/go-live", json=body, headers=headers)


def test_in_the_beginning_everything_is_missing_and_go_live_is_refused(server: Server) -> None:
    token = server.join()["token"]
    found = server.onboarding(token)
    assert found["missing"] == list(CHECKS)
    assert all(c["passed_at"] is None and c["do"] for c in found["checks"])
    assert (found["partner_state"], found["go_live"]["state"]) == ("live", "open")
    answer = go_live(server, token)
    assert (answer.status_code, answer.json()["code"]) == (409, "checks_missing")
    assert answer.json()["missing"] == list(CHECKS)


def test_the_guided_inspection_passes_every_check(server: Server) -> None:
    one = server.join()
    before = sum(a.available() for a in ledger_of(server.parts).accounts().values())
    report = Inspection(server.url, one["token"], one["private_key"]).run()
    assert [(s.check, s.passed) for s in report.steps] == [
        ("key", True), ("transaction_settled", True), ("idempotent_retry", True), ("rejection_seen", True),
        ("refund_settled", True), ("signature_verified", True), ("webhook_verified", True),
    ], report.steps  # fmt: skip
    assert report.missing == []
    assert sum(a.available() for a in ledger_of(server.parts).accounts().values()) == before
    asked = go_live(server, one["token"], {"note": "contract 117"}).json()
    assert asked["go_live"]["state"] == "requested"
    assert asked["go_live"]["requested_by"] == f"{one['partner_id']} key {one['key_id']}"
    assert go_live(server, one["token"], {"note": "another"}).json() == asked  # the first request stands
    assert server.onboarding(one["token"])["go_live"]["note"] == "contract 117"


def test_what_was_left_out_is_missing(server: Server) -> None:
    one = server.join()
    report = Inspection(server.url, one["token"], webhook="").run()
    assert report.missing == ["signature_verified", "webhook_verified"]
    assert [s.check for s in report.steps if s.passed is None] == report.missing
    assert go_live(server, one["token"]).json()["missing"] == report.missing


def test_what_one_partner_passes_is_not_anothers(server: Server) -> None:
    one, other = server.join(), server.join("Other")
    Inspection(server.url, one["token"], one["private_key"]).run()
    assert server.onboarding(other["token"])["missing"] == list(CHECKS)


def test_a_wrong_signature_passes_nothing(server: Server) -> None:
    one, other = server.join(), server.join("Other")
    report = Inspection(server.url, one["token"], other["private_key"], webhook="").run()
    assert [s.passed for s in report.steps if s.check == "signature_verified"] == [False]
    assert "signature_verified" in report.missing


def test_without_private_targets_a_local_receiver_is_refused_and_said_so() -> None:
    server = Server()
    try:
        report = Inspection(server.url, server.join()["token"]).run()
    finally:
        server.stop()
    step = report.steps[-1]
    assert (step.check, step.passed) == ("webhook_verified", False)
    assert step.seen.startswith("422 ")


def test_each_check_is_written_once(server: Server) -> None:
    one = server.join()
    writes: list[str] = []
    plain = server.parts.access.put

    class Counting:
        get, items = server.parts.access.get, server.parts.access.items

        @staticmethod
        def put(key: str, row: Any, timeout_s: float = 15.0) -> None:
            writes.append(key)
            plain(key, row, timeout_s)

    server.parts.access = Counting()
    for _ in range(2):
        Inspection(server.url, one["token"], one["private_key"], webhook="").run()
    assert writes.count(f"o:{one['partner_id']}") == len(CHECKS) - 1
    assert missing(row_of(server.parts.access, one["partner_id"])) == ["webhook_verified"]


def test_the_command_shows_what_was_sent_and_seen(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pem = tmp_path / "key.pem"
    assert cli.main(["sandbox", "join", "Shop", "--url", server.url, "--save-key", str(pem), "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert pem.stat().st_mode & 0o777 == 0o600
    common = ["--url", server.url, "--key", one["token"]]
    assert cli.main(["onboard", *common, "--webhook", ""]) == 1
    shown = capsys.readouterr().out
    assert "refund_settled: passed" in shown
    assert "missing: signature_verified. Sign a request" in shown
    assert one["token"] not in shown
    assert cli.main(["onboard", *common, "--signing-key", str(pem), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["missing"], len(document["steps"])) == ([], 7)
    assert cli.main(["sandbox", "reset", *common, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accounts"][0]["balance"] == 100_000_000


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--url", "http://127.0.0.1:1", "--key", "test_" + "a" * 16 + "_" + "b" * 43], 3), (["--key", "x"], 2),
     (["--url", "http://127.0.0.1:1", "--key", "x"], 2)],
)  # fmt: skip
def test_the_command_fails_in_a_sentence(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["onboard", *arguments]) == code
    assert capsys.readouterr().err.startswith("error: ")


def test_a_key_that_is_not_taken_is_bad_input(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    key = "test_" + "a" * 16 + "_" + "b" * 43
    assert cli.main(["onboard", "--url", server.url, "--key", key]) == 2
    assert "does not take the key" in capsys.readouterr().err


def test_onboarding_needs_its_scopes(server: Server) -> None:
    one = server.join()
    reader = give_key(server.parts, one["partner_id"], "read")
    keeper = give_key(server.parts, one["partner_id"], "keys")
    assert httpx.get(f"{server.url}/v1/onboarding", headers=reader).status_code == 200
    assert httpx.get(f"{server.url}/v1/onboarding", headers=keeper).json()["code"] == "scope_missing"
    for path in ("onboarding/go-live", "sandbox/reset"):
        answer = httpx.post(f"{server.url}/v1/{path}", headers={**reader, "Idempotency-Key": "x"})
        assert answer.json()["code"] == "scope_missing"
        answer = httpx.post(f"{server.url}/v1/{path}", headers=keeper)
        assert answer.json()["code"] == "idempotency_key_missing"


def test_two_checks_at_one_moment_are_both_noted() -> None:
    async def run() -> None:
        parts = make_twin()
        for check in CHECKS:
            onboarding.saw(parts, "acme", check)
            onboarding.saw(parts, "acme", check)
        row = await onboarding.current(parts, "acme")
        assert [c.name for c in row.checks] == list(CHECKS)

    asyncio.run(run())
