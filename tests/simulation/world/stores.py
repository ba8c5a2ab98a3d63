"""ClickHouse and Redis in memory, under the sinks' own code.

ClickHouse is cut at `sinks.clickhouse.Database`: the sinks' queries are read by a small interpreter that knows the
functions they use and refuses every other. An insert runs for a while, lands whole, and may land after its sender is
gone; the fence's CHECK is looked at when it begins. Redis is cut at the client; its script runs in a real Lua.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from types import SimpleNamespace
from typing import Any

import lupa.lua51 as lua
import redis

from schemas.errors import PartUnavailableError
from sinks.clickhouse import ClickHouseConfig, FencedError, Insert
from tests.simulation.world.clients import Faults
from tests.simulation.world.scheduler import Scheduler

Row = dict[str, Any]

_COUNTERS = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
_BYTES = frozenset({"chain", "command_id", "counters", "hold_id", "key", "value"})
_LEDGER = ("postings", "pending", "outcomes", "control_changes")


class Tables:
    """The server: tables of rows, the CHECK of each, and the inserts that run."""

    def __init__(self, sim: Scheduler, faults: Faults) -> None:
        self.sim = sim
        self.faults = faults
        self.rows: dict[str, list[Row]] = {t: [] for t in (*_LEDGER, "dead_letters", "seals", "calls", "limit_rows")}
        self.checks: dict[str, set[int]] = {t: set() for t in self.rows}
        self.running: dict[str, Callable[[], None]] = {}
        self.inserts = 0
        self.chances = {"insert_refused": 0.0, "insert_answer_lost": 0.0, "insert_forgotten": 0.0}

    def happens(self, name: str) -> bool:
        if self.chances[name] and self.sim.random.random() < self.chances[name]:
            self.faults.seen(name)
            return True
        return False


class Database:
    """`sinks.clickhouse.Database` on these tables."""

    def __init__(self, tables: Tables, config: ClickHouseConfig) -> None:
        self.config = config
        self.name = config.database
        self._tables = tables
        self._sim = tables.sim

    def _down(self, why: str) -> PartUnavailableError:
        return PartUnavailableError("ClickHouse", self.config.address, why)

    def rows(self, query: str, params: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        self._sim.call("clickhouse")
        t = self._tables
        for name, value in (params or {}).items():
            query = query.replace(f"%({name})s", repr(value))
        if "system.tables" in query:
            assert params is not None
            if params["t"] not in t.checks:
                return []
            runs = sorted(t.checks[params["t"]])
            return [("".join(f", CONSTRAINT run_{r} CHECK run = {r}" for r in runs),)]
        if "system.disks" in query:
            return [(1 << 40,)]  # bytes: this server's disk is never full
        if "system.processes" in query:
            return [(name,) for name in t.running]
        if query.startswith("KILL"):
            assert params is not None
            t.running.pop(params["q"], None)
            return []
        return select(query.replace(f"{self.name}.", ""), t.rows)

    def run(self, statement: str) -> None:
        self._sim.call("clickhouse")
        found = re.fullmatch(
            rf"ALTER TABLE {self.name}\.(\w+) ADD CONSTRAINT IF NOT EXISTS run_(\d+) CHECK run = \2(.*)", statement
        )
        assert found, statement
        checks = self._tables.checks[found[1]]
        checks.add(int(found[2]))
        checks -= {int(r) for r in re.findall(r"DROP CONSTRAINT IF EXISTS run_(\d+)", found[3])}

    def insert(self, table: str, columns: Sequence[str], data: Sequence[Any]) -> None:
        if table == "ingest_batches":
            self._sim.step("insert")
            return
        self.begin(table, columns, [data]).finish()

    def begin(self, table: str, columns: Sequence[str], blocks: Sequence[Sequence[Any]]) -> Insert:
        t, sim = self._tables, self._sim
        rows = [
            dict(zip(columns, values, strict=True))
            for data in blocks
            for values in zip(*(c.tolist() for c in data), strict=True)
        ]
        sim.step("insert begins")
        if t.happens("insert_refused"):
            raise self._down("refused")
        if t.checks[table] - {r["run"] for r in rows}:
            raise FencedError("another ClickHouse sink has taken over")
        t.inserts += 1
        name, r = f"insert {t.inserts}", sim.random.random()

        def land() -> None:
            if t.running.pop(name, None) and not forgotten:
                t.rows[table] += [_as_kept(row) for row in rows]

        forgotten = t.happens("insert_forgotten")
        t.running[name] = land
        takes_s = 0.01 * r * (1 if r < 0.95 else 30)
        sim.later(takes_s, land)
        lost = t.happens("insert_answer_lost")

        def finish() -> None:
            if lost:
                sim.sleep(takes_s * r)
                raise self._down("the connection broke")
            while name in t.running:
                sim.sleep(0.001)
            sim.step("insert ends")

        return Insert(finish)

    def close(self) -> None:
        """There is no connection."""


def _as_kept(row: Row) -> Row:
    """What the table's defaults make of a row."""
    kept: Row = {n: v.decode() if isinstance(v, bytes) and n not in _BYTES else v for n, v in row.items()}
    if "counters" in kept:
        raw = kept.pop("counters")
        for i, n in enumerate(_COUNTERS):
            kept[n] = int.from_bytes(raw[16 * i : 16 * i + 16], "little", signed=True)
        kept["amount"] = kept.pop("amount_in")
    if "change_in" in kept:
        kept["change"] = kept.pop("change_in")
    if "side_code" in kept:
        kept["side"] = "credit" if kept.pop("side_code") == 2 else "debit"
    if "value_day" in kept:
        kept["value_date"] = max(0, min(120_529, kept["value_day"]))
    return kept


# ---- the sinks' SQL ------------------------------------------------------------------------------------------------

_AGGREGATES: tuple[tuple[str, str], ...] = (
    (r"count\(\)", "len(rows)"),
    (r"sumIf\((\w+), (\w+) = ('\w+')\)", r"sum(r['\1'] for r in rows if r['\2'] == \3)"),
    (r"sum\((?:toUInt64\()?(\w+)\)?\)", r"sum(r['\1'] for r in rows)"),
    (r"(min|max)\((\w+)\)", r"\1((r['\2'] for r in rows), default=0)"),
    (r"uniqExact\((\w+)\)", r"len({r['\1'] for r in rows})"),
    (r"uniqExact\((\w+), (\w+)\)", r"len({(r['\1'], r['\2']) for r in rows})"),
    (r"groupUniqArray\((\w+)\)", r"list({r['\1'] for r in rows})"),
)


def select(query: str, tables: dict[str, list[Row]]) -> list[tuple[Any, ...]]:
    """The answer to one of the sinks' queries: aggregates of a table, under conditions on its columns, by groups."""
    found = re.fullmatch(r"SELECT (.*?) FROM (\w+)(?: WHERE (.*?))?(?: GROUP BY ([\w, ]+))?", query.strip())
    assert found, query
    what, table, where, by = found.groups()
    rows = tables[table]
    if where:
        test, values = _condition(_VALUE.sub("@", where)), [_value(v) for v in _VALUE.findall(where)]
        rows = [r for r in rows if test(r, values)]
    keys = tuple(by.split(", ")) if by else ()
    groups: dict[tuple[Any, ...], list[Row]] = {} if by else {(): rows}
    for r in rows if by else ():
        groups.setdefault(tuple(r[k] for k in keys), []).append(r)
    columns = _columns(what, keys)
    return [columns(group, key) for key, group in groups.items()]


@cache
def _condition(where: str) -> Callable[[Row, list[Any]], bool]:
    """A condition in Python; @ stands for each value. Columns are names that stand before an operator."""
    number = iter(range(where.count("@")))
    out = re.sub("@", lambda _: f"v[{next(number)}]", where)
    out = re.sub(r"(\w+) BETWEEN (v\[\d+\]) AND (v\[\d+\])", r"\2 <= r['\1'] <= \3", out)
    out = re.sub(r"\b([a-z_]+) (=|>=|NOT IN) (?=v\[|\()", r"r['\1'] \2 ", out)
    out = out.replace(" = ", " == ").replace(" NOT IN (", " not in (").replace(" AND ", " and ").replace(" OR ", " or ")
    out = re.sub(r"not in \((v\[\d+\])\)", r"not in (\1,)", out)
    made: Callable[[Row, list[Any]], bool] = eval(f"lambda r, v: {out}")
    return made


_VALUE = re.compile(r"'[^']*'|\b\d+\b")


def _value(text: str) -> Any:
    return text.strip("'") if text.startswith("'") else int(text)


@cache
def _columns(what: str, keys: tuple[str, ...]) -> Callable[[list[Row], tuple[Any, ...]], tuple[Any, ...]]:
    out = what.replace(" = uniq", " == uniq")
    for pattern, python in _AGGREGATES:
        out = re.sub(pattern, python, out)
    for i, k in enumerate(keys):
        out = re.sub(rf"(^|, ){k}(?=,|$)", rf"\1key[{i}]", out)
    made: Callable[[list[Row], tuple[Any, ...]], tuple[Any, ...]] = eval(f"lambda rows, key: ({out},)")
    return made


# ---- Redis -----------------------------------------------------------------------------------------------------------


class RedisServer:
    """Hashes. `snapshot` is what an old copy of it would have; `violate` is told of a balance that goes back."""

    def __init__(self, sim: Scheduler, violate: Callable[[str], None]) -> None:
        self.sim = sim
        self.violate = violate
        self.hashes: dict[str, dict[str, str]] = {}
        self.snapshot: dict[str, dict[str, str]] = {}
        self.down = False

    def flush(self) -> None:
        self.hashes = {}

    def keep(self) -> None:
        self.snapshot = {k: dict(h) for k, h in self.hashes.items()}

    def restore(self) -> None:
        self.hashes = {k: dict(h) for k, h in self.snapshot.items()}

    def do(self, command: str, *args: Any) -> Any:
        """One command."""
        h = self.hashes
        key = args[0]
        match command.upper():
            case "HGETALL":
                return dict(h.get(key, {}))
            case "HGET":
                return h.get(key, {}).get(str(args[1]))
            case "HMGET":
                return [h.get(key, {}).get(n) for n in args[1:]]
            case "HSET":
                self._set(
                    h.setdefault(key, {}), key, {str(n): str(v) for n, v in zip(args[1::2], args[2::2], strict=True)}
                )
                return 1
            case "EVAL":
                return _script(key)(self, list(args[2 : 2 + args[1]]), [str(a) for a in args[2 + args[1] :]])
            case "UNLINK":
                return sum(h.pop(k, None) is not None for k in args)
            case _:
                raise AssertionError(f"Redis command {command} is not known here")

    def _set(self, fields: dict[str, str], key: str, new: dict[str, str]) -> None:
        for name, value in new.items() if ":account:" in key else ():
            if name in fields and int(fields[name].split()[0]) > int(value.split()[0]):
                self.violate(f"Redis {key} of partition {name} goes back from {fields[name]} to {value}")
        fields.update(new)


@cache
def _script(text: str) -> Callable[[RedisServer, list[str], list[str]], int]:
    """A script, run by a real Lua."""
    machine = lua.LuaRuntime(unpack_returned_tuples=True)
    table = machine.table_from
    call_python = machine.eval("function(ask) return {call = function(...) return ask(...) end} end")
    body = machine.eval(f"function(redis, KEYS, ARGV) {text} end")

    def run(server: RedisServer, keys: list[str], arguments: list[str]) -> int:
        def ask(*args: Any) -> Any:
            answer = server.do(*args)
            if isinstance(answer, list):
                return table([False if a is None else a for a in answer])
            return False if answer is None else answer

        return int(body(call_python(ask), table(keys), table(arguments)))

    return run


class RedisClient:
    """The calls of redis.Redis that sinks/balances.py makes. `sim` None: for those who look from outside."""

    def __init__(self, server: RedisServer, sim: Scheduler | None) -> None:
        self._server = server
        self._sim = sim
        self.connection_pool = SimpleNamespace(disconnect=lambda: None)

    def _pass(self) -> None:
        if self._sim is not None:
            self._sim.call("redis", 0.002)
            if self._server.down:
                raise redis.ConnectionError("refused")

    def hgetall(self, key: str) -> Any:
        self._pass()
        return self._server.do("HGETALL", key)

    def hset(self, key: str, mapping: dict[str, Any]) -> None:
        self._pass()
        self._server.do("HSET", key, *(x for pair in mapping.items() for x in pair))

    def unlink(self, *keys: str) -> int:
        self._pass()
        return int(self._server.do("UNLINK", *keys))

    def scan_iter(self, match: str, count: int) -> Iterator[str]:
        self._pass()
        return iter([k for k in list(self._server.hashes) if fnmatchcase(k, match)])

    def pipeline(self, transaction: bool) -> RedisPipeline:
        assert not transaction
        return RedisPipeline(self)

    def close(self) -> None:
        """There is no connection."""


class RedisPipeline:
    """Commands sent together, each done by itself: others come in between, and the sender may be killed there."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._queued: list[tuple[Any, ...]] = []

    def hget(self, key: str, name: str) -> None:
        self._queued.append(("HGET", key, name))

    def hgetall(self, key: str) -> None:
        self._queued.append(("HGETALL", key))

    def eval(self, script: str, count: int, *args: Any) -> None:
        self._queued.append(("EVAL", script, count, *args))

    def execute(self) -> list[Any]:
        out = []
        self._client._pass()
        for i, command in enumerate(self._queued):
            if i and self._client._sim is not None:
                self._client._sim.step("redis pipeline")
            out.append(self._client._server.do(*command))
        if self._client._sim is not None:
            self._client._sim.call("redis answers", 0.002)
        return out
