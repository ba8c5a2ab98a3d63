"""The tie-out without its process: reads what comes, compares once in a round, and says one word.

The same machine runs in the role, once in `clearline tieout`, and in tests over journals in memory.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog

from clearline.audit.continuous import checkpoint
from clearline.audit.continuous.difference import CLICKHOUSE, KAFKA, PARTS, REDIS, Difference, Finding, Verdict
from clearline.audit.continuous.running import Head, RunningSums, sums_of
from clearline.audit.continuous.shards import LedgerCheck, RedisCheck, ShardOptions, Shards
from clearline.audit.continuous.stored import ProjectionAnewError, StoredCheck, StoredOptions
from schemas.errors import BadInputError, PartUnavailableError
from schemas.records import AccountState, PartitionState
from sinks.balance_check import BalanceCheck
from sinks.balances import RedisConfig
from sinks.checksums import TABLES, rows_of
from sinks.clickhouse import ClickHouseConfig
from sinks.rows import JournalRows
from sinks.stored_sums import STRETCH, StoredSums

log = structlog.get_logger()

WAITING_MAX = 400_000  # records read ahead of ClickHouse, about 1 kB each
SAMPLES_MAX = 3_600


class Source(Protocol):
    """Journal and ledger.state of a world, under read_committed. `streams.tieout_feed.Feed` is the real one."""

    journal_topic: str
    state_topic: str
    partitions: list[int]

    def open(self, journal: Mapping[int, int], state: Mapping[int, int]) -> None:
        """Starts reading from these offsets."""
        ...

    def journal_ends(self) -> dict[int, int]:
        """Where each partition of the journal ends now."""
        ...

    def state_ends(self) -> dict[int, int]:
        """Likewise of ledger.state."""
        ...

    def poll_journal(self, timeout_s: float) -> tuple[JournalRows | None, dict[int, int]]:
        """What came, and the offset to read next of each partition."""
        ...

    def poll_state(
        self, timeout_s: float
    ) -> tuple[list[tuple[int, int, AccountState | PartitionState]], dict[int, int], set[int]]:
        """Rows (partition, offset, row), the offset to read next, and the partitions that are read to their end."""
        ...

    def again(self, partition: int, first: int, end: int) -> Iterable[JournalRows]:
        """The journal's records from offset `first` to before `end`, read anew."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """`behind_s`: how old the common place may be before the word is `behind`; `again_s`: how often a stretch of the
    journal is summed again; `checkpoint`: the file, None for none; `checkpoint_s`: how often it is written; `strict`:
    what a store raises is raised, not said."""

    strict: bool = False
    behind_s: float = 5.0
    again_s: float = 30.0
    checkpoint: Path | None = None
    checkpoint_s: float = 60.0
    stored: StoredOptions = field(default_factory=StoredOptions)
    shards: ShardOptions = field(default_factory=ShardOptions)


@dataclass(slots=True)
class Word:
    """What one round says. `totals`: partition, currency, debits, credits and postings of the journal at the cut, minor
    units; `cut`: last sequence by partition."""

    findings: dict[str, Finding]
    cut: dict[int, int]
    totals: list[tuple[int, str, int, int, int]]

    @property
    def verdict(self) -> Verdict:
        return max(f.verdict for f in self.findings.values())

    @property
    def differences(self) -> list[Difference]:
        return [d for part in PARTS for d in self.findings[part].differences]

    @property
    def lag_s(self) -> float:
        return max(f.lag_s for f in self.findings.values())

    def to_dict(self) -> dict[str, Any]:
        """For JSON: verdict, lag in seconds, each part, the first differences, and the journal's control totals."""
        return {
            "verdict": self.verdict.word,
            "lag_seconds": round(self.lag_s, 2),
            "parts": {part: self.findings[part].to_dict() for part in PARTS},
            "differences": [d.to_dict() for d in self.differences],
            "cut": ",".join(f"{p}:{s}" for p, s in sorted(self.cut.items())),
            "totals": [
                dict(zip(("partition", "currency", "debits", "credits", "postings"), t, strict=True))
                for t in self.totals
            ],
        }


@dataclass(slots=True)
class _Lag:
    """For how long a topic has had something that a reader has not."""

    samples: deque[tuple[float, dict[int, int]]] = field(default_factory=lambda: deque(maxlen=SAMPLES_MAX))

    def seconds(self, ends: dict[int, int], done: Mapping[int, int]) -> float:
        """`ends`: of the topic now; `done`: up to where the reader is."""
        now = time.monotonic()
        self.samples.append((now, ends))
        while self.samples and all(done.get(p, 0) >= end for p, end in self.samples[0][1].items()):
            self.samples.popleft()
        return now - self.samples[0][0] if self.samples else 0.0


class Machine:
    """Ties out one world. Call `open` with each new source, then `read` and `round` in turn.

    Sums, accounts and what is known of parts outlive a source; they start anew when a topic was re-created.
    """

    def __init__(self, clickhouse: ClickHouseConfig, redis: RedisConfig, options: Options | None = None) -> None:
        self._clickhouse, self._redis_config, self._options = clickhouse, redis, options or Options()
        self.source: Source | None = None
        self.running = RunningSums()
        self._topics = ("", "")
        self._stores: tuple[StoredSums, BalanceCheck] | None = None
        self._lags = {CLICKHOUSE: _Lag(), REDIS: _Lag()}
        self._saved = self._looked_again = time.monotonic()
        self._next_again = 0
        self._at_end: set[int] = set()
        self._rebuild_until: dict[int, int] = {}

    def open(self, source: Source) -> None:
        """Goes on with this source."""
        self.source = source
        if (source.journal_topic, source.state_topic) != self._topics:
            self._begin(source)
        journal = {p: self.running.of(p).position for p in source.partitions}
        state = {p: at.position for p, at in self.shards.partitions.items()}
        source.open(journal, state)

    def _begin(self, source: Source) -> None:
        self.close()
        self._topics = (source.journal_topic, source.state_topic)
        self.running, known = RunningSums(), {}
        kept = checkpoint.load(self._options.checkpoint, source.journal_topic) if self._options.checkpoint else None
        if kept is not None and all(_proven(source, p, head) for p, head in kept.heads.items()):
            self.running, known = kept.running(), kept.parts
        elif kept is not None:
            log.warning("tie-out's checkpoint is of another journal: the journal is read from its start")
        for p in source.partitions:
            self.running.of(p)
        self.shards = Shards(source.partitions)
        store, balances = StoredSums(self._clickhouse, source.journal_topic), BalanceCheck(self._redis_config)
        self._stores = store, balances
        self.stored = StoredCheck(store, self.running, self.again, self.journal_ends, self._options.stored)
        self.stored.known.update(known)
        self.stored.begin_with(self.running.sums)
        self.ledger = LedgerCheck(self.shards, self.running)
        self.redis = RedisCheck(balances, self.shards, source.state_topic, self.state_ends, self._options.shards)

    def read(self, timeout_s: float = 0.1) -> bool:
        """Takes what came; whether there was anything."""
        source, came = self._source, False
        if self.running.waiting < WAITING_MAX:
            rows, positions = source.poll_journal(timeout_s)
            if rows is not None:
                self.running.take(rows)
                came = True
            for p, position in positions.items():
                self.running.of(p).position = position
        states, at, self._at_end = source.poll_state(0.0)
        for p, offset, row in states:
            if isinstance(row, AccountState):
                self.shards.account(p, offset, row)
            else:
                self.shards.meta(p, row.next_offset, row.sequence)
        for p, position in at.items():
            self.shards.partitions[p].position = position
        return came or bool(states)

    def round(self) -> Word:
        """Compares everything that can be compared now."""
        findings = {
            REDIS: self._asked(REDIS, self.redis.round),
            CLICKHOUSE: self._asked(CLICKHOUSE, self._stored_round),
        }
        # After ClickHouse, which finds running sums that were wrong; while some may be, nothing is said from them.
        findings[KAFKA] = self.ledger.round(set() if self.stored.unconfirmed else self._at_end)
        self._add_lags(findings)
        if time.monotonic() - self._looked_again >= self._options.again_s:
            self._looked_again = time.monotonic()
            self.look_again()
        if time.monotonic() - self._saved >= self._options.checkpoint_s:
            self.save()
        cut = {p: at.cut.sequence for p, at in sorted(self.running.partitions.items())}
        totals = [
            (p, currency, sums.debits, sums.credits, sums.rows)
            for p, at in sorted(self.running.partitions.items())
            for currency, sums in sorted(at.totals.items())
        ]
        return Word(findings, cut, totals)

    def save(self) -> None:
        """Writes the checkpoint, if there is to be one."""
        self._saved = time.monotonic()
        if self._options.checkpoint is None or not self._topics[0]:
            return
        try:
            checkpoint.save(self._options.checkpoint, self._topics[0], self.running, self.stored.known)
        except OSError as e:
            log.warning("tie-out's checkpoint cannot be written", file=str(self._options.checkpoint), why=str(e))

    @property
    def clickhouse(self) -> ClickHouseConfig:
        """Where ClickHouse is."""
        return self._clickhouse

    @property
    def balances(self) -> BalanceCheck:
        """Redis, for a repair."""
        assert self._stores is not None, "open comes first"
        return self._stores[1]

    @property
    def journal_topic(self) -> str:
        """The journal's name and id."""
        return self._topics[0]

    @property
    def state_topic(self) -> str:
        """Likewise of ledger.state."""
        return self._topics[1]

    def heads(self) -> dict[int, int]:
        """The offset after the last outcome of each partition in ClickHouse, none beyond the journal's end."""
        assert self._stores is not None, "open comes first"
        return self._stores[0].heads(self.journal_ends())

    def close(self) -> None:
        """Ends the connections to the stores."""
        for store in self._stores or ():
            store.close()
        self._stores = None

    def look_again(self) -> None:
        """Sums the next stretch of the journal again, whatever was kept of it."""
        stretches = sorted({(k.partition, k.stretch) for k in self.running.sums})
        if not stretches:
            return
        p, stretch = stretches[self._next_again % len(stretches)]
        self._next_again += 1
        first, end = stretch * STRETCH, min((stretch + 1) * STRETCH, self.running.of(p).cut.offset + 1)
        pieces = list(self.again(p, first, end))
        found = {key: s for t in TABLES for key, s in sums_of(t.name, [rows_of(t, j) for j in pieces]).items()}
        kept = {key: s for key, s in self.running.sums.items() if (key.partition, key.stretch) == (p, stretch)}
        for key in {*found, *kept}:
            if found.get(key) != kept.get(key):
                log.error("running sums were wrong and are read again", key=key)
                self.stored.put_right(key, found.get(key))

    def _asked(self, part: str, ask: Callable[[], Finding]) -> Finding:
        """A round of one part; a store that does not answer is a word, too."""
        try:
            return ask()
        except (PartUnavailableError, BadInputError) as e:
            if self._options.strict:
                raise
            return Finding(part, Verdict.UNAVAILABLE, said=str(e))

    def _stored_round(self) -> Finding:
        try:
            finding = self.stored.round()
        except ProjectionAnewError:
            log.warning("ClickHouse is filled from the start; the journal is summed from the start")
            self._rebuild_until = self.journal_ends()
            self._restart_sums()
            return Finding(CLICKHOUSE, Verdict.REBUILDING, said="the tables are others and are being filled")
        done = self.covered()
        if self._rebuild_until and any(done.get(p, 0) < end for p, end in self._rebuild_until.items()):
            if finding.verdict < Verdict.REBUILDING:
                finding.verdict, finding.said = Verdict.REBUILDING, "the tables are others and are being filled"
        else:
            self._rebuild_until = {}
        return finding

    def _restart_sums(self) -> None:
        source = self._source
        fresh = RunningSums()
        self.running.sums, self.running.partitions = fresh.sums, {p: fresh.of(p) for p in source.partitions}
        self.stored.forget()
        source.open({}, {p: at.position for p, at in self.shards.partitions.items()})

    def covered(self) -> dict[int, int]:
        """Up to which offset of the journal everything is compared with ClickHouse."""
        return {
            p: at.cut.offset + 1 if at.waiting else at.position for p, at in self.running.partitions.items()
        }  # fmt: skip

    def _add_lags(self, findings: dict[str, Finding]) -> None:
        clickhouse, redis = findings[CLICKHOUSE], findings[REDIS]
        clickhouse.lag_s = self._lags[CLICKHOUSE].seconds(self.journal_ends(), self.covered())
        behind = {p: min(self.redis.behind(p), at.position) for p, at in self.shards.partitions.items()}
        redis.lag_s = self._lags[REDIS].seconds(self.state_ends(), behind)
        for finding in (clickhouse, redis):
            if finding.verdict == Verdict.EQUAL and finding.lag_s > self._options.behind_s:
                finding.verdict = Verdict.BEHIND
                finding.said = f"for {finding.lag_s:.0f} s something is in the log and not compared yet"

    @property
    def _source(self) -> Source:
        assert self.source is not None, "open comes first"
        return self.source

    def again(self, partition: int, first: int, end: int) -> Iterable[JournalRows]:
        """The journal's records from offset `first` to before `end`, read anew."""
        return self._source.again(partition, first, end)

    def journal_ends(self) -> dict[int, int]:
        """Where each partition of the journal ends now."""
        return self._source.journal_ends()

    def state_ends(self) -> dict[int, int]:
        """Likewise of ledger.state."""
        return self._source.state_ends()


def _proven(source: Source, partition: int, head: Head) -> bool:
    """Whether the journal's record at this place is the one that the checkpoint names."""
    if partition not in source.partitions:
        return False
    for j in source.again(partition, head.offset, head.offset + 1):
        for i in range(len(j)):
            chain = j.columns.fixed_bytes("chain", 32, j.offset[i : i + 1] * 0 + i)[0]
            if int(j.offset[i]) == head.offset:
                return bool(chain == head.chain and int(j.columns.numbers["sequence"][i]) == head.sequence)
    return False
