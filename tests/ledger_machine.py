"""The Book beside the model, batch by batch: settled into drafts that are stacked, merged or dropped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ledger.state import Draft
from schemas.records import JournalRecord
from tests.ledger_commands import setup
from tests.ledger_model import Model
from tests.ledger_world import Ledger

DRAFTS_MAX = 3


@dataclass
class Open:
    """A draft whose commit is still under way, and the model as it will be after it."""

    draft: Draft
    records: list[JournalRecord]
    model: Model


class Machine:
    """Any command may fail to be as the model says; then AssertionError."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.model = Model()
        self.open: list[Open] = []
        self.seen: Counter[str] = Counter()
        self.settle(setup())
        self.commit()

    def settle(self, commands: list[Any]) -> None:
        """Settles a batch on top of the open drafts."""
        if len(self.open) >= DRAFTS_MAX:
            self.commit()
        under = tuple(o.draft for o in reversed(self.open))
        draft, records = self.ledger.draft(commands, under)
        model = (self.open[-1].model if self.open else self.model).copy()
        for command, record in zip(commands, records, strict=True):
            expected = model.settle(command, record.source_offset)
            got = (record.outcome, str(record.reason), record.first_offset)
            assert got == expected, (command, record)
            assert record.binds_key == (record.first_offset < 0)
            self.seen[record.reason or record.outcome] += 1
        self.open.append(Open(draft, records, model))
        self.check(draft, model)

    def commit(self) -> None:
        """Merges the oldest draft."""
        if self.open:
            done = self.open.pop(0)
            self.ledger.commit(done.draft, done.records)
            self.model = done.model

    def drop(self) -> None:
        """Drops all drafts, as a worker does when a commit fails."""
        self.open.clear()
        self.check(Draft(self.ledger.base), self.model)

    def check(self, draft: Draft, model: Model) -> None:
        """Every balance, block, state and count as the model has them; debits equal credits in each currency."""
        sums: Counter[str] = Counter()
        for name, known in model.accounts.items():
            a = draft.accounts.find(name)
            assert a is not None, name
            counters = (a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted)
            assert counters == (0, known.debits, 0, known.credits), name
            assert (a.debits_blocked, a.credits_blocked, a.closed) == (known.no_debits, known.no_credits, known.closed)
            assert (a.min_available, a.available()) == (known.limit, known.available())
            sums[a.currency] += a.debits_posted - a.credits_posted
        assert not any(sums.values()), sums
        for name, state in model.partners.items():
            partner = draft.partners.find(name)
            assert partner is not None
            assert partner.state == state
        h = draft.head
        assert (h.settled, h.rejected, h.repeated, h.applied) == tuple(
            model.counts[o] for o in ("settled", "rejected", "repeated", "applied")
        )
        assert h.received == h.sequence == sum(model.counts.values())
