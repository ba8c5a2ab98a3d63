"""What a partner's whole tree has: the counters of its accounts summed up, at each level of the tree."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.accounts import Account

Sums = tuple[int, int, int, int]  # debits posted, credits posted, debits pending, credits pending, in minor units
_ZERO: Sums = (0, 0, 0, 0)


def rollups(accounts: Iterable[Account]) -> dict[str, dict[str, Sums]]:
    """Sums by partner path and currency. A partner's are those of its own accounts and of all partners below it.

    Only partners with an account, and those above them, are there; `bank` is one of them.
    """
    out: dict[str, dict[str, Sums]] = {}
    for a in accounts:
        own = a.debits_posted, a.credits_posted, a.debits_pending, a.credits_pending
        partner = a.owner
        while partner:
            sums = out.setdefault(partner, {})
            dp, cp, dq, cq = sums.get(a.currency, _ZERO)
            sums[a.currency] = dp + own[0], cp + own[1], dq + own[2], cq + own[3]
            partner = partner.rpartition("/")[0]
    return out
