"""Cases of operations with steps: they settle, cost what they must at each boundary, and open accounts on first use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from clearline.conformance.cases import Case, Stage, askers, currencies, gross_max
from clearline.conformance.prices import AMOUNT_MAX, points
from clearline.conformance.world import DAY
from schemas.identity import BANK

Names = dict[str, int]


def step_cases(document: Mapping[str, Any], operation: str) -> Iterator[Case]:
    """What an operation with steps does when nothing stands against it."""
    for asker in askers(document, operation):
        for currency in currencies(document):
            stage = Stage(document, operation, asker, currency)
            sample = stage.sample()
            if sample is None:
                continue
            who = "the bank asks" if asker == BANK else "settles"
            yield stage.case(f"{who}, {currency}", *sample)
            if asker == askers(document, operation)[0]:
                yield from _prices(stage, *sample)
                yield from _openings(stage, *sample)
                yield from _balances(stage, *sample)
    yield from _dates(document, operation)


def _dates(document: Mapping[str, Any], operation: str) -> Iterator[Case]:
    """A version settles from its first value date on, and not before."""
    stage = Stage(document, operation, askers(document, operation)[0], currencies(document)[0])
    sample = stage.sample()
    if sample is None:
        return
    tomorrow = stage.command(*sample, value_date=DAY + 1)
    first = replace(stage.case("on its first value date", *sample), command=tomorrow, effective_from=DAY + 1)
    yield first
    yield first.refused("before its first value date", "product_unknown", stage.command(*sample))
    back = stage.command(*sample, value_date=DAY - 30)
    yield replace(first, name="back-dated, at the price of today", command=back, effective_from=DAY)


def _prices(stage: Stage, amount: int, names: Names) -> Iterator[Case]:
    """Each boundary of each price. What moves the price is set; the rest stays as in the sample."""
    most = gross_max(stage.document, stage.currency)
    for s in stage.steps:
        expressions = [(s["amount"], True), *((t.get("amount"), False) for t in s["to"])]
        for i, (expression, own) in enumerate(expressions):
            if not isinstance(expression, dict) or "fixed" in expression:
                continue
            of = expression.get("of", "amount" if own else "step")
            of = s["amount"] if of == "step" and isinstance(s["amount"], str) else of
            where = "step" if own else s["to"][i - 1]["role"]
            for what, base in points(expression, stage.currency):
                if not 0 < base <= (AMOUNT_MAX if of != "amount" or most is None else most):
                    continue
                title = f"{where}: {what}, {stage.currency}"
                case = _at(stage, title, of, s["from"], base, amount, names)
                if case is not None:
                    yield case


def _at(stage: Stage, title: str, of: str, source: str, base: int, amount: int, names: Names) -> Case | None:
    """A case in which what a price is taken of is `base`; None when nothing that is given can make it so."""
    if of == "amount":
        # What is named beside it must fit into a small amount too.
        fits = {n: min(v, max(1, base // 10)) for n, v in names.items()}
        return rich(stage, base).case(title, base, fits)
    if of in names:
        bigger = max(amount, 2 * base) if amount else 0
        return rich(stage, max(base, bigger)).case(title, bigger, names | {of: base})
    if of == "balance" and not stage.role(source).get("many"):
        (_, account_id), a = stage.places[source][0], stage.accounts[stage.places[source][0][1]]
        on_it = -base if a.debit_normal else base
        return stage.with_account(stage.accounts[account_id].holding(on_it)).case(title, amount, names)
    return None


def rich(stage: Stage, amount: int) -> Stage:
    """The stage with enough on the accounts of those who pay, and owed by those whose debt is paid off."""
    for name in stage.roles:
        for _, account_id in stage.places[name]:
            a = stage.accounts[account_id]
            pays = stage.is_source(name) and not a.debit_normal and not stage.takes_balance(name)
            owes = a.debit_normal and a.least is not None and not stage.gets_balance(name)
            if (pays or owes) and a.available < 2 * amount:
                stage = stage.with_account(a.holding(2 * amount))
    return stage


def _openings(stage: Stage, amount: int, names: Names) -> Iterator[Case]:
    """Accounts that the document opens on first use."""
    posted = {account for account, _, _ in stage.expected(amount, names).legs}
    for name in stage.roles:
        if "open" not in stage.role(name) or stage.takes_balance(name):
            continue
        for label, account_id in stage.places[name]:
            a = stage.accounts[account_id]
            fresh = stage.with_account(replace(a, available=0, opens=True))
            case = fresh.case(f"{label} is opened on first use", amount, names)
            opened = {account for account, _, _ in case.legs} & posted & {account_id}
            yield replace(case, opens=tuple(replace(fresh.accounts[x], opens=False) for x in opened))


def _balances(stage: Stage, amount: int, names: Names) -> Iterator[Case]:
    """What is on an account decides: exactly enough, one less, nothing; what is owed: nothing, or more than is paid."""
    for name in stage.roles:
        (_, account_id) = stage.places[name][0]
        a = stage.accounts[account_id]
        if stage.takes_balance(name):
            empty = stage
            for _, each in stage.places[name]:
                empty = _also(empty, each, 0)
            yield empty.case(f"nothing is on {name}", amount, names)
            yield _also(stage, account_id, 1).case(f"one unit is on the first of {name}", amount, names)
            if not a.debit_normal and a.least is None:
                yield _also(stage, account_id, -5_000).case(f"the first of {name} is overdrawn", amount, names)
        elif stage.gets_balance(name):
            yield _also(stage, account_id, 0).case(f"nothing is owed on {name}", amount, names)
            yield _also(stage, account_id, RICHER).case(f"more is owed on {name} than is paid", amount, names)
            yield _also(stage, account_id, 1).case(f"one unit is owed on {name}", amount, names)
        taken = _taken(stage, account_id, amount, names)
        if taken > 0 and a.least is not None and not stage.takes_balance(name) and not stage.gets_balance(name):
            enough = taken + a.least - a.credit_limit
            yield _also(stage, account_id, enough).case(f"exactly enough is on {name}", amount, names)
            yield _also(stage, account_id, enough - 1).case(f"one unit too little is on {name}", amount, names)


RICHER = 10**12


def _also(stage: Stage, account_id: str, available: int) -> Stage:
    """The stage with so much on an account."""
    return stage.with_account(stage.accounts[account_id].holding(available))


def _taken(stage: Stage, account_id: str, amount: int, names: Names) -> int:
    """By how much the sample lowers what is available on an account."""
    a = stage.accounts[account_id]
    total = 0
    for account, side, n in stage.expected(amount, names).legs:
        if account == account_id:
            total += n if a.debit_normal != (side == "debit") else -n
    return total
