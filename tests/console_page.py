"""The console as its users have it: a gateway on a port over a ledger in memory, people with keys, a browser.

`python -m tests.console_page` makes the pictures in docs/ anew, from a real stack with traffic.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from selenium import webdriver
from selenium.webdriver.common.by import By

from clearline.gateway.app import create_app
from clearline.gateway.console.facts import Replay, Trouble
from clearline.gateway.console.twin import twin_console
from schemas.records import SetFreeze, Transaction
from tests.browser import soon
from tests.contract.gateway_world import GatewayWorld
from tests.finance_page import browsing, size
from tests.sink_servers import wait_for

STAFF = ("status", "operate")
CLEARLINE = (sys.executable, "-m", "clearline")


class Room:
    """The gateway with its console. `console`: what a test changes of it; time is the twin's, moved by `advance`."""

    def __init__(self, base_url: str = "http://127.0.0.1", **changes: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="clearline-console-")
        self.world = GatewayWorld(base_url, data_dir=Path(self._folder.name), **changes)
        self.parts, self.ledger = self.world.parts, self.world.ledger
        began = time.monotonic()
        self.parts.console, self.console = twin_console(
            self.ledger, lambda: self.parts.now_ms() + int((time.monotonic() - began) * 1000), self.parts.settings.world
        )
        self.app: FastAPI = create_app(self.parts)
        options = uvicorn.Config(self.app, port=0, log_config=None, access_log=False, lifespan="off")
        self.server = uvicorn.Server(options)
        self.parts.stopping = lambda: self.server.should_exit
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        wait_for("the gateway", lambda: self.server.started)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    @property
    def watch(self) -> Any:
        assert self.parts.console is not None
        return self.parts.console.watch

    def key(self, holder: str = "li.wei", scopes: tuple[str, ...] = STAFF, **more: Any) -> str:
        """A key of a person of the staff."""
        return self.world.key("bank", scopes, holder=holder, **more)

    def pay(self, key: str) -> str:
        """A payment of acme to bob; why it was rejected, empty when it was not, or not yet."""
        legs = {"payer": "acme:wallet:alice", "payee": "acme:wallet:bob"}
        day = self.parts.now_ms() // 86_400_000
        before = len(self.ledger.journal)
        self.ledger.publish_command(Transaction("acme", key, "wallet", "transfer", 100, "CNY", legs, (), day))
        return self.ledger.journal[before].reason if len(self.ledger.journal) > before else ""

    def busy(self) -> None:
        """Something of everything that the page can show, with names that would do harm where they are not escaped."""
        for n in range(5):
            self.pay(f"busy-{n}")
            self.ledger.put_bytes(n % 4, b"not framed %d" % n)
        self.ledger.put_bytes(1, b"\0\0\0\0\7<b>bold</b>")
        freeze = SetFreeze(
            "bank", "busy", "partner", "acme/shop-18", True, "li.wei", "<script>alert(1)</script>", "zhang.min"
        )  # fmt: skip
        self.ledger.must(freeze)
        self.console.troubles += [
            Trouble("stuck_consumer", "critical", "worker-1 hangs", "no commit for 12 s", "kill -9 102", "docs/OPERATING.md#stuck-consumer"),
            Trouble("clock_skew", "warning", "worker-0's clock is 7 s early", "", "timedatectl status", "docs/OPERATING.md#clock-skew"),
        ]  # fmt: skip
        self.console.ill["worker-1"] = "silent for 12 s"
        self.console.replays.append(
            Replay("r-7", "replay", "partner acme", "running", 4_000, 12_000, 0, 0, "li.wei", "zhang.min")
        )

    def client(self) -> httpx.Client:
        """A browser without a session, that follows nothing."""
        return httpx.Client(base_url=self.url, timeout=30)

    @contextmanager
    def signed_in(self, key: str = "") -> Iterator[httpx.Client]:
        """A client with a session."""
        with self.client() as client:
            answer = client.post("/operations/sign-in", data={"key": key or self.key(), "next": "/operations"})
            assert answer.status_code == 303, answer.text
            yield client

    def stop(self) -> None:
        """Ends the gateway."""
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive(), "the gateway does not end"
        self._folder.cleanup()


def text_of(answer: httpx.Response) -> str:
    """What a page says, in one line."""
    main = answer.text.partition("<main")[2]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", main)))


def live_with(client: httpx.Client, text: str) -> str:
    """What the live page says, once this is in it."""
    found = [""]

    def look() -> bool:
        found[0] = text_of(client.get("/operations"))
        return text in found[0]

    wait_for(f"{text} on the live page", look)
    return found[0]


def ticket_of(answer: httpx.Response) -> str:
    found = re.search(r'name="ticket" value="([^"]+)"', answer.text)
    assert found is not None, answer.text
    return found[1]


def sign_in(browser: webdriver.Chrome, at: Room, key: str = "") -> None:
    """Signs in with a new key, or this one."""
    browser.get(f"{at.url}/operations")
    browser.find_element(By.ID, "f-key").send_keys(key or at.key())
    browser.find_element(By.CSS_SELECTOR, ".sign-in button").click()
    if not key:  # it lets in: the page that follows must not take the place of one that is opened meanwhile
        soon(browser, lambda b: not b.find_elements(By.CSS_SELECTOR, ".sign-in"))


def pictures(folder: Path) -> None:
    """docs/console.png and docs/console-narrow.png, from a real stack with a demo's traffic."""
    with tempfile.TemporaryDirectory(prefix="clearline-pictures-") as data:
        env = {**os.environ, "CLEARLINE_DATA_DIR": data}
        demo = subprocess.Popen([*CLEARLINE, "demo", "--transactions", "30000", "--rate", "100", "--keep"], env=env)
        env["CLEARLINE_DATA_DIR"], env["CLEARLINE_WORLD"] = f"{data}/demo", "demo"
        try:
            wait_for("the demo's traffic", lambda: demo.poll() is not None or _busy_at(env) is not None, 600)
            url = _busy_at(env)
            assert url is not None, "the demo did not come up"
            keys = [_made_key(env, holder) for holder in ("li.wei", "zhang.min")]
            _prepare(url, keys)
            with browsing() as browser:
                browser.get(f"{url}/operations")
                browser.find_element(By.ID, "f-key").send_keys(keys[0])
                browser.find_element(By.CSS_SELECTOR, ".sign-in button").click()
                wait_for("rates of some seconds", lambda: _window_s(browser) >= 8)
                for name, width, height in (("console", 1280, 1580), ("console-narrow", 360, 1500)):
                    size(browser, width, height)
                    browser.save_screenshot(str(folder / f"{name}.png"))
        finally:
            demo.terminate()
            demo.wait(60)
            subprocess.run([*CLEARLINE, "down"], env=env, check=False)


def _window_s(browser: webdriver.Chrome) -> int:
    """Of how many seconds the rates are that the page shows."""
    found = re.search(r"rates of the last (\d+) s", browser.find_element(By.ID, "s-now").text)
    return int(found[1]) if found is not None else 0


def _busy_at(env: dict[str, str]) -> str | None:
    """The gateway's address once the day's traffic goes through it."""
    asked = subprocess.run([*CLEARLINE, "status", "--json"], env=env, check=False, capture_output=True)
    told = json.loads(asked.stdout) if asked.stdout.strip() else {}
    busy = (told.get("settled_per_second") or 0) > 20
    return str(told["addresses"]["gateway_url"]) if busy and told.get("addresses", {}).get("gateway_url") else None


def _made_key(env: dict[str, str], holder: str) -> str:
    command = [
        *CLEARLINE,
        "key",
        "create",
        "bank",
        "--scope",
        "status",
        "--scope",
        "operate",
        "--holder",
        holder,
        "--json",
    ]
    return str(json.loads(subprocess.run(command, env=env, check=True, capture_output=True).stdout)["token"])


def _prepare(url: str, keys: list[str]) -> None:
    """Something that is frozen, so that the page has it, and what operators did."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as desk:
        wait_for(
            "the key to be known", lambda: desk.post("/operations/sign-in", data={"key": keys[0]}).status_code == 303
        )
        query = {"level": "product", "subject": "smart-loan", "note": "rates of 26 November are being checked"}
        form = {"ticket": ticket_of(desk.get("/operations/freeze/confirm", params=query)), "second_key": keys[1]}
        assert desk.post("/operations/freeze/do", data=form).status_code == 303
        live_with(desk, "freeze product")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Makes the pictures of the console.")
    arguments.add_argument("--folder", type=Path, default=Path("docs"))
    pictures(arguments.parse_args().folder)
