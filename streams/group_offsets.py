"""The settlement group's offsets beside the state that was committed with them, and putting back what was moved.

Both are written in one Kafka transaction, so the group is never ahead of the state; where it is, somebody moved it, and
the partition is halted (streams/recovery.py). The only right place is the state's own: it is never typed.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition

from schemas.codec import Codec
from schemas.errors import BadInputError, PartUnavailableError
from streams.clients import KafkaConfig, admin_client, told
from streams.reader import committed_offsets
from streams.recovery import recover
from streams.topics import Topics

_ASK_S = 120.0  # the client itself gives up earlier
_AGAIN_S = 0.5


class Standing(NamedTuple):
    """A partition: where the group stands (-1 where it has committed nothing), and the state; offsets of commands."""

    partition: int
    group: int
    state: int

    @property
    def moved(self) -> bool:
        """Whether the group is ahead, as it can only be when something else wrote it. Behind is no harm: the state
        counts."""
        return self.group > self.state


def standings(kafka: KafkaConfig, topics: Topics, codec: Codec, window_ms: int) -> list[Standing]:
    """Every partition; workers may go on meanwhile. Raises PartUnavailableError."""
    groups = committed_offsets(kafka, topics.group, topics.submitted)  # first: the state only grows
    ledgers = recover(kafka, topics, codec, dict.fromkeys(groups, -1), window_ms, live=True)
    return [Standing(x.partition, max(groups[x.partition], -1), x.base.head.next_offset) for x in ledgers]


def put_back(
    kafka: KafkaConfig, topics: Topics, codec: Codec, window_ms: int, moved: Collection[Standing], patience_s: float
) -> None:
    """Sets the group to the state's offset in partitions where it was moved.

    The broker allows it when no worker is in the group, for which it is waited `patience_s`. Raises InvariantError when
    state and journal of a partition do not fit either, and then changes nothing; BadInputError when workers stay.
    """
    recover(kafka, topics, codec, {s.partition: s.state for s in moved}, window_ms)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return set_group(kafka, topics, {s.partition: s.state for s in moved})
        except PartUnavailableError:
            if time.monotonic() > deadline:
                if who := ", ".join(members(kafka, topics)):
                    hint = f"workers still run: {who} are in {topics.group}; stop them all first"
                    raise BadInputError(hint) from None
                raise
        time.sleep(_AGAIN_S)


def set_group(kafka: KafkaConfig, topics: Topics, offsets: Mapping[int, int]) -> None:
    """Sets where the settlement's group stands, by partition. Raises PartUnavailableError, also while somebody is in
    it: then the broker refuses."""
    places = [TopicPartition(topics.submitted, p, offset) for p, offset in sorted(offsets.items())]
    admin = admin_client(kafka)  # kept until the answer is there
    asked = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(topics.group, places)])
    try:
        done = asked[topics.group].result(_ASK_S).topic_partitions
    except KafkaException as e:
        raise PartUnavailableError("Kafka", kafka.bootstrap, told(kafka, e)) from None
    except TimeoutError:
        raise PartUnavailableError("Kafka", kafka.bootstrap, f"{topics.group}: no answer in {_ASK_S:.0f} s") from None
    if wrong := next((tp for tp in done if tp.error is not None), None):
        raise PartUnavailableError("Kafka", kafka.bootstrap, f"{topics.group}[{wrong.partition}]: {wrong.error.str()}")


def members(kafka: KafkaConfig, topics: Topics) -> list[str]:
    """Who is in the settlement's group; one that was killed stays for its session. Raises PartUnavailableError."""
    admin = admin_client(kafka)
    try:
        found = admin.describe_consumer_groups([topics.group])[topics.group].result(_ASK_S)
    except KafkaException as e:
        if e.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return []
        raise PartUnavailableError("Kafka", kafka.bootstrap, told(kafka, e)) from None
    return sorted(f"{m.client_id} on {m.host}" for m in found.members)
