"""Sealing a day, from docs/operations.md, asked of all three ledgers at once; and what the auditor makes of seals that
the journal does not bear out."""

from __future__ import annotations

import re
from datetime import date, timedelta
from hashlib import sha256
from typing import Any

import pytest
from msgspec.structs import replace

from clearline.audit.closes import Closes
from clearline.audit.contract import Terms
from clearline.audit.recompute import Recomputation
from clearline.audit.verdict import Finding
from clearline.contract import ContractError, read_command
from clearline.finance.close import command_of
from schemas.identity import payload_digest
from schemas.records import CloseDay, DayState, JournalRecord, PostedLeg, SealDay, SealedPlace, SealedTotal, Tick
from sinks.finance.closes import Closing, Figures, Total
from sinks.finance.cut import Cut, Place
from tests.books import Books
from tests.ledger_controls import sealed_text
from tests.ledger_model import Model
from tests.model.calendars import iso

TODAY = 20_000
NOON = TODAY * 86_400_000 + 43_200_000
CHAIN = "0a" * 32


def close(day: int) -> CloseDay:
    return CloseDay("bank", f"close-{day}", day, "zhou", "day end")


def place(partition: int, sequence: int, chain: str = CHAIN) -> SealedPlace:
    return SealedPlace(partition, sequence, chain)


def total(
    partition: int = 0, currency: str = "CNY", debits: str = "5", credits: str = "", postings: int = 2
) -> SealedTotal:
    return SealedTotal(partition, currency, debits, credits or debits, postings)


def seal(
    day: int = TODAY, sequence: int = 2, *, cut: tuple[SealedPlace, ...] | None = None,
    totals: tuple[SealedTotal, ...] = (), key: str = "", **other: Any,
) -> SealDay:  # fmt: skip
    """A seal in form. `sequence`: where partition 0 closed the day."""
    cut = (place(0, sequence), place(1, 77)) if cut is None else cut
    digest = sha256(sealed_text(iso(day) if abs(day) < 10**5 else "", cut, totals).encode()).hexdigest()
    c = SealDay("bank", key or f"s-{day}-{digest[:8]}-{len(totals)}", day, digest, cut, totals, "zhou", "day end")
    return replace(c, **other)


class Three:
    """The Book, the auditor's recomputation and the tests' model of partition 0 of 2, asked the same."""

    def __init__(self) -> None:
        self.books = Books(2, NOON)
        self.audit = Recomputation(Terms(2), 0)
        self.model = Model(partition=0, partitions=2)

    def give(self, command: Any) -> JournalRecord:
        offset = self.books.offsets[0]
        record = self.books.settle(0, command)
        expected = self.audit.expect(offset, command, NOON + offset)
        answer = self.model.settle(command, offset, NOON + offset)
        said = (record.outcome, str(record.reason))
        assert said == (expected.outcome, expected.reason) == (answer.outcome, answer.reason), command
        if record.outcome == "applied":
            assert record.subject_id == expected.subject == answer.subject
            assert record.changes == expected.changes == answer.changes
        return record

    def rows(self) -> dict[str, Any]:
        return {k: r for k, r in self.books.books[0].draft.rows.items() if k.startswith("y:")}


@pytest.fixture
def three() -> Three:
    """A tick, then TODAY is closed by the record with sequence 2."""
    t = Three()
    t.give(Tick("bank", "t"))
    assert t.give(close(TODAY)).sequence == 2
    return t


BIG = "9" * 38
# what is asked | what becomes of it, and the field that is named
GRID: list[tuple[str, SealDay, str, str]] = [
    ("a seal",            seal(), "applied", ""),
    ("with totals",       seal(totals=(total(), total(0, "JPY", BIG), total(1, "CNY", "7", postings=900))), "applied", ""),
    ("a day before",      seal(TODAY - 3), "applied", ""),
    ("the first day",     seal(0), "applied", ""),
    ("one partition",     seal(cut=(place(0, 2),)), "applied", ""),
    ("a partner's",       seal(partner_id="acme"), "not_permitted", "partner_id"),
    ("day -1",            seal(-1), "field_invalid", "day"),
    ("too late a day",    seal(120_530), "field_invalid", "day"),
    ("no cut",            seal(cut=()), "field_invalid", "cut"),
    ("cut falls",         seal(cut=(place(1, 9), place(0, 2))), "field_invalid", "cut"),
    ("cut twice",         seal(cut=(place(0, 2), place(0, 2))), "field_invalid", "cut"),
    ("partition -1",      seal(cut=(place(-1, 2), place(0, 2))), "field_invalid", "cut"),
    ("sequence 0",        seal(cut=(place(0, 2), place(1, 0))), "field_invalid", "cut"),
    ("short chain",       seal(cut=(place(0, 2, "0a"),)), "field_invalid", "cut"),
    ("capital chain",     seal(cut=(place(0, 2, "0A" * 32),)), "field_invalid", "cut"),
    ("1,001 partitions",  seal(cut=tuple(place(p, 2) for p in range(1_001))), "field_invalid", "cut"),
    ("totals fall",       seal(totals=(total(0, "JPY"), total(0, "CNY"))), "field_invalid", "totals"),
    ("totals twice",      seal(totals=(total(), total())), "field_invalid", "totals"),
    ("not in the cut",    seal(totals=(total(2),)), "field_invalid", "totals"),
    ("no currency",       seal(totals=(total(0, "XXX"),)), "field_invalid", "totals"),
    ("nothing",           seal(totals=(total(debits="0"),)), "field_invalid", "totals"),
    ("leading zero",      seal(totals=(total(debits="05"),)), "field_invalid", "totals"),
    ("negative",          seal(totals=(total(debits="-5"),)), "field_invalid", "totals"),
    ("39 digits",         seal(totals=(total(debits="1" + "0" * 38),)), "field_invalid", "totals"),
    ("other digits",      seal(totals=(total(debits="٥"),)), "field_invalid", "totals"),
    ("sides differ",      seal(totals=(total(credits="6"),)), "field_invalid", "totals"),
    ("one posting",       seal(totals=(total(postings=1),)), "field_invalid", "totals"),
    ("another hash",      seal(hash="0" * 64), "field_invalid", "hash"),
    ("hash in capitals",  seal(hash=seal().hash.upper()), "field_invalid", "hash"),
    ("an open day",       seal(TODAY + 1), "day_open", "day"),
    ("elsewhere closed",  seal(sequence=3), "field_invalid", "cut"),
    ("not this partition", seal(cut=(place(1, 2),)), "field_invalid", "cut"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "asked", "expected", "named"), GRID, ids=[g[0] for g in GRID])
def test_what_a_seal_must_be(three: Three, what: str, asked: SealDay, expected: str, named: str):
    record = three.give(asked)
    assert (record.outcome if record.outcome == "applied" else record.reason) == expected, what
    assert record.detail.get("field", "") == named
    assert not record.postings
    assert not record.pending
    if expected == "applied":
        text = sealed_text(iso(asked.day), asked.cut, asked.totals)
        cut = ",".join(f"{p.partition}:{p.sequence}" for p in asked.cut)
        assert record.subject_id == iso(asked.day)
        assert record.changes == {
            "day": iso(asked.day), "hash": asked.hash, "cut": cut, "figures": text, "requested_by": "zhou", "note": "day end",
        }  # fmt: skip
        assert three.rows()[f"y:{iso(asked.day)}"] == DayState(asked.day, 2, asked.hash, record.source_offset)
    else:
        assert three.rows() == {f"y:{iso(TODAY)}": DayState(TODAY, 2, "", 1)}


def test_a_day_is_sealed_once(three: Three):
    first = three.give(seal(key="one"))
    again = three.give(seal(key="one"))
    assert (again.outcome, again.first_offset) == ("repeated", first.source_offset)
    same = three.give(seal(key="two"))
    assert (same.reason, same.detail) == ("day_sealed", {"field": "day", "day": iso(TODAY), "hash": seal().hash})
    other = three.give(seal(totals=(total(),), key="three"))
    assert (other.reason, other.detail["hash"]) == ("day_sealed", seal().hash)
    assert three.give(seal(totals=(total(),), key="one")).reason == "idempotency_conflict"
    assert three.give(seal(sequence=9, key="four")).reason == "day_sealed", "which comes before where it was closed"


def test_days_are_sealed_in_any_order_where_they_were_closed():
    t = Three()
    t.give(close(TODAY - 5))
    t.give(Tick("bank", "t"))
    t.give(close(TODAY - 2))
    t.give(close(TODAY))
    for day, sequence in ((TODAY, 4), (TODAY - 2, 3), (TODAY - 3, 3), (TODAY - 4, 3), (TODAY - 5, 1), (TODAY - 9, 1)):
        assert t.give(seal(day, sequence + 1, key=f"wrong-{day}")).reason == "field_invalid"
        assert t.give(seal(day, sequence)).outcome == "applied"
    assert t.give(seal(TODAY + 1, 5)).reason == "day_open"
    assert sorted(t.rows()) == [
        f"y:{iso(d)}" for d in sorted((TODAY, TODAY - 2, TODAY - 3, TODAY - 4, TODAY - 5, TODAY - 9))
    ]


def test_a_dropped_draft_seals_nothing(three: Three):
    book = three.books.books[0]
    record = book.check(seal(), b"c" * 16, payload_digest(seal()), NOON + 9)
    assert record.outcome == "applied"
    assert three.rows() == {f"y:{iso(TODAY)}": DayState(TODAY, 2, "", 1)}


def test_what_is_worked_out_makes_a_command_that_the_ledger_takes(three: Three):
    places = {0: Place(2, 7, 1, NOON), 1: Place(77, 90, 76, NOON)}
    totals = (Total(0, "CNY", 10**30, 10**30, 2), Total(0, "JPY", 5, 5, 4), Total(1, "CNY", 1, 1, 2))
    figures = Figures(iso_day(TODAY), Cut(places), {0: CHAIN, 1: CHAIN}, totals)
    record = three.give(command_of(figures, Closing(0, 2, iso_day(TODAY), None, "zhou", "day end")))  # type: ignore[arg-type]
    assert record.changes["figures"] == figures.text
    assert record.changes["cut"] == figures.cut.text == "0:2,1:77"


def iso_day(day: int) -> date:
    return date(1970, 1, 1) + timedelta(days=day)


DOCUMENT = {
    "command": "SealDay", "partner_id": "bank", "idempotency_key": "s", "day": iso(TODAY), "hash": "0" * 64,
    "cut": [{"partition": 0, "sequence": 2, "chain": CHAIN}],
    "totals": [{"partition": 0, "currency": "CNY", "debits": "5", "credits": "5", "postings": 2}],
}  # fmt: skip


def test_a_seal_as_a_document_is_the_command():
    assert read_command(DOCUMENT, iso_day(TODAY)) == SealDay("bank", "s", TODAY, "0" * 64, (place(0, 2),), (total(),))
    for field, wrong in (("hash", "0"), ("cut", []), ("totals", [{**DOCUMENT["totals"][0], "debits": "5.0"}])):  # type: ignore[dict-item]
        with pytest.raises(ContractError):
            read_command({**DOCUMENT, field: wrong}, iso_day(TODAY))


# ---- the auditor's own sums ------------------------------------------------------------------------------------------


def journal(tamper: str = "") -> tuple[Closes, list[str]]:
    """Two partitions' journals with a close and a seal over right figures, one thing in them changed."""
    chain = {0: bytes([1]) * 32, 1: bytes([2]) * 32}

    def record(sequence: int, command: str, **more: Any) -> JournalRecord:
        fields: dict[str, Any] = {"value_date": TODAY, "subject_id": "", "changes": {}, "postings": (), **more}
        return JournalRecord(
            b"c" * 16, b"d" * 8, True, "settled" if fields["postings"] else "applied", sequence, 0, sequence, NOON, command,
            "bank", "k", "", 0, "", fields["value_date"], "", {}, "", {}, -1, fields["subject_id"], fields["changes"],
            fields["postings"],
        )  # fmt: skip

    def paid(sequence: int, amount: int, day: int) -> JournalRecord:
        legs = tuple(PostedLeg("a", side, amount, "CNY", 0, 0, 0, 0) for side in ("debit", "credit"))
        return record(sequence, "Transaction", value_date=day, postings=legs)

    cut = tuple(SealedPlace(p, 4, chain[p].hex()) for p in (0, 1))
    sums = [total(0, debits="12", postings=4), total(1, debits="12", postings=4)]
    if tamper == "sum":
        sums[1] = total(1, debits="13", postings=4)
    elif tamper == "count":
        sums[0] = total(0, debits="12", postings=6)
    elif tamper == "currency":
        sums.insert(1, total(0, "JPY"))
    elif tamper == "place":
        cut = (cut[0], SealedPlace(1, 3, chain[1].hex()))
    elif tamper == "chain":
        cut = (cut[0], SealedPlace(1, 4, chain[0].hex()))
    finding = Finding("closes")
    closes = Closes(finding)
    for p in (0, 1):
        check = closes.partition(p)
        text = sealed_text(iso(TODAY), cut, sums)
        if tamper == "partitions differ" and p == 1:
            text = sealed_text(iso(TODAY), cut, [sums[0], replace(sums[1], postings=4)][::-1])
        hash_ = sha256(text.encode()).hexdigest() if tamper != "hash" else "0" * 64
        if tamper == "form":
            text, hash_ = "[]", sha256(b"[]").hexdigest()
        changes = {"day": iso(TODAY), "hash": hash_, "figures": text}
        check.take("x", paid(1, 5, TODAY), b"")
        check.take("x", paid(2, 7, TODAY - 400), b"")
        check.take("x", paid(3, 100, TODAY + 1), b"")
        if tamper != "open":
            closed = record(4, "CloseDay", subject_id=iso(TODAY), changes={"day": iso(TODAY)})
            check.take("x", closed, chain[p])
        check.take("x", paid(5, 1_000, TODAY + 1 if tamper != "late" else TODAY), b"")
        check.take("x", record(6, "SealDay", subject_id=iso(TODAY), changes=changes), b"")
    return closes, finding.differences


def test_the_auditor_finds_a_right_seal_right():
    closes, differences = journal()
    assert differences == []
    assert closes.finding.figures == {"sealed": 2}


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        ("sum", r"sealed with \[13, 13, 4\] CNY"), ("count", r"\[12, 12, 6\] CNY"), ("currency", "JPY"), ("hash", "is not that of"),
        ("place", "it was closed at"), ("chain", "it was closed at"), ("form", "not in their form"), ("open", "not closed before"),
        ("partitions differ", "other figures than in another partition"),
    ],
)  # fmt: skip
def test_the_auditor_names_a_seal_that_the_journal_does_not_bear_out(tamper: str, named: str):
    _, differences = journal(tamper)
    assert any(re.search(named, d) for d in differences), differences


def test_what_a_wrong_ledger_books_on_a_closed_day_later_is_not_in_its_seal():
    """The sums are those of the moment of the close: a later one is the sequence's and the outcome's business."""
    assert journal("late")[1] == []
