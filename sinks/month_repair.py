"""Months of tables built beside them and put in their place, whole: one month of one table is old or new, never half.

The rows come from the journal. They are filled in beside while everything runs; only for the last stretch and the swap
the sinks are locked out, so nothing that they write meanwhile can be lost. Whatever is killed, what stands beside is
thrown away by the next repair, and a lock that was left is taken over and given back by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from schemas.errors import BadInputError, InvariantError
from schemas.failpoints import failpoint
from sinks.checksums import NOTHING, TABLES, Table
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.columnar import Ints
from sinks.fence import REPAIR_LOCK, _holders, take_over_for_repair, unlock
from sinks.ledger_sink import TABLES as FENCED
from sinks.rows import JournalRows

BESIDE = "_beside"
ROWS_PER_INSERT = 400_000
_BY_NAME = {t.name: t for t in TABLES}


def beside(table: Table) -> Table:
    """The table in which the right rows are gathered."""
    return replace(table, name=table.name + BESIDE)


class MonthRepair:
    """The statements of a repair. Every call raises what `Database` raises.

    Raises BadInputError on a cluster: there a month is replaced on each shard, which nobody could try here.
    """

    def __init__(self, config: ClickHouseConfig) -> None:
        if config.cluster:
            raise BadInputError("--repair clickhouse is made for one server, not for a cluster")
        self._db = Database(config)
        self._run: dict[str, int] = {}

    def close(self) -> None:
        self._db.close()

    def locked(self) -> bool:
        """Whether a repair is under way, or was killed after it had locked the sinks out."""
        rows = self._db.rows(
            "SELECT 1 FROM system.tables WHERE database = %(d)s AND name = %(t)s",
            {"d": self._db.name, "t": REPAIR_LOCK},
        )
        return bool(rows)

    def clear(self) -> None:
        """Drops what an earlier repair left beside the tables."""
        for name in _BY_NAME:
            self._db.run(f"DROP TABLE IF EXISTS {self._db.name}.{name}{BESIDE} SYNC")

    def begin(self, names: Iterable[str]) -> None:
        """Makes empty tables beside these."""
        for name in names:
            self._db.run(f"CREATE TABLE {self._db.name}.{name}{BESIDE} AS {self._db.name}.{name}")
            holders = _holders(self._db, name + BESIDE)
            self._run[name] = holders[0] if holders else 0

    def fill(self, name: str, j: JournalRows, months: set[int]) -> int:
        """Inserts the rows of these records that are of one of the months (yyyymm); returns how many."""
        table, filled = _BY_NAME[name], 0
        own = replace(j, run=self._run[name])
        every = np.arange(len(j), dtype=np.int64)
        number = j.months()
        for month in sorted(months):
            records = every[number == (month // 100 - 1970) * 12 + month % 100 - 1]
            for piece in _pieces(own, records):
                block = table.block(own, piece, NOTHING)
                if len(block["run"]):
                    self._db.insert(name + BESIDE, list(block), list(block.values()))
                    failpoint("repair.mid_fill")
                    filled += len(block["run"])
        return filled

    def lock(self) -> None:
        """From here to `unlock` no sink writes."""
        take_over_for_repair(self._db, FENCED)

    def swap(self, name: str, month: int, rows: int) -> None:
        """Puts the month that was gathered in the place of the one in the table. `rows`: how many it must have."""
        failpoint("repair.before_swap")
        db = self._db.name
        found = self._db.rows(f"SELECT count() FROM {db}.{name}{BESIDE} WHERE toYYYYMM(booked_at) = {month}")
        if found[0][0] != rows:
            raise InvariantError(f"{name} of {month}: {rows} rows were gathered, {found[0][0]} are there")
        # Nothing gathered means that the journal has no rows of this month.
        change = f"REPLACE PARTITION {month} FROM {db}.{name}{BESIDE}" if rows else f"DROP PARTITION {month}"
        self._db.run(f"ALTER TABLE {db}.{name} {change}")
        failpoint("repair.after_swap")

    def unlock(self) -> None:
        """Lets the sinks write again."""
        failpoint("repair.before_unlock")
        unlock(self._db)


def _pieces(j: JournalRows, records: Ints) -> Iterable[Ints]:
    """Records in pieces whose rows one insert takes, so that it is one part."""
    if not len(records):
        return []
    piece = np.cumsum(j.legs[records] + j.pending[records]) // ROWS_PER_INSERT
    return np.split(records, np.flatnonzero(np.diff(piece)) + 1)
