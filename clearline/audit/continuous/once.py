"""The continuous tie-out once, at once: for `clearline tieout` and its repair.

It goes on from the role's checkpoint where there is one, and never writes it. So it reads the journal's newest stretch,
and the parts of ClickHouse that the checkpoint does not know.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from clearline.audit.continuous.difference import CLICKHOUSE, REDIS, Verdict
from clearline.audit.continuous.machine import Machine, Word
from clearline.audit.continuous.repair import ClickHouseRepair, Repaired, repair_redis
from clearline.audit.continuous.repair import rebuild_redis as rebuild_balances
from clearline.audit.continuous.role import options_of
from clearline.config import Settings
from clearline.connection import clickhouse_config, kafka_config, redis_config, registry_of
from streams.sink_host import rebuild_redis
from streams.tieout_feed import Feed, feed_once
from streams.topics import Topics

STILL_S = (
    10.0  # for as long a projection that is behind or being filled may stand still; while it moves, it is waited for
)
REPAIRS_MAX = 5
ROUND_S = 1.0  # of reading, before what was read is compared

Progress = Callable[[str], None]


def _silent(_: str) -> None:
    return


class Once:
    """Answers of one look at a running world. `still_s`: how long a projection that stands still is waited for."""

    def __init__(self, settings: Settings, progress: Progress = _silent, still_s: float = STILL_S) -> None:
        options = options_of(settings)
        shards = replace(options.shards, accounts_per_round=1_000_000, names_per_round=1_000_000)
        never = replace(options, checkpoint_s=float("inf"), again_s=float("inf"), shards=shards, strict=True)
        stored = replace(options.stored, again_rows=0, read_s=30.0)
        self._settings, self._progress, self._still_s = settings, progress, still_s
        self._machine = Machine(clickhouse_config(settings), redis_config(settings), replace(never, stored=stored))

    def look(self) -> Word:
        """Compares until everything is compared that was there when it began. Raises PartUnavailableError."""
        return self._with_feed(self._settled)

    def repair(self, parts: set[str]) -> tuple[Repaired, Word]:
        """Puts right what is wrong in these parts, and looks again; until nothing is wrong, or nothing gets better.

        Raises PartUnavailableError, InvariantError.
        """
        done = Repaired()

        def body() -> Word:
            word = self._settled()
            for _ in range(REPAIRS_MAX):
                now = self._mend(parts, word)
                if not now:
                    break
                done.months |= now.months
                done.accounts += now.accounts
                word = self._settled()
            return word

        return done, self._with_feed(body)

    def rebuild(self, part: str, tell: Callable[[str, int, int], None]) -> tuple[Repaired, Word]:
        """Builds a projection anew as a whole, right or wrong, and looks whether it is right; what is not is mended.
        `tell`: what is done, how much of it, of how much; it may raise while no sink is locked out.

        Raises PartUnavailableError, InvariantError.
        """
        done = Repaired()

        def body() -> Word:
            word = self._settled()
            if part == REDIS:
                done.accounts += rebuild_balances(self._machine, lambda n, of: tell("accounts", n, of)).accounts
            else:
                total = sum(word.cut.values())
                repair = ClickHouseRepair(
                    self._machine, self._progress, lambda n: tell("records of the journal", n, max(n, total))
                )
                done.months |= repair.run(every=True).months
            word = self._settled()
            for _ in range(REPAIRS_MAX):
                now = self._mend({part}, word)
                if not now:
                    break
                done.months |= now.months
                word = self._settled()
            return word

        return done, self._with_feed(body)

    def _mend(self, parts: set[str], word: Word) -> Repaired:
        out = Repaired()
        if REDIS in parts:
            out.accounts += repair_redis(self._machine).accounts
            if not out and word.findings[REDIS].verdict == Verdict.REBUILDING:
                self._progress("redis is filled from ledger.state")
                s = self._settings
                rebuild_redis(kafka_config(s), Topics(s.world), registry_of(s), redis_config(s))
                out.accounts.append("every account")
        if CLICKHOUSE in parts:
            out.months |= ClickHouseRepair(self._machine, self._progress).run().months
        return out

    def _settled(self) -> Word:
        """Rounds until all parts have compared what was there, or stand still."""
        machine, wanted = self._machine, self._machine.journal_ends()
        passes = machine.redis.passes
        moved = time.monotonic()
        before: object = None
        now: tuple[Any, ...]
        owed: dict[Any, Any] | None = None  # what Redis had and nobody had read when all else was compared
        while True:
            until = time.monotonic() + ROUND_S  # under traffic there is always more
            while machine.read(0.1) and time.monotonic() < until:
                pass
            word = machine.round()
            covered = machine.covered()
            whole = all(covered.get(p, 0) >= end for p, end in wanted.items())
            waits = {f.verdict for f in word.findings.values()} & {Verdict.CHECKING, Verdict.REBUILDING}
            ahead = True
            if whole and not waits and machine.redis.passes >= passes + 2:
                # Under traffic Redis is always ahead in something; it is enough that what was ahead once is read.
                now_ahead = machine.shards.ahead
                owed = dict(now_ahead) if owed is None else {p: a for p, a in owed.items() if now_ahead.get(p) is a}
                if not owed:
                    return word
            elif machine.redis.passes >= passes + 2:
                ahead = bool(machine.shards.ahead)
            # Traffic moves Redis all the time: while it is ClickHouse that is waited for, only that counts.
            now = (whole, covered, word.findings[CLICKHOUSE].more)
            if whole:
                now = (*now, machine.redis.progress, machine.redis.passes if ahead else 0)
            if now != before:
                before, moved = now, time.monotonic()
            elif time.monotonic() - moved > self._still_s:
                return word
            time.sleep(0.05)

    def _with_feed(self, body: Callable[[], Word]) -> Word:
        s = self._settings

        def opened(feed: Feed) -> Word:
            self._machine.open(feed)
            return body()

        return feed_once(kafka_config(s), Topics(s.world), registry_of(s), opened)

    def close(self) -> None:
        """Ends the connections."""
        self._machine.close()
