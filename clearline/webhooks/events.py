"""Which events a journal record gives, and for whom. Pure: the same record and subscriptions give the same events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from clearline.gateway.documents import document, document_of_record, of_record
from clearline.gateway.documents import told as readable
from clearline.webhooks.interest import ABOVE, BELOW, EXPIRED, REJECTED, SETTLED, Event, Interest, make, since
from processors.finality import speaks_for_key
from schemas.identity import command_id, owner_of
from schemas.records import Command, JournalRecord, PendingLeg, PostedLeg, Want
from streams.calls import Place

_FINAL = {"settled": SETTLED, "rejected": REJECTED}


class Counters(NamedTuple):
    """The four counters of an account, minor units."""

    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int

    def available(self, normal: str) -> int:
        """What may still be taken out, seen from the account's own side."""
        if normal == "debit":
            return self.debits_posted - self.credits_posted - self.credits_pending
        return self.credits_posted - self.debits_posted - self.debits_pending


def is_last_word(r: JournalRecord) -> bool:
    """Whether a record says what became of a transaction. Another payload under its key says nothing of it, and its
    first step between partitions is not the last."""
    return r.command == "Transaction" and speaks_for_key(r.outcome, r.reason)


def asked_at(r: JournalRecord, interest: Interest) -> Place | None:
    """Where the log has the command whose last word a record is, when somebody is to be told of it."""
    outcome = of_record(r) if is_last_word(r) else None
    if outcome is None or next(interest.above(r.partner_id, _FINAL[r.outcome], r.booked_at), None) is None:
        return None
    return outcome.place


def events_of(r: JournalRecord, interest: Interest, asked: Command | None = None) -> list[Event]:
    """The events of one record, those of its transaction first. `asked`: its command; without it the document has what
    the journal alone knows."""
    out = list(_outcome(r, interest, asked)) if is_last_word(r) else []
    if r.pending:
        out += _lapsed(r, interest)
    if interest.balances and (r.pending or r.postings):
        out += _balances(r, interest)
    return out


def ordering_of(r: JournalRecord) -> str:
    """The account that a transaction is in order with: of its first posting, else of the first leg it set aside or
    released, else the one that its rejection names, else its partner."""
    if r.postings:
        return r.postings[0].account_id
    for leg in r.pending:
        if not leg.expired:
            return leg.account_id
    return r.detail.get("account") or r.partner_id


def _outcome(r: JournalRecord, interest: Interest, asked: Command | None) -> Iterator[Event]:
    kind = _FINAL[r.outcome]
    data: dict[str, Any] | None = None
    for s, _ in interest.above(r.partner_id, kind, r.booked_at):
        if data is None:
            known = asked is not None and command_id(asked.partner_id, asked.idempotency_key) == r.command_id
            data = document(asked, r.command_id.hex(), None, of_record(r)) if known and asked else document_of_record(r)
            if r.reason:
                data["reason_detail"] = readable(r.detail, r.partner_id)
        yield make(s, kind, ordering_of(r), _told(r), r.booked_at, data, r.sequence)


def _lapsed(r: JournalRecord, interest: Interest) -> Iterator[Event]:
    """Holds that lapsed before this command: of each the leg that was to be debited."""
    for leg in r.pending:
        if leg.expired and leg.side == "debit":
            hold = leg.hold_id.hex()
            for s, _ in interest.above(owner_of(leg.account_id), EXPIRED, r.booked_at):
                data = {
                    "id": hold, "payer": leg.account_id, "payee": _payee(r, leg.hold_id), "currency": leg.currency,
                    "amount": -leg.change, "expires_at": None,
                }  # fmt: skip
                told = f"{_told(r)}\0{hold}"
                yield make(s, EXPIRED, leg.account_id, told, r.booked_at, {"hold": data}, r.sequence)


def _payee(r: JournalRecord, hold_id: bytes) -> str | None:
    found = (leg.account_id for leg in r.pending if leg.hold_id == hold_id and leg.expired and leg.side == "credit")
    return next(found, None)


def _balances(r: JournalRecord, interest: Interest) -> Iterator[Event]:
    for account_id, (before, after, currency) in moved(r, interest.balances).items():
        for s, w in interest.balances[account_id]:
            if r.booked_at < since(s) or not crossed(w, before, after):
                continue
            account = {
                "account_id": account_id, "currency": currency, "available": after.available(w.normal),
                **after._asdict(),
            }  # fmt: skip
            data = {"account": account, "threshold": {"amount": w.amount, "normal": w.normal}}
            told = f"{_told(r)}\0{account_id}\0{w.amount}\0{w.normal}"
            yield make(s, w.type, account_id, told, r.booked_at, data, r.sequence)


def moved(r: JournalRecord, accounts: Any) -> dict[str, tuple[Counters, Counters, str]]:
    """Counters before and after the whole record, and the currency, of those of its accounts that are in `accounts`."""
    out: dict[str, tuple[Counters, Counters, str]] = {}
    legs: tuple[PendingLeg | PostedLeg, ...] = (*r.pending, *r.postings)
    for leg in legs:
        if leg.account_id not in accounts:
            continue
        after = Counters(leg.debits_pending, leg.debits_posted, leg.credits_pending, leg.credits_posted)
        known = out.get(leg.account_id)
        out[leg.account_id] = (known[0] if known else _before(leg, after), after, leg.currency)
    return out


def _before(leg: PendingLeg | PostedLeg, after: Counters) -> Counters:
    if isinstance(leg, PendingLeg):
        name, change = f"{leg.side}s_pending", leg.change
    else:
        name, change = f"{leg.side}s_posted", leg.amount
    return after._replace(**{name: getattr(after, name) - change})


def crossed(w: Want, before: Counters, after: Counters) -> bool:
    """Whether the threshold lies between: from at or above it to below, or from at or below it to above."""
    a, b = before.available(w.normal), after.available(w.normal)
    return a >= w.amount > b if w.type == BELOW else w.type == ABOVE and a <= w.amount < b


def _told(r: JournalRecord) -> str:
    return f"{r.source_partition}\0{r.sequence}"
