"""Judges a world when it is done: the auditor on everything written, the tests' own model on every outcome, and a
take-over beside the workers that settled. Each returns what is wrong, in words; nothing is wrong when it is empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from clearline.audit.contract import Terms
from clearline.audit.verify import verify_world
from clearline.audit.views import (
    DEAD,
    JOURNAL,
    STATE,
    SUBMITTED,
    StoredBalance,
    StoredChange,
    StoredOutcome,
    StoredPosting,
)
from ledger.state import Draft
from schemas.codec import UndecodableError
from schemas.identity import command_id
from schemas.records import Crossing
from sinks.balances import Balances
from streams.reader import LogRecord
from tests.faults.memory_world import MemoryBalances, MemoryEntries, MemoryLog
from tests.ledger_checks import compare, compare_sent
from tests.ledger_model import Model
from tests.simulation.world.roles import OPTIONS, REDIS, TOPICS

NAMES = {SUBMITTED: TOPICS.submitted, JOURNAL: TOPICS.journal, STATE: TOPICS.state, DEAD: TOPICS.dead}


def logs(world: Any) -> MemoryLog:
    """The topics as a reader of committed records sees them."""
    out = MemoryLog(world.broker.partitions, groups=dict(world.broker.group_offsets))
    for short, topic in NAMES.items():
        for p in range(world.broker.partitions):
            out.records[short, p] = [
                LogRecord(p, o, e.timestamp, e.key, e.value, e.headers) for o, e in world.broker.committed(topic, p)
            ]
    return out


def entries(world: Any) -> MemoryEntries:
    """ClickHouse's rows as the auditor asks for them."""
    out, tables = MemoryEntries(), world.tables.rows
    kinds: tuple[tuple[str, Any, dict[int, list[Any]]], ...] = (
        ("outcomes", StoredOutcome, out.outcome_rows), ("postings", StoredPosting, out.posting_rows),
        ("control_changes", StoredChange, out.change_rows),
    )  # fmt: skip
    for name, kind, rows in kinds:
        for row in tables[name]:
            rows.setdefault(row["partition"], []).append(kind(**{f: _cell(f, row) for f in kind._fields}))
    for row in tables["outcomes"]:
        out.positions[row["partition"]] = max(out.positions.get(row["partition"], 0), row["offset"] + 1)
    for p, _ in {(r["source_partition"], r["offset"]) for r in tables["dead_letters"]}:
        out.letters[p] = out.letters.get(p, 0) + 1
    return out


def _cell(field: str, row: dict[str, Any]) -> Any:
    if field == "journal_offset":
        return row["offset"]
    value = row[field]
    if isinstance(value, bytes):
        return value.hex()
    if field in ("metadata", "detail", "changes"):
        return _map(value)
    return value


def _map(text: str) -> dict[str, str]:
    found: dict[str, str] = orjson.loads(text) if text else {}
    return found


def balances(world: Any) -> MemoryBalances:
    """Redis as the sink's own reader reads it."""
    out, reader = MemoryBalances(), Balances(REDIS)
    for p in range(world.broker.partitions):
        marker = reader.marker([p]).get(p)
        out.positions[p] = marker.source_next if marker is not None and marker.complete else 0
        out.rows[p] = {a: StoredBalance(*shard) for a, shard in reader.shards(p).items()}
    return out


def audit(world: Any) -> Iterator[str]:
    """`clearline verify` on the whole world, nothing waiting or lagging.

    But for what days are sealed with: the load's seals have made-up sums, which no ledger can know to be wrong and the
    auditor rightly names. tests/contract/test_close.py and tests/unit/test_closing.py hold that part.
    """
    verdict = verify_world(
        "live", logs(world), world.decode, Terms(world.broker.partitions, OPTIONS.message_bytes_max),
        entries=entries(world), balances=balances(world), drained=True,
    )  # fmt: skip
    for check in verdict.checks:
        for difference in check.differences if check.name != "closes" else ():
            yield f"auditor, {check.name}: {difference}"


def pending(world: Any) -> Iterator[str]:
    """ClickHouse has what the journal says was set aside and released, each once."""
    wanted = [
        (p, offset, i, leg.account_id, leg.side, leg.change, leg.hold_id, int(leg.expired))
        for p in range(world.broker.partitions)
        for offset, e in world.broker.committed(TOPICS.journal, p)
        for i, leg in enumerate(world.decode(e.value).pending)
    ]
    names = ("partition", "offset", "line", "account_id", "side", "change", "hold_id", "expired")
    have = sorted(tuple(row[n] for n in names) for row in world.tables.rows["pending"])
    if have != sorted(wanted):
        yield f"ClickHouse has {len(have)} rows of what is pending, the journal {len(wanted)}; or others"


def acknowledged(world: Any) -> Iterator[str]:
    """What a gateway was told is in the log is in the log."""
    for p, offset, value in world.gateways.acknowledged:
        if world.broker.log(TOPICS.submitted, p).entries[offset].value != value:
            yield f"partition {p} offset {offset}: an acknowledged command is not there"


def outcomes(world: Any) -> Iterator[str]:
    """Every outcome beside the tests' model, command by command in the order of the log."""
    terms, decode = Terms(world.broker.partitions, OPTIONS.message_bytes_max), world.decode
    sent: dict[tuple[int, int], list[Any]] = {}  # by partitions, from and to: what the models send
    arrived: dict[tuple[int, int], list[Any]] = {}
    for p in range(world.broker.partitions):
        model = Model(p, world.broker.partitions)
        found: dict[int, list[Any]] = {}
        for _, e in world.broker.committed(TOPICS.journal, p):
            record = decode(e.value)
            found.setdefault(record.source_offset, []).append(record)
        for offset, e in world.broker.committed(TOPICS.submitted, p):
            records = found.pop(offset, [])
            try:
                command = decode(e.value)
                terms.refuse(command, p)
            except UndecodableError:
                model.now = max(model.now, e.timestamp)
                if records:
                    yield f"partition {p} offset {offset}: a dead letter with an outcome"
                continue
            if isinstance(command, Crossing):
                arrived.setdefault((command.from_partition, p), []).append(command)
            expected = model.settle(command, offset, e.timestamp)
            for c in expected.sent:
                sent.setdefault((p, c.to_partition), []).append(c)
            if len(records) != 1:
                yield f"partition {p} offset {offset}: {len(records)} outcomes"
                return
            try:
                compare(command, records[0], expected)
            except AssertionError as error:
                yield f"partition {p} offset {offset}: the model says {expected}: {str(error)[:300]}"
                return
        if found:
            yield f"partition {p}: outcomes of offsets that hold no command: {sorted(found)}"
    for way in sent.keys() | arrived.keys():
        try:
            compare_sent(arrived.get(way, []), sent.get(way, []))
        except AssertionError as error:
            yield f"from partition {way[0]} to {way[1]}: {str(error)[:300]}"


def taken_over(world: Any, recovered: list[Any], hosts: list[Any]) -> Iterator[str]:
    """Whoever takes over now knows what the worker knows that settled: rows, open holds, keys, originals."""
    for ledger in recovered:
        p = ledger.partition
        at_work = [h.core.ledgers[p] for h in hosts if p in h.core.ledgers]
        if len(at_work) != 1:
            yield f"partition {p} has {len(at_work)} workers"
            continue
        for name, look in _LOOKS.items():
            mine, theirs = look(world, ledger), look(world, at_work[0])
            if mine != theirs:
                yield f"partition {p}: a take-over has other {name} than the worker: {_first(mine, theirs)}"


def _first(mine: Any, theirs: Any) -> str:
    if isinstance(mine, dict):
        names = [n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n)]
        return f"{len(names)} differ, {names[0]}: {mine.get(names[0])} and {theirs.get(names[0])}"
    return f"{mine} and {theirs}"[:400]


def _keys(world: Any, ledger: Any) -> dict[Any, Any]:
    asked = [command_id(*k) for k in _answered(world, ledger.partition)]
    found: dict[Any, Any] = ledger.keys.find(asked, ledger.base.head.event_time)
    return found


def _answered(world: Any, partition: int) -> list[tuple[str, str]]:
    records = [world.decode(e.value) for _, e in world.broker.committed(TOPICS.journal, partition)]
    return [(r.partner_id, r.idempotency_key) for r in records]


def _originals(world: Any, ledger: Any) -> dict[int, Any]:
    draft = Draft(ledger.base)
    offsets = range(ledger.base.head.next_offset)
    return {o: (draft.moved(o), draft.returned(o)) for o in offsets}


_LOOKS: dict[str, Callable[[Any, Any], Any]] = {
    "accounts": lambda _, x: {n: a.state() for n, a in x.base.accounts.items()},
    "partners": lambda _, x: {n: a.record() for n, a in x.base.partners.items()},
    "open holds": lambda _, x: {n: h.state() for n, h in x.base.holds.items()},
    "other rows": lambda _, x: dict(x.base.rows),
    "holds that lapse": lambda _, x: x.base.due,
    "figures": lambda _, x: x.base.head.record(),
    "keys": _keys,
    "originals": _originals,
}
