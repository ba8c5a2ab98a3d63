"""Clients that do not know whether their request arrived, while gateways are killed with kill -9: each payment happens
once, and everybody who asked about it is told the same.

Each payment is tried one to five times at once under one key, at both gateways in any mixture; each try goes on until it
has an outcome, through lost connections, refused ones and answers without an outcome. The seed is printed;
CLEARLINE_FAULT_SEED repeats a run's plan, CLEARLINE_TEST_UNSURE sets the number of payments.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import uvloop

from clearline import keys
from clearline.config import load_settings
from clearline.connection import Connection, connect
from clearline.stack import Stack
from schemas.identity import partition_of
from schemas.records import AccountState, AdmitPartner, JournalRecord, OpenAccount, Posting, Transaction
from streams.reader import read_to_end
from streams.table import Table
from tests.lean_http import LeanClient
from tests.sink_servers import wait_for

PAYMENTS = int(os.environ.get("CLEARLINE_TEST_UNSURE") or 10_000)
GATEWAYS = 2
PARTNERS = 8
ACCOUNTS = 10  # of each partner
FUNDS = 10**9
TRIES_MAX = 5
AT_ONCE = 64  # payments that are being tried at a time
POOR_EVERY = 25  # one payment in so many asks for more than its payer has
CHANGED_EVERY = 50  # under one key in so many another payload is tried afterwards
PATIENCE_S = 600.0  # one try, through kills and restarts: no more than an end to a run that hangs
SILENCE_S = 60.0  # one request: then its connection counts as lost
RESTART_S = 240.0
LOG_LINES = 15  # of each gateway's log, beside an answer that nobody expected
REFUSED = "insufficient_funds"


@dataclass(frozen=True, slots=True)
class Payment:
    """What is asked for under one key."""

    key: str
    partner_id: str
    payer: str
    payee: str
    amount: int
    tries: int

    @property
    def poor(self) -> bool:
        return self.amount > FUNDS * ACCOUNTS

    def body(self, amount: int | None = None) -> bytes:
        return json.dumps({
            "product": "wallet", "operation": "transfer", "amount": amount or self.amount, "currency": "CNY",
            "accounts": {"payer": self.payer, "payee": self.payee}, "reference": self.key,
        }).encode()  # fmt: skip


@dataclass(slots=True)
class World:
    """A stack with two gateways, the bank's partners in it, and their keys."""

    stack: Stack
    system: Connection
    urls: list[str]
    tokens: dict[str, str]
    kills: int = 0
    met: Counter[str] = field(default_factory=Counter)

    def records(self) -> list[JournalRecord]:
        """The whole journal."""
        return [self.system.codec.decode(r.value) for r in read_to_end(self.system.kafka, self.system.topics.journal)]

    def asked(self, key: str) -> list[tuple[int, int]]:
        """Where the log has the commands of a key: partition and offset of each try that arrived."""
        records = read_to_end(self.system.kafka, self.system.topics.submitted)
        found = [r for r in records if r.value is not None and key.encode() in r.value]
        return [(r.partition, r.offset) for r in found if self.system.codec.decode(r.value).idempotency_key == key]

    def logs(self) -> str:
        """What each gateway complained about last."""
        out = []
        for i in range(GATEWAYS):
            path = self.stack.folder.logs / f"gateway-{i}.log"
            lines = path.read_text(errors="replace").splitlines() if path.exists() else ["no log"]
            told = [line for line in lines if any(word in line.lower() for word in ("error", "warn", "traceback"))]
            out += [f"gateway-{i}, {self.stack.restarts(f'gateway-{i}')} restarts:", *(told or lines)[-LOG_LINES:]]
        return "\n  ".join(out)

    def accounts(self) -> dict[str, AccountState]:
        """Every partner's account as `ledger.state` has it last."""
        found: dict[str, tuple[int, AccountState]] = {}
        for r in read_to_end(self.system.kafka, self.system.topics.state):
            row = self.system.codec.decode(r.value) if r.value is not None else None
            if isinstance(row, AccountState) and row.source_offset >= found.get(row.account_id, (-1, row))[0]:
                found[row.account_id] = row.source_offset, row
        return {name: row for name, (_, row) in found.items() if not name.startswith("bank:")}


def _partner_ids() -> list[str]:
    """Partners in all partitions."""
    names = (f"partner-{i}" for i in range(1_000))
    room = dict.fromkeys(range(4), PARTNERS // 4)
    out: list[str] = []
    for name in names:
        place = partition_of(name, 4)
        if room[place]:
            room[place] -= 1
            out.append(name)
        if len(out) == PARTNERS:
            break
    return out


def _accounts_of(partner_id: str) -> list[str]:
    return [f"{partner_id}:wallet:c{i}" for i in range(ACCOUNTS)]


def plan(seed: int, number: int) -> list[Payment]:
    """The payments of a seed; those that ask for too much come on top of `number`."""
    rng = random.Random(f"unsure {seed}")
    partners = _partner_ids()
    out = []
    for i in range(number + number // POOR_EVERY):
        partner_id = rng.choice(partners)
        payer, payee = rng.sample(_accounts_of(partner_id), 2)
        amount = rng.randrange(1, 1_000) if i < number else FUNDS * ACCOUNTS + 1
        out.append(Payment(f"order-{i:06d}", partner_id, payer, payee, amount, rng.randint(1, TRIES_MAX)))
    rng.shuffle(out)
    return out


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    settings = load_settings(data_dir=tmp_path_factory.mktemp("unsure") / "data", world="unsure", partitions=4)
    settings = settings.model_copy(update={"gateway": settings.gateway.model_copy(update={"instances": GATEWAYS})})
    with Stack(settings) as stack:
        gateways = [f"gateway-{i}" for i in range(GATEWAYS)]
        stack.start(roles=["worker-0", "worker-1", "sink-clickhouse", "sink-redis", *gateways])
        system = connect(stack.resolved())
        partners = _partner_ids()
        with system.publisher() as publisher:
            publisher.publish(OpenAccount("bank", "open", "bank:clearing:CNY", "asset", "CNY", None))
            for p in partners:
                publisher.publish(AdmitPartner("bank", f"admit-{p}", p))
                for account_id in _accounts_of(p):
                    publisher.publish(OpenAccount(p, f"open-{account_id}", account_id, "liability", "CNY", 0))
                legs = [Posting("bank:clearing:CNY", "debit", FUNDS * ACCOUNTS)]
                legs += [Posting(a, "credit", FUNDS) for a in _accounts_of(p)]
                publisher.publish(Transaction(p, "fund", "deposit", "transfer", 0, "CNY", {}, tuple(legs), 20_779))
        tokens = {}
        with Table(system.kafka, system.topics.access, system.codec) as access:
            for p in partners:
                made = keys.make(
                    p, ["transact:*:*"], sandbox=False, now_ms=int(time.time() * 1000), requested_by="test"
                )
                access.put(keys.row_key(made.key.key_id), made.key)
                tokens[p] = made.token
        ports = stack.status()["ports"]
        urls = [f"http://127.0.0.1:{ports['gateway' if i == 0 else f'gateway_{i}']}" for i in range(GATEWAYS)]
        made_world = World(stack, system, urls, tokens)
        wait_for("the opening balances", lambda: len(made_world.accounts()) == PARTNERS * ACCOUNTS)
        yield made_world


class _Killer:
    """Kills a gateway, waits until it serves again, lets a moment pass, and kills the next one."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._rng = random.Random(f"kills {seed}")
        self._ended = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            while not self._ended.wait(self._rng.uniform(0.5, 3.0)):
                name = f"gateway-{self._rng.randrange(GATEWAYS)}"
                before = self._world.stack.restarts(name)
                self._world.stack.kill(name)
                self._world.kills += 1
                self._world.stack.wait_restarted(name, before, RESTART_S)
        except Exception as e:
            self._error = e

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(RESTART_S + 30)
        assert not self._thread.is_alive()
        assert self._error is None, f"a killed gateway did not come back: {self._error}\n  {self._world.logs()}"


class UnexpectedError(AssertionError):
    """A try that met what nobody may meet."""

    def __init__(self, payment: Payment, why: str) -> None:
        super().__init__(why)
        self.payment = payment


class _Tries:
    """All tries of all payments, in one event loop."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._rng = random.Random(f"tries {seed}")
        self._clients = [LeanClient(url) for url in world.urls]
        self._room = asyncio.Semaphore(AT_ONCE)
        self.answers: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        self.conflicts: dict[str, list[str]] = {}

    async def run(self, payments: list[Payment]) -> None:
        """Raises UnexpectedError with the first that there was."""
        try:
            async with asyncio.TaskGroup() as group:
                for i, payment in enumerate(payments):
                    await self._room.acquire()
                    group.create_task(self._pay(payment, changed=i % CHANGED_EVERY == 0))
        except* Exception as found:
            raise _first(found) from None
        finally:
            for client in self._clients:
                await client.close()

    async def _pay(self, payment: Payment, *, changed: bool) -> None:
        try:
            clients = [self._rng.choice(self._clients) for _ in range(payment.tries)]
            self.answers[payment.key] += await self._all(payment, payment.body(), clients)
            if changed:
                told = await self._all(payment, payment.body(payment.amount + 1), self._clients)
                self.conflicts[payment.key] = [f"{status} {json.loads(body)['code']}" for status, body in told]
        finally:
            self._room.release()

    async def _all(self, payment: Payment, body: bytes, clients: list[LeanClient]) -> list[tuple[int, bytes]]:
        async with asyncio.TaskGroup() as group:
            tries = [group.create_task(self._try(payment, body, client)) for client in clients]
        return [t.result() for t in tries]

    async def _try(self, payment: Payment, body: bytes, client: LeanClient) -> tuple[int, bytes]:
        """Asks until there is an outcome, the next time perhaps at another gateway."""
        headers = {
            "Authorization": f"Bearer {self._world.tokens[payment.partner_id]}", "Content-Type": "application/json",
            "Idempotency-Key": payment.key, "Prefer": f"wait={self._rng.choice((0, 1, 10, 10, 10))}",
        }  # fmt: skip
        began, pause_s = time.monotonic(), 0.05
        met: list[str] = []
        while True:
            asked = time.monotonic()
            try:
                reply = await client.request("POST", "/v1/transactions", headers, body, SILENCE_S)
            except (ConnectionError, TimeoutError) as e:
                what = f"{'silent' if isinstance(e, TimeoutError) else 'lost'} {client.port}"
            else:
                if reply.status in (201, 422):
                    self._world.met.update(m.rpartition(" after ")[0] for m in met)
                    return reply.status, reply.body
                what = f"{reply.status} of {client.port}"
                if reply.status not in (202, 429, 503):
                    raise UnexpectedError(payment, f"{reply}, after {headers['Prefer']} and {met or 'nothing'}")
            met.append(f"{what} after {time.monotonic() - asked:.1f} s")
            if time.monotonic() > began + PATIENCE_S:
                raise UnexpectedError(payment, f"no outcome after {PATIENCE_S:.0f} s; {headers['Prefer']}, met {met}")
            await asyncio.sleep(self._rng.uniform(pause_s / 2, pause_s))
            pause_s = min(1.0, pause_s * 2)
            client = self._rng.choice(self._clients)


def _first(found: BaseExceptionGroup) -> BaseException:
    """The first of all that went wrong: what was cancelled because of it tells nothing."""
    error: BaseException = found
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _explained(world: World, seed: int, e: UnexpectedError) -> str:
    """All that is known of the payment, and what the gateways say."""
    journal = [(r.source_partition, r.source_offset, r.outcome, r.reason) for r in world.records()
               if r.idempotency_key == e.payment.key]  # fmt: skip
    return (
        f"seed {seed}, {world.kills} kills, {e.payment}\n  {e}\n  the log has it at {world.asked(e.payment.key)}, "
        f"the journal {journal}\n  {world.logs()}"
    )


@pytest.mark.stack
@pytest.mark.timeout(1_500)
def test_each_payment_happens_once_and_everybody_is_told_the_same(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("CLEARLINE_FAULT_SEED") or random.SystemRandom().randrange(1_000_000))
    payments = plan(seed, PAYMENTS)
    began = time.monotonic()

    async def load() -> _Tries:
        tries = _Tries(world, seed)
        await tries.run(payments)
        return tries

    with capsys.disabled():
        print(f"\nunsure clients: seed {seed}, {len(payments)} payments, {sum(p.tries for p in payments)} tries")
        with _Killer(world, seed):
            try:
                tries = uvloop.run(load())
            except UnexpectedError as e:
                pytest.fail(_explained(world, seed, e))
        took = time.monotonic() - began
        print(f"{took:.0f} s, {world.kills} gateways killed, met on the way: {dict(world.met)}", flush=True)

    assert world.kills > 0
    _told_the_same(payments, tries)
    _happened_once(payments, world.records())
    _to_the_cent(payments, world.accounts())


def _told_the_same(payments: list[Payment], tries: _Tries) -> None:
    """One answer for all tries of a key; another payload under it is told that it is another."""
    for p in payments:
        told = tries.answers[p.key]
        assert len(told) == p.tries
        assert len(set(told)) == 1, (p, set(told))
        status, body = told[0]
        document = json.loads(body)
        if p.poor:
            assert (status, document["code"]) == (422, REFUSED)
            document = document["transaction"]
        else:
            assert (status, document["status"]) == (201, "settled")
        assert (document["idempotency_key"], document["amount"]) == (p.key, p.amount)
    assert len(tries.conflicts) == -(-len(payments) // CHANGED_EVERY)
    assert {c for told in tries.conflicts.values() for c in told} == {"422 idempotency_conflict"}


def _happened_once(payments: list[Payment], journal: list[JournalRecord]) -> None:
    """Each payment that could be made is one entry of the journal, each that could not is one refusal."""
    settled = Counter(r.idempotency_key for r in journal if r.outcome == "settled" and r.idempotency_key != "fund")
    assert settled == Counter(p.key for p in payments if not p.poor)
    assert len(settled) == PAYMENTS
    refused = Counter(r.idempotency_key for r in journal if r.outcome == "rejected" and r.reason == REFUSED)
    assert refused == Counter(p.key for p in payments if p.poor)
    others = {r.reason for r in journal if r.outcome == "rejected"} - {REFUSED}
    assert others <= {"idempotency_conflict"}


def _to_the_cent(payments: list[Payment], accounts: dict[str, AccountState]) -> None:
    """Balances are what the payments come to, each counted once."""
    expected = {a: FUNDS for p in _partner_ids() for a in _accounts_of(p)}
    for p in payments:
        if not p.poor:
            expected[p.payer] -= p.amount
            expected[p.payee] += p.amount
    assert {name: a.credits_posted - a.debits_posted for name, a in accounts.items()} == expected


def test_a_seed_is_a_plan() -> None:
    assert plan(7, 100) == plan(7, 100) != plan(8, 100)
    payments = plan(7, 100)
    assert sum(p.poor for p in payments) == 4
    assert {p.tries for p in payments} == set(range(1, TRIES_MAX + 1))
