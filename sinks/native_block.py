"""Blocks of rows as the bytes that ClickHouse's native protocol has for them, made by numpy a whole column at a time.

clickhouse-driver makes the same bytes from lists of Python values, which for the ledger's columns is most of what the
sink costs. So texts stay where the journal's bytes have them (`Texts`), or as numbers of a short list (`Coded`), and go
from there into the block. Whatever is not one of the types below is left to the driver, in the same block; so are its
connection, compression, checksums and errors. That both make the same bytes is held by tests.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np
import numpy.typing as npt
from clickhouse_driver import defines
from clickhouse_driver.block import BlockInfo
from clickhouse_driver.columns.service import write_column
from clickhouse_driver.connection import Connection
from clickhouse_driver.protocol import ClientPacketTypes
from clickhouse_driver.varint import write_varint
from clickhouse_driver.writer import write_binary_str, write_binary_uint8

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Objects = npt.NDArray[np.object_]

_NUMBERS = {
    **{f"{kind}Int{bits}": np.dtype(f"<{code}{bits // 8}") for kind, code in (("", "i"), ("U", "u"))
       for bits in (8, 16, 32, 64)},
    "DateTime64(3, 'UTC')": np.dtype("<i8"),
}  # fmt: skip
_FIXED = re.compile(r"FixedString\((\d+)\)")
_FEW = 32  # so many texts are told apart a column at a time; what is left then goes by a dictionary, one by one
_KEYS_VERSION = 1  # of a LowCardinality column, before its data
_OWN_DICTIONARY = 1 << 9 | 1 << 10  # the block brings the texts that its keys number


@dataclass(slots=True)
class Texts:
    """Texts that stand in one array of bytes: where each starts and ends."""

    data: Bytes
    start: Ints
    end: Ints

    def __len__(self) -> int:
        return len(self.start)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Objects:
        return objects(self.tolist())

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.tolist())

    def tolist(self) -> list[bytes]:
        data = self.data.data
        return [bytes(data[i:j]) for i, j in zip(self.start.tolist(), self.end.tolist(), strict=True)]

    def take(self, rows: Ints) -> Texts:
        return Texts(self.data, self.start[rows], self.end[rows])

    def of_size(self, size: int, rows: Any = slice(None)) -> Any:
        """The texts of these rows, all of which must have `size` bytes above 0, as an array of so many bytes each."""
        return _windows(self.data, size)[self.start[rows]]

    def coded(self) -> Coded:
        """The same, with each text held once, in order of first appearance."""
        sizes = self.end - self.start
        codes = np.empty(len(self), dtype=np.int64)
        values: list[bytes] = []
        rest = np.arange(len(self), dtype=np.int64)
        while rest.size and len(values) < _FEW:
            first, size = int(rest[0]), int(sizes[rest[0]])
            same = sizes[rest] == size
            if size:
                found = self.of_size(size, rest[same])
                same[same] = found == found[0]
            codes[rest[same]] = len(values)
            values.append(self.data[self.start[first] : self.end[first]].tobytes())
            before, rest = len(rest), rest[~same]
            if (before - len(rest)) * 64 < before:
                break  # many texts, few rows of each
        known: dict[bytes, int] = {}
        codes[rest] = [known.setdefault(text, len(values) + len(known)) for text in self.take(rest).tolist()]
        return Coded([*values, *known], codes)


@dataclass(slots=True)
class Coded:
    """Many rows of few texts: row i has `values[codes[i]]`."""

    values: list[bytes]
    codes: Ints

    def __len__(self) -> int:
        return len(self.codes)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Objects:
        return objects(self.values)[self.codes]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.tolist())

    def tolist(self) -> list[bytes]:
        out: list[bytes] = objects(self.values)[self.codes].tolist()
        return out

    def take(self, rows: Ints) -> Coded:
        return Coded(self.values, self.codes[rows])

    def in_order(self) -> Coded:
        """The same, without texts that no row has, and numbered by their first row, as the driver numbers them."""
        first = np.full(len(self.values), len(self), dtype=np.int64)
        first[self.codes[::-1]] = np.arange(len(self) - 1, -1, -1)  # of several the last one stays: the first row
        used = np.argsort(first, kind="stable")[: int((first < len(self)).sum())]
        number = np.zeros(len(self.values), dtype=np.int64)
        number[used] = np.arange(len(used))
        return Coded([self.values[i] for i in used.tolist()], number[self.codes])


def send_block(connection: Connection, described: Sequence[tuple[str, str]], columns: Sequence[Any]) -> int:
    """Sends one block of rows to the server as the driver would; returns how many. `described`: names and types, as
    the server wants them. A column is a numpy array, Texts, Coded or a list. Raises ValueError for unequal columns."""
    sizes = {len(c) for c in columns}
    if len(sizes) != 1 or len(columns) != len(described):
        raise ValueError(f"{len(columns)} columns of {sorted(sizes)} rows for {len(described)}")
    rows = sizes.pop()
    if rows:
        write_varint(ClientPacketTypes.DATA, connection.fout)
        write_binary_str("", connection.fout)  # no temporary table
        write_block(connection.block_out, described, columns, rows)
    return rows


def write_block(out: Any, described: Sequence[tuple[str, str]], columns: Sequence[Any], rows: int) -> None:
    """Writes a block to a stream of the driver."""
    context, to = out.context, out.fout
    BlockInfo().write(to)
    write_varint(len(columns), to)
    write_varint(rows, to)
    flagged = context.server_info.used_revision >= defines.DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION
    for (name, kind), column in zip(described, columns, strict=True):
        write_binary_str(name, to)
        write_binary_str(kind, to)
        if flagged:
            write_binary_uint8(0, to)  # not sparse
        data = native(kind, column)
        if data is None:
            write_column(context, name, kind, column if isinstance(column, list) else column.tolist(), to)
        else:
            to.write(data)
    out.finalize()


def native(kind: str, column: Any) -> bytes | None:
    """A column of at least one row as a block has it; None when the driver must make it, or refuse it."""
    if isinstance(column, np.ndarray):
        wanted = _NUMBERS.get(kind)
        return None if wanted is None or column.dtype.kind not in "iu" else _number(wanted, column)
    if not isinstance(column, Texts | Coded):
        return None
    if kind == "String":
        return _strings(column) if isinstance(column, Texts) else _repeated(column)
    if kind == "LowCardinality(String)":
        return _low_cardinality((column.coded() if isinstance(column, Texts) else column).in_order())
    fixed = _FIXED.fullmatch(kind)
    if fixed and isinstance(column, Texts) and (column.end - column.start == int(fixed[1])).all():
        raw: bytes = column.of_size(int(fixed[1])).tobytes()
        return raw
    return None


def _number(wanted: np.dtype[Any], column: Any) -> bytes | None:
    if column.dtype != wanted:
        limits = np.iinfo(wanted)
        if int(column.min()) < limits.min or int(column.max()) > limits.max:
            return None  # the driver says which column it is
        column = column.astype(wanted)
    raw: bytes = column.tobytes()
    return raw


def _strings(texts: Texts) -> bytes | None:
    """Each text after its length. All texts of one length are moved at once."""
    sizes = texts.end - texts.start
    lengths = np.unique(sizes).tolist()
    if len(lengths) * 8 > len(texts):
        return None
    heads = {n: _varint(n) for n in lengths}
    whole = sizes + 1
    for n in lengths:
        if n > 127:
            whole[sizes == n] = n + len(heads[n])
    end = np.cumsum(whole)
    out = np.empty(int(end[-1]), dtype=np.uint8)
    place = end - whole
    for n in lengths:
        rows = np.flatnonzero(sizes == n) if len(lengths) > 1 else slice(None)
        at = place[rows]
        for byte in heads[n]:
            out[at] = byte
            at = at + 1
        if n:
            _windows(out, n)[at] = texts.of_size(n, rows)
    return out.tobytes()


def _repeated(column: Coded) -> bytes:
    if column.values == [b""]:
        return bytes(len(column))
    pieces = objects([_varint(len(v)) + v for v in column.values])
    return b"".join(pieces[column.codes].tolist())


def _low_cardinality(column: Coded) -> bytes:
    count = len(column.values)
    width = int(log2(count) / 8)  # of a key: 0 for one byte, 1 for two ...
    return b"".join((
        struct.pack("<qqq", _KEYS_VERSION, _OWN_DICTIONARY | width, count),
        *(_varint(len(v)) + v for v in column.values),
        struct.pack("<q", len(column)),
        column.codes.astype(f"<u{1 << width}").tobytes(),
    ))  # fmt: skip


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _windows(data: Bytes, size: int) -> Any:
    """Every `size` bytes of an array, as one item each, without copying: item i begins at byte i."""
    return np.ndarray((len(data) - size + 1,), f"V{size}", buffer=data.data, strides=(1,))


def objects(values: Sequence[Any]) -> Objects:
    """A column of Python values."""
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out
