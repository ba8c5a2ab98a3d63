"""Payments between partitions on the real broker, with kill -9 at every fail point of settlement: each is settled once or
rejected once, no money is lost or doubled, nothing stays under way, and the auditor agrees with every record."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from clearline.audit.contract import Terms
from clearline.audit.live import LiveLog
from clearline.audit.stores import ClickHouseEntries
from clearline.audit.verify import verify_world
from processors.finality import decides
from schemas.failpoints import SETTLEMENT
from schemas.identity import owner_of, partition_of, root_of
from schemas.records import (
    AccountState,
    AdmitPartner,
    BlockAccount,
    Command,
    JournalRecord,
    OpenAccount,
    Posting,
    Reply,
    Transaction,
)
from sinks import migrate
from sinks.ledger_sink import Arrival, LedgerSink
from streams.reader import read_to_end
from streams.topics import topic_ids
from tests.integration.conftest import World
from tests.sink_servers import ClickHouseServer, wait_for

PARTNERS = ("acme", "zeta", "umbrella", "globex")  # in partitions 0 to 3 of four
FUNDS = 1_000_000
DAY = 20_000


def transfer(key: str, amount: int, payer: str, payee: str) -> Transaction:
    roles = {"payer": payer, "payee": payee}
    return Transaction(owner_of(payer), key, "wallet", "transfer", amount, "CNY", roles, (), DAY)


def opening() -> list[Command]:
    """Each partner with two wallets, the first one filled; zeta's second takes no money."""
    out: list[Command] = [OpenAccount("bank", "clearing", "bank:clearing:CNY", "asset", "CNY")]
    for p in PARTNERS:
        out.append(AdmitPartner("bank", f"admit-{p}", p))
        out += [OpenAccount("bank", f"open-{p}-{w}", f"{p}:w:{w}", "liability", "CNY", 0) for w in "ab"]
        fund = transfer(f"fund-{p}", FUNDS, "bank:clearing:CNY", f"{p}:w:a")
        out.append(Transaction(p, *[getattr(fund, f) for f in fund.__struct_fields__[1:]]))
    return [*out, BlockAccount("bank", "block", "zeta:w:b", False, True)]


def crossing(name: str, count: int) -> list[Transaction]:
    """Payments round the partitions in both directions, some to an account that refuses them, some to three at once."""
    out = []
    for i in range(count):
        at = i % len(PARTNERS)
        payer, payee = PARTNERS[at], PARTNERS[(at + (1 if i % 8 < 4 else -1)) % len(PARTNERS)]
        to = "zeta:w:b" if payee == "zeta" and i % 3 == 0 else f"{payee}:w:a"
        out.append(transfer(f"{name}-{i}", 1 + i, f"{payer}:w:a", to))
    others = [Posting(f"{p}:w:a", "credit", 5, "CNY") for p in PARTNERS[1:]]
    legs = (Posting("acme:w:a", "debit", 15, "CNY"), *others)
    out.append(Transaction("acme", f"{name}-all", "wallet", "transfer", 0, "CNY", {}, legs, DAY))
    return out


def finals(records: list[JournalRecord]) -> dict[tuple[str, str], list[JournalRecord]]:
    """The last words on what crossed, by partner and key."""
    out: dict[tuple[str, str], list[JournalRecord]] = {}
    for r in records:
        if decides(r):
            out.setdefault((r.partner_id, r.idempotency_key), []).append(r)
    return out


def state(world: World) -> dict[tuple[int, bytes], bytes]:
    """The rows of ledger.state as they stand."""
    out: dict[tuple[int, bytes], bytes] = {}
    for r in read_to_end(world.kafka, world.topics.state):
        assert r.key is not None
        if r.value is None:
            out.pop((r.partition, r.key), None)
        else:
            out[r.partition, r.key] = r.value
    return out


def test_kill_9_at_every_step_leaves_every_payment_whole(world: World) -> None:
    with world.publisher() as publisher:
        for c in opening():
            publisher.publish(c)
    assert [partition_of(p, 4) for p in PARTNERS] == [0, 1, 2, 3]
    world.start(0)
    world.start(1)
    world.outcomes(21)
    asked: list[Transaction] = []

    def pay_more() -> None:
        payments = crossing(f"k{len(asked)}", 16)
        for i, t in enumerate(payments):
            publisher.publish(t, reply_to=i % 4)
        asked.extend(payments)

    with world.publisher() as publisher:
        for n, point in enumerate(SETTLEMENT):
            slot = n % 2
            world.kill(slot)
            for hit in (1, 2):
                world.start(slot, CLEARLINE_FAILPOINTS=f"{point}=kill@{hit}")
                die_paying(world, slot, f"a kill at {point}", pay_more)
            world.start(slot)
    wait_for("the last word on all payments", lambda: len(finals(world.journal())) == len(asked))
    records = world.journal()
    ends = finals(records)
    assert {(t.partner_id, t.idempotency_key) for t in asked} == set(ends)
    assert [k for k, found in ends.items() if len(found) != 1] == []
    refused = [r for (r,) in ends.values() if r.outcome == "rejected"]
    assert {r.reason for r in refused} == {"credits_blocked"}
    wanted = [t for t in asked if t.accounts.get("payee") == "zeta:w:b"]
    assert sorted(r.idempotency_key for r in refused) == sorted(t.idempotency_key for t in wanted)
    wait_for("nothing under way", lambda: not [k for _, k in state(world) if k.startswith(b"x:")])
    assert_balances(world, asked, {k: r.outcome for k, (r,) in ends.items()})
    assert_replies(world, asked, ends)
    with clickhouse_of(world) as entries:
        log = LiveLog(world.kafka, world.topics, world.settings.partitions)
        terms = Terms(world.settings.partitions, world.settings.settlement.message_bytes_max)
        verdict = verify_world(world.settings.world, log, world.codec.decode, terms, entries=entries, drained=True)
    assert verdict.ok, [d for c in verdict.checks for d in c.differences]


def die_paying(world: World, slot: int, what: str, pay_more: Callable[[], None]) -> None:
    """Publishes more and more until the worker of a slot is killed: whoever had its partitions meanwhile, some are its
    own again when it is up."""
    worker = world.workers[slot]

    def dead() -> bool:
        if worker.poll() is None:
            pay_more()
            with suppress(subprocess.TimeoutExpired):
                worker.wait(0.5)
        return worker.poll() is not None

    wait_for(what, dead)
    assert worker.returncode == -signal.SIGKILL, what


@contextmanager
def clickhouse_of(world: World) -> Iterator[ClickHouseEntries]:
    """A ClickHouse into which the sink has written the whole journal."""
    server = ClickHouseServer(world.folder)
    server.start()
    try:
        config = server.config(f"clearline_{world.settings.world}")
        migrate.apply(config)
        topic = f"{world.topics.journal}@{topic_ids(world.kafka, [world.topics.journal])[world.topics.journal]}"
        sink = LedgerSink(config, topic, world.codec)
        sink.take_over()
        sink.write([Arrival(r.partition, r.offset, r.value) for r in read_to_end(world.kafka, world.topics.journal)])
        sink.close()
        yield ClickHouseEntries(config, topic)
    finally:
        server.stop()


def assert_balances(world: World, asked: list[Transaction], outcomes: dict[tuple[str, str], str]) -> None:
    """Every account stands where the settled payments say, transit at zero over all partitions, nothing is pending."""
    must = {f"{p}:w:a": FUNDS for p in PARTNERS} | {f"{p}:w:b": 0 for p in PARTNERS}
    for t in asked:
        if outcomes[t.partner_id, t.idempotency_key] == "settled":
            pairs = (
                [(t.accounts["payer"], "debit", t.amount), (t.accounts["payee"], "credit", t.amount)]
                if t.accounts
                else []
            )
            for account, side, amount in pairs or [(p.account_id, p.side, p.amount) for p in t.postings]:
                must[account] += amount if side == "credit" else -amount
    have: Counter[str] = Counter()
    for (_, key), raw in state(world).items():
        if key.startswith(b"a:"):
            a: AccountState = world.codec.decode(raw)
            assert a.debits_pending == a.credits_pending == 0, a
            have[a.account_id] += a.credits_posted - a.debits_posted
    assert {k: v for k, v in have.items() if root_of(owner_of(k)) != "bank"} == must
    assert have["bank:crossing:CNY"] == 0
    assert sum(have.values()) == 0


def assert_replies(
    world: World, asked: list[Transaction], ends: dict[tuple[str, str], list[JournalRecord]]
) -> None:  # fmt: skip
    """Who waits was answered once, with the last word."""
    replies: dict[tuple[str, str], list[str]] = {}
    for r in read_to_end(world.kafka, world.topics.replies):
        reply: Reply = world.codec.decode(r.value)
        replies.setdefault((reply.partner_id, reply.idempotency_key), []).append(reply.outcome)
    assert replies == {key: [found[0].outcome] for key, found in ends.items()}
