"""Limits: who is asked, what counts, what has been used; from docs/operations.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from schemas.records import Limit, Transaction, Used
from tests.model import calendars
from tests.model.values import EXPONENTS, LONG_MAX, Against, Leg, against, is_below, owner, path, root

WINDOWS = ("transaction", "minute", "hour", "day", "month")
Subject = tuple[str, str]  # level, subject
Limits = Mapping[Subject, tuple[Limit, ...]]
Usage = Mapping[Subject, tuple[Used, ...]]


class Asked(NamedTuple):
    """One subject whose limits are asked: its gross per currency, and whose calendar numbers its windows."""

    subject: Subject
    limits: tuple[Limit, ...]
    calendar_of: str
    gross: dict[str, int]


def wrong(limits: Sequence[Limit]) -> bool:
    """Whether the limits break a rule of form."""
    seen = set()
    for one in limits:
        maxima = [m for m in (one.count_max, one.amount_max) if m is not None]
        if (
            one.window not in WINDOWS
            or not maxima
            or min(maxima) < 0
            or (one.window == "transaction" and one.count_max is not None)
            or (one.currency == "" and one.amount_max is not None)
            or (one.window, one.currency) in seen
        ):
            return True
        seen.add((one.window, one.currency))
    return len(limits) > 50


def still_there(one: Limit, among: Sequence[Limit]) -> bool:
    """Whether a limit is among others, as low as it is or lower."""
    return any(
        (new.window, new.currency) == (one.window, one.currency)
        and (one.count_max is None or (new.count_max is not None and new.count_max <= one.count_max))
        and (one.amount_max is None or (new.amount_max is not None and new.amount_max <= one.amount_max))
        for new in among
    )


def unknown_currency(limits: Sequence[Limit]) -> bool:
    return any(one.currency != "" and one.currency not in EXPONENTS for one in limits)


def too_large(limits: Sequence[Limit]) -> bool:
    return any((m or 0) > LONG_MAX for one in limits for m in (one.count_max, one.amount_max))


def of_document(document: dict[str, Any]) -> tuple[Limit, ...]:
    return tuple(
        Limit(one["window"], one.get("currency", ""), one.get("count_max"), one.get("amount_max"))
        for one in document.get("limits", ())
    )


def gross_of(legs: Sequence[Leg]) -> dict[str, int]:
    """The sum of the debit legs per currency, in the order in which they appear."""
    out: dict[str, int] = {}
    for leg in legs:
        if leg.side == "debit":
            out[leg.currency] = out.get(leg.currency, 0) + leg.amount
    return out


def asked(limits: Limits, t: Transaction, legs: Sequence[Leg], document: dict[str, Any] | None) -> list[Asked]:
    """Everybody that is asked, in order: partners from the root down, those below whose money it is, accounts that are
    debited, the product."""
    gross = {t.currency: t.amount} if t.amount > 0 else gross_of(legs)
    out = []
    if t.partner_id != "bank":
        out = [Asked(("partner", p), limits.get(("partner", p), ()), p, gross) for p in path(t.partner_id)]
        for p in _below(t.partner_id, legs):
            theirs = gross_of([leg for leg in legs if is_below(owner(leg.account), p)])
            out.append(Asked(("partner", p), limits.get(("partner", p), ()), p, theirs))
    for name in dict.fromkeys(leg.account for leg in legs if leg.side == "debit"):
        own = gross_of([leg for leg in legs if leg.account == name])
        out.append(Asked(("account", name), limits.get(("account", name), ()), owner(name), own))
    if document is not None:
        who = root(t.partner_id)
        all_limits = (*limits.get(("product", t.product), ()), *of_document(document))
        out.append(Asked(("product", f"{who} {t.product}"), all_limits, who, gross))
    return [a for a in out if a.limits]


def _below(asker: str, legs: Sequence[Leg]) -> list[str]:
    """The partners below the asker on the paths of those who are debited, in the order of the legs, from above down."""
    owners = [owner(leg.account) for leg in legs if leg.side == "debit"]
    return list(dict.fromkeys(p for who in owners for p in path(who) if p != asker and is_below(p, asker)))


def used_in(usage: Usage, a: Asked, one: Limit, number: int) -> tuple[int, int]:
    """Count and amount that the window has taken so far."""
    for u in usage.get(a.subject, ()):
        if (u.window, u.currency, u.start) == (one.window, one.currency, number):
            return u.count, u.amount
    return 0, 0


def stands_against(
    usage: Usage, calendar: Mapping[str, Any], everybody: Sequence[Asked], now: int, t: Transaction
) -> Iterator[Against]:
    """`limit_exceeded` for each limit that would be passed, in the order of the page."""
    for a in everybody:
        level, subject = a.subject[0], a.subject[1]
        named = {one.currency for one in a.limits if one.currency}
        for c, amount in a.gross.items():
            if named and c not in named:
                yield against(
                    "limit_exceeded", field="amount", limit="currency", level=level, subject=subject, allowed=0,
                    asked=amount, currency=c,
                )  # fmt: skip
        own = calendars.of(calendar, a.calendar_of)
        for one in a.limits:
            if one.currency and one.currency not in a.gross:
                continue
            count, amount = 0, 0
            if one.window != "transaction":
                count, amount = used_in(usage, a, one, calendars.window_number(own, one.window, now))
            say = {"field": "amount", "level": level, "subject": subject, "currency": one.currency}
            if one.count_max is not None and count + 1 > one.count_max:
                yield against(
                    "limit_exceeded", limit=f"count per {one.window}", used=count, asked=1, allowed=one.count_max, **say
                )
            if one.amount_max is not None and amount + a.gross[one.currency] > one.amount_max:
                yield against(
                    "limit_exceeded", limit=f"amount per {one.window}", used=amount, asked=a.gross[one.currency],
                    allowed=one.amount_max, **say,
                )  # fmt: skip


def counted(usage: Usage, calendar: Mapping[str, Any], a: Asked, now: int) -> tuple[Used, ...]:
    """The rows of a subject after one more transaction: for each window and currency that has a limit, the first."""
    own = calendars.of(calendar, a.calendar_of)
    rows: dict[tuple[str, str], Used] = {}
    before = {(u.window, u.currency): u for u in usage.get(a.subject, ())}
    for one in a.limits:
        key = (one.window, one.currency)
        if one.window == "transaction" or key in rows:
            continue
        if one.currency and one.currency not in a.gross:
            if key in before:
                rows[key] = before[key]
            continue
        number = calendars.window_number(own, one.window, now)
        count, amount = used_in(usage, a, one, number)
        if any(o.amount_max is not None for o in a.limits if (o.window, o.currency) == key):
            amount += a.gross[one.currency]
        rows[key] = Used(*key, number, count + 1, amount)
    return tuple(rows.values())


def kept(rows: Sequence[Used], limits: Sequence[Limit]) -> tuple[Used, ...]:
    """The rows that are still among the limits when these are set anew."""
    still = {(one.window, one.currency) for one in limits}
    return tuple(u for u in rows if (u.window, u.currency) in still)
