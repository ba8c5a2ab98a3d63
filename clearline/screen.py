"""What people and programs see: one JSON document on stdout, or tables; everything else goes to stderr.

A command builds a document of plain values and, beside it, what a person should read. Only one of the two is printed,
so `--json` never mixes with tables, and a progress bar never gets into a pipe.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

if TYPE_CHECKING:  # a command whose answer is a line or a document begins, and ends, sooner without
    from rich.console import Console, RenderableType
    from rich.progress import Progress
    from rich.table import Table

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; progress and logs on stderr.")]


# What steers a terminal instead of being seen on it: control characters but line ends and tabs, and marks of direction.
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """The text with what steers a terminal shown as an escape: others wrote parts of it."""
    return _STEERS.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def messages() -> Console:
    """Where progress and remarks go: stderr. Made anew each time, so that tests can capture it."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def results() -> Console:
    """Where a command's answer goes. As wide as it needs when it is not a terminal, so that a pipe loses nothing."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() else 200
    return Console(width=wide, highlight=False, soft_wrap=not sys.stdout.isatty())


def say(text: str) -> None:
    """A remark for people, on stderr."""
    messages().print(plain(text), markup=False)


def answer(document: Mapping[str, Any], as_json: bool, readable: Iterable[RenderableType]) -> None:
    """Prints the document as JSON, or what is readable."""
    if as_json:
        print_json(document)
        return
    for part in readable:
        if not isinstance(part, str):
            results().print(part)
        elif sys.stdout.isatty():
            results().print(plain(part), markup=False)
        else:
            print(plain(part), flush=True)


def print_json(document: Mapping[str, Any]) -> None:
    """One document, indented, keys as they are. Integers beyond 64 bits are kept exact."""
    sys.stdout.write(to_json(document).decode() + "\n")
    sys.stdout.flush()


def to_json(document: Any) -> bytes:
    """JSON of plain values; dates as ISO texts, integers of any size."""
    try:
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str)
    except TypeError:  # orjson stops at 64 bits; a counter has up to 127
        import json

        return json.dumps(document, indent=2, ensure_ascii=False, default=str).encode()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """A plain table. Columns named in `right` hold figures."""
    from rich.table import Table

    out = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for c in columns:
        out.add_column(c, justify="right" if c in right else "left", overflow="fold")
    for row in rows:
        out.add_row(*(_cell(v) for v in row))
    return out


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return plain(text).replace("[", "\\[")


class Bar:
    """A progress bar on stderr; a line every 10% where stderr is no terminal."""

    def __init__(self, progress: Progress | None, what: str, total: int | None) -> None:
        self._progress = progress
        self._what = what
        self._total = total
        self._done = 0
        self._next = (total or 0) / 10
        self._task = progress.add_task(what, total=total, note="") if progress else None

    def advance(self, by: int = 1) -> None:
        """So many more are done."""
        self.to(self._done + by)

    def phase(self, what: str, done: int, total: int) -> None:
        """Another thing is waited for now, and so much of it is done."""
        if self._what != what:
            self._what, self._total, self._done, self._next = what, total, 0, total / 10
            if self._progress is not None and self._task is not None:
                self._progress.reset(self._task, description=what, total=total)
        self.to(done)

    def to(self, done: int, note: str = "") -> None:
        """So many are done. `note`: said beside it, such as how fast."""
        self._done = done
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, note=note)
        elif self._total and done >= self._next:
            self._next = (done * 10 // self._total + 1) * self._total / 10
            say(f"{self._what}: {done:,} of {self._total:,}{f', {note}' if note else ''}")


@contextmanager
def bar(what: str, total: int | None, *, quiet: bool = False) -> Iterator[Bar]:
    """A bar for as long as the block runs. `quiet`: nothing is shown."""
    if quiet:
        yield Bar(None, what, None)
        return
    console = messages()
    if not console.is_terminal:
        yield Bar(None, what, total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress, what, total)


class Downloads:
    """Downloads as lines of text: what `clearline.embedded.downloads` tells. Silent when nothing is missing."""

    def __init__(self) -> None:
        self.files = self.total = self._done = self._told = 0

    def start(self, files: int, size: int) -> None:
        """`files` files of `size` bytes together are about to be fetched."""
        self.files += files
        self.total += size
        say(f"downloading {files} files, {size / 1e6:.0f} MB")

    def advance(self, size: int) -> None:
        """`size` more bytes are there."""
        self._done += size
        tenth = self._done * 10 // max(self.total, 1)
        if tenth > self._told:
            self._told = tenth
            say(f"downloaded {self._done / 1e6:.0f} of {self.total / 1e6:.0f} MB")

    def note(self, text: str) -> None:
        """Something else that takes a moment."""
        say(text)


class Arrivals:
    """Tells on stderr what has come up; called with a run's status again and again."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, run: Mapping[str, Any]) -> None:
        for name, child in {**run.get("parts", {}), **run.get("roles", {})}.items():
            if child["state"] == "ready" and name not in self._told:
                self._told.add(name)
                say(f"          {name} is up (pid {child['pid']})")
