"""A third witness: what the publisher was told is kept, and what the generator expected has come true.

The auditor replays the log it finds; only the publisher knows what should be in it. A record that the broker
acknowledged and then lost would never show otherwise.
"""

from __future__ import annotations

from pathlib import Path

from clearline.connection import Connection
from processors.finality import is_final, offset_of
from schemas.records import JournalRecord
from streams.reader import read_to_end
from tests.faults.publisher import digest_of


def check_acknowledged(path: Path, link: Connection) -> tuple[int, list[str]]:
    """How many records were acknowledged, and every one that is missing, altered, or turned out otherwise."""
    promised: dict[tuple[int, int], tuple[str, str]] = {}
    problems: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        first, second, digest, expected = line.split(" ")
        if first == "end":
            if digest != "0":
                problems.append(f"{digest} records were never acknowledged: the run says nothing about them")
            continue
        promised[int(first), int(second)] = (digest, expected)
    count = len(promised)
    missing = {place: digest for place, (digest, _) in promised.items()}
    for r in read_to_end(link.kafka, link.topics.submitted):
        digest = missing.pop((r.partition, r.offset), "")
        if digest and digest != digest_of(r.value):
            problems.append(f"submitted[{r.partition}] offset {r.offset} does not hold what was acknowledged")
    problems += [f"submitted[{p}] offset {o} was acknowledged and is not there" for p, o in sorted(missing)[:20]]
    problems += _unexpected(promised, link)
    return count, problems


def _unexpected(promised: dict[tuple[int, int], tuple[str, str]], link: Connection) -> list[str]:
    """Outcomes that are not those that the generator foresaw when it made the command."""
    problems = []
    waiting = {place: expected for place, (_, expected) in promised.items()}
    for r in read_to_end(link.kafka, link.topics.journal):
        record = link.codec.decode(r.value)
        assert isinstance(record, JournalRecord)
        # What crosses partitions is decided at a later command of its partition; the first record is not its outcome.
        offset = offset_of(record)
        expected = waiting.pop((record.source_partition, offset), "") if is_final(record) else ""
        found = f"rejected:{record.reason}" if record.outcome == "rejected" else record.outcome
        if expected and found != expected:
            at = f"submitted[{record.source_partition}] offset {offset}"
            problems.append(f"{at} is {found}, the generator expected {expected}")
    for r in read_to_end(link.kafka, link.topics.dead):
        headers = {k: v.decode() for k, v in r.headers or []}
        expected = waiting.pop((r.partition, int(headers["source_offset"])), "")
        if expected and expected != f"dead:{headers['reason']}":
            problems.append(f"dead[{r.partition}] offset {r.offset} is {headers['reason']}, expected {expected}")
    problems += [f"submitted[{p}] offset {o}: {e} was expected and never came" for (p, o), e in waiting.items()]
    return problems
