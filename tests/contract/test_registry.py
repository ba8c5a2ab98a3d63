"""The real registry against what we decide offline, and our codec against the client library's own serializer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from clearline.config import load_settings
from clearline.stack import Stack
from schemas.codec import Codec, UndecodableError, schema_of, schema_text
from schemas.errors import BadInputError
from schemas.examples import examples
from schemas.records import RECORDS, Record, Subjects
from streams.registry import Registry  # first: it silences a library's announcement
from tests.compatibility import can_read

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1_200)]

SEED = 20261122
MODES = ("NONE", "BACKWARD", "FORWARD", "FULL", "BACKWARD_TRANSITIVE", "FORWARD_TRANSITIVE", "FULL_TRANSITIVE")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real registry of this module's own."""
    settings = load_settings(data_dir=tmp_path_factory.mktemp("registry"))
    with Stack(settings, parts=("registry",)) as stack:
        stack.start()
        yield str(stack.resolved().registry.url)


@pytest.fixture(scope="module")
def codec(url: str) -> Codec:
    Registry(url).register_all()
    return Registry(url).codec()


# Generated histories.

_TYPES: list[Any] = [
    "string", "long", "int", "boolean", "bytes", ["null", "string"], ["null", "long"],
    {"type": "map", "values": "string"}, {"type": "array", "items": "long"},
]  # fmt: skip
_DEFAULTS: dict[str, Any] = {"string": "", "long": 0, "int": 0, "boolean": False, "bytes": ""}


def _default(kind: Any) -> Any:
    if isinstance(kind, list):
        return None
    return _DEFAULTS[kind] if isinstance(kind, str) else {"map": {}, "array": []}.get(kind["type"], "a")


def _field(random: Random, number: int) -> dict[str, Any]:
    kind = random.choice(_TYPES)
    if random.random() < 0.15:
        kind = {"type": "enum", "name": f"E{number}", "symbols": ["a", "b", "c"]}
    elif random.random() < 0.1:
        kind = {"type": "fixed", "name": f"F{number}", "size": 8}
    field = {"name": f"f{number}", "type": kind}
    if random.random() < 0.5 and not (isinstance(kind, dict) and kind["type"] == "fixed"):
        field["default"] = _default(kind)
    return field


def _next(random: Random, schema: dict[str, Any], number: int) -> tuple[dict[str, Any], str]:
    """The next version of a schema, and what was done to it."""
    new = json.loads(json.dumps(schema))
    fields = new["fields"]
    field = random.choice(fields)
    change = random.choice(
        [
            "add",
            "add",
            "remove",
            "remove",
            "widen",
            "other type",
            "optional",
            "default",
            "symbols",
            "size",
            "doc",
            "order",
        ]
    )
    match change:
        case "add":
            fields.append(_field(random, number))
        case "remove" if len(fields) > 1:
            fields.remove(field)
        case "widen" if field["type"] == "int":
            field["type"] = "long"
        case "other type":
            field.pop("default", None)
            field["type"] = random.choice(_TYPES)
        case "optional" if field["type"] in ("string", "long"):
            field.pop("default", None)
            field["type"] = ["null", field["type"]]
        case "default":
            if "default" in field:
                del field["default"]
            elif not (isinstance(field["type"], dict) and field["type"]["type"] == "fixed"):
                field["default"] = _default(field["type"])
        case "symbols" if isinstance(field["type"], dict) and field["type"]["type"] == "enum":
            field["type"]["symbols"] = random.choice([["a", "b", "c", "d"], ["a", "b"]])
        case "size" if isinstance(field["type"], dict) and field["type"]["type"] == "fixed":
            field["type"]["size"] = 16
        case "order":
            fields.reverse()
        case _:
            change, new["doc"] = "doc", f"Version {number}."
    return new, change


def _offline(mode: str, versions: list[str], new: str) -> bool:
    against = versions if mode.endswith("TRANSITIVE") else versions[-1:]
    backward = mode.startswith(("BACKWARD", "FULL"))
    forward = mode.startswith(("FORWARD", "FULL"))
    return not any((backward and can_read(new, v)) or (forward and can_read(v, new)) for v in against)


def test_the_registry_gives_the_verdicts_that_we_give_offline(url):
    """200 generated histories of two versions, and a third that asks to be let in, under every mode."""
    random, client = Random(SEED), SchemaRegistryClient({"url": url})
    seen = Counter[tuple[str, bool]]()
    for i in range(200):
        subject = f"clearline.generated.R{i}"
        first = {"type": "record", "name": f"R{i}", "namespace": "clearline.generated",
                 "fields": [_field(random, n) for n in range(random.randint(2, 4))]}  # fmt: skip
        second, _ = _next(random, first, 10)
        third, change = _next(random, second, 20)
        versions, new = [json.dumps(first), json.dumps(second)], json.dumps(third)
        client.register_schema(subject, Schema(versions[0], "AVRO"))
        client.set_compatibility(subject_name=subject, level="NONE")
        client.register_schema(subject, Schema(versions[1], "AVRO"))
        for mode in MODES:
            client.set_compatibility(subject_name=subject, level=mode)
            transitive = mode.endswith("TRANSITIVE")
            ask = client.test_compatibility_all_versions if transitive else client.test_compatibility
            theirs = ask(subject, Schema(new, "AVRO"))
            ours = _offline(mode, versions, new)
            seen[mode, ours] += 1
            assert theirs == ours, (SEED, i, mode, change, versions, new)
    print(f"seed {SEED}: verdicts {dict(sorted(seen.items()))}")
    assert all(seen[mode, verdict] >= 20 for mode in MODES[1:] for verdict in (True, False)), seen


# Our own schemas.


def test_ids_are_the_same_when_asked_again(url):
    assert Registry(url).register_all() == Registry(url).register_all() == Registry(url).ids()


def test_a_worker_refuses_to_run_on_a_registry_that_was_not_set_up(tmp_path):
    with Stack(load_settings(data_dir=tmp_path), parts=("registry",)) as stack:
        stack.start()
        with pytest.raises(BadInputError, match=r"run `./run up`"):
            Registry(str(stack.resolved().registry.url)).ids()


@pytest.mark.parametrize("name", ["Transaction", "JournalRecord"])
def test_an_incompatible_version_of_ours_is_refused_by_the_registry(url, codec, name):
    client = SchemaRegistryClient({"url": url})
    schema = json.loads(schema_text(name))
    schema["fields"].append({"name": "channel", "type": "string"})
    assert not client.test_compatibility_all_versions(Subjects.of(name), Schema(json.dumps(schema), "AVRO"))
    schema["fields"][-1]["default"] = ""
    assert client.test_compatibility_all_versions(Subjects.of(name), Schema(json.dumps(schema), "AVRO"))


def test_a_newer_schema_that_another_publisher_registered_is_learnt_by_its_id(url, codec):
    client, record = SchemaRegistryClient({"url": url}), examples("Transaction")[0]
    schema = json.loads(schema_text("Transaction"))
    schema["fields"].append({"name": "channel", "type": "string", "default": ""})
    new_id = client.register_schema(Subjects.of("Transaction"), Schema(json.dumps(schema), "AVRO"))
    value = b"\0" + new_id.to_bytes(4, "big") + codec.encode(record)[5:] + b"\4h5"
    with pytest.raises(UndecodableError, match="unknown_schema"):
        codec.decode(value)
    assert codec.unknown_ids([value]) == {new_id}
    text = Registry(url).schema_text(new_id)
    assert text is not None
    codec.add_writer_schema(new_id, text)
    assert codec.decode(value) == record


def test_an_id_that_nobody_registered_is_unknown(url):
    assert Registry(url).schema_text(999_999) is None


# The client library's own serializer, which partners use.


def _varied(random: Random, base: Record, i: int) -> Record:
    """A record near an example: every plain field of it may change."""
    changes: dict[str, Any] = {}
    for field, value in msgspec.structs.asdict(base).items():
        if field in ("side", "type", "outcome"):
            continue
        if isinstance(value, bool):
            changes[field] = random.random() < 0.5
        elif isinstance(value, int):
            changes[field] = random.getrandbits(_BITS.get(field, random.choice([1, 7, 14, 30, 62])))
        elif isinstance(value, str) and field != "value":
            changes[field] = f"{value}-{'é' * random.randrange(3)}{i}"
        elif isinstance(value, bytes):
            changes[field] = random.randbytes(len(value))
        elif isinstance(value, tuple):
            changes[field] = tuple(_varied(random, p, i) for p in value)
    return msgspec.structs.replace(base, **changes)


_COUNTERS = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")


def _bits() -> dict[str, int]:
    """How large a field's numbers may be, by its type: dates and times no larger than Python's datetime can hold."""
    out = dict.fromkeys(_COUNTERS, 100)

    def look(node: Any) -> None:
        for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            look(part)
        if isinstance(node, dict) and "name" in node:
            kind = node.get("type")
            logical = kind.get("logicalType", "") if isinstance(kind, dict) else ""
            bits = {"date": 20, "timestamp-millis": 46}.get(logical) or (30 if kind == "int" else None)
            if bits is not None:
                out[node["name"]] = min(bits, out.get(node["name"], bits))

    for name in RECORDS:
        look(schema_of(name))
    return out


_BITS = _bits()


def _as_theirs(record: Record) -> dict[str, Any]:
    """The record as the client library wants it: decimals as Decimal; dates and times stay numbers, which it takes."""
    from decimal import Context, Decimal

    wide = Context(prec=40)
    row: dict[str, Any] = msgspec.to_builtins(record, builtin_types=(bytes,))
    for part in (row, *row.get("postings", ()), *row.get("pending", ())):
        part.update({k: wide.create_decimal(Decimal(v)) for k, v in part.items() if k in _COUNTERS})
    return row


def test_10_000_records_are_the_same_bytes_as_the_client_librarys(url, codec):
    random, client = Random(SEED), SchemaRegistryClient({"url": url})
    # Apicurio tells texts apart by their spaces unless it is asked to normalize them; Confluent's registry never does.
    settings = {
        "normalize.schemas": True,
        "auto.register.schemas": False,
        "subject.name.strategy": record_subject_name_strategy,
    }
    context = SerializationContext("live.any", MessageField.VALUE)
    writers = {n: AvroSerializer(client, schema_text(n), conf=settings) for n in RECORDS}
    readers = {n: AvroDeserializer(client, schema_text(n)) for n in RECORDS}
    pool = [(n, r) for n in RECORDS for r in examples(n)]
    for i in range(10_000):
        name, base = pool[i % len(pool)]
        record = _varied(random, base, i)
        ours = codec.encode(record)
        theirs = writers[name](_as_theirs(record), context)
        assert ours == theirs, (SEED, i, record)
        assert codec.decode(theirs) == record
        if i % 10 == 0:
            assert codec.encode(record) == writers[name](readers[name](ours, context), context), (SEED, i, record)
