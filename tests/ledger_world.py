"""A partition to try commands on: base state, drafts, the memory of keys, and the bytes of all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ledger.book import Book
from ledger.keys import KeyIndex
from ledger.state import Draft, PartitionBase
from schemas.codec import Codec
from schemas.identity import command_id, payload_digest
from schemas.records import (
    RECORDS,
    AdmitPartner,
    JournalRecord,
    OpenAccount,
    Posting,
    Record,
    Transaction,
)

CODEC = Codec({name: i for i, name in enumerate(RECORDS, 1)})
BOOKED_AT = 1_795_338_000_000  # 2026-11-22 09:00 UTC
DAY = 20_779
WINDOW_MS = 7 * 86_400_000


class Ledger:
    """One partition, settled batch by batch as a worker does it, without a worker."""

    def __init__(self, partition: int = 3) -> None:
        self.partition = partition
        self.base = PartitionBase()
        self.index = KeyIndex(WINDOW_MS)
        self.offset = 0
        self.journal: list[bytes] = []

    def draft(self, commands: Sequence[Any], under: tuple[Draft, ...] = ()) -> tuple[Draft, list[JournalRecord]]:
        """Settles a batch into a draft. Nothing is changed but the draft."""
        draft = Draft(self.base, under)
        ids = [command_id(c.partner_id, c.idempotency_key) for c in commands]
        draft.keys.update(self.index.find(ids, BOOKED_AT))
        for lower in reversed(under):
            draft.keys.update({i: lower.keys[i] for i in ids if i in lower.keys})
        book, start = Book(self.partition, draft), max(self.offset, draft.head.next_offset)
        out = []
        for n, (c, i) in enumerate(zip(commands, ids, strict=True)):
            record = book.settle(c, i, payload_digest(c), start + n, BOOKED_AT + start + n)
            out.append(msgspec.structs.replace(record, chain=book.seal(CODEC.journal_body(record))))
        return draft, out

    def commit(self, draft: Draft, records: Sequence[JournalRecord]) -> None:
        """What happens after the Kafka transaction was committed."""
        draft.merge()
        bound = [r for r in records if r.binds_key]
        self.index.add(
            [r.command_id for r in bound], [r.payload_digest for r in bound], [r.source_offset for r in bound],
            [r.booked_at for r in bound],
        )  # fmt: skip
        self.offset = draft.head.next_offset
        self.journal += [CODEC.encode(r) for r in records]

    def settle(self, *commands: Any) -> list[JournalRecord]:
        """Settles and commits one batch."""
        draft, records = self.draft(commands)
        self.commit(draft, records)
        return records

    def one(self, command: Any) -> JournalRecord:
        return self.settle(command)[0]

    def snapshot(self, draft: Draft | None = None) -> bytes:
        """The bytes of every account and partner, as `ledger.state` would hold them."""
        accounts, partners = dict(self.base.accounts), dict(self.base.partners)
        if draft is not None:
            accounts.update(draft.accounts)
            partners.update(draft.partners)
        records: list[Record] = [accounts[k].state() for k in sorted(accounts)]
        records += [partners[k].record() for k in sorted(partners)]
        return b"".join(CODEC.encode(r) for r in records)


_KEYS = iter(range(10**9))


def key() -> str:
    return f"k{next(_KEYS)}"


def admit(subject: str) -> AdmitPartner:
    return AdmitPartner("bank", key(), subject, subject.title())


def account(account_id: str, type: str = "liability", currency: str = "CNY", limit: int | None = 0) -> OpenAccount:
    return OpenAccount("bank", key(), account_id, type, currency, limit)


def pay(partner: str, payer: str, payee: str, amount: int, currency: str = "CNY", **other: Any) -> Transaction:
    fields: dict[str, Any] = {"idempotency_key": key(), "product": "wallet", "operation": "transfer", "value_date": DAY}
    fields |= {"accounts": {"payer": payer, "payee": payee}, "postings": (), "amount": amount, "currency": currency}
    return Transaction(partner, **(fields | other))


def entry(partner: str, *legs: tuple[Any, ...], currency: str = "CNY", **other: Any) -> Transaction:
    """A transaction of postings: (account, side, amount[, currency])."""
    fields: dict[str, Any] = {"accounts": {}, "postings": tuple(Posting(*leg) for leg in legs)} | other
    return pay(partner, "", "", fields.pop("amount", 0), currency, **fields)


def small_bank() -> Ledger:
    """Partners acme, acme/shop and zeta; wallets with 1,000.00 each; the bank's clearing without limit."""
    ledger = Ledger()
    funded = ("acme:w:alice", "acme:w:bob", "acme/shop:w:till")
    commands: list[Any] = [
        *(admit(p) for p in ("acme", "acme/shop", "acme/shop/till", "zeta")),
        account("bank:clearing:CNY", "asset", limit=None), account("bank:clearing:JPY", "asset", "JPY", None),
        account("acme:w:alice"), account("acme:w:bob"), account("acme:w:yen", currency="JPY"),
        account("acme:cash", "asset"), account("acme/shop:w:till"), account("acme:w:empty"), account("zeta:w:zoe"),
        *(pay("acme", "bank:clearing:CNY", name, 100_000) for name in funded),
        pay("acme", "bank:clearing:JPY", "acme:w:yen", 500, "JPY"), pay("zeta", "bank:clearing:CNY", "zeta:w:zoe", 7),
    ]  # fmt: skip
    ledger.settle(*(msgspec.structs.replace(c, idempotency_key=f"bank-{i}") for i, c in enumerate(commands)))
    assert ledger.base.head.rejected == 0
    return ledger
