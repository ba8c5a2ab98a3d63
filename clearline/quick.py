"""The contract's verdict on ordinary transactions, without asking pydantic again about what it has said already.

Whoever publishes many transactions names few partners, products and accounts, and with each a new key, amount and
reference. So what the full check (`clearline.contract`) said of the former is remembered, with the bytes that it came
to; types and lengths are looked at in C. Everything that is not ordinary goes to the full check, which has the last
word. What is remembered is remembered only when the bytes put together here are those of the codec; a property test
holds verdicts and bytes equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType
from pydantic import TypeAdapter

from clearline.contract import ContractError, FieldError, read_command
from clearline.fields import EPOCH, KEY_MAX, METADATA_KEY_MAX, METADATA_VALUE_MAX, AccountId
from ledger.fields import METADATA_MAX, TEXT_MAX
from ledger.money import AMOUNT_MAX
from schemas.codec import HEADER_BYTES, Codec
from schemas.identity import BANK, partition_of, root_of, tree_of
from schemas.records import Command, Transaction
from schemas.writer import base128, zigzag
from streams.bulk import BulkMessage

_REMEMBERED_MAX = 100_000
_ACCOUNT_ID: TypeAdapter[str] = TypeAdapter(AccountId)

# Bytes are put together as text with one character per byte, which one format string does faster than anything else.
_BYTES = "latin-1"
_NUMBER = [zigzag(n).decode(_BYTES) for n in range(8_192)]
_LOW = [bytes((n & 127 | 128, n >> 7 | 128)).decode(_BYTES) for n in range(1 << 14)]
_TAIL = "\0\0\0\0\0\0\1"  # original, final, expires_at, note, amounts, rate and exponent at their defaults


class _Accounts(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    payer: str
    payee: str


class _Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An ordinary transaction: these fields and no others."""

    partner_id: str
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=KEY_MAX)]
    product: str
    operation: str
    amount: Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]
    currency: str
    accounts: _Accounts
    value_date: str | UnsetType = UNSET
    reference: Annotated[str, Meta(max_length=TEXT_MAX)] = ""
    metadata: Annotated[
        dict[
            Annotated[str, Meta(min_length=1, max_length=METADATA_KEY_MAX)],
            Annotated[str, Meta(max_length=METADATA_VALUE_MAX)],
        ],
        Meta(max_length=METADATA_MAX),
    ] = {}


class Route(NamedTuple):
    """A command's Kafka key, and the partitions that it goes to."""

    key: bytes
    partitions: tuple[int, ...]


class _Shape(NamedTuple):
    """What partner, product, operation and currency come to."""

    before: str  # of the key
    between: str  # key and amount
    after: str  # the amount, up to the payer
    key: bytes
    partition: int


class _AccountIds(dict[str, str]):
    """Account ids that keep the contract's rule, on the wire. Raises ValueError for any other."""

    def __missing__(self, account_id: str) -> str:
        out = _text(_ACCOUNT_ID.validate_python(account_id, strict=True))
        if len(self) >= _REMEMBERED_MAX:
            self.clear()
        self[account_id] = out
        return out


class _High(dict[int, str]):
    """The digits of numbers beyond the first two, on the wire."""

    def __missing__(self, n: int) -> str:
        out = base128(n).decode(_BYTES)
        if len(self) < _REMEMBERED_MAX:
            self[n] = out
        return out


class QuickCheck:
    """Checks and encodes documents as `publish` lines have them. Not thread-safe. `bytes_max`: of one command."""

    def __init__(self, codec: Codec, partitions: int, bytes_max: int) -> None:
        self._codec = codec
        self._partitions = partitions
        self._bytes_max = bytes_max
        self._shapes: dict[tuple[str, str, str, str], _Shape] = {}
        self._days: dict[str, str] = {}
        self._account_ids = _AccountIds()

    def full(self, document: object, today: date) -> tuple[bytes, Route]:
        """A document on the wire, and where it goes; `today` is the value date of whoever named none. What the full
        check says of an ordinary transaction is remembered. Raises ContractError."""
        command = read_command(document, today)
        value = self._codec.encode(command)
        if len(value) > self._bytes_max:
            rule = f"the command takes {len(value)} bytes on the wire, the most is {self._bytes_max}"
            raise ContractError([FieldError("", rule)])
        route = where(command, self._partitions)
        if type(command) is Transaction and isinstance(document, dict):
            self._learn(document, command, value, route, today)
        return value, route

    def quick(self, documents: Sequence[Any], today: date) -> dict[int, list[BulkMessage]] | None:
        """Documents as messages by partition, in their order. None unless each of them is an ordinary transaction that
        keeps the contract, of a partner, product, operation, currency and day that are known: ask `full`."""
        parts: dict[int, list[BulkMessage]] = {}
        shapes, ids, days, most, number = self._shapes, self._account_ids, self._days, self._bytes_max, _NUMBER
        on = _number((today - EPOCH).days)
        try:
            for t in msgspec.convert(documents, list[_Plain]):
                before, between, after, key, p = shapes[t.partner_id, t.product, t.operation, t.currency]
                name, amount, text, accounts = t.idempotency_key, t.amount, t.reference, t.accounts
                payer, payee = ids[accounts.payer], ids[accounts.payee]
                if not name.isprintable() or payer == payee:
                    return None
                if not name.isascii():
                    name = name.encode().decode(_BYTES)
                if not text.isascii():
                    text = text.encode().decode(_BYTES)
                day = on if t.value_date is UNSET else days[t.value_date]
                own = "\0"
                if t.metadata:
                    own = number[len(t.metadata)]
                    for label, content in t.metadata.items():
                        if not content.isascii():
                            content = content.encode().decode(_BYTES)
                        own += f"{_NAMES[label]}{number[len(content)]}{content}"
                    own += "\0"
                size = _LOW[amount << 1 & 16383] + _HIGH[amount >> 13] if amount > 8191 else number[amount]
                value = (
                    f"{before}{number[len(name)]}{name}{between}{size}{after}{payer}{_PAYEE}{payee}\0\0{day}"
                    f"{number[len(text)]}{text}{own}{_TAIL}"
                ).encode(_BYTES)
                if len(value) > most:
                    return None
                try:
                    parts[p].append({"value": value, "key": key})
                except KeyError:
                    parts[p] = [{"value": value, "key": key}]
        except (KeyError, ValueError, msgspec.ValidationError):  # what is not known, and what is wrong
            return None
        return parts

    def _learn(self, document: dict[str, Any], t: Transaction, value: bytes, route: Route, today: date) -> None:
        """Remembers the shape of a document, if its bytes are those that are put together from it."""
        if list(t.accounts) != ["payer", "payee"] or root_of(t.partner_id) == BANK:
            return  # the bank's own transactions go where their accounts are
        for remembered in (self._shapes, self._days):
            if len(remembered) >= _REMEMBERED_MAX:
                remembered.clear()
        if isinstance(document.get("value_date"), str):
            self._days[document["value_date"]] = _number(t.value_date)
        named = t.partner_id, t.product, t.operation, t.currency
        if named in self._shapes:
            return
        self._shapes[named] = _Shape(
            value[:HEADER_BYTES].decode(_BYTES) + _text(t.partner_id), _text(t.product) + _text(t.operation),
            _text(t.currency) + _number(2) + _text("payer"), route.key, route.partitions[0],
        )  # fmt: skip
        if self.quick([document], today) != {route.partitions[0]: [{"value": value, "key": route.key}]}:
            del self._shapes[named]


def where(command: Command, partitions: int) -> Route:
    """Where a command goes: to one partition, or to all with what every partition must know."""
    root = tree_of(command)
    if root == BANK and not isinstance(command, Transaction):
        return Route(root.encode(), tuple(range(partitions)))
    return Route(root.encode(), (partition_of(root, partitions),))


def _number(n: int) -> str:
    return zigzag(n).decode(_BYTES)


def _text(text: str) -> str:
    raw = text.encode()
    return (zigzag(len(raw)) + raw).decode(_BYTES)


class _Names(dict[str, str]):
    """Names of metadata on the wire."""

    def __missing__(self, name: str) -> str:
        out = _text(name)
        if len(self) < _REMEMBERED_MAX:
            self[name] = out
        return out


_HIGH, _NAMES, _PAYEE = _High(), _Names(), _text("payee")
