"""The agent's body on messages as a Kafka client gives them: what goes out, and what the state is then."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import pytest

from ledger.invariants import check_accounts
from ledger.keys import GENERATIONS, KeyIndex
from ledger.state import Draft, PartitionBase
from processors.agents import take
from processors.settlement import Batch, Outlets, Part, Settlement, merge
from schemas.codec import Codec
from schemas.errors import InvariantError, PartUnavailableError
from schemas.identity import partition_of
from schemas.records import (
    RECORDS,
    AccountState,
    AdmitPartner,
    CloseDay,
    JournalRecord,
    Limit,
    OpenAccount,
    PartitionState,
    PublishProduct,
    Record,
    Reply,
    SetAccountLimit,
    SetCalendar,
    SetLimit,
    Tick,
    Transaction,
)

CODEC = Codec({name: i + 1 for i, name in enumerate(RECORDS)})
DAY_MS = 86_400_000
NOON = 1_795_000_000_000
OUTLETS = Outlets("submitted", "journal", "state", "dead", "replies", partitions=1, reply_partitions=2)


@dataclass
class Message:
    raw: bytes | None
    at: int
    time: int = NOON
    head: list[tuple[str, bytes]] | None = None

    def value(self) -> bytes | None:
        return self.raw

    def key(self) -> bytes:
        return b"acme"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self.at

    def timestamp(self) -> tuple[int, int]:
        return 2, self.time

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self.head


@dataclass
class World:
    """One partition, and everything that its batches produced."""

    base: PartitionBase = field(default_factory=PartitionBase)
    keys: KeyIndex = field(default_factory=lambda: KeyIndex(30 * DAY_MS))
    out: list[tuple[str, Any, Any, int, dict[str, Any]]] = field(default_factory=list)
    asked: list[set[int]] = field(default_factory=list)
    offset: int = 0

    def __post_init__(self) -> None:
        def learn(ids: set[int]) -> set[int]:
            self.asked.append(ids)
            return ids

        self.settlement = Settlement(CODEC, OUTLETS, learn)

    def message(self, command: Record | bytes | None, **more: Any) -> Message:
        raw = CODEC.encode(command) if isinstance(command, Record) else command
        self.offset += 1
        return Message(raw, self.offset - 1, **more)

    def batch(self, messages: list[Message], under: Draft | None = None) -> Batch:
        def produce(topic: str, value: Any, key: Any, partition: int, **more: Any) -> None:
            self.out.append((topic, value, key, partition, more))

        draft = Draft(self.base, (under,) if under else ())
        batch = Batch({0: Part(messages, draft, self.keys)}, produce)  # type: ignore[arg-type]
        take(batch, self.settlement)
        if batch.error:
            raise batch.error
        return batch

    def settle(self, *commands: Record | bytes | None) -> list[JournalRecord]:
        before = len(self.out)
        merge(self.batch([self.message(c) for c in commands]))
        return [CODEC.decode(v) for t, v, *_ in self.out[before:] if t == "journal"]

    def of(self, topic: str) -> list[tuple[str, Any, Any, int, dict[str, Any]]]:
        return [o for o in self.out if o[0] == topic]


def transfer(key: str, amount: int = 100, payer: str = "acme:w:1", payee: str = "acme:w:2") -> Transaction:
    roles = {"payer": payer, "payee": payee}
    return Transaction("acme", key, "wallet", "transfer", amount, "CNY", roles, (), 20_000)


@pytest.fixture
def world() -> World:
    w = World()
    opened = w.settle(
        AdmitPartner("bank", "a", "acme"),
        OpenAccount("bank", "b", "bank:clearing:CNY", "asset", "CNY"),
        OpenAccount("acme", "o1", "acme:w:1", "liability", "CNY", 0),
        OpenAccount("acme", "o2", "acme:w:2", "liability", "CNY", 0),
        transfer("fund", 1_000, "bank:clearing:CNY"[:17], "acme:w:1"),
    )
    assert [r.outcome for r in opened] == ["applied"] * 4 + ["settled"]
    return w


def test_each_command_has_one_record_and_the_chain_holds(world: World) -> None:
    world.settle(transfer("t1"), transfer("t1"), transfer("t1", 200), transfer("t2", 10_000), transfer("t3"))
    values = [o[1] for o in world.of("journal")]
    records = [CODEC.decode(v) for v in values]
    assert [r.outcome for r in records[5:]] == ["settled", "repeated", "rejected", "rejected", "settled"]
    assert [r.reason for r in records[5:]] == ["", "", "idempotency_conflict", "insufficient_funds", ""]
    assert [r.sequence for r in records] == list(range(1, 11))
    assert records[6].first_offset == records[7].first_offset == records[5].source_offset
    chain = bytes(32)
    for value in values:
        chain = sha256(chain + value[5:-32]).digest()
        assert value[-32:] == chain
    assert world.base.head.chain == chain


def test_the_outcome_carries_the_time_of_its_command(world: World) -> None:
    assert all(o[4]["timestamp"] == NOON for o in world.of("journal"))


def test_state_is_written_once_for_each_account_that_changed(world: World) -> None:
    world.out.clear()
    world.settle(*[transfer(f"t{i}", 1) for i in range(50)], transfer("no", 10**9))
    states = [CODEC.decode(o[1]) for o in world.of("state")]
    assert sorted(s.account_id for s in states if isinstance(s, AccountState)) == ["acme:w:1", "acme:w:2"]
    head = states[-1]
    assert isinstance(head, PartitionState)
    assert (head.next_offset, head.received, head.settled, head.rejected) == (56, 56, 51, 1)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (None, "empty"),
        (b"hello", "not_framed"),
        (b"\0\0\0\x27\x0fabc", "unknown_schema"),
        (b"\0\0\0\0\x01\xff\xff\xff", "undecodable"),
        (b"\0" * 300_000, "too_large"),
        (CODEC.encode(PartitionState(0, 0, bytes(32), 0, 0, 0, 0, 0, 0, 0)), "contract"),
        (CODEC.encode(Transaction("", "k", "p", "transfer", 1, "CNY", {}, (), 0)), "contract"),
        (CODEC.encode(Transaction("acme", "", "p", "transfer", 1, "CNY", {}, (), 0)), "contract"),
        (CODEC.encode(Transaction("acme", "k" * 129, "p", "transfer", 1, "CNY", {}, (), 0)), "contract"),
        (CODEC.encode(Transaction("acme", "a\0b", "p", "transfer", 1, "CNY", {}, (), 0)), "contract"),
    ],
)
def test_what_cannot_be_taken_is_kept_and_the_rest_goes_on(world: World, raw: bytes | None, reason: str) -> None:
    (settled,) = world.settle(raw, transfer("after"))
    assert settled.outcome == "settled"
    ((_, value, key, partition, more),) = world.of("dead")
    headers = {k: v.decode() for k, v in more["headers"]}
    assert (value, key, partition) == (raw, b"acme", 0)
    assert headers["reason"] == reason
    assert headers["detail"]
    assert (headers["source_topic"], headers["source_offset"], headers["attempts"]) == ("submitted", "5", "1")
    assert world.base.head.dead == 1
    assert settled.sequence == 6


def test_a_command_in_a_foreign_partition_breaks_the_contract(world: World) -> None:
    two = Settlement(CODEC, Outlets("s", "journal", "state", "dead", "replies", 64, 0), lambda ids: ids)
    world.settlement = two
    world.settle(transfer("elsewhere"))
    assert dict(world.of("dead")[0][4]["headers"])["detail"].startswith(b"partition: commands of acme belong to")


def test_the_registry_is_asked_about_an_unknown_schema_and_may_not_answer(world: World) -> None:
    def silent(ids: set[int]) -> set[int]:
        raise PartUnavailableError("Schema registry", "nowhere")

    world.settle(b"\0\0\0\x27\x0fabc")
    assert world.asked == [{9999}]
    world.settlement = Settlement(CODEC, OUTLETS, silent)
    with pytest.raises(PartUnavailableError):
        world.batch([world.message(b"\0\0\0\x27\x0fabc")])


def test_a_schema_that_the_registry_knows_is_learnt(world: World) -> None:
    from schemas.codec import schema_text

    codec = Codec({name: i + 1 for i, name in enumerate(RECORDS)})

    def learn(ids: set[int]) -> set[int]:
        for i in ids:
            codec.add_writer_schema(i, schema_text("Transaction"))
        return set()

    world.settlement = Settlement(codec, OUTLETS, learn)
    raw = CODEC.encode(transfer("newer"))
    (record,) = world.settle(b"\0" + (777).to_bytes(4, "big") + raw[5:])
    assert record.outcome == "settled"


def test_an_aborted_batch_leaves_nothing_behind(world: World) -> None:
    before = world.base.head.record(), {k: a.state() for k, a in world.base.accounts.items()}, len(world.keys)
    world.batch([world.message(transfer("lost"))])
    assert (world.base.head.record(), {k: a.state() for k, a in world.base.accounts.items()}, len(world.keys)) == before
    world.offset -= 1
    (again,) = world.settle(transfer("lost"))
    assert again.outcome == "settled"


def test_a_batch_may_stand_on_one_that_is_still_committing(world: World) -> None:
    first = world.batch([world.message(transfer("x", 600))])
    world.out.clear()
    second = world.batch([world.message(transfer("x", 600)), world.message(transfer("y", 600))], first.parts[0].draft)
    outcomes = [CODEC.decode(o[1]) for o in world.of("journal")]
    assert [(r.outcome, r.reason) for r in outcomes] == [("repeated", ""), ("rejected", "insufficient_funds")]
    merge(first)
    merge(second)
    assert world.base.accounts["acme:w:1"].available() == 400
    assert world.base.head.received == 8


def test_a_reply_goes_to_the_gateway_that_asked(world: World) -> None:
    def asked(where: bytes) -> Message:
        return world.message(transfer(where.decode() or "none"), head=[("reply_to", where)])

    merge(world.batch([asked(b"1"), asked(b"2"), asked(b"x"), asked(b"")]))
    ((_, value, _, partition, _),) = world.of("replies")
    reply = CODEC.decode(value)
    assert isinstance(reply, Reply)
    assert (partition, reply.outcome, reply.source_offset) == (1, "settled", 5)


def test_a_bug_in_a_check_moves_one_record_aside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ledger import book, operations

    real = operations.quick_transfer

    def buggy(accounts: Any, t: Transaction) -> Any:
        if t.idempotency_key == "bad":
            raise ZeroDivisionError("a bug")
        return real(accounts, t)

    monkeypatch.setattr(book, "quick_transfer", buggy)
    (good,) = world.settle(transfer("bad"), transfer("good"))
    assert good.outcome == "settled"
    headers = dict(world.of("dead")[0][4]["headers"])
    assert headers["reason"] == b"internal"
    assert b"a bug" in headers["detail"]
    assert (world.base.head.received, world.base.head.dead, world.base.head.sequence) == (7, 1, 6)


def _elsewhere() -> str:
    """A root partner whose partition of four is not the first."""
    return next(f"p{i}" for i in range(100) if partition_of(f"p{i}", 4))


@pytest.mark.parametrize(
    ("command", "here"),
    [
        (Tick("bank", "t"), True),
        (CloseDay("bank", "d", 1), True),
        (SetCalendar("bank", "c", "bank", "UTC"), True),
        (SetCalendar("bank", "c", _elsewhere(), "UTC"), False),
        (SetLimit("bank", "l", "product", "wallet"), True),
        (SetLimit("bank", "l", "account", "bank:fees"), True),
        (SetLimit("bank", "l", "partner", f"{_elsewhere()}/shop"), False),
        (SetLimit("bank", "l", "account", f"{_elsewhere()}:w"), False),
        (SetLimit("bank", "l", "tribe", _elsewhere()), True),
        (PublishProduct("bank", "p", "wallet", 1, 0, "{}"), True),
    ],
)
def test_what_every_partition_must_know_is_taken_in_each_and_the_rest_only_where_it_belongs(
    command: Record, here: bool
) -> None:
    w = World()
    outlets = replace(OUTLETS, partitions=4)
    w.settlement = Settlement(CODEC, outlets, lambda ids: ids)
    w.batch([w.message(command)])
    assert len(w.of("dead")) == (not here)
    assert len(w.of("journal")) == here


def test_an_offset_that_comes_again_stops_the_partition(world: World) -> None:
    world.offset = 3
    with pytest.raises(InvariantError, match="offset 3 came again"):
        world.settle(transfer("old"))


def test_a_batch_is_taken_once(world: World) -> None:
    batch = world.batch([world.message(transfer("once"))])
    count = len(world.out)
    take(batch, world.settlement)
    assert len(world.out) == count


def test_keys_are_forgotten_after_the_window_and_not_before(world: World) -> None:
    m = world.message
    merge(world.batch([m(transfer("k")), m(transfer("k"), time=NOON + 30 * DAY_MS)]))
    merge(world.batch([m(transfer("k"), time=NOON + 40 * DAY_MS)]))
    outcomes = [CODEC.decode(o[1]).outcome for o in world.of("journal")][5:]
    assert outcomes == ["settled", "repeated", "settled"]


@pytest.mark.parametrize("cuts", [(6,), (3, 3), (1,) * 6])
def test_what_is_known_does_not_depend_on_where_a_batch_was_cut(world: World, cuts: tuple[int, ...]) -> None:
    """Two payments with one key and a refund, on both sides of the edge at which the first one is forgotten."""
    refund = Transaction("acme", "r", "wallet", "refund", 1, "CNY", {}, (), 20_000, original="k")
    edge = (NOON // world.keys.span_ms + GENERATIONS + 1) * world.keys.span_ms
    messages = [
        world.message(c, time=t)
        for c, t in (
            (transfer("k"), NOON), (transfer("k"), edge - 1), (refund, edge - 1), (transfer("x"), edge),
            (transfer("k", 7), edge), (refund, edge),
        )
    ]  # fmt: skip
    under: Batch | None = None
    for size in cuts:
        batch = world.batch(messages[:size], under.parts[0].draft if under else None)
        if under:
            merge(under)
        messages, under = messages[size:], batch
    outcomes = [CODEC.decode(o[1]).outcome for o in world.of("journal")][4:]
    assert outcomes[1:] == ["settled", "repeated", "settled", "settled", "settled", "repeated"]


def test_an_entry_that_does_not_balance_stops_its_partition(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ledger import book, operations

    def generous(accounts: Any, t: Transaction) -> Any:
        legs = operations.quick_transfer(accounts, t)
        assert legs is not None
        (payer, side, amount), payee = legs
        return [(payer, side, amount - 1), payee]

    monkeypatch.setattr(book, "quick_transfer", generous)
    with pytest.raises(InvariantError, match="acme k at offset 5 does not balance") as caught:
        world.settle(transfer("k"))
    assert caught.value.partition == 0
    assert world.base.head.next_offset == 5


def test_a_floor_that_was_broken_stops_its_partition(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ledger import operations

    monkeypatch.setattr(operations, "check_totals", lambda *_: None)
    with pytest.raises(InvariantError, match=r"acme:w:1 has -\d+ available, its limit is 0"):
        world.settle(transfer("k", 10**12))


def test_a_limit_that_was_broken_stops_its_partition(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ledger import limits

    limit = SetLimit("bank", "l", "partner", "acme", (Limit("day", "CNY", None, 10),))
    world.settle(limit, transfer("a", 10))

    def blind(*_: Any) -> None: ...

    monkeypatch.setattr(limits, "_refuse", blind)
    with pytest.raises(
        InvariantError, match=r"partner acme took .*amount=11.*, its limit is .*amount_max=10"
    ) as caught:
        world.settle(transfer("b", 1))
    assert caught.value.partition == 0


def test_limits_that_a_batch_lowers_are_not_broken_by_what_it_counted_before(world: World) -> None:
    def limit(key: str, most: int) -> SetLimit:
        return SetLimit("bank", key, "partner", "acme", (Limit("day", "CNY", None, most),))

    records = world.settle(limit("l1", 10), transfer("x", 9), limit("l2", 5), transfer("y", 1))
    assert [r.reason or r.outcome for r in records] == ["applied", "settled", "applied", "limit_exceeded"]


def test_a_floor_that_a_batch_raises_again_is_not_broken_by_what_was_lent_meanwhile(world: World) -> None:
    def floor(key: str, credit_limit: int) -> SetAccountLimit:
        return SetAccountLimit("bank", key, "acme:w:1", 0, credit_limit=credit_limit)

    balance = world.base.accounts["acme:w:1"].available()
    records = world.settle(floor("l1", 50), transfer("x", balance + 50), floor("l2", 0), transfer("y", 1))
    assert [r.reason or r.outcome for r in records] == ["applied", "settled", "applied", "insufficient_funds"]


def test_a_limit_set_above_the_balance_is_not_broken_by_it(world: World) -> None:
    (raised, paid) = world.settle(SetAccountLimit("bank", "l", "acme:w:2", 10**9), transfer("k"))
    assert (raised.outcome, paid.outcome) == ("applied", "settled")


def test_a_pending_counter_below_zero_stops_its_partition(world: World) -> None:
    draft = Draft(world.base)
    account = draft.accounts["acme:w:1"]
    account.debits_pending, account.offset = -1, 9
    with pytest.raises(InvariantError, match="has -1 and 0 pending"):
        check_accounts(draft)
