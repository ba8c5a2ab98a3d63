"""`clearline verify`: every promise of the ledger checked by a program that trusts no part of it.

It reads the topics under read_committed, ClickHouse and Redis, and recomputes the whole ledger from the commands with
its own rules (`recompute`). It imports nothing of `ledger/` or `processors/`; import-linter holds that.
"""

from __future__ import annotations

import time

from clearline.audit.closes import Closes
from clearline.audit.contract import Terms
from clearline.audit.journal import Decode
from clearline.audit.live import LearningCodec, LiveLog
from clearline.audit.replay import PartitionReplay, Progress
from clearline.audit.stores import ClickHouseEntries, RedisBalances
from clearline.audit.traffic import Traffic
from clearline.audit.verdict import Findings, Verdict
from clearline.audit.views import BalanceStore, EntryStore, Log
from clearline.config import Settings
from clearline.connection import clickhouse_config, kafka_config, redis_config, registry_of
from schemas.codec import Codec
from streams.topics import Topics, topic_ids

CHECKS = (
    "one_outcome", "outcome", "accounted", "idempotency", "conservation", "counters", "pending", "limits", "sequence",
    "chain", "seals", "closes", "dead_letters", "state", "partition_state", "group_offsets", "crossing",
)  # fmt: skip


def verify_world(
    world: str,
    log: Log,
    decode: Decode,
    terms: Terms,
    *,
    entries: EntryStore | None = None,
    balances: BalanceStore | None = None,
    drained: bool = False,
    progress: Progress | None = None,
    now_ms: int | None = None,
) -> Verdict:
    """Checks one world, partition after partition. `drained`: whatever still waits or lags is a difference, too.

    `now_ms`: the time by which what is not sealed yet is judged to be late; None for that of each journal's end.
    """
    began = time.monotonic()
    stores = (("clickhouse",) if entries else ()) + (("redis",) if balances else ())
    findings = Findings(*CHECKS, *stores)
    notes: list[str] = []
    commands = waiting = 0
    traffic, closes = Traffic(findings["crossing"]), Closes(findings["closes"])
    for p in range(log.partitions):
        replay = PartitionReplay(
            p, log, decode, terms, findings, entries=entries, balances=balances, drained=drained, progress=progress,
            now_ms=now_ms, traffic=traffic, closes=closes,
        )  # fmt: skip
        replay.run()
        commands += replay.counts.received
        waiting += replay.waiting
        notes += replay.notes
    traffic.close(drained=drained)
    if waiting and not drained:
        notes.append(f"{waiting} commands were received and have no outcome yet: the system is working on them")
    return Verdict(world, findings.checks(), commands, waiting, time.monotonic() - began, tuple(notes))


def verify(
    settings: Settings, progress: Progress | None = None, *, drained: bool = False, stores: bool = True
) -> Verdict:
    """Checks the world of a system that runs. `settings` hold all addresses (`clearline.stack.resolved_settings`).

    `drained`: nothing is being published and everything must have arrived; otherwise what is on its way is reported,
    not judged. `stores`: also ClickHouse and Redis. Raises PartUnavailableError when a part does not answer.
    """
    kafka, registry, topics = kafka_config(settings), registry_of(settings), Topics(settings.world)
    ids = registry.ids()
    decode = LearningCodec(Codec(ids), registry).decode
    promised = settings.settlement
    terms = Terms(settings.partitions, promised.message_bytes_max, promised.idempotency_days, frozenset(ids.values()))
    log = LiveLog(kafka, topics, settings.partitions)
    entries = balances = None
    if stores:
        journal = topics.journal
        entries = ClickHouseEntries(clickhouse_config(settings), f"{journal}@{topic_ids(kafka, [journal])[journal]}")
        balances = RedisBalances(redis_config(settings))
    return verify_world(
        settings.world, log, decode, terms, entries=entries, balances=balances, drained=drained, progress=progress,
        now_ms=int(time.time() * 1000),
    )  # fmt: skip
