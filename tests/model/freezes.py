"""What is frozen and what may not be because of it; from docs/operations.md, "Freezes" and "Operators' acts"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from schemas.records import OperatorAct, SetFreeze, Transaction
from tests.model.values import TRANSIT, Against, Leg, against, path
from tests.model.values import owner as owner_of

if TYPE_CHECKING:
    from tests.model.state import State

FREE = ("void", "adjustment")  # kinds that no freeze of world, partner or product is asked about


class Freeze(NamedTuple):
    """Who froze, why, who approved it, and when by event time."""

    by: str
    why: str
    second: str
    since: int


def first_frozen(m: State, partner: str) -> str:
    """The first on the partner's path that is frozen, from the root down; empty when none is."""
    return next((p for p in path(partner) if ("partner", p) in m.freezes), "")


def against_asker(m: State, partner: str) -> Iterator[Against]:
    if ("world", "world") in m.freezes:
        yield against("world_frozen")
    who = first_frozen(m, partner)
    if who:
        yield against("partner_frozen", partner=who)


def against_command(m: State, partner: str) -> Iterator[Against]:
    """Against a control command: the bank may give any."""
    if partner != "bank":
        yield from against_asker(m, partner)


def against_transaction(m: State, t: Transaction, kind: str) -> Iterator[Against]:
    if kind in FREE:
        return
    yield from against_asker(m, t.partner_id)
    yield from against_product(m, t.product)


def against_product(m: State, product: str) -> Iterator[Against]:
    if ("product", product) in m.freezes:
        yield against("product_frozen", product=product)


def against_legs(m: State, asker: str, legs: list[Leg]) -> Iterator[Against]:
    """Against legs on accounts of others."""
    for leg in legs:
        owner = owner_of(leg.account)
        if owner not in (asker, "bank") and first_frozen(m, owner):
            yield against("owner_frozen", account=leg.account, partner=first_frozen(m, owner))


def against_set_freeze(m: State, c: SetFreeze) -> Iterator[Against]:
    if not (0 < len(c.requested_by) < 1025 and 0 < len(c.note) < 1025):
        yield against("field_invalid")
    if c.level not in ("account", "partner", "product", "world"):
        yield against("field_invalid", field="level")
    if c.level == "world" and c.subject_id != "world":
        yield against("field_invalid", field="subject_id")
    if c.approved_by == "" and not c.frozen and c.level in ("partner", "world"):
        yield against("field_invalid", field="approved_by")
    if c.approved_by == c.requested_by or len(c.approved_by) > 1024:
        yield against("field_invalid", field="approved_by")
    if c.level == "account" and c.subject_id.startswith(TRANSIT):
        yield against("account_not_owned")
    known = {"account": set(m.accounts), "partner": set(m.partners), "product": set(m.shelf), "world": {"world"}}
    if c.subject_id not in known.get(c.level, set()):
        yield against(f"{c.level}_unknown")


def against_act(m: State, c: OperatorAct) -> Iterator[Against]:
    if not (0 < len(c.requested_by) < 1025 and 0 < len(c.note) < 1025):
        yield against("field_invalid")
    if not re.fullmatch("[a-z][a-z0-9._-]{0,63}", c.act):
        yield against("field_invalid", field="act")
    if not 1 <= len(c.subject_id) <= 1024:
        yield against("field_invalid", field="subject_id")
    if not re.fullmatch("|[0-9a-f]{64}", c.digest):
        yield against("field_invalid", field="digest")
    if c.approved_by == c.requested_by or len(c.approved_by) > 1024:
        yield against("field_invalid", field="approved_by")


def apply(m: State, c: SetFreeze) -> None:
    subject = (c.level, c.subject_id)
    if c.frozen:
        m.freezes.setdefault(subject, Freeze(c.requested_by, c.note, c.approved_by, m.now))
    else:
        m.freezes.pop(subject, None)
    if c.level == "account":
        m.accounts[c.subject_id] = m.accounts[c.subject_id]._replace(frozen=c.frozen)
