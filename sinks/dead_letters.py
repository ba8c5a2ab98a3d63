"""Dead letters into ClickHouse, under the same fence and the same read-back as the ledger.

One table and one part per insert, in the order of the log: so the highest offset of a partition is the point to go on
from, and nothing can be torn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from schemas.errors import BadInputError, InvariantError, PartUnavailableError
from schemas.failpoints import failpoint
from schemas.records import DeadLetter
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.fence import take_over

INSERT_BYTES = 32_000_000
INSERT_ROWS = 50_000
_TEXTS = ("source_topic", "reason", "detail")


class Letter(NamedTuple):
    """One dead letter and where it stands in transactions.dead."""

    partition: int
    offset: int
    letter: DeadLetter


class DeadLetterSink:
    """Writes dead letters. `topic`: name and id of transactions.dead. Use it as `LedgerSink`."""

    def __init__(self, config: ClickHouseConfig, topic: str) -> None:
        self._db = Database(config)
        self._topic = topic
        self.run = 0
        self.positions: dict[int, int] = {}

    def take_over(self) -> dict[int, int]:
        """Becomes the one sink; the next offset of each partition that has any. Raises as `LedgerSink.take_over`."""
        self.run = 0
        run = take_over(self._db, ("dead_letters",))
        rows = self._db.rows(
            f"SELECT topic, partition, max(offset), count() = uniqExact(offset) FROM {self._db.name}.dead_letters "
            "GROUP BY topic, partition"
        )
        for topic, p, _, once in rows:
            if topic != self._topic:
                raise BadInputError(
                    f"database {self._db.name} holds dead letters of {topic}, this is {self._topic}: a re-created "
                    "topic needs a new database, or another world"
                )
            if not once:
                raise InvariantError(f"dead_letters of partition {p}: an offset is stored twice")
        self.positions = {int(p): int(offset) + 1 for _, p, offset, _ in rows}
        self.run = run
        return dict(self.positions)

    def write(self, letters: Sequence[Letter]) -> int:
        """Stores and proves these letters; those stored already are left out. Returns the number of new ones."""
        assert self.run, "take_over comes before write"
        run, self.run = self.run, 0
        stored = 0
        for group in _groups(letters):
            fresh = []
            for x in group:
                if x.offset >= self.positions.get(x.partition, 0):
                    fresh.append(x)
                    self.positions[x.partition] = x.offset + 1
            if fresh:
                columns = self._columns(fresh, run)
                self._db.insert("dead_letters", list(columns), list(columns.values()))
                failpoint("sink_clickhouse.after_insert_dead_letters")
                self._prove(fresh)
                stored += len(fresh)
        self.run = run
        return stored

    def close(self) -> None:
        self._db.close()

    def _columns(self, letters: Sequence[Letter], run: int) -> dict[str, Any]:
        n = len(letters)

        def objects(values: list[bytes]) -> Any:
            out = np.empty(n, dtype=object)
            out[:] = values
            return out

        records = [x.letter for x in letters]
        return {
            "topic": objects([self._topic.encode()] * n),
            "partition": np.array([x.partition for x in letters], dtype=np.uint16),
            "offset": np.array([x.offset for x in letters], dtype=np.uint64),
            "source_partition": np.clip([r.source_partition for r in records], -1, 2**31 - 1),
            "source_offset": np.array([r.source_offset for r in records], dtype=np.int64),
            "received_at": np.clip([r.received_at for r in records], 0, 10**13),
            "attempts": np.clip([r.attempts for r in records], 0, 2**32 - 1),
            **{name: objects([getattr(r, name).encode() for r in records]) for name in _TEXTS},
            "key": objects([r.key or b"" for r in records]),
            "value": objects([r.value or b"" for r in records]),
            "run": np.full(n, run, dtype=np.uint64),
        }

    def _prove(self, letters: Sequence[Letter]) -> None:
        for p in {x.partition for x in letters}:
            offsets = [x.offset for x in letters if x.partition == p]
            count, total = self._db.rows(
                f"SELECT count(), sum(offset) FROM {self._db.name}.dead_letters WHERE topic = %(t)s "
                f"AND partition = {p} AND offset BETWEEN {offsets[0]} AND {offsets[-1]}",
                {"t": self._topic},
            )[0]
            where = f"dead_letters of partition {p}, offsets {offsets[0]} to {offsets[-1]}"
            if count < len(offsets):
                hint = f"it took an insert, but {where}, has {count} of {len(offsets)} rows"
                raise PartUnavailableError("ClickHouse", self._db.config.address, hint)
            if (count, total) != (len(offsets), sum(offsets)):
                raise InvariantError(f"{where}: {len(offsets)} rows must be stored, {count} are")


def _groups(letters: Sequence[Letter]) -> Iterator[list[Letter]]:
    """Cuts by rows and bytes: a dead letter may be a megabyte."""
    group: list[Letter] = []
    size = 0
    for x in letters:
        group.append(x)
        size += len(x.letter.value or b"") + 200
        if size > INSERT_BYTES or len(group) >= INSERT_ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group
