"""The close of a day, from the first command to the seal: each step looks at what is there and does what is missing.

1. CloseDay in every partition: from then on nothing more is booked on the day there.
2. Wait until ClickHouse has these records: the cut at them holds all of the day, and for ever the same.
3. Work out sums and counts at that cut.
4. SealDay with them in every partition: the journal carries what was sealed, ClickHouse takes it from there.

The ledger takes each once: a second CloseDay is refused with `day_closed`, and SealDay is the same to the byte whoever
gives it how often. So a close that was cut short anywhere is simply given again, and two operators at once come to one
seal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import uuid4

from msgspec.structs import replace

from clearline.control import RejectedError
from clearline.outcomes import Outcome
from ledger.reasons import Reason
from schemas.errors import BadInputError, DifferenceFoundError, PartUnavailableError
from schemas.failpoints import failpoint
from schemas.identity import BANK
from schemas.records import CloseDay, Command, SealDay, SealedPlace, SealedTotal
from sinks.clickhouse import Database
from sinks.finance import closes
from sinks.finance import cut as cuts
from sinks.finance.closes import Closing, Figures, Seal

Ask = Callable[[Command], Sequence[Outcome]]  # gives a command to every partition and waits for what became of it
Progress = Callable[[str, int, int], None]  # what is waited for, records that are in, records in all

EPOCH = date(1970, 1, 1)
STALL_S = 60.0
_LOOK_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Closed:
    """A day that is closed and sealed. Equal however often it was asked for."""

    figures: Figures
    closings: Mapping[int, Closing]

    def to_dict(self) -> dict[str, Any]:
        """One plain document; money in minor units."""
        f = self.figures
        places = sorted(f.cut.places.items())
        return {
            "command": "CloseDay",
            "day": f.day.isoformat(),
            "hash": f.hash,
            "cut": f.cut.text,
            "places": [
                {"partition": p, "sequence": x.sequence, "journal_offset": x.journal_offset, "offset": x.source_offset}
                for p, x in places
            ],
            "totals": [t._asdict() for t in f.totals],
            "closed_at": min(c.booked_at for c in self.closings.values()).isoformat(timespec="milliseconds"),
            "by": self.first.by,
            "note": self.first.note,
            "figures": f.text,
        }  # fmt: skip

    @property
    def first(self) -> Closing:
        """The record that closed it in the lowest partition."""
        return self.closings[min(self.closings)]


class Close:
    """Closes days of one world with `partitions` partitions. `stall_s`: how long ClickHouse may stand still."""

    def __init__(
        self, db: Database, ask: Ask, partitions: int, *, stall_s: float = STALL_S,
        progress: Progress = lambda _what, _done, _all: None,
    ) -> None:  # fmt: skip
        self._db = db
        self._ask = ask
        self._partitions = partitions
        self._stall_s = stall_s
        self._progress = progress

    def run(self, command: CloseDay) -> Closed:
        """Closes and seals a day, or finishes that, or finds it done.

        Raises RejectedError (the day has not begun), DifferenceFoundError when the rows do not bear a seal or there is
        another one already, PartUnavailableError, BadInputError.
        """
        day = date.fromordinal(EPOCH.toordinal() + command.day)
        done = self._look(day)
        if done is not None:
            return done
        given = self._give(command, Reason.DAY_CLOSED)
        failpoint("close.after_close")
        self._wait("records up to the close", given)
        if len(closes.closings(self._db, day)) < self._partitions:
            # The key was refused in some partition when the day had not begun there, and is answered with that for
            # ever: under a new one it is closed, or refused for what holds now.
            again = replace(command, idempotency_key=f"close-{day}-{uuid4().hex}")
            self._wait("records up to the close", self._give(again, Reason.DAY_CLOSED))
        failpoint("close.after_watermark")
        found = closes.seals(self._db, day)
        if not found or {p for s in found for p in s.partitions} != set(range(self._partitions)):
            self._seal(self._work_out(day))
        failpoint("close.after_seal")
        return sealed(self._db, day)

    def _look(self, day: date) -> Closed | None:
        """The day when it is closed and sealed everywhere. None as well while ClickHouse does not answer: what the
        ledger itself does at a close must not wait for it."""
        try:
            found = closes.seals(self._db, day)
            everywhere = len(found) == 1 and found[0].partitions == tuple(range(self._partitions))
            return sealed(self._db, day) if everywhere else None
        except (PartUnavailableError, BadInputError):  # the second: the sink is in the middle of these records
            return None

    def _give(self, command: Command, *fine: Reason) -> Sequence[Outcome]:
        """The outcomes in all partitions. Raises RejectedError for any but `fine`."""
        outcomes = self._ask(command)
        for outcome in outcomes:
            if outcome.outcome in ("rejected", "dead") and outcome.reason not in fine:
                raise RejectedError(f"{type(command).__name__} {command.idempotency_key}", outcome)
        return outcomes

    def _wait(self, what: str, outcomes: Sequence[Outcome]) -> None:
        """Until ClickHouse has these records. Raises PartUnavailableError when it takes nothing for `stall_s`."""
        wanted = {o.partition: o.sequence for o in outcomes}
        begin: dict[int, int] | None = None
        last: dict[int, int] = {}
        deadline = time.monotonic() + self._stall_s
        while True:
            stored = closes.stored_to(self._db)
            left = {p: s for p, s in wanted.items() if stored.get(p, 0) < s}
            begin = stored if begin is None else begin
            total = sum(s - min(begin.get(p, 0), s) for p, s in wanted.items())
            self._progress(what, total - sum(s - stored.get(p, 0) for p, s in left.items()), total)
            if not left:
                return
            if stored != last:
                last, deadline = stored, time.monotonic() + self._stall_s
            elif time.monotonic() > deadline:
                where = ", ".join(f"partition {p} at record {stored.get(p, 0)} of {s}" for p, s in left.items())
                raise PartUnavailableError(
                    "ClickHouse sink", self._db.config.address,
                    f"nothing came in for {self._stall_s:.0f} s: {where}. The day is closed in the ledger; see "
                    "`clearline status` for sink-clickhouse, then give the same command again: it goes on from here",
                )  # fmt: skip
            time.sleep(_LOOK_AGAIN_S)

    def _work_out(self, day: date) -> Figures:
        by = closes.closings(self._db, day)
        missing = set(range(self._partitions)) - by.keys()
        if missing:
            raise BadInputError(f"{day} is closed, but partition {min(missing)} has no record that says so")
        figures = closes.work_out(self._db, day, cuts.at(self._db, {p: c.sequence for p, c in by.items()}))
        wrong = closes.faults(self._db, figures)
        if wrong:
            raise DifferenceFoundError(
                f"{day} is closed and not sealed, for its rows are not right: {'; '.join(wrong)}"
            )
        failpoint("close.after_figures")
        return figures

    def _seal(self, f: Figures) -> None:
        first = closes.closings(self._db, f.day)
        who = first[min(first)]
        outcomes = self._give(command_of(f, who), Reason.DAY_SEALED, Reason.IDEMPOTENCY_CONFLICT)
        for o in outcomes:
            if o.outcome == "rejected" and o.detail.get("hash") != f.hash:
                other = o.detail.get("hash", "something else")
                raise DifferenceFoundError(
                    f"{f.day} is sealed in partition {o.partition} with {other}, its rows give {f.hash}; "
                    f"`clearline close --verify {f.day}` says what differs"
                )
        failpoint("close.after_give_seal")
        self._wait("the seal", outcomes)


def command_of(f: Figures, who: Closing) -> SealDay:
    """The command that seals these figures: always the same, in the name of who closed the day."""
    places = tuple(SealedPlace(p, at.sequence, f.chains[p]) for p, at in sorted(f.cut.places.items()))
    totals = tuple(SealedTotal(t.partition, t.currency, str(t.debits), str(t.credits), t.postings) for t in f.totals)
    number = (f.day - EPOCH).days
    return SealDay(BANK, f"seal-{f.day}", number, f.hash, places, totals, who.by, who.note)


def sealed(db: Database, day: date) -> Closed:
    """A day as it was sealed. Raises BadInputError when it was not, DifferenceFoundError for two seals."""
    found = closes.seals(db, day)
    if not found:
        state = "closed, not sealed: `clearline close` it again" if closes.closings(db, day) else "not closed"
        raise BadInputError(f"{day} is {state}")
    if len(found) > 1:
        raise DifferenceFoundError(f"{day} has {len(found)} different seals: run `clearline close --verify {day}`")
    return Closed(_figures(db, found[0]), closes.closings(db, day))


def _figures(db: Database, seal: Seal) -> Figures:
    try:
        places, totals = closes.read(seal)
    except ValueError as e:
        raise DifferenceFoundError(f"the figures of {seal.day} are not in their form: {e}") from None
    cut = cuts.at(db, {p: s for p, (s, _) in places.items()})
    return Figures(seal.day, cut, {p: chain for p, (_, chain) in places.items()}, totals)


def verify(db: Database, day: date) -> list[str]:
    """What differs between a day's seal and the rows as they are now. Raises BadInputError when it is not sealed."""
    found = closes.seals(db, day)
    if not found:
        sealed(db, day)
    return list(closes.differences(db, day, found))
