"""Who wants to be told: the verified subscriptions of some partitions, arranged by whom an event concerns.

Pure, like `events` and `alerts`: these three decide what is sent, and read neither a clock nor a topic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from clearline.gateway.documents import iso_time
from ledger.names import within
from schemas.identity import BANK, owner_of, root_of
from schemas.records import Subscription, Want

SETTLED, REJECTED = "transaction.settled", "transaction.rejected"
EXPIRED, EXPIRING = "hold.expired", "hold.expiring"
BELOW, ABOVE = "balance.below", "balance.above"
LIMIT, QUIET, VERIFICATION = "limit.reached", "day.quiet", "webhook.verification"
TYPES = (SETTLED, REJECTED, EXPIRED, EXPIRING, BELOW, ABOVE, LIMIT, QUIET)

GRACE_MS = 5_000  # clocks of gateway and broker differ by less


class Event(NamedTuple):
    """What one subscription is told. `event_id`: its webhook-id; `ordering`: the account or partner it is about;
    `sequence`: of the journal record that gave it, 0 for none."""

    event_id: str
    subscription_id: str
    type: str
    ordering: str
    body: bytes
    sequence: int


class Interest:
    """Subscriptions that get events, by partner and by account. Others are left out when it is made."""

    def __init__(self, subscriptions: Iterable[Subscription]) -> None:
        self.subscriptions = {s.subscription_id: s for s in subscriptions if s.state == "verified"}
        self._by_partner: dict[str, list[Subscription]] = {}
        self.balances: dict[str, list[tuple[Subscription, Want]]] = {}
        self._wants: dict[str, dict[str, list[Want]]] = {}
        for s in self.subscriptions.values():
            self._by_partner.setdefault(s.partner_id, []).append(s)
            wants = self._wants[s.subscription_id] = {}
            for w in s.wants:
                wants.setdefault(w.type, []).append(w)
                if w.account_id and within(owner_of(w.account_id), s.partner_id):
                    self.balances.setdefault(w.account_id, []).append((s, w))

    def __bool__(self) -> bool:
        return bool(self.subscriptions)

    def wants(self, s: Subscription, type: str) -> list[Want]:
        """What a subscription wants of a type; empty when it does not."""
        return self._wants[s.subscription_id].get(type, [])

    def above(self, partner_id: str, type: str, at_ms: int) -> Iterator[tuple[Subscription, Want]]:
        """Subscriptions of a partner and of those above it that want a type, as of a time, milliseconds UTC."""
        if root_of(partner_id) == BANK:
            return
        while partner_id:
            for s in self._by_partner.get(partner_id, ()):
                if at_ms >= since(s):
                    for w in self.wants(s, type):
                        yield s, w
            partner_id = partner_id.rpartition("/")[0]


def since(s: Subscription) -> int:
    """From when on what is booked gives events, milliseconds UTC."""
    return s.verified_at - GRACE_MS


def make(
    s: Subscription, type: str, ordering: str, told: str, at_ms: int, data: dict[str, Any], sequence: int = 0
) -> Event:
    """An event. `told`: what makes it this one among all of its type for this subscription."""
    name = blake2b(f"{s.subscription_id}\0{type}\0{told}".encode(), digest_size=16).hexdigest()
    body = orjson.dumps({"type": type, "timestamp": iso_time(at_ms), "data": data})
    return Event(name, s.subscription_id, type, ordering, body, sequence)
