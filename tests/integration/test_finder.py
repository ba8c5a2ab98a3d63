"""The real Finder on a real broker and ClickHouse: by place and by id, with half of the journal stored and half not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from schemas.identity import command_id
from schemas.records import Command, OpenAccount, Transaction
from sinks import migrate
from sinks.ledger_sink import Arrival, LedgerSink
from streams.calls import Called, Found
from streams.finder import Finder
from streams.reader import read_to_end
from streams.topics import topic_ids
from tests.integration.conftest import World
from tests.integration.test_caller import WAIT_S, caller, payment
from tests.integration.test_crossing import opening
from tests.sink_servers import ClickHouseServer

pytestmark = pytest.mark.stack


def test_commands_are_found_by_place_and_by_id(world: World) -> None:
    world.start()
    server = ClickHouseServer(world.folder)
    server.start()
    try:
        asyncio.run(_find_everything(world, server))
    finally:
        server.stop()


async def _find_everything(world: World, server: ClickHouseServer) -> None:
    config = server.config(f"clearline_{world.settings.world.replace('-', '_')}")
    migrate.apply(config)
    journal = world.topics.journal
    topic = f"{journal}@{topic_ids(world.kafka, [journal])[journal]}"
    sent: list[tuple[Command, Called]] = []
    finder = Finder(world.kafka, config, world.topics, world.codec.decode, world.settings.partitions)
    async with caller(world) as a, finder:

        async def give(commands: Sequence[Command]) -> None:
            for command, called in zip(commands, await a.call_many(commands, WAIT_S), strict=True):
                assert isinstance(called, Called)
                sent.append((command, called))

        await give(opening())
        assert await finder.by_id(bytes(16)) is None, "nothing is stored: the whole journal was read"
        await give([*payments("stored"), OpenAccount("bank", "twice", "bank:clearing:CNY", "asset", "CNY")])
        sink = LedgerSink(config, topic, world.codec)
        await asyncio.to_thread(sink.take_over)
        stored = [Arrival(r.partition, r.offset, r.value) for r in read_to_end(world.kafka, journal)]
        await asyncio.to_thread(sink.write, stored)
        await give(payments("tail"))
        for command, called in [
            *sent[::12],
            *(x for x in sent if x[0].idempotency_key.endswith(("-big", "-no", "twice"))),
        ]:
            assert called.reply is not None
            wanted = (called.reply.outcome, called.reply.reason, command)
            for p in called.places:
                assert said(await finder.at(*p))[2] == command
            assert said(await finder.by_id(command_id(command.partner_id, command.idempotency_key))) == wanted
        first = next(called for command, called in sent if command.idempotency_key == "tail-1")
        (again,) = await a.call_many([payment("tail-1", 2)], WAIT_S)
        assert isinstance(again, Called)
        assert again.reply is not None
        assert again.reply.outcome == "repeated"
        found = await finder.at(again.reply.partition, again.reply.first_offset)
        assert said(found) == said(await finder.at(*again.places[0])) == ("settled", "", payment("tail-1", 2))
        assert found is not None
        assert found.record.source_offset == first.places[0].offset
        assert await finder.at(0, 10**9) is None
        assert await finder.by_id(bytes(16)) is None


def payments(name: str) -> list[Transaction]:
    """In one partition and between two, some refused."""
    own = [payment(f"{name}-{i}", 1 + i) for i in range(300)]
    between = [payment(f"{name}-x-{i}", 1 + i, "acme:w:a", "zeta:w:a") for i in range(20)]
    return [*own, *between, payment(f"{name}-big", 10**9), payment(f"{name}-no", 5, "acme:w:a", "zeta:w:b")]


def said(found: Found | None) -> tuple[str, str, Command | None]:
    assert found is not None
    return found.record.outcome, found.record.reason, found.command
