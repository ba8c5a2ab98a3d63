"""The settlement group's offsets beside the state that was committed with them, and putting back what was moved.

Both are written in one Kafka transaction, so the group is never ahead of the state; where it is, somebody moved it, and
the partition is halted (streams/recovery.py). The only right place is the state's own: it is never typed.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import NamedTuple

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition

from schemas.codec import Codec
from schemas.errors import BadInputError, PartUnavailableError
from streams.clients import KafkaConfig, admin_client, told
from streams.reader import committed_offsets
from streams.recovery import recover
from streams.topics import Topics

_ASK_S = 10.0
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
    places = [TopicPartition(topics.submitted, s.partition, s.state) for s in moved]
    admin, deadline = admin_client(kafka), time.monotonic() + patience_s
    while True:
        asked = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(topics.group, places)])
        try:
            done = asked[topics.group].result(_ASK_S).topic_partitions
        except (KafkaException, TimeoutError) as e:
            why = told(kafka, e) if isinstance(e, KafkaException) else "no answer"
        else:
            if not (why := next((tp.error.str() for tp in done if tp.error is not None), "")):
                return
        if time.monotonic() > deadline:
            members = _members(kafka, topics)
            if members:
                raise BadInputError(
                    f"workers still run: {', '.join(members)} are in {topics.group}; stop them all first"
                )
            raise PartUnavailableError("Kafka", kafka.bootstrap, f"it does not move {topics.group}: {why}")
        time.sleep(_AGAIN_S)


def _members(kafka: KafkaConfig, topics: Topics) -> list[str]:
    found = admin_client(kafka).describe_consumer_groups([topics.group])[topics.group].result(_ASK_S)
    return sorted(f"{m.client_id} on {m.host}" for m in found.members)
