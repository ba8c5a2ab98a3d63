"""What a product's operation of kind transfer posts: its steps worked out with fractions, from docs/products.md."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from schemas.records import Transaction
from tests.model.documents import roles_of
from tests.model.values import LONG_MAX, Known, Leg, owner, root

Document = dict[str, Any]
Balance = Callable[[Leg], int | None]  # available on a leg's account, or owed on a target's; None: may not be asked


@dataclass
class Work:
    """What a transaction comes to: its legs, and what cannot be."""

    legs: list[Leg] = field(default_factory=list)
    exceeds: bool = False  # the targets of a step take more than the step

    def put(self, leg: Leg, amount: int) -> None:
        if amount > 0:
            self.legs.append(leg._replace(amount=amount))


def numbers(t: Transaction, role: str) -> list[str]:
    """The names in `accounts` of the accounts of a many-role, in numerical order."""
    found = [n for n in t.accounts if re.fullmatch(re.escape(role) + r"\.[1-9][0-9]{0,2}", n)]
    return sorted(found, key=lambda n: int(n.rsplit(".", 1)[1]))


def wanted_roles(d: Document, operation: Document) -> list[tuple[str, bool]]:
    """The roles that `accounts` must name, and whether each is of many accounts."""
    return [
        (name, d["roles"][name].get("many", False)) for name in roles_of(operation) if "account" not in d["roles"][name]
    ]


def _parts(operation: Document) -> Iterator[tuple[Document, bool]]:
    """Each step and each target, and whether it is a step."""
    for step in operation.get("steps", ()):
        yield step, True
        for target in step["to"]:
            yield target, False


def names_used(operation: Document) -> set[str]:
    """The amounts that an operation works with: `amount`, and names of its own."""
    out: set[str] = set()
    for part, is_step in _parts(operation):
        amount = part.get("amount", "remaining")
        if isinstance(amount, str):
            out.add(amount)
        elif "fixed" not in amount:
            out.add(amount.get("of", "amount" if is_step else "step"))
    return out - {"balance", "to_zero", "remaining", "equal", "named", "step"}


def amounts_wanted(t: Transaction, operation: Document) -> set[str]:
    """The names that `amounts` of the transaction must have, exactly."""
    out = names_used(operation) - {"amount"}
    for part, is_step in _parts(operation):
        if not is_step and part.get("amount") == "named":
            out |= set(numbers(t, part["role"]))
    return out


def legs_of_role(t: Transaction, d: Document, role: str, side: str, currency: str = "") -> list[Leg]:
    """A leg of nothing for each account of a role, in order. `currency`: if another than the transaction's."""
    rule = d["roles"][role]
    if "account" in rule:
        fixed = rule["account"].replace("{currency}", currency or t.currency)
        fixed = fixed.replace("{caller}", t.partner_id).replace("{root}", root(t.partner_id))
        accounts = [fixed]
    elif rule.get("many", False):
        accounts = [t.accounts[n] for n in numbers(t, role)]
    else:
        accounts = [t.accounts[role]]
    out = []
    for account in accounts:
        opened = None
        if "open" in rule:
            o = rule["open"]
            opened = Known(
                owner(account), o["type"], t.currency, o.get("min_available"), credit=o.get("credit_limit", 0)
            )
        out.append(Leg(account, side, 0, t.currency, role, rule["owner"], opened))
    return out


def part_of(amount: Document, of: int, currency: str) -> int:
    """A fixed, percent or tiered amount, minor units; `of`: what percent and tiers are taken of."""
    for tier in amount.get("tiers", ()):
        if "up_to" not in tier or of <= tier["up_to"][currency]:
            return part_of(tier, of, currency)
    if "fixed" in amount:
        return int(amount["fixed"][currency])
    exact = Fraction(amount["percent"]) * of / 100
    match amount.get("rounding", "half_up"):
        case "half_up":
            out = math.floor(exact + Fraction(1, 2))
        case "half_even":
            out = round(exact)
        case "down":
            out = math.floor(exact)
        case _:
            out = math.ceil(exact)
    if "min" in amount:
        out = max(out, amount["min"][currency])
    if "max" in amount:
        out = min(out, amount["max"][currency])
    return out


def work(t: Transaction, d: Document, operation: Document, balance: Balance) -> Work:
    """Step by step what is posted. A leg whose balance may not be asked stays, with nothing on it."""
    done = Work()
    for step in operation["steps"]:
        if step["amount"] == "to_zero":
            _to_zero(done, t, d, step, balance)
        else:
            _step(done, t, d, step, balance)
    return done


def _named(t: Transaction, name: str) -> int:
    if name == "amount":
        return t.amount
    return next(a.amount for a in t.amounts if a.name == name)


def _to_zero(done: Work, t: Transaction, d: Document, step: Document, balance: Balance) -> None:
    target = legs_of_role(t, d, step["to"][0]["role"], "credit")[0]
    for leg in legs_of_role(t, d, step["from"], "debit"):
        available = balance(leg)
        if available is None:
            done.legs.append(leg)
        elif available >= 0:
            done.put(leg, available)
            done.put(target, available)
        else:
            done.put(target._replace(side="debit"), -available)
            done.put(leg._replace(side="credit"), -available)


def _step(done: Work, t: Transaction, d: Document, step: Document, balance: Balance) -> None:
    total = 0
    for leg in legs_of_role(t, d, step["from"], "debit"):
        amount = step["amount"]
        if amount == "balance":
            available = balance(leg)
            if available is None:
                done.legs.append(leg)
            taken = max(0, available or 0)
        elif isinstance(amount, str):
            taken = _named(t, amount)
        else:
            taken = part_of(amount, _named(t, amount.get("of", "amount")), t.currency)
        done.put(leg, taken)
        total += taken
    left, shares = total, {}
    targets = [(n, target, target.get("amount", "remaining")) for n, target in enumerate(step["to"])]
    for n, target, amount in targets:
        if amount in ("remaining", "equal"):
            continue
        shares[n] = _shares(done, t, d, target, amount, total, left, balance)
        left -= sum(shares[n])
    if left < 0:
        done.exceeds = True
    for n, target, amount in targets:
        legs = legs_of_role(t, d, target["role"], "credit")
        if amount == "remaining":
            shares[n] = [left]
        elif amount == "equal":
            each, over = divmod(max(left, 0), len(legs))
            shares[n] = [each + 1] * over + [each] * (len(legs) - over)
        for leg, share in zip(legs, shares[n], strict=True):
            done.put(leg, share)


def _shares(
    done: Work, t: Transaction, d: Document, target: Document, amount: Any, total: int, left: int, balance: Balance
) -> list[int]:
    """What a target takes, for each of its accounts."""
    if amount == "named":
        return [_named(t, name) for name in numbers(t, target["role"])]
    if amount == "balance":
        (leg,) = legs_of_role(t, d, target["role"], "credit")
        owed = balance(leg)
        if owed is None:
            done.legs.append(leg)
        return [min(max(left, 0), max(owed or 0, 0))]
    if isinstance(amount, str):
        return [_named(t, amount)]
    of = amount.get("of", "step")
    return [part_of(amount, total if of == "step" else _named(t, of), t.currency)]


def named_twice(t: Transaction, d: Document, operation: Document) -> bool:
    """Whether a many-role that is debited names one account twice: its balance is there once."""
    for step in operation["steps"]:
        if d["roles"][step["from"]].get("many", False):
            taken = [t.accounts[n] for n in numbers(t, step["from"])]
            if len(set(taken)) < len(taken):
                return True
    return False


def same_account(t: Transaction, d: Document, operation: Document) -> bool:
    """Whether one account stands on both sides of one step."""
    for step in operation["steps"]:
        takes = {leg.account for leg in legs_of_role(t, d, step["from"], "debit")}
        gives = {leg.account for target in step["to"] for leg in legs_of_role(t, d, target["role"], "credit")}
        if takes & gives:
            return True
    return False


def too_large(legs: list[Leg]) -> bool:
    return any(leg.amount > LONG_MAX for leg in legs)
