"""How a CSV is to be read: a mapping in YAML, checked field by field before the file is opened."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from clearline.fields import Currency, Input, shown, stop
from schemas.errors import BadInputError

BYTES_MAX = 100_000
_DIRECTIVE = re.compile(r"%(.)")
_DIRECTIVES = frozenset("YmdybBHMSf%")
# Encodings of text files only: codecs such as zip or rot13 are none, and idna takes forever.
_ENCODINGS = re.compile(
    r"utf-(8|8-sig|16|16-le|16-be|32)|ascii|cp\d{2,4}|iso8859-\d{1,2}|latin-?1|mac-\w+|koi8-\w|gb(k|2312|18030)|"
    r"big5(hkscs)?|hz|shift_jis\w*|euc_\w+|iso2022_\w+|johab|tis-620|ptcp154|kz1048"
)


def _encoding(value: object) -> object:
    if not isinstance(value, str):
        stop("must be the name of an encoding, such as utf-8 or cp1252")
    try:
        name = codecs.lookup(value).name
    except (LookupError, ValueError):
        stop(f"{shown(value)} is not an encoding that is known")
    if not _ENCODINGS.fullmatch(name):
        stop(f"{shown(value)} is not an encoding of text files")
    return "utf-8-sig" if name == "utf-8" else name


def _date_format(value: object) -> object:
    if not isinstance(value, str):
        stop("must be a date format, such as %d.%m.%Y")
    used = _DIRECTIVE.findall(value)
    wrong = [f"%{d}" for d in used if d not in _DIRECTIVES]
    if wrong or (value.count("%") % 2 and value.endswith("%")):
        stop(f"has {', '.join(wrong) or 'a % at its end'}; known are %Y %y %m %b %B %d and %H %M %S %f")
    if not {"d"} <= set(used) or not set(used) & set("mbB") or not set(used) & set("Yy"):
        stop(f"must have day, month and year, as %d.%m.%Y has; {shown(value)} has not")
    return value


def _pattern(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > 200:
        stop("must be a regular expression of at most 200 characters")
    try:
        found = re.compile(value)
    except re.error as e:
        stop(f"is no regular expression: {e}")
    if found.groups != 1:
        stop(f"must have one group, which is what is taken; it has {found.groups}")
    return value


Column = Annotated[str | int, Field(description="A column by its header, or by its number from 1.")]
Encoding = Annotated[str, BeforeValidator(_encoding)]
DateFormat = Annotated[str, BeforeValidator(_date_format)]


class TakenFrom(Input):
    """A text, taken from a column as it is or by the one group of a pattern in it."""

    column: Column
    pattern: Annotated[str | None, BeforeValidator(_pattern)] = None


class Sign(Input):
    """A column that says which way an amount without sign goes."""

    column: Column
    credit: Annotated[list[str], Field(min_length=1)]
    debit: Annotated[list[str], Field(min_length=1)]

    @model_validator(mode="after")
    def _apart(self) -> Sign:
        if set(self.credit) & set(self.debit):
            stop("the same text says credit and debit", "credit")
        return self


class CurrencyColumn(Input):
    """Where each line says its currency; all must be the account's."""

    column: Column


class Columns(Input):
    """Which column holds what. `amount` alone is signed, plus for money that came in; with `sign` it is not; else
    `debit` and `credit`, one of the two filled in each line."""

    value_date: Column
    booking_date: Column | None = None
    amount: Column | None = None
    sign: Sign | None = None
    debit: Column | None = None
    credit: Column | None = None
    reference: TakenFrom | None = None
    bank_reference: TakenFrom | None = None
    text: TakenFrom | None = None
    counterparty: TakenFrom | None = None
    balance: Column | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Columns:
        two = (self.debit is not None) + (self.credit is not None)
        if self.amount is not None and two:
            stop("give amount (with or without sign), or debit and credit, not both", "amount")
        if self.amount is None and two != 2:
            stop("is missing: give amount, or both debit and credit", "amount")
        if self.sign is not None and self.amount is None:
            stop("is only for amount", "sign")
        return self


class Mapping(Input):
    """One kind of CSV. `header`: whether the first line after `skip_lines` names the columns. `skip_footer`: lines at
    the end that are none. `newest_first`: for the check of a running balance, the last line is the first in time."""

    currency: Currency | CurrencyColumn
    encoding: Encoding = "utf-8-sig"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Field(min_length=1, max_length=1)] = '"'
    skip_lines: Annotated[int, Field(ge=0, le=1_000)] = 0
    skip_footer: Annotated[int, Field(ge=0, le=1_000)] = 0
    header: bool = True
    decimal: Annotated[str, Field(min_length=1, max_length=1)] = "."
    thousands: Annotated[str, Field(max_length=1)] = ""
    date_format: DateFormat
    newest_first: bool = False
    external_account: str = ""
    columns: Columns

    @model_validator(mode="after")
    def _told_apart(self) -> Mapping:
        for name in ("decimal", "thousands"):
            mark = getattr(self, name)
            if mark.isalnum() or mark in ("+", "-"):
                stop("must not be a digit, a letter or a sign", name)
        if self.decimal == self.thousands:
            stop("must be another mark than decimal", "thousands")
        if self.delimiter in (self.quote, "\n", "\r", "\0"):
            stop("must be another mark than quote, and none that ends a line", "delimiter")
        if not self.header:
            for name, column in self.used().items():
                if isinstance(column, str):
                    stop(f"must be a number: without header, {shown(column)} names nothing", f"columns.{name}")
        return self

    def used(self) -> dict[str, str | int]:
        """All columns that are used, by what they are for."""
        out: dict[str, str | int] = {}
        for name, value in self.columns:
            if value is not None:
                out[name] = value.column if isinstance(value, TakenFrom | Sign) else value
        if isinstance(self.currency, CurrencyColumn):
            out["currency"] = self.currency.column
        return out

    def canonical(self) -> str:
        """The mapping as one JSON text, which says what it is whatever its file looks like."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def read_mapping(path: Path) -> Mapping:
    """The mapping in a YAML file. Raises BadInputError that names every broken rule."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise BadInputError(f"{path} cannot be read: {e.strerror}") from None
    if len(data) > BYTES_MAX:
        raise BadInputError(f"{path} has {len(data):,} bytes, the most is {BYTES_MAX:,}")
    return parse_mapping(str(path), data)


def parse_mapping(name: str, data: bytes) -> Mapping:
    """The mapping in the bytes of a YAML file. Raises BadInputError that names every broken rule."""
    try:
        # Aliases are how a small file becomes a large document; no mapping needs one.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(data, Loader=yaml.SafeLoader)):
            raise BadInputError(f"{name}: aliases (*name) are not taken")
        document: Any = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as e:
        raise BadInputError(f"{name} is not YAML: {' '.join(str(e).split())[:200]}") from None
    if not isinstance(document, dict):
        raise BadInputError(f"{name}: must be a YAML mapping with currency, date_format and columns")
    try:
        return Mapping.model_validate(document)
    except ValidationError as e:
        raise BadInputError(f"{name}: " + "; ".join(_told(error) for error in e.errors()[:20])) from None


def _told(error: Any) -> str:
    context = error.get("ctx", {})
    path = [str(p) for p in error["loc"] if p not in ("str", "int", "constrained-str", "CurrencyColumn")]
    path = [p for p in path if not p.startswith("function-")]
    if context.get("field"):
        path.append(context["field"])
    rule = context["rule"] if error["type"] == "clearline" else error["msg"][:1].lower() + error["msg"][1:]
    return f"{'.'.join(path)}: {rule}" if path else str(rule)
