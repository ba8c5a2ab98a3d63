"""`clearline publish`: a file of JSON Lines into the log, and back what became of each line.

A line that breaks the contract is refused with its number, field and rule, and written beside the file; the other lines
still go. Nothing is dropped silently: a line is refused, or acknowledged by the broker, or the run ends with an error.
Whatever ends a run, what was read by then goes, and `Run.report` says how many lines went, were refused and were not
sent. Keys make a second run of the same file harmless.
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
ACKNOWLEDGE_S = 35.0  # a little more than the client itself tries
HURRY_S = 5.0  # the same when the run is over for another reason, such as Ctrl-C
_MARK = b"\xef\xbb\xbf"


@dataclass(slots=True)
class Line:
    """One line that was published. A command for every partition has an acknowledgement and an outcome in each."""

    number: int
    partner_id: str
    idempotency_key: str
    places: int = 0  # known when it is in the client's queue
    acknowledgements: int = 0
    answered: bool = False


@dataclass(slots=True)
class Report:
    """What a run did. `unanswered`: acknowledged commands whose outcome did not come in time, with --wait; `not_sent`:
    lines of the source that were neither published nor refused when the run ended, None when that cannot be known."""

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
    not_sent: int | None = 0
    complete: bool = False
    seconds: float = 0.0

    @property
    def not_acknowledged(self) -> int:
        """Published lines of which it is not known whether the broker has them."""
        return self.published - self.acknowledged

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "lines": self.lines,
            "published": self.published,
            "acknowledged": self.acknowledged,
            "not_acknowledged": self.not_acknowledged,
            "not_sent": self.not_sent,
            "complete": self.complete,
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
    """The refused lines of a run. They get the file's name at the end, in place of those of a former run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._draft = path.with_name(path.name + ".new")
        self._file: BinaryIO | None = None

    def add(self, number: int, text: bytes, errors: tuple[FieldError, ...]) -> None:
        """Keeps one line with its errors. Raises BadInputError when the file cannot be written."""
        record = {
            "line": number, "errors": [e._asdict() for e in errors], "text": text.decode("utf-8", "backslashreplace"),
        }  # fmt: skip
        try:
            if self._file is None:
                if self.path.is_dir():
                    raise IsADirectoryError(0, "it is a folder")
                self._file = self._draft.open("wb")
            self._file.write(json.dumps(record, ensure_ascii=True).encode() + b"\n")
        except OSError as e:
            raise self._unwritable(e) from None

    def finish(self, *, replace: bool, remove: bool) -> Path | None:
        """Where the refused lines are now, if there are any. `replace`: a former run's file may go for this one's;
        `remove`: it may go when this run refused nothing. Raises BadInputError."""
        try:
            if self._file is None:
                if remove:
                    self.path.unlink(missing_ok=True)
                return None
            self._file.close()
            if replace or not self.path.exists():
                self._draft.replace(self.path)
                return self.path
            self._draft.unlink()
        except OSError as e:
            raise self._unwritable(e) from None
        return None

    def _unwritable(self, e: OSError) -> BadInputError:
        return BadInputError(f"the refused lines cannot be written to {self.path}: {e.strerror}")


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
    no broker; `check_only` publishes nothing at all. `foresee`: makes what says the outcomes of a dry run; nothing is
    published then either."""

    source: str
    today: date
    connect: Callable[[], Connection]
    rate: float = 0.0
    wait: bool = False
    check_only: bool = False
    foresee: Callable[[Connection], Callable[[Command], Outcome]] | None = None
    progress: Callable[[Report], None] = lambda _report: None
    stall_s: float = 0.0
    report: Report = field(init=False)
    _system: Connection | None = None
    _foresight: Callable[[Command], Outcome] | None = None
    _publisher: CommandPublisher | None = None
    _tail: OutcomeTail | None = None
    _matcher: Matcher[Line] = field(init=False)

    def __post_init__(self) -> None:
        self.report = Report(self.source)
        self._matcher = Matcher(self._became)

    @property
    def dry(self) -> bool:
        """Whether nothing is published."""
        return self.check_only or self.foresee is not None

    def run(self) -> Report:
        """Does it all. Raises BadInputError, and PartUnavailableError when commands were not acknowledged.

        Whatever it raises, KeyboardInterrupt included: what was read went, and `report` says what became of it.
        """
        began = time.monotonic()
        refused = RefusedFile(refused_path(self.source))
        with ExitStack() as stack:
            try:
                try:
                    self._read(stack, refused)
                except BadInputError:  # of the source, or of the refused lines: the parts are well
                    self._finish()
                    raise
                self._finish()
                self.report.complete = True
            except BaseException:
                with suppress(Exception):  # the first error is the one to tell
                    self._hurry()
                raise
            finally:
                self._conclude(refused)
                self.report.seconds = time.monotonic() - began
        return self.report

    def _read(self, stack: ExitStack, refused: RefusedFile) -> None:
        """Publishes or refuses every line."""
        report, pace = self.report, Pace(self.rate)
        for number, text in stack.enter_context(open_lines(self.source)):
            report.lines += 1
            try:
                self._publish(stack, number, parse_line(text, self.today), pace)
            except ContractError as e:
                report.refused += 1
                if len(report.refusals) < SHOWN_MAX:
                    report.refusals.append((number, e.errors))
                refused.add(number, text, e.errors)
            self.progress(report)

    def _conclude(self, refused: RefusedFile) -> None:
        """Completes the report, however far the run has come."""
        report = self.report
        report.rejections.sort(key=lambda r: r[0].number)
        if self._tail is not None:
            report.unanswered = len({line.number for line in self._matcher.tokens()})
        if not report.complete:
            report.not_sent = None  # for as long as it is not counted
            report.not_sent = self._not_sent()
        report.refused_file = refused.finish(
            replace=report.complete or report.published > 0, remove=report.complete and not self.dry
        )

    def _not_sent(self) -> int | None:
        """Lines that the run did not come to. None for what can be read only once, or not at all."""
        path = Path(self.source)
        if self.source == "-" or not path.is_file():
            return None
        try:
            with path.open("rb") as file:
                lines = sum(1 for _ in _numbered(file, self.source))
        except (OSError, BadInputError):
            return None
        return max(0, lines - (self.report.lines if self.dry else self.report.published + self.report.refused))

    def _publish(self, stack: ExitStack, number: int, command: Command, pace: Pace) -> None:
        if self.check_only:
            return
        if self.foresee is not None:
            self._say_outcome(self.foresee, number, command)
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
        if self.report.unacknowledged:  # the client has tried for long: the other lines would fare no better
            raise self._lost()
        line = Line(number, command.partner_id, command.idempotency_key)
        self.report.published += 1  # before it is: whatever interrupts us, it may have gone
        queued = self._publisher.published
        self._publisher.publish(command, on_delivery=partial(self._delivered, line))
        line.places = self._publisher.published - queued
        self._count(line)
        if self._tail is not None and self.report.published % 500 == 0:
            self._look(0)

    def _say_outcome(
        self, foresee: Callable[[Connection], Callable[[Command], Outcome]], number: int, command: Command
    ) -> None:
        """What would become of a line, on top of the lines before it."""
        if self._foresight is None:
            self._system = self.connect()
            self._foresight = foresee(self._system)
        self._became(Line(number, command.partner_id, command.idempotency_key), self._foresight(command))

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
        line.acknowledgements += 1
        self._count(line)
        if self._tail is not None:
            self._matcher.sent(line, message.partition(), message.offset())

    def _count(self, line: Line) -> None:
        """Counts a line once, when the broker has it everywhere."""
        if 0 < line.places == line.acknowledgements:
            line.places = -1
            self.report.acknowledged += 1

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
        if not self._acknowledged(ACKNOWLEDGE_S) or self.report.unacknowledged:
            raise self._lost()
        if self._tail is not None:
            wait_for_all(self._matcher, self._tail, self.stall_s or STALL_S, lambda: self.progress(self.report))

    def _hurry(self) -> None:
        """The same for a run that failed: for what comes within seconds."""
        if self._publisher is not None:
            self._acknowledged(HURRY_S)
        if self._tail is not None:
            for _ in range(5):
                self._look(0.1)

    def _acknowledged(self, timeout_s: float) -> bool:
        """Waits until every command is acknowledged or given up, in short steps, so that Ctrl-C is heard."""
        assert self._publisher is not None
        deadline = time.monotonic() + timeout_s
        while self._publisher.acknowledged + self._publisher.failed < self._publisher.published:
            if time.monotonic() > deadline:
                return False
            self._publisher.poll(0.1)
        return True

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
