"""Cases in which an operation must be refused: what is wrong with the fields, the accounts, or who asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from clearline.conformance.built_in import built_in
from clearline.conformance.calculator import Account
from clearline.conformance.cases import Case, Stage, askers, currencies, other_currency
from clearline.conformance.world import ASKER, BELOW, DAY, OTHER
from ledger.money import EXPONENTS
from schemas.identity import BANK, owner_of
from schemas.records import BlockAccount, CloseAccount, NamedAmount, Posting, SetPartnerState, Transaction

CONTROL = "a-control-command"
_put = msgspec.structs.replace


def refusal_cases(document: Mapping[str, Any], operation: str) -> Iterator[Case]:
    """Every refusal that is about one operation. Those of an original are where the originals are."""
    kind = document["operations"][operation]["kind"]
    stage = Stage(document, operation, askers(document, operation)[0], currencies(document)[0])
    if kind in ("transfer", "hold", "exchange"):
        sample = stage.sample()
        if sample is None:
            return
        good = _good(stage, *sample)
        yield from _fields(stage, good)
        yield from _amounts(stage, good)
        yield from _roles(stage, good)
        yield from _accounts(stage, good)
        yield from _owners(stage, good)
        yield from _askers(document, operation, good)
    else:
        first = Case(operation, "", (), _pointing(stage, kind))
        yield from _askers(document, operation, first)


def _good(stage: Stage, amount: int, names: dict[str, int]) -> Case:
    """A case that settles, to be spoilt."""
    if stage.kind == "transfer":
        return stage.case("settles", amount, names)
    return built_in(stage, amount)


def _pointing(stage: Stage, kind: str) -> Transaction:
    """A transaction that points at nothing that is there, or free postings."""
    product, currency = stage.document["product"], stage.currency
    if kind == "entry":
        legs = (Posting(f"{ASKER}:a", "debit", 100), Posting(f"{ASKER}:b", "credit", 100))
        return Transaction(stage.asker, "the-case", product, stage.operation, 0, currency, {}, legs, DAY)
    amount = 100 if kind in ("capture", "refund") else 0
    return Transaction(
        stage.asker, "the-case", product, stage.operation, amount, currency, {}, (), DAY, original="never"
    )


def _fields(stage: Stage, good: Case) -> Iterator[Case]:
    c, exponent = good.command, EXPONENTS[stage.currency]
    yield good.refused("an original is named", "field_invalid", _put(c, original="earlier"))
    yield good.refused("a note is given", "field_invalid", _put(c, note="why"))
    legs = (Posting(f"{ASKER}:a", "debit", 100), Posting(f"{ASKER}:b", "credit", 100))
    yield good.refused("postings are given", "field_invalid", _put(c, postings=legs))
    yield good.refused("a day after 2299", "field_invalid", _put(c, value_date=200_000))
    if stage.kind != "hold":
        yield good.refused("an expiry is given", "field_invalid", _put(c, expires_at=1))
    else:
        yield good.refused("it would have lapsed before", "field_invalid", _put(c, expires_at=1))
    yield good.refused("a currency that is none", "currency_unknown", _put(c, currency="XXX"))
    listed = stage.document.get("currencies", [])
    if listed:
        odd = next(x for x in ("CHF", "GBP", "SEK", "AUD") if x not in listed)
        yield good.refused("a currency that the product does not have", "product_currency", _put(c, currency=odd))
    yield good.refused("the caller believes in other decimals", "exponent_mismatch", _put(c, exponent=exponent + 1))
    yield replace(good, name="the caller believes in the right decimals", command=_put(c, exponent=exponent))
    if stage.kind == "exchange":
        yield good.refused("the rate is zero", "rate_invalid", _put(c, rate="0"))
        yield good.refused("the rate is no number", "rate_invalid", _put(c, rate="1,25"))
        yield good.refused("the rate buys nothing", "rate_invalid", _put(c, rate="0.000000000001", amount=1))


def _amounts(stage: Stage, good: Case) -> Iterator[Case]:
    c = good.command
    if stage.uses_amount():
        yield good.refused("amount 0", "amount_not_positive", _put(c, amount=0))
        yield good.refused("amount below 0", "amount_not_positive", _put(c, amount=-1))
        yield good.refused("amount of 2^63", "amount_too_large", _put(c, amount=2**63))
    else:
        yield good.refused("an amount that is not used", "field_invalid", _put(c, amount=1))
    stranger = tuple(sorted((*c.amounts, NamedAmount("zz.stranger", 1)), key=lambda n: n.name))
    yield good.refused("a named amount that it does not have", "field_invalid", _put(c, amounts=stranger))
    for name in [n.name for n in c.amounts]:
        others = tuple(n for n in c.amounts if n.name != name)
        yield good.refused(f"without {name}", "field_invalid", _put(c, amounts=others))
        yield good.refused(f"{name} is 0", "amount_not_positive", _naming(c, name, 0))
        yield good.refused(f"{name} is 2^63", "amount_too_large", _naming(c, name, 2**63))
        more = _naming(c, name, c.amount + 1)
        found = stage.expected(c.amount, {n.name: n.amount for n in more.amounts})
        if c.amount and found.reason:
            yield good.refused(f"{name} is more than the amount", found.reason, more)


def _naming(c: Transaction, name: str, value: int) -> Transaction:
    """The transaction with another named amount."""
    return _put(c, amounts=tuple(NamedAmount(n.name, value if n.name == name else n.amount) for n in c.amounts))


def _roles(stage: Stage, good: Case) -> Iterator[Case]:
    c = good.command
    odd = _put(c, accounts=c.accounts | {"zz": f"{ASKER}:a"})
    yield good.refused("a role that it does not have", "role_unknown", odd)
    for name in stage.roles:
        if not stage.is_named(name):
            fixed = stage.places[name][0][1]
            named = _put(c, accounts=c.accounts | {name: fixed})
            yield good.refused(f"{name} is named, but fixed", "role_unknown", named)
            continue
        labels = {label for label, _ in stage.places[name]}
        left = {k: v for k, v in c.accounts.items() if k not in labels}
        part = set(stage.parts()) & labels  # then its amounts are not asked for either
        without = _put(c, accounts=left, amounts=tuple(n for n in c.amounts if n.name not in part))
        yield good.refused(f"without {name}", "role_missing", without)
        if stage.role(name).get("many"):
            _, account = stage.places[name][0]
            if stage.takes_balance(name):
                twice = _put(c, accounts=c.accounts | {f"{name}.3": account})
                yield good.refused(f"{name} names an account twice", "field_invalid", twice)
            odd = _put(c, accounts=c.accounts | {f"{name}.0": account})
            yield good.refused(f"{name}.0 is no number of an account", "role_unknown", odd)


def _moved(stage: Stage, good: Case) -> dict[str, set[str]]:
    """The sides on which each account stands."""
    out: dict[str, set[str]] = {}
    if stage.kind == "transfer":
        for account, side, _ in good.legs:
            out.setdefault(account, set()).add(side)
        return out
    sides = {"payer": "debit", "payee": "credit", "sold": "credit", "bought": "debit"}
    for name in stage.roles:
        out.setdefault(stage.places[name][0][1], set()).add(sides[name])
    return out


def _accounts(stage: Stage, good: Case) -> Iterator[Case]:
    """Each account that is posted to: not there, of another currency, blocked, frozen, closed."""
    moved = _moved(stage, good)
    for name in stage.roles:
        for label, account_id in stage.places[name]:
            if account_id not in moved:
                continue
            a = stage.accounts[account_id]
            others = tuple(x for x in good.accounts if x.account_id != account_id)
            if "open" not in stage.role(name) or (stage.kind == "exchange" and name == "payee"):
                yield good.refused(f"{label} is not there", "account_unknown", accounts=others)
            yield from _in_its_way(stage, good, name, label, a, others, moved[account_id])
    yield from _same(stage, good)


def _in_its_way(
    stage: Stage, good: Case, name: str, label: str, a: Account, others: tuple[Account, ...], sides: set[str]
) -> Iterator[Case]:
    currency = other_currency(stage.document, a.currency)
    if stage.kind == "exchange" and name == "payee":
        currency = stage.currency
    wrong = (*others, replace(a, currency=currency))
    yield good.refused(f"{label} is of another currency", "account_currency", accounts=wrong)
    freeze = BlockAccount(BANK, CONTROL, a.account_id, False, False, freeze=True)
    yield good.refused(f"{label} is frozen", "account_frozen", before=(freeze,))
    for side in sorted(sides):
        block = BlockAccount(BANK, CONTROL, a.account_id, side == "debit", side == "credit")
        yield good.refused(f"{label} refuses {side}s", f"{side}s_blocked", before=(block,))
    if not stage.takes_balance(name) and not stage.gets_balance(name):  # closed is empty, so there is no leg on it
        close = CloseAccount(BANK, CONTROL, a.account_id)
        yield good.refused(f"{label} is closed", "account_closed", accounts=(*others, a.holding(0)), before=(close,))


def _same(stage: Stage, good: Case) -> Iterator[Case]:
    """One account is both who pays and who is paid."""
    pairs = [("payer", "payee")] if stage.kind == "hold" else []
    pairs += [(s["from"], t["role"]) for s in stage.steps for t in s["to"]]
    for source, target in dict.fromkeys(pairs):
        if not (stage.is_named(source) and stage.is_named(target)):
            continue
        if {stage.role(source)["owner"], stage.role(target)["owner"]} & {BANK}:
            continue
        label, _ = stage.places[target][0]
        account_id = stage.places[source][0][1]
        command = _put(good.command, accounts=good.command.accounts | {label: account_id})
        yield good.refused(f"{label} is {source}'s account", "same_account", command)


def _owners(stage: Stage, good: Case) -> Iterator[Case]:
    """Accounts of the wrong owner, and owners who may not be paid in their state."""
    others = {"caller": f"{OTHER}:x", "tree": f"{OTHER}:x", "any": f"{BANK}:x", BANK: f"{ASKER}:x"}
    moved = _moved(stage, good)
    for name in stage.roles:
        if not stage.is_named(name):
            continue
        owner = stage.role(name)["owner"]
        if stage.asker == BANK and owner != BANK:
            account_id = f"{BANK}:x"
        else:
            account_id = others[owner]
        label, mine = stage.places[name][0]
        if mine not in moved and not stage.takes_balance(name) and not stage.gets_balance(name):
            continue  # nothing falls on it, so nothing is asked of it
        foreign = replace(stage.accounts[mine], account_id=account_id)
        command = _put(good.command, accounts=good.command.accounts | {label: account_id})
        accounts = (*good.accounts, foreign)
        whose = f"{label} belongs to {owner_of(account_id)}"
        yield good.refused(whose, "account_not_owned", command, accounts=accounts)
        paid_by = owner_of(mine)
        if "credit" in moved.get(mine, ()) and paid_by not in (stage.asker, BANK):
            suspend = SetPartnerState(BANK, CONTROL, paid_by, "suspended", "conformance", "a case")
            refused = "owner_state" if stage.asker != paid_by else "partner_suspended"
            if paid_by != ASKER or stage.asker == BANK:
                yield good.refused(f"{paid_by}, whom {label} belongs to, is suspended", refused, before=(suspend,))
        if "debit" in moved.get(mine, ()) and owner == "caller" and stage.asker == ASKER:
            yield _from_below(stage, good, label, mine)


def _from_below(stage: Stage, good: Case, label: str, mine: str) -> Case:
    """The asker takes from a partner below it, which may not do itself what is asked."""
    below = replace(stage.accounts[mine], account_id=f"{BELOW}:x")
    suspend = SetPartnerState(BANK, CONTROL, BELOW, "suspended", "conformance", "a case")
    return good.refused(
        f"{label} belongs to {BELOW} below, which is suspended", "owner_state",
        _put(good.command, accounts=good.command.accounts | {label: below.account_id}),
        accounts=(*good.accounts, below), before=(suspend,),
    )  # fmt: skip


def _askers(document: Mapping[str, Any], operation: str, good: Case) -> Iterator[Case]:
    """Who may not ask, and what was asked before."""
    c = good.command
    may = askers(document, operation)
    for asker in (ASKER, BANK):
        if asker not in may:
            who = "the bank" if asker == BANK else "a partner"
            yield good.refused(f"{who} asks", "not_permitted", _put(c, partner_id=asker))
    yield good.refused("a partner that was never admitted", "partner_unknown", _put(c, partner_id="nobody"))
    yield good.refused("an operation that there is not", "operation_unknown", _put(c, operation="teleport"))
    yield good.refused("a product that there is not", "product_unknown", _put(c, product="no-such-product"))
    kind = document["operations"][operation]["kind"]
    suspend = SetPartnerState(BANK, CONTROL, ASKER, "suspended", "conformance", "a case")
    if ASKER in may and kind not in ("void", "refund"):
        yield good.refused(f"{ASKER} is suspended", "partner_suspended", _put(c, partner_id=ASKER), before=(suspend,))
    if good.legs:
        yield replace(good, name="the same once more", outcome="repeated", before=(c,), legs=(), reason="")
        other = _put(c, reference="otherwise")
        yield good.refused("another payload under the same key", "idempotency_conflict", other, before=(c,))
