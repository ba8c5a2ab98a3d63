"""What an outsider may hand in, checked field by field: the only place where JSON becomes a command.

Everything that can be judged without the ledger's state is judged here, with the path of the field and the rule, so
that a typing error is answered at once and at its line. What needs state (funds, blocks, unknown accounts) is the
ledger's to reject, as an outcome.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from clearline.cards import holds_card
from clearline.contract_control import (
    AdmitPartnerInput,
    BlockAccountInput,
    CloseAccountInput,
    CloseDayInput,
    ControlInput,
    OpenAccountInput,
    OperatorActInput,
    PublishProductInput,
    SealDayInput,
    SetAccountLimitInput,
    SetCalendarInput,
    SetFreezeInput,
    SetLimitInput,
    SetPartnerStateInput,
)
from clearline.fields import (
    EPOCH,
    AccountId,
    Amount,
    Currency,
    Day,
    Input,
    Key,
    Metadata,
    Name,
    PartnerId,
    Rate,
    Role,
    Text,
    Time,
    shown,
    stop,
)
from ledger.fields import POSTINGS_MAX
from ledger.money import EXPONENTS, format_minor
from schemas import records
from schemas.errors import BadInputError
from schemas.records import Command

Model = TypeVar("Model", bound=BaseModel)
LINE_BYTES_MAX = 1_000_000  # a command of this many bytes of JSON always fits into a Kafka message
# Of a document that is wrong all over, so many fields are named, and for so many a like name is looked for: each of
# these takes longer than all the rest of a document.
ERRORS_MAX, HINTS_MAX = 20, 3


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


class PostingInput(Input):
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
    "hold": _Form(("amount",), ("accounts", "expires_at")),  # a product may have fixed accounts for its roles
    "exchange": _Form(("amount", "rate"), ("accounts",)),
    "capture": _Form(("original", "amount"), ("final",)),
    "void": _Form(("original",)),
    "refund": _Form(("original", "amount")),
    "reversal": _Form(("original",)),
    "adjustment": _Form(("postings", "note")),
}


class TransactionInput(Input):
    """Either `amount` with `accounts` (payer, payee), or 2 to 1,000 `postings` that balance in every currency, or the
    `original` that is captured, voided, refunded or reversed: see docs/operations.md."""

    command: Literal["Transaction"] = "Transaction"
    partner_id: PartnerId
    idempotency_key: Key
    product: Name
    operation: Name
    amount: Amount | None = None
    currency: Currency
    accounts: Annotated[dict[Role, AccountId], Field(max_length=POSTINGS_MAX)] = Field(default_factory=dict)
    postings: list[PostingInput] = Field(default_factory=list)
    value_date: Day | None = None
    reference: Text = ""
    metadata: Metadata = Field(default_factory=dict)
    original: Key | None = None
    final: bool = False
    expires_at: Time | None = None
    note: Text = ""
    amounts: Annotated[dict[Name, Amount], Field(max_length=POSTINGS_MAX)] = Field(default_factory=dict)
    rate: Rate | None = None
    exponent: Annotated[int, Field(ge=0, le=4)] | None = None

    @model_validator(mode="after")
    def _one_way_only(self) -> TransactionInput:
        if self.operation in _FORMS:
            self._check_form(_FORMS[self.operation])
        if self.original is not None:
            return self
        if self.postings:
            if self.amount is not None or self.accounts:
                stop("give either postings, or amount with accounts, not both", "postings")
            _check_balanced(self)
        elif self.amount is None and self.operation in _FORMS:
            stop("is missing: give an amount with accounts, or postings", "amount")
        elif self.operation in ("transfer", "hold") and _is_one(self.accounts.get("payer"), self.accounts.get("payee")):
            stop("payer and payee are one account", "accounts")
        return self

    def _check_form(self, form: _Form) -> None:
        """What an operation needs, and what it does not use."""
        for name in form.needs:
            if not getattr(self, name):
                stop(f"is missing: {self.operation} needs it", name)
        for name in ("amount", "accounts", "postings", "original", "final", "expires_at", "note", "rate"):
            if getattr(self, name) and name not in (*form.needs, *form.takes):
                stop(f"is not used by {self.operation}; leave it out", name)

    def record(self, today: date) -> records.Transaction:
        """The command; `today` is the value date of whoever named none."""
        return records.Transaction(
            self.partner_id, self.idempotency_key, self.product, self.operation, self.amount or 0, self.currency,
            dict(self.accounts),
            tuple(records.Posting(p.account_id, p.side, p.amount, p.currency or "") for p in self.postings),
            ((self.value_date or today) - EPOCH).days, self.reference, dict(self.metadata), self.original or "",
            self.final, _milliseconds(self.expires_at), self.note,
            tuple(records.NamedAmount(name, self.amounts[name]) for name in sorted(self.amounts)), self.rate or "",
            -1 if self.exponent is None else self.exponent,
        )  # fmt: skip


def _is_one(payer: str | None, payee: str | None) -> bool:
    """Which roles there are is the product's to say; but these two are never one account."""
    return payer is not None and payer == payee


def _milliseconds(time: datetime | None) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) if time is not None else 0


def _check_balanced(t: TransactionInput) -> None:
    if not 2 <= len(t.postings) <= POSTINGS_MAX:
        stop(f"must be 2 to {POSTINGS_MAX}, not {len(t.postings)}", "postings")
    sums: dict[str, list[int]] = {}
    for p in t.postings:
        sums.setdefault(p.currency or t.currency, [0, 0])[p.side == "credit"] += p.amount
    for currency, (debits, credits) in sums.items():
        if debits != credits:
            stop(
                f"do not balance in {currency}: debits {format_minor(debits, currency)}, "
                f"credits {format_minor(credits, currency)}",
                "postings",
            )


INPUTS: dict[str, type[TransactionInput] | type[ControlInput]] = {
    "Transaction": TransactionInput,
    "OpenAccount": OpenAccountInput,
    "BlockAccount": BlockAccountInput,
    "SetAccountLimit": SetAccountLimitInput,
    "CloseAccount": CloseAccountInput,
    "AdmitPartner": AdmitPartnerInput,
    "SetPartnerState": SetPartnerStateInput,
    "SetLimit": SetLimitInput,
    "SetCalendar": SetCalendarInput,
    "CloseDay": CloseDayInput,
    "SealDay": SealDayInput,
    "PublishProduct": PublishProductInput,
    "SetFreeze": SetFreezeInput,
    "OperatorAct": OperatorActInput,
}


def parse_line(line: bytes, today: date) -> Command:
    """The command in one line of JSON. `today`: value date where the line names none. Raises ContractError."""
    if len(line) > LINE_BYTES_MAX:
        raise ContractError([FieldError("", f"the line has {len(line)} bytes, the most is {LINE_BYTES_MAX}")])
    return read_command(parse_json(line), today)


def read_command(document: object, today: date, hidden: Collection[str] = ()) -> Command:
    """The command in a decoded JSON document. `hidden`: fields that its writer did not write, and is not told of.

    Raises ContractError that names every wrong field.
    """
    if not isinstance(document, dict):
        raise ContractError([FieldError("", f"must be a JSON object, not {shown(document)}")])
    name = document.get("command", "Transaction")
    model = INPUTS.get(name) if isinstance(name, str) else None
    if model is None:
        hint = _like(str(name), INPUTS) or f"known are {', '.join(INPUTS)}"
        raise ContractError([FieldError("command", f"{shown(name)} is not a command; {hint}")])
    try:
        return model.model_validate(document).record(today)
    except ValidationError as e:
        raise _refused(e, document, model, hidden) from None


def read_input(model: type[Model], document: Mapping[str, Any], hidden: Collection[str] = ()) -> Model:
    """A decoded JSON object as what a model takes, for what is no command. Raises ContractError as `read_command`."""
    try:
        return model.model_validate(document)
    except ValidationError as e:
        raise _refused(e, document, model, hidden) from None


def parse_json(line: bytes) -> object:
    """What stands in a JSON text: no name twice in an object, nothing but JSON. Raises ContractError."""
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


def _refused(
    e: ValidationError, document: Mapping[str, Any], model: type[BaseModel], hidden: Collection[str]
) -> ContractError:
    found = e.errors(include_url=False)
    told = [_explain(error, document, model, hidden, hint=i < HINTS_MAX) for i, error in enumerate(found[:ERRORS_MAX])]
    if len(found) > ERRORS_MAX:
        told.append(FieldError("", f"{len(found) - ERRORS_MAX} more are wrong; correct these first"))
    return ContractError(told)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ContractError([FieldError(_plain(name), "is given twice in one object")])
            seen.add(name)
    return out


def _constant(name: str) -> NoReturn:
    raise ContractError([FieldError("", f"is not JSON: {name} is not a number")])


def _explain(
    error: ErrorDetails, document: Mapping[str, Any], model: type[BaseModel], hidden: Collection[str], *, hint: bool
) -> FieldError:
    """pydantic's finding in our words. `hint`: whether a like name is looked for."""
    location = error["loc"]
    field = _path(location)
    kind = error["type"]
    context = error.get("ctx", {})
    match kind:
        case "missing":
            rule = "is missing"
        case "extra_forbidden":
            fields = PostingInput.model_fields if location[0] == "postings" else model.model_fields
            known = [name for name in fields if name not in hidden]
            like = _like(str(location[-1])[:64], known) if hint else ""
            rule = like or f"known are {', '.join(known)}"
            rule = f"is not a field of {'a posting' if location[0] == 'postings' else model.__name__[:-5]}; {rule}"
        case "clearline":
            rule = str(error["msg"])
            field = field or context["field"]
            if type(error["input"]) is float:
                rule += _in_minor_units(error["input"], document)
        case "string_type":
            rule = f"must be a text, not {shown(error['input'])}"
        case "string_too_short":
            rule = "must not be empty"
        case "string_too_long":
            rule = f"must have at most {context['max_length']} characters, not {len(error['input'])}"
        case "string_unicode":
            rule = "holds half of a surrogate pair, which is no character"
        case "literal_error":
            rule = f"must be {context['expected']}, not {shown(error['input'])}"
        case "bool_type":
            rule = f"must be true or false, not {shown(error['input'])}"
        case "too_long":
            rule = f"must have at most {context['max_length']} entries"
        case "dict_type" | "model_type":
            rule = f"must be a JSON object, not {shown(error['input'])}"
        case "list_type":
            rule = f"must be a JSON array, not {shown(error['input'])}"
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
            name = _plain(part)
            out += f".{name}" if out else name
    return out


def _plain(name: str) -> str:
    """A name that a caller chose, as it can be told."""
    name = name if name and name.isprintable() and len(name) <= 64 else shown(name)
    return "[a card number]" if holds_card(name) else name


def _like(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""
