"""The settlement host on the real broker: take-over after kill -9, refusal of a state that does not fit, rebalances."""

from __future__ import annotations

import json
import time
from collections import Counter
from hashlib import sha256
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from clearline.bootstrap import prepare_world
from clearline.lag import unsettled
from clearline.preparing import plan, prepare
from schemas.errors import InvariantError, PartUnavailableError
from schemas.identity import partition_of
from schemas.records import (
    AccountState,
    AdmitPartner,
    Command,
    JournalRecord,
    OpenAccount,
    SetPartnerState,
    Transaction,
)
from streams.clients import KafkaConfig
from streams.publisher import CommandPublisher
from streams.reader import committed_offsets, end_offsets, read_to_end
from streams.recovery import recover
from streams.topics import (
    TopicLostError,
    TopicMismatchError,
    Topics,
    check_topics,
    create_topics,
    partition_counts,
)
from tests.integration.conftest import World
from tests.sink_servers import wait_for
from tests.unit.test_metrics import samples

DAY_MS = 86_400_000
PARTNERS = ("acme", "globex", "initech", "umbrella")
OPENED = len(PARTNERS) * 4 + 4


def opening(partner: str) -> list[Command]:
    """Three accounts' worth of a partner: admitted, two wallets, the first one filled."""
    wallets = [f"{partner}:wallet:{i}" for i in range(2)]
    return [
        AdmitPartner("bank", f"admit-{partner}", partner),
        *(OpenAccount(partner, f"open-{w}", w, "liability", "CNY", 0) for w in wallets),
        transfer(partner, "fund", 1_000_000, "bank:clearing:CNY", wallets[0]),
    ]


def transfer(partner: str, key: str, amount: int = 1, payer: str = "", payee: str = "") -> Transaction:
    roles = {"payer": payer or f"{partner}:wallet:0", "payee": payee or f"{partner}:wallet:1"}
    return Transaction(partner, key, "wallet", "transfer", amount, "CNY", roles, (), 20_000)


def publish(world: World, *commands: Command) -> None:
    with world.publisher() as publisher:
        for c in commands:
            publisher.publish(c)


def open_all(world: World) -> None:
    publish(world, OpenAccount("bank", "clearing", "bank:clearing:CNY", "asset", "CNY"))
    publish(world, *(c for p in PARTNERS for c in opening(p)))


def chain_holds(world: World) -> bool:
    heads: dict[int, bytes] = {}
    for r in read_to_end(world.kafka, world.topics.journal):
        assert r.value is not None
        chain = sha256(heads.get(r.partition, bytes(32)) + r.value[5:-32]).digest()
        if chain != r.value[-32:]:
            return False
        heads[r.partition] = chain
    return True


def test_a_killed_worker_goes_on_where_it_stood(world: World) -> None:
    open_all(world)
    world.start()
    world.outcomes(OPENED)
    publish(world, *(transfer(p, f"a{i}") for p in PARTNERS for i in range(100)))
    world.outcomes(OPENED + 100)
    world.kill()
    publish(world, *(transfer(p, f"a{i}") for p in PARTNERS for i in range(100)))
    publish(world, transfer("acme", "a5", 999), SetPartnerState("bank", "s", "globex", "suspended", "zhou", "case 9"))
    publish(world, transfer("globex", "late"))
    world.start()
    records = world.outcomes(OPENED + 803)
    outcomes = Counter(r.outcome for r in records)
    assert outcomes["repeated"] == 400
    assert [(r.partner_id, r.reason) for r in records if r.outcome == "rejected"] == [
        ("acme", "idempotency_conflict"),
        ("globex", "partner_suspended"),
    ] or Counter(r.reason for r in records if r.reason) == {"idempotency_conflict": 1, "partner_suspended": 1}
    assert chain_holds(world)
    for p in range(world.settings.partitions):
        sequences = [r.sequence for r in records if r.source_partition == p]
        assert sequences == list(range(1, len(sequences) + 1))


def test_a_hold_in_a_quiet_partition_lapses_without_any_other_command(world: World) -> None:
    open_all(world)
    world.start(CLEARLINE_SETTLEMENT__TICK_MS="200")
    world.outcomes(OPENED)
    place = partition_of("acme", world.settings.partitions)
    expires_at = int(time.time() * 1000) + 1_500
    roles = {"payer": "acme:wallet:0", "payee": "acme:wallet:1"}
    hold = Transaction("acme", "h", "wallet", "hold", 300, "CNY", roles, (), 20_000, expires_at=expires_at)
    publish(world, hold)

    def lapsed() -> list[JournalRecord]:
        return [r for r in world.journal() if any(p.expired for p in r.pending)]

    (record,) = wait_for("the hold to lapse", lapsed)
    assert (record.command, record.outcome, record.source_partition) == ("Tick", "applied", place)
    assert (record.subject_id, record.changes, record.postings) == ("", {}, ())
    assert [(p.account_id, p.change) for p in record.pending] == [("acme:wallet:0", -300), ("acme:wallet:1", -300)]
    assert record.booked_at >= expires_at, "by the broker's time, whatever this machine's clock says"
    others = [r for r in world.journal() if r.command == "Tick" and r.source_partition != place]
    assert others == [], "where nothing is due nobody ticks"
    publish(world, Transaction("acme", "c", "wallet", "capture", 1, "CNY", {}, (), 20_000, original="h"))
    (late,) = wait_for("the capture", lambda: [r for r in world.journal() if r.idempotency_key == "c"])
    assert late.reason == "hold_expired"
    assert chain_holds(world)


def test_workers_come_and_go_and_nothing_is_settled_twice(world: World) -> None:
    open_all(world)
    world.start(0)
    world.outcomes(OPENED)
    total = OPENED
    for step in range(3):
        world.start(1)
        for part in range(4):
            publish(world, *(transfer(p, f"s{step}-{part}-{i}") for p in PARTNERS for i in range(50)))
            total += 200
        world.outcomes(total, 90)
        world.kill(1)
    records = world.outcomes(total)
    assert Counter(r.outcome for r in records) == {"applied": len(PARTNERS) * 3 + 4, "settled": 2400 + len(PARTNERS)}
    assert len({(r.partner_id, r.idempotency_key, r.source_partition) for r in records}) == total
    assert chain_holds(world)


def _recovered(world: World) -> dict[int, object]:
    committed = committed_offsets(world.kafka, world.topics.group, world.topics.submitted)
    return {x.partition: x for x in recover(world.kafka, world.topics, world.codec, committed, 30 * DAY_MS)}


def test_the_highest_offset_wins_and_not_the_last_row(world: World) -> None:
    open_all(world)
    world.start()
    world.outcomes(OPENED)
    world.kill()
    place = partition_of("acme", world.settings.partitions)
    stale = AccountState("acme:wallet:0", "liability", "CNY", 0, False, False, False, 0, 0, 0, 7, 1)
    zombie = Producer(world.kafka.producer())
    zombie.produce(world.topics.state, world.codec.encode(stale), b"a:acme:wallet:0", place)
    zombie.flush(30)
    ledger = _recovered(world)[place]
    assert ledger.base.accounts["acme:wallet:0"].credits_posted == 1_000_000  # type: ignore[attr-defined]
    assert len(ledger.keys) == ledger.base.head.sequence  # type: ignore[attr-defined]


def _move_group(world: World, offset: int) -> None:
    """Moves the group's offset in acme's partition behind everybody's back."""
    place = partition_of("acme", world.settings.partitions)
    moved = ConsumerGroupTopicPartitions(world.topics.group, [TopicPartition(world.topics.submitted, place, offset)])
    admin = AdminClient(world.kafka.base())

    def reset() -> bool:
        """Possible once the killed member's session is over."""
        done = admin.alter_consumer_group_offsets([moved])[world.topics.group]
        try:
            return all(tp.error is None for tp in done.result(10).topic_partitions)
        except Exception:
            return False

    wait_for("the group to be empty", reset)


def test_a_worker_refuses_offsets_ahead_of_the_state(world: World) -> None:
    open_all(world)
    world.start()
    world.outcomes(OPENED)
    world.kill()
    _move_group(world, 1_000)
    with pytest.raises(InvariantError, match="written together") as caught:
        _recovered(world)
    wrong = caught.value.partition
    ready = world.folder / "ready.json"
    world.start(CLEARLINE_READY_FILE=str(ready))

    def stopped() -> dict[str, Any]:
        return json.loads(ready.read_text()) if ready.exists() and '"stopped": {}' not in ready.read_text() else {}

    figures = wait_for("the wrong partition to stop", stopped)
    assert list(figures["stopped"]) == [str(wrong)]
    assert "written together" in figures["stopped"][str(wrong)]
    others = wait_for(
        "the other partitions to be settled", lambda: sorted({*json.loads(ready.read_text())["partitions"]})
    )
    assert wrong not in others
    assert others == [p for p in range(world.settings.partitions) if p != wrong]

    going = [p for p in PARTNERS if partition_of(p, world.settings.partitions) != wrong]
    publish(world, *(transfer(p, "after") for p in PARTNERS))
    world.outcomes(OPENED + len(going))

    def settled() -> dict[str, float]:
        found = samples(figures["metrics"])
        return found if found["clearline_commands_total"] >= len(going) else {}

    told = wait_for("the metrics of what goes on", settled)
    stopped_of = [told[f"clearline_partition_stopped{{{p}}}"] for p in range(world.settings.partitions)]
    assert stopped_of == [float(p == wrong) for p in range(world.settings.partitions)]
    assert told["clearline_commands_total"] == len(going), "nothing of the stopped partition is settled"
    assert f"clearline_partition_next_offset{{{wrong}}}" not in told


def test_what_waited_in_the_log_tells_nothing_of_the_clock(world: World) -> None:
    """A worker that comes back to old commands is not told to have a fast clock."""
    open_all(world)
    time.sleep(1.5)
    ready = world.folder / "ready.json"
    world.start(CLEARLINE_READY_FILE=str(ready))
    world.outcomes(OPENED)

    def figures(count: int) -> Any:
        found = json.loads(ready.read_text()) if ready.exists() else {}
        return found if found.get("commands", 0) >= count and len(found["end_offset"]) == 4 else {}

    assert wait_for("the figures of the old ones", lambda: figures(OPENED))["clock_skew_ms"] is None

    def seen() -> bool:
        publish(world, transfer("acme", str(time.time_ns())))
        found = json.loads(ready.read_text())["clock_skew_ms"]
        return found is not None and abs(found) < 1_500

    wait_for("a command that came while it was at the end", seen)


def test_offsets_behind_the_state_do_not_settle_anything_again(world: World) -> None:
    """Kafka can forget a group's offsets, or answer with old ones after a crash; the state knows better."""
    open_all(world)
    world.start()
    world.outcomes(OPENED)
    world.kill()
    _move_group(world, 1)
    world.start()
    with world.publisher() as publisher:
        publisher.publish(AdmitPartner("bank", "after", "acme/after"))
    records = world.outcomes(OPENED + 1)
    assert len(records) == len({(r.source_partition, r.source_offset) for r in records}) == OPENED + 1


def test_a_worker_refuses_a_journal_that_does_not_end_at_the_chain_head(world: World) -> None:
    open_all(world)
    world.start()
    world.outcomes(OPENED)
    world.kill()
    place = partition_of("acme", world.settings.partitions)
    last = [r for r in read_to_end(world.kafka, world.topics.journal) if r.partition == place][-1]
    forger = Producer(world.kafka.producer())
    value = last.value or b""
    forged = value[:-1] + bytes([value[-1] ^ 1])
    forger.produce(world.topics.journal, forged, last.key, place, timestamp=last.timestamp_ms)
    forger.flush(30)
    with pytest.raises(InvariantError, match="chain head"):
        _recovered(world)


def test_a_worker_refuses_a_journal_that_was_lost_and_made_anew(world: World) -> None:
    """Else it would go on without the keys that it knew."""
    open_all(world)
    world.start()
    world.outcomes(OPENED)
    world.kill()
    delete(world, world.topics.journal)
    for prepares in (lambda: prepare_world(world.settings), lambda: prepare(world.settings, {}, ("topics",))):
        with pytest.raises(TopicLostError, match=rf"{world.topics.journal} is missing while .* holds records"):
            prepares()
    assert world.topics.journal not in partition_counts(world.kafka)
    create_topics(world.kafka, world.topics, world.settings.partitions)
    with pytest.raises(InvariantError, match="made anew"):
        _recovered(world)


def delete(world: World, topic: str) -> None:
    admin = AdminClient(world.kafka.base())  # kept until the answer is there
    admin.delete_topics([topic])[topic].result(30)
    wait_for("the topic to be gone", lambda: topic not in partition_counts(world.kafka))


def test_a_topic_beside_the_ledger_is_made_anew_and_it_is_told_what_that_means(world: World) -> None:
    delete(world, world.topics.triage)
    told = plan(world.settings, {}, ("topics",))
    assert prepare(world.settings, {}, ("topics",)) == told
    assert [s.what.partition(":")[0] for s in told] == [f"topic {world.topics.triage}"]
    assert "what it held is lost" in told[0].what
    assert prepare(world.settings, {}, ("topics",)) == []


def test_topics_with_another_number_of_partitions_are_named(world: World) -> None:
    assert check_topics(world.kafka, world.topics, 4) == []
    assert create_topics(world.kafka, world.topics, 4) == []
    with pytest.raises(TopicMismatchError, match=r"has 4 partitions, the settings say 6.*CLEARLINE_PARTITIONS=4"):
        check_topics(world.kafka, world.topics, 6)


def test_the_partitioner_is_kafkas_own(world: World) -> None:
    """Keys without an explicit partition land where `partition_of` says, so any language's client agrees with us."""
    producer = Producer(world.kafka.producer())
    names = [f"partner-{i}" for i in range(200)]
    for name in names:
        producer.produce(world.topics.replies, b"x", name.encode())
    producer.flush(30)
    count = len(
        Consumer(world.kafka.consumer("x")).list_topics(world.topics.replies).topics[world.topics.replies].partitions
    )
    found = {(r.key or b"").decode(): r.partition for r in read_to_end(world.kafka, world.topics.replies)}
    assert found == {name: partition_of(name, count) for name in names}


def test_a_broker_that_is_not_there_is_named() -> None:
    nowhere = KafkaConfig("127.0.0.1:1")
    with pytest.raises(PartUnavailableError, match=r"Kafka at 127\.0\.0\.1:1 does not answer"):
        check_topics(nowhere, Topics("x"), 4)


def test_what_was_not_acknowledged_is_told(world: World) -> None:
    nowhere = CommandPublisher(KafkaConfig("127.0.0.1:1"), world.topics, world.codec, 4, delivery_timeout_s=1)
    nowhere.publish(transfer("acme", "x"))
    with pytest.raises(PartUnavailableError, match="1 of 1 commands were not acknowledged"):
        nowhere.flush(5)
    assert (nowhere.published, nowhere.acknowledged, nowhere.failed) == (1, 0, 1)


def test_what_could_not_be_read_in_time_is_not_counted_as_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_all(world)
    ends = end_offsets(world.kafka, world.topics.submitted)
    assert sum(ends.values()) == OPENED
    assert unsettled(world.kafka, world.topics.submitted, ends, {}) == ends
    monkeypatch.setattr("clearline.lag._LOOK_S", 0.0)
    assert unsettled(world.kafka, world.topics.submitted, ends, {}) == ends
