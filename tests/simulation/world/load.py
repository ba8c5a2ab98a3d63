"""Gateways: they draw commands, publish them, lose some acknowledgements, and send again what they are not sure of.

Each partition has a tree of partners of its own; what is drawn depends on a model that has seen everything that was
published there, so that holds are captured and payments given back. It is a belief: the log may have another order.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from random import Random
from typing import Any

from schemas.codec import Codec
from schemas.identity import BANK, partition_of, tree_of
from schemas.records import Crossing, Transaction
from tests.ledger_commands import TREES, command, setup
from tests.ledger_model import Model
from tests.simulation.world.broker import Broker
from tests.simulation.world.scheduler import Process, Scheduler

PARTITIONS = len(TREES)  # the trees of tests/ledger_commands.py live in so many


@cache
def _begun(partition: int, shelf: bool, codec: Codec) -> tuple[Model, tuple[tuple[bytes, bytes], ...]]:
    """What every world begins with: the model after it, and the keys and values that make it."""
    model = Model(partition, PARTITIONS)
    commands = setup(model, shelf=shelf)
    for offset, c in enumerate(commands):
        model.settle(c, offset, 1)
    return model, tuple((tree_of(c).encode(), codec.encode(c)) for c in commands)


class Gateways:
    """`acknowledged`: partition, offset and value of what a gateway was told is in the log. `left`: still to publish."""

    def __init__(
        self,
        sim: Scheduler,
        broker: Broker,
        topic: str,
        codec: Codec,
        seed: int,
        commands: int,
        clock_ms: Any,
        *,
        shelf: bool,
    ) -> None:
        self.sim, self.broker, self.topic, self.codec, self.clock_ms = sim, broker, topic, codec, clock_ms
        self.random = Random(f"load {seed}")
        self.left = commands
        self.at_work = 0
        self.acknowledged: list[tuple[int, int, bytes | None]] = []
        self.published = self.repeated = 0
        self.models: list[Model] = []
        for p in range(broker.partitions):
            model, records = _begun(p, shelf, codec)
            self.models.append(model.copy())
            for key, value in records:
                self._append(p, key, value, None)

    def start(self, process: Process, gateways: int) -> None:
        for g in range(gateways):
            process.spawn(str(g), self._work, self.random.random() * 0.3)

    def idle(self) -> bool:
        return not self.left and not self.at_work

    def _work(self) -> None:
        sim, random = self.sim, self.random
        burst = 0
        while self.left:
            self.left -= 1
            self.at_work += 1
            partition, key, value = self._draw()
            self._publish(partition, key, value)
            self.at_work -= 1
            burst = burst - 1 if burst else random.choice((0, 0, 0, 12, 30))
            if not burst:
                sim.sleep(random.choice((0.02, 0.1, 0.3)) * random.random())

    def _draw(self) -> tuple[int, bytes, bytes | None]:
        """A command and its place; now and then bytes that are none."""
        random, n = self.random, self.broker.partitions
        p = random.randrange(n)
        model = self.models[p]
        model.now = max(model.now, self.clock_ms())
        value: bytes | None = None
        while value is None:
            c = command(random, model)
            if isinstance(c, Crossing):  # only workers write these
                continue
            with suppress(KeyError, OverflowError, ValueError):  # no publisher can write a side that is none
                value = self.codec.encode(c)
        self._believe(p, c)
        if random.random() < 0.03:
            assert value is not None
            value = random.choice((b"", value[: len(value) // 2], b"{}", b"\0\x7f\xff\xff\xf0" + value[5:]))
            return p, b"x", value
        root = tree_of(c)
        if root == BANK and not isinstance(c, Transaction):
            for other in set(range(n)) - {p}:
                self._publish(other, BANK.encode(), value)
            return p, BANK.encode(), value
        home = p if root == BANK else partition_of(root, n)
        return home if random.random() > 0.01 else random.randrange(n), root.encode(), value

    def _believe(self, partition: int, c: Any) -> None:
        """Settles it in the models, and what goes to other partitions from there."""
        model = self.models[partition]
        model.now = max(model.now, self.clock_ms())
        for sent in model.settle(c, len(model.answered) + 1_000_000, model.now).sent:
            self._believe(sent.to_partition, sent)

    def _publish(self, partition: int, key: bytes, value: bytes | None) -> None:
        """Sends until it is acknowledged. A send that is not may have arrived, may still arrive, or never will."""
        random, sim = self.random, self.sim
        headers = [("reply_to", b"%d" % partition)] if random.random() < 0.2 else None
        while True:
            sim.call("publish", 0.003)
            fate = random.random()
            if fate < 0.06:
                if fate < 0.04:
                    sim.later(random.random(), lambda: self._late(partition, key, value, headers))
                sim.sleep(0.02)
                continue
            offset = self._append(partition, key, value, headers)
            sim.call("publish answers", 0.003)
            if fate < 0.12:
                continue
            self.acknowledged.append((partition, offset, value))
            if fate < 0.16:
                continue  # the caller asks once more, although it was told
            return

    def _late(self, partition: int, key: bytes, value: bytes | None, headers: Any) -> None:
        self._append(partition, key, value, headers)

    def _append(self, partition: int, key: bytes, value: bytes | None, headers: Any) -> int:
        self.published += 1
        return self.broker.append(self.topic, partition, key, value, headers)
