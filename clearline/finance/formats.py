"""A report as a file: JSON, CSV, Parquet and XLSX, and as a table for people. The same result is the same bytes.

Money is an integer in minor units in JSON, CSV and Parquet, and has its decimals where people read: table and XLSX.
Nothing here is ever a float. In a spreadsheet a text stays a text: what would begin a formula gets a `'` before it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, get_args

from ledger.money import EXPONENTS, format_minor
from schemas.errors import BadInputError
from sinks.finance.ask import Result
from sinks.finance.catalogue import Column
from sinks.finance.cut import LAST_MOMENT

if TYPE_CHECKING:
    from rich.console import RenderableType

Form = Literal["json", "csv", "parquet", "xlsx"]
FORMS: tuple[Form, ...] = get_args(Form)
CONTENT_TYPES: dict[Form, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
XLSX_ROWS_MAX = 1_048_575  # below the header
_EXACT_DIGITS = 15  # that a spreadsheet's numbers keep
_MADE = datetime(2000, 1, 1)  # in every workbook, so that equal figures are equal bytes
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_INT64_MAX = 2**63 - 1
_ROW_GROUP = 100_000
_WIDTHS = {"text": 24, "date": 11, "moment": 24, "count": 12, "money": 20, "share": 10, "flag": 8}


def to_bytes(result: Result, form: Form) -> bytes:
    """The whole file. Raises BadInputError when it has more rows than the form can hold."""
    makers: dict[Form, Callable[[Result], bytes]] = {
        "json": _to_json, "csv": _to_csv, "parquet": _to_parquet, "xlsx": _to_xlsx,
    }  # fmt: skip
    return makers[form](result)


def as_of(result: Result) -> dict[str, Any]:
    """Up to where a result goes, as JSON has it. `known_at`: None when nothing is left out for it."""
    cut = result.cut
    return {
        "cut": cut.text,
        "known_at": None if cut.known_at == LAST_MOMENT else _moment(cut.known_at),
        "partitions": [
            {
                "partition": p, "sequence": at.sequence, "journal_offset": at.journal_offset,
                "source_offset": at.source_offset,
            }
            for p, at in sorted(cut.places.items())
        ],
    }  # fmt: skip


def as_of_text(result: Result) -> str:
    """The same in one line, as the header `Clearline-As-Of` and the last line of a table have it."""
    known_at = as_of(result)["known_at"]
    return result.cut.text + (f"; known_at={known_at}" if known_at else "")


def document(result: Result) -> dict[str, Any]:
    """The report as plain values, keys in the order that docs/finance.md gives."""
    columns = result.report.columns
    rows = [{c.name: plain(c, v) for c, v in zip(columns, row, strict=True)} for row in result.rows]
    return {
        "report": result.report.name,
        "title": result.report.title,
        "parameters": result.asked,
        "as_of": as_of(result),
        "columns": [{"name": c.name, "kind": c.kind} for c in columns],
        "rows": rows,
        "totals": result.totals(),
        **result.summary(),
    }


def plain(column: Column, value: Any) -> Any:
    """A value as JSON has it: days and moments are ISO texts, everything else is as it is."""
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, date):
        return value.isoformat()
    return bool(value) if column.kind == "flag" and value is not None else value


def readable(result: Result) -> list[RenderableType]:
    """The report for people: a table, the sums by currency where there is more than one row of it, and the cut."""
    from clearline import screen

    report, figures = result.report, ("money", "count", "share")
    names = [c.name.replace("_", " ") for c in report.columns]
    right = [n for n, c in zip(names, report.columns, strict=True) if c.kind in figures]
    rows = [_shown(result, row) for row in result.rows]
    currencies = [row["currency"] for row in result.dicts()] if report.totals else []
    if len(set(currencies)) < len(currencies):
        rows += [_total_row(result, currency, sums) for currency, sums in result.totals().items()]
    parts: list[RenderableType] = [screen.table(_heading(result), names, rows, right=right), *_verdict(result)]
    return [*parts, f"as of {as_of_text(result) or 'an empty journal'}"]


def _heading(result: Result) -> str:
    given = {p.name: p.default for p in result.report.parameters}
    said = [f"{name} {value}" for name, value in result.asked.items() if value not in ("", given.get(name))]
    return "  ".join([result.report.title, *said])


def _verdict(result: Result) -> list[str]:
    from clearline.commands.common import turnover

    found = result.summary()
    if "balanced" in found:
        differences = found["differences"]
        if not differences:
            return ["debits equal credits in every currency"]
        return [f"DIFFERENCES, debits less credits: {turnover(differences)}"]
    if not found.get("complete", True):
        return [f"only the first {len(result.rows) - 2:,} lines are shown: choose a shorter period, or --lines-max"]
    return []


def _shown(result: Result, row: tuple[Any, ...]) -> list[object]:
    names = dict(zip(result.names, row, strict=True))
    return [_cell(c, v, names.get("currency", "")) for c, v in zip(result.report.columns, row, strict=True)]


def _total_row(result: Result, currency: str, sums: dict[str, int]) -> list[object]:
    first = result.report.columns[0].name
    values: dict[str, object] = {"currency": currency, **({first: "total"} if first != "currency" else {})}
    return [
        _cell(c, sums[c.name], currency) if c.name in sums else values.get(c.name, "") for c in result.report.columns
    ]


def _cell(column: Column, value: Any, currency: str) -> object:
    from clearline.commands.common import money

    if value is None:
        return ""
    if column.kind == "money":
        return money(value, currency) if currency else ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if column.kind == "share":
        return f"{value:,} bp"
    return plain(column, value)


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _harmless(text: str) -> str:
    return "'" + text if text.startswith(_FORMULA) else text


# ---- files ---------------------------------------------------------------------------------------------------------


def _to_json(result: Result) -> bytes:
    from clearline.screen import to_json

    return to_json(document(result)) + b"\n"


def _to_csv(result: Result) -> bytes:
    lines: list[str] = []
    # The writer quotes the characters of its own line ends only, and a lone return would end a line for others, too.
    writer = csv.writer(_Lines(lines), lineterminator="\r\n")
    writer.writerow(result.names)
    columns = result.report.columns
    for row in result.rows:
        writer.writerow([_csv_cell(c, v) for c, v in zip(columns, row, strict=True)])
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines).encode()


class _Lines:
    """What a writer takes for a file: each row is one call."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def write(self, line: str) -> None:
        self._lines.append(line)


def _csv_cell(column: Column, value: Any) -> object:
    if value is None:
        return ""
    if column.kind == "text":
        return _harmless(value)
    found = plain(column, value)
    return str(found).lower() if isinstance(found, bool) else found


def _to_parquet(result: Result) -> bytes:
    import polars as pl

    kinds: dict[str, Any] = {
        "text": pl.String, "date": pl.Date, "moment": pl.Datetime("ms", "UTC"), "flag": pl.Boolean,
    }  # fmt: skip

    def series(i: int, column: Column) -> pl.Series:
        values = [row[i] for row in result.rows]
        if column.kind == "flag":
            values = [None if v is None else bool(v) for v in values]
        kind = kinds.get(column.kind, pl.Int64)
        if kind is pl.Int64 and any(v is not None and abs(v) > _INT64_MAX for v in values):
            kind, values = pl.Decimal(38, 0), [None if v is None else Decimal(v) for v in values]
        return pl.Series(column.name, values, dtype=kind, strict=True)

    frame = pl.DataFrame([series(i, c) for i, c in enumerate(result.report.columns)])
    said = {k: v for k, v in document(result).items() if k != "rows"}
    metadata = {
        f"clearline.{k}": v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in said.items()
    }
    out = io.BytesIO()
    frame.write_parquet(
        out, compression="zstd", compression_level=3, row_group_size=_ROW_GROUP, metadata=metadata
    )  # fmt: skip
    return out.getvalue()


def _to_xlsx(result: Result) -> bytes:
    from xlsxwriter import Workbook

    if len(result.rows) > XLSX_ROWS_MAX:
        raise BadInputError(
            f"format: a sheet holds {XLSX_ROWS_MAX:,} rows, not {len(result.rows):,}; take csv or parquet"
        )
    out = io.BytesIO()
    book = Workbook(out, {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False})
    book.set_properties({"title": result.report.title, "created": _MADE})
    sheet = book.add_worksheet(result.report.title[:31].replace("'", ""))
    bold = book.add_format({"bold": True})
    write = _CellWriter(book)
    columns = result.report.columns
    currency_at = result.names.index("currency") if "currency" in result.names else -1
    for i, column in enumerate(columns):
        sheet.set_column(i, i, _WIDTHS[column.kind])
        sheet.write_string(0, i, column.name, bold)
    for r, row in enumerate(result.rows, 1):
        for i, column in enumerate(columns):
            write(sheet, r, i, column, row[i], row[currency_at] if currency_at >= 0 else "")
    sheet.freeze_panes(1, 0)
    sheet.autofilter(0, 0, max(1, len(result.rows)), len(columns) - 1)
    _as_of_sheet(book, bold, result)
    book.close()
    return out.getvalue()


def _as_of_sheet(book: Any, bold: Any, result: Result) -> None:
    sheet = book.add_worksheet("As of")
    sheet.set_column(0, 3, 24)
    said = as_of(result)
    lines = [
        ("report", result.report.name), ("title", result.report.title), *result.asked.items(),
        ("cut", said["cut"]), ("known at", said["known_at"] or ""),
    ]  # fmt: skip
    for r, (name, value) in enumerate(lines):
        sheet.write_string(r, 0, name, bold)
        sheet.write_string(r, 1, _harmless(value))
    names = ("partition", "sequence", "journal_offset", "source_offset")
    for i, name in enumerate(names):
        sheet.write_string(len(lines) + 1, i, name, bold)
    for r, at in enumerate(said["partitions"], len(lines) + 2):
        for i, name in enumerate(names):
            sheet.write_string(r, i, str(at[name]))


class _CellWriter:
    """Writes values with the number formats of a workbook, each made once."""

    def __init__(self, book: Any) -> None:
        self._book = book
        self._formats: dict[str, Any] = {}

    def _format(self, pattern: str) -> Any:
        if pattern not in self._formats:
            self._formats[pattern] = self._book.add_format({"num_format": pattern})
        return self._formats[pattern]

    def __call__(self, sheet: Any, row: int, at: int, column: Column, value: Any, currency: str) -> None:
        if value is None or (column.kind == "money" and not currency):
            return
        if column.kind == "text":
            sheet.write_string(row, at, _harmless(value))
        elif isinstance(value, datetime):
            moment = value.astimezone(UTC).replace(tzinfo=None)
            sheet.write_datetime(row, at, moment, self._format("yyyy-mm-dd hh:mm:ss.000"))
        elif isinstance(value, date):
            sheet.write_datetime(row, at, value, self._format("yyyy-mm-dd"))
        elif column.kind == "flag":
            sheet.write_boolean(row, at, bool(value))
        else:
            self._figure(sheet, row, at, value, EXPONENTS.get(currency, 0) if column.kind == "money" else 0, currency)

    def _figure(self, sheet: Any, row: int, at: int, value: int, exponent: int, currency: str) -> None:
        if len(str(abs(value))) > _EXACT_DIGITS:
            sheet.write_string(row, at, format_minor(value, currency) if exponent else str(value))
            return
        pattern = "#,##0" + ("." + "0" * exponent if exponent else "")
        sheet.write_number(row, at, Decimal(value).scaleb(-exponent), self._format(pattern))
