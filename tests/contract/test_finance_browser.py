"""The page for finance in a real Chromium: keyboard, narrow windows, both schemes, no scripts, and what axe-core says.

The page has no script of its own; whatever runs here is the test's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from clearline.gateway.finance.words import EN
from sinks.clickhouse import Database
from tests.browser import CONTRASTS, focused, overflow, press, scripts, soon, violations
from tests.finance_day import HOSTILE
from tests.finance_page import PAGES, Desk, browsing, desk, month, scheme, sign_in, size

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def at() -> Desk:
    return desk()


@pytest.fixture(scope="module")
def browser(at: Desk) -> Iterator[webdriver.Chrome]:
    """Signed in, scripts of pages switched off."""
    with browsing() as found:
        scripts(found, False)
        sign_in(found, at)
        found.set_script_timeout(60)
        yield found


@pytest.fixture(autouse=True)
def as_it_was(browser: webdriver.Chrome) -> None:
    size(browser, 1280)
    scheme(browser, "light")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_there_for_everybody(at: Desk, browser: webdriver.Chrome, path: str) -> None:
    """In both schemes, wide and narrow: each text stands out 4.5 to 1, the page never scrolls sideways, and axe-core finds
    nothing."""
    for name, width in (("light", 1280), ("dark", 360)):
        scheme(browser, name)
        size(browser, width)
        browser.get(at.url + path)
        contrasts = browser.execute_script(CONTRASTS)
        assert len(contrasts) > 10
        assert [x for x in contrasts if x[1] < 4.5] == []
        assert overflow(browser) == 0
        assert all(box.size["width"] <= width for box in browser.find_elements(By.CSS_SELECTOR, ".box"))
        assert violations(browser) == []
        scripts(browser, False)
    scheme(browser, "light")
    assert [x for x in browser.execute_script(CONTRASTS) if x[1] < 4.5] == []
    size(browser, 320)
    assert overflow(browser) == 0


def test_a_wide_table_scrolls_in_its_box_by_the_keyboard_too(at: Desk, browser: webdriver.Chrome) -> None:
    size(browser, 360)
    browser.get(at.url + "/finance/trial-balance?by=account")
    box = browser.find_element(By.CSS_SELECTOR, ".box")
    inside = browser.execute_script("return [arguments[0].scrollWidth, arguments[0].clientWidth]", box)
    assert inside[0] > inside[1] + 100, "nothing had to scroll: this proves nothing"
    browser.execute_script("arguments[0].focus()", box)
    press(browser, Keys.ARROW_RIGHT)
    soon(browser, lambda b: b.execute_script("return arguments[0].scrollLeft", box) > 0)


def test_text_may_be_twice_as_large(at: Desk, browser: webdriver.Chrome) -> None:
    size(browser, 640)
    for path in ("/finance", "/finance/flows", "/finance/trial-balance"):
        browser.get(at.url + path)
        browser.execute_script("document.documentElement.style.fontSize = '200%'")
        assert overflow(browser) == 0, path


def test_with_the_keyboard_alone(at: Desk) -> None:
    """In at the front door, past the navigation, to a report and its file, out again; the focus is always seen."""
    with browsing() as b:
        scripts(b, False)
        size(b, 1280)
        b.get(f"{at.url}/finance/trial-balance")
        press(b, Keys.TAB)
        assert focused(b) == EN["skip"]
        assert b.find_element(By.CSS_SELECTOR, ".skip").location["y"] >= 0, "the skip link stays hidden"
        press(b, Keys.ENTER)
        press(b, Keys.TAB)
        assert focused(b) == "key"
        press(b, at.key(), Keys.ENTER)
        soon(b, lambda d: d.find_elements(By.CSS_SELECTOR, ".verdict"))
        assert b.current_url == f"{at.url}/finance/trial-balance"
        order = []
        for _ in range(60):
            press(b, Keys.TAB)
            order.append(focused(b))
            outline = b.execute_script(
                "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, parseFloat(s.outlineWidth)]"
            )
            assert outline[0] != "none" and outline[1] >= 2, order[-1]
            if order[-1] == "xlsx":
                break
        first = [
            EN["skip"],
            *(EN[f"nav.{n}"] for n in ("today", "trial-balance", "statement", "flows", "breaks", "closes", "reports")),
        ]
        assert order[: len(first)] == first and order[len(first)] == EN["sign_out"]
        fields = [name for name in order if name in ("by", "since", "until", "on")]
        assert list(dict.fromkeys(fields)) == ["by", "since", "until", "on"]
        boxes = [i for i, name in enumerate(order) if name.startswith("Trial balance; the table scrolls")]
        assert len(boxes) == 1 and order.index(EN["as_of.link"]) < boxes[0] < order.index("xlsx")
        b.find_element(By.CSS_SELECTOR, "header nav a").send_keys(Keys.ENTER)
        out = next(x for x in b.find_elements(By.TAG_NAME, "button") if x.text == EN["sign_out"])
        out.send_keys(Keys.SPACE)
        soon(b, lambda d: EN["ended"] in d.page_source)
        b.get(f"{at.url}/finance")
        assert b.find_elements(By.ID, "f-key")


def test_hostile_references_do_nothing_and_nothing_is_loaded_from_elsewhere(at: Desk) -> None:
    db = Database(month(), reader=True)
    query = "SELECT account_id, value_date FROM postings WHERE reference = %(r)s LIMIT 1"
    account, day = db.rows(query, {"r": HOSTILE[0]})[0]
    db.close()
    with browsing() as b:  # scripts may run here: none must
        sign_in(b, at)
        assert "401" in str(b.get_log("browser")), "the form's own status is what the log has so far"
        b.get(f"{at.url}/finance/statement?account={account}&since={day}&until={day}")
        assert HOSTILE[0] in b.find_element(By.TAG_NAME, "body").text
        assert b.title == f"Statement · {EN['product']}"
        assert b.find_elements(By.CSS_SELECTOR, "img, script, iframe, object, [onerror]") == []
        b.get(f"{at.url}/finance/flows")
        loaded = b.execute_script("return performance.getEntriesByType('resource').map(r => r.name)")
        assert all(re.fullmatch(rf"{at.url}/finance/finance\.css\?[0-9a-f]{{12}}", name) for name in loaded) and loaded
        told = [entry for entry in b.get_log("browser") if entry["level"] == "SEVERE"]
        assert told == [], "the policy refused something of the page's own"


def test_a_link_from_elsewhere_leads_in_by_one_more_step(at: Desk, browser: webdriver.Chrome) -> None:
    """The cookie is SameSite=Strict: the browser keeps it back when another site links here."""
    other = at.url.replace("127.0.0.1", "localhost")
    target = f"{at.url}/finance/trial-balance?by=type"
    with httpx.Client() as client:
        page = client.get(target, headers={"Sec-Fetch-Site": "cross-site"})
        assert page.status_code == 401 and EN["signed_in_already"] in page.text
    browser.get(f"{other}/finance/nowhere")
    browser.execute_script(
        "const a = document.createElement('a'); a.href = arguments[0]; a.textContent = 'mail'; a.id = 'mail';"
        "document.body.append(a)",
        target,
    )
    browser.find_element(By.ID, "mail").click()
    browser.find_element(By.LINK_TEXT, EN["open_page"]).click()
    assert browser.current_url == target and browser.find_elements(By.CSS_SELECTOR, ".verdict.good")


def test_charts_have_words_and_their_bars_are_seen(at: Desk, browser: webdriver.Chrome) -> None:
    for name in ("light", "dark"):
        scheme(browser, name)
        browser.get(f"{at.url}/finance/flows")
        charts = browser.find_elements(By.CSS_SELECTOR, "svg[role=img]")
        assert len(charts) >= 7
        names = [c.accessible_name for c in charts]
        assert len(set(names)) == len(names)
        assert all(
            re.search(r"CNY per day from 2026-\d\d-\d\d to 2026-\d\d-\d\d Total [\d,.]+ CNY\. Most on ", n)
            for n in names
        )
        ratio = browser.execute_script(
            CONTRASTS.partition("const found")[0] + "const e = document.querySelector('.bar');"
            "const [x, y] = [lum(parse(getComputedStyle(e).fill)[0]), lum(behind(e))];"
            "return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05)"
        )
        assert ratio >= 3
