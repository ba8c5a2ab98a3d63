"""Whether keys were answered before, by what ClickHouse has of the journal: for letters that come back late."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from clearline.connection import Connection
from schemas.errors import PartUnavailableError
from sinks.clickhouse import ClickHouseConfig
from sinks.lookup import Lookup
from streams.reader import offsets_at, read_decided
from streams.topics import topic_ids

_OF_OUR_OWN = ("repeated",)  # these only point to another


class AnsweredBefore:
    """Asks ClickHouse, once it is sure to have everything that the ledger may have forgotten. `memory_ms`: for how long
    a key is remembered at least."""

    def __init__(self, system: Connection, clickhouse: ClickHouseConfig, memory_ms: int) -> None:
        self._system, self._clickhouse, self._memory_ms = system, clickhouse, memory_ms

    def __call__(self, command_ids: Sequence[bytes]) -> Mapping[bytes, Sequence[tuple[int, int, str]]]:
        """Partition, offset and outcome of each command that is stored under these ids. Raises PartUnavailableError."""
        s, journal = self._system, self._system.topics.journal
        lookup = Lookup(self._clickhouse, f"{journal}@{topic_ids(s.kafka, [journal])[journal]}")
        try:
            self._check_is_there(lookup.ends())
            found = lookup.by_commands(command_ids)
        finally:
            lookup.close()
        return {
            cid: [(x.partition, x.source_offset, x.outcome) for x in rows if x.outcome not in _OF_OUR_OWN]
            for cid, rows in found.items()
        }

    def _check_is_there(self, ends: Mapping[int, int]) -> None:
        """Half of the ledger's memory must be stored at least. Raises PartUnavailableError."""
        s = self._system
        since = time.time_ns() // 1_000_000 - self._memory_ms // 2
        wanted = offsets_at(s.kafka, s.topics.journal, dict.fromkeys(range(s.partitions), since))
        behind = [p for p, offset in wanted.items() if self._has_records(p, ends.get(p, 0), offset)]
        if behind:
            days = self._memory_ms // 172_800_000
            why = f"it has not yet what partition {behind[0]} of the journal had {days} days ago"
            raise PartUnavailableError("ClickHouse", f"{self._clickhouse.host}:{self._clickhouse.port}", why)

    def _has_records(self, partition: int, start: int, end: int) -> bool:
        """Whether the journal has a record there. A quiet partition ends with the end marker of a Kafka transaction,
        which takes an offset and is in no store."""
        s = self._system
        if start >= end:
            return False
        return any(True for _ in read_decided(s.kafka, s.topics.journal, {partition: end}, {partition: start}))


def nobody_says(_ids: Sequence[bytes]) -> Mapping[bytes, Sequence[tuple[int, int, str]]]:
    """For a world without a ClickHouse. Raises PartUnavailableError."""
    raise PartUnavailableError("ClickHouse", "no address", "only it knows keys that the ledger has forgotten")
