"""The webhook worker on a real broker with a real receiver that fails and hangs, killed at each of its steps: no event
is lost, a repeat has the same id and body, and events about one account arrive in their order."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from clearline.webhooks.events import events_of
from clearline.webhooks.interest import Event, Interest
from schemas.failpoints import WEBHOOKS
from schemas.identity import murmur2
from schemas.records import (
    AdmitPartner,
    Limit,
    OpenAccount,
    Posting,
    Redelivery,
    SetLimit,
    Subscription,
    Transaction,
    Want,
)
from streams.outbox import deliveries
from streams.table import Table
from tests.integration.conftest import World
from tests.integration.test_sinks_kafka import died, finish
from tests.journals import Line, Maker
from tests.sink_servers import wait_for
from tests.webhook_world import Receiver, WebhookRole, for_tests, subscription

pytestmark = pytest.mark.stack

ROOTS = ("p0", "p1", "p2", "p4", "p5", "p7")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    r = Receiver()
    yield r
    r.close()


@pytest.fixture
def access(world: World) -> Iterator[Table]:
    with Table(world.kafka, world.topics.access, world.codec) as table:
        yield table


def send(world: World, lines: Iterable[Line]) -> None:
    """Produces journal records as settlement does: the time of each is when it was booked."""
    p = Producer(world.kafka.producer())
    for x in lines:
        p.produce(world.topics.journal, x.value, None, x.partition, timestamp=x.record.booked_at)
        p.poll(0)
    assert p.flush(30) == 0


def subscribe(access: Table, receiver: Receiver, maker: Maker) -> list[Subscription]:
    """One subscription for each root partner, with thresholds on some of its accounts."""
    made = []
    for root in ROOTS:
        accounts = [a for _, a in maker.accounts if a.startswith((f"{root}:", f"{root}/"))][:2]
        balances = [Want(kind, a, "credit", 0) for a in accounts for kind in ("balance.below", "balance.above")]
        s = subscription(
            f"wh_{root}", root, f"{receiver.url}/{root}", ["transaction.settled", "transaction.rejected", *balances]
        )
        access.put(f"s:{s.subscription_id}", s)
        made.append(s)
    return made


def expected(lines: Iterable[Line], subscriptions: list[Subscription]) -> list[Event]:
    interest = Interest(subscriptions)
    return [e for x in lines for e in events_of(x.record, interest)]


def report_of(role: WebhookRole) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(role.ready_file.read_bytes()) if role.ready_file.exists() else {}
    return found


def check(receiver: Receiver, events: list[Event]) -> None:
    """All of them came, nothing else, signed, each time the same, and each account's in their order."""
    arrivals = receiver.seen()
    by_id = {e.event_id: e for e in events}
    assert len(by_id) == len(events)
    assert all(a.verified for a in arrivals)
    assert {a.id for a in arrivals} == set(by_id) == receiver.ids()
    assert all(a.body == by_id[a.id].body for a in arrivals)
    lines: dict[tuple[str, str], list[str]] = {}
    for a in arrivals:  # in the order in which they came; one that failed before stands for all of its tries
        e = by_id[a.id]
        line = lines.setdefault((e.subscription_id, e.ordering), [])
        if not line or line[-1] != a.id:
            line.append(a.id)
    wanted: dict[tuple[str, str], list[str]] = {}
    for e in events:
        wanted.setdefault((e.subscription_id, e.ordering), []).append(e.event_id)
    assert lines == wanted


def unkind(path: str, name: str, before: int) -> int:
    """A third of all fail twice, some hang beyond the sender's patience once, one subscription is slow."""
    n = int(name[:8], 16)
    if n % 3 == 0 and before < 2:
        return 503 if n % 2 else 302
    if n % 37 == 1 and before == 0:
        return -1_500
    return 200


def test_killed_at_every_step_nothing_is_lost_and_the_order_holds(
    world: World, receiver: Receiver, access: Table, tmp_path: Path
) -> None:
    receiver.answer = unkind
    role = WebhookRole(for_tests(world.settings), tmp_path / "ready.json")
    maker = Maker(51, partitions=4, gap=0, step_ms=1500)
    lines = maker.lines(100, world.codec)
    subscriptions = subscribe(access, receiver, maker)
    send(world, lines)
    for point in WEBHOOKS:
        hit = 1 if point in ("webhooks.after_fence", "webhooks.after_rebuild", "webhooks.after_read") else 3
        process = role.start(f"{point}=kill@{hit}")
        more = maker.lines(40, world.codec)
        lines += more
        wait_for(f"{point} to have died or begun", lambda: process.exitcode is not None or report_of(role))  # noqa: B023
        send(world, more)
        assert died(process) == -signal.SIGKILL, point
    process = role.start()
    events = expected(lines, subscriptions)
    assert len(events) > 200
    assert {e.type for e in events} == {"transaction.settled", "transaction.rejected", "balance.below", "balance.above"}
    wait_for("every event to arrive", lambda: len(receiver.ids()) >= len(events))
    wait_for("the queue to be empty", lambda: deliveries(world.kafka, world.topics, world.codec) == [])
    finish(process)
    check(receiver, events)
    assert len(receiver.seen()) > len(events), "some came again"


def test_a_worker_that_wakes_up_behind_another_writes_nothing_more(
    world: World, receiver: Receiver, access: Table, tmp_path: Path
) -> None:
    role = WebhookRole(for_tests(world.settings), tmp_path / "ready.json")
    maker = Maker(52, partitions=4, gap=0, step_ms=1500)
    lines = maker.lines(120, world.codec)
    subscriptions = subscribe(access, receiver, maker)
    send(world, lines)
    zombie = replace(role, ready_file=tmp_path / "zombie.json").start("webhooks.after_produce=stop@3")
    assert zombie.pid is not None
    wait_for("the first to stop", lambda: Path(f"/proc/{zombie.pid}/stat").read_text().split()[2] == "T")
    process = role.start()
    events = expected(lines, subscriptions)
    wait_for("the second to deliver everything", lambda: len(receiver.ids()) == len(events))
    os.kill(zombie.pid, signal.SIGCONT)
    assert died(zombie) not in (0, None), "it was fenced, and ends"
    more = maker.lines(40, world.codec)
    send(world, more)
    events += expected(more, subscriptions)
    wait_for("the second to go on", lambda: len(receiver.ids()) == len(events))
    finish(process)
    check(receiver, events)


def test_dead_after_its_days_listed_and_sent_again(
    world: World, receiver: Receiver, access: Table, tmp_path: Path
) -> None:
    """The days are a second here, and whoever is up is waited for. A restart forgets none of it, and a subscription that is deleted leaves no row."""
    down = {"/p1", "/p2"}
    receiver.answer = lambda path, _name, _before: 500 if path in down else 200
    role = WebhookRole(for_tests(world.settings, give_up_days=1 / 86_400, timeout_s=30.0), tmp_path / "ready.json")
    maker = Maker(53, partitions=4, gap=0, step_ms=1500)
    lines = maker.lines(150, world.codec)
    subscriptions = subscribe(access, receiver, maker)
    send(world, lines)
    events = expected(lines, subscriptions)
    lost = [e for e in events if e.subscription_id in ("wh_p1", "wh_p2")]
    process = role.start()
    wait_for("what cannot be delivered to be dead", lambda: report_of(role).get("dead") == len(lost) > 10)
    wait_for("the others to be delivered", lambda: len(receiver.ids()) == len(events) - len(lost))
    dead = deliveries(world.kafka, world.topics, world.codec)
    assert {d.delivery_id for d in dead} == {e.event_id for e in lost}
    assert {(d.state, d.status, d.error) for d in dead} == {("dead", 500, "answered 500")}
    assert all(d.attempts >= 1 and d.died_at for d in dead)
    finish(process)
    down.clear()
    process = role.start()
    again = [d for d in dead if d.subscription_id == "wh_p1"]
    partition = next(x.partition for x in lines if x.record.partner_id == "p1")
    for d in again:
        access.put(f"r:{d.delivery_id}", Redelivery(d.delivery_id, "wh_p1", partition, 1, "test"))
    wait_for("those to arrive", lambda: receiver.ids("/p1") == {d.delivery_id for d in again})
    wait_for("the requests to be taken", lambda: not list(access.items("r:")))
    assert receiver.ids("/p2") == set()
    gone = next(s for s in subscriptions if s.subscription_id == "wh_p2")
    access.put("s:wh_p2", msgspec.structs.replace(gone, state="deleted"))
    wait_for("its rows to go", lambda: deliveries(world.kafka, world.topics, world.codec) == [])
    finish(process)
    bodies = {e.event_id: e.body for e in events}
    assert all(a.verified and a.body == bodies[a.id] for a in receiver.seen())


def test_alerts_and_whole_documents_from_a_ledger_that_settles(
    world: World, receiver: Receiver, access: Table, tmp_path: Path
) -> None:
    """Real commands, a real settlement worker: holds and limits come from its state, documents from its log."""
    wants: list[Want | str] = [
        "transaction.settled", "transaction.rejected", "hold.expired", Want("hold.expiring", lead_s=3_600),
        Want("limit.reached", percent=50), Want("balance.below", "acme:w:a", "credit", 99_900),
    ]  # fmt: skip
    access.put("s:wh_a", subscription("wh_a", "acme", receiver.url, wants))
    role = WebhookRole(for_tests(world.settings), tmp_path / "ready.json")
    world.start()
    process = role.start()
    day = int(time.time()) // 86_400
    roles = {"payer": "acme:w:a", "payee": "acme:w:b"}

    def move(key: str, operation: str, amount: int, **fields: Any) -> Transaction:
        return Transaction("acme", key, "wallet", operation, amount, "CNY", roles, (), day, **fields)

    fund = (Posting("bank:f:CNY", "debit", 100_000), Posting("acme:w:a", "credit", 100_000))
    ground: list[Any] = [
        OpenAccount("bank", "f", "bank:f:CNY", "equity", "CNY", None), AdmitPartner("bank", "p", "acme"),
        *(OpenAccount("bank", f"o{w}", f"acme:w:{w}", "liability", "CNY", 0) for w in "ab"),
        Transaction("bank", "fund", "wallet", "adjustment", 0, "CNY", {}, fund, day, note="ground"),
        SetLimit("bank", "l", "account", "acme:w:a", (Limit("day", "CNY", None, 1_000),)),
    ]  # fmt: skip
    with world.publisher() as publisher:
        for command in ground:
            publisher.publish(command)
        publisher.flush()
    wait_for("the ground", lambda: sum(r.outcome in ("settled", "applied") for r in world.journal()) >= 8)
    now = int(time.time() * 1000)
    with world.publisher() as publisher:
        for command in (move("pay", "transfer", 600, reference="order 1"), move("over", "transfer", 900),
                        move("hold", "hold", 10, expires_at=now + 8_000), move("soon", "hold", 20, expires_at=now + 600_000)):  # fmt: skip
            publisher.publish(command)
        publisher.flush()

    def came() -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {}
        for a in receiver.seen():
            body = json.loads(a.body)
            out.setdefault(body["type"], []).append(body["data"])
        return out

    counts = {"transaction.settled": 3, "transaction.rejected": 1, "hold.expiring": 2, "hold.expired": 1,
              "limit.reached": 1, "balance.below": 1}  # fmt: skip
    wait_for("every event", lambda: {k: len(v) for k, v in came().items()} == counts)
    found = came()
    paid = next(d for d in found["transaction.settled"] if d["idempotency_key"] == "pay")
    assert (paid["amount"], paid["reference"], paid["status"]) == (600, "order 1", "settled")
    assert (found["transaction.rejected"][0]["amount"], found["transaction.rejected"][0]["reason"]) == (
        900,
        "limit_exceeded",
    )
    limit = found["limit.reached"][0]["limit"]
    assert 600 <= limit["amount"] <= 630, "the state has a row per batch, not per command"
    assert limit["amount_max"] == 1_000
    assert found["balance.below"][0]["account"]["available"] == 99_400
    assert {h["hold"]["amount"] for h in found["hold.expiring"]} == {10, 20}
    assert found["hold.expired"][0]["hold"]["amount"] == 10
    wait_for("the queue to be empty", lambda: deliveries(world.kafka, world.topics, world.codec) == [])
    process.kill()
    process.join()
    count = len(receiver.seen())
    process = role.start()
    wait_for("it to be back", lambda: report_of(role).get("pid") == process.pid and report_of(role).get("lag") == 0)
    with world.publisher() as publisher:
        publisher.publish(move("last", "transfer", 1))
        publisher.flush()
    wait_for("the next one", lambda: len(came()["transaction.settled"]) == 4)
    finish(process)
    assert len(receiver.seen()) == count + 1, "nothing that was told is told again"


def test_a_subscription_that_does_not_decode_makes_the_worker_wait_and_loses_nothing(
    world: World, receiver: Receiver, access: Table, tmp_path: Path
) -> None:
    """Its events must not be passed over, nor its rows cleared away as those of one that is gone."""
    maker = Maker(51, partitions=4, gap=0, step_ms=1500)
    made = maker.lines(100, world.codec)
    lines, more = made[:50], made[50:]
    subscriptions = subscribe(access, receiver, maker)
    role = WebhookRole(for_tests(world.settings), tmp_path / "ready.json")
    process = role.start()
    send(world, lines)
    wait_for("all to have come", lambda: receiver.ids() == {e.event_id for e in expected(lines, subscriptions)})
    key, row = f"s:{subscriptions[0].subscription_id}", subscriptions[0]
    poison = Producer(world.kafka.producer())
    poison.produce(world.topics.access, b"garbage", key.encode(), (murmur2(key.encode()) & 0x7FFFFFFF) % 4)
    assert poison.flush(10) == 0
    wait_for("the worker to wait", lambda: key in access.unreadable and report_of(role).get("ready") is False)
    send(world, more)
    access.put(key, row)
    events = expected([*lines, *more], subscriptions)
    wait_for("the rest to have come", lambda: receiver.ids() == {e.event_id for e in events})
    check(receiver, events)
    finish(process)
