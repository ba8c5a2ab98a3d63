"""Everything a command needs to speak with a running system: brokers, topics, registry and codec, checked once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clearline.config import KafkaSettings, Settings
from clearline.secret_files import read_secret
from schemas.codec import Codec
from schemas.errors import PartUnavailableError
from streams.clients import KafkaConfig, Security
from streams.publisher import CommandPublisher
from streams.registry import Registry
from streams.topics import Topics, check_topics

if TYPE_CHECKING:  # a worker is up sooner without the drivers of stores that it never talks to
    from sinks.balances import RedisConfig
    from sinks.clickhouse import ClickHouseConfig


@dataclass(frozen=True, slots=True)
class Connection:
    """A system that answered. Make it with `connect`."""

    kafka: KafkaConfig
    topics: Topics
    codec: Codec
    partitions: int
    message_bytes_max: int

    def publisher(self, delivery_timeout_s: float = 30.0, *, idempotent: bool = True) -> CommandPublisher:
        """A publisher into this system's world. `idempotent`: as CommandPublisher has it."""
        return CommandPublisher(
            self.kafka, self.topics, self.codec, self.partitions, delivery_timeout_s=delivery_timeout_s,
            idempotent=idempotent,
        )  # fmt: skip


def kafka_config(settings: Settings) -> KafkaConfig:
    """How to reach the brokers, and who we are to them.

    Raises PartUnavailableError when the settings name none, BadInputError when a secret's file cannot be read.
    """
    if settings.kafka.bootstrap is None:
        raise PartUnavailableError("Kafka", "no address", "start everything with `./run up`")
    return KafkaConfig(settings.kafka.bootstrap, settings.kafka.client, _security(settings.kafka))


def _security(given: KafkaSettings) -> Security:
    """Raises BadInputError when a secret's file cannot be read."""
    password, key_password = given.password, given.key_password
    if given.password_file is not None:
        password = read_secret(given.password_file, "CLEARLINE_KAFKA__PASSWORD_FILE")
    if given.key_password_file is not None:
        key_password = read_secret(given.key_password_file, "CLEARLINE_KAFKA__KEY_PASSWORD_FILE")
    return Security(
        given.security_protocol, given.sasl_mechanism, given.username, password, given.ca_file,
        given.certificate_file, given.key_file, key_password,
    )  # fmt: skip


def registry_of(settings: Settings) -> Registry:
    """The schema registry. Raises PartUnavailableError when the settings name none."""
    if settings.registry.url is None:
        raise PartUnavailableError("Schema registry", "no address", "start everything with `./run up`")
    return Registry(settings.registry.url)


def clickhouse_config(settings: Settings) -> ClickHouseConfig:
    """How to reach ClickHouse. Raises PartUnavailableError when the settings name no host."""
    from sinks.clickhouse import ClickHouseConfig

    house = settings.clickhouse
    if house.host is None:
        raise PartUnavailableError("ClickHouse", "no address", "start everything with `./run up`")
    return ClickHouseConfig(
        house.host, house.port, house.database, house.user, house.password,
        reader_user=house.reader_user, reader_password=house.reader_password, secure=house.secure,
        ca=str(house.ca_file or ""),
        cluster=house.cluster, storage_policy=house.storage_policy, cold_volume=house.cold_volume,
        cold_after_months=house.cold_after_months, calls_keep_days=house.calls_keep_days,
    )  # fmt: skip


def redis_config(settings: Settings) -> RedisConfig:
    """How to reach Redis. Raises PartUnavailableError when the settings do not say."""
    from sinks.balances import RedisConfig

    if settings.redis.url is None:
        raise PartUnavailableError("Redis", "no address", "start everything with `./run up`")
    return RedisConfig(settings.redis.url, settings.world)


def connect(settings: Settings, records: Collection[str] = ()) -> Connection:
    """Checks that the topics are there with the right number of partitions, and fetches the schemas' ids.

    `records`: names of the only records that will be written and read, for whoever is in a hurry: the registry is asked
    for each. `settings` must hold addresses (`clearline.stack.resolved_settings`). Raises PartUnavailableError within
    seconds when a part does not answer, and TopicMismatchError when a topic has another number of partitions.
    """
    kafka, topics = kafka_config(settings), Topics(settings.world)
    missing = check_topics(kafka, topics, settings.partitions)
    if missing:
        hint = f"topic {missing[0]} does not exist; `./run up` prepares the world {settings.world}"
        raise PartUnavailableError("Kafka", kafka.bootstrap, hint)
    codec = registry_of(settings).codec(records)
    return Connection(kafka, topics, codec, settings.partitions, settings.settlement.message_bytes_max)
