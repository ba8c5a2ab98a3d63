"""The settlement agent between partitions: what it writes where, who is answered when, and what it does not take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from clearline.lag import in_flight
from ledger.flights import under_way
from ledger.keys import KeyIndex
from ledger.state import Draft, PartitionBase
from processors.agents import take
from processors.settlement import Batch, Outlets, Part, Settlement, merge
from schemas.identity import command_id
from schemas.records import (
    AdmitPartner,
    Command,
    Crossing,
    JournalRecord,
    OpenAccount,
    Posting,
    Reply,
    Transaction,
)
from tests.crossing_world import pay
from tests.ledger_world import BOOKED_AT, CODEC

OUTLETS = Outlets("submitted", "journal", "state", "dead", "replies", partitions=2, reply_partitions=4)
ACME, ZETA = "acme:w:a", "zeta:w:a"


@dataclass(frozen=True)
class Message:
    raw: bytes
    at: int
    place: int
    name: bytes
    head: list[tuple[str, bytes]] | None

    def value(self) -> bytes:
        return self.raw

    def key(self) -> bytes:
        return self.name

    def partition(self) -> int:
        return self.place

    def offset(self) -> int:
        return self.at

    def timestamp(self) -> tuple[int, int]:
        return 2, BOOKED_AT + self.at

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self.head


@dataclass
class World:
    """Two partitions and a log for each, which only what is committed is appended to."""

    bases: list[PartitionBase] = field(default_factory=lambda: [PartitionBase(), PartitionBase()])
    keys: list[KeyIndex] = field(default_factory=lambda: [KeyIndex(10**10), KeyIndex(10**10)])
    logs: tuple[list[Message], list[Message]] = ((), ())  # type: ignore[assignment]
    next: list[int] = field(default_factory=lambda: [0, 0])
    out: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.logs = ([], [])
        self.settlement = Settlement(CODEC, OUTLETS, lambda ids: ids)

    def append(self, p: int, command: Command | bytes, key: bytes = b"?", reply_to: bytes = b"") -> None:
        raw = command if isinstance(command, bytes) else CODEC.encode(command)
        self.logs[p].append(Message(raw, len(self.logs[p]), p, key, [("reply_to", reply_to)] if reply_to else None))

    def settle(self, p: int, *, commits: bool = True) -> list[JournalRecord]:
        """One batch of all that waits in a partition."""
        made: list[tuple[str, Any, Any, int, dict[str, Any]]] = []
        waiting: list[Any] = self.logs[p][self.next[p] :]
        part = Part(waiting, Draft(self.bases[p]), self.keys[p])
        batch = Batch({p: part}, lambda t, v, k, q, **more: made.append((t, v, k, q, more)))
        take(batch, self.settlement)
        if batch.error:
            raise batch.error
        if not commits:
            return []
        merge(batch)
        self.next[p] += len(waiting)
        for topic, value, key, place, more in made:
            if topic == "submitted":
                assert "timestamp" not in more
                self.logs[place].append(Message(value, len(self.logs[place]), place, key, more["headers"]))
            else:
                known = CODEC.decode(value) if value and topic != "dead" else value
                self.out.setdefault(topic, []).append((known, key, place, more))
        return [CODEC.decode(v) for t, v, *_ in made if t == "journal"]

    def replies(self) -> list[Reply]:
        return [reply for reply, *_ in self.out.get("replies", [])]


@pytest.fixture
def world() -> World:
    w = World()
    for p, name in enumerate(("acme", "zeta")):
        for c in (
            OpenAccount("bank", f"clearing{p}", "bank:clearing:CNY", "asset", "CNY"), AdmitPartner("bank", name, name),
            OpenAccount("bank", f"{name}a", f"{name}:w:a", "liability", "CNY", 0),
            pay(f"fund-{name}", 1_000, "bank:clearing:CNY", f"{name}:w:a"),
        ):  # fmt: skip
            w.append(p, c)
        assert [r.outcome for r in w.settle(p)] == ["applied"] * 3 + ["settled"]
    return w


def test_each_step_is_written_to_the_other_partition_and_the_caller_is_answered_once(world: World) -> None:
    world.append(0, pay("p", 100, ACME, ZETA), b"acme", b"3")
    world.settle(0)
    (reserve,) = world.logs[1][world.next[1] :]
    step: Crossing = CODEC.decode(reserve.raw)
    assert (step.step, step.from_partition, step.to_partition, reserve.name) == ("reserve", 0, 1, b"zeta")
    assert reserve.head == [("reply_to", b"3")]
    assert world.replies() == []
    world.settle(1)
    (answer,) = world.logs[0][world.next[0] :]
    assert (CODEC.decode(answer.raw).step, answer.name, answer.head) == ("reserved", b"acme", [("reply_to", b"3")])
    assert world.replies() == []
    world.settle(0)
    world.settle(1)
    (reply,) = world.replies()
    assert (reply.command_id, reply.outcome, reply.partition) == (command_id("acme", "p"), "settled", 0)
    assert reply.first_offset == world.next[0] - 2
    assert [b.accounts[a].available() for b, a in zip(world.bases, (ACME, ZETA), strict=True)] == [900, 1_100]
    assert [b.in_flight for b in world.bases] == [0, 0]


def test_what_is_under_way_is_told_with_its_sums(world: World) -> None:
    def told() -> dict[str, Any] | None:
        roles = {
            f"worker-{p}": {"ready": {"in_flight": {
                "transactions": b.in_flight, "amounts": {c: list(x) for c, x in under_way(b.accounts).items()}
            }}} for p, b in enumerate(world.bases)
        }  # fmt: skip
        return in_flight({**roles, "sink-redis": {"ready": {}}, "gateway": {}})

    nothing = {"transactions": 0, "amounts": {}}
    assert told() == nothing
    world.append(0, pay("p", 100, ACME, ZETA), b"acme")
    world.append(0, pay("q", 30, ACME, ZETA), b"acme")
    world.settle(0)
    assert told() == {"transactions": 2, "amounts": {"CNY": {"set_aside": 130, "decided": 0}}}
    world.settle(1)
    assert told() == {"transactions": 2, "amounts": {"CNY": {"set_aside": 130, "decided": 0}}}
    world.settle(0)
    assert told() == {"transactions": 0, "amounts": {"CNY": {"set_aside": 0, "decided": 130}}}
    world.settle(1)
    assert told() == nothing
    assert in_flight({"gateway": {"ready": None}}) is None


def test_a_refusal_is_answered_to_the_caller_with_its_reason(world: World) -> None:
    world.append(0, pay("p", 100, ACME, "zeta:w:none"), b"acme", b"2")
    for p in (0, 1, 0):
        world.settle(p)
    (reply,) = world.replies()
    assert (reply.outcome, reply.reason, reply.detail["account"]) == ("rejected", "account_unknown", "zeta:w:none")
    assert world.bases[0].accounts[ACME].available() == 1_000


def test_a_repeat_in_flight_is_answered_at_once(world: World) -> None:
    world.append(0, pay("p", 100, ACME, ZETA), b"acme", b"1")
    world.append(0, pay("p", 100, ACME, ZETA), b"acme", b"2")
    world.settle(0)
    assert [r.outcome for r in world.replies()] == ["repeated"]


def test_no_header_but_who_waits_travels(world: World) -> None:
    """What an outsider put beside his command must not make a step too large for the log."""
    for waits, sent in ((b"2", [("reply_to", b"2")]), (b"9" * 1_000_000, []), (b"x", []), (None, [])):
        heavy: Any = [("trace", b"x" * 1_000_000), ("reply_to", waits)]
        raw = CODEC.encode(pay(f"p{world.next[0]}", 100, ACME, ZETA))
        world.logs[0].append(Message(raw, len(world.logs[0]), 0, b"acme", heavy))
        world.settle(0)
        assert world.logs[1][-1].head == sent


def test_an_aborted_batch_sends_nothing(world: World) -> None:
    world.append(0, pay("p", 100, ACME, ZETA), b"acme")
    world.settle(0, commits=False)
    assert (world.logs[1][world.next[1] :], world.bases[0].in_flight) == ([], 0)
    assert world.bases[0].accounts[ACME].available() == 1_000
    for p in (0, 1, 0, 1):
        world.settle(p)
    assert world.bases[1].accounts[ZETA].available() == 1_100


def test_the_deciding_answer_binds_no_key_and_the_transactions_own_stays(world: World) -> None:
    world.append(0, pay("p", 100, ACME, ZETA), b"acme")
    for p in (0, 1, 0, 1):
        world.settle(p)
    world.append(0, pay("p", 100, ACME, ZETA), b"acme")
    (repeat,) = world.settle(0)
    start = next(r for r, *_ in world.out["journal"] if r.idempotency_key == "p")
    assert (repeat.outcome, repeat.first_offset) == ("repeated", start.source_offset)


STEP = Crossing("bank", "k", "reserve", bytes(16), 1, 0, "zeta", "p", "wallet", 0, "transfer", 20_000,
                legs=(Posting(ACME, "credit", 1, "CNY"),))  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"to_partition": 1}, {"to_partition": 0, "from_partition": 0}, {"from_partition": 2}, {"from_partition": -1},
        {"step": "give"}, {"partner_id": "zeta"},
    ],
)  # fmt: skip
def test_a_step_that_breaks_the_contract_is_a_dead_letter(world: World, change: dict[str, Any]) -> None:
    world.append(0, msgspec.structs.replace(STEP, **change))
    assert world.settle(0) == []
    ((value, _, place, more),) = world.out["dead"]
    assert (value, place) == (world.logs[0][-1].raw, 0)
    assert dict(more["headers"])["reason"] == b"contract"


def test_a_step_may_be_larger_than_a_command(world: World) -> None:
    """A product may make a thousand legs of a short transaction; its steps must not be lost for that."""
    many = (Posting(ACME, "credit", 1, "CNY"),) * 1_000
    large = msgspec.structs.replace(STEP, legs=many, reference="r" * 300_000)
    assert len(CODEC.encode(large)) > OUTLETS.message_bytes_max
    world.append(0, large)
    (r,) = world.settle(0)
    assert (r.outcome, len(r.pending)) == ("applied", 1_001)
    asked = pay("p", 1, ACME, "acme:w:b")
    world.append(0, Transaction(**{**msgspec.structs.asdict(asked), "reference": "r" * 300_000}))
    assert world.settle(0) == []
    assert dict(world.out["dead"][0][3]["headers"])["reason"] == b"too_large"


def test_what_cannot_be_written_ends_the_batch_and_not_the_record(world: World) -> None:
    """A step that could not be queued is no reason to bury the command: the money would be set aside for ever."""
    world.append(0, pay("p", 100, ACME, ZETA), b"acme")

    def full(topic: str, *_: Any, **__: Any) -> None:
        if topic == "submitted":
            raise BufferError("queue full")

    batch = Batch({0: Part(list(world.logs[0][world.next[0] :]), Draft(world.bases[0]), world.keys[0])}, full)
    take(batch, world.settlement)
    assert isinstance(batch.error, BufferError)
