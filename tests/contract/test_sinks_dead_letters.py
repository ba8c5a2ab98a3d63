"""Dead letters are kept with their bytes, once, in the order of their topic."""

from __future__ import annotations

import pytest

from schemas.errors import BadInputError
from schemas.records import DeadLetter
from sinks.clickhouse import ClickHouseConfig, Database, FencedError
from sinks.dead_letters import INSERT_BYTES, DeadLetterSink, Letter

pytestmark = pytest.mark.stack

TOPIC = "test.transactions.dead@one"


def letter(offset: int, value: bytes | None = b"\0\xff'\\", partition: int = 1) -> Letter:
    values = ("t", partition, offset * 2, 1_795_300_000_123, "undecodable", "why, in words: 账", 1, b"key", value)
    return Letter(partition, offset, DeadLetter(*values))


def kept(config: ClickHouseConfig) -> list[tuple[object, ...]]:
    db = Database(config)
    try:
        return db.rows("SELECT partition, offset, hex(value), detail FROM dead_letters ORDER BY partition, offset")
    finally:
        db.close()


def test_kept_once_with_their_bytes(config: ClickHouseConfig) -> None:
    sink = DeadLetterSink(config, TOPIC)
    assert sink.take_over() == {}
    values = [bytes(range(256)), None, b"", b"x" * 1_000_000]
    letters = [letter(i * 3, value) for i, value in enumerate(values)]
    assert sink.write(letters[:2]) == 2
    assert sink.write(letters) == 2
    again = DeadLetterSink(config, TOPIC)
    assert again.take_over() == {1: 10}
    assert again.write([*letters, letter(0, partition=0)]) == 1
    wanted = [(0, 0, b"\0\xff'\\"), *((1, i * 3, v or b"") for i, v in enumerate(values))]
    assert kept(config) == [(p, o, v.hex().upper(), "why, in words: 账") for p, o, v in wanted]


def test_large_ones_are_cut_into_several_inserts(config: ClickHouseConfig) -> None:
    sink = DeadLetterSink(config, TOPIC)
    sink.take_over()
    many = 2 * INSERT_BYTES // 1_000_000 + 3
    assert sink.write([letter(i, bytes(1_000_000)) for i in range(many)]) == many
    assert [row[1] for row in kept(config)] == list(range(many))


def test_fields_that_no_column_holds_stop_nothing(config: ClickHouseConfig) -> None:
    sink = DeadLetterSink(config, TOPIC)
    sink.take_over()
    odd = DeadLetter("t", 10**17, -1, -5, "r", "d", -3, None, b"")
    assert sink.write([Letter(0, 0, odd)]) == 1


def test_fenced_and_another_topic(config: ClickHouseConfig) -> None:
    old, new = DeadLetterSink(config, TOPIC), DeadLetterSink(config, TOPIC)
    old.take_over()
    new.take_over()
    with pytest.raises(FencedError):
        old.write([letter(0)])
    assert new.write([letter(0)]) == 1
    with pytest.raises(BadInputError, match="another world"):
        DeadLetterSink(config, "test.transactions.dead@two").take_over()
