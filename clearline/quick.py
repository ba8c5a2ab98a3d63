"""The contract's verdict on an ordinary transaction, without asking pydantic again about what it has said already.

Whoever publishes many transactions sends few partners, products and accounts again and again, and with each a new key,
amount and reference. So what the full check (`clearline.contract`) said of the former is remembered, with the bytes
that it came to, and only the latter are looked at. Everything else goes to the full check, which has the last word.
A shape is remembered only when the bytes put together here are those of the codec; a property test holds verdicts and
bytes equal.
"""

from __future__ import annotations

from datetime import date
from typing import Any, NamedTuple

from clearline.contract import ContractError, FieldError, read_command
from clearline.fields import EPOCH, KEY_MAX, METADATA_KEY_MAX, METADATA_VALUE_MAX
from ledger.fields import METADATA_MAX, TEXT_MAX
from ledger.money import AMOUNT_MAX
from schemas.codec import HEADER_BYTES, Codec
from schemas.identity import BANK, partition_of, tree_of
from schemas.records import Command, Transaction
from schemas.writer import base128, zigzag

_REMEMBERED_MAX = 100_000
_SHORT = [zigzag(n) for n in range(8_192)]
_LOW = [bytes((n & 127 | 128, n >> 7 | 128)) for n in range(1 << 14)]
_NONE = b"\0"  # an empty text, map or array
_TAIL = b"\0\0\0\0\0\0\1"  # original, final, expires_at, note, amounts, rate and exponent at their defaults


class _Names(dict[str, bytes]):
    """Names of metadata that keep the contract's rule, on the wire. Raises ValueError for any other."""

    def __missing__(self, name: object) -> bytes:
        if type(name) is not str or not 0 < len(name) <= METADATA_KEY_MAX:
            raise ValueError
        out = _string(name)
        if len(self) < _REMEMBERED_MAX:
            self[name] = out
        return out


class _High(dict[int, bytes]):
    """The digits of numbers beyond the first two, on the wire."""

    def __missing__(self, n: int) -> bytes:
        out = base128(n)
        if len(self) < _REMEMBERED_MAX:
            self[n] = out
        return out


class Route(NamedTuple):
    """A command's Kafka key, and the partitions that it goes to."""

    key: bytes
    partitions: tuple[int, ...]


Ready = tuple[bytes, Route]  # a checked command in wire format, and where it goes


class _Shape(NamedTuple):
    """The parts of a transaction's bytes that its accounts, product and partner decide."""

    before: bytes  # of the key
    between: bytes  # key and amount
    after: bytes  # the amount, before the day
    route: Route


class QuickCheck:
    """Checks and encodes documents as `publish` lines have them. Not thread-safe. `bytes_max`: of one command."""

    def __init__(self, codec: Codec, partitions: int, bytes_max: int) -> None:
        self._codec = codec
        self._partitions = partitions
        self._bytes_max = bytes_max
        self._shapes: dict[tuple[str, ...], _Shape] = {}
        self._days: dict[object, bytes] = {}
        self._today = (EPOCH, zigzag(0))

    def ready(self, document: object, today: date) -> Ready:
        """The document, ready to be sent; `today` is the value date of whoever named none. Raises ContractError."""
        if today is not self._today[0]:
            self._today = (today, zigzag((today - EPOCH).days))
        found = self.quick(document, self._today[1])
        return found if found is not None else self.full(document, today)

    def full(self, document: object, today: date) -> Ready:
        """The full check. What it says of an ordinary transaction is remembered. Raises ContractError."""
        command = read_command(document, today)
        value = self._codec.encode(command)
        if len(value) > self._bytes_max:
            rule = f"the command takes {len(value)} bytes on the wire, the most is {self._bytes_max}"
            raise ContractError([FieldError("", rule)])
        ready = value, where(command, self._partitions)
        if type(command) is Transaction and isinstance(document, dict):
            self._learn(document, command, ready)
        return ready

    def quick(self, document: Any, today: bytes) -> Ready | None:
        """The same for a transaction of a shape that is known; None: ask `full`. `today` on the wire."""
        try:
            accounts = document["accounts"]
            shape = self._shapes[
                document["partner_id"], document["product"], document["operation"], document["currency"],
                accounts["payer"], accounts["payee"],
            ]  # fmt: skip
            name, amount = document["idempotency_key"], document["amount"]
            if (
                type(amount) is not int or not 0 < amount <= AMOUNT_MAX
                or len(accounts) != 2 or next(iter(accounts)) != "payer"  # the order of a map is part of its bytes
                or type(name) is not str or not 0 < len(name) <= KEY_MAX or not name.isprintable()
            ):  # fmt: skip
                return None
            fields = 7
            text = own = _NONE
            if "value_date" in document:
                fields += 1
                today = self._days[document["value_date"]]
            if "reference" in document:
                fields += 1
                reference = document["reference"]
                if type(reference) is not str or len(reference) > TEXT_MAX:
                    return None
                raw = reference.encode()
                text = _SHORT[len(raw)] + raw
            if "metadata" in document:
                fields += 1
                own = _metadata(document["metadata"])
            if len(document) != fields or document.__class__ is not dict or accounts.__class__ is not dict:
                return None
            raw = name.encode()
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            return None
        size = _LOW[amount << 1 & 16383] + _HIGH[amount >> 13] if amount > 8191 else _SHORT[amount]
        value = b"".join(
            (shape.before, _SHORT[len(raw)], raw, shape.between, size, shape.after, today, text, own, _TAIL)
        )
        return (value, shape.route) if len(value) <= self._bytes_max else None

    def _learn(self, document: dict[str, Any], t: Transaction, ready: Ready) -> None:
        """Remembers the shape of a document, if its bytes are those that are put together from it."""
        if len(self._shapes) >= _REMEMBERED_MAX:
            self._shapes.clear()
        if len(self._days) >= _REMEMBERED_MAX:
            self._days.clear()
        if list(t.accounts) != ["payer", "payee"]:
            return
        if type(document.get("value_date")) in (str, date):
            self._days[document["value_date"]] = zigzag(t.value_date)
        roles = b"".join(_string(role) + _string(account) for role, account in t.accounts.items())
        shape = _Shape(
            ready[0][:HEADER_BYTES] + _string(t.partner_id), _string(t.product) + _string(t.operation),
            _string(t.currency) + b"\4" + roles + _NONE + _NONE, ready[1],
        )  # fmt: skip
        named = (t.partner_id, t.product, t.operation, t.currency, *t.accounts.values())
        self._shapes[named] = shape
        again = self.quick(document, zigzag(t.value_date))
        if again != ready:
            del self._shapes[named]


def where(command: Command, partitions: int) -> Route:
    """Where a command goes: to one partition, or to all with what every partition must know."""
    root = tree_of(command)
    if root == BANK and not isinstance(command, Transaction):
        return Route(root.encode(), tuple(range(partitions)))
    return Route(root.encode(), (partition_of(root, partitions),))


def _string(text: str) -> bytes:
    raw = text.encode()
    return zigzag(len(raw)) + raw


def _metadata(values: dict[str, str]) -> bytes:
    """A map that keeps the contract's rules, on the wire. Raises ValueError for any other."""
    if values.__class__ is not dict or len(values) > METADATA_MAX:
        raise ValueError
    if not values:
        return _NONE
    out = _SHORT[len(values)]
    for name, value in values.items():
        if type(value) is not str or len(value) > METADATA_VALUE_MAX:
            raise ValueError
        raw = value.encode()
        out += _NAMES[name] + _SHORT[len(raw)] + raw
    return out + _NONE


_NAMES, _HIGH = _Names(), _High()
