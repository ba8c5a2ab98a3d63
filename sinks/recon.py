"""The tables of reconciliation: statements as they came, their lines, runs with matches and breaks, people's words.

Rows count only when their `attempt` stands in recon_statements or recon_runs, whose row is written last, after the
others were read back. So an import or a run that was killed is seen by nobody, and is done again under a new attempt.
"""

from __future__ import annotations

import json
import os
import time
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from schemas.errors import BadInputError, InvariantError, PartUnavailableError
from sinks.clickhouse import Database
from sinks.finance.cut import Cut

CHUNK_BYTES = 4_000_000
_BLOCK_ROWS = 200_000
_WITHDRAWN = 0  # the attempt of the row that withdraws a statement: lower than any that is drawn
_QUIET_TIMEOUT_S = 60.0

# A match of which one line is of a withdrawn statement is none any more.
_LINKS = (
    "FROM recon_links WHERE account_id = %(account)s AND attempt IN %(runs)s AND (attempt, number) NOT IN "
    "(SELECT attempt, number FROM recon_links WHERE account_id = %(account)s AND toString(statement) IN %(gone)s)"
)
QUERIES: dict[str, str] = {
    "account": "SELECT account_type, currency FROM control_changes WHERE subject_id = %(account)s "
    "AND command = 'OpenAccount' LIMIT 1",
    # Two imports of one statement at the same time are both whole and the same: the lower attempt is the one.
    "statements": "SELECT account_id, statement, min(attempt), argMin((file, place, file_name, file_bytes, format, "
    "mapping, name, external_account, currency, opening, closing, lines, entries, announced, credits, debits, "
    "toString(first_day), toString(last_day), toString(imported_at)), attempt) FROM recon_statements "
    "WHERE account_id = %(account)s OR %(account)s = '' GROUP BY account_id, statement "
    "ORDER BY account_id, min(first_day), min(last_day), statement",
    "runs": "SELECT account_id, number, min(attempt), argMin((run, cut, toUnixTimestamp64Milli(known_at), day, since, "
    "first_day, last_day, statements, currency, date_tolerance, amount_tolerance, figures, result, "
    "toUnixTimestamp64Milli(made_at)), attempt) FROM recon_runs WHERE account_id = %(account)s OR %(account)s = '' "
    "GROUP BY account_id, number ORDER BY account_id, number",
    "lines": "SELECT indexOf(%(statements)s, toString(statement)) - 1, number, detail, toInt32(value_date), "
    "toInt32(booking_date), toInt64(amount), reference, bank_reference, text, "
    f"(statement, number, detail) IN (SELECT statement, line, detail {_LINKS}) FROM recon_lines "
    "WHERE account_id = %(account)s AND (toString(statement), attempt) IN %(wanted)s",
    "postings": "SELECT partition, sequence, line, toInt32(value_date), toInt32(booked_date), side = 'debit', "
    "toInt64(amount), reference, (partition, sequence, line) IN (SELECT shard, sequence, leg "
    f"{_LINKS}) FROM postings WHERE account_id = %(account)s "
    "AND value_date >= %(since)s AND booked_at <= fromUnixTimestamp64Milli(%(known_at)s, 'UTC') "
    "AND offset < %(ends)s[partition + 1]",
    "links": "SELECT number, pass, toString(statement), line, detail, shard, sequence, leg "
    f"{_LINKS} ORDER BY attempt, number, statement, line, detail, shard, "
    "sequence, leg",
    "breaks": "SELECT toString(break), type, statement, line, detail, shard, sequence, leg, value_date, currency, "
    "statement_amount, ledger_amount, difference, age_days, candidates, reference, text FROM recon_breaks "
    "WHERE account_id = %(account)s AND attempt = %(attempt)s ORDER BY value_date, break",
    "words": "SELECT break, note, by, said_at FROM recon_words WHERE account_id = %(account)s "
    "ORDER BY break, said_at, note, by",
    "chunks": "SELECT chunk, base64Encode(data) FROM recon_files WHERE file = %(file)s AND attempt = %(attempt)s "
    "ORDER BY chunk",
    "balance": "SELECT side = 'debit', sum(amount) FROM postings WHERE account_id = %(account)s "
    "AND value_date <= %(until)s AND booked_at <= fromUnixTimestamp64Milli(%(known_at)s, 'UTC') "
    "AND offset < %(ends)s[partition + 1] GROUP BY side",
}  # fmt: skip


class StatementRow(NamedTuple):
    """One statement. Amounts in minor units; days as ISO texts."""

    account_id: str
    statement: str
    attempt: int
    file: str
    place: int
    file_name: str
    file_bytes: int
    format: str
    mapping: str
    name: str
    external_account: str
    currency: str
    opening: int | None
    closing: int | None
    lines: int
    entries: int
    announced: int
    credits: int
    debits: int
    first_day: str
    last_day: str
    imported_at: str


class RunRow(NamedTuple):
    """One run. `figures`: counts and sums by name."""

    account_id: str
    number: int
    attempt: int
    run: str
    cut: str
    known_at: datetime
    day: date
    since: date
    first_day: date
    last_day: date
    statements: list[str]
    currency: str
    date_tolerance: int
    amount_tolerance: int
    figures: dict[str, Any]
    result: str
    made_at: datetime


class LinkRow(NamedTuple):
    """A line that was matched with a posting, in the match of that number of its run."""

    number: int
    match_pass: str
    statement: str
    line: int
    detail: int
    partition: int
    sequence: int
    leg: int


class BreakRow(NamedTuple):
    """One break. `statement` empty: no line; `sequence` 0: no posting. Amounts in minor units."""

    id: str
    type: str
    statement: str
    line: int
    detail: int
    partition: int
    sequence: int
    leg: int
    value_date: date
    currency: str
    statement_amount: int
    ledger_amount: int
    difference: int
    age_days: int
    candidates: int
    reference: str
    text: str


class Word(NamedTuple):
    """What somebody said of a break."""

    break_id: str
    note: str
    by: str
    said_at: datetime


@dataclass(frozen=True, slots=True)
class NewStatement:
    """A statement to be stored. `columns`: of recon_lines, equally long, texts as bytes; `facts`: its row."""

    statement: str
    columns: Mapping[str, Sequence[Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Recon:
    """Asks and writes over one connection. Not thread-safe.

    Every call raises PartUnavailableError when ClickHouse does not answer.
    """

    def __init__(self, db: Database) -> None:
        self.db = db

    def account(self, account_id: str) -> tuple[str, str]:
        """Type and currency. Raises BadInputError when the account is not known here."""
        found = self._ask("account", account=account_id)
        if not found:
            raise BadInputError(
                f"account {account_id} is not known in ClickHouse; was it opened, and is the sink behind?"
            )
        return str(found[0][0]), str(found[0][1])

    def statements(self, account_id: str = "") -> list[StatementRow]:
        """All that are whole and were not withdrawn, of one account or of all, by account and days."""
        return [s for s in self._statements(account_id) if s.attempt != _WITHDRAWN]

    def withdrawn(self, account_id: str = "") -> list[StatementRow]:
        """Those that were withdrawn; `mapping` says why and by whom, as JSON, `imported_at` when."""
        return [s for s in self._statements(account_id) if s.attempt == _WITHDRAWN]

    def _statements(self, account_id: str) -> list[StatementRow]:
        return [StatementRow(a, str(s), t, *facts) for a, s, t, facts in self._ask("statements", account=account_id)]

    def withdraw(self, row: StatementRow, note: str, by: str, at: datetime) -> None:
        """Makes a statement count no more, and with it every match that it is part of. Nothing is deleted."""
        said = json.dumps({"note": note, "by": by}, ensure_ascii=False)
        facts = row._replace(attempt=_WITHDRAWN, mapping=said)._asdict()
        days = {n: date.fromisoformat(facts[n]) for n in ("first_day", "last_day")}
        values = {**facts, **days, "imported_at": at}
        self._insert("recon_statements", {n: [v.encode() if isinstance(v, str) else v] for n, v in values.items()})

    def runs(self, account_id: str = "") -> list[RunRow]:
        """All that are whole, by account and number."""
        out = []
        for account, number, attempt, facts in self._ask("runs", account=account_id):
            row = [*facts]
            row[2], row[13] = _moment(row[2]), _moment(row[13])
            row[11] = json.loads(row[11])
            out.append(RunRow(account, number, attempt, *row))
        return out

    def store_file(self, file: str, chunks: Iterable[bytes]) -> int:
        """A file's bytes, under a new attempt, which is returned and is to be that of its statements."""
        attempt = _draw()
        size = 0
        for number, chunk in enumerate(chunks):
            size += len(chunk)
            self._insert(
                "recon_files", {"file": [file.encode()], "attempt": [attempt], "chunk": [number], "data": [chunk]}
            )
        kept = self.db.rows(
            "SELECT sum(length(data)) FROM recon_files WHERE file = %(file)s AND attempt = %(attempt)s",
            {"file": file, "attempt": attempt},
        )
        if int(kept[0][0]) != size:
            raise InvariantError(f"of {size:,} bytes of a file {kept[0][0]:,} are found after they were stored")
        return attempt

    def file(self, statement: StatementRow) -> Iterator[bytes]:
        """The bytes of the file that a statement came in."""

        for _, data in self.db.stream(QUERIES["chunks"], {"file": statement.file, "attempt": statement.attempt}):
            yield b64decode(data)

    def store_lines(self, account_id: str, attempt: int, new: NewStatement) -> Iterator[int]:
        """A statement's lines, block by block; yields the number stored so far. Read back and compared in the end."""
        size = len(new.columns["number"])
        for start in range(0, size, _BLOCK_ROWS):
            end = min(start + _BLOCK_ROWS, size)
            columns = {name: values[start:end] for name, values in new.columns.items()}
            same = {"account_id": account_id.encode(), "statement": new.statement.encode(), "attempt": attempt}
            self._insert("recon_lines", {**{k: [v] * (end - start) for k, v in same.items()}, **columns})
            yield end
        found = self.db.rows(
            "SELECT count(), sum(amount), sum(toInt64(value_date)), sum(toUInt64(number)), sum(length(reference)) "
            "FROM recon_lines WHERE account_id = %(account)s AND statement = %(statement)s AND attempt = %(attempt)s",
            {"account": account_id, "statement": new.statement, "attempt": attempt},
        )[0]
        c = new.columns
        due = (size, sum(c["amount_in"]), sum(c["value_day"]), sum(c["number"]), sum(map(len, c["reference"])))
        if tuple(map(int, found)) != due:
            raise InvariantError(f"lines of a statement read back as {found}, not {due}")

    def store_statements(self, account_id: str, attempt: int, new: Sequence[NewStatement]) -> None:
        """Makes the statements of one file visible, all in one insert."""
        rows: list[dict[str, Any]] = [
            {"account_id": account_id.encode(), "statement": n.statement.encode(), "attempt": attempt, **n.facts}
            for n in new
        ]
        self._insert("recon_statements", {name: [row[name] for row in rows] for name in rows[0]})

    def lines(self, account_id: str, statements: Sequence[StatementRow], runs: Sequence[RunRow]) -> list[Sequence[Any]]:
        """Columns of the lines of these statements: place of the statement, number, detail, value day, booking day,
        signed amount, reference, bank reference, text, whether one of `runs` matched it. In no order."""
        wanted = [(s.statement, s.attempt) for s in statements] or [("", 0)]
        asked = {"statements": [s for s, _ in wanted], "wanted": tuple(wanted), "runs": _attempts(runs)}
        return self._columns("lines", 10, account=account_id, gone=self._gone(account_id), **asked)

    def postings(self, account_id: str, cut: Cut, since: date, runs: Sequence[RunRow]) -> list[Sequence[Any]]:
        """Columns of the account's postings in the cut: partition, sequence, leg, value day, booking day, whether it is
        a debit, amount, reference, whether one of `runs` matched it. In no order."""
        asked = {"since": since, "runs": _attempts(runs), "gone": self._gone(account_id), **_of_cut(cut)}
        return self._columns("postings", 9, account=account_id, **asked)

    def balance(self, account_id: str, cut: Cut, until: date) -> tuple[int, int]:
        """Debits and credits of an account in a cut, to the end of a day of value."""
        sums = {
            bool(debit): int(total)
            for debit, total in self._ask("balance", account=account_id, until=until, **_of_cut(cut))
        }
        return sums.get(True, 0), sums.get(False, 0)

    def store_run(
        self, row: RunRow, links: Mapping[str, Sequence[Any]], breaks: Mapping[str, Sequence[Any]]
    ) -> Iterator[tuple[str, int]]:
        """Stores a run whole; yields table and rows stored so far. `row.attempt` must come from `new_attempt`.

        Raises BadInputError when another run of the account came first.
        """
        counts = {}
        for table, columns in (("recon_links", links), ("recon_breaks", breaks)):
            size = counts[table] = len(next(iter(columns.values())))
            for start in range(0, size, _BLOCK_ROWS):
                end = min(start + _BLOCK_ROWS, size)
                part = {name: values[start:end] for name, values in columns.items()}
                same = {"account_id": row.account_id.encode(), "attempt": row.attempt}
                self._insert(table, {**{k: [v] * (end - start) for k, v in same.items()}, **part})
                yield table, end
        for table, size in counts.items():
            found = self.db.rows(
                f"SELECT count() FROM {table} WHERE account_id = %(account)s AND attempt = %(attempt)s",
                {"account": row.account_id, "attempt": row.attempt},
            )
            if int(found[0][0]) != size:
                raise InvariantError(f"of {size:,} rows of {table} {found[0][0]:,} are found after they were stored")
        self._show_run(row)

    def _show_run(self, row: RunRow) -> None:
        """Makes a run visible unless its number is taken. After its insert it waits until no other insert of that table
        runs: from then on nobody can take the number any more, and whoever has the lowest attempt is the one."""
        values = {
            **row._asdict(), "figures": json.dumps(row.figures, sort_keys=True),
            "known_at": _ms(row.known_at), "made_at": _ms(row.made_at), "statements": list(row.statements) or ["-"],
        }  # fmt: skip
        self.db.rows(
            f"INSERT INTO {self.db.name}.recon_runs SELECT %(account_id)s, %(number)s, %(run)s, %(attempt)s, %(cut)s, "
            "fromUnixTimestamp64Milli(%(known_at)s, 'UTC'), toDate32(%(day)s), toDate32(%(since)s), "
            "toDate32(%(first_day)s), toDate32(%(last_day)s), %(statements)s, %(currency)s, %(date_tolerance)s, "
            "%(amount_tolerance)s, %(figures)s, %(result)s, fromUnixTimestamp64Milli(%(made_at)s, 'UTC') "
            f"WHERE NOT EXISTS (SELECT 1 FROM {self.db.name}.recon_runs WHERE account_id = %(account_id)s "
            "AND number = %(number)s)",
            values,
        )
        self._wait_for_inserts()
        stored = next((r for r in self.runs(row.account_id) if r.number == row.number), None)
        if stored is None or stored.attempt != row.attempt:
            raise BadInputError(f"another run of {row.account_id} was stored meanwhile; run it again")

    def _wait_for_inserts(self) -> None:
        deadline = time.monotonic() + _QUIET_TIMEOUT_S
        while self.db.rows(
            "SELECT query_id FROM system.processes WHERE query_kind = 'Insert' AND position(query, %(t)s) > 0",
            {"t": f"{self.db.name}.recon_runs"},
        ):
            if time.monotonic() > deadline:
                raise PartUnavailableError("ClickHouse", self.db.config.address, "an insert of a run does not end")
            time.sleep(0.02)

    def links(self, account_id: str, runs: Sequence[RunRow]) -> Iterator[LinkRow]:
        """What these runs matched and is not withdrawn, in order."""
        asked = {"account": account_id, "runs": _attempts(runs), "gone": self._gone(account_id)}
        for row in self.db.stream(QUERIES["links"], asked):
            yield LinkRow(*row)

    def breaks(self, run: RunRow) -> list[BreakRow]:
        """The breaks of a run, by value date and id."""
        return [BreakRow(*row) for row in self._ask("breaks", account=run.account_id, attempt=run.attempt)]

    def words(self, account_id: str) -> dict[str, list[Word]]:
        """What people said, by break, the first word first."""
        out: dict[str, list[Word]] = {}
        for row in self._ask("words", account=account_id):
            word = Word(*row)
            out.setdefault(word.break_id, []).append(word)
        return out

    def say(self, account_id: str, word: Word) -> None:
        """Keeps a word."""
        self._insert(
            "recon_words",
            {
                "account_id": [account_id.encode()], "break": [word.break_id.encode()], "note": [word.note.encode()],
                "by": [word.by.encode()], "said_at": [word.said_at],
            },
        )  # fmt: skip

    def _gone(self, account_id: str) -> tuple[str, ...]:
        return tuple(s.statement for s in self.withdrawn(account_id)) or ("-",)

    def _insert(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        self.db.insert(table, [*columns], [_Listed(values) for values in columns.values()])

    def _ask(self, name: str, **params: Any) -> list[tuple[Any, ...]]:
        return self.db.rows(QUERIES[name], params)

    def _columns(self, name: str, width: int, **params: Any) -> list[Sequence[Any]]:
        found = self.db.columnar(QUERIES[name], params)
        return found or [[] for _ in range(width)]


class _Listed:
    """A column as `Database.insert` takes it."""

    __slots__ = ("_values",)

    def __init__(self, values: Any) -> None:
        self._values = values

    def tolist(self) -> list[Any]:
        """The values as plain Python ones."""
        return self._values.tolist() if isinstance(self._values, np.ndarray) else list(self._values)


def new_attempt() -> int:
    """A number that no other import or run has."""
    return _draw()


def _draw() -> int:
    return int.from_bytes(os.urandom(8), "big") >> 1 | 1


def _attempts(runs: Sequence[RunRow]) -> tuple[int, ...]:
    return tuple(r.attempt for r in runs) or (0,)


def _of_cut(cut: Cut) -> dict[str, Any]:
    return {"ends": cut.ends() or [0], "known_at": _ms(cut.known_at)}


def _ms(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _moment(milliseconds: int) -> datetime:
    """Exactly, which the driver's own way, over a float, is not."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
