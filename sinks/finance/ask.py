"""Asks one report at one cut: values checked, view asked, rows in their order. The same for command line and HTTP."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from schemas.errors import BadInputError
from sinks.clickhouse import Database
from sinks.finance import cut as cuts
from sinks.finance import limits
from sinks.finance.catalogue import FIRST_DAY, LAST_DAY, Parameter, Report
from sinks.finance.cut import Bounds, Cut

TEXT_MAX = 512  # characters of a parameter
_TRIES = 5


class NotKnownError(BadInputError):
    """What a report is asked about is not there at the cut."""


@dataclass(frozen=True, slots=True)
class Result:
    """A report's rows in its columns' order, with what was asked and up to where it goes. Money in minor units."""

    report: Report
    asked: dict[str, str]
    cut: Cut
    rows: list[tuple[Any, ...]]

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.report.columns]

    def dicts(self) -> Iterator[dict[str, Any]]:
        """The rows by column name."""
        names = self.names
        for row in self.rows:
            yield dict(zip(names, row, strict=True))

    def totals(self) -> dict[str, dict[str, int]]:
        """Sums of the columns that add up, by currency."""
        if not self.report.totals:
            return {}
        names = self.names
        currency, places = names.index("currency"), [(name, names.index(name)) for name in self.report.totals]
        groups: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for row in self.rows:
            groups[row[currency]].append(row)
        return {c: {name: sum(row[i] for row in groups[c]) for name, i in places} for c in sorted(groups) if c}

    def differences(self) -> dict[str, int]:
        """Of a trial balance: debits less credits of each currency in which they are not equal, in the period or since
        the beginning."""
        if self.report.name != "trial-balance":
            return {}
        return {c: t["closing"] or t["difference"] for c, t in self.totals().items() if t["closing"] or t["difference"]}

    def summary(self) -> dict[str, Any]:
        """What a report says beside its rows. A trial balance: whether it balances, and what does not. A statement: its
        balances and sums, and whether all lines are there."""
        if self.report.name == "trial-balance":
            differences = self.differences()
            return {"balanced": not differences, "differences": differences}
        if self.report.name == "statement":
            first, *lines, last = self.dicts()
            sums = {"debits": last["debits"], "credits": last["credits"], "closing": last["balance"]}
            return {"opening": first["balance"], **sums, "complete": len(lines) == last["postings"]}
        return {}


def ask_for(
    db: Database, report: Report, given: Mapping[str, str], *, cut: str = "", known_at: str = "", closed: str = ""
) -> Result:
    """The report with these parameters at the cut that is named as docs/finance.md says; at the head when none is.

    Raises BadInputError that names the parameter, PartUnavailableError.
    """
    values(report, given)  # before anything is asked
    if closed:
        if "until" in given:
            raise BadInputError("until: cannot be given with closed, which names the last day itself")
        if any(p.name == "until" for p in report.parameters):
            given = {**given, "until": day("closed", closed).isoformat()}
    of_state = report.of_state
    return ask(db, report, given, named_cut(db, cut=cut, known_at=known_at, closed=closed, of_state=of_state))


def named_cut(db: Database, *, cut: str = "", known_at: str = "", closed: str = "", of_state: bool = False) -> Cut:
    """The cut that is named as docs/finance.md says; the head when none is. `of_state`: as `head` has it.

    Raises BadInputError that names the parameter, PartUnavailableError.
    """
    until = moment("known_at", known_at) if known_at else cuts.LAST_MOMENT
    if closed:
        if cut:
            raise BadInputError("cut: cannot be given with closed, which names a cut itself")
        return cuts.closed(db, day("closed", closed), until)
    return cuts.at(db, cuts.parse(cut), until) if cut else head(db, until, of_state=of_state)


def head(db: Database, known_at: datetime = cuts.LAST_MOMENT, *, of_state: bool = False) -> Cut:
    """As far as everything is in now; `of_state`: `ledger.state` as well, by which some reports go. Raises
    PartUnavailableError."""
    return limits.head(db, known_at) if of_state else cuts.head(db, known_at)


def ask(db: Database, report: Report, given: Mapping[str, str], cut: Cut, *, rows_max: int = 0) -> Result:
    """The report with these parameters, as text, at this cut. `rows_max`: most that it may have, 0 for any number.

    Raises BadInputError that names the parameter, TooMuchError, PartUnavailableError.
    """
    bounds = cuts.bounds(db, cut, cut.stored)
    for _ in range(_TRIES):
        asked = values(report, _with_period(report, given, bounds.last.date()))
        source_ends = limits.source_ends(db, cut, bounds) if report.of_state else None
        rows = db.rows(query(report, asked, cut, bounds, db.name, source_ends), rows_max=rows_max)
        now = cuts.again(db, cut, bounds)
        if now.whole_before >= bounds.whole_before:
            if not rows and asked.get(report.subject):
                raise NotKnownError(f"{report.subject}: {asked[report.subject]} is not known in ClickHouse at this cut")
            return Result(report, asked, cut, [tuple(_plain(v) for v in row) for row in rows])
        bounds = now
    raise BadInputError("records with booking times of the past keep coming in: ask again")


def query(
    report: Report,
    asked: Mapping[str, str],
    cut: Cut,
    bounds: Bounds,
    database: str,
    source_ends: Sequence[int] | None = None,
) -> str:
    """The statement that asks a report's view. `asked`: all its parameters, as `values` gives them. `source_ends`: of a
    report `of_state`; those of the cut's places unless given."""
    technical = {
        "ends": str(cut.ends()),
        "whole_before": bounds.whole_before.isoformat(),
        "known_at": _milliseconds(bounds.last),
    }
    if report.of_state:
        technical["source_ends"] = str(list(limits.ends_of(cut) if source_ends is None else source_ends))
    source = report.source(database, {name: _quoted(value) for name, value in {**asked, **technical}.items()})
    columns = ", ".join(c.name for c in report.columns)
    return f"SELECT {columns} FROM {source} ORDER BY {', '.join(report.order)}"


def values(report: Report, given: Mapping[str, str]) -> dict[str, str]:
    """All parameters as the view takes them. Raises BadInputError that names the parameter and the rule."""
    for name in given:
        report.parameter(name)
    out = {p.name: _checked(p, given.get(p.name, p.default)) for p in report.parameters}
    if out.get("since", FIRST_DAY) > out.get("until", LAST_DAY):
        raise BadInputError(f"since: the period from {out['since']} to {out['until']} holds no day")
    return out


def moment(name: str, value: str) -> datetime:
    """A moment, UTC when it names no time zone. Raises BadInputError."""
    try:
        at = datetime.fromisoformat(value)
        at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise BadInputError(f"{name}: must be a moment as YYYY-MM-DDTHH:MM:SS, not {_shown(value)}") from None
    if not 1970 <= at.year <= 2299:
        raise BadInputError(f"{name}: must be a moment from 1970 to 2299, not {_shown(value)}")
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def _with_period(report: Report, given: Mapping[str, str], last: date) -> Mapping[str, str]:
    """With the days of a report that looks back from its last day, unless they are given."""
    if not report.days or ("since" in given and "until" in given):
        return given
    since = day("since", given["since"]) if "since" in given else None
    until = day("until", given["until"]) if "until" in given else max(last, since or last)
    since = since or max(until - timedelta(days=report.days - 1), date(1970, 1, 1))
    return {**given, "since": since.isoformat(), "until": until.isoformat()}


def _checked(p: Parameter, value: str | None) -> str:
    if value is None or (not value and p.default is None):
        raise BadInputError(f"{p.name}: must be given")
    if p.asked == "date":
        return day(p.name, value).isoformat()
    if p.asked == "moment":
        return _milliseconds(moment(p.name, value))
    if p.asked == "choice" and value not in p.choices:
        raise BadInputError(f"{p.name}: must be one of {', '.join(p.choices)}, not {_shown(value)}")
    if p.asked == "count" and not (value.isascii() and value.isdecimal() and len(value) <= 9):
        raise BadInputError(f"{p.name}: must be a whole number from 0 to 999999999, not {_shown(value)}")
    if len(value) > TEXT_MAX or not value.isprintable():
        raise BadInputError(f"{p.name}: must be at most {TEXT_MAX} printable characters")
    return value


def day(name: str, value: str) -> date:
    """A day from 1970 to 2299. Raises BadInputError that names the parameter."""
    try:
        found = date.fromisoformat(value)
    except ValueError:
        raise BadInputError(f"{name}: must be a day as YYYY-MM-DD, not {_shown(value)}") from None
    if not date(1970, 1, 1) <= found <= date(2299, 12, 31):
        raise BadInputError(f"{name}: must be a day from 1970-01-01 to 2299-12-31, not {_shown(value)}")
    return found


def _milliseconds(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _shown(value: str) -> str:
    return repr(value[:64])


def _quoted(value: str) -> str:
    """As a literal of ClickHouse's; `values` lets no control character through."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
