"""512 runs of 512 commands each against the model, from one seed; and the same commands give the same bytes, always."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from ledger import operations
from ledger.accounts import Account
from ledger.book import Book
from ledger.entries import HOLD, LAPSED
from ledger.operations import OPERATIONS as OPERATIONS_OF_LEDGER
from ledger.reasons import Reason, Rejection
from ledger.state import Draft
from schemas.records import AdmitPartner, Transaction
from tests.ledger_commands import command, later, refunds, setup
from tests.ledger_machine import Machine
from tests.ledger_model import OPERATIONS, Model
from tests.ledger_world import BOOKED_AT, CODEC, DAY, Ledger

ROOT = Path(__file__).resolve().parents[2]
SEED = 20261122
pytestmark = pytest.mark.no_cover  # tracing would triple its time, and the examples cover every line


@pytest.mark.parametrize("part", range(8))
def test_512_runs_of_512_commands_agree_with_the_model(part):
    seen: Counter[str] = Counter()
    largest = {"posted": 0, "pending": 0}
    for run in range(part * 64, part * 64 + 64):
        random, machine, left = Random(SEED + run), Machine(), 512
        while left > 0:
            count = min(left, random.randint(1, 64))
            left -= count
            try:
                if count > 60:
                    machine.settle(refunds(random, machine.newest(), 100))
                machine.play(random, count)
            except AssertionError as e:
                raise AssertionError(f"seed {SEED + run}, {512 - left} commands in: {e}") from e
            for _ in range(random.randrange(3)):
                machine.commit()
            if random.random() < 0.05:
                machine.drop()
        seen += machine.seen
        largest = {name: max(most, machine.largest[name]) for name, most in largest.items()}
    print(f"seed {SEED}, part {part}: counters to {largest};", dict(seen.most_common()))
    assert seen["settled"] > 5_000
    assert seen["repeated"] > 50
    assert all(seen[operation] > 200 for operation in OPERATIONS)
    assert seen["lapsed"] > 500
    assert min(largest.values()) > 2**63  # no 64-bit integer with a sign holds it
    assert set(Reason) - {Reason.COUNTER_OVERFLOW} <= set(seen), set(Reason) - set(seen)


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


def log_of(seed: int, count: int) -> tuple[list[Any], list[int]]:
    """A log of commands and their append times, drawn beside the model."""
    random, model = Random(seed), Model()
    commands, times = setup(), []
    for n in range(len(commands) + count):
        if n >= len(commands):
            commands.append(command(random, model))
        times.append(later(random, model))
        model.settle(commands[n], n, times[n])
    return commands, times


def journal_digest(seed: int, batch: int, restart: int = 0) -> str:
    """SHA-256 over the journal and the state after 3,000 commands, settled in batches of this size.

    `restart`: after so many commands the process is replaced by one that knows what was written, and nothing else.
    """
    ledger = Ledger()
    commands, times = log_of(seed, 3_000)
    at = 0
    while at < len(commands):
        end = min(at + batch, len(commands))
        if at < restart:
            end = min(end, restart)
        ledger.settle(*commands[at:end], times=times[at:end])
        at = end
        if at == restart:
            ledger = ledger.restarted()
    operations = {CODEC.decode(value).operation for value in ledger.journal}
    assert set(OPERATIONS) <= operations
    return hashlib.sha256(b"".join(ledger.journal) + ledger.snapshot()).hexdigest()


def test_batches_make_no_difference():
    assert len({journal_digest(7, size) for size in (1, 17, 500, 4_000)}) == 1


@pytest.mark.parametrize("restart", [1, 700, 1_500, 2_999])
def test_a_restart_makes_no_difference(restart):
    assert journal_digest(7, 100, restart) == journal_digest(7, 33)


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
from tests.simulation.test_ledger import journal_digest
journal_digest(1, 100)  # what is imported late is imported now
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
    "itertools", "array", "bisect", "dataclasses", "heapq",
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


def _limit_ignored(monkeypatch):
    monkeypatch.setattr("ledger.operations._check_left", lambda account, left: None)


def _draft_writes_through(monkeypatch):
    monkeypatch.setattr(Account, "copy", lambda self: self)


def _refusals_bind_nothing(monkeypatch):
    plain = Book.settle

    def settle(self, command, name, *rest):
        known = name in self.draft.keys
        record = plain(self, command, name, *rest)
        if record.outcome == "rejected" and not known:
            del self.draft.keys[name]
        return record

    monkeypatch.setattr(Book, "settle", settle)


def _suspension_stops_at_the_parent(monkeypatch):
    def find(self, partner_id):
        partner = self.draft.partners.find(partner_id)
        if partner_id == "bank" or (partner and partner.state == "live"):
            return None
        return (Reason.PARTNER_SUSPENDED if partner else Reason.PARTNER_UNKNOWN), partner_id

    monkeypatch.setattr(Book, "_find_standing", find)


def _path_taken_for_a_prefix(monkeypatch):
    plain = str.partition
    monkeypatch.setattr("ledger.accounts.root_of", lambda partner: plain(partner, "/")[0][:4])
    monkeypatch.setattr("ledger.operations.root_of", lambda partner: partner[:1])


def _pending_money_is_there_to_be_taken(monkeypatch):
    monkeypatch.setattr(
        Account, "available", lambda a: (a.debits_posted - a.credits_posted) * (1 if a.debit_normal else -1)
    )


def _nothing_lapses(monkeypatch):
    monkeypatch.setattr(Draft, "next_due", lambda self: 2**62)


def _holds_lapse_in_another_order(monkeypatch):
    plain = Draft.due_holds
    monkeypatch.setattr(
        Draft, "due_holds", lambda self: iter(sorted(plain(self), key=lambda h: (h.expires_at, -h.opened_at)))
    )


def _a_lapse_is_not_remembered(monkeypatch):
    plain = Draft.moved

    def moved(self: Draft, offset: int) -> Any:
        found = plain(self, offset)
        return found._replace(kind=HOLD) if found is not None and found.kind == LAPSED else found

    monkeypatch.setattr(Draft, "moved", moved)


def _what_was_given_back_is_forgotten(monkeypatch):
    monkeypatch.setattr(Draft, "returned", lambda self, offset: 0)


def _refunds_of_open_drafts_are_not_counted(monkeypatch):
    def returned(self, offset):
        return self.given_back.get(offset, self.base.entries.given_back(offset))

    monkeypatch.setattr(Draft, "returned", returned)


def _final_releases_nothing_more(monkeypatch):
    plain = OPERATIONS_OF_LEDGER["capture"]

    def capture(draft, t, *rest):
        plan = plain(draft, t, *rest)
        assert plan.releases is not None
        plan.releases = (plan.releases[0], t.amount)
        return plan

    monkeypatch.setitem(OPERATIONS_OF_LEDGER, "capture", capture)


def _a_capture_must_be_paid_for_twice(monkeypatch):
    plain = operations._check_totals
    monkeypatch.setattr(operations, "_check_totals", lambda legs, released=None: plain(legs))


def _a_capture_is_no_payment(monkeypatch):
    monkeypatch.setattr(operations, "ENTRY", 3)


def _blocks_stop_an_adjustment(monkeypatch):
    def check(field, a, currency):
        if a.debits_blocked or a.credits_blocked:
            return Rejection(Reason.DEBITS_BLOCKED)
        return None

    monkeypatch.setattr(operations, "_check_open", check)


@pytest.mark.parametrize(
    "bug",
    [
        _limit_ignored,
        _draft_writes_through,
        _refusals_bind_nothing,
        _suspension_stops_at_the_parent,
        _path_taken_for_a_prefix,
        _pending_money_is_there_to_be_taken,
        _nothing_lapses,
        _holds_lapse_in_another_order,
        _a_lapse_is_not_remembered,
        _what_was_given_back_is_forgotten,
        _refunds_of_open_drafts_are_not_counted,
        _final_releases_nothing_more,
        _a_capture_must_be_paid_for_twice,
        _a_capture_is_no_payment,
        _blocks_stop_an_adjustment,
    ],
    ids=lambda f: f.__name__[1:],
)
def test_a_bug_put_in_on_purpose_is_found(bug, monkeypatch):
    """The check would be worth nothing if it held for a Book that is wrong."""
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        _run_a_while()


def test_without_such_a_bug_nothing_is_found():
    _run_a_while()


def _run_a_while():
    random, machine = Random(SEED), Machine()
    for _ in range(300):
        machine.play(random, 20)
        if random.random() < 0.5:
            machine.commit()
        if random.random() < 0.3:
            machine.drop()
