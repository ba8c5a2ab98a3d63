"""`clearline balance`, `report` and `sql`: what finance asks.

A report's command is made from its entry in the catalogue (`sinks/finance/catalogue.py`): parameters become options.
"""

from __future__ import annotations

import csv
import inspect
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from clearline import screen
from clearline.commands import files
from clearline.commands.common import example, live_settings, money, turnover
from clearline.commands.files import FileFormat
from schemas.errors import BadInputError
from sinks.finance import catalogue
from sinks.finance.catalogue import Parameter, Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearline.finance.formats import Form
    from sinks.clickhouse import Database


class Format(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class On(StrEnum):
    """Which date counts."""

    VALUE = "value"
    BOOKING = "booking"


Account = Annotated[str, typer.Argument(help="The account's id, such as acme:wallet:alice.")]
Since = Annotated[str, typer.Option(metavar="DATE", help="First day, YYYY-MM-DD.")]
Until = Annotated[str, typer.Option(metavar="DATE", help="Last day, YYYY-MM-DD, included.")]
OnOption = Annotated[On, typer.Option(help="Days of value, or of booking.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Amounts in json and csv are minor units.")]

# What every report takes beside its own parameters: name, type and default.
_COMMON: tuple[tuple[str, Any, Any], ...] = (
    ("cut", files.CutOption, ""),
    ("known_at", files.KnownAtOption, ""),
    ("closed", files.ClosedOption, ""),
    ("form", files.FormOption, FileFormat.TABLE),
    ("out", files.OutOption, ""),
    ("as_json", screen.JsonFlag, False),
)
_METAVARS = {
    "date": "DATE", "moment": "TIME", "count": "N", "partner": "PARTNER", "account": "ACCOUNT", "text": "TEXT",
}  # fmt: skip


def register(app: typer.Typer) -> None:
    app.command("balance", **example("clearline balance acme:wallet:alice --value-date 2026-11-22"))(balance)
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="report", help="Trial balance, statements, totals and all other reports, from ClickHouse.",
        epilog="Example: clearline report trial-balance",
    )  # fmt: skip
    for entry in catalogue.REPORTS:
        sample = f"clearline report {entry.name} {entry.example}".rstrip()
        group.command(entry.name, **example(sample))(_command(entry))
    group.command("rollup", **example("clearline report rollup acme"))(rollup)
    group.command("top-partners", **example("clearline report top-partners --limit 20 --roots"))(top_partners)
    app.command("sql", **example('clearline sql "SELECT outcome, count() FROM outcomes GROUP BY outcome"'))(sql)


# ---- reports of the catalogue --------------------------------------------------------------------------------------


def _command(entry: Report) -> Callable[..., None]:
    """A report's command. typer reads what it takes from the signature."""

    def run(**given: Any) -> None:
        common = {name: given.pop(name) for name, *_ in _COMMON}
        asked = {p.name: str(given[p.name]) for p in entry.parameters if given[p.name] != ""}
        _report(entry, asked, **common)

    options = [(p.name, *_option(p)) for p in entry.parameters]
    run.__doc__ = f"{entry.about}\n\n{_columns_help(entry)}"
    run.__name__ = entry.name.replace("-", "_")
    run.__annotations__ = {name: kind for name, kind, _ in (*options, *_COMMON)}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, kind, default in (*options, *_COMMON)
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _option(p: Parameter) -> tuple[Any, Any]:
    """Type and default of a parameter on the command line; what must be given is an argument."""
    if p.default is None:
        return Annotated[str, typer.Argument(metavar=_METAVARS[p.asked], help=p.about)], inspect.Parameter.empty
    metavar = "|".join(p.choices) or _METAVARS[p.asked]
    return Annotated[str, typer.Option(metavar=metavar, help=_option_help(p))], ""


def _option_help(p: Parameter) -> str:
    all_of_it = p.default in ("", catalogue.FIRST_DAY, catalogue.LAST_DAY)
    return p.about if all_of_it else f"{p.about} [default: {p.default}]"


def _columns_help(entry: Report) -> str:
    said = [f"{c.name}: {c.about}" for c in entry.columns if c.about]
    return "; ".join(said).capitalize() + "." if said else ""


def _report(
    entry: Report, asked: Mapping[str, str], *, cut: str, known_at: str, closed: str, form: FileFormat, out: str,
    as_json: bool,
) -> None:  # fmt: skip
    from clearline.finance.formats import as_of_text, readable, to_bytes
    from sinks.finance.ask import ask_for

    if not out and not as_json:
        files.spare_terminal(form, "name a file, or - for standard output")
    with _database() as db:
        found = ask_for(db, entry, asked, cut=cut, known_at=known_at, closed=closed)
    if form is FileFormat.TABLE and not as_json:
        _put_table(readable(found), out)
    else:
        chosen: Form = "json" if as_json else files.FORMS[form]
        _put(to_bytes(found, chosen), out)
        if chosen == "csv":
            screen.say(f"as of {as_of_text(found)}")
    if found.differences():
        raise typer.Exit(1)


def _put(data: bytes, out: str) -> None:
    if files.put(data, out):
        screen.say(f"{len(data):,} bytes written to {out}")


def _put_table(parts: Sequence[RenderableType], out: str) -> None:
    if out in ("", "-"):
        screen.answer({}, False, parts)
        return
    from rich.console import Console

    text = io.StringIO()
    console = Console(file=text, width=200, highlight=False)
    for part in parts:
        if isinstance(part, str):
            console.print(part, markup=False)
        else:
            console.print(part)
    _put(text.getvalue().encode(), out)


@contextmanager
def _database() -> Iterator[Database]:
    """ClickHouse, as the user that may only read."""
    from clearline.connection import clickhouse_config
    from sinks.clickhouse import Database

    db = Database(clickhouse_config(live_settings()), reader=True)
    try:
        yield db
    finally:
        db.close()


# ---- one account's balance -----------------------------------------------------------------------------------------


def balance(
    account: Account,
    value_date: Annotated[str, typer.Option(metavar="DATE", help="At the end of this day of value.")] = "",
    as_of: Annotated[
        str, typer.Option(metavar="TIME", help="As booked at this moment, as 2026-11-22T14:00 (UTC).")
    ] = "",
    as_json: screen.JsonFlag = False,
) -> None:
    """An account's balance: now, from Redis; at a day, as booked at a moment, or both, from ClickHouse.

    Bank accounts are summed over all partitions.
    """
    document = _past(account, value_date, as_of) if value_date or as_of else _present(account)
    currency = document["currency"]
    lines = [f"{account}  {money(document['balance'], currency)} {currency}"]
    if "available" in document:
        flags = [f.replace("_", " ") for f in ("debits_blocked", "credits_blocked", "frozen", "closed") if document[f]]
        lines += [f"available {money(document['available'], currency)} {currency}", *flags]
    screen.answer(document, as_json, lines)


def _present(account: str) -> dict[str, Any]:
    from clearline.connection import redis_config
    from sinks.balances import read_balance

    found = read_balance(redis_config(live_settings()), account)
    if found is None:
        raise BadInputError(
            f"account {account} is not in Redis: was it opened? `clearline account show {account}` asks the ledger"
        )
    counters = {n: getattr(found, n) for n in ("debits_posted", "credits_posted", "debits_pending", "credits_pending")}
    posted = found.debits_posted - found.credits_posted
    return {
        "account_id": account,
        "type": found.type,
        "currency": found.currency,
        "balance": posted if found.type in ("asset", "expense") else -posted,
        "available": found.available,
        "min_available": found.min_available,
        "credit_limit": found.credit_limit,
        **counters,
        "debits_blocked": found.debits_blocked,
        "credits_blocked": found.credits_blocked,
        "frozen": found.frozen,
        "closed": found.closed,
        "source": "redis",
        "offsets": found.offsets,
    }


def _past(account: str, value_date: str, as_of: str) -> dict[str, Any]:
    from sinks.finance.ask import NotKnownError, ask_for, moment

    until, at = _day(value_date, "--value-date"), moment("--as-of", as_of) if as_of else None
    asked = {"account": account} | ({"until": value_date} if value_date else {})
    report = catalogue.report("balances")
    with _database() as db:
        try:
            found = ask_for(db, report, asked, known_at=as_of)
            row = next(found.dicts())
        except NotKnownError:  # it was opened later: nothing was on it then
            found = ask_for(db, report, asked)
            row = next(found.dicts()) | {"balance": 0, "debits": 0, "credits": 0, "postings": 0}
    return {
        "account_id": account, "type": row["type"], "currency": row["currency"], "balance": row["balance"],
        "debits_posted": row["debits"], "credits_posted": row["credits"], "postings": row["postings"],
        "value_date": until, "as_of": at, "cut": found.cut.text, "source": "clickhouse",
    }  # fmt: skip


# ---- partners ------------------------------------------------------------------------------------------------------


def rollup(
    partner: Annotated[str, typer.Argument(help="Only this partner and all below it; all partners if left out.")] = "",
    until: Until = "",
    on: OnOption = On.VALUE,
    form: FormatOption = Format.TABLE,
    as_json: screen.JsonFlag = False,
) -> None:
    """What each partner has with all below it: the sums of its tree's accounts, and its tree's transactions.

    An account counts for its owner and all above, whoever asked. A transaction counts for the partner that asked and
    all above, by day of booking.
    """
    with _reports() as reports:
        found = reports.rollup(partner, until=_day(until, "--until"), on=on.value)
    shown = []
    for r in found:
        sums = (money(n, r.currency) for n in (r.debits, r.credits, r.credits - r.debits))
        shown.append((r.partner_id, r.currency, *sums, r.postings))
    figures = ("debits", "credits", "credits less debits", "postings")
    sums_table = screen.table("Accounts of the tree", ("partner", "currency", *figures), shown, right=figures)
    own = [(t.partner_id, t.own_settled, t.settled, t.rejected, t.repeated) for t in found.transactions]
    counts = ("its own settled", "settled", "rejected", "repeated")
    counts_table = screen.table("Transactions of the tree", ("partner", *counts), own, right=counts)
    document = {
        "rows": found.dicts(), "transactions": [_plain(t) for t in found.transactions], "as_of": _as_of(found.as_of),
    }  # fmt: skip
    _print(document, found.dicts(), form, as_json, [sums_table, counts_table])


def top_partners(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 10,
    roots: Annotated[bool, typer.Option("--roots", help="A partner with all below it.")] = False,
    since: Since = "",
    until: Until = "",
    form: FormatOption = Format.TABLE,
    as_json: screen.JsonFlag = False,
) -> None:
    """The partners with the most settled transactions, by days of booking."""
    with _reports() as reports:
        found = reports.top_partners(limit, since=_day(since, "--since"), until=_day(until, "--until"), roots=roots)
    rows = found.dicts()
    shown = [(r["partner_id"], r["settled"], r["rejected"], r["repeated"], turnover(r["turnover"])) for r in rows]
    columns = ("partner", "settled", "rejected", "repeated", "turnover")
    table = screen.table("Top partners", columns, shown, right=columns[1:])
    _print({"rows": rows, "as_of": _as_of(found.as_of)}, rows, form, as_json, [table])


def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One statement; the user may only read.")],
    form: FormatOption = Format.TABLE,
    as_json: screen.JsonFlag = False,
) -> None:
    """Ask ClickHouse anything. Tables: postings, outcomes, control_changes, dead_letters; amounts in minor units."""
    from clearline.connection import clickhouse_config
    from sinks.reports import run_sql

    columns, rows = run_sql(clickhouse_config(live_settings()), query)
    names = [name for name, _ in columns]
    plain = [[_cell(v) for v in row] for row in rows]
    document = {"columns": [{"name": n, "type": t} for n, t in columns], "rows": plain}
    figures = [n for n, t in columns if "Int" in t or "Decimal" in t or "Float" in t]
    # As they are, without thousands: a figure here may as well be a year, an offset or an id.
    table = screen.table("", names, [[str(v) for v in row] for row in plain], right=figures)
    as_dicts = [dict(zip(names, row, strict=True)) for row in plain]
    _print(document, as_dicts, form, as_json, [table, f"{len(rows):,} rows"])


def _reports() -> Any:
    from clearline.connection import clickhouse_config
    from sinks.reports import Reports

    return Reports(clickhouse_config(live_settings()))


def _print(
    document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], form: Format, as_json: bool,
    readable: Sequence[RenderableType],
) -> None:  # fmt: skip
    if form is Format.CSV and not as_json:
        out = io.StringIO()
        if rows:
            writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        sys.stdout.write(out.getvalue())
        return
    screen.answer(document, as_json or form is Format.JSON, readable)


def _plain(record: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(record)


def _as_of(points: Mapping[int, Any]) -> dict[int, dict[str, int]]:
    return {p: point._asdict() for p, point in points.items()}


def _cell(value: Any) -> Any:
    """A value of ClickHouse's as plain JSON has it; bytes as hexadecimal digits."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return [_cell(v) for v in value]
    return value


def _day(text: str, option: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadInputError(f"{option} must be a day as YYYY-MM-DD, not {text}") from None
