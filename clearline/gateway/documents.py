"""What an answer says of a command: one document, however it was learnt.

The first outcome comes as a reply, a repeat is answered from memory, Redis or the journal; the document must be the
same in each case, to the byte. So everything in it follows from the command and from its final journal record, nothing
from the clock, from the gateway that answers, or from the order in which a map was read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from clearline.fields import EPOCH
from ledger.limits import ACCOUNT, PARTNER, PRODUCT
from ledger.names import within
from ledger.reasons import Reason
from processors.finality import is_final, offset_of
from schemas.identity import owner_of, root_of
from schemas.records import Command, JournalRecord, Reply, Transaction
from streams.calls import Place, place_of

Document = dict[str, Any]

_EPOCH_TIME = datetime(1970, 1, 1)
_OF_BALANCES = frozenset({"available", "left", "short", "allowed"})
_OF_USE = frozenset({"used", "remaining"})
_OF_LIMITS = frozenset({"allowed"})
PENDING, SETTLED, APPLIED, REJECTED = "pending", "settled", "applied", "rejected"


class Outcome(NamedTuple):
    """What a final journal record, or the reply that was made from it, says of a command.

    `place`: of the command; `detail`: what a rejection names; `booked_at`: milliseconds since 1970 UTC.
    """

    status: str
    reason: str
    detail: Mapping[str, str]
    place: Place
    sequence: int
    booked_at: int
    product_version: int


def of_reply(r: Reply) -> Outcome | None:
    """The outcome in a reply; None when it is not the key's own: a repeat, or another payload under it."""
    if r.outcome == "repeated" or r.reason == Reason.IDEMPOTENCY_CONFLICT:
        return None
    return Outcome(r.outcome, r.reason, r.detail, place_of(r), r.sequence, r.booked_at, r.product_version)


def of_record(r: JournalRecord) -> Outcome | None:
    """The outcome in a journal record; None when it is not the last word: a repeat, another payload under the key, or a
    transaction that goes on between partitions."""
    if r.outcome == "repeated" or r.reason == Reason.IDEMPOTENCY_CONFLICT or not is_final(r):
        return None
    place = Place(r.source_partition, offset_of(r))
    return Outcome(r.outcome, r.reason, r.detail, place, r.sequence, r.booked_at, r.product_version)


def document(command: Command, id_hex: str, place: Place | None, outcome: Outcome | None) -> Document:
    """A command's document. Without an outcome it is pending, at `place` if that is known."""
    return {
        "id": id_hex,
        "partner_id": command.partner_id,
        "idempotency_key": command.idempotency_key,
        "status": outcome.status if outcome is not None else PENDING,
        **(_asked(command, outcome) if isinstance(command, Transaction) else _control(command)),
        **_came_to(id_hex, place, outcome),
    }


def document_of_record(r: JournalRecord) -> Document:
    """The same of a command that the log does not keep any more. What the journal does not have is null: an amount
    that cannot be told from the postings, and the currency of what moved nothing."""
    outcome = of_record(r)
    place = outcome.place if outcome is not None else Place(r.source_partition, r.source_offset)
    id_hex = r.command_id.hex()
    amount, currency = _moved(r)
    asked: Document = {"command": r.command, "subject": r.subject_id}
    if r.command == "Transaction":
        asked = {
            "product": r.product,
            "product_version": r.product_version or None,
            "operation": r.operation,
            "amount": amount,
            "currency": currency,
            "value_date": r.changes.get("late_for") or iso_day(r.value_date),
            "reference": r.reference,
        }
    return {
        "id": id_hex,
        "partner_id": r.partner_id,
        "idempotency_key": r.idempotency_key,
        "status": outcome.status if outcome is not None else PENDING,
        **asked,
        **_came_to(id_hex, place, outcome),
    }


def _asked(t: Transaction, outcome: Outcome | None) -> Document:
    return {
        "product": t.product,
        "product_version": (outcome.product_version or None) if outcome is not None else None,
        "operation": t.operation,
        "amount": t.amount or None,
        "currency": t.currency,
        "value_date": iso_day(t.value_date),
        "reference": t.reference,
    }


def _control(command: Command) -> Document:
    return {"command": type(command).__name__, "subject": subject_of(command)}


def _came_to(id_hex: str, place: Place | None, outcome: Outcome | None) -> Document:
    at = outcome.place if outcome is not None else place
    self_ = f"/v1/transactions/{id_hex}"
    return {
        "booked_at": iso_time(outcome.booked_at) if outcome is not None else None,
        "position": {
            "partition": at.partition,
            "offset": at.offset,
            "sequence": outcome.sequence if outcome is not None else None,
        }
        if at is not None
        else None,
        "reason": (outcome.reason or None) if outcome is not None else None,
        "links": {"self": self_, "explain": f"{self_}/explain"},
    }


def _moved(r: JournalRecord) -> tuple[int | None, str | None]:
    """Amount and currency as far as the postings tell them: of two legs without a product they are what was asked."""
    legs: list[tuple[int, str]] = [(p.amount, p.currency) for p in r.postings]
    if not legs:
        legs = [(p.change, p.currency) for p in r.pending if p.hold_id == r.command_id and p.change > 0]
    currencies = {currency for _, currency in legs}
    currency = currencies.pop() if len(currencies) == 1 else None
    plain = len(legs) == 2 and legs[0] == legs[1] and not r.product_version
    return (legs[0][0] if plain and r.operation in ("transfer", "hold") else None), currency


def subject_of(command: Command) -> str:
    """What a control command changes: an account, a partner, a product; empty for none."""
    for name in ("account_id", "subject_id", "product"):
        found = getattr(command, name, None)
        if found:
            return str(found)
    return ""


def told(detail: Mapping[str, str], partner_id: str) -> Mapping[str, str]:
    """What a rejection names, as whoever asked may read it: of an account or a partner that is neither its own nor
    below it not how much is there, nor what its limits are and have taken; of a product's limit not what the whole
    tree has used. The journal has all of it. Nothing here depends on who reads, so every answer is the same."""
    hidden = not_told(detail, lambda owner: within(owner, partner_id), partner_id == root_of(partner_id))
    return {k: v for k, v in detail.items() if k not in hidden} if hidden else detail


def not_told(detail: Mapping[str, str], sees: Callable[[str], bool], is_root: bool) -> frozenset[str]:
    """The names of a detail that are not for a reader. `sees`: whether a partner is he or below him; `is_root`: whether
    he is told what the whole tree has used."""
    account, level, subject = detail.get("account", ""), detail.get("level", ""), detail.get("subject", "")
    if account:
        return frozenset() if sees(owner_of(account)) else _OF_BALANCES
    if level == PRODUCT:
        return frozenset() if is_root else _OF_USE
    if level in (ACCOUNT, PARTNER) and subject and not sees(owner_of(subject)):
        return _OF_USE | _OF_LIMITS
    return frozenset()


def sentence(reason: str, detail: Mapping[str, str]) -> str:
    """One sentence that names what a rejection names, the field and its rule first."""
    field, rule = detail.get("field", ""), detail.get("rule", "")
    head = f"{field}: {rule}" if field and rule else field or rule
    rest = ", ".join(f"{k} {v}" for k, v in sorted(detail.items()) if k not in ("field", "rule"))
    named = "; ".join(part for part in (head, rest) if part)
    return f"{reason}: {named}" if named else ""


def iso_day(days: int) -> str:
    """A day as 2026-11-22; `days` since 1970-01-01."""
    try:
        return (EPOCH + timedelta(days=days)).isoformat()
    except OverflowError:
        return date.max.isoformat()


def iso_time(ms: int) -> str:
    """A time as 2026-11-22T09:00:00.123Z; `ms` since 1970 UTC."""
    return (_EPOCH_TIME + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds") + "Z"
