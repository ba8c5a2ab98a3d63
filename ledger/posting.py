"""What changes counters: posting the legs of a plan, setting money aside, releasing it, and holds that lapse."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.accounts import Account
from ledger.holds import Hold
from ledger.plans import Leg, Plan
from ledger.state import Draft
from schemas.records import PendingLeg, PostedLeg

LAPSED_MAX = 500  # holds that lapse before one command; more wait for the next


def post(legs: Iterable[Leg], offset: int) -> tuple[PostedLeg, ...]:
    """Posts checked legs."""
    posted = []
    for a, side, amount in legs:
        if side == "debit":
            a.debits_posted += amount
        else:
            a.credits_posted += amount
        a.offset = offset
        leg = PostedLeg(
            a.account_id, side, amount, a.currency,
            a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted,
        )  # fmt: skip
        posted.append(leg)
    return tuple(posted)


def set_aside(hold_id: bytes, a: Account, side: str, change: int, offset: int, *, expired: bool = False) -> PendingLeg:
    """Changes what is pending on one side of an account; a negative change releases."""
    if side == "debit":
        a.debits_pending += change
    else:
        a.credits_pending += change
    a.offset = offset
    return PendingLeg(
        hold_id, a.account_id, side, change, a.currency, expired,
        a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted,
    )  # fmt: skip


class Pending:
    """The holds of one draft as they are opened, released and lapse. `due_at`: when the next one lapses, in ms."""

    __slots__ = ("_draft", "_lapsed", "_lapsed_to", "due_at")

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._lapsed: list[tuple[Hold, int, int, int, int]] = []  # by the last command, and as they were before
        self._lapsed_to = draft.lapsed_to  # before it
        self.due_at = draft.next_due()

    def apply(self, plan: Plan, offset: int) -> tuple[PendingLeg, ...]:
        """What a plan sets aside or releases."""
        if plan.opens is not None:
            self._draft.add_hold(plan.opens)
            if 0 < plan.opens.expires_at < self.due_at:
                self.due_at = plan.opens.expires_at
            return self._change(plan.opens, plan.opens.amount, offset, expired=False)
        if plan.releases is not None:
            hold, amount = plan.releases
            hold.remaining -= amount
            return self._change(hold, -amount, offset, expired=False)
        return ()

    def _change(self, hold: Hold, change: int, offset: int, *, expired: bool) -> tuple[PendingLeg, ...]:
        """Changes what is pending on both accounts of a hold."""
        hold.offset = offset
        accounts = self._draft.accounts
        debit = set_aside(hold.hold_id, accounts[hold.payer], "debit", change, offset, expired=expired)
        return debit, set_aside(hold.hold_id, accounts[hold.payee], "credit", change, offset, expired=expired)

    def lapse(self, now: int, offset: int) -> tuple[PendingLeg, ...]:
        """Releases the holds that are due, at most LAPSED_MAX of them, in the order in which they lapse."""
        legs: list[PendingLeg] = []
        before = self._lapsed = []
        self._lapsed_to = self._draft.lapsed_to
        for hold in self._draft.due_holds():
            if hold.expires_at > now or len(legs) == 2 * LAPSED_MAX:
                break
            payer, payee = self._draft.accounts[hold.payer], self._draft.accounts[hold.payee]
            before.append((hold, hold.remaining, hold.offset, payer.offset, payee.offset))
            change, hold.remaining = -hold.remaining, 0
            legs += self._change(hold, change, offset, expired=True)
            self._draft.lapsed.add(hold.opened_at)
            self._draft.lapsed_to = hold.due
        self.due_at = self._draft.next_due()
        return tuple(legs)

    def forget_lapsed(self) -> None:
        """The command before which they lapsed has its outcome."""
        if self._lapsed:
            self._lapsed = []

    def take_back_lapsed(self) -> None:
        """Our own bug met a command before which holds lapsed: it has no journal record, the next one lapses them."""
        for hold, remaining, offset, payer_offset, payee_offset in reversed(self._lapsed):
            payer, payee = self._draft.accounts[hold.payer], self._draft.accounts[hold.payee]
            payer.debits_pending += remaining
            payee.credits_pending += remaining
            hold.remaining, hold.offset, payer.offset, payee.offset = remaining, offset, payer_offset, payee_offset
            self._draft.lapsed.remove(hold.opened_at)
            self._draft.lapsed_to = self._lapsed_to
        self._lapsed = []
        self.due_at = self._draft.next_due()
