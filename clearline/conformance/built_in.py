"""Cases of the built-in kinds: holds and what becomes of them, exchange, free entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from math import floor
from typing import Any

import msgspec

from clearline.conformance.calculator import Account, Leg
from clearline.conformance.cases import Case, Stage, askers, currencies
from clearline.conformance.world import ASKER, DAY, START_MS
from ledger.money import EXPONENTS
from schemas.identity import BANK
from schemas.records import Posting, Transaction

_put = msgspec.structs.replace
RATE = "1.25"
FAR_MS = START_MS + 86_400_000
MISSING = "no-such-key"


def built_in(stage: Stage, amount: int) -> Case:
    """A hold or an exchange that settles."""
    accounts = tuple(stage.accounts.values())
    payer, payee = stage.places["payer"][0][1], stage.places["payee"][0][1]
    if stage.kind == "hold":
        pending: tuple[Leg, ...] = ((payer, "debit", amount), (payee, "credit", amount))
        return Case(stage.operation, "settles", accounts, stage.command(amount, {}), pending=pending)
    sold, bought = stage.places["sold"][0][1], stage.places["bought"][0][1]
    up = EXPONENTS[stage.currency_of("payee")] - EXPONENTS[stage.currency]
    gets = floor(Fraction(RATE) * amount * Fraction(10) ** up + Fraction(1, 2))
    legs = ((payer, "debit", amount), (sold, "credit", amount), (bought, "debit", gets), (payee, "credit", gets))
    return Case(stage.operation, "settles", accounts, stage.command(amount, {}, rate=RATE), legs=legs)


def built_in_cases(document: Mapping[str, Any], operation: str) -> Iterator[Case]:
    """What a hold or an exchange does when nothing stands against it, and when money is short."""
    for asker in askers(document, operation):
        for currency in currencies(document):
            stage = Stage(document, operation, asker, currency)
            sample = stage.sample()
            if sample is None:
                continue
            amount, _ = sample
            good = built_in(stage, amount)
            yield replace(good, name=f"{'the bank asks' if asker == BANK else 'settles'}, {currency}")
    stage = Stage(document, operation, askers(document, operation)[0], currencies(document)[0])
    sample = stage.sample()
    if sample is None:
        return
    amount, _ = sample
    payer = stage.accounts[stage.places["payer"][0][1]]
    if payer.least is not None and not payer.debit_normal:
        enough = amount + payer.least - payer.credit_limit
        exact = built_in(stage.with_account(payer.holding(enough)), amount)
        yield replace(exact, name="exactly enough is on payer")
        short = built_in(stage.with_account(payer.holding(enough - 1)), amount)
        yield short.refused("one unit too little is on payer", "insufficient_funds")


class Held:
    """A hold of a product and one who may ask both for it and for `operation`; `there` is false when there is none."""

    def __init__(self, document: Mapping[str, Any], operation: str) -> None:
        self.document, self.operation = document, operation
        holds = [n for n, o in document["operations"].items() if o["kind"] == "hold"]
        pairs = [(h, a) for h in holds for a in askers(document, h) if a in askers(document, operation)]
        self.there = bool(pairs)
        if not pairs:
            return
        self.stage = Stage(document, pairs[0][0], pairs[0][1], currencies(document)[0])
        sample = self.stage.sample()
        self.there = sample is not None
        self.amount = sample[0] if sample else 0
        self.payer, self.payee = self.stage.places["payer"][0][1], self.stage.places["payee"][0][1]
        self.asked = _put(self.stage.command(self.amount, {}), idempotency_key="the-hold")
        self.accounts: tuple[Account, ...] = tuple(self.stage.accounts.values())

    def command(self, amount: int, key: str = "the-case", **changes: Any) -> Transaction:
        """A transaction that points at the hold."""
        stage, name = self.stage, self.document["product"]
        t = Transaction(
            stage.asker, key, name, self.operation, amount, stage.currency, {}, (), DAY, original="the-hold"
        )  # fmt: skip
        return _put(t, **changes) if changes else t

    def pending(self, amount: int) -> tuple[Leg, ...]:
        """What is released of the hold."""
        return (self.payer, "debit", -amount), (self.payee, "credit", -amount)

    def posted(self, amount: int) -> tuple[Leg, ...]:
        """What a capture posts."""
        return (self.payer, "debit", amount), (self.payee, "credit", amount)


def capture_cases(document: Mapping[str, Any], operation: str) -> Iterator[Case]:
    """A hold is taken in parts, as a whole, finally; never more than is left, and not once it is over."""
    h = Held(document, operation)
    if not h.there:
        return
    part, rest = h.amount // 3, h.amount - h.amount // 3
    base = Case(operation, "a part", h.accounts, h.command(part), before=(h.asked,))
    yield replace(base, pending=h.pending(part), legs=h.posted(part))
    first = h.command(part, "first")
    after_first = replace(base, before=(h.asked, first))
    yield replace(
        after_first, name="the rest", command=h.command(rest), pending=h.pending(rest), legs=h.posted(rest)
    )  # fmt: skip
    final = h.command(1, final=True)
    yield replace(after_first, name="finally, with a rest", command=final, pending=h.pending(rest), legs=h.posted(1))
    yield after_first.refused("one unit more than is left", "capture_exceeds_hold", h.command(rest + 1))
    yield base.refused("amount 0", "amount_not_positive", h.command(0))
    yield from _ends(h, base, h.command(part), part)


def void_cases(document: Mapping[str, Any], operation: str) -> Iterator[Case]:
    """A hold is given up, as a whole or what is left of it."""
    h = Held(document, operation)
    if not h.there:
        return
    base = Case(operation, "the whole", h.accounts, h.command(0), before=(h.asked,))
    yield replace(base, pending=h.pending(h.amount))
    yield base.refused("an amount is given", "field_invalid", h.command(1))
    yield from _ends(h, base, h.command(0), 0)


def _ends(h: Held, base: Case, command: Transaction, amount: int) -> Iterator[Case]:
    """What points at a hold that there is not, that is over, or of another currency."""
    yield base.refused("of a hold that there is not", "original_unknown", _put(command, original=MISSING))
    yield base.refused("no original is named", "field_invalid", _put(command, original=""))
    captures = [n for n, o in h.document["operations"].items() if o["kind"] == "capture"]
    ways = [n for n in captures if h.stage.asker in askers(h.document, n)]
    if ways:
        whole = _put(h.command(h.amount, "whole"), operation=ways[0])
        yield base.refused("of a hold that was taken", "hold_closed", command, before=(h.asked, whole))
        yield base.refused(
            "of what was captured", "original_mismatch", _put(command, original="whole"), before=(h.asked, whole)
        )
    lapsing = _put(h.asked, expires_at=FAR_MS)
    late = base.refused("of a hold that lapsed", "hold_expired", command, before=(lapsing,))
    yield replace(late, waits_ms=86_400_001, lapsed=h.pending(h.amount))
    other = next(c for c in ("USD", "CNY", "EUR") if c != h.stage.currency)
    yield base.refused("in another currency", "original_mismatch", _put(command, currency=other))
    yield base.refused("accounts are named", "field_invalid", _put(command, accounts={"payer": h.payer}))


def entry_cases(document: Mapping[str, Any], operation: str) -> Iterator[Case]:
    """Free postings of a partner's tree; only the bank takes from accounts of the bank."""
    currency = currencies(document)[0]
    a, b = Account(f"{ASKER}:a", "liability", currency, 1_000), Account(f"{ASKER}:b", "liability", currency)
    bank = Account("bank:x", "asset", currency, 0, None)

    def command(asker: str, *legs: Leg, **changes: Any) -> Transaction:
        postings = tuple(Posting(*leg) for leg in legs)
        name = document["product"]
        t = Transaction(asker, "the-case", name, operation, 0, currency, {}, postings, DAY)
        return _put(t, **changes) if changes else t

    for asker in askers(document, operation):
        who = "the bank" if asker == BANK else "a partner"
        given: tuple[Leg, ...] = (b.account_id, "credit", 600), (bank.account_id, "credit", 100)
        legs: tuple[Leg, ...] = ((a.account_id, "debit", 700), *given)
        base = Case(operation, f"{who}: three legs", (a, b, bank), command(asker, *legs), legs=legs)
        yield base
        yield base.refused(
            f"{who}: one unit too little on a", "insufficient_funds", accounts=(a.holding(699), b, bank)
        )  # fmt: skip
        yield base.refused(f"{who}: they do not balance", "postings_unbalanced", command(asker, *legs[:2]))
        yield base.refused(f"{who}: one posting", "postings_count", command(asker, legs[0]))
        yield base.refused(f"{who}: no posting", "postings_count", command(asker))
        zero = ((a.account_id, "debit", 0), (b.account_id, "credit", 0))
        yield base.refused(f"{who}: a posting of 0", "amount_not_positive", command(asker, *zero))
        yield base.refused(f"{who}: an amount beside them", "field_invalid", command(asker, *legs, amount=1))
        back: tuple[Leg, ...] = (bank.account_id, "debit", 50), (b.account_id, "credit", 50)
        takes = replace(base, name=f"{who}: from an account of the bank", command=command(asker, *back), legs=back)
        yield takes if asker == BANK else takes.refused(takes.name, "account_not_owned")


_BY_KIND = {
    "hold": built_in_cases, "exchange": built_in_cases, "capture": capture_cases, "void": void_cases,
    "entry": entry_cases,
}  # fmt: skip


def kind_cases(document: Mapping[str, Any], operation: str) -> Iterator[Case]:
    """The cases of an operation of a built-in kind that gives nothing back."""
    kind = document["operations"][operation]["kind"]
    return _BY_KIND[kind](document, operation) if kind in _BY_KIND else iter(())
