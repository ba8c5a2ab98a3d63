"""The ledger in memory keeps the promises of the real Caller and Finder, and tells what a test asks of it."""

from __future__ import annotations

import asyncio
from datetime import date

import pytest

from clearline.gateway.twin import START_MS
from schemas.errors import BadInputError, PartUnavailableError
from schemas.records import OpenAccount
from streams.calls import Calls
from streams.topics import DAY_MS
from tests.gateway import FUNDS, Gate
from tests.gateway_contract import CHECKS, Subject


def subject() -> tuple[Gate, Subject]:
    gate = Gate()
    gate.ledger.open("zeta:w:b")
    found = Subject(gate.ledger, gate.ledger, START_MS // DAY_MS)
    gate.ledger.calls = Calls(found.keep)
    return gate, found


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_contract(check):
    _, found = subject()
    asyncio.run(check(found))


def test_it_is_the_same_each_time():
    def journal() -> list[bytes]:
        gate, s = subject()
        s.name = "same"

        async def some() -> None:
            await s.caller.call(s.pay("a"))
            await s.caller.call(s.send("b"))

        asyncio.run(some())
        return [r.chain for r in gate.ledger.journal]

    assert journal() == journal()


def test_what_is_held_paused_or_down():
    gate, s = subject()

    async def run() -> None:
        gate.ledger.held = True
        called = await s.caller.call(s.send("a"), 0.01)
        assert called.reply is None
        found = await s.finder.at(*called.places[0])
        assert found is not None and found.record.outcome == "applied"
        gate.ledger.release()
        found = await s.finder.at(*called.places[0])
        assert found is not None and found.record.outcome == "settled"
        gate.ledger.paused = True
        called = await s.caller.call(s.pay("b"), 0.01)
        assert called.reply is None and await s.finder.at(*called.places[0]) is None
        gate.ledger.resume()
        assert await s.finder.at(*called.places[0]) is not None
        for name, effects in (("down", 0), ("lossy", 1)):
            setattr(gate.ledger, name, True)
            with pytest.raises(PartUnavailableError):
                await s.caller.call(s.pay(name), 1)
            setattr(gate.ledger, name, False)
            assert len(gate.ledger.outcomes_of("acme", f"{s.name}-{name}")) == effects

    asyncio.run(run())


def test_the_ground_is_told_and_what_cannot_be_is_said():
    gate = Gate()
    ledger = gate.ledger
    assert sorted(ledger.partners()) == ["acme", "acme/shop", "zeta"]
    assert sorted(ledger.accounts()) == ["acme/shop:w:till", "acme:w:a", "acme:w:b", "zeta:w:a"]
    assert list(ledger.products()) == ["wallet"]
    assert gate.available("zeta:w:a") == FUNDS
    assert ledger.today() == date(2026, 11, 22).isoformat()
    with pytest.raises(BadInputError, match="OpenAccount was rejected: account_exists"):
        ledger.must(OpenAccount("bank", "again", "acme:w:a", "liability", "CNY", 0))
    assert sum(ledger.ends().values()) == len(ledger.journal)
