"""Compatibility of schema versions, decided offline by Apache Avro's own rules (its Python package)."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import avro.schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType


@cache
def _parsed(text: str) -> avro.schema.Schema:
    return avro.schema.parse(text)


@cache
def can_read(reader: str, writer: str) -> str:
    """Empty when data of `writer` can be read with `reader`; otherwise why not. Both are schema texts."""
    result = ReaderWriterCompatibilityChecker().get_compatibility(_parsed(reader), _parsed(writer))
    if result.compatibility is SchemaCompatibilityType.compatible:
        return ""
    return "; ".join(sorted(result.messages)) or "incompatible"


def full(old: str, new: str) -> list[str]:
    """What stands against FULL compatibility of two versions."""
    backward, forward = can_read(new, old), can_read(old, new)
    return [f"the new cannot read the old: {backward}"] * bool(backward) + [
        f"the old cannot read the new: {forward}"
    ] * bool(forward)


def full_transitive(versions: list[str]) -> list[str]:
    """What stands against FULL_TRANSITIVE: every version with every other, both ways."""
    return [f"{a + 1} and {b + 1}: {p}" for a, b in combinations(range(len(versions)), 2)
            for p in full(versions[a], versions[b])]  # fmt: skip
