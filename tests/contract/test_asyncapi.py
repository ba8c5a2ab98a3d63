"""docs/asyncapi.yaml is what the code says, is AsyncAPI 3.0, and its examples are records.

When it differs: `python -m clearline asyncapi --out docs/asyncapi.yaml`.
"""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from clearline import asyncapi, cli
from clearline.config import Settings
from clearline.contract import parse_line
from clearline.generator_shelf import shelf_of
from schemas.codec import Codec, schema_of
from schemas.examples import record_of
from schemas.records import COMMANDS, RECORDS, Limit, SetLimit
from streams.letters import letter_of
from streams.reader import LogRecord
from streams.topics import Topics
from tests.books import Books

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "docs" / "asyncapi.yaml"
SCHEMA = json.loads((Path(__file__).parent / "asyncapi" / "3.0.0.json").read_text(encoding="utf-8"))
NOT_IN_A_TOPIC = {"DeadLetter"}  # what is made of a dead letter when it is read


@pytest.fixture(scope="module")
def document() -> Any:
    return yaml.safe_load(COMMITTED.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec({name: i for i, name in enumerate(RECORDS, 1)})


def problems(document: Any) -> list[str]:
    return [f"{e.json_path}: {e.message}" for e in Draft7Validator(SCHEMA).iter_errors(document)]


def messages(document: Any) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["messages"]
    return found


def test_the_committed_document_is_what_the_code_says():
    assert COMMITTED.read_text(encoding="utf-8") == asyncapi.to_yaml(), __doc__


def test_the_command_writes_it_in_yaml_and_in_json(tmp_path, capsys):
    assert cli.main(["asyncapi", "--out", str(tmp_path / "a.yaml")]) == 0
    assert (tmp_path / "a.yaml").read_text(encoding="utf-8") == asyncapi.to_yaml()
    capsys.readouterr()
    assert cli.main(["asyncapi", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == asyncapi.document()


def test_it_is_asyncapi_3(document):
    Draft7Validator.check_schema(SCHEMA)
    assert problems(document) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("asyncapi",), "2.6.0"),
        (("channels", "journal", "bindings", "kafka", "partitions"), 0),
        (("channels", "journal", "bindings", "kafka", "topicConfiguration", "cleanup.policy"), "compact"),
        (("channels", "journal", "messages", "JournalRecord"), 1),
        (("operations", "send_journal", "action"), "publish"),
        (("components", "messages", "Reply", "payload", "schema", "type"), "recort"),
        (("components", "messages", "Reply", "bindings", "kafka", "schemaIdLocation"), "footer"),
        (("components", "messages", "Reply", "examples", 0), {"value": {}}),
    ],
)
def test_what_is_not_asyncapi_3_is_found(document, path, value):
    broken = json.loads(json.dumps(document))
    inner = broken
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    assert problems(broken)


def test_every_reference_leads_somewhere(document):
    def references(part):
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                yield part["$ref"]
            for inner in part.values():
                yield from references(inner)
        elif isinstance(part, list):
            for inner in part:
                yield from references(inner)

    found = set(references(document))
    assert found
    for reference in found:
        inner = document
        for name in reference.removeprefix("#/").split("/"):
            inner = inner[name]


def test_every_topic_and_every_record_is_in_it(document):
    topics = Topics("{world}")
    assert {c["address"] for c in document["channels"].values()} == set(topics.settings())
    assert set(messages(document)) - {"DeadLetter"} == set(RECORDS) - NOT_IN_A_TOPIC
    assert set(document["channels"]["submitted"]["messages"]) == {c.__name__ for c in COMMANDS}
    named = {name for c in document["channels"].values() for name in c["messages"]}
    assert named == set(messages(document))


def test_topics_are_as_they_are_created(document):
    for name, settings in Topics("{world}").settings().items():
        (channel,) = [c for c in document["channels"].values() if c["address"] == name]
        kafka = channel["bindings"]["kafka"]
        assert kafka["topic"] == name
        assert kafka["partitions"] == Settings.model_fields["partitions"].default
        told = {k: ",".join(v) if isinstance(v, list) else str(v) for k, v in kafka["topicConfiguration"].items()}
        assert told == {"cleanup.policy": "delete", **settings}


def test_schemas_are_the_registered_ones(document):
    for name, message in messages(document).items():
        if name != "DeadLetter":
            assert message["payload"]["schema"] == schema_of(name)


def test_every_example_is_encoded_and_decoded_again(document, codec):
    seen = 0
    for name, message in messages(document).items():
        examples = message["examples"]
        assert examples, name
        for example in examples:
            if name == "DeadLetter":
                assert set(example["headers"]) == set(message["headers"]["required"])
                continue
            record = record_of(name, example["payload"])
            assert codec.decode(codec.encode(record)) == record
            seen += 1
    assert seen >= len(RECORDS) - 1


def test_dead_letters_headers_are_those_that_are_written(document):
    """The document's examples, as Kafka headers, make the dead letter that they say."""
    for example in messages(document)["DeadLetter"]["examples"]:
        headers = [(k, v.encode()) for k, v in example["headers"].items()]
        letter = letter_of(LogRecord(0, 0, 0, b"k", b"v", headers))
        assert {n: str(getattr(letter, n)) for n in example["headers"]} == example["headers"]


def test_keys_are_those_of_real_records(document):
    """Each key of the state topic that a ledger writes is of the kind that its record's message says."""
    books = Books(3, 1_795_348_800_000)
    for published in shelf_of(1):
        books.give(published)
    for name in ("first", "holds", "shelf"):
        for line in (ROOT / "docs" / "examples" / f"{name}.jsonl").read_bytes().splitlines():
            books.give(parse_line(line, date(2026, 11, 22)))
    books.give(SetLimit("bank", "l-1", "partner", "acme", (Limit("day", "CNY", None, 1_000_000),), ""))
    seen = set()
    for book in books.books:
        for key, row in book.draft.rows.items():
            if row is not None:
                pattern = messages(document)[type(row).__name__]["bindings"]["kafka"]["key"]["pattern"]
                assert re.match(pattern, key), (type(row).__name__, key)
                seen.add(type(row).__name__)
    assert {"LimitState", "UsageState", "ProductState"} <= seen
