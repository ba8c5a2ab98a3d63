"""A product's document as the ledger works with it: checked when it is published, compiled once, and never changed.

The page is docs/products.md; `ledger.product_rules` says what makes a document good, `ledger.templates` works it out.
Amounts are integers in minor units; a percentage is an integer of hundred-millionths, so nothing is ever a fraction.
"""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.records import Limit

WHOLE = 10**8  # 100 per cent, in the units of `Amount.percent`
BUILT_IN_ROLES = {"hold": ("payer", "payee"), "exchange": ("payer", "payee", "sold", "bought")}
_COMPILED_MAX = 4_096  # documents kept compiled; a shelf has some dozens


class Opening(msgspec.Struct, frozen=True):
    """How an account is opened on first use; limits in minor units, None for none."""

    type: str
    min_available: int | None
    credit_limit: int


class Role(msgspec.Struct, frozen=True):
    """Whose account takes a part. `account`: the fixed one, with its placeholders; empty when the caller names it."""

    name: str
    owner: str
    account: str
    many: bool
    opening: Opening | None


class Amount(msgspec.Struct, frozen=True):
    """One amount expression.

    `kind`: amount, name, fixed, percent, tiers, balance, to_zero, remaining, equal or named. `name`: of a named
    amount. `of`: what a percentage or tier is taken of: amount, step, or a name. `percent`: hundred-millionths.
    `table`: fixed amounts by currency; `least` and `most` by currency, empty when there is no bound. `tiers`: up to
    how much, by currency (None for the last), and what it costs then.
    """

    kind: str
    name: str = ""
    of: str = ""
    percent: int = 0
    rounding: str = "half_up"
    table: dict[str, int] = {}
    least: dict[str, int] = {}
    most: dict[str, int] = {}
    tiers: tuple[tuple[dict[str, int] | None, Amount], ...] = ()


class Target(msgspec.Struct, frozen=True):
    """One role that is credited in a step, and with how much."""

    role: Role
    amount: Amount


class Step(msgspec.Struct, frozen=True):
    """What is taken from one role and given to others."""

    source: Role
    amount: Amount
    targets: tuple[Target, ...]


class Operation(msgspec.Struct, frozen=True):
    """One operation. `asked`: roles that the transaction names; `names`: the named amounts that it must give.

    `parts`: many-roles that are credited with named amounts; `plain`: all that it does is move the amount from a payer
    to a payee, which needs no working out.
    """

    name: str
    kind: str
    callers: frozenset[str]
    roles: tuple[Role, ...]
    asked: frozenset[str]
    steps: tuple[Step, ...]
    has_many: bool
    names: tuple[str, ...]
    parts: tuple[str, ...]
    uses_amount: bool
    returns_fees: bool
    plain: bool


class Product(msgspec.Struct, frozen=True):
    """One version of a product. `currencies`: empty for every one."""

    product: str
    version: int
    currencies: frozenset[str]
    operations: dict[str, Operation]
    limits: tuple[Limit, ...]
    offers: dict[str, Offer]


class Offer(msgspec.Struct, frozen=True):
    """What a transaction asks for, as the shelf has it: an operation of the version that settles."""

    kind: str
    version: int
    callers: frozenset[str]
    limits: tuple[Limit, ...]
    operation: Operation
    product: Product


_compiled: dict[str, Product] = {}


def compiled(document: str) -> Product:
    """The product of a document that was published; worked out once for each text."""
    found = _compiled.get(document)
    if found is None:
        if len(_compiled) >= _COMPILED_MAX:
            _compiled.clear()
        found = _compiled[document] = compile_document(msgspec.json.decode(document))
    return found


def compile_document(d: dict[str, Any]) -> Product:
    """A checked document in its working form."""
    roles = {name: _role(name, r) for name, r in d.get("roles", {}).items()}
    limits = tuple(
        Limit(x["window"], x.get("currency", ""), x.get("count_max"), x.get("amount_max")) for x in d.get("limits", ())
    )
    operations = {name: _operation(name, o, roles) for name, o in d["operations"].items()}
    p = Product(d["product"], d["version"], frozenset(d.get("currencies", ())), operations, limits, {})
    for name, o in operations.items():
        p.offers[name] = Offer(o.kind, p.version, o.callers, limits, o, p)
    return p


def _role(name: str, r: dict[str, Any]) -> Role:
    opening = None
    if "open" in r:
        o = r["open"]
        opening = Opening(o["type"], o.get("min_available"), o.get("credit_limit", 0))
    return Role(name, r["owner"], r.get("account", ""), r.get("many", False), opening)


def _operation(name: str, o: dict[str, Any], roles: dict[str, Role]) -> Operation:
    kind = o["kind"]
    steps = tuple(_step(s, roles) for s in o.get("steps", ()))
    used: dict[str, Role] = {n: roles[n] for n in BUILT_IN_ROLES.get(kind, ())}
    names: set[str] = set()
    parts: list[str] = []
    uses_amount = False
    for s in steps:
        used[s.source.name] = s.source
        for t in s.targets:
            used[t.role.name] = t.role
            if t.amount.kind == "named" and t.role.name not in parts:
                parts.append(t.role.name)
        for a in (s.amount, *(t.amount for t in s.targets)):
            if a.kind == "name":
                names.add(a.name)
            elif a.of not in ("", "step", "amount"):
                names.add(a.of)
            uses_amount = uses_amount or a.kind == "amount" or a.of == "amount"
    return Operation(
        name, kind, frozenset(o.get("callers", ("partner",))), tuple(used.values()),
        frozenset(n for n, r in used.items() if not r.account), steps,
        any(r.many for r in used.values()), tuple(sorted(names)), tuple(parts), uses_amount,
        o.get("fees", "keep") == "return", _is_plain(steps),
    )  # fmt: skip


def _is_plain(steps: tuple[Step, ...]) -> bool:
    if len(steps) != 1 or len(steps[0].targets) != 1 or steps[0].amount.kind != "amount":
        return False
    payer, payee = steps[0].source, steps[0].targets[0].role
    if any(r.account or r.many or r.opening for r in (payer, payee)):
        return False
    return (payer.name, payee.name) == ("payer", "payee") and payer.owner == "caller" and payee.owner != "bank"


def _step(s: dict[str, Any], roles: dict[str, Role]) -> Step:
    targets = tuple(Target(roles[t["role"]], amount_of(t.get("amount", "remaining"), "step")) for t in s["to"])
    return Step(roles[s["from"]], amount_of(s["amount"], "amount"), targets)


_WORDS = frozenset({"amount", "balance", "to_zero", "remaining", "equal", "named"})


def amount_of(expression: Any, of: str) -> Amount:
    """An amount expression in its working form. `of`: what it is taken of unless it says so."""
    if isinstance(expression, str):
        return Amount(expression) if expression in _WORDS else Amount("name", name=expression)
    of = expression.get("of", of)
    if "tiers" in expression:
        tiers = tuple((t.get("up_to"), amount_of(t, of)) for t in expression["tiers"])
        return Amount("tiers", of=of, tiers=tiers)
    if "fixed" in expression:
        return Amount("fixed", table=expression["fixed"])
    return Amount(
        "percent", of=of, percent=percent_of(expression["percent"]), rounding=expression.get("rounding", "half_up"),
        least=expression.get("min", {}), most=expression.get("max", {}),
    )  # fmt: skip


def percent_of(text: str) -> int:
    """A decimal percentage of at most 6 places in hundred-millionths: "0.6" is 600,000."""
    whole, _, places = text.partition(".")
    return int(whole) * 1_000_000 + int(places.ljust(6, "0"))
