"""The compiled codec against fastavro: the same bytes out, and the same verdict on any bytes in, hostile ones included."""

from __future__ import annotations

import io
from random import Random
from typing import Any

import fastavro
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.codec import (
    Codec,
    UndecodableError,
    UnknownSchemaError,
    _parsed,
    avro_body,
    record_from_dict,
    schema_of,
)
from schemas.examples import examples
from schemas.records import COMMANDS, RECORDS, Transaction
from schemas.writer import compile_writer, decimal, zigzag
from streams.recovery import Remembered, _memory_of
from tests.strategies import EDGES, records

CODEC = Codec({name: i for i, name in enumerate(RECORDS, 1)})
HEADERS = {name: b"\0" + i.to_bytes(4, "big") for i, name in enumerate(RECORDS, 1)}


def reference(name: str, body: bytes) -> Any:
    """What fastavro makes of these bytes: the record, or None when it refuses them or leaves some over."""
    stream = io.BytesIO(body)
    try:
        row: Any = fastavro.schemaless_reader(stream, _parsed(name), _parsed(name))
    except Exception:
        return None
    return record_from_dict(name, row) if stream.tell() == len(body) else None


def verdict(name: str, body: bytes) -> Any:
    """What our codec makes of them."""
    try:
        return CODEC.decode(HEADERS[name] + body)
    except UndecodableError as e:
        return None if (e.reason, bool(e.detail)) == ("undecodable", True) else e


@pytest.mark.parametrize("name", RECORDS)
@settings(max_examples=100)
@given(data=st.data())
def test_bytes_are_fastavros_and_come_back_as_the_record(name, data):
    record = data.draw(records(name))
    value = CODEC.encode(record)
    assert value == HEADERS[name] + avro_body(record)
    assert CODEC.decode(value) == record


@settings(max_examples=100)
@given(records("JournalRecord"))
def test_the_journals_body_is_the_record_without_its_chain(record):
    assert CODEC.journal_body(record) + record.chain == avro_body(record)


@given(records("JournalRecord"))
def test_what_a_take_over_remembers_of_a_record_is_in_the_record(record):
    found = _memory_of(CODEC.encode(record), CODEC)
    assert isinstance(found, Remembered)
    for name in Remembered.__struct_fields__:
        if name not in ("postings", "pending"):
            assert getattr(found, name) == getattr(record, name)
    assert [(p.account_id, p.side, p.amount) for p in found.postings] == [
        (p.account_id, p.side, p.amount) for p in record.postings
    ]
    assert [(p.hold_id, p.account_id, p.side, p.change, p.expired) for p in found.pending] == [
        (p.hold_id, p.account_id, p.side, p.change, p.expired) for p in record.pending
    ]


@given(record=records("JournalRecord"), offset=st.sampled_from([o for o in EDGES if o >= 0]))
def test_the_source_offset_is_read_at_a_take_over(record, offset):
    changed = msgspec.structs.replace(record, source_offset=offset)
    assert _memory_of(CODEC.encode(changed), CODEC).source_offset == offset


@given(st.integers(-(2**63), 2**63 - 1))
def test_zigzag_is_fastavros(n):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema({"type": "long"}), n)
    assert zigzag(n) == out.getvalue()


@given(st.integers(-(2**200), 2**200))
def test_decimal_is_as_short_as_it_can_be(n):
    raw = decimal(n)[1:]
    assert int.from_bytes(raw, "big", signed=True) == n
    assert len(raw) == 1 or int.from_bytes(raw[1:], "big", signed=True) != n


@pytest.mark.parametrize("name", RECORDS)
@settings(max_examples=100)
@given(body=st.binary(max_size=300))
@example(b"")
@example(b"\xff" * 9 + b"\x01")
@example(b"\xfe" + b"\xff" * 300)
@example(b"\x80" * 300)
def test_any_bytes_have_the_verdict_of_fastavro(name, body):
    assert verdict(name, body) == reference(name, body)


@pytest.mark.no_cover
@pytest.mark.parametrize("name", RECORDS)
@settings(max_examples=100)
@given(data=st.data())
def test_damaged_records_have_the_verdict_of_fastavro(name, data):
    """Real bytes, cut, with bytes changed, put in or taken out: near enough to right to get deep into the reader."""
    body = bytearray(CODEC.encode(data.draw(records(name)))[5:])
    for kind, where, what in data.draw(
        st.lists(
            st.tuples(st.sampled_from("cxid"), st.integers(0, 10**4), st.binary(min_size=1, max_size=3)), max_size=4
        )
    ):
        at = where % (len(body) + 1)
        match kind:
            case "c":
                del body[at:]
            case "x":
                body[at : at + len(what)] = what
            case "i":
                body[at:at] = what
            case "d":
                del body[at : at + len(what)]
    assert verdict(name, bytes(body)) == reference(name, bytes(body))


def test_every_single_byte_changed_in_real_records_has_the_verdict_of_fastavro():
    """Exhaustive over places; at each, the values at which something in the format tips."""
    for name in RECORDS:
        body = CODEC.encode(min(examples(name), key=lambda r: len(avro_body(r))))[5:]
        for at in range(len(body)):
            for value in {0, 1, 2, 3, 126, 127, 128, 129, 255, body[at] ^ 1, body[at] ^ 128}:
                changed = body[:at] + bytes((value,)) + body[at + 1 :]
                assert verdict(name, changed) == reference(name, changed), (name, at, value)


@settings(max_examples=500)
@given(st.none() | st.binary(max_size=64))
def test_decode_raises_one_kind_of_error_only(value):
    with pytest.raises(UndecodableError) as caught:
        CODEC.decode(value)
    if not value:
        assert caught.value.reason == "empty"
    elif len(value) < 5 or value[0] != 0:
        assert caught.value.reason == "not_framed"
    elif value[:5] not in HEADERS.values():
        assert isinstance(caught.value, UnknownSchemaError)
        assert caught.value.reason == "unknown_schema"
        assert caught.value.schema_id == int.from_bytes(value[1:5], "big")


def test_a_claimed_length_costs_nothing():
    """A few bytes that claim billions of entries are refused by what is not there, not by trying."""
    for claim in (2**31, 2**40, 2**62):
        for body in (zigzag(claim), b"\2a" * 2 + zigzag(claim), b"\2a\2k\2p\2o\2\6CNY" + zigzag(claim), zigzag(-claim)):
            assert verdict("Transaction", body) is None


# The other versions of a schema, which fastavro resolves against ours.


def _without(name: str, *fields: str) -> dict[str, Any]:
    schema = dict(schema_of(name))
    schema["fields"] = [f for f in schema["fields"] if f["name"] not in fields]
    return schema


@settings(max_examples=100)
@given(records("Transaction"))
def test_an_older_version_is_read_with_the_defaults(record):
    codec, old = Codec({"Transaction": 1}), _without("Transaction", "reference", "metadata")
    codec.add_writer_schema(7, msgspec.json.encode(old).decode())
    value = b"\0\0\0\0\7" + compile_writer(old)(record)
    assert codec.decode(value) == msgspec.structs.replace(record, reference="", metadata={})


@settings(max_examples=100)
@given(records("Transaction"))
def test_a_newer_version_is_read_without_its_new_fields(record):
    new = dict(schema_of("Transaction"))
    new["fields"] = [{"name": "channel", "type": "string", "default": ""}, *new["fields"]]
    codec = Codec({"Transaction": 1})
    codec.add_writer_schema(8, msgspec.json.encode(new).decode())
    assert codec.decode(b"\0\0\0\0\x08" + b"\4h5" + CODEC.encode(record)[5:]) == record


@pytest.mark.parametrize(
    "text", ['"string"', '{"type": "record", "name": "Transaction", "namespace": "elsewhere", "fields": []}',
             '{"type": "record", "name": "Loan", "namespace": "clearline", "fields": []}', '["null", "string"]', "7"],
)  # fmt: skip
def test_a_schema_that_is_not_ours_is_refused(text):
    with pytest.raises(UndecodableError) as caught:
        Codec({"Transaction": 1}).add_writer_schema(9, text)
    assert caught.value.reason == "unknown_schema"


def test_unknown_ids_are_named_once_each():
    codec = Codec({"Transaction": 1})
    known = codec.encode(examples("Transaction")[0])
    assert codec.unknown_ids([known, None, b"", b"\0\0", b"\1\0\0\0\5x", b"\0\0\0\0\5x", b"\0\0\0\0\5y"]) == {5}


def test_only_commands_stand_in_the_input():
    assert {n for n in RECORDS if CODEC.is_command(examples(n)[0])} == {c.__name__ for c in COMMANDS}


@pytest.mark.parametrize("schema", [{"type": "double"}, ["string", "null"], {"type": "array", "items": "string"}])
def test_what_the_compiler_does_not_know_it_refuses(schema):
    record = {"type": "record", "name": "Transaction", "fields": [{"name": "amount", "type": schema}]}
    with pytest.raises((ValueError, TypeError)):
        compile_writer(record)


@pytest.mark.no_cover
def test_mutated_and_spliced_records_have_the_verdict_of_fastavro():
    """Seeded mutation of real records, with splices between them; hypothesis looks for structure, this for luck."""
    seed, rounds = 20261122, 100_000
    random = Random(seed)
    corpus = [(n, CODEC.encode(r)[5:]) for n in RECORDS for r in examples(n)]
    for i in range(rounds):
        name, body = random.choice(corpus)
        changed = bytearray(body)
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(changed) + 1)
            other = random.choice(corpus)[1]
            match random.randrange(5):
                case 0:
                    changed[at : at + 1] = random.randbytes(1)
                case 1:
                    del changed[at : at + random.randint(1, 8)]
                case 2:
                    changed[at:at] = zigzag(random.choice([-1, -2, 1, 2**31, -(2**31), 2**63 - 1, -(2**63)]))
                case 3:
                    cut = random.randrange(len(other) + 1)
                    changed[at:] = other[cut:]
                case 4:
                    changed[at:at] = b"\x80" * random.randint(1, 12)
        assert verdict(name, bytes(changed)) == reference(name, bytes(changed)), (seed, i, name, bytes(changed).hex())


def test_the_writer_forgets_when_its_memory_is_full(monkeypatch):
    monkeypatch.setattr("schemas.writer._CACHED_MAX", 10)
    monkeypatch.setattr("schemas.reader._WORDS_MAX", 10)
    codec, base = Codec({"Transaction": 1}), examples("Transaction")[0]
    assert isinstance(base, Transaction)
    for i in range(50):
        record = msgspec.structs.replace(
            base, partner_id=f"p{i}", product=f"{i}", value_date=i, metadata={f"k{i}": "v"}
        )
        assert codec.decode(codec.encode(record)) == record
        assert codec.encode(record)[5:] == avro_body(record)
