"""Workers with one known bug each. The docstring says what is wrong and what it does to money."""

from __future__ import annotations

from typing import Any

import msgspec
from confluent_kafka import Producer

from ledger.accounts import Account
from schemas.records import AccountState, JournalRecord, PostedLeg
from streams.reader import committed_offsets, read_to_end
from streams.recovery import PartitionLedger, recover
from tests.faults.known_bugs.mini import PARTITION, WINDOW_MS, Killed, MiniWorker, Output


class _AtLeastOnce(MiniWorker):
    """An idempotent producer without transactions, as most services have it: nothing fences a twin."""

    def new_producer(self, name: str) -> Producer:
        return Producer(self.kafka.producer())

    def commit(self, out: Output) -> None:
        self.produce(out)
        self.producer.flush(30)
        self.commit_offset(out)
        self.merge(out)


class CommitsBeforeProducing(_AtLeastOnce):
    """Offsets committed before the produce: a kill between the two loses what was in hand, and says nothing."""

    killed_at_batch = 3

    def recover(self) -> PartitionLedger:
        """Goes on where the group stands; that the state stands elsewhere does not trouble it."""
        ledger = recover(self.kafka, self.topics, self.codec, {PARTITION: -1}, WINDOW_MS)[0]
        committed = committed_offsets(self.kafka, self.topics.group, self.topics.submitted)[PARTITION]
        ledger.base.head.next_offset = max(committed, 0)
        return ledger

    def commit(self, out: Output) -> None:
        self.commit_offset(out)
        self.killed_at_batch -= 1
        if self.killed_at_batch == 0:
            raise Killed
        self.produce(out)
        self.producer.flush(30)
        self.merge(out)


class ReusesItsProducer(_AtLeastOnce):
    """A producer reused after a timeout: what became of the batch is unknown, it is sent again, and was there already.

    The broker removes repeats only of what the client itself sends again, not of what the program hands over again.
    """

    impatient = False

    def commit(self, out: Output) -> None:
        self.produce(out)
        if self.impatient and self.producer.flush(0):  # "timed out": so it failed, so try again
            self.impatient = False
            self.produce(out)
        self.producer.flush(30)
        self.commit_offset(out)
        self.merge(out)


class LastRowWins(_AtLeastOnce):
    """Recovery by the last row of a key in the changelog: after a zombie wrote, an old balance comes back to life."""

    def recover(self) -> PartitionLedger:
        ledger = super().recover()
        for r in read_to_end(self.kafka, self.topics.state):
            row = self.codec.decode(r.value) if r.value is not None else None
            if isinstance(row, AccountState):
                ledger.base.accounts[row.account_id] = Account.from_state(row)
        return ledger

    def write_state_only(self, out: Output) -> None:
        """The zombie's last act: the state rows of a batch that somebody else settled long ago."""
        rows = [r for r in out.records if r[0] == self.topics.state and r[1] != b"meta"]
        self.produce(Output(rows))
        self.producer.flush(30)


class CountsInFloats(MiniWorker):
    """Float amounts: right for small money, off by one beyond 2^53 minor units."""

    def judge(self, record: JournalRecord) -> JournalRecord | None:
        return _with_legs(record, lambda p: {"debits_posted": int(float(p.debits_posted)),
                                             "credits_posted": int(float(p.credits_posted))})  # fmt: skip


class LosesRejects(MiniWorker):
    """Lost reject: a refusal is not an entry, so why write it down? The caller never hears, and nobody can count."""

    def judge(self, record: JournalRecord) -> JournalRecord | None:
        return None if record.outcome == "rejected" else record


class SwapsLegs(MiniWorker):
    """Swapped legs: everything balances, and the money went the other way."""

    def judge(self, record: JournalRecord) -> JournalRecord | None:
        other = {"debit": "credit", "credit": "debit"}
        return _with_legs(record, lambda p: {"side": other[p.side]})


class ForgetsKeys(MiniWorker):
    """The keys are not rebuilt at a take-over: a retry after a restart moves the money a second time."""

    def recover(self) -> PartitionLedger:
        ledger = super().recover()
        fresh = PartitionLedger(PARTITION, WINDOW_MS)
        fresh.base = ledger.base
        return fresh


def _with_legs(record: JournalRecord, change: Any) -> JournalRecord:
    legs: tuple[PostedLeg, ...] = tuple(msgspec.structs.replace(p, **change(p)) for p in record.postings)
    return msgspec.structs.replace(record, postings=legs)
