"""The rules of accounts, asked of every leg before anything is posted: who may post there, is it open, does it suffice.

Of all reasons that stand against any of the legs, the first in the list of reasons is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from ledger.accounts import Account
from ledger.money import COUNTER_MAX
from ledger.names import NAME_MAX, is_account, within
from ledger.partners import IS_PAID
from ledger.plans import Leg, Moment
from ledger.reasons import Reason, Rejection, first
from ledger.state import Draft
from schemas.identity import BANK, owner_of, partition_of, root_of
from schemas.records import Posting

TRANSIT = "bank:crossing:"  # accounts of what is under way between partitions; only the protocol posts to them

# Whose accounts a leg may take; a role of a product says one of the first four.
CALLER, TREE, ANY = "caller", "tree", "any"
CALLER_OR_BANK, TREE_OR_BANK, ANY_OR_BANK = "caller or bank", "tree or bank", "any or bank"

_NOTHING: dict[str, int] = {}


def owned(owners: str, asker: str, owner: str) -> bool:
    """Whether an account of `owner` is one of `owners`, as the asker sees it."""
    if owner == BANK:
        return owners.endswith(BANK)
    if asker == BANK:
        return owners != BANK
    if owners.startswith(CALLER):
        return within(owner, asker)
    if owners.startswith(TREE):
        return root_of(owner) == root_of(asker)
    return owners.startswith(ANY)


class FrozenBy(Protocol):
    """What is asked of the partners."""

    def frozen_by(self, partner_id: str) -> str: ...


@lru_cache(maxsize=65_536)
def _place_of(root: str, partitions: int) -> int:
    return partition_of(root, partitions)


class Legs:
    """Gathers the legs of one transaction, and the first reason that stands against any of them.

    `pays`: what an owner who is credited must permit (`is paid`, `is repaid`), empty when that is not asked.
    """

    __slots__ = ("accounts", "at", "away", "freezes", "legs", "partner_id", "pays", "refused", "root")

    def __init__(self, draft: Draft, partner_id: str, at: Moment, pays: str = IS_PAID) -> None:
        self.accounts = draft.accounts
        self.freezes = draft.freezes
        self.partner_id = partner_id
        self.root = root_of(partner_id)
        self.at = at
        self.pays = pays
        self.legs: list[Leg] = []
        self.away: list[Posting] = []
        self.refused: Rejection | None = None

    def refuse(self, why: Rejection | None) -> None:
        """Takes one more reason."""
        if why is not None:
            self.refused = first(self.refused, why)

    def add(self, field: str, account_id: str, side: str, amount: int, currency: str, owners: str) -> Account | None:
        """One more leg. `owners`: whose account it may be. None when it is refused, or lies in another partition."""
        own = self.accounts.find(account_id)
        if own is not None and own.owner == self.partner_id != BANK != owners:  # the asker's own: nine of ten legs
            self.refuse(check_account(field, own, currency, side == "debit"))
            self.legs.append((own, side, amount))
            return own
        owner = owner_of(account_id)
        root = root_of(owner)
        may = owned(owners, self.partner_id, owner) and not account_id.startswith(TRANSIT)
        if not may and (root not in (self.root, BANK) or account_id.startswith(TRANSIT)):
            self.refuse(not_owned(field, account_id, self.partner_id))  # not looked up: it tells nothing
            return None
        if side == "credit" and owners.startswith(ANY) and self._is_away(root):
            if is_account(account_id):
                self.away.append(Posting(account_id, side, amount, currency))
            else:
                self.refuse(unknown(field, account_id))  # what crosses is bounded in size
            return None
        a = own or self.at.openings.get(account_id)
        if a is None:
            self.refuse(unknown(field, account_id))
        elif not may:
            self.refuse(not_owned(field, account_id, self.partner_id))
        else:
            self.take(field, a, side, amount, currency)
        return a

    def take(self, field: str, a: Account, side: str, amount: int, currency: str) -> None:
        """One more leg on an account that may be posted to by the asker."""
        if a.owner not in (self.partner_id, BANK):
            if side == "debit":
                self.refuse(self._owner_state(field, a, self.at.kind, self.partner_id))
            elif self.pays:
                self.refuse(self._owner_state(field, a, self.pays))
            if self.freezes:
                self.refuse(owner_frozen(field, a, self.at.standing))
        self.refuse(check_account(field, a, currency, side == "debit"))
        self.legs.append((a, side, amount))

    def done(self) -> list[Leg]:
        """The legs. Raises the first reason that stands against any of them."""
        if self.refused is not None:
            raise self.refused
        return self.legs

    def _is_away(self, root: str) -> bool:
        at = self.at
        if at.partitions == 1 or root in (self.root, BANK) or len(root) > NAME_MAX:  # no partner has such a name
            return False
        return _place_of(root, at.partitions) != at.partition

    def _owner_state(self, field: str, a: Account, what: str, below: str = "") -> Rejection | None:
        """What the states on the owner's path say to it: whoever is above cannot do with a partner's money what that
        partner may not. The bank may, and nobody stands below it."""
        standing = self.at.standing
        found = None if standing.is_live(a.owner) else standing.against(a.owner, what, below)
        if found is None:
            return None
        return Rejection(Reason.OWNER_STATE, field=field, account=a.account_id, partner=found[0], state=found[1])


def owner_frozen(field: str, a: Account, standing: FrozenBy) -> Rejection | None:
    """What the freezes on the owner's path say to it."""
    found = standing.frozen_by(a.owner)
    return Rejection(Reason.OWNER_FROZEN, field=field, account=a.account_id, partner=found) if found else None


def unknown(field: str, account_id: str) -> Rejection:
    return Rejection(Reason.ACCOUNT_UNKNOWN, field=field, account=account_id[:256])


def not_owned(field: str, account_id: str, partner_id: str) -> Rejection:
    return Rejection(Reason.ACCOUNT_NOT_OWNED, field=field, account=account_id[:256], partner=partner_id)


def check_account(field: str, a: Account, currency: str, debit: bool, *, adjusts: bool = False) -> Rejection | None:
    """What stands against posting to this account, first reason first; None when nothing does.

    `adjusts`: by the bank's staff, whom neither freeze nor blocks stop.
    """
    if a.closed:
        return Rejection(Reason.ACCOUNT_CLOSED, field=field, account=a.account_id)
    if a.frozen and not adjusts:
        return Rejection(Reason.ACCOUNT_FROZEN, field=field, account=a.account_id)
    if a.currency != currency:
        return Rejection(
            Reason.ACCOUNT_CURRENCY, field=field, account=a.account_id, currency=currency, account_currency=a.currency
        )
    if adjusts:
        return None
    if debit and a.debits_blocked:
        return Rejection(Reason.DEBITS_BLOCKED, field=field, account=a.account_id)
    if not debit and a.credits_blocked:
        return Rejection(Reason.CREDITS_BLOCKED, field=field, account=a.account_id)
    return None


def check_totals(legs: Sequence[Leg], released: Mapping[str, int] = _NOTHING) -> None:
    """Limits and counters after all legs; one account may stand in several of them.

    `released`: minor units by account that are set free in the same command, and so are there to be taken.
    """
    if len(legs) == 2 and legs[0][0] is not legs[1][0]:
        _check_two(legs, released)
        return
    totals: dict[str, list[int]] = {}
    for account, side, amount in legs:
        totals.setdefault(account.account_id, [0, 0])[side == "credit"] += amount
    by_id = {a.account_id: a for a, _, _ in legs}
    for account_id, (debits, credits) in totals.items():
        a = by_id[account_id]
        out, back = (credits, debits) if a.debit_normal else (debits, credits)
        if out:
            check_left(a, a.available() + released.get(account_id, 0) - out + back)
    for account_id, (debits, credits) in totals.items():
        a = by_id[account_id]
        if a.debits_posted + debits > COUNTER_MAX or a.credits_posted + credits > COUNTER_MAX:
            raise Rejection(Reason.COUNTER_OVERFLOW, field="postings", account=account_id, limit=COUNTER_MAX)


def _check_two(legs: Sequence[Leg], released: Mapping[str, int]) -> None:
    """The same for two legs on two accounts, nine of ten entries."""
    for a, side, amount in legs:
        if a.min_available is not None and (side == "credit") == a.debit_normal:
            check_left(a, a.available() + released.get(a.account_id, 0) - amount)
    for a, side, amount in legs:
        if (a.debits_posted if side == "debit" else a.credits_posted) + amount > COUNTER_MAX:
            raise Rejection(Reason.COUNTER_OVERFLOW, field="postings", account=a.account_id, limit=COUNTER_MAX)


def check_left(a: Account, left: int) -> None:
    """Raises Rejection when `left` minor units are less than must stay available."""
    floor = a.floor
    if floor is not None and left < floor:
        limit = "credit_limit" if a.credit_limit else "min_available"
        raise Rejection(
            Reason.INSUFFICIENT_FUNDS, account=a.account_id, limit=limit, level="account", allowed=floor,
            available=a.available(), short=floor - left,
        )  # fmt: skip
