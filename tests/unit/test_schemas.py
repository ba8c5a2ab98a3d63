"""The contracts stand still: records, schemas, ids, examples and the history agree with each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.codec import CHAIN_BYTES, JOURNAL_PREFIX_BYTES, Codec, avro_body, schema_of, schema_text
from schemas.examples import examples
from schemas.identity import command_id, murmur2, owner_of, partition_of, payload_digest, root_of, tree_of
from schemas.records import COMMANDS, RECORDS, CloseAccount, JournalRecord, PostedLeg, Posting, Subjects, Transaction
from tests.compatibility import full, full_transitive

AVRO = Path(__file__).resolve().parents[2] / "schemas" / "avro"
CODEC = Codec({name: i for i, name in enumerate(RECORDS, 1)})


def history(record_name: str) -> list[str]:
    """The committed versions of a schema, oldest first."""
    files = sorted((AVRO / "history" / record_name).glob("*.avsc"), key=lambda f: int(f.stem))
    assert [int(f.stem) for f in files] == list(range(1, len(files) + 1)), "versions are numbered 1, 2, 3 ..."
    return [f.read_text(encoding="utf-8") for f in files]


def test_there_is_one_schema_per_record():
    assert {f.stem for f in AVRO.glob("*.avsc")} == set(RECORDS)
    assert {d.name for d in (AVRO / "history").iterdir()} == set(RECORDS)
    assert {f.stem for f in (AVRO / "examples").glob("*.json")} == set(RECORDS)


@pytest.mark.parametrize("name", RECORDS)
def test_record_has_the_fields_of_its_schema_in_their_order(name):
    schema = schema_of(name)
    assert (schema["name"], schema["namespace"]) == (name, "clearline")
    assert [f["name"] for f in schema["fields"]] == list(RECORDS[name].__struct_fields__)
    assert Subjects.of(name) == f"clearline.{name}"


@pytest.mark.parametrize(("name", "made"), [("Transaction", Posting), ("JournalRecord", PostedLeg)])
def test_leg_has_the_fields_of_its_schema_in_their_order(name, made):
    items = next(f for f in schema_of(name)["fields"] if f["name"] == "postings")["type"]["items"]
    assert (items["name"], [f["name"] for f in items["fields"]]) == (made.__name__, list(made.__struct_fields__))


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_is_documented(name):
    schema = schema_of(name)
    assert schema["doc"].endswith(".")
    assert all(f["doc"].endswith(".") for f in schema["fields"]), [f["name"] for f in schema["fields"]]


@pytest.mark.parametrize("name", RECORDS)
def test_no_field_of_bytes_has_a_default(name):
    """Apicurio 2.6 finds no schema again that has one, when it is asked to normalize: as most client libraries do."""
    assert not [f["name"] for f in schema_of(name)["fields"] if f["type"] == "bytes" and "default" in f]


@pytest.mark.parametrize("made", COMMANDS, ids=lambda c: c.__name__)
def test_every_command_names_who_asks_and_under_which_key_first(made):
    assert made.__struct_fields__[:2] == ("partner_id", "idempotency_key")


def test_journal_record_starts_with_what_a_rebuild_reads_and_ends_with_the_chain():
    schema = schema_of("JournalRecord")
    assert [f["name"] for f in schema["fields"][:3]] == ["command_id", "payload_digest", "binds_key"]
    assert schema["fields"][-1]["name"] == "chain"
    record = examples("JournalRecord")[1]
    assert isinstance(record, JournalRecord)
    value = CODEC.encode(record)
    fixed = value[5 : 5 + JOURNAL_PREFIX_BYTES]
    assert fixed == record.command_id + record.payload_digest + b"\1"
    assert value == CODEC.journal_header + CODEC.journal_body(record) + value[-CHAIN_BYTES:]
    assert value[-CHAIN_BYTES:] == record.chain


@pytest.mark.parametrize("name", RECORDS)
def test_examples_survive_the_wire_and_are_what_fastavro_writes(name):
    for record in examples(name):
        value = CODEC.encode(record)
        assert value[5:] == avro_body(record)
        assert CODEC.decode(value) == record


def test_examples_of_the_journal_name_their_commands():
    commands: list[Any] = [c for k in COMMANDS for c in examples(k.__name__)]
    by_id = {command_id(c.partner_id, c.idempotency_key): c for c in commands}
    journal = [r for r in examples("JournalRecord") if isinstance(r, JournalRecord)]
    assert {r.outcome for r in journal} == {"settled", "rejected", "repeated", "applied"}
    assert all(payload_digest(by_id[r.command_id]) == r.payload_digest for r in journal)


# Golden values: whoever changes one of these breaks every publisher in another language and every stored journal.


@pytest.mark.parametrize(
    ("text", "number"),
    # The first five are those of Kafka's own UtilsTest.
    [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536),
     ("a-little-bit-longer-string", -1486304829), ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
     ("", 275646681), ("acme", -1281648380), ("汇通", 868851450)],
)  # fmt: skip
def test_murmur2_is_kafkas(text, number):
    assert murmur2(text.encode()) == number & 0xFFFFFFFF


def test_partition_is_the_root_partners():
    assert partition_of("acme/shop-17", 8) == partition_of("acme", 8) == (-1281648380 & 0x7FFFFFFF) % 8
    assert (root_of("acme/a/b"), root_of("acme"), owner_of("acme/a:wallet:x")) == ("acme", "acme", "acme/a")


def test_the_banks_transaction_belongs_to_one_tree_however_its_roles_are_ordered():
    roles = {"payee": "zeta:till", "payer": "acme:till", "fees": "bank:fees:CNY", "broker": "beta:till"}
    for order in (roles, dict(reversed(roles.items()))):
        t = Transaction("bank", "k", "payment", "pay", 1, "CNY", order, (), 0)
        assert tree_of(t) == "acme"
        assert tree_of(msgspec.structs.replace(t, accounts={k: v for k, v in order.items() if k != "payer"})) == "beta"
        assert tree_of(msgspec.structs.replace(t, partner_id="zeta/shop")) == "zeta"


def test_command_id_is_pinned():
    assert command_id("acme", "o-1001").hex() == "db2c302e6230361e9fcc2159b5ba1743"
    assert command_id("acme/shop-17", "till-0007").hex() == "1e6d23728338b245fe112ac76613df4d"


@pytest.mark.parametrize("made", COMMANDS, ids=lambda c: c.__name__)
def test_payload_digest_is_the_same_after_the_wire(made):
    """Also where a field has its default: what is left out must not depend on who made the object."""
    for example in examples(made.__name__):
        fields = {f.name: f.default for f in msgspec.structs.fields(made) if f.default is not msgspec.NODEFAULT}
        for command in (example, msgspec.structs.replace(example, **fields)):
            assert payload_digest(CODEC.decode(CODEC.encode(command))) == payload_digest(command)  # type: ignore[arg-type]


def test_payload_digest_is_pinned():
    alice = examples("Transaction")[0]
    assert isinstance(alice, Transaction)
    assert payload_digest(alice).hex() == "09fa7b83dbe75685"
    turned = dict(reversed(alice.accounts.items()))
    assert payload_digest(msgspec.structs.replace(alice, accounts=turned)) == payload_digest(alice)


@pytest.mark.parametrize("field", Transaction.__struct_fields__)
def test_payload_digest_binds_every_field(field):
    base, other = examples("Transaction")[:2]
    assert isinstance(base, Transaction)
    changed = msgspec.structs.replace(base, **{field: getattr(other, field)})
    if getattr(base, field) != getattr(other, field):
        assert payload_digest(changed) != payload_digest(base)


def test_payload_digest_tells_commands_apart():
    block = examples("CloseAccount")[0]
    values = msgspec.structs.asdict(block)
    seen = {payload_digest(k(**values)) for k in COMMANDS if set(k.__struct_fields__) == set(values)}  # type: ignore[arg-type]
    assert isinstance(block, CloseAccount)
    assert payload_digest(block) in seen


# History: FULL_TRANSITIVE, and nobody forgets to add a version.


@pytest.mark.parametrize("name", RECORDS)
def test_history_is_full_transitive_and_ends_with_the_current_schema(name):
    versions = history(name)
    assert full_transitive(versions) == []
    assert json.loads(versions[-1]) == schema_of(name), (
        f"schemas/avro/{name}.avsc changed: add it as history/{name}/{len(versions) + 1}.avsc"
    )


def _changed(name: str, change: str) -> str:
    schema = json.loads(schema_text(name))
    fields = schema["fields"]
    match change:
        case "a new field without a default":
            fields.append({"name": "channel", "type": "string", "doc": "New."})
        case "a field without a default removed":
            del fields[0]
        case "a field's type widened":
            next(f for f in fields if f["name"] == "value_date")["type"] = "long"
        case "a field's type narrowed":
            next(f for f in fields if f["name"] == "amount")["type"] = "int"
        case "a new field with a default":
            fields.append({"name": "channel", "type": "string", "default": "", "doc": "New."})
        case "a field with a default removed":
            schema["fields"] = [f for f in fields if f["name"] != "reference"]
        case "documentation":
            schema["doc"] = "Other words."
    return json.dumps(schema)


@pytest.mark.parametrize(
    ("change", "allowed"),
    [("a new field without a default", False), ("a field without a default removed", False),
     ("a field's type widened", False), ("a field's type narrowed", False), ("a new field with a default", True),
     ("a field with a default removed", True), ("documentation", True)],
)  # fmt: skip
def test_the_check_of_compatibility_bites(change, allowed):
    problems = full(schema_text("Transaction"), _changed("Transaction", change))
    assert (problems == []) is allowed, problems


def test_transitive_means_every_version_with_every_other():
    """A field that comes with a default, loses it, and goes: each step is FULL, the ends are not."""

    def version(*fields):
        return json.dumps({"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}, *fields]})

    versions = [version(), version({"name": "b", "type": "long", "default": 0}), version({"name": "b", "type": "long"})]
    assert full(*versions[:2]) == full(*versions[1:]) == []
    assert [p.split(":")[0] for p in full_transitive(versions)] == ["1 and 3"]
