"""The load: real Transaction commands from one seed, sent by a process of its own.

A plan draws some ten thousand different transactions once; what is sent later is one of them with its own idempotency
key put in, so that the sender costs about two microseconds a record and is never what a benchmark measures. Every key
ends in the record's number, which is how a reader knows when it was due.

It runs as `python -m benchmarks load JSON`, see `Job`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from confluent_kafka import Producer

from schemas.codec import Codec
from schemas.identity import partition_of
from schemas.records import AdmitPartner, Command, OpenAccount, Posting, Transaction
from streams.clients import KafkaConfig
from streams.publisher import CommandPublisher
from streams.registry import Registry
from streams.topics import Topics

NUMBER_DIGITS = 9
DAY = 20_779  # value date: the bytes must not depend on the clock
OPENING_BALANCE = 10**13  # minor units; nobody runs dry
TEMPLATES = 32_768
_FUNDING_LEGS = 100
_LATE_SAMPLE = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """Who there is and who is busy. `shape`: even; zipf (partners and accounts by Zipf's law, exponent 1.1); or hot.

    `hot_share`: with shape hot, the part of the load (0 to 1) of the first partner.
    """

    seed: int = 1
    partners: int = 16
    accounts: int = 1_000
    partitions: int = 4
    shape: str = "even"
    hot_share: float = 0.0

    def partner_ids(self) -> list[str]:
        """Partners, spread evenly over the partitions so that `even` means even."""
        room = dict.fromkeys(range(self.partitions), -(-self.partners // self.partitions))
        out: list[str] = []
        number = 0
        while len(out) < self.partners:
            name = f"partner-{number:03d}"
            number += 1
            place = partition_of(name, self.partitions)
            if room[place]:
                room[place] -= 1
                out.append(name)
        return out

    def accounts_of(self, index: int, partner_id: str) -> list[str]:
        """Account ids of the partner with this index; all partners together have `accounts`."""
        number = self.accounts // self.partners + (index < self.accounts % self.partners)
        return [f"{partner_id}:wallet:c{i:05d}" for i in range(max(2, number))]

    def weights(self) -> list[float]:
        """The load of each partner; their sum is 1."""
        if self.shape == "hot":
            rest = (1 - self.hot_share) / (self.partners - 1)
            return [self.hot_share] + [rest] * (self.partners - 1)
        if self.shape == "zipf":
            zipf = _zipf(self.partners)
            return [w / sum(zipf) for w in zipf]
        return [1 / self.partners] * self.partners

    def setup(self, *, funded: bool = True) -> Iterator[Command]:
        """Partners, accounts and their opening balances. The first command goes to every partition."""
        yield OpenAccount("bank", "open-clearing", "bank:clearing:CNY", "asset", "CNY", None)
        for index, partner_id in enumerate(self.partner_ids()):
            yield AdmitPartner("bank", f"admit-{partner_id}", partner_id)
            accounts = self.accounts_of(index, partner_id)
            for account_id in accounts:
                yield OpenAccount(partner_id, f"open-{account_id}", account_id, "liability", "CNY", 0)
            for at in range(0, len(accounts) if funded else 0, _FUNDING_LEGS):
                some = accounts[at : at + _FUNDING_LEGS]
                legs = [Posting("bank:clearing:CNY", "debit", OPENING_BALANCE * len(some))]
                legs += [Posting(a, "credit", OPENING_BALANCE) for a in some]
                yield Transaction(
                    partner_id, f"fund-{at}", "deposit", "transfer", 0, "CNY", {}, tuple(legs), DAY, "opening balances"
                )

    def transactions(self, number: int) -> Iterator[Transaction]:
        """Transfers between two accounts of one partner, of an everyday size; keys are placeholders."""
        rng = Random(f"load {self.seed} {self.shape} {self.hot_share}")
        partners = self.partner_ids()
        accounts = [self.accounts_of(i, p) for i, p in enumerate(partners)]
        busy = [_zipf(len(a)) if self.shape == "zipf" else None for a in accounts]
        for n, i in enumerate(rng.choices(range(len(partners)), self.weights(), k=number)):
            if busy[i] is None:
                payer, payee = rng.sample(accounts[i], 2)
            else:
                payer, payee = rng.choices(accounts[i], busy[i], k=2)
                if payer == payee:
                    payee = accounts[i][accounts[i].index(payer) - 1]
            yield Transaction(
                partners[i], _PLACEHOLDER, "wallet", "transfer", rng.randrange(100, 100_000), "CNY",
                {"payer": payer, "payee": payee}, (), DAY, f"order {n}", {"channel": "app"},
            )  # fmt: skip


def _zipf(number: int) -> list[float]:
    return [1.0 / (rank + 1) ** 1.1 for rank in range(number)]


_TAG_CHARS = 6
_PLACEHOLDER = "?" * (_TAG_CHARS + 1 + NUMBER_DIGITS)


def key_of(tag: str, number: int) -> str:
    """The idempotency key of a record: a tag of 6 characters and its number."""
    return f"{tag:_<{_TAG_CHARS}.{_TAG_CHARS}}-{number:0{NUMBER_DIGITS}d}"


class Templates:
    """Encoded transactions into which a key is put; `record` gives value, Kafka key and partition of a number."""

    def __init__(self, plan: Plan, codec: Codec, tag: str, number: int = TEMPLATES) -> None:
        mark = _PLACEHOLDER.encode()
        self._made: list[tuple[bytes, bytes, bytes, int]] = []
        for t in plan.transactions(number):
            head, _, tail = codec.encode(t).partition(mark)
            self._made.append((head, tail, t.partner_id.encode(), partition_of(t.partner_id, plan.partitions)))
        self._tag = f"{tag:_<{_TAG_CHARS}.{_TAG_CHARS}}-".encode()

    def record(self, number: int) -> tuple[bytes, bytes, int]:
        head, tail, key, partition = self._made[number % len(self._made)]
        return b"%b%b%09d%b" % (head, self._tag, number, tail), key, partition


@dataclass(frozen=True, slots=True)
class Job:
    """What one load process does. `kind`: setup, fill (as fast as it goes) or send (open loop at `rate` per second).

    `topic` empty: the world's transactions.submitted. `seconds`: how long `send` lasts; it begins when it is told
    `start_at`, on CLOCK_MONOTONIC.
    """

    kind: str
    bootstrap: str
    registry_url: str
    world: str
    plan: dict[str, Any] = field(default_factory=dict)
    topic: str = ""
    tag: str = "load"
    number: int = 0
    rate: float = 0.0
    linger_ms: float = 1.0
    funded: bool = True


def serve(job: dict[str, Any], hear: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Does the job; figures of it."""
    return _run(Job(**job), hear)


def _run(job: Job, hear: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    kafka, topics, plan = KafkaConfig(job.bootstrap), Topics(job.world), Plan(**job.plan)
    codec = Registry(job.registry_url).codec()
    if job.kind == "setup":
        return _setup(kafka, topics, codec, plan, job.funded)
    topic = job.topic or topics.submitted
    if job.kind == "fill":
        templates = Templates(plan, codec, job.tag, min(job.number, TEMPLATES))
        return _fill(Producer(kafka.producer(linger_ms=20)), topic, templates, job.number)
    templates = Templates(plan, codec, job.tag, min(job.number, TEMPLATES // 4))
    producer = Producer(kafka.producer(linger_ms=job.linger_ms))
    producer.list_topics(topic, timeout=10)
    return _send(producer, topic, templates, job.number, job.rate, hear()["start_at"])


def _setup(kafka: KafkaConfig, topics: Topics, codec: Codec, plan: Plan, funded: bool) -> dict[str, Any]:
    with CommandPublisher(kafka, topics, codec, plan.partitions) as publisher:
        for command in plan.setup(funded=funded):
            publisher.publish(command)
    return {"published": publisher.published}


def _fill(producer: Producer, topic: str, templates: Templates, number: int) -> dict[str, Any]:
    started = time.monotonic()
    produce, record = producer.produce, templates.record
    size = 0
    for n in range(number):
        value, key, partition = record(n)
        size += len(value)
        while True:
            try:
                produce(topic, value, key, partition)
                break
            except BufferError:
                producer.poll(0.05)
        if not n & 1023:
            producer.poll(0)
    left = producer.flush(120)
    if left:
        raise SystemExit(f"{left} of {number} records were not acknowledged within 120 s")
    return {"published": number, "seconds": time.monotonic() - started, "bytes_each": size / max(1, number)}


def _send(
    producer: Producer, topic: str, templates: Templates, number: int, rate: float, start_at: float
) -> dict[str, Any]:
    """Sends record n at `start_at + n / rate`, however late the ones before it are. `late_ms`: of this process."""
    produce, record, poll, clock, sleep = producer.produce, templates.record, producer.poll, time.monotonic, time.sleep
    late: list[float] = []
    n = 0
    while n < number:
        now = clock()
        due = min(number, int((now - start_at) * rate) + 1) if now >= start_at else 0
        if due > n:
            late.append(now - (start_at + n / rate))
        while n < due:
            value, key, partition = record(n)
            produce(topic, value, key, partition)
            n += 1
        poll(0)
        sleep(max(0.0004, start_at + n / rate - clock()))
    ended = clock()
    left = producer.flush(60)
    late.sort()
    return {
        "sent": number,
        "unacknowledged": left,
        "per_second": number / (ended - start_at),
        "late_ms_p99": round(late[int(len(late) * 0.99)] * 1e3, 2),
        "late_ms_max": round(late[-1] * 1e3, 2),
    }
