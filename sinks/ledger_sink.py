"""The journal into ClickHouse, exactly once in effect, with the store itself as the only authority.

Order of a batch: control changes, postings and what is pending are inserted and read back; then the outcomes, which
make it count; then those are read back too. So whatever is killed in between, the last outcome of each partition is the
point to go on from, and what a torn batch had already brought beyond it is found by its offset and left out the second
time. Nothing is ever retried blindly: after any error the sink takes over anew (see `fence`) and reads what is there.

While more is waiting, the server works on two batches and this process on the next: the outcomes of one are on their
way beside the postings of the one after it. In each table the batches still come one after the other, each proven
before the next is sent, so that what a kill leaves is the same as before, of one batch more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from schemas.codec import Codec
from schemas.errors import BadInputError, InvariantError, PartUnavailableError
from schemas.failpoints import failpoint
from sinks.clickhouse import ClickHouseConfig, Database, Insert
from sinks.columnar import Ints, JournalColumns, decode_journal
from sinks.fence import take_over
from sinks.rows import (
    Columns,
    Expected,
    JournalRows,
    changes_block,
    expectations,
    outcomes_block,
    pending_block,
    postings_block,
    together,
)

TABLES = ("postings", "pending", "outcomes", "control_changes")
_BEFORE = ("control_changes", "postings", "pending")  # what a torn batch may have more of than its outcomes say
_STEPS = {"control_changes": "changes"}  # fail points are called after the table, but for this one
POSTINGS_PER_INSERT = 400_000
PIECE_RECORDS = 50_000  # so many are decoded at once: arrays of more fall out of the processor's caches


class Arrival(NamedTuple):
    """One committed record of the journal."""

    partition: int
    offset: int
    value: bytes | None


@dataclass(slots=True)
class Position:
    """Where a partition stands in the store. `postings`, `pending` and `records`: how many rows it has."""

    next_offset: int = 0
    sequence: int = 0
    records: int = 0
    postings: int = 0
    pending: int = 0


class _Piece(NamedTuple):
    """Records of one month that are not stored yet, and what must be found of them."""

    j: JournalRows
    rows: Ints
    expected: list[Expected]

    @property
    def month(self) -> int:
        """Of booking, as months since 1970."""
        return int(self.j.months(self.rows[:1])[0])

    @property
    def legs(self) -> int:
        """Rows for the two tables of legs."""
        return sum(e.postings[0] + e.pending[0] for e in self.expected)


@dataclass(slots=True)
class _Chunk:
    """What is inserted at once, and on its way: first into the tables before the outcomes, then the outcomes, of which
    it holds the blocks."""

    run: int
    expected: list[Expected]
    outcomes: list[Columns]
    inserts: dict[str, Insert] = field(default_factory=dict)


class LedgerSink:
    """Writes journal records. `topic`: the journal's name and id, as `name@id`. Call `take_over` first, and again
    after any error of `write`."""

    def __init__(self, config: ClickHouseConfig, topic: str, codec: Codec) -> None:
        self._db = Database(config)
        self._topic = topic
        self._codec = codec
        self.run = 0
        self.positions: dict[int, Position] = {}
        self._torn: dict[str, dict[int, Ints]] = {}
        self._ends: dict[int, tuple[int, int]] = {}  # next offset and last sequence, with what is on its way
        self._first: _Chunk | None = None  # its postings are on their way
        self._second: _Chunk | None = None  # its outcomes are: the chunk before
        self._proven = 0

    @property
    def under_way(self) -> bool:
        """Whether records were sent that are not proven yet."""
        return self._first is not None or self._second is not None

    def take_over(self) -> dict[int, int]:
        """Becomes the one sink and reads where each partition stands: the next offset, for those that have any.

        Raises InvariantError when what is stored cannot be a prefix of the journal, BadInputError when it is of another
        journal, FencedError, PartUnavailableError.
        """
        self.run = 0
        self._give_up()
        run = take_over(self._db, TABLES)
        failpoint("sink_clickhouse.after_fence")
        self.positions = self._read_positions()
        self._torn = {t: self._read_torn(t) for t in _BEFORE}
        for table in ("postings", "pending"):
            self._check_totals(table)
        self._ends = {p: (at.next_offset, at.sequence) for p, at in self.positions.items()}
        self.run = run
        return {p: at.next_offset for p, at in self.positions.items()}

    def write(self, arrivals: Sequence[Arrival], *, more: bool = False) -> int:
        """Stores and proves these records; what is stored already is left out. Returns how many were proven.

        `more`: others are waiting, so what was sent last is not waited for; the next `write` does, and `flush`.
        Raises what `take_over` raises, and UnknownSchemaError before anything of these was written.
        """
        assert self.run, "take_over comes before write"
        parts = [arrivals[i : i + PIECE_RECORDS] for i in range(0, len(arrivals), PIECE_RECORDS)]
        decoded = [decode_journal([a.value for a in part], self._codec) for part in parts]
        before = self._proven
        run, self.run = self.run, 0  # whatever is raised below: only take_over makes this sink writable again
        try:
            pieces = [p for part, c in zip(parts, decoded, strict=True) for p in self._pieces(run, part, c)]
            for of_one_insert in _at_once(pieces):
                self._send(run, of_one_insert)
            while self.under_way and not more:
                self._advance()
        except BaseException:
            self._give_up()
            raise
        self.run = run
        return self._proven - before

    def flush(self) -> int:
        """Waits for what is under way. Returns how many records were proven. Raises as `write`."""
        return self.write(())

    def _give_up(self) -> None:
        """Forgets what is under way: it may land or not, and only `take_over` can tell."""
        if self.under_way:
            self._db.close()
        self._first = self._second = None
        self._ends = {p: (at.next_offset, at.sequence) for p, at in self.positions.items()}

    def close(self) -> None:
        self._db.close()

    def _pieces(self, run: int, arrivals: Sequence[Arrival], columns: JournalColumns) -> Iterator[_Piece]:
        """What of these records is to be stored; it counts as on its way from here on."""
        j = JournalRows(
            self._topic.encode(),
            run,
            np.fromiter((a.partition for a in arrivals), np.int64, len(arrivals)),
            np.fromiter((a.offset for a in arrivals), np.int64, len(arrivals)),
            columns,
        )
        for rows in chunks(j, self._fresh(j)):
            piece = _Piece(j, rows, list(expectations(j, rows)))
            for e in piece.expected:
                self._ends[e.partition] = e.last_offset + 1, e.last_sequence
            yield piece

    def _fresh(self, j: JournalRows) -> Ints:
        """The records not stored yet, in order; holds the sequence without gap or repeat."""
        keep: list[Ints] = []
        sequence = j.columns.numbers["sequence"]
        for p in np.unique(j.partition).tolist():
            rows = np.flatnonzero(j.partition == p)
            next_offset, last = self._ends.get(p, (0, 0))
            seen = np.maximum.accumulate(np.concatenate(([next_offset - 1], j.offset[rows])))[:-1]
            rows = rows[j.offset[rows] > seen]
            wanted = np.arange(last + 1, last + 1 + len(rows), dtype=np.int64)
            wrong = np.flatnonzero(sequence[rows] != wanted)
            if wrong.size:
                i = int(wrong[0])
                raise InvariantError(
                    f"journal partition {p} offset {int(j.offset[rows[i]])} has sequence {int(sequence[rows[i]])}, "
                    f"{int(wanted[i])} comes next: records are missing or repeated"
                )
            keep.append(rows)
        return np.sort(np.concatenate(keep))

    def _send(self, run: int, pieces: Sequence[_Piece]) -> None:
        """Sends what comes before the outcomes, when the chunk before is as far as its outcomes."""
        failpoint("sink_clickhouse.before_insert")
        expected = together(e for p in pieces for e in p.expected)
        chunk = _Chunk(run, expected, [outcomes_block(p.j, p.rows) for p in pieces])
        blocks = {
            table: [_BLOCKS[table](p.j, p.rows, self._present(p.j, p.rows, table)) for p in pieces]
            for table in _BEFORE
        }  # fmt: skip
        self._advance()
        self._first = chunk
        for table, found in blocks.items():
            if filled := [block for block in found if len(block["run"])]:
                chunk.inserts[table] = self._begin(table, filled)

    def _advance(self) -> None:
        """Proves the outcomes that are under way, then the postings, of which it sends the outcomes."""
        if self._second is not None:
            self._prove_outcomes(self._second)
            self._second = None
        if self._first is not None:
            chunk = self._first
            for table in _BEFORE:
                if table in chunk.inserts:
                    chunk.inserts[table].finish()
                failpoint(f"sink_clickhouse.after_insert_{_STEPS.get(table, table)}")
            self._prove("postings", chunk.expected)
            if any(e.pending[0] for e in chunk.expected):
                self._prove("pending", chunk.expected)
            if any(e.changes[0] for e in chunk.expected):
                self._prove("control_changes", chunk.expected)
            chunk.inserts = {"outcomes": self._begin("outcomes", chunk.outcomes)}
            self._first, self._second = None, chunk

    def _prove_outcomes(self, chunk: _Chunk) -> None:
        chunk.inserts["outcomes"].finish()
        failpoint("sink_clickhouse.after_insert_outcomes")
        self._prove("outcomes", chunk.expected)
        failpoint("sink_clickhouse.after_proof")
        for e in chunk.expected:
            at = self.positions.setdefault(e.partition, Position())
            at.next_offset, at.sequence = e.last_offset + 1, e.last_sequence
            at.records += e.outcomes[0]
            at.postings += e.postings[0]
            at.pending += e.pending[0]
            self._proven += e.outcomes[0]
        self._note(chunk.run, chunk.expected)
        failpoint("sink_clickhouse.after_audit")

    def _begin(self, table: str, blocks: Sequence[Columns]) -> Insert:
        return self._db.begin(table, list(blocks[0]), [list(block.values()) for block in blocks])

    def _present(self, j: JournalRows, rows: Ints, table: str) -> Ints:
        """Those of these records that a torn batch had already brought into `table`."""
        out = [np.zeros(0, dtype=np.int64)]
        for p, offsets in self._torn[table].items():
            own = rows[j.partition[rows] == p]
            out.append(own[np.isin(j.offset[own], offsets)])
        return np.concatenate(out)

    def _prove(self, table: str, expected: list[Expected]) -> None:
        """Reads back what was inserted. Raises InvariantError when there is too much of it, or another sum."""
        sums, by, wanted = _PROOFS[table]
        first, last = f"first_{by}", f"last_{by}"
        ranges = " OR ".join(
            f"(partition = {e.partition} AND {by} BETWEEN {getattr(e, first)} AND {getattr(e, last)})" for e in expected
        )
        found = {
            int(row[0]): tuple(int(v) for v in row[1:])
            for row in self._db.rows(
                f"SELECT partition, {sums} FROM {self._db.name}.{table} WHERE topic = %(topic)s AND ({ranges}) "
                "GROUP BY partition",
                {"topic": self._topic},
            )
        }
        for e in expected:
            must: tuple[int, ...] = getattr(e, wanted)
            have = found.get(e.partition, (0,) * len(must))
            if have == must:
                continue
            where = f"{table} of partition {e.partition}, offsets {e.first_offset} to {e.last_offset}"
            if have[0] < must[0]:
                hint = f"it took an insert, but {where}, has {have[0]} of {must[0]} rows"
                raise PartUnavailableError("ClickHouse", self._db.config.address, hint)
            raise InvariantError(f"{where}: rows and sums must be {must}, are {have}")

    def _note(self, run: int, expected: list[Expected]) -> None:
        now = int(datetime.now(UTC).timestamp() * 1000)
        n = len(expected)
        topic = np.empty(n, dtype=object)
        topic[:] = self._topic.encode()
        columns: dict[str, Any] = {
            "run": np.full(n, run, dtype=np.uint64),
            "topic": topic,
            "partition": np.array([e.partition for e in expected], dtype=np.uint16),
            "first_offset": np.array([e.first_offset for e in expected], dtype=np.uint64),
            "last_offset": np.array([e.last_offset for e in expected], dtype=np.uint64),
            "records": np.array([e.outcomes[0] for e in expected], dtype=np.uint32),
            "postings": np.array([e.postings[0] for e in expected], dtype=np.uint32),
            "verified_at": np.full(n, now, dtype=np.int64),
        }
        self._db.insert("ingest_batches", list(columns), list(columns.values()))

    def _read_positions(self) -> dict[int, Position]:
        out: dict[int, Position] = {}
        rows = self._db.rows(
            "SELECT topic, partition, count(), min(sequence), max(sequence), max(offset), sum(toUInt64(legs)) "
            f"FROM {self._db.name}.outcomes GROUP BY topic, partition"
        )
        pending = dict(
            self._db.rows(f"SELECT partition, sum(toUInt64(pending)) FROM {self._db.name}.outcomes GROUP BY partition")
        )
        for topic, p, count, low, high, offset, legs in rows:
            if topic != self._topic:
                raise BadInputError(
                    f"database {self._db.name} holds the journal {topic}, this is {self._topic}: a re-created topic "
                    "needs a new database, or another world"
                )
            if (low, high) != (1, count):
                raise InvariantError(
                    f"outcomes of partition {p}: {count} rows with sequences {low} to {high}: some miss or repeat"
                )
            out[int(p)] = Position(int(offset) + 1, int(high), int(count), int(legs), int(pending[p]))
        return out

    def _read_torn(self, table: str) -> dict[int, Ints]:
        """Offsets in `table` beyond the last outcome of their partition, by partition."""
        known = " OR ".join(f"(partition = {p} AND offset >= {at.next_offset})" for p, at in self.positions.items())
        fresh = f"partition NOT IN ({', '.join(map(str, self.positions))})" if self.positions else "1"
        rows = self._db.rows(
            f"SELECT partition, groupUniqArray(offset) FROM {self._db.name}.{table} WHERE {known or '0'} OR {fresh} "
            "GROUP BY partition"
        )
        return {int(p): np.array(sorted(offsets), dtype=np.int64) for p, offsets in rows}

    def _check_totals(self, table: str) -> None:
        """Every row that the outcomes count is there once: counts over the whole store, from its projections."""
        rows = self._db.rows(
            f"SELECT partition, count() FROM {self._db.name}.{table} WHERE topic = %(t)s GROUP BY partition",
            {"t": self._topic},
        )
        counts = {int(p): int(n) for p, n in rows}
        torn = {
            int(p): int(n)
            for p, n in self._db.rows(
                f"SELECT partition, count() FROM {self._db.name}.{table} WHERE "
                + " OR ".join(f"(partition = {p} AND offset >= {self.next_offset(p)})" for p in self._torn[table])
                + " GROUP BY partition"
            )
        } if self._torn[table] else {}  # fmt: skip
        for p in counts.keys() | self.positions.keys():
            must = getattr(self.positions[p], table) if p in self.positions else 0
            have = counts.get(p, 0) - torn.get(p, 0)
            if have != must:
                raise InvariantError(f"{table} of partition {p}: the outcomes say {must}, {have} are stored")

    def next_offset(self, partition: int) -> int:
        """Up to where a partition is stored and proven."""
        return self.positions[partition].next_offset if partition in self.positions else 0


_BLOCKS = {"control_changes": changes_block, "postings": postings_block, "pending": pending_block}
_PROOFS = {  # sums to read back, the column that bounds the range, and the field of Expected that must be found
    "postings": (
        "count(), sumIf(amount, side = 'debit'), sumIf(amount, side = 'credit'), sum(toUInt64(line))",
        "offset",
        "postings",
    ),
    "pending": (
        "count(), sumIf(change, side = 'debit'), sumIf(change, side = 'credit'), sum(toUInt64(line))",
        "offset",
        "pending",
    ),
    "outcomes": (
        "count(), sum(sequence), sum(source_offset), sum(toUInt64(legs)), sum(toUInt64(pending))",
        "sequence",
        "outcomes",
    ),
    "control_changes": ("count(), sum(sequence)", "sequence", "changes"),
}


def _at_once(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """What goes into one insert each: pieces that follow each other, of one month, with a bounded number of legs."""
    held: list[_Piece] = []
    legs = 0
    for p in pieces:
        if held and (legs + p.legs > POSTINGS_PER_INSERT or p.month != held[0].month):
            yield held
            held, legs = [], 0
        held.append(p)
        legs += p.legs
    if held:
        yield held


def chunks(j: JournalRows, rows: Ints) -> Iterator[Ints]:
    """Cuts records into what one insert may hold: one month of booking, a bounded number of legs.

    Within a partition the order is kept from chunk to chunk, also when the broker's clock steps back over the end of
    a month.
    """
    months = j.months(rows)
    wave = np.zeros(len(rows), dtype=np.int64)
    if len(rows) and (months != months[0]).any():
        for p in np.unique(j.partition[rows]):
            own = np.flatnonzero(j.partition[rows] == p)
            wave[own[1:]] = np.cumsum(months[own][1:] != months[own][:-1])
    for w in np.unique(wave):
        for month in np.unique(months[wave == w]):
            same = rows[(wave == w) & (months == month)]
            piece = np.cumsum(j.legs[same] + j.pending[same]) // POSTINGS_PER_INSERT
            for cut in np.split(same, np.flatnonzero(np.diff(piece)) + 1):
                if len(cut):
                    yield cut
