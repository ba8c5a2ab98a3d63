"""What a product's steps post: amounts worked out in whole numbers, legs in the order of docs/products.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from clearline.audit.documents import TAKES_THE_REST
from clearline.audit.figures import LONG_MAX, Leg

LEGS_MAX = 1_000


class Worked(NamedTuple):
    """The legs of a template, the role of each, and the reason why they cannot be posted as they are, or empty.

    `same`: one account is on both sides of a step. `asked`: account, side and role of what had its balance asked.
    """

    legs: list[Leg]
    roles: list[str]
    why: str
    same: bool
    asked: list[tuple[str, str, str]]


def rounded(value: Fraction, how: str) -> int:
    """A whole number of minor units; the value is not negative."""
    whole, rest = divmod(value, 1)
    n = int(whole)
    if how == "down" or not rest:
        return n
    if how == "up":
        return n + 1
    half = Fraction(1, 2)
    if rest == half:
        return n + 1 if how == "half_up" else n + n % 2
    return n + (rest > half)


def uses_amount(op: dict[str, Any]) -> bool:
    """Whether the transaction's own amount takes part in the steps."""
    for step in op["steps"]:
        for what, default in ((step["amount"], "amount"), *((t.get("amount"), "step") for t in step["to"])):
            of = what.get("of", default) if isinstance(what, dict) and "fixed" not in what else what
            if of == "amount":
                return True
    return False


class Template:
    """Works out one transaction. `accounts`: role to its accounts, in their order, by the name that the transaction
    gives them; `amounts`: by name, the transaction's own as `amount`; `given`: what a debit could take from an account
    of a role; `owed`: what a credit could pay there; minor units."""

    def __init__(
        self, op: dict[str, Any], accounts: Mapping[str, list[tuple[str, str]]], amounts: Mapping[str, int],
        currency: str, given: Callable[[str, str], int], owed: Callable[[str, str], int],
    ) -> None:  # fmt: skip
        self._op, self._accounts, self._amounts = op, accounts, amounts
        self._currency, self._given, self._owed = currency, given, owed
        self._legs: list[Leg] = []
        self._roles: list[str] = []
        self._exceeded = self._same = False
        self._asked: list[tuple[str, str, str]] = []

    def work_out(self) -> Worked:
        """All steps."""
        for step in self._op["steps"]:
            given = {account for r in step["to"] for _, account in self._accounts[r["role"]]}
            self._same = self._same or any(account in given for _, account in self._accounts[step["from"]])
            if step["amount"] == "to_zero":
                self._to_zero(step)
            else:
                self._step(step)
        why = ""
        if self._exceeded:
            why = "split_exceeds_amount"
        elif not self._legs:
            why = "nothing_to_move"
        elif any(leg[2] > LONG_MAX for leg in self._legs):
            why = "amount_too_large"
        elif len(self._legs) > LEGS_MAX:
            why = "postings_count"
        return Worked(self._legs, self._roles, why, self._same, self._asked)

    def _balance(self, role: str, account: str) -> int:
        self._asked.append((account, "debit", role))
        return self._given(role, account)

    def _add(self, role: str, account: str, side: str, amount: int) -> None:
        if amount > 0:
            self._legs.append((account, side, amount, self._currency))
            self._roles.append(role)

    def _to_zero(self, step: dict[str, Any]) -> None:
        role = step["to"][0]["role"]
        ((_, target),) = self._accounts[role][:1]
        for _, account in self._accounts[step["from"]]:
            there = self._balance(step["from"], account)
            first, second = ((step["from"], account), (role, target))
            if there < 0:
                first, second = second, first
            self._add(*first, "debit", abs(there))
            self._add(*second, "credit", abs(there))

    def _step(self, step: dict[str, Any]) -> None:
        sources = self._accounts[step["from"]]
        if step["amount"] == "balance":
            parts = [max(0, self._balance(step["from"], account)) for _, account in sources]
        else:
            parts = [self._figure(step["amount"], "amount", 0)]
        for (_, account), part in zip(sources, parts, strict=False):
            self._add(step["from"], account, "debit", part)
        total = sum(parts)
        shares = self._shares(step["to"], total)
        for target, share in zip(step["to"], shares, strict=True):
            for (_, account), part in zip(self._accounts[target["role"]], share, strict=False):
                self._add(target["role"], account, "credit", part)

    def _shares(self, targets: list[dict[str, Any]], total: int) -> list[list[int]]:
        """What each account of each target is given."""
        shares: list[list[int]] = []
        left = total
        for t in targets:
            what, accounts = t.get("amount", "remaining"), self._accounts[t["role"]]
            if isinstance(what, str) and what in TAKES_THE_REST:
                share: list[int] = []
            elif what == "named":
                share = [self._amounts[name] for name, _ in accounts]
            elif what == "balance":
                self._asked.append((accounts[0][1], "credit", t["role"]))
                share = [max(0, min(left, self._owed(t["role"], accounts[0][1])))]
            else:
                share = [self._figure(what, "step", total)]
            left -= sum(share)
            shares.append(share)
        if left < 0:
            self._exceeded = True
        left = max(0, left)
        for i, t in enumerate(targets):
            what = t.get("amount", "remaining")
            if what == "remaining":
                shares[i] = [left]
            elif what == "equal":
                n = len(self._accounts[t["role"]])
                shares[i] = [left // n + (j < left % n) for j in range(n)]
        return shares

    def _figure(self, what: str | dict[str, Any], default: str, step: int) -> int:
        """An amount in minor units; `step`: that of the step, for a target."""
        if isinstance(what, str):
            return self._amounts[what]
        base = step if what.get("of", default) == "step" else self._amounts.get(what.get("of", default), 0)
        tiers = what.get("tiers", [what])
        figure = next(x for x in tiers if "up_to" not in x or x["up_to"][self._currency] >= base)
        if "fixed" in figure:
            return int(figure["fixed"][self._currency])
        part = rounded(base * Fraction(figure["percent"]) / 100, figure.get("rounding", "half_up"))
        part = max(part, figure.get("min", {}).get(self._currency, part))
        return int(min(part, figure.get("max", {}).get(self._currency, part)))
