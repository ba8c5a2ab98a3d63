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
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from pydantic import TypeAdapter

from clearline.contract import ContractError, FieldError, read_command
from clearline.fields import EPOCH, KEY_MAX, METADATA_KEY_MAX, METADATA_VALUE_MAX, AccountId
from ledger.fields import METADATA_MAX, TEXT_MAX
from ledger.money import AMOUNT_MAX
from schemas.codec import HEADER_BYTES, Codec
from schemas.identity import BANK, root_of, route_of
from schemas.records import Transaction
from schemas.writer import base128, zigzag
from streams.bulk import BulkMessage

_REMEMBERED_MAX = 100_000
_ACCOUNT_ID: TypeAdapter[str] = TypeAdapter(AccountId)

# Bytes are put together as text with one character per byte, which one format string does faster than anything else.
_BYTES = "latin-1"
_NUMBER = [zigzag(n).decode(_BYTES) for n in range(8_192)]
_LOW = [bytes((2 * n & 127 | 128, 2 * n >> 7 | 128)).decode(_BYTES) for n in range(8_192)]  # more digits follow
# The end of the metadata, and original, final, expires_at, note, amounts, rate and exponent at their defaults.
_NO_METADATA = "\0" + "\0\0\0\0\0\0\1"


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


_PLAINS = list[_Plain]


class _Kind:
    """What product, operation and currency come to, and the partners that were seen with them."""

    __slots__ = ("after", "between", "partners")

    def __init__(self, product: str, operation: str, currency: str) -> None:
        self.between = _text(product) + _text(operation)  # between key and amount
        self.after = _text(currency) + _number(2) + _text("payer")  # between the amount and the payer
        # The bytes before the key, the Kafka key, the partition. Python takes only a bare tuple apart at once.
        self.partners: dict[str, tuple[str, bytes, int]] = {}


class _AccountIds(dict[str, str]):
    """Account ids that keep the contract's rule, on the wire with what follows. Raises ValueError for any other."""

    def __init__(self, after: str) -> None:
        super().__init__()
        self._after = after

    def __missing__(self, account_id: str) -> str:
        out = _text(_ACCOUNT_ID.validate_python(account_id, strict=True)) + self._after
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
        self._kinds: dict[tuple[str, str, str], _Kind] = {}
        self._known = 0  # partners of all kinds
        self._days: dict[str, str] = {}
        self._payers = _AccountIds(_text("payee"))
        self._payees = _AccountIds("\0\0")  # the end of the accounts, and no postings

    def full(self, document: object, today: date) -> tuple[bytes, tuple[bytes, Sequence[int]]]:
        """A document on the wire, and where it goes; `today` is the value date of whoever named none. What the full
        check says of an ordinary transaction is remembered. Raises ContractError."""
        command = read_command(document, today)
        value = self._codec.encode(command)
        if len(value) > self._bytes_max:
            rule = f"the command takes {len(value)} bytes on the wire, the most is {self._bytes_max}"
            raise ContractError([FieldError("", rule)])
        route = route_of(command, self._partitions)
        if type(command) is Transaction and isinstance(document, dict):
            self._learn(document, command, value, route, today)
        return value, route

    def quick(self, documents: Sequence[Any], today: date) -> dict[int, list[BulkMessage]] | None:
        """Documents as messages by partition, in their order. None unless each of them is an ordinary transaction that
        keeps the contract, of a partner, product, operation, currency and day that are known: ask `full`."""
        parts: dict[int, list[BulkMessage]] = {}
        most, number, names = self._bytes_max, _NUMBER, _NAMES
        payers, payees, low, high = self._payers, self._payees, _LOW, _HIGH
        on = _number((today - EPOCH).days)
        product = operation = currency = value_date = None
        between = after = day = ""
        partners: dict[str, tuple[str, bytes, int]] = {}
        try:
            for t in msgspec.convert(documents, _PLAINS):
                # Neighbours are mostly of one kind and day, and to compare is cheaper: a new text has no hash yet.
                if t.operation != operation or t.product != product or t.currency != currency:
                    product, operation, currency = t.product, t.operation, t.currency
                    kind = self._kinds[product, operation, currency]
                    between, after, partners = kind.between, kind.after, kind.partners
                if t.value_date != value_date:
                    value_date = t.value_date
                    day = on if value_date is UNSET else self._days[value_date]
                before, key, p = partners[t.partner_id]
                name, amount, text, accounts, metadata = (
                    t.idempotency_key, t.amount, t.reference, t.accounts, t.metadata
                )  # fmt: skip
                payer, payee = accounts.payer, accounts.payee
                if payer == payee or not name.isprintable():
                    return None
                if not name.isascii():
                    name = name.encode().decode(_BYTES)
                if not text.isascii():
                    text = text.encode().decode(_BYTES)
                if not metadata:
                    own = _NO_METADATA
                elif len(metadata) == 1:  # the usual one, without a string that grows
                    (label,) = metadata
                    content = metadata[label]
                    if not content.isascii():
                        content = content.encode().decode(_BYTES)
                    own = f"\2{names[label]}{number[len(content)]}{content}{_NO_METADATA}"
                else:
                    own = _metadata(metadata)
                value = (
                    f"{before}{number[len(name)]}{name}{between}"
                    f"{low[amount & 8191] + high[amount >> 13] if amount > 8191 else number[amount]}"
                    f"{after}{payers[payer]}{payees[payee]}{day}"
                    f"{number[len(text)]}{text}{own}"
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

    def _learn(
        self, document: dict[str, Any], t: Transaction, value: bytes, route: tuple[bytes, Sequence[int]], today: date
    ) -> None:
        """Remembers the shape of a document, if its bytes are those that are put together from it."""
        if list(t.accounts) != ["payer", "payee"] or root_of(t.partner_id) == BANK:
            return  # the bank's own transactions go where their accounts are
        if self._known + len(self._kinds) >= _REMEMBERED_MAX:
            self._kinds.clear()
            self._known = 0
        if len(self._days) >= _REMEMBERED_MAX:
            self._days.clear()
        if isinstance(document.get("value_date"), str):
            self._days[document["value_date"]] = _number(t.value_date)
        named = t.product, t.operation, t.currency
        kind = self._kinds.get(named)
        if kind is None:
            kind = self._kinds[named] = _Kind(*named)
        if t.partner_id in kind.partners:
            return
        key, (partition,) = route
        kind.partners[t.partner_id] = value[:HEADER_BYTES].decode(_BYTES) + _text(t.partner_id), key, partition
        self._known += 1
        if self.quick([document], today) != {partition: [{"value": value, "key": key}]}:
            del kind.partners[t.partner_id]
            self._known -= 1


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


def _metadata(metadata: dict[str, str]) -> str:
    """More than one field of metadata on the wire, and all that follows."""
    out = [_NUMBER[len(metadata)]]
    for name, content in metadata.items():
        out += _NAMES[name], _text(content)
    return "".join([*out, _NO_METADATA])


_HIGH, _NAMES = _High(), _Names()
