"""Whether a product's document makes sense: that its operations can be reached, paid for, and balance.

Asked of documents whose form is right (`ledger.product_rules`). The rules stand in docs/products.md, in this order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ledger.money import AMOUNT_MAX, EXPONENTS
from ledger.product_rules import WINDOWS, Finding, Form
from ledger.products import BUILT_IN_ROLES, WHOLE, percent_of
from ledger.reasons import Reason

_PERCENT = re.compile(r"[0-9]{1,3}(\.[0-9]{1,6})?")
# Kinds that need another one: they point at what it settled.
_POINTS_AT = {
    "capture": frozenset({"hold"}),
    "void": frozenset({"hold"}),
    "refund": frozenset({"transfer", "capture"}),
    "reversal": frozenset({"transfer", "entry", "exchange", "capture"}),
}


def check(document: object) -> list[Finding]:
    """What is wrong with a document, in the order of the page; empty when it may be published."""
    form = Form()
    if not isinstance(document, dict):
        return [Finding("", "an object of names and values")]
    form.document(document)
    if form.findings:
        return form.findings
    return _Sense(document).findings()


class _Sense:
    def __init__(self, d: Mapping[str, Any]) -> None:
        self.currencies: list[str] = d.get("currencies", [])
        self.roles: dict[str, Any] = d.get("roles", {})
        self.operations: dict[str, Any] = d["operations"]
        self.limits: list[Any] = d.get("limits", [])

    def findings(self) -> list[Finding]:
        undefined = list(self._roles())
        if undefined:
            return undefined
        return [
            *self._form_of_many(), *self._owners(), *self._bank_roles(), *self._reach(), *self._prices(),
            *self._limits(), *self._balance(),
        ]  # fmt: skip

    def _used(self) -> Iterator[tuple[str, str, str, str]]:
        """Each place of a role: path, role, operation, and its part: from, to, or its name in a hold or exchange."""
        for name, o in self.operations.items():
            at = f"operations.{name}"
            for role in BUILT_IN_ROLES.get(o["kind"], ()):
                yield at, role, name, role
            for i, s in enumerate(o.get("steps", ())):
                yield f"{at}.steps[{i}].from", s["from"], name, "from"
                for j, t in enumerate(s["to"]):
                    yield f"{at}.steps[{i}].to[{j}].role", t["role"], name, "to"

    def _steps(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, o in self.operations.items():
            for i, s in enumerate(o.get("steps", ())):
                yield f"operations.{name}.steps[{i}]", s

    def _roles(self) -> Iterator[Finding]:
        used = {role for _, role, _, _ in self._used()}
        for name in self.roles:
            if name not in used:
                yield Finding(f"roles.{name}", "no operation uses this role")
        for path, role, _, _ in self._used():
            if role not in self.roles:
                yield Finding(path, f"there is no role {role}")

    def _is_many(self, role: str) -> bool:
        return bool(self.roles[role].get("many", False))

    def _form_of_many(self) -> Iterator[Finding]:
        """What a step or a built-in operation may ask of a role of several accounts, and of one account."""
        for path, role, _, part in self._used():
            if part not in ("from", "to") and self._is_many(role):
                yield Finding(path, f"{role} of a {self.operations[path.split('.')[1]]['kind']} is one account")
        for at, s in self._steps():
            whole = s["amount"] in ("balance", "to_zero")
            if self._is_many(s["from"]) and not whole:
                yield Finding(f"{at}.amount", "a role of many is debited only with balance or to_zero")
            if s["amount"] == "to_zero" and (len(s["to"]) != 1 or s["to"][0].get("amount", "remaining") != "remaining"):
                yield Finding(f"{at}.to", "to_zero has one target, which takes it all")
            for j, t in enumerate(s["to"]):
                amount, many = t.get("amount", "remaining"), self._is_many(t["role"])
                if many != (amount in ("equal", "named")) or (many and s["amount"] == "to_zero"):
                    rule = "credited only with equal or named" if many else "one account: equal and named are for many"
                    yield Finding(f"{at}.to[{j}].amount", f"{t['role']} is {rule}")

    def _owners(self) -> Iterator[Finding]:
        for path, role, operation, part in self._used():
            owner, kind = self.roles[role]["owner"], self.operations[operation]["kind"]
            if part in ("from", "payer") and owner in ("tree", "any"):
                yield Finding(path, f"{role} is debited, so its owner is caller or bank, not {owner}")
            elif part == "payee" and owner == "any":
                yield Finding(path, f"the payee of a {kind} is not of owner any")
            elif part in ("sold", "bought") and owner != "bank":
                yield Finding(path, f"{part} is an account of the bank")
        for at, s in self._steps():
            owner = self.roles[s["to"][0]["role"]]["owner"]
            if s["amount"] == "to_zero" and owner in ("tree", "any"):
                yield Finding(f"{at}.to[0].role", f"to_zero may debit it, so its owner is caller or bank, not {owner}")

    def _bank_roles(self) -> Iterator[Finding]:
        for path, role, operation, _ in self._used():
            r = self.roles[role]
            callers = self.operations[operation].get("callers", ["partner"])
            if r["owner"] == "bank" and "account" not in r and "partner" in callers:
                rule = "partners may not choose an account of the bank; give it an account, or let only bank call"
                yield Finding(path, f"{role}: {rule}")

    def _reach(self) -> Iterator[Finding]:
        kinds = {o["kind"] for o in self.operations.values() if o.get("callers", ["partner"])}
        for name, o in self.operations.items():
            wants = _POINTS_AT.get(o["kind"])
            if not o.get("callers", ["partner"]):
                yield Finding(f"operations.{name}.callers", "nobody may call it")
            elif wants is not None and not wants & kinds:
                rule = f"a {o['kind']} needs an operation of kind {' or '.join(sorted(wants))}"
                yield Finding(f"operations.{name}.kind", rule)

    def _prices(self) -> Iterator[Finding]:
        for at, s in self._steps():
            yield from self._price(f"{at}.amount", s["amount"])
            for j, t in enumerate(s["to"]):
                yield from self._price(f"{at}.to[{j}].amount", t.get("amount"))

    def _price(self, path: str, a: Any) -> Iterator[Finding]:
        if not isinstance(a, dict):
            return
        if "tiers" in a:
            before: dict[str, int] | None = None
            for i, t in enumerate(a["tiers"]):
                at = f"{path}.tiers[{i}]"
                yield from self._price(at, t)
                up_to = t.get("up_to")
                if up_to and before is not None and any(up_to.get(c, 0) <= before.get(c, -1) for c in before):
                    yield Finding(f"{at}.up_to", "rises from tier to tier")
                before = up_to
            return
        for name in ("fixed", "min", "max", "up_to"):
            if name in a:
                yield from self._listed(f"{path}.{name}", a[name])
        if "percent" in a and not (_PERCENT.fullmatch(a["percent"]) and percent_of(a["percent"]) <= WHOLE):
            yield Finding(f"{path}.percent", "from 0 to 100, with at most 6 decimals")
        most = a.get("max", {})
        for currency, least in a.get("min", {}).items():
            if least > most.get(currency, AMOUNT_MAX):
                yield Finding(f"{path}.min.{currency}", "not above max")

    def _listed(self, path: str, table: Mapping[str, int]) -> Iterator[Finding]:
        if not self.currencies:
            yield Finding(path, "amounts need the product's currencies: list them")
            return
        for c in self.currencies:
            if c not in table:
                yield Finding(f"{path}.{c}", "is missing: it is a currency of the product")
        for c in table:
            if c not in self.currencies:
                yield Finding(f"{path}.{c}", "is not a currency of the product")

    def _limits(self) -> Iterator[Finding]:
        seen: set[tuple[str, str]] = set()
        for i, limit in enumerate(self.limits):
            at, window, currency = f"limits[{i}]", limit["window"], limit.get("currency", "")
            count, amount = limit.get("count_max"), limit.get("amount_max")
            if window not in WINDOWS:
                yield Finding(f"{at}.window", f"one of {', '.join(WINDOWS)}")
            if currency and currency not in EXPONENTS:
                yield Finding(f"{at}.currency", "an active ISO 4217 code, or empty")
            if count is None and amount is None:
                yield Finding(at, "count_max or amount_max, or both")
            if window == "transaction" and count is not None:
                yield Finding(f"{at}.count_max", "not for one transaction")
            if amount is not None and not currency:
                yield Finding(f"{at}.amount_max", "needs a currency")
            for name, value in (("count_max", count), ("amount_max", amount)):
                if value is not None and not 0 <= value <= AMOUNT_MAX:
                    yield Finding(f"{at}.{name}", f"a whole number from 0 to {AMOUNT_MAX}")
            if (window, currency) in seen:
                yield Finding(at, "no window and currency twice")
            seen.add((window, currency))

    def _balance(self) -> Iterator[Finding]:
        for at, s in self._steps():
            rest = sum(t.get("amount", "remaining") in ("remaining", "equal") for t in s["to"])
            if rest != 1:
                yield Finding(
                    f"{at}.to", f"exactly one target takes what remains, not {rest}", Reason.TEMPLATE_UNBALANCED
                )
            parts = [t["amount"] for t in s["to"] if isinstance(t.get("amount"), dict)]
            good = (p for p in parts if _PERCENT.fullmatch(p.get("percent", "")))
            if sum(percent_of(p["percent"]) for p in good if p.get("of", "step") == "step") > WHOLE:
                yield Finding(f"{at}.to", "percentages add up to more than 100", Reason.TEMPLATE_UNBALANCED)
