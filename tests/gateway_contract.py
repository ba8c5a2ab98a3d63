"""What a gateway relies on of a Caller and a Finder: checks that the twin in memory and the real ones both pass.

The ground is that of `tests.gateway` and of the integration tests: acme and zeta in different partitions, each with
wallets `w:a` and `w:b`, funds on acme's, the wallet on the shelf.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from clearline.gateway.parts import Caller, Finder
from schemas.identity import command_id, partition_of, payload_digest
from schemas.records import Command, OpenAccount, Transaction
from streams.calls import Called, Place, place_of

WAIT_S = 120.0
PARTITIONS = 4


@dataclass
class Subject:
    """A caller and a finder over one ledger, and what the caller told whoever keeps outcomes."""

    caller: Caller
    finder: Finder
    day: int  # today, in days since 1970
    kept: list[tuple[Command, Called]] = field(default_factory=list)
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def keep(self, command: Command, called: Called) -> None:
        self.kept.append((command, called))

    def pay(self, key: str, amount: int = 3, **more: Any) -> Transaction:
        accounts = {"payer": "acme:w:a", "payee": "acme:w:b"}
        fields: dict[str, Any] = {"operation": "transfer", "accounts": accounts, "value_date": self.day, **more}
        return Transaction(
            partner_id="acme", idempotency_key=f"{self.name}-{key}", product="wallet", amount=amount, currency="CNY",
            postings=(), **fields,
        )  # fmt: skip

    def send(self, key: str, amount: int = 3) -> Transaction:
        accounts = {"payer": "acme:w:a", "recipient": "zeta:w:a"}
        return self.pay(key, amount, operation="send", accounts=accounts)


def id_of(command: Command) -> bytes:
    return command_id(command.partner_id, command.idempotency_key)


async def an_outcome_comes_to_its_call(s: Subject) -> None:
    for command, outcome in ((s.pay("a"), "settled"), (s.send("b"), "settled"), (s.pay("c", 10**12), "rejected")):
        called = await s.caller.call(command, WAIT_S)
        (place,) = called.places
        assert called.reply is not None
        assert (called.reply.outcome, place_of(called.reply)) == (outcome, place)
        assert place.partition == partition_of("acme", PARTITIONS)
        assert called.reply.command_id == id_of(command)
        assert called.reply.product_version == (1 if outcome == "settled" else 0)


async def without_a_wait_it_is_kept_all_the_same(s: Subject) -> None:
    command = s.pay("a")
    called = await s.caller.call(command)
    while not any(c is command for c, _ in s.kept):
        await asyncio.sleep(0.01)
    kept = [k for c, k in s.kept if c is command]
    assert [k.places for k in kept] == [called.places]
    assert kept[0].reply is not None and kept[0].reply.outcome == "settled"


async def every_call_is_kept_once_also_a_repeat(s: Subject) -> None:
    first, again, other = s.pay("a"), s.pay("a"), s.pay("a", 4)
    answers = [await s.caller.call(c, WAIT_S) for c in (first, again, other)]
    mine = [(c, k) for c, k in s.kept if c in (first, other)]
    assert [k for _, k in mine] == answers
    assert [c is made for (c, _), made in zip(mine, (first, again, other), strict=True)] == [True] * 3


async def a_repeat_points_to_the_first(s: Subject) -> None:
    for command in (s.pay("a"), s.send("b"), s.pay("c", 10**12)):
        first = await s.caller.call(command, WAIT_S)
        again = await s.caller.call(command, WAIT_S)
        assert again.reply is not None
        assert again.reply.outcome == "repeated"
        assert Place(again.reply.partition, again.reply.first_offset) == first.places[0]
        assert again.places[0] != first.places[0]
        assert place_of(again.reply) == again.places[0]


async def another_payload_is_a_conflict_that_points_to_the_first(s: Subject) -> None:
    first = await s.caller.call(s.pay("a"), WAIT_S)
    other = await s.caller.call(s.pay("a", 4), WAIT_S)
    assert other.reply is not None
    assert (other.reply.outcome, other.reply.reason) == ("rejected", "idempotency_conflict")
    assert Place(other.reply.partition, other.reply.first_offset) == first.places[0]


async def many_are_answered_in_their_order(s: Subject) -> None:
    commands = [s.pay("a"), s.pay("b", 10**12), s.pay("a"), s.send("c"), s.pay("a", 4)]
    answers = await s.caller.call_many(commands, WAIT_S)
    called = [a for a in answers if isinstance(a, Called)]
    assert [c.reply.outcome for c in called if c.reply is not None] == [
        "settled", "rejected", "repeated", "settled", "rejected",
    ]  # fmt: skip
    offsets = [c.places[0].offset for c in called]
    assert offsets == sorted(offsets)
    assert await s.caller.call_many([], WAIT_S) == []


async def what_every_partition_must_know_goes_to_each(s: Subject) -> None:
    command = OpenAccount("bank", f"{s.name}-open", f"bank:{s.name}:CNY", "asset", "CNY", None)
    called = await s.caller.call(command, WAIT_S)
    assert [p.partition for p in called.places] == list(range(PARTITIONS))
    assert called.reply is not None
    assert (called.reply.outcome, called.reply.partition) == ("applied", 0)


async def a_command_is_found_by_its_place_and_by_its_id(s: Subject) -> None:
    cases = ((s.pay("a"), "settled"), (s.send("b"), "settled"), (s.pay("c", 10**12), "rejected"))
    for command, outcome in cases:
        called = await s.caller.call(command, WAIT_S)
        reply, place = called.reply, called.places[0]
        assert reply is not None
        for found in (await s.finder.at(*place), await s.finder.by_id(id_of(command))):
            assert found is not None
            assert found.command == command
            r = found.record
            assert (r.outcome, r.reason, r.sequence, r.booked_at) == (
                outcome, reply.reason, reply.sequence, reply.booked_at,
            )  # fmt: skip
            assert (r.command_id, r.payload_digest) == (id_of(command), payload_digest(command))
            assert r.product_version == reply.product_version
            assert r.detail == reply.detail


async def a_repeat_and_a_conflict_do_not_hide_the_first(s: Subject) -> None:
    command = s.send("a")
    first = await s.caller.call(command, WAIT_S)
    again = await s.caller.call(command, WAIT_S)
    other = await s.caller.call(s.send("a", 4), WAIT_S)
    by_id = await s.finder.by_id(id_of(command))
    assert by_id is not None
    assert by_id == await s.finder.at(*first.places[0]) == await s.finder.at(*again.places[0])
    conflict = await s.finder.at(*other.places[0])
    assert conflict is not None
    assert conflict.record.reason == "idempotency_conflict"


async def what_is_nowhere_is_not_found(s: Subject) -> None:
    assert await s.finder.by_id(b"\0" * 16) is None
    assert await s.finder.waiting(0, b"\0" * 16) is None
    command = s.pay("a")
    called = await s.caller.call(command, WAIT_S)
    assert await s.finder.waiting(called.places[0].partition, id_of(command)) is None, "it is settled"
    assert await s.finder.at(called.places[0].partition, called.places[0].offset + 1_000_000) is None


CHECKS: list[Callable[[Subject], Awaitable[None]]] = [
    an_outcome_comes_to_its_call, without_a_wait_it_is_kept_all_the_same, every_call_is_kept_once_also_a_repeat,
    a_repeat_points_to_the_first, another_payload_is_a_conflict_that_points_to_the_first,
    many_are_answered_in_their_order, what_every_partition_must_know_goes_to_each,
    a_command_is_found_by_its_place_and_by_its_id, a_repeat_and_a_conflict_do_not_hide_the_first,
    what_is_nowhere_is_not_found,
]  # fmt: skip
