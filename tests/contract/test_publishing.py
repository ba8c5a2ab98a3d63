"""docs/publishing.md: its bytes, partitions and names are what the SDK sends, and what others' serializers make."""

from __future__ import annotations

import io
import json
import re
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import pytest

from clearline.contract import read_command
from clearline.quick import QuickCheck
from clearline.sending import encode_chunk
from processors.settlement import REPLY_HEADER
from schemas.codec import HEADER_BYTES, Codec, schema_of, schema_text
from schemas.identity import command_id, murmur2, partition_of
from schemas.records import RECORDS
from streams import publisher
from streams.topics import Topics

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "publishing.md").read_text(encoding="utf-8")
DAY = date(2026, 11, 22)
CODEC = Codec({name: 1 if name == "Transaction" else 100 + i for i, name in enumerate(RECORDS)})


def block(language: str, after: str) -> str:
    """The first block of a language after a heading."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE[PAGE.index(after) :], re.S)
    assert found is not None
    return found[1]


DOCUMENT: dict[str, Any] = json.loads(block("json", "### Golden bytes"))
GOLDEN = bytes.fromhex("".join(block("", "With schema id 1").split()))


def test_the_codec_writes_the_pages_bytes_and_reads_them():
    command = read_command(DOCUMENT, DAY)
    assert CODEC.encode(command) == GOLDEN
    assert CODEC.decode(GOLDEN) == command


def test_publish_many_sends_the_pages_bytes_by_either_check():
    check = QuickCheck(CODEC, 4, 262_144)
    expected = {0: [{"value": GOLDEN, "key": b"acme"}]}
    for _ in range(2):  # the first time in full, then quickly
        assert encode_chunk(check, [DOCUMENT], DAY, lambda _i, e: pytest.fail(str(e))) == expected
    assert check.quick((DOCUMENT,), DAY) == expected


def test_fastavro_alone_writes_and_reads_the_pages_bytes():
    schema = fastavro.parse_schema(schema_of("Transaction"))
    row: Any = fastavro.schemaless_reader(io.BytesIO(GOLDEN[HEADER_BYTES:]), schema, None)
    assert (row["reference"], row["value_date"], row["exponent"]) == ("订单 1001", DAY, -1)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, row)
    assert out.getvalue() == GOLDEN[HEADER_BYTES:]


class OneSchema:
    """A registry that knows one schema under id 1; it is asked nothing else by the serializer."""

    def __new__(cls) -> Any:
        from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

        class Client(SchemaRegistryClient):
            def lookup_schema(self, subject_name: str, *_: Any, **__: Any) -> Any:
                from confluent_kafka.schema_registry import RegisteredSchema

                return RegisteredSchema(
                    subject_name, 1, 1, str(UUID(int=1)), Schema(schema_text("Transaction"), "AVRO")
                )

        return Client({"url": "http://127.0.0.1:1"})


@pytest.fixture
def registry() -> Any:
    pytest.importorskip("confluent_kafka.schema_registry.avro")
    return OneSchema()


def test_confluents_own_serializer_writes_the_pages_bytes(registry: Any):
    from confluent_kafka.schema_registry import record_subject_name_strategy
    from confluent_kafka.schema_registry.avro import AvroSerializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    rules = {"auto.register.schemas": False, "subject.name.strategy": record_subject_name_strategy}
    serializer = AvroSerializer(registry, schema_text("Transaction"), conf=rules)
    snippet = block("python", "### With confluent-kafka alone")
    row = eval(re.search(r"transaction = (\{.*?\n\})", snippet, re.S)[1])  # type: ignore[index]
    assert serializer(row, SerializationContext("t", MessageField.VALUE)) == GOLDEN


def test_names_partitions_and_topics_of_the_page():
    assert f"`{command_id(DOCUMENT['partner_id'], DOCUMENT['idempotency_key']).hex()}`" in PAGE
    rows = re.findall(r"^\| (\S+) \| (\d+) \| (\d+) \| (\d+) \|$", PAGE, re.M)
    assert len(rows) == 5
    for root, number, of_4, of_12 in rows:
        assert (murmur2(root.encode()), partition_of(root, 4), partition_of(root, 12)) == (
            int(number),
            int(of_4),
            int(of_12),
        )
        assert (int(number) & 0x7FFFFFFF) % 4 == int(of_4)
    assert f"`{Topics('live').submitted}`" in PAGE
    assert f"`{publisher.REPLY_HEADER}`" in PAGE
    assert publisher.REPLY_HEADER == REPLY_HEADER


def test_the_page_names_every_field_that_has_a_default_and_its_value():
    said = PAGE[PAGE.index("Every field is written") : PAGE.index("**The answer.**")]
    for field in schema_of("Transaction")["fields"]:
        if "default" in field:
            assert f"`{field['name']}`" in said, field["name"]
    assert {f["name"] for f in schema_of("Transaction")["fields"] if f.get("default") in ("", [], {}, False, 0)} | {
        "exponent"
    } == {f["name"] for f in schema_of("Transaction")["fields"] if "default" in f}
