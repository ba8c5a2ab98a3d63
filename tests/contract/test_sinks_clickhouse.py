"""What the ClickHouse sink promises, against the real server: every row once, whatever dies and whenever it wakes."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil
import pytest

from schemas import failpoints
from schemas.errors import BadInputError, InvariantError, PartUnavailableError
from schemas.records import JournalRecord, PendingLeg, PostedLeg
from sinks import ledger_sink, migrate
from sinks.clickhouse import ClickHouseConfig, Database, FencedError
from sinks.ledger_sink import Arrival, LedgerSink
from tests import sink_child
from tests.journals import DAY_MS, Line, Maker, local_codec
from tests.sink_child import TOPIC, feed
from tests.sink_servers import ClickHouseServer, wait_for

pytestmark = pytest.mark.stack


def sink_of(config: ClickHouseConfig, topic: str = TOPIC) -> LedgerSink:
    return LedgerSink(config, topic, local_codec())


def arrivals(lines: Sequence[Line]) -> list[Arrival]:
    return [Arrival(x.partition, x.offset, x.value) for x in lines]


def stored(config: ClickHouseConfig, query: str) -> list[tuple[Any, ...]]:
    db = Database(config)
    try:
        return db.rows(query)
    finally:
        db.close()


def check(config: ClickHouseConfig, lines: Sequence[Line]) -> None:
    """The store holds exactly these records: every column that the journal determines, every row once."""
    assert stored(
        config,
        "SELECT partition, offset, line, source_offset, sequence, partner_id, account_id, side, amount, currency, "
        "debits_pending, debits_posted, credits_pending, credits_posted, product, operation, reference, "
        "hex(command_id), value_day, toUnixTimestamp64Milli(booked_at) "
        "FROM postings ORDER BY partition, offset, line",
    ) == [
        (
            x.partition, x.offset, i, r.source_offset, r.sequence, r.partner_id, p.account_id, p.side, p.amount,
            p.currency, p.debits_pending, p.debits_posted, p.credits_pending, p.credits_posted, r.product, r.operation,
            r.reference, r.command_id.hex().upper(), r.value_date, r.booked_at,
        )
        for x in sorted(lines)
        for r in [x.record]
        for i, p in enumerate(r.postings)
    ]  # fmt: skip
    assert stored(
        config,
        "SELECT partition, offset, line, source_offset, sequence, partner_id, account_id, side, change, currency, "
        "hex(hold_id), expired, toUnixTimestamp64Milli(expires_at), product, operation, "
        "toUnixTimestamp64Milli(booked_at) FROM pending ORDER BY partition, offset, line",
    ) == [
        (
            x.partition, x.offset, i, r.source_offset, r.sequence, r.partner_id, p.account_id, p.side, p.change,
            p.currency, p.hold_id.hex().upper(), p.expired, lapses(r, p), r.product, r.operation, r.booked_at,
        )
        for x in sorted(lines)
        for r in [x.record]
        for i, p in enumerate(r.pending)
    ]  # fmt: skip
    found = stored(
        config,
        "SELECT partition, offset, source_offset, sequence, outcome, command, partner_id, idempotency_key, "
        "hex(command_id), product, product_version, operation, value_day, "
        "toUnixTimestamp64Milli(booked_at), reference, reason, first_offset, subject_id, legs, pending, hex(chain), "
        "metadata, detail, changes FROM outcomes ORDER BY partition, offset",
    )
    assert [row[:-3] for row in found] == [
        (
            x.partition, x.offset, r.source_offset, r.sequence, r.outcome, r.command, r.partner_id, r.idempotency_key,
            r.command_id.hex().upper(), r.product, r.product_version, r.operation, r.value_date, r.booked_at,
            r.reference, r.reason, r.first_offset, r.subject_id, len(r.postings), len(r.pending), x.value[-32:].hex().upper(),
        )
        for x in sorted(lines)
        for r in [x.record]
    ]  # fmt: skip
    assert [tuple(json.loads(text) if text else {} for text in row[-3:]) for row in found] == [
        (x.record.metadata, x.record.detail, x.record.changes) for x in sorted(lines)
    ]
    changed = stored(
        config, "SELECT partition, offset, command, subject_id, account_type, currency, changes FROM control_changes "
        "ORDER BY partition, offset, subject_id",
    )  # fmt: skip
    assert [(*row[:-1], json.loads(row[-1])) for row in changed] == [
        (x.partition, x.offset, *row) for x in sorted(lines) for row in changes_of(x.record)
    ]


def lapses(r: JournalRecord, p: PendingLeg) -> int:
    """When a hold lapses, as the row says that opens it; 0 in all others."""
    return int(r.changes.get("expires_at", "0")) if p.hold_id == r.command_id else 0


def changes_of(r: JournalRecord) -> list[tuple[str, str, str, str, dict[str, str]]]:
    """What control_changes must have of a record: a control command, and accounts opened on first use."""
    if r.outcome == "applied" and r.command not in ("Transaction", "Crossing"):
        assert not r.opened
        return [(r.command, r.subject_id, r.changes.get("type", ""), r.changes.get("currency", ""), r.changes)]
    out = []
    for o in sorted(r.opened, key=lambda o: o.account_id):
        terms = {"type": o.type, "currency": o.currency, "credit_limit": str(o.credit_limit)}
        terms["min_available"] = "" if o.min_available is None else str(o.min_available)
        out.append(("OpenAccount", o.account_id, o.type, o.currency, terms))
    return out


class Child:
    """The sink in a process of its own."""

    def __init__(self, config: ClickHouseConfig, folder: Path, lines: Sequence[Line]) -> None:
        self.config = config
        self.file = folder / "journal"
        self.file.write_bytes(pickle.dumps([tuple(a) for a in arrivals(lines)]))

    def start(self, fail: str = "", batch: int = 150, pause_s: float = 0.0) -> ForkServerProcess:
        return sink_child.start(self.config, self.file, fail, batch, pause_s)

    def run(self, fail: str = "", batch: int = 150) -> int | None:
        return ended(self.start(fail, batch))

    def stopped_at(self, fail: str) -> ForkServerProcess:
        """A child that has paused itself at a fail point."""
        child = self.start(fail)
        process = psutil.Process(child.pid)
        wait_for(f"a pause at {fail}", lambda: process.status() == psutil.STATUS_STOPPED)
        return child


def ended(process: ForkServerProcess, seconds: float = 180) -> int | None:
    """The exit code, negative for a signal."""
    process.join(seconds)
    return process.exitcode


def test_stores_every_field_and_resumes(config: ClickHouseConfig) -> None:
    lines = Maker(1).lines(900)
    sink = sink_of(config)
    feed(sink, arrivals(lines[:500]), 170)
    check(config, lines[:500])
    start = sink_of(config).take_over()
    assert start == {p: max(x.offset for x in lines[:500] if x.partition == p) + 1 for p in start}
    feed(sink_of(config), arrivals(lines), 90)
    check(config, lines)
    audited = stored(config, "SELECT sum(records), sum(postings) FROM ingest_batches")
    assert audited == [(900, sum(len(x.record.postings) for x in lines))]


def in_pieces(monkeypatch: pytest.MonkeyPatch, piece: int | None) -> None:
    """Batches are decoded in pieces of so many records, each a block of its own in the insert."""
    if piece is not None:
        monkeypatch.setattr(ledger_sink, "PIECE_RECORDS", piece)


@pytest.mark.parametrize("piece", [None, 60])
def test_redelivered_records_are_left_out(
    config: ClickHouseConfig, piece: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pieces(monkeypatch, piece)
    lines = Maker(2).lines(300)
    sink = sink_of(config)
    sink.take_over()
    everything = arrivals(lines)
    assert sink.write(everything[:200]) == 200
    assert sink.write(everything[:200]) == 0
    assert sink.write(everything[100:250]) == 50
    assert sink.write([*everything[240:], *everything[240:], *everything]) == 50
    check(config, lines)


def test_large_amounts_and_counters(config: ClickHouseConfig) -> None:
    """Sums pass 64 bits without wrapping, and counters of 38 digits are kept to the last."""
    largest = 2**63 - 1
    moved = []
    for x in Maker(3).lines(200):
        legs = tuple(
            PostedLeg(p.account_id, p.side, largest, p.currency, 10**38 - 1, 2**64, 2**63, 0 if i else 2**126)
            for i, p in enumerate(x.record.postings)
        )
        moved.append(changed(x, postings=legs))
    feed(sink_of(config), arrivals(moved), 100)
    check(config, moved)
    count = sum(len(x.record.postings) for x in moved)
    assert stored(config, "SELECT sum(amount) FROM postings") == [(count * largest,)]


def changed(line: Line, **fields: Any) -> Line:
    """The line with other fields in its record, and some chain."""
    names = line.record.__struct_fields__
    record = JournalRecord(**{n: getattr(line.record, n) for n in names} | fields)
    codec = local_codec()
    value = codec.journal_header + codec.journal_body(record) + bytes(range(32))
    return Line(line.partition, line.offset, value, record)


@pytest.mark.parametrize("piece", [None, 17])
def test_a_month_end_and_a_clock_that_steps_back_over_it(
    config: ClickHouseConfig, piece: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pieces(monkeypatch, piece)
    first_of_month = 20_788 * DAY_MS  # 2026-12-01
    lines = Maker(4, start_ms=first_of_month - 6_000, step_ms=60).lines(260)
    moved = [changed(x, booked_at=x.record.booked_at - (1_500 if i % 5 == 0 else 0)) for i, x in enumerate(lines)]
    assert len({x.record.booked_at >= first_of_month for x in moved}) == 2
    feed(sink_of(config), arrivals(moved), 260)
    check(config, moved)
    months = stored(config, "SELECT DISTINCT partition FROM system.parts WHERE database = currentDatabase() AND active "
                            "AND table = 'postings' ORDER BY 1")  # fmt: skip
    assert months == [("202611",), ("202612",)]


def test_days_that_no_calendar_has_do_not_stop_it(config: ClickHouseConfig) -> None:
    """A rejected transaction is kept with what it named, and it may have named any number."""
    days = (-(2**31), -1, 0, 120_529, 120_530, 2**31 - 1)
    lines = [
        changed(x, value_date=days[i % len(days)]) if x.record.outcome == "rejected" else x
        for i, x in enumerate(Maker(17).lines(400))
    ]
    feed(sink_of(config), arrivals(lines), 400)
    found = stored(config, "SELECT toInt32(value_date) FROM outcomes WHERE outcome = 'rejected'")
    wanted = [max(0, min(120_529, x.record.value_date)) for x in lines if x.record.outcome == "rejected"]
    assert sorted(row[0] for row in found) == sorted(wanted)
    assert set(wanted) == {0, 120_529}


@pytest.mark.parametrize("piece", [None, 700])
def test_one_insert_is_one_part(config: ClickHouseConfig, piece: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    in_pieces(monkeypatch, piece)
    stored(config, "SYSTEM STOP MERGES")
    try:
        sink = sink_of(config)
        sink.take_over()
        sink.write(arrivals(Maker(5).lines(3000)))
        parts = stored(
            config, "SELECT table, count() FROM system.parts WHERE database = currentDatabase() AND active "
            "AND NOT startsWith(table, 'schema_') GROUP BY table ORDER BY table",
        )  # fmt: skip
        assert parts == [
            ("control_changes", 1),
            ("ingest_batches", 1),
            ("outcomes", 1),
            ("pending", 1),
            ("postings", 1),
        ]
    finally:
        stored(config, "SYSTEM START MERGES")


def test_an_insert_has_a_bounded_number_of_legs(config: ClickHouseConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    in_pieces(monkeypatch, 50)
    monkeypatch.setattr(ledger_sink, "POSTINGS_PER_INSERT", 400)
    stored(config, "SYSTEM STOP MERGES")
    try:
        lines = Maker(25).lines(900)
        sink = sink_of(config)
        sink.take_over()
        assert sink.write(arrivals(lines)) == 900
        check(config, lines)
        parts = stored(
            config, "SELECT count(), max(rows) FROM system.parts WHERE database = currentDatabase() AND active "
            "AND table = 'postings'",
        )  # fmt: skip
        legs = sum(len(x.record.postings) for x in lines)
        assert legs / 400 < parts[0][0] < legs / 150
        assert parts[0][1] <= 400
    finally:
        stored(config, "SYSTEM START MERGES")


WALK = [
    "after_fence=kill@1", "before_insert=kill@2", "after_insert_changes=kill@2", "after_insert_postings=kill@2",
    "after_insert_pending=kill@2", "after_insert_outcomes=kill@2", "after_proof=kill@2", "after_audit=kill@2",
    *(f"mid_insert=kill@{k}" for k in (1, 2, 3, 6)), *(f"after_send=kill@{k}" for k in (1, 2, 3, 4, 7)),
]  # fmt: skip


def test_killed_at_every_point(config: ClickHouseConfig, tmp_path: Path) -> None:
    """One journal, one kill at every point after another, merges held back: every row once, with the right sums."""
    lines = Maker(6).lines(60 * len(WALK))
    child = Child(config, tmp_path, lines)
    for table in ("postings", "pending", "outcomes", "control_changes"):
        stored(config, f"SYSTEM STOP MERGES {config.database}.{table}")
    for point in WALK:
        assert child.run("sink_clickhouse." + point, batch=25) == -signal.SIGKILL, point
    assert child.run(batch=400) == 0
    check(config, lines)
    line = "partition, offset, line"
    for table, columns in (("postings", line), ("pending", line), ("outcomes", "partition, offset")):
        assert stored(config, f"SELECT count() = uniqExact({columns}) FROM {table}") == [(1,)]


def test_the_walk_knows_every_fail_point() -> None:
    elsewhere = {"after_read", "after_insert_dead_letters"}  # tests/integration/test_sinks_kafka.py
    walked = {p.partition("=")[0] for p in WALK} | elsewhere
    assert walked == {n.partition(".")[2] for n in failpoints.SINK_CLICKHOUSE}


@pytest.mark.parametrize(
    "point",
    ["after_fence@1", "before_insert@2", "mid_insert@2", "mid_insert@3", "after_send@2", "after_insert_postings@1"],
)
def test_a_zombie_that_wakes_in_an_insert_is_refused(config: ClickHouseConfig, tmp_path: Path, point: str) -> None:
    lines = Maker(7).lines(700)
    child = Child(config, tmp_path, lines)
    name, _, at = point.partition("@")
    zombie = child.stopped_at(f"sink_clickhouse.{name}=stop@{at}")
    try:
        assert child.run() == 0
        check(config, lines)
        os.kill(zombie.pid or 0, signal.SIGCONT)
        assert ended(zombie) == (0 if name == "after_fence" else 3), "it had not read its place yet, or is refused"
        check(config, lines)
    finally:
        zombie.kill()


def test_two_sinks_at_once_write_everything_once(config: ClickHouseConfig, tmp_path: Path) -> None:
    lines = Maker(8).lines(1200)
    child = Child(config, tmp_path, lines)
    both = [child.start(batch=40), child.start(batch=40)]
    assert sorted(ended(c) or 0 for c in both) in ([0, 3], [3, 3], [0, 0])
    assert child.run() == 0
    check(config, lines)


KILLS = int(os.environ.get("CLEARLINE_TEST_KILLS", "12"))


def test_random_kills(config: ClickHouseConfig, tmp_path: Path) -> None:
    seed = int(os.environ.get("CLEARLINE_TEST_SEED", random.SystemRandom().randrange(10**6)))
    print(f"seed {seed}")
    dice = random.Random(seed)
    lines = Maker(9).lines(1500)
    child = Child(config, tmp_path, lines)
    kills = 0
    while kills < KILLS:
        process = child.start(batch=dice.randrange(20, 120), pause_s=0.02)
        rows = _rows(config)
        more = rows + dice.randrange(1, 120)
        deadline = time.monotonic() + 60
        while process.is_alive() and _rows(config) < more and time.monotonic() < deadline:
            pass
        process.kill()
        if ended(process) == 0:
            break
        kills += 1
    assert kills > 2, "the journal is too short for this machine"
    assert child.run() == 0
    check(config, lines)


def _rows(config: ClickHouseConfig) -> int:
    return int(stored(config, "SELECT count() FROM outcomes")[0][0])


def test_server_killed_under_the_sink(tmp_path: Path) -> None:
    server = ClickHouseServer(tmp_path)
    server.start()
    try:
        config = server.config("clearline_kill")
        migrate.apply(config)
        lines = Maker(10).lines(1000)
        child = Child(config, tmp_path, lines)
        process = child.start(batch=50, pause_s=0.05)
        for part in (3, 2):
            wait_for("rows", lambda n=part: _rows(config) > len(lines) // n // 2 or not process.is_alive())  # type: ignore[misc]
            server.kill()
            server.start()
        assert ended(process) == 0
        check(config, lines)
    finally:
        server.stop()


def test_a_torn_batch_counts_once_and_at_once(config: ClickHouseConfig, tmp_path: Path) -> None:
    """Between the kill and the restart figures are those of whole entries; after it nothing is there twice."""
    lines = Maker(11).lines(500)
    child = Child(config, tmp_path, lines)
    assert child.run("sink_clickhouse.after_insert_postings=kill@2", batch=200) == -signal.SIGKILL
    sums = "sumIf(amount, side = 'debit') != sumIf(amount, side = 'credit')"
    assert stored(config, f"SELECT currency, {sums} AS bad FROM postings GROUP BY currency HAVING bad") == []
    assert _rows(config) == 200
    assert stored(config, "SELECT uniqExact(partition, offset) > 200 FROM postings") == [(1,)]
    sink = sink_of(config)
    sink.take_over()
    sink.write(arrivals(lines)[:300])
    sink.write(arrivals(lines))
    check(config, lines)


def test_a_hole_in_the_journal_stops_it(config: ClickHouseConfig) -> None:
    everything = arrivals(Maker(12).lines(300))
    sink = sink_of(config)
    sink.take_over()
    sink.write(everything[:100])
    del everything[150]
    with pytest.raises(InvariantError, match="comes next"):
        sink.write(everything)
    with pytest.raises(AssertionError, match="take_over"):
        sink.write(everything)


@pytest.mark.parametrize(("table", "amount"), [("postings", "amount"), ("pending", "change")])
@pytest.mark.parametrize("how", ["lost", "doubled"])
def test_rows_that_are_lost_or_doubled_are_found_at_the_start(
    config: ClickHouseConfig, table: str, amount: str, how: str
) -> None:
    feed(sink_of(config), arrivals(Maker(13).lines(300)), 300)
    copy = "topic, partition, offset, source_offset, sequence, line, partner_id, account_id, booked_at, run, " + amount
    if how == "doubled":
        stored(config, f"INSERT INTO {table} ({copy}) SELECT {copy} FROM {table} LIMIT 1")
    else:
        row = stored(config, f"SELECT partition, offset, line FROM {table} LIMIT 1")[0]
        gone = f"ALTER TABLE {table} DELETE WHERE (partition, offset, line) = {row} SETTINGS mutations_sync = 2"
        stored(config, gone)
    with pytest.raises(InvariantError, match=f"{table} of partition"):
        sink_of(config).take_over()


def test_another_journal_is_refused(config: ClickHouseConfig) -> None:
    lines = Maker(14).lines(100)
    feed(sink_of(config), arrivals(lines), 100)
    with pytest.raises(BadInputError, match="another world"):
        sink_of(config, "test.journal@two").take_over()


def test_fenced_in_the_same_process(config: ClickHouseConfig) -> None:
    lines = Maker(15).lines(300)
    old, new = sink_of(config), sink_of(config)
    old.take_over()
    old.write(arrivals(lines)[:100])
    new.take_over()
    with pytest.raises(FencedError, match="taken over"):
        old.write(arrivals(lines)[100:200])
    new.write(arrivals(lines))
    check(config, lines)


@pytest.mark.parametrize(
    ("into", "is_ended"),
    [("postings", True), ("`postings`", True), ("postings_beside", False), ("recon_files", False)],
)
def test_only_inserts_into_its_own_tables_are_ended(config: ClickHouseConfig, into: str, is_ended: bool) -> None:
    """A sink that starts again and again leaves a repair beside its tables alone, and whoever imports a statement."""
    db, other = Database(config), Database(config)
    db.run(f"CREATE TABLE {db.name}.postings_beside AS {db.name}.postings")
    column = "data" if into == "recon_files" else "reference"
    rows = 600 if is_ended else 15  # a tenth of a second each
    query = (
        f"INSERT INTO {db.name}.{into} ({column}) SELECT toString(sleepEachRow(0.1)) FROM numbers({rows}) "
        "SETTINGS max_block_size = 1"
    )
    failed: list[Exception] = []

    def insert() -> None:
        try:
            other.run(query)
        except PartUnavailableError as e:
            failed.append(e)

    thread = threading.Thread(target=insert)
    thread.start()
    running = "SELECT query FROM system.processes WHERE query = %(q)s"
    wait_for("the insert", lambda: db.rows(running, {"q": query}) or None)
    sink = sink_of(config)
    sink.take_over()
    assert not (is_ended and db.rows(running, {"q": query}))
    thread.join()
    assert bool(failed) is is_ended
    sink.close()
    db.close()
    other.close()


def test_a_stranger_in_the_journal_stops_it(config: ClickHouseConfig) -> None:
    sink = sink_of(config)
    sink.take_over()
    codec = local_codec()
    lines = Maker(16).lines(120)
    good = lines[0].value
    for bad in (b"", None, b"\0\0\0", good[:-1], good + b"x", codec.journal_header + b"\xff" * 90):
        with pytest.raises(InvariantError, match="journal holds"):
            sink.write([*arrivals(lines[:3]), Arrival(0, 10**6, bad)])
    assert sink.write(arrivals(lines)) == 120


def test_no_server_is_one_sentence() -> None:
    config = ClickHouseConfig("127.0.0.1", 1, "clearline_none")
    with pytest.raises(PartUnavailableError, match=r"ClickHouse at 127\.0\.0\.1:1 does not answer"):
        sink_of(config).take_over()


def test_a_database_that_is_not_migrated_is_one_sentence(server: ClickHouseServer) -> None:
    with pytest.raises(BadInputError, match=r"setup"):
        sink_of(server.config("clearline_absent")).take_over()
