"""Random control commands: partners and their lives, accounts, limits, calendars, closed days, products."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import product
from random import Random
from typing import Any

from schemas.records import (
    AdmitPartner,
    BlockAccount,
    CloseAccount,
    CloseDay,
    ClosedDay,
    Limit,
    OpenAccount,
    OperatorAct,
    SealDay,
    SealedPlace,
    SealedTotal,
    SetAccountLimit,
    SetCalendar,
    SetFreeze,
    SetLimit,
    SetPartnerState,
    Tick,
    ZoneOffset,
)
from tests.ledger_model import Model
from tests.ledger_products import odd_publish
from tests.model import calendars
from tests.model.partners import STATES

TYPES = ("liability", "liability", "liability", "asset", "income", "expense", "equity")
HOUR = 3_600_000
KINDS = {
    "admit": 6, "state": 12, "open": 12, "block": 14, "account_limit": 6, "close": 2, "limits": 14, "calendar": 4,
    "day": 3, "seal": 6, "tick": 8, "product": 7, "freeze": 12, "act": 2,
}  # fmt: skip


def control(random: Random, model: Model, by: str, key: str, partners: list[str], accounts: list[str]) -> Any:
    """One control command, mostly of the bank; `by`: the partner that asks otherwise."""
    kind = random.choices(list(KINDS), list(KINDS.values()))[0]
    if not model.limits and random.random() < 0.3:  # as long as nothing is limited, plain transfers are settled quickly
        kind = "freeze"
    if random.random() < 0.7 or kind in ("state", "calendar", "day", "seal"):
        by = "bank" if random.random() < 0.95 else by
    name = random.choice(accounts)
    if ("world", "world") in model.freezes and random.random() < 0.4:  # or the run would stand still
        return SetFreeze("bank", key, "world", "world", False, "ops", "it is over", "second")
    match kind:
        case "admit":
            subject = random.choice(
                (*partners, f"{partners[0]}/b", f"{partners[0]}/b/c", f"{partners[1]}/y", "no/parent", "Bad")
            )
            return AdmitPartner(
                by, key, subject, "n", state=random.choice(("live", "live", "live", "applied", "exiting"))
            )
        case "state":
            return _state(random, model, by, key, partners)
        case "open":
            return _open(random, by, key, random.choice((name, f"{random.choice(partners)}:n{random.randrange(60)}")))
        case "block":
            stuck = [n for n, a in model.accounts.items() if a.no_debits or a.no_credits or a.frozen]
            name = random.choice(stuck) if stuck and random.random() < 0.5 else name
            flag = random.random() < 0.15
            return BlockAccount(by, key, name, flag, random.random() < 0.1, freeze=random.random() < 0.1)
        case "account_limit":
            return SetAccountLimit(by, key, _transit(random, name), *_limits_of_account(random))
        case "close":
            return CloseAccount(by, key, _transit(random, name))
        case "limits":
            return _limits(random, model, by, key, partners, name)
        case "calendar":
            return _calendar(random, model, by, key, partners)
        case "day":
            today = model.now // (24 * HOUR)
            return CloseDay(by, key, random.choices((today - 1, today, today - 4, today + 2, -1), (5, 3, 3, 1, 1))[0])
        case "seal":
            return _seal(random, model, by, key)
        case "freeze":
            return _freeze(random, model, by, key, partners, accounts)
        case "act":
            return _act(random, by if random.random() < 0.1 else "bank", key)
        case "product":
            return odd_publish(random, key, model, model.now // (24 * HOUR))
        case _:
            return Tick(by if random.random() < 0.1 else "bank", key)


def _transit(random: Random, name: str) -> str:
    return name if random.random() < 0.97 else "bank:crossing:CNY"


def _limits_of_account(random: Random) -> tuple[Any, ...]:
    """min_available, requested_by, note, credit_limit."""
    least = random.choice((None, 0, 0, 0, -10, -100, 5, 2**63))
    credit = random.choices((0, 20, 300, -1, 2**63), (70, 15, 10, 3, 2))[0]
    return least, "someone", "", credit


def _open(random: Random, by: str, key: str, name: str) -> OpenAccount:
    least, _, _, credit = _limits_of_account(random)
    if by != "bank" and random.random() < 0.8:
        least, credit = random.choice((0, 5)), 0
    currency = random.choices(("CNY", "JPY", "KWD", "XXX"), (70, 16, 12, 2))[0]
    if random.random() < 0.03:
        name = random.choice(("bank:crossing:JPY", "bank:crossing:x", "nobody:w", "acme", "acme:", ":w"))
    return OpenAccount(by, key, name, random.choice(TYPES), currency, least, credit_limit=credit)


def _state(random: Random, model: Model, by: str, key: str, partners: list[str]) -> SetPartnerState:
    """Mostly what lets a partner live on; leaving is for those that nobody needs."""
    known = [p for p in model.partners if p.split("/")[0] in {q.split("/")[0] for q in partners}] or ["nobody"]
    stuck = [p for p in known if model.partners.get(p) not in ("live", "exited", None)]
    subject = random.choice(stuck) if stuck and random.random() < 0.8 else random.choice((*known, "nobody"))
    now = model.partners.get(subject, "live")
    drawn = random.random()
    state = random.choice((*STATES, "gone"))
    if now != "live" and drawn < 0.9 and STATES[now].becomes:
        state = STATES[now].becomes[0]
    elif now == "live" and subject in partners[:1] and drawn < 0.8:
        state = "live"
    if state in ("exiting", "exited") and subject.count("/") == 0 and random.random() < 0.97:
        state = "live"
    why = ("ops", "a note") if random.random() < 0.95 else random.choice((("", "a note"), ("ops", "")))
    approved = Random(key).choices(
        ("second", "", why[0]), (93, 5, 2) if (now, state) == ("sandbox", "live") else (5, 94, 1)
    )
    return SetPartnerState(by, key, subject, state, *why, *approved)


def _freeze(random: Random, model: Model, by: str, key: str, partners: list[str], accounts: list[str]) -> SetFreeze:
    """Mostly by the bank, and mostly what lets things go on; now and then with nobody behind it, or nobody beside."""
    by = by if random.random() < 0.05 else "bank"
    weights = (28, 40, 22, 9, 1) if model.limits else (5, 9, 45, 40, 1)
    if model.partitions > 1 and random.random() < 0.5:  # whoever is paid from elsewhere
        weights = (5, 85, 5, 4, 1)
    level = random.choices(("account", "partner", "product", "world", "city"), weights)[0]
    some = partners if model.partitions > 1 else partners[1:]  # what is under way goes mostly to the first
    names = {"account": (*accounts, "bank:crossing:CNY"), "partner": (*some, "nobody"), "world": ("world",)}
    subject = random.choice((*names.get(level, (*model.shelf, "nothing")), "world"))
    frozen, approved = random.random() < 0.6, random.choices(("second", ""), (1, 3))[0]
    if model.freezes and random.random() < 0.6:
        level, subject = random.choice(list(model.freezes))
        frozen = random.random() < 0.15
    if not frozen and level in ("partner", "world"):
        approved = random.choices(("second", ""), (9, 1))[0]
    who, why = (
        ("ops", "a note") if random.random() < 0.95 else random.choice((("", "x"), ("ops", ""), ("o" * 1_025, "x")))
    )
    return SetFreeze(by, key, level, subject, frozen, who, why, who if random.random() < 0.03 else approved)


def _act(random: Random, by: str, key: str) -> OperatorAct:
    act, digest = "replay.apply", random.choice(("", "0123456789abcdef" * 4))
    subject, who, second = "replay-1", "ops", random.choice(("", "second"))
    if random.random() < 0.3:
        act, subject, digest, second = random.choice(
            (("Replay", subject, "", ""), (act, "", "", ""), (act, subject, "0" * 63, ""), (act, subject, "", who))
        )
    return OperatorAct(by, key, act, subject, digest, who if random.random() < 0.95 else "", second, "a note")


WINDOWS = ("transaction", "minute", "hour", "day", "month")


def _limit(random: Random, window: str, currency: str) -> Limit:
    count = random.choice((None, 1, 3, 8, 40)) if window != "transaction" else None
    amount = random.choice((None, 0, 60, 400, 5_000, 10**6)) if currency else None
    if count is None and amount is None:
        amount, count = (2_000, None) if currency else (None, 30)
    return Limit(window, currency, count, amount)


def _limits(random: Random, model: Model, by: str, key: str, partners: list[str], name: str) -> SetLimit:
    level = random.choices(("partner", "account", "product", "world"), (50, 30, 18, 2))[0]
    subject = {"partner": random.choice((*partners, "nobody")), "account": name}.get(level, "")
    if level == "product":
        subject = random.choice((*model.shelf, "nothing"))
    set_before = [s for s in model.limits if s[0] == level]
    if set_before and random.random() < 0.5:  # lifted or set anew
        subject = random.choice(set_before)[1]
    if random.random() < 0.4:
        return SetLimit(by, key, level, subject)
    shape = random.random()
    if shape < 0.25:
        limits = [_limit(random, random.choice(WINDOWS[1:]), "")]
    else:
        limits = [
            _limit(random, random.choice(WINDOWS), c) for c in ("CNY", "JPY", "KWD")[: random.choice((1, 3, 3, 3))]
        ]
        limits += [_limit(random, w, c) for w in WINDOWS[1:] for c in ("", "CNY") if random.random() < 0.15]
    if shape > 0.93:
        odd = (
            Limit("year", "CNY", 1, None), Limit("day", "", None, 5), Limit("day", "CNY", None, None), Limit("day", "CNY", -1, None),
            Limit("transaction", "CNY", 1, 1), Limit("day", "BTC", 1, None), Limit("day", "CNY", None, 2**63 - 1), limits[0],
        )  # fmt: skip
        limits.append(random.choice(odd))
    distinct = {(one.window, one.currency): one for one in limits} if shape < 0.93 else dict(enumerate(limits))
    return SetLimit(by, key, level, subject, tuple(distinct.values()), "someone", "")


def sealed_text(day: str, cut: Sequence[SealedPlace], totals: Sequence[SealedTotal]) -> str:
    """What the hash of a SealDay is of."""
    places = [f'{{"partition":{p.partition},"sequence":{p.sequence},"chain":"{p.chain}"}}' for p in cut]
    sums = [
        f'{{"partition":{t.partition},"currency":"{t.currency}","debits":"{t.debits}","credits":"{t.credits}",'
        f'"postings":{t.postings}}}'
        for t in totals
    ]
    return f'{{"day":"{day}","cut":[{",".join(places)}],"totals":[{",".join(sums)}]}}'


def _seal(random: Random, model: Model, by: str, key: str) -> SealDay:
    """Mostly of a day that was closed, where it was closed; its sums are whatever they are: no ledger knows them."""
    today = model.now // (24 * HOUR)
    day = random.choice((*model.closes, *model.closes, today - 2, today + 1, -1))
    here = next((model.closes[d] for d in sorted(model.closes) if d >= day), random.randrange(40))
    if random.random() < 0.1:
        here += random.choice((-1, 1))
    partitions = [p for p in range(max(model.partitions, 2)) if p == model.partition or random.random() < 0.8]
    if random.random() < 0.05:
        partitions = random.choice(([], partitions[::-1], [-1, *partitions], [p + 7 for p in partitions]))
    cut = tuple(
        SealedPlace(p, here if p == model.partition else random.randrange(1, 99), "0123456789abcdef" * 4)
        for p in partitions
    )
    sums = [
        SealedTotal(p, c, n := str(random.randrange(1, 10**9)), n, 4) for p, c in product(partitions, ("CNY", "JPY"))
    ]
    sums = [t for t in sums if random.random() < 0.7]
    if random.random() < 0.1:
        odd = random.choice((
            SealedTotal(99, "CNY", "5", "5", 2), SealedTotal(99, "XXX", "5", "5", 2), SealedTotal(partitions[0] if partitions else 0, "ABC", "1", "1", 2),
            *(SealedTotal(model.partition, "ZWG", *x) for x in (("05", "05", 2), ("5", "6", 2), ("9" * 39, "9" * 39, 2), ("5", "5", 1), ("-5", "-5", 2))),
        ))  # fmt: skip
        sums.insert(random.randrange(len(sums) + 1), odd)
    text = sealed_text(calendars.iso(day), cut, sums) if random.random() < 0.95 else "anything"
    return SealDay(by, key, day, sha256(text.encode()).hexdigest(), cut, tuple(sums), "someone", "")


def _calendar(random: Random, model: Model, by: str, key: str, partners: list[str]) -> SetCalendar:
    """Clocks that go forward or back about now, weekends, and some closed days."""
    near = model.now - model.now % HOUR
    moments = sorted(random.sample(range(-48, 96), random.choice((0, 1, 2, 3))))
    offsets = tuple(
        ZoneOffset(near + h * HOUR, random.choice((-900, -720, -600, -300, 0, 60, 120, 330, 480, 845, 900)))
        for h in moments
    )
    today = model.now // (24 * HOUR)
    closed = tuple(ClosedDay(today + d) for d in sorted(random.sample(range(-3, 12), random.choice((0, 1, 4)))))
    weekdays = random.choice((0, 96, 96, 48, 126))
    if random.random() < 0.1:
        odd = random.randrange(5)
        offsets = (*offsets, ZoneOffset(0, 901)) if odd == 0 else offsets[::-1] if odd == 1 else offsets
        closed = (*closed, ClosedDay(-1)) if odd == 2 else closed
        weekdays = 127 if odd == 3 else weekdays
    zone = random.choice(
        ("Asia/Shanghai", "Europe/Berlin", "a", "a", "Asia/Shanghai", "" if random.random() < 0.1 else "UTC")
    )
    subject = random.choice(("bank", "bank", "bank", *partners, "nobody"))
    return SetCalendar(by, key, subject, zone, offsets, weekdays, closed, "someone", "")
