"""What captures, voids, refunds and reversals point at, and what they post of it; from docs/operations.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from schemas.records import Posting, Transaction
from tests.model.values import Against, Entry, Hold, Leg, Other, against, owner

SWAPPED = {"debit": "credit", "credit": "debit"}


def paid(entry: Entry) -> int:
    """The payment: what was debited, all of it on the first debit leg."""
    return entry.debits()[0].amount


def stands_against(
    t: Transaction, kind: str, found: Hold | Entry | Other | None, *, product: bool
) -> Iterator[Against]:
    """`product`: the operation is a product's, so a refund takes any entry of one debit leg."""
    if found is None:
        yield against("original_unknown")
        return
    if kind in ("capture", "void"):
        if not isinstance(found, Hold) or found.currency != t.currency:
            yield against("original_mismatch")
            return
        if found.state == "expired":
            yield against("hold_expired")
        if found.state == "closed":
            yield against("hold_closed")
        if kind == "capture" and t.amount > found.left:
            yield against("capture_exceeds_hold", remaining=found.left)
        return
    if not isinstance(found, Entry) or found.legs[0].currency != t.currency or found.product != t.product:
        yield against("original_mismatch")
        return
    if kind == "refund":
        if len(found.debits()) != 1 if product else len(found.legs) != 2:
            yield against("original_mismatch")
            return
        left = paid(found) - found.given_back
        if t.amount > left:
            yield against("refund_exceeds_payment", remaining=left)
    elif found.given_back > 0:
        yield against("refund_exceeds_payment")


def legs(
    t: Transaction, kind: str, found: Hold | Entry | Other | None, fees: str, *, product: bool, types: Mapping[str, str]
) -> list[Leg]:
    """What will be posted. `fees`: of a refund, whether they are kept or returned; `types`: of the bank's accounts."""
    if isinstance(found, Hold):
        if kind == "void":
            return []
        return [
            Leg(found.payer, "debit", t.amount, found.currency),
            Leg(found.payee, "credit", t.amount, found.currency),
        ]
    assert isinstance(found, Entry)
    untouchable = set() if t.partner_id == "bank" or not product else {a for a, of in types.items() if of != "income"}
    if kind == "reversal":
        swapped = [Leg(p.account_id, SWAPPED[p.side], p.amount, p.currency) for p in found.legs]
        return [_guarded(leg, untouchable) for leg in swapped]
    payer = found.debits()[0]
    back = Leg(payer.account_id, "credit", t.amount, t.currency)
    if not product:
        return [Leg(found.credits()[0].account_id, "debit", t.amount, t.currency), back]
    partners = [p for p in found.credits() if owner(p.account_id) != "bank"]
    credits = partners + [p for p in found.credits() if owner(p.account_id) == "bank"]
    payee = credits[0].account_id
    if t.partner_id != "bank" and not partners:
        untouchable.add(payee)
    given = [Leg(payee, "debit", t.amount, t.currency)]
    if fees == "return":
        given = _out_of(credits, found.given_back, t.amount)
    return [*(_guarded(leg, untouchable) for leg in given), back]


def _guarded(leg: Leg, untouchable: set[str]) -> Leg:
    """An account of the bank that no partner may take from is like one of a stranger."""
    return leg._replace(rule="caller") if leg.side == "debit" and leg.account in untouchable else leg


def _out_of(credits: list[Posting], before: int, amount: int) -> list[Leg]:
    """What is given back comes out of the credit legs one after the other; `before` of it is gone already."""
    out, start = [], 0
    for p in credits:
        first, last = max(start, before), min(start + p.amount, before + amount)
        if last > first:
            out.append(Leg(p.account_id, "debit", last - first, p.currency))
        start += p.amount
    return out
