"""The page of each code opens, in both languages, and can be read: on a telephone, without colours, without scripts."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import httpx
import pytest

from clearline.explain.codes_zh import CODES
from clearline.gateway import problems
from clearline.gateway.routes import reasons
from ledger.reasons import Reason
from tests.gateway import URL, Gate, in_loop

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Checks that every element is closed, and keeps texts, links and headings."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def pages() -> dict[str, httpx.Response]:
    """What is answered for every code, and for the list, without any credential."""
    found: dict[str, httpx.Response] = {}

    @in_loop
    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(Gate().app), base_url=URL) as client:
            found["/reasons"] = await client.get("/reasons")
            for code in problems.codes():
                found[code] = await client.get(f"/reasons/{code}")
            found["none"] = await client.get("/reasons/none_of_ours")

    ask()
    return found


def test_the_page_of_every_code_opens_in_both_languages(pages: dict[str, httpx.Response]) -> None:
    assert {*problems.codes()} >= {r.value for r in Reason}
    for code in problems.codes():
        answer = pages[code]
        assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
        page = Page(answer.text)
        plain = [x.replace("`", "") for x in (*problems.meaning(code), *CODES[code])]
        assert code in page.text and all(x in page.text for x in plain), code
        assert page.all("html") == [{"lang": "en"}] and any(a.get("lang") == "zh" for _, a in page.tags)
        assert f"HTTP {problems.Problem(code).status}" in page.text
        assert len(page.all("h1")) == 1


def test_the_list_leads_to_every_page(pages: dict[str, httpx.Response]) -> None:
    links = {a["href"] for a in Page(pages["/reasons"].text).all("a")}
    assert links == {f"{URL}/reasons/{code}" for code in problems.codes()}


def test_another_code_is_a_problem(pages: dict[str, httpx.Response]) -> None:
    answer = pages["none"]
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.headers["content-type"] == "application/problem+json"


def test_each_example_is_a_problem_of_its_code(pages: dict[str, httpx.Response]) -> None:
    for code in problems.codes():
        document = reasons.example_of(code, URL)
        assert document["code"] == code and document["type"] == f"{URL}/reasons/{code}"
        assert document["status"] == problems.Problem(code).status
        assert f"&quot;code&quot;: &quot;{code}&quot;" in pages[code].text


def test_a_page_runs_nothing_and_loads_nothing(pages: dict[str, httpx.Response]) -> None:
    for code in ("/reasons", *problems.codes()):
        answer = pages[code]
        assert not re.search(r"<(script|link|img|iframe|object|form)|javascript:|\son\w+=|@import|url\(", answer.text)
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_page_is_readable_on_a_small_screen(pages: dict[str, httpx.Response]) -> None:
    """360 px: it takes the screen's width, wraps long words, and nothing has a width of its own."""
    for code in ("/reasons", "insufficient_funds"):
        page = Page(pages[code].text)
        assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
        assert "overflow-wrap: anywhere" in page.text and "white-space: pre-wrap" in page.text
        widths = re.findall(r"(?<![-\w])(?:min-)?width:\s*([^;]+);", page.text)
        assert widths == [], "only max-width"
        assert not page.all("table")


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_links_stand_out(scheme: str, pages: dict[str, httpx.Response]) -> None:
    text, back, link = reasons.COLOURS[scheme]
    for colour in (text, link):
        lighter, darker = sorted((luminance(colour), luminance(back)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5
    assert set(re.findall(r"#[0-9a-f]{6}\b", pages["/reasons"].text)) == {
        c for s in reasons.COLOURS.values() for c in s
    }
