"""What is wrong with a product's document: docs/products.md read as a list of questions.

Only which reason a document is refused for matters here, not which of several faults is named first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from clearline.audit.currencies import CURRENCIES
from clearline.audit.figures import LONG_MAX
from clearline.audit.limits import LIMITS_MAX, misshapen
from clearline.audit.registrations import ACCOUNT_TYPES
from schemas.records import Limit

NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
PERCENT = re.compile(r"[0-9]{1,3}(\.[0-9]{1,6})?")
KINDS = {"transfer", "entry", "hold", "capture", "void", "reversal", "exchange", "refund"}
OWNERS = {"caller", "tree", "any", "bank"}
MANY_MAX, TARGETS_MAX = 50, 20
ROUNDINGS = {"half_up", "half_even", "down", "up"}
WORDS = {"amount", "balance", "to_zero", "remaining", "equal", "named", "step"}
TAKES_THE_REST = ("remaining", "equal")


class Invalid(Exception):  # noqa: N818 - a verdict on a document
    """The document breaks a rule."""


def ask(right: bool) -> None:
    """Raises Invalid unless it is so."""
    if not right:
        raise Invalid


def fault(document: dict[str, Any]) -> str:
    """`product_invalid`, `template_unbalanced` or empty."""
    try:
        _judge(document)
    except Invalid:
        return "product_invalid"
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError):  # a value of a type that no rule expects
        return "product_invalid"
    return "template_unbalanced" if any(map(_is_unbalanced, _steps(document))) else ""


def _map(value: object, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    """The value as a map with these keys."""
    if not isinstance(value, dict):
        raise Invalid
    needed = set(required)
    ask(needed <= value.keys() <= needed | set(optional))
    return value


def _names(value: object, what: Iterable[str] | None = None) -> list[str]:
    """The value as a list of different texts, out of `what` if given."""
    if not isinstance(value, list):
        raise Invalid
    ask(all(isinstance(x, str) for x in value) and len(set(value)) == len(value))
    ask(what is None or set(value) <= set(what))
    return value


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _judge(d: dict[str, Any]) -> None:
    """Raises Invalid."""
    _map(d, ("product", "version", "operations"), ("title", "currencies", "roles", "limits"))
    ask(isinstance(d.get("title", ""), str) and _is_int(d["version"]))
    currencies = _names(d.get("currencies", []), CURRENCIES)
    roles, operations = d.get("roles", {}), d["operations"]
    ask(isinstance(roles, dict) and isinstance(operations, dict))
    ask(1 <= len(operations) <= MANY_MAX and len(roles) <= MANY_MAX)
    ask(all(NAME.fullmatch(name) for name in (*roles, *operations)) and "adjustment" not in operations)
    for role in roles.values():
        _role(role)
    used: set[str] = set()
    for o in operations.values():
        mine = _operation(o, roles, currencies)
        ask(mine <= roles.keys())
        if "partner" in o.get("callers", ["partner"]):
            ask(not any(roles[r]["owner"] == "bank" and "account" not in roles[r] for r in mine))
        used |= mine
    ask(used == roles.keys())
    _reachable({o["kind"] for o in operations.values()})
    _limits(d.get("limits", []))


def _role(r: object) -> None:
    role = _map(r, ("owner",), ("account", "many", "open"))
    owner = role["owner"]
    ask(owner in OWNERS and isinstance(role.get("many", False), bool))
    if "account" in role:
        prefixes = ("bank:",) if owner == "bank" else ("{caller}:", "{root}:")
        ask(isinstance(role["account"], str) and role["account"].startswith(prefixes))
        left = re.sub(r"\{(currency|caller|root)\}", "x", role["account"])
        ask(bool(re.fullmatch(r"[A-Za-z0-9._:-]+", left)) and not role.get("many", False))
    if "open" in role:
        ask(owner != "any")
        o = _map(role["open"], ("type",), ("min_available", "credit_limit"))
        least, credit = o.get("min_available"), o.get("credit_limit", 0)
        ask(o["type"] in ACCOUNT_TYPES and (least is None or (_is_int(least) and abs(least) <= LONG_MAX)))
        ask(_is_int(credit) and 0 <= credit <= LONG_MAX and not (credit and least is None))


def _reachable(kinds: set[str]) -> None:
    ask("hold" in kinds or not kinds & {"capture", "void"})
    ask("refund" not in kinds or bool(kinds & {"transfer", "capture"}))
    ask("reversal" not in kinds or bool(kinds & {"transfer", "entry", "exchange", "capture"}))


def _limits(value: object) -> None:
    if not isinstance(value, list):
        raise Invalid
    ask(len(value) <= LIMITS_MAX)
    for x in value:
        _map(x, ("window",), ("currency", "count_max", "amount_max"))
        ask(isinstance(x["window"], str) and isinstance(x.get("currency", ""), str))
        ask(all(x.get(k) is None or _is_int(x[k]) for k in ("count_max", "amount_max")))
    ask(not misshapen(limits_of({"limits": value})))


def limits_of(document: dict[str, Any]) -> tuple[Limit, ...]:
    """The limits that the document sets."""
    return tuple(
        Limit(x["window"], x.get("currency", ""), x.get("count_max"), x.get("amount_max"))
        for x in document.get("limits", [])
    )


def _operation(o: object, roles: dict[str, Any], currencies: list[str]) -> set[str]:
    """The roles of an operation."""
    if not isinstance(o, dict):
        raise Invalid
    kind = o.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise Invalid
    more = {"transfer": ("steps", "amounts"), "refund": ("fees",)}.get(kind, ())
    op = _map(o, ("kind",), ("callers", *more))
    ask(bool(_names(op.get("callers", ["partner"]), ("partner", "bank"))))
    if kind == "refund":
        ask(op.get("fees", "keep") in ("keep", "return"))
    if kind == "transfer":
        return _transfer(op, roles, currencies)
    mine = roles_of(op)
    ask(mine <= roles.keys() and not any(roles[r].get("many", False) for r in mine))
    if mine:
        ask(roles["payer"]["owner"] not in ("tree", "any") and roles["payee"]["owner"] != "any")
    if kind == "exchange":
        ask(roles["sold"]["owner"] == roles["bought"]["owner"] == "bank")
    return mine


def roles_of(op: dict[str, Any]) -> set[str]:
    """The names of the roles that take part in an operation."""
    kind = op["kind"]
    if kind == "transfer":
        return {s["from"] for s in op["steps"]} | {t["role"] for s in op["steps"] for t in s["to"]}
    return {"hold": {"payer", "payee"}, "exchange": {"payer", "payee", "sold", "bought"}}.get(kind, set())


def _transfer(op: dict[str, Any], roles: dict[str, Any], currencies: list[str]) -> set[str]:
    names = _names(op.get("amounts", []))
    ask(all(NAME.fullmatch(n) and n not in WORDS for n in names))
    steps = op["steps"]
    ask(isinstance(steps, list) and 1 <= len(steps) <= MANY_MAX)
    for s in steps:
        step = _map(s, ("from", "amount", "to"))
        targets = step["to"]
        ask(isinstance(targets, list) and 1 <= len(targets) <= TARGETS_MAX)
        for t in targets:
            _map(t, ("role",), ("amount",))
            ask(isinstance(t["role"], str))
        ask(isinstance(step["from"], str) and {step["from"], *(t["role"] for t in targets)} <= roles.keys())
        _step(step, roles, names, currencies)
    return roles_of(op)


def _step(step: dict[str, Any], roles: dict[str, Any], names: list[str], currencies: list[str]) -> None:
    source, amount = roles[step["from"]], step["amount"]
    ask(source["owner"] not in ("tree", "any"))
    ask(amount in ("balance", "to_zero") or not source.get("many", False))
    if amount not in ("balance", "to_zero"):
        _amount(amount, ("amount", *names), ("amount", *names), currencies)
    if amount == "to_zero":
        (target,) = step["to"]
        ask(target.get("amount", "remaining") == "remaining" and roles[target["role"]]["owner"] not in ("tree", "any"))
    for t in step["to"]:
        many, what = roles[t["role"]].get("many", False), t.get("amount", "remaining")
        if what in ("equal", "named"):
            ask(many)
            continue
        ask(not many)
        if what not in ("remaining", "balance"):
            _amount(what, ("amount", *names), ("amount", "step", *names), currencies)


def _amount(value: object, words: Iterable[str], of: Iterable[str], currencies: list[str]) -> None:
    """An amount that is a word, fixed, a percentage, or in tiers."""
    if isinstance(value, str):
        ask(value in words)
        return
    if not isinstance(value, dict):
        raise Invalid
    ask(value.get("of", "amount") in of)
    if "tiers" in value:
        _map(value, ("tiers",), ("of",))
        _tiers(value["tiers"], currencies)
        return
    if "fixed" in value:
        _map(value, ("fixed",))
        _per_currency(value["fixed"], currencies)
        return
    _map(value, ("percent",), ("of", "rounding", "min", "max"))
    _percent(value, currencies)


def _percent(value: dict[str, Any], currencies: list[str]) -> None:
    ask(isinstance(value["percent"], str) and bool(PERCENT.fullmatch(value["percent"])))
    ask(Fraction(value["percent"]) <= 100 and value.get("rounding", "half_up") in ROUNDINGS)
    for bound in ("min", "max"):
        if bound in value:
            _per_currency(value[bound], currencies)
    least, most = value.get("min", {}), value.get("max", {})
    ask(all(least[c] <= most[c] for c in least if c in most))


def _per_currency(value: object, currencies: list[str]) -> None:
    """Minor units for every currency of the product."""
    if not isinstance(value, dict):
        raise Invalid
    ask(bool(currencies) and value.keys() == set(currencies))
    ask(all(_is_int(n) and 0 <= n <= LONG_MAX for n in value.values()))


def _tiers(tiers: object, currencies: list[str]) -> None:
    if not isinstance(tiers, list):
        raise Invalid
    ask(1 <= len(tiers) <= TARGETS_MAX)
    before: dict[str, int] = {}
    for i, tier in enumerate(tiers):
        ask(isinstance(tier, dict) and ("up_to" in tier) == (i < len(tiers) - 1))
        if "up_to" in tier:
            _per_currency(tier["up_to"], currencies)
            ask(all(n > before.get(c, -1) for c, n in tier["up_to"].items()))
            before = tier["up_to"]
        rest = {k: v for k, v in tier.items() if k != "up_to"}
        if "fixed" in rest:
            _map(rest, ("fixed",))
            _per_currency(rest["fixed"], currencies)
        else:
            _map(rest, ("percent",), ("rounding", "min", "max"))
            _percent(rest, currencies)


def _steps(d: dict[str, Any]) -> list[dict[str, Any]]:
    return [s for o in d["operations"].values() if o["kind"] == "transfer" for s in o["steps"]]


def _is_unbalanced(step: dict[str, Any]) -> bool:
    """Whether not exactly one target takes what remains, or the others ask for more than all of it."""
    amounts = [t.get("amount", "remaining") for t in step["to"]]
    if sum(a in TAKES_THE_REST for a in amounts if isinstance(a, str)) != 1:
        return True
    of_step = [a for a in amounts if isinstance(a, dict) and a.get("of", "step") == "step"]
    return sum(Fraction(a.get("percent", "0")) for a in of_step) > 100
