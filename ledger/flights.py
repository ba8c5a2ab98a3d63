"""What is in flight between partitions: its row in `ledger.state`, its transit accounts, what is sent and noted.

`ledger.crossing` has the protocol that these are the parts of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from ledger.accounts import Account
from ledger.money import EXPONENTS
from ledger.plans import Leg
from ledger.posting import set_aside
from ledger.reasons import Rejection
from ledger.rules import TRANSIT
from ledger.state import Draft, Head
from schemas.identity import BANK
from schemas.records import (
    Crossing,
    CrossingState,
    JournalRecord,
    OpenedAccount,
    PendingLeg,
    PostedLeg,
    Posting,
)

_NOTHING: dict[str, str] = {}


class StandingOf(Protocol):
    """What is asked of the partners."""

    def against(self, partner_id: str, what: str) -> tuple[str, str] | None: ...
    def frozen_by(self, partner_id: str) -> str: ...


class Host(Protocol):
    """What is asked of the Book."""

    draft: Draft
    head: Head
    partition: int
    partitions: int
    outbox: list[Crossing]

    @property
    def standing(self) -> StandingOf: ...
    def booked_on(self, value_date: int) -> tuple[int, str]:
        """The value date to book under, and when it was moved the ISO date that was asked for."""


class Place(NamedTuple):
    """The command that is being settled: its id, digest, source offset, append time, and what lapsed before it."""

    command_id: bytes
    digest: bytes
    offset: int
    booked_at: int
    lapsed: tuple[PendingLeg, ...]


def row_key(home: int, transaction_id: bytes) -> str:
    """The key in `ledger.state` of a transaction in flight. The bank may use one key in several partitions."""
    return f"x:{home}:{transaction_id.hex()}"


def open_here(draft: Draft, home: int, transaction_id: bytes) -> CrossingState | None:
    """The transaction in flight, if it is open in this partition."""
    row = draft.row(row_key(home, transaction_id))
    return row if isinstance(row, CrossingState) else None


def transit(draft: Draft, currency: str, offset: int, opened: list[Account]) -> Account:
    """The transit account of a currency, opened on first use."""
    account_id = TRANSIT + currency
    found = draft.accounts.find(account_id)
    if found is None:
        found = draft.accounts[account_id] = Account.new(account_id, "asset", currency, None, offset)
        opened.append(found)
    return found


def aside(transaction_id: bytes, legs: Iterable[Leg], offset: int, sign: int = 1) -> list[PendingLeg]:
    """Sets legs aside; with -1 for `sign` releases them."""
    return [set_aside(transaction_id, a, side, sign * amount, offset) for a, side, amount in legs]


def as_postings(legs: Sequence[Leg]) -> tuple[Posting, ...]:
    return tuple(Posting(a.account_id, side, amount, a.currency) for a, side, amount in legs)


def as_legs(draft: Draft, postings: Sequence[Posting]) -> list[Leg]:
    return [(draft.accounts[p.account_id], p.side, p.amount) for p in postings]


def _key(step: str, transaction_id: bytes, here: int, there: int, offset: int) -> str:
    """The idempotency key of a step. With the offset that caused it no key is ever met again, however late."""
    return f"{step}/{transaction_id.hex()}/{here}/{there}/{offset}"


def send(
    book: Host, of: CrossingState | Crossing, step: str, to: int, offset: int, legs: tuple[Posting, ...] = (),
    why: Rejection | None = None,
) -> None:  # fmt: skip
    """A step for another partition: a reserve or a decision from home, or an answer to it."""
    command = Crossing(
        BANK, _key(step, of.transaction_id, book.partition, to, offset), step, of.transaction_id, book.partition, to,
        of.asker, of.asker_key, of.product, of.product_version, of.operation, of.value_date, of.reference,
        of.metadata, legs, str(why.reason) if why else "", why.detail if why else {},
    )  # fmt: skip
    book.outbox.append(command)


def record(
    book: Host, c: Crossing, at: Place, outcome: str, *, reason: str = "", detail: dict[str, str] = _NOTHING,
    first_offset: int = -1, pending: Sequence[PendingLeg] = (), postings: tuple[PostedLeg, ...] = (),
    opened: Sequence[Account] = (), value_date: int | None = None, late_for: str = "",
) -> JournalRecord:  # fmt: skip
    """The journal record of a step."""
    changes = {"step": c.step, "transaction": c.transaction_id.hex(), "key": c.asker_key}
    if late_for:
        changes["late_for"] = late_for
    return JournalRecord(
        at.command_id, at.digest, first_offset < 0, outcome, book.head.sequence + 1, book.partition, at.offset,
        at.booked_at, "Crossing", c.partner_id, c.idempotency_key, c.product, c.product_version, c.operation,
        c.value_date if value_date is None else value_date, c.reference, c.metadata, str(reason), detail, first_offset,
        c.asker, changes, postings, (*at.lapsed, *pending), -1, opened_records(opened),
    )  # fmt: skip


def opened_records(accounts: Iterable[Account]) -> tuple[OpenedAccount, ...]:
    """Accounts opened on first use, as the journal has them."""
    return tuple(OpenedAccount(a.account_id, a.type, a.currency, a.min_available, a.credit_limit) for a in accounts)


def under_way(accounts: Mapping[str, Account]) -> dict[str, tuple[int, int]]:
    """What stands on a partition's transit accounts, by currency, in minor units: what was set aside here for other
    partitions and is not decided, and what has left for them. What has come from them counts against that, so over all
    partitions it is what is decided and has not come in."""
    out = {}
    for currency in EXPONENTS:
        a = accounts.get(TRANSIT + currency)
        if a is not None and (a.credits_pending or a.credits_posted != a.debits_posted):
            out[currency] = a.credits_pending, a.credits_posted - a.debits_posted
    return out
