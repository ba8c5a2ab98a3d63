"""Random commands in a small world, so that everything meets everything: refusals, repeats, limits, blocks, closings."""

from __future__ import annotations

from random import Random
from typing import Any

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
from tests.ledger_world import DAY

PARTNERS = ("acme", "acme/a", "acme/a/x", "acme/ab", "zeta")
LOCAL = ("w", "v", "cash")
ACCOUNTS = tuple(f"{p}:{n}" for p in (*PARTNERS, "bank") for n in LOCAL)
TYPES = ("liability", "liability", "liability", "asset", "income", "expense", "equity")
SMALL = (1, 2, 5, 10, 50)


def setup() -> list[Any]:
    """Partners and accounts to begin with; some of each are left for the run to make."""
    out: list[Any] = [AdmitPartner("bank", f"p{i}", p, p) for i, p in enumerate(PARTNERS[:4])]
    out += [OpenAccount("bank", f"b{n}", f"bank:{n}", "asset", "CNY", None) for n in LOCAL]
    for i, name in enumerate(a for a in ACCOUNTS if a.startswith("acme")):
        kind = "asset" if name.endswith("cash") else "liability"
        out.append(OpenAccount("bank", f"a{i}", name, kind, "JPY" if name.endswith("v") else "CNY", 0))
    return out


def command(random: Random) -> Any:
    """One command; most settle, many do not, some were sent before."""
    if random.random() < 0.05:
        return command(Random(random.randrange(200)))
    partner = random.choices((*PARTNERS, "bank", "nobody"), (40, 25, 10, 10, 3, 8, 1))[0]
    key = f"k{random.randrange(400)}" if random.random() < 0.1 else f"u{random.getrandbits(48)}"
    drawn = random.random()
    if drawn < 0.62:
        return _transfer(random, partner, key)
    if drawn < 0.8:
        return _entry(random, partner, key)
    return _control(random, partner, key)


def _amount(random: Random) -> int:
    drawn = random.random()
    if drawn < 0.9:
        return random.choice(SMALL)
    return random.choice((0, -1, 10**6, 2**63 - 1)) if drawn < 0.95 else random.randrange(1, 2000)


def _currency(random: Random) -> str:
    return random.choices(("CNY", "JPY", "XXX"), (80, 18, 2))[0]


def _transfer(random: Random, partner: str, key: str) -> Transaction:
    roles = {"payer": random.choice(ACCOUNTS), "payee": random.choice(ACCOUNTS)}
    currency, near = "CNY", random.random()
    if near < 0.4:
        roles = {"payer": "bank:w", "payee": f"{partner}:w"}
    elif near < 0.75:
        roles = {"payer": f"{partner}:w", "payee": f"acme:{random.choice(('w', 'cash'))}"}
    else:
        currency = _currency(random)
    if random.random() < 0.03:
        roles = {"payer": "acme:w", "fee": "acme:w"}
    operation = "transfer" if random.random() < 0.98 else "hold"
    day = DAY if random.random() < 0.98 else -1
    return Transaction(partner, key, "wallet", operation, _amount(random), currency, roles, (), day)


def _entry(random: Random, partner: str, key: str) -> Transaction:
    legs: list[Posting] = []
    for _ in range(random.randint(1, 3)):
        amount, currency = _amount(random), random.choices(("", "CNY", "JPY"), (70, 20, 10))[0]
        legs.append(
            Posting(random.choice(("bank:w", "acme:w", "acme/a:w", random.choice(ACCOUNTS))), "debit", amount, currency)
        )
        if random.random() < 0.95:
            legs.append(Posting(random.choice(ACCOUNTS[:12]), "credit", amount, currency))
    random.shuffle(legs)
    return Transaction(partner, key, "wallet", "transfer", 0, "CNY", {}, tuple(legs), DAY, metadata={"m": "1"})


def _control(random: Random, partner: str, key: str) -> Any:
    by = "bank" if random.random() < 0.7 else partner
    name, flag = random.choice(ACCOUNTS), random.random() < 0.3
    limit = random.choice((None, 0, -10, -100, 5, 2**63))
    match random.randrange(9):
        case 0:
            return AdmitPartner(by, key, random.choice((*PARTNERS, "acme/b", "no/parent", "Bad")), "n")
        case 1 | 2:
            state = random.choices(("live", "suspended", "gone"), (88, 8, 4))[0]
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
            return BlockAccount(by, key, name, flag, random.random() < 0.2)
        case 7:
            return SetAccountLimit(by, key, name, limit)
        case _:
            return CloseAccount(by, key, name)
