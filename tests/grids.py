"""What the grids of operations are written with: short names for requests, and balances as people write them.

A balance is written `1000` when nothing is pending, `1000-100` when 100 of it are set aside, and `0+100` when 100 may
come in. Amounts are minor units (1000 is 10.00 CNY).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from schemas.records import BlockAccount, JournalRecord, Posting, SetPartnerState, Transaction
from tests.ledger_world import BOOKED_AT, DAY, Ledger, account, admit, key, pay

ALICE, BOB, TILL, YEN, CASH = "acme:w:alice", "acme:w:bob", "acme/shop:w:till", "acme:w:yen", "acme:cash"
CLEARING, YEN_CLEARING, ZOE = "bank:clearing:CNY", "bank:clearing:JPY", "zeta:w:zoe"
MIDNIGHT = BOOKED_AT + 86_400_000  # second 0 of every grid


def ask(operation: str, key: str, amount: int = 0, **other: Any) -> Transaction:
    fields: dict[str, Any] = {"partner_id": "acme", "currency": "CNY", "accounts": {}, "postings": (), **other}
    return Transaction(
        idempotency_key=key, product="wallet", operation=operation, amount=amount, value_date=DAY, **fields
    )


def transfer(key: str, amount: int, payer: str = ALICE, payee: str = BOB, **other: Any) -> Transaction:
    return ask("transfer", key, amount, **{"accounts": {"payer": payer, "payee": payee}, **other})


def hold(key: str, amount: int, payer: str = ALICE, payee: str = BOB, until: int = 0, **other: Any) -> Transaction:
    """`until`: the second at which it lapses."""
    expires_at = MIDNIGHT + until * 1000 if until else 0
    return ask("hold", key, amount, **{"accounts": {"payer": payer, "payee": payee}, "expires_at": expires_at, **other})


def capture(key: str, amount: int, of: str, **other: Any) -> Transaction:
    return ask("capture", key, amount, original=of, **other)


def void(key: str, of: str, **other: Any) -> Transaction:
    return ask("void", key, original=of, **other)


def refund(key: str, amount: int, of: str, **other: Any) -> Transaction:
    return ask("refund", key, amount, original=of, **other)


def reversal(key: str, of: str, **other: Any) -> Transaction:
    return ask("reversal", key, original=of, **other)


def legs(*of: tuple[Any, ...]) -> tuple[Posting, ...]:
    return tuple(Posting(*leg) for leg in of)


def adjust(key: str, *of: tuple[Any, ...], **other: Any) -> Transaction:
    return ask(
        "adjustment", key, **{"partner_id": "bank", "note": "case 7: paid twice", "postings": legs(*of), **other}
    )


def block(name: str, debits: bool, credits: bool) -> BlockAccount:
    return BlockAccount("bank", key(), name, debits, credits)


def state(partner: str, becomes: str, by: str = "bank", **other: Any) -> SetPartnerState:
    """The step to a state, approved where it is to go live."""
    second = "li" if becomes == "live" else ""
    fields: dict[str, Any] = {
        "idempotency_key": key(), "requested_by": "zhou", "note": "case 9", "approved_by": second, **other
    }  # fmt: skip
    return SetPartnerState(by, subject_id=partner, state=becomes, **fields)


class At(NamedTuple):
    second: int
    command: Any


at = At


def bank() -> Ledger:
    """Alice with 1000, Bob with nothing, and a few others; what was settled for it is named opening-1 and so on."""
    ledger = Ledger()
    commands: list[Any] = [
        *(admit(p) for p in ("acme", "acme/shop", "zeta")),
        account(CLEARING, "asset", limit=None), account(YEN_CLEARING, "asset", "JPY", None),
        *(account(name) for name in (ALICE, BOB, TILL, ZOE, "acme:w:empty")), account(YEN, currency="JPY"),
        account(CASH, "asset"),
        pay("acme", CLEARING, ALICE, 1000, idempotency_key="opening-1"),
        pay("acme", YEN_CLEARING, YEN, 100, "JPY", idempotency_key="opening-2"),
        pay("zeta", CLEARING, ZOE, 100, idempotency_key="opening-3"),
    ]  # fmt: skip
    commands[0] = msgspec.structs.replace(commands[0], idempotency_key="admitted")
    ledger.settle(*commands)
    assert ledger.base.head.rejected == 0
    return ledger


def balance(ledger: Ledger, name: str) -> str:
    a = ledger.base.accounts[name]
    held, coming = a.debits_pending, a.credits_pending
    return f"{a.credits_posted - a.debits_posted}{f'-{held}' if held else ''}{f'+{coming}' if coming else ''}"


def answer(record: JournalRecord) -> str:
    """Outcome or reason; the field, where the page names it."""
    named = record.reason in ("field_invalid", "original_mismatch")
    return f"{record.reason or record.outcome}{' ' + record.detail.get('field', '') if named else ''}"
