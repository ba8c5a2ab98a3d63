"""The table of replays: one row each time that one says how far it is; the newest counts.

It is a notice board and not a store: a replay goes on without it, and what it did stands in its own folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sinks.clickhouse import Database

CANCELLING = "cancelling"
_COLUMNS = (
    "id", "version", "kind", "state", "subject", "plan", "done", "total", "rate_per_second", "requested_by",
    "approved_by", "result", "started_at", "updated_at",
)  # fmt: skip
_SHOWN = (*_COLUMNS[2:12], "toUnixTimestamp64Milli(started_at)", "toUnixTimestamp64Milli(updated_at)")


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """One replay as of its newest row; times in ms UTC, `done` and `total` in commands or rows, `result` JSON."""

    id: str
    version: int
    kind: str
    state: str
    subject: str
    plan: str
    done: int
    total: int
    rate_per_second: float
    requested_by: str
    approved_by: str
    result: str
    started_at: int
    updated_at: int


def put(db: Database, row: ReplayRow) -> None:
    """Adds a row. Raises what `Database` raises."""
    values: dict[str, Sequence[Any]] = {name: [getattr(row, name)] for name in _COLUMNS}
    for name in ("started_at", "updated_at"):
        values[name] = [datetime.fromtimestamp(getattr(row, name) / 1000, UTC)]
    db.insert_columns("replays", values)


def newest(db: Database, rows_max: int = 100, replay_id: str = "") -> list[ReplayRow]:
    """The newest row of each replay, the one that was started last first; of one only with `replay_id`."""
    rows = db.rows(
        f"SELECT id, max(version), argMax(({', '.join(_SHOWN)}), version) AS said FROM {db.name}.replays "
        "WHERE id = %(id)s OR %(id)s = '' GROUP BY id ORDER BY max(started_at) DESC, id LIMIT %(most)s",
        {"id": replay_id, "most": rows_max},
    )
    return [ReplayRow(str(i), int(version), *said) for i, version, said in rows]


def cancel_asked_since(db: Database, replay_id: str, version: int) -> bool:
    """Whether somebody asked to cancel this replay after a row of this version was written."""
    rows = db.rows(
        f"SELECT count() FROM {db.name}.replays WHERE id = %(id)s AND state = %(s)s AND version > %(v)s",
        {"id": replay_id, "s": CANCELLING, "v": version},
    )
    return bool(rows[0][0])


def next_version(before: int = 0) -> int:
    """A version that is higher than another one, and than those of a while ago."""
    return max(before + 1, time.time_ns() // 1_000_000)
