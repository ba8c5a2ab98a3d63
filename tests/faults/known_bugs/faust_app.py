"""Settlement as Faust's documentation would have it: `processing_guarantee="exactly_once"`, tables, `topic.send`.

    BUG_WORLD=... BUG_KAFKA=... BUG_REGISTRY=... faust -A tests.faults.known_bugs.faust_app worker

The business rules are the real Book's. What is wrong is the promise: Faust sends to a topic outside of the transaction
that commits its offsets, so after a kill -9 what was sent is sent again.
"""

from __future__ import annotations

import os
from typing import Any

import faust

from ledger.accounts import Account
from ledger.holds import Hold
from ledger.state import Head, Partner
from schemas.records import AccountState, HoldState, PartitionState, PartnerState
from streams.clients import KafkaConfig
from streams.reader import LogRecord
from streams.recovery import PartitionLedger
from streams.registry import Registry
from streams.topics import Topics
from tests.faults.known_bugs.mini import PARTITION, WINDOW_MS, MiniWorker

topics = Topics(os.environ["BUG_WORLD"])
app = faust.App(
    topics.group,
    broker=f"kafka://{os.environ['BUG_KAFKA']}",
    processing_guarantee="exactly_once",
    store="memory://",
    topic_partitions=1,
    topic_replication_factor=1,
    web_enabled=False,
    consumer_auto_offset_reset="earliest",
    datadir=os.environ.get("BUG_DATA", "/tmp"),
)
table = app.Table("state", key_type=str, value_type=str, partitions=1)
submitted = app.topic(topics.submitted, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
outlets = {
    name: app.topic(name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    for name in (topics.journal, topics.state, topics.dead)
}


class _Settler(MiniWorker):
    """The batch body alone: Faust brings the consumer, the producer and the state."""

    def __init__(self) -> None:
        self.kafka, self.topics = KafkaConfig(os.environ["BUG_KAFKA"]), topics
        self.codec = Registry(os.environ["BUG_REGISTRY"]).codec()
        self.ledger = PartitionLedger(PARTITION, WINDOW_MS)
        ids: list[bytes] = []
        digests: list[bytes] = []
        places: list[tuple[int, int]] = []
        for key, text in table.items():
            if key.startswith("k:"):
                digest, offset, time = text.split(" ")
                ids.append(bytes.fromhex(key[2:]))
                digests.append(bytes.fromhex(digest))
                places.append((int(offset), int(time)))
            else:
                self._restore(self.codec.decode(bytes.fromhex(text)))
        self.ledger.keys.add(ids, digests, [o for o, _ in places], [t for _, t in places])

    def _restore(self, row: Any) -> None:
        base = self.ledger.base
        if isinstance(row, AccountState):
            base.accounts[row.account_id] = Account.from_state(row)
        elif isinstance(row, HoldState):
            base.put_hold(Hold.from_state(row))
        elif isinstance(row, PartnerState):
            base.partners[row.partner_id] = Partner(row.partner_id, row.name, row.state, row.source_offset)
        elif isinstance(row, PartitionState):
            base.head = Head.from_record(row)


@app.agent(submitted, concurrency=1)
async def settle(stream: Any) -> None:
    settler: _Settler | None = None
    async for event in stream.events():
        if settler is None:
            settler = _Settler()
        m = event.message
        at = round(m.timestamp * 1000)
        settler.ledger.base.head.next_offset = m.offset
        out = settler.settle([LogRecord(m.partition, m.offset, at, m.key, m.value, None)])
        for topic, key, value, headers in out.records:
            await outlets[topic].send(key=key, value=value, partition=PARTITION, headers=dict(headers))  # type: ignore[arg-type]
            if topic == topics.state:
                assert key is not None
                if value is None:
                    table.pop(key.decode(), None)
                else:
                    table[key.decode()] = value.hex()
        for cid, digest, offset, time in zip(*out.bound, strict=True):
            table[f"k:{cid.hex()}"] = f"{digest.hex()} {offset} {time}"
        settler.merge(out)
