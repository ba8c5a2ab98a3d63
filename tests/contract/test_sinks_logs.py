"""Seals, counts of calls and limits in ClickHouse: as they were sent, once, whatever dies and however often they come."""

from __future__ import annotations

import multiprocessing
import random
import signal
import sys
from typing import Any

import numpy as np
import pytest

from schemas import failpoints
from schemas.errors import BadInputError, InvariantError, PartUnavailableError
from schemas.records import CallCount, CallCounts, Seal
from sinks.clickhouse import ClickHouseConfig, Database, FencedError
from sinks.limit_sink import LimitSink, Line, Version
from sinks.log_sink import Logged, LogSink
from sinks.measures import CallSink, SealSink, heights
from tests.journals import DAY_MS, START_MS

pytestmark = pytest.mark.stack

KINDS: dict[str, type[LogSink]] = {"seals": SealSink, "calls": CallSink, "limit_rows": LimitSink}


def seals(count: int) -> list[Logged]:
    out = []
    for i in range(count):
        root, chain, previous = (bytes([i % 256, n]) * 16 for n in range(3))
        why = ("minute", "day_close", "size")[i % 3]
        seal = Seal(
            i % 3, 10 * i + 1, 10 * i + 10, START_MS + i, START_MS + i + 5, root, chain, previous, START_MS, why
        )
        out.append(Logged(i % 3, i // 3 * 2, seal, START_MS + i))
    return out


def calls(count: int, start_ms: int = START_MS, step_ms: int = 10_000) -> list[Logged]:
    dice = random.Random(5)
    out = []
    for i in range(count):
        at = start_ms + i * step_ms
        rows = []
        for _ in range(dice.randrange(1, 5)):
            buckets = {str(b): str(dice.randrange(1, 9)) for b in dice.sample(range(61), 3)}
            n, micros = sum(map(int, buckets.values())), dice.randrange(10**7)
            place = (
                dice.choice(("", "acme", "acme/shop-1")),
                "GET",
                "/v1/accounts/{account_id}",
                dice.choice((200, 404)),
            )
            rows.append(CallCount(at // 60_000 * 60_000, *place, n, micros, micros, buckets))
        out.append(Logged(i % 2, i // 2 * 3, CallCounts(f"{i % 2}-0a0b", tuple(rows)), at))
    return out


def limits(count: int) -> list[Logged]:
    """Limits and usages of none to three lines; none: they were taken away."""
    out = []
    for i in range(count):
        lines = tuple(Line("day", currency, 20_777 + i, i, 2**62 - i) for currency in ("CNY", "", "USD")[: i % 4])
        kind = ("usage", "limit")[i % 2]
        out.append(
            Logged(i % 3, i // 3 * 4, Version(kind, "partner", f"p{i % 5}", f"p{i % 5}", lines, 7 * i), START_MS)
        )
    return out


def made(table: str, count: int) -> list[Logged]:
    if table == "limit_rows":
        return limits(count)
    return seals(count) if table == "seals" else calls(count)


def stored(config: ClickHouseConfig, table: str) -> list[tuple[Any, ...]]:
    db = Database(config)
    try:
        if table == "seals":
            return db.rows(
                "SELECT partition, offset, first_sequence, last_sequence, toUnixTimestamp64Milli(first_booked_at), "
                "toUnixTimestamp64Milli(last_booked_at), lower(hex(root)), lower(hex(chain)), lower(hex(previous)), "
                "toUnixTimestamp64Milli(sealed_at), why FROM seals ORDER BY partition, offset"
            )
        if table == "limit_rows":
            return db.rows(
                "SELECT partition, offset, line, kind, level, subject_id, partner_id, removed, window, currency, start, "
                "transactions, amount, source_offset, sequence, toUnixTimestamp64Milli(stored_at) FROM limit_rows "
                "ORDER BY partition, offset, line"
            )
        return db.rows(
            "SELECT partition, offset, line, instance, toUnixTimestamp(minute) * 1000, partner_id, method, route, status, "
            "calls, micros_sum, micros_max, buckets, toUnixTimestamp64Milli(counted_at) FROM calls "
            "ORDER BY partition, offset, line"
        )
    finally:
        db.close()


def wanted(table: str, records: list[Logged]) -> list[tuple[Any, ...]]:
    if table == "seals":
        return sorted(
            (x.partition, x.offset, s.first_sequence, s.last_sequence, s.first_booked_at, s.last_booked_at, s.root.hex(),
             s.chain.hex(), s.previous.hex(), s.sealed_at, s.why)
            for x in records for s in [x.record]
        )  # fmt: skip
    if table == "limit_rows":
        return sorted(
            (x.partition, x.offset, i, *x.record[:4], not x.record.lines, *line, x.record.source_offset, 0, x.at_ms)
            for x in records for i, line in enumerate(x.record.lines or (Line(),))
        )  # fmt: skip
    return sorted(
        (x.partition, x.offset, i, x.record.instance, c.minute, c.partner_id, c.method, c.route, c.status, c.calls,
         c.micros_sum, c.micros_max, heights(c.buckets), x.at_ms)
        for x in records for i, c in enumerate(x.record.counts)
    )  # fmt: skip


@pytest.mark.parametrize("table", KINDS)
def test_stored_as_sent_once_and_resumed(config: ClickHouseConfig, table: str) -> None:
    records = made(table, 40)
    sink = KINDS[table](config, "t@one")
    assert sink.take_over() == {}
    assert sink.write(records[:25]) == 25
    assert sink.write(records[10:30]) == 5
    assert stored(config, table) == wanted(table, records[:30])
    again = KINDS[table](config, "t@one")
    assert again.take_over() == {
        p: max(x.offset for x in records[:30] if x.partition == p) + 1 for p in again.positions
    }
    assert again.write([*records, *records]) == 10
    assert stored(config, table) == wanted(table, records)
    with pytest.raises(FencedError):
        sink.write(made(table, 41)[40:])
    with pytest.raises(BadInputError, match="another world"):
        KINDS[table](config, "t@two").take_over()


def test_calls_over_the_end_of_a_month_and_their_sums(config: ClickHouseConfig) -> None:
    """Each month is a part of its own, and the sums of the projection are those of the rows."""
    records = calls(60, 20_788 * DAY_MS - 300_000)
    sink = CallSink(config, "t@one")
    sink.take_over()
    assert sink.write(records) == 60
    assert stored(config, "calls") == wanted("calls", records)
    db = Database(config)
    parts = (
        "SELECT DISTINCT partition FROM system.parts WHERE database = currentDatabase() AND active AND table = 'calls'"
    )
    assert sorted(db.rows(parts)) == [("202611",), ("202612",)]
    sums = "SELECT day, partner_id, sum(calls), sum(micros_sum), max(micros_max), sumForEach(buckets) FROM calls GROUP BY 1, 2 ORDER BY 1, 2"
    assert "by_day" in "".join(str(row[0]) for row in db.rows("EXPLAIN indexes = 1 " + sums))
    by_day: dict[tuple[int, str], list[Any]] = {}
    for c in (c for x in records for c in x.record.counts):
        row = by_day.setdefault((c.minute // DAY_MS, c.partner_id), [0, 0, 0, np.zeros(61, int)])
        row[:] = [row[0] + c.calls, row[1] + c.micros_sum, max(row[2], c.micros_max), row[3] + heights(c.buckets)]
    found = db.rows(sums.replace("SELECT day", "SELECT toInt32(day)"))
    assert found == [(*key, *row[:3], row[3].tolist()) for key, row in sorted(by_day.items())]
    db.close()


def _child(config: ClickHouseConfig, table: str, fail: str) -> None:
    failpoints.arm(fail)
    sink = KINDS[table](config, "t@one")
    sink.take_over()
    records = made(table, 40)
    for i in range(0, 40, 8):
        sink.write(records[i : i + 8])
    sys.exit(0)


@pytest.mark.parametrize("table", KINDS)
def test_killed_between_any_two_steps(config: ClickHouseConfig, table: str) -> None:
    records = made(table, 40)
    points = ("mid_insert=kill@2", "after_send=kill@2", f"after_insert_{table}=kill@1", "")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    for point in points:
        child = context.Process(target=_child, args=(config, table, f"sink_clickhouse.{point}" if point else ""))
        child.start()
        child.join(180)
        assert child.exitcode == (-signal.SIGKILL if point else 0), point
        have = stored(config, table)
        assert have == [row for row in wanted(table, records) if row in have], "a prefix, nothing twice"
    assert stored(config, table) == wanted(table, records)


@pytest.mark.parametrize("table", KINDS)
def test_a_row_that_is_doubled_is_found(config: ClickHouseConfig, table: str) -> None:
    sink = KINDS[table](config, "t@one")
    sink.take_over()
    failpoints.arm(f"sink_clickhouse.after_insert_{table}=raise")
    try:
        with pytest.raises(failpoints.FailPointError):
            sink.write(made(table, 4))
    finally:
        failpoints.arm("")
    assert KINDS[table](config, "t@one").take_over() != {}
    again = KINDS[table](config, "t@one")
    again.take_over()
    again.positions = {}
    with pytest.raises(InvariantError, match="must be stored"):
        again.write(made(table, 4))
    with pytest.raises(InvariantError, match="stored twice"):
        KINDS[table](config, "t@one").take_over()


def test_no_server_is_one_sentence() -> None:
    with pytest.raises(PartUnavailableError, match=r"127\.0\.0\.1:1"):
        SealSink(ClickHouseConfig("127.0.0.1", 1, "clearline_none"), "t@one").take_over()
