"""The state of one partition, and drafts of it: a batch changes a draft, and only a committed draft is merged.

A Kafka transaction can fail at its last step. Because nothing of a batch is written into the base state before the
commit returned, an abort drops the draft and there is nothing to undo. A draft may stand on another draft whose commit
is still under way; the drafts are merged in the order in which they were made.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Mapping
from heapq import merge as merge_sorted
from typing import Protocol, TypeVar

from ledger.accounts import Account
from ledger.entries import LAPSED, WINDOW_MS, EntryLog, Moved, Settled
from ledger.holds import Hold
from schemas.records import AccountState, CrossingState, HoldState, PartitionState, PartnerState, ProductState, Record

ZERO_CHAIN = bytes(32)
NEVER = 1 << 62  # later than every event time
Due = tuple[int, int, str]  # when a hold lapses, the offset at which it was opened, its name
_FIRST: Due = (0, -1, "")


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
        "received", "settled", "rejected", "repeated", "applied", "dead", "closed_through",
    )  # fmt: skip

    def __init__(self) -> None:
        self.next_offset = self.sequence = self.event_time = 0
        self.chain = ZERO_CHAIN
        self.received = self.settled = self.rejected = self.repeated = self.applied = self.dead = 0
        self.closed_through = -1

    def record(self) -> PartitionState:
        return PartitionState(
            self.next_offset, self.sequence, self.chain, self.event_time,
            self.received, self.settled, self.rejected, self.repeated, self.applied, self.dead, self.closed_through,
        )  # fmt: skip

    @classmethod
    def from_record(cls, r: PartitionState) -> Head:
        h = cls()
        h.next_offset, h.sequence, h.chain, h.event_time = r.next_offset, r.sequence, r.chain, r.event_time
        h.received, h.settled, h.rejected = r.received, r.settled, r.rejected
        h.repeated, h.applied, h.dead, h.closed_through = r.repeated, r.applied, r.dead, r.closed_through
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

    def select(self, keep: Callable[[str], bool]) -> dict[str, V]:
        """The values of all keys that are kept, as they are now; not to be changed."""
        out: dict[str, V] = {}
        for layer in (*reversed(self.below), self):
            out.update((key, value) for key, value in layer.items() if keep(key))
        return out


class PartitionBase:
    """Committed state of one partition. `due`: the open holds that will lapse, the next one first.

    `rows`: what is kept as the record that it is (limits, usage, calendars, products, transactions in flight), by its
    key in `ledger.state`; `shelf`: the versions of each product, rising; `limits`: how many subjects have limits;
    `in_flight`: how many transactions between partitions are open that this one decides; `freezes`: how many subjects
    are frozen by a row.
    """

    __slots__ = (
        "accounts", "due", "entries", "freezes", "head", "holds", "in_flight", "limits", "partners", "rows", "shelf",
    )  # fmt: skip

    def __init__(self, window_ms: int = WINDOW_MS) -> None:
        self.accounts: dict[str, Account] = {}
        self.partners: dict[str, Partner] = {}
        self.holds: dict[str, Hold] = {}
        self.due: list[Due] = []
        self.entries = EntryLog(window_ms)
        self.rows: dict[str, Record] = {}
        self.shelf: dict[str, tuple[ProductState, ...]] = {}
        self.limits = self.in_flight = self.freezes = 0
        self.head = Head()

    def put_row(self, key: str, row: Record | None) -> None:
        """Takes a row as it is now; None: it is gone."""
        if key.startswith("l:"):
            self.limits += (row is not None) - (key in self.rows)
        elif key.startswith("f:"):
            self.freezes += (row is not None) - (key in self.rows)
        elif key.startswith("x:"):
            self.in_flight += _is_home(row) - _is_home(self.rows.get(key))
        if row is None:
            self.rows.pop(key, None)
            return
        self.rows[key] = row
        if isinstance(row, ProductState):
            others = (r for r in self.shelf.get(row.product, ()) if r.version != row.version)
            self.shelf[row.product] = tuple(sorted((*others, row), key=lambda r: r.version))

    def restore(self, key: str, row: object) -> None:
        """Takes one row of `ledger.state` into books that are being read back."""
        match row:
            case PartitionState():
                self.head = Head.from_record(row)
            case AccountState():
                self.accounts[row.account_id] = Account.from_state(row)
            case HoldState():
                self.put_hold(Hold.from_state(row))
            case PartnerState():
                self.partners[row.partner_id] = Partner(row.partner_id, row.name, row.state, row.source_offset)
            case _:
                self.put_row(key, row)  # type: ignore[arg-type]

    def forget_due(self, last: Due) -> None:
        """All that was due is closed, up to this one: gone at once, because one after the other would take long."""
        del self.due[: bisect_right(self.due, last)]

    def put_hold(self, hold: Hold) -> None:
        """Takes a hold as it is now; a closed one is forgotten."""
        known = self.holds.pop(hold.name, None)
        # A closed hold's key may be free again and used anew in the batch that closed it: then it is another hold.
        goes_on = known is not None and bool(hold.remaining) and known.opened_at == hold.opened_at
        if known is not None and known.expires_at and not goes_on:
            i = bisect_left(self.due, known.due)
            if i < len(self.due) and self.due[i] == known.due:
                del self.due[i]
        if hold.remaining:
            self.holds[hold.name] = hold
            if hold.expires_at and not goes_on:
                insort(self.due, hold.due)


def _from(holds: list[Due], after: Due) -> Iterator[Due]:
    """What comes after one of them, in their order."""
    for i in range(bisect_right(holds, after), len(holds)):
        yield holds[i]


def _is_home(row: Record | None) -> bool:
    return isinstance(row, CrossingState) and row.home


class Draft:
    """Changes of one batch to one partition, on top of the base and of drafts that are not merged yet (newest first).

    `keys` holds the idempotency keys that this batch may meet: those found in the index, and those it binds itself.
    `bound`: the keys that it bound in the runs that are done, with their append times. `settled`, `given_back` and
    `lapsed` are what this batch adds to the base's `entries`, by source offset. `lapsed_to`: the last hold that lapsed;
    none before it is open, and there may be many until they are merged. `floors_set`: accounts whose floor a
    command of this batch set. `rows`: the rows that it changed, None for those that are gone; ask `row`, which looks
    below too. `limited`: whether anything may have limits; `freezes`: whether anything may be frozen by a row.
    """

    __slots__ = (
        "accounts", "base", "bound", "due", "floors_set", "freezes", "given_back", "head", "holds", "keys", "lapsed",
        "lapsed_to", "limited", "partners", "rows", "settled", "shelf", "start", "under",
    )  # fmt: skip

    def __init__(self, base: PartitionBase, under: tuple[Draft, ...] = ()) -> None:
        self.base = base
        self.under = under
        self.accounts: Overlay[Account] = Overlay((*(d.accounts for d in under), base.accounts))
        self.partners: Overlay[Partner] = Overlay((*(d.partners for d in under), base.partners))
        self.holds: Overlay[Hold] = Overlay((*(d.holds for d in under), base.holds))
        self.head: Head = (under[0].head if under else base.head).copy()
        self.start = self.head.next_offset
        self.keys: dict[bytes, tuple[bytes, int]] = {}
        self.bound: dict[bytes, tuple[bytes, int, int]] = {}
        self.settled: dict[int, Settled] = {}
        self.given_back: dict[int, int] = {}
        self.lapsed: set[int] = set()
        self.lapsed_to: Due = under[0].lapsed_to if under else _FIRST
        self.floors_set: set[str] = set()
        self.due: list[Due] = []
        self.rows: dict[str, Record | None] = {}
        self.shelf: dict[str, tuple[ProductState, ...]] = {}
        self.limited: bool = base.limits > 0 or any(d.limited for d in under)
        self.freezes: bool = base.freezes > 0 or any(d.freezes for d in under)

    # ---- what is asked of it -----------------------------------------------------------------------------------

    def open_hold(self, name: str) -> Hold | None:
        """The open hold of this name, or None."""
        hold = self.holds.find(name)
        return hold if hold is not None and hold.remaining else None

    def due_holds(self) -> Iterator[Hold]:
        """The open holds that will lapse, the next one first."""
        lists = (self.base.due, *(d.due for d in self.under), self.due)
        for due in merge_sorted(*(_from(one, self.lapsed_to) for one in lists)):
            hold = self.open_hold(due[2])
            if hold is not None and hold.opened_at == due[1]:
                yield hold

    def row(self, key: str) -> Record | None:
        """The row of this key, or None."""
        if key in self.rows:
            return self.rows[key]
        for d in self.under:
            if key in d.rows:
                return d.rows[key]
        return self.base.rows.get(key)

    def is_frozen(self, level: str, subject: str) -> bool:
        """Whether a row says so: of a partner itself, not of those above it."""
        return self.freezes and self.row(f"f:{level}:{subject}") is not None

    def versions(self, product: str) -> tuple[ProductState, ...]:
        """The versions of a product that were published, rising; empty when there is none."""
        for d in (self, *self.under):
            if product in d.shelf:
                return d.shelf[product]
        return self.base.shelf.get(product, ())

    def has_shelf(self) -> bool:
        """Whether any product was published in this partition."""
        return bool(self.base.shelf) or any(d.shelf for d in (self, *self.under))

    def next_due(self) -> int:
        """When the next hold lapses, milliseconds; NEVER when none will."""
        hold = next(self.due_holds(), None)
        return hold.expires_at if hold is not None else NEVER

    def moved(self, offset: int) -> Moved | None:
        """What the transaction at this offset was, or None when none was settled there, or it is forgotten."""
        drafts = (self, *self.under)
        lapsed = any(offset in d.lapsed for d in drafts)
        for d in drafts:
            if offset in d.settled:
                kind, _, legs, product = d.settled[offset]
                kind = LAPSED if lapsed else kind
                signed = (leg.amount if leg.side == "debit" else -leg.amount for leg in legs)
                return Moved(kind, tuple(leg.account_id for leg in legs), tuple(signed), product)
        moved = self.base.entries.find(offset)
        return moved._replace(kind=LAPSED) if lapsed and moved is not None else moved

    def returned(self, offset: int) -> int:
        """Minor units given back of the entry at this offset."""
        for d in (self, *self.under):
            if offset in d.given_back:
                return d.given_back[offset]
        return self.base.entries.given_back(offset)

    # ---- what it changed -----------------------------------------------------------------------------------------

    def put_row(self, key: str, row: Record | None) -> None:
        """Sets a row; None removes it."""
        self.rows[key] = row
        if key.startswith("l:"):
            self.limited = True
        elif key.startswith("f:"):
            self.freezes = True

    def publish(self, row: ProductState) -> None:
        """Takes a version of a product that is higher than all before."""
        self.shelf[row.product] = (*self.versions(row.product), row)
        self.rows[f"d:{row.product}:{row.version}"] = row

    def add_hold(self, hold: Hold) -> None:
        """Takes a new hold."""
        self.holds[hold.name] = hold
        if hold.expires_at:
            insort(self.due, hold.due)

    def changed_accounts(self) -> list[Account]:
        """Accounts that this batch changed (not those it only looked at)."""
        return [a for a in self.accounts.values() if a.offset >= self.start]

    def changed_partners(self) -> list[Partner]:
        """Partners that this batch changed."""
        return [p for p in self.partners.values() if p.offset >= self.start]

    def changed_holds(self) -> list[Hold]:
        """Holds that this batch opened, changed or closed."""
        return [h for h in self.holds.values() if h.offset >= self.start]

    def merge(self) -> None:
        """Makes the draft the committed state. Call it only after the commit returned, oldest draft first."""
        base = self.base
        for a in self.changed_accounts():
            base.accounts[a.account_id] = a
        for p in self.changed_partners():
            base.partners[p.partner_id] = p
        base.forget_due(self.lapsed_to)
        for h in self.changed_holds():
            base.put_hold(h)
        for key, row in self.rows.items():
            base.put_row(key, row)
        base.entries.add(self.settled)
        for offset, amount in self.given_back.items():
            base.entries.give_back(offset, amount)
        for offset in self.lapsed:
            base.entries.lapse(offset)
        base.head = self.head
        base.entries.forget(self.head.event_time)
        # What this draft stood on is merged too: a draft above must not keep a whole row of them alive.
        self.under = self.accounts.below = self.partners.below = self.holds.below = ()
