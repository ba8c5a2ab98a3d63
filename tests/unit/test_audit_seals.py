"""The auditor on seals: silent on true ones, and what was changed, dropped, doubled or forged is named with its place."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256

import msgspec
import pytest

from clearline.audit.contract import Terms
from clearline.audit.seals import SEALED_RECORDS_MAX
from clearline.audit.verdict import Verdict
from clearline.audit.verify import verify_world
from clearline.audit.views import JOURNAL, SEALS
from ledger.seals import SEAL_RECORDS_MAX
from schemas.records import Seal
from streams.reader import LogRecord
from tests.faults.memory_world import MemoryWorld, build_world

STEP_MS = 700  # several minutes in a world, so several seals


@cache
def _one() -> MemoryWorld:
    world = build_world(11, 900, step_ms=STEP_MS)
    world.seal()
    return world


@pytest.fixture
def world() -> MemoryWorld:
    return _one().clone()


def seals(w: MemoryWorld, p: int = 0) -> list[Seal]:
    return [w.codec.decode(r.value) for r in w.log.topic(SEALS, p)]


def change(w: MemoryWorld, i: int, forge: bool = False, **changes: object) -> None:
    """Changes the i-th seal; `forge`: and all after it, so that each names the one before it again."""
    rows = w.log.topic(SEALS, 0)
    rows[i] = rows[i]._replace(value=w.codec.encode(msgspec.structs.replace(seals(w)[i], **changes)))
    for j in range(i + 1, len(rows) if forge else 0):
        previous = sha256((rows[j - 1].value or b"")[5:]).digest()
        rows[j] = rows[j]._replace(value=w.codec.encode(msgspec.structs.replace(seals(w)[j], previous=previous)))


def span(w: MemoryWorld, i: int) -> str:
    s = seals(w)[i]
    return f"(sequence {s.first_sequence} to {s.last_sequence})"


def judge(w: MemoryWorld, now_ms: int | None = None) -> Verdict:
    return verify_world("live", w.log, w.codec.decode, Terms(w.log.partitions), drained=True, now_ms=now_ms)


def differences(w: MemoryWorld) -> tuple[str, ...]:
    return judge(w).check("seals").differences


def test_true_seals_hold(world: MemoryWorld) -> None:
    verdict = judge(world)
    check = verdict.check("seals")
    assert check.ok, verdict.lines()
    assert len(seals(world)) >= 5
    assert check.figures == {
        "seals": len(seals(world)) + len(seals(world, 1)),
        "records": len(world.records(0)) + len(world.records(1)),
        "not_sealed_yet": 0,
    }


def test_what_is_not_sealed_yet_is_counted_and_not_judged(world: MemoryWorld) -> None:
    last = seals(world)[-1]
    world.log.topic(SEALS, 0).pop()
    verdict = judge(world)
    assert verdict.check("seals").ok, verdict.lines()
    assert verdict.check("seals").figures["not_sealed_yet"] == last.last_sequence - last.first_sequence + 1
    assert verdict.notes == ()
    late = judge(world, last.first_booked_at + 7 * 60_000)
    assert late.check("seals").ok
    (note,) = late.notes
    assert f"partition 0: the records from sequence {last.first_sequence} on are not sealed" in note
    assert "7 minutes ago" in note
    assert judge(world, last.first_booked_at + 4 * 60_000).notes == ()


def test_a_world_without_a_seal_is_right_and_says_that_nothing_is_sealed() -> None:
    world = build_world(11, 900, step_ms=STEP_MS)
    verdict = judge(world)
    assert verdict.check("seals").ok
    assert verdict.check("seals").figures == {"not_sealed_yet": sum(len(world.records(p)) for p in range(2))}
    assert len(verdict.notes) == 2


def drop(w: MemoryWorld) -> tuple[str, ...]:
    gone, after = seals(w)[2], span(w, 3)
    del w.log.topic(SEALS, 0)[2]
    return after, "does not name the seal before it", "a gap", f"sequence {gone.first_sequence}: is under no seal"


def double(w: MemoryWorld) -> tuple[str, ...]:
    rows = w.log.topic(SEALS, 0)
    rows.insert(3, rows[2]._replace(offset=rows[2].offset))
    return span(w, 2), "a fork"


def fork(w: MemoryWorld) -> tuple[str, ...]:
    """Another seal over the same records, that names the same one before it, with a later clock."""
    rows = w.log.topic(SEALS, 0)
    second = msgspec.structs.replace(seals(w)[2], sealed_at=seals(w)[2].sealed_at + 1)
    rows.insert(3, rows[2]._replace(value=w.codec.encode(second)))
    return span(w, 2), "a fork", "does not name the seal before it"


def swap(w: MemoryWorld) -> tuple[str, ...]:
    rows = w.log.topic(SEALS, 0)
    rows[1], rows[2] = rows[1]._replace(value=rows[2].value), rows[2]._replace(value=rows[1].value)
    return span(w, 1), "a gap", "a fork"


def root(w: MemoryWorld) -> tuple[str, ...]:
    change(w, 2, forge=True, root=bytes(32))
    return span(w, 2), "the root is not that of the journal's records"


def head(w: MemoryWorld) -> tuple[str, ...]:
    change(w, 2, forge=True, chain=bytes(32))
    return span(w, 2), "the chain head is not that of the journal"


def times(w: MemoryWorld) -> tuple[str, ...]:
    change(w, 2, forge=True, last_booked_at=seals(w)[2].last_booked_at + 1)
    return span(w, 2), "the times are not those"


def previous(w: MemoryWorld) -> tuple[str, ...]:
    change(w, 2, previous=bytes(32))
    return span(w, 2), span(w, 3), "does not name the seal before it"


def clock(w: MemoryWorld) -> tuple[str, ...]:
    """Nothing recomputes when it was sealed; but the seal after it has its hash."""
    change(w, 2, sealed_at=1)
    return span(w, 3), "does not name the seal before it"


def partition(w: MemoryWorld) -> tuple[str, ...]:
    change(w, 2, forge=True, partition=1)
    return span(w, 2), "is of partition 1"


def why(w: MemoryWorld) -> tuple[str, ...]:
    change(w, 2, forge=True, why="whim")
    return span(w, 2), "'whim'"


def day(w: MemoryWorld) -> tuple[str, ...]:
    change(w, 2, forge=True, why="day_close")
    return span(w, 2), f"the record at sequence {seals(w)[2].last_sequence} closed no day"


def open_day(w: MemoryWorld) -> tuple[str, ...]:
    """A record that closed a day stands in the middle of a seal."""
    rows, at = w.log.topic(JOURNAL, 0), seals(w)[2].first_sequence
    record = msgspec.structs.replace(w.records(0)[at], command="CloseDay", outcome="applied")
    rows[at] = rows[at]._replace(value=w.codec.encode(record))
    return span(w, 2), f"the record at sequence {at + 1} closed a day"


def wide(w: MemoryWorld) -> tuple[str, ...]:
    change(w, 2, forge=True, last_sequence=2**40)
    return f"{seals(w)[2].first_sequence} to {2**40}", "covers"


def empty(w: MemoryWorld) -> tuple[str, ...]:
    change(w, 2, forge=True, last_sequence=seals(w)[2].first_sequence - 1)
    return span(w, 2), "covers 0 records"


def shorter(w: MemoryWorld) -> tuple[str, ...]:
    change(w, 2, forge=True, last_sequence=seals(w)[2].last_sequence - 1)
    return span(w, 2), span(w, 3), "a gap", "the root is not"


def beyond(w: MemoryWorld) -> tuple[str, ...]:
    last = len(seals(w)) - 1
    change(w, last, last_sequence=seals(w)[last].last_sequence + 3)
    return span(w, last), "the journal ends at sequence"


def garbage(w: MemoryWorld) -> tuple[str, ...]:
    rows = w.log.topic(SEALS, 0)
    rows[2] = rows[2]._replace(value=b"\0\0\0\0\7junk")
    return f"seals[0] offset {rows[2].offset} does not decode", "a gap"


def stranger(w: MemoryWorld) -> tuple[str, ...]:
    rows = w.log.topic(SEALS, 0)
    rows[2] = rows[2]._replace(value=w.log.topic(JOURNAL, 0)[0].value)
    return f"seals[0] offset {rows[2].offset} is a JournalRecord, not a seal", "a gap"


def truncated(w: MemoryWorld) -> tuple[str, ...]:
    del w.log.topic(JOURNAL, 0)[-3:]
    return span(w, len(seals(w)) - 1), f"the journal ends at sequence {len(w.records(0))}"


CHANGES: tuple[Callable[[MemoryWorld], tuple[str, ...]], ...] = (
    drop, double, fork, swap, root, head, times, previous, clock, partition, why, day, open_day, wide, empty, shorter, beyond, garbage,
    stranger, truncated,
)  # fmt: skip


@pytest.mark.parametrize("tamper", CHANGES, ids=lambda f: f.__name__)
def test_whatever_is_changed_is_named_with_its_place(
    world: MemoryWorld, tamper: Callable[..., tuple[str, ...]]
) -> None:
    expected = tamper(world)
    found = differences(world)
    for text in expected:
        assert any(text in d for d in found), (text, found)


def test_a_journal_rewritten_with_its_whole_chain_is_caught_by_the_seals(world: MemoryWorld) -> None:
    """Who can write the journal can forge the chain from there on; the roots that were sealed before do not fit then."""
    rows = world.log.topic(JOURNAL, 0)
    at = seals(world)[2].first_sequence + 1
    chain = (rows[at - 1].value or b"")[-32:]
    record = msgspec.structs.replace(world.records(0)[at], reference="another order")
    rows[at] = rows[at]._replace(value=world.codec.journal_header + world.codec.journal_body(record) + bytes(32))
    for i in range(at, len(rows)):
        body = (rows[i].value or b"")[5:-32]
        chain = sha256(chain + body).digest()
        rows[i] = LogRecord(*rows[i][:4], world.codec.journal_header + body + chain, rows[i].headers)
    verdict = judge(world)
    assert "chain" not in verdict.failed
    found = verdict.check("seals").differences
    assert f"{span(world, 2)}: the root is not that of the journal's records" in found[0]
    assert len([d for d in found if "the root is not" in d]) == len(seals(world)) - 2
    assert not any(span(world, 1) in d for d in found)


def test_auditor_and_sealer_agree_on_how_much_one_seal_covers():
    assert SEALED_RECORDS_MAX == SEAL_RECORDS_MAX == 65_536
