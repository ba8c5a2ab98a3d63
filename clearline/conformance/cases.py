"""A case, and the stage on which the cases of an operation play: who asks, which accounts there are, what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clearline.conformance.calculator import Account, Expected, Leg, Request, expect
from clearline.conformance.world import ASKER, BELOW, DAY, OTHER
from schemas.identity import BANK
from schemas.records import Command, NamedAmount, Record, Transaction

RICH, SOME = 10**13, 10**6  # minor units: what those have who pay, and the others
FALLBACK = "CNY"
_AMOUNTS = (100_000, 30_000, 1_000_000, 5_000, 700, 10_000_000, 50, 3)
_SHARES = (10, 100, 3, 1)  # a named amount is such a part of the amount


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to try. `before`: commands that must be accepted first, after the accounts are there.

    `rows`: rows of the state that are put before; `pending`: what must change there, as (account, side, change);
    `lapsed`: what of it because a hold lapsed before.
    `opens`: accounts that must be there afterwards with these properties. `effective_from`: of the version; `waits_ms`:
    how long after what was before.
    """

    operation: str
    name: str
    accounts: tuple[Account, ...]
    command: Transaction
    outcome: str = "settled"
    reason: str = ""
    legs: tuple[Leg, ...] = ()
    pending: tuple[Leg, ...] = ()
    opens: tuple[Account, ...] = ()
    before: tuple[Command, ...] = ()
    rows: Mapping[str, Record] = field(default_factory=dict)
    lapsed: tuple[Leg, ...] = ()
    effective_from: int = 0
    waits_ms: int = 0

    def refused(self, name: str, reason: str, command: Transaction | None = None, **changes: Any) -> Case:
        """The same case, but refused."""
        fields = {"name": name, "outcome": "rejected", "reason": reason, "legs": (), "pending": (), "opens": ()}
        return replace(self, **(fields | changes), command=command or self.command)


class Stage:
    """The accounts of one operation, for one asker and currency.

    `near`: whoever is paid lies in the asker's tree, so that it can be given back. Accounts that are fixed in the
    document, or opened on first use, are there already.
    """

    def __init__(
        self, document: Mapping[str, Any], operation: str, asker: str, currency: str, near: bool = False
    ) -> None:
        self.document = document
        self.operation = operation
        self.kind: str = document["operations"][operation]["kind"]
        self.asker = asker
        self.currency = currency
        self.steps: Sequence[Any] = document["operations"][operation].get("steps", ())
        self.roles = self._used_roles()
        self._near = near
        self.places: dict[str, list[tuple[str, str]]] = {name: self._places(name) for name in self.roles}
        self.accounts: dict[str, Account] = {}
        for name in self.roles:
            for label, account_id in self.places[name]:
                self.accounts.setdefault(account_id, self._account(name, label, account_id))

    def _used_roles(self) -> list[str]:
        if self.kind == "hold":
            return ["payer", "payee"]
        if self.kind == "exchange":
            return ["payer", "payee", "sold", "bought"]
        out: dict[str, None] = {}
        for s in self.steps:
            out[s["from"]] = None
            out.update(dict.fromkeys(t["role"] for t in s["to"]))
        return list(out)

    def role(self, name: str) -> Mapping[str, Any]:
        """The document's role."""
        found: Mapping[str, Any] = self.document["roles"][name]
        return found

    def is_named(self, name: str) -> bool:
        """Whether the transaction names its account."""
        return "account" not in self.role(name)

    def currency_of(self, name: str) -> str:
        """The currency of a role's accounts."""
        if self.kind == "exchange" and name in ("payee", "bought"):
            return other_currency(self.document, self.currency)
        return self.currency

    def _places(self, name: str) -> list[tuple[str, str]]:
        r = self.role(name)
        if "account" in r:
            root = self.asker.partition("/")[0]
            fixed = r["account"].replace("{currency}", self.currency_of(name))
            return [(name, fixed.replace("{caller}", self.asker).replace("{root}", root))]
        owner = {"caller": ASKER, "tree": BELOW, "any": BELOW if self._near else OTHER, "bank": BANK}[r["owner"]]
        labels = [f"{name}.{n}" for n in (1, 2, 10)] if r.get("many") else [name]
        return [(label, f"{owner}:{label}") for label in labels]

    def is_source(self, name: str) -> bool:
        """Whether money is taken from the role."""
        return name == "payer" if self.kind in ("hold", "exchange") else any(s["from"] == name for s in self.steps)

    def takes_balance(self, name: str) -> bool:
        """Whether what is on it decides how much is taken from it."""
        return any(s["from"] == name and s["amount"] in ("balance", "to_zero") for s in self.steps)

    def gets_balance(self, name: str) -> bool:
        """Whether what is owed on it decides how much it gets."""
        return any(t["role"] == name and t.get("amount") == "balance" for s in self.steps for t in s["to"])

    def is_zeroed(self, name: str) -> bool:
        """Whether it is brought to zero, or stands against those that are."""
        zeroed = [s for s in self.steps if s["amount"] == "to_zero"]
        return any(name in (s["from"], s["to"][0]["role"]) for s in zeroed)

    def _account(self, name: str, label: str, account_id: str) -> Account:
        r, currency = self.role(name), self.currency_of(name)
        o = r.get("open")
        if o:
            a = Account(account_id, o["type"], currency, 0, o.get("min_available"), o.get("credit_limit", 0))
        elif self.gets_balance(name):
            a = Account(account_id, "asset", currency, 0, 0)
        elif r["owner"] == BANK:
            a = Account(account_id, "asset", currency, 0, None)
        else:
            a = Account(account_id, "liability", currency, 0, None if self.is_zeroed(name) else 0)
        return a.holding(self._holds(name, label, a))

    def _holds(self, name: str, label: str, a: Account) -> int:
        number = label.partition(".")[2]
        if self.takes_balance(name):
            zero = any(s["from"] == name and s["amount"] == "to_zero" for s in self.steps)
            some = {"": 70_001, "1": 70_001, "2": 333, "10": -1_200 if zero else 20}[number]
            return -some if a.debit_normal else some
        if self.gets_balance(name):
            return 333
        if self.is_source(name):
            return 0 if a.debit_normal else RICH
        return RICH if a.debit_normal and a.least is not None else SOME

    # ---- what is asked of it --------------------------------------------------------------------------------------

    def named(self) -> dict[str, str]:
        """The accounts that the transaction names, by role."""
        return {label: account for n in self.roles if self.is_named(n) for label, account in self.places[n]}

    def request(self, amount: int, names: Mapping[str, int]) -> Request:
        """What the calculator is asked."""
        return Request(amount, names, self.currency, self.places)

    def expected(self, amount: int, names: Mapping[str, int]) -> Expected:
        """What must come of these amounts on this stage."""
        return expect(self.document, self.operation, self.request(amount, names), self.accounts)

    def command(self, amount: int, names: Mapping[str, int], **changes: Any) -> Transaction:
        """The transaction with these amounts."""
        day = changes.pop("value_date", DAY)
        given = tuple(NamedAmount(n, v) for n, v in sorted(names.items()))
        return Transaction(
            self.asker, "the-case", self.document["product"], self.operation, amount, self.currency, self.named(), (),
            day, amounts=given, **changes,
        )  # fmt: skip

    def case(self, name: str, amount: int, names: Mapping[str, int]) -> Case:
        """A case of these amounts, with what must come of it."""
        found = self.expected(amount, names)
        outcome = "rejected" if found.reason else "settled"
        return Case(
            self.operation, name, tuple(self.accounts.values()), self.command(amount, names), outcome, found.reason,
            tuple(found.legs),
        )  # fmt: skip

    def with_account(self, changed: Account) -> Stage:
        """The same stage with an account that is otherwise."""
        new = Stage(self.document, self.operation, self.asker, self.currency, self._near)
        new.accounts = {**self.accounts, changed.account_id: changed}
        return new

    # ---- amounts ---------------------------------------------------------------------------------------------------

    def uses_amount(self) -> bool:
        """Whether the transaction's amount is used at all."""
        if self.kind in ("hold", "exchange"):
            return True
        return any("amount" in (e, _of(e, own)) for e, own in self._expressions())

    def _expressions(self) -> list[tuple[Any, bool]]:
        """Each amount expression, and whether it is a step's own."""
        out: list[tuple[Any, bool]] = []
        for s in self.steps:
            out.append((s["amount"], True))
            out += [(t.get("amount", "remaining"), False) for t in s["to"]]
        return out

    def names(self) -> list[str]:
        """Named amounts that the operation uses, those of many-roles not among them."""
        known = self.document["operations"][self.operation].get("amounts", [])
        return [n for n in known if any(n in (e, _of(e, own)) for e, own in self._expressions())]

    def parts(self) -> list[str]:
        """The labels for which a named amount is given."""
        out: dict[str, None] = {}
        for s in self.steps:
            for t in s["to"]:
                if t.get("amount") == "named":
                    out.update(dict.fromkeys(label for label, _ in self.places[t["role"]]))
        return list(out)

    def sample(self) -> tuple[int, dict[str, int]] | None:
        """Amounts with which everything of the operation happens, or as much as can; None when nothing settles."""
        if self.asker == BANK and any(not self.is_named(n) and self.role(n)["owner"] != BANK for n in self.roles):
            return None  # the bank has no such accounts of its own
        best: tuple[int, tuple[int, dict[str, int]]] | None = None
        most = gross_max(self.document, self.currency)
        for amount in _AMOUNTS:
            if not self.steps:
                return (amount, {}) if most is None or amount <= most else None
            if self.uses_amount() and most is not None and amount > most:
                continue
            for share in _SHARES if self.names() or self.parts() else (1,):
                names = {n: max(1, amount // share) for n in self.names()}
                names |= {label: max(1, amount // (10 + i)) for i, label in enumerate(self.parts())}
                asked = amount if self.uses_amount() else 0
                found = self.expected(asked, names)
                if not found.reason and (best is None or len(found.legs) > best[0]):
                    best = len(found.legs), (asked, names)
        return best[1] if best else None


def _of(expression: Any, own: bool) -> str:
    """What an expression is taken of; empty when it is a word or a fixed amount."""
    if not isinstance(expression, dict) or "fixed" in expression:
        return ""
    found: str = expression.get("of", "amount" if own else "step")
    return found


def currencies(document: Mapping[str, Any]) -> list[str]:
    """The currencies in which a product is tried: its own, or one."""
    return list(document.get("currencies", [])) or [FALLBACK]


def other_currency(document: Mapping[str, Any], currency: str) -> str:
    """Another currency, of the product if it has more than one."""
    return next((c for c in (*document.get("currencies", []), "USD", "CNY") if c != currency), "EUR")


def gross_max(document: Mapping[str, Any], currency: str) -> int | None:
    """The most that the product's own limits let one transaction move in a currency; None for any amount."""
    found = [x for x in document.get("limits", []) if x.get("currency") and x.get("amount_max") is not None]
    here = [int(x["amount_max"]) for x in found if x["currency"] == currency]
    return min(here) if here else 0 if any(x.get("currency") for x in document.get("limits", [])) else None


def askers(document: Mapping[str, Any], operation: str) -> list[str]:
    """Who may ask for an operation: the partner, the bank."""
    callers = document["operations"][operation].get("callers", ["partner"])
    return [asker for caller, asker in (("partner", ASKER), ("bank", BANK)) if caller in callers]
