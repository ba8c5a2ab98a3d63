"""Limits per transaction, minute, hour, day and month: who is asked, what counts, and what was used so far.

The page is docs/operations.md. What was used is a row of the state, and changes with the commands that count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, NoReturn

from ledger.calendars import calendar_of, window_number
from ledger.money import AMOUNT_MAX, EXPONENTS
from ledger.plans import Moment, Plan
from ledger.reasons import Reason, Rejection
from ledger.state import Draft
from schemas.identity import BANK, owner_of, root_of
from schemas.records import CalendarState, Limit, LimitState, Transaction, UsageState, Used

PARTNER, ACCOUNT, PRODUCT = LEVELS = ("partner", "account", "product")
TRANSACTION = "transaction"
WINDOWS = (TRANSACTION, "minute", "hour", "day", "month")
LIMITS_MAX = 50  # of one subject

Usage = dict[str, UsageState | None]  # rows to put, by their key


class Asked(NamedTuple):
    """One subject whose limits are asked. `subject`: under which it is counted; `partner_id`: whose calendar numbers
    its windows; `gross`: minor units by currency."""

    level: str
    subject: str
    limits: tuple[Limit, ...]
    partner_id: str
    gross: dict[str, int]


def check(draft: Draft, t: Transaction, plan: Plan, at: Moment, of_document: Sequence[Limit] = ()) -> Usage:
    """The rows of what is used once this transaction has counted. Raises Rejection for the first limit it would pass.

    `of_document`: the limits of the product's version that settles it.
    """
    rows: Usage = {}
    windows = _Windows(draft, at.now)
    for a in _everybody(draft, t, plan, of_document):
        key = f"u:{a.level}:{a.subject}"
        row = draft.row(key)
        before = row.used if isinstance(row, UsageState) else ()
        used = _count(a, before, windows)
        if used != before:
            rows[key] = UsageState(a.level, a.subject, used, at.offset) if used else None
    return rows


def limits_of(draft: Draft, level: str, subject: str) -> tuple[Limit, ...]:
    """What SetLimit gave a subject."""
    row = draft.row(f"l:{level}:{subject}")
    return row.limits if isinstance(row, LimitState) else ()


def _everybody(draft: Draft, t: Transaction, plan: Plan, of_document: Sequence[Limit]) -> Iterable[Asked]:
    """Who has limits, in the order in which they are asked: partners, accounts, the product."""
    debits = [(a.account_id, a.currency, amount) for a, side, amount in plan.legs if side == "debit"]
    if plan.opens is not None:
        debits = [(plan.opens.payer, plan.opens.currency, plan.opens.amount)]
    gross: dict[str, int] = {}
    if t.amount:
        gross[t.currency] = t.amount
    else:
        for _, currency, amount in debits:
            gross[currency] = gross.get(currency, 0) + amount
    if t.partner_id != BANK:
        parts = t.partner_id.split("/")
        for i in range(1, len(parts) + 1):
            partner = "/".join(parts[:i])
            limits = limits_of(draft, PARTNER, partner)
            if limits:
                yield Asked(PARTNER, partner, limits, partner, gross)
        for partner, sums in _below(t.partner_id, debits).items():
            limits = limits_of(draft, PARTNER, partner)
            if limits:
                yield Asked(PARTNER, partner, limits, partner, sums)
    own: dict[str, dict[str, int]] = {}
    for account_id, currency, amount in debits:
        sums = own.setdefault(account_id, {})
        sums[currency] = sums.get(currency, 0) + amount
    for account_id, sums in own.items():
        limits = limits_of(draft, ACCOUNT, account_id)
        if limits:
            yield Asked(ACCOUNT, account_id, limits, owner_of(account_id), sums)
    limits = (*limits_of(draft, PRODUCT, t.product), *of_document)
    if limits:
        root = root_of(t.partner_id)
        yield Asked(PRODUCT, f"{root} {t.product}", limits, root, gross)


def _below(asker: str, debits: Iterable[tuple[str, str, int]]) -> dict[str, dict[str, int]]:
    """Minor units by currency that are debited in the subtree of each partner below the asker, in the order in which
    these are asked: by the legs, from above down."""
    out: dict[str, dict[str, int]] = {}
    for account_id, currency, amount in debits:
        owner = owner_of(account_id)
        if not owner.startswith(asker + "/"):
            continue
        parts = owner.split("/")
        for i in range(asker.count("/") + 2, len(parts) + 1):
            sums = out.setdefault("/".join(parts[:i]), {})
            sums[currency] = sums.get(currency, 0) + amount
    return out


class _Windows:
    """The numbers of the windows that `now` lies in, by whose calendar it is; each is worked out once."""

    __slots__ = ("_draft", "_now", "_numbers")

    def __init__(self, draft: Draft, now: int) -> None:
        self._draft = draft
        self._now = now
        self._numbers: dict[tuple[str, str], int] = {}

    def number(self, calendar: CalendarState | None, window: str) -> int:
        key = calendar.subject_id if calendar is not None else "", window
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = window_number(calendar, window, self._now)
        return found

    def calendar(self, partner_id: str) -> CalendarState | None:
        return calendar_of(self._draft, partner_id)


def _count(a: Asked, before: tuple[Used, ...], windows: _Windows) -> tuple[Used, ...]:
    """What is used of each window, this transaction included; raises Rejection when it would pass a limit."""
    named = {limit.currency for limit in a.limits if limit.currency}
    for currency, amount in a.gross.items():
        if named and currency not in named:
            _refuse(a, "currency", 0, amount, 0, currency)
    calendar = windows.calendar(a.partner_id)
    known = {(u.window, u.currency): u for u in before}
    after: dict[tuple[str, str], Used] = {}
    for limit in a.limits:
        key = (limit.window, limit.currency)
        gross = a.gross.get(limit.currency, 0)
        if limit.currency and not gross:  # it does not count here, and what was counted stays
            if key in known:
                after[key] = known[key]
            continue
        start = count = amount = 0
        if limit.window != TRANSACTION:
            start = windows.number(calendar, limit.window)
            found = known.get(key)
            if found is not None and found.start == start:
                count, amount = found.count, found.amount
        if limit.count_max is not None and count + 1 > limit.count_max:
            _refuse(a, f"count per {limit.window}", count, 1, limit.count_max, limit.currency)
        if limit.amount_max is not None and amount + gross > limit.amount_max:
            _refuse(a, f"amount per {limit.window}", amount, gross, limit.amount_max, limit.currency)
        if limit.window != TRANSACTION:
            # Two limits of one window (SetLimit's and the document's) share a row: it takes the amount if any needs it.
            more = gross if limit.amount_max is not None else 0
            so_far = after[key].amount if key in after else 0
            after[key] = Used(limit.window, limit.currency, start, count + 1, max(amount + more, so_far))
    return tuple(after.values())


def _refuse(a: Asked, limit: str, used: int, asked: int, allowed: int, currency: str) -> NoReturn:
    raise Rejection(
        Reason.LIMIT_EXCEEDED, field="amount", limit=limit, level=a.level, subject=a.subject, used=used, asked=asked,
        allowed=allowed, currency=currency,
    )  # fmt: skip


# ---- setting them ------------------------------------------------------------------------------------------------


def check_limits(limits: Sequence[Limit]) -> None:
    """Whether these may be the limits of a subject, or of a product's document. Raises Rejection: field_invalid, then
    currency_unknown and amount_too_large, over all of them."""
    if len(limits) > LIMITS_MAX:
        raise Rejection(Reason.FIELD_INVALID, field="limits", rule=f"at most {LIMITS_MAX}")
    seen: set[tuple[str, str]] = set()
    for i, limit in enumerate(limits):
        rule = _broken(limit) or ("no window and currency twice" if (limit.window, limit.currency) in seen else "")
        if rule:
            raise Rejection(Reason.FIELD_INVALID, field=f"limits[{i}]", rule=rule)
        seen.add((limit.window, limit.currency))
    for limit in limits:
        if limit.currency and limit.currency not in EXPONENTS:
            raise Rejection(Reason.CURRENCY_UNKNOWN, field="limits", currency=limit.currency[:16])
    for limit in limits:
        if max(limit.count_max or 0, limit.amount_max or 0) > AMOUNT_MAX:
            raise Rejection(Reason.AMOUNT_TOO_LARGE, field="limits", limit=AMOUNT_MAX)


def _broken(limit: Limit) -> str:
    """The rule of form that a limit breaks, or empty."""
    maxima = [m for m in (limit.count_max, limit.amount_max) if m is not None]
    if limit.window not in WINDOWS:
        return "window: " + ", ".join(WINDOWS)
    if not maxima or min(maxima) < 0:
        return "count_max or amount_max, 0 or more"
    if limit.window == TRANSACTION and limit.count_max is not None:
        return "no count_max for one transaction"
    if limit.amount_max is not None and not limit.currency:
        return "an amount_max has a currency"
    return ""


def loosens(before: Sequence[Limit], after: Sequence[Limit]) -> bool:
    """Whether the limits after would let something pass that those before did not."""
    by_window = {(limit.window, limit.currency): limit for limit in after}
    for limit in before:
        new = by_window.get((limit.window, limit.currency))
        if new is None or _rises(limit.count_max, new.count_max) or _rises(limit.amount_max, new.amount_max):
            return True
    # Where some name a currency, no other currency passes at all.
    named = {limit.currency for limit in before if limit.currency}
    return bool(named) and any(limit.currency and limit.currency not in named for limit in after)


def _rises(before: int | None, after: int | None) -> bool:
    return before is not None and (after is None or after > before)


def put(draft: Draft, level: str, subject: str, limits: tuple[Limit, ...], offset: int) -> None:
    """Puts limits in place of those that the subject had. What was used of a window that is still limited stays."""
    key = f"{level}:{subject}"
    if limits or draft.row(f"l:{key}") is not None:
        draft.put_row(f"l:{key}", LimitState(level, subject, limits, offset) if limits else None)
    row = draft.row(f"u:{key}")
    if level == PRODUCT or not isinstance(row, UsageState):
        return
    named = {(limit.window, limit.currency) for limit in limits}
    used = tuple(u for u in row.used if (u.window, u.currency) in named)
    if used != row.used:
        draft.put_row(f"u:{key}", UsageState(level, subject, used, offset) if used else None)
