"""Reports for the gateway: asked of ClickHouse in a few threads, worked out once for all who ask the same, and kept.

A report at a cut never changes, so it may be kept for as long as there is room. Without a cut it is made at the head,
and the head is looked at once in HEAD_S: a thousand askers within it cost one look and one report. Whose a report is,
is part of what it is kept under, so nobody is given what was worked out for another.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import date, datetime
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import structlog

from clearline import __version__
from clearline.gateway.problems import Problem
from clearline.gateway.threads import ClientPool
from clearline.gateway.turns import Turns
from schemas.errors import BadInputError, PartUnavailableError
from sinks.clickhouse import ClickHouseConfig, Database, QueryFaultError, TooMuchError
from sinks.finance import cut as cuts
from sinks.finance.ask import Result, ask, head, moment, values
from sinks.finance.ask import day as day_of
from sinks.finance.catalogue import Report
from sinks.finance.cut import LAST_MOMENT, Cut

T = TypeVar("T")
log = structlog.get_logger()

HEAD_S = 1.0  # for so long the head stays where it was last seen
THREADS, WAITING_MAX = 3, 200
# One root partner's reports never take all threads, and the rows of not more than THREADS files are in memory.
OF_ONE, WAITING_OF_ONE = 2, 30
LARGE = 20_000  # rows: a file of so many holds the interpreter for seconds, so one is made at a time
NOT_KEPT = -1  # as a size: only those who wait for it get it
_CUT_MAX = 32_768  # characters: a thousand partitions


class When(NamedTuple):
    """Up to where somebody wants a report, as text; empty for not said (docs/finance.md, cuts)."""

    cut: str = ""
    known_at: str = ""
    closed: str = ""


class Place(NamedTuple):
    """Where a report is made. `fixed`: it was named, so what is made there never changes. `age_s`: how long ago the
    head was seen there. `closed`: the day whose close cut there."""

    cut: Cut
    fixed: bool
    age_s: float
    closed: date | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A report with checked parameters, as given, at a place. `whose`: the partner that it is for, or `bank`.
    `seen`: of a report with measurements, which come in after the cut, the second in which it is asked; else 0."""

    report: Report
    values: Mapping[str, str]
    place: Place
    whose: str
    seen: int = 0

    @property
    def fixed(self) -> bool:
        """Whether its answer never changes: at a cut that was named, and of nothing but the ledger."""
        return self.place.fixed and not self.values.get("join") and not self.report.measured

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What it is kept under: all that its figures follow from, and whose they are."""
        at = self.place.cut
        # The whole places, not the sequences alone: a world that was made anew has other records under the same ones.
        places = tuple(sorted(at.places.items()))
        return self.whose, self.report.name, tuple(sorted(self.values.items())), places, at.known_at, self.seen

    def tag(self, form: str) -> str:
        """An ETag: the same for the same bytes. `form`: the format; formats may change with the program's version."""
        told = repr((__version__, *self.key, form)).encode()
        return f'"{sha256(told).hexdigest()[:32]}"'


class Reporting(Protocol):
    """What makes reports. `Reports` asks ClickHouse; a gateway without one has `NoReports`."""

    async def place(self, when: When, *, of_state: bool = False) -> Place:
        """Where a report is made that is asked for so. `of_state`: it goes by `ledger.state`, so the head is only as
        far as that is in, too. Raises BadInputError, PartUnavailableError."""
        ...

    async def result(self, question: Question) -> Result:
        """The figures. Raises Problem("report_too_large"), PartUnavailableError."""
        ...

    async def file(self, question: Question, form: str, render: Callable[[Result], bytes]) -> bytes:
        """The figures in a format, as bytes. Raises as `result`."""
        ...

    async def look(self, question: Callable[[Database], T]) -> T:
        """The answer to a question of the page for finance that is no report, asked as the user that may only read.
        Raises Problem("report_too_large"), PartUnavailableError."""
        ...

    async def close(self) -> None: ...


class NoReports:
    """`Reporting` where there is no ClickHouse."""

    async def place(self, when: When, *, of_state: bool = False) -> Place:
        """As `Reporting.place`."""
        raise PartUnavailableError("ClickHouse", "none", "this gateway has no reports")

    async def result(self, question: Question) -> Result:
        """As `Reporting.result`."""
        raise PartUnavailableError("ClickHouse", "none", "this gateway has no reports")

    async def file(self, question: Question, form: str, render: Callable[[Result], bytes]) -> bytes:
        """As `Reporting.file`."""
        raise PartUnavailableError("ClickHouse", "none", "this gateway has no reports")

    async def look(self, question: Callable[[Database], T]) -> T:
        """As `Reporting.look`."""
        raise PartUnavailableError("ClickHouse", "none", "this gateway has no reports")

    async def close(self) -> None:
        """Nothing to close."""


class Reports:
    """`Reporting` over ClickHouse, as the user that may only read. `seconds_max`, `rows_max`: of one report;
    `bytes_max`: of all answers that are kept. Starts no thread before it is first asked."""

    def __init__(
        self, config: ClickHouseConfig, *, seconds_max: int = 20, rows_max: int = 200_000, bytes_max: int = 64 << 20,
        threads: int = THREADS,
    ) -> None:  # fmt: skip
        config = replace(config, timeout_s=seconds_max + 10.0)
        self._pool = ClientPool(
            "ClickHouse", config.address,
            lambda: Database(config, reader=True, seconds_max=seconds_max), threads, WAITING_MAX,
        )  # fmt: skip
        self._rows_max = rows_max
        self._kept = Kept(bytes_max)
        self._asking = Turns(OF_ONE, WAITING_OF_ONE, threads)
        self._filing = Turns(OF_ONE, WAITING_OF_ONE, threads)
        self._large = asyncio.Semaphore(1)
        self._heads: dict[tuple[datetime, bool], tuple[float, Cut]] = {}

    async def look(self, question: Callable[[Database], T]) -> T:
        """As `Reporting.look`."""
        return await self._ask(question)

    async def close(self) -> None:
        """Ends the threads and the connections."""
        await asyncio.to_thread(self._pool.close)

    async def place(self, when: When, *, of_state: bool = False) -> Place:
        """As `Reporting.place`."""
        known_at = moment("known_at", when.known_at) if when.known_at else LAST_MOMENT
        if when.closed:
            if when.cut:
                raise BadInputError("cut: cannot be given with closed, which names a cut itself")
            return await self._closed(when.closed, known_at)
        if not when.cut:
            return await self._head(known_at, of_state)
        if len(when.cut) > _CUT_MAX:
            raise BadInputError(f"cut: must be at most {_CUT_MAX} characters")
        sequences = cuts.parse(when.cut)
        if max(sequences.values()) >= 1 << 63 or max(sequences) >= 1 << 16:
            raise BadInputError("cut: names a place that no journal has")
        found = await self._kept.get(
            ("cut", tuple(sorted(sequences.items()))),
            lambda: self._sized(lambda db: cuts.at(db, sequences), 100 * len(sequences)),
        )
        return Place(Cut(found.places, known_at), True, 0.0)

    async def result(self, question: Question) -> Result:
        """As `Reporting.result`."""

        async def make() -> tuple[Result, int]:
            async with self._asking.of(question.whose):
                found = await self._ask(
                    lambda db: ask(db, question.report, question.values, question.place.cut, rows_max=self._rows_max)
                )
            return found, _size(found)

        return await self._kept.get(("figures", *question.key), make)

    async def file(self, question: Question, form: str, render: Callable[[Result], bytes]) -> bytes:
        """As `Reporting.file`."""

        async def make() -> tuple[bytes, int]:
            async with self._filing.of(question.whose):
                found = await self.result(question)
                async with self._large if len(found.rows) > LARGE else nullcontext():
                    made = await asyncio.to_thread(render, found)
            return made, len(made)

        return await self._kept.get(("file", form, *question.key), make)

    async def _closed(self, text: str, known_at: datetime) -> Place:
        day = day_of("closed", text)
        # A day is closed once and for good; that it is not yet is not kept.
        found = await self._kept.get(
            ("closed", day, known_at), lambda: self._sized(lambda db: cuts.closed(db, day, known_at), 1_000)
        )
        return Place(found, True, 0.0, day)

    async def _head(self, known_at: datetime, of_state: bool) -> Place:
        """The head as it was seen within HEAD_S, looked at anew by one for all."""
        now = time.monotonic()
        last = self._heads.get((known_at, of_state))
        if last is not None and now - last[0] < HEAD_S:
            return Place(last[1], False, now - last[0])

        async def look() -> tuple[tuple[float, Cut], int]:
            began = time.monotonic()
            there = await self._ask(lambda db: head(db, known_at, of_state=of_state))
            if len(self._heads) >= 64:
                self._heads.clear()
            self._heads[known_at, of_state] = began, there
            return (began, there), NOT_KEPT

        seen, found = await self._kept.get(("head", known_at, of_state), look)
        return Place(found, False, time.monotonic() - seen)

    async def _sized(self, question: Callable[[Database], T], size: int) -> tuple[T, int]:
        return await self._ask(question), size

    async def _ask(self, question: Callable[[Database], T]) -> T:
        try:
            return await self._pool.ask(question)
        except TooMuchError as e:
            log.info("report_too_large", error=str(e))
            raise Problem(
                "report_too_large", f"it has more than {self._rows_max} rows, or is too much work for the server"
            ) from None
        except QueryFaultError as e:  # values were checked before: this is ours, or ClickHouse was not migrated
            log.error("report_refused", error=str(e))
            raise PartUnavailableError("ClickHouse", self._pool.address, str(e)) from None


class Kept:
    """Answers by key, `bytes_max` of them together; those that were not asked for longest go first. What one is working
    out, others wait for; what fails is not kept."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: Hashable, make: Callable[[], Awaitable[tuple[T, int]]]) -> T:
        """The answer of this key. `make`: works it out, and says how many bytes it takes, or NOT_KEPT."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return cast("T", self._kept[key][0])
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.ensure_future(self._make(key, make))
            task.add_done_callback(_looked_at)
        # An asker who goes away ends his own waiting, and nobody else's.
        return cast("T", await asyncio.shield(task))

    async def _make(self, key: Hashable, make: Callable[[], Awaitable[tuple[T, int]]]) -> T:
        try:
            value, size = await make()
        finally:
            del self._under_way[key]
        if NOT_KEPT < size <= self.bytes_max // 4:
            self._kept[key] = value, size
            self.bytes += size
            while self.bytes > self.bytes_max:
                self.bytes -= self._kept.popitem(last=False)[1][1]
        return value


def _looked_at(task: asyncio.Task[Any]) -> None:
    """Whoever waited has the error; when nobody did, it is nobody's."""
    if not task.cancelled():
        task.exception()


def _size(found: Result) -> int:
    """About how many bytes rows take in memory."""
    text = sum(len(v) for row in found.rows for v in row if isinstance(v, str))
    return 500 + text + len(found.rows) * (64 + 56 * len(found.names))


async def question_of(
    reporting: Reporting, report: Report, given: Mapping[str, str], when: When, whose: str
) -> Question:
    """A report with its parameters checked, at the place that was asked for. `whose`: the partner that it is for, whose
    subtree is already in the parameters, or `bank` for everything. Raises BadInputError, PartUnavailableError."""
    values(report, given)  # before anything is asked
    place = await reporting.place(when, of_state=report.of_state)
    if place.closed is not None and any(p.name == "until" for p in report.parameters):
        if "until" in given:
            raise BadInputError("until: cannot be given with closed, which names the last day itself")
        given = {**given, "until": place.closed.isoformat()}
    return Question(report, dict(given), place, whose, int(time.time() / HEAD_S) if report.measured else 0)
