"""Where the journal has a command that is known by nothing but its id, as ClickHouse knows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sinks.clickhouse import ClickHouseConfig, Database

QUERIES = {
    "ends": "SELECT partition, max(offset) + 1 FROM {database}.outcomes WHERE topic = %(topic)s "
    "GROUP BY topic, partition",
    "by_command": "SELECT partition, offset, source_offset, sequence, outcome, reason, command, first_offset "
    "FROM {database}.outcomes WHERE command_id = unhex(%(id)s) AND topic = %(topic)s",
    "by_commands": "SELECT lower(hex(command_id)), partition, offset, source_offset, sequence, outcome, reason, "
    "command, first_offset FROM {database}.outcomes "
    "WHERE command_id IN (SELECT CAST(unhex(arrayJoin(%(ids)s)) AS FixedString(16))) AND topic = %(topic)s",
}
_IDS_MAX = 5_000  # in one query


class Stored(NamedTuple):
    """One row of `outcomes`: a journal record at `offset`, about the command at `source_offset` or `first_offset`."""

    partition: int
    offset: int
    source_offset: int
    sequence: int
    outcome: str
    reason: str
    command: str
    first_offset: int


class Lookup:
    """Asks one database. Not thread-safe. `topic`: the journal's name and id, as rows carry them.

    Every call raises PartUnavailableError when the server does not answer, BadInputError when it lacks the tables.
    """

    def __init__(self, config: ClickHouseConfig, topic: str) -> None:
        self._database = Database(config)
        self._topic = topic

    def ends(self) -> dict[int, int]:
        """From which offset of each partition of the journal on nothing is stored; those of which something is."""
        return {int(p): int(end) for p, end in self._database.rows(self._text("ends"), {"topic": self._topic})}

    def by_command(self, command_id: bytes) -> list[Stored]:
        """Every outcome of a command that is stored."""
        asked = {"topic": self._topic, "id": command_id.hex()}
        return [Stored(*row) for row in self._database.rows(self._text("by_command"), asked)]

    def by_commands(self, command_ids: Sequence[bytes]) -> dict[bytes, list[Stored]]:
        """The same of many commands; those of which something is stored."""
        out: dict[bytes, list[Stored]] = {}
        for i in range(0, len(command_ids), _IDS_MAX):
            asked = {"topic": self._topic, "ids": [c.hex() for c in command_ids[i : i + _IDS_MAX]]}
            for name, *row in self._database.rows(self._text("by_commands"), asked):
                out.setdefault(bytes.fromhex(name), []).append(Stored(*row))
        return out

    def close(self) -> None:
        self._database.close()

    def _text(self, name: str) -> str:
        return QUERIES[name].replace("{database}", self._database.name)
