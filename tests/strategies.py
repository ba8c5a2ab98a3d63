"""Hypothesis strategies for every record, read from the committed schemas."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from schemas import records as contracts
from schemas.codec import schema_of
from schemas.records import Record

_CLASSES = {n: c for n, c in vars(contracts).items() if isinstance(c, type) and issubclass(c, Record)}

# Lengths and numbers around the places where the wire format takes one byte more.
EDGES = [0, 1, 63, 64, 8191, 8192, 2**20, 2**27, 2**31 - 1, 2**35, 2**62, 2**63 - 1]
LONGS = st.one_of(
    st.integers(0, 300), st.sampled_from([*EDGES, *(-n for n in EDGES), -(2**63)]), st.integers(-(2**63), 2**63 - 1)
)
INTS = st.one_of(st.sampled_from([n for n in EDGES if n < 2**31]), st.integers(-(2**31), 2**31 - 1))
# Counters are never negative. (fastavro gives -128 one byte more than it needs, so bytes would differ there.)
COUNTERS = st.one_of(
    st.integers(0, 10**9), st.sampled_from([0, 1, 127, 128, 255, 256, 2**63, 2**64, 10**37, 10**38 - 1]),
    st.integers(0, 10**38 - 1),
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=12), st.sampled_from(["", "a" * 63, "a" * 64, "人" * 21, "é" * 4096, "acme", "acme:wallet:alice"])
)


def _values(schema: Any, named: dict[str, Any]) -> st.SearchStrategy[Any]:
    if isinstance(schema, str) and schema in named:
        schema = named[schema]
    if isinstance(schema, list):
        return st.none() | _values(schema[1], named)
    kind = schema if isinstance(schema, str) else schema["type"]
    if isinstance(schema, dict) and "name" in schema:
        named[schema["name"]] = schema
    match kind:
        case "string":
            return TEXTS
        case "long":
            return LONGS
        case "int":
            return INTS
        case "boolean":
            return st.booleans()
        case "bytes":
            return COUNTERS if isinstance(schema, dict) else st.binary(max_size=200)
        case "fixed":
            return st.binary(min_size=schema["size"], max_size=schema["size"])
        case "enum":
            return st.sampled_from(schema["symbols"])
        case "map":
            return st.dictionaries(TEXTS, TEXTS, max_size=3)
        case "array":
            return st.lists(_values(schema["items"], named), max_size=3).map(tuple)
        case "record":
            fields = {f["name"]: _values(f["type"], named) for f in schema["fields"]}
            return st.builds(_CLASSES[schema["name"]], **fields)
        case _:
            raise ValueError(f"no strategy for {kind}")


def records(record_name: str) -> st.SearchStrategy[Record]:
    """Any record of this name that its schema can express."""
    return _values(schema_of(record_name), {})
