"""Compiles an Avro schema into a Python function that decodes one record class from bytes.

Like `writer`, it saves half of what fastavro needs for a record. It takes only what it fully understands: whatever it
refuses is handed to fastavro, which has the last word, and a property test holds both equal on good and on hostile
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

Schema = Any
_EVERYTHING: dict[str, Collection[str]] = {}


class NotThisWayError(ValueError):
    """The bytes are not what the compiled reader expects; fastavro decides what they are."""


class _Words(dict[bytes, str]):
    """Short strings that come again and again: one object each, hashed once. Emptied when full."""

    def __missing__(self, raw: bytes) -> str:
        if len(self) >= _WORDS_MAX:
            self.clear()
        out = self[raw] = raw.decode()
        return out


def _zigzag(b: bytes, i: int) -> tuple[int, int]:
    """A long at `i`, still zigzag, and the place after it. At most ten bytes, 64 bits."""
    n = b[i]
    i += 1
    if n > 127:
        n &= 127
        shift = 7
        while True:
            more = b[i]
            i += 1
            if more < 128:
                n |= more << shift
                break
            n |= (more & 127) << shift
            shift += 7
            if shift > 63:
                raise NotThisWayError("long of more than ten bytes")
        if n > 0xFFFFFFFFFFFFFFFF:
            raise NotThisWayError("long of more than 64 bits")
    return n, i


def _long(b: bytes, i: int) -> tuple[int, int]:
    n, i = _zigzag(b, i)
    return (n >> 1) ^ -(n & 1), i


def _string(b: bytes, i: int) -> tuple[str, int]:
    raw, i = _raw(b, i)
    return raw.decode(), i


def _map(b: bytes, i: int, words: _Words) -> tuple[dict[str, str], int]:
    out: dict[str, str] = {}
    size, skip = len(b), _SKIP
    while True:
        n = b[i]  # twice the number of entries in this block
        i += 1
        if n > 127:
            n, i = _zigzag(b, i - 1)
        if n == 0:
            return out, i
        if n & 1:
            raise NotThisWayError("block with its size in bytes")
        while n:
            n -= 2
            if (j := i + skip[b[i]]) <= size:
                key = words[b[i + 1 : j]]
                i = j
            else:
                key, i = _string(b, i)
            if (j := i + skip[b[i]]) <= size:
                out[key] = b[i + 1 : j].decode()
                i = j
            else:
                out[key], i = _string(b, i)


def _raw(b: bytes, i: int) -> tuple[bytes, int]:
    size, i = _long(b, i)
    end = i + size
    if size < 0 or end > len(b):
        raise NotThisWayError("bytes beyond the end")
    return b[i:end], end


def _decimal(b: bytes, i: int) -> tuple[int, int]:
    raw, i = _raw(b, i)
    return int.from_bytes(raw, "big", signed=True), i


# By the first byte of a string: how far the next value is, when the string is at most 63 bytes and so its length one
# byte. A longer one, and a length below zero, is sent beyond every end, where the careful way takes over.
_SKIP = [1 + (n >> 1) if n < 128 and not n & 1 else 1 << 62 for n in range(256)]
_SHORT = "if (j := i + SKIP[b[i]]) <= size:"

# A long of one, two or three bytes in line, a longer one by a call. `n` is made the zigzag number, then the value.
_LONG = [
    "n = b[i]",
    "i += 1",
    "if n > 127:",
    "    m = b[i]",
    "    if m < 128:",
    "        n += (m << 7) - 128",
    "        i += 1",
    "    elif (k := b[i + 1]) < 128:",
    "        n += (m << 7) + (k << 14) - 16512",  # less both continuation bits: 128 + (128 << 7)
    "        i += 2",
    "    else:",
    "        n, i = zigzag(b, i - 1)",
    "{to} = -(n >> 1) - 1 if n & 1 else n >> 1",
]

# Strings of which a ledger has few, each many times.
_WORDS = frozenset({"partner_id", "product", "operation", "currency", "command", "reason"})
_WORDS_MAX = 10_000


class _Compiler:
    def __init__(self, classes: Mapping[str, type], only: Mapping[str, Collection[str]]) -> None:
        self.classes = classes
        self.only = only
        self.named: dict[str, Schema] = {}
        self.env: dict[str, Any] = {
            "zigzag": _zigzag, "long": _long, "string": _string, "amap": _map, "raw": _raw, "decimal": _decimal,
            "W": _Words(), "SKIP": _SKIP, "number": int.from_bytes, "NotThisWayError": NotThisWayError,
        }  # fmt: skip

    def statements(self, schema: Schema, to: str, field: str) -> list[str]:
        """Python statements that read a value at `b[i:]` into the variable `to` and move `i` on."""
        if isinstance(schema, str) and schema in self.named:
            schema = self.named[schema]
        if isinstance(schema, list):
            inner = self.statements(schema[1], to, field)
            return ["n = b[i]", "i += 1", f"if n == 0: {to} = None", "elif n == 2:", *(f"    {s}" for s in inner),
                    "else: raise NotThisWayError('unknown branch of a union')"]  # fmt: skip
        kind = schema if isinstance(schema, str) else schema["type"]
        match kind:
            case "string":
                text = "W[b[i + 1 : j]]" if field in _WORDS else "b[i + 1 : j].decode()"
                return [_SHORT, f"    {to} = {text}", "    i = j", f"else: {to}, i = string(b, i)"]
            case "long":
                return [s.format(to=to) for s in _LONG]
            case "int":
                check = f"if not -2147483648 <= {to} <= 2147483647: raise NotThisWayError('int over 32 bits')"
                return [*(s.format(to=to) for s in _LONG), check]
            case "boolean":
                return ["n = b[i]", "i += 1", "if n > 1: raise NotThisWayError('boolean')", f"{to} = n == 1"]
            case "bytes" if isinstance(schema, dict):
                return [_SHORT, f"    {to} = number(b[i + 1 : j], 'big', signed=True)", "    i = j",
                        f"else: {to}, i = decimal(b, i)"]  # fmt: skip
            case "bytes":
                return [f"{to}, i = raw(b, i)"]
            case "fixed":
                self.named[schema["name"]] = schema
                return [f"{to} = b[i : i + {schema['size']}]", f"i += {schema['size']}"]
            case "enum":
                self.named[schema["name"]] = schema
                table = f"E_{schema['name']}"
                self.env[table] = {i << 1: s for i, s in enumerate(schema["symbols"])}
                return [f"{to} = {table}[b[i]]", "i += 1"]
            case "map":
                return ["if b[i] == 0:", f"    {to} = {{}}", "    i += 1", f"else: {to}, i = amap(b, i, W)"]
            case "array":
                return self._array(schema["items"], to)
            case _:
                raise ValueError(f"type {kind} is not used in our schemas")

    def _array(self, items: Schema, to: str) -> list[str]:
        lines, item = self.record(items, f"{to}_")
        return ["if b[i] == 0:", f"    {to} = ()", "    i += 1", "else:", "    items = []", "    while True:",
                "        count, i = long(b, i)", "        if count == 0: break",
                "        if count < 0: raise NotThisWayError('block with its size in bytes')",
                "        for _ in range(count):", *(f"            {s}" for s in lines),
                f"            items.append({item})", f"    {to} = tuple(items)"]  # fmt: skip

    def passing(self, schema: Schema) -> list[str]:
        """Statements that move `i` past a value that nobody wants."""
        if isinstance(schema, str) and schema in self.named:
            schema = self.named[schema]
        if isinstance(schema, list):
            return self.statements(schema, "_", "")
        kind = schema if isinstance(schema, str) else schema["type"]
        match kind:
            case "string" | "bytes":
                return [_SHORT, "    i = j", "else: _, i = raw(b, i)"]
            case "int" | "long":
                return ["while b[i] > 127: i += 1", "i += 1"]
            case "fixed":
                self.named[schema["name"]] = schema
                return [f"i += {schema['size']}"]
            case "boolean":
                return ["i += 1"]
            case "record":
                self.named[schema["name"]] = schema
                return [s for f in schema["fields"] for s in self.passing(f["type"])]
            case "array":
                return ["if b[i] == 0:", "    i += 1", "else:", "    while True:", "        count, i = long(b, i)",
                        "        if count == 0: break",
                        "        if count < 0: raise NotThisWayError('block with its size in bytes')",
                        "        for _ in range(count):",
                        *(f"            {s}" for s in self.passing(schema["items"]))]  # fmt: skip
            case _:
                return self.statements(schema, "_", "")

    def record(self, record: Schema, prefix: str) -> tuple[list[str], str]:
        """Statements that read the fields, and the expression that makes the record of them."""
        self.named[record["name"]] = record
        made = f"C_{record['name']}"
        self.env[made] = self.classes[record["name"]]
        lines: list[str] = []
        variables: list[str] = []
        wanted = self.only.get(record["name"])
        for field in record["fields"]:
            if wanted is not None and field["name"] not in wanted:
                lines += self.passing(field["type"])
                continue
            variables.append(prefix + field["name"])
            lines += self.statements(field["type"], variables[-1], field["name"])
        return lines, f"{made}({', '.join(variables)})"

    def function(self, record: Schema) -> Callable[[bytes, int], Any]:
        lines, made = self.record(record, "v_")
        end = "if i != size: raise NotThisWayError('the record does not end where the bytes end')"
        source = "\n".join(
            ["def read(b, i):", "    size = len(b)", *(f"    {s}" for s in (*lines, end, f"return {made}"))]
        )
        exec(source, self.env)  # noqa: S102 - the source is made from our own committed schemas
        function: Callable[[bytes, int], Any] = self.env["read"]
        return function


def compile_reader(
    schema: Schema, classes: Mapping[str, type], only: Mapping[str, Collection[str]] = _EVERYTHING
) -> Callable[[bytes, int], Any]:
    """A function from (bytes, start) to a record object; the record must end where the bytes end.

    `classes` holds the class of each record name; `only` names the fields that are wanted of a record, in the schema's
    order: its class takes just these, and the rest is stepped over. The function raises NotThisWayError, IndexError,
    KeyError or UnicodeDecodeError on bytes that it does not take.
    """
    return _Compiler(classes, only).function(schema)
