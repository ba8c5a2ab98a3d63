"""What an outsider may hand in, checked field by field: the only place where JSON becomes a command.

Everything that can be judged without the ledger's state is judged here, with the path of the field and the rule, so
that a typing error is answered at once and at its line. What needs state (funds, blocks, unknown accounts) is the
ledger's to reject, as an outcome.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from ledger.control import LOCAL_NAME, PARTNER_ID
from ledger.money import AMOUNT_MAX, EXPONENTS, format_minor
from ledger.operations import METADATA_MAX, POSTINGS_MAX, TEXT_MAX, VALUE_DATE_MAX
from schemas import records
from schemas.errors import BadInputError
from schemas.records import Command

EPOCH = date(1970, 1, 1)
LAST_DAY = EPOCH + timedelta(days=VALUE_DATE_MAX)
LINE_BYTES_MAX = 1_000_000  # a command of this many bytes of JSON always fits into a Kafka message
KEY_MAX = 128
METADATA_KEY_MAX = 64
METADATA_VALUE_MAX = 1_024


class FieldError(NamedTuple):
    """One broken rule. `field` is a path such as `postings[1].amount`; empty when it is about the whole line."""

    field: str
    rule: str

    def __str__(self) -> str:
        return f"{self.field}: {self.rule}" if self.field else self.rule


class ContractError(BadInputError):
    """The document is not a command; `errors` names every field that is wrong."""

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(map(str, self.errors)))


def _stop(rule: str, field: str = "") -> NoReturn:
    # The rule is handed over as context: pydantic would take braces in the template itself as placeholders.
    raise PydanticCustomError("clearline", "{rule}", {"rule": rule, "field": field})


def _whole(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        kind = {bool: "true or false", float: "a float", str: "a text", type(None): "null"}.get(
            type(value), "not a number"
        )
        _stop(f"must be a whole number of minor units, not {kind} ({_shown(value)})")
    return value


def _amount(value: object) -> object:
    _whole(value)
    assert isinstance(value, int)
    if value < 1:
        _stop(f"must be at least 1 minor unit, not {value}; to move money the other way, swap payer and payee")
    if value > AMOUNT_MAX:
        _stop(f"must be at most {AMOUNT_MAX} minor units")
    return value


def _limit(value: object) -> object:
    if value is None:
        return None
    _whole(value)
    assert isinstance(value, int)
    if abs(value) > AMOUNT_MAX:
        _stop(f"must be between -{AMOUNT_MAX} and {AMOUNT_MAX} minor units, or null for no limit")
    return value


def _currency(value: str) -> str:
    if value in EXPONENTS:
        return value
    if value.upper() in EXPONENTS:
        _stop(f"must be in capital letters: {value.upper()}, not {value}")
    return _stop(f"{_shown(value)} is not an active ISO 4217 currency code")


def _partner_id(value: str) -> str:
    if not PARTNER_ID.fullmatch(value):
        _stop("must be a path of names in a-z 0-9 . _ - joined by /, such as acme or acme/shop-17")
    return value


def _account_id(value: str) -> str:
    owner, colon, local = value.partition(":")
    if not colon or not PARTNER_ID.fullmatch(owner) or not LOCAL_NAME.fullmatch(local):
        _stop("must be owner partner, colon, local name, such as acme:wallet:alice")
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        _stop("must not hold control characters")
    return value


_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _date(value: object) -> date:
    if isinstance(value, date):
        return value
    if isinstance(value, str) and _ISO_DATE.fullmatch(value):
        try:
            day = date.fromisoformat(value)
        except ValueError:
            _stop(f"{value} is not a day of the calendar")
        if not EPOCH <= day <= LAST_DAY:
            _stop(f"must be from 1970-01-01 to {LAST_DAY}")
        return day
    return _stop(f"must be a date as YYYY-MM-DD, not {_shown(value)}")


_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def _time(value: object) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and _ISO_TIME.fullmatch(value):
        try:
            time = datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            _stop(f"{value} is not a time of the calendar")
        if time.date() < EPOCH:
            _stop("must not be before 1970-01-01")
        return time
    return _stop(f"must be a time with its zone as YYYY-MM-DDTHH:MM:SSZ, not {_shown(value)}")


Amount = Annotated[int, BeforeValidator(_amount)]
Limit = Annotated[int | None, BeforeValidator(_limit)]
Currency = Annotated[str, AfterValidator(_currency)]
PartnerId = Annotated[str, AfterValidator(_partner_id)]
AccountId = Annotated[str, AfterValidator(_account_id)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=KEY_MAX), AfterValidator(_printable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_printable)]
Text = Annotated[str, StringConstraints(max_length=TEXT_MAX)]
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=METADATA_KEY_MAX)],
        Annotated[str, StringConstraints(max_length=METADATA_VALUE_MAX)],
    ],
    Field(max_length=METADATA_MAX),
]


class _Input(BaseModel):
    """Strict: no field is guessed, converted or ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PostingInput(_Input):
    """One leg. `amount`: minor units; `currency`: the transaction's when it is left out."""

    account_id: AccountId
    side: Literal["debit", "credit"]
    amount: Amount
    currency: Currency | None = None


class _Form(NamedTuple):
    """Fields that an operation needs, and others that it may be given."""

    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()


_FORMS = {
    "transfer": _Form((), ("amount", "accounts", "postings")),
    "hold": _Form(("amount", "accounts"), ("expires_at",)),
    "capture": _Form(("original", "amount"), ("final",)),
    "void": _Form(("original",)),
    "refund": _Form(("original", "amount")),
    "reversal": _Form(("original",)),
    "adjustment": _Form(("postings", "note")),
}


class TransactionInput(_Input):
    """Either `amount` with `accounts` (payer, payee), or 2 to 1,000 `postings` that balance in every currency, or the
    `original` that is captured, voided, refunded or reversed: see docs/operations.md."""

    command: Literal["Transaction"] = "Transaction"
    partner_id: PartnerId
    idempotency_key: Key
    product: Name
    operation: Name
    amount: Amount | None = None
    currency: Currency
    accounts: Annotated[dict[str, AccountId], Field(max_length=16)] = {}
    postings: list[PostingInput] = []
    value_date: Annotated[date, BeforeValidator(_date)] | None = None
    reference: Text = ""
    metadata: Metadata = {}
    original: Key | None = None
    final: bool = False
    expires_at: Annotated[datetime, BeforeValidator(_time)] | None = None
    note: Text = ""

    @model_validator(mode="after")
    def _one_way_only(self) -> TransactionInput:
        if self.operation in _FORMS:
            self._check_form(_FORMS[self.operation])
        if self.original is not None:
            return self
        if self.postings:
            if self.amount is not None or self.accounts:
                _stop("give either postings, or amount with accounts, not both", "postings")
            _check_balanced(self)
        elif self.amount is None:
            _stop("is missing: give an amount with accounts, or postings", "amount")
        elif self.operation in ("transfer", "hold") and set(self.accounts) != {"payer", "payee"}:
            _stop("must name exactly payer and payee", "accounts")
        elif self.operation in ("transfer", "hold") and self.accounts["payer"] == self.accounts["payee"]:
            _stop("payer and payee are one account", "accounts")
        return self

    def _check_form(self, form: _Form) -> None:
        """What an operation needs, and what it does not use."""
        for name in form.needs:
            if not getattr(self, name):
                _stop(f"is missing: {self.operation} needs it", name)
        for name in ("amount", "accounts", "postings", "original", "final", "expires_at", "note"):
            if getattr(self, name) and name not in (*form.needs, *form.takes):
                _stop(f"is not used by {self.operation}; leave it out", name)

    def record(self, today: date) -> records.Transaction:
        """The command; `today` is the value date of whoever named none."""
        return records.Transaction(
            self.partner_id, self.idempotency_key, self.product, self.operation, self.amount or 0, self.currency,
            dict(self.accounts),
            tuple(records.Posting(p.account_id, p.side, p.amount, p.currency or "") for p in self.postings),
            ((self.value_date or today) - EPOCH).days, self.reference, dict(self.metadata), self.original or "",
            self.final, _milliseconds(self.expires_at), self.note,
        )  # fmt: skip


def _milliseconds(time: datetime | None) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) if time is not None else 0


def _check_balanced(t: TransactionInput) -> None:
    if not 2 <= len(t.postings) <= POSTINGS_MAX:
        _stop(f"must be 2 to {POSTINGS_MAX}, not {len(t.postings)}", "postings")
    sums: dict[str, list[int]] = {}
    for p in t.postings:
        sums.setdefault(p.currency or t.currency, [0, 0])[p.side == "credit"] += p.amount
    for currency, (debits, credits) in sums.items():
        if debits != credits:
            _stop(
                f"do not balance in {currency}: debits {format_minor(debits, currency)}, "
                f"credits {format_minor(credits, currency)}",
                "postings",
            )


class _ControlInput(_Input):
    partner_id: PartnerId = "bank"
    idempotency_key: Key
    requested_by: Text = ""
    note: Text = ""

    def record(self, today: date) -> Command:
        """The command; control commands have no value date, so `today` is not used."""
        values = self.model_dump()
        kind: type[Command] = getattr(records, values.pop("command"))
        return kind(**values)


class OpenAccountInput(_ControlInput):
    """`min_available`: minor units; null for no limit, 0 forbids overdraft."""

    command: Literal["OpenAccount"]
    account_id: AccountId
    type: Literal["asset", "liability", "equity", "income", "expense"]
    currency: Currency
    min_available: Limit = None


class BlockAccountInput(_ControlInput):
    command: Literal["BlockAccount"]
    account_id: AccountId
    block_debits: bool
    block_credits: bool


class SetAccountLimitInput(_ControlInput):
    """`min_available` must be given, null for no limit: a limit is never lifted by leaving a field out."""

    command: Literal["SetAccountLimit"]
    account_id: AccountId
    min_available: Limit


class CloseAccountInput(_ControlInput):
    command: Literal["CloseAccount"]
    account_id: AccountId


class AdmitPartnerInput(_ControlInput):
    command: Literal["AdmitPartner"]
    subject_id: PartnerId
    name: Text = ""


class SetPartnerStateInput(_ControlInput):
    command: Literal["SetPartnerState"]
    subject_id: PartnerId
    state: Literal["live", "suspended"]


INPUTS: dict[str, type[TransactionInput] | type[_ControlInput]] = {
    "Transaction": TransactionInput,
    "OpenAccount": OpenAccountInput,
    "BlockAccount": BlockAccountInput,
    "SetAccountLimit": SetAccountLimitInput,
    "CloseAccount": CloseAccountInput,
    "AdmitPartner": AdmitPartnerInput,
    "SetPartnerState": SetPartnerStateInput,
}


def parse_line(line: bytes, today: date) -> Command:
    """The command in one line of JSON. `today`: value date where the line names none. Raises ContractError."""
    if len(line) > LINE_BYTES_MAX:
        raise ContractError([FieldError("", f"the line has {len(line)} bytes, the most is {LINE_BYTES_MAX}")])
    return read_command(_parse_json(line), today)


def read_command(document: object, today: date) -> Command:
    """The command in a decoded JSON document. Raises ContractError that names every wrong field."""
    if not isinstance(document, dict):
        raise ContractError([FieldError("", f"must be a JSON object, not {_shown(document)}")])
    name = document.get("command", "Transaction")
    model = INPUTS.get(name) if isinstance(name, str) else None
    if model is None:
        hint = _like(str(name), INPUTS) or f"known are {', '.join(INPUTS)}"
        raise ContractError([FieldError("command", f"{_shown(name)} is not a command; {hint}")])
    try:
        return model.model_validate(document).record(today)
    except ValidationError as e:
        found = e.errors(include_url=False)
        raise ContractError(_explain(error, document, model) for error in found) from None


def _parse_json(line: bytes) -> object:
    try:
        text = line.decode()
    except UnicodeDecodeError as e:
        raise ContractError([FieldError("", f"is not UTF-8 at byte {e.start + 1}")]) from None
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as e:
        raise ContractError([FieldError("", f"is not JSON: {e.msg} at character {e.pos + 1}")]) from None
    except RecursionError:
        raise ContractError([FieldError("", "is not JSON that we take: nested too deeply")]) from None
    except ValueError as e:  # Python refuses to read a number of thousands of digits
        raise ContractError([FieldError("", f"is not JSON that we take: {str(e).split(';')[0]}")]) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(n for n in names if names.count(n) > 1)
        raise ContractError([FieldError(twice, "is given twice in one object")])
    return out


def _constant(name: str) -> NoReturn:
    raise ContractError([FieldError("", f"is not JSON: {name} is not a number")])


def _explain(error: ErrorDetails, document: Mapping[str, Any], model: type[BaseModel]) -> FieldError:
    """pydantic's finding in our words."""
    location = error["loc"]
    field = _path(location)
    kind = error["type"]
    context = error.get("ctx", {})
    match kind:
        case "missing":
            rule = "is missing"
        case "extra_forbidden":
            known = PostingInput.model_fields if location[0] == "postings" else model.model_fields
            rule = _like(str(location[-1]), known) or f"known are {', '.join(known)}"
            rule = f"is not a field of {'a posting' if location[0] == 'postings' else model.__name__[:-5]}; {rule}"
        case "clearline":
            rule = str(error["msg"])
            field = field or context["field"]
            if type(error["input"]) is float:
                rule += _in_minor_units(error["input"], document)
        case "string_type":
            rule = f"must be a text, not {_shown(error['input'])}"
        case "string_too_short":
            rule = "must not be empty"
        case "string_too_long":
            rule = f"must have at most {context['max_length']} characters, not {len(error['input'])}"
        case "string_unicode":
            rule = "holds half of a surrogate pair, which is no character"
        case "literal_error":
            rule = f"must be {context['expected']}, not {_shown(error['input'])}"
        case "bool_type":
            rule = f"must be true or false, not {_shown(error['input'])}"
        case "too_long":
            rule = f"must have at most {context['max_length']} entries"
        case "dict_type" | "model_type":
            rule = f"must be a JSON object, not {_shown(error['input'])}"
        case "list_type":
            rule = f"must be a JSON array, not {_shown(error['input'])}"
        case _:
            rule = str(error["msg"])
    return FieldError(field, rule)


def _in_minor_units(value: float, document: Mapping[str, Any]) -> str:
    """Most floats are major units: say what the caller probably meant."""
    currency = document.get("currency")
    exponent = EXPONENTS.get(currency) if isinstance(currency, str) else None
    if exponent is None or value != value or abs(value) > 1e12:
        return ""
    minor = round(value * 10**exponent)
    return (
        f"; {currency} has {exponent} decimals, so {format_minor(minor, str(currency))} {currency} is written {minor}"
    )


def _path(location: tuple[int | str, ...]) -> str:
    out = ""
    for part in location:
        if isinstance(part, int):
            out += f"[{part}]"
        elif part != "[key]":
            name = part if part and part.isprintable() and len(part) <= 64 else _shown(part)
            out += f".{name}" if out else name
    return out


def _shown(value: object) -> str:
    """A value as it stood in the JSON, short."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _like(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""
