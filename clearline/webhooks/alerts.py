"""Alerts that come from the state and from time: holds about to lapse, limits nearly used, days without events.

One `Alerts` per partition. It keeps the open holds that will lapse and the limits, as a settlement worker does, and the
notices: what was told already. Each method returns what to tell and which notices to write; both go into one Kafka
transaction with the place that was read to, so nothing is told twice or forgotten. Pure: time is handed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Any, NamedTuple

from clearline.gateway.documents import iso_day, iso_time
from clearline.webhooks.events import is_last_word
from clearline.webhooks.interest import EXPIRING, LIMIT, QUIET, Event, Interest, make
from schemas.identity import owner_of
from schemas.records import HoldState, JournalRecord, Limit, LimitState, Notice, Record, Subscription, UsageState, Used

DAY_MS = 86_400_000
QUIET_GRACE_MS = 60_000
QUIET_DAYS_MAX = 31  # told at once after the worker was away for long; of the days before these nobody is told
_QUIET = "quiet"


class Told(NamedTuple):
    """What to tell, and the notices to write by their key; None deletes one."""

    events: list[Event]
    notices: dict[str, Notice | None]


class Alerts:
    """Holds, limits and notices of one partition. `interest` may be replaced at any time by `follow`."""

    def __init__(self, notices: Iterable[Notice] = ()) -> None:
        self.interest = Interest(())
        self.notices: dict[str, Notice] = {}
        self._of_hold: dict[str, set[str]] = {}
        self._apply(Told([], {key_of(n): n for n in notices}))
        self._limits: dict[str, tuple[Limit, ...]] = {}
        self._holds: dict[str, HoldState] = {}
        self._due: list[tuple[int, str, str, int]] = []  # when, hold, subscription, lead

    def follow(self, interest: Interest) -> None:
        """Takes other subscriptions."""
        self.interest = interest
        self._due = []
        if any(interest.wants(s, EXPIRING) for s in interest.subscriptions.values()):
            for name, hold in self._holds.items():
                self._watch(name, hold)

    def take(self, key: str, row: Record | None, at_ms: int, live: bool) -> Told:
        """A row of ledger.state. `at_ms`: the broker's time of it; `live`: whether it may give events."""
        told = Told([], {})
        kind, name = key[:2], key[2:]
        if kind == "h:":
            self._take_hold(name, row, told)
        elif kind == "l:":
            if isinstance(row, LimitState):
                self._limits[name] = row.limits
            else:
                self._limits.pop(name, None)
        elif kind == "u:" and live and isinstance(row, UsageState):
            self._take_usage(row, at_ms, told)
        self._apply(told)
        return told

    # ---- holds ---------------------------------------------------------------------------------------------------

    def _take_hold(self, name: str, row: Record | None, told: Told) -> None:
        if not isinstance(row, HoldState) or not row.expires_at:
            if self._holds.pop(name, None) is not None:
                told.notices.update(dict.fromkeys(self._of_hold.pop(name, ())))
            return
        known = self._holds.get(name)
        self._holds[name] = row
        if known is None or known.expires_at != row.expires_at:
            self._watch(name, row)

    def _watch(self, name: str, hold: HoldState) -> None:
        for s, w in self.interest.above(owner_of(hold.payer), EXPIRING, hold.expires_at):
            if f"{s.subscription_id}:hold {name} {w.lead_s}" not in self.notices:
                heappush(self._due, (hold.expires_at - w.lead_s * 1000, name, s.subscription_id, w.lead_s))

    def lapsing(self, now_ms: int) -> Told:
        """Holds that lapse within the time in which somebody wants to know."""
        told = Told([], {})
        while self._due and self._due[0][0] <= now_ms:
            at, name, subscription_id, lead_s = heappop(self._due)
            hold, s = self._holds.get(name), self.interest.subscriptions.get(subscription_id)
            if hold is None or s is None or at != hold.expires_at - lead_s * 1000 or hold.expires_at <= now_ms:
                continue
            notice = Notice(subscription_id, f"hold {name} {lead_s}", hold.expires_at)
            if self.notices.get(key_of(notice)) != notice:
                data = {
                    "id": name, "payer": hold.payer, "payee": hold.payee, "currency": hold.currency,
                    "amount": hold.remaining, "expires_at": iso_time(hold.expires_at),
                }  # fmt: skip
                told.events.append(
                    make(s, EXPIRING, hold.payer, f"{name}\0{hold.expires_at}\0{lead_s}", at, {"hold": data})
                )
                told.notices[key_of(notice)] = notice
        self._apply(told)
        return told

    # ---- limits --------------------------------------------------------------------------------------------------

    def _take_usage(self, row: UsageState, at_ms: int, told: Told) -> None:
        subject = row.subject_id
        partner, of, whole_tree = subject, subject, True
        if row.level == "account":
            partner = owner_of(subject)
        elif row.level == "product":  # what one root partner has used of it
            partner, _, of = subject.partition(" ")
            whole_tree = False
        limits = {(limit.window, limit.currency): limit for limit in self._limits.get(f"{row.level}:{of}", ())}
        for used in row.used:
            limit = limits.get((used.window, used.currency))
            if limit is None:
                continue
            for s, w in self.interest.above(partner, LIMIT, at_ms):
                if (whole_tree or s.partner_id == partner) and reached(used, limit, w.percent):
                    self._tell_limit(s, w.percent, row, used, limit, at_ms, told)

    def _tell_limit(
        self, s: Subscription, percent: int, row: UsageState, used: Used, limit: Limit, at_ms: int, told: Told
    ) -> None:
        name = f"{row.level} {row.subject_id} {used.window} {used.currency} {percent}"
        notice = Notice(s.subscription_id, f"limit {name}", used.start)
        if self.notices.get(key_of(notice)) == notice:
            return
        data: dict[str, Any] = {
            "level": row.level, "subject": row.subject_id, "window": used.window, "currency": used.currency or None,
            "count": used.count, "count_max": limit.count_max, "amount": used.amount, "amount_max": limit.amount_max,
            "percent": percent,
        }  # fmt: skip
        ordering = row.subject_id if row.level != "product" else row.subject_id.partition(" ")[0]
        told.events.append(make(s, LIMIT, ordering, f"{name}\0{used.start}", at_ms, {"limit": data}))
        told.notices[key_of(notice)] = notice

    # ---- days ----------------------------------------------------------------------------------------------------

    def heard(self, r: JournalRecord) -> Told:
        """A journal record: for whom this day is not a quiet one, and which days before it were."""
        told = Told([], {})
        if is_last_word(r):
            day = r.booked_at // DAY_MS
            for s, _ in self.interest.above(r.partner_id, QUIET, r.booked_at):
                self._look_at_days(s, day, day, told)
        self._apply(told)
        return told

    def days_over(self, now_ms: int) -> Told:
        """Days that are over, when the journal was read to its end."""
        told = Told([], {})
        today = (now_ms - QUIET_GRACE_MS) // DAY_MS
        for s in self.interest.subscriptions.values():
            if self.interest.wants(s, QUIET):
                self._look_at_days(s, today, today - 1, told)
        self._apply(told)
        return told

    def _look_at_days(self, s: Subscription, before: int, through: int, told: Told) -> None:
        """Every day up to `before` that was not looked at is quiet; then all through `through` are looked at."""
        known = self.notices.get(f"{s.subscription_id}:{_QUIET}")
        last = max(known.value if known else 0, s.verified_at // DAY_MS)
        if through <= last:
            return
        for day in range(max(last + 1, before - QUIET_DAYS_MAX), before):
            data = {"day": iso_day(day), "partner_id": s.partner_id}
            told.events.append(make(s, QUIET, s.partner_id, str(day), (day + 1) * DAY_MS, data))
        notice = Notice(s.subscription_id, _QUIET, through)
        told.notices[key_of(notice)] = notice

    def _apply(self, told: Told) -> None:
        for key, notice in told.notices.items():
            if notice is None:
                self.notices.pop(key, None)
            else:
                self.notices[key] = notice
                if notice.subject.startswith("hold "):
                    self._of_hold.setdefault(notice.subject.split(" ")[1], set()).add(key)


def key_of(n: Notice) -> str:
    """Under which key a notice is kept, without its prefix."""
    return f"{n.subscription_id}:{n.subject}"


def reached(used: Used, limit: Limit, percent: int) -> bool:
    """Whether this much of a window is used, by count or by amount."""
    by_count = limit.count_max is not None and used.count * 100 >= percent * limit.count_max
    by_amount = limit.amount_max is not None and used.amount * 100 >= percent * limit.amount_max
    return by_count or by_amount
