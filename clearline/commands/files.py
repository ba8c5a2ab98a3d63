"""What every command that prints or writes figures takes and does alike: formats, where a cut is, where bytes go."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import BadInputError

if TYPE_CHECKING:
    from clearline.finance.formats import Form


class FileFormat(StrEnum):
    """How figures are printed or written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    XLSX = "xlsx"


FORMS: dict[FileFormat, Form] = {
    FileFormat.JSON: "json", FileFormat.CSV: "csv", FileFormat.PARQUET: "parquet", FileFormat.XLSX: "xlsx",
}  # fmt: skip

CutOption = Annotated[str, typer.Option(metavar="CUT", help="Up to these places, as 0:1204,1:998.")]
KnownAtOption = Annotated[str, typer.Option(metavar="TIME", help="Only what was booked up to this moment.")]
ClosedOption = Annotated[str, typer.Option(metavar="DATE", help="As the close of this day sealed it.")]
FormOption = Annotated[FileFormat, typer.Option("--format", help="Amounts in json, csv and parquet are minor units.")]
OutOption = Annotated[str, typer.Option(metavar="FILE", help="Write it to a file; - for standard output.")]


def spare_terminal(form: FileFormat, instead: str) -> None:
    """Raises BadInputError, which says what to do instead, when the format is no text and the output a terminal."""
    if form in (FileFormat.PARQUET, FileFormat.XLSX) and sys.stdout.isatty():
        raise BadInputError(f"--out: {form.value} is no text for a terminal; {instead}")


def put(data: bytes, out: str) -> bool:
    """Writes to a file, and says True; or to standard output, for an empty name or `-`. Raises BadInputError."""
    if out not in ("", "-"):
        try:
            Path(out).write_bytes(data)
        except OSError as e:
            raise BadInputError(f"--out: {out} cannot be written: {e.strerror}") from None
        return True
    sys.stdout.flush()
    stream = getattr(sys.stdout, "buffer", None)
    if stream is not None:
        stream.write(data)
        stream.flush()
    else:  # a stand-in of text
        sys.stdout.write(data.decode())
    return False
