"""Books of several partitions, without a broker: what one writes to another is settled there, in the order it came."""

from __future__ import annotations

from ledger.book import Book
from ledger.state import Draft, PartitionBase
from schemas.identity import BANK, command_id, partition_of, payload_digest, tree_of
from schemas.records import Command, Crossing, JournalRecord, Transaction


class Books:
    """One draft per partition, never merged. Append times are one millisecond apart, from `start_ms` on."""

    def __init__(self, partitions: int, start_ms: int = 1) -> None:
        self.books = [Book(p, Draft(PartitionBase()), partitions) for p in range(partitions)]
        self.offsets = [0] * partitions
        self.start_ms = start_ms

    def give(self, command: Command) -> JournalRecord:
        """The last word on a command, where it belongs; of one for every partition the first."""
        root = tree_of(command)
        everywhere = root == BANK and not isinstance(command, Transaction)
        places = range(len(self.books)) if everywhere else [partition_of(root, len(self.books))]
        records = [self.settle(p, command) for p in places]
        return records[0]

    def settle(self, partition: int, command: Command) -> JournalRecord:
        """The outcome of a command in one partition; of one that crosses, the last word."""
        first, last = self._one(partition, command), None
        sent = [*self._sent(partition)]
        for step in sent:
            record = self._one(step.to_partition, step)
            sent += self._sent(step.to_partition)
            if record.command == "Transaction":
                last = record
        return last or first

    def _one(self, partition: int, command: Command) -> JournalRecord:
        offset = self.offsets[partition]
        self.offsets[partition] += 1
        book = self.books[partition]
        cid = command_id(command.partner_id, command.idempotency_key)
        return book.settle(command, cid, payload_digest(command), offset, self.start_ms + offset)

    def _sent(self, partition: int) -> list[Crossing]:
        sent, self.books[partition].outbox = self.books[partition].outbox, []
        return sent
