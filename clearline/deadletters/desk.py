"""The dead letters of one world and what was done with them: what `clearline dlq` and the console look at.

A desk keeps the history (`moves`) and reads only what is new of it; letters are read anew, because their bytes are not
kept in memory.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearline.config import Settings
from clearline.connection import Connection, clickhouse_config, connect, registry_of
from clearline.deadletters.answered import AnsweredBefore, nobody_says
from clearline.deadletters.edits import corrected, exported, read_edits
from clearline.deadletters.groups import Group, group
from clearline.deadletters.judge import Judge
from clearline.deadletters.letters import Found, all_letters, letters_at, place_of
from clearline.deadletters.match import Facts, Match
from clearline.deadletters.moves import Moves
from clearline.deadletters.plan import Answered, Plan, Planner, Rules, facts_of
from schemas.errors import BadInputError, PartUnavailableError
from streams.places import KafkaLog, Placed, find_outcome, last_word
from streams.registry import Registry, learn_schemas
from streams.topics import DAY_MS
from streams.triage import Row, read_triage


class Desk:
    """See the module. Not thread-safe; blocking. Every call raises PartUnavailableError."""

    def __init__(
        self, system: Connection, registry: Registry, answered: Answered = nobody_says, memory_ms: int = 30 * DAY_MS
    ) -> None:
        self.system = system
        self.moves = Moves()
        self.log = KafkaLog(system.kafka)
        self._after: dict[int, int] | None = None
        self._died: set[tuple[int, int]] | None = None

        def learn(ids: set[int]) -> None:
            learn_schemas(system.codec, registry, ids, set())

        self.judge = Judge(system.codec, learn, system.partitions, system.message_bytes_max)
        self.planner = Planner(self.judge, self.outcome_of, answered, memory_ms)

    @classmethod
    def of(cls, settings: Settings) -> Desk:
        """The desk of a running world, whose settings hold all addresses (`clearline.stack.resolved_settings`)."""
        system = connect(settings)
        memory_ms = settings.settlement.keys_window_ms
        try:
            answered: Answered = AnsweredBefore(system, clickhouse_config(settings), memory_ms)
        except PartUnavailableError:
            answered = nobody_says
        return cls(system, registry_of(settings), answered, memory_ms)

    def refresh(self) -> Moves:
        """Reads what was done since the last time."""
        rows, self._after = read_triage(self.system.kafka, self.system.topics, self.system.codec, self._after)
        for row in rows:
            self.moves.take(row)
        self._died = None
        return self.moves

    def facts(self, match: Match | None = None) -> Iterator[Facts]:
        """What there is to say of each letter that matches, without its bytes."""
        self.refresh()
        for found in all_letters(self.system):
            facts = facts_of(found, self.moves, self.judge)
            if not match or match(facts):
                yield facts

    def groups(self, match: Match | None = None) -> list[Group]:
        """The letters in groups by cause, the largest open ones first."""
        return group(self.facts(match))

    def plan(self, match: Match, rules: Rules) -> Plan:
        """What a redrive or discard of all that matches would do."""
        moves = self.refresh()
        return self._prove(self.planner.plan(all_letters(self.system), moves, match, rules))

    def plan_edited(self, edits: Mapping[str, bytes], rules: Rules) -> Plan:
        """What putting back these corrections, by the letter's id, would do. Raises BadInputError for an unknown id."""
        letters = self.find(list(edits))
        return self._prove(self.planner.plan_edited(letters, edits, self.refresh(), rules))

    def _prove(self, plan: Plan) -> Plan:
        return self.planner.prove(plan, self.moves, time.time_ns() // 1_000_000)

    def find(self, ids: list[str]) -> list[Found]:
        """The letters with these ids, in their order. Raises BadInputError when one is not there."""
        places = [place_of(i) for i in ids]
        found = letters_at(self.log, self.system.topics.dead, [p for p in places if p[0] < self.system.partitions])
        missing = [i for i, p in zip(ids, places, strict=True) if p not in found]
        if missing:
            raise BadInputError(
                f"there is no dead letter {missing[0]} in {self.system.topics.dead}: see `clearline dlq ls`"
            )
        return [found[p] for p in places]

    def history(self, found: Found) -> list[dict[str, Any]]:
        """What was done with a letter and with the others of its family, and what became of it, oldest first."""
        moves = self.refresh()
        first = moves.first_of(found)
        rows = {id(r): r for r in (*moves.of(found), *moves.family(first))}
        out = []
        for row in sorted(rows.values(), key=lambda r: r.at):
            t = row.triage
            put_back = t.move == "redriven"
            outcome = (self.outcome_of(row) or "none yet") if put_back else ""
            out.append({
                "move": t.move, "letter": t.letter, "at": row.at, "task": t.task, "requested_by": t.requested_by,
                "note": t.note, "edited": t.edited, "partner_id": t.partner_id, "idempotency_key": t.idempotency_key,
                "to_partition": t.to_partition, "to_offset": t.to_offset, "outcome": outcome,
            })  # fmt: skip
        return out

    def outcome_of(self, row: Row) -> str:
        """What became of a command that was put back: the journal's word, `dead`, or empty while it has no outcome."""
        t = row.triage
        place = t.to_partition, t.to_offset
        decode, journal = self.judge.read, self.system.topics.journal
        placed: Placed | None = find_outcome(self.log, decode, journal, *place, row.at)
        if placed is not None:
            return last_word(self.log, decode, journal, t.to_partition, placed).record.outcome
        if self._died is None:
            self._died = {(f.letter.source_partition, f.letter.source_offset) for f in all_letters(self.system)}
        return "dead" if place in self._died else ""

    def close(self) -> None:
        """Closes its clients."""
        self.log.close()

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Seen:
    """Letters in groups, and the newest of them: what there is to say of each, and where it came from."""

    groups: list[Group]
    newest: list[tuple[Facts, Found]]

    @property
    def reasons(self) -> dict[str, int]:
        """How many there are of each reason."""
        counts: Counter[str] = Counter()
        for g in self.groups:
            counts[g.reason] += g.count
        return dict(sorted(counts.items()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "total": sum(g.count for g in self.groups),
            "open": sum(g.open for g in self.groups),
            "reasons": self.reasons,
            "groups": [g.to_dict() for g in self.groups],
            "letters": [
                {**found.to_dict(), "attempts": f.attempts, "state": f.state, "original": f.original}
                for f, found in self.newest
            ],
        }


def look(desk: Desk, match: Match, newest_max: int) -> Seen:
    """All that matches in groups, and the newest `newest_max`. Raises PartUnavailableError."""
    moves = desk.refresh()
    newest: deque[tuple[Facts, Found]] = deque(maxlen=newest_max)

    def seen() -> Iterator[Facts]:
        for found in all_letters(desk.system):
            facts = facts_of(found, moves, desk.judge)
            if match(facts):
                newest.append((facts, found))
                yield facts

    groups = group(seen())
    in_order = sorted(newest, key=lambda n: (n[0].received, n[1].partition, n[1].offset), reverse=True)
    return Seen(groups, in_order)


def export(desk: Desk, match: Match) -> Iterator[dict[str, Any]]:
    """What matches, as it is written into a file. Raises PartUnavailableError."""
    moves = desk.refresh()
    for found in all_letters(desk.system):
        if match(facts_of(found, moves, desk.judge)):
            yield exported(found, moves, desk.judge)


def plan_edited(desk: Desk, path: Path, rules: Rules) -> Plan:
    """The plan for the corrections in a file or folder. Raises BadInputError that names the line and what is wrong."""
    edits = read_edits(path)
    return desk.plan_edited(corrected(edits, desk.find(list(edits)), desk.judge), rules)
