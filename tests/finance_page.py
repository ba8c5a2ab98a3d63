"""The page for finance as its users have it: a month of a bank in a real ClickHouse, a gateway on a port, a browser.

`python -m tests.finance_page` makes the pictures in docs/ anew.
"""

from __future__ import annotations

import argparse
import atexit
import html
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from clearline.gateway.reporting import Reports
from clearline.gateway.tls import tls_options
from sinks.clickhouse import ClickHouseConfig
from tests import finance_day
from tests.browser import soon
from tests.contract.gateway_world import GatewayWorld
from tests.finance_ground import server
from tests.sink_servers import wait_for

PAGE_MS = finance_day.NOW_MS + 4_000  # when pages are made, as far as they know
ACCOUNT = "orchard:wallet:main-cny"
PAGES = (
    "/finance", "/finance/trial-balance", "/finance/trial-balance?by=account", f"/finance/statement?account={ACCOUNT}",
    "/finance/statement", "/finance/flows", "/finance/breaks", "/finance/closes",
    "/finance/closes?day=2026-11-25&verify=yes", "/finance/reports",
    "/finance/reports/holds", "/finance/reports/profitability?page=2", "/finance/trial-balance?since=never",
    "/finance/nowhere",
)  # fmt: skip
DRIVERS = ("/usr/bin/chromedriver", "chromedriver")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Desk:
    """The gateway, and a client without a session. `world`: its parts and keys; time stands still at PAGE_MS."""

    def __init__(self, config: ClickHouseConfig, base_url: str = "", **changes: Any) -> None:
        house = {"host": config.host, "port": config.port, "database": config.database}
        self.config = config
        self._folder = tempfile.TemporaryDirectory(prefix="clearline-finance-")
        self.world = GatewayWorld(
            base_url or "http://127.0.0.1", clickhouse=house, data_dir=Path(self._folder.name), **changes
        )
        self.parts = self.world.parts
        self.parts.reporting = Reports(config)
        self.now_ms = PAGE_MS
        self.parts.now_ms = lambda: self.now_ms
        options = uvicorn.Config(
            self.world.app, port=0, log_config=None, access_log=False, lifespan="off",
            **tls_options(self.parts.settings.gateway),
        )  # fmt: skip
        self._server = uvicorn.Server(options)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for("the gateway", lambda: self._server.started)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def client(self) -> httpx.Client:
        """A browser without a session, that follows nothing."""
        return httpx.Client(base_url=self.url, timeout=30)

    def key(self, **more: Any) -> str:
        """A key that opens the page."""
        return self.world.key("bank", ["reports"], **more)

    @contextmanager
    def signed_in(self, key: str = "") -> Iterator[httpx.Client]:
        """A client with a session."""
        with self.client() as client:
            answer = client.post("/finance/sign-in", data={"key": key or self.key(), "next": "/finance"})
            assert answer.status_code == 303, answer.text
            yield client

    def stop(self) -> None:
        """Ends the gateway."""
        self._server.should_exit = True
        self._thread.join(20)
        self._folder.cleanup()


@cache
def month() -> ClickHouseConfig:
    """The month's database, filled once for a process."""
    config = server().config("finance_page")
    finance_day.fill(config)
    return config


@cache
def desk() -> Desk:
    """One gateway for a process."""
    found = Desk(month())
    atexit.register(found.stop)
    return found


def chromium() -> tuple[str, str]:
    """Browser and driver of this machine; skips the test where there is none."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = next(filter(None, map(shutil.which, DRIVERS)), None)
    if browser is None or driver is None:
        pytest.skip("Chromium and its driver are not on this machine: apt-get install chromium chromium-driver")
    return browser, driver


@contextmanager
def browsing() -> Iterator[webdriver.Chrome]:
    """A browser without a window."""
    browser, driver = chromium()
    options = Options()
    options.binary_location = browser
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-gpu",
        "--lang=en-GB", "--force-device-scale-factor=1", "--no-first-run", "--disable-background-networking",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    try:
        found.set_page_load_timeout(60)
        yield found
    finally:
        found.quit()


def size(browser: webdriver.Chrome, width: int, height: int = 900) -> None:
    """Lays pages out in a window of this size, in pixels."""
    window = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)


def scheme(browser: webdriver.Chrome, name: str) -> None:
    """`light` or `dark`."""
    wanted = {"features": [{"name": "prefers-color-scheme", "value": name}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)


def sign_in(browser: webdriver.Chrome, at: Desk) -> None:
    """Signs in with a new key."""
    browser.get(f"{at.url}/finance")
    browser.find_element(By.ID, "f-key").send_keys(at.key())
    browser.find_element(By.CSS_SELECTOR, ".sign-in button").click()
    # What comes after the form may still be on its way, and would take the place of a page that is opened meanwhile.
    soon(browser, lambda b: not b.find_elements(By.CSS_SELECTOR, ".sign-in"))


def rows_of(text: str, caption: str) -> list[list[str]]:
    """The texts of a table's body."""
    for table in re.findall(r"<table>(.*?)</table>", text, re.S):
        if re.search(rf"<caption>\s*{re.escape(caption)}", table):
            body = re.search(r"<tbody>(.*?)</tbody>", table, re.S)
            assert body is not None
            return [
                [
                    html.unescape(re.sub(r"<[^>]*>", "", c)).strip()
                    for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
                ]
                for row in re.findall(r"<tr>(.*?)</tr>", body[1], re.S)
            ]
    raise AssertionError(f"no table {caption}")


def pictures(folder: Path) -> None:
    """docs/finance-page.png and docs/finance-page-narrow.png."""
    with browsing() as browser:
        sign_in(browser, desk())
        for name, page, width, height in (
            ("finance-page", "/finance/flows", 1120, 860),
            ("finance-page-narrow", "/finance", 360, 1120),
        ):
            size(browser, width, height)
            browser.get(desk().url + page)
            browser.save_screenshot(str(folder / f"{name}.png"))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Makes the pictures of the page for finance.")
    arguments.add_argument("--folder", type=Path, default=Path("docs"))
    pictures(arguments.parse_args().folder)
