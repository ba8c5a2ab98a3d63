"""What the balances in Redis promise, against a real Valkey: an older offset never wins, and what is lost is noticed."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from clearline.embedded.valkey import find_server
from schemas.errors import InvariantError, PartUnavailableError
from schemas.records import AccountState, PartitionState, PartnerState
from sinks.balances import (
    Balances,
    Coalescer,
    RedisConfig,
    StateArrival,
    decode_shard,
    encode_shard,
    read_balance,
)
from sinks.look import look_redis
from tests.journals import local_codec
from tests.sink_servers import wait_for

pytestmark = pytest.mark.stack

TOPIC = "test.ledger.state@one"


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("valkey")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen(
        [find_server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(port=port)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False

    wait_for("Valkey", answers)
    client.close()
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait(10)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def config(valkey: str) -> RedisConfig:
    return RedisConfig(valkey, f"t{uuid.uuid4().hex[:8]}")


@pytest.fixture
def balances(config: RedisConfig) -> Iterator[Balances]:
    b = Balances(config)
    yield b
    b.close()


def state(account_id: str = "acme:wallet:alice", offset: int = 1, credits: int = 100, **more: object) -> AccountState:
    values: dict[str, object] = {
        "account_id": account_id, "type": "liability", "currency": "CNY", "min_available": None, "debits_blocked": False,
        "credits_blocked": False, "closed": False, "debits_pending": 0, "debits_posted": 0, "credits_pending": 0,
        "credits_posted": credits, "source_offset": offset,
    }  # fmt: skip
    return AccountState(**(values | more))  # type: ignore[arg-type]


def put(b: Balances, *states: AccountState, partition: int = 0, start: int = 0, end: int = 10) -> int:
    values = {s.account_id: encode_shard(s) for s in states}
    return b.apply(partition, TOPIC, start, end, end * 2, values)


def test_shards_keep_every_field() -> None:
    for s in (
        state(),
        state(offset=2**40, credits=10**38 - 1, debits_posted=7, debits_pending=8, credits_pending=9),
        state(min_available=-5, debits_blocked=True, closed=True),
        state(min_available=0, credits_blocked=True, type="asset"),
        state(min_available=0, frozen=True, credit_limit=2**63 - 1),
    ):
        x = decode_shard(encode_shard(s))
        assert {n: getattr(x, n) for n in x._fields} == {n: getattr(s, n) for n in x._fields}
    assert decode_shard("1 0 0 0 5 CNY liability 0 d").credit_limit == 0  # as it was written before there were any


def test_reads_what_was_written(balances: Balances, config: RedisConfig) -> None:
    balances.begin(0, TOPIC, 10)
    assert balances.balance("acme:wallet:alice") is None
    assert put(balances, state(credits=500, debits_posted=200, debits_pending=50, min_available=-10)) == 1
    found = read_balance(config, "acme:wallet:alice")
    assert found is not None
    assert (found.credits_posted, found.debits_posted, found.available, found.min_available) == (500, 200, 250, -10)
    assert found.offsets == {0: 1}
    marker = balances.marker([0, 1])
    assert set(marker) == {0}
    assert (marker[0].next_offset, marker[0].source_next, marker[0].complete) == (10, 20, True)
    assert balances.markers() == marker


def test_an_account_of_the_bank_is_summed_over_its_shards(balances: Balances) -> None:
    for p in range(3):
        balances.begin(p, TOPIC, 10)
        shard = state("bank:clearing:CNY", offset=p + 5, credits=10**p, debits_posted=1000, type="asset")
        assert put(balances, shard, partition=p) == 1
    found = balances.balance("bank:clearing:CNY")
    assert found is not None
    assert (found.credits_posted, found.debits_posted, found.available) == (111, 3000, 2889)
    assert found.offsets == {0: 5, 1: 6, 2: 7}
    assert set(balances.shards(1)) == {"bank:clearing:CNY"}


def test_an_older_offset_never_overwrites_a_newer(balances: Balances) -> None:
    balances.begin(0, TOPIC, 0)
    put(balances, state(offset=900, credits=9), end=50)
    assert put(balances, state(offset=899, credits=8), end=40) == 0
    assert put(balances, state(offset=99, credits=7), end=40) == 0, "numbers are compared, not texts"
    found = balances.balance("acme:wallet:alice")
    assert found is not None and found.credits_posted == 9
    assert balances.marker([0])[0].next_offset == 50, "a marker does not go back"
    assert put(balances, state(offset=1000, credits=10), end=60) == 1


def test_any_order_of_stretches_ends_at_the_newest(balances: Balances) -> None:
    dice = random.Random(3)
    balances.begin(0, TOPIC, 0)
    newest: dict[str, int] = {}
    stretches = []
    for i in range(60):
        states = [state(f"acme:w:{dice.randrange(40)}", offset=i, credits=i) for _ in range(30)]
        stretches.append(states)
        newest |= {s.account_id: i for s in states}
    for states in [*dice.sample(stretches, 60), *dice.sample(stretches, 30)]:
        put(balances, *states)
    assert {a: s.credits_posted for a, s in balances.shards(0).items()} == newest


def test_more_accounts_than_one_script_takes(balances: Balances) -> None:
    balances.begin(0, TOPIC, 0)
    many = [state(f"acme:w:{i}", offset=i, credits=i) for i in range(1234)]
    assert put(balances, *many, end=77) == 1234
    assert len(balances.shards(0)) == 1234
    assert balances.marker([0])[0].next_offset == 77
    assert put(balances, end=80) == 0
    assert balances.marker([0])[0].next_offset == 80, "a stretch without accounts moves the marker"


def test_nothing_is_written_without_the_marker(balances: Balances) -> None:
    assert put(balances, state()) == -1
    assert balances.balance("acme:wallet:alice") is None
    balances.begin(0, TOPIC, 100)
    put(balances, state(), end=50)
    assert not balances.marker([0])[0].complete, "still before its target"
    assert balances.apply(0, "test.ledger.state@two", 50, 60, 0, {}) == -1, "another topic"
    assert put(balances, state(offset=9), start=70, end=80) == -2, "Redis stands before what we think it has"
    found = balances.balance("acme:wallet:alice")
    assert found is not None and found.offsets == {0: 1}


def test_clear_leaves_other_worlds_alone(balances: Balances, valkey: str) -> None:
    other = Balances(RedisConfig(valkey, "another"))
    try:
        for b in (balances, other):
            b.begin(0, TOPIC, 0)
            put(b, state())
        assert balances.clear() == 2
        assert balances.balance("acme:wallet:alice") is None and balances.markers() == {}
        assert other.balance("acme:wallet:alice") is not None
    finally:
        other.clear()
        other.close()


def test_a_stretch_writes_each_account_once() -> None:
    codec = local_codec()
    head = PartitionState(42, 1, bytes(32), 0, 0, 0, 0, 0, 0, 0)
    records = [
        StateArrival(0, b"a:acme:w:1", codec.encode(state("acme:w:1", 5, 50))),
        StateArrival(1, b"p:acme", codec.encode(PartnerState("acme", "Acme", "live", 3))),
        StateArrival(2, b"a:acme:w:1", codec.encode(state("acme:w:1", 6, 60))),
        StateArrival(3, b"a:acme:w:2", codec.encode(state("acme:w:2", 6, 70))),
        StateArrival(4, b"meta", codec.encode(head)),
        StateArrival(5, b"a:gone", None),
    ]
    values, source_next = Coalescer(codec).values(records)
    assert source_next == 42
    assert {a: decode_shard(v).source_offset for a, v in values.items()} == {"acme:w:1": 6, "acme:w:2": 6}
    with pytest.raises(InvariantError, match="PartitionState"):
        Coalescer(codec).values([StateArrival(0, b"a:acme:w:1", codec.encode(head))])


def test_a_full_server_is_one_sentence_and_reads_on(balances: Balances, config: RedisConfig) -> None:
    """Not the text of the whole script, which is what the client says."""
    balances.begin(0, TOPIC, 10)
    assert put(balances, state()) == 1
    with redis.Redis.from_url(config.url) as client:
        info: Any = client.info("memory")
        client.config_set("maxmemory", int(info["used_memory"] * 0.9))
        try:
            for write in (
                lambda: put(balances, state(offset=2), start=10, end=20),
                lambda: balances.begin(1, TOPIC, 5),
            ):
                with pytest.raises(PartUnavailableError, match="its memory is full") as caught:
                    write()
                assert "redis.call" not in str(caught.value)
            assert "its memory is full" in look_redis(config).read_only
            found = balances.balance("acme:wallet:alice")
            assert found is not None and found.credits_posted == 100, "a script that is refused writes nothing"
            assert balances.marker([0])[0].next_offset == 10
        finally:
            client.config_set("maxmemory", 0)
    assert put(balances, state(offset=2), start=10, end=20) == 1
    assert look_redis(config).read_only == ""


def test_a_server_that_may_throw_balances_away_is_no_good_one(config: RedisConfig) -> None:
    client = redis.Redis.from_url(config.url)
    before: dict[str, Any] = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy")}
    try:
        for policy, fits in (("allkeys-lru", False), ("noeviction", True), ("volatile-ttl", True)):
            client.config_set("maxmemory-policy", policy)
            client.config_set("maxmemory", "1gb")
            assert (look_redis(config).read_only == "") is fits, policy
        client.config_set("maxmemory-policy", "allkeys-lfu")
        client.config_set("maxmemory", "0")
        assert look_redis(config).read_only == "", "without a bound nothing is thrown away"
    finally:
        for name, value in before.items():
            client.config_set(name, value)
        client.close()


def test_no_server_is_one_sentence_without_the_password() -> None:
    config = RedisConfig("redis://user:secret@127.0.0.1:1/0", "w")
    with pytest.raises(PartUnavailableError, match=r"Redis at redis://127\.0\.0\.1:1/0 does not answer") as caught:
        read_balance(config, "a:b")
    assert "secret" not in str(caught.value) + repr(config)
