"""A ledger of several partitions whose topics are lists: settled by the settlement's own code, read by replays.

It writes what a worker writes (journal, state, dead letters, steps to other partitions), with a gap in the offsets where
a Kafka transaction's end marker would be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from clearline.product_file import parse_product
from clearline.replay.run import Eyes
from clearline.replay.shadow import Ground, Learn, Message
from ledger.keys import KeyIndex
from ledger.state import Draft, PartitionBase
from processors.settlement import Batch, Outlets, Part, Settlement, merge
from schemas.codec import Codec
from schemas.identity import route_of
from schemas.records import RECORDS, AdmitPartner, Command, JournalRecord, OpenAccount, PublishProduct, Transaction
from streams.reader import LogRecord

CODEC = Codec({name: i + 1 for i, name in enumerate(RECORDS)})
WINDOW_MS = 30 * 86_400_000
NOON = 1_795_000_000_000
DAY = NOON // 86_400_000
TOPICS = ("submitted", "journal", "state", "dead", "replies")


@dataclass
class MemoryWorld:
    """`kept_from`: commands before are gone, as after the retention of the topic."""

    partitions: int = 2
    batch: int = 7
    topics: dict[tuple[str, int], list[LogRecord]] = field(default_factory=dict)
    kept_from: dict[int, int] = field(default_factory=dict)
    now: int = NOON

    def __post_init__(self) -> None:
        self.topics = {(t, p): [] for t in TOPICS for p in range(self.partitions)}
        self._ends = dict.fromkeys(self.topics, 0)
        self._books = {p: (PartitionBase(WINDOW_MS), KeyIndex(WINDOW_MS)) for p in range(self.partitions)}
        self._settlement = Settlement(CODEC, Outlets(*TOPICS, self.partitions, 0), lambda ids: ids)
        self._count = 0

    # ---- the log as a replay reads it ------------------------------------------------------------------------------

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        first = self.kept_from.get(partition, 0) if topic == "submitted" else 0
        return first, self._ends[topic, partition]

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[LogRecord]:
        first, _ = self.span(topic, partition)
        return iter([r for r in self.topics[topic, partition] if max(start, first) <= r.offset < end])

    def spans(self, topic: str) -> dict[int, tuple[int, int]]:
        return {p: self.span(topic, p) for p in range(self.partitions)}

    def read_many(self, topic: str, ranges: Mapping[int, tuple[int, int]]) -> Iterator[LogRecord]:
        for p, (start, end) in ranges.items():
            yield from self.read(topic, p, start, end)

    def group_offset(self, partition: int) -> int:
        return self._books[partition][0].head.next_offset

    def eyes(self, codec: Codec = CODEC, learn: Learn = lambda ids: ids) -> Eyes:
        ground = Ground(codec, learn, self.partitions, WINDOW_MS, 262_144)
        return Eyes(self, codec.decode, ground)

    # ---- what writes it --------------------------------------------------------------------------------------------

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None, **more: Any) -> None:
        at = self._ends[topic, partition]
        self._ends[topic, partition] += 1
        time_ms = more.get("timestamp") or self.now
        self.topics[topic, partition].append(LogRecord(partition, at, time_ms, key, value, more.get("headers")))

    def mark(self, topic: str, partition: int) -> None:
        """The end marker of a Kafka transaction takes an offset."""
        self._ends[topic, partition] += 1

    def give(self, *commands: Command | bytes) -> None:
        """Appends commands and settles everything, with all that follows in other partitions."""
        for c in commands:
            self.now += 1
            if isinstance(c, bytes):
                self.append("submitted", 0, b"?", c)
                continue
            key, places = route_of(c, self.partitions)
            for p in places:
                self.append("submitted", p, key, CODEC.encode(c))
        while any([self._settle(p) for p in range(self.partitions)]):  # noqa: C419 - all of them, each round
            pass

    def _settle(self, p: int) -> bool:
        base, index = self._books[p]
        waiting = [r for r in self.topics["submitted", p] if r.offset >= base.head.next_offset][: self.batch]
        if not waiting:
            return False
        self.now += 1
        steps: set[int] = set()

        def produce(topic: str, value: Any, key: Any, partition: int, **more: Any) -> None:
            self.append(topic, partition, key, value, **more)
            if topic == "submitted":
                steps.add(partition)

        batch = Batch({p: Part([Message(r) for r in waiting], Draft(base), index)}, produce)
        self._settlement.settle(batch)
        merge(batch)
        self._count += 1
        for topic, place in [("journal", p), ("state", p), *(("submitted", q) for q in steps)]:
            self.mark(topic, place)
        return True

    def compact(self) -> None:
        """What Kafka's cleaner leaves of the state: the last record of each key."""
        for p in range(self.partitions):
            rows = self.topics["state", p]
            last = {r.key: r.offset for r in rows}
            self.topics["state", p] = [r for r in rows if last[r.key] == r.offset]

    def records(self, p: int) -> list[JournalRecord]:
        return [CODEC.decode(r.value) for r in self.topics["journal", p]]


_keys = iter(range(10**9))


def key() -> str:
    return f"k{next(_keys)}"


def pay(payer: str, payee: str, amount: int, **other: Any) -> Transaction:
    """A transfer of the product wallet."""
    partner = payer.partition(":")[0]
    fields: dict[str, Any] = {"idempotency_key": key(), "product": "wallet", "operation": "transfer", "amount": amount}
    fields |= {"currency": "CNY", "accounts": {"payer": payer, "payee": payee}, "postings": (), "value_date": DAY}
    return Transaction(other.pop("partner", partner), **(fields | other))


WALLET = """
product: wallet
version: {version}
currencies: [CNY]
roles:
  payer: {{owner: caller}}
  payee: {{owner: any}}
  clearing: {{owner: bank, account: "bank:clearing:{{currency}}"}}
  fee: {{owner: bank, account: "bank:fees:{{currency}}"}}
operations:
  fund:
    kind: transfer
    callers: [bank]
    steps:
      - {{from: clearing, amount: amount, to: [{{role: payee}}]}}
  transfer:
    kind: transfer
    steps:
      - {{from: payer, amount: amount, to: [{{role: payee}}]}}
      - from: payer
        amount: {{tiers: [{{up_to: {{CNY: {free}}}, fixed: {{CNY: 0}}}}, {{fixed: {{CNY: {fee}}}}}], of: amount}}
        to: [{{role: fee}}]
"""


def wallet_document(free: int, fee: int, version: int = 1) -> str:
    """The wallet's product: transfers above `free` minor units cost `fee`."""
    return WALLET.format(free=free, fee=fee, version=version)


def bank_of(world: MemoryWorld, partners: Mapping[str, int], *, free: int = 10**9, fee: int = 0) -> None:
    """Admits partners, publishes the wallet, and funds a purse and an empty box of each with so much."""
    from pathlib import Path

    product = parse_product(Path("wallet.yaml"), wallet_document(free, fee).encode())
    world.give(
        PublishProduct("bank", key(), "wallet", 1, 0, product.text),
        OpenAccount("bank", key(), "bank:clearing:CNY", "asset", "CNY", None),
        OpenAccount("bank", key(), "bank:fees:CNY", "income", "CNY", None),
    )
    for partner, funds in partners.items():
        world.give(
            AdmitPartner("bank", key(), partner, partner.title()),
            OpenAccount("bank", key(), f"{partner}:purse", "liability", "CNY", 0),
            OpenAccount("bank", key(), f"{partner}:box", "liability", "CNY", 0),
            pay(f"{partner}:purse", f"{partner}:purse", funds, partner="bank", operation="fund",
                accounts={"payee": f"{partner}:purse"}),
        )  # fmt: skip


def again(c: Transaction, **other: Any) -> Transaction:
    return msgspec.structs.replace(c, **other)


def commands(document: str, partners: Sequence[str], transfers: int, *, every: int, free: int) -> Iterator[Command]:
    """A world and so many transfers, in the order in which they are given: each `every`th is above `free`, each 50th
    goes to another partner, the others are from a partner's purse to its box."""
    yield PublishProduct("bank", key(), "wallet", 1, 0, document)
    yield OpenAccount("bank", key(), "bank:clearing:CNY", "asset", "CNY", None)
    yield OpenAccount("bank", key(), "bank:fees:CNY", "income", "CNY", None)
    for partner in partners:
        yield AdmitPartner("bank", key(), partner, partner.title())
        for name in ("purse", "box"):
            yield OpenAccount("bank", key(), f"{partner}:{name}", "liability", "CNY", 0)
        funding = {"partner": "bank", "operation": "fund", "accounts": {"payee": f"{partner}:purse"}}
        yield pay(f"{partner}:purse", "", 10**15, **funding)
    for i in range(transfers):
        payer, amount = partners[i % len(partners)], free + 1 + i if i % every == 0 else 1 + i % free
        payee = partners[(i + 1) % len(partners)] if i % 50 == 7 else payer
        yield pay(f"{payer}:purse", f"{payee}:box", amount)
