"""One sink writes at a time, held by ClickHouse itself.

Every row carries the `run` of the sink process that wrote it, and the sink in office holds a CHECK on that column of
each table. A sink that was paused, replaced and woken in the middle of an insert meets the other's CHECK: the server
refuses its rows, however late they come. So after `take_over` nothing that an earlier sink (or an earlier connection of
the same one) had sent can still land, and what is read then is the truth.
"""

from __future__ import annotations

import os
import random
import re
import time

from schemas.errors import NO_SPACE, ClearlineError, PartUnavailableError
from sinks.clickhouse import Database, FencedError, QueryFaultError
from sinks.layout import Layout

_CONSTRAINT = re.compile(r"CONSTRAINT run_(\d+)")
_QUIET_TIMEOUT_S = 120.0
SPACE_BYTES_MIN = 32_000_000
REPAIR_LOCK = "repairing"  # an empty table: that it is there is the lock


def take_over(db: Database, tables: tuple[str, ...]) -> int:
    """Fences every earlier run off these tables and waits until none of its inserts is on the way; the new run.

    Raises FencedError when another sink takes over at the same time, PartUnavailableError.
    """
    run = _run_of_a_sink()
    refuse_while_repaired(db)
    _refuse_while_full(db)
    for table in tables:
        _hold(db, table, run)
    refuse_while_repaired(db)  # whoever repairs locks first and fences then: one of both is seen by the other
    for table in tables:
        if _holders(db, table) != [run]:
            raise FencedError(f"two ClickHouse sinks start at once on {db.name}; this one ends")
    _wait_for_inserts(db, tables)
    return run


def _run_of_a_sink() -> int:
    """63 random bits, odd: the runs of repairs are even."""
    return int.from_bytes(os.urandom(8), "big") >> 1 | 1


def refuse_while_repaired(db: Database) -> None:
    """Raises PartUnavailableError while `clearline tieout --repair` puts right rows in the place of wrong ones."""
    if db.rows("SELECT 1 FROM system.tables WHERE database = %(d)s AND name = %(t)s", {"d": db.name, "t": REPAIR_LOCK}):
        hint = "its rows are being repaired; if that was killed, run `clearline tieout --repair` again"
        raise PartUnavailableError("ClickHouse", db.config.address, hint)


def _refuse_while_full(db: Database) -> None:
    """Raises PartUnavailableError while a disk of the server is full. A table's CHECK is in the file that defines the
    table: a server that has no room for the new file can leave an empty one, and the table is lost."""
    try:
        ((free,),) = db.rows("SELECT min(free_space) FROM system.disks WHERE NOT is_remote")
    except QueryFaultError:  # a server that does not let us ask
        return
    if free is not None and free < SPACE_BYTES_MIN:
        hint = f"{free // 1_000_000} MB are free, {SPACE_BYTES_MIN // 1_000_000} are needed"
        raise PartUnavailableError("ClickHouse", db.config.address, hint, code=NO_SPACE)


def take_over_for_repair(db: Database, tables: tuple[str, ...]) -> None:
    """Locks the tables against sinks and fences the one that runs. Call `unlock` after it. That sink does not end: the
    number of the run tells it that it was a repair, and it takes over again itself."""
    db.run(f"CREATE TABLE IF NOT EXISTS {db.name}.{REPAIR_LOCK} (since DateTime) ENGINE = Memory")
    run = _run_of_a_sink() + 1
    for table in tables:
        _hold(db, table, run)
    _wait_for_inserts(db, tables)


def unlock(db: Database) -> None:
    """Lets sinks write again; they take over anew."""
    db.run(f"DROP TABLE IF EXISTS {db.name}.{REPAIR_LOCK} SYNC")


def _holders(db: Database, table: str) -> list[int]:
    """The runs whose CHECK stands; 0 among them when the replicas of a cluster do not say the same."""
    layout = Layout(db.config)
    found = db.rows(
        f"SELECT create_table_query FROM {layout.everywhere('system.tables')} WHERE database = %(d)s AND name = %(t)s",
        {"d": layout.local, "t": table},
    )
    each = [{int(run) for run in _CONSTRAINT.findall(row[0])} for row in found]
    runs = set().union(*each)
    return sorted(runs if all(x == runs for x in each) else runs | {0})


def _hold(db: Database, table: str, run: int) -> None:
    """Puts this run's CHECK in the place of every other, in one change of the table."""
    layout = Layout(db.config)
    check = f"ADD CONSTRAINT IF NOT EXISTS run_{run} CHECK run = {run}"
    for _ in range(5):
        others = [r for r in _holders(db, table) if r != run]
        drops = "".join(f", DROP CONSTRAINT IF EXISTS run_{r}" for r in others)
        try:
            for statement in layout.render(f"ALTER TABLE {{database}}.{table} {check}{drops}"):
                db.run(statement)
        except PartUnavailableError as e:  # two changes of one table at once
            if "ALTER" not in str(e) and "lock" not in str(e).lower():
                raise
        if _holders(db, table) == [run]:
            return
        time.sleep(random.uniform(0.05, 0.4))
    raise FencedError(f"another ClickHouse sink is taking over {db.name}.{table}; this one ends")


def _wait_for_inserts(db: Database, tables: tuple[str, ...]) -> None:
    """An insert into one of the tables that began before the CHECK stood may still finish: end it, and wait until there
    is none. Inserts into other tables, such as those of a repair beside these or of a statement, are left alone."""
    deadline = time.monotonic() + _QUIET_TIMEOUT_S
    layout = Layout(db.config)
    into = rf"(?i)\binto\s+`?({db.name}|{layout.local})`?\.`?({'|'.join(tables)})\b"
    while True:
        running = db.rows(
            f"SELECT query_id FROM {layout.everywhere('system.processes')} WHERE query_kind = 'Insert' "
            "AND match(query, %(into)s)",
            {"into": into},
        )
        if not running:
            return
        if time.monotonic() > deadline:
            hint = f"an insert of an earlier sink still runs after {_QUIET_TIMEOUT_S:.0f} s"
            raise PartUnavailableError("ClickHouse", db.config.address, hint)
        for (query_id,) in running:
            try:
                db.rows(f"KILL QUERY{layout.on_cluster} WHERE query_id = %(q)s ASYNC", {"q": query_id})
            except ClearlineError:
                pass  # it may have ended, or the user may not kill: waiting does it as well
        time.sleep(0.05)
