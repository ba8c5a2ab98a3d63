"""The pages at which a problem's `type` opens: what the code means, what helps, and an example, in both languages.

Plain HTML of one request, without scripts: it is read by whoever has an error in front of him, on whatever he has.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape
from string import Template
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from clearline.contract import FieldError
from clearline.explain.codes_zh import CODES
from clearline.explain.examples import DETAILS
from clearline.explain.refusal import Refusal, refusal
from clearline.explain.said import Lang
from clearline.gateway import documents, problems
from clearline.gateway.problems import OWN, Problem
from clearline.gateway.security import parts_of
from ledger.reasons import Reason
from schemas.records import JournalRecord, Transaction

router = APIRouter(tags=["gateway"])

_HEADERS = {
    "Cache-Control": "public, max-age=3600",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_MEDIA = "text/html; charset=utf-8"
_CODE = re.compile(r"`([^`]+)`")
_ID = "1c5f2c2c2c7d4b6f9a3e5d7c9b1a0f2e"
_DAY = 20_779  # 2026-11-22
_NOON_MS = _DAY * 86_400_000 + 43_200_123

# Colours are far above 4.5:1 in both schemes; a test works them out.
COLOURS = {"light": ("#1a1a1a", "#ffffff", "#0b4f9e"), "dark": ("#ececec", "#161616", "#9cc4ff")}

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 44rem; margin: 0 auto; padding: 1rem;
       color: $light_text; background: $light_back; overflow-wrap: anywhere; }
a { color: $light_link; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.125rem; margin-top: 2rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9375rem; }
pre { white-space: pre-wrap; border: 1px solid; padding: .75rem; }
li { margin: .75rem 0; }
@media (prefers-color-scheme: dark) {
  body { color: $dark_text; background: $dark_back; } a { color: $dark_link; }
}
</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")


@router.get("/reasons")
async def list_reasons(request: Request) -> Response:
    """Every code, with what it means."""
    return Response(_list(parts_of(request).base_url), 200, _HEADERS, _MEDIA)


@router.get("/reasons/{code}")
async def get_reason(request: Request, code: str) -> Response:
    """One code: what it means, what helps, an example."""
    if code not in problems.codes():
        raise Problem("not_found", "code: no problem has this code")
    return Response(_page(parts_of(request).base_url, code), 200, _HEADERS, _MEDIA)


@lru_cache(8)
def _list(base_url: str) -> str:
    items = []
    for code in problems.codes():
        meaning, _ = problems.meaning(code)
        items.append(
            f'<li><a href="{base_url}/reasons/{code}"><code>{code}</code></a> ({Problem(code).status})<br>'
            f'{_text(meaning)}<br><span lang="zh">{_text(CODES[code][0])}</span></li>'
        )
    body = '<h1>Codes of problems <span lang="zh">错误代码</span></h1>\n<ul>\n' + "\n".join(items) + "\n</ul>"
    return _whole("Codes of problems", body)


@lru_cache(512)
def _page(base_url: str, code: str) -> str:
    meaning, cure = problems.meaning(code)
    meaning_zh, cure_zh = CODES[code]
    example = orjson.dumps(example_of(code, base_url), option=orjson.OPT_INDENT_2).decode()
    reason = Reason(code) if code not in OWN else None
    said = {lang: _said(reason, lang) if reason is not None else None for lang in ("en", "zh")}
    body = f"""<h1><code>{code}</code></h1>
<p>HTTP {Problem(code).status}. <a href="{base_url}/reasons">All codes</a></p>
<h2>What it means</h2>
<p>{_text(meaning)}</p>
<h2>What helps</h2>
<p>{_text(cure)}</p>
<div lang="zh">
<h2>含义</h2>
<p>{_text(meaning_zh)}</p>
<h2>解决办法</h2>
<p>{_text(cure_zh)}</p>
</div>
<h2>Example <span lang="zh">示例</span></h2>
<pre>{escape(example)}</pre>
{_in_words(said["en"], said["zh"])}"""
    return _whole(code, body)


def _in_words(en: Refusal | None, zh: Refusal | None) -> str:
    """What the example's explanation would say."""
    if en is None or zh is None:
        return ""
    return (
        f"<p>In words: {_text(en.why)} {_text(en.cure)}</p>\n"
        f'<p lang="zh">用文字说明：{_text(zh.why)}{_text(zh.cure)}</p>'
    )


def example_of(code: str, base_url: str) -> dict[str, Any]:
    """A problem document with this code, as it might be answered."""
    instance = "urn:uuid:0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
    if code == "scope_missing":
        return problems.document(
            Problem(code, "the key has no scope limits", more={"scope": "limits"}), base_url, instance
        )
    if code in OWN:
        return problems.document(Problem(code), base_url, instance)
    if code == Reason.FIELD_INVALID:
        errors = [FieldError("amount", "must be at least 1 minor unit, not 0; to move money the other way, swap them")]
        return problems.document(Problem(code, errors=errors), base_url, instance)
    record, command = _refused(Reason(code))
    outcome = documents.of_record(record)
    transaction = documents.document(command, _ID, None, outcome) if outcome is not None else None
    detail = dict(sorted(record.detail.items()))
    more = {"reason_detail": detail, **({"transaction": transaction} if transaction is not None else {})}
    problem = Problem(code, documents.sentence(code, detail), more=more)
    return problems.document(problem, base_url, f"/v1/transactions/{_ID}" if transaction is not None else instance)


def _said(reason: Reason, lang: Lang) -> Refusal:
    record, command = _refused(reason)
    return refusal(record, command, lang)


def _refused(reason: Reason) -> tuple[JournalRecord, Transaction]:
    """A transaction that was rejected for a reason, and its record."""
    accounts = {"payer": "acme:wallet:alice", "payee": "acme/shop-17:wallet:till"}
    t = Transaction("acme", "o-1001", "wallet", "transfer", 12_550, "CNY", accounts, (), _DAY, reference="order 1001")
    return JournalRecord(
        bytes.fromhex(_ID), bytes(8), True, "rejected", 65, 2, 71, _NOON_MS, "Transaction", t.partner_id,
        t.idempotency_key, t.product, 0, t.operation, t.value_date, t.reference, {}, reason, DETAILS[reason],
        42 if reason == Reason.IDEMPOTENCY_CONFLICT else -1, "", {}, (),
    ), t  # fmt: skip


def _text(text: str) -> str:
    """A sentence as HTML; what stands in backticks is code."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _whole(title: str, body: str) -> str:
    colours = {
        f"{scheme}_{name}": value
        for scheme, values in COLOURS.items()
        for name, value in zip(("text", "back", "link"), values, strict=True)
    }
    return _PAGE.substitute(title=escape(title), body=body, **colours)
