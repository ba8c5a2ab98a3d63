"""What is remembered by key, and what captures, voids, refunds and reversals do with it."""

from __future__ import annotations

from collections.abc import Iterable

from clearline.audit.contract import Terms
from clearline.audit.figures import Leg
from clearline.audit.memory import ENTRY, HOLD, LAPSED, OTHER, Entries, Hold, OpenHolds, payment_of
from clearline.audit.products import Plan, Shelf
from schemas.identity import BANK, command_id, owner_of
from schemas.records import Transaction

LAPSES_MAX = 500  # holds that one command releases
OF_AN_ORIGINAL = {"capture", "void", "refund", "reversal"}
KEY_BYTES = 24  # digest 8, offset 8, time 8; what is remembered of the transaction stands behind

PostedLeg = tuple[str, str, int, str, int, int, int, int]  # a leg and its counters after: dp, dp posted, cp, cp posted
# hold id, account, side, change in minor units, currency, expired, and the same four counters
PendingChange = tuple[bytes, str, str, int, str, bool, int, int, int, int]


class Originals(Shelf):
    """Keys, open holds and entries of one partition, and the only two ways in which counters change."""

    def __init__(self, terms: Terms, partition: int = 0) -> None:
        super().__init__(terms, partition)
        self.keys: dict[bytes, bytes] = {}  # command id -> digest, offset, time of the first outcome; what it settled
        self.holds = OpenHolds()
        self.entries = Entries(self.currency)

    # ---- keys --------------------------------------------------------------------------------------------------------

    def first_under(self, cid: bytes) -> tuple[bytes, int] | None:
        """Digest and offset of what has this key: as long as it is remembered, and as long as its hold is open."""
        bound = self.keys.get(cid)
        if bound is not None and not self.terms.forgotten(int.from_bytes(bound[16:KEY_BYTES], "big"), self.event_time):
            return bound[:8], int.from_bytes(bound[8:16], "big")
        hold = self.holds.by_id.get(cid)
        return (hold.digest, hold.opened) if hold is not None else None

    def bind(self, cid: bytes, digest: bytes, offset: int, booked_at: int) -> None:
        """Remembers the first outcome under a key."""
        self.keys[cid] = digest + offset.to_bytes(8, "big") + booked_at.to_bytes(8, "big")

    def remember(self, cid: bytes, kind: str, product: str, currency: str, legs: Iterable[Leg]) -> None:
        """Writes behind the key of a settled transaction what a later one may ask of it."""
        bound = self.keys.get(cid)
        if bound is None:
            return
        if kind in ("transfer", "entry", "exchange", "capture"):
            what = self.entries.pack(product, legs)
        else:
            what = HOLD + currency.encode() if kind == "hold" else OTHER
        self.keys[cid] = bound[:KEY_BYTES] + what

    # ---- counters ----------------------------------------------------------------------------------------------------

    def set_aside(self, offset: int, cid: bytes, leg: Leg, sign: int = 1, *, expired: bool = False) -> PendingChange:
        """Sets one leg aside, or releases it with sign -1; the change with the account's counters after it."""
        account, side, amount, currency = leg
        figures = self.debits_pending if side == "debit" else self.credits_pending
        figures[account] += sign * amount
        self.touched[account] = offset
        return (cid, account, side, sign * amount, currency, expired, *self.counters(account))

    def post(self, offset: int, legs: Iterable[Leg]) -> tuple[PostedLeg, ...]:
        """Adds the legs to the counters; each leg with its account's counters after it."""
        out = []
        for account, side, amount, currency in legs:
            figures = self.debits if side == "debit" else self.credits
            figures[account] += amount
            self.touched[account] = offset
            out.append((account, side, amount, currency, *self.counters(account)))
        return tuple(out)

    # ---- holds -------------------------------------------------------------------------------------------------------

    def lapse(self, offset: int, witnessed: Iterable[bytes] = ()) -> tuple[PendingChange, ...]:
        """Releases what has lapsed by now, before the command at this offset is looked at."""
        out: tuple[PendingChange, ...] = ()
        for hold in self.holds.due(self.event_time, LAPSES_MAX, witnessed):
            out += self.pend(offset, hold, -hold.remaining, expired=True)
        return out

    def pend(self, offset: int, hold: Hold, change: int, *, expired: bool = False) -> tuple[PendingChange, ...]:
        """Sets so much aside on both sides of a hold, or releases it when negative; a hold with nothing left closes."""
        sign = 1 if change > 0 else -1
        out = tuple(
            self.set_aside(offset, hold.hold_id, (account, side, abs(change), hold.currency), sign, expired=expired)
            for account, side in hold.sides()
        )
        hold.remaining += change
        hold.changed = offset
        if not hold.remaining:
            self.close(hold, lapsed=expired)
        return out

    def close(self, hold: Hold, *, lapsed: bool) -> None:
        """Forgets a hold; that it lapsed is known as long as its key is."""
        self.holds.close(hold)
        bound = self.keys.get(hold.hold_id, b"")
        if lapsed and int.from_bytes(bound[8:16], "big") == hold.opened:
            self.keys[hold.hold_id] = bound[:KEY_BYTES] + LAPSED + hold.currency.encode()

    # ---- what is done with an original -------------------------------------------------------------------------------

    def of_original(self, t: Transaction, plan: Plan) -> str:
        """Puts into the plan what is about to be done with the original; the rule that it breaks, or empty."""
        cid = command_id(t.partner_id, t.original)
        hold = self.holds.by_id.get(cid)
        bound = self.keys.get(cid, b"")
        gone = len(bound) <= KEY_BYTES or self.terms.forgotten(
            int.from_bytes(bound[16:KEY_BYTES], "big"), self.event_time
        )
        if hold is None and gone:
            return "original_unknown"
        what = HOLD + hold.currency.encode() if hold else bound[KEY_BYTES:]
        kind, offset = what[:1], int.from_bytes(bound[8:16], "big")
        if plan.kind in ("capture", "void"):
            if kind not in (HOLD, LAPSED) or what[1:].decode() != t.currency:
                return "original_mismatch"
            if hold is None:
                return "hold_expired" if kind == LAPSED else "hold_closed"
            return self._of_hold(t, plan, hold)
        product, legs = self.entries.unpack(what) if kind == ENTRY else ("", [])
        if not legs or legs[0][3] != t.currency or product != t.product:
            return "original_mismatch"
        plan.original_offset = offset
        given = self.entries.given_back.get(offset, 0)
        if plan.kind == "reversal":
            plan.legs = [(a, "credit" if side == "debit" else "debit", n, c) for a, side, n, c in legs]
            plan.owners = self._givers(t, plan, "")
            return "refund_exceeds_payment" if given else ""
        return self._refund(t, plan, legs, given)

    def _givers(self, t: Transaction, plan: Plan, payee: str) -> list[str]:
        """Whose account each leg may take: with a shelf a partner gets back from the bank only fees, and only beside
        what somebody else gives back."""
        if t.partner_id == BANK or plan.version is None:
            return [""] * len(plan.legs)
        return [
            "caller" if side == "debit" and (a == payee or self.type[a] != "income") and owner_of(a) == BANK else ""
            for a, side, _, _ in plan.legs
        ]

    def _refund(self, t: Transaction, plan: Plan, legs: list[Leg], given: int) -> str:
        debits = [leg for leg in legs if leg[1] == "debit"]
        credits = [leg for leg in legs if leg[1] == "credit" and owner_of(leg[0]) != BANK]
        credits += [leg for leg in legs if leg[1] == "credit" and owner_of(leg[0]) == BANK]
        if len(debits) != 1 or (plan.version is None and len(legs) != 2):
            return "original_mismatch"
        if t.amount > debits[0][2] - given:
            return "refund_exceeds_payment"
        payer, payee = debits[0], credits[0]
        if plan.operation.get("fees", "keep") == "keep":
            plan.legs = [(payee[0], "debit", t.amount, payee[3])]
        else:  # the credit legs as one stretch of money, of which the next part is taken
            start, end, at = given, given + t.amount, 0
            for account, _, amount, currency in credits:
                part = min(end, at + amount) - max(start, at)
                if part > 0:
                    plan.legs.append((account, "debit", part, currency))
                at += amount
        plan.legs.append((payer[0], "credit", t.amount, payer[3]))
        plan.owners = self._givers(t, plan, payee[0])
        return ""

    @staticmethod
    def _of_hold(t: Transaction, plan: Plan, hold: Hold) -> str:
        plan.hold, plan.original_offset = hold, hold.opened
        if plan.kind == "void":
            plan.release = hold.remaining
            return ""
        if t.amount > hold.remaining:
            return "capture_exceeds_hold"
        plan.legs = [(account, side, t.amount, hold.currency) for account, side in hold.sides()]
        plan.release = hold.remaining if t.final else t.amount
        return ""

    def give_back(self, original_offset: int, legs: Iterable[Leg]) -> None:
        """Notes what was given back of an entry."""
        given = self.entries.given_back
        given[original_offset] = given.get(original_offset, 0) + payment_of(legs)
