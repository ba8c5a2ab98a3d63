"""Which journal records are the last word on a command: for the settlement, and for those who only read its journal."""

from __future__ import annotations

from ledger.reasons import Reason
from schemas.records import JournalRecord


def is_final(r: JournalRecord) -> bool:
    """Whether this outcome is what a caller waits for: not a step of a transaction that goes on elsewhere."""
    return r.command != "Crossing" and not (r.command == "Transaction" and r.outcome == "applied")


def speaks_for_key(outcome: str, reason: str) -> bool:
    """Whether an outcome is the transaction's own: a repeat only points to it, and another payload under its key says
    nothing of it."""
    return outcome == "settled" or (outcome == "rejected" and reason != Reason.IDEMPOTENCY_CONFLICT)


def decides(r: JournalRecord) -> bool:
    """Whether it is the last word on a transaction that crossed partitions, whose command stood at `first_offset`."""
    return r.command == "Transaction" and r.first_offset >= 0 and speaks_for_key(r.outcome, r.reason)


def offset_of(r: JournalRecord) -> int:
    """Where the command stands that a final record is the outcome of: in its own partition, the journal's."""
    return r.first_offset if decides(r) else r.source_offset
