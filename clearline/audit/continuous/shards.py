"""Redis against ledger.state, account by account, and the accounts' sums against the journal.

Every value that the sink may write is the text of one record of ledger.state. So the role keeps the last text of every
account, and Redis is asked which are others. An older one is right only while the partition's marker has not passed the
newer record; a newer one only if that record is read within what the topic had when Redis was asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from clearline.audit.continuous.difference import KAFKA, REDIS, Difference, Finding, Verdict
from clearline.audit.continuous.running import RunningSums
from schemas.records import AccountState
from sinks.balance_check import BalanceCheck, Compared, Unlike, shard_of
from sinks.balances import Marker, Shard, encode_shard

SHOWN_MAX = 50
PASS_ROUNDS = 4  # a pass over all accounts takes so many rounds; few accounts need no hurry
ROUND_MIN = 1_000


class Kept(NamedTuple):
    """An account's last record: its text, and its offset in ledger.state."""

    text: str
    at: int


@dataclass(frozen=True, slots=True)
class ShardOptions:
    """How many accounts one round compares at the most, touched ones first, and how many names it reads."""

    accounts_per_round: int = 25_000
    names_per_round: int = 20_000


@dataclass(slots=True)
class _Partition:
    """One partition of ledger.state as it was read. `source_next` and `sequence`: of its last record `meta`."""

    accounts: dict[str, Kept] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    totals: dict[str, list[int]] = field(default_factory=dict)
    position: int = 0
    source_next: int = 0
    sequence: int = 0
    whole: bool = False  # nothing was read after `meta`
    next_name: int = 0


class _Ahead(NamedTuple):
    """A text that Redis has and nobody has read yet; `end`: where ledger.state ended after Redis was asked."""

    found: str
    end: int


class Shards:
    """All accounts of ledger.state."""

    def __init__(self, partitions: Iterable[int]) -> None:
        self.partitions = {p: _Partition() for p in partitions}
        self.ahead: dict[tuple[int, str], _Ahead] = {}

    def account(self, partition: int, offset: int, a: AccountState) -> None:
        """Takes a record of an account."""
        at = self.partitions[partition]
        text, before = encode_shard(a), at.accounts.get(a.account_id)
        if before is None:
            at.names.append(a.account_id)
        else:
            old = shard_of(before.text)
            assert old is not None, "it was made by encode_shard"
            _add(at.totals, old.currency, -old.debits_posted, -old.credits_posted)
        _add(at.totals, a.currency, a.debits_posted, a.credits_posted)
        at.accounts[a.account_id] = Kept(text, offset)
        at.touched.add(a.account_id)
        at.whole = False
        ahead = self.ahead.get((partition, a.account_id))
        if ahead is not None and ahead.found == text:
            del self.ahead[partition, a.account_id]

    def meta(self, partition: int, source_next: int, sequence: int) -> None:
        """Takes a record `meta`: everything before it is of commands below `source_next`."""
        at = self.partitions[partition]
        at.source_next, at.sequence, at.whole = source_next, sequence, True

    @property
    def count(self) -> int:
        return sum(len(p.accounts) for p in self.partitions.values())


def _add(totals: dict[str, list[int]], currency: str, debits: int, credits_: int) -> None:
    sums = totals.setdefault(currency, [0, 0])
    sums[0] += debits
    sums[1] += credits_


class LedgerCheck:
    """Part kafka: debits equal credits in the journal, and the accounts of ledger.state have what was journaled."""

    def __init__(self, shards: Shards, running: RunningSums) -> None:
        self._shards, self._running = shards, running
        self._wrong: dict[int, list[Difference]] = {}

    def round(self, at_end: set[int]) -> Finding:
        """`at_end`: partitions of ledger.state of which everything was read: only there all rows are of one moment."""
        for p in at_end & self._shards.partitions.keys():
            shards = self._shards.partitions[p]
            own = self._running.totals_at(p, shards.sequence) if shards.whole or not shards.accounts else None
            if own is not None:
                self._wrong[p] = list(_unbalanced(p, own, {c: (d, k) for c, (d, k) in shards.totals.items() if d or k}))
        every = [d for p in sorted(self._wrong) for d in self._wrong[p]]
        return Finding(KAFKA, Verdict.DIFFERS if every else Verdict.EQUAL, every[:SHOWN_MAX], len(every))


def _unbalanced(p: int, journal: dict[str, tuple[int, int]], state: dict[str, tuple[int, int]]) -> Iterator[Difference]:
    for c in sorted({*journal, *state}):
        debits, credits_ = journal.get(c, (0, 0))
        if debits != credits_:
            yield Difference(KAFKA, p, f"the journal has {c} debits {debits}, credits {credits_}")
        if state.get(c, (0, 0)) != (debits, credits_):
            d, k = state.get(c, (0, 0))
            text = f"{c} debits {d} and credits {k} are on the accounts of ledger.state, {debits} and {credits_} were"
            yield Difference(KAFKA, p, f"{text} journaled")


class RedisCheck:
    """Part redis. `topic`: ledger.state with its id, as markers name it; `ends`: where it ends now, by partition."""

    def __init__(
        self, redis: BalanceCheck, shards: Shards, topic: str, ends: Callable[[], dict[int, int]],
        options: ShardOptions | None = None,
    ) -> None:  # fmt: skip
        self._redis, self._shards, self._topic, self._ends = redis, shards, topic, ends
        self._options = options or ShardOptions()
        self._wrong: dict[tuple[int, str], tuple[Unlike, Difference]] = {}
        self._markers: dict[int, Marker | None] = {}
        self._strange_markers: dict[int, Difference] = {}
        self._ghosts: dict[tuple[str, str], Difference] = {}
        self._cursor = "0"
        self._walked = False
        self._passes = 0
        self._passed: set[int] = set()
        self.full_pass_s = 0.0
        self._pass_began = time.monotonic()

    @property
    def wrong(self) -> dict[tuple[int, str], Unlike]:
        """What differs now, for a repair."""
        return {place: unlike for place, (unlike, _) in self._wrong.items()}

    @property
    def ghosts(self) -> list[tuple[str, str]]:
        """Accounts and fields that no partition knows, for a repair."""
        return list(self._ghosts)

    @property
    def strange_markers(self) -> list[int]:
        """Partitions whose marker cannot be, for a repair."""
        return list(self._strange_markers)

    @property
    def progress(self) -> dict[int, int]:
        """Up to which offset of ledger.state each partition is in."""
        return {p: self.behind(p) for p in self._shards.partitions}

    @property
    def passes(self) -> int:
        """How often every account was compared."""
        return self._passes

    def round(self) -> Finding:
        """Compares what was touched, what differed, and the next accounts of the rotation. Raises
        PartUnavailableError."""
        left = self._share(self._options.accounts_per_round)
        for p, at in self._shards.partitions.items():
            wanted = dict.fromkeys(a for q, a in (*self._wrong, *self._shards.ahead) if q == p)
            while at.touched and len(wanted) < left:
                wanted[at.touched.pop()] = None
            self._compare(p, [a for a in wanted if a in at.accounts])
            left = max(0, left - len(wanted))
        self._rotate(left)
        self._judge_ahead()
        self._walk_names()
        return self._finding()

    def _share(self, most: int) -> int:
        """How many accounts one round takes: all of them in PASS_ROUNDS, if there are not too many."""
        return min(most, max(ROUND_MIN, self._shards.count // PASS_ROUNDS + 1))

    def _rotate(self, left: int) -> None:
        """The next accounts of each partition, whether anything touched them or not."""
        share = max(1, left // max(1, len(self._shards.partitions)))
        for p, at in self._shards.partitions.items():
            piece = at.names[at.next_name : at.next_name + share]
            self._compare(p, piece)
            at.next_name += len(piece)
            if at.next_name >= len(at.names):
                at.next_name = 0
                self._passed.add(p)
        if self._passed == self._shards.partitions.keys():
            self._passed = set()
            self._passes += 1
            self.full_pass_s = time.monotonic() - self._pass_began
            self._pass_began = time.monotonic()

    def _compare(self, p: int, accounts: list[str]) -> None:
        kept = self._shards.partitions[p].accounts
        texts = [(a, kept[a].text) for a in accounts]
        answers = self._redis.compare(p, texts)
        ends: dict[int, int] | None = None
        done = 0
        for answer in answers:
            self._markers[p] = answer.marker
            piece = texts[done : done + 500]
            done += len(piece)
            unlike = {u.account: u for u in answer.unlike}
            for a, _ in piece:
                if a not in unlike:
                    self._wrong.pop((p, a), None)
                    self._shards.ahead.pop((p, a), None)
            for u in unlike.values():
                judged = self._judge(p, u, answer)
                if judged is None and (shard := shard_of(u.found)) and shard.source_offset > _offset(u.text):
                    ends = ends or self._ends()
                    self._shards.ahead.setdefault((p, u.account), _Ahead(u.found, ends.get(p, 0)))
                self._note(p, u, judged)
        if answers and answers[-1].marker is not None:
            self._judge_marker(p, answers[-1].marker)

    def _note(self, p: int, u: Unlike, said: str | None) -> None:
        if said is None:
            self._wrong.pop((p, u.account), None)
        else:
            self._wrong[p, u.account] = u, Difference(REDIS, p, f"account {u.account} {said}", u.account)

    def _judge(self, p: int, u: Unlike, answer: Compared) -> str | None:
        """What is wrong with an account that is not as it was read; None when it may be right."""
        marker = answer.marker
        if marker is None or marker.topic != self._topic:
            return None  # it is being filled again, or will be
        passed = marker.next_offset > self._shards.partitions[p].accounts[u.account].at
        if u.found == "":
            return "is not there" if passed else None
        found, own = shard_of(u.found), shard_of(u.text)
        assert own is not None, "it was made by encode_shard"
        if found is None:
            return f"has {u.found[:80]!r}, which is no balance"
        if found == own:
            return None  # written by another version in another way
        if found.source_offset == own.source_offset:
            return _unlike(found, own) if passed else None
        if found.source_offset < own.source_offset:
            behind = f"stands at offset {found.source_offset}, its last change is at {own.source_offset}"
            return behind if passed else None
        return None

    def _judge_ahead(self) -> None:
        """Texts of which the record should have been read by now, and was not."""
        for (p, a), ahead in list(self._shards.ahead.items()):
            at = self._shards.partitions[p]
            if at.position < ahead.end:
                continue
            del self._shards.ahead[p, a]
            if a not in at.accounts:
                continue  # told by the walk over names
            u = next(iter(self._redis.compare(p, [(a, at.accounts[a].text)])[0].unlike), None)
            if u is not None and u.found == ahead.found:
                found, own = shard_of(u.found), shard_of(u.text)
                assert found is not None
                assert own is not None
                said = f"stands at offset {found.source_offset}, where nothing changed it: {_unlike(found, own)}"
                self._note(p, u, said)

    def _judge_marker(self, p: int, marker: Marker) -> None:
        at = self._shards.partitions[p]
        beyond = marker.next_offset > at.position or marker.target > at.position or marker.source_next > at.source_next
        self._strange_markers.pop(p, None)
        if marker.topic == self._topic and beyond:
            end = self._ends().get(p, 0)
            if marker.next_offset > end or marker.target > end:
                text = f"the marker stands at {marker.next_offset} of {marker.target}, ledger.state ends at {end}"
                self._strange_markers[p] = Difference(REDIS, p, text)

    def _walk_names(self) -> None:
        """Accounts that nobody opened, and shards of partitions that do not have them."""
        read = 0
        share = self._share(self._options.names_per_round)
        while read < share:
            self._cursor, names = self._redis.names(self._cursor)
            read += max(1, len(names))
            partitions = [at.accounts for at in self._shards.partitions.values()]
            self._judge_fields([a for a, n in names if not 0 <= n <= sum(a in known for known in partitions)])
            if self._cursor == "0":
                self._walked = True
                break
        if self._ghosts:
            self._judge_fields(sorted({a for a, _ in self._ghosts}))

    def _judge_fields(self, accounts: list[str]) -> None:
        if not accounts:
            return
        ends: dict[int, int] | None = None
        for a, fields in self._redis.shard_texts(accounts).items():
            for place in [x for x in self._ghosts if x[0] == a and x[1] not in fields]:
                del self._ghosts[place]
            for f, text in fields.items():
                p = int(f) if f.isdigit() else -1
                at = self._shards.partitions.get(p)
                if f == "no hash" and any(a in x.accounts for x in self._shards.partitions.values()):
                    continue  # the comparison tells it
                if at is not None and a in at.accounts:
                    self._ghosts.pop((a, f), None)
                    continue
                if at is not None:
                    ends = ends or self._ends()
                    if at.position < ends.get(p, 0):
                        continue  # its record may be among those that are not read yet
                where = "no hash" if f == "no hash" else f"partition {f} ({text[:80]})"
                self._ghosts[a, f] = Difference(REDIS, max(p, -1), f"account {a} is not in the ledger: {where}", a)

    def _finding(self) -> Finding:
        finding = Finding(REDIS)
        every = [*self._strange_markers.values(), *(d for _, d in self._wrong.values()), *self._ghosts.values()]
        finding.differences, finding.count = every[:SHOWN_MAX], len(every)
        rebuilding = [
            p for p in self._shards.partitions
            if (m := self._markers.get(p)) is None or m.topic != self._topic or not m.complete
        ]  # fmt: skip
        finding.more = {"accounts": self._shards.count, "passes": self._passes, "pass_s": round(self.full_pass_s, 1)}
        if every:
            finding.verdict = Verdict.DIFFERS
        elif rebuilding:
            finding.verdict = Verdict.REBUILDING
            finding.said = f"partitions {', '.join(map(str, rebuilding))} are being filled"
        elif not self._passes or not self._walked:
            finding.verdict, finding.said = Verdict.CHECKING, "the first pass over all accounts is under way"
        return finding

    def behind(self, partition: int) -> int:
        """Up to which offset of ledger.state a partition is in."""
        marker = self._markers.get(partition)
        return marker.next_offset if marker is not None and marker.topic == self._topic else 0


def _offset(text: str) -> int:
    return int(text.partition(" ")[0])


def _unlike(found: Shard, own: Shard) -> str:
    """Which fields are not as they must be."""
    pairs = zip(found._fields, found, own, strict=True)
    return "; ".join(f"{n} is {a}, the ledger has {b}" for n, a, b in pairs if a != b)
