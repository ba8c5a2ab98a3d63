"""The end of `ledger.state` in a gateway's memory, on a real broker: what is kept, what is deleted, what is forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from schemas.errors import PartUnavailableError
from schemas.records import AccountState, HoldState, Limit, LimitState, PartitionState, PartnerState, Record
from streams.clients import KafkaConfig
from streams.state_rows import StateRows
from tests.integration.conftest import World
from tests.sink_servers import wait_for

pytestmark = pytest.mark.stack


class Writer:
    """Writes rows as a worker does."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._producer = Producer(world.kafka.producer())

    def put(self, key: str, row: Record | None, partition: int = 0) -> None:
        value = self._world.codec.encode(row) if row is not None else None
        self._producer.produce(self._world.topics.state, value, key.encode(), partition)

    def account(self, name: str, offset: int) -> None:
        state = AccountState(name, "liability", "CNY", 0, False, False, False, 0, 0, 0, 7, offset)
        self.put(f"a:{name}", state)

    def head(self, next_offset: int, partition: int = 0) -> None:
        """Where the partition stands, written last; and waits until the broker has everything."""
        self.put("meta", PartitionState(next_offset, 1, bytes(32), 0, 1, 1, 0, 0, 0, 0), partition)
        assert self._producer.flush(30) == 0


@pytest.fixture
def writer(world: World) -> Writer:
    return Writer(world)


@pytest.fixture
def rows(world: World, writer: Writer) -> Iterator[StateRows]:
    """What stood there before, and a reader of it that keeps three accounts."""
    for partner in ("acme/b", "acme", "acme/a", "acme-2", "zeta"):
        writer.put(f"p:{partner}", PartnerState(partner, partner, "live", 1))
    writer.put("p:other", PartnerState("other", "", "live", 1), 1)
    writer.put("l:partner:acme", LimitState("partner", "acme", (Limit("day", "", 5, None),), 2))
    writer.put("h:00", HoldState(bytes(16), bytes(8), "acme", "a", "b", "CNY", 1, 1, 0, 3, 3))
    for i in range(5):
        writer.account(f"acme:w:{i}", i)
    writer.head(9)
    found = StateRows(world.kafka, world.topics.state, world.codec, accounts_max=3)
    assert found.wait(60)
    yield found
    found.close()


def reached(rows: StateRows, next_offset: int) -> bool:
    head = rows.head(0)
    return head is not None and head.next_offset == next_offset


def test_rows_by_key_sorted_and_after_one(rows: StateRows) -> None:
    assert rows.ready
    assert list(rows.keys(0, "p:")) == ["p:acme", "p:acme-2", "p:acme/a", "p:acme/b", "p:zeta"]
    assert list(rows.keys(0, "p:acme/")) == ["p:acme/a", "p:acme/b"]
    assert list(rows.keys(0, "p:acme/", "p:acme/a")) == ["p:acme/b"]
    assert list(rows.keys(0, "p:acme/", "p:")) == ["p:acme/a", "p:acme/b"]
    assert list(rows.keys(0, "p:acme/", "p:zeta")) == list(rows.keys(3, "p:")) == list(rows.keys(0, "h:")) == []
    assert list(rows.keys(1, "p:")) == ["p:other"]
    assert rows.row(0, "p:acme/a") == PartnerState("acme/a", "acme/a", "live", 1)
    assert rows.row(1, "p:acme/a") is None and rows.row(7, "p:acme") is None and rows.head(1) is None


def test_what_changes_is_seen_and_what_is_deleted_is_gone(rows: StateRows, writer: Writer) -> None:
    assert isinstance(rows.row(0, "l:partner:acme"), LimitState)
    writer.put("l:partner:acme", None)
    writer.put("p:acme/0", PartnerState("acme/0", "", "live", 9))
    writer.put("p:acme/a", PartnerState("acme/a", "A", "suspended", 9))
    writer.head(12)
    wait_for("the rows", lambda: reached(rows, 12))
    assert rows.row(0, "l:partner:acme") is None and list(rows.keys(0, "l:")) == []
    assert list(rows.keys(0, "p:acme/")) == ["p:acme/0", "p:acme/a", "p:acme/b"]
    changed = rows.row(0, "p:acme/a")
    assert isinstance(changed, PartnerState) and changed.state == "suspended"


def test_only_the_accounts_that_changed_last_are_kept(rows: StateRows, writer: Writer) -> None:
    assert [i for i in range(5) if rows.account(f"acme:w:{i}") is not None] == [2, 3, 4]
    writer.account("acme:w:2", 10)
    writer.account("acme:w:9", 11)
    writer.head(12)
    wait_for("the rows", lambda: reached(rows, 12))
    kept = {i: found.source_offset for i in range(10) if (found := rows.account(f"acme:w:{i}")) is not None}
    assert kept == {2: 10, 4: 4, 9: 11}


def test_nothing_is_told_before_everything_is_in(world: World) -> None:
    """And nobody is made to believe that there is nothing when there is no broker."""
    nowhere = StateRows(KafkaConfig("127.0.0.1:1"), world.topics.state, world.codec)
    try:
        assert not nowhere.ready
        for ask in (
            lambda: nowhere.row(0, "p:acme"), lambda: list(nowhere.keys(0, "p:")), lambda: nowhere.account("a:b"),
            lambda: nowhere.head(0),
        ):  # fmt: skip
            with pytest.raises(PartUnavailableError, match="still being read"):
                ask()
    finally:
        nowhere.close()
