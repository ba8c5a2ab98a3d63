"""The fields of what an outsider may hand in: each type says its rule in the words of whoever reads the refusal."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, NoReturn

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from clearline.cards import holds_card
from ledger.fields import METADATA_MAX, TEXT_MAX, VALUE_DATE_MAX
from ledger.money import AMOUNT_MAX, EXPONENTS
from ledger.names import LOCAL_NAME, PARTNER_ID

EPOCH = date(1970, 1, 1)
LAST_DAY = EPOCH + timedelta(days=VALUE_DATE_MAX)
KEY_MAX = 128
METADATA_KEY_MAX = 64
METADATA_VALUE_MAX = 1_024


def stop(rule: str, field: str = "") -> NoReturn:
    # The rule is handed over as context: pydantic would take braces in the template itself as placeholders.
    raise PydanticCustomError("clearline", "{rule}", {"rule": rule, "field": field})


def _whole(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        kind = {
            bool: "true or false", float: "a float", str: "a text", type(None): "null", list: "an array",
            dict: "an object",
        }.get(type(value), "something else")  # fmt: skip
        stop(f"must be a whole number of minor units, not {kind} ({shown(value)})")
    return value


def _amount(value: object) -> object:
    _whole(value)
    assert isinstance(value, int)
    if value < 1:
        stop(f"must be at least 1 minor unit, not {value}; to move money the other way, swap payer and payee")
    if value > AMOUNT_MAX:
        stop(f"must be at most {AMOUNT_MAX} minor units")
    return value


def _not_negative(value: object) -> object:
    _whole(value)
    assert isinstance(value, int)
    if not 0 <= value <= AMOUNT_MAX:
        stop(f"must be between 0 and {AMOUNT_MAX}")
    return value


def _limit(value: object) -> object:
    if value is None:
        return None
    _whole(value)
    assert isinstance(value, int)
    if abs(value) > AMOUNT_MAX:
        stop(f"must be between -{AMOUNT_MAX} and {AMOUNT_MAX} minor units, or null for no limit")
    return value


def _currency(value: str) -> str:
    if value in EXPONENTS:
        return value
    if value.upper() in EXPONENTS:
        stop(f"must be in capital letters: {value.upper()}, not {value}")
    return stop(f"{shown(value)} is not an active ISO 4217 currency code")


def _partner_id(value: str) -> str:
    if not PARTNER_ID.fullmatch(value):
        stop("must be a path of names in a-z 0-9 . _ - joined by /, such as acme or acme/shop-17")
    return value


def _account_id(value: str) -> str:
    owner, colon, local = value.partition(":")
    if not colon or not PARTNER_ID.fullmatch(owner) or not LOCAL_NAME.fullmatch(local):
        stop("must be owner partner, colon, local name, such as acme:wallet:alice")
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        stop("must not hold control characters")
    return value


def _characters(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        stop("holds half of a surrogate pair, which is no character")
    return value


def _no_card(value: str) -> str:
    if holds_card(value):
        stop("must not hold a card number: send the token of your card processor instead")
    return value


_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _date(value: object) -> date:
    if isinstance(value, date):
        return value
    if isinstance(value, str) and _ISO_DATE.fullmatch(value):
        try:
            day = date.fromisoformat(value)
        except ValueError:
            stop(f"{value} is not a day of the calendar")
        if not EPOCH <= day <= LAST_DAY:
            stop(f"must be from 1970-01-01 to {LAST_DAY}")
        return day
    return stop(f"must be a date as YYYY-MM-DD, not {shown(value)}")


_EPOCH_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def _time(value: object) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and _ISO_TIME.fullmatch(value):
        try:
            time = datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            stop(f"{value} is not a time of the calendar")
        if time <= _EPOCH_TIME:  # records say `none` with the first moment
            stop("must be after 1970-01-01T00:00:00Z")
        return time
    return stop(f"must be a time with its zone as YYYY-MM-DDTHH:MM:SSZ, not {shown(value)}")


_RATE = re.compile(r"\d{1,12}(\.\d{1,12})?", re.ASCII)


def _rate(value: object) -> object:
    if not isinstance(value, str) or not _RATE.fullmatch(value) or not value.strip("0."):
        stop(f'must be a decimal number above zero in quotes, such as "7.1234", not {shown(value)}')
    return value


# What each says in OpenAPI: as narrow as the rule, so that a document that fits is taken and another is not sent.
_AMOUNT = {"type": "integer", "format": "int64", "minimum": 1, "maximum": AMOUNT_MAX}
_LIMIT = {"type": ["integer", "null"], "format": "int64", "minimum": -AMOUNT_MAX, "maximum": AMOUNT_MAX}
_PARTNER_ID = {"type": "string", "pattern": f"^{PARTNER_ID.pattern}$", "examples": ["acme/shop-17"]}
_ACCOUNT_ID = {
    "type": "string",
    "pattern": f"^{PARTNER_ID.pattern}:{LOCAL_NAME.pattern}$",
    "examples": ["acme:wallet:alice"],
}

Amount = Annotated[int, BeforeValidator(_amount), WithJsonSchema(_AMOUNT)]
Rate = Annotated[
    str,
    BeforeValidator(_rate),
    WithJsonSchema({"type": "string", "pattern": r"^(?=.*[1-9])[0-9]{1,12}(\.[0-9]{1,12})?$"}),
]
Limit = Annotated[int | None, BeforeValidator(_limit), WithJsonSchema(_LIMIT)]
NotNegative = Annotated[int, BeforeValidator(_not_negative), WithJsonSchema({**_AMOUNT, "minimum": 0})]
Day = Annotated[date, BeforeValidator(_date)]
Time = Annotated[
    datetime,
    BeforeValidator(_time),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "pattern": "^" + _ISO_TIME.pattern.replace(r"\d", "[0-9]") + "$"}
    ),
]
Currency = Annotated[str, AfterValidator(_currency), WithJsonSchema({"type": "string", "enum": sorted(EXPONENTS)})]
PartnerId = Annotated[str, AfterValidator(_partner_id), WithJsonSchema(_PARTNER_ID)]
AccountId = Annotated[str, AfterValidator(_account_id), WithJsonSchema(_ACCOUNT_ID)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=KEY_MAX), AfterValidator(_printable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_printable)]
Role = Annotated[str, AfterValidator(_characters)]
Text = Annotated[str, StringConstraints(max_length=TEXT_MAX), AfterValidator(_no_card)]
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=METADATA_KEY_MAX), AfterValidator(_no_card)],
        Annotated[str, StringConstraints(max_length=METADATA_VALUE_MAX), AfterValidator(_no_card)],
    ],
    Field(max_length=METADATA_MAX),
]


class Input(BaseModel):
    """Strict: no field is guessed, converted or ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def shown(value: object) -> str:
    """A value as it stood in the JSON, short."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
