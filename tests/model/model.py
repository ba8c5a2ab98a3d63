"""The model of one partition: what becomes of a command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schemas.records import Crossing, Transaction
from tests.model import control, crossing, limits, originals, transactions
from tests.model.state import State, version_of
from tests.model.transactions import Case
from tests.model.values import NEW_BUSINESS, Answer, Entry, Hold, Leg, Other

LAPSE_MAX = 500


@dataclass
class Model(State):
    """One partition of `partitions`. `settle` it the commands of its log, one after the other."""

    def settle(self, command: Any, offset: int, booked_at: int) -> Answer:
        """What becomes of a command that was appended at `offset` and `booked_at`."""
        self.now = max(self.now, booked_at)
        lapsed = self._lapse(offset)
        key = (command.partner_id, command.idempotency_key)
        if key in self.answered:
            before, first = self.answered[key]
            if before == command:
                answer = Answer("repeated", "", first)
            else:
                answer = Answer("rejected", "idempotency_conflict", first)
        else:
            answer = self._decide(command, offset)
            if answer.speaks_for is None:
                self.answered[key] = (command, offset)
        self.counts[answer.outcome] += 1
        return answer._replace(pending=(*lapsed, *answer.pending))

    def _decide(self, command: Any, offset: int) -> Answer:
        if isinstance(command, Crossing):
            return crossing.settle(self, command, offset)
        module = transactions if isinstance(command, Transaction) else control
        reason, detail = next(module.stands_against(self, command), ("", {}))
        if reason:
            return Answer("rejected", reason, detail=detail)
        if isinstance(command, Transaction):
            return self._settle(command, offset)
        subject, changes = control.apply(self, command)
        return Answer("applied", subject=subject, changes=changes)

    def _lapse(self, offset: int) -> list[tuple[Any, ...]]:
        """Releases the holds whose time is over, the earliest first."""
        due = [(h.expires_at, h.offset, k, h) for k, h in self.open_holds().items() if 0 < h.expires_at <= self.now]
        out = []
        for _, _, key, hold in sorted(due)[:LAPSE_MAX]:
            for name, side in ((hold.payer, "debit"), (hold.payee, "credit")):
                out.append(self.set_aside(key, name, side, -hold.left, hold.currency, expired=True))
            self.holds[key] = hold._replace(left=0, state="expired", changed=offset)
        return out

    def _settle(self, t: Transaction, offset: int) -> Answer:
        """Changes the balances and remembers what was settled. Nothing stands against it any more."""
        case = transactions.case_of(self, t)
        assert isinstance(case, Case)
        legs = [leg for leg in transactions.legs_of(self, case)[0] if leg.amount > 0]
        self._count(case, legs)
        opened: list[Any] = []
        for leg in legs:
            known = transactions.account(self, case, leg)
            if known is not None and leg.account not in self.accounts:
                opened.append(self.open(leg.account, known))
        if any(transactions.away(self, case, leg) for leg in legs):
            return crossing.start(self, case, legs, offset, tuple(opened))
        value_date, late = self.booked_on(t.value_date)
        note = {"note": t.note} if case.kind == "adjustment" else {}
        if case.kind == "hold" and t.expires_at:
            note["expires_at"] = str(t.expires_at)
        answer = self._move(case, legs, offset)
        return answer._replace(
            opened=tuple(opened),
            value_date=value_date,
            changes=late | note,
            version=version_of(t, case.product),
            subject="",
        )

    def _count(self, case: Case, legs: list[Leg]) -> None:
        if case.kind not in NEW_BUSINESS:
            return
        document = case.document() if case.product else None
        for asked in limits.asked(self.limits, case.t, legs, document):
            rows = limits.counted(self.usage, self.calendars, asked, self.now)
            if rows:
                self.usage[asked.subject] = rows
            else:
                self.usage.pop(asked.subject, None)

    def _move(self, case: Case, legs: list[Leg], offset: int) -> Answer:
        t = case.t
        key, original_key = (t.partner_id, t.idempotency_key), (t.partner_id, t.original)
        original = self.find(original_key) if t.original else None
        pending: list[tuple[Any, ...]] = []
        if case.kind == "hold":
            payer, payee = legs
            self.holds[key] = Hold(
                offset, payer.account, payee.account, t.currency, t.amount, t.amount, t.expires_at, offset
            )
            pending = [self.set_aside(key, leg.account, leg.side, leg.amount, leg.currency) for leg in legs]
            return Answer("settled", pending=tuple(pending))
        if isinstance(original, Hold):
            release = transactions.released(self, case)
            for name, side in ((original.payer, "debit"), (original.payee, "credit")):
                pending.append(self.set_aside(original_key, name, side, -release, original.currency))
            left = original.left - release
            self.holds[original_key] = original._replace(left=left, changed=offset, state="open" if left else "closed")
        elif isinstance(original, Entry):
            given = t.amount if case.kind == "refund" else originals.paid(original)
            self.others[original_key] = original._replace(given_back=original.given_back + given)
        postings = [self.post(leg.account, leg.side, leg.amount, leg.currency) for leg in legs]
        if case.kind in ("transfer", "entry", "exchange", "capture"):
            self.others[key] = Entry(offset, tuple(leg.posting() for leg in legs), product=t.product)
        else:
            self.others[key] = Other(offset)
        return Answer("settled", "", -1, tuple(postings), tuple(pending), original.offset if original else -1)
