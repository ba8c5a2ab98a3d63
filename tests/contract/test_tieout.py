"""The continuous tie-out against real stores: whatever is changed by hand is named, and nothing that is right is."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from clearline.audit.continuous import stored
from clearline.audit.continuous.difference import CLICKHOUSE, KAFKA, REDIS, Difference, Verdict
from clearline.audit.continuous.machine import Machine, Options
from clearline.audit.continuous.running import Head
from clearline.audit.continuous.shards import ShardOptions
from clearline.audit.continuous.stored import StoredOptions
from sinks import checksums, migrate
from sinks.stored_sums import NONE
from tests.journals import DAY_MS
from tests.sink_servers import ClickHouseServer, ValkeyServer
from tests.tieout_world import TieOutWorld, altered, said

pytestmark = pytest.mark.stack

SYNC = "SETTINGS mutations_sync = 2"
NEVER = Options(again_s=1e9, checkpoint_s=1e9)


def world_of(server: ClickHouseServer, valkey: ValkeyServer, seed: int = 1, **maker: int) -> TieOutWorld:
    name = f"t{uuid.uuid4().hex[:8]}"
    config = server.config(f"clearline_{name}")
    migrate.apply(config)
    return TieOutWorld(config, valkey.config(name), seed, **maker)


@pytest.fixture
def world(server: ClickHouseServer, valkey: ValkeyServer) -> Iterator[TieOutWorld]:
    w = world_of(server, valkey)
    w.grow(900)
    w.fill(300)
    yield w
    w.close()


@dataclass
class Shared:
    """A world that many tests alter and put right again."""

    world: TieOutWorld
    machine: Machine
    client: redis.Redis


@pytest.fixture(scope="module")
def shared(server: ClickHouseServer, valkey: ValkeyServer) -> Iterator[Shared]:
    w = world_of(server, valkey, 7)
    w.grow(1500)
    w.fill(500)
    machine = w.machine(NEVER)
    assert said(machine, 2).verdict == Verdict.EQUAL
    yield Shared(w, machine, valkey.client())
    machine.close()
    w.close()


def test_checksums_are_the_servers_and_cover_every_column(world: TieOutWorld) -> None:
    for table in checksums.TABLES:
        columns = world.sql(
            "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = "
            f"'{table.name}' AND default_kind != 'EPHEMERAL'"
        )
        assert {c for (c,) in columns} == {*table.names, *table.apart}, "a new column is compared, or said to be apart"
        rows = checksums.rows_of(table, world.every())
        own = {(int(p), int(o)): 0 for p, o in zip(rows.partition, rows.offset, strict=True)}
        for p, o, x in zip(rows.partition.tolist(), rows.offset.tolist(), rows.checksum.tolist(), strict=True):
            own[p, o] = (own[p, o] + x) % 2**64
        query = f"SELECT partition, offset, sum({table.checksum}) FROM {table.name} GROUP BY partition, offset"
        assert {(p, o): x for p, o, x in world.sql(query)} == own


POSTINGS = ["account_id = 'acme:x:y'", "side = if(side = 'debit', 'credit', 'debit')", "amount = amount + 1",
            "currency = 'EUR'", "debits_posted = debits_posted - 1", "credits_pending = bitShiftLeft(toInt128(1), 64)",
            "product = 'other'", "operation = 'x'", "reference = ''", "command_id = unhex('00000000000000000000000000000001')",
            "source_offset = source_offset + 1", "value_day = value_day + 1"]  # fmt: skip
OUTCOMES = ["outcome = 'rejected'", "partner_id = 'acme'", "idempotency_key = 'k'", "product_version = 9",
            "reference = 'x'", "metadata = '{\"shop\":\"18\"}'", "reason = 'account_closed'", "detail = '{}'",
            "changes = '{\"note\":\"x\"}'", "first_offset = 1", "legs = 7", "pending = 9", "value_date = value_date + 1",
            "chain = unhex('00')", "subject_id = 'x'"]  # fmt: skip
PENDING = ["change = change * 2", "account_id = 'acme:x:y'", "expired = 1 - expired", "expires_at = expires_at + 1",
           "hold_id = unhex('00000000000000000000000000000001')"]  # fmt: skip
CHANGES = ["changes = '{}'", "account_type = 'asset1'", "currency = 'EUR'", "partner_id = 'x'", "command = 'x'"]
UPDATES = {"postings": POSTINGS, "outcomes": OUTCOMES, "pending": PENDING, "control_changes": CHANGES}


@pytest.mark.parametrize("table", UPDATES)
def test_every_column_altered_by_hand_is_named_with_its_transaction(world: TieOutWorld, table: str) -> None:
    """A row for each column, all in one statement; rows that nobody altered are not named."""
    machine = world.machine(NEVER)
    assert said(machine, 2).verdict == Verdict.EQUAL
    whats = UPDATES[table]
    line = ", line" if table in ("postings", "pending") else ", 0"
    # Not of one stretch and month only: every partition has some.
    places = world.sql(
        f"SELECT partition, offset{line} FROM {table} ORDER BY cityHash64(offset, partition) LIMIT 1 BY partition, offset "
        f"LIMIT {len(whats)}"
    )
    changes, wanted = [], set()
    for what, (p, offset, number) in zip(whats, places, strict=True):
        column, _, value = what.partition(" = ")
        at = f"partition = {p} AND offset = {offset}" + (f" AND line = {number}" if line != ", 0" else "")
        kept = f"CAST({value} AS {_type_of(world, table, column)})"
        changes.append(f"{column} = if({at}, {kept}, {column})")
        record = next(x.record for x in world.source.journal[p] if x.offset == offset)
        wanted.add((p, offset, column, f"{record.partner_id} {record.idempotency_key}"))
    world.sql(f"ALTER TABLE {table} UPDATE {', '.join(changes)} WHERE 1 {SYNC}")
    found = {(d.partition, d.text, d.transaction) for d in told_after(machine, len(wanted))}
    for p, offset, column, transaction in wanted:
        texts = [t for q, t, x in found if (q, x) == (p, transaction) and f"journal offset {offset})" in t]
        assert any(f"{column} is " in t for t in texts), (column, texts)
    places_told = {(p, int(t.partition("journal offset ")[2].partition(")")[0])) for p, t, _ in found}
    assert places_told == {(p, offset) for p, offset, *_ in wanted}
    machine.close()


def told_after(machine: Machine, count: int) -> list[Difference]:
    """Differences of ClickHouse once at least so many rows are named; some stretches are looked at in each round."""
    for _ in range(20):
        word = said(machine)
        assert word.findings[CLICKHOUSE].verdict == Verdict.DIFFERS
        if len(word.differences) >= count and not any("rows of journal offsets" in d.text for d in word.differences):
            break
    return word.differences


def _type_of(world: TieOutWorld, table: str, column: str) -> str:
    where = f"database = currentDatabase() AND table = '{table}' AND name = '{column}'"
    return str(world.sql(f"SELECT type FROM system.columns WHERE {where}")[0][0])


COLUMNS = {
    "postings": "topic, partition, offset, source_offset, sequence, line, partner_id, account_id, side, amount, currency, "
    "debits_pending, debits_posted, credits_pending, credits_posted, product, operation, reference, command_id, "
    "value_day, value_date, booked_at, run",
    "outcomes": "topic, partition, offset, source_offset, sequence, outcome, command, partner_id, idempotency_key, "
    "command_id, product, product_version, operation, value_day, value_date, booked_at, reference, metadata, reason, "
    "detail, changes, first_offset, subject_id, legs, pending, chain, run",
}


def copy_of(table: str, where: str, **columns: str) -> str:
    """A statement that adds a row like another one."""
    names = COLUMNS[table]
    values = ", ".join(columns.get(n, n) for n in names.split(", "))
    return f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} WHERE {where} LIMIT 1"


ADDED = [
    ("postings", {}, "stored 2 times"),
    ("postings", {"reference": "'other'"}, ""),
    ("postings", {"partner_id": "'somebody'"}, ""),
    ("postings", {"value_date": "toDate32('1999-01-01')"}, ""),
    ("postings", {"booked_at": "toDateTime64('1999-01-01 00:00:00.000', 3, 'UTC')"}, "never journaled"),
    ("postings", {"offset": "offset + 1000000000"}, "never journaled"),
    ("postings", {"partition": "77"}, "never journaled"),
    ("postings", {"topic": "'other@one'"}, "never journaled"),
    ("outcomes", {}, "stored 2 times"),
    ("outcomes", {"offset": "offset + 1000000000", "sequence": "sequence + 1000000000"}, "never journaled"),
]


@pytest.mark.parametrize(("table", "columns", "words"), ADDED)
def test_a_row_added_by_hand_is_named_and_repaired_by_taking_it_out(
    shared: Shared, table: str, columns: dict[str, str], words: str
) -> None:
    w = shared.world
    w.sql(f"ALTER TABLE {table} ADD CONSTRAINT IF NOT EXISTS marker CHECK 1")
    before = {name for (name,) in w.sql(f"SELECT name FROM system.parts WHERE database = currentDatabase() AND table = "
                                        f"'{table}' AND active")}  # fmt: skip
    w.sql(f"SYSTEM STOP MERGES {w.clickhouse.database}.{table}")
    w.sql(copy_of(table, "partition = 1 AND sequence = 150", **columns))
    word = said(shared.machine)
    assert word.findings[CLICKHOUSE].verdict == Verdict.DIFFERS
    assert word.findings[REDIS].verdict == Verdict.EQUAL
    assert any(words in d.text for d in word.differences), word.differences
    now = w.sql(f"SELECT name FROM system.parts WHERE database = currentDatabase() AND table = '{table}' AND active")
    (added,) = {name for (name,) in now} - before
    w.sql(f"ALTER TABLE {table} DROP PART '{added}'")
    w.sql(f"SYSTEM START MERGES {w.clickhouse.database}.{table}")
    assert said(shared.machine).verdict == Verdict.EQUAL


@pytest.mark.parametrize("how", ["mutation", "lightweight", "last outcome"])
def test_a_row_that_was_deleted_is_named(world: TieOutWorld, how: str) -> None:
    machine = world.machine(NEVER)
    assert said(machine, 2).verdict == Verdict.EQUAL
    line = next(x for x in world.source.journal[1] if x.record.postings and x.offset > 100)
    table, offset, named = "postings", line.offset, line.record.postings[0].account_id
    if how == "last outcome":
        table, offset, named = "outcomes", world.source.journal[1][-1].offset, ""
        line = world.source.journal[1][-1]
    if how == "lightweight":
        world.sql(f"ALTER TABLE {table} MODIFY SETTING lightweight_mutation_projection_mode = 'rebuild'")
        world.sql(f"DELETE FROM {table} WHERE partition = 1 AND offset = {offset}")
    else:
        world.sql(f"ALTER TABLE {table} DELETE WHERE partition = 1 AND offset = {offset} {SYNC}")
    word = said(machine)
    assert word.findings[CLICKHOUSE].verdict == Verdict.DIFFERS
    assert any(d.account == named and d.text.endswith("is not stored") for d in word.differences), word.differences
    assert {d.transaction for d in word.differences} == {f"{line.record.partner_id} {line.record.idempotency_key}"}
    machine.close()


@pytest.mark.parametrize("statement", ["TRUNCATE TABLE postings", "ALTER TABLE postings DROP PARTITION 202611",
                                       "ALTER TABLE outcomes DETACH PARTITION 202611"])  # fmt: skip
def test_a_month_that_is_gone_is_named(world: TieOutWorld, statement: str) -> None:
    machine = world.machine(NEVER)
    assert said(machine, 2).verdict == Verdict.EQUAL
    world.sql(statement)
    word = said(machine)
    assert word.findings[CLICKHOUSE].verdict == Verdict.DIFFERS
    assert any(d.text.endswith("is not stored") for d in word.differences)
    assert said(machine).verdict == Verdict.DIFFERS
    machine.close()


def account_of(w: TieOutWorld, partition: int = 0) -> tuple[str, str, str]:
    """An account, its key in Redis and the field of its shard."""
    name = next(n for (p, n), a in w.maker.accounts.items() if p == partition and a.credits_posted and a.debits_posted)
    return name, f"{w.redis.world}:account:{name}", str(partition)


REDIS_TAMPERING = [
    ("balance", lambda t: _field(t, 2, "1"), "debits_posted is 1"),
    ("pending", lambda t: _field(t, 1, "5"), "debits_pending is 5"),
    ("flag", lambda t: _field(t, 8, "f"), "frozen is True"),
    ("limit", lambda t: _field(t, 7, "100"), "min_available is 100"),
    ("credit", lambda t: _field(t, 9, "9"), "credit_limit is 9"),
    ("type", lambda t: _field(t, 6, "asset"), "type is asset"),
    ("older", lambda t: _field(t, 0, "1"), "stands at offset 1"),
    ("newer", lambda t: _field(t, 0, "123456789"), "where nothing changed it"),
    ("newer and richer", lambda t: _field(_field(t, 0, "123456789"), 4, "99999999999"), "where nothing changed it"),
    ("garbage", lambda t: "x", "which is no balance"),
    ("gone", lambda t: None, "is not there"),
    ("key gone", lambda t: "", "is not there"),
    ("no hash", lambda t: 7, "which is no balance"),
]


def _field(text: str, i: int, value: str) -> str:
    fields = text.split(" ")
    fields[i] = value
    return " ".join(fields)


@pytest.mark.parametrize(("name", "tamper", "words"), REDIS_TAMPERING, ids=[x[0] for x in REDIS_TAMPERING])
def test_a_balance_changed_by_hand_is_named(shared: Shared, name: str, tamper, words: str) -> None:
    account, key, field = account_of(shared.world)
    before = shared.client.hgetall(key)
    value = tamper(before[field])
    if value is None:
        shared.client.hdel(key, field)
    elif isinstance(value, str) and value:
        shared.client.hset(key, field, value)
    else:
        shared.client.delete(key)
        if value == 7:
            shared.client.set(key, "7")
    word = said(shared.machine, 2)
    assert word.findings[REDIS].verdict == Verdict.DIFFERS
    assert word.findings[CLICKHOUSE].verdict == Verdict.EQUAL
    assert [(d.account, d.partition) for d in word.differences] == [(account, 0)]
    assert words in word.differences[0].text
    shared.client.delete(key)
    shared.client.hset(key, mapping={str(f): str(text) for f, text in before.items()})
    assert said(shared.machine).verdict == Verdict.EQUAL


def test_accounts_and_shards_that_nobody_opened_are_named(shared: Shared) -> None:
    account, key, field = account_of(shared.world)
    text = shared.client.hget(key, field)
    ghost = f"{shared.world.redis.world}:account:ghost:wallet:x"
    shared.client.hset(ghost, "1", text)
    shared.client.hset(key, "2", text)
    shared.client.hset(key, "77", text)
    word = said(shared.machine, 2)
    assert {(d.account, d.partition) for d in word.differences} == {
        (account, 2),
        (account, 77),
        ("ghost:wallet:x", 1),
    }
    shared.client.delete(ghost)
    shared.client.hdel(key, "2", "77")
    assert said(shared.machine, 2).verdict == Verdict.EQUAL


@pytest.mark.parametrize("name", ["next", "target"])
def test_a_marker_beyond_the_topic_is_named(shared: Shared, name: str) -> None:
    key = f"{shared.world.redis.world}:sink:1"
    before = shared.client.hget(key, name)
    shared.client.hset(key, name, "999999999")
    word = said(shared.machine)
    assert [d.partition for d in word.differences] == [1]
    assert "the marker stands at" in word.differences[0].text
    shared.client.hset(key, name, before)
    assert said(shared.machine).verdict == Verdict.EQUAL


def test_a_ledger_whose_accounts_are_not_what_was_journaled_is_named(world: TieOutWorld) -> None:
    machine = world.machine(NEVER)
    assert said(machine).findings[KAFKA].verdict == Verdict.EQUAL
    (p, _), a = next((k, a) for k, a in world.maker.accounts.items() if a.debits_posted)
    head = world.maker.heads[p]
    state = world.source.state[p]
    state.append((len(state), altered(a, debits_posted=a.debits_posted + 5)))
    state.append((len(state), head))
    word = said(machine)
    assert [(d.part, d.partition) for d in word.differences] == [(KAFKA, p)]
    assert f"{a.currency} debits" in word.differences[0].text
    machine.close()


def test_sinks_that_lag_restart_and_fill_again_are_no_difference(world: TieOutWorld, valkey: ValkeyServer) -> None:
    """Everything that goes on by itself, in small steps, and never a word about a difference."""
    machine = world.machine(Options(again_s=0.0, behind_s=1e9))
    assert said(machine, 2).verdict == Verdict.EQUAL
    for step in range(6):
        world.grow(150)
        assert said(machine).verdict == Verdict.EQUAL, "as far as both are, they are equal"
        if step % 2:
            world.fill_redis(only=[step % 3])
            assert said(machine).verdict == Verdict.EQUAL
            world.fill_clickhouse(40)
        else:
            world.fill_clickhouse(60)
            assert said(machine).verdict == Verdict.EQUAL
            world.fill_redis()
        assert said(machine).verdict == Verdict.EQUAL
        world.sql("OPTIMIZE TABLE postings FINAL")
        assert said(machine).verdict == Verdict.EQUAL
    world.sql("ALTER TABLE outcomes MATERIALIZE PROJECTION by_day SETTINGS mutations_sync = 2")
    assert said(machine).verdict == Verdict.EQUAL
    with valkey.client() as client:
        for key in client.scan_iter(f"{world.redis.world}:*"):
            client.delete(key)
    assert said(machine).findings[REDIS].verdict == Verdict.REBUILDING
    world.fill_redis(only=[0])
    assert said(machine).findings[REDIS].verdict == Verdict.REBUILDING
    world.fill_redis()
    word = said(machine, 2)
    assert word.verdict == Verdict.EQUAL
    assert word.cut == {p: len(lines) for p, lines in world.source.journal.items()}
    machine.close()


def test_rows_of_a_torn_batch_wait_for_their_outcomes(world: TieOutWorld) -> None:
    machine = world.machine(NEVER)
    said(machine)
    lines = world.grow(200)
    torn = [x for x in lines if x.record.postings]
    world.fill_clickhouse()
    for table in ("postings", "pending", "control_changes"):  # as if only their batch had come
        assert world.sql(f"SELECT count() > 0 FROM {table}") == [(1,)]
    first = {p: min(x.offset for x in torn if x.partition == p) for p in {x.partition for x in torn}}
    where = " OR ".join(f"(partition = {p} AND offset >= {o})" for p, o in first.items())
    world.sql(f"ALTER TABLE outcomes DELETE WHERE {where} {SYNC}")
    assert said(machine).verdict == Verdict.EQUAL
    machine.close()


def test_a_database_that_is_built_again_is_no_difference(world: TieOutWorld) -> None:
    machine = world.machine(NEVER)
    assert said(machine).verdict == Verdict.EQUAL
    world.sql(f"DROP DATABASE {world.clickhouse.database} SYNC")
    assert said(machine).findings[CLICKHOUSE].verdict == Verdict.UNAVAILABLE
    migrate.apply(world.clickhouse)
    world.ledger_sink.run = 0
    assert said(machine).findings[CLICKHOUSE].verdict == Verdict.REBUILDING
    every = world.source.journal
    world.source.journal = {p: lines[: len(lines) // 2] for p, lines in every.items()}
    world.fill_clickhouse(100)
    world.source.journal = every
    assert said(machine).findings[CLICKHOUSE].verdict == Verdict.REBUILDING
    world.fill_clickhouse(100)
    assert said(machine).verdict == Verdict.EQUAL
    machine.close()


def test_the_end_of_a_month(server: ClickHouseServer, valkey: ValkeyServer) -> None:
    w = world_of(server, valkey, 4, start_ms=20_788 * DAY_MS - 6_000, step_ms=60)
    w.grow(600)
    w.fill(200)
    machine = w.machine(NEVER)
    word = said(machine, 2)
    assert word.verdict == Verdict.EQUAL
    assert {k.month for k in machine.running.sums} == {202611, 202612}
    machine.close()
    w.close()


def test_sums_outlive_a_restart_and_are_not_believed(world: TieOutWorld, tmp_path: Path) -> None:
    options = Options(again_s=1e9, checkpoint_s=1e9, checkpoint=tmp_path / "tieout" / "checkpoint")
    first = world.machine(options)
    assert said(first, 2).verdict == Verdict.EQUAL
    first.save()
    first.close()
    world.grow(100)
    world.fill()
    world.sql(f"ALTER TABLE postings UPDATE amount = amount + 1 WHERE partition = 0 AND sequence = 100 {SYNC}")
    second = world.machine(options)
    assert second.running.of(0).cut.sequence > 0, "it goes on where the first was"
    word = said(second)
    assert word.verdict == Verdict.DIFFERS, "what was altered while nobody looked"
    world.sql(f"ALTER TABLE postings UPDATE amount = amount - 1 WHERE partition = 0 AND sequence = 100 {SYNC}")
    assert said(second).verdict == Verdict.EQUAL
    key = next(k for k in second.running.sums if k.table == "postings")
    second.running.sums[key] = second.running.sums[key].plus(second.running.sums[key])
    second.save()
    second.close()
    third = world.machine(options)
    assert said(third).verdict == Verdict.EQUAL, "sums that differ are read again before anything is said"
    third.save()
    third.close()
    world.source.journal_topic = "test.journal@two"
    other = Machine(world.clickhouse, world.redis, options)
    other.open(world.source)
    assert other.running.of(0).cut.sequence == 0, "of another journal"
    other.close()
    world.source.journal_topic = "test.journal@one"
    damaged = options.checkpoint
    assert damaged is not None
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"123456789")
    fourth = world.machine(options)
    assert fourth.running.of(0).cut.sequence == 0
    assert said(fourth).verdict == Verdict.EQUAL
    fourth.close()


def test_a_checkpoint_of_a_journal_that_went_another_way_is_left(world: TieOutWorld, tmp_path: Path) -> None:
    options = Options(checkpoint=tmp_path / "checkpoint")
    first = world.machine(options)
    said(first)
    first.running.of(1).cut = Head(*first.running.of(1).cut[:3], bytes(32))
    first.save()
    first.close()
    second = world.machine(options)
    assert second.running.of(1).cut.sequence == 0
    assert said(second).verdict == Verdict.EQUAL
    second.close()


def test_sums_that_agree_with_wrong_rows_are_found_by_the_rotation(world: TieOutWorld) -> None:
    """Somebody alters a row, and the sums that were kept so that they agree."""
    world.sql(f"ALTER TABLE postings UPDATE amount = amount + 1 WHERE partition = 0 AND sequence = 100 {SYNC}")
    machine = world.machine(NEVER)
    assert said(machine).verdict == Verdict.DIFFERS
    for key in machine.running.sums.keys() | machine.stored.totals.keys():
        machine.running.sums[key] = machine.stored.totals.get(key, NONE)
    machine.stored.begin_with(list(machine.running.sums))
    assert said(machine).verdict == Verdict.EQUAL
    for _ in range(len(world.source.partitions)):
        machine.look_again()
    assert said(machine).verdict == Verdict.DIFFERS
    machine.close()


def test_sums_of_parts_that_were_wrong_are_read_again_before_anything_is_said(world: TieOutWorld) -> None:
    machine = world.machine(Options(again_s=1e9, stored=StoredOptions(again_rows=0)))
    assert said(machine).verdict == Verdict.EQUAL
    for contents, sums in machine.stored.known.items():
        if contents[0] == "outcomes":
            for key, own in sums.within.items():
                sums.within[key] = own.plus(own)
                machine.stored.totals[key] = machine.stored.totals[key].plus(own)
    machine.stored.begin_with(list(machine.running.sums))
    words = [said(machine) for _ in range(4)]
    assert [w.verdict for w in words] == [Verdict.CHECKING, *[Verdict.EQUAL] * 3]
    machine.close()


def test_parts_are_read_again_by_the_rotation(world: TieOutWorld) -> None:
    """What was kept of a part agrees with the journal, and its rows do not."""
    world.sql(f"ALTER TABLE outcomes UPDATE reason = 'x' WHERE partition = 0 AND sequence = 100 {SYNC}")
    machine = world.machine(Options(again_s=1e9, stored=StoredOptions(again_rows=1)))
    assert said(machine).verdict == Verdict.DIFFERS
    (key,) = (k for k in machine.running.sums if machine.running.sums[k] != machine.stored.totals[k])
    wrong = machine.running.sums[key].plus(machine.stored.totals[key], -1)
    for sums in machine.stored.known.values():
        if key in sums.within:
            sums.within[key] = sums.within[key].plus(wrong)
            machine.stored.totals[key] = machine.stored.totals[key].plus(wrong)
            break
    assert said(machine).verdict == Verdict.EQUAL
    assert any(said(machine).verdict == Verdict.DIFFERS for _ in range(60))
    machine.close()


def test_a_pass_over_accounts_in_small_pieces_comes_to_every_one(world: TieOutWorld, valkey: ValkeyServer) -> None:
    machine = world.machine(Options(again_s=1e9, shards=ShardOptions(accounts_per_round=9, names_per_round=1)))
    while machine.read(0.0):
        pass
    said_so = [machine.redis.round() for _ in range(60)]
    assert {f.verdict for f in said_so} == {Verdict.CHECKING, Verdict.EQUAL}
    assert said_so[-1].verdict == Verdict.EQUAL
    account, key, field = account_of(world, 2)
    with valkey.client() as client:
        client.hset(key, field, _field(client.hget(key, field) or "", 2, "1"))
    assert {d.account for _ in range(40) for d in machine.redis.round().differences} == {account}
    machine.close()


def test_parts_too_large_for_one_round_are_read_in_slices(world: TieOutWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """That somebody rewrote them is said at once, what he changed when it is found, and the word is never wrong."""
    monkeypatch.setattr(stored, "ROWS_PER_QUERY", 300)
    world.sql("OPTIMIZE TABLE postings FINAL")
    machine = world.machine(Options(again_s=1e9, stored=StoredOptions(again_rows=0)))
    words = [said(machine) for _ in range(12)]
    assert [w.verdict for w in words] == sorted((w.verdict for w in words), reverse=True), "checking, then equal"
    assert {words[0].verdict, words[-1].verdict} == {Verdict.CHECKING, Verdict.EQUAL}
    world.sql(f"ALTER TABLE postings UPDATE reference = 'x' WHERE partition = 1 AND sequence = 150 AND line = 0 {SYNC}")
    first = said(machine)
    assert first.verdict == Verdict.DIFFERS
    assert "were rewritten by (UPDATE reference = 'x'" in first.differences[0].text
    words = [said(machine) for _ in range(12)]
    assert [w.verdict for w in words] == [Verdict.DIFFERS] * 12
    assert all("reference is 'x'" in d.text for d in words[-1].differences)
    machine.close()


def test_a_large_merge_is_taken_for_the_sum_of_its_parts(world: TieOutWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MERGED_ROWS_MIN", 1)
    world.sql("SYSTEM STOP MERGES")
    machine = world.machine(Options(again_s=1e9, stored=StoredOptions(again_rows=0)))
    world.grow(300)
    world.fill_clickhouse(50)
    world.fill_redis()
    assert said(machine, 2).verdict == Verdict.EQUAL
    read = dict(machine.stored.last_read)
    world.sql("SYSTEM START MERGES")
    world.sql("OPTIMIZE TABLE postings FINAL")
    assert said(machine).verdict == Verdict.EQUAL
    fresh = [
        at for contents, at in machine.stored.last_read.items() if contents not in read and contents[0] == "postings"
    ]
    assert fresh == [0.0], "nobody has read it, so the rotation takes it first"
    world.sql(f"ALTER TABLE postings DELETE WHERE partition = 1 AND sequence = 150 AND line = 0 {SYNC}")
    assert said(machine).verdict == Verdict.DIFFERS
    machine.close()


def test_stores_that_are_away_are_said_and_the_others_go_on(world: TieOutWorld, tmp_path: Path) -> None:
    away = ClickHouseServer(tmp_path).config(world.clickhouse.database)
    machine = Machine(away, world.redis, NEVER)
    machine.open(world.source)
    word = said(machine, 2)
    assert word.verdict == Verdict.UNAVAILABLE
    assert word.findings[CLICKHOUSE].said.startswith("ClickHouse at")
    assert word.findings[REDIS].verdict == Verdict.EQUAL
    machine.close()
