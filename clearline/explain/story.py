"""The story of one command, told from its history: what was asked, each step with its time and place, what came of it.

Whoever reads it sees balances of accounts of his own tree only. Of every other account that took part he is told what
the transaction did to it, and its id: that much he knows from what he asked, or from the product's document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from clearline.explain.asked import currency_of, name_of, what_was_asked
from clearline.explain.history import LATER_MAX, History
from clearline.explain.refusal import refusal
from clearline.explain.said import Lang, say
from clearline.explain.sentences import SENTENCES
from clearline.gateway.documents import iso_day, iso_time
from ledger.accounts import DEBIT_NORMAL
from ledger.calendars import DAY_MS
from schemas.identity import BANK, owner_of
from schemas.records import JournalRecord, PendingLeg, PostedLeg, Transaction

LEGS_MAX = 40  # of one record that are told one by one


class Told(NamedTuple):
    """One step. `at`: when, ISO UTC; `partition` and `offset`: of the command that caused it. None while they are not
    known."""

    at: str | None
    partition: int | None
    offset: int | None
    text: str


class Explanation(NamedTuple):
    """What became of a command. `why` and `cure` are None unless it was rejected."""

    id: str
    language: Lang
    summary: str
    steps: list[Told]
    why: str | None
    cure: str | None

    def to_dict(self) -> dict[str, Any]:
        """As it is answered."""
        return {**self._asdict(), "steps": [s._asdict() for s in self.steps]}


class Reader(NamedTuple):
    """For whom it is told. `sees`: whether an account is his; `types`: the types of his accounts, as far as known."""

    sees: Callable[[str], bool]
    types: Mapping[str, str]


def tell(h: History, reader: Reader, lang: Lang) -> Explanation:
    """The story of a command."""
    return _Teller(h, reader, lang).tell()


def of_pending(document: Mapping[str, Any], lang: Lang) -> Explanation:
    """The story of a command that is acknowledged and has no journal record yet, from its document."""
    words, d = SENTENCES[lang], document
    place = d["position"] or {}
    texts = [say(words["pending"], {}, "", lang)]
    if place:
        texts.insert(0, say(words["taken"], place, "", lang))
    steps = [Told(None, place.get("partition"), place.get("offset"), text) for text in texts]
    named = {"asker": d["partner_id"], **d}
    if "command" in d:
        summary = say(words["sum_control_under_way"], {**named, "subject": d["subject"] or d["command"]}, "", lang)
    else:
        amount = say(words["of_amount"], d, d["currency"], lang) if d["amount"] else d["idempotency_key"]
        summary = say(words["sum_under_way"], {**named, "what": amount}, "", lang)
    return Explanation(d["id"], lang, summary, steps, None, None)


def accounts_of(h: History) -> list[str]:
    """The accounts that a story may tell a balance of."""
    out: dict[str, None] = {}
    for r in (h.first, h.final):
        if r is not None:
            out |= dict.fromkeys([*(p.account_id for p in r.postings), *(p.account_id for p in _own(h, r))])
    return list(out)


def _own(h: History, r: JournalRecord) -> list[PendingLeg]:
    """The pending legs of the command itself, and of the hold it is about. Others lapsed before it by the clock alone:
    they are somebody's, and are not told."""
    mine = {h.first.command_id}
    if h.original is not None:
        mine.add(h.original.command_id)
    return [p for p in r.pending if p.hold_id in mine]


class _Teller:
    """Puts the steps one after the other."""

    def __init__(self, h: History, reader: Reader, lang: Lang) -> None:
        self.h = h
        self.reader = reader
        self.lang = lang
        self.words = SENTENCES[lang]
        self.steps: list[Told] = []
        self.currency = currency_of(h)

    def tell(self) -> Explanation:
        h = self.h
        self._original()
        self._asked()
        if h.final is not h.first:
            self._outcome_parts(h.first)
            self._crossing()
        if h.final is None:
            self._add(h.first, "under_way")
        else:
            self._outcome(h.final)
            self._told_parts()
            self._later()
        rejected = h.final is not None and h.final.outcome == "rejected"
        said = refusal(h.final or h.first, h.command, self.lang, self.reader.sees) if rejected else None
        return Explanation(
            h.first.command_id.hex(), self.lang, self._summary(), self.steps, said and said.why, said and said.cure
        )

    # ---- what was asked --------------------------------------------------------------------------------------------

    def _asked(self) -> None:
        r, h = self.h.first, self.h
        named = {
            "asker": r.partner_id, "key": r.idempotency_key, "product": r.product, "operation": r.operation,
            "command": r.command, "subject": name_of(h.command, r),
        }  # fmt: skip
        if r.command != "Transaction":
            self._add(r, "asked_control" if named["subject"] else "asked_control_bare", **named)
        elif h.command is None:
            self._add(r, "forgotten", **named)
        else:
            self._add(r, "asked", **named, what=what_was_asked(h.command, self.lang))
        self._add(r, "taken", offset=r.source_offset, partition=r.source_partition)
        if isinstance(h.command, Transaction) and h.command.value_date != r.booked_at // DAY_MS:
            self._add(r, "asked_date", value_date=iso_day(h.command.value_date))
        if r.reference:
            self._add(r, "reference", reference=r.reference)
        if r.changes.get("note"):
            self._add(r, "note", note=r.changes["note"])

    def _original(self) -> None:
        o = self.h.original
        if o is not None:
            self._add(
                o, "original", asker=o.partner_id, key=o.idempotency_key, offset=o.source_offset,
                partition=o.source_partition,
            )  # fmt: skip

    # ---- what came of it -------------------------------------------------------------------------------------------

    def _outcome(self, r: JournalRecord) -> None:
        if r.outcome == "rejected":
            self._outcome_parts(r)
            self._add(r, "rejected", reason=r.reason, sequence=r.sequence)
        elif r.outcome == "settled":
            self._outcome_parts(r)
            self._add(r, "settled", sequence=r.sequence, value_date=iso_day(r.value_date))
            if r.product_version:
                self._add(r, "version", version=r.product_version)
        else:
            self._add(r, "applied", sequence=r.sequence)
            changes = {k: v for k, v in sorted(r.changes.items()) if v and k != "note"}
            if changes:
                self._add(r, "changed", changes=", ".join(f"{k} {v}" for k, v in changes.items()))

    def _outcome_parts(self, r: JournalRecord) -> None:
        """What a record did: days, accounts opened, money set aside or freed, postings."""
        if r.changes.get("late_for"):
            self._add(r, "late", late_for=r.changes["late_for"], value_date=iso_day(r.value_date))
        for o in r.opened:
            if owner_of(o.account_id) != BANK:
                self._add(r, "opened", account=o.account_id, type=o.type, currency=o.currency)
        pending = [p for p in _own(self.h, r) if not _is_transit(p.account_id)]
        for p in pending[:LEGS_MAX]:
            kind = "lapsed" if p.expired else "aside" if p.change > 0 else "freed"
            self._leg(r, f"{kind}_{p.side}", p, abs(p.change))
        postings = [p for p in r.postings if not _is_transit(p.account_id)]
        for x in postings[:LEGS_MAX]:
            self._leg(r, "debited" if x.side == "debit" else "credited", x, x.amount)
        more = max(0, len(pending) - LEGS_MAX) + max(0, len(postings) - LEGS_MAX)
        if more:
            self._add(r, "legs_more", count=more)
        self._to_bank(r, postings)

    def _leg(self, r: JournalRecord, name: str, leg: PostedLeg | PendingLeg, amount: int) -> None:
        text = self._say(name, leg.currency, account=leg.account_id, amount=amount)
        if self.reader.sees(leg.account_id):
            text += ("" if self.lang == "zh" else " ") + self._balance(leg)
        self._put(r, text)

    def _balance(self, leg: PostedLeg | PendingLeg) -> str:
        kind = self.reader.types.get(leg.account_id) or next(
            (o.type for o in self.h.first.opened if o.account_id == leg.account_id), ""
        )
        if not kind:
            held = leg.debits_pending + leg.credits_pending
            return self._say(
                "counters", leg.currency, debits=leg.debits_posted, credits=leg.credits_posted, held=held
            )  # fmt: skip
        out, into, held = leg.debits_posted, leg.credits_posted, leg.debits_pending
        if kind in DEBIT_NORMAL:
            out, into, held = leg.credits_posted, leg.debits_posted, leg.credits_pending
        return self._say("balance", leg.currency, balance=into - out, available=into - out - held)

    def _to_bank(self, r: JournalRecord, postings: Sequence[PostedLeg]) -> None:
        """What of a payment the bank got, such as its fees."""
        got: dict[str, int] = {}
        for p in postings:
            if p.side == "credit" and owner_of(p.account_id) == BANK:
                got[p.currency] = got.get(p.currency, 0) + p.amount
        others = any(p.side == "credit" and owner_of(p.account_id) != BANK for p in postings)
        if others and r.partner_id != BANK:
            for currency, amount in got.items():
                self._put(r, self._say("to_bank", currency, amount=amount))

    # ---- between partitions ----------------------------------------------------------------------------------------

    def _crossing(self) -> None:
        if not self.h.steps:
            return
        self._add(self.h.first, "crosses", crossing=self.h.first.changes["crossing"].replace(",", ", "))
        for step in self.h.steps:
            answer = step.answer
            if answer is None:
                self._add(self.h.first, "not_answered", partition=step.partition)
            elif answer.outcome == "applied":
                self._add(answer, "reserved", partition=step.partition, sequence=answer.sequence)
            else:
                self._add(
                    answer, "refused", partition=step.partition, reason=answer.reason, sequence=answer.sequence
                )  # fmt: skip
        if self.h.final is not None:
            self._add(self.h.final, "decided")

    def _told_parts(self) -> None:
        """What the other partitions did with the decision."""
        for step in self.h.steps:
            r = step.decision
            if step.answer is None or step.answer.outcome != "applied":
                continue
            if r is None:
                assert self.h.final is not None
                self._add(self.h.final, "not_told", partition=step.partition)
            elif r.changes.get("step") == "commit":
                self._add(
                    r, "committed", partition=step.partition, sequence=r.sequence, value_date=iso_day(r.value_date)
                )  # fmt: skip
            else:
                self._add(r, "given_up", partition=step.partition, sequence=r.sequence)

    # ---- what became of a hold -------------------------------------------------------------------------------------

    def _later(self) -> None:
        if self.h.later is None:
            return
        name = self.h.first.command_id
        left = sum(p.change for p in self.h.first.pending if p.hold_id == name and p.side == "debit")
        for r in self.h.later.records:
            legs = [p for p in r.pending if p.hold_id == name and p.side == "debit"]
            freed = -sum(p.change for p in legs)
            if not freed:
                continue
            left -= freed
            if any(p.expired for p in legs):
                self._put(r, self._say("lapsed_debit", legs[0].currency, amount=freed, account=legs[0].account_id))
                continue
            took = sum(p.amount for p in r.postings if p.side == "debit")
            named = {"asker": r.partner_id, "key": r.idempotency_key, "amount": took}
            self._put(r, self._say("hold_captured" if took else "hold_voided", legs[0].currency, **named))
            self._put(r, self._say("hold_left" if left else "hold_over", legs[0].currency, remaining=left))
        if left and self.h.final is not None:
            self._put(self.h.final, self._say("hold_open", self.currency, remaining=left))
        if not self.h.later.whole and self.h.final is not None:
            self._add(self.h.final, "looked_through", count=f"{LATER_MAX:,}")

    # ---- in one sentence -------------------------------------------------------------------------------------------

    def _summary(self) -> str:
        h, r = self.h, self.h.final or self.h.first
        outcome = "under_way" if h.final is None else "rejected" if r.outcome == "rejected" else "settled"
        if r.command != "Transaction":
            kind = {"settled": "sum_control_applied"}.get(outcome, f"sum_control_{outcome}")
            subject = name_of(h.command, r) or r.command
            return self._say(kind, "", asker=r.partner_id, command=r.command, subject=subject, reason=r.reason)
        what = what_was_asked(h.command, self.lang) or self._moved(r)
        return self._say(
            f"sum_{outcome}", "", asker=r.partner_id, operation=r.operation, product=r.product, what=what,
            reason=r.reason,
        )  # fmt: skip

    def _moved(self, r: JournalRecord) -> str:
        """What a record moved, when the command is not kept: the debits of one currency."""
        legs = [p for p in r.postings if p.side == "debit"]
        if len({p.currency for p in legs}) != 1:
            return r.idempotency_key
        return self._say("of_amount", legs[0].currency, amount=sum(p.amount for p in legs))

    # ---- saying it -------------------------------------------------------------------------------------------------

    def _say(self, name: str, currency: str, **values: object) -> str:
        return say(self.words[name], values, currency, self.lang)

    def _add(self, r: JournalRecord, name: str, **values: object) -> None:
        self._put(r, self._say(name, self.currency, **values))

    def _put(self, r: JournalRecord, text: str) -> None:
        self.steps.append(Told(iso_time(r.booked_at), r.source_partition, r.source_offset, text))


def _is_transit(account_id: str) -> bool:
    return account_id.startswith("bank:crossing:")
