"""An account's statement in pages, and a tree's accounts, from ClickHouse: what a gateway asks beside the reports.

A page begins after a key, never after a count, so it costs the same however far in it is; and all pages of one
statement go up to one journal record, so what is booked while somebody turns them moves no line. It is for accounts of
partners: all of such an account lies in one partition. A test holds that every query hits an index.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, NamedTuple

from sinks.clickhouse import ClickHouseConfig, Database
from sinks.reports import FIRST_DAY, LAST_DAY, On, Point, day_column, sign_of

QUERIES: dict[str, str] = {
    "point": "SELECT max(sequence), max(offset), max(source_offset) FROM outcomes WHERE partition = %(partition)s "
    "GROUP BY partition",
    "opened": "SELECT account_type, currency FROM control_changes WHERE subject_id = %(account)s "
    "AND command = 'OpenAccount' LIMIT 1",
    # What a projection has summed, and what it must not count because it came after the record `through`.
    "sums": "SELECT ({day} >= %(since)s) + ({day} >= %(day)s) AS part, side, sum(amount) FROM postings "
    "WHERE account_id = %(account)s AND {day} <= %(until)s GROUP BY part, side",
    "beyond": "SELECT ({day} >= %(since)s) + ({day} >= %(day)s) AS part, side, sum(amount) FROM postings "
    "WHERE account_id = %(account)s AND {day} <= %(until)s AND offset > %(through)s GROUP BY part, side",
    # The same without the projection, for when the account is booked on faster than it can be asked.
    "sums_through": "SELECT ({day} >= %(since)s) + ({day} >= %(day)s) AS part, side, sum(amount) FROM postings "
    "WHERE account_id = %(account)s AND {day} <= %(until)s AND offset <= %(through)s GROUP BY part, side",
    "sums_of_day": "SELECT 0, side, sum(amount) FROM postings WHERE account_id = %(account)s AND offset <= %(through)s "
    "AND {day} = %(day)s AND (booked_at, partition, sequence, line) <= "
    "(fromUnixTimestamp64Milli(%(booked_at)s, 'UTC'), %(partition)s, %(sequence)s, %(line)s) GROUP BY side",
    "lines": "SELECT {day}, toUnixTimestamp64Milli(booked_at), partition, sequence, line, value_date, hex(command_id), "
    "source_offset, partner_id, product, operation, reference, side, amount FROM postings "
    "WHERE account_id = %(account)s AND {day} BETWEEN %(since)s AND %(until)s AND offset <= %(through)s "
    "AND ({day}, booked_at, partition, sequence, line) > (%(day)s, fromUnixTimestamp64Milli(%(booked_at)s, 'UTC'), "
    "%(partition)s, %(sequence)s, %(line)s) "
    "ORDER BY {day}, booked_at, partition, sequence, line LIMIT %(limit)s",
    "ids": "SELECT subject_id FROM control_changes WHERE subject_id > %(after)s AND (startsWith(subject_id, %(own)s) "
    "OR startsWith(subject_id, %(below)s)) AND command = 'OpenAccount' ORDER BY subject_id LIMIT 1 BY subject_id "
    "LIMIT %(limit)s",
    "changes": "SELECT subject_id, command, changes, toUnixTimestamp64Milli(booked_at), source_offset "
    "FROM control_changes WHERE subject_id IN %(accounts)s ORDER BY subject_id, partition, sequence",
}
_ASK_AGAIN = 3

_Parts = list[tuple[int, int]]


class LineKey(NamedTuple):
    """Where a line stands in a statement: its day (of value or booking), when it was booked (milliseconds UTC), and its
    place in the journal."""

    day: date
    booked_at: int
    partition: int
    sequence: int
    line: int


class StatementLine(NamedTuple):
    """One posting. `offset`: of the command, in its partition; `balance`: after it, on the account's normal side."""

    key: LineKey
    value_date: date
    command_id: bytes
    offset: int
    partner_id: str
    product: str
    operation: str
    reference: str
    side: Literal["debit", "credit"]
    amount: int
    balance: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some lines; the four sums are of the whole period. `point`: how far the partition is in at least."""

    type: str
    currency: str
    opening: int
    debits: int
    credits: int
    closing: int
    lines: list[StatementLine]
    more: bool
    through: int
    point: Point


class AccountRow(NamedTuple):
    """An account as it is known, without its counters. `opened_at`: milliseconds UTC, 0 when it is not known yet."""

    account_id: str
    type: str
    currency: str
    min_available: int | None
    credit_limit: int
    debits_blocked: bool
    credits_blocked: bool
    frozen: bool
    closed: bool
    opened_at: int


class Pages:
    """Asks over one connection, as the user that may only read. Not thread-safe.

    Every call raises PartUnavailableError when ClickHouse does not answer.
    """

    def __init__(self, config: ClickHouseConfig) -> None:
        self._db = Database(config, reader=True)

    def close(self) -> None:
        self._db.close()

    def point(self, partition: int) -> Point:
        """How far a partition is in; all -1 when nothing is."""
        found = self._ask("point", partition=partition)
        return Point(*map(int, found[0])) if found else Point(-1, -1, -1)

    def posted(self, account_id: str, partition: int) -> tuple[int, int, Point] | None:
        """What was posted to an account at all, debits and credits; None when it is not known here."""
        point = self.point(partition)
        if not self._ask("opened", account=account_id):
            return None
        (_, _), (_, _), (debits, credits) = self._sums(
            account_id, "value", point.journal_offset, FIRST_DAY, FIRST_DAY, LAST_DAY
        )
        return debits, credits, point

    def statement(
        self, account_id: str, partition: int, since: date, until: date, on: On, limit: int,
        after: LineKey | None = None, through: int = -1,
    ) -> Page | None:  # fmt: skip
        """At most `limit` lines of a period, both days included, after a key. `through`: the journal offset that the
        first page named, -1 for the first. None when the account is not known here."""
        point = self.point(partition)
        through = point.journal_offset if through < 0 else min(through, point.journal_offset)
        opened = self._ask("opened", account=account_id)
        if not opened:
            return None
        kind, currency = map(str, opened[0])
        sign = sign_of(kind)
        first_shown = after.day if after is not None else since
        (d0, c0), (d1, c1), (d2, c2) = self._sums(account_id, on, through, since, first_shown, until)
        opening = sign * (d0 - c0)
        balance = opening + sign * (d1 - c1)
        if after is not None:
            (d, c), *_ = _parts(self._ask("sums_of_day", on, account=account_id, through=through, **after._asdict()))
            balance += sign * (d - c)
        key = after or LineKey(since, -1, 0, 0, 0)
        found = self._ask(
            "lines", on, account=account_id, since=max(since, key.day), until=until, through=through,
            limit=limit + 1, **key._asdict(),
        )  # fmt: skip
        lines = []
        for row in found[:limit]:
            *facts, side, amount = row[5:]
            balance += sign * int(amount) * (1 if side == "debit" else -1)
            value_date, command_id, *texts = facts
            values: list[Any] = [value_date, bytes.fromhex(command_id), *texts, str(side), int(amount), balance]
            lines.append(StatementLine(LineKey(*row[:5]), *values))
        debits, credits = d1 + d2, c1 + c2
        closing = opening + sign * (debits - credits)
        return Page(kind, currency, opening, debits, credits, closing, lines, len(found) > limit, through, point)

    def accounts(self, partner_id: str, after: str, limit: int) -> list[AccountRow]:
        """Accounts of a partner and of all below it, by id, after one."""
        found = self._ask("ids", own=partner_id + ":", below=partner_id + "/", after=after, limit=limit)
        return self.terms([str(row[0]) for row in found])

    def terms(self, account_ids: list[str]) -> list[AccountRow]:
        """These accounts, by id; those that are not known here are left out."""
        if not account_ids:
            return []
        rows: dict[str, list[tuple[str, dict[str, str], int]]] = {}
        for subject, command, changes, booked_at, _ in self._ask("changes", accounts=tuple(account_ids)):
            rows.setdefault(str(subject), []).append((str(command), json.loads(changes or "{}"), int(booked_at)))
        return [t for t in (_terms(account_id, rows[account_id]) for account_id in sorted(rows)) if t is not None]

    def _sums(self, account_id: str, on: On, through: int, since: date, day: date, until: date) -> _Parts:
        """Debits and credits before `since`, from there to before `day`, and from there to `until`, up to the journal
        record `through`.

        The sums come from a projection, which cannot leave out what came later; that is asked for apart, before and
        after them, and taken off when nothing came between.
        """
        asked = {"account": account_id, "since": since, "day": day, "until": until}
        before = _parts(self._ask("beyond", on, through=through, **asked))
        for _ in range(_ASK_AGAIN):
            sums = _parts(self._ask("sums", on, **asked))
            again = _parts(self._ask("beyond", on, through=through, **asked))
            if again == before:
                return [(d - x, c - y) for (d, c), (x, y) in zip(sums, again, strict=True)]
            before = again
        return _parts(self._ask("sums_through", on, through=through, **asked))

    def _ask(self, name: str, on: On = "value", **params: Any) -> list[tuple[Any, ...]]:
        return self._db.rows(query_text(name, on), params)


def query_text(name: str, on: On = "value") -> str:
    """The SQL of one of QUERIES, for dates of value or of booking."""
    return QUERIES[name].replace("{day}", day_column(on))


def _parts(rows: list[tuple[Any, ...]]) -> _Parts:
    """Debits and credits of the three parts, from rows of part, side and sum."""
    sums = {(int(part), str(side)): int(total) for part, side, total in rows}
    return [(sums.get((part, "debit"), 0), sums.get((part, "credit"), 0)) for part in range(3)]


def _terms(account_id: str, rows: list[tuple[str, dict[str, str], int]]) -> AccountRow | None:
    """An account from the commands that opened and changed it, in their order; None when the first is not here."""
    now: dict[str, str] = {}
    opened_at = 0
    for command, changes, booked_at in rows:
        if command == "OpenAccount":
            opened_at = booked_at
        now.update(changes)
    if not opened_at:
        return None
    floor = now.get("min_available", "")
    return AccountRow(
        account_id,
        now["type"],
        now["currency"],
        int(floor) if floor else None,
        int(now.get("credit_limit") or 0),
        debits_blocked=now.get("block_debits") == "true",
        credits_blocked=now.get("block_credits") == "true",
        frozen=now.get("freeze") == "true",
        closed=now.get("closed") == "true",
        opened_at=opened_at,
    )
