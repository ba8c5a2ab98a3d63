"""Data services over the ledger: entries as those of the catalogue, for programs (`GET /v1/data/...`), not for paper.

Each is asked like a report (`sinks.finance.ask`), so it is exact at a cut and the same at the same cut. `shaped` makes
of an entry and what is asked of it the entry that is asked: which columns there are depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from schemas.errors import BadInputError
from sinks.finance.catalogue import ASKER, ON, OWNER, PERIOD, POSTINGS, PRODUCT, SINCE, UNTIL, Column, Parameter, Report
from sinks.finance.tables import Version, column_of, data_database

DIMENSIONS = ("day", "week", "month", "product", "operation", "partner", "currency")
_PERIODS = ("day", "week", "month")
TOP_MAX = 1000
OPERATION = Parameter("operation", "text", "Only this operation.", "")
CURRENCY = Parameter("currency", "text", "Only this currency.", "")
MEASURE = Parameter("measure", "choice", "What is counted.", "debits", ("debits", "credits", "postings"))
ACCOUNT = Parameter("account", "account", "The account's id, such as acme:wallet:alice.")
BY_PERIOD = Parameter("by", "choice", "One row per day, week from Monday, or month.", "day", _PERIODS)
TOP = Parameter("n", "count", f"At most so many of each currency, 1 to {TOP_MAX}.", "10")
_BEGINS = Column("begins", "date", "the day, or the first day of the week or month")

JOIN = Parameter("join", "text", "A table of the partner's own, and the version of it.", "")
MATCH = Parameter("match", "text", "What its key is: partner, account, reference or metadata.FIELD.", "")
COLUMNS = Parameter("columns", "text", "Its columns with commas between; all unless they are given.", "")
_OF_JOINS = ("join", "match", "columns")


@dataclass(frozen=True, slots=True)
class Aggregates(Report):
    """Aggregates, and joined with a partner's own table when `version` says which: its columns stand beside `by`, and
    are empty where no row of it has the key."""

    by: tuple[str, ...] = ()
    version: Version | None = None
    match: str = ""
    shown: tuple[str, ...] = ()

    def source(self, database: str, parameters: Mapping[str, str]) -> str:
        """As `Report.source`."""
        own = {name: value for name, value in parameters.items() if name not in _OF_JOINS}
        view = f"{database}.{self.view}"
        if self.version is None:
            return f"{view}({_literals(own)})"
        key = "key"
        if self.match == "partner":
            own["by"], key = f"'{','.join({**dict.fromkeys(self.by), 'partner': None})}'", "partner"
        else:
            view, own["match"] = f"{view}_keyed", parameters["match"]
        # Names of columns and tables were checked when they were made, and have no quotes or spaces.
        groups = [f"v.{name} AS {name}" for name in self.by] + [
            f"t.{column_of(name)} AS {self.version.name}_{name}" for name in self.shown
        ]
        names = [group.rpartition(" ")[2] for group in groups]
        sums = ", ".join(f"sum(v.{name}) AS {name}" for name in ("debits", "credits", "postings"))
        table = f"{data_database(database)}.{self.version.table}"
        return (
            f"(SELECT {', '.join(groups)}, {sums} FROM {view}({_literals(own)}) AS v "
            f"LEFT JOIN {table} AS t ON t.{column_of(self.version.key)} = v.{key} GROUP BY {', '.join(names)})"
        )


def _literals(parameters: Mapping[str, str]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in parameters.items())


AGGREGATES = Aggregates(
    "aggregates",
    "Aggregates",
    "Sums and counts of postings by any of day, week or month, product, operation, partner; always by currency.",
    (
        Parameter("by", "text", f"Names with commas between: {', '.join(DIMENSIONS)}.", "product"),
        *PERIOD,
        ASKER,
        PRODUCT,
        OPERATION,
        CURRENCY,
        JOIN,
        MATCH,
        COLUMNS,
    ),
    (
        Column("day", "date"),
        Column("week", "date", "its Monday"),
        Column("month", "date", "its first day"),
        Column("product"),
        Column("operation"),
        Column("partner", about="who asked"),
        Column("currency"),
        Column("debits", "money"),
        Column("credits", "money"),
        POSTINGS,
    ),
    DIMENSIONS,
    ("debits", "credits"),
    scoped=True,
)
SERIES = Report(
    "series",
    "Time series",
    "One measure by day, week or month and currency, gaps filled with 0; 31 days unless a period is given.",
    (MEASURE, BY_PERIOD, *PERIOD, ASKER, PRODUCT, OPERATION, CURRENCY),
    (_BEGINS, Column("currency"), Column("value", "money")),
    ("begins", "currency"),
    ("value",),
    scoped=True,
    days=31,
)
TOP_N = Report(
    "top",
    "Top",
    "Partners, accounts, products or operations with the most of a measure, in each currency.",
    (
        Parameter("of", "choice", "Of what.", "partner", ("partner", "account", "product", "operation")),
        MEASURE,
        TOP,
        *PERIOD,
        Parameter("partner", "partner", "Only what this partner and all below it asked for, or their accounts.", ""),
        CURRENCY,
    ),
    (
        Column("currency"),
        Column("rank", "count"),
        Column("name"),
        Column("debits", "money"),
        Column("credits", "money"),
        POSTINGS,
    ),
    ("currency", "rank"),
    scoped=True,
)
CASH_FLOW = Report(
    "cash-flow",
    "Cash flow",
    "An account's inflow, outflow and balance by day, week or month, gaps filled; 31 days unless a period is given.",
    (ACCOUNT, BY_PERIOD, SINCE, UNTIL, ON),
    (
        _BEGINS,
        Column("currency"),
        Column("inflow", "money", "on the account's normal side"),
        Column("outflow", "money"),
        Column("net", "money", "inflow less outflow"),
        Column("balance", "money", "after it"),
        POSTINGS,
    ),
    ("begins",),
    scoped=True,
    days=31,
    subject="account",
)
COUNTERPARTIES = Report(
    "cash-flow-counterparties",
    "Counterparties",
    "With whom an account's money moved, those with most first; 31 days unless a period is given.",
    (ACCOUNT, TOP, SINCE, UNTIL, ON, OWNER),
    (
        Column("rank", "count"),
        Column("counterparty", about="an account, or of another tree its owner"),
        Column("currency"),
        Column("paid_in", "money", "the counterparty's legs in entries that brought the account money"),
        Column("paid_out", "money", "likewise in those that took it"),
        Column("entries", "count"),
        Column("last", "date"),
    ),
    ("rank",),
    scoped=True,
    days=31,
)
REGULAR = Report(
    "cash-flow-regular",
    "Regular inflows",
    "Inflows of an account by who asked for them, with months, medians and days; 366 days unless a period is given.",
    (ACCOUNT, SINCE, UNTIL, ON),
    (
        Column("partner", about="who asked"),
        Column("product"),
        Column("operation"),
        Column("currency"),
        Column("inflows", "count"),
        Column("months", "count", "with at least one"),
        Column("months_between", "count", "from the first to the last, both included"),
        Column("median", "money", "the lower one"),
        Column("smallest", "money"),
        Column("largest", "money"),
        Column("median_day", "count", "of the month, the lower one"),
        Column("first", "date"),
        Column("last", "date"),
    ),
    ("partner", "product", "operation"),
    scoped=True,
    days=366,
)
PARTS = {"flow": CASH_FLOW, "counterparties": COUNTERPARTIES, "regular": REGULAR}
_KEYED = replace(AGGREGATES, name="aggregates-keyed")  # a view, and nothing that is asked by its name
SERVICES: tuple[Report, ...] = (AGGREGATES, _KEYED, SERIES, TOP_N, CASH_FLOW, COUNTERPARTIES, REGULAR)


def shaped(report: Report, given: Mapping[str, str]) -> Report:
    """The entry with the columns that it has for these parameters. Raises BadInputError that names one."""
    if "n" in given and not (given["n"].isdecimal() and 1 <= int(given["n"][:9] or 0) <= TOP_MAX):
        raise BadInputError(f"n: must be a whole number from 1 to {TOP_MAX}")
    if report.name == SERIES.name and given.get("measure") == "postings":
        begins, currency, value = report.columns
        return replace(report, columns=(begins, currency, replace(value, kind="count")), totals=())
    if report.name != AGGREGATES.name:
        return report
    assert isinstance(report, Aggregates)
    by = dimensions(given.get("by", "product"))
    if not given.get("join"):
        for name in ("match", "columns"):
            if given.get(name):
                raise BadInputError(f"{name}: is for a join, and no join is given")
    left_out = [d for d in DIMENSIONS if d not in by and d != "currency"]
    return replace(
        report,
        columns=tuple(c for c in report.columns if c.name not in left_out),
        order=tuple(name for name in report.order if name not in left_out),
        by=tuple(d for d in DIMENSIONS if d in by or d == "currency"),
    )


def joined(report: Aggregates, version: Version, given: Mapping[str, str]) -> Aggregates:
    """Shaped aggregates joined with a table. Raises BadInputError that names the parameter."""
    match = given.get("match") or (version.key if version.key in ("partner", "account", "reference") else "")
    if not (match in ("partner", "account", "reference") or (match.startswith("metadata.") and match != "metadata.")):
        raise BadInputError("match: must be partner, account, reference or metadata.FIELD, as the key of the table is")
    shown = given["columns"].split(",") if given.get("columns") else [c for c in version.columns if c != version.key]
    for name in shown:
        if name not in version.columns:
            raise BadInputError(f"columns: {version.name} has {', '.join(version.columns)}")
    if len(set(shown)) != len(shown):
        raise BadInputError("columns: names one twice")
    added = tuple(f"{version.name}_{name}" for name in shown)
    at = next(i for i, c in enumerate(report.columns) if c.name == "currency")
    return replace(
        report,
        columns=(*report.columns[:at], *(Column(name) for name in added), *report.columns[at:]),
        order=(*(name for name in report.order if name != "currency"), *added, "currency"),
        version=version, match=match, shown=tuple(shown),
    )  # fmt: skip


def dimensions(text: str) -> list[str]:
    """The names in `by`. Raises BadInputError for one that there is not, one twice, and two kinds of periods."""
    found = text.split(",") if text else []
    for name in found:
        if name not in DIMENSIONS:
            raise BadInputError(f"by: must be some of {', '.join(DIMENSIONS)} with commas between")
    if len(set(found)) != len(found):
        raise BadInputError("by: names something twice")
    if sum(name in _PERIODS for name in found) > 1:
        raise BadInputError("by: takes one of day, week and month")
    return found
