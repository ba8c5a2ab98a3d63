"""Who may do what, on a real broker that denies what no ACL allows and speaks TLS: every role against every topic, group
and transactional id, exactly as the table says; then a small world whose roles each log in as themselves settles money.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ScramMechanism,
    UserScramCredentialDeletion,
)

from clearline import cli, preparing
from clearline.config import load_settings, settings_env
from clearline.connection import kafka_config, registry_of
from clearline.publisher import DeliveryError, Publisher
from schemas.errors import BadInputError, PartUnavailableError
from streams import access
from streams.clients import KafkaConfig
from streams.reader import end_offsets, read_to_end
from streams.topics import Topics
from tests.integration.test_publisher import OPENING, payment
from tests.kafka_cluster import Cluster, OwnNames
from tests.sink_servers import wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

WORLD, OTHER, SMALL = Topics("live"), Topics("other"), Topics("sandbox")
REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}  # fmt: skip
IDS = ("settlement-0-0", "sealer", "webhooks-0", "triage", "nobody")
ANSWER_S = 240.0  # far more than any answer takes, also where ten others start their brokers


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("kafka"), 1, tls=True) as found:
        found.start()
        for topics in (WORLD, OTHER, SMALL):  # into the other's journal the matrix writes what is no record
            found.prepare(topics, 4)
        yield found


# ---- the matrix ----------------------------------------------------------------------------------------------------------


def may(role: str, operation: str, resource: str, name: str) -> bool:
    """What the table says, as Kafka reads it: who may read or write something may describe it."""
    enough = {operation, *(("read", "write") if operation == "describe" else ())}
    return any(
        r.resource == resource and r.operation in enough
        and (name == r.name if r.pattern == "literal" else name.startswith(r.name))
        for r in access.rules(WORLD, role)
    )  # fmt: skip


def permitted(ask: Callable[[], Any]) -> bool:
    """Whether the broker let it happen. Any other error than a refusal is raised."""
    try:
        ask()
    except KafkaException as e:
        if e.args[0].code() in REFUSED:
            return False
        raise
    return True


def raised(error: KafkaError | None) -> None:
    if error is not None:
        raise KafkaException(error)


def reads(kafka: KafkaConfig, topics: list[str]) -> dict[str, bool]:
    """Which of the topics a consumer gets records of; each holds at least one in its first partition."""
    consumer = Consumer(kafka.consumer("clearline-reader", enable_partition_eof=True))
    seen = describes(kafka, topics)  # of a topic that it may not even see a client says nothing, for ever
    found = {t: False for t, visible in seen.items() if not visible}
    try:
        consumer.assign([TopicPartition(t, 0, 0) for t in topics if seen[t]])

        def told() -> bool:
            for m in consumer.consume(100, 0.2):
                error = m.error()
                if error is None or error.code() == KafkaError._PARTITION_EOF:
                    found[str(m.topic())] = True
                elif error.code() in REFUSED and m.topic():
                    found[str(m.topic())] = False
            return found.keys() >= set(topics)

        wait_for(f"an answer for each of {topics}", told, ANSWER_S)
    finally:
        consumer.close()
    return found


def writes(kafka: KafkaConfig, topics: list[str]) -> dict[str, bool]:
    """Into which of the topics a plain producer gets a record."""
    producer = Producer({**kafka.producer(), "enable.idempotence": False, "message.timeout.ms": int(ANSWER_S * 1000)})
    errors: dict[str, KafkaError | None] = {}
    for t in topics:
        producer.produce(t, b"probe", b"probe", 0, on_delivery=lambda e, m: errors.update({str(m.topic()): e}))
    assert producer.flush(ANSWER_S) == 0
    return {t: permitted(lambda t=t: raised(errors[t])) for t in topics}  # type: ignore[misc]


def describes(kafka: KafkaConfig, topics: list[str]) -> dict[str, bool]:
    admin = AdminClient(kafka.base())
    return {t: permitted(lambda t=t: raised(admin.list_topics(t, timeout=ANSWER_S).topics[t].error)) for t in topics}  # type: ignore[misc]


def commits(kafka: KafkaConfig, group: str, topic: str) -> tuple[bool, bool]:
    """Whether a group can be seen, and whether its offsets can be committed. Who cannot see it does not find its
    coordinator, and a client would look for it until it gives up."""
    admin = AdminClient(kafka.base())
    if not permitted(lambda: one(admin.describe_consumer_groups([group]))):
        return False, False
    consumer = Consumer(kafka.consumer(group))
    try:

        def commit() -> None:
            (found,) = consumer.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
            raised(found.error)

        return True, permitted(commit)
    finally:
        consumer.close()


def begins(kafka: KafkaConfig, transactional_id: str) -> bool:
    producer = Producer(kafka.producer(transactional_id=transactional_id))
    return permitted(lambda: producer.init_transactions(ANSWER_S))


def one(answers: dict[Any, Any]) -> Any:
    (answer,) = answers.values()
    return answer.result(ANSWER_S)


def rules_over(kafka: KafkaConfig, topic: str) -> dict[str, bool]:
    """What only whoever prepares a world may do, and reading a topic's settings."""
    admin = AdminClient(kafka.base())
    entry = ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
    settings: Any = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    more = access.Grant("User:eve", access.Rule("topic", topic, "literal", "read"))
    gone: Any = [UserScramCredentialDeletion("live.worker", ScramMechanism.SCRAM_SHA_512)]
    asked: dict[str, Callable[[], Any]] = {
        "create": lambda: one(admin.create_topics([NewTopic(f"{topic}.more", 1, 1)])),
        "delete": lambda: one(admin.delete_topics([topic])),
        "grow": lambda: one(admin.create_partitions([NewPartitions(topic, 99)], validate_only=True)),
        "truncate": lambda: one(admin.delete_records([TopicPartition(topic, 0, 1)])),
        "alter": lambda: one(admin.incremental_alter_configs([settings], validate_only=True)),
        "forget": lambda: one(admin.delete_consumer_groups([f"{WORLD.world}.settlement"])),
        "give_rules": lambda: one(admin.create_acls([access._binding(more)])),
        "take_users": lambda: one(admin.alter_user_scram_credentials(gone)),
        "describe_configs": lambda: one(admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)])),
    }
    if not describes(kafka, [topic])[topic]:
        del asked["truncate"]  # the client finds no leaders to ask
    return {"truncate": False, **{what: permitted(ask) for what, ask in asked.items()}}


def found_of(cluster: Cluster, role: str) -> dict[str, bool]:
    """Everything the broker lets a role do."""
    kafka = cluster.config(access.user_of(WORLD.world, role))
    topics = sorted(WORLD.settings())
    found = {f"read {t}": x for t, x in reads(kafka, topics).items()}
    found |= {f"write {t}": x for t, x in writes(kafka, topics).items()}
    found |= {f"describe {t}": x for t, x in describes(kafka, topics).items()}
    found["see settlement"], found["commit settlement"] = commits(kafka, WORLD.group, WORLD.submitted)
    _, found["commit clearline-reader"] = commits(kafka, "clearline-reader", WORLD.submitted)
    found |= {f"begin {x}": begins(kafka, f"{WORLD.world}.{x}") for x in IDS}
    found |= rules_over(kafka, WORLD.journal)
    other = OTHER.journal
    return found | {"read other": reads(kafka, [other])[other], "write other": writes(kafka, [other])[other]}


def expected_of(role: str) -> dict[str, bool]:
    """The same, as the table says."""
    topics = sorted(WORLD.settings())
    found = {f"{op} {t}": may(role, op, "topic", t) for op in ("read", "write", "describe") for t in topics}
    found["see settlement"] = may(role, "describe", "group", WORLD.group)
    found["commit settlement"] = may(role, "read", "group", WORLD.group) and found[f"read {WORLD.submitted}"]
    found["commit clearline-reader"] = False
    found |= {f"begin {x}": may(role, "write", "transactional_id", f"{WORLD.world}.{x}") for x in IDS}
    never = ("create", "delete", "grow", "truncate", "alter", "forget", "give_rules", "take_users")
    found |= dict.fromkeys((*never, "read other", "write other"), False)
    return found | {"describe_configs": may(role, "describe_configs", "topic", WORLD.journal)}


def test_every_role_may_do_exactly_what_the_table_says(cluster: Cluster) -> None:
    assert all(writes(cluster.admin(), sorted({*WORLD.settings(), OTHER.journal})).values())
    with ThreadPoolExecutor(7) as pool:
        found = dict(zip(access.ROLES, pool.map(lambda r: found_of(cluster, r), access.ROLES), strict=True))
    wrong = [
        f"{role}: {what} is {'allowed' if found[role][what] else 'refused'}"
        for role in access.ROLES
        for what, expected in expected_of(role).items()
        if found[role][what] is not expected
    ]
    assert not wrong, wrong
    assert found.keys() == access.ROLES.keys()
    assert sum(map(len, found.values())) > 500, "questions that were asked"


def test_who_has_no_password_of_his_own_comes_in_nowhere(cluster: Cluster) -> None:
    stranger = cluster.config("live.worker")
    forged = replace(stranger, security=replace(stranger.security, password="guessed"))
    with pytest.raises(PartUnavailableError, match="uthentication"):
        end_offsets(forged, WORLD.journal)
    by_password_only = cluster.config("live.worker", "PLAIN")  # PLAIN knows whoever prepares, and nobody else
    with pytest.raises(PartUnavailableError, match="uthentication"):
        end_offsets(by_password_only, WORLD.journal)
    nobody = cluster.by_certificate("live.nobody")
    with pytest.raises(PartUnavailableError, match="uthorization"):
        end_offsets(nobody, WORLD.journal)


def test_a_certificate_is_as_good_as_a_password(cluster: Cluster) -> None:
    worker, auditor = cluster.by_certificate("live.worker"), cluster.by_certificate("live.auditor")
    before = end_offsets(auditor, WORLD.dead)
    producer = Producer(worker.producer(transactional_id="live.settlement-7-0"))
    producer.init_transactions(ANSWER_S)
    producer.begin_transaction()
    producer.produce(WORLD.dead, b"by certificate", partition=1)
    producer.commit_transaction(ANSWER_S)
    assert [r.value for r in read_to_end(auditor, WORLD.dead, before) if r.partition == 1] == [b"by certificate"]
    assert not writes(auditor, [WORLD.dead])[WORLD.dead]


def test_only_who_prepares_sees_and_makes_users(cluster: Cluster) -> None:
    operator = cluster.config("live.operator")
    for ask in (
        lambda: access.plan(operator, WORLD),
        lambda: access.apply(operator, WORLD),
        lambda: access.missing_users(operator, ["x"]),
        lambda: access.set_users(operator, {"x": "y"}),
    ):
        with pytest.raises(PartUnavailableError, match="Cluster authorization failed"):
            ask()
    assert access.missing_users(cluster.admin(), ["live.worker", "live.cashier"]) == ["live.cashier"]


def test_what_somebody_changed_by_hand_is_seen_and_put_right(cluster: Cluster) -> None:
    assert access.plan(cluster.admin(), WORLD).equal
    extra = access.Grant("User:live.sink-redis", access.Rule("topic", WORLD.journal, "literal", "write"))
    hole = access.Grant("User:*", access.Rule("topic", "*", "literal", "read"))
    lost = access.Grant("User:live.sealer", access.Rule("topic", WORLD.seals, "literal", "write"))
    admin = AdminClient(cluster.admin().base())
    for done in admin.create_acls([access._binding(extra), access._binding(hole)]).values():
        done.result(ANSWER_S)
    one(admin.delete_acls([access._filter(lost)]))
    todo = access.plan(cluster.admin(), WORLD)
    assert (todo.missing, todo.surplus, todo.foreign) == ((lost,), (extra,), (hole,))
    assert access.apply(cluster.admin(), WORLD) == todo
    left = access.plan(cluster.admin(), WORLD)
    assert (left.missing, left.surplus, left.foreign) == ((), (), (hole,))
    one(admin.delete_acls([access._filter(hole)]))
    assert access.plan(cluster.admin(), WORLD).equal


def test_who_is_blocked_gives_no_command_until_that_is_lifted(cluster: Cluster) -> None:
    admin, publisher = cluster.admin(), cluster.config("live.publisher")
    submitted = WORLD.submitted

    def may_write() -> bool:
        return writes(publisher, [submitted])[submitted]

    assert access.block(admin, WORLD, "live.publisher", dry=True)
    assert may_write()
    assert access.block(admin, WORLD, "live.publisher")
    assert not access.block(admin, WORLD, "live.publisher"), "again changes nothing"
    assert not may_write()
    assert writes(cluster.config("live.gateway"), [submitted])[submitted], "nobody else is"
    found = access.apply(admin, WORLD)
    assert found.equal
    assert [g.principal for g in found.blocked] == ["User:live.publisher"]
    assert not may_write(), "making the table's rules lifts it not"
    assert access.block(admin, WORLD, "live.publisher", lift=True)
    assert not access.block(admin, WORLD, "live.publisher", lift=True)
    assert may_write()
    assert access.plan(admin, WORLD).blocked == ()
    for who, why in (
        ("live.auditor", "live.auditor may not write live.transactions.submitted anyway"),
        ("live.publsher", "those who may: live.console, live.gateway"),
        ("live.worker", "live.worker settles"),
    ):
        with pytest.raises(BadInputError, match=why):
            access.block(admin, WORLD, who)


# ---- a small world of principals -------------------------------------------------------------------------------------------


def block_and_lift(
    stack: OwnNames, p: Publisher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command line: a publisher that goes on is refused, and the journal says who did it and why."""

    def command(name: str) -> Any:
        capsys.readouterr()
        arguments = ["access", name, "sandbox.publisher", "--note", "incident 12", "--by", "li", "--json"]
        assert cli.main(arguments) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    for name, value in settings_env(stack.resolved()).items():
        monkeypatch.setenv(name, value)
    told = command("block")
    assert (told["principal"], told["blocked"], told["changed"]) == ("sandbox.publisher", True, True)
    with pytest.raises(DeliveryError, match="uthorization"):
        p.settle(payment("o-2", 5), timeout_s=ANSWER_S)
    assert command("unblock")["changed"] is True

    def let_in_again() -> bool:
        """The client refuses by itself until it has looked at the topic again."""
        try:
            return bool(p.settle(payment("o-3", 5), timeout_s=ANSWER_S).status == "settled")
        except DeliveryError:
            return False

    wait_for("the publisher to be let in again", let_in_again)
    auditor = stack.as_role("auditor")
    codec = registry_of(auditor).codec()
    records = [codec.decode(r.value) for r in read_to_end(kafka_config(auditor), SMALL.journal)]
    acts = [
        (r.changes["act"], r.subject_id, r.changes["requested_by"], r.changes["note"])
        for r in records
        if r.command == "OperatorAct"
    ]
    assert acts == [(f"access.{x}", "sandbox.publisher", "li", "incident 12") for x in ("block", "unblock")]


def test_a_world_in_which_everybody_is_himself_settles_money(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare = cluster.settings(access.SUPER_USER, "PLAIN")
    settings = load_settings(data_dir=tmp_path / "data", world=SMALL.world, partitions=4, workers=1, kafka=prepare)
    with OwnNames(cluster, settings, ("registry", "clickhouse", "redis")) as stack:
        stack.start(roles=True)
        with Publisher(stack.as_role("publisher")) as p:
            opened = [p.publish(document) for document in OPENING]
            assert [s.outcome(ANSWER_S).status for s in opened] == ["applied"] * 6 + ["settled"] * 2
            assert p.settle(payment("o-1", 5), timeout_s=ANSWER_S).status == "settled"
            block_and_lift(stack, p, monkeypatch, capsys)

        from clearline.audit.tieout import tieout
        from clearline.audit.verify import verify

        auditor = stack.as_role("auditor")
        wait_for("ClickHouse and Redis to be equal", lambda: tieout(auditor).ok, ANSWER_S)
        verdict = verify(auditor, drained=True)
        assert verdict.ok, verdict.lines()
        for name in ("worker-0", "sink-clickhouse", "sink-redis", "sealer", "tieout", "gateway-0", "webhooks-0"):
            assert stack.restarts(name) == 0, name
    assert [x for x in cluster.refusals() if "sandbox." in x.split()[0]] == []


def test_clearline_prepare_makes_a_world_of_it_and_says_what_was_missing(cluster):
    """Topics, users and rules by the one command, as docker-compose.yml runs it; a second run only gives the users their passwords."""
    settings = load_settings(world="third", partitions=2, kafka=cluster.settings(access.SUPER_USER, "PLAIN"))
    parts = ("topics", "access")
    environment = {"KAFKA_PASSWORD_WORKER": "a-password-of-a-worker", "KAFKA_PASSWORD_SEALER": "another"}
    wanted = preparing.plan(settings, environment, parts)
    assert {s.what for s in wanted} >= {"user third.worker of the brokers", "user third.sealer of the brokers"}
    assert sum(s.what.startswith("topic third.") for s in wanted) == len(Topics("third").settings())
    assert preparing.prepare(settings, environment, parts) == wanted
    # The controller has taken the users; the broker that is asked learns of them a moment later.
    wait_for("nothing to be missing", lambda: preparing.plan(settings, environment, parts) == [])
    again = preparing.prepare(settings, environment, parts)
    assert [s.what for s in again] == ["user third.sealer of the brokers", "user third.worker of the brokers"], (
        "passwords are given again, whoever has one: nothing else"
    )
    cluster.passwords["third.worker"] = environment["KAFKA_PASSWORD_WORKER"]
    seen = describes(cluster.config("third.worker"), [Topics("third").submitted, WORLD.submitted])
    assert seen == {Topics("third").submitted: True, WORLD.submitted: False}
