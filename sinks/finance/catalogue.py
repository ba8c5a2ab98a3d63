"""The catalogue of reports: what each is called, what it may be asked, and what its columns are.

One entry makes a command (`clearline report NAME`), an HTTP endpoint (`GET /v1/reports/NAME`) and the files in all
formats; the figures come from the parameterised view of the same name in `views/`, which anybody with SQL can ask, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from schemas.errors import BadInputError

# money: an integer in minor units of the row's `currency`. count: an integer. share: an integer in basis points.
Kind = Literal["text", "date", "moment", "count", "money", "share", "flag"]
# partner: a subtree, "" for all. choice: one of `choices`.
Asked = Literal["date", "moment", "text", "partner", "account", "choice", "count"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the view names it."""

    name: str
    kind: Kind = "text"
    about: str = ""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What may be asked. `default` as text; None: it must be given."""

    name: str
    asked: Asked
    about: str
    default: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One report. `name` in words with dashes; its view is the same with underscores, prefixed by `report_`.

    `order`: the columns that order the rows, so that equal figures are equal bytes. `totals`: columns of money that add
    up by currency, shown under the rows. `scoped`: partners may ask it, of their own subtree.
    """

    name: str
    title: str
    about: str
    parameters: tuple[Parameter, ...]
    columns: tuple[Column, ...]
    order: tuple[str, ...]
    totals: tuple[str, ...] = ()
    scoped: bool = False
    example: str = ""

    @property
    def view(self) -> str:
        return "report_" + self.name.replace("-", "_")

    def parameter(self, name: str) -> Parameter:
        """Raises BadInputError with the names there are."""
        for p in self.parameters:
            if p.name == name:
                return p
        raise BadInputError(
            f"{name} is no parameter of {self.name}; there are {', '.join(p.name for p in self.parameters) or 'none'}"
        )


SINCE = Parameter("since", "date", "First day.", "1970-01-01")
UNTIL = Parameter("until", "date", "Last day, included.", "2299-12-31")
ON = Parameter("on", "choice", "Days of value, or of booking.", "value", ("value", "booking"))
PARTNER = Parameter("partner", "partner", "Only this partner and all below it.", "")

REPORTS: tuple[Report, ...] = (
    Report(
        "trial-balance",
        "Trial balance",
        "Debits and credits of everything that was settled, by currency.",
        (SINCE, UNTIL, ON),
        (
            Column("currency"),
            Column("debits", "money"),
            Column("credits", "money"),
            Column("difference", "money", "debits less credits: 0 when the books balance"),
            Column("postings", "count"),
        ),
        ("currency",),
        example="--until 2026-11-22",
    ),
)
CATALOGUE: dict[str, Report] = {r.name: r for r in REPORTS}


def report(name: str) -> Report:
    """Raises BadInputError with the names there are."""
    if name not in CATALOGUE:
        raise BadInputError(f"{name} is not a report; there are {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def view_sql(name: str, database: str) -> str:
    """The statement that makes a report's view, or makes it anew."""
    text = (files("sinks.finance") / "views" / f"{report(name).view}.sql").read_text(encoding="utf-8")
    return text.replace("{database}", database).strip().rstrip(";")
