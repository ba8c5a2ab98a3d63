"""Limits by window: who sets them, who is asked, what counts.

What has been used is a row per limit: window, currency, number of the window, count and amount.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clearline.audit.calendars import Calendar, Calendars
from clearline.audit.contract import Terms
from clearline.audit.currencies import CURRENCIES
from clearline.audit.figures import LONG_MAX, Leg
from clearline.audit.partners import between, is_below, path_of
from schemas.identity import BANK, owner_of, root_of
from schemas.records import Limit, SetLimit

LEVELS = ("partner", "account", "product")
WINDOWS = ("transaction", "minute", "hour", "day", "month")
LIMITS_MAX = 50

Subject = tuple[str, str]  # level and id
Row = tuple[str, str, int, int, int]  # window, currency, number of the window, count, amount in minor units
Gross = dict[str, int]  # currency -> minor units, in the order in which they are named


def misshapen(limits: Sequence[Limit]) -> str:
    """Rules about limits that need no subject: a reason, or empty."""
    seen = {(x.window, x.currency) for x in limits}
    if len(limits) > LIMITS_MAX or len(seen) != len(limits):
        return "field_invalid"
    for x in limits:
        right = (
            x.window in WINDOWS
            and (x.count_max is None or x.count_max >= 0)
            and (x.amount_max is None or x.amount_max >= 0)
            and (x.count_max is not None or x.amount_max is not None)
            and not (x.window == "transaction" and x.count_max is not None)
            and not (x.amount_max is not None and not x.currency)
        )
        if not right:
            return "field_invalid"
    if any(x.currency and x.currency not in CURRENCIES for x in limits):
        return "currency_unknown"
    return "amount_too_large" if any(max(x.count_max or 0, x.amount_max or 0) > LONG_MAX for x in limits) else ""


def looser(old: Sequence[Limit], new: Sequence[Limit]) -> bool:
    """Whether a partner may not put the new limits in place of the old: one is gone or higher, or a currency came."""
    endless = 1 << 64
    now = {(x.window, x.currency): (x.count_max, x.amount_max) for x in new}
    for x in old:
        most = now.get((x.window, x.currency), (None, None))
        for was, is_ in zip((x.count_max, x.amount_max), most, strict=True):
            if (endless if is_ is None else is_) > (endless if was is None else was):
                return True
    listed = {x.currency for x in old if x.currency}
    return bool(listed) and any(x.currency and x.currency not in listed for x in new)


class Limits(Calendars):
    """The limits by subject and what was used of them, each with the offset that changed it last."""

    def __init__(self, terms: Terms, partition: int = 0) -> None:
        super().__init__(terms, partition)
        self.limits: dict[Subject, tuple[Limit, ...]] = {}
        self.limits_offset: dict[Subject, int] = {}
        self.used: dict[Subject, list[Row]] = {}
        self.used_offset: dict[Subject, int] = {}

    def set_limit(self, offset: int, c: SetLimit, *, on_shelf: bool) -> str:
        """The reason why limits are not set, or empty. `on_shelf`: the product that it may name is published."""
        why = self.denied(c.partner_id, "sets") or self.barred(c.partner_id)
        if why:
            return why
        if c.partner_id != BANK:
            mine = {
                "partner": c.subject_id != c.partner_id and is_below(c.subject_id, c.partner_id),
                "account": is_below(owner_of(c.subject_id), c.partner_id),
            }
            if not mine.get(c.level, False):
                return "not_permitted"
        if c.level not in LEVELS:
            return "field_invalid"
        why = misshapen(c.limits)
        if why:
            return why
        exists = {
            "partner": c.subject_id in self.partner_state, "account": c.subject_id in self.type, "product": on_shelf
        }  # fmt: skip
        if not exists[c.level]:
            return c.level + "_unknown"
        if c.partner_id != BANK and looser(self.limits.get((c.level, c.subject_id), ()), c.limits):
            return "not_permitted"
        self.put_limits(offset, (c.level, c.subject_id), c.limits)
        self.unsure_limits.discard((c.level, c.subject_id))
        return ""

    def put_limits(self, offset: int, subject: Subject, limits: tuple[Limit, ...]) -> None:
        """Puts limits in place of those that the subject had; of what was used, rows that still have a limit stay."""
        if limits:
            self.limits[subject], self.limits_offset[subject] = limits, offset
        else:
            self.limits.pop(subject, None)
        if subject[0] == "product":
            return
        named = {(x.window, x.currency) for x in limits}
        rows = self.used.get(subject, [])
        left = [r for r in rows if r[:2] in named]
        if left != rows:
            self._keep(offset, subject, left)

    def _keep(self, offset: int, subject: Subject, rows: list[Row]) -> None:
        if rows:
            self.used[subject], self.used_offset[subject] = rows, offset
        else:
            self.used.pop(subject, None)

    def asked(
        self, asker: str, legs: Iterable[Leg], gross: Gross, product: str, of_document: Sequence[Limit]
    ) -> list[tuple[Subject, tuple[Limit, ...], Calendar, Gross]]:
        """The subjects whose limits a transaction must keep, in their order, with what counts against each.

        The id of a product's subject is that under which its windows are counted.
        """
        if not (self.limits or of_document or self.unsure_limits or self.unsure_usage):
            return []
        out = [
            (("partner", p), self.limits.get(("partner", p), ()), self.calendar_of(p), gross)
            for p in (path_of(asker) if asker != BANK else ())
        ]
        below: dict[str, Gross] = {}  # what each partner below the asker gives
        own: dict[str, Gross] = {}
        for account, side, amount, currency in legs:
            if side == "debit":
                givers = between(asker, owner_of(account)) if asker != BANK else []
                for sums in (own.setdefault(account, {}), *(below.setdefault(p, {}) for p in givers)):
                    sums[currency] = sums.get(currency, 0) + amount
        out += [(("partner", p), self.limits.get(("partner", p), ()), self.calendar_of(p), g) for p, g in below.items()]
        for a, sums in own.items():
            limits = self.limits.get(("account", a), ())
            out.append((("account", a), limits, self.calendar_of(owner_of(a)), sums))
        root = root_of(asker)
        both = (*self.limits.get(("product", product), ()), *of_document)
        out.append((("product", f"{root} {product}"), both, self.calendar_of(root), gross))
        return [x for x in out if x[1] or self.is_unsure(x[0])]

    def is_unsure(self, subject: Subject) -> bool:
        """Whether nothing that is kept says the subject's limits, or what was used of them."""
        if not (self.unsure_limits or self.unsure_usage):
            return False
        level, name = subject
        of = (level, name.partition(" ")[2]) if level == "product" else subject
        return of in self.unsure_limits or subject in self.unsure_usage

    def exceeded(self, asked: Iterable[tuple[Subject, tuple[Limit, ...], Calendar, Gross]]) -> bool:
        """Whether one of the limits would be passed."""
        asked = list(asked)
        if any(self.is_unsure(s) for s, *_ in asked):
            return self.witness is not None and self.witness.reason == "limit_exceeded"
        for subject, limits, calendar, gross in asked:
            named = {x.currency for x in limits if x.currency}
            if named and any(c not in named for c in gross):
                return True
            rows = {r[:2]: r for r in self.used.get(subject, [])}
            for x in limits:
                if x.currency and not gross.get(x.currency):
                    continue
                count = amount = 0
                row = rows.get((x.window, x.currency))
                if row and x.window != "transaction" and row[2] == calendar.window(x.window, self.event_time):
                    count, amount = row[3], row[4]
                if x.count_max is not None and count + 1 > x.count_max:
                    return True
                if x.amount_max is not None and amount + gross[x.currency] > x.amount_max:
                    return True
        return False

    def count(self, offset: int, asked: Iterable[tuple[Subject, tuple[Limit, ...], Calendar, Gross]]) -> None:
        """Counts a transaction against every window of the subjects asked."""
        for subject, limits, calendar, gross in asked:
            if self.unsure_calendars:
                self.unsure_usage.add(subject)
            before = {r[:2]: r for r in self.used.get(subject, [])}
            after: dict[tuple[str, str], Row] = {}
            in_money = {(x.window, x.currency) for x in limits if x.amount_max is not None}
            for x in limits:
                key = (x.window, x.currency)
                if x.window == "transaction" or key in after:
                    continue
                row = before.get(key)
                if not x.currency or gross.get(x.currency):
                    number = calendar.window(x.window, self.event_time)
                    count, amount = (row[3], row[4]) if row and row[2] == number else (0, 0)
                    more = gross[x.currency] if key in in_money else 0
                    row = (*key, number, count + 1, amount + more)
                if row:
                    after[key] = row
            if list(after.values()) != self.used.get(subject, []):
                self._keep(offset, subject, list(after.values()))
