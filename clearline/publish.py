"""`clearline publish`: a file of JSON Lines into the log, and back what became of each line.

A line that breaks the contract is refused with its number, field and rule, and written beside the file; the other lines
still go. Nothing is dropped silently: a line is refused, or acknowledged by the broker, or the run ends with an error
that says how many were not. Keys make a second run of the same file harmless.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from clearline.connection import Connection
from clearline.contract import ContractError, FieldError, parse_line
from clearline.outcomes import Matcher, Outcome, OutcomeTail, wait_for_all
from schemas.errors import BadInputError, PartUnavailableError
from schemas.records import Command
from streams.publisher import CommandPublisher

SHOWN_MAX = 1_000  # refusals and rejections kept for the report; the files hold all of them
STALL_S = 60.0
_MARK = b"\xef\xbb\xbf"


@dataclass(slots=True)
class Line:
    """One line that was published. A command for every partition has an acknowledgement and an outcome in each."""

    number: int
    partner_id: str
    idempotency_key: str
    acknowledged: bool = False
    answered: bool = False


@dataclass(slots=True)
class Report:
    """What a run did. `unanswered`: acknowledged commands whose outcome did not come in time, with --wait."""

    source: str
    lines: int = 0
    published: int = 0
    acknowledged: int = 0
    refused: int = 0
    refusals: list[tuple[int, tuple[FieldError, ...]]] = field(default_factory=list)
    refused_file: Path | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    rejections: list[tuple[Line, Outcome]] = field(default_factory=list)
    unanswered: int = 0
    unacknowledged: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "lines": self.lines,
            "published": self.published,
            "acknowledged": self.acknowledged,
            "refused": self.refused,
            "refusals": [
                {"line": n, "errors": [e._asdict() for e in errors]} for n, errors in self.refusals[:SHOWN_MAX]
            ],
            "refused_file": str(self.refused_file) if self.refused_file else None,
            "outcomes": dict(sorted(self.outcomes.items())),
            "rejections": [
                {"line": x.number, "partner_id": x.partner_id, "idempotency_key": x.idempotency_key, **o.to_dict()}
                for x, o in self.rejections[:SHOWN_MAX]
            ],
            "unanswered": self.unanswered,
            "seconds": round(self.seconds, 3),
        }


class RefusedFile:
    """The refused lines of a run: made with the first of them, so that a clean run leaves no file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        with suppress(OSError):  # if it cannot go, writing it will say why
            path.unlink(missing_ok=True)  # of an earlier run of the same file

    def add(self, number: int, text: bytes, errors: tuple[FieldError, ...]) -> None:
        """Keeps one line with its errors. Raises BadInputError when the file cannot be written."""
        record = {
            "line": number, "errors": [e._asdict() for e in errors], "text": text.decode("utf-8", "backslashreplace"),
        }  # fmt: skip
        try:
            if self._file is None:
                self._file = self.path.open("wb")
            self._file.write(json.dumps(record, ensure_ascii=True).encode() + b"\n")
        except OSError as e:
            raise BadInputError(f"the refused lines cannot be written to {self.path}: {e.strerror}") from None

    @property
    def written(self) -> bool:
        return self._file is not None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@contextmanager
def open_lines(source: str) -> Iterator[Iterator[tuple[int, bytes]]]:
    """Numbered lines that are not blank; `-` is standard input. Raises BadInputError for what cannot be read, and for
    a source without a single line."""
    with ExitStack() as stack:
        name = "standard input" if source == "-" else source
        if source == "-":
            file: BinaryIO = sys.stdin.buffer
        else:
            try:
                file = stack.enter_context(Path(source).open("rb"))
            except OSError as e:
                raise BadInputError(f"{source} cannot be read: {(e.strerror or str(e)).lower()}") from None
        lines = _numbered(file, name)
        first = next(lines, None)
        if first is None:
            raise BadInputError(f"{name} is empty: give one JSON object per line, see `clearline publish --help`")
        yield _chain(first, lines)


def _numbered(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(_MARK).strip() if number == 1 else line.strip()
            if text:
                yield number, text
    except OSError as e:
        raise BadInputError(f"{name} cannot be read after line {number}: {(e.strerror or str(e)).lower()}") from None


def _chain(first: tuple[int, bytes], rest: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    yield first
    yield from rest


class Pace:
    """Holds a run to `rate` commands a second; 0 means as fast as it goes."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self.restart()

    def restart(self) -> None:
        """Counts from now."""
        self._start = time.monotonic()
        self._done = 0

    def wait(self, idle: Callable[[float], None]) -> None:
        """Waits until the next command is due; `idle(seconds)` passes the time."""
        if self._rate:
            due = self._start + self._done / self._rate
            while (left := due - time.monotonic()) > 0:
                idle(min(left, 0.05))
        self._done += 1


@dataclass(slots=True)
class Run:
    """One run over a source. `connect` is called at the first line that is right, so a file of only bad lines needs
    no broker; `check_only` publishes nothing at all."""

    source: str
    today: date
    connect: Callable[[], Connection]
    rate: float = 0.0
    wait: bool = False
    check_only: bool = False
    progress: Callable[[Report], None] = lambda _report: None
    stall_s: float = 0.0
    report: Report = field(init=False)
    _system: Connection | None = None
    _publisher: CommandPublisher | None = None
    _tail: OutcomeTail | None = None
    _matcher: Matcher[Line] = field(init=False)

    def __post_init__(self) -> None:
        self.report = Report(self.source)
        self._matcher = Matcher(self._became)

    def run(self) -> Report:
        """Does it all. Raises BadInputError, and PartUnavailableError when commands were not acknowledged."""
        began = time.monotonic()
        refused = RefusedFile(refused_path(self.source))
        report = self.report
        with ExitStack() as stack:
            stack.callback(refused.close)
            lines = stack.enter_context(open_lines(self.source))
            pace = Pace(self.rate)
            for number, text in lines:
                report.lines += 1
                try:
                    command = parse_line(text, self.today)
                    self._publish(stack, number, command, pace)
                except ContractError as e:
                    report.refused += 1
                    refused.add(number, text, e.errors)
                    if len(report.refusals) < SHOWN_MAX:
                        report.refusals.append((number, e.errors))
                self.progress(report)
            if refused.written:
                report.refused_file = refused.path
            self._finish()
        report.seconds = time.monotonic() - began
        return report

    def _publish(self, stack: ExitStack, number: int, command: Command, pace: Pace) -> None:
        if self.check_only:
            return
        if self._system is None or self._publisher is None:
            self._system = self.connect()
            if self.wait:
                tail = OutcomeTail(self._system.kafka, self._system.topics, self._system.codec)
                self._tail = stack.enter_context(tail)
            self._publisher = self._system.publisher()
            pace.restart()  # connecting took its time
        size, most = len(self._system.codec.encode(command)), self._system.message_bytes_max
        if size > most:
            raise ContractError([FieldError("", f"the command takes {size} bytes on the wire, the most is {most}")])
        pace.wait(self._idle)
        line = Line(number, command.partner_id, command.idempotency_key)
        self._publisher.publish(command, on_delivery=partial(self._delivered, line))
        self.report.published += 1
        if self._tail is not None and self.report.published % 500 == 0:
            self._look(0)

    def _idle(self, seconds: float) -> None:
        assert self._publisher is not None
        self._publisher.poll(seconds)
        if self._tail is not None:
            self._look(0)

    def _look(self, timeout_s: float) -> None:
        assert self._tail is not None
        for outcome in self._tail.poll(timeout_s):
            self._matcher.came(outcome)

    def _delivered(self, line: Line, error: Any, message: Any) -> None:
        if error is not None:
            self.report.unacknowledged.append((line.number, error.str()))
            return
        if not line.acknowledged:
            line.acknowledged = True
            self.report.acknowledged += 1
        if self._tail is not None:
            self._matcher.sent(line, message.partition(), message.offset())

    def _became(self, line: Line, outcome: Outcome) -> None:
        if not line.answered:
            line.answered = True
            self.report.outcomes[outcome.outcome] += 1
        if outcome.outcome in ("rejected", "dead") and len(self.report.rejections) < SHOWN_MAX:
            self.report.rejections.append((line, outcome))

    def _finish(self) -> None:
        """Waits for the acknowledgements, then for the outcomes if they are wanted."""
        if self._publisher is None or self._system is None:
            return
        try:
            self._publisher.flush(35.0)
        except PartUnavailableError:
            raise self._lost() from None
        if self._tail is not None and not wait_for_all(
            self._matcher, self._tail, self.stall_s or STALL_S, lambda: self.progress(self.report)
        ):
            self.report.unanswered = len({line.number for line in self._matcher.tokens()})
        self.report.rejections.sort(key=lambda r: r[0].number)

    def _lost(self) -> PartUnavailableError:
        assert self._system is not None
        assert self._publisher is not None
        lost = self._publisher.published - self._publisher.acknowledged
        first = f", the first at line {min(self.report.unacknowledged)[0]}" if self.report.unacknowledged else ""
        return PartUnavailableError(
            "Kafka", self._system.kafka.bootstrap,
            f"{lost} of {self._publisher.published} commands not acknowledged{first}; publish the same file again: "
            "what was settled already is answered as repeated",
        )  # fmt: skip


def refused_path(source: str) -> Path:
    """Where the refused lines of a source are kept: `orders.jsonl` -> `orders.refused.jsonl`."""
    if source == "-":
        return Path("stdin.refused.jsonl")
    path = Path(source)
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.refused.jsonl")
