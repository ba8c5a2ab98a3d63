"""CSV by its mapping: exact, whole or refused with line, field and rule; mappings checked before the file is opened."""

from __future__ import annotations

import random
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clearline.recon.csv_file import amount_pattern, read_csv
from clearline.recon.mapping import parse_mapping, read_mapping
from clearline.recon.statement import RefusedStatementError, Statement, day_number, minor, xml_minor
from ledger.money import AMOUNT_MAX, EXPONENTS
from schemas.errors import BadInputError

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
PLAIN = {
    "currency": "EUR", "date_format": "%d.%m.%Y", "decimal": ",", "thousands": ".", "delimiter": ";",
    "columns": {"value_date": "day", "amount": "amount", "reference": {"column": "ref"}},
}  # fmt: skip
HEADER = "day;amount;ref\n"


def read(text: str | bytes, **changed: object) -> Statement:
    mapping = parse_mapping("m.yaml", yaml.safe_dump({**PLAIN, **changed}).encode())
    return read_csv("s.csv", text.encode() if isinstance(text, str) else text, mapping)


def refusal(text: str | bytes, **changed: object) -> str:
    with pytest.raises(RefusedStatementError) as e:
        read(text, **changed)
    return str(e.value)


def mapping_refusal(**changed: object) -> str:
    with pytest.raises(BadInputError) as e:
        parse_mapping("m.yaml", yaml.safe_dump({**PLAIN, **changed}).encode())
    return str(e.value)


def test_the_example_is_read_as_its_mapping_says():
    mapping = read_mapping(EXAMPLES / "recon-mapping.yaml")
    s = read_csv("s.csv", (EXAMPLES / "recon-statement.csv").read_bytes(), mapping)
    assert (s.currency, s.external_account, s.opening, s.closing) == ("CNY", "CLEARING-0001", 98_550, 23_550)
    assert s.lines.amount == [125_000, -200_000]
    assert s.lines.reference == ["order 1007", "payout 18"]
    assert s.lines.value_day == [day_number(date(2026, 11, 23)), day_number(date(2026, 11, 24))]
    assert s.lines.booking_day == [day_number(date(2026, 11, 23))] * 2
    assert s.lines.counterparty[0] == "Bärbel Beispiel"
    assert s.lines.number == [4, 5]


@pytest.mark.parametrize(
    ("cell", "minor_units"),
    [
        ("0,01", 1), ("-0,01", -1), ("+1", 100), ("1.234,5", 123_450), ("1234,50", 123_450), (" 12,30 ", 1_230),
        ("1.234.567,89", 123_456_789), ("92.233.720.368.547.758,07", AMOUNT_MAX), ("0", 0), ("007,00", 700),
        ("-92233720368547758,07", -AMOUNT_MAX),
    ],
)  # fmt: skip
def test_amounts_are_exact(cell, minor_units):
    assert read(f"{HEADER}22.11.2026;{cell};x\n").lines.amount == [minor_units]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("12,345", "line 3: amount: has 3 decimals ('12.345'), EUR has 2"),
        ("12,340", "has 3 decimals"),  # in a CSV it may be a wrong separator
        ("1.23,4", "must be a number in the form 1.00000,00"), ("12.34", "must be a number"), ("1,2,3", "must be a number"),
        ("", "must be a number"), ("1e5", "must be a number"), ("NaN", "must be a number"), ("1_000", "must be a number"),
        ("１２", "must be a number"), ("--1", "must be a number"), ("=1+1", "must be a number"), ("1 000", "must be a number"),
        ("92233720368547758,08", "must be at most 9223372036854775807 minor units"), ("9" * 200, "must be a number"),
    ],
)  # fmt: skip
def test_other_amounts_are_refused_with_line_field_and_rule(cell, words):
    words = words.replace("1.00000", "1.000")
    assert words in refusal(f"{HEADER}22.11.2026;1,00;x\n22.11.2026;{cell};x\n22.11.2026;1,00;x\n")


def test_a_currency_without_decimals_takes_none_and_one_with_three_takes_three():
    assert read(f"{HEADER}22.11.2026;1.250;x\n", currency="JPY").lines.amount == [1_250]
    assert "JPY has none" in refusal(f"{HEADER}22.11.2026;1.250,0;x\n", currency="JPY")
    assert read(f"{HEADER}22.11.2026;1,255;x\n", currency="KWD").lines.amount == [1_255]


@pytest.mark.parametrize(
    "cell", ["31.02.2026", "2026-11-22", "22.11.26", "", "22.11.2026 ", "22.11.1969", "22.11.2301"]
)
def test_dates_have_the_format_that_the_mapping_says(cell):
    text = f"{HEADER}{cell};1,00;x\n"
    if cell.strip() == "22.11.2026":
        assert read(text).lines.value_day == [day_number(date(2026, 11, 22))]
    else:
        assert "line 2: value_date: must be a day" in refusal(text)


def test_debit_and_credit_columns():
    columns = {"value_date": "day", "debit": "out", "credit": "in"}
    text = "day;out;in\n22.11.2026;1,00;\n22.11.2026;;2,50\n"
    assert read(text, columns=columns).lines.amount == [-100, 250]
    assert "line 2: debit, credit: must be one of the two, not both" in refusal(
        "day;out;in\n22.11.2026;1,00;2,00\n", columns=columns
    )
    assert "not none" in refusal("day;out;in\n22.11.2026;;\n", columns=columns)
    assert "debit: must not be negative" in refusal("day;out;in\n22.11.2026;-1,00;\n", columns=columns)


def test_a_column_with_the_sign():
    columns = {"value_date": "day", "amount": "amount", "sign": {"column": "way", "credit": ["H", "C"], "debit": ["S"]}}
    text = "day;amount;way\n22.11.2026;1,00;S\n22.11.2026;2,00;H\n22.11.2026;2,00; C \n"
    assert read(text, columns=columns).lines.amount == [-100, 200, 200]
    assert "sign: must be one of H, C, S, not 'X'" in refusal("day;amount;way\n22.11.2026;1,00;X\n", columns=columns)
    assert "amount: must not be negative" in refusal("day;amount;way\n22.11.2026;-1,00;S\n", columns=columns)


def test_columns_by_number_without_a_header():
    columns = {"value_date": 1, "amount": 3}
    assert read("22.11.2026;x;1,00\n", header=False, columns=columns).lines.amount == [100]
    assert "amount: is column 3, there are 2" in refusal("22.11.2026;1,00\n", header=False, columns=columns)


def test_a_currency_column_must_say_one_currency():
    where = {"column": "cur"}
    text = "day;amount;ref;cur\n22.11.2026;1,00;x;EUR\n"
    assert read(text, currency=where).currency == "EUR"
    assert "line 3: currency: is 'USD', the lines before are in EUR" in refusal(
        text + "22.11.2026;1,00;x;USD\n", currency=where
    )
    assert "'euro' is not an active ISO 4217" in refusal(text.replace("EUR", "euro"), currency=where)


def test_a_running_balance_is_checked_line_by_line():
    columns = {"value_date": "day", "amount": "amount", "balance": "balance"}
    rows = ["22.11.2026;1,00;11,00", "22.11.2026;-5,00;6,00", "23.11.2026;0,50;6,50"]
    s = read("\n".join(["day;amount;balance", *rows]), columns=columns)
    assert (s.opening, s.closing) == (1_000, 650)
    s = read("\n".join(["day;amount;balance", *reversed(rows)]), columns=columns, newest_first=True)
    assert (s.opening, s.closing) == (1_000, 650)
    rows[1] = "22.11.2026;-5,00;6,01"
    said = refusal("\n".join(["day;amount;balance", *rows]), columns=columns)
    assert "line 3: balance: says 6.01 EUR, the one before and this line make 6.00 EUR: it is off by 0.01 EUR" in said


def test_lines_before_and_after_are_left_out_and_empty_ones_too():
    s = read(
        f"Bank\nof somewhere;x\n{HEADER}22.11.2026;1,00;x\n\n22.11.2026;2,00;y\nsum;3,00;\n",
        skip_lines=2,
        skip_footer=1,
    )
    assert (s.lines.amount, s.lines.number) == ([100, 200], [4, 6])


@pytest.mark.parametrize(
    ("bytes_", "words"),
    [
        (f"{HEADER}22.11.2026;1,00;\xff\n".encode("latin-1"), "line 2: byte 32 of the file is not utf-8"),
        (HEADER.encode("utf-16"), "is not utf-8"),
        (b"day;amount;ref\n22.11.2026;1,00\n", "line 2: has 2 columns, the first line has 3"),
        (b"day;amount;ref\n22.11.2026;1,00;a;b\n", "line 2: has 4 columns"),
        (b'day;amount;ref\n22.11.2026;1,00;"a\n', "is not CSV as the mapping says"),
        (b"day;amount;ref\n22.11.2026;1,00;" + b"x" * 100_001 + b"\n", "is not CSV as the mapping says: field larger"),
        (b"day;sum;ref\n", "amount: there is no column 'amount'; there are day, sum, ref"),
        (b"day;amount;amount;ref\n", "there are 2 column 'amount'"),
        (b"day;amount;ref\n", "has no line"),
        (b"\n\n", "has no line"),
    ],
)
def test_files_that_are_not_what_the_mapping_says(bytes_, words):
    assert words in refusal(bytes_)


def test_encodings():
    text = f"{HEADER}22.11.2026;1,00;Überweisung\n"
    for name in ("utf-8", "cp1252", "utf-16", "iso-8859-1"):
        assert read(text.encode(name), encoding=name).lines.reference == ["Überweisung"]
    assert read(b"\xef\xbb\xbf" + text.encode()).lines.reference == ["Überweisung"]
    chinese = f"{HEADER}22.11.2026;1,00;备付金\n"
    assert read(chinese.encode("gb18030"), encoding="gb18030").lines.reference == ["备付金"]


def test_texts_are_kept_as_texts():
    s = read(f'{HEADER}22.11.2026;1,00;"=HYPERLINK(""x"";""a;b"")\n second"\n')
    assert s.lines.reference == ['=HYPERLINK("x";"a;b") second']


def test_every_bad_line_is_counted_and_twenty_are_named():
    said = refusal(HEADER + "22.11.2026;1,001;x\n" * 25)
    assert said.count("decimals") == 20
    assert said.endswith("; and 5 more")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"currency": "EURO"}, "currency"),
        ({"encoding": "rot13"}, 'encoding: "rot13" is not an encoding of text files'),
        ({"encoding": "zip"}, 'encoding: "zip" is not an encoding of text files'),
        ({"encoding": "nope"}, 'encoding: "nope" is not an encoding that is known'),
        ({"date_format": "%d.%m"}, "date_format: must have day, month and year"),
        ({"date_format": "%x"}, "date_format: has %x"),
        ({"decimal": "."}, "thousands: must be another mark than decimal"),
        ({"decimal": "5"}, "decimal: must not be a digit"),
        ({"delimiter": '"'}, "delimiter: must be another mark than quote"),
        ({"columns": {"value_date": "a"}}, "columns.amount: is missing"),
        ({"columns": {"value_date": "a", "amount": "b", "debit": "c", "credit": "d"}}, "columns.amount: give amount"),
        ({"columns": {"value_date": "a", "debit": "c"}}, "columns.amount: is missing: give amount, or both"),
        (
            {"columns": {"value_date": "a", "amount": "b", "reference": {"column": "c", "pattern": "("}}},
            "is no regular",
        ),
        ({"columns": {"value_date": "a", "amount": "b", "reference": {"column": "c", "pattern": "x"}}}, "one group"),
        ({"header": False}, 'columns.value_date: must be a number: without header, "day" names nothing'),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_mapping_is_named_by_its_field(changed, words):
    said = mapping_refusal(**changed)
    assert said.startswith("m.yaml: ")
    assert words in said


@pytest.mark.parametrize(
    "text",
    [
        b"a: &a [x]\nb: [*a, *a]",
        b"!!python/object/apply:os.system ['true']",
        b"[1, 2]",
        b"a: [",
        b"\xff\xfe\x00",
        b"x" * 100_001,
    ],
)
def test_a_hostile_mapping_is_refused(text, tmp_path):
    (tmp_path / "m.yaml").write_bytes(text)
    with pytest.raises(BadInputError):
        read_mapping(tmp_path / "m.yaml")


def test_a_mapping_is_named_by_what_it_says_not_by_its_form():
    one = yaml.safe_dump(PLAIN).encode()
    other = b"# the same\n" + yaml.safe_dump(dict(reversed(PLAIN.items())), default_flow_style=True).encode()
    assert parse_mapping("m", one).canonical() == parse_mapping("m", other).canonical()
    assert parse_mapping("m", one.replace(b"EUR", b"USD")).canonical() != parse_mapping("m", one).canonical()


@given(st.integers(-AMOUNT_MAX, AMOUNT_MAX), st.sampled_from(sorted(EXPONENTS)), st.booleans())
def test_any_amount_goes_out_as_text_and_comes_back_exactly(amount, currency, grouped):
    exponent = EXPONENTS[currency]
    text = format(Decimal(amount).scaleb(-exponent), "f") if amount else "0"
    whole, _, fraction = text.lstrip("-").partition(".")
    sign = "-" if amount < 0 else ""
    assert xml_minor(text, currency) == amount
    if grouped:
        whole = f"{int(whole):,}".replace(",", "'")
    found = amount_pattern(",", "'").fullmatch(sign + whole + ("," + fraction if fraction else ""))
    assert found is not None
    assert minor(found[2].replace("'", ""), found[3] or "", currency, negative=found[1] == "-") == amount


def test_a_statement_of_many_lines_adds_up_as_python_does():
    rnd = random.Random(3)
    amounts = [rnd.randrange(-(10**9), 10**9) for _ in range(2_000)]
    rows = "".join(
        f"22.11.2026;{Decimal(a).scaleb(-2):f};x\n".replace(".", ",").replace("22,11,", "22.11.") for a in amounts
    )
    s = read(HEADER + rows)
    assert s.lines.amount == amounts
    assert s.credits - s.debits == sum(amounts)
