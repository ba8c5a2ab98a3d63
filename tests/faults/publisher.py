"""The load of a fault test: a process of its own that publishes at a steady rate and writes down what was acknowledged.

    python -m tests.faults.publisher --seed 7 --rate 400 --least 20000 --acks FILE

It goes on after `--least` commands until it gets SIGTERM, so that every fault of a schedule meets traffic, then at a
tenth of the rate: on a slow machine the faults take their time, and the auditor recomputes everything that was sent.
The pace is open-loop: what a dead broker held up is sent as soon as it is back. A line of FILE per acknowledged record:
partition, offset, digest of the bytes, and the outcome that the generator expects of it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TextIO

from clearline.config import load_settings
from clearline.connection import connect
from clearline.generator import Item, encode, generate
from clearline.generator_shelf import shelf_of
from schemas.errors import PartUnavailableError
from schemas.records import AdmitPartner

PARTNERS_MAX, ACCOUNTS_MAX = 40, 1_500
ENDLESS = 100_000_000
DELIVERY_TIMEOUT_S = 300.0
AFTERWARDS = 9  # so many times the pause between two commands is added after the least
CONTROL_EVERY = 50  # a control command now and then, so that every step of the sinks is walked


def digest_of(value: bytes | None) -> str:
    """What an acknowledged record is compared by."""
    return blake2b(value or b"", digest_size=8).hexdigest()


def publish(seed: int, rate: int, least: int, acks: TextIO) -> tuple[int, int]:
    """Publishes until `least` commands are out and SIGTERM came; how many were acknowledged, and how many were not."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    link = connect(load_settings())
    publisher = link.publisher(DELIVERY_TIMEOUT_S)

    def delivered(value: bytes, expected: str) -> Callable[..., None]:
        def note(error: object, message: Any) -> None:
            if error is None:
                acks.write(f"{message.partition()} {message.offset()} {digest_of(value)} {expected}\n")

        return note

    def send(item: Item) -> None:
        value = encode(item, link.codec, link.message_bytes_max)
        key, partitions = item.places(link.partitions)
        for p in partitions:
            publisher.send(value, key, p, on_delivery=delivered(value, item.expected))

    sent, began = 0, 0.0
    day = generate(seed, ENDLESS, partners_max=PARTNERS_MAX, accounts_max=ACCOUNTS_MAX, products=shelf_of(seed))
    for item in day:
        if item.kind != "setup":
            began = began or time.monotonic()
            due_s = sent / rate + AFTERWARDS * max(0, sent - least) / rate
            while (ahead := due_s - (time.monotonic() - began)) > 0:
                publisher.poll(min(ahead, 0.05))
            sent += 1
        send(item)
        if sent and sent % CONTROL_EVERY == 0:
            partner = f"late-{sent}"
            send(Item("setup", AdmitPartner("bank", f"admit-{partner}", partner), "applied", 0.0))
        if ended and sent >= least:
            break
    try:
        publisher.flush(DELIVERY_TIMEOUT_S)
    except PartUnavailableError as e:
        print(e, file=sys.stderr)
    return publisher.acknowledged, publisher.published - publisher.acknowledged


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=int, default=400)
    parser.add_argument("--least", type=int, default=20_000)
    parser.add_argument("--acks", type=Path, required=True)
    options = parser.parse_args()
    with options.acks.open("w", buffering=1 << 16) as acks:
        acknowledged, unsure = publish(options.seed, options.rate, options.least, acks)
        acks.write(f"end {acknowledged} {unsure} -\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
