"""The auditor must bite: workers and sinks with known bugs on the real broker, each caught and named.

Beside each stands the same story with the worker as it should be, on which every check holds: so it is the bug that is
found, not the test's own clumsiness.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import KafkaException

from clearline.audit.contract import Terms
from clearline.audit.live import LiveLog
from clearline.audit.stores import ClickHouseEntries
from clearline.audit.verdict import Verdict
from clearline.audit.verify import verify, verify_world
from clearline.config import Settings, load_settings
from clearline.connection import clickhouse_config
from clearline.stack import CHECKOUT, Stack
from schemas.codec import Codec
from schemas.errors import InvariantError
from schemas.failpoints import arm
from schemas.identity import BANK
from schemas.records import AdmitPartner, OpenAccount, Transaction
from sinks import migrate
from sinks.clickhouse import ClickHouseConfig
from sinks.dead_letters import DeadLetterSink, Letter
from sinks.ledger_sink import Arrival, LedgerSink
from streams.clients import KafkaConfig
from streams.letters import letter_of
from streams.publisher import CommandPublisher
from streams.reader import read_to_end
from streams.registry import Registry
from streams.topics import Topics, create_topics, topic_ids
from tests.faults.known_bugs.mini import Killed, MiniWorker
from tests.faults.known_bugs.sink import RetriesBlindly
from tests.faults.known_bugs.workers import (
    CommitsBeforeProducing,
    CountsInFloats,
    ForgetsKeys,
    LastRowWins,
    LosesRejects,
    ReusesItsProducer,
    SwapsLegs,
)
from tests.faults.memory_world import hostile_stream, setting_up
from tests.sink_servers import wait_for

pytestmark = pytest.mark.stack
SEED = 20261122


@dataclass
class OnePartition:
    """A world of one partition on the shared broker."""

    settings: Settings
    kafka: KafkaConfig
    topics: Topics
    codec: Codec

    def publish(self, number: int = 300, seed: int = SEED) -> None:
        """The setting up, and a hostile stream."""
        rnd = random.Random(seed)
        with CommandPublisher(self.kafka, self.topics, self.codec, 1) as publisher:
            for command in setting_up():
                publisher.publish(command)
            for item in hostile_stream(seed, number):
                if item is None or isinstance(item, bytes):
                    publisher.send(item or b"", b"x", 0)
                else:
                    publisher.publish(item)
        assert rnd

    def worker(self, kind: type[MiniWorker] = MiniWorker, name: str = "mini") -> MiniWorker:
        return kind(self.kafka, self.topics, self.codec, name)

    def verify(self) -> Verdict:
        return verify(self.settings, drained=True, stores=False)


@pytest.fixture
def world(broker: Settings) -> OnePartition:
    name = f"bug{uuid.uuid4().hex[:8]}"
    settings = broker.model_copy(update={"world": name, "partitions": 1})
    kafka, topics = KafkaConfig(str(broker.kafka.bootstrap)), Topics(name)
    create_topics(kafka, topics, 1)
    return OnePartition(settings, kafka, topics, Registry(str(broker.registry.url)).codec())


def assert_caught(verdict: Verdict, *names: str) -> None:
    assert not verdict.ok, "the bug was not caught"
    assert set(names) <= set(verdict.failed), verdict.lines()


# ---- as it should be -------------------------------------------------------------------------------------------------


def test_the_right_worker_passes_with_restarts_and_an_aborted_transaction(world: OnePartition) -> None:
    world.publish()
    world.worker().run(3)
    torn = world.worker()
    torn.producer.begin_transaction()
    torn.produce(torn.settle(torn.batch(40)))
    torn.producer.flush(30)  # in the log, never committed: the next of this name aborts it
    world.worker().run(10_000)
    verdict = world.verify()
    assert verdict.ok, verdict.lines()
    assert verdict.commands > 350


def test_a_zombie_of_the_right_worker_is_fenced(world: OnePartition) -> None:
    world.publish()
    zombie = world.worker()
    zombie.run(2)
    in_hand = zombie.settle(zombie.batch(40))
    world.worker().run(10_000)
    with pytest.raises(KafkaException):
        zombie.commit(in_hand)
    verdict = world.verify()
    assert verdict.ok, verdict.lines()


# ---- known bugs ------------------------------------------------------------------------------------------------------


def test_offsets_committed_before_the_produce(world: OnePartition) -> None:
    world.publish()
    with pytest.raises(Killed):
        world.worker(CommitsBeforeProducing).run(10_000)
    successor = world.worker(CommitsBeforeProducing)
    assert isinstance(successor, CommitsBeforeProducing)
    successor.killed_at_batch = 0
    successor.run(10_000)
    verdict = world.verify()
    assert_caught(verdict, "one_outcome")
    assert any("lost" in d for d in verdict.check("one_outcome").differences)


def test_producer_reused_after_a_timeout(world: OnePartition) -> None:
    world.publish()
    worker = world.worker(ReusesItsProducer)
    worker.run(2)
    assert isinstance(worker, ReusesItsProducer)
    worker.impatient = True
    worker.run(10_000)
    verdict = world.verify()
    assert_caught(verdict, "one_outcome", "sequence")
    assert any("second outcome" in d for d in verdict.check("one_outcome").differences)


def test_last_changelog_row_wins(world: OnePartition) -> None:
    world.publish()
    zombie = world.worker(LastRowWins)
    assert isinstance(zombie, LastRowWins)
    zombie.run(4)
    in_hand = zombie.settle(zombie.batch(40))
    world.worker(LastRowWins).run(4)  # it took over: the pause was longer than the session
    zombie.write_state_only(in_hand)
    world.worker(LastRowWins).run(10_000)  # a recovery after that
    assert_caught(world.verify(), "state", "counters")


def test_the_real_recovery_takes_the_highest_offset(world: OnePartition) -> None:
    """The same zombie: its rows are noticed as stale, and yet no balance is wrong, because none of them wins."""
    world.publish()
    zombie = world.worker(LastRowWins)
    assert isinstance(zombie, LastRowWins)
    zombie.run(4)
    in_hand = zombie.settle(zombie.batch(40))
    world.worker(LastRowWins).run(4)
    zombie.write_state_only(in_hand)
    world.worker().run(10_000)
    assert set(world.verify().failed) <= {"state"}


def test_keys_forgotten_at_a_take_over(world: OnePartition) -> None:
    world.publish()
    world.worker().run(12, records_max=25)
    world.worker(ForgetsKeys).run(10_000)
    assert_caught(world.verify(), "idempotency")


def test_lost_rejects(world: OnePartition) -> None:
    world.publish()
    world.worker(LosesRejects).run(10_000)
    assert_caught(world.verify(), "one_outcome", "sequence")


def test_swapped_legs(world: OnePartition) -> None:
    world.publish()
    world.worker(SwapsLegs).run(10_000)
    verdict = world.verify()
    assert_caught(verdict, "counters")
    assert verdict.check("conservation").ok, "swapped legs balance: only a recomputation finds them"


def test_float_amounts(world: OnePartition) -> None:
    cent = 2**53 + 1
    bank = [f"bank:{n}:CNY" for n in ("clearing", "position")]
    with CommandPublisher(world.kafka, world.topics, world.codec, 1) as publisher:
        publisher.publish(AdmitPartner(BANK, "admit", "acme"))
        for account in bank:
            publisher.publish(OpenAccount(BANK, f"open-{account}", account, "asset", "CNY"))
        publisher.publish(OpenAccount(BANK, "open", "acme:wallet:a", "liability", "CNY", 0))
        accounts = {"payer": bank[0], "payee": "acme:wallet:a"}
        publisher.publish(Transaction("acme", "big", "wallet", "transfer", cent, "CNY", accounts, (), 20_000))
    world.worker(CountsInFloats).run(10_000)
    assert_caught(world.verify(), "counters")


class _Uncommitted(LiveLog):
    """An auditor that reads uncommitted records."""

    def __init__(self, kafka: KafkaConfig, topics: Topics, partitions: int) -> None:
        careless = KafkaConfig(kafka.bootstrap)
        super().__init__(careless, topics, partitions)
        consumer = type(careless).consumer

        class Careless(KafkaConfig):
            def consumer(self, group: str, **settings: object) -> dict[str, object]:
                return {**consumer(self, group, **settings), "isolation.level": "read_uncommitted"}

        self._kafka = Careless(kafka.bootstrap)


def test_an_auditor_that_reads_uncommitted_would_cry_wolf(world: OnePartition) -> None:
    """What was aborted never happened. The real auditor is silent on it; one that reads uncommitted sees doubles."""
    world.publish()
    torn = world.worker()
    torn.run(2)
    torn.producer.begin_transaction()
    torn.produce(torn.settle(torn.batch(40)))
    torn.producer.flush(30)
    world.worker().run(10_000)
    assert world.verify().ok
    careless = _Uncommitted(world.kafka, world.topics, 1)
    verdict = verify_world(world.topics.world, careless, world.codec.decode, Terms(1), drained=True)
    assert_caught(verdict, "one_outcome", "sequence")


# ---- the sink --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = load_settings(data_dir=tmp_path_factory.mktemp("clickhouse"))
    with Stack(settings, parts=("clickhouse",)) as stack:
        stack.start()
        yield stack.resolved()


def _bury(world: OnePartition, config: ClickHouseConfig) -> None:
    """The dead letters, which have a sink of their own."""
    dead = world.topics.dead
    sink = DeadLetterSink(config, f"{dead}@{topic_ids(world.kafka, [dead])[dead]}")
    sink.take_over()
    try:
        sink.write([Letter(r.partition, r.offset, letter_of(r)) for r in read_to_end(world.kafka, dead)])
    finally:
        sink.close()


@pytest.mark.parametrize("kind", [LedgerSink, RetriesBlindly])
@pytest.mark.parametrize("point", ["after_send", "after_insert_postings", "after_insert_outcomes"])
def test_sink_without_read_back(world: OnePartition, clickhouse: Settings, kind: type[LedgerSink], point: str) -> None:
    """An insert whose answer is lost: the real sink looks what is there; the other sends it again."""
    world.publish(120)
    world.worker().run(10_000)
    house = clickhouse.clickhouse.model_copy(update={"database": f"{world.topics.world}_{kind.__name__}_{point}"})
    config = clickhouse_config(clickhouse.model_copy(update={"clickhouse": house}))
    migrate.apply(config)
    journal = world.topics.journal
    topic = f"{journal}@{topic_ids(world.kafka, [journal])[journal]}"
    arrivals = [Arrival(r.partition, r.offset, r.value) for r in read_to_end(world.kafka, journal)]
    sink = kind(config, topic, world.codec)
    sink.take_over()
    arm(f"sink_clickhouse.{point}=raise@2" if point == "after_send" else f"sink_clickhouse.{point}=raise")
    try:
        sink.write(arrivals)
    except Exception:  # the real sink takes over anew, whatever it was
        sink.take_over()
        sink.write(arrivals)
    finally:
        arm("")
        sink.close()
    _bury(world, config)
    log = LiveLog(world.kafka, world.topics, 1)
    entries = ClickHouseEntries(config, topic)
    verdict = verify_world(world.topics.world, log, world.codec.decode, Terms(1), entries=entries, drained=True)
    if kind is LedgerSink:
        assert verdict.ok, verdict.lines()
    else:
        assert_caught(verdict, "clickhouse")


# ---- Faust's own exactly_once ----------------------------------------------------------------------------------------


def _faust(world: OnePartition, folder: Path) -> subprocess.Popen[bytes]:
    own = {
        "PYTHONPATH": str(CHECKOUT), "BUG_WORLD": world.topics.world, "BUG_KAFKA": world.kafka.bootstrap,
        "BUG_REGISTRY": str(world.settings.registry.url), "BUG_DATA": str(folder),
    }  # fmt: skip
    command = [sys.executable, "-m", "faust", "-A", "tests.faults.known_bugs.faust_app", "worker", "-l", "warn",
               "--without-web"]  # fmt: skip
    with (folder / "faust.log").open("ab") as log:
        return subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log, cwd=CHECKOUT)


@pytest.mark.timeout(900)
def test_faust_exactly_once_under_kill_9(world: OnePartition, tmp_path: Path) -> None:
    """Kills until the first double: its `topic.send` is not part of the transaction that commits the offset."""

    def seen() -> list[int]:
        records = read_to_end(world.kafka, world.topics.journal)
        return [world.codec.decode(r.value).source_offset for r in records]

    world.publish(2_500)
    rnd = random.Random(SEED)
    have = 0
    for _ in range(6):
        worker = _faust(world, tmp_path)
        try:
            more = have + rnd.randrange(60, 200)
            wait_for("Faust to settle", lambda: len(seen()) >= more or worker.poll() is not None)  # noqa: B023
        finally:
            worker.kill()
            worker.wait()
        offsets = seen()
        have = len(offsets)
        if len(set(offsets)) < have:
            break
    verdict = verify(world.settings, drained=False, stores=False)
    assert_caught(verdict, "one_outcome")
    assert any("second outcome" in d for d in verdict.check("one_outcome").differences), verdict.lines()


def test_the_real_recovery_refuses_what_does_not_belong_together(world: OnePartition) -> None:
    """After the first of these bugs the real worker does not go on: state and offsets tell different stories."""
    world.publish()
    with pytest.raises(Killed):
        world.worker(CommitsBeforeProducing).run(10_000)
    with pytest.raises(InvariantError):
        world.worker()
