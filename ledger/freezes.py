"""What may not move while a partner, a product or the whole world is frozen; an account's freeze is among its rules.

The page is docs/operations.md, "Freezes". A freeze keeps money where it is: whatever would post, set aside or begin is
refused, and what gives up, lapses or was promised to another partition goes on, so that nothing is stuck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.reasons import Reason, Rejection
from schemas.identity import BANK

if TYPE_CHECKING:  # the names alone are needed by whoever freezes, and the rest would be a part of his second
    from ledger.partners import Standing
    from ledger.state import Draft
    from schemas.records import Transaction

ACCOUNT, PARTNER, PRODUCT, WORLD = LEVELS = ("account", "partner", "product", "world")
THE_WORLD = "world"  # the subject of its freeze: a ledger does not know what its world is called
UNSTOPPED = frozenset({"void", "adjustment"})  # kinds of transactions that only free money, or are the bank's own hand


def row_key(level: str, subject: str) -> str:
    """The key in `ledger.state` of what is frozen."""
    return f"f:{level}:{subject}"


def check_transaction(draft: Draft, standing: Standing, t: Transaction, kind: str) -> None:
    """Raises Rejection when a freeze of the world, of whoever asks, or of the product stands against it."""
    if not draft.freezes or kind in UNSTOPPED:
        return
    check_world(draft)
    check_partner(standing, t.partner_id)
    check_product(draft, t.product)


def check_asker(draft: Draft, standing: Standing, partner_id: str) -> None:
    """Raises Rejection when a partner may give no command. The bank may, whatever is frozen."""
    if draft.freezes and partner_id != BANK:
        check_world(draft)
        check_partner(standing, partner_id)


def check_world(draft: Draft) -> None:
    if draft.is_frozen(WORLD, THE_WORLD):
        raise Rejection(Reason.WORLD_FROZEN, level=WORLD)


def check_partner(standing: Standing, partner_id: str, field: str = "partner_id") -> None:
    found = standing.frozen_by(partner_id)
    if found:
        raise Rejection(Reason.PARTNER_FROZEN, field=field, partner=found)


def check_product(draft: Draft, product: str) -> None:
    if draft.is_frozen(PRODUCT, product):
        raise Rejection(Reason.PRODUCT_FROZEN, field="product", product=product[:64])
