"""Control commands: which function each is handled by. Each checks everything, changes the draft, and says what it set.

The bank's own staff (partner `bank`) may give any of them; a partner may open, block and close accounts of its own
subtree, and set limits below itself, as far as its state permits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger import closing, control_accounts, control_acts, control_partners, control_terms, shelf
from ledger.changes import Changes
from schemas.records import (
    AdmitPartner,
    BlockAccount,
    CloseAccount,
    CloseDay,
    OpenAccount,
    OperatorAct,
    PublishProduct,
    SealDay,
    SetAccountLimit,
    SetCalendar,
    SetFreeze,
    SetLimit,
    SetPartnerState,
    Tick,
)

if TYPE_CHECKING:
    from ledger.book import Book


def apply(book: Book, command: Any, offset: int) -> Changes:
    """Applies one control command; returns its subject and what it set, or raises Rejection."""
    result: Changes = _HANDLERS[type(command)](book, command, offset)
    return result


_HANDLERS: dict[type, Any] = {
    OpenAccount: control_accounts.open_account,
    BlockAccount: control_accounts.block_account,
    SetAccountLimit: control_accounts.set_account_limit,
    CloseAccount: control_accounts.close_account,
    AdmitPartner: control_partners.admit_partner,
    SetPartnerState: control_partners.set_partner_state,
    SetLimit: control_terms.set_limit,
    SetCalendar: control_terms.set_calendar,
    CloseDay: closing.close_day,
    SealDay: closing.seal_day,
    Tick: control_terms.tick,
    PublishProduct: shelf.publish,
    SetFreeze: control_acts.set_freeze,
    OperatorAct: control_acts.operator_act,
}
