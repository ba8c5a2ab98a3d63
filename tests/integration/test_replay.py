"""Replays on a real broker and real stores while traffic goes on: the same hash twice, exactly the transactions that a
rule changes, kill -9 and cancel, plans of two persons in the journal, and projections built anew before readers' eyes.

One world for all of it, settled by a real worker, followed by both sinks; the traffic never ends before the last test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from clearline.config import Settings, load_settings, settings_env
from clearline.connection import clickhouse_config
from clearline.product_file import read_product
from clearline.replay import diff, live, progress, rebuild, run
from clearline.replay.run import CancelledError, Run
from clearline.replay.selection import Selection
from clearline.replay.session import Session, open_session
from clearline.stack import CHECKOUT
from sinks import migrate
from sinks.balances import Balances, RedisConfig
from sinks.clickhouse import Database
from streams.clients import KafkaConfig
from streams.registry import Registry
from streams.topics import Topics, create_topics
from tests.integration.conftest import World
from tests.replay_world import commands, pay, wallet_document
from tests.sink_roles import Role
from tests.sink_servers import ClickHouseServer, ValkeyServer, wait_for

pytestmark = pytest.mark.stack

PARTNERS = ("acme", "zeta", "kite", "mint", "oaks", "pine")
TRANSFERS = 6_000
EVERY = 100  # each so many transfers one is above the bound
FREE, FEE = 1_000, 7
K = TRANSFERS // EVERY


@dataclass
class Live:
    """The running world. `rules`: a file in which transfers above FREE cost FEE."""

    world: World
    settings: Settings
    session: Session
    rules: Path
    redis: RedisConfig
    stop: threading.Event = field(default_factory=threading.Event)
    sent: int = 0

    def traffic(self) -> None:
        """Small transfers, about 100 a second, in all partitions and between them."""
        with self.world.publisher() as publisher:
            while not self.stop.wait(0.01):
                payer = PARTNERS[self.sent % len(PARTNERS)]
                payee = PARTNERS[(self.sent * 7 + 1) % len(PARTNERS)]
                publisher.publish(pay(f"{payer}:purse", f"{payee}:box", 1 + self.sent % 50))
                self.sent += 1

    def begin(self, plan: Any, **who: str) -> Run:
        return run.begin(self.session.root, plan, **who)

    def do(self, plan: Any) -> tuple[dict[str, Any], Run]:
        one = self.begin(plan)
        return self.session.execute(one, lambda _: False), one

    def command(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """`clearline replay ...` as a person runs it."""
        own = {**os.environ, **settings_env(self.settings), "PYTHONPATH": str(CHECKOUT), **env}
        whole = [sys.executable, "-m", "clearline", "replay", *arguments]
        return subprocess.run(whole, env=own, capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture(scope="module")
def system(broker: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("replay")
    name = f"t{uuid.uuid4().hex[:8]}"
    house, valkey = ClickHouseServer(folder), ValkeyServer(folder)
    house.start()
    valkey.start()
    settings = load_settings(
        world=name, data_dir=folder / "data", partitions=broker.partitions,
        kafka={"bootstrap": broker.kafka.bootstrap}, registry={"url": broker.registry.url},
        clickhouse={"host": "127.0.0.1", "port": house.port, "http_port": house.http_port, "database": f"c_{name}"},
        redis={"url": f"redis://127.0.0.1:{valkey.port}/0"},
    )  # fmt: skip
    kafka, topics = KafkaConfig(str(broker.kafka.bootstrap)), Topics(name)
    create_topics(kafka, topics, broker.partitions)
    store, redis = house.config(f"c_{name}"), valkey.config(name)
    migrate.apply(store)
    world = World(settings, kafka, topics, Registry(str(broker.registry.url)).codec(), folder)
    world.start()
    addresses = str(broker.kafka.bootstrap), str(broker.registry.url), name
    roles = [Role(*addresses, s, folder / f"{type(s).__name__}.json") for s in (store, redis)]
    sinks = [role.start() for role in roles]
    rules = folder / "new.yaml"
    rules.write_text(wallet_document(FREE, FEE))
    plain = folder / "wallet.yaml"
    plain.write_text(wallet_document(10**15, 0))
    with world.publisher() as publisher:
        for command in commands(read_product(plain).text, PARTNERS, TRANSFERS, every=EVERY, free=FREE):
            publisher.publish(command)
        publisher.flush()
    world.outcomes(publisher.acknowledged)
    found = Live(world, settings, open_session(settings), rules, redis)

    def supervise() -> None:
        """A sink that a rebuild has locked out ends; whoever supervises it starts it again."""
        while not found.stop.wait(0.2):
            for i, role in enumerate(roles):
                if not sinks[i].is_alive():
                    sinks[i] = role.start()

    threads = [threading.Thread(target=target) for target in (found.traffic, supervise)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found.stop.set()
        for thread in threads:
            thread.join()
        world.kill()
        for sink in sinks:
            sink.kill()
        house.stop()
        valkey.stop()


def test_a_whole_log_twice_under_traffic_has_one_hash_and_leaves_the_live_one(system: Live) -> None:
    plan, marks = system.session.plan(Selection())
    one = system.begin(plan)
    first = system.session.execute(one, lambda _: False, marks)
    second, other = system.do(plan)
    assert first["hash"] == second["hash"] and one.diff_path.read_bytes() == other.diff_path.read_bytes()
    assert not diff.differs(first) and first["commands"] == plan.commands > TRANSFERS
    assert one.found["live_untouched"] and other.found["live_untouched"]
    assert one.found["state_equal"] and all(one.found["state_equal"].values())
    for p, mark in marks.items():
        assert first["partitions"][str(p)]["shadow_chain"] == mark.head.chain.hex()
    now = system.session.marks(list(marks))
    assert sum(m.head.received for m in now.values()) > plan.commands, "traffic went on meanwhile"


def test_a_rule_for_k_transactions_killed_and_resumed_makes_a_diff_of_these_k(system: Live, tmp_path: Path) -> None:
    """Plan by one person, approved by another, both in the journal; kill -9 in the middle; resumed to the same bytes."""
    file = tmp_path / "plan.json"
    asked = ("--out", str(file), "--by", "li", "--note", "a fee?", "--json")
    planned = system.command("plan", "--rules", str(system.rules), *asked)
    assert planned.returncode == 0, planned.stderr
    digest = json.loads(planned.stdout)["sha256"]
    refused = system.command("apply", str(file), "--by", "li", "--approved-by", "li", "--note", "yes")
    assert refused.returncode == 2 and "another one" in refused.stderr
    approved = ("apply", str(file), "--approved-by", "wang", "--note", "as agreed", "--json")
    killed = system.command(*approved, CLEARLINE_FAILPOINTS="replay.after_batch=kill@2")
    assert killed.returncode == -9
    (stopped,) = [r for r in run.runs(system.session.root) if r.state == run.STOPPED]
    assert stopped.approved_by == "wang" and stopped.total > 0
    resumed = system.command("resume", stopped.id, "--json")
    assert resumed.returncode == 1, resumed.stderr
    found = json.loads(resumed.stdout)["summary"]
    assert (found["transactions_changed"], found["direct"], found["consequent"], found["drift"]) == (K, K, 0, 0)
    whole, other = system.do(stopped.plan)
    assert whole == found and other.diff_path.read_bytes() == stopped.diff_path.read_bytes()
    changes = json.loads(other.diff_path.read_bytes())["changes"]
    amounts = {c["old"]["postings"][0]["amount"] for c in changes if c["old"].get("postings")}
    assert min(amounts) > FREE and sum(d["credits"] for d in found["deltas"] if d["account_id"] == "bank:fees:CNY")
    acts = [r for r in system.world.journal() if r.command == "OperatorAct"]
    assert [(r.changes["act"], r.changes["digest"], r.outcome) for r in acts] == [
        ("replay.plan", digest, "applied"), ("replay.apply", digest, "applied"),
    ]  # fmt: skip
    assert acts[1].changes["approved_by"] == "wang"


def test_a_replay_is_cancelled_from_elsewhere_and_leaves_the_live_hash(
    system: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearline.replay.partition.BATCH_RECORDS_MAX", 200)
    monkeypatch.setattr(run, "TELL_S", 0.0)
    plan, marks = system.session.plan(Selection())
    one, store = system.begin(plan), system.session.settings
    config = clickhouse_config(store)

    def watch(r: Run) -> bool:
        if r.done > 1_000 and r.state == run.RUNNING and not asked:
            assert [x.id for x in progress.running(config)] == [one.id]
            asked.append(progress.cancel(config, one.id, "li"))
        return False

    asked: list[object] = []
    with pytest.raises(CancelledError):
        system.session.execute(one, watch, marks)
    assert 1_000 < one.done < plan.commands
    (row,) = [x for x in progress.replays(config) if x.id == one.id]
    assert row.state == run.CANCELLED and progress.running(config) == []
    eyes = system.session.eyes
    after = live.again(eyes.log, eyes.ground.codec, eyes.decode, marks, {})
    assert live.hash_of(after.values()) == live.hash_of(marks.values())
    done, _ = one, system.session.execute(run.find(system.session.root, one.id), lambda _: False)
    assert run.find(system.session.root, done.id).state == run.DONE


@contextmanager
def polled(look: Callable[[], None]) -> Iterator[list[str]]:
    """Looks again and again in a thread of its own; what was wrong, or `seen` for each look that was right."""
    said: list[str] = []
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(0.02):
            try:
                look()
                said.append("seen")
            except AssertionError as e:
                said.append(str(e))

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield said
    finally:
        stop.set()
        thread.join()


def test_projections_are_built_anew_and_no_reader_ever_misses_a_row(system: Live) -> None:
    config = clickhouse_config(system.settings)
    reader, redis = Database(config), Balances(system.redis)
    sums = f"SELECT (SELECT count() FROM {config.database}.outcomes), " + ", ".join(
        f"(SELECT sum(amount) FROM {config.database}.postings WHERE side = '{side}')" for side in ("debit", "credit")
    )
    least = [0]

    def no_row_is_missing() -> None:
        count, debits, credits_ = reader.rows(sums)[0]
        assert count >= least[0], f"{count} outcomes, {least[0]} before"
        assert debits == credits_, f"{debits} and {credits_}"
        least[0] = count

    def no_balance_is_missing() -> None:
        for partner in PARTNERS:
            assert redis.balance(f"{partner}:purse") is not None, f"{partner} has no balance"

    def caught_up() -> bool:
        return bool(reader.rows(sums)[0][0] > TRANSFERS and redis.balance("pine:purse"))

    wait_for("both sinks", caught_up)
    with polled(no_row_is_missing) as rows, polled(no_balance_is_missing) as balances:
        house = rebuild.rebuild(system.settings, "clickhouse", "li", lambda *_: None)
        quick = rebuild.rebuild(system.settings, "redis", "li", lambda *_: None)
    assert house.equal and quick.equal, (house.differences, quick.differences)
    assert {name.split()[0] for name in house.repaired.months} >= {"postings", "pending", "outcomes", "control_changes"}
    assert len(quick.repaired.accounts) >= 2 * len(PARTNERS)
    assert set(rows) == {"seen"} and set(balances) == {"seen"}, [x for x in (*rows, *balances) if x != "seen"][:3]
    kinds = {r.subject: r.state for r in progress.replays(config) if r.kind == "rebuild"}
    assert kinds == {"clickhouse": run.DONE, "redis": run.DONE}
    reader.close()
    redis.close()


def test_the_traffic_went_on_all_the_time(system: Live) -> None:
    before = system.sent
    wait_for("more traffic", lambda: system.sent > before + 20)
