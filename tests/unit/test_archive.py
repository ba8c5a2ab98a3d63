"""Files of a backup, and how offsets with gaps are made again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import BadInputError
from streams.archive import put
from streams.archive.files import FileFacts, Kept, RecordFile, read_file
from streams.archive.put import Run, runs
from streams.archive.take import META, Stretch
from streams.reader import LogRecord


def record(offset: int, value: bytes | None = b"v") -> LogRecord:
    return LogRecord(0, offset, 1_000 + offset, b"k", value, [("reason", b"x")])


def written(folder: Path, offsets: list[int], start: int = 0, end: int = 0) -> FileFacts:
    file = RecordFile(folder, "journal", 0, start, end)
    for offset in offsets:
        file.add(record(offset, None if offset % 3 == 2 else b"v" * offset))
    file.close()
    return file.facts


def test_records_come_back_as_they_were(tmp_path):
    facts = written(tmp_path, [4, 5, 8], start=4, end=12)
    assert (facts.start, facts.last, facts.end, facts.records) == (4, 8, 12, 3)
    found = list(read_file(tmp_path, facts))
    assert [r.offset for r in found] == [4, 5, 8]
    assert found[0] == Kept(4, 1_004, b"k", b"vvvv", [("reason", b"x")])
    assert found[2].value is None


def test_an_empty_file_is_a_file(tmp_path):
    facts = written(tmp_path, [], start=7, end=9)
    assert (facts.last, facts.end) == (6, 9)
    assert list(read_file(tmp_path, facts)) == []


@pytest.mark.parametrize("damage", ["gone", "cut", "other", "more"])
def test_a_file_that_is_not_as_it_was_written_is_refused(tmp_path, damage):
    facts = written(tmp_path, list(range(50)))
    path = tmp_path / facts.name
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "other":
        written(tmp_path, [*range(49), 60])
    else:
        written(tmp_path, list(range(51)))
    with pytest.raises(BadInputError):
        list(read_file(tmp_path, facts))


def log_of(parts: list[Run]) -> list[tuple[int, str]]:
    """What a log holds after these runs are written: a record, a marker or a filler at each offset."""
    log: list[str] = []
    wanted: list[int] = []
    for run in parts:
        for r in run.records:
            wanted.append(r.offset)
            log.append("record")
        if run.marked:
            assert run.gap == 1, "a marker takes one offset"
            log.append("marker")
        elif run.gap:
            assert run.gap >= 2, "what is aborted takes a filler and a marker at least"
            log += ["filler"] * (run.gap - 1) + ["marker"]
    assert [n for n, what in enumerate(log) if what == "record"] == wanted
    return list(enumerate(log))


@given(st.lists(st.integers(0, 6), max_size=60), st.integers(0, 4), st.integers(1, 7))
def test_any_log_is_made_again_offset_for_offset(gaps, tail, most):
    offsets = [0]
    for gap in gaps:
        offsets.append(offsets[-1] + 1 + gap)
    before, put._COMMITTED_MAX = put._COMMITTED_MAX, most  # long runs are cut into several
    try:
        found = log_of(list(runs([Kept(o, 0, None, b"", []) for o in offsets], offsets[-1] + 1 + tail)))
    finally:
        put._COMMITTED_MAX = before
    assert len(found) == offsets[-1] + 1 + tail


def test_no_records_make_no_runs():
    assert list(runs([], 5)) == []


def stretch_of(rows: list[tuple[int, bytes]], start: int, end: int) -> bool:
    stretch = Stretch({0: start, 1: 9}, {0: end, 1: 9})
    for offset, key in rows:
        stretch.see(LogRecord(0, offset, 1_000, key, b"v", None))
    return stretch.is_whole()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.data())
def test_whatever_compaction_takes_out_of_a_stretch_of_the_state_is_seen(batches, data):
    rows, at = [], 100
    for size in batches:  # each batch ends with its `meta`, and then comes the end marker of its Kafka transaction
        rows += [(at + i, b"a:%d" % i) for i in range(size - 1)] + [(at + size - 1, META)]
        at += size + 1
    assert stretch_of(rows, 100, at)
    gone = data.draw(st.sets(st.integers(0, len(rows) - 1), min_size=1))
    assert not stretch_of([r for i, r in enumerate(rows) if i not in gone], 100, at)


def test_a_stretch_in_which_nothing_was_written_is_whole_and_one_that_was_aborted_is_not():
    assert stretch_of([], 100, 100)
    assert not stretch_of([], 100, 103)
    assert not stretch_of([(100, META)], 100, 104)
