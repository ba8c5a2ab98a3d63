"""Which accounts take which part in a product's operation, and which of them are opened with it.

The page is docs/products.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ledger.accounts import Account
from ledger.names import is_account
from ledger.partners import OPENS
from ledger.plans import Moment
from ledger.products import Operation, Role
from ledger.reasons import Reason, Rejection
from ledger.rules import owned
from ledger.state import Draft
from schemas.identity import BANK, owner_of, root_of
from schemas.records import Transaction

_NONE: dict[str, str] = {}
_NUMBER = re.compile(r"[1-9][0-9]{0,2}")  # of an account among several of one role


class Place(NamedTuple):
    """One account that takes a part. `field`: where the transaction names it; `label`: the role, with its number."""

    field: str
    label: str
    account_id: str


Places = Mapping[str, list[Place]]  # of each role


def numbers_of(role: str, given: Mapping[str, object]) -> list[int]:
    """The numbers under which a many-role is named, in numerical order."""
    at = len(role) + 1
    return sorted(int(n[at:]) for n in given if n.startswith(role + ".") and _NUMBER.fullmatch(n[at:]))


def check_roles(t: Transaction, op: Operation) -> Rejection | None:
    """Each role that has no fixed account is named, and no other."""
    if t.accounts.keys() == op.asked and not op.has_many:
        return None
    known: set[str] = set()
    missing: list[str] = []
    for r in op.roles:
        if r.account:
            continue
        names = [f"{r.name}.{n}" for n in numbers_of(r.name, t.accounts)] if r.many else [r.name]
        if not names or names[0] not in t.accounts:
            missing.append(r.name)
        known.update(names)
    wanted = ",".join(sorted(r.name + (".N" if r.many else "") for r in op.roles if not r.account))
    odd = t.accounts.keys() - known
    if odd:
        return Rejection(Reason.ROLE_UNKNOWN, field="accounts", role=min(odd)[:64], roles=wanted)
    if missing:
        return Rejection(Reason.ROLE_MISSING, field="accounts", role=min(missing), roles=wanted)
    return None


def places_of(t: Transaction, role: Role, currency: str = "") -> list[Place]:
    """The accounts of a role, in numerical order where there are several. `currency`: if not the transaction's."""
    if role.account:
        name = role.account.replace("{currency}", currency or t.currency).replace("{caller}", t.partner_id)
        return [Place(f"accounts.{role.name}", role.name, name.replace("{root}", root_of(t.partner_id)))]
    labels = [f"{role.name}.{n}" for n in numbers_of(role.name, t.accounts)] if role.many else [role.name]
    return [Place(f"accounts.{label}", label, t.accounts[label]) for label in labels]


def openings_of(
    draft: Draft, t: Transaction, op: Operation, at: Moment, places: Places, currencies: Mapping[str, str] = _NONE
) -> dict[str, Account]:
    """Accounts that do not exist yet and are opened if a leg falls on them. `currencies`: of roles with another one."""
    out: dict[str, Account] = {}
    for role in op.roles:
        o = role.opening
        if o is None:
            continue
        currency = currencies.get(role.name, t.currency)
        for _, _, account_id in places[role.name]:
            if draft.accounts.find(account_id) is not None:
                continue
            owner = owner_of(account_id)
            if owned(role.owner, t.partner_id, owner):
                may = owner == BANK or (at.standing.path(owner) and at.standing.against(owner, OPENS) is None)
                if may and is_account(account_id):
                    new = Account.new(account_id, o.type, currency, o.min_available, at.offset, o.credit_limit)
                    out.setdefault(account_id, new)
    return out
