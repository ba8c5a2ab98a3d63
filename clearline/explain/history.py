"""Everything that the journal has about one command: its outcome, its steps in other partitions, what it points back
at, and what became of a hold.

Steps between partitions are found by their ids, which follow from the transaction: each has a key that names the
transaction, the partitions and the offset of what caused it (docs/operations.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ledger.crossing import COMMIT, RESERVE, VOID
from processors.finality import decides
from schemas.identity import BANK, command_id
from schemas.records import Command, JournalRecord, Transaction
from streams.calls import Found, Later

LATER_MAX = 20_000  # journal records that are looked through for what became of a hold


class Finder(Protocol):
    """Where records are looked up: `streams.finder.Finder`, or the twin. Every call raises PartUnavailableError."""

    async def by_id(self, command_id: bytes) -> Found | None: ...
    async def record(self, partition: int, offset: int) -> JournalRecord | None:
        """The journal record of the command at exactly this place."""
        ...

    async def later(self, partition: int, offset: int, name: bytes, most: int) -> Later:
        """Of the `most` journal records after that of the command at this place those that hold these bytes."""
        ...


class Step(NamedTuple):
    """What another partition did: its record of a reserve, and of the decision; None when it is not there yet."""

    partition: int
    answer: JournalRecord | None
    decision: JournalRecord | None


@dataclass(frozen=True, slots=True)
class History:
    """`first`: the record of the command; `final`: the last word, None while it is under way; `command`: what was
    asked, None when the log does not keep it; `original`: the record of what it points back at."""

    first: JournalRecord
    final: JournalRecord | None
    command: Command | None
    steps: list[Step] = field(default_factory=list)
    original: JournalRecord | None = None
    later: Later | None = None

    @property
    def offset(self) -> int:
        """The command's own offset in its partition."""
        return self.first.source_offset


async def gather(finder: Finder, found: Found) -> History:
    """The history of a command that was found. Raises PartUnavailableError."""
    r = found.record
    first: JournalRecord | None = r
    if decides(r):
        first = await finder.record(r.source_partition, r.first_offset)
    crosses = r.command == "Transaction" and r.outcome == "applied"
    final = None if crosses else r
    if first is None:  # the journal keeps everything; but whatever it does not show, the last word is told
        return History(r, final, found.command)
    return History(
        first, final, found.command, await _steps(finder, first, final), await _original(finder, first, found.command),
        await _later(finder, first),
    )  # fmt: skip


async def _steps(finder: Finder, first: JournalRecord, final: JournalRecord | None) -> list[Step]:
    """What the other partitions did, in their order."""
    home, name = first.source_partition, first.command_id.hex()
    out = []
    for text in filter(None, first.changes.get("crossing", "").split(",")):
        there = int(text)
        answer = await _by_key(finder, f"{RESERVE}/{name}/{home}/{there}/{first.source_offset}")
        decision = None
        if final is not None and answer is not None and answer.outcome == "applied":
            word = COMMIT if final.outcome == "settled" else VOID
            decision = await _by_key(finder, f"{word}/{name}/{home}/{there}/{final.source_offset}")
        out.append(Step(there, answer, decision))
    return out


async def _by_key(finder: Finder, key: str) -> JournalRecord | None:
    found = await finder.by_id(command_id(BANK, key))
    return found.record if found is not None else None


async def _original(finder: Finder, first: JournalRecord, command: Command | None) -> JournalRecord | None:
    """The record of what a capture, void, refund or reversal points back at, also when it was rejected."""
    if first.original_offset >= 0:
        return await finder.record(first.source_partition, first.original_offset)
    if isinstance(command, Transaction) and command.original:
        found = await finder.by_id(command_id(command.partner_id, command.original))
        return found.record if found is not None else None
    return None


async def _later(finder: Finder, first: JournalRecord) -> Later | None:
    """What became of a hold."""
    opens = any(p.hold_id == first.command_id and p.change > 0 for p in first.pending)
    if not opens or "crossing" in first.changes:
        return None
    return await finder.later(first.source_partition, first.source_offset, first.command_id, LATER_MAX)
