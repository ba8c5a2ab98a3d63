"""512 runs of 512 commands each against the model, from one seed; and the same commands give the same bytes, always."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from collections import Counter
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from ledger.reasons import Reason
from schemas.records import AdmitPartner, Crossing, Transaction
from tests.ledger_bugs import BUGS
from tests.ledger_commands import command, later, refunds, setup
from tests.ledger_machine import Machine
from tests.ledger_model import OPERATIONS, Model
from tests.ledger_products import BROKEN, SHELF, broken, publish
from tests.ledger_world import BOOKED_AT, CODEC, DAY, LONG_MS, Ledger

ROOT = Path(__file__).resolve().parents[2]
SEED = 20261122
KINDS = {*OPERATIONS, "entry"}
pytestmark = pytest.mark.no_cover  # tracing would triple its time, and the examples cover every line


def run_of(seed: int, number: int, commands: int) -> Machine:
    """One run. By its number over one partition or three, with the shelf up from the beginning, later, or never."""
    random = Random(seed)
    partitions = 1 if number % 2 else 3
    machine, left = Machine(partitions, shelf=number % 4 < 2), commands
    publishes = number % 8 == 3
    while left > 0:
        count = min(left, random.randint(1, 64 if partitions == 1 else 24))
        left -= count
        try:
            machine.go(random)
            if publishes and left < commands // 2:
                machine.publish()
            if random.random() < 0.05:
                machine.settle(refunds(random, machine.newest(), 100))
            machine.play(random, count)
            for _ in range(random.randrange(3)):
                machine.go(random)
                machine.commit()
            if random.random() < 0.05:
                machine.drop()
        except AssertionError as e:
            raise AssertionError(f"seed {seed}, run {number}, {commands - left} commands in: {e}") from e
    machine.land()
    return machine


@pytest.mark.parametrize("part", range(8))
def test_512_runs_of_512_commands_agree_with_the_model(part):
    seen: Counter[str] = Counter()
    largest = {"posted": 0, "pending": 0}
    for run in range(part * 64, part * 64 + 64):
        machine = run_of(SEED + run, run, 512)
        seen += machine.seen
        largest = {name: max(most, machine.largest[name]) for name, most in largest.items()}
    print(f"seed {SEED}, part {part}: counters to {largest};", dict(seen.most_common()))
    assert seen["settled"] > 4_000
    assert min(seen[name] for name in ("repeated", "lapsed", "opened", "late", "crossed")) > 50
    assert {
        kind: seen[f"kind {kind}"] for kind in KINDS if seen[f"kind {kind}"] <= 25
    } == {}  # of each more than 200 in all
    assert min(largest.values()) > 2**63  # no 64-bit integer with a sign holds it
    assert set(Reason) - {Reason.COUNTER_OVERFLOW} <= set(seen), set(Reason) - set(seen)
    offered = {
        f"{d['product']} {name}" for d, _ in SHELF for name, o in d["operations"].items() if o["kind"] == "transfer"
    }
    assert offered <= set(seen), offered - set(seen)


def _this(value: Any, random: Random, model: Model) -> Any:
    return value


def test_more_holds_than_lapse_with_one_command_lapse_with_the_next_whatever_these_are():
    machine = Machine()
    last = BOOKED_AT + 1_000_000
    roles = {"payer": "bank:w", "payee": "acme:w"}
    holds = [
        Transaction("acme", f"h{i}", "wallet", "hold", 1, "CNY", roles, (), DAY, expires_at=last - i % 3) for i in range(2_300)
    ]  # fmt: skip
    for i in range(0, 2_300, 1_000):  # some in the base, some in drafts that are not committed
        machine.settle(holds[i : i + 1_000])
    unknown = msgspec.structs.replace(holds[0], idempotency_key="refused", currency="XXX")
    wanted: list[Any] = [unknown, holds[5], msgspec.structs.replace(holds[6], amount=2)]
    wanted += [
        AdmitPartner("bank", "late", "late"),
        msgspec.structs.replace(holds[7], idempotency_key="h", expires_at=0),
    ]
    left = []
    for c in wanted:
        machine.play(Random(0), 1, partial(_this, c), partial(_this, last))
        left.append(len(machine.newest().open_holds()))
    assert left == [1_800, 1_300, 800, 300, 1]
    assert machine.seen["lapsed"] == 2_300


Log = tuple[list[Any], list[int]]


@cache
def logs_of(seed: int, count: int, partitions: int = 3) -> tuple[Log, ...]:
    """The log of each partition: commands and their append times, drawn beside models that answer each other."""
    random = Random(seed)
    models = [Model(partition=p, partitions=partitions) for p in range(partitions)]
    logs: tuple[Log, ...] = tuple(([], []) for _ in models)
    flying: list[Crossing] = []

    def append(p: int, c: Any) -> None:
        commands, times = logs[p]
        commands.append(c)
        times.append(later(random, models[p]))
        flying.extend(models[p].settle(c, len(commands) - 1, times[-1]).sent)

    for p, model in enumerate(models):
        for c in setup(model, shelf=seed % 2 == 1):
            append(p, c)
    for _ in range(count):
        p = random.randrange(partitions)
        here = [c for c in flying if c.to_partition == p]
        if here and random.random() < 0.3:
            flying.remove(here[0])
            append(p, here[0])
        else:
            append(p, command(random, models[p]))
    return logs


def journal_digest(seed: int, batch: int, restart: int = 0) -> str:
    """SHA-256 over the journals and states of three partitions after 3,000 commands, settled in batches of this size.

    `restart`: after so many commands of a partition the process is replaced by one that knows what was written, and
    nothing else.
    """
    digest, operations, steps = hashlib.sha256(), set(), set()
    for p, (commands, times) in enumerate(logs_of(seed, 3_000)):
        ledger = Ledger(p, 3, LONG_MS)
        at = 0
        while at < len(commands):
            end = min(at + batch, len(commands))
            if at < restart:
                end = min(end, restart)
            ledger.settle(*commands[at:end], times=times[at:end])
            at = end
            if at == restart:
                ledger = ledger.restarted()
        records = [CODEC.decode(value) for value in ledger.journal]
        operations |= {r.operation for r in records}
        steps |= {r.changes.get("step") for r in records if r.outcome == "applied"}
        digest.update(b"".join(ledger.journal) + ledger.snapshot())
    assert {"hold", "capture", "void", "refund", "reversal", "exchange", "adjustment"} <= operations
    assert {"reserve", "commit"} <= steps
    return digest.hexdigest()


@pytest.mark.parametrize("seed", [7, 8])
def test_batches_make_no_difference(seed):
    assert len({journal_digest(seed, size) for size in (1, 17, 500, 4_000)}) == 1


@pytest.mark.parametrize("seed", [7, 8])
@pytest.mark.parametrize("restart", [1, 300, 700, 999])
def test_a_restart_makes_no_difference(restart, seed):
    assert journal_digest(seed, 100, restart) == journal_digest(seed, 33)


def test_the_same_commands_give_the_same_bytes_in_another_process_at_another_time():
    """Other hash seeds, another environment, another day: nothing of them gets into the journal."""
    code = "from tests.simulation.test_ledger import journal_digest; print(journal_digest(7, 100))"
    out = set()
    for hash_seed, zone in (("0", "UTC"), ("1", "Asia/Shanghai"), ("4711", "America/New_York")):
        env = {"PYTHONHASHSEED": hash_seed, "TZ": zone, "LANG": "C", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True
        )
        out.add(done.stdout)
    assert out == {journal_digest(7, 100) + "\n"}


def test_the_book_asks_the_system_for_nothing():
    """Audit events are raised by Python for files, sockets, processes and more; none while commands are settled."""
    code = """
import sys
from tests.simulation.test_ledger import journal_digest, logs_of
journal_digest(1, 100)  # what is imported late is imported now
logs_of(2, 3_000)
seen = []
armed = True
def hook(event, args):
    if armed and not event.startswith(("object.__", "gc.", "array.__")):
        seen.append(event)
sys.addaudithook(hook)
journal_digest(2, 100)
armed = False
print(seen)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


ALLOWED = {
    "__future__", "msgspec", "collections.abc", "enum", "hashlib", "re", "typing", "numpy", "numpy.typing",
    "itertools", "array", "bisect", "functools", "operator", "dataclasses", "heapq",
}  # fmt: skip


@pytest.mark.parametrize("path", sorted((ROOT / "ledger").glob("*.py")), ids=lambda p: p.stem)
def test_the_ledger_imports_nothing_that_could_tell_it_more_than_the_log(path):
    """No clock, no randomness, no environment, no I/O: it is in the imports, so it can be seen there."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
        elif isinstance(node, ast.Name):
            assert node.id not in {"open", "input", "print", "exec", "eval", "__import__", "id"}, (
                path.name,
                node.lineno,
            )
    strange = {m for m in imported if m not in ALLOWED and m.split(".")[0] not in ("ledger", "schemas")}
    assert strange == set()


def test_each_broken_document_is_refused_for_the_reason_that_it_breaks():
    machine = Machine(shelf=True)
    for number, (reason, _, document) in enumerate(broken(99)):
        before = machine.seen[reason]
        machine.settle([publish(f"broken-{number}", document)])  # and as the model says
        assert machine.seen[reason] == before + 1, document
    assert machine.newest().counts["rejected"] >= len(BROKEN)


@pytest.mark.parametrize("bug", BUGS, ids=lambda f: f.__name__[1:])
def test_a_bug_put_in_on_purpose_is_found(bug, monkeypatch):
    """The check would be worth nothing if it held for a Book that is wrong."""
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        _run_a_while()


def test_without_such_a_bug_nothing_is_found():
    _run_a_while()


def _run_a_while():
    for number in range(32):
        run_of(SEED + number, number, 512)
