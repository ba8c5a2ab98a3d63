"""Example payloads beside the schemas: the same ones in tests, documents and benchmarks, so that they cannot go stale.

A file holds a list of records as JSON, fields as in the record class: amounts in minor units, dates in days, times in
milliseconds; bytes are written in hexadecimal.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, get_type_hints

import msgspec

from schemas.records import RECORDS, Record


def examples(record_name: str) -> tuple[Record, ...]:
    """The examples of one record. Raises KeyError for an unknown record, msgspec.ValidationError for a wrong file."""
    return tuple(record_of(record_name, d) for d in documents(record_name))


def documents(record_name: str) -> list[dict[str, Any]]:
    """The same as they are written. Raises KeyError for an unknown record."""
    if record_name not in RECORDS:
        raise KeyError(record_name)
    text = (files("schemas") / "avro" / "examples" / f"{record_name}.json").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(text)
    return found


def record_of(record_name: str, document: dict[str, Any]) -> Record:
    """The record that one of them writes down. Raises as `examples` does."""
    made = RECORDS[record_name]
    hints = get_type_hints(made)
    return msgspec.convert({k: _bytes(v, hints[k]) for k, v in document.items()}, made, builtin_types=(bytes,))


def _bytes(value: Any, hint: Any) -> Any:
    if isinstance(value, list):
        return [{k: bytes.fromhex(v) if k == "hold_id" else v for k, v in leg.items()} for leg in value]
    return bytes.fromhex(value) if isinstance(value, str) and hint in (bytes, bytes | None) else value
