"""A statement in CSV, read by its mapping. Exact: amounts by the digits of their text, each refusal with its line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from clearline.recon.camt import NO_REFERENCE
from clearline.recon.mapping import CurrencyColumn, Mapping, TakenFrom
from clearline.recon.statement import (
    ERRORS_MAX,
    LINES_MAX,
    LineError,
    Lines,
    RefusedStatementError,
    Statement,
    clean,
    day_number,
    minor,
    shown,
)
from ledger.money import EXPONENTS

CELL_MAX = 100_000  # characters
_TOLD_EVERY = 10_000


class _CellError(Exception):
    def __init__(self, field: str, rule: str) -> None:
        super().__init__(rule)
        self.field = field
        self.rule = rule


def read_csv(name: str, data: bytes, mapping: Mapping, progress: Callable[[int], None] = lambda _: None) -> Statement:
    """The statement in a CSV. `progress` is told the lines read so far.

    Raises RefusedStatementError with line, field and rule of what is wrong.
    """
    try:
        text = data.decode(mapping.encoding)
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        rule = f"byte {e.start + 1} of the file is not {mapping.encoding}; the mapping says in which encoding it is"
        raise RefusedStatementError(name, [LineError(line, "", rule)]) from None
    except UnicodeError as e:
        raise RefusedStatementError(name, [LineError(0, "", f"is not {mapping.encoding}: {e}")]) from None
    del data
    return _CsvReader(name, mapping).read(text, progress)


class _CsvReader:
    def __init__(self, name: str, mapping: Mapping) -> None:
        self._name = name
        self._mapping = mapping
        self._amounts = amount_pattern(mapping.decimal, mapping.thousands)
        self._days: dict[str, int] = {}
        self._errors: list[LineError] = []
        self._error_count = 0
        self._balances: list[int] = []
        self._currency = "" if isinstance(mapping.currency, CurrencyColumn) else mapping.currency

    def read(self, text: str, progress: Callable[[int], None]) -> Statement:
        lines = Lines()
        width = 0
        places: dict[str, int] = {}
        for number, row in self._rows(text):
            if not places:
                width, places = len(row), self._places(number, row)
                if self._mapping.header:
                    continue
            if len(row) != width:
                self._error(number, "", f"has {len(row)} columns, the first line has {width}")
                continue
            try:
                self._line(lines, number, row, places)
            except _CellError as e:
                self._error(number, e.field, e.rule)
            if len(lines) > LINES_MAX:
                raise self._refused(number, "", f"has more than {LINES_MAX:,} lines")
            if number % _TOLD_EVERY == 0:
                progress(number)
        if not len(lines) and not self._errors:
            raise self._refused(0, "", "has no line")
        if self._errors:
            raise RefusedStatementError(self._name, self._errors, self._error_count)
        if not self._currency:
            raise self._refused(0, "currency", "no line says which")
        out = Statement("csv", "", self._mapping.external_account, self._currency, lines, len(lines))
        self._check_balances(out)
        out.cover()
        return out

    def _rows(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """The lines that are not empty, with their numbers; headlines and footers left out."""
        skip, footer = self._mapping.skip_lines, self._mapping.skip_footer
        source = io.StringIO(text, newline="")
        for _ in range(skip):
            source.readline()
        csv.field_size_limit(CELL_MAX)
        reader = csv.reader(source, delimiter=self._mapping.delimiter, quotechar=self._mapping.quote, strict=True)
        held: list[tuple[int, list[str]]] = []
        try:
            for row in reader:
                if not row or row == [""]:
                    continue
                if not footer:
                    yield reader.line_num + skip, row
                    continue
                held.append((reader.line_num + skip, row))
                if len(held) > footer:
                    yield held.pop(0)
        except csv.Error as e:
            raise self._refused(reader.line_num + skip, "", f"is not CSV as the mapping says: {e}") from None

    def _places(self, number: int, row: list[str]) -> dict[str, int]:
        """The place in a row of each column that is used."""
        out, header = {}, [cell.strip() for cell in row]
        for name, column in self._mapping.used().items():
            if isinstance(column, int):
                if not 1 <= column <= len(row):
                    raise self._refused(number, name, f"is column {column}, there are {len(row)}")
                out[name] = column - 1
                continue
            found = [i for i, cell in enumerate(header) if cell == column]
            if len(found) != 1:
                what = "there is no" if not found else f"there are {len(found)}"
                raise self._refused(number, name, f"{what} column {shown(column)}; there are {', '.join(header)[:300]}")
            out[name] = found[0]
        return out

    def _line(self, lines: Lines, number: int, row: list[str], places: dict[str, int]) -> None:
        columns = self._mapping.columns
        if "currency" in places:
            self._check_currency(row[places["currency"]].strip())
        amount = self._amount(row, places)
        value = self._day("value_date", row[places["value_date"]])
        booking = self._day("booking_date", row[places["booking_date"]]) if "booking_date" in places else value
        if "balance" in places:
            self._balances.append(self._number("balance", row[places["balance"]]))
        reference = self._text("reference", columns.reference, row, places)
        lines.number.append(number)
        lines.detail.append(0)
        lines.value_day.append(value)
        lines.booking_day.append(booking)
        lines.amount.append(amount)
        lines.reference.append("" if reference.upper() in NO_REFERENCE else reference)
        lines.bank_reference.append(self._text("bank_reference", columns.bank_reference, row, places))
        lines.text.append(self._text("text", columns.text, row, places))
        lines.counterparty.append(self._text("counterparty", columns.counterparty, row, places))

    def _check_currency(self, currency: str) -> None:
        if currency == self._currency:
            return
        if self._currency:
            raise _CellError("currency", f"is {shown(currency)}, the lines before are in {self._currency}")
        if currency not in EXPONENTS:
            raise _CellError("currency", f"{shown(currency)} is not an active ISO 4217 currency code")
        self._currency = currency

    def _amount(self, row: list[str], places: dict[str, int]) -> int:
        sign = self._mapping.columns.sign
        if "amount" not in places:
            debit, credit = row[places["debit"]].strip(), row[places["credit"]].strip()
            if bool(debit) == bool(credit):
                raise _CellError("debit, credit", f"must be one of the two, not {'both' if debit else 'none'}")
            name, cell = ("debit", debit) if debit else ("credit", credit)
            return self._unsigned(name, cell) * (-1 if debit else 1)
        if sign is None:
            return self._number("amount", row[places["amount"]])
        word = row[places["sign"]].strip()
        if word not in sign.credit and word not in sign.debit:
            known = ", ".join((*sign.credit, *sign.debit))
            raise _CellError("sign", f"must be one of {known}, not {shown(word)}")
        return self._unsigned("amount", row[places["amount"]]) * (1 if word in sign.credit else -1)

    def _unsigned(self, name: str, cell: str) -> int:
        amount = self._number(name, cell)
        if amount < 0:
            raise _CellError(name, f"must not be negative ({shown(cell)}): the column says the direction")
        return amount

    def _number(self, name: str, cell: str) -> int:
        found = self._amounts.fullmatch(cell.strip())
        if not found:
            form = "1" + (self._mapping.thousands + "000" if self._mapping.thousands else "000")
            raise _CellError(
                name, f"must be a number in the form {form}{self._mapping.decimal}00, not {shown(cell.strip())}"
            )
        whole = found[2].replace(self._mapping.thousands, "") if self._mapping.thousands else found[2]
        try:
            return minor(whole, found[3] or "", self._currency, negative=found[1] == "-")
        except ValueError as e:
            raise _CellError(name, str(e)) from None

    def _day(self, name: str, cell: str) -> int:
        day = self._days.get(cell)
        if day is None:
            try:
                day = day_number(datetime.strptime(cell.strip(), self._mapping.date_format).date())
            except ValueError as e:
                rule = str(e) if str(e).startswith("must be") else f"must be a day as {self._mapping.date_format}"
                raise _CellError(name, f"{rule}, not {shown(cell.strip())}") from None
            if len(self._days) < 1_000_000:
                self._days[cell] = day
        return day

    @staticmethod
    def _text(name: str, taken: TakenFrom | None, row: list[str], places: dict[str, int]) -> str:
        if taken is None:
            return ""
        cell = row[places[name]]
        if taken.pattern is None:
            return clean(cell)
        found: Any = re.search(taken.pattern, cell)
        return clean(found[1] or "") if found else ""

    def _check_balances(self, statement: Statement) -> None:
        """A running balance: after each line it is the one before and the line's amount. Sets opening and closing."""
        pairs = list(zip(statement.lines.number, statement.lines.amount, self._balances, strict=False))
        if not pairs:
            return
        if self._mapping.newest_first:
            pairs.reverse()
        statement.opening = running = pairs[0][2] - pairs[0][1]
        for number, amount, balance in pairs:
            running += amount
            if running != balance:
                due, off = statement.shown(running), statement.shown(balance - running)
                rule = f"says {statement.shown(balance)}, the one before and this line make {due}: it is off by {off}"
                raise self._refused(number, "balance", rule)
        statement.closing = running

    def _error(self, line: int, field: str, rule: str) -> None:
        self._error_count += 1
        if len(self._errors) < ERRORS_MAX:
            self._errors.append(LineError(line, field, rule))

    def _refused(self, line: int, field: str, rule: str) -> RefusedStatementError:
        return RefusedStatementError(self._name, [*self._errors, LineError(line, field, rule)], self._error_count + 1)


def amount_pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    """Sign, whole part and decimals of an amount's text; thousands are in threes, or not marked at all."""
    whole = r"[0-9]{1,40}"
    if thousands:
        whole = rf"[0-9]{{1,3}}(?:{re.escape(thousands)}[0-9]{{3}}){{1,13}}|{whole}"
    return re.compile(rf"([+-]?)({whole})(?:{re.escape(decimal)}([0-9]{{1,40}}))?")
