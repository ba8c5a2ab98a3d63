"""Bugs that are put into the ledger on purpose, to see that the machine finds them. Each takes pytest's monkeypatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ledger import (
    calendars,
    closing,
    control,
    control_accounts,
    control_acts,
    control_partners,
    crossing,
    exchange,
    flights,
    freezes,
    limits,
    operations,
    parts,
    rules,
    shelf,
)
from ledger.accounts import Account
from ledger.book import Book
from ledger.days import iso_date
from ledger.entries import HOLD, LAPSED
from ledger.money import EXPONENTS
from ledger.operations import OPERATIONS
from ledger.partners import Standing
from ledger.rules import Legs
from ledger.state import Draft
from schemas.records import BlockAccount

Bug = Callable[[Any], None]


def _limit_ignored(monkeypatch):
    monkeypatch.setattr(rules, "check_left", lambda account, left: None)


def _credit_limit_ignored(monkeypatch):
    monkeypatch.setattr(Account, "floor", property(lambda a: a.min_available))


def _draft_writes_through(monkeypatch):
    monkeypatch.setattr(Account, "copy", lambda self: self)


def _refusals_bind_nothing(monkeypatch):
    plain = Book.settle

    def settle(self, command, name, *rest):
        known = name in self.draft.keys
        record = plain(self, command, name, *rest)
        if record.outcome == "rejected" and not known:
            self.draft.keys.pop(name, None)
        return record

    monkeypatch.setattr(Book, "settle", settle)


def _suspension_stops_at_the_parent(monkeypatch):
    plain = Standing._find

    def find(self, partner_id):
        found = plain(self, partner_id)
        return found and found[-1:]

    monkeypatch.setattr(Standing, "_find", find)


def _path_taken_for_a_prefix(monkeypatch):
    plain = rules.owned
    monkeypatch.setattr(
        rules, "owned", lambda owners, asker, owner: plain(owners, asker, asker if owner.startswith(asker) else owner)
    )


def _owners_are_always_paid(monkeypatch):
    monkeypatch.setattr(Legs, "_owner_state", lambda self, *rest: None)


def _who_is_above_moves_what_a_partner_may_not(monkeypatch):
    plain = Legs._owner_state
    monkeypatch.setattr(
        Legs, "_owner_state", lambda self, field, a, what, below="": None if below else plain(self, field, a, what)
    )


def _one_person_takes_a_partner_live(monkeypatch):
    monkeypatch.setattr(control_partners, "_check_approval", lambda c, *, goes_live: None)


def _freezing_stops_nothing(monkeypatch):
    plain = rules.check_account

    def check(field, a, currency, debit, *, adjusts=False):
        melted = a.copy()
        melted.frozen = False
        return plain(field, melted, currency, debit, adjusts=adjusts)

    monkeypatch.setattr(rules, "check_account", check)


def _blocks_stop_an_adjustment(monkeypatch):
    plain = rules.check_account

    def check(field, a, currency, debit, *, adjusts):
        return plain(field, a, currency, debit, adjusts=False)

    monkeypatch.setattr(operations, "check_account", check)


def _pending_money_is_there_to_be_taken(monkeypatch):
    monkeypatch.setattr(
        Account, "available", lambda a: (a.debits_posted - a.credits_posted) * (1 if a.debit_normal else -1)
    )


def _nothing_lapses(monkeypatch):
    monkeypatch.setattr(Draft, "next_due", lambda self: 2**62)


def _holds_lapse_in_another_order(monkeypatch):
    plain = Draft.due_holds
    monkeypatch.setattr(
        Draft, "due_holds", lambda self: iter(sorted(plain(self), key=lambda h: (h.expires_at, -h.opened_at)))
    )


def _a_lapse_is_not_remembered(monkeypatch):
    plain = Draft.moved

    def moved(self: Draft, offset: int) -> Any:
        found = plain(self, offset)
        return found._replace(kind=HOLD) if found is not None and found.kind == LAPSED else found

    monkeypatch.setattr(Draft, "moved", moved)


def _what_was_given_back_is_forgotten(monkeypatch):
    monkeypatch.setattr(Draft, "returned", lambda self, offset: 0)


def _refunds_of_open_drafts_are_not_counted(monkeypatch):
    def returned(self, offset):
        return self.given_back.get(offset, self.base.entries.given_back(offset))

    monkeypatch.setattr(Draft, "returned", returned)


def _final_releases_nothing_more(monkeypatch):
    plain = OPERATIONS["capture"]

    def capture(draft, t, *rest):
        plan = plain(draft, t, *rest)
        assert plan.releases is not None
        plan.releases = (plan.releases[0], t.amount)
        return plan

    monkeypatch.setitem(OPERATIONS, "capture", capture)


def _a_capture_must_be_paid_for_twice(monkeypatch):
    plain = rules.check_totals
    monkeypatch.setattr(operations, "check_totals", lambda legs, released=None: plain(legs))


def _a_capture_is_no_payment(monkeypatch):
    monkeypatch.setattr(operations, "ENTRY", 3)


def _a_limit_counts_nothing(monkeypatch):
    plain = limits._count

    def count(a, before, windows):
        plain(a, before, windows)
        return before

    monkeypatch.setattr(limits, "_count", count)


def _a_partner_above_is_not_asked_for_its_limits(monkeypatch):
    plain = limits._everybody

    def everybody(draft, t, *rest):
        return (a for a in plain(draft, t, *rest) if a.level != "partner" or a.subject == t.partner_id)

    monkeypatch.setattr(limits, "_everybody", everybody)


def _a_partner_below_is_not_asked_for_its_limits(monkeypatch):
    monkeypatch.setattr(limits, "_below", lambda asker, debits: {})


def _windows_are_those_of_utc(monkeypatch):
    monkeypatch.setattr(calendars, "local_ms", lambda calendar, now: now)


def _closed_days_are_open_for_limits(monkeypatch):
    monkeypatch.setattr(calendars, "business_day", calendars.local_date)


def _what_is_late_stays_where_it_was(monkeypatch):
    monkeypatch.setattr(Book, "booked_on", lambda self, value_date: (value_date, ""))


def _the_first_version_counts_for_ever(monkeypatch):
    plain = Draft.versions
    monkeypatch.setattr(Draft, "versions", lambda self, product: plain(self, product)[:1])


def _yesterdays_price_is_to_be_had(monkeypatch):
    monkeypatch.setattr(Book, "_priced_on", lambda self, value_date: value_date)


def _fees_are_rounded_down(monkeypatch):
    plain = parts._part
    monkeypatch.setattr(parts, "_part", lambda base, percent, rounding: plain(base, percent, "down"))


def _the_last_gets_the_remainder(monkeypatch):
    monkeypatch.setattr("ledger.templates.equal_parts", lambda total, number: parts.equal_parts(total, number)[::-1])


def _fees_are_given_back_first(monkeypatch):
    monkeypatch.setattr("ledger.templates.shares", lambda credits, *rest: parts.shares(credits[::-1], *rest))


def _a_rate_is_rounded_down(monkeypatch):
    def bought_for(amount, rate, currency, other):
        number, decimals = exchange.parse_rate(rate)
        up, down = EXPONENTS[other], EXPONENTS[currency] + decimals
        return amount * number * 10**up // 10**down

    monkeypatch.setattr(exchange, "bought_for", bought_for)


def _a_void_is_not_sent(monkeypatch):
    plain = flights.send

    def send(book, row, step, *rest, **other):
        if step != "void":
            plain(book, row, step, *rest, **other)

    monkeypatch.setattr(crossing, "send", send)


def _a_commit_is_taken_twice(monkeypatch):
    plain = crossing._decided

    def decided(book, c, at):
        key = flights.row_key(c.from_partition, c.transaction_id)
        kept = book.draft.row(key)
        record = plain(book, c, at)
        book.draft.put_row(key, kept)
        return record

    monkeypatch.setattr(crossing, "_decided", decided)


def _the_first_to_reserve_decides(monkeypatch):
    plain = crossing._answer

    def answer(book, c, at):
        record = plain(book, c, at)
        row = flights.open_here(book.draft, book.partition, c.transaction_id)
        if record.outcome == "applied" and row is not None and not row.reason:
            book.head.applied -= 1
            return crossing._decide(book, row, at)
        return record

    monkeypatch.setattr(crossing, "_answer", answer)


def _refused_money_stays_set_aside(monkeypatch):
    plain = crossing._decide

    def decide(book, row, at):
        if row.reason:
            row = msgspec.structs.replace(row, legs=())
        return plain(book, row, at)

    monkeypatch.setattr(crossing, "_decide", decide)


def _a_day_is_sealed_again(monkeypatch):
    plain = closing._closed

    def closed(draft, day, closed_through):
        found = plain(draft, day, closed_through)
        return found and msgspec.structs.replace(found, hash="")

    monkeypatch.setattr(closing, "_closed", closed)


def _a_day_closed_with_a_later_one_is_taken_for_open(monkeypatch):
    monkeypatch.setattr(closing, "_closed", lambda draft, day, closed_through: draft.row(f"y:{iso_date(day)}"))


def _freezing_a_partner_leaves_those_below_free(monkeypatch):
    monkeypatch.setattr(Standing, "frozen_by", lambda self, p: p if self._is_frozen("partner", p) else "")


def _a_frozen_partner_is_still_paid(monkeypatch):
    monkeypatch.setattr(rules, "owner_frozen", lambda field, a, standing: None)


def _a_frozen_partner_is_paid_from_other_partitions(monkeypatch):
    monkeypatch.setattr(crossing, "owner_frozen", lambda field, a, standing: None)


def _a_frozen_world_takes_plain_transfers(monkeypatch):
    monkeypatch.setattr(Standing, "_is_free", lambda self, partner_id: not self.frozen_by(partner_id))


def _a_frozen_product_takes_plain_transfers(monkeypatch):
    plain = shelf.plain_version

    def version(draft, t, day):
        flag, draft.freezes = draft.freezes, False
        try:
            return plain(draft, t, day)
        finally:
            draft.freezes = flag

    monkeypatch.setattr(shelf, "plain_version", version)


def _a_freeze_stops_voids(monkeypatch):
    monkeypatch.setattr(freezes, "UNSTOPPED", frozenset({"adjustment"}))


def _one_person_lifts_a_freeze(monkeypatch):
    monkeypatch.setattr(control_acts, "_BY_TWO", ())


def _a_block_that_lifts_a_freeze_leaves_its_row(monkeypatch):
    plain = control_accounts.block_account

    def block(book, c, offset):
        rows = dict(book.draft.rows)
        changes = plain(book, c, offset)
        book.draft.rows = rows
        return changes

    monkeypatch.setitem(control._HANDLERS, BlockAccount, block)


def _a_second_freeze_takes_the_place_of_the_first(monkeypatch):
    plain = Draft.row

    def row(self, key):
        return None if key.startswith("f:account") else plain(self, key)

    monkeypatch.setattr(Draft, "row", row)


def _a_partner_that_is_frozen_still_gives_commands(monkeypatch):
    monkeypatch.setattr(freezes, "check_asker", lambda draft, standing, partner_id: None)


BUGS: tuple[Bug, ...] = tuple(
    bug for name, bug in list(globals().items()) if name.startswith("_") and not name.startswith("__") and callable(bug)
)
