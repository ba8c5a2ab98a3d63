"""Finding commands in a log and in what is stored of it: by place, by id, with gaps, repeats and payments between partitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random

import pytest

from schemas.errors import PartUnavailableError
from schemas.identity import command_id
from schemas.records import JournalRecord
from sinks.lookup import Stored
from streams.finder import Search
from streams.places import CHUNK, find_outcome
from streams.reader import LogRecord
from streams.topics import Topics
from tests.crossing_world import Between, bank, pay
from tests.ledger_world import CODEC

TOPICS = Topics("t")
JOURNAL, SUBMITTED = TOPICS.journal, TOPICS.submitted


class FakeLog:
    """Topics in memory. `asked` counts how often records were looked for."""

    def __init__(self) -> None:
        self.topics: dict[tuple[str, int], list[LogRecord]] = {}
        self.kept_from: dict[tuple[str, int], int] = {}
        self.asked = 0

    def put(self, topic: str, partition: int, offset: int, value: bytes, time_ms: int) -> None:
        records = self.topics.setdefault((topic, partition), [])
        records.append(LogRecord(partition, offset, time_ms, b"k", value, None))

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        records = self.topics.get((topic, partition), [])
        return self.kept_from.get((topic, partition), 0), records[-1].offset + 2 if records else 0  # and a marker

    def chunks(self, topic: str, starts: Mapping[int, int]) -> Iterator[list[LogRecord]]:
        for p, start in starts.items():
            low, _ = self.span(topic, p)
            records = [r for r in self.topics.get((topic, p), []) if r.offset >= max(start, low)]
            for i in range(0, len(records), CHUNK):
                self.asked += 1
                yield records[i : i + CHUNK]

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        records = self.topics.get((topic, partition), [])
        return next((r.offset for r in records if r.timestamp_ms >= time_ms), self.span(topic, partition)[1])


class FakeIndex:
    """What a sink has stored: the journal below an offset of each partition."""

    def __init__(self, log: FakeLog, upto: Mapping[int, int]) -> None:
        self._log = log
        self._upto = upto
        self.away = False

    def ends(self) -> dict[int, int]:
        if self.away:
            raise PartUnavailableError("ClickHouse", "here:1")
        return {p: end for p, end in self._upto.items() if end}

    def by_command(self, command_id: bytes) -> list[Stored]:
        found = []
        for p, end in self._upto.items():
            for r in self._log.topics.get((JOURNAL, p), []):
                j: JournalRecord = CODEC.decode(r.value)
                if j.command_id == command_id and r.offset < end:
                    found.append(
                        Stored(p, r.offset, j.source_offset, j.sequence, j.outcome, j.reason, j.command, j.first_offset)
                    )
        return found


def log_of(world: Between) -> FakeLog:
    """The logs and journals of a world, the journals with markers between the records."""
    log = FakeLog()
    random = Random(5)
    for p, side in enumerate(world.sides):
        for offset, value in enumerate(side.log):
            log.put(SUBMITTED, p, offset, value, 1_000 + offset)
        at = 0
        for value in side.journal:
            log.put(JOURNAL, p, at, value, 1_000 + CODEC.decode(value).source_offset)
            at += 1 + random.randrange(3)
    return log


def search(log: FakeLog, index: FakeIndex) -> Search:
    return Search(log, index, CODEC.decode, TOPICS, 2)


@pytest.mark.parametrize("seed", range(8))
def test_every_record_is_found_by_the_offset_of_its_command(seed: int):
    """Dead letters leave gaps among the commands, markers among the records, and a broker's clock may step back."""
    random = Random(seed)
    (template,) = bank(["acme"]).records(0)[:1]
    log, times, source, at, now = FakeLog(), {}, 0, 0, 1_000_000
    for _ in range(random.choice((1, 2, 300, 3_000))):
        source += random.choice((1, 1, 1, 2, 5))
        at += random.choice((1, 1, 1, 2, 4))
        now += random.choice((0, 0, 1, 30, -500 if seed % 2 else 1))
        fields = {f: getattr(template, f) for f in template.__struct_fields__} | {"source_offset": source}
        log.put(JOURNAL, 0, at, CODEC.encode(JournalRecord(**fields)), now)
        times[source] = now
    for wanted in [0, *random.sample(range(1, source + 1), min(source, 300)), source + 1]:
        for time_ms in (-1, times.get(wanted, now), now + 10**6):
            found = find_outcome(log, CODEC.decode, JOURNAL, 0, wanted, time_ms)
            assert (found is not None) == (wanted in times), (wanted, time_ms)
            assert found is None or found.record.source_offset == wanted
    log.asked = 0
    find_outcome(log, CODEC.decode, JOURNAL, 0, max(times), times[max(times)])
    assert log.asked <= 6


def test_nothing_is_found_in_an_empty_journal():
    log = FakeLog()
    assert find_outcome(log, CODEC.decode, JOURNAL, 0, 5) is None
    assert search(log, FakeIndex(log, {})).at(0, 5) is None
    assert search(log, FakeIndex(log, {})).at(7, 5) is None
    assert search(log, FakeIndex(log, {})).by_id(bytes(16)) is None


def paid() -> Between:
    """acme pays zeta in the other partition, once in vain; and pays itself twice under one key, then asks another."""
    world = bank(["acme", "zeta"])
    assert world.place("acme") != world.place("zeta")
    world.submit(pay("x", 5, "acme:w:a", "zeta:w:a"), pay("y", 5, "acme:w:a", "zeta:w:none"))
    world.submit(pay("o-1", 7, "acme:w:a", "acme:w:b"), pay("o-1", 7, "acme:w:a", "acme:w:b"))
    world.submit(pay("o-1", 8, "acme:w:a", "acme:w:b"), pay("x", 5, "acme:w:a", "zeta:w:a"))
    return world


def place(world: Between, key: str, nth: int = 0) -> tuple[int, int]:
    home = world.place("acme")
    log = [CODEC.decode(v) for v in world.sides[home].log]
    return home, [i for i, c in enumerate(log) if c.idempotency_key == key and c.partner_id == "acme"][nth]


def said(found: object) -> tuple[str, str, int]:
    assert found is not None
    record, command = found.record, found.command  # type: ignore[attr-defined]
    return record.outcome, str(record.reason), command.amount if command is not None else -1


def test_a_command_is_found_by_its_place_with_what_was_asked():
    world = paid()
    world.run()
    log = log_of(world)
    s = search(log, FakeIndex(log, {}))
    assert said(s.at(*place(world, "x"))) == ("settled", "", 5)
    assert said(s.at(*place(world, "y"))) == ("rejected", "account_unknown", 5)
    assert said(s.at(*place(world, "o-1"))) == ("settled", "", 7)
    assert said(s.at(*place(world, "o-1", 1))) == ("settled", "", 7), "a repeat leads to the first"
    assert said(s.at(*place(world, "o-1", 2))) == ("rejected", "idempotency_conflict", 8)
    assert said(s.at(*place(world, "x", 1))) == ("settled", "", 5)
    home, first = place(world, "o-1")
    log.kept_from[SUBMITTED, home] = first + 1
    assert said(s.at(home, first)) == ("settled", "", -1), "retention has dropped the command, not its outcome"


def test_a_payment_under_way_is_found_as_far_as_it_is():
    world = paid()
    home, away = world.place("acme"), world.place("zeta")
    world.deliver(home, 2)
    log = log_of(world)
    s = search(log, FakeIndex(log, {home: 10**6}))
    assert said(s.at(*place(world, "x"))) == ("applied", "", 5)
    assert said(s.by_id(command_id("acme", "x"))) == ("applied", "", 5)
    assert s.at(*place(world, "o-1")) is None, "it is not settled yet"
    world.deliver(away, 2)
    world.deliver(home, 7)
    log = log_of(world)
    stored = {home: log.topics[JOURNAL, home][-2].offset, away: 0}
    s = search(log, FakeIndex(log, stored))
    assert said(s.by_id(command_id("acme", "x"))) == ("settled", "", 5)
    assert said(s.by_id(command_id("acme", "y"))) == ("rejected", "account_unknown", 5)


@pytest.mark.parametrize("part", [0, 1, 2, 3])
def test_a_command_is_found_by_its_id_however_much_is_stored(part: int):
    world = paid()
    world.run()
    log = log_of(world)
    upto = {p: (log.topics[JOURNAL, p][-1].offset + 1) * part // 3 for p in (0, 1)}
    s = search(log, FakeIndex(log, upto))
    assert said(s.by_id(command_id("acme", "x"))) == ("settled", "", 5)
    assert said(s.by_id(command_id("acme", "y"))) == ("rejected", "account_unknown", 5)
    assert said(s.by_id(command_id("acme", "o-1"))) == ("settled", "", 7)
    admitted = s.by_id(command_id("bank", "admit-zeta"))
    assert admitted is not None
    assert (admitted.record.outcome, admitted.record.command) == ("applied", "AdmitPartner")
    assert admitted.command is not None
    assert s.by_id(command_id("acme", "never")) is None


def test_without_the_index_what_is_not_found_is_not_said_to_be_missing():
    world = paid()
    world.run()
    log = log_of(world)
    index = FakeIndex(log, {0: 0, 1: 0})
    s = search(log, index)
    index.away = True
    with pytest.raises(PartUnavailableError):
        s.by_id(command_id("acme", "x"))
    index.away = False
    assert s.by_id(command_id("acme", "never")) is None
    index.away = True
    assert said(s.by_id(command_id("acme", "x"))) == ("settled", "", 5)
    with pytest.raises(PartUnavailableError):
        s.by_id(command_id("acme", "never"))


def test_what_waits_is_found_and_behind_too_many_nothing_is_said_to_be_missing():
    """Settlement is far behind: what was acknowledged is not told to be unknown because nobody looked far enough."""
    (template,) = bank(["acme"]).records(0)[:1]
    log = FakeLog()
    for offset in range(900):
        log.put(SUBMITTED, 0, offset, CODEC.encode(pay(f"w-{offset}", 1, "acme:w:a", "acme:w:b")), 1_000 + offset)
    fields = {f: getattr(template, f) for f in template.__struct_fields__} | {"source_offset": 99}
    log.put(JOURNAL, 0, 150, CODEC.encode(JournalRecord(**fields)), 1_099)
    looked = search(log, FakeIndex(log, {}))
    for offset in (100, 899):
        found = looked.waiting(0, command_id("acme", f"w-{offset}"), 1_000)
        assert found is not None
        assert found.place == (0, offset)
    assert looked.waiting(0, command_id("acme", "w-99"), 1_000) is None, "it is settled"
    assert looked.waiting(0, command_id("acme", "none"), 1_000) is None
    with pytest.raises(PartUnavailableError, match="more than 300 commands"):
        looked.waiting(0, command_id("acme", "w-899"), 300)
