"""How far each role is behind, in records: the ends of the topics against where the roles have come to.

Settlement's place is its committed group offset; a sink's is what it has proven to be in its store, and the
sealer's what it has read (the minute that goes on is not sealed yet), the tie-out's what it has compared with
ClickHouse, a webhook worker's what it has queued; all of them tell it in their ready files.
"""

from __future__ import annotations

import json
import time
from typing import Any

from clearline.config import Settings
from clearline.connection import kafka_config
from clearline.embedded.folder import DataFolder
from schemas.errors import ClearlineError
from streams.clients import KafkaConfig
from streams.reader import LogReader, committed_offsets, end_offsets
from streams.topics import Topics

_FEW = 1_000  # offsets
_LOOK_S = 3.0


def measure(settings: Settings, folder: DataFolder) -> dict[str, Any]:
    """Records behind by role and partition, and what a role waits for.

    A part that does not answer is told in `error`, not raised.
    """
    from clearline.stack import resolved_settings

    try:
        settings = resolved_settings(settings)
        kafka, topics = kafka_config(settings), Topics(settings.world)
        submitted = end_offsets(kafka, topics.submitted)
        done = committed_offsets(kafka, topics.group, topics.submitted)
        roles = {"settlement": unsettled(kafka, topics.submitted, submitted, done)}
        waiting: dict[str, str] = {}
        followers = (
            ("sink-clickhouse", topics.journal), ("sink-redis", topics.state), ("sealer", topics.journal),
            ("tieout", topics.journal),
        )  # fmt: skip
        webhooks = [(f"webhooks-{i}", topics.journal) for i in range(settings.webhooks.instances)]
        for name, topic in (*followers, *webhooks):
            told = _told(folder, name)
            if told is not None:
                verified = {int(p): o for p, o in told.get("verified", {}).items()}
                ends = end_offsets(kafka, topic)
                if name.startswith("webhooks-"):  # of several each has partitions of its own
                    ends = {p: end for p, end in ends.items() if p in verified}
                roles[name] = _behind(ends, verified)
                if told.get("waiting_for"):
                    waiting[name] = str(told["waiting_for"])
        for name in (f"gateway-{i}" for i in range(settings.gateway.instances)):  # it follows nothing to an end
            if why := (_told(folder, name) or {}).get("waiting_for"):
                waiting[name] = str(why)
        return {"submitted": submitted, "roles": roles, "waiting": waiting}
    except ClearlineError as e:
        return {"roles": {}, "waiting": {}, "error": str(e)}


def tie_out(folder: DataFolder) -> dict[str, Any] | None:
    """The last word of the role `tieout`: verdict, lag in seconds, each part, the first differences and the journal's
    control totals; None when it does not run here or has said nothing yet."""
    told = _told(folder, "tieout") or {}
    names = ("verdict", "lag_seconds", "parts", "differences", "cut", "totals", "round_at")
    return {n: told[n] for n in names} if all(n in told for n in names) else None


def in_flight(roles: dict[str, Any]) -> dict[str, Any] | None:
    """What is under way between partitions, as the workers of this run tell it: how many transactions are not decided,
    and by currency, in minor units, what is set aside for them, and what is decided and has not come in elsewhere.
    None when no worker of this run tells anything. The workers tell it twice a second, not at one moment."""
    told = [t for t in ((r.get("ready") or {}).get("in_flight") for r in roles.values()) if t]
    if not told:
        return None
    amounts: dict[str, list[int]] = {}
    for currency, (waits, left) in (item for t in told for item in t["amounts"].items()):
        sums = amounts.setdefault(currency, [0, 0])
        sums[0] += waits
        sums[1] += left
    return {
        "transactions": sum(t["transactions"] for t in told),
        "amounts": {c: {"set_aside": a, "decided": b} for c, (a, b) in sorted(amounts.items()) if a or b},
    }


def unsettled(kafka: KafkaConfig, topic: str, ends: dict[int, int], done: dict[int, int]) -> dict[int, int]:
    """Commands that wait. Where few offsets are left they are read and counted: steps between partitions come in Kafka
    transactions, and the end marker of each takes an offset too."""
    behind = _behind(ends, done)
    few = {p: max(0, done.get(p, 0)) for p, n in behind.items() if 0 < n <= _FEW}
    if not few:
        return behind
    found = dict.fromkeys(few, 0)
    with LogReader(kafka, topic, few) as reader:

        def unread() -> set[int]:
            return {p for p in few if p not in reader.at_end and reader.position[p] < ends[p]}

        deadline = time.monotonic() + _LOOK_S
        while unread() and time.monotonic() < deadline:
            for r in reader.poll(1_000, 0.1):
                found[r.partition] += r.offset < ends[r.partition]
        # A broker that did not answer in time has not said that nothing waits: then every offset counts.
        return behind | {p: n for p, n in found.items() if p not in unread()}


def _behind(ends: dict[int, int], done: dict[int, int]) -> dict[int, int]:
    return {p: max(0, end - max(0, done.get(p, 0))) for p, end in ends.items()}


def _told(folder: DataFolder, name: str) -> dict[str, Any] | None:
    """What a role says of itself; None when it runs elsewhere."""
    try:
        found = json.loads((folder.ready / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
