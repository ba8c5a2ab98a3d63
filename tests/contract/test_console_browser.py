"""The console in a real Chromium: keyboard alone, narrow windows, both schemes, no scripts, what axe-core says, figures
that change by themselves, and a freeze that two people make."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser import CONTRASTS, focused, overflow, press, reduced_motion, scripts, soon, violations
from tests.console_page import Room, sign_in
from tests.finance_page import browsing, scheme, size

pytestmark = pytest.mark.stack

ALICE, BOB = "acme:wallet:alice", "acme:wallet:bob"
PAGES = (
    "/operations", "/operations/freeze", "/operations/dead-letters", "/operations/nowhere",
    "/operations/freeze/confirm?level=account&subject=acme:wallet:alice&note=case+7",
    "/operations/freeze/confirm?level=account&subject=none&note=case+7",
    "/operations/dead-letters/plan?what=discard&reason=not_framed", "/operations/replays/cancel?replay=r-7",
)  # fmt: skip
WIDTHS = (320, 360, 768, 1024, 1280)


@pytest.fixture(scope="module")
def at() -> Iterator[Room]:
    room = Room()
    room.busy()
    yield room
    room.stop()


@pytest.fixture(scope="module")
def browser(at: Room) -> Iterator[webdriver.Chrome]:
    with browsing() as found:
        found.set_script_timeout(60)
        sign_in(found, at)
        yield found


@pytest.fixture(autouse=True)
def as_it_was(browser: webdriver.Chrome) -> None:
    scripts(browser, True)
    size(browser, 1280)
    scheme(browser, "light")


def text(browser: webdriver.Chrome, place: str) -> str:
    return browser.find_element(By.ID, place).text


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_there_for_everybody(at: Room, browser: webdriver.Chrome, path: str) -> None:
    """In both schemes and at every width: each text stands out 4.5 to 1, the page never scrolls sideways, and axe-core
    finds nothing."""
    browser.get(at.url + path)
    for name in ("dark", "light"):
        scheme(browser, name)
        for width in WIDTHS if name == "light" else (360,):
            size(browser, width)
            assert overflow(browser) == 0, width
            contrasts = browser.execute_script(CONTRASTS)
            assert len(contrasts) > 8
            assert [x for x in contrasts if x[1] < 4.5] == []
            assert all(box.size["width"] <= width for box in browser.find_elements(By.CSS_SELECTOR, ".box"))
        assert violations(browser) == []


def test_without_scripts_it_is_as_complete(at: Room, browser: webdriver.Chrome) -> None:
    scripts(browser, False)
    browser.get(f"{at.url}/operations")
    for place, said in (
        ("s-now", "Commands waiting"), ("s-incidents", "worker-1 hangs"), ("s-flow", "sink-redis"),
        ("s-latency", "up to 5 ms"), ("s-partitions", "worker-1"), ("s-dead", "not_framed"), ("s-replays", "r-7"),
        ("s-tieout", "agree"), ("s-frozen", "acme/shop-18"), ("s-acts", "freeze partner"), ("s-roles", "gateway-0"),
    ):  # fmt: skip
        assert said in text(browser, place), place
    assert not browser.find_element(By.ID, "pause").is_displayed()
    before = browser.find_element(By.CSS_SELECTOR, "#s-now time").text

    def newer(b: webdriver.Chrome) -> bool:
        b.find_element(By.ID, "reload").click()
        return b.find_element(By.CSS_SELECTOR, "#s-now time").text != before

    soon(browser, newer)


def test_a_number_changes_by_itself_and_the_focus_stays(at: Room, browser: webdriver.Chrome) -> None:
    browser.get(f"{at.url}/operations")
    soon(browser, lambda b: text(b, "stream") == "Live")
    link = browser.find_element(By.CSS_SELECTOR, "#s-dead a")
    browser.execute_script("window.mine = arguments[0]; window.mine.focus()", link)
    at.ledger.paused = True
    try:
        for n in range(3):
            at.pay(f"p-{n}")
        waiting = "//dt[.='Commands waiting']/following-sibling::dd"
        soon(browser, lambda b: b.find_element(By.XPATH, waiting).text == "3")
    finally:
        at.ledger.resume()
    soon(browser, lambda b: b.find_element(By.XPATH, waiting).text == "0")
    number = int(browser.find_element(By.XPATH, "//*[@id='s-dead']//td").text)
    at.ledger.put_bytes(0, b"one more")
    soon(browser, lambda b: int(b.find_element(By.XPATH, "//*[@id='s-dead']//td").text) == number + 1)
    assert browser.execute_script("return document.activeElement === window.mine"), "the focus was taken away"
    told = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert [m for m in told if "the server responded with a status of 40" not in m] == [], (
        "the policy refused something"
    )
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(r => r.name)")
    assert loaded and all(name.startswith(at.url) for name in loaded)


def test_it_can_be_paused_and_moves_nothing(at: Room, browser: webdriver.Chrome) -> None:
    reduced_motion(browser)
    browser.get(f"{at.url}/operations")
    moving = "return [...document.querySelectorAll('*')].filter(e => parseFloat(getComputedStyle(e).transitionDuration) || parseFloat(getComputedStyle(e).animationDuration)).length"
    assert browser.execute_script(moving) == 0
    soon(browser, lambda b: text(b, "stream") == "Live")
    browser.find_element(By.ID, "pause").send_keys(Keys.ENTER)
    assert (text(browser, "stream"), text(browser, "pause")) == ("Paused", "Go on")
    soon(browser, lambda _: at.watch.viewers == 0)
    before = browser.find_element(By.ID, "board").get_attribute("data-number")
    browser.find_element(By.ID, "pause").send_keys(Keys.SPACE)
    soon(browser, lambda b: b.find_element(By.ID, "board").get_attribute("data-number") != before)
    assert browser.find_elements(By.CSS_SELECTOR, "[aria-live]") == []
    assert len(browser.find_elements(By.CSS_SELECTOR, "[role=status]")) == 1, "one place speaks, and seldom"


def test_the_map_has_its_words_at_every_width(at: Room, browser: webdriver.Chrome) -> None:
    browser.get(f"{at.url}/operations")
    for width, shown in ((1280, "wide"), (360, "narrow")):
        size(browser, width)
        maps = [m for m in browser.find_elements(By.CSS_SELECTOR, "svg.map") if m.is_displayed()]
        assert len(maps) == 1 and shown in str(maps[0].get_attribute("class"))
        assert maps[0].accessible_name.startswith("Map of the flow")
        heights = browser.execute_script(
            "return [...arguments[0].querySelectorAll('text')].map(t => t.getBoundingClientRect().height)", maps[0]
        )
        assert min(heights) >= 11, "no text is too small to read"
        outside = browser.execute_script(
            "const m = arguments[0].getBoundingClientRect(); return [...arguments[0].querySelectorAll('text')].filter(t => {"
            "const r = t.getBoundingClientRect(); return r.left < m.left - 1 || r.right > m.right + 1 || r.bottom > m.bottom + 1; }).map(t => t.textContent)", maps[0],
        )  # fmt: skip
        assert outside == []


def test_two_people_freeze_an_account_with_the_keyboard_alone(at: Room) -> None:
    first = at.key("chen.jie")
    with browsing() as b:
        size(b, 1280)
        b.get(f"{at.url}/operations")
        press(b, Keys.TAB)
        assert focused(b) == "Skip to the content"
        press(b, Keys.ENTER, Keys.TAB)
        assert focused(b) == "key"
        press(b, first, Keys.ENTER)
        soon(b, lambda d: d.find_elements(By.ID, "board"))
        seen = tab_to(b, "Freeze an account…")
        assert seen[:6] == ["Skip to the content", "Live", "Dead letters", "Freeze", "Sign out", "Pause"]
        press(b, Keys.ENTER)
        soon(b, lambda d: d.find_elements(By.ID, "f-subject"))
        tab_to(b, "subject")
        press(b, BOB)
        tab_to(b, "note")
        press(b, "case 8", Keys.ENTER)
        soon(b, lambda d: d.find_elements(By.ID, "f-second"))
        tab_to(b, "second_key")
        press(b, first, Keys.ENTER)
        soon(b, lambda d: d.find_elements(By.ID, "error"))
        assert "chen.jie, who is signed in" in text(b, "error")
        assert not at.ledger.accounts()[BOB].frozen
        tab_to(b, "second_key")
        press(b, at.key("zhang.min"), Keys.ENTER)
        soon(b, lambda d: d.find_element(By.TAG_NAME, "h1").text == "Done")
        assert at.ledger.accounts()[BOB].frozen
        assert at.pay("after") == "account_frozen"
        tab_to(b, "Back to the console")
        press(b, Keys.ENTER)
        soon(b, lambda d: BOB in text(d, "s-frozen") and "zhang.min" in text(d, "s-acts"))


def test_dead_letters_are_put_back_with_the_keyboard_alone(at: Room, browser: webdriver.Chrome) -> None:
    browser.get(f"{at.url}/operations/dead-letters?reason=not_framed")
    tab_to(browser, "Redrive", begins=True)
    press(browser, Keys.ENTER)
    soon(browser, lambda b: b.find_elements(By.ID, "f-note"))
    tab_to(browser, "note")
    press(browser, "looked at each", Keys.ENTER)
    soon(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".verdict.good"))
    assert "moved" in browser.find_element(By.CSS_SELECTOR, ".verdict").text
    assert "task=" in browser.current_url
    browser.refresh()
    assert len(browser.find_elements(By.XPATH, "//td[.='looked at each']")) == 1, "loading it again does nothing"


def tab_to(browser: webdriver.Chrome, name: str, *, begins: bool = False) -> list[str]:
    """Goes on by the tabulator until this has the focus; what had it on the way. The focus is always seen."""
    seen: list[str] = []
    for _ in range(80):
        press(browser, Keys.TAB)
        now = focused(browser)
        outline = browser.execute_script(
            "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, parseFloat(s.outlineWidth)]"
        )
        assert outline[0] != "none" and outline[1] >= 2, now
        if now == name or (begins and now.startswith(name)):
            return seen
        seen.append(now)
    raise AssertionError(f"the keyboard never comes to {name}: {seen}")
