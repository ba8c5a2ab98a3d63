"""What the recomputation remembers of settled transactions, because a later one may name it as its `original`.

An open hold is an object of its own (about 500 bytes, with its place in the order of lapsing); when it closes it is
forgotten, and what is left of it are four bytes behind its key. An entry is packed behind its key: five bytes with the
number of its product, and twelve bytes for each leg.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from struct import Struct

from clearline.audit.figures import Leg

ENTRY, HOLD, LAPSED, OTHER = b"e", b"h", b"x", b"o"  # first byte of what stands behind a key; nothing: not settled
STALE_PLACES_MAX = 1_000

_LEG = Struct(">Iq")  # number of the account, amount; negative for a debit


@dataclass(slots=True)
class Hold:
    """One open hold. Amounts in minor units; `expires_at` in ms UTC, 0 never, None when nothing kept says it.

    `opened` and `changed` are source offsets: of the hold, and of the last command that changed it.
    """

    hold_id: bytes
    digest: bytes
    partner: str
    payer: str
    payee: str
    currency: str
    amount: int
    remaining: int
    expires_at: int | None
    opened: int
    changed: int

    def sides(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Account and side of both pending legs, in the order in which they are journaled."""
        return (self.payer, "debit"), (self.payee, "credit")


class OpenHolds:
    """The open holds by id, and the order in which they lapse."""

    def __init__(self) -> None:
        self.by_id: dict[bytes, Hold] = {}
        self.unknown_expiries = 0
        self._order: list[tuple[int, int, bytes]] = []  # expires_at, opened, id; places of closed holds are skipped

    def add(self, hold: Hold) -> None:
        """Remembers a hold that was just opened."""
        self.by_id[hold.hold_id] = hold
        if hold.expires_at is None:
            self.unknown_expiries += 1
        elif hold.expires_at:
            heappush(self._order, (hold.expires_at, hold.opened, hold.hold_id))

    def close(self, hold: Hold) -> None:
        """Forgets a hold. Places that nobody needs are cleared away when they are more than those in use."""
        del self.by_id[hold.hold_id]
        self.unknown_expiries -= hold.expires_at is None
        if len(self._order) > 2 * len(self.by_id) + STALE_PLACES_MAX:
            self._order = [(h.expires_at, h.opened, h.hold_id) for h in self.by_id.values() if h.expires_at]
            heapify(self._order)

    def due(self, now: int, at_most: int, witnessed: Iterable[bytes] = ()) -> list[Hold]:
        """Takes the holds that lapse at event time `now` (ms UTC) out of the order, at most so many, first ones first.

        `witnessed`: ids that the journal releases here, in its order. Those whose expiry nobody knows any more are
        believed, each at its place; for every other hold the journal's word does not count.
        """
        believed: list[tuple[int, Hold]] = []
        if self.unknown_expiries:
            for place, hold_id in enumerate(witnessed):
                hold = self.by_id.get(hold_id)
                if hold is not None and hold.expires_at is None:
                    believed.append((place, hold))
        out: list[Hold] = []
        while self._order and self._order[0][0] <= now and len(out) + len(believed) < at_most:
            _, opened, hold_id = heappop(self._order)
            hold = self.by_id.get(hold_id)
            if hold is not None and hold.opened == opened:
                out.append(hold)
        for place, hold in believed:
            out.insert(place, hold)
        return out


class Entries:
    """Packs the legs of entries; names of accounts and products are numbered once. An account's currency is that of
    its legs."""

    def __init__(self, currency: dict[str, str]) -> None:
        self._currency = currency
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self.given_back: dict[int, int] = {}  # source offset of an entry -> minor units refunded or reversed

    def _number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self._names)
            self._names.append(name)
        return number

    def pack(self, product: str, legs: Iterable[Leg]) -> bytes:
        """What stands behind an entry's key."""
        out = [ENTRY, self._number(product).to_bytes(4, "big")]
        for account, side, amount, _ in legs:
            out.append(_LEG.pack(self._number(account), -amount if side == "debit" else amount))
        return b"".join(out)

    def unpack(self, packed: bytes) -> tuple[str, list[Leg]]:
        """The product and the legs again."""
        out: list[Leg] = []
        for number, amount in _LEG.iter_unpack(packed[5:]):
            account = self._names[number]
            side = "debit" if amount < 0 else "credit"
            out.append((account, side, abs(amount), self._currency.get(account, "")))
        return self._names[int.from_bytes(packed[1:5], "big")], out


def payment_of(legs: Iterable[tuple[str, str, int, str]]) -> int:
    """What an entry moved, minor units: the sum of its debits. For two legs that is the amount."""
    return sum(amount for _, side, amount, _ in legs if side == "debit")
