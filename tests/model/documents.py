"""Whether a product's document keeps the rules of docs/products.md, asked one rule after the other, in the page's order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

from tests.model import limits
from tests.model.values import EXPONENTS, LONG_MAX, TYPES

ROLE = r"[a-z][a-z0-9_]{0,31}"
ROLES_OF_KIND = {"hold": ("payer", "payee"), "exchange": ("payer", "payee", "sold", "bought")}
KINDS = ("transfer", "entry", "hold", "capture", "void", "reversal", "exchange", "refund")
OWNERS = ("caller", "tree", "any", "bank")
ROUNDINGS = ("half_up", "half_even", "down", "up")
WORDS = ("amount", "step", "balance", "to_zero", "remaining", "equal", "named")  # nobody's names
Found = tuple[str, str]  # path, what is wrong there


def verdict(document: dict[str, Any]) -> Found | None:
    """`product_invalid` or `template_unbalanced` with the path, or None when the document is good."""
    for found in form(document):
        return "product_invalid", found[0]
    for check in (names, sides, fixed_bank_accounts, reach, money, limit_rules):
        for found in check(document):
            return "product_invalid", found[0]
    for found in unbalanced(document):
        return "template_unbalanced", found[0]
    return None


# What the document consists of.


def form(d: dict[str, Any]) -> Iterator[Found]:
    yield from _keys(d, "", ("product", "version", "operations"), ("title", "currencies", "roles", "limits"))
    if not isinstance(d.get("title", ""), str):
        yield "title", "text"
    if (
        not _list_of(d.get("currencies", []), str)
        or _twice(d.get("currencies", []))
        or any(c not in EXPONENTS for c in d.get("currencies", []))
    ):
        yield "currencies", "codes"
    roles, operations = d.get("roles", {}), d.get("operations", {})
    if not isinstance(roles, dict) or len(roles) > 50:
        yield "roles", "at most 50"
        return
    if not isinstance(operations, dict) or not 1 <= len(operations) <= 50:
        yield "operations", "1 to 50"
        return
    for name, role in roles.items():
        yield from _role_form(f"roles.{name}", name, role)
    for name, operation in operations.items():
        yield from _operation_form(f"operations.{name}", name, operation)
    if not _list_of(d.get("limits", []), dict) or len(d.get("limits", [])) > 50:
        yield "limits", "a list"
        return
    for n, one in enumerate(d.get("limits", [])):
        yield from _keys(one, f"limits[{n}]", ("window",), ("currency", "count_max", "amount_max"))
        texts = (one.get("window", ""), one.get("currency", ""))
        if not all(isinstance(t, str) for t in texts):
            yield f"limits[{n}]", "text"
        if not all(m is None or _whole(m) for m in (one.get("count_max"), one.get("amount_max"))):
            yield f"limits[{n}]", "a number"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(v, kind) for v in value)


def _twice(values: list[Any]) -> bool:
    return len(set(values)) != len(values)


def _keys(value: Any, path: str, needed: tuple[str, ...], allowed: tuple[str, ...]) -> Iterator[Found]:
    if not isinstance(value, dict):
        yield path, "an object"
        return
    for key in value:
        if key not in needed and key not in allowed:
            yield f"{path}.{key}".lstrip("."), "unknown"
    for key in needed:
        if key not in value:
            yield f"{path}.{key}".lstrip("."), "missing"


def _role_form(path: str, name: str, role: Any) -> Iterator[Found]:
    if not re.fullmatch(ROLE, name):
        yield path, "name"
    yield from _keys(role, path, ("owner",), ("account", "many", "open"))
    if not isinstance(role, dict):
        return
    kind, account, opens = role.get("owner"), role.get("account", ""), role.get("open", {"type": "asset"})
    if kind not in OWNERS:
        yield f"{path}.owner", "one of four"
    if not isinstance(role.get("many", False), bool):
        yield f"{path}.many", "true or false"
    if not isinstance(account, str):
        yield f"{path}.account", "text"
    elif "account" in role:
        if role.get("many", False):
            yield f"{path}.many", "one account"
        begins = ("bank:",) if kind == "bank" else ("{caller}:", "{root}:")
        if not account.startswith(begins):
            yield f"{path}.account", "begins with its owner"
        if not re.fullmatch(r"[^:]+:([A-Za-z0-9._:-]|\{(currency|caller|root)\})+", account):
            yield f"{path}.account", "an account's characters"
    if "open" in role:
        yield from _keys(opens, f"{path}.open", ("type",), ("min_available", "credit_limit"))
        if kind == "any":
            yield f"{path}.open", "not for any"
        if isinstance(opens, dict):
            if opens.get("type") not in TYPES:
                yield f"{path}.open.type", "a type"
            least, credit = opens.get("min_available"), opens.get("credit_limit", 0)
            if least is not None and not (_whole(least) and abs(least) <= LONG_MAX):
                yield f"{path}.open.min_available", "a number"
            if not (_whole(credit) and 0 <= credit <= (0 if least is None else LONG_MAX)):
                yield f"{path}.open.credit_limit", "a number, 0 without min_available"


def _operation_form(path: str, name: str, operation: Any) -> Iterator[Found]:
    if not re.fullmatch(ROLE, name) or name == "adjustment":
        yield path, "name"
    if not isinstance(operation, dict):
        yield path, "an object"
        return
    kind = operation.get("kind")
    if kind not in KINDS:
        yield f"{path}.kind", "a kind"
        return
    may: dict[str, tuple[str, ...]] = {"transfer": ("steps", "amounts"), "refund": ("fees",)}
    yield from _keys(operation, path, ("kind",), ("callers", *may.get(kind, ())))
    callers = operation.get("callers", ["partner"])
    if not _list_of(callers, str) or _twice(callers) or any(c not in ("partner", "bank") for c in callers):
        yield f"{path}.callers", "partner, bank"
    if operation.get("fees", "keep") not in ("keep", "return"):
        yield f"{path}.fees", "keep or return"
    if kind != "transfer":
        return
    amounts, steps = operation.get("amounts", []), operation.get("steps", [])
    if not _list_of(amounts, str) or _twice(amounts) or any(not re.fullmatch(ROLE, a) or a in WORDS for a in amounts):
        yield f"{path}.amounts", "names"
        return
    if not _list_of(steps, dict) or not 1 <= len(steps) <= 50:
        yield f"{path}.steps", "1 to 50"
        return
    for n, step in enumerate(steps):
        where = f"{path}.steps[{n}]"
        yield from _keys(step, where, ("from", "amount", "to"), ())
        if not isinstance(step.get("from"), str):
            yield f"{where}.from", "a role"
        if "amount" in step:
            yield from _amount_form(f"{where}.amount", step["amount"], amounts, in_step=True)
        targets = step.get("to")
        if not _list_of(targets, dict) or not 1 <= len(targets) <= 20:
            yield f"{where}.to", "1 to 20 targets"
            continue
        if step.get("amount") == "to_zero" and len(targets) != 1:
            yield f"{where}.to", "one target"
        for i, target in enumerate(targets):
            yield from _keys(target, f"{where}.to[{i}]", ("role",), ("amount",))
            if not isinstance(target.get("role"), str):
                yield f"{where}.to[{i}].role", "a role"
            if "amount" in target:
                yield from _amount_form(f"{where}.to[{i}].amount", target["amount"], amounts, in_step=False)


def _amount_form(path: str, amount: Any, names: list[str], *, in_step: bool) -> Iterator[Found]:
    if isinstance(amount, str):
        words = ("balance", "to_zero") if in_step else ("balance", "remaining", "equal", "named")
        if amount not in ("amount", *names, *words):
            yield path, "no such amount"
        return
    if not isinstance(amount, dict):
        yield path, "an amount"
        return
    of = ("amount", *names) if in_step else ("amount", *names, "step")
    if "tiers" in amount:
        yield from _keys(amount, path, ("tiers",), ("of",))
        if not _list_of(amount["tiers"], dict) or not 1 <= len(amount["tiers"]) <= 20:
            yield f"{path}.tiers", "a list"
            return
        for n, tier in enumerate(amount["tiers"]):
            where, last = f"{path}.tiers[{n}]", n == len(amount["tiers"]) - 1
            if ("up_to" in tier) == last:
                yield f"{where}.up_to", "all but the last"
            yield from _simple_form(where, {k: v for k, v in tier.items() if k != "up_to"}, ())
            if "up_to" in tier:
                yield from _sums(f"{where}.up_to", tier["up_to"])
    else:
        yield from _simple_form(path, amount, ("of",))
    if amount.get("of", "amount") not in of:
        yield f"{path}.of", "no such amount"


def _simple_form(path: str, amount: dict[str, Any], more: tuple[str, ...]) -> Iterator[Found]:
    if "fixed" in amount:
        yield from _keys(amount, path, ("fixed",), ())
        yield from _sums(f"{path}.fixed", amount["fixed"])
        return
    yield from _keys(amount, path, ("percent",), ("rounding", "min", "max", *more))
    if not isinstance(amount.get("percent"), str):
        yield f"{path}.percent", "text"
    if amount.get("rounding", "half_up") not in ROUNDINGS:
        yield f"{path}.rounding", "one of four"
    for name in ("min", "max"):
        if name in amount:
            yield from _sums(f"{path}.{name}", amount[name])


def _sums(path: str, value: Any) -> Iterator[Found]:
    if not isinstance(value, dict) or not all(_whole(v) and 0 <= v <= LONG_MAX for v in value.values()):
        yield path, "minor units by currency"


# What it says.


def roles_of(operation: dict[str, Any]) -> list[str]:
    """Every role of an operation, in the order in which they are named."""
    out = list(ROLES_OF_KIND.get(operation["kind"], ()))
    for step in operation.get("steps", ()):
        out += [step["from"], *(target["role"] for target in step["to"])]
    return list(dict.fromkeys(out))


def names(d: dict[str, Any]) -> Iterator[Found]:
    roles = d.get("roles", {})
    used = {name for operation in d["operations"].values() for name in roles_of(operation)}
    for name in roles:
        if name not in used:
            yield f"roles.{name}", "not used"
    for op_name, operation in d["operations"].items():
        for name in roles_of(operation):
            if name not in roles:
                yield f"operations.{op_name}", "not defined"


def sides(d: dict[str, Any]) -> Iterator[Found]:
    roles = d.get("roles", {})
    for name, operation in d["operations"].items():
        path = f"operations.{name}"
        for n, step in enumerate(operation.get("steps", ())):
            if roles[step["from"]]["owner"] in ("tree", "any"):
                yield f"{path}.steps[{n}].from", "owner"
            many = roles[step["from"]].get("many", False)
            if many and step["amount"] not in ("balance", "to_zero"):
                yield f"{path}.steps[{n}].amount", "many"
            for i, target in enumerate(step["to"]):
                where = f"{path}.steps[{n}].to[{i}]"
                amount = target.get("amount", "remaining")
                if roles[target["role"]].get("many", False) != (amount in ("equal", "named")):
                    yield where, "many"
                if step["amount"] == "to_zero" and amount != "remaining":
                    yield where, "takes what remains"
                if step["amount"] == "to_zero" and roles[target["role"]]["owner"] in ("tree", "any"):
                    yield where, "may be debited"
        for role in ROLES_OF_KIND.get(operation["kind"], ()):
            kind = roles[role]["owner"]
            if roles[role].get("many", False):
                yield path, "many"
            if role == "payer" and kind in ("tree", "any"):
                yield path, "payer"
            if role == "payee" and kind == "any":
                yield path, "payee"
            if role in ("sold", "bought") and kind != "bank":
                yield path, role


def fixed_bank_accounts(d: dict[str, Any]) -> Iterator[Found]:
    for name, operation in d["operations"].items():
        if "partner" not in operation.get("callers", ["partner"]):
            continue
        for role in roles_of(operation):
            if d["roles"][role]["owner"] == "bank" and "account" not in d["roles"][role]:
                yield f"operations.{name}", role


def reach(d: dict[str, Any]) -> Iterator[Found]:
    kinds = {operation["kind"] for operation in d["operations"].values()}
    needs = {
        "capture": {"hold"}, "void": {"hold"}, "refund": {"transfer", "capture"},
        "reversal": {"transfer", "entry", "exchange", "capture"},
    }  # fmt: skip
    for name, operation in d["operations"].items():
        if operation.get("callers") == []:
            yield f"operations.{name}.callers", "nobody"
        if operation["kind"] in needs and not needs[operation["kind"]] & kinds:
            yield f"operations.{name}", "no original"


def _amounts(d: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, operation in d["operations"].items():
        for n, step in enumerate(operation.get("steps", ())):
            path = f"operations.{name}.steps[{n}]"
            named = [(path, step), *((f"{path}.to[{i}]", target) for i, target in enumerate(step["to"]))]
            for where, one in named:
                amount = one.get("amount")
                if isinstance(amount, dict):
                    yield f"{where}.amount", amount
                    for i, tier in enumerate(amount.get("tiers", ())):
                        yield f"{where}.amount.tiers[{i}]", tier


def money(d: dict[str, Any]) -> Iterator[Found]:
    currencies = set(d.get("currencies", []))
    for path, amount in _amounts(d):
        for name in ("fixed", "min", "max", "up_to"):
            if name in amount and (not currencies or set(amount[name]) != currencies):
                yield f"{path}.{name}", "every currency"
        low, high = amount.get("min", {}), amount.get("max", {})
        if any(low[c] > high[c] for c in low if c in high):
            yield f"{path}.min", "above max"
        if "percent" in amount:
            p = amount["percent"]
            if not re.fullmatch(r"[0-9]+(\.[0-9]{1,6})?", p) or Fraction(p) > 100:
                yield f"{path}.percent", "0 to 100"
        tops = [tier["up_to"] for tier in amount.get("tiers", ()) if "up_to" in tier]
        for lower, higher in pairwise(tops):
            if any(lower[c] >= higher[c] for c in currencies if c in lower and c in higher):
                yield f"{path}.tiers", "rise"


def limit_rules(d: dict[str, Any]) -> Iterator[Found]:
    own = limits.of_document(d)
    if limits.wrong(own) or limits.unknown_currency(own) or limits.too_large(own):
        yield "limits", "by the rules of SetLimit"


def unbalanced(d: dict[str, Any]) -> Iterator[Found]:
    for name, operation in d["operations"].items():
        for n, step in enumerate(operation.get("steps", ())):
            amounts = [target.get("amount", "remaining") for target in step["to"]]
            if sum(a in ("remaining", "equal") for a in amounts if isinstance(a, str)) != 1:
                yield f"operations.{name}.steps[{n}]", "exactly one that takes what remains"
            of_step = [
                a["percent"] for a in amounts if isinstance(a, dict) and "percent" in a if a.get("of", "step") == "step"
            ]
            if sum(map(Fraction, of_step)) > 100:
                yield f"operations.{name}.steps[{n}]", "more than 100"
