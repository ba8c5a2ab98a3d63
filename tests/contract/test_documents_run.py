"""Every example in the pages about the gateway is carried out: shell and Python by themselves against a gateway that listens
on this machine, JSON by whoever knows what it is. One that nobody knows fails.

Those of docs/publishing.md need a broker: tests/integration/test_publisher.py and tests/contract/test_publishing.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import uvicorn

from clearline import keys
from clearline.gateway.openapi.document import document
from clearline.gateway.parts import wall_clock_ms
from clearline.signing import new_key_pair
from tests.contract.gateway_world import GatewayWorld

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("gateway", "webhooks", "sandbox", "data-services")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
_HOST = "https://api.example"


class Block(NamedTuple):
    """A fenced example of a page. `number`: which of its kind."""

    page: str
    kind: str
    number: int
    text: str


def blocks(page: str) -> list[Block]:
    """The examples of a page; drawings have no kind."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found: list[Block] = []
    for kind, body in _BLOCK.findall(text):
        if kind:
            found.append(Block(page, kind, sum(b.kind == kind for b in found), body))
    return found


ALL = [b for page in PAGES for b in blocks(page)]
MARKED = [  # data is asked of a real ClickHouse
    pytest.param(b, id=f"{b.page}-{b.kind}-{b.number}", marks=pytest.mark.stack if b.page == "data-services" else ())
    for b in ALL
]


class Gateway:
    """A gateway over the twin that listens on a free port of this machine."""

    def __init__(self) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.world = GatewayWorld(self.url)
        self.world.parts.now_ms = wall_clock_ms  # signers look at it, too
        self.world.ledger.open("acme:wallet:main", funds=1_000_000)
        self.private, public = new_key_pair()
        self.token = self.world.key("acme", public_key=keys.read_public_key(public))
        self._server = uvicorn.Server(uvicorn.Config(self.world.app, "127.0.0.1", self.port, log_level="warning"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Gateway:
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline and self._thread.is_alive()
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)

    def run(self, command: list[str], text: str, folder: Path, **named: str) -> list[Any]:
        """Carries an example out in a folder, with this gateway for the one that it names; the JSON that it prints."""
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TOKEN": self.token, "KEY_ID": self.token.split("_")[1], **named}
        text = text.replace(_HOST, self.url)
        done = subprocess.run(command, input=text, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return _documents(done.stdout)

    def call(self, method: str, path: str, body: Any, key: str) -> httpx.Response:
        """One call with the example's credential."""
        headers = {"Authorization": f"Bearer {self.token}", "Idempotency-Key": key, "Prefer": "wait=5"}
        return httpx.request(method, f"{self.url}{path}", json=body, headers=headers)


def _documents(text: str) -> list[Any]:
    """Every JSON document in a text, one after the other; what is none, as it is."""
    found: list[Any] = []
    at, decoder, text = 0, json.JSONDecoder(), text.strip()
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            return [*found, text[at:]]
        found.append(value)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway() as found:
        yield found


def members(name: str) -> set[str]:
    """The members of an answer, as the OpenAPI document has them."""
    return set(document()["components"]["schemas"][name]["properties"])


def _transaction(_: Gateway, shown: Any) -> None:
    assert set(shown) == members("Transaction")


def _subscribed(gateway: Gateway, shown: Any) -> None:
    made = gateway.call("POST", "/v1/webhooks", shown, "hook-of-the-page")
    assert made.status_code == 201, made.text
    assert made.json()["events"] == shown["events"]


def _subscription(_: Gateway, shown: Any) -> None:
    assert set(shown) == members("NewWebhook")
    for part in ("events", "secrets"):
        assert set(shown[part][0]) <= set(
            document()["components"]["schemas"]["Webhook"]["properties"][part]["items"]["properties"]
        )


JSON = {
    ("gateway", 0): _transaction,
    ("webhooks", 0): _subscribed,
    ("webhooks", 1): _subscription,
}


def test_every_example_is_of_a_kind_that_is_carried_out():
    assert {b.kind for b in ALL} <= {"json", "sh", "python"}
    assert {(b.page, b.number) for b in ALL if b.kind == "json"} == set(JSON)
    assert {"json", "sh", "python"} <= {b.kind for b in blocks("gateway")}


@pytest.mark.parametrize("block", MARKED)
def test_it_does_what_it_says(block, gateway, tmp_path):
    if block.kind == "json":
        JSON[block.page, block.number](gateway, json.loads(block.text))
        return
    (tmp_path / "private.pem").write_text(gateway.private)
    if block.kind == "python":
        printed = gateway.run([sys.executable, "-"], block.text, tmp_path)
        assert printed[0].startswith("settled /v1/transactions/")
        return
    assert shutil.which("curl"), "the examples are for curl"
    paid = gateway.call("POST", "/v1/transactions", {
        "product": "wallet", "operation": "transfer", "amount": 1, "currency": "CNY",
        "accounts": {"payer": "acme:wallet:alice", "payee": "acme:wallet:bob"},
    }, f"before-{block.number}")  # fmt: skip
    answers = gateway.run(["bash", "-euo", "pipefail", "-s"], block.text, tmp_path, ID=paid.json()["id"])
    assert len(answers) == block.text.count("curl ") - block.text.count(" -o ")
    for answer in answers:
        assert isinstance(answer, dict) and "code" not in answer, answer
        if "status" in answer:
            assert answer["status"] == "settled"
