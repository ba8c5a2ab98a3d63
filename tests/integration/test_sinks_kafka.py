"""The sinks as roles between a real broker and real stores: killed, paused, cut off, and everything arrives once."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import Producer

from clearline.embedded.valkey import find_server
from schemas.codec import Codec
from schemas.examples import examples
from schemas.failpoints import SINK_REDIS
from schemas.records import AccountState
from sinks import migrate
from sinks.balance_reader import BalanceReader, Shards
from sinks.balances import Balances, RedisConfig
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.look import look_redis
from streams.registry import Registry
from streams.sink_host import SinkOptions, rebuild_redis
from tests.contract.test_sinks_clickhouse import check
from tests.integration.conftest import World
from tests.journals import Line, Maker
from tests.sink_roles import Role
from tests.sink_servers import ClickHouseServer, wait_for

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse"))
    server.start()
    yield server
    server.stop()


class Valkey:
    """A Valkey on a port that it keeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--appendonly", "yes"]
        self.process = subprocess.Popen([find_server(), *options, "--save", ""], stdout=subprocess.DEVNULL)
        wait_for("Valkey", self.answers)

    def answers(self) -> bool:
        with redis.Redis(port=self.port) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def flush(self) -> None:
        with redis.Redis(port=self.port) as client:
            client.flushall()

    def limit(self, share: float) -> None:
        """Memory, to a share of what it takes now; 0: no limit."""
        with redis.Redis(port=self.port) as client:
            info: Any = client.info("memory")
            client.config_set("maxmemory", int(info["used_memory"] * share))

    @contextmanager
    def slow(self) -> Iterator[None]:
        """Each command waits for up to half a second."""
        ended = threading.Event()

        def hold() -> None:
            with redis.Redis(port=self.port) as client:
                while not ended.is_set():
                    client.client_pause(500)

        holding = threading.Thread(target=hold)
        holding.start()
        try:
            yield
        finally:
            ended.set()
            holding.join()


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


def send(
    world: World, topic: str, records: Sequence[tuple[int, bytes | None, bytes | None, Any]], **producer: Any
) -> None:
    """Produces (partition, key, value, headers), whatever the bytes are."""
    p = Producer(world.kafka.producer(**producer))
    for partition, key, value, headers in records:
        p.produce(topic, value, key, partition, headers=headers)
        p.poll(0)
    assert p.flush(30) == 0


def abort(world: World, topic: str, partition: int, value: bytes) -> None:
    """An aborted Kafka transaction: its record has an offset and is never seen."""
    p = Producer(world.kafka.producer(transactional_id=f"abort-{uuid.uuid4().hex}"))
    p.init_transactions(30)
    p.begin_transaction()
    p.produce(topic, value, None, partition)
    p.flush(30)
    p.abort_transaction(30)


def as_sent(lines: Sequence[Line], aborted: dict[int, list[int]]) -> list[Line]:
    """The lines with the offsets they have in the topic: an aborted transaction takes two (record and marker)."""
    sent: dict[int, int] = {}
    out = []
    for x in lines:
        count = sent.get(x.partition, 0)
        sent[x.partition] = count + 1
        jumps = sum(2 for at in aborted.get(x.partition, []) if at <= count)
        out.append(Line(x.partition, count + jumps, x.value, x.record))
    return out


def report_of(role: Role) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(role.ready_file.read_bytes()) if role.ready_file.exists() else {}
    return found


def died(process: ForkServerProcess) -> int | None:
    process.join(180)
    return process.exitcode


def finish(process: ForkServerProcess) -> None:
    process.terminate()
    assert died(process) == 0, "a role ends cleanly on SIGTERM"


@pytest.fixture
def clickhouse_role(world: World, house: ClickHouseServer, tmp_path: Path) -> Role:
    config = house.config(f"clearline_{world.topics.world}")
    migrate.apply(config)
    s = world.settings
    return Role(str(s.kafka.bootstrap), str(s.registry.url), world.topics.world, config, tmp_path / "ready.json")


@pytest.fixture
def redis_role(world: World, valkey: Valkey, tmp_path: Path) -> Role:
    s = world.settings
    store = RedisConfig(valkey.url, world.topics.world)
    return Role(str(s.kafka.bootstrap), str(s.registry.url), world.topics.world, store, tmp_path / "ready.json")


def letters() -> list[tuple[int, bytes | None, bytes | None, Any]]:
    headers = {
        "reason": "undecodable", "detail": "Transaction: EOFError", "source_topic": "t", "source_partition": "1",
        "source_offset": "77", "received_at": "1795300000000", "attempts": "1",
    }  # fmt: skip
    pairs = [(k, v.encode()) for k, v in headers.items()]
    return [(1, b"key", bytes(range(256)), pairs), (0, None, None, [("reason", b"empty")]), (1, b"", b"\xff", pairs)]


def test_journal_and_dead_letters_into_clickhouse(world: World, clickhouse_role: Role) -> None:
    """Killed after a read and after the dead letters; aborted transactions are not seen; the report ends at no lag."""
    assert isinstance(clickhouse_role.store, ClickHouseConfig)
    maker = Maker(31, partitions=4, gap=0)
    lines = maker.lines(1500, world.codec)
    send(world, world.topics.journal, [(x.partition, None, x.value, None) for x in lines[:700]])
    first_partition = lines[0].partition
    at = sum(x.partition == first_partition for x in lines[:700])
    abort(world, world.topics.journal, first_partition, b"never seen")
    send(world, world.topics.journal, [(x.partition, None, x.value, None) for x in lines[700:]])
    send(world, world.topics.dead, letters())
    send(world, world.topics.seals, [(2, b"418", world.codec.encode(x), None) for x in examples("Seal")])
    counts = [world.codec.encode(x) for x in examples("CallCounts")]
    send(world, world.topics.calls, [(3, None, value, None) for value in (b"no count", *counts, *counts)])
    state: list[tuple[str, Any]] = [("l", x) for x in examples("LimitState")] + [
        ("u", x) for x in examples("UsageState")
    ]
    told = [(2, f"{k}:{x.level}:{x.subject_id}".encode(), world.codec.encode(x), None) for k, x in state]
    meta = (2, b"meta", world.codec.encode(examples("PartitionState")[0]), None)
    send(
        world,
        world.topics.state,
        [(2, b"a:x:y", b"not looked at", None), *told, meta, (2, b"l:partner:open", None, None)],
    )
    small = SinkOptions(batch_records_max=200, flush_interval_ms=50, poll_records_max=100)
    for point in ("after_read=kill@3", "after_insert_dead_letters=kill@1", "after_insert_postings=kill@2"):
        assert died(clickhouse_role.start(f"sink_clickhouse.{point}", small)) == -signal.SIGKILL, point
        send(world, world.topics.dead, letters())
    process = clickhouse_role.start()

    def caught_up() -> bool:
        report = report_of(clickhouse_role)
        return report.get("pid") == process.pid and report["ready"] and report["lag"] == 0

    wait_for("no lag", caught_up)
    db = Database(clickhouse_role.store)
    wait_for("dead letters", lambda: db.rows("SELECT count() FROM dead_letters") == [(12,)])
    wait_for(
        "seals", lambda: db.rows("SELECT partition, offset, last_sequence FROM seals") == [(2, 0, 418), (2, 1, 65954)]
    )
    calls = "SELECT partition, offset, line, partner_id, calls FROM calls ORDER BY offset, line"
    wanted = [(3, o, i, c.partner_id, c.calls) for o in (1, 2) for i, c in enumerate(examples("CallCounts")[0].counts)]  # type: ignore[attr-defined]
    kept = "SELECT partition, kind, count(), uniqExact(offset, line) FROM limit_rows GROUP BY ALL ORDER BY kind"
    sizes = {k: sum(max(1, len(x.limits if k == "l" else x.used)) for n, x in state if n == k) for k in "lu"}
    limits = [(2, "limit", sizes["l"], sizes["l"]), (2, "place", 1, 1), (2, "usage", sizes["u"], sizes["u"])]
    wait_for("limits", lambda: db.rows(kept) == limits)
    wait_for("counts of calls", lambda: db.rows(calls) == wanted)
    finish(process)
    check(clickhouse_role.store, as_sent(lines, {first_partition: [at]}))
    rows = db.rows(
        "SELECT partition, offset, source_topic, source_partition, source_offset, toUnixTimestamp64Milli(received_at), "
        "reason, detail, attempts, hex(key), hex(value) FROM dead_letters ORDER BY partition, offset LIMIT 1 BY partition"
    )
    db.close()
    assert rows[1] == (
        1, 0, "t", 1, 77, 1795300000000, "undecodable", "Transaction: EOFError", 1, b"key".hex().upper(),
        bytes(range(256)).hex().upper(),
    )  # fmt: skip
    assert rows[0][2:5] + rows[0][6:] == ("", 0, -1, "empty", "", 1, "", "")


def test_a_clickhouse_that_is_away_is_waited_for(world: World, tmp_path: Path) -> None:
    house = ClickHouseServer(tmp_path)
    house.start()
    try:
        config = house.config("clearline_away")
        migrate.apply(config)
        s = world.settings
        role = Role(str(s.kafka.bootstrap), str(s.registry.url), world.topics.world, config, tmp_path / "r.json")
        lines = Maker(32, partitions=4, gap=0).lines(900, world.codec)
        send(world, world.topics.journal, [(x.partition, None, x.value, None) for x in lines[:300]])
        process = role.start()
        wait_for("the first rows", lambda: report_of(role).get("records") == 300)
        house.kill()
        send(world, world.topics.journal, [(x.partition, None, x.value, None) for x in lines[300:]])
        wait_for("a report of waiting", lambda: "ClickHouse" in report_of(role)["waiting_for"])
        assert report_of(role)["ready"] is False
        house.start()
        wait_for("no lag", lambda: report_of(role)["ready"] and report_of(role)["lag"] == 0)
        finish(process)
        check(config, as_sent(lines, {}))
    finally:
        house.stop()


def states(codec: Codec, maker: Maker, lines: Sequence[Line], partitions: int) -> list[tuple[int, bytes, bytes, None]]:
    """What a ledger would write into ledger.state for these lines, account by account, with the heads at the end."""
    accounts: dict[tuple[int, str], AccountState] = {}
    out: list[tuple[int, bytes, bytes, None]] = []
    for x in lines:
        r = x.record
        if r.command == "OpenAccount":
            accounts[x.partition, r.subject_id] = AccountState(
                r.subject_id, r.changes["type"], r.changes["currency"], None, False, False, False, 0, 0, 0, 0,
                r.source_offset,
            )  # fmt: skip
            out.append((x.partition, _key(r.subject_id), codec.encode(accounts[x.partition, r.subject_id]), None))
        for p in r.postings:
            a = accounts[x.partition, p.account_id]
            accounts[x.partition, p.account_id] = a = AccountState(
                a.account_id, a.type, a.currency, None, False, False, False, p.debits_pending, p.debits_posted,
                p.credits_pending, p.credits_posted, r.source_offset,
            )  # fmt: skip
            out.append((x.partition, _key(p.account_id), codec.encode(a), None))
    out += [(p, b"meta", codec.encode(head), None) for p, head in maker.heads.items() if p < partitions]
    return out


def _key(account_id: str) -> bytes:
    return b"a:" + account_id.encode()


def same(role: Role, maker: Maker) -> bool:
    """Redis shows exactly the maker's accounts, counters and offsets."""
    assert isinstance(role.store, RedisConfig)
    balances = Balances(role.store)
    try:
        for p, head in maker.heads.items():
            own = {name: a for (q, name), a in maker.accounts.items() if q == p}
            marker = balances.marker([p]).get(p)
            if marker is None or not marker.complete or marker.source_next != head.next_offset:
                return False
            shards = balances.shards(p)
            if shards.keys() != own.keys():
                return False
            for name, a in own.items():
                s = shards[name]
                if (s.debits_posted, s.credits_posted, s.currency, s.type) != (
                    a.debits_posted, a.credits_posted, a.currency, a.type
                ):  # fmt: skip
                    return False
        return True
    finally:
        balances.close()


def test_state_into_redis_killed_flushed_and_cut_off(world: World, redis_role: Role, valkey: Valkey) -> None:
    maker = Maker(33, partitions=4)
    lines = maker.lines(1200, world.codec)
    records = states(world.codec, maker, lines, 4)
    third = len(records) // 3
    send(world, world.topics.state, records[:third])
    small = SinkOptions(poll_records_max=100)
    for point in SINK_REDIS:
        assert died(redis_role.start(f"{point}=kill@2", small)) == -signal.SIGKILL, point
    process = redis_role.start()
    wait_for("the first third", lambda: report_of(redis_role).get("lag") == 0)
    valkey.flush()
    send(world, world.topics.state, records[third : 2 * third])
    wait_for("the second third", lambda: report_of(redis_role).get("lag") == 0)
    valkey.kill()
    send(world, world.topics.state, records[2 * third :])
    wait_for("a report of waiting", lambda: "Redis" in report_of(redis_role)["waiting_for"])
    valkey.start()
    wait_for("balances", lambda: same(redis_role, maker))
    valkey.flush()
    wait_for("balances again, with no new record", lambda: same(redis_role, maker))
    with valkey.slow():
        valkey.flush()
        wait_for("balances again, by a slow server", lambda: same(redis_role, maker))
    finish(process)


def test_a_full_redis_is_waited_for_and_says_how_far_it_goes(world: World, redis_role: Role, valkey: Valkey) -> None:
    """`OOM`: nothing is written, what is read is true as of the offset that comes with it, status names it; then it goes
    on, also when the memory ends in the middle of a rebuild."""
    assert isinstance(redis_role.store, RedisConfig)
    maker = Maker(35, partitions=4)
    lines = maker.lines(600, world.codec)
    records = states(world.codec, maker, lines, 4)
    send(world, world.topics.state, records)
    process = redis_role.start()
    wait_for("balances", lambda: same(redis_role, maker))
    before, known = {p: h.next_offset for p, h in maker.heads.items()}, dict(maker.accounts)
    assert look_redis(redis_role.store).read_only == ""
    valkey.limit(0.99)
    lines += maker.lines(600, world.codec)
    send(world, world.topics.state, states(world.codec, maker, lines, 4)[len(records) - len(before) :])
    try:
        wait_for("a report of the refusal", lambda: "memory is full" in report_of(redis_role)["waiting_for"])
        assert "memory" in look_redis(redis_role.store).read_only
        for p, name in known:
            found = asyncio.run(read(redis_role.store, p, name))
            assert (found.complete, found.source_next) == (True, before[p]), "it says how old it is"
            assert found.shards[name].source_offset < before[p]
        assert any(before[p] < h.next_offset for p, h in maker.heads.items())
        valkey.limit(0)
        wait_for("all balances", lambda: same(redis_role, maker))
        valkey.limit(0.5)
        valkey.flush()
        wait_for("a refusal in the rebuild", lambda: "memory is full" in report_of(redis_role)["waiting_for"])
    finally:
        valkey.limit(0)
    wait_for("all balances again", lambda: same(redis_role, maker))
    finish(process)


async def read(store: RedisConfig, partition: int, account_id: str) -> Shards:
    """As a gateway does."""
    reader = BalanceReader(store, timeout_s=10.0)
    try:
        return await reader.shards(partition, [account_id])
    finally:
        await reader.close()


def test_one_command_rebuilds_redis(world: World, redis_role: Role, valkey: Valkey) -> None:
    assert isinstance(redis_role.store, RedisConfig)
    maker = Maker(34, partitions=4)
    lines = maker.lines(600, world.codec)
    records = states(world.codec, maker, lines, 4)
    send(world, world.topics.state, records)
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))

    registry = Registry(redis_role.registry_url)
    for _ in range(2):
        rebuild_redis(world.kafka, world.topics, registry, redis_role.store, progress)
        assert same(redis_role, maker)
        assert told[-1] == (len(records), len(records))
        told.clear()
    process = redis_role.start()
    wait_for("the sink", lambda: report_of(redis_role).get("ready"))
    rebuild_redis(world.kafka, world.topics, registry, redis_role.store)
    wait_for("balances beside a running sink", lambda: same(redis_role, maker))
    finish(process)


def test_a_partition_without_records_is_complete(world: World, redis_role: Role) -> None:
    """Nothing was ever written: the markers say so, and that what Redis shows is whole."""
    assert isinstance(redis_role.store, RedisConfig)
    process = redis_role.start()
    balances = Balances(redis_role.store)
    wait_for("markers", lambda: len(balances.markers()) == world.settings.partitions)
    assert all(m.complete for m in balances.markers().values())
    balances.close()
    finish(process)
