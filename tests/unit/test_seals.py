"""When the journal is sealed: with the minute, the day and the largest number, without gap or overlap, by any sealer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import seals
from ledger.seals import FIRST_PREVIOUS, MINUTE_MS, Sealing
from schemas.codec import Codec, avro_body
from schemas.errors import InvariantError
from schemas.merkle import leaf, root
from schemas.records import RECORDS, CloseDay, Seal

CODEC = Codec({name: i for i, name in enumerate(RECORDS, 1)})
START_MS = 1_795_338_000_000 // MINUTE_MS * MINUTE_MS
LATER_MS = START_MS + 90 * MINUTE_MS


class Part(NamedTuple):
    """What sealing looks at in a record, and its bytes."""

    outcome: str
    sequence: int
    booked_at: int
    command: str
    value: bytes


def journal(times: Iterable[int], closes: frozenset[int] = frozenset(), outcome: str = "applied") -> list[Part]:
    """A chained journal with a record at each of these times (ms after START_MS); `closes`: sequences of CloseDay."""
    chain, out = bytes(32), []
    for sequence, at in enumerate(times, 1):
        body = f"record {sequence} at {at}".encode()
        chain = sha256(chain + body).digest()
        command = "CloseDay" if sequence in closes else "Transaction"
        out.append(Part(outcome, sequence, START_MS + at, command, body + chain))
    return out


def body_of(seal: Seal) -> bytes:
    return CODEC.encode(seal)[5:]


def seal_all(records: Sequence[Part], sealing: Sealing | None = None, now_ms: int = LATER_MS) -> list[Seal]:
    sealing = sealing or Sealing(0, None, body_of)
    out = [s for r in records for s in sealing.take(r, r.value, now_ms)]
    return out + sealing.at_end(now_ms)


def check(found: Sequence[Seal], records: Sequence[Part], end: int | None = None) -> None:
    """No gap, no overlap, no fork; every seal says what its records say."""
    previous, sequence = FIRST_PREVIOUS, 0
    for s in found:
        covered = records[s.first_sequence - 1 : s.last_sequence]
        assert (s.first_sequence, s.previous) == (sequence + 1, previous)
        assert 1 <= len(covered) == s.last_sequence - sequence <= seals.SEAL_RECORDS_MAX
        assert s.root == root([leaf(r.value) for r in covered])
        assert s.chain == covered[-1].value[-32:]
        assert (s.first_booked_at, s.last_booked_at) == (covered[0].booked_at, covered[-1].booked_at)
        previous, sequence = sha256(avro_body(s)).digest(), s.last_sequence
    assert sequence == (len(records) if end is None else end)


def spans(found: Sequence[Seal]) -> list[tuple[int, int, str]]:
    return [(s.first_sequence, s.last_sequence, s.why) for s in found]


def test_a_seal_ends_with_the_minute_of_what_was_booked():
    records = journal([0, 10, 59_999, 60_000, 60_001, 200_000])
    found = seal_all(records)
    assert spans(found) == [(1, 3, "minute"), (4, 5, "minute"), (6, 6, "minute")]
    check(found, records)


def test_a_closed_day_is_sealed_at_once_and_with_its_record():
    records = journal(range(6), frozenset({3, 5}))
    found = [s for s in seal_all(records) if s.why == "day_close"]
    assert spans(found) == [(1, 3, "day_close"), (4, 5, "day_close")]
    assert CloseDay.__name__ == seals.DAY_CLOSE
    assert seal_all(journal(range(6), frozenset({3}), "rejected"), now_ms=START_MS) == []


def test_a_minute_and_a_day_may_end_at_one_record():
    records = journal([0, 70_000], frozenset({2}))
    assert spans(seal_all(records)) == [(1, 1, "minute"), (2, 2, "day_close")]


def test_a_seal_covers_so_many_records_and_no_more(monkeypatch):
    monkeypatch.setattr(seals, "SEAL_RECORDS_MAX", 4)
    records = journal(range(9))
    found = seal_all(records)
    assert spans(found) == [(1, 4, "size"), (5, 8, "size"), (9, 9, "minute")]
    check(found, records)


def test_the_clock_seals_only_a_minute_that_is_over_and_not_at_every_look():
    sealing = Sealing(0, None, body_of)
    records = journal([100, 200, 300])
    sealing.take(records[0], records[0].value, START_MS + 100)
    assert sealing.at_end(START_MS + 59_999) == []
    assert spans(sealing.at_end(START_MS + MINUTE_MS)) == [(1, 1, "minute")]
    assert sealing.at_end(START_MS + 2 * MINUTE_MS) == [], "nothing is never sealed"
    sealing.take(records[1], records[1].value, START_MS)
    ahead = START_MS + 500 * MINUTE_MS
    assert spans(sealing.at_end(ahead)) == [(2, 2, "minute")]
    sealing.take(records[2], records[2].value, START_MS)
    assert sealing.at_end(ahead + 4_999) == [], "a clock that is wrong does not make a seal at each look"
    assert spans(sealing.at_end(ahead + 5_000)) == [(3, 3, "minute")]


@given(st.integers(0, 2**32), st.integers(1, 80))
def test_whoever_seals_and_dies_whenever_there_is_no_gap_and_no_overlap(seed, count):
    """Sealers die after any record, with or without the seals that they had made; the next goes on from what is kept."""
    rnd = Random(seed)
    times = [0]
    for _ in range(count - 1):
        times.append(times[-1] + rnd.choice((1, 5_000, 70_000)))
    records = journal(times, frozenset(rnd.sample(range(1, count + 1), count // 10)))
    kept: list[Seal] = []
    while not kept or kept[-1].last_sequence < count:
        last = (kept[-1], body_of(kept[-1])) if kept else None
        sealing = Sealing(0, last, body_of)
        start = rnd.randrange(sealing.sealed) if sealing.sealed and rnd.random() < 0.5 else max(0, sealing.sealed - 1)
        for r in records[start:]:
            due = sealing.take(r, r.value, LATER_MS)
            if rnd.random() < 0.05:
                kept += due if rnd.random() < 0.5 else []
                break
            kept += due
        else:
            kept += sealing.at_end(records[-1].booked_at + MINUTE_MS)
    check(kept, records)
    straight = seal_all(records, now_ms=records[-1].booked_at + MINUTE_MS)
    assert spans(kept) == spans(straight), "seals of the log alone: a sealer that died made the same"


@pytest.mark.parametrize("what", ["gap", "chain", "another journal"])
def test_a_journal_that_is_not_the_one_that_was_sealed_is_refused(what):
    records = journal(range(8))
    found = seal_all(records[:4])
    sealing = Sealing(0, (found[-1], body_of(found[-1])), body_of)
    rest = records[3:]
    if what == "gap":
        del rest[2]
    elif what == "chain":
        rest[2] = rest[2]._replace(value=b"x" + rest[2].value[1:])
    else:
        rest = journal(range(5, 13))[3:]
    with pytest.raises(InvariantError, match="partition 0") as refused:
        seal_all(rest, sealing)
    assert refused.value.partition == 0
