"""`clearline balance`, `report` and `sql`: what finance asks."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from clearline import screen
from clearline.commands.common import example, live_settings, money, turnover
from schemas.errors import BadInputError


class Format(StrEnum):
    """How a report is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class By(StrEnum):
    """What a trial balance is broken down by."""

    CURRENCY = "currency"
    TYPE = "type"
    ACCOUNT = "account"


class On(StrEnum):
    """Which date counts."""

    VALUE = "value"
    BOOKING = "booking"


Account = Annotated[str, typer.Argument(help="The account's id, such as acme:wallet:alice.")]
Since = Annotated[str, typer.Option(metavar="DATE", help="First day, YYYY-MM-DD.")]
Until = Annotated[str, typer.Option(metavar="DATE", help="Last day, YYYY-MM-DD, included.")]
OnOption = Annotated[On, typer.Option(help="Days of value, or of booking.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Amounts in json and csv are minor units.")]


def register(app: typer.Typer) -> None:
    app.command("balance", **example("clearline balance acme:wallet:alice --value-date 2026-11-22"))(balance)
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="report", help="Trial balance, statements and totals, from ClickHouse.",
        epilog="Example: clearline report trial-balance",
    )  # fmt: skip
    group.command("trial-balance", **example("clearline report trial-balance --by type"))(trial_balance)
    group.command("statement", **example("clearline report statement acme:wallet:alice --since 2026-11-01"))(statement)
    group.command("totals", **example("clearline report totals --partner acme --format csv"))(totals)
    group.command("rollup", **example("clearline report rollup acme"))(rollup)
    group.command("top-partners", **example("clearline report top-partners --limit 20 --roots"))(top_partners)
    app.command("sql", **example('clearline sql "SELECT outcome, count() FROM outcomes GROUP BY outcome"'))(sql)


def balance(
    account: Account,
    value_date: Annotated[str, typer.Option(metavar="DATE", help="At the end of this day of value.")] = "",
    as_of: Annotated[
        str, typer.Option(metavar="TIME", help="As booked at this moment, as 2026-11-22T14:00 (UTC).")
    ] = "",
    as_json: screen.JsonFlag = False,
) -> None:
    """An account's balance: now, from Redis; at a day or a moment, from ClickHouse. Bank accounts are summed."""
    if value_date and as_of:
        raise BadInputError("give --value-date or --as-of, not both")
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
    from clearline.connection import clickhouse_config
    from sinks.reports import Reports

    until, at = _day(value_date, "--value-date"), _moment(as_of)
    with Reports(clickhouse_config(live_settings())) as reports:
        found = reports.balance(account, until=until, at=at)
    return {
        "account_id": account, "type": found.type, "currency": found.currency, "balance": found.balance,
        "debits_posted": found.debits, "credits_posted": found.credits, "postings": found.postings,
        "value_date": until, "as_of": at, "source": "clickhouse",
    }  # fmt: skip


def trial_balance(
    by: Annotated[By, typer.Option(help="One line per what.")] = By.CURRENCY,
    since: Since = "",
    until: Until = "",
    on: OnOption = On.VALUE,
    form: FormatOption = Format.TABLE,
    as_json: screen.JsonFlag = False,
) -> None:
    """Debits and credits of everything that was settled. Exit code 1 when they are not equal in a currency."""
    with _reports() as reports:
        found = reports.trial_balance(
            by=by.value, since=_day(since, "--since"), until=_day(until, "--until"), on=on.value
        )
    rows = found.dicts()
    shown: list[Sequence[object]] = []
    for r in rows:
        c, debits, credits_ = r["currency"], r["debits"], r["credits"]
        name = [] if by is By.CURRENCY else [r["name"]]
        shown.append([*name, c, money(debits, c), money(credits_, c), money(debits - credits_, c), r["postings"]])
    named = [] if by is By.CURRENCY else [by.value]
    figures = ["debits", "credits", "difference", "postings"]
    balanced = "debits equal credits in every currency"
    verdict = balanced if found.balanced else f"DIFFERENCES: {turnover(found.differences)}"
    document = {
        "rows": rows, "totals": [_plain(t) for t in found.totals], "balanced": found.balanced,
        "differences": found.differences, "as_of": _as_of(found.as_of),
    }  # fmt: skip
    table = screen.table("Trial balance", [*named, "currency", *figures], shown, right=figures)
    _print(document, rows, form, as_json, [table, verdict])
    if not found.balanced:
        raise typer.Exit(1)


def statement(
    account: Account,
    since: Since = "",
    until: Until = "",
    on: OnOption = On.VALUE,
    lines_max: Annotated[int, typer.Option(min=1, help="Most lines.")] = 10_000,
    form: FormatOption = Format.TABLE,
    as_json: screen.JsonFlag = False,
) -> None:
    """An account's postings with the balance after each; the last 31 days unless a period is given."""
    last = _day(until, "--until") or datetime.now(UTC).date()
    first = _day(since, "--since") or date.fromordinal(max(last.toordinal() - 30, date(1970, 1, 1).toordinal()))
    with _reports() as reports:
        s = reports.statement(account, first, last, on=on.value, lines_max=lines_max)
    rows = [_plain(line) for line in s.lines]
    c = s.currency
    shown: list[Sequence[object]] = [("", "", "", "opening balance", "", "", money(s.opening, c))]
    for x in s.lines:
        debit, credit = (money(x.amount, c), "") if x.side == "debit" else ("", money(x.amount, c))
        booked = x.booked_at.strftime("%Y-%m-%d %H:%M:%S")
        shown.append((x.value_date, booked, x.product, x.reference, debit, credit, money(x.balance, c)))
    shown.append(("", "", "", "closing balance", money(s.debits, c), money(s.credits, c), money(s.closing, c)))
    columns = ("value date", "booked at", "product", "reference", "debit", "credit", "balance")
    table = screen.table(f"{account}  {first} to {last}  {c}", columns, shown, right=["debit", "credit", "balance"])
    cut = f"only the first {len(s.lines):,} lines are shown: choose a shorter period, or --lines-max"
    document = {k: v for k, v in _plain(s).items() if k not in ("lines", "as_of")}
    document |= {"lines": rows, "as_of": _as_of(s.as_of)}
    _print(document, rows, form, as_json, [table] if s.complete else [table, cut])


def totals(
    partner: Annotated[str, typer.Option(help="Only this partner and all below it.")] = "",
    since: Since = "",
    until: Until = "",
    on: OnOption = On.VALUE,
    form: FormatOption = Format.TABLE,
    as_json: screen.JsonFlag = False,
) -> None:
    """Totals by day, partner, product and currency."""
    with _reports() as reports:
        found = reports.totals(
            since=_day(since, "--since"), until=_day(until, "--until"), partner_id=partner, on=on.value
        )
    shown = []
    for r in found:
        debits, credits_ = money(r.debits, r.currency), money(r.credits, r.currency)
        shown.append((r.day, r.partner_id, r.product, r.currency, debits, credits_, r.postings))
    columns = ("day", "partner", "product", "currency", "debits", "credits", "postings")
    table = screen.table("Totals", columns, shown, right=["debits", "credits", "postings"])
    _print({"rows": found.dicts(), "as_of": _as_of(found.as_of)}, found.dicts(), form, as_json, [table])


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


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise BadInputError(f"--as-of must be a moment as YYYY-MM-DDTHH:MM:SS, not {text}") from None
