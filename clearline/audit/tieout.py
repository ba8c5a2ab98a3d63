"""`clearline tieout`: do Kafka, ClickHouse and Redis say the same? Control totals at a common offset, in seconds.

Kafka's side are the counters of `ledger.state`, which are written in one Kafka transaction with the journal; they name
the offset at which they hold. ClickHouse is asked for its totals below exactly that offset, Redis for each account at
it. Only what differs is looked at closer, down to the account and the transaction. Whether the counters themselves are
right is for `verify`, which recomputes them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from clearline.audit.continuous.difference import Verdict
from clearline.audit.journal import Decode
from clearline.audit.live import LearningCodec, LiveLog
from clearline.audit.state import StateCheck
from clearline.audit.stores import ClickHouseEntries, RedisBalances
from clearline.audit.verdict import DIFFERENCES_SHOWN_MAX, Findings
from clearline.audit.views import JOURNAL, BalanceStore, Log, TotalStore
from clearline.config import Settings
from clearline.connection import clickhouse_config, kafka_config, redis_config, registry_of
from schemas.records import AccountState, JournalRecord
from streams.topics import Topics, topic_ids

PARTS = ("kafka", "clickhouse", "redis")
REPAIRABLE = ("redis", "clickhouse")
CATCH_UP_S = 10.0  # for as long a projection that is behind may stand still; while it moves, it is waited for


@dataclass(frozen=True, slots=True)
class Total:
    """One currency of one partition, minor units, all postings below `offset` of transactions.submitted."""

    partition: int
    currency: str
    offset: int
    debits: int
    credits: int


@dataclass(slots=True)
class TieOut:
    """What was compared and what differed, by part. `records`: journal records below the common offsets; `rows`: what
    was found by looking at every row and balance, with account and transaction."""

    world: str
    totals: list[Total] = field(default_factory=list)
    records: int = 0
    accounts: int = 0
    differences: dict[str, list[str]] = field(default_factory=lambda: {p: [] for p in PARTS})
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    repaired: list[str] | None = None

    @property
    def ok(self) -> bool:
        return not any(self.differences.values())

    def said(self, part: str) -> str | list[str]:
        """`equal`, or the first differences of a part."""
        return self.differences[part][:DIFFERENCES_SHOWN_MAX] or "equal"

    def to_dict(self) -> dict[str, Any]:
        """`kafka`, `clickhouse` and `redis`: each `equal` or the list of its differences. With differences in rows or
        balances `named`: each with its account and transaction; after a repair `repaired`: what was built anew."""
        named = {"named": self.rows[:DIFFERENCES_SHOWN_MAX]} if self.rows else {}
        repaired = {} if self.repaired is None else {"repaired": self.repaired}
        return {part: self.said(part) for part in PARTS} | named | repaired

    def lines(self) -> list[str]:
        """The comparison for people."""
        out = list(self.repaired or ())
        out += [
            f"partition {t.partition} below offset {t.offset}: {t.currency} debits {t.debits}, credits {t.credits}"
            for t in self.totals
        ]
        for part in PARTS:
            out.append(f"{part}: {'equal' if not self.differences[part] else 'DIFFERS'}")
            out += [f"      {d}" for d in self.differences[part][:DIFFERENCES_SHOWN_MAX]]
        verdict = "tie out" if self.ok else "DO NOT tie out"
        out.append(f"{self.records} records, {self.accounts} accounts {verdict} ({self.seconds:.1f} s)")
        return out


class _Partition:
    """Ties out one partition."""

    def __init__(
        self, tie: TieOut, partition: int, log: Log, decode: Decode, entries: TotalStore, balances: BalanceStore
    ) -> None:
        self.tie, self.p, self.log, self.decode = tie, partition, log, decode
        self.entries, self.balances = entries, balances
        findings = Findings("state")
        self.state = StateCheck(partition, findings)
        self.state.read(log, decode)
        tie.differences["kafka"] += findings["state"].differences
        self.offset = self.state.next_offset
        self.sequence = self.state.meta.sequence if self.state.meta else 0

    def compare(self, catch_up_s: float) -> None:
        """All three. A projection that is behind is waited for, unless it stands still for `catch_up_s`."""
        self.tie.records += self.sequence
        self.tie.accounts += len(self.state.accounts)
        own = _totals(self.state.accounts.values())
        for currency, (debits, credits) in sorted(own.items()):
            self.tie.totals.append(Total(self.p, currency, self.offset, debits, credits))
            if debits != credits:
                self._differ("kafka", f"{currency} debits {debits}, credits {credits}")
        self._clickhouse(own, catch_up_s)
        self._redis(catch_up_s)

    def _differ(self, part: str, text: str) -> None:
        self.tie.differences[part].append(f"partition {self.p}: {text}")

    def _clickhouse(self, own: dict[str, tuple[int, int]], catch_up_s: float) -> None:
        stored = _wait_for(self.sequence, lambda: self.entries.records_below(self.p, self.offset), catch_up_s)
        if stored != self.sequence:
            self._differ("clickhouse", f"{stored} outcomes are stored below offset {self.offset}, not {self.sequence}")
        theirs = self.entries.totals_below(self.p, self.offset)
        wrong = [c for c in sorted({*own, *theirs}) if own.get(c, (0, 0)) != theirs.get(c, (0, 0))]
        for c in wrong:
            (d1, c1), (d2, c2) = own.get(c, (0, 0)), theirs.get(c, (0, 0))
            self._differ("clickhouse", f"{c} debits {d2} and credits {c2} are stored, the ledger has {d1} and {c1}")
        if wrong:
            self._name_accounts()

    def _name_accounts(self) -> None:
        """Which accounts differ, and for the first of them which transaction."""
        theirs = self.entries.accounts_below(self.p, self.offset)
        own = {a: (s.debits_posted, s.credits_posted) for a, s in self.state.accounts.items()}
        wrong = [a for a in sorted({*own, *theirs}) if own.get(a, (0, 0)) != theirs.get(a, (0, 0))]
        for a in wrong[:DIFFERENCES_SHOWN_MAX]:
            self._differ(
                "clickhouse", f"account {a}: {theirs.get(a, (0, 0))} stored, {own.get(a, (0, 0))} in the ledger"
            )
        if wrong:
            self._name_transaction(wrong[0])

    def _name_transaction(self, account: str) -> None:
        """The first transaction of an account whose rows are not those of the journal."""
        rows: dict[int, list[tuple[str, int]]] = {}
        for row in self.entries.postings_of(self.p, account, self.offset):
            rows.setdefault(row.source_offset, []).append((row.side, row.amount))
        start, end = self.log.span(JOURNAL, self.p)
        for raw in self.log.read(JOURNAL, self.p, start, end):
            record = self.decode(raw.value)
            assert isinstance(record, JournalRecord)
            legs = [(p.side, p.amount) for p in record.postings if p.account_id == account]
            found = rows.pop(record.source_offset, [])
            if legs != found and record.source_offset < self.offset:
                self._differ(
                    "clickhouse",
                    f"account {account}: transaction {record.partner_id} {record.idempotency_key} (offset "
                    f"{record.source_offset}) posted {legs}, stored is {found}",
                )
                return
        for offset, found in sorted(rows.items())[:1]:
            self._differ("clickhouse", f"account {account}: {found} is stored at offset {offset}, never journaled")

    def _redis(self, catch_up_s: float) -> None:
        position = _wait_for(self.offset, lambda: self.balances.position(self.p), catch_up_s)
        if position < self.offset:
            self._differ("redis", f"stands at offset {position}, the ledger at {self.offset}")
        stored = self.balances.balances(self.p)
        for a, row in self.state.accounts.items():
            found = stored.pop(a, None)
            counters = (row.debits_pending, row.debits_posted, row.credits_pending, row.credits_posted)
            if found is None:
                self._differ("redis", f"account {a} is not there")
            elif found.source_offset == row.source_offset and found[1:5] != counters:
                self._differ("redis", f"account {a}: {found[1:5]} is stored, the ledger has {counters}")
            elif found.source_offset < row.source_offset:
                self._differ("redis", f"account {a} stands at offset {found.source_offset}, not {row.source_offset}")
        for a, left in stored.items():
            if left.source_offset < self.offset:
                self._differ("redis", f"account {a} is not in the ledger")


def _wait_for(wanted: int, ask: Callable[[], int], still_s: float) -> int:
    """What `ask` says once it is `wanted` or more, or has not moved for `still_s`."""
    found, moved = ask(), time.monotonic()
    while found < wanted and time.monotonic() - moved < still_s:
        time.sleep(0.1)
        before, found = found, ask()
        if found != before:
            moved = time.monotonic()
    return found


def _totals(accounts: Any) -> dict[str, tuple[int, int]]:
    """Debits and credits posted by currency; currencies in which nothing moved are left out."""
    out: dict[str, tuple[int, int]] = {}
    for a in accounts:
        assert isinstance(a, AccountState)
        debits, credits = out.get(a.currency, (0, 0))
        out[a.currency] = (debits + a.debits_posted, credits + a.credits_posted)
    return {c: both for c, both in out.items() if any(both)}


def tieout(settings: Settings, *, catch_up_s: float = CATCH_UP_S) -> TieOut:
    """Compares the three, partition by partition, while the system works. `settings` hold all addresses.

    A projection that stands still behind the ledger for `catch_up_s` differs. Raises PartUnavailableError.
    """
    kafka, registry, topics = kafka_config(settings), registry_of(settings), Topics(settings.world)
    log = LiveLog(kafka, topics, settings.partitions)
    decode = LearningCodec(registry.codec(), registry).decode
    journal = f"{topics.journal}@{topic_ids(kafka, [topics.journal])[topics.journal]}"
    entries = ClickHouseEntries(clickhouse_config(settings), journal)
    balances = RedisBalances(redis_config(settings))
    return tie_out(settings.world, log, decode, entries, balances, catch_up_s)


def tie_out(
    world: str, log: Log, decode: Decode, entries: TotalStore, balances: BalanceStore, catch_up_s: float = CATCH_UP_S
) -> TieOut:
    """Compares one world, however it is looked at."""
    began = time.monotonic()
    tie = TieOut(world)
    for p in range(log.partitions):
        _Partition(tie, p, log, decode, entries, balances).compare(catch_up_s)
    tie.seconds = time.monotonic() - began
    return tie


@contextmanager
def logs_on_stderr() -> Iterator[None]:
    """A command's stdout is its answer."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(file=sys.stderr))
    try:
        yield
    finally:
        structlog.configure(**before)


def tieout_whole(
    settings: Settings, repair: set[str] | None = None, progress: Callable[[str], None] = lambda _: None
) -> TieOut:
    """`tieout`, and every column of every row and every balance, as the role `tieout` compares them; what is wrong in
    the parts of `repair` is built anew first. Raises PartUnavailableError, InvariantError when a repair cannot go on.
    """
    from clearline.audit.continuous.once import Once

    began = time.monotonic()
    once = Once(settings, progress)
    with logs_on_stderr(), closing(once):
        done, word = once.repair(repair) if repair else (None, once.look())
    tie = tieout(settings)
    for d in word.differences:
        if d.line not in tie.differences[d.part]:
            tie.differences[d.part].append(d.line)
        tie.rows.append(d.to_dict())
    for part, finding in word.findings.items():
        if (
            not finding.differences
            and finding.verdict not in (Verdict.EQUAL, Verdict.BEHIND)
            and not tie.differences[part]
        ):
            tie.differences[part].append(f"{finding.verdict.word}: {finding.said}")
    tie.repaired = None if done is None else done.lines()
    tie.seconds = time.monotonic() - began
    return tie
