"""The catalogue of reports: what each is called, what it may be asked, and what its columns are.

One entry makes a command (`clearline report NAME`), an HTTP endpoint (`GET /v1/reports/NAME`) and the files in all
formats; the figures come from the parameterised view of the same name in `views/`, which anybody with SQL can ask, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from schemas.errors import BadInputError

LINES_MAX = 10_000  # of a statement, unless more are asked for

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

    `order`: the columns of the view that order the rows, so that equal figures are equal bytes. `totals`: columns of
    money that add up by currency, shown under the rows. `scoped`: partners may ask it, of their own subtree; the
    parameter `partner` or `account` says which. `days`: without `since`, so many days up to `until` (the last day of
    booking in the cut, when that is not given either); 0 for all. `subject`: a parameter that names what must be known:
    without a row, it is not. `measured`: it has figures that are not the journal's and come in after the cut.
    `of_state`: it goes by `ledger.state`, as far as that is in; its view takes `source_ends`.
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
    days: int = 0
    subject: str = ""
    measured: bool = False
    of_state: bool = False

    @property
    def view(self) -> str:
        return "report_" + self.name.replace("-", "_")

    def source(self, database: str, parameters: Mapping[str, str]) -> str:
        """What its rows are selected from. `parameters`: all, as literals."""
        return f"{database}.{self.view}({', '.join(f'{name} = {value}' for name, value in parameters.items())})"

    def parameter(self, name: str) -> Parameter:
        """Raises BadInputError with the names there are."""
        for p in self.parameters:
            if p.name == name:
                return p
        raise BadInputError(
            f"{name} is no parameter of {self.name}; there are {', '.join(p.name for p in self.parameters) or 'none'}"
        )


FIRST_DAY, LAST_DAY = "1970-01-01", "2299-12-31"
SINCE = Parameter("since", "date", "First day.", FIRST_DAY)
UNTIL = Parameter("until", "date", "Last day, included.", LAST_DAY)
ON = Parameter("on", "choice", "Days of value, or of booking.", "value", ("value", "booking"))
ON_BOOKING = Parameter("on", "choice", "Days of booking, or of value.", "booking", ("booking", "value"))
PERIOD = (SINCE, UNTIL, ON)
ASKER = Parameter("partner", "partner", "Only what this partner and all below it asked for.", "")
OWNER = Parameter("partner", "partner", "Only accounts of this partner and all below it.", "")
ACCOUNT = Parameter("account", "account", "Only this account.", "")
PRODUCT = Parameter("product", "text", "Only this product.", "")
POSTINGS = Column("postings", "count")

REPORTS: tuple[Report, ...] = (
    Report(
        "trial-balance",
        "Trial balance",
        "Debits and credits of everything that was settled. Exit code 1 when they are not equal in a currency.",
        (
            Parameter("by", "choice", "One row per what.", "currency", ("currency", "type", "account")),
            *PERIOD,
        ),
        (
            Column("name", about="the currency, the account type or the account"),
            Column("currency"),
            Column("opening", "money", "debits less credits before the first day"),
            Column("debits", "money"),
            Column("credits", "money"),
            Column("difference", "money", "debits less credits"),
            Column("closing", "money", "opening and difference"),
            POSTINGS,
        ),
        ("name", "currency"),
        ("opening", "debits", "credits", "difference", "closing"),
        example="--until 2026-11-22 --by type",
    ),
    Report(
        "statement",
        "Statement",
        "An account's postings with the balance after each; 31 days unless a period is given.",
        (
            Parameter("account", "account", "The account's id, such as acme:wallet:alice."),
            *PERIOD,
            Parameter("lines_max", "count", "Most lines.", str(LINES_MAX)),
        ),
        (
            Column("kind", about="opening, line or closing"),
            Column("value_date", "date"),
            Column("booked_at", "moment"),
            Column("product"),
            Column("operation"),
            Column("reference"),
            Column("partner", about="who asked"),
            Column("debits", "money"),
            Column("credits", "money"),
            Column("balance", "money", "after it, on the account's normal side"),
            Column("currency"),
            Column("postings", "count", "of a closing: in the period, also those beyond lines_max"),
            Column("partition", "count", "of the journal record, with sequence and line"),
            Column("sequence", "count"),
            Column("line", "count"),
            Column("journal_offset", "count"),
        ),
        ("place", "day", "booked_at", "partition", "sequence", "line"),
        scoped=True,
        example="acme:wallet:alice --since 2026-11-01",
        days=31,
        subject="account",
    ),
    Report(
        "balances",
        "Balances",
        "What is on accounts at the end of a day, as far as it was known at the cut.",
        (UNTIL, ON, OWNER, ACCOUNT),
        (
            Column("account"),
            Column("type"),
            Column("currency"),
            Column("debits", "money"),
            Column("credits", "money"),
            Column("balance", "money", "on the account's normal side"),
            POSTINGS,
        ),
        ("account", "currency"),
        ("debits", "credits"),
        scoped=True,
        example="--partner acme --until 2026-11-22",
        subject="account",
    ),
    Report(
        "totals",
        "Totals",
        "Sums by day, partner, product and currency.",
        (*PERIOD, ASKER, PRODUCT, Parameter("currency", "text", "Only this currency.", "")),
        (
            Column("day", "date"),
            Column("partner", about="who asked"),
            Column("product"),
            Column("currency"),
            Column("debits", "money"),
            Column("credits", "money"),
            POSTINGS,
        ),
        ("day", "partner", "product", "currency"),
        ("debits", "credits"),
        scoped=True,
        example="--partner acme --format csv",
    ),
    Report(
        "flows",
        "Flows by product",
        "Sums by day, product and currency, whoever asked; 31 days unless a period is given.",
        (*PERIOD, ASKER, PRODUCT, Parameter("currency", "text", "Only this currency.", "")),
        (
            Column("day", "date"),
            Column("product", about="empty: steps of transactions between partitions"),
            Column("currency"),
            Column("debits", "money"),
            Column("credits", "money"),
            POSTINGS,
        ),
        ("day", "product", "currency"),
        ("debits", "credits"),
        scoped=True,
        example="--since 2026-11-01 --currency CNY",
        days=31,
    ),
    Report(
        "fees",
        "Fees earned",
        "Credits less debits of income accounts, by day, product and currency.",
        (*PERIOD, ASKER, PRODUCT),
        (
            Column("day", "date"),
            Column("product"),
            Column("currency"),
            Column("owner", about="whose income account"),
            Column("fees", "money", "credits less debits"),
            POSTINGS,
        ),
        ("day", "product", "currency", "owner"),
        ("fees",),
        scoped=True,
        example="--since 2026-11-01 --product wallet",
    ),
    Report(
        "holds",
        "Holds outstanding",
        "What is set aside and not released yet, with its age.",
        (OWNER, ACCOUNT),
        (
            Column("hold", about="command id of the hold, or of the transaction between partitions"),
            Column("kind", about="hold, or crossing: a transaction between partitions under way"),
            Column("account", about="to be debited"),
            Column("payee", about="to be credited; several with spaces between"),
            Column("currency"),
            Column("set_aside", "money"),
            Column("released", "money", "captured, given up or lapsed"),
            Column("outstanding", "money"),
            Column("opened_at", "moment"),
            Column("age_days", "count", "days of booking, to the last in the cut"),
            Column("expires_at", "moment", "empty: never"),
            Column("partner", about="who asked"),
            Column("product"),
        ),
        ("opened_at", "hold", "account", "currency"),
        ("set_aside", "released", "outstanding"),
        scoped=True,
        example="--partner acme",
    ),
    Report(
        "rejections",
        "Rejections",
        "Why commands were rejected, by day of booking, reason, product and partner.",
        (SINCE, UNTIL, ASKER, Parameter("reason", "text", "Only this reason.", "")),
        (
            Column("day", "date"),
            Column("reason"),
            Column("command", about="Transaction, or a control command"),
            Column("product"),
            Column("partner", about="who asked"),
            Column("rejected", "count"),
        ),
        ("day", "reason", "command", "product", "partner"),
        scoped=True,
        example="--reason insufficient_funds",
    ),
    Report(
        "profitability",
        "Partner profitability",
        "Volume, the bank's income and expenses, and margin, by partner and product.",
        (SINCE, UNTIL, ON_BOOKING, ASKER),
        (
            Column("partner", about="who asked"),
            Column("product"),
            Column("currency"),
            Column("transactions", "count", "settled, of this partner and product in all currencies"),
            Column("volume", "money", "all debits"),
            Column("fees", "money", "credits less debits of the bank's income accounts"),
            Column("costs", "money", "debits less credits of the bank's expense accounts"),
            Column("margin", "money", "fees less costs"),
            Column("margin_bp", "share", "of volume, halves rounded away from zero"),
        ),
        ("partner", "product", "currency"),
        ("volume", "fees", "costs", "margin"),
        example="--since 2026-11-01 --until 2026-11-30",
    ),
    Report(
        "limits",
        "Limit use",
        "Limits, and what was used of each in the last window in which anything counted.",
        (
            Parameter("partner", "partner", "Only limits of this partner and all below it.", ""),
            Parameter("subject", "text", "Only this partner, account or product.", ""),
        ),
        (
            Column("level", about="partner, account or product"),
            Column("subject", about="the partner, the account or the product"),
            Column("partner", about="whose it is; of a product, the root partner that used it, empty when none has"),
            Column("window", about="transaction, minute, hour, day or month"),
            Column("window_from", about="in the subject's local time; empty: nothing counted yet"),
            Column("currency", about="empty: a count over all currencies"),
            Column("allowed", "money", "empty: any amount, or a limit of the product's document"),
            Column("used", "money"),
            Column("remaining", "money"),
            Column("share_bp", "share", "used of allowed, rounded down; the higher one of amount and transactions"),
            Column("transactions_allowed", "count", "empty: any number, or a limit of the product's document"),
            Column("transactions", "count"),
            Column("transactions_left", "count"),
            Column("partition", "count", "where it is counted; the bank's accounts have limits in each"),
            Column("source_offset", "count", "of the last command that counted; empty: none"),
        ),
        ("level", "subject", "partner", "partition", "window", "currency"),
        scoped=True,
        example="--partner acme",
        of_state=True,
    ),
    Report(
        "day",
        "The platform's day",
        "Calls, commands by outcome, amounts and latency, on each day of booking.",
        (SINCE, UNTIL),
        (
            Column("day", "date"),
            Column("currency", about="empty: the day's commands and calls, in all currencies"),
            Column("calls", "count", "that the gateways answered"),
            Column("settled", "count", "transactions"),
            Column("rejected", "count", "transactions"),
            Column("repeated", "count", "transactions"),
            Column("control", "count", "other commands of people and partners, whatever their outcome"),
            Column("amount", "money", "debits"),
            POSTINGS,
            Column("p50_us", "count", "half of the calls took at most so many microseconds"),
            Column("p99_us", "count", "99% likewise"),
            Column("max_us", "count", "the slowest"),
        ),
        ("day", "currency"),
        ("amount",),
        example="--since 2026-11-01",
        measured=True,
    ),
)
CATALOGUE: dict[str, Report] = {r.name: r for r in REPORTS}

# What many views say, in one place. `whole_days` and `cut_days` are the two halves of a cut: together each record of it
# once (`sinks/finance/cut.py`). `in_cut` is both, row by row, for rows that are looked up by account, hold or subject.
_IN_CUT = "booked_at <= {known_at:DateTime64(3, 'UTC')} AND offset < {ends:Array(UInt64)}[partition + 1]"
WORDS = {
    # The first day of a period that `by` names. Date32 all the way: toStartOfMonth and toMonday end in 2149.
    "bucket": "multiIf(match({by:String}, 'month'), addDays({day}, 1 - toDayOfMonth({day})), "
    "match({by:String}, 'week'), addDays({day}, 1 - toDayOfWeek({day})), {day})",
    "buckets": "arrayDistinct(arrayMap(i -> multiIf(match({by:String}, 'month'), addDays(addDays({since:Date32}, i), "
    "1 - toDayOfMonth(addDays({since:Date32}, i))), match({by:String}, 'week'), addDays(addDays({since:Date32}, i), "
    "1 - toDayOfWeek(addDays({since:Date32}, i))), addDays({since:Date32}, i)), "
    "range(toUInt32(dateDiff('day', {since:Date32}, {until:Date32}) + 1))))",
    "wanted": "({product:String} = '' OR product = {product:String}) AND ({operation:String} = '' "
    "OR operation = {operation:String}) AND ({currency:String} = '' OR currency = {currency:String})",
    "day": "if({on:String} = 'booking', booked_date, value_date)",
    "whole_days": "booked_date < {whole_before:Date32}",
    "cut_days": "booked_date >= {whole_before:Date32} AND booked_at >= toDateTime64({whole_before:Date32}, 3, 'UTC') "
    "AND " + _IN_CUT,
    "in_cut": _IN_CUT,
    "booked_months": "({on:String} != 'booking' OR _partition_id BETWEEN toString(toYYYYMM({since:Date32})) "
    "AND toString(toYYYYMM({until:Date32})))",
    "asker": "({partner:String} = '' OR partner_id = {partner:String} "
    "OR startsWith(partner_id, concat({partner:String}, '/')))",
    "owner": "({partner:String} = '' OR startsWith(account_id, concat({partner:String}, ':')) "
    "OR startsWith(account_id, concat({partner:String}, '/')))",
}


def report(name: str) -> Report:
    """Raises BadInputError with the names there are."""
    if name not in CATALOGUE:
        raise BadInputError(f"{name} is not a report; there are {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def text_of(report: Report, database: str) -> str:
    """The statement that makes a report's view, or makes it anew; also for entries beside the catalogue."""
    text = (files("sinks.finance") / "views" / f"{report.view}.sql").read_text(encoding="utf-8")
    for word, meaning in {**WORDS, "database": database}.items():
        text = text.replace("{" + word + "}", meaning)
    return text.strip().rstrip(";")
