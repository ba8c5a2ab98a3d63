"""Random commands in a small world, so that everything meets everything: refusals, repeats, limits, blocks, closings,
holds that are captured in parts, voided or forgotten, and payments that are given back.

What is drawn depends on the model only: it knows which holds are open and what was paid.
"""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

from schemas.records import (
    AdmitPartner,
    BlockAccount,
    CloseAccount,
    OpenAccount,
    Posting,
    SetAccountLimit,
    SetPartnerState,
    Transaction,
)
from tests.ledger_model import Entry, Model
from tests.ledger_world import BOOKED_AT, DAY, WINDOW_MS

PARTNERS = ("acme", "acme/a", "acme/a/x", "acme/ab", "zeta")
CURRENCY = {"w": "CNY", "cash": "CNY", "v": "JPY", "k": "KWD"}
ACCOUNTS = tuple(f"{p}:{n}" for p in (*PARTNERS, "bank") for n in CURRENCY)
TYPES = ("liability", "liability", "liability", "asset", "income", "expense", "equity")
SMALL = (1, 2, 5, 10, 50)
LONG_MAX = 2**63 - 1
HOUR = 3_600_000

KINDS = {
    "transfer": 24, "entry": 10, "hold": 17, "capture": 15, "void": 4, "refund": 8, "reversal": 4, "adjustment": 3,
    "control": 15,
}  # fmt: skip


def setup() -> list[Any]:
    """Partners and accounts to begin with; some of each are left for the run to make."""
    out: list[Any] = [AdmitPartner("bank", f"p{i}", p, p) for i, p in enumerate(PARTNERS[:4])]
    out += [OpenAccount("bank", f"b{n}", f"bank:{n}", "asset", c, None) for n, c in CURRENCY.items()]
    for i, name in enumerate(a for a in ACCOUNTS if a.startswith("acme")):
        local = name.partition(":")[2]
        kind = "asset" if local == "cash" else "liability"
        out.append(OpenAccount("bank", f"a{i}", name, kind, CURRENCY[local], 0))
    for local, currency in CURRENCY.items():
        roles = {"payer": f"bank:{local}", "payee": f"acme:{local}"}
        out.append(Transaction("acme", f"f{local}", "wallet", "transfer", 500, currency, roles, (), DAY))
    return out


def later(random: Random, model: Model) -> int:
    """The append time of the next command: mostly a little later, sometimes much, sometimes before the last."""
    if model.now - BOOKED_AT > WINDOW_MS - 3 * HOUR:  # the model forgets nothing, so the ledger must not yet either
        return model.now
    return max(BOOKED_AT, model.now) + random.choices((1, 3, 40, 1_000, 60_000, HOUR, -20), (50, 20, 14, 8, 4, 1, 3))[0]


def command(random: Random, model: Model, kind: str = "") -> Any:
    """One command; most settle, many do not, some were sent before. `kind`: one of KINDS, any when empty."""
    if model.answered and random.random() < 0.04:
        return _again(random, model)
    kind = kind or random.choices(list(KINDS), list(KINDS.values()))[0]
    partner = random.choices((*PARTNERS, "bank", "nobody"), (44, 25, 10, 9, 2, 7, 1))[0]
    key = f"k{random.randrange(400)}" if random.random() < 0.06 else f"u{random.getrandbits(48)}"
    match kind:
        case "transfer":
            return _mangled(random, _transfer(random, partner, key), 0.03)
        case "entry":
            return _entry(random, partner, key)
        case "control":
            return _control(random, partner, key)
        case "hold":
            return _mangled(random, _hold(random, partner, key, model), 0.1)
        case "capture" | "void":
            return _mangled(random, _of_hold(random, kind, partner, key, model), 0.12)
        case "refund" | "reversal":
            return _mangled(random, _of_entry(random, kind, partner, key, model), 0.12)
        case _:
            return _mangled(random, _adjustment(random, partner, key), 0.12)


def refunds(random: Random, model: Model, count: int) -> list[Transaction]:
    """So many refunds of one payment; when it is not divisible, the last ones are too many."""
    paid = [(k, e) for k, e in model.others.items() if isinstance(e, Entry) and len(e.legs) == 2]
    (partner, original), entry = random.choice(paid)
    each = max(1, entry.legs[0].amount // random.choice((count, count - 1, count // 2)))
    run = random.getrandbits(48)
    return [
        Transaction(
            partner, f"r{run}-{i}", "wallet", "refund", each, entry.legs[0].currency, {}, (), DAY, original=original
        )
        for i in range(count)
    ]


def _again(random: Random, model: Model) -> Any:
    """What was sent before, or something else under its key."""
    before = random.choice(list(model.answered.values()))[0]
    if random.random() < 0.8:
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


def _transfer(random: Random, partner: str, key: str) -> Transaction:
    roles = {"payer": random.choice(ACCOUNTS), "payee": random.choice(ACCOUNTS)}
    local, near = random.choices(("w", "v", "k"), (6, 2, 2))[0], random.random()
    currency = CURRENCY[local]
    if near < 0.4:
        roles = {"payer": f"bank:{local}", "payee": f"{partner}:{local}"}
    elif near < 0.8:
        to = "cash" if local == "w" and random.random() < 0.3 else local
        others = [p for p in ("acme", "acme/a", "acme/ab", "bank") if p != partner or to != local]
        roles = {"payer": f"{partner}:{local}", "payee": f"{random.choice(others)}:{to}"}
    else:
        currency = _currency(random)
    if random.random() < 0.02:
        roles = {"payer": "acme:w", "fee": "acme:w"}
    operation = "transfer" if random.random() < 0.98 else "borrow"
    return Transaction(partner, key, "wallet", operation, _amount(random), currency, roles, (), DAY)


def _hold(random: Random, partner: str, key: str, model: Model) -> Transaction:
    """A hold; several lapse at the same moment, some take all that there is, a few are of the largest amount."""
    plain, drawn = _transfer(random, partner, key), random.random()
    grid = random.choices((0, 1, 50, 1_500, 90_000, HOUR), (40, 12, 20, 18, 6, 4))[0]
    expires_at = (max(BOOKED_AT, model.now) // grid + random.randint(1, 2)) * grid if grid else 0
    amount = random.choice((1, 7, 20, 100)) if 0 < plain.amount < 100 else plain.amount
    payer = model.accounts.get(plain.accounts["payer"])
    if drawn < 0.04:
        amount, plain = LONG_MAX, msgspec.structs.replace(plain, accounts=ROLES, currency="CNY")
    elif drawn < 0.3 and payer is not None and payer.limit is not None and not payer.debit_normal():
        amount = min(payer.available() - payer.limit, LONG_MAX)
    return msgspec.structs.replace(plain, operation="hold", amount=amount, expires_at=expires_at)


def _of_hold(random: Random, operation: str, partner: str, key: str, model: Model) -> Transaction:
    """A capture or void of a hold that is open, if there is one; sometimes of one that is not."""
    holds = list(model.holds.items())
    usable = [(k, h) for k, h in holds if h.state == "open"]
    chosen = random.choice(usable) if usable and random.random() < 0.93 else random.choice(holds) if holds else None
    if chosen is None:
        return _pointer(partner, key, operation, 1, "CNY", f"k{random.randrange(400)}")
    (owner, original), hold = chosen
    if operation == "void":
        return _pointer(owner, key, operation, 0, hold.currency, original)
    some = random.randint(1, hold.left) if hold.left else 1
    amount = random.choices((some, hold.left, hold.left + 1, _amount(random)), (65, 25, 4, 6))[0]
    final = random.random() < 0.15
    return _pointer(owner, key, operation, amount, hold.currency, original, final=final)


def _of_entry(random: Random, operation: str, partner: str, key: str, model: Model) -> Transaction:
    """A refund or reversal of an entry with something left, if there is one; sometimes of any."""
    paid = [(k, e) for k, e in model.others.items() if isinstance(e, Entry)]
    usable = [
        (k, e) for k, e in paid if e.given_back < e.legs[0].amount and (len(e.legs) == 2) == (operation == "refund")
    ]
    chosen = random.choice(usable) if usable and random.random() < 0.85 else random.choice(paid) if paid else None
    if chosen is None:
        return _pointer(partner, key, operation, 1, "CNY", f"k{random.randrange(400)}")
    (owner, original), entry = chosen
    if operation == "reversal":
        return _pointer(owner, key, operation, 0, entry.legs[0].currency, original)
    left = entry.legs[0].amount - entry.given_back
    some = random.randint(1, left) if left > 0 else 1
    amount = random.choices((some, left, left + 1, _amount(random)), (70, 14, 8, 8))[0]
    return _pointer(owner, key, operation, amount, entry.legs[0].currency, original)


def _pointer(
    partner: str, key: str, operation: str, amount: int, currency: str, original: str, *, final: bool = False
) -> Transaction:
    return Transaction(
        partner, key, "wallet", operation, amount, currency, {}, (), DAY, original=original, final=final
    )  # fmt: skip


def _adjustment(random: Random, partner: str, key: str) -> Transaction:
    legs: list[Posting] = []
    for _ in range(random.randint(1, 2)):
        local, amount = random.choice(("w", "v", "k")), random.choice(SMALL)
        ours = [a for a in ACCOUNTS if a.endswith(f":{local}")]
        legs.append(Posting(random.choice(ours), "debit", amount, CURRENCY[local]))
        legs.append(Posting(random.choice((f"bank:{local}", random.choice(ours))), "credit", amount, CURRENCY[local]))
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
)  # fmt: skip


def _mangled(random: Random, t: Transaction, how_often: float) -> Transaction:
    """The same, or with one or two fields broken in one of the ways that docs/operations.md names."""
    if random.random() < how_often:
        t = msgspec.structs.replace(t, **random.choice(BROKEN))
        if random.random() < 0.3:
            t = msgspec.structs.replace(t, **random.choice(BROKEN))
    return t


def _entry(random: Random, partner: str, key: str) -> Transaction:
    legs: list[Posting] = []
    for _ in range(random.randint(1, 3)):
        amount, currency = _amount(random), random.choices(("", "CNY", "JPY", "KWD"), (70, 15, 10, 5))[0]
        local = next(n for n, c in CURRENCY.items() if c == (currency or "CNY"))
        near = (f"bank:{local}", f"acme:{local}", f"acme/a:{local}", random.choice(ACCOUNTS))
        legs.append(Posting(random.choice(near), "debit", amount, currency))
        if random.random() < 0.95:
            legs.append(Posting(random.choice(near), "credit", amount, currency))
    random.shuffle(legs)
    return Transaction(partner, key, "wallet", "transfer", 0, "CNY", {}, tuple(legs), DAY, metadata={"m": "1"})


def _control(random: Random, partner: str, key: str) -> Any:
    by = "bank" if random.random() < 0.7 else partner
    name, flag = random.choice(ACCOUNTS), random.random() < 0.2
    limit = random.choice((None, 0, 0, -10, -100, 5, 2**63))
    match random.randrange(9):
        case 0:
            return AdmitPartner(by, key, random.choice((*PARTNERS, "acme/b", "no/parent", "Bad")), "n")
        case 1 | 2:
            state = random.choices(("live", "suspended", "gone"), (93, 4, 3))[0]
            return SetPartnerState(by, key, random.choice((*PARTNERS, "nobody")), state)
        case 3 | 4:
            return OpenAccount(
                by,
                key,
                random.choice((name, f"{partner}:n{random.randrange(9)}")),
                random.choice(TYPES),
                _currency(random),
                limit,
            )
        case 5 | 6:
            return BlockAccount(by, key, name, flag, random.random() < 0.15)
        case 7:
            return SetAccountLimit(by, key, name, limit)
        case _:
            return CloseAccount(by, key, name)
