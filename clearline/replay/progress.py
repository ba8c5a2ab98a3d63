"""How far replays are: what runs, and how it is cancelled from elsewhere, such as the console.

Each replay tells it in a row of the table `replays`, about once a second. When ClickHouse does not answer it goes on
in silence; its folder has the same.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import structlog

from clearline.replay.run import CANCELLED, DONE, FAILED, RUNNING, STOPPED, Run
from schemas.errors import BadInputError, ClearlineError
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.replays import CANCELLING, ReplayRow, cancel_asked_since, newest, next_version, put

SILENT_MS = 30_000  # a replay that has said nothing for so long has ended without a word
_RETRY_S = 10.0
log = structlog.get_logger()


def replays(config: ClickHouseConfig, rows_max: int = 100) -> list[ReplayRow]:
    """Replays and rebuilds, the newest first; one that was killed shows as `stopped`. Raises PartUnavailableError."""
    db = Database(config)
    try:
        return [_as_seen(row) for row in newest(db, rows_max)]
    finally:
        db.close()


def running(config: ClickHouseConfig) -> list[ReplayRow]:
    """Those that are at work now. Raises PartUnavailableError."""
    return [row for row in replays(config) if row.state in (RUNNING, CANCELLING)]


def cancel(config: ClickHouseConfig, replay_id: str, by: str = "") -> ReplayRow:
    """Asks a replay to end, wherever it runs; it does within some seconds and keeps what it did.

    Raises BadInputError when there is none of this id that runs, PartUnavailableError.
    """
    db = Database(config)
    try:
        row = _newest_of(db, replay_id)
        if row.state not in (RUNNING, CANCELLING):
            raise BadInputError(f"replay {replay_id} does not run: it is {row.state}")
        result = json.dumps({"cancelled_by": by}) if by else row.result
        asked = replace(row, version=next_version(row.version), state=CANCELLING, result=result)
        put(db, asked)
        return asked
    finally:
        db.close()


def find(config: ClickHouseConfig, replay_id: str) -> ReplayRow:
    """One replay or rebuild, wherever it runs. Raises BadInputError for an unknown id, PartUnavailableError."""
    db = Database(config)
    try:
        return _newest_of(db, replay_id)
    finally:
        db.close()


def _newest_of(db: Database, replay_id: str) -> ReplayRow:
    found = newest(db, 1, replay_id)
    if not found:
        raise BadInputError(f"there is no replay {replay_id}; see `clearline replay ls`")
    return _as_seen(found[0])


def _as_seen(row: ReplayRow) -> ReplayRow:
    silent = time.time() * 1000 - row.updated_at > SILENT_MS
    return replace(row, state=STOPPED) if row.state in (RUNNING, CANCELLING) and silent else row


def plain(row: ReplayRow) -> dict[str, Any]:
    """A replay as plain values, with how long it will take."""
    left = max(0, row.total - row.done)
    eta = round(left / row.rate_per_second, 1) if row.rate_per_second and row.state == RUNNING else None
    result = json.loads(row.result) if row.result else None
    return {
        "id": row.id, "kind": row.kind, "state": row.state, "subject": row.subject, "plan_sha256": row.plan,
        "done": row.done, "total": row.total, "rate_per_second": row.rate_per_second, "eta_seconds": eta,
        "requested_by": row.requested_by, "approved_by": row.approved_by, "started_at": row.started_at,
        "updated_at": row.updated_at, "result": result,
    }  # fmt: skip


class Board:
    """Tells the table how far one replay is; a call answers whether somebody asked to cancel it."""

    def __init__(self, config: ClickHouseConfig, kind: str = "replay") -> None:
        self._db = Database(replace(config, timeout_s=5.0))
        self._kind = kind
        self._first = self._version = 0
        self._quiet_until = 0.0

    def __call__(self, run: Run) -> bool:
        last = run.state in (DONE, CANCELLED, FAILED)
        return self.say(
            run.id, run.state, run.plan.selection.words(), run.plan.digest, run.done, run.total, run.rate_per_second,
            run.requested_by, run.approved_by, run.found if last else None, run.started_at,
        )  # fmt: skip

    def say(
        self, replay_id: str, state: str, subject: str, plan: str, done: int, total: int, rate: float,
        requested_by: str, approved_by: str, result: object, started_at: int,
    ) -> bool:  # fmt: skip
        """One row; True when somebody asked to cancel. Nothing is raised when ClickHouse does not answer."""
        if time.monotonic() < self._quiet_until and state == RUNNING:
            return False
        self._version = next_version(self._version)
        self._first = self._first or self._version
        text = "" if result is None else json.dumps(result, sort_keys=True)
        row = ReplayRow(
            replay_id, self._version, self._kind, state, subject, plan, done, total, rate, requested_by, approved_by,
            text, started_at, self._version,
        )  # fmt: skip
        try:
            asked = state == RUNNING and cancel_asked_since(self._db, replay_id, self._first)
            put(self._db, replace(row, state=CANCELLING) if asked else row)
        except ClearlineError as e:
            log.warning("the table of replays was not told", replay=replay_id, why=str(e))
            self._quiet_until = time.monotonic() + _RETRY_S
            return False
        return asked

    def close(self) -> None:
        """Ends the connection."""
        self._db.close()
