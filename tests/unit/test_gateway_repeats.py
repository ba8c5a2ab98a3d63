"""The table of docs/gateway.md, "Writes", row by row: one transfer whatever is tried how often, and equal answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

import httpx
import pytest

from clearline.gateway import writes
from clearline.gateway.outcomes import UnderWay
from clearline.gateway.writes import STALE_S
from schemas.errors import PartUnavailableError
from schemas.identity import command_id
from schemas.records import Command, OpenAccount
from streams.calls import Called
from streams.topics import DAY_MS
from tests.gateway import Gate, in_loop, keyed, pay, send

REPLAYED = "idempotent-replayed"


async def settled(answer: Awaitable[httpx.Response]) -> httpx.Response:
    found = await answer
    assert found.status_code == 201, found.text
    return found


@in_loop
async def test_after_the_outcome_the_same_payload_has_the_same_answer():
    gate = Gate()
    async with gate.client() as client:
        first = await settled(client.post("/v1/transactions", json=pay(), headers=keyed("k")))
        assert REPLAYED not in first.headers
        for wait in (None, 0, 5):
            again = await client.post("/v1/transactions", json=pay(), headers=keyed("k", wait))
            assert (again.status_code, again.content) == (201, first.content)
            assert again.headers[REPLAYED] == "true"
            assert again.headers["location"] == first.headers["location"]
        assert (await client.get(first.headers["location"])).content == first.content
    assert gate.records("k") == ["settled"]
    assert gate.available("acme:w:b") == 1_000_100


@in_loop
async def test_after_a_rejection_too():
    gate = Gate()
    async with gate.client() as client:
        first = await client.post("/v1/transactions", json=pay(10**9), headers=keyed("k"))
        assert first.status_code == 422
        assert first.headers["content-type"] == "application/problem+json"
        problem = first.json()
        assert problem["code"] == "insufficient_funds"
        assert problem["transaction"]["status"] == "rejected"
        assert problem["transaction"]["reason"] == "insufficient_funds"
        assert problem["instance"] == problem["transaction"]["links"]["self"]
        again = await client.post("/v1/transactions", json=pay(10**9), headers=keyed("k"))
        assert (again.status_code, again.content, again.headers[REPLAYED]) == (422, first.content, "true")
        gate.other_gateway()
        other = await client.post("/v1/transactions", json=pay(10**9), headers=keyed("k"))
        assert (other.status_code, other.content, other.headers[REPLAYED]) == (422, first.content, "true")
        found = await client.get(problem["instance"])
        assert (found.status_code, found.json()) == (200, problem["transaction"])


@pytest.mark.parametrize("redis", [True, False], ids=["redis", "journal"])
@pytest.mark.parametrize("body", [pay(reference="r"), send(reference="r"), pay(10**9)], ids=["here", "crossing", "no"])
def test_another_gateway_gives_the_same_bytes(body, redis):
    @in_loop
    async def run():
        gate = Gate()
        async with gate.client() as client:
            first = await client.post("/v1/transactions", json=body, headers=keyed("k"))
            await gate.parts.outcomes.flush()
            gate.other_gateway()
            if not redis:
                gate.parts.gate.outcomes.clear()  # type: ignore[attr-defined]
            again = await client.post("/v1/transactions", json=body, headers=keyed("k"))
            assert (again.status_code, again.content) == (first.status_code, first.content)
            assert again.headers[REPLAYED] == "true"
            gate.other_gateway()
            if not redis:
                gate.parts.gate.outcomes.clear()  # type: ignore[attr-defined]
            location = f"/v1/transactions/{command_id('acme', 'k').hex()}"
            found = await client.get(location)
            document = first.json().get("transaction", first.json())
            assert found.json() == document
        assert gate.records("k")[0 if body["operation"] == "transfer" else 1] in ("settled", "rejected")

    run()


@in_loop
async def test_while_it_is_under_way_a_try_waits_for_the_first_one():
    gate = Gate()
    gate.ledger.paused = True
    async with gate.client() as client:
        first = asyncio.create_task(client.post("/v1/transactions", json=pay(), headers=keyed("k", 20)))
        while not gate.parts.outcomes.under_way:
            await asyncio.sleep(0)
        tries = [
            asyncio.create_task(client.post("/v1/transactions", json=pay(), headers=keyed("k", 20))) for _ in range(3)
        ]
        now = await client.post("/v1/transactions", json=pay(), headers=keyed("k", None))
        assert (now.status_code, now.json()["status"], now.headers[REPLAYED]) == (202, "pending", "true")
        assert now.headers["retry-after"] == "1"
        gate.ledger.resume()
        answers = await asyncio.gather(first, *tries)
        assert {a.content for a in answers} == {answers[0].content}
        assert [a.status_code for a in answers] == [201] * 4
        assert [a.headers.get(REPLAYED) for a in answers] == [None, "true", "true", "true"]
    assert gate.records("k") == ["settled"]


@in_loop
async def test_between_partitions_it_is_pending_until_the_other_side_has_answered():
    gate = Gate()
    gate.ledger.held = True
    async with gate.client() as client:
        first = await client.post("/v1/transactions", json=send(), headers=keyed("k", 0))
        assert (first.status_code, first.json()["status"]) == (202, "pending")
        location = first.headers["location"]
        assert (await client.get(location)).json() == first.json()
        gate.other_gateway()
        # The ledger calls this a repeat, and its first outcome is not there yet.
        again = await client.post("/v1/transactions", json=send(), headers=keyed("k", 0))
        assert (again.status_code, again.headers.get(REPLAYED)) == (202, None)  # nobody waited for the ledger's word
        gate.other_gateway()
        waits = asyncio.create_task(client.post("/v1/transactions", json=send(), headers=keyed("k", 20)))
        while len(gate.records("k")) < 3:
            await asyncio.sleep(0)
        assert not waits.done()
        gate.ledger.release()
        done = await waits
        assert (done.status_code, done.headers[REPLAYED]) == (201, "true")
        assert done.json()["position"]["offset"] == first.json()["position"]["offset"]
        assert (await client.get(location)).content == done.content
    assert gate.records("k") == ["applied", "repeated", "repeated", "settled"]
    assert gate.available("zeta:w:a") == 1_000_100


@in_loop
async def test_a_try_that_waited_in_vain_is_202():
    gate = Gate()
    gate.ledger.held = True
    async with gate.client() as client:
        await client.post("/v1/transactions", json=send(), headers=keyed("k", 0))
        gate.other_gateway()
        again = await client.post("/v1/transactions", json=send(), headers=keyed("k", 1))
        assert (again.status_code, again.json()["status"], again.headers[REPLAYED]) == (202, "pending", "true")
        assert again.headers["preference-applied"] == "wait=1"


@pytest.mark.parametrize("wait", [None, 5])
def test_another_payload_under_the_key_is_refused(wait):
    @in_loop
    async def run():
        gate = Gate()
        async with gate.client() as client:
            first = await settled(client.post("/v1/transactions", json=pay(), headers=keyed("k")))
            changes = ({"amount": 101}, {"reference": "x"}, {"value_date": "2026-11-20"}, {"metadata": {"a": "b"}})
            for forget in (lambda: None, gate.other_gateway):
                forget()
                for change in changes:
                    answer = await client.post("/v1/transactions", json=pay() | change, headers=keyed("k", wait))
                    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_conflict"), change
                    assert "transaction" not in answer.json()
            assert (await client.get(first.headers["location"])).content == first.content
        assert gate.available("acme:w:b") == 1_000_100

    run()


@in_loop
async def test_another_payload_while_the_first_is_under_way_waits_for_the_ledgers_word():
    gate = Gate()
    gate.ledger.paused = True
    async with gate.client() as client:
        first = await client.post("/v1/transactions", json=pay(), headers=keyed("k", None))
        assert first.status_code == 202
        other = asyncio.create_task(client.post("/v1/transactions", json=pay(7), headers=keyed("k", None)))
        while len(gate.ledger.calls._open[command_id("acme", "k")]) < 2:
            await asyncio.sleep(0)
        gate.ledger.resume()
        answer = await other
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_conflict")
        found = await client.get(first.headers["location"])
        assert (found.json()["status"], found.json()["amount"]) == ("settled", 100)


@pytest.mark.parametrize("memory", [True, False], ids=["same gateway", "another gateway"])
@pytest.mark.parametrize("body", [pay(), send(), pay(10**9)], ids=["here", "crossing", "no"])
def test_a_retry_without_value_date_on_a_later_day_is_the_same_payload(body, memory):
    @in_loop
    async def run():
        gate = Gate()
        async with gate.client() as client:
            first = await client.post("/v1/transactions", json=body, headers=keyed("k"))
            document = first.json().get("transaction", first.json())
            assert document["value_date"] == "2026-11-22"
            gate.ledger.advance(DAY_MS * 2 // 3 if memory else 3 * DAY_MS)
            if not memory:
                gate.other_gateway()
                gate.parts.gate.outcomes.clear()  # type: ignore[attr-defined]
            again = await client.post("/v1/transactions", json=body, headers=keyed("k"))
            assert (again.status_code, again.content) == (first.status_code, first.content)
            assert again.headers[REPLAYED] == "true"
            named = await client.post(
                "/v1/transactions", json=body | {"value_date": gate.ledger.today()}, headers=keyed("k")
            )
            assert named.json()["code"] == "idempotency_conflict"
            same = await client.post("/v1/transactions", json=body | {"value_date": "2026-11-22"}, headers=keyed("k"))
            assert same.content == first.content
            changed = await client.post("/v1/transactions", json=body | {"amount": 1}, headers=keyed("k"))
            assert changed.json()["code"] == "idempotency_conflict"

    run()


@in_loop
async def test_a_lost_acknowledgement_is_503_and_its_retry_is_harmless():
    gate = Gate()
    gate.ledger.lossy = True
    async with gate.client() as client:
        first = await client.post("/v1/transactions", json=pay(), headers=keyed("k"))
        assert (first.status_code, first.json()["code"], first.headers["retry-after"]) == (503, "unavailable", "1")
        gate.ledger.lossy = False
        again = await client.post("/v1/transactions", json=pay(), headers=keyed("k"))
        assert (again.status_code, again.headers[REPLAYED]) == (201, "true")
        gate.ledger.down = True
        third = await client.post("/v1/transactions", json=pay(), headers=keyed("other"))
        assert third.status_code == 503
        known = await client.post("/v1/transactions", json=pay(), headers=keyed("k"))
        assert known.content == again.content, "what is final is answered without the broker"
    assert gate.records("k") == ["settled", "repeated"]
    assert gate.records("other") == []
    assert not gate.parts.outcomes.under_way


@in_loop
async def test_a_call_whose_reply_never_comes_is_asked_for_again():
    gate = Gate()
    async with gate.client() as client:
        gate.ledger.paused = True
        first = await client.post("/v1/transactions", json=pay(), headers=keyed("k", None))
        assert first.status_code == 202
        entry = gate.parts.outcomes.call_of(command_id("acme", "k"))
        assert isinstance(entry, UnderWay)
        gate.ledger.calls._open.clear()  # the reply will find nobody
        gate.ledger.resume()
        pending = await client.get(first.headers["location"])
        assert pending.json()["status"] == "pending"
        entry.since -= STALE_S
        found = await client.get(first.headers["location"])
        assert found.json()["status"] == "settled"
        again = await client.post("/v1/transactions", json=pay(), headers=keyed("k"))
        assert (again.status_code, again.content) == (201, found.content)
    assert gate.records("k") == ["settled"]


@in_loop
async def test_nobody_is_told_pending_before_the_broker_has_the_command():
    """A broker that is slow to acknowledge: the next tries wait for the first, however old it is."""
    gate = Gate()
    gate.ledger.paused = True
    held, own = asyncio.Event(), gate.parts.caller

    class Slow:
        under_way, following = 0, True

        async def call_many(self, commands: Sequence[Command], wait_s: float = 0.0) -> list[Called | Exception]:
            await held.wait()
            return await own.call_many(commands, wait_s)

    gate.parts.caller = Slow()  # type: ignore[assignment]
    cid = command_id("acme", "k")
    async with gate.client() as client:
        first = asyncio.create_task(client.post("/v1/transactions", json=pay(), headers=keyed("k", None)))
        while (entry := gate.parts.outcomes.call_of(cid)) is None:
            await asyncio.sleep(0)
        assert isinstance(entry, UnderWay)
        second = asyncio.create_task(client.post("/v1/transactions", json=pay(), headers=keyed("k", None)))
        entry.since -= STALE_S
        third = asyncio.create_task(client.post("/v1/transactions", json=pay(), headers=keyed("k", None)))
        for _ in range(200):
            await asyncio.sleep(0)
        assert not any(t.done() for t in (first, second, third))
        assert gate.parts.outcomes.call_of(cid) is entry
        held.set()
        answers = await asyncio.gather(first, second, third)
        assert [a.status_code for a in answers] == [202] * 3
        assert all(a.json()["position"] is not None for a in answers)
        gate.ledger.resume()
    assert gate.records("k") == ["settled"]


@in_loop
async def test_who_waits_for_a_call_that_is_forgotten_is_not_told_that_it_was_acknowledged():
    gate = Gate()
    outcomes = gate.parts.outcomes
    command = OpenAccount("acme", "k", "acme:w:x", "liability", "CNY", 0)
    older, newer = (UnderWay(command, b"", now_s) for now_s in (0.0, 9.0))
    outcomes.begin(b"k", older)
    outcomes.begin(b"k", newer)
    assert isinstance(older.acknowledged.result(), PartUnavailableError)
    assert older.done.result() is None
    assert outcomes.call_of(b"k") is newer and not newer.acknowledged.done()


@in_loop
async def test_100_tries_at_once_are_one_transfer_and_100_equal_answers():
    gate = Gate()
    async with gate.client() as client:
        answers = await asyncio.gather(
            *(client.post("/v1/transactions", json=pay(), headers=keyed("k", 20)) for _ in range(100))
        )
    assert {a.status_code for a in answers} == {201}
    assert len({a.content for a in answers}) == 1
    assert sum(REPLAYED not in a.headers for a in answers) <= 1
    assert gate.records("k").count("settled") == 1
    assert gate.available("acme:w:b") == 1_000_100


@in_loop
async def test_100_tries_at_once_over_two_gateways_too():
    gate = Gate()
    gate.ledger.paused = True
    async with gate.client() as client:

        async def tries(count: int) -> list[httpx.Response]:
            calls = (client.post("/v1/transactions", json=pay(), headers=keyed("k", 20)) for _ in range(count))
            return await asyncio.gather(*calls)

        one = asyncio.create_task(tries(50))
        while not len(gate.ledger.calls):
            await asyncio.sleep(0)
        first_outcomes, first_calls = gate.parts.outcomes, gate.ledger.calls
        gate.other_gateway()
        two = asyncio.create_task(tries(50))
        while not len(gate.ledger.calls):
            await asyncio.sleep(0)
        second = gate.ledger.calls

        class Both:
            """Replies go to whoever asked."""

            def replied(self, reply):
                first_calls.replied(reply)
                second.replied(reply)

        gate.ledger.calls = Both()  # type: ignore[assignment]
        gate.ledger.resume()
        answers = [*await one, *await two]
        assert first_outcomes is not gate.parts.outcomes
    assert {a.status_code for a in answers} == {201}
    assert len({a.content for a in answers}) == 1
    assert sum(REPLAYED not in a.headers for a in answers) == 1
    assert gate.records("k") == ["settled", "repeated"]


@in_loop
async def test_an_outcome_is_forgotten_no_later_than_the_ledger_forgets_its_key():
    gate = Gate(outcome_hours=720)
    days = gate.parts.settings.settlement.idempotency_days
    async with gate.client() as client:
        first = await settled(client.post("/v1/transactions", json=pay(), headers=keyed("k")))
        gate.ledger.advance(days * DAY_MS - 60_000)
        again = await client.post("/v1/transactions", json=pay(), headers=keyed("k"))
        assert again.content == first.content, "from memory"
        assert gate.records("k") == ["settled"]
        gate.ledger.advance(days // 2 * DAY_MS)  # the ledger drops keys by quarters of the window
        later = await settled(client.post("/v1/transactions", json=pay(), headers=keyed("k")))
        assert REPLAYED not in later.headers
        assert later.json()["position"] != first.json()["position"]
        assert (await client.get(first.headers["location"])).content == later.content
    assert gate.records("k") == ["settled", "settled"]


@in_loop
async def test_a_call_that_was_a_repeat_is_not_under_way_any_more():
    gate = Gate()
    async with gate.client() as client:
        await settled(client.post("/v1/transactions", json=pay(), headers=keyed("k")))
        for wait in (None, 5):
            for body in (pay(), pay(7)):
                gate.other_gateway()
                gate.parts.gate.outcomes.clear()  # type: ignore[attr-defined]
                await client.post("/v1/transactions", json=body, headers=keyed("k", wait))
                assert not gate.parts.outcomes.under_way, (wait, body)


@in_loop
async def test_who_joined_a_call_that_was_a_repeat_has_its_answer():
    gate = Gate()
    async with gate.client() as client:
        first = await settled(client.post("/v1/transactions", json=pay(), headers=keyed("k")))
        for body, status in ((pay(), 201), (pay(7), 422)):
            gate.other_gateway()
            gate.parts.gate.outcomes.clear()  # type: ignore[attr-defined]
            gate.ledger.paused = True
            tries = [
                asyncio.create_task(client.post("/v1/transactions", json=body, headers=keyed("k", 20)))
                for _ in range(3)
            ]
            while not len(gate.ledger.calls):
                await asyncio.sleep(0)
            gate.ledger.resume()
            answers = await asyncio.gather(*tries)
            assert [a.status_code for a in answers] == [status] * 3
            if status == 201:
                assert {a.content for a in answers} == {first.content}
            else:
                assert {a.json()["code"] for a in answers} == {"idempotency_conflict"}
    assert gate.records("k") == ["settled", "repeated", "rejected"]


@in_loop
async def test_a_search_of_the_journal_that_hangs_keeps_nobody_for_longer_than_he_waits(monkeypatch):
    gate = Gate()
    async with gate.client() as client:
        first = await settled(client.post("/v1/transactions", json=pay(), headers=keyed("k")))
        gate.other_gateway()
        gate.parts.gate.outcomes.clear()  # type: ignore[attr-defined]
        monkeypatch.setattr(writes, "LOOK_UP_S", 0.05)
        look, goes_on = gate.ledger.at, asyncio.Event()

        async def hangs(partition, offset):
            await goes_on.wait()
            return await look(partition, offset)

        monkeypatch.setattr(gate.ledger, "at", hangs)
        again = await client.post("/v1/transactions", json=pay(), headers=keyed("k", 1))
        assert again.status_code == 202
        assert again.headers[REPLAYED] == "true"
        assert again.json()["position"] == first.json()["position"] | {"sequence": None}
        goes_on.set()
        assert (await client.post("/v1/transactions", json=pay(), headers=keyed("k"))).content == first.content


@in_loop
async def test_what_no_worker_has_settled_yet_is_pending_at_every_gateway():
    gate = Gate()
    gate.ledger.paused = True
    async with gate.client() as client, gate.client("zeta") as other:
        first = await client.post("/v1/transactions", json=pay(), headers=keyed("k", None))
        location = first.headers["location"]
        entry = gate.parts.outcomes.call_of(command_id("acme", "k"))
        assert isinstance(entry, UnderWay)
        entry.since -= STALE_S
        for forget in (lambda: None, gate.other_gateway):
            forget()
            found = await client.get(location)
            assert (found.status_code, found.json()) == (200, first.json())
            assert (await other.get(location)).status_code == 404
        gate.ledger.resume()
        assert (await client.get(location)).json()["status"] == "settled"
