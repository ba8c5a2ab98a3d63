"""What is compared between a Book and its model after every batch, and what must hold of a journal whatever they say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ledger.state import Draft
from schemas.identity import command_id, payload_digest
from schemas.records import (
    Crossing,
    CrossingState,
    HoldState,
    JournalRecord,
    Limit,
    PublishProduct,
    SetCalendar,
    SetLimit,
    Transaction,
    UsageState,
)
from tests.ledger_model import Answer, Model
from tests.ledger_world import CODEC
from tests.model import calendars
from tests.model.values import path, root


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
    say = (c, record, expected)
    assert (record.outcome, str(record.reason), record.first_offset) == expected[:3], say
    assert record.binds_key == (record.first_offset < 0), say
    assert tuple(msgspec.structs.astuple(p) for p in record.postings) == expected.postings, say
    pending = tuple((command_id(*p[0]), *p[1:]) for p in expected.pending)
    assert tuple(msgspec.structs.astuple(p) for p in record.pending) == pending, say
    assert record.original_offset == expected.original_offset, say
    assert tuple(msgspec.structs.astuple(o) for o in record.opened) == expected.opened, say
    if record.detail.get("account") == expected.detail.get("account"):  # of several accounts the page names none first
        assert record.detail.items() >= expected.detail.items(), say
    key = expected.speaks_for or (c.partner_id, c.idempotency_key)
    assert (record.partner_id, record.idempotency_key, record.command_id) == (*key, command_id(*key)), say
    assert record.command == ("Transaction" if expected.speaks_for else type(c).__name__), say
    if expected.value_date is not None:
        assert (record.value_date, record.product_version) == (expected.value_date, expected.version), say
    if expected.subject is not None:
        assert record.subject_id == expected.subject, say
    if isinstance(c, Transaction | Crossing) and expected.outcome in ("settled", "applied"):
        assert record.changes == expected.changes, say
    elif expected.changes is not None:
        assert record.changes.items() >= expected.changes.items(), say


def compare_sent(sent: Sequence[Crossing], expected: Sequence[Crossing]) -> None:
    """What goes to other partitions, in order. What the other side knows already, the page leaves open."""
    assert len(sent) == len(expected), (sent, expected)
    for got, want in zip(sent, expected, strict=True):
        if want.step != "reserve":
            want = msgspec.structs.replace(want, legs=got.legs)
        if want.step == "refused":
            assert got.detail.items() >= want.detail.items(), (got, want)
            want = msgspec.structs.replace(want, detail=got.detail)
        assert got == want, (got, want)


def check_rows(draft: Draft, model: Model) -> None:
    """Holds, limits, usage, calendars, products and crossings are as the model has them."""
    holds = seen_from(draft, "holds")
    expected = {command_id(*k).hex(): (k, h) for k, h in model.open_holds().items()}
    assert {n for n, h in holds.items() if h.remaining} == expected.keys()
    for name, (key, h) in expected.items():
        assert holds[name].state() == HoldState(
            command_id(*key), payload_digest(model.answered[key][0]), key[0], h.payer, h.payee, h.currency, h.amount,
            h.left, h.expires_at, h.offset, h.changed,
        ), key  # fmt: skip
    rows: dict[str, Any] = dict(draft.base.rows)
    for d in (*reversed(draft.under), draft):
        rows.update(d.rows)
    kinds: dict[str, dict[str, Any]] = {k: {} for k in "fulcdxy"}
    for key_, row in rows.items():
        if row is not None:
            kinds[key_[0]][key_[2:]] = row
    assert {k: r.limits for k, r in kinds["l"].items()} == {f"{lv}:{s}": v for (lv, s), v in model.limits.items()}
    used: dict[str, UsageState] = kinds["u"]
    assert {k: r.used for k, r in used.items() if r.used} == {f"{lv}:{s}": v for (lv, s), v in model.usage.items()}
    assert {k: (r.requested_by, r.note, r.approved_by, r.since) for k, r in kinds["f"].items()} == {
        f"{level}:{subject}": tuple(f) for (level, subject), f in model.freezes.items()
    }
    fields = ("subject_id", "zone", "offsets", "closed_weekdays", "closed_days")
    assert {k: [getattr(r, f) for f in fields] for k, r in kinds["c"].items()} == {
        k: [getattr(c, f) for f in fields] for k, c in model.calendars.items()
    }
    assert {k: (r.effective_from, r.document) for k, r in kinds["d"].items()} == {
        f"{name}:{p.version}": (p.effective_from, p.text) for name, versions in model.shelf.items() for p in versions
    }
    assert {k: (r.day, r.sequence, r.hash) for k, r in kinds["y"].items()} == {
        calendars.iso(d): (d, sequence, model.sealed.get(d, "")) for d, sequence in model.closes.items()
    }
    open_here: dict[str, CrossingState] = kinds["x"]
    assert open_here.keys() == {f"{home}:{name.hex()}" for home, name in model.flights}
    for (home, flight), f in model.flights.items():
        row = open_here[f"{home}:{flight.hex()}"]
        got = (row.home, row.home_partition, row.asker, row.asker_key, row.opened_at_offset, row.reason)
        assert got == (f.home, home, *f.key, f.offset, f.reason), (row, f)
        assert f.home is False or tuple((p.partition, p.answer) for p in row.parts) == f.parts, (row, f)


def check_rollups(found: Mapping[str, Mapping[str, tuple[int, int, int, int]]], model: Model) -> None:
    """At each level of the tree the counters are the sums of all accounts below."""
    expected: dict[str, dict[str, tuple[int, ...]]] = {}
    for a in model.accounts.values():
        for p in path(a.owner):
            level = expected.setdefault(p, {})
            d, c, dp, cp = level.get(a.currency, (0, 0, 0, 0))
            level[a.currency] = (d + a.d, c + a.c, dp + a.dp, cp + a.cp)
    assert found == expected


def check_limits_kept(before: Mapping[str, Any], model: Model) -> None:
    """No command but a change of the floor takes an account below it; whoever was below may stay there."""
    for name, a in model.accounts.items():
        was = before.get(name)
        if was is None or was is a or a.floor() is None or a.floor() != was.floor():
            continue
        assert a.available() >= min(a.floor(), was.available()), (name, was, a)


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
    assert draft.rows == {}


COUNTED = ("transfer", "entry", "hold", "exchange")


@dataclass
class Watch:
    """Counts from the journal alone what each window has taken, and that no limit is passed by any prefix of it.

    A subject's count begins anew when its limits or any calendar change, so it never says more than the ledger may.
    """

    limits: dict[tuple[str, str], tuple[Limit, ...]] = field(default_factory=dict)
    calendars: dict[str, SetCalendar] = field(default_factory=dict)
    documents: dict[tuple[str, int], Any] = field(default_factory=dict)
    taken: dict[tuple[str, str], list[tuple[int, Limit, int]]] = field(default_factory=dict)
    now: int = 0

    def take(self, c: Any, record: JournalRecord) -> None:
        """One record of the journal, with its command."""
        self.now = max(self.now, record.booked_at)
        if isinstance(c, Transaction) and record.outcome in ("settled", "applied"):
            self._transaction(c, record)
        elif record.outcome == "applied":
            if isinstance(c, SetLimit):
                self.limits[c.level, c.subject_id] = c.limits
                self.taken = {
                    s: t
                    for s, t in self.taken.items()
                    if s[0] != c.level or (c.level != "product" and s[1] != c.subject_id)
                }
            elif isinstance(c, SetCalendar):
                self.calendars[c.subject_id] = c
                self.taken.clear()
            elif isinstance(c, PublishProduct):
                self.documents[c.product, c.version] = json.loads(c.document)

    def _transaction(self, t: Transaction, record: JournalRecord) -> None:
        document = self.documents.get((record.product, record.product_version), {"limits": []})
        kind = document["operations"][t.operation]["kind"] if "operations" in document else t.operation
        if kind not in COUNTED:
            return
        moved = [(p.account_id, p.side, p.amount, p.currency) for p in record.postings]
        moved += [(p.account_id, p.side, p.change, p.currency) for p in record.pending if not p.expired]
        debits = [(name, amount, currency) for name, side, amount, currency in moved if side == "debit"]
        whole: Counter[str] = Counter()
        for _, amount, currency in debits:
            whole[currency] += amount
        gross = Counter({t.currency: t.amount}) if t.amount else whole
        if t.partner_id != "bank":
            for p in path(t.partner_id):
                self._ask(("partner", p), self.limits.get(("partner", p), ()), p, gross)
        for name in {n for n, _, _ in debits}:
            own: Counter[str] = Counter()
            for n, amount, currency in debits:
                own[currency] += amount if n == name else 0
            self._ask(("account", name), self.limits.get(("account", name), ()), name.split(":")[0], +own)
        named = tuple(
            Limit(one["window"], one.get("currency", ""), one.get("count_max"), one.get("amount_max"))
            for one in document["limits"] if True
        ) if document.get("limits") else ()  # fmt: skip
        who = root(t.partner_id)
        self._ask(("product", f"{who} {t.product}"), (*self.limits.get(("product", t.product), ()), *named), who, gross)

    def _ask(self, subject: tuple[str, str], limits: Sequence[Limit], who: str, gross: Mapping[str, int]) -> None:
        calendar, before = calendars.of(self.calendars, who), self.taken.get(subject, [])
        keys = {(one.window, one.currency) for one in limits}
        before = [b for b in before if (b[1].window, b[1].currency) in keys]
        if any(one.currency for one in limits):
            assert gross.keys() <= {one.currency for one in limits}, (subject, limits, gross)
        after = list(before)
        for one in limits:
            if one.currency and one.currency not in gross:
                continue
            amount = gross.get(one.currency, 0)
            if one.window == "transaction":
                assert one.amount_max is None or amount <= one.amount_max, (subject, one, amount)
                continue
            number = calendars.window_number(calendar, one.window, self.now)
            mine = [b for b in before if b[1] == one and b[0] == number]
            assert one.count_max is None or len(mine) + 1 <= one.count_max, (subject, one)
            assert one.amount_max is None or sum(b[2] for b in mine) + amount <= one.amount_max, (subject, one)
            after.append((number, one, amount))
        self.taken[subject] = after
