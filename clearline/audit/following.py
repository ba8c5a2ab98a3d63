"""Takes the journal's word where the commands are no longer kept, and the state rows' where the journal is silent.

The journal says of limits, calendars and products only that they were set: what they are stands in the command and in
the row of `ledger.state`. A product's version never changes, so its row is as good as its command. A row of limits or
of a calendar is used when it is of the record's own offset. When it was changed since, nothing says what stood there
meanwhile: until it is set anew the recomputation is unsure of it, and what hangs on it (a limit's `limit_exceeded`, the
day after a closed one) is believed as the journal has it. What windows have used is counted from the postings; where
these do not say it (limits or calendars that are not known, a product's steps that do not begin with the amount) the
rows of the windows are believed from there on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clearline.audit.calendars import Calendar, day_of
from clearline.audit.crossing import NO_DIGEST, REFUSED, RESERVED, WAITING, Crossings, Flight, key_of, parts_of
from clearline.audit.figures import Leg, follow_counters
from clearline.audit.limits import Gross, Subject
from clearline.audit.memory import Hold
from clearline.audit.products import Version
from clearline.audit.rules import COUNTS
from clearline.audit.templates import uses_amount
from schemas.records import CalendarState, CrossingState, DayState, JournalRecord, LimitState, ProductState, SetCalendar

OF_ACCOUNTS = ("OpenAccount", "SetAccountLimit", "BlockAccount", "CloseAccount")


@dataclass(slots=True)
class Rows:
    """What the rows of `ledger.state` say that the journal does not."""

    limits: dict[Subject, LimitState] = field(default_factory=dict)
    calendars: dict[str, CalendarState] = field(default_factory=dict)
    products: dict[tuple[str, int], ProductState] = field(default_factory=dict)
    crossings: dict[tuple[int, bytes], CrossingState] = field(default_factory=dict)
    days: dict[int, DayState] = field(default_factory=dict)


def decides(record: JournalRecord) -> bool:
    """Whether the record of a transaction is the decision of one between partitions."""
    final = record.outcome in ("settled", "rejected") and record.reason != "idempotency_conflict"
    return final and not record.binds_key


class Following(Crossings):
    """Follows trusted records."""

    def follow(
        self, record: JournalRecord, expiries: Mapping[bytes, int] | None = None, rows: Rows | None = None
    ) -> list[str]:
        """Takes a journal record's word for a command that is no longer kept in the submitted topic.

        When a hold lapses stands in the command alone, not in the journal, so it is taken from `expiries`: what the
        rows of `ledger.state` say of holds (hold id -> ms UTC, 0 never). As far as `expires_at` goes such a row is then
        compared with itself. Of a hold that was closed since and whose rows are compacted away nothing says it: its
        lapsing is believed when the journal shows it, at the place where it does. Returns the keys of the commands that
        it must have written to other partitions.
        """
        offset, rows = record.source_offset, rows or Rows()
        self.sequence = record.sequence
        self.event_time = max(self.event_time, record.booked_at)
        if record.binds_key:
            self.bind(record.command_id, record.payload_digest, offset, record.booked_at)
        for o in record.opened:
            self.new_account(offset, o.account_id, o.type, o.currency, o.min_available, o.credit_limit)
        self._follow_holds(record, expiries or {})
        follow_counters(self, record)
        written = self._follow_flight(record, rows)
        if record.outcome == "settled" and record.binds_key:
            self._follow_settled(record)
        if record.outcome == "applied" and record.command not in ("Transaction", "Crossing"):
            self._follow_control(record, rows)
        return written

    def _follow_holds(self, record: JournalRecord, expiries: Mapping[bytes, int]) -> None:
        """The holds that a trusted record opens, releases or lets lapse; every change counts on its debit side."""
        offset = record.source_offset
        for i, leg in enumerate(record.pending):
            hold = self.holds.by_id.get(leg.hold_id)
            if leg.side != "debit":
                continue
            if hold is not None:
                hold.remaining += leg.change
                hold.changed = offset
                if hold.remaining <= 0:
                    self.close(hold, lapsed=leg.expired)
            elif leg.change > 0 and record.outcome == "settled" and leg.hold_id == record.command_id:
                payee = record.pending[i + 1].account_id if i + 1 < len(record.pending) else ""
                self.holds.add(
                    Hold(leg.hold_id, record.payload_digest, record.partner_id, leg.account_id, payee, leg.currency,
                         leg.change, leg.change, expiries.get(leg.hold_id), offset, offset)
                )  # fmt: skip

    # ---- transactions ------------------------------------------------------------------------------------------------

    def _version(self, record: JournalRecord) -> Version | None:
        """The version that a record was settled under."""
        versions = self.shelf.get(record.product, ())
        return next((v for v in versions if v.version == record.product_version), None)

    def _kind(self, record: JournalRecord) -> str:
        version = self._version(record)
        if version is None:
            return record.operation
        return str(version.document["operations"].get(record.operation, {}).get("kind", record.operation))

    def _follow_settled(self, record: JournalRecord) -> None:
        """What is remembered of a trusted transaction, what it gave back of its original, what it counts for."""
        legs = [(p.account_id, p.side, p.amount, p.currency) for p in record.postings]
        kind = self._kind(record)
        if kind in ("refund", "reversal"):
            self.give_back(record.original_offset, legs)
        self.remember(
            record.command_id, kind, record.product, record.pending[-1].currency if record.pending else "", legs
        )
        own = [(p.account_id, p.side, p.change, p.currency) for p in record.pending if p.change > 0]
        if kind in COUNTS:
            self._follow_count(record, legs or own)

    def _follow_count(self, record: JournalRecord, legs: list[Leg]) -> None:
        """Counts a trusted transaction against the windows, by its legs."""
        version = self._version(record)
        kind = self._kind(record)
        debits = [leg for leg in legs if leg[1] == "debit"]
        by_amount = certain = kind == "exchange"
        if version is not None and kind == "transfer":
            op = version.document["operations"][record.operation]
            by_amount = uses_amount(op)
            certain = op["steps"][0]["amount"] == "amount"
        gross: Gross = {}
        for _, _, amount, currency in debits[:1] if by_amount else debits:
            gross[currency] = gross.get(currency, 0) + amount
        limits = version.limits if version else ()
        asked = self.asked(record.partner_id, legs, gross, record.product, limits)
        self.count(record.source_offset, asked)
        if by_amount and not certain:
            self.unsure_usage.update(subject for subject, *_ in asked)

    # ---- between partitions ------------------------------------------------------------------------------------------

    def _follow_flight(self, record: JournalRecord, rows: Rows) -> list[str]:
        """What a trusted record does to a flight, and the keys of what it wrote to other partitions."""
        if record.command == "Transaction":
            if record.outcome == "applied" and "crossing" in record.changes:
                return self._follow_start(record)
            f = self.flights.get((self.partition, record.command_id))
            if f is not None and decides(record):
                return self._follow_decision(record, f, rows)
        elif record.command == "Crossing" and record.binds_key:
            return self._follow_step(record)
        return []

    def _flight_of(self, record: JournalRecord, cid: bytes, asker: tuple[str, str], *, home: bool, at: int) -> Flight:
        legs = [(p.account_id, p.side, p.change, p.currency) for p in record.pending if p.hold_id == cid]
        digest = record.payload_digest if home else NO_DIGEST
        return Flight(
            cid, digest, home, at, *asker, record.product, record.product_version, record.operation, record.value_date,
            record.reference, record.metadata, legs, record.source_offset, record.source_offset,
        )  # fmt: skip

    def _follow_start(self, record: JournalRecord) -> list[str]:
        others = [int(p) for p in record.changes["crossing"].split(",")]
        cid = record.command_id
        asker = (record.partner_id, record.idempotency_key)
        f = self.flights[self.partition, cid] = self._flight_of(record, cid, asker, home=True, at=self.partition)
        f.answers = dict.fromkeys(others, WAITING)
        self.remember(cid, "", record.product, "", ())
        self._follow_count(record, f.legs)
        return [self._key("reserve", cid, p, record) for p in others]

    def _follow_decision(self, record: JournalRecord, f: Flight, rows: Rows) -> list[str]:
        f.changed = record.source_offset
        waiting = [p for p, a in f.answers.items() if a == WAITING]
        named = (self.partition, record.command_id)
        if record.outcome == "settled":
            del self.flights[named]
            return [self._key("commit", record.command_id, p, record) for p in f.answers]
        f.reason, f.detail = record.reason, record.detail
        row = rows.crossings.get(named)
        refused = [p.partition for p in row.parts if p.answer == REFUSED and p.partition in waiting] if row else []
        f.answers[(refused or waiting)[0]] = REFUSED  # which one it was the record does not say
        if WAITING not in f.answers.values():
            del self.flights[named]
        return [self._key("void", record.command_id, p, record) for p, a in f.answers.items() if a == RESERVED]

    def _key(self, step: str, cid: bytes, receiver: int, record: JournalRecord) -> str:
        """The key of a step that a trusted record caused."""
        return key_of(step, cid, self.partition, receiver, record.source_offset)

    def _follow_step(self, record: JournalRecord) -> list[str]:
        """A step that was journaled as itself. Its key names the transaction and both partitions."""
        key = parts_of(record.idempotency_key)
        if key is None:  # forged: that it has no cause is found with the traffic
            return []
        step, cid, other = key.step, key.transaction_id, key.sender
        if record.outcome == "rejected":
            answers = step == "reserve" and record.reason != "crossing_unknown"
            return [self._key(REFUSED, cid, other, record)] if answers else []
        if step == "reserve":
            asker = (record.subject_id, record.changes["key"])
            self.flights[other, cid] = self._flight_of(record, cid, asker, home=False, at=other)
            return [self._key(RESERVED, cid, other, record)]
        f = self.flights.get((self.partition, cid))
        if f is None or step in ("commit", "void"):
            self.flights.pop((other, cid), None)
            return []
        late = step == RESERVED and f.is_refused
        f.answers[other] = step
        f.changed = record.source_offset
        if f.is_refused and WAITING not in f.answers.values():
            del self.flights[self.partition, cid]
        return [self._key("void", cid, other, record)] if late else []

    # ---- control commands --------------------------------------------------------------------------------------------

    def _follow_control(self, record: JournalRecord, rows: Rows) -> None:
        subject, changes, offset = record.subject_id, record.changes, record.source_offset
        if record.command in ("AdmitPartner", "SetPartnerState"):
            name = changes.get("name", self.partner_name.get(subject, ""))
            self.set_standing(offset, subject, changes["state"], name)
        elif record.command == "CloseDay":
            self.closed_through = day_of(changes["day"])
            self.days[self.closed_through] = (record.sequence, "", offset)
        elif record.command == "SealDay":
            day = day_of(changes["day"])
            self.days[day] = (self.closed_by(day), changes["hash"], offset)
        elif record.command == "SetCalendar":
            row = rows.calendars.get(subject)
            if row is not None and row.source_offset == offset:
                self.calendars[subject] = Calendar(as_command(row), offset)
                self.unsure_calendars.discard(subject)
            else:
                self.unsure_calendars.add(subject)
        elif record.command == "PublishProduct":
            version = rows.products.get((subject, int(changes["version"])))
            if version is not None:
                self.put_version(offset, subject, version.version, version.effective_from, version.document)
        elif record.command == "SetLimit":
            self._follow_limits(offset, (changes["level"], subject), int(changes["limits"]), rows)
        elif record.command == "SetFreeze":
            who, why, second = (changes.get(k, "") for k in ("requested_by", "note", "approved_by"))
            self.put_freeze(offset, changes["level"], subject, changes["frozen"] == "true", who, why, second)
        elif record.command in OF_ACCOUNTS:
            self._follow_account(record.command, offset, subject, changes)

    def _follow_limits(self, offset: int, subject: Subject, how_many: int, rows: Rows) -> None:
        row = rows.limits.get(subject)
        known = row is not None and row.source_offset == offset
        if known or not how_many:
            self.put_limits(offset, subject, row.limits if row is not None and known else ())
            self.unsure_limits.discard(subject)
        else:
            self.put_limits(offset, subject, ())
            self.unsure_limits.add(subject)
            self.unsure_usage.add(subject)

    def _follow_account(self, command: str, offset: int, a: str, changes: Mapping[str, Any]) -> None:
        limit = int(changes["min_available"]) if changes.get("min_available") else None
        credit = int(changes.get("credit_limit") or 0)
        if command == "OpenAccount":
            self.new_account(offset, a, changes["type"], changes["currency"], limit, credit)
        elif command == "SetAccountLimit":
            self.limit[a], self.credit_limit[a] = limit, credit
        elif command == "BlockAccount":
            self.debits_blocked[a] = changes["block_debits"] == "true"
            self.credits_blocked[a] = changes["block_credits"] == "true"
            self.frozen[a] = changes.get("freeze") == "true"
            if not self.frozen[a]:
                self.freezes.pop(("account", a), None)
        else:
            self.closed[a] = True
        self.touched[a] = offset


def as_command(row: CalendarState) -> SetCalendar:
    """The command that set a calendar, as far as it is kept."""
    return SetCalendar("", "", row.subject_id, row.zone, row.offsets, row.closed_weekdays, row.closed_days)
