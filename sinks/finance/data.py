"""Data services over the ledger: entries as those of the catalogue, for programs (`GET /v1/data/...`), not for paper.

Each is asked like a report (`sinks.finance.ask`), so it is exact at a cut and the same at the same cut. `shaped` makes
of an entry and what is asked of it the entry that is asked: which columns there are depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from schemas.errors import BadInputError
from sinks.finance.catalogue import ASKER, ON, OWNER, PERIOD, POSTINGS, PRODUCT, SINCE, UNTIL, Column, Parameter, Report

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

AGGREGATES = Report(
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
SERVICES: tuple[Report, ...] = (AGGREGATES, SERIES, TOP_N, CASH_FLOW, COUNTERPARTIES, REGULAR)


def shaped(report: Report, given: Mapping[str, str]) -> Report:
    """The entry with the columns that it has for these parameters. Raises BadInputError that names one."""
    if "n" in given and not (given["n"].isdecimal() and 1 <= int(given["n"][:9] or 0) <= TOP_MAX):
        raise BadInputError(f"n: must be a whole number from 1 to {TOP_MAX}")
    if report.name == SERIES.name and given.get("measure") == "postings":
        begins, currency, value = report.columns
        return replace(report, columns=(begins, currency, replace(value, kind="count")), totals=())
    if report.name != AGGREGATES.name:
        return report
    by = dimensions(given.get("by", "product"))
    left_out = [d for d in DIMENSIONS if d not in by and d != "currency"]
    return replace(
        report,
        columns=tuple(c for c in report.columns if c.name not in left_out),
        order=tuple(name for name in report.order if name not in left_out),
    )


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
