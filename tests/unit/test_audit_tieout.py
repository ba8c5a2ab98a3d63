"""The tie-out on worlds in memory: equal on a right one, and what differs is named down to the transaction."""

from __future__ import annotations

from functools import cache

import msgspec
import pytest

from clearline.audit.tieout import TieOut, tie_out
from clearline.audit.views import STATE
from schemas.records import AccountState
from tests.faults.memory_world import MemoryWorld, build_world


@cache
def _one() -> MemoryWorld:
    return build_world(5, 500)


@pytest.fixture
def world() -> MemoryWorld:
    return _one().clone()


def tie(w: MemoryWorld) -> TieOut:
    return tie_out("live", w.log, w.codec.decode, w.entries, w.balances, catch_up_s=0.0)


def test_a_right_world_ties_out(world: MemoryWorld) -> None:
    found = tie(world)
    assert found.ok, found.lines()
    assert found.to_dict() == {"kafka": "equal", "clickhouse": "equal", "redis": "equal"}
    assert found.records == sum(len(world.records(p)) for p in range(2))
    assert all(t.debits == t.credits > 0 for t in found.totals)
    assert "tie out" in found.lines()[-1]


def test_a_lost_row_is_named_with_its_account_and_transaction(world: MemoryWorld) -> None:
    lost = world.entries.posting_rows[0].pop(9)
    record = next(r for r in world.records(0) if r.source_offset == lost.source_offset)
    found = tie(world)
    assert not found.ok
    told = " ".join(found.differences["clickhouse"])
    assert lost.currency in told
    assert lost.account_id in told
    assert record.idempotency_key in told
    assert found.to_dict()["redis"] == "equal"


def test_a_doubled_row_is_named(world: MemoryWorld) -> None:
    rows = world.entries.posting_rows[0]
    rows.append(rows[9])
    assert any(rows[9].account_id in d for d in tie(world).differences["clickhouse"])


def test_a_row_that_was_never_journaled_is_named(world: MemoryWorld) -> None:
    rows = world.entries.posting_rows[0]
    account = sorted({r.account_id for r in rows})[0]
    dead = min(set(range(200)) - {r.source_offset for r in world.records(0)})
    rows.append(rows[0]._replace(account_id=account, source_offset=dead))
    assert any("never journaled" in d for d in tie(world).differences["clickhouse"])


def test_a_store_that_is_behind_differs_when_it_does_not_catch_up(world: MemoryWorld) -> None:
    world.project(0, up_to=20)
    found = tie(world)
    assert any("outcomes are stored below offset" in d for d in found.differences["clickhouse"])
    assert any("stands at offset" in d for d in found.differences["redis"])


def test_balances_that_differ_are_named(world: MemoryWorld) -> None:
    rows = world.balances.rows[1]
    altered, lost, *_ = list(rows)
    rows[altered] = rows[altered]._replace(credits_posted=1)
    del rows[lost]
    rows["ghost:x"] = rows[altered]
    told = tie(world).differences["redis"]
    assert len(told) == 3
    assert all(any(a in d for d in told) for a in (altered, lost, "ghost:x"))


def test_a_ledger_that_does_not_balance_is_named(world: MemoryWorld) -> None:
    rows = world.log.topic(STATE, 0)
    i = max(i for i, r in enumerate(rows) if r.value and isinstance(world.codec.decode(r.value), AccountState))
    row = world.codec.decode(rows[i].value)
    changed = msgspec.structs.replace(row, debits_posted=row.debits_posted + 7)
    rows[i] = rows[i]._replace(value=world.codec.encode(changed))
    found = tie(world)
    assert isinstance(found.said("kafka"), list)
    assert "DO NOT tie out" in found.lines()[-1]
