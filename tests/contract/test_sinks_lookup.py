"""Looking a command up by its id: right before and after the projection was added, and answered from it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from sinks import migrate
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.ledger_sink import Arrival, LedgerSink
from sinks.lookup import QUERIES, Lookup
from tests.journals import Line, Maker, local_codec
from tests.sink_servers import ClickHouseServer, wait_for

TOPIC = "t.journal@1"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ClickHouseConfig, list[Line], int]]:
    """A database whose first half was written before the projection was there."""
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse"))
    server.start()
    config = server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    before = [m for m in migrate.committed() if m.number != 3]
    lines = Maker(31).lines(2000)
    migrate.apply(config, before)
    write(config, lines[:1000])
    assert [m.number for m in migrate.apply(config) if m.kind == "migration"] == [3]
    run = write(config, lines[1000:])
    yield config, lines, run
    server.stop()


def write(config: ClickHouseConfig, lines: list[Line]) -> int:
    """Stores them; the run of the sink that did, which is the one in office after it."""
    sink = LedgerSink(config, TOPIC, local_codec())
    sink.take_over()
    sink.write([Arrival(x.partition, x.offset, x.value) for x in lines])
    sink.close()
    return sink.run


def test_every_outcome_of_a_command_is_found_and_nobody_elses(stored: tuple[ClickHouseConfig, list[Line], int]) -> None:
    config, lines, _ = stored
    lookup = Lookup(config, TOPIC)
    by_id: dict[bytes, list[Line]] = {}
    for x in lines:
        by_id.setdefault(x.record.command_id, []).append(x)
    most = max(by_id.values(), key=len)
    for found in [most, *list(by_id.values())[::97]]:
        r = found[0].record
        rows = lookup.by_command(r.command_id)
        assert sorted((s.partition, s.offset) for s in rows) == sorted((x.partition, x.offset) for x in found)
        s = next(s for s in rows if (s.partition, s.offset) == (found[0].partition, found[0].offset))
        assert s == (
            found[0].partition, found[0].offset, r.source_offset, r.sequence, r.outcome, r.reason, r.command,
            r.first_offset,
        )  # fmt: skip
    assert lookup.by_command(bytes(16)) == []
    asked = [*list(by_id)[::50], bytes(16)]
    many = lookup.by_commands(asked)
    assert {c: sorted((s.partition, s.offset) for s in rows) for c, rows in many.items()} == {
        c: sorted((x.partition, x.offset) for x in by_id[c]) for c in asked[:-1]
    }
    assert lookup.by_commands([]) == {}
    ends: dict[int, int] = {}
    for x in lines:
        ends[x.partition] = max(ends.get(x.partition, 0), x.offset + 1)
    assert lookup.ends() == ends
    other = Lookup(config, "t.journal@2")
    assert (other.ends(), other.by_command(most[0].record.command_id)) == ({}, [])
    lookup.close()
    other.close()


def test_the_lookup_is_answered_from_projections(stored: tuple[ClickHouseConfig, list[Line], int]) -> None:
    config, lines, run = stored
    db = Database(config)

    def plan(name: str) -> str:
        query = QUERIES[name].replace("{database}", db.name)
        small = "SETTINGS min_table_rows_to_use_projection_index = 0"  # it is for tables of a million rows and more
        asked = {"topic": TOPIC, "id": lines[0].record.command_id.hex(), "ids": [lines[0].record.command_id.hex()]}
        rows = db.rows(f"EXPLAIN indexes = 1, projections = 1 {query} {small}", asked)
        return "\n".join(str(row[0]) for row in rows)  # ids in it are no text

    # The rows of before the migration are in it when its mutation is through.
    undone = f"SELECT count() FROM system.mutations WHERE database = '{db.name}' AND NOT is_done"
    wait_for("the mutation", lambda: db.rows(undone) == [(0,)])
    parts = (
        f"SELECT sum(rows) FROM system.projection_parts WHERE database = '{db.name}' AND name = 'by_command' AND active"
    )
    assert db.rows(parts) == [(len(lines),)]
    # A plan has something to choose only when there are more granules than one.
    db.run(
        "INSERT INTO outcomes (topic, partition, offset, sequence, booked_at, command_id, run) SELECT 'other', "
        f"number % 4, number, number, now64(3), MD5(toString(number)), {run} FROM numbers(100000)"
    )
    assert "ReadFromMergeTree (by_partition)" in plan("ends")
    for name in ("by_command", "by_commands"):
        assert "Name: by_command" in plan(name), plan(name)
    db.close()
