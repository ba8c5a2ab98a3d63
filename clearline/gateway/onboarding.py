"""How far a partner has come: which checks of the inspection a gateway has seen to pass, and who asked for go-live.

Nobody ticks a list: a check is passed when a gateway saw it itself, in whatever the partner did. One row per partner
in the table `access` (`o:PARTNER`) keeps when it was seen first. When two gateways see two checks at one moment, one of
them may be lost; it is noted when it is seen the next time.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import msgspec
import structlog

from clearline.gateway.documents import REJECTED, SETTLED, Document, iso_time
from clearline.gateway.parts import Parts, Rows
from schemas.errors import PartUnavailableError
from schemas.records import Onboarding, PassedCheck, Subscription

log = structlog.get_logger()

PREFIX = "o:"
SETTLED_ONE, SIGNED, RETRIED, REFUNDED, REFUSED, NOTIFIED = (
    "transaction_settled", "signature_verified", "idempotent_retry", "refund_settled", "rejection_seen",
    "webhook_verified",
)  # fmt: skip
CHECKS: dict[str, str] = {
    SETTLED_ONE: "Post a transaction with `Prefer: wait=10`, and see it settled.",
    SIGNED: "Sign a request by RFC 9421 with the Ed25519 key that is registered with your key (docs/gateway.md).",
    RETRIED: "Send a write again with the same Idempotency-Key and body: the answer says `Idempotent-Replayed: true`.",
    REFUNDED: "Refund a settled transaction: `POST /v1/transactions/{id}/refund`.",
    REFUSED: "See a transaction rejected, and what the problem says: an amount of 770000036 in a sandbox does it.",
    NOTIFIED: "Subscribe with `POST /v1/webhooks`, then `POST /v1/webhooks/{id}/verify` (docs/webhooks.md).",
}


class _Notes(NamedTuple):
    """What this gateway is about to write down: rows are written one after the other."""

    lock: asyncio.Lock
    under_way: set[tuple[str, str]]
    tasks: set[asyncio.Task[None]]


def row_of(access: Rows, partner_id: str) -> Onboarding:
    """A partner's row, or an empty one."""
    row = access.get(PREFIX + partner_id)
    return row if isinstance(row, Onboarding) else Onboarding(partner_id, ())


def missing(row: Onboarding) -> list[str]:
    """Checks that were not seen to pass, in their order."""
    passed = {c.name for c in row.checks}
    return [name for name in CHECKS if name not in passed]


def saw(parts: Parts, partner_id: str, check: str) -> None:
    """A check was seen to pass. Costs a look into memory; the first time a row is written, in the background."""
    row = parts.access.get(PREFIX + partner_id)
    if isinstance(row, Onboarding) and any(c.name == check for c in row.checks):
        return
    notes = _notes(parts)
    if (partner_id, check) in notes.under_way:
        return
    notes.under_way.add((partner_id, check))
    task = asyncio.get_running_loop().create_task(_note(parts, notes, partner_id, check, parts.now_ms()))
    notes.tasks.add(task)
    task.add_done_callback(notes.tasks.discard)


def saw_outcome(parts: Parts, partner_id: str, document: Document, *, replayed: bool, refund: bool = False) -> None:
    """What the answer to a write, or a look at a transaction, shows of the checks. `refund`: it gives money back."""
    status = document["status"]
    if status == SETTLED:
        saw(parts, partner_id, REFUNDED if refund or document.get("operation") == "refund" else SETTLED_ONE)
    elif status == REJECTED:
        saw(parts, partner_id, REFUSED)
    if replayed:
        saw(parts, partner_id, RETRIED)


async def current(parts: Parts, partner_id: str) -> Onboarding:
    """A partner's row with all that was seen until now, its subscriptions among it. Raises PartUnavailableError."""
    notes = _notes(parts)
    if notes.tasks:
        await asyncio.wait(list(notes.tasks), timeout=5.0)
    row = row_of(parts.access, partner_id)
    if NOTIFIED in missing(row) and _is_notified(parts, partner_id):
        row = await change(parts, partner_id, NOTIFIED)
    return row


async def change(
    parts: Parts, partner_id: str, check: str = "", seen_at_ms: int | None = None, **fields: Any
) -> Onboarding:
    """Adds a check, seen then (None: now), and sets fields. Returns the row as it is. Raises PartUnavailableError."""
    async with _notes(parts).lock:
        row = row_of(parts.access, partner_id)
        new = msgspec.structs.replace(row, **fields)
        if check and check in missing(row):
            at_ms = parts.now_ms() if seen_at_ms is None else seen_at_ms
            new = msgspec.structs.replace(new, checks=(*new.checks, PassedCheck(check, at_ms)))
        if new != row:
            await asyncio.to_thread(parts.access.put, PREFIX + partner_id, new)
    return new


def document(row: Onboarding, state: str | None) -> Document:
    """A row for whoever looks. `state`: of the partner in this world, None when it is not known."""
    passed = {c.name: c.passed_at for c in row.checks}
    left = missing(row)
    return {
        "partner_id": row.partner_id,
        "partner_state": state,
        "checks": [
            {"check": name, "passed_at": iso_time(passed[name]) if name in passed else None, "do": what}
            for name, what in CHECKS.items()
        ],
        "missing": left,
        "go_live": {
            "state": "approved" if row.approved_at else "requested" if row.requested_at else "open",
            "requested_by": row.requested_by or None,
            "requested_at": iso_time(row.requested_at) if row.requested_at else None,
            "note": row.note or None,
            "approved_by": row.approved_by or None,
            "approved_at": iso_time(row.approved_at) if row.approved_at else None,
            "live_as": row.live_as or None,
        },
    }


async def _note(parts: Parts, notes: _Notes, partner_id: str, check: str, seen_at_ms: int) -> None:
    try:
        await change(parts, partner_id, check, seen_at_ms)
    except PartUnavailableError as e:  # it will be seen again
        log.warning("check_not_noted", partner=partner_id, check=check, error=str(e))
    finally:
        notes.under_way.discard((partner_id, check))


def _notes(parts: Parts) -> _Notes:
    notes = parts.memory.get("onboarding")
    if not isinstance(notes, _Notes):
        notes = parts.memory["onboarding"] = _Notes(asyncio.Lock(), set(), set())
    return notes


def _is_notified(parts: Parts, partner_id: str) -> bool:
    return any(
        isinstance(s, Subscription) and s.partner_id == partner_id and s.verified_at
        for _, s in parts.access.items("s:")
    )
