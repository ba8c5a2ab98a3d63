"""The Book beside the model, batch by batch: settled into drafts that are stacked, merged or dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from ledger.state import Draft
from schemas.identity import command_id, payload_digest
from schemas.records import HoldState, JournalRecord, Transaction
from tests.ledger_commands import command, later, setup
from tests.ledger_model import Answer, Model
from tests.ledger_world import BOOKED_AT, CODEC, Ledger

DRAFTS_MAX = 3

Chooser = Callable[[Random, Model], Any]


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
        self.largest = {"posted": 0, "pending": 0}
        self.settle(setup())
        self.commit()

    def newest(self) -> Model:
        """The model as it is after all that was settled, committed or not."""
        return self.open[-1].model if self.open else self.model

    def settle(self, commands: Sequence[Any]) -> None:
        """Settles a batch on top of the open drafts, one command a millisecond."""
        left = iter(commands)
        self.play(Random(0), len(commands), lambda _, model: next(left), lambda _, model: max(BOOKED_AT, model.now) + 1)

    def play(self, random: Random, count: int, choose: Chooser = command, when: Chooser = later) -> None:
        """Draws commands and their times, each from what the one before it left, and settles them as one batch."""
        if len(self.open) >= DRAFTS_MAX:
            self.commit()
        model = self.newest().copy()
        offset = self.open[-1].draft.head.next_offset if self.open else self.ledger.offset
        drawn: list[tuple[Any, int, Answer]] = []
        for n in range(count):
            c, time, before = choose(random, model), when(random, model), model.accounts.copy()
            drawn.append((c, time, model.settle(c, offset + n, time)))
            check_limits_kept(before, model)
        under = tuple(o.draft for o in reversed(self.open))
        draft, records = self.ledger.draft([c for c, _, _ in drawn], under, [time for _, time, _ in drawn])
        for (c, _, expected), record in zip(drawn, records, strict=True):
            compare(c, record, expected)
            self.seen[record.reason or record.outcome] += 1
            if record.outcome == "settled":
                self.seen[record.operation] += 1
            self.seen["lapsed"] += sum(p.expired for p in record.pending) // 2
        self.open.append(Open(draft, records, model))
        self.check(draft, model)
        if all(r.outcome in ("rejected", "repeated") for r in records):
            check_nothing_changed(draft, records)

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
        """Every balance, hold, block, state and count as the model has them; and what must hold whatever the model says:
        debits equal credits in each currency, no counter is negative, open holds explain what is pending."""
        accounts, holds = seen_from(draft, "accounts"), seen_from(draft, "holds")
        sums: Counter[str] = Counter()
        held: Counter[tuple[str, str]] = Counter()
        for hold in holds.values():
            assert hold.remaining >= 0
            held[hold.payer, "debit"] += hold.remaining
            held[hold.payee, "credit"] += hold.remaining
        assert accounts.keys() == model.accounts.keys()
        for name, known in model.accounts.items():
            a = accounts[name]
            counters = (a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted)
            assert counters == known.counters(), name
            assert min(counters) >= 0, name
            self.largest["posted"] = max(self.largest["posted"], known.d, known.c)
            self.largest["pending"] = max(self.largest["pending"], known.dp, known.cp)
            assert (a.debits_pending, a.credits_pending) == (held[name, "debit"], held[name, "credit"]), name
            assert (a.debits_blocked, a.credits_blocked, a.closed) == (known.no_debits, known.no_credits, known.closed)
            assert (a.min_available, a.available()) == (known.limit, known.available())
            sums[a.currency] += a.debits_posted - a.credits_posted
        assert not any(sums.values()), sums
        expected = {command_id(*k).hex(): (k, h) for k, h in model.open_holds().items()}
        assert {n for n, h in holds.items() if h.remaining} == expected.keys()
        for name, (key, h) in expected.items():
            assert holds[name].state() == HoldState(
                command_id(*key), payload_digest(model.answered[key][0]), key[0], h.payer, h.payee, h.currency, h.amount,
                h.left, h.expires_at, h.offset, h.changed,
            ), key  # fmt: skip
        partners = seen_from(draft, "partners")
        assert {n: p.state for n, p in partners.items()} == model.partners
        head = draft.head
        assert (head.settled, head.rejected, head.repeated, head.applied) == tuple(
            model.counts[o] for o in ("settled", "rejected", "repeated", "applied")
        )
        assert head.received == head.sequence == sum(model.counts.values())
        assert head.event_time == model.now


def seen_from(draft: Draft, part: str) -> dict[str, Any]:
    """What a draft and all that it stands on hold, without making the draft copy it."""
    own = getattr(draft, part)
    out: dict[str, Any] = {}
    for lower in reversed(own.below):
        out.update(lower)
    out.update(own)
    return out


def compare(c: Any, record: JournalRecord, expected: Answer) -> None:
    """The journal record of a command says what the model says, leg by leg."""
    got = (record.outcome, str(record.reason), record.first_offset)
    assert got == expected[:3], (c, record, expected)
    assert record.binds_key == (record.first_offset < 0)
    postings = tuple(msgspec.structs.astuple(p) for p in record.postings)
    assert postings == expected.postings, (c, record, expected)
    pending = tuple((command_id(*p[0]), *p[1:]) for p in expected.pending)
    assert tuple(msgspec.structs.astuple(p) for p in record.pending) == pending, (c, record, expected)
    assert record.original_offset == expected.original_offset, (c, record, expected)
    if isinstance(c, Transaction):
        settled = record.outcome == "settled"
        assert record.changes == ({"note": c.note} if settled and c.operation == "adjustment" else {})


def check_limits_kept(before: Mapping[str, Any], model: Model) -> None:
    """No command but a change of the limit takes an account below it; whoever was below may stay there."""
    for name, a in model.accounts.items():
        was = before.get(name)
        if was is None or was is a or a.limit is None or a.limit != was.limit:
            continue
        assert a.available() >= min(a.limit, was.available()), (name, was, a)


def check_nothing_changed(draft: Draft, records: Sequence[JournalRecord]) -> None:
    """What refused and repeated commands left is what was there, to the byte; only lapsed holds are released."""
    lapsed = {p.account_id for r in records for p in r.pending} | {p.hold_id.hex() for r in records for p in r.pending}
    assert all(p.expired for r in records for p in r.pending)
    for part in ("accounts", "partners", "holds"):
        own = getattr(draft, part)
        for name, now in own.items():
            was = next((lower[name] for lower in own.below if dict.__contains__(lower, name)), None)
            if name not in lapsed:
                assert was is not None, name
                row = now.record() if part == "partners" else now.state()
                row_before = was.record() if part == "partners" else was.state()
                assert CODEC.encode(row) == CODEC.encode(row_before), name
    changed = [*(a.account_id for a in draft.changed_accounts()), *(h.name for h in draft.changed_holds())]
    assert set(changed) == lapsed
    assert not draft.changed_partners()
