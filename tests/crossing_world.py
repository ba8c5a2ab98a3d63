"""A ledger of several partitions without a broker: one log for each, settled by the real Books, written all or nothing.

What is kept is what Kafka would keep: the logs, the rows of `ledger.state` and the journals, as bytes. A partition is
settled either by a worker that goes on (`warm`) or by one that has just recovered from these bytes (`cold`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ledger.book import Book
from ledger.invariants import check_accounts, check_records
from ledger.keys import KeyIndex
from ledger.state import Draft, PartitionBase
from schemas.identity import command_id, partition_of, payload_digest, tree_of
from schemas.records import (
    AccountState,
    AdmitPartner,
    Crossing,
    JournalRecord,
    OpenAccount,
    Transaction,
)
from tests.ledger_world import BOOKED_AT, CODEC, DAY, WINDOW_MS, bind, names_a_field_of, take_over

TRANSIT = "bank:crossing:"


@dataclass
class Side:
    """One partition. `rows` by key, `journal` and `log` as bytes; `next`: the first command that is not settled."""

    rows: dict[str, bytes] = field(default_factory=dict)
    journal: list[bytes] = field(default_factory=list)
    log: list[bytes] = field(default_factory=list)
    next: int = 0
    base: PartitionBase = field(default_factory=lambda: PartitionBase(WINDOW_MS))
    index: KeyIndex = field(default_factory=lambda: KeyIndex(WINDOW_MS))

    def cold(self) -> Side:
        """What a worker has that takes the partition over."""
        new = Side(dict(self.rows), list(self.journal), list(self.log), self.next)
        take_over(new.base, new.index, self.rows, self.journal)
        return new


class Between:
    """Partitions whose logs feed each other. Commands are appended by `submit` and settled by `deliver`."""

    def __init__(self, partitions: int = 2) -> None:
        self.sides = [Side() for _ in range(partitions)]
        self.waited = 0

    def fork(self) -> Between:
        """The same bytes in other hands: nothing done to it is seen here. Partitions come back cold when needed."""
        new = copy(self)
        new.sides = list(self.sides)
        return new

    def place(self, partner_id: str) -> int:
        return partition_of(partner_id, len(self.sides))

    def submit(self, *commands: Any, at: int | None = None) -> None:
        """Appends commands to the logs of their trees; `at`: to this partition's."""
        for c in commands:
            self.sides[self.place(tree_of(c)) if at is None else at].log.append(CODEC.encode(c))

    def waiting(self, p: int) -> list[Any]:
        """The commands of a partition that are not settled."""
        side = self.sides[p]
        return [CODEC.decode(raw) for raw in side.log[side.next :]]

    def draft(self, p: int, count: int = 1) -> tuple[Draft, list[JournalRecord], list[Crossing]]:
        """Settles the next commands of a partition into a draft, as a worker does it with one batch."""
        side = self.sides[p]
        draft = Draft(side.base)
        batch = [CODEC.decode(raw) for raw in side.log[side.next : side.next + count]]
        times = [BOOKED_AT + self.waited + side.next + n for n in range(len(batch))]
        ids = [command_id(c.partner_id, c.idempotency_key) for c in batch]
        named = [command_id(c.partner_id, c.original) for c in batch if isinstance(c, Transaction) and c.original]
        draft.keys.update(side.index.find([*ids, *named], max([draft.head.event_time, *times])))
        book = Book(p, draft, len(self.sides))
        records = []
        for n, (c, i, at) in enumerate(zip(batch, ids, times, strict=True)):
            record = book.settle(c, i, payload_digest(c), side.next + n, at)
            names_a_field_of(c, record)
            assert record.sequence == book.head.sequence
            records.append(msgspec.structs.replace(record, chain=book.seal(CODEC.journal_body(record))))
        check_records(records)
        check_accounts(draft)
        return draft, records, book.outbox

    def commit(self, p: int, draft: Draft, records: list[JournalRecord], sent: list[Crossing]) -> None:
        """The end of the Kafka transaction: journal, state, place in the log, and what went to other partitions."""
        side = self.sides[p]
        for a in draft.changed_accounts():
            side.rows[f"a:{a.account_id}"] = CODEC.encode(a.state())
        for partner in draft.changed_partners():
            side.rows[f"p:{partner.partner_id}"] = CODEC.encode(partner.record())
        for h in draft.changed_holds():
            self._put(side, f"h:{h.name}", CODEC.encode(h.state()) if h.remaining else None)
        for key, row in draft.rows.items():
            self._put(side, key, CODEC.encode(row) if row is not None else None)
        side.rows["meta"] = CODEC.encode(draft.head.record())
        side.journal += [CODEC.encode(r) for r in records]
        side.next = draft.head.next_offset
        draft.merge()
        bind(side.index, records)
        self.send(sent)

    @staticmethod
    def _put(side: Side, key: str, value: bytes | None) -> None:
        if value is None:
            side.rows.pop(key, None)
        else:
            side.rows[key] = value

    def send(self, sent: Iterable[Crossing]) -> None:
        for c in sent:
            self.sides[c.to_partition].log.append(CODEC.encode(c))

    def deliver(self, p: int, count: int = 1) -> list[JournalRecord]:
        """Settles and commits the next commands of one partition, as one batch."""
        draft, records, sent = self.draft(p, count)
        self.commit(p, draft, records, sent)
        return records

    def run(self) -> list[JournalRecord]:
        """Settles until nothing waits, the lowest partition first; all outcomes in this order."""
        out: list[JournalRecord] = []
        while (p := next((p for p in range(len(self.sides)) if self.waiting(p)), None)) is not None:
            out += self.deliver(p)
        return out

    # ---- what is looked at ---------------------------------------------------------------------------------------

    def records(self, p: int) -> list[JournalRecord]:
        return [CODEC.decode(raw) for raw in self.sides[p].journal]

    def accounts(self) -> dict[tuple[int, str], AccountState]:
        """Every account by partition and id, as `ledger.state` has it."""
        found = ((p, CODEC.decode(v)) for p, s in enumerate(self.sides) for k, v in s.rows.items() if k[:2] == "a:")
        return {(p, a.account_id): a for p, a in found}

    def shown(self, account_id: str, at: int | None = None) -> str:
        """A balance as the grids write it: `1000` when nothing is pending, `1000-100`, `0+100`, `1000-100+50`."""
        rows = self.sides[self.place(account_id.split(":")[0]) if at is None else at].rows
        if f"a:{account_id}" not in rows:
            return "-"
        a: AccountState = CODEC.decode(rows[f"a:{account_id}"])
        out, into = (a.debits_pending, a.credits_pending)
        posted = a.credits_posted - a.debits_posted
        if a.type in ("asset", "expense"):
            posted, out, into = -posted, into, out
        return f"{posted}" + (f"-{out}" if out else "") + (f"+{into}" if into else "")

    def in_flight(self) -> list[str]:
        """The keys of what is open between partitions, of all partitions."""
        return [f"{p} {k}" for p, s in enumerate(self.sides) for k in sorted(s.rows) if k.startswith("x:")]

    def totals(self) -> Mapping[str, int]:
        """Over all partitions: posted and pending debits less credits, by currency; and what stands on transit."""
        out: dict[str, int] = {}
        for a in self.accounts().values():
            for name, net in (
                ("posted", a.debits_posted - a.credits_posted), ("pending", a.debits_pending - a.credits_pending),
            ):  # fmt: skip
                out[f"{name} {a.currency}"] = out.get(f"{name} {a.currency}", 0) + net
                if a.account_id.startswith(TRANSIT):
                    out[f"transit {name} {a.currency}"] = out.get(f"transit {name} {a.currency}", 0) + net
        return out


def pay(key: str, amount: int, payer: str, payee: str, **other: Any) -> Transaction:
    """A transfer asked by the payer's partner."""
    fields: dict[str, Any] = {"partner_id": payer.split(":")[0], "currency": "CNY", "value_date": DAY} | other
    return Transaction(
        idempotency_key=key, product="wallet", operation="transfer", amount=amount,
        accounts={"payer": payer, "payee": payee}, postings=(), **fields,
    )  # fmt: skip


def bank(partners: Iterable[str], partitions: int = 2, funds: int = 1_000) -> Between:
    """Each partner with wallets `w:a` and `w:b`, both with `funds` minor units of CNY, and the bank's clearing."""
    world = Between(partitions)
    for p in range(partitions):
        world.submit(OpenAccount("bank", f"clearing-{p}", "bank:clearing:CNY", "asset", "CNY"), at=p)
    for name in partners:
        world.submit(AdmitPartner("bank", f"admit-{name}", name))
        for local in ("w:a", "w:b"):
            account = f"{name}:{local}"
            world.submit(OpenAccount("bank", f"open-{account}", account, "liability", "CNY", 0))
            if funds:
                world.submit(pay(f"fund-{account}", funds, "bank:clearing:CNY", account))
    assert {r.outcome for r in world.run()} <= {"applied", "settled"}
    return world
