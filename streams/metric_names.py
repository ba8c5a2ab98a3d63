"""Every metric of every role: its name, kind, unit, labels, and what it says. There is no other list.

What a role serves is made from this list (`streams.metrics.family`), docs/metrics.md is written from it, and tests hold
dashboards, alert rules and a scrape of a running system against it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

Kind = Literal["gauge", "counter", "histogram"]
Unit = Literal[
    "", "bytes", "commands", "minor units", "ms", "offset", "records", "seconds", "unix seconds", "yes or no"
]

WORKER, GATEWAY, TIEOUT, SEALER, WEBHOOKS = "worker", "gateway", "tieout", "sealer", "webhooks"
SINK_CLICKHOUSE, SINK_REDIS = "sink-clickhouse", "sink-redis"
SINKS = (SINK_CLICKHOUSE, SINK_REDIS)
FOLLOWERS = (*SINKS, SEALER, TIEOUT, WEBHOOKS)
EVERY = (WORKER, GATEWAY, *FOLLOWERS)
# What a role may wait for, and the start of `schemas.errors.PartUnavailableError.part` by which it is told.
PARTS = {"kafka": "Kafka", "registry": "Schema registry", "clickhouse": "ClickHouse", "redis": "Redis"}


class Name(StrEnum):
    """A metric. Names end in their unit; those of counters end in `_total`.

    `labels`: in the order in which values are given; `roles`: who serves it.
    """

    kind: Kind
    unit: Unit
    labels: tuple[str, ...]
    roles: tuple[str, ...]
    help: str

    def __new__(
        cls, name: str, kind: Kind, unit: Unit, roles: str | tuple[str, ...], labels: tuple[str, ...], text: str
    ) -> Name:
        member = str.__new__(cls, name)
        member._value_ = name
        member.kind, member.unit, member.labels, member.help = kind, unit, labels, text
        member.roles = (roles,) if isinstance(roles, str) else roles
        return member

    # ---- every role --------------------------------------------------------------------------------------------------
    ROLE_READY = (
        "clearline_role_ready", "gauge", "yes or no", EVERY, ("role",),
        "1 while /readyz of this role says 200, else 0.",
    )  # fmt: skip
    ROLE_CHECK = (
        "clearline_role_check", "gauge", "yes or no", EVERY, ("role", "check"),
        "1 for each check of /readyz that holds, 0 for one that does not.",
    )  # fmt: skip
    ROLE_WAITING = (
        "clearline_role_waiting", "gauge", "yes or no", EVERY, ("role", "part"),
        "1 while this role waits for a part: kafka, registry, clickhouse or redis. Else 0.",
    )  # fmt: skip
    ROLE_WAITING_CODE = (
        "clearline_role_waiting_code", "gauge", "yes or no", EVERY, ("role", "code"),
        "1 while what this role waits for answers and does not take writes: read_only or no_space. Else 0.",
    )  # fmt: skip
    ROLE_INFO = (
        "clearline_role_info", "gauge", "", EVERY, ("role", "world", "version"),
        "Always 1: which role of which world this is, and its version.",
    )  # fmt: skip
    DISK_FREE = (
        "clearline_disk_free_bytes", "gauge", "bytes", EVERY, ("role",),
        "Free bytes on the disk of this role's data folder.",
    )  # fmt: skip
    DISK_SIZE = (
        "clearline_disk_size_bytes", "gauge", "bytes", EVERY, ("role",),
        "Size of the disk of this role's data folder.",
    )  # fmt: skip
    CPU_SECONDS = (
        "clearline_process_cpu_seconds_total", "counter", "seconds", EVERY, (), "Processor time of this process.",
    )  # fmt: skip
    MEMORY = (
        "clearline_process_resident_memory_bytes", "gauge", "bytes", EVERY, (), "Memory that this process holds.",
    )  # fmt: skip
    STARTED = (
        "clearline_process_start_time_seconds", "gauge", "unix seconds", EVERY, (), "When this process began.",
    )  # fmt: skip
    CLOCK_SKEW = (
        "clearline_clock_skew_seconds", "gauge", "seconds", (WORKER, GATEWAY), ("role",),
        "This machine's clock less the broker's, as small as what came within the last minute allows; below zero it is "
        "certain. Served once something came.",
    )  # fmt: skip

    # ---- settlement workers ------------------------------------------------------------------------------------------
    READY = (
        "clearline_worker_ready", "gauge", "yes or no", WORKER, (),
        "1 when this worker has joined its group and settles, else 0.",
    )  # fmt: skip
    PARTITION_ASSIGNED = (
        "clearline_partition_assigned", "gauge", "yes or no", WORKER, ("partition",),
        "1 for each partition that this worker settles.",
    )  # fmt: skip
    PARTITION_STOPPED = (
        "clearline_partition_stopped", "gauge", "yes or no", WORKER, ("partition",),
        "1 for a partition that broke an invariant: nothing of it is settled any more. Else 0.",
    )  # fmt: skip
    PARTITION_NEXT_OFFSET = (
        "clearline_partition_next_offset", "gauge", "offset", WORKER, ("partition",),
        "Offset of the next command that this partition will settle.",
    )  # fmt: skip
    PARTITION_END_OFFSET = (
        "clearline_partition_end_offset", "gauge", "offset", WORKER, ("partition",),
        "Where this partition of transactions.submitted ends, asked of the broker once a second or less often.",
    )  # fmt: skip
    PARTITION_LAG = (
        "clearline_partition_lag_records", "gauge", "records", WORKER, ("partition",),
        "Offsets of a partition that are not settled yet; end markers of Kafka transactions are among them.",
    )  # fmt: skip
    PARTITION_SEQUENCE = (
        "clearline_partition_sequence", "gauge", "", WORKER, ("partition",),
        "Sequence of the last journal record of a partition: how long its chain is.",
    )  # fmt: skip
    PARTITION_OUTCOMES = (
        "clearline_partition_outcomes_total", "counter", "commands", WORKER, ("partition", "outcome"),
        "Commands of a partition by outcome since its log began: settled, rejected, repeated, applied or dead.",
    )  # fmt: skip
    COMMANDS = (
        "clearline_commands_total", "counter", "commands", WORKER, (),
        "Commands whose outcome this process has committed.",
    )  # fmt: skip
    COMMITS = (
        "clearline_commits_total", "counter", "", WORKER, (), "Kafka transactions that this process has committed.",
    )  # fmt: skip
    ABORTS = (
        "clearline_aborts_total", "counter", "", WORKER, (),
        "Kafka transactions that this process has aborted; their commands were settled again.",
    )  # fmt: skip
    CORES = (
        "clearline_cores_total", "counter", "", WORKER, (),
        "Cores that this process has begun with: each after the first took over after an error or a fencing.",
    )  # fmt: skip
    FENCED = (
        "clearline_fenced_total", "counter", "", WORKER, (),
        "Times that another process took this worker's slot while it was at work.",
    )  # fmt: skip
    LAST_FENCED = (
        "clearline_last_fenced_timestamp_seconds", "gauge", "unix seconds", WORKER, (),
        "When that was last, by this machine's clock; 0 before the first time.",
    )  # fmt: skip
    LAST_COMMIT = (
        "clearline_last_commit_timestamp_seconds", "gauge", "unix seconds", WORKER, (),
        "When the last Kafka transaction was committed, by this machine's clock; 0 before the first.",
    )  # fmt: skip
    LATENCY = (
        "clearline_settlement_latency_seconds", "histogram", "seconds", WORKER, (),
        "From the broker's time of a command to the commit of its outcome, by this machine's clock. The sum is of the "
        "middles of fine buckets.",
    )  # fmt: skip
    WORKER_LAG = (
        "clearline_worker_lag_seconds", "gauge", "seconds", WORKER, (),
        "Age of the oldest command that this worker has taken and not committed; 0 when there is none.",
    )  # fmt: skip
    ACCOUNTS = ("clearline_accounts", "gauge", "", WORKER, (), "Accounts in the partitions of this worker.")
    REMEMBERED_KEYS = (
        "clearline_remembered_keys", "gauge", "", WORKER, (), "Idempotency keys that this worker remembers.",
    )  # fmt: skip
    REMEMBERED_KEYS_BYTES = (
        "clearline_remembered_keys_bytes", "gauge", "bytes", WORKER, (), "Memory of the remembered keys.",
    )  # fmt: skip
    IN_FLIGHT = (
        "clearline_in_flight_transactions", "gauge", "", WORKER, (),
        "Transactions between partitions that are under way in those of this worker.",
    )  # fmt: skip
    IN_FLIGHT_AMOUNT = (
        "clearline_in_flight_minor_units", "gauge", "minor units", WORKER, ("currency", "step"),
        "Money set aside for other partitions, and gone there less what came, in minor units.",
    )  # fmt: skip
    STAGE_SECONDS = (
        "clearline_stage_seconds_total", "counter", "seconds", WORKER, ("stage",),
        "Seconds in each stage: gather, wait and commit are the core's, the others the agent's.",
    )  # fmt: skip

    # ---- whoever follows the log: sinks, sealer, tie-out, webhooks ---------------------------------------------------
    FOLLOWER_RECORDS = (
        "clearline_follower_records_total", "counter", "records", FOLLOWERS, ("role",),
        "Records that this process has brought where they belong: sinks stored and proved them.",
    )  # fmt: skip
    FOLLOWER_POSITION = (
        "clearline_follower_next_offset", "gauge", "offset", FOLLOWERS, ("role", "partition"),
        "Up to where this role has proven, sealed, compared or queued a partition of its topic.",
    )  # fmt: skip
    FOLLOWER_LAG = (
        "clearline_follower_lag_records", "gauge", "records", FOLLOWERS, ("role", "partition"),
        "Offsets of a partition that this role has not come to yet; end markers of Kafka transactions are among them.",
    )  # fmt: skip
    FOLLOWER_LAG_SECONDS = (
        "clearline_follower_lag_seconds", "gauge", "seconds", FOLLOWERS, ("role",),
        "For how long something is in the log that this role has not come to; looked at once a second.",
    )  # fmt: skip
    FOLLOWER_TOLD_AT = (
        "clearline_follower_last_report_timestamp_seconds", "gauge", "unix seconds", FOLLOWERS, ("role",),
        "When the loop of this role last said that it lives, by this machine's clock; 0 before the first time.",
    )  # fmt: skip
    WRITE_SECONDS = (
        "clearline_sink_write_seconds", "histogram", "seconds", SINKS, ("role",),
        "Seconds of one batch into the store: to ClickHouse its inserts and their proof, to Redis its script.",
    )  # fmt: skip
    WRITTEN_ROWS = (
        "clearline_sink_rows_total", "counter", "", SINKS, ("role",),
        "What was written into the store: journal records to ClickHouse, shards of balances to Redis.",
    )  # fmt: skip
    PROVEN_AT = (
        "clearline_sink_last_proof_timestamp_seconds", "gauge", "unix seconds", SINKS, ("role",),
        "When a batch was last proven to be in the store, by this machine's clock; 0 before the first.",
    )  # fmt: skip
    UNSEALED = (
        "clearline_sealer_unsealed_records", "gauge", "records", SEALER, (),
        "Journal records that are under no seal yet; those of the minute that goes on always are.",
    )  # fmt: skip
    UNSEALABLE = (
        "clearline_sealer_partition_stopped", "gauge", "yes or no", SEALER, ("partition",),
        "1 for a partition whose journal is not what was sealed: it is sealed no further. Else 0.",
    )  # fmt: skip
    WEBHOOKS_PENDING = (
        "clearline_webhooks_pending", "gauge", "", WEBHOOKS, ("role",), "Notifications not delivered and not dead.",
    )  # fmt: skip
    WEBHOOKS_DEAD = (
        "clearline_webhooks_dead", "gauge", "", WEBHOOKS, ("role",), "Notifications that were given up.",
    )  # fmt: skip
    WEBHOOKS_UNDER_WAY = (
        "clearline_webhooks_under_way", "gauge", "", WEBHOOKS, ("role",), "Deliveries that wait for an answer.",
    )  # fmt: skip
    WEBHOOKS_SUBSCRIPTIONS = (
        "clearline_webhooks_subscriptions", "gauge", "", WEBHOOKS, ("role",), "Subscriptions of this worker.",
    )  # fmt: skip
    WEBHOOKS_ATTEMPTS = (
        "clearline_webhooks_attempts_total", "counter", "", WEBHOOKS, ("role", "result"),
        "Attempts to deliver by what became of them: delivered, failed or dead.",
    )  # fmt: skip
    WEBHOOKS_QUEUED = (
        "clearline_webhooks_queued_total", "counter", "", WEBHOOKS, ("role",), "Notifications that were queued.",
    )  # fmt: skip

    # ---- gateways ----------------------------------------------------------------------------------------------------
    GATEWAY_READY = (
        "clearline_gateway_ready", "gauge", "yes or no", GATEWAY, (), "1 when this gateway can take commands, else 0.",
    )  # fmt: skip
    GATEWAY_CALLS = (
        "clearline_gateway_calls_total", "counter", "", GATEWAY, ("method", "route", "status"),
        "Calls by method, route and status.",
    )  # fmt: skip
    GATEWAY_CALL_SECONDS = (
        "clearline_gateway_call_seconds", "histogram", "seconds", GATEWAY, ("method", "route"),
        "Seconds from a call's arrival to the end of its answer, waiting for outcomes included.",
    )  # fmt: skip
    GATEWAY_UNDER_WAY = (
        "clearline_gateway_commands_under_way", "gauge", "commands", GATEWAY, (),
        "Commands of this gateway that have no outcome yet.",
    )  # fmt: skip
    GATEWAY_OUTCOMES = (
        "clearline_gateway_outcomes_in_memory", "gauge", "", GATEWAY, (), "Final outcomes in this gateway's memory.",
    )  # fmt: skip
    GATEWAY_LIMITER_LOCAL = (
        "clearline_gateway_limiter_local", "gauge", "yes or no", GATEWAY, (),
        "1 while Redis is away and limits of calls are this gateway's own, else 0.",
    )  # fmt: skip
    GATEWAY_STATE_LAG = (
        "clearline_gateway_state_lag_records", "gauge", "records", GATEWAY, ("partition",),
        "Offsets of transactions.submitted that the state which this gateway shows has not come to.",
    )  # fmt: skip

    # ---- the tie-out -------------------------------------------------------------------------------------------------
    TIEOUT_DIFFERENCES = (
        "clearline_tieout_differences", "gauge", "", TIEOUT, ("part",),
        "How many places of a part (kafka, clickhouse, redis) are not what the journal says.",
    )  # fmt: skip
    TIEOUT_LAG = (
        "clearline_tieout_lag_seconds", "gauge", "seconds", TIEOUT, ("part",),
        "For how long something is in the log that was not compared with a part yet.",
    )  # fmt: skip
    TIEOUT_VERDICT = (
        "clearline_tieout_verdict", "gauge", "", TIEOUT, ("part",),
        "0 equal, 1 behind, 2 checking, 3 rebuilding, 4 unavailable, 5 differs.",
    )  # fmt: skip
    INCIDENTS = (
        "clearline_incidents", "gauge", "", TIEOUT, ("code",),
        "How many incidents of this code the tie-out sees, as `clearline status` does: of parts, topics and schemas.",
    )  # fmt: skip
    INCIDENTS_AT = (
        "clearline_incidents_last_look_timestamp_seconds", "gauge", "unix seconds", TIEOUT, (),
        "When incidents were last looked for, by this machine's clock; 0 before the first time.",
    )  # fmt: skip
    TIEOUT_ROUND_AT = (
        "clearline_tieout_last_round_timestamp_seconds", "gauge", "unix seconds", TIEOUT, (),
        "When the last comparison ended, by this machine's clock; 0 before the first.",
    )  # fmt: skip


def named(name: str) -> Name:
    """The metric of this name. Raises KeyError when there is none."""
    return _BY_NAME[name]


def sample_names(name: Name) -> tuple[str, ...]:
    """What its samples are called in an exposition: a histogram has three."""
    return tuple(f"{name}_{end}" for end in ("bucket", "sum", "count")) if name.kind == "histogram" else (str(name),)


def of_role(role: str) -> list[Name]:
    """The metrics of a role: worker, gateway, webhooks, tieout, sealer, sink-clickhouse, sink-redis."""
    return [n for n in Name if role in n.roles]


_BY_NAME: dict[str, Name] = {str(n): n for n in Name}
