"""Asks one report at one cut: values checked, view asked, rows in their order. The same for command line and HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from schemas.errors import BadInputError
from sinks.clickhouse import Database
from sinks.finance.catalogue import Parameter, Report
from sinks.finance.cut import Cut, whole_before

_TRIES = 5


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
        for row in self.rows:
            yield dict(zip(self.names, row, strict=True))

    def totals(self) -> dict[str, dict[str, int]]:
        """Sums of the columns that add up, by currency."""
        out: dict[str, dict[str, int]] = {}
        for row in self.dicts() if self.report.totals else ():
            sums = out.setdefault(row["currency"], dict.fromkeys(self.report.totals, 0))
            for name in self.report.totals:
                sums[name] += row[name]
        return dict(sorted(out.items()))


def ask(db: Database, report: Report, given: Mapping[str, str], cut: Cut) -> Result:
    """The report with these parameters, as text, at this cut.

    Raises BadInputError that names the parameter, PartUnavailableError.
    """
    asked = values(report, given)
    technical = {"ends": str(cut.ends()), "known_at": cut.known_at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]}
    for _ in range(_TRIES):
        before = whole_before(db, cut)
        parameters = ", ".join(
            f"{name} = {_quoted(value)}"
            for name, value in {**asked, **technical, "whole_before": before.isoformat()}.items()
        )
        rows = db.rows(
            f"SELECT {', '.join(c.name for c in report.columns)} FROM {db.name}.{report.view}({parameters}) "
            f"ORDER BY {', '.join(report.order)}"
        )
        if whole_before(db, cut) >= before:
            return Result(report, asked, cut, [tuple(_plain(v) for v in row) for row in rows])
    raise BadInputError("records with booking times of the past keep coming in: ask again")


def values(report: Report, given: Mapping[str, str]) -> dict[str, str]:
    """All parameters as the view takes them. Raises BadInputError that names the parameter and the rule."""
    for name in given:
        report.parameter(name)
    return {p.name: _checked(p, given.get(p.name, p.default)) for p in report.parameters}


def _checked(p: Parameter, value: str | None) -> str:
    if value is None:
        raise BadInputError(f"{p.name}: must be given")
    if p.asked == "date":
        try:
            day = date.fromisoformat(value)
        except ValueError:
            raise BadInputError(f"{p.name}: must be a day as YYYY-MM-DD, not {value}") from None
        if not date(1970, 1, 1) <= day <= date(2299, 12, 31):
            raise BadInputError(f"{p.name}: must be a day from 1970-01-01 to 2299-12-31, not {value}")
        return day.isoformat()
    if p.asked == "moment":
        return moment(p.name, value).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    if p.asked == "choice" and value not in p.choices:
        raise BadInputError(f"{p.name}: must be one of {', '.join(p.choices)}, not {value}")
    if p.asked == "count" and not (value.isdecimal() and len(value) <= 9):
        raise BadInputError(f"{p.name}: must be a whole number, not {value}")
    return value


def moment(name: str, value: str) -> datetime:
    """A moment, UTC when it names no time zone. Raises BadInputError."""
    try:
        at = datetime.fromisoformat(value)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise BadInputError(f"{name}: must be a moment as YYYY-MM-DDTHH:MM:SS, not {value}") from None


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
