"""Named places where a process can be made to die, so that a test can kill it exactly between two steps.

It stands in the lowest package because the settlement host and the sinks both use it. Unarmed, a call costs one global
read and one comparison. Armed by `CLEARLINE_FAILPOINTS=name=kill@3,other=raise`: the process kills itself (SIGKILL, so
nothing is flushed or closed) at the third time it comes by `name`, and raises FailPointError at the first of `other`;
`stop` pauses it (SIGSTOP) until somebody sends SIGCONT, which makes a zombie of it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import BadInputError

VARIABLE = "CLEARLINE_FAILPOINTS"

SETTLEMENT = (
    "settlement.after_consume",
    "settlement.after_begin",
    "settlement.mid_emit",
    "settlement.before_send_offsets",
    "settlement.after_send_offsets",
    "settlement.before_commit",
    "settlement.after_commit",
)
SINK_CLICKHOUSE = (
    "sink_clickhouse.after_fence",
    "sink_clickhouse.after_read",
    "sink_clickhouse.before_insert",
    "sink_clickhouse.mid_insert",  # the query is sent, its rows are not
    "sink_clickhouse.after_send",  # the rows are sent, the server has not answered
    "sink_clickhouse.after_insert_changes",
    "sink_clickhouse.after_insert_postings",
    "sink_clickhouse.after_insert_pending",
    "sink_clickhouse.after_insert_outcomes",
    "sink_clickhouse.after_proof",
    "sink_clickhouse.after_audit",
    "sink_clickhouse.after_insert_dead_letters",
)
SINK_LOGS = (  # apart, because they come only where a sealer and gateways are at work
    "sink_clickhouse.after_insert_seals",
    "sink_clickhouse.after_insert_calls",
    "sink_clickhouse.after_insert_limit_rows",
)
SINK_REDIS = (
    "sink_redis.after_read",
    "sink_redis.mid_batch",
    "sink_redis.after_batch",
)
SEALER = (
    "sealer.after_fence",
    "sealer.after_read",
    "sealer.after_produce",  # the seals are with the broker, the Kafka transaction is open
    "sealer.after_commit",
)
WEBHOOKS = (
    "webhooks.after_fence",
    "webhooks.after_rebuild",
    "webhooks.after_read",
    "webhooks.after_produce",  # the rows are with the broker, the Kafka transaction is open
    "webhooks.after_commit",
    "webhooks.before_send",
    "webhooks.after_send",  # the receiver has answered, the row still stands
    "webhooks.after_fail",  # the receiver has failed, and the row does not say so yet
)
GATEWAY = (
    "gateway.before_publish",
    "gateway.after_publish",  # the broker has it, nobody was told
    "gateway.after_outcome",  # the outcome came, nobody was told
)
CLOSE = (
    "close.after_close",  # the day is closed in the ledger, and nobody waits for ClickHouse any more
    "close.after_watermark",
    "close.after_figures",
    "close.after_give_seal",  # the journal has the seal, ClickHouse may not
    "close.after_seal",
)
REPAIR = (
    "repair.mid_fill",
    "repair.after_fill",  # the right rows are beside the tables
    "repair.after_lock",  # no sink may write
    "repair.before_swap",
    "repair.after_swap",  # of one table and month of several
    "repair.before_unlock",
)
TRIAGE = (
    "triage.after_fence",
    "triage.after_commands",  # commands are with the broker, what was done is not
    "triage.before_commit",
    "triage.after_commit",
)
REPLAY = (
    "replay.after_batch",
    "replay.before_checkpoint",
    "replay.after_checkpoint",
    "replay.before_diff",  # every partition is through, the diff is not written
)
NAMES = (
    *SETTLEMENT, *SINK_CLICKHOUSE, *SINK_LOGS, *SINK_REDIS, *SEALER, *WEBHOOKS, *GATEWAY, *CLOSE, *REPAIR, *TRIAGE,
    *REPLAY,
)  # fmt: skip


class FailPointError(RuntimeError):
    """Raised by a fail point that is armed with `raise`."""


@dataclass(slots=True)
class _Armed:
    action: str
    at: int
    hits: int = 0


_NOTHING: dict[str, _Armed] = {}
_armed: dict[str, _Armed] | None = None  # None: the environment has not been read yet


def failpoint(name: str) -> None:
    """Passes by the fail point `name`; does nothing unless it is armed.

    Raises FailPointError when armed with `raise`, BadInputError when the variable cannot be read.
    """
    if _armed is not _NOTHING:
        _pass_by(name)


def _pass_by(name: str) -> None:
    armed = arm(os.environ.get(VARIABLE, "")) if _armed is None else _armed
    point = armed.get(name)
    if point is None:
        return
    point.hits += 1
    if point.hits != point.at:
        return
    if point.action != "raise":
        os.kill(os.getpid(), signal.SIGKILL if point.action == "kill" else signal.SIGSTOP)
        return
    raise FailPointError(f"fail point {name} at its hit {point.at}")


def arm(text: str) -> Mapping[str, _Armed]:
    """Arms this process with `text`, in the form of the variable; an empty text disarms it. Raises BadInputError."""
    global _armed
    parsed: dict[str, _Armed] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, what = item.partition("=")
        action, _, at = what.partition("@")
        if name not in NAMES:
            raise BadInputError(f"{VARIABLE}: there is no fail point {name!r}; schemas/failpoints.py lists them")
        if action not in ("kill", "raise", "stop") or not (at or "1").isdigit() or int(at or "1") < 1:
            raise BadInputError(f"{VARIABLE}: {item!r} is not NAME=kill@K, raise@K or stop@K with K at least 1")
        parsed[name] = _Armed(action, int(at or "1"))
    _armed = parsed or _NOTHING
    return _armed
