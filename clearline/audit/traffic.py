"""What goes between partitions, over all of them: no step without its cause, no cause without its step, no money lost
on the way.

The recomputation of each partition says which commands must have been written to the others; here they are looked for
in the others' logs, and every step found there is held against its cause. The journal's own postings to the accounts
`bank:crossing:CUR` must sum to what is on its way. A step costs about 200 bytes until its other end is met.

On a live system one partition is looked at after the other, so a step may be seen before its cause or the other way
round: such ones are counted as on their way, and differ only when both ends must have been visible by then.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from clearline.audit.crossing import REFUSED, RESERVED, WAITING, Flight, parts_of
from clearline.audit.figures import TRANSIT
from clearline.audit.verdict import Finding
from schemas.identity import payload_digest
from schemas.records import Crossing, JournalRecord

SETTLES_MS = 60_000  # within which a Kafka transaction is visible in every partition that it wrote to

Named = tuple[int, bytes]  # home partition and transaction id


class End(NamedTuple):
    """One end of a step: the digest of the command (None when only its key is known) and a time in ms UTC: of the
    cause, or of the step itself."""

    digest: bytes | None
    at_ms: int


@dataclass(slots=True)
class Seen:
    """What was seen of one partition; `newest_ms`: highest append time, UTC."""

    newest_ms: int = 0
    flights: dict[Named, Flight] = field(default_factory=dict)


class Traffic:
    """Collects both ends of every step, partition after partition; `close` gives the verdict."""

    def __init__(self, finding: Finding) -> None:
        self._f = finding
        self._sent: dict[str, End] = {}
        self._received: dict[str, End] = {}
        self._taken: Counter[tuple[str, bytes, int]] = Counter()  # step, id, receiver: answers that are no longer kept
        self._waiting: set[bytes] = set()  # ids of transactions of which a step waits in a log
        self._partitions: dict[int, Seen] = {}
        self._transit: dict[tuple[int, str], int] = {}  # partition, currency -> credits less debits, minor units
        self._on_its_way: dict[Named, dict[str, int]] = {}

    # ---- while partitions are walked ---------------------------------------------------------------------------------

    def partition(self, partition: int) -> None:
        """A partition is about to be walked."""
        self._partitions[partition] = Seen()

    def send(self, command: Crossing, record: JournalRecord) -> None:
        """This command had to be written because of what the record says. A refusal gives the record's own detail."""
        if command.step == REFUSED:
            command = replace(command, detail=record.detail)
        self.sent_key(command.idempotency_key, record.booked_at, payload_digest(command))

    def sent_key(self, key: str, booked_at: int, digest: bytes | None = None) -> None:
        """A command of this key had to be written at a cause of that time."""
        self._f.count("steps")
        self._meet(key, End(digest, booked_at), self._sent, self._received)

    def receive(self, key: str, at_ms: int, command: Crossing | None = None, *, waiting: bool = False) -> None:
        """A step stands in a partition's log; `waiting`: it has no outcome yet. Without a command: by the journal."""
        if command is not None and waiting:
            self._waiting.add(command.transaction_id)
        if key in self._received:
            self._f.differ(f"step {key} was written twice")
            return
        digest = payload_digest(command) if command is not None else None
        self._meet(key, End(digest, at_ms), self._received, self._sent)

    def decided(self, partition: int, record: JournalRecord) -> None:
        """A transaction was decided by an answer that is no longer kept: the record does not say which it was."""
        step = RESERVED if record.outcome == "settled" else REFUSED
        self._taken[step, record.command_id, partition] += 1

    def _meet(self, key: str, end: End, mine: dict[str, End], theirs: dict[str, End]) -> None:
        other = theirs.pop(key, None)
        if other is None:
            mine[key] = end
            return
        if end.digest is not None and other.digest is not None and end.digest != other.digest:
            self._f.differ(f"step {key} says something else than its cause")

    def see(self, partition: int, record: JournalRecord) -> None:
        """What a journal record posts to the accounts of money between partitions."""
        named: Named | None = None
        for leg in record.postings:
            if not leg.account_id.startswith(TRANSIT):
                continue
            self._transit[partition, leg.currency] = leg.credits_posted - leg.debits_posted
            if named is None:
                named = name_of(partition, record)
            nets = self._on_its_way.setdefault(named, {})
            nets[leg.currency] = nets.get(leg.currency, 0) + (leg.amount if leg.side == "credit" else -leg.amount)
        if named is not None and not any(self._on_its_way[named].values()):
            del self._on_its_way[named]

    def walked(self, partition: int, newest_ms: int, flights: dict[Named, Flight]) -> None:
        """A partition was walked to its end."""
        seen = self._partitions[partition]
        seen.newest_ms, seen.flights = newest_ms, flights

    # ---- the verdict -------------------------------------------------------------------------------------------------

    def close(self, *, drained: bool) -> None:
        """Notes every step without its other end, and money that is neither here nor there."""
        self._match_taken()
        open_steps = {*self._sent, *self._received}
        moving = {p.transaction_id for p in map(parts_of, open_steps) if p is not None} | self._waiting
        for key, end in self._sent.items():
            if drained or self._must_be_there(key, end):
                self._f.differ(f"step {key} was never written, though its cause is in the journal")
        for key, end in self._received.items():
            if drained or self._must_have_cause(key, end):
                self._f.differ(f"step {key} has no cause in the journal, or is there twice: forged")
        self._f.count("on_their_way", len(open_steps))
        self._flights(moving, drained=drained)
        self._money(moving, drained=drained)

    def _match_taken(self) -> None:
        """Answers that decided, and are no longer kept, are not missing."""
        for key in sorted(self._sent) if self._taken else ():
            parts = parts_of(key)
            name = (parts.step, parts.transaction_id, parts.receiver) if parts else None
            if name and self._taken[name]:
                self._taken[name] -= 1
                del self._sent[key]

    def _must_be_there(self, key: str, end: End) -> bool:
        """Whether the step would be visible: its partition was looked at after the cause, which is not of just now."""
        parts, of = parts_of(key), self._partitions
        if parts is None or parts.receiver < parts.sender or parts.receiver not in of:
            return False
        return end.at_ms + SETTLES_MS < of[parts.sender].newest_ms

    def _must_have_cause(self, key: str, end: End) -> bool:
        """Whether the cause would be visible: its partition has gone on for long since the step was written."""
        parts = parts_of(key)
        seen = self._partitions.get(parts.sender) if parts else None
        return seen is None or end.at_ms + SETTLES_MS < seen.newest_ms

    def _flights(self, moving: set[bytes], *, drained: bool) -> None:
        """Each transaction in flight is seen on both sides, or a step of it is on its way."""
        for p, seen in self._partitions.items():
            for (home, cid), f in seen.flights.items():
                self._f.count("in_flight" if f.home else "reserved_elsewhere")
                at = f"partition {p}: transaction {cid.hex()} of partition {home}"
                if drained:
                    self._f.differ(f"{at} is still in flight")
                elif cid not in moving:
                    self._both_sides(at, (home, cid), f)

    def _both_sides(self, at: str, named: Named, f: Flight) -> None:
        if not f.home:
            if named not in self._partitions[named[0]].flights:
                self._f.differ(f"{at} is set aside here, and not known there")
            return
        for p, answer in f.answers.items():
            if answer == WAITING:
                self._f.differ(f"{at} waits for partition {p}, and nothing is on its way")
            elif answer == RESERVED and not f.is_refused and named not in self._partitions[p].flights:
                self._f.differ(f"{at} is said to be set aside in partition {p}, and is not")

    def _money(self, moving: set[bytes], *, drained: bool) -> None:
        """The transit accounts of all partitions sum to what was committed at home and not yet elsewhere."""
        total: dict[str, int] = {}
        for (_, currency), net in self._transit.items():
            total[currency] = total.get(currency, 0) + net
        for (home, cid), nets in self._on_its_way.items():
            for currency, net in nets.items():
                total[currency] = total.get(currency, 0) - net
            if cid not in moving or drained:
                left = {c: n for c, n in nets.items() if n}
                self._f.differ(f"transaction {cid.hex()} of partition {home} left {left} between partitions")
        for currency, left_over in sorted(total.items()):
            if left_over:
                self._f.differ(f"{TRANSIT}{currency}: {left_over} more than what is on its way")


def name_of(partition: int, record: JournalRecord) -> Named:
    """The transaction between partitions that a record settles, at home or elsewhere; home -1 for a forged key."""
    if record.command != "Crossing":
        return partition, record.command_id
    key = parts_of(record.idempotency_key)
    return (-1 if key is None else key.sender), bytes.fromhex(record.changes.get("transaction", ""))
