"""Runs the cases of a product and compares what the Book did with what must come out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clearline.conformance.built_in import kind_cases
from clearline.conformance.calculator import Leg, after
from clearline.conformance.cases import Case
from clearline.conformance.limits import limit_cases
from clearline.conformance.refusals import refusal_cases
from clearline.conformance.returns import OTHER_PRODUCT, return_cases
from clearline.conformance.steps import step_cases
from clearline.conformance.world import World
from schemas.errors import BadInputError
from schemas.records import JournalRecord


@dataclass(frozen=True, slots=True)
class Result:
    """One case tried. `differences`: what came out otherwise than it must; empty when all is as expected.

    `before` and `after`: available on the accounts of the case, minor units; None for an account that is not there.
    `fee`: minor units that went to income accounts of the bank.
    """

    case: Case
    outcome: str
    reason: str
    legs: tuple[Leg, ...]
    before: Mapping[str, int | None]
    after: Mapping[str, int | None]
    fee: int
    differences: tuple[str, ...]


def cases(document: Mapping[str, Any]) -> Iterator[Case]:
    """Every case that follows from a document."""
    for name, o in document["operations"].items():
        if o["kind"] == "transfer":
            yield from step_cases(document, name)
        elif o["kind"] in ("refund", "reversal"):
            yield from return_cases(document, name)
        else:
            yield from kind_cases(document, name)
        yield from refusal_cases(document, name)
    yield from limit_cases(document)


def run(document: Mapping[str, Any], text: str = "") -> list[Result]:
    """All cases of a product, each in a world of its own. `text`: its canonical JSON."""
    text = text or json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return [_tried(document, text, case) for case in cases(document)]


def _tried(document: Mapping[str, Any], text: str, case: Case) -> Result:
    """A case whose ground the ledger refused is one that came out otherwise."""
    try:
        return try_case(document, text, case)
    except BadInputError as e:
        return Result(case, "not tried", "", (), {}, {}, 0, (str(e),))


def never_settled(document: Mapping[str, Any], results: Sequence[Result]) -> list[str]:
    """Operations of which no case settled: no amounts were found with which they do, so they are not tested."""
    settled = {r.case.operation for r in results if r.case.outcome == "settled" and r.outcome == "settled"}
    return [name for name in document["operations"] if name not in settled]


def try_case(document: Mapping[str, Any], text: str, case: Case) -> Result:
    """One case. Raises BadInputError when the ground for it cannot be laid."""
    world = World()
    world.publish(document["product"], document["version"], text, case.effective_from)
    if any(c.product == OTHER_PRODUCT for c in (*case.before, case.command) if hasattr(c, "product")):
        other = {**document, "product": OTHER_PRODUCT}
        world.publish(OTHER_PRODUCT, document["version"], json.dumps(other, sort_keys=True, separators=(",", ":")))
    world.open(case.accounts)
    world.must(*case.before)
    world.use(case.rows)
    world.wait(case.waits_ms)
    before = {a.account_id: world.available(a.account_id) for a in case.accounts}
    record = world.settle(case.command)
    now = {a.account_id: world.available(a.account_id) for a in case.accounts}
    legs = tuple((p.account_id, p.side, p.amount) for p in record.postings)
    income = {a.account_id for a in case.accounts if a.type == "income"}
    fee = sum(n if side == "credit" else -n for account, side, n in legs if account in income)
    differences = tuple(_differences(document, case, record, legs, before, now, world))
    return Result(case, record.outcome, record.reason, legs, before, now, fee, differences)


def _differences(
    document: Mapping[str, Any], case: Case, record: JournalRecord, legs: Sequence[Leg],
    before: Mapping[str, int | None], now: Mapping[str, int | None], world: World,
) -> Iterator[str]:  # fmt: skip
    """What came out otherwise, in words."""
    if (record.outcome, record.reason) != (case.outcome, case.reason):
        detail = f" {record.detail}" if record.reason else ""
        got = f"{record.outcome} {record.reason}".strip()
        yield f"{got}{detail}, not {f'{case.outcome} {case.reason}'.strip()}"
    if legs != case.legs:
        yield f"posted {_shown(legs)}, not {_shown(case.legs)}"
    for what, expired, must in (("set aside", False, case.pending), ("lapsed", True, case.lapsed)):
        pending = tuple((p.account_id, p.side, p.change) for p in record.pending if p.expired == expired)
        if pending != must:
            yield f"{what} {_shown(pending)}, not {_shown(must)}"
    if record.outcome == "settled" and record.product_version != document["version"]:
        yield f"settled under version {record.product_version}, not {document['version']}"
    opened = {o.account_id: (o.type, o.currency, o.min_available, o.credit_limit) for o in record.opened}
    wanted = {a.account_id: (a.type, a.currency, a.least, a.credit_limit) for a in case.opens}
    if opened != wanted:
        yield f"opened {opened or 'nothing'}, not {wanted or 'nothing'}"
    there = {a.account_id: a.holding(before[a.account_id] or 0) for a in case.accounts}
    wanted_now = after(case.legs, there)
    for account_id, side, change in (*case.pending, *case.lapsed):
        if there[account_id].debit_normal == (side == "credit"):
            wanted_now[account_id] -= change
    for account_id, available in now.items():
        if (available or 0) != wanted_now[account_id]:
            yield f"{account_id} has {available}, not {wanted_now[account_id]}"


def _shown(legs: Sequence[Leg]) -> str:
    return ", ".join(f"{account} {side} {n}" for account, side, n in legs) or "nothing"
