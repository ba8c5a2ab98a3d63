"""Streams of commands of every kind, most of them good, some broken in every way that the rules name.

What `whole` adds to the plain stream is in `hostile_whole`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from msgspec.structs import replace

from schemas.records import (
    AdmitPartner,
    BlockAccount,
    CloseAccount,
    Command,
    OpenAccount,
    Posting,
    SetAccountLimit,
    SetPartnerState,
    Transaction,
)
from tests.faults.hostile_whole import (
    elsewhere,
    exchange,
    from_below,
    frozen_for_a_while,
    of_product,
    republished,
    whole_command,
)

START_MS = 1_760_000_000_000
STEP_MS = 3
SETTING_UP = 90  # records of the setting up, about
CURRENCIES = ("CNY", "USD", "JPY")
PARTNERS = ("acme", "acme/shop-1", "acme/shop-1/till-a", "acme/shop-2", "globex", "globex/west", "initech")


def setting_up() -> Iterator[Command]:
    """Partners, bank accounts and two accounts per partner and currency; every wallet starts empty."""
    n = 0
    for partner in PARTNERS:
        yield AdmitPartner("bank", f"admit-{partner}", partner, partner.upper())
    for currency in CURRENCIES:
        yield OpenAccount("bank", f"clearing-{currency}", f"bank:clearing:{currency}", "asset", currency)
        for partner in PARTNERS:
            for name, limit in (("a", 0), ("b", -5_000), ("open", None)):
                n += 1
                kind = "asset" if (name, currency) == ("b", "USD") else "liability"
                account = f"{partner}:{name}:{currency}"
                by = partner if n % 2 and limit == 0 else "bank"  # only the bank lets an account go below zero
                yield OpenAccount(by, f"open-{account}", account, kind, currency, limit)


def hostile_stream(
    seed: int, n: int, start_ms: int = START_MS, step_ms: int = STEP_MS, *, whole: bool = False, shelf: bool = False
) -> Iterator[Command | bytes | None]:
    """Commands of every kind, most of them good, some broken in every way that the rules name; bytes are malformed.

    `start_ms` is when the setting up began, ms UTC, with `step_ms` between two commands; holds lapse by it. `whole`:
    also limits, calendars, days, partners' lives, exchanges and forged steps; `shelf`: products are published.
    """
    rnd = random.Random(seed)
    sent: list[Transaction] = []
    for i in range(n):
        if whole:
            yield from frozen_for_a_while(i)
        kind = rnd.random()
        if kind < 0.04 and sent:
            t = rnd.choice(sent)
            yield t if rnd.random() < 0.6 else _changed(t)
        elif kind < 0.06:
            yield rnd.choice((b"", None, b"\x00\x00", b"\x00\x00\x00\x00\x63abc", b"\x00\x00\x00\x00\x01\x02", b"junk"))
        elif kind < 0.16:
            yield _control(rnd, i)
        elif whole and kind < 0.28:
            yield republished(rnd, i) if shelf and rnd.random() < 0.1 else whole_command(rnd, i)
        else:
            t = _any_transaction(rnd, i, sent, start_ms + (SETTING_UP + i) * step_ms, step_ms)
            if shelf and rnd.random() < 0.75:
                t = of_product(rnd, i, sent)
            elif whole and rnd.random() < 0.1:
                t = exchange(rnd, i, rnd.choice(PARTNERS))
            elif whole and t.operation == "transfer" and rnd.random() < 0.5:
                t = elsewhere(rnd, t)
            elif whole and rnd.random() < 0.2:
                t = from_below(rnd, t)
            sent.append(t)
            yield t


def _any_transaction(rnd: random.Random, i: int, sent: list[Transaction], now_ms: int, step_ms: int) -> Transaction:
    """A transfer, a hold, something that names an earlier transaction, or an adjustment; some with a stray field."""
    roll = rnd.random()
    if roll < 0.40 or not sent:
        t = _transaction(rnd, i)
    elif roll < 0.62:
        t = _hold(_transaction(rnd, i), rnd, now_ms, step_ms)
    elif roll < 0.95:
        t = _of_original(rnd, i, sent)
    else:
        t = _adjustment(rnd, i)
    return _misfilled(rnd, t, now_ms) if rnd.random() < 0.03 else t


def _hold(t: Transaction, rnd: random.Random, now_ms: int, step_ms: int) -> Transaction:
    """The transfer as a hold: without end, or lapsing soon, late, at once, or before it was asked for."""
    accounts = t.accounts
    if t.postings and rnd.random() < 0.95:
        accounts = {"payer": t.postings[0].account_id, "payee": t.postings[-1].account_id}
    postings = () if accounts else t.postings
    amount = t.postings[0].amount if t.postings and not postings else t.amount
    ends = rnd.choice((0, 0, *[now_ms + steps * step_ms for steps in (0, 10, 50, 50, 200, 200, 1_000, 10**6)]))
    if rnd.random() < 0.02:
        ends = rnd.choice((-1, 1, now_ms - 400, 2**63 - 1))
    return replace(t, operation="hold", amount=amount, accounts=accounts, postings=postings, expires_at=ends)


def _of_original(rnd: random.Random, i: int, sent: list[Transaction]) -> Transaction:
    """A capture, void, refund or reversal, mostly of what it can be given for, and mostly by the same partner."""
    first = rnd.choice(sent[-60:] if rnd.random() < 0.8 else sent)
    if first.operation == "hold":
        operation = rnd.choice(("capture", "capture", "capture", "void", "refund", "reversal"))
    else:
        operation = rnd.choice(("refund", "refund", "refund", "reversal", "capture", "void"))
    wanted = {"capture": ("hold",), "void": ("hold",)}.get(operation, ("transfer", "capture"))
    fitting = [t for t in sent[-120:] if t.operation in wanted]
    if fitting and rnd.random() < 0.8:
        first = rnd.choice(fitting)
    whole = first.amount or (first.postings[0].amount if first.postings else 300)
    amount = rnd.choice((whole, whole, whole // 2, whole // 3, 1, whole + 1))
    if operation in ("void", "reversal"):
        amount = 0
    elif rnd.random() < 0.02:
        amount = rnd.choice((0, -1, 2**62))
    partner = first.partner_id if rnd.random() > 0.03 else rnd.choice(PARTNERS)
    original = first.idempotency_key if rnd.random() > 0.02 else rnd.choice(("", "never", f"t-{i}", f"c-{i - 1}"))
    currency = first.currency if rnd.random() > 0.03 else rnd.choice((*CURRENCIES, "XXX"))
    final = operation == "capture" and rnd.random() < 0.3
    return Transaction(partner, f"t-{i}", "wallet", operation, amount, currency, {}, (), 20_001, original=original,
                       final=final)  # fmt: skip


def _adjustment(rnd: random.Random, i: int) -> Transaction:
    """The bank's correction between any accounts of one tree; some by others, too long, or without a reason."""
    t = _transaction(rnd, i)
    currency = t.currency
    root = rnd.choice(("acme", "globex", "initech"))
    others = [p for p in PARTNERS if p.partition("/")[0] == root]
    a, b = (f"{rnd.choice(others)}:{rnd.choice(('a', 'b', 'open', 'open', 'new'))}:{currency}" for _ in range(2))
    amount = t.postings[0].amount if t.postings else t.amount
    postings = t.postings or (Posting(a, "debit", amount), Posting(b, "credit", amount))
    if t.postings and rnd.random() < 0.8:
        postings = (Posting(f"bank:clearing:{currency}", "debit", amount), Posting(b, "credit", amount))
    note = "as agreed" if rnd.random() > 0.08 else rnd.choice(("", "x" * 1_024, "x" * 1_025))
    partner = "bank" if rnd.random() > 0.15 else rnd.choice((root, t.partner_id))
    return Transaction(partner, f"t-{i}", "", "adjustment", 0, currency, {}, postings, 20_001, note=note)


def _misfilled(rnd: random.Random, t: Transaction, now_ms: int) -> Transaction:
    """One field that the operation must not have, or has to have."""
    payer = {"payer": "acme:a:CNY", "payee": "acme:b:CNY"}
    two = (Posting("acme:a:CNY", "debit", 5), Posting("acme:b:CNY", "credit", 5))
    changes: tuple[dict[str, object], ...] = (
        {"original": "t-1"}, {"original": ""}, {"final": True}, {"expires_at": now_ms + 5_000}, {"expires_at": -1},
        {"note": "why"}, {"note": ""}, {"note": "x" * 1_024}, {"amount": 5}, {"amount": 0}, {"accounts": payer},
        {"accounts": {}}, {"postings": two}, {"postings": ()}, {"reference": "x" * 1_025}, {"value_date": -1},
        {"accounts": {**t.accounts, "fee": "acme:a:CNY"}}, {"operation": "transfer"}, {"operation": "void"},
        {"operation": "adjustment"}, {"operation": "hold"},
    )  # fmt: skip
    return replace(t, **rnd.choice(changes))


def _changed(t: Transaction) -> Transaction:
    return replace(t, amount=t.amount + 1)


def _account(rnd: random.Random, partner: str, currency: str) -> str:
    roll = rnd.random()
    if roll < 0.10:
        return f"bank:clearing:{currency}"
    if roll < 0.14:
        return f"{rnd.choice(PARTNERS)}:{rnd.choice('ab')}:{currency}"
    if roll < 0.16:
        return f"{partner}:nowhere"
    if roll < 0.18:
        return f"{partner}:a:{rnd.choice(CURRENCIES)}"
    return f"{partner}:{rnd.choice(('a', 'b', 'open'))}:{currency}"


def _transaction(rnd: random.Random, i: int) -> Transaction:
    partner = rnd.choice((*PARTNERS, "nobody")) if rnd.random() < 0.05 else rnd.choice(PARTNERS)
    currency = rnd.choice(CURRENCIES) if rnd.random() > 0.01 else "XXX"
    operation = "transfer" if rnd.random() > 0.01 else "teleport"
    amount = rnd.choice((1, 250, 1_999, rnd.randrange(1, 9_000)))
    if rnd.random() < 0.02:
        amount = rnd.choice((0, -5, 2**62))
    key, day = f"t-{i}", 20_000 + rnd.randrange(3) if rnd.random() > 0.01 else -1
    if rnd.random() < 0.7:
        accounts = {"payer": _account(rnd, partner, currency), "payee": _account(rnd, partner, currency)}
        if accounts["payer"] == accounts["payee"] and rnd.random() < 0.9:
            accounts["payee"] = f"bank:clearing:{currency}"
        if rnd.random() < 0.01:
            accounts["fee"] = accounts["payee"]
        return Transaction(
            partner, key, "wallet", operation, amount, currency, accounts, (), day, f"order {i}", {"n": str(i)}
        )
    postings = [Posting(_account(rnd, partner, currency), "debit", amount)]
    left = amount if rnd.random() > 0.04 else amount + 1
    for _ in range(rnd.randrange(1, 4)):
        part = rnd.randrange(1, left + 1) if left > 0 else left
        postings.append(Posting(_account(rnd, partner, currency), "credit", part, rnd.choice(("", currency))))
        left -= part
    if left > 0:
        postings.append(Posting(_account(rnd, partner, currency), "credit", left))
    if rnd.random() < 0.01:
        postings = postings[:1]
    rnd.shuffle(postings)
    gross = amount if rnd.random() < 0.01 else 0
    return Transaction(partner, key, "wallet", operation, gross, currency, {}, tuple(postings), day)


def _control(rnd: random.Random, i: int) -> Command:
    partner, currency, key = rnd.choice(PARTNERS), rnd.choice(CURRENCIES), f"c-{i}"
    account = f"{partner}:{rnd.choice(('a', 'b', 'open', 'new', 'nowhere'))}:{currency}"
    by = rnd.choice(("bank", "bank", partner, partner.partition("/")[0], rnd.choice(PARTNERS)))
    match rnd.randrange(8):
        case 0 | 1:
            return BlockAccount(by, key, account, rnd.random() < 0.3, rnd.random() < 0.2)
        case 2:
            return SetAccountLimit(by, key, account, rnd.choice((None, 0, -20_000, -(2**63), 100)))
        case 3:
            return CloseAccount(by, key, account.replace(":nowhere:", ":new:"))
        case 4 | 5:
            kind = rnd.choice(("asset", "liability", "income"))
            name = rnd.choice(
                (account, f"{partner}:new-{rnd.randrange(40)}:{currency}", f"{partner}:", f"ghost:x:{currency}")
            )
            return OpenAccount(by, key, name, kind, rnd.choice((currency, currency, "ZZZ")), rnd.choice((None, 0)))
        case 6:
            subject = rnd.choice((partner, f"{partner}/new-{rnd.randrange(9)}", "UPPER", "ghost/child", "bank/x"))
            return AdmitPartner(rnd.choice(("bank", "bank", "acme")), key, subject, "New")
        case _:
            state = rnd.choice(("live", "live", "live", "live", "live", "suspended", "asleep"))
            return SetPartnerState(
                rnd.choice(("bank", "bank", "bank", "globex")), key, rnd.choice((*PARTNERS, "ghost")), state,
                requested_by="ops", note="as agreed",
            )  # fmt: skip
