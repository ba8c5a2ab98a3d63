"""The publisher SDK straight to Kafka, beside a raw produce loop that sends the same bytes.

    ./run bench sdk [--commands N] [--rounds N] [--json]

One process, one broker, in turns, each over the same 10,000 documents again and again. They come from one `json.loads`
each and do not fit a core's own cache: to read them again costs about what documents cost that were parsed a moment ago
(measured; 1,000 of them would flatter the SDK by a quarter of a microsecond). The SDK's `publish_many` checks every
field, encodes, finds the partition, and knows at the end that the broker has everything. Beside it, with prepared bytes
and the same settings (idempotent, acks=all, linger 5 ms; with 20 and 50 ms the raw loop was slower):

    raw     the loop of the client's own README: `poll(0)`, `produce` with a delivery callback, `flush` at the end
    bare    `produce` and nothing else: no callback, so that it would not know what was lost; a poll per 1,000
    batch   the client's batch call, the part of the SDK that is the client's
    check   the part that is the SDK's own: documents to bytes

Floor: at least 60% of the raw loop's rate (`ratio`, by the clock). `ratio_cpu` is the same by processor time, which
other work on the machine disturbs less; `ratio_to_bare` is the rate beside the bare loop's. Each round's records are
counted, and in the first, which is not measured, their bytes are compared with what the codec makes of the full check.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from itertools import chain, repeat
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, process_time
from typing import Any, NamedTuple

from confluent_kafka import Producer

from benchmarks.machine import Results
from benchmarks.report import Report
from clearline.config import Settings, load_settings
from clearline.publisher import Publisher
from clearline.quick import QuickCheck
from clearline.sending import CHUNK, encode_chunk
from clearline.stack import Stack
from schemas.codec import Codec
from streams.clients import KafkaConfig
from streams.reader import LogReader, end_offsets
from streams.registry import Registry
from streams.topics import Topics, create_topics

SEED = 20261122
RATIO_MIN = 0.60
PARTITIONS = 4
DISTINCT = 10_000
DAY = date(2026, 11, 22)
_POLL_EVERY = 1_000


class Sent(NamedTuple):
    """One command as it is sent."""

    partition: int
    key: bytes
    value: bytes


class Took(NamedTuple):
    """Seconds of the clock, and of this process's processors."""

    wall: float
    cpu: float


def documents(count: int, run: str, seed: int = SEED) -> list[dict[str, Any]]:
    """Transfers as they come from JSON lines: 50 partners, 20 wallets each, a reference and one field of metadata."""
    random = Random(seed)
    lines = []
    for i in range(count):
        partner = f"p{random.randrange(50)}"
        payer, payee = random.sample(range(20), 2)
        document = {
            "partner_id": partner, "idempotency_key": f"{run}-{i}", "product": "wallet", "operation": "transfer",
            "amount": random.randrange(1, 50_000), "currency": "CNY",
            "accounts": {"payer": f"{partner}:wallet:{payer}", "payee": f"{partner}:wallet:{payee}"},
            "value_date": DAY.isoformat(), "reference": f"order {i}", "metadata": {"shop": str(i % 97)},
        }  # fmt: skip
        lines.append(json.dumps(document))
    return [json.loads(line) for line in lines]


def prepared(items: list[dict[str, Any]], codec: Codec) -> list[Sent]:
    """What the full check and the codec make of them."""
    check = QuickCheck(codec, PARTITIONS, 262_144)
    out = []
    for item in items:
        value, (key, partitions) = check.full(item, DAY)
        out.append(Sent(partitions[0], key, value))
    return out


def producer(kafka: KafkaConfig) -> Producer:
    return Producer(kafka.producer(linger_ms=5))


def raw(client: Producer, topic: str, sent: list[Sent], turns: int) -> None:
    """What anybody writes first who wants to know that everything arrived."""
    lost: list[str] = []

    def delivered(error: Any, message: Any) -> None:
        if error is not None:
            lost.append(str(error))

    for _ in range(turns):
        for partition, key, value in sent:
            client.poll(0)
            client.produce(topic, value, key, partition, on_delivery=delivered)
    client.flush()
    assert not lost, lost[0]


def bare(client: Producer, topic: str, sent: list[Sent], turns: int) -> None:
    """Nothing but speed."""
    produce = client.produce
    for _ in range(turns):
        for i, (partition, key, value) in enumerate(sent):
            produce(topic, value, key, partition)
            if not i % _POLL_EVERY:
                client.poll(0)
    client.flush()


def batch(client: Producer, topic: str, sent: list[Sent], turns: int) -> None:
    """The same through the client's batch call."""
    for start in range(0, len(sent) * turns, _POLL_EVERY):
        parts: dict[int, list[dict[str, Any]]] = {}
        at = start % len(sent)
        for partition, key, value in sent[at : at + _POLL_EVERY]:
            parts.setdefault(partition, []).append({"value": value, "key": key})
        for partition, messages in parts.items():
            assert client.produce_batch(topic, messages, partition=partition) == len(messages)
        client.poll(0)
    client.flush()


def timed(work: Callable[[], object]) -> Took:
    gc.collect()
    wall, cpu = perf_counter(), process_time()
    work()
    return Took(perf_counter() - wall, process_time() - cpu)


def check_only(items: list[dict[str, Any]], codec: Codec, turns: int) -> Took:
    """The SDK's own share: documents to bytes, without a client."""
    check = QuickCheck(codec, PARTITIONS, 262_144)

    def refuse(index: int, error: Exception) -> None:
        raise error

    def work() -> None:
        for _ in range(turns):
            for start in range(0, len(items), CHUNK):
                encode_chunk(check, items[start : start + CHUNK], DAY, refuse)

    return timed(work)


def written(kafka: KafkaConfig, topic: str, starts: dict[int, int]) -> dict[int, list[bytes]]:
    """The values of each partition from these offsets to its end, in order."""
    ends = end_offsets(kafka, topic)
    out: dict[int, list[bytes]] = {p: [] for p in ends}
    with LogReader(kafka, topic, starts) as reader:
        while any(reader.position[p] < ends[p] for p in ends):
            for r in reader.poll(10_000, 0.2):
                out[r.partition].append(r.value or b"")
    return out


def measure(settings: Settings, count: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Rounds in turns; the first of each is not counted, the broker is cold then."""
    kafka, topics = KafkaConfig(str(settings.kafka.bootstrap)), Topics(settings.world)
    create_topics(kafka, topics, PARTITIONS)
    codec = Registry(str(settings.registry.url)).codec()
    items, turns = documents(DISTINCT, "b"), max(1, count // DISTINCT)
    count = DISTINCT * turns
    sent = prepared(items, codec)
    expected: dict[int, list[bytes]] = {p: [] for p in range(PARTITIONS)}
    for s in sent * turns:
        expected[s.partition].append(s.value)
    client = producer(kafka)
    took: dict[str, list[Took]] = {"raw": [], "sdk": [], "bare": [], "batch": [], "check": []}
    with Publisher(settings) as publisher:
        sides: dict[str, Callable[[], object]] = {
            "raw": lambda: raw(client, topics.submitted, sent, turns),
            "sdk": lambda: publisher.publish_many(chain.from_iterable(repeat(items, turns))),
            "bare": lambda: bare(client, topics.submitted, sent, turns),
            "batch": lambda: batch(client, topics.submitted, sent, turns),
        }
        for n in range(rounds + 1):
            names = list(sides)[:: 1 if n % 2 else -1]
            for name in names:
                before = end_offsets(kafka, topics.submitted)
                seconds = timed(sides[name])
                if n:
                    took[name].append(seconds)
                elif written(kafka, topics.submitted, before) != expected:
                    raise SystemExit(f"{name} has not sent the bytes that it should")
                after = end_offsets(kafka, topics.submitted)
                assert sum(after.values()) - sum(before.values()) == count, name
            if n:
                took["check"].append(check_only(items, codec, turns))
                say(f"round {n}: " + ", ".join(f"{k} {count / took[k][-1].wall:,.0f}/s" for k in sides))
    return figures(took, count, rounds, len(sent[0].value))


def figures(took: dict[str, list[Took]], count: int, rounds: int, size: int) -> dict[str, Any]:
    def ratios_to(name: str) -> list[float]:
        return [r.wall / s.wall for r, s in zip(took[name], took["sdk"], strict=True)]

    ratios = ratios_to("raw")
    out: dict[str, Any] = {"commands": count, "rounds": rounds, "bytes": size}
    for name, all_of in took.items():
        out[f"{name}_per_s"] = round(count / median(t.wall for t in all_of))
        out[f"{name}_cpu_us"] = round(median(t.cpu for t in all_of) / count * 1e6, 3)
    return {
        **out,
        "ratio": round(median(ratios), 3),
        "ratio_of_each_round": [round(r, 3) for r in ratios],
        "ratio_cpu": round(median(r.cpu / s.cpu for r, s in zip(took["raw"], took["sdk"], strict=True)), 3),
        "raw": "poll, produce with a delivery callback, per command; flush",
        "ratio_to_bare": round(median(ratios_to("bare")), 3),
        "ratio_min": RATIO_MIN,
        "ok": median(ratios) >= RATIO_MIN,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="./run bench sdk", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--commands", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    report = Report(Results("sdk", SEED), given.json)
    with tempfile.TemporaryDirectory(prefix="bench-sdk-") as folder:
        settings = load_settings(data_dir=Path(folder), world="sdk", partitions=PARTITIONS)
        with Stack(settings, parts=("kafka", "registry")) as stack:
            stack.start()
            resolved = stack.resolved()
            Registry(str(resolved.registry.url)).register_all()
            found = measure(resolved, given.commands, given.rounds, report.say)
    report.add("sdk", found)
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
