"""Gateways on a real stack: a real client over HTTP, kills between publish and answer, retries through another one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from clearline import keys
from clearline.config import Settings, load_settings, settings_env
from clearline.connection import clickhouse_config, connect
from clearline.embedded.probes import ready_file
from clearline.stack import CHECKOUT, Stack
from schemas.failpoints import GATEWAY
from schemas.identity import command_id
from schemas.records import AdmitPartner, OpenAccount, Posting, PublishProduct, Transaction
from streams.caller import Caller
from streams.finder import Finder
from streams.reader import read_to_end
from streams.table import Table
from tests.gateway import keyed, pay, send
from tests.gateway_contract import CHECKS, Subject
from tests.sink_servers import wait_for

FUNDS = 1_000_000


@dataclass
class Gateways:
    """Two gateways over one stack, each a process of ours."""

    stack: Stack
    settings: Settings
    folder: Path
    token: str = ""
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    urls: dict[int, str] = field(default_factory=dict)

    def start(self, slot: int, failpoints: str = "") -> None:
        """Starts one and waits until it serves."""
        ready = self.folder / f"gateway-{slot}.json"
        ready.unlink(missing_ok=True)
        env = {**settings_env(self.settings), "CLEARLINE_READY_FILE": str(ready), "PYTHONPATH": str(CHECKOUT)}
        if failpoints:
            env["CLEARLINE_FAILPOINTS"] = failpoints
        command = [sys.executable, "-m", "clearline", "up", "--role", "gateway", "--slot", str(slot)]
        with (self.folder / f"gateway-{slot}.log").open("ab") as log:
            process = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log)
        self.running[slot] = process
        told = wait_for(f"gateway {slot}", lambda: ready_file(ready, process.pid) or ended(process))
        assert told is not None
        self.urls[slot] = told["url"]
        wait_for(f"gateway {slot} to be ready", lambda: self.get(slot, "/readyz").status_code == 200)

    def stop(self, slot: int, sig: int = signal.SIGTERM) -> int:
        """Ends one; its exit code."""
        process = self.running.pop(slot)
        process.send_signal(sig)
        return process.wait(120)

    def get(self, slot: int, path: str) -> httpx.Response:
        return httpx.get(self.urls[slot] + path, timeout=180, trust_env=False)

    def client(self, slot: int) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.urls[slot], headers=headers, timeout=180, trust_env=False)

    def balance(self, account_id: str) -> int:
        """Net of the account over all postings of the journal, minor units."""
        system = connect(self.settings)
        records = [system.codec.decode(r.value) for r in read_to_end(system.kafka, system.topics.journal)]
        legs = (p for r in records for p in r.postings if p.account_id == account_id)
        return sum(p.amount if p.side == "credit" else -p.amount for p in legs)


def ended(process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """Nothing, unless it ended before it served."""
    if process.poll() is not None:
        pytest.fail(f"the gateway ended with {process.returncode}")
    return None


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    folder = tmp_path_factory.mktemp("gateways")
    settings = load_settings(
        data_dir=folder / "data", world="sandbox", partitions=4, workers=1, gateway={"instances": 2, "wait_s_max": 120}
    )
    with Stack(settings) as stack:
        stack.start(roles=["worker-0"])
        found = Gateways(stack, stack.resolved(), folder)
        ground(found)
        found.start(0)
        found.start(1)
        yield found
        for process in found.running.values():
            process.kill()
            process.wait()


def ground(gateways: Gateways) -> None:
    """acme and zeta in different partitions, with funds, the wallet on the shelf, and a key for acme."""
    from clearline.product_file import read_product, shelf_files

    system = connect(gateways.settings)
    wallet = next(p for p in map(read_product, shelf_files()) if p.product == "wallet")
    today = int(time.time() // 86_400)
    with system.publisher() as publisher:
        publisher.publish(PublishProduct("bank", "shelf", "wallet", 1, 0, wallet.text))
        publisher.publish(OpenAccount("bank", "funds", "bank:funds:CNY", "equity", "CNY", None))
        for partner in ("acme", "zeta"):
            publisher.publish(AdmitPartner("bank", f"admit-{partner}", partner))
            for local in ("w:a", "w:b"):
                account = f"{partner}:{local}"
                publisher.publish(OpenAccount("bank", f"open-{account}", account, "liability", "CNY", 0))
                legs = (Posting("bank:funds:CNY", "debit", FUNDS), Posting(account, "credit", FUNDS))
                publisher.publish(
                    Transaction(
                        "bank", f"fund-{account}", "wallet", "adjustment", 0, "CNY", {}, legs, today, note="ground"
                    )
                )
    made = keys.make("acme", keys.ALL_SCOPES, sandbox=True, now_ms=time.time_ns() // 1_000_000, requested_by="test")
    with Table(system.kafka, system.topics.access, system.codec) as table:
        table.put(keys.row_key(made.key.key_id), made.key)
    gateways.token = made.token


def test_a_gateway_says_what_it_is(gateways):
    status = gateways.get(0, "/v1/status").json()
    assert status["status"] == "ready"
    assert (status["world"], status["limiter"], status["troubles"]) == ("sandbox", "redis", [])
    assert gateways.get(0, "/healthz").json() == {"status": "ok"}
    metrics = gateways.get(0, "/metrics").text
    assert "clearline_gateway_ready 1.0" in metrics
    assert 'route="/v1/status",status="200"' in metrics


def test_the_real_caller_and_finder_pass_the_twins_contract(gateways):
    async def run() -> None:
        system = connect(gateways.settings)
        house = clickhouse_config(gateways.settings)
        s = Subject(None, None, int(time.time() // 86_400))  # type: ignore[arg-type]
        async with (
            Caller(system.kafka, system.topics, system.codec, system.partitions, 2, kept=s.keep) as s.caller,
            Finder(system.kafka, house, system.topics, system.codec.decode, system.partitions) as s.finder,
        ):
            for check in CHECKS:
                s.name = check.__name__
                await check(s)

    asyncio.run(run())


@pytest.mark.parametrize("body", [pay(10), send(10), pay(10**9)], ids=["here", "crossing", "rejected"])
def test_the_outcome_comes_by_the_topic_and_every_gateway_answers_the_same(gateways, body):
    key = f"same-{body['operation']}-{body['amount']}"
    with gateways.client(0) as one, gateways.client(1) as two:
        first = one.post("/v1/transactions", json=body, headers=keyed(key, 120))
        assert first.status_code == (422 if body["amount"] > FUNDS else 201), first.text
        assert "idempotent-replayed" not in first.headers
        # Without Redis' quick answer: from the journal itself.
        again = two.post("/v1/transactions", json=body, headers=keyed(key, 120))
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert again.headers["idempotent-replayed"] == "true"
        document = first.json().get("transaction", first.json())
        for client in (one, two):
            assert client.get(document["links"]["self"]).json() == document
        other = two.post("/v1/transactions", json=body | {"amount": 11}, headers=keyed(key, 120))
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")


def test_without_redis_first_outcomes_are_found_in_the_journal(gateways):
    bodies = {"here": pay(3), "crossing": send(3), "no": pay(10**9)}
    with gateways.client(0) as one:
        firsts = {
            (key, way): one.post("/v1/transactions", json=body, headers=keyed(f"{key}-{way}", 120))
            for key, body in bodies.items()
            for way in ("again", "by id")
        }
    with redis.Redis.from_url(str(gateways.settings.redis.url)) as store:
        store.flushall()
    gateways.stop(1)
    gateways.start(1)
    with gateways.client(1) as two:
        for (key, way), first in firsts.items():
            document = first.json().get("transaction", first.json())
            if way == "by id":
                assert two.get(document["links"]["self"]).json() == document, key
                continue
            again = two.post("/v1/transactions", json=bodies[key], headers=keyed(f"{key}-{way}", 120))
            assert (again.status_code, again.content) == (first.status_code, first.content)
            assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize(("point", "body"), [*((point, pay(7)) for point in GATEWAY), (GATEWAY[1], send(7))])
def test_a_gateway_killed_at_any_step_is_retried_through_another_with_one_effect(gateways, point, body):
    gateways.stop(0)
    gateways.start(0, f"{point}=kill@1")
    key = f"{point}-{body['operation']}"
    before = gateways.balance("acme:w:a")
    with gateways.client(0) as one, pytest.raises(httpx.TransportError):
        one.post("/v1/transactions", json=body, headers=keyed(key, 120))
    assert gateways.running.pop(0).wait(120) == -signal.SIGKILL
    with gateways.client(1) as two:
        first = two.post("/v1/transactions", json=body, headers=keyed(key, 120))
        assert first.status_code == 201, first.text
        # It is a repeat if, and only if, the one that was killed had published it.
        assert ("idempotent-replayed" in first.headers) == (point != "gateway.before_publish")
    gateways.start(0)
    with gateways.client(0) as one:
        again = one.post("/v1/transactions", json=body, headers=keyed(key, 120))
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["idempotent-replayed"] == "true"
    assert before - gateways.balance("acme:w:a") == 7


def test_tries_at_once_through_two_gateways_are_one_transfer(gateways):
    before = gateways.balance("acme:w:a")

    def attempt(n: int) -> httpx.Response:
        with gateways.client(n % 2) as client:
            found: httpx.Response = client.post("/v1/transactions", json=pay(1), headers=keyed(f"once-{n % 10}", 120))
            return found

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(attempt, range(100)))
    assert {a.status_code for a in answers} == {201}
    for k in range(10):
        of_key = [a for n, a in enumerate(answers) if n % 10 == k]
        assert len({a.content for a in of_key}) == 1
        assert sum("idempotent-replayed" not in a.headers for a in of_key) <= 1
    assert before - gateways.balance("acme:w:a") == 10


def test_a_batch_over_partitions(gateways):
    items = [pay(1), send(1), pay(10**9), pay(1, idempotency_key="once-0")] + [pay(1) for _ in range(96)]
    with gateways.client(0) as client:
        answer = client.post("/v1/transactions:batch", json={"transactions": items}, headers=keyed("batch", 120))
        results = answer.json()["results"]
        assert [r["status"] for r in results] == [201, 201, 422] + [201] * 97
        assert [r["replayed"] for r in results] == [False] * 3 + [True] + [False] * 96
    with gateways.client(1) as other:
        again = other.post("/v1/transactions:batch", json={"transactions": items}, headers=keyed("batch", 120))
        assert [r["body"] for r in again.json()["results"]] == [r["body"] for r in results]


def test_sigterm_answers_what_is_under_way(gateways):
    process = gateways.running[1]
    gateways.stack.kill("worker-0", signal.SIGSTOP)
    try:
        with gateways.client(1) as client, ThreadPoolExecutor(1) as pool:
            call = pool.submit(client.post, "/v1/transactions", json=pay(1), headers=keyed("last", 120))
            wait_for("the call", lambda: gateways.get(1, "/v1/status").json()["commands_under_way"] == 1)
            location = f"/v1/transactions/{command_id('acme', 'last').hex()}"
            with gateways.client(0) as other:  # from the log itself: nobody has settled it
                pending = other.get(location)
                assert (pending.status_code, pending.json()["status"]) == (200, "pending")
            process.send_signal(signal.SIGTERM)
            wait_for("nobody new to get in", lambda: refused(gateways, 1))
            assert not call.done()
            gateways.stack.kill("worker-0", signal.SIGCONT)
            answer = call.result(120)
    finally:
        gateways.stack.kill("worker-0", signal.SIGCONT)
    assert (answer.status_code, answer.json()["status"]) == (201, "settled")
    assert process.wait(120) == 0
    del gateways.running[1]
    system = connect(gateways.settings)  # its last word, the last call included, is what it counted
    told = [system.codec.decode(r.value) for r in read_to_end(system.kafka, system.topics.calls)]
    last = [r for r in told if r.instance.startswith("1-")][-1]
    assert ("acme", "POST", "/v1/transactions", 201) in {
        (c.partner_id, c.method, c.route, c.status) for c in last.counts
    }
    assert "Traceback" not in (gateways.folder / "gateway-1.log").read_text()
    gateways.start(1)


def refused(gateways: Gateways, slot: int) -> bool:
    try:
        gateways.get(slot, "/healthz")
    except httpx.TransportError:
        return True
    return False


def test_the_log_has_no_secret_and_nothing_internal(gateways):
    for slot in (0, 1):
        log = (gateways.folder / f"gateway-{slot}.log").read_text()
        assert "event='gateway'" in log
        assert gateways.token not in log
        assert "event='internal'" not in log
