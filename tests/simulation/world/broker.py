"""Kafka's broker in memory, as far as the system relies on it.

Partitions with markers and a last stable offset; transactions whose end is decided at one moment and shown in each
partition at another; epochs that fence by transactional id (and grow with every transaction, as since Kafka 4); the
timeout of a transaction; a consumer group with static members, cooperative moves and generations; offsets that become
the group's with the marker of their transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.world.scheduler import Process, Scheduler, Task

Place = tuple[str, int]


@dataclass(slots=True, eq=False)
class Transaction:
    """One Kafka transaction. `state`: open, then committed or aborted; `showing`: markers that are not written yet."""

    producer: str
    state: str = "open"
    places: set[Place] = field(default_factory=set)
    offsets: dict[int, tuple[int, int]] = field(default_factory=dict)  # number of the request, offset
    showing: int = 0


@dataclass(slots=True)
class Entry:
    """One place of a log. `value` of a marker says what it marks."""

    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None
    transaction: Transaction | None = None
    marker: bool = False


@dataclass(slots=True)
class Log:
    """One partition of one topic; an entry's offset is its index."""

    entries: list[Entry] = field(default_factory=list)
    open: dict[Transaction, int] = field(default_factory=dict)  # and the offset of its first record
    waiting: list[Task] = field(default_factory=list)

    def stable(self) -> int:
        """The last stable offset: nothing at or after it is shown under read_committed."""
        return min(self.open.values()) if self.open else len(self.entries)

    def shown(self, offset: int) -> bool:
        """Whether the record at an offset below the last stable one is committed."""
        e = self.entries[offset]
        return not e.marker and (e.transaction is None or e.transaction.state == "committed")


@dataclass(slots=True, eq=False)
class Member:
    """A consumer in the group, under its static name."""

    name: str
    process: Process
    owned: set[int] = field(default_factory=set)
    gone: bool = False  # its session ended, or another has its name
    closed: bool = False


class Broker:
    """`partitions`: of every topic. `clock_ms`: what LogAppendTime is taken from."""

    def __init__(
        self, sim: Scheduler, partitions: int, clock_ms: Callable[[], int], append_time: Iterable[str]
    ) -> None:
        self.sim = sim
        self.partitions = partitions
        self._clock_ms = clock_ms
        self._append_time = frozenset(append_time)
        self.logs: dict[Place, Log] = {}
        self.epochs: dict[str, int] = {}
        self.transactions: dict[str, Transaction] = {}  # the last one of each transactional id
        self._offsets: dict[int, tuple[int, int]] = {}
        self._requests = 0
        self.members: dict[str, Member] = {}
        self.wanted: dict[int, str] = {}  # partition -> member that is to have it
        self.generation = 0
        self.session_s = 1.5
        self.slow_markers_s = 0.01

    def log(self, topic: str, partition: int) -> Log:
        assert 0 <= partition < self.partitions, f"{topic} has no partition {partition}"
        found = self.logs.get((topic, partition))
        if found is None:
            found = self.logs[topic, partition] = Log()
        return found

    def append(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None,
        headers: list[tuple[str, bytes]] | None = None, timestamp: int = 0, transaction: Transaction | None = None,
    ) -> int:  # fmt: skip
        """Adds a record; returns its offset."""
        log = self.log(topic, partition)
        if topic in self._append_time or not timestamp:
            timestamp = self._clock_ms()
        if transaction is not None:
            log.open.setdefault(transaction, len(log.entries))
            transaction.places.add((topic, partition))
        log.entries.append(Entry(timestamp, key, value, headers, transaction))
        if transaction is None:
            self._tell(log)
        return len(log.entries) - 1

    def _tell(self, log: Log) -> None:
        for task in log.waiting:
            self.sim.wake(task, 0.001)
        log.waiting.clear()

    # ---- transactions ------------------------------------------------------------------------------------------------

    def new_epoch(self, producer: str) -> int | None:
        """InitProducerId: aborts what is open and fences whoever had the id; None while markers are being written."""
        last = self.transactions.get(producer)
        if last is not None and last.state == "open":
            self._decide(last, "aborted")
        if last is not None and last.showing:
            return None
        self.epochs[producer] = self.epochs.get(producer, 0) + 1
        return self.epochs[producer]

    def busy(self, producer: str) -> bool:
        """Whether markers of its last transaction are not written yet; no next one begins before."""
        last = self.transactions.get(producer)
        return last is not None and last.state != "open" and last.showing > 0

    def in_transaction(self, producer: str, epoch: int, timeout_s: float) -> Transaction | None:
        """The open transaction of this producer, begun if there is none; None when the producer is fenced."""
        if self.epochs[producer] != epoch:
            return None
        last = self.transactions.get(producer)
        if last is None or last.state != "open":
            assert last is None or not last.showing
            last = self.transactions[producer] = begun = Transaction(producer)
            self.sim.later(timeout_s, lambda: self._time_out(begun))
        return last

    def _time_out(self, t: Transaction) -> None:
        if t.state == "open":
            self.sim.note(f"the Kafka transaction of {t.producer} times out")
            self._decide(t, "aborted")

    def end(self, producer: str, epoch: int, state: str) -> int | None:
        """EndTxn: the decision; the producer's next epoch, or None when it is fenced."""
        if self.epochs[producer] != epoch:
            return None
        t = self.transactions.get(producer)
        if t is not None and t.state == "open":
            self._decide(t, state)
        return self.epochs[producer]

    def _decide(self, t: Transaction, state: str) -> None:
        t.state = state
        self.epochs[t.producer] += 1
        for place in sorted(t.places):
            self._show(t, lambda place=place: self._mark(t, place))  # type: ignore[misc]
        if t.offsets:
            self._show(t, lambda: self._mark_offsets(t))

    def _show(self, t: Transaction, write: Callable[[], None]) -> None:
        t.showing += 1
        r = self.sim.random.random()
        self.sim.later(self.slow_markers_s * r * r * (1 if r < 0.9 else 10), write)

    def _mark(self, t: Transaction, place: Place) -> None:
        log = self.log(*place)
        log.entries.append(Entry(self._clock_ms(), None, t.state.encode(), None, t, True))
        del log.open[t]
        t.showing -= 1
        self._tell(log)

    def _mark_offsets(self, t: Transaction) -> None:
        if t.state == "committed":
            for p, asked in t.offsets.items():  # the coordinator keeps the later request, whichever marker comes last
                self._offsets[p] = max(asked, self._offsets.get(p, asked))
        t.offsets = {}
        t.showing -= 1

    # ---- the group ---------------------------------------------------------------------------------------------------

    def keep_offsets(self, t: Transaction, offsets: dict[int, int]) -> None:
        """TxnOffsetCommit."""
        self._requests += 1
        t.offsets |= {p: (self._requests, o) for p, o in offsets.items()}

    @property
    def group_offsets(self) -> dict[int, int]:
        """Where the group stands."""
        return {p: o for p, (_, o) in self._offsets.items()}

    def unstable(self, partitions: Iterable[int]) -> bool:
        """Whether a transaction that is not over for good has offsets for these partitions."""
        pending = {p for t in self.transactions.values() for p in t.offsets}
        return not pending.isdisjoint(partitions)

    def join(self, name: str, process: Process) -> Member:
        """A consumer comes; one of the same name is fenced, and its place taken without a move."""
        before = self.members.get(name)
        member = self.members[name] = Member(name, process)
        if before is not None:
            before.gone = True
            if any(self.wanted[p] != name for p in before.owned):
                self.generation += 1  # what it was about to give up is free now
        else:
            self._rebalance()
        process.on_down.append(lambda: self.watch(member))
        return member

    def watch(self, member: Member) -> None:
        """Its heartbeats stop: without any for a session it is put out of the group."""

        def look() -> None:
            if not member.gone and (member.closed or not member.process.alive()):
                self.sim.note(f"the session of {member.name} ends")
                member.gone = True
                member.owned.clear()
                del self.members[member.name]
                self._rebalance()

        self.sim.later(self.session_s, look)

    def _rebalance(self) -> None:
        """Cooperative-sticky: everybody keeps what he has, as far as it is not more than his share."""
        self.generation += 1
        names = sorted(self.members)
        if not names:
            return
        share, more = divmod(self.partitions, len(names))
        kept: dict[str, list[int]] = {n: [] for n in names}
        for p in range(self.partitions):
            n = self.wanted.get(p)
            if n in kept and len(kept[n]) < share + (more > 0):
                kept[n].append(p)
        for p in range(self.partitions):
            if not any(p in ps for ps in kept.values()):
                kept[min(names, key=lambda n: (len(kept[n]), n))].append(p)
        while max(map(len, kept.values())) - min(map(len, kept.values())) > 1:
            most, least = max(names, key=lambda n: len(kept[n])), min(names, key=lambda n: len(kept[n]))
            kept[least].append(kept[most].pop())
        self.wanted = {p: n for n, ps in kept.items() for p in ps}

    def to_revoke(self, member: Member) -> set[int]:
        return {p for p in member.owned if self.wanted[p] != member.name}

    def to_assign(self, member: Member) -> set[int]:
        """What it is to have, has not, and nobody else has any more."""
        mine = {p for p, n in self.wanted.items() if n == member.name} - member.owned
        return mine - {p for m in self.members.values() for p in m.owned}

    def at_rest(self) -> bool:
        """Whether every member lives and has what it is to have."""
        return all(
            m.process.alive() and not m.closed and m.owned == {p for p, n in self.wanted.items() if n == m.name}
            for m in self.members.values()
        )

    def released(self, member: Member, partitions: set[int]) -> None:
        """Partitions were given up: the group moves on to its next generation."""
        if not member.gone:
            member.owned -= partitions
            self.generation += 1

    # ---- for those who look from outside -----------------------------------------------------------------------------

    def committed(self, topic: str, partition: int) -> list[tuple[int, Entry]]:
        """Offset and record of everything committed, to the last stable offset."""
        log = self.log(topic, partition)
        return [(o, log.entries[o]) for o in range(log.stable()) if log.shown(o)]

    def kept(self) -> list[Any]:
        """Everything, for a digest."""
        return [
            (
                place,
                [(e.timestamp, e.key, e.value, e.marker, e.transaction and e.transaction.state) for e in log.entries],
            )
            for place, log in sorted(self.logs.items())
        ]
