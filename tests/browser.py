"""What tests of pages in a browser share: axe-core, contrasts, the keyboard, what stands out over the window."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.support.wait import WebDriverWait

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

# The ratio of each text's colour to what lies behind it, worked out from computed styles as WCAG 2 says.
CONTRASTS = """
const lum = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const parse = t => { const n = t.match(/[\\d.]+/g).map(Number); return [n.slice(0, 3), n.length > 3 ? n[3] : 1]; };
const over = (top, alpha, below) => top.map((v, i) => v * alpha + below[i] * (1 - alpha));
const behind = e => { if (!e) return [255, 255, 255]; const [c, a] = parse(getComputedStyle(e).backgroundColor);
  return a === 1 ? c : over(c, a, behind(e.parentElement)); };
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const e = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
  if (!text || ['STYLE', 'SCRIPT', 'title', 'desc', 'OPTION'].includes(e.tagName)) continue;
  const s = getComputedStyle(e), back = behind(e), svg = e instanceof SVGElement;
  const [c, a] = parse(svg ? s.fill : s.color);
  const [x, y] = [lum(over(c, a, back)), lum(back)];
  found.push([text.slice(0, 40), (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05)]);
}
for (const e of document.querySelectorAll('input:not([type=hidden]), select')) {
  const s = getComputedStyle(e), back = behind(e), edge = parse(s.borderTopColor)[0];
  const [x, y, z] = [lum(parse(s.color)[0]), lum(back), lum(edge)];
  found.push(['field ' + e.name, (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05)]);
  found.push(['edge of ' + e.name, 1.5 * (Math.max(z, y) + 0.05) / (Math.min(z, y) + 0.05)]);  // 3:1 is enough for it
}
return found;
"""


# What chromedriver says, as an error of no kind of its own, when the document was exchanged between two of its questions.
_GOING = (
    "does not belong to the document",
    "Cannot find context",
    "uniqueContextId not found",
    "No node with given id",
)


def scripts(browser: webdriver.Chrome, allowed: bool) -> None:
    """Lets pages run scripts, or not. What the driver is asked to run, runs anyway; its timers do not."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not allowed})


def soon(browser: webdriver.Chrome, true: Callable[[webdriver.Chrome], object]) -> None:
    """Waits until it is true. A page that goes away while it is looked at is not there yet, also where the driver has no
    better word for it than an inspector error."""

    def looked_at(b: webdriver.Chrome) -> object:
        try:
            return true(b)
        except (NoSuchElementException, StaleElementReferenceException):
            return False
        except WebDriverException as e:
            if any(said in str(e.msg) for said in _GOING):
                return False
            raise

    WebDriverWait(browser, 60, 0.03).until(looked_at)


@cache
def axe() -> str:
    return AXE.read_text(encoding="utf-8")


def violations(browser: webdriver.Chrome) -> list[str]:
    """What axe-core finds wrong with the page that is open. Scripts may run afterwards."""
    scripts(browser, True)  # axe waits by timers
    browser.execute_script(axe())
    found: Any = browser.execute_async_script(
        "const done = arguments[1]; axe.run(document, {runOnly: arguments[0], resultTypes: ['violations']})"
        ".then(r => done(r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html).slice(0, 3).join(' | '))),"
        " e => done(['' + e]));",
        WCAG,
    )
    return list(found)


def focused(browser: webdriver.Chrome) -> str:
    """What has the focus, in a word: its text, name or tag."""
    return str(
        browser.execute_script(
            "const e = document.activeElement; return e.name || (e.getAttribute('aria-label') || e.textContent).trim() || e.tagName"
        )
    )


def press(browser: webdriver.Chrome, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def overflow(browser: webdriver.Chrome) -> int:
    """By how many pixels the page is wider than its window."""
    return int(browser.execute_script("const d = document.documentElement; return d.scrollWidth - d.clientWidth"))


def reduced_motion(browser: webdriver.Chrome) -> None:
    """As somebody sees it who wants nothing to move."""
    wanted = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
