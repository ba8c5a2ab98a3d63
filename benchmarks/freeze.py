"""The freeze benchmark: from when a freeze is asked for to the last payment before it, with the whole stack under load.

    ./run bench freeze [--only account,partner,product,world] [--routes api,command,console] [--freezes N] [--rate N]

Payments come at a steady rate from a separate process. Each freeze is asked for by one of three routes: `set_freeze` in
a process that is connected, the whole command `clearline freeze` from its start to its end, and the confirmation on the
console's page. Counted from there: when the broker appended the command (its own time), when the journal's record of it
could be read, when the last payment of the subject could be read, and the answer. The journal is then read from its
first record on: a payment that settled behind a freeze, in the order of its partition, ends the benchmark with 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from random import Random
from statistics import median
from typing import Any, NamedTuple

import httpx

from benchmarks.harness import (
    ROOT,
    BenchError,
    World,
    chosen_parts,
    common_arguments,
    run_benchmark,
    settled_stack,
    unlimited_settings,
)
from benchmarks.load import Plan
from benchmarks.report import Report
from clearline import keys
from clearline.config import settings_env
from clearline.connection import Connection, connect
from clearline.control import give
from clearline.freezing import set_freeze
from clearline.product_file import read_product
from clearline.stack import Stack
from schemas.identity import BANK, owner_of
from schemas.records import JournalRecord, PublishProduct
from streams.reader import read_to_end
from streams.table import Table
from streams.tail import Tail

LEVELS = ("account", "partner", "product", "world")
ROUTES = ("api", "command", "console")
GOAL_S = 1.0
_WAIT_S = 60.0
_BY, _SECOND, _WHY = "chen", "li.wei", "benchmark"


class Seen(NamedTuple):
    """A journal record, and when it could be read (CLOCK_MONOTONIC)."""

    at: float
    record: JournalRecord


class Freeze(NamedTuple):
    """One freeze. Milliseconds from when it was asked for: to the broker's append of the last of its commands, to its
    last journal record, to the last payment of the subject before it (negative: none was under way), to the answer."""

    appended_ms: float
    recorded_ms: float
    last_payment_ms: float
    answered_ms: float


class Watcher:
    """Reads the journal as it grows, from another thread."""

    def __init__(self, system: Connection) -> None:
        self._system = system
        self._seen: list[Seen] = []
        self._ended = threading.Event()
        self._tail = Tail(system.kafka, {system.topics.journal: system.partitions})
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._ended.is_set():
            found, now = self._tail.poll(2_000, 0.2), time.monotonic()
            self._seen += [Seen(now, self._system.codec.decode(r.value)) for _, r in found]
        self._tail.close()

    def since(self, place: int) -> list[Seen]:
        """What came after the first `place` records."""
        return self._seen[place:]

    @property
    def place(self) -> int:
        return len(self._seen)

    def until(self, what: str, enough: Callable[[], bool]) -> None:
        """Waits for something to have been read. Raises BenchError after a minute."""
        deadline = time.monotonic() + _WAIT_S
        while not enough():
            if time.monotonic() > deadline:
                raise BenchError(f"{what} did not come within {_WAIT_S:.0f} s")
            time.sleep(0.005)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


class Console:
    """Two people of the staff at the console's pages."""

    def __init__(self, system: Connection, url: str) -> None:
        tokens = []
        with Table(system.kafka, system.topics.access, system.codec) as access:
            for holder in (_BY, _SECOND):
                made = keys.make(
                    BANK, ["status", "operate"], sandbox=False, now_ms=int(time.time() * 1000), requested_by=_BY,
                    holder=holder,
                )  # fmt: skip
                access.put(keys.row_key(made.key.key_id), made.key)
                tokens.append(made.token)
        self._first, self._second = tokens
        self._client = httpx.Client(base_url=url, timeout=60)
        deadline = time.monotonic() + _WAIT_S
        while self._client.post("/operations/sign-in", data={"key": self._first}).status_code != 303:
            if time.monotonic() > deadline:
                raise BenchError("the console does not let us sign in")
            time.sleep(1.1)  # the gateway learns of a new key in a moment, and attempts are counted

    def ticket(self, level: str, subject: str) -> str:
        """The page that asks for confirmation; what it seals."""
        page = self._client.get(
            "/operations/freeze/confirm", params={"level": level, "subject": subject, "note": _WHY}
        ).text  # fmt: skip
        found = re.search(r'name="ticket" value="([^"]+)"', page)
        if found is None:
            raise BenchError(f"the console does not offer to freeze {level} {subject}")
        return found[1]

    def confirm(self, ticket: str) -> None:
        answer = self._client.post("/operations/freeze/do", data={"ticket": ticket, "second_key": self._second})
        if answer.status_code != 303:
            raise BenchError(f"the console answered {answer.status_code}")


class Bench:
    """A stack under payments, and whoever freezes."""

    def __init__(self, stack: Stack, world: World, options: argparse.Namespace) -> None:
        self.world, self._options = world, options
        self._settings = stack.resolved()
        self.system = connect(self._settings)
        self._env = {**os.environ, **settings_env(self._settings), "PYTHONPATH": str(ROOT)}
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)  # as `./run` has it
        self._console = Console(self.system, stack.addresses().gateway_url) if "console" in options.routes else None
        self._random = Random(options.seed)
        file = read_product(ROOT / "products" / "wallet.yaml")
        give(self.system, PublishProduct(BANK, "bench-shelf", file.product, file.version, 0, file.text, _BY, _WHY))
        self._watcher = Watcher(self.system)

    def close(self) -> None:
        self._watcher.close()

    def subject(self, level: str) -> str:
        """Another one each time."""
        index = self._random.randrange(self.world.plan.partners)
        partner = self.world.plan.partner_ids()[index]
        account = self._random.choice(self.world.plan.accounts_of(index, partner))
        return {"account": account, "partner": partner, "product": "wallet", "world": self.world.name}[level]

    def freeze(self, level: str, route: str) -> Freeze:
        """One freeze, and its lifting when what was under way is known."""
        subject = self.subject(level)
        self._paid(level, subject)
        time.sleep(self._random.random() / 10)  # at any moment between two commits
        begin, place = self._begin(level, subject, route), self._watcher.place
        wall, asked = time.time() * 1000, time.monotonic()
        begin()
        answered = time.monotonic()
        name = "world" if level == "world" else subject

        def records() -> list[Seen]:
            found = self._watcher.since(place)
            return [s for s in found if s.record.command == "SetFreeze" and s.record.subject_id == name]

        many = self.system.partitions if level in ("product", "world") else 1
        self._watcher.until("the freeze in the journal", lambda: len(records()) >= many)
        at = {s.record.source_partition: s for s in records()}
        before = [
            s.at for s in self._watcher.since(place)
            if concerns(s.record, level, name) and s.record.outcome == "settled"
            and s.record.sequence < at[s.record.source_partition].record.sequence
        ]  # fmt: skip
        self._watcher.until("a payment that is refused", lambda: any(
            concerns(s.record, level, name) and s.record.outcome == "rejected" for s in self._watcher.since(place)
        ))  # fmt: skip
        set_freeze(self.system, level, subject, False, by=_BY, note=_WHY, approved_by=_SECOND)
        return Freeze(
            max(s.record.booked_at for s in at.values()) - wall,
            (max(s.at for s in at.values()) - asked) * 1e3,
            (max(before, default=asked) - asked) * 1e3,
            (answered - asked) * 1e3,
        )

    def _begin(self, level: str, subject: str, route: str) -> Callable[[], object]:
        """What asks for the freeze. What comes before the question is done already."""
        if route == "api":
            return lambda: set_freeze(self.system, level, subject, True, by=_BY, note=_WHY)
        if self._console is not None and route == "console":
            console, ticket = self._console, self._console.ticket(level, subject)
            return lambda: console.confirm(ticket)
        command = [sys.executable, "-m", "clearline", "freeze", level, subject, "--note", _WHY, "--by", _BY]
        return lambda: subprocess.run(command, cwd=ROOT, env=self._env, check=True, stdout=subprocess.DEVNULL)

    def _paid(self, level: str, subject: str) -> None:
        """Waits until payments of the subject settle (again)."""
        place, name = self._watcher.place, "world" if level == "world" else subject
        self._watcher.until("a payment that settles", lambda: any(
            concerns(s.record, level, name) and s.record.outcome == "settled" for s in self._watcher.since(place)
        ))  # fmt: skip


def concerns(r: JournalRecord, level: str, subject: str) -> bool:
    """Whether a payment is one that the freeze of this subject stops. A refused one has no postings: of accounts, only
    what settled or was refused by name is known."""
    if r.command != "Transaction":
        return False
    match level:
        case "account":
            return any(p.account_id == subject for p in r.postings) or r.detail.get("account") == subject
        case "partner":
            return r.partner_id == subject or any(owner_of(p.account_id) == subject for p in r.postings)
        case "product":
            return r.product == subject
    return True


def behind(records: Sequence[JournalRecord]) -> int:
    """Payments that settled behind a freeze of theirs, in the order of their partitions."""
    frozen: dict[int, set[tuple[str, str]]] = {}
    wrong = 0
    for r in sorted(records, key=lambda r: (r.source_partition, r.sequence)):
        held = frozen.setdefault(r.source_partition, set())
        if r.command == "SetFreeze" and r.outcome == "applied":
            which = (r.changes["level"], r.subject_id)
            held.add(which) if r.changes["frozen"] == "true" else held.discard(which)
        elif r.outcome == "settled":
            wrong += any(concerns(r, level, subject) for level, subject in held)
    return wrong


def _run(options: argparse.Namespace, report: Report) -> int:
    with unlimited_settings("freeze") as settings:
        plan = Plan(options.seed, partners=16, accounts=32, partitions=settings.partitions)
        with settled_stack(settings, plan, report) as (stack, world):
            number = int(options.rate * 3_600)
            with world.job("send", tag="freeze", number=number, rate=options.rate) as sender:
                sender.hear()
                sender.tell({"start_at": time.monotonic() + 0.5})
                bench = Bench(stack, world, options)
                try:
                    rows = [_measure(bench, level, route, options, report)
                            for level in options.only for route in options.routes]  # fmt: skip
                finally:
                    bench.close()
            journal = read_to_end(world.kafka, world.topics.journal)
            wrong = behind([bench.system.codec.decode(r.value) for r in journal])
            _report(report, rows, options, wrong)
            return int(wrong > 0)


def _measure(bench: Bench, level: str, route: str, options: argparse.Namespace, report: Report) -> dict[str, Any]:
    report.say(f"{options.freezes} freezes of level {level} by {route}")
    bench.freeze(level, route)  # not counted: files and compiled code are cold
    found = [bench.freeze(level, route) for _ in range(options.freezes)]
    out: dict[str, Any] = {"level": level, "route": route, "load_average": round(os.getloadavg()[0], 2)}
    for name in Freeze._fields:
        values = sorted(getattr(f, name) for f in found)
        out[name] = {"p50": round(median(values), 1), "max": round(values[-1], 1)}
    out["within_1s"] = sum(f.last_payment_ms < GOAL_S * 1e3 for f in found)
    return out


def _report(report: Report, rows: list[dict[str, Any]], options: argparse.Namespace, wrong: int) -> None:
    columns = ["level", "by", "in the log p50 ms", "max", "journal p50", "max", "last payment p50", "max",
               "answer p50", "max", "last within 1 s", "load"]  # fmt: skip
    shown = [
        [r["level"], r["route"], *(r[n][q] for n in Freeze._fields for q in ("p50", "max")),
         f"{r['within_1s']} of {options.freezes}", r["load_average"]]
        for r in rows
    ]  # fmt: skip
    figures = {"rate": options.rate, "freezes": options.freezes, "rows": rows, "settled_behind": wrong}
    report.grid("freeze", figures, columns, shown)
    report.say(f"payments that settled behind a freeze of theirs, in the order of the journal: {wrong}")


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="clearline bench freeze", description="How soon a freeze holds.")
    common_arguments(parser, LEVELS)
    parser.add_argument("--routes", default=",".join(ROUTES), help="how it is asked for: api, command, console")
    parser.add_argument("--freezes", type=int, default=20, help="of each level by each route")
    parser.add_argument("--rate", type=float, default=400.0, help="payments per second")
    options = parser.parse_args(arguments)
    options.only, options.routes = chosen_parts(options.only, LEVELS), chosen_parts(options.routes, ROUTES)
    if options.quick:
        options.freezes, options.rate = 2, 200.0
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is asked for; returns the exit code: 1 when a payment settled behind a freeze."""
    return run_benchmark("freeze", arguments, _arguments, _run)


if __name__ == "__main__":
    sys.exit(main())
