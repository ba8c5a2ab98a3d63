"""Journals made directly from the schemas: balanced entries with their counters, refusals, repeats, control records.

No ledger is involved, so what the sinks must store is known from here alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import NamedTuple

from schemas.codec import Codec
from schemas.identity import command_id, partition_of
from schemas.records import RECORDS, AccountState, JournalRecord, OpenedAccount, PartitionState, PendingLeg, PostedLeg

DAY_MS = 86_400_000
START_MS = 20_777 * DAY_MS + 11 * 3_600_000
CURRENCIES = ("CNY", "USD", "JPY")


@cache
def local_codec() -> Codec:
    """A codec with made-up schema ids, for tests without a registry."""
    return Codec({name: 100 + i for i, name in enumerate(RECORDS)})


class Line(NamedTuple):
    """One record of the journal topic."""

    partition: int
    offset: int
    value: bytes
    record: JournalRecord


@dataclass
class Maker:
    """Makes journals from a seed. `step_ms`: time between commands; `gap`: every so many records an offset is left out,
    as a transaction marker does."""

    seed: int
    partitions: int = 3
    start_ms: int = START_MS
    step_ms: int = 40
    gap: int = 7
    wide_every: int = 97
    amount_max: int = 5_000_00
    accounts: dict[tuple[int, str], AccountState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._dice = random.Random(f"pending {self.seed}")  # of its own: the rest of a journal is as it always was
        self._holds: dict[int, list[tuple[bytes, str, str, str, int]]] = {}
        self._codec = local_codec()
        self._heads = {p: PartitionState(0, 0, bytes(32), 0, 0, 0, 0, 0, 0, 0) for p in range(self.partitions)}
        self._offsets = dict.fromkeys(range(self.partitions), 0)
        self._now = self.start_ms
        self._count = 0

    @property
    def heads(self) -> dict[int, PartitionState]:
        return dict(self._heads)

    def lines(self, count: int, codec: Codec | None = None) -> list[Line]:
        """The next `count` records, accounts opened first."""
        codec = codec or self._codec
        source = self._records()
        return [self._line(codec, *next(source)) for _ in range(count)]

    def _line(self, codec: Codec, partition: int, record: JournalRecord) -> Line:
        body = codec.journal_body(record)
        head = self._heads[partition]
        chain = sha256(head.chain + body).digest()
        self._heads[partition] = PartitionState(
            record.source_offset + 1, record.sequence, chain, record.booked_at, head.received + 1,
            head.settled + (record.outcome == "settled"), head.rejected + (record.outcome == "rejected"),
            head.repeated + (record.outcome == "repeated"), head.applied + (record.outcome == "applied"), 0,
        )  # fmt: skip
        offset = self._offsets[partition]
        self._offsets[partition] += 2 if self.gap and offset % self.gap == self.gap - 1 else 1
        return Line(partition, offset, codec.journal_header + body + chain, record)

    def _records(self) -> Iterator[tuple[int, JournalRecord]]:
        if not self.accounts:
            yield from self._openings()
        while True:
            self._count += 1
            kind = self._random.random()
            partner = self._random.choice(self.partners)
            p = partition_of(partner, self.partitions)
            if kind < 0.05:
                detail = {"needed": "12", "账": "a"}
                yield p, self._record(p, partner, "rejected", reason="insufficient_funds", detail=detail)
            elif kind < 0.08:
                yield p, self._record(p, partner, "repeated", first_offset=max(0, self._heads[p].next_offset - 5))
            elif kind < 0.10:
                account = self._random.choice(self._of(p, partner))
                changes = {"min_available": str(self._random.randrange(10)), "note": "as agreed, 'quoted'"}
                yield (
                    p,
                    self._record(
                        p, "bank", "applied", command="SetAccountLimit", subject_id=account.account_id, changes=changes
                    ),
                )
            elif kind < 0.16:
                yield p, self._crossing(p, partner, kind)
            else:
                late = {"late_for": "2026-11-20"} if kind > 0.98 else None
                yield p, self._record(p, partner, "settled", postings=self._entry(p, partner), changes=late)

    @property
    def partners(self) -> list[str]:
        return [f"p{i}" if i % 3 else f"p{i}/shop-{i}" + "/till" * (i > 3) for i in range(9)]

    def _openings(self) -> Iterator[tuple[int, JournalRecord]]:
        for partner in self.partners:
            p = partition_of(partner, self.partitions)
            for currency in CURRENCIES:
                for name in ("a", "b", "c"):
                    yield p, self._open(p, f"{partner}:wallet:{name}-{currency.lower()}", "liability", currency)
        for p in range(self.partitions):
            for currency in CURRENCIES:
                yield p, self._open(p, f"bank:clearing:{currency}", "asset", currency)

    def _open(self, p: int, account_id: str, kind: str, currency: str) -> JournalRecord:
        changes = {"type": kind, "currency": currency, "min_available": ""}
        record = self._record(p, "bank", "applied", command="OpenAccount", subject_id=account_id, changes=changes)
        self.accounts[p, account_id] = AccountState(
            account_id, kind, currency, None, False, False, False, 0, 0, 0, 0, record.source_offset
        )
        return record

    def _crossing(self, p: int, partner: str, kind: float) -> JournalRecord:
        """What a transaction between partitions leaves behind, in either of them."""
        if kind < 0.12:
            changes = {"crossing": "1,2"}
            return self._record(p, partner, "applied", changes=changes, opened=self._open_on_use(p, partner, kind))
        if kind < 0.13:  # the last word on one that began 5 commands ago
            return self._record(p, partner, "settled", first_offset=max(0, self._heads[p].next_offset - 5),
                                postings=self._entry(p, partner))  # fmt: skip
        step = {"step": "commit" if kind < 0.15 else "reserved", "transaction": "00" * 16, "key": "o-1"}
        legs = self._entry(p, partner) if kind < 0.15 else ()
        opened = self._open_on_use(p, partner, kind)
        return self._record(
            p, "bank", "applied", command="Crossing", subject_id=partner, changes=step, postings=legs, opened=opened
        )

    def _open_on_use(self, p: int, partner: str, kind: float) -> tuple[OpenedAccount, ...]:
        """None, or two accounts that nobody opened by a command."""
        if int(kind * 10_000) % 3:
            return ()
        terms = ("liability", 0, 5), ("asset", None, 0)
        return tuple(
            OpenedAccount(f"{partner}:used:{self._count}-{name}", kind_, "CNY", limit, credit)
            for name, (kind_, limit, credit) in zip("ba", terms, strict=True)
        )

    def _of(self, p: int, partner: str, currency: str = "") -> list[AccountState]:
        return [
            a
            for (q, name), a in self.accounts.items()
            if q == p and name.startswith(partner + ":") and currency in ("", a.currency)
        ]

    def _entry(self, p: int, partner: str) -> tuple[PostedLeg, ...]:
        """A balanced entry: between two wallets, with clearing, or with many legs."""
        currency = self._random.choice(CURRENCIES)
        own = [a.account_id for a in self._of(p, partner, currency)]
        payer, payee = self._random.sample([*own, f"bank:clearing:{currency}"], 2)
        amount = self._random.randrange(1, self.amount_max)
        legs = [(payer, "debit", amount), (payee, "credit", amount)]
        if self._count % self.wide_every == 0:
            parts = [self._random.randrange(1, self.amount_max) for _ in range(40)]
            legs = [(payer, "debit", sum(parts)), *((self._random.choice(own), "credit", x) for x in parts)]
        return tuple(self._post(p, *leg) for leg in legs)

    def _post(self, p: int, account_id: str, side: str, amount: int) -> PostedLeg:
        a = self.accounts[p, account_id]
        debits = a.debits_posted + (amount if side == "debit" else 0)
        credits_ = a.credits_posted + (amount if side == "credit" else 0)
        self.accounts[p, account_id] = AccountState(
            a.account_id, a.type, a.currency, a.min_available, False, False, False, 0, debits, 0, credits_,
            self._heads[p].next_offset,
        )  # fmt: skip
        return PostedLeg(account_id, side, amount, a.currency, 0, debits, 0, credits_)

    def _set_aside(self, p: int, partner: str, key: str, changes: dict[str, str]) -> tuple[PendingLeg, ...]:
        """A hold that opens, up to 30 that are released or lapse, or mostly nothing."""
        kind, held = self._dice.random(), self._holds.setdefault(p, [])
        accounts = self._of(p, partner, "CNY")
        if kind < 0.10 and len(accounts) > 1:
            payer, payee = (a.account_id for a in self._dice.sample(accounts, 2))
            opened = command_id(partner, key), payer, payee, "CNY", self._dice.randrange(1, self.amount_max)
            held.append(opened)
            if kind < 0.05:
                changes["expires_at"] = str(self._now + 60_000)
            return self._aside(opened, opened[-1], False)
        if kind < 0.15 and held:
            several = 30 if kind < 0.11 else 1
            gone, self._holds[p] = held[:several], held[several:]
            return tuple(leg for hold in gone for leg in self._aside(hold, -hold[-1], kind < 0.12))
        return ()

    def _aside(
        self, hold: tuple[bytes, str, str, str, int], change: int, expired: bool
    ) -> tuple[PendingLeg, PendingLeg]:
        hold_id, payer, payee, currency, _ = hold
        return (
            PendingLeg(hold_id, payer, "debit", change, currency, expired, max(0, change), 0, 0, 0),
            PendingLeg(hold_id, payee, "credit", change, currency, expired, 0, 0, max(0, change), 0),
        )

    def _record(
        self, p: int, partner: str, outcome: str, *, command: str = "Transaction", reason: str = "",
        detail: dict[str, str] | None = None, first_offset: int = -1, subject_id: str = "",
        changes: dict[str, str] | None = None, postings: tuple[PostedLeg, ...] = (),
        opened: tuple[OpenedAccount, ...] = (),
    ) -> JournalRecord:  # fmt: skip
        self._count += command != "Transaction"
        self._now += self._random.randrange(self.step_ms)
        key = f"o-{self._count}"
        transaction = command == "Transaction"
        head = self._heads[p]
        changes = dict(changes or {})
        pending = self._set_aside(p, partner, key, changes) if transaction else ()
        return JournalRecord(
            command_id(partner, key), sha256(key.encode()).digest()[:8], first_offset < 0, outcome,
            head.sequence + 1, p, head.next_offset, self._now, command, partner, key,
            self._random.choice(("wallet", "scan-to-pay")) if transaction else "", 0,
            "transfer" if transaction else "", self._now // DAY_MS - self._random.choice((0, 0, 0, 1)),
            f"order {self._count} £" if transaction else "", {"shop": "17"} if self._random.random() < 0.3 else {},
            reason, detail or {}, first_offset, subject_id, changes, postings, pending, opened=opened,
        )  # fmt: skip
