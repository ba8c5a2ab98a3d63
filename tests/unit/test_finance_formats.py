"""Reports as files, made from figures by hand: the shapes that docs/finance.md gives, exact beyond 64 bits, equal bytes."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars
import pytest
from rich.console import Console

from clearline.finance import formats
from schemas.errors import BadInputError
from sinks.finance.ask import Result
from sinks.finance.catalogue import CATALOGUE, Column, Report
from sinks.finance.cut import Cut, Place

HUGE = 10**37 + 7
MOMENT = datetime(2026, 11, 22, 14, 0, 0, 123_000, tzinfo=UTC)
CUT = Cut({1: Place(998, 1200, 1100, 0), 0: Place(1204, 1500, 1300, 0)})
KINDS = Report(
    "kinds", "All kinds", "", (),
    (
        Column("name"), Column("currency"), Column("day", "date"), Column("at", "moment"), Column("n", "count"),
        Column("amount", "money"), Column("share_bp", "share"), Column("open", "flag"),
    ),
    ("name",), ("amount",),
)  # fmt: skip
ROWS: list[tuple[Any, ...]] = [
    ("=1+1", "CNY", date(2026, 11, 22), MOMENT, 3, 1_255_000, 150, 1),
    ("+x", "JPY", date(2026, 11, 22), MOMENT, 3, -7, None, 0),
    ("-y", "BHD", None, None, None, 1_234_567, 1, None),
    ("@z", "CNY", date(1970, 1, 1), MOMENT, 10**16, 99, 0, 1),
    ("\tq", "CNY", date(2299, 12, 31), MOMENT, 0, 0, 0, 1),
    ("\rq", "CNY", date(2299, 12, 31), MOMENT, 0, 0, 0, 1),
    ("plain, \"quoted\" 'x'\n中", "CNY", date(2299, 12, 31), MOMENT, 0, -1, 0, 1),
]


def made(rows: list[tuple[Any, ...]] = ROWS, cut: Cut = CUT) -> Result:
    return Result(KINDS, {"on": "value"}, cut, rows)


def test_json_has_its_keys_in_their_order() -> None:
    text = formats.to_bytes(made(), "json")
    found = json.loads(text)
    assert list(found) == ["report", "title", "parameters", "as_of", "columns", "rows", "totals"]
    assert found["as_of"] == {
        "cut": "0:1204,1:998",
        "known_at": None,
        "partitions": [
            {"partition": 0, "sequence": 1204, "journal_offset": 1500, "source_offset": 1300},
            {"partition": 1, "sequence": 998, "journal_offset": 1200, "source_offset": 1100},
        ],
    }
    assert found["columns"][5] == {"name": "amount", "kind": "money"}
    assert list(found["rows"][0].items()) == [
        ("name", "=1+1"), ("currency", "CNY"), ("day", "2026-11-22"), ("at", "2026-11-22T14:00:00.123Z"), ("n", 3),
        ("amount", 1_255_000), ("share_bp", 150), ("open", True),
    ]  # fmt: skip
    assert found["rows"][2]["day"] is found["rows"][2]["open"] is None
    assert found["totals"] == {"BHD": {"amount": 1_234_567}, "CNY": {"amount": 1_255_098}, "JPY": {"amount": -7}}


def test_what_was_known_at_is_said() -> None:
    known = Cut(CUT.places, MOMENT)
    assert formats.as_of_text(made()) == "0:1204,1:998"
    assert formats.as_of_text(made(cut=known)) == "0:1204,1:998; known_at=2026-11-22T14:00:00.123Z"
    assert json.loads(formats.to_bytes(made(cut=known), "json"))["as_of"]["known_at"] == "2026-11-22T14:00:00.123Z"


def test_csv_keeps_minor_units_and_disarms_formulas() -> None:
    rows = list(csv.reader(io.StringIO(formats.to_bytes(made(), "csv").decode(), newline="")))
    assert rows[0] == [c.name for c in KINDS.columns]
    assert rows[1] == ["'=1+1", "CNY", "2026-11-22", "2026-11-22T14:00:00.123Z", "3", "1255000", "150", "true"]
    assert [r[0] for r in rows[1:]] == ["'=1+1", "'+x", "'-y", "'@z", "'\tq", "'\rq", ROWS[-1][0]]
    assert rows[2][5] == "-7", "a figure is not a text"
    assert rows[3][2:5] == ["", "", ""]


def test_parquet_has_types_and_says_as_of_when() -> None:
    data = formats.to_bytes(made(), "parquet")
    frame = polars.read_parquet(io.BytesIO(data))
    kinds = [
        polars.String, polars.String, polars.Date, polars.Datetime("ms", "UTC"), polars.Int64, polars.Int64,
        polars.Int64, polars.Boolean,
    ]  # fmt: skip
    assert frame.dtypes == kinds
    plain = [tuple(bool(v) if i == 7 and v is not None else v for i, v in enumerate(row)) for row in ROWS]
    assert [tuple(r) for r in frame.rows()] == plain
    metadata = polars.read_parquet_metadata(io.BytesIO(data))
    assert json.loads(metadata["clearline.as_of"])["cut"] == "0:1204,1:998"
    assert metadata["clearline.report"] == "kinds"
    assert json.loads(metadata["clearline.parameters"]) == {"on": "value"}


def test_amounts_beyond_64_bits_are_exact_everywhere() -> None:
    rows = [("a", "CNY", None, None, 1, HUGE, 0, 0), ("b", "CNY", None, None, 1, -1, 0, 0)]
    result = made(rows)
    assert json.loads(formats.to_bytes(result, "json"))["totals"] == {"CNY": {"amount": HUGE - 1}}
    assert f",{HUGE},".encode() in formats.to_bytes(result, "csv")
    frame = polars.read_parquet(io.BytesIO(formats.to_bytes(result, "parquet")))
    assert frame["amount"].dtype == polars.Decimal(38, 0)
    assert frame["amount"].to_list() == [Decimal(HUGE), Decimal(-1)]
    assert "100000000000000000000000000000000000.07" in strings(sheets(result))
    assert "100,000,000,000,000,000,000,000,000,000,000,000.07" in shown(result)


def sheets(result: Result) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(formats.to_bytes(result, "xlsx"))) as book:
        return {name: book.read(name).decode() for name in book.namelist()}


def strings(parts: dict[str, str]) -> list[str]:
    found = re.findall(r"<si><t(?: [^>]*)?>(.*?)</t></si>", parts["xl/sharedStrings.xml"], re.S)
    return [t.replace("&quot;", '"').replace("&amp;", "&") for t in found]


def test_a_workbook_has_decimals_no_formulas_and_a_sheet_as_of() -> None:
    parts = sheets(made())
    sheet = parts["xl/worksheets/sheet1.xml"]
    assert "<f>" not in sheet
    texts = strings(parts)
    assert {"'=1+1", "'+x", "'-y", "'@z", "'\tq"} <= set(texts)
    cells = dict(re.findall(r'<c r="([A-Z]+\d+)"[^>]*><v>([^<]*)</v>', sheet))
    assert cells["F2"] == "12550.00" and cells["F3"] == "-7" and cells["F4"] == "1234.567" and cells["F5"] == "0.99"
    assert texts[int(cells["E5"])] == "10000000000000000", "17 digits are a text, not a rounded number"
    assert 'name="As of"' in parts["xl/workbook.xml"]
    assert {"0:1204,1:998", "1500", "998"} <= set(texts)
    assert "2000-01-01T00:00:00Z" in parts["docProps/core.xml"]
    styles = parts["xl/styles.xml"]
    assert "#,##0.00" in styles or 'numFmtId="4"' in styles
    assert "#,##0.000" in styles


@pytest.mark.parametrize("form", formats.FORMS)
def test_the_same_figures_are_the_same_bytes(form: formats.Form) -> None:
    assert formats.to_bytes(made(), form) == formats.to_bytes(made(list(ROWS)), form)
    assert formats.to_bytes(made(), form) != formats.to_bytes(made(cut=Cut({})), form) or form == "csv"


def test_more_rows_than_a_sheet_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "XLSX_ROWS_MAX", 3)
    with pytest.raises(BadInputError, match="a sheet holds 3 rows, not 7"):
        formats.to_bytes(made(), "xlsx")


def shown(result: Result) -> str:
    console = Console(file=io.StringIO(), width=240)
    for part in formats.readable(result):
        console.print(part)
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def test_a_table_is_for_people() -> None:
    text = shown(made())
    for words in ("All kinds", "12,550.00", "1,234.567", "2026-11-22 14:00:00", "150 bp", "as of 0:1204,1:998"):
        assert words in text
    totals = [line.split() for line in text.splitlines() if line.startswith("total")]
    assert ["total", "CNY", "12,550.98"] in totals


def balance_of(rows: list[tuple[Any, ...]]) -> Result:
    return Result(CATALOGUE["trial-balance"], {"by": "currency"}, CUT, rows)


def test_a_trial_balance_names_what_does_not_balance() -> None:
    even = balance_of([("CNY", "CNY", 0, 5, 5, 0, 0, 2), ("USD", "USD", 0, 1, 1, 0, 0, 2)])
    assert even.differences() == {}
    assert "debits equal credits in every currency" in shown(even)
    odd = balance_of([("CNY", "CNY", 0, 5, 5, 0, 0, 2), ("USD", "USD", 0, 150, 100, 50, 50, 2)])
    assert odd.differences() == {"USD": 50}
    document = formats.document(odd)
    assert (document["balanced"], document["differences"]) == (False, {"USD": 50})
    assert "DIFFERENCES, debits less credits: 0.50 USD" in shown(odd)
    before = balance_of([("USD", "USD", -3, 3, 0, 3, 0, 1)])
    assert before.differences() == {"USD": 3}, "a period that mends the whole is out of balance itself"


def test_a_statement_says_when_lines_are_left_out() -> None:
    line = (date(2026, 11, 22), MOMENT, "wallet", "transfer", "r", "p1")
    none = (None, None, "", "", "", "")
    rows: list[tuple[Any, ...]] = [
        ("opening", *none, 0, 0, 100, "CNY", 0, None, None, None, None),
        ("line", *line, 0, 5, 105, "CNY", 1, 0, 1, 0, 1),
        ("closing", *none, 0, 9, 109, "CNY", 2, None, None, None, None),
    ]
    result = Result(CATALOGUE["statement"], {"account": "a", "lines_max": "1"}, CUT, rows)
    assert result.summary() == {"opening": 100, "debits": 0, "credits": 9, "closing": 109, "complete": False}
    assert "only the first 1 lines are shown" in shown(result)
