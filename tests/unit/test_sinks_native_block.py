"""Blocks made by numpy have, byte for byte, what clickhouse-driver makes of the same values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from clickhouse_driver.block import ColumnOrientedBlock
from clickhouse_driver.bufferedwriter import BufferedSocketWriter
from clickhouse_driver.context import Context
from clickhouse_driver.errors import TypeMismatchError
from clickhouse_driver.streams.native import BlockOutputStream
from hypothesis import given
from hypothesis import strategies as st

from sinks.columnar import decode_journal
from sinks.native_block import Coded, Texts, native, send_block, write_block
from sinks.rows import JournalRows, changes_block, outcomes_block, pending_block, postings_block
from tests.journals import Maker, local_codec

TYPES = {
    "topic": "LowCardinality(String)", "partition": "UInt16", "offset": "UInt64", "source_offset": "UInt64",
    "sequence": "UInt64", "booked_at": "DateTime64(3, 'UTC')", "run": "UInt64", "line": "UInt16",
    "partner_id": "LowCardinality(String)", "account_id": "String", "side_code": "UInt8", "amount_in": "Int64",
    "currency": "LowCardinality(String)", "counters": "FixedString(64)", "product": "LowCardinality(String)",
    "operation": "LowCardinality(String)", "reference": "String", "command_id": "FixedString(16)",
    "value_day": "Int32", "change_in": "Int64", "hold_id": "FixedString(16)", "expired": "UInt8",
    "expires_at": "DateTime64(3, 'UTC')", "outcome": "LowCardinality(String)", "command": "LowCardinality(String)",
    "reason": "LowCardinality(String)", "idempotency_key": "String", "subject_id": "String",
    "product_version": "UInt32", "metadata": "String", "detail": "String", "changes": "String",
    "first_offset": "Int64", "legs": "UInt16", "pending": "UInt16", "chain": "FixedString(32)",
    "account_type": "LowCardinality(String)",
}  # fmt: skip


def context() -> Context:
    out = Context()
    out.client_settings = {"strings_as_bytes": True, "use_numpy": False, "input_format_null_as_default": False}
    out.settings = {}

    class Server:
        used_revision = 54468

        def get_timezone(self) -> str:
            return "UTC"

    out.server_info = Server()
    return out


class Collected:
    """Keeps what the driver's writer sends."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.sent.append(bytes(data))


def written(write: Callable[[BlockOutputStream], None]) -> bytes:
    to = Collected()
    out = BufferedSocketWriter(to, 1 << 16)
    write(BlockOutputStream(out, context()))
    out.flush()
    return b"".join(to.sent)


def by_driver(described: Sequence[tuple[str, str]], columns: Sequence[Any]) -> bytes:
    block = ColumnOrientedBlock(list(described), [list(c.tolist()) for c in columns])
    return written(lambda stream: stream.write(block))


def by_us(described: Sequence[tuple[str, str]], columns: Sequence[Any]) -> bytes:
    return written(lambda stream: write_block(stream, described, columns, len(columns[0])))


def texts(values: Sequence[bytes]) -> Texts:
    """Texts with other bytes before, between and after them."""
    sizes = np.array([len(v) for v in values], dtype=np.int64)
    end = np.cumsum(sizes + 3)
    data = np.frombuffer(b"".join(b"\0x\0" + v for v in values) + b"after", dtype=np.uint8)
    return Texts(data, end - sizes, end)


FEW = st.sampled_from([b"", b"a", b"a\0", b"\0a", b"\0\0", b"CNY", b"CNY\0", b"x" * 127, b"y" * 128, b"z" * 20_000])
TEXT = st.one_of(FEW, st.binary(max_size=200))


@given(st.lists(st.one_of(FEW, TEXT), min_size=1, max_size=80), st.integers(1, 9))
def test_texts(values: list[bytes], times: int) -> None:
    column = texts(values * times)
    assert column.tolist() == values * times
    coded = column.coded()
    assert coded.tolist() == values * times
    assert coded.values == list(dict.fromkeys(values))
    described = [("a", "String"), ("b", "LowCardinality(String)"), ("c", "String"), ("d", "LowCardinality(String)")]
    columns = [column, column, coded, coded]
    assert by_us(described, columns) == by_driver(described, columns)
    assert all(native(kind, c) is not None for (_, kind), c in zip(described[1:], columns[1:], strict=True))


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=50))
def test_fixed_texts(values: list[bytes]) -> None:
    described, column = [("a", "FixedString(16)")], texts(values)
    assert native("FixedString(16)", column) == b"".join(values)
    assert by_us(described, [column]) == by_driver(described, [column])
    assert native("FixedString(17)", column) is None  # the driver pads them


@pytest.mark.parametrize("count", [1, 2, 33, 255, 256, 257, 65_535, 65_536])
def test_dictionaries_of_every_width(count: int) -> None:
    values = [b"%d" % i for i in range(count)]
    codes = np.random.default_rng(count).permutation(count)
    rows = np.concatenate([codes, codes[:5]])
    described = [("a", "LowCardinality(String)"), ("b", "LowCardinality(String)")]
    unused = Coded([*values, b"nobody's"], rows)
    columns = [unused, texts(unused.tolist())]
    assert by_us(described, columns) == by_driver(described, columns)


KINDS = [("Int", "i"), ("UInt", "u")]
INTEGERS = [(f"{k}{b}", f"<{c}{b // 8}") for k, c in KINDS for b in (8, 16, 32, 64)]


@pytest.mark.parametrize(("kind", "dtype"), [*INTEGERS, ("DateTime64(3, 'UTC')", "<i8")])
@given(data=st.data())
def test_numbers(kind: str, dtype: str, data: st.DataObject) -> None:
    limits = np.iinfo(dtype)
    numbers = data.draw(st.lists(st.integers(int(limits.min), int(limits.max)), min_size=1, max_size=20))
    column = np.array(numbers, dtype=dtype)
    assert native(kind, column) == column.tobytes()
    assert by_us([("a", kind)], [column]) == by_driver([("a", kind)], [column])
    if limits.min <= numbers[0] < 2**63 and max(numbers) < 2**63:
        assert native(kind, np.array(numbers, dtype=np.int64)) == column.tobytes()


def test_a_number_that_does_not_fit_is_refused() -> None:
    for kind, value in (("UInt16", 65_536), ("UInt64", -1), ("Int32", 2**31), ("Int8", -129)):
        with pytest.raises(TypeMismatchError):
            by_us([("a", kind)], [np.array([1, value])])


def test_columns_of_other_kinds_go_by_the_driver() -> None:
    described = [("a", "Int128"), ("b", "Nullable(String)"), ("c", "String")]
    values: list[list[Any]] = [[2**100, -1], [None, b"x"], [b"", b"y"]]
    block = ColumnOrientedBlock(described, [list(v) for v in values])
    assert by_us(described, values) == written(lambda stream: stream.write(block))


def test_columns_of_unequal_length_are_not_sent() -> None:
    with pytest.raises(ValueError, match="columns of"):
        send_block(None, [("a", "String"), ("b", "String")], [[b"x"], [b"x", b"y"]])
    with pytest.raises(ValueError, match="columns of"):
        send_block(None, [("a", "String"), ("b", "String")], [[b"x"]])


@pytest.mark.parametrize("block", [postings_block, pending_block, outcomes_block, changes_block])
def test_the_journals_blocks(block: Callable[..., dict[str, Any]]) -> None:
    lines = Maker(7).lines(2_000)
    places = np.array([(x.partition, x.offset) for x in lines], dtype=np.int64)
    columns = decode_journal([x.value for x in lines], local_codec())
    j = JournalRows(b"test.journal@one", 2**62 + 1, places[:, 0], places[:, 1], columns)
    every = np.arange(len(j), dtype=np.int64)
    for records in (every, every[300:], every[::3], every[-1:]):
        made = block(j, records) if block is outcomes_block else block(j, records, every[:7])
        if not len(made["run"]):
            continue
        described = [(name, TYPES[name]) for name in made]
        assert by_us(described, list(made.values())) == by_driver(described, list(made.values()))
        if len(made["run"]) > 100 and block is not changes_block:
            assert [name for name, kind in described if native(kind, made[name]) is None] == []
