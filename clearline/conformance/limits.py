"""Cases of a product's limits: each one at its boundary, and one above.

What an earlier part of the window took is put into the state as it would stand there, so that a limit of a million a
day is tried as quickly as one of ten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

from clearline.conformance.built_in import built_in
from clearline.conformance.cases import Case, Stage, askers, currencies
from clearline.conformance.steps import rich
from clearline.conformance.world import DAY, START_MS
from schemas.records import UsageState, Used

_COUNTED = ("transfer", "hold", "exchange")


def limit_cases(document: Mapping[str, Any]) -> Iterator[Case]:
    """Each limit of the document, on the first operation that reaches it."""
    for i, limit in enumerate(document.get("limits", [])):
        yield from _cases(document, limit, f"limits[{i}]")
    yield from _unlisted(document)


def _stages(document: Mapping[str, Any], currency: str) -> Iterator[Stage]:
    for name, o in document["operations"].items():
        if o["kind"] in _COUNTED:
            yield Stage(document, name, askers(document, name)[0], currency)


def _case(stage: Stage, name: str, amount: int, names: Mapping[str, int]) -> Case:
    if stage.kind == "transfer":
        return stage.case(name, amount, names)
    return replace(built_in(stage, amount), name=name)


def _cases(document: Mapping[str, Any], limit: Mapping[str, Any], at: str) -> Iterator[Case]:
    currency = limit.get("currency") or currencies(document)[0]
    what = f"{at}, {limit['window']}"
    for stage in _stages(document, currency):
        sample = stage.sample()
        if sample is None:
            continue
        if limit["window"] == "transaction":
            if not stage.uses_amount():
                continue
            yield from _of_one(stage, what, limit["amount_max"], sample[1])
            return
        good = _case(stage, "", *sample)
        gross = sample[0] or sum(n for _, side, n in good.legs if side == "debit")
        yield from _of_a_window(document, stage, good, what, limit, gross)
        return


def _of_one(stage: Stage, what: str, most: int, names: Mapping[str, int]) -> Iterator[Case]:
    """The amount of one transaction."""
    enough = rich(stage, most + 1)
    good = _case(enough, f"{what}: exactly the amount", most, names)
    yield good
    above = _case(enough, "", most + 1, names)
    yield above.refused(f"{what}: one unit more", "limit_exceeded" if good.outcome == "settled" else good.reason)


def _of_a_window(
    document: Mapping[str, Any], stage: Stage, good: Case, what: str, limit: Mapping[str, Any], gross: int
) -> Iterator[Case]:
    count, amount = limit.get("count_max"), limit.get("amount_max")

    def used(number: int, units: int) -> dict[str, UsageState]:
        subject = f"{stage.asker.partition('/')[0]} {document['product']}"
        row = Used(limit["window"], limit.get("currency", ""), _window(limit["window"]), number, units)
        return {f"u:product:{subject}": UsageState("product", subject, (row,), 0)}

    if count is not None:
        yield replace(good, name=f"{what}: the last of {count}", rows=used(count - 1, 0))
        yield good.refused(f"{what}: one more than {count}", "limit_exceeded", rows=used(count, 0))
    if amount is not None and amount >= gross:
        yield replace(good, name=f"{what}: exactly the amount", rows=used(0, amount - gross))
        yield good.refused(f"{what}: one unit more", "limit_exceeded", rows=used(0, amount - gross + 1))


def _window(window: str) -> int:
    """The number of the window in which a case falls: the world has no calendar, so UTC and every day open."""
    day = date(1970, 1, 1) + timedelta(days=DAY)
    minute = START_MS // 60_000
    return {"minute": minute, "hour": minute // 60, "day": DAY, "month": (day.year - 1970) * 12 + day.month - 1}[window]


def _unlisted(document: Mapping[str, Any]) -> Iterator[Case]:
    """A currency of the product that its limits leave out cannot be used at all."""
    listed = {x["currency"] for x in document.get("limits", []) if x.get("currency")}
    for currency in currencies(document) if listed else ():
        if currency in listed:
            continue
        for stage in _stages(document, currency):
            if stage.uses_amount() and stage.steps and not stage.names() and not stage.parts():
                good = stage.case(f"limits: {currency} is not among them", 100_000, {})
                if good.outcome == "settled":
                    yield good.refused(good.name, "limit_exceeded")
                    break
