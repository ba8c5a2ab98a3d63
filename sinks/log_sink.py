"""A small topic into a table of its own, under the same fence and the same read-back as the ledger.

One table, one part per insert, in the order of the log: so the highest offset of a partition is the point to go on
from, and nothing can be torn. Dead letters, seals and counts of calls are kept this way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from schemas.errors import BadInputError, InvariantError, PartUnavailableError
from schemas.failpoints import failpoint
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.fence import take_over

INSERT_BYTES = 32_000_000
INSERT_ROWS = 50_000
_MONTH = np.dtype("datetime64[M]")


class Logged(NamedTuple):
    """One record and where it stands in its topic. `at_ms`: the broker's time of it, milliseconds UTC."""

    partition: int
    offset: int
    record: Any
    at_ms: int = 0


class LogSink:
    """Writes the records of one topic. `topic`: its name and id. Use it as `LedgerSink`.

    `table`: where to; `what`: the records, for people; `once`: what tells two rows apart; `by_month`: the table is cut
    by the month of `at_ms`.
    """

    table: ClassVar[str]
    what: ClassVar[str]
    once: ClassVar[str] = "offset"
    by_month: ClassVar[bool] = False

    def __init__(self, config: ClickHouseConfig, topic: str) -> None:
        self._db = Database(config)
        self._topic = topic
        self.run = 0
        self.positions: dict[int, int] = {}

    def rows_of(self, x: Logged) -> int:
        """How many rows a record gives."""
        return 1

    def bytes_of(self, x: Logged) -> int:
        """About how large it is, in bytes."""
        return 200

    def columns(self, records: Sequence[Logged]) -> dict[str, Any]:
        """The table's own columns of these records, beside `place`."""
        raise NotImplementedError

    def take_over(self) -> dict[int, int]:
        """Becomes the one sink; the next offset of each partition that has any. Raises as `LedgerSink.take_over`."""
        self.run = 0
        run = take_over(self._db, (self.table,))
        rows = self._db.rows(
            f"SELECT topic, partition, max(offset), count() = uniqExact({self.once}) FROM {self._db.name}.{self.table} "
            "GROUP BY topic, partition"
        )
        for topic, p, _, once in rows:
            if topic != self._topic:
                raise BadInputError(
                    f"database {self._db.name} holds {self.what} of {topic}, this is {self._topic}: a re-created "
                    "topic needs a new database, or another world"
                )
            if not once:
                raise InvariantError(f"{self.table} of partition {p}: an offset is stored twice")
        self.positions = {int(p): int(offset) + 1 for _, p, offset, _ in rows}
        self.run = run
        return dict(self.positions)

    def write(self, records: Sequence[Logged]) -> int:
        """Stores and proves these records; those stored already are left out. Returns the number of new ones."""
        assert self.run, "take_over comes before write"
        run, self.run = self.run, 0
        stored = 0
        for group in self._groups(records):
            fresh = []
            for x in group:
                if x.offset >= self.positions.get(x.partition, 0):
                    fresh.append(x)
                    self.positions[x.partition] = x.offset + 1
            if fresh:
                columns = {**self._place(fresh, run), **self.columns(fresh)}
                self._db.insert(self.table, list(columns), list(columns.values()))
                failpoint(f"sink_clickhouse.after_insert_{self.table}")
                self._prove(fresh)
                stored += len(fresh)
        self.run = run
        return stored

    def close(self) -> None:
        self._db.close()

    def _groups(self, records: Sequence[Logged]) -> Iterator[list[Logged]]:
        """Cuts by rows, by bytes and, where the table is, by month: what is inserted at once is one part."""
        group: list[Logged] = []
        size = rows = 0
        for x in records:
            if group and self.by_month and _month(x) != _month(group[-1]):
                yield group
                group, size, rows = [], 0, 0
            group.append(x)
            size += self.bytes_of(x)
            rows += self.rows_of(x)
            if size > INSERT_BYTES or rows >= INSERT_ROWS:
                yield group
                group, size, rows = [], 0, 0
        if group:
            yield group

    def _place(self, records: Sequence[Logged], run: int) -> dict[str, Any]:
        times = [self.rows_of(x) for x in records]
        n = sum(times)
        return {
            "topic": objects([self._topic.encode()] * n),
            "partition": np.repeat(np.array([x.partition for x in records], dtype=np.uint16), times),
            "offset": np.repeat(np.array([x.offset for x in records], dtype=np.uint64), times),
            "run": np.full(n, run, dtype=np.uint64),
        }

    def _prove(self, records: Sequence[Logged]) -> None:
        by_partition: dict[int, Counter[int]] = {}
        for x in records:
            by_partition.setdefault(x.partition, Counter())[x.offset] += self.rows_of(x)
        for p, offsets in by_partition.items():
            count, total = self._db.rows(
                f"SELECT count(), sum(offset) FROM {self._db.name}.{self.table} WHERE topic = %(t)s "
                f"AND partition = {p} AND offset BETWEEN {min(offsets)} AND {max(offsets)}",
                {"t": self._topic},
            )[0]
            where = f"{self.table} of partition {p}, offsets {min(offsets)} to {max(offsets)}"
            if count < offsets.total():
                hint = f"it took an insert, but {where}, has {count} of {offsets.total()} rows"
                raise PartUnavailableError("ClickHouse", self._db.config.address, hint)
            if (count, total) != (offsets.total(), sum(o * n for o, n in offsets.items())):
                raise InvariantError(f"{where}: {offsets.total()} rows must be stored, {count} are")


def _month(x: Logged) -> Any:
    return np.datetime64(x.at_ms, "ms").astype(_MONTH)


def objects(values: list[Any]) -> Any:
    """A column of bytes objects."""
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out
