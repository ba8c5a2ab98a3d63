"""The examples that the README publishes come out as their own references say, with the shelf in place."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from clearline.contract import parse_line
from clearline.generator_shelf import shelf_of
from schemas.records import Transaction
from tests.books import Books

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
NOON = 1_795_348_800_000  # 2026-11-22 12:00 UTC
NAMES = ("first", "holds", "shelf", "suspended")
REFUSED = {
    "o-1003": "insufficient_funds", "stay-17-more": "refund_exceeds_payment", "o-2002": "limit_exceeded",
    "lunch-2": "owner_state",
}  # fmt: skip


def test_the_examples_come_out_as_they_say():
    books = Books(6, NOON)
    for published in shelf_of(1):
        assert books.give(published).outcome == "applied"
    refused = {}
    for name in NAMES:
        for line in (EXAMPLES / f"{name}.jsonl").read_bytes().splitlines():
            command = parse_line(line, date(2026, 11, 22))
            r = books.give(command)
            if r.outcome == "rejected":
                refused[command.idempotency_key] = r.reason
            else:
                assert r.outcome == ("settled" if isinstance(command, Transaction) else "applied"), (command, r)
                assert "refused" not in getattr(command, "reference", "")
    assert refused == REFUSED


def test_the_examples_cross_partitions_and_end_where_they_say():
    books = Books(6, NOON)
    for published in shelf_of(1):
        books.give(published)
    for name in NAMES:
        for line in (EXAMPLES / f"{name}.jsonl").read_bytes().splitlines():
            books.give(parse_line(line, date(2026, 11, 22)))
    posted: dict[str, int] = {}
    transit = 0
    for book in books.books:
        for a in book.draft.accounts.values():
            posted[a.account_id] = posted.get(a.account_id, 0) + a.credits_posted - a.debits_posted
            assert a.debits_pending == a.credits_pending == 0
            transit += a.debits_posted if a.account_id == "bank:crossing:CNY" else 0
    assert transit == 4_224
    assert posted["bank:crossing:CNY"] == 0
    assert posted["zeta:settlement:till"] == 4_224  # 42.50 less 0.6 %, which is 0.255, rounded half up
    assert posted["acme:escrow:pool"] == 0
    assert posted["acme:treasury:usd"] == 1_000
    assert sum(posted.values()) == 0
