"""What an operation must post, worked out slowly and plainly from the document, with fractions.

It shares nothing with the ledger: neither its compiled form nor its arithmetic. Amounts are minor units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil, floor
from typing import Any

from schemas.identity import BANK, owner_of

DEBIT_NORMAL = ("asset", "expense")
Leg = tuple[str, str, int]  # account, side, minor units


@dataclass(frozen=True, slots=True)
class Account:
    """An account before the transaction. `available`: minor units; `least`: what must stay, None for no limit.

    `opens`: it is not there yet, and is opened by the transaction.
    """

    account_id: str
    type: str
    currency: str
    available: int = 0
    least: int | None = 0
    credit_limit: int = 0
    opens: bool = False

    @property
    def debit_normal(self) -> bool:
        """Whether debits add to it."""
        return self.type in DEBIT_NORMAL

    def holding(self, available: int) -> Account:
        """The same account with so much on it."""
        return replace(self, available=available)


@dataclass(frozen=True, slots=True)
class Request:
    """What a transaction gives to an operation: amount, named amounts, and the accounts of each role in their order."""

    amount: int
    names: Mapping[str, int]
    currency: str
    roles: Mapping[str, Sequence[tuple[str, str]]]  # role: (label such as payees.2, account)


@dataclass(slots=True)
class Expected:
    """What must come of it: a reason, or legs."""

    reason: str = ""
    legs: list[Leg] = field(default_factory=list)


def price(expression: Any, base: Fraction, currency: str) -> int:
    """A fixed amount, a percentage of `base`, or the tier that `base` falls into."""
    if "tiers" in expression:
        for tier in expression["tiers"]:
            if "up_to" not in tier or base <= tier["up_to"][currency]:
                return price(tier, base, currency)
        raise ValueError("the last tier has a bound")
    if "fixed" in expression:
        return int(expression["fixed"][currency])
    exact = Fraction(expression["percent"]) * base / 100
    match expression.get("rounding", "half_up"):
        case "down":
            out = floor(exact)
        case "up":
            out = ceil(exact)
        case "half_even":
            out = round(exact)  # Python rounds fractions half to even
        case _:
            out = floor(exact + Fraction(1, 2))
    least, most = expression.get("min", {}), expression.get("max", {})
    if currency in least:
        out = max(out, int(least[currency]))
    return min(out, int(most[currency])) if currency in most else out


def amount_of(expression: Any, r: Request, step: int | None) -> int:
    """An amount that asks no balance. `step`: the step's amount; None where the step's own is worked out."""
    if isinstance(expression, str):
        return r.amount if expression == "amount" else r.names[expression]
    of = expression.get("of", "amount" if step is None else "step")
    base = r.amount if of == "amount" else step if of == "step" else r.names[of]
    return price(expression, Fraction(base or 0), r.currency)


def expect(document: Mapping[str, Any], operation: str, r: Request, accounts: Mapping[str, Account]) -> Expected:
    """What the steps of an operation must post to these accounts, in order; or the reason that stands against it."""
    legs: list[Leg] = []
    for s in document["operations"][operation]["steps"]:
        of_step = _step(s, r, accounts)
        if of_step is None:
            return Expected("split_exceeds_amount")
        legs += of_step
    legs = [leg for leg in legs if leg[2]]
    if not legs:
        return Expected("nothing_to_move")
    return Expected("insufficient_funds") if not affordable(legs, accounts) else Expected("", legs)


def _step(s: Mapping[str, Any], r: Request, accounts: Mapping[str, Account]) -> list[Leg] | None:
    sources = [account for _, account in r.roles[s["from"]]]
    if s["amount"] == "to_zero":
        return _to_zero(sources, r.roles[s["to"][0]["role"]][0][1], accounts)
    if s["amount"] == "balance":
        taken = [max(0, _takeable(accounts[a])) for a in sources]
    else:
        taken = [amount_of(s["amount"], r, None)]
    total = sum(taken)
    legs = [(a, "debit", n) for a, n in zip(sources, taken, strict=True)]
    given: list[list[int] | None] = []
    left = total
    for target in s["to"]:
        parts = _part(target, r, accounts, total, left)
        left -= sum(parts or ())
        given.append(parts)
    if left < 0:
        return None
    for target, parts in zip(s["to"], given, strict=True):
        places = r.roles[target["role"]]
        if parts is None:
            parts = [left // len(places) + (i < left % len(places)) for i in range(len(places))]
        legs += [(account, "credit", n) for (_, account), n in zip(places, parts, strict=True)]
    return legs


def _part(
    target: Mapping[str, Any], r: Request, accounts: Mapping[str, Account], total: int, left: int
) -> list[int] | None:
    """What a target takes before the rest is divided; None for the one that takes the rest."""
    expression, places = target.get("amount", "remaining"), r.roles[target["role"]]
    if expression in ("remaining", "equal"):
        return None
    if expression == "named":
        return [r.names[label] for label, _ in places]
    if expression == "balance":
        a = accounts[places[0][1]]
        return [min(max(left, 0), max(a.available, 0) if a.debit_normal else 0)]
    return [amount_of(expression, r, total)]


def _takeable(a: Account) -> int:
    return -a.available if a.debit_normal else a.available


def _to_zero(sources: Sequence[str], target: str, accounts: Mapping[str, Account]) -> list[Leg]:
    legs: list[Leg] = []
    for account in sources:
        amount = _takeable(accounts[account])
        first, second = (account, target) if amount > 0 else (target, account)
        legs += [(first, "debit", abs(amount)), (second, "credit", abs(amount))]
    return legs


def after(legs: Sequence[Leg], accounts: Mapping[str, Account]) -> dict[str, int]:
    """What is available on each account once the legs are posted."""
    out = {name: a.available for name, a in accounts.items()}
    for account, side, amount in legs:
        up = accounts[account].debit_normal == (side == "debit")
        out[account] += amount if up else -amount
    return out


def affordable(legs: Sequence[Leg], accounts: Mapping[str, Account]) -> bool:
    """Whether no account that something is taken from ends below what must stay on it."""
    ends = after(legs, accounts)
    for account, side, _ in legs:
        a = accounts[account]
        takes = a.debit_normal != (side == "debit")
        if takes and a.least is not None and ends[account] < a.least - a.credit_limit:
            return False
    return True


def refunded(legs: Sequence[Leg], before: int, amount: int, returns_fees: bool) -> list[Leg]:
    """The legs of a refund of `amount`, of which `before` was given back already."""
    (payer,) = [account for account, side, _ in legs if side == "debit"]
    credits = [(account, n) for account, side, n in legs if side == "credit" and owner_of(account) != BANK]
    credits += [(account, n) for account, side, n in legs if side == "credit" and owner_of(account) == BANK]
    if not returns_fees:
        return [(credits[0][0], "debit", amount), (payer, "credit", amount)]
    owed = [account for account, n in credits for _ in [0] * n] if sum(n for _, n in credits) <= 10_000 else None
    out: list[Leg] = []
    if owed is not None:  # unit by unit: slow, and there is nothing to get wrong
        mine = owed[before : before + amount]
        out = [(account, "debit", mine.count(account)) for account in dict.fromkeys(mine)]
    else:
        for account, n in credits:
            gone = min(before, n)
            before -= gone
            part = min(amount - sum(x for _, _, x in out), n - gone)
            out += [(account, "debit", part)] if part else []
    return [*out, (payer, "credit", amount)]


def reversed_legs(legs: Sequence[Leg]) -> list[Leg]:
    """Every leg with its side swapped."""
    return [(account, "credit" if side == "debit" else "debit", n) for account, side, n in legs]
