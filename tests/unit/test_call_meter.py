"""Calls are counted by what they were and how long they took; every one once; in a gateway with its partner and route."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from clearline.gateway.call_meter import BOUNDS, COUNTS_MAX, CallMeter
from schemas.records import CallCounts
from sinks.measures import BUCKETS, heights
from tests.contract.gateway_world import GatewayWorld

MINUTE = 60_000


def test_bounds_are_ten_for_each_power_of_ten() -> None:
    assert (BOUNDS[0], BOUNDS[10], BOUNDS[59]) == (100, 1_000, 79_432_823)
    assert len(BOUNDS) + 1 == BUCKETS
    assert all(1.24 < b / a < 1.27 for a, b in pairwise(BOUNDS))


@given(st.lists(st.integers(0, 200_000_000), min_size=1))
def test_every_call_is_in_the_bucket_of_its_time(times: list[int]) -> None:
    meter = CallMeter("0-a", lambda: 5 * MINUTE + 1)
    for micros in times:
        meter.answered("acme", "GET", "/v1/x", 200, micros / 1_000_000)
    (counts,) = meter.take()
    (row,) = counts.counts
    exact = [int(micros / 1_000_000 * 1_000_000) for micros in times]
    assert (row.calls, row.micros_sum, row.micros_max, row.minute) == (len(times), sum(exact), max(exact), 5 * MINUTE)
    found = heights(row.buckets)
    assert sum(found) == len(times)
    for i, bound in enumerate((*BOUNDS, 10**12)):
        below = BOUNDS[i - 1] if i else -1
        assert found[i] == sum(below < x <= bound for x in exact)
    assert list(meter.take()) == []


def test_large_counts_are_cut_into_records_and_nothing_is_lost() -> None:
    dice, now, wanted = random.Random(7), [0], Counter[tuple[int, str, str, str, int]]()
    meter = CallMeter("1-b", lambda: now[0])
    for _ in range(20_000):
        now[0] += 10
        key = f"p{dice.randrange(400)}", "POST", dice.choice(("/v1/a", "other")), dice.choice((200, 422))
        meter.answered(*key, 0.001)
        wanted[now[0] // MINUTE * MINUTE, *key] += 1
    records: list[CallCounts] = list(meter.take())
    assert [len(r.counts) for r in records[:-1]] == [COUNTS_MAX] * (len(records) - 1)
    assert {(c.minute, c.partner_id, c.method, c.route, c.status): c.calls for r in records for c in r.counts} == wanted


def test_a_gateway_counts_by_partner_and_pattern() -> None:
    world = GatewayWorld()
    meter = world.parts.meter = CallMeter("0-c", world.parts.now_ms)

    async def call() -> None:
        async with world.client(world.key("acme")) as client:
            for account in ("acme:wallet:alice", "acme:wallet:bob", "zeta:wallet:main"):
                await client.get(f"/v1/accounts/{account}")
        async with world.client("cl_wrong") as client:
            await client.get("/v1/accounts/acme:wallet:alice")
            await client.get("/v1/nowhere/at/all")

    asyncio.run(call())
    found = {(c.partner_id, c.method, c.route, c.status): c.calls for r in meter.take() for c in r.counts}
    assert found == {
        ("acme", "GET", "/v1/accounts/{account_id:path}", 200): 2,
        ("acme", "GET", "/v1/accounts/{account_id:path}", 404): 1,
        ("", "GET", "/v1/accounts/{account_id:path}", 401): 1,
        ("", "GET", "other", 404): 1,
    }
