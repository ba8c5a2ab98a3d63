"""A checksum of every row that the journal puts into ClickHouse, worked out twice: here from the journal, there by SQL.

The tie-out compares sums of these checksums (modulo 2^64) over stretches of the journal, beside the counts and amounts.
One number per row covers every column that the journal determines, so no two changes in different columns or rows
cancel out by chance. It is ClickHouse's own cityHash64 over all columns, because the server works that out at the speed
of reading; numpy does the same here for a batch at once. It is against mistakes and tampering by hand, not against
somebody who computes rows to fit a sum: for that `clearline verify` compares column by column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from clickhouse_cityhash.cityhash import CityHash64

from sinks.columnar import Ints, Objects
from sinks.rows import Columns, JournalRows, changes_block, outcomes_block, pending_block, postings_block

Words = npt.NDArray[np.uint64]

DAY_MS = 86_400_000
LAST_DAY = 120_529  # of Date32, 2299-12-31
_MUL = np.uint64(0x9DDFEA08EB382D69)
_XOR = np.uint64(0x4CF2D2BAAE6DA887)
_MIX = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_33, _47 = np.uint64(33), np.uint64(47)


class Column(NamedTuple):
    """A column, or a word of one. `sql`: an Int64, UInt64 or text; `values` gives the same from a block of rows."""

    name: str
    sql: str
    values: Callable[[Columns], Any]
    is_text: bool = False


@dataclass(frozen=True)
class Table:
    """What of a table is compared. `amount`: the SQL of what is summed by side, and its column in the block; empty for
    none. `identity`: which columns, with the offset, name a row."""

    name: str
    block: Callable[[JournalRows, Ints, Ints], Columns]
    columns: tuple[Column, ...]
    identity: tuple[str, ...] = ()
    amount: tuple[str, str] | None = None
    # Columns that say nothing of the journal: `topic` is grouped by, `run` is the sink that wrote the row.
    apart: tuple[str, ...] = ("topic", "run")

    @cached_property
    def checksum(self) -> str:
        """The SQL of one row's checksum."""
        return f"cityHash64({', '.join(c.sql for c in self.columns)})"

    @cached_property
    def values(self) -> str:
        """The SQL of the columns' values, for `named`."""
        return ", ".join(f"hex({c.sql})" if c.is_text else c.sql for c in self.columns)

    @cached_property
    def names(self) -> list[str]:
        """Every column of the table that is covered, once."""
        return list(dict.fromkeys(c.name for c in self.columns))


def _number(name: str) -> Column:
    return Column(name, f"toInt64({name})", lambda b: b[name])


def _text(name: str) -> Column:
    return Column(name, name, lambda b: b[name], is_text=True)


def _moment(name: str) -> Column:
    return Column(name, f"toUnixTimestamp64Milli({name})", lambda b: b[name])


def _side() -> Column:
    return Column("side", "toInt64(CAST(side, 'Int8'))", lambda b: b["side_code"])


def _booked_date() -> Column:
    return Column("booked_date", "toInt64(toInt32(booked_date))", lambda b: b["booked_at"] // DAY_MS)


def _value_date() -> Column:
    return Column("value_date", "toInt64(toInt32(value_date))", lambda b: np.clip(b["value_day"], 0, LAST_DAY))


def _wide(name: str, low: Callable[[Columns], Any], high: Callable[[Columns], Any]) -> tuple[Column, Column]:
    """An Int128 as two words."""
    return (
        Column(name, f"toUInt64(bitAnd({name}, toInt128(18446744073709551615)))", low),
        Column(name, f"toInt64(bitShiftRight({name}, 64))", high),
    )


def _amount(name: str) -> tuple[Column, Column]:
    return _wide(name, lambda b: b[f"{name}_in"], lambda b: b[f"{name}_in"] >> 63)


def _counter(name: str, place: int) -> tuple[Column, Column]:
    def word(b: Columns, i: int) -> Words:
        return np.frombuffer(b"".join(b["counters"]), dtype="<u8").reshape(-1, 8)[:, 2 * place + i]

    return _wide(name, lambda b: word(b, 0), lambda b: word(b, 1))


_PLACE = (_number("partition"), _number("offset"), _number("source_offset"), _number("sequence"))
_DAYS = (_number("value_day"), _value_date())
_BOOKED = (_moment("booked_at"), _booked_date())

POSTINGS = Table(
    "postings",
    postings_block,
    (
        *_PLACE, _number("line"), _text("partner_id"), _text("account_id"), _side(), *_amount("amount"),
        _text("currency"), *_counter("debits_pending", 0), *_counter("debits_posted", 1),
        *_counter("credits_pending", 2), *_counter("credits_posted", 3), _text("product"), _text("operation"),
        _text("reference"), _text("command_id"), *_DAYS, *_BOOKED,
    ),
    ("line",),
    ("amount", "amount_in"),
)  # fmt: skip
PENDING = Table(
    "pending",
    pending_block,
    (
        *_PLACE, _number("line"), _text("partner_id"), _text("account_id"), _side(), *_amount("change"),
        _text("currency"), _text("hold_id"), _number("expired"), _moment("expires_at"), _text("product"),
        _text("operation"), *_BOOKED,
    ),
    ("line",),
    ("change", "change_in"),
)  # fmt: skip
OUTCOMES = Table(
    "outcomes",
    lambda j, rows, _skip: outcomes_block(j, rows),
    (
        *_PLACE, _text("outcome"), _text("command"), _text("partner_id"), _text("idempotency_key"), _text("command_id"),
        _text("product"), _number("product_version"), _text("operation"), *_DAYS, *_BOOKED, _text("reference"),
        _text("metadata"), _text("reason"), _text("detail"), _text("changes"), _number("first_offset"),
        _text("subject_id"), _number("legs"), _number("pending"), _text("chain"),
    ),
)  # fmt: skip
CHANGES = Table(
    "control_changes",
    changes_block,
    (
        *_PLACE, _text("command"), _text("partner_id"), _text("subject_id"), _text("account_type"), _text("currency"),
        _text("changes"), _moment("booked_at"),
    ),
    ("subject_id",),
)  # fmt: skip
TABLES = (POSTINGS, PENDING, CHANGES, OUTCOMES)
NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one table as the journal has them, by partition and offset: what is compared of them, column by column.

    `month`: yyyymm of booking. `amount` in minor units, 0 where a table has none; `debit`: its side.
    """

    partition: Ints
    offset: Ints
    sequence: Ints
    month: Ints
    currency: Objects
    debit: npt.NDArray[np.bool_]
    amount: Ints
    checksum: Words

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, rows: Any) -> Rows:
        """These rows, by index, mask or slice."""
        return Rows(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


def rows_of(table: Table, j: JournalRows) -> Rows:
    """The rows that these records must have in a table."""
    block = table.block(j, np.arange(len(j), dtype=np.int64), NOTHING)
    count = len(block["offset"])
    dates = np.asarray(block["booked_at"], dtype=np.int64).astype("datetime64[ms]").astype("datetime64[M]").astype(int)
    if table.amount is None:
        currency = np.full(count, b"", dtype=object)
        debit, amount = np.zeros(count, dtype=bool), np.zeros(count, dtype=np.int64)
    else:
        currency, debit, amount = np.asarray(block["currency"]), block["side_code"] == 1, block[table.amount[1]]
    place = [block[n].astype(np.int64) for n in ("partition", "offset", "sequence")]
    months = (1970 + dates // 12) * 100 + dates % 12 + 1
    rows = Rows(place[0], place[1], place[2], months, currency, debit, amount, checksums(table, block))
    return rows.take(np.lexsort((rows.offset, rows.partition)))


def checksums(table: Table, block: Columns) -> Words:
    """The checksum of each row, equal to the server's `Table.checksum`."""
    out: Words | None = None
    with np.errstate(over="ignore"):
        for column in table.columns:
            values = np.asarray(column.values(block))
            hashed = _of_texts(values) if values.dtype == object else _of_numbers(values)
            out = hashed if out is None else _together(out, hashed)
    assert out is not None
    return out


def _of_texts(values: Objects) -> Words:
    texts = values.tolist()
    known = {text: CityHash64(text) for text in set(texts)}
    return np.fromiter(map(known.__getitem__, texts), np.uint64, len(texts))


def _of_numbers(values: Any) -> Words:
    x: Words = values.astype(np.int64).view(np.uint64) if values.dtype != np.uint64 else values.copy()
    x ^= _XOR
    for mul in _MIX:
        x ^= x >> _33
        x *= mul
    x ^= x >> _33
    return x


def _together(low: Words, high: Words) -> Words:
    a = (low ^ high) * _MUL
    a ^= a >> _47
    b = (high ^ a) * _MUL
    b ^= b >> _47
    b *= _MUL
    return b


def expected_rows(table: Table, j: JournalRows, records: Ints) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows that these records must have, as `named` gives those that are stored."""
    block = table.block(j, records, NOTHING)
    values = [np.asarray(c.values(block)).tolist() for c in table.columns]
    return named(table, zip(*values, strict=True))


def named(table: Table, rows: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows of `Table.values` by (offset, identity ..., number of the copy from 0), each column with its value."""
    out: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        found: dict[str, Any] = {}
        for column, value in zip(table.columns, row, strict=True):
            shown: Any = _shown(value) if column.is_text else value
            # Of the two words of a wide number the low one comes first.
            found[column.name] = (shown << 64) + (found[column.name] % 2**64) if column.name in found else shown
        place = (found["offset"], *(found[name] for name in table.identity))
        copy = 0
        while (*place, copy) in out:
            copy += 1
        out[(*place, copy)] = found
    return out


def _shown(value: bytes | str) -> str:
    """A text from its bytes (here) or their hex digits (from the server); bytes that are none stay hex digits."""
    raw = bytes.fromhex(value) if isinstance(value, str) else value
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return raw.hex()
    return text if text.isprintable() else raw.hex()
