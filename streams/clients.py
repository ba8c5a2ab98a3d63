"""How every Kafka client is configured: one place, so that a cluster's security settings reach all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ClusterMetadata, OffsetSpec  # type: ignore[attr-defined]  # exported, but not said so

from schemas.errors import PartUnavailableError

# librdkafka repeats connection errors on stderr; callers report an unreachable broker once, in words.
_QUIET: dict[str, Any] = {"log_level": 2, "log.connection.close": False}

# The broker answered, and does not want this of us: no try again helps.
_REFUSALS = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
)
_WHY_S = 3.0


@dataclass(frozen=True, slots=True)
class Security:
    """Who a client is to the brokers, and how it speaks with them. Paths are of PEM files.

    `protocol`: PLAINTEXT, SSL (mTLS with a certificate), SASL_PLAINTEXT or SASL_SSL; `mechanism`: with SASL. Without
    `ca` the authorities of the system are believed.
    """

    protocol: str = "PLAINTEXT"
    mechanism: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    key_password: str = field(default="", repr=False)

    def settings(self) -> dict[str, str]:
        """librdkafka's settings; none for a plain connection."""
        if self.protocol == "PLAINTEXT":
            return {}
        found = {"security.protocol": self.protocol}
        if self.protocol.startswith("SASL_"):
            found["sasl.mechanism"] = self.mechanism
            found["sasl.username"] = self.username
            found["sasl.password"] = self.password
        if self.protocol.endswith("SSL"):
            found["ssl.endpoint.identification.algorithm"] = "https"  # the certificate is for the broker's name
            files = {"ssl.ca.location": self.ca, "ssl.certificate.location": self.certificate}
            found |= {k: str(v) for k, v in {**files, "ssl.key.location": self.key}.items() if v is not None}
            if self.key_password:
                found["ssl.key.password"] = self.key_password
        return found


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """Where the brokers are (`host:port,...`), who we are to them, and further librdkafka settings, which win.

    Every client of every role is made from `base`, `consumer` or `producer`: nothing else makes librdkafka's settings.
    """

    bootstrap: str
    extra: Mapping[str, str] = field(default_factory=dict, repr=False)
    security: Security = field(default_factory=Security)

    def base(self) -> dict[str, Any]:
        """Settings that every client shares."""
        return {"bootstrap.servers": self.bootstrap, **_QUIET, **self.security.settings(), **self.extra}

    def consumer(self, group: str, **settings: Any) -> dict[str, Any]:
        """A consumer that sees only committed Kafka transactions and never commits by itself.

        Keyword names are librdkafka's with underscores for dots.
        """
        return {
            **self.base(),
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 100,  # the broker answers as soon as there is something; idle clients ask less often
            "fetch.queue.backoff.ms": 5,
            **_dotted(settings),
        }

    def producer(self, **settings: Any) -> dict[str, Any]:
        """An idempotent producer that waits for all in-sync replicas and places keys as Kafka's Java clients do."""
        return {
            **self.base(),
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",
            "linger.ms": 1,
            "retry.backoff.ms": 5,
            "retry.backoff.max.ms": 100,
            "queue.buffering.max.messages": 1_000_000,
            **_dotted(settings),
        }


def _dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k.replace("_", "."): v for k, v in settings.items()}


def refused(error: KafkaError) -> bool:
    """Whether the broker denies us what we asked: an ACL is missing."""
    return error.code() in _REFUSALS


def told(kafka: KafkaConfig, error: KafkaException) -> str:
    """What to tell people about an error. A broker that refuses a password or a certificate hangs up on most calls, and
    why it did is told elsewhere: so whoever logs in asks once more there, for at most `_WHY_S`."""
    text: str = error.args[0].str()
    if kafka.security.protocol == "PLAINTEXT" or error.args[0].code() in _REFUSALS:
        return text
    said: list[KafkaError] = []
    settings: dict[str, Any] = {**kafka.base(), "error_cb": said.append}
    asking = AdminClient(settings)
    deadline = time.monotonic() + _WHY_S
    while time.monotonic() < deadline:
        asking.poll(0.05)
        for e in said:
            if e.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
                return f"authentication failed: {e.str()}"
    return text


def admin_client(kafka: KafkaConfig, timeout_s: float = 5.0) -> AdminClient:
    """An admin client of a broker that has answered. Raises PartUnavailableError after `timeout_s`."""
    admin = AdminClient(kafka.base())
    _listed(admin, kafka, timeout_s)
    return admin


def cluster(kafka: KafkaConfig, timeout_s: float = 5.0) -> ClusterMetadata:
    """What the brokers say of themselves and their topics. Raises PartUnavailableError after `timeout_s`."""
    return _listed(AdminClient(kafka.base()), kafka, timeout_s)


def _listed(admin: AdminClient, kafka: KafkaConfig, timeout_s: float) -> ClusterMetadata:
    try:
        return admin.list_topics(timeout=timeout_s)
    except KafkaException as e:
        hint = f"{told(kafka, e)}; start it with `./run up`, or set CLEARLINE_KAFKA__BOOTSTRAP"
        raise PartUnavailableError("Kafka", kafka.bootstrap, hint) from None


def every_partition_is_led(kafka: KafkaConfig, timeout_s: float = 5.0) -> bool:
    """Whether the leader of every partition answers. A broker that has just started gives its metadata before that.

    Raises PartUnavailableError when no broker answers.
    """
    admin = admin_client(kafka, timeout_s)
    try:
        topics = admin.list_topics(timeout=timeout_s).topics
        latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        ends = {TopicPartition(t, p): latest for t, found in topics.items() for p in found.partitions}
        if ends:
            for answer in admin.list_offsets(ends, request_timeout=timeout_s).values():
                answer.result()
    except KafkaException:
        return False
    return True


def noted(offsets: list[int], i: int, failed: list[KafkaError]) -> Callable[[KafkaError | None, Any], None]:
    """A delivery callback that puts the record's offset at place `i`, or what went wrong into `failed`."""

    def on_delivery(error: KafkaError | None, message: Any) -> None:
        if error is not None:
            failed.append(error)
        else:
            offsets[i] = message.offset()

    return on_delivery
