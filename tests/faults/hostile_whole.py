"""The rest of the ledger's commands, as hostile as the others: limits, calendars, days, partners' lives, exchanges,
products, and forged steps between partitions.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import pairwise
from typing import Any

from msgspec.structs import replace

from schemas.identity import command_id
from schemas.records import (
    AdmitPartner,
    BlockAccount,
    CloseDay,
    ClosedDay,
    Command,
    Crossing,
    Limit,
    NamedAmount,
    OpenAccount,
    OperatorAct,
    Posting,
    PublishProduct,
    SealDay,
    SealedPlace,
    SealedTotal,
    SetAccountLimit,
    SetCalendar,
    SetFreeze,
    SetLimit,
    SetPartnerState,
    Tick,
    Transaction,
    ZoneOffset,
)
from tests.ledger_controls import sealed_text
from tests.model.calendars import iso

PARTNERS = ("acme", "acme/shop-1", "acme/shop-1/till-a", "acme/shop-2", "globex", "globex/west", "initech")
CURRENCIES = ("CNY", "USD", "JPY")
TODAY = 20_370  # the local date when the streams begin, days since 1970-01-01
WHO = {"requested_by": "ops", "note": "as agreed"}

SHOP: dict[str, Any] = {
    "product": "shop", "version": 1, "title": "Everything that a step can do",
    "currencies": ["CNY", "JPY", "USD"],
    "roles": {
        "payer": {"owner": "caller"}, "payee": {"owner": "tree"}, "to": {"owner": "any"}, "near": {"owner": "tree"},
        "fees": {"owner": "bank", "account": "bank:fees:{currency}", "open": {"type": "income"}},
        "pot": {"owner": "caller", "account": "{caller}:pot:{currency}", "open": {"type": "liability", "min_available": 0}},
        "loan": {"owner": "caller", "account": "{root}:loan:{currency}", "open": {"type": "asset"}},
        "many": {"owner": "any", "many": True}, "own": {"owner": "caller", "many": True},
        "sold": {"owner": "bank", "account": "bank:clearing:{currency}"}, "bought": {"owner": "bank"},
        "held": {"owner": "tree"},
    },
    "operations": {
        "pay": {"kind": "transfer", "steps": [{"from": "payer", "amount": "amount", "to": [
            {"role": "to"},
            {"role": "fees", "amount": {"percent": "0.6", "min": {"CNY": 1, "JPY": 2, "USD": 3},
                                        "max": {"CNY": 25, "JPY": 26, "USD": 27}}}]}]},
        "tiered": {"kind": "transfer", "callers": ["partner", "bank"], "amounts": ["tip"], "steps": [
            {"from": "payer", "amount": {"percent": "50", "of": "amount", "rounding": "up"}, "to": [
                {"role": "fees", "amount": {"tiers": [
                    {"up_to": {"CNY": 100, "JPY": 100, "USD": 100}, "fixed": {"CNY": 1, "JPY": 1, "USD": 1}},
                    {"percent": "1.25", "rounding": "half_even"}], "of": "amount"}},
                {"role": "near", "amount": "remaining"}]},
            {"from": "payer", "amount": "tip", "to": [{"role": "to"}]}]},
        "share": {"kind": "transfer", "steps": [{"from": "payer", "amount": "amount", "to": [
            {"role": "many", "amount": "equal"}, {"role": "fees", "amount": {"percent": "1", "rounding": "down"}}]}]},
        "split": {"kind": "transfer", "steps": [{"from": "payer", "amount": "amount", "to": [
            {"role": "many", "amount": "named"}, {"role": "pot"}]}]},
        "sweep": {"kind": "transfer", "steps": [{"from": "own", "amount": "balance", "to": [{"role": "pot"}]}]},
        "zero": {"kind": "transfer", "steps": [{"from": "own", "amount": "to_zero", "to": [{"role": "payer"}]}]},
        "borrow": {"kind": "transfer", "steps": [{"from": "loan", "amount": "amount", "to": [{"role": "payer"}]}]},
        "repay": {"kind": "transfer", "steps": [{"from": "payer", "amount": "amount", "to": [
            {"role": "loan", "amount": "balance"}, {"role": "pot"}]}]},
        "free": {"kind": "entry", "callers": ["bank", "partner"]},
        "keep": {"kind": "hold"},
        "take": {"kind": "capture"}, "drop": {"kind": "void"}, "undo": {"kind": "reversal"},
        "refund": {"kind": "refund"}, "refund_all": {"kind": "refund", "fees": "return"},
        "change": {"kind": "exchange", "callers": ["bank"]},
        "only_bank": {"kind": "transfer", "callers": ["bank"], "steps": [
            {"from": "sold", "amount": "amount", "to": [{"role": "held"}]}]},
    },
    "limits": [{"window": "transaction", "currency": c, "amount_max": 8_000} for c in CURRENCIES],
}  # fmt: skip
PLAIN: dict[str, Any] = {
    "product": "wallet", "version": 1, "roles": {"payer": {"owner": "caller"}, "payee": {"owner": "any"}},
    "operations": {
        "transfer": {"kind": "transfer", "steps": [{"from": "payer", "amount": "amount", "to": [{"role": "payee"}]}]},
        "refund": {"kind": "refund"}, "reversal": {"kind": "reversal"},
    },
    "limits": [{"window": "day", "count_max": 40}, {"window": "minute", "currency": "CNY", "amount_max": 50_000},
               {"window": "minute", "currency": "USD", "amount_max": 50_000},
               {"window": "hour", "currency": "JPY", "count_max": 30}],
}  # fmt: skip


def canonical(document: dict[str, Any]) -> str:
    """A document as it is published."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def publishing(document: dict[str, Any], key: str, effective_from: int = 0) -> PublishProduct:
    """The command that puts a document on the shelf."""
    name, version = document["product"], document["version"]
    return PublishProduct("bank", key, name, version, effective_from, canonical(document), **WHO)


def whole_command(rnd: random.Random, i: int) -> Command:
    """One command of the whole ledger that is no plain transaction."""
    return rnd.choice(
        (
            _limit,
            _limit,
            _limit,
            _calendar,
            _day,
            _seal,
            _tick,
            _life,
            _life,
            _account,
            _account,
            _no_step,
            _broken_product,
            _freeze,
            _freeze if i % 3 else _act,
        )
    )(rnd, i)


def republished(rnd: random.Random, i: int) -> PublishProduct:
    """A further version of a product, now or from a value date on; some broken, some too low."""
    document = json.loads(canonical(rnd.choice((SHOP, PLAIN))))
    document["version"] = rnd.choice((1, 2 + i, 2 + i))
    effective = rnd.choice(
        (0, 20_001, TODAY - 1, TODAY, TODAY, TODAY + 1, TODAY + 1, TODAY + 2, TODAY + 20, 30_000, -1)
    )
    return publishing(document, f"v-{i}", effective)


def _broken_product(rnd: random.Random, i: int) -> Command:
    """A product that may not be on the shelf."""
    document = json.loads(canonical(SHOP))
    document["version"] = 1_000_000
    step = document["operations"]["pay"]["steps"][0]
    match rnd.randrange(4):
        case 0:
            step["to"][0]["amount"] = "amount"  # nobody takes what remains
        case 1:
            step["from"] = "near"
        case 2:
            document["title"] = None
        case _:
            return replace(publishing(document, f"b-{i}"), product="other")
    return publishing(document, f"b-{i}")


def _by(rnd: random.Random, partner: str) -> str:
    return rnd.choice(("bank", "bank", partner, partner.partition("/")[0], rnd.choice(PARTNERS)))


def _limit(rnd: random.Random, i: int) -> Command:
    partner, currency = rnd.choice(PARTNERS), rnd.choice(CURRENCIES)
    level = rnd.choice(("partner", "partner", "account", "account", "product", "tree"))
    subject = {
        "partner": rnd.choice((partner, partner, "ghost")), "product": rnd.choice(("shop", "wallet", "nothing")),
        "account": f"{partner}:{rnd.choice(('a', 'b', 'open', 'pot', 'none'))}:{currency}", "tree": partner,
    }[level]  # fmt: skip
    limits = [
        Limit(w, c, rnd.choice((None, 3, 20)) if w != "transaction" else None, rnd.choice((None, 0, 3_000, 40_000)) if c else None)
        for w in ("transaction", "minute", "hour", "day", "month") for c in ("", *CURRENCIES) if rnd.random() < 0.2
    ]  # fmt: skip
    good = [x for x in limits if x.count_max is not None or x.amount_max is not None]
    if rnd.random() < 0.5:  # a subject whose limits name a currency refuses all others, so most name all or none
        good = [x for x in good if not x.currency] + [
            Limit("day", c, None, rnd.choice((9_000, 90_000))) for c in CURRENCIES if not any(x.window == "day" and x.currency == c for x in good)
        ]  # fmt: skip
    if rnd.random() < 0.12:
        bad = (Limit("week", "", 1, None), Limit("day", "", -1, None), Limit("day", "XXX", 1, None),
               Limit("minute", "", None, 5), Limit("transaction", "CNY", 1, 5), Limit("day", "CNY", None, None))  # fmt: skip
        good.append(rnd.choice(bad))
    rnd.shuffle(good)
    if rnd.random() < 0.3:
        good = []
    return SetLimit(_by(rnd, partner), f"l-{i}", level, subject, tuple(good), **WHO)


def _calendar(rnd: random.Random, i: int) -> Command:
    subject = rnd.choice(("bank", "bank", *PARTNERS, "ghost"))
    start = 1_760_000_000_000
    offsets = tuple(ZoneOffset(start + n * rnd.choice((5_000, 900_000)), rnd.choice((-300, 0, 480, 570, 901)))
                    for n in range(rnd.randrange(4)))  # fmt: skip
    if any(a.from_ms >= b.from_ms for a, b in pairwise(offsets)) and rnd.random() < 0.8:
        offsets = offsets[:1]
    days = sorted(rnd.sample(range(TODAY - 3, TODAY + 6), rnd.randrange(5)))
    if rnd.random() < 0.05:
        days = [*days[::-1], -1]
    weekdays = rnd.choice((0, 96, 96, 31, 126, 127 if rnd.random() < 0.3 else 8))
    by = "bank" if rnd.random() < 0.9 else rnd.choice(PARTNERS)
    zone = rnd.choice(("Asia/Shanghai", "UTC", "" if rnd.random() < 0.2 else "X" * 64))
    return SetCalendar(by, f"k-{i}", subject, zone, offsets, weekdays, tuple(map(ClosedDay, days)), **WHO)


def _day(rnd: random.Random, i: int) -> Command:
    day = rnd.choice((19_990, 19_999, 20_000, 20_000, 20_001, 20_002, TODAY - 400, TODAY + 1, TODAY + 9, -1, 10**6))
    if i > 400 and rnd.random() < 0.2:
        day = TODAY
    return CloseDay("bank" if rnd.random() < 0.9 else "acme", f"d-{i}", day, **WHO)


def _seal(rnd: random.Random, i: int) -> Command:
    """A seal of a day, in form or not; where a day was closed is not known here, so few hit it."""
    day = rnd.choice((19_990, 20_000, 20_001, TODAY - 400, TODAY - 1, TODAY, TODAY + 5, -1))
    cut = [SealedPlace(p, rnd.choice((1, 2, 40, 0)), "ab" * 32) for p in (0, 1)][:: rnd.choice((1, 1, 1, -1))]
    sums = [SealedTotal(p, c, n := str(rnd.randrange(10**12)), n, 2) for p in (0, 1) for c in ("CNY", "JPY")]
    text = sealed_text(iso(day), cut, sums) if rnd.random() < 0.9 else ""
    by = "bank" if rnd.random() < 0.9 else "acme"
    return SealDay(by, f"y-{i}", day, sha256(text.encode()).hexdigest(), tuple(cut), tuple(sums), **WHO)


def _tick(rnd: random.Random, i: int) -> Command:
    return Tick("bank" if rnd.random() < 0.8 else rnd.choice(PARTNERS), f"i-{i}")


def _life(rnd: random.Random, i: int) -> Command:
    """A partner admitted early in its life, or taken to another state; some are rescued, so that business goes on."""
    if rnd.random() < 0.3:
        subject = f"{rnd.choice(PARTNERS)}/young-{rnd.randrange(6)}"
        return AdmitPartner("bank", f"q-{i}", subject, "Young", state=rnd.choice(("applied", "live", "sandbox")))
    young = [f"{p}/young-{n}" for p in PARTNERS for n in range(6)]
    states = ("inspected", "sandbox", "live", "suspended", "live", "live", "exiting", "exited", "applied", "gone")
    if rnd.random() < 0.6:
        subject, state = rnd.choice(young), rnd.choice(states)
    else:
        subject, state = rnd.choice(PARTNERS), rnd.choice(("suspended", *["live"] * 8))
        if i > 300 and rnd.random() < 0.8:
            state = rnd.choice(("exiting", "exited", "exited"))
            subject = rnd.choice(("initech", "acme/shop-2"))
    who = WHO if rnd.random() < 0.92 else {"requested_by": "", "note": "x"}
    approved = ("second", "second", "second", "", who["requested_by"])[i % 5] if state == "live" else ""
    return SetPartnerState("bank", f"q-{i}", subject, state, **who, approved_by=approved)


def _account(rnd: random.Random, i: int) -> Command:
    partner, currency = rnd.choice(PARTNERS), rnd.choice(CURRENCIES)
    account = f"{partner}:{rnd.choice(('a', 'b', 'open', 'new'))}:{currency}"
    by = _by(rnd, partner)
    match rnd.randrange(3):
        case 0:
            freeze = rnd.random() < 0.3
            return BlockAccount(by, f"f-{i}", account, rnd.random() < 0.1, rnd.random() < 0.1, freeze=freeze)
        case 1:
            least = rnd.choice((None, 0, 0, -3_000))
            return SetAccountLimit(by, f"f-{i}", account, least, credit_limit=rnd.choice((0, 5_000, 5_000, -1)))
        case _:
            name = rnd.choice((f"{partner}/young-{rnd.randrange(6)}:x:{currency}", f"{partner}:credit-{i}:{currency}",
                               f"bank:crossing:{currency}"))  # fmt: skip
            credit = rnd.choice((0, 0, 700))
            return OpenAccount(by, f"f-{i}", name, "liability", currency, rnd.choice((0, 0, None)), credit_limit=credit)


def _freeze(rnd: random.Random, i: int) -> Command:
    """A lifting that nobody needs or that may not be, or a freeze that is refused; the others come in turn."""
    partner, currency = rnd.choice(PARTNERS), rnd.choice(CURRENCIES)
    level = rnd.choice(("account", "partner", "partner", "product", "world", "world", "realm"))
    subject = {
        "account": f"{partner}:{rnd.choice(('a', 'b', 'open', 'none'))}:{currency}",
        "partner": rnd.choice((partner, partner, f"{partner}/young-{rnd.randrange(6)}", "ghost")),
        "product": rnd.choice(("shop", "wallet", "nothing")), "world": rnd.choice(("world", "world", "world", "demo")),
    }.get(level, partner)  # fmt: skip
    if rnd.random() < 0.05:
        level, subject = "account", f"bank:crossing:{currency}"
    who = rnd.choice((WHO, WHO, WHO, {"requested_by": "", "note": "x"}, {"requested_by": "x", "note": ""}))
    frozen = rnd.random() < 0.4
    approved = who["requested_by"] if frozen else rnd.choice(("second", "second", "second", "", who["requested_by"]))
    by = "bank" if rnd.random() < 0.9 else partner
    return SetFreeze(by, f"z-{i}", level, subject, frozen, **who, approved_by=approved)


_IN_TURN = (("partner", "acme"), ("partner", "acme/shop-1"), ("product", "shop"), ("world", "world"),
            ("partner", "globex"), ("account", "acme:a:CNY"), ("product", "wallet"))  # fmt: skip


def frozen_for_a_while(i: int) -> Iterator[Command]:
    """Freezes one thing after the other, each for a few commands, so that business goes on in between. Given twice, by
    another person; the account's is lifted by BlockAccount."""
    turn, at = divmod(i, 40)
    level, subject = _IN_TURN[turn % len(_IN_TURN)]
    if at in (20, 23):
        who = WHO if at == 20 else {"requested_by": "somebody else", "note": "again"}
        yield SetFreeze("bank", f"turn-{i}", level, subject, True, **who)
    elif at == 29 and level == "account":
        yield BlockAccount("bank", f"turn-{i}", subject, False, False, "ops", "lifted")
    elif at == 29:
        yield SetFreeze("bank", f"turn-{i}", level, subject, False, **WHO, approved_by="second")


def _act(rnd: random.Random, i: int) -> Command:
    act, digest = rnd.choice(("replay.apply", "dlq.discard", "Bad act")), rnd.choice(("", "ab" * 32, "AB" * 32))
    by, second = rnd.choice(("bank", "bank", "bank", "acme")), rnd.choice(("", "second", WHO["requested_by"]))
    return OperatorAct(by, f"o-{i}", act, rnd.choice(("replay-1", "")), digest, **WHO, approved_by=second)


def _no_step(rnd: random.Random, i: int) -> Command:
    """A step between partitions that no partition could have written: a dead letter."""
    forged = forged_step(rnd, i)
    wrong: tuple[dict[str, Any], ...] = (
        {"step": "hop"}, {"partner_id": "acme"}, {"from_partition": forged.to_partition}, {"from_partition": 7},
        {"from_partition": -1},
    )  # fmt: skip
    return replace(forged, **rnd.choice(wrong))


def forged_step(rnd: random.Random, i: int) -> Crossing:
    """A step between partitions that no partition wrote, mostly of a transaction that nobody knows."""
    step = rnd.choice(("reserve", "reserved", "refused", "commit", "void"))
    a, b = rnd.choice(((0, 1), (1, 0)))
    cid = command_id("acme", f"t-{rnd.randrange(max(1, i))}")
    legs = (Posting(f"globex:a:{rnd.choice(CURRENCIES)}", "credit", 5, "CNY"),) if step == "reserve" else ()
    return Crossing("bank", f"forged-{i}", step, cid, a, b, "acme", "t-1", "wallet", 0, "transfer", 20_001, legs=legs)


def or_below(rnd: random.Random, partner: str) -> str:
    """The partner, or now and then one below it: whoever is above may ask in its own name."""
    young = [p for p in PARTNERS if p.startswith(partner + "/")]
    return rnd.choice(young) if young and rnd.random() < 0.25 else partner


def from_below(rnd: random.Random, t: Transaction) -> Transaction:
    """The transaction with what it takes from a partner below the asker."""
    giver = or_below(rnd, t.partner_id)
    if t.accounts.get("payer", "").startswith(t.partner_id + ":"):
        payer = f"{giver}:{t.accounts['payer'].partition(':')[2]}"
        return replace(t, accounts={**t.accounts, "payer": payer})
    legs = [
        replace(p, account_id=f"{giver}:{p.account_id.partition(':')[2]}")
        if p.side == "debit" and p.account_id.startswith(t.partner_id + ":") else p
        for p in t.postings
    ]  # fmt: skip
    return replace(t, postings=tuple(legs))


def elsewhere(rnd: random.Random, t: Transaction) -> Transaction:
    """The transfer with one of its credits to anybody's account."""
    account = f"{rnd.choice(PARTNERS)}:{rnd.choice(('a', 'b', 'open', 'open', 'nowhere'))}:{t.currency}"
    if "payee" in t.accounts:
        return replace(t, accounts={**t.accounts, "payee": account})
    credits = [i for i, p in enumerate(t.postings) if p.side == "credit"]
    if not credits:
        return t
    legs = list(t.postings)
    i = rnd.choice(credits)
    legs[i] = replace(legs[i], account_id=account)
    return replace(t, postings=tuple(legs))


def exchange(rnd: random.Random, i: int, partner: str) -> Transaction:
    """A change of currencies, some at rates that are none."""
    a, b = rnd.sample(CURRENCIES, 2) if rnd.random() < 0.95 else ("CNY", "CNY")
    rate = rnd.choice(("7.1234", "0.0051", "149.5", "1", "0.14"))
    if rnd.random() < 0.1:
        rate = rnd.choice(("0", "", "-1", "1e3", "0.0000001", "1.", "999999999999.999999999999", "1234567890123"))
    accounts = {"payer": f"{or_below(rnd, partner)}:{rnd.choice(('a', 'open'))}:{a}", "payee": f"{partner}:{rnd.choice(('a', 'open'))}:{b}",
                "sold": f"bank:clearing:{a}", "bought": f"bank:clearing:{b}"}  # fmt: skip
    if rnd.random() < 0.1:
        accounts[rnd.choice(("sold", "bought", "fees"))] = f"{rnd.choice(PARTNERS)}:open:{a}"
    if rnd.random() < 0.05:
        del accounts[rnd.choice(sorted(accounts))]
    return Transaction(partner, f"t-{i}", "wallet", "exchange", rnd.choice((1, 50, 777, 2**62)), a, accounts, (), 20_001,
                       rate=rate, exponent=rnd.choice((-1, -1, -1, 2, 0)))  # fmt: skip


def of_product(rnd: random.Random, i: int, sent: list[Transaction]) -> Transaction:
    """An operation of the product `shop`, with its roles filled in, some wrongly."""
    partner, currency = rnd.choice(PARTNERS), rnd.choice(CURRENCIES)
    originals = {"take": ("keep",), "drop": ("keep",), "undo": ("pay", "tiered", "share", "free", "take", "change"),
                 "refund": ("pay", "take", "share", "split"), "refund_all": ("pay", "share", "split", "take")}  # fmt: skip
    operation = rnd.choice(("pay", "pay", "tiered", "share", "split", "sweep", "zero", "borrow", "repay", "free", "keep",
                            "change", "only_bank", "nothing", *originals, *originals))  # fmt: skip
    key, day = f"t-{i}", rnd.choice((20_000, 20_001, 20_002, TODAY, TODAY + 1, TODAY + 2))
    product = "shop" if rnd.random() < 0.97 else rnd.choice(("wallet", "none"))
    if operation in originals:
        fitting = [t for t in sent[-150:] if t.operation in originals[operation]]
        first = rnd.choice(fitting or sent or [Transaction("acme", "?", "", "", 1, "CNY", {}, (), 0)])
        whole = first.amount or 10
        amount = 0 if operation in ("drop", "undo") else rnd.choice((whole, whole // 2 or 1, whole // 3 or 1, 1))
        return Transaction(first.partner_id, key, product, operation, amount, first.currency, {}, (), day,
                           original=first.idempotency_key, final=operation == "take" and rnd.random() < 0.3)  # fmt: skip
    amount = rnd.choice((1, 99, 101, 2_000, rnd.randrange(1, 9_000)))
    t = Transaction(partner, key, product, operation, amount, currency, {}, (), day, f"order {i}", {"n": str(i)})
    return _spoilt(rnd, _filled(rnd, t))


def _filled(rnd: random.Random, t: Transaction) -> Transaction:
    """The transaction with what its operation asks for."""
    partner, currency = t.partner_id, t.currency

    def own() -> str:
        return f"{or_below(rnd, partner)}:{rnd.choice(('a', 'b', 'open', 'open'))}:{currency}"

    def anyone() -> str:
        return f"{rnd.choice(PARTNERS)}:{rnd.choice(('a', 'b', 'open', 'nowhere'))}:{currency}"

    many = {f"many.{n}": anyone() for n in rnd.sample(range(1, 30), rnd.randrange(1, 4))}
    several = {f"own.{n}": own() for n in rnd.sample(range(1, 30), rnd.randrange(1, 4))}
    two = {"payer": own(), "to": anyone()}
    roles: dict[str, Callable[[], dict[str, str]]] = {
        "pay": lambda: two, "tiered": lambda: {**two, "near": own()}, "share": lambda: {"payer": own(), **many},
        "split": lambda: {"payer": own(), **many}, "sweep": lambda: several, "zero": lambda: {**several, "payer": own()},
        "borrow": lambda: {"payer": own()}, "repay": lambda: {"payer": own()}, "keep": lambda: {"payer": own(), "payee": own()},
        "only_bank": lambda: {"held": anyone()},
    }  # fmt: skip
    accounts = roles.get(t.operation, dict)()
    amounts: tuple[NamedAmount, ...] = ()
    if t.operation == "tiered":
        amounts = (NamedAmount("tip", rnd.choice((1, 30, 30, 0))),)
    if t.operation == "split":
        amounts = tuple(NamedAmount(name, rnd.randrange(1, t.amount + 2)) for name in sorted(many))
    if t.operation in ("sweep", "zero"):
        return replace(t, amount=0, accounts=accounts)
    if t.operation == "free":
        legs = (
            Posting(own(), "debit", t.amount),
            Posting(rnd.choice((anyone(), f"bank:clearing:{currency}")), "credit", t.amount),
        )
        return replace(t, amount=0, postings=legs, partner_id=rnd.choice((partner, partner, "bank")))
    if t.operation == "change":
        other = rnd.choice(CURRENCIES)
        accounts = {"payer": own(), "payee": f"{partner}:open:{other}", "bought": f"bank:clearing:{other}"}
        return replace(t, accounts=accounts, rate="1.5", partner_id=rnd.choice((partner, "bank", "bank")))
    by = "bank" if t.operation == "only_bank" and rnd.random() < 0.8 else partner
    return replace(t, partner_id=by, accounts=accounts, amounts=amounts)


def _spoilt(rnd: random.Random, t: Transaction) -> Transaction:
    """One in eight is not as it should be."""
    if rnd.random() > 0.12:
        return t
    changes: tuple[dict[str, Any], ...] = (
        {"amount": 0}, {"amount": -1}, {"amount": 7}, {"currency": "EUR"}, {"currency": "XXX"}, {"exponent": 2},
        {"exponent": 0}, {"amounts": ()}, {"amounts": (NamedAmount("tip", 5),)}, {"accounts": {}}, {"value_date": -1},
        {"accounts": {**t.accounts, "many.0": "acme:a:CNY"}}, {"accounts": {**t.accounts, "own.1000": "acme:a:CNY"}},
        {"accounts": {**t.accounts, "fees": "bank:fees:CNY"}}, {"accounts": {**t.accounts, "to": t.accounts.get("payer", "")}},
        {"accounts": {**t.accounts, "payer": "globex:open:" + t.currency}}, {"partner_id": "bank"}, {"note": "why"},
        {"accounts": dict.fromkeys(t.accounts, "bank:clearing:" + t.currency)}, {"expires_at": 2**62}, {"rate": "1"},
    )  # fmt: skip
    return replace(t, **rnd.choice(changes))
