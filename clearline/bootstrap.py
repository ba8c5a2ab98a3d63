"""Prepares a world: topics, schemas, tables. Idempotent: it runs at every start, and changes nothing that is there."""

from __future__ import annotations

from clearline.config import Settings
from clearline.connection import clickhouse_config, kafka_config, registry_of
from sinks import migrate
from streams.topics import Topics, check_topics, create_topics, refuse_lost


def prepare_world(settings: Settings) -> None:
    """Creates what is missing of the settings' world. `settings` hold all addresses.

    Raises TopicMismatchError when a topic has another number of partitions, TopicLostError, BadInputError when the
    registry refuses a schema or a migration was changed, PartUnavailableError when a part does not answer.
    """
    kafka, topics = kafka_config(settings), Topics(settings.world)
    refuse_lost(kafka, topics, check_topics(kafka, topics, settings.partitions))
    create_topics(kafka, topics, settings.partitions, replication=settings.kafka.replication)
    registry_of(settings).register_all()
    migrate.apply(clickhouse_config(settings))
