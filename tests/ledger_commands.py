"""Random commands in a small world, so that everything meets everything: refusals, repeats, limits, blocks, closings,
holds that are captured in parts, voided or forgotten, payments that are given back, and money that goes to other partitions.

What is drawn depends on the model only: it knows which holds are open and what was paid.
"""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

from schemas.records import (
    AdmitPartner,
    NamedAmount,
    OpenAccount,
    Posting,
    Transaction,
)
from tests import ledger_products
from tests.ledger_controls import HOUR, control
from tests.ledger_model import LONG_MAX, Entry, Model
from tests.ledger_world import BOOKED_AT, DAY, LONG_MS
from tests.model.values import root

TREES = {0: ("acme", "mira"), 1: ("zeta", "nova"), 2: ("zenit", "north")}  # the roots of each of three partitions
CURRENCY = {"w": "CNY", "cash": "CNY", "v": "JPY", "k": "KWD"}
SMALL = (1, 2, 5, 10, 50)

KINDS = {
    "transfer": 22, "product": 18, "entry": 9, "hold": 15, "capture": 14, "void": 4, "refund": 10, "reversal": 4,
    "exchange": 5, "adjustment": 3, "control": 16,
}  # fmt: skip


def trees(model: Model) -> tuple[str, str]:
    """The two root partners of the model's partition."""
    return TREES[model.partition] if model.partitions > 1 else ("acme", "zeta")


def partners_of(model: Model) -> list[str]:
    main, second = trees(model)
    return [main, f"{main}/a", f"{main}/a/x", f"{main}/ab", second]


def accounts_of(model: Model) -> list[str]:
    return [f"{p}:{n}" for p in (*partners_of(model), "bank") for n in CURRENCY]


def below(random: Random, model: Model, partner: str) -> str:
    """The partner, or now and then one below it: whoever is above may ask in its own name."""
    young = [p for p in partners_of(model) if p.startswith(partner + "/")]
    return random.choice(young) if young and random.random() < 0.2 else partner


def day_of(random: Random, model: Model) -> int:
    """A value date: before the shelf, of its days or of today, where versions come into force and days are closed."""
    today = max(BOOKED_AT, model.now) // (24 * HOUR)
    return random.choice(
        (DAY - 400, DAY - 3, DAY - 1, DAY + 1, DAY + 2, DAY + 4, DAY + 40, today - 1, today, today + 1, today + 3)
    )


def far_account(random: Random, model: Model, local: str) -> str:
    """An account of another partition, or of nobody."""
    others = [t for p, both in TREES.items() if p != model.partition for t in both]
    owner = random.choice(others) if model.partitions > 1 else "faraway"
    below = random.choices(("", "/a", "/a/x", "/zz"), (70, 20, 7, 3))[0]
    return f"{owner}{below}:{local if random.random() < 0.95 else '?'}"


def setup(model: Model | None = None, *, shelf: bool = False) -> list[Any]:
    """Partners and accounts to begin with; some of each are left for the run to make."""
    model = Model() if model is None else model
    main, second = trees(model)
    out: list[Any] = [AdmitPartner("bank", f"p{i}", p, p) for i, p in enumerate(partners_of(model)[:4])]
    if model.partitions > 1:
        out.append(AdmitPartner("bank", "p9", second, second))
        out.append(OpenAccount("bank", "s9", f"{second}:w", "liability", "CNY", 0))
    out += [OpenAccount("bank", f"b{n}", f"bank:{n}", "asset", c, None) for n, c in CURRENCY.items()]
    for i, name in enumerate(a for a in accounts_of(model) if a.startswith(main)):
        local = name.partition(":")[2]
        kind = "asset" if local == "cash" else "liability"
        out.append(OpenAccount("bank", f"a{i}", name, kind, CURRENCY[local], 0))
    for local, currency in CURRENCY.items():
        roles = {"payer": f"bank:{local}", "payee": f"{main}:{local}"}
        out.append(Transaction(main, f"f{local}", "wallet", "transfer", 500, currency, roles, (), DAY))
    if shelf:
        currencies = sorted(set(CURRENCY.values()))
        out += [OpenAccount("bank", f"t{c}", f"bank:till:{c}", "asset", c, None) for c in currencies]
        out += ledger_products.shelf(DAY)
    return out


def later(random: Random, model: Model) -> int:
    """The append time of the next command: mostly a little later, sometimes much, sometimes before the last."""
    steps = (1, 3, 40, 1_000, 60_000, HOUR, 25 * HOUR, 31 * 24 * HOUR, -20)
    ahead = random.choices(steps, (5_000, 2_000, 1_400, 800, 400, 100, 50, 4, 300))[0]
    if model.now + ahead - BOOKED_AT > LONG_MS // 2:  # the model forgets nothing, so the ledger must not yet either
        return model.now
    return max(BOOKED_AT, model.now) + ahead


def command(random: Random, model: Model, kind: str = "") -> Any:
    """One command; most settle, many do not, some were sent before. `kind`: one of KINDS, any when empty."""
    if model.answered and random.random() < 0.04:
        return _again(random, model)
    kind = kind or random.choices(list(KINDS), list(KINDS.values()))[0]
    partner = random.choices((*partners_of(model), "bank", "nobody"), (44, 25, 10, 9, 4, 7, 1))[0]
    key = f"k{random.randrange(400)}" if random.random() < 0.06 else f"u{random.getrandbits(48)}"
    if model.freezes and not model.limits and kind == "transfer" and random.random() < 0.5:
        # What is settled by a short cut as long as nothing is limited: the short cut must know of freezes.
        main, today = trees(model)[0], max(BOOKED_AT, model.now) // (24 * HOUR)
        roles = {"payer": f"{main}:cash", "payee": f"{main}:w"}
        return Transaction(main, key, "wallet", "transfer", 1, "CNY", roles, (), today)
    if kind == "control":
        return control(random, model, partner, key, partners_of(model), accounts_of(model))
    t = _transaction(random, model, kind, partner, key)
    if random.random() < 0.05:
        t = msgspec.structs.replace(t, value_date=day_of(random, model))
    if random.random() < 0.02:
        t = msgspec.structs.replace(t, exponent=random.choice((0, 2, 2, 2, 3, -2)))
    return t


def _transaction(random: Random, model: Model, kind: str, partner: str, key: str) -> Transaction:
    match kind:
        case "transfer":
            return _mangled(random, model, _transfer(random, model, partner, key), 0.03)
        case "product":
            plain = _transfer(random, model, partner, key)
            if random.random() < 0.1:
                far = far_account(random, model, "w")
                plain = msgspec.structs.replace(plain, accounts={**plain.accounts, "payee": far})
            accounts = accounts_of(model) + [far_account(random, model, "w") for _ in range(2)]
            t = ledger_products.transaction(random, model, plain, accounts, plain.amount)
            return _mangled(random, model, t, 0.05)
        case "entry":
            return _entry(random, model, partner, key)
        case "hold":
            return _mangled(random, model, _hold(random, model, partner, key), 0.1)
        case "capture" | "void":
            return _mangled(random, model, _of_hold(random, kind, partner, key, model), 0.12)
        case "refund" | "reversal":
            return _mangled(random, model, _of_entry(random, kind, partner, key, model), 0.12)
        case "exchange":
            return _mangled(random, model, _exchange(random, model, partner, key), 0.1)
        case _:
            return _mangled(random, model, _adjustment(random, model, partner, key), 0.12)


def refunds(random: Random, model: Model, count: int) -> list[Transaction]:
    """So many refunds of one payment; when it is not divisible, the last ones are too many."""
    paid = [(k, e) for k, e in model.others.items() if isinstance(e, Entry) and len(e.legs) == 2]
    if not paid:
        return []
    (partner, original), entry = random.choice(paid)
    each = max(1, entry.legs[0].amount // random.choice((count, count - 1, count // 2)))
    run = random.getrandbits(48)
    return [
        Transaction(
            partner,
            f"r{run}-{i}",
            entry.product,
            "refund",
            each,
            entry.legs[0].currency,
            {},
            (),
            DAY,
            original=original,
        )
        for i in range(count)
    ]


def _again(random: Random, model: Model) -> Any:
    """What was sent before, or something else under its key."""
    before = random.choice(list(model.answered.values()))[0]
    if random.random() < 0.8 or not hasattr(before, "note"):
        return before
    if not isinstance(before, Transaction):
        return msgspec.structs.replace(before, note="another")
    field, value = random.choice((("reference", "another"), ("amount", before.amount + 1), ("final", not before.final)))
    return msgspec.structs.replace(before, **{field: value})


def _amount(random: Random) -> int:
    drawn = random.random()
    if drawn < 0.88:
        return random.choice(SMALL)
    return random.choice((0, -1, 10**6, LONG_MAX, LONG_MAX)) if drawn < 0.95 else random.randrange(1, 2000)


def _currency(random: Random) -> str:
    return random.choices(("CNY", "JPY", "KWD", "XXX"), (70, 16, 12, 2))[0]


def _transfer(random: Random, model: Model, partner: str, key: str) -> Transaction:
    accounts = accounts_of(model)
    roles = {"payer": random.choice(accounts), "payee": random.choice(accounts)}
    local, near = random.choices(("w", "v", "k"), (6, 2, 2))[0], random.random()
    currency, operation = CURRENCY[local], "transfer"
    if near < 0.4:
        roles = {"payer": f"bank:{local}", "payee": f"{partner}:{local}"}
        if model.shelf and random.random() < 0.9:
            operation, roles = "deposit", {"payee": roles["payee"]}
    elif near < 0.8:
        to = "cash" if local == "w" and random.random() < 0.3 else local
        others = [p for p in (*partners_of(model), "bank") if p != partner or to != local]
        payee, giver = f"{random.choice(others)}:{to}", below(random, model, partner)
        if model.partitions > 1 and random.random() < 0.25:
            payee = far_account(random, model, to)
        roles = {"payer": f"{giver}:{local}", "payee": payee}
        if model.shelf and root(payee.split(":")[0]) != root(partner) and random.random() < 0.9:
            operation, roles = "send", {"payer": f"{giver}:{local}", "peer": payee}
    else:
        currency = _currency(random)
    if random.random() < 0.02:
        roles = {"payer": accounts[0], "fee": accounts[0]}
    operation = operation if random.random() < 0.98 else "borrow"
    product = "wallet" if random.random() < 0.99 else random.choice(("shop", "none"))
    return Transaction(partner, key, product, operation, _amount(random), currency, roles, (), DAY)


def _hold(random: Random, model: Model, partner: str, key: str) -> Transaction:
    """A hold; several lapse at the same moment, some take all that there is, a few are of the largest amount."""
    local = random.choices(("w", "v", "k"), (6, 2, 2))[0]
    others = partners_of(model)[:4]
    roles = {"payer": f"{below(random, model, partner)}:{local}", "payee": f"{random.choice(others)}:{local}"}
    if not model.shelf and random.random() < 0.4:
        roles["payer"] = f"bank:{local}"
    plain = Transaction(partner, key, "wallet", "hold", _amount(random), CURRENCY[local], roles, (), DAY)
    if random.random() < 0.2:
        plain = msgspec.structs.replace(_transfer(random, model, partner, key), operation="hold")
    drawn = random.random()
    grid = random.choices((0, 1, 50, 1_500, 90_000, HOUR), (40, 12, 20, 18, 6, 4))[0]
    expires_at = (max(BOOKED_AT, model.now) // grid + random.randint(1, 2)) * grid if grid else 0
    amount = random.choice((1, 7, 20, 100)) if 0 < plain.amount < 100 else plain.amount
    payer = model.accounts.get(plain.accounts.get("payer", ""))
    floor = payer.floor() if payer is not None else None
    if drawn < 0.04:
        roles = {"payer": "bank:w", "payee": f"{trees(model)[0]}:w"}
        amount, plain = LONG_MAX, msgspec.structs.replace(plain, accounts=roles, currency="CNY")
    elif drawn < 0.3 and payer is not None and floor is not None and not payer.debit_normal():
        amount = max(-1, min(payer.available() - floor, LONG_MAX))
    return msgspec.structs.replace(plain, amount=amount, expires_at=expires_at)


def _exchange(random: Random, model: Model, partner: str, key: str) -> Transaction:
    """One currency for another over the bank's accounts."""
    one, other = random.sample(("w", "v", "k"), 2)
    asker = "bank" if model.shelf and random.random() < 0.9 else partner
    roles = {
        "payer": f"{below(random, model, partner)}:{one}", "payee": f"{random.choice(partners_of(model)[:2])}:{other}",
        "sold": f"bank:{one}", "bought": f"bank:{other}",
    }  # fmt: skip
    if random.random() < 0.3:
        roles[random.choice(list(roles))] = random.choice(accounts_of(model))
    rates = (
        "7.1234",
        "0.05",
        "20",
        "1",
        "123456789012.123456789012",
        "0.000000000001",
        "0.5",
        "0.00",
        "-1",
        "1.",
        "1e3",
        "",
    )
    rate = random.choices(rates, (20, 10, 10, 10, 2, 2, 10, 1, 1, 1, 1, 1))[0]
    product = "wallet"
    if model.shelf and random.random() < 0.5:  # a partner itself, over accounts that the product names
        product, asker = "fx", partner
        roles = {name: roles[name] for name in ("payer", "payee")}
        roles["payee"] = f"{partner}:{other}" if random.random() < 0.8 else roles["payee"]
    return Transaction(asker, key, product, "exchange", _amount(random), CURRENCY[one], roles, (), DAY, rate=rate)


def _of_hold(random: Random, operation: str, partner: str, key: str, model: Model) -> Transaction:
    """A capture or void of a hold that is open, if there is one; sometimes of one that is not."""
    holds = list(model.holds.items())
    usable = [(k, h) for k, h in holds if h.state == "open"]
    chosen = random.choice(usable) if usable and random.random() < 0.93 else random.choice(holds) if holds else None
    if not usable and random.random() < 0.7:
        return _hold(random, model, partner, key)
    if chosen is None:
        return _pointer(partner, key, operation, 1, "CNY", f"k{random.randrange(400)}")
    (owner, original), hold = chosen
    if operation == "void":
        return _pointer(owner, key, operation, 0, hold.currency, original)
    some = random.randint(1, hold.left) if hold.left else 1
    amount = random.choices((some, hold.left, hold.left + 1, _amount(random)), (65, 25, 4, 6))[0]
    final = random.random() < 0.15
    return _pointer(owner, key, operation, amount, hold.currency, original, final=final)


REVERSALS = {"shop": "undo", "escrow": "undo", "treasury": "undo", "loan": "undo"}


def _of_entry(random: Random, operation: str, partner: str, key: str, model: Model) -> Transaction:
    """A refund or reversal of an entry with something left, if there is one; sometimes of any."""
    paid = [(k, e) for k, e in model.others.items() if isinstance(e, Entry)]
    usable = [
        (k, e) for k, e in paid
        if e.given_back < e.debits()[0].amount and (len(e.debits()) == 1) == (operation == "refund")
    ]  # fmt: skip
    chosen = random.choice(usable) if usable and random.random() < 0.85 else random.choice(paid) if paid else None
    if chosen is None:
        return _pointer(partner, key, operation, 1, "CNY", f"k{random.randrange(400)}")
    (owner, original), entry = chosen
    product = entry.product if random.random() < 0.97 else "wallet"
    currency = entry.legs[0].currency
    if operation == "reversal":
        name = REVERSALS.get(product, operation)
        return _pointer(owner, key, name, 0, currency, original, product=product)
    left = entry.debits()[0].amount - entry.given_back
    some = random.randint(1, left) if left > 0 else 1
    amount = random.choices((some, left, left + 1, _amount(random)), (70, 14, 8, 8))[0]
    name = "back" if product == "shop" and random.random() < 0.3 else operation
    return _pointer(owner, key, name, amount, currency, original, product=product)


def _pointer(
    partner: str, key: str, operation: str, amount: int, currency: str, original: str, *, final: bool = False,
    product: str = "wallet",
) -> Transaction:  # fmt: skip
    return Transaction(
        partner, key, product, operation, amount, currency, {}, (), DAY, original=original, final=final
    )  # fmt: skip


def _adjustment(random: Random, model: Model, partner: str, key: str) -> Transaction:
    legs: list[Posting] = []
    for _ in range(random.randint(1, 2)):
        local, amount = random.choice(("w", "v", "k")), random.choice(SMALL)
        ours = [a for a in accounts_of(model) if a.endswith(f":{local}")]
        legs.append(Posting(random.choice(ours), "debit", amount, CURRENCY[local]))
        legs.append(Posting(random.choice((f"bank:{local}", random.choice(ours))), "credit", amount, CURRENCY[local]))
    if random.random() < 0.03:
        legs[0] = msgspec.structs.replace(legs[0], account_id="bank:crossing:CNY")
    by = "bank" if random.random() < 0.9 else partner
    return Transaction(by, key, "wallet", "adjustment", 0, "CNY", {}, tuple(legs), DAY, note="a correction")


LEGS = (Posting("bank:w", "debit", 1), Posting("acme:w", "credit", 1))
ROLES = {"payer": "bank:w", "payee": "acme:w"}
BROKEN: tuple[dict[str, Any], ...] = (
    {"value_date": -1}, {"value_date": 2_932_897}, {"reference": "x" * 1025}, {"metadata": {str(i): "" for i in range(65)}},
    {"original": ""}, {"original": "k1"}, {"original": "never"}, {"original": "\0"}, {"original": "pw"}, {"original": "fw"},
    {"final": True}, {"expires_at": 1}, {"expires_at": -1}, {"expires_at": BOOKED_AT + 60_000}, {"expires_at": 2**62},
    {"note": "why"}, {"note": ""}, {"note": "x" * 1024}, {"note": "x" * 1025},
    {"accounts": ROLES}, {"accounts": {}}, {"accounts": {"payer": "bank:w"}}, {"accounts": {**ROLES, "fee": "bank:w"}},
    {"postings": LEGS}, {"postings": ()}, {"postings": LEGS[:1]}, {"postings": (LEGS[0], Posting("acme:w", "left", 1))},
    {"postings": (LEGS[0], Posting("acme:w", "credit", 2))}, {"postings": LEGS, "accounts": {}, "amount": 0},
    {"amount": 0}, {"amount": 1}, {"amount": -1}, {"amount": 2**63}, {"amount": LONG_MAX},
    {"currency": "XXX"}, {"currency": "JPY"}, {"currency": "KWD"}, {"currency": ""},
    {"partner_id": "acme"}, {"partner_id": "acme/a"}, {"partner_id": "bank"}, {"partner_id": "nobody"},
    {"operation": "transfer"}, {"operation": "hold"}, {"operation": "capture"}, {"operation": "void"},
    {"operation": "refund"}, {"operation": "reversal"}, {"operation": "adjustment"}, {"operation": ""},
    {"rate": "2"}, {"rate": ""}, {"exponent": 7}, {"product": "none"}, {"product": "shop"}, {"product": ""},
    {"amounts": (NamedAmount("tip", 1),)}, {"amounts": ()}, {"amounts": (NamedAmount("base", 0),)},
    {"amounts": (NamedAmount("tip", 2**63),)}, {"amounts": (NamedAmount("tip", 1), NamedAmount("base", 1))},
    {"accounts": {"payer": "bank:crossing:CNY", "payee": "acme:w"}}, {"accounts": {"payer": "acme:w", "payee": "bank:crossing:CNY"}},
)  # fmt: skip


def _mangled(random: Random, model: Model, t: Transaction, how_often: float) -> Transaction:
    """The same, or with one or two fields broken in one of the ways that docs/operations.md names."""
    if random.random() < how_often:
        t = msgspec.structs.replace(t, **random.choice(BROKEN))
        if random.random() < 0.3:
            t = msgspec.structs.replace(t, **random.choice(BROKEN))
    return t


def _entry(random: Random, model: Model, partner: str, key: str) -> Transaction:
    legs: list[Posting] = []
    main, far = trees(model)[0], random.random() < 0.25 and model.partitions > 1
    for _ in range(random.randint(2 if far else 1, 3)):  # to two other partitions, often
        amount, currency = _amount(random), random.choices(("", "CNY", "JPY", "KWD"), (70, 15, 10, 5))[0]
        local = next(n for n, c in CURRENCY.items() if c == (currency or "CNY"))
        near = (f"bank:{local}", f"{main}:{local}", f"{main}/a:{local}", random.choice(accounts_of(model)))
        payers = near if not model.shelf or random.random() < 0.1 else (f"{partner}:{local}", near[1])
        legs.append(Posting(random.choice(payers), "debit", amount, currency))
        if random.random() < 0.95:
            to = far_account(random, model, local) if far else random.choice(near)
            legs.append(Posting(to, "credit", amount, currency))
    random.shuffle(legs)
    operation = "entry" if model.shelf and random.random() < 0.97 else "transfer"
    return Transaction(partner, key, "wallet", operation, 0, "CNY", {}, tuple(legs), DAY, metadata={"m": "1"})
