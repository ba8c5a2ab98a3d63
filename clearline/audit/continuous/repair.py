"""Wrong projections put right while everything runs: months of ClickHouse's tables anew from the journal, accounts of
Redis anew from ledger.state. What is killed half-way is finished by running it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import structlog

from clearline.audit.continuous.machine import Machine
from clearline.audit.continuous.running import sums_of
from schemas.errors import InvariantError
from schemas.failpoints import failpoint
from sinks.balance_check import ACCOUNTS_PER_SCRIPT
from sinks.checksums import TABLES, Table, rows_of
from sinks.month_repair import MonthRepair, beside
from sinks.rows import JournalRows
from sinks.stored_sums import NONE, STRETCH, Key, StoredSums, Sums

log = structlog.get_logger()

Progress = Callable[[str], None]


@dataclass(slots=True)
class Repaired:
    """What a repair did: months of tables (`postings 202611`) with the rows that they have now, accounts of Redis."""

    months: dict[str, int] = field(default_factory=dict)
    accounts: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.months or self.accounts)

    def lines(self) -> list[str]:
        """For people."""
        out = [f"repaired: {name}, {rows} rows from the journal" for name, rows in self.months.items()]
        return out + [f"repaired: balance of {a}" for a in self.accounts[:20]]


def repair_redis(machine: Machine) -> Repaired:
    """Puts right what the machine's last round found wrong in Redis, account by account, each at once and only if it
    is still what was found. Raises PartUnavailableError."""
    done, redis = Repaired(), machine.balances
    for (p, a), unlike in machine.redis.wrong.items():
        if redis.repair(p, a, unlike.found, machine.shards.partitions[p].accounts[a].text):
            done.accounts.append(a)
    for a, name in machine.redis.ghosts:
        redis.drop_field(a, name)
        done.accounts.append(a)
    ends = machine.state_ends()
    for p in machine.redis.strange_markers:
        redis.begin(p, machine.state_topic, ends.get(p, 0))  # the sink sees it and applies all of it again
        done.accounts.append(f"every account of partition {p}")
    return done


def rebuild_redis(machine: Machine, counted: Callable[[int, int], None] = lambda *_: None) -> Repaired:
    """Writes every account of ledger.state that the machine has read over what Redis has, right or wrong, some at a
    time; none is away meanwhile. `counted`: accounts done, and in all. Raises PartUnavailableError."""
    done, total = Repaired(), machine.shards.count
    for p, shards in machine.shards.partitions.items():
        every = [(a, kept.text) for a, kept in shards.accounts.items()]
        for i in range(0, len(every), ACCOUNTS_PER_SCRIPT):
            piece = every[i : i + ACCOUNTS_PER_SCRIPT]
            machine.balances.overwrite(p, piece)
            done.accounts += [a for a, _ in piece]
            counted(len(done.accounts), total)
    return done


class ClickHouseRepair:
    """Puts right the months in which the machine's last round found ClickHouse wrong.

    `counted`: records of the journal that were filled in beside so far, while nobody is locked out yet.
    """

    def __init__(
        self, machine: Machine, progress: Progress = lambda _: None, counted: Callable[[int], None] = lambda _: None
    ) -> None:
        self._machine, self._progress, self._counted = machine, progress, counted
        self._filled = 0
        self._tables = {t.name: t for t in TABLES}
        self._gathered: dict[Key, Sums] = {}

    def run(self, *, every: bool = False) -> Repaired:
        """Builds the months (`every`: all months, right or wrong) beside the tables, locks sinks out, adds what came
        meanwhile, proves that what was gathered is what was journaled, and swaps: each month of each table at one
        moment. Raises InvariantError when what was gathered is not right (nothing is swapped then),
        PartUnavailableError."""
        statements = MonthRepair(self._machine.clickhouse)
        try:
            statements.clear()
            wrong = self._machine.stored.wrong_months()
            for key in self._machine.running.sums if every else ():
                wrong.setdefault(key.table, set()).add(key.month)
            if wrong:
                return self._months(statements, wrong)
            if statements.locked():  # an earlier repair had swapped everything, and was killed
                statements.unlock()
            return Repaired()
        finally:
            statements.close()

    def _months(self, statements: MonthRepair, wrong: dict[str, set[int]]) -> Repaired:
        self._gathered = {}
        statements.begin(wrong)
        ends = {p: at.cut.offset + 1 for p, at in self._machine.running.partitions.items()}
        for p, first, end in self._ranges(set().union(*wrong.values()), ends):
            self._progress(f"partition {p}, journal offsets {first} to {end}")
            self._fill(statements, wrong, self._machine.again(p, first, end), self._counted)
        failpoint("repair.after_fill")
        try:
            statements.lock()
            return self._swap(statements, wrong, ends)
        except (KeyboardInterrupt, InvariantError):
            statements.unlock()  # each month is old or new, and a sink goes on from either
            raise

    def _swap(self, statements: MonthRepair, wrong: dict[str, set[int]], ends: dict[int, int]) -> Repaired:
        """The last stretch and the swap, while sinks are locked out."""
        failpoint("repair.after_lock")
        heads = self._machine.heads()
        for p, end in ends.items():
            self._fill(statements, wrong, self._machine.again(p, end, max(end, heads.get(p, 0))))
        done = Repaired()
        for table in TABLES:  # outcomes last: what other tables have beyond them a sink adds again anyway
            if table.name in wrong:
                self._prove(table)
        for table in TABLES:
            for month in sorted(wrong.get(table.name, ())):
                rows = sum(s.rows for k, s in self._gathered.items() if (k.table, k.month) == (table.name, month))
                self._progress(f"{table.name} {month}: {rows} rows")
                statements.swap(table.name, month, rows)
                done.months[f"{table.name} {month}"] = rows
                log.warning("a month of ClickHouse was put right", table=table.name, month=month, rows=rows)
        statements.unlock()
        statements.clear()
        return done

    def _fill(
        self, statements: MonthRepair, wrong: dict[str, set[int]], records: Iterable[JournalRows],
        counted: Callable[[int], None] = lambda _: None,
    ) -> None:  # fmt: skip
        for j in records:
            self._filled += len(j)
            counted(self._filled)
            for name, months in wrong.items():
                statements.fill(name, j, months)
                for key, sums in sums_of(name, [rows_of(self._tables[name], j)]).items():
                    if key.month in months:
                        self._gathered[key] = self._gathered.get(key, NONE).plus(sums)

    def _ranges(self, months: set[int], ends: dict[int, int]) -> Iterator[tuple[int, int, int]]:
        """Where the journal has records of these months: partition, first offset, end."""
        places = sorted({(k.partition, k.stretch) for k in self._machine.running.sums if k.month in months})
        run: list[tuple[int, int]] = []
        for place in places:
            if run and (run[-1][0], run[-1][1] + 1) != place:
                yield _range(run, ends)
                run = []
            run.append(place)
        if run:
            yield _range(run, ends)

    def _prove(self, table: Table) -> None:
        """What stands beside is what was journaled, by control sums: in one statement, because the server merges parts
        between two."""
        store = StoredSums(self._machine.clickhouse, self._machine.journal_topic)
        try:
            side = beside(table)
            everything = dict.fromkeys(self._machine.running.partitions, 2**62)
            found: dict[Key, Sums] = {}
            for sums in store.sums(side, None, everything).values():
                for key, more in sums.within.items():
                    own = key._replace(table=table.name)
                    found[own] = found.get(own, NONE).plus(more)
        finally:
            store.close()
        wanted = {k: s for k, s in self._gathered.items() if k.table == table.name}
        if found != wanted:
            raise InvariantError(
                f"{table.name}: what was gathered for the repair is not what was journaled; run it again"
            )


def _range(run: list[tuple[int, int]], ends: dict[int, int]) -> tuple[int, int, int]:
    partition = run[0][0]
    return partition, run[0][1] * STRETCH, min((run[-1][1] + 1) * STRETCH, ends.get(partition, 0))
