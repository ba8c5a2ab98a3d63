"""What every control command has in common: who may give it, and what the journal says that it set."""

from __future__ import annotations

from typing import Any

from ledger.reasons import Reason, Rejection
from schemas.identity import BANK

Changes = tuple[str, dict[str, str]]  # the subject, and what was set


def audit(command: Any, **changes: object) -> dict[str, str]:
    """What a command set, as text, with who asked for it and why."""
    out = {k: "" if v is None else str(v).lower() if isinstance(v, bool) else str(v) for k, v in changes.items()}
    if command.requested_by:
        out["requested_by"] = command.requested_by
    if command.note:
        out["note"] = command.note
    return out


def bank_only(command: Any) -> None:
    """Raises Rejection unless the bank's own staff asks."""
    if command.partner_id != BANK:
        raise Rejection(Reason.NOT_PERMITTED, field="partner_id", partner=command.partner_id[:256])
