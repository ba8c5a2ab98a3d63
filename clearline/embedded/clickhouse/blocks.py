"""Where the columns of a block begin and end.

The engine reads and writes ClickHouse's Native format as of revision 0; on the wire every column has one byte more
(since revision 54454: "serialized in a custom way", always 0 here), and nothing says how long a column is. So a block
is copied column by column, following its types, and never decoded into values.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from clearline.embedded.clickhouse.errors import INCORRECT_DATA, UNKNOWN_TYPE, ProtocolError
from clearline.embedded.clickhouse.source import Source, string, varint

COLUMNS_MAX: Final = 10_000
ROWS_MAX: Final = 1 << 27
NAME_BYTES_MAX: Final = 1 << 16
_ITEMS_MAX: Final = 1 << 31
_INFO: Final = struct.Struct("<BBBiB")

_WIDTHS: Final[dict[str, int]] = {
    **dict.fromkeys(("Int8", "UInt8", "Bool", "Enum8", "Nothing"), 1),
    **dict.fromkeys(("Int16", "UInt16", "Enum16", "Date", "BFloat16"), 2),
    **dict.fromkeys(("Int32", "UInt32", "Float32", "Date32", "DateTime", "IPv4", "Time", "Decimal32"), 4),
    **dict.fromkeys(("Int64", "UInt64", "Float64", "DateTime64", "Time64", "Decimal64"), 8),
    **dict.fromkeys(("Int128", "UInt128", "UUID", "IPv6", "Decimal128"), 16),
    **dict.fromkeys(("Int256", "UInt256", "Decimal256"), 32),
}
_ALIASES: Final[dict[str, str]] = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Point)",
    "LineString": "Array(Point)",
    "Polygon": "Array(Ring)",
    "MultiLineString": "Array(LineString)",
    "MultiPolygon": "Array(Polygon)",
}
_NAMED: Final = re.compile(r"(?:`(?:[^`\\]|\\.)*`|\w+)\s+(?=[A-Z])")

_GLOBAL_DICTIONARY: Final = 1 << 8
_ADDITIONAL_KEYS: Final = 1 << 9

Copy = Callable[[Source, int, list[bytes]], None]


class Layout(NamedTuple):
    """How one type is laid out: what precedes the data (once per column) and the data of n values."""

    prefix: Callable[[Source, list[bytes]], None] | None
    data: Copy


class Head(NamedTuple):
    """A block without its data."""

    columns: tuple[tuple[str, str], ...]
    rows: int


def block_info() -> bytes:
    """The two optional numbered fields before a block: not an overflow block, no bucket."""
    return _INFO.pack(1, 0, 2, -1, 0)


def skip_block_info(source: Source) -> None:
    """Read the same from a client. Raises ProtocolError for a field it does not know."""
    while field := source.varint():
        if field not in (1, 2):
            raise ProtocolError(INCORRECT_DATA, f"block info has an unknown field {field}")
        source.take(1 if field == 1 else 4)


def header_block(columns: list[tuple[str, str]], custom: bool) -> bytes:
    """A block without rows that tells names and types."""
    flag = b"\x00" if custom else b""
    described = b"".join(string(name) + string(type_) + flag for name, type_ in columns)
    return varint(len(columns)) + b"\x00" + described


def copy_block(source: Source, out: list[bytes], *, from_custom: bool, to_custom: bool) -> Head:
    """Copy one block from `source` to `out`, taking off or putting on the custom-serialization byte.

    Raises ProtocolError when the block is too large or has a type whose extent is not known here.
    """
    count, rows = source.varint(), source.varint()
    if count > COLUMNS_MAX or rows > ROWS_MAX:
        raise ProtocolError(INCORRECT_DATA, f"a block of {count} columns and {rows} rows is too large")
    out.append(varint(count) + varint(rows))
    flag = b"\x00" if to_custom else b""
    columns = []
    for _ in range(count):
        name = source.string(NAME_BYTES_MAX, "a column name")
        type_ = source.text(NAME_BYTES_MAX, "a column type")
        if from_custom and source.byte():
            raise ProtocolError(UNKNOWN_TYPE, "sparse columns are not read by this development server")
        out.append(string(name) + string(type_) + flag)
        columns.append((name.decode(errors="replace"), type_))
        if rows:
            column = layout(type_)
            if column.prefix is not None:
                column.prefix(source, out)
            column.data(source, rows, out)
    return Head(tuple(columns), rows)


@lru_cache(maxsize=4096)
def layout(type_: str) -> Layout:
    """How `type_` is laid out. Raises ProtocolError for a type not known here."""
    base, _, _rest = type_.partition("(")
    base = base.strip()
    if base in _ALIASES:
        return layout(_ALIASES[base])
    if base in _WIDTHS:
        return Layout(None, _fixed(_WIDTHS[base]))
    if base.startswith("Interval"):
        return Layout(None, _fixed(8))
    if base == "String":
        return Layout(None, lambda source, rows, out: source.copy_strings(rows, out))
    if base == "JSON":
        return Layout(_marker(1, "JSON that is not written as strings"), lambda s, n, out: s.copy_strings(n, out))
    make = _COMPOSED.get(base)
    if make is None:
        raise ProtocolError(UNKNOWN_TYPE, f"type {type_} is not carried by this development server: CAST it to String")
    try:
        return make(split_arguments(type_))
    except (ValueError, IndexError, StopIteration) as error:
        raise ProtocolError(UNKNOWN_TYPE, f"type {type_} is malformed") from error


def split_arguments(type_: str) -> list[str]:
    """`Map(String, Array(UInt8))` -> ["String", "Array(UInt8)"]; quotes and nested parentheses are respected."""
    start, end = type_.find("("), type_.rfind(")")
    if start < 0 or end < start:
        return []
    parts, depth, quote, current = [], 0, "", ""
    inner = iter(type_[start + 1 : end])
    for char in inner:
        current += char
        if quote:
            if char == "\\":
                current += next(inner, "")
            elif char == quote:
                quote = ""
        elif char in "'`":
            quote = char
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == "," and depth == 0:
            parts.append(current[:-1].strip())
            current = ""
    if current.strip():
        parts.append(current.strip())
    return parts


def _unnamed(element: str) -> str:
    return _NAMED.sub("", element, count=1) if _NAMED.match(element) else element


def _fixed(width: int) -> Copy:
    def data(source: Source, rows: int, out: list[bytes]) -> None:
        out.append(source.take(width * rows))

    return data


def _marker(expected: int, what: str) -> Callable[[Source, list[bytes]], None]:
    def prefix(source: Source, out: list[bytes]) -> None:
        raw = source.take(8)
        if int.from_bytes(raw, "little") != expected:
            raise ProtocolError(UNKNOWN_TYPE, f"{what}: serialization {int.from_bytes(raw, 'little')} is not known")
        out.append(raw)

    return prefix


def _nullable(inner: Layout) -> Layout:
    def data(source: Source, rows: int, out: list[bytes]) -> None:
        out.append(source.take(rows))
        inner.data(source, rows, out)

    return Layout(inner.prefix, data)


def _group(parts: list[Layout]) -> Layout:
    prefixes = [part.prefix for part in parts if part.prefix is not None]

    def prefix(source: Source, out: list[bytes]) -> None:
        for each in prefixes:
            each(source, out)

    def data(source: Source, rows: int, out: list[bytes]) -> None:
        for part in parts:
            part.data(source, rows, out)
        if not parts:  # Tuple() still has one byte a row
            out.append(source.take(rows))

    return Layout(prefix if prefixes else None, data)


def _repeated(inner: Layout) -> Layout:
    def data(source: Source, rows: int, out: list[bytes]) -> None:
        if rows == 0:
            return
        offsets = source.take(8 * rows)
        out.append(offsets)
        items = int.from_bytes(offsets[-8:], "little")
        if items > _ITEMS_MAX:
            raise ProtocolError(INCORRECT_DATA, f"arrays of {items} items in one block are too large")
        inner.data(source, items, out)

    return Layout(inner.prefix, data)


def _low_cardinality(type_: str) -> Copy:
    keys = layout(split_arguments(type_)[0] if type_.startswith("Nullable(") else type_)

    def data(source: Source, rows: int, out: list[bytes]) -> None:
        if rows == 0:
            return
        raw = source.take(8)
        out.append(raw)
        flags = int.from_bytes(raw, "little")
        if flags & 0xFF > 3 or flags & _GLOBAL_DICTIONARY:
            raise ProtocolError(INCORRECT_DATA, f"low-cardinality column has unknown flags {flags:#x}")
        if flags & _ADDITIONAL_KEYS:
            raw = source.take(8)
            out.append(raw)
            count = int.from_bytes(raw, "little")
            if count > _ITEMS_MAX:
                raise ProtocolError(INCORRECT_DATA, f"a dictionary of {count} keys is too large")
            keys.data(source, count, out)
        raw = source.take(8)
        out.append(raw)
        if int.from_bytes(raw, "little") != rows:
            raise ProtocolError(INCORRECT_DATA, "a low-cardinality column has another number of rows than its block")
        out.append(source.take(rows << (flags & 0xFF)))

    return data


def _variant(parts: list[Layout]) -> Layout:
    def prefix(source: Source, out: list[bytes]) -> None:
        _marker(0, "Variant")(source, out)
        for part in parts:
            if part.prefix is not None:
                part.prefix(source, out)

    def data(source: Source, rows: int, out: list[bytes]) -> None:
        which = source.take(rows)
        out.append(which)
        counts = np.bincount(np.frombuffer(which, np.uint8), minlength=256)
        for index, part in enumerate(parts):
            if counts[index]:
                part.data(source, int(counts[index]), out)

    return Layout(prefix, data)


def _decimal(arguments: list[str]) -> Layout:
    precision = int(arguments[0])
    return Layout(None, _fixed(next(width for digits, width in _DECIMAL_WIDTHS if precision <= digits)))


_DECIMAL_WIDTHS: Final = ((9, 4), (18, 8), (38, 16), (76, 32))
_COMPOSED: Final[dict[str, Callable[[list[str]], Layout]]] = {
    "FixedString": lambda arguments: Layout(None, _fixed(int(arguments[0]))),
    "Decimal": _decimal,
    "Nullable": lambda arguments: _nullable(layout(arguments[0])),
    "SimpleAggregateFunction": lambda arguments: layout(arguments[1]),
    "LowCardinality": lambda arguments: Layout(_marker(1, "low-cardinality keys"), _low_cardinality(arguments[0])),
    "Array": lambda arguments: _repeated(layout(arguments[0])),
    "Map": lambda arguments: _repeated(_group([layout(part) for part in arguments])),
    "Tuple": lambda arguments: _group([layout(_unnamed(part)) for part in arguments]),
    "Nested": lambda arguments: _repeated(_group([layout(_unnamed(part)) for part in arguments])),
    "Variant": lambda arguments: _variant([layout(part) for part in sorted(arguments)]),
}
