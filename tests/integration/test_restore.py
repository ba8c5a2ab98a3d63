"""The restore drill: a backup while money moves, then ClickHouse is destroyed and restored, then Kafka with its registry.

What is proven is what docs/production.md promises: after the restore every record stands at the offset that it had, the
ledger goes on from there, whoever sends again what was lost or not gets one outcome for it, and every check holds.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer

from clearline import cli
from clearline.audit.tieout import tieout
from clearline.audit.verify import verify
from clearline.backup import manifest as manifests
from clearline.backup import work
from clearline.config import Settings, load_settings
from clearline.connection import Connection, clickhouse_config, connect, kafka_config, registry_of
from clearline.drive import Drive
from clearline.generator import generate
from clearline.generator_shelf import shelf_of
from clearline.lag import unsettled
from clearline.outcomes import OutcomeTail
from clearline.preparing import plan, prepare
from clearline.stack import Stack
from schemas.errors import BadInputError
from schemas.records import Crossing, JournalRecord, Tick
from sinks import migrate
from sinks.clickhouse import Database
from sinks.finance.tables import data_database
from sinks.users import house_users, statements
from streams.archive.put import NotEmptyError, put_topics
from streams.reader import LogRecord, committed_offsets, end_offsets, read_to_end
from streams.topics import Topics
from tests.sink_servers import wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1_500)]

SEED = 20261126
BEFORE, DURING = 500, 300
ROLES = ["worker-0", "sink-redis", "sink-clickhouse"]
TOLD = "rates of a partner"


@dataclass
class Drill:
    """A stack with a backup that was taken under load, and what the world was when the load had ended."""

    stack: Stack
    folder: Path
    sha256: str = ""
    submitted: list[LogRecord] = field(default_factory=list)
    journal: list[LogRecord] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return self.stack.resolved()

    @property
    def system(self) -> Connection:
        return connect(self.settings)

    def read(self, topic: str) -> list[LogRecord]:
        return list(read_to_end(kafka_config(self.settings), f"{self.settings.world}.{topic}"))

    def decoded(self, rows: list[LogRecord]) -> list[JournalRecord]:
        codec = self.system.codec
        return [codec.decode(r.value) for r in rows]

    def data(self) -> Database:
        return Database(clickhouse_config(self.settings), with_database=False)


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    base = tmp_path_factory.mktemp("drill")
    settings = load_settings(world="drill", data_dir=base / "data", partitions=3, workers=1)
    with Stack(settings) as stack:
        stack.start(roles=list(ROLES))
        d = Drill(stack, base / "backup")
        load_with_a_backup(d)
        yield d


def load_with_a_backup(d: Drill) -> None:
    """The first half of the load, then a backup while the second half is under way."""
    db = d.data()
    data = data_database(d.settings.clickhouse.database)
    db.run(f"CREATE DATABASE {data}")
    db.run(f"CREATE TABLE {data}.tables (told String) ENGINE = MergeTree ORDER BY told")
    db.run(f"INSERT INTO {data}.tables SELECT '{TOLD}'")
    db.close()
    system, taken = d.system, threading.Event()
    items = generate(SEED, BEFORE + DURING, partners_max=12, accounts_max=60, products=shelf_of(SEED))
    first = list(islice(items, BEFORE))  # the setup among them

    def rest() -> Iterator[Any]:
        for n, item in enumerate(items):
            if n == DURING // 4:  # some of it comes before the backup, some while it is taken, some after it
                started.set()
            if n == DURING // 2:
                assert taken.wait(400)
            yield item

    started = threading.Event()
    errors: list[BaseException] = []

    def drive() -> None:
        try:
            with OutcomeTail(system.kafka, system.topics, system.codec) as tail:
                Drive(system, tail).run(first)
                Drive(system, tail).run(rest())
        except BaseException as e:
            errors.append(e)
            started.set()

    thread = threading.Thread(target=drive)
    thread.start()
    assert started.wait(400)
    wait_for("something is projected", lambda: outcomes_in(d) > 0)
    _, d.sha256 = work.create(d.settings, d.folder, extent="whole")
    taken.set()
    thread.join(400)
    assert not errors, errors
    assert not thread.is_alive(), "what is read now would be a part"
    d.submitted, d.journal = d.read("transactions.submitted"), d.read("journal")


def outcomes_in(d: Drill) -> int:
    """Journal records that ClickHouse has."""
    db = d.data()
    try:
        return int(db.rows(f"SELECT count() FROM {d.settings.clickhouse.database}.outcomes")[0][0])
    finally:
        db.close()


def settled(d: Drill) -> bool:
    """Whether each command that is in the log has its outcome, steps between partitions included."""
    kafka, topics = kafka_config(d.settings), Topics(d.settings.world)
    ends = end_offsets(kafka, topics.submitted)
    done = committed_offsets(kafka, topics.group, topics.submitted)
    return not any(unsettled(kafka, topics.submitted, ends, done).values())


def tied_out(d: Drill) -> bool:
    return tieout(d.settings, catch_up_s=30).ok


def by_partition(rows: list[LogRecord]) -> dict[int, list[LogRecord]]:
    found: dict[int, list[LogRecord]] = defaultdict(list)
    for r in rows:
        found[r.partition].append(r)
    return found


def test_the_backup_holds_what_it_says_and_only_part_of_the_load(drill):
    found, digest = manifests.read_manifest(drill.folder)
    assert digest == drill.sha256
    assert manifests.verify(drill.folder, found) == found.records
    settled_then = sum(c.sequence for c in found.cuts.values())
    assert 0 < settled_then < len(drill.journal), "the load went on while it was taken"
    kept = {(f.topic, f.partition): f for f in found.files}
    for p, cut in found.cuts.items():
        assert kept["journal", p].records == cut.sequence
        assert kept["transactions.submitted", p].end >= cut.next_offset
    assert {f.topic for f in found.files} == {
        n.removeprefix("drill.") for n in Topics("drill").settings() if n != "drill.replies"
    }


def test_a_file_that_was_changed_or_cut_is_found(drill, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(drill.folder, copy, ignore=shutil.ignore_patterns("clickhouse"))
    found, _ = manifests.read_manifest(copy)
    victim = copy / next(f.name for f in found.files if f.topic == "journal" and f.records > 10)
    whole = victim.read_bytes()
    for damaged in (whole[:-20], whole[: len(whole) // 2] + b"\x00" + whole[len(whole) // 2 + 1 :]):
        victim.write_bytes(damaged)
        assert cli.main(["backup", "verify", str(copy), "--json"]) == 1
        assert not json.loads(capsys.readouterr().out)["ok"]
    victim.write_bytes(whole)
    assert cli.main(["backup", "verify", str(copy), "--sha256", drill.sha256]) == 0
    assert cli.main(["backup", "verify", str(copy), "--sha256", "0" * 64]) == 1
    (copy / "manifest.json").unlink()
    assert cli.main(["backup", "verify", str(copy)]) == 2


def test_what_is_there_is_not_written_over(drill):
    with pytest.raises(NotEmptyError, match="holds records"):
        work.restore(drill.settings, drill.folder, "topics")
    with pytest.raises(BadInputError, match="has the table"):
        work.restore(drill.settings, drill.folder, "clickhouse")
    with pytest.raises(BadInputError, match="is not empty"):
        work.create(drill.settings, drill.folder)
    with pytest.raises(BadInputError, match="of world drill"):
        work.restore(drill.settings.model_copy(update={"world": "other"}), drill.folder)


def test_a_restore_is_refused_while_somebody_waits_to_settle_what_is_written(drill, tmp_path):
    kafka, topics = kafka_config(drill.settings), Topics("elsewhere")
    assert put_topics(kafka, topics, tmp_path, [], {0: 0}, 1) == 0
    worker = Consumer(kafka.consumer(topics.group, session_timeout_ms=6_000))
    worker.subscribe([topics.submitted])
    try:
        wait_for("its place in the group", lambda: worker.poll(0.2) is None and worker.assignment())
        with pytest.raises(NotEmptyError, match="1 workers are in the group"):
            put_topics(kafka, topics, tmp_path, [], {0: 0}, 1)
    finally:
        worker.close()


def test_a_world_that_is_prepared_is_prepared(drill):
    assert plan(drill.settings, {}) == []
    assert prepare(drill.settings, {}) == []


def test_the_engine_parses_what_makes_users_on_a_server(drill):
    """The embedded server has no users by SQL, but it knows the language."""
    config = replace(clickhouse_config(drill.settings), cluster="clearline")
    db = drill.data()
    for user in house_users(config, "clearline_data", "secret"):
        for statement in statements(config, user):
            assert db.rows("SELECT formatQuery(%(q)s)", {"q": statement})
    db.close()


def test_clickhouse_is_destroyed_and_restored_and_ties_out(drill, capsys):
    stack = drill.stack
    stack.stop_one("sink-clickhouse")
    stack.stop_one("clickhouse")
    shutil.rmtree(stack.folder.part("clickhouse"))
    began = time.monotonic()
    stack.start_one("clickhouse")
    assert any(s.part == "tables" for s in plan(drill.settings, {}))
    done = work.restore(drill.settings, drill.folder, "clickhouse")
    assert plan(drill.settings, {}) == [], "the tables are as this version makes them"
    restored = outcomes_in(drill)
    assert 0 < restored < len(drill.journal), "what came after the backup is projected again"
    db = drill.data()
    assert db.rows(f"SELECT told FROM {data_database(drill.settings.clickhouse.database)}.tables") == [(TOLD,)]
    db.close()
    stack.start_one("sink-clickhouse")
    wait_for("tie-out after ClickHouse was restored", lambda: tied_out(drill))
    with capsys.disabled():
        print(
            f"\nClickHouse: {done.seconds:.1f} s for {restored} records, tied out after {time.monotonic() - began:.1f} s"
        )


def test_kafka_is_destroyed_and_restored_and_the_ledger_goes_on(drill, capsys):
    stack, found = drill.stack, manifests.read_manifest(drill.folder)[0]
    for role in ROLES:
        stack.stop_one(role)
    for part in ("registry", "kafka"):
        stack.stop_one(part)
        shutil.rmtree(stack.folder.part(part))
    began = time.monotonic()
    start_again(stack, ["kafka", "registry"])
    done = work.restore(drill.settings, drill.folder, "topics")
    assert_the_logs_are_what_they_were(drill, found)

    # The tables of the ledger are a projection: they are made anew, what no journal has is brought back.
    db = drill.data()
    database = drill.settings.clickhouse.database
    for name in (database, data_database(database)):
        db.run(f"DROP DATABASE {name} SYNC")
    migrate.apply(clickhouse_config(drill.settings))
    work.restore(drill.settings, drill.folder, "own")
    assert db.rows(f"SELECT told FROM {data_database(database)}.tables") == [(TOLD,)]
    with pytest.raises(BadInputError, match="has rows"):
        work.restore(drill.settings, drill.folder, "own")
    assert db.rows(f"SELECT count() FROM {data_database(database)}.tables") == [(1,)], "a second one doubles nothing"
    db.close()
    start_again(stack, ROLES)
    wait_for("what was submitted beyond the cut is settled", lambda: settled(drill))
    up_s = time.monotonic() - began

    # Callers send again whatever they sent, because they cannot know what was lost.
    system, codec = drill.system, drill.system.codec
    with system.publisher() as publisher:
        for r in drill.submitted:
            if not isinstance(undecoded(codec, r), Crossing | Tick):
                publisher.send(r.value or b"", r.key or b"", r.partition)
    wait_for("all of it is settled", lambda: settled(drill))
    verdict = verify(drill.settings, drained=False)
    assert verdict.ok, verdict.lines()
    wait_for("tie-out after Kafka was restored", lambda: tied_out(drill))
    assert_nothing_is_lost_or_doubled(drill, found)
    with capsys.disabled():
        rate = done.records / done.seconds
        print(
            f"\nKafka: {done.records} records restored in {done.seconds:.1f} s ({rate:,.0f}/s), settling after {up_s:.1f} s"
        )


def start_again(stack: Stack, names: list[str]) -> None:
    """Starts what was stopped, all at once."""
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(stack.start_one, names))


def undecoded(codec: Any, r: LogRecord) -> Any:
    try:
        return codec.decode(r.value)
    except Exception:
        return None


def assert_the_logs_are_what_they_were(d: Drill, found: manifests.Manifest) -> None:
    """Each record at its offset, with its time, key, bytes and headers."""
    for topic, before in (("transactions.submitted", d.submitted), ("journal", d.journal)):
        ends = {f.partition: f.last for f in found.files if f.topic == topic}
        wanted = by_partition([r for r in before if r.offset <= ends[r.partition]])
        now = by_partition(d.read(topic))
        for p, rows in wanted.items():
            assert now[p] == rows, f"{topic}[{p}]"
        assert sum(map(len, now.values())) == sum(map(len, wanted.values()))
        gaps = sum(b.offset - a.offset > 1 for rows in wanted.values() for a, b in pairwise(rows))
        assert gaps or topic != "journal", "there were end markers between them"


def assert_nothing_is_lost_or_doubled(d: Drill, found: manifests.Manifest) -> None:
    """Every command that was ever sent has exactly one outcome that is not a repeat; before the cut it is the old one."""
    journal = d.read("journal")  # once: how the partitions are interleaved differs from one reading to the next
    before, now = d.decoded(d.journal), d.decoded(journal)
    # A step between partitions is named after the offset that caused it: one that was lost is taken again under another.
    key = [
        (r.partition, record.command_id)
        for r, record in zip(d.journal, before, strict=True)
        if record.binds_key and record.command not in ("Crossing", "Tick")
    ]
    firsts = Counter(
        (r.partition, record.command_id) for r, record in zip(journal, now, strict=True) if record.binds_key
    )
    assert not [(k, firsts[k]) for k in key if firsts[k] != 1], "each key is bound once"
    old = by_partition(d.journal)
    new = by_partition(journal)
    for p, cut in found.cuts.items():
        assert [r.value for r in new[p][: cut.sequence]] == [r.value for r in old[p][: cut.sequence]]
    repeated = sum(record.outcome == "repeated" for record in now)
    assert repeated >= sum(c.sequence for c in found.cuts.values()) // 2, "what was known was known again"


def test_a_second_restore_onto_it_is_refused(drill):
    with pytest.raises(NotEmptyError):
        work.restore(drill.settings, drill.folder)
    assert registry_of(drill.settings).missing() == []
