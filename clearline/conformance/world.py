"""A partition in memory with three partners, on which a case is tried: the ledger itself, without Kafka."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from clearline.conformance.calculator import Account
from ledger.book import Book
from ledger.money import AMOUNT_MAX
from ledger.state import Draft, PartitionBase
from schemas.errors import BadInputError
from schemas.identity import BANK, command_id, payload_digest
from schemas.records import (
    AdmitPartner,
    Command,
    JournalRecord,
    OpenAccount,
    Posting,
    PublishProduct,
    Record,
    Transaction,
)

DAY = 20_779  # 2026-11-22, a Sunday; days since 1970-01-01
START_MS = DAY * 86_400_000 + 9 * 3_600_000
ASKER, BELOW, OTHER = "acme", "acme/shop", "zeta"
FUNDS = "bank:funds"  # where the money comes from with which accounts are filled, by currency


class World:
    """One partition. A command's append time is a millisecond after the one before."""

    def __init__(self) -> None:
        self._draft = Draft(PartitionBase())
        self._book = Book(0, self._draft)
        self._number = 0
        self._waited_ms = 0
        for partner in (ASKER, BELOW, OTHER):
            self.must(AdmitPartner(BANK, self.key(), partner, partner))

    def key(self) -> str:
        """A new idempotency key."""
        self._number += 1
        return f"case-{self._number}"

    def settle(self, command: Command) -> JournalRecord:
        """What becomes of a command."""
        offset = self._draft.head.next_offset
        cid = command_id(command.partner_id, command.idempotency_key)
        return self._book.settle(command, cid, payload_digest(command), offset, START_MS + self._waited_ms + offset)

    def wait(self, ms: int) -> None:
        """What is settled from here on is appended so many milliseconds later."""
        self._waited_ms += ms

    def must(self, *commands: Command) -> None:
        """Commands that make the ground of a case. Raises BadInputError when one of them is refused."""
        for command in commands:
            record = self.settle(command)
            if record.outcome not in ("settled", "applied"):
                raise BadInputError(
                    f"{type(command).__name__} that prepares a case was rejected: {record.reason} {record.detail}"
                )

    def publish(self, product: str, version: int, text: str, effective_from: int = 0) -> None:
        """Puts a document on the shelf."""
        self.must(PublishProduct(BANK, self.key(), product, version, effective_from, text))

    def open(self, accounts: Iterable[Account]) -> None:
        """Opens accounts and fills them with what they hold. Those that the transaction opens are left to it."""
        for a in accounts:
            if a.opens:
                continue
            limits = {"min_available": a.least, "credit_limit": a.credit_limit}
            self.must(OpenAccount(BANK, self.key(), a.account_id, a.type, a.currency, **limits))  # type: ignore[arg-type]
            if a.available:
                self._fill(a)

    def _fill(self, a: Account) -> None:
        funds = f"{FUNDS}:{a.currency}"
        if self._draft.accounts.find(funds) is None:
            self.must(OpenAccount(BANK, self.key(), funds, "equity", a.currency, None))
        side = "debit" if a.debit_normal == (a.available > 0) else "credit"
        other = "credit" if side == "debit" else "debit"
        left, why = abs(a.available), "the ground of a case"
        while left:  # an account may hold more than one posting can bring
            amount = min(left, AMOUNT_MAX)
            legs = (Posting(a.account_id, side, amount), Posting(funds, other, amount))
            self.must(Transaction(BANK, self.key(), "wallet", "adjustment", 0, a.currency, {}, legs, DAY, note=why))
            left -= amount

    def use(self, rows: Mapping[str, Record]) -> None:
        """Puts rows of the state, such as what was used of a limit."""
        for key, row in rows.items():
            self._draft.put_row(key, row)

    def available(self, account_id: str) -> int | None:
        """What is available on an account, minor units; None when there is no such account."""
        a = self._draft.accounts.find(account_id)
        return None if a is None else a.available()

    def account(self, account_id: str) -> Any:
        """The ledger's account, or None."""
        return self._draft.accounts.find(account_id)
