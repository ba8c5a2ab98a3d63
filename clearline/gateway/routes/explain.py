"""What became of a command, in words: for a person who wonders, and for the robot that answers him."""

from __future__ import annotations

import asyncio
from typing import Literal

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from clearline.explain.history import gather
from clearline.explain.said import LANGUAGES, Lang
from clearline.explain.story import Reader, accounts_of, of_pending, tell
from clearline.gateway.paging import only_query
from clearline.gateway.parts import Parts
from clearline.gateway.problems import Problem
from clearline.gateway.routes.transactions import find
from clearline.gateway.security import Asker, parts_of
from schemas.errors import PartUnavailableError

router = APIRouter(prefix="/v1", tags=["transactions"])

TURNS = 1  # explanations that read the journal at once: the finder has two threads, also for repeats of writes
TYPES_MAX = 20  # accounts whose type is asked for: of more, the counters are told as they are


@router.get("/transactions/{id}/explain", response_class=Response)
async def explain_transaction(
    request: Request, id: str, who: Asker, lang: Literal["en", "zh"] | None = None
) -> Response:
    """What was asked, what happened at each step, why it was refused and what would make it pass."""
    who.need("read")
    only_query(request, ("lang",))
    parts = parts_of(request)
    language = lang or language_of(request.headers.get("accept-language", ""))
    document, _ = await find(parts, who, id)
    found = await parts.finder.by_id(bytes.fromhex(id))
    if found is None:
        explanation = of_pending(document, language)
    else:
        if not who.sees(found.record.partner_id):
            raise Problem("not_found")
        async with parts.memory.setdefault("explain.turns", asyncio.Semaphore(TURNS)):
            history = await gather(parts.finder, found)
        own = [a for a in accounts_of(history) if who.sees_account(a)]
        explanation = tell(history, Reader(who.sees_account, await _types(parts, own)), language)
    headers = {"Content-Language": language, "Vary": "Accept-Language"}
    return Response(orjson.dumps(explanation.to_dict()), 200, headers, "application/json")


def language_of(accept: str) -> Lang:
    """The language that a reader likes best of those we have (RFC 9110, 12.5.4); English when he names none."""
    best: tuple[float, Lang] = (0.0, "en")
    for entry in accept.split(","):
        tag, _, parameters = entry.strip().partition(";")
        main = tag.strip().lower().partition("-")[0]
        name, _, value = parameters.strip().partition("=")
        try:
            quality = float(value) if name.strip() == "q" else 1.0
        except ValueError:
            continue
        for language in LANGUAGES:
            if main in (language, "*") and best[0] < quality <= 1.0:
                best = (quality, language)
    return best[1]


async def _types(parts: Parts, account_ids: list[str]) -> dict[str, str]:
    """The types of accounts, as far as the stores tell them now: without, balances are told as counters."""
    out: dict[str, str] = {}
    for account_id in account_ids[:TYPES_MAX]:
        try:
            row = await parts.reads.account(account_id)
        except PartUnavailableError:
            break
        if row is not None:
            out[account_id] = row.type
    return out
