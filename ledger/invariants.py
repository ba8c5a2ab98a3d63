"""What must be true after every batch, looked at once more before it is committed: a wrong ledger must not go on.

The checks ask nothing of the code that settled; they read what it made. A breach stops the partition, with nothing of
the batch committed, and leaves the others running.
"""

from __future__ import annotations

from collections.abc import Iterable

from ledger.accounts import Account
from ledger.state import Draft
from schemas.errors import InvariantError
from schemas.records import JournalRecord


def check_records(records: Iterable[JournalRecord | None]) -> None:
    """Debits equal credits in every entry and currency. Raises InvariantError that names the command."""
    for r in records:
        if r is None or not r.postings:
            continue
        legs = r.postings
        a, b = legs[0], legs[1]
        if len(legs) == 2 and a.amount == b.amount and a.currency == b.currency and a.side != b.side:
            continue
        net: dict[str, int] = {}
        for leg in legs:
            net[leg.currency] = net.get(leg.currency, 0) + (leg.amount if leg.side == "debit" else -leg.amount)
        if any(net.values()):
            raise InvariantError(
                f"{r.partner_id} {r.idempotency_key} at offset {r.source_offset} does not balance: {net}"
            )


def check_accounts(draft: Draft) -> None:
    """No counter below zero or back from where it was, and no limit broken by what this batch took.

    Raises InvariantError that names the account.
    """
    for a in draft.changed_accounts():
        if a.debits_pending < 0 or a.credits_pending < 0:
            raise InvariantError(f"account {a.account_id} has {a.debits_pending} and {a.credits_pending} pending")
        before = _before(draft, a.account_id)
        debits, credits = (before.debits_posted, before.credits_posted) if before is not None else (0, 0)
        if a.debits_posted < debits or a.credits_posted < credits:
            raise InvariantError(f"account {a.account_id}: a posted counter went back")
        limit = a.min_available
        if limit is None or a.available() >= limit:
            continue
        # A limit that was set above the balance is not broken by it; what was taken since would be. So it is with an
        # account that was just opened, empty, with a limit above zero.
        had = before.available() if before is not None else 0
        if (before is None or before.min_available == limit) and a.available() < had:
            raise InvariantError(f"account {a.account_id} has {a.available()} available, its limit is {limit}")


def _before(draft: Draft, account_id: str) -> Account | None:
    """The account as it was before this batch."""
    for lower in draft.accounts.below:
        found = lower.get(account_id)
        if found is not None:
            return found
    return None
