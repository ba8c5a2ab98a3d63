"""Alerts from state and time: each once, also after a restart that knows nothing but the notices."""

from __future__ import annotations

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearline.webhooks.alerts import DAY_MS, QUIET_GRACE_MS, Alerts, Told, reached
from clearline.webhooks.interest import Interest
from schemas.records import HoldState, JournalRecord, Limit, LimitState, UsageState, Used, Want
from tests.journals import Maker
from tests.webhook_world import subscription

NOW = 20_800 * DAY_MS + 3_600_000
HOLD = "ab" * 16
URL = "https://shop.example/hook"


def alerts(*subscriptions: object, after: Alerts | None = None) -> Alerts:
    """Alerts that follow these; `after`: with the notices that were written by others before a restart."""
    made = Alerts(after.notices.values() if after is not None else ())
    made.follow(Interest(subscriptions))  # type: ignore[arg-type]
    return made


def hold(expires_at: int, remaining: int = 50, payer: str = "acme:w:a") -> HoldState:
    return HoldState(bytes.fromhex(HOLD), bytes(8), "acme", payer, "acme:w:b", "CNY", 60, remaining, expires_at, 1, 2)


def types(told: Told) -> list[str]:
    return [e.type for e in told.events]


# ---- holds -----------------------------------------------------------------------------------------------------------


def test_a_hold_about_to_lapse_is_told_once_at_its_lead() -> None:
    s = subscription("s", "acme", URL, [Want("hold.expiring", lead_s=3_600)])
    a = alerts(s)
    at = NOW + 2 * 3_600_000
    assert a.take(f"h:{HOLD}", hold(at), NOW, live=True) == Told([], {})
    assert types(a.lapsing(at - 3_600_001)) == []
    told = a.lapsing(at - 3_600_000)
    assert types(told) == ["hold.expiring"]
    assert orjson.loads(told.events[0].body)["data"]["hold"]["amount"] == 50
    assert told.events[0].ordering == "acme:w:a"
    assert a.lapsing(at - 1) == Told([], {})
    again = alerts(s, after=a)
    again.take(f"h:{HOLD}", hold(at), NOW, live=False)
    assert again.lapsing(at - 1) == Told([], {}), "also after a restart"
    gone = again.take(f"h:{HOLD}", None, NOW, live=True)
    assert list(gone.notices.values()) == [None]
    assert again.notices == {}


def test_a_hold_that_is_closed_in_time_is_not_told() -> None:
    a = alerts(subscription("s", "acme", URL, [Want("hold.expiring", lead_s=60)]))
    a.take(f"h:{HOLD}", hold(NOW + 120_000), NOW, live=True)
    a.take(f"h:{HOLD}", None, NOW + 1, live=True)
    assert a.lapsing(NOW + 100_000) == Told([], {})


def test_who_comes_later_learns_of_holds_that_are_open() -> None:
    a = alerts()
    a.take(f"h:{HOLD}", hold(NOW + 120_000), NOW, live=True)
    a.follow(Interest([subscription("s", "acme", URL, [Want("hold.expiring", lead_s=3_600)])]))
    assert types(a.lapsing(NOW)) == ["hold.expiring"]


def test_a_hold_that_never_lapses_or_has_lapsed_or_is_anothers_is_not_told() -> None:
    a = alerts(subscription("s", "acme", URL, [Want("hold.expiring", lead_s=3_600)]))
    a.take(f"h:{HOLD}", hold(0), NOW, live=True)
    a.take(f"h:{'cd' * 16}", hold(NOW - 1), NOW, live=True)
    a.take(f"h:{'ef' * 16}", hold(NOW + 1_000, payer="zeta:w:a"), NOW, live=True)
    assert a.lapsing(NOW) == Told([], {})


# ---- limits ----------------------------------------------------------------------------------------------------------


def usage(amount: int, start: int = 7, level: str = "partner", subject: str = "acme/shop") -> UsageState:
    return UsageState(level, subject, (Used("day", "CNY", start, 3, amount),), 5)


def test_a_limit_is_told_once_per_window_and_percent() -> None:
    wants = [Want("limit.reached", percent=80), Want("limit.reached", percent=100)]
    a = alerts(subscription("s", "acme", URL, wants))
    a.take(
        "l:partner:acme/shop",
        LimitState("partner", "acme/shop", (Limit("day", "CNY", None, 1_000),), 1),
        NOW,
        live=False,
    )

    def use(amount: int, start: int = 7) -> list[int]:
        told = a.take("u:partner:acme/shop", usage(amount, start), NOW, live=True)
        return [orjson.loads(e.body)["data"]["limit"]["percent"] for e in told.events]

    assert use(799) == []
    assert use(800) == [80]
    assert use(950) == []
    assert use(1_000) == [100]
    assert use(900, start=8) == [80]
    a = alerts(subscription("s", "acme", URL, wants), after=a)
    a.take(
        "l:partner:acme/shop",
        LimitState("partner", "acme/shop", (Limit("day", "CNY", None, 1_000),), 1),
        NOW,
        live=False,
    )
    assert use(950, start=8) == [], "also after a restart"
    assert use(1_000, start=8) == [100]


def test_what_was_there_before_is_no_news() -> None:
    a = alerts(subscription("s", "acme", URL, [Want("limit.reached", percent=80)]))
    a.take(
        "l:account:acme:w:a", LimitState("account", "acme:w:a", (Limit("day", "CNY", None, 10),), 1), NOW, live=False
    )
    assert a.take("u:account:acme:w:a", usage(10, level="account", subject="acme:w:a"), NOW, live=False) == Told([], {})


def test_a_product_s_limit_is_told_to_its_root_alone() -> None:
    subscriptions = [subscription(n, p, URL, [Want("limit.reached", percent=50)]) for n, p in
                     (("root", "acme"), ("shop", "acme/shop"), ("other", "zeta"))]  # fmt: skip
    a = alerts(*subscriptions)
    a.take("l:product:wallet", LimitState("product", "wallet", (Limit("day", "CNY", None, 10),), 1), NOW, live=False)
    told = a.take("u:product:acme wallet", usage(5, level="product", subject="acme wallet"), NOW, live=True)
    assert [(e.subscription_id, e.ordering) for e in told.events] == [("root", "acme")]


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [(Limit("day", "CNY", 4, None), False), (Limit("day", "CNY", 3, 10**9), True), (Limit("day", "CNY", None, 625), True),
     (Limit("day", "CNY", None, 626), False), (Limit("day", "CNY", 0, None), True)],
)  # fmt: skip
def test_reached_by_count_or_by_amount_in_whole_numbers(limit: Limit, wanted: bool) -> None:
    assert reached(Used("day", "CNY", 7, 3, 500), limit, 80) is wanted


def test_a_removed_limit_is_not_told() -> None:
    a = alerts(subscription("s", "acme", URL, [Want("limit.reached", percent=80)]))
    a.take(
        "l:partner:acme/shop", LimitState("partner", "acme/shop", (Limit("day", "CNY", None, 10),), 1), NOW, live=True
    )
    a.take("l:partner:acme/shop", None, NOW, live=True)
    assert a.take("u:partner:acme/shop", usage(10), NOW, live=True) == Told([], {})


# ---- days ------------------------------------------------------------------------------------------------------------


def record(day: int, partner_id: str = "acme/shop", outcome: str = "settled") -> JournalRecord:
    found = next(
        x.record for x in Maker(1).lines(200) if x.record.outcome == outcome and x.record.command == "Transaction"
    )
    return msgspec.structs.replace(found, booked_at=day * DAY_MS + 1_000, partner_id=partner_id)


def quiet(told: Told) -> list[str]:
    return [orjson.loads(e.body)["data"]["day"] for e in told.events]


def test_quiet_days_are_told_when_they_are_over_and_not_those_with_an_outcome() -> None:
    day = NOW // DAY_MS
    s = subscription("s", "acme", URL, ["day.quiet"], verified_at=NOW)
    a = alerts(s)
    assert quiet(a.days_over(NOW + DAY_MS)) == [], "the day on which it was verified does not count"
    assert quiet(a.days_over((day + 2) * DAY_MS + QUIET_GRACE_MS - 1)) == []
    assert quiet(a.days_over((day + 2) * DAY_MS + QUIET_GRACE_MS)) == ["2026-12-14"]
    assert quiet(a.days_over((day + 2) * DAY_MS + QUIET_GRACE_MS)) == []
    assert quiet(a.heard(record(day + 2, outcome="rejected"))) == []
    assert quiet(a.heard(record(day + 2))) == []
    a = alerts(s, after=a)
    assert quiet(a.days_over((day + 3) * DAY_MS + QUIET_GRACE_MS)) == []
    assert quiet(a.heard(record(day + 5))) == ["2026-12-16", "2026-12-17"]
    assert quiet(a.days_over((day + 6) * DAY_MS + QUIET_GRACE_MS)) == []
    assert quiet(a.heard(record(day + 7, partner_id="zeta"))) == []
    assert quiet(a.days_over((day + 8) * DAY_MS + QUIET_GRACE_MS)) == ["2026-12-19", "2026-12-20"]


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(1, 25)), st.lists(st.booleans(), min_size=26, max_size=26))
def test_each_day_is_busy_or_told_once_however_often_the_worker_starts(busy: set[int], restarts: list[bool]) -> None:
    first = NOW // DAY_MS
    s = subscription("s", "acme", URL, ["day.quiet"], verified_at=NOW)
    a, told, sample = alerts(s), [], record(0)
    for n in range(1, 26):
        if n in busy:
            told += a.heard(msgspec.structs.replace(sample, booked_at=(first + n) * DAY_MS + 5)).events
        if restarts[n]:
            a = alerts(s, after=a)
        elif n % 3 == 0:  # it looked at the clock on some days, and was away on others
            told += a.days_over((first + n) * DAY_MS + 2 * QUIET_GRACE_MS).events
    told += a.days_over((first + 26) * DAY_MS + QUIET_GRACE_MS).events
    assert len({e.event_id for e in told}) == len(told) == 25 - len(busy)
    assert [e.event_id for e in told] == [
        e.event_id for e in sorted(told, key=lambda e: orjson.loads(e.body)["data"]["day"])
    ]
