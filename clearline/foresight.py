"""What would become of commands if they came next: the ledger's own decision, on what is committed now, without effect.

It takes partitions over as a worker would, only to look: state, keys and settled transactions are read, nothing is
written. Commands of one run see what those before them would have done. Other publishers go on meanwhile, so the
outcome of the real thing can differ by what they did.
"""

from __future__ import annotations

import time
from collections import deque

from clearline.connection import Connection
from clearline.outcomes import Outcome, outcome_of
from ledger.book import Book
from ledger.state import Draft
from processors.finality import decides
from schemas.identity import BANK, command_id, partition_of, payload_digest, tree_of
from schemas.records import Command, Crossing, JournalRecord, Transaction
from streams.recovery import PartitionLedger, recover


class Foresight:
    """Foresees outcomes in one system. `window_ms`: for how long the workers remember keys.

    A partition is read when a command first needs it, which takes some seconds per million keys.
    """

    def __init__(self, system: Connection, window_ms: int) -> None:
        self._system = system
        self._window_ms = window_ms
        self._books: dict[int, tuple[PartitionLedger, Book]] = {}

    def outcome(self, command: Command) -> Outcome:
        """What this command would come to. One for every partition has the outcome of the first that rejects it."""
        root = tree_of(command)
        partitions = range(self._system.partitions)
        places = partitions if root == BANK else [partition_of(root, self._system.partitions)]
        found = [self._settle(p, command) for p in places]
        return next((o for o in found if o.outcome == "rejected"), found[0])

    def _settle(self, partition: int, command: Command) -> Outcome:
        """The outcome in one partition; of a transaction that crosses the last one, after every step in the others."""
        first, steps = self._take(partition, command)
        last, waiting = first, deque(steps)
        while waiting:
            step = waiting.popleft()
            record, more = self._take(step.to_partition, step)
            waiting += more
            if decides(record):
                last = record
        return outcome_of(last)

    def _take(self, partition: int, command: Command) -> tuple[JournalRecord, list[Crossing]]:
        """One command, and what it sends to other partitions."""
        ledger, book = self._book(partition)
        cid = command_id(command.partner_id, command.idempotency_key)
        ids = [cid]
        if isinstance(command, Transaction) and command.original:
            ids.append(command_id(command.partner_id, command.original))
        now = max(time.time_ns() // 1_000_000, book.head.event_time)
        for key, first in ledger.keys.find(ids, now).items():
            book.draft.keys.setdefault(key, first)
        r = book.settle(command, cid, payload_digest(command), book.head.next_offset, now)
        sent, book.outbox = book.outbox, []
        return r, sent

    def _book(self, partition: int) -> tuple[PartitionLedger, Book]:
        found = self._books.get(partition)
        if found is None:
            s = self._system
            (ledger,) = recover(s.kafka, s.topics, s.codec, {partition: -1}, self._window_ms, live=True)
            found = self._books[partition] = ledger, Book(partition, Draft(ledger.base), s.partitions)
        return found
