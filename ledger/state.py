"""The state of one partition, and drafts of it: a batch changes a draft, and only a committed draft is merged.

A Kafka transaction can fail at its last step. Because nothing of a batch is written into the base state before the
commit returned, an abort drops the draft and there is nothing to undo. A draft may stand on another draft whose commit
is still under way; the drafts are merged in the order in which they were made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from ledger.accounts import Account
from schemas.records import PartitionState, PartnerState

ZERO_CHAIN = bytes(32)


class Partner:
    """One partner of the tree. `state`: live or suspended; `offset`: of the last command that changed it."""

    __slots__ = ("partner_id", "name", "state", "offset")

    def __init__(self, partner_id: str, name: str, state: str, offset: int) -> None:
        self.partner_id = partner_id
        self.name = name
        self.state = state
        self.offset = offset

    def copy(self) -> Partner:
        return Partner(self.partner_id, self.name, self.state, self.offset)

    def record(self) -> PartnerState:
        return PartnerState(self.partner_id, self.name, self.state, self.offset)


class Head:
    """Where a partition stands: the next offset, the last sequence, the chain's head, and what was counted so far."""

    __slots__ = (
        "next_offset", "sequence", "chain", "event_time",
        "received", "settled", "rejected", "repeated", "applied", "dead",
    )  # fmt: skip

    def __init__(self) -> None:
        self.next_offset = self.sequence = self.event_time = 0
        self.chain = ZERO_CHAIN
        self.received = self.settled = self.rejected = self.repeated = self.applied = self.dead = 0

    def record(self) -> PartitionState:
        return PartitionState(
            self.next_offset, self.sequence, self.chain, self.event_time,
            self.received, self.settled, self.rejected, self.repeated, self.applied, self.dead,
        )  # fmt: skip

    @classmethod
    def from_record(cls, r: PartitionState) -> Head:
        h = cls()
        h.next_offset, h.sequence, h.chain, h.event_time = r.next_offset, r.sequence, r.chain, r.event_time
        h.received, h.settled, h.rejected = r.received, r.settled, r.rejected
        h.repeated, h.applied, h.dead = r.repeated, r.applied, r.dead
        return h

    def copy(self) -> Head:
        return Head.from_record(self.record())


class Copyable(Protocol):
    def copy(self) -> Copyable: ...


V = TypeVar("V", bound=Copyable)


class Overlay(dict[str, V]):
    """A dict that stands on others: a value is copied up when it is first asked for, so those below never change."""

    __slots__ = ("below",)

    def __init__(self, below: tuple[Mapping[str, V], ...]) -> None:
        self.below = below

    def __missing__(self, key: str) -> V:
        for lower in self.below:
            found = lower.get(key)
            if found is not None:
                own = self[key] = found.copy()  # type: ignore[assignment]
                return own  # type: ignore[return-value]
        raise KeyError(key)

    def find(self, key: str) -> V | None:
        """The value, copied up, or None."""
        try:
            return self[key]
        except KeyError:
            return None


class PartitionBase:
    """Committed state of one partition."""

    __slots__ = ("accounts", "head", "partners")

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.partners: dict[str, Partner] = {}
        self.head = Head()


class Draft:
    """Changes of one batch to one partition, on top of the base and of drafts that are not merged yet (newest first).

    `keys` holds the idempotency keys that this batch may meet: those found in the index, and those it binds itself.
    """

    __slots__ = ("accounts", "base", "head", "keys", "partners", "start")

    def __init__(self, base: PartitionBase, under: tuple[Draft, ...] = ()) -> None:
        self.base = base
        self.accounts: Overlay[Account] = Overlay((*(d.accounts for d in under), base.accounts))
        self.partners: Overlay[Partner] = Overlay((*(d.partners for d in under), base.partners))
        self.head: Head = (under[0].head if under else base.head).copy()
        self.start = self.head.next_offset
        self.keys: dict[bytes, tuple[bytes, int]] = {}

    def changed_accounts(self) -> list[Account]:
        """Accounts that this batch changed (not those it only looked at)."""
        return [a for a in self.accounts.values() if a.offset >= self.start]

    def changed_partners(self) -> list[Partner]:
        """Partners that this batch changed."""
        return [p for p in self.partners.values() if p.offset >= self.start]

    def merge(self) -> None:
        """Makes the draft the committed state. Call it only after the commit returned, oldest draft first."""
        for a in self.changed_accounts():
            self.base.accounts[a.account_id] = a
        for p in self.changed_partners():
            self.base.partners[p.partner_id] = p
        self.base.head = self.head
