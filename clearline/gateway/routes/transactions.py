"""Transactions: asking for one or many, looking one up, and what is done about one: capture, void, refund, reversal."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import date
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from clearline.contract import ContractError, FieldError
from clearline.fields import KEY_MAX, shown
from clearline.gateway import documents
from clearline.gateway.answers import problem_document, problem_of
from clearline.gateway.asking import HIDDEN, command_of, idempotency_key, json_body, only, refuse, today_of, wait_of
from clearline.gateway.documents import Document
from clearline.gateway.forced import replaced
from clearline.gateway.onboarding import saw_outcome
from clearline.gateway.parts import Parts, Place
from clearline.gateway.principal import Principal
from clearline.gateway.problems import Problem
from clearline.gateway.security import Asker, charge, parts_of
from clearline.gateway.writes import STALE_S, Asked, Written, answer, keep_found, write, write_many
from schemas.errors import PartUnavailableError
from schemas.identity import partition_of
from schemas.records import Command, Transaction

router = APIRouter(prefix="/v1", tags=["transactions"])

BATCH_MAX = 1_000
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_FOLLOW_UPS: dict[str, tuple[str, ...]] = {
    "capture": ("amount", "final", "reference", "metadata"),
    "void": ("reference", "metadata"),
    "refund": ("amount", "reference", "metadata"),
    "reversal": ("reference", "metadata"),
}


# ---- one and many ----------------------------------------------------------------------------------------------------


@router.post("/transactions", response_class=Response, status_code=201)
async def post_transaction(request: Request, who: Asker) -> Response:
    """One transaction."""
    parts = parts_of(request)
    key, wait = idempotency_key(request), wait_of(request, parts)
    asked = await replaced(parts, _asked(await json_body(request), who, key, today_of(parts)))
    written = await write(parts, asked.command, wait, undated=asked.undated)
    saw_outcome(parts, who.partner_id, written.document, replayed=written.replayed)
    return answer(parts, written, wait)


@router.post("/transactions:batch", response_class=Response)
async def post_batch(request: Request, who: Asker) -> Response:
    """Up to 1,000 transactions, each with an outcome of its own."""
    parts = parts_of(request)
    key, wait = idempotency_key(request), wait_of(request, parts)
    items = _items(await json_body(request))
    await charge(request, who, len(items) - 1)
    today = today_of(parts)
    read = [_item(item, i, who, key, today) for i, item in enumerate(items)]
    if parts.settings.sandbox:
        read = [await _replaced(parts, r) for r in read]
    good = [r for r in read if isinstance(r, Asked)]
    written = iter(await write_many(parts, good, wait))
    results = [_result(parts, next(written) if isinstance(r, Asked) else r) for r in read]
    return Response(orjson.dumps({"results": results}), 200, wait.headers, "application/json")


def _items(document: Mapping[str, Any]) -> list[Any]:
    only(document, ("transactions",))
    items = document.get("transactions")
    if not isinstance(items, list):
        rule = "is missing" if "transactions" not in document else f"must be a JSON array, not {shown(items)}"
        raise ContractError([FieldError("transactions", rule)])
    if not 1 <= len(items) <= BATCH_MAX:
        raise ContractError([FieldError("transactions", f"must be 1 to {BATCH_MAX}, not {len(items)}")])
    return items


def _item(item: object, index: int, who: Principal, key: str, today: date) -> Asked | Exception:
    """One entry of a batch, or why it is none."""
    if not isinstance(item, dict):
        return ContractError([FieldError("", f"must be a JSON object, not {shown(item)}")])
    fields = dict(item)
    own = fields.pop("idempotency_key", None)
    if own is None:
        own = f"{key}/{index}"
        if len(own) > KEY_MAX:
            return Problem(
                "idempotency_key_invalid", f"Idempotency-Key: with /{index} it has more than {KEY_MAX} characters"
            )
    try:
        return _asked(fields, who, own, today)
    except (ContractError, Problem) as e:
        return e


async def _replaced(parts: Parts, asked: Asked | Exception) -> Asked | Exception:
    """What a sandbox publishes for it."""
    try:
        return await replaced(parts, asked) if isinstance(asked, Asked) else asked
    except (Problem, PartUnavailableError) as e:
        return e


def _result(parts: Parts, found: Written | Exception) -> Document:
    if isinstance(found, Written):
        return {"status": found.status, "body": found.body(parts), "replayed": found.replayed}
    problem = problem_of(found)
    return {"status": problem.status, "body": problem_document(problem, parts.base_url), "replayed": False}


def _asked(fields: Mapping[str, Any], who: Principal, key: Any, today: date) -> Asked:
    """The transaction that a body asks for, which the key's scopes must cover. Raises ContractError, Problem."""
    refuse(fields, HIDDEN)
    command = command_of(fields, who.acting, key, today)
    assert isinstance(command, Transaction)
    who.need(f"transact:{command.product}:{command.operation}")
    return Asked(command, fields.get("value_date") is None)


# ---- what is known of one --------------------------------------------------------------------------------------------


@router.get("/transactions/{id}", response_class=Response)
async def get_transaction(request: Request, id: str, who: Asker) -> Response:
    """One transaction, or another command, by its id."""
    who.need("read")
    document, _ = await find(parts_of(request), who, id)
    saw_outcome(parts_of(request), who.partner_id, document, replayed=False)
    return Response(orjson.dumps(document), 200, media_type="application/json")


async def find(parts: Parts, who: Principal, id_hex: str) -> tuple[Document, Transaction | None]:
    """The document of a command that its asker sees, and the command where the log still has it.

    Raises Problem("not_found"), PartUnavailableError.
    """
    if not _ID.fullmatch(id_hex):
        raise Problem("not_found")
    cid = bytes.fromhex(id_hex)
    document, command = await _look_up(parts, who.root, cid)
    if document is None or not who.sees(document["partner_id"]):
        raise Problem("not_found")
    return document, command if isinstance(command, Transaction) else None


async def _look_up(parts: Parts, root: str, cid: bytes) -> tuple[Document | None, Any]:
    """What is known of a command, the nearest first. `root`: the tree that is asked for, whose log is looked into."""
    kept = await parts.outcomes.at_hand(cid)
    if kept is not None:
        return kept.document, None
    entry = parts.outcomes.call_of(cid)
    if entry is not None and asyncio.get_running_loop().time() - entry.since < STALE_S:
        await asyncio.shield(entry.acknowledged)
        if entry.place is not None:
            return _pending(entry.command, cid, entry.place)
    found = await parts.finder.by_id(cid)
    if found is None:
        waits = await parts.finder.waiting(partition_of(root, parts.partitions), cid)
        if waits is not None:
            return _pending(waits.command, cid, waits.place)
        found = await parts.finder.by_id(cid)  # it may have been settled between the two looks
    if found is None:
        return None, None
    kept = keep_found(parts, found)
    if kept is not None:
        return kept.document, found.command
    if found.command is not None and documents.of_record(found.record) is None:
        return _pending(found.command, cid, Place(found.record.source_partition, found.record.source_offset))
    return documents.document_of_record(found.record), found.command


def _pending(command: Command, cid: bytes, place: Place) -> tuple[Document, Command]:
    return documents.document(command, cid.hex(), place, None), command


# ---- what is done about one ------------------------------------------------------------------------------------------


@router.post("/transactions/{id}/capture", response_class=Response, status_code=201)
async def capture(request: Request, id: str, who: Asker) -> Response:
    """Takes money that a hold has set aside, all or a part."""
    return await _follow_up(request, id, who, "capture")


@router.post("/transactions/{id}/void", response_class=Response, status_code=201)
async def void(request: Request, id: str, who: Asker) -> Response:
    """Gives up what is left of a hold."""
    return await _follow_up(request, id, who, "void")


@router.post("/transactions/{id}/refund", response_class=Response, status_code=201)
async def refund(request: Request, id: str, who: Asker) -> Response:
    """Gives a payment back, all or a part."""
    return await _follow_up(request, id, who, "refund")


@router.post("/transactions/{id}/reversal", response_class=Response, status_code=201)
async def reversal(request: Request, id: str, who: Asker) -> Response:
    """Books the opposite of a transaction."""
    return await _follow_up(request, id, who, "reversal")


async def _follow_up(request: Request, id_hex: str, who: Principal, kind: str) -> Response:
    parts = parts_of(request)
    key, wait = idempotency_key(request), wait_of(request, parts)
    fields = await json_body(request) if await request.body() else {}
    refuse(fields, HIDDEN)
    only(fields, _FOLLOW_UPS[kind])
    original, _ = await find(parts, who, id_hex)
    if original.get("operation") is None or original.get("currency") is None:
        raise Problem("not_found")
    if original["partner_id"] != who.acting:
        raise Problem(
            "forbidden", f"it is {original['partner_id']}'s: name that partner in the header Clearline-Partner"
        )
    operation = await _operation(parts, original["product"], kind)
    asked = _asked(
        {
            **fields, "product": original["product"], "operation": operation, "currency": original["currency"],
            "original": original["idempotency_key"],
        },
        who, key, today_of(parts),
    )  # fmt: skip
    written = await write(parts, asked.command, wait, undated=True)
    saw_outcome(parts, who.partner_id, written.document, replayed=written.replayed, refund=kind == "refund")
    return answer(parts, written, wait)


async def _operation(parts: Parts, product: str, kind: str) -> str:
    """What a product calls its operation of a kind; the kind itself where the shelf does not say otherwise."""
    versions = [v for v in await parts.reads.products() if v.product == product]
    if not versions:
        return kind
    newest = max(versions, key=lambda v: v.version)
    operations: dict[str, Any] = orjson.loads(newest.document).get("operations", {})
    named = [name for name, o in operations.items() if isinstance(o, dict) and o.get("kind") == kind]
    return kind if kind in named or not named else named[0]
