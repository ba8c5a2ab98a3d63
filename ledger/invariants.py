"""What must be true after every batch, looked at once more before it is committed: a wrong ledger must not go on.

The checks ask nothing of the code that settled; they read what it made. A breach stops the partition, with nothing of
the batch committed, and leaves the others running.
"""

from __future__ import annotations

from collections.abc import Iterable

from ledger.accounts import Account
from ledger.limits import PRODUCT, limits_of
from ledger.products import compiled
from ledger.state import Draft
from schemas.errors import InvariantError
from schemas.records import JournalRecord, Limit, Record, UsageState


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
    """No counter below zero or back from where it was, and no floor broken by what this batch took.

    Raises InvariantError that names the account.
    """
    for a in draft.changed_accounts():
        if a.debits_pending < 0 or a.credits_pending < 0:
            raise InvariantError(f"account {a.account_id} has {a.debits_pending} and {a.credits_pending} pending")
        before = _before(draft, a.account_id)
        debits, credits = (before.debits_posted, before.credits_posted) if before is not None else (0, 0)
        if a.debits_posted < debits or a.credits_posted < credits:
            raise InvariantError(f"account {a.account_id}: a posted counter went back")
        floor = a.floor
        if floor is None or a.available() >= floor or a.account_id in draft.floors_set:
            continue
        # A limit that was set above the balance is not broken by it; what was taken since would be. So it is with an
        # account that was just opened, empty, with a limit above zero.
        had = before.available() if before is not None else 0
        if a.available() < had:
            raise InvariantError(f"account {a.account_id} has {a.available()} available, its limit is {floor}")


def check_limits(draft: Draft) -> None:
    """No window took more than its limit by what this batch counted. Raises InvariantError that names the subject."""
    for key, row in draft.rows.items():
        if not isinstance(row, UsageState):
            continue
        limits = _limits_all_along(draft, row)
        earlier = _row_before(draft, key)
        known = earlier.used if isinstance(earlier, UsageState) else ()
        for used in row.used:
            if used in known:
                continue
            for limit in limits:
                if (limit.window, limit.currency) != (used.window, used.currency):
                    continue
                if _passes(used.count, limit.count_max) or _passes(used.amount, limit.amount_max):
                    raise InvariantError(f"{row.level} {row.subject_id} took {used}, its limit is {limit}")


def _passes(used: int, allowed: int | None) -> bool:
    return allowed is not None and used > allowed


def _limits_all_along(draft: Draft, row: UsageState) -> tuple[Limit, ...]:
    """The limits that held for all that this batch counted here: not those that it has changed itself."""
    subject = row.subject_id.partition(" ")[2] if row.level == PRODUCT else row.subject_id
    limits = () if f"l:{row.level}:{subject}" in draft.rows else limits_of(draft, row.level, subject)
    versions = draft.versions(subject) if row.level == PRODUCT else ()
    if len(versions) == 1 and subject not in draft.shelf:  # of several, each transaction settles under its own
        limits = (*limits, *compiled(versions[0].document).limits)
    return limits


def _row_before(draft: Draft, key: str) -> Record | None:
    """A row as it was before this batch."""
    for lower in draft.under:
        if key in lower.rows:
            return lower.rows[key]
    return draft.base.rows.get(key)


def _before(draft: Draft, account_id: str) -> Account | None:
    """The account as it was before this batch."""
    for lower in draft.accounts.below:
        found = lower.get(account_id)
        if found is not None:
            return found
    return None
