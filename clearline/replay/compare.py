"""Two outcomes of one command, history's and the shadow's: are they the same, and what is the difference worth.

What is compared is what a command did: outcome, reason, version of the product, what was posted and set aside, day, and
what a control command changed. Counters after a posting are no outcome: they differ for every later entry of an account
on which one differs. Nor are details of a refusal, such as how much was left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ledger.days import iso_date
from schemas.codec import CHAIN_BYTES
from schemas.records import JournalRecord

TRANSACTION, STEP, CONTROL = "transaction", "step", "control"
DEAD = "dead"

Delta = list[int]  # debits posted, credits posted, debits pending, credits pending; minor units, shadow less history


def same_bytes(old: bytes | None, new: bytes | None) -> bool:
    """Whether two records in wire format say the same, the chain aside, which says the same of all before."""
    if old is None or new is None:
        return old is new
    return old[:-CHAIN_BYTES] == new[:-CHAIN_BYTES]


def did(r: JournalRecord | None) -> tuple[Any, ...]:
    """What a command did, to be compared; None is a dead letter."""
    if r is None:
        return (DEAD,)
    return (
        r.outcome, r.reason, r.product_version, r.first_offset, r.value_date, r.changes,
        tuple((p.account_id, p.side, p.amount, p.currency) for p in r.postings),
        tuple((p.hold_id, p.account_id, p.side, p.change, p.currency, p.expired) for p in r.pending),
    )  # fmt: skip


def kind_of(r: JournalRecord) -> str:
    """What a record is the outcome of."""
    return {"Transaction": TRANSACTION, "Crossing": STEP}.get(r.command, CONTROL)


def shown(r: JournalRecord | None) -> dict[str, Any]:
    """An outcome for a diff: plain values, amounts in minor units."""
    if r is None:
        return {"outcome": DEAD}
    out: dict[str, Any] = {"outcome": r.outcome}
    if r.reason:
        out |= {"reason": r.reason, "detail": dict(r.detail)}
    if r.product_version:
        out["product_version"] = r.product_version
    if r.first_offset >= 0:
        out["first_offset"] = r.first_offset
    if r.postings:
        out["postings"] = [
            {"account_id": p.account_id, "side": p.side, "amount": p.amount, "currency": p.currency} for p in r.postings
        ]
    if r.pending:
        out["pending"] = [
            {
                "hold": p.hold_id.hex(), "account_id": p.account_id, "side": p.side, "change": p.change,
                "currency": p.currency, **({"expired": True} if p.expired else {}),
            }
            for p in r.pending
        ]  # fmt: skip
    if r.changes:
        out["changes"] = dict(r.changes)
    if r.postings or r.command == "Transaction":
        out["value_date"] = iso_date(r.value_date)
    return out


def change_of(old: JournalRecord | None, new: JournalRecord | None, why: str) -> dict[str, Any]:
    """One line of a diff. `why`: direct, consequent or drift."""
    r = old if old is not None else new
    assert r is not None
    named = r if r.command != "Crossing" else None
    transaction = r.command_id.hex() if named else r.changes.get("transaction", "")
    return {
        "partition": r.source_partition, "offset": r.source_offset, "booked_at": r.booked_at, "kind": kind_of(r),
        "command": r.command, "id": transaction, "partner_id": r.partner_id, "key": r.idempotency_key,
        "product": r.product, "operation": r.operation, "why": why, "old": shown(old), "new": shown(new),
    }  # fmt: skip


@dataclass(slots=True)
class Deltas:
    """What the shadow moved and history did not, by account and currency."""

    sums: dict[tuple[str, str], Delta] = field(default_factory=dict)

    def add(self, r: JournalRecord | None, sign: int) -> None:
        """Counts what a record moved; -1 for what history did."""
        if r is None:
            return
        for p in r.postings:
            self._of(p.account_id, p.currency)[p.side == "credit"] += sign * p.amount
        for q in r.pending:
            self._of(q.account_id, q.currency)[2 + (q.side == "credit")] += sign * q.change

    def _of(self, account_id: str, currency: str) -> Delta:
        return self.sums.setdefault((account_id, currency), [0, 0, 0, 0])

    def merge(self, other: Deltas) -> None:
        """Adds those of another partition: the bank's accounts have a shard in each."""
        for (account_id, currency), delta in other.sums.items():
            own = self._of(account_id, currency)
            for i, amount in enumerate(delta):
                own[i] += amount

    def rows(self) -> list[dict[str, Any]]:
        """Those that are not nothing, by account and currency."""
        names = ("debits", "credits", "pending_debits", "pending_credits")
        return [
            {"account_id": a, "currency": c, **dict(zip(names, delta, strict=True))}
            for (a, c), delta in sorted(self.sums.items())
            if any(delta)
        ]
