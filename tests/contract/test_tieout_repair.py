"""Repairs of the tie-out against real stores: killed at every step, beside a sink that writes, and always to the end."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import uuid
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest

from clearline.audit.continuous.difference import CLICKHOUSE, REDIS, Verdict
from clearline.audit.continuous.machine import Machine, Options
from clearline.audit.continuous.repair import ClickHouseRepair, repair_redis
from schemas import failpoints
from schemas.errors import PartUnavailableError
from sinks import migrate
from sinks.balances import RedisConfig
from sinks.clickhouse import ClickHouseConfig, FencedError
from sinks.ledger_sink import LedgerSink
from sinks.month_repair import BESIDE
from sinks.stored_sums import Part, StoredSums
from tests.contract.test_sinks_clickhouse import check
from tests.journals import Line, local_codec
from tests.sink_servers import ClickHouseServer, ValkeyServer, wait_for
from tests.tieout_world import JOURNAL, MemorySource, TieOutWorld, said

pytestmark = pytest.mark.stack

SYNC = "SETTINGS mutations_sync = 2"
NEVER = Options(again_s=1e9, checkpoint_s=1e9)
LEFT_BESIDE = (
    "SELECT name FROM system.tables WHERE database = currentDatabase() AND (name LIKE '%_beside' OR name = 'repairing')"
)


@pytest.fixture
def world(server: ClickHouseServer, valkey: ValkeyServer) -> Iterator[TieOutWorld]:
    name = f"t{uuid.uuid4().hex[:8]}"
    config = server.config(f"clearline_{name}")
    migrate.apply(config)
    w = TieOutWorld(config, valkey.config(name), 3)
    w.grow(700)
    w.fill(350)
    yield w
    w.close()


def tamper(w: TieOutWorld) -> None:
    """Something of each kind, in several tables and months."""
    w.sql(
        f"ALTER TABLE postings UPDATE amount = amount + 1, reference = 'x' WHERE partition = 0 AND sequence = 90 {SYNC}"
    )
    w.sql(f"ALTER TABLE postings DELETE WHERE partition = 1 AND sequence = 95 {SYNC}")
    w.sql(f"ALTER TABLE outcomes UPDATE reason = 'x' WHERE partition = 2 AND sequence = 99 {SYNC}")
    w.sql(f"ALTER TABLE control_changes DELETE WHERE partition = 2 AND sequence = 3 {SYNC}")
    ((run,),) = w.sql(
        "SELECT extract(create_table_query, 'CONSTRAINT run_([0-9]+)') FROM system.tables WHERE name = 'postings' AND "
        "database = currentDatabase()"
    )
    columns = "topic, partition, offset, source_offset, sequence, line, partner_id, account_id, side, amount, currency"
    w.sql(
        f"INSERT INTO postings ({columns}, booked_at, run) SELECT {columns}, toDateTime64('1999-05-05 00:00:00', 3, "
        f"'UTC'), {run} FROM postings WHERE partition = 0 LIMIT 3"
    )


def whole(w: TieOutWorld) -> None:
    """Both stores are what the journal says, by the sink's own test and by a machine that knows nothing."""
    check(w.clickhouse, [x for lines in w.source.journal.values() for x in lines])
    fresh = w.machine(NEVER)
    word = said(fresh, 2)
    assert word.verdict == Verdict.EQUAL, word.differences
    fresh.close()
    assert w.sql(LEFT_BESIDE) == []


def test_everything_that_is_wrong_in_clickhouse_is_built_anew(world: TieOutWorld) -> None:
    machine = world.machine(NEVER)
    tamper(world)
    assert said(machine, 3).verdict == Verdict.DIFFERS
    done = ClickHouseRepair(machine).run()
    assert set(done.months) == {"postings 202611", "postings 199905", "outcomes 202611", "control_changes 202611"}
    assert done.months["postings 199905"] == 0
    assert said(machine).findings[CLICKHOUSE].verdict == Verdict.EQUAL
    whole(world)
    assert not ClickHouseRepair(machine).run(), "a second one has nothing to do"
    world.grow(50)
    with pytest.raises(PartUnavailableError, match="taking over again"):
        world.fill_clickhouse()
    world.fill()  # the same sink, which takes over again
    whole(world)
    machine.close()


def test_a_sink_that_a_repair_locked_out_ends_when_another_one_has_its_place(world: TieOutWorld) -> None:
    machine = world.machine(NEVER)
    said(machine, 3)
    ClickHouseRepair(machine).run(every=True)
    machine.close()
    successor = LedgerSink(world.clickhouse, JOURNAL, local_codec())
    successor.take_over()
    world.grow(50)
    with pytest.raises(FencedError):
        world.fill_clickhouse()
    successor.close()


class Child:
    """A repair in a process of its own."""

    def __init__(self, w: TieOutWorld, folder: Path) -> None:
        self.w = w
        self.file = folder / "journal"
        self.file.write_bytes(pickle.dumps({p: [tuple(x) for x in lines] for p, lines in w.source.journal.items()}))

    def start(self, fail: str = "") -> ForkServerProcess:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        process = context.Process(target=_main, args=(self.w.clickhouse, self.w.redis, self.file, fail), daemon=True)
        process.start()
        return process


def _main(clickhouse: ClickHouseConfig, redis: RedisConfig, file: Path, fail: str) -> None:
    failpoints.arm(fail)
    journal = pickle.loads(file.read_bytes())
    source = MemorySource(len(journal))
    source.journal = {p: [Line(*x) for x in lines] for p, lines in journal.items()}
    machine = Machine(clickhouse, redis, NEVER)
    machine.open(source)
    said(machine, 3)
    ClickHouseRepair(machine).run()


def ended(process: ForkServerProcess) -> int | None:
    process.join(180)
    return process.exitcode


STRAYS = "SELECT count() FROM postings WHERE toYYYYMM(booked_at) = 199905"
SUMS = "SELECT count(), sum(amount), sum(sipHash64(reference)) FROM postings"
WALK = [
    "mid_fill@2",
    "after_fill@1",
    "after_lock@1",
    "before_swap@1",
    "after_swap@1",
    "after_swap@3",
    "before_unlock@1",
]
FINISHED = ("after_lock@1", "after_swap@1", "before_unlock@1")  # by the next run; the others are killed again


def test_killed_at_every_step_it_is_old_or_new_and_the_next_one_finishes(world: TieOutWorld, tmp_path: Path) -> None:
    (right,) = world.sql(SUMS)
    child = Child(world, tmp_path)
    for point in WALK:
        tamper(world)
        (wrong,), (strays,) = world.sql(SUMS), world.sql(STRAYS)
        name, _, at = point.partition("@")
        assert ended(child.start(f"repair.{name}=kill@{at}")) == -signal.SIGKILL, point
        # Months are swapped one by one: the one of 1999 is gone first, then the one of the wrong rows is right.
        without_strays = world.sql(SUMS + " WHERE toYYYYMM(booked_at) != 199905")
        assert world.sql(SUMS)[0] in (wrong, right, *without_strays)
        assert world.sql(STRAYS)[0] in ((0,), strays)
        if name in ("after_lock", "before_swap", "after_swap", "before_unlock"):
            with pytest.raises(PartUnavailableError, match="being repaired"):
                LedgerSink(world.clickhouse, JOURNAL, local_codec()).take_over()
        if point in FINISHED:
            assert ended(child.start()) == 0, point
            assert world.sql(SUMS) == [right]
            assert world.sql(LEFT_BESIDE) == []
    whole(world)


def test_the_walk_knows_every_fail_point() -> None:
    assert {p.partition("@")[0] for p in WALK} == {n.partition(".")[2] for n in failpoints.REPAIR}


@pytest.mark.parametrize("point", ["mid_fill", "after_fill"])
def test_what_a_sink_writes_meanwhile_is_not_lost(world: TieOutWorld, tmp_path: Path, point: str) -> None:
    tamper(world)
    world.grow(400)  # the journal has more than the sink has written
    every = world.source.journal
    child = Child(world, tmp_path).start(f"repair.{point}=stop@1")
    process = psutil.Process(child.pid)
    wait_for("a pause", lambda: process.status() == psutil.STATUS_STOPPED)
    world.source.journal = {p: lines[:-40] for p, lines in every.items()}
    world.fill(90)
    world.source.journal = every
    os.kill(child.pid or 0, signal.SIGCONT)
    assert ended(child) == 0
    world.ledger_sink = LedgerSink(world.clickhouse, JOURNAL, local_codec())
    world.fill(90)
    whole(world)


def test_parts_that_are_merged_while_the_repair_is_proven_do_not_stop_it(
    world: TieOutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server merges what was filled in whenever it likes, also between two questions."""
    tamper(world)
    listed = StoredSums.parts

    def and_merged(store: StoredSums, table: str) -> list[Part]:
        found = listed(store, table)
        if table.endswith(BESIDE):
            world.sql(f"OPTIMIZE TABLE {table} FINAL")
        return found

    monkeypatch.setattr(StoredSums, "parts", and_merged)
    machine = world.machine(NEVER)
    assert said(machine, 2).verdict == Verdict.DIFFERS
    assert ClickHouseRepair(machine).run().months
    machine.close()
    whole(world)


def test_everything_that_is_wrong_in_redis_is_put_right(world: TieOutWorld, valkey: ValkeyServer) -> None:
    machine = world.machine(NEVER)
    assert said(machine, 2).verdict == Verdict.EQUAL
    prefix = f"{world.redis.world}:account:"
    names = [n for (p, n) in world.maker.accounts if p == 0][:5]
    with valkey.client() as client:
        texts = [str(client.hget(prefix + n, "0")) for n in names]
        client.hset(prefix + names[0], "0", texts[1])
        client.delete(prefix + names[1])
        client.hset(prefix + names[2], "0", "99999999 " + texts[2].partition(" ")[2])
        client.hset(prefix + names[3], "2", texts[3])
        client.delete(prefix + names[4])
        client.set(prefix + names[4], "x")
        client.hset(prefix + "ghost:a", "0", texts[0])
    assert said(machine, 2).findings[REDIS].verdict == Verdict.DIFFERS
    done = repair_redis(machine)
    assert set(done.accounts) == {*names, "ghost:a"}
    assert said(machine, 2).verdict == Verdict.EQUAL
    with valkey.client() as client:
        assert [client.hget(prefix + n, "0") for n in names] == texts
        client.hset(f"{world.redis.world}:sink:1", "next", "99999999")
    assert said(machine).findings[REDIS].verdict == Verdict.DIFFERS
    repair_redis(machine)
    assert said(machine).findings[REDIS].verdict == Verdict.REBUILDING, "the sink goes over all of it again"
    world.rewind_redis(1)
    world.fill_redis()
    assert said(machine, 2).verdict == Verdict.EQUAL
    machine.close()


def test_a_balance_that_changed_since_it_was_found_wrong_is_left_alone(
    world: TieOutWorld, valkey: ValkeyServer
) -> None:
    machine = world.machine(NEVER)
    said(machine, 2)
    (p, name), *_ = world.maker.accounts
    key = f"{world.redis.world}:account:{name}"
    with valkey.client() as client:
        text = str(client.hget(key, str(p)))
        client.hset(key, str(p), "1 1 1 1 1 CNY liability - - 0")
        assert said(machine).findings[REDIS].verdict == Verdict.DIFFERS
        client.hset(key, str(p), text)
    assert not repair_redis(machine)
    assert said(machine).verdict == Verdict.EQUAL
    machine.close()
