"""The topics of one world, on one page: what each is keyed by, how long it is kept, and why.

| topic | key | kept | holds |
|---|---|---|---|
| transactions.submitted | root partner | 30 days | commands, steps between partitions among them, in their order |
| journal | root partner, same partition | for ever | one outcome per command: the truth |
| ledger.state | account, partner, hold or `meta` | compacted | where each account stands; recovery reads it |
| transactions.dead | as received | 90 days | what could not be decoded or broke the contract |
| triage | dead letter's id, or task | for ever | what operators did with dead letters: put back, discarded, by whom |
| seals | last sequence, same partition as the journal | for ever | Merkle roots over stretches of the journal |
| replies | partition = gateway instance | 1 hour | outcomes that a caller waits for |
| access | kind and id | compacted | partners' keys, webhook subscriptions, onboarding: what no ledger needs to know |
| calls | none | 90 days | how many calls the gateways answered, and how fast: a measurement |
| webhooks | see docs/webhooks.md | compacted | notifications that are not delivered yet, or dead |

Every topic but `replies` has the same number of partitions, and an outcome stands in the partition of its command.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from schemas.errors import BadInputError, PartUnavailableError
from streams.clients import KafkaConfig, admin_client, cluster
from streams.reader import spans_uncommitted

DAY_MS = 86_400_000
# A step between partitions has a transaction's own fields (at most 1,000,000 bytes) and up to 1,000 legs of 670 bytes.
MESSAGE_BYTES_MAX = 2_097_152
DEAD_BYTES_MAX = 2 * MESSAGE_BYTES_MAX  # original bytes plus headers; a journal record has its legs twice


class TopicMismatchError(BadInputError):
    """A topic exists with another number of partitions than the settings say."""


class TopicLostError(BadInputError):
    """A topic that the ledger cannot be without is missing, and the ledger is there."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of a world's topics; `world` is the prefix: live or sandbox."""

    world: str

    @property
    def submitted(self) -> str:
        return f"{self.world}.transactions.submitted"

    @property
    def journal(self) -> str:
        return f"{self.world}.journal"

    @property
    def state(self) -> str:
        return f"{self.world}.ledger.state"

    @property
    def dead(self) -> str:
        return f"{self.world}.transactions.dead"

    @property
    def triage(self) -> str:
        return f"{self.world}.triage"

    @property
    def seals(self) -> str:
        return f"{self.world}.seals"

    @property
    def replies(self) -> str:
        return f"{self.world}.replies"

    @property
    def access(self) -> str:
        return f"{self.world}.access"

    @property
    def calls(self) -> str:
        return f"{self.world}.calls"

    @property
    def webhooks(self) -> str:
        return f"{self.world}.webhooks"

    @property
    def group(self) -> str:
        """Consumer group of the settlement workers."""
        return f"{self.world}.settlement"

    @property
    def truth(self) -> tuple[str, ...]:
        """What nothing else can bring back: the ledger, and who may call it."""
        return self.submitted, self.journal, self.state, self.access, self.seals

    def settings(self) -> dict[str, dict[str, str]]:
        """Topic settings by name."""
        forever = {"retention.ms": "-1", "retention.bytes": "-1"}
        # The broker's time, not that of whoever writes: a broker refuses records of a machine whose clock is an hour
        # fast, and would drop too early those of one whose clock is slow. Journal and seals carry event times.
        by_broker = {"message.timestamp.type": "LogAppendTime"}
        return {
            self.submitted: {
                **by_broker,
                "retention.ms": str(30 * DAY_MS),
                "max.message.bytes": str(MESSAGE_BYTES_MAX),
            },
            self.journal: {**forever, "max.message.bytes": str(DEAD_BYTES_MAX)},
            self.state: {
                **by_broker,
                "cleanup.policy": "compact",
                "segment.bytes": str(64 * 1024 * 1024),
                "max.message.bytes": str(DEAD_BYTES_MAX),
            },
            self.dead: {**by_broker, "retention.ms": str(90 * DAY_MS), "max.message.bytes": str(DEAD_BYTES_MAX)},
            self.triage: {**by_broker, **forever, "max.message.bytes": str(DEAD_BYTES_MAX)},
            self.seals: dict(forever),
            self.replies: {**by_broker, "retention.ms": str(DAY_MS // 24)},
            self.access: {**by_broker, "cleanup.policy": "compact"},
            self.calls: {**by_broker, "retention.ms": str(90 * DAY_MS)},
            self.webhooks: {**by_broker, "cleanup.policy": "compact", "max.message.bytes": str(DEAD_BYTES_MAX)},
        }


def partition_counts(kafka: KafkaConfig, timeout_s: float = 5.0) -> dict[str, int]:
    """Partitions of every topic of the cluster. Raises PartUnavailableError."""
    found = cluster(kafka, timeout_s).topics
    return {name: len(t.partitions) for name, t in found.items()}


def check_topics(kafka: KafkaConfig, topics: Topics, partitions: int) -> list[str]:
    """Topics that are still missing. Raises TopicMismatchError when one has another number of partitions."""
    have = partition_counts(kafka)
    for name in topics.settings():
        if name != topics.replies and name in have and have[name] != partitions:
            raise TopicMismatchError(
                f"topic {name} has {have[name]} partitions, the settings say {partitions}: a ledger cannot be "
                f"re-partitioned; set CLEARLINE_PARTITIONS={have[name]}"
            )
    return [name for name in topics.settings() if name not in have]


def refuse_lost(kafka: KafkaConfig, topics: Topics, missing: Sequence[str]) -> None:
    """Nobody may make a topic of the truth anew, and empty, where another one holds records: an empty log would pass
    for what happened. `missing`: what is about to be made. Raises TopicLostError, PartUnavailableError."""
    lost = [name for name in topics.truth if name in missing]
    for name in (n for n in topics.truth if lost and n not in missing):
        if any(end for _, end in spans_uncommitted(kafka, name).values()):
            raise TopicLostError(
                f"topic {lost[0]} is missing while {name} holds records: it was lost, and is not made anew empty. Stop "
                "all roles and restore a backup (docs/production.md#restore)"
            )


def create_topics(kafka: KafkaConfig, topics: Topics, partitions: int, *, replication: int = 1) -> list[str]:
    """Creates what is missing and waits until it is seen; returns the names created. `partitions`: at least 1."""
    missing = check_topics(kafka, topics, partitions)
    admin = admin_client(kafka)
    settings = topics.settings()
    new = [
        NewTopic(n, partitions, replication, config={**settings[n], "min.insync.replicas": str((replication + 1) // 2)})
        for n in missing
    ]
    for name, done in (admin.create_topics(new) if new else {}).items():
        try:
            done.result(30)
        except KafkaException as e:
            if e.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise PartUnavailableError("Kafka", kafka.bootstrap, f"{name}: {e.args[0].str()}") from None
        except TimeoutError:
            raise PartUnavailableError("Kafka", kafka.bootstrap, f"{name} was not created within 30 s") from None
    deadline = time.monotonic() + 30
    while check_topics(kafka, topics, partitions):
        if time.monotonic() > deadline:
            raise PartUnavailableError("Kafka", kafka.bootstrap, "created topics did not appear within 30 s")
        time.sleep(0.05)
    return missing


def topic_ids(kafka: KafkaConfig, names: list[str]) -> dict[str, str]:
    """The broker's id of each topic: a re-created topic has another, so its offsets are other offsets."""
    from confluent_kafka import TopicCollection

    admin = admin_client(kafka)  # kept until the answer is there: a client that is dropped never answers
    described = admin.describe_topics(TopicCollection(names))
    try:
        return {name: str(done.result(20).topic_id) for name, done in described.items()}
    except (TimeoutError, KafkaException) as e:
        hint = f"{', '.join(names)} could not be described: {str(e) or 'no answer within 20 s'}"
        raise PartUnavailableError("Kafka", kafka.bootstrap, hint) from None
