"""ClickHouse against the journal's running sums, round by round.

Each round takes the parts that are active now. Sums of contents that were seen before are known; new contents are read.
So a round costs what came in, was merged, or was changed by somebody; and all the time one part after another is read
again, because nobody is believed for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import structlog

from clearline.audit.continuous.difference import CLICKHOUSE, Difference, Finding, Verdict
from clearline.audit.continuous.naming import Reread, Stretch
from clearline.audit.continuous.running import RunningSums
from sinks.checksums import TABLES, Table
from sinks.stored_sums import NONE, STRETCH, Key, Part, PartSums, StoredSums, Sums

log = structlog.get_logger()

Contents = tuple[str, str]  # table, and the hash of a part's files

ROWS_PER_QUERY = 4_000_000
MERGED_ROWS_MIN = 1_000_000  # a merge of more rows is taken for the sum of what was merged, and read by the rotation
UNREAD_MAX = 200_000  # records of the journal; a place so far back would make new parts be read again and again
NAMED_PER_ROUND = 2  # stretches whose rows are looked at in one round
SHOWN_MAX = 50


class ProjectionAnewError(Exception):
    """The tables are others than before and hold less: the projection is filled from the start."""


@dataclass(frozen=True, slots=True)
class StoredOptions:
    """`read_s`: seconds a round may read new contents; `again_rows`: rows it reads again of what is known."""

    read_s: float = 2.0
    again_rows: int = 500_000


@dataclass(slots=True)
class _Reading:
    """A part that is read slice by slice. `ends`: the cut when it was begun."""

    ends: dict[int, int]
    next_row: int = 0
    sums: PartSums = field(default_factory=PartSums)


@dataclass(slots=True)
class _Named:
    """What was said of a stretch, for as long as neither side's sums change."""

    journal: Sums
    stored: Sums
    differences: list[Difference]


class StoredCheck:
    """Compares ClickHouse with `running`. `journal_ends`: the end of each partition of the journal now."""

    def __init__(
        self, store: StoredSums, running: RunningSums, reread: Reread, journal_ends: Callable[[], dict[int, int]],
        options: StoredOptions | None = None,
    ) -> None:  # fmt: skip
        self._store, self._running, self._reread, self._journal_ends = store, running, reread, journal_ends
        self._options = options or StoredOptions()
        self.known: dict[Contents, PartSums] = {}
        self.totals: dict[Key, Sums] = {}
        self._counted: dict[str, dict[str, tuple[Part, PartSums]]] = {t.name: {} for t in TABLES}
        self._reading: dict[Contents, _Reading] = {}
        self._changed: set[Key] = set()
        self._wrong: set[Key] = set()
        self._named: dict[Key, _Named] = {}
        self.unconfirmed: set[Key] = set()  # differ, and nobody has looked at the rows yet
        self._tables: dict[str, str] = {}
        self.last_read: dict[Contents, float] = {}
        self._unread: dict[str, list[Part]] = {}
        self._stray_months: set[tuple[str, int]] = set()

    def round(self) -> Finding:
        """One comparison, at the place where ClickHouse stands. Raises PartUnavailableError, BadInputError, and
        ProjectionAnewError when the running sums must start again from nothing."""
        finding = Finding(CLICKHOUSE)
        ends = self._cut(finding)
        if ends is None:
            return finding
        self._changed |= self._running.advance(ends)
        strays: list[Difference] = []
        self._unread, self._stray_months = {}, set()
        deadline = time.monotonic() + self._options.read_s
        for table in TABLES:
            strays += self._parts(table, ends, deadline)
        self._read_again(ends)
        self._conclude(finding, ends, strays)
        return finding

    def begin_with(self, keys: Iterable[Key]) -> None:
        """Running sums that are there from the start, which must be compared, too."""
        self._changed |= set(keys)

    def put_right(self, key: Key, sums: Sums | None) -> None:
        """Running sums of a key that turned out to be others."""
        self._running.replace(key, sums or NONE)
        self._changed.add(key)

    def wrong_months(self) -> dict[str, set[int]]:
        """Tables and months (yyyymm) in which the last round found something wrong, for a repair."""
        out: dict[str, set[int]] = {}
        for key in self._wrong:
            out.setdefault(key.table, set()).add(key.month)
        for table, month in self._stray_months:
            out.setdefault(table, set()).add(month)
        return out

    def forget(self) -> None:
        """Everything is to be compared from the start; sums of contents stay known."""
        self.totals.clear()
        self._changed.clear()
        self._wrong.clear()
        self._named.clear()
        self._counted = {t.name: {} for t in TABLES}

    def _cut(self, finding: Finding) -> dict[int, int] | None:
        """Where ClickHouse stands and the journal was read to; None when the journal is to be read first."""
        found = self._store.tables()
        tables = {t.name: found[t.name] for t in TABLES if t.name in found}
        another = any(self._tables.get(name, uuid) != uuid for name, uuid in tables.items())
        heads = self._store.heads()
        position = {p: at.position for p, at in self._running.partitions.items()}
        if any(end > position.get(p, 0) for p, end in heads.items()):
            journal = self._journal_ends()
            if any(end > journal.get(p, 0) for p, end in heads.items()):
                heads = self._store.heads(journal)  # somebody put rows beyond the journal's end: told as strays
            left = sum(max(0, end - position.get(p, 0)) for p, end in heads.items())
            heads = {p: min(end, position.get(p, 0)) for p, end in heads.items()}
            if left > UNREAD_MAX:
                self._changed |= self._running.advance(heads)
                finding.verdict, finding.said = Verdict.CHECKING, f"{left} records of the journal are to be read"
                return None
        before = {p: at.cut.offset + 1 for p, at in self._running.partitions.items()}
        self._tables |= tables
        if another and any(heads.get(p, 0) < end for p, end in before.items()):
            raise ProjectionAnewError
        return {p: max(heads.get(p, 0), before.get(p, 0)) for p in heads.keys() | before.keys()}

    def _parts(self, table: Table, ends: dict[int, int], deadline: float) -> list[Difference]:
        """Brings the totals of one table to the parts that are active now; returns rows that cannot be."""
        for _ in range(3):
            parts = self._store.parts(table.name)
            now, unread, gone = self._sums_of(table, parts, ends, deadline)
            if not gone:
                break
        else:  # it is merging faster than we read: the next round takes what is there then
            self._unread[table.name] = parts
            return []
        self._unread[table.name] = unread
        counted = self._counted[table.name]
        for name in counted.keys() - now.keys():
            self._count(counted[name][1], -1)
        for name, (_, sums) in now.items():
            before = counted.get(name)
            if before is None or before[1] is not sums:
                if before is not None:
                    self._count(before[1], -1)
                self._count(sums, 1)
        self._counted[table.name] = now
        return self._strays(table, now)

    def _count(self, sums: PartSums, sign: int) -> None:
        for key, more in sums.within.items():
            left = self.totals.get(key, NONE).plus(more, sign)
            if left == NONE:
                self.totals.pop(key, None)
            else:
                self.totals[key] = left
            self._changed.add(key)

    def _sums_of(
        self, table: Table, parts: list[Part], ends: dict[int, int], deadline: float
    ) -> tuple[dict[str, tuple[Part, PartSums]], list[Part], bool]:
        """Sums of these parts, the parts that are left to be read, and whether one is not active any more."""
        now: dict[str, tuple[Part, PartSums]] = {}
        todo: list[Part] = []
        for part in parts:
            sums = self.known.get((table.name, part.contents)) or self._merged(table, part, parts)
            if sums is None:
                todo.append(part)
            else:
                now[part.name] = part, sums
        unread: list[Part] = []
        todo.sort(key=lambda p: p.rows)
        first = todo[0] if todo else None
        for group in _groups(todo):
            if unread or (time.monotonic() > deadline and group[0] is not first):  # some of it in every round
                unread += group
                continue
            found = self._read(table, group, ends)
            for part in group:
                if part.name in found:
                    now[part.name] = part, found[part.name]
                elif (table.name, part.contents) in self._reading:
                    unread.append(part)
                elif not self._is_empty(table, part):
                    return {}, [], True
                else:
                    now[part.name] = part, PartSums()
        return now, unread, False

    def _is_empty(self, table: Table, part: Part) -> bool:
        """Whether a part without rows is still there: all of them are deleted, or it never had any."""
        return part.rows == 0 or any(p.name == part.name for p in self._store.parts(table.name))

    def _read(self, table: Table, group: list[Part], ends: dict[int, int]) -> dict[str, PartSums]:
        """Reads parts whole, or the next slice of a large one; sums that are complete."""
        if len(group) > 1 or group[0].rows <= ROWS_PER_QUERY:
            found = self._store.sums(table, [p.name for p in group], ends)
            for part in group:
                if part.name in found and found[part.name].whole:
                    self._know(table, part, found[part.name])
            return found
        part, contents = group[0], (table.name, group[0].contents)
        reading = self._reading.setdefault(contents, _Reading(dict(ends)))
        last = reading.next_row + ROWS_PER_QUERY
        piece = self._store.sums(table, [part.name], reading.ends, (reading.next_row, last)).get(part.name)
        if piece is not None:
            reading.sums.add(piece)
        reading.next_row = last
        if last < part.rows:
            return {}
        del self._reading[contents]
        if not reading.sums.whole and reading.ends != ends:
            return self._store.sums(table, [part.name], ends)  # the cut moved while it was read
        self._know(table, part, reading.sums)
        return {part.name: reading.sums}

    def _know(self, table: Table, part: Part, sums: PartSums) -> None:
        if sums.whole:
            self.known[table.name, part.contents] = sums
            self.last_read[table.name, part.contents] = time.monotonic()

    def _merged(self, table: Table, part: Part, parts: list[Part]) -> PartSums | None:
        """The sums of a large part that was merged from known ones: their sum. A merge changes no row; whoever does
        leaves another mutation number or another count, and then the part is read."""
        if part.rows < MERGED_ROWS_MIN:
            return None
        active = {p.name for p in parts}
        sources = [
            (p, sums) for p, sums in self._counted[table.name].values()
            if p.name not in active and p.month == part.month and p.mutation == part.mutation
            and part.first_block <= p.first_block and p.last_block <= part.last_block
        ]  # fmt: skip
        if sum(p.rows for p, _ in sources) != part.rows or not all(s.whole for _, s in sources):
            return None
        total = PartSums()
        for _, sums in sources:
            total.add(sums)
        self.known[table.name, part.contents] = total
        self.last_read[table.name, part.contents] = 0.0  # the rotation takes it first
        return total

    def _read_again(self, ends: dict[int, int]) -> None:
        """The rotation: reads what was not read for longest; and forgets contents that are gone."""
        present = {(t, p.contents): p for t, parts in self._counted.items() for p, _ in parts.values()}
        for contents in self.known.keys() - present.keys():
            if not self._unread.get(contents[0]):
                del self.known[contents]
                self.last_read.pop(contents, None)
        left = self._options.again_rows
        oldest = sorted((c for c in present if c in self.known), key=lambda c: self.last_read.get(c, 0.0))
        tables = {t.name: t for t in TABLES}
        for contents in oldest:
            part = present[contents]
            if left <= 0:
                break
            left -= min(part.rows, ROWS_PER_QUERY)
            found = self._read(tables[contents[0]], [part], ends).get(part.name)
            if found is not None:
                before = self._counted[contents[0]][part.name][1]
                if found.within != before.within:
                    log.error(
                        "a part of ClickHouse does not say what it said before", table=contents[0], part=part.name
                    )
                    self._count(before, -1)
                    self._count(found, 1)
                self._counted[contents[0]][part.name] = part, found

    def _strays(self, table: Table, now: Mapping[str, tuple[Part, PartSums]]) -> list[Difference]:
        """Rows after the journal's end, of a partition that there is not, or of another journal."""
        outside = [name for name, (_, sums) in now.items() if not sums.whole]
        if not outside:
            return []
        ends = self._journal_ends()
        suspect = [
            name for name in outside
            if now[name][1].foreign or any(last >= ends.get(p, 0) for p, (last, _) in now[name][1].beyond.items())
        ]  # fmt: skip
        if not suspect:
            return []
        self._stray_months |= {(table.name, now[name][0].month) for name in suspect}
        found = self._store.strays(table, suspect, ends, SHOWN_MAX)
        return [_stray(table, *row) for row in found]

    def _conclude(self, finding: Finding, ends: dict[int, int], strays: list[Difference]) -> None:
        unread = {(t, p.month) for t, parts in self._unread.items() for p in parts}
        left = sum(p.rows for parts in self._unread.values() for p in parts)
        ready = {k for k in self._changed | self._wrong if (k.table, k.month) not in unread}
        self._changed -= ready
        self._wrong = (self._wrong - ready) | {
            k for k in ready if self._running.sums.get(k, NONE) != self.totals.get(k, NONE)
        }
        named = list(self._name(ends))
        if named:  # once some are proven, the others are told by their sums until it is their turn
            sums, totals = self._running.sums, self.totals
            named += [_by_sums(k, sums.get(k, NONE), totals.get(k, NONE)) for k in sorted(self.unconfirmed)]
        self._named = {k: n for k, n in self._named.items() if k in self._wrong}
        every = list(dict.fromkeys([*strays, *named, *self._by_hand()]))
        finding.differences, finding.count = every[:SHOWN_MAX], len(every)
        finding.more = {"parts": sum(len(p) for p in self._counted.values()), "rows_unread": left}
        if every:
            finding.verdict = Verdict.DIFFERS
        elif self.unconfirmed:
            finding.verdict, finding.said = Verdict.CHECKING, "sums that differ are being read again"
        elif left:
            finding.verdict, finding.said = Verdict.CHECKING, f"{left} rows are to be read"

    def _by_hand(self) -> Iterator[Difference]:
        """Parts that somebody rewrote and that are not read yet: the fact is known before the rows are."""
        rewritten = [p for parts in self._unread.values() for p in parts if p.mutation]
        commands = self._store.mutations() if rewritten else {}
        for p in rewritten:
            command = commands.get((p.table, p.mutation))
            if command is not None:
                text = f"{p.table}: rows of month {p.month} were rewritten by {command[:200]}; they are being compared"
                yield Difference(CLICKHOUSE, -1, text)

    def _name(self, ends: dict[int, int]) -> Iterator[Difference]:
        """The rows behind stretches that differ: some each round, the others by their sums."""
        budget = NAMED_PER_ROUND
        self.unconfirmed.clear()
        for key in sorted(self._wrong):
            own, stored = self._running.sums.get(key, NONE), self.totals.get(key, NONE)
            before = self._named.get(key)
            if before is not None and (before.journal, before.stored) == (own, stored):
                yield from before.differences
            elif budget:
                budget -= 1
                yield from self._look_closer(key, stored, ends.get(key.partition, 0))
            else:
                self.unconfirmed.add(key)

    def _look_closer(self, key: Key, stored: Sums, end: int) -> list[Difference]:
        first = key.stretch * STRETCH
        stretch = Stretch(key, first, min(first + STRETCH, end), self._reread)
        if stretch.sums != self._running.sums.get(key, NONE):
            log.error("running sums were wrong and are read again", key=key, were=self._running.sums.get(key, NONE))
            self._running.replace(key, stretch.sums)
            if stretch.sums == stored:
                self._wrong.discard(key)
                return []
        found = list(stretch.differences(self._store))
        if not found:  # row by row they are equal: it is what was kept of the parts that is wrong
            log.error("sums of parts were wrong and are read again", key=key, were=stored)
            for part, _ in self._counted[key.table].values():
                if part.month == key.month:
                    self.known.pop((key.table, part.contents), None)
            self.unconfirmed.add(key)
            return []
        self._named[key] = _Named(stretch.sums, stored, found)
        return found


def _stray(table: Table, topic: str, partition: int, offset: int, who: str) -> Difference:
    text = f"{table.name}: a row of {topic}, journal offset {offset} ({who}), was never journaled"
    return Difference(CLICKHOUSE, partition, text, who if table.amount else "")


def _by_sums(key: Key, own: Sums, stored: Sums) -> Difference:
    first = key.stretch * STRETCH
    text = (
        f"{key.table}: {key.currency} rows of journal offsets {first} to {first + STRETCH - 1} booked in {key.month}: "
        f"{stored.rows} with debits {stored.debits} and credits {stored.credits} are stored, journaled are {own.rows} "
        f"with {own.debits} and {own.credits}"
    )
    return Difference(CLICKHOUSE, key.partition, text)


def _groups(parts: list[Part]) -> Iterator[list[Part]]:
    """Parts in groups that one query reads, smallest first; a large one alone."""
    group: list[Part] = []
    rows = 0
    for part in parts:
        if group and rows + part.rows > ROWS_PER_QUERY:
            yield group
            group, rows = [], 0
        group.append(part)
        rows += part.rows
    if group:
        yield group
