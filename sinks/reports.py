"""Roll-ups of partners' trees, the top partners, and people's own SQL: what is asked beside the catalogue of reports.

Every query here hits the primary key or a projection, which a test holds with EXPLAIN: so it stays fast on billions of
rows. Sums are grouped by side and turned into columns outside, because a condition inside the sum would miss the
projection. Amounts are integers in minor units. `as_of` says, for each partition, up to which journal record the
figures go at least: it is read first, and rows are only ever added.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from schemas.errors import BadInputError
from sinks.clickhouse import ClickHouseConfig, Database

On = Literal["value", "booking"]
Row = TypeVar("Row")

FIRST_DAY, LAST_DAY = date(1970, 1, 1), date(2299, 12, 31)
_DAY = {"value": "value_date", "booking": "booked_date"}
_DEBIT_NORMAL = ("asset", "expense")
# A partner's path and the paths above it: `acme/a/b` is of acme, of acme/a and of acme/a/b.
_PATHS = "arrayJoin(arrayMap(i -> arrayStringConcat(arraySlice(steps, 1, i), '/'), range(1, length(steps) + 1)))"
_SIDES = "sumIf(total, side = 'debit') AS debits, sumIf(total, side = 'credit') AS credits, sum(n) AS postings"

QUERIES: dict[str, str] = {
    "as_of": "SELECT partition, max(sequence), max(offset), max(source_offset) FROM outcomes GROUP BY topic, partition "
    "ORDER BY partition",
    "partners": "SELECT {partner} AS who, sumIf(n, outcome = 'settled') AS settled, sumIf(n, outcome = 'rejected'), "
    "sumIf(n, outcome = 'repeated') FROM (SELECT partner_id, outcome, count() AS n FROM outcomes "
    "WHERE booked_date BETWEEN %(since)s AND %(until)s AND command = 'Transaction' GROUP BY partner_id, outcome) "
    "GROUP BY who ORDER BY settled DESC, who LIMIT %(limit)s",
    "turnover": "SELECT {partner} AS who, currency, sum(total) FROM (SELECT partner_id, currency, side, "
    "sum(amount) AS total FROM postings WHERE booked_date BETWEEN %(since)s AND %(until)s "
    "GROUP BY partner_id, currency, side) WHERE side = 'debit' AND who IN %(who)s GROUP BY who, currency",
    "rollup": f"SELECT path, currency, {_SIDES} FROM (SELECT {_PATHS} AS path, currency, side, total, n FROM (SELECT "
    "splitByChar('/', substringIndex(account_id, ':', 1)) AS steps, currency, side, sum(amount) AS total, count() AS n "
    "FROM postings WHERE {day} <= %(until)s AND {wanted} GROUP BY account_id, currency, side)) WHERE {paths} "
    "GROUP BY path, currency ORDER BY path, currency",
    "rollup_transactions": "SELECT path, sumIf(n, outcome = 'settled' AND partner_id = path), "
    "sumIf(n, outcome = 'settled') AS settled, sumIf(n, outcome = 'rejected') AS rejected, "
    "sumIf(n, outcome = 'repeated') AS repeated "
    f"FROM (SELECT {_PATHS} AS path, partner_id, outcome, n FROM (SELECT splitByChar('/', toString(partner_id)) "
    "AS steps, partner_id, outcome, count() AS n FROM outcomes WHERE booked_date <= %(until)s "
    "AND command = 'Transaction' AND {wanted} GROUP BY partner_id, outcome)) WHERE {paths} GROUP BY path "
    "HAVING settled + rejected + repeated > 0 ORDER BY path",
}


class Point(NamedTuple):
    """How far one partition is in: sequence and offset of its last journal record, and of its command."""

    sequence: int
    journal_offset: int
    source_offset: int


AsOf = dict[int, Point]


@dataclass(frozen=True, slots=True)
class Report(Generic[Row]):
    """Rows, and up to where they go at least."""

    rows: list[Row]
    as_of: AsOf

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def dicts(self) -> list[dict[str, Any]]:
        """The rows as plain dicts."""
        return [asdict(r) for r in self.rows]  # type: ignore[call-overload]


@dataclass(frozen=True, slots=True)
class PartnerRow:
    """What a partner did: transactions by outcome, and what was debited, by currency."""

    partner_id: str
    settled: int
    rejected: int
    repeated: int
    turnover: dict[str, int]


@dataclass(frozen=True, slots=True)
class RollupRow:
    """What the accounts of a partner and of all below it were debited and credited, in one currency."""

    partner_id: str
    currency: str
    debits: int
    credits: int
    postings: int


@dataclass(frozen=True, slots=True)
class TreeRow:
    """Transactions of a partner's tree by outcome. `own_settled`: those settled that are the partner's own."""

    partner_id: str
    own_settled: int
    settled: int
    rejected: int
    repeated: int


@dataclass(frozen=True, slots=True)
class Rollup(Report[RollupRow]):
    """A roll-up at every level of the partners' trees, and the transactions of each level."""

    transactions: list[TreeRow]


class Reports:
    """Asks over one connection, as the user that may only read. Close it, or use it in a `with`.

    Every call raises PartUnavailableError when ClickHouse does not answer, BadInputError for a wrong argument.
    """

    def __init__(self, config: ClickHouseConfig) -> None:
        self._db = Database(config, reader=True)

    def __enter__(self) -> Reports:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def as_of(self) -> AsOf:
        """How far each partition is in."""
        return {int(p): Point(int(s), int(o), int(x)) for p, s, o, x in self._ask("as_of")}

    def top_partners(
        self, limit: int = 10, *, since: date | None = None, until: date | None = None, roots: bool = False
    ) -> Report[PartnerRow]:
        """The partners with the most settled transactions by booking date; `roots`: a partner with all below it."""
        as_of = self.as_of()
        partner = "splitByChar('/', toString(partner_id))[1]" if roots else "partner_id"
        period = _period(since, until)
        found = self._ask("partners", limit=limit, partner=partner, **period)
        who = tuple(str(row[0]) for row in found)
        turnover: dict[str, dict[str, int]] = {w: {} for w in who}
        if who:
            for partner_id, currency, total in self._ask("turnover", who=who, partner=partner, **period):
                turnover[str(partner_id)][str(currency)] = int(total)
        rows = [PartnerRow(str(w), int(s), int(r), int(again), turnover[str(w)]) for w, s, r, again in found]
        return Report(rows, as_of)

    def rollup(self, partner_id: str = "", *, until: date | None = None, on: On = "value") -> Rollup:
        """The sums of each partner's tree at every level, up to and including `until`; `partner_id`: of this one and
        those below it. Accounts count for their owner and all above it, whoever asked; transactions, by day of booking,
        for the partner that asked and all above it."""
        as_of = self.as_of()
        named = {"partner_id": partner_id, "below": partner_id + "/", "own": partner_id + ":"}
        given: dict[str, Any] = {**named, "until": until or LAST_DAY}
        within = "(path = %(partner_id)s OR startsWith(path, %(below)s))" if partner_id else "1"
        accounts = "(startsWith(account_id, %(own)s) OR startsWith(account_id, %(below)s))" if partner_id else "1"
        asked = "(partner_id = %(partner_id)s OR startsWith(partner_id, %(below)s))" if partner_id else "1"
        sums = self._ask("rollup", on, wanted=accounts, paths=within, **given)
        counts = self._ask("rollup_transactions", wanted=asked, paths=within, **given)
        rows = [RollupRow(str(p), str(c), *map(int, n)) for p, c, *n in sums]
        return Rollup(rows, as_of, [TreeRow(str(p), *map(int, n)) for p, *n in counts])

    def _ask(
        self,
        name: str,
        on: On = "value",
        *,
        partner: str = "",
        wanted: str = "",
        paths: str = "",
        **params: Any,
    ) -> list[tuple[Any, ...]]:
        return self._db.rows(query_text(name, on, partner=partner, wanted=wanted, paths=paths), params)


def query_text(name: str, on: On = "value", *, partner: str = "partner_id", wanted: str = "1", paths: str = "1") -> str:
    """The SQL of one of QUERIES, for dates of value or of booking. Raises BadInputError for another `on`."""
    text = QUERIES[name].replace("{day}", day_column(on)).replace("{partner}", partner)
    return text.replace("{wanted}", wanted).replace("{paths}", paths)


def day_column(on: On) -> str:
    """The column of the dates of value or of booking. Raises BadInputError for another `on`."""
    if on not in _DAY:
        raise BadInputError(f"dates are of value or of booking, not {on!r}")
    return _DAY[on]


def run_sql(config: ClickHouseConfig, query: str) -> tuple[list[tuple[str, str]], list[tuple[Any, ...]]]:
    """Anybody's query as the user that may only read: names and types of the columns, and the rows.

    Raises BadInputError with what the server says against the query, PartUnavailableError.
    """
    db = Database(config, reader=True)
    try:
        return db.columns_and_rows(query)
    finally:
        db.close()


def sign_of(kind: str) -> int:
    """What an account's debits count: 1 where its normal side is debit, else -1."""
    return 1 if kind in _DEBIT_NORMAL else -1


def _period(since: date | None, until: date | None) -> dict[str, Any]:
    return {"since": since or FIRST_DAY, "until": until or LAST_DAY}
