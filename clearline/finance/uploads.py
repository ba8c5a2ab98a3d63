"""A partner's table as it is sent: CSV or Parquet in, checked columns of text out.

Whatever is sent is hostile until it was read: so it is read in a process of its own that has little memory and little
time. A file that is made to blow up, or to bring a parser down, ends that process and nothing else.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from schemas.errors import BadInputError, PartUnavailableError

NAME = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
COLUMNS_MAX = 32
VALUE_MAX = 1_024  # characters
BYTES_MAX = 32 << 20  # of all values together, however small they were packed
CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"
MEDIA = (CSV, PARQUET)
READING_S, MEMORY_MAX, AT_ONCE, WAITING_MAX = 30, 3 << 30, 2, 20
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Content:
    """A table that was read: names of columns, and for each its values. `key`: the column that names a row, each value
    of it once and none empty."""

    key: str
    columns: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.values[0])


async def read_apart(body: bytes, media: str, key: str, rows_max: int) -> Content:
    """Reads a body in a process of its own. `key`: the column that names a row, the first unless it is given.

    Raises BadInputError that names what is wrong, PartUnavailableError when others' tables are being read.
    """
    turns = _turns()
    if turns.waiting >= WAITING_MAX:
        raise PartUnavailableError("uploads", "this gateway", f"{WAITING_MAX} tables wait to be read")
    async with turns:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, media, key, str(rows_max)), stdin=-1, stdout=-1, stderr=-3,
            env=_environment(),
        )  # fmt: skip
        try:
            async with asyncio.timeout(READING_S):
                said, _ = await child.communicate(body)
        except TimeoutError:
            said = b""
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
    if child.returncode != 0 or not said:
        raise BadInputError("body: cannot be read within the time and memory that a table may take")
    found = json.loads(said)
    if "error" in found:
        raise BadInputError(found["error"])
    return Content(found["key"], tuple(found["columns"]), tuple(map(tuple, found["values"])))


def _environment() -> dict[str, str]:
    """Where programs and modules are, and nothing else: settings are secrets."""
    kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"POLARS_MAX_THREADS": "1"}


class _Turns:
    """Lets AT_ONCE in, and counts those who wait."""

    def __init__(self) -> None:
        self.waiting = 0
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> None:
        self.waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self.waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._turns.release()


_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()


def _turns() -> _Turns:
    """Those of the running loop."""
    return _TURNS.setdefault(asyncio.get_running_loop(), _Turns())


def read(body: bytes, media: str, key: str, rows_max: int) -> Content:
    """The same in this process. Raises BadInputError."""
    names, values = (_csv if media == CSV else _parquet)(body, rows_max)
    return checked(names, values, key, rows_max)


def checked(names: Sequence[str], values: Sequence[Sequence[str]], key: str, rows_max: int) -> Content:
    """Columns as a table may have them. Raises BadInputError that names the column, and the row from 1."""
    if not 1 <= len(names) <= COLUMNS_MAX:
        raise BadInputError(f"body: must have 1 to {COLUMNS_MAX} columns, not {len(names)}")
    for name in names:
        if not NAME.fullmatch(name):
            raise BadInputError(f"body: column {name[:40]!r}: must be a small letter, then small letters, digits and _")
    if len(set(names)) != len(names):
        raise BadInputError("body: two columns have the same name")
    key = key or names[0]
    if key not in names:
        raise BadInputError(f"key: the table has no column {key[:40]!r}")
    if not 1 <= len(values[0]) <= rows_max:
        raise BadInputError(f"body: must have 1 to {rows_max} rows, not {len(values[0])}")
    if sum(len(v.encode()) for column in values for v in column) > BYTES_MAX:
        raise BadInputError(f"body: must hold at most {BYTES_MAX} bytes of values")
    for name, column in zip(names, values, strict=True):
        for row, value in enumerate(column, 1):
            if len(value) > VALUE_MAX or _CONTROL.search(value):
                raise BadInputError(f"body: row {row}, {name}: must be at most {VALUE_MAX} characters in one line")
    seen: dict[str, int] = {}
    for row, value in enumerate(values[names.index(key)], 1):
        if not value:
            raise BadInputError(f"body: row {row}, {key}: is the key and must not be empty")
        if seen.setdefault(value, row) != row:
            raise BadInputError(f"body: row {row}, {key}: is the same key as in row {seen[value]}")
    return Content(key, tuple(names), tuple(map(tuple, values)))


def _csv(body: bytes, rows_max: int) -> tuple[list[str], list[list[str]]]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise BadInputError(f"body: is not UTF-8 at byte {e.start}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(reader, [])
        rows: list[list[str]] = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                raise BadInputError(f"body: line {reader.line_num}: has {len(row)} fields, the header {len(names)}")
            rows.append(row)
            if len(rows) > rows_max:
                raise BadInputError(f"body: must have 1 to {rows_max} rows")
    except csv.Error as e:
        raise BadInputError(f"body: line {reader.line_num}: {e}") from None
    return names, [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in names] or [[]]


def _parquet(body: bytes, rows_max: int) -> tuple[list[str], list[list[str]]]:
    import polars as pl

    try:
        schema = pl.read_parquet_schema(io.BytesIO(body))
        if len(schema) > COLUMNS_MAX:
            raise BadInputError(f"body: must have 1 to {COLUMNS_MAX} columns, not {len(schema)}")
        texts = (pl.String, pl.Boolean, pl.Date, pl.Categorical, pl.Enum)
        for name, kind in schema.items():
            if not (kind.is_integer() or kind.is_decimal() or kind in texts):
                raise BadInputError(f"body: column {name[:40]!r}: must be text, integers, decimals, days or booleans")
        scan = pl.scan_parquet(io.BytesIO(body))
        rows = scan.select(pl.len()).collect().item()
        if rows > rows_max:
            raise BadInputError(f"body: must have 1 to {rows_max} rows, not {rows}")
        frame = scan.select(pl.all().cast(pl.String).fill_null("")).collect()
        if sum(frame.select(pl.all().str.len_bytes().cast(pl.UInt64).sum()).row(0)) > BYTES_MAX:
            raise BadInputError(f"body: must hold at most {BYTES_MAX} bytes of values")
    except pl.exceptions.PolarsError as e:
        raise BadInputError(f"body: is no Parquet file that can be read: {str(e).splitlines()[0][:200]}") from None
    return list(schema), [frame.get_column(name).to_list() for name in schema] or [[]]


def _main(media: str, key: str, rows_max: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (READING_S, READING_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer: dict[str, Any]
    try:
        found = read(sys.stdin.buffer.read(), media, key, int(rows_max))
        answer = {"key": found.key, "columns": found.columns, "values": found.values}
    except BadInputError as e:
        answer = {"error": str(e)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main(*sys.argv[1:])
