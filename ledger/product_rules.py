"""What makes a product's document good: its form. Pure: a document in, findings out, each with its path and rule.

`ledger.product_sense` goes on where the form is right. The rules stand in docs/products.md, in this order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ledger.accounts import ACCOUNT_TYPES
from ledger.money import AMOUNT_MAX, EXPONENTS
from ledger.reasons import Reason

PRODUCT = re.compile(r"[a-z][a-z0-9-]{0,63}")
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
VERSION_MAX = 2**31 - 1
TITLE_MAX = 200
NUMBER_MAX = 50  # roles, operations, steps, limits
TARGETS_MAX = 20
TIERS_MAX = 20
OWNERS = ("caller", "tree", "any", "bank")
KINDS = ("transfer", "entry", "hold", "capture", "void", "reversal", "exchange", "refund")
CALLERS = ("partner", "bank")
ROUNDINGS = ("half_up", "half_even", "down", "up")
WINDOWS = ("transaction", "minute", "hour", "day", "month")
RESERVED = frozenset({"amount", "step", "balance", "to_zero", "remaining", "equal", "named"})
ADJUSTMENT = "adjustment"
_FIXED_ACCOUNT = re.compile(
    r"(bank|\{caller\}|\{root\}):([A-Za-z0-9]|\{(?:currency|caller|root)\})([A-Za-z0-9._:-]|\{(?:currency|caller|root)\})*"
)


class Finding(NamedTuple):
    """One broken rule, and where."""

    path: str
    rule: str
    reason: Reason = Reason.PRODUCT_INVALID


class Form:
    """Collects what is wrong with the form of a document."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def wrong(self, path: str, rule: str) -> None:
        """Takes a finding."""
        self.findings.append(Finding(path, rule))

    def document(self, d: Mapping[str, Any]) -> None:
        """The whole document."""
        if not self._keys("", d, ("product", "version", "operations"), ("title", "currencies", "roles", "limits")):
            return
        self._name("product", d["product"], PRODUCT, "a-z, then up to 63 of a-z 0-9 -")
        self._number("version", d["version"], 1, VERSION_MAX)
        if "title" in d and not (isinstance(d["title"], str) and len(d["title"]) <= TITLE_MAX):
            self.wrong("title", f"a text of at most {TITLE_MAX} characters")
        self._each("currencies", d.get("currencies", []), self._currency, len(EXPONENTS))
        self._table("roles", d.get("roles", {}), self._role)
        self._table("operations", d["operations"], self._operation)
        if d["operations"] == {}:
            self.wrong("operations", "at least one operation")
        self._each("limits", d.get("limits", []), self._limit, NUMBER_MAX)

    # ---- pieces ----------------------------------------------------------------------------------------------------

    def _keys(self, path: str, d: object, needs: tuple[str, ...], may: tuple[str, ...] = ()) -> bool:
        """Whether it is an object with these keys and no others."""
        if not isinstance(d, dict):
            self.wrong(path, "an object of names and values")
            return False
        before = len(self.findings)
        for k in d:
            if k not in needs and k not in may:
                self.wrong(_in(path, str(k)), f"no such key; known are {', '.join((*needs, *may))}")
        for k in needs:
            if k not in d:
                self.wrong(_in(path, k), "is missing")
        return len(self.findings) == before

    def _table(self, path: str, d: object, check: Callable[[str, Any], None]) -> None:
        if not isinstance(d, dict):
            self.wrong(path, "an object of names and values")
            return
        if len(d) > NUMBER_MAX:
            self.wrong(path, f"at most {NUMBER_MAX}")
        for name, value in d.items():
            at = f"{path}.{name}"
            if not NAME.fullmatch(name):
                self.wrong(at, "a name is a-z, then up to 31 of a-z 0-9 _")
            check(at, value)

    def _each(self, path: str, found: object, check: Callable[[str, Any], None], most: int, least: int = 0) -> None:
        if not isinstance(found, list):
            self.wrong(path, "a list")
            return
        if not least <= len(found) <= most:
            self.wrong(path, f"{least} to {most} entries" if least else f"at most {most} entries")
        for i, value in enumerate(found):
            check(f"{path}[{i}]", value)
        if all(isinstance(v, str) for v in found) and len(set(found)) != len(found):
            self.wrong(path, "nothing twice")

    def _name(self, path: str, value: object, form: re.Pattern[str], rule: str) -> None:
        if not isinstance(value, str) or not form.fullmatch(value):
            self.wrong(path, rule)

    def _number(self, path: str, value: object, least: int, most: int) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.wrong(path, f"a whole number from {least} to {most}")

    def _one_of(self, path: str, value: object, known: tuple[str, ...]) -> bool:
        if isinstance(value, str) and value in known:
            return True
        self.wrong(path, f"one of {', '.join(known)}")
        return False

    def _currency(self, path: str, value: object) -> None:
        if not isinstance(value, str) or value not in EXPONENTS:
            self.wrong(path, "an active ISO 4217 code")

    def _role(self, path: str, r: Any) -> None:
        if not self._keys(path, r, ("owner",), ("account", "many", "open")):
            return
        owner = r["owner"]
        known = self._one_of(f"{path}.owner", owner, OWNERS)
        account = r.get("account")
        if "account" in r and not (isinstance(account, str) and _FIXED_ACCOUNT.fullmatch(account)):
            self.wrong(f"{path}.account", "bank:, {caller}: or {root}: and a name, with {currency}, {caller}, {root}")
        elif "account" in r and known and account.startswith("bank:") != (owner == "bank"):
            self.wrong(f"{path}.account", "begins with bank: for owner bank, with {caller}: or {root}: for the others")
        many = r.get("many", False)
        if not isinstance(many, bool):
            self.wrong(f"{path}.many", "true or false")
        elif many and "account" in r:
            self.wrong(f"{path}.many", "a fixed account is one")
        if "open" in r:
            self._opening(f"{path}.open", r["open"])
            if owner == "any":
                self.wrong(f"{path}.open", "only for owners caller, tree and bank")

    def _opening(self, path: str, o: Any) -> None:
        if not self._keys(path, o, ("type",), ("min_available", "credit_limit")):
            return
        self._one_of(f"{path}.type", o["type"], tuple(sorted(ACCOUNT_TYPES)))
        least = o.get("min_available")
        if least is not None:
            self._number(f"{path}.min_available", least, -AMOUNT_MAX, AMOUNT_MAX)
        self._number(f"{path}.credit_limit", o.get("credit_limit", 0), 0, AMOUNT_MAX)
        if least is None and o.get("credit_limit", 0) != 0:
            self.wrong(f"{path}.credit_limit", "0 without min_available")

    def _operation(self, path: str, o: Any) -> None:
        if path == f"operations.{ADJUSTMENT}":
            self.wrong(path, "adjustment is the bank's own and always there")
        kind = o.get("kind") if isinstance(o, dict) else None
        if isinstance(o, dict) and "kind" in o and not self._one_of(f"{path}.kind", kind, KINDS):
            return  # it decides which keys there may be
        steps = kind == "transfer"
        may = ("amounts",) if steps else ("fees",) if kind == "refund" else ()
        if not self._keys(path, o, ("kind", "steps") if steps else ("kind",), ("callers", *may)):
            return
        self._each(f"{path}.callers", o.get("callers", []), lambda p, v: _ignore(self._one_of(p, v, CALLERS)), 2)
        if "fees" in o:
            self._one_of(f"{path}.fees", o["fees"], ("keep", "return"))
        names = o.get("amounts", [])
        self._each(f"{path}.amounts", names, self._amount_name, NUMBER_MAX)
        known = [n for n in names if isinstance(n, str)] if isinstance(names, list) else []
        if steps:
            self._each(f"{path}.steps", o["steps"], lambda p, s: self._step(p, s, known), NUMBER_MAX, 1)

    def _amount_name(self, path: str, value: object) -> None:
        if not isinstance(value, str) or not NAME.fullmatch(value) or value in RESERVED:
            self.wrong(path, f"a-z, then up to 31 of a-z 0-9 _, none of {', '.join(sorted(RESERVED))}")

    def _step(self, path: str, s: Any, names: list[str]) -> None:
        if not self._keys(path, s, ("from", "amount", "to")):
            return
        self._name(f"{path}.from", s["from"], NAME, "the name of a role")
        words = ("amount", "balance", "to_zero", *names)
        self.amount(f"{path}.amount", s["amount"], words, ("amount", *names))

        def target(at: str, t: Any) -> None:
            if not self._keys(at, t, ("role",), ("amount",)):
                return
            self._name(f"{at}.role", t["role"], NAME, "the name of a role")
            words = ("amount", "balance", "remaining", "equal", "named", *names)
            self.amount(f"{at}.amount", t.get("amount", "remaining"), words, ("amount", "step", *names))

        self._each(f"{path}.to", s["to"], target, TARGETS_MAX, 1)

    def amount(self, path: str, a: Any, words: tuple[str, ...], of: tuple[str, ...]) -> None:
        """An amount expression. `words`: the texts it may be; `of`: what a part of may be taken."""
        if not isinstance(a, dict):
            self._one_of(path, a, words)
            return
        if "tiers" in a:
            if self._keys(path, a, ("tiers",), ("of",)):
                last = f".tiers[{len(a['tiers']) - 1 if isinstance(a['tiers'], list) else 0}]"
                self._each(
                    f"{path}.tiers", a["tiers"],
                    lambda p, t: self._price(p, t, () if p.endswith(last) else ("up_to",), ()), TIERS_MAX, 1,
                )  # fmt: skip
        else:
            self._price(path, a, (), () if "fixed" in a else ("of",))
        if "of" in a:
            self._one_of(f"{path}.of", a["of"], of)

    def _price(self, path: str, a: Any, needs: tuple[str, ...], may: tuple[str, ...]) -> None:
        """A fixed amount or a percentage, in a tier or by itself."""
        if isinstance(a, dict) and "fixed" in a:
            if not self._keys(path, a, (*needs, "fixed"), may):
                return
        elif not self._keys(path, a, (*needs, "percent"), (*may, "rounding", "min", "max")):
            return
        if "percent" in a and not isinstance(a["percent"], str):
            self.wrong(f"{path}.percent", 'a decimal number as text, in quotes, such as "0.6"')
        if "rounding" in a:
            self._one_of(f"{path}.rounding", a["rounding"], ROUNDINGS)
        for name in ("fixed", "min", "max", "up_to"):
            if name in a:
                self._money(f"{path}.{name}", a[name])

    def _money(self, path: str, table: Any) -> None:
        if not isinstance(table, dict):
            self.wrong(path, "whole minor units by currency, such as {CNY: 100}")
            return
        for currency, value in table.items():
            self._number(f"{path}.{currency}", value, 0, AMOUNT_MAX)

    def _limit(self, path: str, limit: Any) -> None:
        if not self._keys(path, limit, ("window",), ("currency", "count_max", "amount_max")):
            return
        for name in ("window", "currency"):
            if not isinstance(limit.get(name, ""), str):
                self.wrong(f"{path}.{name}", "a text")
        for name in ("count_max", "amount_max"):
            value = limit.get(name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                self.wrong(f"{path}.{name}", "a whole number")


def _in(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _ignore(_: object) -> None:
    return
