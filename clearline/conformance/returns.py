"""Cases of refunds and reversals: each operation of the product that they can undo, whole and in parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from clearline.conformance.built_in import MISSING, Held, built_in
from clearline.conformance.calculator import Account, Leg, refunded, reversed_legs
from clearline.conformance.cases import Case, Stage, askers, currencies
from clearline.conformance.world import ASKER, DAY
from schemas.identity import BANK, owner_of
from schemas.records import Posting, Transaction

_put = msgspec.structs.replace
OTHER_PRODUCT = "another-product"
ORIGINAL = "the-original"


@dataclass(frozen=True, slots=True)
class Paid:
    """Something that was settled and may be given back: by whom, what it posted, and the accounts before it."""

    operation: str
    asker: str
    currency: str
    accounts: tuple[Account, ...]
    before: tuple[Transaction, ...]
    legs: tuple[Leg, ...]


def originals(document: Mapping[str, Any], operation: str, asker: str) -> Iterator[Paid]:
    """One settled transaction of each operation that the same asker may ask for."""
    for name, o in document["operations"].items():
        if asker not in askers(document, name):
            continue
        if o["kind"] in ("transfer", "exchange"):
            stage = Stage(document, name, asker, currencies(document)[0], near=True)
            sample = stage.sample()
            if sample is None:
                continue
            case = stage.case("", *sample) if o["kind"] == "transfer" else built_in(stage, sample[0])
            ready = (_put(case.command, idempotency_key=ORIGINAL),)
            yield Paid(name, asker, stage.currency, case.accounts, ready, case.legs)
        elif o["kind"] == "capture":
            h = Held(document, name)
            if h.there and h.stage.asker == asker:
                taken = h.command(h.amount, ORIGINAL)
                yield Paid(name, asker, h.stage.currency, h.accounts, (h.asked, taken), h.posted(h.amount))
        elif o["kind"] == "entry":
            yield _entry(document, name, asker)


def _entry(document: Mapping[str, Any], name: str, asker: str) -> Paid:
    currency = currencies(document)[0]
    a, b = Account(f"{ASKER}:a", "liability", currency, 1_000), Account(f"{ASKER}:b", "liability", currency)
    legs: tuple[Leg, ...] = (a.account_id, "debit", 700), (b.account_id, "credit", 700)
    postings = tuple(Posting(*leg) for leg in legs)
    t = Transaction(asker, ORIGINAL, document["product"], name, 0, currency, {}, postings, DAY)
    return Paid(name, asker, currency, (a, b), (t,), legs)


def return_cases(document: Mapping[str, Any], operation: str) -> Iterator[Case]:
    """What a refund or reversal gives back, and what it must not."""
    o = document["operations"][operation]
    refund = o["kind"] == "refund"
    for asker in askers(document, operation):
        for paid in originals(document, operation, asker):
            if refund:
                yield from _refunds(document, operation, paid, o.get("fees", "keep") == "return")
            else:
                yield from _reversals(document, operation, paid)
    yield from _mismatches(document, operation, refund)


def _command(document: Mapping[str, Any], operation: str, p: Paid, amount: int, key: str = "the-case") -> Transaction:
    name = document["product"]
    return Transaction(p.asker, key, name, operation, amount, p.currency, {}, (), DAY, original=ORIGINAL)


def _refunds(document: Mapping[str, Any], operation: str, p: Paid, returns: bool) -> Iterator[Case]:
    what = f"of {p.operation}{', the bank asks' if p.asker == BANK else ''}"
    debits = [n for _, side, n in p.legs if side == "debit"]
    base = Case(operation, what, p.accounts, _command(document, operation, p, 1), before=p.before)
    if len(debits) != 1:
        yield base.refused(f"{what}: more than one payer", "original_mismatch")
        return
    whole = debits[0]
    part = max(1, whole // 3)
    rest = whole - part

    def give(name: str, before: int, amount: int, *earlier: Transaction) -> Case:
        legs = tuple(refunded(p.legs, before, amount, returns))
        command = _command(document, operation, p, amount)
        if takes_of_the_bank(p, legs):
            return base.refused(f"{what}: {name}", "account_not_owned", command)
        return replace(base, name=f"{what}: {name}", command=command, before=(*p.before, *earlier), legs=legs)

    first = _command(document, operation, p, part, "first")
    if takes_of_the_bank(p, tuple(refunded(p.legs, 0, whole, returns))):
        yield give("only the bank gives back", 0, whole)
        return
    yield give("the whole", 0, whole)
    yield give("a part", 0, part)
    if rest:
        yield give("the rest", part, rest, first)
    more = _command(document, operation, p, rest + 1)
    earlier = (*p.before, first)
    yield base.refused(f"{what}: one unit more than is left", "refund_exceeds_payment", more, before=earlier)
    yield base.refused(f"{what}: amount 0", "amount_not_positive", _command(document, operation, p, 0))
    yield from _odd(document, base, what)


def _reversals(document: Mapping[str, Any], operation: str, p: Paid) -> Iterator[Case]:
    what = f"of {p.operation}{', the bank asks' if p.asker == BANK else ''}"
    command = _command(document, operation, p, 0)
    legs = tuple(reversed_legs(p.legs))
    base = Case(operation, f"{what}: the whole", p.accounts, command, before=p.before, legs=legs)
    if takes_of_the_bank(p, legs, reverses=True):
        yield base.refused(f"{what}: only the bank undoes it", "account_not_owned")
        return
    yield base
    first = _put(command, idempotency_key="first")
    yield base.refused(f"{what}: twice", "refund_exceeds_payment", before=(*p.before, first))
    yield base.refused(f"{what}: an amount is given", "field_invalid", _put(command, amount=1))
    refunds = [n for n, o in document["operations"].items() if o["kind"] == "refund" and p.asker in askers(document, n)]
    if refunds and len([1 for _, side, _ in p.legs if side == "debit"]) == 1:
        given = _put(_command(document, refunds[0], p, 1), idempotency_key="first")
        yield base.refused(f"{what}: after a refund", "refund_exceeds_payment", before=(*p.before, given))
    yield from _odd(document, base, what)


def takes_of_the_bank(p: Paid, legs: Sequence[Leg], *, reverses: bool = False) -> bool:
    """Whether a partner would take more from the bank than fees, or anything that nobody gives back with it."""
    if p.asker == BANK:
        return False
    types = {a.account_id: a.type for a in p.accounts}
    taken = [account for account, side, _ in legs if side == "debit" and owner_of(account) == BANK]
    paid = [account for account, side, _ in p.legs if side == "credit"]
    alone = not reverses and all(owner_of(account) == BANK for account in paid)
    return any(types[account] != "income" for account in taken) or (alone and paid[0] in taken)


def _odd(document: Mapping[str, Any], base: Case, what: str) -> Iterator[Case]:
    """Another product, another currency, nothing at all."""
    c = base.command
    yield base.refused(f"{what}: of nothing", "original_unknown", _put(c, original=MISSING))
    other = next(x for x in ("USD", "CNY", "EUR") if x != c.currency)
    yield base.refused(f"{what}: in another currency", "original_mismatch", _put(c, currency=other))
    yield base.refused(f"{what}: of another product", "original_mismatch", _put(c, product=OTHER_PRODUCT))
    legs = (Posting(f"{ASKER}:a", "debit", 1), Posting(f"{ASKER}:b", "credit", 1))
    yield base.refused(f"{what}: postings are given", "field_invalid", _put(c, postings=legs))


def _mismatches(document: Mapping[str, Any], operation: str, refund: bool) -> Iterator[Case]:
    """A hold is nobody's payment."""
    h = Held(document, operation)
    if h.there:
        base = Case(operation, "", h.accounts, h.command(1 if refund else 0), before=(h.asked,))
        yield base.refused("of a hold", "original_mismatch")
