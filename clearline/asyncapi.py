"""The topics of a world as an AsyncAPI 3 document, put together from what the code itself uses: the schemas and their
examples, the topics' settings, the headers' names. docs/asyncapi.yaml is this document; CI compares the two.

What no schema says is said here once: which records stand in which topic, and under which key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from clearline.config import Settings
from clearline.deadletters import REASONS
from processors.settlement import ATTEMPTS_HEADER, REDRIVE_HEADER
from schemas.codec import schema_of
from schemas.examples import documents as examples_of
from schemas.records import COMMANDS, Subjects
from streams.publisher import REPLY_HEADER
from streams.topics import Topics

AVRO = "application/vnd.apache.avro+json;version=1.9.0"
WIRE = "application/vnd.confluent.avro"
_BINDINGS = "0.5.0"
_TEXT = {"type": "string"}
_LETTER_ID = "^[0-9]{1,6}:[0-9]{1,18}$"

_ABOUT = """\
The topics of a double-entry ledger. Values are in Confluent's wire format: byte 0, the schema's id in 4 bytes,
big-endian, then the Avro body; the schema is registered under its full name (RecordNameStrategy). Amounts are integers
in minor units of an ISO 4217 currency. The examples are those of schemas/avro/examples: bytes and fixed are written in
hexadecimal, dates as days and times as milliseconds since 1970-01-01 UTC, and a field at its default may be left out. A
worked example in bytes is in docs/publishing.md."""

_REPLY_TO = {
    "type": "object",
    "properties": {
        REPLY_HEADER: {
            "type": "string",
            "pattern": "^[0-9]{1,6}$",
            "description": "The partition of `replies` to which the outcome is sent. Left out: nobody waits.",
        },
        ATTEMPTS_HEADER: {
            "type": "string",
            "pattern": "^[0-9]{1,6}$",
            "description": "How often this command was tried before: of one that `clearline dlq redrive` put back.",
        },
        REDRIVE_HEADER: {
            "type": "string",
            "pattern": _LETTER_ID,
            "description": "The dead letter that came first, PARTITION:OFFSET: of one that was put back.",
        },
    },
}
_BURIED = {
    "type": "object",
    "required": ["reason", "detail", "source_topic", "source_partition", "source_offset", "received_at", "attempts"],
    "properties": {
        "reason": {**_TEXT, "enum": [*REASONS, "internal"], "description": "Stable code."},
        "detail": {**_TEXT, "description": "What was wrong, in one sentence."},
        "source_topic": {**_TEXT, "description": "Where it was read."},
        "source_partition": {**_TEXT, "pattern": "^[0-9]+$"},
        "source_offset": {**_TEXT, "pattern": "^[0-9]+$"},
        "received_at": {**_TEXT, "pattern": "^[0-9]+$", "description": "The broker's append time, milliseconds UTC."},
        "attempts": {**_TEXT, "pattern": "^[0-9]+$", "description": "How often it was tried."},
        REDRIVE_HEADER: {
            **_TEXT,
            "pattern": _LETTER_ID,
            "description": "The dead letter that came first: of a command that was put back and died again.",
        },
    },
}


class Held(NamedTuple):
    """A record in a topic. `key`: of its Kafka record; `deletes`: what an empty value under that key means."""

    record: str
    key: str
    key_pattern: str = ""
    deletes: str = ""


class Channel(NamedTuple):
    """One topic. `name`: its property of `Topics`; `does`: send or receive, as the ledger sees it."""

    name: str
    title: str
    description: str
    does: str
    holds: Sequence[Held]
    headers: dict[str, Any] | None = None


_ROOT = "The root partner: the path of whoever asks up to the first slash, or `bank`; UTF-8."
_PLACE = (
    "Publish with acks=all and an idempotent producer, to partition (murmur2(root partner) & 0x7fffffff) modulo the "
    "number of partitions; what concerns the bank's own accounts, products and calendars goes to every partition."
)
_BY_KIND = {
    "AccountState": ("a:", "account id", ""),
    "HoldState": ("h:", "hold id in hexadecimal", "the hold is used up, voided or lapsed"),
    "PartnerState": ("p:", "partner's path", ""),
    "LimitState": ("l:", "level, colon, subject", "the subject has no limits any more"),
    "UsageState": ("u:", "level, colon, subject", "no window is open"),
    "CalendarState": ("c:", "partner's path, or bank", ""),
    "FreezeState": ("f:", "level, colon, subject", "the freeze is lifted"),
    "DayState": ("y:", "ISO date of a closed day", ""),
    "ProductState": ("d:", "product, colon, version", ""),
    "CrossingState": ("x:", "home partition, colon, transaction id in hexadecimal", "the transaction is decided"),
}

CHANNELS = (
    Channel(
        "submitted", "Commands", f"All that asks the ledger to change, in the order in which it counts. {_PLACE}",
        "receive", tuple(Held(c.__name__, _ROOT) for c in COMMANDS), _REPLY_TO,
    ),
    Channel(
        "journal", "Outcomes", "One record per command, in order, kept for ever: the truth. Read it with "
        "isolation.level=read_committed. It has the partition of its command; the time of a record is `booked_at`.",
        "send", (Held("JournalRecord", "As its command was keyed."),),
    ),
    Channel(
        "replies", "Outcomes for who waits", "The outcome of each command that named a partition of this topic in "
        f"its header `{REPLY_HEADER}`, there and only there.",
        "send", (Held("Reply", "The command id, 16 bytes."),),
    ),
    Channel(
        "state", "State", "Where each account, hold, partner, limit and product stands; compacted, so that a worker "
        "can take over a partition. Written in one Kafka transaction with the journal.",
        "send",
        (
            *(
                Held(name, f"`{prefix}` and {what}.", f"^{prefix}", f"An empty value: {gone}." if gone else "")
                for name, (prefix, what, gone) in _BY_KIND.items()
            ),
            Held("PartitionState", "`meta`: where the partition stands.", "^meta$"),
        ),
    ),
    Channel(
        "seals", "Seals", "Merkle roots over stretches of the journal, each naming the one before it; docs/proof.md.",
        "send", (Held("Seal", "The last sequence that it covers, in decimal.", "^[0-9]+$"),),
    ),
    Channel(
        "access", "Access", "What the gateways must know at once and no ledger needs: partners' keys and their webhook "
        "subscriptions. Compacted; never holds a secret as it is.",
        "send",
        (
            Held("AccessKey", "`k:` and the key's id.", "^k:", "An empty value: the key is forgotten."),
            Held("Subscription", "`s:` and the subscription's id.", "^s:", "An empty value: it was deleted."),
            Held("Onboarding", "`o:` and the partner's path.", "^o:"),
            Held("Redelivery", "`r:` and the delivery's id.", "^r:", "An empty value: the worker has taken it."),
        ),
    ),
    Channel(
        "webhooks", "Notifications", "The outbox of webhooks: what is not delivered yet, or dead, and how far the "
        "worker has read. Compacted; docs/webhooks.md.",
        "send",
        (
            Held("Delivery", "`d:` and the delivery's id.", "^d:", "An empty value: it was delivered, or dropped."),
            Held("Notice", "`n:`, subscription and subject.", "^n:", "An empty value: it may be told again."),
            Held("WebhookProgress", "`m`: where the worker stands.", "^m$"),
        ),
    ),
    Channel(
        "calls", "Calls", "How many calls each gateway answered and how fast, told about each ten seconds. A "
        "measurement beside the journal; it has the partition of the gateway's slot.",
        "send", (Held("CallCounts", "None."),),
    ),
    Channel(
        "dead", "Dead letters", "What could not be taken: key and value as they were received, byte for byte, and in "
        "the headers why and from where.",
        "send", (), _BURIED,
    ),
    Channel(
        "triage", "Dead letters' history", "What operators did with dead letters, kept for ever. A command that was "
        "put back stands in the log in the same Kafka transaction; docs/dead-letters.md.",
        "send", (Held("Triage", "The letter's id, PARTITION:OFFSET, or the task of its own rows."),),
    ),
)  # fmt: skip


def document() -> dict[str, Any]:
    """The AsyncAPI 3.0 document. The world, such as live or sandbox, is a parameter of each address."""
    channels = {c.name: _channel(c) for c in CHANNELS}
    messages = {held.record: _message(c, held) for c in CHANNELS for held in c.holds}
    messages["DeadLetter"] = _dead_letter()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Clearline",
            "version": "1",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": WIRE,
        "servers": {"kafka": _server()},
        "channels": channels,
        "operations": {op: body for c in CHANNELS for op, body in _operations(c)},
        "components": {"messages": messages},
    }


def to_yaml() -> str:
    """The document as it is committed."""
    text: str = yaml.dump(
        document(), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False
    )
    return f"# Made from schemas/avro and streams/topics.py by `clearline asyncapi`: change those, not this.\n{text}"


class _Plain(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML publishes no types
    """Writes everything out where it stands: anchors are hard to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _server() -> dict[str, Any]:
    return {
        "host": "{bootstrap}",
        "protocol": "kafka",
        "description": "`clearline status` prints the addresses of what runs.",
        "variables": {"bootstrap": {"description": "host:port of a broker.", "default": "localhost:9092"}},
        "bindings": {"kafka": {"schemaRegistryVendor": "confluent", "bindingVersion": _BINDINGS}},
    }


def _channel(c: Channel) -> dict[str, Any]:
    topic = getattr(Topics("{world}"), c.name)
    names = [held.record for held in c.holds] or ["DeadLetter"]
    return {
        "address": topic,
        "title": c.title,
        "description": c.description,
        "parameters": {"world": {"description": "Prefix of all topics of a world.", "examples": ["live", "sandbox"]}},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "kafka": {
                "topic": topic,
                "partitions": Settings.model_fields["partitions"].default,
                "topicConfiguration": _configuration(Topics("{world}").settings()[topic]),
                "bindingVersion": _BINDINGS,
            }
        },
    }


def _configuration(settings: dict[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {"cleanup.policy": ["delete"]}
    for name, value in settings.items():
        number = int(value) if value.removeprefix("-").isdecimal() else value
        out[name] = value.split(",") if name == "cleanup.policy" else number
    return out


def _operations(c: Channel) -> list[tuple[str, dict[str, Any]]]:
    """What the ledger does with a topic; what goes out for each command is named as its reply."""
    body: dict[str, Any] = {"action": c.does, "channel": {"$ref": f"#/channels/{c.name}"}, "summary": c.title}
    if c.does == "receive":
        group = {"type": "string", "enum": [Topics("{world}").group]}
        body["bindings"] = {"kafka": {"groupId": group, "bindingVersion": _BINDINGS}}
        body["reply"] = {
            "channel": {"$ref": "#/channels/replies"},
            "messages": [{"$ref": "#/channels/replies/messages/Reply"}],
        }
    return [(f"{c.does}_{c.name}", body)]


def _message(c: Channel, held: Held) -> dict[str, Any]:
    schema = schema_of(held.record)
    key = {**_TEXT, "description": held.key, **({"pattern": held.key_pattern} if held.key_pattern else {})}
    return {
        "name": f"{schema['namespace']}.{held.record}",
        "title": held.record,
        "summary": schema["doc"],
        **({"description": held.deletes} if held.deletes else {}),
        "contentType": WIRE,
        **({"headers": c.headers} if c.headers else {}),
        **({"correlationId": {"location": "$message.payload#/command_id"}} if held.record == "Reply" else {}),
        "payload": {"schemaFormat": AVRO, "schema": schema},
        "bindings": {
            "kafka": {
                "key": key,
                "schemaIdLocation": "payload",
                "schemaIdPayloadEncoding": "4",
                "schemaLookupStrategy": f"RecordNameStrategy: {Subjects.of(held.record)}",
                "bindingVersion": _BINDINGS,
            }
        },
        "examples": [{"payload": example} for example in examples_of(held.record)],
    }


def _dead_letter() -> dict[str, Any]:
    """No schema: the value is whatever came. Its examples are headers, from those of the record that it becomes."""
    headers = _BURIED["required"]
    return {
        "name": "dead letter",
        "title": "DeadLetter",
        "summary": "A record that could not be taken, as it was received.",
        "contentType": "application/octet-stream",
        "headers": _BURIED,
        "payload": {"description": "The bytes as they were received; there may be none."},
        "bindings": {"kafka": {"key": {"description": "The key as it was received."}, "bindingVersion": _BINDINGS}},
        "examples": [{"headers": {n: str(e[n]) for n in headers}} for e in examples_of("DeadLetter")],
    }
