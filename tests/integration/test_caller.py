"""The real Caller on a real broker: settled, rejected, repeated, crossing and broadcast commands, several gateways on one
partition of `replies`, and a broker that goes away."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Producer

from clearline.config import load_settings
from clearline.stack import Stack
from schemas.codec import Codec
from schemas.errors import PartUnavailableError
from schemas.identity import command_id
from schemas.records import RECORDS, AdmitPartner, Command, OpenAccount, Reply, Transaction
from streams.caller import Caller
from streams.calls import Called, Place
from streams.clients import KafkaConfig
from streams.topics import Topics, create_topics
from tests.integration.conftest import World
from tests.integration.test_crossing import opening, transfer

pytestmark = pytest.mark.stack

WAIT_S = 120.0


def caller(world: World, slot: int = 0, kept: list[tuple[Command, Called]] | None = None) -> Caller:
    keep = (lambda command, called: kept.append((command, called))) if kept is not None else lambda _c, _d: None
    return Caller(world.kafka, world.topics, world.codec, world.settings.partitions, slot, kept=keep, acknowledge_s=30)


def payment(key: str, amount: int, payer: str = "acme:w:a", payee: str = "acme:w:b") -> Transaction:
    return transfer(key, amount, payer, payee)


async def outcomes(caller: Caller, commands: Sequence[Command]) -> list[tuple[str, str]]:
    found = await caller.call_many(commands, WAIT_S)
    assert not [f for f in found if isinstance(f, Exception)]
    replies = [f.reply for f in found if isinstance(f, Called)]
    return [(r.outcome, str(r.reason)) if r is not None else ("none", "") for r in replies]


def test_every_kind_of_outcome_comes_to_who_asked(world: World) -> None:
    world.start()
    kept: list[tuple[Command, Called]] = []

    async def run() -> None:
        async with caller(world, kept=kept) as a, caller(world, slot=4) as b, caller(world, slot=1) as c:
            opened = await a.call_many(opening(), WAIT_S)
            of_bank = opened[0]
            assert isinstance(of_bank, Called)
            assert [p.partition for p in of_bank.places] == [0, 1, 2, 3], "the bank's account is in every partition"
            assert {f.reply.outcome for f in opened if isinstance(f, Called) and f.reply} == {"applied", "settled"}
            assert len(kept) == len(opened)

            first = await a.call(payment("o-1", 5), WAIT_S)
            assert first.reply is not None
            assert (first.reply.outcome, first.reply.source_offset) == ("settled", first.places[0].offset)
            again = await b.call(payment("o-1", 5), WAIT_S)
            assert again.reply is not None
            assert (again.reply.outcome, again.reply.first_offset) == ("repeated", first.places[0].offset)
            other = await c.call(payment("o-1", 6), WAIT_S)
            assert other.reply is not None
            assert (other.reply.outcome, other.reply.reason) == ("rejected", "idempotency_conflict")

            assert await outcomes(a, [payment("big", 10**9), payment("ok", 7), payment("no", 1, payee="acme:w:x")]) == [
                ("rejected", "insufficient_funds"), ("settled", ""), ("rejected", "account_unknown"),
            ]  # fmt: skip
            assert await outcomes(
                a,
                [
                    OpenAccount("bank", "clearing-2", "bank:clearing:CNY", "asset", "CNY"),
                    AdmitPartner("bank", "admit-shop", "acme/shop"),
                ],
            ) == [("rejected", "account_exists"), ("applied", "")]  # fmt: skip

    asyncio.run(run())


def test_a_transaction_between_partitions_is_answered_once_with_the_last_word(world: World) -> None:
    world.start()
    kept: list[tuple[Command, Called]] = []

    async def run() -> None:
        async with caller(world, kept=kept) as a, caller(world, slot=4) as b:
            await a.call_many(opening(), WAIT_S)
            kept.clear()
            crossing = [payment(f"x-{i}", 1 + i, "acme:w:a", "zeta:w:a") for i in range(40)]
            refused = payment("refused", 3, "acme:w:a", "zeta:w:b")
            found = await asyncio.gather(
                outcomes(a, [*crossing, refused]), outcomes(b, crossing), outcomes(a, list(crossing))
            )
            counted = Counter(o for one in found for o, _ in one)
            assert counted == {"settled": 40, "rejected": 1, "repeated": 80}
            assert ("rejected", "credits_blocked") in [*found[0], *found[2]]
            assert a.under_way == b.under_way == 0
            assert len(kept) == 81
            for command, called in kept:
                assert called.reply is not None
                assert called.reply.command_id == command_id(command.partner_id, command.idempotency_key)

    asyncio.run(run())


def test_outcomes_are_kept_though_nobody_waits_any_more(world: World) -> None:
    kept: list[tuple[Command, Called]] = []

    async def run() -> None:
        async with caller(world, kept=kept) as a:
            at_once = await a.call_many(opening())
            assert all(isinstance(f, Called) and f.reply is None and f.places for f in at_once)
            waits = asyncio.create_task(a.call(payment("o-1", 5), WAIT_S))
            while not a.under_way > len(at_once):
                await asyncio.sleep(0)
            late = await a.call(payment("o-2", 5), 0.001)
            assert late.reply is None
            waits.cancel()
            world.start()
            async with asyncio.timeout(WAIT_S):
                while a.under_way:
                    await asyncio.sleep(0.01)

    asyncio.run(run())
    assert {c.idempotency_key for c, _ in kept} >= {"o-1", "o-2", "clearing", "fund-acme"}
    assert {called.reply.outcome for _, called in kept if called.reply} == {"applied", "settled"}


def test_a_broker_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    """What is not acknowledged is told within the time that the broker has, and both ends survive its restart. Replies
    are written by the test: no worker is needed to see whether they are read."""
    settings = load_settings(data_dir=tmp_path / "stack", world="away", partitions=2)
    with Stack(settings, parts=("kafka",)) as stack:
        stack.start()
        kafka, topics = KafkaConfig(stack.addresses().kafka_bootstrap), Topics("away")
        create_topics(kafka, topics, 2)
        codec = Codec({name: i for i, name in enumerate(RECORDS)})

        def settle(t: Transaction, place: Place) -> None:
            cid = command_id(t.partner_id, t.idempotency_key)
            r = Reply(cid, t.partner_id, t.idempotency_key, "settled", "", {}, place.partition, 1, place.offset, -1, 0)
            producer = Producer(kafka.producer())
            producer.produce(topics.replies, codec.encode(r), cid, 1)
            assert producer.flush(30) == 0

        async def whole(a: Caller, key: str) -> None:
            """A call, tried until it is acknowledged, and its outcome."""
            t = payment(key, 5)
            async with asyncio.timeout(WAIT_S):
                while True:
                    try:
                        called = await a.call(t)
                        break
                    except PartUnavailableError:
                        continue
                before = a.under_way
                await asyncio.to_thread(settle, t, called.places[0])
                while a.under_way == before:
                    await asyncio.sleep(0.005)

        async def run() -> None:
            async with Caller(kafka, topics, codec, 2, 1, acknowledge_s=1.0) as a:
                await whole(a, "o-1")
                broker = psutil.Process(stack.pid("kafka"))
                broker.suspend()
                began = time.monotonic()
                with pytest.raises(PartUnavailableError, match="Kafka at"):
                    await a.call(payment("o-2", 5), 600.0)
                assert time.monotonic() - began < 300, "not as long as the caller would wait for an outcome"
                assert a.under_way == 0
                broker.kill()
                await whole(a, "o-3")
                await whole(a, "o-4")

        asyncio.run(run())
