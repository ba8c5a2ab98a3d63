"""What finance asks, answered from ClickHouse to the cent.

Every query here hits the primary key or a projection, which a test holds with EXPLAIN: so it stays fast on billions of
rows. Sums are grouped by side and turned into columns outside, because a condition inside the sum would miss the
projection. Amounts are integers in minor units. `as_of` says, for each partition, up to which journal record the
figures go at least: it is read first, and rows are only ever added.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from schemas.errors import BadInputError
from sinks.clickhouse import ClickHouseConfig, Database

On = Literal["value", "booking"]
By = Literal["currency", "type", "account"]
Row = TypeVar("Row")

FIRST_DAY, LAST_DAY = date(1970, 1, 1), date(2299, 12, 31)
LINES_MAX = 10_000
_DAY = {"value": "value_date", "booking": "booked_date"}
_DEBIT_NORMAL = ("asset", "expense")
# A partner's path and the paths above it: `acme/a/b` is of acme, of acme/a and of acme/a/b.
_PATHS = "arrayJoin(arrayMap(i -> arrayStringConcat(arraySlice(steps, 1, i), '/'), range(1, length(steps) + 1)))"
_SIDES = "sumIf(total, side = 'debit') AS debits, sumIf(total, side = 'credit') AS credits, sum(n) AS postings"

QUERIES: dict[str, str] = {
    "as_of": "SELECT partition, max(sequence), max(offset), max(source_offset) FROM outcomes GROUP BY topic, partition "
    "ORDER BY partition",
    "by_currency": f"SELECT currency, {_SIDES} FROM (SELECT currency, side, sum(amount) AS total, count() AS n "
    "FROM postings WHERE {day} BETWEEN %(since)s AND %(until)s GROUP BY currency, side) "
    "GROUP BY currency ORDER BY currency",
    "by_account": f"SELECT account_id, currency, {_SIDES} FROM (SELECT account_id, currency, side, "
    "sum(amount) AS total, count() AS n FROM postings WHERE {day} BETWEEN %(since)s AND %(until)s "
    "GROUP BY account_id, currency, side) GROUP BY account_id, currency ORDER BY account_id, currency",
    "by_type": f"SELECT account_type, currency, {_SIDES} FROM (SELECT account_id, currency, side, "
    "sum(amount) AS total, count() AS n FROM postings WHERE {day} BETWEEN %(since)s AND %(until)s "
    "GROUP BY account_id, currency, side) AS p LEFT JOIN (SELECT subject_id, any(account_type) AS account_type "
    "FROM control_changes WHERE command = 'OpenAccount' GROUP BY subject_id) AS a ON a.subject_id = p.account_id "
    "GROUP BY account_type, currency ORDER BY account_type, currency",
    "account": "SELECT account_type, currency FROM control_changes WHERE subject_id = %(account)s "
    "AND command = 'OpenAccount' LIMIT 1",
    "account_sums": "SELECT side, sum(amount), count() FROM postings WHERE account_id = %(account)s "
    "AND {day} BETWEEN %(since)s AND %(until)s GROUP BY side",
    "account_lines": "SELECT value_date, booked_at, partition, sequence, line, offset, partner_id, product, operation, "
    "reference, side, amount FROM postings WHERE account_id = %(account)s AND {day} BETWEEN %(since)s AND %(until)s "
    "ORDER BY {day}, booked_at, partition, sequence, line LIMIT %(limit)s",
    "account_sums_within_day": "SELECT side, sum(amount), count() FROM postings WHERE account_id = %(account)s "
    "AND booked_date = %(today)s AND booked_at <= fromUnixTimestamp64Milli(%(until_ms)s, 'UTC') GROUP BY side",
    "partners": "SELECT {partner} AS who, sumIf(n, outcome = 'settled') AS settled, sumIf(n, outcome = 'rejected'), "
    "sumIf(n, outcome = 'repeated') FROM (SELECT partner_id, outcome, count() AS n FROM outcomes "
    "WHERE booked_date BETWEEN %(since)s AND %(until)s AND command = 'Transaction' GROUP BY partner_id, outcome) "
    "GROUP BY who ORDER BY settled DESC, who LIMIT %(limit)s",
    "turnover": "SELECT {partner} AS who, currency, sum(total) FROM (SELECT partner_id, currency, side, "
    "sum(amount) AS total FROM postings WHERE booked_date BETWEEN %(since)s AND %(until)s "
    "GROUP BY partner_id, currency, side) WHERE side = 'debit' AND who IN %(who)s GROUP BY who, currency",
    "totals": f"SELECT d, partner_id, product, currency, {_SIDES} FROM (SELECT {{day}} AS d, partner_id, product, "
    "currency, side, sum(amount) AS total, count() AS n FROM postings WHERE {day} BETWEEN %(since)s AND %(until)s "
    "AND {wanted} GROUP BY d, partner_id, product, currency, side) GROUP BY d, partner_id, product, currency "
    "ORDER BY d, partner_id, product, currency",
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
    "outcomes": "SELECT outcome, command, reason, count() FROM outcomes WHERE booked_date BETWEEN %(since)s AND "
    "%(until)s AND NOT (command = 'Transaction' AND outcome = 'applied') GROUP BY outcome, command, reason "
    "ORDER BY outcome, command, reason",
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
class TrialRow:
    """One line of a trial balance. `name`: the currency, the account's type or the account, as was asked."""

    name: str
    currency: str
    debits: int
    credits: int
    postings: int


@dataclass(frozen=True, slots=True)
class TrialBalance(Report[TrialRow]):
    """A trial balance with the totals of each currency."""

    totals: list[TrialRow]

    @property
    def differences(self) -> dict[str, int]:
        """Debits less credits of each currency in which they are not equal."""
        return {t.currency: t.debits - t.credits for t in self.totals if t.debits != t.credits}

    @property
    def balanced(self) -> bool:
        return not self.differences


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One posting. `balance`: after it, on the account's normal side. `partition`, `sequence`: of its record."""

    value_date: date
    booked_at: datetime
    partition: int
    sequence: int
    line: int
    journal_offset: int
    partner_id: str
    product: str
    operation: str
    reference: str
    side: str
    amount: int
    balance: int


@dataclass(frozen=True, slots=True)
class Statement:
    """An account over a period. Balances are on the account's normal side. `complete`: false when `lines` were cut."""

    account_id: str
    type: str
    currency: str
    since: date
    until: date
    opening: int
    debits: int
    credits: int
    closing: int
    lines: list[StatementLine]
    complete: bool
    as_of: AsOf


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """An account at a day or moment: its posted sums and its balance on the normal side."""

    account_id: str
    type: str
    currency: str
    debits: int
    credits: int
    balance: int
    postings: int
    as_of: AsOf


@dataclass(frozen=True, slots=True)
class PartnerRow:
    """What a partner did: transactions by outcome, and what was debited, by currency."""

    partner_id: str
    settled: int
    rejected: int
    repeated: int
    turnover: dict[str, int]


@dataclass(frozen=True, slots=True)
class TotalRow:
    """One partner, product and currency on one day."""

    day: date
    partner_id: str
    product: str
    currency: str
    debits: int
    credits: int
    postings: int


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


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """How many commands ended so."""

    outcome: str
    command: str
    reason: str
    count: int


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

    def trial_balance(
        self, *, by: By = "currency", since: date | None = None, until: date | None = None, on: On = "value"
    ) -> TrialBalance:
        """Debits and credits up to and including `until` (of the days from `since` on), an account's shards summed."""
        as_of = self.as_of()
        period = _period(since, until)
        totals = [TrialRow(str(c), str(c), *map(int, n)) for c, *n in self._ask("by_currency", on, **period)]
        if by == "currency":
            return TrialBalance(totals, as_of, totals)
        rows = self._ask(f"by_{by}", on, **period)
        return TrialBalance([TrialRow(str(x), str(c), *map(int, n)) for x, c, *n in rows], as_of, totals)

    def statement(
        self, account_id: str, since: date, until: date, *, on: On = "value", lines_max: int = LINES_MAX
    ) -> Statement:
        """The account from `since` to `until`, both included, by value or booking date. Raises BadInputError when the
        account is not known or the period is empty."""
        if since > until:
            raise BadInputError(f"the period from {since} to {until} holds no day")
        as_of = self.as_of()
        kind, currency = self._account(account_id)
        sign = sign_of(kind)
        before = _period(None, since - timedelta(days=1))
        d0, c0, _ = self._sums("account_sums", on, account=account_id, **before)
        d1, c1, n = self._sums("account_sums", on, account=account_id, since=since, until=until)
        balance = opening = sign * (d0 - c0)
        lines = []
        found = self._ask("account_lines", on, account=account_id, since=since, until=until, limit=lines_max)
        for row in found:
            *facts, side, amount = row
            balance += sign * int(amount) * (1 if side == "debit" else -1)
            values: list[Any] = [*facts, str(side), int(amount), balance]
            lines.append(StatementLine(*values))
        closing = opening + sign * (d1 - c1)
        return Statement(
            account_id, kind, currency, since, until, opening, d1, c1, closing, lines, len(lines) == n, as_of
        )

    def balance(
        self, account_id: str, *, until: date | None = None, on: On = "value", at: datetime | None = None
    ) -> AccountBalance:
        """The account's posted balance at the end of the day `until`, or as it was booked at the moment `at`.

        `at` without a time zone is UTC. Raises BadInputError when the account is not known.
        """
        as_of = self.as_of()
        kind, currency = self._account(account_id)
        if at is None:
            d, c, n = self._sums("account_sums", on, account=account_id, **_period(None, until))
        else:
            moment = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
            today = moment.date()
            d, c, n = self._sums(
                "account_sums", "booking", account=account_id, **_period(None, today - timedelta(days=1))
            )
            until_ms = int(moment.timestamp() * 1000)
            d1, c1, n1 = self._sums("account_sums_within_day", account=account_id, today=today, until_ms=until_ms)
            d, c, n = d + d1, c + c1, n + n1
        return AccountBalance(account_id, kind, currency, d, c, sign_of(kind) * (d - c), n, as_of)

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

    def totals(
        self, *, since: date | None = None, until: date | None = None, partner_id: str = "", on: On = "value"
    ) -> Report[TotalRow]:
        """Totals by day, partner, product and currency; `partner_id`: this partner and all below it only."""
        as_of = self.as_of()
        wanted = "(partner_id = %(partner_id)s OR startsWith(partner_id, %(below)s))" if partner_id else "1"
        found = self._ask(
            "totals", on, wanted=wanted, partner_id=partner_id, below=partner_id + "/", **_period(since, until)
        )
        rows = [TotalRow(d, str(p), str(x), str(c), int(dr), int(cr), int(n)) for d, p, x, c, dr, cr, n in found]
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

    def outcome_counts(self, *, since: date | None = None, until: date | None = None) -> Report[OutcomeRow]:
        """How commands ended, by booking date. A transaction between partitions counts once, when it is decided; the
        steps that the partitions sent each other are commands of their own."""
        as_of = self.as_of()
        found = self._ask("outcomes", **_period(since, until))
        return Report([OutcomeRow(str(o), str(c), str(r), int(n)) for o, c, r, n in found], as_of)

    def _account(self, account_id: str) -> tuple[str, str]:
        found = self._ask("account", account=account_id)
        if not found:
            raise BadInputError(
                f"account {account_id} is not known in ClickHouse; was it opened, and is the sink behind?"
            )
        return str(found[0][0]), str(found[0][1])

    def _sums(self, name: str, on: On = "value", **params: Any) -> tuple[int, int, int]:
        """Debits, credits and the number of postings."""
        found = {str(side): (int(total), int(n)) for side, total, n in self._ask(name, on, **params)}
        (d, dn), (c, cn) = found.get("debit", (0, 0)), found.get("credit", (0, 0))
        return d, c, dn + cn

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


def totals_by_currency(config: ClickHouseConfig) -> TrialBalance:
    """The trial balance by currency, everything included."""
    with Reports(config) as reports:
        return reports.trial_balance()


def top_partners(config: ClickHouseConfig, limit: int = 10, *, roots: bool = False) -> Report[PartnerRow]:
    """The partners with the most settled transactions."""
    with Reports(config) as reports:
        return reports.top_partners(limit, roots=roots)


def sign_of(kind: str) -> int:
    """What an account's debits count: 1 where its normal side is debit, else -1."""
    return 1 if kind in _DEBIT_NORMAL else -1


def _period(since: date | None, until: date | None) -> dict[str, Any]:
    return {"since": since or FIRST_DAY, "until": until or LAST_DAY}
