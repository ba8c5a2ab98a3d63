"""Confluent wire format: byte 0, a 4-byte schema id, the Avro body. One `Codec` knows the ids of one registry.

The compiled reader and writer do the common case; fastavro does every other: older and newer versions of a schema
(resolved against ours), and the verdict on bytes that do not decode.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

import fastavro
import msgspec

from schemas import records
from schemas.reader import compile_reader
from schemas.records import COMMANDS, RECORDS, Record
from schemas.writer import compile_writer

MAGIC = b"\0"
HEADER_BYTES = 5
JOURNAL_PREFIX_BYTES = 25  # command_id 16, payload_digest 8, binds_key 1
CHAIN_BYTES = 32

# Every record class by its Avro name, those inside of others too.
_CLASSES: dict[str, type] = {n: c for n, c in vars(records).items() if isinstance(c, type) and issubclass(c, Record)}
_LOGICAL = ("logicalType", "precision", "scale")


class UndecodableError(ValueError):
    """The bytes are not a record of ours. `reason` is the stable code of the dead letter, `detail` names the rule."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class UnknownSchemaError(UndecodableError):
    """The bytes carry a schema id that is not known here; ask the registry, then decide."""

    def __init__(self, schema_id: int) -> None:
        super().__init__("unknown_schema", f"schema id {schema_id} is not in the registry")
        self.schema_id = schema_id


@cache
def schema_text(record_name: str) -> str:
    """The committed .avsc document of a record, as it is registered. Raises FileNotFoundError for an unknown name."""
    return (files("schemas") / "avro" / f"{record_name}.avsc").read_text(encoding="utf-8")


@cache
def schema_of(record_name: str) -> dict[str, Any]:
    """The committed schema as a document."""
    document: dict[str, Any] = json.loads(schema_text(record_name))
    return document


def _physical(schema: Any) -> Any:
    """The schema without logical types: dates stay day numbers, times stay milliseconds, decimals stay bytes."""
    if isinstance(schema, dict):
        return {k: _physical(v) for k, v in schema.items() if k not in _LOGICAL}
    if isinstance(schema, list):
        return [_physical(s) for s in schema]
    return schema


@cache
def _parsed(record_name: str) -> Any:
    return fastavro.parse_schema(_physical(schema_of(record_name)))


@cache
def _with_decimals(record_name: str) -> Any:
    return fastavro.parse_schema(schema_of(record_name))


@cache
def _rows_of(record_name: str) -> dict[str, str]:
    """Fields of a record that hold a row of other records: field -> that record's name."""
    if record_name not in RECORDS:
        return {}
    types = {f["name"]: f["type"] for f in schema_of(record_name)["fields"]}
    return {n: t["items"]["name"] for n, t in types.items() if isinstance(t, dict) and t["type"] == "array"}


_DECIMALS = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")


def record_from_dict(record_name: str, values: Mapping[str, Any]) -> Record:
    """A record from fastavro's dict: counters from bytes to int, legs to records. Raises UndecodableError."""
    row = dict(values)
    for name in _DECIMALS:
        if isinstance(row.get(name), bytes):
            row[name] = int.from_bytes(row[name], "big", signed=True)
    for name, item in _rows_of(record_name).items():
        if name in row:
            row[name] = tuple(record_from_dict(item, r) for r in row[name])
    try:
        record: Record = _CLASSES[record_name](**row)
    except TypeError as e:
        raise UndecodableError("contract", str(e)) from None
    return record


def avro_body(record: Record) -> bytes:
    """The record's Avro body by fastavro, the reference that the compiled writer is tested against."""
    row = _as_dict(record)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, _with_decimals(type(record).__name__), _as_decimals(row))
    return out.getvalue()


def _as_decimals(row: dict[str, Any]) -> dict[str, Any]:
    for name in _DECIMALS:
        if name in row:
            row[name] = Decimal(row[name])
    for rows in [v for v in row.values() if isinstance(v, list)]:
        for inner in rows:
            _as_decimals(inner)
    return row


def _as_dict(record: Record) -> dict[str, Any]:
    """Every field by name, also those at their default, which msgspec leaves out of a command."""
    row = msgspec.structs.asdict(record)
    for name in _rows_of(type(record).__name__):
        row[name] = [msgspec.structs.asdict(inner) for inner in row[name]]
    return row


class Codec:
    """Encodes and decodes the records of `ids`, a mapping of record name to the registry's schema id."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._headers = {name: MAGIC + i.to_bytes(4, "big") for name, i in ids.items()}
        self._writers: dict[str, Callable[[Any], bytes]] = {name: compile_writer(schema_of(name)) for name in ids}
        self._readers: dict[bytes, tuple[str, Callable[[bytes, int], Any]]] = {
            header: (name, compile_reader(schema_of(name), _CLASSES)) for name, header in self._headers.items()
        }
        self._foreign: dict[bytes, tuple[str, Any]] = {}
        self.journal_header = self._headers.get("JournalRecord", b"")
        self.journal_body = compile_writer(schema_of("JournalRecord"), without="chain")

    def add_writer_schema(self, schema_id: int, text: str) -> None:
        """Learns another version of one of our schemas, as the registry has it.

        Raises UndecodableError("unknown_schema") when it is not one of our records.
        """
        schema = _physical(json.loads(text))
        named = schema if isinstance(schema, dict) else {}
        name = named.get("name", "")
        if named.get("namespace") != "clearline" or name not in RECORDS:
            raise UndecodableError("unknown_schema", f"schema id {schema_id} is not a record of clearline")
        self._foreign[MAGIC + schema_id.to_bytes(4, "big")] = (name, fastavro.parse_schema(schema))

    def unknown_ids(self, values: Iterable[bytes | None]) -> set[int]:
        """The schema ids among these framed values that this codec has not learnt."""
        heads = {v[:HEADER_BYTES] for v in values if v}
        return {
            int.from_bytes(h[1:], "big")
            for h in heads
            if len(h) == HEADER_BYTES and h[:1] == MAGIC and h not in self._readers and h not in self._foreign
        }

    def name_of(self, value: bytes) -> str:
        """The name of the record in these framed bytes, by their schema id; empty for an id that is not known."""
        head = value[:HEADER_BYTES]
        found = self._readers.get(head) or self._foreign.get(head)
        return found[0] if found else ""

    def encode(self, record: Record) -> bytes:
        """The record in wire format. Raises KeyError for a record whose schema id is not known."""
        name = type(record).__name__
        return self._headers[name] + self._writers[name](record)

    def decode(self, value: bytes | None) -> Any:
        """The record in these bytes. Raises UndecodableError with the reason; never another exception."""
        try:
            return self._readers[value[:HEADER_BYTES]][1](value, HEADER_BYTES)  # type: ignore[index, arg-type]
        except Exception:
            return self._decode_slowly(value)

    def _decode_slowly(self, value: bytes | None) -> Any:
        if not value:
            raise UndecodableError("empty", "the record has no value")
        head = value[:HEADER_BYTES]
        if len(head) < HEADER_BYTES or head[:1] != MAGIC:
            raise UndecodableError("not_framed", "the value does not start with byte 0 and a 4-byte schema id")
        if head in self._readers:
            name = self._readers[head][0]
            writer = _parsed(name)
        elif head in self._foreign:
            name, writer = self._foreign[head]
        else:
            raise UnknownSchemaError(int.from_bytes(head[1:], "big"))
        body = io.BytesIO(value)
        body.seek(HEADER_BYTES)
        try:
            row: Any = fastavro.schemaless_reader(body, writer, _parsed(name))
        except Exception as e:  # fastavro raises many kinds on hostile bytes
            detail = f"{name}: {type(e).__name__}: {e}"[:300]
            raise UndecodableError("undecodable", detail) from None
        if body.tell() != len(value):
            left = len(value) - body.tell()
            raise UndecodableError("undecodable", f"{name}: {left} bytes are left over after the record")
        return record_from_dict(name, row)

    def is_command(self, record: object) -> bool:
        """Whether a decoded record is one that may stand in transactions.submitted."""
        return type(record).__name__ in _COMMAND_NAMES


_COMMAND_NAMES = frozenset(c.__name__ for c in COMMANDS)
