"""Redis on purpose: killed, emptied, full, slow, and full while it is built up again, under load. Settlement never waits
for it, the view becomes whole again from the log, and what is stale meanwhile says how far it goes.

    python -m tests.faults.redis_view [--seed N] [--rounds N] [--balances N] [--rate N]

First `--balances` accounts are opened, so that a rebuild has something to do; its time is printed, and passes at 60 s per
100,000. Each fault ends by itself only after every partition has settled what came after its beginning. Exit codes are
those of `tests.faults.run`; 3 also when there is no Toxiproxy (tests/faults/toxiproxy.py).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from redis import Redis

from clearline.bootstrap import prepare_world
from clearline.connection import connect, redis_config, registry_of
from clearline.embedded.probes import HOST
from clearline.embedded.process import ProcessSpec
from clearline.lag import unsettled
from schemas.errors import ClearlineError
from schemas.identity import owner_of, partition_of
from schemas.records import AccountState, AdmitPartner, Command, JournalRecord, OpenAccount, PartitionState
from sinks.balance_reader import BalanceReader
from sinks.balances import Balances, Shard, encode_shard
from streams.reader import committed_offsets, end_offsets, read_to_end
from streams.sink_host import rebuild_redis
from tests.faults.network import ROLES
from tests.faults.plan import Plan, seed_or_drawn
from tests.faults.run import BACK_S, FaultRun
from tests.faults.stack import FaultStack, fault_settings, wait_for
from tests.faults.storm import Gaps
from tests.faults.toxiproxy import Toxiproxy, find_server_or_tell
from tests.faults.watch import JournalWatch
from tests.kafka_cluster import free_ports

FAULTS = ("kill", "flushall", "full", "slow", "full in a rebuild")
ROLE = "sink-redis"
REBUILD_S_PER_100_000 = 60.0
LATENCY_MS = 500
_PARTNERS = 40
_READ = 100  # accounts that are read while Redis is stale


class RedisRun(FaultRun):
    """One run. `rounds`: how often each fault comes; `balances`: accounts that are there before the first one."""

    def __init__(
        self, plan: Plan, data_dir: Path, server: Path, rounds: int, balances: int, say: Callable[[str], None] = print
    ) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        super().__init__(plan, data_dir / "stack", "", say)
        rnd = random.Random(f"redis {plan.seed}")
        self.todo = [f for _ in range(rounds) for f in rnd.sample(FAULTS, len(FAULTS))]
        self.done = 0
        self.longest_s = 0.0
        self.stale = 0  # answers that were older than the ledger and said so
        self._rnd, self._opened = rnd, balances
        proxied, control = free_ports(2)
        self._proxied = proxied
        self._proxies = Toxiproxy(server, control)
        self.stack = _Proxied(fault_settings(data_dir / "stack"), None)
        self.stack.redis_url = f"redis://{HOST}:{proxied}/0"

    # ---- the run -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        at = self.stack.start()
        self._proxies.proxy("redis", self._proxied, int(at.redis_url.rpartition(":")[2].partition("/")[0]))
        self.settings = self.stack.resolved()
        prepare_world(self.settings)
        self.stack.start_roles(list(ROLES))
        self.link = connect(self.settings)
        self._watch = JournalWatch(self.link.kafka, self.link.topics.journal)
        self.watch.start()
        self._note("the stack serves, with a proxy before Redis")
        began = time.monotonic()
        with self.link.publisher(600.0) as publisher:
            for command in _accounts(self._opened):
                publisher.publish(command)
        wait_for("the accounts to be settled", self._all_settled, 600.0, 0.5)
        self._in_redis(600.0)
        self._note(f"{self._opened:,} accounts opened and in Redis after {time.monotonic() - began:.1f} s")

    def _both_tracks(self, publisher: subprocess.Popen[bytes]) -> None:
        gaps = Gaps(self.watch, self.settings.partitions)
        gaps.start()
        try:
            for fault in self.todo:
                self._settles_everywhere()
                self._one(fault)
                self.done += 1
                if publisher.poll() is not None:
                    self.report.problems.append(f"the publisher ended early, with exit code {publisher.returncode}")
                    return
            self._by_command()
            if not self.stale:
                self.report.problems.append("no answer was ever stale: that run says nothing of stale answers")
        except (ClearlineError, TimeoutError) as e:
            self.report.late.append(f"fault {self.done + 1}: {e}")
            self._given_up.set()
        finally:
            gaps.stop()
            self.longest_s = max(gaps.longest.values())

    def _one(self, fault: str) -> None:
        began, moment = time.monotonic(), time.time_ns() // 1_000_000
        heal = getattr(self, "_begin_" + fault.replace(" ", "_"))()
        everywhere = list(range(self.settings.partitions))
        wait_for("settlement beside it", lambda: self.watch.settled_since(moment, everywhere), BACK_S)
        settled = time.monotonic() - began
        heal()
        healed = time.monotonic()
        self._caught_up_all(BACK_S)
        took = time.monotonic() - healed
        self._sample(f"redis {fault}", took)
        accounts = self._equal(fault)
        self._note(
            f"{fault}: settled beside it after {settled:.1f} s; {accounts:,} balances whole {took:.1f} s after its end"
        )

    def _stop(self) -> None:
        try:
            super()._stop()
        finally:
            self._proxies.__exit__(None, None, None)

    # ---- faults: each is there when it returns, and returns what ends it ---------------------------------------------

    def _begin_kill(self) -> Callable[[], None]:
        before = self.stack.shoot("redis")
        return lambda: self.stack.wait_restarted("redis", before, BACK_S)

    def _begin_flushall(self) -> Callable[[], None]:
        began = time.monotonic()
        self._flush_redis()

        def rebuilt() -> None:
            wait_for("the view to be whole", self._whole, BACK_S)
            self._timed_rebuild("by the sink", time.monotonic() - began)

        return rebuilt

    def _begin_full(self) -> Callable[[], None]:
        """No byte more: what is written is refused, what is there is read."""
        self._limit_memory(0.99)
        wait_for("the sink to be refused", self._refused, BACK_S)
        self._stale_answers()
        return lambda: self._limit_memory(0)

    def _begin_slow(self) -> Callable[[], None]:
        self._proxies.poison("redis", "latency", "downstream", latency=LATENCY_MS)
        return self._proxies.heal

    def _begin_full_in_a_rebuild(self) -> Callable[[], None]:
        """Emptied, and there is room for half of what was there."""
        self._limit_memory(0.5, flushed=True)
        wait_for("the sink to be refused", self._refused, BACK_S)
        return lambda: self._limit_memory(0)

    def _limit_memory(self, share: float, *, flushed: bool = False) -> None:
        """To a share of what it takes at the moment; 0: no limit."""
        with Redis.from_url(self.stack.addresses().redis_url) as redis:
            info: Any = redis.info("memory")
            redis.config_set("maxmemory-policy", "noeviction")
            if flushed:
                redis.flushall()
            redis.config_set("maxmemory", int(info["used_memory"] * share))

    def _refused(self) -> bool:
        told = self.stack.figures(ROLE)
        return told.get("waiting_part") == "Redis" and "memory is full" in told.get("waiting_for", "")

    # ---- what must hold ----------------------------------------------------------------------------------------------

    def _caught_up_all(self, timeout_s: float) -> None:
        """Until every partition has settled what comes now, and Redis has it."""
        self._settles_everywhere()
        self._in_redis(timeout_s)

    def _in_redis(self, timeout_s: float) -> None:
        ends = end_offsets(self.link.kafka, self.link.topics.state)
        wait_for(f"{ROLE} to have it", lambda: self._verified(ends), timeout_s)

    def _all_settled(self) -> bool:
        kafka, topics = self.link.kafka, self.link.topics
        ends, done = end_offsets(kafka, topics.submitted), committed_offsets(kafka, topics.group, topics.submitted)
        return not any(unsettled(kafka, topics.submitted, ends, done).values())

    def _verified(self, ends: dict[int, int]) -> bool:
        told = self.stack.figures(ROLE).get("verified", {})
        return all(int(told.get(str(p), 0)) >= end for p, end in ends.items())

    def _balances(self) -> closing[Balances]:
        return closing(Balances(redis_config(self.settings)))

    def _whole(self) -> bool:
        with self._balances() as balances:
            markers = balances.markers()
        return len(markers) == self.settings.partitions and all(m.complete for m in markers.values())

    def _equal(self, fault: str) -> int:
        """Every balance is one that the log has, and none that the marker promises is missing or older; how many."""
        with self._balances() as balances:
            markers = balances.markers()
            found = {p: balances.shards(p) for p in markers}
        logged: dict[tuple[int, str], dict[int, str]] = {}
        promised: dict[tuple[int, str], int] = {}
        for r in read_to_end(self.link.kafka, self.link.topics.state):
            state = self.link.codec.decode(r.value) if r.value is not None and (r.key or b"")[:2] == b"a:" else None
            if isinstance(state, AccountState):
                at = r.partition, state.account_id
                logged.setdefault(at, {})[state.source_offset] = encode_shard(state)
                if r.offset < markers[r.partition].next_offset:
                    promised[at] = state.source_offset
        wrong = [f"{a} in {p} is not in the log" for p, a, s in _each(found) if not _is(s, logged.get((p, a), {}))]
        wrong += [
            f"{a} in {p} is missing or older than {o}"
            for (p, a), o in promised.items()
            if a not in found.get(p, {}) or found[p][a].source_offset < o
        ]
        self.report.problems += [f"after {fault}: {x}" for x in wrong[:5]]
        return sum(map(len, found.values()))

    def _stale_answers(self) -> None:
        """What is read now says up to which command it goes, and is exactly that."""
        ids = [
            f"filled-{n % _PARTNERS:02}:a:{n}" for n in self._rnd.sample(range(self._opened), min(_READ, self._opened))
        ]
        with self._balances() as balances:
            ids += self._rnd.sample(
                sorted(a for p in range(self.settings.partitions) for a in balances.shards(p)), _READ
            )
        mine = [a for a in ids if not a.startswith("bank:")]
        self._settles_everywhere()  # business that these answers cannot know
        answers = asyncio.run(self._read(mine))
        heads = self._heads()
        journal: dict[str, list[tuple[int, int, int]]] = {}
        for r in read_to_end(self.link.kafka, self.link.topics.journal):
            record = self.link.codec.decode(r.value)
            assert isinstance(record, JournalRecord)
            for p in record.postings:
                journal.setdefault(p.account_id, []).append((record.source_offset, p.debits_posted, p.credits_posted))
        for account, (place, through, shard) in answers.items():
            last = max((x for x in journal.get(account, []) if x[0] < through), default=None, key=lambda x: x[0])
            newest = max(
                (x for x in journal.get(account, []) if x[0] <= shard.source_offset), default=None, key=lambda x: x[0]
            )
            told = (shard.debits_posted, shard.credits_posted)
            if last is not None and shard.source_offset < last[0]:
                self.report.problems.append(f"a stale answer for {account} lacks offset {last[0]} of its {through}")
            wanted = newest[1:] if newest is not None else (0, 0)
            if told != wanted:
                self.report.problems.append(f"a stale answer for {account} is {told}, must be {wanted}")
            self.stale += through < heads[place]

    async def _read(self, ids: list[str]) -> dict[str, tuple[int, int, Shard]]:
        """As a gateway reads: partition, first offset that is not in, and the account."""
        reader, out = BalanceReader(redis_config(self.settings), timeout_s=5.0), {}
        try:
            for a in ids:
                place = partition_of(owner_of(a), self.settings.partitions)
                found = await reader.shards(place, [a])
                if not found.complete or a not in found.shards:
                    self.report.problems.append(f"a full Redis does not answer for {a}")
                else:
                    out[a] = (place, found.source_next, found.shards[a])
        finally:
            await reader.close()
        return out

    def _heads(self) -> dict[int, int]:
        """First offset of each partition that is not settled, as the state has it."""
        out: dict[int, int] = {}
        for r in read_to_end(self.link.kafka, self.link.topics.state):
            if r.key == b"meta":
                state = self.link.codec.decode(r.value)
                assert isinstance(state, PartitionState)
                out[r.partition] = state.next_offset
        return out

    # ---- rebuilding --------------------------------------------------------------------------------------------------

    def _by_command(self) -> None:
        """What `clearline redis rebuild` does, beside the sink."""
        began = time.monotonic()
        rebuild_redis(self.link.kafka, self.link.topics, registry_of(self.settings), redis_config(self.settings))
        self._timed_rebuild("by command", time.monotonic() - began)
        self._caught_up_all(BACK_S)
        self._equal("a rebuild by command")

    def _timed_rebuild(self, who: str, seconds: float) -> None:
        with self._balances() as balances:
            count = sum(len(balances.shards(p)) for p in range(self.settings.partitions))
        bound = REBUILD_S_PER_100_000 * max(1.0, count / 100_000)
        self._sample(f"FLUSHALL, built up {who}", seconds)
        self._note(f"{count:,} balances built up again {who} in {seconds:.1f} s (passes at {bound:.0f} s)")
        if seconds > bound:
            self.report.late.append(f"{count:,} balances took {seconds:.1f} s {who}")


class _Proxied(FaultStack):
    """A stack whose sink reaches Redis through a proxy."""

    redis_url = ""

    def _role_spec(self, name: str) -> ProcessSpec:
        spec = super()._role_spec(name)
        if name == ROLE:
            self._environments[name]["CLEARLINE_REDIS__URL"] = self.redis_url
        return spec


def _accounts(count: int) -> Iterator[Command]:
    """Partners and their accounts, spread over the partitions."""
    for n in range(_PARTNERS):
        yield AdmitPartner("bank", f"filled-{n}", f"filled-{n:02}", f"Filled {n}")
    for n in range(count):
        partner = f"filled-{n % _PARTNERS:02}"
        yield OpenAccount("bank", f"filled-a-{n}", f"{partner}:a:{n}", "liability", "CNY", 0)


def _each(found: dict[int, dict[str, Shard]]) -> Iterator[tuple[int, str, Shard]]:
    return ((p, a, s) for p, shards in found.items() for a, s in shards.items())


def _is(s: Shard, known: dict[int, str]) -> bool:
    """Whether the log has exactly this."""
    state = AccountState(
        "", s.type, s.currency, s.min_available, s.debits_blocked, s.credits_blocked, s.closed, s.debits_pending,
        s.debits_posted, s.credits_pending, s.credits_posted, s.source_offset, s.frozen, s.credit_limit,
    )  # fmt: skip
    return known.get(s.source_offset) == encode_shard(state)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m tests.faults.redis_view", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="repeats a run; random and printed when not given")
    parser.add_argument("--rounds", type=int, default=2, help="how often each fault comes")
    parser.add_argument("--balances", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=100, help="transactions a second")
    options = parser.parse_args(arguments)
    if (server := find_server_or_tell()) is None:
        return 3
    seed = seed_or_drawn(options.seed)
    plan = Plan(seed, options.rate, 1_000, (), ())
    with tempfile.TemporaryDirectory(prefix="clearline-redis-") as scratch:
        run = RedisRun(plan, Path(scratch), server, options.rounds, options.balances)
        report = run.run()
    for line in report.lines():
        print(line, flush=True)
    print(
        f"{run.done} of {len(run.todo)} faults passed; {run.stale} stale answers, each true as of the offset it named"
    )
    gap = f"longest time without an outcome in a partition: {run.longest_s:.1f} s"
    print(f"{gap}, as seen by this process, which compares balances as well", flush=True)
    return 0 if report.ok else 1 if not report.exact else 3


if __name__ == "__main__":
    sys.exit(main())
