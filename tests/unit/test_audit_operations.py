"""The auditor's own reading of docs/operations.md, case by case, without any ledger; what it expects, and what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from clearline.audit.contract import DAY_MS, Terms
from clearline.audit.journal import JournalWalk
from clearline.audit.memory import Hold, OpenHolds
from clearline.audit.recompute import LAPSES_MAX, Expected, Recomputation
from clearline.audit.verdict import Findings
from schemas.identity import command_id
from schemas.records import (
    AdmitPartner,
    BlockAccount,
    JournalRecord,
    OpenAccount,
    PendingLeg,
    PostedLeg,
    Posting,
    SetAccountLimit,
    Transaction,
)

T0 = 20_000 * DAY_MS
DAYS = 4  # the window of keys in these tests
SEEN = Terms(partitions=1, idempotency_days=DAYS)


class Desk:
    """Gives commands to a recomputation, a millisecond apart, and journals what it expects."""

    def __init__(self) -> None:
        self.model = Recomputation(SEEN)
        self.offset = -1
        self.now = T0
        self.journal: list[JournalRecord] = []
        self.commands: list[Any] = []
        self.give(AdmitPartner("bank", "p", "acme"))
        self.give(OpenAccount("bank", "c", "bank:cash", "asset", "CNY"))
        for name in ("a", "b", "shop"):
            self.give(OpenAccount("bank", f"o-{name}", f"acme:{name}", "liability", "CNY", 0))
        self.give(OpenAccount("bank", "o-usd", "acme:usd", "liability", "USD", 0))
        self.move("fund", "bank:cash", "acme:a", 1_000)

    def give(self, command: Any, at: int = 0) -> Expected:
        """The expectation for the next command; `at`: ms UTC, the next millisecond when 0."""
        self.offset += 1
        self.now = max(at, self.now + 1)
        e = self.model.expect(self.offset, command, self.now)
        self.commands.append((self.offset, command, self.now))
        self.journal.append(as_journal(e, command, self.offset, self.now))
        return e

    def ask(self, operation: str, key: str, original: str, amount: int = 0, **more: Any) -> Expected:
        at = more.pop("at", 0)
        t = Transaction(more.pop("partner", "acme"), key, "", operation, amount, more.pop("currency", "CNY"), {}, (),
                        20_000, original=original, **more)  # fmt: skip
        return self.give(t, at)

    def move(self, key: str, payer: str, payee: str, amount: int, **more: Any) -> Expected:
        accounts, at = {"payer": payer, "payee": payee}, more.pop("at", 0)
        kind = more.pop("operation", "transfer")
        return self.give(Transaction("acme", key, "", kind, amount, "CNY", accounts, (), 20_000, **more), at)

    def hold(self, key: str, amount: int = 100, **more: Any) -> Expected:
        return self.move(key, "acme:a", "acme:b", amount, operation="hold", **more)

    def adjust(self, key: str, note: str = "why", partner: str = "bank", **more: Any) -> Expected:
        postings = (Posting("bank:cash", "debit", 5), Posting("acme:b", "credit", 5))
        t = Transaction(partner, key, "", "adjustment", 0, "CNY", {}, postings, 20_000, note=note)
        return self.give(replace(t, **more))


def as_journal(e: Expected, c: Any, offset: int, at: int) -> JournalRecord:
    changes = dict(e.changes or {})
    if isinstance(c, OpenAccount):
        changes = {"type": c.type, "currency": c.currency, "min_available": str(c.min_available or "")}
    if isinstance(c, AdmitPartner):
        changes = {"state": "live", "name": c.name}
    return JournalRecord(
        e.command_id, e.digest, e.binds_key, e.outcome, offset + 1, 0, offset, at, type(c).__name__, c.partner_id,
        c.idempotency_key, "", 0, getattr(c, "operation", ""), 0, "", {}, e.reason, {}, e.first_offset, e.subject,
        changes, tuple(PostedLeg(*leg) for leg in e.legs), tuple(PendingLeg(*leg) for leg in e.pending),
        e.original_offset,
    )  # fmt: skip


@pytest.fixture
def desk() -> Desk:
    return Desk()


def said(e: Expected) -> str:
    return e.reason or e.outcome


def moved(e: Expected) -> list[tuple[str, str, int]]:
    return [leg[:3] for leg in e.legs]


def changes(e: Expected) -> list[tuple[str, str, int, bool]]:
    return [(a, side, change, expired) for _, a, side, change, _, expired, *_ in e.pending]


# ---- holds -----------------------------------------------------------------------------------------------------------


def test_a_hold_sets_aside_and_a_capture_posts(desk: Desk) -> None:
    h = desk.hold("h", 100)
    cid = command_id("acme", "h")
    assert (h.outcome, h.legs, h.original_offset) == ("settled", (), -1)
    assert h.pending == (
        (cid, "acme:a", "debit", 100, "CNY", False, 100, 0, 0, 1_000),
        (cid, "acme:b", "credit", 100, "CNY", False, 0, 0, 100, 0),
    )
    assert desk.model.available("acme:a") == 900
    assert desk.model.available("acme:b") == 0
    c = desk.ask("capture", "c", "h", 60)
    assert c.original_offset == 7
    assert c.pending == (
        (cid, "acme:a", "debit", -60, "CNY", False, 40, 0, 0, 1_000),
        (cid, "acme:b", "credit", -60, "CNY", False, 0, 0, 40, 0),
    )
    assert c.legs == (
        ("acme:a", "debit", 60, "CNY", 40, 60, 0, 1_000),
        ("acme:b", "credit", 60, "CNY", 0, 0, 40, 60),
    )
    assert said(desk.ask("capture", "c2", "h", 41)) == "capture_exceeds_hold"
    assert said(desk.ask("capture", "c3", "h", 40)) == "settled"
    assert said(desk.ask("capture", "c4", "h", 1)) == "hold_closed"
    assert said(desk.ask("void", "v", "h")) == "hold_closed"
    assert not desk.model.holds.by_id


def test_final_releases_all_that_is_left(desk: Desk) -> None:
    desk.hold("h", 100)
    c = desk.ask("capture", "c", "h", 30, final=True)
    assert [x[2] for x in changes(c)] == [-100, -100]
    assert moved(c) == [("acme:a", "debit", 30), ("acme:b", "credit", 30)]
    assert said(desk.ask("capture", "c2", "h", 1)) == "hold_closed"


def test_a_void_releases_and_nothing_can_stop_it(desk: Desk) -> None:
    desk.hold("h", 100)
    desk.give(BlockAccount("bank", "block", "acme:a", True, True))
    assert said(desk.ask("capture", "c", "h", 1)) == "debits_blocked"
    v = desk.ask("void", "v", "h")
    assert (v.outcome, v.legs, v.original_offset) == ("settled", (), 7)
    assert changes(v) == [("acme:a", "debit", -100, False), ("acme:b", "credit", -100, False)]


def test_a_hold_asks_what_a_transfer_asks(desk: Desk) -> None:
    assert said(desk.hold("h1", 1_001)) == "insufficient_funds"
    assert said(desk.hold("h2", 1_000)) == "settled"
    assert said(desk.move("t", "acme:a", "acme:b", 1)) == "insufficient_funds"
    assert said(desk.move("h3", "acme:a", "acme:a", 1, operation="hold")) == "same_account"
    assert said(desk.move("h4", "acme:a", "acme:usd", 1, operation="hold")) == "account_currency"
    assert said(desk.move("h5", "acme:b", "acme:a", 1, operation="hold")) == "insufficient_funds"


def test_a_capture_s_funds_were_set_aside_unless_the_limit_was_raised(desk: Desk) -> None:
    desk.hold("h", 1_000)
    assert said(desk.ask("capture", "c", "h", 400)) == "settled"
    desk.give(SetAccountLimit("bank", "l", "acme:a", 1))
    assert said(desk.ask("capture", "c2", "h", 600)) == "insufficient_funds"
    assert said(desk.ask("capture", "c3", "h", 599, final=True)) == "settled"


# ---- refunds, reversals, adjustments ---------------------------------------------------------------------------------


def test_refunds_give_back_up_to_the_payment(desk: Desk) -> None:
    desk.move("t", "acme:a", "acme:b", 100)
    r = desk.ask("refund", "r", "t", 60)
    assert moved(r) == [("acme:b", "debit", 60), ("acme:a", "credit", 60)]
    assert r.original_offset == 7
    assert said(desk.ask("refund", "r2", "t", 41)) == "refund_exceeds_payment"
    assert said(desk.ask("reversal", "x", "t")) == "refund_exceeds_payment"
    assert said(desk.ask("refund", "r3", "t", 40)) == "settled"
    assert said(desk.ask("refund", "r4", "t", 1)) == "refund_exceeds_payment"
    assert said(desk.ask("refund", "r5", "r", 1)) == "original_mismatch"


def test_a_capture_is_refunded_for_itself(desk: Desk) -> None:
    desk.hold("h", 100)
    desk.ask("capture", "c", "h", 60)
    assert said(desk.ask("refund", "r", "h", 1)) == "original_mismatch"
    assert said(desk.ask("refund", "r2", "c", 61)) == "refund_exceeds_payment"
    assert said(desk.ask("refund", "r3", "c", 60)) == "settled"


def test_a_reversal_swaps_every_leg_in_its_order(desk: Desk) -> None:
    legs = (Posting("acme:b", "credit", 30), Posting("acme:a", "debit", 100), Posting("acme:shop", "credit", 70))
    desk.give(Transaction("acme", "t", "", "transfer", 0, "CNY", {}, legs, 20_000))
    assert said(desk.ask("refund", "r", "t", 1)) == "original_mismatch"
    r = desk.ask("reversal", "x", "t")
    assert moved(r) == [("acme:b", "debit", 30), ("acme:a", "credit", 100), ("acme:shop", "debit", 70)]
    assert said(desk.ask("reversal", "x2", "t")) == "refund_exceeds_payment"
    assert said(desk.ask("reversal", "x3", "x")) == "original_mismatch"


def test_refunds_are_paid_from_what_is_there(desk: Desk) -> None:
    desk.move("t", "acme:a", "acme:b", 100)
    desk.move("t2", "acme:b", "acme:shop", 50)
    assert said(desk.ask("refund", "r", "t", 60)) == "insufficient_funds"
    assert said(desk.ask("reversal", "x", "t")) == "insufficient_funds"
    desk.give(BlockAccount("bank", "block", "acme:b", True, False))
    assert said(desk.ask("refund", "r2", "t", 60)) == "debits_blocked"


def test_only_the_bank_adjusts_and_says_why(desk: Desk) -> None:
    desk.give(BlockAccount("bank", "block", "acme:b", True, True))
    done = desk.adjust("j")
    assert (said(done), done.changes) == ("settled", {"note": "why"})
    assert moved(done) == [("bank:cash", "debit", 5), ("acme:b", "credit", 5)]
    assert said(desk.adjust("j2", partner="acme")) == "not_permitted"
    assert said(desk.adjust("j3", note="")) == "field_invalid"
    assert said(desk.adjust("j4", note="x" * 1_025)) == "field_invalid"
    unbalanced = (Posting("bank:cash", "debit", 5), Posting("acme:b", "credit", 6))
    assert said(desk.adjust("j5", partner="acme", postings=unbalanced)) == "postings_unbalanced"
    unknown = (Posting("bank:cash", "debit", 5), Posting("acme:no", "credit", 5))
    assert said(desk.adjust("j6", partner="acme", postings=unknown)) == "not_permitted"
    assert said(desk.adjust("j7", postings=unknown)) == "account_unknown"
    assert said(desk.ask("reversal", "x", "j", partner="bank")) == "original_mismatch"


# ---- fields and originals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "wrong"),
    [
        ("transfer", {"original": "t"}), ("hold", {"original": "t"}), ("adjustment", {"original": "t"}),
        ("capture", {"original": ""}), ("void", {"original": ""}), ("refund", {"original": ""}),
        ("reversal", {"original": ""}), ("transfer", {"final": True}), ("hold", {"final": True}),
        ("void", {"final": True}), ("refund", {"final": True}), ("transfer", {"expires_at": T0 + DAY_MS}),
        ("capture", {"expires_at": T0 + DAY_MS}), ("hold", {"expires_at": T0 - 1}), ("hold", {"expires_at": -1}),
        ("transfer", {"note": "n"}), ("void", {"note": "n"}), ("void", {"amount": 1}), ("reversal", {"amount": -1}),
        ("capture", {"accounts": {"payer": "acme:a", "payee": "acme:b"}}), ("adjustment", {"amount": 5}),
        ("adjustment", {"accounts": {"payer": "acme:a", "payee": "acme:b"}}), ("hold", {"rate": "1"}),
        ("refund", {"postings": (Posting("acme:a", "debit", 5), Posting("acme:b", "credit", 5))}),
        ("hold", {"postings": (Posting("acme:a", "debit", 5), Posting("acme:b", "credit", 5))}),
    ],
)  # fmt: skip
def test_fields_that_do_not_belong(desk: Desk, operation: str, wrong: dict[str, Any]) -> None:
    desk.move("t", "acme:a", "acme:b", 10)
    desk.hold("h", 10)
    two = {"payer": "acme:a", "payee": "acme:b"}
    right = Transaction("acme", "k", "", operation, 5, "CNY", two, (), 20_000)
    if operation in ("capture", "void", "refund", "reversal"):
        name, amount = "h" if operation in ("capture", "void") else "t", 5 if operation in ("capture", "refund") else 0
        right = replace(right, accounts={}, original=name, amount=amount)
    elif operation == "adjustment":
        postings = (Posting("bank:cash", "debit", 5), Posting("acme:b", "credit", 5))
        right = replace(right, partner_id="bank", accounts={}, amount=0, postings=postings, note="n")
    assert said(desk.give(replace(right, **wrong))) == "field_invalid"
    assert said(desk.give(replace(right, idempotency_key="k2"))) == "settled"


def test_which_originals_there_are(desk: Desk) -> None:
    desk.move("t", "acme:a", "acme:b", 100)
    desk.hold("h", 100)
    desk.hold("refused", 10_000)
    for original in ("never", "refused", "o-a", "self"):
        assert said(desk.ask("capture", f"c-{original}", original, 1)) == "original_unknown"
    assert said(desk.ask("capture", "self", "self", 1)) == "original_unknown"
    assert said(desk.ask("refund", "r0", "t", 1, partner="bank")) == "original_unknown"
    assert said(desk.ask("capture", "c1", "t", 1)) == "original_mismatch"
    assert said(desk.ask("reversal", "x1", "h")) == "original_mismatch"
    assert said(desk.ask("capture", "c2", "h", 1, currency="USD")) == "original_mismatch"
    assert said(desk.ask("refund", "r1", "t", 101, currency="USD")) == "original_mismatch"
    assert said(desk.ask("refund", "r2", "t", 1, currency="XXX")) == "currency_unknown"
    assert said(desk.ask("refund", "r3", "never", 0)) == "amount_not_positive"
    desk.ask("void", "v", "h")
    assert said(desk.ask("void", "v2", "h", currency="USD")) == "original_mismatch"
    assert said(desk.ask("void", "v3", "v")) == "original_mismatch"


def test_an_original_is_remembered_as_long_as_its_key_and_an_open_hold_for_ever(desk: Desk) -> None:
    desk.move("t", "acme:a", "acme:b", 100)
    desk.hold("open", 100)
    desk.hold("gone", 100)
    desk.ask("void", "v", "gone")
    assert said(desk.ask("refund", "r", "t", 1, at=T0 + DAYS * DAY_MS)) == "settled"
    later = T0 + 2 * DAYS * DAY_MS
    assert said(desk.ask("refund", "r2", "t", 1, at=later)) == "original_unknown"
    assert said(desk.ask("void", "v2", "gone", at=later)) == "original_unknown"
    c = desk.ask("capture", "c", "open", 100, at=later)
    assert (said(c), c.original_offset) == ("settled", 8)
    assert said(desk.ask("capture", "c2", "open", 1)) == "original_unknown"


# ---- lapsing ---------------------------------------------------------------------------------------------------------


def test_holds_lapse_in_order_before_any_command_that_is_looked_at(desk: Desk) -> None:
    end = desk.now + 100
    desk.hold("h1", 10, expires_at=end)
    desk.hold("h2", 20, expires_at=end - 5)
    desk.hold("h3", 30, expires_at=end)
    desk.hold("h4", 40, expires_at=end + 1)
    desk.hold("h5", 50)
    assert desk.ask("capture", "c", "h1", 4, at=end - 6).pending[0][5] is False
    e = desk.move("t", "acme:a", "acme:b", 10**6, at=end)
    assert e.outcome == "rejected"
    assert [(a, n, x) for a, _, n, x in changes(e)] == [
        ("acme:a", -20, True), ("acme:b", -20, True), ("acme:a", -6, True), ("acme:b", -6, True),
        ("acme:a", -30, True), ("acme:b", -30, True),
    ]  # fmt: skip
    repeated = desk.move("t", "acme:a", "acme:b", 10**6, at=end + 1)
    assert (repeated.outcome, len(repeated.pending)) == ("repeated", 2)
    assert said(desk.ask("capture", "c2", "h1", 1)) == "hold_expired"
    assert said(desk.ask("void", "v", "h4")) == "hold_expired"
    assert said(desk.ask("capture", "c3", "h5", 50)) == "settled"


def test_a_control_command_releases_and_a_hold_makes_room(desk: Desk) -> None:
    desk.hold("h", 1_000, expires_at=desk.now + 50)
    e = desk.hold("h2", 1_000, at=desk.now + 60)
    assert [(n, x) for _, _, n, x in changes(e)] == [(-1_000, True), (-1_000, True), (1_000, False), (1_000, False)]
    assert said(e) == "settled"
    desk.ask("void", "v", "h2")
    desk.hold("h3", 10, expires_at=desk.now + 50)
    applied = desk.give(OpenAccount("bank", "n", "acme:new", "liability", "CNY", 0), at=desk.now + 60)
    assert (applied.outcome, len(applied.pending)) == ("applied", 2)


def test_a_hold_that_ends_now_is_refused(desk: Desk) -> None:
    assert said(desk.hold("h", 1, expires_at=desk.now + 10, at=desk.now + 10)) == "field_invalid"
    assert said(desk.hold("h2", 1, expires_at=desk.now + 2)) == "settled"


def test_at_most_so_many_lapse_at_once(desk: Desk) -> None:
    end = desk.now + 10_000
    for i in range(LAPSES_MAX + 3):
        desk.hold(f"h-{i}", 1, expires_at=end)
    first = desk.move("t", "acme:a", "acme:b", 1, at=end)
    second = desk.move("t2", "acme:a", "acme:b", 1)
    assert (len(first.pending), len(second.pending)) == (2 * LAPSES_MAX, 6)
    assert desk.model.debits_pending["acme:a"] == 0


def test_places_of_closed_holds_are_cleared_away() -> None:
    holds = OpenHolds()
    for i in range(5_000):
        hold = Hold(i.to_bytes(16, "big"), bytes(8), "acme", "a", "b", "CNY", 1, 1, 10**12 + i, i, i)
        holds.add(hold)
        if i % 10:
            holds.close(hold)
    assert len(holds._order) <= 2 * len(holds.by_id) + 1_001
    due = holds.due(10**13, 1_000)
    assert [h.opened for h in due] == list(range(0, 5_000, 10))


# ---- a journal that is trusted ---------------------------------------------------------------------------------------


def busy(desk: Desk) -> None:
    """Originals in every condition."""
    end = desk.now + 1_000
    for key in ("h-open", "h-part", "h-done", "h-void"):
        desk.hold(key, 50)
    desk.hold("h-soon", 10, expires_at=end)
    desk.hold("h-lapsed", 11, expires_at=desk.now + 20)
    desk.hold("h-late", 12, expires_at=end)
    desk.ask("capture", "c-part", "h-part", 20)
    desk.ask("capture", "c-done", "h-done", 20, final=True)
    desk.ask("void", "v", "h-void")
    desk.move("t", "acme:a", "acme:b", 40)
    desk.move("t-back", "acme:a", "acme:b", 40)
    desk.ask("refund", "r", "t", 15, at=desk.now + 20)
    desk.ask("reversal", "x", "t-back")
    desk.adjust("j")


def ask_all(desk: Desk) -> list[Expected]:
    names = ("h-open", "h-part", "h-done", "h-void", "h-soon", "h-lapsed", "h-late", "c-part", "c-done", "v", "t",
             "t-back", "r", "x", "j")  # fmt: skip
    out = []
    for name in names:
        out.append(desk.ask("capture", f"1-{name}", name, 31))
        out.append(desk.ask("refund", f"2-{name}", name, 26))
        out.append(desk.ask("refund", f"3-{name}", name, 5))
        out.append(desk.ask("reversal", f"4-{name}", name))
    out.append(desk.move("end", "acme:a", "acme:b", 1, at=desk.now + 2_000))
    out += [desk.ask("void", f"5-{name}", name) for name in names]
    return out


def followed(desk: Desk, expiries: dict[bytes, int]) -> Desk:
    """Another desk that knows only the journal of this one."""
    other = Desk.__new__(Desk)
    other.model, other.offset, other.now = Recomputation(SEEN), desk.offset, desk.now
    other.journal, other.commands = [], []
    for record in desk.journal:
        other.model.follow(record, expiries)
    return other


def test_what_is_followed_is_what_was_recomputed(desk: Desk) -> None:
    busy(desk)
    expiries = {h.hold_id: h.expires_at or 0 for h in desk.model.holds.by_id.values()}
    other = followed(desk, expiries)
    assert other.model.keys == desk.model.keys
    assert other.model.holds.by_id == desk.model.holds.by_id
    assert other.model.entries.given_back == desk.model.entries.given_back
    assert other.model.touched == desk.model.touched
    assert ask_all(other) == ask_all(desk)


def test_a_lapse_is_believed_only_where_nothing_says_when(desk: Desk) -> None:
    busy(desk)
    soon, late = command_id("acme", "h-soon"), command_id("acme", "h-late")
    known = {h.hold_id: h.expires_at or 0 for h in desk.model.holds.by_id.values() if h.hold_id != soon}
    other = followed(desk, known)
    t = Transaction("acme", "n", "", "transfer", 1, "CNY", {"payer": "acme:a", "payee": "acme:b"}, (), 20_000)
    right = desk.give(t, desk.now + 2_000)
    assert [p[0] for p in right.pending] == [soon, soon, late, late]
    assert other.model.expect(desk.offset, t, desk.now, [soon, late]) == right


def test_a_known_expiry_is_not_a_matter_of_belief(desk: Desk) -> None:
    desk.hold("h", 10)
    h = command_id("acme", "h")
    t = Transaction("acme", "n", "", "transfer", 1, "CNY", {"payer": "acme:a", "payee": "acme:b"}, (), 20_000)
    assert followed(desk, {h: 0}).model.expect(desk.offset + 1, t, desk.now + 1, [h]).pending == ()
    assert len(followed(desk, {}).model.expect(desk.offset + 1, t, desk.now + 1, [h]).pending) == 2
    assert followed(desk, {}).model.expect(desk.offset + 1, t, desk.now + 1).pending == ()


# ---- the journal by itself -------------------------------------------------------------------------------------------


def walked(records: list[JournalRecord]) -> list[str]:
    findings = Findings()
    walk = JournalWalk(0, iter(()), lambda b: b, findings)
    for r in records:
        walk._pending(str(r.source_offset), r)
    return findings["pending"].differences


def test_a_journal_that_releases_twice_or_on_one_side_is_noticed(desk: Desk) -> None:
    busy(desk)
    assert walked(desk.journal) == []
    void = next(r for r in desk.journal if r.idempotency_key == "v")
    assert any("more than was set aside" in d for d in walked([*desk.journal, void]))
    one_side = replace(void, pending=void.pending[:1])
    assert any("on the other" in d for d in walked([one_side if r is void else r for r in desk.journal]))
    negative = replace(void, pending=(replace(void.pending[0], debits_pending=-1), void.pending[1]))
    assert any("pending counters -1" in d for d in walked([negative if r is void else r for r in desk.journal]))
