"""A partition to try commands on: base state, drafts, the memory of keys, and the bytes of all of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
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
    Crossing,
    JournalRecord,
    OpenAccount,
    Posting,
    Transaction,
)

CODEC = Codec({name: i for i, name in enumerate(RECORDS, 1)})
BOOKED_AT = 1_795_338_000_000  # 2026-11-22 09:00 UTC
DAY = 20_779
WINDOW_MS = 7 * 86_400_000
LONG_MS = 400 * 86_400_000  # so long that nothing is forgotten while the clock jumps over months


def bind(index: KeyIndex, records: Iterable[JournalRecord]) -> None:
    """Remembers the keys that these records bind."""
    bound = [r for r in records if r.binds_key]
    ids, digests = [r.command_id for r in bound], [r.payload_digest for r in bound]
    index.add(ids, digests, [r.source_offset for r in bound], [r.booked_at for r in bound])


def take_over(base: PartitionBase, index: KeyIndex, rows: Mapping[str, bytes], journal: Iterable[bytes]) -> None:
    """Fills what a worker has of a partition from what was written: rows of the state by key, and the journal."""
    from streams.recovery import Recollection  # what a worker does with each record that it reads back

    for key, value in rows.items():
        base.restore(key, CODEC.decode(value))
    since = index.oldest_ms(base.head.event_time)
    window = [r for r in map(CODEC.decode, journal) if r.booked_at >= since]
    recollection = Recollection(base.entries)
    for r in window:
        recollection.take(r)
    recollection.done()
    bind(index, window)


def names_a_field_of(command: Any, record: JournalRecord) -> None:
    """Whoever is refused is told a field that the command has, except of a frozen world and of money that is not there.
    A step between partitions may tell what another partition said: only a reserve speaks for itself."""
    field = record.detail.get("field", "")
    if record.outcome != "rejected" or (not field and record.reason in ("world_frozen", "insufficient_funds")):
        return
    known = set(command.__struct_fields__)
    if isinstance(command, Crossing):
        if command.step != "reserve":
            return
        known |= set(Transaction.__struct_fields__)
    found = re.fullmatch(r"([a-z_]+)(\[\d+\]|\[[^\]]*\])*(\.[a-z_0-9]+(\[[^\]]*\])*)*", field)
    assert found is not None and found[1] in known, (type(command).__name__, record.reason, field)


class Ledger:
    """One partition, settled batch by batch as a worker does it, without a worker.

    A command's append time is its offset in milliseconds after BOOKED_AT, and what `wait` added.
    """

    def __init__(self, partition: int = 3, partitions: int = 1, window_ms: int = WINDOW_MS) -> None:
        self.partition, self.partitions, self.window_ms = partition, partitions, window_ms
        self.base = PartitionBase(window_ms)
        self.index = KeyIndex(window_ms)
        self.outbox: list[Crossing] = []  # of the batch that was settled last
        self.offset = 0
        self.waited = 0
        self.journal: list[bytes] = []

    def wait(self, ms: int) -> None:
        """What is settled from here on is appended so much later."""
        self.waited += ms

    def draft(
        self, commands: Sequence[Any], under: tuple[Draft, ...] = (), times: Sequence[int] = ()
    ) -> tuple[Draft, list[JournalRecord]]:
        """Settles a batch into a draft. Nothing is changed but the draft. `times`: append times, if not the usual."""
        draft = Draft(self.base, under)
        start = max(self.offset, draft.head.next_offset)
        times = times or [BOOKED_AT + self.waited + start + n for n in range(len(commands))]
        ids = [command_id(c.partner_id, c.idempotency_key) for c in commands]
        named = [command_id(c.partner_id, c.original) for c in commands if isinstance(c, Transaction) and c.original]
        draft.keys.update(self.index.find([*ids, *named], max(draft.head.event_time, *times)))
        for lower in reversed(under):
            draft.keys.update({i: lower.keys[i] for i in (*ids, *named) if i in lower.keys})
        book = Book(self.partition, draft, self.partitions)
        out = []
        for n, (c, i, at) in enumerate(zip(commands, ids, times, strict=True)):
            record = book.settle(c, i, payload_digest(c), start + n, at)
            names_a_field_of(c, record)
            assert record.sequence == book.head.sequence
            out.append(msgspec.structs.replace(record, chain=book.seal(CODEC.journal_body(record))))
        self.outbox = book.outbox
        return draft, out

    def commit(self, draft: Draft, records: Sequence[JournalRecord]) -> None:
        """What happens after the Kafka transaction was committed."""
        draft.merge()
        bind(self.index, records)
        self.index.forget(draft.head.event_time)
        self.offset = draft.head.next_offset
        self.journal += [CODEC.encode(r) for r in records]

    def settle(self, *commands: Any, times: Sequence[int] = ()) -> list[JournalRecord]:
        """Settles and commits one batch."""
        draft, records = self.draft(commands, (), times)
        self.commit(draft, records)
        return records

    def one(self, command: Any) -> JournalRecord:
        return self.settle(command)[0]

    def restarted(self) -> Ledger:
        """A ledger that knows what was written, and nothing else: the rows of the state, and the journal's last window."""
        new = Ledger(self.partition, self.partitions, self.window_ms)
        new.offset, new.waited, new.journal = self.offset, self.waited, list(self.journal)
        take_over(new.base, new.index, {**self.rows(), "meta": CODEC.encode(self.base.head.record())}, self.journal)
        return new

    def rows(self, draft: Draft | None = None) -> dict[str, bytes]:
        """The rows of `ledger.state` by key, without the partition's own; what a draft changed is in them."""
        accounts, partners, holds = dict(self.base.accounts), dict(self.base.partners), dict(self.base.holds)
        others: dict[str, Any] = dict(self.base.rows)
        for d in () if draft is None else (*reversed(draft.under), draft):
            others.update(d.rows)
            accounts.update(d.accounts)
            partners.update(d.partners)
            holds.update(d.holds)
        rows = {f"a:{k}": CODEC.encode(a.state()) for k, a in sorted(accounts.items())}
        rows |= {f"h:{k}": CODEC.encode(h.state()) for k, h in sorted(holds.items()) if h.remaining}
        rows |= {k: CODEC.encode(row) for k, row in sorted(others.items()) if row is not None}
        return rows | {f"p:{k}": CODEC.encode(p.record()) for k, p in sorted(partners.items())}

    def snapshot(self, draft: Draft | None = None) -> bytes:
        """The bytes of every account, open hold and partner, as `ledger.state` would hold them."""
        return b"".join(self.rows(draft).values())


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
