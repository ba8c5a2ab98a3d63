"""The columnar decoder gives what the codec gives, for every journal record, and leaves hostile bytes to it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, cast

import fastavro
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import UndecodableError, UnknownSchemaError, schema_of
from schemas.errors import InvariantError
from schemas.records import JournalRecord, PendingLeg, PostedLeg
from sinks.columnar import COUNTERS, Span, decode_journal
from sinks.rows import map_items
from tests.journals import Maker, local_codec
from tests.strategies import records

CODEC = local_codec()
OUTCOMES = ["settled", "rejected", "repeated", "applied"]


def rebuilt(values: Sequence[bytes]) -> list[JournalRecord]:
    """Records put together from the columns."""
    c = decode_journal(values, CODEC)
    account, currency = (list(c.texts_at(c.leg_texts[n])) for n in ("account_id", "currency"))
    legs: list[list[tuple[int, PostedLeg]]] = [[] for _ in range(len(c))]
    for i, row in enumerate(c.legs["record"].tolist()):
        counters = [int.from_bytes(c.counters[i, k : k + 16].tobytes(), "little", signed=True) for k in (0, 16, 32, 48)]
        side = ("debit", "credit")[c.legs["side"][i] >> 1]
        leg = PostedLeg(account[i].decode(), side, int(c.legs["amount"][i]), currency[i].decode(), *counters)
        legs[row].append((int(c.legs["line"][i]), leg))
    aside: list[list[tuple[int, PendingLeg]]] = [[] for _ in range(len(c))]
    texts = {n: list(c.texts_at(span)) for n, span in c.pending_texts.items()}
    for i, row in enumerate(c.pending["record"].tolist()):
        side = ("debit", "credit")[c.pending["side"][i] >> 1]
        names = texts["account_id"][i].decode(), side, int(c.pending["change"][i]), texts["currency"][i].decode()
        after = [int.from_bytes(texts[n][i], "big", signed=True) for n in COUNTERS]
        held = PendingLeg(texts["hold_id"][i], *names, bool(c.pending["expired"][i]), *after)
        aside[row].append((int(c.pending["line"][i]), held))
    out = []
    for row in range(len(c)):
        fields: dict[str, object] = {}
        for field in schema_of("JournalRecord")["fields"]:
            name = field["name"]
            if name in c.fixed:
                start = int(c.fixed[name][row])
                fields[name] = c.buffer[start : start + field["type"]["size"]]
            elif name in ("metadata", "detail", "changes"):
                fields[name] = dict(map_items(_text(c.buffer, c.texts[name], row)))
            elif name in c.texts:
                fields[name] = _text(c.buffer, c.texts[name], row).decode()
            elif name == "outcome":
                fields[name] = OUTCOMES[c.numbers[name][row] >> 1]
            elif name == "binds_key":
                fields[name] = bool(c.numbers[name][row])
            elif name == "postings":
                fields[name] = tuple(leg for _, leg in sorted(legs[row], key=lambda x: x[0]))
            elif name == "pending":
                fields[name] = tuple(leg for _, leg in sorted(aside[row], key=lambda x: x[0]))
            elif name == "opened":
                fields[name] = ()  # what a record opened is compared elsewhere
            else:
                fields[name] = int(c.numbers[name][row])
        out.append(JournalRecord(**fields))  # type: ignore[arg-type]
    return out


def _text(buffer: bytes, span: Span, row: int) -> bytes:
    return buffer[int(span.start[row]) : int(span.end[row])]


@given(st.lists(cast("st.SearchStrategy[JournalRecord]", records("JournalRecord")), min_size=1, max_size=8))
def test_equals_the_codec(batch: list[JournalRecord]) -> None:
    values = [CODEC.encode(r) for r in batch]
    assert rebuilt(values) == [msgspec.structs.replace(r, opened=()) for r in batch]


def test_entries_of_any_width() -> None:
    leg = PostedLeg("acme:w:1", "debit", 2**63 - 1, "CNY", 0, 10**38 - 1, -1, -(2**63))
    held = PendingLeg(bytes(range(16)), "acme:w:1", "credit", -(2**63), "CNY", True, 0, 10**38 - 1, -1, -(2**63))
    record = Maker(1).lines(120)[-1].record
    widths = [0, 1, 2, 23, 24, 25, 26, 1000, 2]
    batch = [
        msgspec.structs.replace(record, postings=(leg,) * n, pending=(held,) * m, chain=bytes(32))
        for n, m in zip(widths, reversed(widths), strict=True)
    ]
    assert rebuilt([CODEC.encode(r) for r in batch]) == batch


def test_another_version_of_the_schema_among_ours() -> None:
    older = json.loads(json.dumps(schema_of("JournalRecord")))
    older["fields"] = [f for f in older["fields"] if f["name"] != "changes"]
    lines = Maker(2).lines(150)
    record = lines[-1].record
    row = msgspec.to_builtins(record, builtin_types=(bytes,))
    for p in row["postings"]:
        for name in COUNTERS:
            p[name] = p[name].to_bytes(17, "big", signed=True)
    row["chain"] = bytes(32)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(_without_logical(older)), row)
    foreign = b"\0" + (9999).to_bytes(4, "big") + out.getvalue()
    values = [x.value for x in lines[:5]] + [foreign]
    with pytest.raises(UnknownSchemaError):
        decode_journal(values, CODEC)
    codec = type(CODEC)({"JournalRecord": int.from_bytes(CODEC.journal_header[1:], "big")})
    codec.add_writer_schema(9999, json.dumps(older))
    columns = decode_journal(values, codec)
    assert int(columns.numbers["sequence"][5]) == record.sequence
    assert len(columns) == 6


def _without_logical(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {k: _without_logical(v) for k, v in schema.items() if k not in ("logicalType", "precision", "scale")}
    if isinstance(schema, list):
        return [_without_logical(s) for s in schema]
    return schema


GOOD = [x.value for x in Maker(3).lines(160)[-6:]]


@given(st.integers(0, 5), st.data())
def test_hostile_bytes_stop_it_or_decode_alike(which: int, data: st.DataObject) -> None:
    """Whatever is done to a value: either the codec refuses it and so does this, or both see the same record."""
    value = bytearray(GOOD[which])
    for _ in range(data.draw(st.integers(1, 3))):
        action = data.draw(st.sampled_from(("set", "cut", "grow")))
        place = data.draw(st.integers(5, len(value) - 1))
        if action == "set":
            value[place] = data.draw(st.integers(0, 255))
        elif action == "cut":
            del value[place:]
            break
        else:
            value[place:place] = data.draw(st.binary(min_size=1, max_size=12))
    hostile = bytes(value)
    try:
        record = CODEC.decode(hostile)
    except UndecodableError:
        record = None
    try:
        columns = decode_journal([*GOOD, hostile, GOOD[0]], CODEC)
    except InvariantError:
        assert record is None
        return
    if record is not None:
        assert int(columns.numbers["sequence"][len(GOOD)]) == record.sequence
        assert int(columns.legs["count"][len(GOOD)]) == len(record.postings)
