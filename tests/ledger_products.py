"""The shelf of the tests: products that use everything docs/products.md offers, transactions of them, and documents that
break one rule each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

import msgspec

from schemas.records import NamedAmount, PublishProduct, Transaction
from tests.ledger_model import LONG_MAX, Model
from tests.model import templates

Document = dict[str, Any]
ALL = ["CNY", "JPY", "KWD"]
BOTH = ["bank", "partner"]


def each(amount: int, currencies: list[str] = ALL) -> dict[str, int]:
    return dict.fromkeys(currencies, amount)


def step(source: str, amount: Any, *to: Any) -> Document:
    """`to`: a role that takes what remains, or (role, amount)."""
    targets = [{"role": t} if isinstance(t, str) else {"role": t[0], "amount": t[1]} for t in to]
    return {"from": source, "amount": amount, "to": targets}


def pays(*steps: Document, **other: Any) -> Document:
    return {"kind": "transfer", "steps": list(steps), **other}


WALLET: Document = {
    "product": "wallet", "version": 1, "title": "Wallet",
    "roles": {
        "payer": {"owner": "caller"}, "payee": {"owner": "tree"}, "peer": {"owner": "any"},
        "till": {"owner": "bank", "account": "bank:till:{currency}"},
        "sold": {"owner": "bank"}, "bought": {"owner": "bank"},
        "new": {"owner": "tree", "open": {"type": "liability", "min_available": 0}},
    },
    "operations": {
        "transfer": pays(step("payer", "amount", "payee"), callers=BOTH),
        "send": pays(step("payer", "amount", "peer"), callers=BOTH),
        "deposit": pays(step("till", "amount", "payee"), callers=BOTH),
        "first": pays(step("till", "amount", "new"), callers=BOTH),
        "withdraw": pays(step("payer", "amount", "till")),
        "entry": {"kind": "entry", "callers": BOTH},
        "hold": {"kind": "hold", "callers": BOTH}, "capture": {"kind": "capture", "callers": BOTH},
        "void": {"kind": "void", "callers": BOTH}, "refund": {"kind": "refund", "callers": BOTH},
        "reversal": {"kind": "reversal", "callers": BOTH}, "exchange": {"kind": "exchange", "callers": ["bank"]},
    },
}  # fmt: skip
SHOP: Document = {
    "product": "shop", "version": 1, "title": "Scan to pay", "currencies": ALL,
    "roles": {
        "payer": {"owner": "caller"}, "payee": {"owner": "any"},
        "fees": {"owner": "bank", "account": "bank:fees:{currency}", "open": {"type": "income"}},
        "own": {"owner": "caller", "account": "{caller}:shop:{currency}",
                "open": {"type": "liability", "min_available": 10, "credit_limit": 8}},
    },
    "operations": {
        "pay": pays(step("payer", "amount", "payee", ("fees", {"percent": "0.6", "min": each(1), "max": each(25)}))),
        "tiered": pays(
            step("payer", "amount", ("fees", {"tiers": [
                {"up_to": each(10), "fixed": each(1)}, {"up_to": each(60), "percent": "2.5", "rounding": "up"},
                {"percent": "1.25", "max": each(7)}]}), "payee"),
        ),
        "tip": pays(
            step("payer", "amount", "payee", ("fees", {"fixed": each(3)})),
            step("payer", "tip", ("fees", {"percent": "10", "of": "amount", "rounding": "down"}), "payee"),
            amounts=["tip"], callers=BOTH,
        ),
        "fee": pays(step("payer", {"percent": "3.3", "of": "base", "rounding": "half_even"}, "fees"), amounts=["base"]),
        "save": pays(step("payer", "amount", "own")),
        "refund": {"kind": "refund", "fees": "return", "callers": BOTH}, "back": {"kind": "refund"},
        "undo": {"kind": "reversal", "callers": BOTH},
    },
    "limits": [
        {"window": "transaction", "currency": "CNY", "amount_max": 40_000},
        {"window": "day", "currency": "CNY", "amount_max": 90_000, "count_max": 400},
        {"window": "hour", "currency": "JPY", "count_max": 50}, {"window": "month", "currency": "KWD", "amount_max": 60_000},
        {"window": "minute", "count_max": 8},
    ],
}  # fmt: skip
SHOP_2 = deepcopy(SHOP) | {
    "version": 2,
    "limits": [{"window": "minute", "count_max": 9}],
    "currencies": ["CNY", "JPY", "KWD"],
}
SHOP_2["operations"]["pay"] = pays(
    step("payer", "amount", "payee", ("fees", {"percent": "12.345678", "rounding": "half_even"}))
)
SHOP_3 = deepcopy(SHOP_2) | {"version": 5}
ESCROW: Document = {
    "product": "escrow", "version": 1, "title": "Fund supervision", "currencies": ["CNY", "JPY"],
    "roles": {
        "payer": {"owner": "caller"}, "payees": {"owner": "any", "many": True}, "rest": {"owner": "tree"},
        "pool": {"owner": "caller", "account": "{caller}:pool:{currency}", "open": {"type": "liability", "min_available": 0}},
    },
    "operations": {
        "collect": pays(step("payer", "amount", "pool")),
        "split": pays(step("pool", "amount", ("payees", "equal"))),
        "release": pays(step("pool", "amount", ("payees", "named"), "rest")),
        "close": pays(step("pool", "balance", "rest")),
        "refund": {"kind": "refund"}, "undo": {"kind": "reversal"},
    },
}  # fmt: skip
TREASURY: Document = {
    "product": "treasury", "version": 3, "title": "Treasury",
    "roles": {
        "subs": {"owner": "caller", "many": True}, "header": {"owner": "caller"}, "only": {"owner": "caller"},
    },
    "operations": {
        "sweep": pays(step("subs", "balance", "header"), callers=BOTH),
        "zero": pays(step("subs", "to_zero", "header"), callers=BOTH),
        "single": pays(step("only", "to_zero", "header")),
        "undo": {"kind": "reversal", "callers": BOTH},
    },
    "limits": [{"window": "hour", "count_max": 60}],
}  # fmt: skip
LOAN: Document = {
    "product": "loan", "version": 1, "title": "Loan", "currencies": ["CNY", "JPY", "KWD"],
    "roles": {
        "payer": {"owner": "caller"}, "payee": {"owner": "caller"},
        "principal": {"owner": "caller", "account": "{root}:principal:{currency}", "open": {"type": "asset"}},
        "interest": {"owner": "caller", "account": "{caller}:interest:{currency}", "open": {"type": "asset"}},
        "income": {"owner": "bank", "account": "bank:income:{currency}", "open": {"type": "income", "min_available": None}},
        "loss": {"owner": "bank", "account": "bank:loss:{currency}", "open": {"type": "expense"}},
    },
    "operations": {
        "disburse": pays(step("principal", "amount", "payee")),
        "accrue": pays(step("interest", {"percent": "7.5", "min": each(1), "max": each(9)}, "income"), callers=["partner"]),
        "repay": pays(step("payer", "amount", ("interest", "balance"), ("principal", "balance"), "payee")),
        "repay_all": pays(step("payer", "balance", ("interest", "balance"), ("principal", "balance"), "payee")),
        "write_off": pays(step("loss", "amount", ("principal", "balance"), "income"), callers=BOTH),
        "undo": {"kind": "reversal"},
    },
}  # fmt: skip
FX: Document = {
    "product": "fx", "version": 1, "title": "Exchange",
    "roles": {
        "payer": {"owner": "caller"}, "payee": {"owner": "caller"},
        "sold": {"owner": "bank", "account": "bank:till:{currency}"},
        "bought": {"owner": "bank", "account": "bank:till:{currency}"},
    },
    "operations": {"exchange": {"kind": "exchange"}, "reversal": {"kind": "reversal"}},
}  # fmt: skip
SHELF: tuple[tuple[Document, int], ...] = (  # document, days after DAY from which it counts; 0 at once
    (WALLET, 0), (SHOP, 0), (SHOP_2, 3), (SHOP_3, 30), (ESCROW, 0), (TREASURY, 0), (LOAN, 0), (FX, 0),
)  # fmt: skip


def canonical(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def publish(key: str, document: Document, effective_from: int = 0) -> PublishProduct:
    return PublishProduct("bank", key, document["product"], document["version"], effective_from, canonical(document))


def shelf(day: int) -> list[PublishProduct]:
    """Everything that is published in the beginning, with versions that take effect some days later."""
    return [publish(f"d{n}", d, day + later if later else 0) for n, (d, later) in enumerate(SHELF)]


# Transactions of products.

WEIGHTS = {"wallet": 3, "shop": 4, "escrow": 6, "treasury": 4, "loan": 4}


def transaction(random: Random, model: Model, t: Transaction, accounts: list[str], amount: int) -> Transaction:
    """`t` as an operation of a product that is on the shelf, over accounts that mostly fit."""
    if not model.shelf:
        return t
    name = random.choices(list(model.shelf), [WEIGHTS.get(n, 2) for n in model.shelf])[0]
    document = random.choice(model.shelf[name]).document
    operations = {n: o for n, o in document["operations"].items() if o["kind"] == "transfer"}
    if not operations:
        return t
    operation = random.choice(list(operations))
    steps, callers = operations[operation], operations[operation].get("callers", ["partner"])
    currency = random.choice(document.get("currencies") or ALL)
    by = t.partner_id
    if by in ("bank", "nobody") and "bank" not in callers and random.random() < 0.9:
        by = accounts[0].split(":")[0]
    purses = _purses(model, document, steps)
    if purses and random.random() < 0.8:  # by one who has something in the account that it takes from
        purse = random.choice(purses)
        by, known = purse.split(":")[0], model.accounts[purse]
        currency, amount = known.currency, random.randint(1, min(known.available(), 1_000))
    if random.random() < 0.04:
        currency = random.choice((t.currency, "EUR", "USD"))
    t = msgspec.structs.replace(t, partner_id=by, product=name, operation=operation, currency=currency, postings=())
    t = msgspec.structs.replace(t, accounts=_roles(random, model, t, document, steps, accounts))
    named = sorted(templates.amounts_wanted(t, steps))
    share = max(1, amount // (len(named) + random.randint(0, 2))) if named and amount < LONG_MAX else 1
    uses = "amount" in templates.names_used(steps)
    return msgspec.structs.replace(t, amounts=tuple(NamedAmount(n, share) for n in named), amount=amount if uses else 0)


def _purses(model: Model, document: Document, operation: Document) -> list[str]:
    """Accounts with something on them that the operation takes from by a fixed name of the caller."""
    fixed = document["roles"][operation["steps"][0]["from"]].get("account", "")
    start, local = fixed.split("{currency}")[0].partition(":")[::2]
    if start != "{caller}":
        return []
    return [n for n, a in model.accounts.items() if n.partition(":")[2].startswith(local) and a.available() > 0]


def _roles(
    random: Random, model: Model, t: Transaction, document: Document, operation: Document, accounts: list[str]
) -> dict[str, str]:
    """Accounts for each role, no account twice as long as there are enough."""
    fit = [
        a for a in accounts if (known := model.accounts.get(a)) is not None and known.currency == t.currency
    ] or accounts
    below = [a for a in fit if a.split(":")[0].split("/")[0] == t.partner_id.split("/")[0]]
    own = [a for a in below if a.startswith((f"{t.partner_id}:", f"{t.partner_id}/"))] or below or fit
    out: dict[str, str] = {}
    for role, many in templates.wanted_roles(document, operation):
        owner = document["roles"][role]["owner"]
        some = own if owner == "caller" else below or fit if owner == "tree" else fit
        if random.random() < 0.04:
            some = accounts
        if role == "new":
            some = [f"{t.partner_id}:n{random.randrange(60)}"]
        names = [f"{role}.{n}" for n in random.sample(range(1, 1000), random.randint(1, 4))] if many else [role]
        for name in names:
            out[name] = random.choice([a for a in some if a not in out.values()] or some)
    return out


# Documents that break a rule.


def _at(document: Document, path: str) -> tuple[Any, Any]:
    *above, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    place: Any = document
    for p in above:
        place = place[p]
    return place, last


def _changed(document: Document, changes: dict[str, Any]) -> Document:
    out = deepcopy(document)
    for path, value in changes.items():
        place, last = _at(out, path)
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return out


PAY = "operations.pay.steps.0"
BROKEN: tuple[tuple[str, str, Document, dict[str, Any]], ...] = (  # reason, path, document, what is changed in it
    ("product_invalid", "colour", SHOP, {"colour": "red"}),
    ("product_invalid", "title", SHOP, {"title": 7}),
    ("product_invalid", "operations", SHOP, {"operations": {}}),
    ("product_invalid", "operations", SHOP, {"operations": ...}),
    ("product_invalid", "currencies", SHOP, {"currencies": "CNY"}),
    ("product_invalid", "currencies[1]", SHOP, {"currencies": ["CNY", "BTC"]}),
    ("product_invalid", "currencies[1]", SHOP, {"currencies": ["CNY", "CNY"]}),
    ("product_invalid", "roles.payer.owner", SHOP, {"roles.payer.owner": "me"}),
    ("product_invalid", "roles.payer.owner", SHOP, {"roles.payer.owner": ...}),
    ("product_invalid", "roles.Payer", SHOP, {"roles.Payer": {"owner": "caller"}}),
    ("product_invalid", "roles.payer.many", SHOP, {"roles.payer.many": "yes"}),
    ("product_invalid", "roles.own.account", SHOP, {"roles.own.account": "bank:own"}),
    ("product_invalid", "roles.fees.account", SHOP, {"roles.fees.account": "{caller}:fees"}),
    ("product_invalid", "roles.own.many", SHOP, {"roles.own.many": True}),
    ("product_invalid", "roles.payee.open", SHOP, {"roles.payee.open": {"type": "asset"}}),
    ("product_invalid", "roles.fees.open.type", SHOP, {"roles.fees.open.type": "gold"}),
    ("product_invalid", "roles.own.open.credit_limit", SHOP, {"roles.own.open.credit_limit": -1}),
    ("product_invalid", "roles.own.open.credit_limit", SHOP, {"roles.own.open.credit_limit": 2**63}),
    ("product_invalid", "roles.own.open.credit_limit", SHOP, {"roles.own.open.min_available": None}),
    ("product_invalid", "roles.own.open.min_available", SHOP, {"roles.own.open.min_available": 2**63}),
    ("product_invalid", "roles.own.open", SHOP, {"roles.own.open": None}),
    ("product_invalid", "roles.own.account", SHOP, {"roles.own.account": "{caller}:shop {currency}"}),
    ("product_invalid", "roles.own.account", SHOP, {"roles.own.account": "{caller}:{shop}"}),
    ("product_invalid", "roles.many50", SHOP, {f"roles.r{n}": {"owner": "caller"} for n in range(50)}),
    ("product_invalid", "operations.pay.kind", SHOP, {"operations.pay.kind": "gift"}),
    ("product_invalid", "operations.pay.fees", SHOP, {"operations.pay.fees": "keep"}),
    ("product_invalid", "operations.refund.fees", SHOP, {"operations.refund.fees": "lose"}),
    ("product_invalid", "operations.adjustment", SHOP, {"operations.adjustment": {"kind": "entry"}}),
    ("product_invalid", "operations.pay.callers[0]", SHOP, {"operations.pay.callers": ["anybody"]}),
    ("product_invalid", "operations.pay.callers", SHOP, {"operations.pay.callers": []}),
    ("product_invalid", "operations.pay.steps", SHOP, {"operations.pay.steps": []}),
    ("product_invalid", "operations.tip.amounts[0]", SHOP, {"operations.tip.amounts": ["step"]}),
    ("product_invalid", f"{PAY}.to", SHOP, {f"{PAY}.to": []}),
    ("product_invalid", f"{PAY}.amount", SHOP, {f"{PAY}.amount": "nothing"}),
    ("product_invalid", f"{PAY}.amount", SHOP, {f"{PAY}.amount": "remaining"}),
    ("product_invalid", f"{PAY}.amount.of", SHOP, {f"{PAY}.amount": {"percent": "1", "of": "step"}}),
    ("product_invalid", f"{PAY}.to.1.amount", SHOP, {f"{PAY}.to.1.amount": "to_zero"}),
    ("product_invalid", f"{PAY}.to.1.amount.fixed", SHOP, {f"{PAY}.to.1.amount": {"fixed": {"CNY": "1"}}}),
    ("product_invalid", f"{PAY}.to.1.amount.rounding", SHOP, {f"{PAY}.to.1.amount.rounding": "odd"}),
    ("product_invalid", f"{PAY}.to", SHOP, {f"{PAY}.to": [{"role": "payee"}] * 21}),
    ("product_invalid", "roles.idle", SHOP, {"roles.idle": {"owner": "caller"}}),
    ("product_invalid", f"{PAY}.to.1.role", SHOP, {f"{PAY}.to.1.role": "nobody"}),
    ("product_invalid", "operations.hold", SHOP, {"operations.hold": {"kind": "exchange"}}),
    ("product_invalid", f"{PAY}.from", SHOP, {"roles.payer.owner": "tree"}),
    ("product_invalid", "operations.hold", WALLET, {"roles.payer.owner": "any"}),
    ("product_invalid", "operations.hold", WALLET, {"roles.payee.owner": "any"}),
    ("product_invalid", "operations.exchange", WALLET, {"roles.sold.owner": "caller"}),
    ("product_invalid", "operations.exchange", WALLET, {"operations.exchange.callers": BOTH}),
    ("product_invalid", "operations.zero.steps.0.to.0", TREASURY, {"roles.header.owner": "tree"}),
    ("product_invalid", "operations.zero.steps.0.to.0", TREASURY, {"operations.zero.steps.0.to.0.amount": "balance"}),
    ("product_invalid", "operations.sweep.steps.0.amount", TREASURY, {"operations.sweep.steps.0.amount": "amount"}),
    ("product_invalid", "operations.split.steps.0.to.0", ESCROW, {"operations.split.steps.0.to.0.amount": "remaining"}),
    ("product_invalid", "operations.close.steps.0.to.0", ESCROW, {"operations.close.steps.0.to.0.amount": "equal"}),
    ("product_invalid", "operations.capture", SHOP, {"operations.capture": {"kind": "capture"}}),
    ("product_invalid", "operations.void", SHOP, {"operations.void": {"kind": "void"}}),
    ("product_invalid", "operations.refund", WALLET, {"operations": {"refund": {"kind": "refund"}, "entry": {"kind": "entry"}}, "roles": {}}),
    ("product_invalid", "operations.reversal", WALLET, {"operations": {"reversal": {"kind": "reversal"}}, "roles": {}}),
    ("product_invalid", f"{PAY}.to.1.amount.min", SHOP, {f"{PAY}.to.1.amount.min": {"CNY": 1}}),
    ("product_invalid", f"{PAY}.to.1.amount.max", SHOP, {f"{PAY}.to.1.amount.max": each(25, [*ALL, "EUR"])}),
    ("product_invalid", f"{PAY}.to.1.amount.min", SHOP, {"currencies": []}),
    ("product_invalid", f"{PAY}.to.1.amount.min", SHOP, {f"{PAY}.to.1.amount.min": each(26)}),
    ("product_invalid", f"{PAY}.to.1.amount.percent", SHOP, {f"{PAY}.to.1.amount.percent": "100.000001"}),
    ("product_invalid", f"{PAY}.to.1.amount.percent", SHOP, {f"{PAY}.to.1.amount.percent": "-1"}),
    ("product_invalid", f"{PAY}.to.1.amount.percent", SHOP, {f"{PAY}.to.1.amount.percent": "0.1234567"}),
    ("product_invalid", f"{PAY}.to.1.amount.percent", SHOP, {f"{PAY}.to.1.amount.percent": 1}),
    ("product_invalid", "operations.tiered.steps.0.to.0.amount.tiers", SHOP,
     {"operations.tiered.steps.0.to.0.amount.tiers.1.up_to": each(10)}),
    ("product_invalid", "operations.tiered.steps.0.to.0.amount.tiers.2.up_to", SHOP,
     {"operations.tiered.steps.0.to.0.amount.tiers.2.up_to": each(99)}),
    ("product_invalid", "operations.tiered.steps.0.to.0.amount.tiers.0.up_to", SHOP,
     {"operations.tiered.steps.0.to.0.amount.tiers.0.up_to": ...}),
    ("product_invalid", "limits.0.window", SHOP, {"limits.0.window": "year"}),
    ("product_invalid", "limits.0", SHOP, {"limits.0.amount_max": ...}),
    ("product_invalid", "limits.0", SHOP, {"limits.0.count_max": 3}),
    ("product_invalid", "limits.4.count_max", SHOP, {"limits.4.count_max": -1}),
    ("product_invalid", "limits.0.currency", SHOP, {"limits.0.currency": "BTC"}),
    ("product_invalid", "limits.1", SHOP, {"limits.1": {"window": "transaction", "currency": "CNY", "amount_max": 1}}),
    ("template_unbalanced", PAY, SHOP, {f"{PAY}.to.1.amount": "remaining"}),
    ("template_unbalanced", PAY, SHOP, {f"{PAY}.to.0.amount": "amount"}),
    ("template_unbalanced", PAY, SHOP, {f"{PAY}.to": [{"role": "payee"}, {"role": "fees", "amount": {"percent": "60"}},
                                                      {"role": "fees", "amount": {"percent": "41"}}]}),
)  # fmt: skip


def broken(version: int) -> Iterator[tuple[str, str, Document]]:
    """Reason, path and document, of a version that is new."""
    for reason, path, document, changes in BROKEN:
        yield reason, path, _changed(document, {"version": version, **changes})


def odd_publish(random: Random, key: str, model: Model, today: int) -> PublishProduct:
    """A document that is good, a version of one that is known with other figures, or a broken one.

    `today`: about which versions come into force, days since 1970-01-01.
    """
    highest = max((p.version for versions in model.shelf.values() for p in versions), default=0)
    version = highest + random.choice((1, 1, 1, 2, 0))
    drawn = random.random()
    if drawn < 0.5 or not model.shelf:
        reason = "template_unbalanced" if random.random() < 0.25 else "product_invalid"
        some = [one for one in BROKEN if one[0] == reason]
        _, _, good, changes = random.choice(some)
        document = _changed(good, {"version": max(version, 1), **changes})
    else:
        document, _ = random.choice(SHELF)
        document = deepcopy(document) | {"version": max(version, 1)}
    since = random.choice((0, today - 1, today, today + 1, today + 1, today + 2, today + 20, -1))
    plain = publish(key, document, since if drawn > 0.6 else 0)
    if drawn > 0.95:
        field, value = random.choice(
            (("product", "Bad"), ("version", 0), ("document", "[1]"), ("document", "{"), ("version", 2**31))
        )
        return msgspec.structs.replace(plain, **{field: value})
    return plain
